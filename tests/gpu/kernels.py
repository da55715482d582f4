"""Every kernel on a GPU against float64, products, captured steps; then what they take. `python -m tests.gpu.kernels`

A line for each; what fails is told, and the rest goes on. `--small` keeps to little data, for a tool that watches memory.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np

import tensorgrad
from tensorgrad import Tensor, nn, optim
from tensorgrad.core import backend
from tensorgrad.kernels import cublas, reference, thresholds
from tensorgrad.kernels.cuda import launch
from tensorgrad.nn import functional as F
from tests.cuda.chains import CHAINS, KERNELS, draw, results_of
from tests.gpu.steps import ON_GPU
from tests.test_cuda_kernels import check, expected_of

ROWS_AND_COLUMNS = [(1, 1), (5, 33), (700, 10)]
LARGE = [(0, 5), (257, 130), (60_000, 10), (1439, 500)]
LONG = [(60_000, 10), (64, 5000), (16, 100_000), (2000, 5000)]  # many rows, few long ones, many long ones
NETWORKS = [  # widths and batches: from which number of samples on thresholds.NETWORK is worth it, and how much
    *(((64, 64, 64, 64, 10), batch) for batch in (256, 1024, 4096, 16_384, 65_536)),
    *(((128, 128, 128), batch) for batch in (4096, 65_536)),
    ((32, 32, 32, 10), 65_536),
    ((2, 16, 16, 3), 4096),
]
GAIN = 5.0  # times as fast as the captured step, of layers of 64 at a batch of 65,536
ERRORS = {"float16": 3e-3, "float32": 2e-6, "float64": 1e-14}  # of products of 512 x 512, relative, in the Frobenius norm
TIMES = 20


class Checks:
    """What is looked at. small: whether little data is to do."""

    def __init__(self, small: bool) -> None:
        self.small, self.xp = small, backend.cupy()

    def chains(self) -> None:
        """Special values, odd shapes, in place, several blocks, positions of 32 and of 64 bits."""
        rng, faults = np.random.default_rng(0), []
        shapes = ROWS_AND_COLUMNS if self.small else ROWS_AND_COLUMNS + LARGE
        usual = launch.WIDE
        for wide, some in ((usual, shapes), (0, shapes[1:3])):
            launch.WIDE = wide
            for name, kernel in KERNELS.items():
                for shape in some:
                    given = draw(rng, name, shape, True)
                    operands = [self.xp.asarray(a) for a in given]
                    results = [operands[kernel.shared[k]] if k in kernel.shared else self.xp.asarray(r) for k, r in
                               enumerate(results_of(name, shape))]  # fmt: skip
                    kernel(*operands, *results)
                    try:
                        of = CHAINS[name][0]
                        check(of, [r.get() for r in results], expected_of(of, given, shape), shape[1])
                    except AssertionError as error:
                        faults.append(f"{name} {shape}, 64-bit positions {wide == 0}: {str(error)[:150]}")
        launch.WIDE = usual
        assert not faults, "\n".join(faults)

    def softmax(self) -> None:
        """The loss with its gradient, and log_softmax, by few and many rows and classes."""
        rng = np.random.default_rng(0)
        for real in ("float32", "float64"):
            eps = float(np.finfo(real).eps)
            for rows, classes in [(1, 1), (33, 2), (64, 10), (1025, 33), (3, 300), *([] if self.small else LONG)]:
                z, t = (8 * rng.normal(size=(rows, classes))).astype(real), rng.integers(0, classes, rows)
                expected, loss = np.empty((rows, classes)), np.empty(())
                reference.softmax_cross_entropy(z.astype(float), t, np.ones(()), rows, loss, expected)
                found, dz = self.xp.full((), np.nan, real), self.xp.full(z.shape, np.nan, real)
                one = self.xp.ones((), real)
                launch.softmax_cross_entropy(self.xp.asarray(z), self.xp.asarray(t), one, rows, found, dz)
                np.testing.assert_allclose(float(found), loss, rtol=1000 * eps)
                np.testing.assert_allclose(dz.get() * rows, expected * rows, rtol=500 * eps, atol=50 * eps)
                y = self.xp.full(z.shape, np.nan, real)
                launch.log_softmax(self.xp.asarray(z), y)
                s = z.astype(float) - z.max(1, keepdims=True)
                np.testing.assert_allclose(y.get(), s - np.log(np.exp(s).sum(1, keepdims=True)), rtol=8 * eps, atol=256 * eps)

    def same_bits(self) -> None:
        """Sums over many blocks, while another stream has work to do, and the shares that dropout keeps."""
        rng, seen = np.random.default_rng(0), set()
        g, unit = (self.xp.asarray(rng.normal(size=(20_000, 70)).astype(np.float32)) for _ in range(2))
        other, noise = self.xp.cuda.Stream(non_blocking=True), self.xp.zeros(1 << (16 if self.small else 24), np.float32)
        for _ in range(5 if self.small else 300):
            with other:
                noise += 1
            out, dz = self.xp.full(70, np.nan, np.float32), self.xp.empty_like(g)
            KERNELS["mask and bias gradient"](g.copy(), unit, dz, out)
            seen.add(out.get().tobytes())
        assert len(seen) == 1, f"{len(seen)} different sums"
        count = 10_000 if self.small else 3_000_001
        kept = []
        for _ in range(2):
            keep = self.xp.zeros(count, bool)
            launch.keep_mask(launch.random_state(7), 0.3, keep)
            kept.append(keep.get())
        np.testing.assert_array_equal(*kept)
        assert abs(kept[0].mean() - 0.7) < 5 * (0.21 / count) ** 0.5, kept[0].mean()

    def products(self) -> None:
        """cuBLAS by ours: layouts, dtypes, and the errors of each precision."""
        rng, n = np.random.default_rng(0), 64 if self.small else 512
        a, b = rng.normal(size=(n, n)), rng.normal(size=(n, n))

        def error(x: Any, y: Any) -> float:
            out = self.xp.full((x.shape[0], y.shape[1]), np.nan, x.dtype)
            cublas.product(x, y, out)
            expected = x.get().astype(float) @ y.get().astype(float)
            return float(np.linalg.norm(out.get() - expected) / np.linalg.norm(expected))

        for dtype, most in ERRORS.items():
            x, y = self.xp.asarray(a.astype(dtype)), self.xp.asarray(b.astype(dtype))
            for p, q in ((x, y), (x.T, y), (x, y.T), (x.T, y.T), (x[:, :33], y[:33]), (x[:7], y[:, :1]), (x[::2], y)):
                out = self.xp.empty((p.shape[0], q.shape[1]), dtype)
                if cublas.is_supported(p, q, out):
                    assert error(p, q) < most, (dtype, p.shape, p.strides, q.shape, q.strides)
        x, y = self.xp.asarray(a.astype("float32")), self.xp.asarray(b.astype("float32"))
        found = []
        for precision in cublas.PRECISIONS:
            cublas.set_matmul_precision(precision)
            found.append(f"{precision} {error(x, y):.1e}")
        cublas.set_matmul_precision("float32")
        told(f"relative errors: {', '.join(found)}")

    def captured(self) -> None:
        """Steps as one graph: losses as on the CPU and as step by step, and the same bits twice."""
        rng = np.random.default_rng(0)
        x, y = rng.random((64, 784), np.float32), rng.integers(0, 10, 64)
        for kind in (optim.SGD, optim.Adam):
            runs: list[list[float]] = []
            for device, is_compiled in (("cpu", False), ("cuda", False), ("cuda", True), ("cuda", True)):
                step = training((784, 200, 100, 50, 10), device, is_compiled, kind)
                given = Tensor(x, device=device), Tensor(y, device=device)
                runs.append([step(*given).item() for _ in range(12)])
                if is_compiled:
                    launches = step.plan.launches
                    assert launches.captured, launches.why_not
            for losses in runs[1:]:
                np.testing.assert_allclose(losses, runs[0], rtol=1e-4)
            told(f"{kind.__name__}: the same bits twice: {runs[2] == runs[3]}")

    def networks(self) -> None:
        """A perceptron as one kernel: as the plan without it to rounding, the same bits twice; and what a step gains."""
        rng = np.random.default_rng(2)
        for widths, batch in [((5, 7, 9, 3), 1000), *([] if self.small else NETWORKS)]:
            given = rng.random((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
            x, y = (Tensor(a, device="cuda") for a in given)
            losses, seconds = [], []
            for least in (None, 1, 1):
                with patch.object(thresholds, "NETWORK", least):
                    step = training(widths, "cuda", True)
                    losses.append([step(x, y).item() for _ in range(8)])
                launches = step.plan.launches
                assert launches.captured, launches.why_not
                assert any(call.name == "network" for call in step.plan.calls) == (least == 1), widths
                if not self.small:
                    seconds.append(self.seconds(launches.graph.launch))
            np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
            assert losses[1] == losses[2], f"{widths}: other bits the second time"
            if self.small:
                continue
            plain, fused = seconds[0], min(seconds[1:])
            found = f"captured {plain * 1e6:,.0f} µs, as one kernel {fused * 1e6:,.0f} µs, {plain / fused:.2f} times as fast"
            rate = work(widths, batch) / fused / 1e12
            told(f"{widths}, batch {batch:,}: {found} (aim: {GAIN:.0f}), {rate:.1f} TFLOP/s")

    def speed_of_kernels(self) -> None:
        """Bytes a second beside a copy, of arrays of 256 MiB."""
        rng, rows = np.random.default_rng(0), 4 if self.small else 1 << 16
        a, b = self.xp.ones((rows, 1024), np.float32), self.xp.ones((rows, 1024), np.float32)
        copy = 2 * a.nbytes / self.seconds(lambda: self.xp.copyto(a, b))
        told(f"copy {copy / 1e9:,.0f} GB/s")
        for name, kernel in KERNELS.items():
            of, shape = CHAINS[name][0], (rows, 1024)
            sizes = {"full": shape, "row": shape[1:], "column": (rows, 1), "number": ()}
            operands = [self.xp.asarray(rng.random(sizes[o.layout]).astype(o.dtype)) for o in of.operands]
            made = [self.xp.empty(sizes["row" if x == "sum" else x], of.dtype(r)) for r, x in of.results]
            results = [operands[kernel.shared[k]] if k in kernel.shared else r for k, r in enumerate(made)]
            moved = sum(x.nbytes for x in (*operands, *results))
            rate = moved / self.seconds(lambda k=kernel, o=operands, r=results: k(*o, *r))
            told(f"{name:32s} {rate / 1e9:7,.0f} GB/s, {rate / copy:.2f} of the copy")

    def speed_of_steps(self) -> None:
        """What a step takes, waited for once, and what asking for it takes; the table of the largest plan."""
        rng = np.random.default_rng(1)
        for name, (widths, batch) in ON_GPU.items():
            given = rng.random((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
            x, y = (Tensor(a, device="cuda") for a in given)
            for is_compiled, precision in ((True, "float32"), (True, "tf32"), (False, "float32")):
                tensorgrad.set_matmul_precision(precision)
                step = training(widths, "cuda", is_compiled)
                since = time.perf_counter()
                for _ in range(4):
                    step(x, y).item()
                first, count = time.perf_counter() - since, 200 if batch < 100 else 30
                since = time.perf_counter()
                for _ in range(count):
                    last = step(x, y)
                host = time.perf_counter() - since
                last.item()
                total = time.perf_counter() - since
                how = f"compiled, {precision}" if is_compiled else "step by step"
                told(
                    f"{name} {how}: {total / count * 1e6:,.0f} µs, host {host / count * 1e6:,.0f} µs, first four {first:.2f} s"
                )
                if is_compiled and precision == "float32" and name in ("W2", "wide"):
                    told(str(step.plan))
        tensorgrad.set_matmul_precision("float32")

    def seconds(self, action: Callable[[], Any]) -> float:
        """The median time that the GPU takes for it."""
        runs, events = [], self.xp.cuda
        for _ in range(TIMES + 1):
            start, end = events.Event(), events.Event()
            start.record()
            action()
            end.record()
            end.synchronize()
            runs.append(events.get_elapsed_time(start, end) / 1e3)
        return float(np.median(runs[1:]))


def training(widths: tuple[int, ...], device: str, is_compiled: bool, kind: Any = optim.SGD) -> Any:
    """A step of an MLP that begins with the same weights each time."""
    tensorgrad.manual_seed(1)
    layers = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).to(device)
    optimiser = kind(model.parameters(), lr=0.01)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return tensorgrad.compile(step) if is_compiled else step


def work(widths: tuple[int, ...], batch: int) -> int:
    """Floating-point operations of the products of a step."""
    return sum(2 * batch * n * m * (3 if i else 2) for i, (n, m) in enumerate(pairwise(widths)))


def told(text: str) -> None:
    print("\n".join(f"        {line}" for line in text.splitlines()), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="little data, and no times")
    small = parser.parse_args().small
    checks = Checks(small)
    if small:
        checks.xp.cuda.set_allocator(None)  # without a pool an array ends where its memory does, so that reads beyond are seen
    parts = [checks.chains, checks.softmax, checks.same_bits, checks.products, checks.captured, checks.networks]
    failed = 0
    for part in parts if small else [*parts, checks.speed_of_steps, checks.speed_of_kernels]:
        since = time.perf_counter()
        try:
            part()
            print(f"ok      {part.__name__}, {time.perf_counter() - since:.1f} s", flush=True)
        except Exception as error:  # the rest is worth knowing, whatever it was
            failed += 1
            print(f"FAILED  {part.__name__}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            traceback.print_exc(limit=-3, file=sys.stdout)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
