"""What an operation is computed in: the one place that says what becomes of dtypes that are too narrow for what comes.

Integers and booleans become floating before an op whose result is real: float32 those of up to 16 bits, float64 the others.
That is what NumPy does, but for 8 bits, which it makes float16: there e^12 is infinite.

Half precision (float16, bfloat16) is computed in float32, and what comes of it is rounded, once for each op: a sum of 100,000
of them, a square, a factor such as 1e-8 does not fit into float16 where the result does. Rules of gradients are float32 alike,
from end to end of a backward pass, and read a result as it was before it was rounded; what is handed out is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import HALVES, Array, Xp, is_floating, is_half
from tensorgrad.core.op import Op

__all__ = ["computed", "evaluate", "floating", "is_odd", "narrowest", "widened"]


def evaluate(op: Op, xp: Xp, arrays: Sequence[Any], attrs: Mapping[str, Any]) -> Array:
    """`op.forward`, in a dtype that is wide enough, and rounded."""
    out, to = computed(op, xp, arrays, attrs)
    return out if to is None else out.astype(to)


def computed(op: Op, xp: Xp, arrays: Sequence[Any], attrs: Mapping[str, Any]) -> tuple[Array, Any]:
    """`op.forward`, in a dtype that is wide enough, and the half precision to round it to, or None."""
    if op.exact or op.moves or (op.layer and xp is not np):  # cuBLAS multiplies half precision, and adds up in float32
        return op.forward(xp, *arrays, **attrs), None
    wide = [widened(a, op.widens(i)) for i, a in enumerate(arrays)]
    out = op.forward(xp, *wide, **attrs)
    if getattr(out, "dtype", None) != np.float32:
        return out, None
    return out, narrowest([a.dtype for i, a in enumerate(arrays) if hasattr(a, "dtype") and not op.is_data(i)])


def is_odd(op: Op, dtypes: Sequence[Any]) -> bool:
    """Whether `evaluate` does more than `op.forward` for arguments of these dtypes."""
    if op.exact or op.moves:
        return False
    return any(is_half(dtype) or (op.real and dtype.kind in "biu" and not op.is_data(i)) for i, dtype in enumerate(dtypes))


def widened(a: Any, real: bool = True) -> Any:
    """Half precision as float32, and with `real` integers and booleans as floating; anything else as it is."""
    dtype = getattr(a, "dtype", None)
    if dtype is None:
        return a
    if dtype.char in HALVES:
        return a.astype(np.float32) if is_half(dtype) else a
    return a.astype(floating(dtype)) if real and dtype.kind in "biu" else a


def floating(dtype: Any) -> Any:
    """The floating dtype that numbers of a dtype are computed in: of integers and booleans one that holds them."""
    return np.result_type(dtype, np.float32) if dtype.kind in "biu" else dtype


def narrowest(dtypes: Sequence[Any]) -> Any:
    """The half precision that all floating ones of the dtypes are of, if integers among them are not wider; else None."""
    halves = {dtype for dtype in dtypes if is_floating(dtype)}
    if len(halves) != 1 or not is_half(half := halves.pop()):
        return None
    wide = any(dtype.kind in "iu" and dtype.itemsize > 1 for dtype in dtypes)  # as NumPy has it
    return None if wide else half
