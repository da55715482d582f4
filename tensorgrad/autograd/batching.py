"""vmap: vectorise a function of one sample over a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.autograd.batch_rules import batched_result, repeated
from tensorgrad.core.backend import asarray, is_array, on_gpu
from tensorgrad.core.batched import Batched, Batching
from tensorgrad.core.state import describe, state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError

__all__ = ["vmap"]


def vmap(fn: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """Vectorise `fn`, a function of one sample: the returned function takes arguments with a batch axis and returns batched
    results.

    fn         takes and returns Tensors, or lists, tuples and dicts of them. It is called once, with Tensors of the shape of
               one sample. Other values that it reads, such as parameters, are shared by all samples
    in_axes    the batch axis of each positional argument: one axis for all, or a tuple with one for each; None for an argument
               shared by all samples. For an argument that is a list, tuple or dict it may be a tuple or dict of axes. Arrays
               are converted to Tensors. Keyword arguments are passed on unchanged
    out_axes   the batch axis of the result, likewise

    It can be nested with itself, with derivatives (tensorgrad.func.grad, hessian, ...) and with compiled steps, in any order:
    vmap(grad(loss), (None, 0, 0)) returns the gradient of each sample.

    Results equal those of a loop over the samples, up to the order of sums. An op without a batching rule, such as your own,
    runs such a loop. A random mask (dropout) is drawn for each sample if its argument is batched, and once for all otherwise.

    Raises BatchError if fn needs concrete values (`if x > 0`, item(), numpy()), changes a batched Tensor in place or calls its
    backward(); ShapeError for arguments without the batch axis or with different numbers of samples.
    """
    if not callable(fn):
        raise DTypeError(f"vmap: fn must be a function, got {describe(fn)}")

    @functools.wraps(fn)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        axes = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ArgumentError(f"vmap: in_axes has {len(axes)} entries for {len(args)} arguments")
        sizes: dict[int, str] = {}

        def batch_first(x: Any, axis: Any, where: str) -> Any:
            if axis is None:
                return tensor(x, where) if isinstance(x, np.ndarray) or on_gpu(x) else x
            value = with_axis_moved(x, axis, 0, where)
            sizes.setdefault(value.shape[0], where)
            return value

        inputs = [map_arrays(a, axis, f"argument {i}", batch_first) for i, (a, axis) in enumerate(zip(args, axes, strict=True))]
        if len(sizes) != 1:
            counts = ", ".join(f"{n} in {where}" for n, where in sizes.items()) or "no argument that has any"
            raise ShapeError(f"vmap: expected the same number of samples everywhere, got {counts}")
        (n,) = sizes
        batching = (state.batching or Batching((), batched_result)).within(n)
        call = batching.calls[-1]

        def batched_input(x: Any, axis: Any, where: str) -> Any:
            return x if axis is None else Batched.of(x, call)

        def unbatched_output(y: Any, axis: Any, where: str) -> Any:
            is_batched = type(y) is Batched and y.call is call
            if axis is None:
                if is_batched:
                    raise ArgumentError(f"vmap: out_axes is None for {where}, which differs between samples")
                return y
            y = y.value if is_batched else repeated(tensor(y, where), n)
            return with_axis_moved(y, 0, axis, where)

        with switched(batching=batching):
            samples = [map_arrays(a, axis, "", batched_input) for a, axis in zip(inputs, axes, strict=True)]
            return map_arrays(fn(*samples, **kwargs), out_axes, "the result", unbatched_output)

    return mapped


def map_arrays(value: Any, axes: Any, where: str, function: Callable[[Any, Any, str], Any]) -> Any:
    """Map `function` over the arrays in a value, with the axis and the place of each; None stays."""
    if value is None:
        return value
    if isinstance(value, Mapping):
        parts = axes if isinstance(axes, Mapping) else dict.fromkeys(value, axes)
        if parts.keys() != value.keys():
            raise ArgumentError(f"vmap: {where} has the keys {sorted(value)}, but its axes have {sorted(parts)}")
        return {key: map_arrays(part, parts[key], f"{where}[{key!r}]", function) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        element_axes = axes if isinstance(axes, (tuple, list)) else (axes,) * len(value)
        if len(element_axes) != len(value):
            raise ArgumentError(f"vmap: {where} has {len(value)} elements, but its axes have {len(element_axes)}")
        results = [
            map_arrays(part, axis, f"{where}[{i}]", function)
            for i, (part, axis) in enumerate(zip(value, element_axes, strict=True))
        ]
        return type(value)(*results) if hasattr(value, "_fields") else type(value)(results)
    return function(value, axes, where)


def tensor(x: Any, where: str) -> Tensor:
    return x if isinstance(x, Tensor) else wrap(asarray(x, where=f"vmap: {where}"), None)


def with_axis_moved(x: Any, source: Any, target: Any, where: str) -> Tensor:
    """x as a Tensor with one axis moved; source or target is 0."""
    axis = target if source == 0 else source
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise ArgumentError(f"vmap: the axis of {where} must be an integer or None, got {describe(axis)}")
    if not (isinstance(x, Tensor) or (is_array(x) and np.ndim(x))):
        raise DTypeError(
            f"vmap: {where} is {describe(x)}, which has no batch axis; in_axes must be None for what all samples share"
        )
    x = tensor(x, where)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"vmap: {where} has shape {x.shape}, axis {axis} is out of bounds")
    return x if source == target else ops.moveaxis(x, source, target)


def unwrapped(x: Tensor) -> Tensor:
    """x with the batch axes of all active vmaps in front, the outermost first: a plain Tensor."""
    for call in reversed(() if state.batching is None else state.batching.calls):
        x = x.value if type(x) is Batched and x.call is call else repeated(x, call.size)
    return x


def rewrapped(x: Tensor) -> Tensor:
    """The inverse of `lowered`: hide the leading batch axes of all active vmaps, as functions inside see a Tensor."""
    for call in () if state.batching is None else state.batching.calls:
        x = Batched.of(x, call)
    return x


def leaf(x: Tensor) -> Tensor:
    """A leaf that shares memory with another Tensor and requires a gradient."""
    return x.detach().requires_grad_()
