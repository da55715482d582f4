"""Rows: the samplewise part of a plan, split into parts of the samples and run in several threads.

A value "has rows" if its first axis is the samples. Values with rows lead to others with rows (products with a weight,
elementwise functions), or to sums over all samples (gradients of weights, the loss), which are accumulated over the parts.
Calls that use those sums come afterwards. So a batch of 60,000 needs memory for a few thousand samples only, which stay in the
cache, and each thread processes its samples from beginning to end.
"""

from __future__ import annotations

from collections import Counter

from tensorgrad.compiler.calls import Call
from tensorgrad.compiler.values import Value, overlap
from tensorgrad.kernels import thresholds


class Split:
    """The calls that work on rows. has_rows and has_columns: values whose first, or last, axis is the samples."""

    def __init__(self, calls: list[Call], samples: int) -> None:
        self.samples = samples
        self.has_rows: set[Value] = set()
        self.has_columns: set[Value] = set()
        self.totals: set[Value] = set()  # sums over the samples
        self.late: set[Value] = set()  # values that exist only after all samples
        self.before: list[Call] = []
        self.loop: list[Call] = []
        self.after: list[Call] = []
        written: list[Value] = []
        computed: set[Value] = set()
        for call in calls:
            writes = [v for v in call.outputs if v.root.kind == "outside"]
            reads_old = any(overlap(v, w) for v in call.reads for w in written)
            is_late = reads_old or any(v.root in self.late for v in call.reads) or (bool(self.loop) and bool(writes))
            is_late |= call.draws and any(c.draws for c in self.after)  # draws of one generator, in the order of the step
            is_late |= call.meets and any(c.meets for c in self.after)
            if not is_late and self.on_rows(call):
                self.loop.append(call)
                computed.update(v.root for v in call.outputs)
            elif is_late or any(v.root in computed for v in call.reads):
                self.after.append(call)
                self.late.update(v.root for v in call.outputs)
                written += writes
            else:
                self.before.append(call)

    def rows(self, v: Value) -> bool:
        """Whether the first axis of a value is the samples."""
        if v in self.has_rows:
            return True
        if v.shape[:1] != (self.samples,):
            return False
        if v.kind == "argument" or (v.base is not None and self.rows(v.base) and self.keeps_rows(v)):
            self.has_rows.add(v)
            return True
        return False

    def keeps_rows(self, v: Value) -> bool:
        """Whether a view of a value with rows has them in its first axis: broadcasting may add axes before it."""
        assert v.base is not None
        return v.view_kind == "reshape" or (v.view_kind == "broadcast_to" and len(v.shape) == len(v.base.shape))

    def columns(self, v: Value) -> bool:
        """Whether a value is the transpose of one with rows."""
        is_transposed = v.view_kind == "transpose" and v.base is not None and self.rows(v.base)
        if is_transposed:
            self.has_columns.add(v)
        return is_transposed

    def mixes_rows(self, v: Value) -> bool:
        """Whether a value is a view that mixes the rows of its base."""
        if self.rows(v) or self.columns(v) or v.base is None:
            return False
        return self.rows(v.base) or self.columns(v.base) or self.mixes_rows(v.base)

    def on_rows(self, call: Call) -> bool:
        """Whether a call can be split by rows; if so, record its results."""
        if not any(self.rows(v) for v in call.reads) or any(self.mixes_rows(v) for v in call.reads):
            return False
        totals = call.sums(self)
        if totals is None or any(v.root is not v for v in call.outputs if v not in totals):
            return False
        self.totals.update(totals)
        self.late.update(v.root for v in totals)
        self.has_rows.update(v for v in call.outputs if v not in totals)
        return True


class Loop(Call):
    """The calls that work on rows, as one.

    calls    run for each part of the samples
    totals   results that are summed over the parts;  spread: results with rows that are read outside the loop
    """

    def __init__(self, split: Split, keep: set[Value]) -> None:
        self.split, self.calls = split, split.loop
        computed = {v for call in split.loop for v in call.outputs}
        read_outside = {value for call in (*split.before, *split.after) for v in call.reads for value in (v, v.root)} | keep
        self.spread = [v for call in split.loop for v in call.outputs if v in split.has_rows and v in read_outside]
        self.totals = [v for call in split.loop for v in call.outputs if v in split.totals]
        reads = [v.root if v.root.kind == "argument" else v for call in split.loop for v in call.reads]
        inputs = list(dict.fromkeys(v for v in reads if v not in computed and v.root not in computed))
        nodes = [node for call in split.loop for node in call.nodes]
        flops = sum(call.flops for call in split.loop)
        super().__init__(f"{len(split.loop)} kernels on rows", list(inputs), [*self.totals, *self.spread], nodes, flops)

    @property
    def parts(self) -> list[Call]:
        return self.calls


def split_rows(calls: list[Call], arguments: list[Value], keep: set[Value], min_flops: float) -> list[Call]:
    """The calls, with those on rows combined into a Loop if they have enough floating-point operations."""
    sizes = Counter(v.shape[0] for v in arguments if len(v.shape) > 0 and v.shape[0] > 1)
    if not sizes or sum(call.flops for call in calls) < min_flops:
        return calls
    split = Split(calls, sizes.most_common(1)[0][0])
    if not split.loop or sum(call.flops for call in split.loop) < min_flops or not is_worth_it(split):
        return calls
    for call in split.loop:  # results allocated by operations are copied to an array with the rows of all parts
        for v in call.outputs:
            if v.kind == "fresh":
                v.kind = "buffer"
    return [*split.before, Loop(split, keep), *split.after]


def is_worth_it(split: Split) -> bool:
    """Whether the sums over samples need less memory than the samples: every thread has separate totals, which are added at
    the end."""
    totals = sum(v.nbytes for v in split.totals)
    return totals <= max(thresholds.ROWS_TOTALS, sum(v.nbytes for v in split.has_rows if v.root is v))


class Tile:
    """The calls of a loop for a number of rows: copies of the calls and of their values with rows."""

    def __init__(self, loop: Loop, rows: int) -> None:
        self.split = loop.split
        self.rows = rows
        self.copies: dict[Value, Value] = {}
        self.calls = [self.narrow(call) for call in loop.calls]

    def narrow(self, call: Call) -> Call:
        inputs = [self.value(v) if isinstance(v, Value) else v for v in call.inputs]
        return call.narrowed(inputs, [self.value(v) for v in call.outputs], self.rows)

    def value(self, v: Value) -> Value:
        """The copy of a value for fewer rows; the value itself if it has none."""
        if v not in self.copies:
            if v in self.split.has_rows:
                shape = (self.rows, *v.shape[1:])
            elif v in self.split.has_columns:
                shape = (*v.shape[:-1], self.rows)
            else:
                self.copies[v] = v
                return v
            base = None if v.base is None else self.value(v.base)
            self.copies[v] = Value(shape, v.dtype, v.kind, None, base, v.make_view, v.view_kind, v.contiguous, v.node)
        return self.copies[v]
