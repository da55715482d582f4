"""J: the world changes after three calls; the next ones are those of the step as it is now, or refused."""

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
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.compiler import bytecode
from tensorgrad.nn import functional as F
from tests.compiled import World, change_after_three, either, training, vec

# Every attribute of every module

MODULES: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(3, 3, dtype="float64"),
    "Linear without a bias": lambda: nn.Linear(3, 3, False, dtype="float64"),
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "Softmax": nn.Softmax,
    "LogSoftmax": nn.LogSoftmax,
    "Flatten": lambda: Cubes(nn.Flatten()),
    "Dropout": lambda: nn.Dropout(0.5, rng=np.random.default_rng(0)),
    "LayerNorm": lambda: nn.LayerNorm(3, dtype="float64"),
    "BatchNorm1d": lambda: nn.BatchNorm1d(3, dtype="float64"),
    "BatchNorm1d, evaluated": lambda: nn.BatchNorm1d(3, dtype="float64").eval(),
    "Embedding": lambda: Rows(nn.Embedding(4, 3, dtype="float64")),
    "Conv2d": lambda: Images(nn.Conv2d(1, 1, 1, dtype="float64")),
    "MaxPool2d": lambda: Images(nn.MaxPool2d(1)),
    "AvgPool2d": lambda: Images(nn.AvgPool2d(1)),
    "Sequential": lambda: nn.Sequential(nn.Linear(3, 3, dtype="float64"), nn.ReLU()),
    "CrossEntropyLoss": lambda: Loss(nn.CrossEntropyLoss(np.ones(3)), np.array([0, 1, 2, 1])),
    "NLLLoss": lambda: Loss(nn.NLLLoss(np.ones(3)), np.array([0, 1, 2, 1])),
    "MSELoss": lambda: Loss(nn.MSELoss(), np.ones((4, 3))),
    "HuberLoss": lambda: Loss(nn.HuberLoss(), np.ones((4, 3))),
    "KLDivLoss": lambda: Loss(nn.KLDivLoss(), np.ones((4, 3)) / 3),
    "BCEWithLogitsLoss": lambda: Loss(nn.BCEWithLogitsLoss(np.ones(3), pos_weight=np.ones(3)), np.ones((4, 3))),
}


class Inside(nn.Module):
    """A module with another one in it, whose attributes are those that change."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Images(Inside):
    def forward(self, x: Any) -> Any:
        return self.inner(x.reshape(1, 1, 4, 3)).reshape(-1)


class Cubes(Inside):
    def forward(self, x: Any) -> Any:
        return self.inner(x.reshape(2, 2, 3))


class Rows(Inside):
    def forward(self, x: Any) -> Any:
        return self.inner(np.array([0, 2, 3, 3])) * x


class Loss(Inside):
    def __init__(self, inner: nn.Module, target: np.ndarray) -> None:
        super().__init__(inner)
        self.target = target

    def forward(self, x: Any) -> Any:
        return self.inner(x, self.target)


def other(value: Any, name: str) -> Any:
    """Another value for an attribute; None where there is none to be had."""
    special = {
        "kernel_size": None, "start_axis": 0, "end_axis": 1, "axis": 0, "approximate": "tanh", "reduction": "sum",
        "ignore_index": 1, "rng": np.random.default_rng(5), "normalized_shape": None, "stride": None, "padding": None,
        **dict.fromkeys(("in_channels", "out_channels", "groups", "dilation")),
    }  # fmt: skip
    if name in special:
        return special[name]
    if isinstance(value, nn.Parameter):
        return nn.Parameter(value.data * 2 + 1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, np.ndarray):
        return value * 2 + 1
    if isinstance(value, (int, float)):
        return value * 0.5 + 0.125
    return None


def attributes() -> list[tuple[str, str]]:
    """Every attribute of a module of each kind that could be another."""
    found = []
    for kind, make in MODULES.items():
        made = make()
        made = made.inner if isinstance(made, Inside) else made
        names = [*vars(made), *made._buffers]
        found += [(kind, n) for n in names if n[0] != "_" and other(getattr(made, n), n) is not None]
        found += [(kind, f"no {n}") for n, value in vars(made).items() if n != "weight" and isinstance(value, nn.Parameter)]
    return found


@pytest.mark.parametrize("trained", [False, True], ids=["predict", "train"])
@pytest.mark.parametrize(("kind", "name"), attributes())
def test_attributes_of_modules(kind: str, name: str, trained: bool) -> None:
    """An attribute that the module reads is given another value; the optimiser has the old parameters."""

    def make() -> tuple[World, Callable[[], Any]]:
        tg.manual_seed(0)
        first, net = nn.Linear(3, 3, dtype="float64"), MODULES[kind]()
        module = net.inner if isinstance(net, Inside) else net
        attribute = name.removeprefix("no ")
        value = None if attribute != name else other(getattr(module, attribute), attribute)
        optimiser = optim.SGD([*first.parameters(), *net.parameters()], lr=0.01)

        def loss(x: Any) -> Any:
            return (net(first(x)) ** 2).sum()

        step = training(loss, optimiser) if trained else lambda x: net(first(x))
        return World(step, lambda: (first.state_dict(), net.state_dict())), lambda: setattr(module, attribute, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim.SGD, "step", quiet(optim.SGD.step))
        told = change_after_three(make)
    if name in ("weight", "bias", "running_mean", "running_var", "training"):
        assert told.refused is None


def quiet(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """A parameter that has been replaced gets no gradient any more: no warning of that."""

    def quietly(self: Any) -> None:
        self._warned = True
        step(self)

    return quietly


MODELS: dict[str, Callable[[Any], Any]] = {  # of a Sequential of three
    "a layer is replaced": lambda m: setattr(m, "1", nn.Tanh()),
    "a layer with parameters is replaced": lambda m: setattr(m, "0", nn.Linear(3, 3, dtype="float64")),
    "a layer is added": lambda m: setattr(m, "3", nn.Tanh()),
    "a layer is identity now": lambda m: setattr(m, "2", nn.Identity()),
    "evaluated": lambda m: m.eval(),
    "a part is evaluated": lambda m: m[1].eval(),
    "other weights": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}),
    "data =": lambda m: [setattr(p, "data", p.data * 2) for p in m.parameters()],
    "data *=": lambda m: [p.data.__imul__(2) for p in m.parameters()],
    "in float32": lambda m: m.to(dtype="float32"),
    "frozen": lambda m: [p.requires_grad_(False) for p in m[0].parameters()],
    "another forward": lambda m: setattr(m, "forward", lambda x: x * 2),
    "another forward of a part": lambda m: setattr(m[1], "forward", lambda x: x * 2),
    "a forward of the class": lambda m: None,
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> tuple[World, Callable[[], Any]]:
        monkeypatch.undo()
        tg.manual_seed(0)
        part = type("Part", (nn.ReLU,), {})()
        net = nn.Sequential(nn.Linear(3, 3, dtype="float64"), part, nn.Linear(3, 2, dtype="float64"))

        def change() -> None:
            MODELS[name](net)
            if name == "a forward of the class":
                type(part).forward = lambda self, x: x * 2  # type: ignore[method-assign]

        return World(lambda x: net(x) if x.dtype == net[0].weight.dtype else net(x.astype("float32"))), change

    change_after_three(make)


# Hooks, flags, gradients that are there


def hooks() -> dict[str, Callable[[Any, list[Any]], Any]]:
    def added(w: Any, kept: list[Any]) -> None:
        kept.append(w.register_hook(lambda g: g * 0.5))

    return {
        "added": added,
        "added twice": lambda w, kept: (added(w, kept), added(w, kept)),
        "added that only looks": lambda w, kept: w.register_hook(lambda g: None),
        "removed": lambda w, kept: kept.pop()(),
        "removed, another added": lambda w, kept: (kept.pop()(), w.register_hook(lambda g: g * 3)),
        "all taken away": lambda w, kept: setattr(w, "hooks", None),
    }


@pytest.mark.parametrize("name", hooks())
def test_hooks(name: str) -> None:
    def make() -> tuple[World, Callable[[], Any]]:
        w = Tensor(vec(1, "float64"), requires_grad=True)
        kept: list[Any] = []
        if "removed" in name or "all" in name:
            kept.append(w.register_hook(lambda g: g * 0.1))
        step = training(lambda x: (x * w).sum(), optim.SGD([w], lr=0.1))
        return World(step, lambda: w), lambda: hooks()[name](w, kept)

    change_after_three(make)


def test_a_hook_that_acts_otherwise_now() -> None:
    """It is Python: it is run, refused, or its numbers are those of the call."""

    def make() -> tuple[World, Callable[[], Any]]:
        w = Tensor(vec(1, "float64"), requires_grad=True)
        scale = [0.5]
        w.register_hook(lambda g: g * Tensor(np.array(scale[0])))
        factor = Tensor(np.array(2.0))
        w.register_hook(lambda g: g * factor)
        step = training(lambda x: (x * w).sum(), optim.SGD([w], lr=0.1))
        return World(step, lambda: w), lambda: factor.data.fill(3.0)

    change_after_three(make)


GRADS: dict[str, Callable[[Any], Any]] = {
    "a gradient is there": lambda w: setattr(w, "grad", Tensor(vec(5, "float64"))),
    "none is there": lambda w: setattr(w, "grad", None),
    "it is another one": lambda w: setattr(w, "grad", w.grad if w.grad is None else w.grad * 3),
    "it is written to": lambda w: w.grad is None or w.grad.data.fill(7.0),
}


@pytest.mark.parametrize("keep_grads", [False, True])
@pytest.mark.parametrize("clears", [False, True], ids=["accumulates", "clears"])
@pytest.mark.parametrize("name", GRADS)
def test_gradients_from_before(name: str, clears: bool, keep_grads: bool) -> None:
    def make() -> tuple[World, Callable[[], Any]]:
        w = Tensor(vec(1, "float64"), requires_grad=True)

        def step(x: Any) -> Any:
            if clears:
                w.grad = None
            loss = (x * w * w).sum()
            loss.backward()
            return loss

        return World(step, lambda: (w, w.grad)), lambda: GRADS[name](w)

    change_after_three(make, keep_grads=keep_grads, may_refuse=False)


# Objects that a step finds around it


class Holder:
    """Where a step may keep what it works with."""

    def __init__(self, value: Any) -> None:
        self.value = value


def in_list(value: Any) -> Any:
    box = [value]
    return lambda: box[0], lambda new: box.__setitem__(0, new)


def in_dict(value: Any) -> Any:
    box = {"it": value}
    return lambda: box["it"], lambda new: box.update(it=new)


def in_attribute(value: Any) -> Any:
    box = Holder(value)
    return lambda: box.value, lambda new: setattr(box, "value", new)


def in_nest(value: Any) -> Any:
    box = {"a": [Holder((value,))]}
    return lambda: box["a"][0].value[0], lambda new: setattr(box["a"][0], "value", (new,))


def in_closure(value: Any) -> Any:
    def assign(new: Any) -> None:
        nonlocal value
        value = new

    return lambda: value, assign


def in_globals(value: Any) -> Any:
    globals()["_found"] = value
    return lambda: _found, lambda new: globals().__setitem__("_found", new)  # type: ignore[name-defined]  # noqa: F821


def in_module(value: Any) -> Any:
    box = nn.Module()
    box.value = value
    return lambda: box.value, lambda new: setattr(box, "value", new)


PLACES = {f.__name__: f for f in (in_list, in_dict, in_attribute, in_nest, in_closure, in_globals, in_module)}
OBJECTS: dict[str, tuple[Callable[[int], Any], Callable[[Any, Any], Any]]] = {  # the first and the second one, and its use
    "Tensor": (lambda i: Tensor(np.array([1.0, 2, 3]) + i), lambda x, o: (x * o).tanh()),
    "parameter": (lambda i: Tensor(np.array([1.0, 2, 3]) + i, True), lambda x, o: tg.grad((x * o * o).sum(), o)),
    "array": (lambda i: np.array([1.0, 2, 3]) + i, lambda x, o: (x * o).tanh()),
    "labels": (lambda i: np.array([0, 1, 2, i]), lambda x, o: F.cross_entropy(x, o)),
    "model": (lambda i: nn.Linear(3, 2, rng=np.random.default_rng(i), dtype="float64"), lambda x, o: o(x)),
    "function": (lambda i: (np.tanh, np.exp)[i], lambda x, o: o(x)),
    "lambda": (lambda i: lambda x: x * (i + 2), lambda x, o: o(x)),
    "loss": (lambda i: (F.mse_loss, F.l1_loss)[i], lambda x, o: o(x, x * 0)),
    "compiled": (lambda i: tg.compile((np.tanh, np.exp)[i]), lambda x, o: o(x)),
    "list of Tensors": (lambda i: [Tensor(vec(k, "float64")) for k in range(2 + i)], lambda x, o: sum(x * t for t in o)),
    "optimiser": (lambda i: fitted(i), lambda x, o: o(x)),
}


class fitted:
    """A parameter of its own with an optimiser of its own."""

    def __init__(self, i: int) -> None:
        self.w = Tensor(vec(i + 1, "float64"), requires_grad=True)
        self.optimiser = (optim.SGD, optim.Adam)[i]([self.w], lr=0.1)

    def __call__(self, x: Any) -> Any:
        return training(lambda x: (x * self.w * self.w).sum(), self.optimiser)(x), self.w.detach() * 1


@pytest.mark.parametrize("what", OBJECTS)
@pytest.mark.parametrize("place", PLACES)
def test_objects_that_are_replaced(place: str, what: str) -> None:
    def make() -> tuple[World, Callable[[], Any]]:
        create, use = OBJECTS[what]
        get, put = PLACES[place](create(0))
        return World(lambda x: use(x, get())), lambda: put(create(1))

    change_after_three(make)


def test_labels_of_another_byte_order() -> None:
    """An argument's dtype has one character in both."""
    z = np.random.default_rng(0).normal(size=(4, 3))
    f = tg.compile(lambda z, t: F.cross_entropy(z, t))
    g = tg.compile(lambda z: (z * 2).tanh())
    for t in (*["i4"] * 4, ">i4", ">i4", "i4", ">i4", ">i4"):
        labels = np.array([0, 2, 1, 1], t)
        found, refused = either(f, z, labels)
        assert refused or found.item() == pytest.approx(F.cross_entropy(z, labels.astype(int)).item())
    for t in (*["f8"] * 4, ">f8", ">f8", ">f8"):
        found, refused = either(g, z.astype(t))
        assert refused or np.allclose(found.numpy(), np.tanh(z * 2))


@pytest.mark.parametrize(
    "wrap", [tg.compile, functools.cache, functools.partial, lambda f: functools.wraps(f)(lambda *a: f(*a))]
)
def test_numbers_of_functions_that_are_wrapped(wrap: Callable[..., Any]) -> None:
    """A compiled step in another one, and whatever else says what it wraps."""
    settings = types.SimpleNamespace(scale=2.0)
    inner = wrap(lambda x: x * settings.scale)
    outer = tg.compile(lambda x: inner(x) + 1)
    for scale in (2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 2.0):
        settings.scale = scale
        assert outer(np.ones(1)).item() == scale + 1


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
    value = make()
    step = tg.compile(lambda x: (x * read(value)).sum())
    before = read(value)
    for _ in range(4):
        assert step(np.ones(3)).item() == 3 * before
    assert step.why_not == ""
    define(value)
    assert read(value) != before
    for _ in range(4):
        assert step(np.ones(3)).item() == 3 * read(value)
    assert step.why_not == ""


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
    value = make()
    step = tg.compile(lambda x: (x * read(value)).sum())
    before = read(value)
    for _ in range(4):
        assert step(np.ones(3)).item() == 3 * before
    assert step.why_not == ""
    try:
        change(value)
        assert read(value) != before
        for _ in range(4):
            assert step(np.ones(3)).item() == 3 * read(value)
        assert step.why_not == ""
    finally:
        Meta.scale = 2.0


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "deque": (lambda: deque([1.0, 2.0]), lambda v: v.rotate() or v[0]),
    "set": (set, lambda v: v.add(len(v)) or float(len(v))),
    "order": (lambda: {"a": 1.0, "b": 2.0}, lambda v: rotated(v) or next(iter(v.values()))),
    "bytearray": (lambda: bytearray(2), lambda v: v.__setitem__(0, v[0] + 1) or float(v[0])),
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
