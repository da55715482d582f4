"""Comma-separated text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tensorgrad.core.backend import Array
from tensorgrad.data.npz import as_limit, file_at
from tensorgrad.errors import ArgumentError, DataError, DTypeError, OutOfRangeError

LINES, PIECE = 1024, 1 << 24  # lines and characters to read at once
LIMIT = 1 << 20  # default limit of characters per line

# numbers that np.loadtxt accepts
NUMBER = re.compile(r"\s*[+-]?(inf|infinity|nan|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)\s*", re.ASCII | re.IGNORECASE)


def read_csv(
    path: str | Path,
    label: int = 0,
    *,
    header: bool | None = None,
    dtype: npt.DTypeLike = np.float32,
    limit: int = LIMIT,
) -> tuple[Array, Array]:
    """Read a file with one sample per line: returns x (m, n) of `dtype` and labels (m,) of int64.

    label   the column of the label, an integer; a negative one counts from the last column
    header  whether the first line is a header; by default it is one if none of its fields is a number
    dtype   of x, a float or integer type; an integer type must represent each number exactly
    limit   maximum characters per line; no more is read of a longer one

    MNIST is often distributed in this form, the label before 784 pixels: `x, y = read_csv("mnist_train.csv", dtype="uint8")`.
    Empty lines are skipped. Fields are decimal numbers, without quotes.

    Raises FileNotFoundError if there is no such file; DataError, naming file and line, for a line with another number of fields
    than the first, a field that is not a finite number or does not fit, and a file without samples; OutOfRangeError if there is
    no such column.
    """
    path, limit = file_at("read_csv", path), as_limit("read_csv", limit)
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise ArgumentError(f"read_csv: label must be a column index, got {label!r}")
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise DTypeError(f"read_csv: dtype is {dtype!r}, expected a floating or integer dtype") from None
    if dtype.kind not in "fiu":
        raise DTypeError(f"read_csv: dtype is {dtype}, expected a floating or integer dtype")
    samples: list[Array] = []
    labels: list[Array] = []
    columns = 0
    # an invalid byte becomes a character that is not a digit, and gets an error with its line
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for rows in _pieces(path, file, limit):
            if not columns:
                columns = rows[0][1].count(",") + 1
                if not -columns <= label < columns:
                    raise OutOfRangeError(f"read_csv: label is column {label}, but {path} has {columns} columns")
                if _is_header(rows[0][1]) if header is None else header:
                    del rows[0]
            values = _parse(path, rows, columns)
            y = values[:, label]
            x = np.delete(values, label, axis=1)
            samples.append(_cast(path, rows, x, dtype, [i for i in range(columns) if i != label % columns]))
            labels.append(_cast(path, rows, y[:, None], np.dtype(np.int64), [label % columns])[:, 0])
    if not sum(map(len, samples)):
        raise DataError(f"{path}: no samples; the file is {'empty' if not columns else 'only a header line'}")
    return np.concatenate(samples), np.concatenate(labels)


def _pieces(path: Path, file: IO[str], limit: int) -> Iterator[list[tuple[int, str]]]:
    """Non-empty lines with their numbers, in chunks."""
    rows: list[tuple[int, str]] = []
    number = size = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit and not line.endswith("\n"):
            raise DataError(f"{path}, line {number}: longer than {limit:,} characters; read_csv(path, limit=...) allows more")
        if line.isspace():
            continue
        rows.append((number, line))
        size += len(line)
        if len(rows) == LINES or size > PIECE:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _parse(path: Path, rows: list[tuple[int, str]], columns: int) -> Array:
    """The numbers of these lines, float64 (lines, columns)."""
    for number, line in rows:
        if (count := line.count(",") + 1) != columns:
            raise DataError(f"{path}, line {number}: {count} fields, but {columns} in the first line")
    try:
        return _numbers([line for _, line in rows]) if rows else np.empty((0, columns))
    except ValueError as error:
        for number, line in rows:
            for column, field in enumerate(line.split(","), 1):
                if not NUMBER.fullmatch(field):
                    raise DataError(f"{path}, line {number}, field {column}: {field.strip()[:40]!r} is not a number") from None
        raise DataError(f"{path}, lines {rows[0][0]} to {rows[-1][0]}: {error}") from error


def _numbers(lines: list[str]) -> Array:
    values: Array = np.loadtxt(lines, np.float64, delimiter=",", comments=None, ndmin=2)
    return values


def _is_header(line: str) -> bool:
    return {"\0", "\ufffd"}.isdisjoint(line) and not any(map(NUMBER.fullmatch, line.split(",")))


def _cast(path: Path, rows: list[tuple[int, str]], values: Array, dtype: np.dtype[Any], columns: list[int]) -> Array:
    """Cast `values` to `dtype` if all are finite and fit; `columns` are their columns in the file, for errors."""
    if dtype.kind == "f":
        representable = np.abs(values) <= np.finfo(dtype).max
    else:
        info = np.iinfo(dtype)
        largest_exact = 2**53 - 1  # float64 cannot tell larger integers apart
        representable = (
            (np.floor(values) == values) & (values >= max(info.min, -largest_exact)) & (values <= min(info.max, largest_exact))
        )
    if not representable.all():
        i, j = np.argwhere(~representable)[0]
        field = rows[i][1].split(",")[columns[j]].strip()[:40]
        raise DataError(f"{path}, line {rows[i][0]}, field {columns[j] + 1}: {field} cannot be represented as {dtype}")
    return values.astype(dtype)
