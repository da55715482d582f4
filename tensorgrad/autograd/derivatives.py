"""Jacobians, Hessians and their products with vectors, by reverse mode, forward mode, and forward over reverse.

Each takes a function of one or more Tensors that returns a Tensor, and the inputs at which to differentiate. For one input (not
in a tuple) the result is for this input, for a tuple of inputs a tuple. Inputs may be arrays. `tensorgrad.func` has the
corresponding function transforms.

Inside vmap the walks cover the values of all samples: each sample has its own copy of an input, as a view, so the gradient of
the sum over samples contains the gradient of each. `create_graph=None` records the result if something else that requires a
gradient contributes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.autograd.batching import leaf, rewrapped, unwrapped
from tensorgrad.autograd.forward import Linearised
from tensorgrad.autograd.sums import user_gradient
from tensorgrad.autograd.walk import grad
from tensorgrad.core.arguments import truth
from tensorgrad.core.backend import asarray, copy, is_floating, namespace, on
from tensorgrad.core.node import Node
from tensorgrad.core.state import describe, state, switched
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import ArgumentError, DTypeError, GraphError, ShapeError

Function = Callable[..., Tensor]


def vjp(fn: Function, inputs: Any, v: Any, *, create_graph: bool | None = False) -> tuple[Tensor, Any]:
    """(fn(inputs), vᵀ J): the gradient of sum(v * fn(x)) for each input x, of its shape; v has the shape of fn's value."""
    y, xs = _evaluate("vjp", fn, inputs)
    create_graph = recorded("vjp", create_graph, y, xs, inputs)
    if y.ndim or v is not None:
        (v,) = _vectors("vjp", y, v, [y])
    return y, _like(inputs, gradients(y, xs, v, create_graph))


def jvp(fn: Function, inputs: Any, v: Any, *, create_graph: bool | None = False) -> tuple[Tensor, Tensor]:
    """(fn(inputs), J v): the derivative of fn along v, of the shape of fn's value; v has the shape(s) of the inputs.

    By forward mode: one pass over the recorded graph of fn, for any number of inputs. Inside another derivative pass
    create_graph=True: otherwise J v is treated as a constant.
    """
    y, xs = _evaluate("jvp", fn, inputs)
    create_graph = recorded("jvp", create_graph, y, xs, inputs)
    vs = _vectors("jvp", inputs, v, xs)
    ((tangent,),) = _tangents_along("jvp", [y], [list(zip(xs, vs, strict=True))], create_graph)
    return y, tangent if is_floating(y.dtype) else ops.astype(tangent, xs[0].dtype)  # 0 for integers and booleans


def jacobian(fn: Function, inputs: Any, *, create_graph: bool | None = False) -> Any:
    """d fn / d x for each input x, of shape (*fn(x).shape, *x.shape); one reverse pass for each element of fn's value.

    `jacfwd` gives the same by one forward pass for each element of the inputs.
    """
    y, xs = _evaluate("jacobian", fn, inputs)
    create_graph = recorded("jacobian", create_graph, y, xs, inputs)
    rows: list[list[Tensor]] = [[] for _ in xs]
    for i in range(y.size):
        unit = np.zeros(y.size, y.dtype)
        unit[i] = 1
        for row, g in zip(rows, gradients(y, xs, unit.reshape(y.shape), create_graph, retain=True), strict=True):
            row.append(g)
    shapes = [(*y.shape, *x.shape) for x in xs]
    empty = [wrap(namespace([x._data]).zeros(shape, x.dtype), None) for x, shape in zip(xs, shapes, strict=True)]
    return _like(inputs, [ops.reshape(ops.stack(row), s) if row else e for row, s, e in zip(rows, shapes, empty, strict=True)])


def jacfwd(fn: Function, inputs: Any, *, create_graph: bool | None = False) -> Any:
    """d fn / d x for each input x, of shape (*fn(x).shape, *x.shape); one forward pass for each element of the inputs.

    `jacobian` gives the same by one reverse pass for each element of fn's value. Inside another derivative pass
    create_graph=True: otherwise the result is treated as a constant.
    """
    y, xs = _evaluate("jacfwd", fn, inputs)
    create_graph = recorded("jacfwd", create_graph, y, xs, inputs)
    (row,) = _columns("jacfwd", [y], xs, create_graph)
    return _like(inputs, [t if t.dtype == x.dtype else ops.astype(t, x.dtype) for t, x in zip(row, xs, strict=True)])


def hessian(fn: Function, inputs: Any, *, create_graph: bool | None = False) -> Any:
    """d² fn / dx dz for a scalar fn, of shape (*x.shape, *z.shape); with a tuple of inputs, a tuple of rows of such blocks.

    Forward over reverse: the gradient is recorded once, then one forward pass for each element of the inputs.
    """
    y, xs = _evaluate("hessian", fn, inputs)
    create_graph = recorded("hessian", create_graph, y, xs, inputs)
    rows = _columns("hessian", gradients(_scalar("hessian", y), xs, None, True), xs, create_graph)
    return tuple(_like(inputs, row) for row in rows) if isinstance(inputs, tuple) else rows[0][0]


def hvp(fn: Function, inputs: Any, v: Any, *, create_graph: bool | None = False) -> tuple[Tensor, Any]:
    """(fn(inputs), H v) for a scalar fn: the Hessian times v, of the inputs' shapes; v has the same.

    Forward over reverse: the gradient is recorded, then one forward pass along v.
    """
    y, xs = _evaluate("hvp", fn, inputs)
    create_graph = recorded("hvp", create_graph, y, xs, inputs)
    _scalar("hvp", y)
    vs = _vectors("hvp", inputs, v, xs)
    (products,) = _tangents_along("hvp", gradients(y, xs, None, True), [list(zip(xs, vs, strict=True))], create_graph)
    return y, _like(inputs, products)


def _tangents_along(
    caller: str, ys: list[Tensor], directions: Iterable[list[tuple[Tensor, Any]]], create_graph: bool
) -> list[list[Tensor]]:
    """The tangents of ys for each of `directions`, lists of (input, tangent)."""
    recorded = create_graph or state.tracing
    linear = Linearised([unwrapped(y) for y in ys], caller=caller)
    all_tangents = []
    with switched(recording=create_graph):
        for direction in directions:
            tangents: dict[Tensor, Any] = {}
            for x, v in direction:
                x, t = unwrapped(x), unwrapped(v if isinstance(v, Tensor) else user_gradient(v, caller, create_graph))
                t = t if recorded else raw(t)
                tangents[x] = tangents[x] + t if x in tangents else t
            ts = linear(tangents)
            all_tangents.append([rewrapped(t if recorded else wrap(copy(t), None)) for t in ts])
    return all_tangents


def _columns(caller: str, ys: list[Tensor], xs: list[Tensor], create_graph: bool) -> list[list[Tensor]]:
    """For each y, d y / d x for each x, by one forward pass for each element of each x."""

    def units() -> Iterator[list[tuple[Tensor, Any]]]:
        for x in xs:
            for i in range(x.size):
                with on(x._data):
                    unit = namespace([x._data]).zeros(x.size, x.dtype)
                    unit[i] = 1
                    yield [(x, unit.reshape(x.shape))]

    passes = iter(_tangents_along(caller, ys, units(), create_graph))
    rows: list[list[Tensor]] = [[] for _ in ys]
    for x in xs:
        columns = [next(passes) for _ in range(x.size)]
        for k, (y, row) in enumerate(zip(ys, rows, strict=True)):
            shape = (*y.shape, *x.shape)
            if columns:
                row.append(ops.reshape(ops.stack([column[k] for column in columns], axis=-1), shape))
            else:
                with on(x._data):
                    row.append(wrap(namespace([x._data]).zeros(shape, x.dtype), None))
    return rows


def _evaluate(caller: str, fn: Function, inputs: Any) -> tuple[Tensor, list[Tensor]]:
    """Evaluate fn, recorded from fresh leaves, or from the inputs themselves if they have a history."""
    _function(caller, fn)
    with switched(recording=True):
        xs = leaves_for(caller, inputs)
        y = fn(*xs)
    if not isinstance(y, Tensor):
        raise GraphError(f"{caller}: the function returned {type(y).__name__}, expected a Tensor")
    return y, xs


def recorded(caller: str, create_graph: bool | None, y: Tensor, xs: list[Tensor], inputs: Any) -> bool:
    """Whether to record derivatives of y: `create_graph`, or for None, whether an input requires a gradient or y depends on
    anything else that does.
    """
    if create_graph is not None:
        return truth(caller, "create_graph", create_graph)
    if not state.recording:
        return False
    if any(isinstance(x, Tensor) and x.requires_grad for x in _tuple(inputs, inputs)):
        return True
    y, input_set = unwrapped(y), {unwrapped(x) for x in xs}
    seen: set[Any] = set(input_set)
    stack: list[Any] = [y.node or y]
    while stack:
        source = stack.pop()
        if isinstance(source, (Node, Tensor)) and source.requires_grad and source not in seen:
            if isinstance(source, Tensor):
                return True
            seen.add(source)
            stack.extend(source.inputs)
    return False


def gradients(y: Tensor, xs: list[Tensor], v: Any, create_graph: bool, retain: bool | None = None) -> list[Tensor]:
    """The gradients; zeros for an input that y does not depend on."""
    scalar = y.ndim == 0
    y, xs = unwrapped(y), [unwrapped(x) for x in xs]
    if v is not None:
        v = unwrapped(v if isinstance(v, Tensor) else user_gradient(v, "grad", create_graph))
    elif scalar and y.ndim:
        v = wrap(namespace([y._data]).ones(y.shape, y.dtype), None)
    grads: Sequence[Tensor | None] = [None] * len(xs)
    if y.requires_grad:
        grads = grad(y, xs, v, create_graph=create_graph, retain_graph=retain, allow_unused=True)
    return [rewrapped(zeros_like(x) if g is None else g) for g, x in zip(grads, xs, strict=True)]


def zeros_like(x: Tensor) -> Tensor:
    with on(x._data):
        return wrap(namespace([x._data]).zeros(x.shape, x.dtype), None)


def _function(caller: str, fn: Any) -> None:
    if not callable(fn):
        raise DTypeError(f"{caller}: fn must be a function of Tensors, got {describe(fn)}")


def leaves_for(caller: str, inputs: Any) -> list[Tensor]:
    """The inputs as Tensors that require a gradient."""
    if isinstance(inputs, tuple) and not inputs:
        raise ArgumentError(f"{caller}: expected at least one input, got none")
    xs = []
    for i, x in enumerate(_tuple(inputs, inputs)):
        if not (isinstance(x, Tensor) and x.requires_grad):
            if not isinstance(x, Tensor):
                x = asarray(x, where=f"{caller}: input {i}")
            if not is_floating(x.dtype):
                raise DTypeError(f"{caller}: input {i} must have a floating dtype, got {x.dtype}")
            if state.batching is None:
                x = Tensor(x, True)
            else:  # a copy for each sample, as a view
                x = rewrapped(leaf(unwrapped(x if isinstance(x, Tensor) else wrap(x, None))))
        elif state.batching is not None:
            x = rewrapped(unwrapped(x))
        xs.append(x)
    return xs


def _vectors(caller: str, inputs: Any, v: Any, xs: list[Tensor]) -> list[Any]:
    """The vectors for the inputs, checked for their shapes."""
    if isinstance(inputs, tuple) and not isinstance(v, (tuple, list)):
        raise ShapeError(f"{caller}: v must be a tuple of {len(xs)}, one per input, got {describe(v)}")
    vs = list(_tuple(inputs, v))
    if len(vs) != len(xs):
        raise ShapeError(f"{caller}: v has {len(vs)} entries for {len(xs)} inputs")
    vs = [vi if isinstance(vi, Tensor) else asarray(vi, where=f"{caller}: v[{i}]") for i, vi in enumerate(vs)]
    for i, (x, vi) in enumerate(zip(xs, vs, strict=True)):
        if vi.shape != x.shape:
            raise ShapeError(f"{caller}: v[{i}] has shape {vi.shape}, expected {x.shape}, the shape of the input")
    return vs


def _scalar(caller: str, y: Tensor) -> Tensor:
    if not isinstance(y, Tensor):
        raise GraphError(f"{caller}: the function returned {type(y).__name__}, expected a Tensor")
    if y.ndim:
        raise ShapeError(f"{caller}: the function returned shape {y.shape}, expected a 0-d Tensor")
    return y


def _tuple(inputs: Any, value: Any) -> tuple[Any, ...]:
    """`value` as a tuple, if `inputs` is not one."""
    return tuple(value) if isinstance(inputs, tuple) else (value,)


def _like(inputs: Any, results: list[Tensor]) -> Any:
    return tuple(results) if isinstance(inputs, tuple) else results[0]
