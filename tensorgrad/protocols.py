"""NumPy functions on Tensors: those with an op are recorded, the others refused, so none leaves the graph silently."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core import spellings, writes
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import DTypeError

# by NumPy's name, followed by ours where it differs
UFUNCS = """abs absolute=abs add arccos arcsin arctan arctan2 bitwise_and bitwise_or
bitwise_xor ceil cos cosh divide=div equal exp expm1 fabs=abs float_power=power floor
floor_divide=floordiv greater greater_equal isfinite isnan left_shift less less_equal log log10 log1p log2 logaddexp
logical_and logical_not logical_or logical_xor matmul maximum minimum
mod=mod multiply=mul negative=neg not_equal power reciprocal remainder=mod right_shift rint=round sign sin sinh sqrt square
subtract=sub tan tanh true_divide=div trunc"""
FUNCTIONS = """all amax=max amin=min any argmax argmin argsort average broadcast_to clip column_stack concatenate cross cumprod
cumsum diag diagonal diff dot einsum expand_dims flip full_like hstack kron max mean median meshgrid min moveaxis nan_to_num
ones_like outer pad prod ptp quantile repeat reshape roll round sort split squeeze stack std sum swapaxes take take_along_axis
tensordot tile trace transpose tril triu var vstack where zeros_like"""
LINALG = "cholesky det eigh inv pinv qr slogdet solve svd"


@cache
def table(names: str) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Map NumPy functions to ours, for a list of names."""
    pairs = [name.partition("=")[::2] for name in names.split()]
    return {getattr(np, numpy_name): getattr(ops, op_name or numpy_name) for numpy_name, op_name in pairs}


@cache
def linalg() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Map functions of np.linalg to ours."""
    return {getattr(np.linalg, name): getattr(ops, name) for name in LINALG.split()}


def array_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Implements `np.exp(t)`, and operators with an ndarray on the left."""
    op = table(UFUNCS).get(ufunc)
    if op is not None and method == "__call__" and not kwargs:
        return op(*inputs)
    name = f"np.{ufunc.__name__}" + (f".{method}" if method != "__call__" else "")
    targets = inputs[:1] if method == "at" else kwargs.get("out", ())
    outputs = [a for a in targets if isinstance(a, Tensor)]
    tensors = [a for a in (*inputs, *targets, *kwargs.values()) if isinstance(a, Tensor)]
    if state.trace is not None:
        if outputs:
            state.trace.forbid(f"{name}, which writes into a Tensor past the graph,")
        for a in tensors:
            a._require_concrete(f"np.{ufunc.__name__}")
    if not any(a.requires_grad for a in tensors):  # no graph to leave: plain arithmetic, including out= and where=
        for a in outputs:
            a._require_writable()
        options = {key: plain_index(value) for key, value in kwargs.items()}  # out is a tuple
        result = getattr(ufunc, method)(*[plain_index(a) for a in inputs], **options)
        for a in outputs:
            writes.wrote(a._data)
        return as_output(result, outputs)
    options_text = f" with {', '.join(kwargs)}" if kwargs else ""
    raise DTypeError(
        f"{name}{options_text} cannot be recorded, but a Tensor requires a gradient; {suggestion(op, ufunc, method)}"
    )


def array_function(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Implements `np.sum(t)`."""
    if func in (np.shape, np.ndim, np.size):  # independent of values
        return func(plain(args[0]), *args[1:], **kwargs)
    function = table(FUNCTIONS).get(func) or linalg().get(func)
    if function is not None:
        try:
            inspect.signature(function).bind(*args, **kwargs)
        except TypeError as error:
            raise DTypeError(f"np.{func.__name__} of a Tensor: {error}; {suggestion(None, func)}") from None
        if func is np.linalg.svd and len(args) == 1:
            kwargs = {"full_matrices": True, **kwargs}  # NumPy's default
        return function(*args, **kwargs)
    name = f"{func.__module__}.{func.__name__}".replace("numpy", "np", 1)
    raise DTypeError(f"{name} cannot be recorded on a Tensor; {suggestion(None, func)}")


def suggestion(op: Any, func: Any, method: str = "__call__") -> str:
    """The alternative to suggest in an error."""
    text = f"write tensorgrad.{op.name}, or " if op is not None else "use an op of tensorgrad, or "
    if method == "at":
        text = "write x + tensorgrad.put(values, index, x.shape), which adds, or "
    elif func is np.where:  # with one argument; with three there is an op
        text = "where takes a condition and two values; for the places where it holds write np.nonzero, and "
    elif (
        op is None
        and method == "__call__"
        and (replacement := spellings.answer("tensorgrad", func.__name__)).startswith("write ")
    ):
        text = f"{replacement}, or "
    return f"{text}leave the graph with .detach().numpy()"


def as_output(result: Any, outputs: list[Tensor]) -> Any:
    """The result of a ufunc: a Tensor if that was its `out`."""
    if isinstance(result, tuple):
        return tuple(as_output(r, outputs) for r in result)
    return next((t for t in outputs if t._data is result), result)


def plain_index(index: Any) -> Any:
    """Replace Tensors in an index by their arrays."""
    return tuple(plain(i) for i in index) if isinstance(index, tuple) else plain(index)


def plain(value: Any) -> Any:
    """The array of a Tensor; other values unchanged."""
    return value._data if isinstance(value, Tensor) else value
