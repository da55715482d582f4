"""Text tables with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def visible(text: str) -> str:
    """Text, possibly a name of unknown origin, made safe to print and draw: line breaks, direction changes and characters
    that cannot be encoded are escaped as in Python, \\n, \\x00, \\u202e, \\ud800.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """A line for each row, with two spaces between columns. sides: for each column "<" (left) or ">" (right)."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]
