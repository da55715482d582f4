"""Perceptrons as one kernel: the kernel on the CPU against formulas in float64, and plans with it against plans without."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, nn, optim
from tensorgrad.compiler.calls import Network
from tensorgrad.compiler.meaning import Meaning
from tensorgrad.errors import LabelError
from tensorgrad.kernels import cublas, thresholds
from tensorgrad.kernels.cuda import launch, network
from tensorgrad.nn import functional as F
from tests.cuda import nvrtc
from tests.cuda.gpu import using
from tests.cuda.on_cpu import Module
from tests.cuda.stand_in import LABELS, cuda_on_cpu, on_device
from tests.strategies import generators

WIDTHS = [(64, 64, 64, 64, 64), (128, 128, 128), (127, 65, 33, 128), (5, 7, 9, 3), (1, 1, 1, 2), (13, 50, 31, 7, 1)]

# The kernel


@pytest.mark.every(7)
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_networks_compile_for(architecture: str) -> None:
    """Everything that a block has fits into registers and shared memory."""
    for widths in [*WIDTHS, (64, 64, 64, 64, 10), (100, 128, 64, 10), (32, 32, 32, 32, 10), (2, 16, 16, 3)]:
        _, log, _ = nvrtc.compiled(network.source(widths, "int64"), architecture)
        assert set(re.findall(r"(\d+) bytes spill stores", log)) == {"0"}, widths
        assert max(int(used) for used in re.findall(r"(\d+) bytes smem", log)) <= 48 * 1024, widths


def test_networks_that_do_not_fit() -> None:
    assert network.tile_of((64, 64, 64, 64, 10)) == (256, 32)
    assert network.tile_of((128, 128, 128)) == (512, 16)
    assert network.tile_of((129, 16, 10)) is None
    assert network.tile_of((16, 16, 129)) is None
    assert network.tile_of((64, 64, 64, 64, 64, 10)) is None  # more gradients than a thread has registers for
    assert network.tile_of((128, 128, 128, 10)) is None


def formulas(
    x: np.ndarray, t: np.ndarray, g: float, layers: list[tuple[np.ndarray, np.ndarray]], made: np.ndarray | None = None
) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Loss and gradients; the same of absolute values, to which rounding errors are in proportion; and how near to 0 a ReLU
    comes, in proportion to what it is the sum of."""
    a, size, near = [x], [abs(x)], np.inf
    for i, (w, b) in enumerate(layers):
        z, s = a[-1] @ w + b, size[-1] @ abs(w) + abs(b)
        if i + 1 < len(layers):
            near = min(near, float((abs(z) / s).min(initial=np.inf)))
            z = np.maximum(z, 0)
        a.append(z)
        size.append(s)
    rows = np.arange(len(x))
    shifted = a[-1] - a[-1].max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    d = g * np.exp(logp)
    d[rows, t] -= g
    d /= len(x)
    e = abs(g) / len(x) * (np.exp(logp) + (np.arange(d.shape[1]) == t[:, None])) * (1 + size[-1])
    results, sizes = [np.asarray(-logp[rows, t].mean())], [np.asarray((1 + size[-1].max(1)).mean())]
    for i in reversed(range(len(layers))):
        results[1:1] = [a[i].T @ d, d.sum(0)]
        sizes[1:1] = [size[i].T @ e, e.sum(0)]
        d, e = (d @ layers[i][0].T) * (a[i] > 0), e @ abs(layers[i][0]).T
    return results, sizes, near


def drawn(rng: np.random.Generator, widths: tuple[int, ...], rows: int, label: str) -> tuple[Any, ...]:
    """x, t, g and layers, as arrays on a device."""
    x, t = rng.normal(size=(rows, widths[0])).astype(np.float32), rng.integers(0, widths[-1], rows).astype(label)
    layers = [(rng.normal(size=(n, m)) * n**-0.5, 0.2 * rng.normal(size=m)) for n, m in pairwise(widths)]
    on = [(on_device(w.astype(np.float32)), on_device(b.astype(np.float32))) for w, b in layers]
    return on_device(x), on_device(t), on_device(np.asarray(1.7, np.float32)), on


def empty_results(layers: list[tuple[Any, Any]]) -> list[Any]:
    return [on_device(np.full(p.shape, np.nan, np.float32)) for p in (np.zeros(()), *(p for layer in layers for p in layer))]


@pytest.mark.parametrize("widths", WIDTHS)
@given(
    rng=generators(),
    rows=st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 100]),
    label=st.sampled_from(LABELS),
    resident=st.sampled_from([1, 2, 5, 1000]),
)
@settings(max_examples=6)
@cuda_on_cpu()
def test_a_network(widths: tuple[int, ...], rng: np.random.Generator, rows: int, label: str, resident: int) -> None:
    """The loss and all gradients. Twice, for what is left of a launch is there when the next begins; blocks in either order."""
    x, t, g, layers = drawn(rng, widths, rows, label)
    wide = [(np.asarray(w, float), np.asarray(b, float)) for w, b in layers]
    expected, sizes, near = formulas(np.asarray(x, float), np.asarray(t).astype(int), float(g), wide)
    assume(near > 4e-6)  # else rounding may say whether a unit is on: of 66 roundings
    bits = set()
    with patch.object(launch.Function, "resident", lambda self, threads: resident):
        results = empty_results(layers)
        run = network.bound(x, t, g, layers, results)
        library = Module(network.source(widths, label))
        for backwards in (False, True):
            library.backwards(backwards)
            run()
            library.backwards(False)
            bits.add(b"".join(r.tobytes() for r in results))
    launch.check_labels(0)
    assert len(bits) == 1
    # a sum of 128 products at the most in each of four layers, forward and back, and of 100 samples
    units = 64 * float(np.finfo(np.float32).eps)
    for found, want, size in zip(results, expected, sizes, strict=True):
        assert (abs(found - want) <= units * size).all(), abs(found - want).max()


@cuda_on_cpu()
def test_what_a_network_makes_of_odd_numbers() -> None:
    """What is not finite spreads as it does call by call; a wrong label makes the loss NaN, and is told."""
    rng, widths = np.random.default_rng(0), (5, 7, 9, 3)
    for value in (np.nan, np.inf, -np.inf):
        x, t, g, layers = drawn(rng, widths, 40, "int64")
        x[7, 2] = value
        results = empty_results(layers)
        network.bound(x, t, g, layers, results)()
        with np.errstate(all="ignore"):
            expected = Network([], results, [], 0).compute(*map(np.asarray, (x, t, g, *(p for layer in layers for p in layer))))
        for found, want in zip(results, expected, strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    x, t, g, layers = drawn(rng, widths, 40, "int64")
    for wrong in (-1, 3, 2**40):
        t[35] = wrong
        results = empty_results(layers)
        network.bound(x, t, g, layers, results)()
        assert np.isnan(results[0])
        with pytest.raises(LabelError, match="the label of row 35 is out of range"):
            launch.check_labels(0)


# Plans


def net(*widths: int, unit: Any = nn.ReLU, bias: bool = True) -> nn.Sequential:
    nn.init.seed(3)
    layers = [part for n, m in pairwise(widths) for part in (nn.Linear(n, m, bias=bias), unit())]
    return nn.Sequential(*layers[:-1])


def trained(model: Any, optimiser: Any, least: int | None, rows: int = 20, loss: Any = None) -> tuple[Any, ...]:
    """The losses, parameters and plan of some steps on the GPU. least: thresholds.NETWORK."""
    rng = np.random.default_rng(0)
    model = model().to("cuda")
    widths = next(iter(model.parameters())).shape[0], list(model.parameters())[-1].shape[-1]
    opt = optimiser(list(model.parameters()))

    def step(x: Tensor, y: Tensor) -> Any:
        z = model(x)
        found = F.cross_entropy(z, y) if loss is None else loss(z, y, model)
        opt.zero_grad()
        (found[0] if isinstance(found, tuple) else found).backward()
        opt.step()
        return found

    run = tensorgrad.compile(step)
    losses = []
    with patch.object(thresholds, "NETWORK", least):
        for _ in range(6):
            x = Tensor(rng.normal(size=(rows, widths[0])).astype("float32"), device="cuda")
            found = run(x, Tensor(rng.integers(0, widths[1], rows), device="cuda"))
            losses.append((found[0] if isinstance(found, tuple) else found).item())
    return losses, [p.numpy() for p in model.parameters()], run.plan


def names(plan: Any) -> list[str]:
    return [call.name for call in plan.calls]


SGD = lambda p: optim.SGD(p, lr=0.1)  # noqa: E731


@pytest.mark.parametrize(
    "optimiser",
    [SGD, lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3), lambda p: optim.Adam(p, lr=0.01)],
    ids=["SGD", "momentum", "Adam"],
)
@pytest.mark.parametrize("kind", ["stand-in", "cuda"])
@pytest.mark.parametrize("widths", [(5, 7, 9, 3), (3, 8, 2)])
def test_a_plan_with_a_network(kind: str, optimiser: Any, widths: tuple[int, ...]) -> None:
    """From the threshold on its kernels are the network and the update; losses and parameters are as without."""
    with using(kind):
        plain = trained(lambda: net(*widths), optimiser, None)
        for least in (20, 21):
            losses, parameters, plan = trained(lambda: net(*widths), optimiser, least)
            assert ("network" in names(plan)) == (least == 20)
            assert plan.launches.captured, plan.launches.why_not
            assert plan.fault == ""
            np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
            for found, want in zip(parameters, plain[1], strict=True):
                np.testing.assert_allclose(found, want, rtol=1e-3, atol=2e-5)
            if least == 20:
                assert names(plan)[0] == "network"
                assert "matmul" not in names(plan)


def test_as_shipped_nothing_is_a_network() -> None:
    """No device has shown yet from how many samples on it gains."""
    assert thresholds.NETWORK is None
    with using("stand-in"):
        assert "matmul" in names(trained(lambda: net(5, 7, 3), SGD, thresholds.NETWORK)[2])


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (lambda: net(5, 3), {}),
        (lambda: net(5, 7, 3, unit=nn.Tanh), {}),
        (lambda: net(5, 7, 3, bias=False), {}),
        (lambda: net(5, 129, 3), {}),
        (lambda: nn.Sequential(*net(5, 6, 6, unit=nn.Tanh)[:2], *net(6, 7, 3)), {}),
        (lambda: net(5, 7, 3), {"loss": lambda z, y, model: (F.cross_entropy(z, y), z)}),
        (lambda: net(5, 7, 3), {"loss": lambda z, y, model: F.cross_entropy(z, y) + 0.1 * (z * z).mean()}),
        (lambda: net(5, 7, 3), {"loss": lambda z, y, model: F.cross_entropy(z * 2, y)}),
    ],
    ids=["one layer", "tanh", "no bias", "wide", "gradient of x", "scores returned", "scores read", "scores scaled"],
)
def test_what_is_no_network(model: Any, more: Any) -> None:
    """Also where somebody else reads what lies between the layers."""
    with using("stand-in"):
        plain = trained(model, SGD, None, **more)
        losses, _, plan = trained(model, SGD, 1, **more)
        assert "network" not in names(plan)
        np.testing.assert_allclose(losses, plain[0], rtol=1e-6)


def test_a_network_beside_other_readers_of_parameters() -> None:
    """A penalty reads weights, and adds to their gradients."""

    def loss(z: Tensor, y: Tensor, model: Any) -> Tensor:
        return F.cross_entropy(z, y) + 0.01 * sum((p * p).sum() for p in model.parameters())

    with using("stand-in"):
        plain = trained(lambda: net(5, 7, 3), SGD, None, loss=loss)
        losses, parameters, plan = trained(lambda: net(5, 7, 3), SGD, 1, loss=loss)
        assert "network" in names(plan)
        np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
        for found, want in zip(parameters, plain[1], strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-3, atol=2e-5)


def test_less_exact_products_are_left_to_cublas() -> None:
    with using("stand-in"):
        cublas.set_matmul_precision("tf32")
        try:
            assert "network" not in names(trained(lambda: net(5, 7, 3), SGD, 1)[2])
        finally:
            cublas.set_matmul_precision("float32")


def test_a_network_that_is_not_the_program_is_found_out() -> None:
    """By the check of plans, which does not ask who has made it."""
    with using("stand-in"):
        plan = trained(lambda: net(4, 4, 4, 4), SGD, 1)[2]
        call = next(call for call in plan.calls if isinstance(call, Network))
        meaning = Meaning(plan.lowered.calls)
        assert meaning.error_in(call) == ""
        pairs = [(call.inputs, i, i + 2) for i in (3, 4, 5, 6)] + [(call.outputs, i, i + 2) for i in (1, 2, 3, 4)]
        for values, i, j in pairs:
            values[i], values[j] = values[j], values[i]
            assert meaning.error_in(call) == "network does not compute what the program says"
            values[i], values[j] = values[j], values[i]
        assert meaning.error_in(call) == ""
