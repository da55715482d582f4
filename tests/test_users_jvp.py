"""A `jvp` of the user's: checked against the op's `backward`, and refused clearly where what it gives is no tangent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorgrad import Tensor, jvp, ops
from tensorgrad.errors import DTypeError, ShapeError, TensorgradError
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import Audit, Finding, GradientError, audit, gradcheck
from tensorgrad.testing.duality import dual
from tensorgrad.testing.samples import sampled

audit_module = sys.modules["tensorgrad.testing.audit"]  # whose name in the package is the function
X = np.array([1.0, -2.0, 3.0])


@pytest.fixture
def make() -> Iterator[Callable[..., Op]]:
    """x² with another `jvp`, or other rules."""

    def made(tangents: Any = None, **rules: Any) -> Op:
        found: dict[str, Any] = {
            "name": "users_square",
            "signature": "()->()",
            "reads": "x",
            "forward": lambda self, xp, x: x * x,
            "backward": lambda self, g, y, x: (lambda: 2 * g * x,),
        }
        REGISTRY.pop("users_square", None)
        return type("Square", (Op,), found | ({"jvp": tangents} if tangents else {}) | rules)()

    yield made
    REGISTRY.pop("users_square", None)


@pytest.mark.parametrize(
    "tangents",
    [
        lambda self, y, x: (lambda t: 2 * t,),
        lambda self, y, x: (lambda t: 2 * x * t * (1 + 1e-9),),
        lambda self, y, x: (lambda t: 2 * x * t if isinstance(t, np.ndarray) else 3 * x * t,),
        lambda self, y, x: lambda t: x * t,
        lambda self, y, x: (None,),
    ],
    ids=["no x", "a little off", "off where it is recorded", "half", "none"],
)
def test_a_wrong_one_is_found(make: Any, tangents: Any) -> None:
    op = make(tangents)
    with pytest.raises(GradientError, match=r"(?s)users_square \(jvp\) .*wrong.*jvp does not belong to backward") as caught:
        gradcheck(op, X)
    assert [node.op for node in caught.value.suspects] == [op]
    assert "The jvp of users_square is wrong on its own" in str(caught.value)
    with pytest.raises(GradientError, match="wrong: users_square"):
        audit([op], cases=2, order=1)
    assert not gradcheck(lambda x: op(x.sin()).sum(), X, raises=False)


def test_the_audit_says_which_check_has_failed(make: Any) -> None:
    op = make()
    wrong = Finding.single("input 0 (batched)", (2,), 1, "wrong", "[0]", 1.0, 2.0)
    text = audit_module.audit_script(op, wrong, 3, 7)
    assert "audit([REGISTRY['users_square']], cases=4, order=1, seed=7)" in text
    assert text.endswith("# input 0 (batched) at [0]: 1, expected 2")
    off = make(lambda self, y, x: (lambda t: 2 * t,))
    with pytest.raises(GradientError, match=r"\(jvp\)") as caught:
        audit([off], cases=1, order=1)
    assert isinstance(caught.value.report, Audit)


def test_one_that_raises_is_a_finding(make: Any) -> None:
    report = gradcheck(make(lambda self, y, x: (None, None)), X, raises=False)
    assert "users_square: jvp returned 2 functions for 1 arguments" in str(report)


@pytest.mark.parametrize(
    "tangents",
    [
        None,
        lambda self, y, x: (lambda t: 2 * x * t,),
        lambda self, y, x: lambda t: 2 * x * t,
        lambda self, y, x: (lambda t: np.multiply(t, 2 * np.asarray(x), out=t),),  # of arrays only
    ],
)
def test_a_right_one_passes(make: Any, tangents: Any) -> None:
    op = make(tangents)
    assert gradcheck(op, X)
    assert gradcheck(lambda x: op(op(x)) * 1e8 - op(x * 1e4), X)
    assert audit([op], cases=7, order=1)


def test_at_a_kink_any_slope_between_passes(make: Any) -> None:
    op = make(
        lambda self, y, x: (lambda t: t * (x >= 0),),
        forward=lambda self, xp, x: xp.maximum(x, 0),
        backward=lambda self, g, y, x: (lambda: g * (x > 0),),
    )
    assert gradcheck(op, np.array([0.0, 1.0, -1.0]))


GRADED = [op for op in REGISTRY.values() if op.jvp is not None and op.backward is not None]


@given(op=st.sampled_from(GRADED), seed=st.integers(0, 1000), case=st.integers(0, 6))
def test_those_of_the_package(op: Op, seed: int, case: int) -> None:
    args, attrs = sampled(op, seed, case)
    assert not dual(op, args, attrs)


@pytest.mark.parametrize(
    ("tangents", "message"),
    [
        (lambda self, y, x: None, r"users_square: jvp returned None, expected a tuple of 1"),
        (lambda self, y, x: 3, r"users_square: jvp returned 3, expected a tuple of 1"),
        (lambda self, y, x: (None, None), r"users_square: jvp returned 2 functions for 1 arguments"),
        (lambda self, y, x: (3,), r"users_square: jvp returned 3 for argument 0, expected a function"),
        (
            lambda self, y, x: (lambda t: [1.0, 2.0, 3.0],),
            r"users_square: jvp returned \[1.0, .* expected an array of shape \(3,\)",
        ),
        (
            lambda self, y, x: (lambda t: 2.0,),
            r"users_square: jvp returned 2.0 for a tangent, expected an array of shape \(3,\)",
        ),
        (lambda self, y, x: (lambda t: None,), r"users_square: jvp returned None for a tangent"),
        (lambda self, y, x: lambda t: "x", r"users_square: jvp returned 'x' for a tangent"),
        (lambda self, y, x: (lambda t: Tensor(t),), r"users_square: jvp returned a Tensor for tangents that are arrays"),
        (lambda self, y, x: (lambda t: 1j * t,), r"users_square: jvp returned a tangent of dtype complex128, expected float64"),
        (lambda self, y, x: (lambda t: np.ones(4),), r"users_square: jvp returned a tangent of shape \(4,\), expected \(3,\)"),
        (lambda self, y, x: (lambda t: np.ones((2, 3)),), r"users_square: jvp returned a tangent of shape \(2, 3\), expected"),
    ],
)
def test_what_is_no_tangent(make: Any, tangents: Any, message: str) -> None:
    with pytest.raises((DTypeError, ShapeError, TensorgradError), match=message):
        jvp(make(tangents), X, np.ones(3))


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_that_writes_to_its_tangent(make: Any, create_graph: bool) -> None:
    def tangents(self: Op, y: Any, x: Any) -> Any:
        def tangent(t: Any) -> Any:
            t *= 2
            return t * x

        return (tangent,)

    v = np.ones(3)
    op = make(tangents)
    np.testing.assert_array_equal(jvp(lambda x: op(x) + x, X, v, create_graph=create_graph)[1].data, 2 * X + 1)
    np.testing.assert_array_equal(v, 1)


@pytest.mark.parametrize(
    "backward",
    [
        lambda self, g, y, x: (lambda: np.asarray(g) * 2 * x,),
        lambda self, g, y, x: (lambda: np.ones(3),),
        lambda self, g, y, x: (lambda: g.copy() * 2 * x,),
    ],
)
def test_a_backward_in_numpy_gives_no_tangent(make: Any, backward: Any) -> None:
    with pytest.raises(DTypeError, match="users_square: it has no jvp, and its backward can replace one only if"):
        jvp(make(backward=backward), X, np.ones(3))


def test_one_of_two_arguments(make: Any) -> None:
    op = make(
        lambda self, y, a, b: (lambda t: t * b, lambda t: t * b),
        reads="a b",
        signature="(),()->()",
        forward=lambda self, xp, a, b: a * b,
        backward=lambda self, g, y, a, b: (lambda: g * b, lambda: g * a),
    )
    assert {f.name for f in dual(op, (X, X[::-1].copy() + 0.5), {})} == {"input 1 (jvp)", "input 0 (jvp)"}
    assert not gradcheck(lambda x: ops.sum(op(x, x + 1)), X, raises=False)
