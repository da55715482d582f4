"""What train.Watch costs: a compiled fit with it and without, in turns. `python -m tests.benchmarks.watched`."""

from __future__ import annotations

import itertools
import statistics
import time

import numpy as np

import tensorgrad
from tensorgrad import data, nn, optim, train
from tensorgrad.nn import functional as F

ROUNDS = 9
FITS = {"64-32-10, batch 32": ([64, 32, 10], 32, 150), "784-200-100-10, batch 128": ([784, 200, 100, 10], 128, 20)}


def fit(sizes: list[int], batch: int, epochs: int, watch: train.Watch | None) -> tuple[float, float]:
    """Seconds of computing, which other processes hardly change, of a training of 6,400 samples; and the loss at its end."""
    tensorgrad.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6400, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], 6400)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    adam = optim.Adam(model.parameters(), lr=1e-3)
    callbacks = [] if watch is None else [watch]
    start = time.process_time()
    history = train.fit(
        model, F.cross_entropy, adam, data.DataLoader(x, y, batch_size=batch), epochs, callbacks=callbacks, progress=False
    )
    return time.process_time() - start, history["loss"][-1]


def main() -> None:
    for name, (sizes, batch, epochs) in FITS.items():
        fit(sizes, batch, epochs, train.Watch(every=50))  # kernels are compiled
        without, with_it, samples = [], [], 0
        for _ in range(ROUNDS):
            seconds, loss = fit(sizes, batch, epochs, None)
            watch = train.Watch(every=50)
            watched, same = fit(sizes, batch, epochs, watch)
            assert loss == same
            without.append(seconds)
            with_it.append(watched)
            samples = len(watch.samples)
        ratios = [b / a - 1 for a, b in zip(without, with_it, strict=True)]
        steps = epochs * -(-6400 // batch)
        print(
            f"{name}: {statistics.median(without):.3f} s, with Watch(every=50) {statistics.median(with_it):.3f} s: "
            f"{statistics.median(ratios):+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%}), {samples} samples of {steps:,} steps"
        )


if __name__ == "__main__":
    main()
