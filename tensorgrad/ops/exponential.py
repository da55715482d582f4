"""Powers, exponentials and logarithms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.arithmetic import computed
from tensorgrad.core.backend import Array, Xp, check, is_array, is_floating, is_half, namespace, on
from tensorgrad.core.location import user_location
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op, Rules, Tangents, Value
from tensorgrad.core.operand import Binary, Operand, T, Unary
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ShapeError
from tensorgrad.ops.elementwise import add, astype, div_grad, mul_grad, mul_tangent, neg, sub, where

__all__ = ["exp", "log", "log1p", "power"]


class Power(Binary):
    """y = a ** b. A real power: for negative a, b must be an integer, and has no gradient there (NaN).  0 ** 0 is 1. At a = 0
    the derivative with respect to b is 0 for b > 0, and taken as 0 for b = 0; that of a ** 0 with respect to a is 0 everywhere.
    These are constants: the mixed second derivative, infinite for 0 < b <= 1, is ignored.

    forward    y  = a^b
    backward   ga = g b a^(b-1),   gb = g y log(a)          (0 for b = 0, and 0 for a = 0 <= b)
    tangent    ty = ta b a^(b-1) + tb y log(a)          (0 for b = 0, and 0 for a = 0 <= b)
    """

    name, signature, reads = "power", "(),()->()", "y a b"
    symbol = "**"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        if xp is not np:
            refuse_negative(a, b)
        return xp.power(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        def ga() -> Value:
            if isinstance(b, (int, float)):
                return mul_grad(g, b * a ** (b - 1 if b else 0))
            exponent = b if is_floating(b.dtype) else astype(b, g.dtype)  # b - 1 may not fit its dtype
            # 0 * 0^-1 would be NaN: if both are 0 use 0 * 1^-1, constant in both
            both_zero = where(exponent == 0, a == 0, False)
            return mul_grad(g, where(both_zero, 0.0, exponent) * where(both_zero, 1.0, a) ** (exponent - 1))

        def gb() -> Value:
            if isinstance(a, (int, float)) and a > 0:
                return mul_grad(g, y) * math.log(a)
            # 0 * log 0 would be NaN: if a is 0 and b is not negative, use a = 1
            return mul_grad(g, y * log(where(a == 0, b >= 0, a)))

        return ga, gb

    def jvp(self, y: Value, a: Value, b: Value) -> Tangents:
        def along_a(t: Value) -> Value:
            if isinstance(b, (int, float)):
                return mul_tangent(t, b * a ** (b - 1 if b else 0))
            exponent = b if is_floating(b.dtype) else astype(b, t.dtype)
            both_zero = where(exponent == 0, a == 0, False)  # 0^0 is treated as constant: 0^-1 would be infinite
            return mul_tangent(t, where(both_zero, 0.0, exponent) * where(both_zero, 1.0, a) ** (exponent - 1))

        def along_b(t: Value) -> Value:
            if isinstance(a, (int, float)) and a > 0:
                return mul_tangent(t, y) * math.log(a)
            return mul_tangent(t, y * log(where(a == 0, b >= 0, a)))  # log 1 if a is 0 and b is not negative

        return along_a, along_b


def refuse_negative(a: Array, b: Array) -> None:
    """Refuse integers to negative integer powers on a GPU, as NumPy does: CuPy computes a number. An exponent that is a number
    is checked at once, an array when values are next read.
    """
    are_integers = all(x.dtype.kind in "iub" if is_array(x) else isinstance(x, int) for x in (a, b))
    if not are_integers or (is_array(a) and not a.size):
        return
    message = "Integers to negative integer powers are not allowed"
    if is_array(b):
        check(b < 0, f"power: {message}", ShapeError)  # NumPy raises a ValueError
    elif b < 0:
        raise ValueError(f"{message}.")


class Exp(Unary):
    """y = exp(x)

    forward    y  = e^x
    backward   gx = g y
    tangent    ty = tx y
    """

    name, signature, reads = "exp", "()->()", "y"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.exp(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, y),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, y),)


class Logarithm(Op):
    """A logarithm. For a recorded softmax or sigmoid it is evaluated from the logits, which does not underflow."""

    signature, reads = "()->()", "x"
    real = True

    def __call__(self, x: Operand[T]) -> T | Array:
        if state.batching is not None and (batched := state.batching(self, (x,), {})) is not None:
            return batched  # vmap calls it again with the batched argument
        source = (x.node or getattr(x, "origin", None)) if isinstance(x, Tensor) and state.fusing else None
        if isinstance(x, Tensor) and source is not None:
            if source.op is astype and is_half(source.dtype) and isinstance(source.inputs[0], Node):
                source = source.inputs[0]  # the unrounded result of a traced op in half precision
            closed = closed_form(self, source)
            if closed is not None and closed[1].saved and is_unmodified(x, closed[1]):
                return self.of_result(x, source, *closed[:2])
        return self.apply(x)

    def of_result(self, p: Tensor, source: Node, op: Op, node: Node) -> Tensor:
        """The logarithm of p, computed by `source`, recorded as such, with the value that `op` computes from the logits kept by
        `node`.

        The new node keeps its output, so that fusion can merge it with those that computed p.
        """
        (z,) = node.saved
        with on(z):
            value, narrow = computed(op, namespace([z]), (z,), node.attrs)
            y = value if narrow is None else value.astype(narrow)
        recorded = state.recording and p.requires_grad
        if not recorded and not state.tracing:
            return wrap(y, None)
        logp = wrap(y, Node(self, (source,), {}, (p._data,), value, y.shape, y.dtype, (), recorded, user_location()))
        return logp if logp.dtype == p.dtype else astype(logp, p.dtype)


def is_unmodified(p: Tensor, node: Node) -> bool:
    """Whether neither p nor the kept logits of `node` have been written to."""
    (z,) = node.saved
    if writes.is_lent(p._data):
        return False
    return writes.latest <= node.index or not writes.since(node.index, (z, p._data))


class Log(Logarithm):
    """y = log(x), the natural logarithm. For a recorded softmax or sigmoid it is evaluated from the logits.

    forward    y  = ln x
    backward   gx = g / x
    tangent    ty = tx / x
    """

    name = "log"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.log(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, x),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: div_grad(t, x),)


class Log1p(Logarithm):
    """y = log(1 + x), exact near 0 too; for a recorded sigmoid p, log1p(-p) is evaluated from the logits.

    forward    y  = ln(1 + x)
    backward   gx = g / (1 + x)
    tangent    ty = tx / (1 + x)
    """

    name = "log1p"
    domain = (-0.6, 2.0)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.log1p(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: div_grad(g, 1 + x),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: div_grad(t, x + 1),)


def closed_form(logarithm: Op, node: Node) -> tuple[Op, Node, tuple[Node, ...]] | None:
    """How to evaluate a logarithm of the result of `node` without underflow: the op, the node whose argument it takes, and the
    nodes between that one and the logarithm. None if there is no way.
    """
    if logarithm is log and node.op.log is not None:
        return node.op.log, node, ()
    between: tuple[Node, ...] = ()
    if logarithm is log:
        between = complement_of(node)
    elif logarithm is log1p and node.op is neg:
        between = (node,)
    inner = next((source for source in between[-1].inputs if isinstance(source, Node)), None) if between else None
    if inner is None or inner.op.log_complement is None:
        return None
    return inner.op.log_complement, inner, between


def complement_of(node: Node) -> tuple[Node, ...]:
    """The nodes that compute 1 - p, `node` first; () for others: 1 - p, 1 + -p, -p + 1 or -(p - 1)."""
    if node.op is sub and is_one(node.inputs[0]):
        return (node,)
    for one, other in (node.inputs, node.inputs[::-1]) if node.op is add else ():
        if is_one(one) and isinstance(other, Node) and other.op is neg:
            return node, other
    if node.op is neg and isinstance(inner := node.inputs[0], Node) and inner.op is sub and is_one(inner.inputs[1]):
        return node, inner
    return ()


def is_one(x: Any) -> bool:
    """Whether x is the number 1; an array may change before a compiled step reads it."""
    return isinstance(x, (int, float)) and x == 1


power = Power()
exp, log, log1p = Exp(), Log(), Log1p()
