"""Distances between vectors, and losses with a margin. `nn.functional` has them all."""

from __future__ import annotations

import math
from typing import Any

from tensorgrad.core.arguments import axis_in, number, truth
from tensorgrad.core.backend import Array
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import one_box
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.nn.loss import check_reduction, checked_pair, class_weights, half_dtype_of, reduced, rounded
from tensorgrad.ops.activation import relu, softplus
from tensorgrad.ops.compare import equal
from tensorgrad.ops.elementwise import abs, as_narrow, as_wide, maximum, minimum, where
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.loss import as_target, check_labels, one_hot
from tensorgrad.ops.statistics import max as largest
from tensorgrad.ops.statistics import norm

__all__ = [
    "cosine_embedding_loss", "cosine_similarity", "hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss",
    "normalize", "pairwise_distance", "soft_margin_loss", "triplet_margin_loss",
]  # fmt: skip


@one_box
def normalize(x: Operand[T], p: float = 2.0, axis: int = 1, eps: float = 1e-12) -> T | Array:
    """x divided by its p-norm over `axis`; by eps if that is larger.

    Raises ValueError unless p > 0; it may be infinite.
    """
    x = as_operand("normalize", x)
    axis, p, eps = axis_in("normalize", axis, x.ndim), order("normalize", p), number("normalize", "eps", eps)
    wide: Any = as_wide(x)
    return as_narrow(wide / maximum(p_norm(wide, p, axis, True), eps), x)


@one_box
def cosine_similarity(x1: Operand[T], x2: Operand[T], axis: int = 1, eps: float = 1e-8) -> T | Array:
    """y = sum(x1 x2) / (|x1| |x2|) over `axis`: the cosine of the angle between vectors, which broadcast.

    Norms are at least eps, so that y is 0 for a vector of zeros.
    """
    a, b = as_operand("cosine_similarity", x1), as_operand("cosine_similarity", x2)
    axis = axis_in("cosine_similarity", axis, max(a.ndim, b.ndim)) - max(a.ndim, b.ndim)  # counted from the end, valid for both
    half, eps = half_dtype_of(a, b), number("cosine_similarity", "eps", eps)
    return rounded(cosine(as_wide(a), as_wide(b), axis, eps), half)


@one_box
def pairwise_distance(x1: Operand[T], x2: Operand[T], p: float = 2.0, eps: float = 1e-6, keepdims: bool = False) -> T | Array:
    """y = |x1 - x2 + eps|, the p-norm over the last axis, of x1 and x2 (..., d), which broadcast; y (...).

    Raises ValueError unless p > 0; it may be infinite.
    """
    a, b = as_operand("pairwise_distance", x1), as_operand("pairwise_distance", x2)
    if not a.ndim or not b.ndim:
        raise ShapeError(f"{scoped('pairwise_distance')}: expected vectors (..., d), got shapes {a.shape} and {b.shape}")
    p, eps = order("pairwise_distance", p), number("pairwise_distance", "eps", eps)
    keepdims = truth("pairwise_distance", "keepdims", keepdims)
    return rounded(p_norm(as_wide(a) - as_wide(b) + eps, p, -1, keepdims), half_dtype_of(a, b))


@one_box
def triplet_margin_loss(
    anchor: Operand[T],
    positive: Operand[T],
    negative: Operand[T],
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> T | Array:
    """L = max(d(a, p) - d(a, n) + margin, 0), d being the `pairwise_distance`; reduced over all triplets.

    anchor, positive, negative   (..., d), of the same shape
    swap     True for the distance from the positive to the negative in place of d(a, n) where it is smaller

    Raises ShapeError unless all three have the same shape.
    """
    op = "triplet_margin_loss"
    half = half_dtype_of(anchor, positive, negative)
    a, b = checked_pair(op, anchor, positive, reduction)
    _, c = checked_pair(op, anchor, negative, reduction)
    margin, eps, p, swap = number(op, "margin", margin), number(op, "eps", eps), order(op, p), truth(op, "swap", swap)
    near_distance, far_distance = p_norm(a - b + eps, p, -1, False), p_norm(a - c + eps, p, -1, False)
    if swap:
        far_distance = minimum(far_distance, p_norm(b - c + eps, p, -1, False))
    return reduced(relu(near_distance - far_distance + margin), reduction, half=half)


@one_box
def cosine_embedding_loss(
    x1: Operand[T], x2: Operand[T], target: Operand[T], *, margin: float = 0.0, reduction: str = "mean"
) -> T | Array:
    """L = 1 - c where the target is 1, and max(c - margin, 0) where it is -1, c being the cosine of x1 and x2; reduced.

    x1, x2   (..., d), of the same shape; target (...), each 1 or -1

    Raises ShapeError for other shapes.
    """
    op = "cosine_embedding_loss"
    half = half_dtype_of(x1, x2)
    a, b = checked_pair(op, x1, x2, reduction)
    c = cosine(a, b, -1, 1e-8)
    c, sign = checked_pair(op, c, target, reduction)
    return reduced(where(equal(sign, 1), 1 - c, relu(c - number(op, "margin", margin))), reduction, half=half)


@one_box
def margin_ranking_loss(
    x1: Operand[T], x2: Operand[T], target: Operand[T], *, margin: float = 0.0, reduction: str = "mean"
) -> T | Array:
    """L = max(-t (x1 - x2) + margin, 0), element by element, reduced: t is 1 where x1 should be the larger one, -1 where x2.

    Raises ShapeError unless all three have the same shape.
    """
    op = "margin_ranking_loss"
    half = half_dtype_of(x1, x2)
    a, b = checked_pair(op, x1, x2, reduction)
    a, sign = checked_pair(op, a, target, reduction)
    return reduced(relu(sign * (b - a) + number(op, "margin", margin)), reduction, half=half)


@one_box
def hinge_embedding_loss(input: Operand[T], target: Operand[T], *, margin: float = 1.0, reduction: str = "mean") -> T | Array:
    """L = x where the target is 1, and max(margin - x, 0) where it is -1, x being distances; reduced.

    Raises ShapeError unless both have the same shape.
    """
    half = half_dtype_of(input)
    x, sign = checked_pair("hinge_embedding_loss", input, target, reduction)
    margin = number("hinge_embedding_loss", "margin", margin)
    return reduced(where(equal(sign, 1), x, relu(margin - x)), reduction, half=half)


@one_box
def soft_margin_loss(input: Operand[T], target: Operand[T], *, reduction: str = "mean") -> T | Array:
    """L = ln(1 + e^(-t x)), element by element, reduced; t is 1 or -1.

    Raises ShapeError unless both have the same shape.
    """
    half = half_dtype_of(input)
    x, sign = checked_pair("soft_margin_loss", input, target, reduction)
    return reduced(softplus(-(sign * x)), reduction, half=half)


@one_box
def multi_margin_loss(
    input: Operand[T],
    target: Operand[T],
    weight: Operand[Tensor] | None = None,
    *,
    p: int = 1,
    margin: float = 1.0,
    reduction: str = "mean",
) -> T | Array:
    """L_i = w[t_i] / classes sum over k other than t_i of max(margin - x[i, t_i] + x[i, k], 0)^p, reduced over samples.

    input    (..., classes); target (...), class indices
    weight   (classes), the weight of each class
    p        1 or 2

    Raises LabelError for an index out of range, DTypeError or ShapeError for a target that is not one index for each sample.
    """
    op = "multi_margin_loss"
    check_reduction(op, reduction)
    x, labels = as_operand(op, input), as_target(target)
    half, wide = half_dtype_of(x), as_wide(x)
    p, margin = number(op, "p", p), number(op, "margin", margin)
    if p not in (1, 2):
        raise ArgumentError(f"{scoped(op)}: p must be 1 or 2, got {p}")
    if not x.ndim:
        raise ShapeError(f"{scoped(op)}: input has shape (), expected (..., classes)")
    check_labels(op, raw(labels), x.shape[-1], x.shape[:-1])
    is_target = one_hot(labels, x.shape[-1], bool)
    target_score = where(is_target, wide, 0).sum(-1, keepdims=True)
    terms = relu(where(is_target, 0, wide - target_score + margin))
    losses = (terms * terms if p == 2 else terms).sum(-1) * (1 / max(x.shape[-1], 1))
    if (w := class_weights(op, wide, weight)) is not None:
        losses = losses * where(is_target, w, 0).sum(-1)
    return reduced(losses, reduction, half=half)


def cosine(a: Any, b: Any, axis: int, eps: float) -> Any:
    """Each vector is divided by its length first, so that no product overflows."""
    a, b = (x / maximum(norm(x, axis=axis, keepdims=True), eps) for x in (a, b))
    return (a * b).sum(axis)


def p_norm(x: Any, p: float, axis: int, keepdims: bool) -> Any:
    """The p-norm over an axis."""
    if p == 2:
        return norm(x, axis=axis, keepdims=keepdims)
    size = abs(x)
    if p == math.inf:
        return largest(size, axis=axis, keepdims=keepdims)
    return size.sum(axis, keepdims=keepdims) if p == 1 else (size**p).sum(axis, keepdims=keepdims) ** (1 / p)


def order(op: str, p: Any) -> float:
    """The order of a norm."""
    p = number(op, "p", p)
    if not p > 0:
        raise ArgumentError(f"{scoped(op)}: p must be positive, got {p}")
    return float(p)
