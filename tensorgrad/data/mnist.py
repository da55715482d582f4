"""MNIST and two data sets of the same form: 28 x 28 images of ten classes in four idx files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.data.download import fetch
from tensorgrad.data.idx import read_idx
from tensorgrad.errors import DataError
from tensorgrad.kernels.cache import cache_folder

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    folder   its name in $TENSORGRAD_DATA and in the cache
    mirrors  base addresses of the four gzipped files
    md5      checksums of the four files after decompression, because gzipped versions differ
    """

    title: str
    folder: str
    mirrors: tuple[str, ...]
    md5: tuple[str, str, str, str]


MNIST = Source(
    "MNIST",
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)

# https://github.com/zalandoresearch/fashion-mnist publishes checksums of the .gz files; these are of the decompressed files,
# from https://github.com/datasets-mila/datasets--fashionmnist, which has both; other sources agree
FASHION_MNIST = Source(
    "Fashion-MNIST",
    "fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
)

# from https://github.com/datasets-mila/datasets--kmnist, decompressed there from .gz files whose checksums are those of
# torchvision for https://codh.rois.ac.jp/kmnist
KMNIST = Source(
    "KMNIST",
    "kmnist",
    ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
    (
        "92be26ec9822e900ac425d0a0aa84ced",
        "949e75301f8813e0dc5800dcc320fc52",
        "bf305b8cd328700fbc17f5acbc2856d2",
        "9f55f451c0988b028eccdf7d5cc265ab",
    ),
)


def load_mnist(folder: str | Path | None = None, *, verify: bool = True) -> tuple[Array, Array, Array, Array]:
    """MNIST, handwritten digits: training images, training labels, test images, test labels.

    folder  contains train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each
            plain or gzipped (.gz). By default $TENSORGRAD_DATA/mnist if it exists; otherwise data/mnist in the cache folder
            ($TENSORGRAD_CACHE, or ~/.cache/tensorgrad), to which missing or damaged files are downloaded
    verify  check the published checksums; False for other data in files of these names

    Images are uint8 of shape (60000, 784), and (10000, 784) in the test set, 0 .. 255; labels int64, 0 .. 9.

    Raises FileNotFoundError for a missing file, DataError for a damaged one or wrong checksum, DownloadError if all mirrors
    fail, MissingDependencyError if a package for downloads is not installed.
    """
    return _load(MNIST, folder, verify)


def load_fashion_mnist(folder: str | Path | None = None, *, verify: bool = True) -> tuple[Array, Array, Array, Array]:
    """Fashion-MNIST (https://github.com/zalandoresearch/fashion-mnist), articles of clothing; otherwise like load_mnist.

    The default folder is $TENSORGRAD_DATA/fashion-mnist or data/fashion-mnist in the cache folder. The classes are T-shirt,
    trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.
    """
    return _load(FASHION_MNIST, folder, verify)


def load_kmnist(folder: str | Path | None = None, *, verify: bool = True) -> tuple[Array, Array, Array, Array]:
    """KMNIST (https://github.com/rois-codh/kmnist), cursive Japanese characters; otherwise like load_mnist.

    The default folder is $TENSORGRAD_DATA/kmnist or data/kmnist in the cache folder. The classes are o, ki, su, tsu, na, ha,
    ma, ya, re, wo.
    """
    return _load(KMNIST, folder, verify)


def _load(source: Source, folder: str | Path | None, verify: bool) -> tuple[Array, Array, Array, Array]:
    root = os.environ.get("TENSORGRAD_DATA")
    if folder is None and root and (Path(root) / source.folder).is_dir():
        folder = Path(root) / source.folder
    arrays: list[Array] = []
    for name, md5 in zip(FILES, source.md5, strict=True):
        expected = md5 if verify else None
        if folder is None:
            arrays.append(_cached(source, name, expected))
        elif (path := _find(Path(folder), name)) is not None:
            arrays.append(_read(path, name, expected))
        else:
            raise FileNotFoundError(f"{source.title}: neither {name} nor {name}.gz is in {folder}")
    x, y, x_test, y_test = arrays
    for images, labels, name in ((x, y, FILES[1]), (x_test, y_test, FILES[3])):
        if len(images) != len(labels):
            raise DataError(f"{source.title}: {len(labels)} labels in {name} for {len(images)} images")
    return x.reshape(-1, 784), y.astype(np.int64), x_test.reshape(-1, 784), y_test.astype(np.int64)


def _cached(source: Source, name: str, md5: str | None) -> Array:
    """Read an array from the cache; a missing or damaged file is downloaded."""
    folder = cache_folder() / "data" / source.folder
    target, path = folder / f"{name}.gz", _find(folder, name)
    if path is not None:
        with contextlib.suppress(DataError, FileNotFoundError):  # another process may have removed it
            return _read(path, name, md5)
    otherwise = (
        f"{source.title} without the network: put {', '.join(FILES)}, plain or .gz, into a folder and name it in the call, "
        f"or put them into {folder}"
    )
    array = fetch(target, source.mirrors, lambda path: _read(path, name, md5), otherwise)
    if path not in (None, target):  # otherwise the damaged file would be found first
        path.unlink(missing_ok=True)
    return array


def _read(path: Path, name: str, md5: str | None) -> Array:
    """The images (m, 28, 28) or labels (m,) in one of the FILES, with the checksum `md5` if given."""
    array = read_idx(path, 3 if "images" in name else 1)
    if array.dtype != np.uint8:
        raise DataError(f"{path}: values of dtype {array.dtype}, expected uint8")
    if md5 is not None:
        digest = hashlib.md5(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape), usedforsecurity=False)
        digest.update(array)
        if digest.hexdigest() != md5:
            raise DataError(
                f"{path}: not the published {name}: the MD5 checksum of its content is {digest.hexdigest()}, expected {md5}; "
                "verify=False reads it anyway"
            )
    if array.ndim == 3 and array.shape[1:] != (28, 28):
        raise DataError(f"{path}: images of {array.shape[1]} x {array.shape[2]} pixels, expected 28 x 28")
    if array.ndim == 1 and len(array) and array.max() > 9:
        raise DataError(f"{path}: label {array.max()} at {array.argmax()}, expected 0 to 9")
    return array


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
