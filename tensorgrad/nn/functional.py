"""Losses and layers as functions, by PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorgrad.core.arguments import choice, integer, number, sizes
from tensorgrad.core.backend import Array, is_array, namespace, put
from tensorgrad.core.installation import missing
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import describe, one_box, state, switched
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn import activation as composed
from tensorgrad.nn import likelihood, loss, margins, resize, sequences
from tensorgrad.nn.activation import *
from tensorgrad.nn.activation import SELU_ALPHA, SELU_SCALE
from tensorgrad.nn.likelihood import *
from tensorgrad.nn.loss import *
from tensorgrad.nn.margins import *
from tensorgrad.nn.resize import *
from tensorgrad.nn.sequences import *
from tensorgrad.ops import activation, conv, linear, log_softmax, pool, softmax
from tensorgrad.ops.activation import *
from tensorgrad.ops.attention import attention
from tensorgrad.ops.compare import equal, greater, not_equal
from tensorgrad.ops.conv import *
from tensorgrad.ops.elementwise import as_narrow, as_wide, astype, maximum, where
from tensorgrad.ops.functions import hypot
from tensorgrad.ops.index import lookup
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.loss import as_target
from tensorgrad.ops.meeting import all_reduce
from tensorgrad.ops.pool import *
from tensorgrad.ops.random import keep_mask, seed
from tensorgrad.ops.rearrange import concatenate
from tensorgrad.ops.shape import broadcast_to
from tensorgrad.ops.statistics import norm

__all__ = [
    "alpha_dropout", "batch_norm", "dropout", "dropout1d", "dropout2d", "embedding", "embedding_bag", "group_norm",
    "instance_norm", "layer_norm", "linear", "log_softmax", "rms_norm", "scaled_dot_product_attention", "seed", "softmax",
]  # fmt: skip
__all__ += activation.__all__
__all__ += conv.__all__
__all__ += pool.__all__
__all__ += composed.__all__
__all__ += loss.__all__
__all__ += likelihood.__all__
__all__ += margins.__all__
__all__ += resize.__all__
__all__ += sequences.__all__


@one_box
def dropout(x: Operand[T], p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None) -> T | Array:
    """y = x / (1 - p) with probability 1 - p and 0 otherwise, element by element; y = x unless `training`.

    rng   NumPy generator; by default the one that nn.functional.seed seeds

    Raises ValueError unless 0 <= p <= 1.
    """
    p = number("dropout", "p", p)
    if not 0 <= p <= 1:
        raise ArgumentError(f"{scoped('dropout')}: p must be between 0 and 1, got {p}")
    x = as_operand("dropout", x)
    if not training or p == 0:
        return x
    return where(keep_mask(x, p, rng), x, 0) * (1 / (1 - p) if p < 1 else 1)


@one_box
def dropout1d(x: Operand[T], p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None) -> T | Array:
    """`dropout` of whole channels: each (n,c) of x (n,c,l) is kept or 0."""
    return channel_dropout("dropout1d", 3, x, p, training, rng)


@one_box
def dropout2d(x: Operand[T], p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None) -> T | Array:
    """`dropout` of whole channels: each (n,c) of x (n,c,h,w) is kept or 0."""
    return channel_dropout("dropout2d", 4, x, p, training, rng)


@one_box
def alpha_dropout(x: Operand[T], p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None) -> T | Array:
    """Dropout that keeps mean 0 and variance 1 (Klambauer et al. 2017), for networks with selu; y = x unless `training`.

    y = a (x with probability 1 - p, and -s otherwise) + a s p,   a = 1 / sqrt((1 - p) (1 + p s²));   0 for p = 1.
    Here -s = -1.7581 is the limit of selu at -infinity.

    rng   NumPy generator; by default the one that nn.functional.seed seeds

    Raises ValueError unless 0 <= p <= 1.
    """
    p = number("alpha_dropout", "p", p)
    if not 0 <= p <= 1:
        raise ArgumentError(f"{scoped('alpha_dropout')}: p must be between 0 and 1, got {p}")
    x = as_operand("alpha_dropout", x)
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0
    s = SELU_SCALE * SELU_ALPHA
    a = 1 / math.sqrt((1 - p) * (1 + p * s * s))
    return where(keep_mask(x, p, rng), x, -s) * a + a * s * p


def channel_dropout(op: str, ndim: int, x: Any, p: Any, training: bool, rng: Any) -> Any:
    p = number(op, "p", p)
    if not 0 <= p <= 1:
        raise ArgumentError(f"{scoped(op)}: p must be between 0 and 1, got {p}")
    x = as_operand(op, x)
    if x.ndim != ndim:
        raise ShapeError(f"{scoped(op)}: input has shape {x.shape}, expected {'(n,c,l)' if ndim == 3 else '(n,c,h,w)'}")
    if not training or p == 0 or not x.size:
        return x
    one_per_channel = x[(slice(None), slice(None)) + (slice(1),) * (ndim - 2)]
    return where(keep_mask(one_per_channel, p, rng), x, 0) * (1 / (1 - p) if p < 1 else 1)


@one_box
def layer_norm(
    x: Operand[T],
    normalized_shape: int | Sequence[int],
    weight: Operand[T] | None = None,
    bias: Operand[T] | None = None,
    eps: float = 1e-5,
) -> T | Array:
    """y = weight * (x - m) / sqrt(v + eps) + bias, with the mean m and the variance v (ddof 0) of each sample.

    backward   gx = (d - mean d - n mean(d n)) / s,   d = g weight,   n = (x - m) / s,   s = sqrt(v + eps)
               gweight = sum of g n,   gbias = sum of g

    x       (..., *normalized_shape); m and v are over the axes of normalized_shape
    weight, bias   (*normalized_shape), or None

    Raises ShapeError if the shape of x does not end in `normalized_shape`, or weight or bias have another shape.
    """
    x = as_operand("layer_norm", x)
    shape, eps = sizes("layer_norm", normalized_shape), number("layer_norm", "eps", eps)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(f"{scoped('layer_norm')}: input has shape {x.shape}, expected (..., {', '.join(map(str, shape))})")
    y, _, _ = normalised(as_wide(x), tuple(range(-len(shape), 0)), eps)
    return as_narrow(affine("layer_norm", y, weight, bias, shape, shape), x, weight, bias)


@one_box
def rms_norm(
    x: Operand[T], normalized_shape: int | Sequence[int], weight: Operand[T] | None = None, eps: float | None = None
) -> T | Array:
    """y = weight * x / sqrt(mean of x² + eps), with the mean over the last axes, those of `normalized_shape`.

    weight   (*normalized_shape), or None
    eps      by default the machine epsilon of the dtype of x, that of float32 for half precision

    Raises ShapeError if the shape of x does not end in `normalized_shape`, or weight has another shape.
    """
    x = as_operand("rms_norm", x)
    shape = sizes("rms_norm", normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(f"{scoped('rms_norm')}: input has shape {x.shape}, expected (..., {', '.join(map(str, shape))})")
    wide: Any = as_wide(x)
    eps = float(np.finfo(wide.dtype).eps) if eps is None else number("rms_norm", "eps", eps)
    size = norm(wide, axis=tuple(range(-len(shape), 0)), keepdims=True) * (1 / math.sqrt(max(math.prod(shape), 1)))
    y = wide / hypot(size, math.sqrt(eps))
    return as_narrow(affine("rms_norm", y, weight, None, shape, shape), x, weight)


@one_box
def group_norm(
    x: Operand[T], num_groups: int, weight: Operand[T] | None = None, bias: Operand[T] | None = None, eps: float = 1e-5
) -> T | Array:
    """y = weight * (x - m) / sqrt(v + eps) + bias, with m and v (ddof 0) of each group of channels of each sample.

    x              (n, c, ...), c divisible by num_groups
    weight, bias   (c), or None

    Raises ShapeError for shapes that do not fit.
    """
    x = as_operand("group_norm", x)
    num_groups, eps = integer("group_norm", "num_groups", num_groups, 1), number("group_norm", "eps", eps)
    if x.ndim < 2 or x.shape[1] % num_groups:
        expected = f"(n, c, ...) with c divisible by {num_groups} groups"
        raise ShapeError(f"{scoped('group_norm')}: input has shape {x.shape}, expected {expected}")
    return in_groups("group_norm", x, num_groups, weight, bias, eps)


@one_box
def instance_norm(
    x: Operand[T], weight: Operand[T] | None = None, bias: Operand[T] | None = None, eps: float = 1e-5
) -> T | Array:
    """y = weight * (x - m) / sqrt(v + eps) + bias, with m and v (ddof 0) of each channel of each sample.

    x              (n, c, length) or (n, c, ...)
    weight, bias   (c), or None

    Raises ShapeError for shapes that do not fit, and if each channel has only one value.
    """
    x, eps = as_operand("instance_norm", x), number("instance_norm", "eps", eps)
    if x.ndim < 3 or math.prod(x.shape[2:]) == 1:
        expected = "(n, c, ...) with more than one value per channel"
        raise ShapeError(f"{scoped('instance_norm')}: input has shape {x.shape}, expected {expected}")
    return in_groups("instance_norm", x, max(x.shape[1], 1), weight, bias, eps)


def in_groups(op: str, x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Any:
    """Normalise x (n,c,...) over groups of channels, then scale and shift each channel."""
    n, c, *size = x.shape
    grouped = as_wide(x).reshape((n, groups, c // groups * math.prod(size)))
    y = normalised(grouped, (2,), eps)[0].reshape(x.shape)
    return as_narrow(affine(op, y, weight, bias, (c,), (c,) + (1,) * len(size)), x, weight, bias)


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
    """y = weight * (x - m) / sqrt(v + eps) + bias, with the mean m and the variance v of each feature over the samples.

    backward   gx = weight (g - mean g - n mean(g n)) / s in training, else weight g / s
               n = (x - m) / s,   s = sqrt(v + eps),   gweight = sum of g n,   gbias = sum of g

    x                (n, features), or (n, features, ...): axis 1 has the features
    running_mean, running_var   arrays (features). In training m and v (ddof 0) are those of x, and the running arrays are
                     updated in place: running = (1 - momentum) running + momentum (m, or v with ddof 1). Otherwise the
                     running arrays are m and v
    weight, bias     (features), or None

    With several ranks (`tensorgrad.distributed`) m and v are those of the whole batch.

    Raises ShapeError for shapes that do not fit and for training with one value per feature; ValueError if the running arrays
    are missing in evaluation.
    """
    x = as_operand("batch_norm", x)
    if x.ndim < 2:
        raise ShapeError(f"{scoped('batch_norm')}: input has shape {x.shape}, expected (n, features) or (n, features, ...)")
    eps, momentum = number("batch_norm", "eps", eps), number("batch_norm", "momentum", momentum)
    features, over = x.shape[1], (0, *range(2, x.ndim))
    broadcast_shape = (features,) + (1,) * (x.ndim - 2)
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value is not None and not is_array(value):
            raise DTypeError(f"{scoped('batch_norm')}: {name} must be an array to update in place, got {describe(value)}")
        if value is not None and value.shape != (features,):
            raise ShapeError(
                f"{scoped('batch_norm')}: {name} has shape {value.shape}, expected ({features},) for input {x.shape}"
            )
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError(f"{scoped('batch_norm')}: running_mean and running_var are required outside training")
        if isinstance(x, Tensor):  # recorded, so that a compiled step reads the current values at each call
            running_mean, running_var = wrap(running_mean, None), wrap(running_var, None)
        running_mean, running_var = as_wide(running_mean), as_wide(running_var)
        y = (as_wide(x) - running_mean.reshape(broadcast_shape)) * ((running_var + eps) ** -0.5).reshape(broadcast_shape)
        return as_narrow(affine("batch_norm", y, weight, bias, (features,), broadcast_shape), x, weight, bias)
    count = x.size // max(features, 1)
    is_single_rank = ranks.group is None
    if count == 1 and (is_single_rank or (ranks.part is not None and ranks.part.total == 1)):
        raise ShapeError(f"{scoped('batch_norm')}: training needs more than one value per feature, got input {x.shape}")
    if is_single_rank:
        y, m, s = normalised(as_wide(x), over, eps)
        larger: Any = count / max(count - 1, 1)
    else:
        y, m, s, n = normalised_over_ranks(as_wide(x), over, eps)
        larger = n / maximum(n - 1, 1)
    if (count or not is_single_rank) and running_mean is not None:
        update_running(running_mean, m.reshape(features), momentum)
    if (count or not is_single_rank) and running_var is not None:
        update_running(running_var, (s * s).reshape(features) * larger, momentum)
    return as_narrow(affine("batch_norm", y, weight, bias, (features,), broadcast_shape), x, weight, bias)


def update_running(running: Array, value: Any, momentum: float) -> None:
    """Update a running average in place."""
    if not isinstance(value, Tensor):
        running += momentum * (value - running)
        return
    with switched(recording=False):
        before = wrap(running, None)
        after = before + momentum * (value.detach() - before)
    if state.batching is not None:
        state.batching.check_readable(after, "what follows the statistics of a batch")
    if state.trace is not None:
        state.trace.assigns(running, after)
    put(running, after._data)


@one_box
def embedding(indices: Operand[T], weight: Operand[T], padding_idx: int | None = None) -> T | Array:
    """y[...] = weight[indices[...]]: look up a row of `weight` for each index. The gradients of repeated rows add up.

    indices       (...), integers in 0 .. rows-1
    weight        (rows, dim)
    padding_idx   a row that gets no gradient; a negative one counts from the end

    Returns (..., dim). Raises LabelError for an index out of range, DTypeError for indices that are not integers.
    """
    indices, weight, padding = checked_indices("embedding", indices, weight, padding_idx)
    rows: Any = lookup(weight, indices)
    if padding is None or not isinstance(rows, Tensor):
        return rows
    return where(equal(indices, padding)[..., None], rows.detach(), rows)


@one_box
def embedding_bag(indices: Operand[T], weight: Operand[T], mode: str = "mean", padding_idx: int | None = None) -> T | Array:
    """The sum, mean or maximum of the rows of `weight` for each bag of indices.

    indices       (..., n), integers in 0 .. rows-1: bags of n
    weight        (rows, dim)
    mode          "sum", "mean" or "max"
    padding_idx   an index that is ignored, for bags of different sizes; a bag of only this index gives 0

    Returns (..., dim). Raises LabelError for an index out of range, DTypeError for indices that are not integers.
    """
    op = "embedding_bag"
    mode = choice(op, "mode", mode, ("sum", "mean", "max"))
    indices, weight, padding = checked_indices(op, indices, weight, padding_idx)
    if not raw(indices).ndim or not raw(indices).shape[-1]:
        raise ShapeError(f"{scoped(op)}: indices have shape {raw(indices).shape}, expected bags (..., n)")
    rows: Any = lookup(weight, indices)
    if padding is None:
        return rows.max(-2) if mode == "max" else rows.mean(-2) if mode == "mean" else rows.sum(-2)
    counts: Any = not_equal(indices, padding)
    keep, kept_counts = counts[..., None], astype(counts, rows.dtype).sum(-1, keepdims=True)
    if mode == "max":
        return where(greater(kept_counts, 0), where(keep, rows, -np.inf).max(-2), 0)
    total = where(keep, rows, 0).sum(-2)
    return total / where(greater(kept_counts, 0), kept_counts, 1) if mode == "mean" else total


def checked_indices(op: str, indices: Any, weight: Any, padding_idx: Any) -> tuple[Any, Any, int | None]:
    """Check indices, table and padding_idx, and return them, padding_idx counted from the front."""
    indices, weight = as_target(indices), as_operand(op, weight)
    at = raw(indices)
    if at.dtype.kind not in "iu":
        raise DTypeError(f"{scoped(op)}: indices must be integers, got {at.dtype} of shape {at.shape}")
    if weight.ndim != 2:
        raise ShapeError(f"{scoped(op)}: weight has shape {weight.shape}, expected (rows, dim)")
    if padding_idx is None:
        return indices, weight, None
    padding, rows = integer(op, "padding_idx", padding_idx), weight.shape[0]
    if not -rows <= padding < rows:
        raise ArgumentError(f"{scoped(op)}: padding_idx {padding} is out of range for {rows} rows")
    return indices, weight, padding % rows


@one_box
def scaled_dot_product_attention(
    query: Operand[T],
    key: Operand[T],
    value: Operand[T],
    attn_mask: Operand[T] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    rng: np.random.Generator | None = None,
) -> T | Array:
    """softmax(scale query keyᵀ + attn_mask) value, over the keys; PyTorch's keywords for ops.attention.

    query (...,l,e), key (...,s,e), value (...,s,d) to (...,l,d); leading axes broadcast.

    attn_mask   broadcasts to (...,l,s): booleans, True where a query may attend to a key, or numbers to add to the scores
    dropout_p   the probability of dropping a weight; the others are divided by 1 - dropout_p. The weights (...,l,s) are never
                all in memory at once; with dropout one boolean per weight is
    is_causal   True if query i may attend to keys 0 .. i only
    scale       1/sqrt(e) by default
    rng         NumPy generator for dropout; by default the one that nn.functional.seed seeds

    A query that may attend to no key gets zeros. Raises ShapeError or DTypeError for operands that do not fit, ValueError
    unless 0 <= dropout_p <= 1.
    """
    op = "scaled_dot_product_attention"
    p = number(op, "dropout_p", dropout_p)
    if not 0 <= p <= 1:
        raise ArgumentError(f"{scoped(op)}: dropout_p must be between 0 and 1, got {p}")
    if not p:
        return attention(query, key, value, attn_mask, causal=is_causal, scale=scale)
    q, k = as_operand(op, query), as_operand(op, key)
    shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2], np.shape(raw(value))[:-2]), *q.shape[-2:-1], *k.shape[-2:-1])
    keep = keep_mask(broadcast_to(q.sum(-1, keepdims=True), shape), p, rng)
    return attention(q, k, value, attn_mask, keep, causal=is_causal, scale=scale, dropout=p)


def normalised(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """x normalised to mean 0 and variance 1 over `axes`, its mean, and its standard deviation.

    sqrt(v + eps) is computed as the hypotenuse of sqrt(v) and sqrt(eps), because v may overflow.
    """
    m = x.mean(axes, keepdims=True)
    d = x - m
    n = math.prod(x.shape[a] for a in axes)
    s = norm(d, axis=axes, keepdims=True) * (1 / math.sqrt(max(n, 1)))
    return d / hypot(s, math.sqrt(eps)), m, s


def normalised_over_ranks(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any, Any]:
    """`normalised` with mean and variance over all ranks, and the number of values, which is not a constant: shares of equal
    size may belong to batches of different sizes.
    """
    group = ranks.group
    assert group is not None
    broadcast_shape, xp = tuple([1 if a in axes else n for a, n in enumerate(x.shape)]), namespace([raw(x)])
    n: Any = xp.full(1, math.prod(x.shape[a] for a in axes), x.dtype)
    is_own_rank: Any = xp.arange(group.size)[:, None] == group.rank
    if isinstance(x, Tensor):
        n, is_own_rank = wrap(n, None), wrap(is_own_rank, None)
    sums = all_reduce(concatenate([x.sum(axes), n]))
    n = maximum(sums[-1], 1)  # 0 if a plan is tried out on a rank without samples
    m = (sums[:-1] / n).reshape(broadcast_shape)
    d = x - m
    norms = all_reduce(where(is_own_rank, norm(d, axis=axes), 0))  # a row for each rank: their squares may overflow
    s = (norm(norms, axis=0) / n**0.5).reshape(broadcast_shape)
    return d / hypot(s, math.sqrt(eps)), m, s, n


def affine(op: str, y: Any, weight: Any, bias: Any, shape: tuple[int, ...], broadcast_shape: tuple[int, ...]) -> Any:
    """weight * y + bias, both of `shape`, reshaped to `broadcast_shape`."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.shape != shape:
            raise ShapeError(f"{scoped(op)}: {name} has shape {value.shape}, expected {shape}")
    if weight is not None:
        y = y * (weight if broadcast_shape == shape else weight.reshape(broadcast_shape))
    return y if bias is None else y + (bias if broadcast_shape == shape else bias.reshape(broadcast_shape))


if not TYPE_CHECKING:  # a type checker would otherwise accept any name

    def __getattr__(name: str) -> None:
        missing(__name__, name)
