"""Grouping: elementwise calls on arrays of one shape become chains, with the column sums of what they make."""

from __future__ import annotations

import math

from tensorgrad.compiler.lower import Call, Value
from tensorgrad.kernels.chain import Chain, Operand, Ref
from tensorgrad.kernels.chain import Step as ChainStep

Shape = tuple[int, ...]


class Group:
    """A chain in the making: elementwise calls of one shape, each of whose inputs is there when the first of them runs."""

    def __init__(self, shape: Shape, at: int) -> None:
        self.shape, self.at = shape, at
        self.calls: list[Call] = []
        self.sums: list[Call] = []
        self.made: set[Value] = set()

    def chain(self, wanted: set[Value]) -> Call:
        """The chain as one call. wanted: the values that somebody else reads."""
        operands: list[Value] = []
        for call in (*self.calls, *self.sums):
            operands += [v for v in call.reads if v not in self.made and v not in operands]
        registers = {v: i for i, v in enumerate(operands)}
        steps = []
        for call in self.calls:
            inputs = tuple(Ref(registers[v]) if isinstance(v, Value) else v for v in call.inputs)
            out = call.outputs[0]
            steps.append(ChainStep(call.name, inputs, str(out.dtype), call.detail["quiet"]))
            registers[out] = len(operands) + len(steps) - 1
        full = [call.outputs[0] for call in self.calls if call.outputs[0] in wanted]
        if self.calls and not full and all(v.shape != self.shape for v in operands):
            full = [self.calls[-1].outputs[0]]  # a kernel finds the number of rows by an array that has them
        results = [(registers[v], "full") for v in full] + [(registers[call.inputs[0]], "sum") for call in self.sums]
        chain = Chain(tuple(Operand(layout(v, self.shape), str(v.dtype)) for v in operands), tuple(steps), tuple(results))
        nodes = [node for call in (*self.calls, *self.sums) for node in call.nodes]
        label = "·".join([call.name for call in self.calls] + ["sum" for _ in self.sums])
        outputs = full + [call.outputs[0] for call in self.sums]
        flops = sum(call.flops for call in (*self.calls, *self.sums))
        return Call("chain", label, list(operands), outputs, nodes, flops, {"chain": chain, "shape": self.shape})


def layout(value: Value, shape: Shape) -> str:
    """How a value lies against rows and columns of a chain's shape; "" if it does not fit either."""
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
    """The calls with chains in the places of elementwise ones. keep: values that outlive the calls."""
    slots: list[Call | Group] = []
    made_at: dict[Value, int] = {}
    group_of: dict[Value, Group] = {}
    open_groups: dict[Shape, Group] = {}

    def ready(v: Value, group: Group) -> bool:
        return v in group.made or made_at.get(v.root, -1) < group.at

    call: Call
    for call in calls:
        if call.kind == "assign":
            open_groups.clear()  # what reads the memory later must not run before it
        if call.kind == "elementwise":
            shape: Shape = call.outputs[0].shape
            if shape and 0 not in shape and all(layout(v, shape) for v in call.reads):
                group = open_groups.get(shape)
                if group is None or not all(ready(v, group) for v in call.reads):
                    group = open_groups[shape] = Group(shape, len(slots))
                    slots.append(group)
                group.calls.append(call)
                group.made.add(call.outputs[0])
                made_at[call.outputs[0]] = group.at
                group_of[call.outputs[0]] = group
                continue
        if call.kind == "reduce" and sums_columns(call):
            group = group_of.get(call.inputs[0])
            if group is None or open_groups.get(group.shape) is not group:
                group = Group(call.inputs[0].shape, len(slots))
                slots.append(group)
            group.sums.append(call)
            made_at[call.outputs[0].root] = group.at
            continue
        for v in call.outputs:
            made_at[v.root] = len(slots)
        slots.append(call)
    read_by: dict[Value, set[int]] = {}
    for i, slot in enumerate(slots):
        for call in (*slot.calls, *slot.sums) if isinstance(slot, Group) else [slot]:
            for v in call.reads:
                for seen in lineage(v):
                    read_by.setdefault(seen, set()).add(i)
    for i, slot in enumerate(slots):
        if isinstance(slot, Group) and slot.calls:
            put_off(slot, i, slots, read_by, keep)
    result: list[Call] = []
    for i, slot in enumerate(slots):
        if isinstance(slot, Call):
            result.append(slot)
        elif slot.calls or slot.sums:
            # what lies in a larger value is read with that
            wanted = {v for v in slot.made if v in keep or v.base is not None or read_by.get(v, set()) - {i}}
            result.append(slot.chain(wanted))
    return result


def put_off(group: Group, i: int, slots: list[Call | Group], read_by: dict[Value, set[int]], keep: set[Value]) -> None:
    """Let a later group of the same shape do the work of this one, if nobody else reads it: it is not written then."""
    readers = set().union(*(read_by.get(v, set()) for v in group.made)) - {i}
    if len(readers) != 1 or group.sums or any(v in keep or v.base is not None for v in group.made):
        return
    (j,) = readers
    later = slots[j]
    if not isinstance(later, Group) or later.shape != group.shape or not later.calls:
        return
    if any(isinstance(s, Call) and s.kind == "assign" for s in slots[i:j]):  # what it reads may be another value by then
        return
    later.calls = [*group.calls, *later.calls]
    later.made |= group.made
    for readers_of in read_by.values():
        if i in readers_of:
            readers_of.discard(i)
            readers_of.add(j)
    group.calls, group.made = [], set()


def sums_columns(call: Call) -> bool:
    """Whether a reduction is the sum over all axes but the last of an array that lies row after row."""
    x = call.inputs[0]
    return bool(call.detail["function"] == "add" and call.detail["axes"] == tuple(range(len(x.shape) - 1)) and x.contiguous)


def lineage(v: Value) -> list[Value]:
    """A value and those that it is a view of."""
    found = [v]
    while found[-1].base is not None:
        found.append(found[-1].base)
    return found
