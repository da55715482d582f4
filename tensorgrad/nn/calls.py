"""A module as a function of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorgrad.core.backend import asarray, is_array
from tensorgrad.core.state import describe
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn.hidden import KINDS, parts_in
from tensorgrad.nn.module import Module, Parameter
from tensorgrad.nn.weights import owned

__all__ = ["functional_call"]


def functional_call(module: Module, values: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call a module with other parameters in place of its own.

    values   dict of path to Tensor or array: all parameters, as `named_parameters` lists them (tied ones once), and any of the
             buffers (arrays). Shapes are those of the module; buffers that are missing are the module's own

    Gradients flow to the given Tensors, also computed ones. The module is not changed, and other threads may call it meanwhile:
    the call runs on a copy of the module tree that holds the values. So attributes that forward() sets are set on the copy, and
    a closure that refers to another module calls that one with its own parameters. Batch norm in training updates the buffers
    that are used, given or its own.

    args, kwargs   arguments of the call, passed as in a normal call and not as a tuple as in PyTorch. Pass a single argument
                   that is a tuple by keyword

    Raises ArgumentError for missing or unknown names, for arguments in a tuple, and for a module with parts in a plain
    container; ShapeError for other shapes; DTypeError for values that are not arrays, or integers for a parameter.
    """
    caller = "functional_call"
    if not isinstance(module, Module):
        raise ArgumentError(f"{caller}: expected a Module, got {describe(module)}")
    if not isinstance(values, Mapping):
        raise ArgumentError(f"{caller}: expected a dict from path to Tensor, got {describe(values)}")
    if args and type(args[0]) is tuple and (len(args) == 1 or (len(args) == 2 and isinstance(args[1], dict))):
        raise ArgumentError(
            f"{caller}: expected the arguments of {type(module).__name__} as in a call, got a tuple of them; write "
            f"functional_call(module, values, *args, **kwargs), and pass a tuple argument by keyword"
        )
    parameters = dict(module.named_parameters())
    buffers = {path: array for path, array, _ in owned(module, buffers=True)}
    if missing := parameters.keys() - values.keys():
        raise ArgumentError(f"{caller}: missing parameters of {type(module).__name__}: {', '.join(sorted(missing))}")
    if unknown := values.keys() - parameters.keys() - buffers.keys():
        raise ArgumentError(
            f"{caller}: {type(module).__name__} has no {', '.join(map(str, sorted(unknown, key=str)))}; "
            f"its parameters are {', '.join(parameters) or 'none'}"
        )
    replacements: dict[int, Any] = {}
    for path, value in values.items():
        original = parameters.get(path)
        replacements[id(buffers[path] if original is None else original)] = checked_value(
            f"{caller}: {path}", value, buffers.get(path), original
        )
    return copy_with(module, replacements, {})(*args, **kwargs)


def checked_value(where: str, value: Any, buffer: Any, parameter: Parameter | None) -> Any:
    """Check a value: a Tensor for a parameter, an array for a buffer."""
    old = buffer if parameter is None else parameter
    if parameter is None:
        if not is_array(value):
            raise DTypeError(f"{where} is a buffer, expected an array, got {describe(value)}")
    elif not isinstance(value, Tensor):
        value = wrap(asarray(value, where=where), None)
    if value.shape != old.shape:
        raise ShapeError(f"{where} has shape {value.shape}, expected {old.shape}")
    if parameter is not None and value.dtype.kind in "iub":
        raise DTypeError(f"{where} is a parameter, expected a floating dtype, got {value.dtype}")
    return value


def copy_with(module: Module, replacements: dict[int, Any], copies: dict[int, Module]) -> Module:
    """Copy a module tree with other parameters and buffers, given by the ids of the originals."""
    if id(module) in copies:
        return copies[id(module)]
    copied = copies[id(module)] = type(module).__new__(type(module))
    attributes = module.__getstate__()
    parts = {id(part): part for part in (*module._modules.values(), *module._parameters.values())}
    for name, value in attributes.items():
        if KINDS[type(value)] and not name.startswith("_") and (found := next(parts_in(value, (Parameter, Module)), None)):
            raise ArgumentError(
                f"functional_call: {type(module).__name__}.{name}{found[0]} is a module or parameter in a plain container, "
                f"which would keep its own parameters; store it only in nn.ModuleList or nn.ModuleDict"
            )
    attributes["_parameters"] = {name: replacements.get(id(p), p) for name, p in module._parameters.items()}
    attributes["_buffers"] = {name: replacements.get(id(array), array) for name, array in module._buffers.items()}
    attributes["_modules"] = {name: copy_with(part, replacements, copies) for name, part in module._modules.items()}
    attributes["_is_looked_into"], attributes["_original"] = True, module
    for name, value in attributes.items():
        if id(value) in parts:
            attributes[name] = (
                copy_with(value, replacements, copies) if isinstance(value, Module) else attributes["_parameters"].get(name)
            )
    vars(copied).update(attributes)
    return copied
