"""What learning rate to begin with: the rate grows from batch to batch, and the loss is watched.

    python examples/rate_finder.py
    python examples/rate_finder.py --from 1e-4 --to 1 --batches 90

After L. N. Smith, Cyclical learning rates for training neural networks (2017). Scikit-learn's digits, a network of 64-100-10.
The rate is multiplied by the same factor after each batch; the loss, as a running mean, first stays, then falls, then rises. A
tenth of the rate at which it is lowest is a good one to try first. Parameters are put back to what they were.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from tensorgrad.models import MLP

from tensorgrad import data, nn, optim, train
from tensorgrad.errors import TrainingError
from tensorgrad.nn import functional as F


class RateFinder(train.Callback):
    """Lets the rate grow from `low` to `high` in so many batches, and notes the loss at each."""

    def __init__(self, low: float, high: float, batches: int, smoothing: float = 0.8) -> None:
        self.low, self.factor, self.smoothing = low, (high / low) ** (1 / max(batches - 1, 1)), smoothing
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.mean = 0.0

    def on_start(self, run: train.Run) -> None:
        run.optimiser.lr = self.low

    def on_batch_end(self, run: train.Run) -> None:
        self.mean = self.smoothing * self.mean + (1 - self.smoothing) * run.batch_loss
        self.rates.append(run.optimiser.lr)
        self.losses.append(self.mean / (1 - self.smoothing ** len(self.rates)))
        run.optimiser.lr *= self.factor

    def best(self) -> float:
        """A tenth of the rate at which the loss was lowest; what is no number any more does not count."""
        return self.rates[int(np.nanargmin(self.losses))] / 10


def find_rate(model: nn.Module, batches: data.DataLoader, low: float, high: float) -> RateFinder:
    """One epoch of growing rates."""
    finder = RateFinder(low, high, len(batches))
    before = model.state_dict()
    with contextlib.suppress(TrainingError):  # the rate was too much for floating-point numbers, which is no harm here
        train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), lr=low), batches, 1, callbacks=[finder], progress=False)
    model.load_state_dict(before)
    return finder


def main(argv: Sequence[str] | None = None) -> RateFinder:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="low", type=float, default=1e-3, help="the first rate (default: 0.001)")
    parser.add_argument("--to", dest="high", type=float, default=30.0, help="the last rate (default: 30)")
    parser.add_argument("--batches", type=int, default=112, help="how many batches (default: 112)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    digits, rng = load_digits(), np.random.default_rng(args.seed)
    x, y = (digits.data / 16).astype(np.float32), digits.target
    batches = data.DataLoader(x, y, batch_size=math.ceil(len(x) / args.batches), shuffle=True, rng=rng)
    model = MLP((64, 100, 10), rng=rng)

    finder = find_rate(model, batches, args.low, args.high)
    print("    rate    loss")
    for rate, loss in list(zip(finder.rates, finder.losses, strict=True))[:: max(len(finder.rates) // 20, 1)]:
        print(f"{rate:8.3g}{loss:8.3f}  {'#' * round(min(10 * loss, 60)) if math.isfinite(loss) else ''}")
    print(f"to begin with: {finder.best():.2g}")
    return finder


if __name__ == "__main__":
    main()
