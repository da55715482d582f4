"""What the checks and the strategies do with arguments that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, jacfwd, jacobian, jvp, nn, testing
from tensorgrad.errors import ArgumentError, GraphError, TensorgradError
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import numerical_gradient, strategies

X = np.array([1.0, 2.0])
CHECKS: dict[str, Callable[..., Any]] = {
    "gradcheck": lambda **given: testing.gradcheck(lambda x: (x * x).sum(), X, **given),
    "check_model": lambda **given: testing.check_model(nn.Linear(2, 1), lambda p, y: (p * p).sum(), X[None], None, **given),
    "matches_formula": lambda **given: testing.matches_formula(lambda x: (x * x).sum(), lambda x: 2 * x, X, **given),
    "check_compiled": lambda **given: testing.check_compiled(lambda x: (x * x).sum(), X, **given),
    "taylor_test": lambda **given: testing.taylor_test(lambda x: (x * x).sum(), X, **given),
}


@pytest.mark.parametrize("rtol", [0, -1e-3, np.nan, np.inf, 10**400, "x", None])
@pytest.mark.parametrize("name", ["gradcheck", "check_model", "matches_formula", "check_compiled"])
def test_rtol(name: str, rtol: Any) -> None:
    with pytest.raises(TensorgradError, match=f"^{name}: rtol must be"):
        CHECKS[name](rtol=rtol)


@pytest.mark.parametrize("tolerance", [-1, np.nan, np.inf, 10**400, "x"])
@pytest.mark.parametrize("name", ["gradcheck", "check_model"])
def test_nondet_tol(name: str, tolerance: Any) -> None:
    with pytest.raises(TensorgradError, match=f"^{name}: nondet_tol must be"):
        CHECKS[name](nondet_tol=tolerance)


@pytest.mark.parametrize("name", CHECKS)
def test_raises(name: str) -> None:
    with pytest.raises(TensorgradError, match=f"^{name}: raises must be True or False, got 'no'"):
        CHECKS[name](raises="no")


@pytest.mark.parametrize("given", [{"calls": 1}, {"calls": "x"}, {"calls": 2.0}, {"seed": -1}, {"gradients": "no"}], ids=str)
def test_check_compiled(given: dict[str, Any]) -> None:
    with pytest.raises(TensorgradError, match=f"^check_compiled: .*{next(iter(given))}"):
        CHECKS["check_compiled"](**given)


@pytest.mark.parametrize("check", [testing.gradcheck, testing.taylor_test])
def test_functions_and_inputs(check: Any) -> None:
    with pytest.raises(GraphError, match=r"the function returned \(\), expected a Tensor"):
        check(lambda x: (), X)
    with pytest.raises(ArgumentError, match="wrt names 0 twice"):
        check(lambda x: x, X, wrt=[0, 0])
    assert "nothing to compare" in str(check(lambda x: 2 * x, np.zeros(0)))


def test_reports_of_taylor_tests_compare() -> None:
    one, two = (testing.taylor_test(lambda x: x * x, X, seed=seed) for seed in (0, 0))
    assert one == two
    assert one != testing.taylor_test(lambda x: x * x, X, seed=1)


def test_errors_carry_their_reports() -> None:
    with pytest.raises(testing.GradientError) as caught:
        testing.taylor_test(lambda x: x * x.detach(), X)
    assert isinstance(caught.value.report, testing.TaylorReport)
    assert not caught.value.report


@pytest.mark.parametrize(
    "draw",
    [
        lambda: strategies.arguments("exp"),  # type: ignore[arg-type]
        lambda: strategies.mlps(activations=["foo"]),
        lambda: strategies.mlps(activations="relu"),
        lambda: strategies.mlps(features=0),
        lambda: strategies.values((2,), (np.nan, 1.0)).example(),
        lambda: strategies.values((2,), (0.0, np.inf)).example(),
        lambda: strategies.values((2,), kinks=[np.nan]).example(),
        lambda: strategies.shapes(3),  # type: ignore[arg-type]
        lambda: strategies.broadcastable("x"),  # type: ignore[arg-type]
        lambda: strategies.ops("exp"),
        lambda: strategies.ops(["foo"]),
        lambda: testing.assert_same_graph(3, 3),  # type: ignore[arg-type]
        lambda: numerical_gradient(lambda: 1.0, X.copy(), [5]),  # type: ignore[list-item]
        lambda: numerical_gradient(lambda: None, X.copy()),  # type: ignore[arg-type,return-value]
    ],
)
def test_strategies_and_the_rest(draw: Callable[[], Any]) -> None:
    with pytest.raises(TensorgradError, match=r"^[a-z_]+: .*(must|unknown)"):
        draw()


@pytest.mark.parametrize("sample", [lambda *_: None, lambda *_: ([1.0], {}), lambda *_: ((X,), None), lambda *_: ((), {})])
def test_a_sample_that_is_none(sample: Any) -> None:
    rules = {"forward": lambda self, xp, x: x, "backward": lambda self, g, y, x: (lambda: g,), "sample": sample}
    op = type("Odd", (Op,), {"name": "odd_sample", "signature": "()->()"} | rules)()
    try:
        with pytest.raises(ArgumentError, match="audit: the sample of odd_sample"):
            testing.audit([op], cases=1)
    finally:
        del REGISTRY["odd_sample"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_of_forward_mode(dtype: Any) -> None:
    x = Tensor(X.astype(dtype))
    for fn in (lambda x: x.astype(np.float64) * 2, lambda x: x.astype(np.float32), lambda x: x > 0, lambda x: x.astype(int)):
        assert jacfwd(fn, x).dtype == jacobian(fn, x).dtype == dtype
    assert jvp(lambda x: x > 0, x, x)[1].dtype == dtype
    for name in ("vjp", "jvp", "jacobian", "jacfwd"):
        v = (x,) if "jvp" in name or name == "vjp" else ()
        with pytest.raises(TensorgradError, match=f"^{name}: create_graph must be"):
            getattr(tensorgrad, name)(lambda x: x, x, *v, create_graph="no")
