"""Overlap: whether it pays to begin the sum of the gradients over ranks while the reverse walk goes on.

`python -m tests.benchmarks.overlap` starts two ranks with one thread each, and prints a table for a wide net and a deep one:
medians over rounds, in each of which all ways take their turn once, so that what else the machine does meets all of them alike.

whole      one sum of all gradients after the walk: what tensorgrad does
n MB       the same in buckets of n MB, each summed by Iallreduce as soon as its gradients are there; MPI gets to work on them
           whenever another gradient is there (the wheels' Open MPI does nothing between calls), and the rest is waited for
after      buckets of 4 MB, and all in one, begun after the walk: what Iallreduce costs without overlap
no sum     the step without any: what there is to gain at most is the rest of "whole"

On two cores, a batch of 64, medians of 24 rounds, on 2026-11-30, of a busy machine and of a quiet one:

                                whole         1 MB         4 MB        25 MB   4 MB after    all after       no sum
    wide (20 M gradients)    180.5 ms    214.8 ms    202.0 ms    225.7 ms    228.1 ms    227.1 ms    112.7 ms
    deep (2.8 M)              26.7 ms     28.9 ms     31.1 ms     33.3 ms     31.9 ms     33.1 ms     18.2 ms
    wide                     149.6 ms    147.8 ms    130.7 ms    141.1 ms    162.2 ms    203.5 ms     93.4 ms
    deep                      25.7 ms     26.0 ms     25.6 ms     25.2 ms     27.6 ms     26.8 ms     17.8 ms

So 4 MB at a time gain an eighth of a step with wide layers where cores are free, nothing with narrow ones, and cost a tenth
where they are not. It is not done. What gained was to keep the memory of the sum from step to step (optim.agreement): before,
"whole" took 387 to 482 ms.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor, distributed, nn, optim
from tensorgrad.autograd.sums import Sums
from tensorgrad.core.ranks import ranks
from tensorgrad.nn import functional as F

NETS = {"wide": (784, 4096, 4096, 10), "deep": (784, *[256] * 40, 10)}
BATCH, ROUNDS = 64, 24
MEGABYTES = (1, 4, 25)


class Buckets:
    """The gradients of a model in one array, from the last parameter to the first, as the walk finds them.

    requests   sums that have begun
    """

    def __init__(self, model: nn.Module, megabytes: float, overlap: bool) -> None:
        self.params = list(model.parameters())[::-1]
        sizes = [p.size for p in self.params]
        self.flat = np.zeros(sum(sizes), np.float32)
        ends = np.cumsum(sizes)
        self.places = {id(p): slice(end - size, end) for p, end, size in zip(self.params, ends, sizes, strict=True)}
        self.most, self.overlap = int(megabytes * 2**20 / 4), overlap
        self.begin()

    def begin(self) -> None:
        self.begun = self.filled = 0
        self.requests: list[Any] = []

    def add(self, p: Any, g: Any) -> None:
        """A gradient is known. Each parameter is read once, and in the order of the layers, so it is whole."""
        place = self.places[id(p)]
        np.multiply(g.reshape(-1), ranks.share, out=self.flat[place])
        self.filled += p.size
        if self.overlap:
            self.send(last=False)
            for request in self.requests:
                request.Test()

    def send(self, last: bool) -> None:
        group: Any = ranks.group
        while self.filled - self.begun >= self.most or (last and self.begun < self.filled):
            stop = min(self.begun + self.most, self.filled)
            part = self.flat[self.begun : stop]
            self.requests.append(group.comm.Iallreduce(group.mpi.IN_PLACE, part))
            self.begun = stop

    def end(self) -> None:
        self.send(last=True)
        group: Any = ranks.group
        group.mpi.Request.Waitall(self.requests)
        for p in self.params:
            assert p.grad is not None
            p.grad._data = self.flat[self.places[id(p)]].reshape(p.shape)
            ranks.averaged.add(p.grad)


@contextmanager
def told(buckets: Buckets) -> Iterator[None]:
    """Inside the block buckets get the gradients of parameters when the walk has them."""
    before = Sums.add

    def add(self: Sums, source: Any, g: Any) -> None:
        before(self, source, g)
        if id(source) in buckets.places:
            buckets.add(source, g)

    Sums.add = add  # type: ignore[method-assign]
    try:
        yield
    finally:
        Sums.add = before  # type: ignore[method-assign]


def ways(widths: tuple[int, ...]) -> dict[str, Callable[[], None]]:
    """A training step by each way."""
    tensorgrad.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = optim.SGD(model, lr=0.01)
    rng = np.random.default_rng(distributed.rank())
    rows = BATCH // distributed.size()
    x, y = Tensor(rng.random((rows, widths[0]), dtype=np.float32)), rng.integers(0, widths[-1], rows)

    def backward() -> None:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()

    def whole() -> None:
        backward()
        optimiser.step()

    def by_buckets(buckets: Buckets) -> None:
        buckets.begin()
        with told(buckets):
            backward()
        buckets.end()
        optimiser.step()

    def alone() -> None:
        backward()
        with ranks.alone():
            optimiser.step()

    buckets = {f"{n} MB": Buckets(model, n, True) for n in MEGABYTES} | {
        "4 after": Buckets(model, 4, False),
        "all": Buckets(model, 1e6, False),
    }
    found: dict[str, Callable[[], None]] = {"whole": whole}
    found |= {name: lambda some=some: by_buckets(some) for name, some in buckets.items()}
    return found | {"no sum": alone}


def measured(widths: tuple[int, ...]) -> dict[str, float]:
    """Milliseconds of a step by each way."""
    steps = ways(widths)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS + 2):
        for name, step in steps.items():
            ranks.all_gather(None)
            since = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - since)
    return {name: float(np.median(found[2:])) * 1e3 for name, found in seconds.items()}


def main() -> None:
    if "--rank" in sys.argv:
        distributed.init(timeout=300)
        tensorgrad.set_num_threads(1)
        for name, widths in NETS.items():
            found = measured(widths)
            if distributed.rank() == 0:
                print(f"{name:6}" + "".join(f"{time:9.1f} ms" for time in found.values()), flush=True)
        return
    from tests.distributed.ranks import OPTIONS, mpiexec

    one = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    job = [mpiexec(), *OPTIONS, "-n", "2", sys.executable, "-m", "mpi4py", "-m", "tests.benchmarks.overlap", "--rank"]
    names = ["whole", *[f"{n} MB" for n in MEGABYTES], "4 MB after", "all after", "no sum"]
    print(f"{'':6}" + "".join(f"{name:>12}" for name in names), flush=True)
    print(subprocess.run(job, capture_output=True, text=True, check=True, env=one).stdout, end="")


if __name__ == "__main__":
    main()
