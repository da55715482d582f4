"""Time of one training step against other libraries: `python -m tests.benchmarks`.

Each library trains the same network from the same weights on the same batch in a process of its own (two thread pools in one
process slow each other down); the processes take turns, and have to agree on the losses before anything is timed. "by hand" is
NumPy written for the one network, "products alone" its matrix products and nothing else: the limit. Memory is the peak beyond
the data and what importing the library took; it includes what a library sets up at its first step. The other libraries are no
dependencies: install those to be compared with. V1 to V7 are models beyond MLPs, on one core, in seconds of computing, which
other processes on the machine hardly change, and on two (`--cores`), by the clock. `--quick` takes under a minute; `python -m
tests.benchmarks.growth` measures how the times grow with batch, width and depth.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.benchmarks.measure import MODELS_IN, Measured, measure
from tests.benchmarks.models.shapes import MODELS
from tests.benchmarks.overhead import overhead
from tests.benchmarks.steps import NEEDS, OURS, PEERS, QUICK, WORKLOADS

# ratio to the fastest other library, to PyTorch eager; share of the limit; eager beside compiled; memory beside PyTorch eager
AIMS = {
    "W0": (1.3, 2.5, None, None, None),
    "W1": (1.6, 3.5, None, None, None),
    "W2": (1.25, 1.6, 0.6, 0.7, None),
    "W3": (1.15, 1.15, 0.85, 0.7, None),
    "W3b": (1.15, 1.15, 0.85, 0.7, None),
    "W4": (1.5, 1.7, 0.85, 0.7, 0.5),
}
MODEL_AIMS = {name: 1.5 if name in ("V4", "V5", "V6", "V7") else 1.0 for name in MODELS}  # ratio to the fastest other library
EAGER_AIM = 1 / 1.3  # ratio of PyTorch eager to ours


def in_words(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds < 0.01 else f"{seconds * 1e3:,.1f} ms"


def table(found: dict[str, Measured]) -> Iterator[list[str]]:
    """A row for each peer."""
    own, limit = found["tensorgrad"].median, found["products alone"].median
    yield ["", "median", "min to max", "/ tensorgrad", "share of the limit", "memory"]
    for peer, m in found.items():
        if not m.seconds:
            yield [peer, *["-"] * 5]
            continue
        spread = f"{in_words(min(m.seconds))} to {in_words(max(m.seconds))}"
        yield [peer, in_words(m.median), spread, f"{m.median / own:.2f}", f"{limit / m.median:.2f}", f"{m.memory:,.0f} MiB"]


def against_aims(workload: str, found: dict[str, Measured]) -> Iterator[list[str]]:
    """A row for each aim: what it is, what was measured, whether it is met."""
    median = {peer: m.median for peer, m in found.items() if m.seconds}
    others = {peer: t for peer, t in median.items() if peer not in OURS}
    own, eager = median["tensorgrad"], median["tensorgrad eager"]
    fastest, torch, share, relation, memory = AIMS[workload]

    def row(what: str, value: float, aim: float, below: bool = False) -> list[str]:
        met = value <= aim if below else value >= aim
        return [workload, what, f"{value:.2f}", f"{'at most' if below else 'at least'} {aim}", "met" if met else "missed"]

    if others:
        best = min(others, key=lambda peer: others[peer])
        yield row(f"fastest other library ({best}) / tensorgrad", others[best] / own, fastest)
    if "PyTorch eager" in others:
        yield row("PyTorch eager / tensorgrad", others["PyTorch eager"] / own, torch)
        if workload in ("W2", "W3", "W3b", "W4"):
            yield row("PyTorch eager / tensorgrad eager", others["PyTorch eager"] / eager, 1.0)
        if memory:
            yield row("memory / PyTorch eager's", found["tensorgrad"].memory / found["PyTorch eager"].memory, memory, True)
    if share:
        yield row("share of the limit", median["products alone"] / own, share)
    if relation:
        yield row("speed of eager beside compiled", own / eager, relation)
    if workload == "W0":
        yield row("eager / by hand", eager / median["by hand"], 1.6, True)
        yield row("tensorgrad / by hand", own / median["by hand"], 1.15, True)


def of_models(name: str, cores: int, found: dict[str, Measured]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of what was measured of a model, and of its aims; in seconds of computing on one core, on several of the clock."""
    median = {peer: float(np.median(m.cpu if cores == 1 else m.seconds)) for peer, m in found.items() if m.seconds}
    spread = {peer: m.cpu if cores == 1 else m.seconds for peer, m in found.items()}
    own, eager = median["tensorgrad"], median["tensorgrad eager"]
    rows = [["", "median", "min to max", "/ tensorgrad", "/ tensorgrad eager"]]
    for peer, t in median.items():
        limits = f"{in_words(min(spread[peer]))} to {in_words(max(spread[peer]))}"
        rows.append([peer, in_words(t), limits, f"{t / own:.2f}", f"{t / eager:.2f}"])
    aims, others = [], {peer: t for peer, t in median.items() if not peer.startswith("tensorgrad")}
    title = f"{name}, {cores} core{'s' * (cores > 1)}"
    pairs = []
    if others:
        best = min(others, key=lambda peer: others[peer])
        pairs.append((f"fastest other library ({best}) / tensorgrad", others[best] / own, MODEL_AIMS[name]))
    if "PyTorch eager" in others:
        pairs.append(("PyTorch eager / tensorgrad eager", others["PyTorch eager"] / eager, EAGER_AIM))
    for what, value, aim in pairs:
        aims.append([title, what, f"{value:.2f}", f"at least {aim:.2f}", "met" if value >= aim else "missed"])
    return rows, aims


def imports(peers: list[str]) -> Iterator[list[str]]:
    """How long importing takes, in a fresh process; the median of three."""
    yield ["import", "seconds"]
    for package in dict.fromkeys(["numpy", "tensorgrad", *(NEEDS[p] for p in peers if p in NEEDS)]):
        code = f"import time; t = time.perf_counter(); import {package}; print(time.perf_counter() - t)"
        runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(3)]
        if not runs[0].returncode:
            yield [package, f"{sorted(float(r.stdout) for r in runs)[1]:.2f}"]


def machine() -> str:
    """The processor, its cores, the system."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()}, Python {platform.python_version()}"


def versions() -> str:
    names = ["numpy", "numba", "torch", "jax", "scikit-learn", "tinygrad", "autograd", "mygrad"]
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


class Report:
    """Prints sections as they come, and keeps them as Markdown."""

    def __init__(self) -> None:
        self.markdown: list[str] = []

    def text(self, line: str) -> None:
        print(line, flush=True)
        self.markdown += [line, ""]

    def rows(self, rows: list[list[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            print("    " + "  ".join(cells).rstrip())
        lines = [f"| {' | '.join(row)} |" for row in rows]
        self.markdown += [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:], ""]
        print(flush=True)

    def write(self, path: Path | None) -> None:
        if path:
            path.write_text("\n".join(self.markdown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often the peers take turns (default 9)")
    parser.add_argument("--only", choices=[*WORKLOADS, *MODELS], nargs="+", default=[*WORKLOADS, *MODELS])
    parser.add_argument("--peers", choices=PEERS, nargs="+", default=list(PEERS), help="besides our own and NumPy by hand")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="for V1 to V7: on so many (default 1 2)")
    parser.add_argument("--quick", action="store_true", help="W0 to W2, few rounds, libraries that start fast")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file too")
    args = parser.parse_args()
    peers = [*OURS, *(p for p in args.peers if p not in OURS)]
    if args.quick:
        args.only, args.rounds = ["W0", "W1", "W2"], 5
        peers = [p for p in peers if p in QUICK]
    report = Report()
    report.text(f"{datetime.date.today()}: {machine()}; {versions()}")
    aims = [["", "", "measured", "aim", ""]]
    for workload in (name for name in args.only if name in WORKLOADS):
        widths, batch = WORKLOADS[workload]
        report.text(f"{workload}: {'-'.join(map(str, widths))}, batch {batch:,}")
        found = measure((widths, batch), peers, args.rounds)
        report.rows(list(table(found)))
        for peer, m in found.items():
            if m.reason:
                report.text(f"{peer}: {m.reason}")
        aims += against_aims(workload, found)
        if workload == "W2":
            first = [["before the first fast step of W2", "seconds"]]
            first += [
                [peer, f"{m.first:.3f}"] for peer, m in found.items() if np.isfinite(m.first) and peer != "products alone"
            ]
            report.rows(first)
    for name, cores in ((name, cores) for name in args.only if name in MODELS for cores in args.cores):
        report.text(f"{name}: {MODELS[name].title}; {cores} core{'s' * (cores > 1)}")
        found = measure(name, [peer for peer in peers if peer in MODELS_IN], args.rounds, cores=cores)
        rows, more = of_models(name, cores, found)
        report.rows(rows)
        for peer, m in found.items():
            if m.reason:
                report.text(f"{peer}: {m.reason}")
        aims += more
    report.rows(aims)
    if any(name in WORKLOADS for name in args.only):
        report.text("One recorded operation on (4, 4), in µs: forward, and forward with backward")
        report.rows(overhead([p for p in peers if p in ("PyTorch eager", "autograd", "MyGrad")]))
        report.rows(list(imports(peers)))
    report.write(args.markdown)


if __name__ == "__main__":
    main()
