"""Time of one training step against PyTorch: `python -m tests.benchmarks [--rounds N]`.

Both train the same network from the same weights on the same batch, alternating in one process, and have to agree on the
losses before anything is timed. PyTorch is not a dependency: install it beside tensorgrad to run this.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

import tensorgrad
from tensorgrad import nn, optim
from tensorgrad.nn import functional as F

WORKLOADS = {
    "W1": ((784, 100, 10), 10),
    "W2": ((784, 200, 100, 50, 10), 64),
    "W3": ((64, *[500] * 6, 10), 1439),
}
LR = 0.1


def weights(widths: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(0, np.sqrt(2 / n), (n, m)).astype(np.float32), np.zeros(m, np.float32)) for n, m in pairwise(widths)]


def ours(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    layers: list[nn.Module] = []
    for w, b in weights(widths):
        layer = nn.Linear(*w.shape)
        layer.load_state_dict({"weight": w, "bias": b})
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = optim.SGD(model.parameters(), lr=LR)

    def step() -> float:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()  # type: ignore[return-value]

    return step


def torch_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    import torch

    layers: list[torch.nn.Module] = []
    for w, b in weights(widths):
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T.copy()))
            layer.bias.copy_(torch.from_numpy(b))
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    loss_of = torch.nn.functional.cross_entropy

    def step() -> float:
        loss = loss_of(model(tx), ty)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def seconds(step: Callable[[], float], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        step()
    return (time.perf_counter() - start) / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often the two alternate (default 15)")
    args = parser.parse_args()
    import torch

    print(f"tensorgrad {tensorgrad.__version__}, PyTorch {torch.__version__}, NumPy {np.__version__}")
    print(f"{'one training step':34} {'tensorgrad':>12} {'PyTorch eager':>14} {'ratio':>7}  (median, min to max of ratios)")
    for name, (widths, batch) in WORKLOADS.items():
        rng = np.random.default_rng(1)
        x = rng.random((batch, widths[0]), np.float32)
        y = rng.integers(0, widths[-1], batch)
        a, b = ours(widths, x, y), torch_step(widths, x, y)
        losses = [(a(), b()) for _ in range(10)]
        np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-3, err_msg=f"{name}: the losses differ")
        n = max(3, int(0.1 / seconds(a, 10)))
        pairs = [(seconds(a, n), seconds(b, n)) for _ in range(args.rounds)]
        ratios = sorted(q / p for p, q in pairs)
        row = f"{name} {'-'.join(map(str, widths))}, batch {batch}"
        times = [statistics.median(t) * 1e6 for t in zip(*pairs, strict=True)]
        print(
            f"{row:34.34} {times[0]:9.0f} µs {times[1]:11.0f} µs {statistics.median(ratios):7.2f}"
            f"  ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
