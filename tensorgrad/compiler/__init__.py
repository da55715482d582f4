"""compile: a step traced, fused, planned and replayed.

containers.py  the arrays in arguments, the Tensors in results
trace.py       one run of the step, written down as a program
world.py       what the step can reach from outside
guards.py      what a plan takes for given
values.py      the arrays of a plan
calls/         the kinds of kernels that it consists of, a class each
lower.py       the nodes of the program as calls on values
group.py       elementwise calls put together into chains
rows.py        what treats every sample alike, for some of the samples at a time
memory.py      which values lie where
emit.py        the Python function that does it all;  launches.py: the same on a GPU
check.py       the finished plan, proved by going through it;  contents.py: what lies where;  meaning.py: what chains compute
plan.py        the plan: to run, to print, to draw
verify.py      what a run of it gives, compared with what the step did
history.py     what a result is to the graph around it
compiled.py    the compiled step that users call
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorgrad.core.forks import loading
from tensorgrad.core.state import shown
from tensorgrad.errors import DTypeError

if TYPE_CHECKING:
    from tensorgrad.compiler.compiled import Compiled


def compile(step: Callable[..., Any], *, keep_grads: bool = False, ahead: bool = False) -> Compiled:
    """`step`, replayed: what it computes is recorded, fused and planned, and from then on run without Python in between.

    step         a function of arrays, Tensors, numbers (Python's or NumPy's), text, or tuples, lists, dicts and dataclasses of
                 them, such as one training step: forward, backward(), optimiser.step(). It may change parameters, buffers and
                 other Tensors from outside. It may be a method. Arrays come as Tensors; what it returns of its arguments or
                 parameters are copies
    keep_grads   leave in `.grad` what the step leaves there. Otherwise the `.grad` of a parameter that the step clears first
                 and an optimiser has then used up is None after it, so that its memory can be used again
    ahead        make the plan before the first call counts, which is then a replay like all others; what that takes is undone

    The Python of the step runs twice for arguments of given shapes, dtypes and numbers: in the first call, and in the second
    for the plan, on other samples and with other parameters, all of which is put back. The second call and those after it are
    replays (`compiled.plan`: print it, draw it). Results are those of the step to rounding: each plan is checked
    (compiler/check.py), and run once on what it was made from, before it counts; CompileError if that gives something else.

    What is random is drawn anew each time; learning rates, arrays and parameters from outside are read anew. What is taken for
    given is looked at before each replay (`compiled.plan.guards`), and another plan is made when it has changed: numbers and
    objects that the step reaches by its closure, defaults, globals, attributes and methods; attributes, parameters, buffers and
    parts of modules; settings of optimisers; hooks and what they reach; which `.grad` are None; small arrays that no operation
    reads. Not looked into: lists and dicts of more than 100 elements, sets, deques, iterators, environment variables, objects
    of installed libraries. `compiled.why_not` says why a call was no replay.

    A step that itself changes what it can reach so (a counter, a Tensor that a module keeps) is run as it is written, with a
    warning. What it prints, logs or writes to files is done only when its Python runs. What nothing depends on is not computed,
    and so raises no error. A step that fails by itself leaves behind what it has done so far, in a replay perhaps in another
    order. While a plan is made, no other thread may use what the step changes.

    Raises CompileError, naming the line, for what a replay could not do: act on the value of a Tensor, draw random numbers
    outside of the graph, write to arrays by code that is not recorded, change an argument, return arrays, do something else in
    the second run than in the first.
    """
    with loading:
        from tensorgrad.compiler.compiled import Compiled

    if not callable(step):
        raise DTypeError(f"compile: step must be a function, got {shown(step)}")
    return Compiled(step, keep_grads, ahead)
