"""Threads: their number, a shared pool, and turns for changing the number of BLAS threads."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from itertools import pairwise
from operator import index
from queue import SimpleQueue
from typing import Any, TypeVar

from tensorgrad.core.arguments import is_integer
from tensorgrad.core.forks import after_fork, loading
from tensorgrad.errors import ArgumentError
from tensorgrad.kernels import thresholds

T = TypeVar("T")

MOST = 1024  # threads: the system may not support more, or lack the memory
_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_num_threads() -> int:
    """The maximum number of threads for kernels and matrix products."""
    return _count


def set_num_threads(n: int) -> None:
    """Set the maximum number of threads for kernels and matrix products, in the whole process.

    The default is the number of cores that the process may run on. Matrix products use NumPy's BLAS; without the package
    threadpoolctl its number of threads cannot be changed and stays as it was at start (see OMP_NUM_THREADS).
    Raises ArgumentError (a ValueError) unless n is an integer from 1 to 1024.
    """
    global _count
    if not is_integer(n) or not 1 <= (n := index(n)) <= MOST:
        raise ArgumentError(f"set_num_threads: expected a positive integer, of at most {MOST}, got {n!r}")
    blas_libraries.cache_clear()  # SciPy may have loaded its own BLAS since
    _count = n
    _turns.set_count(n)


@functools.cache
def blas_libraries() -> list[Any]:
    """threadpoolctl's controllers of the loaded BLAS libraries; none without threadpoolctl."""
    try:
        with loading:
            from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


def controls_blas() -> bool:
    """Whether the number of BLAS threads can be set."""
    return bool(blas_libraries())


def blas_threads(numbers: list[int]) -> None:
    """Set the number of threads of the BLAS libraries."""
    for library, n in zip(blas_libraries(), numbers, strict=False):
        # newer versions of threadpoolctl only obey the first thread that calls them
        getattr(library, "_real_set_num_threads", library.set_num_threads)(n)


class _PartState(threading.local):
    """Whether this thread is running a part of some work."""

    is_running = False


_part_state = _PartState()


class Turns:
    """A lock for BLAS with two modes, single-threaded and steady (unchanged number of threads), never both at once.

    The last bits of a product depend on the number of BLAS threads, a setting of the whole process. Threads of the program wait
    for their turn, so that their results do not depend on one another. All threads in the same mode share a turn.

    Ctrl-C may arrive at every call that Python makes. So a turn is entered inside the `try` that leaves it, and leaving is
    harmless if it was not entered or was left already. (A Condition is not entered by `with`: there is a moment between the
    acquisition of its lock and the block; a lock has none.)

    steady      the threads in the steady mode. For speed they enter and leave without the lock, and check `contended` then
    single      the threads in the single-threaded mode, each once per entry
    contended   whether a thread is in that mode or waits for it: new threads queue behind it, so that none starves
    counts_to_restore   the numbers of BLAS threads before the single-threaded mode
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.steady: set[int] = set()
        self.single: list[int] = []
        self.contended = False
        self.queue: list[object] = []
        self.counts_to_restore: list[int] = []

    def wait(self, is_free: Callable[[], bool], take: Callable[[], Any]) -> None:
        """Wait until all earlier threads have had their turn."""
        ticket = object()
        try:
            self.queue.append(ticket)
            self.contended = True
            while self.queue[0] is not ticket or not is_free():
                self.changed.wait()
            take()
        finally:
            if ticket in self.queue:
                self.queue.remove(ticket)
            self.wake()

    def wake(self) -> None:
        """Wake the waiting threads."""
        self.contended = bool(self.single or self.queue)
        if self.queue:
            self.changed.notify_all()

    def enter_steady(self, thread: int) -> None:
        self.steady.add(thread)
        if self.contended:
            with self.lock:
                self.steady.discard(thread)
                self.wake()
                self.wait(lambda: not self.single, lambda: self.steady.add(thread))

    def leave_steady(self, thread: int) -> None:
        self.steady.discard(thread)
        if self.contended:
            with self.lock:
                self.wake()

    def enter_single(self, thread: int) -> None:
        with self.lock:
            self.contended = True
            if self.queue or self.steady:
                self.wait(lambda: not self.steady, lambda: self.take_single(thread))
            else:
                self.take_single(thread)

    def take_single(self, thread: int) -> None:
        self.single.append(thread)
        if len(self.single) == 1:
            self.counts_to_restore = [library.num_threads for library in blas_libraries()]
            blas_threads([1] * len(self.counts_to_restore))

    def leave_single(self, thread: int) -> None:
        with self.lock:
            if thread in self.single:
                self.single.remove(thread)
            if not self.single:
                self.restore_counts()
            self.wake()

    def restore_counts(self) -> None:
        """Restore the number of BLAS threads from before the single-threaded mode."""
        if self.counts_to_restore:
            blas_threads(self.counts_to_restore)
            self.counts_to_restore = []

    def set_count(self, n: int) -> None:
        """Set the number of BLAS threads, now or after the single-threaded mode."""
        with self.lock:
            numbers = [n] * len(blas_libraries())
            if self.counts_to_restore:
                self.counts_to_restore = numbers
            else:
                blas_threads(numbers)

    def keep_only(self, thread: int) -> None:
        """After a fork, which leaves one thread: release the turns of all others."""
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.steady &= {thread}
        self.single = [other for other in self.single if other == thread]
        self.queue.clear()
        self.contended = bool(self.single)
        if not self.single:
            self.restore_counts()


_turns = Turns()


def with_steady_blas(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function with a constant number of BLAS threads."""
    turns, thread = _turns, threading.get_ident()
    if thread in turns.steady or thread in turns.single or _part_state.is_running:
        return function(*arguments)
    try:
        turns.enter_steady(thread)
        return function(*arguments)
    finally:
        try:
            turns.leave_steady(thread)
        except BaseException:  # raised by a signal
            turns.leave_steady(thread)
            raise


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Inside the block, products run in the calling thread, so that several threads can compute products at once."""
    turns, thread = _turns, threading.get_ident()
    if _part_state.is_running or thread in turns.single:  # a second request would queue behind threads that wait for this one
        yield
        return
    was_steady = thread in turns.steady
    try:
        if was_steady:
            turns.leave_steady(thread)
        turns.enter_single(thread)
        yield
    finally:
        try:
            turns.leave_single(thread)
        except BaseException:
            turns.leave_single(thread)
            raise
        if was_steady:
            turns.enter_steady(thread)


def has_single_blas() -> bool:
    """Whether BLAS is single-threaded, and this thread may split its work among others."""
    return threading.get_ident() in _turns.single and not _part_state.is_running


class Part:
    """A part of some work, run once by the first thread that claims it, in its creator's context (for NumPy's errstate)."""

    def __init__(self, work: Callable[[int, int], Any], start: int, stop: int) -> None:
        self.work, self.start, self.stop = work, start, stop
        self.context = copy_context()
        self.started, self.finished = threading.Lock(), threading.Lock()
        self.finished.acquire()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run it, unless another thread has claimed it."""
        if not self.started.acquire(blocking=False):
            return
        _part_state.is_running = True
        try:
            self.context.run(self.work, self.start, self.stop)
        except BaseException as error:
            self.error = error
        finally:
            _part_state.is_running = False
            self.finished.release()


class Pool:
    """Worker threads. They are started on demand and end with the process."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[Part] = SimpleQueue()
        self.threads = 0

    def submit(self, parts: list[Part]) -> None:
        """Offer parts to the worker threads."""
        while self.threads < len(parts):
            name = f"tensorgrad_{self.threads}"
            try:
                threading.Thread(target=self.work, name=name, daemon=True).start()
            except RuntimeError:  # no more threads available, or the interpreter is shutting down
                break
            self.threads += 1
        for part in parts[: self.threads]:
            self.tasks.put(part)

    def work(self) -> None:
        while True:
            self.tasks.get().run()


_pool = Pool()


def reset_after_fork() -> None:
    """Reset after a fork: no other thread exists, and none will release what it holds."""
    global _pool
    _pool = Pool()
    _turns.keep_only(threading.get_ident())


after_fork(reset_after_fork)


def in_shares(work: Callable[[int, int], Any], n: int, size: int) -> None:
    """Call work(start, stop) for range(n) at once or, if it is large, for equal parts in threads, with single-threaded BLAS.

    size   the number of computed elements: windows of images, scores of attention, gates of all steps
    """
    count = min(_count, n) if size >= thresholds.SHARES and not _part_state.is_running and controls_blas() else 1
    if count <= 1:
        work(0, n)
        return
    with single_threaded_blas():
        in_threads(work, n, count)


def split(n: int, count: int) -> list[tuple[int, int]]:
    """range(n), cut into at most `count` equal parts, none of them empty unless n is 0."""
    count = max(min(n, count), 1)
    return list(pairwise(n * i // count for i in range(count + 1)))


def in_threads(work: Callable[[int, int], Any], n: int, count: int) -> None:
    """Call work(start, stop) for at most `count` equal parts of range(n): the first in this thread, and any that no other has
    claimed.

    An exception of a part is raised here, after all parts have ended. Nested calls are not split again.
    """
    if _part_state.is_running or count == 1:
        work(0, n)
        return
    parts = [Part(work, *part) for part in split(n, count)]
    _pool.submit(parts[1:])
    for part in parts:
        part.run()
    errors = []
    while parts:  # an exception refers to this frame, which must not keep parts alive
        part = parts.pop(0)
        part.finished.acquire()
        errors.append(part.error)
    del part
    for error in filter(None, errors):
        errors.clear()
        raise error
