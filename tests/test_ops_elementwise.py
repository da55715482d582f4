"""Elementwise ops at their kinks, ties and poles, far out, on integers and with settings that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.errors import DTypeError, GraphError, ShapeError
from tests import kinds
from tests.oracles import activation


def slopes(fn: Callable[..., Any], *values: Any) -> list[np.ndarray]:
    """The derivatives of the elementwise `fn` with respect to each argument."""
    xs = [Tensor(np.array(v, np.float64), True) for v in values]
    return [g.data for g in tensorgrad.grad(fn(*xs).sum(), xs)]


def second(fn: Callable[[Any], Any], values: Any) -> np.ndarray:
    """The second derivative of the elementwise `fn`."""
    x = Tensor(np.array(values, np.float64), True)
    (gx,) = tensorgrad.grad(fn(x).sum(), x, create_graph=True)
    return tensorgrad.grad(gx.sum(), x)[0].data


# Kinks and ties: the table of what is taken for the derivative there


@pytest.mark.parametrize(
    ("fn", "x", "expected"),
    [
        (ops.abs, [-1, -0.0, 0, 1], [-1, 0, 0, 1]),
        (ops.sign, [-1, 0, 1], [0, 0, 0]),
        (ops.relu, [0], [0]),
        (lambda x: ops.leaky_relu(x, 0.25), [-1, 0, 1], [0.25, 0.25, 1]),
        (ops.leaky_relu, [-1, 1], [0.01, 1]),
        (lambda x: ops.elu(x, 0.25), [0, 1], [0.25, 1]),
        (ops.elu, [0, 1], [1, 1]),
        (ops.hardtanh, [-1.5, -1, 0, 1, 1.5], [0, 1, 1, 1, 0]),
        (lambda x: ops.hardtanh(x, 0, 6), [-1, 0, 6, 7], [0, 1, 1, 0]),
        (lambda x: ops.clip(x, -1, 2), [-1.5, -1, 2, 2.5], [0, 1, 1, 0]),
        (lambda x: ops.clip(x, low=-1), [-1.5, -1, 2], [0, 1, 1]),
        (lambda x: ops.clip(x, high=2), [-1.5, 2, 2.5], [1, 1, 0]),
        (lambda x: ops.clip(x, np.array(-1.0), np.array([2.0])), [-1.5, -1, 2, 2.5], [0, 1, 1, 0]),
        (lambda x: ops.clip(x, 0, None), [-np.inf, -0.0, np.inf, np.nan], [0, 1, 1, 0]),
        (lambda x: ops.maximum(x, 0), [-1, 0, 1], [0, 1, 1]),
        (lambda x: ops.maximum(0, x), [-1, 0, 1], [0, 0, 1]),
        (lambda x: ops.minimum(x, 0), [-1, 0, 1], [1, 1, 0]),
        (lambda x: ops.minimum(0, x), [-1, 0, 1], [1, 0, 0]),
        (lambda x: ops.maximum(x, x), [-1, 0], [1, 1]),
        (lambda x: x % 1, [-1, 0, 0.5, 1], [1, 1, 1, 1]),
        (lambda x: 6 % x, [-3, 2, 4], [2, -3, -1]),
    ],
)
def test_slope(fn: Callable[[Any], Any], x: list[float], expected: list[float]) -> None:
    np.testing.assert_array_equal(slopes(fn, x)[0], expected)


def test_ties_go_to_the_first_argument() -> None:
    for op in (ops.maximum, ops.minimum):
        ga, gb = slopes(op, [1, 2, 2, 3], [2, 2, 2, 2])
        assert [ga[1:3].tolist(), gb[1:3].tolist()] == [[1, 1], [0, 0]]
        np.testing.assert_array_equal(ga + gb, 1)


def test_second_derivatives_at_kinks_come_from_the_same_side() -> None:
    np.testing.assert_array_equal(second(lambda x: ops.elu(x, 0.5), [0, 1]), [0.5, 0])
    np.testing.assert_array_equal(second(lambda x: ops.clip(x * x, 0, 1), [-1, 0, 0.5, 1, 2]), [2, 2, 2, 2, 0])
    np.testing.assert_array_equal(second(lambda x: ops.maximum(x * x, 1), [0.5, 1, 2]), [0, 2, 2])
    np.testing.assert_array_equal(second(lambda x: ops.abs(x) ** 3, [-2, 0, 2]), [12, 0, 12])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_where_lets_nothing_through_from_what_was_not_chosen(bad: float) -> None:
    a, b = Tensor(np.array([1.0, 2.0]), True), Tensor(np.array([3.0, 4.0]), True)
    y = ops.where(np.array([True, False]), a, b)
    np.testing.assert_array_equal(y.data, [1, 4])
    y.backward(np.array([bad, bad]))
    np.testing.assert_array_equal(a.grad.data, [bad, 0])
    np.testing.assert_array_equal(b.grad.data, [0, bad])


def test_where_takes_numbers_lists_tensors_and_broadcasts() -> None:
    x = Tensor(np.array([[1.0], [-2.0]], np.float32), True)
    y = ops.where(x > 0, x, 0.5)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.data, [[1], [0.5]])
    y = ops.where([True, False, True], x, -x)
    np.testing.assert_array_equal(y.data, [[1, -1, 1], [-2, 2, -2]])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, [[1], [1]])
    np.testing.assert_array_equal(ops.where(np.array([2.0, 0.0]), 1.0, 0.0), [1, 0])  # not 0 is true, as in NumPy


def test_condition_that_requires_a_gradient_is_refused() -> None:
    with pytest.raises(GraphError, match="where: argument 0 is data and has no gradient"):
        ops.where(Tensor([1.0], True), Tensor([1.0], True), 0.0)


# Powers


@pytest.mark.parametrize("zero", [0, 0.0, np.zeros(1)])
def test_power_0(zero: Any) -> None:
    x = [-2.0, 0.0, 0.5, np.inf]
    np.testing.assert_array_equal(ops.power(np.array(x), zero), 1)
    np.testing.assert_array_equal(slopes(lambda x: x**zero, x[:3])[0], 0)
    np.testing.assert_array_equal(second(lambda x: x**zero, x[:3]), 0)


def test_power_of_0() -> None:
    ga, gb = slopes(ops.power, [0, 0, 0, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(ga, [0, 1, 0, 0])
    np.testing.assert_array_equal(gb, 0)
    np.testing.assert_array_equal(slopes(lambda b: 0**b, [0, 0.5, 1])[0], 0)
    np.testing.assert_array_equal(slopes(lambda b: 0.0**b, [0, 0.5, 1])[0], 0)


@pytest.mark.parametrize("n", [1, 2, 3, 4.0, -1, -2])
def test_constant_whole_powers_take_either_sign(n: float) -> None:
    x = np.array([-2.0, -0.5, 1.0, 3.0])
    for b in (n, np.array(float(n))):
        np.testing.assert_allclose((Tensor(x) ** b).data, x**n, rtol=1e-15)
        np.testing.assert_allclose(slopes(lambda x, b=b: x**b, x)[0], n * x ** (n - 1), rtol=1e-15)
        np.testing.assert_allclose(second(lambda x, b=b: x**b, x), n * (n - 1) * x ** (n - 2), rtol=1e-14)


def test_low_powers_at_0_to_third_order() -> None:
    for n, expected in [(1, (1, 0, 0)), (2, (0, 2, 0)), (3, (0, 0, 6))]:
        x = Tensor(np.array(0.0), True)
        y = x**n
        for value in expected:
            (y,) = tensorgrad.grad(y, x, create_graph=True)
            assert y.item() == value


def test_mixed_second_derivative_of_a_power_at_exponent_0() -> None:
    # d/db (b a^(b-1)) = a^(b-1) (1 + b log a): 1/a at b = 0
    a, b = Tensor(np.array([0.5, 4.0]), True), Tensor(np.zeros(2), True)
    (ga,) = tensorgrad.grad((a**b).sum(), a, create_graph=True)
    np.testing.assert_allclose(tensorgrad.grad(ga.sum(), b)[0].data, [2, 0.25], rtol=1e-15)


def test_power_of_a_number_stays_float32() -> None:
    x = Tensor([0.0, 1.0, 2.0], True)
    y = 2**x
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32
    np.testing.assert_allclose(x.grad.data, np.log(2) * np.array([1, 2, 4]), rtol=3e-7)


# Poles: NumPy's value and NumPy's warning


@pytest.mark.parametrize(
    ("op", "at"), [(ops.sqrt, 0), (ops.log, 0), (ops.log2, 0), (ops.log1p, -1), (ops.arcsin, 1), (ops.arccos, -1)]
)
def test_derivative_at_a_pole_is_infinite(op: Callable[[Any], Any], at: float) -> None:
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        (gx,) = slopes(op, [at])
    assert np.isinf(gx[0])


# Far out: every activation, and others that have a limit or a slope there

# Every activation, and what is flat or straight far out like one; see oracles.activation.FAR_OUT
RAMP = (0, lambda x: x, (0, 1))
FAR_OUT: dict[str, tuple[Any, Any, tuple[float, float]]] = {
    **dict.fromkeys([*kinds.ACTIVATIONS, "gelu tanh", "softplus"], RAMP),
    **activation.FAR_OUT,
    "arctan": (-np.pi / 2, np.pi / 2, (0, 0)),
    "erf": (-1, 1, (0, 0)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FAR_OUT)
def test_nothing_overflows_far_out(name: str, dtype: Any) -> None:
    op = (lambda x: ops.gelu(x, "tanh")) if name == "gelu tanh" else getattr(ops, name)
    largest = float(np.finfo(dtype).max)
    x = Tensor(np.array([-largest, -1e30, -1000, -200, 200, 1000, 1e30, largest], dtype), True)
    left, right, slope = FAR_OUT[name]
    limits = [limit(part) if callable(limit) else limit for limit, part in ((left, x.data[:4]), (right, x.data[4:]))]
    y = op(x)
    # arctan is still 1/200 from its limit at 200, and its derivative 1/200²; the others are at theirs
    close = {"rtol": 1e-6, "atol": 1e-2 if name == "arctan" else 1e-80}
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data[:4], np.broadcast_to(limits[0], 4), **close)
    np.testing.assert_allclose(y.data[4:], np.broadcast_to(limits[1], 4), **close)
    (gx,) = tensorgrad.grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(gx.data, np.repeat(slope, 4), **close)
    if gx.requires_grad:  # leaky_relu's is a constant
        (gxx,) = tensorgrad.grad(gx.sum(), x)
        np.testing.assert_allclose(gxx.data, np.zeros(8), rtol=0, atol=1e-4 if name == "arctan" else 1e-80)


def test_softplus_and_logsigmoid_keep_their_tails() -> None:
    x = np.array([-1000.0, -700.0, -40.0, -1.0, 0.0, 1.0, 40.0, 700.0, 1000.0])
    np.testing.assert_allclose(ops.softplus(x), -special.log_expit(-x), rtol=1e-15)
    np.testing.assert_allclose(ops.logsigmoid(x), special.log_expit(x), rtol=1e-15)
    np.testing.assert_allclose(slopes(ops.softplus, x)[0], special.expit(x), rtol=1e-15)
    np.testing.assert_allclose(slopes(ops.logsigmoid, x)[0], special.expit(-x), rtol=1e-15)
    np.testing.assert_allclose(second(ops.logsigmoid, x), -special.expit(x) * special.expit(-x), rtol=1e-14, atol=1e-17)


def test_expm1_log1p_keep_what_is_small() -> None:
    x = np.array([-1e-20, 1e-20, 1e-12])
    np.testing.assert_allclose(ops.expm1(x), x, rtol=1e-11)
    np.testing.assert_allclose(ops.log1p(x), x, rtol=1e-11)
    np.testing.assert_allclose(slopes(ops.expm1, [-50.0])[0], [np.exp(-50)], rtol=1e-15)


@pytest.mark.parametrize(("dtype", "units"), [(np.float64, 3), (np.float32, 3), (np.float16, 1)])
def test_erf(dtype: Any, units: int) -> None:
    """Over every binade in which erf is neither x nor 1 to rounding, and across the seam of its two formulas."""
    x = np.concatenate([np.logspace(-10, 0.9, 200_001), np.linspace(0.49, 0.51, 20_001), np.linspace(0, 7, 20_001)])
    x = np.concatenate([x, -x]).astype(dtype)
    x = x[(np.abs(x) >= np.finfo(dtype).tiny) | (x == 0)]  # subnormal numbers have fewer digits
    y = ops.erf(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype(np.float64), special.erf(x.astype(np.float64)), rtol=units * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))


def test_erf_beyond_numbers() -> None:
    np.testing.assert_array_equal(ops.erf(np.array([-np.inf, np.inf, np.nan])), [-1, 1, np.nan])
    np.testing.assert_array_equal(slopes(ops.erf, [-np.inf, np.inf])[0], 0)
    np.testing.assert_allclose(ops.erf(np.array([1, 2])), special.erf([1, 2]), rtol=1e-15)


# Integers, booleans, and ops without a gradient


@pytest.mark.parametrize("dtype", ["int64", "bool", np.uint8])
def test_astype_whole_numbers_has_no_gradient(dtype: Any) -> None:
    x = Tensor([0.0, 1.5], True)
    y = x.astype(dtype)
    assert y.dtype == dtype
    assert not y.requires_grad
    assert y.tolist() == [0, 1]
    (gx,) = tensorgrad.grad((x * y).sum(), x)
    assert gx.tolist() == [0, 1]


def test_astype_between_floats_has_one() -> None:
    x = Tensor([0.5, 1.5], True)
    y = x.astype("float64")
    assert y.requires_grad
    y.backward(np.array([1.0, 2.0]))
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [1, 2]
    assert Tensor([1, 2], dtype="int64").astype(np.float32).dtype == np.float32


@pytest.mark.parametrize("dtype", ["complex128", "U3", object])
def test_astype_refuses_what_a_tensor_cannot_have(dtype: Any) -> None:
    with pytest.raises(DTypeError, match=f"astype: expected a floating, integer or boolean dtype, got {np.dtype(dtype)}"):
        Tensor([1.0]).astype(dtype)


def test_astype_names_an_unknown_dtype() -> None:
    with pytest.raises(DTypeError, match="astype: data type 'float23' not understood; expected a floating"):
        Tensor([1.0]).astype("float23")


@pytest.mark.parametrize("name", ["isnan", "isfinite", "logical_not", "less", "equal"])
def test_ops_without_a_gradient(name: str) -> None:
    x = Tensor([0.5, -1.5], True)
    op = getattr(ops, name)
    y = op(x, x + 1) if name in ("less", "equal") else op(x)
    assert not y.requires_grad
    (gx,) = tensorgrad.grad((x * y).sum(), x)
    np.testing.assert_array_equal(gx.data, y.data)


def test_rounding() -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    np.testing.assert_array_equal(ops.round(x), [-2, -2, 0, 0, 2, 2])
    np.testing.assert_array_equal(ops.round(np.array([1234.5678]), 2), [1234.57])
    np.testing.assert_array_equal(ops.round(np.array([1234.5678]), decimals=-2), [1200])
    np.testing.assert_array_equal(ops.floor(x), [-3, -2, -1, 0, 1, 2])
    np.testing.assert_array_equal(ops.ceil(x), [-2, -1, 0, 1, 2, 3])
    np.testing.assert_array_equal(ops.trunc(x), [-2, -1, 0, 0, 1, 2])


def test_remainder_has_the_sign_of_the_divisor() -> None:
    a, b = np.array([7, -7, 7, -7]), np.array([3, 3, -3, -3])
    np.testing.assert_array_equal(ops.mod(a, b), [1, 2, -2, -1])
    np.testing.assert_array_equal(ops.floordiv(a, b), [2, -3, -3, 2])
    x = Tensor([5.5], True)
    assert ((x % 2).item(), (x // 2).item(), (7 % x).item(), (7 // x).item()) == (1.5, 2, 1.5, 1)


def test_integers_are_promoted_as_in_numpy() -> None:
    n = Tensor(np.array([1, 2, 4]))
    for name in ("sqrt", "log2", "sin", "erf", "softplus", "silu", "gelu", "elu", "leaky_relu", "reciprocal"):
        y = getattr(ops, name)(n)
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y.data, getattr(ops, name)(n.data.astype(np.float64)))
    for name in ("abs", "sign", "square", "neg", "floor"):
        assert getattr(ops, name)(n).dtype == np.int64
    assert ops.maximum(n, 2).dtype == ops.clip(n, 0, 3).dtype == (n % 2).dtype == np.int64
    assert ops.clip(n, 0.5, 3.0).dtype == np.float64


def test_comparisons_are_operators() -> None:
    x = Tensor([1.0, 2.0, np.nan], True)
    for y, expected in [
        (x > 1, [0, 1, 0]),
        (x >= 1, [1, 1, 0]),
        (x < 2, [1, 0, 0]),
        (x <= 2, [1, 1, 0]),
        (x == 1, [1, 0, 0]),
        (x != 1, [0, 1, 1]),
        (ops.less(1, x), [0, 1, 0]),
        (~(x > 1), [1, 0, 1]),
        (ops.isnan(x), [0, 0, 1]),
        (ops.isfinite(x), [1, 1, 0]),
    ]:
        assert y.dtype == np.bool_
        assert y.tolist() == expected


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_inverted_bits(dtype: str) -> None:
    x = np.arange(2).astype(bool)
    if dtype != "bool":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        x = np.array([least, least + 1, 0, 1, 5, most - 1, most], dtype)
    y = ~Tensor(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.numpy(), ~x)
    with pytest.raises(DTypeError, match="~: expected booleans or integers, got float32"):
        ~Tensor(x.astype("float32"))


# Wrong settings


def test_clip_without_bounds_or_with_crossed_ones() -> None:
    x = Tensor([1.0])
    with pytest.raises(ValueError, match="clip: low and high are both None, expected at least one bound"):
        ops.clip(x)
    with pytest.raises(ValueError, match=r"clip: low is 2 and high is 1\.0, expected low <= high"):
        ops.clip(x, 2, np.float64(1))


def test_clip_between_tensors_has_gradients_for_them() -> None:
    gx, low, high = slopes(ops.clip, [-2, 0, 3], [-1, -1, -1], [1, 1, 1])
    assert [gx.tolist(), low.tolist(), high.tolist()] == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_gelu_of_another_kind() -> None:
    with pytest.raises(ValueError, match='gelu: approximate is \'fast\', expected "none" or "tanh"'):
        ops.gelu(Tensor([1.0]), "fast")


@pytest.mark.parametrize("name", ["maximum", "mod", "floordiv", "less", "power"])
def test_shapes_that_do_not_broadcast(name: str) -> None:
    with pytest.raises(ShapeError, match=rf"{name}: shapes \(2,\) and \(3,\) do not broadcast; expected \(\),\(\)->\(\)"):
        getattr(ops, name)(Tensor([1.0, 2.0]), Tensor([1.0, 2.0, 3.0]))


def test_booleans_have_no_sign() -> None:
    with pytest.raises(DTypeError, match=r"sign: .*bool"):
        ops.sign(Tensor([True]))
