"""Plan: a traced step as a list of kernels and their memory, ready to run."""

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
from tensorgrad.compiler.check import fault_of, location_of
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

RUNS = 5  # of a plan, when its kernels are measured


def may_use_threads(call: Call) -> bool:
    """Whether a call may contain a matrix product for which BLAS uses threads: not elementwise, and not small."""
    if isinstance(call, Elementwise) or (isinstance(call, ChainCall) and all(v.shape == call.shape for v in call.outputs)):
        return False
    return any(math.prod(v.shape) >= thresholds.BLAS for v in (*call.reads, *call.outputs))


@dataclass(frozen=True)
class Row(Cost):
    """A kernel of a plan and its cost; bytes are read or written. level: 1 inside a loop over samples."""

    kernel: str = ""
    module: str = ""
    shape: tuple[int, ...] = ()
    level: int = 0


class Plan:
    """The kernels of a compiled step for arguments of some shapes and dtypes. It is printed as a table of kernels.

    peak_bytes   bytes of intermediate values, besides arguments, parameters and results
    source       the Python function that it runs
    graph        the kernels as a Graph, for drawings: `tensorgrad.draw.graph(plan)`
    guards       conditions that are tested before each run
    threads      the number of threads that it was planned for
    device       where it runs
    launches     on a GPU: `launches.captured` says whether it is one CUDA graph, `launches.why_not` why not; else None
    program      the program that is the whole plan, if it needs no Python;  places: the arrays of its results
    fault        the error that the checker found in the plan, which is then never run; "" if none
    """

    def __init__(self, trace: Trace) -> None:
        self.lowered = lowered = Lowering(trace).run()
        self.results = lowered.returned
        keep = {base for v in self.results for base in lineage(v)}
        outside_arrays = [v.array for call in lowered.calls for v in call.reads if v.array is not None]
        on_gpus = [array for array in (*outside_arrays, *(t._data for t in trace.arguments)) if on_gpu(array)]
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
            plan_memory = self.blocks + emitter.blocks
            self.fault = fault_of(lowered.calls, emitter.issued, self.results, lowered.assigned, plan_memory, places)
        self.device = device_of(on_gpus[0]) if on_gpus else "cpu"
        self.products = any(not isinstance(call, Loop) and may_use_threads(call) for call in self.calls)
        self.numbers: list[tuple[Callable[[], Any], list[tuple[str, Array]]]] = [
            (compute, [(name, v.array) for name, v in values.items()]) for compute, values in lowered.numbers
        ]
        self.optimisers = trace.optimisers
        self.partly_stepped = [
            (o, missing) for o, missing in zip(trace.optimisers, trace.missing_grads, strict=True) if missing
        ]
        self.fully_stepped = [o for o, missing in zip(trace.optimisers, trace.missing_grads, strict=True) if not missing]
        self.grads = [t for t, _ in lowered.grads]
        self.accumulated = [t for t, before in trace.read_grads.items() if before is not None]
        self.cleared = [t for t in trace.written_grads if t not in trace.kept_grads]
        self.rebuild = trace.rebuild
        self.current_numbers: dict[int, float] = {}  # current values of the numbers on a GPU, by the id of their arrays
        self.names = trace.names()

    def launch(self, trace: Trace, keep: set[Value], gpu_array: Array) -> None:
        """Plan for the GPU of `gpu_array`: allocate all memory, run once to compile kernels, undo that, then capture."""
        for call in self.calls:
            for v in call.outputs:
                v.kind = "buffer" if v.kind == "fresh" else v.kind
        self.layout = lay_out(self.calls, keep)
        arguments = [t._data for t in trace.inputs()]
        with on(gpu_array):
            self.blocks = [empty_bytes(n, gpu_array) for n in self.layout.blocks]
            arrays: dict[Value, Any] = arrays_for(self.layout, self.blocks)
            static = [copy(array) for array in arguments]
            arrays.update(zip(self.lowered.arguments, static, strict=True))
            self.launches = self.function = Launches(self.calls, static, self.results, arrays, self.layout)
            places = dict(zip(self.results, self.launches.results, strict=True))
            program, assigned = self.lowered.calls, self.lowered.assigned
            self.fault = fault_of(program, self.launches.issued, self.results, assigned, self.blocks, places)
            if not self.fault:
                with self.put_back():
                    self.launches.run()
                if any(call.meets for call in self.calls):  # communication cannot be captured
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
        """Run one step; returns the arrays of the results, then those of the gradients that remain."""
        for array in arguments:
            self.check_no_overlap(array)
        if self.accumulated:
            before = [t._grad._data for t in self.accumulated if t._grad is not None]
            arguments = [*arguments, *(g if g.flags.c_contiguous else namespace([g]).ascontiguousarray(g) for g in before)]
        for optimiser in self.fully_stepped:
            optimiser.__dict__["steps"] += 1
        for optimiser, missing in self.partly_stepped:
            optimiser.count(missing)
        try:
            for compute, arrays in self.numbers:
                values = compute()
                for name, array in arrays:
                    if self.launches is None:
                        array[()] = values[name]
                    elif values[name] != self.current_numbers.get(id(array)):
                        self.current_numbers[id(array)] = values[name]
                        with on(array):
                            array.fill(values[name])
            run: Callable[..., tuple[Array, ...]] = function or self.function
            results = self.with_steady_threads(run, arguments)
        except BaseException as error:
            for optimiser in self.fully_stepped:
                optimiser.__dict__["steps"] -= 1
            for optimiser, missing in self.partly_stepped:
                optimiser.count(missing, -1)
            translated = self.explain(error, function is not None)
            if translated is error:
                raise
            raise translated from error
        for array in self.written:
            writes.wrote(array)
        for optimiser in self.optimisers:
            optimiser.flush()
        return results

    def check_no_overlap(self, array: Array) -> None:
        """Raise CompileError if an argument is in memory that the step writes to."""
        base = array.base
        if id(array if base is None else base) in self.owners:
            raise CompileError(f"compile: an argument {array.shape} lies in memory that the step writes to; pass a copy of it")

    def with_steady_threads(self, run: Callable[..., tuple[Array, ...]], arguments: list[Array]) -> tuple[Array, ...]:
        """run(*arguments), with a constant number of BLAS threads."""
        if self.shares:
            if self.team > 1:
                programs.start_team(self.team)
            with threads.single_threaded_blas():
                return run(*arguments)
        return threads.with_steady_blas(run, *arguments) if self.products else run(*arguments)

    def explain(self, error: BaseException, is_timed: bool) -> BaseException:
        """The exception that the step itself would raise instead of NumPy's `error`, with the operation's name; other errors
        unchanged. is_timed: the function has lines of a clock, so that the operation is unknown."""
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
        for entry in self.issued:
            line += len(entry.lines)
            if place is not None and place < line:
                if kind is not None:
                    return kind(f"{entry.call.name}: {error}, in a replay{location_of(entry.call)}")
                error.add_note(f"compile: in a replay{location_of(entry.call)}")
                return error
        return error

    def run(self, arguments: list[Array], function: Callable[..., Any] | None = None) -> list[Tensor]:
        """Run one step and set the gradients that remain; returns the Tensors in its result."""
        arrays = self.compute(arguments, function)
        for tensor in self.cleared:
            tensor._grad = None
        if self.grads:
            count = len(arrays) - len(self.grads)
            for tensor, value in zip(self.grads, arrays[count:], strict=True):
                tensor._grad = wrap(value, None)
            arrays = arrays[:count]
        return [wrap(array, None) for array in arrays]

    # Cost

    @cached_property
    def timed(self) -> tuple[Callable[..., Any], dict[Call, float]]:
        """The function with a clock, and the seconds of each call, to which the clock adds."""
        seconds: dict[Call, float] = {}
        if self.launches is not None:
            return self.launches.timed(seconds), seconds
        return self.emit(Clock(seconds)).finish(self.results)[1], seconds

    @cached_property
    def seconds(self) -> dict[Call, float]:
        """The mean time of each kernel, measured with random arguments; changes are undone. Empty if the plan has a fault."""
        if self.fault:
            return {}
        function, spent = self.timed
        rng = np.random.default_rng(0)
        random_arguments = [(rng.random(v.shape) * is_floating(v.dtype)).astype(v.dtype) for v in self.lowered.arguments]
        if self.launches is not None:
            random_arguments = self.launches.arguments
        with self.put_back(), switched(rehearsing=True), np.errstate(all="ignore"):
            self.with_steady_threads(function, random_arguments)
            spent.clear()
            for _ in range(RUNS):
                self.with_steady_threads(function, random_arguments)
        return {call: total / RUNS for call, total in spent.items()}

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Restore parameters and random generators after the block."""
        saved = [copy(array) for array in self.written]
        generators = {
            call.attrs.get("rng") or random.default() for call in flat(self.calls) if isinstance(call, Apply) and call.draws
        }
        states = [(rng, random.state_of(rng)) for rng in generators]
        try:
            yield
        finally:
            for array, before in zip(self.written, saved, strict=True):
                with on(array):
                    array[...] = before
            for rng, state in states:
                random.set_state(rng, state)

    def rows(self) -> list[Row]:
        """A row for each kernel, with its measured time."""
        seconds = self.seconds
        rows = []
        for call in self.calls:
            for part in [call, *call.parts] if isinstance(call, Loop) else [call]:
                spent = sum(seconds.get(c, 0.0) for c in flat([part]))
                level = 1 if part is not call else 0
                rows.append(Row(bytes_of(part), part.flops, spent, 1, part.name, module_of(part), shape_of(part), level))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        total = sum((r for r in rows if not r.level), Cost())
        cells = [["kernel", "module", "result", "bytes", "FLOPs", "µs"]]
        cells += [["  " * r.level + r.kernel, r.module, f"{r.shape}", *numbers(r)] for r in rows]
        cells.append([f"{len(rows)} kernels", "", "", *numbers(total)])
        resources = f"{self.threads} thread{'s' * (self.threads != 1)}"
        if self.launches is not None:
            resources = "one CUDA graph" if self.launches.captured else f"not captured ({self.launches.why_not})"
            resources = f"on {self.device}, {resources}"
        resources += f"; it is not run: {self.fault}" if self.fault else ""
        return "\n".join([*columns(cells, "<<<>>>"), f"memory of its own: {self.peak_bytes:,} bytes; {resources}"])

    __repr__ = __str__

    # Graph

    @property
    def graph(self) -> Graph:
        """The kernels as nodes of a graph, whose leaves are the arguments and parameters."""
        return self.nodes()[0]

    def costs(self) -> tuple[Graph, dict[Node, Cost]]:
        """The graph, and the cost of each node."""
        graph, calls = self.nodes()
        return graph, {node: cost_of(call, self.seconds) for node, call in calls.items()}

    def spent(self, seconds: Mapping[Call, float]) -> list[tuple[str, str, Cost]]:
        """Kernel, module and cost of each call of a run that took these seconds."""
        return [(call.name, module_of(call), cost_of(call, seconds)) for call in flat(self.calls)]

    def nodes(self) -> tuple[Graph, dict[Node, Call]]:
        """The graph, and the call of each node."""
        writers: dict[Value, list[Any]] = {}  # all calls that wrote to a part of a value
        nodes: dict[Node, Call] = {}
        numbers = {v: name for _, values in self.lowered.numbers for name, v in values.items()}

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
    """The calls, with loops replaced by the calls inside."""
    return [part for call in calls for part in call.parts]


def module_of(call: Call) -> str:
    """The module whose forward pass, or gradient, the call belongs to; "" if there are several."""
    scopes = list(dict.fromkeys(node.scope for node in call.nodes if node.scope))
    return scopes[0] if len(scopes) == 1 else ""


def shape_of(call: Call) -> tuple[int, ...]:
    """The shape of a call's result, of several that with the most axes."""
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
