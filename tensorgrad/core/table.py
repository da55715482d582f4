"""Text tables: columns under each other."""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """A line for each row, with two spaces between columns. sides: for each column "<" (to the left) or ">" (to the right)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]
