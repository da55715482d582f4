"""The kinds of kernels in plans, one class each: its computation in NumPy, how it is split into parts, its code for NumPy and
Numba, and its launch on a GPU."""

from tensorgrad.compiler.calls import apply, call, chains, loss, meeting, moves, network, products, reduction, tables
from tensorgrad.compiler.calls.apply import *
from tensorgrad.compiler.calls.call import *
from tensorgrad.compiler.calls.chains import *
from tensorgrad.compiler.calls.loss import *
from tensorgrad.compiler.calls.meeting import *
from tensorgrad.compiler.calls.moves import *
from tensorgrad.compiler.calls.network import *
from tensorgrad.compiler.calls.products import *
from tensorgrad.compiler.calls.reduction import *
from tensorgrad.compiler.calls.tables import *

__all__: list[str] = []
__all__ += apply.__all__
__all__ += call.__all__
__all__ += chains.__all__
__all__ += loss.__all__
__all__ += meeting.__all__
__all__ += moves.__all__
__all__ += network.__all__
__all__ += products.__all__
__all__ += reduction.__all__
__all__ += tables.__all__
