"""B: two values lie in one place only where they lie alike. In each shape here several layouts have equally many bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.nn import functional as F
from tests.compiled import KERNELS, World, agree, assert_close, kernels, lowered, num_threads, training
from tests.strategies import generators

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "leaky": nn.LeakyReLU}
SHAPES = [(), (1,), (3,), (1, 1), (1, 3), (3, 1), (1, 1, 3), (1, 3, 1), (3, 1, 1), (2, 1, 3), (1, 2, 3), (2, 3, 1)]


def gradients(d: int, h: int, m: int, activation: str, l2: float, dtype: str) -> Callable[[], World]:
    """The gradients of an MLP, returned."""

    def make() -> World:
        tg.manual_seed(0)
        net = nn.Sequential(nn.Linear(d, h), ACTIVATIONS[activation](), nn.Linear(h, m)).to(dtype=dtype)

        def step(x: Any) -> Any:
            loss = (net(x) ** 2).mean()
            if l2:
                loss = loss + l2 * sum((p * p).sum() for p in net.parameters())
            loss.backward()
            found = [p.grad for p in net.parameters()]
            net.zero_grad()
            return loss, found

        return World(step)

    return make


@pytest.mark.every(3)
@pytest.mark.parametrize("l2", [0.0, 0.01], ids=["", "l2"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_few_samples(activation: str, l2: float) -> None:
    """One sample, one feature, one hidden unit, one result."""
    rng = np.random.default_rng(0)
    for d, h, m in ((3, 4, 3), (1, 4, 1), (4, 1, 4), (1, 1, 1), (3, 3, 3)):
        for n in (1, 2, 3, 4):
            calls = [(rng.normal(size=(n, d)),) for _ in range(4)]
            agree(gradients(d, h, m, activation, l2, "float64"), calls, may_refuse=False, replays=True)


@pytest.mark.parametrize("l2", [0.0, 0.01], ids=["", "l2"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gradients_of_one_sample_by_numba(activation: str, l2: float) -> None:
    rng = np.random.default_rng(0)
    with kernels(numba=True):
        calls = [(rng.normal(size=(1, 3)),) for _ in range(4)]
        agree(gradients(3, 4, 3, activation, l2, "float64"), calls, may_refuse=False, replays=True)


def test_one_sample_by_the_formula() -> None:
    """y = W2 relu(W1 x + b1) + b2, L = mean y²: the gradient of b1 is 2/m W2 y where h > 0."""
    tg.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype="float64")

    @tg.compile
    def step(x: Any) -> Any:
        (net(x) ** 2).mean().backward()
        found = [p.grad for p in net.parameters()]
        net.zero_grad()
        return found

    w1, b1, w2, b2 = [p.detach().numpy() for p in net.parameters()]
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.normal(size=(1, 3))
        h = np.maximum(x @ w1 + b1, 0)
        gy = 2 / 3 * (h @ w2 + b2)
        gh = gy @ w2.T * (h > 0)
        assert_close(step(x), [x.T @ gh, gh.sum(0), h.T @ gy, gy.sum(0)], 1e-12)


@pytest.mark.parametrize("optimiser", [optim.SGD, optim.Adam, optim.RMSprop, optim.Adagrad])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_with_last_batches_of_one(activation: str, optimiser: Any) -> None:
    """Batches of 3 and of 1 sample in turns, each with a plan of its own."""
    rng = np.random.default_rng(0)

    def make() -> World:
        tg.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), ACTIVATIONS[activation](), nn.Linear(4, 1)).to(dtype="float64")
        return World(training(lambda x, y: F.mse_loss(net(x), y), optimiser(net.parameters(), lr=0.01)), net.state_dict)

    calls = [(rng.normal(size=(n, 4)), rng.normal(size=(n, 1))) for n in (3, 3, 3, 1) * 4]
    assert agree(make, calls, rtol=1e-9, may_refuse=False).runs <= 4


def with_classes(z: Any, t: Any) -> Any:
    return F.cross_entropy(z, t)


HEADS: dict[str, Callable[[Any, Any], Any]] = {
    "cross entropy": with_classes,
    "smoothed": lambda z, t: F.cross_entropy(z, t, label_smoothing=0.1),
    "none": lambda z, t: F.cross_entropy(z, t, reduction="none").sum(),
    "of logits": lambda z, t: F.binary_cross_entropy_with_logits(z, z.detach() * 0 + 1),
    "hinge": lambda z, t: np.maximum(1 - z, 0).mean(),
    "softmax": lambda z, t: (z.softmax() ** 2).sum(),
    "normed": lambda z, t: F.layer_norm(z, z.shape[-1]).sum() + (z * z).sum(),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (2, 1), (1, 1, 1), (1, 2, 1), (2, 1, 1), (1, 1, 3)], ids=str)
def test_one_class_one_feature_one_step(shape: tuple[int, ...], head: str) -> None:
    rng = np.random.default_rng(0)

    def make() -> World:
        tg.manual_seed(0)
        layer = nn.Linear(shape[-1], shape[-1]).to(dtype="float64")

        def step(x: Any, t: Any) -> Any:
            HEADS[head](layer(x).tanh(), t).backward()
            found = [p.grad for p in layer.parameters()]
            layer.zero_grad()
            return found

        return World(step)

    calls = [(rng.normal(size=shape), rng.integers(0, shape[-1], shape[:-1])) for _ in range(4)]
    agree(make, calls, may_refuse=False, replays=True)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("n", [1, 2])
def test_sequences_of_one_step(n: int, steps: int) -> None:
    rng = np.random.default_rng(0)

    def make() -> World:
        tg.manual_seed(0)
        cell, inner = nn.Linear(3, 3).to(dtype="float64"), nn.Linear(2, 3).to(dtype="float64")
        optimiser = optim.SGD([*cell.parameters(), *inner.parameters()], lr=0.1, momentum=0.9)

        def loss(x: Any) -> Any:
            h = inner(x[:, 0]).tanh()
            for t in range(1, steps):
                h = (inner(x[:, t]) + cell(h)).tanh()
            return (h * h).mean() + sum((p * p).sum() for p in cell.parameters())

        return World(training(loss, optimiser), lambda: (cell.state_dict(), inner.state_dict()))

    agree(make, [(rng.normal(size=(n, steps, 2)),) for _ in range(5)], may_refuse=False, replays=True)


# Formulas whose values are sums, repetitions, transposes and parts of each other

FORMULAS: dict[str, Callable[[Any], Any]] = {
    "sum and operand": lambda x: (x * 2).sum(0) + (x * 2) * x,
    "sum read by what it is of": lambda x: np.exp(x) * np.exp(x).sum(0),
    "every sum": lambda x: [(np.exp(x) + i).sum(i) for i in range(x.ndim)],
    "every sum, kept": lambda x: [np.exp(x) / np.exp(x).sum(i, keepdims=True) for i in range(x.ndim)],
    "sum alone": lambda x: (np.tanh(x * 3)).sum(0),
    "sum after use": lambda x: (np.tanh(x).sum(0), np.tanh(x) * 3, (np.tanh(x) * 3).sum(-1)),
    "reshaped": lambda x: (np.exp(x).reshape(-1) * 2, np.exp(x).reshape(-1).sum(0), np.exp(x).sum(0)),
    "transposed": lambda x: ((x * 2).T.sum(0), (x * 2).T * 3, (x * 2).sum(0)),
    "repeated": lambda x: np.exp((x * 2).sum(0)) * (x * 2) - np.broadcast_to((x * 2).sum(0), x.shape),
    "mean and centred": lambda x: (x - x.mean(0), ((x - x.mean(0)) ** 2).mean(0), x.mean(-1)),
    "largest": lambda x: (np.exp(x).max(0), np.exp(x) - np.exp(x).max(0), np.exp(x).min(-1)),
    "joined": lambda x: np.concatenate([np.exp(x), np.exp(x).sum(0, keepdims=True), x * 2]).sum(0),
    "taken": lambda x: (np.exp(x)[0] * 2, np.exp(x)[:1].sum(0) + np.exp(x)),
    "product": lambda x: ((x * 2).reshape(x.shape[0], -1) @ (x * 2).reshape(x.shape[0], -1).T, (x * 2).sum(0)),
    "outer": lambda x: (x * 2).reshape(-1, 1) * (x + 1).reshape(1, -1) + (x * 2).sum(),
}


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_of_thin_arrays(name: str, shape: tuple[int, ...]) -> None:
    """NumPy's own values."""
    rng = np.random.default_rng(0)
    compiled = tg.compile(FORMULAS[name])
    with lowered(SLICE=2, CHAIN_THREADS=4), num_threads(2):
        for _ in range(4):
            x = rng.normal(size=shape)
            assert_close(compiled(x), FORMULAS[name](x), 1e-11)
    assert compiled.plan is not None


PLAIN: dict[str, Callable[[Any], Any]] = {  # what Numba makes a loop of
    "sum and operand": lambda x: ((x * 2).sum(0), (x * 2) * x),
    "sum alone": lambda x: (x * 3 + 1).sum(0),
    "sum of where": lambda x: np.where(x > 0, x * 2, 0).sum(0),
    "two sums": lambda x: ((x * 2).sum(0), (x * 2 * x).sum(0)),
    "sum and a row": lambda x: ((x * x[0]).sum(0), x * x[0]),
}


@KERNELS
@pytest.mark.parametrize("name", PLAIN)
def test_plain_formulas_of_thin_arrays(name: str, numba: bool) -> None:
    rng = np.random.default_rng(0)
    with kernels(numba):
        for shape in ((1, 3), (3, 1), (1, 1), (2, 3), (1, 1, 3)):
            compiled = tg.compile(PLAIN[name])
            for _ in range(4):
                x = rng.normal(size=shape)
                assert_close(compiled(x * 1), PLAIN[name](x), 1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_written_in_the_place_of_what(shape: tuple[int, ...]) -> None:
    """A parameter of each shape that sums are taken of, and that is written over in its own memory."""
    rng = np.random.default_rng(0)

    def make() -> World:
        w, total = Tensor(np.full(shape, 0.5), True), Tensor(np.zeros(shape[1:]))
        optimiser = optim.SGD([w], lr=0.1, momentum=0.5)

        def step(x: Any) -> Any:
            loss = (np.tanh(w * x) ** 2).sum() + (w * x).sum(tuple(range(len(shape) - 1))).sum()
            optimiser.zero_grad()
            loss.backward()
            total.__iadd__((w.grad * w.detach()).sum(0) if shape else w.grad * w.detach())
            optimiser.step()
            return loss, w * 1

        return World(step, lambda: (w, total, optimiser.state))

    agree(make, [(rng.normal(size=shape),) for _ in range(5)], may_refuse=False, replays=True)


UNARY: list[Callable[[Any], Any]] = [np.tanh, np.square, np.negative, lambda x: x * 0.5, lambda x: np.maximum(x, 0.1)]
SHAPING: list[Callable[[Any], Any]] = [
    lambda x: x.sum(0) if x.ndim else x,
    lambda x: x.sum(-1, keepdims=True) if x.ndim else x,
    lambda x: x.mean(0, keepdims=True) if x.ndim else x,
    lambda x: x.max(0) if x.ndim else x,
    lambda x: x.reshape(-1),
    lambda x: x.reshape(1, -1),
    lambda x: x.reshape(-1, 1),
    lambda x: x.T,
    lambda x: x[:1] if x.ndim else x,
    lambda x: np.broadcast_to(x, (1, *x.shape)),
]
BINARY: list[Callable[[Any, Any], Any]] = [np.add, np.multiply, np.subtract, np.minimum]


@given(rng=generators(), size=st.integers(3, 14))
def test_random_formulas_of_thin_arrays(rng: np.random.Generator, size: int) -> None:
    """Every value on the way is wanted, or only the last ones: NumPy's own values."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    program = [(*rng.integers(0, 3, 1), *rng.integers(0, 1000, 3)) for _ in range(size)]
    wanted = rng.random(size) < rng.choice([0.2, 0.5, 1])
    wanted[-1] = True

    def formula(x: Any) -> Any:
        known = [x]
        for kind, f, i, j in program:
            a, b = known[-1 - i % len(known)], known[-1 - j % min(len(known), 3)]
            if kind == 0:
                known.append(UNARY[f % len(UNARY)](a))
            elif kind == 1:
                known.append(SHAPING[f % len(SHAPING)](a))
            else:
                fits = np.prod(np.broadcast_shapes(a.shape, b.shape)) <= 64 if broadcasts(a.shape, b.shape) else False
                known.append(BINARY[f % len(BINARY)](a, b) if fits and max(a.ndim, b.ndim) < 5 else a * 0.5)
        return [known[1 + k] for k in np.flatnonzero(wanted)]

    compiled = tg.compile(formula)
    with np.errstate(all="ignore"):
        for _ in range(4):
            x = rng.normal(size=shape)
            assert_close(compiled(x), [np.asarray(v) for v in formula(x)], 1e-9)


def broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))
