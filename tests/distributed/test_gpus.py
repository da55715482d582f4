"""Sums over ranks of arrays on GPUs: by NCCL where each rank has a GPU of its own, else through main memory. On stand-ins."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tensorgrad.core import backend
from tensorgrad.distributed.nccl import Card, Link, obstacle
from tests.cuda import fake_cupy as cuda
from tests.cuda import fake_nccl
from tests.cuda.fake_cupy import fake_cupy
from tests.cuda.gpu import using
from tests.distributed import ranks

JOB = ("-m", "tests.distributed.gpus")
THROUGH_MEMORY = "rank 0: 0 sums by NCCL; distributed: arrays on GPUs are summed through main memory, not by NCCL: "
SUMS = 12  # of six steps, eager and compiled; the first call of a compiled step is a step


def test_a_training_is_that_of_one_process_and_every_dtype_is_summed() -> None:
    """By NCCL alone, in two halves' own dtype."""
    status, text = ranks.run(2, *JOB, "nccl")
    assert not status, text
    assert text.count("dtypes: float16 float32 float64 int8 uint8 int32 uint32 int64 uint64\n") == 2
    for rank in range(2):
        assert f"rank {rank}: {SUMS} sums by NCCL;\n" in text


@pytest.mark.thorough
def test_more_than_two_halves_are_summed_in_float32() -> None:
    status, text = ranks.run(3, *JOB, "nccl")
    assert not status, text
    assert text.count("dtypes: float32 float64 int8 uint8 int32 uint32 int64 uint64\n") == 3


REASONS = {
    "shared": "ranks 0 and 1 have the same GPU, 0000:01:00.0",
    "missing": "CuPy finds no NCCL on rank 1 (pip install nvidia-nccl-cu13, or nvidia-nccl-cu12 for CUDA 12)",
    "failing": "NCCL_ERROR_SYSTEM_ERROR: stand-in",
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", REASONS)
def test_through_main_memory(kind: str) -> None:
    """And the first rank says why, once."""
    status, text = ranks.run(2, *JOB, kind)
    assert not status, text
    assert THROUGH_MEMORY + REASONS[kind] + "\n" in text
    assert "rank 1: 0 sums by NCCL;\n" in text


FAULTS = {
    "raise": "rank 1 of 2 has raised ZeroDivisionError: on purpose; the job is ended",
    "kill": "rank 1",  # what mpiexec says
    "stop": "rank 1 has not answered for",
    "away": "rank 1 has not reached operation",
    "cut": "NCCL_ERROR_REMOTE_ERROR: stand-in; the job is ended",
}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_the_job_ends_with_a_line_that_names_the_rank(fault: str) -> None:
    """Though Python is ahead of the sum, for which the GPU waits."""
    status, text = ranks.run(2, *JOB, "nccl", fault, seconds=60)
    assert status, text
    assert FAULTS[fault] in text
    if fault in ("stop", "away"):
        assert "(sum of 53 float64)" in text


@pytest.mark.thorough
def test_the_others_go_on() -> None:
    """They let go of what is half done, and connect anew."""
    _, text = ranks.run(3, *JOB, "nccl", "kill", options=("--with-ft", "ulfm"), seconds=60)
    assert text.count("goes on: rank 2 of 3 is lost; 2 left") == 2, text


def test_which_gpus_can_be_connected() -> None:
    a, b, far = Card("m", "0000:01:00.0", True), Card("m", "0000:02:00.0", True), Card("n", "0000:01:00.0", True)
    assert obstacle([a, b, far]) == ""
    assert obstacle([a, b, a]) == "ranks 0 and 2 have the same GPU, 0000:01:00.0"
    assert obstacle([a, Card(), Card()]) == "rank 1 computes on no GPU"
    assert obstacle([a, b._replace(has_nccl=False)]).startswith("CuPy finds no NCCL on rank 1 (pip install ")


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """Of one rank alone."""
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", fake_nccl)
    monkeypatch.setattr(cuda, "known", {})
    with using("stand-in"):
        yield Link(backend.cupy().cuda.Device(), 1, fake_nccl.get_unique_id(), 0)


def test_what_the_stand_in_refuses(link: Link) -> None:
    """What NCCL would not notice."""
    array = fake_cupy.zeros((4, 4), np.float32)
    pointer, stream = array.data.ptr, fake_cupy.cuda.get_current_stream().ptr
    right: dict[str, Any] = {"sendbuf": pointer, "recvbuf": pointer, "count": 16, "datatype": fake_nccl.NCCL_FLOAT32,
                             "op": fake_nccl.NCCL_SUM, "stream": stream}  # fmt: skip
    link.comm.allReduce(**right)
    for wrong, error in (
        ({"count": 17}, AssertionError),
        ({"datatype": fake_nccl.NCCL_INT32}, AssertionError),
        ({"recvbuf": pointer + 4}, AssertionError),
        ({"stream": stream + 1}, AssertionError),
        ({"op": 99}, fake_nccl.NcclError),
        ({"count": 16.0}, TypeError),
    ):
        with pytest.raises(error):
            link.comm.allReduce(**{**right, **wrong})
    columns = array.T[:, :2]
    with pytest.raises(AssertionError, match="one after the other"):
        link.add_up(columns, 1, "sum")
    link.close()


def test_a_sum_waits_from_when_the_gpu_has_come_to_it(link: Link) -> None:
    """Work of the GPU before it does not count, however long it takes."""
    assert link.pending() is None
    asked = link.add_up(fake_cupy.zeros(3), 5, "sum of 3 float64")
    cuda.wait()
    asked.started.underway, asked.finished.underway = [threading.Event()], [waiting := threading.Event()]
    found = link.pending()
    assert found is asked
    assert found.waiting_since is None
    asked.started.underway = []
    assert link.pending() is asked
    assert asked.waiting_since is not None
    waiting.set()
    assert link.pending() is None
    link.close()
