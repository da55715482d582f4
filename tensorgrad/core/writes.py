"""Which arrays were changed in place, and when: what keeps a backward pass from using a value that is no longer there.

Time is the counter that numbers nodes. A node that was recorded before an array was written to, and kept that array for its
rule, must not be differentiated.

What Tensors and optimisers write is told here (`wrote`). What others write is not, so memory that they can write to is known:

- An array that an operation was given is theirs. A rule that reads it keeps a copy.
- Memory of a Tensor is lent to them by `.data` and `.numpy()`, until the last array on it is gone (`lend`). What is recorded
  meanwhile keeps a copy (`kept`). What had been recorded before may have kept the memory itself, so the loan remembers what was
  in it, and this is compared when the loan ends, and before a backward pass. If nothing recorded is alive, it need not be.
- Memory that came from them, by DLPack or as a new `.data`, is lent for as long as it is there (`share`).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array, as_bytes, is_array, may_overlap, on_gpu
from tensorgrad.core.memory import private

tick = itertools.count().__next__  # numbers nodes and writes in the order in which they happen

latest = -1  # time of the last write

Log: TypeAlias = dict[int, tuple[int, Any, Any]]  # id of the array: time, the array, the array that owns its memory
_written: Log = {}  # what Tensors and optimisers have changed
_changed: Log = {}  # what others have: no part of any history, but a rule that kept the memory cannot use it any more

LIMIT = 1024  # entries after which those of arrays that are gone are dropped


def wrote(array: Array) -> None:
    """Say that `array` has been changed in place."""
    owner = owner_of(array)
    for loan in loans.get(id(owner), ()):
        loan.look()
    _note(_written, array, owner)


def _note(log: Log, array: Array, owner: Array) -> None:
    global latest
    latest = tick()
    log[id(array)] = (latest, weakref.ref(array), weakref.ref(owner))
    if len(log) > LIMIT:
        for key in [key for key, (_, _, owner) in list(log.items()) if owner() is None]:
            log.pop(key, None)


def since(time: int, arrays: Iterable[Any], unseen: bool = False) -> bool:
    """Whether the memory of one of `arrays` was written to after `time`. unseen: past the Tensors, too."""
    log = [*_written.values(), *_changed.values()] if unseen else list(_written.values())
    recent = [(ref(), owner()) for when, ref, owner in log if when > time]
    for a in arrays:
        if a is None or not hasattr(a, "dtype"):
            continue
        for written, owner in recent:
            # a view that was written through may be gone while its memory is still there: then all of it counts
            if owner is not None and may_overlap(a, owner if written is None else written):
                return True
    return False


def owner_of(array: Array) -> Array:
    """The array that the memory of an array belongs to."""
    while (base := array.base) is not None:
        if isinstance(base, Lender):
            base = base.array
        elif not isinstance(base, (np.ndarray, type(array))):
            break
        array = base
    return array


# What others can write to

shared: dict[int, Any] = {}  # id of an array that owns memory which is theirs for good: a weak reference to it
loans: dict[int, list[Loan]] = {}  # id of an array that owns memory: what is lent of it at the moment


class Alive:
    """What every recorded node refers to, until a backward pass lets go of its arrays. While there is one, there are nodes."""

    __slots__ = ("__weakref__",)


alive = Alive()  # that of the nodes that are recorded now
_earlier: list[weakref.ref[Alive]] = []


def nodes_alive() -> list[weakref.ref[Alive]]:
    """What stands for the nodes that keep arrays at this moment; empty if there are none."""
    global alive, _earlier
    earlier, alive = [*_earlier, weakref.ref(alive)], Alive()
    _earlier = [ref for ref in earlier if ref() is not None]
    return _earlier


class Lender:
    """What lends the memory of an array: the array that NumPy makes of it, and each view of that, keep it."""

    __slots__ = ("array", "__array_interface__", "__weakref__")

    def __init__(self, array: Array) -> None:
        self.array, self.__array_interface__ = array, array.__array_interface__


class Loan:
    """Memory of a Tensor in the hands of others.

    array    gives the array that was lent, None if it is gone
    owner    id of the array that owns the memory
    view     a weak reference to what was handed out for it
    nodes    stand for the nodes that may have kept the memory before it was lent
    before   what was in it when somebody last looked, None if there are no such nodes
    end      a weak reference to what is there as long as others have the memory
    """

    __slots__ = ("array", "owner", "view", "nodes", "before", "end")

    def __init__(self, array: Array, owner: int, view: Array, lender: object) -> None:
        self.array: Callable[[], Any] = weakref.ref(array) if lender is owner_of(array) else lambda: array
        self.owner, self.view, self.nodes = owner, weakref.ref(view), nodes_alive()
        self.before = as_bytes(array) if self.nodes else None
        self.end: Any = weakref.ref(lender, self.ended)
        loans[owner] = [*loans.get(owner, ()), self]

    def look(self) -> None:
        """Note a write if the memory is not as it was."""
        array = self.array()
        if self.before is None or array is None:
            return
        if not any(ref() is not None for ref in self.nodes):
            self.before = None
        elif (now := as_bytes(array)) != self.before:
            self.before = now
            _note(_changed, array, owner_of(array))

    def ended(self, _: object) -> None:
        """Nobody else has the memory any more; said in whatever thread, in the middle of anything."""
        rest = [loan for loan in loans.get(self.owner, ()) if loan is not self]
        if rest:
            loans[self.owner] = rest
        else:
            loans.pop(self.owner, None)
        self.look()
        self.array, self.end = _nothing, None  # else they would keep each other


def _nothing() -> None:
    return None


def lend(array: Array) -> Array:
    """An array on the memory of `array`, for others. While it is there, or a view of it, what they write is found out."""
    owner = owner_of(array)
    key = id(owner)
    if key in shared:
        return array
    for loan in loans.get(key, ()):
        if loan.array() is array and (view := loan.view()) is not None:
            return view
    if on_gpu(array):  # a view of CuPy's keeps nothing but the owner of the memory: lent for as long as that is there
        Loan(array, key, array, owner)
        return array
    lender = Lender(array)
    view = np.asarray(lender)
    if view.dtype != array.dtype:  # the interface has no bfloat16
        view = view.view(array.dtype)
    Loan(array, key, view, lender)
    return view


def share(array: Array) -> None:
    """Say that others have the memory of an array, and may keep it."""
    owner = owner_of(array)
    key = id(owner)
    if key not in shared:
        shared[key] = weakref.ref(owner, lambda _: shared.pop(key, None))


def is_lent(array: Array) -> bool:
    """Whether others can write to the memory of an array."""
    key = id(owner_of(array))
    if key in shared:
        return True
    lent = [loan.array() for loan in loans.get(key, ())]
    return any(a is not None and may_overlap(array, a) for a in lent)


def kept(array: Any) -> Any:
    """What a rule keeps of an array of a Tensor's: a copy if others can write to its memory, else itself."""
    if not is_array(array) or isinstance(array, np.generic):
        return array
    return private(array) if is_lent(array) else array


def look() -> None:
    """Note what others have written to memory that is lent."""
    for found in list(loans.values()):
        for loan in found:
            loan.look()
