"""Tensor: an array, its gradient, and the node that made it. Operators and methods only; the rules stand in ops/."""

# mypy: disable-error-code="no-any-return"
# (an op returns an array for arrays and a Tensor for Tensors, which no type says; here they are Tensors)

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorgrad import backend, ops
from tensorgrad.backend import Array
from tensorgrad.errors import DTypeError, GraphError

if TYPE_CHECKING:
    from tensorgrad.op import Node

Axis = int | tuple[int, ...] | None


class Tensor:
    """An n-dimensional array that remembers how it was computed.

    data           numbers, nested lists of numbers (float32 unless `dtype` says otherwise), or an array (its dtype is
                   kept). Always copied, so that nothing outside can change it under the graph.
    requires_grad  record what is computed from it, and give it a `.grad` in `backward()`. Floating dtypes only.
    dtype          a floating, integer or boolean dtype
    name           how drawings, listings and errors call it

    Raises DTypeError for data that are not numbers, and for `requires_grad=True` with integers or booleans.
    """

    __slots__ = ("data", "grad", "node", "requires_grad", "name", "__weakref__")
    __array_ufunc__ = None  # so that `ndarray * Tensor` comes to Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False, *, dtype: Any = None, name: str = "") -> None:
        if isinstance(data, Tensor):
            data = data.data
        array = backend.asarray(data, dtype)
        self.data: Array = array.copy()
        self.grad: Tensor | None = None
        self.node: Node | None = None
        self.requires_grad = False
        self.name = name
        if requires_grad:
            self.requires_grad_()

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def is_leaf(self) -> bool:
        """Whether it was given, not computed from Tensors that require a gradient."""
        return self.node is None

    def numpy(self) -> Array:
        """The values as a NumPy array, sharing memory where they are in main memory already."""
        return self.data if isinstance(self.data, np.ndarray) else self.data.get()

    def item(self) -> float | int | bool:
        """The one value as a Python number. Raises ValueError for more than one."""
        return self.data.item()

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        made = f", op={self.node.op.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        name = f", name={self.name!r}" if self.name else ""
        kind = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        return f"Tensor({np.array2string(self.numpy(), separator=', ', prefix='Tensor(')}{kind}{made}{name})"

    # Gradients

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Say whether this leaf gets a gradient, and return it."""
        if requires_grad and self.dtype.kind != "f":
            raise DTypeError(
                f"Tensor: requires_grad=True needs a floating dtype, got {self.dtype}; "
                f"integers and booleans have no gradient (convert with dtype='float32')"
            )
        if self.node is not None and not requires_grad:
            raise GraphError(f"requires_grad_: this Tensor was computed by {self.node.op.name}; use .detach()")
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Ask `backward()` to leave a `.grad` on this computed Tensor too."""
        if not self.requires_grad:
            raise GraphError("retain_grad: this Tensor does not require a gradient")
        if self.node is not None:
            self.node.retain = weakref.ref(self)

    def detach(self) -> Tensor:
        """The same values, sharing memory, with no history."""
        return wrap(self.data, None)

    def backward(self, gradient: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Add the gradient of this Tensor to the `.grad` of every leaf that it was computed from.

        gradient       the gradient of the loss with respect to this Tensor, of its shape; only a 0-d Tensor can go without
        retain_graph   keep what a second `backward()` needs (default: the value of create_graph)
        create_graph   record the backward pass, so that the gradients can be differentiated again

        Raises GraphError if this Tensor has no history, is not a scalar and `gradient` is missing, or if an earlier
        `backward()` let go of the graph; ShapeError if `gradient` has another shape.
        """
        from tensorgrad.autograd import backward

        backward(self, gradient, retain_graph=retain_graph, create_graph=create_graph)

    # Operators

    def __neg__(self) -> Tensor:
        return ops.neg(self)

    def __add__(self, other: Any) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return ops.sub(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return ops.sub(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return ops.mul(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return ops.mul(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return ops.div(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return ops.div(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return ops.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return ops.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    # Elementwise

    def exp(self) -> Tensor:
        return ops.exp(self)

    def log(self) -> Tensor:
        return ops.log(self)

    def relu(self) -> Tensor:
        return ops.relu(self)

    def sigmoid(self) -> Tensor:
        return ops.sigmoid(self)

    def tanh(self) -> Tensor:
        return ops.tanh(self)

    def astype(self, dtype: Any) -> Tensor:
        return ops.astype(self, dtype)

    # Reductions

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.mean(self, axis, keepdims)

    def softmax(self, axis: int = -1) -> Tensor:
        return ops.softmax(self, axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        return ops.log_softmax(self, axis)

    # Shape

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> Tensor:
        return ops.transpose(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return ops.swapaxes(self, axis1, axis2)

    @property
    def T(self) -> Tensor:
        return ops.transpose(self)


def wrap(data: Array, node: Node | None) -> Tensor:
    """A Tensor around `data` without copying or checking: what the engine makes its results with."""
    t = Tensor.__new__(Tensor)
    t.data = data
    t.grad = None
    t.node = node
    t.requires_grad = node is not None and node.requires_grad
    t.name = ""
    return t
