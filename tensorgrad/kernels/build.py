"""Building kernels from source code: for NumPy, and for Numba if it is installed and can compile them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.forks import loading
from tensorgrad.core.lazy import cached_property
from tensorgrad.kernels import cache, erf, generate, reference, threads, thresholds
from tensorgrad.kernels.chain import Chain
from tensorgrad.kernels.loops import Loop

Kernel = Callable[..., Any]

NAMESPACE: dict[str, Any] = {  # functions available to generated NumPy code
    **{name: function for name, function in vars(np).items() if isinstance(function, np.ufunc)},
    "copyto": np.copyto,
    "clear": reference.clear,
    "dot": reference.dot,
    "asarray": np.asarray,
    "ascontiguousarray": np.ascontiguousarray,
    "empty": np.empty,
    "errstate": np.errstate,
    "where": reference.where,
    "relu_grad": reference.relu_grad,
    "mul_grad": reference.mul_grad,
    "div_grad": reference.div_grad,
    "erf": erf.erf,
    "column_sum": reference.column_sum,
}


@functools.cache
def has_numba() -> bool:
    """Whether Numba is installed and enabled; it is imported only when there is something to compile."""
    is_off = os.environ.get("TENSORGRAD_NO_NUMBA") or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    return not is_off and importlib.util.find_spec("numba") is not None


def built(make: Callable[[], Any], *arrays: Any) -> Any:
    """The kernel returned by `make`, compiled by a call with such arrays; None, with a warning, if that fails.

    A failure is not an error of the operation: it falls back to NumPy.
    """
    try:
        with loading:
            kernel = make()
            if arrays:
                kernel(*arrays)
    except Warning:  # warnings that were turned into errors
        raise
    except Exception as error:
        cache.warn_once(
            "numba",
            f"Numba failed ({type(error).__name__}: {error}), and NumPy is used instead, which is slower. "
            "`import numba` in a process of its own says whether it is installed well; TENSORGRAD_NO_NUMBA=1 leaves it out",
        )
        return None
    return kernel


@functools.cache
def numpy_kernel(chain: Chain, shared: tuple[tuple[int, int], ...]) -> Kernel:
    """The chain in NumPy, as a function of operands, results and the number of rows per slice."""
    space = NAMESPACE | chain.constants()
    exec(compile(generate.numpy_source(chain, dict(shared)), "<tensorgrad chain>", "exec"), space)
    return space["kernel"]  # type: ignore[no-any-return]


@functools.cache
def numba_kernel(chain: Chain, shared: tuple[tuple[int, int], ...], flat: bool) -> Kernel | None:
    """The chain as a loop compiled by Numba, as a function of operands and results; None to fall back to NumPy."""
    source = generate.numba_source(chain, dict(shared), flat)
    if source is None or not has_numba():
        return None

    # Numba names the machine code after it, so it must be unique
    name = f"chain_{hashlib.sha256(source.encode()).hexdigest()[:16]}"

    def python() -> Any:
        space: dict[str, Any] = {"__name__": __name__}
        exec(compile(source, "<tensorgrad chain>", "exec"), space)
        kernel = space["kernel"]
        kernel.__name__ = kernel.__qualname__ = name
        return kernel

    shapes = {"full": (0,) if flat else (0, 1), "row": (1,), "column": (0, 1), "number": (), "sum": (1,)}
    dtypes = [o.dtype for o in chain.operands] + [chain.dtype(register) for register, _ in chain.results]
    layouts = generate.layouts_of(chain)
    loop = Loop(name, lambda: source + functions_of(source), python)
    return built(lambda: loop, *[np.empty(shapes[x], d) for x, d in zip(layouts, dtypes, strict=True)])  # type: ignore[no-any-return]


def functions_of(source: str) -> str:
    """The source of the functions that a generated loop calls, which its machine code depends on."""
    return source_of_fast() if "from tensorgrad.kernels.fast import" in source else ""


@functools.cache
def source_of_fast() -> str:
    """The source of fast.py and of its constants."""
    folder = Path(__file__).parent
    return (folder / "fast.py").read_text() + (folder / "erf.py").read_text()


class ChainKernel:
    """A chain for arrays with given layouts; it runs the fastest kernel for their size.

    Called with operands and results, all C-contiguous; only those that are `shared` by an operand and a result may overlap.
    """

    def __init__(self, chain: Chain, shared: dict[int, int]) -> None:
        self.chain, self.shared = chain, tuple(sorted(shared.items()))
        self.layouts = generate.layouts_of(chain)
        self.flat = all(layout in ("full", "number") for layout in self.layouts)
        self.splits = "sum" not in self.layouts
        self.full_index = self.layouts.index("full")
        self.numpy = numpy_kernel(chain, self.shared)

    @cached_property
    def numba(self) -> Kernel | None:
        return numba_kernel(self.chain, self.shared, self.flat)

    def __call__(self, *arrays: Array) -> None:
        full = arrays[self.full_index]
        if self.flat and full.ndim != 1:
            arrays = tuple([a if x == "number" else a.reshape(-1) for a, x in zip(arrays, self.layouts, strict=True)])
            full = arrays[self.full_index]
        run = self.numba if self.flat or full.ndim == 2 else None
        if run is None:
            rows = max(thresholds.SLICE // max(full.size // max(len(full), 1), 1), 1)
            run = functools.partial(self.numpy, rows=rows)
        if not self.splits and self.numba is not None and len(full) > thresholds.COLUMN:
            self.in_parts(run, arrays, len(full))
            return
        if full.size < thresholds.CHAIN_THREADS or not self.splits or threads.get_num_threads() == 1:
            run(*arrays)
            return

        def part(start: int, stop: int) -> None:
            run(*[a[start:stop] if x in generate.SLICED else a for a, x in zip(arrays, self.layouts, strict=True)])

        threads.in_threads(part, len(full), threads.get_num_threads())

    def in_parts(self, run: Kernel, arrays: Sequence[Array], rows: int) -> None:
        """Run the chain on slices of rows, accumulating column sums."""
        for start in range(0, rows, thresholds.COLUMN):
            part = slice(start, start + thresholds.COLUMN)
            partial_sums = [np.empty_like(a) for a, x in zip(arrays, self.layouts, strict=True) if x == "sum"] if start else []
            remaining = iter(partial_sums)
            run(*[
                a[part] if x in generate.SLICED else next(remaining, a) if x == "sum" else a
                for a, x in zip(arrays, self.layouts, strict=True)
            ])  # fmt: skip
            totals = [a for a, x in zip(arrays, self.layouts, strict=True) if x == "sum"]
            for total, partial in zip(totals, partial_sums, strict=False):
                np.add(total, partial, out=total)


def fast_kernel(name: str, *arrays: Any) -> Kernel | None:
    """The loop of fast.py with this name, for arguments like these; None to fall back to NumPy."""
    if not has_numba():
        return None
    loop = Loop(name, source_of_fast, lambda: getattr(importlib.import_module("tensorgrad.kernels.fast"), name))
    return built(lambda: loop, *arrays)  # type: ignore[no-any-return]


class CheckedKernel:
    """A kernel that returns -1, or the position of an invalid input, for which `check` then raises an error."""

    def __init__(self, fast: Kernel, check: Callable[..., Any]) -> None:
        self.fast, self.check = fast, check

    def __call__(self, *arguments: Any) -> None:
        if self.fast(*arguments) >= 0:
            self.check(*arguments)


@functools.cache
def cross_entropy_kernel(dtype: Any, labels: Any, classes: int) -> Kernel:
    """softmax_cross_entropy for logits and labels of these dtypes, compiled if Numba is available and faster."""
    if dtype.char not in "fd" or labels.kind not in "iu" or classes > thresholds.CLASSES:
        return reference.softmax_cross_entropy
    z, t, g = np.zeros((1, 1), dtype), np.zeros(1, labels), np.zeros((), dtype)
    fast = fast_kernel("softmax_cross_entropy", z, t, g, 1, g.copy(), z[0].copy())
    if fast is None:
        return reference.softmax_cross_entropy
    return CheckedKernel(fast, lambda z, t, *_: reference.check_range(t, z.shape[-1]))


@functools.cache
def middle_sum_kernel(dtype: Any) -> Kernel | None:
    """middle_sum for this dtype; None to fall back to NumPy."""
    x = np.zeros((1, 1, 1), dtype)
    return fast_kernel("middle_sum", x, x[0].copy())


@functools.cache
def add_middle_kernel(dtype: Any) -> Kernel | None:
    """add_middle for numbers of this dtype; None where NumPy has to do it."""
    x = np.zeros((1, 1, 1), dtype)
    return fast_kernel("add_middle", x, x.copy(), x.copy())


@functools.cache
def log_softmax_kernel(dtype: Any) -> Kernel | None:
    """log_softmax for this dtype; None to fall back to NumPy."""
    z = np.zeros((1, 1), dtype)
    return fast_kernel("log_softmax", z, z.copy())


@functools.cache
def cross_entropy_grad_kernel(dtype: Any, labels: Any) -> Kernel | None:
    """cross_entropy_grad for scores and labels of these dtypes; None to fall back to NumPy."""
    z = np.zeros(1, dtype)
    return fast_kernel("cross_entropy_grad", z, np.zeros(1, labels), np.ones((), dtype), z.copy())


@functools.cache
def add_rows_kernel(dtype: Any) -> Kernel | None:
    """add_rows for this dtype; None to fall back to NumPy."""
    y = np.zeros((1, 1), dtype)
    return fast_kernel("add_rows", y, np.zeros(1, np.intp), y.copy())


@functools.cache
def take_rows_kernel(dtype: Any, indices: Any) -> Kernel | None:
    """take_rows for values and indices of these dtypes; None to fall back to NumPy."""
    if dtype.char not in "fd" or indices != np.intp:
        return None
    y = np.zeros((1, 1), dtype)
    fast = fast_kernel("take_rows", y, np.zeros(1, np.intp), y.copy())
    return None if fast is None else CheckedKernel(fast, lambda w, t, _: reference.check_rows(t, len(w)))


@functools.cache
def sum_rows_kernel(dtype: Any, indices: Any) -> Kernel | None:
    """sum_rows for values and indices of these dtypes; None to fall back to NumPy."""
    if dtype.char not in "fd" or indices != np.intp:
        return None
    y = np.zeros((1, 1), dtype)
    fast = fast_kernel("sum_rows", y, np.zeros(1, np.intp), y.copy())
    return None if fast is None else CheckedKernel(fast, lambda x, t, y: np.add.at(y, t, x))


@functools.cache
def row_sum_kernel(dtype: Any) -> Kernel | None:
    """row_sum for this dtype; None to fall back to NumPy."""
    x = np.zeros((1, 1), dtype)
    return fast_kernel("row_sum", x, x[0].copy()) if dtype.char in "fd" else None
