"""Jacobians, Hessians and their products with vectors, by reverse passes.

Each takes a function of one or more Tensors that returns a Tensor, and the inputs to differentiate at. With one input (not in a
tuple) the result is for that input, with a tuple of inputs a tuple. Arrays are accepted for inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import asarray, is_floating, namespace
from tensorgrad.core.state import shown, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, DTypeError, GraphError, ShapeError

Function = Callable[..., Tensor]


def vjp(fn: Function, inputs: Any, v: Any, *, create_graph: bool = False) -> tuple[Tensor, Any]:
    """(fn(inputs), vᵀ J): the gradient of sum(v * fn(x)) for each input x, of its shape; v has the shape of fn's value."""
    y, xs = _evaluate("vjp", fn, inputs)
    if y.ndim or v is not None:
        (v,) = _vectors("vjp", y, v, [y])
    return y, _like(inputs, _grad(y, xs, v, create_graph))


def jvp(fn: Function, inputs: Any, v: Any, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """(fn(inputs), J v): the derivative of fn along v, of the shape of fn's value; v has the shape(s) of the inputs.

    By two reverse passes: u -> Jᵀ u is linear in u, so the gradient of <v, Jᵀ u> with respect to u is J v.
    """
    y, xs = _evaluate("jvp", fn, inputs)
    vs = _vectors("jvp", inputs, v, xs)
    if not y.requires_grad:
        return y, wrap(np.zeros(y.shape, y.dtype), None)
    with switched(recording=True):
        u = Tensor(np.zeros(y.shape, y.dtype), True)
        product: Any = 0
        for g, vi in zip(_grad(y, xs, u, True), vs, strict=True):
            product = product + (g * vi).sum()
    if not product.requires_grad:
        return y, wrap(np.zeros(y.shape, y.dtype), None)
    (tangent,) = grad(product, u, create_graph=create_graph, allow_unused=True)
    return y, wrap(np.zeros(y.shape, y.dtype), None) if tangent is None else tangent


def jacobian(fn: Function, inputs: Any, *, create_graph: bool = False) -> Any:
    """d fn / d x for each input x, of shape (*fn(x).shape, *x.shape); one reverse pass for each element of fn's value."""
    y, xs = _evaluate("jacobian", fn, inputs)
    rows: list[list[Tensor]] = [[] for _ in xs]
    for i in range(y.size):
        one = np.zeros(y.size, y.dtype)
        one[i] = 1
        for row, g in zip(rows, _grad(y, xs, one.reshape(y.shape), create_graph, retain=True), strict=True):
            row.append(g)
    shapes = [(*y.shape, *x.shape) for x in xs]
    empty = [wrap(namespace([x._data]).zeros(shape, x.dtype), None) for x, shape in zip(xs, shapes, strict=True)]
    return _like(inputs, [ops.reshape(ops.stack(row), s) if row else e for row, s, e in zip(rows, shapes, empty, strict=True)])


def hessian(fn: Function, inputs: Any, *, create_graph: bool = False) -> Any:
    """d² fn / dx dz for a scalar fn, of shape (*x.shape, *z.shape); with a tuple of inputs, a tuple of rows of such blocks."""
    _function("hessian", fn)
    xs = tuple(_inputs("hessian", inputs))

    def gradient_of(i: int) -> Function:
        def gradient(*zs: Tensor) -> Tensor:
            return _grad(_scalar("hessian", fn(*zs)), list(zs), None, True)[i]

        return gradient

    rows = [jacobian(gradient_of(i), xs, create_graph=create_graph) for i in range(len(xs))]
    return tuple(rows) if isinstance(inputs, tuple) else rows[0][0]


def hvp(fn: Function, inputs: Any, v: Any, *, create_graph: bool = False) -> tuple[Tensor, Any]:
    """(fn(inputs), H v) for a scalar fn: the Hessian times v, by two reverse passes; v has the shape(s) of the inputs."""
    y, xs = _evaluate("hvp", fn, inputs)
    _scalar("hvp", y)
    vs = _vectors("hvp", inputs, v, xs)
    with switched(recording=True):
        slope: Any = 0
        for g, vi in zip(_grad(y, xs, None, True), vs, strict=True):
            slope = slope + (g * vi).sum()
    return y, _like(inputs, _grad(slope, xs, None, create_graph))


def _evaluate(caller: str, fn: Function, inputs: Any) -> tuple[Tensor, list[Tensor]]:
    """fn at the inputs, recorded from Tensors of its own, or from the inputs themselves where they have a history."""
    _function(caller, fn)
    with switched(recording=True):
        xs = _inputs(caller, inputs)
        y = fn(*xs)
    if not isinstance(y, Tensor):
        raise GraphError(f"{caller}: the function returned {type(y).__name__}, expected a Tensor")
    return y, xs


def _grad(y: Tensor, xs: list[Tensor], v: Any, create_graph: bool, retain: bool | None = None) -> list[Tensor]:
    """The gradients, zeros for an input that y does not depend on."""
    zeros = [wrap(namespace([x._data]).zeros(x.shape, x.dtype), None) for x in xs]
    if not y.requires_grad:
        return zeros
    found = grad(y, xs, v, create_graph=create_graph, retain_graph=retain, allow_unused=True)
    return [z if g is None else g for g, z in zip(found, zeros, strict=True)]


def _function(caller: str, fn: Any) -> None:
    if not callable(fn):
        raise DTypeError(f"{caller}: fn must be a function of Tensors, got {shown(fn)}")


def _inputs(caller: str, inputs: Any) -> list[Tensor]:
    """The inputs as Tensors that require a gradient."""
    if isinstance(inputs, tuple) and not inputs:
        raise ArgumentError(f"{caller}: there are no inputs")
    xs = []
    for i, x in enumerate(_tuple(inputs, inputs)):
        if not (isinstance(x, Tensor) and x.requires_grad):
            if not isinstance(x, Tensor):
                x = asarray(x, where=f"{caller}: input {i}")
            if not is_floating(x.dtype):
                raise DTypeError(f"{caller}: input {i} must be of a floating dtype, got {x.dtype}")
            x = Tensor(x, True)
        xs.append(x)
    return xs


def _vectors(caller: str, inputs: Any, v: Any, xs: list[Tensor]) -> list[Any]:
    """What goes with each input, of its shape."""
    if isinstance(inputs, tuple) and not isinstance(v, (tuple, list)):
        raise ShapeError(f"{caller}: v must be a tuple of {len(xs)}, one for each input, got {shown(v)}")
    vs = list(_tuple(inputs, v))
    if len(vs) != len(xs):
        raise ShapeError(f"{caller}: v has {len(vs)} parts for {len(xs)} inputs")
    vs = [vi if isinstance(vi, Tensor) else asarray(vi, where=f"{caller}: v[{i}]") for i, vi in enumerate(vs)]
    for i, (x, vi) in enumerate(zip(xs, vs, strict=True)):
        if vi.shape != x.shape:
            raise ShapeError(f"{caller}: v[{i}] has shape {vi.shape}, expected {x.shape}, that of the input")
    return vs


def _scalar(caller: str, y: Tensor) -> Tensor:
    if not isinstance(y, Tensor):
        raise GraphError(f"{caller}: the function returned {type(y).__name__}, expected a Tensor")
    if y.ndim:
        raise ShapeError(f"{caller}: the function returned shape {y.shape}, expected a 0-d Tensor")
    return y


def _tuple(inputs: Any, value: Any) -> tuple[Any, ...]:
    """`value`, which goes with `inputs`, as a tuple."""
    return tuple(value) if isinstance(inputs, tuple) else (value,)


def _like(inputs: Any, results: list[Tensor]) -> Any:
    return tuple(results) if isinstance(inputs, tuple) else results[0]
