"""A multilayer perceptron with its loss and gradients in one pass over the samples: its CUDA C and its launch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.kernels.cuda import generate
from tensorgrad.kernels.cuda.launch import blocks, fault, function, new_scratch

WIDEST = 128  # maximum width of a layer
SQUARES = 4  # maximum 4 x 4 blocks of weights whose gradients a thread holds in registers
SHARED = 48 * 1024 - 3072  # bytes of shared memory of a block on any GPU, minus those for sums


class Tile(NamedTuple):
    """The work of a block at a time. threads: per block;  rows: samples."""

    threads: int
    rows: int


def tile_of(widths: tuple[int, ...]) -> Tile | None:
    """The tile for these widths, of the input and of each layer; None if they do not fit into a block."""
    if max(widths) > WIDEST:
        return None
    threads = 256 if max(widths) <= 64 else 512
    squares = sum(blocks(blocks(n, 4) * blocks(m, 4), threads) for n, m in pairwise(widths))
    row = 4 * sum(4 * blocks(n, 4) + 4 for n in widths)
    rows = next((rows for rows in (32, 16) if rows * row <= SHARED), None)
    return None if rows is None or squares > SQUARES else Tile(threads, rows)


def offsets(widths: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The offsets of each layer's weights in the gradients and in the padded weights, and as last element their sizes."""
    gradients, padded = [0], [0]
    for layer, (n, m) in enumerate(pairwise(widths)):
        gradients.append(gradients[-1] + n * m + m)
        padded.append(padded[-1] + 16 * blocks(n, 4) * blocks(m, 4) * (2 if layer else 1))
    return gradients, padded


@functools.cache
def source(widths: tuple[int, ...], label: str) -> str:
    """The program of three kernels for these widths, with a ReLU after each layer but the last, and labels of this dtype."""
    tile = tile_of(widths)
    assert tile is not None
    layers = list(enumerate(pairwise(widths)))
    gradients, padded = offsets(widths)
    count, last = gradients[-1] + 1, len(layers)
    weights = [f"const float* __restrict__ w{i}" for i, _ in layers]
    biases = [f"const float* __restrict__ b{i}" for i, _ in layers]
    sizes = [tile.rows * (4 * blocks(n, 4) + 4) for n in widths]

    def transposed(i: int, n: int, m: int) -> str:
        return f"padded + {padded[i] + 16 * blocks(n, 4) * blocks(m, 4)}"

    forward: list[str] = []
    backward: list[str] = []
    for i, (n, m) in layers:
        unit = "z >= 0 || z != z ? z : 0.0f" if i + 1 < last else "z"
        forward += [
            f"product<{n}, {m}>(a{i}, padded + {padded[i]}, a{i + 1}, [=](float sum, int column, float) {{",
            f"    const float z = sum + b{i}[column];",
            f"    return {unit};",
            "});",
            "__syncthreads();",
        ]
        step = [f"add(g{i}, a{i}, a{i + 1});", "__syncthreads();"]
        if i:
            masked = "[=](float sum, int, float unit) { return unit > 0 ? sum : 0.0f; }"
            step += [f"product<{m}, {n}>(a{i + 1}, {transposed(i, n, m)}, a{i}, {masked});", "__syncthreads();"]
        backward[:0] = step
    body = [
        f"__shared__ Four memory[{sum(sizes) // 4}];",
        "float* const a0 = (float*)memory;",
        *(f"float* const a{i + 1} = a{i} + {sizes[i]};" for i in range(last)),
        *(f"Gradient<{n}, {m}> g{i};" for i, (n, m) in layers),
        "const float factor = *seed / samples;",
        "float loss = 0;",
        "for (int first = blockIdx.x * ROWS; first < rows; first += gridDim.x * ROWS) {",
        f"    load<{widths[0]}>(x, first, rows, a0);",
        "    __syncthreads();",
        *(f"    {line}" for line in forward),
        f"    loss += cross_entropy<{widths[-1]}>(a{last}, t, factor, first, rows, fault);",
        "    __syncthreads();",
        *(f"    {line}" for line in backward),
        "}",
        f"float* const to = partial + (size_t)blockIdx.x * {count};",
        *(f"write(g{i}, to + {gradients[i]});" for i, _ in layers),
        "loss = row_total(loss, (float*)memory);",
        f"if (threadIdx.x == 0) to[{count - 1}] = loss;",
    ]
    stores = []
    for i, (n, m) in layers:
        begin, middle, end = gradients[i], gradients[i] + n * m, gradients[i + 1]
        stores += [f"else if (column < {middle}) dw{i}[column - {begin}] = total;"]
        stores += [f"else if (column < {end}) db{i}[column - {middle}] = total;"]
    results = ["float* loss"] + [f"float* {name}{i}" for i, _ in layers for name in ("dw", "db")]
    sums = ["const float* __restrict__ partial", "int parts", "float samples"]
    kernel = 'extern "C" __global__'
    inputs = ["const float* __restrict__ x", "const Label* __restrict__ t", "const float* __restrict__ seed", *biases]
    workspace = ["const float* __restrict__ padded", "int* fault", "float samples", "int rows", "float* partial"]
    kernels = [
        f"{kernel} void pad_weights({', '.join([*weights, 'float* padded'])})",
        *[
            "{",
            *(
                f"    pad<{n}, {m}>(w{i}, padded + {padded[i]}, {transposed(i, n, m) if i else 'nullptr'});"
                for i, (n, m) in layers
            ),
            "}",
        ],
        f"{kernel} __launch_bounds__({tile.threads}, {512 // tile.threads}) void network({', '.join([*inputs, *workspace])})",
        *["{", *(f"    {line}" for line in body), "}"],
        f"{kernel} void network_sums({', '.join([*sums, *results])})",
        *["{", "    const int column = blockIdx.x * 32 + threadIdx.x;"],
        f"    const float total = total_of(partial, parts, {count}, column);",
        f"    if (threadIdx.y || column >= {count}) return;",
        f"    if (column == {count - 1}) *loss = total / samples;",
        *(f"    {line}" for line in stores),
        "}",
    ]
    constants = f"constexpr int THREADS = {tile.threads}, ROWS = {tile.rows};\n"
    return generate.program(constants, generate.source("network"), "\n".join(kernels) + "\n", Label=label)


def bound(
    x: Array, t: Array, seed: Array, layers: Sequence[tuple[Array, Array]], results: Sequence[Array]
) -> Callable[[], None]:
    """A function that computes the mean cross-entropy of a perceptron and its gradients, without allocating memory.

    x (samples, n) float32;  t (samples) class indices of any integer dtype;  seed () the gradient of the loss
    layers    weights (n, k) and biases (k) of each layer, float32
    results   loss () and for each layer the gradients of its weights and its biases

    All are C-contiguous, on the current device. Labels are treated as by SoftmaxCrossEntropy.
    """
    device = x.device.id
    widths = (x.shape[1], *(b.size for _, b in layers))
    tile, text = tile_of(widths), source(widths, str(t.dtype))
    assert tile is not None
    run = function(device, text, "network")
    gradients, padded = offsets(widths)
    count = gradients[-1] + 1
    grid = min(blocks(max(len(x), 1), tile.rows), run.resident(tile.threads))
    padded_weights = new_scratch(device, "padded", padded[-1], "float32")
    partial = new_scratch(device, "partial", grid * count, "float32")
    samples = np.float32(len(x))
    arguments = (x, t, seed, *(b for _, b in layers), padded_weights, fault(device), samples, np.int32(len(x)), partial)
    launches = [
        functools.partial(
            function(device, text, "pad_weights"), (blocks(padded[-1], 256),), (256,), (*(w for w, _ in layers), padded_weights)
        ),
        functools.partial(run, (grid,), (tile.threads,), arguments),
        functools.partial(
            function(device, text, "network_sums"), (blocks(count, 32),), (32, 16), (partial, np.int32(grid), samples, *results)
        ),
    ]

    def launch() -> None:
        for run_kernel in launches:
            run_kernel()

    return launch
