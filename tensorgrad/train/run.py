"""Run: a training that is under way, and all that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, copy, like, namespace, on, put
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CheckpointError
from tensorgrad.nn.module import Module
from tensorgrad.ops import random
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedules import Schedule
from tensorgrad.train import checkpoint
from tensorgrad.train.history import History


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


class Mark(NamedTuple):
    """What steps change, as it was.

    arrays    the optimiser's, each with a copy
    steps     its count
    buffers   of each module, by name: copies
    """

    arrays: list[tuple[Array, Array]]
    steps: int
    buffers: list[tuple[Module, dict[str, Array]]]
    generators: list[tuple[np.random.Generator, Any]]
    place: dict[str, Any] | None


class Run:
    """A training under way, as callbacks see it.

    model, loss, optimiser, schedule, loader, validation   what `fit` was given, the data as loaders
    callbacks   by name, in their order
    epochs      how many there are to be in all
    epoch       how many have ended
    row         what was measured in the last one, as it stands in the history
    history     the History of all
    stop        why the training is to end now, set by a callback; "" if it is not
    record      what the steps of the epoch under way have given; None between epochs
    batches     the loop over the loader in the epoch under way
    columns     the names of what `fit` measures in each epoch
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
    ) -> None:
        self.model, self.loss, self.optimiser, self.schedule = model, loss, optimiser, schedule
        self.loader, self.validation, self.callbacks, self.epochs = loader, validation, callbacks, epochs
        self.epoch = 0
        self.row: dict[str, Any] = {}
        self.history = History()
        self.stop = ""
        self.record: Record | None = None
        self.batches: Iterator[Any] | None = None
        self.columns: list[str] = []

    # What a step depends on, and what it changes

    def modules(self) -> Iterator[Module]:
        """The parts of the model, and of the loss if it is a module."""
        for whole in self.wholes():
            yield from (module for _, module in whole.named_modules())

    def settings(self, modules: list[Module]) -> list[Any]:
        """What a compiled step takes for constants: which parameters are trained, and the numbers that modules have."""
        found: list[Any] = [(id(p), p.requires_grad) for p in self.optimiser.params]
        for module in modules:
            found.append((id(module), [item for item in vars(module).items() if isinstance(item[1], (int, float, str))]))
        return found

    def mark(self, modules: list[Module]) -> Mark:
        """What steps change from here on, copied, so that `back` can undo them."""
        buffers = [(module, {name: copy(array) for name, array in module._buffers.items()}) for module in modules]
        place = self.loader.state_dict() if hasattr(self.loader, "state_dict") else None
        states = [(rng, random.state_of(rng)) for rng in generators(modules)]
        arrays = [(array, copy(array)) for array in self.optimiser.arrays()]
        return Mark(arrays, self.optimiser.steps, buffers, states, place)

    def back(self, mark: Mark) -> None:
        """Undo what steps have changed since the mark was made, and the loop over the loader."""
        buffers = [(module._buffers[name], before) for module, found in mark.buffers for name, before in found.items()]
        for array, before in (*mark.arrays, *buffers):
            put(array, before)
            writes.wrote(array)
        self.optimiser.steps, self.batches = mark.steps, None
        for rng, state in mark.generators:
            random.set_state(rng, state)
        if mark.place is not None:
            self.loader.load_state_dict(mark.place)

    def wholes(self) -> list[Module]:
        """The model, and the loss if it is a module."""
        return [part for part in (self.model, self.loss) if isinstance(part, Module)]

    def others(self) -> dict[str, Tensor]:
        """The parameters of the optimiser that are in neither, by their number in it."""
        found = {id(p) for whole in self.wholes() for p in whole.parameters()}
        return {str(i): p for i, p in enumerate(self.optimiser.params) if id(p) not in found}

    def arrays(self) -> list[Array]:
        """The parameters and buffers that are floating."""
        found = [p.data for whole in self.wholes() for p in whole.parameters()] + [p.data for p in self.others().values()]
        found += [b for whole in self.wholes() for _, b in whole.named_buffers()]
        return [array for array in found if array.dtype.kind == "f"]

    def values(self) -> dict[str, dict[str, Array]]:
        """The parameters and buffers, copied."""
        return {
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict() if isinstance(self.loss, Module) else {},
            "others": {name: copy(p.data) for name, p in self.others().items()},
        }

    def set_values(self, values: Mapping[str, Mapping[str, Array]]) -> None:
        """Put back what `values` has copied."""
        self.model.load_state_dict(values["model"])
        if isinstance(self.loss, Module):
            self.loss.load_state_dict(values["loss"])
        for name, p in self.others().items():
            put(p.data, values["others"][name])
            writes.wrote(p.data)

    def capture(self) -> dict[str, Any]:
        """All that a step changes, copied."""
        return {
            **self.values(),
            "optimiser": checkpoint.described(self.optimiser),
            "generators": [random.state_of(rng) for rng in generators(self.modules())],
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Put back what `capture` has copied."""
        self.set_values(values)
        checkpoint.restore(self.optimiser, values["optimiser"])
        for rng, state in zip(generators(self.modules()), values["generators"], strict=True):
            random.set_state(rng, state)

    # Checkpoints

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, from which `fit(..., resume=path)` goes on as if nothing had been in between."""
        callbacks = {name: state for name, callback in self.callbacks.items() if (state := callback.state_dict())}
        loaders = {"loader": self.loader}
        if getattr(self.validation, "shuffle", False):
            loaders["validation"] = self.validation
        contents = {
            **self.capture(),
            "schedule": self.schedule and checkpoint.described(self.schedule),
            **{name: loader.state_dict() for name, loader in loaders.items() if hasattr(loader, "state_dict")},
            "callbacks": callbacks,
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
        with checkpoint.form_of(path):
            now = self.values()
            problems = checkpoint.misfits(contents["loss"], now["loss"]) + checkpoint.misfits(contents["others"], now["others"])
            if (found := contents.get("schedule")) and self.schedule is None:
                problems.append(f"holds a {found['type']}, but no schedule is given")
            kinds = [state["generator"]["bit_generator"] for state in contents["generators"]]
            own = [type(rng.bit_generator).__name__ for rng in generators(self.modules())]
            if kinds != own:
                problems.append(f"holds generators {kinds}, the model has {own}")
            if self.columns and contents["history"] and [*contents["history"]] != self.columns:
                problems.append(
                    f"holds a history of {', '.join(contents['history'])}, but {', '.join(self.columns)} are measured here"
                )
        if problems:
            raise CheckpointError(f"{path}: does not fit: {'; '.join(problems)}")
        parts = {"model": self.model, "optimiser": self.optimiser, "schedule": self.schedule, "loader": self.loader}
        if "validation" in contents and getattr(self.validation, "shuffle", False):
            parts["validation"] = self.validation
        checkpoint.apply(path, contents, **parts)
        self.restore(contents)  # the loss and the generators, too
        for name, state in contents["callbacks"].items():
            if name in self.callbacks:
                self.callbacks[name].load_state_dict(state)
        self.history.columns = contents["history"]
        self.epoch, self.stop = contents["epoch"], contents["stop"]
        self.row = rows[-1] if (rows := self.history.rows()) else {}
        self.record = None if "record" not in contents else Record.of(len(self.loader), contents["record"])


class Record:
    """What the steps of an epoch have given so far, left on the device that it was computed on.

    losses, counts   the loss of each batch, and how many samples it is the mean of (the sum of their weights)
    done             batches
    seconds          that were spent on it before an interruption
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.losses: Array = None
        self.counts: Array = None
        self.done = 0
        self.predictions: list[Array] = []
        self.targets: list[Array] = []
        self.seconds = 0.0

    def add(self, loss: Tensor, count: Any, prediction: Tensor | None, target: Array) -> None:
        """A batch. The prediction is kept for the metrics, if it is given."""
        if self.done == self.batches:
            raise ValueError(f"train: the loader gives more than the {self.batches} batches that its length says")
        with on(loss.data):
            if self.losses is None:
                xp = namespace([loss.data])
                self.losses, self.counts = xp.empty(self.batches, loss.dtype), xp.empty(self.batches, np.float64)
            # those of an epoch that goes on from a checkpoint are in main memory
            self.losses, self.counts = like(self.losses, loss.data), like(self.counts, loss.data)
            self.losses[self.done] = loss.data
            self.counts[self.done] = count.data if isinstance(count, Tensor) else count  # a Tensor would be waited for
        self.done += 1
        if prediction is not None:
            self.predictions.append(prediction.data)
            self.targets.append(target)

    def first_not_finite(self) -> int | None:
        """The first batch whose loss is not finite, if there is one."""
        losses = self.host(self.losses)
        return None if np.isfinite(losses).all() else int(np.argmin(np.isfinite(losses)))

    def row(self, metrics: Mapping[str, Callable[[Any, Any], float]]) -> dict[str, float]:
        """The mean loss of the samples, and the metrics."""
        losses, counts = self.host(self.losses).astype(np.float64), self.host(self.counts)
        total = counts.sum()
        row = {"loss": float((losses * counts).sum() / total) if total else float("nan")}
        if metrics:
            (predictions,), (targets,) = joined(self.predictions), joined(self.targets)
            for name, metric in metrics.items():
                value = metric(predictions, targets)
                if np.ndim(value):
                    raise TypeError(f"train: metric {name} gave an array of shape {np.shape(value)}, expected a number")
                row[name] = float(value)
        return row

    def host(self, values: Array) -> Array:
        return np.empty(0) if values is None else whole(values[: self.done])

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": self.host(self.losses),
            "counts": self.host(self.counts),
            "predictions": joined(self.predictions),
            "targets": joined(self.targets),
            "seconds": self.seconds,
        }

    @classmethod
    def of(cls, batches: int, values: Mapping[str, Any]) -> Record:
        """As it was when `state_dict` was taken from it."""
        record = cls(batches)
        record.done = len(values["losses"])
        if record.done:
            record.losses, record.counts = np.empty(batches, values["losses"].dtype), np.empty(batches, np.float64)
            record.losses[: record.done], record.counts[: record.done] = values["losses"], values["counts"]
        record.predictions, record.targets = list(values["predictions"]), list(values["targets"])
        record.seconds = values["seconds"]
        return record


def generators(modules: Iterable[Module]) -> list[np.random.Generator]:
    """What random numbers are drawn from: the one of dropout, and those that modules have of their own."""
    own = [value for module in modules for value in vars(module).values() if isinstance(value, np.random.Generator)]
    return [random.default(), *own]


def whole(array: Array) -> Array:
    """An array in main memory."""
    return wrap(array, None).numpy()


def joined(batches: list[Array]) -> list[Array]:
    """Arrays of several batches as one, in main memory; none if there are none."""
    return [np.concatenate([whole(a) for a in batches])] if batches else []
