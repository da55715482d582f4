"""Colours of boxes, for all output formats. No two fills are closer than 20 in CIELAB."""

from __future__ import annotations

from dataclasses import dataclass

INK = "#1c2024"


@dataclass(frozen=True)
class Look:
    """The style of a box: fill, border and text colours; bold or dashed border, round corners."""

    fill: str
    line: str
    ink: str = INK
    bold: bool = False
    dashed: bool = False
    round: bool = False


KINDS = {
    "parameter": Look("#ffd27a", "#c98a00", round=True),
    "input": Look("#bbe7ff", "#2f6fb5", round=True),
    "constant": Look("#c1c4be", "#888888", dashed=True, round=True),
    "op": Look("#ffffff", "#444444"),
    "layer": Look("#fff0ba", "#b07c00"),
    "output": Look("#a6e6a0", "#2e8540", bold=True),
    "fused": Look("#d6c3ff", "#7a4fc0", "#3a1d73", round=True),
    "fold": Look("#95abc7", "#4b5b6b", bold=True),
    "rule": Look("#ffced0", "#c04f4f", "#6b1717", round=True),
    "gradients": Look("#e3f398", "#5b8f1f", bold=True),
    "elsewhere": Look("#68727c", "#3a434c", "#ffffff", dashed=True, round=True),
    "failed": Look("#fe847c", "#b00000", "#600000", bold=True),
}
# For print: one hue in shades that are distinguishable in grey; borders tell the rest apart
PAPER = {
    "input": Look("#ffffff", "#333333", round=True),
    "parameter": Look("#e6e6e6", "#333333", round=True),
    "constant": Look("#ffffff", "#777777", dashed=True, round=True),
    "op": Look("#ffffff", "#333333"),
    "layer": Look("#dce9f5", "#333333"),
    "fold": Look("#a9c6e3", "#333333"),
    "output": Look("#7fb0dc", "#1c2024", bold=True),
}
MARKS = {
    "highlight": Look("#ff9ade", "#b0007a", "#60003f", bold=True),
    "added": Look("#4fd1b5", "#0a6b56", bold=True),
    "removed": Look("#ffaf99", "#b00000", "#600000", bold=True, dashed=True),
    "changed": Look("#ffd800", "#8a6100", bold=True),
    "misfit": Look("#ff9d3c", "#b05000", bold=True),
}


def look_of(kind: str, mark: str = "", paper: bool = False) -> Look:
    """The style of a box of this kind or with this mark. paper: for print."""
    return MARKS.get(mark) or (PAPER.get(kind) if paper else None) or KINDS[kind]


def blended(a: str, b: str, share: float) -> str:
    """Mix two colours; `share` is the fraction of the first."""
    pairs = zip(bytes.fromhex(a[1:]), bytes.fromhex(b[1:]), strict=True)
    return "#" + bytes(round(x * share + y * (1 - share)) for x, y in pairs).hex()


def heat_colour(share: float) -> str:
    """A colour from white for 0 to orange for 1."""
    red, green, blue = (round(255 - share**0.6 * (255 - c)) for c in (255, 150, 60))
    return f"#{red:02x}{green:02x}{blue:02x}"
