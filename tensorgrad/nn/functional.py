"""Losses and layers as functions, by PyTorch's names."""

from __future__ import annotations

import math
from typing import Any

from tensorgrad.errors import ShapeError
from tensorgrad.ops import linear, log_softmax, nll_loss, relu, sigmoid, softmax, tanh
from tensorgrad.ops.loss import as_target
from tensorgrad.tensor import Tensor

__all__ = ["cross_entropy", "linear", "log_softmax", "nll_loss", "relu", "sigmoid", "softmax", "tanh"]


def cross_entropy(logits: Tensor, target: Any) -> Tensor:
    """The mean over samples of the cross-entropy between softmax(logits) and the target, as a 0-d Tensor.

    logits  (..., classes), any real numbers: no softmax before this
    target  class indices (...), integers in 0 .. classes-1; or probabilities (..., classes)

    L = -1/m sum(Y * log softmax(z)) over m samples, Y being the probabilities or one_hot(target).

    Raises LabelError for an index out of range, DTypeError or ShapeError for a target that is neither of the two.
    """
    target = as_target(target)
    logp = log_softmax(logits)
    if target.dtype.kind != "f":
        return nll_loss(logp, target)  # type: ignore[no-any-return]
    if target.shape != logits.shape:
        raise ShapeError(
            f"cross_entropy: probabilities of shape {target.shape} for logits of shape {logits.shape}; "
            f"expected the same shape, or integer class indices of shape {logits.shape[:-1]}"
        )
    return -(target * logp).sum() / max(math.prod(logits.shape[:-1]), 1)  # type: ignore[no-any-return]
