"""Small pictures of arrays: a coloured cell for each number, or for the mean of several."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, move
from tensorgrad.draw.colours import blended

SMALL = 10, 32  # maximum rows and columns of cells in a box
LARGE = 64, 64  # and on a page
CELL = 4  # width and height of a cell in a box, in points
TILE = 8  # minimum rows and columns of one of several matrices
NEGATIVE, POSITIVE, BAD = "#2166ac", "#c05a00", "#d01c8b"


@dataclass(frozen=True)
class Map:
    """cells: rows of numbers from -1 to 1, relative to the largest absolute value of the array; NaN for non-finite blocks, None
    between matrices. caption: name and largest value.
    """

    caption: str
    cells: tuple[tuple[float | None, ...], ...]


def map_of(name: str, array: Array, limits: tuple[int, int]) -> Map | None:
    """The picture of an array, with at most so many rows and columns; None for 0-d, empty or non-numeric arrays.

    A 1-d array is one row. For more than two axes, the first of the matrices along the last two axes are arranged in rows.
    """
    a = np.asarray(move(array, "cpu"))
    if not a.ndim or not a.size or a.dtype.kind not in "biufV":
        return None
    a = a.astype(np.float64)
    finite = np.abs(a[np.isfinite(a)])
    largest = float(finite.max()) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        scaled = a / largest if largest else a * 0
    if a.ndim < 3:
        grid, factor = shrunk(scaled.reshape(-1, a.shape[-1]), limits)
        rows: list[list[float | None]] = grid.tolist()
    else:
        rows, factor = tiled(scaled.reshape(-1, *a.shape[-2:]), a.shape[-3], limits)
    size = f"±{largest:.2g}" if finite.size else "nothing finite"
    return Map(f"{name} {size}{factor}", tuple(map(tuple, rows)))


def shrunk(matrix: Any, limits: tuple[int, int]) -> tuple[Any, str]:
    """A matrix reduced to so many rows and columns by block means, and a remark about it."""
    heights, widths = (-(-n // limit) for n, limit in zip(matrix.shape, limits, strict=True))
    if heights == widths == 1:
        return matrix, ""
    rows = [matrix[i : i + heights] for i in range(0, matrix.shape[0], heights)]
    means = [[part[:, j : j + widths].mean() for j in range(0, matrix.shape[1], widths)] for part in rows]
    return np.array(means), f", means of {heights}×{widths}"


def tiled(matrices: Any, across: int, limits: tuple[int, int]) -> tuple[list[list[float | None]], str]:
    """The first matrices, in rows of at most `across`, separated by empty lines, and a remark about them."""
    sizes = [min(n, max(limit, TILE)) for n, limit in zip(matrices.shape[1:], (limits[0] // 3, limits[1] // 4), strict=True)]
    down, in_row = (max(1, (limit + 1) // (size + 1)) for limit, size in zip(limits, sizes, strict=True))
    in_row = min(in_row, across if down > 1 else len(matrices))
    grids = [shrunk(m, (sizes[0], sizes[1])) for m in matrices[: down * in_row]]
    rows: list[list[float | None]] = []
    for start in range(0, len(grids), in_row):
        group = [grid.tolist() for grid, _ in grids[start : start + in_row]]
        if rows:
            rows.append([None] * len(rows[0]))
        for lines in zip(*group, strict=True):
            row: list[float | None] = []
            for line in lines:
                row += [*([None] * bool(row)), *line]
            rows.append([*row, *([None] * (len(rows[0]) - len(row) if rows else 0))])
    remark = f", {len(grids)} of {len(matrices):,}" if len(grids) < len(matrices) else ""
    return rows, remark + grids[0][1]


def cell_colour(value: float | None) -> str:
    """White for 0, blue below, orange above; "" for none."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return BAD
    return blended(POSITIVE if value > 0 else NEGATIVE, "#ffffff", min(1.0, abs(value)))


def percent(cells: tuple[tuple[float | None, ...], ...]) -> list[list[int | None]]:
    """Cells for a page: from -100 to 100, 101 if not finite."""
    return [[c if c is None else round(100 * c) if math.isfinite(c) else 101 for c in row] for row in cells]
