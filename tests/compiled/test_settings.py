"""J: settings of optimisers, new optimisers, switches: after three calls, or inside of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, fusion, nn, ops, optim
from tensorgrad.errors import AnomalyError
from tensorgrad.nn import functional as F
from tests.compiled import World, agree, assert_close, change_after_three, either, training, vec, weight

OPTIMISERS: dict[str, Callable[..., optim.Optimiser]] = {
    "SGD": lambda p, **s: optim.SGD(p, lr=0.1, **s),
    "SGD with momentum": lambda p, **s: optim.SGD(p, lr=0.1, **{"momentum": 0.9, **s}),
    "SGD nesterov": lambda p, **s: optim.SGD(p, lr=0.1, **{"momentum": 0.9, "nesterov": True, **s}),
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "RMSprop": optim.RMSprop,
    "Adagrad": optim.Adagrad,
}


def settings() -> list[tuple[str, str, Any, Any]]:
    """Optimiser, setting, its value at first and later: from 0, to 0, and from one number to another."""
    found: list[tuple[str, str, Any, Any]] = []
    for name, make in OPTIMISERS.items():
        optimiser = make([weight()])
        for key, value in optimiser.settings.items():
            if isinstance(value, bool):
                found += [(name, key, a, not a) for a in (False, True) if key != "nesterov" or optimiser.settings["momentum"]]
            elif key == "betas":
                found += [(name, key, (0.5, 0.0), (0.0, 0.5)), (name, key, (0.0, 0.0), (0.5, 0.9))]
            elif name == "SGD nesterov" and key in ("momentum", "dampening"):
                found += [(name, "momentum", 0.5, 0.25)]
            elif key == "weight_decay":
                found += [(name, key, a, b) for a, b in ((0.0, 0.5), (0.5, 0.0), (0.5, 0.1))]
            elif key == "eps":
                found += [(name, key, value, 0.1)]
            else:
                found += [(name, key, 0.5, 0.0), (name, key, 0.0, 0.5), (name, key, 0.5, 0.25)]
    return found


@pytest.mark.parametrize("how", ["settings", "state dict"])
@pytest.mark.parametrize(("name", "key", "first", "later"), settings())
def test_settings_of_optimisers(name: str, key: str, first: Any, later: Any, how: str) -> None:
    """The weights, the state and the number of steps are those of the optimiser itself."""

    def make() -> tuple[World, Callable[[], Any]]:
        w = weight(1, "float64")
        optimiser = OPTIMISERS[name]([w])
        optimiser.settings[key] = first
        step = training(lambda x: (x.mean(0) * w * w).sum(), optimiser)

        def change() -> None:
            if how == "settings":
                optimiser.settings[key] = later
            else:
                other = OPTIMISERS[name]([w])
                other.settings[key], other.lr = later, 0.05
                other.load_state_dict({**other.state_dict(), "steps": optimiser.steps})
                optimiser.load_state_dict(other.state_dict())

        return World(step, lambda: (w, optimiser.state, optimiser.steps)), change

    change_after_three(make, may_refuse=False)


@pytest.mark.parametrize(("first", "later"), [(0.0, 0.5), (0.5, 0.0), (0.5, 0.1)])
def test_weight_decay_by_the_formula(first: float, later: float) -> None:
    w = weight(1, "float64")
    optimiser = optim.SGD([w], lr=0.1, weight_decay=first)
    step = tg.compile(training(lambda x: (x * w * w).sum(), optimiser))
    expected = 1.0
    for i in range(6):
        optimiser.settings["weight_decay"] = first if i < 3 else later
        step(vec(1, "float64"))
        expected -= 0.1 * (2 * expected + (first if i < 3 else later) * expected)
        assert_close(w, vec(expected, "float64"), 1e-12)
        assert optimiser.steps == i + 1


def test_a_velocity_that_goes_and_comes_back() -> None:
    """A plan from before writes to arrays that are the optimiser's no more."""
    made: list[Any] = []

    def make() -> World:
        w = weight(1, "float64")
        o = optim.SGD([w], lr=0.1, momentum=0.5)
        made[:] = [o]
        return World(training(lambda x: (x * w * w).sum(), o), lambda: (w, o.state))

    def before_call(i: int) -> None:
        if i in (4, 8):
            made[0].settings["momentum"] = 0.5 * (i == 8)

    agree(make, [(vec(0.1 * k, "float64"),) for k in range(13)], rtol=1e-9, before_call=before_call, may_refuse=False)


@pytest.mark.parametrize("read", ["o.lr", "o.rates[0]", "o.param_groups[0]['lr']", "group['lr']", "groups[0]['lr']"])
def test_a_rate_that_the_step_itself_reads(read: str) -> None:
    """It is a number of Python's: when it is another one, so is the step."""
    read_rate = eval(f"lambda o, group, groups: {read}")

    def make() -> tuple[World, Callable[[], Any]]:
        w = weight(1, "float64")
        o = optim.SGD([w], lr=0.1)
        group, groups = o.param_groups[0], o.param_groups
        step = training(lambda x: (x * w * w).sum() * read_rate(o, group, groups), o)
        return World(step, lambda: w), lambda: setattr(o, "lr", 0.01)

    change_after_three(make, may_refuse=False)


@pytest.mark.parametrize("read", ["o.settings['weight_decay']", "group['weight_decay']", "settings['weight_decay']"])
def test_a_setting_that_the_step_itself_reads(read: str) -> None:
    read_setting = eval(f"lambda o, group, settings: {read}")

    def make() -> tuple[World, Callable[[], Any]]:
        w = weight(1, "float64")
        o = optim.SGD([w], lr=0.1, weight_decay=0.5)
        group, settings = o.param_groups[0], o.settings
        step = training(lambda x: (x * w * w).sum() * read_setting(o, group, settings), o)

        def change() -> None:
            o.settings["weight_decay"] = 0.25

        return World(step, lambda: w), change

    change_after_three(make, may_refuse=False)


OTHER: dict[str, Callable[[Any, Any], Any]] = {  # of an optimiser and the list of its parameters
    "lr": lambda o, w: setattr(o, "lr", 0.01),
    "lr of 0": lambda o, w: setattr(o, "lr", 0.0),
    "lr, a number of NumPy's": lambda o, w: setattr(o, "lr", np.float64(0.01)),
    "steps": lambda o, w: setattr(o, "steps", 100),
    "state": lambda o, w: [a.fill(0.5) for s in o.state for a in s.values()],
    "state dict of its own": lambda o, w: o.load_state_dict(o.state_dict()),
    "state dict of a new one": lambda o, w: o.load_state_dict(type(o)([weight(1, "float64")], lr=0.2).state_dict()),
    "the array": lambda o, w: setattr(w, "data", np.array([5.0, 6.0, 7.0])),
    "written to": lambda o, w: w.data.fill(3.0),
    "new settings": lambda o, w: setattr(o, "settings", {k: v * 0.5 for k, v in o.settings.items() if isinstance(v, float)}),
    "a schedule": lambda o, w: optim.ExponentialLR(o, 0.5).step(),
    "frozen": lambda o, w: w.requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore:.*no gradient reached")
@pytest.mark.parametrize("change", OTHER)
@pytest.mark.parametrize("name", ["SGD", "SGD with momentum", "Adam", "RMSprop"])
def test_what_else_an_optimiser_has(name: str, change: str) -> None:
    def make() -> tuple[World, Callable[[], Any]]:
        w, v = weight(1, "float64"), weight(2, "float64")
        optimiser = OPTIMISERS[name]([w])
        other = optim.SGD([v], lr=0.1)

        def step(x: Any) -> Any:
            loss = (x * w * w).sum() + (x * v).sum()
            optimiser.zero_grad()
            other.zero_grad()
            loss.backward()
            optimiser.step()
            other.step()
            return loss

        return World(step, lambda: (w, v, optimiser.state, optimiser.steps)), lambda: OTHER[change](optimiser, w)

    change_after_three(make, may_refuse=change == "frozen")


@pytest.mark.parametrize("second", OPTIMISERS)
@pytest.mark.parametrize("first", ["SGD", "Adam"])
def test_a_new_optimiser_in_the_place_of_the_old_one(first: str, second: str) -> None:
    def make() -> tuple[World, Callable[[], Any]]:
        w = weight(1, "float64")
        box = [OPTIMISERS[first]([w])]

        def step(x: Any) -> Any:
            loss = (x * w * w).sum()
            box[0].zero_grad()
            loss.backward()
            box[0].step()
            return loss

        def change() -> None:
            box[0] = OPTIMISERS[second]([w])

        return World(step, lambda: (w, box[0].steps, box[0].state)), change

    change_after_three(make)


def test_more_parameters_for_an_optimiser() -> None:
    def make() -> tuple[World, Callable[[], Any]]:
        w, v = weight(1, "float64"), weight(2, "float64")
        box = [optim.SGD([w], lr=0.1)]

        def step(x: Any) -> Any:
            box[0].zero_grad()
            v.grad = None
            loss = (x * w * v).sum()
            loss.backward()
            box[0].step()
            return loss

        return World(step, lambda: (w, v)), lambda: box.__setitem__(0, optim.SGD([w, v], lr=0.1))

    change_after_three(make)


# Switches, from outside of the step: another one in the fourth call

X = np.random.default_rng(0).normal(size=(4, 3))


def logits(w: Any) -> Callable[[Any], Any]:
    return lambda x: (-(np.eye(4, 3) * (x @ w).softmax().log()).sum(), (x @ w).relu())


def test_no_grad_and_fusion() -> None:
    """Values are the same, with gradients and without, fused or not."""
    w = Tensor(np.random.default_rng(1).normal(size=(3, 3)), requires_grad=True)
    compiled = tg.compile(logits(w))
    for i in range(12):
        with (tg.no_grad(), fusion.off(), fusion.on())[i // 3 % 3]:
            assert_close(compiled(X * i), [v.detach() for v in logits(w)(Tensor(X * i))], 1e-12)


def test_anomalies_are_found_by_a_switch_outside() -> None:
    compiled = tg.compile(lambda x: x.log().sum())
    for v in (1, 1, 1, 1):
        compiled(vec(v))
    with np.errstate(all="ignore"):
        with tg.detect_anomaly(), pytest.raises(AnomalyError):
            compiled(vec(-1))
        assert np.isnan(compiled(vec(-1)).item())


def test_threads() -> None:
    before = tg.get_num_threads()
    compiled = tg.compile(lambda x: (x @ x.T).exp().sum(0))
    try:
        for n in (1, 1, 1, 2, 2, 3, 1, 2):
            tg.set_num_threads(n)
            assert_close(compiled(X), np.exp(X @ X.T).sum(0), 1e-12)
    finally:
        tg.set_num_threads(before)


def test_seeds_from_outside() -> None:
    """Masks are those of the generator at that time."""
    masks = []
    for wrap in (lambda f: f, tg.compile):
        step, found = wrap(lambda x: F.dropout(x, 0.5)), []
        for i in range(8):
            if i % 3 == 0:
                tg.manual_seed(i)
            found.append(step(Tensor(np.ones(50))).numpy().copy())
        masks.append(found)
    for a, b in zip(*masks, strict=True):
        np.testing.assert_array_equal(b, a)


# Switches inside of the step


@pytest.mark.parametrize("where", ["forward", "backward", "both"])
def test_anomalies_are_found_by_a_switch_inside(where: str) -> None:
    """AnomalyError in the call that has one, or the switch is refused."""
    w = weight(1, "float64")

    def step(x: Any) -> Any:
        if where == "forward":
            with tg.detect_anomaly():
                return (x * w).log().sum()
        if where == "backward":
            y = (x * w).sqrt().sum()
            with tg.detect_anomaly():
                return tg.grad(y, w)
        with tg.detect_anomaly():
            return tg.grad((x * w).log().sum(), w)

    compiled = tg.compile(step)
    with np.errstate(all="ignore"):
        for v in (1, 1, 1, 2):
            if either(compiled, vec(v, "float64"))[1]:
                return
        with pytest.raises(AnomalyError):
            compiled(vec(-1 if where != "backward" else 0, "float64"))


RANDOM: dict[str, Callable[[Any, Any], Any]] = {
    "manual_seed": lambda x, rng: (tg.manual_seed(0), F.dropout(x, 0.5))[1],
    "F.seed": lambda x, rng: (F.seed(0), F.dropout(x, 0.5))[1],
    "manual_seed twice": lambda x, rng: [(tg.manual_seed(i), F.dropout(x, 0.5))[1] for i in range(2)],
    "a generator of the call": lambda x, rng: F.dropout(x, 0.5, rng=np.random.default_rng(0)),
    "a generator from outside": lambda x, rng: F.dropout(x, 0.5, rng=rng),
    "a generator of NumPy's": lambda x, rng: x * rng.random(50),
    "a generator of NumPy's, fixed": lambda x, rng: x * np.random.default_rng(0).random(50),
    "two masks": lambda x, rng: F.dropout(F.dropout(x, 0.5, rng=rng), 0.2, rng=rng),
    "none": lambda x, rng: F.dropout(x, 0.5, training=False),
    "all": lambda x, rng: F.dropout(x, 1.0, rng=rng),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers(name: str) -> None:
    """The same masks as in the step itself, call by call."""

    def make() -> World:
        tg.manual_seed(7)
        rng = np.random.default_rng(7)
        return World(lambda x: RANDOM[name](x, rng))

    told = agree(make, [(np.ones(50),)] * 6)
    assert told.refused is None or "NumPy" in name or "seed" in name or "of the call" in name


INSIDE: dict[str, Callable[[Any, Any], Any]] = {
    "no_grad": lambda x, w: nothing_recorded(x, w),
    "fusion.off": lambda x, w: unfused(x, w),
    "set_num_threads": lambda x, w: (tg.set_num_threads(tg.get_num_threads()), x @ w)[1],
    "errstate": lambda x, w: quietly(x, w),
    "profile": lambda x, w: profiled(x, w),
    "train and eval": lambda x, w: modes(x, w),
}


def nothing_recorded(x: Any, w: Any) -> Any:
    with tg.no_grad():
        frozen = x @ w
    return frozen * (x @ w), tg.grad((frozen * (x @ w)).sum(), w)


def unfused(x: Any, w: Any) -> Any:
    with fusion.off():
        return tg.grad(F.cross_entropy(x @ w, np.array([0, 1, 2, 1])), w)


def quietly(x: Any, w: Any) -> Any:
    with np.errstate(all="ignore"):
        return ((x @ w) * 1e300 * 1e300, (x @ w - 100).log(), (x @ w) / 0)


def profiled(x: Any, w: Any) -> Any:
    with tg.profile():
        return x @ w


def modes(x: Any, w: Any) -> Any:
    norm = nn.BatchNorm1d(3, dtype="float64")
    norm.running_mean += 0.5
    return ops.stack([norm(x @ w), norm.eval()(x @ w)])


@pytest.mark.parametrize("name", INSIDE)
def test_switches_inside(name: str) -> None:
    def make() -> World:
        w = Tensor(np.random.default_rng(1).normal(size=(3, 3)), requires_grad=True)
        return World(lambda x: INSIDE[name](x, w))

    agree(make, [(X * k,) for k in (1, 2, 1, 3, 2)], rtol=1e-9)
