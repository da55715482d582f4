"""The reverse walks of a step, as functions with numerical slopes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tensorgrad.compiler.containers import with_leaves
from tensorgrad.compiler.world import Objects, Snapshot
from tensorgrad.core.backend import Array, copy, finfo, may_overlap, on_gpu
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.testing.alone import EPS32, by_op
from tensorgrad.testing.checks import Check
from tensorgrad.testing.paths import Ways
from tensorgrad.testing.point import random_weights
from tensorgrad.testing.problem import Problem, gradients, outputs_of, raised
from tensorgrad.testing.report import PASSED, Finding
from tensorgrad.testing.rounding import Rounding, close
from tensorgrad.testing.single import undecided
from tensorgrad.testing.trial import Trial

SINGLE = 1e-2  # relative tolerance of float32 slopes, because units of a ReLU may switch
LOW = " in float"  # in the names of findings below float64, followed by the number of bits


class StopStep(BaseException):
    """Ends a step early; a BaseException, so that its own `except Exception` does not catch it."""


class Walks:
    """The reverse walks of a step up to its first update, as functions of its parameters and of the arguments that require a
    gradient. None if something is on a GPU, because slopes are computed on the CPU.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        trace = trial.trace
        # leaves that the step itself creates are not parameters
        leaves = [t for t in trace.program().leaves if t.requires_grad and not trace.is_argument(t) and not trace.is_inside(t)]
        self.parameters = list(
            dict.fromkeys([*leaves, *(t for t in trial.world.tensors if t.requires_grad and t.node is None)])
        )
        self.count = 0
        if not any(on_gpu(a) for a in [*trial.arrays, *(t._data for t in trial.tensors)]):
            with trial.put_back():
                self.count = len(self.starts(self.fresh_arguments([copy(a) for a in trial.arrays])[0]))

    def fresh_arguments(self, arrays: list[Array]) -> tuple[Any, list[Tensor]]:
        """The arguments, and those of them that require a gradient."""
        leaves = [wrap(a, None) for a in arrays]
        return with_leaves(self.trial.args, iter(leaves)), [t for t in leaves if t.requires_grad]

    def starts(self, args: Any, which: int | None = None) -> list[list[Tensor]]:
        """The Tensors that walks start from; the step ends at number `which`, or at the first update."""
        before = [(t, t._data, t._data.copy()) for t in self.parameters]
        all_roots: list[list[Tensor]] = []

        def walked(roots: list[Tensor]) -> None:
            if any(t._data is not array or not np.array_equal(array, values, equal_nan=True) for t, array, values in before):
                raise StopStep
            all_roots.append(list(roots))
            if len(all_roots) - 1 == which:
                raise StopStep

        with contextlib.suppress(StopStep), switched(walked=walked, recording=True), np.errstate(all="ignore"):
            self.trial.step(*args)
        return all_roots

    @contextlib.contextmanager
    def problem(self, which: int, seed: int) -> Iterator[Problem]:
        """Context manager: one walk in float64, with parameters, buffers and arguments converted inside the block."""
        trial, world = self.trial, self.trial.world
        with trial.put_back():
            own_args, own_leaves = self.fresh_arguments([copy(a) for a in trial.arrays])
            roots = self.starts(own_args, which)[which]
            weights = random_weights(np.random.default_rng(seed), (sum(t.size for t in roots),))  # the same as in Check
            parts = np.split(weights, np.cumsum([t.size for t in roots])[:-1])
            shaped = [w.reshape(t.shape) for w, t in zip(parts, roots, strict=True)]
            self.original_roots = [t._data for t in roots]
            self.original_gradients = gradients(roots, [*self.parameters, *own_leaves], shaped)
        arrays = [raised(a) for a in trial.arrays]
        for t in dict.fromkeys([*self.parameters, *world.tensors]):
            t.data, t._grad = raised(t._data), None
        for module in world.modules:
            module._buffers.update({name: np.array(raised(a)) for name, a in module._buffers.items()})
        others = [t._data for t in set(world.tensors).difference(self.parameters)]
        others += [a for module in world.modules for a in module._buffers.values()]
        others += [a for a, _, _ in trial.start.arrays if not any(may_overlap(a, b) for b in others)]
        state, python = Snapshot([(a, "") for a in others], world, trial.tensors), Objects(world)
        args: list[Any] = []

        def leaves() -> list[Tensor]:
            args[:], own_leaves = self.fresh_arguments(arrays)
            return [*self.parameters, *own_leaves]

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            state.put_back()
            python.put_back()
            return outputs_of("check_compiled", self.starts(args, which)[which], leaves)

        own_leaves = self.fresh_arguments(arrays)[1]
        names = [trial.names.get(t, f"a Tensor {t.shape}") for t in self.parameters] + [
            f"argument {i}" for i in range(len(own_leaves))
        ]
        yield Problem(names, [t._data for t in [*self.parameters, *own_leaves]], leaves, compute)

    def findings(self, which: int, check: Check) -> list[Finding]:
        """Findings for the slope of each parameter along a direction, and for gradients in single precision."""
        walk = f" (walk {which + 1} of {self.count})" if self.count > 1 else ""
        if results := check.unfit():
            return results
        low = LowPrecision(check, self.original_roots)
        for i, (name, g) in enumerate(zip(check.problem.names, self.original_gradients, strict=True)):
            along = check.along(i, name + walk)
            results.append(along)
            if along.verdict in PASSED and g.dtype.itemsize < 8:
                results[-1:] = low.findings(i, name + walk, g) or [along]
        if not any(f.verdict not in PASSED for f in results):
            results += low.of_rules()
        return results


class LowPrecision:
    """Gradients of a walk in lower precision, compared with those in float64.

    roots  the arrays that the walk starts from, in lower precision
    """

    def __init__(self, check: Check, roots: list[Array]) -> None:
        self.check, self.roots, self.doubt = check, roots, ""
        self.ways = Ways(check, [])

    def findings(self, i: int, name: str, g: Array) -> list[Finding]:
        """A finding if the gradient of input i differs from that in float64 by more than rounding explains."""
        e = self.check.recorded[i]
        if g.dtype != np.float32:
            return self.coarse(i, name, g)
        good, f = close(e, g, EPS32), g.astype(np.float64)
        if not good.all():
            good |= self.rounding.explains(i, e, f)
        if good.all():
            return []
        if doubt := undecided(self.rounding, self.roots, len(self.check.recorded)):
            self.doubt = doubt
            return self.coarse(i, name, g)
        verdicts = np.where(good, "ok", "wrong").astype("U16")
        return [
            Finding.of(
                name, g.shape, 1, verdicts, f, e, lambda at: f"{[int(n) for n in at] or 'x'},{LOW}{8 * g.dtype.itemsize}"
            )
        ]

    @cached_property
    def rounding(self) -> Rounding:
        return self.ways.measured(eps=EPS32)

    def coarse(self, i: int, name: str, g: Array) -> list[Finding]:
        """A finding if the difference cannot be due to ReLU units that switch; used if nothing else is known."""
        largest = max((float(np.abs(a).max(initial=0)) for a in self.check.recorded), default=0.0)
        terms, single = self.check.recorded[i] * (direction := self.check.point.directions[i]), (g * direction).sum()
        slope, size = terms.sum(), float(np.sqrt((terms * terms).sum()))
        eps = float(finfo(g.dtype).eps)
        tolerance = max(SINGLE, 50 * eps) * max(abs(slope), size)
        tolerance += 50 * eps * largest * np.sqrt(g.size)  # for sums that cancel, such as a bias before batch norm
        if abs(single - slope) <= tolerance:
            return []
        wrong = np.array(["wrong"]), np.array([single]), np.array([slope])
        return [Finding.of(name, g.shape, 1, *wrong, lambda at: f"along a direction,{LOW}{8 * g.dtype.itemsize}")]

    def of_rules(self) -> list[Finding]:
        """Findings from each rule alone, if the whole is undecided."""
        return by_op(self.ways, "") if self.doubt else []
