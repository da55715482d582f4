"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorgrad import Tensor, optim

pytestmark = pytest.mark.quick

FORMULAS = {
    "step": (lambda o: optim.StepLR(o, 3, 0.5), lambda t: 0.4 * 0.5 ** (t // 3)),
    "exponential": (lambda o: optim.ExponentialLR(o, 0.9), lambda t: 0.4 * 0.9**t),
    "cosine": (
        lambda o: optim.CosineLR(o, 10, 0.1),
        lambda t: 0.1 + 0.3 * (1 + math.cos(math.pi * min(t, 10) / 10)) / 2,
    ),
    "lambda": (lambda o: optim.LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: 0.4 / (1 + t)),
    "multistep": (lambda o: optim.MultiStepLR(o, [2, 7], 0.5), lambda t: 0.4 * 0.5 ** ((t >= 2) + (t >= 7))),
    "restarts": (
        lambda o: optim.CosineAnnealingWarmRestarts(o, 4, end=0.1),
        lambda t: 0.1 + 0.3 * (1 + math.cos(math.pi * (t % 4) / 4)) / 2,
    ),
    "one cycle": (
        lambda o: optim.OneCycleLR(o, 0.4, 12, rise=0.5, divide=4, end_divide=10, shape="linear"),
        lambda t: 0.1 + 0.3 * t / 5 if t <= 5 else 0.4 - 0.39 * min(t - 5, 6) / 6,
    ),
    "warm-up": (lambda o: optim.Warmup(o, 4), lambda t: 0.4 * min(t + 1, 5) / 5),
    "warm-up, then step": (
        lambda o: optim.Warmup(o, 4, optim.StepLR(o, 3, 0.5)),
        lambda t: 0.4 * (t + 1) / 5 if t <= 4 else 0.4 * 0.5 ** ((t - 4) // 3),
    ),
}


def optimiser() -> optim.SGD:
    return optim.SGD([Tensor([1.0], True)], lr=0.4)


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    make, formula = FORMULAS[name]
    o = optimiser()
    schedule = make(o)
    assert o.lr == pytest.approx(formula(0))
    for t in range(1, 16):
        assert schedule.step() == o.lr == pytest.approx(formula(t), rel=1e-12)


@given(costs=st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_cost_rise(costs: list[float]) -> None:
    o = optimiser()
    schedule = optim.CostRise(o, 0.9)
    for cost in costs:
        schedule.step(cost)
    rises = sum(b > a for a, b in pairwise(costs))
    assert o.lr == pytest.approx(0.4 * 0.9**rises, rel=1e-12)


def test_plateau() -> None:
    o = optimiser()
    schedule = optim.ReduceOnPlateau(o, factor=0.5, patience=2, least=0.15)
    rates = [schedule.step(cost) for cost in [5, 4, 4, 4, 4, 3, 3.5, 3, 3, 3, 3, 3, 3]]
    assert rates == [0.4] * 4 + [0.2] * 4 + [0.15] * 5


@pytest.mark.parametrize("name", [*FORMULAS, "plateau", "rise"])
def test_resumed_is_the_same(name: str) -> None:
    make = {"plateau": lambda o: optim.ReduceOnPlateau(o, 0.5, 1), "rise": optim.CostRise}.get(name) or FORMULAS[name][0]
    costs = [3.0, 2.0, 2.5, 2.6, 2.7, 2.0, 2.1, 2.2, 2.3, 2.4]
    a, b = optimiser(), optimiser()
    first, second = make(a), make(b)
    for cost in costs[:5]:
        first.step(cost)
    second.load_state_dict(first.state_dict())
    b.load_state_dict(a.state_dict())
    for cost in costs[5:]:
        assert first.step(cost) == second.step(cost)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: optim.CostRise(o).step(), "CostRise: step needs the cost of the epoch, got None"),
        (lambda o: optim.ReduceOnPlateau(o).step(math.nan), "ReduceOnPlateau: step needs the cost of the epoch, got nan"),
        (lambda o: optim.StepLR(o, 0), "StepLR: every must be at least 1, got 0"),
        (lambda o: optim.CosineLR(o, 0), "CosineLR: epochs must be at least 1, got 0"),
        (lambda o: optim.Warmup(o, 0), "Warmup: epochs must be at least 1, got 0"),
    ],
)
def test_mistakes(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(optimiser())
