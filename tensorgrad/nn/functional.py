"""Losses and layers as functions, by PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import number, sizes
from tensorgrad.core.backend import Array, is_array, put
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import one_box, shown, state, switched
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn import loss
from tensorgrad.nn.loss import *
from tensorgrad.ops import activation, linear, log_softmax, softmax
from tensorgrad.ops.activation import *
from tensorgrad.ops.conv import avg_pool2d, conv2d, max_pool2d
from tensorgrad.ops.elementwise import as_narrow, as_wide, where
from tensorgrad.ops.functions import hypot
from tensorgrad.ops.index import lookup
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.loss import as_target
from tensorgrad.ops.random import keep_mask, seed
from tensorgrad.ops.statistics import norm

__all__ = [
    "avg_pool2d", "batch_norm", "conv2d", "dropout", "embedding", "layer_norm", "linear", "log_softmax", "max_pool2d", "seed",
    "softmax",
]  # fmt: skip
__all__ += activation.__all__
__all__ += loss.__all__


@one_box
def dropout(x: Operand[T], p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None) -> T | Array:
    """y = x / (1 - p) where an element is kept, which it is with probability 1 - p, and 0 elsewhere; x unless `training`.

    rng   the generator to draw from; the one that nn.functional.seed starts by default

    Raises ValueError unless 0 <= p <= 1.
    """
    p = number("dropout", "p", p)
    if not 0 <= p <= 1:
        raise ArgumentError(f"{scoped('dropout')}: p must be in 0 .. 1, got {p}")
    x = as_operand("dropout", x)
    if not training or p == 0:
        return x
    return where(keep_mask(x, p, rng), x, 0) * (1 / (1 - p) if p < 1 else 1)


@one_box
def layer_norm(
    x: Operand[T],
    shape: int | Sequence[int],
    weight: Operand[T] | None = None,
    bias: Operand[T] | None = None,
    eps: float = 1e-5,
) -> T | Array:
    """y = weight * (x - m) / sqrt(v + eps) + bias, m and v being the mean and the variance (ddof 0) of each sample.

    x       (..., *shape): the axes of `shape`, which come last, are those that m and v are taken over
    weight, bias   (*shape), or None

    Raises ShapeError if x does not end in `shape`, or weight or bias have another one.
    """
    x = as_operand("layer_norm", x)
    shape, eps = sizes("layer_norm", shape), number("layer_norm", "eps", eps)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(f"{scoped('layer_norm')}: input has shape {x.shape}, expected one that ends in {shape}")
    y, _, _ = normalised(as_wide(x), tuple(range(-len(shape), 0)), eps)
    return as_narrow(affine("layer_norm", y, weight, bias, shape, shape), x, weight, bias)


@one_box
def batch_norm(
    x: Operand[T],
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Operand[T] | None = None,
    bias: Operand[T] | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> T | Array:
    """y = weight * (x - m) / sqrt(v + eps) + bias, m and v being the mean and the variance of each feature over the samples.

    x                (n, features), or (n, features, ...): axis 1 has the features
    running_mean, running_var   (features) arrays. In training, when m and v (ddof 0) are of x itself, they are changed in place
                     to (1 - momentum) of what they are and momentum of m, and v with ddof 1; otherwise they are m and v
    weight, bias     (features), or None

    Raises ShapeError for shapes that do not fit and for training with one value to a feature; ValueError if the running arrays
    are missing when not training.
    """
    x = as_operand("batch_norm", x)
    if x.ndim < 2:
        raise ShapeError(f"{scoped('batch_norm')}: input has shape {x.shape}, expected (n, features) or (n, features, ...)")
    eps, momentum = number("batch_norm", "eps", eps), number("batch_norm", "momentum", momentum)
    features, over = x.shape[1], (0, *range(2, x.ndim))
    wide = (features,) + (1,) * (x.ndim - 2)
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value is not None and not is_array(value):
            raise DTypeError(f"{scoped('batch_norm')}: {name} must be an array, which is changed in place, got {shown(value)}")
        if value is not None and value.shape != (features,):
            raise ShapeError(
                f"{scoped('batch_norm')}: {name} has shape {value.shape}, expected ({features},) for input {x.shape}"
            )
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(f"{scoped('batch_norm')}: outside of training running_mean and running_var have to be given")
        if isinstance(x, Tensor):  # recorded, so that a compiled step reads them as they are at the time of its call
            running_mean, running_var = wrap(running_mean, None), wrap(running_var, None)
        running_mean, running_var = as_wide(running_mean), as_wide(running_var)
        y = (as_wide(x) - running_mean.reshape(wide)) * ((running_var + eps) ** -0.5).reshape(wide)
        return as_narrow(affine("batch_norm", y, weight, bias, (features,), wide), x, weight, bias)
    count = x.size // max(features, 1)
    if count == 1:
        raise ShapeError(f"{scoped('batch_norm')}: training needs more than one value to a feature, got input {x.shape}")
    y, m, s = normalised(as_wide(x), over, eps)
    if count and running_mean is not None:
        follow(running_mean, m.reshape(features), momentum)
    if count and running_var is not None:
        follow(running_var, (s * s).reshape(features) * (count / (count - 1)), momentum)
    return as_narrow(affine("batch_norm", y, weight, bias, (features,), wide), x, weight, bias)


def follow(running: Array, value: Any, momentum: float) -> None:
    """Move `running`, in place, so far towards `value`."""
    if not isinstance(value, Tensor):
        running += momentum * (value - running)
        return
    with switched(recording=False):
        before = wrap(running, None)
        after = before + momentum * (value.detach() - before)
    if state.trace is not None:
        state.trace.assigns(running, after)
    put(running, after._data)


@one_box
def embedding(indices: Operand[T], weight: Operand[T]) -> T | Array:
    """y[...] = weight[indices[...]]: a row of `weight` for each index. The gradients of a row that is used twice add up.

    indices   (...), integers in 0 .. rows-1
    weight    (rows, dim)

    Returns (..., dim). Raises LabelError for an index out of range, DTypeError for indices that are not integers.
    """
    indices, weight = as_target(indices), as_operand("embedding", weight)
    at = raw(indices)
    if at.dtype.kind not in "iu":
        raise DTypeError(f"{scoped('embedding')}: indices must be integers, got {at.dtype} of shape {at.shape}")
    if weight.ndim != 2:
        raise ShapeError(f"{scoped('embedding')}: weight has shape {weight.shape}, expected (rows, dim)")
    return lookup(weight, indices)


def normalised(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """x with mean 0 and variance 1 over `axes`, and the mean and the standard deviation that it had.

    sqrt(v + eps) is taken as the hypotenuse of sqrt(v) and sqrt(eps): v need not fit into the dtype.
    """
    m = x.mean(axes, keepdims=True)
    d = x - m
    n = math.prod(x.shape[a] for a in axes)
    s = norm(d, axis=axes, keepdims=True) * (1 / math.sqrt(max(n, 1)))
    return d / hypot(s, math.sqrt(eps)), m, s


def affine(op: str, y: Any, weight: Any, bias: Any, shape: tuple[int, ...], wide: tuple[int, ...]) -> Any:
    """weight * y + bias, both of `shape`, which is read as `wide`."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != shape:
            raise ShapeError(f"{scoped(op)}: {name} has shape {value.shape}, expected {shape}")
    if weight is not None:
        y = y * (weight if wide == shape else weight.reshape(wide))
    return y if bias is None else y + (bias if wide == shape else bias.reshape(wide))
