"""What everything stands on: the Tensor, the Node, the Op, and how a use of an Op is recorded.

Each file needs only those before it: state, location and backend; writes and profiling; signature, op, node and tensor; graph
and record.
"""

from tensorgrad.core import record  # noqa: F401  (it puts on Op what happens at a call)
