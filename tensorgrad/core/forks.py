"""Forks: what a child needs of its parent's other threads, which are not there to finish what they were at, is waited for."""

from __future__ import annotations

# Both have locks that a fork takes. Who has the one below may want to log; and what is imported for the first time while a fork
# waits for that one, as with Numba, would be given back by the fork without having been taken
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import threading
from collections.abc import Callable
from typing import Any

# Held while a module that is needed late is imported, or a kernel is compiled. A child in whose parent another thread was in
# the middle of an import would wait for the end of it for ever, when it imports the same: Python's locks of modules stay taken
loading = threading.RLock()
_awaited: list[Any] = [loading]


def await_at_fork(lock: Any) -> None:
    """From now on nobody is forked while another thread has this lock, one that may be taken twice by the same thread.

    Locks are taken in the order in which they were given here. Who has one of them must not ask for an earlier one.
    """
    with loading:  # no fork is under way
        if not any(lock is other for other in _awaited):
            _awaited.append(lock)


def _take() -> None:
    for lock in _awaited:
        lock.acquire()


def _give_back() -> None:
    for lock in reversed(_awaited):
        lock.release()


def after_fork(begin_anew: Callable[[], None]) -> None:
    """Let a child call this at first; where nothing is ever forked, nothing happens."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin_anew)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_give_back, after_in_child=_give_back)
