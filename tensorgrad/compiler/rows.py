"""Rows: the part of a plan that treats every sample alike, to be done for some of the samples at a time, in several threads.

A value "has rows" if its first axis is the samples. From values with rows come others with rows (products with a weight,
anything elementwise), or sums over all samples (gradients of weights, the loss), which are added up over the parts. What is
done with those sums comes after. So a batch of 60,000 needs memory for a few thousand samples only, all of which stays in the
cache, and every thread works on samples of its own from beginning to end.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tensorgrad.compiler.lower import Call, Value
from tensorgrad.compiler.memory import overlap

Shape = tuple[int, ...]

ROWWISE = {"softmax", "log_softmax", "one_hot"}  # ops whose `forward` may be given some of the rows


class Split:
    """Which calls work on rows. has_rows and has_columns: values whose first, or second, axis is the samples."""

    def __init__(self, calls: list[Call], samples: int) -> None:
        self.samples = samples
        self.has_rows: set[Value] = set()
        self.has_columns: set[Value] = set()
        self.sums: set[Value] = set()  # what is added up over the samples
        self.late: set[Value] = set()  # what is there only when all samples have been done
        self.before: list[Call] = []
        self.loop: list[Call] = []
        self.after: list[Call] = []
        written: list[Value] = []
        made: set[Value] = set()
        for call in calls:
            writes = [v for v in call.outputs if v.root.kind == "outside"]
            stale = any(overlap(v, w) for v in call.reads for w in written)
            is_late = stale or any(v.root in self.late for v in call.reads) or (bool(self.loop) and bool(writes))
            if not is_late and self.on_rows(call):
                self.loop.append(call)
                made.update(v.root for v in call.outputs)
            elif is_late or any(v.root in made for v in call.reads):
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
        if v.kind == "argument" or (v.base is not None and self.rows(v.base) and v.how in ("reshape", "broadcast_to")):
            self.has_rows.add(v)
            return True
        return False

    def columns(self, v: Value) -> bool:
        """Whether a value is the transpose of one with rows."""
        found = v.how == "transpose" and v.base is not None and self.rows(v.base)
        if found:
            self.has_columns.add(v)
        return found

    def on_rows(self, call: Call) -> bool:
        """Whether a call can be done for some of the rows; if so its results are noted."""
        rows = [v for v in call.reads if self.rows(v)]
        columns = [v for v in call.reads if self.columns(v)]
        if not rows or (columns and call.kind != "matmul"):
            return False
        whole = [v for v in call.reads if v not in rows and v not in columns]
        added: list[Value] = []
        if call.kind in ("elementwise", "chain"):
            shape = call.detail.get("shape", call.outputs[0].shape)
            spread = [v for v in whole if len(v.shape) == len(shape) and v.shape[0] == shape[0] != 1]
            if shape[0] != self.samples or any(len(v.shape) != len(shape) for v in rows) or spread:
                return False
            added = [v for v in call.outputs if v.shape != shape]
        elif call.kind == "matmul":
            a, b = call.inputs
            if a in columns and b in rows:
                added = list(call.outputs)
            elif not (a in rows and b in whole and len(b.shape) == 2):
                return False
        elif call.kind == "reduce":
            if 0 in call.detail["axes"]:
                if call.detail["function"] != "add":
                    return False
                added = list(call.outputs)
        elif call.kind == "cross_entropy":
            if len(rows) < 2:
                return False
            added = call.outputs[:1]
        elif call.kind == "op":
            if call.name not in ROWWISE or len(rows) != len(call.inputs):
                return False
            if call.detail["attrs"].get("axis", -1) in (0, -len(rows[0].shape)):
                return False
        else:
            return False
        if any(v.root is not v for v in call.outputs if v not in added):
            return False
        self.sums.update(added)
        self.late.update(v.root for v in added)
        self.has_rows.update(v for v in call.outputs if v not in added)
        return True

    def flops(self) -> int:
        return sum(call.flops for call in self.loop)


def split_rows(calls: list[Call], arguments: list[Value], keep: set[Value], least: float) -> list[Call]:
    """The calls with those that work on rows as one call of kind "loop", if they are at least so many floating-point
    operations."""
    sizes = Counter(v.shape[0] for v in arguments if len(v.shape) > 0 and v.shape[0] > 1)
    if not sizes or sum(call.flops for call in calls) < least:
        return calls
    split = Split(calls, sizes.most_common(1)[0][0])
    if not split.loop or split.flops() < least:
        return calls
    made = {v for call in split.loop for v in call.outputs}
    outer = {seen for call in (*split.before, *split.after) for v in call.reads for seen in (v, v.root)} | keep
    spread = [v for v in made if v in split.has_rows and v in outer]
    sums = [v for call in split.loop for v in call.outputs if v in split.sums]
    reads = [v.root if v.root.kind == "argument" else v for call in split.loop for v in call.reads]
    inputs = list(dict.fromkeys(v for v in reads if v not in made and v.root not in made))
    nodes = [node for call in split.loop for node in call.nodes]
    detail = {"calls": split.loop, "split": split, "spread": spread, "sums": sums}
    loop = Call("loop", f"{len(split.loop)} kernels on rows", inputs, [*sums, *spread], nodes, split.flops(), detail)
    return [*split.before, loop, *split.after]


class Narrow:
    """The calls of a loop for so many rows: copies of them, and of the values with rows in them."""

    def __init__(self, loop: Call, rows: int) -> None:
        self.split: Split = loop.detail["split"]
        self.rows = rows
        self.copies: dict[Value, Value] = {}
        self.calls = [self.narrow(call) for call in loop.detail["calls"]]

    def narrow(self, call: Call) -> Call:
        detail = dict(call.detail)
        if "shape" in detail:
            detail["shape"] = (self.rows, *detail["shape"][1:])
        inputs = [self.value(v) if isinstance(v, Value) else v for v in call.inputs]
        return Call(call.kind, call.name, inputs, [self.value(v) for v in call.outputs], call.nodes, call.flops, detail)

    def value(self, v: Value) -> Value:
        """The copy of a value for fewer rows; the value itself if it has none."""
        if v not in self.copies:
            shape: Shape = v.shape
            if v in self.split.has_rows:
                shape = (self.rows, *v.shape[1:])
            elif v in self.split.has_columns:
                shape = (*v.shape[:-1], self.rows)
            else:
                self.copies[v] = v
                return v
            base = None if v.base is None else self.value(v.base)
            self.copies[v] = Value(shape, v.dtype, v.kind, None, base, v.look, v.how, v.contiguous, v.node)
        return self.copies[v]


def parts(start: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """start..stop cut into equal parts, of about so many rows."""
    count = max(round((stop - start) / rows), 1)
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(ends))
