"""Checks of labels and class names for figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.style import plain
from tensorgrad.errors import LabelError, ShapeError


def as_array(value: Any) -> Array:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def as_labels(caller: str, argument: str, labels: Any, count: int | None, names: Sequence[str] | None) -> Array:
    """(n) non-negative integers; each must have a name if there are names."""
    array = as_array(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ShapeError(f"{caller}: {argument} has shape {array.shape} and dtype {array.dtype}, expected class indices (n)")
    if count is not None and len(array) != count:
        raise ShapeError(f"{caller}: {argument} has {len(array)} rows, expected {count}")
    if array.min(initial=0) < 0:
        raise LabelError(f"{caller}: {argument} has class {array.min()}, expected non-negative classes")
    if names is not None and array.max(initial=-1) >= len(names):
        raise LabelError(f"{caller}: {argument} has class {array.max()}, but names has only {len(names)} names")
    return array


def name_of(label: Any, names: Sequence[str] | None) -> str:
    return str(int(label)) if names is None else plain(str(names[int(label)]))
