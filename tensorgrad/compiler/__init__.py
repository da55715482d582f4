"""compile: a step traced, fused, planned and replayed.

containers.py  the arrays in arguments, the Tensors in results
trace.py       one run of the step, recorded as a program
world.py       the outside objects that the step can reach
guards.py      the assumptions of a plan
values.py      the arrays of a plan
calls/         the kinds of kernels, one class each
lower.py       nodes of the program to calls on values
group.py       elementwise calls grouped into chains
rows.py        splitting of samplewise work into parts of the samples
memory.py      placement of values in memory
emit.py        the Python function of a plan;  launches.py: the same on a GPU
check.py       verification of a finished plan;  contents.py: of memory contents;  meaning.py: of what chains compute
plan.py        the plan: to run, to print, to draw
verify.py      comparison of a run with the step
history.py     the results as part of the surrounding graph
compiled.py    the compiled step that users call
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tensorgrad.core.forks import loading
from tensorgrad.core.state import describe
from tensorgrad.errors import DTypeError

if TYPE_CHECKING:
    from tensorgrad.compiler.compiled import Compiled


def compile(step: Callable[..., Any], *, keep_grads: bool = False, ahead: bool = False) -> Compiled:
    """Compile `step`: its computation is recorded, fused and planned, and from then on replayed without Python in between.

    step         a function or method of arrays, Tensors, numbers (Python or NumPy), strings, or tuples, lists, dicts and
                 dataclasses of them; for example one training step: forward, backward(), optimiser.step(). It may change
                 parameters, buffers and other outside Tensors. Inside, arrays are Tensors; returned arguments and parameters
                 are copies
    keep_grads   keep the `.grad` that the step leaves. By default the `.grad` of a parameter that the step clears first and an
                 optimiser then uses is None after the step, so that its memory can be reused
    ahead        make the plan before the first call, which then is a replay like all others; side effects of that are undone

    The step's Python code runs twice for each combination of shapes, dtypes and numbers: in the first call, and in the second
    to make the plan, with other samples and parameters, which are restored afterwards. From the second call on, calls are
    replays (`compiled.plan` can be printed and drawn). Results equal those of the step up to rounding: each plan is verified
    (compiler/check.py) and run once on the inputs it was made from before it is used; CompileError if the results differ.

    Each replay draws new random numbers and reads the current learning rates, outside arrays and parameters. The other
    assumptions of a plan are checked before each replay (`compiled.plan.guards`), and a new plan is made when they changed:
    numbers and objects that the step reaches through its closure, defaults, globals, attributes and methods; attributes,
    parameters, buffers and submodules of modules; settings of optimisers; hooks and what they reach; which `.grad` are None;
    small arrays that no operation reads. Not checked: lists and dicts of more than 100 elements, sets, deques, iterators,
    environment variables, objects of installed libraries. `compiled.why_not` says why a call was not a replay.

    A step that itself changes such objects (a counter, a Tensor that a module stores) runs uncompiled, with a warning. It
    prints, logs and writes files only when its Python code runs. Unused values are not computed, and so raise no errors. A step
    that fails leaves behind what it has done so far; in a replay the order may differ. While a plan is made, no other thread
    may use what the step changes.

    Raises CompileError, with the line, for what a replay cannot do: depend on the value of a Tensor in Python, draw random
    numbers outside the graph, write to arrays by code that is not recorded, change an argument, return arrays, or do something
    different in the second run.
    """
    with loading:
        from tensorgrad.compiler.compiled import Compiled

    if not callable(step):
        raise DTypeError(f"compile: step must be a function, got {describe(step)}")
    return Compiled(step, keep_grads, ahead)
