"""Launches: the calls of a plan on a GPU, in preallocated memory, captured into a CUDA graph."""

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
    """The calls as a sequence of functions without arguments. Calling it with arguments returns copies of the results.

    arguments   the arrays that arguments are copied to
    captured    whether the launches were captured into a CUDA graph;  why_not: the reason if not, else ""
    """

    def __init__(
        self, calls: list[Call], arguments: Sequence[Array], results: list[Value], arrays: dict[Value, Any], layout: Layout
    ) -> None:
        self.xp = cupy()
        self.device = self.xp.cuda.Device()
        self.arguments, self.arrays, self.layout = list(arguments), arrays, layout
        # non-blocking: while a blocking stream is captured, the default stream cannot be used
        self.stream = self.xp.cuda.Stream(non_blocking=True)
        self.pool = self.xp.cuda.MemoryPool()  # allocations inside the graph belong to it, including cuBLAS's workspace
        weakref.finalize(self, release_memory, self.device, self.stream.ptr, self.pool).atexit = False
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
            for static, argument in zip(self.arguments, arguments, strict=True):
                static[...] = argument
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
        """Inside the block its stream is current: it waits for the previous one, which waits for it at the end."""
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
        """Capture the launches into a graph, if possible. They have run once, so that everything is compiled.

        A plan that is freed during a capture destroys its cuBLAS handle, which invalidates the capture. So garbage collection
        is disabled; if another thread frees a plan, a second attempt is made.
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
        relaxed = 2  # cudaStreamCaptureModeRelaxed: CuPy may allocate memory from the driver during capture
        with self.stream:
            self.stream.begin_capture(relaxed)
            try:
                self.enqueue()
            finally:
                graph = self.stream.end_capture()
        return graph

    def timed(self, seconds: dict[Call, float]) -> Callable[..., tuple[Array, ...]]:
        """Run the launches one at a time, adding to the seconds of each."""

        def function(*arguments: Array) -> tuple[Array, ...]:
            with self.device:
                for static, argument in zip(self.arguments, arguments, strict=True):
                    static[...] = argument
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
        """A line for each launch, with its results."""
        return "\n".join(
            f"{call.name} -> {', '.join(f'{v.shape} {v.dtype}' for v in call.outputs)}" for call, _ in self.launches
        )

    def array(self, value: Any) -> Any:
        """The array of a value; numbers are returned unchanged."""
        if not isinstance(value, Value):
            return value
        array = resolve(value, self.arrays)
        assert array is not None, f"{value} has no memory"
        return array

    def shared(self, call: Call) -> dict[int, int]:
        """Result to operand of a call in the same memory; parameters are updated in place."""
        return shared_of(call, self.layout)


def release_memory(device: Any, stream: int, pool: Any) -> None:
    """Release a plan's device memory: a CuPy pool without references keeps its memory forever unless freed explicitly."""
    with device:
        cublas.release(device.id, stream)
        pool.free_all_blocks()
