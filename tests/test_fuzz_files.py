"""Files of unknown origin, for a moment: `python -m tests.fuzz_files` goes on for as long as it is told to."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorgrad import data, train
from tensorgrad.data import storage
from tensorgrad.errors import ArgumentError, CheckpointError, DataError, TensorgradError
from tests.fuzz_files import READERS, Trial, by_chance

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", READERS)
def test_readers(tmp_path: Path, name: str) -> None:
    trial = Trial(name, tmp_path)
    by_chance(trial, 60, 60 if name == "checkpoint" else 200, seed=1)
    assert not trial.failures
    assert trial.counts["refused"] > 20 < trial.counts["inputs"] - trial.counts["read"]


def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw error, and values that are not those of others."""
    trial = Trial("idx", tmp_path, tmp_path / "out")
    monkeypatch.setattr("tensorgrad.data.idx.as_array", lambda content, dtype, shape: np.zeros(shape, dtype))
    by_chance(trial, 60, 100, seed=1)
    assert any("Different" in failure for failure in trial.failures)
    monkeypatch.setattr("tensorgrad.data.idx.check_shape", lambda *_: [][0])
    other = Trial("idx", tmp_path)
    by_chance(other, 60, 100, seed=1)
    assert any("IndexError" in failure for failure in other.failures)
    assert list((tmp_path / "out").iterdir())


# Limits


def bomb(path: Path, nbytes: int) -> None:
    """An .npz file that unpacks to so many zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("a.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (nbytes - 128,)})
            for start in range(0, nbytes - 128, 1 << 24):
                member.write(bytes(min(1 << 24, nbytes - 128 - start)))


def test_what_a_packed_file_may_come_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    bomb(path, 3 << 20)
    monkeypatch.setattr("tensorgrad.data.npz.MOST", 1 << 20)
    with pytest.raises(
        DataError,
        match=r"arrays of 3,145,728 bytes, more than the 1,048,576 that are allowed; read_npz\(path, limit=...\) allows",
    ):
        data.read_npz(path)
    assert data.read_npz(path, limit=3 << 20)["a"].nbytes == (3 << 20) - 128
    with pytest.raises(DataError, match=r"more than the 3,145,727 that are allowed$"):
        data.read_npz(path, limit=(3 << 20) - 1)
    np.savez(path, a=np.zeros(3 << 20, np.uint8))  # not packed: it is as large as its file
    assert data.read_npz(path)["a"].nbytes == 3 << 20
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 3 << 20) + bytes(3 << 20)))
    with pytest.raises(DataError, match=r"at most 1048576 are read; read_idx\(path, limit=...\) allows more"):
        data.read_idx(packed)
    assert data.read_idx(packed, limit=1 << 22).size == 3 << 20


def test_lines_without_an_end(tmp_path: Path) -> None:
    """No more of one is read than may be."""
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate(1 << 31)  # zero bytes, which take no room
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"a.csv, line 1: longer than 1,048,576 characters; read_csv\(path, limit=...\)"):
        data.read_csv(path)
    assert time.perf_counter() - start < 30
    path.write_text("1,2\n" + ",".join(["1"] * 30) + "\n")
    with pytest.raises(DataError, match="line 2: longer than 20 characters"):
        data.read_csv(path, limit=20)
    path.write_text("1,2\n3,4")
    assert data.read_csv(path, limit=3)[0].tolist() == [[2], [4]]
    path.write_text("a," * 400_000 + "b\n" + "1," * 400_000 + "2\n")  # names by the thousand are looked at once
    assert data.read_csv(path)[0].shape == (1, 400_000)


@pytest.mark.parametrize("limit", [-1, 1.5, "1", True])
def test_limits_that_are_none(tmp_path: Path, limit: Any) -> None:
    (tmp_path / "a").write_bytes(b"")
    for read in (data.read_csv, data.read_npz, data.read_idx):
        with pytest.raises(ArgumentError, match=rf"{read.__name__}: limit must be a non-negative integer"):
            read(tmp_path / "a", limit=limit)


# Headers


def npz_of(path: Path, header: str, content: bytes = b"\0" * 8) -> None:
    text = header.encode("latin-1")
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + content)


DESCRS = ["'<U999999999'", "'<U2147483647'", "'|S999999999'", "'|O'", "'O'", "[('a', '<i4')]", "'<i4,<f4'", "'<M8[s]'", "'|V8'"]
DESCRS += [
    "'<f16'",
    "'<c32'",
    "'<i3'",
    "'>b2'",
    "'(2,)<i4'",
    "'<U-1'",
    "'<U0'",
    "'int'",
    "5",
    "None",
    "'\\x00'",
    "eval('1')",
    "''",
]
SHAPES = ["(-1,)", "(1000000000000000000,)", "(99999999999999999999,)", "(" + "1," * 65 + ")", "[1]", "1", "(1.5,)", "(True,)"]
SHAPES += ["(0, 9223372036854775807)", "(4294967296, 4294967296)", "('1',)", "(1" * 50, "(__import__('os'),)", "(2**60,)"]
HEADERS = [f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}" for descr in DESCRS]
HEADERS += [f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}" for shape in SHAPES]
HEADERS += [
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}" for shape in ("(01,)", "(1,,)", "(+1,)", "(1_0,)")
]
HEADERS += [
    "",
    "{",
    "[]",
    "{'descr': '<f8'}",
    "{'shape': (1,)}",
    "dict(descr='<f8')",
    "{'descr': '<f8', 'fortran_order': 1, 'shape': (1,)}",
]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_of_arrays(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.npz"
    npz_of(path, header)
    with pytest.raises(DataError, match=r"a\.npz: "):
        data.read_npz(path)
    with pytest.raises(CheckpointError, match=r"a\.npz: "):
        train.load(path)


def test_a_header_that_is_cut_off(tmp_path: Path) -> None:
    """Of an array without values nothing else is missing."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 9) + header)
    with pytest.raises(DataError, match=r"a\.npy ends inside its header"):
        data.read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("descr", "content"), [("|b1", b"\0\1\2\0"), ("<U1", b"\0\0\x11\0"), (">U1", b"\0\x11\0\0"), ("<U1", b"\xff" * 4)]
)
def test_values_that_are_none(tmp_path: Path, descr: str, content: bytes) -> None:
    """Booleans that are neither 0 nor 1, text that is no text."""
    npz_of(
        tmp_path / "a.npz", f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({4 if 'b' in descr else 1},), }}", content
    )
    with pytest.raises(
        DataError, match=r"a\.npy (has dtype bool, but holds bytes other than 0 and 1|is text, but holds an invalid char)"
    ):
        data.read_npz(tmp_path / "a.npz")


def test_values_and_shapes_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for header, content, message in (
        ('{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}', b"\1\2", "a has dtype bool, but holds"),
        ('{"a":{"dtype":"F32","shape":[2305843009213693952,0],"data_offsets":[0,0]}}', b"", "is not possible"),
        ('{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\1", "its header cannot be read: .*surrogates"),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + content)
        with pytest.raises(DataError, match=rf"a\.safetensors: .*{message}"):
            storage.read_safetensors(path)


def test_arguments_of_read_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n")
    for options in ({"label": "a"}, {"label": 1.0}, {"label": True}, {"dtype": "nonsense"}, {"dtype": 5}):
        with pytest.raises(TensorgradError, match=r"read_csv: (label must be a column index|dtype is )"):
            data.read_csv(tmp_path / "a.csv", **options)


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz_files", "--reader", "csv", "--seconds", "0.5", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("csv: ")
    assert not (tmp_path / "out").exists()
