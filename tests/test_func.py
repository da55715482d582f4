"""func: transforms of functions, and modules as functions of their parameters."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import tensorgrad
from tensorgrad import Tensor, func, nn, no_grad, optim
from tensorgrad.errors import ArgumentError, DTypeError, GraphError, ShapeError
from tensorgrad.nn import functional as F
from tests.strategies import generators


def regression(rng: np.random.Generator) -> tuple[nn.Module, Any, Any]:
    model = nn.Sequential(nn.Linear(2, 6, rng=rng, dtype=float), nn.Tanh(), nn.Linear(6, 1, rng=rng, dtype=float))
    return model, rng.normal(size=(2, 8, 2)), rng.normal(size=(2, 8, 1))


@given(rng=generators())
def test_maml_equals_the_form_by_hand(rng: np.random.Generator) -> None:
    """The gradient of the loss after two inner steps, through both of them, for a network written with bare arrays."""
    model, (x, xq), (y, yq) = regression(rng)
    rate = 0.1

    def loss(params: dict[str, Tensor], x: Any, y: Any) -> Tensor:
        return F.mse_loss(func.functional_call(model, params, x), y)

    def after(params: dict[str, Tensor]) -> Tensor:
        for _ in range(2):
            g = func.grad(loss)(params, x, y)
            params = {name: p - rate * g[name] for name, p in params.items()}
        return loss(params, xq, yq)

    names = [name for name, _ in model.named_parameters()]
    ws = [Tensor(p.detach(), True) for p in model.parameters()]

    def by_hand(w: list[Tensor], x: Any, y: Any) -> Tensor:
        return (((x @ w[0] + w[1]).tanh() @ w[2] + w[3] - y) ** 2).mean()

    fast = ws
    for _ in range(2):
        gs = tensorgrad.grad(by_hand(fast, x, y), fast, create_graph=True)
        fast = [w - rate * g for w, g in zip(fast, gs, strict=True)]
    expected = tensorgrad.grad(by_hand(fast, xq, yq), ws)
    got = func.grad(after)({name: p.detach() for name, p in model.named_parameters()})
    for name, g in zip(names, expected, strict=True):
        np.testing.assert_allclose(got[name].numpy(), g.numpy(), rtol=1e-9, atol=1e-12)
    after(dict(model.named_parameters())).backward()  # the same on the parameters themselves
    for p, g in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g.numpy(), rtol=1e-9, atol=1e-12)


def test_maml_compiled() -> None:
    model, (x, xq), (y, yq) = regression(np.random.default_rng(0))
    optimiser = optim.SGD(model.parameters(), lr=0.05)

    def step(x: Tensor, y: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        def loss(params: dict[str, Tensor], x: Any, y: Any) -> Tensor:
            return F.mse_loss(func.functional_call(model, params, x), y)

        params: Any = dict(model.named_parameters())
        g = func.grad(loss)(params, x, y)
        outer = loss({name: p - 0.1 * g[name] for name, p in params.items()}, xq, yq)
        optimiser.zero_grad()
        outer.backward()
        optimiser.step()
        return outer

    start = model.state_dict()
    eager = [step(*map(Tensor, (x, y, xq, yq))).item() for _ in range(5)]
    model.load_state_dict(start)
    compiled = tensorgrad.compile(step)
    np.testing.assert_allclose([compiled(x, y, xq, yq).item() for _ in range(5)], eager, rtol=1e-12)
    assert eager[-1] < eager[0]


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first  # tied
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x: Any, mask: Any = None, *, scale: float = 1.0) -> Any:
        self.calls += 1
        y = self.drop(self.norm(self.again(self.first(x)))) * scale
        return y if mask is None else y * mask


def test_functional_call_is_the_module_with_other_values() -> None:
    tensorgrad.manual_seed(0)
    model, other = Masked(), Masked()
    x, mask = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("f")
    for mode in (True, False):
        model.train(mode)
        other.train(mode)
        before = {name: array.copy() for name, array in model.state_dict().items()}
        values = {**dict(other.named_parameters()), **{name: a.copy() for name, a in other.named_buffers()}}
        tensorgrad.manual_seed(1)
        got = func.functional_call(model, values, x, mask, scale=2.0)
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name])
        tensorgrad.manual_seed(1)
        np.testing.assert_array_equal(got.numpy(), other(x, mask, scale=2.0).numpy())
        for name, array in other.named_buffers():  # the given ones were written to, as its own are
            np.testing.assert_array_equal(values[name], array)
    assert model.calls == 0
    got.sum().backward()
    assert other.first.weight.grad is not None
    assert model.first.weight.grad is None


def test_functional_call_refuses_arguments_in_a_tuple() -> None:
    """Of one Tensor in a tuple a Linear would make an array with one more axis."""

    class Pair(nn.Module):
        def forward(self, pair: Any) -> Any:
            return pair[0] + pair[1]

    x = np.ones((2, 3), "f")
    values = {"weight": np.ones((3, 1), "f"), "bias": np.zeros(1, "f")}
    for args in (((x,),), ((x,), {})):
        with pytest.raises(ArgumentError, match=r"functional_call: expected the arguments of Linear as in a call"):
            func.functional_call(nn.Linear(3, 1), values, *args)
    np.testing.assert_array_equal(func.functional_call(Pair(), {}, pair=(x, x)), 2 * x)


def test_functional_call_in_threads() -> None:
    """A module called by several threads, each with parameters of its own, in the midst of one another."""
    barrier, found = threading.Barrier(3, timeout=10), {}

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(np.zeros(2))

        def forward(self, x: Any) -> Any:
            barrier.wait()
            y = x * self.weight
            barrier.wait()
            return y + self.weight

    model, x = Slow(), np.ones(2)

    def work(i: int) -> None:
        found[i] = func.functional_call(model, {"weight": np.full(2, float(i))}, x).numpy() if i else model(x).numpy()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        np.testing.assert_array_equal(found[i], [2 * i, 2 * i])


def test_functional_call_in_a_compiled_step_is_guarded() -> None:
    """What the copies take from the module is looked at before each replay."""
    drop = nn.Dropout(0.5).eval()
    model = nn.Sequential(nn.Linear(3, 3, bias=False), drop)
    step = tensorgrad.compile(lambda w, x: func.functional_call(model, {"0.weight": w}, x))
    w, x = np.eye(3, dtype="f") * 2, np.ones((4, 3), "f")
    for _ in range(3):
        np.testing.assert_array_equal(step(w, x).numpy(), 2 * x)
    np.testing.assert_array_equal(step(3 * w, x).numpy(), 6 * x)
    drop.train()
    assert (step(w, x).numpy() == 0).any() or (step(w, x).numpy() == 0).any()
    drop.p = 0.0
    np.testing.assert_array_equal(step(w, x).numpy(), 2 * x)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(2, 2)
        self.parts = [self.part]


def test_functional_call_refuses() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    values: dict[str, Any] = dict(model.named_parameters())
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (model, {k: v for k, v in values.items() if k != "0.bias"}, ArgumentError, "missing parameters of Sequential: 0.bias"),
        (model, {**values, "2.weight": 1}, ArgumentError, "no 2.weight"),
        (model, {**values, "0.bias": np.zeros(4)}, ShapeError, r"0.bias has shape \(4,\), expected \(3,\)"),
        (model, {**values, "0.bias": np.zeros(3, int)}, DTypeError, "0.bias is a parameter"),
        (model, {**values, "1.running_mean": Tensor(np.zeros(3))}, DTypeError, "1.running_mean is a buffer"),
        (model, [1], ArgumentError, "a dict from path"),
        (len, values, ArgumentError, "expected a Module"),
        (Twice(), dict(Twice().named_parameters()), ArgumentError, r"Twice.parts\[0\]"),
    ]
    for module, given_values, error, text in cases:
        with pytest.raises(error, match=text):
            func.functional_call(module, given_values, np.ones((2, 2), "f"))


def test_gradients_have_the_form_of_the_arguments() -> None:
    def fn(a: Any, b: Any, *, c: float) -> Any:
        return (a["w"] * b[0]).sum() * c + b[1] ** 2, {"said": 1}

    a, b = {"w": np.array([1.0, 2.0]), "unused": np.ones(3)}, (np.array([3.0, 4.0]), 5.0)
    (value, aux), (ga, gb) = func.value_and_grad(fn, (0, 1), True)(a, b, c=2.0)
    assert (value.item(), aux) == (47.0, {"said": 1})
    assert not value.requires_grad
    assert ga["w"].tolist() == [6.0, 8.0]
    assert ga["unused"].tolist() == [0.0] * 3
    assert [g.tolist() for g in gb] == [[2.0, 4.0], 10.0]
    g, aux = func.grad(fn, has_aux=True)(a, b, c=2.0)
    assert (g["w"].tolist(), aux) == ([6.0, 8.0], {"said": 1})
    h = func.hessian(lambda x, y: (x * x * y).sum(), (0, 1))(np.array([2.0]), np.array([3.0]))
    assert [[block.item() for block in row] for row in h] == [[6.0, 4.0], [4.0, 0.0]]
    jacobian = func.jacrev(lambda s, x: s * x**2, 1)(2.0, np.array([1.0, 3.0]))
    np.testing.assert_array_equal(jacobian.numpy(), np.diag([4.0, 12.0]))
    np.testing.assert_array_equal(func.jacfwd(lambda x: x**2)(np.array([1.0, 3.0])).numpy(), np.diag([2.0, 6.0]))


TRANSFORMS = [func.grad, func.jacrev, func.jacfwd, lambda fn: lambda x: func.hessian(fn)(x)]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=["grad", "jacrev", "jacfwd", "hessian"])
def test_what_is_recorded(transform: Any) -> None:
    """A derivative is a constant only where nothing else has a part in it; a closure counts, too."""
    w, x = Tensor(np.array([0.5, 0.7]), True), np.array([0.3, 0.2])
    inner = transform(lambda x: (x * w).sum() ** 3)
    outer = tensorgrad.grad((inner(x) * inner(x)).sum(), w)[0]
    h = 1e-6
    for i in range(2):
        ends = []
        for sign in (1, -1):
            moved = w.numpy().copy()
            moved[i] += sign * h
            y = transform(lambda x, moved=moved: (x * moved).sum() ** 3)(x)
            ends.append((y.numpy() ** 2).sum())
        np.testing.assert_allclose(outer.numpy()[i], (ends[0] - ends[1]) / (2 * h), rtol=1e-6)
    assert not transform(lambda x: (x * x).sum() ** 2)(x).requires_grad
    assert transform(lambda x: (x * x).sum() ** 2)(w).requires_grad
    with no_grad():
        assert not inner(x).requires_grad


def test_transforms_refuse() -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: func.grad(3), DTypeError, "fn must be"),  # type: ignore[arg-type]
        (lambda: func.grad(abs, ()), ArgumentError, "argnums"),
        (lambda: func.grad(abs, (0, 0)), ArgumentError, "argnums"),
        (lambda: func.grad(abs, 1)(np.ones(())), ArgumentError, "argument 1 is out of range"),
        (lambda: func.grad(lambda x: x)(np.ones(2)), ShapeError, r"\(2,\), expected a 0-d"),
        (lambda: func.grad(lambda x: 1.0)(np.ones(2)), GraphError, "returned 1.0"),
        (lambda: func.grad(lambda x: x.sum())(np.ones(2, int)), DTypeError, "floating"),
        (lambda: func.grad(lambda x: x.sum())({"a": "text"}), DTypeError, r"argument 0\['a'\] is 'text'"),
        (lambda: func.grad(lambda x: x.sum(), has_aux=True)(np.ones(2)), GraphError, "pair"),
        (lambda: func.hessian(lambda x: x)(np.ones(2)), ShapeError, "hessian"),
    ]
    for attempt, error, text in cases:
        with pytest.raises(error, match=text):
            attempt()
