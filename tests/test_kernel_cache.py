"""The folder of compiled kernels, in every state and of every owner: the work goes on, nothing foreign is run, one warning."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorgrad.models import MLPClassifier

import tensorgrad
from tensorgrad import data, nn, optim, train
from tensorgrad.kernels import build, cache, common, loops, native
from tensorgrad.kernels.chain import Chain, Operand
from tensorgrad.nn import functional as F
from tests.compiled import forget_kernels

pytest.importorskip("numba", reason="needs Numba: pip install numba")

CHAIN = Chain.of(lambda x: (x * 2 + 1,), [Operand("full", "float32")])
ADVICE = "Delete it, or set TENSORGRAD_CACHE to a folder that only you can write to"


@contextmanager
def new_process() -> Iterator[list[warnings.WarningMessage]]:
    """As in a process that has no kernels yet; what it is warned of."""
    forget()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield seen
    forget()


def forget() -> None:
    forget_kernels()
    common.one_step.cache_clear()
    sys.modules.pop("tensorgrad.kernels.fast", None)
    cache._warned.clear()


def one_kernel() -> tuple[float, int]:
    """What one kernel computes, and how often it was read from the folder."""
    compiled, compile_one = [], loops.Loop.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops.Loop, "compile", lambda *given: compiled.append(given) or compile_one(*given))
        kernel: Any = build.numba_kernel(CHAIN, (), True)
        x = np.ones(3, np.float32)
        kernel(x, x)
    return float(x.sum()), int(not compiled)


def small_net() -> nn.Module:
    tensorgrad.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


X = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def fitted() -> float:
    net = small_net()
    loader = data.DataLoader(X, Y, batch_size=20, rng=0)
    return train.fit(net, F.cross_entropy, optim.Adam(net.parameters()), loader, 2, progress=False)["loss"][-1]


def compiled() -> float:
    net = small_net()
    optimiser = optim.SGD(net.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    replayed = tensorgrad.compile(step)
    return [replayed(X, Y).item() for _ in range(4)][-1]


def estimated() -> float:
    return float(MLPClassifier((16,), tol=1e9, n_iter_no_change=2, random_state=0).fit(X, Y).loss_)


def eager() -> float:
    net = small_net()
    loss = F.cross_entropy(net(tensorgrad.Tensor(X)), Y)
    loss.backward()
    return loss.item() + float(next(iter(net.parameters())).grad.data.sum())


WORK: dict[str, Callable[[], float]] = {"fit": fitted, "compile": compiled, "estimator": estimated, "eager": eager}

# States of the folder: what is done to one that is filled. All but the first are trouble.


def spoil(change: Callable[[Path], Any]) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def every_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
        for path in folder.iterdir():
            change(path)

    return every_file


def flip(path: Path) -> None:
    """One bit, in the machine code."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def instead(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def replaced(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return replaced


def link(path: Path) -> None:
    """The file is elsewhere."""
    elsewhere = path.parent.parent / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def refuse(number: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """The folder is empty, and the system refuses to make a file in it."""

    def patched(folder: Path, patch: pytest.MonkeyPatch) -> None:
        def mkstemp(**_: Any) -> Any:
            raise OSError(number, os.strerror(number), str(folder))

        shutil.rmtree(folder)
        patch.setattr(cache.tempfile, "mkstemp", mkstemp)  # type: ignore[attr-defined]

    return patched


class Full:
    """A file on a disk that is full: it can be made, not written."""

    def __init__(self, descriptor: int) -> None:
        os.close(descriptor)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(folder)
    patch.setattr(cache, "open", lambda f, mode, **kw: Full(f) if mode == "wb" else open(f, mode, **kw), raising=False)  # noqa: SIM115


def no_home(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for name in ("TENSORGRAD_CACHE", "XDG_CACHE_HOME"):
        patch.delenv(name, raising=False)
    patch.setattr(os.path, "expanduser", lambda path: path)


def of_another_user(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)


STATES: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {
    "good": lambda folder, patch: None,
    "absent": lambda folder, patch: shutil.rmtree(folder),
    "a file": lambda folder, patch: instead(Path.touch)(folder),
    "a link to nowhere": lambda folder, patch: instead(lambda p: p.symlink_to("nowhere"))(folder),
    "below a file": lambda folder, patch: patch.setenv("TENSORGRAD_CACHE", f"{__file__}/cache"),
    "unmakeable": lambda folder, patch: patch.setenv("TENSORGRAD_CACHE", "/proc/nowhere/cache"),
    "read-only": refuse(errno.EROFS),
    "not to be written": refuse(errno.EACCES),
    "full": full_disk,
    "no home": no_home,
    "of another user": of_another_user,
    "everybody's": lambda folder, patch: folder.chmod(0o777),
    "files cut off": spoil(lambda p: os.truncate(p, p.stat().st_size // 2)),
    "files cut off at once": spoil(lambda p: os.truncate(p, 25)),
    "files empty": spoil(lambda p: os.truncate(p, 0)),
    "files random": spoil(lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000))),
    "files with another bit": spoil(flip),
    "files with more": spoil(lambda p: p.write_bytes(p.read_bytes() + b".")),
    "files of text": spoil(lambda p: p.write_bytes(b"\xa1\xff" * 99)),
    "folders for files": spoil(instead(Path.mkdir)),
    "links for files": spoil(link),
    "pipes for files": spoil(instead(os.mkfifo)),
    "files everybody's": spoil(lambda p: p.chmod(0o666)),
}
HEALTHY = ("good", "absent")
HEALED = [name for name in STATES if name.startswith(("files", "links", "pipes"))]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, tuple[Any, Path]]:
    """For each kind of work what comes of it, and the folder that it leaves."""
    return {}


def in_state(
    state: str, work: Callable[[], Any], filled: dict[Any, tuple[Any, Path]], tmp_path: Path, patch: pytest.MonkeyPatch
) -> tuple[Any, Any, list[str]]:
    """What comes of the work with a good folder, and with one in that state; what was warned of."""
    if work not in filled:
        made = Path(tempfile.mkdtemp())
        patch.setenv("TENSORGRAD_CACHE", str(made))
        with new_process() as seen:
            filled[work] = work(), made
        assert not seen
    expected, made = filled[work]
    folder = tmp_path / "cache"
    shutil.copytree(made, folder)
    patch.setenv("TENSORGRAD_CACHE", str(folder))
    with pytest.MonkeyPatch.context() as inner:
        STATES[state](folder, inner)
        with new_process() as seen:
            found = work()
        name = cache.folder_name()
    said = [str(w.message) for w in seen]
    assert all(f"the folder of compiled kernels, {name}, cannot be used (" in s and ADVICE in s for s in said), said
    assert all(Path(w.filename).name == Path(__file__).name for w in seen)
    return expected, found, said


@pytest.mark.parametrize("state", STATES)
def test_one_kernel(state: str, filled: dict[Any, tuple[Any, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes what it should; it is read where it may be, and else there is one warning. What was damaged is mended."""
    (expected, _), (found, hits), said = in_state(state, one_kernel, filled, tmp_path, monkeypatch)
    assert found == expected == 9
    assert len(said) == (state not in HEALTHY)
    assert hits == (state == "good")
    if state in HEALED:
        with new_process() as seen:
            assert one_kernel() == (9, 1)
        assert not seen
    if state in HEALTHY:
        assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    left = tmp_path / "cache"
    assert not left.is_dir() or not [p for p in left.iterdir() if p.name.startswith(".")]


@pytest.mark.thorough
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(
    "state", ["a file", "unmakeable", "full", "everybody's", "files cut off", "files random", "folders for files"]
)
def test_all_kernels(
    state: str, work: str, filled: dict[Any, tuple[Any, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers, to the last bit, and one warning."""
    expected, found, said = in_state(state, WORK[work], filled, tmp_path, monkeypatch)
    assert found == expected
    assert len(said) == (state not in HEALTHY)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_folder_is_made_for_its_user_alone(mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is above it."""
    monkeypatch.setenv("TENSORGRAD_CACHE", str(tmp_path / "a" / "b" / "c"))
    before = os.umask(mask)
    try:
        folder = cache.cache_folder()
    finally:
        os.umask(before)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3


class Planted:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("EXECUTED",)


@pytest.mark.parametrize("owner", ["mine", "another's"])
@pytest.mark.parametrize("what", ["folder", "files"])
def test_what_others_may_have_written_is_not_run(
    what: str, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every mode of the folder, and of the files in it, which hold a pickle that would be run, with the right checksum."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TENSORGRAD_CACHE", str(folder))
    paths = folder / "planted-1.nbc"
    if owner == "another's" and os.geteuid():
        pytest.skip("needs root: run it in a container")
    for mode in range(0o700, 0o1000):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        cache.write(paths, pickle.dumps(Planted()))
        changed = folder if what == "folder" else paths
        changed.chmod(mode)
        if owner == "another's":
            os.chown(changed, 65534, 65534)
        ours = owner == "mine" and not mode & 0o022
        cache._warned.clear()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with cache.errors_as_warnings():
                pickle.loads(cache.read(cache.kernel_folder() / paths.name) or b"")
        assert capfd.readouterr().out == "EXECUTED\n" * ours, oct(mode)
        assert [w.category for w in seen] == [UserWarning] * (not ours), oct(mode)
    cache._warned.clear()


def test_a_planted_file_is_no_kernel(
    filled: dict[Any, tuple[Any, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever comes to be in the place of a kernel: a pickle, or one with its checksum in a folder that is everybody's."""
    plain = spoil(lambda p: p.write_bytes(pickle.dumps(Planted())))
    monkeypatch.setitem(STATES, "planted", plain)
    monkeypatch.setitem(
        STATES,
        "planted well",
        lambda folder, patch: (folder.chmod(0o777), spoil(lambda p: cache.write(p, pickle.dumps(Planted())))(folder, patch)),
    )
    for number, state in enumerate(("planted", "planted well")):
        _, (found, hits), said = in_state(state, one_kernel, filled, tmp_path / str(number), monkeypatch)
        assert (found, hits, len(said)) == (9, 0, 1)
    assert "EXECUTED" not in capfd.readouterr().out


def test_another_source_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose code has changed, or what it calls, is compiled anew."""
    monkeypatch.setenv("TENSORGRAD_CACHE", str(tmp_path / "cache"))

    class Codegen:
        def magic_tuple(self) -> tuple[str, ...]:
            return ("machine",)

    def path(source: str, signature: str) -> Path:
        return cache.FunctionCache("kernel", lambda: source).path(signature, Codegen())

    assert len({path(source, signature) for source in ("a", "b") for signature in ("f", "d")}) == 4
    assert path("a", "f") == path("a", "f")


def test_another_numpy_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too new for Numba is found to be so at once, not by the first array that lies otherwise than others."""
    monkeypatch.setenv("TENSORGRAD_CACHE", str(tmp_path / "cache"))
    with new_process():
        assert not one_kernel()[1]
    monkeypatch.setattr(np, "__version__", "999.0")
    monkeypatch.setattr(loops, "import_numba", lambda: importlib.import_module("no_numba_for_that"))
    with new_process() as seen:
        assert build.numba_kernel(CHAIN, (), True) is None
        assert eager() > 0
    assert [str(w.message)[:41] for w in seen] == ["Numba failed (ModuleNotFoundError: No mod"]


def test_two_processes_and_threads_write_one_file(tmp_path: Path) -> None:
    """It is whole whenever it is read, and nothing is left beside it."""
    path, contents = tmp_path / "k.nbc", [bytes([i]) * 100_000 for i in range(4)]
    cache.write(path, contents[0])
    wrong: list[Any] = []

    def writer(content: bytes) -> None:
        try:
            for _ in range(30):
                cache.write(path, content)
                wrong.extend({cache.read(path)} - set(contents))
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=writer, args=(c,)) for c in contents]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert [p.name for p in tmp_path.iterdir()] == ["k.nbc"]


@pytest.mark.parametrize("error", [ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError, ImportError])
def test_numba_that_fails_is_no_error_of_the_operation(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy does it, and one warning says why."""
    expected = eager()

    def fail(*_: Any) -> Any:
        raise error("broken")

    monkeypatch.setenv("TENSORGRAD_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "jit", fail)
    monkeypatch.setattr(build, "fast_kernel", lambda name, *arrays: build.built(lambda: fail(), *arrays))
    with new_process() as seen:
        assert eager() == pytest.approx(expected, rel=1e-5)  # by other kernels: to rounding
        assert compiled() > 0
    (only,) = [str(w.message) for w in seen]
    assert only.startswith(f"Numba failed ({error.__name__}: broken), and NumPy is used instead")


def test_numba_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 0.1 or less')")
    code = (
        "import numpy as np, tensorgrad as tg; x = tg.Tensor(np.ones((200, 200)), True); x.relu().sum().backward()\n"
        "x.softmax(); print(x.grad.data.sum())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "40000.0\n"), ended.stderr
    assert ended.stderr.count("Warning: Numba failed (ImportError: Numba needs NumPy 0.1 or less)") == 1


TOLD = """
import numpy as np
from tensorgrad.kernels import build, cache, loops, native
kernel = build.row_sum_kernel(np.dtype("f"))
y = np.empty(2, "f")
if kernel is not None:
    kernel(np.ones((2, 3), "f"), y)
print(kernel is not None, kernel is not None and any(kernel.codes.values()), y.tolist() if kernel else "", len(cache._warned))
"""


def test_what_numba_is_told(tmp_path: Path) -> None:
    """To optimise less, to look for indices out of bounds, not to compile: it is done, and kept apart from the rest."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    for told in ({}, {"NUMBA_OPT": "0"}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_DISABLE_JIT": "0"}):
        before = set(os.listdir(tmp_path))
        environment = {**base, **told, "TENSORGRAD_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, ""), told
        is_off = told.get("NUMBA_DISABLE_JIT") == "1"
        has_code = native.machine() is not None
        assert ended.stdout == ("False False  0\n" if is_off else f"True {has_code} [3.0, 3.0] 0\n"), told
        assert (set(os.listdir(tmp_path)) == before) == is_off, told


AS_ANOTHER = """
import os, sys, tempfile
import numpy as np
from numba import njit
import tensorgrad
from tensorgrad.kernels import build, cache, loops, native
from tensorgrad.kernels.chain import Chain, Operand
njit(lambda x: x + 1)(np.ones(1))  # what Python itself loads from root's home is loaded
os.environ["TENSORGRAD_CACHE"] = tempfile.mkdtemp()
native.machine(), loops.numba_version()
os.setgid(65534), os.setuid(65534)
os.environ.pop("HOME", None)
os.environ.pop("XDG_CACHE_HOME", None)
compile_one = loops.Loop.compile
assert tensorgrad.__file__.startswith(sys.argv[1])
for folder in (*sys.argv[2:], ""):
    os.environ["TENSORGRAD_CACHE"] = folder
    build.numba_kernel.cache_clear()
    compiled = []
    loops.Loop.compile = lambda *given: compiled.append(given) or compile_one(*given)
    kernel = build.numba_kernel(Chain.of(lambda x: (x * 2 + 1,), [Operand("full", "float32")]), (), True)
    x = np.ones(3, np.float32)
    kernel(x, x)
    print(x.sum(), int(not compiled), len(cache._warned))
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root: run it in a container")
def test_a_user_without_a_home(tmp_path: Path) -> None:
    """The package in a folder of root's, in which nothing can be written; with a folder that can be, and with none."""
    site = tmp_path / "site"
    shutil.copytree(Path(tensorgrad.__file__).parent, site / "tensorgrad", ignore=shutil.ignore_patterns("__pycache__"))
    writable = tmp_path / "writable"
    writable.mkdir(mode=0o700)
    os.chown(writable, 65534, 65534)
    for folder in (*tmp_path.parents, tmp_path):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    command = [
        sys.executable,
        "-B",
        "-W",
        "always",
        "-c",
        AS_ANOTHER,
        str(site),
        str(writable),
        str(tmp_path / "no"),
        str(writable),
    ]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    ended = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "9.0 0 0\n9.0 0 1\n9.0 1 1\n9.0 0 2\n"), ended.stderr
    assert ended.stderr.count("the folder of compiled kernels") == 2, ended.stderr
    assert len(list(writable.iterdir())) == 1
