"""Common style of figures: creation, colours, plain text."""

from __future__ import annotations

from typing import Any

from tensorgrad.core.table import visible
from tensorgrad.errors import MissingDependencyError

# Eight colours distinguishable for the colour-blind (after Okabe and Ito's palette, darkened for lines on white)
COLOURS = ("#2f6fb5", "#c98a00", "#2e8540", "#c04f4f", "#7b4fa3", "#17a2a2", "#8a5a2b", "#5d666f")
LINES = ("-", "--", ":", "-.")  # distinguish a ninth series from the first
INK, GREY, RED = "#1c2024", "#8a939c", "#c0392b"


def new_figure(caller: str, width: float, height: float) -> Any:
    """A new matplotlib Figure, size in inches, without pyplot."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            f"draw.{caller}: needs matplotlib, which is not installed; pip install matplotlib"
        ) from None
    from tensorgrad.draw.shown import ShownFigure

    return ShownFigure(figsize=(width, height), layout="constrained")


def plain(text: str) -> str:
    """Text without formulas and missing glyphs for matplotlib."""
    return visible(text).replace("$", r"\$")
