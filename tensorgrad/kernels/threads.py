"""Threads: how many, one pool of them, and BLAS told to keep to the same number, for whom it is whose turn it is."""

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

MOST = 1024  # threads: beyond, the system might have none, or no memory for them
_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_num_threads() -> int:
    """How many threads kernels and matrix products use at most."""
    return _count


def set_num_threads(n: int) -> None:
    """Let kernels and matrix products use at most n threads, from now on, in the whole process.

    By default it is the number of cores that the process may run on. Matrix products are NumPy's BLAS's; without the package
    threadpoolctl it cannot be told, and then goes on with the number that it started with (OMP_NUM_THREADS says which).
    Raises ArgumentError (a ValueError) unless n is an integer from 1 to 1024.
    """
    global _count
    if not is_integer(n) or not 1 <= (n := index(n)) <= MOST:
        raise ArgumentError(f"set_num_threads: expected a positive integer, of at most {MOST}, got {n!r}")
    blas_libraries.cache_clear()  # SciPy may have brought its own since
    _count = n
    _turns.set_usual(n)


@functools.cache
def blas_libraries() -> list[Any]:
    """The BLAS libraries that are loaded, as threadpoolctl controls them; none without threadpoolctl."""
    try:
        with loading:
            from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


def controls_blas() -> bool:
    """Whether BLAS can be told how many threads to use."""
    return bool(blas_libraries())


def blas_threads(numbers: list[int]) -> None:
    """Tell the BLAS libraries how many threads to use."""
    for library, n in zip(blas_libraries(), numbers, strict=False):
        # newer versions of threadpoolctl leave it to the first thread that asks, and do nothing for others
        getattr(library, "_real_set_num_threads", library.set_num_threads)(n)


class _Inside(threading.local):
    """Whether this thread is doing a part of something already."""

    parts = False


_inside = _Inside()


class Turns:
    """Who may use BLAS: those that need one thread of it, or those that take it as it is, but never both at once.

    The last bits of a product depend on the number of threads, which is one for the whole process. So that what one thread of
    the program computes does not depend on what others do, each waits for its turn. Those that need the same have it together.

    Ctrl-C may come at every call that Python makes. So whoever enters does it where it is bound to leave, and to leave does no
    harm where it was not entered, or has been left already. (A Condition is not entered by `with`: between its lock's being
    taken and the block there is a moment; for a lock there is none.)

    steady   the threads that use it as it is. To be quick they come and go without the lock, and look at `asked` afterwards
    single   the threads that use one thread of it, each as often as it does
    asked    whether anybody does, or waits: who comes waits behind them, so that nobody waits for ever
    usual    the numbers of threads to go back to
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.steady: set[int] = set()
        self.single: list[int] = []
        self.asked = False
        self.queue: list[object] = []
        self.usual: list[int] = []

    def wait(self, free: Callable[[], bool], take: Callable[[], Any]) -> None:
        """Take what is free when all that came before have had their turn."""
        me = object()
        try:
            self.queue.append(me)
            self.asked = True
            while self.queue[0] is not me or not free():
                self.changed.wait()
            take()
        finally:
            if me in self.queue:
                self.queue.remove(me)
            self.told()

    def told(self) -> None:
        """Let those that wait see what has changed."""
        self.asked = bool(self.single or self.queue)
        if self.queue:
            self.changed.notify_all()

    def enter_steady(self, thread: int) -> None:
        self.steady.add(thread)
        if self.asked:
            with self.lock:
                self.steady.discard(thread)
                self.told()
                self.wait(lambda: not self.single, lambda: self.steady.add(thread))

    def leave_steady(self, thread: int) -> None:
        self.steady.discard(thread)
        if self.asked:
            with self.lock:
                self.told()

    def enter_single(self, thread: int) -> None:
        with self.lock:
            self.asked = True
            if self.queue or self.steady:
                self.wait(lambda: not self.steady, lambda: self.take_single(thread))
            else:
                self.take_single(thread)

    def take_single(self, thread: int) -> None:
        self.single.append(thread)
        if len(self.single) == 1:
            self.usual = [library.num_threads for library in blas_libraries()]
            blas_threads([1] * len(self.usual))

    def leave_single(self, thread: int) -> None:
        with self.lock:
            if thread in self.single:
                self.single.remove(thread)
            if not self.single:
                self.back()
            self.told()

    def back(self) -> None:
        """Let BLAS use as many threads as before it was to use one."""
        if self.usual:
            blas_threads(self.usual)
            self.usual = []

    def set_usual(self, n: int) -> None:
        """Let BLAS use n threads, where it is not to use one at the moment."""
        with self.lock:
            numbers = [n] * len(blas_libraries())
            if self.usual:
                self.usual = numbers
            else:
                blas_threads(numbers)

    def keep_only(self, thread: int) -> None:
        """In a process that has no other thread: what others have, and wait for, is given back."""
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.steady &= {thread}
        self.single = [one for one in self.single if one == thread]
        self.queue.clear()
        self.asked = bool(self.single)
        if not self.single:
            self.back()


_turns = Turns()


def with_steady_blas(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a function, during which the number of BLAS's threads does not change."""
    turns, me = _turns, threading.get_ident()
    if me in turns.steady or me in turns.single or _inside.parts:
        return function(*arguments)
    try:
        turns.enter_steady(me)
        return function(*arguments)
    finally:
        try:
            turns.leave_steady(me)
        except BaseException:  # what a signal raises
            turns.leave_steady(me)
            raise


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Inside the block every product uses the thread that asks for it, so that several threads can ask at once."""
    turns, me = _turns, threading.get_ident()
    if _inside.parts or me in turns.single:  # to ask again would be to wait behind those that wait for this one
        yield
        return
    was_steady = me in turns.steady
    try:
        if was_steady:
            turns.leave_steady(me)
        turns.enter_single(me)
        yield
    finally:
        try:
            turns.leave_single(me)
        except BaseException:
            turns.leave_single(me)
            raise
        if was_steady:
            turns.enter_steady(me)


def has_single_blas() -> bool:
    """Whether products use one thread of BLAS, and this thread may give parts of its work to others."""
    return threading.get_ident() in _turns.single and not _inside.parts


class Part:
    """A part of some work, done once, by whoever begins it first, in the context of who gave it (NumPy's errstate is there)."""

    def __init__(self, work: Callable[[int, int], Any], start: int, stop: int) -> None:
        self.work, self.start, self.stop = work, start, stop
        self.context = copy_context()
        self.begun, self.ended = threading.Lock(), threading.Lock()
        self.ended.acquire()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do it, unless somebody has begun it."""
        if not self.begun.acquire(blocking=False):
            return
        _inside.parts = True
        try:
            self.context.run(self.work, self.start, self.stop)
        except BaseException as error:
            self.error = error
        finally:
            _inside.parts = False
            self.ended.release()


class Pool:
    """Threads that wait for parts of work. They are started when they are needed, and end with the process."""

    def __init__(self) -> None:
        self.given: SimpleQueue[Part] = SimpleQueue()
        self.threads = 0

    def give(self, parts: list[Part]) -> None:
        """Let other threads do them, as far as there are any."""
        while self.threads < len(parts):
            name = f"tensorgrad_{self.threads}"
            try:
                threading.Thread(target=self.work, name=name, daemon=True).start()
            except RuntimeError:  # the system has no more of them, or the interpreter is about to end
                break
            self.threads += 1
        for part in parts[: self.threads]:
            self.given.put(part)

    def work(self) -> None:
        while True:
            self.given.get().run()


_pool = Pool()


def begin_anew() -> None:
    """In a process that was forked: none of the other threads is there, nor will they give back what they have."""
    global _pool
    _pool = Pool()
    _turns.keep_only(threading.get_ident())


after_fork(begin_anew)


def in_shares(work: Callable[[int, int], Any], n: int, size: int) -> None:
    """work(start, stop) for range(n) at once or, where it is large, for equal parts of it in threads, with one of BLAS each.

    size   how many numbers are computed: the pieces of images, the scores of attention, the gates of all steps
    """
    count = min(_count, n) if size >= thresholds.SHARES and not _inside.parts and controls_blas() else 1
    if count <= 1:
        work(0, n)
        return
    with single_threaded_blas():
        in_threads(work, n, count)


def in_threads(work: Callable[[int, int], Any], n: int, count: int) -> None:
    """work(start, stop) for each of `count` equal parts of range(n), the first in this thread, as is what no other has begun.

    What one of them raises is raised here, after all of them have ended. What is part of such work itself is not split again.
    """
    if _inside.parts or count == 1:
        work(0, n)
        return
    ends = [n * i // count for i in range(count + 1)]
    parts = [Part(work, *between) for between in pairwise(ends)]
    _pool.give(parts[1:])
    for part in parts:
        part.run()
    errors = []
    while parts:  # none is left for what is raised, which refers to these lines, to keep
        part = parts.pop(0)
        part.ended.acquire()
        errors.append(part.error)
    del part
    for error in filter(None, errors):
        errors.clear()
        raise error
