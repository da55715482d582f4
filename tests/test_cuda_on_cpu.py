"""CUDA on the CPU: the kernels under AddressSanitizer, and whether mistakes in a kernel would be noticed there."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tensorgrad.kernels.cuda import generate
from tests.cuda.chains import layered
from tests.cuda.on_cpu import Module, asan_library


def run_sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The kernels in a process with AddressSanitizer. Python's own memory is never given back at the end: that is no leak."""
    environment = {**os.environ, "LD_PRELOAD": asan_library(), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-m", "tests.cuda.sanitized", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1])


@pytest.mark.thorough
def test_no_source_leaves_its_memory() -> None:
    done = run_sanitized()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nothing found\n"


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("read", "AddressSanitizer: heap-buffer-overflow"),
        ("shared", "AddressSanitizer: global-buffer-overflow"),
        ("apart", "threads of a block wait for each other in different places"),
    ],
)
def test_mistakes_in_kernels_are_found(mistake: str, message: str) -> None:
    done = run_sanitized(mistake)
    assert done.returncode != 0
    assert message in done.stderr
    assert "nothing found" not in done.stdout


@pytest.mark.parametrize("line", ["        __syncthreads();\n        if (threadIdx.y", "    __syncthreads();  // space may be"])
def test_a_missing_barrier_gives_a_wrong_sum(line: str) -> None:
    """Without one of the barriers of column_total threads read what others have not written yet, or no longer."""
    source = generate.chain_source(layered(), {})
    assert source is not None
    program = generate.program(source)
    wrong = program.replace(line, line.replace("__syncthreads();", ""))
    assert wrong != program
    rng = np.random.default_rng(0)
    full, row, column, number = (rng.normal(size=s).astype(np.float32) for s in ((64, 20), 20, (64, 1), ()))
    whole = rng.integers(-9, 9, (64, 20))
    right = []
    for text, backwards in product((program, wrong), (False, True)):
        sums = [np.zeros(20, np.float32), np.zeros(20, np.float32), np.zeros(20, np.int64)]
        partial = [np.zeros(20, s.dtype) for s in sums]
        sizes = np.uint32(64), np.uint32(20)
        arguments = [
            full,
            row,
            column,
            np.asarray(number),
            whole,
            np.zeros_like(full),
            *sums,
            *sizes,
            *partial,
            np.zeros(1, "u4"),
        ]
        module = Module(text)
        module.backwards(backwards)
        module.function("chain")((1, 1), (20, 16), arguments)
        module.backwards(False)
        wanted = np.where(full > 0, full * row + column, 0) * number
        totals = wanted.sum(0), full.sum(0), -whole.sum(0)
        right.append(all(np.allclose(have, want, rtol=1e-4, atol=1e-4) for have, want in zip(sums, totals, strict=True)))
    assert right[:2] == [True, True]
    assert not all(right[2:])


def test_arguments_on_the_cpu() -> None:
    """Wrong dtypes and grids are refused, as they would be wrong on a GPU without a word."""
    source = 'typedef unsigned int Index;\nextern "C" __global__ void f(const float* x, bool* y, Index n, double d)\n{\n}\n'
    f = Module(source).function("f")
    x, y = np.zeros(3, np.float32), np.zeros(3, bool)
    f((1,), (32,), [x, y, np.uint32(3), np.float64(1)])
    for wrong in ([x, y, np.int32(3), np.float64(1)], [x.astype(float), y, np.uint32(3), np.float64(1)], [x, y, np.uint32(3)]):
        with pytest.raises(TypeError, match="f: expected arguments pf4 pb1 u4 f8, got p"):
            f((1,), (32,), wrong)
    for grid, block in (((0,), (32,)), ((1,), (2048,)), ((1, 70_000), (32,))):
        with pytest.raises(ValueError, match=r"f: no grid .* can be launched"):
            f(grid, block, [x, y, np.uint32(3), np.float64(1)])


def test_threads_meet_in_shuffles_and_barriers() -> None:
    """Warps that shuffle differently often before a barrier; threads that have ended; lanes that take no part."""
    source = """
extern "C" __global__ void meet(const int* x, int* sums, int* ended)
{
    __shared__ int space[96];
    int value = x[threadIdx.x];
    for (int apart = 16; apart > 0 && threadIdx.x / 32 != 1; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
    space[threadIdx.x] = value;
    __syncthreads();
    sums[threadIdx.x] = space[95 - threadIdx.x];
    if (threadIdx.x % 32 >= 16) return;
    ended[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, value, 16);
}
"""
    x, sums, ended = np.arange(96, dtype=np.int32), np.zeros(96, np.int32), np.zeros(96, np.int32)
    Module(source).function("meet")((1,), (96,), [x, sums, ended])
    warps = x.reshape(3, 32)
    expected = np.concatenate([np.full(32, warps[0].sum()), warps[1], np.full(32, warps[2].sum())])
    np.testing.assert_array_equal(sums, expected[::-1])
    np.testing.assert_array_equal(ended.reshape(3, 32)[:, :16], -1)  # those lanes had nothing to give
