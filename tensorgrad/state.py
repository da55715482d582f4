"""The switches of the current thread: what is recorded, what is fused, which module is running."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar


class State(threading.local):
    recording: bool = True  # False inside no_grad()
    tracing: bool = False  # True while a whole program is captured: what needs no gradient is recorded too
    trace: Any = None  # the compiler's record of the step that is being traced, see compiler/trace.py
    checking: bool = False  # True inside detect_anomaly()
    fusing: bool = True  # False inside fusion.off()
    profile: Any = None  # what measures operations inside profile()
    scope: str = ""  # path of the module whose forward is running, e.g. "encoder.0"
    function: Any = None  # the call of a function of several ops, (name, number), so that a drawing can show it as one
    initial: Any = None  # the generator of initial values inside nn.init.seeded()
    gradient_of: Any = None  # the node whose rule is running in a recorded backward pass


state = State()


_calls = itertools.count().__next__
_F = TypeVar("_F", bound=Callable[..., Any])


def one_box(fn: _F) -> _F:
    """Say that a function of several ops is what people call: its nodes know it, and drawings show it as one operation."""

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        if state.function is not None:
            return fn(*args, **kwargs)
        state.function = (fn.__name__, _calls())
        try:
            return fn(*args, **kwargs)
        finally:
            state.function = None

    return called  # type: ignore[return-value]


@contextmanager
def switched(**values: Any) -> Iterator[None]:
    """Set some of the switches inside a `with` block and put them back after it."""
    before = {name: getattr(state, name) for name in values}
    try:
        for name, value in values.items():
            setattr(state, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(state, name, value)
