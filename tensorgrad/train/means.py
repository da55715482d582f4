"""The divisor of a loss's mean, to combine losses of batches into the loss of all data.

The losses of this package are known as functions, functools.partial of them, and modules. For other losses each batch is
weighted by its number of samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.location import is_own
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.nn import loss as functions
from tensorgrad.nn.losses import CrossEntropyLoss, Loss, NLLLoss
from tensorgrad.ops.compare import not_equal
from tensorgrad.ops.elementwise import astype, where
from tensorgrad.ops.index import lookup

LOSSES: list[Any] = [getattr(functions, name) for name in functions.__all__]
CLASS_LOSSES: list[Any] = [functions.cross_entropy, functions.nll_loss, ops.nll_loss]  # targets may be class indices


def settings_of(loss: Callable[..., Any]) -> tuple[bool, Mapping[str, Any]] | None:
    """(whether its targets may be class indices, its options) for a loss of this package; else None."""
    if isinstance(loss, Loss):
        is_ours = is_own(type(loss).forward.__module__)
        return (isinstance(loss, (CrossEntropyLoss, NLLLoss)), vars(loss)) if is_ours else None
    options: dict[str, Any] = {}
    while isinstance(loss, functools.partial) and not loss.args:
        options = {**loss.keywords, **options}
        loss = loss.func
    is_of_classes = any(loss is function for function in CLASS_LOSSES)
    return (is_of_classes, options) if is_of_classes or any(loss is function for function in LOSSES) else None


def reduction_of(loss: Callable[..., Any]) -> str:
    """The reduction of a loss: "mean", "sum", or "batchmean"."""
    settings = settings_of(loss)
    return str((settings[1] if settings else vars(loss) if isinstance(loss, Loss) else {}).get("reduction", "mean"))


def divisor(loss: Callable[..., Any], prediction: Any, y: Tensor) -> Any:
    """The divisor of the loss of a batch: a number or a 0-d Tensor; None for a sum."""
    reduction = reduction_of(loss)
    if reduction == "sum":
        return None
    settings = settings_of(loss)
    if settings is None:
        return len(y)
    if reduction == "batchmean":
        return prediction.shape[0] if prediction.ndim else 1
    if not settings[0]:
        return prediction.size
    counts = counts_of(loss, prediction, y)
    return math.prod(prediction.shape[:-1]) if counts is None else counts.sum()


def counts_of(loss: Callable[..., Any], prediction: Any, y: Tensor) -> Any:
    """The weight of each label in the mean, shaped like y; None if all are 1, or if there are no labels."""
    settings = settings_of(loss)
    if settings is None or not settings[0] or y.dtype.kind not in "iu":
        return None
    weight, ignored = settings[1].get("weight"), settings[1].get("ignore_index")
    keep = None if ignored is None else not_equal(y, ignored)
    dtype = count_dtype(prediction.dtype)
    if weight is None:
        return None if keep is None else astype(keep, dtype)
    class_weights = astype(functions.class_weights("train", prediction, weight), dtype)
    counts = lookup(
        class_weights if isinstance(class_weights, Tensor) else wrap(class_weights, None),
        y if keep is None else where(keep, y, 0),
    )
    return counts if keep is None else where(keep, counts, 0)


def count_dtype(dtype: Any) -> Any:
    """The dtype of counts: that of the loss, but float32 for half precision."""
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
