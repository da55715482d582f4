"""The dtypes of computations: the single place that widens dtypes too narrow for intermediate results.

Before an op with a real result integers and booleans become floating: float32 up to 16 bits, float64 above. NumPy does the
same, except for 8 bits, which become float16: there e^12 is infinite.

Half precision (float16, bfloat16) is computed in float32, and results are rounded once per op: a sum of 100,000 numbers, a
square, or a factor such as 1e-8 may not fit float16 although the result does. Rules of gradients use float32 too, throughout a
backward pass, and read results before rounding; returned gradients are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import HALVES, Array, Xp, is_floating, is_half
from tensorgrad.core.op import Op

__all__ = ["computed", "evaluate", "floating", "narrowest", "needs_conversion", "widened"]


def evaluate(op: Op, xp: Xp, arrays: Sequence[Any], attrs: Mapping[str, Any]) -> Array:
    """`op.forward` in a sufficiently wide dtype, rounded."""
    out, half = computed(op, xp, arrays, attrs)
    return out if half is None else out.astype(half)


def computed(op: Op, xp: Xp, arrays: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[Array, Any]:
    """`op.forward` in a sufficiently wide dtype, and the half precision to round to, or None."""
    if op.exact or op.moves or (op.layer and xp is not np):  # cuBLAS accumulates half precision in float32
        return op.forward(xp, *arrays, **attrs), None
    wide = [widened(a, op.widens(i)) for i, a in enumerate(arrays)]
    out = op.forward(xp, *wide, **attrs)
    if getattr(out, "dtype", None) != np.float32:
        return out, None
    return out, narrowest([a.dtype for i, a in enumerate(arrays) if hasattr(a, "dtype") and not op.is_data(i)])


def needs_conversion(op: Op, dtypes: Sequence[Any]) -> bool:
    """Whether `evaluate` does more than `op.forward` for arguments of these dtypes."""
    if op.exact or op.moves:
        return False
    return any(is_half(dtype) or (op.real and dtype.kind in "biu" and not op.is_data(i)) for i, dtype in enumerate(dtypes))


def widened(a: Any, real: bool = True) -> Any:
    """Half precision as float32, and with `real` integers and booleans as floating; other values unchanged."""
    dtype = getattr(a, "dtype", None)
    if dtype is None:
        return a
    if dtype.char in HALVES:
        return a.astype(np.float32) if is_half(dtype) else a
    return a.astype(floating(dtype)) if real and dtype.kind in "biu" else a


def floating(dtype: Any) -> Any:
    """The floating dtype for computations with a dtype; for integers and booleans one that holds them."""
    return np.result_type(dtype, np.float32) if dtype.kind in "biu" else dtype


def narrowest(dtypes: Sequence[Any]) -> Any:
    """The common half precision of all floating dtypes, unless integers among them are wider; else None."""
    halves = {dtype for dtype in dtypes if is_floating(dtype)}
    if len(halves) != 1 or not is_half(half := halves.pop()):
        return None
    wide = any(dtype.kind in "iu" and dtype.itemsize > 1 for dtype in dtypes)  # as in NumPy
    return None if wide else half
