"""The default audit finds every rule that is broken on purpose; see tests/mutations.py for how they are broken."""

from __future__ import annotations

import numpy as np
import pytest

from tensorgrad import testing
from tensorgrad.op import REGISTRY
from tests import mutations

BROKEN = [name for name, op in REGISTRY.items() if op.backward is not None and not op.calls]


@pytest.mark.every(12)
@pytest.mark.parametrize("name", BROKEN)
def test_every_mutant_is_caught(name: str) -> None:
    verdicts = {str(mutant): mutations.verdict_on(mutant) for mutant in mutations.mutants(REGISTRY[name])}
    assert [mutant for mutant, verdict in verdicts.items() if verdict == "missed"] == []
    has_no_gradient = name in ("ceil", "floor", "floordiv", "round", "sign", "trunc")  # nothing is there to be broken
    assert has_no_gradient or any(verdict in ("audit", "error") for verdict in verdicts.values())


@pytest.mark.thorough
def test_missing_unbroadcast_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    add, mul = REGISTRY["add"], REGISTRY["mul"]
    assert testing.audit([add, mul], raises=False)
    mutations.without_unbroadcasting(monkeypatch)
    assert {row.op for row in testing.audit([add, mul], raises=False).failed} == {"add", "mul"}


def test_a_mutant_that_changes_nothing_does_not_count() -> None:
    """An exact second order of a linear rule: hiding the values from it changes nothing."""
    neg = REGISTRY["neg"]
    same = [m for m in mutations.mutants(neg) if mutations.verdict_on(m) == "same"]
    assert [m.detail for m in same] == ["the values"]


def test_what_is_chosen_at_ties_is_fixed_by_the_table_alone() -> None:
    """Another subgradient passes a gradient check, as it should; the table of kinks is what holds the choice."""
    mutants = [m for m in mutations.mutants(REGISTRY["leaky_relu"]) if m.kind == mutations.TIES]
    assert [m.detail for m in mutants] == ["x > 0 -> x >= 0"]
    with mutants[0].applied():
        report = testing.gradcheck(REGISTRY["leaky_relu"], np.array([-1.0, 0.0, 2.0]))
    assert report.verdicts == {"ok": 8, "kink": 1}
    assert mutations.verdict_on(mutants[0]) == "kinks"
