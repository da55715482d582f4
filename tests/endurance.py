"""Much of one thing in one process: `python -m tests.endurance`; `--share 0.01` for a hundredth of it.

python -m tests.endurance                      all of it, some hours
python -m tests.endurance chain shapes         some of it
python -m tests.endurance threads --minutes 1

Each part compares what comes of it with what it has to be, and prints how memory grew after the first tenth of it. The exit
status is 1 if anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tensorgrad.models import MLPClassifier

import tensorgrad
from tensorgrad import Tensor, nn, optim
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F

GROWTH = 64.0  # MiB that a process may grow by in the last nine tenths of a part: allocators keep what they were given
Part = Callable[[float, float], str]


class Memory:
    """How much more memory this process has at the end than after a tenth of the work."""

    def __init__(self, rounds: int) -> None:
        self.at, self.first = max(rounds // 10, 1), 0.0

    def look(self, i: int) -> None:
        if i == self.at:
            gc.collect()
            self.first = resident()

    def grown(self) -> float:
        gc.collect()
        return resident() - self.first if self.first else 0.0

    def checked(self) -> str:
        grown = self.grown()
        assert grown <= GROWTH, f"{grown:.0f} MiB more than after the first tenth"
        return f"{grown:+.1f} MiB after the first tenth"


def resident() -> float:
    """MiB that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# Graphs


def chain(share: float, minutes: float) -> str:
    """One operation after the other, a million of them: y = a y and y = y + x in turn."""
    n = round(1_000_000 * share)
    before = resident()
    x = Tensor(np.array(1.5), requires_grad=True)
    y: Any = x
    factor, expected, value = 1 - 1e-6, 1.0, 1.5
    for i in range(n):
        if i % 2:
            y, expected, value = y * factor, expected * factor, value * factor
        else:
            y, expected, value = y + x * 0.5, expected + 0.5, value + 0.75
    most = resident()
    y.backward()
    assert y.item() == value
    assert x.grad is not None
    assert math.isclose(x.grad.item(), expected, rel_tol=1e-9), (x.grad.item(), expected)
    del y
    gc.collect()
    return f"{n:,} operations, {1024 * (most - before) / n:.2f} KiB each; freed to {resident() - before:+.0f} MiB"


def graph(share: float, minutes: float) -> str:
    """A tree of sums over half a million products, read as a graph, differentiated twice."""
    n = round(500_000 * share)
    x = Tensor(np.array(0.5), requires_grad=True)
    weights = np.random.default_rng(0).normal(size=n)
    level: list[Any] = [x * x * w for w in weights]
    total = weights.copy()
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        rest = total[-1:] if len(total) % 2 else total[:0]
        level = [a + b for a, b in zip(level[::2], level[1::2], strict=False)] + odd
        pairs = len(total) // 2 * 2
        total = np.concatenate([total[:pairs:2] + total[1:pairs:2], rest])
    nodes = Graph.of(level[0]).nodes
    (first,) = tensorgrad.grad(level[0], x, create_graph=True)
    (second,) = tensorgrad.grad(first, x)
    assert len(nodes) == 1 + n + n - 1 or len(nodes) == 2 * n + n - 1, len(nodes)
    for found, expected in ((level[0], 0.25 * total[0]), (first, total[0]), (second, 2 * total[0])):
        assert math.isclose(found.item(), expected, rel_tol=1e-9, abs_tol=1e-9 * n), (found.item(), expected)
    return f"{len(nodes):,} operations"


# Steps


def training(seed: int = 0) -> tuple[nn.Module, optim.Adam, Callable[[Any, Any], Any]]:
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(8, 16, rng=rng), nn.Tanh(), nn.Linear(16, 3, rng=rng))
    optimiser = optim.Adam(model.parameters(), 1e-3)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return model, optimiser, step


def batches(n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    for _ in range(n):
        yield rng.normal(size=(16, 8)).astype(np.float32), rng.integers(0, 3, 16)


def steps(share: float, minutes: float) -> str:
    """A hundred thousand steps, compiled and eager, which start from the same numbers a hundred times on the way."""
    n = round(100_000 * share)
    (model, optimiser, step), (other, others, eager) = training(), training()
    compiled, said = tensorgrad.compile(step), []
    memory = Memory(n)
    for i, (x, y) in enumerate(batches(n)):
        memory.look(i)
        if i % max(n // 100, 1) == 0:
            other.load_state_dict(model.state_dict())
            others.load_state_dict(optimiser.state_dict())
            np.testing.assert_allclose(compiled(x, y).data, eager(x, y).data, rtol=1e-5)
            for a, b in zip(model.parameters(), other.parameters(), strict=True):
                np.testing.assert_allclose(a.data, b.data, rtol=1e-5, atol=1e-7, err_msg=f"after step {i}")
        else:
            compiled(x, y)
    said.append(memory.checked())
    memory = Memory(n)
    for i, (x, y) in enumerate(batches(n)):
        memory.look(i)
        eager(x, y)
    said.append(memory.checked())
    return f"{n:,} steps compiled ({said[0]}) and eager ({said[1]})"


def shapes(share: float, minutes: float) -> str:
    """A thousand shapes through one compiled function, each twice."""
    n = round(1_000 * share)
    rng = np.random.default_rng(2)
    w = Tensor(rng.normal(size=(7, 5)), requires_grad=True)

    def fn(x: Any) -> Any:
        return ((x @ w).tanh() * x.sum(-1, keepdims=True)).sum()

    compiled = tensorgrad.compile(fn)
    memory = Memory(2 * n)
    for i in range(2 * n):
        memory.look(i)
        x = Tensor(np.random.default_rng(i % n).normal(size=(1 + i % n, 7)), requires_grad=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*has run .* without a replay")  # as it has to: every shape is new
            mine = tensorgrad.grad(compiled(x), (x, w))
        other = tensorgrad.grad(fn(x), (x, w))
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_allclose(a.data, b.data, rtol=1e-12, atol=1e-12)
    return f"{n:,} shapes, twice each ({memory.grown():+.1f} MiB after the first tenth)"


def estimators(share: float, minutes: float) -> str:
    """Ten thousand estimators, fitted one after the other; a seed that comes again gives what it gave."""
    n = round(10_000 * share)
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    known: dict[int, np.ndarray] = {}
    memory = Memory(n)
    for i in range(n):
        memory.look(i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = MLPClassifier((8,), max_iter=3, random_state=i % 50).fit(x, y)
        found = model.predict_proba(x)
        np.testing.assert_array_equal(known.setdefault(i % 50, found), found)
    return f"{n:,} fits ({memory.checked()})"


def threads(share: float, minutes: float) -> str:
    """Eight threads for ten minutes, a model each, trained again and again: the bits of training alone."""

    def trained(seed: int) -> list[bytes]:
        model, _, step = training(seed)
        call = tensorgrad.compile(step) if seed % 2 else step
        for x, y in batches(60):
            call(x, y)
        return [a.tobytes() for a in model.state_dict().values()]

    alone = [trained(seed) for seed in range(8)]
    wrong: list[str] = []
    counts = [0] * 8
    end = time.monotonic() + 60 * minutes * share

    def work(seed: int) -> None:
        try:
            while not counts[seed] or time.monotonic() < end:
                if trained(seed) != alone[seed]:
                    wrong.append(f"thread {seed} differs after {counts[seed]} trainings")
                counts[seed] += 1
        except BaseException as error:
            wrong.append(f"thread {seed}: {error!r}")

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, wrong[:3]
    return f"{sum(counts):,} trainings of 60 steps in 8 threads, each the bits of one alone"


# Kills


def kills(share: float, minutes: float) -> str:
    """A thousand times signal 9 at a random moment of a training that is taken up again: the bits of one that was not."""
    n = max(round(1_000 * share), 1)
    chance = random.Random(0)
    environment = {**os.environ, "PYTHONHASHSEED": "0", "TENSORGRAD_NO_NUMBA": "1"}
    killed = trainings = longest = 0

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.training", str(path), "60", "0"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    with tempfile.TemporaryDirectory() as folder:
        whole = start(Path(folder) / "whole.npz").communicate()[0].splitlines()[-1]
        assert whole.startswith("ended"), whole
        while killed < n:
            path, epoch = Path(folder) / f"{trainings}.{('npz', 'safetensors')[trainings % 2]}", 0
            while True:
                with start(path) as process:
                    assert process.stdout is not None
                    process.stdout.readline()  # training has begun, or has ended
                    timer = threading.Timer(chance.expovariate(1 / 0.15), process.send_signal, [signal.SIGKILL])
                    timer.start()
                    rest = process.stdout.read().splitlines()
                    assert process.stderr is not None
                    errors = process.stderr.read()
                    timer.cancel()
                if process.returncode == 0:
                    assert rest[-1:] == [whole] or not rest, (rest, errors)
                    break
                assert process.returncode == -signal.SIGKILL, errors
                killed += 1
                lines = [int(line) for line in rest if line.isdigit()]
                assert not lines or lines[0] > epoch, "an epoch that was saved is lost"
                epoch = max([epoch, *(k - 1 for k in lines)])
                longest = max(longest, epoch)
            trainings += 1
    return f"{killed:,} kills in {trainings:,} trainings, all with the end of one that was left alone"


PARTS: dict[str, Part] = {
    "chain": chain, "graph": graph, "steps": steps, "shapes": shapes,
    "estimators": estimators, "threads": threads, "kills": kills,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="how much of each (default 1)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of threads (default 10)")
    args = parser.parse_args()
    failed = False
    for name in args.parts or PARTS:
        start = time.perf_counter()
        try:
            said = PARTS[name](args.share, args.minutes)
        except AssertionError as error:
            failed, said = True, f"FAILED: {error}"
        print(f"{name:12} {said}; {time.perf_counter() - start:.0f} s", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
