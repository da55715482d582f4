"""C: samples split between threads, however many of either there are; the sums are those of the whole.

A race shows as ten calls that differ: with a learning rate of 0 the replays are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, ops, optim
from tensorgrad.kernels.threads import controls_blas
from tensorgrad.nn import functional as F
from tests.compiled import World, agree, as_tensors, assert_close, kernels, lowered, num_threads, training

BATCHES = {1: (7,), 2: (1, 7), 3: (2, 7), 12: (1, 7)}  # threads: samples
CONTROLLED = pytest.mark.skipif(
    not controls_blas(), reason="needs threadpoolctl, without which samples are not split: pip install threadpoolctl"
)


@contextmanager
def split(threads: int, rows: int = 2) -> Iterator[None]:
    """Every step in so many threads, each of which does about so many samples of 8 float64 at a time."""
    low = lowered(ROWS_FLOPS=0, ROWS_BYTES=rows * 64, CHAIN_THREADS=16)
    with num_threads(threads), low:
        yield


# Values on the way, of every op, that are wanted outside

ON_THE_WAY: dict[str, Callable[[Any, Any], Any]] = {  # of h (n, 4) that comes of a layer, and labels (n)
    "h": lambda h, t: h,
    "softmax": lambda h, t: h.softmax(),
    "log_softmax": lambda h, t: h.log_softmax(),
    "softmax over samples": lambda h, t: h.softmax(0),
    "softmax and more": lambda h, t: (h.softmax(), h.softmax() * 2, h.log_softmax().sum(0)),
    "one_hot": lambda h, t: ops.one_hot(t, 4, h.dtype) * h,
    "one_hot alone": lambda h, t: (ops.one_hot(t, 4), h.sum()),
    "exp": lambda h, t: h.exp(),
    "gelu": lambda h, t: h.gelu(),
    "relu": lambda h, t: h.relu(),
    "booleans": lambda h, t: h > 0,
    "sum of samples": lambda h, t: (h * 2).sum(0),
    "sum of rows": lambda h, t: (h * 2).sum(-1),
    "sums kept": lambda h, t: (h.sum(0, keepdims=True), h.sum(1, keepdims=True)),
    "largest": lambda h, t: (h.max(0), h.max(1), h.min()),
    "means": lambda h, t: (h.mean(), h.mean(0), h.mean(1), h - h.mean(0)),
    "spread": lambda h, t: (h.var(0), h.std(1), h.norm(1)),
    "product of rows": lambda h, t: h.prod(1),
    "index of the largest": lambda h, t: (h.argmax(1), h.argmax(0)),
    "running sums": lambda h, t: (h.cumsum(1), h.cumsum(0)),
    "transpose": lambda h, t: h.T * 2,
    "flat": lambda h, t: h.reshape(-1) * 2,
    "three axes": lambda h, t: h.reshape(h.shape[0], 2, 2).sum(1),
    "three axes, turned": lambda h, t: h.reshape(h.shape[0], 2, 2).transpose(0, 2, 1) + 1,
    "in front": lambda h, t: h.reshape(1, *h.shape) * 3,
    "columns": lambda h, t: (h[:, 1:3] * 2, h[:, 0]),
    "samples": lambda h, t: (h[:1] * 2, h[::-1], h[0] * h),
    "samples by number": lambda h, t: h[np.zeros(3, int)],
    "elements": lambda h, t: h[np.arange(h.shape[0]), t],
    "joined": lambda h, t: (ops.concatenate([h, h * 2], axis=1), ops.concatenate([h, h * 2])),
    "stacked": lambda h, t: (ops.stack([h, h * 2], axis=0).sum(0), ops.stack([h, h], axis=1).sum(1)),
    "turned round": lambda h, t: (h.flip(0) + h, h.roll(1, 0) * h, h.flip(1)),
    "gram": lambda h, t: (h @ h.T, h.T @ h, (h @ h.T).sum(0)),
    "losses": lambda h, t: (F.cross_entropy(h, t), F.cross_entropy(h, t, reduction="none"), F.cross_entropy(h * 2, t)),
    "smoothed losses": lambda h, t: F.cross_entropy(h, t, label_smoothing=0.1, reduction="none"),
    "normed": lambda h, t: F.layer_norm(h, 4),
    "normed over samples": lambda h, t: (h - h.mean(0)) / (h.var(0) + 1).sqrt(),
    "embedding": lambda h, t: F.embedding(t, Tensor(np.arange(8.0).reshape(4, 2))) + h[:, :2],
    "chosen": lambda h, t: ops.where(h > 0, h, h.exp()),
    "in integers": lambda h, t: (h * 10).astype("int64") + t.reshape(-1, 1),
    "in float32": lambda h, t: h.astype("float32") * 2,
    "repeated": lambda h, t: (h.sum(0).broadcast_to(h.shape) * h, h.sum(1).broadcast_to((2, h.shape[0]))),
}


@CONTROLLED
@pytest.mark.parametrize("threads", BATCHES)
@pytest.mark.parametrize("name", ON_THE_WAY)
def test_values_on_the_way_are_wanted(name: str, threads: int) -> None:
    """With the gradient of the parameters, which is summed over the samples."""
    for n in BATCHES[threads]:
        rng = np.random.default_rng(0)

        def make() -> World:
            layer = nn.Linear(5, 4, rng=np.random.default_rng(0), dtype="float64")

            def step(x: Any, t: Any) -> Any:
                found = ON_THE_WAY[name](layer(x), t)
                parts = found if isinstance(found, tuple) else (found,)
                total = sum((v * v).sum() for v in parts if v.requires_grad) + layer(x).sum()
                return found, total, tg.grad(total, list(layer.parameters()))

            return World(step)

        calls = [(rng.normal(size=(n, 5)), rng.integers(0, 4, n)) for _ in range(4)]
        with split(threads):
            agree(make, calls, rtol=1e-5 if "float32" in name else 1e-10, may_refuse=False, replays=True)


@CONTROLLED
@pytest.mark.parametrize(("n", "threads"), [(2, 5), (8, 12), (1, 3), (2, 2), (7, 3)])
def test_replays_of_one_batch_are_the_same(n: int, threads: int) -> None:
    """So wide that threads run at the same time, and often."""
    rng = np.random.default_rng(0)
    tg.manual_seed(0)
    net = nn.Sequential(nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 4))
    x, t = rng.normal(size=(n, 600)).astype("float32"), rng.integers(0, 4, n)
    step = training(lambda x, t: F.cross_entropy(net(x), t), optim.SGD(net.parameters(), lr=0.0))
    expected = step(*as_tensors((x, t))).item()
    with lowered(ROWS_FLOPS=0), num_threads(threads), kernels(numba=True):
        compiled = tg.compile(step)
        losses = [compiled(x, t).item() for _ in range(60)]
    assert len(set(losses[2:])) == 1
    assert losses[-1] == pytest.approx(expected, rel=1e-5)


@CONTROLLED
@pytest.mark.parametrize("threads", [2, 12])
@pytest.mark.parametrize("numba", [False, True], ids=["numpy", "numba"])
def test_training_with_more_threads_than_samples(numba: bool, threads: int) -> None:
    rng = np.random.default_rng(0)

    def make() -> World:
        tg.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype="float64")
        step = training(lambda x, t: F.cross_entropy(net(x), t), optim.Adam(net.parameters(), lr=0.01))
        return World(step, net.state_dict)

    for n in (1, 2, 7):
        calls = [(rng.normal(size=(n, 6)), rng.integers(0, 4, n)) for _ in range(6)]
        with split(threads), kernels(numba):
            agree(make, calls, rtol=1e-8, may_refuse=False, replays=True)


# Axes that are as long as there are samples, and are none

AXES: dict[str, Callable[[Any, Any, Any], Any]] = {  # of samples x (n, n), a vector v (n), and a weight w (n, n)
    "v as rows": lambda x, v, w: np.broadcast_to(v, (len(v), len(v))) @ w + 0 * x,
    "v as samples": lambda x, v, w: v.reshape(-1, 1) * x @ w,
    "v as columns": lambda x, v, w: np.broadcast_to(v.reshape(-1, 1), x.shape) @ w + x,
    "v twice": lambda x, v, w: (x * v + v.reshape(-1, 1)) @ w,
    "turned": lambda x, v, w: x.T @ w + x,
    "turned and back": lambda x, v, w: ((x @ w).T * 2).T + x.T,
    "times itself": lambda x, v, w: x @ x,
    "times itself, turned": lambda x, v, w: x @ x.T @ w,
    "times itself, turned first": lambda x, v, w: (x.T @ x).sum(0) * x,
    "sum over samples": lambda x, v, w: (x @ w).sum(0) * x,
    "sum over the others": lambda x, v, w: (x @ w).sum(1) * x,
    "sums of both": lambda x, v, w: (x @ w).sum(0) + (x @ w).sum(1),
    "three axes": lambda x, v, w: (x.reshape(-1, 1, len(v)) * w).sum(0),
    "three axes, the middle one": lambda x, v, w: (x.reshape(-1, 1, len(v)) * w).sum(1),
    "three axes, repeated in front": lambda x, v, w: np.broadcast_to(x, (len(v), len(v), len(v))).sum(0),
    "three axes, repeated behind": lambda x, v, w: (np.broadcast_to(x, (len(v), len(v), len(v))) * w).sum(1),
    "flat": lambda x, v, w: (x @ w).reshape(-1).reshape(len(v), len(v)) * 2,
    "weights only": lambda x, v, w: (w @ w) * 2 + x,
    "weight first": lambda x, v, w: w @ x,
    "weight, sum of its rows": lambda x, v, w: x @ w + w.sum(1),
    "other way round": lambda x, v, w: x[::-1] @ w + x,
    "shifted": lambda x, v, w: np.roll(x, 1, 0) @ w,
    "joined": lambda x, v, w: np.concatenate([x, w], axis=1).sum(1) + np.concatenate([x, w], axis=0).sum(0),
    "diagonal": lambda x, v, w: np.diagonal(x @ w) * v,
    "vector times samples": lambda x, v, w: v @ x + x @ v,
    "outer": lambda x, v, w: np.outer(v, v) + x @ w,
    "largest": lambda x, v, w: (x @ w).max(0) + (x @ w).max(1),
    "kept": lambda x, v, w: x / (x * x).sum(0, keepdims=True) + x / (x * x).sum(1, keepdims=True),
    "centred": lambda x, v, w: ((x - x.mean(0)) @ w - x.mean(1, keepdims=True)).mean(0),
}


@CONTROLLED
@pytest.mark.parametrize("threads", BATCHES)
@pytest.mark.parametrize("name", AXES)
def test_axes_as_long_as_the_batch(name: str, threads: int) -> None:
    """NumPy's own values."""
    rng = np.random.default_rng(0)
    for n in (1, 4) if threads == 12 else (4, 7):
        with split(threads, rows=1 + n // 4):
            w = rng.normal(size=(n, n))
            compiled = tg.compile(partial(AXES[name], w=Tensor(w)))
            for _ in range(4):
                x, v = rng.normal(size=(n, n)), rng.normal(size=n)
                assert_close(compiled(x, v), AXES[name](x, v, w), 1e-11, f"{n}")


@CONTROLLED
def test_with_the_thresholds_as_they_are() -> None:
    """A softmax that is returned, and a vector that is repeated, in steps as large as those that are split by default."""
    layer = nn.Linear(512, 64)
    predict = tg.compile(lambda x: layer(x).softmax())
    x = np.random.default_rng(0).random((20_000, 512), dtype="float32")
    v, square = x.ravel()[:1200].copy(), nn.Linear(1200, 512)
    repeat = tg.compile(lambda x, v: square(v.broadcast_to((1200, 1200))) + 0 * x[:, :512])
    for _ in range(4):
        z = x[:100].astype("f8") @ layer.weight.detach().numpy() + layer.bias.detach().numpy()
        assert_close(predict(x)[:100].numpy(), (np.exp(z) / np.exp(z).sum(1, keepdims=True)).astype("float32"), 1e-4)
        expected = v @ square.weight.detach().numpy() + square.bias.detach().numpy()
        assert_close(repeat(np.zeros((1200, 1200), "float32"), v)[7], expected, 1e-4)
        x, v = x[::-1].copy(), v[::-1].copy()
