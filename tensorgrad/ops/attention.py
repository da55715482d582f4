"""Attention: what each query takes of the values, by how well it fits the keys.

It is worked off some queries at a time, each against all of its keys, so that its softmax is the plain one and the scores that
are there at once grow with the number of keys, not with its square. The rule computes them again, in the same way. Where a
gradient is to be differentiated again, and for tangents, the formulas are recorded for all queries at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import number, truth
from tensorgrad.core.backend import Array, Xp, asarray, beside, is_floating
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import named, scoped, state
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import DTypeError, ShapeError
from tensorgrad.kernels import thresholds
from tensorgrad.ops.compare import equal
from tensorgrad.ops.elementwise import where
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.loss import softmax
from tensorgrad.ops.pad import pad
from tensorgrad.ops.rearrange import lower

__all__ = ["attention"]


class Attention(Op):
    """softmax(scale q kᵀ + mask) v, over the keys (Vaswani et al. 2017); leading axes broadcast.

    q (...,l,e) queries, k (...,s,e) keys, v (...,s,d) values to y (...,l,d)

    mask     None, or what broadcasts to (...,l,s): booleans, True where a key may be looked at, or numbers to add to the scores
    causal   whether query i may look at the keys 0 .. i alone
    scale    1/sqrt(e) by default

    A query that may look at no key at all gets zeros, and so does its gradient.

    forward    p  = softmax(scale q kᵀ + mask),   y = p v
    backward   gv = pᵀ g,   dz = p (dp - sum(p dp)) with dp = g vᵀ,   gq = scale dz k,   gk = scale dzᵀ q,   gmask = dz
    tangent    ty = p (tz - sum(p tz)) v + p tv,   tz = scale (tq kᵀ + q tkᵀ) + tmask
    """

    name, signature, reads = "attention", "(l,e),(s,e),(s,d)->(l,d)", "q k v mask"
    real = True
    domain = (-1.0, 1.0)

    def __call__(
        self,
        q: Operand[T],
        k: Operand[T],
        v: Operand[T],
        mask: Operand[T] | None = None,
        *,
        causal: bool = False,
        scale: float | None = None,
    ) -> T | Array:
        q, k, v = (as_operand(self.name, x) for x in (q, k, v))
        attrs = {"causal": truth(self.name, "causal", causal), "scale": scale_of(scale, q)}
        return self.apply(q, k, v, **attrs) if mask is None else self.apply(q, k, v, as_mask(mask, q, k, v), **attrs)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        q, k, v = (self.values(rng, shape) for shape in self.parsed.shapes(rng, sizes))
        attrs = {"causal": bool(rng.random() < 0.3), "scale": float(rng.uniform(0.3, 1))}
        shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2]), q.shape[-2], k.shape[-2])
        start = int(rng.integers(0, len(shape) - 1))
        # one for each key: what is added to all scores of a query changes nothing, but for rounding errors
        shape = (*[n if rng.random() < 0.8 else 1 for n in shape[start:-1]], shape[-1])
        kind = rng.integers(3)
        if kind == 0:
            return (q, k, v), attrs
        return (q, k, v, rng.random(shape) < 0.7 if kind == 1 else self.values(rng, shape)), attrs

    def widens(self, i: int) -> bool:
        return i < 3  # a mask of booleans stays one

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        return 2 * math.prod(out[:-1]) * shapes[1][-2] * (shapes[0][-1] + out[-1] + 2)

    def forward(self, xp: Xp, q: Array, k: Array, v: Array, mask: Array | None = None, *, causal: bool, scale: float) -> Array:
        check(q, k, v)
        lead = leading(q, k, v)
        y = xp.empty((*lead, q.shape[-2], v.shape[-1]), dtype_of(xp, q, k, v, mask))
        for rows in blocks(lead, q, k):
            p = weights(q, k, mask, causal, scale, rows)
            y[..., rows, :] = p @ first(p.shape[-1], v)
        return y

    def backward(
        self, g: Value, y: Value, q: Value, k: Value, v: Value, mask: Value | None = None, *, causal: bool, scale: float
    ) -> Rules:
        every = slice(0, q.shape[-2])
        if state.recording and any(isinstance(a, Tensor) for a in (g, q, k, v, mask)):
            p, dz = slopes(g, q, k, v, mask, causal, scale, every)
            n = p.shape[-1]
            rules: Rules = (
                lambda: dz @ first(n, k) * scale,
                lambda: filled(dz.swapaxes(-1, -2) @ q * scale, k),
                lambda: filled(p.swapaxes(-1, -2) @ g, v),
            )
        else:
            given = (g, q, k, v) if mask is None else (g, q, k, v, mask)
            all_of_them = attention_grad.apply(*given, causal=causal, scale=scale)
            shapes = [(*leading(q, k, v), *x.shape[-2:]) for x in (q, k, v)]
            of_q, of_k = ends_of(shapes)
            rules = (
                lambda: all_of_them[:of_q].reshape(shapes[0]),
                lambda: all_of_them[of_q:of_k].reshape(shapes[1]),
                lambda: all_of_them[of_k:].reshape(shapes[2]),
            )
        if mask is None:
            return rules

        def of_mask() -> Value:
            dz = slopes(g, q, k, v, mask, causal, scale, every)[1]
            return filled(dz.swapaxes(-1, -2), k).swapaxes(-1, -2)

        return (*rules, of_mask if is_floating(mask.dtype) else None)

    def jvp(self, y: Value, q: Value, k: Value, v: Value, mask: Value | None = None, *, causal: bool, scale: float) -> Tangents:
        p = weights(q, k, mask, causal, scale, slice(0, q.shape[-2]))
        n = p.shape[-1]

        def of_scores(tz: Value) -> Value:
            return (p * (tz - (p * tz).sum(-1, keepdims=True))) @ first(n, v)

        found: tuple[Any, ...] = (
            lambda t: of_scores((t * scale) @ first(n, k).swapaxes(-1, -2)),
            lambda t: of_scores((q * scale) @ first(n, t).swapaxes(-1, -2)),
            lambda t: p @ first(n, t),
        )
        if mask is None:
            return found
        return (*found, (lambda t: of_scores(t[..., :n])) if is_floating(mask.dtype) else None)


class AttentionGrad(Op):
    """The gradients of `attention` with respect to q, k and v, one after the other, each flat.

    forward    d  = (gq, gk, gv) as `attention` has them, of the leading axes that they have together
    """

    name, signature = "attention_grad", "(l,d),(l,e),(s,e),(s,d)->(n)"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, attrs = attention.sample(rng, sizes)
        return (self.values(rng, attention(*args, **attrs).shape), *args), attrs

    def forward(
        self, xp: Xp, g: Array, q: Array, k: Array, v: Array, mask: Array | None = None, *, causal: bool, scale: float
    ) -> Array:
        lead = leading(q, k, v)
        shapes = [(*lead, *x.shape[-2:]) for x in (q, k, v)]
        flat = xp.zeros(sum(map(math.prod, shapes)), dtype_of(xp, g, q, k, v, mask))
        gq, gk, gv = (part.reshape(s) for part, s in zip(xp.split(flat, ends_of(shapes)), shapes, strict=True))
        for rows in blocks(lead, q, k):
            p, dz = slopes(g, q, k, v, mask, causal, scale, rows)
            n = p.shape[-1]
            gq[..., rows, :] = dz @ first(n, k) * scale
            gk[..., :n, :] += dz.swapaxes(-1, -2) @ (part(q, rows) * scale)
            gv[..., :n, :] += p.swapaxes(-1, -2) @ part(g, rows)
        return flat


def ends_of(shapes: Sequence[Shape]) -> list[int]:
    """Where arrays of these shapes end that lie one after the other, but for the last."""
    return [int(n) for n in np.cumsum([math.prod(shape) for shape in shapes])[:-1]]


def weights(q: Value, k: Value, mask: Value | None, causal: bool, scale: float, rows: slice) -> Value:
    """What the queries in `rows` take of each value, (..., rows, n): of the first n, later ones being out of sight."""
    n = min(rows.stop, k.shape[-2]) if causal else k.shape[-2]
    z = (part(q, rows) * scale) @ first(n, k).swapaxes(-1, -2)
    if mask is not None:
        mask = mask if mask.ndim < 2 or mask.shape[-2] == 1 else part(mask, rows)
        mask = mask if mask.shape[-1] in (1, n) else mask[..., :n]
        z = where(mask, z, -np.inf) if mask.dtype == bool else z + mask
    if causal:
        z = where(lower("tril", z, rows.start), z, -np.inf)
    if mask is None or not n:
        return softmax(z)
    nothing = equal(z.max(-1, keepdims=True), -np.inf)
    return where(nothing, 0, softmax(where(nothing, 0, z)))


@named
def attention_weights(
    q: Operand[T], k: Operand[T], mask: Operand[T] | None = None, *, causal: bool = False, scale: float | None = None
) -> T | Array:
    """The weights of `attention` themselves, (...,l,s), all of them, as plain operations."""
    q, k = (as_operand(attention.name, x) for x in (q, k))
    mask = mask if mask is None else as_mask(mask, q, k, k)
    p = weights(q, k, mask, truth(attention.name, "causal", causal), scale_of(scale, q), slice(0, q.shape[-2]))
    return filled(p.swapaxes(-1, -2), k).swapaxes(-1, -2)


def scale_of(scale: float | None, q: Value) -> float:
    """The scale that is given, or that of Vaswani et al."""
    return max(q.shape[-1] if q.ndim else 1, 1) ** -0.5 if scale is None else number(attention.name, "scale", scale)


def slopes(
    g: Value, q: Value, k: Value, v: Value, mask: Value | None, causal: bool, scale: float, rows: slice
) -> tuple[Value, Value]:
    """The weights p of the queries in `rows`, and the gradient dz of their scores."""
    p = weights(q, k, mask, causal, scale, rows)
    dp = part(g, rows) @ first(p.shape[-1], v).swapaxes(-1, -2)
    return p, p * (dp - (p * dp).sum(-1, keepdims=True))


def blocks(lead: Shape, q: Array, k: Array) -> Iterator[slice]:
    """The queries that are worked off at a time."""
    queries, size = q.shape[-2], max(thresholds.ATTENTION // max(math.prod(lead) * k.shape[-2], 1), 1)
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))


def part(x: Value, rows: slice) -> Value:
    """Some rows of x; x itself where they are all."""
    return x if rows.start == 0 and rows.stop >= x.shape[-2] else x[..., rows, :]


def first(n: int, x: Value) -> Value:
    """The first n rows of x."""
    return part(x, slice(0, n))


def filled(gx: Value, x: Value) -> Value:
    """gx with zeros for the rows of x that come after its own."""
    more = x.shape[-2] - gx.shape[-2]
    return pad(gx, (*[(0, 0)] * (gx.ndim - 2), (0, more), (0, 0))) if more else gx


def leading(*arrays: Value) -> Shape:
    """The axes before the last two of all of them together."""
    return np.broadcast_shapes(*[x.shape[:-2] for x in arrays])


def dtype_of(xp: Xp, *arrays: Array | None) -> Any:
    """That of a result; masks of booleans do not count."""
    return xp.result_type(*[x for x in arrays if x is not None and x.dtype != bool])


def check(q: Value, k: Value, v: Value) -> None:
    """Raise ValueError, which the signature explains, where a product would not find it."""
    if k.shape[-2] != v.shape[-2] or q.shape[-1] != k.shape[-1]:
        raise ValueError("queries, keys and values do not fit")


def as_mask(mask: Any, q: Value, k: Value, v: Value) -> Any:
    """A mask as an array or a Tensor, which broadcasts to the scores."""
    of = scoped(attention.name)
    mask = as_operand(attention.name, listed(mask, q))
    if mask.dtype != bool and not is_floating(mask.dtype):
        raise DTypeError(f"{of}: the mask must be booleans or floating numbers, got {mask.dtype} of shape {mask.shape}")
    if min(q.ndim, k.ndim, v.ndim) < 2:
        return mask  # the signature says it better
    try:
        shape = (*leading(q, k, v), q.shape[-2], k.shape[-2])
        fits = np.broadcast_shapes(mask.shape, shape) == shape and mask.ndim
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"{of}: the mask has shape {mask.shape}, expected one that broadcasts to "
            f"(..., {q.shape[-2]}, {k.shape[-2]}), for q {q.shape} and k {k.shape}"
        )
    return mask


def listed(mask: Any, near: Value) -> Any:
    """A mask as it is, but lists as arrays, where `near` is."""
    return beside(asarray(mask, where=scoped(attention.name)), [raw(near)]) if isinstance(mask, (list, tuple)) else mask


attention, attention_grad = Attention(), AttentionGrad()
