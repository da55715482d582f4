"""Data: digits, files of every kind of wrongness (idx, CSV, .npz), scaling, splitting and batching."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import math
import pickle
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorgrad import data
from tensorgrad.errors import DataError, DTypeError, OutOfRangeError, ShapeError
from tests.strategies import generators

IDX_TYPES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_TYPES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that a test writes over and over."""
    return tmp_path_factory.mktemp("scratch") / "file"


@contextlib.contextmanager
def little_memory(megabytes: float = 1.0) -> Iterator[None]:
    """Fails if more than this is allocated at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


def test_digits() -> None:
    x, y = data.load_digits()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1797, 64), np.float32, (1797,), np.int64)
    assert (x.min(), x.max(), set(y)) == (0, 16, set(range(10)))


# idx


@given(
    array=st.sampled_from(sorted(IDX_TYPES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    zipped=st.booleans(),
)
def test_idx_round_trip(scratch: Path, array: np.ndarray, zipped: bool) -> None:
    scratch.write_bytes(gzip.compress(idx(array), 1) if zipped else idx(array))
    got = data.read_idx(scratch, array.ndim)
    np.testing.assert_array_equal(got, array)
    assert (got.dtype, got.shape, got.flags.writeable) == (array.dtype, array.shape, True)
    np.testing.assert_array_equal(data.read_idx(str(scratch)), array)


GOOD = idx(np.arange(30, dtype=np.int16).reshape(5, 6))


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_truncated_anywhere(scratch: Path, zipped: bool) -> None:
    content = gzip.compress(GOOD) if zipped else GOOD
    for length in range(len(content)):
        scratch.write_bytes(content[:length])
        with pytest.raises(DataError) as raised:
            data.read_idx(scratch)
        assert str(raised.value).startswith(f"{scratch}: ")


@given(flips=st.dictionaries(st.integers(0, len(GOOD) - 1), st.integers(1, 255), min_size=1, max_size=4))
@example({3: 0xFF})
@example({4: 0xFF, 8: 0xFF})
def test_idx_with_changed_bytes(scratch: Path, flips: dict[int, int]) -> None:
    """What is read from a changed file is what that file says."""
    content = bytearray(GOOD)
    for position, flip in flips.items():
        content[position] ^= flip
    scratch.write_bytes(content)
    with contextlib.suppress(DataError):
        assert idx(data.read_idx(scratch)) == content


@pytest.mark.parametrize("bit", [0, 5])
def test_gzip_with_a_changed_bit(scratch: Path, bit: int) -> None:
    good = gzip.compress(GOOD)
    refused = 0
    for position in range(len(good)):
        content = bytearray(good)
        content[position] ^= 1 << bit
        scratch.write_bytes(content)
        try:
            # a changed bit of gzip's own header (time, system) or of what fills its last byte does not touch the content
            assert idx(data.read_idx(scratch)) == GOOD
        except DataError:
            refused += 1
    assert refused >= len(good) - 8


def test_huge_idx(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a header declares is refused without being allocated, and no more is unpacked than it declares."""
    zeros = bytes(1 << 26)
    bomb = gzip.compress(idx(np.zeros(10, np.uint8)) + zeros, 1)
    cases = [
        (
            struct.pack(">BBBB3I", 0, 0, 8, 3, 1 << 16, 1 << 12, 28) + bytes(99),
            r"from a file of 115 bytes at most 115 are read",
        ),
        (
            gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 1 << 31) + bytes(99)),
            r"from a gzip file of \d+ bytes at most \d+ are",
        ),
        (struct.pack(">BBBB4I", 0, 0, 8, 4, 0, *[0xFFFFFFFF] * 3), r"the shape \(0, 4294967295,"),
        (struct.pack(">BBBB255I", 0, 0, 8, 255, *[1] * 255) + b"\0", "255 axes, expected 64 at most"),
        (bomb, r"more bytes of values than its header says \(10,\) of uint8, which is 10"),
    ]
    for content, message in cases:
        scratch.write_bytes(content)
        with little_memory(), pytest.raises(DataError, match=message):
            data.read_idx(scratch)
    # a gzip file that could hold it all the same
    monkeypatch.setattr("tensorgrad.data.npz.MOST", 1 << 20)
    scratch.write_bytes(gzip.compress(idx(np.zeros(1 << 21, np.uint8))))
    with little_memory(), pytest.raises(DataError, match=r"bytes; from a gzip file of 2\d+ bytes at most 1048576 are read"):
        data.read_idx(scratch)


def test_idx_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        data.read_idx(tmp_path / "nothing")


# MNIST from a folder


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


LOADERS = {
    "MNIST": data.load_mnist,
    "FASHION_MNIST": data.load_fashion_mnist,
    "KMNIST": data.load_kmnist,
}


@pytest.mark.parametrize("source", LOADERS)
def test_mnist(mnist: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    folder, arrays = mnist
    with pytest.raises(DataError, match="not the published train-images-idx3-ubyte: the MD5 checksum of its content is"):
        LOADERS[source](folder)
    original = getattr(data.mnist, source)
    digests = tuple(hashlib.md5(idx(array)).hexdigest() for array in arrays.values())
    monkeypatch.setattr(data.mnist, source, dataclasses.replace(original, md5=digests))
    monkeypatch.setenv("TENSORGRAD_DATA", str(folder.parent))
    folder.rename(folder.parent / original.folder)
    for loaded in (LOADERS[source](), LOADERS[source](folder.parent / original.folder, verify=False)):
        for got, expected in zip(loaded, arrays.values(), strict=True):
            np.testing.assert_array_equal(got, expected.reshape(got.shape))
            assert got.dtype == (np.uint8 if got.ndim == 2 else np.int64)


def test_a_changed_label_is_found(mnist: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, arrays = mnist
    digests = tuple(hashlib.md5(idx(array)).hexdigest() for array in arrays.values())
    monkeypatch.setattr(data.mnist, "MNIST", dataclasses.replace(data.mnist.MNIST, md5=digests))
    content = bytearray((folder / "t10k-labels-idx1-ubyte").read_bytes())
    content[-1] ^= 1
    (folder / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=f"not the published t10k-labels.*expected {digests[3]}; verify=False reads it"):
        data.load_mnist(folder)
    assert data.load_mnist(folder, verify=False)[3][-1] == arrays["t10k-labels-idx1-ubyte"][-1] ^ 1


LABELS = "train-labels-idx1-ubyte"
FIVE = idx(np.arange(5, dtype=np.uint8))
BROKEN = {
    "not idx": (b"\x89PNG" + FIVE[4:], "not an IDX file: it starts with b'\\\\x89PNG'"),
    "empty": (b"", "not an IDX file: it starts with b''"),
    "unknown type": (FIVE[:2] + b"\x0a" + FIVE[3:], "values of type 0x0a, expected one of 0x08, 0x09"),
    "other type": (idx(np.arange(5, dtype=np.float32)), "values of dtype float32, expected uint8"),
    "other axes": (FIVE[:3] + b"\x03" + FIVE[4:], "3 axes, expected 1"),
    "cut header": (FIVE[:6], "ends inside its header"),
    "cut values": (FIVE[:-1], r"4 bytes of values, its header says \(5,\) of uint8, which is 5"),
    "too long": (FIVE + b"\0", r"more bytes of values than its header says \(5,\) of uint8, which is 5"),
    "huge": (FIVE[:4] + b"\xff\xff\xff\xff" + FIVE[8:], r"its header says \(4294967295,\) of uint8, which is 4294967295"),
    "label 10": (FIVE[:-1] + b"\x0a", "label 10 at 4, expected 0 to 9"),
    "fewer labels": (idx(np.arange(4, dtype=np.uint8)), "MNIST: 4 labels in train-labels-idx1-ubyte for 5 images"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_labels(mnist: tuple[Path, dict[str, np.ndarray]], kind: str, zipped: bool) -> None:
    folder, _ = mnist
    content, message = BROKEN[kind]
    (folder / LABELS).unlink()
    (folder / f"{LABELS}.gz" if zipped else folder / LABELS).write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=message) as raised:
        data.load_mnist(folder, verify=False)
    assert LABELS in str(raised.value)


def test_images_of_another_size(mnist: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = mnist
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((5, 28, 27), np.uint8))))
    with pytest.raises(DataError, match="images of 28 x 27 pixels, expected 28 x 28"):
        data.load_mnist(folder, verify=False)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"MNIST: neither train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        data.load_mnist(tmp_path)


# CSV


@given(
    values=st.integers(2, 5).flatmap(
        lambda columns: hnp.arrays(np.float64, (4, columns), elements=st.floats(allow_nan=False, allow_infinity=False))
    ),
    label=st.integers(-2, 1),
    header=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    bom=st.booleans(),
)
def test_csv_round_trip(scratch: Path, values: np.ndarray, label: int, header: bool, end: str, bom: bool) -> None:
    labels = np.arange(-2, 2)
    values[:, label] = labels
    lines = [",".join(map(repr, row)) for row in values.tolist()]
    names = ["label," + ",".join(f"pixel{i}" for i in range(values.shape[1] - 1))] if header else []
    scratch.write_text(end.join(names + lines), encoding="utf-8-sig" if bom else "utf-8", newline="")
    x, y = data.read_csv(scratch, label, dtype=np.float64)
    np.testing.assert_array_equal(x, np.delete(values, label, axis=1))
    np.testing.assert_array_equal(y, labels)
    assert (x.dtype, y.dtype) == (np.float64, np.int64)


@given(pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 5))), rng=generators())
def test_csv_of_pixels(scratch: Path, pixels: np.ndarray, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 10, len(pixels))
    np.savetxt(scratch, np.column_stack([labels, pixels]), "%d", delimiter=",")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tensorgrad.data.csv.LINES", 3)
        x, y = data.read_csv(scratch, dtype="uint8")
    np.testing.assert_array_equal(x, pixels)
    np.testing.assert_array_equal(y, labels)
    assert (x.dtype, y.dtype) == (np.uint8, np.int64)
    assert data.read_csv(scratch)[0].dtype == np.float32


def test_csv_header(scratch: Path) -> None:
    scratch.write_text("0,1,2\n5,6,7\n")
    assert len(data.read_csv(scratch)[0]) == 2
    np.testing.assert_array_equal(data.read_csv(scratch, header=True)[0], [[6, 7]])
    scratch.write_text("label,a\n5,6\n")
    with pytest.raises(DataError, match=r"line 1, field 1: 'label' is not a number"):
        data.read_csv(scratch, header=False)


BROKEN_CSV: dict[str, tuple[str | bytes, str]] = {
    "short": ("1,2,3\n4,5\n", "line 2: 2 fields, but 3 in the first line"),
    "long": ("a,b,c\n1,2,3\n\n4,5,6,7\n", "line 4: 4 fields, but 3 in the first line"),
    "word": ("1,2,3\n4,five,6\n", "line 2, field 2: 'five' is not a number"),
    "half a header": ("label,1,2\n4,5,6\n", "line 1, field 1: 'label' is not a number"),
    "nothing": ("1,2,3\n4,,6\n", "line 2, field 2: '' is not a number"),
    "blank": ("1,2,3\n4,5, \n", "line 2, field 3: '' is not a number"),
    "two in one": ("1,2,3\n4,5 6,7\n", "line 2, field 2: '5 6' is not a number"),
    "quotes": ('1,2,3\n4,"5",6\n', "line 2, field 2: '\"5\"' is not a number"),
    "underscore": ("1,2,3\n4,1_0,6\n", "line 2, field 2: '1_0' is not a number"),
    "comment": ("1,2,3\n4,5,6 # six\n", "line 2, field 3: '6 # six' is not a number"),
    "nan": ("1,2,3\n4,nan,6\n", "line 2, field 2: nan cannot be represented as uint8"),
    "infinite": ("1,2,3\n4,5,inf\n", "line 2, field 3: inf cannot be represented as uint8"),
    "too large": ("1,2,3\n4,5,256\n", "line 2, field 3: 256 cannot be represented as uint8"),
    "negative": ("1,2,3\n4,-1,6\n", "line 2, field 2: -1 cannot be represented as uint8"),
    "fraction": ("1,2,3\n4,5,2.5\n", "line 2, field 3: 2.5 cannot be represented as uint8"),
    "label": ("a,b,c\n1,2,3\n4.5,5,6\n", "line 3, field 1: 4.5 cannot be represented as int64"),
    "semicolons": ("1;2;3\n4;5;6\n1,2,3\n", "label is column -2, but .* has 1 columns"),
    "binary": (b"\x89PNG\0\0,\0\rIHDR,4", "line 1, field 1: '\ufffdPNG.x00.x00' is not a number|line 2"),
    "utf-16": ("1,2,3\n4,5,6\n".encode("utf-16"), "line 1, field 1: .* is not a number|line 3: 1 fields"),
    "empty": ("", "no samples; the file is empty"),
    "blank lines": ("\n \n", "no samples; the file is empty"),
    "names alone": ("a,b,c\n", "no samples; the file is only a header line"),
}


@pytest.mark.parametrize("lines", [1, 2, 1024])
@pytest.mark.parametrize("kind", BROKEN_CSV)
def test_broken_csv(scratch: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lines: int) -> None:
    content, message = BROKEN_CSV[kind]
    monkeypatch.setattr("tensorgrad.data.csv.LINES", lines)
    scratch.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OutOfRangeError if kind == "semicolons" else DataError, match=message) as raised:
        data.read_csv(scratch, label=-2 if kind == "semicolons" else 0, dtype="uint8")
    assert str(scratch) in str(raised.value)


@given(position=st.integers(0, 11), byte=st.integers(0, 255))
def test_csv_with_a_changed_byte(scratch: Path, position: int, byte: int) -> None:
    content = bytearray(b"1,20,3\n4,5,6")
    content[position] = byte
    scratch.write_bytes(content)
    with contextlib.suppress(DataError):
        x, y = data.read_csv(scratch, dtype=np.float64)
        fields = [field for line in re.split("[\r\n]+", content.decode()) for field in line.split(",")]
        np.testing.assert_array_equal(np.column_stack([y, x]).ravel(), [float(f.strip()) for f in fields])


def test_csv_mistakes(scratch: Path) -> None:
    scratch.write_text("1,1e39\n2,16777217\n")
    with pytest.raises(DataError, match="line 1, field 2: 1e39 cannot be represented as float32"):
        data.read_csv(scratch)
    assert data.read_csv(scratch, dtype=np.float64)[0][0, 0] == 1e39
    with pytest.raises(DTypeError, match="read_csv: dtype is complex128, expected a floating or integer dtype"):
        data.read_csv(scratch, dtype=complex)
    with pytest.raises(OutOfRangeError, match=r"read_csv: label is column 2, but .* has 2 columns"):
        data.read_csv(scratch, label=2)
    with pytest.raises(FileNotFoundError):
        data.read_csv(scratch.with_name("nothing"))


# .npz

PLAIN_DTYPES = ["bool", "int8", ">i4", "<u8", "float16", "<f4", ">f8", "complex64", "<U3", "S2"]


def npz(save: Callable[..., None] = np.savez, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


@given(
    arrays=st.dictionaries(
        st.text("abc.0", min_size=1, max_size=4),
        st.sampled_from(PLAIN_DTYPES).flatmap(
            lambda dtype: hnp.arrays(
                dtype,
                hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
                elements={"alphabet": "abé"} if "U" in dtype else None,
            )
        ),
        max_size=3,
    ),
    fortran=st.booleans(),
    save=st.sampled_from([np.savez, np.savez_compressed]),
)
def test_npz_round_trip(scratch: Path, arrays: dict[str, np.ndarray], fortran: bool, save: Callable[..., None]) -> None:
    scratch.write_bytes(npz(save, **{name: np.array(a, order="F" if fortran else "C") for name, a in arrays.items()}))
    got = data.read_npz(scratch)
    assert list(got) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert (got[name].dtype, got[name].shape) == (array.dtype.newbyteorder("="), array.shape)
        assert got[name].flags.writeable


NPZ = {"w": np.arange(12.0).reshape(3, 4), "b": np.arange(3, dtype=np.float32)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_truncated_or_changed_anywhere(scratch: Path, save: Callable[..., None]) -> None:
    good = npz(save, **NPZ)
    for length in range(len(good)):
        scratch.write_bytes(good[:length])
        with pytest.raises(DataError) as raised:
            data.read_npz(scratch)
        assert str(raised.value).startswith(f"{scratch}: ")
    refused = 0
    for position in range(len(good)):
        content = bytearray(good)
        content[position] ^= 1 << position % 8
        scratch.write_bytes(content)
        try:
            got = data.read_npz(scratch)
        except DataError:
            refused += 1
        else:  # dates, systems and versions say nothing about the arrays
            assert list(got) == list(NPZ)
            assert all(np.array_equal(got[name], NPZ[name]) for name in NPZ)
    assert refused > 0.6 * len(good)


@given(flips=st.dictionaries(st.integers(0, 10**4), st.integers(1, 255), min_size=2, max_size=8), packed=st.booleans())
def test_npz_with_changed_bytes(scratch: Path, flips: dict[int, int], packed: bool) -> None:
    content = bytearray(npz(np.savez_compressed if packed else np.savez, **NPZ))
    for position, flip in flips.items():
        content[position % len(content)] ^= flip
    scratch.write_bytes(content)
    with contextlib.suppress(DataError):
        got = data.read_npz(scratch)
        assert all(np.array_equal(array, NPZ[name]) for name, array in got.items())


def npy(header: str, content: bytes = b"", length: int | None = None, version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header) + 1 if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + b"\n" + content


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return file.getvalue()


def header(descr: str = "'<f8'", order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def with_size(content: bytes, declared: int) -> bytes:
    """A one-member archive whose directory declares another unpacked size."""
    start = content.index(b"PK\1\2")
    return content[: start + 24] + struct.pack("<I", declared) + content[start + 28 :]


class Trap:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


TWO = bytes(16)
BROKEN_NPZ = {
    "a pickle": (pickle.dumps(Trap()), "not an .npz file, it is a pickle, which could run any code"),
    "an .npy file": (npy(header(), TWO), "not an .npz file, it is an .npy file"),
    "empty": (b"", "not an .npz file, it is empty"),
    "objects": (
        npz(a=np.array([Trap()], object)),
        r"a.npy has dtype '\|O', expected numbers or strings; objects and pickles are not read",
    ),
    "a pickle inside": (archive({"a.npy": pickle.dumps(Trap())}), r"a.npy is not an .npy array: it starts with b'.x80"),
    "another file inside": (archive({"a.npy": npy(header(), TWO), "b.txt": b"x"}), "holds 'b.txt', which is not an .npy array"),
    "a record": (npz(a=np.zeros(2, "f4,i4")), "a.npy has dtype .*, expected numbers or strings"),
    "dates": (npz(a=np.zeros(2, "M8[s]")), "a.npy has dtype '<M8.s.', expected numbers or strings"),
    "no type": (archive({"a.npy": npy(header("'<f3'"), TWO)}), "a.npy has dtype '<f3', expected numbers or strings"),
    "code": (archive({"a.npy": npy(header(shape="(pytest.fail(),)"), TWO)}), "a.npy has no valid array header:"),
    "negative": (archive({"a.npy": npy(header(shape="(-2,)"), TWO)}), "a.npy has no valid array header:"),
    "more declared": (
        archive({"a.npy": npy(header(shape="(3,)"), TWO)}),
        r"a.npy declares \(3,\) of float64, which is 24 bytes, but holds 16",
    ),
    "less declared": (archive({"a.npy": npy(header(shape="(1,)"), TWO)}), "which is 8 bytes, but holds 16"),
    "huge": (archive({"a.npy": npy(header(shape="(1000000000000, 7)"), TWO)}), "which is 56000000000000 bytes, but holds 16"),
    "huge and empty": (
        archive({"a.npy": npy(header(shape="(0, 9000000000000000000)"))}),
        r"the shape \(0, 9",
    ),
    "many axes": (archive({"a.npy": npy(header(shape=f"({'1, ' * 65})"), bytes(8))}), "65 axes, expected 64 at most"),
    "no width": (archive({"a.npy": npy(header("'<U0'", shape="(9000000000000000000,)"))}), "declares .* bytes, but holds 0"),
    "long header": (archive({"a.npy": npy(header(), TWO, 1 << 30, version=2)}), "declares a header of 1073741824 bytes"),
    "short header": (archive({"a.npy": npy(header(), TWO, 9)}), "a.npy has no valid array header: \"{'descr':"),
    "version 9": (
        archive({"a.npy": npy(header(), TWO, version=9)}),
        r"a.npy is not an .npy array: it starts with b'.x93NUMPY.t",
    ),
    "huge size of a member": (
        with_size(archive({"a.npy": npy(header(), TWO)}), 1 << 31),
        r"a.npy declares 2147483648 bytes, but the file holds at most \d+ of them",
    ),
    "size of a stored member": (
        with_size(archive({"a.npy": npy(header(), TWO)}, zipfile.ZIP_STORED), 1 << 10),
        "a.npy declares 1024 bytes, but the file holds at most",
    ),
    "bomb": (archive({"a.npy": npy(header(), bytes(1 << 26))}), "which is 16 bytes, but holds 67108864"),
    "bomb with a small size": (
        with_size(archive({"a.npy": npy(header(), bytes(1 << 26))}), len(npy(header(), TWO))),
        "a damaged .npz file: Bad CRC-32",
    ),
    "bzip2": (archive({"a.npy": npy(header(), TWO)}, zipfile.ZIP_BZIP2), "a.npy is encrypted, or compressed by a method other"),
    "after the end": (npz(**NPZ) + b"\0", "it does not end like a zip archive"),
}


@pytest.mark.parametrize("kind", BROKEN_NPZ)
def test_broken_npz(scratch: Path, kind: str) -> None:
    content, message = BROKEN_NPZ[kind]
    scratch.write_bytes(content)
    with little_memory(), pytest.raises(DataError, match=message) as raised:
        data.read_npz(scratch)
    assert str(raised.value).startswith(f"{scratch}: ")


def test_npz_with_shared_bytes(scratch: Path) -> None:
    """Many names for the same bytes, so that a small file would come to any size."""
    content = archive({"a.npy": npy(header(shape="(5000,)"), bytes(40_000))})
    start = content.index(b"PK\1\2")
    entry, end = content[start:-22], content[-22:]
    entries = b"".join(entry.replace(b"a.npy", bytes([97 + i]) + b".npy") for i in range(26))
    scratch.write_bytes(content[:start] + entries + end[:8] + struct.pack("<HHI", 26, 26, len(entries)) + end[16:])
    with pytest.raises(DataError, match=r"its members are larger than its \d+ bytes"):
        data.read_npz(scratch)


def test_npz_with_a_name_twice(scratch: Path) -> None:
    content = archive({"a.npy": npy(header(), TWO), "b.npy": npy(header(), TWO)})
    scratch.write_bytes(content.replace(b"b.npy", b"a.npy"))
    with pytest.raises(DataError, match="two arrays of the same name"):
        data.read_npz(scratch)


def test_npz_without_a_member(scratch: Path) -> None:
    """zipfile passes over members that the length of a comment covers."""
    content = bytearray(npz(**NPZ))
    start = content.index(b"PK\1\2")
    content[start + 32] = content.index(b"PK\1\2", start + 1) - start
    scratch.write_bytes(content)
    assert len(zipfile.ZipFile(scratch).namelist()) == 1
    with pytest.raises(DataError, match="1 members, but its end declares a different number"):
        data.read_npz(scratch)


# scaling, splitting, batching


def test_min_max_of_images() -> None:
    """By sample, whatever its shape."""
    x = np.random.default_rng(0).normal(size=(4, 3, 5))
    np.testing.assert_array_equal(data.min_max(x), data.min_max(x.reshape(4, 15)).reshape(x.shape))
    with pytest.raises(ShapeError, match=r"min_max: x has shape \(3,\), expected \(samples, ...\)"):
        data.min_max(np.ones(3))


def test_split_takes_lists() -> None:
    x, y, x_test, y_test = data.split([[1.0], [2.0], [3.0]], ["a", "b", "c"], 0.3, seed=0)
    assert sorted(zip([*x[:, 0], *x_test[:, 0]], [*y, *y_test], strict=True)) == [(1, "a"), (2, "b"), (3, "c")]


def test_min_max() -> None:
    x = np.array([[1.0, 3, 2], [5, 5, 5], [-1, 0, 3]])
    np.testing.assert_allclose(data.min_max(x), [[0, 1, 0.5], [0, 0, 0], [0, 0.25, 1]])
    assert data.min_max(x.astype(np.float32)).dtype == np.float32
    # the span of these cannot be represented as their own dtype
    scaled = data.min_max(np.array([[-128, 127, 0]], np.int8))
    np.testing.assert_allclose(scaled, [[0, 1, 128 / 255]], rtol=1e-6)
    assert scaled.dtype == np.float32


@given(n=st.integers(2, 50), fraction=st.floats(0.01, 0.9), stratify=st.booleans())
def test_split(n: int, fraction: float, stratify: bool) -> None:
    assume(math.ceil(n * fraction) < n)
    x = np.arange(n)[:, None]
    y = x[:, 0] % 3
    a, ya, b, yb = data.split(x, y, fraction, seed=3, stratify=stratify)
    assert len(b) == math.ceil(n * fraction)
    assert sorted(np.concatenate([a, b])[:, 0]) == list(range(n))
    np.testing.assert_array_equal(np.concatenate([ya, yb]), np.concatenate([a, b])[:, 0] % 3)
    np.testing.assert_array_equal(b, data.split(x, y, fraction, seed=3, stratify=stratify)[2])


@given(n=st.integers(10, 60), k=st.integers(1, 3), seed=st.integers(0, 5))
def test_split_into_several(n: int, k: int, seed: int) -> None:
    x = np.arange(n)
    fractions = [0.1, 0.25, 0.2][:k]
    parts = data.split(x, -x, *fractions, seed=seed)
    assert [len(part) for part in parts[2::2]] == [math.ceil(n * f) for f in fractions]
    assert sorted(np.concatenate(parts[::2])) == list(range(n))
    assert all((a == -b).all() for a, b in zip(parts[::2], parts[1::2], strict=True))


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=6), fraction=st.floats(0.05, 0.6), rng=generators())
def test_stratified_split(counts: list[int], fraction: float, rng: np.random.Generator) -> None:
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    n = len(y)
    assume(math.ceil(n * fraction) < n)
    _, _, x, part = data.split(np.arange(n), y, fraction, seed=0, stratify=True)
    shares = np.array(counts) * len(part) / n
    assert (np.abs(np.bincount(part, minlength=len(counts)) - shares) < 1).all()
    np.testing.assert_array_equal(y[x], part)
    words = np.array(["zero", "one", "two", "three", "four", "five"])[y]
    assert len(data.split(words, words, fraction, seed=0, stratify=True)[3]) == len(part)


def test_split_draws_the_samples_of_a_class() -> None:
    y = np.repeat([0, 1], 20)
    drawn = [tuple(sorted(data.split(np.arange(40), y, 0.25, seed=seed, stratify=True)[2])) for seed in range(20)]
    assert len(set(drawn)) == 20
    # and the odd sample falls to either class
    odd = {tuple(np.bincount(data.split(y, y, 0.125 - 1e-6, seed=seed, stratify=True)[3])) for seed in range(20)}
    assert odd == {(2, 3), (3, 2)} or odd == {(2, 3), (3, 2), (3, 3)}


def test_split_of_seven_percent() -> None:
    x = np.arange(100)
    assert len(data.split(x, x, 0.07, seed=0)[2]) == 7


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
        data.split(x, x, 0.2, 1, seed=0)
    with pytest.raises(ValueError, match="split: parts of 1, 2 samples leave none of the 3 for the rest"):
        data.split(x, x, 0.2, 0.4, seed=0)
    with pytest.raises(ShapeError, match="batches: 3 samples but 4 labels"):
        list(data.batches(x, y, 2))
    with pytest.raises(ValueError, match="batches: batch_size must be at least 1, got 0"):
        list(data.batches(x, x, 0))


def test_csv_labels_that_float64_does_not_tell_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{2**53 - 1},1\n")
    assert data.read_csv(path)[1].tolist() == [2**53 - 1]
    for label in (2**53, 2**53 + 1):
        path.write_text(f"{label},1\n")
        with pytest.raises(DataError, match=f"a.csv, line 1, field 1: {label} cannot be represented as int64"):
            data.read_csv(path)


@pytest.mark.parametrize("read", [data.read_csv, data.read_idx, data.read_npz])
def test_folders_are_no_files(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DataError, match="is a folder, expected a file"):
        read(tmp_path)
