"""Scaled dot-product attention: a weighted mean of the values, with weights from queries and keys.

It processes a block of queries at a time, against all their keys, so that the softmax is exact and memory for scores grows with
the number of keys, not with its square. The rule recomputes them in the same way. If a gradient is to be differentiated again,
and for tangents, the formulas are recorded for all queries at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import number, truth
from tensorgrad.core.backend import Array, Xp, asarray, is_floating, on_gpu_of
from tensorgrad.core.memory import new
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import named, scoped, state
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.kernels import attention as kernels
from tensorgrad.kernels import threads, thresholds
from tensorgrad.ops.compare import equal
from tensorgrad.ops.elementwise import where
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.loss import softmax
from tensorgrad.ops.pad import pad
from tensorgrad.ops.rearrange import lower_mask

__all__ = ["attention"]


class Attention(Op):
    """softmax(scale q kᵀ + mask) v, over the keys (Vaswani et al. 2017); leading axes broadcast.

    q (...,l,e) queries, k (...,s,e) keys, v (...,s,d) values to y (...,l,d)

    mask     None, or broadcasts to (...,l,s): booleans, True where a query may attend to a key, or numbers to add to the scores
    causal   True if query i may attend to keys 0 .. i only
    scale    1/sqrt(e) by default
    keep     None, or booleans (...,l,s): the weights to keep. The others become 0, and kept ones are divided by 1 - dropout,
             dropout being the probability of a 0. The weights are never all in memory at once; these booleans are. A single
             mask with dropout is `keep`

    A query that may attend to no key gets zeros, and so does its gradient.

    forward    p  = softmax(scale q kᵀ + mask),   y = m p v with m = keep / (1 - dropout), 1 without it
    backward   gv = (m p)ᵀ g,   dz = p (dp - sum(p dp)) with dp = m g vᵀ,   gq = scale dz k,   gk = scale dzᵀ q,   gmask = dz
    tangent    ty = m p (tz - sum(p tz)) v + m p tv,   tz = scale (tq kᵀ + q tkᵀ) + tmask
    """

    name, signature, reads = "attention", "(l,e),(s,e),(s,d)->(l,d)", "q k v masks"
    real = True
    domain = (-1.0, 1.0)

    def __call__(
        self,
        q: Operand[T],
        k: Operand[T],
        v: Operand[T],
        mask: Operand[T] | None = None,
        keep: Operand[T] | None = None,
        *,
        causal: bool = False,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> T | Array:
        q, k, v = (as_operand(self.name, x) for x in (q, k, v))
        p = number(self.name, "dropout", dropout)
        if p and keep is None and mask is not None:  # a single argument is recorded as the mask
            mask, keep = None, mask
        if not 0 <= p <= 1 or (p == 0) != (keep is None):
            expected = "0 without keep" if keep is None else "above 0, and at most 1, with keep"
            raise ArgumentError(f"{scoped(self.name)}: dropout must be {expected}, got {p}")
        masks = [] if mask is None else [as_mask(mask, q, k, v)]
        masks += [] if keep is None else [as_keep(keep, q, k, v)]
        return self.apply(q, k, v, *masks, causal=truth(self.name, "causal", causal), scale=scale_of(scale, q), dropout=p)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        q, k, v = (self.values(rng, shape) for shape in self.parsed.shapes(rng, sizes))
        attrs = {"causal": bool(rng.random() < 0.3), "scale": float(rng.uniform(0.3, 1)), "dropout": 0.0}
        shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2]), q.shape[-2], k.shape[-2])
        start = int(rng.integers(0, len(shape) - 1))
        full_shape = shape
        # one for each key: adding a constant to all scores of a query only changes rounding
        shape = (*[n if rng.random() < 0.8 else 1 for n in shape[start:-1]], shape[-1])
        kind = rng.integers(3)
        if kind == 0:
            without_dropout = (q, k, v), attrs
            return (
                ((q, k, v, rng.random(full_shape) < 0.6), attrs | {"dropout": 0.4}) if rng.random() < 0.3 else without_dropout
            )
        mask = rng.random(shape) < 0.7 if kind == 1 else self.values(rng, shape)
        if rng.random() < 0.6:
            return (q, k, v, mask), attrs
        return (q, k, v, mask, rng.random(full_shape) < 0.6), attrs | {"dropout": 0.4}

    def widens(self, i: int) -> bool:
        return i < 3  # a boolean mask stays boolean

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        return 2 * math.prod(out[:-1]) * shapes[1][-2] * (shapes[0][-1] + out[-1] + 2)

    def forward(self, xp: Xp, q: Array, k: Array, v: Array, *masks: Array, causal: bool, scale: float, dropout: float) -> Array:
        check(q, k, v)
        lead = leading(q, k, v)
        y = allocate(xp, (*lead, q.shape[-2], v.shape[-1]), dtype_of(xp, q, k, v, split_masks(masks, dropout)[0]))
        query_blocks = list(blocks(lead, q, k))

        def attend(y: Array, q: Array, k: Array, v: Array, *masks: Array) -> None:
            mask, keep = split_masks(masks, dropout)
            for rows in query_blocks:
                p = masked_weights(weights(q, k, mask, causal, scale, rows), keep, dropout, rows)
                xp.matmul(p, first(p.shape[-1], v), out=part(y, rows))

        in_threads(xp, attend, lead, q, k, y, q, k, v, *masks)
        return y

    def backward(
        self, g: Value, y: Value, q: Value, k: Value, v: Value, *masks: Value, causal: bool, scale: float, dropout: float
    ) -> Rules:
        all_rows, (mask, keep) = slice(0, q.shape[-2]), split_masks(masks, dropout)
        attrs: dict[str, Any] = {"causal": causal, "scale": scale, "dropout": dropout}
        if state.recording and any(isinstance(a, Tensor) for a in (g, q, k, v, *masks)):
            p, dz = slopes(g, q, k, v, masks, all_rows, **attrs)
            n = p.shape[-1]
            rules: Rules = (
                lambda: dz @ first(n, k) * scale,
                lambda: pad_rows(dz.swapaxes(-1, -2) @ q * scale, k),
                lambda: pad_rows(p.swapaxes(-1, -2) @ g, v),
            )
        else:
            gradients = attention_grad.apply(g, q, k, v, *masks, **attrs)
            shapes = [(*leading(q, k, v), *x.shape[-2:]) for x in (q, k, v)]
            end_q, end_k = ends_of(shapes)
            rules = (
                lambda: gradients[:end_q].reshape(shapes[0]),
                lambda: gradients[end_q:end_k].reshape(shapes[1]),
                lambda: gradients[end_k:].reshape(shapes[2]),
            )

        def mask_gradient() -> Value:
            dz = slopes(g, q, k, v, masks, all_rows, **attrs)[1]
            return pad_rows(dz.swapaxes(-1, -2), k).swapaxes(-1, -2)

        if mask is not None:
            rules = (*rules, mask_gradient if is_floating(mask.dtype) else None)
        return rules if keep is None else (*rules, None)

    def jvp(
        self, y: Value, q: Value, k: Value, v: Value, *masks: Value, causal: bool, scale: float, dropout: float
    ) -> Tangents:
        all_rows, (mask, keep) = slice(0, q.shape[-2]), split_masks(masks, dropout)
        p = weights(q, k, mask, causal, scale, all_rows)
        n = p.shape[-1]

        def along_scores(tz: Value) -> Value:
            return masked_weights(p * (tz - (p * tz).sum(-1, keepdims=True)), keep, dropout, all_rows) @ first(n, v)

        tangents: tuple[Any, ...] = (
            lambda t: along_scores((t * scale) @ first(n, k).swapaxes(-1, -2)),
            lambda t: along_scores((q * scale) @ first(n, t).swapaxes(-1, -2)),
            lambda t: masked_weights(p, keep, dropout, all_rows) @ first(n, t),
        )
        if mask is not None:
            tangents = (*tangents, (lambda t: along_scores(t[..., :n])) if is_floating(mask.dtype) else None)
        return tangents if keep is None else (*tangents, None)


class AttentionGrad(Op):
    """The gradients of `attention` with respect to q, k and v, flattened and concatenated.

    forward    d  = (gq, gk, gv) of `attention`, with all leading axes broadcast
    """

    name, signature = "attention_grad", "(l,d),(l,e),(s,e),(s,d)->(n)"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, attrs = attention.sample(rng, sizes)
        return (self.values(rng, attention(*args, **attrs).shape), *args), attrs

    def forward(
        self, xp: Xp, g: Array, q: Array, k: Array, v: Array, *masks: Array, causal: bool, scale: float, dropout: float
    ) -> Array:
        lead = leading(q, k, v)
        shapes = [(*lead, *x.shape[-2:]) for x in (q, k, v)]
        flat = allocate(xp, (sum(map(math.prod, shapes)),), dtype_of(xp, g, q, k, v, split_masks(masks, dropout)[0]))
        outs = [part.reshape(s) for part, s in zip(xp.split(flat, ends_of(shapes)), shapes, strict=True)]
        query_blocks = list(blocks(lead, q, k))

        def derive(gq: Array, gk: Array, gv: Array, g: Array, q: Array, k: Array, v: Array, *masks: Array) -> None:
            for rows in query_blocks:
                p, dz = slopes(g, q, k, v, masks, rows, causal, scale, dropout)
                n = p.shape[-1]
                dz *= scale
                xp.matmul(dz, first(n, k), out=part(gq, rows))
                if rows.start == 0 and n == k.shape[-2]:  # the first block initialises, the others add
                    xp.matmul(dz.swapaxes(-1, -2), part(q, rows), out=gk)
                    xp.matmul(p.swapaxes(-1, -2), part(g, rows), out=gv)
                    continue
                if rows.start == 0:
                    gk[...] = gv[...] = 0
                gk[..., :n, :] += dz.swapaxes(-1, -2) @ part(q, rows)
                gv[..., :n, :] += p.swapaxes(-1, -2) @ part(g, rows)
            if not query_blocks:
                gk[...] = gv[...] = 0

        in_threads(xp, derive, lead, q, k, *outs, g, q, k, v, *masks)
        return flat


def in_threads(xp: Xp, work: Callable[..., None], lead: Shape, q: Array, k: Array, *arrays: Array) -> None:
    """work(*arrays), in threads if there are many scores: each processes part of the first leading axis of size > 1.

    Blocks of queries are the same as without threads, and so are the results.
    """
    axis = next((i for i, n in enumerate(lead) if n > 1), None) if xp is np else None
    if axis is None:
        work(*arrays)
        return
    at, n = axis - len(lead) - 2, lead[axis]

    def process(start: int, stop: int) -> None:
        index = (..., slice(start, stop), *[slice(None)] * (-at - 1))
        work(*[x[index] if x.ndim >= -at and x.shape[at] == n else x for x in arrays])

    threads.in_shares(process, n, math.prod(lead) * q.shape[-2] * k.shape[-2])


def allocate(xp: Xp, shape: Shape, dtype: Any) -> Array:
    """Memory for a result, reused for NumPy arrays."""
    return new(shape, np.dtype(dtype)) if xp is np else xp.empty(shape, dtype)


def product(a: Value, b: Value) -> Value:
    """a @ b, in reused memory if both are NumPy arrays."""
    if type(a) is not np.ndarray or type(b) is not np.ndarray or a.dtype != b.dtype:
        return a @ b
    shape = (*leading(a, b), a.shape[-2], b.shape[-1])
    return np.matmul(a, b, out=new(shape, a.dtype))


def ends_of(shapes: Sequence[Shape]) -> list[int]:
    """The ends of consecutive arrays of these shapes, except the last."""
    return [int(n) for n in np.cumsum([math.prod(shape) for shape in shapes])[:-1]]


def weights(q: Value, k: Value, mask: Value | None, causal: bool, scale: float, rows: slice) -> Value:
    """The weights of the queries in `rows`, (..., rows, n): for the first n values, later ones being masked."""
    n = min(rows.stop, k.shape[-2]) if causal else k.shape[-2]
    z = product(part(q, rows) * scale, first(n, k).swapaxes(-1, -2))
    if mask is not None:
        mask = mask if mask.ndim < 2 or mask.shape[-2] == 1 else part(mask, rows)
        mask = mask if mask.shape[-1] in (1, n) else mask[..., :n]
        z = where(mask, z, -np.inf) if mask.dtype == bool else z + mask
    elif kernels.softmax_of_seen(z, rows.start, causal):
        return z
    if causal:
        z = where(lower_mask("tril", z, rows.start), z, -np.inf)
    if mask is None or not n:
        return softmax(z)
    is_masked = equal(z.max(-1, keepdims=True), -np.inf)
    return where(is_masked, 0, softmax(where(is_masked, 0, z)))


@named
def attention_weights(
    q: Operand[T], k: Operand[T], mask: Operand[T] | None = None, *, causal: bool = False, scale: float | None = None
) -> T | Array:
    """All weights of `attention`, (...,l,s), as plain operations."""
    q, k = (as_operand(attention.name, x) for x in (q, k))
    mask = mask if mask is None else as_mask(mask, q, k, k)
    p = weights(q, k, mask, truth(attention.name, "causal", causal), scale_of(scale, q), slice(0, q.shape[-2]))
    return pad_rows(p.swapaxes(-1, -2), k).swapaxes(-1, -2)


def scale_of(scale: float | None, q: Value) -> float:
    """The given scale, or the default of Vaswani et al."""
    return max(q.shape[-1] if q.ndim else 1, 1) ** -0.5 if scale is None else number(attention.name, "scale", scale)


def split_masks(masks: Sequence[Value], dropout: float) -> tuple[Value | None, Value | None]:
    """The mask of the scores, and the weights to keep."""
    mask, keep = (masks[:-1], masks[-1]) if dropout else (masks, None)
    return (mask[0] if mask else None), keep


def masked_weights(p: Value, keep: Value | None, dropout: float, rows: slice) -> Value:
    """m p of the queries in `rows`."""
    if keep is None:
        return p
    return where(part(keep, rows)[..., : p.shape[-1]], p, 0) * (1 / (1 - dropout) if dropout < 1 else 1)


def slopes(
    g: Value, q: Value, k: Value, v: Value, masks: Sequence[Value], rows: slice, causal: bool, scale: float, dropout: float
) -> tuple[Value, Value]:
    """The weights m p of the queries in `rows`, and the gradient dz of their scores."""
    mask, keep = split_masks(masks, dropout)
    p = weights(q, k, mask, causal, scale, rows)
    dp = masked_weights(product(part(g, rows), first(p.shape[-1], v).swapaxes(-1, -2)), keep, dropout, rows)
    if kernels.softmax_grad(p, dp):
        return masked_weights(p, keep, dropout, rows), dp
    return masked_weights(p, keep, dropout, rows), p * (dp - (p * dp).sum(-1, keepdims=True))


def blocks(lead: Shape, q: Array, k: Array) -> Iterator[slice]:
    """The blocks of queries to process."""
    queries, size = q.shape[-2], max(thresholds.ATTENTION // max(math.prod(lead) * k.shape[-2], 1), 1)
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))


def part(x: Value, rows: slice) -> Value:
    """Some rows of x; x itself if they are all."""
    return x if rows.start == 0 and rows.stop >= x.shape[-2] else x[..., rows, :]


def first(n: int, x: Value) -> Value:
    """The first n rows of x."""
    return part(x, slice(0, n))


def pad_rows(gx: Value, x: Value) -> Value:
    """gx padded with zeros to the number of rows of x."""
    missing = x.shape[-2] - gx.shape[-2]
    return pad(gx, (*[(0, 0)] * (gx.ndim - 2), (0, missing), (0, 0))) if missing else gx


def leading(*arrays: Value) -> Shape:
    """The broadcast axes before the last two."""
    return np.broadcast_shapes(*[x.shape[:-2] for x in arrays])


def dtype_of(xp: Xp, *arrays: Array | None) -> Any:
    """The dtype of a result; boolean masks do not count."""
    return xp.result_type(*[x for x in arrays if x is not None and x.dtype != bool])


def check(q: Value, k: Value, v: Value) -> None:
    """Raise ValueError, which the signature explains, for a mismatch that a product would not detect."""
    if k.shape[-2] != v.shape[-2] or q.shape[-1] != k.shape[-1]:
        raise ValueError("shapes are incompatible")


def as_mask(mask: Any, q: Value, k: Value, v: Value) -> Any:
    """A mask as an array or a Tensor that broadcasts to the scores."""
    where = scoped(attention.name)
    mask = as_operand(attention.name, lists_as_array(mask, q))
    if mask.dtype != bool and not is_floating(mask.dtype):
        raise DTypeError(f"{where}: the mask must have a boolean or floating dtype, got {mask.dtype} of shape {mask.shape}")
    if min(q.ndim, k.ndim, v.ndim) < 2:
        return mask  # the signature has a better message
    try:
        shape = (*leading(q, k, v), q.shape[-2], k.shape[-2])
        broadcasts = np.broadcast_shapes(mask.shape, shape) == shape and mask.ndim
    except ValueError:
        broadcasts = False
    if not broadcasts:
        raise ShapeError(
            f"{where}: the mask has shape {mask.shape}, expected a shape that broadcasts to "
            f"(..., {q.shape[-2]}, {k.shape[-2]}), for q {q.shape} and k {k.shape}"
        )
    return mask


def as_keep(keep: Any, q: Value, k: Value, v: Value) -> Any:
    """The weights to keep, as booleans of their full shape."""
    keep = as_operand(attention.name, lists_as_array(keep, q))
    if min(q.ndim, k.ndim, v.ndim) < 2:
        return keep  # the signature has a better message
    expected = (q.shape[-2], k.shape[-2])
    if keep.dtype != bool or keep.shape[-2:] != expected:
        raise ShapeError(
            f"{scoped(attention.name)}: keep is {keep.dtype} of shape {keep.shape}, expected booleans (..., {expected[0]}, "
            f"{expected[1]}), for q {q.shape} and k {k.shape}"
        )
    return keep


def lists_as_array(mask: Any, like: Value) -> Any:
    """A mask, with lists converted to arrays on the device of `like`."""
    return on_gpu_of(asarray(mask, where=scoped(attention.name)), [raw(like)]) if isinstance(mask, (list, tuple)) else mask


attention, attention_grad = Attention(), AttentionGrad()
