"""Planners broken on purpose: `python -m tests.compiled.planners` prints how many of the plans that they make are caught.

A mutant changes the text of one function of the planner. Some do it at one decision at a time (how long a value lives, where it
lies, which samples a part has), each time that it comes up (DECISIONS); others do it for good: a condition left out or turned
round, a statement left out, a number one larger (`edits`). A plan with the results of the planner as it is, and that leaves the
same behind in memory outside, for two inputs one after the other, in memory full of NaN, is no mutant.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

from tensorgrad import ops
from tensorgrad.compiler import emit, group, lower, memory, rows
from tensorgrad.compiler.compiled import Compiled
from tensorgrad.compiler.containers import arguments
from tensorgrad.compiler.plan import Plan
from tensorgrad.compiler.trace import Trace
from tensorgrad.compiler.world import World, owner_of, shifted
from tensorgrad.core.backend import Array
from tensorgrad.kernels import thresholds
from tensorgrad.ops import random
from tests.compiled import kernels
from tests.compiled.programs import PROGRAMS


class Case:
    """A program traced, to be planned again and again; what it is to give, for two inputs."""

    def __init__(self, name: str) -> None:
        self.name, self.program = name, PROGRAMS[name]
        rng = np.random.default_rng(0)
        with self.settings():
            self.step, args = self.program.make(rng)
            self.compiled = Compiled(self.step)
            arrays = arguments(tuple(args), {})[1]
            self.inputs = [arrays, [shifted(a) for a in arrays]]
            self.trace: Trace = self.compiled.traced_run(tuple(args), {}, arrays)
            self.trace.undo()
            world = World({"step": self.step})
            near = [(a.target, "") for a in self.trace.assignments] + [(p.data, "") for p in world.tensors]
            self.outside = [a for a, _ in world.data(near, [])]
            self.owners = list({id(owner_of(a)): owner_of(a) for a in self.outside}.values())
            self.start = [a.copy() for a in self.owners]
            self.plan = Plan(self.trace)
            self.expected = self.run(self.plan)

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Without Numba, which would take its time; the loop over samples as the program asks for it."""
        with kernels(numba=False), pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(ops.cholesky), "forward", lambda self, xp, x: x)
            patch.setattr(thresholds, "ROWS_FLOPS", 1e99 if self.program.rows is None else 0)
            patch.setattr(thresholds, "ROWS_BYTES", self.program.rows or 1)
            patch.setattr(emit.threads, "_count", self.program.threads)
            patch.setattr(emit.threads, "controls_blas", lambda: True)
            yield

    def run(self, made: Plan) -> list[Array]:
        """The results, the gradients and the memory outside, of two runs one after the other."""
        for array, before in zip(self.owners, self.start, strict=True):
            array[...] = before
        rngs = World({"step": self.step}).generators.values()
        for rng in rngs:
            rng.bit_generator.state = np.random.default_rng(5).bit_generator.state
        steps = [optimiser.steps for optimiser in made.optimisers]
        for block in own(made):
            block.reshape(-1).view(np.uint8)[...] = 255  # NaN
        found = []
        try:
            with np.errstate(all="ignore"):
                random.seed(5)
                for arrays in self.inputs:
                    given = [a.copy() for a in arrays]
                    results = made.compute(given)
                    found += [np.array(a) for a in (*results, *given, *self.outside)]
        finally:
            for optimiser, n in zip(made.optimisers, steps, strict=True):
                optimiser.steps = n
        return found

    def mutated(self, mutant: Mutant) -> str:
        """What comes of a mutant: "" if it does not come up; "error" if planning or running raises one; else whether it gives
        the "same", and whether the check says something: "caught" or "missed", "same" or "same, but caught"."""
        with self.settings(), mutant.applied() as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                made = Plan(self.trace)
            except Exception:
                return "error" if seen() else ""
            if not seen():
                return ""
            try:
                found = self.run(made)
            except Exception:
                return "caught" if made.fault else "error"
        if len(found) == len(self.expected) and all(map(alike, found, self.expected)):
            return "same, but caught" if made.fault else "same"
        return "caught" if made.fault else "missed"

    def refused(self, mutant: Mutant) -> str:
        """Whether a step is refused, or not run by its plan, if that is made by a mutant; "" if it does not come up."""
        with self.settings(), mutant.applied() as seen, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = Compiled(self.step)
            try:
                for arrays in self.inputs:
                    compiled(*[a.copy() for a in arrays])
            except Exception as error:
                return f"refused: {error}" if seen() else ""
            assert compiled.plan is not None
            return ("caught" if compiled.plan.fault else "taken") if seen() else ""


@functools.cache
def case(name: str) -> Case:
    return Case(name)


def alike(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True))


def own(made: Plan) -> list[Array]:
    """The memory of a plan: its blocks, and those of its loops."""
    found = list(made.blocks)
    for thing in made.function.__globals__.values():
        if isinstance(thing, emit.Parts):
            found += thing.blocks
    return found


# Mutants


class Mutant(NamedTuple):
    """A function of the planner with another text. at: at which of the times that the decision comes up; None for all."""

    kind: str
    function: Any
    source: str
    at: int | None = None

    @contextmanager
    def applied(self) -> Iterator[Callable[[], bool]]:
        """In its place wherever the compiler has it. What it gives says whether it has come up."""
        count = [0]

        def hit() -> bool:
            count[0] += 1
            return self.at is None or count[0] - 1 == self.at

        module = sys.modules[self.function.__module__]
        space = {**vars(module), "hit": hit, "other": other, "moved": moved, "swapped": swapped}
        exec(compile(self.source, f"<{self.kind}>", "exec"), space)
        new = space[self.function.__name__]
        with pytest.MonkeyPatch.context() as patch:
            for holder in holders(self.function):
                patch.setattr(holder, self.function.__name__, new)
            for op, rule in lower.RULES.items():
                if rule is self.function:
                    patch.setitem(lower.RULES, op, new)
            yield lambda: self.at is None or count[0] > self.at


def holders(function: Any) -> list[Any]:
    """The modules, or the class, that a function of the compiler is an attribute of."""
    name, parts = function.__name__, function.__qualname__.split(".")
    if len(parts) > 1:
        return [getattr(sys.modules[function.__module__], parts[-2])]
    return [m for key, m in sys.modules.items() if key.startswith("tensorgrad.compiler") and vars(m).get(name) is function]


def text(function: Any) -> str:
    return textwrap.dedent(inspect.getsource(function))


def other(blocks: list[Array], b: int, nbytes: int) -> Array:
    """Another block that is as large."""
    return next((block for i, block in enumerate(blocks) if i != b and block.nbytes >= nbytes), blocks[b])


def swapped(calls: list[Any], hit: Callable[[], bool]) -> list[Any]:
    """Two calls, one after the other, in the other order."""
    for i in range(1, len(calls)):
        if hit():
            calls[i - 1], calls[i] = calls[i], calls[i - 1]
    return calls


def moved(array: Array) -> Array:
    """An array of the same memory some bytes further on, or back where there is no room; itself where there is none either."""
    if array is None:
        return None
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    (low, high), (first, last) = np.lib.array_utils.byte_bounds(array), np.lib.array_utils.byte_bounds(owner)
    step = array.itemsize
    if high + step > last:
        step = -step
    if low + step < first or not owner.flags.c_contiguous:
        return array
    start = array.__array_interface__["data"][0] + step - owner.__array_interface__["data"][0]
    return np.ndarray(array.shape, array.dtype, owner.reshape(-1).view(np.uint8), start, array.strides)


class Decision(NamedTuple):
    """kind: in words;  function: which takes it;  old: its text;  new: that of the mutant, which asks `hit()`."""

    kind: str
    function: Any
    old: str
    new: str

    def mutant(self, at: int) -> Mutant:
        source = text(self.function)
        assert self.old in source, f"{self.kind}: {self.function.__qualname__} no longer says {self.old!r}"
        return Mutant(self.kind, self.function, source.replace(self.old, self.new), at)


def passed(kind: str, function: Any, condition: str) -> Decision:
    """A condition that is taken to hold."""
    return Decision(kind, function, condition, f"({condition} or hit())")


def ignored(kind: str, function: Any, condition: str) -> Decision:
    """A condition that is taken not to hold."""
    return Decision(kind, function, condition, f"({condition} and not hit())")


def left_out(kind: str, function: Any, statement: str) -> Decision:
    return Decision(kind, function, statement, f"hit() or {statement}")


def instead(kind: str, function: Any, old: str, new: str) -> Decision:
    """One expression in the place of another."""
    return Decision(kind, function, old, f"({new} if hit() else {old})")


VALUES = "[j for j, v in enumerate(call.inputs) if isinstance(v, Value)]"
SHARED = "self.private[0][: len(layout.blocks)] if i else [aligned(size) for size in layout.blocks]"
ADDED = 'emitter.call(Accumulate("add", [before, v], [after], []))'
LAY_OUT, IN_PLACE, ASSIGNED = memory.lay_out, memory.in_place, memory.assigned_in_place
GROUPED, PUT_OFF, SPLIT = group.grouped, group.merge_into_reader, rows.Split.__init__
PARTS, PART = emit.Parts.__init__, emit.Parts.part
CONCATENATE = lower.Lowering.concatenate

DECISIONS = [
    # how long values live, and where
    instead("a shorter life", LAY_OUT, "len(calls) if v in keep or v.root in keep else i", "last.get(v.root, i)"),
    passed("given back too early", LAY_OUT, "last[v] == i"),
    passed("given a place twice", LAY_OUT, "v not in placed"),
    passed("over an operand of another dtype", IN_PLACE, "v.dtype == value.dtype"),
    passed("over an operand that is still read", IN_PLACE, "last[root] == i"),
    passed("two results over one operand", IN_PLACE, "j not in overwritten"),
    instead("over an operand it is not made for", IN_PLACE, "call.overlays(call.outputs.index(value))", VALUES),
    instead("in another block", memory.arrays_for, "blocks[b]", "other(blocks, b, value.nbytes)"),
    instead(
        "a view elsewhere", memory.resolve, "value.make_view(base, value.shape)", "moved(value.make_view(base, value.shape))"
    ),
    Decision("outside memory elsewhere", memory.resolve, "= value.array", "= moved(value.array) if hit() else value.array"),
    # assignments
    Decision("assigned too early", ASSIGNED, "if is_used_between or", "if is_used_between and not hit() or"),
    Decision("assigned over what is read", ASSIGNED, "for v in overlapping)", "for v in overlapping if not hit())"),
    Decision(
        "an assignment dropped",
        ASSIGNED,
        "or not is_compatible:",
        "or not is_compatible:\n            dropped.update([call] if hit() else [])",
    ),
    instead("assigned elsewhere", ASSIGNED, "target.array", "moved(target.array)"),
    passed("assigned where it does not lie row after row", ASSIGNED, "target.contiguous"),
    # chains, and the order of calls
    left_out("grouped across an assignment", GROUPED, "open_groups.clear()"),
    passed("grouped before it is ready", GROUPED, "completed_at.get(v.root, -1) < group.slot"),
    Decision("not written", GROUPED, "for v in slot.computed if", "for v in slot.computed if not hit() and"),
    Decision("a call dropped", GROUPED, "    return result", "    return [call for call in result if not hit()]"),
    Decision("calls swapped", GROUPED, "    return result", "    return swapped(result, hit)"),
    ignored("put off past an assignment", PUT_OFF, "any(i < k < j for k in assigns)"),
    Decision("put off though others read it", PUT_OFF, "len(readers) != 1", "(len(readers) != 1 and not (readers and hit()))"),
    ignored("put off though it is kept", PUT_OFF, "any(v in keep or v.base is not None for v in group.computed)"),
    Decision(
        "a step with other operands",
        group.Group.chain,
        "for v in call.inputs)",
        "for v in (call.inputs[::-1] if hit() else call.inputs))",
    ),
    Decision("another result", group.Group.chain, '(registers[v], "full")', '(registers[v] - hit(), "full")'),
    Decision("a copy left out", lower.Lowering.cast, "if is_written else x", "if is_written and not hit() else x"),
    Decision("a part along another axis", lower.Lowering.place_in, "if axis or", "if (axis and not hit()) or"),
    # loops over samples
    ignored("an old value of what is assigned", SPLIT, "any(overlap(v, w) for v in call.reads for w in written)"),
    ignored("a sum read in the loop", SPLIT, "any(v.root in self.late for v in call.reads)"),
    ignored("assigned before the loop", SPLIT, "(bool(self.loop) and bool(writes))"),
    ignored("before the loop though it reads of it", SPLIT, "any(v.root in computed for v in call.reads)"),
    ignored("after the loop", SPLIT, "self.on_rows(call)"),
    Decision("too few rows", rows.Tile.value, "(self.rows, *v.shape[1:])", "(self.rows - hit(), *v.shape[1:])"),
    Decision("threads that overlap, or leave a gap", PARTS, "n * i // self.threads", "n * i // self.threads + hit()"),
    Decision("threads that leave a gap, or overlap", PARTS, "n * i // self.threads", "n * i // self.threads - hit()"),
    Decision("parts that leave a gap, or overlap", emit.cut, "* i // count", "* i // count + hit()"),
    left_out("a part dropped", PARTS, "work.append(Part("),
    Decision("a part twice", PARTS, "in pieces:", "in [p for q in pieces for p in [q] * (1 + hit())]:"),
    Decision("parts out of order", PARTS, "in pieces:", "in pieces[:: -1 if hit() else 1]:"),
    instead("a part by the function of another", PARTS, "emitters[key].issued", "next(iter(emitters.values())).issued"),
    Decision("written instead of added", PARTS, "key = (b - a, a == start)", "key = (b - a, a == start or hit())"),
    Decision("added instead of written", PARTS, "key = (b - a, a == start)", "key = (b - a, a == start and not hit())"),
    passed("written instead of added, and called so", PARTS, "a == start"),
    passed("totals shared by threads", PARTS, "i == 0"),
    ignored("totals of the first thread elsewhere", PARTS, "i == 0"),
    instead("blocks shared by threads", PARTS, "[aligned(size) for size in layout.blocks]", SHARED),
    instead("partial sums shared by threads", PARTS, "[np.empty(v.shape, v.dtype) for v in loop.totals]", "self.partial[0]"),
    instead("scratch that no thread owns", PARTS, "emitters[key].blocks", "[]"),
    Decision(
        "cut where it is whole, or whole where it is cut", PARTS, "loop.split.rows(v) for", "loop.split.rows(v) != hit() for"
    ),
    instead("results with rows elsewhere", PARTS, "[known[v] for v in loop.spread]", "[known[v].copy() for v in loop.spread]"),
    Decision("sums of threads not added up", PARTS, "totals, strict=True)]", "totals, strict=True) if not hit()]"),
    instead("rows of a part elsewhere", PART, "wide[:rows]", "moved(wide)[:rows]"),
    Decision("sums in the place of partial ones", PART, "if first else", "if first or hit() else"),
    Decision(
        "partial sums in the place of sums", PART, "if first else", "if first and not (self.partial[thread] and hit()) else"
    ),
    left_out("a sum not added up", PART, ADDED),
    Decision("a sum added up twice", PART, ADDED, f"[{ADDED} for _ in range(1 + hit())]"),
    Decision("added up to another sum", PART, "after: total}", "after: np.empty_like(total) if hit() else total}"),
    left_out("a call of a part dropped", PART, "emitter.call(c)"),
    Decision("a call of a part twice", PART, "emitter.call(c)", "[emitter.call(c) for _ in range(1 + hit())]"),
    # what is written as Python
    left_out("a call not written", emit.Emitter.call, "call.emit(self)"),
    Decision(
        "a call not issued",
        emit.Emitter.call,
        "if isinstance(call, Loop):",
        "if hit():\n        return\n    if isinstance(call, Loop):",
    ),
    instead("the kernel is not told", emit.shared_of, "dict(layout.shared.get(call, {}))", "{}"),
    Decision(
        "the kernel is not told of outside memory", emit.shared_of, "one_memory(v, out)", "one_memory(v, out) and not hit()"
    ),
]

# Of the program itself, which the check takes for what is meant: they are found out by the run that verifies a plan
OF_THE_PROGRAM = [
    instead("a part of a concatenation elsewhere", CONCATENATE, "slice(start, stop)", "slice(start - 1, stop - 1)"),
    Decision("a part of a concatenation further on", CONCATENATE, "start = stop", "start = stop - hit()"),
    passed("a part that lies otherwise", lower.Lowering.place_in, "part.contiguous"),
]  # fmt: skip


EDITED = [
    memory.lay_out, memory.in_place, memory.assigned_in_place, memory.one_memory, memory.arrays_for, memory.resolve,
    memory.Free.take, memory.Free.give, group.grouped, group.merge_into_reader, group.values_read_by, group.Group.chain,
    group.layout, rows.Split.__init__, rows.Split.on_rows, rows.Split.rows, rows.Split.columns, rows.Split.keeps_rows,
    rows.split_rows, rows.Tile.value, rows.Tile.narrow, emit.Parts.__init__, emit.Parts.part, emit.cut, emit.shared_of,
    emit.Emitter.call, emit.Emitter.loop,
]  # fmt: skip


class Edit(ast.NodeTransformer):
    """Does one edit, the n-th of those there are."""

    def __init__(self, n: int) -> None:
        self.n, self.detail = n, ""

    def visit(self, node: ast.AST) -> Any:
        for new in changes(node):
            if self.n == 0:
                self.n, self.detail = -1, f"{ast.unparse(node)} -> {ast.unparse(new) if new else 'nothing'}"
                return ast.copy_location(new or ast.Pass(), node)
            self.n -= 1
        return self.generic_visit(node)


PAIRS = [(ast.Eq, ast.NotEq), (ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)]
OPPOSITES = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}


def changes(node: ast.AST) -> Iterator[ast.AST | None]:
    if isinstance(node, ast.BoolOp):
        for i in range(len(node.values)):
            rest = node.values[:i] + node.values[i + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [OPPOSITES[type(node.ops[0])]()], node.comparators)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    if isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    if isinstance(node, ast.If):
        for value in (True, False):
            yield ast.If(ast.Constant(value), node.body, node.orelse)
    if isinstance(node, ast.comprehension) and node.ifs:
        yield ast.comprehension(node.target, node.iter, [], 0)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
    if isinstance(node, (ast.Expr, ast.Continue, ast.AugAssign)) and not isinstance(getattr(node, "value", None), ast.Constant):
        yield None


def edits(function: Any) -> Iterator[Mutant]:
    """All mutants of a function's text."""
    tree = ast.parse(text(function))
    for n in range(10_000):
        edit = Edit(n)
        new = ast.fix_missing_locations(edit.visit(copy.deepcopy(tree)))
        if not edit.detail:
            return
        yield Mutant(f"{function.__qualname__}: {edit.detail}", function, ast.unparse(new))


def main() -> None:
    """All mutants of all programs."""
    total: Counter[str] = Counter()
    for kind in [*(d.kind for d in DECISIONS), *(f.__qualname__ for f in EDITED)]:
        verdicts: Counter[str] = Counter()
        for name in PROGRAMS:
            decision = next((d for d in DECISIONS if d.kind == kind), None)
            if decision is None:
                function = next(f for f in EDITED if f.__qualname__ == kind)
                verdicts.update(case(name).mutated(mutant) for mutant in edits(function))
                continue
            for at in range(10_000):
                if not (verdict := case(name).mutated(decision.mutant(at))):
                    break
                verdicts[verdict] += 1
        print(
            f"{kind:50} {', '.join(f'{n} {verdict}' for verdict, n in verdicts.most_common()) or 'does not come up'}",
            flush=True,
        )
        total += verdicts
    print(f"{'all':50} {', '.join(f'{n} {verdict}' for verdict, n in total.most_common())}")


if __name__ == "__main__":
    main()
