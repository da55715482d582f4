"""Files that are written by several at once, that nobody has finished, and that lie where nothing can be put in their place."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, data, draw, nn, onnx, train
from tensorgrad.core import files
from tensorgrad.core.files import replacing
from tensorgrad.errors import ArgumentError
from tests.test_house import modules
from tests.writers import WRITERS, write_all

ROOT = Path(__file__).resolve().parent.parent


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    """Processes and threads write everything that there is to write, and what is read is always the whole of one of them."""
    pytest.importorskip("pooch", reason="needs pooch: pip install pooch")
    numbers = (10, 20)
    command = [sys.executable, "-m", "tests.writers", str(tmp_path)]
    environment = {**os.environ, "PYTHONWARNINGS": "error", "TENSORGRAD_NO_NUMBA": "1"}
    processes = [
        subprocess.Popen([*command, str(n), "3"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for n in numbers
    ]
    seen: dict[str, set[int]] = {name: set() for name in WRITERS}
    reads = 0
    end = time.monotonic() + 120
    while any(p.poll() is None for p in processes):
        assert time.monotonic() < end
        for name, (_, read) in WRITERS.items():
            if (tmp_path / name).exists():
                found = read(tmp_path / name)
                assert len(found) == 1, (name, found)
                seen[name] |= found
                reads += 1
    assert [(p.communicate()[1], p.returncode) for p in processes] == [("", 0)] * len(processes)
    assert reads > len(WRITERS)
    assert all(found <= {10, 11, 20, 21} for found in seen.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(WRITERS)


def test_threads_that_write_one_file(tmp_path: Path) -> None:
    """Twenty at once, none of which fails; the file is that of the one that ended last."""
    path, ended, lock = tmp_path / "a", [], threading.Lock()
    start = threading.Barrier(20)

    def write(i: int) -> None:
        start.wait(60)
        with replacing(path, durable=False) as file:
            for _ in range(50):
                file.write(b"%d\n" % i * 1000)
            lock.acquire()
            ended.append(i)
        lock.release()

    threads = [threading.Thread(target=write, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert path.read_bytes() == b"%d\n" % ended[-1] * 50_000
    assert (len(ended), os.listdir(tmp_path)) == (20, ["a"])


def test_what_a_killed_process_left_goes_with_the_next_file(tmp_path: Path) -> None:
    """And what somebody is writing, or what is not the library's, stays."""
    code = (
        "import os, signal, sys; from tensorgrad.core.files import replacing\n"
        "with replacing(sys.argv[1]) as file: file.write(bytes(9)); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "a"
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False).returncode < 0
    (left,) = os.listdir(tmp_path)
    assert left.startswith(files.BEGIN)
    (tmp_path / ".other.tmp").touch()
    with replacing(tmp_path / "b") as slow:
        assert len(os.listdir(tmp_path)) == 3
        slow.write(b"b")
        with replacing(path) as file:
            file.write(b"a")
        assert sorted(os.listdir(tmp_path)) == sorted([".other.tmp", "a", Path(slow.name).name])
    assert sorted(os.listdir(tmp_path)) == [".other.tmp", "a", "b"]


def test_one_that_was_cleared_away_before_it_was_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another name takes its place."""
    lock, taken = files._locked, []

    def late(file: object, *, wait: bool = False) -> bool:
        if not taken:
            taken.extend(os.listdir(tmp_path))
            files_before = [p for p in tmp_path.iterdir() if p.name.startswith(files.BEGIN)]
            files_before[0].unlink()
        return lock(file, wait=wait)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "_locked", late)
    with replacing(tmp_path / "a") as file:
        file.write(b"a")
    assert len(taken) == 1
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_looked_at_stays_locked_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a child that was forked meanwhile, which has it open as a duplicate has: its writer may be waiting."""
    fcntl = pytest.importorskip("fcntl", reason="needs fcntl: run it on Linux or macOS")
    path, children = tmp_path / f"{files.BEGIN}0{files.END}", []
    path.touch()
    monkeypatch.setattr(files, "_is_at", lambda file, name: bool(children.append(os.dup(file.fileno()))))
    files.clear(tmp_path)
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(*children)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions(tmp_path: Path, umask: int) -> None:
    """Of a new file those that open() gives it; of one that is replaced those that it had."""
    before = os.umask(umask)
    try:
        train.save(tmp_path / "a.npz", extra=1)
        train.History({"loss": [1.0]}).to_csv(tmp_path / "a.csv")
        (tmp_path / "opened").touch()
    finally:
        os.umask(before)
    expected = stat.S_IMODE((tmp_path / "opened").stat().st_mode)
    assert expected == 0o666 & ~umask
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {expected}
    (tmp_path / "a.npz").chmod(0o640)
    train.save(tmp_path / "a.npz", extra=2)
    assert stat.S_IMODE((tmp_path / "a.npz").stat().st_mode) == 0o640


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")

    def half() -> None:
        with replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert (os.listdir(tmp_path), (tmp_path / "a").read_text()) == (["a"], "before")
    with pytest.raises(FileNotFoundError, match=r"nowhere'$"), replacing(tmp_path / "nowhere" / "a"):
        pass


def test_the_longest_name(tmp_path: Path) -> None:
    name = "a" * 251 + ".npz"
    train.save(tmp_path / name, extra=1)
    assert train.load(tmp_path / name)["extra"] == 1


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    """A pipe is not replaced by a file, nor would a device be, which is not for a test to risk."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    train.History({"loss": [1.0]}).to_csv(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(60)
    assert read == ["loss\n1.0\n"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    (tmp_path / f"{files.BEGIN}0{files.END}").touch()
    write_all(tmp_path, 1, 1)
    assert sorted(os.listdir(tmp_path)) == sorted([f"{files.BEGIN}0{files.END}", *WRITERS])


def test_nothing_else_writes_files() -> None:
    """Every module of the package that opens a file to write does so by `replacing`."""
    found = []
    for name, path in modules().items():
        if name in ("tensorgrad.core.files", "tensorgrad.kernels.cache"):
            continue  # what is no file in the folder of kernels, such as a pipe, is replaced, not written to
        text = path.read_text()
        if not re.search(r"open\(|write_text|write_bytes|mkstemp|NamedTemporaryFile|savez|savefig", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
            opens = called == "open" and any(isinstance(m, str) and set(m) & set("wax+") and len(m) < 4 for m in modes)
            if opens or called in ("write_text", "write_bytes", "mkstemp", "NamedTemporaryFile", "savez", "savefig"):
                found.append(f"{name} {called}")
    kept = {"tensorgrad.data.storage open": "a member of an archive", "tensorgrad.draw.shown savefig": "to memory"}
    assert sorted(found) == sorted(kept)


WITH_A_PATH: dict[str, Callable[[Any], Any]] = {
    "read_csv": data.read_csv,
    "read_idx": data.read_idx,
    "read_npz": data.read_npz,
    "read_safetensors": data.read_safetensors,
    "write_safetensors": lambda path: data.write_safetensors(path, {}),
    "train.save": train.save,
    "train.load": train.load,
    "Checkpoint": train.Checkpoint,
    "CSVLogger": train.CSVLogger,
    "JSONLinesLogger": train.JSONLinesLogger,
    "History.to_csv": lambda path: train.History().to_csv(path),
    "onnx.load": onnx.load,
    "onnx.export": lambda path: onnx.export(nn.Linear(1, 1), np.ones((2, 1), "f"), path),
    "Drawing.save": lambda path: draw.graph(Tensor(1.0, requires_grad=True) * 2).save(path),
}


@pytest.mark.parametrize("name", WITH_A_PATH)
def test_what_is_no_path_is_refused_by_name(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name}: path must be a file path, a str or a Path, got 3$"):
        WITH_A_PATH[name](3)
    with pytest.raises(ArgumentError, match=rf"^{name}: 'a\\x00' is not a valid file name$"):
        WITH_A_PATH[name]("a\0")
