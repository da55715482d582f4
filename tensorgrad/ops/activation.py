"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorgrad.core.arguments import choice, number
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Operand, T, Unary
from tensorgrad.core.state import named
from tensorgrad.kernels import common
from tensorgrad.ops.activation_grad import relu_grad, sigmoid_grad, tanh_grad
from tensorgrad.ops.elementwise import clip, minimum, mul_grad, where
from tensorgrad.ops.exponential import exp
from tensorgrad.ops.functions import erf

__all__ = ["elu", "gelu", "hardtanh", "leaky_relu", "logsigmoid", "relu", "sigmoid", "silu", "softplus", "tanh"]

GELU_SCALE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


class Relu(Unary):
    """y = max(x, 0). At x = 0 the derivative is taken as 0. A NaN stays a NaN.

    forward    y  = max(x, 0)
    backward   gx = g * [y > 0]
    """

    name, signature, reads = "relu", "()->()", "y"
    activation = True
    kinks = (0.0,)

    def forward(self, xp: Xp, x: Array) -> Array:
        return common.relu(x) if type(x) is np.ndarray else xp.maximum(x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: relu_grad(g, y),)


class Sigmoid(Unary):
    """y = 1 / (1 + exp(-x)), the logistic function; 0 and 1 where exp overflows

    forward    y  = 1 / (1 + e^-x)
    backward   gx = g y (1 - y)
    """

    # x is kept as well, because the logarithm of the result is evaluated from it
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


class Tanh(Unary):
    """y = tanh(x)

    forward    y  = tanh x
    backward   gx = g (1 - y²)
    """

    name, signature, reads = "tanh", "()->()", "y"
    real = True
    activation = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.tanh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: tanh_grad(g, y),)


class LeakyRelu(Op):
    """x where it is positive, slope x elsewhere. At x = 0 the derivative is taken as slope.

    forward    y  = max(x, 0) + slope min(x, 0)
    backward   gx = g if x > 0 else slope g
    """

    name, signature, reads = "leaky_relu", "()->()", "x"
    real = True
    activation = True
    kinks = (0.0,)

    def __call__(self, x: Operand[T], slope: float = 0.01) -> T | Array:
        return self.apply(x, slope=number(self.name, "slope", slope))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"slope": (0.01, 0.3, -1.0)[rng.integers(3)]}

    def forward(self, xp: Xp, x: Array, *, slope: float) -> Array:
        return xp.maximum(x, 0) + slope * xp.minimum(x, 0)

    def backward(self, g: Value, y: Value, x: Value, *, slope: float) -> Rules:
        return (lambda: where(x > 0, g, slope * g),)


class Elu(Op):
    """x where it is positive, alpha (e^x - 1) elsewhere. At x = 0 the derivative is taken from the left: alpha.

    forward    y  = x if x > 0 else alpha (e^x - 1)
    backward   gx = g if x > 0 else g alpha e^x
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
        # without the minimum e^x would overflow where it is not wanted
        return (lambda: where(x > 0, g, mul_grad(g, alpha * exp(minimum(x, 0)))),)


class Gelu(Op):
    """y = x Φ(x), Φ the normal distribution function: exactly, or with approximate="tanh" as GPT-2 has it.

    Raises ValueError for another `approximate` than "none" and "tanh".

    forward    y  = x Φ(x),   Φ(x) = (1 + erf(x/√2)) / 2
               y  = x (1 + tanh u) / 2,   u = √(2/π) (x + 0.044715 x³)          (tanh)
    backward   gx = g (Φ(x) + x e^(-x²/2) / √(2π))
               gx = g (1 + tanh u + x (1 - tanh² u) u') / 2          (tanh)
    """

    name, signature, reads = "gelu", "()->()", "x"
    real = True
    activation = True

    def __call__(self, x: Operand[T], approximate: str = "none") -> T | Array:
        return self.apply(x, approximate=choice(self.name, "approximate", approximate, ("none", "tanh")))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"approximate": ("none", "tanh")[rng.integers(2)]}

    # Far out x² and x³ overflow; there Φ and tanh are at their limits, so x may as well be at the end of a wide interval.

    def forward(self, xp: Xp, x: Array, *, approximate: str) -> Array:
        if approximate == "none":
            return 0.5 * xp.maximum(x, -40.0) * (1 + erf.forward(xp, x * math.sqrt(0.5)))
        near = xp.clip(x, -10, 10)
        return 0.5 * xp.maximum(x, -10.0) * (1 + xp.tanh(GELU_SCALE * (near + GELU_CUBE * near * near * near)))

    def backward(self, g: Value, y: Value, x: Value, *, approximate: str) -> Rules:
        def exact() -> Value:
            near = clip(x, -40, 40)
            density = exp(-0.5 * near * near) * (1 / math.sqrt(2 * math.pi))
            return mul_grad(g, 0.5 * (1 + erf(x * math.sqrt(0.5))) + near * density)

        def approximated() -> Value:
            near = clip(x, -10, 10)
            square = near * near
            t = tanh(GELU_SCALE * near * (1 + GELU_CUBE * square))
            return mul_grad(g, 0.5 * (1 + t + near * (1 - t * t) * (GELU_SCALE * (1 + 3 * GELU_CUBE * square))))

        return (exact if approximate == "none" else approximated,)


class Silu(Unary):
    """y = x sigmoid(x), also called swish

    forward    y  = x s,   s = 1 / (1 + e^-x)
    backward   gx = g s (1 + x (1 - s))
    """

    name, signature, reads = "silu", "()->()", "x"
    real = True
    activation = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.maximum(x, -1000.0) * sigmoid.forward(xp, x)  # there the other factor is 0; of -inf it would be NaN

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        def gx() -> Value:
            s = sigmoid(x)
            near = clip(x, -1000, 1000)  # far out s is at its limit, and infinity times 0 would be NaN
            return mul_grad(g, s * (1 + near * (1 - s)))

        return (gx,)


class Softplus(Unary):
    """y = log(1 + e^x), without overflow

    forward    y  = ln(1 + e^x)
    backward   gx = g / (1 + e^-x)
    """

    name, signature, reads = "softplus", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.logaddexp(x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, sigmoid(x)),)


class LogSigmoid(Unary):
    """y = log σ(x), σ(x) = 1 / (1 + e^-x): finite wherever x is

    forward    y  = -ln(1 + e^-x)
    backward   gx = g σ(-x)
    """

    name, signature, reads = "logsigmoid", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return -xp.logaddexp(-x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: mul_grad(g, sigmoid(-x)),)


class LogComplementSigmoid(Unary):
    """y = log(1 - σ(x)), σ(x) = 1 / (1 + e^-x): finite wherever x is

    forward    y  = -ln(1 + e^x)
    backward   gx = -g σ(x)
    """

    name, signature, reads = "log_complement_sigmoid", "()->()", "x"
    real = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return -xp.logaddexp(x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -mul_grad(g, sigmoid(x)),)


@named
def hardtanh(x: Operand[T], low: float = -1.0, high: float = 1.0) -> T | Array:
    """x kept within low and high: `clip`, whose derivative is 1 inside and at the bounds, 0 outside."""
    return clip(x, low, high)


relu, sigmoid, tanh = Relu(), Sigmoid(), Tanh()
leaky_relu, elu, gelu, silu, softplus = LeakyRelu(), Elu(), Gelu(), Silu(), Softplus()
logsigmoid, log_complement_sigmoid = LogSigmoid(), LogComplementSigmoid()
sigmoid.log, sigmoid.log_complement = logsigmoid, log_complement_sigmoid
