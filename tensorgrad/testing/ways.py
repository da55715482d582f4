"""Compares the gradients of a check with those of all other code paths: see paths.py, single.py and replayed.py."""

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
    """Findings for gradients that differ on another code path from those of `check`.

    check     a passed check: its `recorded` are the gradients of the sum of its outputs weighted by its `weights`
    compiled  include compiled steps; raises CompileError if the function cannot be compiled
    notes     gets a line for each path that could not be tried or is undecided, and why
    caller    prefix of errors
    """
    notes = [] if notes is None else notes
    ways = Ways(check, notes)
    findings = ways.findings() or in_float32(ways)
    if compiled and not findings:
        findings = in_compiled_step(ways, caller)
    return findings
