"""Softmax and losses on logits, without overflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import axis_in, check_memory, dtype_of, integer, number
from tensorgrad.core.backend import Array, Xp, asarray, is_array
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, shape_of
from tensorgrad.core.state import scoped, state, suggesting_keywords
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import DTypeError, ShapeError
from tensorgrad.kernels import common
from tensorgrad.kernels.reference import check_range
from tensorgrad.ops.activation import log_complement_sigmoid, logsigmoid, sigmoid
from tensorgrad.ops.elementwise import astype, mul_grad, mul_tangent
from tensorgrad.ops.exponential import exp
from tensorgrad.ops.index import of_lists
from tensorgrad.ops.shape import rows

__all__ = [
    "log_softmax", "nll_loss", "one_hot", "sigmoid_cross_entropy", "sigmoid_cross_entropy_grad", "softmax",
    "softmax_cross_entropy", "softmax_cross_entropy_grad",
]  # fmt: skip


class Softmax(Op):
    """p = softmax of the logits z over `axis`

    forward    p  = e^z / sum e^z
    backward   gz = p (g - sum(g p))
    tangent    tp = p (tz - sum(tz p))
    """

    # keeps z too, because the log of the result is evaluated from it
    name, signature, reads = "softmax", "(n)->(n)", "y z"
    keeps_origin = True
    real = True
    rowwise = True

    @suggesting_keywords
    def __call__(self, z: Operand[T], axis: int = -1) -> T | Array:
        return self.apply(z, axis=axis if type(axis) is int else integer(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z,), _ = super().sample(rng, sizes)
        return (z,), {"axis": int(rng.integers(-z.ndim, z.ndim))}

    def forward(self, xp: Xp, z: Array, *, axis: int) -> Array:
        if not z.size:
            axis_in(self.name, axis, z.ndim)
            return z.copy()
        with np.errstate(over="ignore"):  # a difference of -inf is right: e^-inf is 0
            e = xp.exp(z - z.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    def backward(self, g: Value, y: Value, z: Value, *, axis: int) -> Rules:
        return (lambda: mul_grad(g - mul_grad(g, y).sum(axis, keepdims=True), y),)

    def jvp(self, y: Value, z: Value, *, axis: int) -> Tangents:
        return (lambda t: mul_tangent(t - mul_tangent(t, y).sum(axis, keepdims=True), y),)


class LogSoftmax(Op):
    """log softmax of the logits z over `axis`, finite for finite z

    forward    y  = z - log sum e^z
    backward   gz = g - e^y sum(g)
    tangent    ty = tz - sum(e^y tz)
    """

    name, signature, reads = "log_softmax", "(n)->(n)", "y"
    real = True
    rowwise = True

    @suggesting_keywords
    def __call__(self, z: Operand[T], axis: int = -1) -> T | Array:
        return self.apply(z, axis=axis if type(axis) is int else integer(self.name, "axis", axis))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z,), _ = super().sample(rng, sizes)
        return (z,), {"axis": int(rng.integers(-z.ndim, z.ndim))}

    def forward(self, xp: Xp, z: Array, *, axis: int) -> Array:
        if not z.size:
            return z.copy()
        if axis in (-1, z.ndim - 1) and type(z) is np.ndarray and (fast := common.log_softmax(z)) is not None:
            return fast
        y = z - z.max(axis, keepdims=True)
        y -= xp.log(xp.exp(y).sum(axis, keepdims=True))
        return y

    def backward(self, g: Value, y: Value, z: Value, *, axis: int) -> Rules:
        return (lambda: g - mul_grad(g.sum(axis, keepdims=True), exp(y)),)

    def jvp(self, y: Value, z: Value, *, axis: int) -> Tangents:
        return (lambda t: t - mul_tangent(t, exp(y)).sum(axis, keepdims=True),)


class OneHot(Op):
    """Class indices as one-hot rows of `classes` numbers. No gradient.

    forward    y[i, k] = [labels[i] = k]
    """

    name, signature = "one_hot", "()->(k)"
    rowwise = True

    def __call__(self, labels: Operand[T], classes: int, dtype: np.typing.DTypeLike = np.float32) -> T | Array:
        labels = as_target(labels, self.name)
        classes, dtype = integer(self.name, "classes", classes, 0), dtype_of(self.name, dtype)
        check_memory(self.name, (*labels.shape, classes), dtype.itemsize + 9)
        return self.apply(labels, classes=classes, dtype=dtype)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return (rng.integers(0, 4, self.parsed.shapes(rng, sizes)[0]),), {"classes": 4, "dtype": np.float64}

    def forward(self, xp: Xp, labels: Array, *, classes: int, dtype: Any) -> Array:
        labels = check_labels(self.name, labels, classes)
        return (labels[..., None] == xp.arange(classes)).astype(dtype)


class NLLLoss(Op):
    """The mean over samples of the negative log-probability of the right class.

    forward    L  = -1/m sum_i logp[i, t_i]                       logp (...,k) for m samples, t (...) class indices
    backward   glogp = -g/m one_hot(t)
    """

    name, signature, reads, data = "nll_loss", "(...,k),(...)->()", "t", "t"
    linear = "logp"
    real = True

    def __call__(self, logp: Operand[T], t: Operand[T]) -> T | Array:
        return self.apply(logp, as_target(t, self.name))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (*axes, classes), _ = self.parsed.shapes(rng, sizes)
        classes = max(classes, 1)  # at least one class, for labels to exist
        return (self.values(rng, (*axes, classes)), rng.integers(0, classes, axes)), {}

    def forward(self, xp: Xp, logp: Array, t: Array) -> Array:
        picked = pick(xp, logp, check_labels(self.name, t, logp.shape[-1], logp.shape[:-1]))
        return picked.sum() * (-1 / max(picked.size, 1))

    def backward(self, g: Value, y: Value, logp: Value, t: Value) -> Rules:
        return (lambda: g * one_hot(t, logp.shape[-1], g.dtype) * (-scale_of(logp, None)), None)


class SoftmaxCrossEntropy(Op):
    """Softmax and cross-entropy of logits in one op, the usual result of a derivation by hand.

    t      class indices (...), or probabilities Y (...,k), of any dtype: the shape tells which. Rows of Y need not sum to 1; dz
           then has softmax(z) sum(Y) in place of softmax(z)
    scale  the weight of a sample, in place of the 1/m of the mean
    logp   log_softmax(z), if it is already computed

    forward    L  = -1/m sum(Y * log softmax(z))                  z (...,k) for m samples, Y = one_hot(t)
    backward   dz = g (softmax(z) - Y) / m
    tangent    tL = -1/m sum(Y * (tz - sum(softmax(z) * tz)))
    """

    name, signature, reads = "softmax_cross_entropy", "(...,k),(...,k?)->()", "z t logp"
    real = True
    data = "t logp"

    def __call__(self, z: Operand[T], t: Operand[T], *, scale: float | None = None) -> T | Array:
        return self.apply(z, as_target(t, self.name), scale=None if scale is None else number(self.name, "scale", scale))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, t), _ = nll_loss.sample(rng, sizes)
        target = t if rng.random() < 0.5 else rng.uniform(0, 1, z.shape)
        return (z, target), {"scale": None if rng.random() < 0.5 else 0.7}

    def forward(self, xp: Xp, z: Array, t: Array, logp: Array | None = None, *, scale: float | None) -> Array:
        logp = log_softmax.forward(xp, z, axis=-1) if logp is None else logp
        if not is_soft(t, z):
            t = check_labels(self.name, t, z.shape[-1], z.shape[:-1])
            return -pick(xp, logp, t).sum() * scale_of(z, scale)
        if t.shape != z.shape:
            raise ValueError("probabilities and logits differ")  # the product would broadcast
        total = xp.vdot(t, logp) if xp is np else np.nan
        if not np.isfinite(total):  # a probability of 0 contributes 0, even for a logit of -inf
            total = mul_grad.forward(xp, t, logp).sum()
        return -total * scale_of(z, scale)

    def backward(self, g: Value, y: Value, z: Value, t: Value, logp: Value | None = None, *, scale: float | None) -> Rules:
        def gz() -> Value:
            log_p = log_softmax(z) if logp is None else logp
            return softmax_cross_entropy_grad(g, log_p, t, scale=scale_of(z, scale))

        return (gz, None) if logp is None else (gz, None, None)

    def jvp(self, y: Value, z: Value, t: Value, logp: Value | None = None, *, scale: float | None) -> Tangents:
        log_p = log_softmax(z) if logp is None else logp
        p = exp(log_p)
        target = astype(t, log_p.dtype) if is_soft(t, log_p) else one_hot(t, log_p.shape[-1], log_p.dtype)

        def tangent(tz: Value) -> Value:
            inner = tz - mul_tangent(tz, p).sum(-1, keepdims=True)
            return mul_tangent(inner, target).sum() * -scale_of(log_p, scale)

        return (tangent, None) if logp is None else (tangent, None, None)


class SoftmaxCrossEntropyGrad(Op):
    """The gradient of softmax-cross-entropy with respect to the logits, from p = e^logp = softmax(z), in one pass over (m, k).

    If rows of Y do not sum to 1, p sum(Y) takes the place of p.

    forward    dz = g scale (p - Y)                               Y = one_hot(t), or the probabilities t
    backward   gg = scale sum(h * (p - Y)),   glogp = h g scale p          (h: the gradient of dz)
    tangent    ty = tg scale (p - Y) + g scale p tlogp
    """

    name, signature, reads = "softmax_cross_entropy_grad", "(),(...,k),(...,k?)->(...,k)", "g logp t"
    data = "t"

    def __call__(self, g: Operand[T], logp: Operand[T], t: Operand[T], *, scale: float) -> T | Array:
        return self.apply(g, logp, as_target(t, self.name), scale=number(self.name, "scale", scale))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, t), _ = softmax_cross_entropy.sample(rng, sizes)
        return (self.values(rng, ()), z, t), {"scale": 0.7}

    def forward(self, xp: Xp, g: Array, logp: Array, t: Array, *, scale: float) -> Array:
        if np.ndim(g):
            raise ValueError("g is not a number")  # it would broadcast; the signature has a better message
        if type(logp) is np.ndarray and (fast := common.cross_entropy_grad(logp, t, g * scale)) is not None:
            return fast
        dz = xp.ascontiguousarray(xp.exp(logp)).reshape(logp.shape)  # contiguous, so that `rows` below is a view
        if is_soft(t, logp):
            dz *= t.sum(-1, keepdims=True, dtype=dz.dtype)
            dz -= t
        else:
            if xp is np:  # CuPy wraps indices around; the loss itself checks labels
                check_labels(self.name, t, logp.shape[-1], logp.shape[:-1])
            flat = rows(dz)
            flat[xp.arange(len(flat)), t.reshape(-1)] -= 1
        dz *= g * scale
        return dz

    def backward(self, h: Value, y: Value, g: Value, logp: Value, t: Value, *, scale: float) -> Rules:
        soft = is_soft(t, logp)
        target = astype(t, logp.dtype) if soft else one_hot(t, logp.shape[-1], logp.dtype)
        total = target.sum(-1, keepdims=True) if soft else 1
        return (
            lambda: mul_grad(h, exp(logp) * total - target).sum() * scale,
            lambda: mul_grad(h * (g * scale), exp(logp)) * total,
            None,
        )

    def jvp(self, y: Value, g: Value, logp: Value, t: Value, *, scale: float) -> Tangents:
        def along_logp(tlogp: Value) -> Value:
            p = exp(logp) * astype(t, logp.dtype).sum(-1, keepdims=True) if is_soft(t, logp) else exp(logp)
            return mul_tangent(tlogp, p) * (g * scale)

        return lambda tg: self.apply(tg, logp, t, scale=scale), along_logp, None


class SigmoidCrossEntropy(Op):
    """The logistic loss of logits, the usual result of a derivation of logistic regression by hand.

    a, b    the weights of both terms, of the shape of z: t and 1 - t for targets t, times sample weights if there are any
    scale   c, the weight of an element: 1/m for the mean of m

    forward    L  = -c sum(a ln σ(z) + b ln(1 - σ(z)))            σ(z) = 1 / (1 + e^-z)
    backward   dz = g c ((a + b) σ(z) - a),   which is g c (σ(z) - t) for a = t, b = 1 - t
    tangent    tL = c sum((b σ(z) - a σ(-z)) tz)
    """

    name, signature, reads = "sigmoid_cross_entropy", "(...),(...),(...)->()", "z a b"
    data = "a b"

    def __call__(self, z: Operand[T], a: Operand[T], b: Operand[T], *, scale: float) -> T | Array:
        return self.apply(z, a, b, scale=scale)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, a, b), _ = super().sample(rng, sizes)
        return (z, np.abs(a), np.abs(b)), {"scale": 0.7}

    def forward(self, xp: Xp, z: Array, a: Array, b: Array, *, scale: float) -> Array:
        if not shape_of(z) == shape_of(a) == shape_of(b):
            raise ValueError("logits and counts differ")  # the products would broadcast
        positive = mul_grad.forward(xp, a, logsigmoid.forward(xp, z))
        return (positive + mul_grad.forward(xp, b, log_complement_sigmoid.forward(xp, z))).sum() * -scale

    def backward(self, g: Value, y: Value, z: Value, a: Value, b: Value, *, scale: float) -> Rules:
        return (lambda: sigmoid_cross_entropy_grad(g, z, a, b, scale=scale), None, None)

    def jvp(self, y: Value, z: Value, a: Value, b: Value, *, scale: float) -> Tangents:
        return lambda t: mul_tangent(t, b * sigmoid(z) - a * sigmoid(-z)).sum() * scale, None, None


class SigmoidCrossEntropyGrad(Op):
    """The gradient of the logistic loss with respect to the logits, element by element.

    forward    dz = g c ((a + b) σ(z) - a) = g c (b σ(z) - a σ(-z))          (c: scale; the latter is exact in both tails)
    backward   gg = h dz / g,   gz = h g c (a + b) σ(z) σ(-z)                (h: the gradient of dz)
    tangent    ty = tg dz / g + tz g c (a + b) σ(z) σ(-z)
    """

    name, signature, reads = "sigmoid_cross_entropy_grad", "(),(),(),()->()", "g z a b"
    data = "a b"

    def __call__(self, g: Operand[T], z: Operand[T], a: Operand[T], b: Operand[T], *, scale: float) -> T | Array:
        return self.apply(g, z, a, b, scale=scale)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (g, z, a, b), _ = super().sample(rng, sizes)
        return (g, z, np.abs(a), np.abs(b)), {"scale": 0.7}

    def forward(self, xp: Xp, g: Array, z: Array, a: Array, b: Array, *, scale: float) -> Array:
        return g * scale * (b * sigmoid.forward(xp, z) - a * sigmoid.forward(xp, -z))

    def backward(self, h: Value, y: Value, g: Value, z: Value, a: Value, b: Value, *, scale: float) -> Rules:
        def gz() -> Value:
            slope = h * g * scale * (sigmoid(z) * sigmoid(-z))
            return a * slope + b * slope  # a + b of small integers could overflow

        return lambda: h * (scale * (b * sigmoid(z) - a * sigmoid(-z))), gz, None, None

    def jvp(self, y: Value, g: Value, z: Value, a: Value, b: Value, *, scale: float) -> Tangents:
        def along_z(t: Value) -> Value:
            slope = mul_tangent(t, sigmoid(z) * sigmoid(-z)) * (g * scale)
            return a * slope + b * slope  # a + b of small integers could overflow

        return lambda t: self.apply(t, z, a, b, scale=scale), along_z, None, None


def is_soft(t: Value, z: Value) -> bool:
    """Whether the target t of logits z is probabilities rather than class indices: it then has the axis of classes."""
    return len(t.shape) == len(z.shape)


def scale_of(z: Value, scale: float | None) -> float:
    """`scale`, or the weight of a sample in the mean."""
    return 1 / max(math.prod(z.shape[:-1]), 1) if scale is None else scale


def pick(xp: Xp, logp: Array, t: Array) -> Array:
    """logp[i, t[i]] for every sample i."""
    flat = rows(logp)
    return flat[xp.arange(len(flat)), t.reshape(-1)]


def as_target(t: Operand[T], op: str = "target") -> T | Array:
    """Labels or probabilities in native byte order; lists become arrays, integers stay integers."""
    if state.trace is not None and not isinstance(t, Tensor) and is_array(t):
        return as_target(wrap(np.asarray(t), None), op)  # recorded, so that replays read the current values
    target: Any = t
    if isinstance(target, Tensor) or is_array(target):
        return target if target.dtype.isnative else astype(target, target.dtype.newbyteorder("="))
    try:
        array = np.asarray(t)
    except ValueError as error:  # ragged list
        raise DTypeError(f"{scoped(op)}: the target is not an array: {error}") from error
    return array if array.dtype.kind in "iu" else asarray(t, where=scoped(op))


def check_labels(op: str, labels: Array, classes: int, shape: tuple[int, ...] | None = None) -> Array:
    """`labels` if they are valid class indices for `classes` classes; otherwise raises an error that says why."""
    if labels.dtype.kind not in "iu":
        got = f"{labels.dtype} of shape {labels.shape}{of_lists(labels)}"
        raise DTypeError(f"{scoped(op)}: labels must be integers (class indices), got {got}")
    if shape is not None and labels.shape != shape:
        raise ShapeError(f"{scoped(op)}: labels have shape {labels.shape}, expected {shape}: one per row of the scores")
    check_range(labels, classes, scoped(op))
    return labels


softmax, log_softmax = Softmax(), LogSoftmax()
softmax.log = log_softmax
one_hot, nll_loss = OneHot(), NLLLoss()
softmax_cross_entropy, softmax_cross_entropy_grad = SoftmaxCrossEntropy(), SoftmaxCrossEntropyGrad()
sigmoid_cross_entropy, sigmoid_cross_entropy_grad = SigmoidCrossEntropy(), SigmoidCrossEntropyGrad()
