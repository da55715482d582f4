"""tensorgrad: reverse-mode automatic differentiation on NumPy and CuPy, with a graph to read, fuse, draw and check."""

from tensorgrad.tensor import Tensor, from_dlpack  # isort: skip  (first: it and the ops need each other)
from tensorgrad import errors, fusion
from tensorgrad.autograd import detect_anomaly, grad, no_grad
from tensorgrad.checkpointing import checkpoint
from tensorgrad.derivatives import hessian, hvp, jacobian, jvp, vjp
from tensorgrad.ops import *  # noqa: F403  (every op is a function of the package too; ops.__all__ says which)
from tensorgrad.ops import __all__ as _ops

__version__ = "0.1.0"
__all__ = [
    "Tensor",
    "checkpoint",
    "detect_anomaly",
    "errors",
    "from_dlpack",
    "fusion",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "no_grad",
    "vjp",
]
__all__ += _ops
