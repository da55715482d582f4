"""A strict stand-in for CuPy's module of NCCL, between processes of this machine, whose arrays are those of fake_cupy.

Names, arguments and numbers are those of CuPy 14 (cupy_backends/cuda/libs/nccl.pyx). It refuses what NCCL refuses, and what it
does not notice: a pointer or a count that does not fit an array on the communicator's GPU, another dtype than the array's, two
ranks on one GPU, a stream that is not the current one. A sum is asked for, and ends when all ranks have come to it, while
Python goes on; when one is lost it never does, and `check_async_error` says so.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import numpy as np

from tests.cuda import fake_cupy as cuda

available = True
NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)
NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64, NCCL_UINT64, NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = range(9)
DTYPES = ["int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
ERRORS = [
    "SUCCESS",
    "UNHANDLED_CUDA_ERROR",
    "SYSTEM_ERROR",
    "INTERNAL_ERROR",
    "INVALID_ARGUMENT",
    "INVALID_USAGE",
    "REMOTE_ERROR",
]
ID_BYTES = 128
fails = ""  # what making a communicator is to fail with: a test's
sums: list[str] = []  # dtypes of the sums that were asked for


class NcclError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"NCCL_ERROR_{ERRORS[status]}: stand-in")


def get_unique_id() -> bytes:
    """Where the ranks will meet: a thread of this process adds up."""
    listener = Listener(("127.0.0.1", 0))
    threading.Thread(target=meeting_place, args=(listener,), daemon=True).start()
    return str(listener.address[1]).encode().ljust(ID_BYTES, b"\0")


def meeting_place(listener: Listener) -> None:
    """Hear what each rank has, and say what it comes to; if one is gone, say that."""
    ranks: dict[int, Connection] = {}
    buses: list[str] = []
    size = 1
    while len(buses) < size:
        connection = listener.accept()
        rank, size, bus = connection.recv()
        ranks[rank] = connection
        buses.append(bus)
    listener.close()
    everyone = [ranks[rank] for rank in range(size)]
    usage = ERRORS.index("INVALID_USAGE") if len(set(buses)) < size else 0
    for connection in everyone:
        connection.send(usage)
    try:
        while True:
            said = [connection.recv() for connection in everyone]
            (what, dtype, count) = said[0][:3]
            assert all(one[:3] == (what, dtype, count) for one in said), "ranks ask for different things"
            answer: Any = what
            if what == "sum":
                answer = np.frombuffer(said[0][3], dtype).copy()
                for one in said[1:]:
                    answer += np.frombuffer(one[3], dtype)
            for connection in everyone:
                connection.send(answer)
            if what == "destroy":
                return
    except (EOFError, OSError):
        for connection in everyone:
            with contextlib.suppress(OSError):
                connection.send(ERRORS.index("REMOTE_ERROR"))
    finally:
        for connection in everyone:
            connection.close()


class NcclCommunicator:
    def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        integers(ndev, rank)
        if type(commId) is not bytes:
            raise TypeError(f"Argument 'commId' has incorrect type (expected bytes, got {type(commId).__name__})")
        if len(commId) != ID_BYTES:
            raise ValueError(f"commId length {len(commId)} != {ID_BYTES}.")
        if not 0 <= rank < ndev:
            raise NcclError(4)
        if fails:
            raise NcclError(ERRORS.index(fails))
        self._device = cuda.Device()
        self._place: Any = Client(("127.0.0.1", int(commId.rstrip(b"\0"))))
        self._place.send((rank, ndev, self._device.pci_bus_id))
        self._status = self._place.recv()
        self.check_async_error()
        self._pending: list[Any] = []
        self._asked: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        integers(sendbuf, recvbuf, count, datatype, op, stream)
        if self._place is None or not 0 <= datatype < len(DTYPES) or op != NCCL_SUM:
            raise NcclError(4)
        cuda.forbidden("ncclAllReduce")
        if stream != cuda.fake_cupy.cuda.get_current_stream().ptr or cuda.Device() != self._device:
            raise AssertionError("a stream that is not the current one of the communicator's GPU")
        source, target = (self._memory(pointer, count, DTYPES[datatype]) for pointer in (sendbuf, recvbuf))
        sums.append(DTYPES[datatype])
        ended = threading.Event()
        self._pending.append((target, ended))
        self._asked.put((source, target, ended))
        cuda.underway.append(ended)

    def _memory(self, pointer: int, count: int, dtype: str) -> np.ndarray[Any, Any]:
        """The elements at a pointer, of an array that is there."""
        assert cuda.known is not None, "nobody has asked fake_cupy to remember its arrays"
        for key, ref in list(cuda.known.items()):
            array = ref()
            if array is None:
                del cuda.known[key]
                continue
            is_there = array._id == self._device.id and array.data.ptr == pointer and array._a.flags.c_contiguous
            if is_there and array.size == count and array.dtype == dtype:
                cuda.touch(array)
                return array._a.reshape(-1)
        raise AssertionError(f"no {count} {dtype} lie at {pointer:#x} of {self._device.pci_bus_id} one after the other")

    def _work(self) -> None:
        while True:
            source, target, ended = self._asked.get()
            try:
                if target is None:
                    self._place.send(("destroy", None, None))
                    self._place.recv()
                    ended.set()
                    return
                self._place.send(("sum", source.dtype.str, source.size, source.tobytes()))
                answer = self._place.recv()
                if isinstance(answer, int):
                    self._status = answer
                    return  # and it never ends
                target[...] = answer
                ended.set()
            except (EOFError, OSError, TypeError, AttributeError):
                self._status = ERRORS.index("REMOTE_ERROR")
                return

    def check_async_error(self) -> None:
        if self._status:
            raise NcclError(self._status)

    def abort(self) -> None:
        """What is under way ends, and nobody knows what it has written."""
        place, self._place = self._place, None
        if place is not None:
            place.close()
        for target, ended in self._pending:
            if not ended.is_set():
                cuda.poison(target)
                ended.set()

    def cut(self) -> None:
        """The connection with the others breaks: none of NCCL's."""
        self._place.close()

    def destroy(self) -> None:
        """Waits for what is under way, and for the other ranks."""
        if self._place is not None:
            ended = threading.Event()
            self._asked.put((None, None, ended))
            ended.wait()
            self._place.close()
            self._place = None


def integers(*values: Any) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError("an integer is required")
