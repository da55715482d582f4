"""J: the world changes after three calls; the next ones are those of the step as it is now, or refused."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
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
