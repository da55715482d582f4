"""Batches on their way to a GPU: copied while the step before works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tensorgrad.backend import Array, cupy

Batch = tuple[Array, ...]


def to_gpu(batches: Iterable[Batch], index: int) -> Iterator[Batch]:
    """The batches, of NumPy arrays, as arrays on the GPU with this index.

    A batch goes through pinned memory and a stream of its own: its copy begins when the last step but one has ended, so that it
    runs while the last one does. Nothing waits for the GPU but the reuse of pinned memory, two batches later.
    """
    xp = cupy()
    with xp.cuda.Device(index):
        copies = xp.cuda.Stream(non_blocking=True)
        pinned = [Pinned(), Pinned()]
        ahead: tuple[Batch, Any] | None = None
        for i, batch in enumerate(batches):
            sent = pinned[i % 2].send(batch, copies)
            if ahead is not None:
                yield arrived(ahead)
            ahead = sent
        if ahead is not None:
            yield arrived(ahead)


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

    def send(self, batch: Batch, stream: Any) -> tuple[Batch, Any]:
        """Begin to copy a batch: the arrays that it will be in, and the event of its arrival."""
        xp = cupy()
        if self.event is not None:
            self.event.synchronize()  # what was in this memory has gone
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
