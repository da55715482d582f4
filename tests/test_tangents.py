"""The jvp of every op against the reverse rule, against complex numbers and differences, at kinks and poles."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, jacfwd, jacobian, jvp, ops, vjp
from tensorgrad.autograd.forward import Linearised
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing.expressions import Expression, expressions
from tests.strategies import generators
from tests.test_poles import CASES, GUARDS, HOSTILE

RULES = [op for op in REGISTRY.values() if op.backward is not None and type(op).__module__.startswith("tensorgrad.")]
named = pytest.mark.parametrize("op", RULES, ids=[op.name for op in RULES])

# Of these `forward` takes no complex numbers, or is no analytic function of them: differences are their judge
NOT_ANALYTIC = {
    "abs", "arctan2", "assign", "astype", "attention", "checkpoint", "cholesky", "clip", "ctc", "div_grad", "eigh_factors",
    "elu", "erf", "gelu", "gru", "hypot", "leaky_relu", "linear_relu", "log_complement_sigmoid", "log_softmax", "logabsdet",
    "logaddexp", "logcumsumexp", "logsigmoid", "logsumexp", "lstm", "max", "maximum", "min", "minimum", "mod", "mul_grad",
    "norm", "pinv", "qr_factors", "relu", "relu_grad", "setitem", "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_grad", "sigmoid_grad", "silu", "softmax", "softmax_cross_entropy", "softmax_cross_entropy_grad",
    "softplus", "svd_factors", "tanh_grad",
}  # fmt: skip
STEPS = {"ceil", "floor", "floordiv", "round", "sign", "trunc"}


def case(op: Op, rng: np.random.Generator) -> tuple[list[Any], dict[str, Any], list[Tensor], Tensor]:
    """Arguments (Tensors where they have a gradient), attributes, those Tensors, and the result."""
    arrays, attrs = op.sample(rng)
    args = [Tensor(a, True) if a.dtype.kind == "f" and not op.is_data(i) else a for i, a in enumerate(arrays)]
    return args, attrs, [a for a in args if isinstance(a, Tensor)], op(*args, **attrs)


def like(rng: np.random.Generator, xs: list[Tensor]) -> list[np.ndarray]:
    return [np.asarray(rng.normal(size=x.shape)) for x in xs]


def mismatch(rng: np.random.Generator, ys: list[Tensor], xs: list[Tensor], floor: float = 0.0) -> float:
    """<J v, u> - <v, Jᵀ u> as a share of the sum of the terms' absolute values, or of `floor`, for v and u that are drawn."""
    ys = [y for y in ys if y.requires_grad]
    if not ys:
        return 0.0
    vs, us = like(rng, xs), like(rng, ys)
    terms = [t * u for t, u in zip(Linearised(ys)(dict(zip(xs, vs, strict=True))), us, strict=True)]
    found = tensorgrad.grad(ys, xs, us, allow_unused=True, retain_graph=True)
    back = [g.data * v for g, v in zip(found, vs, strict=True) if g is not None]
    size = sum(float(np.abs(t).sum()) for t in terms + back)
    return abs(sum(float(t.sum()) for t in terms) - sum(float(t.sum()) for t in back)) / (max(size, floor) or 1.0)


@named
def test_every_rule_has_a_jvp_with_its_formula(op: Op) -> None:
    assert op.jvp is not None
    assert bool(op.formula("tangent")) == (not op.linear)


@named
@pytest.mark.every(6)
@given(rng=generators())
def test_the_dot_product_identity(op: Op, rng: np.random.Generator) -> None:
    """Of values; of gradients, which were recorded; and of tangents, which were."""
    _, _, xs, y = case(op, rng)
    assert mismatch(rng, [y], xs) < 1e-12
    if not y.requires_grad:
        return
    gradients = tensorgrad.grad(y, xs, Tensor(rng.normal(size=y.shape), True), create_graph=True, allow_unused=True)
    assert mismatch(rng, [g for g in gradients if g is not None], xs, 1.0) < 1e-12
    vs = [Tensor(v, True) for v in like(rng, xs)]
    (tangent,) = Linearised([y])(dict(zip(xs, vs, strict=True)))
    assert mismatch(rng, [tangent], [*xs, *vs], 1.0) < 1e-12


@given(expression=expressions(), rng=generators(), fusing=st.booleans())
def test_the_identity_of_expressions(expression: Expression, rng: np.random.Generator, fusing: bool) -> None:
    with tensorgrad.fusion.on() if fusing else tensorgrad.fusion.off():
        xs = [Tensor(a, True) for a in expression.inputs]
        y = expression(*xs)
        assert (
            mismatch(rng, [y], xs, 1e-4) < 1e-11
        )  # of what is the same for all inputs, as solve(x, x), rounding is all there is
        if y.requires_grad:
            gradients = tensorgrad.grad(y, xs, Tensor(rng.normal(size=y.shape)), create_graph=True, allow_unused=True)
            assert mismatch(rng, [g for g in gradients if g is not None], xs, 1.0) < 1e-9


@named
@pytest.mark.every(6)
@given(rng=generators())
def test_values_of_the_function_judge(op: Op, rng: np.random.Generator) -> None:
    """The complex step of `forward`, or differences of it; each argument alone, and Tensors as arrays."""
    args, attrs, _, y = case(op, rng)
    arrays = [a.data if isinstance(a, Tensor) else a for a in args]
    for i, x in enumerate(args):
        if not isinstance(x, Tensor) or not y.requires_grad:
            continue
        v = np.asarray(rng.normal(size=x.shape))
        (tangent,) = Linearised([y])({x: v})
        (recorded,) = Linearised([y])({x: Tensor(v, True)})
        rounding = 4 * np.finfo(float).eps * np.abs(tangent).max(initial=0.0)  # of a sum whose terms nearly cancel
        np.testing.assert_allclose(recorded.data, tangent, rtol=1e-14, atol=rounding + 1e-300)
        moved = list(arrays)
        if op.name in STEPS:
            assert not tangent.any()
        elif op.name in NOT_ANALYTIC:
            values = []
            for h in (1e-4, -1e-4, 2e-4, -2e-4):
                moved[i] = np.asarray(arrays[i] + h * v)
                values.append(op(*moved, **attrs))
            up, down, up2, down2 = values
            expected = (8 * (up - down) - (up2 - down2)) / 12e-4
            scale = np.abs(up).max(initial=1.0)
            np.testing.assert_allclose(tangent, expected, rtol=1e-8, atol=1e-9 * scale)
        else:
            moved[i] = np.asarray(arrays[i] + 1e-20j * v)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                expected = np.imag(op.forward(np, *moved, **attrs)) / 1e-20
            np.testing.assert_allclose(tangent, expected, rtol=1e-11, atol=1e-12)


@named
@pytest.mark.every(6)
def test_a_jvp_that_is_wrong_is_seen(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor of 1 + 1e-9 on the part of any one argument."""
    right = op.jvp
    assert right is not None
    for which in range(4):

        def wrong(y: Any, *xs: Any, which: int = which, **attrs: Any) -> Any:
            rules = right(y, *xs, **attrs)
            if callable(rules):
                return lambda *ts: rules(*ts) * (1 + 1e-9)
            return tuple(
                (lambda t, rule=rule: rule(t) * (1 + 1e-9)) if i == which and rule is not None else rule
                for i, rule in enumerate(rules)
            )

        worst = largest = 0.0
        for seed in range(5):
            rng = np.random.default_rng(seed)
            args, _, xs, y = case(op, rng)
            if not y.requires_grad or which >= len(args) or not isinstance(args[which], Tensor):
                continue
            monkeypatch.setattr(op, "jvp", right, raising=False)
            largest = max(
                largest,
                float(np.abs(Linearised([y])({args[which]: np.asarray(rng.normal(size=args[which].shape))})[0]).max(initial=0)),
            )
            monkeypatch.setattr(op, "jvp", wrong, raising=False)
            worst = max(worst, mismatch(rng, [y], xs))
        assert (worst > 1e-12) == (largest > 1e-9), (which, worst)


# Mutants of another kind than a factor, by op: what is wrong is a single line that somebody might have written
MUTANTS: dict[str, Any] = {
    "mul": lambda y, a, b: (lambda t: t * b, lambda t: t * b),
    "div": lambda y, a, b: (lambda t: t / b, lambda t: -t * a / b),
    "sub": lambda y, a, b: (lambda t: t, lambda t: t),
    "maximum": lambda y, a, b: (lambda t: ops.where(a <= b, t, 0), lambda t: ops.where(a <= b, 0, t)),
    "where": lambda y, c, a, b: (None, lambda t: t, lambda t: ops.where(c, 0, t)),
    "power": lambda y, a, b: (lambda t: t * b * a ** (b - 1), None),
    "sigmoid": lambda y, x: (lambda t: t * y,),
    "softmax": lambda y, z, axis: (lambda t: t * y,),
    "log_softmax": lambda y, z, axis: (lambda t: t - t.sum(axis, keepdims=True) / t.shape[axis],),
    "max": lambda y, x, axis, keepdims: (lambda t: t.sum(axis, keepdims=keepdims),),
    "norm": lambda y, x, axis, keepdims: (lambda t: (t * x).sum(axis, keepdims=keepdims),),
    "matmul": lambda y, a, b: (lambda t: t @ b, None),
    "linear": lambda y, x, w, b: (lambda t: t @ w, lambda t: x @ t, None),
    "solve": lambda y, a, b: (lambda t: ops.solve(a, t @ y), lambda t: ops.solve(a, t)),
    "det": lambda y, x: (lambda t: y * (ops.inv(x) * t).sum((-2, -1)),),
    "cholesky": lambda y, x: (lambda t: y @ t,),
    "setitem": lambda y, x, v, index: (lambda t: t, lambda t: ops.setitem(np.zeros(y.shape), t, index)),
    "astype": lambda y, x, dtype: (None,),
    "relu": lambda y, x: (lambda t: t,),
    "mod": lambda y, a, b: (lambda t: t, None),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_that_is_another_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, mutant = REGISTRY[name], MUTANTS[name]
    monkeypatch.setattr(op, "jvp", lambda y, *xs, **attrs: mutant(y, *xs, **attrs), raising=False)
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, _, xs, y = case(op, rng)
        found.append(mismatch(rng, [y], xs))
    assert max(found) > 1e-6


@pytest.mark.parametrize(("op", "args", "attrs"), CASES)
@pytest.mark.every(24)
def test_poles(op: Op, args: list[np.ndarray], attrs: dict[str, Any]) -> None:
    """At poles, infinities and NaN forward mode says what the reverse walk says wherever that says anything."""
    keep = np.array([False, True])
    guards = [*GUARDS.values(), lambda y, keep: y * 1, lambda y, keep: y * np.array([0.0, 1.0])]
    for i, value, guard in itertools.product(range(len(args)), HOSTILE, guards):
        if op.is_data(i):
            continue
        given = [Tensor(a, True) if not op.is_data(j) else a for j, a in enumerate(args)]
        given[i] = Tensor(np.array([value, args[i][1]]), True)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            y = ops.sum(guard(op.apply(*given, **attrs), keep))
            if not y.requires_grad:
                continue
            for x in [t for t in given if isinstance(t, Tensor)]:
                (g,) = tensorgrad.grad(y, x, allow_unused=True, retain_graph=True)
                expected = np.zeros(2) if g is None else g.data
                linear = Linearised([y])
                for one in np.eye(2):
                    (found,), (recorded,) = linear({x: one}), linear({x: Tensor(one)})
                    known = expected[one == 1]
                    if not np.isnan(known):
                        np.testing.assert_allclose([found, recorded.data], [known[0]] * 2, rtol=1e-12, atol=1e-300)


KINKS: dict[str, tuple[Any, Any]] = {
    "relu": (lambda x: x.relu(), [-1.0, 0.0, 2.0]),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.3), [-1.0, 0.0, 2.0]),
    "elu": (lambda x: ops.elu(x, 0.5), [-1.0, 0.0, 0.1, 2.0]),
    "abs": (lambda x: x.abs(), [-1.0, 0.0, 2.0]),
    "sign": (lambda x: ops.sign(x) + x, [-1.0, 0.0, 2.0]),
    "round": (lambda x: ops.round(x) + ops.floor(x) + x, [0.5, 1.0, -1.5]),
    "mod": (lambda x: x % x[::-1], [2.0, 3.0, 2.0]),
    "clip": (lambda x: ops.clip(x, -1, 2), [-1.0, 0.0, 2.0, 3.0]),
    "maximum": (lambda x: ops.maximum(x, x[::-1] * 1), [1.0, 0.0, 1.0]),
    "minimum": (lambda x: ops.minimum(x, x[::-1] * 1), [1.0, 0.0, 1.0]),
    "max": (lambda x: x.max(), [1.0, 3.0, 3.0]),
    "min": (lambda x: x.min(), [3.0, 1.0, 1.0]),
    "prod": (lambda x: ops.prod(x), [0.0, 2.0, 0.0]),
    "one zero": (lambda x: ops.prod(x), [0.0, 2.0, 3.0]),
    "norm": (lambda x: ops.norm(x), [0.0, 0.0]),
    "std": (lambda x: ops.std(x), [2.0, 2.0]),
    "hypot": (lambda x: ops.hypot(x, x[::-1]), [0.0, 0.0]),
    "power 0": (lambda x: x**0, [0.0, 2.0, -1.0]),
    "power 2": (lambda x: x**2 + x**3.0, [0.0, 2.0, -1.0]),
    "2^x": (lambda x: ops.power(2.0, x) + ops.power(0.2, x), [0.0, 1.0, -2.0]),
    "0^x": (lambda x: ops.power(0.0, x), [0.0, 1.0]),
    "array exponents": (lambda x: x ** np.array([0.0, 1.0, 2.0, -1.0]), [0.0, 0.0, 0.0, 2.0]),
    "relu_grad": (lambda x: ops.relu_grad(x, np.array([0.1, 0.0, -1.0])), [1.0, 2.0, 3.0]),
    "x^x": (lambda x: (x * 1) ** x, [0.0, 2.0]),
    "logsumexp": (lambda x: ops.logsumexp(x), [np.inf, 0.0, 1.0]),
    "logsumexp of nothing": (lambda x: ops.logsumexp(x), [-np.inf, -np.inf]),
    "max_pool2d": (lambda x: ops.max_pool2d(x.reshape((1, 1, 2, 2)), 2), [1.0, 2.0, 2.0, 0.0]),
    "log of a softmax": (lambda x: x.softmax().log(), [0.0, 900.0, -900.0]),
    "cross-entropy": (lambda x: F.cross_entropy(x.reshape((1, 3)), np.array([2])), [0.0, 900.0, -900.0]),
    "log of a sigmoid": (lambda x: x.sigmoid().log() + (1 - x.sigmoid()).log(), [800.0, -800.0]),
    "masked": (lambda x: ops.where(x > 0, x.log(), 0.0), [0.0, 2.0]),
    "factor 0": (lambda x: x.log() * np.array([0.0, 1.0]), [0.0, 2.0]),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_ties_and_poles(name: str) -> None:
    """The same choice as the reverse walk's, to the last bit but rounding."""
    fn, at = KINKS[name]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected, found = jacobian(fn, np.array(at)).data, jacfwd(fn, np.array(at)).data
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("name", KINKS)
def test_kinks_at_second_order(name: str) -> None:
    """The derivatives of <u, J v> and of <v, Jᵀ u>, each by both ways, where that of the latter is finite."""
    fn, at = KINKS[name]
    rng, x = np.random.default_rng(0), np.array(at)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        v, u = rng.normal(size=x.shape), np.asarray(rng.normal(size=fn(Tensor(x)).shape))
        ways = (
            lambda t: (vjp(fn, t, u, create_graph=True)[1] * v).sum(),
            lambda t: (jvp(fn, t, v, create_graph=True)[1] * u).sum(),
        )
        expected, *others = [by(way, x).data for way in ways for by in (jacobian, jacfwd)]
    for found in others:
        finite = np.isfinite(expected)
        np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-12, atol=1e-14)


BROADCAST: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "setitem": lambda a, b: ops.setitem(a, b, (slice(None), 0)),
    "where": lambda a, b: ops.where(np.array([True, False, True]), a, b),
    "matmul": lambda a, b: ops.stack([a, a]) @ (b + np.ones((3, 2))),
    "solve": lambda a, b: ops.solve(np.eye(2) * 3 + a[:, :2], ops.stack([a, b + a])),
    "power": lambda a, b: a**b,
    "hypot": lambda a, b: ops.hypot(b, a),
    "concatenate": lambda a, b: ops.concatenate([a, b + np.ones((4, 3)), a * 2]),
    "linear": lambda a, b: (a @ np.ones((3, 3)) + b.reshape(1) * np.ones(3)).tanh(),
}


@pytest.mark.parametrize("name", BROADCAST)
@settings(max_examples=5)
@given(rng=generators())
def test_broadcasting(name: str, rng: np.random.Generator) -> None:
    a, b = rng.uniform(0.5, 2, (2, 3)), np.asarray(rng.uniform(0.5, 2, (1,) if name != "setitem" else ()))
    for found, expected in zip(jacfwd(BROADCAST[name], (a, b)), jacobian(BROADCAST[name], (a, b)), strict=True):
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-12, atol=1e-14)


# Dtypes


WITHOUT_LAPACK = [op for op in RULES if not type(op).__module__.endswith(("solve", "decompose"))]  # which has no long double


@pytest.mark.parametrize(
    ("op", "dtype"),
    [*((op, np.float32) for op in RULES), *((op, np.longdouble) for op in WITHOUT_LAPACK)],
    ids=lambda case: getattr(case, "name", getattr(case, "__name__", "")),
)
def test_dtypes_are_kept(op: Op, dtype: type[np.floating[Any]]) -> None:
    """Tangents are of the dtype of the result, as near to those of float64 as it allows."""
    for seed in range(5):
        arrays, attrs = op.sample(np.random.default_rng(seed))
        attrs = {**attrs, "dtype": dtype} if op.name == "astype" else attrs
        moves = [i for i, a in enumerate(arrays) if a.dtype.kind == "f" and not op.is_data(i)]
        found = []
        for to, recorded in itertools.product((np.float64, dtype), (False, True)):
            rng = np.random.default_rng(seed)
            args = [Tensor(a.astype(to), i in moves) if a.dtype.kind == "f" else a for i, a in enumerate(arrays)]
            y = op(*args, **attrs)
            tangents = {args[i]: Tensor(np.asarray(rng.normal(size=args[i].shape), to)) for i in moves}
            if y.requires_grad:
                (t,) = Linearised([y])(tangents if recorded else {x: t._data for x, t in tangents.items()})
                assert t.dtype == y.dtype == (dtype if op.name == "astype" else to)
                found.append(np.asarray(t.data if recorded else t))
        for t in found[1:]:
            error = 1e-5 if dtype is np.float32 else 1e-12
            np.testing.assert_allclose(t, found[0], rtol=error, atol=error * np.abs(found[0]).max(initial=1.0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble"])
def test_dtypes_on_the_way(dtype: str) -> None:
    x = np.linspace(0.5, 1.5, 4).astype(dtype)

    def fn(t: Tensor) -> Tensor:
        return (t.exp() * t).sum() / 1000 * 1000 + ops.norm(t)

    y, tangent = jvp(fn, x, np.ones(4))
    assert tangent.dtype == y.dtype == x.dtype
    wide = x.astype(np.longdouble)
    expected = (np.exp(wide) * (1 + wide) + wide / np.sqrt((wide * wide).sum())).sum()
    assert abs(tangent.data - expected) <= 4 * np.finfo(x.dtype).eps * expected
