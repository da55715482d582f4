"""Launches: the calls of a plan on a GPU, with all of their memory known, captured into a CUDA graph."""

from __future__ import annotations

import contextlib
import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tensorgrad.compiler.calls import Call
from tensorgrad.compiler.emit import Issued, shared_of
from tensorgrad.compiler.memory import Layout, resolve
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array, cupy
from tensorgrad.kernels import cublas


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
        self.pool = self.xp.cuda.MemoryPool()  # what is allocated inside of the graph belongs to it, cuBLAS's workspace too
        weakref.finalize(self, give_back, self.device, self.stream.ptr, self.pool).atexit = False
        self.graph: Any = None
        self.why_not = ""
        with self.in_order(), self.xp.cuda.using_allocator(self.pool.malloc):
            self.launches = [(call, call.launch(self)) for call in calls]
        self.results = [self.array(v) for v in results]
        self.issued = [
            Issued(call, {v: resolve(v, self.arrays) for v in (*call.reads, *call.outputs)}, [call.name], self.shared(call))
            for call, _ in self.launches
        ]

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
        """Make a graph of the launches, which have run once, so that everything is compiled; or leave them as they are.

        A plan that is freed meanwhile destroys its cuBLAS handle, which spoils the capture. So the collector waits; should
        another thread free one, a second attempt is made.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            for _ in range(2):
                try:
                    self.graph, self.why_not = self.recorded(), ""
                    break
                except Exception as error:
                    self.why_not = f"{type(error).__name__}: {error}"
        finally:
            if collects:
                gc.enable()

    def recorded(self) -> Any:
        """The graph of the launches."""
        relaxed = 2  # cudaStreamCaptureModeRelaxed: CuPy may ask the driver for memory meanwhile
        with self.stream:
            self.stream.begin_capture(relaxed)
            try:
                self.enqueue()
            finally:
                graph = self.stream.end_capture()
        return graph

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

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call that lie in the same memory; a parameter is written over in its own."""
        return shared_of(call, self.layout)


def give_back(device: Any, stream: int, pool: Any) -> None:
    """Give back what a plan had on a device: a pool of CuPy's that nobody refers to keeps its memory for ever unless told."""
    with device:
        cublas.let_go(device.id, stream)
        pool.free_all_blocks()
