"""More activations, as functions. `nn.functional` has them all under the same names."""

from __future__ import annotations

from typing import Any

from tensorgrad.core.arguments import axis_in, number
from tensorgrad.core.backend import Array
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import one_box
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.ops.activation import elu, relu, sigmoid, softplus, tanh
from tensorgrad.ops.clip import clip
from tensorgrad.ops.compare import greater
from tensorgrad.ops.elementwise import abs, as_narrow, as_wide, maximum, minimum, where
from tensorgrad.ops.index import getitem
from tensorgrad.ops.linalg import as_operand, scoped
from tensorgrad.ops.loss import softmax
from tensorgrad.ops.shape import reshape

__all__ = [
    "celu", "glu", "hardshrink", "hardsigmoid", "hardswish", "mish", "prelu", "relu6", "selu", "softmin", "softshrink",
    "softsign", "tanhshrink", "threshold",
]  # fmt: skip

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., Self-normalizing networks, 2017


@one_box
def prelu(x: Operand[T], weight: Operand[T]) -> T | Array:
    """y = max(x, 0) + weight min(x, 0). At x = 0 the derivative is taken as weight.

    weight   (1), or (c): one number per channel (axis 1 of x (n,c,...))

    Raises ShapeError for a weight of another shape.
    """
    x, weight = as_operand("prelu", x), as_operand("prelu", weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim != 1 or weight.shape[0] not in (1, channels):
        raise ShapeError(f"{scoped('prelu')}: weight has shape {weight.shape}, expected (1,) or ({channels},) for {x.shape}")
    per_channel: Any = reshape(weight, (weight.shape[0],) + (1,) * max(x.ndim - 2, 0)) if x.ndim else reshape(weight, ())
    return relu(x) + per_channel * minimum(x, 0)


@one_box
def relu6(x: Operand[T]) -> T | Array:
    """y = min(max(x, 0), 6). The derivative is 0 at 0 and 1 at 6."""
    return minimum(relu(as_operand("relu6", x)), 6)


@one_box
def selu(x: Operand[T]) -> T | Array:
    """y = s (x if x > 0 else a (e^x - 1)), s = 1.0507 and a = 1.6733, which preserve mean 0 and variance 1."""
    return elu(as_operand("selu", x), SELU_ALPHA) * SELU_SCALE


@one_box
def celu(x: Operand[T], alpha: float = 1.0) -> T | Array:
    """y = x if x > 0 else alpha (e^(x/alpha) - 1), with a continuous derivative. Raises ValueError unless alpha > 0."""
    alpha = number("celu", "alpha", alpha)
    if not alpha > 0:
        raise ArgumentError(f"{scoped('celu')}: alpha must be positive, got {alpha}")
    x = as_operand("celu", x)
    wide: Any = as_wide(x)
    return as_narrow(elu(wide * (1 / alpha)) * alpha, x)


@one_box
def glu(x: Operand[T], axis: int = -1) -> T | Array:
    """y = a σ(b), a being the first and b the second half of x along `axis`; σ(b) = 1 / (1 + e^-b).

    Raises ShapeError for an axis of odd size.
    """
    x = as_operand("glu", x)
    axis = axis_in("glu", axis, x.ndim)
    if x.shape[axis] % 2:
        raise ShapeError(f"{scoped('glu')}: axis {axis} of shape {x.shape} has odd size, expected an even size")
    half, before = x.shape[axis] // 2, (slice(None),) * axis
    return getitem(x, (*before, slice(None, half))) * sigmoid(getitem(x, (*before, slice(half, None))))


@one_box
def hardsigmoid(x: Operand[T]) -> T | Array:
    """y = min(max(x + 3, 0), 6) / 6"""
    return sixths(as_operand("hardsigmoid", x))


@one_box
def hardswish(x: Operand[T]) -> T | Array:
    """y = x min(max(x + 3, 0), 6) / 6"""
    x = as_operand("hardswish", x)
    return maximum(x, -3) * sixths(x)  # for x < -3 the other factor is 0; 0 times -inf would be NaN


@one_box
def mish(x: Operand[T]) -> T | Array:
    """y = x tanh(ln(1 + e^x))"""
    x = as_operand("mish", x)
    return maximum(x, -1000) * tanh(softplus(x))  # for x < -1000 the other factor is 0; 0 times -inf would be NaN


@one_box
def softsign(x: Operand[T]) -> T | Array:
    """y = x / (1 + |x|)"""
    x = as_operand("softsign", x)
    return x / (1 + abs(x))


@one_box
def tanhshrink(x: Operand[T]) -> T | Array:
    """y = x - tanh(x)"""
    x = as_operand("tanhshrink", x)
    return x - tanh(x)


@one_box
def softshrink(x: Operand[T], lambd: float = 0.5) -> T | Array:
    """y = x - min(max(x, -lambd), lambd): x moved towards 0 by lambd. Raises ValueError unless lambd >= 0."""
    lambd = at_least_0("softshrink", lambd)
    x = as_operand("softshrink", x)
    return x - clip(x, -lambd, lambd)


@one_box
def hardshrink(x: Operand[T], lambd: float = 0.5) -> T | Array:
    """y = x where |x| > lambd, 0 elsewhere. Raises ValueError unless lambd >= 0."""
    lambd = at_least_0("hardshrink", lambd)
    x = as_operand("hardshrink", x)
    return where(greater(abs(x), lambd), x, 0)


@one_box
def threshold(x: Operand[T], threshold: float, value: float) -> T | Array:
    """y = x where x > threshold, value elsewhere."""
    x = as_operand("threshold", x)
    bound, fill = number("threshold", "threshold", threshold), number("threshold", "value", value)
    return where(greater(x, bound), x, fill)


@one_box
def softmin(x: Operand[T], axis: int = -1) -> T | Array:
    """y = exp(-x) / sum of exp(-x) over `axis`"""
    return softmax(-as_operand("softmin", x), axis)


def sixths(x: Any) -> Any:
    """(x + 3) / 6, clipped to 0 .. 1."""
    return minimum(relu(x + 3), 6) * (1 / 6)


def at_least_0(op: str, lambd: Any) -> Any:
    lambd = number(op, "lambd", lambd)
    if not lambd >= 0:
        raise ArgumentError(f"{scoped(op)}: lambd must be at least 0, got {lambd}")
    return lambd
