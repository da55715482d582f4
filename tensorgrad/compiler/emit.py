"""Emitting: the calls of a plan as the Python function that somebody would have written for this step alone."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from tensorgrad.compiler.lower import Call, Value
from tensorgrad.compiler.memory import Layout, arrays_for, lay_out, resolve
from tensorgrad.compiler.rows import Narrow, Split, parts
from tensorgrad.core.backend import Array, address, aligned
from tensorgrad.kernels import build, generate, threads, thresholds


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


class Emitter:
    """Writes one function of the given parameters; what else it needs is bound to names around it.

    arrays   value to its array, for those that are known
    layout   says which results of a chain lie in the memory of which operand
    clock    is told how long each call took, if there is one
    """

    def __init__(
        self, parameters: dict[Value, str], arrays: dict[Value, Any], layout: Layout, clock: Clock | None = None
    ) -> None:
        self.clock = clock
        self.names: dict[Value, str] = dict(parameters)
        self.parameters = list(parameters.values())
        self.arrays, self.shared = arrays, layout.shared
        self.bound: dict[str, Any] = {}
        self.by_id: dict[int, str] = {}
        self.lines: list[str] = []
        self.scratch: dict[tuple[int, str, tuple[int, ...]], str] = {}
        self.blocks: list[Array] = []  # memory of loops

    def bind(self, prefix: str, thing: Any) -> str:
        """A name for an array, a kernel, a function."""
        if id(thing) not in self.by_id:
            self.by_id[id(thing)] = f"{prefix}{len(self.bound)}"
            self.bound[self.by_id[id(thing)]] = thing
        return self.by_id[id(thing)]

    def name(self, value: Any) -> str:
        """What a value is called; one that has to be looked at otherwise is, first."""
        if not isinstance(value, Value):
            return repr(value)
        if value not in self.names:
            array = resolve(value, self.arrays)
            if array is not None:
                prefix = "n" if value.kind == "number" else "b" if value.root.kind == "buffer" else "a"
                self.names[value] = self.bind(prefix, array)
            else:
                assert value.base is not None
                assert value.look is not None
                base = self.name(value.base)
                self.names[value] = f"v{len(self.names)}"
                look = f"{base}.T" if value.how == "transpose" else f"{self.bind('look', value.look)}({base}, {value.shape})"
                self.lines.append(f"{self.names[value]} = {look}")
        return self.names[value]

    def shaped(self, value: Value, shape: tuple[int, ...]) -> str:
        """What a value is called, seen in another shape."""
        if value.shape == shape:
            return self.name(value)
        array = resolve(value, self.arrays)
        return f"{self.name(value)}.reshape({shape})" if array is None else self.bind("b", array.reshape(shape))

    def call(self, call: Call) -> None:
        """Write a call."""
        getattr(self, f"emit_{call.kind}")(call)
        if self.clock is not None and call.kind != "loop":
            self.lines.append(f"since = {self.bind('took', functools.partial(self.clock.took, call))}(since)")

    def emit_elementwise(self, call: Call) -> None:
        inputs = ", ".join(self.name(v) for v in call.inputs)
        line = f"{call.name}({inputs}, out={self.name(call.outputs[0])})"
        ignored = ", ".join(f"{kind}='ignore'" for kind in call.detail["quiet"])
        self.lines.append(f"with errstate({ignored}): {line}" if ignored else line)

    def emit_matmul(self, call: Call) -> None:
        a, b = call.inputs
        if len(a.shape) == len(b.shape) == 2 and a.shape[1] == 1:  # of one sample; BLAS takes several times as long
            self.lines.append(f"multiply({self.name(a)}, {self.name(b)}, {self.name(call.outputs[0])})")
            return
        self.lines.append(f"matmul({self.name(call.inputs[0])}, {self.name(call.inputs[1])}, {self.name(call.outputs[0])})")

    def emit_dot(self, call: Call) -> None:
        a, b = (self.shaped(v, (math.prod(v.shape),)) for v in call.inputs)
        self.lines.append(f"dot({a}, {b}, {self.name(call.outputs[0])})")

    def emit_reduce(self, call: Call) -> None:
        (x,), (out,) = call.inputs, call.outputs
        self.lines.append(f"{call.detail['function']}.reduce({self.name(x)}, {call.detail['axes']}, None, {self.name(out)})")

    def emit_copy(self, call: Call) -> None:
        self.lines.append(f"copyto({self.name(call.outputs[0])}, {self.name(call.inputs[0])})")

    emit_assign = emit_copy

    def emit_op(self, call: Call) -> None:
        (out,) = call.outputs
        forward = functools.partial(call.detail["op"].forward, np, **call.detail["attrs"])
        inputs = ", ".join(self.name(v) for v in call.inputs)
        self.names[out] = f"f{len(self.names)}"
        tidy = "ascontiguousarray" if out.shape else "asarray"
        self.lines.append(f"{self.names[out]} = {tidy}({self.bind('forward', forward)}({inputs}))")

    def emit_cross_entropy(self, call: Call) -> None:
        z, t = call.inputs[:2]
        seed = self.name(call.inputs[2]) if len(call.inputs) > 2 else self.bind("a", np.ones((), z.dtype))
        classes = z.shape[-1]
        rows = (math.prod(z.shape[:-1]), classes)

        loss = self.name(call.outputs[0])
        dz = self.shaped(call.outputs[1], rows) if len(call.outputs) > 1 else self.bind("b", np.empty(rows, z.dtype))
        arguments = f"{self.shaped(z, rows)}, {self.shaped(t, rows[:1])}, {seed}, {call.detail['samples']}, {loss}, {dz}"
        kernel = build.cross_entropy_kernel(z.dtype, t.dtype, classes)
        self.lines.append(f"{self.bind('softmax_cross_entropy', kernel)}({arguments})")

    def emit_chain(self, call: Call) -> None:
        chain, shape = call.detail["chain"], call.detail["shape"]
        values = [*call.inputs, *call.outputs]
        arrays = [resolve(v, self.arrays) for v in values]
        shared = dict(self.shared.get(call, {}))
        for k, out in enumerate(call.outputs):  # a parameter is written over in its own memory
            shared.update((k, j) for j, v in enumerate(call.inputs) if one_memory(v, out))
        key = tuple(sorted(shared.items()))
        layouts = generate.layouts_of(chain)
        flat = all(x in ("full", "number") for x in layouts)
        size = math.prod(shape)
        kernel = build.numba_kernel(chain, key, flat)
        if (size >= thresholds.CHAIN_THREADS and "sum" not in layouts) or (kernel is None and size > 2 * thresholds.SLICE):
            whole = build.ChainKernel(chain, shared)
            named = [self.shaped(v, () if x == "number" else v.shape) for v, x in zip(values, layouts, strict=True)]
            self.lines.append(f"{self.bind('chain', whole)}({', '.join(named)})")
            return
        if kernel is None:

            def scratch(i: int, dtype: str) -> str:
                where = (i, dtype, shape)
                if where not in self.scratch:
                    self.scratch[where] = self.bind("t", np.empty(shape, dtype))
                return self.scratch[where]

            named = [self.name(v) for v in values]
            n = len(call.inputs)
            self.lines += generate.numpy_lines(chain, named[:n], named[n:], shared, scratch)
            return
        two = (math.prod(shape[:-1]), shape[-1])
        fit: dict[str, tuple[int, ...]] = {"full": (size,) if flat else two, "column": (two[0], 1), "number": ()}
        dummies, named = [], []
        for v, array, x in zip(values, arrays, layouts, strict=True):
            wanted = fit.get(x, v.shape)
            named.append(self.shaped(v, wanted))
            array = np.empty(wanted, v.dtype) if array is None else array.reshape(wanted)
            dummies.append(array[:0] if x in generate.SLICED else np.empty_like(array))
        kernel(*dummies)  # compiled, or read from the cache, now
        self.lines.append(f"{self.bind('chain', kernel)}({', '.join(named)})")

    def emit_loop(self, call: Call) -> None:
        known = {v: array for v in (*call.inputs, *call.outputs) if (array := resolve(v, self.arrays)) is not None}
        given = [v for v in call.inputs if v not in known]
        loop = Loop(call, given, known, self.clock)
        self.blocks += loop.blocks
        self.lines.append(f"{self.bind('loop', loop)}({', '.join(self.name(v) for v in given)})")
        if self.clock is not None:
            self.lines.append("since = now()")

    def finish(self, results: list[Value]) -> tuple[str, Callable[..., Any]]:
        """The source, and the function that it makes: of the parameters, to a tuple of copies of the results."""
        returned = "".join(f"{self.name(v)}.copy(), " for v in results)
        lines = [*(["since = now()"] if self.clock else []), *self.lines, f"return ({returned})"]
        body = "\n".join(f"    {line}" for line in lines)
        source = f"def run({', '.join(self.parameters)}):\n{body}\n"
        space = {**build.NAMESPACE, **self.bound, "now": time.perf_counter}
        exec(compile(source, "<tensorgrad plan>", "exec"), space)
        return source, space["run"]


class Loop:
    """A loop over parts of the samples, in several threads, each with memory of its own.

    given    the inputs that are known only at a run, in the order in which it is called with them
    known    the arrays of the others, and of the results
    """

    def __init__(self, call: Call, given: list[Value], known: dict[Value, Array], clock: Clock | None) -> None:
        self.clock = clock
        self.split: Split = call.detail["split"]
        self.threads = threads.get_num_threads() if threads.controls_blas() else 1
        self.blocks: list[Array] = []
        self.sums: list[list[Array]] = []  # for each thread, what it adds up
        n = self.split.samples
        ends = [n * i // self.threads for i in range(self.threads + 1)]
        widest_row = max(v.nbytes // n for v in self.split.has_rows)
        rows = max(thresholds.ROWS_BYTES // max(widest_row, 1), 1)
        self.parts = {start: parts(start, stop, rows) for start, stop in pairwise(ends)}
        self.runs: dict[int, list[Callable[..., Any]]] = {}
        sums: list[Value] = call.detail["sums"]
        spread: list[Value] = call.detail["spread"]
        for i, (start, pieces) in enumerate(self.parts.items()):
            widest = Narrow(call, max(b - a for a, b in pieces))
            keep = {widest.value(v) for v in spread}
            layout = lay_out(widest.calls, set(sums), given=keep | set(sums))
            blocks = [aligned(size) for size in layout.blocks]
            totals = [known[v] if i == 0 else np.empty(v.shape, v.dtype) for v in sums]
            partial = [np.empty(v.shape, v.dtype) for v in sums] if len(pieces) > 1 else []
            self.sums.append(totals)
            self.blocks += blocks + partial + (totals if i else [])
            arrays = arrays_for(layout, blocks)
            made: dict[tuple[int, bool], Callable[..., Any]] = {}
            self.runs[start] = []
            for a, b in pieces:
                key = (b - a, a == start)
                if key not in made:
                    made[key] = self.part(call, widest, key, given, known, layout, arrays, totals, partial)
                self.runs[start].append(made[key])
        self.sliced = [self.split.rows(v) for v in given]
        self.spread = [known[v] for v in spread]

    def part(
        self,
        call: Call,
        widest: Narrow,
        key: tuple[int, bool],
        given: list[Value],
        known: dict[Value, Array],
        layout: Layout,
        arrays: dict[Value, Array],
        totals: list[Array],
        partial: list[Array],
    ) -> Callable[..., Any]:
        """The function for so many rows: the first of a thread writes its sums, the others add to them."""
        rows, first = key
        narrow = Narrow(call, rows)
        here: dict[Value, Any] = {v: array for v, array in known.items() if narrow.value(v) is v}
        for v, copied in narrow.copies.items():
            if (wide := arrays.get(widest.value(v))) is not None:
                here[copied] = wide[:rows]
        here.update(zip(call.detail["sums"], totals if first else partial, strict=True))
        shared = {c: layout.shared[w] for c, w in zip(narrow.calls, widest.calls, strict=True) if w in layout.shared}
        names = {narrow.value(v): f"x{i}" for i, v in enumerate(given)}
        names |= {narrow.value(v): f"y{i}" for i, v in enumerate(call.detail["spread"])}
        clock = None if self.clock is None else self.clock.of(narrow.calls, call.detail["calls"], self.threads)
        emitter = Emitter(names, here, Layout(shared=shared), clock)
        for c in narrow.calls:
            emitter.call(c)
        if not first:
            for total, more in zip(totals, partial, strict=True):
                emitter.lines.append(f"add({emitter.bind('a', total)}, {emitter.bind('a', more)}, {emitter.bind('a', total)})")
        return emitter.finish([])[1]

    def __call__(self, *given: Array) -> None:
        def work(start: int, stop: int) -> None:
            for (a, b), run in zip(self.parts[start], self.runs[start], strict=True):
                inputs = [x[a:b] if sliced else x for x, sliced in zip(given, self.sliced, strict=True)]
                run(*inputs, *[y[a:b] for y in self.spread])

        if self.threads == 1:
            work(0, self.split.samples)
            return
        with threads.single_threaded_blas():
            threads.in_threads(work, self.split.samples, self.threads)
        for others in self.sums[1:]:
            for total, other in zip(self.sums[0], others, strict=True):
                np.add(total, other, out=total)


def one_memory(a: Value, b: Value) -> bool:
    """Whether two values are the same memory outside of the plan."""
    if not (a.kind == b.kind == "outside" and a.shape == b.shape and a.array is not None and b.array is not None):
        return False
    return address(a.array) == address(b.array)
