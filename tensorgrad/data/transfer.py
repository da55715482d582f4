"""Transfer of batches to a GPU, overlapping with computation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, cupy, device_of, move

Batch = tuple[Array, ...]


def to_device(batches: Iterable[Batch], device: str) -> Iterator[Batch]:
    """Move batches to a device, given by its full name ("cuda:0").

    From a GPU, batches are moved one at a time, without overlap.
    """
    for first in (iterator := iter(batches)):
        if device == "cpu" or device_of(first[0]) != "cpu":
            yield tuple(move(a, device) for a in first)
        else:
            yield from to_gpu(itertools.chain([first], iterator), int(device.removeprefix("cuda:")))


def to_gpu(batches: Iterable[Batch], index: int) -> Iterator[Batch]:
    """Copy batches of NumPy arrays to the GPU with this index.

    A batch is copied through pinned memory on a separate stream: the copy starts when the second last step has ended, and
    overlaps with the last one. The host only waits before it reuses pinned memory, two batches later or after the loop.
    """
    xp = cupy()
    gpu = xp.cuda.Device(index)  # current only in this function, not in the body of the caller's loop
    with gpu:
        copies = xp.cuda.Stream(non_blocking=True)
    pinned = [Pinned(), Pinned()]
    pending: tuple[Batch, Any] | None = None
    try:
        for i, batch in enumerate(batches):
            with gpu:
                transfer = pinned[i % 2].send(batch, copies)
                ready = None if pending is None else await_copy(pending)
            pending = transfer
            if ready is not None:
                yield ready
        if pending is not None:
            with gpu:
                ready = await_copy(pending)
            yield ready
    finally:  # memory of unfinished copies must not be reused
        for memory in pinned:
            memory.wait()


def await_copy(transfer: tuple[Batch, Any]) -> Batch:
    """A batch; the current stream waits for its copy."""
    batch, event = transfer
    cupy().cuda.get_current_stream().wait_event(event)
    return batch


class Pinned:
    """Page-locked host memory, from which a GPU copies asynchronously: one batch at a time."""

    def __init__(self) -> None:
        self.memory: list[Any] = []
        self.event: Any = None

    def wait(self) -> None:
        """Wait until the copy from this memory is complete."""
        if self.event is not None:
            self.event.synchronize()

    def send(self, batch: Batch, stream: Any) -> tuple[Batch, Any]:
        """Start to copy a batch: returns the destination arrays and the event of completion."""
        xp = cupy()
        self.wait()
        # on the current stream, because earlier work on it may still read the pool's memory
        targets = tuple(xp.empty(a.shape, a.dtype) for a in batch)
        stream.wait_event(xp.cuda.get_current_stream().record())
        self.memory = self.memory or [None] * len(batch)
        for k, (source, target) in enumerate(zip(batch, targets, strict=True)):
            if self.memory[k] is None or memoryview(self.memory[k]).nbytes < source.nbytes:
                self.memory[k] = xp.cuda.alloc_pinned_memory(source.nbytes)
            staged = np.frombuffer(self.memory[k], source.dtype, source.size).reshape(source.shape)
            staged[...] = source
            target.set(staged, stream=stream)
        self.event = stream.record()
        return targets, self.event
