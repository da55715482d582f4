"""Verification of a finished plan before its first run: every read must see the value that the program means.

The planner is not trusted. The check walks through the emitted calls in order, with the actual array of each value, and tracks
memory byte by byte (contents.py). It proves that

- the calls are those of the program, or chains that compute the same as some of them (meaning.py)
- a call reads a value only where all of its bytes are as the program last computed them; so nothing live is overwritten
- a result overlaps an operand only if the kernel supports that and it is declared, and never another result
- outside memory is only written by assignments of the program, and finally holds all of them
- the parts of a loop cover each sample once; threads write to separate memory; every sum includes every part

This shares no code with memory.py, rows.py and emit.py.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Any

import numpy as np

from tensorgrad.compiler.calls import Accumulate, Assign, Call, ChainCall
from tensorgrad.compiler.contents import GARBAGE, INITIAL, Content, Memory, Place, strides_of
from tensorgrad.compiler.emit import Issued, Part, Parts
from tensorgrad.compiler.meaning import Meaning
from tensorgrad.compiler.values import Value, lineage
from tensorgrad.core.backend import Array, address
from tensorgrad.core.location import line_of


class Fault(Exception):
    """The error in a plan, in words."""


def fault_of(
    program: list[Call],
    issued: list[Issued],
    returned: list[Value],
    assigned: list[tuple[Value, Value]],
    plan_memory: list[Array],
    arrays: dict[Value, Any],
) -> str:
    """The error in a plan, or "".

    program       the calls from lowering the nodes
    issued        those of the plan, with the arrays that they use
    returned      the values that a run returns;  arrays: the arrays of those that have one before a run
    assigned      in order, outside memory and the values that the program assigns to it
    plan_memory   the blocks of the plan
    """
    if [c for c in program if c.draws] != [c for entry in issued for c in entry.call.parts if c.draws]:
        return "random numbers are not drawn in the order of the program"
    if [c for c in program if c.meets] != [c for entry in issued for c in entry.call.parts if c.meets]:
        return "ranks do not meet in the order of the program"
    number = 0
    try:
        computed = {v.root for entry in issued if not isinstance(entry.call, Assign) for v in entry.call.outputs}
        checker = Checker(Meaning(program), assigned, plan_memory, computed)
        for number, entry in enumerate(issued, 1):  # noqa: B007
            checker.call(entry)
        number = 0
        checker.check_end(returned, arrays)
    except Fault as fault:
        return f"call {number} of {len(issued)}{location_of(issued[number - 1].call)}, {fault}" if number else str(fault)
    return ""


def location_of(call: Call) -> str:
    """ " (0.linear at model.py:14)": where a call comes from."""
    if not call.nodes:
        return ""
    node = call.nodes[-1]
    name = f"{node.scope}.{node.op.name}" if node.scope else node.op.name
    line = line_of(node.made)
    return f" ({name}{f' at {line}' if line else ''})"


class Checker:
    """The state of one check."""

    def __init__(
        self, meaning: Meaning, assigned: list[tuple[Value, Value]], plan_memory: list[Array], computed: set[Value]
    ) -> None:
        self.meaning = meaning
        self.places: dict[int, tuple[Array, Place]] = {}  # by id of the array
        self.expected: dict[tuple[Value, int], tuple[Place, Content | Memory]] = {}  # by value and id of the array
        self.memory = Memory({})
        self.allocated: set[Value] = set()  # arrays allocated by operations: see Apply
        self.assigned, self.computed = assigned, computed
        self.targets: dict[Value, list[Value]] = {}  # assigned values to their targets
        for target, value in assigned:
            self.targets.setdefault(value.root, []).append(target)
        self.regions = Regions([self.place(target.array) for target, _ in assigned])
        self.outside_after: dict[tuple[int, ...], Memory] = {}  # outside memory after some of the assignments
        blocks = [self.place(block) for block in plan_memory]
        self.plan_memory = Regions(blocks)
        if any(a.meets(b) for a, b in pairwise(sorted(blocks))):
            raise Fault("two blocks of the plan's memory overlap")
        for block in blocks:
            self.memory.fill(block.start, block.stop, GARBAGE)

    def place(self, array: Array) -> Place:
        if id(array) not in self.places:
            self.places[id(array)] = array, Place.of(array)
        return self.places[id(array)][1]

    def same(self, a: Array | None, b: Array | None) -> bool:
        """Whether two arrays are the same memory with the same layout."""
        if a is None or b is None:
            return False
        first, second = self.place(a), self.place(b)
        return first == second and a.shape == b.shape and a.dtype == b.dtype

    def call(self, issued: Issued) -> None:
        if not issued.lines:
            raise Fault(f"{issued.call.name} is never run")
        for call in issued.call.parts:
            if error := self.meaning.error_in(call):
                raise Fault(error)
        if issued.loop is not None:
            self.loop(issued, issued.loop)
            return
        self.check_overlaps(issued, [self.read(issued.call, v, issued.arrays[v]) for v in issued.call.reads])
        for v in issued.call.outputs:
            self.write(issued, v)

    # Reading

    def read(self, call: Call, v: Value, array: Array | None) -> Place | None:
        """Check that the bytes of `array` are those of the value; return its place."""
        if array is None:
            root = v.root
            if root.kind == "argument":
                return None
            if root not in self.allocated:
                raise Fault(f"{call.name} reads {describe(v)}, which has not been computed")
            return None
        place, content = self.expected.get((v, id(array))) or self.expect(call, v, array)
        if not self.memory.holds(place, content) and (difference := self.memory.differs(array, place, content)) is not None:
            raise Fault(f"{call.name} reads {describe(v)} where {describe_contents(*difference)}")
        return place

    def expect(self, call: Call, v: Value, array: Array) -> tuple[Place, Content | Memory]:
        """The place of a value, and the content it must have when it is read. The array must have the value's layout; an
        outside value must be in the outside memory itself."""
        place, root = self.place(array), v.root
        if v.base is None and root.array is None:
            offset, has_same_layout = 0, bool(array.flags.c_contiguous)
        else:
            offset, strides = position(v)
            has_same_layout = place.strides == strides or array.size < 2
        if not has_same_layout or array.shape != v.shape or array.dtype != v.dtype:
            raise Fault(f"{call.name} reads {describe(v)} as {array.shape} {array.dtype}, whose layout differs")
        if root.array is not None and array.size and place.first != address(root.array) + offset:
            raise Fault(f"{call.name} reads {describe(v)} from memory other than the outside array")
        content: Content | Memory = (root, place.first - offset)
        if root.kind == "outside" and root not in self.computed:
            content = self.outside_content(place, root.after)
        elif root.kind in ("argument", "number"):
            content = INITIAL
        self.expected[v, id(array)] = place, content
        return place, content

    def outside_content(self, place: Place, after: int) -> Content | Memory:
        """The content of outside memory after a number of assignments."""
        earlier = tuple(i for i in self.regions.meeting(place) if i < after)
        if not earlier:
            return INITIAL
        if earlier not in self.outside_after:
            memory = self.outside_after[earlier] = Memory(self.memory.numbers)
            for i in earlier:
                target, value = self.assigned[i]
                target_place = self.place(target.array)
                memory.put(target.array, target_place, self.copied_content(value, target.array))
        return self.outside_after[earlier]

    def copied_content(self, v: Value, array: Array) -> Content:
        """The content of an array to which a value has been copied."""
        if v.contiguous and v.root.kind != "argument" and self.place(array).dense:
            return v.root, self.place(array).first - position(v)[0]
        return v, self.place(array).first

    # Writing

    def check_overlaps(self, issued: Issued, operands: list[Place | None]) -> None:
        """Check overlaps of results with operands and with each other. operands: the places of those that are values."""
        call = issued.call
        results = [None if (array := issued.arrays[v]) is None else self.place(array) for v in call.outputs]
        for k, place in enumerate(results):
            if place is None:
                continue
            for v, operand_place in zip(call.reads, operands, strict=True):
                if (
                    operand_place is None
                    or not operand_place.meets(place)
                    or not self.meet(issued.arrays[v], issued.arrays[call.outputs[k]])
                ):
                    continue
                j = call.inputs.index(v)
                if not (self.same(issued.arrays[v], issued.arrays[call.outputs[k]]) and j in call.overlays(k)):
                    raise Fault(f"{call.name} writes result {k} over operand {j}, which it still reads")
                if issued.shared.get(k) != j and not isinstance(call, Accumulate):
                    raise Fault(f"{call.name} writes result {k} over operand {j}, which is not declared as shared")
            for i, other in enumerate(results[:k]):
                if other is not None and self.meet(issued.arrays[call.outputs[i]], issued.arrays[call.outputs[k]]):
                    raise Fault(f"{call.name} writes two results to the same memory")

    def meet(self, a: Array, b: Array) -> bool:
        """Whether two arrays have bytes in common."""
        first, second = self.place(a), self.place(b)
        if not first.meets(second) or (first.dense and second.dense):
            return first.meets(second)
        memory = Memory({})
        memory.put(a, first, GARBAGE)
        return memory.differs(b, second, INITIAL) is not None

    def write(self, issued: Issued, v: Value) -> None:
        call, array, root = issued.call, issued.arrays[v], v.root
        if array is None:
            if root.kind != "fresh":
                raise Fault(f"{call.name} writes {describe(v)}, which has no memory")
            self.allocated.add(root)
            return
        if isinstance(call, Assign):
            (value,) = call.inputs
            if not any(self.same(t.array, array) for t, source in self.assigned if source is value):
                raise Fault(f"{call.name} writes to outside memory that the program does not assign")
            self.memory.put(array, self.place(array), self.copied_content(value, array))
            return
        place, content = self.expected.get((v, id(array))) or self.expect(call, v, array)
        if root.kind in ("number", "argument") or isinstance(content, Memory):
            raise Fault(f"{call.name} writes to an input")
        if not self.plan_memory.cover(place):  # it is assigned, or a part of an assigned value
            targets = [self.place(t.array) for t in self.targets.get(root, []) if t.shape == root.shape]
            if not any(content[1] == target.first and target.dense for target in targets):
                raise Fault(f"{call.name} writes {describe(v)} to memory that is neither the plan's nor assigned")
        self.memory.put(array, place, content)

    # Loops

    def loop(self, issued: Issued, parts: Parts) -> None:
        """Check a loop over parts of the samples, in threads: each starts with undefined memory."""
        call, loop, n = issued.call, parts.loop, parts.loop.split.samples
        ends = sorted((part.start, part.stop) for work in parts.work for part in work)
        is_complete = bool(ends) and ends[0][0] == 0 and ends[-1][1] == n and all(a < b for a, b in ends)
        if not is_complete or any(a[1] != b[0] for a, b in pairwise(ends)):
            raise Fault(f"{call.name}: the parts {ends} do not cover {n} samples exactly once")
        self.check_overlaps(issued, [self.read(call, v, issued.arrays[v]) for v in call.reads])
        if parts.sliced != [v in loop.split.has_rows for v in parts.inputs]:
            raise Fault(f"{call.name}: a value without rows is split into parts, or one with rows is not")
        if len(parts.totals) != len(parts.work) or any(len(t) != len(loop.totals) for t in parts.totals):
            raise Fault(f"{call.name}: not every thread has memory for its sums")
        for v, array in zip((*loop.totals, *loop.spread), (*parts.totals[0], *parts.spread), strict=True):
            if not self.same(issued.arrays[v], array):
                raise Fault(f"{call.name}: {describe(v)} is not written where it is read")
        merged = [(total, other) for others in parts.totals[1:] for total, other in zip(parts.totals[0], others, strict=True)]
        if [(id(a), id(b)) for a, b in parts.merged] != [(id(a), id(b)) for a, b in merged]:
            raise Fault(f"{call.name}: the sums of the threads are not each added exactly once")
        blocks = [self.place(block) for private in parts.private for block in private]
        if not all(map(self.plan_memory.cover, blocks)):
            raise Fault(f"{call.name}: memory of a thread is not the plan's")
        blocks += [self.place(issued.arrays[v]) for v in call.outputs]
        if any(a.meets(b) for a, b in pairwise(sorted(blocks))):
            raise Fault(f"{call.name}: two threads, or two values, share memory")
        for i, work in enumerate(parts.work):
            for k, part in enumerate(work):
                if part.first != (k == 0):
                    raise Fault(f"{call.name}: part {k} of thread {i} {'writes' if part.first else 'adds to'} its sums")
            for part in {(id(part.issued), part.first, part.stop - part.start): part for part in work}.values():
                self.part(call, parts, part, i)
        for v in call.outputs:
            self.write(issued, v)

    def part(self, call: Call, parts: Parts, part: Part, thread: int) -> None:
        """Check one part of the samples, in one thread."""
        self.check_part_calls(call, parts, part)
        before = self.memory, self.allocated
        self.memory, self.allocated = self.memory.copy(), set(self.allocated)
        totals = dict(zip(parts.loop.totals, parts.totals[thread], strict=True))
        blocks = [self.place(block) for block in (*parts.private[thread], *totals.values())]
        thread_memory = Regions(blocks)
        for block in blocks:
            self.memory.fill(block.start, block.stop, GARBAGE)
        previous_sums = {
            v: ("the sum of the previous parts", self.place(total).first) for v, total in totals.items() if not part.first
        }
        for v, content in previous_sums.items():
            self.memory.put(totals[v], self.place(totals[v]), content)
        added: list[Value] = []
        for issued in part.issued:
            if not issued.lines:
                raise Fault(f"{call.name}: {issued.call.name} is never run")
            if isinstance(issued.call, Accumulate):
                total, v = issued.call.inputs
                (after,) = issued.call.outputs
                if v not in previous_sums or not all(self.same(issued.arrays[x], totals[v]) for x in (total, after)):
                    raise Fault(f"{call.name}: a sum is added to a different array")
                self.read(issued.call, v, issued.arrays[v])
                if self.memory.differs(totals[v], self.place(totals[v]), previous_sums[v]) is not None:
                    raise Fault(f"{call.name}: the sum of the previous parts is overwritten")
                added.append(v)
                continue
            for v in issued.call.outputs:
                if (array := issued.arrays[v]) is not None and not thread_memory.cover(self.place(array)):
                    raise Fault(f"{call.name}: {issued.call.name} writes to memory that is not its thread's")
            self.call_of_part(issued)
        if sorted(map(id, added)) != sorted(map(id, previous_sums)):
            raise Fault(f"{call.name}: not every sum of a part is added exactly once")
        for v, total in totals.items() if part.first else ():
            self.read(call, v, total)
        self.memory, self.allocated = before

    def check_part_calls(self, call: Call, parts: Parts, part: Part) -> None:
        """Check that a part runs the calls of the loop, on values with the part's number of rows."""
        rows, split = part.stop - part.start, parts.loop.split
        calls = [issued.call for issued in part.issued if not isinstance(issued.call, Accumulate)]
        if len(calls) != len(parts.loop.calls):
            raise Fault(f"{call.name}: {len(calls)} of {len(parts.loop.calls)} kernels run on a part")
        for narrow, wide in zip(calls, parts.loop.calls, strict=True):
            is_same = all(vars(narrow)[key] is x for key, x in vars(wide).items() if key not in ("inputs", "outputs", "shape"))
            if not is_same or (isinstance(narrow, ChainCall) and narrow.shape != (rows, *narrow.shape[1:])):
                raise Fault(f"{call.name}: {narrow.name} runs on a part, instead of {wide.name}")
            for v, wide_value in zip((*narrow.inputs, *narrow.outputs), (*wide.inputs, *wide.outputs), strict=True):
                shape = getattr(wide_value, "shape", None)
                if wide_value in split.has_rows:
                    shape = (rows, *wide_value.shape[1:])
                elif wide_value in split.has_columns:
                    shape = (*wide_value.shape[:-1], rows)
                elif v is not wide_value:
                    raise Fault(f"{call.name}: {narrow.name} runs on different values for a part")
                if getattr(v, "shape", None) != shape:
                    raise Fault(f"{call.name}: samples {part.start} to {part.stop} are computed by a kernel for {v.shape}")

    def call_of_part(self, issued: Issued) -> None:
        """Check a call of a part. Rows of the loop's results are only known in a run; they are read after they are written."""
        rows = {v.root for v in issued.call.outputs if issued.arrays[v] is None and v.root.kind != "fresh"}
        self.check_overlaps(issued, [self.read(issued.call, v, issued.arrays[v]) for v in issued.call.reads])
        for v in issued.call.outputs:
            if v.root in rows:
                self.allocated.add(v.root)
            else:
                self.write(issued, v)

    # Final state

    def check_end(self, returned: list[Value], arrays: dict[Value, Any]) -> None:
        last = Call("the end", [], [], [])
        for v in returned:
            self.read(last, v, arrays.get(v))
        for i, (target, _) in enumerate(self.assigned):
            place = self.place(target.array)
            if self.memory.differs(target.array, place, self.outside_content(place, len(self.assigned))) is not None:
                raise Fault(f"outside memory ({describe(target)}) does not hold its last assignment, {i}")


class Regions:
    """Sorted places; overlapping ones are merged."""

    def __init__(self, places: list[Place]) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []
        self.members: list[list[int]] = []
        for i in sorted(range(len(places)), key=lambda i: places[i]):
            if not self.stops or places[i].start >= self.stops[-1]:
                self.starts.append(places[i].start)
                self.stops.append(places[i].stop)
                self.members.append([])
            self.members[-1].append(i)
            self.stops[-1] = max(self.stops[-1], places[i].stop)

    def meeting(self, place: Place) -> list[int]:
        """The indices of the places in the regions that a place overlaps, in order."""
        indices: list[int] = []
        for k in range(max(bisect_right(self.starts, place.start) - 1, 0), len(self.starts)):
            if self.starts[k] >= place.stop:
                break
            indices += self.members[k] if place.start < self.stops[k] else []
        return sorted(indices)

    def cover(self, place: Place) -> bool:
        """Whether a place is inside one region; empty places always are."""
        if place.start == place.stop:
            return True
        k = bisect_right(self.starts, place.start) - 1
        return k >= 0 and place.stop <= self.stops[k]


def position(v: Value) -> tuple[int, tuple[int, ...]]:
    """The offset in bytes and the strides of a value within the value that owns its memory.

    The owner is C-contiguous, unless it is outside memory.
    """
    first, *others = reversed(lineage(v))
    array = first.array
    if array is None:
        strides = [first.dtype.itemsize] * len(first.shape)
        for i in range(len(strides) - 2, -1, -1):
            strides[i] = strides[i + 1] * first.shape[i + 1]
        if not others:
            return 0, tuple([stride for n, stride in zip(v.shape, strides, strict=True) if n > 1])
        array = np.lib.stride_tricks.as_strided(np.empty(1, first.dtype), first.shape, strides)
    start = address(array)
    for view in others:
        assert view.make_view is not None
        array = view.make_view(array, view.shape)
    return address(array) - start, strides_of(array)


def describe(v: Value) -> str:
    return f"{v.shape} {v.dtype}"


def describe_contents(actual: Content, expected: Content) -> str:
    """A description of the wrong content."""
    if actual is GARBAGE or (actual is INITIAL and expected is not INITIAL):
        return "nothing has been written yet"
    if actual[0] is expected[0]:
        return "its elements are elsewhere"
    if actual is INITIAL:
        return "the initial value is"
    node = getattr(actual[0], "node", None)
    op_name = f" ({node.op.name})" if node is not None else ""
    return f"another value{op_name} of {getattr(actual[0], 'shape', '')} is by then"
