"""Plan: a traced step as a list of kernels with their memory, ready to run."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorgrad.compiler import programs
from tensorgrad.compiler.calls import Apply, Call, ChainCall, Elementwise
from tensorgrad.compiler.check import fault_of, made_at
from tensorgrad.compiler.emit import FILE, Clock, Emitter
from tensorgrad.compiler.group import grouped
from tensorgrad.compiler.guards import Guard
from tensorgrad.compiler.launches import Launches
from tensorgrad.compiler.lower import Lowering
from tensorgrad.compiler.memory import arrays_for, assigned_in_place, lay_out
from tensorgrad.compiler.networks import with_networks
from tensorgrad.compiler.rows import Loop, split_rows
from tensorgrad.compiler.trace import Trace, place_of
from tensorgrad.compiler.values import Value, lineage
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, copy, device_of, is_floating, namespace, on, on_gpu
from tensorgrad.core.graph import Graph
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.memory import aligned, empty_bytes
from tensorgrad.core.node import Node
from tensorgrad.core.op import Label
from tensorgrad.core.profiling import Cost
from tensorgrad.core.state import switched
from tensorgrad.core.table import columns
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError, DTypeError, OutOfRangeError, ShapeError, TensorgradError
from tensorgrad.kernels import threads, thresholds
from tensorgrad.ops import random

RUNS = 5  # of a plan, to measure its kernels


def may_use_threads(call: Call) -> bool:
    """Whether a call may be a product, or several, for which BLAS uses threads: no loop over elements, and not small."""
    if isinstance(call, Elementwise) or (isinstance(call, ChainCall) and all(v.shape == call.shape for v in call.outputs)):
        return False
    return any(math.prod(v.shape) >= thresholds.BLAS for v in (*call.reads, *call.outputs))


@dataclass(frozen=True)
class Row(Cost):
    """A kernel of a plan and its cost, the bytes being those read or written. level: 1 inside of a loop over samples."""

    kernel: str = ""
    module: str = ""
    shape: tuple[int, ...] = ()
    level: int = 0


class Plan:
    """What a compiled step does for arguments of given shapes and dtypes. Printed, it is the table of its kernels.

    peak_bytes   memory of its own: what lies between the arguments, the parameters and the results
    source       the Python function that it runs
    graph        the kernels as a Graph, to be drawn: `tensorgrad.draw.graph(plan)`
    guards       what it takes for given, and looks at before each run
    threads      how many threads it was planned for
    device       where it runs
    launches     on a GPU: `launches.captured` says whether it is one CUDA graph, `launches.why_not` why it is not; else None
    whole        the program that all of it is, if nothing needs Python;  places: where it leaves the results
    fault        what the check of the finished plan has found, in words; such a plan is never run. "" if nothing
    """

    def __init__(self, trace: Trace) -> None:
        self.lowered = lowered = Lowering(trace).run()
        self.results = lowered.returned
        keep = {seen for v in self.results for seen in lineage(v)}
        near = [v.array for call in lowered.calls for v in call.reads if v.array is not None]
        on_gpus = [array for array in (*near, *(t._data for t in trace.arguments)) if on_gpu(array)]
        calls = with_networks(lowered.calls, keep) if on_gpus else lowered.calls
        self.calls = assigned_in_place(grouped(calls, keep))
        self.threads = threads.get_num_threads()
        self.written = [a.target for a in trace.assignments]
        self.owners = {id(owner) for array in self.written for owner in (array, array.base) if owner is not None}
        self.launches: Launches | None = None
        self.shares, self.team = False, 1
        self.program: programs.ProgramRun | None = None
        self.guards: list[Guard] = []
        if on_gpus:
            self.launch(trace, keep, on_gpus[0])
        else:
            self.calls = split_rows(self.calls, lowered.arguments, keep, thresholds.ROWS_FLOPS)
            self.layout = lay_out(self.calls, keep)
            self.blocks = [aligned(n) for n in self.layout.blocks]
            flops = sum(call.flops for call in self.calls if not isinstance(call, Loop))
            can_share = self.threads > 1 and threads.controls_blas()
            self.team = self.threads if can_share and flops >= thresholds.SHARED_FLOPS and programs.has_machine_code() else 1
            self.shares = self.team > 1 or (can_share and flops >= thresholds.PLAN_FLOPS)
            emitter = self.emit()
            self.peak_bytes = sum(self.layout.blocks) + sum(block.nbytes for block in emitter.blocks)
            self.source, self.function = emitter.finish(self.results)
            self.issued, self.origins = emitter.issued, emitter.origins
            places = {v: emitter.array(v) for v in self.results}
            self.program, self.places = emitter.program, [places[v] for v in self.results]
            own = self.blocks + emitter.blocks
            self.fault = fault_of(lowered.calls, emitter.issued, self.results, lowered.assigned, own, places)
        self.device = device_of(on_gpus[0]) if on_gpus else "cpu"
        self.products = any(not isinstance(call, Loop) and may_use_threads(call) for call in self.calls)
        self.numbers: list[tuple[Callable[[], Any], list[tuple[str, Array]]]] = [
            (compute, [(name, v.array) for name, v in found.items()]) for compute, found in lowered.numbers
        ]
        self.optimisers = trace.optimisers
        self.late = [(o, missed) for o, missed in zip(trace.optimisers, trace.missed, strict=True) if missed]
        self.in_time = [o for o, missed in zip(trace.optimisers, trace.missed, strict=True) if not missed]
        self.grads = [t for t, _ in lowered.grads]
        self.added_to = [t for t, before in trace.grads.items() if before is not None]
        self.cleared = [t for t in trace.regraded if t not in trace.kept]
        self.rebuild = trace.rebuild
        self.known: dict[int, float] = {}  # what the numbers on a GPU are, by the id of their arrays
        self.names = trace.names()

    def launch(self, trace: Trace, keep: set[Value], near: Array) -> None:
        """Plan for the GPU that `near` is on: memory for everything, a run that compiles kernels, undone, then captured."""
        for call in self.calls:
            for v in call.outputs:
                v.kind = "buffer" if v.kind == "fresh" else v.kind
        self.layout = lay_out(self.calls, keep)
        given = [t._data for t in trace.inputs()]
        with on(near):
            self.blocks = [empty_bytes(n, near) for n in self.layout.blocks]
            arrays: dict[Value, Any] = arrays_for(self.layout, self.blocks)
            static = [copy(array) for array in given]
            arrays.update(zip(self.lowered.arguments, static, strict=True))
            self.launches = self.function = Launches(self.calls, static, self.results, arrays, self.layout)
            places = dict(zip(self.results, self.launches.results, strict=True))
            program, assigned = self.lowered.calls, self.lowered.assigned
            self.fault = fault_of(program, self.launches.issued, self.results, assigned, self.blocks, places)
            if not self.fault:
                with self.put_back():
                    self.launches.run()
                if any(call.meets for call in self.calls):  # other processes are no part of a graph
                    self.launches.why_not = "ranks meet in it"
                else:
                    self.launches.capture()
        self.peak_bytes = sum(self.layout.blocks) + sum(array.nbytes for array in static)
        self.source = self.launches.listing()

    def emit(self, clock: Clock | None = None) -> Emitter:
        arrays: dict[Value, Any] = arrays_for(self.layout, self.blocks)
        emitter = Emitter({v: f"x{i}" for i, v in enumerate(self.lowered.arguments)}, arrays, self.layout, clock, self.team)
        for call in self.calls:
            emitter.call(call)
        return emitter

    def compute(self, arguments: list[Array], function: Callable[..., Any] | None = None) -> tuple[Array, ...]:
        """What one step makes: the arrays of the results, and of the gradients that it leaves."""
        for array in arguments:
            self.check_apart(array)
        if self.added_to:
            before = [t._grad._data for t in self.added_to if t._grad is not None]
            arguments = [*arguments, *(g if g.flags.c_contiguous else namespace([g]).ascontiguousarray(g) for g in before)]
        for optimiser in self.in_time:
            optimiser.__dict__["steps"] += 1
        for optimiser, missed in self.late:
            optimiser.count(missed)
        try:
            for compute, arrays in self.numbers:
                values = compute()
                for name, array in arrays:
                    if self.launches is None:
                        array[()] = values[name]
                    elif values[name] != self.known.get(id(array)):
                        self.known[id(array)] = values[name]
                        with on(array):
                            array.fill(values[name])
            run: Callable[..., tuple[Array, ...]] = function or self.function
            found = self.replayed(run, arguments)
        except BaseException as error:
            for optimiser in self.in_time:
                optimiser.__dict__["steps"] -= 1
            for optimiser, missed in self.late:
                optimiser.count(missed, -1)
            explained = self.explained(error, function is not None)
            if explained is error:
                raise
            raise explained from error
        for array in self.written:
            writes.wrote(array)
        for optimiser in self.optimisers:
            optimiser.flush()
        return found

    def check_apart(self, array: Array) -> None:
        """Raise CompileError for an argument in memory that the step writes to."""
        base = array.base
        if id(array if base is None else base) in self.owners:
            raise CompileError(f"compile: an argument {array.shape} lies in memory that the step writes to; pass a copy of it")

    def replayed(self, run: Callable[..., tuple[Array, ...]], arguments: list[Array]) -> tuple[Array, ...]:
        """run(*arguments), during which the number of BLAS's threads does not change."""
        if self.shares:
            if self.team > 1:
                programs.start_team(self.team)
            with threads.single_threaded_blas():
                return run(*arguments)
        return threads.with_steady_blas(run, *arguments) if self.products else run(*arguments)

    def explained(self, error: BaseException, is_timed: bool) -> BaseException:
        """An error of NumPy's as the step itself raises it, naming the operation, unless a clock has lines of its own between
        the calls; other ones as they are."""
        kinds: dict[type, type[TensorgradError]] = {IndexError: OutOfRangeError, ValueError: ShapeError, TypeError: DTypeError}
        kind = kinds.get(type(error))
        if not (kind or isinstance(error, TensorgradError)) or self.launches is not None:
            return error
        if is_timed:
            return error if kind is None else kind(f"{error}, in a replay of {len(self.issued)} kernels")
        place = programs.place_of(error)
        frames = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == FILE]
        if place is None and frames:
            place = dict(enumerate(self.origins, 2)).get(frames[0])  # in the source, calls begin at the second line
        line = 0
        for one in self.issued:
            line += len(one.lines)
            if place is not None and place < line:
                if kind is not None:
                    return kind(f"{one.call.name}: {error}, in a replay{made_at(one.call)}")
                error.add_note(f"compile: in a replay{made_at(one.call)}")
                return error
        return error

    def run(self, arguments: list[Array], function: Callable[..., Any] | None = None) -> list[Tensor]:
        """One step, which leaves gradients where it does; the Tensors in what it returns."""
        found = self.compute(arguments, function)
        for tensor in self.cleared:
            tensor._grad = None
        if self.grads:
            count = len(found) - len(self.grads)
            for tensor, value in zip(self.grads, found[count:], strict=True):
                tensor._grad = wrap(value, None)
            found = found[:count]
        return [wrap(array, None) for array in found]

    # What it costs

    @cached_property
    def timed(self) -> tuple[Callable[..., Any], dict[Call, float]]:
        """The function with a clock in it, and the seconds that the clock adds to."""
        seconds: dict[Call, float] = {}
        if self.launches is not None:
            return self.launches.timed(seconds), seconds
        return self.emit(Clock(seconds)).finish(self.results)[1], seconds

    @cached_property
    def seconds(self) -> dict[Call, float]:
        """The time of each kernel, measured on arguments made up, with everything put back as it was; the mean of some runs.
        None of a plan that is not run."""
        if self.fault:
            return {}
        function, found = self.timed
        rng = np.random.default_rng(0)
        made_up = [(rng.random(v.shape) * is_floating(v.dtype)).astype(v.dtype) for v in self.lowered.arguments]
        if self.launches is not None:
            made_up = self.launches.arguments
        with self.put_back(), switched(rehearsing=True), np.errstate(all="ignore"):
            self.replayed(function, made_up)
            found.clear()
            for _ in range(RUNS):
                self.replayed(function, made_up)
        return {call: total / RUNS for call, total in found.items()}

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """What the block writes to parameters and draws from generators is undone after it."""
        saved = [copy(array) for array in self.written]
        drawn = {
            call.attrs.get("rng") or random.default() for call in flat(self.calls) if isinstance(call, Apply) and call.draws
        }
        states = [(rng, random.state_of(rng)) for rng in drawn]
        try:
            yield
        finally:
            for array, before in zip(self.written, saved, strict=True):
                with on(array):
                    array[...] = before
            for rng, state in states:
                random.set_state(rng, state)

    def rows(self) -> list[Row]:
        """A row for each kernel, measured."""
        seconds = self.seconds
        found = []
        for call in self.calls:
            for part in [call, *call.parts] if isinstance(call, Loop) else [call]:
                spent = sum(seconds.get(c, 0.0) for c in flat([part]))
                level = 1 if part is not call else 0
                found.append(Row(bytes_of(part), part.flops, spent, 1, part.name, module_of(part), shape_of(part), level))
        return found

    def __str__(self) -> str:
        rows = self.rows()
        total = sum((r for r in rows if not r.level), Cost())
        cells = [["kernel", "module", "result", "bytes", "FLOPs", "µs"]]
        cells += [["  " * r.level + r.kernel, r.module, f"{r.shape}", *numbers(r)] for r in rows]
        cells.append([f"{len(rows)} kernels", "", "", *numbers(total)])
        used = f"{self.threads} thread{'s' * (self.threads != 1)}"
        if self.launches is not None:
            used = "one CUDA graph" if self.launches.captured else f"not captured ({self.launches.why_not})"
            used = f"on {self.device}, {used}"
        used += f"; it is not run: {self.fault}" if self.fault else ""
        return "\n".join([*columns(cells, "<<<>>>"), f"memory of its own: {self.peak_bytes:,} bytes; {used}"])

    __repr__ = __str__

    # What it looks like

    @property
    def graph(self) -> Graph:
        """The kernels as nodes of a graph, with the arguments and the parameters as its leaves."""
        return self.nodes()[0]

    def costs(self) -> tuple[Graph, dict[Node, Cost]]:
        """The graph, and the cost of its nodes."""
        graph, calls = self.nodes()
        return graph, {node: cost_of(call, self.seconds) for node, call in calls.items()}

    def spent(self, seconds: Mapping[Call, float]) -> list[tuple[str, str, Cost]]:
        """What a run of so many seconds has cost: kernel, module and cost."""
        return [(call.name, module_of(call), cost_of(call, seconds)) for call in flat(self.calls)]

    def nodes(self) -> tuple[Graph, dict[Node, Call]]:
        """The graph, and which call each of its nodes is."""
        writers: dict[Value, list[Any]] = {}  # a value is what all calls have made that wrote to a part of it
        nodes: dict[Node, Call] = {}
        numbers = {v: name for _, found in self.lowered.numbers for name, v in found.items()}

        def sources(v: Value) -> list[Any]:
            if v not in writers and v.root not in writers:
                array = v.root.array if v.root.array is not None else np.broadcast_to(np.zeros((), v.dtype), v.root.shape)
                leaf = wrap(array, None)
                leaf.name = self.names.get(place_of(array), numbers.get(v, ""))
                if v.root in self.lowered.arguments:
                    leaf.name = f"argument {self.lowered.arguments.index(v.root)}"
                elif v.root.node is None and not leaf.name:
                    leaf.name = "constant"
                writers[v.root] = [leaf]
            return writers[v] if v in writers else writers[v.root]

        for call in flat(self.calls):
            inputs = tuple(s for v in call.inputs for s in (sources(v) if isinstance(v, Value) else [v]))
            shape, dtype = shape_of(call), call.outputs[0].dtype
            node = Node(Label(call.name), inputs, {}, (), None, shape, dtype, (), False)
            node.scope = module_of(call)
            nodes[node] = call
            for v in call.outputs:
                writers[v] = [node]
                if v.root is not v:
                    writers.setdefault(v.root, []).append(node)
        read = {s for node in nodes for s in node.inputs if isinstance(s, Node)}
        return Graph([node for node in nodes if node not in read], check=False), nodes


def flat(calls: list[Call]) -> list[Call]:
    """The calls, those inside of loops in the place of the loops."""
    return [part for call in calls for part in call.parts]


def module_of(call: Call) -> str:
    """The module whose forward made what the call computes, or whose gradient it is part of."""
    scopes = list(dict.fromkeys(node.scope for node in call.nodes if node.scope))
    return scopes[0] if len(scopes) == 1 else ""


def shape_of(call: Call) -> tuple[int, ...]:
    """The shape of what a call writes; of several results that of the largest."""
    return max((v.shape for v in call.outputs), key=lambda shape: (len(shape), shape), default=())


def numbers(cost: Cost) -> list[str]:
    """Bytes, FLOPs and microseconds."""
    return [f"{cost.bytes:,}", f"{cost.flops:,}", f"{cost.seconds * 1e6:,.1f}"]


def cost_of(call: Call, seconds: Mapping[Call, float]) -> Cost:
    return Cost(bytes_of(call), call.flops, seconds.get(call, 0.0), 1)


def bytes_of(call: Call) -> int:
    if isinstance(call, Loop):
        return sum(bytes_of(part) for part in call.parts)
    return sum(v.nbytes for v in (*call.reads, *call.outputs))
