"""Jacobians, Hessians and their products against formulas written out in NumPy."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import tensorgrad
from tensorgrad import Tensor, checkpoint, hessian, hvp, jacobian, jvp, ops, vjp
from tensorgrad.errors import GraphError, ShapeError
from tensorgrad.testing import numerical_gradient
from tests.strategies import generators


def f(x: Tensor, w: Tensor) -> Tensor:
    """(4, 3) and (3,) to (4,): sin(x) w + (w . w) x[:, 0]"""
    return x.sin() @ w + (w * w).sum() * x[:, 0]


@given(rng=generators())
def test_jacobian_vjp_jvp(rng: np.random.Generator) -> None:
    x, w, v = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=4)
    u = rng.normal(size=(4, 3)), rng.normal(size=3)
    jx = np.zeros((4, 4, 3))
    for i in range(4):
        jx[i, i] = np.cos(x[i]) * w
        jx[i, i, 0] += w @ w
    jw = np.sin(x) + 2 * np.outer(x[:, 0], w)
    for got, expected in zip(jacobian(f, (x, w)), (jx, jw), strict=True):
        np.testing.assert_allclose(got.data, expected, rtol=1e-12, atol=1e-13)
    y, (vx, vw) = vjp(f, (x, w), v)
    np.testing.assert_allclose(y.data, np.sin(x) @ w + (w @ w) * x[:, 0], rtol=1e-12)
    np.testing.assert_allclose(vx.data, np.einsum("i,ijk->jk", v, jx), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(vw.data, v @ jw, rtol=1e-11, atol=1e-12)
    _, tangent = jvp(f, (x, w), u)
    np.testing.assert_allclose(tangent.data, np.einsum("ijk,jk->i", jx, u[0]) + jw @ u[1], rtol=1e-11, atol=1e-12)


@given(rng=generators())
def test_hessian_and_hvp(rng: np.random.Generator) -> None:
    a, x, v = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)

    def quartic(t: Tensor) -> Tensor:
        q = t @ (a @ t)
        return q * q

    s = a + a.T
    expected = 2 * np.outer(s @ x, s @ x) + 2 * (x @ a @ x) * s
    np.testing.assert_allclose(hessian(quartic, x).data, expected, rtol=1e-10, atol=1e-10)
    y, product = hvp(quartic, x, v)
    assert y.item() == pytest.approx((x @ a @ x) ** 2)
    np.testing.assert_allclose(product.data, expected @ v, rtol=1e-10, atol=1e-10)


def test_hessian_blocks_of_two_inputs() -> None:
    x, z = np.array([1.0, 2.0]), np.array([0.5])
    blocks = hessian(lambda p, q: (p * p).sum() * q.sum() + (q**3).sum(), (x, z))
    np.testing.assert_allclose(blocks[0][0].data, 2 * 0.5 * np.eye(2))
    np.testing.assert_allclose(blocks[0][1].data, 2 * x[:, None])
    np.testing.assert_allclose(blocks[1][0].data, 2 * x[None])
    np.testing.assert_allclose(blocks[1][1].data, [[6 * 0.5]])


def test_functions_that_do_not_depend_on_their_input() -> None:
    x = np.ones(2)
    assert not jacobian(lambda t: Tensor(np.ones(3)), x).data.any()
    assert not jvp(lambda t: Tensor(np.ones(3)), x, x)[1].data.any()
    assert not hessian(lambda t: t.sum(), x).data.any()
    assert jacobian(lambda t: t * np.zeros((0, 2)), x).shape == (0, 2, 2)


def test_mistakes() -> None:
    with pytest.raises(ShapeError, match=r"hessian: the function returned shape \(2,\), expected a 0-d Tensor"):
        hessian(lambda t: t * t, np.ones(2))
    with pytest.raises(ShapeError, match=r"jvp: v\[0\] has shape \(3,\), expected \(2,\)"):
        jvp(lambda t: t * t, np.ones(2), np.ones(3))
    with pytest.raises(ShapeError, match=r"hvp: v\[0\] has shape \(3,\), expected \(2,\)"):
        hvp(lambda t: (t * t).sum(), np.ones(2), np.ones(3))
    with pytest.raises(GraphError, match="vjp: the function returned float, expected a Tensor"):
        vjp(lambda t: 1.0, np.ones(2), 1.0)


@given(rng=generators())
def test_checkpoint(rng: np.random.Generator) -> None:
    """Same value, same gradients, of inputs and of parameters that the segment reads; to second order too."""
    x, w = Tensor(rng.normal(size=(4, 3)), True), Tensor(rng.normal(size=(3, 2)), True)

    def segment(t: Tensor) -> Tensor:
        return (t @ w).tanh() * 2

    plain = segment(x * 1)
    kept = checkpoint(segment, x * 1)
    np.testing.assert_array_equal(kept.data, plain.data)
    g = rng.normal(size=(4, 2))
    for a, b in zip(tensorgrad.grad(kept, (x, w), g), tensorgrad.grad(plain, (x, w), g), strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-12)
    gw = tensorgrad.grad((checkpoint(segment, x) * g).sum(), w, create_graph=True)[0]
    (second,) = tensorgrad.grad((gw * gw).sum(), w)

    def squared() -> float:
        (p,) = tensorgrad.grad((segment(x) * g).sum(), w)
        return float((p.data**2).sum())

    np.testing.assert_allclose(second.data, numerical_gradient(squared, w.data), rtol=1e-6, atol=1e-6)


SEGMENTS: dict[str, Any] = {
    "of a result": lambda x, f: f(lambda t: (t * t).exp(), x * 2),
    "with constants": lambda x, f: f(lambda t: (t * t).exp() * Tensor(np.ones(3)).exp() * ops.ones((3,)).sum(), x),
    "one inside of one": lambda x, f: f(lambda t: f(lambda s: (s * s).exp(), t * 2) * t, x * 1),
    "of one Tensor twice": lambda x, f: f(lambda a, b: (a * a * b).exp(), x, x),
    "of one result twice": lambda x, f: (lambda t: f(lambda a, b: (a * a * b).exp(), t, t))(x.sin()),
    "of one that is computed from the other": lambda x, f: (lambda t: f(lambda a, b: (a * a * b).exp(), t, t * x))(x.sin()),
    "of a leaf and what is computed from it": lambda x, f: f(lambda a, b: (a * a * b).exp(), x, x * 2),
    "that reads its argument besides": lambda x, f: f(lambda t: (t * t * x).exp(), x),
    "that reads a result besides": lambda x, f: (lambda z: f(lambda t: (t * z).exp(), x * 2))(x.sin()),
    "that reads a result that is its argument": lambda x, f: (lambda z: f(lambda t: (t * z).exp(), z))(x.sin()),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_by_themselves(name: str) -> None:
    """The gradients of a segment are those with respect to its arguments, however these hang together; to second order, and in
    compiled steps, which refuse what is read besides, and one inside of another."""
    x = Tensor(np.array([0.3, 0.5, 0.7]), True)
    found = []
    for f in (checkpoint, lambda fn, *xs: fn(*xs)):
        (plain,) = tensorgrad.grad(SEGMENTS[name](x, f).sum(), [x])
        (g,) = tensorgrad.grad(SEGMENTS[name](x, f).sum(), [x], create_graph=True)
        (h,) = tensorgrad.grad((g * g).sum(), [x])
        results = [plain, g, h]
        if "reads" not in name and "inside" not in name:
            step = tensorgrad.compile(lambda x, f=f: tensorgrad.grad(SEGMENTS[name](x, f).sum(), [x])[0])
            results += [step(x), step(x * 1.5)]
        found.append([t.data for t in results])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("given", [(), (np.ones((4, 3)),), (2.0,), (Tensor(np.ones((4, 3))), np.full((4, 3), 2.0))])
def test_checkpoint_of_what_requires_no_gradient(given: tuple[Any, ...]) -> None:
    """Arrays come as Tensors; parameters get their gradients, whatever the arguments are."""
    w = Tensor(np.ones((3, 2)), True)

    def segment(*xs: Any) -> Tensor:
        return (sum(xs, w.exp().sum()) * w.sum()).mean()

    for g, e in zip(tensorgrad.grad(checkpoint(segment, *given), w), tensorgrad.grad(segment(*given), w), strict=True):
        np.testing.assert_array_equal(g.data, e.data)


def test_checkpoint_keeps_only_its_inputs() -> None:
    x = Tensor(np.ones((8, 8)), True)
    inner = []

    def segment(t: Tensor) -> Tensor:
        h = t.exp()
        inner.append(weakref.ref(h._data))
        return (h * h).sum()

    y = checkpoint(segment, x)
    gc.collect()
    assert inner[0]() is None
    y.backward()
    assert len(inner) == 2
    np.testing.assert_allclose(x.grad.data, 2 * np.exp(2 * x.data))
    with pytest.raises(GraphError, match="checkpoint: the function returned int, expected a Tensor"):
        checkpoint(lambda t: 1, x)


def test_a_compiled_function_inside_is_refused() -> None:
    w = Tensor(np.ones(3), True)
    compiled = tensorgrad.compile(lambda x: (x * w).tanh())
    for fn in (compiled, lambda t: compiled(t) * 2, lambda t: tensorgrad.checkpoint(compiled, t)):
        with pytest.raises(
            GraphError, match="checkpoint: the function calls a compiled function, which cannot be recomputed in parts"
        ):
            tensorgrad.checkpoint(fn, Tensor(np.ones(3), True))
    assert tensorgrad.checkpoint(compiled.step, Tensor(np.ones(3), True)).requires_grad


def test_one_in_another_in_a_compiled_step() -> None:
    w = Tensor(np.array([0.1, 0.2, 0.3]), True)

    def step(x: Any) -> Any:
        y = tensorgrad.checkpoint(lambda t: tensorgrad.checkpoint(lambda u: (u * w).tanh(), t) * 2, x * w)
        return tensorgrad.grad(y.sum(), w)[0]

    compiled = tensorgrad.compile(step)
    for x in (np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.5, 2.0]), np.ones(3)):
        np.testing.assert_allclose(compiled(x).data, step(Tensor(x)).data, rtol=1e-13)
    assert not compiled.why_not
