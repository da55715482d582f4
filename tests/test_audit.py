"""The audit of all registered ops: what it covers, what it prints, and that it fails."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, testing
from tensorgrad.errors import ArgumentError, DTypeError
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import Finding, GradientError, samples

audit_module = sys.modules["tensorgrad.testing.audit"]  # whose name in the package is the function


@pytest.mark.parametrize("cases", [1, pytest.param(5, marks=pytest.mark.thorough)])
def test_all_ops_pass(cases: int) -> None:
    found = testing.audit(cases=cases)
    assert {row.op for row in found.rows} == {name for name, op in REGISTRY.items() if op.backward is not None}
    assert {row.order for row in found.rows} == {1, 2}
    assert {verdict for row in found.rows for verdict in row.verdicts} == {"ok"}
    lines = str(found).splitlines()
    assert lines[0].split() == ["op", "order", "cases", "verdict", "worst", "rel", "error", "in", "float16", "ms"]
    # four roundings of float16
    assert {row.op: row.half for row in found.rows if row.half is not None and row.half > 2e-3} == {}
    assert len(lines) == len(found.rows) + 2
    assert lines[-1].endswith("s: every rule passed")


def test_an_op_of_the_users_that_is_wrong() -> None:
    class Twice(Op):
        """y = 2 x

        forward    y  = 2 x
        backward   gx = 2 g
        """

        name, signature = "twice", "()->()"

        def forward(self, xp: Any, x: Any) -> Any:
            return 2 * x

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: 2.002 * g,)

    twice = Twice()
    try:
        assert testing.audit(["exp"], cases=2)
        with pytest.raises(GradientError, match=r"(?s)^audit: FAILED\nop .*\ntwice +1 +20 +wrong .* wrong: twice\n") as caught:
            testing.audit(["exp", twice])
        assert "REGISTRY['twice'](x)" in caught.value.script
        found = testing.audit([twice], order=1, raises=False)
        assert not found
        assert [(row.op, row.order, row.verdict) for row in found.failed] == [("twice", 1, "wrong")]
        assert found.rows[0].error == pytest.approx(0.001, rel=0.01)
    finally:
        del REGISTRY["twice"]


# What it is tried with

GRADED = [op for op in REGISTRY.values() if op.backward is not None and not op.calls]
# what the default cases of every op are, beside "as they come", by how their signature lets them be called
KINDS: dict[str, Callable[[Op, tuple[Any, ...]], bool]] = {
    "batched": samples.is_batched,
    "widened": samples.is_widened,
    "shorter": samples.is_shorter,
    "number": samples.has_number,
    "empty": samples.is_empty,
}


def expected(op: Op) -> set[str]:
    """The kinds that a signature admits, of which an op has to be tried with all."""
    if op.variadic or ("*",) in op.parsed.inputs:
        return set()  # its own `sample` says
    kinds = {"batched"} if any(op.parsed.leading) else set()
    if op.parsed.leading.count(True) > 1 and not op.parsed.strict:
        kinds |= {"widened", "shorter"}
    if () in op.parsed.inputs and op.name not in ("cumsum", "cumprod", "logcumsumexp"):  # which have an axis
        kinds |= {"number"}
    return kinds


@pytest.mark.parametrize("op", GRADED, ids=lambda op: op.name)
def test_what_the_samples_cover(op: Op) -> None:
    cases = [samples.sampled(op, 0, case)[0] for case in range(20)]
    found = {kind for kind, holds in KINDS.items() if any(holds(op, args) for args in cases)}
    assert expected(op) - found == set()
    # where the op can be called with nothing it is
    admits = any(samples.attempted(op, np.random.default_rng(k), samples.is_empty) for k in range(40))
    assert ("empty" in found) == admits


def test_most_ops_admit_arrays_without_elements() -> None:
    none = {op.name for op in GRADED if not any(samples.is_empty(op, samples.sampled(op, 0, k)[0]) for k in range(20))}
    without = set() if importlib.util.find_spec("scipy") else {"sparse_matmul"}
    known = {"max", "min", "lookup", "einsum", "windows", "fold", "softmax", "log_softmax", "getitem", "gather"}
    assert none <= known | without, none


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3)])
def test_other_orders_of_memory(shape: tuple[int, ...]) -> None:
    a = np.random.default_rng(0).normal(size=shape)
    for x in (a, Tensor(a, True)):
        found = samples.other_layout(x)
        found = found.data if isinstance(found, Tensor) else found
        np.testing.assert_array_equal(found, a)
        assert found.flags.c_contiguous == (not shape)


def test_a_rule_that_reads_memory_as_rows() -> None:
    class Raw(Op):
        """y = 2 x

        forward    y  = 2 x
        backward   gx = 2 g
        """

        name, signature = "raw", "()->()"

        def forward(self, xp: Any, x: Any) -> Any:
            return 2 * x

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: 2 * np.reshape(np.ravel(g, "K"), g.shape) if isinstance(g, np.ndarray) else 2 * g,)

    try:
        found = testing.audit([Raw()], raises=False)
        assert [(row.order, row.verdict) for row in found.rows] == [(1, "wrong"), (2, "ok")]
        with pytest.raises(GradientError, match=r"^audit: FAILED"):
            testing.audit(["raw"])
    finally:
        del REGISTRY["raw"]


def test_a_sample_is_the_same_again() -> None:
    for op in GRADED[::7]:
        for case in range(8):
            (a, _), (b, _) = samples.sampled(op, 3, case), samples.sampled(op, 3, case)
            assert all(x.shape == y.shape and (x == y).all() for x, y in zip(a, b, strict=True))


def test_a_rule_that_is_wrong_only_broadcast() -> None:
    """By an axis of size 1, or by fewer axes, or with leading axes: each is in the default cases."""
    wrongs = {
        "widened": lambda g, a, b: 2.0 if any(n == 1 < m for n, m in zip(b.shape[::-1], a.shape[::-1], strict=False)) else 1.0,
        "shorter": lambda g, a, b: 2.0 if 0 < b.ndim < a.ndim else 1.0,
        "batched": lambda g, a, b: 2.0 if a.ndim and a.shape == b.shape else 1.0,
    }
    for kind, factor in wrongs.items():

        class Odd(Op):
            """y = a b

            forward    y  = a b
            backward   ga = g b,   gb = g a
            """

            signature, reads = "(),()->()", "a b"
            name = f"odd_{kind}"

            def forward(self, xp: Any, a: Any, b: Any) -> Any:
                return a * b

            def backward(self, g: Any, y: Any, a: Any, b: Any, factor: Any = factor) -> Any:
                return lambda: g * b, lambda: g * a * factor(g, a, b)

        odd = Odd()
        try:
            assert not testing.audit([odd], order=1, raises=False), kind
        finally:
            del REGISTRY[odd.name]


def test_a_further_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(op: Op, args: Any, attrs: Any) -> list[Finding]:
        one = np.ones(1)
        return [Finding.of("batched", (1,), 1, np.array(["wrong"]), one, 2 * one, lambda at: "x")]

    assert testing.audit(["exp"], cases=2)
    monkeypatch.setattr(audit_module, "ADDITIONAL", [never])
    found = testing.audit(["exp"], cases=2, raises=False)
    assert [(row.order, row.verdict) for row in found.rows] == [(1, "wrong"), (2, "ok")]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"cases": -1}, ArgumentError, "audit: cases must be at least 1, got -1"),
        ({"cases": 0}, ArgumentError, "audit: cases must be at least 1, got 0"),
        ({"cases": 2.5}, DTypeError, "audit: cases must be an integer, got 2.5"),
        ({"order": 3}, ArgumentError, "audit: order must be 1 or 2, got 3"),
        ({"order": "2"}, ArgumentError, "audit: order must be 1 or 2, got '2'"),
        ({"seed": -1}, ArgumentError, "audit: the seed must be None or a non-negative integer, got -1"),
        ({"seed": None}, ArgumentError, "audit: the seed must be a non-negative integer, got None"),
        ({"raises": 1}, DTypeError, "audit: raises must be True or False, got 1"),
        ({"ops": "exp"}, DTypeError, "audit: ops must be a list of names or ops, got 'exp'"),
        ({"ops": [3]}, DTypeError, "audit: ops must be a list of names or ops, got "),
        ({"ops": ["expp"]}, ArgumentError, "audit: unknown op 'expp'"),
        ({"ops": ["argmax"]}, ArgumentError, "audit: none of the 1 ops has a gradient"),
        ({"ops": []}, ArgumentError, "audit: none of the 0 ops has a gradient"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}"):
        testing.audit(**arguments)
