"""vmap: a function of one sample made one of many samples, each operation being done once for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.autograd.batch_rules import batched_result, repeated
from tensorgrad.core.backend import asarray, is_array, on_gpu
from tensorgrad.core.batched import Batched, Batching
from tensorgrad.core.state import shown, state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError

__all__ = ["vmap"]


def vmap(fn: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """`fn`, a function of one sample, as one of many: each argument has the samples along an axis, and so has the result.

    fn         takes Tensors, and lists, tuples and dicts of them, and returns such; called once, with Tensors of the shape of
               one sample. What else it reads, such as parameters, is the same for all samples
    in_axes    where the samples are in the arguments by place: one axis for all of them, or a tuple with one for each; None for
               an argument that is the same for all. In place of an axis may stand a tuple or a dict of axes, for an argument
               that is a list, a tuple or a dict. Arrays come as Tensors. Arguments by name are passed on as they are
    out_axes   the same for the result: where the samples are to be

    It may stand inside of another vmap, of a derivative (tensorgrad.func.grad, hessian, ...) and of a compiled step, and they
    inside of it: vmap(grad(loss), (None, 0, 0)) gives the gradient of each sample.

    Results are those of a loop over the samples, but for rounding where a sum is taken in another order. An op without a rule
    for batches, as those of your own, is such a loop. A random mask (dropout) is drawn anew for each sample where its argument
    differs from sample to sample, and once for all where it does not.

    Raises BatchError where fn asks for values (`if x > 0`, item(), numpy()), changes a batched Tensor in place or calls its
    backward(); ShapeError for arguments without that axis or with different numbers of samples.
    """
    if not callable(fn):
        raise DTypeError(f"vmap: fn must be a function, got {shown(fn)}")

    @functools.wraps(fn)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        axes = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ArgumentError(f"vmap: in_axes has {len(axes)} parts for {len(args)} arguments")
        sizes: dict[int, str] = {}

        def in_front(x: Any, axis: Any, where: str) -> Any:
            if axis is None:
                return tensor(x, where) if isinstance(x, np.ndarray) or on_gpu(x) else x
            value = moved(x, axis, 0, where)
            sizes.setdefault(value.shape[0], where)
            return value

        given = [over(a, axis, f"argument {i}", in_front) for i, (a, axis) in enumerate(zip(args, axes, strict=True))]
        if len(sizes) != 1:
            found = ", ".join(f"{n} in {where}" for n, where in sizes.items()) or "no argument that has any"
            raise ShapeError(f"vmap: expected one number of samples, got {found}")
        (n,) = sizes
        batching = (state.batching or Batching((), batched_result)).within(n)
        call = batching.calls[-1]

        def taken(x: Any, axis: Any, where: str) -> Any:
            return x if axis is None else Batched.of(x, call)

        def left(y: Any, axis: Any, where: str) -> Any:
            is_own = type(y) is Batched and y.call is call
            if axis is None:
                if is_own:
                    raise ArgumentError(f"vmap: out_axes is None for {where}, which differs from sample to sample")
                return y
            y = y.value if is_own else repeated(tensor(y, where), n)
            return moved(y, 0, axis, where)

        with switched(batching=batching):
            samples = [over(a, axis, "", taken) for a, axis in zip(given, axes, strict=True)]
            return over(fn(*samples, **kwargs), out_axes, "the result", left)

    return mapped


def over(value: Any, axes: Any, where: str, function: Callable[[Any, Any, str], Any]) -> Any:
    """`function` of each array in a value, with the axis that stands for it and where it is; None stays."""
    if value is None:
        return value
    if isinstance(value, Mapping):
        parts = axes if isinstance(axes, Mapping) else dict.fromkeys(value, axes)
        if parts.keys() != value.keys():
            raise ArgumentError(f"vmap: {where} has the keys {sorted(value)}, its axes {sorted(parts)}")
        return {key: over(part, parts[key], f"{where}[{key!r}]", function) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        each = axes if isinstance(axes, (tuple, list)) else (axes,) * len(value)
        if len(each) != len(value):
            raise ArgumentError(f"vmap: {where} has {len(value)} parts, its axes {len(each)}")
        found = [over(part, axis, f"{where}[{i}]", function) for i, (part, axis) in enumerate(zip(value, each, strict=True))]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    return function(value, axes, where)


def tensor(x: Any, where: str) -> Tensor:
    return x if isinstance(x, Tensor) else wrap(asarray(x, where=f"vmap: {where}"), None)


def moved(x: Any, source: Any, target: Any, where: str) -> Tensor:
    """x as a Tensor, with one axis in another place; one of them is 0."""
    axis = target if source == 0 else source
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise ArgumentError(f"vmap: the axis of {where} must be a whole number or None, got {shown(axis)}")
    if not (isinstance(x, Tensor) or (is_array(x) and np.ndim(x))):
        raise DTypeError(
            f"vmap: {where} is {shown(x)}, without an axis of samples; in_axes has None for what is the same for all"
        )
    x = tensor(x, where)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"vmap: {where} has shape {x.shape}, and no axis {axis}")
    return x if source == target else ops.moveaxis(x, source, target)


def lowered(x: Tensor) -> Tensor:
    """x with the samples of every vmap that runs as its first axes, the outermost first: a Tensor that is not batched."""
    for call in reversed(() if state.batching is None else state.batching.calls):
        x = x.value if type(x) is Batched and x.call is call else repeated(x, call.size)
    return x


def raised(x: Tensor) -> Tensor:
    """What `lowered` undoes: a Tensor with the samples of every vmap as its first axes, as a function inside sees it."""
    for call in () if state.batching is None else state.batching.calls:
        x = Batched.of(x, call)
    return x


def leaf(x: Tensor) -> Tensor:
    """A Tensor without a history, on the memory of another one, that requires a gradient."""
    return x.detach().requires_grad_()
