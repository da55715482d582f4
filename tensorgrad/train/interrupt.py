"""CtrlC: an interruption that waits until the step is over."""

from __future__ import annotations

import signal
import threading
from typing import Any


class CtrlC:
    """True once Ctrl-C has been pressed inside the block; a second one raises KeyboardInterrupt at once.

    An exception in the middle of a step would leave parameters half updated, with threads still at work on them. Handlers of
    others are left alone, and so are other threads than the main one, which get no signals.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.installed = False

    def __bool__(self) -> bool:
        return self.interrupted

    def __enter__(self) -> CtrlC:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.handle)
            self.installed = True
        return self

    def __exit__(self, *error: object) -> None:
        if self.installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def handle(self, number: int, frame: Any) -> None:
        if self.interrupted:
            signal.default_int_handler(number, frame)
        self.interrupted = True
