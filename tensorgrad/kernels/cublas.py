"""Matrix products on a GPU, by direct calls to cuBLAS.

CuPy refuses products while its stream is being captured into a graph, and reads the precision of products from the
environment, only once. So we call the cuBLAS that CuPy loads through our own handle for each device and stream, with a
preallocated workspace: a product allocates nothing.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, address, cupy
from tensorgrad.errors import ArgumentError, MissingDependencyError, TensorgradError

WORKSPACE = 32 << 20  # bytes; recommended for Hopper, more than elsewhere

NOT_TRANSPOSED, TRANSPOSED = 0, 1  # cublasOperation_t
TYPES = {"e": 2, "f": 0, "d": 1}  # cudaDataType: R_16F, R_32F, R_64F
COMPUTE_16F, COMPUTE_32F, COMPUTE_64F = 64, 68, 70  # cublasComputeType_t
PRECISIONS = {"float32": 68, "tf32": 77, "bfloat16": 75, "float16": 74}  # COMPUTE_32F, and its FAST_TF32, FAST_16BF, FAST_16F
DEFAULT_ALGORITHM = -1

_precision = "float32"


def set_matmul_precision(precision: str) -> None:
    """Set how products of float32 matrices are computed on a GPU; inputs, weights and results stay float32.

    "float32"    full precision; the default
    "tf32"       inputs rounded to 10 bits of mantissa
    "bfloat16"   inputs rounded to 7 bits of mantissa
    "float16"    inputs rounded to 10 bits of mantissa and 5 of exponent: values above 65,504 become infinite

    Sums are always in float32. Plans of compiled steps keep the precision that they were planned with.
    """
    global _precision
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ArgumentError(f"set_matmul_precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    _precision = precision


def get_matmul_precision() -> str:
    """The precision set by `set_matmul_precision`."""
    return _precision


class Gemm(NamedTuple):
    """The BLAS arguments of a product of column-major matrices: operations, sizes, leading dimensions, and for batches the
    stride between matrices."""

    transa: int
    transb: int
    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldc: int
    stridea: int = 0
    strideb: int = 0
    stridec: int = 0
    batch: int = 1


def is_supported(a: Array, b: Array, out: Array) -> bool:
    """Whether `product` supports these arrays."""
    return a.dtype.char in TYPES and a.dtype == b.dtype == out.dtype and gemm(*flattened(a, b, out)) is not None


def gemm(a: Array, b: Array, out: Array) -> Gemm | None:
    """The BLAS arguments for out = a b; None unless each matrix or its transpose is row-major.

    a (..., m, k), b (..., k, n), out (..., m, n), with at most one leading axis. A row-major matrix, read as column-major, is
    its transpose; so BLAS computes outᵀ = bᵀ aᵀ, with b as the first operand.
    """
    if (
        not (a.ndim == b.ndim == out.ndim in (2, 3))
        or a.shape[:-2] != b.shape[:-2]
        or not out.flags.c_contiguous
        or 0 in (*a.shape, *b.shape)
    ):
        return None
    (m, k), n = a.shape[-2:], b.shape[-1]
    sides = []
    for x in (b, a):
        rows, columns = (stride // x.itemsize for stride in x.strides[-2:])
        height, width = x.shape[-2:]
        if (columns == 1 or width == 1) and (rows >= width or height == 1):
            sides.append((NOT_TRANSPOSED, max(rows if height > 1 else width, width)))
        elif (rows == 1 or height == 1) and (columns >= height or width == 1):
            sides.append((TRANSPOSED, max(columns if width > 1 else height, height)))
        else:
            return None
    (transb, ldb), (transa, lda) = sides
    batch = (0, 0, 0, 1)
    if a.ndim == 3:
        steps = [x.strides[0] // x.itemsize if x.shape[0] > 1 else 0 for x in (b, a, out)]
        batch = (steps[0], steps[1], steps[2], out.shape[0])
    return Gemm(transb, transa, n, m, k, ldb, lda, n, *batch)


def flattened(a: Array, b: Array, out: Array) -> tuple[Array, Array, Array]:
    """The same product with fewer axes, if they are views: samples become rows if there is a single b, several leading axes
    one.
    """
    if a.flags.c_contiguous and b.ndim == 2 < a.ndim:
        return a.reshape(-1, a.shape[-1]), b, out.reshape(-1, out.shape[-1])
    if a.ndim == b.ndim > 3 and a.shape[:-2] == b.shape[:-2] and a.flags.c_contiguous and b.flags.c_contiguous:
        return tuple(x.reshape(-1, *x.shape[-2:]) for x in (a, b, out))
    return a, b, out


def product(a: Array, b: Array, out: Array) -> None:
    """out = a b, on the current stream; all float16, float32 or float64. Raises ValueError for other arrays."""
    bound(a, b, out)()


def bound(a: Array, b: Array, out: Array) -> Callable[[], None]:
    """`product` of these arrays on the current stream as a function without arguments, with the current precision."""
    a, b, out = flattened(a, b, out)
    gemm_arguments = gemm(a, b, out)
    if gemm_arguments is None or a.dtype.char not in TYPES or not a.dtype == b.dtype == out.dtype:
        raise ValueError(f"cuBLAS: cannot multiply {a.shape} {a.dtype} and {b.shape} {b.dtype} into {out.shape} {out.dtype}")
    handle = handle_for(cupy().cuda.Device().id, cupy().cuda.get_current_stream().ptr)
    kind = TYPES[a.dtype.char]
    compute = {"e": COMPUTE_32F, "d": COMPUTE_64F}.get(a.dtype.char, PRECISIONS[_precision])
    scalar = ctypes.c_double if a.dtype.char == "d" else ctypes.c_float
    one, zero = scalar(1), scalar(0)
    g, pointers = gemm_arguments, (address(b), address(a), address(out))
    arguments: tuple[Any, ...]
    if g.batch == 1:
        name = "cublasGemmEx"
        arguments = (
            g.transa, g.transb, g.m, g.n, g.k, ctypes.byref(one), pointers[0], kind, g.lda, pointers[1], kind, g.ldb,
            ctypes.byref(zero), pointers[2], kind, g.ldc, compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
    else:
        name = "cublasGemmStridedBatchedEx"
        arguments = (
            g.transa, g.transb, g.m, g.n, g.k, ctypes.byref(one), pointers[0], kind, g.lda, g.stridea, pointers[1], kind, g.ldb,
            g.strideb, ctypes.byref(zero), pointers[2], kind, g.ldc, g.stridec, g.batch, compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
    function = getattr(library(), name)
    keepalive = (a, b, out, one, zero)  # keeps alive the memory behind the pointers

    def run(keepalive: Any = keepalive) -> None:
        if status := function(handle, *arguments):
            raise TensorgradError(f"cuBLAS: {name} failed with status {status} for {a.shape} times {b.shape} {a.dtype}")

    return run


_handles: dict[tuple[int, int], tuple[ctypes.c_void_p, Array]] = {}  # by device and stream, each with its workspace


def handle_for(device: int, stream: int) -> ctypes.c_void_p:
    """The cuBLAS handle of a device and a stream, with its workspace."""
    if (device, stream) in _handles:
        return _handles[device, stream][0]
    handle = ctypes.c_void_p()
    workspace = cupy().empty(WORKSPACE, np.uint8)
    blas = library()
    for name, arguments in (
        ("cublasCreate_v2", (ctypes.byref(handle),)),
        ("cublasSetStream_v2", (handle, ctypes.c_void_p(stream))),  # resets the workspace, so it comes first
        ("cublasSetWorkspace_v2", (handle, ctypes.c_void_p(address(workspace)), ctypes.c_size_t(WORKSPACE))),
    ):
        if status := getattr(blas, name)(*arguments):
            raise TensorgradError(f"cuBLAS: {name} failed with status {status} on cuda:{device}")
    _handles[device, stream] = handle, workspace
    return handle


def release(device: int, stream: int) -> None:
    """Destroy the handle of a stream that will be released, if there is one. This waits for the GPU."""
    if (device, stream) in _handles:
        handle, _ = _handles.pop((device, stream))
        library().cublasDestroy_v2(handle)


@functools.cache
def library() -> Any:
    """The cuBLAS that CuPy loads, with argument types for the functions used here."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        blas = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except (ImportError, RuntimeError, OSError) as error:
        raise MissingDependencyError(
            "products on a GPU need cuBLAS: pip install 'cupy-cuda13x[ctk]', or 'cupy-cuda12x[ctk]' for a CUDA 12 driver, "
            f"or install the CUDA toolkit ({error})"
        ) from error
    i, p, long = ctypes.c_int, ctypes.c_void_p, ctypes.c_longlong
    blas.cublasGemmEx.argtypes = [p, i, i, i, i, i, p, p, i, i, p, i, i, p, p, i, i, i, i]
    blas.cublasGemmStridedBatchedEx.argtypes = [
        p, i, i, i, i, i, p, p, i, i, long, p, i, i, long, p, p, i, i, long, i, i, i,
    ]  # fmt: skip
    return blas
