"""Run, the state of a training for callbacks, and Callback, their base class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorgrad.core.form import NUMBER
from tensorgrad.core.form import problems as problems_of
from tensorgrad.errors import ArgumentError, CheckpointError
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule
from tensorgrad.train import checkpoint
from tensorgrad.train.history import History
from tensorgrad.train.record import Record
from tensorgrad.train.state import FILE, State, modules_of


class StopTraining(Exception):
    """Raise it in a callback to end the training after this epoch; its text is the reason."""


class Callback:
    """Base of the callbacks; a subclass overrides the hooks it needs. `fit` also accepts plain functions of the Run as
    `on_epoch_end`.

    To end the training after this epoch set `run.stop` to a reason, or raise StopTraining with one.

    Raises ArgumentError if a subclass defines an unknown method `on_...`, which would never be called.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        hooks = [name for name in vars(Callback) if name.startswith("on_")]
        for name in dir(cls):
            if name.startswith("on_") and name not in hooks and callable(getattr(cls, name)):
                raise ArgumentError(f"{cls.__name__}.{name} would never be called: the hooks are {', '.join(hooks)}")

    def __repr__(self) -> str:
        """Name and settings: the numbers, texts and paths among its public attributes."""
        simple = {
            n: v for n, v in vars(self).items() if not n.startswith("_") and isinstance(v, (int, float, str, Path, type(None)))
        }
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in simple.items())})"

    def on_start(self, run: Run) -> None:
        """Called before the first epoch; if training is resumed, `run.epoch` epochs are done already."""

    def on_batch_end(self, run: Run) -> None:
        """Called after the step of each batch and of a schedule per batch: `run.batch` is its number in the epoch, from 1,
        `run.batch_loss` its loss. Changes, such as of `run.optimiser.lr`, take effect in the next batch.
        """

    def on_epoch_end(self, run: Run) -> None:
        """Called after each epoch: `run.epoch` is its number, from 1, and `run.row` its measurements."""

    def on_end(self, run: Run) -> None:
        """Called after the last epoch, also if training was stopped or interrupted; not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for checkpoints: numbers, text, arrays, None, and lists and dicts of these."""
        return {}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore the state from a dict of `state_dict`."""

    def misfits(self, values: Any, run: Run) -> list[str]:
        """The reasons why values of a checkpoint cannot be loaded, in words; called before anything is changed."""
        return []


class Run:
    """The state of a training, as callbacks see it.

    model, loss, optimiser, schedule, loader, validation   the arguments of `fit`, data as loaders
    callbacks   by name, in calling order
    epochs      total number of epochs
    columns     the names of the measurements of each epoch
    epoch       number of completed epochs
    row         the measurements of the last epoch, as in the history
    history     the History
    stop        the reason to end the training, set by a callback; "" if there is none
    record      the results of the current epoch's steps; None between epochs
    batches     the iterator over the loader in the current epoch
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[..., Any],
        optimiser: Optimiser,
        schedule: Schedule | None,
        loader: Any,
        validation: Any,
        callbacks: Mapping[str, Callback],
        epochs: int,
        columns: list[str],
    ) -> None:
        self.model, self.loss, self.optimiser, self.schedule = model, loss, optimiser, schedule
        self.loader, self.validation, self.callbacks = loader, validation, callbacks
        self.epochs, self.columns = epochs, columns
        self.epoch = 0
        self.row: dict[str, Any] = {}
        self.history = History()
        self.stop = ""
        self.record: Record | None = None
        self.batches: Iterator[Any] | None = None

    @property
    def batch(self) -> int:
        """Number of completed batches of the current epoch; 0 between epochs."""
        return 0 if self.record is None else self.record.done

    @property
    def batch_loss(self) -> float:
        """The loss of the last batch, NaN if there is none. On a GPU this waits for the value."""
        return float(self.record.losses[self.batch - 1]) if self.record is not None and self.batch else math.nan

    def modules(self) -> list[Module]:
        """All modules of the model, and of the loss if it is a module."""
        return modules_of(self.model, self.loss)

    def state(self) -> State:
        """The current state: `run.state().take(*VALUES)` copies the parameters and buffers."""
        shuffled = self.validation if getattr(self.validation, "shuffle", False) else None
        loaders = [loader if hasattr(loader, "state_dict") else None for loader in (self.loader, shuffled)]
        return State(self.model, self.loss, self.optimiser, self.schedule, *loaders)

    def contents(self) -> dict[str, Any]:
        """The contents of a checkpoint."""
        contents = {
            **self.state().take(*FILE),
            "callbacks": {name: state for name, callback in self.callbacks.items() if (state := callback.state_dict())},
            "history": self.history.columns,
            "epoch": self.epoch,
            "stop": self.stop,
            "record": self.record and self.record.state_dict(),
        }
        return {name: value for name, value in contents.items() if value is not None}

    def save(self, path: str | Path) -> None:
        """Write a checkpoint that `fit(..., resume=path)` resumes exactly."""
        checkpoint.write(path, self.contents())

    def check_for_files(self) -> None:
        """Raise ArgumentError before the first epoch for anything that cannot be saved, such as the name of a metric."""
        checkpoint.packed({**self.contents(), "history": dict.fromkeys(self.columns)})

    def load(self, path: str | Path) -> None:
        """Resume from a checkpoint. Raises CheckpointError, before anything is changed, if it does not fit."""
        self.resume(path, checkpoint.read(path))

    def resume(self, path: str | Path, contents: dict[str, Any]) -> None:
        """Resume from the contents of a file, or from a copy of `contents()`."""
        if "epoch" not in contents:
            raise CheckpointError(
                f"{path}: holds {', '.join(contents)}, but no training state; `train.load` reads it (epoch is missing)"
            )
        if missing := [name for name in ("callbacks", "history", "stop") if name not in contents]:
            raise CheckpointError(f"{path}: not a valid checkpoint: {', '.join(missing)} is missing")
        state = self.state()
        names = [name for name in FILE if state.parts[name] is not None]
        callbacks = {f"callbacks/{name}": callback for name, callback in self.callbacks.items()}
        saved = {f"callbacks/{name}": values for name, values in contents["callbacks"].items()}
        record = Record(len(self.loader))
        problems = [*self.misfits(contents, names, record), *misfits_of_callbacks(callbacks, saved, self)]
        checkpoint.put(
            path,
            contents,
            state,
            names,
            problems,
            {part: (callbacks[part], saved[part]) for part in saved if part in callbacks},
        )
        self.history.columns, self.epoch, self.stop = contents["history"], contents["epoch"], contents["stop"]
        self.row = rows[-1] if (rows := self.history.rows()) else {}
        self.record = None
        if "record" in contents:
            record.load_state_dict(contents["record"])
            self.record = record

    def misfits(self, contents: Mapping[str, Any], names: list[str], record: Record) -> list[str]:
        """The ways in which a checkpoint does not fit this training as a whole, in words."""
        surplus = [name for name in FILE if name in contents and name not in names]
        kinds = [contents[name].get("type", name) if isinstance(contents[name], Mapping) else name for name in surplus]
        reasons = [f"holds a {kind}, but no {name} was passed" for name, kind in zip(surplus, kinds, strict=True)]
        history, epoch = contents["history"], contents["epoch"]
        if history and [*history] != self.columns:
            reasons.append(f"holds a history of {', '.join(history)}, but this training measures {', '.join(self.columns)}")
        for name, values in history.items() or [("history", [])]:
            if len(values) != epoch:
                reasons.append(f"history: {name} has {len(values)} values, but epoch is {epoch}")
            reasons += problems_of(values, [NUMBER], f"history/{name}")
        if not reasons and history and history["epoch"] != list(range(1, epoch + 1)):
            reasons.append(f"history/epoch: {history['epoch']}, expected 1 to {epoch}")
        measured = any(name not in ("epoch", "loss", "lr", "seconds") and not name.startswith("val_") for name in self.columns)
        if "record" in contents:
            reasons += [f"record: {problem}" for problem in record.misfits(contents["record"], measured)]
        position = contents["loader"].get("position") if isinstance(contents.get("loader"), Mapping) else None
        done = len(contents["record"]["losses"]) if "record" in contents and not reasons else 0
        if isinstance(position, int) and not reasons and position != done:
            reasons.append(f"loader: position is {position}, but the record has {done} batches")
        return reasons


def misfits_of_callbacks(callbacks: Mapping[str, Callback], saved: Mapping[str, Any], run: Run) -> list[str]:
    """The reasons why the state of callbacks cannot be loaded, in words."""
    reasons = [
        f"holds no {name}, but one was passed"
        for name, callback in callbacks.items()
        if name not in saved and callback.state_dict()
    ]
    reasons += [f"holds {name}, but none was passed" for name in saved if name not in callbacks]
    return reasons + [f"{name}: {p}" for name in saved if name in callbacks for p in callbacks[name].misfits(saved[name], run)]
