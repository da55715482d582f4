"""check_compiled: steps of users, of `fit` and of the estimators are proved by it; what is planted is found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorgrad.models import MLPClassifier, MLPRegressor, estimator

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.compiler.plan import Plan
from tensorgrad.errors import CompileError, GraphError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tensorgrad.testing import GradientError, check_compiled, strategies
from tensorgrad.train import steps

OPTIMISERS: dict[str, Callable[..., optim.Optimiser]] = {
    "SGD": lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda m: optim.Adam(m.parameters(), lr=0.01),
    "AdamW": lambda m: optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1),
    "RMSprop": lambda m: optim.RMSprop(m.parameters(), lr=0.01),
    "Adagrad": lambda m: optim.Adagrad(m.parameters(), lr=0.01),
}


def batch(rows: int, features: int, classes: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([rows, features, classes])
    return rng.normal(size=(rows, features)).astype(dtype), rng.integers(0, classes, rows)


def network(*hidden: nn.Module, dtype: str = "float32") -> nn.Sequential:
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Linear(4, 6, rng=rng), *hidden, nn.Linear(6, 3, rng=rng)).to(dtype=dtype)


def step_of(model: nn.Module, optimiser: optim.Optimiser) -> Callable[..., Tensor]:
    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return step


# What is right passes


@pytest.mark.parametrize("name", OPTIMISERS)
@settings(max_examples=settings().max_examples // 5)  # each makes two plans
@given(
    model=strategies.mlps(features=4, classes=3),
    rows=st.sampled_from([1, 2, 7]),
    dtype=st.sampled_from(["float32", "float64"]),
    options=st.sampled_from([{}, {"l2": 0.1}, {"clip_norm": 0.5}, {"l2": 0.1, "clip_norm": 1.0}]),
)
def test_the_steps_of_fit(name: str, model: nn.Sequential, rows: int, dtype: str, options: dict[str, float]) -> None:
    model = model.to(dtype=dtype)
    wanted = {"l2": 0.0, "clip_norm": None} | options
    step = steps.training_step(model, F.cross_entropy, OPTIMISERS[name](model), keep=True, **wanted)  # type: ignore[arg-type]
    report = check_compiled(step, *batch(rows, 4, 3, dtype))
    assert report.replays >= 3
    assert report.gradients
    report = check_compiled(steps.evaluation_step(model, F.cross_entropy, keep=True), *batch(rows, 4, 3, dtype))
    assert report.replays >= 3


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.filterwarnings("ignore:.*the 2 epochs of max_iter are over")
@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
def test_the_steps_of_the_estimators(kind: Any, solver: str, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step that `fit` would compile is proved with its first batch, before it is compiled."""
    proved = []
    make = tg.compile

    def proving(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        compiled = make(step, **options)

        def called(*args: Any) -> Any:
            if step not in proved:
                proved.append(step)
                check_compiled(step, *args)
            return compiled(*args)

        return called

    monkeypatch.setattr(estimator, "COMPILED", 0)  # however few steps there are
    monkeypatch.setattr(steps, "compile", proving)
    monkeypatch.setattr(tg, "compile", proving)
    x, y = batch(40, 4, 3, "float64")
    kind(hidden_layer_sizes=hidden, solver=solver, max_iter=2, tol=9, early_stopping=solver != "lbfgs").fit(x, y)
    assert len(proved) >= (1 if solver == "lbfgs" else 2)


def test_a_report() -> None:
    """Names of what was compared, guards, the table of the gradients; all is afterwards as it was."""
    model = network(nn.BatchNorm1d(6), nn.GELU(), nn.Dropout(0.3))
    optimiser = optim.Adam(model.parameters(), lr=0.1)
    x, y = batch(9, 4, 3, "float32")
    tg.manual_seed(5)
    before = [*model.state_dict().items(), ("x", x.copy()), ("y", y.copy())]
    report = check_compiled(tg.compile(step_of(model, optimiser)), x, y, calls=4)
    for (name, a), b in zip(before, [*model.state_dict().values(), x, y], strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert optimiser.steps == 0
    assert all(p.grad is None for p in model.parameters())
    drawn = F.dropout(Tensor(np.ones(20)), 0.5).numpy()
    tg.manual_seed(5)
    np.testing.assert_array_equal(F.dropout(Tensor(np.ones(20)), 0.5).numpy(), drawn)  # so have generators
    assert (report.calls, report.replays) == (4, 3)
    assert {"result 0", "model.0.weight.grad", "model.4.bias.grad", "optimiser 0"} <= set(report.compared)
    assert any("model.3.p is 0.3" in str(guard) for guard in report.guards)
    assert report.gradients
    assert [f.name for f in report.gradients.findings][:2] == ["model.0.weight", "model.0.bias"]
    assert str(report).startswith("check_compiled: passed (4 calls, 3 of them replays; ")
    assert "gradients of the loss: passed (full; " in str(report)


def test_training_goes_on_as_if_nothing_had_been() -> None:
    """With state in the optimiser, gradients that accumulate, and a counter."""
    ends = []
    for checked in (False, True):
        model = network(nn.Tanh(), dtype="float64")
        step = step_of(model, optim.Adam(model.parameters(), lr=0.1))
        for i in range(6):
            if checked and i == 3:
                check_compiled(step, *batch(5, 4, 3, "float64"))
            step(*map(Tensor, batch(5 + i, 4, 3, "float64")))
        ends.append(model.state_dict())
    for name, end in ends[0].items():
        np.testing.assert_array_equal(end, ends[1][name], err_msg=name)


def test_other_arguments() -> None:
    """Numbers, text, a dict; keyword arguments in a partial; no loss; nothing at all."""
    w = Tensor(np.ones(3), requires_grad=True, name="w")

    def scaled(batch: dict[str, Any], power: int, how: str) -> Any:
        return (batch["x"] * w**power).sum() if how == "sum" else batch["x"]

    report = check_compiled(functools.partial(scaled, how="sum"), {"x": np.arange(3.0)}, 2)
    assert report.gradients
    assert [f.name for f in report.gradients.findings] == ["w"]
    assert check_compiled(lambda x: x * 2, np.ones(3)).gradients is None
    assert "no gradient to check" in str(check_compiled(lambda: w.detach() * 2))


# What is wrong does not


def test_another_value_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By replays alone, in a result and in a parameter."""
    model = network(nn.ReLU())
    step = step_of(model, optim.SGD(model.parameters(), lr=0.1))
    run = Plan.run

    def wrong(self: Plan, arguments: Any, *more: Any) -> Any:
        loss, *others = run(self, arguments, *more)
        return (Tensor(loss.data * np.float32(1.0001)), *others)

    monkeypatch.setattr(Plan, "run", wrong)
    with pytest.raises(
        CompileError, match=r"call 2 of step, result 0: np.float32\(1\.\d+\) compiled, and np.float32\(1\.\d+\) "
    ):
        check_compiled(step, *batch(5, 4, 3, "float32"))
    monkeypatch.setattr(Plan, "run", lambda self, arguments, *more: [wrap_zero(r) for r in run(self, arguments, *more)])
    with pytest.raises(CompileError, match=r"result 0: np.float32\(0.0\) compiled"):
        check_compiled(step, *batch(5, 4, 3, "float32"))

    def moved(self: Plan, arguments: Any, *more: Any) -> Any:
        found = run(self, arguments, *more)
        model[0].weight.data[1, 2] += 1e-3
        return found

    monkeypatch.setattr(Plan, "run", moved)
    with pytest.raises(CompileError, match=r"compiled, and np.float32.* as it is written"):
        check_compiled(step, *batch(5, 4, 3, "float32"))


def wrap_zero(result: Tensor) -> Tensor:
    return Tensor(np.zeros_like(result.data))


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and as it is written agree; the slopes of the loss do not."""
    op = REGISTRY["tanh"]
    original = type(op).backward

    def wrong(self: Any, *args: Any, **attrs: Any) -> Any:
        return tuple((lambda rule=rule: rule() * 1.01) for rule in original(self, *args, **attrs))

    monkeypatch.setattr(type(op), "backward", wrong)
    model = network(nn.BatchNorm1d(6), nn.Tanh())  # beside a linear layer it would be fused with that
    step = step_of(model, optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(GradientError, match="The rule of tanh is wrong on its own"):
        check_compiled(step, *batch(5, 4, 3, "float32"))
    assert check_compiled(step, *batch(5, 4, 3, "float32"), gradients=False).gradients is None


def test_what_cannot_be_proved_is_refused() -> None:
    w = Tensor(np.ones(3), requires_grad=True)

    def hidden(x: Tensor) -> None:
        (w * x).sum().backward()

    with pytest.raises(GraphError, match="the step leaves gradients, but returns no loss to check them by"):
        check_compiled(hidden, np.ones(3))
    assert check_compiled(hidden, np.ones(3), gradients=False).replays
    with pytest.raises(CompileError, match=r"item\(\) asks for the value"):
        check_compiled(lambda x: x * x.sum().item(), np.ones(3))
    with pytest.raises(ValueError, match=r"check_compiled: calls must be at least 3, .* got 2"):
        check_compiled(lambda x: x, np.ones(3), calls=2)
    count = iter(range(99))
    with pytest.raises(CompileError, match="did something else the second time"):
        check_compiled(lambda x: x * next(count), np.ones(3))
