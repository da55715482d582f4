"""Tensor: an array, its gradient, and the node that computed it. Operators and methods are in methods.py."""

# mypy: disable-error-code="no-any-return"
# (arrays are Any: NumPy's or CuPy's, which may not be installed)

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorgrad.core import backend, writes
from tensorgrad.core.backend import Array, HasArray, Numbers
from tensorgrad.core.face import Face
from tensorgrad.core.location import warn
from tensorgrad.core.node import Node
from tensorgrad.core.state import changes, describe, state
from tensorgrad.errors import DTypeError, GraphError, ShapeError


class Tensor(Face):
    """An n-dimensional array that records how it was computed.

    data           numbers, nested lists of numbers (float32 by default, also integers, which are rounded above 2**24; use
                   dtype=int for labels and indices), or an array, whose dtype is kept. Always copied, so that outside changes
                   cannot corrupt the graph.
    requires_grad  record operations on it, and compute its `.grad` in `backward()`. Floating dtypes only.
    dtype          a floating, integer or boolean dtype
    device         "cpu", "cuda" (the current GPU) or "cuda:1"; by default that of the data
    name           name in drawings, listings and errors

    Raises GraphError for a copy of a computed Tensor that requires a gradient, because the copy would lose its history;
    DTypeError for data that are not numeric, and for `requires_grad=True` with integers or booleans; DeviceError for a device
    that does not exist, MissingDependencyError for a GPU without CuPy.
    """

    __slots__ = ("_data", "_grad", "node", "requires_grad", "name", "hooks", "origin", "made_of", "__weakref__")
    origin: Node | None  # of an unrecorded result, set only if its logarithm may follow
    made_of: str  # of an unrecorded result, an expression of names: "x[3]"
    __hash__ = object.__hash__  # by identity, although == compares elements

    def __init__(
        self,
        data: Tensor | Numbers | HasArray,
        requires_grad: bool = False,
        *,
        dtype: np.typing.DTypeLike | None = None,
        device: str | None = None,
        name: str = "",
    ) -> None:
        source = data if isinstance(data, Tensor) else None
        if source is not None:
            name = name or source.name
            if state.batching is not None:
                state.batching.check_readable(source, "a copy by Tensor()")
            if source.node is not None and source.requires_grad and state.recording:
                raise GraphError(
                    f"Tensor: the data are a Tensor computed by {source.node.op.name}, and a copy of its values would "
                    f"leave the graph; use it directly, or write .detach() if that is intended"
                )
        array = backend.asarray(data if source is None else source._data, dtype)
        is_copy = source is not None or (backend.is_array(data) and not isinstance(data, np.generic))
        moved = array if device is None else backend.move(array, device)
        self._data: Array = backend.copy(array) if moved is array else moved
        self._grad: Tensor | None = None
        self.node: Node | None = None
        self.requires_grad: bool = False
        self.name: str = name
        self.hooks: list[Callable[[Tensor], Any]] | None = None
        self.origin = None
        self.made_of = "" if source is None else source.made_of
        if state.trace is not None:
            if is_copy:
                state.trace.copied(self, data if source is None else source)
            else:
                state.trace.created(self)
        if requires_grad is not False:
            self.requires_grad_(requires_grad)

    # Properties

    @property
    def data(self) -> Array:
        """The NumPy or CuPy array. Writing to it is not recorded; it may be replaced by another array."""
        if state.trace is not None:
            state.trace.needs_value(self, ".data")
        return self._lent()

    @data.setter
    def data(self, array: Array) -> None:
        if not backend.is_array(array):
            raise DTypeError(f".data: expected an array, got {describe(array)}")
        array = backend.asarray(array, where=".data")
        if not _is_same(array, self._data):  # t.data -= v sets the same array, which is already modified
            self._replace(array)
            writes.share(array)
        elif state.trace is not None:
            state.trace.forbid("setting .data")

    def _replace(self, array: Array) -> None:
        """Replace the array by one that nobody else refers to."""
        if state.trace is not None:
            state.trace.forbid("setting .data")
        changes.count += 1
        self._data = array

    def _lent(self) -> Array:
        """The array for callers who may write to it. A traced step watches for such writes."""
        return self._data if state.trace is not None else writes.lend(self._data)

    @property
    def grad(self) -> Tensor | Any:  # or None, which type checkers would ask to test for
        """The gradient from backward(), of the shape of this Tensor; None if there is none."""
        if state.trace is not None:
            state.trace.reads_grad(self)
        return self._grad

    @grad.setter
    def grad(self, gradient: Tensor | Any) -> None:
        if state.trace is not None:
            state.trace.writes_grad(self)
        if gradient is not None and not isinstance(gradient, Tensor):
            raise DTypeError(f".grad: expected a Tensor or None, got {describe(gradient)}")
        if gradient is not None and not backend.is_floating(gradient.dtype):
            raise DTypeError(f".grad: expected a Tensor with a floating dtype, got {gradient.dtype}")
        self._grad = gradient

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the elements."""
        return self._data.dtype

    @property
    def device(self) -> str:
        """The device: "cpu", "cuda:0", ..."""
        return backend.device_of(self._data)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._data.size

    @property
    def is_leaf(self) -> bool:
        """Whether it was not computed from Tensors that require a gradient."""
        return self.node is None

    def numpy(self) -> Array:
        """The values as a NumPy array, sharing memory if they are in main memory."""
        self._require_concrete("numpy()")
        return self._lent() if isinstance(self._data, np.ndarray) else backend.move(self._data, "cpu")

    def item(self) -> float | int | bool:
        """The single value as a Python number. Raises ShapeError unless there is exactly one."""
        if self._data.size != 1:
            raise ShapeError(
                f"item: the Tensor has shape {self.shape}, only a Tensor with one element has a value; see tolist()"
            )
        self._require_concrete("item()")
        return self._data.item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        self._require_concrete("tolist()")
        return self._data.tolist()

    def __len__(self) -> int:
        if not self.ndim:
            raise DTypeError("len: a 0-d Tensor has no length")
        return len(self._data)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise DTypeError("iter: a 0-d Tensor cannot be iterated over")
        return (self[i] for i in range(len(self._data)))

    def __float__(self) -> float:
        return float(self._single("float", warns=True))

    def __int__(self) -> int:
        return int(self._single("int", warns=True))

    def __bool__(self) -> bool:
        return bool(self._single("bool"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.ndim:
            raise DTypeError(f"index: only a 0-d integer Tensor is an index, got {self.shape} {self.dtype}")
        self._require_concrete("an index")
        return int(self._data)

    def _require_concrete(self, what: str) -> None:
        """Raise an error while a step is traced: its replays would not run Python code that depends on the value (`what`)."""
        if state.trace is not None:
            state.trace.needs_value(self, what)
        backend.settle()

    def _single(self, what: str, warns: bool = False) -> Any:
        if self.size != 1:
            raise ShapeError(f"{what}: the Tensor has shape {self.shape}, only a Tensor with one element has a {what} value")
        self._require_concrete(f"{what}()")
        if warns and self.requires_grad and state.recording:  # NumPy, math and others may call float() unseen
            warn(
                f"{what}: a Tensor that requires a gradient becomes a number, and results computed from it have no gradient; "
                f"write .item() if that is intended, else use tensorgrad operations (tensorgrad.exp, stack, setitem)"
            )
        return self._data.item()

    def __format__(self, spec: str) -> str:
        if not spec:
            return repr(self)
        if self.size != 1:
            raise ShapeError(
                f"format {spec!r}: the Tensor has shape {self.shape}, only a Tensor with one element is formatted as a number"
            )
        return format(self.item(), spec)

    # Protocols

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        caller = sys._getframe(1)
        if caller.f_globals.get("__name__", "").startswith("scipy.sparse"):
            if caller.f_code.co_name == "_matmul_dispatch":
                # for `sparse @ self` SciPy leaves an object array to `__rmatmul__`
                wrapped = np.empty((), object)
                wrapped[()] = self
                return wrapped
            if self.requires_grad:
                raise DTypeError(
                    "scipy.sparse: with a Tensor that requires a gradient only @ of a sparse matrix is recorded; .toarray() of "
                    "the matrix makes a dense one"
                )
        if self.requires_grad:
            raise DTypeError(
                "np.asarray: this Tensor requires a gradient, and an array would leave the graph; use .detach() (or .numpy())"
            )
        self._require_concrete("np.asarray")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise DTypeError("__dlpack__: this Tensor requires a gradient, and would leave the graph; use .detach()")
        self._require_concrete("__dlpack__")
        return self._lent().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._data.__dlpack_device__()

    def __reduce__(self) -> Any:
        if self.node is not None:
            raise GraphError(
                f"copy: this Tensor was computed by {self.node.op.name}; its history cannot be copied; .detach() it"
            )
        return _rebuilt, (type(self), self._data, self.requires_grad, self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        rebuild, parts = self.__reduce__()
        copied: Tensor = rebuild(*parts)
        if state.trace is not None:
            state.trace.copied(copied, self)
        return copied

    def __repr__(self) -> str:
        origin = f", op={self.node.op.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        name = f", name={self.name!r}" if self.name else ""
        kind = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        kind += "" if isinstance(self._data, np.ndarray) else f", device='{self.device}'"
        return f"Tensor({np.array2string(self.numpy(), separator=', ', prefix='Tensor(')}{kind}{origin}{name})"

    if not TYPE_CHECKING:  # a type checker would otherwise accept any name

        def __getattr__(self, name: str) -> None:
            if name[0] == "_":  # protocols look these up often
                raise AttributeError(name)
            from tensorgrad.core import spellings

            raise spellings.missing("Tensor", name, self)

    # Gradients

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set whether this leaf requires a gradient; returns the Tensor."""
        if not isinstance(requires_grad, (bool, np.bool_)):
            raise DTypeError(f"Tensor: requires_grad must be True or False, got {type(requires_grad).__name__}")
        if requires_grad and not backend.is_floating(self.dtype):
            raise DTypeError(
                f"Tensor: requires_grad=True needs a floating dtype, got {self.dtype}; "
                f"integers and booleans have no gradient (convert with dtype='float32')"
            )
        if self.node is not None and not requires_grad:
            raise GraphError(f"requires_grad_: this Tensor was computed by {self.node.op.name}; use .detach()")
        self.requires_grad = bool(requires_grad)
        return self

    def retain_grad(self) -> None:
        """Make `backward()` store a `.grad` for this computed Tensor too."""
        if not self.requires_grad:
            raise GraphError("retain_grad: this Tensor does not require a gradient")
        if self.node is not None:
            self.node.retain = weakref.ref(self)

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Callable[[], None]:
        """Call `hook` with the gradient of this Tensor when it is computed; a return value other than None replaces it.

        Returns a function that removes the hook.
        """
        if not self.requires_grad:
            raise GraphError("register_hook: this Tensor does not require a gradient")
        if not callable(hook):
            raise DTypeError(f"register_hook: expected a function of the gradient, got {describe(hook)}")
        owner: Any = self.node or self
        if state.trace is not None and owner is self:
            state.trace.forbid("register_hook of a Tensor from outside of the step")
        owner.hooks = [*(owner.hooks or ()), hook]
        changes.count += 1

        def remove() -> None:
            owner.hooks = [h for h in owner.hooks or () if h is not hook] or None
            changes.count += 1

        return remove

    def detach(self) -> Tensor:
        """A Tensor with the same values and memory, without history."""
        detached = wrap(self._data, None)
        detached.made_of = self.name or self.made_of
        if state.trace is not None:
            state.trace.shared(detached, self)
        return detached


_new = object.__new__


def wrap(data: Array, node: Node | None) -> Tensor:
    """A Tensor around `data` without copies or checks, for results of the engine."""
    t = _new(Tensor)
    t._data = data
    t._grad = None
    t.node = node
    t.requires_grad = node is not None and node.requires_grad
    t.name = ""
    t.hooks = None
    t.origin = None
    t.made_of = ""
    return t


def raw(x: Any) -> Any:
    """The array of a Tensor, or the array itself: values that a rule may use without differentiating them."""
    if isinstance(x, Tensor):
        return x._data
    return np.asarray(x) if isinstance(x, (float, int, np.generic)) else x


def _is_same(a: Array, b: Array) -> bool:
    """Whether two arrays have the same elements in the same memory."""
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype or type(a) is not type(b):
        return False
    steps = [(s, t) for n, s, t in zip(a.shape, a.strides, b.strides, strict=True) if n > 1]
    same = all(s == t for s, t in steps) and backend.address(a) == backend.address(b)
    return same and writes.owner_of(a) is writes.owner_of(b)


def _rebuilt(kind: type[Tensor], data: Array, requires_grad: bool, name: str) -> Tensor:
    """Recreate a copied or pickled leaf."""
    t = kind.__new__(kind)
    t._data, t._grad, t.node, t.requires_grad, t.name, t.hooks = backend.copy(data), None, None, requires_grad, name, None
    t.origin, t.made_of = None, ""
    return t


def from_dlpack(array: Any) -> Tensor:
    """A Tensor that shares the memory of any object with DLPack support (PyTorch, JAX, CuPy, ...), on its device."""
    cuda, managed = 2, 13  # device types of DLPack
    if not hasattr(array, "__dlpack_device__"):
        raise DTypeError(f"from_dlpack: expected an array that supports DLPack, got {type(array).__name__}")
    xp = backend.cupy() if array.__dlpack_device__()[0] in (cuda, managed) else np
    try:
        t = wrap(xp.from_dlpack(array), None)
    except BufferError as error:
        raise DTypeError(f"from_dlpack: {error}") from error
    writes.share(t._data)
    return t
