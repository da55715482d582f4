"""The reverse walks of a step, as functions whose slopes can be taken."""

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

SINGLE = 1e-2  # of a slope, or of the terms of it: so far may float32's be from float64's, for units of ReLU may turn over
LOW = " in float"  # in the findings of less than float64, which go on with its bits


class Reached(BaseException):
    """A step has come as far as it is asked to; no `except Exception` of its own stops that."""


class Walks:
    """The reverse walks of a step, up to its first update, as functions of its parameters and of the arguments that require a
    gradient. None where something is on a GPU: slopes are taken on the CPU."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        trace = trial.trace
        # those that the step makes for itself, to differentiate by, are none of its parameters
        leaves = [t for t in trace.program().leaves if t.requires_grad and not trace.is_argument(t) and not trace.is_inside(t)]
        self.parameters = list(
            dict.fromkeys([*leaves, *(t for t in trial.world.tensors if t.requires_grad and t.node is None)])
        )
        self.count = 0
        if not any(on_gpu(a) for a in [*trial.arrays, *(t._data for t in trial.tensors)]):
            with trial.put_back():
                self.count = len(self.begun(self.given([copy(a) for a in trial.arrays])[0]))

    def given(self, arrays: list[Array]) -> tuple[Any, list[Tensor]]:
        """The arguments, and those of them that require a gradient."""
        leaves = [wrap(a, None) for a in arrays]
        return with_leaves(self.trial.args, iter(leaves)), [t for t in leaves if t.requires_grad]

    def begun(self, args: Any, which: int | None = None) -> list[list[Tensor]]:
        """The Tensors that walks begin at; from number `which` on, or from the first update, the step goes no further."""
        before = [(t, t._data, t._data.copy()) for t in self.parameters]
        found: list[list[Tensor]] = []

        def walked(roots: list[Tensor]) -> None:
            if any(t._data is not array or not np.array_equal(array, values, equal_nan=True) for t, array, values in before):
                raise Reached
            found.append(list(roots))
            if len(found) - 1 == which:
                raise Reached

        with contextlib.suppress(Reached), switched(walked=walked, recording=True), np.errstate(all="ignore"):
            self.trial.step(*args)
        return found

    @contextlib.contextmanager
    def problem(self, which: int, seed: int) -> Iterator[Problem]:
        """One of them in float64; parameters, buffers and arguments are raised to that inside of the block."""
        trial, world = self.trial, self.trial.world
        with trial.put_back():
            given, mine = self.given([copy(a) for a in trial.arrays])
            roots = self.begun(given, which)[which]
            weights = random_weights(np.random.default_rng(seed), (sum(t.size for t in roots),))  # those of Check
            parts = np.split(weights, np.cumsum([t.size for t in roots])[:-1])
            shaped = [w.reshape(t.shape) for w, t in zip(parts, roots, strict=True)]
            self.roots_as_they_are = [t._data for t in roots]
            self.as_it_is = gradients(roots, [*self.parameters, *mine], shaped)
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
            args[:], mine = self.given(arrays)
            return [*self.parameters, *mine]

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            state.put_back()
            python.put_back()
            return outputs_of("check_compiled", self.begun(args, which)[which], leaves)

        mine = self.given(arrays)[1]
        names = [trial.names.get(t, f"a Tensor {t.shape}") for t in self.parameters] + [
            f"argument {i}" for i in range(len(mine))
        ]
        yield Problem(names, [t._data for t in [*self.parameters, *mine]], leaves, compute)

    def findings(self, which: int, check: Check) -> list[Finding]:
        """The slope along a direction for each parameter on its own, and of what single precision makes of the gradient."""
        walk = f" (walk {which + 1} of {self.count})" if self.count > 1 else ""
        if found := check.unfit():
            return found
        low = Low(check, self.roots_as_they_are)
        for i, (name, g) in enumerate(zip(check.problem.names, self.as_it_is, strict=True)):
            along = check.along(i, name + walk)
            found.append(along)
            if along.verdict in PASSED and g.dtype.itemsize < 8:
                found[-1:] = low.findings(i, name + walk, g) or [along]
        if not any(f.verdict not in PASSED for f in found):
            found += low.of_rules()
        return found


class Low:
    """Gradients of a walk in less than float64, beside those in float64.

    roots  what the walk begins at in less than float64, arrays
    """

    def __init__(self, check: Check, roots: list[Array]) -> None:
        self.check, self.roots, self.doubt = check, roots, ""
        self.ways = Ways(check, [])

    def findings(self, i: int, name: str, g: Array) -> list[Finding]:
        """What is further away from the gradient of input i in float64 than rounding explains."""
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
        """What no unit of ReLU that turns over makes of a slope, where nothing more is known."""
        largest = max((float(np.abs(a).max(initial=0)) for a in self.check.recorded), default=0.0)
        terms, single = self.check.recorded[i] * (direction := self.check.point.directions[i]), (g * direction).sum()
        slope, size = terms.sum(), float(np.sqrt((terms * terms).sum()))
        eps = float(finfo(g.dtype).eps)
        room = max(SINGLE, 50 * eps) * max(abs(slope), size)
        room += 50 * eps * largest * np.sqrt(g.size)  # of sums that cancel, such as a bias before a batch norm
        if abs(single - slope) <= room:
            return []
        wrong = np.array(["wrong"]), np.array([single]), np.array([slope])
        return [Finding.of(name, g.shape, 1, *wrong, lambda at: f"along a direction,{LOW}{8 * g.dtype.itemsize}")]

    def of_rules(self) -> list[Finding]:
        """What is wrong of the rules on their own, where nothing is known of all together."""
        return by_op(self.ways, "") if self.doubt else []
