"""O: what the Python of a step reads, draws and changes by other ways than Tensors, as people do."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import random
import re
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim, train
from tensorgrad.errors import CompileError
from tensorgrad.nn import functional as F
from tests.compiled import assert_close, training, vec, weight

# Read: another value is seen


class Slots:
    __slots__ = ("v",)

    def __init__(self, v: float) -> None:
        self.v = v


@dataclasses.dataclass(slots=True)
class Record:
    v: float


class Plain:
    shared = 1.0

    def __init__(self, v: float) -> None:
        self.v, self._v = v, v

    def method(self) -> float:
        return self.v

    def through(self) -> float:
        return self.method() + 0

    @property
    def attribute(self) -> float:
        return self.v

    @functools.cached_property
    def first(self) -> Plain:
        return self

    @staticmethod
    def of_class() -> float:
        return Plain.shared

    @classmethod
    def by_class(cls) -> float:
        return cls.shared

    def __call__(self) -> float:
        return self.v

    def __getitem__(self, key: str) -> float:
        return self.v

    def __float__(self) -> float:
        return self.v

    def __getattr__(self, name: str) -> float:
        if name.startswith("__") or name != "made_up":
            raise AttributeError(name)
        return self.v

    def set(self, v: float) -> None:
        self.v = self._v = v


class Layer(nn.Module):
    rate = 1.0

    def __init__(self, v: float) -> None:
        super().__init__()
        self.v, self._v = v, v
        self.register_buffer("count", np.full(1, v))

    @property
    def attribute(self) -> float:
        return self.v

    def helper(self) -> float:
        return self._v

    def set(self, v: float) -> None:
        self.v = self._v = v
        self.count[:] = v


def shared(box: Any, v: float) -> None:
    type(box).shared = v


module = types.ModuleType("settings_of_the_user")
module.__file__ = "settings_of_the_user.py"
exec("scale = 1.0\ndef helper():\n    return scale", vars(module))

READ: dict[str, tuple[Callable[[float], Any], Callable[[Any], Any], Callable[[Any, float], Any]]] = {
    "slots": (Slots, lambda b: b.v, lambda b, v: setattr(b, "v", v)),
    "dataclass with slots": (Record, lambda b: b.v, lambda b, v: setattr(b, "v", v)),
    "method": (Plain, lambda b: b.method(), Plain.set),
    "method of a method": (Plain, lambda b: b.through(), Plain.set),
    "property": (Plain, lambda b: b.attribute, Plain.set),
    "cached_property": (Plain, lambda b: b.first.v, Plain.set),
    "staticmethod": (Plain, lambda b: b.of_class(), shared),
    "classmethod": (Plain, lambda b: b.by_class(), shared),
    "call": (Plain, lambda b: b(), Plain.set),
    "getitem": (Plain, lambda b: b["x"], Plain.set),
    "float": (Plain, lambda b: float(b), Plain.set),
    "getattr of the class": (Plain, lambda b: b.made_up, Plain.set),
    "private": (Plain, lambda b: b._v, Plain.set),
    "getattr": (Plain, lambda b: getattr(b, "v"), Plain.set),  # noqa: B009
    "vars": (Plain, lambda b: vars(b)["v"], Plain.set),
    "module, private": (Layer, lambda b: b._v, Layer.set),
    "module, method": (Layer, lambda b: b.helper(), Layer.set),
    "module, property": (Layer, lambda b: b.attribute, Layer.set),
    "module, class": (Layer, lambda b: b.rate, lambda b, v: setattr(type(b), "rate", v)),
    "module, a branch on a buffer": (Layer, lambda b: 2.0 if b.count[0] > 3 else 1.0, Layer.set),
    "a file": (lambda v: module, lambda b: b.scale, lambda b, v: setattr(b, "scale", v)),
    "a function of a file": (lambda v: module, lambda b: b.helper(), lambda b, v: setattr(b, "scale", v)),
    "an array, a branch": (lambda v: np.full(3, v), lambda a: 2.0 if a[0] > 3 else 1.0, lambda a, v: a.fill(v)),
    "an array, an axis": (lambda v: np.zeros(1, int), lambda a: vec()[None].sum(int(a[0]))[0], lambda a, v: a.fill(int(v > 3))),
    "an array, a number": (lambda v: np.full(3, v), lambda a: float(a[1]), lambda a, v: a.fill(v)),
    "an array, how often": (lambda v: np.ones(1, int), lambda a: sum(range(int(a[0]))), lambda a, v: a.fill(int(v))),
}


@pytest.mark.parametrize("name", READ)
def test_what_python_reads(name: str) -> None:
    """Another value before the fourth call, and the first one again before the seventh."""
    make, read, change = READ[name]
    box = make(1.0)
    change(box, 1.0)
    step = tg.compile(lambda x: x * read(box))
    replays = 0
    for k in range(9):
        change(box, 5.0 if 3 <= k < 6 else 1.0)
        assert_close(step(vec(k, "float64")).numpy(), np.full(3, float(k)) * read(box), what=name)
        replays += not step.why_not
    assert replays >= 4


def test_what_hooks_read() -> None:
    w, scale = weight(dtype="float64"), [1.0]
    w.register_hook(lambda g: g * scale[0])
    step = tg.compile(lambda x: tg.grad((w * x).sum(), [w])[0])
    for k in range(8):
        scale[0] = 1.0 if k < 4 else 3.0
        assert_close(step(vec(k, "float64")).numpy(), vec(k * scale[0], "float64"))


def test_counts_of_optimisers() -> None:
    """A step that does something else from the fifth update on."""
    ends = []
    for how in (tg.compile, lambda step: step):
        w = weight(dtype="float64")
        optimiser = optim.SGD([w], lr=0.1)
        step = training(lambda x, o=optimiser, w=w: (w * x).sum() * (10 if o.steps >= 5 else 1), optimiser)
        call = how(step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not replayed
            ends.append([call(Tensor(vec(1, "float64"))).item() for _ in range(12)])
    assert ends[0] == pytest.approx(ends[1])


# Drawn: refused


def coin(rng: Any) -> float:
    return 2.0 if rng.random() < 0.25 else 1.0


def with_default(value: Any, function: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def step(x: Any, value: Any = value) -> Any:
        return function(x, value)

    return step


DRAWN: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "np.random": lambda: lambda x: x + np.random.normal(size=3),  # noqa: NPY002
    "np.random, a branch": lambda: lambda x: x * coin(np.random),
    "random": lambda: lambda x: x * random.random(),
    "random, a branch": lambda: lambda x: x * coin(random),
    "a generator": lambda: with_default(np.random.default_rng(0), lambda x, rng: x + rng.normal(size=3)),
    "a generator, a branch": lambda: with_default(np.random.default_rng(1), lambda x, rng: x * coin(rng)),
    "a permutation": lambda: lambda x: x[np.random.permutation(3)],  # noqa: NPY002
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", DRAWN)
def test_what_python_draws(name: str, ahead: bool) -> None:
    for seed in range(6):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        step = tg.compile(DRAWN[name](), ahead=ahead)
        with pytest.raises(CompileError):
            [step(vec(1, "float64")) for _ in range(3)]


def test_noise_in_training_is_refused() -> None:
    class Noise(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + np.random.normal(size=x.shape)  # noqa: NPY002

    model = nn.Sequential(Noise(), nn.Linear(3, 1, dtype="float64"))
    with pytest.raises(CompileError, match="reads an array that was a different one in the first call"):
        train.fit(model, F.mse_loss, optim.SGD(model.parameters(), lr=0.1), (np.ones((8, 3)), np.zeros((8, 1))), 3)


# Changed: the step is run as it is written, and says so


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.last: Any = None

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.last = x * 2
        return x * (2.0 if self.calls > 5 else 1.0)


total = 0


def of_globals(x: Any) -> Any:
    global total
    total += 1
    return x * (2.0 if total > 5 else 1.0)


def of_closure() -> Callable[[Any], Any]:
    n = 0

    def step(x: Any) -> Any:
        nonlocal n
        n += 1
        return x * (2.0 if n > 5 else 1.0)

    return step


def of_list(x: Any, seen: Any) -> Any:
    seen.append(x * 2)
    return x * (2.0 if len(seen) > 5 else 1.0)


def of_element(x: Any, seen: Any) -> Any:
    seen["n"] += 1
    return x * (2.0 if seen["n"] > 5 else 1.0)


def of_attribute(x: Any, seen: Any) -> Any:
    seen.n += 1
    return x * (2.0 if seen.n > 5 else 1.0)


CHANGED: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "an attribute of a module": Counting,
    "a global": lambda: of_globals,
    "a variable of the closure": of_closure,
    "a list": lambda: with_default([], of_list),
    "an element": lambda: with_default({"n": 0}, of_element),
    "an attribute": lambda: with_default(types.SimpleNamespace(n=0), of_attribute),
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", CHANGED)
def test_what_python_changes(name: str, ahead: bool) -> None:
    """A counter upon which the result depends from its sixth call on: right in each call, with one warning."""
    global total
    total = 0
    step = tg.compile(CHANGED[name](), ahead=ahead)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = [step(vec(1, "float64")).numpy()[0] for _ in range(9)]
    assert found == [1.0] * 5 + [2.0] * 4
    assert len(said) == 1
    assert "runs uncompiled, because it changes" in str(said[0].message)
    assert "the step itself changes" in step.why_not


def test_what_is_kept_is_that_of_the_call() -> None:
    """An activation that a module keeps: of the samples of the call, in each of them."""
    layer = Counting()
    step = tg.compile(lambda x: layer(x).sum())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for k in range(5):
            step(vec(k, "float64"))
            assert_close(layer.last.numpy(), vec(2 * k, "float64"))
            assert layer.calls == k + 1
    assert [bool(re.search(r"because it changes closure layer\.(calls|last) each time", str(w.message))) for w in said] == [
        True
    ]


def test_what_is_made_once_stays() -> None:
    """Something that the first call makes, and later ones find, keeps no step from being replayed."""
    cache: dict[str, Any] = {}

    def step(x: Any) -> Any:
        if "w" not in cache:
            cache["w"] = np.arange(3.0)
        return x * cache["w"]

    for ahead in (False, True):
        cache.clear()
        compiled = tg.compile(step, ahead=ahead)
        for k in range(5):
            assert_close(compiled(vec(k, "float64")).numpy(), k * np.arange(3.0))
        assert not compiled.why_not


CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a new element": (lambda: {"x": vec()}, lambda b: b.__setitem__("y", b["x"] * 2)),
    "another element": (lambda: {"x": vec()}, lambda b: b.__setitem__("x", b["x"] * 2)),
    "one less": (lambda: {"x": vec(), "y": vec()}, lambda b: b.pop("y")),
    "a list": (lambda: [vec(), vec()], lambda b: b.append(b[0])),
    "an attribute": (lambda: Record(vec()), lambda b: setattr(b, "v", b.v * 2)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_arguments_that_are_changed(name: str) -> None:
    make, change = CONTAINERS[name]
    with pytest.raises(CompileError, match="changes a list, dict or object that is an argument"):
        tg.compile(lambda b: (change(b), None)[1])(make())


# Gradients that are not cleared


@pytest.mark.parametrize("keep_grads", [False, True])
def test_gradients_that_are_not_cleared_add_up(keep_grads: bool) -> None:
    ends = []
    for how in (lambda step: step, functools.partial(tg.compile, keep_grads=keep_grads)):
        w = weight(dtype="float64")
        optimiser = optim.SGD([w], lr=0.1)

        def step(x: Any, w: Any = w, optimiser: Any = optimiser) -> Any:
            loss = (w * w * x).sum()
            loss.backward()
            optimiser.step()
            return loss

        call = how(step)
        ends.append([(call(Tensor(vec(k, "float64"))).numpy(), w.grad.numpy().copy(), w.numpy().copy()) for k in range(6)])
    assert_close(ends[1], ends[0])


# Messages


def test_why_a_step_is_never_replayed() -> None:
    """The array that differs each time is named."""
    c = np.ones(3)
    step = tg.compile(lambda x: x * (1 / c))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for k in range(12):
            c[:] = k + 1
            assert_close(step(vec(1, "float64")).numpy(), 1 / c)
    (warning,) = said
    assert "has run 9 times without a replay: an array (3,) has its elements no longer" in str(warning.message)


def test_a_learning_rate_that_is_changed_before_its_use() -> None:
    w = weight()
    optimiser = optim.SGD([w], lr=0.1)

    def step(x: Any) -> Any:
        loss = (w * x).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.lr *= 0.9
        optimiser.step()
        return loss

    compiled = tg.compile(step)
    with pytest.raises(CompileError, match=r"the learning rate went from .* to .* before SGD.step\(\) inside the step"):
        [compiled(vec()) for _ in range(3)]


def test_errors_of_replays_have_notes() -> None:
    step = tg.compile(lambda z, y: F.cross_entropy(z, y))
    for _ in range(3):
        step(np.ones((2, 3)), np.array([0, 1]))
    with pytest.raises(tg.errors.LabelError) as caught:
        step(np.ones((2, 3)), np.array([0, 7]))
    assert any("in a replay (" in note and "test_python.py" in note for note in caught.value.__notes__)


def test_functions_of_libraries_are_not_looked_into() -> None:
    """Nor does it take long to look at what there is."""
    with contextlib.suppress(ImportError):
        import scipy.special

        step = tg.compile(lambda x: x * float(scipy.special.erf(0.5)))
        for _ in range(4):
            step(vec())
        assert not step.why_not
        assert len(step.plan.guards) < 20


@pytest.mark.parametrize(
    ("folder", "is_looked_into"), [("lib/site-packages", False), ("lib/dist-packages", False), ("mine", True)]
)
def test_what_is_installed_elsewhere_is_a_library(
    folder: str, is_looked_into: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another prefix, as of an environment below this one."""
    where = tmp_path / folder
    where.mkdir(parents=True)
    (where / "scaling_module.py").write_text("FACTOR = 2.0\ndef scaled(x):\n    return x * FACTOR\n")
    monkeypatch.syspath_prepend(where)
    monkeypatch.delitem(sys.modules, "scaling_module", raising=False)
    scaling_module = importlib.import_module("scaling_module")
    step = tg.compile(lambda x: scaling_module.scaled(x))
    for _ in range(4):
        step(vec())
    assert any("FACTOR" in guard.text for guard in step.plan.guards) == is_looked_into
