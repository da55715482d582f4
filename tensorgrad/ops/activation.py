"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorgrad.core.arguments import choice, number
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, Unary
from tensorgrad.core.state import named
from tensorgrad.kernels import common
from tensorgrad.ops.activation_grad import relu_grad, sigmoid_grad, tanh_grad
from tensorgrad.ops.clip import clip
from tensorgrad.ops.elementwise import minimum, mul_grad, mul_tangent, where
from tensorgrad.ops.exponential import exp
from tensorgrad.ops.functions import erf, square

__all__ = ["elu", "gelu", "hardtanh", "leaky_relu", "logsigmoid", "relu", "sigmoid", "silu", "softplus", "tanh"]

GELU_SCALE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


class Relu(Unary):
    """y = max(x, 0). At x = 0 the derivative is taken as 0. A NaN stays a NaN.

    forward    y  = max(x, 0)
    backward   gx = g * [y > 0]
    tangent    ty = tx * [y > 0]
    """

    name, signature, reads = "relu", "()->()", "y"
    activation = True
    kinks = (0.0,)

    def forward(self, xp: Xp, x: Array) -> Array:
        return common.relu(x) if type(x) is np.ndarray else xp.maximum(x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: relu_grad(g, y),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: where(y > 0, t, 0),)


class Sigmoid(Unary):
    """y = 1 / (1 + exp(-x)), the logistic function; 0 and 1 where exp overflows

    forward    y  = 1 / (1 + e^-x)
    backward   gx = g y (1 - y)
    tangent    ty = tx y (1 - y)
    """

    # keeps x too, because the logarithm of the result is evaluated from it
    name, signature, symbol, reads = "sigmoid", "()->()", "σ", "y x"
    keeps_origin = True
    real = True
    activation = True

    def forward(self, xp: Xp, x: Array) -> Array:
        with np.errstate(over="ignore"):  # e^-x = inf gives the right limit, 0
            y = xp.exp(-x)
        y = y + 1
        return xp.reciprocal(y)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: sigmoid_grad(g, y),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, y * (1 - y)),)


class Tanh(Unary):
    """y = tanh(x)

    forward    y  = tanh x
    backward   gx = g (1 - y²)
    tangent    ty = tx (1 - y²)
    """

    name, signature, reads = "tanh", "()->()", "y"
    real = True
    activation = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.tanh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: tanh_grad(g, y),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, 1 - y * y),)


class LeakyRelu(Op):
    """x where it is positive, slope x elsewhere. At x = 0 the derivative is taken as slope.

    forward    y  = max(x, 0) + slope min(x, 0)            (slope: negative_slope)
    backward   gx = g if x > 0 else slope g
    tangent    ty = tx if x > 0 else slope tx
    """

    name, signature, reads = "leaky_relu", "()->()", "x"
    real = True
    activation = True
    kinks = (0.0,)

    def __call__(self, x: Operand[T], negative_slope: float = 0.01) -> T | Array:
        return self.apply(x, negative_slope=number(self.name, "negative_slope", negative_slope))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"negative_slope": (0.01, 0.3, -1.0)[rng.integers(3)]}

    def forward(self, xp: Xp, x: Array, *, negative_slope: float) -> Array:
        return xp.maximum(x, 0) + negative_slope * xp.minimum(x, 0)

    def backward(self, g: Value, y: Value, x: Value, *, negative_slope: float) -> Rules:
        return (lambda: where(x > 0, g, negative_slope * g),)

    def jvp(self, y: Value, x: Value, *, negative_slope: float) -> Tangents:
        return (lambda t: where(x > 0, t, mul_tangent(t, negative_slope)),)


class Elu(Op):
    """x where it is positive, alpha (e^x - 1) elsewhere. At x = 0 the derivative is taken from the left: alpha.

    forward    y  = x if x > 0 else alpha (e^x - 1)
    backward   gx = g if x > 0 else g alpha e^x
    tangent    ty = tx if x > 0 else tx alpha e^x
    """

    name, signature, reads = "elu", "()->()", "x"
    real = True
    activation = True
    kinks = (0.0,)

    def __call__(self, x: Operand[T], alpha: float = 1.0) -> T | Array:
        return self.apply(x, alpha=number(self.name, "alpha", alpha))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"alpha": (1.0, 0.5)[rng.integers(2)]}

    def forward(self, xp: Xp, x: Array, *, alpha: float) -> Array:
        return xp.maximum(x, 0) + alpha * xp.expm1(xp.minimum(x, 0))

    def backward(self, g: Value, y: Value, x: Value, *, alpha: float) -> Rules:
        # without the minimum e^x would overflow where it is not used
        return (lambda: where(x > 0, g, mul_grad(g, alpha * exp(minimum(x, 0)))),)

    def jvp(self, y: Value, x: Value, *, alpha: float) -> Tangents:
        return (lambda t: where(x > 0, t, mul_tangent(t, exp(minimum(x, 0)) * alpha)),)


class Gelu(Op):
    """y = x Φ(x), Φ being the normal distribution function: exact, or the tanh approximation of GPT-2 with approximate="tanh".

    Raises ValueError unless `approximate` is "none" or "tanh".

    forward    y  = x Φ(x),   Φ(x) = (1 + erf(x/√2)) / 2
               y  = x (1 + tanh u) / 2,   u = √(2/π) (x + 0.044715 x³)          (tanh)
    backward   gx = g (Φ(x) + x e^(-x²/2) / √(2π))
               gx = g (1 + tanh u + x (1 - tanh² u) u') / 2          (tanh)
    tangent    ty = tx (Φ(x) + x e^(-x²/2) / √(2π))
               ty = tx (1 + tanh u + x (1 - tanh² u) u') / 2          (tanh)
    """

    name, signature, reads = "gelu", "()->()", "x"
    real = True
    activation = True

    def __call__(self, x: Operand[T], approximate: str = "none") -> T | Array:
        return self.apply(x, approximate=choice(self.name, "approximate", approximate, ("none", "tanh")))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"approximate": ("none", "tanh")[rng.integers(2)]}

    # For large |x|, x² and x³ overflow; Φ and tanh are constant there, so x can be clipped to a wide interval.

    def forward(self, xp: Xp, x: Array, *, approximate: str) -> Array:
        formula = gelu_of if approximate == "none" else gelu_by_tanh
        return common.computed(formula, x) if xp is np else formula(x, xp)

    def backward(self, g: Value, y: Value, x: Value, *, approximate: str) -> Rules:
        return (lambda: common.computed(gelu_grad if approximate == "none" else gelu_grad_by_tanh, g, x),)

    def jvp(self, y: Value, x: Value, *, approximate: str) -> Tangents:
        def exact(t: Value) -> Value:
            clipped = clip(x, -40, 40)
            share = (1 + erf(x * math.sqrt(0.5))) / 2
            return mul_tangent(t, share + clipped * exp(-(clipped * clipped) / 2) / math.sqrt(2 * math.pi))

        def approximated(t: Value) -> Value:
            clipped = clip(x, -10, 10)
            h = tanh(GELU_SCALE * (clipped + GELU_CUBE * clipped * clipped * clipped))
            slope = GELU_SCALE + 3 * GELU_SCALE * GELU_CUBE * clipped * clipped  # u'
            return mul_tangent(t, (1 + h) / 2 + clipped / 2 * ((1 - h * h) * slope))

        return (exact if approximate == "none" else approximated,)


def gelu_of(x: Array, xp: Xp = np) -> Array:
    """x Φ(x)"""
    return 0.5 * xp.maximum(x, -40.0) * (1 + erf.forward(xp, x * math.sqrt(0.5)))


def gelu_by_tanh(x: Array, xp: Xp = np) -> Array:
    """x (1 + tanh u) / 2"""
    clipped = xp.clip(x, -10, 10)
    return 0.5 * xp.maximum(x, -10.0) * (1 + xp.tanh(GELU_SCALE * (clipped + GELU_CUBE * clipped * clipped * clipped)))


def gelu_grad(g: Value, x: Value) -> Value:
    """g (Φ(x) + x e^(-x²/2) / √(2π))"""
    clipped = clip(x, -40, 40)
    density = exp(-0.5 * square(clipped)) * (1 / math.sqrt(2 * math.pi))
    return mul_grad(g, 0.5 * (1 + erf(x * math.sqrt(0.5))) + clipped * density)


def gelu_grad_by_tanh(g: Value, x: Value) -> Value:
    """g (1 + tanh u + x (1 - tanh² u) u') / 2"""
    clipped = clip(x, -10, 10)
    square = clipped * clipped
    t = tanh(GELU_SCALE * clipped * (1 + GELU_CUBE * square))
    return mul_grad(g, 0.5 * (1 + t + clipped * (1 - t * t) * (GELU_SCALE * (1 + 3 * GELU_CUBE * square))))


class Silu(Unary):
    """y = x sigmoid(x), also called swish

    forward    y  = x s,   s = 1 / (1 + e^-x)
    backward   gx = g s (1 + x (1 - s))
    tangent    ty = tx s (1 + x (1 - s))
    """

    name, signature, reads = "silu", "()->()", "x"
    real = True
    activation = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.maximum(x, -1000.0) * sigmoid.forward(xp, x)  # for x < -1000 the other factor is 0; 0 times -inf would be NaN

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: common.computed(silu_grad, g, x),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        def ty(t: Value) -> Value:
            s, clipped = sigmoid(x), clip(x, -1000, 1000)
            return mul_tangent(t, s + clipped * s * (1 - s))

        return (ty,)


def silu_grad(g: Value, x: Value) -> Value:
    """g s (1 + x (1 - s)), s = 1 / (1 + e^-x)"""
    s = sigmoid(x)
    clipped = clip(x, -1000, 1000)  # beyond, s is constant, and infinity times 0 would be NaN
    return mul_grad(g, s * (1 + clipped * (1 - s)))


def softplus_grad(g: Value, x: Value) -> Value:
    """g / (1 + e^-x)"""
    return mul_grad(g, sigmoid(x))


def logsigmoid_grad(g: Value, x: Value) -> Value:
    """g σ(-x)"""
    return mul_grad(g, sigmoid(-x))


class Softplus(Unary):
    """y = log(1 + e^x), without overflow

    forward    y  = ln(1 + e^x)
    backward   gx = g / (1 + e^-x)
    tangent    ty = tx / (1 + e^-x)
    """

    name, signature, reads = "softplus", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.logaddexp(x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: common.computed(softplus_grad, g, x),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, sigmoid(x)),)


class LogSigmoid(Unary):
    """y = log σ(x), σ(x) = 1 / (1 + e^-x): finite for finite x

    forward    y  = -ln(1 + e^-x)
    backward   gx = g σ(-x)
    tangent    ty = tx σ(-x)
    """

    name, signature, reads = "logsigmoid", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return -xp.logaddexp(-x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: common.computed(logsigmoid_grad, g, x),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(t, sigmoid(-x)),)


class LogComplementSigmoid(Unary):
    """y = log(1 - σ(x)), σ(x) = 1 / (1 + e^-x): finite for finite x

    forward    y  = -ln(1 + e^x)
    backward   gx = -g σ(x)
    tangent    ty = -tx σ(x)
    """

    name, signature, reads = "log_complement_sigmoid", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return -xp.logaddexp(x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -mul_grad(g, sigmoid(x)),)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: mul_tangent(-t, sigmoid(x)),)


@named
def hardtanh(x: Operand[T], min_val: float = -1.0, max_val: float = 1.0) -> T | Array:
    """y = min(max(x, min_val), max_val): `clip`, whose derivative is 1 inside and at the bounds, 0 outside."""
    return clip(x, min_val, max_val)


relu, sigmoid, tanh = Relu(), Sigmoid(), Tanh()
leaky_relu, elu, gelu, silu, softplus = LeakyRelu(), Elu(), Gelu(), Silu(), Softplus()
logsigmoid, log_complement_sigmoid = LogSigmoid(), LogComplementSigmoid()
sigmoid.log, sigmoid.log_complement = logsigmoid, log_complement_sigmoid
