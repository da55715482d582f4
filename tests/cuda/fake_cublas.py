"""What cuBLAS does with the arguments of its products, by NumPy on memory of the host: matrices lie column after column."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tests.cuda.fake_cupy import spoil

DTYPES = {0: np.float32, 1: np.float64, 2: np.float16}
COMPUTE = {68, 70, 74, 75, 77}


class CuBLAS:
    """The functions that tensorgrad calls. `calls` has what was computed with: (name, transa, transb, m, n, k, compute).

    do   runs, or writes down, what is launched on the stream
    """

    def __init__(self, do: Callable[[Callable[[], None]], None]) -> None:
        self.do, self.calls, self.handles = do, [], []

    def cublasCreate_v2(self, handle: Any) -> int:
        self.handles.append({})
        handle._obj.value = len(self.handles)
        return 0

    def cublasDestroy_v2(self, handle: Any) -> int:
        spoil("cublasDestroy waited for the device")
        self.handles[handle.value - 1] = None
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self.handles[handle.value - 1] = {"stream": stream.value}
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, pointer: Any, size: Any) -> int:
        self.handles[handle.value - 1]["workspace"] = pointer.value, size.value
        return 0

    def cublasGemmEx(self, handle: Any, *arguments: Any) -> int:
        transa, transb, m, n, k, alpha, a, ta, lda, b, tb, ldb, beta, c, tc, ldc, compute, _ = arguments
        batched = (transa, transb, m, n, k, alpha, a, ta, lda, 0, b, tb, ldb, 0, beta, c, tc, ldc, 0, 1, compute, -1)
        return self.cublasGemmStridedBatchedEx(handle, *batched)

    def cublasGemmStridedBatchedEx(self, handle: Any, *arguments: Any) -> int:
        transa, transb, m, n, k, alpha, a, ta, lda, stridea, b, tb, ldb, strideb, *rest = arguments
        beta, c, tc, ldc, stridec, count, compute, _ = rest
        if self.handles[handle.value - 1] is None:
            return 1  # CUBLAS_STATUS_NOT_INITIALIZED
        if "workspace" not in self.handles[handle.value - 1] or compute not in COMPUTE or not ta == tb == tc:
            return 7  # CUBLAS_STATUS_INVALID_VALUE
        if lda < (k if transa else m) or ldb < (n if transb else k) or ldc < m:
            return 7
        self.calls.append(("gemm", transa, transb, m, n, k, compute))

        def matrix(pointer: int, rows: int, columns: int, leading: int, kind: int) -> np.ndarray:
            dtype = np.dtype(DTYPES[kind])
            memory = (ctypes.c_char * ((leading * (columns - 1) + rows) * dtype.itemsize)).from_address(pointer)
            return as_strided(np.frombuffer(memory, dtype), (rows, columns), (dtype.itemsize, leading * dtype.itemsize))

        def run() -> None:
            for i in range(count):
                size = np.dtype(DTYPES[ta]).itemsize
                left = matrix(a + i * stridea * size, k if transa else m, m if transa else k, lda, ta)
                right = matrix(b + i * strideb * size, n if transb else k, k if transb else n, ldb, tb)
                out = matrix(c + i * stridec * size, m, n, ldc, tc)
                product = (left.T if transa else left) @ (right.T if transb else right)
                out[...] = alpha._obj.value * product + (beta._obj.value * out if beta._obj.value else 0)

        self.do(run)
        return 0
