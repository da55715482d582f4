"""Blocks: the parameters of a group that lie together in one flat array, and their state beside them."""

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
    indices   which of the optimiser's parameters
    flat      all of them, one after the other; parts[k] is where the k-th begins and ends
    dtype     what is computed in: that of the parameters, but float32 for those of half precision
    state     slot to an array like it, of that dtype
    views     for each parameter its part of the flat array and of the state
    tiny      the smallest normal number of the dtype;  least: the smallest of all above 0
    kernel    what a step runs, for the settings of this version of the group; None where it is to be looked for
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
            self.near: Array = namespace([first]).empty((), self.dtype)  # says where numbers belong
            self.state = {slot: namespace([first]).zeros(self.flat.shape, self.dtype) for slot in slots}
        # perhaps another optimiser has put them together
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
        """Numbers as 0-d arrays where the parameters are; on a GPU only those that have changed are written anew."""
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
        """Change one parameter, whose parts of the flat arrays are given. Half precision is rounded once, at the end."""
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
        """`run` for those rows of a parameter, along its first axis, whose gradient is not 0 throughout."""
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
        """Let the data of the parameters lie in the flat array, where they do not."""
        if self.holds(params, self.flat):
            return
        for i, (start, stop) in zip(self.indices, self.parts, strict=True):
            part = self.flat[start:stop].reshape(params[i].shape)
            put(part, params[i]._data)
            params[i]._data = part
            changes.count += 1

    def holds(self, params: list[Tensor], flat: Array) -> bool:
        """Whether the parameters lie in `flat` one after the other, as those do that another optimiser has too."""
        begin = address(flat)
        return flat.shape == (self.parts[-1][1],) and all(
            address(params[i]._data) == begin + start * flat.itemsize and params[i]._data.flags.c_contiguous
            for i, (start, _) in zip(self.indices, self.parts, strict=True)
        )

    def flush(self, bounds: Mapping[str, float]) -> list[Array]:
        """Clear from the parameters what is too small to matter, and from slots what is closer to 0 than their bound. Not on a
        GPU, which is as fast with subnormal numbers. Returns the arrays that were changed."""
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
    """The blocks of groups, whose parameters follow one another in `params`: one for each dtype and device in each group."""
    found = []
    start = 0
    for group in groups:
        alike: dict[Any, list[int]] = {}
        for i in range(start, start + len(group["params"])):
            alike.setdefault((params[i].dtype, params[i].device), []).append(i)
        start += len(group["params"])
        found += [Block(params, group, indices, slots(group)) for indices in alike.values()]
    return found
