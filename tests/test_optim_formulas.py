"""Every optimiser and schedule, with all its options, beside the formulas in tests/optimisers.py and PyTorch's recorded values:
parameters that get their gradients at different steps, groups, dtypes, huge, tiny and zero gradients; eager and compiled."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, optim
from tests import kinds
from tests import optimisers as tried
from tests.compiled import kernels

PEER = json.loads((Path(__file__).parent / "golden" / "peers.json").read_text())

# To rounding: some 14 steps in each dtype. Of half precision one unit in the last place, for it is rounded after each step.
CLOSE = {"float64": 1e-11, "float32": 2e-5, "float16": 1e-3}

# What PyTorch does not have: lazy is its SparseAdam, without weight decay
BY_HAND = {"optimisers": ["adamw lazy"], "groups": ["adam lazy", "adamw lazy"]}


@pytest.fixture(autouse=True)
def _numba(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without Numba, which compiles a second for each formula, unless a test asks for it."""
    with warnings.catch_warnings(), kernels("numba" in request.fixturenames):
        warnings.filterwarnings("ignore", message=".*no gradient reached")
        yield


def made(case: str, dtype: str = "float64", grouped: bool = False, **more: Any) -> tuple[list[Tensor], optim.Optimiser]:
    kind, options = tried.CASES[case]
    params = [Tensor(p.astype(dtype), True) for p in tried.starts()]
    groups: Any = [{"params": params[0]}, {"params": params[1:], **tried.SECOND}] if grouped else params
    return params, getattr(optim, kind)(groups, **{**options, **more})


def as_written(params: list[Tensor], optimiser: optim.Optimiser) -> Callable[[list[Any]], None]:
    """A step with these gradients, None being none."""

    def step(gradients: list[Any]) -> None:
        for p, g in zip(params, gradients, strict=True):
            p.grad = None if g is None else Tensor(g.astype(p.dtype))
        optimiser.step()

    return step


def as_compiled(params: list[Tensor], optimiser: optim.Optimiser) -> Callable[[list[Any]], None]:
    """The same by two compiled steps, one with both gradients and one with the first alone."""
    a, b = params

    @tg.compile
    def both(g: Tensor, h: Tensor) -> None:
        optimiser.zero_grad()
        ((a * g).sum() + (b * h).sum()).backward()
        optimiser.step()

    @tg.compile
    def one(g: Tensor) -> None:
        optimiser.zero_grad()
        (a * g).sum().backward()
        optimiser.step()

    def step(gradients: list[Any]) -> None:
        given = [g.astype(a.dtype) for g in gradients if g is not None]
        (both if len(given) == 2 else one)(*given)
        assert np.geterr()["over"] == "warn"

    return step


HOW = {"eager": as_written, "compiled": as_compiled}


def compare(params: list[Tensor], expected: list[Any], share: float) -> None:
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.numpy().astype(np.float64), e, rtol=share, atol=share * np.abs(e).max())


def test_every_case_is_what_pytorch_gives() -> None:
    """So the formulas by hand are the right ones."""
    assert {kind for kind, _ in tried.CASES.values()} == {kind.__name__ for kind in kinds.OPTIMISERS}
    for where in ("optimisers", "groups"):
        assert [case for case in tried.CASES if case not in PEER[where]] == BY_HAND[where]
        for case in PEER[where]:
            for found, expected in zip(tried.trained(case, grouped=where == "groups"), PEER[where][case], strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("grouped", [False, True], ids=["one group", "two groups"])
@pytest.mark.parametrize("case", tried.CASES)
def test_parameters_that_get_gradients_at_different_steps(case: str, grouped: bool, how: str) -> None:
    params, optimiser = made(case, grouped=grouped)
    step = HOW[how](params, optimiser)
    for gradients in tried.gradients():
        step(gradients)
    compare(params, tried.trained(case, grouped=grouped), CLOSE["float64"])
    assert optimiser.steps == 14
    assert optimiser.late == (0, 5)


@pytest.mark.parametrize("case", ["adam", "amsgrad", "sgd dampening", "adagrad decay", "rmsprop"])
def test_a_plan_from_before_the_counts_parted(case: str) -> None:
    """One kernel for both parameters is right no longer when one of them has missed steps; and they may part again."""
    params, optimiser = made(case)
    step = as_compiled(params, optimiser)
    kind, options = tried.CASES[case]
    rng = np.random.RandomState(5)
    expected, states, counts = tried.starts(), [{}, {}], [0, 0]
    for which in [2] * 5 + [1] * 4 + [2] * 5 + [1] * 2 + [2] * 4:
        gradients = [rng.normal(size=shape) for shape in tried.SHAPES]
        step([gradients[0], gradients[1] if which == 2 else None])
        for i in range(which):
            counts[i] += 1
            expected[i] = tried.stepped(kind, expected[i], gradients[i], counts[i], states[i], options)
        compare(params, expected, CLOSE["float64"])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", tried.CASES)
def test_dtypes(case: str, dtype: str, how: str) -> None:
    """The state of half precision is float32, and each step is rounded once."""
    params, optimiser = made(case, dtype)
    step = HOW[how](params, optimiser)
    for gradients in tried.gradients():
        step(gradients)
    compare(params, tried.trained(case, dtype=dtype), CLOSE[dtype])
    assert {p.dtype.name for p in params} == {dtype}
    assert {a.dtype.name for slots in optimiser.state for a in slots.values()} <= {"float32"}


@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs Numba: pip install numba")
@pytest.mark.parametrize("numba", ["numba"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    ("case", "dtype"),
    [("adam decay", "float16"), ("sgd nesterov", "float32"), ("rmsprop all", "float32"), ("amsgrad", "float32")],
)
def test_with_numba(case: str, dtype: str, how: str, numba: str) -> None:
    test_dtypes(case, dtype, how)


@pytest.mark.parametrize("eps", [None, 0.0])
@pytest.mark.parametrize("scale", [0.0, 1e-35, 1e-16, 1e-3, 1e18, 1e30])
@pytest.mark.parametrize("case", [c for c, (kind, _) in tried.CASES.items() if kind != "SGD"])
@pytest.mark.parametrize("how", HOW)
def test_no_square_is_lost(case: str, scale: float, eps: float | None, how: str) -> None:
    """Float32 gradients whose squares are none of float32, for so long that small numbers are cleared."""
    kind, options = tried.CASES[case]
    options = {**options, "weight_decay": 0.0} | ({} if eps is None else {"eps": eps})
    p = Tensor(np.ones(3, np.float32), True)
    optimiser = getattr(optim, kind)([p], **options)
    rng = np.random.RandomState(3)
    expected, state = np.ones(3), {}

    def step(g: Tensor) -> None:
        optimiser.zero_grad()
        (p * g).sum().backward()
        optimiser.step()

    run = tg.compile(step) if how == "compiled" else step
    for t in range(1, 41):
        g = (scale * (1 + rng.uniform(size=3))).astype(np.float32)
        run(Tensor(g) if how == "eager" else g)
        expected = tried.stepped(kind, expected, g.astype(np.float64), t, state, options)
    moved = np.abs(expected - 1).max()
    # centred, v - a² loses digits; by half of them a root does
    share = 3e-3 if "centered" in options else 1e-4
    np.testing.assert_allclose(p.numpy() - 1, expected - 1, rtol=share, atol=share * moved + 1e-6)


@pytest.mark.parametrize("case", tried.CASES)
def test_gradients_of_half_precision(case: str) -> None:
    """Of 0 and 1e-3, whose squares float16 does not have; in float16 and, where parameters can be of it, bfloat16."""
    kind, options = tried.CASES[case]
    w, expected, state = Tensor(np.array([1, 1], np.float16), True), np.ones(2), {}
    optimiser = getattr(optim, kind)([w], **options)
    g = np.array([0, 1e-3], np.float16)
    for t in range(1, 4):
        w.grad = Tensor(g)
        optimiser.step()
        expected = tried.stepped(kind, expected, g.astype(np.float64), t, state, options)
    np.testing.assert_allclose(w.numpy().astype(np.float64), expected, rtol=2e-3)


def test_second_moments_are_not_cleared_while_steps_are_divided_by_them() -> None:
    """With eps = 0 a constant gradient of 1e-16 makes the steps that its formula says, over many clearings."""
    w = Tensor(np.array([1.0], np.float32), True)
    optimiser = optim.RMSprop([w], lr=1e-3, eps=0.0)
    for t in range(1, 321):
        before = w.item()
        w.grad = Tensor(np.array([1e-16], np.float32))
        optimiser.step()
        assert before - w.item() == pytest.approx(1e-3 / np.sqrt(1 - 0.99**t), rel=2e-3)


@pytest.mark.parametrize("case", [case for case, (_, options) in tried.CASES.items() if "eps" not in options])
def test_a_state_that_dies_does_not_become_subnormal(case: str) -> None:
    """With the usual eps what shrinks becomes 0, and the parameter does not notice."""
    kind, options = tried.CASES[case]
    options = {**options, "weight_decay": 0.0, "lr": 1e-3}
    p = Tensor(np.ones(2, np.float32), True)
    optimiser = getattr(optim, kind)([p], **options)
    tiny = np.finfo(np.float32).tiny
    state: dict[str, Any] = {}
    expected = np.ones(2)
    for t in range(1, 1000):
        g = np.array([1.0, -2.0], np.float32) * (t == 1)
        p.grad = Tensor(g)
        optimiser.step()
        expected = tried.stepped(kind, expected, g.astype(np.float64), t, state, options)
        if t % 100 == 0:
            for array in optimiser.state[0].values():
                assert ((array == 0) | (np.abs(array) > tiny)).all()
    np.testing.assert_allclose(p.numpy(), expected, rtol=2e-5)


@pytest.mark.parametrize("name", tried.SCHEDULES)
def test_schedules_of_groups(name: str) -> None:
    """Each group's rate by the formula, and as PyTorch's; a deep copy goes on alike."""
    kind, options, formula = tried.SCHEDULES[name]
    groups = [{"params": Tensor([1.0], True), "lr": rate} for rate in tried.RATES]
    optimiser = optim.SGD(groups, lr=1.0)
    schedule = getattr(optim, kind)(optimiser, **options)
    found = [list(optimiser.rates)]
    for _ in range(14):
        found.append(schedule.step())
        assert found[-1] == list(optimiser.rates)
    np.testing.assert_allclose(found, PEER["schedules"][name], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found, [[formula(r, t) for r in tried.RATES] for t in range(15)], rtol=1e-12, atol=1e-15)


def test_plateau_of_groups() -> None:
    """As PyTorch's: the least rate holds back, and raises none."""
    optimiser = optim.SGD([{"params": Tensor([1.0], True), "lr": rate} for rate in tried.RATES], lr=1.0)
    schedule = optim.ReduceOnPlateau(optimiser, 0.5, 2, least=0.15)
    found = [list(optimiser.rates), *(schedule.step(cost) for cost in tried.COSTS[:14])]
    assert found == PEER["schedules"]["plateau"]
    assert optimiser.rates[1] == 0.1


# L-BFGS


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_lbfgs_finds_the_end_of_the_valley(dtype: str) -> None:
    w = Tensor(np.array([-1.2, 1.0], dtype), True)
    optimiser = optim.LBFGS([w], max_iter=60)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = tried.rosenbrock(w)
        loss.backward()
        return loss

    assert optimiser.step(closure) == pytest.approx(24.2)
    np.testing.assert_allclose(w.numpy(), 1, atol=2e-4)  # a loss of 1e-9, at which it ends
    assert optimiser.evaluations < 75


def test_lbfgs_without_a_line_search_goes_where_pytorch_s_goes() -> None:
    w = Tensor(np.array([-1.2, 1.0]), True)
    optimiser = optim.LBFGS(w, lr=0.5, max_iter=4, history_size=3, line_search=None)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = tried.rosenbrock(w)
        loss.backward()
        return loss

    found = [[optimiser.step(closure), *w.numpy()] for _ in range(6)]
    np.testing.assert_allclose(found, PEER["lbfgs"], rtol=1e-7)
