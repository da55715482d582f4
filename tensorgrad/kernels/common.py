"""Kernels that rules call by name: one pass over memory, split between threads if large."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.memory import new
from tensorgrad.kernels import erf as error_function
from tensorgrad.kernels import reference, thresholds
from tensorgrad.kernels.build import ChainKernel, add_rows_kernel, cross_entropy_grad_kernel, log_softmax_kernel
from tensorgrad.kernels.chain import Chain, Operand, Ref, Step, Symbol

DTYPES = {"f": "float32", "d": "float64"}


@functools.cache
def one_step(function: str, layouts: str, char: str, constants: tuple[float, ...] = (), shared: bool = False) -> ChainKernel:
    """The kernel of one function of operands with these layouts, followed by constants; `shared`: in place of the first.

    char   of the dtype
    """
    dtype, operands = DTYPES[char], layouts.split()
    step = Step(function, (*(Ref(i) for i in range(len(operands))), *constants), dtype)
    chain = Chain(tuple(Operand(layout, dtype) for layout in operands), (step,), ((len(operands), "full"),))
    return ChainKernel(chain, {0: 0} if shared else {})


def are_supported(*arrays: Any) -> bool:
    """Whether arrays are C-contiguous, with the same shape and the same supported dtype."""
    first = arrays[0]
    if type(first) is not np.ndarray or first.dtype.char not in "fd":
        return False
    shape, dtype = first.shape, first.dtype
    return all([type(a) is np.ndarray and a.shape == shape and a.dtype is dtype and a.flags.c_contiguous for a in arrays])


def add_row(y: Array, b: Array) -> Array:
    """y + b, in place of y; y (..., n), b (n), of the same dtype."""
    if y.size < thresholds.KERNEL or not are_supported(y) or y.ndim != 2 or not b.flags.c_contiguous:
        return np.add(y, b, out=y)
    one_step("add", "full row", y.dtype.char, shared=True)(y, b, y)
    return y


def relu(x: Array) -> Array:
    """max(x, 0)"""
    if x.size < thresholds.KERNEL or not are_supported(x):
        return np.maximum(x, 0)
    y = new(x.shape, x.dtype)
    one_step("maximum", "full", x.dtype.char, (0.0,))(x, y)
    return y


def computed(formula: Callable[..., Any], *values: Any) -> Any:
    """formula(*values), an elementwise formula of many steps, in one pass over memory for arrays of one shape and dtype.

    formula  a function of the values that returns one of the same shape and dtype; cached by identity
    """
    first = values[0]
    if type(first) is not np.ndarray or first.size < thresholds.KERNEL or not are_supported(*values):
        return formula(*values)
    y = new(first.shape, first.dtype)
    formula_kernel(formula, len(values), first.dtype.char)(*values, y)
    return y


@functools.cache
def formula_kernel(formula: Callable[..., Any], count: int, char: str) -> ChainKernel:
    """The kernel of a formula of `count` arrays; char: of the dtype."""
    return ChainKernel(Chain.of(lambda *values: (formula(*values),), [Operand("full", DTYPES[char])] * count), {})


def erf(x: Any) -> Any:
    """The error function of an array; in a chain, a single step."""
    if isinstance(x, Symbol):
        return x.record("erf", error_function.erf, (x,))
    if type(x) is not np.ndarray or x.size < thresholds.KERNEL or not are_supported(x):
        return error_function.erf(x)
    y = new(x.shape, x.dtype)
    one_step("erf", "full", x.dtype.char)(x, y)
    return y


def relu_grad(g: Array, unit: Array) -> Array:
    """g where unit > 0, else exactly 0; of the same dtype and shape."""
    y = new(g.shape, g.dtype)
    if g.ndim and g.size and are_supported(g, unit):
        one_step("relu_grad", "full full", g.dtype.char)(g, unit, y)
    else:
        reference.relu_grad(g, unit, y)
    return y


def mul_grad(g: Any, d: Any) -> Any:
    """g d, exactly 0 where g is 0."""
    symbol = g if isinstance(g, Symbol) else d
    return symbol.record("mul_grad", reference.mul_grad, (g, d)) if isinstance(symbol, Symbol) else reference.mul_grad(g, d)


def div_grad(g: Any, d: Any) -> Any:
    """g / d, exactly 0 where g is 0."""
    symbol = g if isinstance(g, Symbol) else d
    return symbol.record("div_grad", reference.div_grad, (g, d)) if isinstance(symbol, Symbol) else reference.div_grad(g, d)


def few_classes(z: Array) -> bool:
    """Whether rows of scores are so short that a loop over them is faster than NumPy."""
    return z.ndim == 2 and 0 < z.shape[1] <= thresholds.CLASSES and len(z) > 0 and are_supported(z)


def log_softmax(z: Array) -> Array | None:
    """log softmax of every row; None if NumPy is as fast."""
    kernel = log_softmax_kernel(z.dtype) if few_classes(z) else None
    if kernel is None:
        return None
    y = np.empty_like(z)
    kernel(z, y)
    return y


def cross_entropy_grad(logp: Array, t: Array, factor: Any) -> Array | None:
    """factor (e^logp - one_hot(t)); None if NumPy is as fast, or if t (m) has an invalid label."""
    if not few_classes(logp) or t.dtype.kind not in "iu" or t.shape != logp.shape[:-1]:
        return None
    kernel = cross_entropy_grad_kernel(logp.dtype, t.dtype)
    if kernel is None:
        return None
    dz = np.empty_like(logp)
    invalid_row = kernel(logp.reshape(-1), t.reshape(-1), np.asarray(factor, logp.dtype), dz.reshape(-1))
    return dz if invalid_row < 0 else None


def add_rows(y: Array, t: Array, x: Array) -> bool:
    """y[t] += x, row by row in the order of t; y (r, k), x (n, k), t (n). Returns whether a kernel did it; if t is not within
    -r .. r - 1, nothing is changed."""
    if x.size < thresholds.ADD_ROWS or x.dtype is not y.dtype or t.dtype != np.intp:
        return False
    kernel = add_rows_kernel(y.dtype) if y.dtype.char in "fd" and all(a.flags.c_contiguous for a in (y, t, x)) else None
    if kernel is None:
        return False
    return bool(kernel(y, t, x) < 0)
