"""Checking a finished plan, before it runs for the first time: that every read sees the value that the program means.

The planner is not believed. What is gone through is what it has issued: calls in order, each value with the very array that the
plan uses for it. Memory is followed byte by byte, as intervals of addresses with what lies there, and then:

- a call reads a value only where all of its bytes lie as the program has made them last; so nothing live is written over
- a result lies over an operand only where the kernel is made for that, and over no other result
- memory from outside is written by what the program assigns to it alone, and in the end holds all of that
- the parts of a loop are all samples, each once; threads write to memory of their own; every sum has every part

This shares no code with memory.py, rows.py and emit.py.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.compiler.calls import Accumulate, Assign, Call
from tensorgrad.compiler.emit import Issued, Parts
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array, address, on_gpu

Content: TypeAlias = tuple[Any, int]  # of memory: a value, and the address at which its first byte would lie
INITIAL: Content = ("initial", 0)  # what was there before the run
GARBAGE: Content = ("garbage", 0)  # of an earlier run, or of nobody


class Fault(Exception):
    """What is wrong with a plan, in words."""


def fault_of(
    issued: list[Issued], returned: list[Value], assigned: list[tuple[Value, Value]], own: list[Array], arrays: dict[Value, Any]
) -> str:
    """What is wrong with a plan; "" if nothing is.

    issued    its calls, with the arrays that they use
    returned  the values that a run returns;  arrays: where they lie, of those that lie anywhere before a run
    assigned  in order, memory outside and what the program gives to it
    own       the plan's own memory
    """
    try:
        checker = Checker(assigned, own)
        for one in issued:
            checker.call(one)
        checker.ended(returned, arrays)
    except Fault as fault:
        return str(fault)
    return ""


class Memory:
    """What lies where: intervals of addresses that do not overlap, in order."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.pieces: list[tuple[int, int, Content]] = []

    def put(self, start: int, stop: int, content: Content) -> None:
        if stop <= start:
            return
        i = max(bisect_right(self.starts, start) - 1, 0)
        while i < len(self.pieces) and self.pieces[i][1] <= start:
            i += 1
        j, left = i, []
        while j < len(self.pieces) and self.pieces[j][0] < stop:
            a, b, before = self.pieces[j]
            left += [(a, start, before)] if a < start else []
            left += [(stop, b, before)] if b > stop else []
            j += 1
        new = sorted([*left, (start, stop, content)], key=lambda piece: piece[0])
        self.pieces[i:j] = new
        self.starts[i:j] = [piece[0] for piece in new]

    def found(self, start: int, stop: int) -> list[tuple[int, int, Content]]:
        """The pieces between two addresses; where nothing is known, nothing has been written."""
        result: list[tuple[int, int, Content]] = []
        i = max(bisect_right(self.starts, start) - 1, 0)
        at = start
        while i < len(self.pieces) and self.pieces[i][0] < stop:
            a, b, content = self.pieces[i]
            i += 1
            if b <= at:
                continue
            if a > at:
                result.append((at, a, INITIAL))
            result.append((max(a, at), min(b, stop), content))
            at = min(b, stop)
        if at < stop:
            result.append((at, stop, INITIAL))
        return result


class Checker:
    """The state of one check."""

    def __init__(self, assigned: list[tuple[Value, Value]], own: list[Array]) -> None:
        self.assigned = assigned
        self.memory = Memory()
        self.own: list[tuple[int, int]] = []
        for block in own:
            self.add_own(span_of(block))
        self.made: dict[Value, list[tuple[Value, Array | None]]] = {}  # an array that an operation made, and of what
        self.pieces: dict[Value, set[tuple[Any, ...]]] = {}  # of a value that is put together of parts: those that are there

    def add_own(self, span: tuple[int, int]) -> None:
        if any(max(a, span[0]) < min(b, span[1]) for a, b in self.own):
            raise Fault("two pieces of the plan's memory overlap")
        self.own.append(span)
        self.memory.put(*span, GARBAGE)

    def is_own(self, start: int, stop: int) -> bool:
        return start == stop or any(a <= start and stop <= b for a, b in self.own)

    def call(self, one: Issued) -> None:
        if one.loop is not None:
            self.loop(one, one.loop)
            return
        for v in one.call.reads:
            self.read(one.call, v, one.arrays[v])
        self.over_operands(one)
        for v in one.call.outputs:
            self.write(one, v)

    # Reading

    def read(self, call: Call, v: Value, array: Array | None) -> None:
        """The bytes of `array` have to be those of the value."""
        root = v.root
        if array is None:
            if root.kind == "argument":
                return
            if root not in self.made:
                raise Fault(f"{call.name} reads an array of {root.shape} that has not been made")
            for source, lying in self.made[root]:  # it may be a part of what it was made of
                self.read(call, source, lying)
            return
        if root.kind in ("argument", "number"):
            self.expect(call, v, array, INITIAL)
        elif root.kind == "outside" and not self.is_result(root):
            self.read_outside(call, v, array)
        else:
            offset, strides = position(v)
            if array.shape != v.shape or (strides_of(array) != strides and array.size > 1):
                raise Fault(f"{call.name} reads {v.shape} {v.dtype} with other strides than it was made with")
            self.expect(call, v, array, (root, address(array) - offset))
            if root in self.pieces and v is not root and (offset, strides, v.shape) in self.pieces[root]:
                return
            if root in self.pieces and sum(int(np.prod(shape)) for _, _, shape in self.pieces[root]) != int(
                np.prod(root.shape)
            ):
                raise Fault(f"{call.name} reads {root.shape} before all of its parts are there")

    def is_result(self, root: Value) -> bool:
        """Whether a value that lies outside is one that the program assigns, computed where it is to lie."""
        return any(value.root is root for _, value in self.assigned)

    def read_outside(self, call: Call, v: Value, array: Array) -> None:
        """Memory from outside has to be as it was, or as the assignments that the program has made by then have left it."""
        start, stop = span_of(array)
        expected = Memory()
        for target, value in self.assigned[: v.root.after]:
            where = span_of(target.array)
            expected.put(*where, content_of(value, where[0]))
        for a, b, content in self.memory.found(start, stop):
            for c, d, wanted in expected.found(a, b):
                if content != wanted and self.touches(array, c, d):
                    raise Fault(f"{call.name} reads memory from outside ({v.shape} {v.dtype}) {self.why(content, wanted)}")

    def expect(self, call: Call, v: Value, array: Array, wanted: Content) -> None:
        for a, b, content in self.memory.found(*span_of(array)):
            if content != wanted and self.touches(array, a, b):
                raise Fault(f"{call.name} reads {v.shape} {v.dtype} where {self.why(content, wanted)}")

    def touches(self, array: Array, start: int, stop: int) -> bool:
        """Whether an element of an array, which may leave gaps, lies between two addresses."""
        if on_gpu(array) or array.flags.c_contiguous or array.flags.f_contiguous or array.size > 4096:
            return True
        first = np.zeros(1, np.int64)
        for n, stride in zip(array.shape, array.strides, strict=True):
            first = (first[:, None] + np.arange(n) * stride).reshape(-1)
        first += address(array)
        return bool(((first < stop) & (first + array.itemsize > start)).any())

    def why(self, content: Content, wanted: Content) -> str:
        if content is GARBAGE:
            return "nothing has been written yet"
        if content[0] is wanted[0]:
            return "it lies elsewhere"
        if content is INITIAL:
            return "nothing has been written yet" if wanted is not INITIAL else "is what it was"
        node = getattr(content[0], "node", None)
        made = f" ({node.op.name})" if node is not None else ""
        return f"another value{made} of {getattr(content[0], 'shape', '')} lies by then"

    # Writing

    def over_operands(self, one: Issued) -> None:
        """Results over operands, and over each other."""
        call = one.call
        for k, out in enumerate(call.outputs):
            if (lying := one.arrays[out]) is None:
                continue
            start, stop = span_of(lying)
            for j, v in enumerate(call.inputs):
                operand = one.arrays[v] if isinstance(v, Value) else None
                if operand is None or max(span_of(operand)[0], start) >= min(span_of(operand)[1], stop):
                    continue
                same = address(operand) == start and operand.nbytes == lying.nbytes and strides_of(operand) == strides_of(lying)
                if not (same and j in call.overlays(k)):
                    raise Fault(f"{call.name} writes result {k} over operand {j}, which it still reads")
            for other in call.outputs[:k]:
                there = one.arrays[other]
                if there is not None and max(span_of(there)[0], start) < min(span_of(there)[1], stop):
                    raise Fault(f"{call.name} writes two results to one place")

    def write(self, one: Issued, v: Value) -> None:
        call, array, root = one.call, one.arrays[v], v.root
        if array is None:
            if root.kind != "fresh":
                raise Fault(f"{call.name} writes a {root.kind} that has no place")
            self.made[root] = []
            return
        start, stop = span_of(array)
        if isinstance(call, Assign):
            (value,) = call.inputs
            targets = [span_of(t.array) for t, assigned in self.assigned if assigned is value]
            if (start, stop) not in targets:
                raise Fault(f"{call.name} writes to memory from outside that the program does not assign")
            self.memory.put(start, stop, content_of(value, start))
            return
        if root.kind == "number" or root.kind == "argument":
            raise Fault(f"{call.name} writes to what is given")
        offset, strides = position(v)
        if array.shape != v.shape or (strides_of(array) != strides and array.size > 1):
            raise Fault(f"{call.name} writes {v.shape} {v.dtype} with other strides than it is read with")
        if not self.is_own(start, stop):
            targets = [span_of(t.array) for t, assigned in self.assigned if assigned.root is root]
            if not any(a <= start and stop <= b for a, b in targets):
                raise Fault(f"{call.name} writes {v.shape} {v.dtype} to memory that is neither the plan's nor assigned")
        content: Content = (root, start - offset)
        if stop - start == int(np.prod(v.shape)) * array.itemsize:
            self.memory.put(start, stop, content)
        else:  # columns of a larger array: its other columns lie between them
            if any(there != content for _, _, there in self.memory.found(start, stop)):
                self.pieces[root] = set()
                self.memory.put(start - offset, start - offset + root.nbytes, content)
            self.pieces.setdefault(root, set()).add((offset, strides, v.shape))

    # Loops

    def loop(self, one: Issued, parts: Parts) -> None:
        """Parts of the samples, in threads: each starts from memory in which nothing is."""
        call, n = one.call, parts.loop.split.samples
        ends = sorted((part.start, part.stop) for work in parts.work for part in work)
        whole = ends and ends[0][0] == 0 and ends[-1][1] == n and all(a < b for a, b in ends)
        if not whole or any(a[1] != b[0] for a, b in pairwise(ends)):
            raise Fault(f"{call.name}: the parts {ends} are not all of {n} samples, each once")
        for v in call.reads:
            self.read(call, v, one.arrays[v])
        if parts.sliced != [v in parts.loop.split.has_rows for v in parts.given]:
            raise Fault(f"{call.name}: what has no rows is cut into parts, or what has them is not")
        if len(parts.totals) != len(parts.work) or any(len(t) != len(parts.loop.totals) for t in parts.totals):
            raise Fault(f"{call.name}: not every thread has memory for its sums")
        for v, total in zip(parts.loop.totals, parts.totals[0], strict=True):
            if one.arrays[v] is None or span_of(one.arrays[v]) != span_of(total):
                raise Fault(f"{call.name}: the first thread adds up elsewhere than the sums are read")
        for private in parts.private:
            for block in private:
                if not self.is_own(*span_of(block)):
                    raise Fault(f"{call.name}: memory of a thread is not the plan's")
        spans = [(*span_of(block), i) for i, private in enumerate(parts.private) for block in private]
        spans += [(*span_of(one.arrays[v]), 0) for v in call.outputs]
        spans.sort()
        for (_, stop, _), (start, _, _) in pairwise(spans):
            if start < stop:
                raise Fault(f"{call.name}: two threads, or two values, have memory in common")
        for i, work in enumerate(parts.work):
            for k, part in enumerate(work):
                if part.first != (k == 0):
                    raise Fault(f"{call.name}: part {k} of thread {i} {'writes' if part.first else 'adds to'} its sums")
            for part in {id(part.issued): part for part in work}.values():
                self.part(call, parts, part, i)
        for part in [part for work in parts.work for part in work]:
            rows = {v.shape[0] for issued in part.issued for v in issued.call.outputs if issued.arrays[v] is None and v.shape}
            if rows - {part.stop - part.start}:
                raise Fault(f"{call.name}: samples {part.start} to {part.stop} are done by what is made for {rows}")
        for v in call.outputs:
            self.write(one, v)

    def part(self, call: Call, parts: Parts, part: Any, thread: int) -> None:
        """What is done with some of the samples, by one thread."""
        memory, made, pieces = self.memory, self.made, self.pieces
        self.memory, self.made, self.pieces = Memory(), dict(made), dict(pieces)
        self.memory.starts, self.memory.pieces = list(memory.starts), list(memory.pieces)
        for block in parts.private[thread]:
            self.memory.put(*span_of(block), GARBAGE)
        totals = dict(zip(parts.loop.totals, parts.totals[thread], strict=True))
        for total in totals.values():
            self.memory.put(*span_of(total), GARBAGE)
        shared = [span_of(block) for i, private in enumerate(parts.private) if i != thread for block in private]
        done: list[Value] = []
        spread = 0
        for one in part.issued:
            if isinstance(one.call, Accumulate):
                before, v = one.call.inputs
                (after,) = one.call.outputs
                there = [span_of(one.arrays[x]) for x in (before, after)]
                if v not in totals or there != [span_of(totals[v])] * 2 or part.first:
                    raise Fault(f"{call.name}: a sum is added up to something else")
                self.read(one.call, v, one.arrays[v])
                done.append(v)
                continue
            for v in one.call.outputs:
                if one.arrays[v] is None and v.root.kind != "fresh":
                    spread += 1  # rows of a result of the loop
                elif one.arrays[v] is not None and (a := span_of(one.arrays[v])):
                    own = any(max(a[0], s[0]) < min(a[1], s[1]) for s in shared)
                    mine = [span_of(b) for b in (*parts.private[thread], *totals.values())]
                    if own or not any(s[0] <= a[0] and a[1] <= s[1] for s in mine):
                        raise Fault(f"{call.name}: {one.call.name} writes to memory that is not its thread's")
            self.one_of_part(one)
        wanted = [] if part.first else list(totals)
        if sorted(map(id, done)) != sorted(map(id, wanted)):
            raise Fault(f"{call.name}: not every sum of a part is added up, once")
        if part.first:
            for v, total in totals.items():
                self.read(call, v, total)
        if spread != len(parts.loop.spread):
            raise Fault(f"{call.name}: {spread} of {len(parts.loop.spread)} results with rows are written")
        self.memory, self.made, self.pieces = memory, made, pieces

    def one_of_part(self, one: Issued) -> None:
        """A call of a part. The rows of a result of the loop are known only at a run; they are read after they are written."""
        rows = {v.root for v in one.call.outputs if one.arrays[v] is None and v.root.kind != "fresh"}
        for v in one.call.reads:
            if one.arrays[v] is None and v.root.kind == "buffer":
                if v.root not in self.made:
                    raise Fault(f"{one.call.name} reads {v.shape} {v.dtype} before it is there")
                continue
            self.read(one.call, v, one.arrays[v])
        self.over_operands(one)
        for v in one.call.outputs:
            if v.root in rows:
                self.made[v.root] = []
            else:
                self.write(one, v)

    # The end

    def ended(self, returned: list[Value], arrays: dict[Value, Any]) -> None:
        last = Call("the end", [], [], [])
        for v in returned:
            self.read(last, v, arrays.get(v))
        for i, (target, _) in enumerate(self.assigned):
            seen = Value(target.shape, target.dtype, "outside", target.array, after=len(self.assigned))
            try:
                self.read_outside(last, seen, target.array)
            except Fault:
                raise Fault(
                    f"assignment {i}, to memory from outside ({target.shape} {target.dtype}), is not what is left"
                ) from None


def span_of(array: Array) -> tuple[int, int]:
    """The addresses of the first byte of an array and of the one after its last."""
    start = address(array)
    if not array.size:
        return start, start
    low = sum(min(stride, 0) * (n - 1) for n, stride in zip(array.shape, array.strides, strict=True))
    high = sum(max(stride, 0) * (n - 1) for n, stride in zip(array.shape, array.strides, strict=True))
    return start + low, start + high + array.itemsize


def strides_of(array: Array) -> tuple[int, ...]:
    """The strides that matter: those of axes with more than one element."""
    return tuple(stride for n, stride in zip(array.shape, array.strides, strict=True) if n > 1)


def position(v: Value) -> tuple[int, tuple[int, ...]]:
    """Where a value lies in the value whose memory it is, which lies row after row: its offset in bytes, and its strides."""
    chain = [v]
    while chain[-1].base is not None:
        chain.append(chain[-1].base)
    root = chain.pop()
    dtype = np.dtype(root.dtype)
    strides = np.cumprod([dtype.itemsize, *root.shape[:0:-1]]).tolist()[::-1] if root.shape else []
    seen = np.lib.stride_tricks.as_strided(np.empty(1, dtype), root.shape, strides)
    start = address(seen)
    for one in reversed(chain):
        assert one.look is not None
        seen = one.look(seen, one.shape)
    return address(seen) - start, strides_of(seen)


def content_of(v: Value, start: int) -> Content:
    """What lies at an address to which a value has been copied, row after row."""
    if v.contiguous and v.root.kind != "argument":
        return v.root, start - position(v)[0]
    return v, start
