"""Checks and conversions of the arguments of `fit`, `evaluate` and `predict`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.tensor import Tensor
from tensorgrad.data.loader import DataLoader
from tensorgrad.errors import ArgumentError, DataError, ShapeError
from tensorgrad.nn.hidden import described
from tensorgrad.nn.module import Module
from tensorgrad.train.callbacks import Checkpoint, Function
from tensorgrad.train.metrics import Metric
from tensorgrad.train.run import Callback, Run

EVALUATION_BATCH_SIZE = 1024  # batch size of evaluations without a loader

Metrics: TypeAlias = Mapping[str, Metric] | Iterable[Metric] | None


def as_loader(name: str, data: Any, **options: Any) -> Any:
    """`data` as an iterable of batches."""
    if isinstance(data, (tuple, list)):
        data = DataLoader(*data, **options)
    if isinstance(data, DataLoader):
        count = len(data.arrays)
        if count not in (2, 3):
            raise ShapeError(f"train.fit: {name} has {count} arrays, expected X and y, or X, y and weights")
        if count == 3 and data.arrays[2].ndim != 1:
            raise ShapeError(f"train.fit: weights of {name} have shape {data.arrays[2].shape}, expected (samples,)")
    elif not (hasattr(data, "__len__") and hasattr(data, "__iter__")) or isinstance(data, (np.ndarray, Tensor)):
        raise TypeError(f"train.fit: {name} must be a DataLoader or a tuple (X, y), got {type(data).__name__}")
    if not len(data):
        raise DataError(f"train.fit: {name} has no batches")
    return data


def check_model_and_loss(model: Any, loss: Any) -> None:
    """Raise ArgumentError unless the model is a Module and the loss is callable."""
    if not isinstance(model, Module):
        raise ArgumentError(f"train.fit: model must be a Module, got {described(model)}")
    if isinstance(loss, type) or not callable(loss):
        hint = f"; write {loss.__name__}(), with parentheses" if isinstance(loss, type) and issubclass(loss, Module) else ""
        raise ArgumentError(f"train.fit: loss must be a function of (prediction, target), got {described(loss)}{hint}")


def device_of_model(model: Module) -> str:
    """The device of its first parameter."""
    return next((p.device for p in model.parameters()), "cpu")


def named_metrics(metrics: Metrics) -> dict[str, Metric]:
    """A dict of metrics by name."""
    if callable(metrics) or isinstance(metrics, str):
        raise TypeError("train.fit: metrics must be a list of functions, or a dict from name to function")
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    else:
        pairs = [(getattr(metric, "__name__", type(metric).__name__), metric) for metric in metrics or ()]
    for i, (name, metric) in enumerate(pairs):
        if not callable(metric):
            raise TypeError(f"train.fit: metrics: expected functions, got {metric!r}")
        if name in ("epoch", "loss", "lr", "seconds") or name.startswith("val_"):
            raise ValueError(f"train.fit: a metric cannot be named {name!r}: the history has a column with that name")
        if name in dict(pairs[:i]):
            raise ValueError(f"train.fit: two metrics are named {name!r}; pass a dict from name to metric")
    return dict(pairs)


def callback_list(callbacks: Any) -> list[Callback | Callable[[Run], Any]]:
    """A list of callbacks."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"train.fit: callbacks must be a list of callbacks, got {type(callbacks).__name__}")
    entries = list(callbacks)
    for callback in entries:
        if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
            kind = f"the class {callback.__name__}" if isinstance(callback, type) else repr(callback)
            raise TypeError(f"train.fit: callbacks: expected Callbacks and functions of the Run, got {kind}")
    return entries


def as_callbacks(callbacks: Any, checkpoint: str | Path | None) -> dict[str, Callback]:
    """Callbacks in calling order, keyed by class name and count.

    Checkpoints come last, to save what the other callbacks did in the epoch; the last of them writes to `checkpoint`.
    """
    all_callbacks = [c if isinstance(c, Callback) else Function(c) for c in callback_list(callbacks)]
    if checkpoint is not None:
        all_callbacks.append(Checkpoint(checkpoint))
    by_name: dict[str, Callback] = {}
    for callback in sorted(all_callbacks, key=lambda callback: isinstance(callback, Checkpoint)):
        kind = type(callback).__name__
        by_name[f"{kind}.{sum(name.rpartition('.')[0] == kind for name in by_name)}"] = callback
    return by_name


def check_numbers(epochs: Any, l2: float, clip_norm: float | None) -> None:
    """Raise ValueError for invalid numbers."""
    if not isinstance(epochs, (int, np.integer)) or epochs < 0:
        raise ValueError(f"train.fit: epochs must be a non-negative integer, got {epochs!r}")
    if not l2 >= 0:
        raise ValueError(f"train.fit: l2 must be at least 0, got {l2}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"train.fit: clip_norm must be positive, got {clip_norm}")


def columns_of(metrics: Mapping[str, Metric], validation: bool) -> list[str]:
    """The columns of the history."""
    measured = ["loss", *metrics]
    return ["epoch", *measured, *(f"val_{name}" for name in measured if validation), "lr", "seconds"]
