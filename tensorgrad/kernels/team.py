"""The team: worker threads in machine code that run parts of programs, without Python.

Waking a Python thread takes longer than a small product. The workers spin on a word in memory instead, for a tenth of a
millisecond after their last part; then they sleep until they are woken (a Linux futex). The calling thread, when it has
finished its own part, also runs the parts that no worker has begun, so it never waits for a free core.
"""

from __future__ import annotations

import functools
import os
import threading

import numpy as np

from tensorgrad.core.backend import address
from tensorgrad.core.forks import after_fork
from tensorgrad.kernels.llvm import CPU_SET_BYTES, CPU_SET_COUNT, CPU_SETS, SLOT_WORDS, TEAM_WORDS
from tensorgrad.kernels.native import Machine
from tensorgrad.kernels.threads import MOST


class Team:
    """Threads that wait for parts. They are started when needed, and end with the process.

    start   address of the memory that they share
    """

    def __init__(self) -> None:
        self.words = np.zeros(TEAM_WORDS + SLOT_WORDS * MOST, np.int64)
        self.start = address(self.words)
        self.cpu_sets = np.zeros((0, 0), np.uint8)
        self.started = 0
        self.lock = threading.Lock()

    def grow(self, machine: Machine, count: int) -> None:
        """Start threads until `count` parts can run at once, one of them in the calling thread; fewer at the system's limit."""
        if self.started >= count - 1:
            return
        with self.lock:
            if not self.started:
                self.cpu_sets = other_cpu_sets(os.sched_getaffinity(0))
                self.words[[CPU_SETS, CPU_SET_BYTES, CPU_SET_COUNT]] = (
                    address(self.cpu_sets),
                    self.cpu_sets.shape[1],
                    len(self.cpu_sets),
                )
            while self.started < count - 1:
                slot = self.start + 8 * (TEAM_WORDS + SLOT_WORDS * self.started)
                serve = functools.partial(machine.serve, slot)
                try:
                    threading.Thread(target=serve, name=f"tensorgrad_team_{self.started}", daemon=True).start()
                except RuntimeError:  # the system's limit is reached, or the interpreter is shutting down
                    return
                self.started += 1

    def reset(self) -> None:
        """Start over in a forked process, which has none of the threads."""
        self.words[:] = 0
        self.started = 0
        self.lock = threading.Lock()


def other_cpu_sets(processors: set[int]) -> np.ndarray:
    """For each processor the set of all others, as bit sets of Linux; an empty array if there is only one."""
    if len(processors) < 2:
        return np.zeros((0, 0), np.uint8)
    count = max(processors) + 1
    others = np.zeros((count, -(-count // 64) * 64), bool)
    others[:, sorted(processors)] = True
    others[np.arange(count), np.arange(count)] = False
    return np.packbits(others, axis=1, bitorder="little")


team = Team()
after_fork(team.reset)
