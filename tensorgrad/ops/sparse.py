"""Products of a constant SciPy sparse matrix and a Tensor, for `@`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, Xp, is_number
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import describe, scoped, state
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError, DeviceError, DTypeError, MissingDependencyError, ShapeError
from tensorgrad.ops.shape import reshape

__all__: list[str] = []

NO_GPU = "{where}: sparse matrices are only supported on the CPU; move the Tensor with .to('cpu'), and use SciPy matrices"


class SparseMatmul(Op):
    """y = A x, or Aᵀ x if `transposed`, with a constant CSR matrix A (m,k) in main memory: row i has
    values[indptr[i]:indptr[i + 1]] in the columns given by the same slice of indices, and 0 elsewhere.

    forward    y  = A x                                           x (k,n), y (m,n)
    backward   gx = Aᵀ g
    """

    name, signature, symbol = "sparse_matmul", "(k,n),(*),(*),(*)->(m,n)", "@"
    reads = data = "values indices indptr"
    linear, public = "x", "matmul"

    def __call__(self, x: Any, values: Any, indices: Any, indptr: Any, *, shape: Shape, transposed: bool = False) -> Any:
        return self.apply(x, values, indices, indptr, shape=shape, transposed=transposed)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        m, k, n = (int(size) for size in rng.choice(sizes, 3))
        mask = rng.random((m, k)) < 0.6
        indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
        transposed = bool(rng.random() < 0.5)
        x = self.values(rng, (m if transposed else k, n))
        values = self.values(rng, (int(mask.sum()),))
        return (x, values, mask.nonzero()[1], indptr), {"shape": (m, k), "transposed": transposed}

    def forward(
        self, xp: Xp, x: Array, values: Array, indices: Array, indptr: Array, *, shape: Shape, transposed: bool
    ) -> Array:
        if xp is not np:
            raise DeviceError(NO_GPU.format(where=scoped("matmul")))
        try:
            from scipy.sparse import csr_array
        except ImportError:
            raise MissingDependencyError("matmul: sparse matrices need SciPy: pip install scipy") from None
        if indptr[0] or not (indptr[1:] >= indptr[:-1]).all():  # SciPy would read invalid memory
            raise ValueError("indptr must begin at 0 and not decrease")
        a = csr_array((values, indices, indptr), shape=shape)
        return np.asarray((a.T if transposed else a) @ x)

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        return 2 * math.prod(shapes[1]) * out[1]

    def backward(
        self, g: Value, y: Value, x: Value, values: Value, indices: Value, indptr: Value, *, shape: Shape, transposed: bool
    ) -> Rules:
        return lambda: sparse_matmul(g, values, indices, indptr, shape=shape, transposed=not transposed), None, None, None


sparse_matmul = SparseMatmul()


class Rows:
    """A constant CSR matrix (m, n), like SciPy's csr_matrix, whose three arrays may be Tensors: a compiled step can take it as
    an argument. values and indices may have unused elements after indptr[-1].
    """

    format, ndim = "csr", 2

    def __init__(self, values: Any, indices: Any, indptr: Any, columns: int) -> None:
        self.data, self.indices, self.indptr = values, indices, indptr
        self.shape: Shape = (indptr.shape[0] - 1, columns)
        self.dtype = values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def tocsr(self) -> Rows:
        """The matrix itself, which is CSR already."""
        return self


def is_sparse(x: Any) -> bool:
    """Whether it is a SciPy sparse matrix, or Rows."""
    return not isinstance(x, (Tensor, np.ndarray)) and hasattr(x, "tocsr")


def parts_of(rows: Any) -> list[Array]:
    """The three arrays of a CSR matrix."""
    return [rows.data, rows.indices, rows.indptr]


def check_unchanged(rows: Any, parts: list[Array]) -> dict[str, float]:
    """Called by replays for no numbers: raises CompileError if a matrix has other arrays than the plan reads. Writes into the
    same arrays are seen.
    """
    if any(a is not b for a, b in zip(parts_of(rows), parts, strict=True)):
        raise CompileError(
            f"compile: a sparse matrix {rows.shape} has different arrays than when the step was traced (an element was "
            f"inserted, or .data was set); write to .data[...], or compile the step again"
        )
    return {}


def sparse_product(a: Any, b: Any, caller: str = "matmul") -> Any:
    """a @ b, where one is a constant sparse matrix and the other a Tensor or an array, (k) or (k,n).

    `caller` is the name in errors.
    """
    transposed = is_sparse(b)  # x A = (Aᵀ xᵀ)ᵀ
    sparse, x = (b, a) if transposed else (a, b)
    where = scoped(caller)
    if is_sparse(x):
        raise DTypeError(f"{where}: two sparse matrices, expected one and a Tensor; use SciPy for these")
    x = x if isinstance(x, Tensor) else wrap(np.asarray(x), None)
    shapes = f"{x.shape} and {sparse.shape}" if transposed else f"{sparse.shape} and {x.shape}"
    k = sparse.shape[0 if transposed else -1]
    if len(sparse.shape) != 2 or not 0 < x.ndim < 3 or x.shape[-1 if transposed else 0] != k:
        raise ShapeError(
            f"{where}: shapes {shapes} are incompatible; expected (m,k),(k,n)->(m,n), where the dense one may be a vector"
        )
    if not is_number(sparse.dtype):
        raise DTypeError(
            f"{where}: expected a sparse matrix of real numbers or booleans, got {type(sparse).__name__} of {sparse.dtype}"
        )
    if state.trace is not None and sparse.format != "csr":
        raise CompileError(
            f"compile: {where} of {describe(sparse)} would convert it once, and a replay would not see later changes; "
            f"convert it to CSR outside the step: .tocsr()"
        )
    rows = sparse.tocsr()
    parts = parts_of(rows)
    if state.trace is not None and not isinstance(rows, Rows):
        state.trace.recomputed(lambda: check_unchanged(rows, parts), parts[0])
    arrays = [part._data if isinstance(part, Tensor) else part for part in (x, *parts)]
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise DeviceError(NO_GPU.format(where=where))
    columns = x if x.ndim == 2 and not transposed else reshape(x, (-1, 1)) if x.ndim == 1 else x.T
    y = sparse_matmul(columns, *parts, shape=tuple(sparse.shape), transposed=transposed)
    return reshape(y, (-1,)) if x.ndim == 1 else y.T if transposed else y
