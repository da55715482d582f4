"""Arrays in files: .npz and .safetensors, written without loss and read without trusting the file.

Both formats hold arrays by name, and text by name as `metadata` (in an .npz file an array of JSON bytes). Pickles are never
read or written. A file with metadata includes a SHA-256 checksum of its contents.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tensorgrad.core.backend import Array, is_half, move
from tensorgrad.core.files import as_path, replacing
from tensorgrad.core.state import describe
from tensorgrad.data.npz import check_shape, check_values, file_at, looks_like, read_npz
from tensorgrad.errors import ArgumentError, DataError, DTypeError

METADATA = "metadata"  # the name of the metadata in an .npz file
HEADER_LIMIT = 100_000_000  # maximum bytes of a safetensors header, by the format
NAME = 60_000  # maximum bytes of an array's name; zip files store the length in 16 bits
PIECE = 1 << 20
SAFETENSORS = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip
HALF = "BF16"  # read as float32, of which it is the upper half


def write(path: str | Path, arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to an uncompressed .npz or a .safetensors file, by the suffix of `path`. Replaces a file
    atomically.

    Raises DataError for another suffix and for a name that is not printable or too long, DTypeError for anything but real
    numbers and booleans, OSError if the file cannot be written (a full disk); an existing file is then unchanged.
    """
    kind = suffix_of("checkpoint", path)
    for name in arrays:
        # zip truncates names at a zero byte
        if not name.isprintable() or len(name.encode()) > NAME or name in (METADATA, "__metadata__"):
            raise DataError(f"{path}: an array cannot be named {name[:60]!r}{'...' * (len(name) > 60)}")
    normalised = {name: _normalised(name, array) for name, array in arrays.items()}
    metadata = {**metadata, "sha256": digest(normalised, metadata)}
    with replacing(path) as file:
        if kind == ".npz":
            text = json.dumps(metadata).encode()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as members:
                for name, array in {**normalised, METADATA: np.frombuffer(text, np.uint8)}.items():
                    with members.open(f"{name}.npy", "w", force_zip64=array.nbytes > 1 << 30) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            return
        entries: dict[str, Any] = {"__metadata__": metadata}
        offset = 0
        names = {np.dtype(code): name for name, code in SAFETENSORS.items()}
        for name, array in normalised.items():
            if array.dtype not in names:
                raise DTypeError(f"{path}: {name} has dtype {array.dtype}, which .safetensors does not support; use .npz")
            entries[name] = {
                "dtype": names[array.dtype],
                "shape": list(array.shape),
                "data_offsets": [offset, offset := offset + array.nbytes],
            }
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        file.write(struct.pack("<Q", len(header)) + header)
        for array in normalised.values():
            file.write(_bytes(array))


def read(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read arrays and metadata of a file from `write`, by its suffix.

    Raises FileNotFoundError if there is none, and DataError, naming the file and the reason, for a file that is truncated,
    changed, of another kind, or declares more than it holds; nothing is allocated for data that are not in the file.
    """
    path = file_at("checkpoint", path)
    if suffix_of("checkpoint", path) == ".npz":
        arrays = read_npz(path, limit=path.stat().st_size)  # `write` does not compress
        try:
            metadata = _texts(json.loads(arrays.pop(METADATA).tobytes()))
        except (KeyError, ValueError, RecursionError):
            raise DataError(f"{path}: has no {METADATA}, so it was not written by tensorgrad") from None
    else:
        arrays, metadata = contents_of(path)
    if digest(arrays, metadata) != metadata.get("sha256"):
        if "sha256" not in metadata:
            raise DataError(f"{path}: has no checksum, so it was not written by tensorgrad")
        raise DataError(f"{path}: its checksum is wrong: it was changed or damaged")
    del metadata["sha256"]
    return arrays, metadata


def read_safetensors(path: str | Path) -> dict[str, Array]:
    """Read the arrays of any .safetensors file by name; no checksum is needed.

    bfloat16 is read as float32, without loss. Load PyTorch's weights with model.load_state_dict(arrays, layout="torch"). Raises
    FileNotFoundError if there is none; DataError, naming the file and the reason, for a file that is not of this format or has
    an unsupported dtype, such as 8-bit floats or complex numbers.
    """
    return contents_of(path)[0]


def write_safetensors(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to a .safetensors file, which PyTorch and others can read. Raises the errors of `write`.

    For PyTorch's module of the same form write model.state_dict(layout="torch").
    """
    if as_path("write_safetensors", path).suffix != ".safetensors":
        raise DataError(f"{path}: expected a file name ending in .safetensors")
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise ArgumentError(f"write_safetensors: arrays must be a dict from name to array, got {describe(arrays)}")
    write(path, arrays, {})


def contents_of(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and the metadata of any .safetensors file.

    The format: the length of the header as a little-endian 64-bit number; the header, JSON with dtype, shape and position of
    each array, and the metadata; the arrays, little-endian and C-contiguous, one after the other without gaps.

    Raises FileNotFoundError if there is none; DataError, naming the file and the reason, for a file that is not of this format
    or has an unsupported dtype.
    """
    path = file_at("read_safetensors", path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        first = file.read(1)
        if first != b"{" or length > HEADER_LIMIT:
            raise DataError(f"{path}: not a .safetensors file, it {looks_like(start + first)}")
        if 8 + length > size:
            raise DataError(f"{path}: declares a header of {length:,} bytes, but the file has {size:,}: truncated or damaged")
        try:
            text = (first + file.read(length - 1)).decode()  # from bytes json would accept UTF-16
            header = json.loads(text, object_pairs_hook=_unique)
            metadata = _texts(header.pop("__metadata__", {}))
            "".join([*header, *metadata, *metadata.values()]).encode()  # raises an error for lone surrogates
            halves = {name for name, v in header.items() if v["dtype"] == HALF}
            supported = (*SAFETENSORS, HALF)
            unknown = [f"{name} has dtype {v['dtype']}" for name, v in header.items() if v["dtype"] not in supported]
            entries = [] if unknown else [(name, *_entry(value)) for name, value in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: a damaged .safetensors file, its header cannot be read: {error}") from None
        if unknown:
            raise DataError(f"{path}: {unknown[0][:200]}, which is not supported, only {', '.join(supported)}")
        offset = 0
        for name, dtype, shape, begin, end in sorted(entries, key=lambda entry: entry[3:]):
            if begin != offset or end - begin != math.prod(shape) * dtype.itemsize:
                raise DataError(
                    f"{path}: {name} declares shape {shape} of {dtype} in bytes {begin:,} to {end:,}, which is inconsistent: "
                    f"the previous array ends at {offset:,}"
                )
            check_shape(f"{path}: {name}", shape, dtype)
            offset = end
        if 8 + length + offset != size:
            raise DataError(f"{path}: declares {8 + length + offset:,} bytes, but the file has {size:,}: truncated or damaged")
        arrays = {}
        for name, dtype, shape, begin, end in entries:
            file.seek(8 + length + begin)
            arrays[name] = np.empty(shape, dtype)
            if not _fill(arrays[name].reshape(-1), file):
                raise DataError(f"{path}: {name} ends before the {end - begin:,} bytes that it declares")
            if name in halves:
                arrays[name] = (arrays[name].astype("<u4") << 16).view("<f4")
            check_values(f"{path}: {name}", arrays[name])
    return arrays, metadata


def digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """The SHA-256, in hex, of the metadata (except "sha256") and of names, dtypes, shapes and values of arrays."""
    checksum = hashlib.sha256()
    texts = {name: text for name, text in metadata.items() if name != "sha256"}
    checksum.update(json.dumps(texts, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        checksum.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        checksum.update(_bytes(np.ascontiguousarray(array)))
    return checksum.hexdigest()


def suffix_of(where: str, path: str | Path) -> str:
    """ ".npz" or ".safetensors". Raises DataError for another suffix."""
    suffix = as_path(where, path).suffix
    if suffix not in (".npz", ".safetensors"):
        raise DataError(f"{path}: expected a file name ending in .npz or .safetensors")
    return suffix


def _normalised(name: str, array: Any) -> Array:
    """An array for writing: little-endian and C-contiguous."""
    array = np.asarray(move(array, "cpu"))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        hint = "; convert it to float32, which holds all of its values" if is_half(array.dtype) else ""
        raise DTypeError(f"storage: {name} has dtype {array.dtype}, expected real numbers or booleans of at most 64 bits{hint}")
    little = array.dtype.newbyteorder("<") if sys.byteorder == "big" or array.dtype.byteorder == ">" else array.dtype
    # copied unless contiguous, because its memory is written as is
    return np.ascontiguousarray(array, little).reshape(array.shape)


def _bytes(array: Array) -> memoryview:
    """The memory of a C-contiguous array."""
    return memoryview(array.reshape(-1).view(np.uint8))


def _fill(flat: Array, file: IO[bytes]) -> bool:
    """Fill the memory of a one-dimensional array from a file; False if the file is too short."""
    memory, position = _bytes(flat), 0
    while position < len(memory):
        count = file.readinto(memory[position : position + PIECE])  # type: ignore[attr-defined]
        if not count:
            return False
        position += count
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("the metadata are not a dict of strings")
    return value


def _entry(value: dict[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of an array in a safetensors header."""
    shape, (begin, end) = value["shape"], value["data_offsets"]
    if len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, begin, end)):
        raise ValueError(f"shape {shape} and data_offsets {[begin, end]} are not valid")
    return np.dtype(SAFETENSORS["U16" if value["dtype"] == HALF else value["dtype"]]), tuple(shape), begin, end
