"""NCCL: asynchronous sums over ranks, from GPU to GPU, on a stream."""

from __future__ import annotations

import importlib
import platform
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, cupy

# NCCL's names of dtypes. Of the rest, 16-bit integers are summed in 32 bits, bfloat16 and booleans in float32
NCCL_TYPES = {
    "int8": "NCCL_INT8", "uint8": "NCCL_UINT8", "int32": "NCCL_INT32", "uint32": "NCCL_UINT32", "int64": "NCCL_INT64",
    "uint64": "NCCL_UINT64", "float16": "NCCL_FLOAT16", "float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64",
}  # fmt: skip
WIDER_TYPES = {"int16": "int32", "uint16": "uint32"}


def library() -> Any:
    """CuPy's NCCL module; `available` is False if CuPy does not find NCCL."""
    return importlib.import_module("cupy.cuda.nccl")


class Card(NamedTuple):
    """The GPU that a rank computes on: its machine, its PCI bus id, and whether it has NCCL. Empty for a rank on the CPU."""

    machine: str = ""
    bus: str = ""
    has_nccl: bool = False

    @classmethod
    def of(cls, array: Array) -> Card:
        """The GPU of an array."""
        if isinstance(array, np.ndarray):
            return cls()
        return cls(machine(), array.device.pci_bus_id, bool(library().available))


def machine() -> str:
    """A unique id of this machine. Containers have different host names, but share the boot id."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def obstacle(cards: list[Card]) -> str:
    """The reason why these GPUs, one per rank, cannot be connected by NCCL; "" if they can."""
    first_ranks: dict[tuple[str, str], int] = {}
    for i, card in enumerate(cards):
        other = first_ranks.setdefault(card[:2], i)
        if card.bus and other != i:
            return f"ranks {other} and {i} have the same GPU, {card.bus}"
    for i, card in enumerate(cards):
        if not card.bus:
            return f"rank {i} computes on no GPU"
        if not card.has_nccl:
            return f"CuPy finds no NCCL on rank {i} (pip install nvidia-nccl-cu13, or nvidia-nccl-cu12 for CUDA 12)"
    return ""


class Sum:
    """A sum that is queued on a stream.

    number, description   of the collective operation
    started, finished     events before and after it: once `started` is done, only other ranks can delay it
    """

    def __init__(self, number: int, description: str) -> None:
        self.number, self.description = number, description
        self.started, self.finished = (cupy().cuda.Event(disable_timing=True) for _ in range(2))
        self.waiting_since: float | None = None  # when it was first seen to have started


class Link:
    """The connection of this rank's GPU to those of the other ranks.

    sums   those that are queued and not yet known to have ended, oldest first
    """

    def __init__(self, device: Any, size: int, name: bytes, rank: int) -> None:
        """Connect: a collective call, with an id that one rank has created. Raises NcclError."""
        self.library, self.device = library(), device
        with device:
            self.comm = self.library.NcclCommunicator(size, name, rank)
        self.size = size
        self.sums: deque[Sum] = deque()
        self.lock = threading.Lock()  # of the sums, which the watch reads

    def add_up(self, array: Array, number: int, description: str) -> Sum:
        """Queue the sum over the ranks on the current stream, in place. The array is contiguous and on the current GPU."""
        widened = self.widened(array)
        stream, queued = cupy().cuda.get_current_stream(), Sum(number, description)
        queued.started.record(stream)
        nccl_type = getattr(self.library, NCCL_TYPES[widened.dtype.name])
        self.comm.allReduce(widened.data.ptr, widened.data.ptr, widened.size, nccl_type, self.library.NCCL_SUM, stream.ptr)
        if widened is not array:
            array[...] = widened
        queued.finished.record(stream)
        with self.lock:
            self.drop_finished()
            self.sums.append(queued)
        return queued

    def widened(self, array: Array) -> Array:
        """The array in a dtype that NCCL sums accurately. A sum of two float16 numbers is rounded only once in any case."""
        name = array.dtype.name
        if name == "float16" and self.size > 2:
            return array.astype(np.float32)
        if name in NCCL_TYPES:
            return array
        return array.astype(WIDER_TYPES.get(name, "float32"))

    def drop_finished(self) -> None:
        while self.sums and self.sums[0].finished.done:
            self.sums.popleft()

    def pending(self) -> Sum | None:
        """The oldest sum that has not finished; its `waiting_since` is None while the GPU is busy with earlier work."""
        with self.device, self.lock:
            self.drop_finished()
            oldest = self.sums[0] if self.sums else None
            if oldest is not None and oldest.waiting_since is None and oldest.started.done:
                oldest.waiting_since = time.monotonic()
            return oldest

    def async_error(self) -> str:
        """An asynchronous error of NCCL, such as a broken connection; "" if there is none."""
        try:
            self.comm.check_async_error()
        except self.library.NcclError as error:
            return str(error)
        return ""

    def abort(self) -> None:
        """Abort pending sums, without the other ranks. Their results are invalid."""
        self.comm.abort()

    def close(self) -> None:
        """Disconnect: a collective call."""
        with self.device:
            self.comm.destroy()
