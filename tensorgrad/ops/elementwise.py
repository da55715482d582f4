"""Operations that work on each element alone, with NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import tensorgrad.tensor as tensor
from tensorgrad.backend import Array, Xp, namespace
from tensorgrad.op import Node, Op, Rules, Sample, Value
from tensorgrad.state import state

if TYPE_CHECKING:
    from tensorgrad.tensor import Tensor


class Neg(Op):
    """y = -x

    forward    y  = -x
    backward   gx = -g
    """

    name, signature, symbol = "neg", "()->()", "-"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.negative(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: -g,)


class Add(Op):
    """y = a + b

    forward    y  = a + b
    backward   ga = g,   gb = g
    """

    name, signature, symbol = "add", "(),()->()", "+"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.add(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g, lambda: g


class Sub(Op):
    """y = a - b

    forward    y  = a - b
    backward   ga = g,   gb = -g
    """

    name, signature, symbol = "sub", "(),()->()", "-"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.subtract(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g, lambda: -g


class Mul(Op):
    """y = a b, element by element

    forward    y  = a b
    backward   ga = g b,   gb = g a
    """

    name, signature, symbol, reads = "mul", "(),()->()", "×", "a b"

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.multiply(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g * b, lambda: g * a


class Div(Op):
    """y = a / b

    forward    y  = a / b
    backward   ga = g / b,   gb = -g a / b²
    """

    name, signature, symbol, reads = "div", "(),()->()", "÷", "a b"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.true_divide(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        # g / b first: the square of a large or small b would overflow or vanish before the quotient does
        return lambda: g / b, lambda: -(g / b) * (a / b)


class Power(Op):
    """y = a ** b. A real power: where a is negative, b has to be whole, and then b has no gradient there (NaN).

    forward    y  = a^b
    backward   ga = g b a^(b-1),   gb = g y log(a)
    """

    name, signature, reads = "power", "(),()->()", "y a b"
    domain = (0.4, 3.0)

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.power(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        return lambda: g * b * a ** (b - 1), lambda: g * y * log(a)


class Exp(Op):
    """y = exp(x)

    forward    y  = e^x
    backward   gx = g y
    """

    name, signature, reads = "exp", "()->()", "y"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.exp(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: g * y,)


class Log(Op):
    """y = log(x), the natural logarithm. Of a recorded softmax it is evaluated from the logits .

    forward    y  = ln x
    backward   gx = g / x
    """

    name, signature, reads = "log", "()->()", "x"
    domain = (0.4, 3.0)

    def __call__(self, x: Any) -> Any:
        node = getattr(x, "node", None)
        if node is not None and node.op.name == "softmax" and node.saved and state.fusing:
            return self.of_softmax(x, node)
        return self.apply(x)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.log(x)

    def of_softmax(self, p: Tensor, softmax: Node) -> Tensor:
        """log p, recorded as such, but with the value that the logits give: p itself may have underflowed to 0.

        The node keeps its output, so that fusion can make one log_softmax of the two.
        """
        from tensorgrad.ops.loss import log_softmax

        (z,) = softmax.saved or ()
        value = log_softmax.forward(namespace([z]), z, **softmax.attrs)
        return tensor.wrap(value, Node(self, (softmax,), {}, (p.data,), value, value.shape, value.dtype))

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: g / x,)


class AsType(Op):
    """y = x with another floating dtype

    forward    y  = x
    backward   gx = g, in the dtype of x
    """

    name, signature = "astype", "()->()"

    def __call__(self, x: Any, dtype: Any) -> Any:
        return self.apply(x, dtype=np.dtype(dtype))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"dtype": np.float64}

    def forward(self, xp: Xp, x: Array, *, dtype: Any) -> Array:
        return xp.asarray(x).astype(dtype)

    def backward(self, g: Value, y: Value, x: Value, *, dtype: Any) -> Rules:
        return (lambda: astype(g, x.dtype),)


class Relu(Op):
    """y = max(x, 0). At x = 0 the derivative is taken as 0. A NaN stays a NaN.

    forward    y  = max(x, 0)
    backward   gx = g * [y > 0]
    """

    name, signature, reads = "relu", "()->()", "y"
    kinks = (0.0,)

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.maximum(x, 0)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: relu_grad(g, y),)


class ReluGrad(Op):
    """The gradient that ReLU lets through: exactly 0 where the unit is off, even where g is not finite.

    forward    gx = g * [y > 0]
    backward   gg = h * [y > 0],   gy = 0          (h: the gradient of gx)
    """

    name, signature, reads = "relu_grad", "(),()->()", "unit"
    kinks = (0.0,)

    def forward(self, xp: Xp, g: Array, unit: Array) -> Array:
        # `where` takes 7 times as long on random masks, a product makes NaN of inf * 0; masking the bits does neither.
        bits = np.dtype(f"i{g.dtype.itemsize}")
        keep = xp.negative((unit > 0).view(np.int8), dtype=bits)  # -1 is all ones
        return xp.bitwise_and(keep, g.view(bits)).view(g.dtype)

    def backward(self, h: Value, y: Value, g: Value, unit: Value) -> Rules:
        return lambda: relu_grad(h, unit), None


class Sigmoid(Op):
    """y = 1 / (1 + exp(-x)), the logistic function; 0 and 1 where exp overflows

    forward    y  = 1 / (1 + e^-x)
    backward   gx = g y (1 - y)
    """

    name, signature, symbol, reads = "sigmoid", "()->()", "σ", "y"

    def forward(self, xp: Xp, x: Array) -> Array:
        with np.errstate(over="ignore"):  # e^-x = inf gives the right limit, 0
            y = xp.exp(-x)
        y = y + 1
        return xp.reciprocal(y)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: sigmoid_grad(g, y),)


class SigmoidGrad(Op):
    """The gradient through a sigmoid whose output is s

    forward    gx = g s (1 - s)
    backward   gg = h s (1 - s),   gs = h g (1 - 2 s)          (h: the gradient of gx)
    """

    name, signature, reads = "sigmoid_grad", "(),()->()", "g s"

    def forward(self, xp: Xp, g: Array, s: Array) -> Array:
        return g * s * (1 - s)

    def backward(self, h: Value, y: Value, g: Value, s: Value) -> Rules:
        return lambda: sigmoid_grad(h, s), lambda: h * g * (1 - 2 * s)


class Tanh(Op):
    """y = tanh(x)

    forward    y  = tanh x
    backward   gx = g (1 - y²)
    """

    name, signature, reads = "tanh", "()->()", "y"

    def forward(self, xp: Xp, x: Array) -> Array:
        return xp.tanh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: tanh_grad(g, y),)


class TanhGrad(Op):
    """The gradient through a tanh whose output is t

    forward    gx = g (1 - t²)
    backward   gg = h (1 - t²),   gt = -2 h g t          (h: the gradient of gx)
    """

    name, signature, reads = "tanh_grad", "(),()->()", "g t"

    def forward(self, xp: Xp, g: Array, t: Array) -> Array:
        return g * (1 - t * t)

    def backward(self, h: Value, y: Value, g: Value, t: Value) -> Rules:
        return lambda: tanh_grad(h, t), lambda: -2 * h * g * t


neg, add, sub, mul, div, power = Neg(), Add(), Sub(), Mul(), Div(), Power()
exp, log, astype = Exp(), Log(), AsType()
relu, relu_grad = Relu(), ReluGrad()
sigmoid, sigmoid_grad = Sigmoid(), SigmoidGrad()
tanh, tanh_grad = Tanh(), TanhGrad()
