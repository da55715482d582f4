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
from tensorgrad.kernels.llvm import AVOIDED_CPU, CPU_SET_BYTES, CPU_SET_COUNT, CPU_SETS, SLOT_WORDS, TEAM_WORDS
from tensorgrad.kernels.native import Machine
from tensorgrad.kernels.threads import MOST


class Team:
    """Threads that wait for parts. They are started when needed, and end with the process.

    start   address of the memory that they share
    """

    def __init__(self) -> None:
        self.words = np.zeros(TEAM_WORDS + SLOT_WORDS * MOST, np.int64)
        self.start = address(self.words)
        self.processors: set[int] = set()
        self.cpu_sets: list[np.ndarray] = []  # also earlier ones, which another thread may be reading
        self.started = 0
        self.lock = threading.Lock()

    def grow(self, machine: Machine, count: int) -> None:
        """Start threads until `count` parts can run at once, one of them in the calling thread; fewer at the system's limit.
        Checks which processors the process may use now.
        """
        processors = os.sched_getaffinity(0)
        if self.started >= count - 1 and processors == self.processors:
            return
        with self.lock:
            if processors != self.processors:
                self.use(processors)
            while self.started < count - 1:
                slot = self.start + 8 * (TEAM_WORDS + SLOT_WORDS * self.started)
                serve = functools.partial(machine.serve, slot)
                try:
                    threading.Thread(target=serve, name=f"tensorgrad_team_{self.started}", daemon=True).start()
                except RuntimeError:  # the system's limit is reached, or the interpreter is shutting down
                    return
                self.started += 1

    def use(self, processors: set[int]) -> None:
        """Keep the threads away from the processor of the calling thread, if there are others among these."""
        cpu_sets = other_cpu_sets(processors)
        self.cpu_sets.append(cpu_sets)
        self.words[CPU_SET_COUNT] = 0
        self.words[[CPU_SETS, CPU_SET_BYTES]] = address(cpu_sets), cpu_sets.shape[1]
        self.words[TEAM_WORDS + AVOIDED_CPU :: SLOT_WORDS] = 0
        self.words[CPU_SET_COUNT] = len(cpu_sets) if len(processors) > 1 else 0
        self.processors = processors

    def reset(self) -> None:
        """Start over in a forked process, which has none of the threads."""
        self.words[:] = 0
        self.processors = set()
        self.started = 0
        self.lock = threading.Lock()


def other_cpu_sets(processors: set[int]) -> np.ndarray:
    """For each processor of the machine the set of all others that are given, as bit sets of Linux."""
    count = max(os.cpu_count() or 1, max(processors) + 1)
    others = np.zeros((count, -(-count // 64) * 64), bool)
    others[:, sorted(processors)] = True
    others[np.arange(count), np.arange(count)] = False
    return np.packbits(others, axis=1, bitorder="little")


team = Team()
after_fork(team.reset)
