"""The gradients of a check, found in every other way in which people get them: see paths.py, single.py and replayed.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorgrad.testing.paths import Ways
from tensorgrad.testing.replayed import in_compiled_step
from tensorgrad.testing.report import Finding
from tensorgrad.testing.single import in_float32

if TYPE_CHECKING:
    from tensorgrad.testing.checks import Check


def other_ways(
    check: Check, *, compiled: bool = False, notes: list[str] | None = None, caller: str = "gradcheck"
) -> list[Finding]:
    """Findings for the gradients that are others when they are found in another way than `check` has found them.

    check     one that has passed: its `recorded` are the gradients of the sum of its outputs weighted by its `weights`
    compiled  also inside of a compiled step; raises CompileError where the function cannot be compiled
    notes     is given a line for each way that could not be gone, or decided nothing, and why
    caller    what errors begin with
    """
    notes = [] if notes is None else notes
    ways = Ways(check, notes)
    findings = ways.findings() or in_float32(ways)
    if compiled and not findings:
        findings = in_compiled_step(ways, caller)
    return findings
