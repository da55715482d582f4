"""Launches: the calls of a plan on a GPU, with all of their memory known, captured into a CUDA graph."""

from __future__ import annotations

import contextlib
import functools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tensorgrad.compiler.emit import one_memory
from tensorgrad.compiler.lower import Call, Value
from tensorgrad.compiler.memory import Layout, resolve
from tensorgrad.core.backend import Array, checks, cupy
from tensorgrad.kernels import cublas
from tensorgrad.kernels.chain import Chain, Operand, Ref, Step
from tensorgrad.kernels.cuda.launch import chain_kernel, check_labels, softmax_cross_entropy
from tensorgrad.kernels.generate import layouts_of
from tensorgrad.ops import random

Launch = Callable[[], None]


class Launches:
    """The calls as functions without arguments, one after the other. Called with arguments, it returns copies of the results.

    arguments   the arrays that arguments are copied to
    captured    whether the launches have become one CUDA graph;  why_not: what stood in the way, else ""
    """

    def __init__(
        self, calls: list[Call], arguments: Sequence[Array], results: list[Value], arrays: dict[Value, Any], layout: Layout
    ) -> None:
        self.xp = cupy()
        self.device = self.xp.cuda.Device()
        self.arguments, self.arrays, self.layout = list(arguments), arrays, layout
        # not one that waits for the default one: while such a stream is captured, nobody may use that
        self.stream = self.xp.cuda.Stream(non_blocking=True)
        # a handle of cuBLAS has a workspace of 32 MiB
        weakref.finalize(self, cublas.let_go, self.device.id, self.stream.ptr).atexit = False
        self.pool = self.xp.cuda.MemoryPool()  # what operations of CuPy's allocate inside of the graph belongs to it
        self.graph: Any = None
        self.why_not = ""
        with self.in_order():
            self.launches = [(call, getattr(self, f"launch_{call.kind}")(call)) for call in calls]
        self.results = [self.array(v) for v in results]

    def __call__(self, *arguments: Array) -> tuple[Array, ...]:
        with self.device:
            for own, given in zip(self.arguments, arguments, strict=True):
                own[...] = given
            if self.graph is not None:
                self.graph.launch(self.xp.cuda.get_current_stream())
            else:
                self.run()
            return tuple(result.copy() for result in self.results)

    @property
    def captured(self) -> bool:
        return self.graph is not None

    @contextlib.contextmanager
    def in_order(self) -> Iterator[None]:
        """Inside the block its stream is the current one: it waits for the one that was before, which then waits for it."""
        outer = self.xp.cuda.get_current_stream()
        self.stream.wait_event(outer.record())
        try:
            with self.stream:
                yield
        finally:
            outer.wait_event(self.stream.record())

    def run(self) -> None:
        """All launches, one by one."""
        with self.in_order():
            self.enqueue()

    def enqueue(self) -> None:
        with self.xp.cuda.using_allocator(self.pool.malloc):
            for _, launch in self.launches:
                launch()

    def capture(self) -> None:
        """Make a graph of the launches, which have run once, so that everything is compiled; or leave them as they are."""
        relaxed = 2  # cudaStreamCaptureModeRelaxed: CuPy may ask the driver for memory meanwhile
        try:
            with self.stream:
                self.stream.begin_capture(relaxed)
                try:
                    self.enqueue()
                finally:
                    graph = self.stream.end_capture()
            self.graph = graph
        except Exception as error:
            self.why_not = f"{type(error).__name__}: {error}"

    def timed(self, seconds: dict[Call, float]) -> Callable[..., tuple[Array, ...]]:
        """The same, one launch after the other has ended, adding to the seconds of each."""

        def function(*arguments: Array) -> tuple[Array, ...]:
            with self.device:
                for own, given in zip(self.arguments, arguments, strict=True):
                    own[...] = given
                with self.in_order():
                    for call, launch in self.launches:
                        self.stream.synchronize()
                        since = time.perf_counter()
                        launch()
                        self.stream.synchronize()
                        seconds[call] = seconds.get(call, 0.0) + time.perf_counter() - since
                return tuple(result.copy() for result in self.results)

        return function

    def listing(self) -> str:
        """A line for each launch, by what is written."""
        return "\n".join(
            f"{call.name} -> {', '.join(f'{v.shape} {v.dtype}' for v in call.outputs)}" for call, _ in self.launches
        )

    def array(self, value: Any) -> Any:
        """The array of a value; a number as it is."""
        if not isinstance(value, Value):
            return value
        found = resolve(value, self.arrays)
        assert found is not None, f"{value} has no memory"
        return found

    # One kind of call each

    def launch_chain(self, call: Call) -> Launch:
        chain, shape = call.detail["chain"], call.detail["shape"]
        values = [*call.inputs, *call.outputs]
        shared = dict(self.layout.shared.get(call, {}))
        for k, out in enumerate(call.outputs):  # a parameter is written over in its own memory
            shared.update((k, j) for j, v in enumerate(call.inputs) if one_memory(v, out))
        return self.chain(chain, shared, shape, [self.array(v) for v in values])

    def chain(self, chain: Chain, shared: Mapping[int, int], shape: tuple[int, ...], arrays: list[Array]) -> Launch:
        two = (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)
        fit = {"full": two, "column": (two[0], 1)}
        arrays = [a.reshape(fit.get(x, a.shape)) for a, x in zip(arrays, layouts_of(chain), strict=True)]
        kernel = chain_kernel(chain, tuple(sorted(shared.items())))
        return kernel.bind(*arrays) if kernel is not None else functools.partial(self.by_cupy, chain, arrays)

    def by_cupy(self, chain: Chain, arrays: list[Array]) -> None:
        """A chain that has no CUDA C, function by function."""
        registers: list[Any] = list(arrays[: len(chain.operands)])
        for step in chain.steps:
            operands = [registers[a.register] if isinstance(a, Ref) else a for a in step.inputs]
            registers.append(self.function(step.function)(*operands))
        for (register, layout), out in zip(chain.results, arrays[len(chain.operands) :], strict=True):
            value = registers[register]
            out[...] = value.sum(axis=0) if layout == "sum" else value

    def function(self, name: str) -> Callable[..., Array]:
        """CuPy's function for a step of a chain."""
        if name == "relu_grad":
            return lambda g, unit: self.xp.where(unit > 0, g, 0)
        return getattr(self.xp, name)  # type: ignore[no-any-return]

    def launch_elementwise(self, call: Call) -> Launch:
        """One function, of arrays that no chain takes: without axes, or not row after row."""
        (out,) = call.outputs
        arrays = [self.array(v) for v in call.inputs]
        to = self.array(out)
        if all(a.shape == () for a in (*call.reads, out)):
            operands = [v for v in call.inputs if isinstance(v, Value)]
            order = iter(range(len(operands)))
            refs = tuple(Ref(next(order)) if isinstance(v, Value) else v for v in call.inputs)
            step = Step(call.name, refs, str(out.dtype), call.detail["quiet"])
            chain = Chain(tuple(Operand("full", str(v.dtype)) for v in operands), (step,), ((len(operands), "full"),))
            return self.chain(chain, {}, (), [*(self.array(v) for v in operands), to])
        function = self.function(call.name)

        def launch() -> None:
            to[...] = function(*arrays)

        return launch

    def launch_matmul(self, call: Call) -> Launch:
        a, b = (self.array(v) for v in call.inputs)
        out = self.array(call.outputs[0])
        if cublas.fits(a, b, out):
            return cublas.bound(a, b, out)

        def launch() -> None:
            out[...] = self.xp.matmul(a, b)

        return launch

    def launch_dot(self, call: Call) -> Launch:
        a, b = (self.array(v) for v in call.inputs)
        out = self.array(call.outputs[0])

        def launch() -> None:
            out[...] = (a * b).sum()  # cuBLAS's dot is refused during capture

        return launch

    def launch_reduce(self, call: Call) -> Launch:
        x, out = self.array(call.inputs[0]), self.array(call.outputs[0])
        function = {"add": self.xp.sum, "maximum": self.xp.max, "minimum": self.xp.min}[call.detail["function"]]
        axes = call.detail["axes"]

        def launch() -> None:
            out[...] = function(x, axis=axes)

        # CuPy 14's min, where CUB does it, takes `out` for a dtype
        return launch if call.detail["function"] == "minimum" else lambda: function(x, axis=axes, out=out)

    def launch_copy(self, call: Call) -> Launch:
        x, out = self.array(call.inputs[0]), self.array(call.outputs[0])

        def launch() -> None:
            out[...] = x

        return launch

    launch_assign = launch_copy

    def launch_op(self, call: Call) -> Launch:
        """The op's own `forward`, its result copied to where it belongs."""
        inputs, out = [self.array(v) for v in call.inputs], self.array(call.outputs[0])
        op, attrs = call.detail["op"], call.detail["attrs"]
        if call.name == "keep_mask":
            return random.bound(out, **attrs)

        def launch() -> None:
            out[...] = op.forward(self.xp, *inputs, **attrs)

        return launch

    def launch_cross_entropy(self, call: Call) -> Launch:
        z, t = (self.array(v) for v in call.inputs[:2])
        seed = self.array(call.inputs[2]) if len(call.inputs) > 2 else self.xp.ones((), z.dtype)
        rows = (math.prod(z.shape[:-1]), z.shape[-1])
        loss = self.array(call.outputs[0])
        dz = self.array(call.outputs[1]) if len(call.outputs) > 1 else self.xp.empty(rows, z.dtype)
        checks[z.device.id] = functools.partial(check_labels, z.device.id)
        return softmax_cross_entropy.bind(
            z.reshape(rows), t.reshape(rows[:1]), seed, call.detail["samples"], loss, dz.reshape(rows)
        )
