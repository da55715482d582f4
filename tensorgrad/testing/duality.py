"""Compares the two rules of an op: for all tangents v and gradients u, <J v, u> = <v, Jᵀ u>.

`jvp` gives J v and `backward` gives Jᵀ u; there are no finite differences, so they agree to the last digits (Griewank and
Walther, Evaluating Derivatives, 2008, section 3.2). If both rules have the same error they pass; numerical slopes find that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.autograd.forward import Linearised
from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.op import Op
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor
from tensorgrad.testing.problem import arguments
from tensorgrad.testing.recording import Recording
from tensorgrad.testing.report import Finding

LARGEST = 1e-12  # tolerance relative to the sum of the absolute terms of both products
EPS = float(np.finfo(np.float64).eps)
RUNS, MARGIN = 4, 64  # beyond it, perturb the arguments so often, and allow the change times this margin


def dual(op: Op, args: Sequence[Any], attrs: Mapping[str, Any]) -> list[Finding]:
    """Findings for an op whose own `jvp` contradicts its `backward`, for arrays and for recorded Tensors."""
    return compared(op, args, attrs)


def check_user_ops(recording: Recording) -> list[Finding]:
    """The same for each recorded user-defined op, at its recorded values."""
    nodes = [n for n in recording.nodes if not type(n.op).__module__.startswith("tensorgrad.")]
    if not nodes or not recording.is_complete:  # otherwise recomputed values may differ
        return []
    by_op: dict[Op, Finding] = {}
    for node in nodes:
        if node.op not in by_op:
            args = arguments(node, recording.node_values)
            if findings := compared(node.op, args, node.attrs, node.op.name):
                by_op[node.op] = findings[0]
    return list(by_op.values())


def compared(op: Op, args: Sequence[Any], attrs: Mapping[str, Any], name: str = "") -> list[Finding]:
    """The findings, named by argument, or all by `name`."""
    wrt = [i for i, a in enumerate(args) if is_floating(getattr(a, "dtype", np.dtype(bool))) and not op.is_data(i)]
    if op.jvp is None or op.backward is None or op.calls or not wrt:
        return []
    args = [
        np.asarray(a, np.float64) if i in wrt else np.asarray(a) if isinstance(a, np.generic) else a for i, a in enumerate(args)
    ]
    findings = []
    for moving in [[i] for i in wrt] + ([wrt] if len(wrt) > 1 else []):
        shape, at = np.shape(args[moving[0]]), f"argument {moving[0]}" if len(moving) == 1 else "all arguments"
        place = f"{name or f'input {moving[0]}'} (jvp)"
        try:
            fault = Products(op, args, attrs, wrt, moving).fault()
        except Exception as error:
            message = f"{at}: {type(error).__name__}: {error}"
            findings.append(Finding.single(place, shape, 1, "wrong", message))
            return findings
        if fault is not None:
            tangent, gradient, how = fault
            where = f"<J v, u>, {at}{how}"
            findings.append(Finding.single(place, shape, 1, "wrong", where, gradient, tangent))
    return findings


class Products:
    """<J v, u> and <v, Jᵀ u> of one call of an op, with some arguments moving along a random v."""

    def __init__(
        self, op: Op, args: Sequence[Any], attrs: Mapping[str, Any], wrt: Sequence[int], moving: Sequence[int]
    ) -> None:
        self.op, self.args, self.attrs, self.wrt, self.moving = op, args, attrs, wrt, moving
        self.rng = np.random.default_rng(0)
        self.v = {i: self.rng.normal(size=np.shape(args[i])) for i in moving}
        self.u: Array | None = None

    def fault(self) -> tuple[float, float, str] | None:
        """Both products and how they were computed, if neither rounding nor a kink nearby explains the difference."""
        for how, recorded in (("", False), (", recorded", True)):
            try:
                tangent, gradient, size = self.at(self.args, recorded)
            except Exception:
                if recorded:  # one of the rules only takes arrays
                    continue
                raise
            if not np.isfinite(gradient + size):
                continue
            if self.differs(tangent, gradient, LARGEST * size):
                nearby = [self.at(self.perturbed(), recorded) for _ in range(RUNS)]
                with np.errstate(all="ignore"):
                    spread = max(max(abs(t - tangent), abs(g - gradient)) for t, g, _ in nearby)
                if self.differs(tangent, gradient, LARGEST * size + MARGIN * spread):
                    return tangent, gradient, how
        return None

    def differs(self, tangent: float, gradient: float, tolerance: float) -> bool:
        return not abs(tangent - gradient) <= tolerance and not np.isinf(tolerance)

    def perturbed(self) -> list[Any]:
        """The arguments, perturbed by rounding errors."""
        result = list(self.args)
        for i in self.wrt:
            a = np.asarray(result[i])
            result[i] = a + 8 * EPS * self.rng.uniform(-1, 1, a.shape) * np.where(a != 0, np.abs(a), 1.0)
        return result

    def at(self, args: Sequence[Any], recorded: bool) -> tuple[float, float, float]:
        """<J v, u>, <v, Jᵀ u> and the sum of the absolute terms of both."""
        with fusion.off(), switched(recording=True), np.errstate(all="ignore"):
            tensors = [Tensor(np.array(a), i in self.wrt) if isinstance(a, np.ndarray) else a for i, a in enumerate(args)]
            y = self.op(*tensors, **self.attrs)
            if self.u is None:
                self.u = self.rng.normal(size=y.shape)
            leaves = [tensors[i] for i in self.moving]
            v = [self.v[i].copy() for i in self.moving]
            moves = dict(zip(leaves, map(Tensor, v) if recorded else v, strict=True))
            (t,) = Linearised([y])(moves)
            gradients = grad(y, leaves, self.u.copy(), retain_graph=True, allow_unused=True)
        t = t.data if isinstance(t, Tensor) else np.asarray(t)
        gs = [np.zeros(x.shape) if g is None else g.data for g, x in zip(gradients, leaves, strict=True)]
        with np.errstate(all="ignore"):
            terms = [t * self.u, *(g * self.v[i] for g, i in zip(gs, self.moving, strict=True))]
            tangent, gradient = float(terms[0].sum()), float(sum(a.sum() for a in terms[1:]))
            return tangent, gradient, float(sum(np.abs(a).sum() for a in terms))
