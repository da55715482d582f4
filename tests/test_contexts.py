"""What belongs to a thread or an asyncio task alone: the modes of modules inside of a call, and the switches of `with` blocks.

Threads and tasks are held at gates, so that each order of entering and leaving is the one that is tested.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from tensorgrad.models import MLPClassifier

import tensorgrad
from tensorgrad import Tensor, data, fusion, nn, no_grad, optim, train
from tensorgrad.core.state import state
from tensorgrad.errors import AnomalyError, ArgumentError
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.train.evaluate import evaluating

pytestmark = pytest.mark.quick

WAIT = 30  # seconds, after which a test that hangs fails
X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = np.arange(12) % 3


class Gate(nn.Module):
    """Holds the forward of threads that are named, once each, in the mode that is named."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["held"] = {}  # thread to the mode in which it is held, an event when it is, and one that lets it go

    def forward(self, x: Any) -> Any:
        mode, reached, go = self.held.get(threading.current_thread().name, (None, None, None))
        if mode is self.training and not reached.is_set():
            reached.set()
            assert go.wait(WAIT)
        return x


class Fails(nn.Module):
    """Fails in the threads that are named."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["names"] = set()

    def forward(self, x: Any) -> Any:
        if threading.current_thread().name in self.names:
            raise ZeroDivisionError
        return x


def network(mode: bool) -> nn.Sequential:
    """With dropout and batch norm; one of its parts is in the other mode."""
    rng = np.random.default_rng(1)
    model = nn.Sequential(
        Gate(), nn.Linear(4, 8, rng=rng), nn.Dropout(0.5, rng=rng), nn.BatchNorm1d(8), nn.Linear(8, 3, rng=rng), Fails(),
        nn.Dropout(0.5, rng=rng),
    ).train(mode)  # fmt: skip
    model[6].train(not mode)
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for _, module in model.named_modules()]


def fitted(model: nn.Module) -> Any:
    """Training that leaves the parameters as they are: momentum=0 does so for the running statistics, too."""
    model[3].momentum = 0.0
    optimiser = optim.SGD(model.parameters(), lr=0.0)
    batches = data.DataLoader(X, Y, batch_size=6)
    history = train.fit(model, F.cross_entropy, optimiser, batches, 2, validation=(X, Y), compile=False, progress=False)
    return [history["loss"], history["val_loss"]]


CALLS: dict[str, tuple[Callable[[Any], Any], bool]] = {  # and the mode in which it is held
    "predict": (lambda model: train.predict(model, X), False),
    "evaluate": (lambda model: train.evaluate(model, F.cross_entropy, (X, Y)), False),
    "fit, training": (fitted, True),
    "fit, validation": (fitted, False),
}

PAIRS = [(a, b) for a, b in itertools.product(CALLS, CALLS) if a[:3] != "fit" or b[:3] != "fit"]


def together(model: nn.Module, calls: dict[str, Callable[[Any], Any]], held: list[bool], nested: bool) -> dict[str, Any]:
    """What two threads find: A begins, then B; B ends first if `nested`, else A."""
    found: dict[str, Any] = {}

    def call(name: str) -> None:
        try:
            found[name] = calls[name](model)
        except ZeroDivisionError as error:
            found[name] = error

    model[0].held.update({n: (mode, threading.Event(), threading.Event()) for n, mode in zip("AB", held, strict=True)})
    threads = {name: threading.Thread(target=call, args=name, name=name) for name in "AB"}
    for name, thread in threads.items():
        thread.start()
        assert model[0].held[name][1].wait(WAIT)
    for name in "BA" if nested else "AB":
        model[0].held[name][2].set()
        threads[name].join(WAIT)
        assert not threads[name].is_alive()
    return found


@pytest.mark.parametrize("nested", [False, True], ids=["A ends first", "B ends first"])
@pytest.mark.parametrize(
    ("a", "b"), [pair for pair in itertools.product(CALLS, CALLS) if not pair[0][:3] == pair[1][:3] == "fit"]
)
@pytest.mark.parametrize("mode", [True, False], ids=["from training", "from evaluation"])
def test_calls_that_overlap(mode: bool, a: str, b: str, nested: bool) -> None:
    """Each finds what it finds alone, and the modes are as before. (Two trainings of one model draw from one generator.)"""
    model = network(mode)
    before = modes(model)
    found = together(model, {"A": CALLS[a][0], "B": CALLS[b][0]}, [CALLS[a][1], CALLS[b][1]], nested)
    for name, call in (("A", a), ("B", b)):
        np.testing.assert_equal(found[name], CALLS[call][0](network(mode)))
    assert modes(model) == before


@pytest.mark.parametrize("nested", [False, True], ids=["A ends first", "B ends first"])
@pytest.mark.parametrize("failing", ["A", "B", "AB"])
def test_one_that_fails(failing: str, nested: bool) -> None:
    model = network(True)
    model[5].names.update(failing)
    before = modes(model)
    found = together(model, dict.fromkeys("AB", CALLS["predict"][0]), [False, False], nested)
    assert modes(model) == before
    for name in "AB":
        if name in failing:
            assert isinstance(found[name], ZeroDivisionError)
        else:
            np.testing.assert_array_equal(found[name], CALLS["predict"][0](network(True)))


def gated(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Gate(), nn.Dropout(0.5), nn.Linear(inputs, outputs))


def test_estimators_in_threads() -> None:
    """predict while a clone is fitted, and while the network itself is trained on."""
    estimator = MLPClassifier(module=gated, max_iter=3, random_state=0, n_iter_no_change=99, tol=0).set_params(verbose=False)
    with pytest.warns(match="training has not converged after"):
        estimator.fit(X, Y)
    alone = estimator.predict_proba(X)
    model = estimator.module_
    for other in ("a clone", "itself"):

        def fit(model: Any, other: str = other) -> Any:
            if other == "a clone":
                with pytest.warns(match="training has not converged after"):
                    return clone(estimator).fit(X, Y)
            optimiser = optim.SGD(model.parameters(), lr=0.0)
            return train.fit(model, F.cross_entropy, optimiser, (X, Y), 1, compile=False, progress=False)

        if other == "itself":
            calls = {"A": fit, "B": lambda model: estimator.predict_proba(X)}
            found = together(model, calls, [True, False], True)["B"]
        else:
            calls = {"A": lambda model: estimator.predict_proba(X), "B": lambda model: estimator.predict_proba(X)}
            fitting = threading.Thread(target=fit, args=(model,))
            fitting.start()
            found = together(model, calls, [False, False], False)["B"]
            fitting.join(WAIT)
        np.testing.assert_array_equal(found, alone)
        assert modes(model) == [False] * 4
    model.train()
    train.predict(model, X)
    assert modes(model) == [True] * 4


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_estimators_train_in_training_mode_each_time(solver: str) -> None:
    seen: list[bool] = []

    class Sees(nn.Module):
        def forward(self, x: Any) -> Any:
            seen.append(self.training)
            return x

    def module(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(Sees(), nn.Linear(inputs, outputs))

    estimator = MLPClassifier(module=module, solver=solver, warm_start=True, max_iter=2, random_state=0, compile=False)
    for _ in range(2):
        seen.clear()
        with pytest.warns(match="not converged|did not converge"):
            estimator.fit(X, Y)
        assert seen[-1]
        assert not estimator.module_.training


# What is set inside


def test_a_mode_that_forward_sets() -> None:
    """It is that of the call, and ends with it: dropout in predictions, say."""

    class Sampling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.dropout = Gate(), nn.Dropout(0.5, rng=np.random.default_rng(0))

        def forward(self, x: Any) -> Any:
            x = self.gate(x)
            if threading.current_thread().name == "A":
                self.dropout.train()
            return self.dropout(x)

    holder = nn.Sequential(Gate(), Sampling())
    ones = np.ones((3, 4), np.float32)
    for mode in (True, False):
        holder.train(mode)
        found = together(holder, dict.fromkeys("AB", lambda model: train.predict(model, ones)), [False, False], False)
        holder[0].held.clear()
        assert set(found["A"].ravel()) == {0.0, 2.0}
        np.testing.assert_array_equal(found["B"], ones)
        assert modes(holder) == [mode] * 5


def test_a_mode_that_a_callback_sets() -> None:
    """It ends with the epoch, and `fit` with the modes that there were before."""
    model, seen = network(True), []
    before = modes(model)

    class Sees(train.Callback):
        def on_epoch_end(self, run: Any) -> None:
            seen.append(modes(model))
            model.eval()
            assert modes(model) == [False] * 8
            copies = copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model[2]))
            assert not any(copied.training for copied in copies)
            assert train.predict(model, X).shape == (12, 3)
            assert modes(model) == [False] * 8

    optimiser = optim.SGD(model.parameters(), lr=0.1)
    train.fit(model, F.cross_entropy, optimiser, (X, Y), 2, validation=(X, Y), callbacks=[Sees()], progress=False)
    assert seen == [[True] * 8] * 2
    assert modes(model) == before


def test_copies_have_the_mode_that_is_seen() -> None:
    model = network(True)
    with evaluating([module for _, module in model.named_modules()]):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        assert model.state_dict().keys() == copies[0].state_dict().keys()
    for copied in copies:
        assert modes(copied) == [False] * 8
        assert modes(copied.train()) == [True] * 8
    assert modes(model) == modes(network(True))


def test_a_class_that_defines_training() -> None:
    """It would not be asked what the mode of the call is."""
    for value in (True, property(lambda self: False)):
        with pytest.raises(ArgumentError, match=r"^Own: a class cannot define `training`, which .* self.training in __init__"):
            type("Own", (nn.Module,), {"training": value})
    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\) first"):
        nn.Module.__new__(nn.Module).training  # noqa: B018


# Compiled steps


@pytest.mark.parametrize("mode", [True, False])
def test_a_plan_is_of_one_mode(mode: bool) -> None:
    """Threads take turns: one is inside `evaluating`, one is not; nothing but that is set on the way."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(mode)
    step = tensorgrad.compile(lambda x: model(x) * 2)
    turns = [threading.Semaphore(0), threading.Semaphore(0)]
    found: list[list[float]] = [[], []]
    plans: list[Any] = [[], []]

    def calls(i: int) -> None:
        with evaluating([module for _, module in model.named_modules()]) if i else no_grad():
            for _ in range(6):
                assert turns[i].acquire(timeout=WAIT)
                found[i].append((step(X).numpy() == 0).mean())
                plans[i].append(step.plan)
                turns[1 - i].release()

    threads = [threading.Thread(target=calls, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    turns[0].release()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert found[1] == [0.0] * 6
    assert all(0.2 < share < 0.8 if mode else share == 0 for share in found[0])
    if mode:
        assert plans[0][-1] is not plans[1][-1]
        assert plans[0][-1] is plans[0][-2]  # it is a replay
        assert any(guard.text.endswith("training is True") for guard in plans[0][-1].guards)


def test_a_step_that_sets_modes() -> None:
    """It is run as it is written, inside of a call as outside."""
    model = nn.Sequential(nn.Linear(4, 4, rng=np.random.default_rng(0)), nn.Dropout(0.5))
    parts = [module for _, module in model.named_modules()]

    def step(x: Any) -> Any:
        model.train(not model.training)
        return (model(x) == 0).sum()

    for inside in (False, True):
        model.train()
        compiled = tensorgrad.compile(step)
        with evaluating(parts) if inside else no_grad(), pytest.warns(match="as it is written|changes"):
            counts = [int(compiled(X).item()) for _ in range(6)]
        assert [count > 0 for count in counts] == [inside, not inside] * 3
        assert all(parts[i].training for i in range(3))


class Scaled(nn.Module):
    scale = 2.0


class Super(Scaled):
    def forward(self, x: Any) -> Any:
        return x * super().scale


def test_attributes_by_super_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    step = tensorgrad.compile(Super())
    assert [float(step(np.ones(1)).item()) for _ in range(3)] == [2.0] * 3
    monkeypatch.setattr(Scaled, "scale", 3.0)
    assert [float(step(np.ones(1)).item()) for _ in range(3)] == [3.0] * 3


# Switches


def leaf() -> Tensor:
    return Tensor(np.ones(2), requires_grad=True)


def finds_infinities() -> bool:
    try:
        with np.errstate(all="ignore"):
            Tensor(np.zeros(1)).log()
    except AnomalyError:
        return True
    return False


SWITCHES: dict[str, tuple[Callable[[], Any], Callable[[], bool]]] = {  # and whether it is on
    "no_grad": (no_grad, lambda: not (leaf() * 2).requires_grad),
    "fusion.off": (fusion.off, lambda: not state.fusing),
    "detect_anomaly": (tensorgrad.detect_anomaly, finds_infinities),
    "profile": (tensorgrad.profile, lambda: state.profile is not None),
    "seeded": (lambda: init.seeded(np.random.default_rng(3)), lambda: init.generator() is not init._default),
    "evaluating": (lambda: evaluating([MODEL]), lambda: not MODEL.training),
}
MODEL = nn.Dropout(0.5)
EACH = pytest.mark.parametrize(("switch", "is_on"), SWITCHES.values(), ids=SWITCHES)


@EACH
@pytest.mark.parametrize("nested", [False, True])
def test_tasks_that_take_turns(switch: Callable[[], Any], is_on: Callable[[], bool], nested: bool) -> None:
    """A task that waits inside of a block has it on, others have not; those that it makes inside have."""

    async def inside(entered: asyncio.Event, leave: asyncio.Event, seen: list[bool]) -> None:
        with switch():
            entered.set()
            seen.append(is_on())
            await leave.wait()
            seen += [is_on(), await asyncio.create_task(child()), await asyncio.to_thread(is_on)]
        seen.append(not is_on())

    async def child() -> bool:
        return is_on()

    async def main() -> list[bool]:
        seen: list[bool] = []
        events = [(asyncio.Event(), asyncio.Event()) for _ in range(2)]
        tasks = []
        for entered, leave in events:
            tasks.append(asyncio.create_task(inside(entered, leave, seen)))
            await entered.wait()
            seen += [not is_on(), not await asyncio.create_task(child())]
        for k in (1, 0) if nested else (0, 1):
            events[k][1].set()
            await tasks[k]
            seen.append(not is_on())
        return seen

    found = asyncio.run(asyncio.wait_for(main(), WAIT))
    assert len(found) == 16
    assert all(found)
    assert not is_on()


@EACH
def test_threads_that_are_started_inside(switch: Callable[[], Any], is_on: Callable[[], bool]) -> None:
    """Have nothing switched, and what they switch is their own."""
    seen: list[bool] = []

    def other() -> None:
        seen.append(is_on())
        with switch():
            seen.append(is_on())

    for block in (switch(), no_grad()):
        with block:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(WAIT)
    assert seen == [False, True] * 2
    assert not is_on()


@pytest.mark.parametrize("name", ["no_grad", "fusion.off", "detect_anomaly"])
def test_decorated(name: str) -> None:
    """Functions and coroutines; each call has a block of its own, an error in one ends it."""
    switch, is_on = SWITCHES[name]

    @switch()
    def called(depth: int = 2) -> list[bool]:
        return [is_on(), *(called(depth - 1) if depth else [])]

    @switch()
    async def awaited() -> bool:
        await asyncio.sleep(0)
        return is_on()

    @switch()
    def fails() -> None:
        raise ZeroDivisionError

    async def main() -> list[bool]:
        return [*await asyncio.gather(awaited(), awaited()), not is_on()]

    assert called() == [True] * 3
    assert (called.__name__, awaited.__name__) == ("called", "awaited")
    assert asyncio.run(main()) == [True] * 3
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fails()
    assert not is_on()


def test_what_cannot_be_decorated() -> None:
    """What begins when the call has ended already."""

    def steps() -> Iterator[int]:
        yield 1

    async def async_steps() -> Any:
        yield 1

    for fn in (steps, async_steps):
        with pytest.raises(ArgumentError, match=rf"^{fn.__name__} is a generator: .* before its first step; write `with`"):
            no_grad()(fn)


def test_generators() -> None:
    """A block is left where it is written: between two steps of a generator that is inside of one, it is still entered."""

    def inside() -> Iterator[bool]:
        with no_grad():
            yield (leaf() * 2).requires_grad

    def outside() -> Iterator[bool]:
        for _ in range(2):
            with no_grad():
                found = (leaf() * 2).requires_grad
            yield found

    steps = inside()
    assert not next(steps)
    assert not (leaf() * 2).requires_grad
    steps.close()
    for found in outside():
        assert not found
        assert (leaf() * 2).requires_grad


def test_a_block_is_entered_once_at_a_time() -> None:
    """It would not know what to put back."""
    block = no_grad()
    with block, pytest.raises(ArgumentError, match=r"already entered, here or in another thread; create another"):
        with block:
            pass
    assert (leaf() * 2).requires_grad
    for _ in range(2):
        with block:
            assert not (leaf() * 2).requires_grad


def test_what_is_recorded_in_a_task_is_its_own() -> None:
    """A task that trains while others evaluate has the gradients that it has alone."""
    model = nn.Sequential(nn.Linear(4, 3, rng=np.random.default_rng(0)))
    alone = tensorgrad.grad(F.cross_entropy(model(Tensor(X)), Y), list(model.parameters()))

    async def trains() -> Any:
        loss = F.cross_entropy(model(Tensor(X)), Y)
        await asyncio.sleep(0)
        return tensorgrad.grad(loss, list(model.parameters()))

    async def evaluates() -> bool:
        with no_grad(), fusion.off():
            for _ in range(3):
                await asyncio.sleep(0)
            return model(Tensor(X)).requires_grad

    async def main() -> Any:
        return await asyncio.gather(evaluates(), trains(), evaluates(), trains())

    found = asyncio.run(main())
    assert found[0] is found[2] is False
    for gradients in (found[1], found[3]):
        for g, expected in zip(gradients, alone, strict=True):
            np.testing.assert_array_equal(g.numpy(), expected.numpy())
