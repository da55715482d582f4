"""Random choices, and what every program draws besides its own text: sizes, thresholds, threads, which batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from tests.fuzz.program import Line, Program, Step

T = TypeVar("T")

# Sizes of the axes while a program is written: all different, so that an axis is known by its length.
WRITTEN = {"N": 5, "D": 3, "H": 4, "M": 7}


def choices(text: str) -> tuple[str, ...]:
    """The texts that stand in a text, apart by semicolons."""
    return tuple(part.strip() for part in text.split(";") if part.strip())


# Numbers as people write them, those of NumPy's among them.
CONSTANTS = choices("""
    0.5; 2; -1.5; 3.0; 1; 0; True; -0.0; 1e-3; 10**3; float('inf'); np.float64(0.3); np.float32(2); np.sqrt(8); np.int64(2);
    np.float16(0.5); np.bool_(True); np.int8(3); np.array(0.5); np.array(2); np.array(1.5, 'float32')
""")

# (N, D) or (samples, width) on both sides of the numbers in thresholds.py as they are shipped.
WIDE = (
    *((40_000, 2), (16_384, 1), (16_385, 1), (32_768, 1), (32_769, 1), (1, 20_000), (1, 40_000)),  # SLICE, twice SLICE
    *((128, 256), (129, 256), (257, 128), (64, 256), (65, 256), (300, 128), (300, 256), (200, 192)),
    *((64, 64), (65, 63), (4096, 1), (4095, 1), (64, 128), (65, 127), (64, 129), (8193, 1)),  # KERNEL, ONES_PRODUCT
    *((100, 127), (100, 128), (100, 129), (20, 128)),  # CLASSES
    *((700, 512), (1200, 512), (2400, 300)),  # SHARED_FLOPS, SHARED_PRODUCT, SHARED_CHAIN, with two threads
)
HUGE = ((1024, 512), (1025, 512), (2049, 257), (1_048_579, 1), (3, 174_763), (4_194_301, 1))  # CHAIN_THREADS, long sums

BATCHES = (
    (0, 0, 0, 1, 2, 3),
    (0, 1, 2, 3, 4, 5),
    (3, 1, 2, 0, 1, 4),
    (0, 0, 0, 0, 1, 2),
    (0, 0, 1, 1, 2, 0, 3),
    (0, 1, 0, 1, 2, 3, 3),
    (0, 0, 0, 0, 0, 1, 2, 1),
)


class Draw(random.Random):
    """Random choices."""

    def chance(self, p: float) -> bool:
        return self.random() < p

    def one(self, *choices: T) -> T:
        return choices[self.randrange(len(choices))]

    def some(self, choices: Sequence[T], most: int) -> list[T]:
        """Up to so many different ones, in the order that they have."""
        chosen = set(self.sample(range(len(choices)), self.randint(0, min(most, len(choices)))))
        return [c for i, c in enumerate(choices) if i in chosen]

    def weighted(self, choices: dict[T, float]) -> T:
        return self.choices(list(choices), list(choices.values()))[0]


class Writer:
    """A program in the making.

    form   draws what decides which kernels there are: operations, layers, dtypes. With Numba it starts from one of a limited
           number of seeds, because every new kernel costs half a second, once
    free   draws all the rest
    """

    def __init__(self, seed: int, forms: int | None) -> None:
        self.seed = seed
        self.form = Draw(f"form {seed % forms if forms else seed}")
        self.free = Draw(f"free {seed}")
        self.dtype = self.form.weighted({"float32": 5, "float64": 5, "float16": 0.4})
        self.setup: list[Line] = []
        self.steps: list[Step] = []
        self.loop: list[Line] = []
        self.sizes: dict[str, int] = {}
        self.batches = self.free.one(*BATCHES)
        self.keep_grads = self.arrays_only = False
        self.scale = self.free.weighted({"lowered": 5, "small": 3, "wide": 1.2, "huge": 0.06})
        self.thresholds = self._thresholds() if self.scale == "lowered" else {}
        self.threads = self.free.one(*((1, 1, 2, 3, 12) if self.scale == "lowered" else (1, 1, 1, 2)))

    def _thresholds(self) -> dict[str, Any]:
        """Numbers so low that small arrays cross them; those that are left out are as they are shipped."""
        free = self.free
        lowered: dict[str, Any] = {
            "SLICE": free.one(1, 2, 4, 8, 16),
            "CHAIN_THREADS": free.one(1, 4, 16, 64),
            "ROWS_FLOPS": 0,
            "PLAN_FLOPS": 0,
            "PRODUCT": free.one(0, 0, 64),
            "SHARES": free.one(1, 16),
            "ROWS_BYTES": free.one(1, 64, 256),
            "ROWS_TOTALS": free.one(0, 64, 1 << 20),
            "ONES_PRODUCT": free.one(1, 4, 32),
            "KERNEL": free.one(1, 4, 32),
            "CLASSES": free.one(0, 1, 3, 10),
            "NATIVE": free.one(2, 3, 10_000),
            "ROW_SUM": free.one(0, 2, 5),
            "NETWORK": free.one(None, 1, 4),
            "SHARED_FLOPS": free.one(0, 0, 1e99),
            "SHARED_PRODUCT": free.one(0, 0, 64),
            "SHARED_CHAIN": free.one(1, 4, 16),
        }
        return {name: value for name, value in lowered.items() if free.chance(0.6)}

    def axes(self, names: str = "NDHM") -> None:
        """Draw the sizes."""
        free = self.free
        if self.scale in ("wide", "huge"):
            first, second = free.one(*(WIDE if self.scale == "wide" else HUGE))
            self.sizes = {"N": first, "D": second, "H": free.one(2, 3, 4), "M": free.one(2, 3, 5)}
        else:
            n = free.weighted({1: 2, 2: 2, 3: 2, 7: 2, 11: 2, 5: 2, 0: 0.25})
            self.sizes = {"N": n} | {name: free.one(1, 2, 3, 4, 5, 8) for name in "DHM"}
            if free.chance(0.15):
                self.sizes["D"] = n
        self.sizes = {name: n for name, n in self.sizes.items() if name in names}

    def program(self) -> Program:
        return Program(
            self.seed,
            tuple(self.setup),
            tuple(self.steps),
            tuple(self.loop),
            self.batches,
            self.sizes,
            self.dtype,
            self.thresholds,
            self.threads,
            self.keep_grads,
            self.arrays_only,
        )
