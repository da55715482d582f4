"""A to D at once: random training steps of sizes that the thresholds divide, against the step itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad as tg
from tensorgrad import nn, optim
from tensorgrad.nn import functional as F
from tests.compiled import KERNELS, World, agree, kernels, lowered, num_threads

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name) for name in ("ReLU", "GELU", "SiLU", "ELU", "Tanh", "Sigmoid", "LeakyReLU", "Softplus", "Identity")
}
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "mse": lambda z, y: F.mse_loss(z, y),
    "huber": lambda z, y: F.huber_loss(z, y),
    "l1": lambda z, y: F.l1_loss(z * 1.01, y),
    "logits": lambda z, y: F.binary_cross_entropy_with_logits(z, (y > 0).astype(z.dtype)),
    "classes": lambda z, y: F.cross_entropy(z, y.argmax(-1)),
    "probabilities": lambda z, y: F.cross_entropy(z, y.softmax()),
    "smoothed": lambda z, y: F.cross_entropy(z, y.argmax(-1), label_smoothing=0.1),
    "by hand": lambda z, y: -(y.softmax() * z.softmax().log()).sum() / z.shape[0],
    "kl": lambda z, y: F.kl_div(z.log_softmax(), y.softmax(), reduction="batchmean"),
}
OPTIMISERS: dict[str, Callable[[Any], optim.Optimiser]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01, eps=1e-3),  # so that noise in a small gradient stays small
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, eps=1e-3),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, eps=1e-2),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.05, eps=1e-3),
}
KEPT = ("used up", "kept", "returned", "accumulated")


class Program(NamedTuple):
    """A training step. widths: of the layers;  shared: whether one layer is used twice;  batch: samples."""

    widths: tuple[int, ...]
    activation: str
    norm: str
    shared: bool
    loss: str
    optimiser: str
    l2: bool
    clip: bool
    gradients: str
    dtype: str
    batch: int

    def make(self) -> World:
        tg.manual_seed(0)
        layers: list[nn.Module] = []
        for a, b in zip(self.widths[:-1], self.widths[1:], strict=True):
            layers += [nn.Linear(a, b), ACTIVATIONS[self.activation]()]
            if self.norm == "layer":
                layers.append(nn.LayerNorm(b))
            elif self.norm == "batch" and self.batch > 1:
                layers.append(nn.BatchNorm1d(b))
        if self.shared:
            layers += [layer := nn.Linear(self.widths[-1], self.widths[-1]), nn.Tanh(), layer]
        net = nn.Sequential(*layers, nn.Linear(self.widths[-1], self.widths[-1])).to(dtype=self.dtype)
        optimiser = OPTIMISERS[self.optimiser](net.parameters())
        parameters = list(net.parameters())

        def step(x: Any, y: Any) -> Any:
            z = net(x)
            loss = LOSSES[self.loss](z, y)
            if self.l2:
                loss = loss + 0.01 * sum((p * p).sum() for p in parameters)
            if self.gradients == "returned":
                return loss, tg.grad(loss, parameters), z
            if self.gradients == "accumulated":
                loss.backward()
                return loss
            optimiser.zero_grad()
            loss.backward()
            if self.clip:
                optim.clip_grad_norm(parameters, 0.5)
            optimiser.step()
            return loss, z

        keeps = self.gradients in ("kept", "accumulated")
        return World(step, lambda: (net.state_dict(), [p.grad for p in parameters] if keeps else None))

    def check(self) -> None:
        rng = np.random.default_rng(0)
        shapes = (self.batch, self.widths[0]), (self.batch, self.widths[-1])
        calls = [tuple(rng.normal(size=shape).astype(self.dtype) for shape in shapes) for _ in range(5)]
        # float32: rounding, five steps long, through activations and quotients of optimisers
        rtol, atol = (1e-8, 1e-12) if self.dtype == "float64" else (1e-3, 1e-6)
        agree(self.make, calls, rtol=rtol, atol=atol, may_refuse=False, keep_grads=self.gradients == "kept")


def programs(widths: list[int], batches: list[int]) -> st.SearchStrategy[Program]:
    return st.builds(
        Program,
        widths=st.one_of(
            st.tuples(st.sampled_from(widths), st.integers(2, 4)).map(lambda wn: (wn[0],) * wn[1]),
            st.lists(st.sampled_from(widths), min_size=2, max_size=4).map(tuple),
        ),
        activation=st.sampled_from(list(ACTIVATIONS)),
        norm=st.sampled_from(["", "", "layer", "batch"]),
        shared=st.booleans(),
        loss=st.sampled_from(list(LOSSES)),
        optimiser=st.sampled_from(list(OPTIMISERS)),
        l2=st.booleans(),
        clip=st.booleans(),
        gradients=st.sampled_from(KEPT),
        dtype=st.sampled_from(["float32", "float64"]),
        batch=st.sampled_from(batches),
    )


@given(
    program=programs([1, 2, 3, 4, 8, 16], [1, 2, 7, 8, 16, 33]),
    threads=st.sampled_from([1, 2, 3, 9]),
    split=st.booleans(),
    thresholds=st.sampled_from([{}, {"SLICE": 8}, {"SLICE": 32, "CHAIN_THREADS": 64}, {"SLICE": 16, "CHAIN_THREADS": 8}]),
)
def test_random_steps(program: Program, threads: int, split: bool, thresholds: dict[str, float]) -> None:
    """With thresholds so low that small arrays cross them."""
    rows = {"ROWS_FLOPS": 0, "ROWS_BYTES": 256} if split else {}
    with num_threads(threads), lowered(**thresholds, **rows):
        program.check()


@KERNELS
@pytest.mark.parametrize("seed", range(4))
def test_random_steps_with_the_thresholds_as_they_are(seed: int, numba: bool) -> None:
    """Equal widths of 64 to 256, batches up to 300."""
    rng = np.random.default_rng(seed)

    def one(of: Any) -> Any:
        return list(of)[rng.integers(len(of))]

    width = one([64, 128, 256])
    program = Program(
        widths=(width,) * one([2, 3]),
        activation=one(["ReLU", "GELU", "SiLU", "ELU", "Tanh"]),
        norm=one(["", "layer"]),
        shared=bool(rng.integers(2)),
        loss=one(LOSSES),
        optimiser=one(OPTIMISERS),
        l2=bool(rng.integers(2)),
        clip=bool(rng.integers(2)),
        gradients=one(KEPT),
        dtype="float64",
        batch=one([1, 64, 256, 300]),
    )
    with kernels(numba), num_threads(1 + seed % 2), lowered(ROWS_FLOPS=0 if seed % 2 else 1e9):
        program.check()
