"""Wrong gradients that passed once, and right ones that were refused, each a kind of its own; the rates have many of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import ops
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import gradcheck

OURS: dict[str, Op] = {}
Case = tuple[Callable[..., Any], Callable[[int], Any]]  # a function, and inputs for a seed


def normal(*shape: int) -> Callable[[int], np.ndarray]:
    return lambda seed: np.random.default_rng(1000 + seed).normal(size=shape)


def scaled(y: Any, factor: float) -> Any:
    """The value of y, with a multiple of its gradient."""
    return y * factor - y.detach() * (factor - 1)


def rule(forward: Callable[[Any], Any], derivative: Callable[[Any], Any], **more: Any) -> Op:
    """An op of one argument, elementwise, that stays out of the registry."""
    doc = "y = f(x)\n\nforward    y = f(x)\nbackward   gx = g f'(x)\n"
    body = {
        "name": f"trusted_{len(OURS)}",
        "signature": "()->()",
        "reads": "x",
        "__doc__": doc,
        "forward": lambda self, xp, x: forward(x),
        "backward": lambda self, g, y, x: (lambda: g * derivative(x),),
    }
    made = type("Trusted", (Op,), body | more)()
    OURS[made.name] = REGISTRY.pop(made.name)
    return made


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The ops of this file are registered while its tests run, and no longer: some of them are wrong."""
    REGISTRY.update(OURS)
    yield
    for name in OURS:
        del REGISTRY[name]


half_square = rule(lambda x: x * x, lambda x: x)
tenth_more = rule(lambda x: x + 0, lambda x: 1.1 + 0 * x)


class Kept(Op):
    """y = c x, where c is kept by the op

    forward    y  = c x
    backward   gx = g c
    """

    name, signature, c = "kept_by_the_op", "()->()", 1.0

    def forward(self, xp: Any, x: Any) -> Any:
        return x * self.c

    def backward(self, g: Any, y: Any, x: Any) -> Any:
        return (lambda: g * self.c,)


kept = Kept()
OURS[kept.name] = REGISTRY.pop(kept.name)


def by_state(x: Any) -> Any:
    kept.c = float(np.abs(x.detach().numpy()).mean())  # type: ignore[misc]
    return kept(x)


def behind_a_mask(x: Any) -> Any:
    """A mask that turns over at the point, beside a constant that is made of the input in float32."""
    v = x.detach().numpy()
    return (x.exp() * (v > 0)) * np.float32(1 + v.var()).reshape(1)


def whole_numbers(x: Any) -> Any:
    return x * (x.detach().numpy() * 2**45).astype(np.int64) / 2**45


def times(factor: float) -> Callable[..., Any]:
    def fn(t: Any, *, k: float) -> Any:
        return t * k

    fn.__kwdefaults__ = {"k": factor}
    return fn


def one_kink_for_all(x: Any) -> Any:
    v = np.arange(1.0, 41.0)
    return tenth_more(x).sin().sum() + 0.5 * ops.abs((x * v).sum() - float((x.detach().numpy() * v).sum()))


WRONG: dict[str, Case] = {
    "a rule inside a checkpoint": (lambda x: tensorgrad.checkpoint(lambda t: half_square(t), x).sum(), normal(5)),
    "detached inside a checkpoint": (lambda x: tensorgrad.checkpoint(lambda t: t * t.detach(), x).sum(), normal(5)),
    "a keyword of a checkpoint's function": (
        lambda x: tensorgrad.checkpoint(times(float(x.detach().numpy().sum())), x).sum(),
        normal(5),
    ),
    "kept by the op": (by_state, normal(5)),
    "beside a large value": (rule(lambda x: 1e5 + np.abs(x), lambda x: 0 * x), normal(4)),
    "in a small part": (rule(lambda x: np.sin(x) + 3e-5 * np.abs(x), lambda x: ops.cos(x)), normal(4)),
    "data made of the input": (lambda z: ops.softmax_cross_entropy(z, z.softmax(-1).detach()), normal(3, 4)),
    "behind a mask that turns over": (behind_a_mask, lambda seed: np.concatenate([np.abs(normal(4)(seed)), np.zeros(4)])),
    "integers made of the input": (whole_numbers, normal(4)),
    "one kink for all entries": (one_kink_for_all, lambda seed: np.round(normal(40)(seed) * 8) / 8),
    "a second output, small by one input": (
        lambda a, b: (a.tanh() + scaled(b * 1e-8, 2.0), b.sin() + a),
        lambda seed: (normal(3)(seed), normal(3)(seed + 9)),
    ),
    "a deviation of nearly equal values": (lambda x: scaled(x.std(), 0.7), lambda seed: 1.7e9 + 1e-3 * normal(5)(seed)),
    "a distance that is nearly 0": (
        lambda x: scaled(ops.abs(x[0] - x[1]) ** 1.0, 0.7),
        lambda seed: np.array([1.0, 1 + 1e-12]),
    ),
    "two kinks that cancel": (lambda x: x.relu() - (-x).relu(), lambda seed: np.array([0.0, 1.0])),
    "values that rounding moves in jumps": (
        lambda x: x.detach().softplus() + 1e12 - 1e12 + 0 * x,
        lambda seed: 0.5 + np.abs(normal(1)(seed)),
    ),
    "in float32 only, beside an inverse that float32 knows nothing of": (
        lambda a, b: (ops.inv(a).sum() * 1e-12, scaled(b.sin(), 1.2 if b.dtype == np.float32 else 1.0)),
        lambda seed: (
            np.linalg.qr(normal(4, 4)(seed))[0] * [1e3, 1.0, 1e-3, 1e-6] @ np.linalg.qr(normal(4, 4)(seed + 50))[0],
            normal(3)(seed),
        ),
    ),
    "a constant too large to be kept": (
        lambda x: ((y := x.reshape(-1, 1) * x.reshape(1, -1)) * y.detach()).sum(),
        normal(1001),
    ),
}
RIGHT: dict[str, tuple[Callable[..., Any], Callable[[int], Any], dict[str, Any]]] = {
    "a 0 beside what is very small": (
        lambda a, b: ops.hypot(a * 1e100, b * 1e100),
        lambda seed: (normal(1)(seed) * 1e-100, np.array(0.0)),
        {"order": 2},
    ),
    "0 by rounding, beside kinks": (
        lambda a: ops.hypot(a, a),
        lambda seed: np.array([0.02 + seed / 100, 0.0, 0.0]),
        {"order": 2},
    ),
    "rounding inside of an op, in float32": (
        lambda z: F.cross_entropy(z, np.array([0, 1, 0])),
        lambda seed: np.array([[10.7, 0.1], [0.3, 9.9], [10.2, 0.0]]) + seed / 7,
        {},
    ),
    "the tail of gelu, in float32": (
        lambda x, w: (ops.gelu(x) * w).sum(),
        lambda seed: (-5.2 - normal(3)(seed) / 3, normal(3)(9)),
        {},
    ),
    "an inverse that float32 knows nothing of": (
        ops.inv,
        lambda seed: np.linalg.qr(normal(4, 4)(seed))[0] * [1.0, 1e-3, 1e-6, 1e-9] @ np.linalg.qr(normal(4, 4)(seed + 50))[0],
        {"allow_precision": True},
    ),
    "a jump between two flat sides": (lambda a, b: ops.maximum(a, b) ** 2, lambda seed: (np.ones(2), np.ones(2)), {"order": 2}),
    "targets that stay in float64": (
        lambda z: F.cross_entropy(z * 1e-12, np.array([[0.62]])) * 1e-12,
        lambda seed: np.array([[-0.35 - seed]]) * 1e12,
        {},
    ),
    "a checkpoint": (lambda x: tensorgrad.checkpoint(lambda t: t.tanh() * t, x).sum(), normal(5), {"order": 2}),
    "nearly equal values": (lambda x: x.std(), lambda seed: 1e6 + 1e-7 * normal(5)(seed), {}),
    "0, by two sigmoids": (lambda x: x.tanh() - (2 * (2 * x).sigmoid() - 1), normal(4), {}),
    "a saturated loss": (lambda x: F.cross_entropy(x, np.array([0, 1])), lambda seed: 40 * np.eye(2, 3), {"order": 2}),
    "a sharp softmax": (lambda x: x.softmax(-1), lambda seed: np.arange(1.0, 4.0) * 20, {"order": 2}),
    "1, by a sine and a cosine": (lambda x: x.sin() ** 2 + x.cos() ** 2, normal(4), {"order": 2}),
    "0, by a mean": (lambda x: (x - x.mean()).sum(), normal(4), {"order": 2}),
    "0, by a logarithm": (lambda x: x.exp().log() - x, normal(4), {}),
    "0, by two ways to gelu": (lambda x: ops.gelu(x) - 0.5 * x * (1 + ops.erf(x / 2**0.5)), normal(4), {}),
    "a contrastive loss": (lambda x: F.cross_entropy((x @ x.transpose(1, 0)) * 10.0, np.arange(4)), normal(4, 3), {}),
    "a softmax's sum": (lambda x: (x.exp() / x.exp().sum(1, keepdims=True)).sum(), normal(3, 4), {}),
    "the identity, by an inverse": (lambda a: a @ ops.inv(a), normal(4, 4), {"allow_precision": True}),
    "the end of a domain": (ops.log1p, lambda seed: -1 + np.array([1e-3, 1e-9, 1e-13]), {}),
    "where a power begins": (lambda x: x**1.5, lambda seed: np.array([0.0, 0.0, 1.0]), {}),
    "a median of equals": (lambda x: x[np.argsort(x.data, kind="stable")[1]], lambda seed: np.ones(3), {}),
    "a compiled function": (tensorgrad.compile(lambda a: a * a), normal(3), {}),
    "a sign made of values, at 0": (lambda x: x * np.sign(x.data), lambda seed: np.array([0.0, 1.0, -2.0]), {}),
    "a mask made of values, at 0": (lambda x: x * (x.data > 0), lambda seed: np.array([0.0, 1.0, -2.0]), {}),
    "a loss of a logarithm of a softmax": (
        lambda z: F.nll_loss((10 * z).softmax(-1).log(), np.array([0, 1])),
        normal(2, 3),
        {"order": 2, "allow_precision": True},
    ),
    "noise within what is allowed": (
        lambda a: (a * a) * (1 + 1e-13 * np.random.default_rng().standard_normal()),
        normal(3),
        {"nondet_tol": 1e-6},
    ),
}


@pytest.mark.parametrize("mode", ["full", "directional"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails(name: str, mode: str) -> None:
    fn, inputs = WRONG[name]
    for seed in range(1 if name == "a constant too large to be kept" else 6):
        if name == "a constant too large to be kept" and mode == "full":
            return  # a thousand calls with a million numbers each
        report = gradcheck(fn, inputs(seed), mode=mode, seed=seed, raises=False)
        assert not report, report


def test_a_rule_that_is_right_for_gradients_of_one_sign() -> None:
    """With one output, whatever its weight, nothing else comes in."""
    made = rule(lambda x: x * x, lambda x: 2 * x, backward=lambda self, g, y, x: (lambda: 2 * x * ops.maximum(g, 0.0),))
    REGISTRY[made.name] = made
    for seed in range(6):
        for mode in ("full", "directional"):
            assert not gradcheck(lambda x: made(x).sum(), np.ones(3), mode=mode, seed=seed, raises=False)


@pytest.mark.parametrize("bound", [2.0, 100.0, 1e5])
def test_a_rule_that_clips_large_gradients(bound: float) -> None:
    """What comes in of itself is below the bound; what is too large for float64 is no excuse for what is not."""
    made = rule(lambda x: x * x, lambda x: 2 * x, backward=lambda self, g, y, x: (lambda: 2 * x * ops.clip(g, -bound, bound),))
    REGISTRY[made.name] = made
    for inputs in (np.ones(3), np.array([1.0, 1e-150, 1e150])):
        for mode in ("full", "directional"):
            assert not gradcheck(made, inputs, mode=mode, raises=False)


def test_a_rule_that_is_right_for_each_output_alone() -> None:
    """It takes no other sum of gradients than the largest of them, and grows as they do."""

    def backward(self: Op, g: Any, y: Any, x: Any) -> Any:
        return (lambda: 2 * x * g * (ops.abs(g) == ops.abs(g).max()),)

    made = rule(lambda x: x * x, lambda x: 2 * x, backward=backward)
    REGISTRY[made.name] = made
    for mode in ("full", "directional"):
        assert not gradcheck(made, np.array([1.0, 2.0, 3.0]), mode=mode, raises=False)


@pytest.mark.parametrize("mode", ["full", "directional"])
def test_what_is_too_steep_for_any_step_is_not_called_wrong(mode: str) -> None:
    """Between the finest steps it looks like a jump, and may be smooth: not decided."""
    fn = lambda x: REGISTRY["mul_grad"]((1e100 * x).logsigmoid(), 1e100 * x).logsigmoid()  # noqa: E731
    report = gradcheck(fn, np.array(0.0), mode=mode, raises=False)
    assert not report.verdicts.get("wrong"), report


@pytest.mark.parametrize("mode", ["full", "directional"])
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str, mode: str) -> None:
    fn, inputs, options = RIGHT[name]
    for seed in range(30 if "float32" in name else 4):
        assert gradcheck(fn, inputs(seed), mode=mode, seed=seed, **options)


MASKS: dict[str, Callable[[Any], Any]] = {  # 1 above 0, else 0
    "values": lambda x: x.data > 0,
    "floats": lambda x: np.where(x.data > 0, 1.0, 0.0),
    "compared": lambda x: x > 0,
    "compared, in floats": lambda x: (1.0 * (x > 0)).detach(),
    "cast": lambda x: (x > 0).astype(np.float64).detach(),
    "signs": lambda x: (ops.sign(x).detach() + ops.abs(ops.sign(x)).detach()) / 2,
    "a slope": lambda x: (0.5 * (1 + np.sign(x.data))) * (x.data != 0),
}
MASKED: dict[str, Callable[[Any, Any], Any]] = {  # all are relu(x), or go on from it
    "times": lambda x, m: x * m,
    "where": lambda x, m: ops.where(m if m.dtype == bool else m != 0, x, 0.0),
    "summed": lambda x, m: (x * m).sum(),
    "squared": lambda x, m: (x * m * 1.5).tanh() + x * x,
}


@pytest.mark.parametrize("mode", ["full", "directional"])
@pytest.mark.parametrize("use", MASKED)
@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_at_its_jump(mask: str, use: str, mode: str) -> None:
    """However it is written, the gradient is that at one side; with another factor it lies beyond both."""
    x, fn = np.array([0.0, 1.0, -2.0, 0.0]), lambda x: MASKED[use](x, MASKS[mask](x))
    report = gradcheck(fn, x, mode=mode)
    assert report.verdicts["kink"]
    assert not gradcheck(lambda x: scaled(fn(x), 1.01), x, mode=mode, raises=False)
