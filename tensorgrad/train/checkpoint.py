"""Checkpoints: the complete state of a training in one file, .npz or .safetensors, without pickle.

A file holds nested dicts and lists: arrays by path ("model/0.weight"), everything else as JSON. It has a checksum of all its
contents (tensorgrad.data.storage), so that damaged files are refused, and a format number. Files of every format since 1 can be
read by every later version (tests/checkpoints has examples); files of a later format are refused by their number.

An intact file with missing or unknown entries or other types than `save` and `fit` write, at any depth, raises CheckpointError
with file and key, and nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.core import form
from tensorgrad.core.backend import Array, is_array
from tensorgrad.core.files import as_path
from tensorgrad.core.form import ANYTHING, COUNT, TEXT, Each, OptionalKey
from tensorgrad.core.ranks import ranks
from tensorgrad.data import storage
from tensorgrad.data.loader import DataLoader
from tensorgrad.errors import ArgumentError, CheckpointError, DataError
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule
from tensorgrad.train.state import State

FORMAT = "tensorgrad checkpoint 1"  # the format that is written
FORMATS = (FORMAT,)  # the formats that can be read: all there have been
ARRAY = "$array"

# Allowed entries of a file; each part checks its own contents.
FORM = {
    name: OptionalKey(inner)
    for name, inner in {
        **dict.fromkeys(("model", "loss", "others"), Each(form.ARRAY)),
        **dict.fromkeys(("optimiser", "schedule"), Each(ANYTHING, {"type": TEXT})),
        **dict.fromkeys(("loader", "validation", "extra"), ANYTHING),
        "generators": [{"generator": Each(ANYTHING), "gpus": Each(form.ARRAY)}],
        "callbacks": Each(Each(ANYTHING)),
        "history": Each([ANYTHING]),
        "epoch": COUNT,
        "stop": TEXT,
        "record": Each(ANYTHING),
    }.items()
}


def save(
    path: str | Path,
    *,
    model: Module | None = None,
    optimiser: Optimiser | None = None,
    schedule: Schedule | None = None,
    loader: DataLoader | None = None,
    history: Mapping[str, list[Any]] | None = None,
    extra: Any = None,
) -> None:
    """Save the state of the given objects to one file: .npz, which `numpy.load` can read too, or .safetensors.

    extra   additional data: numbers, text, arrays, None, and lists and dicts of these

    An existing file is replaced atomically: a full disk or a killed process leaves it unchanged.

    Raises CheckpointError, naming the file, if it cannot be written; ArgumentError for data that cannot be saved.
    """
    path = as_path("train.save", path)
    objects: dict[str, Any] = {"model": model, "optimiser": optimiser, "schedule": schedule, "loader": loader}
    contents = State(**objects).take(*[name for name, value in objects.items() if value is not None])
    if history is not None:
        contents["history"] = dict(history)
    if extra is not None:
        contents["extra"] = extra
    write(path, contents)


def load(
    path: str | Path,
    *,
    model: Module | None = None,
    optimiser: Optimiser | None = None,
    schedule: Schedule | None = None,
    loader: DataLoader | None = None,
) -> dict[str, Any]:
    """Read a file written by `save` or `fit` and restore the state of the given objects.

    Returns the contents of the file, by the argument names of `save`; `load(path)["model"]` is a state_dict.

    Raises FileNotFoundError if there is no file; CheckpointError, naming the file and the reason, for a truncated, changed or
    foreign file and, before anything is changed, for one that does not fit the objects.
    """
    contents = read(as_path("train.load", path))
    objects: dict[str, Any] = {"model": model, "optimiser": optimiser, "schedule": schedule, "loader": loader}
    put(path, contents, State(**objects), [name for name, value in objects.items() if value is not None])
    return contents


def write(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Write nested dicts, lists, arrays, numbers and text. Raises CheckpointError if the file cannot be written.

    With several ranks (core.ranks) all must call it; the first one writes the file.
    """
    tree, arrays = packed(contents)
    try:
        ranks.on_first(lambda: storage.write(path, arrays, {"format": FORMAT, "contents": json.dumps(tree)}))
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror or error}; the previous file is unchanged"
        ) from error


def read(path: str | Path) -> dict[str, Any]:
    """Read the contents of a file. Raises FileNotFoundError if there is none, CheckpointError if it is damaged."""
    try:
        arrays, metadata = ranks.on_first(lambda: storage.read(path))
        if metadata.get("format") not in FORMATS:
            readable = " or ".join(map(repr, FORMATS))
            raise DataError(f"{path}: has format {metadata.get('format')!r}, expected {readable}")
        used_names: set[str] = set()
        contents: dict[str, Any] = _unpacked(json.loads(metadata["contents"]), arrays, used_names)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a valid checkpoint: {error!r}") from None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: not a valid checkpoint: holds a {type(contents).__name__}, not a dict")
    reasons = form.problems(contents, FORM) + [
        f"{name} is an array that is not referenced" for name in arrays if name not in used_names
    ]
    if reasons:
        raise CheckpointError(f"{path}: not a valid checkpoint: {'; '.join(reasons)}")
    return contents


def put(
    path: str | Path,
    contents: Mapping[str, Any],
    state: State,
    names: Sequence[str],
    problems: Sequence[str] = (),
    callbacks: Mapping[str, tuple[Any, Any]] = {},
) -> None:
    """Restore parts of a state from `contents`, and the state of `callbacks`: pairs of a callback and its values.

    Raises CheckpointError, before anything is changed, if they do not fit or if there are `problems` already. If a part refuses
    its values nevertheless, all are rolled back.
    """
    values = {name: contents[name] for name in names if name in contents}
    reasons = [*problems, *(f"holds no {name}, only {', '.join(contents)}" for name in names if name not in contents)]
    if reasons := [*reasons, *state.misfits(values)]:
        raise CheckpointError(f"{path}: does not fit: {'; '.join(reasons)}")
    old_values = state.take(*values)
    old_callback_values = {name: callback.state_dict() for name, (callback, _) in callbacks.items()}
    current = "parts"
    try:
        for current, (callback, callback_values) in callbacks.items():  # noqa: B007
            callback.load_state_dict(callback_values)
        current = ", ".join(values)
        state.put(values)
    except BaseException as error:
        for part_name in values:
            with suppress(Exception):  # a part that refuses its old values has not changed
                state.put({part_name: old_values[part_name]})
        for part_name, (callback, _) in callbacks.items():
            with suppress(Exception):
                callback.load_state_dict(old_callback_values[part_name])
        if not isinstance(error, Exception):
            raise
        raise CheckpointError(f"{path}: does not fit: {current}: {error!r}") from error


def packed(contents: Mapping[str, Any]) -> tuple[Any, dict[str, Array]]:
    """Nested contents in JSON types, and the arrays by path. Raises ArgumentError for anything that cannot be saved."""
    arrays: dict[str, Array] = {}
    try:
        return tree_of(contents, "", arrays), arrays
    except RecursionError:
        raise ArgumentError("save: lists and dicts are nested too deeply, or contain themselves") from None


def tree_of(value: Any, where: str, arrays: dict[str, Array]) -> Any:
    """Convert nested contents to JSON types; arrays are added to `arrays` and replaced by their names."""
    if isinstance(value, np.generic):  # read back as a Python number
        if value.dtype.kind not in "biuf":
            raise ArgumentError(f"save: {where} has dtype {value.dtype}, expected numbers or booleans")
        value = value.item()
    if is_array(value):
        arrays[where] = value
        return {ARRAY: where}
    if isinstance(value, (list, tuple)):
        return [tree_of(v, f"{where}/{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == ARRAY or "/" in key or not key.isprintable():
                raise ArgumentError(f"save: {where} has the key {key!r}, expected printable text without a slash")
        return {key: tree_of(v, f"{where}/{key}" if where else key, arrays) for key, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ArgumentError(
        f"save: {where} is a {type(value).__name__}, expected numbers, text, arrays, None, or lists and dicts of them"
    )


def _unpacked(value: Any, arrays: Mapping[str, Array], used: set[str]) -> Any:
    """The inverse of `tree_of`; the names of its arrays are added to `used`."""
    if isinstance(value, list):
        return [_unpacked(v, arrays, used) for v in value]
    if isinstance(value, dict) and ARRAY in value:
        if len(value) > 1:
            raise ValueError(f"an array reference has other keys: {', '.join(value)}")
        used.add(value[ARRAY])
        return arrays[value[ARRAY]]
    if isinstance(value, dict):
        return {key: _unpacked(v, arrays, used) for key, v in value.items()}
    return value
