"""G: what is written into arrays past the Tensor is done in every call, or refused: a table of habits times one of targets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.errors import CompileError
from tensorgrad.nn import functional as F
from tests.compiled import World, agree, assert_close, either, training, vec

# How an array `a` is changed, by a vector v that is another one in each call
HABITS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "a *= 0.5": lambda a, v: a.__imul__(0.5),
    "a -= v": lambda a, v: a.__isub__(v),
    "a += 0.1 v": lambda a, v: a.__iadd__(0.1 * v),
    "a[...] = v": lambda a, v: a.__setitem__(..., v),
    "a[:] = 0.5 a": lambda a, v: a.__setitem__(slice(None), 0.5 * a),
    "a[0] = 0": lambda a, v: a.__setitem__(0, 0),
    "a[a > 1] = 1": lambda a, v: a.__setitem__(a > 1, 1),
    "a.fill": lambda a, v: a.fill(0.25),
    "a.flat[1] = 3": lambda a, v: a.flat.__setitem__(1, 3),
    "a.ravel()[1] = 3": lambda a, v: a.ravel().__setitem__(1, 3),
    "a[1:] *= 2": lambda a, v: a[1:].__imul__(2),
    "a.T[...]": lambda a, v: a.T.__setitem__(..., v),
    "a.view": lambda a, v: a.view("i8").__iand__(~1023),
    "a.put": lambda a, v: a.put([0, 1], 0.5),
    "np.put": lambda a, v: np.put(a, 0, v[0]),
    "a.sort": lambda a, v: a[::-1].sort(),
    "a.partition": lambda a, v: a[::-1].partition(1),
    "a.setfield": lambda a, v: a.setfield(v, a.dtype),
    "np.copyto": lambda a, v: np.copyto(a, v),
    "np.clip": lambda a, v: np.clip(a, -0.5, 0.5, out=a),
    "np.multiply": lambda a, v: np.multiply(a, 0.5, out=a),
    "np.add": lambda a, v: np.add(a, v, a),
    "np.add.at": lambda a, v: np.add.at(a, [0, 0], 1.0),
    "np.cumsum": lambda a, v: np.cumsum(a.copy(), out=a),
    "np.place": lambda a, v: np.place(a, a > 1, [1.0]),
    "np.putmask": lambda a, v: np.putmask(a, a > 1, v),
    "np.fill_diagonal": lambda a, v: np.fill_diagonal(np.lib.stride_tricks.as_strided(a, (3, 1), (8, 8)), 2.0),
    "np.matmul": lambda a, v: np.matmul(np.eye(3) * 2, a.copy(), out=a),
    "np.random": lambda a, v: np.random.default_rng(0).random(out=a),
    "memoryview": lambda a, v: memoryview(a).__setitem__(0, float(v[0])),
    "DLPack": lambda a, v: np.from_dlpack(a).__imul__(0.5) if np.from_dlpack(a).flags.writeable else a.__imul__(0.5),
    "swapped": lambda a, v: a.__setitem__([0, 1], a[[1, 0]]),
}


class Step:
    """A training step that writes to one of its arrays: `write` is given it and the batch."""

    def __init__(self, target: str, write: Callable[[np.ndarray, np.ndarray], Any]) -> None:
        self.target, self.write = target, write
        self.w = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
        self.other = Tensor(np.array([1.0, 1.0, 2.0]))
        self.array = np.array([2.0, 1.0, 1.0])
        self.norm = nn.BatchNorm1d(3, dtype="float64")
        self.optimiser = optim.SGD([self.w], lr=0.1, momentum=0.9)

    def __call__(self, x: Any) -> Any:
        self.at("argument", lambda: x.data, x)
        y = x * self.w * self.other * self.array
        self.at("intermediate", lambda: y.data, x)
        z = (y + self.norm(x.reshape(1, 3) * np.ones((2, 1)) * np.array([[1.0], [2.0]])).mean(0)).sum()
        self.optimiser.zero_grad()
        z.backward()
        self.at("gradient", lambda: self.w.grad.data, x)
        self.optimiser.step()
        self.at("parameter", lambda: self.w.data, x)
        self.at("Tensor from outside", lambda: self.other.data, x)
        self.at("array from outside", lambda: self.array, x)
        self.at("buffer", lambda: self.norm.running_mean, x)
        self.at("state", lambda: self.optimiser.state[0]["velocity"], x)
        return z

    def at(self, target: str, array: Callable[[], np.ndarray], x: Any) -> None:
        if target == self.target:
            self.write(array(), np.cos(x.data))

    def look(self) -> Any:
        return self.w, self.other, self.array, self.norm.state_dict(), self.optimiser.state


TARGETS = ["argument", "intermediate", "gradient", "parameter", "buffer", "state", "Tensor from outside", "array from outside"]
BATCHES = [(np.array([1.0, 2.0, 4.0]) * k,) for k in (1, 2, 3, 0.5, 5)]
EQUAL = [(np.array([1.0, 2.0, 4.0]) * k,) for k in (1, 1, 1, 2, 3)]  # as the first batches of a warm-up may be


def world(target: str, write: Callable[..., Any]) -> Callable[[], World]:
    def make() -> World:
        step = Step(target, write)
        return World(step, step.look)

    return make


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("habit", HABITS)
def test_raw_writes(habit: str, target: str) -> None:
    """Five calls; what an argument is after each counts as well."""
    for batches in (BATCHES, EQUAL):
        agree(world(target, HABITS[habit]), batches, rtol=1e-9, tensors=target == "argument")


# Another array in the place of a Tensor's

REBINDING: dict[str, Callable[[Any, np.ndarray], Any]] = {
    "t.data = t.data * 0.5": lambda t, v: setattr(t, "data", t.data * 0.5),
    "t.data = v": lambda t, v: setattr(t, "data", v.copy()),
    "t.data -= v": lambda t, v: setattr(t, "data", t.data.__isub__(v)),
    "t.data *= 0.5": lambda t, v: setattr(t, "data", t.data.__imul__(0.5)),
    "t.data, t.grad": lambda t, v: setattr(t, "data", t.data - 0.1 * (t.data if t.grad is None else t.grad.data)),
    "t.__init__": lambda t, v: t.__init__(t.data * 0.5, t.requires_grad),
}


@pytest.mark.filterwarnings("ignore:SGD. no gradient reached")
@pytest.mark.parametrize("target", ["argument", "intermediate", "gradient", "parameter", "Tensor from outside"])
@pytest.mark.parametrize("habit", REBINDING)
def test_another_array_in_a_tensor(habit: str, target: str) -> None:
    def make() -> World:
        step = Step("", lambda a, v: None)
        step.target = target

        def at(name: str, array: Any, x: Any) -> None:
            if name == target:
                t = {"argument": x, "gradient": step.w.grad, "parameter": step.w, "Tensor from outside": step.other}.get(name)
                t = array.__closure__[0].cell_contents if t is None else t
                REBINDING[habit](t, np.cos(x.data))

        step.at = at  # type: ignore[method-assign]
        return World(step, step.look)

    for batches in (BATCHES, EQUAL):
        agree(make, batches, rtol=1e-9, tensors=target == "argument")


GRADIENTS: dict[str, Callable[[Any], Any]] = {
    "grad.data *=": lambda w: w.grad.data.__imul__(0.5),
    "grad = Tensor(grad.data)": lambda w: setattr(w, "grad", Tensor(w.grad.data * 0.5)),
    "grad = Tensor(np.clip)": lambda w: setattr(w, "grad", Tensor(np.clip(w.grad.data, -1, 1))),
    "grad.numpy() *=": lambda w: w.grad.numpy().__imul__(0.5),
    "grad.detach().numpy()": lambda w: np.clip(w.grad.detach().numpy(), -1, 1, out=w.grad.detach().numpy()),
    "grad *= 0.5": lambda w: w.grad.__imul__(0.5),
    "grad = grad * 0.5": lambda w: setattr(w, "grad", w.grad * 0.5),
    "grad[...] = 0.5": lambda w: w.grad.__setitem__(..., 0.5),
    "grad = None": lambda w: setattr(w, "grad", None),
    "grad = Tensor of ones": lambda w: setattr(w, "grad", Tensor(vec(1, "float64"))),
    "grad of another": lambda w: setattr(w, "grad", (w.detach() * 2)),
}


@pytest.mark.filterwarnings("ignore:SGD. no gradient reached")
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_changed_before_the_update(name: str) -> None:
    def make() -> World:
        w = Tensor(vec(1, "float64"), requires_grad=True)
        optimiser = optim.SGD([w], lr=0.1)

        def step(x: Any) -> Any:
            loss = (x * w * w).sum()
            optimiser.zero_grad()
            loss.backward()
            GRADIENTS[name](w)
            optimiser.step()
            return loss

        return World(step, lambda: w)

    for batches in (BATCHES, EQUAL):
        told = agree(make, batches)
        if name in ("grad *= 0.5", "grad = grad * 0.5", "grad[...] = 0.5", "grad of another"):
            assert told.refused is None


def by_hand(step: int, w: Any) -> None:
    with tg.no_grad():
        if step == 0:
            w.data -= 0.1 * w.grad.data
        elif step == 1:
            w.data = w.data - 0.1 * w.grad.data
        elif step == 2:
            np.subtract(w.data, 0.1 * w.grad.data, out=w.data)
        elif step == 3:
            w -= 0.1 * w.grad
        else:
            w[...] = w - 0.1 * w.grad


@pytest.mark.parametrize("how", range(5), ids=["data -=", "data =", "out=", "-=", "[...] ="])
def test_gradient_descent_by_hand(how: int) -> None:
    def make() -> World:
        w = Tensor(vec(1, "float64"), requires_grad=True)

        def step(x: Any) -> Any:
            loss = (x * w * w).sum()
            loss.backward()
            by_hand(how, w)
            w.grad = None
            return loss

        return World(step, lambda: (w, w.grad))

    for batches in (BATCHES, EQUAL):
        assert agree(make, batches).refused is None or how < 3


# Whole models and optimisers that are written to

LOADING: dict[str, Callable[[Any, Any, Any], Any]] = {  # of a model, its target, an optimiser
    "load_state_dict": lambda m, t, o: t.load_state_dict(m.state_dict()),
    "load_state_dict of itself": lambda m, t, o: m.load_state_dict({k: v * 0.9 for k, v in m.state_dict().items()}),
    "moving average": lambda m, t, o: [
        p.data.__imul__(0.9).__iadd__(0.1 * q.data) for p, q in zip(t.parameters(), m.parameters(), strict=True)
    ],
    "moving average of state dicts": lambda m, t, o: t.load_state_dict(
        {k: 0.9 * v + 0.1 * m.state_dict()[k] for k, v in t.state_dict().items()}
    ),
    "the optimiser's": lambda m, t, o: o.load_state_dict(
        {**(s := o.state_dict()), "groups": [{**g, "lr": 0.05} for g in s["groups"]]}
    ),
    "weights cut": lambda m, t, o: [np.clip(p.data, -0.3, 0.3, out=p.data) for p in m.parameters()],
    "weights cut, in a loop": lambda m, t, o: [p.data.__setitem__(..., p.data.clip(-0.3, 0.3)) for p in m.parameters()],
    "state cleared": lambda m, t, o: [v.fill(0) for s in o.state for v in s.values()],
    "moving average by Tensors": lambda m, t, o: by_tensors(m, t),
}


def by_tensors(m: Any, t: Any) -> None:
    with tg.no_grad():
        for p, q in zip(t.parameters(), m.parameters(), strict=True):
            p *= 0.9
            p += 0.1 * q


@pytest.mark.parametrize("name", LOADING)
def test_models_that_are_written_to(name: str) -> None:
    rng = np.random.default_rng(0)

    def make() -> World:
        m, t = (nn.Linear(3, 1, rng=np.random.default_rng(i), dtype="float64") for i in range(2))
        optimiser = optim.SGD(m.parameters(), lr=0.1, momentum=0.5)

        def step(x: Any) -> Any:
            loss = ((m(x) - t(x).detach() - 1) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            LOADING[name](m, t, optimiser)
            return loss

        return World(step, lambda: (m.state_dict(), t.state_dict(), optimiser.state))

    told = agree(make, [(rng.normal(size=(4, 3)),) for _ in range(5)])
    assert told.refused is None or "Tensors" not in name
    x = rng.normal(size=(4, 3))
    agree(make, [(x,), (x,), (x,), (x * 2,), (x,)])


class Synced(optim.SGD):
    """Averages gradients between processes, as one writes it first."""

    def step(self) -> None:
        for p in self.params:
            p.grad.data[...] = p.grad.data * 0.5
        super().step()


def test_an_optimiser_that_averages_gradients_in_fit() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)).astype("float32"), rng.integers(0, 3, 64)
    weights = []
    for compile in (False, True):
        net = nn.Sequential(nn.Linear(8, 3, rng=np.random.default_rng(0)))
        loader = data.DataLoader(x, y, batch_size=64)
        fit = partial(train.fit, progress=False, compile=compile)
        _, refused = either(fit, net, F.cross_entropy, Synced(net.parameters(), lr=0.5), loader, 5)
        if refused:
            assert compile
            return
        weights.append(net[0].weight.numpy().copy())
    np.testing.assert_allclose(weights[1], weights[0], rtol=1e-5, atol=1e-6)


def test_the_usual_step_is_not_refused() -> None:
    agree(world("", lambda a, v: None), BATCHES, rtol=1e-9, may_refuse=False, replays=True)
    w = Tensor(vec(1, "float64"), requires_grad=True)
    compiled = tg.compile(training(lambda x: (x * w).sum(), optim.SGD([w], lr=0.1)))
    for (x,) in BATCHES:
        compiled(x)
        w.data[0] = 1.0  # between the calls everything is allowed
        assert w.data[0] == 1.0


VIEWS: dict[str, Callable[[Any], Any]] = {
    "an element": lambda t: t[0],
    "a slice": lambda t: t[1:],
    "reshaped": lambda t: t.reshape(-1),
    "transposed": lambda t: t.T,
    "a part": lambda t: t.split(1, -1)[0],
    "detached": lambda t: t[:, None].detach(),
    "detached, a view of that": lambda t: t.detach()[0],
    "a view of a view": lambda t: t[0][1:],
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("where", ["argument", "outside", "inside"])
def test_writes_through_views(name: str, where: str) -> None:
    """They change what is viewed, which a replay would not: refused, in the first call."""
    outside = Tensor(np.ones((3, 3)))

    def step(x: Any) -> Any:
        t = {"argument": x, "outside": outside, "inside": Tensor(np.ones((3, 3)))}[where]
        v = VIEWS[name](t)
        v += 1  # here
        return x * 2

    with pytest.raises(CompileError, match=r"is changed in place (through a view of it )?at test_raw_writes.py:\d+; a replay"):
        tg.compile(step)(Tensor(np.ones((3, 3))))
    assert outside.numpy().sum() == 9


def test_a_refusal_undoes_writes_that_lie_in_one_another() -> None:
    """One to a parameter, then the optimiser's to the array that the parameter is a part of."""
    net = nn.Linear(3, 2)
    optimiser = optim.SGD(net.parameters(), lr=0.1)
    before = net.state_dict()

    def step(x: Any) -> Any:
        with tg.no_grad():
            net.weight.__isub__(0.1 * net.weight)
        loss = net(x).sum()
        loss.backward()
        optimiser.step()
        return loss.item()

    with pytest.raises(CompileError, match="needs the value"):
        tg.compile(step)(vec()[None])
    assert_close(net.state_dict(), before)
