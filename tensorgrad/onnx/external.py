"""External data: arrays in a file next to the .onnx file, as PyTorch's exporter writes them. The file is not trusted.

A tensor has the name of the file and the position of its bytes: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.errors import DataError


class ExternalFiles:
    """The files next to the one at `path`, opened on demand; files elsewhere are refused.

    remaining   the bytes of each that no array has used yet: the arrays cannot declare more bytes than the file has
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.remaining: dict[Path, int] = {}

    def array(self, where: str, tensor: Any, dtype: Any) -> Array:
        """The array of a tensor. Raises DataError; its message begins with `where`."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = self.file(where, entries.get("location", ""))
        numbers = {key: entries.get(key, "0") for key in ("offset", "length")}
        for key, text in numbers.items():
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise DataError(f"{where}: {key} must be an integer, got {text[:60]!r}")
        shape, size = tuple(tensor.dims), file.stat().st_size
        if any(n < 0 for n in shape):
            raise DataError(f"{where}: declares shape {shape}")
        count, offset = math.prod(shape) * dtype.itemsize, int(numbers["offset"])
        if int(numbers["length"]) != count and "length" in entries:
            raise DataError(f"{where}: declares shape {shape} of {dtype}, and {int(numbers['length']):,} bytes")
        if offset + count > size:
            raise DataError(
                f"{where}: declares bytes {offset:,} to {offset + count:,} of {file.name}, which has {size:,}: truncated, or "
                f"of another model"
            )
        self.remaining[file] = self.remaining.get(file, size) - count
        if self.remaining[file] < 0:
            raise DataError(f"{where}: the arrays declare more bytes than {file.name} has, {size:,}")
        with file.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(count)
        if len(content) < count:
            raise DataError(f"{where}: {file.name} changed while it was read")
        return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype).reshape(shape)

    def file(self, where: str, name: str) -> Path:
        """The file with a name: in the folder of the .onnx file, or of the link's target, as in caches of downloads."""
        if name in ("", "..") or name != Path(name).name or "\\" in name or not name.isprintable():
            raise DataError(f"{where}: its arrays are in {name[:200]!r}, expected a file name in the same folder")
        file = Path(os.path.realpath(self.path.parent / name))
        if file.parent not in {Path(os.path.realpath(self.path.parent)), Path(os.path.realpath(self.path)).parent}:
            raise DataError(f"{where}: {name} is a link to another folder")
        if not file.is_file():
            raise DataError(f"{where}: its arrays are in {name}, which is not in the same folder; both files are needed")
        return file
