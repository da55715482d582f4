"""The path people run: the gradients of a check, found in every other way in which a user gets them.

A gradient check compares what one backward pass over contiguous arrays in float64 gives. People record the pass
(create_graph=True), switch fusion off, come with transposed and strided arrays, call backward() twice, on one of several
outputs, train in float32, compile the step. All of that has to give the same gradients to rounding (rounding.py), and does
not where a rule looks at how its arguments lie in memory, at their dtype, at whether they are Tensors, or writes to them.

Two passes go all of these ways at once; where they give what the plain one gave, nothing else is to be done. Where they do
not, the ways are gone one at a time, to say which it is.
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

SQUARED = 1e-150, 1e150  # numbers whose squares float64 can hold
ALONE = 8  # so many outputs are gone back from one at a time; of more, every second one, and then the others


class Way(NamedTuple):
    """How gradients are found.

    label     in the name of a finding
    walks     "plain"; "recorded": with create_graph=True; "zeros": from one output, 0 coming in at all others, added up;
              "alone": backward() from each output on its own, adding up in .grad, and all of that a second time
    fused     with fusion as it is; else it is switched off
    laid_out  what is made of the inputs
    upstream  what is made of the gradients that come in
    """

    label: str
    walks: tuple[str, ...] = ("plain",)
    fused: bool = True
    laid_out: Callable[[Array], Array] = np.copy
    upstream: Callable[[Array], Array] = np.copy


def strided(a: Array) -> Array:
    """The same numbers in every second place of an array in Fortran order, backwards; NaN between them."""
    around = np.full([2 * n for n in a.shape], np.nan, a.dtype, order="F")
    backwards: tuple[Any, ...] = (slice(None, None, -2),) * a.ndim
    view = around[(..., *backwards)]  # an array, though it may have no axes
    view[...] = a
    return view


def in_columns(a: Array) -> Array:
    """The same numbers in Fortran order."""
    return np.array(a, order="F")


PLAIN = Way("computed again")
# Each way to be gone together with others, and by itself once they are seen to give another gradient
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
    """The other ways of one check."""

    def __init__(self, check: Check, notes: list[str]) -> None:
        self.check, self.problem, self.notes = check, check.problem, notes
        self.atol = float(getattr(check, "nondet_tol", 0.0))
        self.known: dict[bool, Rounding] = {}
        self.watch = Watch()

    def findings(self) -> list[Finding]:
        """What differs in float64."""
        for way, parts in TOGETHER:
            if not (found := self.differing(way)):
                continue
            # what is another gradient each time is nothing that one of the ways makes of it
            each = self.differing(PLAIN, "nondeterministic") or [f for part in parts for f in self.differing(part)]
            if findings := [f for f in each if f is not None] or [f for f in found if f is not None]:
                return findings
        return []

    def differing(self, way: Way, verdict: str = "wrong") -> list[Any]:
        """Findings for the gradients that are others on this way; [None] if it cannot be gone, of which a note is made."""
        try:
            found = self.gradients(way)
        except Exception as error:  # a refusal is seen by everybody; this is about what nobody sees
            self.note(f"not checked with {way.label}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", way)
            return [None]
        if self.watch.changes:
            return self.changed()
        rounding, expected = self.room(way.fused), self.check.recorded
        for walk, gradients in found:
            if walk == "second":
                findings = self.compare("the second backward()", found[0][1], gradients, rounding, "nondeterministic")
            else:
                findings = self.compare(way.label, expected, gradients, rounding, verdict)
            if findings and not way.fused and not rounding().is_within(*SQUARED):
                self.note(f"not decided with {way.label}: {rounding().range}, which is what fusion is for", way)
                return [None]
            if findings:
                return findings
        return []

    def note(self, text: str, way: Way) -> None:
        """Say what could not be found out; not of several ways at once, each of which is gone by itself then."""
        if way not in [together for together, _ in TOGETHER] and text not in self.notes:
            self.notes.append(text)

    @contextlib.contextmanager
    def evaluated(self, laid_out: Callable[[Array], Array]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The outputs and the leaves of the function at arrays that `laid_out` makes of its inputs; put back afterwards."""
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

    def upstream(self, outputs: list[Tensor], made: Callable[[Array], Array] = np.copy) -> list[tuple[Tensor, Tensor]]:
        """Each output that has a gradient, with the gradient that comes in there."""
        parts = np.split(self.check.weights, np.cumsum([t.size for t in outputs])[:-1])
        pairs = zip(outputs, parts, strict=True)
        return [(t, wrap(made(w.reshape(t.shape).astype(t.dtype)), None)) for t, w in pairs if t.requires_grad]

    def gradients(self, way: Way) -> list[tuple[str, list[Array]]]:
        """Those found by each walk of one way; by "second", what going "alone" once more has added to them."""
        with switched(fusing=way.fused and state.fusing), self.evaluated(way.laid_out) as (outputs, leaves):
            pairs = self.upstream(outputs, way.upstream)
            found: list[tuple[str, list[Array]]] = []
            for walk in way.walks:
                if walk == "alone":
                    found += zip(("alone", "second"), self.accumulated(outputs, leaves, pairs), strict=True)
                elif walk == "zeros":
                    found.append((walk, self.beside_zeros(leaves, pairs)))
                else:
                    found.append((walk, arrays(walked(pairs, leaves, walk == "recorded"), leaves)))
            return found

    def beside_zeros(self, leaves: list[Tensor], pairs: list[tuple[Tensor, Tensor]]) -> list[Array]:
        """The sum of what comes of each output, 0 coming in at the others; of one output alone, what 0 adds to it."""
        n = len(pairs)
        groups = [{i} for i in range(n)] if n <= ALONE else [set(range(0, n, 2)), set(range(1, n, 2))]
        sums = [np.zeros(x.shape, x.dtype) for x in leaves]
        if n == 1:
            groups, sums = [set()], list(self.check.recorded)
        for group in groups:
            given = [(t, w if i in group else wrap(np.zeros_like(w._data), None)) for i, (t, w) in enumerate(pairs)]
            sums = [a + g for a, g in zip(sums, arrays(walked(given, leaves, False), leaves), strict=True)]
        return sums

    def accumulated(
        self, outputs: list[Tensor], leaves: list[Tensor], pairs: list[tuple[Tensor, Tensor]]
    ) -> tuple[list[Array], list[Array]]:
        """What backward() of one output after the other adds up to in `.grad`; and what the same adds to that once more.

        The first time is watched: each rule of an unfused pass is asked whether it has written to what it was given.
        """
        if len(pairs) > ALONE:  # two losses
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
                given = [t for t, _ in pairs]
                for roots in (given if state.fusing else self.watch.over(given), given):  # no pattern has watched ops in it
                    for root, (_, w) in zip(roots, pairs, strict=True):
                        backward(root, w, retain_graph=True)
                    sums.append([a.copy() for a in arrays([x._grad for x in leaves], leaves)])
        finally:
            for t, g in before:
                t._grad = g
        first, both = sums
        return first, [b - a for a, b in zip(first, both, strict=True)]

    def room(self, fused: bool) -> Callable[[], Rounding]:
        """What rounding makes of the gradients, once somebody asks."""

        def rounding() -> Rounding:
            if fused not in self.known:
                self.known[fused] = self.measured(fused)
            return self.known[fused]

        return rounding

    def measured(self, fused: bool = True, eps: float = EPS, laid_out: Callable[[Array], Array] = np.copy) -> Rounding:
        """What rounding makes of the gradients, and after them of the outputs."""
        try:
            return Rounding(self.traced(fused, laid_out), eps)
        except Exception:  # some rules take arrays only
            found = [*self.check.recorded, *(t._data for t in self.check.outputs)]
            rounding = Rounding([wrap(a, None) for a in found], eps)
            rounding.is_whole = False
            return rounding

    def traced(self, fused: bool, laid_out: Callable[[Array], Array]) -> list[Tensor]:
        """The gradients, and after them the outputs, with all that they are computed from recorded."""
        with switched(fusing=fused and state.fusing, tracing=True), self.evaluated(laid_out) as (outputs, leaves):
            found = walked(self.upstream(outputs), leaves, True)
            return [*(wrap(np.zeros(x.shape), None) if g is None else g for g, x in zip(found, leaves, strict=True)), *outputs]

    def compare(
        self,
        label: str,
        expected: Sequence[Array],
        found: Sequence[Array],
        rounding: Callable[[], Rounding],
        verdict: str = "wrong",
    ) -> list[Finding]:
        """A finding for each input whose gradients are further apart than rounding explains."""
        names = [f"{name} ({label})" for name in self.problem.names]
        return apart(names, self.check.order, expected, found, rounding, verdict, self.atol)

    def changed(self) -> list[Finding]:
        """Findings for the rules that have written to what they were given."""
        named = [(f"{op} (writes to {what})", shape) for op, what, shape in self.watch.changes]
        return [finding(name, shape, self.check.order, np.array(["wrong"])) for name, shape in dict(named).items()]


def apart(
    names: Sequence[str],
    order: int,
    expected: Sequence[Array],
    found: Sequence[Array],
    rounding: Callable[[], Rounding],
    verdict: str = "wrong",
    atol: float = 0.0,
) -> list[Finding]:
    """A finding for each pair of gradients that are further apart than rounding explains; result i of that is gradient i."""
    findings = []
    for i, (name, e, f) in enumerate(zip(names, expected, found, strict=True)):
        if f.shape != e.shape or f.dtype != e.dtype:
            what = f"{name}: {f.shape} {f.dtype}, its input is {e.shape} {e.dtype}"
            findings.append(finding(what, e.shape, order, np.array([verdict])))
            continue
        good = close(e, f, EPS, atol)
        if not good.all():
            good |= rounding().explains(i, e, f, atol)
        if not good.all():
            findings.append(finding(name, e.shape, order, np.where(good, "ok", verdict), f, e))
    return findings


def finding(
    name: str, shape: tuple[int, ...], order: int, verdicts: Array, found: Array | None = None, expected: Array | None = None
) -> Finding:
    """What is printed of gradients found in two ways, or of one that is no number: by the other way, and plainly."""
    nan = np.full(verdicts.shape, np.nan)
    found, expected = nan if found is None else found, nan if expected is None else expected
    return Finding.of(name, shape, order, verdicts.astype("U16"), found, expected, lambda at: str([int(n) for n in at] or "x"))


def walked(pairs: list[tuple[Tensor, Tensor]], leaves: list[Tensor], recorded: bool) -> tuple[Tensor | None, ...]:
    """The gradients of what comes in at the outputs, None for a leaf that none of them was computed from."""
    if not pairs:
        return (None,) * len(leaves)
    outputs, gradients = zip(*pairs, strict=True)
    with np.errstate(all="ignore"):
        return grad(outputs, leaves, gradients, retain_graph=True, create_graph=recorded, allow_unused=True)


def arrays(found: Sequence[Tensor | None], leaves: list[Tensor]) -> list[Array]:
    """The gradients' arrays, 0 where there is none."""
    return [np.zeros(x.shape, x.dtype) if g is None else g._data for g, x in zip(found, leaves, strict=True)]
