"""CtrlC: defers an interrupt until the step is complete."""

from __future__ import annotations

import signal
import threading
from typing import Any

import numpy as np

from tensorgrad.core.ranks import ranks


class CtrlC:
    """True once Ctrl-C was pressed in the block; a second one raises KeyboardInterrupt at once.

    An exception in the middle of a step would leave parameters half updated while threads still work on them. Custom signal
    handlers are left in place; threads other than the main one get no signals.

    With several ranks (core.ranks) it becomes true on all of them when they agree that one was interrupted. SIGTERM, which
    mpiexec makes of Ctrl-C, counts too, and so does SIGUSR1, which mpiexec forwards: Open MPI kills all ranks half a second
    after Ctrl-C, too early for long steps, but `kill -USR1` of mpiexec lets them finish.
    """

    def __init__(self) -> None:
        self.interrupted = self.received = False
        self.installed: list[Any] = []

    def __bool__(self) -> bool:
        return self.interrupted

    def agree(self) -> None:
        """Exchange the state with the other ranks, after a step."""
        if ranks.group is not None:
            count = np.array(self.received, np.int64)
            ranks.all_reduce(count)
            self.interrupted = bool(count)

    def __enter__(self) -> CtrlC:
        in_main_thread = threading.current_thread() is threading.main_thread()
        default_handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if ranks.group is not None:
            default_handlers |= {signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_DFL}
        for number, handler in default_handlers.items():
            if in_main_thread and signal.getsignal(number) is handler:
                signal.signal(number, self.handle)
                self.installed.append((number, handler))
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.installed:
            signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.received = True
        if ranks.group is None:
            self.interrupted = True
