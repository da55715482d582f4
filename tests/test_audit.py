"""The audit of all registered ops: what it covers, what it prints, and that it fails."""

from __future__ import annotations

from typing import Any

import pytest

from tensorgrad import testing
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import GradientError


def test_all_ops_pass() -> None:
    found = testing.audit(cases=5)
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
