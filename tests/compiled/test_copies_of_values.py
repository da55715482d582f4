"""I: a copy that was made before a write has the value of before, a view of the memory that of after: as in the step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, no_grad, ops, optim
from tests.compiled import World, agree, assert_close, vec

COPIES: dict[str, Callable[[Any], Any]] = {
    "Tensor(t)": lambda t: Tensor(t),
    "Tensor(t.detach())": lambda t: Tensor(t.detach()),
    "detach()": lambda t: t.detach(),
    "detach() twice": lambda t: t.detach().detach(),
    "Tensor of Tensor": lambda t: Tensor(Tensor(t.detach())),
    "deepcopy": lambda t: copy.deepcopy(t.detach()),
    "copy": lambda t: copy.copy(t.detach()),
    "t * 1": lambda t: t * 1,
    "t + 0": lambda t: t + 0,
    "-(t * -1)": lambda t: -(t * -1),
    "+t": lambda t: +t,
    "detach() * 1": lambda t: t.detach() * 1,
    "astype, the same": lambda t: t.astype(t.dtype),
    "astype, another": lambda t: t.astype("float32").astype("float64"),
    "to(dtype)": lambda t: t.to(t.dtype),
    "to(cpu)": lambda t: t.to("cpu"),
    "t[...]": lambda t: t[...],
    "t[:]": lambda t: t[:],
    "detach()[:]": lambda t: t.detach()[:],
    "t[indices]": lambda t: t[np.array([0, 1, 2])],
    "detach()[indices]": lambda t: t.detach()[np.array([0, 1, 2])],
    "take": lambda t: t.take(np.array([0, 1, 2])),
    "reshape": lambda t: t.reshape(3, 1).reshape(3),
    "detach().reshape": lambda t: t.detach().reshape(1, 3)[0],
    "Tensor(reshape)": lambda t: Tensor(t.detach().reshape(3, 1)).reshape(3),
    "transpose": lambda t: t.detach().reshape(1, 3).T.reshape(3),
    "broadcast_to": lambda t: t.detach().broadcast_to((2, 3))[1],
    "flip twice": lambda t: t.detach().flip().flip(),
    "concatenate": lambda t: ops.concatenate([t.detach()]),
    "stack": lambda t: ops.stack([t.detach()])[0],
    "split": lambda t: ops.concatenate(t.detach().split(3)),
    "where": lambda t: ops.where(t.detach() == t.detach(), t.detach(), 0.0),
    "clip": lambda t: t.detach().clip(-1e9, 1e9),
    "sum of one": lambda t: t.detach().reshape(1, 3).sum(0),
    "maximum": lambda t: t.detach().maximum(t.detach()),
    "written over": lambda t: filled(t),
}


def filled(t: Any) -> Any:
    new = Tensor(np.zeros(3))
    new[...] = t.detach()
    return new


def by_optimiser(t: Any, x: Any, optimiser: Any) -> None:
    optimiser.zero_grad()
    (x * t).sum().backward()
    optimiser.step()


def in_place(change: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], None]:
    def write(t: Any, x: Any, optimiser: Any) -> None:
        with no_grad():
            change(t, x)

    return write


WRITES: dict[str, Callable[[Any, Any, Any], None]] = {
    "an optimiser": by_optimiser,
    "t += x": in_place(lambda t, x: t.__iadd__(x)),
    "t *= 2": in_place(lambda t, x: t.__imul__(2)),
    "t[...] = x": in_place(lambda t, x: t.__setitem__(..., x)),
    "t[0] = x[0]": in_place(lambda t, x: t.__setitem__(0, x[0])),
    "t[1:] += x": in_place(lambda t, x: t.__setitem__(slice(1, None), t[1:] + x[1:])),
    "twice": in_place(lambda t, x: (t.__iadd__(x), t.__imul__(0.5))),
}


def table(copies: list[str], writes: list[str]) -> list[tuple[str, str]]:
    """Every copy with the first two writes and with some of the others."""
    return [(c, w) for i, c in enumerate(copies) for j, w in enumerate(writes) if j < 2 or (i + j) % 3 == 0]


VIEWS = ("t[...]", "t[:]", "reshape")  # with a history, if what they are of requires a gradient: an error of its own


@pytest.mark.parametrize(("copied", "write"), table([c for c in COPIES if c not in VIEWS], list(WRITES)))
def test_copies_before_a_write(copied: str, write: str) -> None:
    """Of a parameter; what it was and what it has become, in one result, and each alone."""

    def make() -> World:
        w = Tensor(vec(1, "float64"), requires_grad=True)
        optimiser = optim.SGD([w], lr=0.1)

        def step(x: Any) -> Any:
            old = COPIES[copied](w)
            WRITES[write](w, x, optimiser)
            return w.detach() - old, old * 1, w.detach() * 1

        return World(step, lambda: w)

    agree(make, [(vec(v, "float64") * [1, 2, 3],) for v in (1, 1, 1, 2, 3)])


@pytest.mark.parametrize(("copied", "write"), table(list(COPIES), [w for w in WRITES if w != "an optimiser"]))
def test_copies_of_what_lives_outside(copied: str, write: str) -> None:
    """A running value that needs no gradient; the copy is made after a first write, and kept in another Tensor from outside."""

    def make() -> World:
        t, kept = Tensor(vec(1, "float64")), Tensor(vec(0, "float64"))

        def step(x: Any) -> Any:
            WRITES[write](t, x, None)
            old = COPIES[copied](t)
            WRITES[write](t, x * 2, None)
            kept[...] = old
            return t - old

        return World(step, lambda: (t, kept))

    agree(make, [(vec(v, "float64") * [1, 2, 3],) for v in (1, 1, 1, 2, 3)])


@pytest.mark.parametrize("copied", COPIES)
def test_copies_of_intermediate_values(copied: str) -> None:
    def make() -> World:
        def step(x: Any) -> Any:
            y = (x * 2).detach()
            old = COPIES[copied](y)
            y += x
            return y - old, old * 1

        return World(step)

    agree(make, [(vec(v, "float64") * [1, 2, 3],) for v in (1, 1, 1, 2, 3)])


@pytest.mark.parametrize("copied", ["Tensor(t)", "detach()", "deepcopy", "t * 1", "detach()[:]", "t[indices]", "reshape"])
@pytest.mark.parametrize("slot", ["running_mean", "running_var"])
def test_copies_of_a_buffer_before_its_update(slot: str, copied: str) -> None:
    rng = np.random.default_rng(0)

    def make() -> World:
        norm = nn.BatchNorm1d(3, dtype="float64")

        def step(x: Any) -> Any:
            old = COPIES[copied](Tensor(getattr(norm, slot)))
            norm(x)
            return Tensor(getattr(norm, slot)) - old

        return World(step, norm.state_dict)

    agree(make, [(rng.normal(size=(5, 3)),) for _ in range(5)])


@pytest.mark.parametrize("copied", ["Tensor(t)", "deepcopy", "t * 1", "t[indices]"])
def test_copies_of_a_gradient_before_the_next(copied: str) -> None:
    def make() -> World:
        w = Tensor(vec(1, "float64"), requires_grad=True)

        def step(x: Any) -> Any:
            w.grad = None
            (x * w).sum().backward()
            old = COPIES[copied](w.grad)
            (x * w * w).sum().backward()
            return w.grad - old, old * 1

        return World(step)

    agree(make, [(vec(v, "float64") * [1, 2, 3],) for v in (1, 1, 1, 2, 3)])


def test_the_length_of_a_step() -> None:
    """-lr times the gradient, in every call."""
    w = Tensor(vec(1, "float64"), requires_grad=True)
    optimiser = optim.SGD([w], lr=0.1)

    def step(x: Any) -> Any:
        old = Tensor(w.detach())
        by_optimiser(w, x, optimiser)
        return w - old

    compiled = tg.compile(step)
    for v in (1, 1, 1, 2, 3):
        assert_close(compiled(vec(v, "float64")), vec(-0.1 * v, "float64"), 1e-12)
