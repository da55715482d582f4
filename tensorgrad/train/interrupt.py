"""CtrlC: an interruption that waits until the step is over."""

from __future__ import annotations

import signal
import threading
from typing import Any

import numpy as np

from tensorgrad.core.ranks import ranks


class CtrlC:
    """True once Ctrl-C has been pressed inside the block; a second one raises KeyboardInterrupt at once.

    An exception in the middle of a step would leave parameters half updated, with threads still at work on them. Handlers of
    others are left alone, and so are other threads than the main one, which get no signals.

    Of several ranks (core.ranks) it is true on all of them once they have agreed that it has been pressed on one. What mpiexec
    makes of Ctrl-C, SIGTERM, counts as it does, and so does SIGUSR1, which mpiexec hands on: Open MPI's kills all ranks half a
    second after Ctrl-C, which a long step outlasts, but lets them end by themselves after `kill -USR1` of mpiexec.
    """

    def __init__(self) -> None:
        self.interrupted = self.pressed = False
        self.installed: list[Any] = []

    def __bool__(self) -> bool:
        return self.interrupted

    def agree(self) -> None:
        """After a step: hear whether it has been pressed on another rank."""
        if ranks.group is not None:
            pressed = np.array(self.pressed, np.int64)
            ranks.add_up(pressed)
            self.interrupted = bool(pressed)

    def __enter__(self) -> CtrlC:
        in_main_thread = threading.current_thread() is threading.main_thread()
        usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if ranks.group is not None:
            usual |= {signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_DFL}
        for number, handler in usual.items():
            if in_main_thread and signal.getsignal(number) is handler:
                signal.signal(number, self.handle)
                self.installed.append((number, handler))
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.installed:
            signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
        if self.pressed and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.pressed = True
        if ranks.group is None:
            self.interrupted = True
