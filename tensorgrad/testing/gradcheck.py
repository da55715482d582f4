"""Is a gradient right? Recorded gradients against slopes taken from values, and against formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.core.arguments import number
from tensorgrad.core.state import shown
from tensorgrad.core.tensor import Tensor
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
    raises: bool = True,
) -> Report:
    """Compare the gradients that tensorgrad records for `fn` with slopes taken from its values.

    fn      a function of Tensors that returns a floating Tensor, or several in a tuple
    inputs  what to call it with: an array, a Tensor or a number, a tuple of them, or a dict by the names of fn's parameters.
            Floating ones are raised to float64 and checked; integers, booleans and other objects are passed on as they are
    order   1: the gradient. 2: also the gradient of the gradient, by differences of the recorded gradient
    mode    "full": every entry of the Jacobian. "directional": the slope along one random direction, of one random weighting
            of the outputs, for all inputs together and, if that is not right, for each; a few calls of fn, whatever the
            sizes. By default full up to 5,000 entries
    wrt     positions (or names) of the inputs to check, if not all
    rtol    an error beyond it, relative to the larger of the two gradients, is wrong
    seed    of the random directions and weights
    raises  False: return the Report also when it has failed

    Slopes are central differences with Richardson extrapolation, of steps relative to each input; where they do not settle it,
    over a ladder of steps. In full mode entries are first confirmed by the complex step, replaying the recorded graph, which
    has no rounding error to speak of; it counts only where differences of fn itself agree along a random direction. At a kink
    (slopes that differ at the two sides at two step sizes) every gradient between the two slopes passes.

    Returns the Report. Raises GradientError, which shows it and the op whose rule is wrong; DTypeError where fn goes back to
    less than float64; GraphError where there is nothing to check.
    """
    problem = Problem.of("gradcheck", fn, inputs, wrt)
    report, stage = examine("gradcheck", problem, order, mode, rtol, seed)
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
    raises: bool = True,
) -> Report:
    """Compare the gradients of loss(model(x), y) with slopes, for every named parameter of `model`; as gradcheck does.

    Parameters, buffers and floating x and y are raised to float64 for the check; afterwards the model is as it was.
    """
    if not isinstance(model, Module) or not callable(loss):
        wrong = shown(loss if isinstance(model, Module) else model)
        raise DTypeError(f"check_model: expected a Module and a function of its result and y, got {wrong}")
    parameters = {path: p for path, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise GraphError(f"check_model: {type(model).__name__} has no parameters that require a gradient")
    x, y = (raised(a) if isinstance(a, Tensor) or hasattr(a, "dtype") else a for a in (x, y))
    with in_float64(model):
        arrays = [p._data for p in parameters.values()]

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            buffers = [(array, array.copy()) for _, array in model.named_buffers()]
            try:
                return outputs_of("check_model", loss(model(x), y))
            finally:
                for array, before in buffers:
                    array[...] = before

        problem = Problem(list(parameters), arrays, lambda: list(parameters.values()), compute)
        report, stage = examine("check_model", problem, order, mode, rtol, seed)
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
    problem, rtol = Problem.of("matches_formula", fn, inputs, wrt), number("matches_formula", "rtol", rtol)
    outputs, _ = problem.evaluate()
    if len(outputs) != 1 or outputs[0].ndim:
        shapes = ", ".join(str(t.shape) for t in outputs)
        raise ShapeError(f"matches_formula: fn returned {shapes}, expected a 0-d Tensor; write (g * fn(x)).sum()")
    given = problem.arguments([a.copy() for a in problem.arrays])
    closed = formula(**given) if isinstance(given, dict) else formula(*given)
    expected = [np.asarray(e) for e in (closed if isinstance(closed, (tuple, list)) else (closed,))]
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
