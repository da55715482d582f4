"""Blocks: the parameters of a group in one flat array, with their state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, address, device_of, namespace, on, put
from tensorgrad.core.memory import empty_bytes
from tensorgrad.core.state import changes
from tensorgrad.core.tensor import Tensor
from tensorgrad.optim.group import ParamGroup

Kernel = Callable[..., None]


class Block:
    """The parameters of one group, dtype and device, and their state, in flat arrays.

    group     the ParamGroup
    indices   indices into the optimiser's parameters
    flat      the concatenated parameters; parts[k] is the (start, stop) of the k-th
    dtype     the dtype of the computation: that of the parameters, but float32 for half precision
    state     slot name to an array of the size of `flat`, in `dtype`
    views     for each parameter its views of the flat array and of the state
    tiny      the smallest normal number of the dtype;  least: the smallest positive number
    kernel    the kernel of a step, for this version of the group's settings; None if not built yet
    """

    def __init__(self, params: list[Tensor], group: ParamGroup, indices: list[int], slots: tuple[str, ...]) -> None:
        self.group, self.indices = group, indices
        ends = np.cumsum([0, *(params[i].size for i in indices)]).tolist()
        self.parts: list[tuple[int, int]] = list(pairwise(ends))
        first: Array = params[indices[0]]._data
        self.device = device_of(first)
        self.half = first.dtype.itemsize < 4
        self.dtype: Any = np.dtype("float32") if self.half else first.dtype
        self.tiny, self.least = (float(x) for x in (np.finfo(self.dtype).tiny, np.finfo(self.dtype).smallest_subnormal))
        with on(first):
            self.flat: Array = empty_bytes(ends[-1] * first.itemsize, first).view(first.dtype)
            self.near: Array = namespace([first]).empty((), self.dtype)  # reference for dtype and device
            self.state = {slot: namespace([first]).zeros(self.flat.shape, self.dtype) for slot in slots}
        # another optimiser may have concatenated them already
        if isinstance(first.base, type(first)) and first.base.flags.c_contiguous:
            memory = first.base.reshape(-1).view(np.uint8)
            start = address(first) - address(memory)
            together = memory[start : start + self.flat.nbytes]
            if together.size == self.flat.nbytes and self.holds(params, together.view(first.dtype)):
                self.flat = together.view(first.dtype)
        self.gather(params)
        self.views = [[a[start:stop] for a in (self.flat, *self.state.values())] for start, stop in self.parts]
        self.kernel: Kernel | None = None
        self.version = group.version
        self._numbers: dict[str, tuple[float, Array]] = {}

    def numbers(self, values: Mapping[str, float]) -> list[Array]:
        """Numbers as 0-d arrays on the parameters' device; on a GPU only those that changed are copied."""
        if self.device == "cpu":
            return [np.asarray(value, self.dtype) for value in values.values()]
        for name, value in values.items():
            before, array = self._numbers.get(name, (None, None))
            if array is None:
                array = namespace([self.flat]).empty((), self.dtype)
            if value != before:
                array.fill(value)
            self._numbers[name] = value, array
        return [self._numbers[name][1] for name in values]

    def run(self, arrays: list[Array], gradient: Array, numbers: list[Array]) -> None:
        """Update one parameter, given its parts of the flat arrays. Half precision is rounded once, at the end."""
        assert self.kernel is not None
        g = gradient.reshape(-1)
        if g.dtype != self.dtype:
            g = g.astype(self.dtype)
        if not self.half:
            self.kernel(arrays[0], g, *arrays[1:], *numbers, *arrays)
            return
        wide = arrays[0].astype(self.dtype)
        self.kernel(wide, g, *arrays[1:], *numbers, wide, *arrays[1:])
        arrays[0][...] = wide

    def run_rows(self, arrays: list[Array], gradient: Array, numbers: list[Array]) -> None:
        """`run` for the rows of a parameter (along its first axis) whose gradient is not all 0."""
        if not gradient.size:
            return
        g = gradient.reshape(len(gradient) if gradient.ndim else 1, -1)
        (rows,) = (g != 0).any(axis=1).nonzero()
        if len(rows) == len(g):
            self.run(arrays, g, numbers)
        elif len(rows):
            tables = [array.reshape(g.shape) for array in arrays]
            some = [table[rows] for table in tables]
            self.run([part.reshape(-1) for part in some], g[rows], numbers)
            for table, part in zip(tables, some, strict=True):
                table[rows] = part

    def gather(self, params: list[Tensor]) -> None:
        """Move the data of the parameters into the flat array, unless they are there."""
        if self.holds(params, self.flat):
            return
        for i, (start, stop) in zip(self.indices, self.parts, strict=True):
            part = self.flat[start:stop].reshape(params[i].shape)
            put(part, params[i]._data)
            params[i]._data = part
            changes.count += 1

    def holds(self, params: list[Tensor], flat: Array) -> bool:
        """Whether the parameters are consecutive views of `flat`, as after another optimiser has concatenated them."""
        begin = address(flat)
        return flat.shape == (self.parts[-1][1],) and all(
            address(params[i]._data) == begin + start * flat.itemsize and params[i]._data.flags.c_contiguous
            for i, (start, _) in zip(self.indices, self.parts, strict=True)
        )

    def flush(self, bounds: Mapping[str, float]) -> list[Array]:
        """Flush negligible parameters, and slot values below their bound, to 0. Not on a GPU, where subnormal numbers are not
        slower. Returns the arrays that changed.
        """
        if self.device != "cpu":
            return []
        arrays = [] if self.half else [(self.flat, self.tiny * 2**26)]
        arrays += [(self.state[slot], bound) for slot, bound in bounds.items() if slot in self.state]
        changed = []
        for array, bound in arrays:
            small = (np.abs(array) < bound) & (array != 0)
            if small.any():
                array[small] = 0
                changed.append(array)
        return changed


def blocks_of(
    params: list[Tensor], groups: tuple[ParamGroup, ...], slots: Callable[[ParamGroup], tuple[str, ...]]
) -> list[Block]:
    """The blocks of all groups, whose parameters are consecutive in `params`: one for each dtype and device in each group."""
    blocks = []
    start = 0
    for group in groups:
        by_kind: dict[Any, list[int]] = {}
        for i in range(start, start + len(group["params"])):
            by_kind.setdefault((params[i].dtype, params[i].device), []).append(i)
        start += len(group["params"])
        blocks += [Block(params, group, indices, slots(group)) for indices in by_kind.values()]
    return blocks
