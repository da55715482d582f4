"""As much of CuPy as tensorgrad.kernels.cuda.launch asks for, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from tensorgrad.core import backend
from tensorgrad.kernels.cuda import generate
from tests.cuda.chains import KERNELS
from tests.cuda.occupancy import MULTIPROCESSORS, Driver
from tests.cuda.on_cpu import Module


class DeviceArray(np.ndarray[Any, Any]):
    """An array that says on which device it lies."""

    device = SimpleNamespace(id=0)


def on_device(array: Any) -> DeviceArray:
    """A copy of an array, in memory of its own that ends where the array does."""
    return np.array(array, order="C").view(DeviceArray)


class StandIn:
    """In the place of the module cupy. programs: those that will be asked for, which are compiled together."""

    ndarray = DeviceArray

    def __init__(self, programs: tuple[str, ...] = (), sanitize: bool = False) -> None:
        self.programs, self.sanitize = programs, sanitize
        self.modules: dict[str, Module] = {}
        self.allocations = 0
        attributes = {"MultiProcessorCount": MULTIPROCESSORS}
        self.cuda = SimpleNamespace(
            get_current_stream=lambda: SimpleNamespace(ptr=0),
            driver=Driver,
            Device=lambda device: SimpleNamespace(attributes=attributes),
        )

    def zeros(self, shape: Any, dtype: Any) -> DeviceArray:
        self.allocations += 1
        return on_device(np.zeros(shape, dtype))

    def asarray(self, array: Any) -> DeviceArray:
        self.allocations += 1
        return on_device(array)

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> Any:
        if code not in self.modules:
            among = self.programs if code in self.programs else ()
            self.modules[code] = Module(code, self.sanitize, among)
        return SimpleNamespace(get_function=lambda name: Driver.kernel(self.modules[code].function(name)))


FLOATS, LABELS = ("float32", "float64"), ("int64", "int32", "uint8")
SOFTMAX = [generate.program(generate.source("softmax_cross_entropy"), Real=r, Label=t) for t in LABELS for r in FLOATS]
LOG_SOFTMAX = [generate.program(generate.source("log_softmax"), Real=r) for r in FLOATS]
KEEP_MASK = generate.program(generate.source("keep_mask"))
PROGRAMS = (*[kernel.source for kernel in KERNELS.values()], *SOFTMAX, *LOG_SOFTMAX, KEEP_MASK)


@functools.cache
def cupy(sanitize: bool) -> StandIn:
    """The stand-in that tests share, for the programs that most of them run."""
    return StandIn(PROGRAMS, sanitize)


@contextmanager
def cuda_on_cpu(sanitize: bool = False) -> Iterator[StandIn]:
    """Inside the block, or the function that this decorates, CUDA arrays are `DeviceArray`s and kernels run on the CPU."""
    before, backend.cupy = backend.cupy, lambda: cupy(sanitize)
    try:
        yield cupy(sanitize)
    finally:
        backend.cupy = before
