"""Gradient checks: recorded gradients against derivatives from other methods, and against formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.core.arguments import tolerance, truth
from tensorgrad.core.backend import Array, asarray
from tensorgrad.core.state import describe, state
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
    """Compare the gradients that tensorgrad records for `fn` with derivatives from other methods.

    fn      a function of Tensors that returns a floating Tensor, or a tuple of several
    inputs  the arguments: an array, a Tensor or a number, a tuple of them, or a dict by the names of fn's parameters.
            Floating ones are converted to float64 and checked; integers, booleans and other objects are passed unchanged
    order   1: the gradient. 2: also the gradient of the gradient, as recorded by create_graph=True
    mode    "full": the derivative of every output by every entry. "directional": for each input the slope of a random weighting
            of the outputs along a random direction; a few passes per input, for any sizes. By default full up to 5,000 entries
            of inputs, as many of outputs, and a million derivatives
    wrt     positions (or names) of the inputs to check; by default all
    rtol    tolerance relative to the larger of the two derivatives; each derivative has its own scale
    seed    of the random directions and weights
    allow_precision   pass where float64 cannot decide, such as a gradient whose rounding error exceeds rtol
    nondet_tol        absolute tolerance between values and gradients of repeated calls
    compiled          also compare the gradients inside a compiled step, in its first call and in replays
    raises  False: return the Report even if the check failed

    The recorded graph is differentiated forward, op by op, without differences: by the `jvp` of each op, which is written
    independently, and for user-defined ops by the complex step of `forward`, after a comparison with differences. Constants
    captured by the graph are compared at moved inputs; a constant that moves with them (.detach(), .data, NumPy arithmetic)
    contributes to the derivative. If there is no such graph, differences of fn decide. At a kink, where one-sided slopes
    differ, a gradient between them passes. Differences that rounding explains are recomputed in long double. Then the gradients
    are compared with those of other code paths: recorded, unfused, from non-contiguous arrays, for one output after the other,
    a second time, in float32.

    Returns the Report. Raises GradientError, which shows it and the op whose rule is wrong; DTypeError if fn computes in less
    than float64; GraphError if there is nothing to check; CompileError with `compiled` if fn cannot be compiled.
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
    """Compare the gradients of loss(model(x), y) with derivatives, for every named parameter of `model`, like gradcheck.

    Parameters, buffers and floating x and y are converted to float64 during the check; afterwards the model is unchanged.
    """
    if not isinstance(model, Module) or not callable(loss):
        wrong = describe(loss if isinstance(model, Module) else model)
        raise DTypeError(f"check_model: expected a Module and a function of its result and y, got {wrong}")
    raises = truth("check_model", "raises", raises)
    parameters = {path: p for path, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise GraphError(f"check_model: {type(model).__name__} has no parameters that require a gradient")
    x, y = (raised(a) if isinstance(a, Tensor) or hasattr(a, "dtype") else a for a in (x, y))
    with in_float64(model):
        arrays = [p._data for p in parameters.values()]

        buffer_arrays = [array for _, array in model.named_buffers()]

        def buffers() -> list[Array]:
            return buffer_arrays

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            before = [] if state.trace is not None else [(array, array.copy()) for array in buffer_arrays]
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

    fn       a function of Tensors that returns a 0-d Tensor; for other shapes use (g * fn(x)).sum()
    formula  a function of the same arguments as arrays that returns the gradient: an array, or a sequence for several inputs
    rtol     tolerance relative to the largest entry of each gradient, because sums may cancel

    The other arguments, the result and errors are those of gradcheck.
    """
    if not callable(formula):
        raise DTypeError(f"matches_formula: formula must be a function of arrays, got {describe(formula)}")
    problem, raises = Problem.of("matches_formula", fn, inputs, wrt), truth("matches_formula", "raises", raises)
    rtol = tolerance("matches_formula", "rtol", rtol)
    outputs, _ = problem.evaluate()
    if len(outputs) != 1 or outputs[0].ndim:
        shapes = ", ".join(str(t.shape) for t in outputs)
        raise ShapeError(f"matches_formula: fn returned {shapes}, expected a 0-d Tensor; write (g * fn(x)).sum()")
    arguments = problem.arguments([a.copy() for a in problem.arrays])
    closed = formula(**arguments) if isinstance(arguments, dict) else formula(*arguments)
    parts = closed if isinstance(closed, (tuple, list)) else (closed,)
    expected = [asarray(raw(e), where="matches_formula: the formula's gradient") for e in parts]
    if len(expected) != len(problem.arrays):
        raise ShapeError(f"matches_formula: the formula returned {len(expected)} gradients, expected {len(problem.arrays)}")
    report = Report(mode="fused and unfused", caller="matches_formula")
    for how, switch in (("fused", fusion.on), ("unfused", fusion.off)):
        with switch():
            outputs, leaves = problem.evaluate()
            actual = gradients(outputs, leaves, [np.ones(())])
        for name, e, g in zip(problem.names, expected, actual, strict=True):
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
    """Convert parameters and buffers to float64 inside the block, and restore them."""
    parameters = [(p, p._data, p.grad) for _, p in model.named_parameters()]
    buffers = [(m, dict(m._buffers)) for _, m in model.named_modules()]
    try:
        for p, data, _ in parameters:
            p._replace(raised(data))
        for module, saved in buffers:
            module._buffers.update({name: np.array(raised(array)) for name, array in saved.items()})
        yield
    finally:
        for p, data, g in parameters:
            p._replace(data)
            p.grad = g
        for module, saved in buffers:
            module._buffers.update(saved)
