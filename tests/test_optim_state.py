"""Groups of parameters, copies, and every number that an optimiser, a schedule or a clip function takes, when it is made and
when it is set later."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.errors import ArgumentError, GraphError, ShapeError, TensorgradError
from tensorgrad.nn import functional as F
from tests import kinds
from tests import optimisers as tried

X = np.random.RandomState(0).normal(size=(16, 4)).astype(np.float32)

# Copies


class Learner:
    """A model, its optimiser and a schedule in one object."""

    def __init__(self, make: Callable[[Any], optim.Optimiser], schedule: str = "", compiled: bool = False) -> None:
        tg.manual_seed(0)
        self.net = nn.Linear(4, 2)
        self.opt = make(self.net)
        self.schedule = getattr(optim, schedule)(self.opt, **ARGUMENTS[schedule]) if schedule else None
        self.compiled = compiled
        self.made = None

    def loss(self) -> Tensor:
        self.opt.zero_grad()
        loss = F.mse_loss(self.net(X), X[:, :2])
        loss.backward()
        return loss

    def step(self) -> Tensor:
        loss = self.loss()
        self.opt.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "made": None}

    def learn(self, steps: int = 4) -> list[Any]:
        """What it is after each step."""
        found = []
        self.made = self.made or (tg.compile(self.step) if self.compiled else self.step)
        for k in range(steps):
            loss = self.opt.step(self.loss) if isinstance(self.opt, optim.LBFGS) else self.made().item()
            rates = self.schedule.step(1.0 + k % 3) if self.schedule is not None else None
            found.append([loss, rates, *(p.numpy().tobytes() for p in self.net.parameters()), self.opt.steps, self.opt.late])
        return found


def case_of(case: str) -> Callable[[Any], optim.Optimiser]:
    kind, options = tried.CASES[case]
    return lambda net: getattr(optim, kind)([{"params": net.weight}, {"params": net.bias, "lr": 0.01}], **options)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle of protocol 2": lambda x: pickle.loads(pickle.dumps(x, 2)),
}
ARGUMENTS: dict[str, dict[str, Any]] = {name: options for name, options, _ in tried.SCHEDULES.values() if name != "LambdaLR"}
ARGUMENTS["OneCycleLR"] = {"top": 0.5, "steps": 7}
ARGUMENTS |= {
    "LambdaLR": {"fn": math.cosh},  # a function that can be pickled
    "Warmup": {"epochs": 2},
    "ReduceOnPlateau": {"factor": 0.5, "patience": 0},
    "CostRise": {"factor": 0.5},
}


@pytest.mark.filterwarnings("ignore:compile. step has run")
@pytest.mark.parametrize(("before", "compiled"), [(0, False), (3, False), (3, True)], ids=["new", "eager", "compiled"])
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("case", [*tried.CASES, "lbfgs"])
def test_a_copy_learns_as_the_original_does(case: str, how: str, before: int, compiled: bool) -> None:
    """Bit for bit; and the one does not notice what happens to the other."""
    learner = Learner(optim.LBFGS if case == "lbfgs" else case_of(case), compiled=compiled)
    learner.learn(before)
    other = COPIES[how](learner)
    assert all(p is q for p, q in zip(other.net.parameters(), other.opt.params, strict=True))
    assert other.opt.param_groups[0]["params"][0] is other.net.weight
    start = [p.numpy().copy() for p in learner.net.parameters()]
    found = other.learn()
    other.opt.lr = 5.0
    assert all(np.array_equal(p, q) for p, q in zip(start, (p.numpy() for p in learner.net.parameters()), strict=True))
    assert learner.opt.steps == before
    learner.made = None  # a new plan: the first calls of a compiled step round in another order
    assert learner.learn() == found


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", [kind.__name__ for kind in kinds.SCHEDULES])
def test_a_schedule_is_copied_with_its_optimiser(name: str, how: str) -> None:
    learner = Learner(lambda net: optim.Adam(net.parameters(), lr=0.1), name)
    learner.learn(2)
    other = COPIES[how](learner)
    assert other.schedule.optimiser is other.opt
    found = other.learn(6)
    assert learner.learn(6) == found
    alone = COPIES[how](learner.schedule)
    assert alone.optimiser is not learner.opt
    assert alone.step(1.0) == learner.schedule.step(1.0) == learner.opt.lr


@pytest.mark.parametrize("case", [*tried.CASES, "lbfgs"])
def test_a_shallow_copy_has_a_state_of_its_own(case: str) -> None:
    """The parameters are the same; rates, settings, counts and arrays are not."""
    learner = Learner(optim.LBFGS if case == "lbfgs" else case_of(case))
    learner.learn(2)
    values = learner.opt.state_dict()
    other = copy.copy(learner.opt)
    other.lr = 0.5
    other.settings["maximize"] = not other.settings["maximize"]
    learner.loss()
    other.step(*([learner.loss] if case == "lbfgs" else []))
    assert other.params == learner.opt.params
    same(learner.opt.state_dict(), values)
    assert other.steps == 3


def test_a_shallow_copy_of_a_schedule_has_counts_of_its_own() -> None:
    optimiser = optim.SGD(Tensor([1.0], True), lr=0.4)
    schedule = optim.Warmup(optimiser, 1, optim.StepLR(optimiser, 1))
    other = copy.copy(schedule)
    for _ in range(3):
        other.step()
    assert (schedule.t, schedule.then.t, other.t, other.then.t) == (0, 0, 3, 2)
    assert other.optimiser is optimiser


def same(a: Any, b: Any) -> None:
    np.testing.assert_equal(a, b)


# Groups


def test_groups_have_rates_and_settings_of_their_own() -> None:
    model = nn.Linear(3, 2)
    optimiser = optim.SGD(
        [{"params": [model.weight], "weight_decay": 0.5}, {"params": iter([model.bias]), "lr": 0.01}], lr=0.1, momentum=0.9
    )
    assert [g["lr"] for g in optimiser.param_groups] == [0.1, 0.01]
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.5, 0]
    assert [g["momentum"] for g in optimiser.param_groups] == [0.9, 0.9]
    assert optimiser.params == [model.weight, model.bias]
    with pytest.raises(
        ArgumentError, match=r"SGD: its 2 groups have the learning rates 0\.1, 0\.01; look at param_groups\[i\]\['lr'\]"
    ):
        optimiser.lr  # noqa: B018
    with pytest.raises(ArgumentError, match=r"SGD: its 2 groups differ in weight_decay: 0\.5, 0\.0"):
        optimiser.settings["weight_decay"]
    optimiser.settings["weight_decay"] = 0.25
    optimiser.lr = 0.2
    assert optimiser.rates == (0.2, 0.2)
    assert (optimiser.lr, optimiser.settings["weight_decay"]) == (0.2, 0.25)


def test_a_group_that_comes_later_begins_with_t_1() -> None:
    a, b = Tensor(np.ones(2), True), Tensor(np.ones(3), True)
    optimiser = optim.Adam([a], lr=0.1)
    schedule = optim.ExponentialLR(optimiser, 0.5)
    for _ in range(3):
        a.grad = Tensor(np.ones(2))
        optimiser.step()
    optimiser.add_param_group({"params": b, "lr": 0.2})
    state = optimiser.state[0]["m"].copy()
    a.grad, b.grad = None, Tensor(np.array([1.0, -2.0, 3.0]))
    with pytest.warns(UserWarning, match="no gradient reached parameter 0"):
        optimiser.step()
    np.testing.assert_allclose(b.numpy(), 1 - 0.2 * np.array([1, -1, 1]), rtol=1e-6)
    np.testing.assert_array_equal(optimiser.state[0]["m"], state)
    assert optimiser.late == (1, 3)
    assert schedule.step() == [0.05, 0.1]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_rates_and_settings_of_groups_change_between_steps(compiled: bool) -> None:
    a, b = Tensor(np.ones(2), True), Tensor(np.ones(2), True)
    optimiser = optim.SGD([{"params": a}, {"params": b}], lr=0.1)

    def step() -> None:
        optimiser.zero_grad()
        (a.sum() + b.sum()).backward()
        optimiser.step()

    run = tg.compile(step) if compiled else step
    expected = np.ones(2)
    for k in range(8):
        rates = 0.1 * (k + 1), 0.01 * k
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate
        optimiser.param_groups[1]["weight_decay"] = 0.5 * (k > 3)
        run()
        expected -= np.array(rates) * (1 + np.array([0, 0.5 * (k > 3)]) * expected)
        np.testing.assert_allclose([a.numpy()[0], b.numpy()[0]], expected, rtol=1e-12)


def test_momentum_that_is_wanted_later_makes_its_velocity() -> None:
    p, q = Tensor(np.ones(1), True), Tensor(np.ones(1), True)
    one, other = optim.SGD([p], lr=0.1), optim.SGD([q], lr=0.1, momentum=0.9)
    one.settings["momentum"] = 0.9
    for _ in range(3):
        for t, optimiser in ((p, one), (q, other)):
            t.grad = Tensor(np.ones(1))
            optimiser.step()
    assert p.item() == q.item()


def test_state_dicts_hold_groups() -> None:
    learner, other = (Learner(case_of("adam decay")) for _ in range(2))
    learner.learn(3)
    other.net.load_state_dict(learner.net.state_dict())
    other.opt.load_state_dict(pickle.loads(pickle.dumps(learner.opt.state_dict())))
    assert other.learn() == learner.learn()
    (weight, bias), values = learner.net.parameters(), learner.opt.state_dict()
    assert [g["params"] for g in values["groups"]] == [[0], [1]]
    with pytest.raises(ShapeError, match="load_state_dict: groups of 1, 1 parameters, expected 2"):
        optim.Adam([weight, bias]).load_state_dict(values)
    with pytest.raises(ShapeError, match="load_state_dict: settings params, lr, betas"):
        optim.SGD([{"params": weight}, {"params": bias}], lr=1.0).load_state_dict(values)


@pytest.mark.parametrize("key", ["lr", "weight_decay", "betas"])
def test_numbers_of_state_dicts_and_files_are_checked(key: str, tmp_path: Path) -> None:
    """Before anything is changed."""
    learner = Learner(lambda net: optim.Adam(net, lr=0.1))
    learner.learn(2)
    values, state = learner.opt.state_dict(), learner.opt.state_dict()
    values["groups"][0] |= {key: -1.0}
    with pytest.raises(ShapeError, match=rf"Adam\.load_state_dict: an invalid value: Adam: {key} must be"):
        learner.opt.load_state_dict(values)
    train.save(tmp_path / "a.npz", optimiser=learner.opt)
    contents = train.checkpoint.read(tmp_path / "a.npz")
    contents["optimiser"]["groups"] = values["groups"]
    train.checkpoint.write(tmp_path / "a.npz", contents)
    with pytest.raises(tg.errors.CheckpointError, match=rf"a\.npz: does not fit: .*Adam: {key} must be"):
        train.load(tmp_path / "a.npz", optimiser=learner.opt)
    same(learner.opt.state_dict(), state)


def test_training_with_groups_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Bit for bit, with a rate that changes after each batch."""
    y = (X[:, 0] > 0).astype(int)

    def run(epochs: int, **options: Any) -> tuple[list[bytes], Any]:
        tg.manual_seed(0)
        model = nn.Linear(4, 2)
        optimiser = optim.Adam([{"params": model.weight, "betas": (0.8, 0.9)}, {"params": model.bias}], lr=0.1, amsgrad=True)
        schedule = optim.OneCycleLR(optimiser, [0.3, 0.1], 4 * 4)
        loader = data.DataLoader(X, y, batch_size=4, shuffle=True, rng=1)
        history = train.fit(model, F.cross_entropy, optimiser, loader, epochs, schedule=schedule, progress=False, **options)
        assert schedule.t == 4 * epochs
        assert history["lr"][-1] == optimiser.rates[0]
        return [p.numpy().tobytes() for p in model.parameters()], optimiser.state_dict()

    expected, state = run(4)
    run(2, checkpoint=tmp_path / "a.npz")
    found, resumed = run(4, resume=tmp_path / "a.npz")
    assert found == expected
    same(resumed, state)


def test_a_schedule_by_batches_is_put_back_with_an_epoch_that_fails() -> None:
    tg.manual_seed(0)
    model = nn.Linear(4, 2)
    optimiser = optim.SGD(model, lr=0.1)
    schedule = optim.ExponentialLR(optimiser, 0.5, per="batch")
    x = X.copy()
    x[9] = np.nan
    with pytest.raises(tg.errors.TrainingError):
        train.fit(
            model, F.mse_loss, optimiser, data.DataLoader(x, X[:, :2], batch_size=4), 1, schedule=schedule, progress=False
        )
    assert (schedule.t, optimiser.lr, optimiser.steps) == (0, 0.1, 0)


def test_lbfgs_is_not_for_fit_nor_for_compiled_steps() -> None:
    model = nn.Linear(4, 2)
    optimiser = optim.LBFGS(model)
    with pytest.raises(TypeError, match=r"train\.fit: LBFGS needs the loss several times"):
        train.fit(model, F.mse_loss, optimiser, (X, X[:, :2]), 1, progress=False)
    with pytest.raises(TypeError, match="LBFGS: step needs a closure"):
        optimiser.step()
    with pytest.raises(tg.errors.CompileError, match=r"LBFGS\.step\(\) inside the step"):
        tg.compile(lambda: optimiser.step(lambda: model(X).sum()))()
    with pytest.raises(ArgumentError, match="LBFGS: supports only one parameter group"):
        optim.LBFGS([{"params": model.weight}, {"params": model.bias}])


# What comes in

PARAMS = ("SGD", "Adam", "clip_grad_norm", "clip_grad_value")


def call(name: str, params: Any) -> Any:
    return getattr(optim, name)(params, 0.5)


@pytest.mark.parametrize("name", PARAMS)
def test_one_tensor_is_a_list_of_one_and_a_module_its_parameters(name: str) -> None:
    w = Tensor(np.ones((2, 2)), True)
    w.grad = Tensor(np.array([[6.0, 8], [0, 0]]))
    module = nn.Linear(2, 2)
    for p in module.parameters():
        p.grad = Tensor(np.full(p.shape, 5.0, np.float32))
    found, of_module = call(name, w), call(name, module)
    if "clip" not in name:
        assert found.params == [w]
        assert of_module.params == list(module.parameters())
        return
    expected = [[0.3, 0.4], [0, 0]] if name == "clip_grad_norm" else [[0.5, 0.5], [0, 0]]
    np.testing.assert_allclose(w.grad.numpy(), expected)
    assert all(np.abs(p.grad.numpy()).max() <= 0.5 for p in module.parameters())


@pytest.mark.parametrize("name", PARAMS)
def test_no_parameters_are_an_error(name: str) -> None:
    used = nn.Linear(2, 2).parameters()
    list(used)
    for params, message in (
        ([], "params is empty$"),
        (used, r"params is empty \(a generator can be iterated once\)"),
        ({Tensor([1.0], True)}, "params must be a list of Tensors, one Tensor or a Module, got set"),
        ({}, "params must be a list of Tensors, one Tensor or a Module, got dict"),
        (None, "params must be a list of Tensors, one Tensor or a Module, got NoneType"),
        (3, "params must be a list of Tensors, one Tensor or a Module, got int"),
    ):
        with pytest.raises(ArgumentError, match=rf"^{name}: {message}"):
            call(name, params)
    with pytest.raises(TensorgradError, match=rf"^{name}: param"):
        call(name, "text")


GROUPS: list[tuple[Any, type[Exception], str]] = [
    ([{"params": []}], ArgumentError, "SGD: params is empty"),
    ([{"lr": 1.0}], ArgumentError, "SGD: a group must be a dict that has 'params', got {'lr': 1.0}"),
    ([{"params": Tensor([1.0], True), "rate": 1.0}], ArgumentError, "SGD: a group has 'rate', expected params, lr, momentum"),
    ([{"params": Tensor([1.0], True), "lr": -1.0}], ArgumentError, "SGD: lr must be at least 0, got -1"),
    ([{"params": Tensor([1.0], True)}, Tensor([1.0], True)], ArgumentError, "SGD: a group must be a dict"),
    ([{"params": Tensor([1.0])}], GraphError, "SGD: parameter 0 must be a leaf Tensor"),
]


@pytest.mark.parametrize(("groups", "kind", "message"), GROUPS)
def test_groups_that_will_not_do(groups: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        optim.SGD(groups, lr=0.1)


def test_what_a_group_has_stays() -> None:
    p = Tensor([1.0], True)
    optimiser = optim.SGD([p], lr=0.1)
    group = optimiser.param_groups[0]
    with pytest.raises(ArgumentError, match="SGD: a parameter occurs twice in params"):
        optimiser.add_param_group({"params": p})
    for change in (lambda: group.pop("lr"), group.popitem, group.clear, lambda: group.__delitem__("lr")):
        with pytest.raises(ArgumentError, match="cannot be removed from a group"):
            change()
    with pytest.raises(ArgumentError, match="'rate' cannot be set, only lr, momentum"):
        group["rate"] = 1.0
    with pytest.raises(ArgumentError, match="'params' cannot be set"):
        group["params"] = [p]
    with pytest.raises(ArgumentError, match="SGD: nesterov needs momentum > 0"):
        group.update(lr=0.5, nesterov=True)
    assert group["lr"] == 0.1
    group.update(nesterov=True, momentum=0.5)
    with pytest.raises(ArgumentError, match="SGD: momentum must be at least 0 and at most 1, got 2"):
        optimiser.settings.update(weight_decay=1, momentum=2)
    assert group["weight_decay"] == 0
    with pytest.raises(ArgumentError, match="SGD: settings are momentum"):
        optimiser.settings["lr"] = 1.0


# Every number of every optimiser, schedule and clip function

SHARES = {"momentum", "dampening", "gamma", "factor", "rise"}  # from 0 to 1
BELOW = {"alpha", "b1", "b2"}
WHOLE = {"every", "epochs", "first", "steps", "patience", "waited", "max_iter", "history_size"}


def numbers() -> list[tuple[Any, str]]:
    """The class and the name of each number that it takes."""
    found: list[tuple[Any, str]] = []
    for kind in (*kinds.OPTIMISERS, optim.LBFGS):
        settings = optimiser_of(kind).settings
        found += [(kind, name) for name, v in settings.items() if isinstance(v, (int, float)) and not isinstance(v, bool)]
        found.append((kind, "lr"))
        found += [(kind, "betas")] if "betas" in settings else []
    return found + [(kind, name) for kind in kinds.SCHEDULES for name in kind.limits]


def optimiser_of(kind: Any, **options: Any) -> Any:
    return kind([Tensor([1.0], True)], **{"lr": 0.1, **options})


def schedule_of(kind: Any, **options: Any) -> Any:
    return kind(optimiser_of(optim.SGD), **{**ARGUMENTS[kind.__name__], **options})


def wrong(kind: Any, name: str) -> list[Any]:
    """What the number may not be."""
    found = [-1, -0.5, math.nan, math.inf, -math.inf, "1", None, True, np.bool_(True), 1j, np.ones(1), [0.5], 10**400]
    whole = name in WHOLE or (kind is optim.CosineAnnealingWarmRestarts and name == "factor")
    found += [1.5, 1.5, np.float32(2.5)] if whole else []
    found += [0] if (whole and name not in ("patience", "waited")) or name in ("divide", "end_divide") else []
    found += [1.5, np.int64(2), Tensor(1.001)] if name in SHARES and not whole else []
    found += [1.0, 1, 2.5] if name in BELOW | {"betas"} else []
    return [(0.5, v) for v in found] + [0.5, (0.1,), (0.1, 0.1, 0.1), None] if name == "betas" else found


@pytest.mark.parametrize(("kind", "name"), numbers())
def test_numbers_are_checked_when_they_come_in_and_when_they_are_set(kind: Any, name: str) -> None:
    make = schedule_of if issubclass(kind, optim.Schedule) else optimiser_of
    message = rf"^{kind.__name__}: {name}\S* must be "
    made = make(kind)
    given = name != "waited"  # what a schedule counts itself can be set, not given
    for value in wrong(kind, name):
        if given:
            with pytest.raises(ArgumentError, match=message):
                make(kind, **{name: value})
        place = made if issubclass(kind, optim.Schedule) or name == "lr" else made.settings
        with pytest.raises(ArgumentError, match=message):
            (setattr if place is made else type(place).__setitem__)(place, name, value)
        if not issubclass(kind, optim.Schedule):
            with pytest.raises(ArgumentError, match=message):
                made.param_groups[0][name] = value
    if name == "betas":
        made.settings["betas"] = [np.float32(0.5), Tensor(0.25)]
        assert made.settings["betas"] == (0.5, 0.25)
        return
    if name == "max_eval":
        return
    for value in (np.float64(1), np.uint8(1), np.array(1), Tensor(1.0), np.float16(1)):
        value = value if name not in BELOW else Tensor(0.5)
        made = make(kind, **{name: value} if given else {})
        if not given:
            setattr(made, name, value)
        found = getattr(made, name) if hasattr(type(made), name) or name in vars(made) else made.settings[name]
        assert found == (1 if name not in BELOW else 0.5)
        assert type(found) in (float, int)


@pytest.mark.parametrize("name", ["clip_grad_norm", "clip_grad_value"])
def test_limits_of_clipping(name: str) -> None:
    """A NumPy scalar is its number: no wrapping around of uint8, no infinity of float16."""
    for value in (254, np.uint8(254), np.int8(100), np.float16(254), np.array(254), Tensor(254.0), 1e-30, math.inf):
        w = Tensor(np.ones(2), True)
        w.grad = Tensor(np.array([-300.0, 400.0]))
        found = getattr(optim, name)(w, value)
        limit = float(value if not isinstance(value, Tensor) else value.item())
        if name == "clip_grad_norm":
            assert found == pytest.approx(500)
            np.testing.assert_allclose(w.grad.numpy(), np.array([-300, 400]) * min(1, limit / 500), rtol=1e-7)
        else:
            np.testing.assert_array_equal(w.grad.numpy(), np.clip([-300.0, 400.0], -limit, limit))
    w.grad = Tensor(np.ones(2))
    for value in (0, -1, math.nan, -math.inf, "1", None, True, np.bool_(True), 1j, np.ones(1), [1.0]):
        with pytest.raises(ArgumentError, match=rf"^{name}: (max_norm|limit) must be "):
            getattr(optim, name)(w, value)


def test_clipping_by_a_value_that_the_dtype_does_not_have() -> None:
    w = Tensor(np.ones(2, np.float16), True)
    w.grad = Tensor(np.array([np.inf, -5], np.float16))
    optim.clip_grad_value(w, 1e9)
    np.testing.assert_array_equal(w.grad.numpy(), [65504, -5])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_norms_neither_overflow_nor_underflow(dtype: str, compiled: bool) -> None:
    """Gradients of s [3, 4] and s [12], s being 2^k over all exponents: a norm of 13 s, and gradients of that norm, or 2^-9."""
    info = np.finfo(dtype)
    a, b = Tensor(np.ones(2, dtype), True), Tensor(np.ones(1, dtype), True)

    def clip(g: Tensor, h: Tensor) -> Any:
        a.grad = b.grad = None
        ((a * g).sum() + (b * h).sum()).backward()
        norm = optim.clip_grad_norm([a, b], 2.0**-9)
        return norm, a.grad, b.grad

    run = tg.compile(clip) if compiled else clip
    for k in range(int(info.minexp) + 2, int(info.maxexp) - 4, max(int(info.maxexp) // 8, 1)):
        s = 2.0**k
        norm, g, h = run(Tensor(np.array([3 * s, 4 * s], dtype)), Tensor(np.array([12 * s], dtype)))
        norm = norm.item() if isinstance(norm, Tensor) else norm
        assert norm == pytest.approx(13 * s, rel=1e-6, abs=0), k
        expected = np.array([3, 4, 12]) * min(s, 2.0**-9 / 13)
        found = np.concatenate([g.numpy(), h.numpy()]).astype(np.float64)
        np.testing.assert_allclose(
            found, expected, rtol=2 * float(info.eps), atol=float(info.smallest_subnormal), err_msg=str(k)
        )


def test_a_norm_that_does_not_fit() -> None:
    """Of finite float64: it is infinite, the gradients are right."""
    w = Tensor(np.ones(4), True)
    w.grad = Tensor(np.full(4, 1.5e308))
    assert optim.clip_grad_norm(w, 1.0) == math.inf
    np.testing.assert_allclose(w.grad.numpy(), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: optim.LambdaLR(o, 3), "LambdaLR: fn must be a function of t"),
        (lambda o: optim.LambdaLR(o, [abs, abs]), "LambdaLR: fn must be a function of t, or a list of 1"),
        (lambda o: optim.LambdaLR(o, lambda t: -t).step(), r"LambdaLR: fn\(1\) must be at least 0, got -1"),
        (lambda o: optim.MultiStepLR(o, [3, 2]), r"MultiStepLR: milestones must increase, got \[3, 2\]"),
        (lambda o: optim.MultiStepLR(o, [1.5]), r"MultiStepLR: milestones\[0\] must be an integer"),
        (lambda o: optim.OneCycleLR(o, [1.0, 2.0], 5), "OneCycleLR: top must be a learning rate, or a list of 1"),
        (lambda o: optim.OneCycleLR(o, -1.0, 5), "OneCycleLR: top must be at least 0, got -1"),
        (lambda o: optim.OneCycleLR(o, 1.0, 5, shape="cos"), "OneCycleLR: shape must be 'cosine' or 'linear', got 'cos'"),
        (lambda o: optim.StepLR(o, 1, per="step"), "StepLR: per must be 'epoch' or 'batch', got 'step'"),
        (lambda o: optim.StepLR("o", 1), "StepLR: optimiser must be an Optimiser, got str"),
        (lambda o: optim.Warmup(o, 1, optim.StepLR(o, 1), per="batch"), "Warmup: per is 'batch', but `then` has per='epoch'"),
        (lambda o: optim.Warmup(o, 1, 3), "Warmup: `then` must be a Schedule, got int"),
        (lambda o: optim.Warmup(o, 1, optim.StepLR(copy.copy(o), 1)), "Warmup: `then` is a schedule of a different optimiser"),
        (lambda o: optim.ReduceOnPlateau(o).step("low"), "ReduceOnPlateau: cost must be a number"),
        (lambda o: optim.Adam(o.params, amsgrad=1), "Adam: amsgrad must be True or False, got 1"),
        (lambda o: optim.SGD(o.params, 1.0, maximize="no"), "SGD: maximize must be True or False, got 'no'"),
        (lambda o: optim.LBFGS(o.params, line_search="wolfe"), "LBFGS: line_search must be 'strong_wolfe' or None"),
        (lambda o: optim.SGD(o.params, 1.0, 0.5, nesterov=True, dampening=0.5), "SGD: nesterov needs momentum > 0"),
    ],
)
def test_mistakes(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(optimiser_of(optim.SGD))


def test_the_least_rate_raises_none() -> None:
    optimiser = optim.SGD([Tensor([1.0], True)], lr=1e-3)
    schedule = optim.ReduceOnPlateau(optimiser, 0.1, 0, least=1e-2)
    for _ in range(4):
        assert schedule.step(1.0) == 1e-3
