"""tensorgrad: reverse-mode automatic differentiation on NumPy and CuPy, with a graph to read, fuse, draw and check."""

from tensorgrad.tensor import Tensor  # isort: skip  (first: it and the ops need each other)
from tensorgrad import errors, fusion
from tensorgrad.autograd import grad, no_grad

__version__ = "0.1.0"
__all__ = ["Tensor", "errors", "fusion", "grad", "no_grad"]
