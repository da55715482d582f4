"""Emitting: the calls of a plan as the Python function that somebody would have written for this step alone."""

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
from tensorgrad.compiler.rows import Loop, Narrow
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array, address
from tensorgrad.core.memory import aligned
from tensorgrad.core.signature import Shape
from tensorgrad.kernels import build, threads, thresholds
from tensorgrad.kernels.words import Form, Operand

FILE = "<tensorgrad plan>"  # in which the functions of plans are, to tracebacks


class Clock:
    """Adds up the seconds that calls take. stands_for: copies of calls to the calls themselves;  threads: how many run them."""

    def __init__(self, seconds: dict[Call, float], stands_for: dict[Call, Call] | None = None, threads: int = 1) -> None:
        self.seconds, self.stands_for, self.threads = seconds, stands_for or {}, threads

    def took(self, call: Call, since: float) -> float:
        now = time.perf_counter()
        call = self.stands_for.get(call, call)
        self.seconds[call] = self.seconds.get(call, 0.0) + (now - since) / self.threads
        return time.perf_counter()

    def of(self, copies: list[Call], calls: list[Call], threads: int) -> Clock:
        return Clock(self.seconds, dict(zip(copies, calls, strict=True)), threads)


class Issued(NamedTuple):
    """A call as it is done: which array each of its values is. None: what only a run knows, an argument or what is made of one,
    or an array that an operation makes itself.

    lines   what does it
    shared  which of its results it has been told to lie in the memory of which operand
    loop    what does it, if it is a Loop
    """

    call: Call
    arrays: dict[Value, Array | None]
    lines: list[str]
    shared: dict[int, int]
    loop: Parts | None = None


class Emitter:
    """Writes one function of the given parameters; what else it needs is bound to names around it.

    arrays   value to its array, for those that are known
    layout   says which results of a call lie in the memory of which operand
    clock    is told how long each call took, if there is one
    threads  how many of them share products and loops, in machine code
    issued   what it has written, in order, to be checked
    whole    the program that all of it has become, if it has
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
        self.bound: dict[str, Any] = {}
        self.by_id: dict[int, str] = {}
        self.threads = threads
        self.written = Lines(threads=threads)
        self.lines = self.written.texts
        self.temporary: dict[tuple[int, str, Shape], str] = {}
        self.blocks: list[Array] = []  # memory of loops, and what calls make on the way
        self.told: dict[Call, dict[int, int]] = {}
        self.issued: list[Issued] = []
        self.whole: programs.Run | None = None
        for value, name in parameters.items():
            if value.contiguous:  # to a loop are also given views of what an operation has made
                self.written.operands[name] = Operand(Form.contiguous(value.dtype, value.shape), name)

    def bind(self, prefix: str, thing: Any) -> str:
        """A name for an array, a kernel, a function."""
        if id(thing) not in self.by_id:
            name = self.by_id[id(thing)] = f"{prefix}{len(self.bound)}"
            self.bound[name] = thing
            if isinstance(thing, np.ndarray):
                self.written.operands[name] = Operand(Form.of(thing), array=thing)
        return self.by_id[id(thing)]

    def write(self, function: str, arguments: list[str]) -> None:
        """Append a line that calls a function with arrays and integers, all by what they are called in the function."""
        self.written.calls[len(self.lines)] = programs.Call(function, arguments)
        self.lines.append(f"{function}({', '.join(arguments)})")

    def array(self, value: Value) -> Array | None:
        """The array of a value, if it is known before a run."""
        return resolve(value, self.arrays)

    def holds(self, value: Value) -> bool:
        """Whether a value has a place already, which its maker is to write to."""
        return value in self.names or self.array(value) is not None

    def define(self, value: Value) -> str:
        """A name for a value that is made only now."""
        name = self.names[value] = f"f{len(self.names)}"
        self.written.operands[name] = Operand(Form.contiguous(value.dtype, value.shape), name)
        return name

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call that lie in the same memory; a parameter is written over in its own."""
        if call not in self.told:
            self.told[call] = shared_of(call, self.layout)
        return self.told[call]

    def scratch(self, i: int, dtype: str, shape: Shape) -> str:
        """A name for memory number i of this dtype and shape, for what a call makes on the way."""
        key = (i, dtype, shape)
        if key not in self.temporary:
            self.blocks.append(np.empty(shape, dtype))
            self.temporary[key] = self.bind("t", self.blocks[-1])
        return self.temporary[key]

    def name(self, value: Any) -> str:
        """What a value, or a number, is called; one that has to be looked at otherwise is, first."""
        if not isinstance(value, Value):
            return self.bind("c", value)
        if value not in self.names:
            array = self.array(value)
            if array is not None:
                prefix = "n" if value.kind == "number" else "b" if value.root.kind == "buffer" else "a"
                self.names[value] = self.bind(prefix, array)
            else:
                assert value.base is not None
                assert value.look is not None
                base = self.name(value.base)
                self.names[value] = f"v{len(self.names)}"
                look = f"{base}.T" if value.how == "transpose" else f"{self.bind('look', value.look)}({base}, {value.shape})"
                if value.how == "transpose" and (operand := self.written.operands.get(base)) is not None:
                    self.written.looks[len(self.lines)] = self.names[value]
                    self.written.operands[self.names[value]] = operand.transposed()
                self.lines.append(f"{self.names[value]} = {look}")
        return self.names[value]

    def shaped(self, value: Value, shape: Shape) -> str:
        """What a value is called, seen in another shape."""
        if value.shape == shape:
            return self.name(value)
        array = self.array(value)
        if array is None:
            name = self.name(value)
            operand, seen_as = self.written.operands.get(name), f"{name}.reshape({shape})"
            if operand is not None and operand.form == Form.contiguous(value.dtype, value.shape):
                self.written.operands[seen_as] = Operand(Form.contiguous(value.dtype, shape), operand.given)
            return seen_as
        seen = array.reshape(shape)
        assert not seen.size or address(seen) == address(array), f"{value.shape} as {shape} is a copy"
        return self.bind("b", seen)

    def call(self, call: Call) -> None:
        """Write a call."""
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
        given = [v for v in call.reads if v not in known]
        parts = Parts(call, given, known, self.clock)
        self.blocks += parts.blocks
        self.lines.append(f"{self.bind('loop', parts)}({', '.join(self.name(v) for v in given)})")
        if self.clock is not None:
            self.lines.append("since = now()")
        return parts

    def finish(self, results: list[Value]) -> tuple[str, Callable[..., Any]]:
        """The source, and the function that it makes: of the parameters, to a tuple of copies of the results."""
        last = f"return ({''.join(f'{self.name(v)}.copy(), ' for v in results)})"
        joined = self.written.joined(self.bind, self.bound, last)
        self.origins = [line.origin for line in joined]
        if len(self.written.runs) == sum(not line.is_comment for line in joined) == 1:
            self.whole = self.written.runs[0]
        lines = [*(["since = now()"] if self.clock else []), *(line.text for line in joined), last]
        body = "\n".join(f"    {line}" for line in lines)
        source = f"def run({', '.join(self.parameters)}):\n{body}\n"
        space = {**build.NAMESPACE, **self.bound, "now": time.perf_counter}
        exec(compile(source, FILE, "exec"), space)
        return source, space["run"]


def shared_of(call: Call, layout: Layout) -> dict[int, int]:
    """Result to operand of a call that lie in the same memory."""
    shared = dict(layout.shared.get(call, {}))
    for k, out in enumerate(call.outputs):
        shared.update((k, j) for j, v in enumerate(call.inputs) if isinstance(v, Value) and one_memory(v, out))
    return shared


class Part(NamedTuple):
    """Samples start to stop, by one thread. run: what does it;  issued: what that consists of;  first: of its thread, so that
    sums are written, and not added to what is there."""

    start: int
    stop: int
    first: bool
    run: Callable[..., Any]
    issued: list[Issued]


class Parts:
    """A loop over parts of the samples, in several threads, each with memory of its own.

    given    the inputs that are known only at a run, in the order in which it is called with them
    known    the arrays of the others, and of the results
    work     for each thread its parts
    totals   for each thread what it adds up;  merged: those of the first, with another that is added to them in the end
    private  for each thread the memory that nobody else uses
    """

    def __init__(self, loop: Loop, given: list[Value], known: dict[Value, Array], clock: Clock | None) -> None:
        self.loop, self.given, self.known, self.clock = loop, given, known, clock
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
            widest = Narrow(loop, max(b - a for a, b in pieces))
            outside = {widest.value(v) for v in loop.spread} | set(loop.totals)
            layout = lay_out(widest.calls, set(loop.totals), given=outside)
            blocks = [aligned(size) for size in layout.blocks]
            self.totals.append([known[v] if i == 0 else np.empty(v.shape, v.dtype) for v in loop.totals])
            self.partial.append([np.empty(v.shape, v.dtype) for v in loop.totals] if len(pieces) > 1 else [])
            self.private.append(blocks + self.partial[i] + (self.totals[i] if i else []))
            arrays = arrays_for(layout, blocks)
            made: dict[tuple[int, bool], Emitter] = {}
            functions: dict[tuple[int, bool], Callable[..., Any]] = {}
            work = []
            for a, b in pieces:
                key = (b - a, a == start)
                if key not in made:
                    made[key] = self.part(key, widest, layout, arrays, i)
                    functions[key] = made[key].finish([])[1]
                    self.private[i] += made[key].blocks
                work.append(Part(a, b, a == start, functions[key], made[key].issued))
            self.work.append(work)
        self.merged = [pair for totals in self.totals[1:] for pair in zip(self.totals[0], totals, strict=True)]
        self.sliced = [loop.split.rows(v) for v in given]
        self.spread = [known[v] for v in loop.spread]

    @property
    def blocks(self) -> list[Array]:
        return [block for blocks in self.private for block in blocks]

    def part(self, key: tuple[int, bool], widest: Narrow, layout: Layout, arrays: dict[Value, Array], thread: int) -> Emitter:
        """The function for so many rows: the first of a thread writes its sums, the others add to them."""
        rows, first = key
        loop, narrow = self.loop, Narrow(self.loop, rows)
        here: dict[Value, Any] = {v: array for v, array in self.known.items() if narrow.value(v) is v}
        for v, copied in narrow.copies.items():
            if (wide := arrays.get(widest.value(v))) is not None:
                here[copied] = wide[:rows]
        here.update(zip(loop.totals, self.totals[thread] if first else self.partial[thread], strict=True))
        shared = {c: layout.shared[w] for c, w in zip(narrow.calls, widest.calls, strict=True) if w in layout.shared}
        names = {narrow.value(v): f"x{i}" for i, v in enumerate(self.given)}
        names |= {narrow.value(v): f"y{i}" for i, v in enumerate(loop.spread)}
        clock = None if self.clock is None else self.clock.of(narrow.calls, loop.calls, self.threads)
        emitter = Emitter(names, here, Layout(shared=shared), clock)
        for c in narrow.calls:
            emitter.call(c)
        if not first:
            for v, total in zip(loop.totals, self.totals[thread], strict=True):
                before, after = (Value(v.shape, v.dtype, "buffer", node=v.node) for _ in range(2))
                emitter.arrays |= {before: total, after: total}
                emitter.call(Accumulate("add", [before, v], [after], []))
        return emitter

    def __call__(self, *given: Array) -> None:
        def work(first: int, last: int) -> None:
            for thread in range(first, last):
                for start, stop, _, run, _ in self.work[thread]:
                    inputs = [x[start:stop] if sliced else x for x, sliced in zip(given, self.sliced, strict=True)]
                    run(*inputs, *[y[start:stop] for y in self.spread])

        if self.threads == 1:
            threads.with_steady_blas(work, 0, 1)
            return
        with threads.single_threaded_blas():
            threads.in_threads(work, self.threads, self.threads)
        for total, other in self.merged:
            np.add(total, other, out=total)


def cut(start: int, stop: int, rows: int) -> list[tuple[int, int]]:
    """start..stop cut into equal parts, of about so many rows."""
    count = max(round((stop - start) / rows), 1)
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(ends))
