"""H: what comes out of a compiled call is the caller's own: writable, shared with nothing, of this call, with its gradient."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.errors import TensorgradError
from tests.compiled import World, agree, assert_close, either, snapshot, training, vec, weight

# Results: views, arguments, parameters, what is repeated

RESULTS: dict[str, Callable[[Any, Any, Any], Any]] = {  # of an argument, a parameter and a Tensor from outside
    "computed": lambda x, w, t: x * w,
    "argument": lambda x, w, t: x,
    "parameter": lambda x, w, t: w,
    "outside": lambda x, w, t: t,
    "detached": lambda x, w, t: (x.detach(), w.detach(), t.detach()),
    "a part of an argument": lambda x, w, t: x[:2],
    "one element": lambda x, w, t: (x[0], w.detach()[1]),
    "a part of a parameter": lambda x, w, t: w.detach()[1:],
    "transposed": lambda x, w, t: (x.reshape(1, 3).T, t.reshape(3, 1).T),
    "reshaped": lambda x, w, t: (x.reshape(3, 1), w.reshape(1, 3), (x * 2).reshape(3, 1)),
    "repeated": lambda x, w, t: (x.sum().broadcast_to((3,)), t.broadcast_to((2, 3)), (x * 2).sum().broadcast_to((2, 2))),
    "a value and a view of it": lambda x, w, t: ((x * 2), (x * 2)[:2], (y := x * 3), y[1:], y.reshape(3, 1)),
    "a number": lambda x, w, t: (x.sum(), w.detach().mean(), (x * 2).max()),
    "gradients": lambda x, w, t: tg.grad((x * w).sum() + w.sum(), w),
    "gradients that are alike": lambda x, w, t: tg.grad((w + w.detach() + x).sum() * 1.0, w),
    "gradient of a sum": lambda x, w, t: tg.grad(w.sum() * x.sum(), w),
    "integers": lambda x, w, t: (x.argmax(), (x > 0), x.astype("int64")),
    "flipped": lambda x, w, t: (x.flip(), t.flip()),
    "diagonal": lambda x, w, t: (x.reshape(1, 3) * x.reshape(3, 1)).diagonal(),
    "split": lambda x, w, t: (x * 2).split(3),
    "a copy": lambda x, w, t: (Tensor(t), Tensor(x.detach())),
    "joined": lambda x, w, t: tg.concatenate([x, w, t]),
    "several": lambda x, w, t: [x, {"w": w, "both": (x, t)}, x * w],
}


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from tensors(v)
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from tensors(v)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_the_callers_own(name: str) -> None:
    """In calls 1 to 5: the step's values, writable, in memory of their own, and not changed by later calls."""

    def make() -> World:
        w, t = weight(), Tensor(vec(3))
        return World(lambda x: RESULTS[name](x, w, t), lambda: (w, t))

    agree(make, [(vec(v),) for v in (1, 2, 3, 4, 5)], may_refuse=False, replays=True)
    w, t = weight(), Tensor(vec(3))
    compiled = tg.compile(lambda x: RESULTS[name](x, w, t))
    arguments = [vec(v) for v in (1, 2, 3, 4, 5)]
    results = [list(tensors(compiled(x))) for x in arguments]
    before = snapshot(results)
    arrays = [r.data for call in results for r in call]
    for a in arrays:
        assert a.flags.writeable
        assert not any(np.shares_memory(a, other) for other in (*arguments, w.data, t.data))
    for (i, a), (j, b) in itertools.combinations(enumerate(arrays), 2):
        assert not np.shares_memory(a, b), f"results {i} and {j}"
    for x in arguments:
        x += 100
    w.data[...] = 100
    t.data[...] = 100
    assert_close(snapshot(results), before)
    for a in arrays:
        a[...] = 0
    assert_close(w, vec(100))
    assert_close(t, vec(100))


@pytest.mark.parametrize("what", ["parameter", "buffer", "running value"])
def test_results_that_the_step_changes(what: str) -> None:
    """A parameter as it is after the step, in all calls; as results are kept, they are copies."""
    w, norm, t = weight(), nn.BatchNorm1d(3), Tensor(vec(0))
    optimiser = optim.SGD([w], lr=0.1)

    def step(x: Any) -> Any:
        training(lambda x: (x * w).sum(), optimiser)(x)
        norm(x.reshape(1, 3) * np.array([[1.0], [2.0]], "float32"))
        t.__iadd__(x)
        return {"parameter": w, "buffer": Tensor(norm.running_mean), "running value": t}[what]

    compiled = tg.compile(step)
    kept = [compiled(vec()) for _ in range(5)]
    mean = np.cumsum(0.1 * 1.5 * 0.9 ** np.arange(5))
    expected = {"parameter": 1 - 0.1 * np.arange(1, 6), "buffer": mean, "running value": np.arange(1.0, 6)}[what]
    for k, e in zip(kept, expected, strict=True):
        assert_close(k, vec(e), 1e-6)


# Gradients that a step leaves in .grad

ACCUMULATED: dict[str, Callable[[Any, Any, Any], Any]] = {  # a loss of x, a, b
    "a sum": lambda x, a, b: (x * (a + b)).sum(),
    "a difference": lambda x, a, b: (x * (a - b)).sum(),
    "sums of sums": lambda x, a, b: x.sum() * a.sum() + b.sum(),
    "sums alone": lambda x, a, b: a.sum() + b.sum() + 0 * x.sum(),
    "parts": lambda x, a, b: (tg.concatenate([a, b])[:4]).sum() + b.sum() * x.sum(),
    "the same twice": lambda x, a, b: (a + a + b).sum() * x.sum(),
    "reshaped": lambda x, a, b: (a.reshape(3, 1) + b.reshape(1, 3)).sum() * x.sum(),
    "products": lambda x, a, b: (x * a * b).sum(),
    "repeated": lambda x, a, b: (a.broadcast_to((2, 3)) + b).sum() * x.sum(),
    "through an activation": lambda x, a, b: (x * (a + b)).relu().sum(),
}


@pytest.mark.parametrize("keep_grads", [False, True])
@pytest.mark.parametrize("name", ACCUMULATED)
def test_gradients_are_arrays_of_their_own(name: str, keep_grads: bool) -> None:
    """After each of five calls: writable, sharing nothing, and more can be added by an ordinary backward()."""

    def make() -> World:
        a, b = weight(2), weight(3)

        def step(x: Any) -> None:
            ACCUMULATED[name](x, a, b).backward()

        return World(step, lambda: (a.grad, b.grad))

    agree(make, [(vec(v),) for v in (1, 2, 3, 4, 5)], may_refuse=False)
    for calls in range(1, 6):
        a, b = weight(2), weight(3)
        x = vec()
        compiled = tg.compile(lambda x, a=a, b=b: ACCUMULATED[name](x, a, b).backward(), keep_grads=keep_grads)
        for _ in range(calls):
            compiled(x)
        (g, h), before = (a.grad.data, b.grad.data), snapshot([a.grad, b.grad])
        assert g.flags.writeable
        assert h.flags.writeable
        assert not any(np.shares_memory(p, q) for p, q in itertools.combinations((g, h, x, a.data, b.data), 2))
        (2 * a + 3 * b).sum().backward()
        assert_close([a.grad, b.grad], [before[0] + 2, before[1] + 3])


# Containers

Pair = collections.namedtuple("Pair", "loss w")


@dataclasses.dataclass
class Data:
    loss: Any
    w: Any = None


class Plain:
    def __init__(self, loss: Any) -> None:
        self.loss = loss


class Listed(list):  # type: ignore[type-arg]
    pass


CONTAINERS: dict[str, Callable[[Any, Any], Any]] = {  # of a loss and a parameter
    "None": lambda loss, w: None,
    "a number": lambda loss, w: 3,
    "text": lambda loss, w: "done",
    "tuple": lambda loss, w: (loss, w),
    "list": lambda loss, w: [loss, [w, 1, None]],
    "dict": lambda loss, w: {"loss": loss, 3: (w,)},
    "namedtuple": lambda loss, w: Pair(loss, w),
    "namedtuple in a dict": lambda loss, w: {"p": Pair(loss, (w,))},
    "empty": lambda loss, w: ((), [], {}),
    "OrderedDict": lambda loss, w: collections.OrderedDict(loss=loss, w=w),
    "defaultdict": lambda loss, w: collections.defaultdict(list, loss=loss),
    "dataclass": lambda loss, w: Data(loss, w),
    "dataclass in a list": lambda loss, w: [Data(loss)],
    "object": lambda loss, w: Plain(loss),
    "SimpleNamespace": lambda loss, w: types.SimpleNamespace(loss=loss),
    "a list's subclass": lambda loss, w: Listed([loss]),
    "set": lambda loss, w: {loss},
    "frozenset": lambda loss, w: frozenset({loss}),
    "deque": lambda loss, w: collections.deque([loss]),
    "iterator": lambda loss, w: iter([loss]),
    "generator": lambda loss, w: (v for v in [loss]),
    "map": lambda loss, w: map(lambda v: v, [loss]),
    "function": lambda loss, w: lambda: loss,
    "method": lambda loss, w: Plain(loss).__getattribute__,
    "values of a dict": lambda loss, w: {"loss": loss}.values(),
    "mappingproxy": lambda loss, w: types.MappingProxyType({"loss": loss}),
    "array": lambda loss, w: loss.data,
    "array in a list": lambda loss, w: [loss.data * 1],
    "array, copied": lambda loss, w: {"loss": loss.data.copy()},
    "the parameter's array": lambda loss, w: w.data,
    "number of NumPy's": lambda loss, w: loss.data[()],
    "a number of it": lambda loss, w: float(loss.data),
    "a text of it": lambda loss, w: f"{float(loss.data):.0f}",
}


def inside(value: Any) -> Any:
    """What a container holds, as numbers, with its type."""
    if isinstance(value, Tensor):
        return value.data.tolist()
    if isinstance(value, np.ndarray):
        return [inside(v) for v in value.reshape(-1).tolist()]
    if value is None or isinstance(value, (int, float, str, np.generic)):
        return value
    if callable(value):
        return inside(value("loss") if hasattr(value, "__self__") else value())
    if hasattr(value, "__dict__") and not isinstance(value, list):
        return type(value).__name__, [inside(v) for v in vars(value).values()]
    if isinstance(value, (dict, types.MappingProxyType)):
        return type(value).__name__, [(k, inside(v)) for k, v in value.items()]
    return type(value).__name__, [inside(v) for v in value]


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name: str) -> None:
    """The step's own values in a container of the same type, each call; or refused."""

    def make() -> Callable[[Any], Any]:
        w = weight(1, "float64")
        optimiser = optim.SGD([w], lr=0.0)
        return lambda x: CONTAINERS[name](training(lambda x: (x * w).sum(), optimiser)(x), w)

    step, compiled = make(), tg.compile(make())
    for v in (1, 2, 3, 4):
        found, refused = either(compiled, vec(v, "float64"))
        if refused:
            assert name not in ("None", "a number", "text", "tuple", "list", "dict", "namedtuple", "empty")
            return
        assert inside(found) == inside(step(Tensor(vec(v, "float64"))))


def test_what_is_no_tensor_may_differ_from_call_to_call() -> None:
    w = weight()
    optimiser, calls = optim.SGD([w], lr=0.0), [0]

    def counted(x: Any) -> Any:
        calls[0] += 1
        return calls[0]

    def steps(x: Any) -> Any:
        training(lambda x: (x * w).sum(), optimiser)(x)
        return optimiser.steps

    compiled = tg.compile(steps)
    for expected in (1, 2, 3, 4):
        found, refused = either(compiled, vec())
        if refused:
            break
        assert found == expected
    compiled = tg.compile(counted)
    assert compiled(vec()) == 1
    with pytest.warns(RuntimeWarning, match=r"counted runs uncompiled, because it changes closure calls\[0\] each time"):
        assert compiled(vec()) == 2
    assert [compiled(vec()) for _ in range(3)] == [3, 4, 5]
    assert compiled.why_not == "the step itself changes closure calls[0], which a replay would not do"


def test_containers_are_new_in_each_call() -> None:
    compiled = tg.compile(lambda x: {"all": [x * 2], "more": [1, 2]})
    for v in (1, 2, 3, 4, 5):
        found = compiled(vec(v))
        assert [t.tolist() for t in found["all"]] == [[2 * v] * 3]
        assert found["more"] == [1, 2]
        found["all"].append(None)
        found["more"].clear()
        found["extra"] = 1


# A compiled function as a part of a larger expression


def gradients_or_error(expression: Callable[[], Any], leaves: list[Any], expected: list[Any]) -> None:
    """The gradient of the whole, or an error of backward(); nothing that is left out."""
    try:
        expression().backward()
    except TensorgradError:
        return
    assert_close([p.grad for p in leaves], expected, 1e-5)


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_a_compiled_function_inside_of_an_expression(calls: int) -> None:
    f = tg.compile(lambda w: (w * w).sum())
    w = weight()
    for _ in range(calls):
        f(w)
    gradients_or_error(lambda: f(w) + w.sum(), [w], [vec(3)])


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
@pytest.mark.parametrize("name", ["all of it", "a part", "several results"])
def test_a_compiled_model_inside_of_a_loss(name: str, calls: int) -> None:
    m, other = (nn.Linear(3, 2, rng=np.random.default_rng(0)) for _ in range(2))
    forward: dict[str, Callable[[Any], Any]] = {
        "all of it": m,
        "a part": lambda x: m(x).relu(),
        "several results": lambda x: {"z": m(x), "a": x * 2},
    }
    predict = tg.compile(forward[name])
    x = np.ones((2, 3), "float32")
    for _ in range(calls):
        predict(x)

    def loss(z: Any, m: Any) -> Any:
        return ((z["z"] if isinstance(z, dict) else z) ** 2).mean() + (m.weight**2).sum()

    z = other(Tensor(x)).relu() if name == "a part" else other(Tensor(x))
    loss(z, other).backward()
    gradients_or_error(lambda: loss(predict(x), m), [m.weight, m.bias], [p.grad.data for p in other.parameters()])


def test_results_that_are_used_as_numbers() -> None:
    """The loss of a training step, predictions, what was detached: no gradient is asked for, and nothing raises."""
    m = nn.Linear(3, 2)
    optimiser = optim.SGD(m.parameters(), lr=0.1)
    step = tg.compile(training(lambda x: (m(x) ** 2).mean(), optimiser))
    predict, frozen = tg.compile(m), tg.compile(lambda x: m(x).detach())
    x = np.ones((2, 3), "float32")
    for _ in range(5):
        loss, z, constant = step(x), predict(x), frozen(x)
        assert float(loss) == loss.item()
        assert f"{loss:.3f}" == f"{loss.item():.3f}"
        assert z.numpy().shape == (2, 2)
        assert (z.detach() * 2).numpy().shape == np.asarray(constant).shape == (2, 2)
        assert not constant.requires_grad
        ((z.detach() - m(Tensor(x))) ** 2).sum().backward()
        with tg.no_grad():
            assert predict(x).shape == (2, 2)


def test_a_loss_that_was_differentiated_in_the_step_is_not_again() -> None:
    """As the loss of the step itself: backward() has let go of its history."""
    w = weight()
    optimiser = optim.SGD([w], lr=0.1)
    compiled = tg.compile(training(lambda x: (x * w).sum(), optimiser))
    for _ in range(4):
        loss = compiled(vec())
        with pytest.raises(TensorgradError):
            loss.backward()
