"""Threads: how many, one pool of them, and BLAS told to keep to the same number."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any

from tensorgrad.core.arguments import is_whole
from tensorgrad.errors import ArgumentError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

MOST = 1024  # threads: beyond, the system might have none, or no memory for them
_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_num_threads() -> int:
    """How many threads kernels and matrix products use at most."""
    return _count


def set_num_threads(n: int) -> None:
    """Let kernels and matrix products use at most n threads, from now on, in the whole process.

    By default it is the number of cores that the process may run on. Matrix products are NumPy's BLAS's; without the package
    threadpoolctl it cannot be told, and then goes on with the number that it started with (OMP_NUM_THREADS says which).
    Raises ArgumentError (a ValueError) unless n is a whole number from 1 to 1024.
    """
    global _count
    if not is_whole(n) or not 1 <= (n := index(n)) <= MOST:
        raise ArgumentError(f"set_num_threads: expected a whole number above 0, of at most {MOST}, got {n!r}")
    _count = n
    _blas.cache_clear()  # SciPy may have brought its own since
    blas_threads(n)


@functools.cache
def _blas() -> list[Any]:
    """The BLAS libraries that are loaded, as threadpoolctl controls them; none without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


def controls_blas() -> bool:
    """Whether BLAS can be told how many threads to use."""
    return bool(_blas())


def blas_threads(n: int) -> None:
    """Tell BLAS to use n threads."""
    for library in _blas():
        library.set_num_threads(n)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Inside the block every product uses the thread that asks for it, so that several threads can ask at once."""
    blas_threads(1)
    try:
        yield
    finally:
        blas_threads(_count)


@functools.cache
def _pool(workers: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(workers, thread_name_prefix="tensorgrad")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


class _Inside(threading.local):
    """Whether this thread is doing a part of something already."""

    parts = False


_inside = _Inside()


def in_threads(work: Callable[[int, int], Any], n: int, count: int) -> None:
    """work(start, stop) for each of `count` equal parts of range(n), the first in this thread.

    What one of them raises is raised here, after all of them have ended. What is part of such work itself is not split again.
    """
    if _inside.parts or count == 1:
        work(0, n)
        return

    def part(start: int, stop: int) -> None:
        _inside.parts = True
        try:
            work(start, stop)
        finally:
            _inside.parts = False

    from concurrent.futures import wait

    ends = [n * i // count for i in range(count + 1)]
    others = [_pool(count - 1).submit(part, *between) for between in pairwise(ends[1:])]
    try:
        part(0, ends[1])
    finally:
        wait(others)
    for other in others:
        other.result()
