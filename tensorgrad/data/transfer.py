"""Batches on their way to a GPU: copied while the step before works."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, cupy, device_of, move

Batch = tuple[Array, ...]


def to_device(batches: Iterable[Batch], device: str) -> Iterator[Batch]:
    """The batches on a device, by its full name ("cuda:0").

    From one GPU to main memory or to another GPU each is moved as it comes.
    """
    for first in (iterator := iter(batches)):
        if device == "cpu" or device_of(first[0]) != "cpu":
            yield tuple(move(a, device) for a in first)
        else:
            yield from to_gpu(itertools.chain([first], iterator), int(device.removeprefix("cuda:")))


def to_gpu(batches: Iterable[Batch], index: int) -> Iterator[Batch]:
    """The batches, of NumPy arrays, as arrays on the GPU with this index.

    A batch goes through pinned memory and a stream of its own: its copy begins when the last step but one has ended, so that it
    runs while the last one does. Nothing waits for the GPU but the reuse of pinned memory, two batches later or after the loop.
    """
    xp = cupy()
    gpu = xp.cuda.Device(index)  # the current one here alone, not in the loop over the batches
    with gpu:
        copies = xp.cuda.Stream(non_blocking=True)
    pinned = [Pinned(), Pinned()]
    ahead: tuple[Batch, Any] | None = None
    try:
        for i, batch in enumerate(batches):
            with gpu:
                sent = pinned[i % 2].send(batch, copies)
                ready = None if ahead is None else arrived(ahead)
            ahead = sent
            if ready is not None:
                yield ready
        if ahead is not None:
            with gpu:
                ready = arrived(ahead)
            yield ready
    finally:  # memory that a copy is still under way from, or to, must not be given to others
        for memory in pinned:
            memory.wait()


def arrived(sent: tuple[Batch, Any]) -> Batch:
    """A batch, once the current stream has been told to wait for it."""
    batch, event = sent
    cupy().cuda.get_current_stream().wait_event(event)
    return batch


class Pinned:
    """Memory of the host that a GPU copies from without asking the processor: one batch in it at a time."""

    def __init__(self) -> None:
        self.memory: list[Any] = []
        self.event: Any = None

    def wait(self) -> None:
        """Wait until what was in this memory has gone."""
        if self.event is not None:
            self.event.synchronize()

    def send(self, batch: Batch, stream: Any) -> tuple[Batch, Any]:
        """Begin to copy a batch: the arrays that it will be in, and the event of its arrival."""
        xp = cupy()
        self.wait()
        # on the current stream, whose earlier work may still be reading what lay in this memory of the pool before
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
