"""Random draws, as operations: a program that is run again draws anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.backend import Array, Xp
from tensorgrad.op import Op, Sample

_default = np.random.default_rng()


def seed(value: int | None) -> None:
    """Start the generator of dropout's masks anew, so that what follows is reproducible. It draws nothing but those."""
    global _default
    _default = np.random.default_rng(value)


def default() -> np.random.Generator:
    """The generator that `seed` has started."""
    return _default


class KeepMask(Op):
    """True with probability 1 - p for each element of x, drawn anew each time it is computed. No gradient.

    rng   the generator to draw from; the one that `seed` starts by default

    forward    y  = [u >= p],   u uniform in 0 .. 1
    """

    name, signature = "keep_mask", "()->()"

    def __call__(self, x: Any, p: float, rng: np.random.Generator | None = None) -> Any:
        return self.apply(x, p=p, rng=rng)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"p": float(rng.integers(2)), "rng": None}  # none or all of them: what a test can foretell

    def forward(self, xp: Xp, x: Array, *, p: float, rng: np.random.Generator | None) -> Array:
        return xp.asarray((rng or _default).random(np.shape(x), np.float32) >= p)


keep_mask = KeepMask()
