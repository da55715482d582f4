"""History: what was measured in each epoch."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorgrad.core.files import as_path, replacing
from tensorgrad.core.table import columns


class History(Mapping[str, list[Any]]):
    """Dict of columns with one value per epoch: `history["loss"][-1]`. It prints as a table.

    epoch, loss, the metrics, val_loss, val_<metric>, lr (the learning rate during the epoch), seconds (for the whole epoch)

    interrupted   whether Ctrl-C ended the training
    stopped       the reason why training stopped before its last epoch; "" if it did not
    """

    def __init__(self, columns: Mapping[str, list[Any]] | None = None) -> None:
        self.columns: dict[str, list[Any]] = {name: list(values) for name, values in (columns or {}).items()}
        self.interrupted = False
        self.stopped = ""

    def append(self, row: Mapping[str, Any]) -> None:
        """Append the values of an epoch. Raises ValueError for other columns."""
        if self.columns and row.keys() != self.columns.keys():
            raise ValueError(f"History: an epoch has {', '.join(row)}, but earlier ones have {', '.join(self.columns)}")
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)

    def rows(self) -> list[dict[str, Any]]:
        """A list with a dict for each epoch."""
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.columns:
            raise KeyError(f"History: no column {name!r}, only {', '.join(self.columns) or 'none yet'}")
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __str__(self) -> str:
        cells = [list(self.columns), *([_text(v) for v in row.values()] for row in self.rows())]
        lines = columns(cells, ">" * len(self.columns))
        if len(lines) > 41:  # show the first and last twenty
            lines = [*lines[:21], f"... {len(lines) - 41} more ...", *lines[-20:]]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self) if self.columns else "History()"

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file with a header line; numbers have all their digits."""
        with replacing(as_path("History.to_csv", path)) as file:
            file.write(csv_lines([list(self.columns), *(list(row.values()) for row in self.rows())]))

    def plot(self, **options: Any) -> Any:
        """A matplotlib figure of losses and metrics: `tensorgrad.draw.curves(..., **options)`."""
        from tensorgrad.draw import curves

        return curves(self.columns, **options)


def csv_lines(rows: list[list[Any]]) -> bytes:
    """Rows as CSV in UTF-8; lone surrogates, which UTF-8 cannot encode, are escaped as in Python."""
    import io

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
