"""A case of the corpus: a function or a model at a point that a seed draws, and what a check has to say about it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tensorgrad import nn
from tensorgrad.testing import Report, check_model, gradcheck
from tensorgrad.testing.problem import raised

FULL, DIRECTIONAL = "full", "directional"
BOTH = (FULL, DIRECTIONAL)


class Problem(Protocol):
    def check(self, **how: Any) -> Report: ...


@dataclass
class Function:
    """gradcheck(fn, inputs)"""

    fn: Callable[..., Any]
    inputs: Any

    def check(self, **how: Any) -> Report:
        return gradcheck(self.fn, self.inputs, raises=False, **how)

    def compute(self, arrays: Sequence[np.ndarray]) -> tuple[Any, list[Any]]:
        """What fn gives, recorded, and the Tensors of the floating inputs; for the oracle."""
        from tensorgrad import Tensor

        given = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        left = iter(arrays)
        args = [Tensor(next(left), True) if is_checked(a) else a for a in given]
        return self.fn(*args), [a for a in args if isinstance(a, Tensor) and a.requires_grad]

    @property
    def arrays(self) -> list[np.ndarray]:
        given = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        return [np.array(a, np.float64) for a in given if is_checked(a)]


@dataclass
class Model:
    """check_model(model, loss, x, y)"""

    model: nn.Module
    loss: Callable[[Any, Any], Any]
    x: Any
    y: Any

    def check(self, **how: Any) -> Report:
        return check_model(self.model, self.loss, self.x, self.y, raises=False, **how)

    def compute(self, arrays: Sequence[np.ndarray]) -> tuple[Any, list[Any]]:
        model = copy.deepcopy(self.model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p, a in zip(parameters, arrays, strict=True):
            p._replace(np.array(a))
        for module in dict(model.named_modules()).values():
            module._buffers.update({name: np.array(raised(array)) for name, array in module._buffers.items()})
        return self.loss(model(raised(self.x)), raised(self.y)), parameters

    @property
    def arrays(self) -> list[np.ndarray]:
        return [np.array(p.data, np.float64) for p in self.model.parameters() if p.requires_grad]


def is_checked(a: Any) -> bool:
    return isinstance(a, float) or getattr(a, "dtype", np.dtype(bool)).kind == "f"


@dataclass(frozen=True)
class Case:
    """
    name     what it is
    kind     what sort of fault, or of hostile point
    make     the problem for a seed: what is random in it, its point included, comes from that
    wrong    whether its gradient is wrong; a check has to fail then, whatever the seeds, in every mode and at the order named
    order    2 where the fault shows only there
    modes    in which the verdict is certain
    allowed  for right functions: verdicts that are no refusal. "precision" only where float64 cannot decide
    options  further arguments of the check
    around   a context to run in: something broken for the time being
    known    how it is known to be wrong, or right, where that is not evident
    twin     for a wrong one: whether a check of it with the fault mended must pass
    shows    where a wrong one is: "" at the point as it is; "float32"; "unfused"; "silent", the first output having weight 0
    """

    name: str
    kind: str
    make: Callable[[int], Problem]
    wrong: bool
    order: int = 1
    modes: tuple[str, ...] = BOTH
    allowed: frozenset[str] = frozenset({"ok"})
    options: Mapping[str, Any] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    known: str = ""
    twin: bool = True
    shows: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"

    def run(self, seed: int, mode: str) -> Report:
        """The report at one seed: it draws the problem, and another from it seeds the check."""
        with self.around():
            return self.make(seed).check(order=self.order, mode=mode, seed=check_seed(seed), **self.options)


def outcome_of(case: Case, seed: int, mode: str, twin: bool = False) -> str:
    """ "" as it should be; "passed", of a wrong one; or the verdict (or the error) that a right one was refused with.

    twin   the fault mended: then a wrong one is a right one
    """
    from tests.rates.faults import mended

    try:
        with mended() if twin else nullcontext():
            report = case.run(seed, mode)
    except Exception as error:
        return f"raised {type(error).__name__}" if twin or not case.wrong else ""
    if case.wrong and not twin:
        return "passed" if report else ""
    refused = {v for v, n in report.verdicts.items() if n} - case.allowed
    return next((v for v in SEVERITY if v in refused), "")


SEVERITY = ("nondeterministic", "wrong", "non-finite", "differs", "precision", "kink", "ok")


def check_seed(seed: int) -> int:
    """Another seed, so that the directions of a check have nothing to do with the numbers of the problem."""
    return 7919 * seed + 1


CORPUS: dict[str, Case] = {}


def add(case: Case) -> None:
    if str(case) in CORPUS:
        raise ValueError(f"{case} is in the corpus twice")
    CORPUS[str(case)] = case
