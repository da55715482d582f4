"""Text tables: columns under each other, made of what can stand in one line."""

from __future__ import annotations

from collections.abc import Sequence


def visible(text: str) -> str:
    """Text, perhaps a name of unknown origin, as it is printed and drawn: what would break the line, turn its direction or
    cannot be encoded is written as Python writes it, \\n, \\x00, \\u202e, \\ud800."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    """A line for each row, with two spaces between columns. sides: for each column "<" (to the left) or ">" (to the right)."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]
