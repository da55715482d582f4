"""Memory: placement of a plan's values. Each occupies memory from the call that computes it to the last that reads it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from tensorgrad.compiler.calls import Assign, Call
from tensorgrad.compiler.values import Value, overlap
from tensorgrad.core.backend import Array, address


@dataclass
class Layout:
    """blocks: sizes in bytes;  place: value to block;  shared: call to {result: operand} in the same memory."""

    blocks: list[int] = field(default_factory=list)
    place: dict[Value, int] = field(default_factory=dict)
    shared: dict[Call, dict[int, int]] = field(default_factory=dict)


def assigned_in_place(calls: list[Call]) -> list[Call]:
    """The calls without assignments of values that can be computed directly in their target memory."""
    producer_at = {v: i for i, call in enumerate(calls) for v in call.outputs if not isinstance(call, Assign)}
    dropped = set()
    for i, call in enumerate(calls):
        if not isinstance(call, Assign):
            continue
        (value,), (target,) = call.inputs, call.outputs
        index = producer_at.get(value)
        is_compatible = (
            value.kind == "buffer" and value.shape == target.shape and value.dtype == target.dtype and target.contiguous
        )
        if index is None or not is_compatible:
            continue
        producer = calls[index]
        is_used_between = any(overlap(v, target) for c in calls[index + 1 : i] for v in (*c.reads, *c.outputs))
        overwritable = [producer.inputs[j] for j in producer.overlays(producer.outputs.index(value))]
        overlapping = [v for v in producer.reads if overlap(v, target)]
        if is_used_between or any(not one_memory(v, target) or not any(v is o for o in overwritable) for v in overlapping):
            continue
        value.kind, value.array = "outside", target.array
        dropped.add(call)
    return [call for call in calls if call not in dropped]


def one_memory(a: Value, b: Value) -> bool:
    """Whether two values are the same elements of the same outside memory."""
    if not (a.kind == b.kind == "outside" and a.shape == b.shape and a.array is not None and b.array is not None):
        return False
    return address(a.array) == address(b.array) and bool(a.array.strides == b.array.strides) and a.dtype == b.dtype


def lay_out(calls: list[Call], keep: Container[Value], placed: Container[Value] = ()) -> Layout:
    """Assign a block to every buffer; blocks are reused when their value is no longer read.

    keep    values that are read after the last call
    placed  buffers that are already placed
    """
    last: dict[Value, int] = {}
    for i, call in enumerate(calls):
        for v in (*call.reads, *call.outputs):
            last[v.root] = len(calls) if v in keep or v.root in keep else i
    layout = Layout()
    free = Free(layout.blocks)
    owner: dict[int, Value] = {}  # the value in a block at the moment

    def placeable(v: Value) -> bool:
        return v.kind == "buffer" and v not in layout.place and v not in placed

    for i, call in enumerate(calls):
        roots = list(dict.fromkeys(v.root for v in call.outputs if placeable(v.root)))
        overwritten: set[int] = set()
        for value in roots:
            j = in_place(call, value, i, last, overwritten, layout.place)
            if j is not None:
                layout.place[value] = layout.place[call.inputs[j].root]
                layout.shared.setdefault(call, {})[call.outputs.index(value)] = j
                overwritten.add(j)
            else:
                layout.place[value] = free.take(max(value.nbytes, 1))
            owner[layout.place[value]] = value
        for v in {v.root: None for v in (*call.reads, *call.outputs)}:
            if last[v] == i and v in layout.place and owner[layout.place[v]] is v:
                free.give(layout.place[v])
    return layout


def in_place(
    call: Call, value: Value, i: int, last: dict[Value, int], overwritten: set[int], place: dict[Value, int]
) -> int | None:
    """An operand that a result may overwrite: one with the same layout that nothing reads afterwards."""
    if value not in call.outputs:
        return None
    roots = [v.root for v in call.reads]
    for j in call.overlays(call.outputs.index(value)):
        v = call.inputs[j]
        root = v.root
        has_same_layout = v.shape == value.shape and v.dtype == value.dtype and v.contiguous and root.nbytes == value.nbytes
        is_last_use = (
            root in place and roots.count(root) == 1 and last[root] == i and root not in [o.root for o in call.outputs]
        )
        if j not in overwritten and has_same_layout and is_last_use:
            return j
    return None


class Free:
    """The free blocks, by size."""

    def __init__(self, blocks: list[int]) -> None:
        self.blocks = blocks
        self.sorted: list[tuple[int, int]] = []

    def give(self, block: int) -> None:
        insort(self.sorted, (self.blocks[block], block))

    def take(self, nbytes: int) -> int:
        """A free block that is large enough but less than twice too large, or a new one."""
        i = bisect_left(self.sorted, (nbytes, -1))
        if i < len(self.sorted) and self.sorted[i][0] <= 2 * nbytes + 4096:
            return self.sorted.pop(i)[1]
        self.blocks.append(nbytes)
        return len(self.blocks) - 1


def arrays_for(layout: Layout, blocks: list[Array]) -> dict[Value, Array]:
    """The array of each placed value, in existing blocks of bytes."""
    return {value: blocks[b][: value.nbytes].view(value.dtype).reshape(value.shape) for value, b in layout.place.items()}


def resolve(value: Value, arrays: dict[Value, Any]) -> Array | None:
    """The array of a value, if known before a run; views are taken of their base."""
    if value in arrays:
        return arrays[value]
    array = value.array
    if array is None and value.base is not None and (base := resolve(value.base, arrays)) is not None:
        assert value.make_view is not None
        array = value.make_view(base, value.shape)
    if array is not None:
        arrays[value] = array
    return array
