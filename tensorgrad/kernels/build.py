"""Kernels from source code: NumPy's at once, Numba's from a cache on disk."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.kernels import generate, reference, threads, thresholds
from tensorgrad.kernels.chain import Chain

Kernel = Callable[..., None]

NAMESPACE: dict[str, Any] = {  # what generated NumPy code may call
    **{name: function for name, function in vars(np).items() if isinstance(function, np.ufunc)},
    "copyto": np.copyto,
    "dot": reference.dot,
    "asarray": np.asarray,
    "ascontiguousarray": np.ascontiguousarray,
    "empty": np.empty,
    "errstate": np.errstate,
    "where": reference.where,
    "relu_grad": reference.relu_grad,
    "mul_grad": reference.mul_grad,
    "div_grad": reference.div_grad,
    "column_sum": reference.column_sum,
}


@functools.cache
def has_numba() -> bool:
    """Whether Numba is installed; it is imported when the first kernel is built."""
    return importlib.util.find_spec("numba") is not None and not os.environ.get("TENSORGRAD_NO_NUMBA")


@functools.cache
def numpy_kernel(chain: Chain, shared: tuple[tuple[int, int], ...]) -> Kernel:
    """The chain by NumPy, as a function of operands, results and how many rows to do at a time."""
    space = NAMESPACE | chain.constants()
    exec(compile(generate.numpy_source(chain, dict(shared)), "<tensorgrad chain>", "exec"), space)
    return space["kernel"]  # type: ignore[no-any-return]


@functools.cache
def numba_kernel(chain: Chain, shared: tuple[tuple[int, int], ...], flat: bool) -> Kernel | None:
    """The chain as a loop compiled by Numba, as a function of operands and results; None where NumPy is the better choice."""
    if not has_numba():
        return None
    source = generate.numba_source(chain, dict(shared), flat)
    return None if source is None else imported(source).kernel


def imported(source: str) -> Any:
    """The module of this source, from a file in the cache folder: Numba keeps what it compiles beside the file."""
    import hashlib

    name = f"chain_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    path = cache_folder() / f"{name}.py"
    if not path.exists() or path.read_text() != source:
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(source)
        part.replace(path)  # another process may be doing the same
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def cache_folder() -> Path:
    """Where compiled kernels are kept: $TENSORGRAD_CACHE, or tensorgrad in the user's cache folder; it is made."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("TENSORGRAD_CACHE") or Path(base) / "tensorgrad")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class ChainKernel:
    """A chain for arrays of given layouts: the fastest kernel there is for their size.

    Called with operands and results, which lie row after row; they may be written over where they are operand and result at
    once (`shared`).
    """

    def __init__(self, chain: Chain, shared: dict[int, int]) -> None:
        self.chain, self.shared = chain, tuple(sorted(shared.items()))
        self.layouts = generate.layouts_of(chain)
        self.flat = all(layout in ("full", "number") for layout in self.layouts)
        self.splits = "sum" not in self.layouts
        self.whole = self.layouts.index("full")
        self.numpy = numpy_kernel(chain, self.shared)

    @functools.cached_property
    def numba(self) -> Kernel | None:
        return numba_kernel(self.chain, self.shared, self.flat)

    def __call__(self, *arrays: Array) -> None:
        full = arrays[self.whole]
        if self.flat and full.ndim != 1:
            arrays = tuple([a if x == "number" else a.reshape(-1) for a, x in zip(arrays, self.layouts, strict=True)])
            full = arrays[self.whole]
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
        """The chain for some rows at a time, what they sum up to being added."""
        for start in range(0, rows, thresholds.COLUMN):
            part = slice(start, start + thresholds.COLUMN)
            sums = [np.empty_like(a) for a, x in zip(arrays, self.layouts, strict=True) if x == "sum"] if start else []
            given = iter(sums)
            run(*[
                a[part] if x in generate.SLICED else next(given, a) if x == "sum" else a
                for a, x in zip(arrays, self.layouts, strict=True)
            ])  # fmt: skip
            totals = [a for a, x in zip(arrays, self.layouts, strict=True) if x == "sum"]
            for total, more in zip(totals, sums, strict=False):
                np.add(total, more, out=total)


@functools.cache
def cross_entropy_kernel(dtype: Any, labels: Any, classes: int) -> Kernel:
    """softmax_cross_entropy for logits and labels of these dtypes, compiled where Numba is there and faster."""
    if not has_numba() or dtype.char not in "fd" or labels.kind not in "iu" or classes > thresholds.CLASSES:
        return reference.softmax_cross_entropy
    from tensorgrad.kernels import fast

    def kernel(z: Array, t: Array, g: Array, samples: int, loss: Array, dz: Array) -> None:
        if fast.softmax_cross_entropy(z, t, g, samples, loss, dz) >= 0:
            reference.check_range(t, z.shape[-1])

    one = np.zeros((1, 1), dtype)
    kernel(one, np.zeros(1, labels), np.ones((), dtype), 1, np.zeros((), dtype), one.copy())
    return kernel
