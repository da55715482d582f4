"""compile: replays give what the step itself gives, and what cannot be replayed is refused, with its line."""

from __future__ import annotations

import gc
import inspect
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, draw, nn, no_grad, ops, optim
from tensorgrad.errors import CompileError, LabelError
from tensorgrad.kernels import build, thresholds
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.ops import random
from tensorgrad.testing.expressions import Expression, expressions
from tests import kinds
from tests.compiled import kernels
from tests.strategies import generators

pytestmark = pytest.mark.quick

OPTIMISERS: dict[str, Callable[[Any], optim.Optimiser]] = {
    **{kind.__name__: partial(kind, lr=0.01) for kind in kinds.OPTIMISERS},
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD with all": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
}


class Residual(nn.Module):
    def __init__(self, width: int, dtype: Any) -> None:
        super().__init__()
        self.a, self.norm, self.b = (
            nn.Linear(width, width, dtype=dtype),
            nn.LayerNorm(width, dtype=dtype),
            nn.Linear(width, width, dtype=dtype),
        )

    def forward(self, x: Any) -> Any:
        return x + self.b(F.gelu(self.a(self.norm(x)), "tanh"))


class Softmax(nn.Module):
    """An MLP whose loss is spelled out, as people derive it."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4, dtype=dtype)

    def forward(self, x: Any) -> Any:
        return ops.log(ops.softmax(self.fc(x)))


def convolutional(dtype: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 2, dtype=dtype), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 4, dtype=dtype)
    )


def deep(*layers: Callable[[Any], nn.Module]) -> Callable[[Any], nn.Module]:
    return lambda dtype: nn.Sequential(*[layer(dtype) for layer in layers])


def linear(n: int, m: int, bias: bool = True) -> Callable[[Any], nn.Module]:
    return lambda dtype: nn.Linear(n, m, bias, dtype=dtype)


def plain(make: Callable[[], nn.Module]) -> Callable[[Any], nn.Module]:
    return lambda dtype: make()


MODELS: dict[str, Callable[[Any], nn.Module]] = {
    "relu": deep(linear(6, 8), plain(nn.ReLU), linear(8, 5), plain(nn.ReLU), linear(5, 4)),
    "sigmoid": deep(linear(6, 8), plain(nn.Sigmoid), linear(8, 4)),
    "tanh": deep(linear(6, 8), plain(nn.Tanh), linear(8, 4, False)),
    "gelu, elu, leaky": deep(linear(6, 8), plain(nn.GELU), linear(8, 8), plain(nn.ELU), linear(8, 4), plain(nn.LeakyReLU)),
    "silu, softplus": deep(linear(6, 8), plain(nn.SiLU), linear(8, 4), plain(nn.Softplus)),
    "residual": deep(lambda dtype: Residual(6, dtype), linear(6, 4)),
    "batch norm": deep(linear(6, 8), lambda dtype: nn.BatchNorm1d(8, dtype=dtype), plain(nn.ReLU), linear(8, 4)),
    "softmax and log": Softmax,
    "convolution": lambda dtype: nn.Sequential(Images(), convolutional(dtype)),
    "one layer": deep(linear(6, 4)),
}


class Images(nn.Module):
    def forward(self, x: Any) -> Any:
        return ops.reshape(x[:, :9] if x.shape[1] >= 9 else ops.concatenate([x, x[:, :3]], axis=1), (x.shape[0], 1, 3, 3))


MODELS |= {  # activations that stand in none of these
    name: deep(linear(6, 8), plain(make), linear(8, 4), plain(make))
    for name, make in kinds.ACTIVATIONS.items()
    if make not in {type(part) for model in MODELS.values() for _, part in model(np.float32).named_modules()}
}

LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross_entropy": lambda z, y: F.cross_entropy(z, y),
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    "by hand": lambda z, y: -(ops.one_hot(y, 4, z.dtype) * ops.log_softmax(z)).sum() / z.shape[0],
    "picked": lambda z, y: -ops.log_softmax(z)[np.arange(z.shape[0]), y].mean(),
    "mse": lambda z, y: ((z - ops.one_hot(y, 4, z.dtype)) ** 2).mean(),
    "hinge": lambda z, y: ops.maximum(1 - z * (2 * ops.one_hot(y, 4, z.dtype) - 1), 0).mean(),
}


def pair(model: str, optimiser: str, loss: str, dtype: Any = np.float64) -> tuple[Any, Any, Any, Any]:
    """The same model with the same optimiser twice, and the step of each."""
    made = []
    for _ in range(2):
        init.seed(0)
        net = MODELS[model](dtype)
        opt = OPTIMISERS[optimiser](net.parameters())

        def step(x: Any, y: Any, net: Any = net, opt: Any = opt) -> Any:
            value = LOSSES[loss](net(x), y)
            opt.zero_grad()
            value.backward()
            opt.step()
            return value

        made += [net, step]
    return tuple(made)


def assert_same(a: nn.Module, b: nn.Module, rtol: float = 1e-9) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        np.testing.assert_allclose(y, x, rtol=rtol, atol=rtol, err_msg=name)


def batches(count: int, n: int = 7, dtype: Any = np.float64) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [(rng.normal(size=(n, 6)).astype(dtype), rng.integers(0, 4, n)) for _ in range(count)]


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize(("loss", "model"), [(a, b) for a in LOSSES for b in MODELS])
def test_replays_are_the_step(model: str, loss: str, numba: bool) -> None:
    """Seven steps, of which five are replays: losses, parameters and running means are those of the step itself."""
    net, step, other, same = pair(model, "SGD with all", loss)
    compiled = tensorgrad.compile(same)
    with numpy_alone(numba):
        for x, y in batches(7):
            np.testing.assert_allclose(compiled(x, y).item(), step(x, y).item(), rtol=1e-9)
    assert compiled.plan is not None
    assert_same(net, other)


@contextmanager
def numpy_alone(numba: bool = False) -> Iterator[None]:
    """As if Numba were not installed."""
    with nullcontext() if numba else kernels(numba=False):
        yield


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser(optimiser: str, dtype: Any) -> None:
    """40 steps, over the point where small state is cleared; the learning rate changed on the way."""
    net, step, other, same = pair("relu", optimiser, "cross_entropy", dtype)
    compiled = tensorgrad.compile(same)
    for i, (x, y) in enumerate(batches(40, dtype=dtype)):
        for f in (step, same):
            opt = inspect.signature(f).parameters["opt"].default
            opt.lr = 0.1 / (i + 1)
        compiled(x, y)
        step(x, y)
    # float32: rounding of both, 40 steps long, through Adam's quotients
    assert_same(net, other, 1e-9 if dtype == np.float64 else 2e-4)
    a, b = (inspect.signature(f).parameters["opt"].default for f in (step, same))
    assert a.steps == b.steps == 40
    for x, y in zip(a.state, b.state, strict=True):
        for slot in x:
            np.testing.assert_allclose(y[slot], x[slot], rtol=1e-9 if dtype == np.float64 else 2e-3, atol=1e-7)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 4, 1000])
@pytest.mark.parametrize("model", ["relu", "gelu, elu, leaky", "residual", "softmax and log", "one layer", "batch norm"])
def test_samples_in_parts_and_threads(model: str, rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the samples are cut, the sums are those of the whole; a batch of 11 does not divide by anything here."""
    monkeypatch.setattr(thresholds, "ROWS_FLOPS", 0)
    monkeypatch.setattr(thresholds, "ROWS_BYTES", rows * 64)
    monkeypatch.setattr(thresholds, "CHAIN_THREADS", 20)
    before = tensorgrad.get_num_threads()
    tensorgrad.set_num_threads(threads)
    try:
        net, step, other, same = pair(model, "Adam", "cross_entropy")
        compiled = tensorgrad.compile(same)
        for x, y in batches(5, 11):
            np.testing.assert_allclose(compiled(x, y).item(), step(x, y).item(), rtol=1e-9)
        assert_same(net, other)
        if model != "batch norm":  # whose mean needs all samples before anything else can be done
            assert "kernels on rows" in str(compiled.plan)
    finally:
        tensorgrad.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_chains_over_three_axes_are_loops(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any size: a bias lies along rows, however many axes there are before it."""
    if not build.has_numba():
        pytest.skip("needs Numba: pip install numba")
    rng = np.random.default_rng(0)
    x, b = Tensor(rng.normal(size=(2, 3, 5)).astype("f")), Tensor(rng.normal(size=5).astype("f"), requires_grad=True)

    def step(x: Any) -> Any:
        return F.gelu(x + b)

    expected = step(x)
    rows: list[int] = []
    original = build.numpy_kernel

    def numpy_kernel(*args: Any) -> Any:
        kernel = original(*args)
        return lambda *arrays, rows: rows_of(kernel, arrays, rows)

    def rows_of(kernel: Any, arrays: Any, n: int) -> None:
        rows.append(n)
        kernel(*arrays, rows=n)

    monkeypatch.setattr(build, "numpy_kernel", numpy_kernel)
    before = tensorgrad.get_num_threads()
    tensorgrad.set_num_threads(threads)
    try:
        for threshold in (thresholds.CHAIN_THREADS, 1):
            monkeypatch.setattr(thresholds, "CHAIN_THREADS", threshold)
            compiled = tensorgrad.compile(step)
            for _ in range(3):
                np.testing.assert_allclose(compiled(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    finally:
        tensorgrad.set_num_threads(before)
    assert not rows  # none of them was left to NumPy


def test_a_part_that_lies_row_after_row_is_not_copied() -> None:
    """x[1:] of something that does; not x[:, 1:], nor of what lies otherwise."""
    x, w = Tensor(np.arange(24.0).reshape(4, 3, 2)), Tensor(np.arange(6.0).reshape(2, 3))

    def step(x: Any) -> Any:
        y = x * 2
        alike = y[1:].reshape((-1, 2)) @ w, y[0, :2].reshape(-1) + 1
        return *alike, y[:, 1:].reshape((-1, 2)) @ w, y[::-1].reshape(-1) * 3, y.swapaxes(0, 1)[1:].reshape(-1) - 1

    compiled = tensorgrad.compile(step)
    for _ in range(3):
        for found, wanted in zip(compiled(x), step(x), strict=True):
            np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    assert sum(line.startswith("copy ") for line in str(compiled.plan).splitlines()) == 3


def test_parts_of_the_samples_need_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    init.seed(0)
    net = MODELS["relu"](np.float32)
    opt = optim.SGD(net.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    monkeypatch.setattr(thresholds, "ROWS_BYTES", 1 << 15)
    x, y = np.ones((50_000, 6), np.float32), np.zeros(50_000, int)
    peaks = []
    for least in (0, 1e99):
        monkeypatch.setattr(thresholds, "ROWS_FLOPS", least)
        compiled = tensorgrad.compile(step)
        for _ in range(3):
            compiled(x, y)
        peaks.append(compiled.plan.peak_bytes)
    assert peaks[0] < peaks[1] / 10


def test_several_shapes_keep_several_plans() -> None:
    net, step, other, same = pair("relu", "SGD", "cross_entropy")
    compiled = tensorgrad.compile(same)
    plans = []
    for n in (7, 7, 7, 3, 3, 3, 7, 3):
        for x, y in batches(1, n):
            assert compiled(x, y).item() == pytest.approx(step(x, y).item(), rel=1e-9)
        plans.append(compiled.plan)
    assert plans[2] is plans[6]
    assert plans[5] is plans[7]
    assert plans[2] is not plans[5]
    assert_same(net, other)


def test_arguments_of_every_kind() -> None:
    """Arrays, Tensors, nests of them, keywords; numbers tell plans apart; results in the nest that the step makes."""

    @tensorgrad.compile
    def f(a: Any, b: Any, *, scale: float = 1.0, how: str = "sum") -> Any:
        total = (a[0] * b["w"] * scale).sum() if how == "sum" else (a[0] * b["w"] * scale).mean()
        return {"total": total, "parts": (a[1] + 1, [a[0]])}, None, 3

    rng = np.random.default_rng(0)
    for scale, how in ((1.0, "sum"), (2.0, "sum"), (2.0, "mean")):
        for i in range(4):
            a, w = (rng.normal(size=(3, 2)), np.arange(4)), Tensor(rng.normal(size=(3, 2)))
            found, nothing, three = f(a, {"w": w}, scale=scale, how=how)
            expected = getattr(np, how)(a[0] * w.numpy() * scale)
            assert found["total"].item() == pytest.approx(expected, rel=1e-12), i
            np.testing.assert_array_equal(found["parts"][0].numpy(), a[1] + 1)
            np.testing.assert_array_equal(found["parts"][1][0].numpy(), a[0])
            assert (nothing, three) == (None, 3)
    assert len(f.entries) == 3
    with pytest.raises(CompileError, match="a plan cannot be chosen by an argument: unhashable type: 'set'"):
        f({1}, {})


def test_results_are_not_changed_by_later_calls() -> None:
    @tensorgrad.compile
    def f(x: Any) -> Any:
        return x * 2, x

    results = [f(np.full((2, 2), float(i))) for i in range(6)]
    for i, (double, same) in enumerate(results):
        np.testing.assert_array_equal(double.numpy(), np.full((2, 2), 2.0 * i))
        np.testing.assert_array_equal(same.numpy(), np.full((2, 2), float(i)))


def test_arrays_that_do_not_lie_in_rows() -> None:
    f = tensorgrad.compile(lambda x: (x @ x.T + 1).sum(0))
    rng = np.random.default_rng(0)
    for i in range(5):
        x = rng.normal(size=(6, 4)).T if i % 2 else rng.normal(size=(4, 12))[:, ::2]
        np.testing.assert_allclose(f(x).numpy(), (x @ x.T + 1).sum(0), rtol=1e-12)


def test_dropout_draws_anew() -> None:
    """The masks are those that the generator gives to the step itself, one after the other."""
    outs = []
    for compiled in (False, True):
        drop = nn.Dropout(0.5, rng=np.random.default_rng(7))
        f: Any = tensorgrad.compile(drop) if compiled else drop
        outs.append([f(np.ones((4, 5), np.float32)) for _ in range(6)])
        outs[-1] = [o if isinstance(o, np.ndarray) else o.numpy() for o in outs[-1]]
    np.testing.assert_array_equal(outs[1], outs[0])
    assert len({o.tobytes() for o in outs[1]}) == 6
    drop = nn.Dropout(0.5)
    f = tensorgrad.compile(drop)
    for _ in range(3):
        f(np.ones(30))
    random.seed(5)
    first = f(np.ones(30)).numpy()
    random.seed(5)
    np.testing.assert_array_equal(f(np.ones(30)).numpy(), first)


def test_modes_are_told_apart() -> None:
    """eval() after training: the plan with dropout, and with the batch's own mean, is not used."""
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5, rng=np.random.default_rng(0)))
    compiled = tensorgrad.compile(lambda x: net(x))
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    for _ in range(4):
        compiled(x)
    net.eval()
    expected = net(Tensor(x)).numpy()
    for _ in range(4):
        np.testing.assert_allclose(compiled(x).numpy(), expected, rtol=1e-6)


def test_parameters_loaded_or_replaced_are_used() -> None:
    net, _, other, same = pair("relu", "SGD", "cross_entropy")
    compiled = tensorgrad.compile(same)
    (x, y) = batches(1)[0]
    for _ in range(4):
        compiled(x, y)
    other.load_state_dict(net.state_dict())
    expected = F.cross_entropy(net(x), y).item()
    assert compiled(x, y).item() == pytest.approx(expected, rel=1e-12)
    for p, q in zip(other.parameters(), net.parameters(), strict=True):
        p.data = q.data.copy()
    assert compiled(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_two_optimisers_of_the_same_parameters() -> None:
    """They share the flat array of the first; each compiled step goes on from what the other has left."""
    results = []
    for wrap_it in (lambda f: f, tensorgrad.compile):
        init.seed(0)
        net = MODELS["relu"](np.float64)
        steps = []
        for opt in (optim.SGD(net.parameters(), lr=0.1), optim.Adam(net.parameters(), lr=0.01)):

            def step(x: Any, y: Any, opt: Any = opt, net: Any = net) -> Any:
                loss = F.cross_entropy(net(x), y)
                opt.zero_grad()
                loss.backward()
                opt.step()
                return loss

            steps.append(wrap_it(step))
        for x, y in batches(5):
            for f in steps:
                f(x, y)
        results.append(net.state_dict())
    for a, b in zip(results[0].values(), results[1].values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9)


def test_gradients_after_the_step() -> None:
    """None where an optimiser has used them up, unless they are to be kept; what is only accumulated goes on."""
    (x, y) = batches(1)[0]
    for keep in (False, True):
        net, step, other, same = pair("relu", "SGD", "cross_entropy")
        compiled = tensorgrad.compile(same, keep_grads=keep)
        for _ in range(4):
            step(x, y)
            compiled(x, y)
            for p, q in zip(net.parameters(), other.parameters(), strict=True):
                if keep:
                    np.testing.assert_allclose(q.grad.data, p.grad.data, rtol=1e-9, atol=1e-12)
                else:
                    assert q.grad is None
    grads = []
    for wrap_it in (lambda f: f, tensorgrad.compile):
        init.seed(0)
        net = MODELS["relu"](np.float64)
        accumulate = wrap_it(lambda x, y, net=net: F.cross_entropy(net(x), y).backward())
        for x, y in batches(6):
            accumulate(x, y)
        grads.append([p.grad.data for p in net.parameters()])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9)


def test_gradients_of_gradients() -> None:
    def penalty(x: Any, w: Any) -> Any:
        w = Tensor(w, requires_grad=True)
        y = (ops.tanh(x @ w) ** 2).sum()
        (g,) = tensorgrad.grad(y, [w], create_graph=True)
        (h,) = tensorgrad.grad((g * g).sum(), [w])
        return y, g, h

    compiled = tensorgrad.compile(penalty)
    rng = np.random.default_rng(0)
    for _ in range(4):
        x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
        for a, b in zip(compiled(x, w), penalty(x, w), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10)


def test_what_lives_outside_is_changed_in_place() -> None:
    """An average of the weights, a counter, a parameter changed by hand, an array of constants that somebody changes."""
    results = []
    for wrap_it in (lambda f: f, tensorgrad.compile):
        w, mean, count = Tensor(np.ones(3), True), Tensor(np.zeros(3)), Tensor(np.zeros((), int))
        factor = np.full(3, 2.0)

        def step(x: Any, w: Any = w, mean: Any = mean, count: Any = count, factor: Any = factor) -> Any:
            (g,) = tensorgrad.grad((w * x * factor).sum(), [w])
            with no_grad():
                w -= 0.1 * g
                mean *= 0.9
                mean += 0.1 * w
                count += 1
            return count * 1.0

        f = wrap_it(step)
        for i in range(6):
            last = f(np.arange(3.0) + i)
            factor[0] = i
        results.append([w.data, mean.data, count.data, last.data])
        assert w.is_leaf
        assert w.requires_grad
        assert mean.node is None
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)


@pytest.mark.parametrize("clip", [lambda p: optim.clip_grad_norm(p, 0.1), lambda p: optim.clip_grad_value(p, 0.01)])
def test_gradients_are_clipped_in_replays_too(clip: Callable[[Any], Any]) -> None:
    results = []
    for wrap_it in (lambda f: f, tensorgrad.compile):
        init.seed(0)
        net = MODELS["relu"](np.float64)
        opt = optim.SGD(net.parameters(), lr=1.0)

        def step(x: Any, y: Any, net: Any = net, opt: Any = opt) -> Any:
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            norm = clip(net.parameters())
            opt.step()
            return norm

        f = wrap_it(step)
        norms = [f(x, y) for x, y in batches(6)]
        results.append((net.state_dict(), [float(n) if n is not None else 0.0 for n in norms]))
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-9)
    for a, b in zip(results[0][0].values(), results[1][0].values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)


def test_indices_are_arguments() -> None:
    table = nn.Embedding(5, 3, dtype=np.float64)
    opt = optim.SGD(table.parameters(), lr=0.5)

    def step(t: Any, rows: Any) -> Any:
        y = table(t)
        loss = (y * y).sum() + (y[rows] ** 3).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    start = table.weight.data.copy()
    rng = np.random.default_rng(0)
    draws = [(rng.integers(0, 5, 4), rng.integers(0, 4, 3)) for _ in range(6)]
    expected = [step(*d).item() for d in draws]
    after = table.weight.data.copy()
    table.weight.data[...] = start
    compiled = tensorgrad.compile(step)
    assert [compiled(*d).item() for d in draws] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(table.weight.data, after, rtol=1e-9)
    with pytest.raises(LabelError, match="embedding: index -1 is out of range, expected 0 to 4"):
        compiled(np.array([0, 1, 2, -1]), draws[0][1])


def test_a_wrong_label_is_found_in_a_replay_too() -> None:
    _, _, other, same = pair("relu", "Adam", "cross_entropy")
    compiled = tensorgrad.compile(same)
    (x, y) = batches(1)[0]
    for _ in range(4):
        compiled(x, y)
    before, opt = other.state_dict(), inspect.signature(same).parameters["opt"].default
    with pytest.raises(LabelError, match="softmax_cross_entropy: label 4 is out of range, expected 0 to 3 for 4 classes"):
        compiled(x, np.full(7, 4))
    assert_same(other, other)
    for a, b in zip(before.values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert opt.steps == 4


def test_nested_and_inside_other_modes() -> None:
    """A compiled function inside a compiled one is part of it; no_grad has plans of its own; under detect_anomaly the
    function itself runs."""
    inner = tensorgrad.compile(lambda x: x * 2)
    outer = tensorgrad.compile(lambda x: inner(x) + 1)
    for i in range(4):
        np.testing.assert_array_equal(outer(np.full(3, float(i))).numpy(), np.full(3, 2.0 * i + 1))
    assert inner.plan is None
    net = MODELS["relu"](np.float64)
    predict = tensorgrad.compile(net)
    with no_grad():
        for x, _ in batches(4):
            np.testing.assert_allclose(predict(x).numpy(), net(x).numpy(), rtol=1e-12)
    assert predict.plan is not None
    with tensorgrad.detect_anomaly(), pytest.raises(tensorgrad.errors.AnomalyError, match="log"), np.errstate(all="ignore"):
        tensorgrad.compile(lambda x: ops.log(x))(Tensor(np.array([-1.0])))


def line_after(text: str) -> str:
    """ "test_compile.py:12" for the line of this file that has `text` in it."""
    lines = inspect.getsource(inspect.getmodule(line_after)).splitlines()  # type: ignore[arg-type]
    return f"test_compile.py:{next(i for i, line in enumerate(lines, 1) if text in line and 'line_after' not in line)}"


def test_what_asks_for_values_is_refused() -> None:
    def branches(x: Any) -> Any:
        if (x > 0).all():  # a branch
            return x
        return -x

    asking: dict[str, Callable[[Any], Any]] = {
        "bool()": branches,
        "item()": lambda x: x.sum().item(),
        "float()": lambda x: float(x.sum()),
        "int()": lambda x: int(x.sum()),
        "numpy()": lambda x: x.numpy(),
        "tolist()": lambda x: x.tolist(),
        "np.asarray": lambda x: np.asarray(x),
        "a boolean index, whose number of True values is a shape,": lambda x: x[x > 0],
    }
    for asked, f in asking.items():
        message = (
            rf"compile: {asked.replace('(', '[(]').replace(')', '[)]')} needs the value of a Tensor .* inside the step at "
        )
        with pytest.raises(CompileError, match=message) as caught:
            tensorgrad.compile(f)(np.ones(3))
        if f is branches:
            assert line_after("# a branch") in str(caught.value)


def test_what_differs_from_call_to_call_is_refused() -> None:
    calls = itertools.count()

    def branching(x: Any) -> Any:
        return x * 2 if next(calls) % 2 else x + 2  # another way

    compiled = tensorgrad.compile(branching)
    compiled(np.ones(3))
    with pytest.raises(CompileError, match=r"did something else the second time at .*: mul.* instead of add") as caught:
        compiled(np.ones(3))
    assert line_after("# another way") in str(caught.value)

    def drawing(x: Any) -> Any:
        return x * np.random.default_rng().random(3)  # drawn outside

    compiled = tensorgrad.compile(drawing)
    compiled(np.ones(3))
    with pytest.raises(CompileError, match="reads an array that was a different one in the first call") as caught:
        compiled(np.ones(3))
    assert line_after("# drawn outside") in str(caught.value)

    def longer(x: Any) -> Any:
        for _ in range(next(calls)):
            x = x * 1.5
        return x

    compiled = tensorgrad.compile(longer)
    compiled(np.ones(3))
    with pytest.raises(CompileError, match="compile: the step"):
        compiled(np.ones(3))


def test_what_would_be_lost_is_refused() -> None:
    p = Tensor(np.ones(3), True)
    opt = optim.SGD([p], lr=0.1)
    schedule = optim.ExponentialLR(opt, 0.5)

    def with_schedule(x: Any) -> None:
        (p * x).sum().backward()
        opt.step()
        schedule.step()

    with pytest.raises(CompileError, match=r"the learning rate went from 0.1 to 0.05 after SGD.step\(\) inside the step"):
        tensorgrad.compile(with_schedule)(np.ones(3))

    def twice(x: Any) -> None:
        for _ in range(2):
            (p * x).sum().backward()
            opt.step()

    with pytest.raises(CompileError, match=r"SGD.step\(\) is called twice in one step at test_compile.py"):
        tensorgrad.compile(twice)(np.ones(3))
    with pytest.raises(CompileError, match=r"backward\(\) leaves a .grad on an argument at test_compile.py"):
        tensorgrad.compile(lambda x: (x * x).sum().backward())(Tensor(np.ones(3), True))
    total = Tensor(np.zeros(3))

    def grows(x: Any) -> None:
        total.__iadd__(p * x)

    with pytest.raises(CompileError, match=r"from outside the step is assigned, in place.*, a value that requires a gradient"):
        tensorgrad.compile(grows)(np.ones(3))


def test_the_plan_says_what_it_does() -> None:
    _, _, other, same = pair("relu", "SGD", "cross_entropy", np.float32)
    compiled = tensorgrad.compile(same)
    for x, y in batches(4, dtype=np.float32):
        compiled(x, y)
    plan = compiled.plan
    before = other.state_dict()
    text = str(plan)
    for a, b in zip(before.values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b)  # to measure it changes nothing
    assert text.splitlines()[0].split() == ["kernel", "module", "result", "bytes", "FLOPs", "µs"]
    rows = plan.rows()
    assert [r.kernel for r in rows].count("matmul") == 8
    first = rows[0]
    assert (first.kernel, first.module, first.shape, first.flops) == ("matmul", "0", (7, 8), 2 * 7 * 6 * 8)
    assert first.bytes == 4 * (7 * 6 + 6 * 8 + 7 * 8)
    assert all(r.seconds > 0 for r in rows)
    assert f"memory of its own: {plan.peak_bytes:,} bytes" in text
    assert plan.source.startswith("def run(x0, x1):")
    drawn = draw.graph(plan, cost=True).dot
    for word in ("argument 0", "0.weight", "softmax_cross_entropy", "parameters", "lr", "add·maximum"):
        assert word in drawn
    assert plan.peak_bytes < 4 * 3 * (7 * (8 + 5 + 4) + sum(p.size for p in other.parameters()))


def test_profile() -> None:
    net, step, _, same = pair("relu", "SGD", "cross_entropy")
    (x, y) = batches(1)[0]
    with tensorgrad.profile() as p:
        step(x, y)
        loss = F.cross_entropy(net(x), y)
    assert p.by_op["linear"].calls == 6
    assert p.by_op["linear"].flops == 2 * sum((2 * n + 1) * m * 7 for n, m in ((6, 8), (8, 5), (5, 4)))
    assert p.by_op["gradient of linear_relu"].calls == 5  # two layers, three inputs each, less the data
    assert {"0", "2", "4"} <= p.by_module.keys()
    assert 0 < sum(s.seconds for s in p.by_op.values()) < p.seconds
    assert "gradient of linear_relu" in str(p)
    assert p.nodes[loss.node].calls == 1
    assert "FLOP" in draw.graph(loss, cost=p).dot
    compiled = tensorgrad.compile(same)
    for _ in range(3):
        compiled(x, y)
    with tensorgrad.profile() as p:
        compiled(x, y)
    assert p.by_op["matmul"].calls == 8
    assert p.by_module["0"].flops == 2 * 7 * 6 * 8


def safe_sqrt(x: Any) -> Any:
    return np.sqrt(np.absolute(x))


def safe_exp(x: Any) -> Any:
    return np.exp(np.minimum(x, 2.0))


def safe_divide(x: Any, y: Any) -> Any:
    return x / (1 + np.absolute(y))


UNARY = (safe_exp, np.tanh, safe_sqrt, np.square, np.negative, np.absolute, np.sin)
BINARY = (np.add, np.subtract, np.multiply, np.maximum, np.minimum, safe_divide)


@given(rng=generators(), size=st.integers(2, 12))
def test_random_formulas(rng: np.random.Generator, size: int) -> None:
    """Random elementwise formulas of arrays, a row, a column and a number, with sums: NumPy's own values."""
    plan = [(rng.integers(2), rng.integers(len(UNARY)), rng.integers(len(BINARY)), *rng.integers(0, 8, 2)) for _ in range(size)]

    def formula(*xs: Any) -> Any:
        known = list(xs)
        for two, u, b, i, j in plan:
            x, y = known[-1 - i % len(known)], known[-1 - j % len(known)]
            known.append(BINARY[b](x, y) if two else UNARY[u](x))
        return known[-1], known[-2].sum(), known[-1].sum()

    shapes = [(4, 3), (4, 3), (3,), (4, 1), ()]
    compiled = tensorgrad.compile(formula)
    with numpy_alone(numba=size == 4):  # compiling takes Numba half a second for each
        for _ in range(3):
            xs = [rng.normal(size=shape) for shape in shapes]
            for a, b in zip(compiled(*[Tensor(x) for x in xs]), formula(*xs), strict=True):
                np.testing.assert_allclose(a.numpy(), b, rtol=1e-10, atol=1e-10)


@given(expression=expressions())
def test_every_op_in_random_programs(expression: Expression) -> None:
    """Value and gradients of random programs over all ops: replayed for other inputs they are what they are unrecorded."""

    def f(*inputs: Any) -> Any:
        leaves = [Tensor(x, requires_grad=True) for x in inputs]
        y = expression(*leaves)
        weights = np.cos(np.arange(float(y.size))).reshape(y.shape)
        return y, tensorgrad.grad((y * weights).sum(), leaves, allow_unused=True)

    compiled = tensorgrad.compile(f)
    with numpy_alone(), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a step out of a function's domain
        for factor in (1.0, 1.0, 1 + 1e-4, 1 - 1e-4):
            inputs = [Tensor(x * factor) for x in expression.inputs]
            y, gradients = compiled(*inputs)
            expected, expected_gradients = f(*inputs)
            for a, b in zip([y, *gradients], [expected, *expected_gradients], strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-8, atol=1e-10)


def test_what_an_operation_only_passes_on_is_not_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that lies in the memory of a value which nothing else reads any more."""
    monkeypatch.setattr(type(ops.cholesky), "forward", lambda self, xp, x: x)

    @tensorgrad.compile
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        e = x.exp()
        y = ops.cholesky(e)
        return y, (e.sum() + x).sin()

    x = np.linspace(0, 1, 9).reshape(3, 3)
    for _ in range(3):
        first, second = step(x)
    np.testing.assert_allclose(first.numpy(), np.exp(x), rtol=1e-15)
    np.testing.assert_allclose(second.numpy(), np.sin(np.exp(x).sum() + x), rtol=1e-14)


def test_sums_of_products_are_dot_products() -> None:
    """Where nobody else reads the product; and what is only read by a chain of the same shape is part of that."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(7, 5)), rng.normal(size=(3, 7))

    def step(w: Tensor, x: Tensor) -> Any:
        product = w * w
        penalty = (w * w).sum()
        loss = ((x @ w) ** 2).sum() + 0.1 * penalty
        return penalty, loss, product, product.sum(), tensorgrad.grad(loss, w)[0]

    compiled = tensorgrad.compile(step)
    for i in range(4):
        found = compiled(Tensor(w * (i + 1), True), Tensor(x))
    v = 4 * w
    expected = (v**2).sum(), ((x @ v) ** 2).sum() + 0.1 * (v**2).sum(), v**2, (v**2).sum(), 2 * x.T @ x @ v + 0.2 * v
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-13)
    names = [call.name for call in compiled.plan.calls]
    assert names.count("dot") == 1
    assert names[-1] == "mul_grad·add·mul_grad·add"  # the penalty's gradient, which is added to the other one


def test_arguments_are_let_go() -> None:
    """At once, not when Python next looks for cycles: until then a loop over batches would take new memory for each."""
    p = Tensor(np.ones((3, 2)), requires_grad=True)

    @tensorgrad.compile
    def step(x: Any, more: Any) -> Any:
        return ((x @ p) ** 2).sum() + more["b"][0].sum()

    gc.collect()
    gc.disable()
    try:
        for i in range(5):
            x, b = np.ones((4, 3)), np.ones(2)
            owners = [weakref.ref(x), weakref.ref(b)]
            step(x, more={"b": [b]})
            del x, b
            assert i < 2 or all(owner() is None for owner in owners)
    finally:
        gc.enable()
