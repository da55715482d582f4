"""Batched: a Tensor inside `vmap` that looks like one sample and holds a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tensorgrad.core.backend import namespace
from tensorgrad.core.node import Node
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import BatchError

Rule = Callable[..., Tensor]


class Outline(np.ndarray):
    """The array of one sample, known only by shape and dtype.

    It has the shape of a sample but no elements, so that reading values is impossible: computing with it and copying it into an
    array raise an error.
    """

    outline: tuple[int, ...] = ()

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: Any) -> Outline:
        array = np.empty(0, dtype).view(cls)
        array.outline = shape
        return array

    shape = property(lambda self: self.outline)
    ndim = property(lambda self: len(self.outline))
    size = property(lambda self: math.prod(self.outline))

    def __len__(self) -> int:
        return self.outline[0]

    def refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise BatchError(
            "vmap: the values of a batched Tensor are needed: by Python, by something that is not a tensorgrad operation, "
            "or after vmap() has ended. There is no single value: it stands for all samples. Use where(), and return "
            "from the function what is needed outside"
        )

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in (np.shape, np.ndim, np.size):
            self.refuse()
        return function._implementation(*args, **kwargs)

    __array_ufunc__ = __getitem__ = __setitem__ = __iter__ = refuse
    copy = astype = item = tolist = tobytes = refuse
    __bool__ = __int__ = __float__ = __index__ = refuse


class Call:
    """One call of `vmap`: the number of samples, and the nesting depth, including itself. No two are equal."""

    def __init__(self, size: int, level: int) -> None:
        self.size, self.level = size, level


class Batched(Tensor):
    """The argument and intermediate Tensors of a function inside `vmap`, with the shape of one sample.

    value   the Tensor with all samples along its first axis; inside another vmap it may itself be a Batched
    call    the vmap call that it belongs to

    Reading its values, changing it in place, hooks and `.grad` raise BatchError, and so does any use after the call has ended.
    It has no history of its own.
    """

    __slots__ = ("value", "call")
    value: Tensor
    call: Call

    @classmethod
    def of(cls, value: Tensor, call: Call) -> Batched:
        tensor = cls.__new__(cls)
        shape, array = value.shape[1:], value._data
        xp = namespace([array])
        tensor._data = Outline.of(shape, value.dtype) if xp is np else xp.broadcast_to(xp.empty((), value.dtype), shape)
        tensor._grad, tensor.requires_grad, tensor.name, tensor.hooks, tensor.made_of = None, value.requires_grad, "", None, ""
        tensor.value, tensor.call = value, call
        return tensor

    def _require_concrete(self, what: str) -> NoReturn:
        raise BatchError(
            f"vmap: {what} needs the values of a batched Tensor {self.shape}; it stands for all samples, and Python code "
            f"that depends on values cannot run once for all of them. Use where(), or return the Tensor"
        )

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise BatchError(f"vmap: {what} of a batched Tensor {self.shape}, which stands for all samples; {instead}")

    @property
    def node(self) -> Node | None:  # type: ignore[override]
        """The node of the batched Tensor; raises an error if an operation outside of vmap reads it."""
        if state.batching is None or self.call not in state.batching.calls:
            self._refuse("a use", "the call of vmap that it belongs to has ended")
        return self.value.node

    @property  # type: ignore[misc]  # read-only
    def data(self) -> NoReturn:
        self._require_concrete(".data")

    def _lent(self) -> NoReturn:
        self._require_concrete("its array")

    def detach(self) -> Tensor:
        return Batched.of(self.value.detach(), self.call)

    def requires_grad_(self, requires_grad: bool = True) -> NoReturn:
        self._refuse("requires_grad_", "take the gradient with tensorgrad.func.grad")

    def retain_grad(self) -> NoReturn:
        self._refuse("retain_grad", "take the gradient with tensorgrad.func.grad")

    def register_hook(self, hook: Any) -> NoReturn:
        self._refuse("register_hook", "there are no hooks inside of vmap")

    def backward(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("backward()", "take the gradient with tensorgrad.func.grad")

    def _write(self, change: Any, operand: Any) -> NoReturn:
        self._refuse("a change in place", "compute a new one: y = y + 1 for y += 1")

    def _write_raw(self, index: Any, value: Any) -> NoReturn:
        self._write(index, value)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self._refuse("a change in place", "compute a new one: y = tensorgrad.setitem(y, v, index) for y[index] = v")

    def __reduce__(self) -> NoReturn:
        self._refuse("a copy", "use it as it is")

    def __repr__(self) -> str:
        return f"Batched({self.shape}, dtype={self.dtype}, {len(self.value)} samples)"


class Batching:
    """The active `vmap` calls of this thread, and how operations in them are computed; stored as `state.batching`.

    calls   outermost first
    rule    takes (op, arguments, which of them are batched, attributes, number of samples) to the batched result
    """

    def __init__(self, calls: tuple[Call, ...], rule: Rule) -> None:
        self.calls, self.rule = calls, rule

    def within(self, size: int) -> Batching:
        """These calls with one more inside."""
        return Batching((*self.calls, Call(size, len(self.calls) + 1)), self.rule)

    def check_readable(self, x: Tensor, reader: str) -> None:
        """Raise BatchError if the values of a batched Tensor are read."""
        if type(x) is Batched:
            x._require_concrete(reader)

    def __call__(self, op: Any, args: Sequence[Any], attrs: Mapping[str, Any]) -> Tensor | None:
        """The result of an operation on batched Tensors; None if no argument is batched."""
        level = max([a.call.level for a in args if type(a) is Batched], default=0)
        if not level:
            return None
        call = self.calls[level - 1] if level <= len(self.calls) else None
        batched = [type(a) is Batched and a.call is call for a in args]
        if any(type(a) is Batched and a.call not in self.calls for a in args):
            return None  # its call has ended, which the operation will report
        values = [a.value if is_batched else a for a, is_batched in zip(args, batched, strict=True)]
        assert call is not None
        return Batched.of(self.rule(op, values, batched, attrs, call.size), call)
