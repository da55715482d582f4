"""History: the result of a compiled function as a node of the surrounding graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tensorgrad.autograd.walk import grad
from tensorgrad.core import writes
from tensorgrad.core.backend import Array
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op, Rules, Value
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import GraphError


class Result(Op):
    """A result of a compiled function, as an op of the surrounding graph. Its inputs are the Tensors that require a gradient
    among the arguments of the function and the outside Tensors that it reads.

    forward    y  = fn(...)
    backward   gx = the gradient of fn for g, by running the original fn again
    """

    name: ClassVar[str] = "compiled"
    signature: ClassVar[str] = "()->()"

    def __init__(self) -> None:  # not a callable op, so not registered
        self.variadic, self.reads_all, self.reads_some, self.reads_output = True, False, False, False
        self.reads_input = self.takes_data = (False,)

    def forward(self, xp: Any, *xs: Array, **attrs: Any) -> Array:
        raise GraphError("compiled: the result of a compiled function cannot be recomputed; call the original function")

    def backward(self, g: Value, y: Value, *xs: Value, recompute: Callable[[], Tensor], why_not: str, tensors: Any) -> Rules:
        gradients: list[Any] = []

        def gradient(i: int) -> Value:
            if why_not:
                raise GraphError(
                    f"compiled: a gradient is taken through the result of a compiled function that {why_not}; compile the "
                    f"function that calls backward(), or call the original function (its attribute `step`)"
                )
            if not gradients:
                recorded = isinstance(g, Tensor)
                with switched(recording=True):
                    gradients.extend(grad(recompute(), tensors, g, create_graph=recorded, allow_unused=True))
            x_gradient = gradients[i]
            if x_gradient is None:
                return np.zeros(xs[i].shape, xs[i].dtype)
            return x_gradient if isinstance(g, Tensor) else x_gradient._data

        return tuple((lambda i=i: gradient(i)) for i in range(len(xs)))


_result = Result()


def connected(array: Array, tensors: tuple[Tensor, ...], recompute: Callable[[], Tensor], why_not: str) -> Tensor:
    """A result that requires a gradient. tensors: what it depends on;  recompute: computes it again, recorded;  why_not: why
    that is not possible, or ""."""
    inputs = tuple(t.node or t for t in tensors)
    attrs = {"recompute": recompute, "why_not": why_not, "tensors": tensors}
    writes.check_loans()  # earlier writes are part of it
    saved = tuple(t._data for t in tensors)  # so that later changes in place are detected
    return wrap(array, Node(_result, inputs, attrs, saved, None, array.shape, array.dtype))
