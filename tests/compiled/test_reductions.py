"""A: reductions inside of kernels that go over an array part by part count every part. Oracle: NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.nn import functional as F
from tests.compiled import KERNELS, ROUNDING, World, agree, assert_close, kernels, lowered, num_threads, training

SLICE, CHAIN_THREADS = 64, 512  # set as low as that

# of x (n, m), a row (m) and a column (n, 1); NumPy's functions are tensorgrad's on Tensors
PLAIN: dict[str, Callable[..., Any]] = {  # what Numba makes a loop of
    "x": lambda x, row, column: x.sum(0),
    "2x": lambda x, row, column: (x * 2).sum(0),
    "square": lambda x, row, column: (x**2).sum(0),
    "mean": lambda x, row, column: (x * 2).mean(0),
    "with a row": lambda x, row, column: ((x + row) * row).sum(0),
    "with a column": lambda x, row, column: ((x + column) * x).sum(0),
    "where": lambda x, row, column: np.where(x > 0, x, 0.1 * x).sum(0),
    "maximum": lambda x, row, column: np.maximum(x, 0).sum(0),
    "and all of it": lambda x, row, column: ((x * 2 + 1), (x * 2 + 1).sum(0)),
    "two sums": lambda x, row, column: ((x * 2).sum(0), (x * 2 * row).sum(0)),
    "centred": lambda x, row, column: ((x - x.mean(0)) ** 2).sum(0),
}
OTHER: dict[str, Callable[..., Any]] = {
    "exp": lambda x, row, column: np.exp(x).sum(0),
    "exp, kept axes": lambda x, row, column: np.exp(x).sum(0, keepdims=True),
    "tanh": lambda x, row, column: np.tanh(x * row).mean(0),
    "log": lambda x, row, column: np.log(x * x + 1).sum(0),
    "exp and all of it": lambda x, row, column: (np.exp(x), np.exp(x).sum(0)),
    "exp with a column": lambda x, row, column: (np.exp(x) * column).sum(0),
    "three sums": lambda x, row, column: (np.exp(x).sum(0), (np.exp(x) * x).sum(0), (np.exp(x) * row).mean(0)),
    "of rows": lambda x, row, column: np.exp(x).sum(-1),
    "softmax by hand": lambda x, row, column: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "of everything": lambda x, row, column: np.exp(x).sum(),
    "mean of everything": lambda x, row, column: (x * x).mean(),
    "variance": lambda x, row, column: np.var(x, 0) + np.std(x * 2, 0),
    "extremes": lambda x, row, column: (np.max(x * 2, 0), np.min(x * 2, 0), np.max(x * 2, -1)),
    "product": lambda x, row, column: np.prod(1 + x / 1000, 0),
    "counts": lambda x, row, column: (x > 0).sum(0),
    "three axes, first two": lambda x, row, column: np.exp(x).reshape(*x.shape[:1], 1, -1).sum((0, 1)),
    "three axes, the middle one": lambda x, row, column: np.exp(x).reshape(*x.shape[:1], 1, -1).sum(1),
    "three axes, the outer ones": lambda x, row, column: np.exp(x).reshape(1, *x.shape).sum((0, 2)),
    "three axes, the first": lambda x, row, column: np.exp(x).reshape(*x.shape, 1).sum(0),
}


def shapes(columns: tuple[int, ...] = (1, 3, 16)) -> Iterator[tuple[int, int]]:
    """Of sizes just below, at and above each threshold, of rows that do not divide them, and of very long rows."""
    for m in columns:
        for at in (SLICE, 2 * SLICE, CHAIN_THREADS):
            yield from ((at // m + i, m) for i in (-1, 0, 1, 2))
    yield from ((3 * SLICE // 2, 7), (2, 3 * SLICE), (5, SLICE + 1), (1, 2 * SLICE + 1), (101, 11))


def arguments(shape: tuple[int, int], dtype: str, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    n, m = shape
    return tuple(rng.uniform(-1, 1, s).astype(dtype) for s in ((n, m), (m,), (n, 1)))


def check(formula: Callable[..., Any], shape: tuple[int, int], dtype: str) -> None:
    compiled = tg.compile(formula)
    rng = np.random.default_rng(0)
    for _ in range(4):
        args = arguments(shape, dtype, rng)
        expected = formula(*[a.astype("float64") for a in args])
        found, expected = ([v] if not isinstance(v, tuple) else v for v in (compiled(*args), expected))
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            error = np.abs(a.numpy() - b).max(initial=0) / max(np.abs(b).max(initial=0), 1)
            assert error < ROUNDING[dtype], f"{shape}: {error:.1e}"
    assert compiled.plan is not None


@pytest.mark.parametrize(("dtype", "threads"), [("float32", 1), ("float64", 2)])
@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_reductions_of_chains(name: str, dtype: str, threads: int) -> None:
    """By NumPy's kernels, which all of them have where Numba is not installed."""
    some = list(shapes())[threads - 1 :: 2]
    with num_threads(threads), lowered(SLICE=SLICE, CHAIN_THREADS=CHAIN_THREADS):
        for shape in some:
            check((PLAIN | OTHER)[name], shape, dtype)


@pytest.mark.parametrize("name", PLAIN)
def test_reductions_of_chains_by_numba(name: str) -> None:
    with kernels(numba=True), num_threads(2), lowered(SLICE=SLICE, CHAIN_THREADS=CHAIN_THREADS):
        for shape in list(shapes())[::3]:
            check(PLAIN[name], shape, "float32")


@KERNELS
@pytest.mark.parametrize("shape", [(40_000, 2), (20_000, 8), (129, 257), (300_000, 2)])
@pytest.mark.parametrize("name", ["exp", "square", "two sums"])
def test_with_the_thresholds_as_they_are(name: str, shape: tuple[int, int], numba: bool) -> None:
    with kernels(numba):
        check((PLAIN | OTHER)[name], shape, "float64")


@KERNELS
def test_a_sum_of_ones(numba: bool) -> None:
    with kernels(numba):
        compiled = tg.compile(lambda x: np.exp(x).sum(0))
        for _ in range(4):
            assert compiled(np.zeros((40_000, 2))).tolist() == [40_000, 40_000]


# Gradients of biases, which are such sums

ACTIVATIONS = [nn.GELU, nn.SiLU, nn.ELU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.LeakyReLU]
LOSSES: dict[str, Callable[..., Any]] = {
    "mse": F.mse_loss,
    "huber": F.huber_loss,
    "logits": lambda z, y: F.binary_cross_entropy_with_logits(z, (y > 0).astype(z.dtype)),
    "classes": lambda z, y: F.cross_entropy(z, y.argmax(-1)),
}


def mlp(widths: tuple[int, ...], activation: Callable[[], Any], loss: str, dtype: str) -> Callable[[], World]:
    """Gradient descent of a model of these widths."""

    def make() -> World:
        tg.manual_seed(0)
        layers = [nn.Linear(a, b, dtype=dtype) for a, b in pairwise(widths)]
        net = nn.Sequential(*[part for layer in layers for part in (layer, activation())][:-1])
        step = training(lambda x, y: LOSSES[loss](net(x), y), optim.SGD(net.parameters(), lr=0.5))
        return World(step, net.state_dict)

    return make


@pytest.mark.parametrize(("loss", "dtype"), list(zip(LOSSES, ["float32", "float64"] * 2, strict=True)))
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.__name__)
def test_biases_learn_from_every_sample(activation: Any, loss: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    with lowered(SLICE=SLICE, CHAIN_THREADS=CHAIN_THREADS):
        for n, widths in ((17, (8, 8, 8)), (33, (4, 16, 16, 2)), (50, (3, 7, 5)), (129, (2, 1, 3)), (64, (4, 4, 4, 4))):
            batches = [(rng.normal(size=(n, widths[0])), rng.normal(size=(n, widths[-1]))) for _ in range(5)]
            calls = [tuple(a.astype(dtype) for a in batch) for batch in batches]
            agree(mlp(widths, activation, loss, dtype), calls, may_refuse=False, replays=True)


@KERNELS
@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
@pytest.mark.parametrize("shape", [(256, 16, 256, 256), (300, 16, 192, 192)], ids=str)
def test_the_last_bias_by_its_formula(shape: tuple[int, int, int, int], activation: Any, numba: bool) -> None:
    """Thresholds as they are; its gradient is 2 / (n m) sum of (z - y)."""
    n, d, h, m = shape
    rng = np.random.default_rng(0)
    tg.manual_seed(0)
    net = nn.Sequential(nn.Linear(d, h), activation(), nn.Linear(h, m)).to(dtype="float64")
    with kernels(numba):
        step = tg.compile(training(lambda x, y: F.mse_loss(net(x), y), optim.SGD(net.parameters(), lr=1.0)))
        for _ in range(4):
            x, y = rng.normal(size=(n, d)), rng.normal(size=(n, m))
            z, bias = net(Tensor(x)).detach().numpy(), net[2].bias.detach().numpy().copy()
            step(x, y)
            assert_close(bias - net[2].bias.detach().numpy(), 2 * (z - y).mean(0) / m, 1e-9)


@KERNELS
@pytest.mark.parametrize("keep_grads", [False, True])
def test_a_hidden_bias_and_a_loss_of_classes(keep_grads: bool, numba: bool) -> None:
    """Thresholds as they are; the gradient is that of the same loss, not compiled."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(256, 160)), rng.integers(0, 10, 256)
    tg.manual_seed(0)
    net = nn.Sequential(nn.Linear(160, 160), nn.GELU(), nn.Linear(160, 160), nn.GELU(), nn.Linear(160, 10)).to(dtype="float64")
    step = training(lambda x, y: F.cross_entropy(net(x), y), optim.SGD(net.parameters(), lr=1.0))
    with kernels(numba):
        compiled = tg.compile(step, keep_grads=keep_grads)
        for _ in range(4):
            (g,) = tg.grad(F.cross_entropy(net(Tensor(x)), y), [net[2].bias])
            before = net[2].bias.detach().numpy().copy()
            compiled(x, y)
            assert_close(before - net[2].bias.detach().numpy(), g, 1e-9)


def test_gradients_that_are_returned() -> None:
    rng = np.random.default_rng(0)

    def make() -> World:
        tg.manual_seed(0)
        net = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 1))

        def step(x: Any) -> Any:
            (net(x) ** 2).mean().backward()
            found = [p.grad for p in net.parameters()]
            net.zero_grad()
            return found

        return World(step)

    agree(make, [(rng.normal(size=(500, 100)).astype("float32"),) for _ in range(4)], may_refuse=False)


@KERNELS
def test_fit_is_the_same_compiled(numba: bool) -> None:
    """Thresholds as they are."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(512, 160)).astype("float32"), rng.normal(size=(512, 160)).astype("float32") + 1
    losses = []
    for compile in (False, True):
        tg.manual_seed(0)
        net = nn.Sequential(nn.Linear(160, 160), nn.GELU(), nn.Linear(160, 160))
        loader = data.DataLoader(x, y, batch_size=256, shuffle=False)
        optimiser = optim.SGD(net.parameters(), lr=0.5)
        with kernels(numba):
            losses.append(train.fit(net, F.mse_loss, optimiser, loader, 3, progress=False, compile=compile)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
