"""Losses as functions. `nn.functional` has them all under the same names.

Every loss takes `reduction`: "mean", "sum" or "none" (the loss of each element or sample). Prediction and target must have
the same shape; they do not broadcast, because a loss between (n, 1) and (n,) is always a mistake.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.arguments import integer, number
from tensorgrad.core.arithmetic import narrowest
from tensorgrad.core.backend import Array, asarray, is_floating, namespace
from tensorgrad.core.location import line_of, user_location, warn
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import describe, one_box, state
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import ArgumentError, GraphError, ShapeError
from tensorgrad.ops.activation import log_complement_sigmoid, logsigmoid
from tensorgrad.ops.clip import clip
from tensorgrad.ops.compare import equal, greater, not_equal
from tensorgrad.ops.elementwise import abs, as_narrow, as_wide, astype, mul_grad, where
from tensorgrad.ops.exponential import log
from tensorgrad.ops.index import of_lists
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.loss import as_target, check_labels, log_softmax, one_hot, softmax

__all__ = [
    "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "kl_div", "l1_loss", "mse_loss", "nll_loss",
]  # fmt: skip

REDUCTIONS = ("mean", "sum", "none")


@one_box
def cross_entropy(
    logits: Operand[T],
    target: Operand[T],
    weight: Operand[Tensor] | None = None,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> T | Array:
    """The cross-entropy between softmax(logits) and the target, by default its mean over samples as a 0-d Tensor.

    logits   (..., classes), any real numbers: do not apply softmax first. The classes are the last axis. For PyTorch's layout
             (n, classes, d) use logits.moveaxis(1, -1); if classes = d the mistake cannot be detected
    target   class indices (...), integers in 0 .. classes-1; or probabilities (..., classes)
    weight   (classes), the weight of each class
    ignore_index      samples with this label are ignored (default: none; PyTorch's default is -100)
    label_smoothing   e: the target becomes (1 - e) Y + e / classes

    L_i = -sum(w * Y_i * log softmax(z_i)), Y being the probabilities or one_hot(target). The mean divides the sum by the number
    of samples; for class indices by the sum of w[target] over the samples that are not ignored. It is 0 for no samples.

    Raises LabelError for an index out of range, DTypeError or ShapeError for a target that is neither of the two.
    """
    check_reduction("cross_entropy", reduction)
    label_smoothing = number("cross_entropy", "label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"{scoped('cross_entropy')}: label_smoothing must be between 0 and 1, got {label_smoothing}")
    scores: Any = as_operand("cross_entropy", logits)
    target = as_target(target)
    warn_of_softmax(scores)
    logp: Any = log_softmax(as_wide(scores))
    if not is_floating(target.dtype) and not label_smoothing:
        loss = nll_loss(logp, target, weight, ignore_index=ignore_index, reduction=reduction)
        return loss if logp.dtype == scores.dtype else as_narrow(loss, scores)
    half = half_dtype_of(scores, target) if is_floating(target.dtype) else half_dtype_of(scores)
    classes = scores.shape[-1]
    if not is_floating(target.dtype):
        hot, keep, _, total = samples("cross_entropy", logp, target, weight, ignore_index)
        y = where(hot, namespace([raw(logp)]).ones((), logp.dtype), 0)
    else:
        if target.shape != scores.shape:
            raise ShapeError(
                f"{scoped('cross_entropy')}: probabilities of shape {target.shape} for logits of shape {scores.shape}; "
                f"expected the same shape, or integer class indices of shape {scores.shape[:-1]}{of_lists(target)}"
            )
        if ignore_index is not None:
            raise ArgumentError(f"{scoped('cross_entropy')}: ignore_index needs class indices, but the target is probabilities")
        y, keep = as_wide(target), None
        total = max(math.prod(scores.shape[:-1]), 1)
    if label_smoothing:
        y = y * (1 - label_smoothing) + label_smoothing / classes
    if (w := class_weights("cross_entropy", logp, weight)) is not None:
        y = y * w
    if reduction == "mean" and keep is None:
        # the form that fusion matches; a probability of 0 contributes 0, even for a logit of -inf
        return rounded(-mul_grad(y, logp).sum() / total, half)
    losses = -mul_grad(y, logp).sum(-1)
    return reduced(losses if keep is None else where(keep, losses, 0), reduction, total, half=half)


@one_box
def nll_loss(
    logp: Operand[T],
    target: Operand[T],
    weight: Operand[Tensor] | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> T | Array:
    """The negative log-probability of the right class, L_i = -w[t_i] logp[i, t_i], by default its mean over samples.

    logp     (..., classes), log-probabilities, such as the result of log_softmax
    target   class indices (...), integers in 0 .. classes-1
    weight   (classes), the weight of each class
    ignore_index   samples with this label are ignored

    The mean divides the sum by that of w[target] over the samples that are not ignored. It is 0 for no samples.

    Raises LabelError for an index out of range, DTypeError or ShapeError for a target that is not one index for each sample.
    """
    check_reduction("nll_loss", reduction)
    logp = as_operand("nll_loss", logp)
    if weight is None and ignore_index is None and reduction == "mean":
        return ops.nll_loss(logp, target)
    half, logp = half_dtype_of(logp), as_wide(logp)
    hot, keep, counts, total = samples("nll_loss", logp, as_target(target), weight, ignore_index)
    losses = -where(hot, logp, 0).sum(-1)
    if counts is not None:
        losses = mul_grad(counts, losses)
    return reduced(losses if keep is None else where(keep, losses, 0), reduction, total, half=half)


@one_box
def mse_loss(input: Operand[T], target: Operand[T], *, reduction: str = "mean") -> T | Array:
    """L = (input - target)², element by element, reduced; the mean of no elements is NaN.

    backward   ginput = 2 g (input - target),   gtarget = -ginput,   g being that of each element

    Raises ShapeError unless both have the same shape.
    """
    half = half_dtype_of(input, target)
    input, target = checked_pair("mse_loss", input, target, reduction)
    d = input - target
    return reduced(d * d, reduction, half=half)


@one_box
def l1_loss(input: Operand[T], target: Operand[T], *, reduction: str = "mean") -> T | Array:
    """L = |input - target|, element by element, reduced; at 0 the derivative is taken as 0.

    Raises ShapeError unless both have the same shape.
    """
    half = half_dtype_of(input, target)
    input, target = checked_pair("l1_loss", input, target, reduction)
    return reduced(abs(input - target), reduction, half=half)


@one_box
def huber_loss(input: Operand[T], target: Operand[T], *, delta: float = 1.0, reduction: str = "mean") -> T | Array:
    """L = d²/2 where |d| <= delta, and delta (|d| - delta/2) beyond, for d = input - target; reduced.

    Raises ShapeError unless both have the same shape, ValueError unless delta > 0.
    """
    half = half_dtype_of(input, target)
    input, target = checked_pair("huber_loss", input, target, reduction)
    delta = number("huber_loss", "delta", delta)
    if not delta > 0:
        raise ArgumentError(f"{scoped('huber_loss')}: delta must be positive, got {delta}")
    d = input - target
    clipped = clip(d, -delta, delta)
    return reduced(clipped * (d - 0.5 * clipped), reduction, half=half)


@one_box
def kl_div(logp: Operand[T], target: Operand[T], *, reduction: str = "mean") -> T | Array:
    """The Kullback-Leibler divergence of the distribution e^logp from the target, L = t (ln t - logp), element by element.

    logp     log-probabilities, such as the result of log_softmax
    target   probabilities t, of the same shape; where t is 0, L is 0 for any logp

    As in PyTorch, "mean" divides by the number of elements; "batchmean" divides by the size of axis 0, which gives the
    divergence itself.

    Raises ShapeError unless both have the same shape.
    """
    half = half_dtype_of(logp, target)
    logp, target = checked_pair("kl_div", logp, target, reduction, (*REDUCTIONS, "batchmean"))
    is_positive = greater(target, 0)
    losses = target * (log(where(is_positive, target, 1)) - where(is_positive, logp, 0))
    if reduction == "batchmean":
        return rounded(losses.sum() / max(losses.shape[0] if losses.ndim else 1, 1), half)
    return reduced(losses, reduction, half=half)


@one_box
def binary_cross_entropy_with_logits(
    logits: Operand[T],
    target: Operand[T],
    weight: Operand[T] | None = None,
    *,
    pos_weight: Operand[T] | None = None,
    reduction: str = "mean",
) -> T | Array:
    """L = -w (p t ln σ(z) + (1 - t) ln(1 - σ(z))), element by element, reduced; σ(z) = 1 / (1 + e^-z).

    logits       z, any real numbers: do not apply sigmoid first
    target       t, probabilities of the same shape
    weight       w, the weight of each element; pos_weight  p, the weight of its positive side. Both broadcast to the logits

    No overflow or cancellation for any z: ln σ(z) = -softplus(-z) and ln(1 - σ(z)) = -softplus(z). The gradient of the mean is
    (σ(z) - t) / m.

    Raises ShapeError unless logits and target have the same shape.
    """
    half = half_dtype_of(logits, target)
    logits, target = checked_pair("binary_cross_entropy_with_logits", logits, target, reduction)
    for name, value in (("weight", weight), ("pos_weight", pos_weight)):
        shape = np.shape(raw(value)) if value is not None else ()
        broadcasts = all(n in (1, m) for n, m in zip(shape[::-1], logits.shape[::-1], strict=False))
        if len(shape) > logits.ndim or not broadcasts:
            at = scoped("binary_cross_entropy_with_logits")
            raise ShapeError(f"{at}: {name} of shape {shape} does not broadcast to the logits {logits.shape}")
    pos_weight = pos_weight.item() if isinstance(pos_weight, np.generic) else pos_weight
    positive = target if pos_weight is None else target * pos_weight
    losses = -(mul_grad(positive, logsigmoid(logits)) + mul_grad(1 - target, log_complement_sigmoid(logits)))
    return reduced(losses if weight is None else mul_grad(weight, losses), reduction, half=half)


def check_reduction(op: str, reduction: str, choices: tuple[str, ...] = REDUCTIONS) -> None:
    if not isinstance(reduction, str) or reduction not in choices:
        raise ArgumentError(f"{scoped(op)}: reduction must be one of {', '.join(choices)}, got {describe(reduction)}")


def reduced(losses: Any, reduction: str, count: Any = None, *, half: Any = None) -> Any:
    """Reduce `losses`, and round to the dtype `half`; the mean is their sum over `count` if given."""
    if reduction == "none":
        return rounded(losses, half)
    if reduction == "sum" or count is not None:
        return rounded(losses.sum() if reduction == "sum" else losses.sum() / count, half)
    return rounded(losses.mean(), half)


def half_dtype_of(*operands: Any) -> Any:
    """The half precision of the loss if all operands have it; else None."""
    dtypes = [getattr(x, "dtype", None) for x in operands]  # arrays of other libraries too, which have dtypes of their own
    return narrowest([dtype if isinstance(dtype, np.dtype) else np.dtype(np.float32) for dtype in dtypes])


def rounded(loss: Any, half: Any) -> Any:
    """Round a loss to half precision if all operands have it; it is computed in float32."""
    return loss if half is None or loss.dtype != np.float32 else astype(loss, half)


def checked_pair(
    op: str, input: Operand[T], target: Operand[T], reduction: str, choices: tuple[str, ...] = REDUCTIONS
) -> tuple[T | Array, T | Array]:
    """Both as real arrays or Tensors of the same shape.

    Integers and booleans become floating and half precision float32: a difference of uint8 or a square of float16 may overflow.
    """
    check_reduction(op, reduction, choices)
    input, target = as_operand(op, input), as_operand(op, target)
    if input.shape != target.shape:
        same_size = input.size == target.size
        hint = f"reshape one of them, for example target.reshape({input.shape})" if same_size else "expected the same shape"
        raise ShapeError(f"{scoped(op)}: input {input.shape} and target {target.shape} must have the same shape; {hint}")
    return as_wide(input), as_wide(target)


def samples(op: str, logp: Any, target: Any, weight: Any, ignore_index: int | None) -> tuple[Any, Any, Any, Any]:
    """Class indices as operands, computed with ops to be recorded with everything else:

    [t = k] for each sample and class; [sample is not ignored], or None; the weight of each sample, or None; the sum of those
    """
    keep = None
    ignore_index = None if ignore_index is None else integer(op, "ignore_index", ignore_index)
    if ignore_index is not None and target.dtype.kind in "iu":
        keep = not_equal(target, ignore_index)
        target = where(keep, target, 0)
    check_labels(op, raw(target), logp.shape[-1], logp.shape[:-1])
    one_hot_mask = one_hot(target, logp.shape[-1], bool)
    w = class_weights(op, logp, weight)
    if w is None and keep is None:
        return one_hot_mask, None, None, max(math.prod(target.shape), 1)
    counts = namespace([raw(logp)]).ones(target.shape, logp.dtype) if w is None else where(one_hot_mask, w, 0).sum(-1)
    total = (counts if keep is None else where(keep, counts, 0)).sum()
    return one_hot_mask, keep, None if w is None else counts, where(equal(total, 0), 1, total)


def class_weights(op: str, logp: Any, weight: Any) -> Any:
    """`weight` in the dtype of logp. Must have one number per class."""
    if weight is None:
        return None
    if isinstance(weight, Tensor) and weight.requires_grad:
        raise GraphError(f"{scoped(op)}: weight is data and has no gradient, but it requires one; .detach() it")
    w = weight if isinstance(weight, Tensor) else asarray(weight, where=scoped(op))
    if state.trace is not None and not isinstance(w, Tensor):
        w = wrap(w, None)  # recorded, so that a replay reads the current values
    if w.shape != logp.shape[-1:]:
        raise ShapeError(f"{scoped(op)}: weight has shape {w.shape}, expected {logp.shape[-1:]}: one per class")
    return w if w.dtype == logp.dtype else astype(w, logp.dtype)


def warn_of_softmax(logits: Any) -> None:
    """Warn, once for each line, about probabilities passed as logits: such a model trains badly."""
    node = getattr(logits, "node", None)
    if node is not None and node.op is softmax:
        warn(
            f"{scoped('cross_entropy')} at {line_of(user_location())}: the logits are the result of softmax at {node.line}; "
            f"cross_entropy applies softmax itself, pass the input of that softmax"
        )
