"""Checkpoints: all that training depends on in one file, .npz or .safetensors, without a pickle.

A file holds a nest of dicts and lists: the arrays in it by their path ("model/0.weight"), everything else as JSON. It carries a
checksum of all of it (tensorgrad.storage), so that a file which has been damaged is refused instead of trained from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, is_array
from tensorgrad.data import storage
from tensorgrad.data.loader import DataLoader
from tensorgrad.errors import CheckpointError, DataError
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule
from tensorgrad.train.state import State

FORMAT = "tensorgrad checkpoint 1"
ARRAY = "$array"


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
    """Write the state of what is given to one file: .npz, which `numpy.load` reads too, or .safetensors.

    extra   whatever else is to be kept: numbers, text, arrays, None, and lists and dicts of them

    The file takes the place of one that is there in one step: a full disk or a kill in the middle leaves that one as it was.

    Raises CheckpointError, naming the file, if it cannot be written, TypeError for something in `extra` that cannot be kept.
    """
    given: dict[str, Any] = {"model": model, "optimiser": optimiser, "schedule": schedule, "loader": loader}
    contents = State(**given).take(*[name for name, part in given.items() if part is not None])
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
    """Read a file that `save` or `fit` has written, and let what is given go on from there.

    Returns all that is in it, by the names that `save` has for it; `load(path)["model"]` is a state_dict.

    Raises FileNotFoundError where there is none; CheckpointError, naming the file and the reason, for one that is cut off,
    changed, or not a checkpoint, and, before anything is changed, for one that does not fit what is given.
    """
    contents = read(path)
    given: dict[str, Any] = {"model": model, "optimiser": optimiser, "schedule": schedule, "loader": loader}
    put(path, contents, State(**given), [name for name, part in given.items() if part is not None])
    return contents


def write(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Write a nest of dicts, lists, arrays, numbers and text. Raises CheckpointError if the file cannot be written."""
    arrays: dict[str, Array] = {}
    tree = _packed(contents, "", arrays)
    try:
        storage.write(path, arrays, {"format": FORMAT, "contents": json.dumps(tree)})
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror or error}; what was there before is as it was"
        ) from error


def read(path: str | Path) -> dict[str, Any]:
    """The nest in a file. Raises FileNotFoundError where there is none, CheckpointError if it is not as it was written."""
    try:
        arrays, metadata = storage.read(path)
        if metadata.get("format") != FORMAT:
            raise DataError(f"{path}: is of format {metadata.get('format')!r}, expected {FORMAT!r}")
        contents: dict[str, Any] = _unpacked(json.loads(metadata["contents"]), arrays)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not as tensorgrad writes it: {error!r}") from None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: not as tensorgrad writes it: holds a {type(contents).__name__}, not a dict")
    return contents


@contextmanager
def form_of(path: str | Path) -> Iterator[None]:
    """Inside the block, what a file holds being of another form than `save` and `fit` write is a CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not as tensorgrad writes it: {error!r}") from None


def put(
    path: str | Path, contents: Mapping[str, Any], state: State, names: Sequence[str], problems: Sequence[str] = ()
) -> None:
    """Let parts of a state go on as `contents` says.

    Raises CheckpointError, before anything is changed, if they do not fit, or if other problems have been found before.
    """
    problems = [*problems, *(f"holds no {name}, only {', '.join(contents)}" for name in names if name not in contents)]
    values = {name: contents[name] for name in names if name in contents}
    with form_of(path):
        problems += state.misfits(values)
    if problems:
        raise CheckpointError(f"{path}: does not fit: {'; '.join(problems)}")
    try:
        state.put(values)
    except DataError as error:
        raise CheckpointError(f"{path}: does not fit: {error}") from None


def _packed(value: Any, where: str, arrays: dict[str, Array]) -> Any:
    """A nest as JSON has it; arrays are put into `arrays`, and their names in their places."""
    if isinstance(value, np.generic):  # comes back as a Python number
        if value.dtype.kind not in "biuf":
            raise TypeError(f"save: {where} is of dtype {value.dtype}, expected numbers or booleans")
        value = value.item()
    if is_array(value):
        arrays[where] = value
        return {ARRAY: where}
    if isinstance(value, (list, tuple)):
        return [_packed(v, f"{where}/{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == ARRAY or "/" in key or not key.isprintable():
                raise TypeError(f"save: {where} has the key {key!r}, expected printable text without a slash")
        return {key: _packed(v, f"{where}/{key}" if where else key, arrays) for key, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"save: {where} is a {type(value).__name__}, expected numbers, text, arrays, None, or lists and dicts of them"
    )


def _unpacked(value: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, arrays) for v in value]
    if isinstance(value, dict):
        return arrays[value[ARRAY]] if ARRAY in value else {key: _unpacked(v, arrays) for key, v in value.items()}
    return value
