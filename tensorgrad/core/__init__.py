"""The core: Tensor, Node, Op, and the recording of operations.

Each file only needs those before it: state, location and backend; writes and profiling; signature, op, node and tensor; graph
and record.
"""

# the first checks that the folder is the package's own, the second attaches Op.apply
from tensorgrad.core import installation, record  # noqa: F401
