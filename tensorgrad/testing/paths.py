"""Compares the gradients of a check with those of every other code path that users run.

A gradient check tests one backward pass over contiguous float64 arrays. Users also record the pass (create_graph=True), switch
fusion off, pass transposed and strided arrays, call backward() twice or on one of several outputs, train in float32, and
compile the step. All of these must give the same gradients up to rounding (rounding.py). They do not if a rule depends on the
memory layout or the dtype of its arguments or on whether they are Tensors, or if it modifies them.

Two passes combine all of these paths; if both give the plain gradients, nothing else is needed. Otherwise the paths are tried
one at a time, to report which one differs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorgrad.autograd.walk import backward, grad
from tensorgrad.core.backend import Array
from tensorgrad.core.state import state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.testing.problem import graph_of
from tensorgrad.testing.report import Finding
from tensorgrad.testing.rounding import EPS, Rounding, close
from tensorgrad.testing.watched import Watch

if TYPE_CHECKING:
    from tensorgrad.testing.checks import Check

SQUARED = 1e-150, 1e150  # the squares of these fit float64
ALONE = 8  # up to so many outputs are differentiated one at a time; of more, every second one, then the others


class Way(NamedTuple):
    """A way to compute gradients.

    label     for the names of findings
    walks     "plain"; "recorded": with create_graph=True; "zeros": for each output with gradients of 0 for the others, summed;
              "alone": backward() for each output separately, accumulating in .grad, everything twice
    fused     False switches fusion off
    laid_out  applied to the inputs
    upstream  applied to the incoming gradients
    """

    label: str
    walks: tuple[str, ...] = ("plain",)
    fused: bool = True
    laid_out: Callable[[Array], Array] = np.copy
    upstream: Callable[[Array], Array] = np.copy


def strided(a: Array) -> Array:
    """The same numbers as a reversed view of every second element of an array in Fortran order, with NaN in between."""
    buffer = np.full([2 * n for n in a.shape], np.nan, a.dtype, order="F")
    backwards: tuple[Any, ...] = (slice(None, None, -2),) * a.ndim
    view = buffer[(..., *backwards)]  # stays an array even without axes
    view[...] = a
    return view


def in_columns(a: Array) -> Array:
    """The same numbers in Fortran order."""
    return np.array(a, order="F")


PLAIN = Way("computed again")
# Ways tried together first, and one at a time if their gradient differs
TOGETHER: tuple[tuple[Way, tuple[Way, ...]], ...] = (
    (
        Way("backward() without fusion, in Fortran order", ("alone",), False, in_columns, in_columns),
        (
            Way("fusion off", fused=False),
            Way("inputs in Fortran order", laid_out=in_columns),
            Way("upstream gradients in Fortran order", upstream=in_columns),
            Way("backward() of each output alone", ("alone",)),
        ),
    ),
    (
        Way("create_graph=True, non-contiguous", ("recorded", "plain", "zeros"), laid_out=strided, upstream=strided),
        (
            Way("create_graph=True", ("recorded",)),
            Way("non-contiguous inputs", laid_out=strided),
            Way("non-contiguous upstream gradients", upstream=strided),
            Way("upstream gradients of 0", ("zeros",)),
        ),
    ),
)


class Ways:
    """The other code paths for one check."""

    def __init__(self, check: Check, notes: list[str]) -> None:
        self.check, self.problem, self.notes = check, check.problem, notes
        self.atol = float(getattr(check, "nondet_tol", 0.0))
        self.roundings: dict[bool, Rounding] = {}
        self.watch = Watch()

    def findings(self) -> list[Finding]:
        """Findings for differences in float64."""
        for way, parts in TOGETHER:
            if not (differences := self.differing(way)):
                continue
            # a non-deterministic gradient is not the fault of a path
            separate = self.differing(PLAIN, "nondeterministic") or [f for part in parts for f in self.differing(part)]
            if findings := [f for f in separate if f is not None] or [f for f in differences if f is not None]:
                return findings
        return []

    def differing(self, way: Way, verdict: str = "wrong") -> list[Any]:
        """Findings for gradients that differ; [None], with a note, if this way is not possible."""
        try:
            results = self.gradients(way)
        except Exception as error:  # users see errors themselves; this is about silent differences
            self.note(f"not checked with {way.label}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", way)
            return [None]
        if self.watch.changes:
            return self.changed()
        rounding, expected = self.room(way.fused), self.check.recorded
        for walk, gradients in results:
            if walk == "second":
                findings = self.compare("the second backward()", results[0][1], gradients, rounding, "nondeterministic")
            else:
                findings = self.compare(way.label, expected, gradients, rounding, verdict)
            if findings and not way.fused and not rounding().is_within(*SQUARED):
                self.note(f"not decided with {way.label}: {rounding().range}, which is what fusion is for", way)
                return [None]
            if findings:
                return findings
        return []

    def note(self, text: str, way: Way) -> None:
        """Note that a way could not be tried; not for combined ways, which are then tried one at a time."""
        if way not in [combined for combined, _ in TOGETHER] and text not in self.notes:
            self.notes.append(text)

    @contextlib.contextmanager
    def evaluated(self, laid_out: Callable[[Array], Array]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The outputs and leaves of the function with inputs changed by `laid_out`; restored afterwards."""
        self.problem.evaluations += 1
        leaves = self.problem.leaves()
        before = [t._data for t in leaves]
        try:
            for t in leaves:
                t._data = laid_out(t._data)
            with switched(recording=True), np.errstate(all="ignore"):
                yield self.problem.compute(leaves), leaves
        finally:
            for t, array in zip(leaves, before, strict=True):
                t._data = array

    def upstream(self, outputs: list[Tensor], change: Callable[[Array], Array] = np.copy) -> list[tuple[Tensor, Tensor]]:
        """Each output that has a gradient, with its incoming gradient."""
        parts = np.split(self.check.weights, np.cumsum([t.size for t in outputs])[:-1])
        pairs = zip(outputs, parts, strict=True)
        return [(t, wrap(change(w.reshape(t.shape).astype(t.dtype)), None)) for t, w in pairs if t.requires_grad]

    def gradients(self, way: Way) -> list[tuple[str, list[Array]]]:
        """The gradients by each walk of a way; for "second", the sums after running "alone" once more."""
        with switched(fusing=way.fused and state.fusing), self.evaluated(way.laid_out) as (outputs, leaves):
            pairs = self.upstream(outputs, way.upstream)
            results: list[tuple[str, list[Array]]] = []
            for walk in way.walks:
                if walk == "alone":
                    results += zip(("alone", "second"), self.accumulated(outputs, leaves, pairs), strict=True)
                elif walk == "zeros":
                    results.append((walk, self.beside_zeros(leaves, pairs)))
                else:
                    results.append((walk, arrays(walked(pairs, leaves, walk == "recorded"), leaves)))
            return results

    def beside_zeros(self, leaves: list[Tensor], pairs: list[tuple[Tensor, Tensor]]) -> list[Array]:
        """The sum of the gradients of each output with zeros for the others; for a single output, the effect of adding 0."""
        n = len(pairs)
        groups = [{i} for i in range(n)] if n <= ALONE else [set(range(0, n, 2)), set(range(1, n, 2))]
        sums = [np.zeros(x.shape, x.dtype) for x in leaves]
        if n == 1:
            groups, sums = [set()], list(self.check.recorded)
        for group in groups:
            partly_zero = [(t, w if i in group else wrap(np.zeros_like(w._data), None)) for i, (t, w) in enumerate(pairs)]
            sums = [a + g for a, g in zip(sums, arrays(walked(partly_zero, leaves, False), leaves), strict=True)]
        return sums

    def accumulated(
        self, outputs: list[Tensor], leaves: list[Tensor], pairs: list[tuple[Tensor, Tensor]]
    ) -> tuple[list[Array], list[Array]]:
        """The sum in `.grad` of backward() for one output after the other; and the sum after the same once more.

        The first time, each rule of an unfused pass is watched for writing to its arguments.
        """
        if len(pairs) > ALONE:  # as two losses
            terms = [(t * w).sum() for t, w in pairs]
            pairs = [(sum(half[1:], half[0]), wrap(np.ones(()), None)) for half in (terms[::2], terms[1::2])]
        graph = graph_of(outputs)
        all_leaves = dict.fromkeys([*leaves, *(t for t in (graph.leaves if graph else ()) if t.requires_grad)])
        before = [(t, t._grad) for t in all_leaves]
        sums: list[list[Array]] = []
        try:
            for t in all_leaves:
                t._grad = None
            with np.errstate(all="ignore"):
                targets = [t for t, _ in pairs]
                for roots in (
                    targets if state.fusing else self.watch.over(targets),
                    targets,
                ):  # patterns do not match watched ops
                    for root, (_, w) in zip(roots, pairs, strict=True):
                        backward(root, w, retain_graph=True)
                    sums.append([a.copy() for a in arrays([x._grad for x in leaves], leaves)])
        finally:
            for t, g in before:
                t._grad = g
        first, second = sums
        return first, [b - a for a, b in zip(first, second, strict=True)]

    def room(self, fused: bool) -> Callable[[], Rounding]:
        """The rounding errors of the gradients, computed on demand."""

        def rounding() -> Rounding:
            if fused not in self.roundings:
                self.roundings[fused] = self.measured(fused)
            return self.roundings[fused]

        return rounding

    def measured(self, fused: bool = True, eps: float = EPS, laid_out: Callable[[Array], Array] = np.copy) -> Rounding:
        """The rounding errors of the gradients, followed by those of the outputs."""
        try:
            return Rounding(self.traced(fused, laid_out), eps)
        except Exception:  # some rules only take arrays
            values = [*self.check.recorded, *(t._data for t in self.check.outputs)]
            rounding = Rounding([wrap(a, None) for a in values], eps)
            rounding.is_complete = False
            return rounding

    def traced(self, fused: bool, laid_out: Callable[[Array], Array]) -> list[Tensor]:
        """The gradients, followed by the outputs, with everything recorded."""
        with switched(fusing=fused and state.fusing, tracing=True), self.evaluated(laid_out) as (outputs, leaves):
            gradients = walked(self.upstream(outputs), leaves, True)
            return [
                *(wrap(np.zeros(x.shape), None) if g is None else g for g, x in zip(gradients, leaves, strict=True)),
                *outputs,
            ]

    def compare(
        self,
        label: str,
        expected: Sequence[Array],
        actual: Sequence[Array],
        rounding: Callable[[], Rounding],
        verdict: str = "wrong",
    ) -> list[Finding]:
        """A finding for each input whose gradients differ by more than rounding explains."""
        names = [f"{name} ({label})" for name in self.problem.names]
        return compare_gradients(names, self.check.order, expected, actual, rounding, verdict, self.atol)

    def changed(self) -> list[Finding]:
        """Findings for rules that have modified their arguments."""
        shapes = [(f"{op} (writes to {what})", shape) for op, what, shape in self.watch.changes]
        return [finding(name, shape, self.check.order, np.array(["wrong"])) for name, shape in dict(shapes).items()]


def compare_gradients(
    names: Sequence[str],
    order: int,
    expected: Sequence[Array],
    actual: Sequence[Array],
    rounding: Callable[[], Rounding],
    verdict: str = "wrong",
    atol: float = 0.0,
) -> list[Finding]:
    """A finding for each pair of gradients that differ by more than rounding explains; result i of `rounding` is gradient i."""
    findings = []
    for i, (name, e, f) in enumerate(zip(names, expected, actual, strict=True)):
        if f.shape != e.shape or f.dtype != e.dtype:
            description = f"{name}: {f.shape} {f.dtype}, its input is {e.shape} {e.dtype}"
            findings.append(finding(description, e.shape, order, np.array([verdict])))
            continue
        good = close(e, f, EPS, atol)
        if not good.all():
            good |= rounding().explains(i, e, f, atol)
        if not good.all():
            findings.append(finding(name, e.shape, order, np.where(good, "ok", verdict), f, e))
    return findings


def finding(
    name: str, shape: tuple[int, ...], order: int, verdicts: Array, actual: Array | None = None, expected: Array | None = None
) -> Finding:
    """A finding for gradients computed in two ways, or for one that is NaN: by the other way, and plainly."""
    nan = np.full(verdicts.shape, np.nan)
    actual, expected = nan if actual is None else actual, nan if expected is None else expected
    return Finding.of(name, shape, order, verdicts.astype("U16"), actual, expected, lambda at: str([int(n) for n in at] or "x"))


def walked(pairs: list[tuple[Tensor, Tensor]], leaves: list[Tensor], recorded: bool) -> tuple[Tensor | None, ...]:
    """The gradients for the incoming gradients at the outputs; None for a leaf that no output depends on."""
    if not pairs:
        return (None,) * len(leaves)
    outputs, gradients = zip(*pairs, strict=True)
    with np.errstate(all="ignore"):
        return grad(outputs, leaves, gradients, retain_graph=True, create_graph=recorded, allow_unused=True)


def arrays(gradients: Sequence[Tensor | None], leaves: list[Tensor]) -> list[Array]:
    """The gradients as arrays, 0 for None."""
    return [np.zeros(x.shape, x.dtype) if g is None else g._data for g, x in zip(gradients, leaves, strict=True)]
