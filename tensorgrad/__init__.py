"""tensorgrad: reverse-mode automatic differentiation on NumPy and CuPy, with a graph to read, fuse, draw and check."""

from tensorgrad.tensor import Tensor, from_dlpack  # isort: skip  (first: it and the ops need each other)
from tensorgrad import errors, fusion
from tensorgrad.autograd import detect_anomaly, grad, no_grad
from tensorgrad.checkpointing import checkpoint
from tensorgrad.compiler import compile
from tensorgrad.derivatives import hessian, hvp, jacobian, jvp, vjp
from tensorgrad.kernels.cublas import get_matmul_precision, set_matmul_precision
from tensorgrad.kernels.threads import get_num_threads, set_num_threads
from tensorgrad.ops import *  # noqa: F403  (every op is a function of the package too; ops.__all__ says which)
from tensorgrad.ops import __all__ as _ops
from tensorgrad.profiling import profile
from tensorgrad.seeding import manual_seed

__version__ = "0.1.0"
__all__ = [
    "Tensor",
    "checkpoint",
    "compile",
    "detect_anomaly",
    "errors",
    "from_dlpack",
    "fusion",
    "get_matmul_precision",
    "get_num_threads",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "manual_seed",
    "no_grad",
    "profile",
    "set_matmul_precision",
    "set_num_threads",
    "vjp",
]
__all__ += _ops
