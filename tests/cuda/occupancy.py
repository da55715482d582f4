"""How many blocks a multiprocessor runs at a time, and CuPy's way of asking for it, without a GPU.

The rules are those of NVIDIA's occupancy calculator for compute capability 9.0: registers are given out to warps in units of
256, and 65,536 of them, 64 warps, 32 blocks and 227 KiB of shared memory (in units of 128 bytes, 1 KiB of them for the system)
are what there is.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

MULTIPROCESSORS = 132


def resident_blocks(threads: int, registers: int, shared: int = 0) -> int:
    """How many blocks of so many threads, of so many registers each, and of shared memory in bytes, run at a time."""
    warps = -(-threads // 32)
    for_warp = -(-32 * registers // 256) * 256
    most = [64 // warps, 65_536 // for_warp // warps, 32, 228 * 1024 // (-(-shared // 128) * 128 + 1024)]
    return min(most)


class Driver:
    """`cupy.cuda.driver`. registers: what each thread of every kernel takes; a test may set it."""

    registers = 32
    known: ClassVar[dict[int, Any]] = {}  # pointer to kernel

    @classmethod
    def kernel(cls, launch: Any) -> Any:
        """A kernel as CuPy's RawKernel: called with grid, block and arguments; `kernel.ptr` is what the driver knows it by."""
        launch.kernel = SimpleNamespace(ptr=id(launch))
        cls.known[id(launch)] = launch
        return launch

    @classmethod
    def occupancyMaxActiveBlocksPerMultiprocessor(cls, func: int, block_size: int, shared_memory: int) -> int:
        if type(func) is not int or type(block_size) is not int or type(shared_memory) is not int:
            raise TypeError("an integer is required")
        if func not in cls.known:
            raise RuntimeError("CUDA_ERROR_INVALID_HANDLE: invalid resource handle")
        if not 1 <= block_size <= 1024:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        return resident_blocks(block_size, cls.registers, shared_memory)
