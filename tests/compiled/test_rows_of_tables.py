"""Tables of which a step reads a few rows: plain gradient descent and lazy Adam change those alone, as kernels that know their
numbers where a step is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, nn, optim
from tests.strategies import generators


class Pairs(nn.Module):
    """Scores of pairs: a table of vectors that is read twice, by index or as an embedding, one of biases, a weight."""

    def __init__(self, rng: np.random.Generator, rows: int, width: int, reads: str) -> None:
        super().__init__()
        self.before = nn.Parameter(rng.normal(size=(2,)).astype("f"))
        self.table = nn.Parameter(rng.normal(size=(rows, width)).astype("f"))
        self.bias = nn.Parameter(rng.normal(size=rows).astype("f"))
        self.after = nn.Parameter(rng.normal(size=(width,)).astype("f"))
        self.reads = reads

    def forward(self, a: Any, b: Any) -> Any:
        look = nn.functional.embedding if self.reads == "embedding" else lambda t, table: table[t]
        left = look(a, self.table) * self.after
        right = look(b, self.table) if self.reads != "once" else self.before[0] * self.after
        return (left * right).sum(axis=-1) + self.bias[a] + self.before.sum()


def trained(model: Pairs, optimiser: Any, batches: list[Any], compiled: bool) -> Any:
    def step(a: Any, b: Any, y: Any) -> Any:
        optimiser.zero_grad()
        loss = ((model(a, b) - y) ** 2).mean()
        loss.backward()
        optimiser.step()
        return loss

    run = tensorgrad.compile(step) if compiled else step
    losses = [run(*batch).item() for batch in batches]
    return losses, run


def kernels(run: Any) -> list[str]:
    return [call.name for call in run.plan.calls]


@pytest.mark.parametrize("reads", ["embedding", "index", "once"])
@given(
    rng=generators(),
    rows=st.sampled_from([6, 40, 400]),
    width=st.integers(1, 5),
    shape=st.sampled_from([(3,), (7,), (2, 2), (1, 1)]),
    maximize=st.booleans(),
)
def test_as_it_is_written(
    reads: str, rng: np.random.Generator, rows: int, width: int, shape: tuple[int, ...], maximize: bool
) -> None:
    """Rows named once, twice and more, from both ends; with other parameters beside the table; above and below the size from
    which rows alone are changed."""
    low = 0 if reads == "embedding" else -rows
    named = rng.integers(low, rows, 4)
    batches = [(rng.choice(named, shape), rng.choice(named, shape), rng.normal(size=shape).astype("f")) for _ in range(5)]
    states, losses, plans = [], [], []
    for compiled in (False, True):
        model = Pairs(np.random.default_rng(0), rows, width, reads)
        found, run = trained(model, optim.SGD(model.parameters(), lr=0.002, maximize=maximize), batches, compiled)
        losses.append(found)
        states.append(model.state_dict())
        plans.append(run)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    count = int(np.prod(shape)) * (1 if reads == "once" else 2)
    assert ("sum_named" in kernels(plans[1])) == (2 * int(np.prod(shape)) <= rows)
    assert kernels(plans[1]).count("assign") == (2 * count <= rows) + (2 * int(np.prod(shape)) <= rows)
    for name, expected in states[0].items():
        np.testing.assert_allclose(states[1][name], expected, rtol=2e-6, atol=2e-6)
    still = np.setdiff1d(np.arange(rows), np.unique(np.concatenate([t.ravel() % rows for a, b, _ in batches for t in (a, b)])))
    np.testing.assert_array_equal(
        states[1]["table"][still], Pairs(np.random.default_rng(0), rows, width, reads).table.data[still]
    )


@pytest.mark.parametrize("reads", ["embedding", "index", "once"])
@settings(max_examples=6)
@given(
    rng=generators(),
    rows=st.sampled_from([3, 40]),
    width=st.integers(1, 3),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    kind=st.sampled_from([optim.Adam, optim.AdamW]),
    options=st.fixed_dictionaries(
        {"weight_decay": st.sampled_from([0.0, 0.5]), "amsgrad": st.booleans(), "maximize": st.booleans()}
    ),
)
def test_lazy_adam_as_it_is_written(
    reads: str, rng: np.random.Generator, rows: int, width: int, dtype: str, kind: Any, options: dict[str, Any]
) -> None:
    """Beside an Adam of each row, that is made a step when its row has a gradient, t being told; rows that no batch has named,
    and those whose gradient is 0, stay as they are, and so does their state."""
    named = rng.integers(0, rows, 4)
    batches = [(rng.choice(named, 2), rng.choice(named, 2), rng.normal(size=2).astype(dtype)) for _ in range(5)]
    batches[2] = (*batches[2][:2], np.zeros(2, dtype))  # weights of 0: names without a gradient

    def model() -> Pairs:
        found = Pairs(np.random.default_rng(0), rows, width, reads)
        return found.to(dtype=dtype)

    def trained(compiled: bool) -> tuple[Any, Any]:
        pairs = model()
        optimiser = kind([pairs.table, pairs.bias, pairs.after, pairs.before], lr=0.1, lazy=True, **options)

        def step(a: Any, b: Any, w: Any) -> None:
            optimiser.zero_grad()
            (pairs(a, b) * w).sum().backward()
            optimiser.step()

        run = tensorgrad.compile(step) if compiled else step
        gradients = []
        for batch in batches:
            if not compiled:
                pairs.zero_grad()
                (pairs(*batch[:2]) * batch[2]).sum().backward()
                gradients.append([p.grad.numpy().copy() for p in optimiser.params])
            run(*batch)
        return optimiser, run if compiled else gradients

    (own, gradients), (other, run) = trained(False), trained(True)
    assert ("sum_named" in kernels(run)) == (rows == 40 and dtype != "float16")
    close = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}[dtype]
    for p, q, of_p, of_q in zip(own.params, other.params, own.state, other.state, strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=close, atol=close)
        for slot, array in of_p.items():
            np.testing.assert_allclose(array, of_q[slot], rtol=close, atol=close)
    for k, start in enumerate([(m := model()).table, m.bias, m.after, m.before]):
        for i in range(len(start)):
            row = Tensor(start.numpy()[i].copy(), True)
            alone = kind([row], lr=0.1, **options)
            for t, found in enumerate(gradients):
                if found[k][i].any():
                    alone.steps, row.grad = t, Tensor(found[k][i])
                    alone.step()
            for optimiser in (own, other):
                np.testing.assert_allclose(optimiser.params[k].numpy()[i], row.numpy(), rtol=close, atol=close)
                for slot, array in alone.state[0].items():
                    np.testing.assert_allclose(optimiser.state[k][slot][i], array, rtol=close, atol=close)
                if not alone.steps:
                    assert optimiser.params[k].numpy()[i].tobytes() == start.numpy()[i].tobytes()


@given(rng=generators(), n=st.integers(1, 12), rows=st.integers(1, 6), width=st.integers(0, 3))
def test_rows_that_are_named_alike_are_added_up(rng: np.random.Generator, n: int, rows: int, width: int) -> None:
    """To the last bit as in the table: in the order in which they come."""
    from tensorgrad.ops.index import sum_named

    x, t = rng.normal(size=(n, width)).astype("f"), rng.integers(-rows, rows, n)
    whole = np.zeros((rows, width), "f")
    for row, name in zip(x, t, strict=True):
        whole[name] += row
    np.testing.assert_array_equal(sum_named(x, t, rows), whole[t])


@pytest.mark.parametrize("settings", [{"momentum": 0.5}, {"weight_decay": 0.1}])
def test_what_moves_every_row_is_done_for_every_row(settings: Any) -> None:
    model = Pairs(np.random.default_rng(0), 100, 3, "index")
    a = np.arange(4)
    batch = a, a[::-1].copy(), np.ones(4, "f")
    _, run = trained(model, optim.SGD(model.parameters(), lr=0.05, **settings), [batch] * 3, True)
    assert "assign" not in kernels(run)


class Shrinking(optim.SGD):
    """Moves every row, whatever its gradient."""

    def update(self, group: Any, p: Any, g: Any, *state: Any, **numbers: Any) -> Any:
        return (0.5 * p - numbers["lr"] * g,)


def test_an_update_of_ones_own_is_done_for_every_row() -> None:
    a = np.arange(4)
    batch, found = (a, a[::-1].copy(), np.ones(4, "f")), []
    for compiled in (False, True):
        model = Pairs(np.random.default_rng(0), 100, 3, "index")
        trained(model, Shrinking(model.parameters(), lr=0.05), [batch] * 3, compiled)
        found.append(model.table.data.copy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_gradients_that_are_read_are_there() -> None:
    """Of a step that keeps them, or reads them itself: the whole table's."""
    table = Tensor(np.ones((50, 2), "f"), requires_grad=True)
    optimiser = optim.SGD([table], lr=0.5)

    def step(t: Tensor) -> Any:
        optimiser.zero_grad()
        (table[t] ** 2).sum().backward()
        norm = (table.grad**2).sum()
        optimiser.step()
        return norm

    run = tensorgrad.compile(step, keep_grads=True)
    assert run(np.array([3, 3, -1])).item() == 2 * (4 * 4 + 2 * 2)
    assert run(np.array([0, 1, 2])).item() == 2 * 3 * 2 * 2
    np.testing.assert_array_equal(table.grad.data.any(axis=1).nonzero()[0], [0, 1, 2])
    assert sorted(set(table.data[:, 0].tolist())) == [-1.0, 0.0, 1.0]


def test_rows_of_a_column_of_the_argument() -> None:
    """The numbers of rows may be computed in the step."""
    table = Tensor(np.zeros((50, 2)), requires_grad=True)
    optimiser = optim.SGD([table], lr=1.0)

    def step(pairs: Tensor) -> Any:
        optimiser.zero_grad()
        table[pairs[:, 0]].sum().backward()
        optimiser.step()

    run = tensorgrad.compile(step)
    for first in (0, 10):
        run(np.arange(first, first + 6).reshape(3, 2))
    assert "sum_named" in kernels(run)
    np.testing.assert_array_equal(table.data[:, 0].nonzero()[0], [0, 2, 4, 10, 12, 14])
