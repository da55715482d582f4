"""The kinds of kernels that plans consist of, one class each: what it computes, by NumPy; how it is cut into parts; how it is
written for NumPy and Numba, and launched on a GPU."""

from tensorgrad.compiler.calls.apply import Apply
from tensorgrad.compiler.calls.call import Call
from tensorgrad.compiler.calls.chains import ChainCall, Elementwise
from tensorgrad.compiler.calls.loss import CrossEntropy
from tensorgrad.compiler.calls.moves import Accumulate, Assign, Copy
from tensorgrad.compiler.calls.products import Dot, Matmul
from tensorgrad.compiler.calls.reduction import Reduction

__all__ = [
    "Accumulate", "Apply", "Assign", "Call", "ChainCall", "Copy", "CrossEntropy", "Dot", "Elementwise", "Matmul", "Reduction",
]  # fmt: skip
