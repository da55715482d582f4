"""Matrix products, alone and with what stands around them in a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tensorgrad.backend import Array, Xp
from tensorgrad.errors import ShapeError
from tensorgrad.op import Op, Rules, Sample, Value
from tensorgrad.ops.elementwise import relu_grad, sigmoid, sigmoid_grad, tanh_grad
from tensorgrad.ops.shape import rows


class Matmul(Op):
    """y = a @ b, the matrix product over the last two axes; leading axes broadcast. Vectors as in NumPy.

    forward    y  = a b
    backward   ga = g bᵀ,   gb = aᵀ g
    """

    name, signature, symbol, reads = "matmul", "(m,k),(k,n)->(m,n)", "@", "a b"

    def __call__(self, a: Any, b: Any) -> Any:
        vectors = getattr(a, "ndim", 2) == 1, getattr(b, "ndim", 2) == 1
        if not any(vectors):
            return self.apply(a, b)
        if vectors[0] and a.shape[0] != b.shape[0 if vectors[1] else -2]:
            raise ShapeError(f"matmul: shapes {a.shape} and {b.shape} do not fit; expected (k),(k,n)->(n)")
        if vectors[1] and a.shape[-1] != b.shape[0]:
            raise ShapeError(f"matmul: shapes {a.shape} and {b.shape} do not fit; expected (m,k),(k)->(m)")
        y = self.apply(a.reshape((1, -1)) if vectors[0] else a, b.reshape((-1, 1)) if vectors[1] else b)
        shape = y.shape
        return y.reshape(shape[:-2] + (() if vectors[0] else shape[-2:-1]) + (() if vectors[1] else shape[-1:]))

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return xp.matmul(a, b)

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        if b.ndim == 2:  # one product for all leading axes of a, instead of one each and a sum
            return lambda: g @ b.T, lambda: rows(a).T @ rows(g)
        return lambda: g @ b.swapaxes(-1, -2), lambda: a.swapaxes(-1, -2) @ g


class Linear(Op):
    """y = x W + b, a layer: rows of x are samples, W is (in, out).

    forward    y  = x W + b                                       x (...,k), W (k,n), b (n)
    backward   gx = g Wᵀ,   gW = xᵀ g,   gb = sum of g over samples
    """

    name, signature, reads = "linear", "(...,k),(k,n),(n)->(...,n)", "x w"

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        if w.ndim != 2 or b.shape != w.shape[1:]:
            raise ValueError("weight and bias do not fit")  # where adding would broadcast; the signature says it better
        y = xp.matmul(x, w)
        return xp.add(y, b, out=y if y.dtype == b.dtype else None)

    def backward(self, g: Value, y: Value, x: Value, w: Value, b: Value) -> Rules:
        return lambda: g @ w.T, lambda: rows(x).T @ rows(g), lambda: rows(g).sum(0)


class LinearActivation(Op):
    """A layer and its activation in one: the gradient goes through the activation once, for all three inputs."""

    signature, reads = "(...,k),(k,n),(n)->(...,n)", "y x w"
    gradient: ClassVar[Op]

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x, w, b), _ = super().sample(rng, sizes)
        if self.gradient is relu_grad:  # every unit well on or well off
            b = rng.choice([-1.0, 1.0], b.shape) * (0.3 + np.abs(rows(x) @ w).max(initial=0))
        return (x, w, b), {}

    def backward(self, g: Value, y: Value, x: Value, w: Value, b: Value) -> Rules:
        return linear.backward(self.gradient(g, y), y, x, w, b)


class LinearRelu(LinearActivation):
    """y = relu(x W + b)

    forward    y  = max(x W + b, 0)                               x (...,k), W (k,n), b (n)
    backward   dz = g * [y > 0]
               gx = dz Wᵀ,   gW = xᵀ dz,   gb = sum of dz over samples
    """

    name, gradient = "linear_relu", relu_grad

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        z = linear.forward(xp, x, w, b)
        return xp.maximum(z, 0, out=z)


class LinearSigmoid(LinearActivation):
    """y = sigmoid(x W + b)

    forward    y  = 1 / (1 + e^-(x W + b))                        x (...,k), W (k,n), b (n)
    backward   dz = g y (1 - y)
               gx = dz Wᵀ,   gW = xᵀ dz,   gb = sum of dz over samples
    """

    name, gradient = "linear_sigmoid", sigmoid_grad

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        return sigmoid.forward(xp, linear.forward(xp, x, w, b))


class LinearTanh(LinearActivation):
    """y = tanh(x W + b)

    forward    y  = tanh(x W + b)                                 x (...,k), W (k,n), b (n)
    backward   dz = g (1 - y²)
               gx = dz Wᵀ,   gW = xᵀ dz,   gb = sum of dz over samples
    """

    name, gradient = "linear_tanh", tanh_grad

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        z = linear.forward(xp, x, w, b)
        return xp.tanh(z, out=z)


matmul, linear = Matmul(), Linear()
linear_relu, linear_sigmoid, linear_tanh = LinearRelu(), LinearSigmoid(), LinearTanh()
