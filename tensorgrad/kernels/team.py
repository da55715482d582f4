"""The team: threads in machine code that run the parts of programs, without Python.

To give work to a thread of Python takes longer than a small product. The threads of the team look at a word in memory instead,
for a tenth of a millisecond after their last part; then they sleep until they are woken (a futex of Linux). What none of them
has begun by the time that its own part is done, the thread that asked does itself, so that nobody waits for a core.
"""

from __future__ import annotations

import functools
import os
import threading

import numpy as np

from tensorgrad.core.backend import address
from tensorgrad.core.forks import after_fork
from tensorgrad.kernels.llvm import AVOIDED, OTHERS, SET_BYTES, SETS, SLOT, TEAM
from tensorgrad.kernels.native import Machine
from tensorgrad.kernels.threads import MOST


class Team:
    """Threads that wait for parts. They are started when they are needed, and end with the process.

    start   the address of the words that all of them share
    """

    def __init__(self) -> None:
        self.words = np.zeros(TEAM + SLOT * MOST, np.int64)
        self.start = address(self.words)
        self.processors: set[int] = set()
        self.sets: list[np.ndarray] = []  # all that there have been: another thread may be reading the one before
        self.started = 0
        self.lock = threading.Lock()

    def grow(self, machine: Machine, count: int) -> None:
        """Start threads for `count` parts, of which the calling thread does one; fewer where the system has no more. Checks
        which processors the process may use now.
        """
        processors = os.sched_getaffinity(0)
        if self.started >= count - 1 and processors == self.processors:
            return
        with self.lock:
            if processors != self.processors:
                self.spread(processors)
            while self.started < count - 1:
                slot = self.start + 8 * (TEAM + SLOT * self.started)
                serve = functools.partial(machine.serve, slot)
                try:
                    threading.Thread(target=serve, name=f"tensorgrad_team_{self.started}", daemon=True).start()
                except RuntimeError:  # the system has no more of them, or the interpreter is about to end
                    return
                self.started += 1

    def spread(self, processors: set[int]) -> None:
        """Keep threads away from the processor of the one that asks, as long as there are others among these."""
        sets = sets_of_others(processors)
        self.sets.append(sets)
        self.words[SETS] = 0
        self.words[[OTHERS, SET_BYTES]] = address(sets), sets.shape[1]
        self.words[TEAM + AVOIDED :: SLOT] = 0
        self.words[SETS] = len(sets) if len(processors) > 1 else 0
        self.processors = processors

    def forget(self) -> None:
        """In a process that was forked: none of the threads is there."""
        self.words[:] = 0
        self.processors = set()
        self.started = 0
        self.lock = threading.Lock()


def sets_of_others(processors: set[int]) -> np.ndarray:
    """For each processor of the machine those of the given ones that are others, as Linux's sets of bits."""
    count = max(os.cpu_count() or 1, max(processors) + 1)
    found = np.zeros((count, -(-count // 64) * 64), bool)
    found[:, sorted(processors)] = True
    found[np.arange(count), np.arange(count)] = False
    return np.packbits(found, axis=1, bitorder="little")


team = Team()
after_fork(team.forget)
