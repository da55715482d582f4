# mypy: disable-error-code="no-any-return"
# (ops return arrays for arrays and Tensors for Tensors, which the types do not say; here they are Tensors)
"""The operators and methods of Tensor: ops by NumPy's or PyTorch's names, backward(), and drawing.

They are above the modules that they call, and are attached to Tensor when the package is imported. Methods that equal a
function in ops are taken from there, with docstrings; only those with another signature are defined here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorgrad import ops, protocols
from tensorgrad.autograd import fusion, walk
from tensorgrad.core import backend, writes
from tensorgrad.core.arguments import dtype_of, integer
from tensorgrad.core.face import Face
from tensorgrad.core.graph import Graph
from tensorgrad.core.location import is_own
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.operand import Operand
from tensorgrad.core.state import named, state, wrong_call
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import DTypeError, GraphError, OutOfRangeError, ShapeError, TensorgradError
from tensorgrad.ops import conv, pool
from tensorgrad.ops.assign import write
from tensorgrad.ops.index import frozen, on_device_of

if TYPE_CHECKING:
    from tensorgrad.core.profiling import Profile

# Every function in ops is also a method of the same name, except these
FUNCTIONS = {
    # operators
    "add", "bitwise_and", "bitwise_or", "bitwise_xor", "div", "equal", "floordiv", "getitem", "greater", "greater_equal",
    "left_shift", "less", "less_equal", "logical_not", "mod", "mul", "neg", "not_equal", "power", "right_shift", "setitem",
    "sub",
    # functions of several equal arguments, layers and losses, and functions that NumPy has no method for
    *conv.__all__, *pool.__all__,
    "LinAlgError", "amax", "amin", "attention", "column_stack", "concatenate", "cross", "diag", "eigh", "einsum", "gru",
    "hardtanh", "hstack", "kron", "linear", "logabsdet", "lstm", "nll_loss", "one_hot", "qr", "rnn", "sigmoid_cross_entropy",
    "slogdet", "softmax_cross_entropy", "solve", "stack", "svd", "tensordot", "vstack", "where",
    # constructors
    "arange", "eye", "full", "full_like", "linspace", "meshgrid", "ones", "ones_like", "rand", "randn", "zeros", "zeros_like",
    # building blocks of rules, fused ops and other methods
    "cast", "div_grad", "fold", "mul_grad", "put", "relu_grad", "sigmoid_cross_entropy_grad", "sigmoid_grad",
    "softmax_cross_entropy_grad", "sum_to", "tanh_grad", "to_device",
    "windows", *(name for name in vars(ops)["__all__"] if getattr(getattr(ops, name), "expands", ())),
}  # fmt: skip


class Methods(Tensor):
    """Attributes to attach to Tensor; not instantiated. The formulas are in ops/."""

    __slots__ = ()

    # Operators

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return NotImplemented if other is None else ops.equal(self, other)  # like any object, it does not equal None

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return NotImplemented if other is None else ops.not_equal(self, other)

    def __lt__(self, other: Operand[Tensor]) -> Tensor:
        return ops.less(self, other)

    def __le__(self, other: Operand[Tensor]) -> Tensor:
        return ops.less_equal(self, other)

    def __gt__(self, other: Operand[Tensor]) -> Tensor:
        return ops.greater(self, other)

    def __ge__(self, other: Operand[Tensor]) -> Tensor:
        return ops.greater_equal(self, other)

    def __invert__(self) -> Tensor:
        if backend.is_floating(self.dtype):
            raise DTypeError(f"~: expected booleans or integers, got {self.dtype}")
        if self.dtype.kind == "b":
            return ops.logical_not(self)
        ones = -1 if self.dtype.kind == "i" else int(np.iinfo(self.dtype).max)  # all bits set
        return ops.sub(ones, self)

    def __and__(self, other: Operand[Tensor]) -> Tensor:
        return ops.bitwise_and(self, other)

    def __rand__(self, other: Operand[Tensor]) -> Tensor:
        return ops.bitwise_and(other, self)

    def __or__(self, other: Operand[Tensor]) -> Tensor:
        return ops.bitwise_or(self, other)

    def __ror__(self, other: Operand[Tensor]) -> Tensor:
        return ops.bitwise_or(other, self)

    def __xor__(self, other: Operand[Tensor]) -> Tensor:
        return ops.bitwise_xor(self, other)

    def __rxor__(self, other: Operand[Tensor]) -> Tensor:
        return ops.bitwise_xor(other, self)

    def __lshift__(self, other: Operand[Tensor]) -> Tensor:
        return ops.left_shift(self, other)

    def __rlshift__(self, other: Operand[Tensor]) -> Tensor:
        return ops.left_shift(other, self)

    def __rshift__(self, other: Operand[Tensor]) -> Tensor:
        return ops.right_shift(self, other)

    def __rrshift__(self, other: Operand[Tensor]) -> Tensor:
        return ops.right_shift(other, self)

    def __iand__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x & other, other)

    def __ior__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x | other, other)

    def __ixor__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x ^ other, other)

    def __abs__(self) -> Tensor:
        return ops.abs(self)

    def __pos__(self) -> Tensor:
        return ops.mul(self, 1)

    def __floordiv__(self, other: Operand[Tensor]) -> Tensor:
        return ops.floordiv(self, other)

    def __rfloordiv__(self, other: Operand[Tensor]) -> Tensor:
        return ops.floordiv(other, self)

    def __mod__(self, other: Operand[Tensor]) -> Tensor:
        return ops.mod(self, other)

    def __rmod__(self, other: Operand[Tensor]) -> Tensor:
        return ops.mod(other, self)

    def __neg__(self) -> Tensor:
        return ops.neg(self)

    def __add__(self, other: Operand[Tensor]) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: Operand[Tensor]) -> Tensor:
        return ops.add(other, self)

    def __sub__(self, other: Operand[Tensor]) -> Tensor:
        return ops.sub(self, other)

    def __rsub__(self, other: Operand[Tensor]) -> Tensor:
        return ops.sub(other, self)

    def __mul__(self, other: Operand[Tensor]) -> Tensor:
        return ops.mul(self, other)

    def __rmul__(self, other: Operand[Tensor]) -> Tensor:
        return ops.mul(other, self)

    def __truediv__(self, other: Operand[Tensor]) -> Tensor:
        return ops.div(self, other)

    def __rtruediv__(self, other: Operand[Tensor]) -> Tensor:
        return ops.div(other, self)

    def __pow__(self, other: Operand[Tensor]) -> Tensor:
        return ops.power(self, other)

    def __rpow__(self, other: Operand[Tensor]) -> Tensor:
        return ops.power(other, self)

    def __matmul__(self, other: Operand[Tensor]) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Operand[Tensor]) -> Tensor:
        return ops.matmul(other, self)

    # Shape

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        """Reshape, in row-major order: pass a tuple or separate sizes; one size may be -1."""
        return ops.reshape(self, shape[0] if len(shape) == 1 else shape)  # type: ignore[arg-type]

    def transpose(self, *axes: int | Sequence[int] | None) -> Tensor:
        """Permute the axes: pass a tuple or separate axes; reversed by default."""
        return ops.transpose(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None)  # type: ignore[arg-type]

    def permute(self, *axes: int | Sequence[int]) -> Tensor:
        """Same as `transpose`, by PyTorch's name."""
        return self.transpose(*axes)

    @property
    def T(self) -> Tensor:
        """The Tensor with reversed axes: the transpose of a matrix."""
        return ops.transpose(self)

    # Device, drawing, gradients

    @named
    def to(self, device: Tensor | np.typing.DTypeLike | None = None, dtype: np.typing.DTypeLike | None = None) -> Tensor:
        """Move or convert to another device, dtype, or both; recorded. Returns the Tensor itself if nothing changes.

        device   "cpu", "cuda", "cuda:1", or a Tensor whose device and dtype to use; may also be a dtype
        """
        if isinstance(device, Tensor):
            dtype = device.dtype if dtype is None else dtype
            device = device.device
        elif device is not None and not (isinstance(device, str) and device.startswith(("cpu", "cuda"))):
            device, dtype = None, device
        if dtype is not None:
            dtype = dtype_of("to", dtype)
        moved = self if device is None else ops.to_device(self, device)
        return moved if dtype is None or dtype == moved.dtype else ops.astype(moved, dtype)

    def cpu(self) -> Tensor:
        """Move to main memory."""
        return self.to("cpu")

    def cuda(self, index: int | None = None) -> Tensor:
        """Move to a GPU: the current one, or the one with this index."""
        return self.to("cuda" if index is None else f"cuda:{integer('cuda', 'index', index, 0)}")

    def graph(
        self,
        *more: Tensor,
        backward: bool = False,
        fused: bool | str = False,
        values: bool = False,
        cost: bool | Profile = False,
        depth: int | None = None,
        fold: bool = True,
        highlight: Iterable[Tensor | Node] = (),
        names: Mapping[str, Any] | None = None,
        direction: str = "TB",
        title: str = "",
    ) -> Any:
        """Draw the graph of this Tensor (a draw.Drawing); see `tensorgrad.draw.graph` for the options."""
        from tensorgrad import draw

        return draw.graph(
            self, *more, backward=backward, fused=fused, values=values, cost=cost, depth=depth, fold=fold, highlight=highlight,
            direction=direction, title=title, names=names,
        )  # fmt: skip

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return protocols.array_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return protocols.array_function(func, args, kwargs)

    def backward(
        self, gradient: Operand[Tensor] | None = None, *, retain_graph: bool | None = None, create_graph: bool = False
    ) -> None:
        """Add the gradient of this Tensor to the `.grad` of every leaf it was computed from.

        gradient       the gradient of the loss with respect to this Tensor, of its shape; optional for a 0-d Tensor only
        retain_graph   keep the recorded values for another `backward()` (default: the value of create_graph)
        create_graph   record the backward pass, so that the gradients can be differentiated again

        Raises GraphError if this Tensor has no history, if it is not a scalar and `gradient` is missing, or if an earlier
        `backward()` has freed the graph; ShapeError if `gradient` has another shape.
        """
        walk.backward(self, gradient, retain_graph=retain_graph, create_graph=create_graph)

    # In place

    def __setitem__(self, index: Any, value: Operand[Tensor]) -> None:
        if self.requires_grad or (isinstance(value, Tensor) and value.requires_grad) or state.trace is not None:
            self._write(lambda x, value: ops.setitem(x, value, index), value)
        else:
            self._write_raw(index, value)

    def __iadd__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x + other, other)

    def __isub__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x - other, other)

    def __imul__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x * other, other)

    def __itruediv__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x / other, other)

    def __ifloordiv__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x // other, other)

    def __imod__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x % other, other)

    def __ipow__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x**other, other)

    def __imatmul__(self, other: Operand[Tensor]) -> Tensor:
        return self._write(lambda x, other: x @ other, other)

    def _write(self, change: Callable[[Tensor, Any], Tensor], operand: Any) -> Tensor:
        """Write `change(self, operand)` to this Tensor's memory and record it as its new history.

        If an op has kept the old values for its gradient, `backward()` will raise an error.
        """
        if self.node is None and self.requires_grad and state.recording:
            raise GraphError(
                "in-place change: this is a leaf that requires a gradient; change it inside `with no_grad():`, "
                "or compute a new Tensor from it"
            )
        self._require_writable()
        old = wrap(backend.copy(self._data), self.node)
        if state.trace is not None and self.node is None:
            state.trace.shared(old, self)
        if isinstance(operand, Tensor):
            if state.batching is not None:
                state.batching.check_readable(operand, "a change in place of a Tensor that is the same for all samples")
            if backend.is_floating(operand.dtype) and operand.requires_grad and not backend.is_floating(self.dtype):
                raise DTypeError(
                    f"in-place change: a {operand.dtype} Tensor that requires a gradient cannot be stored in a Tensor of dtype "
                    f"{self.dtype}; convert it first, .detach().astype({str(self.dtype)!r})"
                )
            if operand is self:
                operand = old
            elif backend.may_overlap(operand._data, self._data) and state.trace is None:  # read before it is overwritten
                operand = wrap(backend.copy(operand._data), operand.node) if operand.node is not None else operand.detach() * 1
        new = change(old, operand)
        if new.shape != self.shape:
            raise ShapeError(f"in-place change: the result has shape {new.shape}, the Tensor {self.shape}")
        if new.dtype != self.dtype:
            both_floating = backend.is_floating(new.dtype) and backend.is_floating(self.dtype)
            if new.dtype.kind != self.dtype.kind and not both_floating:
                raise DTypeError(f"in-place change: a {new.dtype} result cannot be stored in a {self.dtype} Tensor")
            new = ops.astype(new, self.dtype)
        stays_a_leaf = False
        if state.trace is not None:
            if self.node is None:
                stays_a_leaf = state.trace.writes(self, new)
            else:
                state.trace.writes_view(self)
        with backend.on(self._data):
            self._data[...] = new._data
        writes.wrote(self._data)
        if stays_a_leaf:
            return self
        if new.node is not None:
            new.node.index = writes.tick()
            self.node, self.requires_grad = new.node, new.requires_grad
        return self

    def _require_writable(self) -> None:
        """Raise GraphError for a write to a leaf that requires a gradient, or to memory with repeated elements."""
        if state.recording and self.requires_grad and self._data.base is not None and (leaf := leaf_under(self)) is not None:
            name = f" {leaf.name!r}" if leaf.name else ""
            raise GraphError(
                f"in-place change: this is a view, created by {self._made_by()}, of a leaf{name} {leaf.shape} that requires a "
                f"gradient; change it inside `with no_grad():`, or compute a new Tensor from it"
            )
        flags, strides = self._data.flags, self._data.strides
        has_repeats = self.size and any(n > 1 and not s for n, s in zip(self.shape, strides, strict=True))
        if not getattr(flags, "writeable", True) or has_repeats:
            origin = f", made by {self._made_by()}," if self.node is not None else ""
            raise GraphError(
                f"in-place change: this Tensor {self.shape}{origin} is read-only, because it is broadcast: its elements share "
                f"memory. Compute a new one, `y = y * 2` instead of `y *= 2`, or change a copy: `y = y * 1` first"
            )

    def _made_by(self) -> str:
        node = self.node
        return "" if node is None else node.op.name + (f" at {node.line}" if node.line else "")

    def _write_raw(self, index: Any, value: Any) -> None:
        if state.batching is not None and isinstance(value, Tensor):
            state.batching.check_readable(value, "a change in place of a Tensor that is the same for all samples")
        if not isinstance(value, (Tensor, int, float)) and not backend.is_array(value):
            value = backend.asarray(value, where="setitem")  # NumPy would convert None to NaN
        self._require_writable()
        try:
            with backend.on(self._data):
                if isinstance(index, (int, slice)):
                    self._data[index] = protocols.plain(value)
                else:
                    placed_index = on_device_of(frozen("setitem", protocols.plain_index(index)), self)
                    write(backend.namespace([self._data]), self._data, placed_index, protocols.plain(value))
        except (ValueError, IndexError, TypeError) as error:
            if isinstance(error, TensorgradError):
                raise
            kind = OutOfRangeError if isinstance(error, IndexError) else ShapeError
            detail = "" if isinstance(error, IndexError) else f", the value {np.shape(protocols.plain(value))}"
            raise kind(f"setitem: {error}; the Tensor has shape {self.shape}{detail}") from error
        writes.wrote(self._data)


def leaf_under(t: Tensor) -> Tensor | None:
    """The leaf that requires a gradient and shares memory with a computed Tensor, if there is one."""
    seen: set[Node] = set()
    nodes = [t.node]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen or not (node.op.moves or node.op.calls or not is_own(type(node.op).__module__)):
            continue  # an op that computes has allocated its result
        seen.add(node)
        for source in node.inputs:
            if isinstance(source, Tensor) and source.requires_grad and backend.may_overlap(source._data, t._data):
                return source
            nodes.append(source if isinstance(source, Node) else None)
    return None


def method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function in ops as a method, with its name, docstring and signature."""
    if not isinstance(function, Op):
        return function  # Python binds it to its first argument
    call: Any = type(function).__call__
    call = getattr(call, "answers", call)  # the wrapper below does its work

    @functools.wraps(function, ("__module__", "__name__", "__qualname__", "__doc__"), ())
    def called(self: Tensor, *args: Any, **attrs: Any) -> Any:
        try:
            return call(function, self, *args, **attrs)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise
            raise wrong_call(call, function.name, error) from None

    return called


OP_METHODS = {
    name: method(getattr(ops, name)) for name in vars(ops)["__all__"] if name not in FUNCTIONS and name not in vars(Methods)
}
for _name, _member in (*vars(Methods).items(), *OP_METHODS.items()):
    if callable(_member) or isinstance(_member, property):
        setattr(Face, _name, _member)
Graph.fused = fusion.fused  # type: ignore[assignment]
