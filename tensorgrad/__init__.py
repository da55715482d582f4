"""tensorgrad: reverse-mode automatic differentiation on NumPy and CuPy, with a graph to read, fuse, draw and check."""

__version__ = "0.2.0"
__distribution__ = "tensorgrad-numpy"  # its name for pip: `tensorgrad` is another project

from typing import TYPE_CHECKING

import tensorgrad.methods  # noqa: F401  (attaches methods to Tensor)
from tensorgrad import errors, fusion, graph, op, ops
from tensorgrad.autograd import checkpoint, detect_anomaly, grad, hessian, hvp, jacfwd, jacobian, jvp, no_grad, vjp
from tensorgrad.compiler import compile
from tensorgrad.core.installation import missing
from tensorgrad.core.profiling import profile
from tensorgrad.core.tensor import Tensor, from_dlpack
from tensorgrad.kernels.cublas import get_matmul_precision, set_matmul_precision
from tensorgrad.kernels.threads import get_num_threads, set_num_threads
from tensorgrad.ops import *  # every op is also a function of the package
from tensorgrad.seeding import manual_seed

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
    "graph",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jvp",
    "manual_seed",
    "no_grad",
    "op",
    "profile",
    "set_matmul_precision",
    "set_num_threads",
    "vjp",
]
__all__ += ops.__all__  # type: ignore[attr-defined]  # hidden from type checkers

if not TYPE_CHECKING:  # a type checker would otherwise accept any name

    def __getattr__(name: str) -> None:
        missing(__name__, name)
