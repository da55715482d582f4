"""Data: digits, idx files of every kind of wrongness, splitting and batching."""

from __future__ import annotations

import contextlib
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorgrad import data
from tensorgrad.errors import DataError, ShapeError
from tests.strategies import generators


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with a small MNIST, two files plain and two gzipped."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 5).astype(np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (3, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 3).astype(np.uint8),
    }
    for i, (name, array) in enumerate(arrays.items()):
        if i % 2:
            (tmp_path / name).write_bytes(idx(array))
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path, arrays


def test_digits() -> None:
    x, y = data.load_digits()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert (x.min(), x.max(), set(y)) == (0, 16, set(range(10)))


def test_mnist(mnist: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = mnist
    for got, expected in zip(data.load_mnist(folder), arrays.values(), strict=True):
        np.testing.assert_array_equal(got, expected.reshape(got.shape))
        assert got.dtype == (np.uint8 if got.ndim == 2 else np.int64)


LABELS = "train-labels-idx1-ubyte"
GOOD = idx(np.arange(5, dtype=np.uint8))
BROKEN = {
    "not idx": (b"\x89PNG" + GOOD[4:], "not an idx file, it starts with b'\\\\x89PNG'"),
    "empty": (b"", "not an idx file, it starts with b''"),
    "other type": (GOOD[:2] + b"\x0d" + GOOD[3:], "values of type 0x0d, expected 0x08"),
    "other axes": (GOOD[:3] + b"\x03" + GOOD[4:], "3 axes, expected 1"),
    "cut header": (GOOD[:6], "ends inside its header"),
    "cut values": (GOOD[:-1], r"4 values, its header says \(5,\), which is 5"),
    "too long": (GOOD + b"\0", r"more than the 5 values of \(5,\)"),
    "huge": (GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:], r"5 values, its header says \(4294967295,\)"),
    "label 10": (GOOD[:-1] + b"\x0a", "label 10 at 4, expected 0 to 9"),
    "fewer labels": (idx(np.arange(4, dtype=np.uint8)), "4 labels for the 5 images of train-images-idx3-ubyte.gz"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_labels(mnist: tuple[Path, dict[str, np.ndarray]], kind: str, zipped: bool) -> None:
    folder, _ = mnist
    content, message = BROKEN[kind]
    (folder / LABELS).unlink()
    (folder / f"{LABELS}.gz" if zipped else folder / LABELS).write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message) as raised:
        data.load_mnist(folder)
    assert LABELS in str(raised.value)


@given(cut=st.integers(0, 30), flip=st.booleans())
def test_broken_gzip(tmp_path_factory: pytest.TempPathFactory, cut: int, flip: bool) -> None:
    content = bytearray(gzip.compress(GOOD))
    if flip:
        content[cut % len(content)] ^= 0x41
    else:
        content = content[: cut % len(content)]
    path = tmp_path_factory.mktemp("gz") / "labels.gz"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        # a flipped bit of gzip's own header (time, system, flags) does not touch the content
        np.testing.assert_array_equal(data.read_idx(path, 1), np.arange(5))


def test_images_of_another_size(mnist: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = mnist
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((5, 28, 27), np.uint8))))
    with pytest.raises(DataError, match="images of 28 x 27 pixels, expected 28 x 28"):
        data.load_mnist(folder)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"MNIST: neither train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        data.load_mnist(tmp_path)


def test_min_max() -> None:
    x = np.array([[1.0, 3, 2], [5, 5, 5], [-1, 0, 3]])
    np.testing.assert_allclose(data.min_max(x), [[0, 1, 0.5], [0, 0, 0], [0, 0.25, 1]])
    assert data.min_max(x.astype(np.float32)).dtype == np.float32


@given(rng=generators(), n=st.integers(2, 50), fraction=st.floats(0.01, 0.9))
def test_split(rng: np.random.Generator, n: int, fraction: float) -> None:
    x = np.arange(n)[:, None]
    a, ya, b, yb = data.split(x, x[:, 0] * 2, fraction, seed=3)
    assert len(b) == int(np.ceil(n * fraction))
    assert sorted(np.concatenate([a, b])[:, 0]) == list(range(n))
    np.testing.assert_array_equal(np.concatenate([ya, yb]), np.concatenate([a, b])[:, 0] * 2)
    np.testing.assert_array_equal(b, data.split(x, x, fraction, seed=3)[2])


@given(rng=generators(), n=st.integers(1, 30), size=st.integers(1, 40), shuffle=st.booleans())
def test_batches(rng: np.random.Generator, n: int, size: int, shuffle: bool) -> None:
    x = np.arange(n)
    parts = list(data.batches(x[:, None], x * 2, size, rng if shuffle else None))
    assert [len(p) for p, _ in parts] == [size] * (n // size) + [n % size] * bool(n % size)
    seen = np.concatenate([p for p, _ in parts])[:, 0]
    assert sorted(seen) == list(range(n))
    assert shuffle or list(seen) == list(range(n))
    np.testing.assert_array_equal(np.concatenate([q for _, q in parts]), seen * 2)


def test_mistakes() -> None:
    x, y = np.ones((3, 2)), np.ones(4)
    with pytest.raises(ShapeError, match="split: 3 samples but 4 labels"):
        data.split(x, y, 0.5, seed=0)
    with pytest.raises(ValueError, match="split: fraction must be between 0 and 1, got 1"):
        data.split(x, x, 1, seed=0)
    with pytest.raises(ShapeError, match="batches: 3 samples but 4 labels"):
        list(data.batches(x, y, 2))
    with pytest.raises(ValueError, match="batches: batch_size must be at least 1, got 0"):
        list(data.batches(x, x, 0))
