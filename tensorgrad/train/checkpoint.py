"""Checkpoints: all that training depends on in one file, .npz or .safetensors, without a pickle.

A file holds a nest of dicts and lists: the arrays in it by their path ("model/0.weight"), everything else as JSON. It carries a
checksum of all of it (tensorgrad.data.storage), so that a file which has been damaged is refused instead of trained from, and
the number of its format. Files of every format that there has been, from 1 on, are read by every later version: there are some
of each in tests/checkpoints. One of a later format is refused by its number.

A sound file that is not as `save` and `fit` write it, where something is missing, not known or of another type, at any depth,
is a CheckpointError that names the file and the key, and changes nothing.
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
from tensorgrad.core.form import ANYTHING, COUNT, TEXT, Absent, Each
from tensorgrad.core.ranks import ranks
from tensorgrad.data import storage
from tensorgrad.data.loader import DataLoader
from tensorgrad.errors import ArgumentError, CheckpointError, DataError
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule
from tensorgrad.train.state import State

FORMAT = "tensorgrad checkpoint 1"  # what is written
FORMATS = (FORMAT,)  # what is read: every one that there has been
ARRAY = "$array"

# What may stand in a file, whoever it is of; what is in the parts, they know themselves.
FORM = {
    name: Absent(inner)
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
    """Write the state of what is given to one file: .npz, which `numpy.load` reads too, or .safetensors.

    extra   whatever else is to be kept: numbers, text, arrays, None, and lists and dicts of them

    The file takes the place of one that is there in one step: a full disk or a kill in the middle leaves that one as it was.

    Raises CheckpointError, naming the file, if it cannot be written; ArgumentError for what cannot be kept.
    """
    path = as_path("train.save", path)
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
    contents = read(as_path("train.load", path))
    given: dict[str, Any] = {"model": model, "optimiser": optimiser, "schedule": schedule, "loader": loader}
    put(path, contents, State(**given), [name for name, part in given.items() if part is not None])
    return contents


def write(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Write a nest of dicts, lists, arrays, numbers and text. Raises CheckpointError if the file cannot be written.

    Of several ranks (core.ranks), all of which have to call it, the first one writes the file.
    """
    tree, arrays = packed(contents)
    try:
        ranks.by_first(lambda: storage.write(path, arrays, {"format": FORMAT, "contents": json.dumps(tree)}))
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror or error}; what was there before is as it was"
        ) from error


def read(path: str | Path) -> dict[str, Any]:
    """The nest in a file. Raises FileNotFoundError where there is none, CheckpointError if it is not as it was written."""
    try:
        arrays, metadata = ranks.by_first(lambda: storage.read(path))
        if metadata.get("format") not in FORMATS:
            readable = " or ".join(map(repr, FORMATS))
            raise DataError(f"{path}: is of format {metadata.get('format')!r}, expected {readable}")
        used: set[str] = set()
        contents: dict[str, Any] = _unpacked(json.loads(metadata["contents"]), arrays, used)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not as tensorgrad writes it: {error!r}") from None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: not as tensorgrad writes it: holds a {type(contents).__name__}, not a dict")
    found = form.problems(contents, FORM) + [f"{name} is an array that stands nowhere" for name in arrays if name not in used]
    if found:
        raise CheckpointError(f"{path}: not as tensorgrad writes it: {'; '.join(found)}")
    return contents


def put(
    path: str | Path,
    contents: Mapping[str, Any],
    state: State,
    names: Sequence[str],
    problems: Sequence[str] = (),
    more: Mapping[str, tuple[Any, Any]] = {},
) -> None:
    """Let parts of a state go on as `contents` says, and others, by their names, as the values beside them.

    Raises CheckpointError, before anything is changed, if they do not fit, or if other problems have been found before. If one
    of them refuses its values all the same, all of them are put back.
    """
    values = {name: contents[name] for name in names if name in contents}
    found = [*problems, *(f"holds no {name}, only {', '.join(contents)}" for name in names if name not in contents)]
    if found := [*found, *state.misfits(values)]:
        raise CheckpointError(f"{path}: does not fit: {'; '.join(found)}")
    before = state.take(*values)
    before_more = {name: part.state_dict() for name, (part, _) in more.items()}
    at = "parts"
    try:
        for at, (part, own_values) in more.items():  # noqa: B007
            part.load_state_dict(own_values)
        at = ", ".join(values)
        state.put(values)
    except BaseException as error:
        for changed in values:
            with suppress(Exception):  # one that takes nothing is as it was
                state.put({changed: before[changed]})
        for changed, (part, _) in more.items():
            with suppress(Exception):
                part.load_state_dict(before_more[changed])
        if not isinstance(error, Exception):
            raise
        raise CheckpointError(f"{path}: does not fit: {at}: {error!r}") from error


def packed(contents: Mapping[str, Any]) -> tuple[Any, dict[str, Array]]:
    """A nest as JSON has it, and the arrays in it by their path. Raises ArgumentError for what cannot be kept."""
    arrays: dict[str, Array] = {}
    try:
        return tree_of(contents, "", arrays), arrays
    except RecursionError:
        raise ArgumentError("save: the lists and dicts lie too deep inside of one another, or one inside of itself") from None


def tree_of(value: Any, where: str, arrays: dict[str, Array]) -> Any:
    """A nest as JSON has it; arrays are put into `arrays`, and their names in their places."""
    if isinstance(value, np.generic):  # comes back as a Python number
        if value.dtype.kind not in "biuf":
            raise ArgumentError(f"save: {where} is of dtype {value.dtype}, expected numbers or booleans")
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
    """What `tree_of` has made JSON of; the names of the arrays in it are put into `used`."""
    if isinstance(value, list):
        return [_unpacked(v, arrays, used) for v in value]
    if isinstance(value, dict) and ARRAY in value:
        if len(value) > 1:
            raise ValueError(f"an array has more than a name: {', '.join(value)}")
        used.add(value[ARRAY])
        return arrays[value[ARRAY]]
    if isinstance(value, dict):
        return {key: _unpacked(v, arrays, used) for key, v in value.items()}
    return value
