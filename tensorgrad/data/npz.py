"""Reading .npz files without trusting them: declared sizes are compared with the contents before anything is allocated."""

from __future__ import annotations

import math
import operator
import os
import re
import struct
import sys
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.files import as_path
from tensorgrad.errors import ArgumentError, DataError

DEFLATE = 1032  # maximum compression ratio of deflate (258 bytes in 2 bits): https://zlib.net/zlib_tech.html
MOST = 1 << 29  # default limit of decompressed bytes; data that are not compressed are limited by the file size
PIECE = 1 << 24  # bytes to read at once
HEADER = 1 << 16  # maximum bytes of a .npy header
# end of an archive without a comment: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.16
ZIP_END, ZIP_END_BYTES = b"PK\5\6", 22

# the header literal of NumPy: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
NPY_HEADER = re.compile(
    r"\{ *'descr': *(?P<descr>'[^']*'|\[.*\]), *'fortran_order': *(?P<order>True|False),"
    r" *'shape': *\((?P<shape>((0|[1-9]\d{0,18}), ?)*(0|[1-9]\d{0,18})?)\),? *\} *\n"
)
PLAIN_DTYPE = re.compile(r"'[<>|=]?(b1|\?|[iu][1248]|f[248]|c8|c16|[SU]\d{1,9})'")
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)


def file_at(where: str, path: str | Path) -> Path:
    """A Path. Raises DataError for a folder, ArgumentError, prefixed with `where`, for anything but a path."""
    path = as_path(where, path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a file")
    return path


def read_npz(path: str | Path, *, limit: int | None = None) -> dict[str, Array]:
    """Read the arrays of an .npz file by name, in the order of the file, in native byte order and fresh memory.

    Only numbers and strings: nothing is unpickled or evaluated.

    limit   maximum bytes of all arrays together after decompression; by default 512 MiB, or the size of the file if larger.
            Checked before anything is decompressed

    Raises FileNotFoundError if there is no such file; DataError, naming file and reason, for a truncated, changed (each array
    has a checksum) or foreign file, a pickle, and one that declares more than it holds (before that is allocated).
    """
    path = file_at("read_npz", path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        max_bytes, hint = limit_of("read_npz", limit, size)
        start = file.read(8)
        if start[:4] not in (b"PK\3\4", ZIP_END):
            raise DataError(f"{path}: not an .npz file, it {looks_like(start)}")
        file.seek(max(size - ZIP_END_BYTES, 0))
        end = file.read()
        if end[:4] != ZIP_END:
            raise DataError(f"{path}: a damaged .npz file: it does not end like a zip archive; truncated?")
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                # zipfile trusts the lengths of names and comments, and skips members that they cover
                if min(len(members), 0xFFFF) != int.from_bytes(end[10:12], "little"):
                    raise DataError(
                        f"{path}: a damaged .npz file: {len(members)} members, but its end declares a different number"
                    )
                if len({m.filename for m in members}) < len(members):
                    raise DataError(f"{path}: two arrays of the same name")
                for member in members:
                    check_member(path, member, size)
                # members may overlap, so a small file could decompress to any size
                if sum(m.compress_size for m in members) > size:
                    raise DataError(f"{path}: its members are larger than its {size} bytes")
                if (total := sum(m.file_size for m in members)) > max_bytes:
                    raise DataError(
                        f"{path}: declares arrays of {total:,} bytes, more than the {max_bytes:,} that are allowed{hint}"
                    )
                return {m.filename.removesuffix(".npy"): read_member(path, archive, m) for m in members}
        except DataError:
            raise
        except BROKEN as error:
            raise DataError(f"{path}: a damaged .npz file: {error}") from error


def limit_of(reader: str, limit: Any, size: int) -> tuple[int, str]:
    """The maximum bytes after decompression for a file of this size, and, for an error, how to raise it."""
    if limit is None:
        return max(size, MOST), f"; {reader}(path, limit=...) allows more"
    return as_limit(reader, limit), ""


def as_limit(reader: str, limit: Any) -> int:
    """A reader's limit. Raises ArgumentError for anything but a non-negative integer."""
    if isinstance(limit, bool) or not hasattr(limit, "__index__") or operator.index(limit) < 0:
        raise ArgumentError(f"{reader}: limit must be a non-negative integer, got {limit!r}")
    return operator.index(limit)


def looks_like(start: bytes) -> str:
    """A guess at the type of a file from its first bytes."""
    if not start:
        return "is empty"
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "is a pickle, which could run any code when it is read"
    kinds = {
        b"PK": "an .npz or other zip file",
        b"\x93NUMPY": "an .npy file",
        b"\x89HDF": "an HDF5 file",
        b"\x1f\x8b": "gzipped",
    }
    return next((f"is {kind}" for magic, kind in kinds.items() if start.startswith(magic)), f"starts with {start!r}")


def check_member(path: Path, member: zipfile.ZipInfo, size: int) -> None:
    name = member.filename
    if not name.endswith(".npy"):
        description = "a pickle, and could run any code" if name.endswith(".pkl") else "not an .npy array"
        raise DataError(f"{path}: holds {name!r}, which is {description}")
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: {name} is encrypted, or compressed by a method other than deflate")
    if member.compress_type == zipfile.ZIP_STORED:
        max_bytes = min(member.compress_size, size)
    else:
        max_bytes = DEFLATE * min(member.compress_size, size)
    if member.file_size > max_bytes:
        raise DataError(f"{path}: {name} declares {member.file_size} bytes, but the file holds at most {max_bytes} of them")


def read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Read one .npy file of the archive (format versions 1.0 and 2.0)."""
    name = member.filename
    with archive.open(member) as file:
        start = file.read(8)
        if start not in (b"\x93NUMPY\1\0", b"\x93NUMPY\2\0"):
            raise DataError(f"{path}: {name} is not an .npy array: it starts with {start!r}")
        length = int.from_bytes(file.read(2 * start[6]), "little")
        if length > HEADER:
            raise DataError(f"{path}: {name} declares a header of {length} bytes, expected {HEADER} at most")
        header = file.read(length).decode("latin-1")
        if len(header) < length:
            raise DataError(f"{path}: {name} ends inside its header")
        if not (match := NPY_HEADER.fullmatch(header)):
            raise DataError(f"{path}: {name} has no valid array header: {header[:60]!r}")
        if not PLAIN_DTYPE.fullmatch(match["descr"]):
            raise DataError(
                f"{path}: {name} has dtype {match['descr'][:60]}, expected numbers or strings; objects and pickles are not read"
            )
        try:
            dtype = np.dtype(match["descr"].strip("'"))
        except TypeError:  # text longer than NumPy supports
            raise DataError(f"{path}: {name} has dtype {match['descr']}, which NumPy does not know") from None
        shape = tuple(int(n) for n in match["shape"].replace(" ", "").split(",") if n)
        count = math.prod(shape) * dtype.itemsize
        available = member.file_size - file.tell()
        if count != available or not dtype.itemsize:
            raise DataError(f"{path}: {name} declares {shape} of {dtype}, which is {count} bytes, but holds {available}")
        check_shape(f"{path}: {name}", shape, dtype)
        content = read_at_most(file, count)
        if len(content) < count or file.read(1):  # the last read verifies the checksum
            raise DataError(f"{path}: {name} holds {len(content)} bytes, its header says {shape} of {dtype}, which is {count}")
    array = as_array(content, dtype, shape, fortran=match["order"] == "True")
    check_values(f"{path}: {name}", array)
    return array


def check_values(where: str, array: Array) -> None:
    """Raise DataError for bytes that are not valid booleans or characters: operations on them are undefined."""
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise DataError(f"{where} has dtype bool, but holds bytes other than 0 and 1")
    if array.dtype.kind == "U" and array.size and int(array.ravel("K").view(np.uint32).max()) > sys.maxunicode:
        raise DataError(f"{where} is text, but holds an invalid character")


def check_shape(where: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Raise DataError beyond NumPy's limits: 64 axes, and the address space (ignoring axes of size 0)."""
    if len(shape) > 64:
        raise DataError(f"{where}: {len(shape)} axes, expected 64 at most")
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize > sys.maxsize:
        raise DataError(f"{where}: the shape {shape} is not possible")


def read_at_most(file: IO[bytes] | BufferedIOBase, count: int) -> bytearray:
    """Read up to `count` bytes: memory grows with the data, whatever size is declared."""
    content = bytearray()
    while len(content) < count and (piece := file.read(min(count - len(content), PIECE))):
        content += piece
    return content


def as_array(content: bytearray, dtype: np.dtype[np.generic], shape: tuple[int, ...], *, fortran: bool = False) -> Array:
    """Bytes as an array in native byte order, without a copy if possible."""
    flat = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="), copy=False)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
