"""J: what a step finds by names and in containers changes; the next calls are those of the step as it is now."""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import dataclasses
import functools
import operator
import types
from array import array
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad.compiler import bytecode


def is_followed(value: Any, read: Callable[[Any], float], change: Callable[[Any], Any]) -> None:
    """A compiled step that multiplies by what it reads does so after the change, too, and is replayed before and after it."""
    step = tg.compile(lambda x: (x * read(value)).sum())
    before = read(value)
    for _ in range(4):
        assert step(np.ones(3)).item() == 3 * before
    assert step.why_not == ""
    change(value)
    assert read(value) != before
    for _ in range(4):
        assert step(np.ones(3)).item() == 3 * read(value)
    assert step.why_not == ""


# What is defined later where Python looks first


class Defaults:
    scale = 2.0

    @property
    def doubled(self) -> float:
        return 2 * self.scale

    def method(self) -> float:
        return self.scale


class Derived(Defaults):
    pass


class Slots:
    __slots__ = ("scale",)


class Callable2:
    def __call__(self) -> float:
        return 2.0


class DerivedCallable(Callable2):
    pass


def tried(value: Any) -> float:
    try:
        return value.later  # type: ignore[no-any-return]
    except AttributeError:
        return 2.0


def suppressed(value: Any) -> float:
    with contextlib.suppress(AttributeError):
        return value.later  # type: ignore[no-any-return]
    return 2.0


def caught(value: Any) -> float:
    try:
        return value.later  # type: ignore[no-any-return]
    except:  # noqa: E722
        return 2.0


LATER: dict[str, tuple[Callable[[], Any], Callable[[Any], float], Callable[[Any], Any]]] = {
    "an attribute over one of the class": (Defaults, lambda v: v.scale, lambda v: setattr(v, "scale", 3.0)),
    "in the object's dict": (Defaults, lambda v: v.scale, lambda v: v.__dict__.update(scale=3.0)),
    "in another dict": (Defaults, lambda v: v.scale, lambda v: setattr(v, "__dict__", {"scale": 3.0})),
    "read by a property": (Defaults, lambda v: v.doubled, lambda v: setattr(v, "scale", 3.0)),
    "read by a method": (Defaults, lambda v: v.method(), lambda v: setattr(v, "scale", 3.0)),
    "over a method": (Defaults, lambda v: v.method(), lambda v: setattr(v, "method", lambda: 3.0)),
    "in a class over one of its base": (Derived, lambda v: v.scale, lambda v: setattr(Derived, "scale", 3.0)),
    "a method over one of the base": (Derived, lambda v: v.method(), lambda v: setattr(Derived, "method", lambda self: 3.0)),
    "a property over another": (Derived, lambda v: v.doubled, lambda v: setattr(Derived, "doubled", property(lambda _: 3.0))),
    "of a class itself": (lambda: Derived, lambda v: v.scale, lambda v: setattr(v, "scale", 3.0)),
    "what Python calls": (DerivedCallable, lambda v: v(), lambda v: setattr(DerivedCallable, "__call__", lambda self: 3.0)),
    "getattr": (Defaults, lambda v: getattr(v, "later", 2.0), lambda v: setattr(v, "later", 3.0)),
    "getattr, in the class": (Defaults, lambda v: getattr(v, "later", 2.0), lambda v: setattr(Defaults, "later", 3.0)),
    "hasattr": (Defaults, lambda v: 3.0 if hasattr(v, "later") else 2.0, lambda v: setattr(v, "later", 3.0)),
    "try": (Defaults, tried, lambda v: setattr(v, "later", 3.0)),
    "suppress": (Defaults, suppressed, lambda v: setattr(v, "later", 3.0)),
    "except without a class": (Defaults, caught, lambda v: setattr(v, "later", 3.0)),
    "of a function": (lambda: lambda: 0, lambda v: getattr(v, "later", 2.0), lambda v: setattr(v, "later", 3.0)),
    "a slot": (Slots, lambda v: getattr(v, "scale", 2.0), lambda v: setattr(v, "scale", 3.0)),
    "a module's": (lambda: types.SimpleNamespace(), lambda v: getattr(v, "later", 2.0), lambda v: setattr(v, "later", 3.0)),
    "a global": (dict, lambda v: globals().get("LATER_ON", 2.0), lambda v: globals().update(LATER_ON=3.0)),
    "a global over a function of Python": (dict, lambda v: float(len((1, 2))), lambda v: globals().update(len=lambda _: 3.0)),
}  # fmt: skip


@pytest.fixture
def as_before() -> Iterator[None]:
    """Classes and globals are restored."""
    classes = [(kind, dict(vars(kind))) for kind in (Defaults, Derived, DerivedCallable)]
    names = set(globals())
    yield
    for kind, before in classes:
        for name in vars(kind).keys() - before.keys():
            delattr(kind, name)
    for name in globals().keys() - names:
        del globals()[name]


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("kind", LATER)
def test_what_is_defined_later(kind: str) -> None:
    """Where Python looks before it comes to what the step has read: the next call reads it."""
    make, read, define = LATER[kind]
    is_followed(make(), read, define)


@pytest.mark.usefixtures("as_before")
def test_a_step_that_sets_an_attribute_over_one_of_the_class() -> None:
    """Its Python changes an object, so it runs uncompiled: a replay would not count."""
    value = Defaults()

    @tg.compile
    def step(x: Any) -> Any:
        value.scale += 1
        return (x * value.scale).sum()

    with pytest.warns(RuntimeWarning, match=r"runs uncompiled, because it changes closure value\.scale"):
        assert [step(np.ones(1)).item() for _ in range(5)] == [3, 4, 5, 6, 7]


# Containers whose elements Python reads


class Meta(type):
    scale = 2.0


class OfMeta(metaclass=Meta):
    pass


def plain(x: Any) -> Any:
    return x


def rotated(value: dict[str, float]) -> None:
    first = next(iter(value))
    value[first] = value.pop(first)


ROW = np.dtype([("scale", "f8"), ("count", "i4")])
CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[Any], float], Callable[[Any], Any]]] = {
    "deque": (lambda: deque([2.0]), lambda v: v[0], lambda v: (v.pop(), v.append(3.0))),
    "deque, longer": (lambda: deque([2.0]), sum, lambda v: v.append(3.0)),
    "UserDict": (lambda: UserDict(a=2.0), lambda v: v["a"], lambda v: v.update(a=3.0)),
    "UserDict, another dict": (lambda: UserDict(a=2.0), lambda v: v["a"], lambda v: setattr(v, "data", {"a": 3.0})),
    "UserString": (lambda: UserString("2"), lambda v: float(v[0]), lambda v: setattr(v, "data", "3")),
    "ChainMap, another map": (lambda: ChainMap({"a": 2.0}), lambda v: v["a"], lambda v: v.maps.insert(0, {"a": 3.0})),
    "UserList": (lambda: UserList([2.0]), lambda v: v[0], lambda v: v.__setitem__(0, 3.0)),
    "ChainMap": (lambda: ChainMap({}, {"a": 2.0}), lambda v: v["a"], lambda v: v.update(a=3.0)),
    "ChainMap, behind": (lambda: ChainMap({}, {"a": 2.0}), lambda v: v["a"], lambda v: v.maps[1].update(a=3.0)),
    "MappingProxyType": (lambda: Behind({"a": 2.0}), lambda v: v.proxy["a"], lambda v: v.mapping.update(a=3.0)),
    "Counter": (lambda: Counter(a=2), lambda v: float(v["a"]), lambda v: v.update(a=1)),
    "defaultdict": (lambda: defaultdict(lambda: 2.0), lambda v: v.get("a", 2.0), lambda v: v.update(a=3.0)),
    "OrderedDict": (lambda: OrderedDict(a=1.0, b=2.0), lambda v: [*v.values()][1], lambda v: v.move_to_end("a")),
    "order of a dict": (lambda: {"a": 1.0, "b": 2.0}, lambda v: [*v.values()][1], rotated),
    "set": (lambda: {"a"}, lambda v: 2.0 if "a" in v else 3.0, lambda v: v.remove("a")),
    "set, another element": (lambda: {2.0}, max, lambda v: (v.add(3.0), v.remove(2.0))),
    "array.array": (lambda: array("d", [2.0]), lambda v: v[0], lambda v: v.__setitem__(0, 3.0)),
    "bytearray": (lambda: bytearray(b"\2"), lambda v: float(v[0]), lambda v: v.__setitem__(0, 3)),
    "bytearray, longer": (lambda: bytearray(b"\2"), lambda v: float(len(v)), lambda v: v.append(3)),
    "memoryview": (lambda: memoryview(bytearray(b"\2")), lambda v: float(v[0]), lambda v: v.__setitem__(0, 3)),
    "memoryview, every other": (lambda: memoryview(bytearray(b"\2\0"))[::2], lambda v: v[0], lambda v: v.__setitem__(0, 3)),
    "ctypes": (lambda: (ctypes.c_double * 1)(2.0), lambda v: v[0], lambda v: v.__setitem__(0, 3.0)),
    "ContextVar": (lambda: ContextVar("scale", default=2.0), lambda v: v.get(), lambda v: v.set(3.0)),
    "ContextVar, not set": (lambda: ContextVar("scale"), lambda v: v.get(2.0), lambda v: v.set(3.0)),
    "attribute of a function": (lambda: with_scale(plain), lambda v: v.scale, lambda v: setattr(v, "scale", 3.0)),
    "attribute of a partial": (lambda: with_scale(functools.partial(plain)), lambda v: v.scale, lambda v: with_scale(v, 3.0)),
    "metaclass": (lambda: OfMeta, lambda v: v.scale, lambda _: setattr(Meta, "scale", 3.0)),
    "structured array": (lambda: np.full(2, 2, ROW), lambda v: float(v["scale"][0]), lambda v: v["scale"].fill(3)),
    "records": (lambda: np.full(2, 2, ROW).view(np.recarray), lambda v: float(v.scale[0]), lambda v: v["scale"].fill(3)),
    "array of objects": (lambda: np.array([None, 2.0]), lambda v: v[1], lambda v: v.__setitem__(1, 3.0)),
    "array of text": (lambda: np.array(["2", "1"]), lambda v: float(v[0]), lambda v: v.__setitem__(0, "3")),
    "array of dates": (lambda: np.array([2, 1], "M8[D]"), lambda v: float(v[0].astype(int)), lambda v: v.__setitem__(0, 3)),
    "complex array": (lambda: np.array([2 + 1j]), lambda v: float(v[0].real), lambda v: v.__setitem__(0, 3)),
    "array in another byte order": (lambda: np.array([2.0], ">f8"), lambda v: float(v[0]), lambda v: v.__setitem__(0, 3)),
}  # fmt: skip


class Behind:
    def __init__(self, mapping: dict[str, float]) -> None:
        self.mapping, self.proxy = mapping, types.MappingProxyType(mapping)


def with_scale(value: Any, scale: float = 2.0) -> Any:
    value.scale = scale
    return value


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers(kind: str) -> None:
    """Their elements, number, order; of buffers, the bytes."""
    make, read, change = CONTAINERS[kind]
    try:
        is_followed(make(), read, change)
    finally:
        Meta.scale = 2.0


class Watched(set[str]):
    """Nobody may empty it."""

    def clear(self) -> None:
        raise AssertionError


def test_a_container_that_does_not_change_is_not_written_to() -> None:
    """While a plan is made another thread may read it."""
    is_followed(Watched("a"), lambda v: 2.0 if "a" in v else 3.0, lambda v: v.remove("a"))


def test_a_released_buffer() -> None:
    value = memoryview(b"abc")
    value.release()
    step = tg.compile(lambda x: (x if value is not None else 2 * x).sum())
    assert [step(np.ones(3)).item() for _ in range(3)] == [3, 3, 3]


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "deque": (lambda: deque([1.0, 2.0]), lambda v: v.rotate() or v[0]),
    "set": (set, lambda v: v.add(len(v)) or float(len(v))),
    "order": (lambda: {"a": 1.0, "b": 2.0}, lambda v: rotated(v) or next(iter(v.values()))),
    "bytearray": (lambda: bytearray(2), lambda v: v.__setitem__(0, v[0] + 1) or float(v[0])),
    "bytearray, longer": (bytearray, lambda v: v.append(1) or float(len(v))),
    "array.array, longer": (lambda: array("d"), lambda v: v.append(1.0) or float(len(v))),
    "memoryview, every other": (
        lambda: memoryview(bytearray(4))[::2],
        lambda v: v.__setitem__(0, v[0] + 1) or float(v[0]),
    ),
    "ctypes": (lambda: (ctypes.c_double * 2)(), lambda v: v.__setitem__(0, v[0] + 1) or v[0]),
    "UserDict": (lambda: UserDict(a=0.0), lambda v: v.update(a=v["a"] + 1) or v["a"]),
    "ChainMap": (lambda: ChainMap({}, {"a": 0.0}), lambda v: v.maps[1].update(a=v["a"] + 1) or v["a"]),
    "ContextVar": (lambda: ContextVar("count", default=0.0), lambda v: v.set(v.get() + 1) and v.get()),
    "attribute of a function": (lambda: with_scale(plain), lambda v: setattr(v, "scale", v.scale + 1) or v.scale),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_containers_that_the_step_changes(kind: str) -> None:
    """Such a step runs uncompiled, and changes them once in each call, also while a plan is tried."""
    make, change = CHANGES[kind]
    value, other = make(), make()
    step = tg.compile(lambda x: (x * change(value)).sum())
    with pytest.warns(RuntimeWarning, match="runs uncompiled, because it changes"):
        results = [step(np.ones(1)).item() for _ in range(6)]
    if kind == "attribute of a function":
        other = with_scale(lambda x: x)
    assert results == [change(other) for _ in range(6)]


# Attributes that the code does not name


class Options:
    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale


@dataclasses.dataclass
class Fields:
    scale: float = 2.0


def by_keyword(scale: float) -> float:
    return scale


def by_class_pattern(value: Any) -> float:
    match value:
        case Options(scale=scale):
            return scale
        case _:
            return 0.0


NAME, NAMES, GETTER = "sca", ["scale"], operator.attrgetter("scale")
UNNAMED: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "attrgetter": (Options, lambda v: GETTER(v)),
    "attrgetter, made in the step": (Options, lambda v: operator.attrgetter("scale")(v)),
    "map": (Options, lambda v: sum(map(GETTER, [v]))),
    "vars": (Options, lambda v: vars(v)["scale"]),
    "keywords": (Options, lambda v: by_keyword(**vars(v))),
    "keywords of a namespace": (lambda: argparse.Namespace(scale=2.0), lambda v: by_keyword(**vars(v))),
    "keywords of its dict": (Options, lambda v: by_keyword(**v.__dict__)),
    "keywords of a dataclass": (Fields, lambda v: by_keyword(**dataclasses.asdict(v))),
    "values": (Options, lambda v: next(iter(v.__dict__.values()))),
    "getattr in a loop": (Options, lambda v: sum(getattr(v, name) for name in NAMES)),
    "getattr of a sum": (Options, lambda v: getattr(v, NAME + "le")),
    "getattr of a text": (Options, lambda v: getattr(v, f"{NAME}le")),
    "getattr by map": (Options, lambda v: sum(map(getattr, [v], NAMES))),
    "dir": (Options, lambda v: next(getattr(v, name) for name in dir(v) if not name.startswith("_"))),
    "class pattern": (Options, by_class_pattern),
    "object.__getattribute__": (Options, lambda v: object.__getattribute__(v, "scale")),
    "copy": (Options, lambda v: copy.copy(v).scale),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNNAMED)
def test_attributes_that_the_code_does_not_name(kind: str) -> None:
    make, read = UNNAMED[kind]
    value = make()
    step = tg.compile(lambda x: (x * read(value)).sum())
    for scale in (2.0, 3.0, 4.0):
        value.scale = scale
        for _ in range(4):
            assert step(np.ones(3)).item() == 3 * scale
        assert step.why_not == ""


def test_keywords_of_a_partial() -> None:
    value = functools.partial(by_keyword, scale=2.0)
    step = tg.compile(lambda x: (x * value()).sum())
    for scale in (2.0, 3.0):
        value.keywords["scale"] = scale
        assert [step(np.ones(1)).item() for _ in range(4)] == [scale] * 4


def test_attributes_that_the_step_does_not_read_may_change() -> None:
    """Also if it copes with missing ones, by a constant name: no new plan for a counter beside them."""
    value = Options()
    value.calls = 0  # type: ignore[attr-defined]
    step = tg.compile(lambda x: (x * getattr(value, "scale", 1.0) * getattr(Fields(2.0), "other", 1.0)).sum())
    for i in range(8):
        value.calls += 1  # type: ignore[attr-defined]
        assert step(np.ones(1)).item() == 2
        assert (step.why_not == "") == (i > 0)


CONSTANT = {
    "getattr(x, 'a')": True, "getattr(x, 'a', 1)": True, "getattr(x.b[0], 'a', f(x))": True, "getattr(f(x, y), 'a')": True,
    "getattr(x + y * z, 'a')": True, "hasattr(x, 'a')": True, "getattr(getattr(x, 'a'), 'b', None)": True,
    "getattr(x, y)": False, "getattr(x, y, 'a')": False, "getattr(x, 'a' + y)": False, "getattr(x, f'a{y}')": False,
    "getattr(x, y[0])": False, "getattr(x, f('a'))": False, "getattr(*x)": False, "map(getattr, x, y)": False,
    "getattr(getattr(x, 'a'), y)": False, "getattr(getattr(x, y), 'a')": False, "[getattr(x, a) for a in y]": False,
}  # fmt: skip


@pytest.mark.parametrize("text", CONSTANT)
def test_whether_a_name_is_constant(text: str) -> None:
    function = eval(f"lambda x, y, z, f: {text}")
    assert bytecode.names_in(function.__code__).reads_unnamed is not CONSTANT[text]


def plain_with(x: Any) -> Any:
    with x:
        return [y.a for y in x.b]


def with_and_try(x: Any) -> Any:
    with x:
        try:
            return x.a
        except AttributeError:
            return None


def with_finally(x: Any) -> Any:
    try:
        return x.a
    finally:
        x.close()


@pytest.mark.parametrize(
    ("function", "copes"), [(plain_with, False), (with_and_try, True), (with_finally, False), (caught, True)]
)
def test_whether_code_copes_with_missing_attributes(function: Any, copes: bool) -> None:
    assert bytecode.names_in(function.__code__).reflects is copes


class Refusing:
    """Its property must not be computed to find out what the step depends on."""

    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 2.0

    @property
    def shape(self) -> Any:
        raise ValueError("not yet")


def test_properties_are_not_computed() -> None:
    value = Refusing()
    step = tg.compile(lambda x: (x.reshape(x.shape) * getattr(value, "scale", 1.0)).sum())
    assert [step(np.ones(2)).item() for _ in range(3)] == [4, 4, 4]
    assert step.why_not == ""
