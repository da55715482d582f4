"""Scaling over ranks: steps of 1 and of 2 ranks with one thread each, and what the sum of the gradients costs.

`python -m tests.benchmarks.ranks` starts the jobs (pip install -e '.[mpi]') and prints a table: milliseconds of a step, the
whole batch being the same; "of ideal" is the time of one rank over twice that of two; "sum" is one sum of all gradients alone.
It wants two cores for itself: where others compute, a rank waits for one that does not run, and the table says nothing.

On paper, for P ranks with G gradients of 4 bytes, links of B bytes a second and a latency of L: a sum around a ring takes
S = 2 (P - 1) / P * 4 G / B + 2 (P - 1) L, so that a step, which takes t on one rank, takes t / P + S; of the ideal that is
(t / P) / (t / P + S). For P = 64, 25 Gbit/s (B = 3.1e9) and L = 10 µs, with t of the benchmark's table (of the wide net: 6
floating-point operations for each weight and sample, at 300 GFLOP/s):

    net          G        S = data + latency       t / P    of ideal
    W2     183,000     1.7 ms = 0.5 + 1.3 ms     0.007 ms     0.4 %   a batch of 64 has one sample for each rank
    W4     469,000     2.5 ms = 1.2 + 1.3 ms       6.0 ms      71 %
    wide    18.4 M      48 ms =  46 + 1.3 ms       1.5 ms       3 %   90 % from about 1,200 samples on each rank on

Overlapping the sum with the reverse walk, two thirds of a step, could hide S where it is shorter than that: W4 would come close
to its ideal, the others would not. It is not done: on one machine it takes longer than it gains (the second table that is
printed; see overlap.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import data, distributed, nn, optim
from tensorgrad.core.ranks import ranks
from tensorgrad.nn import functional as F

NETS: dict[str, tuple[tuple[int, ...], int, int]] = {  # widths, samples of a batch, steps
    "W2": ((784, 200, 100, 50, 10), 64, 200),
    "W4": ((784, 500, 150, 10), 60_000, 2),
    "wide": ((784, 2048, 2048, 2048, 2048, 2048, 10), 256, 3),
}


def measured(widths: tuple[int, ...], samples: int, steps: int) -> tuple[float, float, float]:
    """Milliseconds of a step, and of one sum of its gradients: medians; and how many numbers these are."""
    tensorgrad.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = optim.SGD(model, lr=0.01)
    rng = np.random.default_rng(0)
    x, y = rng.random((samples, widths[0]), dtype=np.float32), rng.integers(0, widths[-1], samples)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    run = tensorgrad.compile(step)
    seconds = []
    for _ in range(steps + 2):
        for xb, yb in data.DataLoader(x, y, batch_size=None):
            ranks.all_gather(None)
            since = time.perf_counter()
            run(xb, yb)
            seconds.append(time.perf_counter() - since)
    gradients = np.zeros(sum(p.size for p in model.parameters()), np.float32)
    sums = []
    for _ in range(20):
        ranks.all_gather(None)
        since = time.perf_counter()
        ranks.all_reduce(gradients)
        sums.append(time.perf_counter() - since)
    return float(np.median(seconds[2:])) * 1e3, float(np.median(sums)) * 1e3, gradients.size


def main() -> None:
    if "--rank" in sys.argv:
        distributed.init(timeout=300)
        tensorgrad.set_num_threads(1)
        for name, net in NETS.items():
            found = measured(*net)
            if distributed.rank() == 0:
                print(name, *found, flush=True)
        return
    from tests.benchmarks import overlap
    from tests.distributed.ranks import OPTIONS, mpiexec

    times: dict[str, list[tuple[float, ...]]] = {}
    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for size in (1, 2):
        job = [mpiexec(), *OPTIONS, "-n", str(size), sys.executable, "-m", "mpi4py", "-m", "tests.benchmarks.ranks", "--rank"]
        for line in subprocess.run(job, capture_output=True, text=True, check=True, env=one).stdout.splitlines():
            name, *values = line.split()
            times.setdefault(name, []).append(tuple(map(float, values)))
    print(f"{'':6}{'1 rank':>12}{'2 ranks':>12}{'of ideal':>10}{'sum':>10}{'gradients':>14}")
    for name, ((alone, _, count), (both, summed, _)) in times.items():
        print(f"{name:6}{alone:9.2f} ms{both:9.2f} ms{alone / both / 2:10.0%}{summed:7.2f} ms{int(count):14,}")
    print()
    overlap.main()


if __name__ == "__main__":
    main()
