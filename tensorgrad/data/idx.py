"""idx, the file format of MNIST."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.data.npz import DEFLATE, as_array, check_shape, file_at, limit_of, read_at_most
from tensorgrad.errors import DataError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"


def read_idx(path: str | Path, ndim: int | None = None, *, limit: int | None = None) -> Array:
    """Read an idx file, plain or gzipped (detected by its first bytes), as an array in native byte order.

    ndim   the required number of axes; by default any
    limit  maximum bytes after decompression; by default 512 MiB, or the size of the file if larger

    The format (http://yann.lecun.com/exdb/mnist/): two zero bytes, the type (8 for unsigned bytes), the number of axes, the
    size of each axis as a big-endian 32-bit number, then the values, big-endian, the last axis fastest.

    Raises FileNotFoundError if there is no such file; DataError, naming file and reason, for a file that is not idx, truncated,
    too long, has a wrong gzip checksum, or declares more than it can hold (before that is allocated).
    """
    path = file_at("read_idx", path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        max_bytes, hint = limit_of("read_idx", limit, size)
        is_gzip = file.read(2) == GZIP
        file.seek(0)
        if not is_gzip:
            return _read(path, file, ndim, min(size, max_bytes), f"a file of {size} bytes", "")
        try:
            with gzip.GzipFile(fileobj=file) as content:
                return _read(path, content, ndim, min(DEFLATE * size, max_bytes), f"a gzip file of {size} bytes", hint)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: a damaged gzip file: {error}") from error


def _read(path: Path, file: IO[bytes] | gzip.GzipFile, ndim: int | None, max_bytes: int, kind: str, hint: str) -> Array:
    """Read the array of a file with at most `max_bytes` bytes. For the error: `kind` is the reason, `hint` what to do."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file: it starts with {magic!r} instead of two zero bytes")
    if magic[2] not in TYPES:
        raise DataError(f"{path}: values of type 0x{magic[2]:02x}, expected one of {', '.join(f'0x{t:02x}' for t in TYPES)}")
    if ndim is not None and magic[3] != ndim:
        raise DataError(f"{path}: {magic[3]} axes, expected {ndim}")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: ends inside its header")
    dtype, shape = np.dtype(TYPES[magic[2]]), tuple(np.frombuffer(sizes, ">u4").tolist())
    check_shape(str(path), shape, dtype)
    count = math.prod(shape) * dtype.itemsize
    declared = f"its header says {shape} of {dtype.name}, which is {count}"
    if count > max_bytes:
        raise DataError(f"{path}: {declared} bytes; from {kind} at most {max_bytes} are read{hint}")
    content = read_at_most(file, count)
    if len(content) < count:
        raise DataError(f"{path}: {len(content)} bytes of values, {declared}")
    if file.read(1):  # reading the end of a gzip file verifies its checksum
        raise DataError(f"{path}: more bytes of values than {declared}")
    return as_array(content, dtype, shape)
