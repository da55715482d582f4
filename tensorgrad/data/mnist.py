"""MNIST's four idx files, read from a folder."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.errors import DataError

UNSIGNED_BYTE = 0x08


def load_mnist(folder: str | Path) -> tuple[Array, Array, Array, Array]:
    """The whole of MNIST: training images, training labels, test images, test labels.

    folder  holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
            each plain or gzipped (.gz)

    Images are uint8 of shape (n, 784), 0 .. 255; labels int64 of shape (n,), 0 .. 9.

    Raises FileNotFoundError for a missing file, DataError for one whose header or length is wrong.
    """
    parts: list[Array] = []
    for part in ("train", "t10k"):
        images_path = _find(Path(folder), f"{part}-images-idx3-ubyte")
        labels_path = _find(Path(folder), f"{part}-labels-idx1-ubyte")
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if images.shape[1:] != (28, 28):
            raise DataError(f"{images_path}: images of {images.shape[1]} x {images.shape[2]} pixels, expected 28 x 28")
        if len(images) != len(labels):
            raise DataError(f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}")
        if len(labels) and labels.max() > 9:
            raise DataError(f"{labels_path}: label {labels.max()} at {labels.argmax()}, expected 0 to 9")
        parts += [images.reshape(len(images), 784), labels.astype(np.int64)]
    return parts[0], parts[1], parts[2], parts[3]


def read_idx(path: str | Path, ndim: int) -> Array:
    """The array in an idx file of unsigned bytes with `ndim` axes, plain or gzipped by its suffix.

    The format (http://yann.lecun.com/exdb/mnist/): two zero bytes, the type (8 for unsigned bytes), the number of axes, the
    size of each axis as a big-endian 32-bit number, then the values, the last axis fastest.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0":
                raise DataError(f"{path}: not an idx file, it starts with {magic!r} instead of two zero bytes")
            if magic[2] != UNSIGNED_BYTE:
                raise DataError(f"{path}: values of type 0x{magic[2]:02x}, expected 0x08 (unsigned bytes)")
            if magic[3] != ndim:
                raise DataError(f"{path}: {magic[3]} axes, expected {ndim}")
            sizes = file.read(4 * ndim)
            if len(sizes) < 4 * ndim:
                raise DataError(f"{path}: ends inside its header")
            shape = struct.unpack(f">{ndim}I", sizes)
            count = int(np.prod(shape, dtype=object))
            # read in pieces: a header may declare more than the file has, and more than there is memory
            pieces = []
            left = count
            while left and (piece := file.read(min(left, 1 << 24))):
                pieces.append(piece)
                left -= len(piece)
            if left:
                raise DataError(f"{path}: {count - left} values, its header says {shape}, which is {count}")
            if file.read(1):
                raise DataError(f"{path}: more than the {count} values of {shape} that its header says")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: a broken gzip file: {error}") from error
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"MNIST: neither {name} nor {name}.gz is in {folder}")
