"""CUDA kernels, launched on CuPy's current stream.

A kernel is called with arrays, or bound to arrays once and then called without arguments::

    kernel = chain_kernel(chain)
    kernel(x, y)                    # scratch memory is cached for the next call of that size on that stream
    step = kernel.bind(x, y)        # with its own scratch memory, as long as `step` exists
    step()                          # allocates nothing, so it can be captured in a graph

Arrays are C-contiguous, on the current device. A bound kernel must not run on two streams at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core import backend
from tensorgrad.core.backend import Array
from tensorgrad.core.forks import loading
from tensorgrad.core.lazy import cached_property
from tensorgrad.errors import DTypeError, LabelError
from tensorgrad.kernels.chain import Chain, Operand
from tensorgrad.kernels.cuda import generate
from tensorgrad.kernels.generate import layouts_of

WIDE = 2**31  # elements from which indices have 64 bits

Scratch = Callable[[int, str, int, str], Array]  # zeros: device, purpose, number of elements, dtype


class Function:
    """A kernel of a program, compiled for a device. run: the kernel of CuPy."""

    def __init__(self, run: Any, device: int) -> None:
        self.run, self.device = run, device
        self.counts: dict[int, int] = {}

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        self.run(grid, block, args)

    def resident(self, threads: int) -> int:
        """The number of blocks of `threads` threads that the device runs at a time: the occupancy of a multiprocessor times the
        number of multiprocessors. A larger grid would need a second wave, in which most multiprocessors are idle.
        """
        if threads not in self.counts:
            cuda = backend.cupy().cuda
            per_multiprocessor = cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(self.run.kernel.ptr, threads, 0)
            self.counts[threads] = per_multiprocessor * cuda.Device(self.device).attributes["MultiProcessorCount"]
        return self.counts[threads]


class Launch(NamedTuple):
    """The arguments of a launch in CuPy: kernel, blocks, threads per block, arguments."""

    function: Function
    grid: tuple[int, ...]
    block: tuple[int, ...]
    args: tuple[Any, ...]


class Kernel:
    """Base of kernels, which can be called with arrays or bound to them. A subclass defines `prepare`."""

    def prepare(self, scratch: Scratch, *args: Any) -> Launch | None:
        """The launch for these arguments; None if there is nothing to do."""
        raise TypeError(f"{type(self).__name__} does not define prepare()")

    def __call__(self, *args: Any) -> None:
        launch = self.prepare(cached_scratch, *args)
        if launch is not None:
            function, grid, block, arguments = launch
            function(grid, block, arguments)

    def bind(self, *args: Any) -> Callable[[], None]:
        """A function that launches the kernel with these arguments, and keeps them alive."""
        launch = self.prepare(new_scratch, *args)
        return no_launch if launch is None else functools.partial(launch.function, launch.grid, launch.block, launch.args)


def no_launch() -> None:
    """The launch for empty arrays."""


def blocks(count: int, size: int) -> int:
    """The number of blocks of this size for `count` elements."""
    return -(-count // size)


_functions: dict[tuple[Any, int, str, str], Function] = {}


def function(device: int, source: str, name: str) -> Function:
    """A kernel of a program, compiled at the first use on a device; CuPy caches the binary on disk."""
    xp = backend.cupy()
    key = (xp, device, source, name)
    cached = _functions.get(key)
    if cached is None:
        with loading:
            cached = _functions.get(key)
            if cached is None:
                run = xp.RawModule(code=source, options=("-std=c++17",)).get_function(name)
                cached = _functions[key] = Function(run, device)
    return cached


def new_scratch(device: int, purpose: str, count: int, dtype: str) -> Array:
    return backend.cupy().zeros(count, dtype)


_scratch: dict[tuple[Any, ...], Array] = {}


def cached_scratch(device: int, purpose: str, count: int, dtype: str) -> Array:
    """Cached scratch memory of the current stream, whose launches run one after the other."""
    xp = backend.cupy()
    key = (xp, device, xp.cuda.get_current_stream().ptr, purpose, count, dtype)
    cached = _scratch.get(key)
    if cached is None:
        cached = _scratch[key] = xp.zeros(count, dtype)
    return cached


class CudaChain(Kernel):
    """A chain in one pass over memory, called with operands and results like kernels.build.ChainKernel.

    shared   result to the operand that it overwrites

    Operands with the layout "number" are arrays too, read when the kernel runs. Raises DTypeError if CUDA C lacks a function.
    """

    def __init__(self, chain: Chain, shared: dict[int, int]) -> None:
        source = generate.chain_source(chain, shared)
        if source is None:
            functions = ", ".join(sorted({step.function for step in chain.steps}))
            dtypes = ", ".join(sorted({chain.dtype(r) for r in range(len(chain.operands) + len(chain.steps))}))
            raise DTypeError(f"CudaChain: there is no CUDA C for all of {functions} of {dtypes}")
        self.chain, self.shared, self.source = chain, shared, generate.program(source)
        self.full_index = layouts_of(chain).index("full")
        self.sums = [chain.dtype(register) for register, layout in chain.results if layout == "sum"]

    @cached_property
    def wide_source(self) -> str:
        """The program with 64-bit indices."""
        return generate.program(generate.chain_source(self.chain, self.shared, wide=True) or "")

    def prepare(self, scratch: Scratch, *arrays: Array) -> Launch | None:
        full = arrays[self.full_index]
        size = full.size
        columns = full.shape[-1] if full.ndim else 1
        if columns == 0 or (size == 0 and not self.sums):
            return None
        rows, wide = size // columns, size >= WIDE
        device = full.device.id
        run = function(device, self.wide_source if wide else self.source, "chain")
        index = np.uint64 if wide else np.uint32
        sizes = (index(rows), index(columns))
        if not self.sums:
            threads = generate.THREADS
            return Launch(run, (min(blocks(size, threads), run.resident(threads)),), (threads,), (*arrays, *sizes))
        grid, block = sum_grid(rows, columns, run.resident)
        memory = [scratch(device, f"partial {k}", grid[1] * columns, dtype) for k, dtype in enumerate(self.sums)]
        return Launch(run, grid, block, (*arrays, *sizes, *memory, scratch(device, "arrived", grid[0], "uint32")))


def sum_grid(rows: int, columns: int, resident: Callable[[int], int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block for sums over rows.

    A block has up to 32 columns, and as many rows of threads as fit. There are enough blocks for every thread to load all of
    its rows at once (BATCH rows; more, if the device runs no more blocks at a time): (60000, 10) has 295 blocks of 510
    threads, (1439, 500) has 16 x 23 blocks of 512, and (64, 200) has 7 blocks of 493.

    resident   Function.resident
    """
    grid_width = blocks(columns, 32)
    width = blocks(columns, grid_width)
    height = generate.SUM_THREADS // width
    grid_height = min(blocks(rows, height * generate.BATCH), max(resident(width * height) // grid_width, 1))
    return (grid_width, max(grid_height, 1)), (width, height)


@functools.cache
def chain_kernel(chain: Chain, shared: tuple[tuple[int, int], ...] = ()) -> CudaChain | None:
    """The kernel of a chain; None if CUDA C lacks one of its functions or dtypes, so that CuPy has to compute it.

    shared   (result, operand) for results that overwrite operands
    """
    try:
        return CudaChain(chain, dict(shared))
    except DTypeError:
        return None


@functools.cache
def sum_kernel(dtype: str) -> CudaChain:
    """The kernel of a sum over rows: x (..., n) and out (n), of the same dtype, not bool."""
    return CudaChain(Chain((Operand("full", dtype),), (), ((0, "sum"),)), {})


def column_sum(x: Array, out: Array) -> None:
    """out = the sum of x over all axes but the last; x (..., n), out (n), of the same dtype, not bool."""
    sum_kernel(str(x.dtype))(x, out)


def row_grid(rows: int, classes: int, resident: Callable[[int], int]) -> tuple[tuple[int], tuple[int, int]]:
    """Grid and block for rows of scores.

    The number of threads of a row is a power of two, up to a warp; few rows are one large block. Long rows that are too few to
    occupy the device with a warp each get more threads, up to a block, as long as each thread loads BATCH classes at once: 16
    rows of 100,000 classes have 16 blocks of 1024 threads.

    resident   Function.resident
    """
    width = min(1 << (classes - 1).bit_length(), 32)
    height = 1024 // width if rows <= 1024 // width else 256 // width
    max_threads = 256 * resident(256) // max(rows, 1)
    while width < 1024 and 2 * width <= min(classes // generate.BATCH, max_threads):
        width *= 2
        height = max(256 // width, 1)
    return (max(min(blocks(rows, height), resident(width * height)), 1),), (width, height)


@functools.cache
def source_for(name: str, **types: Any) -> str:
    """The program of a file in sources/, for these dtypes."""
    return generate.program(generate.source(name), **{kind: str(dtype) for kind, dtype in types.items()})


class SoftmaxCrossEntropy(Kernel):
    """The cross-entropy of softmax(z) and its gradient, as kernels.reference.softmax_cross_entropy.

    z (m,k) float32 or float64 logits;  t (m) class indices of any integer dtype;  g () the gradient of the loss;  samples a
    number;  loss () and dz (m,k) are written; dz may be z

    A GPU cannot raise an error for a label out of range: its row of dz and the loss become NaN, and `check_labels` raises the
    error later. No memory is accessed out of bounds.
    """

    def prepare(self, scratch: Scratch, *args: Any) -> Launch:
        z, t, g, samples, loss, dz = args
        (rows, classes), device = z.shape, z.device.id
        run = function(device, source_for("softmax_cross_entropy", Real=z.dtype, Label=t.dtype), "softmax_cross_entropy")
        grid, block = row_grid(rows, max(classes, 1), run.resident)
        numbers = (z.dtype.type(samples), np.int32(rows), np.int32(classes))
        memory = (scratch(device, "losses", grid[0], z.dtype.char), scratch(device, "arrived", 1, "uint32"))
        return Launch(run, grid, block, (z, t, g, loss, dz, fault(device), *numbers, *memory))


class LogSoftmax(Kernel):
    """log softmax of every row, z - log sum e^z: z and y (m,k) of float32 or float64; y may be z."""

    def prepare(self, scratch: Scratch, *args: Any) -> Launch | None:
        z, y = args
        if not z.size:
            return None
        run = function(z.device.id, source_for("log_softmax", Real=z.dtype), "log_softmax")
        rows, classes = z.shape
        return Launch(run, *row_grid(rows, classes, run.resident), (z, y, np.int32(rows), np.int32(classes)))


class KeepMask(Kernel):
    """keep = [u >= p], with new u, uniform in [0, 1), at each launch; keep boolean, p a number.

    state   a result of `random_state`; the launch advances it, so that the next one, or a replay of a captured one, draws
            other numbers. Two streams must not use it at once.

    The numbers are those of Philox4x32-10, a function of the seed and of the count of earlier numbers: the same on any GPU.
    """

    def prepare(self, scratch: Scratch, *args: Any) -> Launch | None:
        state, p, keep = args
        if not keep.size:
            return None
        run = function(keep.device.id, source_for("keep_mask"), "keep_mask")
        grid = (min(blocks(keep.size, 4 * 256), run.resident(256)),)
        return Launch(run, grid, (256,), (keep, state, np.float32(p), np.uint64(keep.size)))


softmax_cross_entropy, log_softmax, keep_mask = SoftmaxCrossEntropy(), LogSoftmax(), KeepMask()


def random_state(seed: int) -> Array:
    """The state of a generator for `KeepMask` on the current device: seed, groups of four numbers drawn so far, 0."""
    return backend.cupy().asarray(np.array([seed % 2**64, 0, 0], np.uint64))


_faults: dict[tuple[Any, int], Array] = {}


def fault(device: int) -> Array:
    """The number (int32) on a device where kernels report a label out of range: 1 + its row; 0 for none."""
    key = (backend.cupy(), device)
    if key not in _faults:
        _faults[key] = backend.cupy().zeros((), "int32")
    return _faults[key]


def check_labels(device: int) -> None:
    """Raise LabelError if softmax_cross_entropy has found a label out of range on this device since the last check.

    Waits for all launched kernels, so it is not meant for every step: a loss that is NaN tells when to call it.
    """
    cell = fault(device)
    row = int(cell) - 1
    if row >= 0:
        with backend.on(cell):
            cell.fill(0)
        raise LabelError(f"softmax_cross_entropy: the label of row {row} is out of range, expected 0 to classes - 1")
