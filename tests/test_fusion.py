"""Fusion: what it finds, that it changes nothing but the work, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import tensorgrad
from tensorgrad import Tensor, fusion
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import numerical_gradient
from tests.oracles import linalg
from tests.strategies import batch_axes, generators, sizes

# Every way in which people write the mean cross-entropy of logits z (..., k): t class indices, Y one-hot rows, m samples.
SPELLINGS: dict[str, Callable[[Tensor, np.ndarray, np.ndarray, int], Tensor]] = {
    "F.cross_entropy(z, t)": lambda z, t, Y, m: F.cross_entropy(z, t),
    "F.cross_entropy(z, Y)": lambda z, t, Y, m: F.cross_entropy(z, Y),
    "nll_loss(log_softmax(z), t)": lambda z, t, Y, m: F.nll_loss(F.log_softmax(z), t),
    "nll_loss(log(softmax(z)), t)": lambda z, t, Y, m: F.nll_loss(F.softmax(z).log(), t),
    "-(Y * log(softmax(z))).sum(-1).mean()": lambda z, t, Y, m: -(Y * z.softmax().log()).sum(-1).mean(),
    "(-(Y * log(softmax(z))).sum(-1)).mean()": lambda z, t, Y, m: (-(Y * z.softmax().log()).sum(-1)).mean(),
    "-(log(softmax(z)) * Y).sum() / m": lambda z, t, Y, m: -(z.softmax().log() * Y).sum() / m,
    "(-1 / m) * (Y * log_softmax(z)).sum()": lambda z, t, Y, m: (-1 / m) * (Y * z.log_softmax()).sum(),
    "(Tensor(Y) * -log_softmax(z)).mean() * k": lambda z, t, Y, m: -(Tensor(Y) * z.log_softmax()).mean() * Y.shape[-1],
}
# Layers with the activations that they are fused with, and none
LAYERS: dict[str, tuple[Op, ...]] = {"linear": ()} | {op.name: op.expands[1:] for op in REGISTRY.values() if op.expands}


def fused_ops(*outputs: Tensor) -> list[str]:
    return [node.op.name for node in Graph.of(*outputs).fused().nodes]


def scores(rng: np.random.Generator, axes: tuple[int, ...], k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    t = rng.integers(0, k, axes)
    return rng.normal(size=(*axes, k)) * 3, t, np.eye(k)[t], math.prod(axes)


@pytest.mark.every(3)
@pytest.mark.parametrize("spelling", SPELLINGS)
@given(rng=generators(), axes=batch_axes, k=sizes)
def test_cross_entropy(spelling: str, rng: np.random.Generator, axes: tuple[int, ...], k: int) -> None:
    """Fused = unfused = derived by hand = numerical, in every spelling."""
    z, t, Y, m = scores(rng, axes, k)
    write = SPELLINGS[spelling]
    x = Tensor(z, True)
    loss = write(x, t, Y, m)
    assert fused_ops(loss) == ["softmax_cross_entropy"]
    assert loss.item() == pytest.approx(-(Y * special.log_softmax(z, -1)).sum() / m, rel=1e-12, abs=1e-14)
    assert Graph.of(loss).fused().run()[0] == pytest.approx(loss.item(), rel=1e-12, abs=1e-14)
    (fused,) = tensorgrad.grad(loss, x)
    with fusion.off():
        (unfused,) = tensorgrad.grad(write(x, t, Y, m), x)
        numerical = numerical_gradient(lambda: write(x, t, Y, m).item(), x.data)
    by_hand = (special.softmax(z, -1) - Y) / m
    np.testing.assert_allclose(fused.data, by_hand, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(unfused.data, by_hand, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(fused.data, numerical, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_cross_entropy_of_huge_logits(spelling: str, dtype: Any) -> None:
    z = np.array([[1000, -1000, 0], [-1000, 1000, -1000], [1000, 1000, -1000]], dtype)
    t = np.array([1, 1, 2])
    Y = np.eye(3, dtype=dtype)[t]
    x = Tensor(z, True)
    loss = SPELLINGS[spelling](x, t, Y, 3)
    loss.backward()
    assert loss.item() == pytest.approx((2000 + 0 + 2000 + math.log(2)) / 3, rel=1e-6)
    np.testing.assert_allclose(x.grad.data, (special.softmax(z, -1) - Y) / 3, rtol=1e-6)
    assert x.grad.dtype == loss.dtype == dtype


def test_naive_spelling_without_fusion_is_what_numpy_says() -> None:
    """The price that the rewrite saves: log of an underflowed softmax."""
    x = Tensor(np.array([[1000.0, -1000.0]]), True)
    with fusion.off(), np.errstate(divide="ignore", invalid="ignore"):
        assert np.isneginf(x.softmax().log().data[0, 1])


@pytest.mark.parametrize("name", LAYERS)
@given(rng=generators(), axes=batch_axes, k=sizes, n=sizes, left=st.booleans(), op=st.booleans())
def test_layer(name: str, rng: np.random.Generator, axes: tuple[int, ...], k: int, n: int, left: bool, op: bool) -> None:
    """act(x @ W + b), either way round, batch axes or not, or from F.linear: fused = unfused = derived = numerical."""
    activations, (_, slope) = LAYERS[name], linalg.LAYERS[name]
    x, w, b = (Tensor(rng.normal(size=s), True) for s in ((*axes, k), (k, n), (n,)))
    g = rng.normal(size=(*axes, n))

    def layer() -> Tensor:
        z = F.linear(x, w, b) if op else (b + x @ w if left else x @ w + b)
        for activation in activations:
            z = activation(z)
        return z

    if len(axes) == 1 and rng.random() < 0.2:
        x = Tensor(x.data, True)
    y = layer()
    assert fused_ops(y) == [name]
    np.testing.assert_array_equal(Graph.of(y).fused().run()[0], y.data)
    fused = tensorgrad.grad(y, (x, w, b), g)
    with fusion.off():
        unfused = tensorgrad.grad(layer(), (x, w, b), g)
    dz = g * slope(y.data)
    by_hand = (
        np.einsum("...n,kn->...k", dz, w.data),
        np.einsum("mk,mn->kn", x.data.reshape(-1, k), dz.reshape(-1, n)),
        dz.reshape(-1, n).sum(0),
    )
    for f, u, h in zip(fused, unfused, by_hand, strict=True):
        np.testing.assert_allclose(f.data, h, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(u.data, h, rtol=1e-12, atol=1e-13)
    if not any(op.kinks for op in activations) or (abs(np.einsum("...k,kn->...n", x.data, w.data) + b.data) > 1e-3).all():
        numerical = numerical_gradient(lambda: float((g * layer().data).sum()), w.data)
        np.testing.assert_allclose(fused[1].data, numerical, rtol=1e-7, atol=1e-7)


@settings(max_examples=max(settings().max_examples // 4, 10))
@given(rng=generators())
def test_second_order_through_fused_rules(rng: np.random.Generator) -> None:
    """The gradient of a squared gradient: fused = unfused = numerical."""
    x, t = rng.normal(size=(4, 3)), rng.integers(0, 2, 4)
    w, b, v = (Tensor(rng.normal(size=s), True) for s in ((3, 5), (5,), (5, 2)))

    def squared_gradient(record: bool) -> Tensor:
        loss = F.cross_entropy((x @ w + b).tanh() @ v, t)
        parts = tensorgrad.grad(loss, (w, b, v), create_graph=record)
        return sum((p * p).sum() for p in parts)

    fused = tensorgrad.grad(squared_gradient(True), (w, b, v))
    with fusion.off():
        unfused = tensorgrad.grad(squared_gradient(True), (w, b, v))
    for f, u, p in zip(fused, unfused, (w, b, v), strict=True):
        np.testing.assert_allclose(f.data, u.data, rtol=1e-11, atol=1e-14)
        numerical = numerical_gradient(lambda: squared_gradient(False).item(), p.data)
        np.testing.assert_allclose(f.data, numerical, rtol=1e-7, atol=1e-8)


def layer_and_loss() -> tuple[Tensor, Tensor, Tensor, Tensor, Callable[[], tuple[Tensor, ...]]]:
    rng = np.random.default_rng(3)
    x, w, b, y = (Tensor(rng.normal(size=s), True) for s in ((4, 3), (3, 2), (2,), (4, 2)))

    def run() -> tuple[Tensor, ...]:
        product = x @ w
        z = product + b
        h = z.relu()
        p = h.softmax()
        return product, z, h, p, -(np.eye(2)[[0, 1, 1, 0]] * p.log()).sum() / 4

    return x, w, b, y, run


@pytest.mark.parametrize("held", [0, 1, 2, 3])
def test_what_the_user_holds_keeps_value_and_gradient(held: int) -> None:
    """An intermediate of a pattern, held: its value does not change, and its .grad, if asked for, is the unfused one."""
    _, w, _, _, run = layer_and_loss()
    tensors = run()
    values = [t.data.copy() for t in tensors]
    tensors[held].retain_grad()
    tensors[-1].backward()
    got, w_grad = tensors[held].grad.data, w.grad.data
    for t, value in zip(tensors, values, strict=True):
        np.testing.assert_array_equal(t.data, value)
    w.grad = None
    with fusion.off():
        plain = run()
        plain[held].retain_grad()
        plain[-1].backward()
    np.testing.assert_allclose(got, plain[held].grad.data, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(w_grad, w.grad.data, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_gradient_asked_of_an_intermediate(wanted: int) -> None:
    _, _, _, _, run = layer_and_loss()
    tensors = run()
    (fused,) = tensorgrad.grad(tensors[-1], tensors[wanted])
    with fusion.off():
        plain = run()
        (unfused,) = tensorgrad.grad(plain[-1], plain[wanted])
    np.testing.assert_allclose(fused.data, unfused.data, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("second", [0, 1, 3])
def test_an_intermediate_with_a_second_reader_stays(second: int) -> None:
    """A layer is not fused then; a loss is, and leaves the softmax to its other reader."""
    x, w, b, _, run = layer_and_loss()
    tensors = run()
    loss = tensors[-1] + (tensors[second] * tensors[second]).sum()
    ops = fused_ops(loss)
    assert ("linear_relu" in ops) == (second == 3)
    assert "softmax_cross_entropy" in ops
    assert ("softmax" in ops) == (second == 3)
    fused = tensorgrad.grad(loss, (x, w, b))
    with fusion.off():
        plain = run()
        unfused = tensorgrad.grad(plain[-1] + (plain[second] * plain[second]).sum(), (x, w, b))
    for f, u in zip(fused, unfused, strict=True):
        np.testing.assert_allclose(f.data, u.data, rtol=1e-12, atol=1e-15)


def test_what_only_looks_like_a_pattern() -> None:
    """A bias that is no row of numbers, targets with a gradient, a softmax over another axis, a sum that is no scalar."""
    rng = np.random.default_rng(0)
    x, w, z = (Tensor(rng.normal(size=s), True) for s in ((4, 3), (3, 4), (4, 4)))
    column, targets = Tensor(rng.normal(size=(4, 1)), True), Tensor(rng.uniform(size=(4, 4)), True)
    eye, weights = np.eye(4), np.arange(4.0)
    cases: list[Callable[[], Tensor]] = [
        lambda: (x @ w + column).relu().sum(),
        lambda: (x @ w + x @ w).relu().sum(),
        lambda: -(targets * z.log_softmax()).sum(),
        lambda: -(eye * z.log_softmax(axis=0)).sum(),
        lambda: ((eye * z.log_softmax()).sum(-1) * weights).sum(),
        lambda: -(weights * z.log_softmax()).sum(),
        lambda: -(eye * z.log_softmax()).sum() * z.log_softmax().sum(),
    ]
    for write in cases:
        leaves = (x, w, z, column, targets)
        loss = write()
        if write is not cases[-1]:
            assert not {"linear", "linear_relu", "softmax_cross_entropy"} & set(fused_ops(loss))
        loss.backward(retain_graph=True)
        fused = [t.grad for t in leaves]
        for t in leaves:
            t.grad = None
        with fusion.off():
            write().backward()
        for t, f in zip(leaves, fused, strict=True):
            assert (t.grad is None) == (f is None)
            if f is not None:
                np.testing.assert_allclose(f.data, t.grad.data, rtol=1e-12, atol=1e-14)
            t.grad = None


def test_off_and_on_nest() -> None:
    from tensorgrad.core.state import state

    with fusion.off():
        assert not state.fusing
        with fusion.on():
            assert state.fusing
        assert not state.fusing
    assert state.fusing
