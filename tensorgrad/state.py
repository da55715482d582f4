"""The switches of the current thread: what is recorded, what is fused, which module is running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class State(threading.local):
    recording: bool = True  # False inside no_grad()
    tracing: bool = False  # True while a whole program is captured: what needs no gradient is recorded too
    checking: bool = False  # True inside detect_anomaly()
    fusing: bool = True  # False inside fusion.off()
    scope: str = ""  # path of the module whose forward is running, e.g. "encoder.0"
    gradient_of: Any = None  # the node whose rule is running in a recorded backward pass


state = State()


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
