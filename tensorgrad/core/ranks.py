"""Ranks: processes that train one model together, each with its part of every batch.

`tensorgrad.distributed` sets a Group here. Without one this process is alone, and everything below costs no more than a test.
Values on which ranks must agree are computed by all of them from the same data, or by the first one for all.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from tensorgrad.core.backend import Array
from tensorgrad.core.state import state


class Group(Protocol):
    """The processes. Each call is collective: all ranks must make it, in the same order."""

    rank: int  # index of this process, from 0
    size: int  # number of processes
    fault_tolerant: bool  # whether the others continue when one is lost: a collective call then raises a RankError

    def all_reduce(self, array: Array) -> None:
        """All-reduce: replace a C-contiguous array by its sum over all ranks, with the same shape and dtype on each; the
        results are bit-identical.
        """

    def broadcast(self, value: Any) -> Any:
        """Broadcast: the value of the first rank."""

    def all_gather(self, value: Any) -> list[Any]:
        """All-gather: the values of all ranks, in order."""
        return []


class Part(NamedTuple):
    """This rank's samples of a batch, from `start` to `stop`, and the size of the whole batch."""

    start: int
    stop: int
    total: int

    @classmethod
    def of(cls, total: int) -> Part:
        """This rank's part of a batch of this size. Parts differ by at most one sample and may be empty."""
        group = ranks.group
        if group is None:
            return cls(0, total, total)
        return cls(group.rank * total // group.size, (group.rank + 1) * total // group.size, total)


class IdentitySet:
    """A weak set of objects by identity, because == of Tensors compares elements."""

    def __init__(self) -> None:
        self.refs: dict[int, weakref.ref[Any]] = {}

    def __contains__(self, item: Any) -> bool:
        return id(item) in self.refs

    def add(self, item: Any) -> None:
        key, refs = id(item), self.refs
        refs[key] = weakref.ref(item, lambda _: refs.pop(key, None))

    def discard(self, item: Any) -> None:
        self.refs.pop(id(item), None)


class Ranks:
    """The state of this process.

    group      the processes, None if it is alone
    part       its part of the current batch, if a loader provided it
    averaged   gradients that have been averaged already
    """

    def __init__(self) -> None:
        self.group: Group | None = None
        self.part: Part | None = None
        self.averaged = IdentitySet()

    @property
    def size(self) -> int:
        return 1 if self.group is None else self.group.size

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.group is None or self.group.rank == 0

    @property
    def share(self) -> float:
        """The weight of this rank's mean over samples in the mean over all ranks."""
        if self.part is None or self.group is None:
            return 1 / self.size
        return (self.part.stop - self.part.start) / self.part.total

    def all_reduce(self, array: Array) -> None:
        """Replace a C-contiguous array by its sum over all ranks.

        While a plan is tried out nothing is exchanged, as if all ranks had this one's values: ranks make plans at different
        times, because their parts of a batch have different sizes.
        """
        if self.group is None:
            return
        if state.rehearsing:
            array *= self.group.size
        else:
            self.group.all_reduce(array)

    def broadcast(self, value: Any) -> Any:
        """The value of the first rank."""
        return value if self.group is None else self.group.broadcast(value)

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        return [value] if self.group is None else self.group.all_gather(value)

    def on_first(self, call: Callable[[], Any]) -> Any:
        """Run `call` on the first rank only; its result is returned, or its error raised, on all."""
        if self.group is None:
            return call()
        result, error = None, None
        if self.is_first:
            try:
                result = call()
            except Exception as raised:
                error = raised
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        return result

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context manager: act as a single process."""
        group, self.group = self.group, None
        try:
            yield
        finally:
            self.group = group


ranks = Ranks()
