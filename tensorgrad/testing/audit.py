"""The audit: checks every registered op, including user-defined ones, on sampled arguments."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorgrad.autograd import grad
from tensorgrad.core.arguments import integer, is_integer, seed_of, truth
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.op import REGISTRY, Op, Sample
from tensorgrad.core.state import describe
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, DTypeError
from tensorgrad.testing.batched import batched
from tensorgrad.testing.check import check_op
from tensorgrad.testing.duality import dual
from tensorgrad.testing.report import PASSED, Finding, GradientError, table
from tensorgrad.testing.samples import in_other_order, sampled
from tensorgrad.testing.scripts import definition_of, script
from tensorgrad.testing.verdicts import worst

# Additional checks of one call of an op, (op, args, attrs) -> findings, counted with those of order 1
ADDITIONAL: list[Callable[[Op, tuple[Any, ...], dict[str, Any]], list[Finding]]] = [in_other_order, batched, dual]


@dataclass(frozen=True)
class Row:
    """The result for one op and one order.

    cases     number of sampled arguments
    verdicts  counts of all comparisons
    error     the largest relative error
    half      the largest error of values and gradients in float16 compared with float64, relative to the largest of each array;
              1e-3 is one rounding error. Informative only; None for order 2
    seconds   time for all cases
    script    code that reproduces the first failure; "" if there is none
    """

    op: str
    order: int
    cases: int
    verdicts: Counter[str]
    error: float
    seconds: float
    script: str = ""
    half: float | None = None

    @property
    def verdict(self) -> str:
        return worst(list(self.verdicts))


@dataclass(frozen=True)
class Audit:
    """The rows of an audit. It prints as a table; its truth value is whether every op passed."""

    rows: tuple[Row, ...]

    @property
    def failed(self) -> list[Row]:
        """The rows of the ops that failed."""
        return [row for row in self.rows if row.verdict not in PASSED]

    @property
    def ok(self) -> bool:
        """Whether every op passed."""
        return not self.failed

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [("op", "order", "cases", "verdict", "worst rel error", "in float16", "ms")]
        for row in self.rows:
            half = "" if row.half is None else f"{row.half:.1e}"
            numbers = f"{row.error:.1e}", half, f"{1e3 * row.seconds:.0f}"
            cells.append((row.op, str(row.order), str(row.cases), row.verdict, *numbers))
        names = list(dict.fromkeys(row.op for row in self.failed))
        seconds = sum(row.seconds for row in self.rows)
        count = len({row.op for row in self.rows})
        verdict = f"wrong: {', '.join(names)}" if names else "every rule passed"
        return "\n".join([*table(cells), f"{count} ops, {sum(r.cases for r in self.rows)} cases, {seconds:.1f} s: {verdict}"])


def audit(
    ops: Sequence[str | Op] | None = None, *, cases: int = 20, order: int = 2, seed: int = 0, raises: bool = True
) -> Audit:
    """Check the gradients of every registered op that has any, on arguments from its `sample`.

    ops    ops or their names; by default all
    cases  number of arguments per op, varied by testing/samples.py: leading axes, broadcasting, 0-d numbers, empty arrays
    order  2: also the gradient of the gradient; 1: only the gradient
    seed   of the arguments

    Besides numerical derivatives it checks that value and gradients do not depend on memory layout or on stacking two samples
    in one call, and that `jvp` agrees with `backward`.

    Returns the Audit, which prints as a table. Raises GradientError if an op failed, unless `raises` is False; ArgumentError
    for an unknown op, and if none of the ops has a gradient.
    """
    if not is_integer(order) or order not in (1, 2):
        raise ArgumentError(f"audit: order must be 1 or 2, got {describe(order)}")
    cases, order, raises = integer("audit", "cases", cases, 1), int(order), truth("audit", "raises", raises)
    chosen, start = chosen_ops(ops), seed_of("audit", seed)
    if start is None:
        raise ArgumentError("audit: the seed must be a non-negative integer, got None; the cases must be reproducible")
    rows = [row for op in chosen for row in sweep(op, cases, order, start)]
    result = Audit(tuple(rows))
    if raises and not result:
        scripts = dict.fromkeys(row.script for row in result.failed if row.script)
        raise GradientError("\n\n".join([f"audit: FAILED\n{result}", *scripts]), result, script=next(iter(scripts), ""))
    return result


def chosen_ops(ops: Sequence[str | Op] | None) -> list[Op]:
    """The ops to check, those with a gradient."""
    if ops is None:
        return [op for op in REGISTRY.values() if op.backward is not None]
    if not isinstance(ops, (list, tuple)) or not all(isinstance(op, (str, Op)) for op in ops):
        raise DTypeError(f"audit: ops must be a list of names or ops, got {describe(ops)}")
    unknown = [op for op in ops if isinstance(op, str) and op not in REGISTRY]
    if unknown:
        raise ArgumentError(f"audit: unknown op {unknown[0]!r}; all ops are in tensorgrad.op.REGISTRY")
    chosen = [REGISTRY[op] if isinstance(op, str) else op for op in ops]
    if not any(op.backward is not None for op in chosen):
        raise ArgumentError(f"audit: none of the {len(chosen)} ops has a gradient")
    return [op for op in chosen if op.backward is not None]


def sweep(op: Op, cases: int, order: int, seed: int) -> list[Row]:
    """The rows of one op, one for each order."""
    findings: dict[int, list[Finding]] = {at: [] for at in range(1, order + 1)}
    seconds = dict.fromkeys(findings, 0.0)
    first, half = "", 0.0
    for case in range(cases):
        args, attrs = sample_of(op, seed, case)
        half = max(half, in_half(op, args, attrs))
        further = [f for check in ADDITIONAL for f in check(op, args, attrs)]
        findings[1] += further
        for at in findings:
            start = time.perf_counter()
            report = check_op(op, args, attrs, order=at)
            seconds[at] += time.perf_counter() - start
            findings[at] += [f for f in report.findings if f.order == at]
            if not report:
                first = first or script(op, args, attrs, at)
                break
        if wrong := [f for f in further if f.verdict not in PASSED]:
            first = first or audit_script(op, wrong[0], case, seed)
    return [
        Row(
            op.name, at, cases, sum((f.verdicts for f in results), Counter()), max((f.relative for f in results), default=0.0),
            seconds[at], first if any(f.verdict not in PASSED for f in results) else "", half if at == 1 else None,
        )
        for at, results in findings.items()
    ]  # fmt: skip


def audit_script(op: Op, finding: Finding, case: int, seed: int) -> str:
    """Code that repeats the audit of an op up to the case in which an additional check failed, with the finding."""
    lines = [
        *definition_of(op),
        "from tensorgrad.op import REGISTRY",
        "from tensorgrad.testing import audit",
        "",
        f"audit([REGISTRY[{op.name!r}]], cases={case + 1}, order=1, seed={seed})",
        f"# {finding.name} at {finding.where}: {finding.recorded:.9g}, expected {finding.numerical:.9g}",
    ]
    return "\n".join(lines)


def sample_of(op: Op, seed: int, case: int) -> Sample:
    """The arguments and attributes of a case. Raises an error that names the op if its `sample` returns anything else."""
    try:
        args, attrs = sampled(op, seed, case)
    except Exception as error:
        raise ArgumentError(f"audit: the sample of {op.name}: {type(error).__name__}: {error}") from error
    is_sample = isinstance(args, (tuple, list)) and isinstance(attrs, dict) and len(args) > 0
    if not is_sample or not all(hasattr(a, "dtype") for a in args):
        got = f"{describe(args)} and {describe(attrs)}"
        raise ArgumentError(f"audit: the sample of {op.name} must be a tuple of arrays and a dict of attributes, got {got}")
    return tuple(args), attrs


def in_half(op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> float:
    """The error of value and gradients in float16 compared with float64."""
    wrt = [i for i, a in enumerate(args) if is_floating(a.dtype) and not op.is_data(i)]
    rounded = [a.astype(np.float16) if is_floating(a.dtype) else a for a in args]

    def run(dtype: Any) -> list[Array]:
        ts = [Tensor(a, i in wrt, dtype=dtype if is_floating(a.dtype) else None) for i, a in enumerate(rounded)]
        y = op(*ts, **attrs)
        cotangent = np.resize([1.0, -0.5, 0.25, -2.0, 1.5], y.shape)
        return [y.data, *[g.data for g in grad(y, [ts[i] for i in wrt], Tensor(cotangent, dtype=y.dtype))]]

    worst = 0.0
    with np.errstate(all="ignore"):
        for actual, expected in zip(run(np.float16), run(np.float64), strict=True):
            is_in_range = np.abs(expected) < float(np.finfo(np.float16).max)
            largest = np.abs(expected[is_in_range]).max(initial=float(np.finfo(np.float16).tiny))
            worst = max(worst, float(np.abs(actual.astype(np.float64) - expected)[is_in_range].max(initial=0.0) / largest))
    return worst
