"""Record: the results of the steps of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, copy, is_array, like, move, namespace, on
from tensorgrad.core.form import ARRAY, FLOAT64_ARRAY, FLOAT_ARRAY, NUMBER, described, problems
from tensorgrad.core.ranks import ranks
from tensorgrad.core.tensor import Tensor

FORM = {"losses": FLOAT_ARRAY, "counts": FLOAT64_ARRAY, "predictions": [ARRAY], "targets": [ARRAY], "seconds": NUMBER}


class Record:
    """The results of the steps of an epoch, left on their device.

    batches          total number of batches
    losses, counts   the loss of each batch and the divisor of its mean (number of samples, sum of weights); NaN for a sum
    done             number of batches so far
    seconds          time spent on them before an interruption
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
        """Add a batch. Prediction and target are kept for the metrics if a prediction is given."""
        if self.done == self.batches:
            raise ValueError(f"train: the loader yields more than {self.batches} batches, its length")
        self.add_losses(loss, count, 1)
        if prediction is not None:
            # copies, because a loader may reuse its arrays
            self.predictions.append(prediction._data if prediction._data.base is None else copy(prediction._data))
            self.targets.append(copy(target) if is_array(target) else target)

    def add_several(self, number: int, loss: Tensor, count: Any, prediction: Tensor | None, targets: list[Array]) -> None:
        """Add batches: their losses, and if they are Tensors their counts and predictions, along a first axis."""
        self.add_losses(loss, count, number)
        if prediction is not None:
            self.predictions += [copy(array) for array in prediction._data]
            self.targets += targets

    def add_losses(self, loss: Tensor, count: Any, number: int) -> None:
        """Add the losses and the counts of some batches."""
        with on(loss._data):
            if self.losses is None:
                xp = namespace([loss._data])
                self.losses, self.counts = xp.empty(self.batches, loss.dtype), xp.empty(self.batches, np.float64)
            # after a resume, those from the checkpoint are in main memory
            self.losses, self.counts = like(self.losses, loss._data), like(self.counts, loss._data)
            positions = slice(self.done, self.done + number)
            self.losses[positions] = loss._data
            count = np.nan if count is None else count
            self.counts[positions] = count._data if isinstance(count, Tensor) else count  # a Tensor would wait for the GPU
        self.done += number

    def first_not_finite(self) -> int | None:
        """The first batch with a loss that is not finite, or None."""
        losses = self.completed(self.losses)
        return None if np.isfinite(losses).all() else int(np.argmin(np.isfinite(losses)))

    def row(self, metrics: Mapping[str, Callable[[Any, Any], float]]) -> dict[str, float]:
        """The loss of all samples, and the metrics."""
        losses, counts = self.completed(self.losses).astype(np.float64), self.completed(self.counts)
        total = counts.sum()
        if np.isnan(total):
            row = {"loss": float(losses.sum())}
        else:
            row = {"loss": float((losses * counts).sum() / total) if total else 0.0 if len(losses) else float("nan")}
        if metrics:
            (predictions,), (targets,) = self.gathered(self.predictions), self.gathered(self.targets)
            for name, metric in metrics.items():
                value = metric(predictions, targets)
                if np.ndim(value):
                    raise TypeError(f"train: metric {name} returned an array of shape {np.shape(value)}, expected a number")
                row[name] = float(value)
        return row

    def gathered(self, batches: list[Array]) -> list[Array]:
        """Concatenate arrays of batches in main memory; with several ranks those of all, in the order of the samples."""
        if ranks.group is None:
            return concatenated(batches)
        parts = ranks.all_gather([as_numpy(a) for a in batches])
        return concatenated([part for batch in zip(*parts, strict=True) for part in batch])

    def completed(self, values: Array) -> Array:
        """The entries of the batches so far, in main memory."""
        return np.empty(0) if values is None else as_numpy(values[: self.done])

    def state_dict(self) -> dict[str, Any]:
        """The state for checkpoints."""
        return {
            "losses": self.completed(self.losses),
            "counts": self.completed(self.counts),
            "predictions": self.gathered(self.predictions),
            "targets": self.gathered(self.targets),
            "seconds": self.seconds,
        }

    def misfits(self, values: Any, measured: bool) -> list[str]:
        """The reasons why a state_dict cannot be loaded. measured: whether there are metrics, which need predictions."""
        if reasons := problems(values, FORM):
            return reasons
        for name in ("losses", "counts"):
            if values[name].ndim != 1 or len(values[name]) > self.batches:
                reasons.append(f"{name} is {described(values[name])}, expected at most {self.batches} numbers")
        if not reasons and len(values["losses"]) != len(values["counts"]):
            reasons.append(f"losses of {len(values['losses'])} batches, but counts of {len(values['counts'])}")
        for name in ("predictions", "targets"):
            if len(values[name]) != (1 if measured else 0):
                reasons.append(f"{name} is a list of {len(values[name])} arrays, expected {1 if measured else 0}")
        return reasons

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore the state from a dict of `state_dict`."""
        self.done = len(values["losses"])
        if self.done:
            self.losses, self.counts = np.empty(self.batches, values["losses"].dtype), np.empty(self.batches, np.float64)
            self.losses[: self.done], self.counts[: self.done] = values["losses"], values["counts"]
        self.predictions, self.targets = (
            [a if ranks.is_first else a[:0] for a in values[name]] for name in ("predictions", "targets")
        )
        self.seconds = values["seconds"]


def as_numpy(array: Array) -> Array:
    """An array in main memory."""
    return move(array, "cpu")


def concatenated(batches: list[Array]) -> list[Array]:
    """Concatenate arrays of batches in main memory; an empty list if there are none."""
    return [np.concatenate([as_numpy(a) for a in batches])] if batches else []
