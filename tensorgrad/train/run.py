"""Run: a training that is under way, and the base of what is called while it is."""

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
    """Raised by a callback to end the training after this epoch; its text says why."""


class Callback:
    """Base of the callbacks; a subclass defines what it needs. `fit` takes plain functions of the Run too, as `on_epoch_end`.

    Setting `run.stop` to a reason, or raising StopTraining with one, ends the training after this epoch.

    Raises ArgumentError where a subclass is defined with a method `on_...` that is none of these: it would never be called.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        hooks = [name for name in vars(Callback) if name.startswith("on_")]
        for name in dir(cls):
            if name.startswith("on_") and name not in hooks and callable(getattr(cls, name)):
                raise ArgumentError(f"{cls.__name__}.{name} would never be called: the hooks are {', '.join(hooks)}")

    def __repr__(self) -> str:
        """Its settings: the numbers, texts and paths among its public attributes."""
        simple = {
            n: v for n, v in vars(self).items() if not n.startswith("_") and isinstance(v, (int, float, str, Path, type(None)))
        }
        return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in simple.items())})"

    def on_start(self, run: Run) -> None:
        """Before the first epoch; when training is resumed, `run.epoch` have been before."""

    def on_batch_end(self, run: Run) -> None:
        """After the step of a batch, and after that of a schedule that goes by batches: `run.batch` is its number in the epoch,
        from 1, `run.batch_loss` its loss. What is set here, such as `run.optimiser.lr`, holds from the next batch on."""

    def on_epoch_end(self, run: Run) -> None:
        """After an epoch: `run.epoch` is its number, from 1, and `run.row` what was measured."""

    def on_end(self, run: Run) -> None:
        """After the last epoch, or when the training was stopped or interrupted; not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """What is kept in checkpoints: numbers, text, arrays, None, and lists and dicts of them."""
        return {}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on as the callback that `state_dict` was taken from."""

    def misfits(self, values: Any, run: Run) -> list[str]:
        """What keeps the values of a checkpoint from being loaded, in words; asked before anything is changed."""
        return []


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

    @property
    def batch(self) -> int:
        """How many batches of the epoch under way are done; 0 between epochs."""
        return 0 if self.record is None else self.record.done

    @property
    def batch_loss(self) -> float:
        """The loss of the last of them, NaN if there is none. Of a GPU it is waited for."""
        return float(self.record.losses[self.batch - 1]) if self.record is not None and self.batch else math.nan

    def modules(self) -> list[Module]:
        """The parts of the model, and of the loss if it is a module."""
        return modules_of(self.model, self.loss)

    def state(self) -> State:
        """What the training changes, as it is now: `run.state().take(*VALUES)` copies the parameters and buffers."""
        shuffled = self.validation if getattr(self.validation, "shuffle", False) else None
        loaders = [loader if hasattr(loader, "state_dict") else None for loader in (self.loader, shuffled)]
        return State(self.model, self.loss, self.optimiser, self.schedule, *loaders)

    def contents(self) -> dict[str, Any]:
        """What a checkpoint holds."""
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
        """Write a checkpoint, from which `fit(..., resume=path)` goes on as if nothing had been in between."""
        checkpoint.write(path, self.contents())

    def check_for_files(self) -> None:
        """Raise ArgumentError before the first epoch for what cannot be kept in a checkpoint, such as the name of a metric."""
        checkpoint.packed({**self.contents(), "history": dict.fromkeys(self.columns)})

    def load(self, path: str | Path) -> None:
        """Go on as a checkpoint says. Raises CheckpointError, before anything is changed, if it does not fit."""
        self.go_on(path, checkpoint.read(path))

    def go_on(self, path: str | Path, contents: dict[str, Any]) -> None:
        """`load` of what has been read, or of a copy of what `contents` gives."""
        if "epoch" not in contents:
            raise CheckpointError(
                f"{path}: holds {', '.join(contents)}, but not where a training was; `train.load` reads it (epoch is missing)"
            )
        if missing := [name for name in ("callbacks", "history", "stop") if name not in contents]:
            raise CheckpointError(f"{path}: not as tensorgrad writes it: {', '.join(missing)} is missing")
        state = self.state()
        names = [name for name in FILE if state.parts[name] is not None]
        own = {f"callbacks/{name}": callback for name, callback in self.callbacks.items()}
        kept = {f"callbacks/{name}": values for name, values in contents["callbacks"].items()}
        record = Record(len(self.loader))
        problems = [*self.misfits(contents, names, record), *misfits_of_callbacks(own, kept, self)]
        checkpoint.put(path, contents, state, names, problems, {part: (own[part], kept[part]) for part in kept if part in own})
        self.history.columns, self.epoch, self.stop = contents["history"], contents["epoch"], contents["stop"]
        self.row = rows[-1] if (rows := self.history.rows()) else {}
        self.record = None
        if "record" in contents:
            record.load_state_dict(contents["record"])
            self.record = record

    def misfits(self, contents: Mapping[str, Any], names: list[str], record: Record) -> list[str]:
        """What in a checkpoint does not fit this training besides its parts, in words."""
        surplus = [name for name in FILE if name in contents and name not in names]
        kinds = [contents[name].get("type", name) if isinstance(contents[name], Mapping) else name for name in surplus]
        found = [f"holds a {kind}, but no {name} is given" for name, kind in zip(surplus, kinds, strict=True)]
        history, epoch = contents["history"], contents["epoch"]
        if history and [*history] != self.columns:
            found.append(f"holds a history of {', '.join(history)}, but {', '.join(self.columns)} are measured here")
        for name, values in history.items() or [("history", [])]:
            if len(values) != epoch:
                found.append(f"history: {name} has {len(values)} values, but epoch is {epoch}")
            found += problems_of(values, [NUMBER], f"history/{name}")
        if not found and history and history["epoch"] != list(range(1, epoch + 1)):
            found.append(f"history/epoch: {history['epoch']}, expected 1 to {epoch}")
        measured = any(name not in ("epoch", "loss", "lr", "seconds") and not name.startswith("val_") for name in self.columns)
        if "record" in contents:
            found += [f"record: {problem}" for problem in record.misfits(contents["record"], measured)]
        position = contents["loader"].get("position") if isinstance(contents.get("loader"), Mapping) else None
        done = len(contents["record"]["losses"]) if "record" in contents and not found else 0
        if isinstance(position, int) and not found and position != done:
            found.append(f"loader: position is {position}, but the record is of {done} batches")
        return found


def misfits_of_callbacks(own: Mapping[str, Callback], kept: Mapping[str, Any], run: Run) -> list[str]:
    """What keeps callbacks from going on as a checkpoint says, in words."""
    found = [f"holds no {name}, which is given" for name, callback in own.items() if name not in kept and callback.state_dict()]
    found += [f"holds {name}, which is not given" for name in kept if name not in own]
    return found + [f"{name}: {p}" for name in kept if name in own for p in own[name].misfits(kept[name], run)]
