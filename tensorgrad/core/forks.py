"""Forks: waits for other threads of the parent that hold locks the child needs."""

from __future__ import annotations

# Both have locks that a fork acquires. A thread with the lock below may log; and if, like Numba, they were first imported while
# a fork waits for that lock, the fork would release locks that it has not acquired
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import threading
from collections.abc import Callable
from typing import Any

# Held while a module is imported late, or a kernel is compiled. If another thread of the parent was importing, the child
# would wait for it for ever when it imports the same module, because Python's module locks stay taken
loading = threading.RLock()
_awaited: list[Any] = [loading]


def await_at_fork(lock: Any) -> None:
    """Make forks wait until no other thread holds this reentrant lock.

    Locks are acquired in the order of registration. A thread that holds one must not acquire an earlier one.
    """
    with loading:  # no fork is running
        if not any(lock is other for other in _awaited):
            _awaited.append(lock)


def _acquire_locks() -> None:
    for lock in _awaited:
        lock.acquire()


def _release_locks() -> None:
    for lock in reversed(_awaited):
        lock.release()


def after_fork(reset_after_fork: Callable[[], None]) -> None:
    """Call this first in a child; does nothing on systems without fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset_after_fork)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire_locks, after_in_parent=_release_locks, after_in_child=_release_locks)
