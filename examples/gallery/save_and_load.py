"""Training that is interrupted and goes on from a file, and a model that another process reads.

    python examples/gallery/save_and_load.py

A network of scikit-learn's digits, the cross-entropy L = -1/n Σ log softmax(z_i)[y_i], Adam with a falling rate. Half of the
steps are made, all is saved, and a new model, optimiser and schedule are loaded and make the other half: what comes of it is
what comes of all steps in one go, bit for bit. Once with .npz, which NumPy reads, once with .safetensors.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import data, nn, optim, train
from tensorgrad.nn import functional as F


def model(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 24, rng=rng), nn.ReLU(), nn.Linear(24, 10, rng=rng))


def batches(begin: int, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (64, 64) and labels (64) of the steps from `begin` to `end`, each with a generator of its own."""
    x, y = data.load_digits()
    x = data.min_max(x)
    for i in range(begin, end):
        rows = np.random.default_rng(i).integers(len(x), size=64)
        yield x[rows], y[rows]


def part(begin: int, end: int, compiled: bool, load: Path | None = None, save: Path | None = None) -> list[float]:
    """The losses of these steps, by new objects, which begin with what is in a file and leave what they are in another."""
    net = model(np.random.default_rng(0))
    optimiser = optim.Adam(net.parameters(), lr=0.01)
    schedule = optim.ExponentialLR(optimiser, 0.99, per="batch")
    if load:
        train.load(load, model=net, optimiser=optimiser, schedule=schedule)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    # ahead: also the first step is a replay, where it would be run as it is written, and its last bits might be others
    step = tensorgrad.compile(step, ahead=True) if compiled else step
    column = []
    for x, y in batches(begin, end):
        column.append(step(x, y).item())
        schedule.step()
    if save:
        train.save(save, model=net, optimiser=optimiser, schedule=schedule)
    return column


def losses(steps: int, compiled: bool = True) -> Losses:
    columns, half = {"in one go": part(0, steps, compiled)}, steps // 2
    with tempfile.TemporaryDirectory() as folder:
        for kind in (".npz", ".safetensors"):
            file = Path(folder, "half").with_suffix(kind)
            columns[kind] = part(0, half, compiled, save=file) + part(half, steps, compiled, load=file)
    return columns


def main() -> None:
    if sys.argv[1:2] == ["--predict"]:  # as the other process
        net = model(np.random.default_rng(1))
        train.load(sys.argv[2], model=net)
        print("another process sees", *train.predict(net, next(batches(0, 1))[0][:12]).argmax(axis=1))
        return
    show(__doc__, losses, steps=100)
    with tempfile.TemporaryDirectory() as folder:
        part(0, 100, True, save=Path(folder, "whole.npz"))
        print("the labels are       ", *next(batches(0, 1))[1][:12], flush=True)
        subprocess.run([sys.executable, __file__, "--predict", Path(folder, "whole.npz")], check=True)


if __name__ == "__main__":
    main()
