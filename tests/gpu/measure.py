"""Steps on a GPU, measured: each library in a process of its own, taking turns. `python -m tests.gpu.measure W2`

Training steps of the CPU's workloads W1 to W4, and of layers of 4096 at batch 8192, against PyTorch and JAX: equal losses
first, medians of several rounds, waiting for the GPU once in a round. The limit is the larger of two times: the bytes that a
step has to move, over the rate at which this card copies, and its floating-point operations, over the rate of a large product
in the same precision; both are measured in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.__main__ import Report, in_words
from tests.benchmarks.measure import Net, Worker
from tests.gpu.steps import ON_GPU, PEERS

START, PATIENCE = 60.0, 30.0  # seconds for everything before the first step, and for a round
AIMS = {name: 1.0 for name in ON_GPU if name != "wide"} | {"wide": 0.9}  # ratio of the fastest other library to ours
ITERATIONS, SECONDS = 1000, 3.0  # of system C, whose net and batch are W4's


def serve(peer: str, net: Net, pipe: Connection) -> None:
    """Answer ("losses", n) and ("time", seconds) until told to stop."""
    widths, batch = net
    rng = np.random.default_rng(1)
    x, y = rng.random((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
    step: Callable[[], Any] | None = None
    while True:
        what, n = pipe.recv()
        try:
            if what == "rates":
                pipe.send(rates())
                continue
            step = PEERS[peer][1](widths, x, y) if step is None else step
            if what == "losses":
                pipe.send([float(step()) for _ in range(n)])
            else:
                pipe.send(seconds(step, n))
        except Exception as error:
            pipe.send(RuntimeError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))


def seconds(step: Callable[[], Any], budget: float) -> float:
    """Seconds a step, over as many as take about `budget` seconds; the GPU is waited for at the end."""
    count, spent = 5, 0.0
    while True:
        float(step())
        start = time.perf_counter()
        for _ in range(count):
            last = step()
        float(last)
        spent = time.perf_counter() - start
        if spent > budget / 2:
            return spent / count
        count = max(2 * count, min(int(count * budget / max(spent, 1e-6)), 100_000))


def rates() -> dict[str, float]:
    """What the card does: bytes copied a second (read and written), operations a second of products of 8192 x 8192 matrices."""
    import cupy

    from tensorgrad.kernels import cublas

    def best(action: Callable[[], Any]) -> float:
        action()
        runs = []
        for _ in range(10):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            action()
            end.record()
            end.synchronize()
            runs.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
        return float(np.median(runs))

    found = {}
    a, b = (cupy.zeros(1 << 28, np.float32) for _ in range(2))
    found["copy"] = 2 * a.nbytes / best(lambda: cupy.copyto(a, b))
    x, y, out = (cupy.asarray(np.random.default_rng(0).random((8192, 8192), np.float32)) for _ in range(3))
    for precision in ("float32", "tf32"):
        cublas.set_matmul_precision(precision)
        found[precision] = 2 * 8192**3 / best(lambda: cublas.product(x, y, out))
    return found


def limit(net: Net, rate: dict[str, float], precision: str) -> float:
    """Seconds that a step takes at the least. Each value of a layer is written and read twice (forward, backward), each weight
    read twice, its gradient written and read, and the weight written."""
    widths, batch = net
    pairs = list(pairwise(widths))
    flops = sum(2 * batch * n * m * (3 if i else 2) for i, (n, m) in enumerate(pairs))
    values = batch * (2 * widths[0] + 4 * sum(widths[1:]))
    parameters = 5 * sum(n * m + m for n, m in pairs)
    return max(4 * (values + parameters) / rate["copy"], flops / rate[precision])


def measure(net: Net, peers: list[str], rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of a step of each peer in each round; and why a peer has none. Losses differ by no more than rounding allows."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # or JAX takes three quarters of the card for itself
    workers: dict[str, Worker] = {}
    times: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    expected: list[float] = []
    try:
        for peer in peers:
            if not importlib.util.find_spec(PEERS[peer][0]):
                reasons[peer] = f"{PEERS[peer][0]} is not installed"
                continue
            worker = Worker(serve, peer, net)
            try:
                losses = worker.ask("losses", 6, START)
                expected = expected or losses
                # products in tf32 have 10 bits of mantissa, and JAX's in float32 are such by default
                np.testing.assert_allclose(losses, expected, rtol=2e-3, err_msg=f"{net}: the losses of {peer} are others")
                worker.ask("time", 0.01, START)
            except (RuntimeError, TimeoutError, AssertionError) as error:
                reasons[peer] = f"{type(error).__name__}: {error}"
                worker.stop()
                continue
            workers[peer], times[peer] = worker, []
        for _ in range(rounds):
            for peer, worker in list(workers.items()):
                try:
                    times[peer].append(worker.ask("time", 0.1, PATIENCE))
                except (RuntimeError, TimeoutError) as error:
                    reasons[peer] = str(error)
                    workers.pop(peer).stop()
                    del times[peer]
    finally:
        for worker in workers.values():
            worker.stop()
    return times, reasons


def table(net: Any, times: dict[str, list[float]], rate: dict[str, float]) -> Iterator[list[str]]:
    yield ["", "median", "min to max", "/ tensorgrad", "share of the limit"]
    own = float(np.median(times["tensorgrad"]))
    for peer, runs in times.items():
        median = float(np.median(runs))
        share = limit(net, rate, "tf32" if "tf32" in peer or "JAX" in peer else "float32") / median
        yield [peer, in_words(median), f"{in_words(min(runs))} to {in_words(max(runs))}", f"{median / own:.2f}", f"{share:.2f}"]


def measured(workload: str, peers: list[str], rounds: int, report: Report) -> bool:
    """Write what a workload takes; returns whether ours could be measured."""
    net = ON_GPU[workload]
    report.text(f"{workload}: {'-'.join(map(str, net[0]))}, batch {net[1]:,}")
    try:
        worker = Worker(serve, "tensorgrad", net)
        rate = worker.ask("rates", 0, START)
        worker.stop()
    except (RuntimeError, TimeoutError) as error:
        report.text(f"the rates of the card: {type(error).__name__}: {error}")
        rate = dict.fromkeys(("copy", "float32", "tf32"), float("nan"))
    report.text(
        f"copies {rate['copy'] / 1e9:,.0f} GB/s, products {rate['float32'] / 1e12:,.1f} TFLOP/s in float32, "
        f"{rate['tf32'] / 1e12:,.1f} in tf32"
    )
    times, reasons = measure(net, peers, rounds)
    for peer, reason in reasons.items():
        report.text(f"{peer}: {reason}")
    if "tensorgrad" not in times:
        return False
    report.rows(list(table(net, times, rate)))
    median = {peer: float(np.median(runs)) for peer, runs in times.items()}
    aims = [["", "", "measured", "aim", ""]]
    # in equal precision: JAX rounds inputs as tf32 does unless told otherwise
    for own, others in (
        ("tensorgrad", [p for p in median if "tf32" not in p and not p.startswith(("tensorgrad", "JAX"))]),
        ("tensorgrad tf32", [p for p in median if ("tf32" in p or "JAX" in p) and not p.startswith("tensorgrad")]),
    ):
        if own in median and others:
            best = min(others, key=lambda p: median[p])
            ratio, aim = median[best] / median[own], AIMS[workload]
            aims.append([workload, f"{best} / {own}", f"{ratio:.2f}", f"at least {aim}", "met" if ratio >= aim else "missed"])
    if workload == "W4":
        spent = ITERATIONS * median["tensorgrad"]
        met = "met" if spent <= SECONDS else "missed"
        aims.append(["C", f"{ITERATIONS:,} iterations", f"{spent:.2f} s", f"at most {SECONDS:.0f} s", met])
    report.rows(aims)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=ON_GPU)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", choices=PEERS, nargs="+", default=list(PEERS))
    parser.add_argument("--markdown", type=Path, help="write the tables to this file too")
    args = parser.parse_args()
    report = Report()
    try:
        done = measured(args.workload, ["tensorgrad", *(p for p in args.peers if p != "tensorgrad")], args.rounds, report)
    finally:
        report.write(args.markdown)
    return 0 if done else 1


if __name__ == "__main__":
    from tests.gpu import measure as this  # what a process of its own is to run has to be found by this name

    raise SystemExit(this.main())
