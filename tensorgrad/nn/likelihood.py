"""Elementwise losses from likelihoods. `nn.functional` has them all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad.core.arguments import number, truth
from tensorgrad.core.backend import Array
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import one_box
from tensorgrad.core.tensor import raw
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.nn.loss import checked_pair, half_dtype_of, reduced
from tensorgrad.ops.clip import clip
from tensorgrad.ops.compare import greater
from tensorgrad.ops.elementwise import as_wide, maximum, mul_grad, where
from tensorgrad.ops.exponential import exp, log
from tensorgrad.ops.linalg import as_operand, scoped

__all__ = ["binary_cross_entropy", "gaussian_nll_loss", "poisson_nll_loss", "smooth_l1_loss"]


@one_box
def binary_cross_entropy(
    input: Operand[T], target: Operand[T], weight: Operand[T] | None = None, *, reduction: str = "mean"
) -> T | Array:
    """L = -w (t ln p + (1 - t) ln(1 - p)), element by element, reduced; logarithms are clamped at -100.

    backward   gp = g w (p - t) / (p (1 - p)),   g being that of each element

    input    p, probabilities. For logits use binary_cross_entropy_with_logits: it is exact where p rounds to 0 or 1. If p is
             itself the result of sigmoid, the loss is computed from the logits
    target   t, probabilities of the same shape
    weight   w, the weight of each element; broadcasts to the input

    Raises ShapeError unless input and target have the same shape. For p outside of 0 .. 1 the loss is NaN.
    """
    op = "binary_cross_entropy"
    half = half_dtype_of(input, target)
    p, t = checked_pair(op, input, target, reduction)
    shape = np.shape(raw(weight)) if weight is not None else ()
    if len(shape) > p.ndim or not all(n in (1, m) for n, m in zip(shape[::-1], p.shape[::-1], strict=False)):
        raise ShapeError(f"{scoped(op)}: weight of shape {shape} does not broadcast to the input {p.shape}")
    with np.errstate(divide="ignore"):  # ln 0 is clamped to -100
        yes, no = maximum(log(p), -100), maximum(log(1 - p), -100)
    losses = -(mul_grad(t, yes) + mul_grad(1 - t, no))
    return reduced(losses if weight is None else mul_grad(weight, losses), reduction, half=half)


@one_box
def smooth_l1_loss(input: Operand[T], target: Operand[T], *, beta: float = 1.0, reduction: str = "mean") -> T | Array:
    """L = d²/(2 beta) where |d| <= beta, and |d| - beta/2 beyond, for d = input - target; reduced.

    Raises ShapeError unless both have the same shape, ValueError unless beta > 0 (for 0 use l1_loss).
    """
    half = half_dtype_of(input, target)
    input, target = checked_pair("smooth_l1_loss", input, target, reduction)
    beta = number("smooth_l1_loss", "beta", beta)
    if not beta > 0:
        raise ArgumentError(f"{scoped('smooth_l1_loss')}: beta must be positive, got {beta}")
    d = input - target
    clipped = clip(d, -beta, beta)
    return reduced(clipped * (d - 0.5 * clipped) * (1 / beta), reduction, half=half)


@one_box
def gaussian_nll_loss(
    input: Operand[T],
    target: Operand[T],
    var: Operand[T],
    *,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> T | Array:
    """L = (ln v + (input - target)²/v) / 2, v = max(var, eps), element by element, reduced: a negative log-likelihood.

    input    means; var their variances, of the same shape, or with last axis 1 or without it: one variance per sample
    full     True to add the constant ln(2π)/2

    Where var is below eps its derivative is 0. Raises ShapeError for shapes that do not fit.
    """
    op = "gaussian_nll_loss"
    half = half_dtype_of(input, target, var)
    mean, t = checked_pair(op, input, target, reduction)
    v: Any = as_wide(as_operand(op, var))
    if v.ndim and v.shape == mean.shape[:-1] != mean.shape:
        v = v.reshape((*v.shape, 1))
    if v.shape not in (mean.shape, (*mean.shape[:-1], 1)):
        raise ShapeError(f"{scoped(op)}: var has shape {v.shape}, expected {mean.shape} or {(*mean.shape[:-1], 1)}")
    eps, full = number(op, "eps", eps), truth(op, "full", full)
    v = maximum(v, eps)
    d: Any = mean - t
    losses = 0.5 * (log(v) + d * d / v)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction, half=half)


@one_box
def poisson_nll_loss(
    input: Operand[T],
    target: Operand[T],
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> T | Array:
    """L = e^x - t x for logarithms x of rates; x - t ln(x + eps) for rates themselves; element by element, reduced.

    target      t, counts, of the same shape
    log_input   False if the input has rates
    full        True to add Stirling's term t ln t - t + ln(2π t)/2 where t > 1

    Raises ShapeError unless both have the same shape.
    """
    op = "poisson_nll_loss"
    half = half_dtype_of(input, target)
    x, t = checked_pair(op, input, target, reduction)
    log_input, full, eps = truth(op, "log_input", log_input), truth(op, "full", full), number(op, "eps", eps)
    losses: Any = exp(x) - t * x if log_input else x - t * log(x + eps)
    if full:
        above_one = greater(t, 1)
        counts = where(above_one, t, 1)
        losses = losses + where(above_one, counts * log(counts) - counts + 0.5 * log(2 * math.pi * counts), 0)
    return reduced(losses, reduction, half=half)
