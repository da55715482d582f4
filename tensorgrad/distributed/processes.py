"""Processes: the ranks of an MPI job, and a watch over them."""

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

ASK, ANSWER = 1, 2  # tags of what watches send each other
PATIENCE = 5.0  # seconds that a rank waits before it asks after the others, and then for their answers
BEAT = 0.25  # seconds between two looks of a watch


class Report(NamedTuple):
    """What a rank says of itself: at which meeting it is, or was last; what that is; for how long it has waited there, None
    if it does not wait."""

    number: int
    what: str
    waited: float | None


class Processes:
    """The Group of an MPI job. Every meeting is counted, so that a rank can say which one it waits in.

    rank, size   which one this is, and how many there are
    links        device to how its arrays are added up: by NCCL, or through main memory, where there is None
    """

    def __init__(self, mpi: Any, timeout: float) -> None:
        self.mpi, self.timeout = mpi, timeout
        self.comm: Any = mpi.COMM_WORLD.Dup()
        self.number, self.what, self.since = 0, "", None  # of meetings
        self.outlives = os.environ.get("OMPI_MCA_mpi_ft_enable", "0").lower() in ("1", "true")  # noqa: SIM112  as Open MPI does
        self.links: dict[str, Link | None] = {}
        self.failures: tuple[type[Exception], ...] = (mpi.Exception,)
        self.join()
        self.pinned: dict[int, Any] = {}
        self.over = threading.Event()
        self.watch: threading.Thread | None = None
        if mpi.Query_thread() == mpi.THREAD_MULTIPLE:
            self.watch = threading.Thread(target=Watch(self).run, name="tensorgrad ranks", daemon=True)
            self.watch.start()

    since: float | None

    def join(self) -> None:
        """Take what is known of the ranks from the communicator."""
        self.comm.Set_errhandler(self.mpi.ERRORS_RETURN)
        self.talk: Any = self.comm.Dup()  # for the watches
        self.talk.Set_errhandler(self.mpi.ERRORS_RETURN)
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    # Meetings

    def add_up(self, array: Array) -> None:
        device = device_of(array)
        if device not in self.links:
            self.links[device] = self.linked(array)
        link = self.links[device]
        what = f"sum of {array.size:,} {array.dtype}"
        if link is not None:
            with on(array):
                self.meet(what, lambda: self.add_up_by(link, array) if array.size else None)
            return
        if not isinstance(array, np.ndarray):  # on a GPU, of which this MPI need not know
            staged = self.staged(array)
            array.get(out=staged)
            self.add_up_in_memory(staged, what)
            array.set(staged)
        else:
            self.add_up_in_memory(array, what)

    def add_up_in_memory(self, array: Array, what: str) -> None:
        narrow = array.dtype.itemsize < 4 and array.dtype.kind not in "iu"  # of which MPI knows nothing
        wide: Any = array.astype(np.float32) if narrow else array
        self.meet(what, lambda: self.comm.Allreduce(self.mpi.IN_PLACE, wide))
        if narrow:
            array[...] = wide

    def add_up_by(self, link: Link, array: Array) -> None:
        """Ask NCCL for a sum. Where this rank outlives others, wait for it: what a lost one has left half done is not used."""
        asked = link.add_up(array, self.number, self.what)
        while self.outlives and not asked.ended.done:
            if self.comm.Is_revoked() or self.comm.Get_failed().Get_size():
                self.comm.Barrier()  # says what is the matter
            time.sleep(1e-4)

    def linked(self, array: Array) -> Link | None:
        """How arrays on the device of this one are added up from now on; the ranks agree in it."""
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
        """Pinned memory for the elements of an array on a GPU, kept for the next one of its size."""
        if array.nbytes not in self.pinned:
            self.pinned[array.nbytes] = cupy().cuda.alloc_pinned_memory(array.nbytes)
        return np.frombuffer(self.pinned[array.nbytes], array.dtype, array.size).reshape(array.shape)

    def shared(self, value: Any) -> Any:
        return self.meet("what the first rank has", lambda: self.comm.bcast(value))

    def gathered(self, value: Any) -> list[Any]:
        found: list[Any] = self.meet("what each rank has", lambda: self.comm.allgather(value))
        return found

    def meet(self, what: str, do: Callable[[], Any]) -> Any:
        """Do what all ranks do together. Raises RankError if one of them is lost on the way."""
        self.number += 1
        self.what, self.since = what, time.monotonic()
        try:
            return do()
        except self.failures as error:
            self.since = None
            self.lost(error)
        finally:
            self.since = None

    def lost(self, error: Any) -> NoReturn:
        """Go on with those that are left, where MPI can do that; raises RankError in any case."""
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
        forget_plans()  # in which the number of ranks may stand
        names = ", ".join(map(str, gone))
        text = f"rank{'s' * (len(gone) != 1)} {names} of {before} {'is' if len(gone) == 1 else 'are'} lost"
        raise RankError(f"{text}; {self.size} left, this process is now rank {self.rank}", gone) from error

    # The end

    def report(self) -> Report:
        """Where this rank is. Sums of GPUs come first that have not ended: Python may be ahead of them."""
        pending = [one for link in filter(None, list(self.links.values())) if (one := link.pending()) is not None]
        since: float | None
        if pending:
            one = min(pending, key=lambda one: one.number)
            number, what, since = one.number - (one.since is None), one.what, one.since
        else:
            number, what, since = self.number, self.what, self.since
        return Report(number, what, None if since is None else time.monotonic() - since)

    def trouble(self) -> str:
        """What is wrong with sums of GPUs, "" for nothing. That a rank is lost is known by that: not, which one."""
        links = filter(None, list(self.links.values()))
        return next(filter(None, (link.trouble() for link in links if link.pending() is not None)), "")

    def end(self, why: str) -> None:
        """End the job: all processes of it."""
        sys.stdout.flush()
        print(f"tensorgrad.distributed: {why}; the job is ended", file=sys.stderr, flush=True)
        self.mpi.COMM_WORLD.Abort(1)

    def leave(self) -> None:
        """Before MPI is closed."""
        for link in filter(None, self.links.values()):
            self.meet("the end of NCCL", link.close)
        self.over.set()
        if self.watch is not None:
            self.watch.join(PATIENCE)


class Watch:
    """A thread that asks after the ranks that this one waits for, and answers for it. Ends the job when one does not come."""

    def __init__(self, group: Processes) -> None:
        self.group = group
        self.asked: float | None = None
        self.number = 0  # the meeting that it has asked for
        self.answers: dict[int, Report] = {}
        self.sent: list[Any] = []

    def run(self) -> None:
        while not self.group.over.wait(BEAT):
            talk = self.group.talk
            try:
                self.answer(talk)
                self.look(talk)
            except self.group.mpi.Exception:  # a rank has died: who is in a meeting is told
                self.asked = None

    def answer(self, talk: Any) -> None:
        """Hear what others send."""
        status = self.group.mpi.Status()
        while talk.iprobe(tag=ASK, status=status):
            talk.recv(source=status.Get_source(), tag=ASK)
            self.send(talk, tuple(self.group.report()), status.Get_source(), ANSWER)
        while talk.iprobe(tag=ANSWER, status=status):
            self.answers[status.Get_source()] = Report(*talk.recv(source=status.Get_source(), tag=ANSWER))

    def send(self, talk: Any, value: Any, rank: int, tag: int) -> None:
        """Without waiting for who is to hear it."""
        self.sent = [request for request in self.sent if not request.test()[0]]
        self.sent.append(talk.isend(value, dest=rank, tag=tag))

    def look(self, talk: Any) -> None:
        """See whether this rank waits for too long, and for whom."""
        own, trouble = self.group.report(), self.group.trouble()
        is_late = own.waited is not None and own.waited >= PATIENCE
        if not (is_late or trouble) or (self.asked is not None and self.number != own.number):
            self.asked = None
            return
        others = [rank for rank in range(self.group.size) if rank != self.group.rank]
        now = time.monotonic()
        if self.asked is None:
            self.answers, self.number, self.asked = {}, own.number, now
            for rank in others:
                self.send(talk, own.number, rank, ASK)
            return
        silent = [rank for rank in others if rank not in self.answers]
        if silent and now - self.asked > PATIENCE:
            self.group.end(
                f"{ranks_named(silent)} not answered for {now - self.asked:.0f} s: stopped, or in code that holds the GIL;"
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
        if not silent and now - self.asked > PATIENCE:
            self.asked = None  # ask anew


def ranks_named(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) != 1)} {', '.join(map(str, ranks))} {'has' if len(ranks) == 1 else 'have'}"


def activity(report: Report) -> str:
    if report.waited is None:
        return f"is at work after meeting {report.number}"
    return f"waits in meeting {report.number} ({report.what})"
