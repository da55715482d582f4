"""Grouping: elementwise calls on arrays of the same shape become chains, with column sums of their results."""

from __future__ import annotations

import math

from tensorgrad.compiler.calls import Assign, Call, ChainCall, Elementwise, Reduction
from tensorgrad.compiler.values import Value, lineage
from tensorgrad.core.backend import dtype_name
from tensorgrad.core.signature import Shape
from tensorgrad.kernels import thresholds
from tensorgrad.kernels.chain import Chain, Operand, Ref, Step


class Group:
    """A chain under construction: elementwise calls of one shape, whose inputs all exist when the first of them runs."""

    def __init__(self, shape: Shape, slot: int) -> None:
        self.shape, self.slot = shape, slot
        self.calls: list[Elementwise] = []
        self.sums: list[Reduction] = []
        self.computed: set[Value] = set()
        self.read: set[Value] = set()

    def is_full(self, call: Call) -> bool:
        """Whether a call should begin a new chain: if this one is long, or half as long and unrelated to the call. So equal
        layers have equal chains, which are compiled once."""
        if 2 * self.length < thresholds.CHAIN:
            return False
        return self.length >= thresholds.CHAIN or not any(v in self.computed or v in self.read for v in call.reads)

    @property
    def length(self) -> int:
        return len(self.calls) + len(self.sums)

    def chain(self, needed: set[Value]) -> ChainCall:
        """The chain as one call. needed: the values that other calls read."""
        operands: dict[Value, None] = {}
        for call in (*self.calls, *self.sums):
            operands |= {v: None for v in call.reads if v not in self.computed}
        registers = {v: i for i, v in enumerate(operands)}
        steps = []
        for call in self.calls:
            inputs = tuple(Ref(registers[v]) if isinstance(v, Value) else v for v in call.inputs)
            out = call.outputs[0]
            steps.append(Step(call.name, inputs, dtype_name(out.dtype), call.quiet))
            registers[out] = len(operands) + len(steps) - 1
        full = [call.outputs[0] for call in self.calls if call.outputs[0] in needed]
        if self.calls and not full and all(v.shape != self.shape for v in operands):
            full = [self.calls[-1].outputs[0]]  # a kernel gets the number of rows from an array
        results = [(registers[v], "full") for v in full] + [(registers[call.inputs[0]], "sum") for call in self.sums]
        chain = Chain(
            tuple(Operand(layout(v, self.shape), dtype_name(v.dtype)) for v in operands), tuple(steps), tuple(results)
        )
        nodes = [node for call in (*self.calls, *self.sums) for node in call.nodes]
        label = "·".join([call.name for call in self.calls] + ["sum" for _ in self.sums])
        outputs = full + [call.outputs[0] for call in self.sums]
        flops = sum(call.flops for call in (*self.calls, *self.sums))
        return ChainCall(chain, self.shape, label, list(operands), outputs, nodes, flops)


def layout(value: Value, shape: Shape) -> str:
    """The layout of a value relative to a chain's shape; "" if it has none."""
    if value.shape == ():
        return "number"
    if not value.contiguous:
        return ""
    if value.shape == shape:
        return "full"
    if math.prod(value.shape) == 1 and len(value.shape) <= len(shape):
        return "number"
    if len(shape) > 1 and value.shape == shape[-1:]:
        return "row"
    if len(shape) > 1 and value.shape == (*shape[:-1], 1):
        return "column"
    return ""


def grouped(calls: list[Call], keep: set[Value]) -> list[Call]:
    """The calls, with elementwise ones replaced by chains. keep: values that outlive the calls."""
    slots: list[Call | Group] = []
    completed_at: dict[Value, int] = {}  # the slot after which a value and its views are complete
    group_of: dict[Value, Group] = {}
    open_groups: dict[Shape, Group] = {}
    assigns: list[int] = []  # the slots of assignments

    def ready(v: Value, group: Group) -> bool:
        return v in group.computed or completed_at.get(v.root, -1) < group.slot

    def complete(v: Value, index: int) -> None:
        completed_at[v.root] = max(index, completed_at.get(v.root, -1))

    for call in calls:
        if isinstance(call, Assign):
            open_groups.clear()  # later reads of the memory must not run before it
            assigns.append(len(slots))
        if isinstance(call, Elementwise):
            shape: Shape = call.outputs[0].shape
            if shape and 0 not in shape and all(layout(v, shape) for v in call.reads):
                group = open_groups.get(shape)
                if group is None or group.is_full(call) or not all(ready(v, group) for v in call.reads):
                    group = open_groups[shape] = Group(shape, len(slots))
                    slots.append(group)
                group.calls.append(call)
                group.computed.add(call.outputs[0])
                group.read.update(call.reads)
                complete(call.outputs[0], group.slot)
                group_of[call.outputs[0]] = group
                continue
        if isinstance(call, Reduction) and call.is_column_sum:
            sum_group = group_of.get(call.inputs[0])
            if sum_group is None or open_groups.get(sum_group.shape) is not sum_group or sum_group.length >= thresholds.CHAIN:
                sum_group = Group(call.inputs[0].shape, len(slots))
                slots.append(sum_group)
            sum_group.sums.append(call)
            complete(call.outputs[0], sum_group.slot)
            continue
        for v in call.outputs:
            complete(v, len(slots))
        slots.append(call)
    read_by: dict[Value, set[int]] = {}
    for i, slot in enumerate(slots):
        for v in values_read_by(slot):
            read_by.setdefault(v, set()).add(i)
    for i, slot in enumerate(slots):
        if isinstance(slot, Group) and slot.calls:
            merge_into_reader(slot, i, slots, read_by, keep, assigns)
    result: list[Call] = []
    for i, slot in enumerate(slots):
        if isinstance(slot, Call):
            result.append(slot)
        elif slot.calls or slot.sums:
            # a view is read together with its base
            needed = {v for v in slot.computed if v in keep or v.base is not None or read_by.get(v, set()) - {i}}
            result.append(slot.chain(needed))
    return result


def values_read_by(slot: Call | Group) -> dict[Value, None]:
    """The values that a call or group reads, and their bases."""
    calls: list[Call] = [*slot.calls, *slot.sums] if isinstance(slot, Group) else [slot]
    return {base: None for call in calls for v in call.reads for base in lineage(v)}


def merge_into_reader(
    group: Group, i: int, slots: list[Call | Group], read_by: dict[Value, set[int]], keep: set[Value], assigns: list[int]
) -> None:
    """Merge this group into a later one of the same shape if nothing else reads it; its values are then not written."""
    readers = set().union(*(read_by.get(v, set()) for v in group.computed)) - {i}
    if len(readers) != 1 or group.sums or any(v in keep or v.base is not None for v in group.computed):
        return
    (j,) = readers
    later = slots[j]
    if not isinstance(later, Group) or later.shape != group.shape or not later.calls:
        return
    reads = [v for call in (*later.calls, *later.sums) for v in call.reads if v not in group.computed]
    if any(base in group.computed for v in reads for base in lineage(v)):  # read through a view
        return
    if group.length + later.length > thresholds.CHAIN:  # compile time grows faster than the length of a kernel
        return
    if any(i < k < j for k in assigns):  # what it reads may have been assigned by then
        return
    if needs_more_memory(group, i, read_by):
        return
    later.calls = [*group.calls, *later.calls]
    later.computed |= group.computed
    for base in values_read_by(group):
        read_by[base].discard(i)
        read_by[base].add(j)
    group.calls, group.computed = [], set()


def needs_more_memory(group: Group, i: int, read_by: dict[Value, set[int]]) -> bool:
    """Whether merging would keep large inputs alive longer than the group's results: the terms of a long sum are added as they
    are computed."""
    nbytes = math.prod(group.shape) * 4
    if nbytes < thresholds.SLICE:
        return False
    read = {v for call in group.calls for v in call.reads if v not in group.computed and v.shape == group.shape}
    ending = [v for v in read if v.root.kind == "buffer" and max(read_by[v.root], default=i) == i]
    return len(ending) > 1
