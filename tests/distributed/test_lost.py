"""Ranks that raise, die, are stopped or stay away; Ctrl-C; going on afterwards, on another number of ranks, or without them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed import ranks

JOB = ("-m", "tests.distributed.job")
EPOCHS = 6
FAULTS = {
    "raise": "rank 1 of 2 has raised ZeroDivisionError: on purpose; the job is ended",
    "kill": "rank 1",  # what mpiexec says
    "stop": "rank 1 has not answered for",
    "away": "rank 1 has not reached operation",
}


def job(folder: Path, size: int, *fault: Any, options: tuple[str, ...] = (), **environment: str) -> Any:
    folder.mkdir(exist_ok=True)
    return ranks.start(size, [*JOB, str(folder), str(EPOCHS), *map(str, fault)], options, environment=environment)


def ended(running: Any, seconds: float = 100) -> str:
    """What it has printed, once it has ended. A job that hangs is a failure."""
    try:
        text: str = running.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        running.terminate()
        raise
    return text


def done(running: Any, seconds: float = 100) -> str:
    """What it has printed, once its work is done. In about one of fifteen runs Open MPI's own MPI_Finalize then waits for the
    rank that was lost for ever (seen in a debugger); such a job is ended here, and the guide tells users so."""
    since = time.monotonic()
    while True:
        try:
            text: str = running.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired as waiting:
            printed = (waiting.output or b"").decode()
            is_done = "done: " in printed
            if not is_done and time.monotonic() - since < seconds:
                continue
            running.terminate()
            running.communicate(timeout=30)
            if not is_done:
                raise
            return printed
        return text


def end(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "end.npz") as file:
        return dict(file)


def assert_nothing_lost(folder: Path, undisturbed: dict[str, np.ndarray]) -> None:
    found = end(folder)
    assert found.keys() == undisturbed.keys()
    for name, value in undisturbed.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-11, err_msg=name)
    assert len((folder / "log.jsonl").read_text().splitlines()) == EPOCHS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert "done: 6 epochs on 1 ranks" in ended(job(folder, 1))
    return end(folder)


@pytest.mark.parametrize("fault", ["kill", *(pytest.param(f, marks=pytest.mark.thorough) for f in FAULTS if f != "kill")])
def test_the_job_ends_with_a_line_that_names_the_rank(tmp_path: Path, undisturbed: dict[str, np.ndarray], fault: str) -> None:
    """And goes on, on another number of ranks, from its last epoch."""
    running = job(tmp_path, 2, 1, fault, 7)
    text = ended(running)
    assert running.returncode, text
    assert FAULTS[fault] in text
    assert "done" not in text
    if fault == "kill":
        assert "done: 6 epochs on 3 ranks" in ended(job(tmp_path, 3))
        assert_nothing_lost(tmp_path, undisturbed)


def test_the_others_go_on(tmp_path: Path, undisturbed: dict[str, np.ndarray]) -> None:
    """With Open MPI's ULFM: they begin the epoch again, without the one that was killed, be it the first."""
    text = done(job(tmp_path, 3, 0, "kill", 12, options=("--with-ft", "ulfm")))
    assert "rank 0 of 3 is lost; 2 left" in text
    assert "continues from the start of epoch 3" in text
    assert "done: 6 epochs on 2 ranks" in text
    assert_nothing_lost(tmp_path, undisturbed)


@pytest.mark.thorough
def test_ctrl_c(tmp_path: Path, undisturbed: dict[str, np.ndarray]) -> None:
    """On one rank: all stop after that step, in the middle of the second epoch, and go on from there, on other ranks."""
    text = ended(job(tmp_path, 3, 2, "interrupt", 7))
    assert text.count("train.fit: interrupted after 1 of 6 epochs") == 1
    assert "done: 1 epochs on 3 ranks, interrupted: True" in text
    assert "done: 6 epochs on 2 ranks" in ended(job(tmp_path, 2))
    assert_nothing_lost(tmp_path, undisturbed)


def when_an_epoch_is_over(folder: Path) -> None:
    deadline, log = time.monotonic() + 60, folder / "log.jsonl"
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_ctrl_c_in_the_terminal_of_mpiexec(tmp_path: Path, undisturbed: dict[str, np.ndarray]) -> None:
    """It gets SIGINT, as its whole process group does, and gives the ranks half a second. What they have saved by then, after
    the step or at the end of the epoch before, is whole, and nobody stays behind."""
    program = [*JOB, str(tmp_path), str(EPOCHS)]
    running = ranks.start(2, program, environment={"SLOW": "0.05"}, own_terminal=True)
    when_an_epoch_is_over(tmp_path)
    pids = children(running.pid)
    os.killpg(running.pid, signal.SIGINT)
    since = time.monotonic()
    assert "done: 6" not in ended(running)
    assert time.monotonic() - since < 20  # it takes half a second
    assert running.returncode
    assert len(pids) == 2
    while any(map(is_running, pids)):
        assert time.monotonic() - since < 20, "a rank stays behind"
        time.sleep(0.05)
    assert "done: 6 epochs on 1 ranks" in ended(job(tmp_path, 1))
    assert_nothing_lost(tmp_path, undisturbed)


@pytest.mark.thorough
def test_sigusr1_lets_a_long_step_end(tmp_path: Path, undisturbed: dict[str, np.ndarray]) -> None:
    """mpiexec hands it on, and does no more."""
    running = job(tmp_path, 2, SLOW="0.8")
    when_an_epoch_is_over(tmp_path)
    os.kill(running.pid, signal.SIGUSR1)
    text = ended(running)
    assert running.returncode == 0, text
    assert text.count("train.fit: interrupted after 1 of 6 epochs") == 1
    assert "done: 1 epochs on 2 ranks, interrupted: True" in text
    assert "done: 6 epochs on 1 ranks" in ended(job(tmp_path, 1))
    assert_nothing_lost(tmp_path, undisturbed)


KILLS = 20 if os.environ.get("TENSORGRAD_THOROUGH") else 5  # each takes 7 s


@pytest.mark.thorough
def test_killed_at_random(tmp_path: Path, undisturbed: dict[str, np.ndarray]) -> None:
    """A rank of a job, which is slow so that there is time for it, is killed at a random moment, again and again; each goes on
    from the file that the one before has left, on another number of ranks. Nothing is lost."""
    rng = np.random.default_rng(0)
    done = 0
    while done < KILLS:
        size = int(rng.integers(2, 4))
        running = job(tmp_path, size, SLOW="0.3")
        time.sleep(float(rng.uniform(1, 8)))
        pids = children(running.pid)
        if pids and running.poll() is None:
            os.kill(int(rng.choice(pids)), signal.SIGKILL)
            done += 1
        text = ended(running)
        assert "done" in text or running.returncode, text
        if "done" in text:  # it was faster: once more from the beginning
            (tmp_path / "job.npz").unlink()
    ended(job(tmp_path, 2))
    assert_nothing_lost(tmp_path, undisturbed)


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie, by Linux's files."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The ranks that a process has started, by Linux's files."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):  # it has ended
            continue
        if parent == pid and b"tests.distributed.job" in command:
            found.append(int(folder.name))
    return found
