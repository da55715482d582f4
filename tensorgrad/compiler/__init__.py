"""compile: a step traced, fused, planned and replayed.

trace.py    one run of the step, written down as a program
lower.py    its nodes as calls of kernels on values
group.py    elementwise calls put together into chains
rows.py     what treats every sample alike, for some of the samples at a time
memory.py   which values lie where
emit.py     the Python function that does it all
plan.py     the plan: to run, to print, to draw
compiled.py the compiled step that users call
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorgrad.compiler.compiled import Compiled


def compile(step: Callable[..., Any], *, keep_grads: bool = False) -> Compiled:
    """`step`, replayed: what it computes is recorded, fused and planned, and from then on run without Python in between.

    step         a function of arrays, Tensors, numbers, text, or tuples, lists and dicts of them, such as one training step:
                 forward, backward(), optimiser.step(). It may change parameters, buffers and other Tensors from outside
    keep_grads   leave in `.grad` what the step leaves there. Otherwise the `.grad` of a parameter that an optimiser has
                 used up in the step is None after it, so that its memory can be used again

    The first two calls for arguments of given shapes and dtypes run the step itself, and it has to do the same both times;
    from the third on its plan is replayed (`compiled.plan`: print it, draw it). Results are those of the step to rounding.
    What is random is drawn anew each time, learning rates are read anew. Arrays and parameters from outside are read as they
    are at the time of the call; numbers and Python objects from outside stay what they were.

    Raises CompileError, naming the line, for what a replay could not do: act on the value of a Tensor, do something else in
    the second call than in the first.
    """
    from tensorgrad.compiler.compiled import Compiled

    return Compiled(step, keep_grads)
