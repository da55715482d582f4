"""Time of one training step against PyTorch and JAX: `python -m tests.benchmarks [--rounds N]`.

Each library trains the same network from the same weights on the same batch in a process of its own (two thread pools in one
process slow each other down); the processes take turns, and have to agree on the losses before anything is timed. "products
alone" is the step's matrix products and nothing else. Memory is the peak beyond the data and what importing the library took;
it includes what a library sets up at its first step. PyTorch and JAX are no dependencies: install them to have them in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics

import numpy as np

import tensorgrad
from tests.benchmarks.steps import NEEDS, PEERS, WORKLOADS, serve


def measure(workload: str, peers: list[str], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds a step of each peer in each round, the peers taking turns; and the MiB that each took."""
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

    batch = WORKLOADS[workload][1]
    losses = {peer: ask(peer, "losses", 10 if batch < 10_000 else 3) for peer in peers}
    for peer in peers[1:]:
        if peer == "products alone":
            continue
        message = f"{workload}: the losses of {peer} and {peers[0]} differ"
        np.testing.assert_allclose(losses[peer], losses[peers[0]], rtol=1e-3, err_msg=message)
    n = max(1 if batch >= 10_000 else 3, int(0.1 / ask(peers[0], "time", 10 if batch < 1_000 else 1)))
    times: dict[str, list[float]] = {peer: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            times[peer].append(ask(peer, "time", n))
    memory = {peer: ask(peer, "memory", 0) for peer in peers}
    for peer, process in zip(peers, processes, strict=True):
        pipes[peer].send(None)
        process.join()
    return times, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often the peers take turns (default 15)")
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    args = parser.parse_args()
    peers = [peer for peer in PEERS if peer not in NEEDS or importlib.util.find_spec(NEEDS[peer])]
    print(f"tensorgrad {tensorgrad.__version__}, NumPy {np.__version__}; medians, and ratios to tensorgrad (min to max)")
    for workload in args.only:
        widths, batch = WORKLOADS[workload]
        print(f"{workload}  {'-'.join(map(str, widths))}, batch {batch}")
        times, memory = measure(workload, peers, args.rounds)
        for peer, values in times.items():
            ratios = sorted(t / own for t, own in zip(values, times["tensorgrad"], strict=True))
            spread = f"{statistics.median(ratios):6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if peer != "tensorgrad" else ""
            print(f"    {peer:14} {statistics.median(values) * 1e6:10.0f} µs  {memory[peer]:7.0f} MiB  {spread}")


if __name__ == "__main__":
    main()
