"""Losses of sequences whose labels are not aligned with their steps. `nn.functional` has them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import integer, truth
from tensorgrad.core.backend import Array, namespace
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import one_box, scoped, state
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn.loss import REDUCTIONS, check_reduction, half_dtype_of, reduced
from tensorgrad.ops.compare import less
from tensorgrad.ops.ctc import ctc, ctc_states
from tensorgrad.ops.elementwise import as_wide, astype, maximum, where
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.loss import as_target
from tensorgrad.ops.rearrange import expand_dims

__all__ = ["ctc_loss"]


@one_box
def ctc_loss(
    log_probs: Operand[T],
    targets: Operand[Tensor],
    input_lengths: Operand[Tensor] | Sequence[int],
    target_lengths: Operand[Tensor] | Sequence[int],
    blank: int = 0,
    *,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> T | Array:
    """Connectionist temporal classification (Graves et al. 2006): L = -ln of the sum over all paths that spell the targets of
    the product of their steps' probabilities. A path has a class at each step; it spells its classes with runs of equal ones
    merged and blanks removed.

    log_probs        (t,n,classes), log-probabilities, such as the result of log_softmax; (t,classes) for one sample
    targets          (n,m) integers, no blanks; sample i has the first target_lengths[i]. Or the labels of all samples
                     concatenated, which a compiled step cannot use
    input_lengths, target_lengths   (n) integers: the number of steps, at most t, and of labels of each sample
    reduction        "mean" of L / target_lengths (at least 1), "sum", or "none" for (n)
    zero_infinity    True for a loss of 0 where no path exists, because there are more labels than steps can spell. By default
                     L is infinite there. The gradient is 0 in both cases

    The gradient is with respect to log_probs. (PyTorch's is with respect to the logits; both agree after log_softmax.)
    Raises LabelError for labels and lengths out of range.
    """
    op = "ctc_loss"
    check_reduction(op, reduction, REDUCTIONS)
    blank, zero_infinity, half = (
        integer(op, "blank", blank),
        truth(op, "zero_infinity", zero_infinity),
        half_dtype_of(log_probs),
    )
    x: Any = as_operand(op, log_probs)
    if x.ndim not in (2, 3):
        raise ShapeError(f"{scoped(op)}: log_probs has shape {x.shape}, expected (t,n,classes), or (t,classes) for one sample")
    if blank >= x.shape[-1]:
        raise ArgumentError(f"{scoped(op)}: blank is out of range for {x.shape[-1]} classes, got {blank}")
    is_single, shape = x.ndim == 2, x.shape
    x = as_wide(expand_dims(x, 1) if is_single else x)
    t, steps, sizes = (as_target(a, op) for a in (targets, input_lengths, target_lengths))
    for name, array in (("targets", t), ("input_lengths", steps), ("target_lengths", sizes)):
        if raw(array).dtype.kind not in "iu" and raw(array).size:
            raise DTypeError(f"{scoped(op)}: {name} must be integers, got {array.dtype} of shape {array.shape}")
    n = x.shape[1]
    t, steps, sizes = (astype(a, np.int64) for a in (t, steps, sizes))
    steps, sizes = (a.reshape((1,)) if is_single and not a.ndim else a for a in (steps, sizes))
    for name, array in (("input_lengths", steps), ("target_lengths", sizes)):
        if array.shape != (n,):
            raise ShapeError(f"{scoped(op)}: {name} has shape {array.shape}, expected ({n},), for log_probs {shape}")
    if t.ndim == 1:
        t = expand_dims(t, 0) if is_single else in_rows(op, t, sizes)
    if t.ndim != 2 or t.shape[0] != n:
        raise ShapeError(f"{scoped(op)}: targets has shape {t.shape}, expected ({n},m) or a flat array of all labels")
    losses: Any = ctc(x, ctc_states(t, sizes, blank=blank, classes=x.shape[-1]), steps, sizes)
    if zero_infinity:
        losses = where(less(losses, np.inf), losses, 0)
    if reduction == "mean":
        losses = losses / astype(maximum(sizes, 1), losses.dtype)
    return reduced(losses[0] if is_single and reduction == "none" else losses, reduction, half=half)


def in_rows(op: str, targets: Any, sizes: Any) -> Any:
    """The concatenated labels of all samples, as one row per sample."""
    if state.trace is not None:
        for a in (targets, sizes):
            if isinstance(a, Tensor):
                state.trace.needs_value(a, "ctc_loss with flat targets, which are split by the values of target_lengths,")
    t, lengths = raw(targets), raw(sizes)
    xp = namespace([t])
    if lengths.size and (lengths.min() < 0 or lengths.sum() != len(t)):
        raise ShapeError(f"{scoped(op)}: {len(t)} targets in a flat array, but target_lengths add up to {lengths.sum()}")
    at = xp.arange(int(lengths.max(initial=0)))
    rows = xp.zeros((len(lengths), len(at)), t.dtype)
    rows[at < lengths[:, None]] = t
    return rows
