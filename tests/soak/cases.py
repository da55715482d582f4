"""One case of the soak: a right program, and how it is checked. All of it is drawn from the kind, the seed and the number."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

import tensorgrad
from tensorgrad import Tensor, nn
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import check_compiled, check_model, gradcheck
from tensorgrad.testing.expressions import Expression, expressions
from tensorgrad.testing.strategies import ACTIVATIONS

CHUNK = 60  # expressions that Hypothesis draws at a time: as many as a block has
SCALES = (1e-100, 1e-12, 1e-5, 1e-2, 1.0, 1e2, 1e5, 1e12, 1e100)
BAD = ("wrong", "non-finite", "nondeterministic", "differs", "error")


@dataclass(frozen=True)
class Case:
    """A right program.

    name   what to call it in a summary;  text: what it is;  how: the arguments of the check
    check  runs the check and returns its report
    """

    name: str
    text: str
    how: dict[str, Any]
    check: Callable[[], Any]


@dataclass(frozen=True)
class Outcome:
    """What a check made of a case. verdicts: those in its report, "error" if it raised; text: the report or the error."""

    name: str
    verdicts: tuple[str, ...]
    text: str

    @property
    def alarm(self) -> bool:
        return any(v in BAD for v in self.verdicts)

    @property
    def undecided(self) -> bool:
        return not self.alarm and "precision" in self.verdicts


def outcome(kind: str, seed: int, number: int) -> Outcome:
    """Draw a case and check it."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        case = KINDS[kind][1](np.random.default_rng([seed, number, len(kind)]), seed, number)
        try:
            report = case.check()
        except Exception as error:  # a check of a right program that raises is an alarm as well
            return Outcome(case.name, ("error",), f"{case.text} {case.how}\n{type(error).__name__}: {error}")
    verdicts = tuple(sorted(report.verdicts))
    return Outcome(case.name, verdicts, "" if report else f"{case.text} {case.how}\n{report}")


def manner(rng: np.random.Generator) -> dict[str, Any]:
    """Mode, order and seed of a check."""
    mode = ("full", "directional", None)[rng.integers(3)]
    return {"mode": mode, "order": int(rng.integers(1, 3)), "seed": int(rng.integers(100))}


# Ops on samples


def ops() -> list[Op]:
    return [op for op in REGISTRY.values() if op.backward is not None and not op.calls]


def inputs_of(op: Op, args: tuple[Any, ...]) -> list[int]:
    return [i for i, a in enumerate(args) if a.dtype.kind == "f" and not op.is_data(i)]


def case_of_op(rng: np.random.Generator, seed: int, number: int) -> Case:
    """An op at one of its own samples."""
    op = ops()[rng.integers(len(ops()))]
    args, attrs = op.sample(rng, (1, 2))
    wrt = inputs_of(op, args)
    how = manner(rng)
    return Case(op.name, f"{op.name}{shapes(args)} {attrs}", how, lambda: check(lambda *xs: op(*xs, **attrs), args, wrt, how))


def hostile_op(rng: np.random.Generator, seed: int, number: int) -> Case:
    """An op at a sample whose numbers are reached from ones of other scales: op(c x) at x / c, c one number or one for each
    entry, and the result scaled, too."""
    op = ops()[rng.integers(len(ops()))]
    args, attrs = op.sample(rng, (1, 2))
    wrt = inputs_of(op, args)
    scales = {}
    for i in wrt:
        c = rng.choice(SCALES, args[i].shape if rng.random() < 0.5 else ())
        scales[i] = np.asarray(c)
    after = float(rng.choice(SCALES[1:-1]))
    given_ = tuple(a / scales[i] if i in scales else a for i, a in enumerate(args))

    def fn(*xs: Any) -> Any:
        return op(*[x * scales[i] if i in scales else x for i, x in enumerate(xs)], **attrs) * after

    how = manner(rng)
    text = f"{op.name}{shapes(args)} {attrs} at scales {[s.tolist() for s in scales.values()]}, result times {after}"
    return Case(op.name, text, how, lambda: check(fn, given_, wrt, how))


def shapes(args: tuple[Any, ...]) -> str:
    return f"({', '.join(str(a.shape) for a in args)})"


def check(fn: Callable[..., Any], args: tuple[Any, ...], wrt: list[int], how: dict[str, Any]) -> Any:
    return gradcheck(fn, args, wrt=wrt, raises=False, **how)


# Expressions


@functools.lru_cache(maxsize=2)
def chunk(seed: int, which: int) -> list[Expression]:
    """Some expressions, drawn by Hypothesis without its database."""
    found: list[Expression] = []

    @seeded(seed * 1_000_003 + which)
    @settings(
        max_examples=CHUNK, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    @given(expressions(max_ops=3, sizes=(1, 2)))
    def draw(expression: Expression) -> None:
        found.append(expression)

    draw()
    return found


def case_of_expression(rng: np.random.Generator, seed: int, number: int) -> Case:
    """A random expression, sometimes with its leaves at other scales."""
    drawn = chunk(seed, number // CHUNK)
    expression = drawn[number % CHUNK % len(drawn)]
    how, name = manner(rng), " ".join(step.op.name for step in expression.steps)
    scale = float(rng.choice(SCALES)) if rng.random() < 0.3 else 1.0
    inputs = tuple(a / scale for a in expression.inputs)

    def fn(*xs: Any) -> Any:
        return expression(*[x * scale for x in xs]) if scale != 1 else expression(*xs)

    text = f"{expression.script()}\n# leaves divided, and multiplied inside, by {scale}"
    return Case(name, text, how, lambda: gradcheck(fn, inputs, raises=False, **how))


# Models


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross_entropy": F.cross_entropy,
    "nll of log_softmax": lambda z, t: F.nll_loss(z.log_softmax(-1), t),
    "nll of log of softmax": lambda z, t: F.nll_loss(z.softmax(-1).log(), t),
    "focal": lambda z, t: focal(z, t),
    "mse of one-hot": lambda z, t: F.mse_loss(z, np.eye(z.shape[-1])[t]),
    "huber of one-hot": lambda z, t: F.huber_loss(z, np.eye(z.shape[-1])[t]),
    "bce of one-hot": lambda z, t: F.binary_cross_entropy_with_logits(z, np.eye(z.shape[-1])[t]),
    "norm": lambda z, t: tensorgrad.norm(z - np.eye(z.shape[-1])[t], axis=-1).sum(),
}


def focal(z: Tensor, t: Any) -> Tensor:
    logp = z.log_softmax(-1)[np.arange(len(t)), t]
    return -((1 - logp.exp()) ** 2 * logp).mean()


def network(rng: np.random.Generator) -> tuple[nn.Sequential, str, Any, Any]:
    """A small network, words for it, and a batch."""
    widths = [int(n) for n in rng.integers(1, 4, rng.integers(2, 4))]
    activation = list(ACTIVATIONS)[rng.integers(len(ACTIVATIONS))]
    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m, rng=rng), ACTIVATIONS[activation]()]
    model = nn.Sequential(*layers[:-1])
    scale = float(rng.choice((1e-3, 1.0, 1.0, 1.0, 10.0)))
    m = int(rng.integers(1, 4))
    x, t = scale * rng.normal(size=(m, widths[0])), rng.integers(0, widths[-1], m)
    if rng.random() < 0.2:  # what training begins with
        for _, p in model.named_parameters():
            if p.ndim == 1:
                p.data[...] = 0
    return model, f"network of {widths}, {activation}, x times {scale}, {m} rows", x, t


def case_of_model(rng: np.random.Generator, seed: int, number: int) -> Case:
    """A network and a loss."""
    model, text, x, t = network(rng)
    loss = list(LOSSES)[rng.integers(len(LOSSES))]
    how = manner(rng)
    return Case(loss, f"{text}: {loss}", how, lambda: check_model(model, LOSSES[loss], x, t, raises=False, **how))


def compiled_step(rng: np.random.Generator, seed: int, number: int) -> Case:
    """A training step, compiled and as it is written."""
    model, text, x, t = network(rng)
    name, loss = (("cross_entropy", F.cross_entropy), ("mse", F.mse_loss), ("huber", F.huber_loss))[rng.integers(3)]
    optimiser = tensorgrad.optim.SGD(model.parameters(), lr=0.01)
    x = x.astype(np.float32)
    y = t if name == "cross_entropy" else np.eye(model(Tensor(x)).shape[-1], dtype=np.float32)[t]

    def step(x: Any, y: Any) -> Tensor:
        optimiser.zero_grad()
        value = loss(model(Tensor(x)), y)
        value.backward()
        optimiser.step()
        return value

    how = {"seed": int(rng.integers(100)), "calls": 3}
    return Case(name, f"{text}: {name}", how, lambda: check_compiled(step, x, y, raises=False, **how))


# Kinds: the share of each in a thousand cases, and what draws one. Drawing an expression and compiling a step take longest
KINDS: dict[str, tuple[int, Callable[[np.random.Generator, int, int], Case]]] = {
    "op": (490, case_of_op),
    "hostile": (300, hostile_op),
    "expression": (CHUNK, case_of_expression),
    "model": (149, case_of_model),
    "compiled": (1, compiled_step),
}
