"""Containers: the arrays among the arguments of a step, and the Tensors in what it returns."""

from __future__ import annotations

import dataclasses
import enum
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, asarray, device_of, is_array, namespace
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError

ARGUMENT = "an argument of a compiled step"
PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, np.dtype, type, slice, type(Ellipsis))


def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Array]]:
    """The key by which plans are looked up, and the arrays among the arguments."""
    arrays: list[Array] = []
    in_order = tuple([key_part(a, arrays) for a in args])
    key = (in_order, tuple([(name, key_part(a, arrays)) for name, a in kwargs.items()]) if kwargs else ())
    try:
        hash(key)
    except TypeError as error:
        raise CompileError(
            f"compile: a plan cannot be chosen by an argument: {error}; pass arrays, Tensors, numbers or text"
        ) from None
    return key, arrays


def key_part(value: Any, arrays: list[Array]) -> Any:
    """The part of the key for one argument; its arrays are appended to `arrays`.

    Not a function inside `arguments`: a recursive closure is a reference cycle, which keeps arrays alive until the next garbage
    collection.
    """
    if isinstance(value, Tensor):
        data = value._data
        arrays.append(data if data.flags.c_contiguous else namespace([data]).ascontiguousarray(data))
        return (data.shape, data.dtype.char, value.requires_grad, type(data) is np.ndarray or device_of(data))
    if isinstance(value, np.generic):  # treated like a Python number
        return (type(value), repr(value))
    if is_array(value):
        data = value if is_plain(value) else asarray(value, where=ARGUMENT)
        arrays.append(data if data.flags.c_contiguous else contiguous(data))
        return (data.shape, data.dtype.char, False, type(data) is np.ndarray or device_of(data))
    if isinstance(value, (tuple, list)):
        return (type(value), *[key_part(v, arrays) for v in value])
    if isinstance(value, dict):
        return (type(value), *[(key, key_part(v, arrays)) for key, v in value.items()])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return (type(value), *[key_part(getattr(value, f.name), arrays) for f in dataclasses.fields(value)])
    if isinstance(value, (float, complex)):
        return (type(value), repr(value))  # 0.0 and -0.0 differ, NaN equals itself
    return (type(value), value)


def is_plain(array: Array) -> bool:
    """Whether an array is a plain NumPy array in native byte order."""
    return type(array) is np.ndarray and array.dtype.kind in "biuf" and array.dtype.isnative


def contiguous(array: Array) -> Array:
    """A C-contiguous copy of the same shape: np.ascontiguousarray makes 0-d arrays 1-d."""
    return namespace([array]).ascontiguousarray(array).reshape(array.shape)


def with_leaves(value: Any, leaves: Iterator[Tensor]) -> Any:
    """The arguments with leaves instead of arrays."""
    if isinstance(value, Tensor):
        return next(leaves).requires_grad_(value.requires_grad)
    if is_array(value) and not isinstance(value, np.generic):
        return next(leaves)
    if isinstance(value, (tuple, list)):
        return with_attributes_of(value, sequence(type(value), [with_leaves(v, leaves) for v in value]))
    if isinstance(value, dict):
        return mapping(value, {key: with_leaves(v, leaves) for key, v in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return record(type(value), {f.name: with_leaves(getattr(value, f.name), leaves) for f in dataclasses.fields(value)})
    return value


def as_tensors(value: Any, change: Callable[[Array], Array] = lambda a: a) -> Any:
    """The arguments with Tensors instead of arrays. change: applied to the Tensors first."""
    if is_array(value) and not isinstance(value, np.generic):
        return wrap(change(value if is_plain(value) else asarray(value, where=ARGUMENT)), None)
    if isinstance(value, (tuple, list)):
        return with_attributes_of(value, sequence(type(value), [as_tensors(v, change) for v in value]))
    if isinstance(value, dict):
        return mapping(value, {key: as_tensors(v, change) for key, v in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return record(type(value), {f.name: as_tensors(getattr(value, f.name), change) for f in dataclasses.fields(value)})
    return value


def inventory(value: Any) -> Any:
    """The structure of containers, for comparisons: keys, and the ids of other objects."""
    if isinstance(value, (tuple, list)):
        return [inventory(v) for v in value]
    if isinstance(value, dict):
        return [(key, inventory(v)) for key, v in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = vars(value) if hasattr(value, "__dict__") else [f.name for f in dataclasses.fields(value)]
        return [(name, inventory(getattr(value, name))) for name in names]
    return id(value)


def sequence(kind: Any, parts: list[Any]) -> Any:
    """A list or tuple of this type, whatever its constructor expects."""
    if issubclass(kind, tuple):
        return tuple.__new__(kind, parts)
    instance = kind.__new__(kind)
    list.extend(instance, parts)
    return instance


def with_attributes_of(value: Any, instance: Any) -> Any:
    """`instance`, with the attributes of `value`."""
    if hasattr(value, "__dict__"):
        instance.__dict__.update(vars(value))
    return instance


def mapping(original: dict[Any, Any], parts: dict[Any, Any]) -> Any:
    """A dict of the same type, with other values."""
    if type(original) is dict:
        return parts
    copy = original.copy()  # a defaultdict keeps its default
    copy.update(parts)
    return copy


def record(kind: type, parts: dict[str, Any]) -> Any:
    """A dataclass instance with these values."""
    instance: Any = object.__new__(kind)
    for name, part in parts.items():
        object.__setattr__(instance, name, part)
    return instance


def flattened(value: Any, where: str = "") -> tuple[list[Tensor], Callable[[list[Any]], Any], Any]:
    """The Tensors in nested tuples, lists, dicts and dataclasses; a function that rebuilds the value from replacements; and
    everything else, to be compared between calls.

    where   the step, for errors

    Raises CompileError for what a replay cannot create: an array, or an object that may contain Tensors.
    """
    tensors: list[Tensor] = []

    def visit(v: Any) -> tuple[Callable[[list[Any]], Any], Any]:
        if isinstance(v, Tensor):
            i = len(tensors)
            tensors.append(v)
            return (lambda values: values[i]), Tensor
        if isinstance(v, dict):
            items = {key: visit(part) for key, part in v.items()}
            shell = mapping(v, dict.fromkeys(v))  # without the Tensors
            build = lambda values: mapping(shell, {key: make(values) for key, (make, _) in items.items()})  # noqa: E731
            return build, (type(v), {key: plain for key, (_, plain) in items.items()})
        if isinstance(v, (tuple, list)):
            kind, parts = type(v), [visit(part) for part in v]
            return (lambda values: sequence(kind, [make(values) for make, _ in parts])), (kind, [plain for _, plain in parts])
        if dataclasses.is_dataclass(v) and not isinstance(v, type):
            record_type, fields = type(v), {f.name: visit(getattr(v, f.name)) for f in dataclasses.fields(v)}
            build = lambda values: record(record_type, {name: make(values) for name, (make, _) in fields.items()})  # noqa: E731
            return build, (record_type, {name: plain for name, (_, plain) in fields.items()})
        if isinstance(v, (*PLAIN, numbers.Number, enum.Enum)):
            return (lambda values: v), repr(v)
        what = "an array" if is_array(v) else f"a {type(v).__name__}"
        raise CompileError(
            f"compile: the step{where} returns {what}, which a replay could not create; return Tensors, numbers or text, in "
            f"tuples, lists, dicts or dataclasses"
        )

    build, plain = visit(value)
    return tensors, build, plain
