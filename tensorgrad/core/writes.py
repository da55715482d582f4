"""Tracks in-place changes of arrays, so that a backward pass never uses overwritten values.

Time is the counter that numbers nodes. A node that was recorded before an array was written to, and kept that array for its
rule, cannot be differentiated.

Tensors and optimisers report their writes (`wrote`). Other code does not, so memory that it can write to is tracked:

- An array argument of an operation belongs to the caller. A rule that reads it keeps a copy.
- `.data` and `.numpy()` lend a Tensor's memory, until the last array on it is deleted (`lend`). Nodes recorded meanwhile keep a
  copy (`kept`). Earlier nodes may have kept the memory itself, so the loan remembers its contents, which are compared when the
  loan ends and before a backward pass, unless no recorded node is alive.
- Memory from other code, by DLPack or as a new `.data`, is lent for as long as it exists (`share`).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array, as_bytes, is_array, may_overlap, on_gpu
from tensorgrad.core.memory import private

tick = itertools.count().__next__  # numbers nodes and writes in the order of execution

latest = -1  # time of the last write

Log: TypeAlias = dict[int, tuple[int, Any, Any]]  # id of the array to time, the array, and the array that owns its memory
_written: Log = {}  # changed by Tensors and optimisers
_changed: Log = {}  # changed by other code: not part of any history, but a rule that kept the memory cannot use it

LIMIT = 1024  # number of entries above which those of deleted arrays are removed


def wrote(array: Array) -> None:
    """Report that `array` was changed in place."""
    owner = owner_of(array)
    for loan in loans.get(id(owner), ()):
        loan.check()
    _note(_written, array, owner)


def _note(log: Log, array: Array, owner: Array) -> None:
    global latest
    latest = tick()
    log[id(array)] = (latest, weakref.ref(array), weakref.ref(owner))
    if len(log) > LIMIT:
        for key in [key for key, (_, _, owner) in list(log.items()) if owner() is None]:
            log.pop(key, None)


def since(time: int, arrays: Iterable[Any], unseen: bool = False) -> bool:
    """Whether the memory of one of `arrays` was written to after `time`. unseen: include writes by other code."""
    log = [*_written.values(), *_changed.values()] if unseen else list(_written.values())
    recent = [(ref(), owner()) for when, ref, owner in log if when > time]
    for a in arrays:
        if a is None or not hasattr(a, "dtype"):
            continue
        for written, owner in recent:
            # the written view may be deleted while its memory exists: then all of it counts
            if owner is not None and may_overlap(a, owner if written is None else written):
                return True
    return False


def owner_of(array: Array) -> Array:
    """The array that owns the memory of an array."""
    while (base := array.base) is not None:
        if isinstance(base, Lender):
            base = base.array
        elif not isinstance(base, (np.ndarray, type(array))):
            break
        array = base
    return array


# Memory that other code can write to

shared: dict[int, Any] = {}  # id of an array that owns permanently shared memory: a weak reference to it
loans: dict[int, list[Loan]] = {}  # id of an array that owns memory: its current loans


class Alive:
    """Referenced by every recorded node until a backward pass releases its arrays: it exists while such nodes do."""

    __slots__ = ("__weakref__",)


alive = Alive()  # the one of nodes recorded now
_earlier: list[weakref.ref[Alive]] = []


def nodes_alive() -> list[weakref.ref[Alive]]:
    """Weak references that stand for the nodes that currently keep arrays; empty if there are none."""
    global alive, _earlier
    earlier, alive = [*_earlier, weakref.ref(alive)], Alive()
    _earlier = [ref for ref in earlier if ref() is not None]
    return _earlier


class Lender:
    """Provides the memory of an array: the array that NumPy makes of it, and all its views, keep it alive."""

    __slots__ = ("array", "__array_interface__", "__weakref__")

    def __init__(self, array: Array) -> None:
        self.array, self.__array_interface__ = array, array.__array_interface__


class Loan:
    """Memory of a Tensor that other code can write to.

    array    returns the lent array, None if it is deleted
    owner    id of the array that owns the memory
    view     a weak reference to the array that was returned for it
    nodes    stand for the nodes that may have kept the memory before
    contents its contents at the last check, None if there are no such nodes
    end      a weak reference to an object that exists as long as the loan
    """

    __slots__ = ("array", "owner", "view", "nodes", "contents", "end")

    def __init__(self, array: Array, owner: int, view: Array, lender: object) -> None:
        self.array: Callable[[], Any] = weakref.ref(array) if lender is owner_of(array) else lambda: array
        self.owner, self.view, self.nodes = owner, weakref.ref(view), nodes_alive()
        self.contents = as_bytes(array) if self.nodes else None
        self.end: Any = weakref.ref(lender, self.on_end)
        loans[owner] = [*loans.get(owner, ()), self]

    def check(self) -> None:
        """Report a write if the contents have changed."""
        array = self.array()
        if self.contents is None or array is None:
            return
        if not any(ref() is not None for ref in self.nodes):
            self.contents = None
        elif (now := as_bytes(array)) != self.contents:
            self.contents = now
            _note(_changed, array, owner_of(array))

    def on_end(self, _: object) -> None:
        """The end of the loan; may be called by any thread at any time."""
        remaining = [loan for loan in loans.get(self.owner, ()) if loan is not self]
        if remaining:
            loans[self.owner] = remaining
        else:
            loans.pop(self.owner, None)
        self.check()
        self.array, self.end = _no_array, None  # otherwise they would keep each other alive


def _no_array() -> None:
    return None


def lend(array: Array) -> Array:
    """An array on the memory of `array`, for other code. Writes to it and its views are detected while they exist."""
    owner = owner_of(array)
    key = id(owner)
    if key in shared:
        return array
    for loan in loans.get(key, ()):
        if loan.array() is array and (view := loan.view()) is not None:
            return view
    if on_gpu(array):  # CuPy's views only keep the owner of the memory: lent while that exists
        Loan(array, key, array, owner)
        return array
    lender = Lender(array)
    view = np.asarray(lender)
    if view.dtype != array.dtype:  # the array interface does not support bfloat16
        view = view.view(array.dtype)
    Loan(array, key, view, lender)
    return view


def share(array: Array) -> None:
    """Report that other code has the memory of an array, possibly for ever."""
    owner = owner_of(array)
    key = id(owner)
    if key not in shared:
        shared[key] = weakref.ref(owner, lambda _: shared.pop(key, None))


def is_lent(array: Array) -> bool:
    """Whether other code can write to the memory of an array."""
    key = id(owner_of(array))
    if key in shared:
        return True
    lent = [loan.array() for loan in loans.get(key, ())]
    return any(a is not None and may_overlap(array, a) for a in lent)


def unshared(array: Any) -> Any:
    """What a rule keeps of a Tensor's array: a copy if other code can write to its memory, else itself."""
    if not is_array(array) or isinstance(array, np.generic):
        return array
    return private(array) if is_lent(array) else array


def check_loans() -> None:
    """Report writes by other code to lent memory."""
    for owner_loans in list(loans.values()):
        for loan in owner_loans:
            loan.check()
