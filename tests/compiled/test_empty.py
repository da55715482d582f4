"""L: arrays without elements, numbers without axes, and axes of length 1: values and gradients are those of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, ops, optim
from tensorgrad.errors import TensorgradError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tests.compiled import World, agree, as_tensors, training

OPS = {name: op for name, op in REGISTRY.items() if type(op).__module__.startswith("tensorgrad.") and name != "checkpoint"}
SHAPES = [(), (0,), (1,), (0, 3), (3, 0), (0, 0), (1, 1), (0, 1), (1, 0), (2, 0, 3), (1, 0, 1)]


def check(f: Callable[..., Any], arrays: list[np.ndarray]) -> None:
    """Four calls with gradients for all that can have one; what the step refuses is refused in the same way."""

    def step(*xs: Any) -> Any:
        y = f(*xs)
        leaves = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
        return y, tg.grad(y.sum(), leaves, allow_unused=True) if y.requires_grad else None

    calls = [tuple(Tensor(a * k, requires_grad=True) if a.dtype.kind == "f" else a for a in arrays) for k in (1, 1, 0.5, 1)]
    with np.errstate(all="ignore"):
        try:
            step(*as_tensors(calls[0]))
        except TensorgradError as error:
            with pytest.raises(type(error)):
                tg.compile(step)(*calls[0])
            return
        agree(lambda: World(step), calls, rtol=1e-9, may_refuse=False, replays=True)


@pytest.mark.parametrize("sizes", [(0,), (1,), (0, 3)], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_every_op(name: str, sizes: tuple[int, ...]) -> None:
    """With the arguments that it draws itself, of axes of these lengths."""
    op = OPS[name]
    for seed in range(2):
        try:
            args, attrs = op.sample(np.random.default_rng(seed), sizes)
        except (ValueError, ZeroDivisionError):
            continue  # has nothing to draw of that size
        data = [op.is_data(i) for i in range(len(args))]

        def f(*xs: Any, op: Any = op, attrs: Any = attrs, data: Any = data) -> Any:
            return op(*[x.detach() if d and isinstance(x, Tensor) else x for x, d in zip(xs, data, strict=True)], **attrs)

        check(f, [np.asarray(a) for a in args])


UNARY: dict[str, Callable[[Any], Any]] = {
    **{n: getattr(ops, n) for n in ("exp", "abs", "relu", "gelu", "sigmoid", "square", "neg")},
    "sum": lambda x: x.sum(),
    "sum over axis 0": lambda x: x.sum(0),
    "sum over axis -1": lambda x: x.sum(-1),
    "sum over every axis": lambda x: x.sum(tuple(range(x.ndim))),
    "sum, kept": lambda x: x.sum(keepdims=True) * x,
    "mean": lambda x: x.mean(),
    "mean over axis 0": lambda x: x.mean(0),
    "max": lambda x: x.max(),
    "max over axis 0": lambda x: x.max(0),
    "min over axis -1": lambda x: x.min(-1),
    "prod": lambda x: x.prod(),
    "prod over axis 0": lambda x: x.prod(0),
    "var": lambda x: x.var(),
    "std": lambda x: x.std(),
    "norm": lambda x: x.norm(),
    "norm over axis 0": lambda x: x.norm(0),
    "logsumexp": lambda x: x.logsumexp(),
    "logsumexp over axis -1": lambda x: x.logsumexp(-1),
    "softmax": lambda x: x.softmax(-1) * x,
    "log_softmax": lambda x: x.log_softmax(-1) * x,
    "cumsum": lambda x: x.cumsum(),
    "cumsum over axis 0": lambda x: x.cumsum(0),
    "argmax": lambda x: x.argmax() * x,
    "reshape": lambda x: x.reshape(-1) * 2 if x.size else x.reshape(x.shape),
    "transpose": lambda x: (x * 2).T,
    "flip": lambda x: x.flip() * 2,
    "joined": lambda x: ops.concatenate([x.reshape(-1, 1), x.reshape(-1, 1)]) * 2 if x.ndim else x * 2,
    "joined with itself": lambda x: ops.concatenate([y := x * 2, y]) + 1 if x.ndim else x * 2,
    "stacked": lambda x: ops.stack([x, x * 2]).sum(0),
    "repeated": lambda x: x.broadcast_to((2, *x.shape)) * x,
    "chain": lambda x: ((x * 2 + 1).tanh() * x).sum(0) if x.ndim else (x * 2 + 1).tanh() * x,
    "product": lambda x: x.reshape(x.shape[0], -1) @ x.reshape(x.shape[0], -1).T if x.size and x.ndim else x * 1,
    "product of nothing": lambda x: x @ x.T if x.ndim == 2 else x * 1,
    "slice": lambda x: x[:0] * 2 if x.ndim else x[...] * 2,
    "all of it": lambda x: x[...] * x,
    "index": lambda x: x[np.zeros(0, int)] if x.ndim else x * 1,
    "clip": lambda x: x.clip(0.1, 0.5),
    "where": lambda x: ops.where(x > 0.5, x, 0.0),
    "astype": lambda x: x.astype("float32") * 2,
    "pad": lambda x: ops.pad(x, 1) if x.ndim else x * 1,
    "einsum": lambda x: ops.einsum("...,...->...", x, x),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions(name: str) -> None:
    for shape in SHAPES:
        try:
            check(UNARY[name], [np.random.default_rng(0).uniform(0.2, 1, shape)])
        except BaseException as error:
            error.add_note(f"of shape {shape}")
            raise


LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": F.cross_entropy,
    "nll_loss": lambda z, t, **k: F.nll_loss(z.log_softmax(), t, **k),
    "smoothed": lambda z, t, **k: F.cross_entropy(z, t, label_smoothing=0.1, **k),
    "weighted": lambda z, t, **k: F.cross_entropy(z, t, np.ones(z.shape[-1]), **k),
    "ignored": lambda z, t, **k: F.cross_entropy(z, t, ignore_index=0, **k),
    "of probabilities": lambda z, t, **k: F.cross_entropy(z, z.detach().softmax(), **k),
    "mse": lambda z, t, **k: F.mse_loss(z, z.detach() * 2, **k),
    "l1": lambda z, t, **k: F.l1_loss(z, z.detach() * 2, **k),
    "huber": lambda z, t, **k: F.huber_loss(z, z.detach() * 2, **k),
    "kl_div": lambda z, t, **k: F.kl_div(z.log_softmax(), z.detach().softmax(), **k),
    "logits": lambda z, t, **k: F.binary_cross_entropy_with_logits(z, z.detach().sigmoid(), **k),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, reduction: str) -> None:
    for shape in ((0, 3), (1, 3), (1, 1), (0, 1), (0, 2, 3), (2, 0, 3)):
        z, t = np.random.default_rng(0).normal(size=shape), np.zeros(shape[:-1], int)
        check(lambda z, t: LOSSES[name](z, t, reduction=reduction), [z, t])


def test_losses_of_nothing_are_0() -> None:
    f = tg.compile(lambda z: F.cross_entropy(z, np.zeros(0, int)))
    g = tg.compile(lambda z, t: F.cross_entropy(z, t))
    for _ in range(4):
        assert f(np.zeros((0, 3), "float32")).item() == 0
        assert g(np.zeros((0, 3)), np.zeros(0, int)).item() == 0


def test_a_log_softmax_of_one_number_has_the_gradient_0() -> None:
    w = Tensor(np.ones(3), requires_grad=True)

    def step(x: Any) -> Any:
        w.grad = None
        w.sum().log_softmax(-1).backward()
        return w.grad

    compiled = tg.compile(step)
    for _ in range(4):
        assert compiled(np.ones(3)).tolist() == [0, 0, 0]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
    "gelu": lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)),
    "layer norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
    "dropout": lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5, rng=np.random.default_rng(0)), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("optimiser", [lambda p: optim.SGD(p, 0.1, momentum=0.9), optim.Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("model", MODELS)
def test_training_with_empty_batches(model: str, optimiser: Any) -> None:
    """Batches of 4 samples, of none and of 2, in turns."""
    rng = np.random.default_rng(0)

    def make() -> World:
        tg.manual_seed(0)
        net = MODELS[model]().to(dtype="float64")
        step = training(lambda x, t: F.cross_entropy(net(x), t), optimiser(net.parameters()))
        return World(step, net.state_dict)

    calls = [(rng.normal(size=(n, 3)), rng.integers(0, 2, n)) for n in (4, 0, 2) * 4]
    assert agree(make, calls, rtol=1e-8, may_refuse=False).runs <= 7
