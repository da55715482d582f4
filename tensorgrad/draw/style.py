"""What the figures have in common: how they are made, their colours, text without surprises."""

from __future__ import annotations

from typing import Any

from tensorgrad.core.table import visible
from tensorgrad.errors import MissingDependencyError

# Eight that stay apart for the colour-blind, too (after Okabe and Ito's palette, darkened for lines on white)
COLOURS = ("#2f6fb5", "#c98a00", "#2e8540", "#c04f4f", "#7b4fa3", "#17a2a2", "#8a5a2b", "#5d666f")
LINES = ("-", "--", ":", "-.")  # how a ninth series differs from the first
INK, GREY, RED = "#1c2024", "#8a939c", "#c0392b"


def new_figure(caller: str, width: float, height: float) -> Any:
    """A matplotlib Figure of its own, in inches, without pyplot's state."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            f"draw.{caller}: needs matplotlib, which is not installed; pip install matplotlib"
        ) from None
    from tensorgrad.draw.shown import ShownFigure

    return ShownFigure(figsize=(width, height), layout="constrained")


def plain(text: str) -> str:
    """Text in which matplotlib finds no formula, and nothing that it has no picture of."""
    return visible(text).replace("$", r"\$")
