"""What everything stands on: the Tensor, the Node, the Op, and how a use of an Op is recorded.

Each file needs only those before it: state, location and backend; writes and profiling; signature, op, node and tensor; graph
and record.
"""

# the first raises where the folder is not the package's own, the second puts on Op what happens at a call
from tensorgrad.core import installation, record  # noqa: F401
