"""Gradients kept within bounds, between backward() and step()."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import on, on_gpu
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor


def clip_grad_norm(params: Iterable[Tensor], max_norm: float, error_if_nonfinite: bool = True) -> float | Tensor:
    """Scale all gradients together so that their Euclidean norm is at most max_norm; returns the norm that they had.

    Inside of a compiled step and on a GPU the norm is a 0-d Tensor, whose value is not waited for: one that is not finite is no
    error but makes gradients NaN, as it does with error_if_nonfinite=False.

    Raises ValueError if max_norm is not above 0, or if the norm is not finite.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm: max_norm must be above 0, got {max_norm}")
    reached = [p for p in params if p.grad is not None]
    if state.trace is not None or any(on_gpu(p._data) for p in reached):
        return _clip_recorded(reached, max_norm)
    grads = [p.grad._data for p in reached if p.grad is not None]
    total = math.sqrt(sum(float(np.vdot(g, g)) for g in grads))
    if error_if_nonfinite and not math.isfinite(total):
        raise ValueError(f"clip_grad_norm: the norm of the gradients is {total}; find its source with detect_anomaly()")
    if total > max_norm:
        for g in grads:
            with np.errstate(invalid="ignore"):  # infinity times 0
                g *= max_norm / total
    return total


def _clip_recorded(params: list[Tensor], max_norm: float) -> Tensor:
    squares = [(p.grad * p.grad).sum() for p in params if p.grad is not None]
    total = ops.sqrt(sum(squares[1:], squares[0])) if squares else Tensor(0.0)
    factor = ops.where(total > max_norm, max_norm / ops.maximum(total, max_norm), 1.0)
    for p in params:
        if p.grad is not None:
            p.grad = p.grad * ops.astype(factor, p.dtype)
    return total


def clip_grad_value(params: Iterable[Tensor], limit: float) -> None:
    """Put every element of every gradient between -limit and limit. Raises ValueError if limit is not above 0."""
    if not limit > 0:
        raise ValueError(f"clip_grad_value: limit must be above 0, got {limit}")
    for p in params:
        if p.grad is not None and state.trace is not None:
            p.grad = ops.clip(p.grad, -limit, limit)
        elif p.grad is not None:
            with on(p.grad._data):
                np.clip(p.grad._data, -limit, limit, out=p.grad._data)
