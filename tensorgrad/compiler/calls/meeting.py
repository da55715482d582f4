"""Meetings: sums over all ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad.compiler.calls.call import Call, Launch, Launcher, Writer
from tensorgrad.core.backend import Array
from tensorgrad.core.ranks import ranks

__all__ = ["Meeting"]


class Meeting(Call):
    """y = sum of x over the ranks. All ranks run it equally often and in the same order, so it is neither moved nor split."""

    meets = True

    def compute(self, *inputs: Any) -> list[Array]:
        y = np.array(inputs[0])
        ranks.all_reduce(y)
        return [y]

    def overlays(self, k: int) -> list[int]:
        return [0]

    def emit(self, writer: Writer) -> None:
        x, out = writer.name(self.inputs[0]), writer.name(self.outputs[0])
        if writer.shared(self) != {0: 0}:
            writer.lines.append(f"copyto({out}, {x})")
        writer.lines.append(f"{writer.bind('add_up', ranks.all_reduce)}({out})")

    def launch(self, launcher: Launcher) -> Launch:
        x, out = launcher.array(self.inputs[0]), launcher.array(self.outputs[0])

        def launch() -> None:
            if out is not x:
                out[...] = x
            ranks.all_reduce(out)

        return launch
