"""Run: a training that is under way, and the base of what is called while it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorgrad.errors import CheckpointError
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule
from tensorgrad.train import checkpoint
from tensorgrad.train.history import History
from tensorgrad.train.record import Record
from tensorgrad.train.state import FILE, State, modules_of


class StopTraining(Exception):
    """Raised by a callback to end the training after this epoch; its text says why."""


class Callback:
    """Base of the callbacks; a subclass defines what it needs. `fit` takes plain functions of the Run too, as `on_epoch_end`.

    Setting `run.stop` to a reason, or raising StopTraining with one, ends the training after this epoch.
    """

    def on_start(self, run: Run) -> None:
        """Before the first epoch; when training is resumed, `run.epoch` have been before."""

    def on_epoch_end(self, run: Run) -> None:
        """After an epoch: `run.epoch` is its number, from 1, and `run.row` what was measured."""

    def on_end(self, run: Run) -> None:
        """After the last epoch, or when the training was stopped or interrupted; not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What is kept in checkpoints: numbers, text, arrays, None, and lists and dicts of them."""
        return {}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on as the callback that `state_dict` was taken from."""


class Run:
    """A training under way, as callbacks see it.

    model, loss, optimiser, schedule, loader, validation   what `fit` was given, the data as loaders
    callbacks   by name, in their order
    epochs      how many there are to be in all
    columns     the names of what `fit` measures in each epoch
    epoch       how many have ended
    row         what was measured in the last one, as it stands in the history
    history     the History of all
    stop        why the training is to end now, set by a callback; "" if it is not
    record      what the steps of the epoch under way have given; None between epochs
    batches     the loop over the loader in the epoch under way
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

    def modules(self) -> list[Module]:
        """The parts of the model, and of the loss if it is a module."""
        return modules_of(self.model, self.loss)

    def state(self) -> State:
        """What the training changes, as it is now: `run.state().take(*VALUES)` copies the parameters and buffers."""
        shuffled = self.validation if getattr(self.validation, "shuffle", False) else None
        loaders = [loader if hasattr(loader, "state_dict") else None for loader in (self.loader, shuffled)]
        return State(self.model, self.loss, self.optimiser, self.schedule, *loaders)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, from which `fit(..., resume=path)` goes on as if nothing had been in between."""
        contents = {
            **self.state().take(*FILE),
            "callbacks": {name: state for name, callback in self.callbacks.items() if (state := callback.state_dict())},
            "history": self.history.columns,
            "epoch": self.epoch,
            "stop": self.stop,
            "record": self.record and self.record.state_dict(),
        }
        checkpoint.write(path, {name: value for name, value in contents.items() if value is not None})

    def load(self, path: str | Path) -> None:
        """Go on as a checkpoint says. Raises CheckpointError, before anything is changed, if it does not fit."""
        contents = checkpoint.read(path)
        if "epoch" not in contents:
            raise CheckpointError(f"{path}: holds {', '.join(contents)}, but not where a training was; `train.load` reads it")
        problems = []
        with checkpoint.form_of(path):
            callbacks, history, epoch, stop = (contents[name] for name in ("callbacks", "history", "epoch", "stop"))
            if self.schedule is None and "schedule" in contents:
                problems.append(f"holds a {contents['schedule']['type']}, but no schedule is given")
            if history and [*history] != self.columns:
                problems.append(f"holds a history of {', '.join(history)}, but {', '.join(self.columns)} are measured here")
        state = self.state()
        names = [name for name in FILE if state.parts[name] is not None and (name != "validation" or name in contents)]
        checkpoint.put(path, contents, state, names, problems)
        for name, values in callbacks.items():
            if name in self.callbacks:
                self.callbacks[name].load_state_dict(values)
        self.history.columns, self.epoch, self.stop = history, epoch, stop
        self.row = rows[-1] if (rows := self.history.rows()) else {}
        self.record = None
        if "record" in contents:
            self.record = Record(len(self.loader))
            self.record.load_state_dict(contents["record"])
