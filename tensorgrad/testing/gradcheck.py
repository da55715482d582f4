"""Is a gradient right? Recorded gradients against derivatives that are found in other ways, and against formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.core.arguments import tolerance, truth
from tensorgrad.core.backend import Array, asarray
from tensorgrad.core.state import shown, state
from tensorgrad.core.tensor import Tensor, raw
from tensorgrad.errors import DTypeError, GraphError, ShapeError
from tensorgrad.nn import Module
from tensorgrad.testing.check import RTOL, examine
from tensorgrad.testing.problem import Problem, gradients, graph_of, outputs_of, raised
from tensorgrad.testing.report import Finding, GradientError, Report
from tensorgrad.testing.suspects import explain


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    order: int = 1,
    mode: str | None = None,
    wrt: Sequence[int | str] | None = None,
    rtol: float = RTOL,
    seed: int = 0,
    allow_precision: bool = False,
    nondet_tol: float = 0.0,
    compiled: bool = False,
    raises: bool = True,
) -> Report:
    """Compare the gradients that tensorgrad records for `fn` with derivatives that are found in other ways.

    fn      a function of Tensors that returns a floating Tensor, or several in a tuple
    inputs  what to call it with: an array, a Tensor or a number, a tuple of them, or a dict by the names of fn's parameters.
            Floating ones are raised to float64 and checked; integers, booleans and other objects are passed on as they are
    order   1: the gradient. 2: also the gradient of the gradient, as create_graph=True records it
    mode    "full": the derivative of every output by every entry. "directional": for each input by itself the slope along a
            random direction, of a random weighting of the outputs; a few passes for each input, whatever the sizes. By default
            full up to 5,000 entries of inputs, as many of outputs, and a million derivatives
    wrt     positions (or names) of the inputs to check, if not all
    rtol    an error beyond it, relative to the larger of the two derivatives, is wrong; each derivative has its own scale
    seed    of the random directions and weights
    allow_precision   let pass what float64 cannot decide, such as a gradient that rounding moves by more than rtol
    nondet_tol        how far values and gradients may be apart, absolute, when they are computed again
    compiled          also compare the gradients inside of a step that is compiled, called and replayed
    raises  False: return the Report also when it has failed

    The recorded graph is differentiated forward, op by op, which subtracts nothing: by the `jvp` of each op, which is written
    beside its formula, and for ops of the user's by the complex step of `forward`, once differences of it agree. What the graph
    has captured as constants is looked at again with the inputs moved; a constant that moves with them (.detach(), .data, NumPy
    arithmetic) is part of the derivative. Where there is no such graph, differences of fn decide. At a kink, where the slopes
    at its two sides differ, a gradient between them passes. What differs by no more than rounding explains is computed again
    in long double. Then the gradients are compared with those that people get in other ways: recorded, unfused, from arrays
    that are not contiguous, from one output after the other, a second time, in float32.

    Returns the Report. Raises GradientError, which shows it and the op whose rule is wrong; DTypeError where fn goes back to
    less than float64; GraphError where there is nothing to check; CompileError where fn cannot be compiled, if that is asked
    for.
    """
    problem, raises = Problem.of("gradcheck", fn, inputs, wrt), truth("gradcheck", "raises", raises)
    report, stage = examine("gradcheck", problem, order, mode, rtol, seed, allow_precision, nondet_tol, compiled)
    if raises and not report:
        raise explain(report, stage, problem)
    return report


def check_model(
    model: Module,
    loss: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    order: int = 1,
    mode: str | None = None,
    rtol: float = RTOL,
    seed: int = 0,
    allow_precision: bool = False,
    nondet_tol: float = 0.0,
    compiled: bool = False,
    raises: bool = True,
) -> Report:
    """Compare the gradients of loss(model(x), y) with derivatives, for every named parameter of `model`; as gradcheck does.

    Parameters, buffers and floating x and y are raised to float64 for the check; afterwards the model is as it was.
    """
    if not isinstance(model, Module) or not callable(loss):
        wrong = shown(loss if isinstance(model, Module) else model)
        raise DTypeError(f"check_model: expected a Module and a function of its result and y, got {wrong}")
    raises = truth("check_model", "raises", raises)
    parameters = {path: p for path, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise GraphError(f"check_model: {type(model).__name__} has no parameters that require a gradient")
    x, y = (raised(a) if isinstance(a, Tensor) or hasattr(a, "dtype") else a for a in (x, y))
    with in_float64(model):
        arrays = [p._data for p in parameters.values()]

        held = [array for _, array in model.named_buffers()]

        def buffers() -> list[Array]:
            return held

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            before = [] if state.trace is not None else [(array, array.copy()) for array in held]
            try:
                return outputs_of("check_model", loss(model(x), y), leaves)
            finally:
                for array, values in before:
                    array[...] = values

        problem = Problem(list(parameters), arrays, lambda: list(parameters.values()), compute)
        problem.buffers = buffers
        report, stage = examine("check_model", problem, order, mode, rtol, seed, allow_precision, nondet_tol, compiled)
        if raises and not report:
            raise explain(report, stage, problem)
    return report


def matches_formula(
    fn: Callable[..., Any],
    formula: Callable[..., Any],
    inputs: Any,
    *,
    wrt: Sequence[int | str] | None = None,
    rtol: float = 1e-12,
    raises: bool = True,
) -> Report:
    """Compare the gradients that tensorgrad records for a scalar `fn`, fused and unfused, with a closed form.

    fn       a function of Tensors that returns a 0-d Tensor; for an output of another shape write (g * fn(x)).sum()
    formula  the same arguments as arrays to the gradient: an array for one checked input, a sequence of them for several
    rtol     the largest error, relative to the largest entry of each gradient: sums that cancel are not known better

    The other arguments, what is returned and what is raised are as for gradcheck.
    """
    if not callable(formula):
        raise DTypeError(f"matches_formula: formula must be a function of arrays, got {shown(formula)}")
    problem, raises = Problem.of("matches_formula", fn, inputs, wrt), truth("matches_formula", "raises", raises)
    rtol = tolerance("matches_formula", "rtol", rtol)
    outputs, _ = problem.evaluate()
    if len(outputs) != 1 or outputs[0].ndim:
        shapes = ", ".join(str(t.shape) for t in outputs)
        raise ShapeError(f"matches_formula: fn returned {shapes}, expected a 0-d Tensor; write (g * fn(x)).sum()")
    given = problem.arguments([a.copy() for a in problem.arrays])
    closed = formula(**given) if isinstance(given, dict) else formula(*given)
    parts = closed if isinstance(closed, (tuple, list)) else (closed,)
    expected = [asarray(raw(e), where="matches_formula: the formula's gradient") for e in parts]
    if len(expected) != len(problem.arrays):
        raise ShapeError(f"matches_formula: the formula gave {len(expected)} gradients, expected {len(problem.arrays)}")
    report = Report(mode="fused and unfused", caller="matches_formula")
    for how, switch in (("fused", fusion.on), ("unfused", fusion.off)):
        with switch():
            outputs, leaves = problem.evaluate()
            found = gradients(outputs, leaves, [np.ones(())])
        for name, e, g in zip(problem.names, expected, found, strict=True):
            if e.shape != g.shape:
                raise ShapeError(f"matches_formula: the formula's gradient of {name} has shape {e.shape}, expected {g.shape}")
            with np.errstate(all="ignore"):
                close = np.abs(g - e) <= rtol * np.abs(e).max(initial=0.0)
            verdicts = np.where(close, "ok", np.where(np.isfinite(g) & np.isfinite(e), "wrong", "non-finite"))
            place = lambda at: f"[{', '.join(map(str, at))}]"  # noqa: E731
            report.findings.append(Finding.of(f"{name} ({how})", e.shape, 1, verdicts, g, e, place))
    report.evaluations = problem.evaluations
    if raises and not report:
        raise GradientError(f"{report}\n(numerical: by the formula)", report, graph_of(outputs))
    return report


@contextmanager
def in_float64(model: Module) -> Iterator[None]:
    """Parameters and buffers as float64 copies, and afterwards as they were."""
    parameters = [(p, p._data, p.grad) for _, p in model.named_parameters()]
    buffers = [(m, dict(m._buffers)) for _, m in model.named_modules()]
    try:
        for p, data, _ in parameters:
            p._replace(raised(data))
        for module, held in buffers:
            module._buffers.update({name: np.array(raised(array)) for name, array in held.items()})
        yield
    finally:
        for p, data, g in parameters:
            p._replace(data)
            p.grad = g
        for module, held in buffers:
            module._buffers.update(held)
