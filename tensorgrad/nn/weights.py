"""Checks for `Module.load_state_dict`, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, copy, is_array, is_floating, is_number, on, on_gpu
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError, TensorgradError


class Entry(NamedTuple):
    """An array of a module: the array, its owner, and its name there."""

    array: Array
    owner: Any
    name: str


def pairs_of(module: Any, values: Any, strict: bool, layout: str | None) -> list[tuple[Array, Array]]:
    """(own array, new values) for everything to load; new values share no memory with the arrays that are written."""
    where = f"load_state_dict: {type(module).__name__}"
    check_layout(where, layout)
    if not isinstance(values, Mapping):
        raise ArgumentError(
            f"{where}: expected a dict from path to array, as state_dict() returns, got {type(values).__name__}"
        )
    foreign = [name for name, value in values.items() if is_torch(value)]
    if foreign and layout is None:
        raise ArgumentError(
            f"{where}: {foreign[0]} is a PyTorch Tensor, which has a different layout: the weight of its Linear is (out, in), "
            f"here it is (in, out); load_state_dict(values, layout='torch') transposes it"
        )
    entries = {path: Entry(parameter._data, *place) for path, parameter, place in owned(module)}
    entries |= {path: Entry(array, *place) for path, array, place in owned(module, buffers=True)}
    new_values = dict(values)
    if layout == "torch":
        for path, part in module.named_modules():
            for name in part.only_in_torch:
                new_values.pop(f"{path}.{name}" if path else name, None)
    read: dict[str, Array] = {}
    problems: list[TensorgradError] = []
    tied = other_paths(module, entries) if new_values.keys() - entries.keys() else {}
    for path, value in new_values.items():
        at = entries.get(path) or tied.get(path)
        if at is not None:
            try:
                read[path] = as_values(path, value, at, layout)
            except TensorgradError as error:
                problems.append(error)
    for path in tied.keys() & new_values.keys():  # further names of tied weights
        first = next(p for p, entry in entries.items() if entry.array is tied[path].array)
        if first not in new_values:
            new_values[first] = new_values[path]
            if path in read:
                read[first] = read[path]
        elif path in read and first in read and not np.array_equal(as_numpy(read[first]), as_numpy(read[path]), equal_nan=True):
            problems.append(ShapeError(f"{path} and {first} are one array in the model, but two in the given values"))
        del new_values[path]
    if strict:
        missing, unexpected = sorted(entries.keys() - new_values.keys()), sorted(new_values.keys() - entries.keys(), key=str)
        names = ([f"missing {missing}"] if missing else []) + ([f"unexpected {unexpected}"] if unexpected else [])
        problems = [*map(ShapeError, names), *problems]
    if problems:
        kind = type(problems[0]) if len({type(p) for p in problems}) == 1 else ShapeError
        raise kind(f"{where}: {'; '.join(map(str, problems))}")
    written = {id(writes.owner_of(entry.array)) for entry in entries.values()}
    return [
        (entry.array, copy(read[path]) if id(writes.owner_of(read[path])) in written else read[path])
        for path, entry in entries.items()
        if path in read
    ]


def check_layout(where: str, layout: Any) -> None:
    if layout not in (None, "torch"):
        raise ArgumentError(f"{where}: layout must be None or 'torch', got {layout!r}")


def is_transposed(array: Array, owner: Any, name: str) -> bool:
    """Whether PyTorch stores a parameter of a module transposed."""
    return name in owner.transposed_in_torch and array.ndim == 2


def owned(
    module: Any, prefix: str = "", *, buffers: bool = False, every: bool = False
) -> Iterator[tuple[str, Any, tuple[Any, str]]]:
    """(path, parameter or buffer, its owner), once each, or if `every`, once for each path."""
    seen: set[int] = set()
    for path, part in module._walk(prefix, "path" if every else ""):
        values: Mapping[str, Any] = part._buffers if buffers else part._parameters
        for name, value in values.items():
            if every or id(value) not in seen:
                seen.add(id(value))
                yield f"{path}.{name}" if path else name, value, (part, name)


def other_paths(module: Any, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Further paths of tied parameters, and of buffers of shared modules."""
    all_entries = {path: Entry(parameter._data, *place) for path, parameter, place in owned(module, every=True)}
    all_entries |= {path: Entry(array, *place) for path, array, place in owned(module, buffers=True, every=True)}
    return {path: entry for path, entry in all_entries.items() if path not in entries}


def as_values(path: str, value: Any, at: Entry, layout: str | None) -> Array:
    """The array to write. Raises ShapeError or DTypeError if it does not fit."""
    try:
        array = as_array(value)
    except (ValueError, TypeError) as error:
        raise DTypeError(f"{path} is a {type(value).__name__}, expected an array: {error}") from None
    if not is_number(array.dtype):
        raise DTypeError(f"{path} is a {type(value).__name__} of dtype {array.dtype}, expected numbers")
    transposed = is_transposed(array, at.owner, at.name)
    if layout == "torch" and transposed:
        array = array.T
    if array.shape != at.array.shape:
        hint = ""
        if layout is None and transposed and array.shape[::-1] == at.array.shape:
            hint = " (PyTorch weights are (out, in): layout='torch' transposes them)"
        shape = tuple(value.shape) if hasattr(value, "shape") else array.shape
        raise ShapeError(f"{path} has shape {shape}, expected {at.array.shape}{hint}")
    dtype = at.array.dtype
    are_integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    if not (are_integers or np.can_cast(array.dtype, dtype, "same_kind")):
        raise DTypeError(f"{path} has dtype {array.dtype}, expected {dtype}: values would be truncated")
    if array.dtype == dtype:
        return array
    with on(array), np.errstate(all="ignore"):
        converted = array.astype(dtype)
        if dtype.kind in "iu":
            is_exact = bool((converted == array).all())
        else:
            is_exact = not is_floating(array.dtype) or bool((abs(converted) == np.inf).sum() == (abs(array) == np.inf).sum())
    if not is_exact:
        raise DTypeError(f"{path} has dtype {array.dtype}, with values that {dtype} cannot represent")
    return converted


def as_array(value: Any) -> Array:
    if isinstance(value, Tensor):
        return value._data
    if is_torch(value):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return value if is_array(value) and not isinstance(value, np.generic) else np.asarray(value)


def is_torch(value: Any) -> bool:
    """Whether a value is a PyTorch Tensor; does not import PyTorch."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(value).__mro__)


def as_numpy(array: Array) -> Array:
    return array.get() if on_gpu(array) else array
