"""Function transforms: gradients, Jacobians, batches, and modules as functions of their parameters.

    loss = lambda params, x, y: F.cross_entropy(func.functional_call(model, params, x), y)
    func.grad(loss)(params, x, y)                          # the gradient, structured like params
    func.vmap(func.grad(loss), (None, 0, 0))(params, x, y)   # the gradient of each sample

Each takes a function and returns one. The package itself has the same derivatives at a point: tensorgrad.grad for computed
Tensors; jacobian, jacfwd, hessian, hvp, jvp and vjp for a function and its inputs.

Results are recorded, and can be differentiated again, if the arguments or anything else that contributes require a gradient;
not inside no_grad().
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tensorgrad.autograd import derivatives
from tensorgrad.autograd.batching import vmap
from tensorgrad.core.arguments import integers, truth
from tensorgrad.core.state import describe, switched
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, DTypeError, GraphError, ShapeError
from tensorgrad.nn.calls import functional_call

__all__ = ["functional_call", "grad", "hessian", "jacfwd", "jacrev", "value_and_grad", "vmap"]

Function = Callable[..., Any]


def grad(fn: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """Return a function that computes the gradient of fn, which must return a 0-d Tensor.

    argnums   index of the positional argument to differentiate by; for a tuple of indices the result is a tuple
    has_aux   True if fn returns (value, auxiliary data); the new function then returns (gradient, auxiliary data)

    An argument may be a list, tuple or dict of Tensors and arrays, at any depth: the gradient has the same structure, with
    zeros for unused parts. No `.grad` is changed. Raises ShapeError unless fn returns a 0-d Tensor, DTypeError for integers and
    booleans and for anything but arrays.
    """
    value_and_gradient = value_and_grad(fn, argnums, has_aux)

    @functools.wraps(fn)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, grads = value_and_gradient(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return gradient


def value_and_grad(fn: Function, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function:
    """Return a function that computes (fn's value, its gradient), like `grad`. With has_aux the value is the pair that fn
    returns.
    """
    positions, has_aux = checked("value_and_grad", fn, argnums), truth("value_and_grad", "has_aux", has_aux)

    @functools.wraps(fn)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        chosen = selected("grad", args, positions)
        flat: list[Any] = []
        for number, part in zip(positions, chosen, strict=True):
            flatten(part, flat, f"grad: argument {number}")
        with switched(recording=True):
            xs = derivatives.leaves_for("grad", tuple(flat)) if flat else []
            leaves = iter(xs)
            result = fn(*with_replaced(args, positions, [unflatten(part, leaves) for part in chosen]), **kwargs)
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise GraphError(f"grad: with has_aux the function returns a pair, got {describe(result)}")
        y, aux = result if has_aux else (result, None)
        if not isinstance(y, Tensor):
            raise GraphError(f"grad: the function returned {describe(y)}, expected a Tensor")
        if y.ndim:
            raise ShapeError(f"grad: the function returned shape {y.shape}, expected a 0-d Tensor")
        is_recorded = derivatives.recorded("grad", None, y, xs, tuple(flat))
        gradients = iter(derivatives.gradients(y, xs, None, is_recorded))
        result_gradients = tuple([unflatten(part, gradients) for part in chosen])
        value = y if is_recorded else y.detach()
        return (value, aux) if has_aux else value, result_gradients if isinstance(argnums, tuple) else result_gradients[0]

    return transformed


def jacrev(fn: Function, argnums: int | tuple[int, ...] = 0) -> Function:
    """Return a function that computes d fn / d x, of shape (*fn(x).shape, *x.shape), by one reverse pass for each element of
    fn's result; like `tensorgrad.jacobian`.
    """
    return at_arguments("jacrev", derivatives.jacobian, fn, argnums)


def jacfwd(fn: Function, argnums: int | tuple[int, ...] = 0) -> Function:
    """Return a function that computes d fn / d x, of shape (*fn(x).shape, *x.shape), by one forward pass for each element of x;
    like `tensorgrad.jacfwd`.
    """
    return at_arguments("jacfwd", derivatives.jacfwd, fn, argnums)


def hessian(fn: Function, argnums: int | tuple[int, ...] = 0) -> Function:
    """Return a function that computes d² fn / dx dz for a fn that returns a 0-d Tensor; like `tensorgrad.hessian`."""
    return at_arguments("hessian", derivatives.hessian, fn, argnums)


def at_arguments(caller: str, derivative: Function, fn: Function, argnums: int | tuple[int, ...]) -> Function:
    """Turn a derivative at a point into a function of the arguments."""
    positions = checked(caller, fn, argnums)

    @functools.wraps(fn)
    def transformed(*args: Any, **kwargs: Any) -> Any:
        inputs = selected(caller, args, positions)
        return derivative(
            lambda *xs: fn(*with_replaced(args, positions, xs), **kwargs),
            tuple(inputs) if isinstance(argnums, tuple) else inputs[0],
            create_graph=None,
        )

    return transformed


def checked(caller: str, fn: Any, argnums: Any) -> tuple[int, ...]:
    """The indices of the arguments to differentiate by."""
    if not callable(fn):
        raise DTypeError(f"{caller}: fn must be a function of Tensors, got {describe(fn)}")
    positions = tuple(integers(caller, "argnums", argnums))
    if not positions or len(set(positions)) < len(positions):
        raise ArgumentError(f"{caller}: argnums must be distinct argument positions, got {describe(argnums)}")
    return positions


def selected(caller: str, args: tuple[Any, ...], positions: tuple[int, ...]) -> list[Any]:
    for position in positions:
        if not -len(args) <= position < len(args):
            raise ArgumentError(
                f"{caller}: argument {position} is out of range for {len(args)} positional arguments; see argnums"
            )
    return [args[position] for position in positions]


def with_replaced(args: tuple[Any, ...], positions: tuple[int, ...], values: Any) -> list[Any]:
    """The arguments with some replaced."""
    replaced = list(args)
    for position, value in zip(positions, values, strict=True):
        replaced[position] = value
    return replaced


def flatten(value: Any, flat: list[Any], where: str) -> None:
    """Append the arrays in an argument to `flat`."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            flatten(part, flat, f"{where}[{key!r}]")
    elif isinstance(value, (tuple, list)) and not (value and all(isinstance(part, (int, float)) for part in value)):
        for i, part in enumerate(value):
            flatten(part, flat, f"{where}[{i}]")
    elif isinstance(value, (str, bytes)) or value is None:
        raise DTypeError(f"{where} is {describe(value)}, expected Tensors or arrays to differentiate with respect to")
    else:
        flat.append(value)


def unflatten(value: Any, leaves: Any) -> Any:
    """The argument with its arrays replaced by the next leaves."""
    if isinstance(value, Mapping):
        return {key: unflatten(part, leaves) for key, part in value.items()}
    if isinstance(value, (tuple, list)) and not (value and all(isinstance(part, (int, float)) for part in value)):
        parts = [unflatten(part, leaves) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return next(leaves)
