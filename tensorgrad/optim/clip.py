"""Gradient clipping, between backward() and step()."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import Array, on, on_gpu
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError
from tensorgrad.optim.agreement import agree
from tensorgrad.optim.arguments import POSITIVE, number, parameters


def clip_grad_norm(params: Any, max_norm: float, error_if_nonfinite: bool = True) -> float | Tensor:
    """Scale all gradients by one factor so that their total Euclidean norm is at most max_norm; returns the norm before
    scaling.

    params     a list of Tensors, one Tensor, or a Module; parameters without a gradient are skipped
    max_norm   above 0; inf only computes the norm

    With several ranks (`tensorgrad.distributed`) it is the norm of the whole batch's gradients.

    Squares neither overflow nor underflow, for any float16, float32 or float64 gradients.

    In a compiled step and on a GPU the result is a 0-d Tensor, to avoid waiting for its value: a norm that is not finite then
    raises no error, but makes the gradients NaN, as with error_if_nonfinite=False.

    Raises ArgumentError (a ValueError) if max_norm is not above 0, if there are no parameters, or if a gradient is not finite.
    """
    max_norm = number("clip_grad_norm", "max_norm", max_norm, POSITIVE, infinite=True)
    with_gradient = params_with_gradient("clip_grad_norm", params)
    if state.trace is not None or any(on_gpu(p._data) for p in with_gradient):
        return _clip_recorded(with_gradient, max_norm)
    grads: list[Array] = [p.grad._data for p in with_gradient]
    top, ratio = norm_of(grads)
    total = top * ratio
    if error_if_nonfinite and not math.isfinite(top):
        raise ArgumentError(f"clip_grad_norm: the norm of the gradients is {top}; find its source with detect_anomaly()")
    if total > max_norm:
        for g in grads:
            with np.errstate(invalid="ignore"):  # infinity times 0
                scale(g, top, ratio, max_norm)
    return total


def params_with_gradient(name: str, params: Any) -> list[Tensor]:
    """The parameters with a gradient. Raises ArgumentError if there are no parameters, or for anything but Tensors."""
    entries = parameters(name, params)
    for i, p in enumerate(entries):
        if not isinstance(p, Tensor):
            raise ArgumentError(f"{name}: params[{i}] must be a Tensor, got {type(p).__name__}")
    with_gradient = [p for p in entries if p.grad is not None]
    if ranks.group is not None:
        if state.trace is not None:
            for p in with_gradient:
                state.trace.writes_grad(p)
        agree(with_gradient)
    return with_gradient


def norm_of(grads: list[Array]) -> tuple[float, float]:
    """The norm as a product of two numbers, because it may overflow as one; NaN or infinite if an element is."""
    squares = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for g in grads:
            wide = g.astype(np.float32) if g.dtype.itemsize < 4 else g
            squares += float(np.vdot(wide, wide))
    is_double = any(g.dtype.itemsize >= 8 for g in grads)
    if (1e-280 if is_double else 1e-20) < squares < math.inf:  # no square that matters has under- or overflowed
        return math.sqrt(squares), 1.0
    top = math.nan if any(np.isnan(g).any() for g in grads) else max((np.abs(g).max(initial=0) for g in grads), default=0)
    top = float(top)
    if not 0 < top < math.inf:
        return top, 1.0
    return top, math.sqrt(sum(float(np.square(g.astype(np.float64) / top).sum()) for g in grads))


def scale(g: Array, top: float, ratio: float, max_norm: float) -> None:
    """Multiply g by max_norm / (top ratio) in place, with factors that fit its dtype; in float32 for half precision."""
    wide = g.astype(np.float32) if g.dtype.itemsize < 4 else g
    factor = max_norm / top / ratio
    if factor > 1e-30 or top == math.inf:
        wide *= factor
    else:
        wide /= top
        wide *= max_norm / ratio
    if wide is not g:
        g[...] = wide


def _clip_recorded(params: list[Tensor], max_norm: float) -> Tensor:
    """clip_grad_norm with recorded operations: the norm of the norms in float64; float32 for half precision."""
    if not params:
        return Tensor(0.0)
    grads = [ops.astype(p.grad, np.float32) if p.grad.dtype.itemsize < 4 else p.grad for p in params]
    by_dtype: dict[Any, list[Tensor]] = {}
    for g in grads:
        by_dtype.setdefault(g.dtype, []).append(ops.reshape(g, (-1,)))
    with np.errstate(over="ignore"):  # where squares overflow, norm scales first
        norms = [ops.astype(ops.norm(ops.concatenate(flat_grads)), np.float64) for flat_grads in by_dtype.values()]
        total: Tensor = norms[0] if len(norms) == 1 else ops.norm(ops.stack(norms))
    if max_norm == math.inf:
        return total
    # two multiplications, because the product of the factors may not fit the dtype
    root_factor = ops.where(total > max_norm, math.sqrt(max_norm) / ops.sqrt(ops.maximum(total, max_norm)), 1.0)
    root_factors = {dtype: ops.astype(root_factor, dtype) for dtype in by_dtype}
    for p, g in zip(params, grads, strict=True):
        p.grad = ops.astype(g * root_factors[g.dtype] * root_factors[g.dtype], p.grad.dtype)
        ranks.averaged.add(p.grad)
    return total


def clip_grad_value(params: Any, limit: float) -> None:
    """Clip every element of every gradient to -limit .. limit.

    params   a list of Tensors, one Tensor, or a Module; parameters without a gradient are skipped
    limit    above 0; inf changes nothing

    Raises ArgumentError (a ValueError) if limit is not above 0, or if there are no parameters.
    """
    limit = number("clip_grad_value", "limit", limit, POSITIVE, infinite=True)
    for p in params_with_gradient("clip_grad_value", params):
        if limit == math.inf:
            continue
        bound = min(limit, float(np.finfo(p.grad.dtype).max))
        if state.trace is not None:
            p.grad = ops.clip(p.grad, -bound, bound)
            ranks.averaged.add(p.grad)
        else:
            with on(p.grad._data):
                np.clip(p.grad._data, -bound, bound, out=p.grad._data)
