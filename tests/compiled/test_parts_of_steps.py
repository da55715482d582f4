"""K: every part of a training step compiled on its own, several of them, and in every order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, no_grad, optim
from tests.compiled import World, agree, as_tensors, assert_close, either, snapshot, vec

PARTS = ("zero_grad", "backward", "clip", "step")
RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(size=3) + k for k in (1, 2, 3, 0.5, 4, 1)]


class Training:
    """The parts of a step, on a model of two parameters."""

    def __init__(self, optimiser: Callable[[Any], optim.Optimiser] = lambda p: optim.SGD(p, lr=0.1, momentum=0.5)) -> None:
        self.w, self.v = Tensor(vec(1, "float64"), requires_grad=True), Tensor(vec(2, "float64"), requires_grad=True)
        self.optimiser = optimiser([self.w, self.v])
        self.loss: Any = None

    def zero_grad(self, x: Any) -> None:
        self.optimiser.zero_grad()

    def forward(self, x: Any) -> Any:
        return (x * self.w * self.w * self.v).sum()

    def backward(self, x: Any) -> Any:
        loss = self.forward(x)
        loss.backward()
        return loss

    def clip(self, x: Any) -> None:
        optim.clip_grad_norm([self.w, self.v], 1.0)

    def clip_value(self, x: Any) -> None:
        optim.clip_grad_value([self.w, self.v], 0.5)

    def step(self, x: Any) -> None:
        self.optimiser.step()

    def look(self, grads: bool = True) -> Any:
        return self.w, self.v, self.optimiser.state, self.optimiser.steps, (self.w.grad, self.v.grad) if grads else None


def clears(order: tuple[str, ...]) -> bool:
    """Whether the gradients are cleared between an update and the next backward(), round and round."""
    if "step" not in order or "backward" not in order:
        return False
    after = [order[(order.index("step") + i) % len(order)] for i in range(1, len(order))]
    return "zero_grad" in after and after.index("zero_grad") < after.index("backward")


ORDERS = [o for n in range(1, 5) for o in itertools.permutations(PARTS, n) if "backward" in o or n == 1]


@pytest.mark.filterwarnings("ignore:SGD. no gradient reached")
@pytest.mark.parametrize(
    ("order", "keep_grads"),
    [(o, keep) for o in ORDERS for keep in (False, True) if keep or "step" not in o or clears(o)],  # else it goes on from none
    ids=lambda case: "-".join(case) if isinstance(case, tuple) else str(case),
)
def test_parts_in_every_order(order: tuple[str, ...], keep_grads: bool) -> None:
    """Weights, state and gradients after six calls. Gradients that are used up are None, unless they are to be kept."""

    def make() -> World:
        t = Training()

        def step(x: Any) -> Any:
            return [getattr(t, part)(x) for part in order]

        return World(step, lambda: t.look(keep_grads or "step" not in order))

    usual = order in (("zero_grad", "backward", "step"), ("zero_grad", "backward", "clip", "step"), ("backward",))
    agree(make, [(x,) for x in BATCHES], rtol=1e-9, may_refuse=not usual, keep_grads=keep_grads)


ALONE = ["zero_grad", "forward", "backward", "clip", "clip_value", "step"]


@pytest.mark.parametrize("keep_grads", [False, True])
@pytest.mark.parametrize("parts", [(p,) for p in ALONE] + list(itertools.combinations(PARTS, 2)) + [PARTS], ids="-".join)
def test_parts_compiled_on_their_own(parts: tuple[str, ...], keep_grads: bool) -> None:
    """The other parts of the step are as they are; what is compiled reads gradients from outside, and leaves them there."""
    found: list[list[Any]] = []
    refused = None
    for how in (lambda f: f, lambda f: tg.compile(f, keep_grads=keep_grads)):
        t = Training()
        named = {p: how(getattr(t, p)) if p in parts else getattr(t, p) for p in ALONE}
        found.append([])
        for x in BATCHES:
            (x,) = as_tensors((x,))
            named["zero_grad"](x)
            value = named["forward"](x)
            for part in ("backward", "clip", "clip_value", "step"):
                _, refused = either(named[part], x)
                if refused:
                    break
            if refused:
                break
            found[-1].append(snapshot([value, t.look(keep_grads)]))
    if refused:
        assert parts != ("backward",)
    for a, b in zip(found[1], found[0], strict=False):
        assert_close(a, b, 1e-9)


OPTIMISERS: dict[str, Callable[[Any], optim.Optimiser]] = {
    "SGD": lambda p: optim.SGD(p, lr=1.0),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1),
}
GIVEN: dict[str, Callable[[Any, np.ndarray], None]] = {
    "a new Tensor": lambda w, g: setattr(w, "grad", Tensor(g)),
    "the same Tensor, written to": lambda w, g: (
        setattr(w, "grad", Tensor(g)) if w.grad is None else w.grad.data.__setitem__(..., g)
    ),
    "a view": lambda w, g: setattr(w, "grad", Tensor(np.stack([g, g]))[0].detach()),
    "a repeated number": lambda w, g: setattr(w, "grad", Tensor(g[0]).broadcast_to((3,)).detach()),
    "by backward()": lambda w, g: (setattr(w, "grad", None), (w * g).sum().backward()),
    "accumulated": lambda w, g: ((w * g).sum().backward(), (w * g).sum().backward()),
    "in float32": lambda w, g: setattr(w, "grad", Tensor(g.astype("float32"))),
}


@pytest.mark.parametrize("clear", [False, True], ids=["kept", "cleared"])
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_updates_for_gradients_from_outside(name: str, given: str, clear: bool) -> None:
    """The update alone, for gradients that come from elsewhere, each call another one."""
    found: list[list[Any]] = []
    for how in (lambda f: f, lambda f: tg.compile(f, keep_grads=not clear)):
        w = Tensor(vec(1, "float64"), requires_grad=True)
        optimiser = OPTIMISERS[name]([w])

        def update(optimiser: Any = optimiser) -> None:
            optimiser.step()
            if clear:
                optimiser.zero_grad()

        update = how(update)
        found.append([])
        for x in (BATCHES[0], BATCHES[0], BATCHES[0], *BATCHES[1:]):
            GIVEN[given](w, x)
            if either(update)[1]:
                break
            found[-1].append(snapshot([w, optimiser.state, optimiser.steps, w.grad]))
    for a, b in zip(found[1], found[0], strict=False):
        assert_close(a, b, 1e-9 if "float32" not in given else 1e-6)


def test_updates_by_the_formula() -> None:
    """1 minus the sum of the gradients; .grad is None after each."""
    w = Tensor(vec(1, "float64"), requires_grad=True)
    optimiser = optim.SGD([w], lr=1.0)
    update = tg.compile(lambda: (optimiser.step(), optimiser.zero_grad()))
    expected = 1.0
    for g in (0.5, 0.5, 0.5, 7.0, 7.0):
        w.grad = Tensor(vec(g, "float64"))
        if either(update)[1]:
            return
        expected -= g
        assert_close(w, vec(expected, "float64"), 1e-12)
        assert w.grad is None


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("keep_grads", [False, True])
def test_gradients_accumulated_over_some_batches(every: int, keep_grads: bool) -> None:
    """Both parts compiled; the update is made after some of the batches."""
    found: list[list[Any]] = []
    refused = None
    for how in (lambda f: f, lambda f: tg.compile(f, keep_grads=keep_grads)):
        t = Training()

        def update(t: Training = t) -> None:
            t.optimiser.step()
            t.optimiser.zero_grad()

        accumulate, update = how(t.backward), how(update)
        found.append([])
        for i, x in enumerate(BATCHES * 3):
            (x,) = as_tensors((x,))
            loss = accumulate(x)
            if i % every == every - 1:
                _, refused = either(update)
                if refused:
                    break
            found[-1].append(snapshot([loss, t.look()]))
    for a, b in zip(found[1], found[0], strict=False):
        assert_close(a, b, 1e-9)


# Arguments that a step writes to

WRITES: dict[str, Callable[[Any], Any]] = {
    "+=": lambda x: x.__iadd__(1),
    "*=": lambda x: x.__imul__(2),
    "[...] =": lambda x: x.__setitem__(..., 5.0),
    "[0] =": lambda x: x.__setitem__(0, 5.0),
    "[1:] +=": lambda x: x.__setitem__(slice(1, None), x[1:] + 1),
    "of a view": lambda x: x.detach().__iadd__(1),
    "of a copy": lambda x: (x * 1).__iadd__(1),
    "of another copy": lambda x: Tensor(x).__iadd__(1),
    "a parameter's": lambda x: None,
}


@pytest.mark.parametrize("kind", [np.asarray, Tensor], ids=["array", "Tensor"])
@pytest.mark.parametrize("name", WRITES)
def test_arguments_that_are_written_to(name: str, kind: Any) -> None:
    """What the caller sees of it is the same in each call; a Tensor's is that of the step itself."""

    def step(x: Any) -> Any:
        with no_grad():
            WRITES[name](x)
        return x.sum()

    compiled, seen = tg.compile(step), []
    for _ in range(5):
        x, own = kind(np.zeros(3)), Tensor(np.zeros(3))
        total, refused = either(compiled, x)
        if refused:
            assert "copy" not in name
            break
        assert_close(total, step(own), 1e-12)
        seen.append(np.asarray(x).tolist())
        if kind is Tensor:
            assert_close(x, own, 1e-12)
    assert all(s == seen[0] for s in seen)
