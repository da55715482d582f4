"""Emitting: the calls of a plan as a Python function, like one written by hand for this step alone."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler import programs
from tensorgrad.compiler.calls import Accumulate, Call
from tensorgrad.compiler.memory import Layout, arrays_for, lay_out, one_memory, resolve
from tensorgrad.compiler.programs import Lines
from tensorgrad.compiler.rows import Loop, Tile
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array, address
from tensorgrad.core.memory import aligned
from tensorgrad.core.signature import Shape
from tensorgrad.kernels import build, threads, thresholds
from tensorgrad.kernels.instructions import Form, Operand

FILE = "<tensorgrad plan>"  # file name of the functions of plans in tracebacks


class Clock:
    """Adds up the seconds of calls. originals: copies of calls to the originals;  threads: the number that run them."""

    def __init__(self, seconds: dict[Call, float], originals: dict[Call, Call] | None = None, threads: int = 1) -> None:
        self.seconds, self.originals, self.threads = seconds, originals or {}, threads

    def took(self, call: Call, since: float) -> float:
        now = time.perf_counter()
        call = self.originals.get(call, call)
        self.seconds[call] = self.seconds.get(call, 0.0) + (now - since) / self.threads
        return time.perf_counter()

    def for_copies(self, copies: list[Call], calls: list[Call], threads: int) -> Clock:
        return Clock(self.seconds, dict(zip(copies, calls, strict=True)), threads)


class Issued(NamedTuple):
    """A call with the arrays of its values. None stands for those that are only known in a run: arguments, their views, and
    arrays that operations allocate.

    lines   the lines of its code
    shared  result to operand in whose memory it is
    loop    its parts, if it is a Loop
    """

    call: Call
    arrays: dict[Value, Array | None]
    lines: list[str]
    shared: dict[int, int]
    loop: Parts | None = None


class Emitter:
    """Writes a function of some parameters; other objects that it needs are bound to names around it.

    arrays   value to array, for those that are known before a run
    layout   which results of a call are in the memory of which operand
    clock    measures the time of each call, if there is one
    threads  the number of threads that share products and loops in machine code
    body     the lines of the function
    issued   the calls so far, in order, for the checker
    program  the program that is the whole function, if there is one
    """

    def __init__(
        self,
        parameters: dict[Value, str],
        arrays: dict[Value, Any],
        layout: Layout,
        clock: Clock | None = None,
        threads: int = 1,
    ) -> None:
        self.clock = clock
        self.names: dict[Value, str] = dict(parameters)
        self.parameters = list(parameters.values())
        self.arrays, self.layout = arrays, layout
        self.bindings: dict[str, Any] = {}
        self.by_id: dict[int, str] = {}
        self.threads = threads
        self.body = Lines(threads=threads)
        self.lines = self.body.texts
        self.temporary: dict[tuple[int, str, Shape], str] = {}
        self.blocks: list[Array] = []  # memory of loops, and scratch memory of calls
        self.aliases: dict[Call, dict[int, int]] = {}
        self.issued: list[Issued] = []
        self.program: programs.ProgramRun | None = None
        for value, name in parameters.items():
            if value.contiguous:  # parameters of a loop can be views of results of operations, which may have gaps
                self.body.operands[name] = Operand(Form.contiguous(value.dtype, value.shape), name)

    def bind(self, prefix: str, obj: Any) -> str:
        """A name bound to an array, a kernel or a function."""
        if id(obj) not in self.by_id:
            name = self.by_id[id(obj)] = f"{prefix}{len(self.bindings)}"
            self.bindings[name] = obj
            if isinstance(obj, np.ndarray):
                self.body.operands[name] = Operand(Form.of(obj), array=obj)
        return self.by_id[id(obj)]

    def write(self, function: str, arguments: list[str]) -> None:
        """Append a line that calls a function with arrays and integers, all by their names in the function."""
        self.body.calls[len(self.lines)] = programs.Call(function, arguments)
        self.lines.append(f"{function}({', '.join(arguments)})")

    def array(self, value: Value) -> Array | None:
        """The array of a value, if known before a run."""
        return resolve(value, self.arrays)

    def has_memory(self, value: Value) -> bool:
        """Whether a value already has memory, which its call writes to."""
        return value in self.names or self.array(value) is not None

    def define(self, value: Value) -> str:
        """A name for a new value."""
        name = self.names[value] = f"f{len(self.names)}"
        self.body.operands[name] = Operand(Form.contiguous(value.dtype, value.shape), name)
        return name

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call that are in the same memory, by the layout or as arrays (cached)."""
        if call not in self.aliases:
            self.aliases[call] = shared_of(call, self.layout)
        return self.aliases[call]

    def scratch(self, i: int, dtype: str, shape: Shape) -> str:
        """A name for scratch memory number i of a call, with this dtype and shape."""
        key = (i, dtype, shape)
        if key not in self.temporary:
            self.blocks.append(np.empty(shape, dtype))
            self.temporary[key] = self.bind("t", self.blocks[-1])
        return self.temporary[key]

    def name(self, value: Any) -> str:
        """The name of a value or a number; a line for a view is appended first if it needs one."""
        if not isinstance(value, Value):
            return self.bind("c", value)
        if value not in self.names:
            array = self.array(value)
            if array is not None:
                prefix = "n" if value.kind == "number" else "b" if value.root.kind == "buffer" else "a"
                self.names[value] = self.bind(prefix, array)
            else:
                assert value.base is not None
                assert value.make_view is not None
                base = self.name(value.base)
                self.names[value] = f"v{len(self.names)}"
                is_transpose = value.view_kind == "transpose"
                view = f"{base}.T" if is_transpose else f"{self.bind('look', value.make_view)}({base}, {value.shape})"
                if is_transpose and (operand := self.body.operands.get(base)) is not None:
                    self.body.views[len(self.lines)] = self.names[value]
                    self.body.operands[self.names[value]] = operand.transposed()
                self.lines.append(f"{self.names[value]} = {view}")
        return self.names[value]

    def shaped(self, value: Value, shape: Shape) -> str:
        """The name of a value, reshaped."""
        if value.shape == shape:
            return self.name(value)
        array = self.array(value)
        if array is None:
            name = self.name(value)
            operand, viewed = self.body.operands.get(name), f"{name}.reshape({shape})"
            if operand is not None and operand.form == Form.contiguous(value.dtype, value.shape):
                self.body.operands[viewed] = Operand(Form.contiguous(value.dtype, shape), operand.parameter)
            return viewed
        view = array.reshape(shape)
        assert not view.size or address(view) == address(array), f"{value.shape} as {shape} is a copy"
        return self.bind("b", view)

    def call(self, call: Call) -> None:
        """Append the lines of a call."""
        arrays, start = {v: self.array(v) for v in (*call.reads, *call.outputs)}, len(self.lines)
        if isinstance(call, Loop):
            loop = self.loop(call)
            self.issued.append(Issued(call, arrays, self.lines[start:], {}, loop))
            return
        call.emit(self)
        self.issued.append(Issued(call, arrays, self.lines[start:], self.shared(call)))
        if self.clock is not None and not isinstance(call, Accumulate):
            self.lines.append(f"since = {self.bind('took', functools.partial(self.clock.took, call))}(since)")

    def loop(self, call: Loop) -> Parts:
        known = {v: array for v in (*call.reads, *call.outputs) if (array := self.array(v)) is not None}
        inputs = [v for v in call.reads if v not in known]
        parts = Parts(call, inputs, known, self.clock)
        self.blocks += parts.blocks
        self.lines.append(f"{self.bind('loop', parts)}({', '.join(self.name(v) for v in inputs)})")
        if self.clock is not None:
            self.lines.append("since = now()")
        return parts

    def finish(self, results: list[Value]) -> tuple[str, Callable[..., Any]]:
        """The source, and the function: of the parameters, to a tuple of copies of the results."""
        last = f"return ({''.join(f'{self.name(v)}.copy(), ' for v in results)})"
        lines_and_programs = self.body.join(self.bind, self.bindings, last)
        self.origins = [line.origin for line in lines_and_programs]
        if len(self.body.programs) == sum(not line.is_comment for line in lines_and_programs) == 1:
            self.program = self.body.programs[0]
        lines = [*(["since = now()"] if self.clock else []), *(line.text for line in lines_and_programs), last]
        body = "\n".join(f"    {line}" for line in lines)
        source = f"def run({', '.join(self.parameters)}):\n{body}\n"
        space = {**build.NAMESPACE, **self.bindings, "now": time.perf_counter}
        exec(compile(source, FILE, "exec"), space)
        return source, space["run"]


def shared_of(call: Call, layout: Layout) -> dict[int, int]:
    """Result to operand of a call that are in the same memory."""
    shared = dict(layout.shared.get(call, {}))
    for k, out in enumerate(call.outputs):
        shared.update((k, j) for j, v in enumerate(call.inputs) if isinstance(v, Value) and one_memory(v, out))
    return shared


class Part(NamedTuple):
    """Samples start to stop, by one thread. run: its function;  issued: the calls of that;  first: whether it is the first part
    of its thread, which writes its sums instead of adding them."""

    start: int
    stop: int
    first: bool
    run: Callable[..., Any]
    issued: list[Issued]


class Parts:
    """A loop over parts of the samples, in several threads, each with separate memory.

    inputs   values that are only known in a run: its arguments, in order
    known    arrays of the other values and of the results
    work     the parts of each thread
    totals   the sums of each thread;  merged: pairs of those of the first thread and another's, which are added at the end
    private  the memory that only this thread uses, for each thread
    """

    def __init__(self, loop: Loop, inputs: list[Value], known: dict[Value, Array], clock: Clock | None) -> None:
        self.loop, self.inputs, self.known, self.clock = loop, inputs, known, clock
        n = loop.split.samples
        self.threads = min(threads.get_num_threads(), n) if threads.controls_blas() else 1
        ends = [n * i // self.threads for i in range(self.threads + 1)]
        widest_row = max((v.nbytes // n for v in loop.split.has_rows), default=1)
        rows = max(thresholds.ROWS_BYTES // max(widest_row, 1), 1)
        self.work: list[list[Part]] = []
        self.totals: list[list[Array]] = []
        self.partial: list[list[Array]] = []
        self.private: list[list[Array]] = []
        for i, (start, stop) in enumerate(pairwise(ends)):
            pieces = cut(start, stop, rows)
            widest = Tile(loop, max(b - a for a, b in pieces))
            outside = {widest.value(v) for v in loop.spread} | set(loop.totals)
            layout = lay_out(widest.calls, set(loop.totals), placed=outside)
            blocks = [aligned(size) for size in layout.blocks]
            self.totals.append([known[v] if i == 0 else np.empty(v.shape, v.dtype) for v in loop.totals])
            self.partial.append([np.empty(v.shape, v.dtype) for v in loop.totals] if len(pieces) > 1 else [])
            self.private.append(blocks + self.partial[i] + (self.totals[i] if i else []))
            arrays = arrays_for(layout, blocks)
            emitters: dict[tuple[int, bool], Emitter] = {}
            functions: dict[tuple[int, bool], Callable[..., Any]] = {}
            work = []
            for a, b in pieces:
                key = (b - a, a == start)
                if key not in emitters:
                    emitters[key] = self.part(key, widest, layout, arrays, i)
                    functions[key] = emitters[key].finish([])[1]
                    self.private[i] += emitters[key].blocks
                work.append(Part(a, b, a == start, functions[key], emitters[key].issued))
            self.work.append(work)
        self.merged = [pair for totals in self.totals[1:] for pair in zip(self.totals[0], totals, strict=True)]
        self.sliced = [loop.split.rows(v) for v in inputs]
        self.spread = [known[v] for v in loop.spread]

    @property
    def blocks(self) -> list[Array]:
        return [block for blocks in self.private for block in blocks]

    def part(self, key: tuple[int, bool], widest: Tile, layout: Layout, arrays: dict[Value, Array], thread: int) -> Emitter:
        """Emit the function for a part: key is its number of rows, and whether it is the first of its thread, which writes its
        sums; the others add to them."""
        rows, first = key
        loop, narrow = self.loop, Tile(self.loop, rows)
        part_arrays: dict[Value, Any] = {v: array for v, array in self.known.items() if narrow.value(v) is v}
        for v, narrowed in narrow.copies.items():
            if (wide := arrays.get(widest.value(v))) is not None:
                part_arrays[narrowed] = wide[:rows]
        part_arrays.update(zip(loop.totals, self.totals[thread] if first else self.partial[thread], strict=True))
        shared = {c: layout.shared[w] for c, w in zip(narrow.calls, widest.calls, strict=True) if w in layout.shared}
        names = {narrow.value(v): f"x{i}" for i, v in enumerate(self.inputs)}
        names |= {narrow.value(v): f"y{i}" for i, v in enumerate(loop.spread)}
        clock = None if self.clock is None else self.clock.for_copies(narrow.calls, loop.calls, self.threads)
        emitter = Emitter(names, part_arrays, Layout(shared=shared), clock)
        for c in narrow.calls:
            emitter.call(c)
        if not first:
            for v, total in zip(loop.totals, self.totals[thread], strict=True):
                before, after = (Value(v.shape, v.dtype, "buffer", node=v.node) for _ in range(2))
                emitter.arrays |= {before: total, after: total}
                emitter.call(Accumulate("add", [before, v], [after], []))
        return emitter

    def __call__(self, *inputs: Array) -> None:
        def work(first: int, last: int) -> None:
            for thread in range(first, last):
                for start, stop, _, run, _ in self.work[thread]:
                    parts = [x[start:stop] if sliced else x for x, sliced in zip(inputs, self.sliced, strict=True)]
                    run(*parts, *[y[start:stop] for y in self.spread])

        if self.threads == 1:
            threads.with_steady_blas(work, 0, 1)
            return
        with threads.single_threaded_blas():
            threads.in_threads(work, self.threads, self.threads)
        for total, other in self.merged:
            np.add(total, other, out=total)


def cut(start: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """start..stop, cut into equal parts of about `rows` rows."""
    count = max(round((stop - start) / rows), 1)
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(ends))
