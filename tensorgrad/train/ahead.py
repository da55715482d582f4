"""Ahead: the next batches of an epoch, run together where no code of the user comes in between."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.ranks import ranks
from tensorgrad.data.loader import DataLoader, Epoch, Sparse, rows_of
from tensorgrad.train.record import Record
from tensorgrad.train.run import Run
from tensorgrad.train.steps import Steps

SECONDS = 0.03  # target duration of a call: Ctrl-C and the progress bar wait for it
FIRST = 4  # batches of the first call, while their duration is unknown


class Ahead:
    """Runs batches of a DataLoader without Python in between, where the steps allow it: `steps.batches_per_call` per call."""

    def __init__(self, steps: Steps, loader: DataLoader, epoch: Epoch, record: Record) -> None:
        self.steps, self.loader, self.epoch, self.record = steps, loader, epoch, record
        self.arrays = loader.arrays
        self.handed_over: float | None = None  # when `run` left its batch to Python, if it did so last
        self.steps.batches_per_call = self.steps.batches_per_call or FIRST

    @classmethod
    def of(cls, run: Run, steps: Steps, record: Record) -> Ahead | None:
        """For the current epoch of a run; None if a custom loader makes the batches, or several ranks share them."""
        loader = run.loader
        if steps.compiled is None or ranks.group is not None or not isinstance(loader, DataLoader) or loader.epoch is None:
            return None
        is_standard = all(getattr(type(loader), name) is getattr(DataLoader, name) for name in ("__iter__", "_batches", "part"))
        if not is_standard or loader.device != "cpu" or any(isinstance(array, Sparse) for array in loader.arrays):
            return None
        order = loader.epoch.order
        if order is not None and not is_valid(order, samples_of(loader.arrays)):
            return None
        return cls(steps, loader, loader.epoch, record)

    def run(self, batch: tuple[Array, ...]) -> Iterator[int]:
        """Run `batch`, which the loader has just yielded, and those that follow it; yields the number of batches of each call.
        It yields nothing, and has run nothing, if `batch` needs Python."""
        epoch, size, steps = self.epoch, self.loader.batch_size, self.steps
        compiled = steps.compiled
        if compiled is None or len(batch[0]) != size or self.loader.arrays is not self.arrays:
            return
        handed_over = self.handed_over
        if steps.batches_per_call == 1 < FIRST and handed_over is not None and time.perf_counter() - handed_over < SECONDS / 2:
            steps.batches_per_call = 2  # a call has been slow, but a batch is not: the machine was busy for a moment
        start = first = epoch.position - 1
        while steps.batches_per_call > 1 and (count := min(steps.batches_per_call, self.full_batches() - first)) > 0:
            start_time = time.perf_counter()
            done, results, error = compiled.repeat(batch, self.arrays, epoch.order, size, first, count)
            if done:
                loss, divisor, prediction = results
                targets = [] if prediction is None else [self.targets(i) for i in range(first, first + done)]
                self.record.add_several(done, loss, divisor, prediction, targets)
                first += done
                epoch.position = first
                yield done
            if error is not None:
                epoch.position = first + 1
                raise error
            if not done:
                break
            steps.batches_per_call = (
                int(min(SECONDS * done / (time.perf_counter() - start_time), 2 * steps.batches_per_call + 2)) or 1
            )
        self.handed_over = time.perf_counter() if first == start else None

    def full_batches(self) -> int:
        """How many batches of full size the epoch has: a subclass's length or order may be shorter than the arrays, which may
        have been replaced by shorter ones."""
        order = self.epoch.order
        samples = samples_of(self.arrays) if order is None else order.size
        return min(samples // self.loader.batch_size, len(self.loader))

    def targets(self, position: int) -> Array:
        """The targets of a batch."""
        start, stop = position * self.loader.batch_size, (position + 1) * self.loader.batch_size
        y, order = self.arrays[1], self.epoch.order
        return y[start:stop].copy() if order is None else rows_of(y, order[start:stop])


def samples_of(arrays: tuple[Array, ...]) -> int:
    """How many samples each of the arrays has, at least."""
    return min([int(array.shape[0]) for array in arrays])


def is_valid(order: Array, samples: int) -> bool:
    """Whether machine code can read these indices of samples, and all are in range."""
    is_readable = type(order) is np.ndarray and order.dtype == np.int64 and order.ndim == 1 and order.flags.c_contiguous
    return bool(is_readable and order.size and order.min() >= 0 and order.max() < samples)
