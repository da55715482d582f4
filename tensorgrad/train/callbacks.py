"""Callbacks: early stopping, checkpoints and loggers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tensorgrad.core.backend import Array
from tensorgrad.core.files import as_path, replacing
from tensorgrad.core.form import ANYTHING, COUNT, NUMBER, Maybe, problems
from tensorgrad.core.ranks import ranks
from tensorgrad.data import storage
from tensorgrad.errors import CheckpointError
from tensorgrad.train.history import csv_lines
from tensorgrad.train.run import Callback, Run
from tensorgrad.train.state import VALUES

BEST = {"best": NUMBER, "best_epoch": COUNT}  # structure of the saved state of a Best


class Function(Callback):
    """Wraps a plain function of the Run, called after each epoch."""

    def __init__(self, function: Callable[[Run], Any]) -> None:
        self.function = function

    def on_epoch_end(self, run: Run) -> None:
        self.function(run)


class Best:
    """Tracks the best value of a history column and its epoch.

    monitor    the column
    min_delta  minimum improvement
    mode       "min" or "max": whether lower or higher is better; None for "min" if the column's name ends in "loss", "error",
               "mse", "rmse" or "mae", else "max"
    """

    def __init__(self, monitor: str, min_delta: float = 0.0, mode: str | None = None) -> None:
        if mode not in ("min", "max", None):
            raise ValueError(f"train: mode must be 'min', 'max' or None, got {mode!r}")
        self.monitor, self.min_delta, self.mode = monitor, min_delta, mode
        lower = monitor.endswith(("loss", "error", "mse", "mae")) if mode is None else mode == "min"
        self.sign = 1 if lower else -1
        self.value, self.epoch = math.nan, 0

    def check(self, run: Run, callback: Callback) -> None:
        """Raise ValueError before the first epoch if the column is neither measured nor possibly added by an earlier
        callback.
        """
        earlier = list(run.callbacks.values())[: list(run.callbacks.values()).index(callback)]
        if all(type(c).__module__ == __name__ and not isinstance(c, Function) for c in earlier):
            self.check_column(run.columns)

    def check_column(self, columns: Collection[str]) -> None:
        if self.monitor not in columns:
            raise ValueError(f"train: monitor={self.monitor!r} is not a column of the history, which has {', '.join(columns)}")

    def improved(self, run: Run) -> bool:
        """Whether the last epoch is the best so far; never for NaN."""
        self.check_column(run.row)
        value = run.row[self.monitor]
        if math.isnan(value) or (self.epoch and not self.sign * value < self.sign * self.value - self.min_delta):
            return False
        self.value, self.epoch = value, run.epoch
        return True


class EarlyStopping(Callback):
    """Stops the training when a history column has stopped improving.

    monitor        the column
    patience       number of epochs without improvement after which training stops; None for never
    min_delta      minimum improvement
    restore_best   restore the parameters and buffers of the best epoch at the end, for whatever reason training ended
    mode           "min" or "max": whether lower or higher is better; None for "min" if the column's name ends in "loss",
                   "error", "mse", "rmse" or "mae", else "max"

    best, best_epoch   the best value and its epoch, counted from 1; NaN and 0 before there is one
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int | None = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str | None = None,
    ) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"EarlyStopping: patience must be at least 1, got {patience}")
        if not min_delta >= 0:
            raise ValueError(f"EarlyStopping: min_delta must be at least 0, got {min_delta}")
        self.monitor, self.patience, self.min_delta, self.restore_best = monitor, patience, min_delta, restore_best
        self.mode = mode
        self.reset()

    def reset(self) -> None:
        """Reset to the initial state."""
        self._best = Best(self.monitor, self.min_delta, self.mode)
        self.values: dict[str, dict[str, Array]] | None = None

    @property
    def best(self) -> float:
        """The best monitored value so far."""
        return self._best.value

    @property
    def best_epoch(self) -> int:
        """The epoch of the best value."""
        return self._best.epoch

    def on_start(self, run: Run) -> None:
        if not run.epoch:
            self.reset()
        self._best.check(run, self)

    def on_epoch_end(self, run: Run) -> None:
        if self._best.improved(run):
            self.values = run.state().take(*VALUES) if self.restore_best else None
        elif self.patience is not None and run.epoch - self.best_epoch >= self.patience:
            run.stop = f"{self.monitor} has not improved for {self.patience} epochs"

    def on_end(self, run: Run) -> None:
        if self.values is not None:
            run.state().put(self.values)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "values": self.values}

    def misfits(self, values: Any, run: Run) -> list[str]:
        if found := problems(values, {**BEST, "values": Maybe({name: ANYTHING for name in VALUES})}):
            return found
        reasons = run.state().misfits(values["values"]) if values["values"] is not None else []
        return [f"values/{problem}" for problem in reasons]

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        self._best.value, self._best.epoch = values["best"], values["best_epoch"]
        self.values = values["values"] if self.restore_best else None


class Checkpoint(Callback):
    """Saves the whole training to one file, .npz or .safetensors, which `fit(..., resume=path)` resumes.

    every       save every so many epochs; the last epoch, and a training interrupted by Ctrl-C, are always saved
    best_only   a history column: save only epochs that improve it
    mode        for `best_only`, as in EarlyStopping

    It is called after all other callbacks, so their saved state includes the epoch.
    """

    def __init__(self, path: str | Path, every: int = 1, best_only: str | None = None, mode: str | None = None) -> None:
        if every < 1:
            raise ValueError(f"Checkpoint: every must be at least 1, got {every}")
        storage.suffix_of("Checkpoint", path)
        self.path, self.every = Path(path), every
        self._best = None if best_only is None else Best(best_only, mode=mode)
        self._saved = 0

    def on_start(self, run: Run) -> None:
        if not self.path.resolve().parent.is_dir():  # fail before training, not after an epoch
            raise CheckpointError(f"{self.path}: cannot be written: no folder {self.path.parent}")
        run.check_for_files()
        self._saved = run.epoch
        if self._best is not None and not run.epoch:
            self._best = Best(self._best.monitor, mode=self._best.mode)
        if self._best is not None:
            self._best.check(run, self)

    def on_epoch_end(self, run: Run) -> None:
        if self._best is not None and not self._best.improved(run):
            return
        if self._best is not None or run.epoch % self.every == 0:
            self._save(run)

    def on_end(self, run: Run) -> None:
        if self._best is None and (self._saved != run.epoch or run.record is not None):
            self._save(run)

    def _save(self, run: Run) -> None:
        run.save(self.path)
        self._saved = run.epoch

    def state_dict(self) -> dict[str, Any]:
        return {} if self._best is None else {"best": self._best.value, "best_epoch": self._best.epoch}

    def misfits(self, values: Any, run: Run) -> list[str]:
        return problems(values, BEST if self._best is not None else {})

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        if self._best is not None:
            self._best.value, self._best.epoch = values["best"], values["best_epoch"]


class Logger(Callback):
    """Base of the callbacks that write the history to a file after each epoch. An existing file is replaced.

    The whole file is rewritten atomically each time, so that readers always see complete lines of one training.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(type(self).__name__, path)
        self.lines: list[bytes] = []

    def on_start(self, run: Run) -> None:
        """Start with the epochs of a resumed training; the existing file may contain epochs after the checkpoint."""
        self.lines = []
        for row in run.history.rows():
            self.add(row)
        self.write()

    def on_epoch_end(self, run: Run) -> None:
        self.add(run.row)
        self.write()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the line of an epoch."""
        raise NotImplementedError

    def write(self) -> None:
        if not ranks.is_first:
            return
        with replacing(self.path, durable=False) as file:
            file.write(b"".join(self.lines))


class CSVLogger(Logger):
    """Writes the history to a CSV file, one line per epoch. An existing file is replaced."""

    def on_start(self, run: Run) -> None:
        self.rows: list[dict[str, Any]] = []
        self.names: list[str] = []
        super().on_start(run)

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))
        if row.keys() - set(self.names):  # the first row, or a callback has added a column
            self.names = list(dict.fromkeys([*self.names, *row]))
            self.lines = [csv_lines([self.names, *map(self.cells, self.rows)])]
        else:
            self.lines.append(csv_lines([self.cells(row)]))

    def cells(self, row: Mapping[str, Any]) -> list[Any]:
        """The values of an epoch by column; None for missing ones."""
        return [row.get(name) for name in self.names]


class JSONLinesLogger(Logger):
    """Writes the history to a file of JSON lines, one per epoch. An existing file is replaced.

    Infinite and NaN values are written as null, because JSON has neither.
    """

    def add(self, row: Mapping[str, Any]) -> None:
        self.lines.append(json_line(row).encode())


def json_line(row: Mapping[str, Any]) -> str:
    """A dict of numbers as one line of JSON."""
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
