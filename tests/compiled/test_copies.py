"""M: copies and pickles of every public object, at every stage, go on as the original does; compiled methods are bound."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.nn import functional as F
from tests.compiled import assert_close, vec, weight

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle of protocol 2": lambda x: pickle.loads(pickle.dumps(x, 2)),
}
RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(6, 4)).astype("float32"), RNG.integers(0, 3, 6)


class Trained:
    """A model with an optimiser and a schedule, the kind of thing that is copied."""

    def __init__(self, optimiser: str) -> None:
        rng = np.random.default_rng(0)
        self.net = nn.Sequential(nn.Linear(4, 5, rng=rng), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3, rng=rng))
        made = {"SGD": optim.SGD, "Adam": optim.Adam, "AdamW": optim.AdamW, "RMSprop": optim.RMSprop, "Adagrad": optim.Adagrad}
        options = {"momentum": 0.9} if optimiser == "SGD" else {}
        self.optimiser = made[optimiser](self.net.parameters(), lr=0.05, **options)
        self.schedule = optim.ExponentialLR(self.optimiser, 0.9)

    def step(self, x: Any, t: Any) -> Any:
        loss = F.cross_entropy(self.net(x), t)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss

    def losses(self, count: int, compiled: bool) -> list[float]:
        step = tg.compile(self.step) if compiled else self.step
        found = []
        for i in range(count):
            found.append(step(Tensor(X * (1 + i)), Tensor(T)).item())
            self.schedule.step()
        return found


@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_models_with_their_optimisers(name: str, how: str, before: int, compiled: bool) -> None:
    """New, after a step, after compiled steps: the copy trains on as the original, which nothing happens to."""
    original = Trained(name)
    original.losses(before, compiled)
    other = COPIES[how](original)
    state = original.net.state_dict()
    assert all(p is q for p, q in zip(other.net.parameters(), other.optimiser.params, strict=True))
    assert other.schedule.optimiser is other.optimiser
    found = other.losses(5, compiled)
    assert_close(original.net.state_dict(), state, 0.0)
    assert found == pytest.approx(original.losses(5, compiled), rel=1e-5)
    assert_close(other.net.state_dict(), original.net.state_dict(), 1e-4)
    assert found[-1] != found[0]


OBJECTS: dict[str, Callable[[], Any]] = {
    "Tensor": lambda: Tensor(X),
    "a leaf": lambda: Tensor(X, requires_grad=True, name="x"),
    "Parameter": lambda: nn.Parameter(X),
    **{
        name: lambda name=name: getattr(nn, name)()  # type: ignore[misc]
        for name in ("ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Softplus", "Softmax", "Tanh", "Flatten", "Identity")
    },
    "Linear": lambda: nn.Linear(4, 3, rng=np.random.default_rng(0)),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "Dropout": lambda: nn.Dropout(0.5, rng=np.random.default_rng(0)),
    "Embedding": lambda: nn.Sequential(Labels(), nn.Embedding(3, 2, rng=np.random.default_rng(0))),
    "MSELoss": lambda: functools.partial(nn.MSELoss(), target=Tensor(X * 2)).func,
}


class Labels(nn.Module):
    def forward(self, x: Any) -> Any:
        return T


@pytest.mark.parametrize("stage", ["new", "compiled"])
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name: str, how: str, stage: str) -> None:
    """Copied before and after they are part of a compiled step; values and what is computed are the same."""

    def use(o: Any) -> Callable[[Any], Any]:
        return (lambda x: x * o) if isinstance(o, Tensor) else (lambda x: o(x, x * 2)) if name == "MSELoss" else lambda x: o(x)

    original = OBJECTS[name]()
    if stage == "compiled":
        step = tg.compile(use(original))
        for _ in range(4):
            step(X)
    other = COPIES[how](original)
    assert type(other) is type(original)
    if isinstance(other, Tensor):
        assert (other.requires_grad, other.name) == (original.requires_grad, original.name)
        assert not np.shares_memory(other.data, original.data)
    a, b = tg.compile(use(original)), tg.compile(use(other))
    for k in (1, 2, 3, 4):
        assert_close(b(X * k), a(X * k).data, 1e-6)


@pytest.mark.parametrize("how", COPIES)
def test_other_public_objects(how: str) -> None:
    """Loaders, histories, callbacks, schedules, optimisers by themselves."""
    loader = data.DataLoader(X, T, batch_size=2, shuffle=True, rng=np.random.default_rng(0))
    next(iter(loader))
    other = COPIES[how](loader)
    for (a, b), (c, d) in zip(loader, other, strict=True):
        assert_close([c, d], [a, b])
    net = nn.Sequential(nn.Linear(4, 3))
    stopping = train.EarlyStopping("loss", 3)
    history = train.fit(net, F.cross_entropy, optim.Adam(net.parameters()), loader, 4, callbacks=[stopping], progress=False)
    for thing in (history, stopping):
        other = COPIES[how](thing)
        assert type(other) is type(thing)
    assert COPIES[how](history)["loss"] == history["loss"]
    w = weight()
    for make in (optim.SGD, optim.Adam):
        optimiser = COPIES[how](make([w], lr=0.5))
        (p,) = optimiser.params
        for _ in range(3):
            p.grad = Tensor(vec())
            optimiser.step()
        assert_close(w, vec(1))
        assert float(p.numpy()[0]) < 0


# Compiled steps


def doubled(x: Any) -> Any:
    return x * 2


@tg.compile
def decorated(x: Any) -> Any:
    return x * 3


class Holder:
    """What holds a compiled step, or has one by its class."""

    def __init__(self, k: float) -> None:
        self.w = weight(k)
        self.held, self.decorated = tg.compile(doubled), decorated

    @tg.compile
    def step(self, x: Any) -> Any:
        return x * self.w

    @functools.partial(tg.compile, keep_grads=True)
    def kept(self, x: Any) -> Any:
        (x * self.w).sum().backward()
        return x * 3

    @staticmethod
    @tg.compile
    def static(x: Any) -> Any:
        return x * 4

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return tg.compile(doubled)(x)

    def plain(self, x: Any) -> Any:
        return x * self.w * 5

    def __call__(self, x: Any) -> Any:
        return x * self.w * 6


@pytest.mark.parametrize("calls", [0, 1, 2, 4])
@pytest.mark.parametrize("how", ["deepcopy", "copy", "pickle"])
def test_copies_of_compiled_steps(how: str, calls: int) -> None:
    """A copy without plans that does the same; pickled where the function can be."""
    compiled = tg.compile(doubled) if how == "pickle" else tg.compile(lambda x: x * 2)
    for _ in range(calls):
        compiled(vec())
    other = {"copy": copy.copy, **COPIES}[how](compiled)
    for v in (1, 2, 3, 4):
        assert_close(other(vec(v)), vec(2 * v))
        assert_close(compiled(vec(v)), vec(2 * v))


@pytest.mark.parametrize("calls", [0, 1, 4])
@pytest.mark.parametrize("how", COPIES)
def test_copies_of_what_holds_a_compiled_step(how: str, calls: int) -> None:
    """Each with its own parameter."""
    a = Holder(2)
    for _ in range(calls):
        a.held(vec())
        a.decorated(vec())
        a.step(vec())
    b = COPIES[how](a)
    b.w.data[...] = 7
    for v in (1, 2, 3, 4):
        assert_close(a.step(vec(v)), vec(2 * v))
        assert_close(b.step(vec(v)), vec(7 * v))
        assert_close(b.held(vec(v)), vec(2 * v))
        assert_close(b.decorated(vec(v)), vec(3 * v))


def test_methods() -> None:
    """A decorated method is bound to its object; two objects have parameters of their own."""
    a, b = Holder(2), Holder(3)
    bound, callable_object, partial = tg.compile(a.plain), tg.compile(b), tg.compile(functools.partial(Holder.plain, b))
    for v in (1, 2, 3, 4, 5):
        x = vec(v)
        assert_close(a.step(x), 2 * x)
        assert_close(b.step(x), 3 * x)
        assert_close(Holder.step(a, x), 2 * x)
        assert_close(a.kept(x), 3 * x)
        assert_close(Holder.static(x), 4 * x)
        assert_close(a.static(x), 4 * x)
        assert_close(Holder.of_class(x), 2 * x)
        assert_close(bound(x), 10 * x)
        assert_close(callable_object(x), 18 * x)
        assert_close(partial(x), 15 * x)
    assert_close(a.w.grad, vec(15))
    assert a.step.__name__ == "step"


def test_methods_do_not_keep_their_objects() -> None:
    import gc
    import weakref

    a = Holder(2)
    for _ in range(4):
        a.step(vec())
    gone = weakref.ref(a)
    del a
    gc.collect()
    assert gone() is None
