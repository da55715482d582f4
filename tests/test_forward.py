"""Forward mode: Linearised, and what jvp, jacfwd, hessian and hvp make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, checkpoint, hessian, hvp, jacfwd, jacobian, jvp, ops
from tensorgrad.autograd.forward import Linearised
from tensorgrad.errors import DTypeError, GraphError, ShapeError, TensorgradError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tests.strategies import generators


@settings(max_examples=8)
@given(rng=generators())
def test_over_and_over(rng: np.random.Generator) -> None:
    """Forward over reverse, reverse over forward, forward over forward and both over reverse agree."""
    a, x, v, w = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3), rng.normal(size=3)

    def f(t: Tensor) -> Tensor:
        return ((t @ a).tanh() * t.exp()).sum() + ops.norm(t) ** 3

    h = hessian(f, x).data
    np.testing.assert_allclose(h, h.T, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(hvp(f, x, v)[1].data, h @ v, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(tensorgrad.vjp(lambda t: jvp(f, t, v, create_graph=True)[1], x, None)[1].data, h @ v, rtol=1e-9)
    twice = jvp(lambda t: jvp(f, t, v, create_graph=True)[1], x, w)[1]
    np.testing.assert_allclose(twice.data, w @ h @ v, rtol=1e-9, atol=1e-11)

    def curvature(t: Tensor) -> Tensor:
        return (hvp(f, t, v, create_graph=True)[1] * v).sum()

    third = jacobian(curvature, x).data
    np.testing.assert_allclose(jacfwd(curvature, x).data, third, rtol=1e-9, atol=1e-10)
    e = 1e-5
    slope = (v @ hessian(f, x + e * w).data @ v - v @ hessian(f, x - e * w).data @ v) / (2 * e)
    np.testing.assert_allclose(third @ w, slope, rtol=1e-5, atol=1e-5 * np.abs(third).max())


@given(rng=generators())
def test_a_network(rng: np.random.Generator) -> None:
    """Fused and not, of all parameters at once."""
    x, labels = rng.normal(size=(5, 3)), rng.integers(0, 2, 5)
    shapes = ((3, 4), (4,), (4, 2), (2,))
    ws = tuple(rng.normal(size=s) for s in shapes)

    def loss(*ws: Tensor) -> Tensor:
        return F.cross_entropy((Tensor(x) @ ws[0] + ws[1]).tanh() @ ws[2] + ws[3], labels)

    vs = tuple(rng.normal(size=s) for s in shapes)
    expected = sum((g.data * v).sum() for g, v in zip(tensorgrad.vjp(loss, ws, None)[1], vs, strict=True))
    assert jvp(loss, ws, vs)[1].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    with tensorgrad.fusion.off():
        assert jvp(loss, ws, vs)[1].item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(rng=generators(), size=st.integers(0, 3))
def test_jacfwd_is_jacobian(rng: np.random.Generator, size: int) -> None:
    x, w = rng.normal(size=(2, size)), rng.normal(size=(size, 3))

    def f(x: Tensor, w: Tensor) -> Tensor:
        return (x @ w).softmax() + ops.cumsum(x, 1).sum()

    for found, expected in zip(jacfwd(f, (x, w)), jacobian(f, (x, w)), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-12, atol=1e-13)
    t = Tensor(w, True)
    if size:
        (g,) = tensorgrad.grad(jacfwd(lambda t: t**3, t, create_graph=True).sum(), t)
        np.testing.assert_allclose(g.data, 6 * w, rtol=1e-12)


def test_inputs_that_are_one_and_that_depend_on_each_other() -> None:
    x = Tensor(np.array([1.0, 2.0]), True)
    z = x * x
    v, w = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(jvp(lambda a, b: a * b, (x, x), (v, w))[1].data, 2 * x.data * (v + w))
    found = jvp(lambda a, b: a * b, (x, z), (v, w))[1].data
    np.testing.assert_allclose(found, 3 * x.data**2 * v + x.data * w)  # as `grad`: z moves with x, and by itself
    np.testing.assert_array_equal(jvp(lambda a: a, x, v)[1].data, v)
    assert not np.shares_memory(jvp(lambda a: a, x, v)[1].data, v)


def test_nothing_comes_of_what_stands_still() -> None:
    x = np.array([0.5, 1.5])
    for fn in (
        lambda t: ops.concatenate([t.detach(), ops.floor(t)]),
        lambda t: checkpoint(lambda s: s.exp(), ops.sign(t)),
        lambda t: ops.floor(t) * ops.round(t),
    ):
        assert not jvp(fn, x, x)[1].data.any()


def test_checkpoint() -> None:
    rng = np.random.default_rng(0)
    x, w = Tensor(rng.normal(size=(4, 3)), True), Tensor(rng.normal(size=(3, 2)), True)
    calls = []

    def segment(t: Tensor) -> Tensor:
        calls.append(1)
        return (t @ w).tanh() * 2

    vs = {x: rng.normal(size=(4, 3)), w: rng.normal(size=(3, 2))}
    linear = Linearised([checkpoint(segment, x * 1)])
    (expected,) = Linearised([segment(x * 1)])(vs)
    for _ in range(3):
        np.testing.assert_allclose(linear(vs)[0], expected, rtol=1e-12)
    assert len(calls) == 3  # for the value, for the one beside it, and once for all tangents


def test_constants_that_move() -> None:
    """What was captured can move too, also where a fused op would take it as data."""
    x, c, y = Tensor(np.array([[0.3, -1.0, 2.0]]), True), Tensor(np.array([1.0, 2.0, 3.0])), Tensor(np.array([[0.2, 0.5, 0.3]]))
    loss = -(y * (x * c).softmax().log()).sum()
    linear = Linearised([loss])
    v = np.array([1.0, -1.0, 0.5])
    (along_c,), (along_y,) = linear({c: v}), linear({y: v[None]})
    z = x.data * c.data
    p = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(along_c, ((p - y.data) * x.data * v).sum(), rtol=1e-12)
    np.testing.assert_allclose(along_y, -(v * np.log(p)).sum(), rtol=1e-12)
    assert linear({Tensor(np.ones(2)): np.ones(2)})[0] == 0.0  # what has no part in it


def test_only_what_lies_between_is_gone_through() -> None:
    x, w = Tensor(np.ones((2, 2)), True), Tensor(np.ones((2, 2)), True)
    y, other = (x.exp() @ w).sin(), x.cos()
    linear = Linearised([y])
    linear({w: np.ones((2, 2))})
    linear({x: np.ones((2, 2))})
    assert [len(steps) for _, steps in linear.programs.values()] == [2, 3]
    assert not np.any(Linearised([other])({w: np.ones((2, 2))})[0])


# Ops of the user's


@pytest.fixture
def cube() -> Iterator[type[Op]]:
    class Cube(Op):
        """y = a³ b

        forward    y  = a³ b
        backward   ga = 3 g a² b,   gb = g a³
        """

        name, signature, reads = "cube", "(),()->()", "a b"

        def forward(self, xp: Any, a: Any, b: Any) -> Any:
            return a**3 * b

        def backward(self, g: Any, y: Any, a: Any, b: Any) -> Any:
            return lambda: 3 * g * a * a * b, lambda: g * a**3

    yield Cube
    REGISTRY.pop("cube", None)


@given(rng=generators())
def test_an_op_with_backward_alone(rng: np.random.Generator) -> None:
    """Its tangent is the transpose of its gradient, broadcast arguments and second derivatives included."""

    class Cube(Op):
        """y = a³ b"""

        name, signature, reads = "cube", "(),()->()", "a b"

        def forward(self, xp: Any, a: Any, b: Any) -> Any:
            return a**3 * b

        def backward(self, g: Any, y: Any, a: Any, b: Any) -> Any:
            return lambda: 3 * g * a * a * b, lambda: g * a**3

    op = Cube()
    try:
        a, b, va, vb = rng.normal(size=(2, 3)), rng.normal(size=3), rng.normal(size=(2, 3)), rng.normal(size=3)
        _, found = jvp(op, (a, b), (va, vb))
        np.testing.assert_allclose(found.data, 3 * a * a * b * va + a**3 * vb, rtol=1e-12, atol=1e-14)
        _, found = jvp(lambda t: jvp(op, (t, b), (va, vb), create_graph=True)[1], a, va)
        np.testing.assert_allclose(found.data, 6 * a * b * va * va + 3 * a * a * va * vb, rtol=1e-11, atol=1e-13)
        _, found = jvp(lambda t: op(t.detach(), b), a, va)
        assert not found.data.any()
    finally:
        del REGISTRY["cube"]


def test_whose_rule_is_taken(cube: type[Op]) -> None:
    x = Tensor(np.array([2.0]), True)
    y = cube()(x, 5.0) * 2
    asked = []

    def derive(node: Any, y: Any, xs: Any, tangents: Any) -> Any:
        asked.append((node.op.name, [np.shape(a) for a in xs], [t is None for t in tangents]))
        return tangents[0] * 60

    np.testing.assert_allclose(Linearised([y], derive=derive)({x: np.ones(1)})[0], [120.0])
    assert asked == [("cube", [(1,), ()], [False, True])]
    np.testing.assert_allclose(Linearised([y], uses_jvp=lambda op: False)({x: np.ones(1)})[0], [120.0])
    np.testing.assert_allclose(Linearised([y], derive=lambda *_: None)({x: np.ones(1)})[0], [0.0])


def test_an_op_with_a_jvp(cube: type[Op], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cube, "jvp", lambda self, y, a, b: (lambda t: 3 * t * a * a * b, lambda t: y * t / b), raising=False)
    x, b = Tensor(np.array([2.0]), True), Tensor(np.array([5.0]), True)
    with pytest.raises(GraphError, match=r'cube: jvp uses the value of y, which is not in `reads`.*reads = "a b y" in Cube'):
        Linearised([cube()(x, b)])({b: np.ones(1)})
    monkeypatch.setattr(cube, "linear", "c", raising=False)
    with pytest.raises(TensorgradError, match=r"cube: linear names \['c'\], which forward does not take"):
        cube()


# Mistakes


def test_mistakes() -> None:
    x = Tensor(np.ones(3), True)
    y = x.exp().sum()
    linear = Linearised([y], caller="check")
    with pytest.raises(ShapeError, match=r"check: the tangent has shape \(2,\), expected \(3,\), the shape of the input"):
        linear({x: np.ones(2)})
    with pytest.raises(DTypeError, match="check: the input must have a floating dtype, got int64"):
        linear({Tensor(np.arange(3)): np.ones(3)})
    with pytest.raises(ShapeError, match=r"jvp: v\[0\] has shape \(2,\), expected \(3,\)"):
        jvp(lambda t: t.exp(), x, np.ones(2))
    with pytest.raises(GraphError, match="jacfwd: the function returned float, expected a Tensor"):
        jacfwd(lambda t: 1.0, x)
    with pytest.raises(ShapeError, match=r"hessian: the function returned shape \(3,\), expected a 0-d Tensor"):
        hessian(lambda t: t * t, x)
    linear = Linearised([y])
    y.backward()
    for call in (lambda: linear({x: np.ones(3)}), lambda: Linearised([y])):
        with pytest.raises(GraphError, match="the graph has been freed"):
            call()


def test_a_value_that_has_changed() -> None:
    x = Tensor(np.ones(3), True)
    z = x * 2
    y = z.square().sum()
    z += 1
    with pytest.raises(GraphError, match=r"jvp: square .*, needs a value that was changed in place later: argument 0"):
        Linearised([y])


@pytest.mark.parametrize("name", ["jvp", "hvp", "jacfwd", "hessian", "recorded"])
def test_compiled(name: str) -> None:
    w = Tensor(np.linspace(-1, 1, 9).reshape(3, 3), True)

    def f(x: Tensor) -> Tensor:
        return ((x @ w).tanh() ** 2).sum() + ops.concatenate([x, x * 2]).exp().sum()

    calls: dict[str, Any] = {
        "jvp": lambda x, v: jvp(f, x, v)[1],
        "hvp": lambda x, v: hvp(f, x, v)[1],
        "jacfwd": lambda x, v: jacfwd(f, x),
        "hessian": lambda x, v: hessian(f, x),
        "recorded": lambda x, v: tensorgrad.grad(jvp(f, x, v, create_graph=True)[1], w)[0],
    }
    compiled = tensorgrad.compile(calls[name])
    for seed in range(3):
        x, v = np.random.default_rng(seed).normal(size=(2, 2, 3))
        np.testing.assert_allclose(compiled(Tensor(x), Tensor(v)).data, calls[name](Tensor(x), Tensor(v)).data, rtol=1e-10)
