"""Checkpoints: bit for bit the same training, whatever happens in between; and files that are not what they should be."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.data import storage
from tensorgrad.errors import CheckpointError, DataError, DTypeError
from tensorgrad.nn import functional as F
from tensorgrad.ops import random
from tensorgrad.train import checkpoint
from tensorgrad.train.state import EPOCH, STEP, State
from tests.training import EPOCHS, Training, measured

SUFFIXES = [".npz", ".safetensors"]
BATCHES = len(Training("SGD").loader)


@pytest.fixture(scope="module", params=["SGD", "Adam"])
def uninterrupted(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], dict[str, list[Any]]]:
    training = Training(request.param)
    history = training.fit()
    assert 1 <= training.stopping.best_epoch < len(history["loss"])  # so that the best parameters are others than the last
    return request.param, training.state(), measured(history)


# The same bits


@settings(max_examples=settings().max_examples // 4)  # each trains a network several times
@given(stops=st.lists(st.integers(0, EPOCHS * BATCHES - 1), max_size=3), suffix=st.sampled_from(SUFFIXES))
def test_interrupted_anywhere(
    tmp_path_factory: pytest.TempPathFactory, uninterrupted: Any, suffix: str, stops: list[int]
) -> None:
    """Ctrl-C at some batches, each time the rest in objects made anew: the same bits, the same history."""
    name, state, history = uninterrupted
    path = tmp_path_factory.mktemp("interrupted") / f"run{suffix}"
    epochs, done = len(history["loss"]), 0  # SGD's is stopped before the last
    for stop in [*sorted({stop % (epochs * BATCHES) for stop in stops}), None]:
        training = Training(name, seed=50 if path.exists() else 0)  # what a resumed one starts from does not matter
        training.loader.press = None if stop is None else stop - done
        found = training.fit(checkpoint=path, resume=True)
        assert found.interrupted is (stop is not None)
        assert len(found.get("loss", [])) == (epochs if stop is None else stop // BATCHES)
        done = 0 if stop is None else stop + 1
    assert training.state() == state
    assert measured(found) == history
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_resumed_when_it_had_ended(tmp_path: Path, uninterrupted: Any) -> None:
    """By its epochs, and by a callback: nothing is trained any more, and the best parameters are those that are there."""
    name, state, history = uninterrupted
    path = tmp_path / "run.npz"
    Training(name).fit(checkpoint=path)
    training = Training(name, seed=50)
    assert measured(training.fit(resume=path)) == history
    assert training.state() == state

    def stop(run: train.Run) -> None:
        run.stop = "enough" if run.epoch == 2 else ""

    first = Training(name).fit(stop, checkpoint=path)
    second = Training(name).fit(checkpoint=path, resume=True)
    assert (len(second["loss"]), second.stopped) == (2, "enough")
    assert dict(second) == dict(first)


def test_logs_of_what_was_lost_are_lost(tmp_path: Path) -> None:
    """The checkpoint is of epoch 2, the logs have 3 epochs when the error comes; the resumed training writes them once."""
    files = [tmp_path / "log.csv", tmp_path / "log.jsonl"]

    def fail(run: train.Run) -> None:
        if run.epoch == 3:
            raise ZeroDivisionError

    def loggers() -> list[train.Callback]:
        return [train.CSVLogger(files[0]), train.JSONLinesLogger(files[1])]

    path = tmp_path / "run.npz"
    with pytest.raises(ZeroDivisionError):
        Training("SGD").fit(*loggers(), fail, train.Checkpoint(path, every=2))
    history = Training("SGD").fit(*loggers(), resume=path)
    assert history["epoch"] == list(range(1, len(history["epoch"]) + 1))
    assert [json.loads(line)["epoch"] for line in files[1].read_text().splitlines()] == history["epoch"]
    history.to_csv(tmp_path / "whole.csv")
    assert files[0].read_text() == (tmp_path / "whole.csv").read_text()


def test_checkpoint_every_and_best(tmp_path: Path) -> None:
    written: list[tuple[int, int, int]] = []
    every, best = train.Checkpoint(tmp_path / "e.npz", every=2), train.Checkpoint(tmp_path / "b.npz", best_only="val_loss")

    class Watch(train.Checkpoint):  # after the others
        def on_epoch_end(self, run: train.Run) -> None:
            epochs = [train.load(c.path)["epoch"] if c.path.exists() else 0 for c in (every, best)]
            written.append((run.epoch, *epochs))

        def on_end(self, run: train.Run) -> None:
            pass

    training = Training("SGD")
    history = training.fit(every, best, Watch(tmp_path / "never.npz"))
    values = history["val_loss"]
    assert written == [(n, n // 2 * 2, int(np.argmin(values[:n])) + 1) for n in range(1, len(values) + 1)]
    assert (train.load(every.path)["epoch"], train.load(best.path)["epoch"]) == (len(values), training.stopping.best_epoch)
    other = Training("SGD", seed=9)
    train.load(best.path, model=other.model)
    for path, array in training.model.state_dict().items():  # where early stopping has put back the best
        np.testing.assert_array_equal(array, other.model.state_dict()[path])


def test_signals(tmp_path: Path) -> None:
    """Killed in the middle of writing, killed at any time, interrupted by Ctrl-C, resumed: the bits of one that was not."""
    path = tmp_path / "run.safetensors"
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "error", "TENSORGRAD_NO_NUMBA": "1"}

    def start(path: Path, kill_in_sync: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.training", str(path), "60", str(kill_in_sync)]
        root = Path(__file__).parent.parent
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=root)

    def signalled_at(epoch: int, number: int) -> tuple[int, str]:
        with start(path) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == epoch:
                    break
            process.send_signal(number)
            rest = process.stdout.read()
            return process.wait(), rest

    (apart := tmp_path / "apart").mkdir()  # where it clears away nothing of the others'
    with start(apart / "whole.npz") as whole:
        with start(path, kill_in_sync=7) as process:  # two for each file: it, and its folder
            lines = process.communicate()[0].split()
        assert (process.returncode, lines[-1]) == (-signal.SIGKILL, "4")
        assert train.load(path)["epoch"] == 3
        assert list(tmp_path.glob(".*"))  # nobody was left to remove it
        code, _ = signalled_at(15, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert train.load(path)["epoch"] >= 14
        code, rest = signalled_at(30, signal.SIGINT)
        assert (code, rest.split()[-2]) == (0, "interrupted")
        with start(path) as last:
            end = last.communicate()[0].splitlines()[-1]
        expected, errors = whole.communicate()
    assert expected.splitlines()[-1] == end, errors
    assert end.startswith("ended")
    assert not list(tmp_path.glob(".*"))


# What a file holds

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = hnp.arrays(
    st.sampled_from(["?", "u1", "<i2", ">i4", "i8", "f2", ">f4", "f8"]), hnp.array_shapes(min_dims=0, min_side=0, max_side=3)
)
KEYS = st.text(st.characters(exclude_characters="/"), max_size=4).filter(lambda k: k.isprintable() and k != "$array")
NESTS = st.recursive(SCALARS | ARRAYS, lambda n: st.lists(n, max_size=3) | st.dictionaries(KEYS, n, max_size=3), max_leaves=6)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return (
            a.shape == b.shape and a.dtype == b.dtype.newbyteorder("=") and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    return type(a) is type(b) and (a == b or (a != a and b != b))


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(extra=NESTS)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, suffix: str, extra: Any) -> None:
    path = tmp_path_factory.mktemp("nests") / f"a{suffix}"
    train.save(path, extra=extra)
    assert same(train.load(path).get("extra"), extra)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parts(tmp_path: Path, suffix: str) -> None:
    """Model, optimiser, schedule, loader and history, into objects made anew; read by others too."""
    one, two = Training("Adam"), Training("Adam", seed=9)
    history = one.fit()
    path = tmp_path / f"parts{suffix}"
    train.save(
        path,
        model=one.model,
        optimiser=one.optimiser,
        schedule=one.schedule,
        loader=one.loader,
        history=history,
        extra={"k": 3},
    )
    contents = train.load(path, model=two.model, optimiser=two.optimiser, schedule=two.schedule, loader=two.loader)
    for own, loaded in ((one.model, two.model), (one.optimiser, two.optimiser), (one.schedule, two.schedule)):
        assert same(to_lists(own.state_dict()), to_lists(loaded.state_dict()))
    assert str(one.loader.state_dict()) == str(two.loader.state_dict())
    assert (contents["history"], contents["extra"]) == (dict(history), {"k": 3})
    others = dict(np.load(path, allow_pickle=False)) if suffix == ".npz" else safetensors.numpy.load_file(path)
    for name, array in one.model.state_dict().items():
        np.testing.assert_array_equal(others[f"model/{name}"], array)


def to_lists(value: Any) -> Any:
    return {k: to_lists(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "view",
    [lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::2], lambda a: np.broadcast_to(a[0], (3, 4)), np.asfortranarray],
    ids=["transposed", "backwards", "every other", "broadcast", "Fortran"],
)
def test_arrays_that_are_not_contiguous(tmp_path: Path, suffix: str, view: Callable[[Any], Any]) -> None:
    array = view(np.arange(12.0).reshape(3, 4))
    assert not array.flags.c_contiguous
    path = tmp_path / f"a{suffix}"
    train.save(path, extra=array)
    np.testing.assert_array_equal(train.load(path)["extra"], array)
    others = np.load(path) if suffix == ".npz" else safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(others["extra"], array)


@given(arrays=st.dictionaries(st.text("ab", min_size=1), ARRAYS, max_size=3), fortran=st.booleans(), compressed=st.booleans())
def test_files_of_others(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray], fortran: bool, compressed: bool
) -> None:
    folder = tmp_path_factory.mktemp("others")
    arrays = {name: np.asarray(a, order="F" if fortran else "C") for name, a in arrays.items()}
    (np.savez_compressed if compressed else np.savez)(folder / "a.npz", **arrays)
    found = data.read_npz(folder / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in found.items():
        assert array.dtype == arrays[name].dtype.newbyteorder("=")
        np.testing.assert_array_equal(array, arrays[name])
    little = {name: np.array(a, a.dtype.newbyteorder("<"), order="C") for name, a in arrays.items()}  # it corrupts others
    safetensors.numpy.save_file(little, folder / "a.safetensors", {"by": "others"})
    found, metadata = storage.contents_of(folder / "a.safetensors")
    assert metadata == {"by": "others"}
    assert same(found, little)


# Files that are damaged


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """A small checkpoint in both formats: its bytes and its contents."""
    found = {}
    for suffix in SUFFIXES:
        path = tmp_path_factory.mktemp("small") / f"a{suffix}"
        model = nn.Linear(2, 3, rng=np.random.default_rng(0))
        train.save(path, model=model, optimiser=optim.Adam(model.parameters()), extra=[1, "two", {"three": None}])
        found[suffix] = path.read_bytes(), train.load(path)
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(where=st.data())
def test_a_flipped_bit(tmp_path_factory: pytest.TempPathFactory, small: Any, suffix: str, where: st.DataObject) -> None:
    """Refused, or harmless; each example tries one bit of every 128 bytes."""
    content, contents = small[suffix]
    path = tmp_path_factory.getbasetemp() / f"flipped{suffix}"
    offset, bit = where.draw(st.integers(0, 127)), where.draw(st.integers(0, 7))
    messages = []
    for at in range(offset, len(content), 128):
        damaged = bytearray(content)
        damaged[at] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert same(train.load(path), contents)
        except CheckpointError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_off(tmp_path: Path, small: Any, suffix: str) -> None:
    """At any length; or with something left out in the middle."""
    content, _ = small[suffix]
    path = tmp_path / f"cut{suffix}"
    for length in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.\w+: "):
            train.load(path)
        path.write_bytes(content[: length // 2] + content[length // 2 + 1 :])
        with pytest.raises(CheckpointError, match=r"cut\.\w+: "):
            train.load(path)


class Unpickled:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle has been read",))


def zipped(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def npy(shape: str, descr: str = "<f4", content: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def savez(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def tensors(header: Any, content: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(shape: list[Any], begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HUGE = 10**12
BAD_NPZ = {
    "empty": (b"", "not an .npz file, it is empty"),
    "text": (b"epoch,loss\n1,0.5\n", r"not an .npz file, it starts with b'epoch,lo'"),
    "pickle": (pickle.dumps(Unpickled()), "not an .npz file, it is a pickle, which could run any code"),
    "npy": (npy("(1,)", content=bytes(4)), "not an .npz file, it is an .npy file"),
    "torch": (
        zipped(archive__pkl=pickle.dumps(Unpickled())),
        r"holds 'archive\.pkl', which is a pickle, and could run any code",
    ),
    "other zip": (zipped(a__txt=b"text"), r"holds 'a\.txt', which is not an .npy array"),
    "objects": (
        savez(a=np.array([Unpickled()], object)),
        r"a.npy has dtype '\|O', expected .* objects and pickles are not read",
    ),
    "records": (savez(a=np.zeros(2, "f4,i4")), r"a.npy has dtype \[\('f0', '<f4'\), .*expected numbers"),
    "of others": (savez(a=np.ones(3)), "has no metadata, so it was not written by tensorgrad"),
    "other metadata": (savez(metadata=np.ones(3)), "has no metadata, so it was not written by tensorgrad"),
    "no checksum": (savez(metadata=np.frombuffer(b'{"format": "x"}', np.uint8)), "has no checksum, so it was not written"),
    "huge": (
        zipped(a__npy=npy(f"({HUGE}, {HUGE})", content=bytes(8))),
        r"a.npy declares \(10+, 10+\) of float32, which is \d+ bytes, but holds 8",
    ),
    "negative": (zipped(a__npy=npy("(-1, -2)", content=bytes(8))), "a.npy has no valid array header:"),
    "too short": (zipped(a__npy=npy("(3,)", content=bytes(8))), r"declares \(3,\) of float32, which is 12 bytes, but holds 8"),
    "too long": (zipped(a__npy=npy("(1,)", content=bytes(8))), r"declares \(1,\) of float32, which is 4 bytes, but holds 8"),
    "bomb": (
        zipped(zipfile.ZIP_DEFLATED, a__npy=npy("(50000000,)", "|u1", bytes(50_000_000))),
        "declares arrays of 50,000,128 b",
    ),
    "code": (zipped(a__npy=npy("__import__('os').abort()")), "a.npy has no valid array header:"),
    "later npy": (zipped(a__npy=b"\x93NUMPY\x09\x00" + bytes(64)), "a.npy is not an .npy array: it starts with"),
}
BAD_SAFETENSORS = {
    "empty": (b"", "not a .safetensors file, it is empty"),
    "pickle": (pickle.dumps(Unpickled()), "not a .safetensors file, it is a pickle, which could run any code"),
    "zip": (savez(a=np.ones(3)), "not a .safetensors file, it is an .npz or other zip file"),
    "huge header": (tensors({}, length=2**63), "not a .safetensors file"),
    "long header": (tensors({"a": 1}, length=90_000_000), "declares a header of 90,000,000 bytes, but the file has 16"),
    "not JSON": (tensors(b"{nonsense}"), "its header cannot be read"),
    "deep": (tensors(b"{" + b'"a":{' * 100_000), "its header cannot be read"),
    "a list": (tensors({"a": []}), "its header cannot be read"),
    "twice": (tensors(b'{"a": 1, "a": 2}'), "its header cannot be read: a name occurs twice"),
    "huge array": (tensors({"a": entry([HUGE], 0, 4 * HUGE)}, bytes(4)), "declares 4,000,000,000,0.. bytes, but the file has"),
    "huge shape": (
        tensors({"a": entry([HUGE, HUGE], 0, 4)}, bytes(4)),
        r"a declares shape \(10+, 10+\) of float32 in bytes 0 to 4",
    ),
    "many axes": (tensors({"a": entry([1] * 70, 0, 4)}, bytes(4)), "are not valid"),
    "negative": (tensors({"a": entry([-1], 0, 4)}, bytes(4)), "are not valid"),
    "a fraction": (tensors({"a": entry([1.0], 0, 4)}, bytes(4)), "are not valid"),
    "overlap": (
        tensors({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, bytes(6)),
        "b declares .* the previous array ends at 4",
    ),
    "gap": (tensors({"a": entry([1], 4, 8)}, bytes(8)), "a declares .* the previous array ends at 0"),
    "rest": (tensors({"a": entry([1], 0, 4)}, bytes(8)), "but the file has"),
    "dtype": (tensors({"a": entry([1], 0, 4, "F8_E4M3")}, bytes(4)), "a has dtype F8_E4M3, which is not supported, only BOOL"),
    "no dtype": (tensors({"a": entry([1], 0, 4, "F33")}, bytes(4)), "a has dtype F33, which is not supported"),
    "complex": (tensors({"a": entry([1], 0, 8, "C64")}, bytes(8)), "a has dtype C64, which is not supported"),
    "a list of dtypes": (tensors({"a": entry([1], 0, 4, ["F32"])}, bytes(4)), r"a has dtype \['F32'\], which is not supported"),
    "UTF-16": (tensors(json.dumps({"a": entry([1], 0, 4)}).encode("utf-16-le"), bytes(4)), "its header cannot be read"),
    "no shape": (tensors({"a": {"dtype": "F32"}}), "its header cannot be read: 'shape'"),
    "metadata": (tensors({"__metadata__": {"a": 1}}), "its header cannot be read: the metadata are not a dict of strings"),
    "of others": (safetensors.numpy.save({"a": np.ones(3)}), "has no checksum, so it was not written by tensorgrad"),
}


@contextmanager
def little_memory_and_time() -> Iterator[None]:
    tracemalloc.start()
    start = time.perf_counter()
    try:
        yield
        assert time.perf_counter() - start < 1
        assert tracemalloc.get_traced_memory()[1] < 4_000_000  # the header of a list of lists 100,000 deep is half a megabyte
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_another_kind(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    for content, message in (BAD_NPZ if suffix == ".npz" else BAD_SAFETENSORS).values():
        path.write_bytes(content)
        with little_memory_and_time(), pytest.raises(CheckpointError, match=rf"bad\{suffix}: .*{message}"):
            train.load(path)


def test_npz_of_others(tmp_path: Path) -> None:
    """Data sets: the same files, where they need no metadata, refused all the same."""
    path = tmp_path / "data.npz"
    for kind, (content, message) in BAD_NPZ.items():
        if kind in ("of others", "other metadata", "no checksum", "bomb"):
            continue
        path.write_bytes(content)
        with little_memory_and_time(), pytest.raises(DataError, match=message):
            data.read_npz(path)
    bomb = BAD_NPZ["bomb"][0]
    path.write_bytes(bomb)
    with (
        little_memory_and_time(),
        pytest.raises(DataError, match="declares arrays of 50,000,128 bytes, more than the 1,000,000"),
    ):
        data.read_npz(path, limit=1_000_000)
    with pytest.raises(FileNotFoundError):
        data.read_npz(tmp_path / "nowhere.npz")


def test_a_later_format(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    storage.write(path, {}, {"format": "tensorgrad checkpoint 9", "contents": "{}"})
    with pytest.raises(CheckpointError, match="has format 'tensorgrad checkpoint 9', expected 'tensorgrad checkpoint 1'"):
        train.load(path)
    storage.write(path, {}, {"format": "tensorgrad checkpoint 1", "contents": '{"a": {"$array": "b"}}'})
    with pytest.raises(CheckpointError, match=r"a\.npz: not a valid checkpoint: KeyError\('b'\)"):
        train.load(path)


# Writing


@contextmanager
def a_full_disk(nbytes: int) -> Iterator[None]:
    """Files can have so many bytes and no more; the system says so in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_write_that_fails(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before is there, and nothing else."""
    path = tmp_path / f"a{suffix}"
    train.save(path, extra=np.arange(3.0))
    before = path.read_bytes()
    message = rf"a\{suffix}: cannot be written: .*; the previous file is unchanged"
    with a_full_disk(9_000), pytest.raises(CheckpointError, match=message):
        train.save(path, extra=np.arange(100_000.0))
    for call in ("fsync", "replace"):

        def fails(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, call, fails)
            with pytest.raises(CheckpointError, match="No space left on device"):
                train.save(path, extra=1)
    with pytest.raises(CheckpointError, match=r"nowhere.* cannot be written: No such file or directory"):
        train.save(tmp_path / "nowhere" / f"a{suffix}", extra=1)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link.npz"
    link.symlink_to(tmp_path / "folder" / "a.npz")
    train.save(link, extra=1)
    assert link.is_symlink()
    assert train.load(tmp_path / "folder" / "a.npz")["extra"] == 1


def test_what_stands_where_in_files(tmp_path: Path) -> None:
    """The format: files that have been written have these names in them."""
    path, training, extra = tmp_path / "a.npz", Training("SGD"), Tensor(np.ones(2, np.float32), requires_grad=True)
    training.loader.press = BATCHES + 1
    training.optimiser = optim.SGD([*training.model.parameters(), extra], 0.5, momentum=0.9)
    training.schedule = optim.CostRise(training.optimiser)
    with pytest.warns(UserWarning, match=r"no gradient reached parameter 6 \(2,\)"):
        training.fit(checkpoint=path)
    contents = train.load(path)
    values = {f"{i}.{name}" for i in (0, 1, 4) for name in ("weight", "bias")} | {"1.running_mean", "1.running_var"}
    assert contents.keys() == {
        *("model", "loss", "others", "optimiser", "generators", "schedule", "loader"),
        *("callbacks", "history", "epoch", "stop", "record"),
    }
    assert contents["model"].keys() == values
    assert (contents["loss"], [*contents["others"]], contents["epoch"], contents["stop"]) == ({}, ["6"], 1, "")
    assert contents["optimiser"].keys() == {"type", "steps", "late", "groups", "state"}
    assert [[*slots] for slots in contents["optimiser"]["state"]] == [["velocity"]] * 7
    assert [[*state] for state in contents["generators"]] == [["generator", "gpus"]] * 2
    assert contents["schedule"]["type"] == "CostRise"
    assert contents["loader"].keys() == {"samples", "batch_size", "generator", "position", "order"}
    assert contents["record"].keys() == {"losses", "counts", "predictions", "targets", "seconds"}
    assert contents["callbacks"].keys() == {"EarlyStopping.0"}
    assert contents["callbacks"]["EarlyStopping.0"].keys() == {"best", "best_epoch", "values"}
    assert contents["callbacks"]["EarlyStopping.0"]["values"].keys() == {"model", "loss", "others"}


@pytest.mark.parametrize("parts", [STEP, EPOCH])
def test_what_was_taken_is_put_back(parts: tuple[str, ...]) -> None:
    """Whether by name or in few arrays: parameters, buffers, the optimiser's state, and what is drawn next."""
    training = Training("Adam")
    training.fit(epochs=1)  # so that there is something in every array
    state = State(training.model, F.cross_entropy, training.optimiser, loader=training.loader)

    def found() -> list[Any]:
        arrays = [*training.model.state_dict().values(), *(a for slots in training.optimiser.state for a in slots.values())]
        order = training.loader.rng.bit_generator.state if "loader" in parts else None
        drawn = [str(rng.bit_generator.state) for rng in (random.default(), training.model[5].rng)]
        return [[a.tobytes() for a in arrays], training.optimiser.steps, drawn, str(order)]

    before, taken = found(), state.take(*parts)
    training.fit(epochs=3)
    assert all(a != b for a, b in zip(before[0], found()[0], strict=True))
    state.put(taken)
    assert found() == before


# What does not fit


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: {"model": nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))},
            r"missing \['2.bias', '2.weight'\]; unexpected \['1.bias', .*'4.weight'\]; 0.weight is \(5, 6\) float32, expected "
            r"\(5, 7\) float32; 0.bias is \(6,\) float32, expected \(7,\) float32",
        ),
        (lambda: {"model": nn.Linear(5, 6)}, r"missing \['bias', 'weight'\]; unexpected \['0.bias'"),
        (lambda: {"optimiser": optim.Adam(Training("SGD").model.parameters())}, "holds the state of SGD, not of Adam"),
        (
            lambda: {"optimiser": optim.SGD(nn.Linear(2, 2).parameters(), 0.1)},
            "optimiser: SGD: state for 6 parameters, expected 2",
        ),
        (
            lambda: {"optimiser": optim.SGD(Training("SGD").model.parameters(), 0.1)},
            r"optimiser: SGD: parameter 0: unexpected \['velocity'\]; SGD: parameter 1",
        ),
        (lambda: {"schedule": optim.StepLR(Training("SGD").optimiser, 2)}, "holds a CostRise, not a StepLR"),
        (lambda: {"schedule": optim.Warmup(Training("SGD").optimiser, 2)}, "holds a CostRise, not a Warmup"),
        (lambda: {"loader": data.DataLoader(np.ones((3, 2)))}, "samples is 70, expected 3"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, make: Callable[[], dict[str, Any]], message: str) -> None:
    """Everything is listed, and nothing changed, in what would have fitted neither."""
    one, two = Training("SGD"), Training("SGD", seed=9)
    one.fit(checkpoint=tmp_path / "a.npz")
    parts = {"model": two.model, "optimiser": two.optimiser, "schedule": two.schedule, "loader": two.loader}
    before = str([part.state_dict() for part in parts.values()])
    with pytest.raises(CheckpointError, match=rf"a\.npz: does not fit: .*{message}"):
        train.load(tmp_path / "a.npz", **parts | make())
    assert str([part.state_dict() for part in parts.values()]) == before


def test_what_does_not_fit_a_run(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    train.save(path, model=Training("SGD").model)
    with pytest.raises(CheckpointError, match=r"a\.npz: holds model, but no training state; `train.load` reads it"):
        Training("SGD").fit(resume=path)
    with pytest.raises(CheckpointError, match="does not fit: holds no optimiser, only model"):
        train.load(path, optimiser=Training("SGD").optimiser)
    one = Training("SGD")
    one.fit(checkpoint=path)
    two = Training("SGD")
    with pytest.raises(CheckpointError, match="holds a CostRise, but no schedule was passed"):
        train.fit(two.model, F.cross_entropy, two.optimiser, two.loader, 9, resume=path)
    two.model[5].rng = None
    with pytest.raises(CheckpointError, match=r"holds generators \['PCG64', 'PCG64'\], the model has \['PCG64'\]"):
        two.fit(resume=path)
    with pytest.raises(FileNotFoundError):
        two.fit(resume=tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("extra", "kind", "message"),
    [
        ({"a": {1, 2}}, TypeError, "save: extra/a is a set, expected numbers, text, arrays, None, or lists and dicts of them"),
        ({"a": {1: 2}}, TypeError, "save: extra/a has the key 1, expected printable text without a slash"),
        ({"a": {"x\0": 2}}, TypeError, r"save: extra/a has the key 'x\\x00', expected printable text without a slash"),
        ({"a/b": 2}, TypeError, "save: extra has the key 'a/b', expected printable text without a slash"),
        ([np.array(["x"])], DTypeError, "extra/0 has dtype <U1, expected real numbers or booleans of at most 64 bits"),
        (np.complex128(1), TypeError, "save: extra has dtype complex128"),
    ],
)
def test_what_cannot_be_saved(tmp_path: Path, extra: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        train.save(tmp_path / "a.npz", extra=extra)
    with pytest.raises(CheckpointError, match=r"a\.pt: expected a file name ending in \.npz or \.safetensors"):
        train.save(tmp_path / "a.pt")
    for name in ("metadata", "__metadata__", "a\0"):
        with pytest.raises(ValueError, match="an array cannot be named"):
            storage.write(tmp_path / "a.npz", {name: np.ones(1)}, {})
    assert not list(tmp_path.iterdir())


def test_schedules_inside_of_schedules(tmp_path: Path) -> None:
    """They are told apart, and go on; so does one with a list."""
    path = tmp_path / "a.npz"

    class Listed(optim.Schedule):
        def __init__(self, optimiser: optim.Optimiser) -> None:
            super().__init__(optimiser)
            self.rates = [0.3, 0.2, 0.1]

        def rate(self, start: float, now: float) -> float:
            return self.rates.pop(0)

    def made(then: Callable[[optim.Optimiser], optim.Schedule] | None) -> optim.Schedule:
        optimiser = optim.SGD([Tensor([1.0], requires_grad=True)], lr=1.0)
        return optim.Warmup(optimiser, 1, then and then(optimiser))

    schedule = made(Listed)
    for _ in range(2):
        schedule.step()
    train.save(path, schedule=schedule)
    other = made(Listed)
    train.load(path, schedule=other)
    assert [other.step(), other.step()] == [schedule.step(), schedule.step()] == [0.2, 0.1]
    for then, message in (
        (None, "schedule: Warmup: then is a Listed, not None"),
        (lambda o: optim.StepLR(o, 1), "schedule: Warmup: then is a Listed, not a StepLR"),
    ):
        with pytest.raises(CheckpointError, match=rf"a\.npz: does not fit: {message}"):
            train.load(path, schedule=made(then))
    train.save(path, schedule=made(None))
    with pytest.raises(CheckpointError, match="does not fit: schedule: Warmup: then is None, not a Listed"):
        train.load(path, schedule=made(Listed))


def test_the_order_of_a_shuffled_validation_goes_on(tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> list[float]:
        training = Training("SGD")
        held_out = data.DataLoader(training.x, training.y, batch_size=16, shuffle=True, drop_last=True, rng=3)
        return training.fit(epochs=epochs, **{"validation": held_out, **options})["val_loss"]

    path = tmp_path / "a.npz"
    run(2, checkpoint=path)
    assert run(4, checkpoint=path, resume=True) == run(4)


def test_what_other_columns_there_are_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    Training("SGD").fit(epochs=1, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"does not fit: holds a history of epoch, loss, .* this training measures"):
        Training("SGD").fit(resume=path, metrics={"more": train.metrics.accuracy})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_files_of_another_form(tmp_path: Path, suffix: str) -> None:
    """With a right checksum, but not what `save` writes; and folders."""
    path = tmp_path / f"a{suffix}"
    training = Training("SGD")
    for contents, message in (
        ({"model": 5}, "model is 5, expected a dict"),
        ({"model": {"a": {"b": 1}}}, "model/a is a dict, expected a numeric array"),
        ({"model": [1]}, "model is a list, expected a dict"),
        ({"models": {}}, "models is unknown"),
    ):
        checkpoint.write(path, contents)
        with pytest.raises(CheckpointError, match=rf"a\{suffix}: not a valid checkpoint: {message}"):
            train.load(path, model=training.model)
    checkpoint.write(path, {"optimiser": [1]})
    with pytest.raises(CheckpointError, match=rf"a\{suffix}: not a valid checkpoint"):
        train.load(path, optimiser=training.optimiser)
    checkpoint.write(path, {"epoch": 1})
    with pytest.raises(CheckpointError, match=rf"a\{suffix}: not a valid checkpoint: callbacks, history, stop is missing"):
        training.fit(resume=path)
    for tree in ('{"$array": ["x"]}', "[1, 2]"):
        storage.write(path, {}, {"format": checkpoint.FORMAT, "contents": tree})
        with pytest.raises(CheckpointError, match=rf"a\{suffix}: not a valid checkpoint"):
            train.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=rf"a\{suffix}: is a folder, expected a file"):
        train.load(path)
