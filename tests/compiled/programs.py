"""Programs to be planned: training steps, and what else steps do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tensorgrad
from tensorgrad import Tensor, nn, no_grad, ops, optim
from tensorgrad.core.backend import Array
from tensorgrad.nn import functional as F
from tensorgrad.nn import init

Step = Callable[..., Any]


class Program(NamedTuple):
    """make: a step, and what it is called with;  rows: bytes of the widest value of a part of the samples, None for no loop;
    threads: how many."""

    make: Callable[[np.random.Generator], tuple[Step, list[Array]]]
    rows: int | None = None
    threads: int = 1


def training(model: Callable[[], nn.Module], optimiser: Callable[[Any], Any], loss: Callable[..., Any]) -> Any:
    def make(rng: np.random.Generator) -> tuple[Step, list[Array]]:
        init.seed(0)
        net = model()
        opt = optimiser(list(net.parameters()))

        def step(x: Tensor, y: Tensor) -> Any:
            z = net(x)
            cost = loss(z, y, net)
            opt.zero_grad()
            cost.backward()
            opt.step()
            return cost, ops.softmax(z)

        return step, [rng.normal(size=(7, 6)), rng.integers(0, 4, 7)]

    return make


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8, dtype=np.float64), nn.ReLU(), nn.Linear(8, 5, dtype=np.float64), nn.Tanh(),
        nn.Linear(5, 4, dtype=np.float64),
    )  # fmt: skip


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8, dtype=np.float64), nn.BatchNorm1d(8, dtype=np.float64), nn.ReLU(), nn.Linear(8, 4, dtype=np.float64)
    )


def dropped() -> nn.Module:
    drop = nn.Dropout(0.5, rng=np.random.default_rng(1))
    return nn.Sequential(nn.Linear(6, 8, dtype=np.float64), drop, nn.Linear(8, 4, dtype=np.float64))


def momentum(params: Any) -> Any:
    return optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)


def adam(params: Any) -> Any:
    return optim.Adam(params, lr=0.01)


def cross_entropy(z: Tensor, y: Tensor, net: nn.Module) -> Tensor:
    return F.cross_entropy(z, y)


def with_l2(z: Tensor, y: Tensor, net: nn.Module) -> Tensor:
    squares = [(p * p).sum() for p in net.parameters() if p.ndim > 1]
    return F.cross_entropy(z, y) + 0.01 * sum(squares[1:], squares[0])


def squared(z: Tensor, y: Tensor, net: nn.Module) -> Tensor:
    return ((z - ops.one_hot(y, 4, z.dtype)) ** 2).mean()


def concatenated(axis: int) -> Any:
    def make(rng: np.random.Generator) -> tuple[Step, list[Array]]:
        w = Tensor(rng.normal(size=(5, 5)), True)

        def step(x: Tensor) -> Any:
            a, b = ops.tanh(x @ w), x * 2
            turned = [ops.transpose(w * x.sum())] * (not axis)
            both = ops.concatenate([a, x, b, x.exp(), *turned], axis=axis)
            both = ops.concatenate([both * both, both], axis=axis)
            loss = (ops.sin(both) * both).sum()
            return loss, both, a, tensorgrad.grad(loss, [w])

        return step, [rng.normal(size=(3, 5))]

    return make


def in_place(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    """Tensors from outside read and written in turn; two of them swapped."""
    a, b, c = (Tensor(rng.normal(size=(4, 3))) for _ in range(3))
    count = Tensor(np.zeros((), int))

    def step(x: Tensor) -> Any:
        with no_grad():
            before = a * 1
            a.__iadd__(x)
            middle = a * x
            a[1:3] = b[:2] * 2
            b.__imul__(0.5)
            old = a + 0
            a[...] = b
            b[...] = old
            double = x * 2
            c[...] = c + before - middle
            c[...] = ops.tanh(c)
            early = ops.sin(c)
            product = c @ x.T
            c.__iadd__(double * product.sum())
            count.__iadd__(1)
            b[...] = Tensor(a)
            triple = x * 3
            last = b @ x.T
            b.__imul__(x)
        return before, middle, (a * c).sum(0), count * 2, product, early * x, Tensor(count) + double, triple, last

    return step, [rng.normal(size=(4, 3))]


def strided(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    """Tensors on every second column of an array, and on the columns between; a transposed one; one turned round."""
    whole, flat = rng.normal(size=(4, 6)), rng.normal(size=12)
    even, odd, turned, back = (Tensor(np.zeros(1)) for _ in range(4))
    even.data, odd.data, turned.data, back.data = whole[:, ::2], whole[:, 1::2], flat.reshape(3, 4).T, flat[::-1]

    def step(x: Tensor) -> Any:
        with no_grad():
            first = even * x + odd
            even.__isub__(0.1 * first)
            odd.__iadd__(even)
            last = (turned * even).sum(0)
            turned[...] = first * turned
            back.__imul__(0.5)
        return first, last, odd @ x.T, back * 1

    return step, [rng.normal(size=(4, 3))]


def accumulating(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    init.seed(0)
    net = mlp()
    for p in net.parameters():
        p.grad = Tensor(rng.normal(size=p.shape))

    def step(x: Tensor, y: Tensor) -> Any:
        F.cross_entropy(net(x), y).backward()
        return ops.log_softmax(net(x))[1:, :2]

    return step, [rng.normal(size=(7, 6)), rng.integers(0, 4, 7)]


def passing(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    """An operation, as which cholesky stands in, whose result is its operand, which nothing else reads then."""

    def step(x: Tensor) -> Any:
        a = ops.cholesky(ops.cholesky(x.exp()))
        b = ops.cumsum(a, 0)
        c = ops.cholesky((x * 3).sin())
        d = (x + b.sum()).tanh()
        return c * d, (d * d + x).sin(), ops.cholesky(d), a

    return step, [rng.normal(size=(3, 3))]


def recurrent(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    w, u = Tensor(0.3 * rng.normal(size=(4, 4)), True), Tensor(rng.normal(size=(3, 4)), True)
    opt = optim.SGD([w, u], lr=0.1)

    def step(x: Tensor, y: Tensor) -> Any:
        h = ops.tanh(x[0] @ u)
        cost = F.cross_entropy(h, y)
        for t in range(1, 4):
            h = ops.tanh(x[t] @ u + h @ w)
            cost = cost + F.cross_entropy(h, y)
        opt.zero_grad()
        cost.backward()
        opt.step()
        return cost, h

    return step, [rng.normal(size=(4, 5, 3)), rng.integers(0, 4, 5)]


def second_order(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    def step(x: Tensor, w: Tensor) -> Any:
        w = Tensor(w, requires_grad=True)
        y = (ops.tanh(x @ w) ** 2).sum()
        (g,) = tensorgrad.grad(y, [w], create_graph=True)
        return y, g, tensorgrad.grad((g * g).sum(), [w])

    return step, [rng.normal(size=(5, 3)), rng.normal(size=(3, 2))]


def rowwise(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    """Results with rows, sums over samples of several kinds, what is made before and after."""
    w, scale = Tensor(rng.normal(size=(3, 4)), True), Tensor(rng.normal(size=4), True)
    seen, shift = Tensor(np.zeros(4)), Tensor(rng.normal(size=4))

    def step(x: Tensor, y: Tensor) -> Any:
        h = ops.tanh(x @ (w * scale) + shift) + scale
        p = ops.softmax(h)
        cost = ((h - y) ** 2).mean() + 0.1 * (w * w).sum()
        with no_grad():
            seen.__iadd__(h.sum(0))
            shift.__imul__(0.5)
        g = tensorgrad.grad(cost, [w, scale])
        with no_grad():
            w.__isub__(0.1 * g[0])
        return cost, p, h * seen, g, x.sum(0), (x * x).max(0)

    return step, [rng.normal(size=(11, 3)), rng.normal(size=(11, 4))]


def drawing(rng: np.random.Generator) -> tuple[Step, list[Array]]:
    """Random numbers for what is made of the samples, and then for the samples themselves."""
    w = Tensor(rng.normal(size=(3, 4)))

    def step(x: Tensor) -> Any:
        h = F.dropout(ops.tanh(x @ w), 0.5)
        return h.sum(), F.dropout(x, 0.5) * 2, h * 3

    return step, [rng.normal(size=(11, 3))]


PROGRAMS = {
    "MLP, SGD": Program(training(mlp, momentum, cross_entropy)),
    "MLP, Adam, L2": Program(training(mlp, adam, with_l2)),
    "squared": Program(training(mlp, adam, squared)),
    "batch norm": Program(training(normed, momentum, cross_entropy)),
    "dropout": Program(training(dropped, momentum, cross_entropy)),
    "concatenated, axis 0": Program(concatenated(0)),
    "concatenated, axis 1": Program(concatenated(1)),
    "in place": Program(in_place),
    "strided": Program(strided),
    "accumulating": Program(accumulating),
    "passing": Program(passing),
    "recurrent": Program(recurrent),
    "second order": Program(second_order),
    "rows, 1 thread": Program(rowwise, 64, 1),
    "rows, 2 threads": Program(rowwise, 64, 2),
    "rows, 3 threads, whole": Program(rowwise, 1 << 20, 3),
    "rows, more threads than samples": Program(rowwise, 1, 16),
    "rows of an MLP": Program(training(mlp, momentum, with_l2), 128, 2),
    "rows and random numbers": Program(drawing, 64, 2),
    "rows with dropout": Program(training(dropped, adam, cross_entropy), 128, 3),
}
