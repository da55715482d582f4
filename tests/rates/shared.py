"""The part of the corpus that can be written in the words of other packages, too; see peers.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shared:
    """A case in the common words: fn(words, *inputs)."""

    name: str
    kind: str
    fn: Callable[..., Any]
    inputs: Callable[[int], Sequence[np.ndarray]]
    wrong: bool


CASES: list[Shared] = []


def case(wrong: bool, kind: str, name: str, fn: Callable[..., Any], inputs: Callable[[int], Any]) -> None:
    def drawn(seed: int) -> Sequence[np.ndarray]:
        found = inputs(seed)
        return found if isinstance(found, tuple) else (found,)

    CASES.append(Shared(name, kind, fn, drawn, wrong))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, 5]).normal(size=shape)


def fill() -> None:
    """All cases, wrong ones first."""
    r = np.random.default_rng
    for f in (0.0, 0.5, 1.1, 2.0, -1.0, 1.01, 1 + 1e-5):
        case(True, "a factor", f"sin, {f:g}", lambda m, x, f=f: m.scaled(m.xp.sin(x), f), lambda s: normal(s, 4))
        case(True, "a factor", f"softmax, {f:g}", lambda m, x, f=f: m.scaled(m.softmax(x), f), lambda s: normal(s, 2, 3))
        if f != 1 + 1e-5:
            case(True, "a factor, in a layer", f"tanh, {f:g}", lambda m, x, w, f=f: m.scaled(m.xp.tanh(x @ w), f) ** 2,
                 lambda s: (normal(s, 3, 2), normal(s + 1, 2, 3)))  # fmt: skip
    for n in range(2, 7):
        case(True, "common to several inputs", f"{n} inputs, twice", lambda m, *xs: m.xp.sum(m.scaled(m.xp.sin(sum(xs)), 2.0)),
             lambda s, n=n: tuple(normal(s + 50 * i, 3) for i in range(n)))  # fmt: skip
    for name, fn in {
        "x sin x": lambda m, x: x * m.hidden(m.xp.sin(x)),
        "x²": lambda m, x: m.xp.sum(x * m.hidden(x)),
        "a residual": lambda m, x: x + m.hidden(m.xp.tanh(2 * x)),
        "a norm": lambda m, x: x / m.hidden(m.norm(x)),
        "a mean": lambda m, x: (x - m.hidden(m.xp.mean(x))) ** 3,
        "a weight": lambda m, x: m.xp.sum(m.hidden(1 / (1 + x * x)) * x * x),
    }.items():
        case(True, "detached in part", name, fn, lambda s: normal(s, 4))
    case(
        True,
        "only in a region",
        "above 1, 1 %",
        lambda m, x: m.identity(lambda xp, g, x: g * (1 + 0.01 * (x > 1)))(x) ** 2,
        lambda s: np.array([0.5, 1.5, -1.0]) + 0.1 * normal(s, 3),
    )
    case(
        True,
        "only in a region",
        "below 1e-6, lost",
        lambda m, x: m.xp.sin(m.identity(lambda xp, g, x: g * (xp.abs(x) > 1e-6))(x)),
        lambda s: np.array([1.0, 1e-8, -1e-9]) * (1 + r(s).random(3)),
    )
    for n in (60, 600):
        for f in (1.01, 2.0):
            case(
                True,
                "rare entries",
                f"one of {n}, {f:g}",
                lambda m, x, n=n, f=f: m.xp.sum(m.scaled(x, np.where(np.arange(n) == 7, f, 1.0)) ** 2),
                lambda s, n=n: normal(s, n) + np.sign(normal(s, n)),
            )
    for share in (0.0, 0.1, 0.5):
        for f in (1.01, 2.0):

            def inputs(s: int, share: float = share) -> np.ndarray:
                x = np.sign(normal(s, 60)) * (0.3 + np.abs(normal(s + 1, 60)))
                x[: round(share * 60)] = 0
                x[-20:] = np.abs(x[-20:])
                return x

            case(
                True,
                "beside kinks",
                f"relu, {share:.0%} on it, {f:g}",
                lambda m, x, f=f: m.xp.sum(m.relu(m.scaled(x, np.where(np.arange(60) >= 40, f, 1.0)))),
                inputs,
            )
    for c in (1e-2, 1e-4, 1e-6, 1e-9):
        case(
            True,
            "small beside large",
            f"{c:g} in another input",
            lambda m, a, b, c=c: m.xp.sum(m.xp.tanh(a)) + m.xp.sum(m.scaled(m.xp.tanh(b), 2.0)) * c,
            lambda s: (normal(s, 3), normal(s + 1, 3)),
        )
        case(
            True,
            "small beside large",
            f"{c:g} in another entry",
            lambda m, x, c=c: m.scaled(m.xp.exp(x), np.array([1.0, 2.0])) * m.array(np.array([1.0, c])),
            lambda s: normal(s, 2),
        )
    for c in (1e-20, 1e-6, 1e6, 1e20):
        case(
            True,
            "inputs of any size",
            f"{c:g}, 1.1",
            lambda m, x, c=c: m.scaled(m.xp.sin(x / c), 1.1),
            lambda s, c=c: c * normal(s, 3),
        )
    for name, rule in {
        "g²": lambda xp, g, x: g * g,
        "|g|": lambda xp, g, x: xp.abs(g),
        "g clipped": lambda xp, g, x: xp.clip(g, -0.5, 0.5),
    }.items():
        case(
            True,
            "not linear in g",
            name,
            lambda m, x, rule=rule: m.identity(rule)(x) * m.array(np.array([1.0, -2.0, 3.0])),
            lambda s: normal(s, 3),
        )
    case(
        True,
        "outside of the bracket at a kink",
        "relu' is 2",
        lambda m, x: m.relu(m.identity(lambda xp, g, x: g * (1 + 1.0 * (x == 0)) + 2.0 * (x == 0))(x)),
        lambda s: np.array([0.0, 1.0, -1.0]) * (s + 1),
    )

    smooth = {"sin": lambda m, x: m.xp.sin(x), "tanh": lambda m, x: m.xp.tanh(x), "exp": lambda m, x: m.xp.exp(x)}
    for c in (1e-20, 1e-6, 1e6, 1e20):
        for name, fn in smooth.items():
            case(
                False,
                "f(c x) at x0 / c",
                f"{name}, {c:g}",
                lambda m, x, c=c, f=fn: f(m, x * c),
                lambda s, c=c: normal(s, 3) / c,
            )
        case(
            False,
            "f(c x) at x0 / c, beside 1",
            f"sin, {c:g}",
            lambda m, x, c=c: m.xp.sin(x * m.array(np.array([c, 1.0]))),
            lambda s, c=c: normal(s, 2) / np.array([c, 1.0]),
        )
    at = lambda s: np.array([1e-12, 1.0]) * (1 + r(s).random(2))  # noqa: E731
    for name, fn in {
        "log": lambda m, x: m.xp.log(x),
        "sqrt": lambda m, x: m.xp.sqrt(x),
        "1/x": lambda m, x: 1 / x,
        "x ** 0.3": lambda m, x: x**0.3,
    }.items():
        case(False, "near 0", name, fn, at)
    case(False, "near 0", "x ** 1.5 at 0", lambda m, x: x**1.5, lambda s: np.array([0.0, 1.0 + s]))
    on = lambda s: np.array([0.0, 1.0, -1.0, 0.0]) * (1 + s)  # noqa: E731
    kinks = {
        "relu": lambda m, x: m.relu(x), "relu, summed": lambda m, x: m.xp.sum(m.relu(x)), "abs": lambda m, x: m.xp.abs(x),
        "abs, summed": lambda m, x: m.xp.sum(m.xp.abs(x)), "minimum": lambda m, x: m.xp.minimum(x, -x),
        "clip": lambda m, x: m.xp.clip(x, 0.0, 0.5), "a mask": lambda m, x: x * m.hidden(1.0 * (x > 0)),
        "relu, squared": lambda m, x: m.relu(x) ** 2,
    }  # fmt: skip
    for name, fn in kinks.items():
        case(False, "on kinks", name, fn, on)
    case(
        False,
        "on kinks",
        "maximum of equals",
        lambda m, a, b: m.xp.maximum(a, b),
        lambda s: (np.array([1.0, 2]) + s, np.array([1.0, 3]) + s),
    )
    case(False, "on kinks", "max of ties", lambda m, x: m.max_of(x), lambda s: np.array([[1.0, 1, 0], [2, 0, 1]]) * (1 + s))
    case(False, "on kinks", "dead units", lambda m, x, w: m.relu(x @ w), lambda s: (np.zeros((2, 2)), normal(s, 2, 2)))

    def conditioned(s: int, digits: int) -> np.ndarray:
        u, v = np.linalg.qr(normal(s, 4, 4))[0], np.linalg.qr(normal(s + 1, 4, 4))[0]
        return u @ np.diag(np.logspace(0, -digits, 4)) @ v

    for digits in (3, 6):
        case(False, "badly conditioned", f"inv, 1e{digits}", lambda m, a: m.inv(a), lambda s, d=digits: conditioned(s, d))
        case(False, "badly conditioned", f"det, 1e{digits}", lambda m, a: m.det(a), lambda s, d=digits: conditioned(s, d))
        case(
            False,
            "badly conditioned",
            f"solve, 1e{digits}",
            lambda m, a, b: m.solve(a, b),
            lambda s, d=digits: (conditioned(s, d), normal(s, 4, 1)),
        )
    for w in (1e2, 1e4, 1e6):
        case(False, "high frequencies and spikes", f"sin of {w:g} x", lambda m, x, w=w: m.xp.sin(w * x), lambda s: normal(s, 3))
        case(
            False,
            "high frequencies and spikes",
            f"a spike of 1/{w:g}",
            lambda m, x, w=w: m.xp.exp(-(((x - 1) * w) ** 2)),
            lambda s, w=w: 1 + 0.4 * normal(s, 2) / w,
        )
    case(False, "large offsets", "1e6", lambda m, x: m.xp.sin(x) + 1e6, lambda s: normal(s, 3))
    case(
        False,
        "large offsets",
        "an input of 1e8 in a sum",
        lambda m, x: m.xp.sum(x) + m.xp.sum(m.xp.sin(x)),
        lambda s: np.array([1e8, 1.0]) + normal(s, 2),
    )
    case(False, "near-equal values", "std, 1e-3 around 1", lambda m, x: m.std(x), lambda s: 1 + 1e-3 * normal(s, 3, 4))
    case(False, "near-equal values", "std, 1e-3 around 1e3", lambda m, x: m.std(x), lambda s: 1e3 + 1e-3 * normal(s, 3, 4))
    for c in (1.0, 100.0, 700.0):
        case(False, "extreme logits", f"softmax, {c:g}", lambda m, x: m.softmax(x), lambda s, c=c: c * normal(s, 2, 3))
    case(
        False,
        "a shift that cancels, detached",
        "softmax",
        lambda m, x: m.xp.exp(x - m.hidden(m.xp.sum(x))) / m.xp.sum(m.xp.exp(x - m.hidden(m.xp.sum(x)))),
        lambda s: normal(s, 3),
    )
    for c in (1e-3, 1e-6):
        case(
            False,
            "small beside large",
            f"{c:g} in another output",
            lambda m, x, c=c: (m.xp.sin(x), m.xp.tanh(x) * c),
            lambda s: normal(s, 3),
        )
        case(
            False,
            "small beside large",
            f"{c:g} in another input",
            lambda m, a, b, c=c: m.xp.sum(m.xp.sin(a)) + m.xp.sum(m.xp.tanh(b)) * c,
            lambda s: (normal(s, 3), normal(s + 1, 3)),
        )
    case(False, "deep", "forty sines", lambda m, x: deep(m, x), lambda s: normal(s, 2))


def deep(m: Any, x: Any) -> Any:
    for _ in range(40):
        x = m.xp.sin(0.9 * x + 0.1)
    return x
