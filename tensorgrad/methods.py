# mypy: disable-error-code="no-any-return"
# (an op returns an array for arrays and a Tensor for Tensors, which no type says; here they are Tensors)
"""The face of a Tensor: its operators and methods. Each is one op, by NumPy's or PyTorch's name, a walk, or a drawing.

They stand above what they call, and are put on the Tensor when the package is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad import ops, protocols
from tensorgrad.autograd import fusion, walk
from tensorgrad.core import backend, writes
from tensorgrad.core.face import Face
from tensorgrad.core.graph import Graph
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import DTypeError, GraphError, ShapeError

Axis = int | tuple[int, ...] | None


class Methods(Tensor):
    """What is put on the Tensor; nobody makes one of these. The formulas stand at the ops, in ops/."""

    __slots__ = ()

    # Operators

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return ops.equal(self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return ops.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return ops.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return ops.greater_equal(self, other)

    def __invert__(self) -> Tensor:
        if self.dtype.kind == "f":
            raise DTypeError(f"~: expected booleans or integers, got {self.dtype}")
        if self.dtype.kind == "b":
            return ops.logical_not(self)
        ones = -1 if self.dtype.kind == "i" else int(np.iinfo(self.dtype).max)  # in every bit
        return ops.sub(ones, self)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __pos__(self) -> Tensor:
        return ops.mul(self, 1)

    def __floordiv__(self, other: Any) -> Tensor:
        return ops.floordiv(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return ops.floordiv(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return ops.mod(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return ops.mod(other, self)

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

    def abs(self) -> Tensor:
        return ops.abs(self)

    def sign(self) -> Tensor:
        return ops.sign(self)

    def exp(self) -> Tensor:
        return ops.exp(self)

    def expm1(self) -> Tensor:
        return ops.expm1(self)

    def log(self) -> Tensor:
        return ops.log(self)

    def log1p(self) -> Tensor:
        return ops.log1p(self)

    def log2(self) -> Tensor:
        return ops.log2(self)

    def sqrt(self) -> Tensor:
        return ops.sqrt(self)

    def square(self) -> Tensor:
        return ops.square(self)

    def reciprocal(self) -> Tensor:
        return ops.reciprocal(self)

    def sin(self) -> Tensor:
        return ops.sin(self)

    def cos(self) -> Tensor:
        return ops.cos(self)

    def tan(self) -> Tensor:
        return ops.tan(self)

    def arcsin(self) -> Tensor:
        return ops.arcsin(self)

    def arccos(self) -> Tensor:
        return ops.arccos(self)

    def arctan(self) -> Tensor:
        return ops.arctan(self)

    def sinh(self) -> Tensor:
        return ops.sinh(self)

    def cosh(self) -> Tensor:
        return ops.cosh(self)

    def tanh(self) -> Tensor:
        return ops.tanh(self)

    def erf(self) -> Tensor:
        return ops.erf(self)

    def sigmoid(self) -> Tensor:
        return ops.sigmoid(self)

    def relu(self) -> Tensor:
        return ops.relu(self)

    def silu(self) -> Tensor:
        return ops.silu(self)

    def softplus(self) -> Tensor:
        return ops.softplus(self)

    def logsigmoid(self) -> Tensor:
        return ops.logsigmoid(self)

    def floor(self) -> Tensor:
        return ops.floor(self)

    def ceil(self) -> Tensor:
        return ops.ceil(self)

    def trunc(self) -> Tensor:
        return ops.trunc(self)

    def isnan(self) -> Tensor:
        return ops.isnan(self)

    def isfinite(self) -> Tensor:
        return ops.isfinite(self)

    def round(self, decimals: int = 0) -> Tensor:
        return ops.round(self, decimals)

    def clip(self, low: Any = None, high: Any = None) -> Tensor:
        return ops.clip(self, low, high)

    def maximum(self, other: Any) -> Tensor:
        return ops.maximum(self, other)

    def minimum(self, other: Any) -> Tensor:
        return ops.minimum(self, other)

    def leaky_relu(self, slope: float = 0.01) -> Tensor:
        return ops.leaky_relu(self, slope)

    def elu(self, alpha: float = 1.0) -> Tensor:
        return ops.elu(self, alpha)

    def gelu(self, approximate: str = "none") -> Tensor:
        return ops.gelu(self, approximate)

    def astype(self, dtype: Any) -> Tensor:
        return ops.astype(self, dtype)

    # Reductions

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.mean(self, axis, keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.prod(self, axis, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.max(self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.min(self, axis, keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.any(self, axis, keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.all(self, axis, keepdims)

    def logsumexp(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.logsumexp(self, axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return ops.argmax(self, axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return ops.argmin(self, axis, keepdims)

    def var(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        return ops.var(self, axis, ddof, keepdims)

    def std(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        return ops.std(self, axis, ddof, keepdims)

    def norm(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return ops.norm(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> Tensor:
        return ops.cumsum(self, axis)

    def softmax(self, axis: int = -1) -> Tensor:
        return ops.softmax(self, axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        return ops.log_softmax(self, axis)

    # Shape

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> Tensor:
        return ops.transpose(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None)

    def permute(self, *axes: Any) -> Tensor:
        return self.transpose(*axes)

    @property
    def T(self) -> Tensor:
        return ops.transpose(self)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return ops.swapaxes(self, axis1, axis2)

    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        return ops.moveaxis(self, source, destination)

    def flatten(self, start_axis: int = 0) -> Tensor:
        return ops.flatten(self, start_axis)

    def squeeze(self, axis: Axis = None) -> Tensor:
        return ops.squeeze(self, axis)

    def expand_dims(self, axis: int | tuple[int, ...]) -> Tensor:
        return ops.expand_dims(self, axis)

    def broadcast_to(self, shape: tuple[int, ...]) -> Tensor:
        return ops.broadcast_to(self, shape)

    def split(self, sections: Any, axis: int = 0) -> tuple[Tensor, ...]:
        return ops.split(self, sections, axis)

    def flip(self, axis: Axis = None) -> Tensor:
        return ops.flip(self, axis)

    def roll(self, shift: Any, axis: int | None = None) -> Tensor:
        return ops.roll(self, shift, axis)

    def tile(self, reps: Any) -> Tensor:
        return ops.tile(self, reps)

    def repeat(self, repeats: int, axis: int | None = None) -> Tensor:
        return ops.repeat(self, repeats, axis)

    def pad(self, width: Any, value: float = 0.0) -> Tensor:
        return ops.pad(self, width, value)

    # Elements

    def take(self, indices: Any, axis: int | None = None) -> Tensor:
        return ops.take(self, indices, axis)

    def take_along_axis(self, indices: Any, axis: int | None = -1) -> Tensor:
        return ops.take_along_axis(self, indices, axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        return ops.diagonal(self, offset, axis1, axis2)

    def tril(self, k: int = 0) -> Tensor:
        return ops.tril(self, k)

    def triu(self, k: int = 0) -> Tensor:
        return ops.triu(self, k)

    # Linear algebra

    def matmul(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def dot(self, other: Any) -> Tensor:
        return ops.dot(self, other)

    def outer(self, other: Any) -> Tensor:
        return ops.outer(self, other)

    def trace(self) -> Tensor:
        return ops.trace(self)

    def inv(self) -> Tensor:
        return ops.inv(self)

    def det(self) -> Tensor:
        return ops.det(self)

    def cholesky(self) -> Tensor:
        return ops.cholesky(self)

    def to(self, device: Any = None, dtype: Any = None) -> Tensor:
        """It on another device, in another dtype, or both, recorded; itself where nothing is to be changed.

        device   "cpu", "cuda", "cuda:1", or another Tensor, to be as that one; a dtype may stand here alone
        """
        if isinstance(device, Tensor):
            device, dtype = device.device, dtype or device.dtype
        elif device is not None and not str(device).startswith(("cpu", "cuda")):
            device, dtype = None, device
        moved = self if device is None else ops.to_device(self, device)
        return moved if dtype is None or np.dtype(dtype) == moved.dtype else ops.astype(moved, dtype)

    def cpu(self) -> Tensor:
        """It in main memory."""
        return self.to("cpu")

    def cuda(self, index: int | None = None) -> Tensor:
        """It on a GPU: the current one, or the one with this index."""
        return self.to("cuda" if index is None else f"cuda:{index}")

    def graph(self, **options: Any) -> Any:
        """The drawing of what it was computed by: `tensorgrad.draw.graph(self, **options)`."""
        from tensorgrad import draw

        return draw.graph(self, **options)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return protocols.array_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return protocols.array_function(func, args, kwargs)

    def backward(self, gradient: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Add the gradient of this Tensor to the `.grad` of every leaf that it was computed from.

        gradient       the gradient of the loss with respect to this Tensor, of its shape; only a 0-d Tensor can go without
        retain_graph   keep what a second `backward()` needs (default: the value of create_graph)
        create_graph   record the backward pass, so that the gradients can be differentiated again

        Raises GraphError if this Tensor has no history, is not a scalar and `gradient` is missing, or if an earlier
        `backward()` let go of the graph; ShapeError if `gradient` has another shape.
        """
        walk.backward(self, gradient, retain_graph=retain_graph, create_graph=create_graph)

    # In place

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.requires_grad or (isinstance(value, Tensor) and value.requires_grad) or state.trace is not None:
            self._write(lambda x: ops.setitem(x, value, index))
        else:
            self._write_raw(index, value)

    def __iadd__(self, other: Any) -> Tensor:
        return self._write(lambda x: x + other)

    def __isub__(self, other: Any) -> Tensor:
        return self._write(lambda x: x - other)

    def __imul__(self, other: Any) -> Tensor:
        return self._write(lambda x: x * other)

    def __itruediv__(self, other: Any) -> Tensor:
        return self._write(lambda x: x / other)

    def _write(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Put `change` of this Tensor in its place, in its own memory, and record it as its new history.

        Whatever kept the old values for its gradient finds out in `backward()`, which then raises.
        """
        if self.node is None and self.requires_grad and state.recording:
            raise GraphError(
                "in-place change: this is a leaf that requires a gradient; change it inside `with no_grad():`, "
                "or compute a new Tensor from it"
            )
        before = wrap(backend.copy(self.data), self.node)
        if state.trace is not None and self.node is None:
            state.trace.makes(before, self)
        after = change(before)
        if after.shape != self.shape:
            raise ShapeError(f"in-place change: the result has shape {after.shape}, the Tensor {self.shape}")
        if after.dtype != self.dtype:
            if after.dtype.kind != self.dtype.kind:
                raise DTypeError(f"in-place change: a result of {after.dtype} does not fit into a Tensor of {self.dtype}")
            after = ops.astype(after, self.dtype)
        with backend.on(self.data):
            self.data[...] = after.data
        writes.wrote(self.data)
        if state.trace is not None and self.node is None and state.trace.writes(self, after):
            return self
        if after.node is not None:
            after.node.index = writes.tick()
            self.node, self.requires_grad = after.node, after.requires_grad
        return self

    def _write_raw(self, index: Any, value: Any) -> None:
        try:
            with backend.on(self.data):
                self.data[protocols.plain_index(index)] = protocols.plain(value)
        except (ValueError, IndexError, TypeError) as error:
            raise ShapeError(f"setitem: {error}; the Tensor has shape {self.shape}") from error
        writes.wrote(self.data)


for _name, _member in vars(Methods).items():
    if callable(_member) or isinstance(_member, property):
        setattr(Face, _name, _member)
Graph.fused = fusion.fused  # type: ignore[assignment]
