"""Gradients of activations, as ops."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Rules, Tangents, Value
from tensorgrad.core.operand import Binary
from tensorgrad.kernels import common
from tensorgrad.ops.elementwise import mul_grad, mul_tangent, where

__all__ = ["relu_grad", "sigmoid_grad", "tanh_grad"]


class ReluGrad(Binary):
    """The gradient through a ReLU: exactly 0 where the unit is off, even if g is not finite.

    forward    gx = g * [y > 0]
    backward   gg = h * [y > 0],   gy = 0          (h: the gradient of gx)
    tangent    ty = tg * [unit > 0]
    """

    name, signature, reads = "relu_grad", "(),()->()", "unit"
    kinks = (0.0,)

    def forward(self, xp: Xp, g: Array, unit: Array) -> Array:
        if type(g) is np.ndarray and g.shape == np.shape(unit) and g.dtype == unit.dtype and g.dtype.kind == "f":
            return common.relu_grad(g, unit)
        return xp.where(unit > 0, g, g.dtype.type(0))

    def backward(self, h: Value, y: Value, g: Value, unit: Value) -> Rules:
        return lambda: relu_grad(h, unit), None

    def jvp(self, y: Value, g: Value, unit: Value) -> Tangents:
        return lambda t: where(unit > 0, t, 0), None


class SigmoidGrad(Binary):
    """The gradient through a sigmoid whose output is s

    forward    gx = g s (1 - s)
    backward   gg = h s (1 - s),   gs = h g (1 - 2 s)          (h: the gradient of gx)
    tangent    ty = tg s (1 - s) + ts g (1 - 2 s)
    """

    name, signature, reads = "sigmoid_grad", "(),()->()", "g s"

    def forward(self, xp: Xp, g: Array, s: Array) -> Array:
        return mul_grad.forward(xp, g, s * (1 - s))

    def backward(self, h: Value, y: Value, g: Value, s: Value) -> Rules:
        return lambda: sigmoid_grad(h, s), lambda: mul_grad(mul_grad(h, g), 1 - 2 * s)

    def jvp(self, y: Value, g: Value, s: Value) -> Tangents:
        return lambda t: mul_tangent(t, s * (1 - s)), lambda t: mul_tangent(mul_tangent(t, g), 1 - s - s)


class TanhGrad(Binary):
    """The gradient through a tanh whose output is t

    forward    gx = g (1 - t²)
    backward   gg = h (1 - t²),   gt = -2 h g t          (h: the gradient of gx)
    tangent    ty = tg (1 - t²) - 2 tt g t          (t: the output of the tanh, tt its tangent)
    """

    name, signature, reads = "tanh_grad", "(),()->()", "g t"

    def forward(self, xp: Xp, g: Array, t: Array) -> Array:
        return mul_grad.forward(xp, g, 1 - t * t)

    def backward(self, h: Value, y: Value, g: Value, t: Value) -> Rules:
        return lambda: tanh_grad(h, t), lambda: -2 * mul_grad(mul_grad(h, g), t)

    def jvp(self, y: Value, g: Value, t: Value) -> Tangents:
        return lambda tg: mul_tangent(tg, 1 - t * t), lambda tt: -mul_tangent(mul_tangent(tt, g), t + t)


relu_grad, sigmoid_grad, tanh_grad = ReluGrad(), SigmoidGrad(), TanhGrad()
