"""Faults of known size, and a switch that mends them all: the same values, with right gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad import Tensor, ops
from tensorgrad.op import REGISTRY, Op
from tests.rates.case import BOTH, Case, Function, Model, Problem, add


class Switch:
    mended = False


@contextmanager
def mended() -> Iterator[None]:
    """Inside, no fault of this module is one: for the oracle, and for checks that must pass then."""
    Switch.mended = True
    try:
        yield
    finally:
        Switch.mended = False


# Outside of every rule


def scaled(y: Any, f: Any) -> Any:
    """The value of y, with f times its gradient."""
    return y if Switch.mended else y * f - y.detach() * (f - 1)


def hidden(y: Any) -> Any:
    """The value of y, without its gradient."""
    return y if Switch.mended else y.detach()


def frozen(y: Any) -> Any:
    """The value of y as NumPy has it."""
    return y if Switch.mended else np.array(y.data)


def number(y: Any) -> Any:
    """The value of a 0-d y as a Python number."""
    return y if Switch.mended else float(y.data)


# In a rule

Part = Callable[..., Any]  # (g, y, *inputs) -> the gradient of one input


def rule(
    forward: Callable[..., Any],
    right: Part | Sequence[Part],
    wrong: Part | Sequence[Part],
    signature: str = "",
    reads: str = "y xs",
    name: str = "my_op",
) -> Op:
    """An op that computes forward(xp, *inputs), its gradients by `wrong` (by `right` when mended), one function for each input.

    It is not registered: what goes over all ops does not meet it.
    """
    rights, wrongs = ([parts] if callable(parts) else list(parts) for parts in (right, wrong))
    n = len(wrongs)

    def backward(self: Op, g: Any, y: Any, *xs: Any) -> Any:
        parts = rights if Switch.mended else wrongs
        return tuple(lambda part=part: part(g, y, *xs) for part in parts)

    def compute(self: Op, xp: Any, *xs: Any) -> Any:
        return forward(xp, *xs)

    text = "y = f(x)\n\nforward    y = f(x)\nbackward   gx = ?\n"
    body = {
        "name": name, "signature": signature or ",".join(["()"] * n) + "->()", "reads": reads, "__doc__": text,
        "__module__": __name__, "forward": compute, "backward": backward,
    }  # fmt: skip
    before = REGISTRY.get(name)
    try:
        return type(name, (Op,), body)()
    finally:
        REGISTRY.pop(name, None)
        if before is not None:
            REGISTRY[name] = before


def elementwise(f: Callable[..., Any], d: Part, wrong: Part, **more: Any) -> Op:
    """An op of one argument: y = f(x), right gradient g d(y, x), wrong gradient g wrong(y, x)."""
    return rule(lambda xp, x: f(xp, x), lambda g, y, x: g * d(y, x), lambda g, y, x: g * wrong(y, x), **more)


# Well-known elementwise functions, with derivatives written for arrays and Tensors
MAPS: dict[str, tuple[Callable[..., Any], Part]] = {
    "square": (lambda xp, x: x * x, lambda y, x: 2 * x),
    "exp": (lambda xp, x: xp.exp(x), lambda y, x: y),
    "tanh": (lambda xp, x: xp.tanh(x), lambda y, x: 1 - y * y),
    "sin": (lambda xp, x: xp.sin(x), lambda y, x: ops.cos(x)),
    "cube": (lambda xp, x: x * x * x, lambda y, x: 3 * x * x),
    "softplus": (lambda xp, x: xp.log1p(xp.exp(x)), lambda y, x: ops.sigmoid(x)),
    "sigmoid": (lambda xp, x: 1 / (1 + xp.exp(-x)), lambda y, x: y * (1 - y)),
    "atan": (lambda xp, x: xp.arctan(x), lambda y, x: 1 / (1 + x * x)),
}


def factor_in(name: str, f: Any) -> Op:
    """The map of that name with f times its derivative."""
    forward, d = MAPS[name]
    return elementwise(forward, d, lambda y, x: d(y, x) * f)


# Numbers


def data(x: Any) -> np.ndarray:
    """The array of what a rule is given."""
    return np.asarray(x.data if isinstance(x, Tensor) else x)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, 11]).normal(size=shape)


def away(seed: int, *shape: int, least: float = 0.3) -> np.ndarray:
    """Numbers of both signs, none of them near 0."""
    r = np.random.default_rng([seed, 13])
    return r.choice([-1.0, 1.0], shape) * r.uniform(least, 1.5, shape)


def positive(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, 17]).uniform(0.4, 2.5, shape)


# How cases are written


def wrong(
    name: str, kind: str, fn: Callable[..., Any] | None = None, inputs: Callable[[int], Any] | None = None,
    make: Callable[[int], Problem] | None = None, **more: Any,
) -> None:  # fmt: skip
    """A wrong one: a function and what draws its inputs, or what makes the whole problem."""
    if make is None:
        assert fn is not None
        assert inputs is not None

        def make(seed: int) -> Problem:
            return Function(fn, inputs(seed))

    add(Case(name, kind, make, wrong=True, **more))


def right(
    name: str, kind: str, fn: Callable[..., Any] | None = None, inputs: Callable[[int], Any] | None = None, allowed: str = "ok",
    make: Callable[[int], Problem] | None = None, **more: Any,
) -> None:  # fmt: skip
    """A right one; `allowed` are the verdicts that are no refusal, with spaces."""
    if make is None:
        assert fn is not None

        def make(seed: int) -> Problem:
            return Function(fn, inputs(seed) if callable(inputs) else inputs)

    add(Case(name, kind, make, wrong=False, allowed=frozenset(allowed.split()), **more))


__all__ = [
    "BOTH", "MAPS", "Function", "Model", "Switch", "Tensor", "away", "data", "elementwise", "factor_in", "frozen", "hidden",
    "mended", "normal", "number", "ops", "positive", "right", "rule", "scaled", "wrong",
]  # fmt: skip
