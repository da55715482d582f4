"""Which arrays were changed in place, and when: what keeps a backward pass from using a value that is no longer there.

Time is the counter that numbers nodes. A node that was recorded before an array was written to, and kept that array for its
rule, must not be differentiated.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from typing import Any

from tensorgrad.core.backend import Array, may_overlap

tick = itertools.count().__next__  # numbers nodes and writes in the order in which they happen

latest = -1  # time of the last write
_written: dict[int, tuple[int, Any, Any]] = {}  # id of the array: time, the array, the array that owns its memory

LIMIT = 1024  # entries after which those of arrays that are gone are dropped


def wrote(array: Array) -> None:
    """Say that `array` has been changed in place."""
    global latest
    latest = tick()
    owner = array if array.base is None else _owner(array)
    _written[id(array)] = (latest, weakref.ref(array), weakref.ref(owner))
    if len(_written) > LIMIT:
        for key in [key for key, (_, _, owner) in _written.items() if owner() is None]:
            del _written[key]


def since(time: int, arrays: Iterable[Any]) -> bool:
    """Whether the memory of one of `arrays` was written to after `time`."""
    recent = [(ref(), owner()) for when, ref, owner in _written.values() if when > time]
    for a in arrays:
        if a is None or not hasattr(a, "dtype"):
            continue
        for written, owner in recent:
            # a view that was written through may be gone while its memory is still there: then all of it counts
            if owner is not None and may_overlap(a, owner if written is None else written):
                return True
    return False


def _owner(array: Array) -> Array:
    while isinstance(array.base, type(array)):
        array = array.base
    return array
