"""Memory: which values of a plan lie where. Each has a place from the call that makes it to the last that reads it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from tensorgrad.compiler.lower import Call, Value
from tensorgrad.core.backend import Array, may_overlap


@dataclass
class Layout:
    """blocks: bytes of each piece of memory;  place: value to block;  shared: call to {result: operand} in one place."""

    blocks: list[int] = field(default_factory=list)
    place: dict[Value, int] = field(default_factory=dict)
    shared: dict[Call, dict[int, int]] = field(default_factory=dict)


def assigned_in_place(calls: list[Call]) -> list[Call]:
    """The calls without assignments of values that can be computed in the memory that they are assigned to."""
    made_by = {v: i for i, call in enumerate(calls) for v in call.outputs if call.kind != "assign"}
    dropped = set()
    for i, call in enumerate(calls):
        if call.kind != "assign":
            continue
        (value,), (target,) = call.inputs, call.outputs
        at = made_by.get(value)
        fits = value.kind == "buffer" and value.shape == target.shape and value.dtype == target.dtype and target.contiguous
        if at is None or not fits:
            continue
        maker = calls[at]
        between = any(overlap(v, target) for c in calls[at + 1 : i] for v in (*c.reads, *c.outputs))
        same = [v for v in maker.reads if overlap(v, target)]
        if between or any(v is not target or maker.kind != "chain" for v in same):
            continue
        value.kind, value.array = "outside", target.array
        dropped.add(call)
    return [call for call in calls if call not in dropped]


def overlap(a: Value, b: Value) -> bool:
    return a.root.kind == b.root.kind == "outside" and may_overlap(a.root.array, b.root.array)


def lay_out(calls: list[Call], keep: set[Value], given: Container[Value] = ()) -> Layout:
    """A block for every buffer, blocks being used again when what lay in them is not read any more.

    keep    values that are read after the last call
    given   buffers that have a place already
    """
    last: dict[Value, int] = {}
    for i, call in enumerate(calls):
        for v in (*call.reads, *call.outputs):
            last[v.root] = i
    for v in keep:
        last[v.root] = len(calls)
    # what an operation makes itself may share memory with what it was made from
    for i, call in reversed(list(enumerate(calls))):
        for v in call.outputs:
            if v.root.kind == "fresh":
                for s in call.reads:
                    last[s.root] = max(last.get(s.root, i), last.get(v.root, i))
    found = Layout()
    free: list[int] = []
    owner: dict[int, Value] = {}  # the value that lies in a block now

    def placeable(v: Value) -> bool:
        return v.kind == "buffer" and v not in found.place and v not in given

    for i, call in enumerate(calls):
        roots = list(dict.fromkeys(v.root for v in call.outputs if placeable(v.root)))
        taken: set[int] = set()
        for value in roots:
            j = in_place(call, value, i, last, taken, found.place) if call.kind == "chain" else None
            if j is not None:
                found.place[value] = found.place[call.inputs[j].root]
                found.shared.setdefault(call, {})[call.outputs.index(value)] = j
                taken.add(j)
            else:
                found.place[value] = take(found.blocks, free, max(value.nbytes, 1))
            owner[found.place[value]] = value
        for v in {v.root for v in (*call.reads, *call.outputs)}:
            if last[v] == i and v in found.place and owner[found.place[v]] is v:
                free.append(found.place[v])
    return found


def in_place(call: Call, value: Value, i: int, last: dict[Value, int], taken: set[int], place: dict[Value, int]) -> int | None:
    """An operand that a result of a chain may be written over: one that nothing reads afterwards."""
    layouts = [o.layout for o in call.detail["chain"].operands]
    roots = [v.root for v in call.reads]
    for j, v in enumerate(call.inputs):
        if j in taken or layouts[j] != "full" or v.dtype != value.dtype:
            continue
        root = v.root
        alone = root in place and root.nbytes == value.nbytes and roots.count(root) == 1 and last[root] == i
        if alone and value in call.outputs and root not in [o.root for o in call.outputs]:
            return j
    return None


def take(blocks: list[int], free: list[int], nbytes: int) -> int:
    """A free block that is large enough but less than twice too large, or a new one."""
    fitting = [b for b in free if nbytes <= blocks[b] <= 2 * nbytes + 4096]
    if fitting:
        best = min(fitting, key=lambda b: blocks[b])
        free.remove(best)
        return best
    blocks.append(nbytes)
    return len(blocks) - 1


def arrays_for(layout: Layout, blocks: list[Array]) -> dict[Value, Array]:
    """The array of each value that has a place, in blocks of bytes that are there."""
    return {value: blocks[b][: value.nbytes].view(value.dtype).reshape(value.shape) for value, b in layout.place.items()}


def resolve(value: Value, arrays: dict[Value, Any]) -> Array | None:
    """The array of a value, if it is known before a run: a view is looked at through what it is a view of."""
    if value in arrays:
        return arrays[value]
    if value.array is not None:
        return value.array
    if value.base is None:
        return None
    base = resolve(value.base, arrays)
    if base is None:
        return None
    assert value.look is not None
    arrays[value] = value.look(base, value.shape)
    return arrays[value]
