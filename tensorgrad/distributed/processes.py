"""Processes: the ranks of an MPI job, and a watchdog for them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tensorgrad.compiler.compiled import forget_plans
from tensorgrad.core.backend import Array, cupy, device_of, on
from tensorgrad.core.location import warn
from tensorgrad.distributed.nccl import Card, Link, library, obstacle
from tensorgrad.errors import RankError

QUERY, ANSWER = 1, 2  # tags of the messages between watches
PATIENCE = 5.0  # seconds that a rank waits in a collective operation before it asks the others, and then for their answers
INTERVAL = 0.25  # seconds between two checks of a watch


class Report(NamedTuple):
    """The status of a rank: the number and name of its current or last collective operation, and the seconds it has
    waited there; None if it is not waiting."""

    number: int
    description: str
    waited: float | None


class Processes:
    """The Group of an MPI job. Collective operations are numbered, so that a rank can say which one it waits in.

    rank, size   the number of this process, and the number of processes
    links        device to its NCCL connection; None if arrays are summed through main memory
    """

    def __init__(self, mpi: Any, timeout: float) -> None:
        self.mpi, self.timeout = mpi, timeout
        self.comm: Any = mpi.COMM_WORLD.Dup()
        self.number, self.description, self.waiting_since = 0, "", None  # of collective operations
        self.fault_tolerant = os.environ.get("OMPI_MCA_mpi_ft_enable", "0").lower() in ("1", "true")  # noqa: SIM112
        self.links: dict[str, Link | None] = {}
        self.failures: tuple[type[Exception], ...] = (mpi.Exception,)
        self.join()
        self.pinned: dict[int, Any] = {}
        self.stopped = threading.Event()
        self.watch: threading.Thread | None = None
        if mpi.Query_thread() == mpi.THREAD_MULTIPLE:
            self.watch = threading.Thread(target=Watch(self).run, name="tensorgrad ranks", daemon=True)
            self.watch.start()

    waiting_since: float | None

    def join(self) -> None:
        """Read rank and size from the communicator."""
        self.comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        self.watch_comm: Any = self.comm.Dup()  # for the watches
        self.watch_comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    # Collective operations

    def all_reduce(self, array: Array) -> None:
        device = device_of(array)
        if device not in self.links:
            self.links[device] = self.connect(array)
        link = self.links[device]
        description = f"sum of {array.size:,} {array.dtype}"
        if link is not None:
            with on(array):
                self.collective(description, lambda: self.add_up_by_nccl(link, array) if array.size else None)
            return
        if not isinstance(array, np.ndarray):  # on a GPU: MPI may not support CUDA
            staged = self.staged(array)
            array.get(out=staged)
            self.add_up_in_memory(staged, description)
            array.set(staged)
        else:
            self.add_up_in_memory(array, description)

    def add_up_in_memory(self, array: Array, description: str) -> None:
        is_half = array.dtype.itemsize < 4 and array.dtype.kind not in "iu"  # MPI has no such type
        summed: Any = array.astype(np.float32) if is_half else array
        self.collective(description, lambda: self.comm.Allreduce(self.mpi.IN_PLACE, summed))
        if is_half:
            array[...] = summed

    def add_up_by_nccl(self, link: Link, array: Array) -> None:
        """Sum by NCCL. If this rank can outlive others, wait for the result, so that a sum cut short by a lost rank is not
        used.
        """
        queued = link.add_up(array, self.number, self.description)
        while self.fault_tolerant and not queued.finished.done:
            if self.comm.Is_revoked() or self.comm.Get_failed().Get_size():
                self.comm.Barrier()  # raises the error
            time.sleep(1e-4)

    def connect(self, array: Array) -> Link | None:
        """The connection for arrays on the device of this one; None to sum through main memory. All ranks choose the same."""
        cards: list[Card] = self.all_gather(Card.of(array))
        reason, link = obstacle(cards), None
        if not reason:
            self.failures = (self.mpi.Exception, library().NcclError)
            name = self.broadcast(library().get_unique_id() if self.rank == 0 else None)
            try:
                link = self.collective("connecting GPUs by NCCL", lambda: Link(array.device, self.size, name, self.rank))
            except RankError as error:
                if not isinstance(error.__cause__, library().NcclError):
                    raise
                reason = str(error.__cause__)
            reasons = self.all_gather(reason)
            reason = next(filter(None, reasons), "")
            if reason and link is not None:
                link.abort()
        if reason and self.rank == 0 and any(card.bus for card in cards):
            warn(f"distributed: arrays on GPUs are summed through main memory, not by NCCL: {reason}", RuntimeWarning)
        return None if reason else link

    def staged(self, array: Array) -> Array:
        """Pinned memory for the elements of a GPU array, reused for arrays of the same size."""
        if array.nbytes not in self.pinned:
            self.pinned[array.nbytes] = cupy().cuda.alloc_pinned_memory(array.nbytes)
        return np.frombuffer(self.pinned[array.nbytes], array.dtype, array.size).reshape(array.shape)

    def broadcast(self, value: Any) -> Any:
        return self.collective("broadcast", lambda: self.comm.bcast(value))

    def all_gather(self, value: Any) -> list[Any]:
        values: list[Any] = self.collective("all-gather", lambda: self.comm.allgather(value))
        return values

    def collective(self, description: str, operation: Callable[[], Any]) -> Any:
        """Run a collective operation. Raises RankError if a rank is lost during it."""
        self.number += 1
        self.description, self.waiting_since = description, time.monotonic()
        try:
            return operation()
        except self.failures as error:
            self.waiting_since = None
            self.handle_lost_rank(error)
        finally:
            self.waiting_since = None

    def handle_lost_rank(self, error: Any) -> NoReturn:
        """Continue with the remaining ranks if MPI supports it. Always raises RankError."""
        loss_errors = [getattr(self.mpi, name, None) for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")]
        if not isinstance(error, self.mpi.Exception) or error.Get_error_class() not in loss_errors:
            raise RankError(
                f"rank {self.rank} of {self.size}: operation {self.number} ({self.description}): {error}"
            ) from error
        old_rank, old_size = self.rank, self.size
        for link in filter(None, self.links.values()):
            link.abort()
        self.links.clear()
        self.comm.Revoke()
        remaining = self.comm.Shrink()
        lost = sorted(set(range(old_size)) - set(remaining.allgather(old_rank)))
        self.comm = remaining
        self.join()
        forget_plans()  # they may depend on the number of ranks
        names = ", ".join(map(str, lost))
        text = f"rank{'s' * (len(lost) != 1)} {names} of {old_size} {'is' if len(lost) == 1 else 'are'} lost"
        raise RankError(f"{text}; {self.size} left, this process is now rank {self.rank}", lost) from error

    # Status and shutdown

    def report(self) -> Report:
        """The status of this rank. Pending GPU sums take precedence, because Python may be ahead of them."""
        pending = [oldest for link in filter(None, list(self.links.values())) if (oldest := link.pending()) is not None]
        waiting_since: float | None
        if pending:
            oldest = min(pending, key=lambda oldest: oldest.number)
            number, description, waiting_since = (
                oldest.number - (oldest.waiting_since is None),
                oldest.description,
                oldest.waiting_since,
            )
        else:
            number, description, waiting_since = self.number, self.description, self.waiting_since
        return Report(number, description, None if waiting_since is None else time.monotonic() - waiting_since)

    def async_error(self) -> str:
        """The error of a pending GPU sum, or "". It reveals that a rank is lost, but not which one."""
        links = filter(None, list(self.links.values()))
        return next(filter(None, (link.async_error() for link in links if link.pending() is not None)), "")

    def end(self, reason: str) -> None:
        """End the job, that is, all of its processes."""
        sys.stdout.flush()
        print(f"tensorgrad.distributed: {reason}; the job is ended", file=sys.stderr, flush=True)
        self.mpi.COMM_WORLD.Abort(1)

    def leave(self) -> None:
        """Shut down; called before MPI is finalised."""
        for link in filter(None, self.links.values()):
            self.collective("the end of NCCL", link.close)
        self.stopped.set()
        if self.watch is not None:
            self.watch.join(PATIENCE)


class Watch:
    """A thread that queries the ranks that this one waits for, and answers theirs. Ends the job if a rank does not come."""

    def __init__(self, group: Processes) -> None:
        self.group = group
        self.queried_at: float | None = None
        self.number = 0  # the operation of its query
        self.answers: dict[int, Report] = {}
        self.sent: list[Any] = []

    def run(self) -> None:
        while not self.group.stopped.wait(INTERVAL):
            comm = self.group.watch_comm
            try:
                self.answer(comm)
                self.check(comm)
            except self.group.mpi.Exception:  # a rank has died: ranks in a collective operation get the error
                self.queried_at = None

    def answer(self, comm: Any) -> None:
        """Receive messages of the others."""
        status = self.group.mpi.Status()
        while comm.iprobe(tag=QUERY, status=status):
            comm.recv(source=status.Get_source(), tag=QUERY)
            self.send(comm, tuple(self.group.report()), status.Get_source(), ANSWER)
        while comm.iprobe(tag=ANSWER, status=status):
            self.answers[status.Get_source()] = Report(*comm.recv(source=status.Get_source(), tag=ANSWER))

    def send(self, comm: Any, value: Any, rank: int, tag: int) -> None:
        """Send without waiting for the receiver."""
        self.sent = [request for request in self.sent if not request.test()[0]]
        self.sent.append(comm.isend(value, dest=rank, tag=tag))

    def check(self, comm: Any) -> None:
        """Check whether this rank has waited too long, and for which ranks."""
        status, async_error = self.group.report(), self.group.async_error()
        is_late = status.waited is not None and status.waited >= PATIENCE
        if not (is_late or async_error) or (self.queried_at is not None and self.number != status.number):
            self.queried_at = None
            return
        others = [rank for rank in range(self.group.size) if rank != self.group.rank]
        now = time.monotonic()
        if self.queried_at is None:
            self.answers, self.number, self.queried_at = {}, status.number, now
            for rank in others:
                self.send(comm, status.number, rank, QUERY)
            return
        unanswered = [rank for rank in others if rank not in self.answers]
        if unanswered and now - self.queried_at > PATIENCE:
            self.group.end(
                f"{ranks_named(unanswered)} not answered for {now - self.queried_at:.0f} s: stopped, or in code that holds the "
                f"GIL; rank {self.group.rank} waits in operation {status.number} ({status.description})"
            )
        if not unanswered and async_error:
            self.group.end(f"rank {self.group.rank}: operation {status.number} ({status.description}): {async_error}")
        if not unanswered and status.waited is not None and status.waited > self.group.timeout:
            absent = {
                rank: r for rank, r in self.answers.items() if r.waited is None or r.number != status.number
            } or self.answers
            activities = "; ".join(f"rank {rank} {activity(report)}" for rank, report in sorted(absent.items()))
            self.group.end(
                f"{ranks_named(sorted(absent))} not reached operation {status.number} ({status.description}), in which rank "
                f"{self.group.rank} has waited for {status.waited:.0f} s: {activities}"
            )
        if not unanswered and now - self.queried_at > PATIENCE:
            self.queried_at = None  # ask again


def ranks_named(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) != 1)} {', '.join(map(str, ranks))} {'has' if len(ranks) == 1 else 'have'}"


def activity(report: Report) -> str:
    if report.waited is None:
        return f"is at work after operation {report.number}"
    return f"waits in operation {report.number} ({report.description})"
