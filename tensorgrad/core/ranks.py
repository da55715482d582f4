"""Ranks: processes that train one model together, each with its own part of every batch; what the package knows of them.

`tensorgrad.distributed` puts a Group here. Where there is none, this process is all there is, and nothing below costs more than
the question. What ranks have to agree in is computed by all of them from the same values, or by the first one for all.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from tensorgrad.core.backend import Array
from tensorgrad.core.state import state


class Group(Protocol):
    """The processes. Each call is a meeting: all ranks have to come to it, in the same order."""

    rank: int  # which one this process is, from 0
    size: int  # how many there are
    outlives: bool  # whether it goes on when one of them is lost: a meeting is a RankError then that says which

    def add_up(self, array: Array) -> None:
        """Let an array, which lies row after row, be the sum of those of all ranks, of one shape and dtype: the same on all,
        bit for bit."""

    def shared(self, value: Any) -> Any:
        """What the first rank has."""

    def gathered(self, value: Any) -> list[Any]:
        """What each rank has, in their order."""
        return []


class Part(NamedTuple):
    """Which samples of a batch this rank has, from `start` up to `stop`, and how many the batch has on all ranks together."""

    start: int
    stop: int
    whole: int

    @classmethod
    def of(cls, whole: int) -> Part:
        """The part of a batch of so many samples. Those of the ranks differ by one sample at most; one may be empty."""
        group = ranks.group
        if group is None:
            return cls(0, whole, whole)
        return cls(group.rank * whole // group.size, (group.rank + 1) * whole // group.size, whole)


class Known:
    """Objects as long as they live, told apart as such: == of Tensors compares their elements."""

    def __init__(self) -> None:
        self.refs: dict[int, weakref.ref[Any]] = {}

    def __contains__(self, one: Any) -> bool:
        return id(one) in self.refs

    def add(self, one: Any) -> None:
        key, refs = id(one), self.refs
        refs[key] = weakref.ref(one, lambda _: refs.pop(key, None))

    def discard(self, one: Any) -> None:
        self.refs.pop(id(one), None)


class Ranks:
    """group    the processes, None for this one alone
    part     what this rank has of the batch that is under way, where a loader has handed it out
    agreed   gradients that are those of the whole batch already
    """

    def __init__(self) -> None:
        self.group: Group | None = None
        self.part: Part | None = None
        self.agreed = Known()

    @property
    def size(self) -> int:
        return 1 if self.group is None else self.group.size

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and speaks to people."""
        return self.group is None or self.group.rank == 0

    @property
    def share(self) -> float:
        """How much the mean over this rank's samples counts in the mean over those of all ranks."""
        if self.part is None or self.group is None:
            return 1 / self.size
        return (self.part.stop - self.part.start) / self.part.whole

    def add_up(self, array: Array) -> None:
        """Let an array, which lies row after row, be the sum of those of all ranks.

        While a plan is tried out nobody is asked: all have what this one has. Ranks make plans at different times, for their
        parts of a batch have different sizes; only steps that count are meetings."""
        if self.group is None:
            return
        if state.rehearsing:
            array *= self.group.size
        else:
            self.group.add_up(array)

    def shared(self, value: Any) -> Any:
        """What the first rank has."""
        return value if self.group is None else self.group.shared(value)

    def gathered(self, value: Any) -> list[Any]:
        """What each rank has."""
        return [value] if self.group is None else self.group.gathered(value)

    def by_first(self, do: Callable[[], Any]) -> Any:
        """What `do` returns on the first rank, which alone calls it, or the error that it raises there."""
        if self.group is None:
            return do()
        result, error = None, None
        if self.is_first:
            try:
                result = do()
            except Exception as raised:
                error = raised
        result, error = self.shared((result, error))
        if error is not None:
            raise error
        return result

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the block this process does not know of the others."""
        before, self.group = self.group, None
        try:
            yield
        finally:
            self.group = before


ranks = Ranks()
