"""Time of one training step against PyTorch: `python -m tests.benchmarks [--rounds N]`.

Each library trains the same network from the same weights on the same batch in a process of its own (two thread pools in one
process slow each other down); the processes take turns, and have to agree on the losses before anything is timed. PyTorch is
not a dependency: install it beside tensorgrad to run this.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics

import numpy as np

import tensorgrad
from tests.benchmarks.steps import WORKLOADS, serve


def measure(workload: str, peers: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each peer in each round, the peers taking turns."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    processes = []
    for peer in peers:
        pipes[peer], far = context.Pipe()
        processes.append(context.Process(target=serve, args=(peer, workload, far), daemon=True))
        processes[-1].start()

    def ask(peer: str, what: str, n: int) -> list[float] | float:
        pipes[peer].send((what, n))
        return pipes[peer].recv()

    losses = {peer: ask(peer, "losses", 10) for peer in peers}
    for peer in peers[1:]:
        message = f"{workload}: the losses of {peer} and {peers[0]} differ"
        np.testing.assert_allclose(losses[peer], losses[peers[0]], rtol=1e-3, err_msg=message)
    n = max(3, int(0.1 / ask(peers[0], "time", 10)))
    times: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            times[peer].append(ask(peer, "time", n))
    for peer, process in zip(peers, processes, strict=True):
        pipes[peer].send(None)
        process.join()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often the peers take turns (default 15)")
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    args = parser.parse_args()
    peers = ["tensorgrad", "by hand"] + ["PyTorch eager"] * bool(importlib.util.find_spec("torch"))
    print(f"tensorgrad {tensorgrad.__version__}, NumPy {np.__version__}; medians, and ratios to tensorgrad (min to max)")
    for workload in args.only:
        widths, batch = WORKLOADS[workload]
        print(f"{workload}  {'-'.join(map(str, widths))}, batch {batch}")
        times = measure(workload, peers, args.rounds)
        for peer, values in times.items():
            ratios = sorted(t / own for t, own in zip(values, times["tensorgrad"], strict=True))
            spread = f"{statistics.median(ratios):6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if peer != "tensorgrad" else ""
            print(f"    {peer:14} {statistics.median(values) * 1e6:10.0f} µs  {spread}")


if __name__ == "__main__":
    main()
