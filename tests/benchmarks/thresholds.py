"""Where one way becomes faster than another, for tensorgrad/kernels/thresholds.py: `python -m tests.benchmarks.thresholds`.

A row for each size: the time of the first way, of the second, and their ratio; the threshold belongs where it passes 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tensorgrad import Tensor, optim
from tensorgrad.kernels import build, common, reference, thresholds
from tensorgrad.kernels.chain import Chain, Operand

Way = Callable[[], object]


def microseconds(way: Way) -> float:
    """The median of seven rounds of about 10 ms."""
    way()
    start = time.perf_counter()
    way()
    n = max(1, int(0.01 / (time.perf_counter() - start + 1e-7)))
    rounds = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(n):
            way()
        rounds.append((time.perf_counter() - start) / n * 1e6)
    return sorted(rounds)[3]


def compare(title: str, sizes: list[int], ways: Callable[[int], tuple[Way, Way]]) -> None:
    print(title)
    for size in sizes:
        first, second = (microseconds(way) for way in ways(size))
        print(f"    {size:>12,}  {first:10.1f} µs  {second:10.1f} µs  {first / second:6.2f}")


def kernel(size: int) -> tuple[Way, Way]:
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    loop = common.one_step("maximum", "full", "f", (0.0,))
    return lambda: np.maximum(x, 0), lambda: loop(x, np.empty_like(x))


def split(size: int) -> tuple[Way, Way]:
    full, number = Operand("full", "float32"), Operand("number", "float32")
    chain = Chain.of(lambda p, g, v, m, lr: (p - lr * (m * v + g), m * v + g), [full, full, full, number, number])
    p, g, v = np.ones((3, size), np.float32)
    numbers = np.asarray(0.5, np.float32), np.asarray(0.1, np.float32)
    run = build.ChainKernel(chain, {0: 0, 1: 2})

    def with_threshold(value: float) -> Way:
        def way() -> None:
            thresholds.CHAIN_THREADS = value  # type: ignore[assignment]
            run(p, g, v, *numbers, p, v)

        return way

    return with_threshold(np.inf), with_threshold(0)


def ones_product(size: int) -> tuple[Way, Way]:
    x, out = np.ones((max(size // 100, 1), 100), np.float32), np.empty(100, np.float32)
    thresholds_off = lambda: np.add.reduce(x, axis=0, out=out)  # noqa: E731
    return thresholds_off, lambda: np.matmul(np.ones(len(x), np.float32), x, out=out)


def classes(size: int) -> tuple[Way, Way]:
    z, t = np.random.default_rng(0).normal(size=(64, size)).astype(np.float32), np.zeros(64, int)
    one, loss, dz = np.ones((), np.float32), np.empty((), np.float32), np.empty_like(z)
    loop = build.cross_entropy_kernel(z.dtype, t.dtype, 2)
    return lambda: reference.softmax_cross_entropy(z, t, one, 64, loss, dz), lambda: loop(z, t, one, 64, loss, dz)


def together(size: int) -> tuple[Way, Way]:
    params = [Tensor(np.ones(size, np.float32), requires_grad=True) for _ in range(4)]
    for p in params:
        p.grad = Tensor(np.ones(size, np.float32))
    optimiser = optim.Adam(params)

    def with_threshold(value: int) -> Way:
        def way() -> None:
            thresholds.TOGETHER = value
            optimiser.step()

        return way

    return with_threshold(size), with_threshold(0)


def main() -> None:
    compare("KERNEL: NumPy's maximum / the kernel, elements", [4**k for k in range(3, 12)], kernel)
    compare("CHAIN_THREADS: one thread / all, elements", [4**k for k in range(7, 13)], split)
    compare("ONES_PRODUCT: column sum / product with ones, elements", [4**k for k in range(4, 11)], ones_product)
    compare("CLASSES: NumPy's calls / the loop, classes (64 rows)", [2**k for k in range(1, 11)], classes)
    compare("TOGETHER: one update / one each, numbers per parameter (4 of them)", [4**k for k in range(3, 10)], together)


if __name__ == "__main__":
    main()
