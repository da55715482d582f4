"""Measuring: every library in a process of its own, taking turns."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.steps import NEEDS, OURS, PEERS, Step

Net = tuple[tuple[int, ...], int] | str  # widths and batch of an MLP, or the name of another model
MODELS_IN: dict[str, tuple[str, dict[str, Any]]] = {  # module of tests.benchmarks.models, and what its `make` is told
    "tensorgrad": ("ours", {}),
    "tensorgrad eager": ("ours", {"compiled": False}),
    "PyTorch eager": ("in_torch", {}),
    "PyTorch compile": ("in_torch", {"compiled": True}),
    "JAX jit": ("in_jax", {}),
}
PATIENCE = 20.0  # seconds that a step may take
START = 150.0  # and everything before the first one


@dataclass
class Measured:
    """seconds of a step in each round;  cpu: those that its process computed, on all cores together;  memory: MiB at the peak,
    beyond the library and the data;  first: seconds of the first steps beyond those that follow;  reason: why there are no
    figures."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = float("nan")
    first: float = float("nan")
    reason: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds)) if self.seconds else float("nan")


class Worker:
    """A process with one library and one network in it, in which a function answers what is asked for."""

    def __init__(self, serve: Callable[[str, Net, Connection], None], peer: str, net: Net, cores: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=serve, args=(peer, net, far), daemon=True)
        usual = os.sched_getaffinity(0) if cores else set()
        if cores:  # every library counts the cores that it may use when it is loaded, and the process inherits ours
            os.sched_setaffinity(0, sorted(usual)[-cores:])
        try:
            self.process.start()
        finally:
            if cores:
                os.sched_setaffinity(0, usual)

    def ask(self, what: str, n: float, patience: float) -> Any:
        try:
            self.pipe.send((what, n))
            if not self.pipe.poll(patience):
                raise TimeoutError(f"no answer in {patience:.0f} s")
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("its process has died") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def serve(peer: str, net: Net, pipe: Connection) -> None:
    """Answer "losses n", "time n" and "memory 0" until told to stop.

    BLAS threads of the process that had its turn before go on spinning for some 25 ms, so every turn begins with a pause.
    """
    step: Step | None = None
    before = first = 0.0
    while True:
        what, n = pipe.recv()
        try:
            if step is None:
                for package in (NEEDS[peer],) if peer in NEEDS else ("numba", "threadpoolctl") if "grad" in peer else ():
                    if importlib.util.find_spec(package):
                        __import__(package)
                make = maker_of(peer, net)
                before = peak()
                step = make()
            if what == "memory":
                pipe.send((peak() - before) / 1024)
            elif what == "losses":
                start = time.perf_counter()
                losses = [step(), step()]
                first = time.perf_counter() - start
                pipe.send((losses + [step() for _ in range(n)], first))
            else:
                time.sleep(0.05)
                seconds(step, max(n // 10, 1))
                pipe.send(seconds(step, n))
        except Exception as error:
            pipe.send(RuntimeError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))


def maker_of(peer: str, net: Net) -> Callable[[], Step]:
    """A function that makes the step of a library. The data of an MLP are made before, so that they do not count as memory."""
    if isinstance(net, str):
        module, options = MODELS_IN[peer]
        return functools.partial(importlib.import_module(f"tests.benchmarks.models.{module}").make, net, **options)
    widths, batch = net
    rng = np.random.default_rng(1)
    x, y = rng.random((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
    return functools.partial(PEERS[peer], widths, x, y)


def peak() -> float:
    """KiB of memory at the most so far; getrusage would begin with what the parent process had."""
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    known = [float(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return known[0] if known else float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def seconds(step: Step, n: int) -> tuple[float, float]:
    """Seconds a step, over n of them, and those that the process computed."""
    start, computed = time.perf_counter(), time.process_time()
    for _ in range(n):
        step()
    return (time.perf_counter() - start) / n, (time.process_time() - computed) / n


def measure(net: Net, peers: list[str], rounds: int, budget: float = 0.1, cores: int = 0) -> dict[str, Measured]:
    """Every peer that is installed and can do it, the peers taking turns for so many rounds of about `budget` seconds each.

    The losses of the first steps have to be those of the first peer; a fast wrong step is an error, and so is one of ours that
    fails. Another library that fails or takes too long goes without figures. `cores`: so many for each, if it is not 0.
    """
    is_large = not isinstance(net, str) and net[1] >= 10_000
    close = 1e-4 if isinstance(net, str) else 1e-5  # sums over time, and Adam where gradients are near 0
    found: dict[str, Measured] = {peer: Measured() for peer in peers}
    workers: dict[str, Worker] = {}
    counts: dict[str, int] = {}
    expected: list[float] = []
    try:
        for peer in peers:
            if peer in NEEDS and not importlib.util.find_spec(NEEDS[peer]):
                found[peer].reason = f"{NEEDS[peer]} is not installed"
                continue
            worker = Worker(serve, peer, net, cores)
            try:
                losses, first = worker.ask("losses", 1 if is_large else 8, START)
                once, _ = worker.ask("time", 1, 3 * PATIENCE)
                if once > PATIENCE:
                    raise TimeoutError(f"a step takes {once:.0f} s")
                if peer != "products alone":
                    expected = expected or losses
                    np.testing.assert_allclose(losses, expected, rtol=close, err_msg=f"{net}: the losses of {peer} are others")
            except (RuntimeError, TimeoutError) as error:
                found[peer].reason = str(error)
                worker.stop()
                continue
            workers[peer] = worker
            counts[peer] = max(1 if is_large else 3, int(budget / once))
            found[peer].first = max(first - 2 * once, 0.0)
        for turn in range(rounds + 1):
            for peer, worker in list(workers.items()):
                try:
                    if turn < rounds:
                        wall, computed = worker.ask("time", counts[peer], START)
                        found[peer].seconds.append(wall)
                        found[peer].cpu.append(computed)
                    else:
                        found[peer].memory = worker.ask("memory", 0, START)
                except (RuntimeError, TimeoutError) as error:
                    found[peer] = Measured(reason=f"in round {turn}: {error}")
                    workers.pop(peer).stop()
    finally:
        for worker in workers.values():
            worker.stop()
    for peer in OURS:
        if peer in found and not found[peer].seconds:
            raise RuntimeError(f"{peer} has no figure: {found[peer].reason}")
    return found
