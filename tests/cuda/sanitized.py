"""`python -m tests.cuda.sanitized`: every CUDA source on the CPU under AddressSanitizer, in a process that has loaded it first.

With an argument, a kernel with a mistake in it, which has to be found: "read" or "shared" (beyond the end of an array, of
shared memory), or "apart" (threads that wait for each other in different places).
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np

from tensorgrad.kernels.cuda import launch, network
from tests.cuda.chains import KERNELS, draw, results_of
from tests.cuda.on_cpu import Module
from tests.cuda.stand_in import FLOATS, cuda_on_cpu, on_device

MISTAKES = {
    "read": "out[threadIdx.x] = x[threadIdx.x + 1];",
    "shared": "__shared__ float space[32]; space[threadIdx.x + 1] = x[threadIdx.x]; out[threadIdx.x] = space[threadIdx.x];",
    "apart": "if (threadIdx.x % 2) __syncthreads(); else out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);",
}


def mistaken(body: str) -> None:
    """Run a kernel over as many threads as there are elements."""
    source = f'extern "C" __global__ void wrong(const float* x, float* out)\n{{\n    {body}\n}}\n'
    Module(source, sanitize=True).function("wrong")((1,), (32,), [np.ones(32, np.float32), np.ones(32, np.float32)])


@cuda_on_cpu(sanitize=True)
def every_source() -> None:
    """Shapes that fill no block, no warp and no batch, and that take several blocks."""
    rng = np.random.default_rng(0)
    for name, kernel in KERNELS.items():
        for shape in ((1, 1), (5, 33), (33, 3), (700, 10)):
            operands = [on_device(a) for a in draw(rng, name, shape)]
            results = [on_device(a) for a in results_of(name, shape)]
            for k, j in kernel.shared.items():
                results[k] = operands[j]
            kernel(*operands, *results)
    for real in FLOATS:
        for shape in ((1, 1), (3, 5), (65, 10), (1025, 2), (7, 1000), (3, 4100)):
            z: Any = on_device(rng.normal(size=shape).astype(real))
            t = on_device(rng.integers(-1, shape[1] + 1, shape[0]))
            number = on_device(np.ones((), real))
            launch.softmax_cross_entropy(z, t, number, shape[0], on_device(number), on_device(z))
            launch.log_softmax(z, on_device(z))
    for widths in ((1, 1, 1), (5, 7, 9, 3), (2, 33, 128)):
        for rows in (1, 33, 100):
            layers = [(on_device(np.ones((n, m), "f")), on_device(np.ones(m, "f"))) for n, m in pairwise(widths)]
            results = [on_device(p) for p in (np.ones((), "f"), *(p for layer in layers for p in layer))]
            x, t = on_device(np.ones((rows, widths[0]), "f")), on_device(rng.integers(-1, widths[-1] + 1, rows))
            network.bound(x, t, on_device(results[0]), layers, results)()
    state = launch.random_state(1)
    for count in (1, 3, 4, 1023, 5000):
        launch.keep_mask(state, 0.5, on_device(np.zeros(count, bool)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        mistaken(MISTAKES[sys.argv[1]])
    else:
        every_source()
    print("nothing found")
