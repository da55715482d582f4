"""What a gradient check stands on: recordings and their constants, exact derivatives, values, kinks; and what it costs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, nn, ops
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import check_model, gradcheck
from tensorgrad.testing.exact import Exact, NoDerivative
from tensorgrad.testing.point import Point
from tensorgrad.testing.problem import Problem
from tensorgrad.testing.recording import equal_values
from tensorgrad.testing.slopes import judge, units
from tensorgrad.testing.strategies import values
from tensorgrad.testing.verdicts import VERDICTS

X = np.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]])


def scaled(y: Any, factor: float) -> Any:
    """The value of y, with a multiple of its gradient."""
    return y * factor - y.detach() * (factor - 1)


def point(fn: Callable[..., Any], *inputs: np.ndarray) -> Point:
    return Point(Problem.of("test", fn, inputs, None), np.random.default_rng(0))


# rtol is kept

SMOOTH: dict[str, Callable[[Any], Any]] = {
    "times 3": lambda x: x * 3,
    "tanh": ops.tanh,
    "exp": ops.exp,
    "sin": ops.sin,
    "sigmoid": ops.sigmoid,
    "square": lambda x: x * x,
    "softplus": ops.softplus,
    "softmax": lambda x: x.softmax(-1),
    "log": lambda x: (x * x + 1).log(),
    "sum of products": lambda x: (x @ x.T).sum(),
}


@pytest.mark.every(5)
@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("rtol", [10.0**-k for k in range(1, 9)])
@pytest.mark.parametrize("k", [0.3, -0.3, 3.0, -3.0, 30.0])
@pytest.mark.parametrize("mode", ["full", "directional"])
def test_an_error_within_rtol_is_ok_and_beyond_it_is_wrong(name: str, rtol: float, k: float, mode: str) -> None:
    factor = 1 + k * rtol
    for order in (1, 2) if abs(k) < 1 else (1,):
        report = gradcheck(lambda x: scaled(SMOOTH[name](x), factor), X, rtol=rtol, mode=mode, order=order, raises=False)
        verdicts = {v for f in report.findings if f.order == 1 for v in f.verdicts}
        assert verdicts == {"ok"} if abs(k) < 1 else "wrong" in verdicts and "kink" not in verdicts, report


# Constants that are captured

CAPTURED: dict[str, tuple[Callable[[Any], Any], list[bool]]] = {
    "nothing": (lambda x: (x * 2.0).tanh(), []),
    "an array": (lambda x: x * np.array([1.0, 2.0, 3.0]), []),
    "detached": (lambda x: x * x.detach(), [True]),
    "by NumPy": (lambda x: x * np.sin(x.data), [True]),
    "a buffer that is used again": (lambda x, held=np.zeros((2, 3)): x * np.multiply(x.data, 2, out=held), [True]),  # noqa: B008
    "a mask": (lambda x: x * (x.data > 0), []),
    "a mask of floats": (lambda x: x * (x.data > 0).astype(float), []),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_constants_that_are_made_of_the_inputs_are_found(name: str) -> None:
    fn, moving = CAPTURED[name]
    at = point(fn, X)
    assert at.moving is not None
    assert [True for _ in at.moving] == moving


@given(x=values((2, 3), domain=(0.5, 2.0)), v=values((2, 3)))
def test_their_tangents_are_those_of_the_formula(x: np.ndarray, v: np.ndarray) -> None:
    at = point(lambda x: x * np.sin(3 * x.data), x)
    assert at.exact is not None
    found = at.slope(at.exact, {0: v})
    expected = (np.sin(3 * x) + 3 * x * np.cos(3 * x)) * v
    np.testing.assert_allclose(found, expected.ravel(), rtol=1e-9, atol=1e-9)


def test_a_tangent_in_a_narrow_spike() -> None:
    """Coarse steps see two equal values at both sides, and no slope at all."""
    at = point(lambda x: x * 0 + np.exp(-(((x.data - 1) * 1e6) ** 2)), np.array([1.0000003, 2.0]))
    assert at.exact is not None
    slope = at.slope(at.exact, {0: np.array([1.0, 0.0])})
    assert slope[0] == pytest.approx(-2e12 * (1.0000003 - 1) * np.exp(-(0.3**2)), rel=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_a_constant_that_rounding_moves_in_jumps_is_not_at_rest(seed: int) -> None:
    """Beside 1e12 it moves by 1e-4 or not at all: no step says that it has no slope."""
    x = np.random.default_rng(seed).normal(size=3)
    for mode in ("full", "directional"):
        assert not gradcheck(lambda x: x.detach().softplus() + 1e12 - 1e12 + 0 * x, x, mode=mode, seed=seed, raises=False)


@pytest.mark.parametrize("mode", ["full", "directional"])
def test_small_entries_of_what_is_not_recorded_are_known_in_long_double(mode: str) -> None:
    fn = lambda x: tensorgrad.checkpoint(lambda t: (t * np.array([1.0, 1e-7, 1e-9])).tanh().sum(), x)  # noqa: E731
    assert set(gradcheck(fn, X[0], mode=mode).verdicts) == {"ok"}
    for factor in (0.0, 1.001, 2.0):
        m = np.array([1.0, 1.0, factor])
        wrong = lambda x, m=m: tensorgrad.checkpoint(  # noqa: E731
            lambda t: scaled((t * np.array([1.0, 1e-7, 1e-9])).tanh(), m).sum(), x
        )
        assert not gradcheck(wrong, X[0], mode=mode, raises=False)


@given(x=values((3,)))
def test_what_is_alike(x: np.ndarray) -> None:
    assert equal_values({"a": x, "b": (1, slice(0, 2))}, {"a": x.copy(), "b": (1, slice(0, 2))})
    assert not equal_values(x, x + 1e-12)
    assert not equal_values(x, x.astype(np.float32)) or x.dtype == np.float32
    assert equal_values(np.array([np.nan]), np.array([np.nan]))
    one = lambda t: t * x  # noqa: E731
    other = lambda t: t * x  # noqa: E731  # other code, in another line
    assert equal_values(one, other) is False
    make = lambda a: lambda t: t * a  # noqa: E731
    assert equal_values(make(x), make(x.copy()))
    assert not equal_values(make(x), make(x + 1))


# Ops of the user's


@pytest.fixture
def op() -> Iterator[Callable[..., Op]]:
    """Makes an op of its forward and its derivative, a function of x."""
    known = set(REGISTRY)

    def make(forward: Callable[[Any], Any], derivative: Callable[[Any], Any]) -> Op:
        doc = "y = f(x)\n\nforward    y = f(x)\nbackward   gx = g f'(x)\n"
        body = {
            "name": f"made_{len(REGISTRY)}",
            "signature": "()->()",
            "reads": "x",
            "__doc__": doc,
            "forward": lambda self, xp, x: forward(x),
            "backward": lambda self, g, y, x: (lambda: g * derivative(x),),
        }
        return type("Made", (Op,), body)()

    yield make
    for name in set(REGISTRY) - known:
        del REGISTRY[name]


FORWARDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    # forward, derivative, whether its complex step holds
    "analytic": (lambda x: x**3, lambda x: 3 * x * x, True),
    "absolute": (lambda x: np.abs(x) * x, lambda x: 2 * ops.abs(x), False),
    "real part": (lambda x: np.real(x) * x, lambda x: 2 * x, False),
    "no complex numbers": (lambda x: np.array([float(v) ** 2 for v in x.flat]).reshape(x.shape), lambda x: 2 * x, False),
    "a loop": (lambda x: np.vectorize(lambda v: v * v)(x), lambda x: 2 * x, True),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_the_complex_step_is_believed_where_differences_agree(name: str, op: Callable[..., Op]) -> None:
    forward, derivative, holds = FORWARDS[name]
    made = op(forward, derivative)
    exact = Exact(point(made, X).base)
    if holds:
        np.testing.assert_allclose(exact({0: np.ones(X.shape)}), np.ravel(derivative(Tensor(X)).data), rtol=1e-12)
    else:
        with pytest.raises(NoDerivative):
            exact({0: np.ones(X.shape)})


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("mode", ["full", "directional"])
def test_rules_of_the_users_are_judged_either_way(name: str, mode: str, op: Callable[..., Op]) -> None:
    forward, derivative, _ = FORWARDS[name]
    assert gradcheck(op(forward, derivative), X, mode=mode)
    for factor in (1 + 1e-5, 0.5, 2.0, -1.0):
        wrong = op(forward, lambda x, factor=factor: factor * derivative(x))
        report = gradcheck(wrong, X, mode=mode, raises=False)
        assert report.verdicts["wrong"], report


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("power", [2, 3, 4])
def test_slopes_of_0_where_a_function_is_flat(real: bool, power: int, op: Callable[..., Op]) -> None:
    def forward(x: Any) -> Any:
        return np.array([float(v) ** power for v in x.flat]).reshape(x.shape) if real else x**power

    made = op(forward, lambda x: power * x ** (power - 1))
    for fn in (made, lambda x: made(x).exp().sum()):
        for mode in ("full", "directional"):
            assert gradcheck(fn, np.zeros(3), mode=mode)


# Values alone


def verdict(f: Callable[[float], float], x: float, slope: float, rtol: float = 1e-6) -> str:
    line = lambda e: np.array([f(x + e * abs(x)) if x else f(e)])  # noqa: E731
    found, _ = judge(line, np.array([slope * (abs(x) or 1.0)]), np.array([abs(f(x))]), rtol)
    return VERDICTS[int(found[0])]


@pytest.mark.parametrize("c", [10.0**k for k in range(-100, 101, 20)])
def test_the_verdict_of_values_does_not_depend_on_the_scale(c: float) -> None:
    for x in (0.3, 1.7, -2.2):
        f = lambda t: float(np.sin(c * t))  # noqa: E731
        assert verdict(f, x / c, c * np.cos(x)) == "ok"
        assert verdict(f, x / c, c * np.cos(x) * (1 + 1e-4)) == "wrong"


def test_what_values_say_of_kinks_cancellation_and_edges() -> None:
    assert verdict(abs, 0.0, 0.3) == "kink"
    assert verdict(abs, 0.0, 1.01) == "wrong"
    assert verdict(abs, 1.0, 1.0) == "ok"
    assert verdict(lambda x: x + 1e17, 1.0, 2.0) == "precision"
    assert verdict(lambda x: 7.0, 1.0, 0.0) == "ok"
    with np.errstate(invalid="ignore"):
        assert verdict(lambda x: float(np.float64(x) ** 1.5), 0.0, 0.0) in ("ok", "precision", "kink")
    assert verdict(lambda x: float(np.exp(-(((x - 1) * 1e6) ** 2))), 1.0000003, -6e5 * np.exp(-(0.3**2))) == "ok"
    assert verdict(lambda x: float(np.exp(-(((x - 1) * 1e6) ** 2))), 1.0000003, 0.0) == "wrong"


@given(x=values((4,)), scale=st.sampled_from([1e-100, 1e-12, 1.0, 1e100]))
def test_units_are_those_of_each_entry(x: np.ndarray, scale: float) -> None:
    found = units(x * scale)
    assert (found > 0).all()
    np.testing.assert_array_equal(found[x != 0], np.abs(x * scale)[x != 0])


# Kinks


@pytest.mark.parametrize("mode", ["full", "directional"])
@pytest.mark.parametrize("c", [1.0, 1e4, 1e8, 1e100])
def test_what_is_smooth_has_no_kinks(c: float, mode: str) -> None:
    report = gradcheck(lambda x: (x * c).sin(), X if c < 1e9 else X / c, mode=mode, order=2)
    assert set(report.verdicts) == {"ok"}, report


SIDES = [-1.0, 1.0, 0.3]


@pytest.mark.parametrize("mode", ["full", "directional"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [2, 3, 5])
def test_kinks_of_every_mixture_of_sides(n: int, seed: int, mode: str) -> None:
    """Each entry stands on a kink of its own; no direction in which all of them move says what is right."""
    rng = np.random.default_rng(seed)
    x = rng.choice(SIDES, n)
    for fn in (
        lambda a: ops.clip(a, -1.0, 1.0).sum(),
        lambda a: (ops.abs(a - 1) - ops.abs(a + 1)).sum(),
        lambda a: ((a - 1).relu() - (a + 1).relu() + a.leaky_relu(0.1)).sum(),
        lambda a: (ops.maximum(a, 1.0) * ops.minimum(a, -1.0)).sum(),
    ):
        assert gradcheck(fn, x, mode=mode, seed=seed)
        report = gradcheck(lambda a, fn=fn: fn(a) + (0.3 * a - 0.3 * a.detach()).sum(), x, mode=mode, seed=seed, raises=False)
        # wrong, or not decided where the constants have kinks too; between the sides of a kink it may be a subgradient
        assert not report or 0.3 not in x


def test_equal_entries_share_one_gradient_in_one_input_and_in_two(op: Callable[..., Op]) -> None:
    class Largest(Op):
        """y = max(a, b)

        forward    y = max(a, b)
        backward   ga = g [a >= b],   gb = g [b >= a]
        """

        name, signature, reads = "largest_of_two", "(),()->()", "a b"

        def forward(self, xp: Any, a: Any, b: Any) -> Any:
            return xp.maximum(a, b)

        def backward(self, g: Any, y: Any, a: Any, b: Any) -> Any:
            return lambda: g * (a >= b), lambda: g * (b >= a)

    both = Largest()
    assert gradcheck(both, (np.array([1.0, 2.0]), np.array([2.0, 1.0])))
    assert not gradcheck(both, (np.array([1.0, 2.0]), np.array([1.0, 1.0])), raises=False)


# What is random in a check has nothing to do with what is random in its inputs


@pytest.mark.parametrize("seed", range(3))
def test_directions_are_not_the_numbers_of_the_users_generator(seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=50)
    fault = lambda t: scaled(t / ops.norm(t), 1.5)  # noqa: E731  # along x itself its slope is 0
    assert not gradcheck(fault, x, mode="directional", seed=seed, raises=False)


# What it costs


def focal(z: Any, y: Any) -> Any:
    logp = z.softmax(-1).log()
    picked = logp[np.arange(len(y)), y]
    return -((1 - picked.exp().detach()) ** 2 * picked).mean()


FAULTY: dict[str, Callable[[Any, Any], Any]] = {
    "focal": focal,
    "twice": lambda z, y: scaled(F.cross_entropy(z, y), 2.0),
    "a part of it": lambda z, y: F.cross_entropy(z, y) + (z.detach() ** 2).mean(),
    "by NumPy": lambda z, y: F.cross_entropy(z * np.exp(z.data), y),
    "slightly": lambda z, y: scaled(F.cross_entropy(z, y), 1 + 1e-4),
}


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("mode", ["full", "directional"])
def test_failing_takes_some_times_the_calls_of_passing(name: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(4, 5, rng=rng), nn.Tanh(), nn.Linear(5, 3, rng=rng))
    data = rng.normal(size=(3, 4)), np.array([0, 1, 2])
    passing = check_model(model, F.cross_entropy, *data, mode=mode)
    failing = check_model(model, FAULTY[name], *data, mode=mode, raises=False)
    assert passing
    assert not failing
    parameters = 43 if mode == "full" else 0  # a derivative by each of them takes about as long as a call
    assert failing.evaluations <= 5 * (passing.evaluations + parameters)


def test_full_mode_keeps_no_more_than_some_jacobians() -> None:
    x = np.random.default_rng(0).normal(size=1000)
    assert gradcheck(lambda x: x.tanh(), np.ones(1001)).mode == "directional"  # a million derivatives are the most
    tracemalloc.start()
    assert gradcheck(lambda x: x.tanh(), x, mode="full")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 8 * x.size**2
