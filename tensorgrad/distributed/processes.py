"""Processes: the ranks of an MPI job, and a watchdog for them.

A meeting is a collective operation, in which all ranks take part.
"""

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
from tensorgrad.distributed.nccl import Card, Link, library, why_not
from tensorgrad.errors import RankError

ASK, ANSWER = 1, 2  # tags of the messages between watches
PATIENCE = 5.0  # seconds that a rank waits in a meeting before it asks the others, and then for their answers
BEAT = 0.25  # seconds between two checks of a watch


class Report(NamedTuple):
    """The status of a rank: the number and name of its current or last meeting, and the seconds it has waited there; None if it
    is not waiting."""

    number: int
    what: str
    waited: float | None


class Processes:
    """The Group of an MPI job. Meetings are numbered, so that a rank can say which one it waits in.

    rank, size   the number of this process, and the number of processes
    links        device to its NCCL connection; None if arrays are summed through main memory
    """

    def __init__(self, mpi: Any, timeout: float) -> None:
        self.mpi, self.timeout = mpi, timeout
        self.comm: Any = mpi.COMM_WORLD.Dup()
        self.number, self.what, self.since = 0, "", None  # of meetings
        self.outlives = os.environ.get("OMPI_MCA_mpi_ft_enable", "0").lower() in ("1", "true")  # noqa: SIM112  Open MPI's spelling
        self.links: dict[str, Link | None] = {}
        self.failures: tuple[type[Exception], ...] = (mpi.Exception,)
        self.join()
        self.pinned: dict[int, Any] = {}
        self.stopped = threading.Event()
        self.watch: threading.Thread | None = None
        if mpi.Query_thread() == mpi.THREAD_MULTIPLE:
            self.watch = threading.Thread(target=Watch(self).run, name="tensorgrad ranks", daemon=True)
            self.watch.start()

    since: float | None

    def join(self) -> None:
        """Read rank and size from the communicator."""
        self.comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        self.talk: Any = self.comm.Dup()  # for the watches
        self.talk.Set_errhandler(self.mpi.ERRORS_RETURN)
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    # Meetings

    def add_up(self, array: Array) -> None:
        device = device_of(array)
        if device not in self.links:
            self.links[device] = self.connect(array)
        link = self.links[device]
        what = f"sum of {array.size:,} {array.dtype}"
        if link is not None:
            with on(array):
                self.meet(what, lambda: self.add_up_by(link, array) if array.size else None)
            return
        if not isinstance(array, np.ndarray):  # on a GPU: MPI may not support CUDA
            staged = self.staged(array)
            array.get(out=staged)
            self.add_up_in_memory(staged, what)
            array.set(staged)
        else:
            self.add_up_in_memory(array, what)

    def add_up_in_memory(self, array: Array, what: str) -> None:
        narrow = array.dtype.itemsize < 4 and array.dtype.kind not in "iu"  # MPI has no such type
        wide: Any = array.astype(np.float32) if narrow else array
        self.meet(what, lambda: self.comm.Allreduce(self.mpi.IN_PLACE, wide))
        if narrow:
            array[...] = wide

    def add_up_by(self, link: Link, array: Array) -> None:
        """Sum by NCCL. If this rank can outlive others, wait for the result, so that a sum cut short by a lost rank is not
        used.
        """
        queued = link.add_up(array, self.number, self.what)
        while self.outlives and not queued.ended.done:
            if self.comm.Is_revoked() or self.comm.Get_failed().Get_size():
                self.comm.Barrier()  # raises the error
            time.sleep(1e-4)

    def connect(self, array: Array) -> Link | None:
        """The connection for arrays on the device of this one; None to sum through main memory. All ranks choose the same."""
        cards: list[Card] = self.gathered(Card.of(array))
        reason, link = why_not(cards), None
        if not reason:
            self.failures = (self.mpi.Exception, library().NcclError)
            name = self.shared(library().get_unique_id() if self.rank == 0 else None)
            try:
                link = self.meet("connecting GPUs by NCCL", lambda: Link(array.device, self.size, name, self.rank))
            except RankError as error:
                if not isinstance(error.__cause__, library().NcclError):
                    raise
                reason = str(error.__cause__)
            reasons = self.gathered(reason)
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

    def shared(self, value: Any) -> Any:
        return self.meet("what the first rank has", lambda: self.comm.bcast(value))

    def gathered(self, value: Any) -> list[Any]:
        found: list[Any] = self.meet("what each rank has", lambda: self.comm.allgather(value))
        return found

    def meet(self, what: str, do: Callable[[], Any]) -> Any:
        """Run a collective operation. Raises RankError if a rank is lost during it."""
        self.number += 1
        self.what, self.since = what, time.monotonic()
        try:
            return do()
        except self.failures as error:
            self.since = None
            self.handle_lost_rank(error)
        finally:
            self.since = None

    def handle_lost_rank(self, error: Any) -> NoReturn:
        """Continue with the remaining ranks if MPI supports it. Always raises RankError."""
        known = [getattr(self.mpi, name, None) for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")]
        if not isinstance(error, self.mpi.Exception) or error.Get_error_class() not in known:
            raise RankError(f"rank {self.rank} of {self.size}: meeting {self.number} ({self.what}): {error}") from error
        was, before = self.rank, self.size
        for link in filter(None, self.links.values()):
            link.abort()
        self.links.clear()
        self.comm.Revoke()
        left = self.comm.Shrink()
        gone = sorted(set(range(before)) - set(left.allgather(was)))
        self.comm = left
        self.join()
        forget_plans()  # they may depend on the number of ranks
        names = ", ".join(map(str, gone))
        text = f"rank{'s' * (len(gone) != 1)} {names} of {before} {'is' if len(gone) == 1 else 'are'} lost"
        raise RankError(f"{text}; {self.size} left, this process is now rank {self.rank}", gone) from error

    # Status and shutdown

    def report(self) -> Report:
        """The status of this rank. Pending GPU sums take precedence, because Python may be ahead of them."""
        pending = [one for link in filter(None, list(self.links.values())) if (one := link.pending()) is not None]
        since: float | None
        if pending:
            one = min(pending, key=lambda one: one.number)
            number, what, since = one.number - (one.since is None), one.what, one.since
        else:
            number, what, since = self.number, self.what, self.since
        return Report(number, what, None if since is None else time.monotonic() - since)

    def trouble(self) -> str:
        """The error of a pending GPU sum, or "". It reveals that a rank is lost, but not which one."""
        links = filter(None, list(self.links.values()))
        return next(filter(None, (link.trouble() for link in links if link.pending() is not None)), "")

    def end(self, why: str) -> None:
        """End the job, that is, all of its processes."""
        sys.stdout.flush()
        print(f"tensorgrad.distributed: {why}; the job is ended", file=sys.stderr, flush=True)
        self.mpi.COMM_WORLD.Abort(1)

    def leave(self) -> None:
        """Shut down; called before MPI is finalised."""
        for link in filter(None, self.links.values()):
            self.meet("the end of NCCL", link.close)
        self.stopped.set()
        if self.watch is not None:
            self.watch.join(PATIENCE)


class Watch:
    """A thread that queries the ranks that this one waits for, and answers theirs. Ends the job if a rank does not come."""

    def __init__(self, group: Processes) -> None:
        self.group = group
        self.queried_at: float | None = None
        self.number = 0  # the meeting of its query
        self.answers: dict[int, Report] = {}
        self.sent: list[Any] = []

    def run(self) -> None:
        while not self.group.stopped.wait(BEAT):
            talk = self.group.talk
            try:
                self.answer(talk)
                self.look(talk)
            except self.group.mpi.Exception:  # a rank has died: ranks in a meeting get the error
                self.queried_at = None

    def answer(self, talk: Any) -> None:
        """Receive messages of the others."""
        status = self.group.mpi.Status()
        while talk.iprobe(tag=ASK, status=status):
            talk.recv(source=status.Get_source(), tag=ASK)
            self.send(talk, tuple(self.group.report()), status.Get_source(), ANSWER)
        while talk.iprobe(tag=ANSWER, status=status):
            self.answers[status.Get_source()] = Report(*talk.recv(source=status.Get_source(), tag=ANSWER))

    def send(self, talk: Any, value: Any, rank: int, tag: int) -> None:
        """Send without waiting for the receiver."""
        self.sent = [request for request in self.sent if not request.test()[0]]
        self.sent.append(talk.isend(value, dest=rank, tag=tag))

    def look(self, talk: Any) -> None:
        """Check whether this rank has waited too long, and for which ranks."""
        own, trouble = self.group.report(), self.group.trouble()
        is_late = own.waited is not None and own.waited >= PATIENCE
        if not (is_late or trouble) or (self.queried_at is not None and self.number != own.number):
            self.queried_at = None
            return
        others = [rank for rank in range(self.group.size) if rank != self.group.rank]
        now = time.monotonic()
        if self.queried_at is None:
            self.answers, self.number, self.queried_at = {}, own.number, now
            for rank in others:
                self.send(talk, own.number, rank, ASK)
            return
        silent = [rank for rank in others if rank not in self.answers]
        if silent and now - self.queried_at > PATIENCE:
            self.group.end(
                f"{ranks_named(silent)} not answered for {now - self.queried_at:.0f} s: stopped, or in code that holds the GIL;"
                f" rank {self.group.rank} waits in meeting {own.number} ({own.what})"
            )
        if not silent and trouble:
            self.group.end(f"rank {self.group.rank}: meeting {own.number} ({own.what}): {trouble}")
        if not silent and own.waited is not None and own.waited > self.group.timeout:
            away = {rank: r for rank, r in self.answers.items() if r.waited is None or r.number != own.number} or self.answers
            where = "; ".join(f"rank {rank} {activity(report)}" for rank, report in sorted(away.items()))
            self.group.end(
                f"{ranks_named(sorted(away))} not come to meeting {own.number} ({own.what}), in which rank "
                f"{self.group.rank} has waited for {own.waited:.0f} s: {where}"
            )
        if not silent and now - self.queried_at > PATIENCE:
            self.queried_at = None  # ask again


def ranks_named(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) != 1)} {', '.join(map(str, ranks))} {'has' if len(ranks) == 1 else 'have'}"


def activity(report: Report) -> str:
    if report.waited is None:
        return f"is at work after meeting {report.number}"
    return f"waits in meeting {report.number} ({report.what})"
