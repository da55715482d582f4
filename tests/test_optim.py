"""Optimisers and clipping against their formulas written out."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, optim
from tensorgrad.errors import GraphError, ShapeError
from tensorgrad.kernels import build, thresholds
from tensorgrad.optim.block import Block
from tests.compiled import lowered
from tests.optimisers import CASES
from tests.strategies import generators

HAS_NUMBA = build.has_numba


def sgd(p, g, t, s, lr, momentum, weight_decay, nesterov):
    d = g + weight_decay * p
    s["v"] = momentum * s.get("v", 0) + d
    return p - lr * (d + momentum * s["v"] if nesterov else s["v"])


def adam(p, g, t, s, lr, betas, eps, weight_decay, decoupled=False):
    if decoupled:
        p = p - lr * weight_decay * p
    d = g if decoupled else g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * d
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * d**2
    return p - lr * (s["m"] / (1 - betas[0] ** t)) / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + eps)


def rmsprop(p, g, t, s, lr, alpha, eps, weight_decay):
    d = g + weight_decay * p
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * d**2
    return p - lr * d / (np.sqrt(s["v"]) + eps)


def adagrad(p, g, t, s, lr, eps, weight_decay):
    d = g + weight_decay * p
    s["v"] = s.get("v", 0) + d**2
    return p - lr * d / (np.sqrt(s["v"]) + eps)


rates, shares = st.floats(1e-4, 0.1), st.floats(0.05, 0.999)
decays = st.sampled_from([0.0, 0.01, 0.3])
betas = st.tuples(shares, shares)
OPTIMISERS = {
    "SGD": (optim.SGD, sgd, {"momentum": shares, "weight_decay": decays, "nesterov": st.booleans()}),
    "SGD without momentum": (
        optim.SGD,
        sgd,
        {"momentum": st.just(0.0), "weight_decay": decays, "nesterov": st.just(False)},
    ),
    "Adam": (optim.Adam, adam, {"betas": betas, "eps": st.just(1e-8), "weight_decay": decays}),
    "AdamW": (optim.AdamW, partial(adam, decoupled=True), {"betas": betas, "eps": st.just(1e-8), "weight_decay": decays}),
    "RMSprop": (optim.RMSprop, rmsprop, {"alpha": shares, "eps": st.just(1e-8), "weight_decay": decays}),
    "Adagrad": (optim.Adagrad, adagrad, {"eps": st.just(1e-10), "weight_decay": decays}),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@given(data=st.data(), rng=generators(), lr=rates)
def test_formula(name: str, data: st.DataObject, rng: np.random.Generator, lr: float) -> None:
    """70 steps against the formula written out, the rate changed on the way; buffers and gradients stay what they were."""
    make, formula, settings = OPTIMISERS[name]
    chosen = {key: data.draw(value) for key, value in settings.items()}
    start, gradients = rng.normal(size=4), rng.normal(size=(70, 4))
    p = Tensor(start, True)
    optimiser = make([p], lr=lr, **chosen)
    buffer = p.data
    expected, state = start.copy(), {}
    for t, g in enumerate(gradients, 1):
        optimiser.lr = lr if t < 40 else lr / 2
        p.grad = Tensor(g)
        optimiser.step()
        expected = formula(expected, g, t, state, optimiser.lr, **chosen)
        np.testing.assert_array_equal(p.grad.data, g)
    np.testing.assert_allclose(p.data, expected, rtol=1e-10, atol=1e-12)
    assert p.data is buffer


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_kernel_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates at once, in slices with a rest, in threads, and by Numba's loops: bit for bit the same."""
    make, _, _ = OPTIMISERS[name]
    chosen = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {}
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=(3, 5, 7)).astype(np.float32)
    results = []
    for size, split, numba in ((8, 1000, False), (1000, 1000, False), (8, 10, False), (1000, 1000, True), (1000, 10, True)):
        monkeypatch.setattr(thresholds, "SLICE", size)
        monkeypatch.setattr(thresholds, "CHAIN_THREADS", split)
        monkeypatch.setattr(build, "has_numba", HAS_NUMBA if numba else lambda: False)
        build.numba_kernel.cache_clear()
        p = Tensor(start, True)
        optimiser = make([p], lr=0.01, **chosen)
        for g in gradients:
            p.grad = Tensor(g)
            optimiser.step()
        results.append(p.data)
    build.numba_kernel.cache_clear()
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_resumed_is_bit_for_bit_the_same(name: str) -> None:
    make, _, _ = OPTIMISERS[name]
    chosen = {"momentum": 0.9} if name == "SGD" else {}
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(20, 3))
    p = Tensor(np.ones(3), True)
    optimiser = make([p], lr=0.01, **chosen)

    def steps(p, optimiser, some) -> None:
        for g in some:
            p.grad = Tensor(g)
            optimiser.step()

    steps(p, optimiser, gradients[:10])
    q = Tensor(p.data, True)
    resumed = make([q], lr=0.5, **chosen)
    resumed.load_state_dict(optimiser.state_dict())
    steps(p, optimiser, gradients[10:])
    steps(q, resumed, gradients[10:])
    np.testing.assert_array_equal(p.data, q.data)
    with pytest.raises(ShapeError, match="load_state_dict: state for 1 parameters, expected 2"):
        make([p, q], lr=0.1, **chosen).load_state_dict(optimiser.state_dict())
    if optimiser.slots:
        with pytest.raises(ShapeError, match=r"of parameter 0 has shape \(3,\), expected one of"):
            make([Tensor(np.ones(2), True)], lr=0.1, **chosen).load_state_dict(optimiser.state_dict())


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle of protocol 2": lambda x: pickle.loads(pickle.dumps(x, 2)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_copy_with_its_parameters_goes_on_as_the_original(name: str, before: int, how: str) -> None:
    """New, and after some steps, when there are state and kernels; what happens to the one is nothing to the other."""
    make, _, _ = OPTIMISERS[name]
    chosen = {"momentum": 0.9} if name == "SGD" else {}
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(before + 4, 2, 3))
    params = [Tensor(rng.normal(size=3), True), Tensor(rng.normal(size=3), True)]
    optimiser = make(params, lr=0.01, **chosen)

    def steps(params: list[Tensor], optimiser: optim.Optimiser, some: np.ndarray) -> np.ndarray:
        for both in some:
            for p, g in zip(params, both, strict=True):
                p.grad = Tensor(g)
            optimiser.step()
        return np.array([p.numpy() for p in params])

    steps(params, optimiser, gradients[:before])
    start = np.array([p.numpy() for p in params])
    others, other = COPIES[how]([params, optimiser])
    assert all(p is q for p, q in zip(others, other.params, strict=True))
    after = steps(others, other, gradients[before:])
    np.testing.assert_array_equal([p.numpy() for p in params], start)
    assert (optimiser.steps, other.steps) == (before, before + 4)
    np.testing.assert_array_equal(steps(params, optimiser, gradients[before:]), after)


def test_copies_of_two_optimisers_of_one_model_share_its_copy() -> None:
    p = Tensor(np.ones(3), True)
    schedule = optim.ExponentialLR(optim.SGD([p], lr=0.5), 0.5)
    q, other, later = copy.deepcopy((p, optim.Adam([p], lr=0.1), schedule))
    later.step()
    for optimiser in (other, later.optimiser):
        q.grad = Tensor(np.ones(3))
        optimiser.step()
    np.testing.assert_allclose(q.numpy(), 1 - 0.1 - 0.25, rtol=1e-6)  # Adam's first step is its rate
    np.testing.assert_array_equal(p.numpy(), 1)
    assert schedule.optimiser.lr == 0.5


def test_parameters_that_the_loss_does_not_reach_are_listed_once() -> None:
    p, q = Tensor([1.0], True), Tensor(np.ones((2, 3)), True, name="head.weight")
    optimiser = optim.SGD([p, q], lr=1)
    (p * 2).sum().backward()
    with pytest.warns(UserWarning, match=r"SGD: no gradient reached head\.weight \(2, 3\): the loss does not depend on it"):
        optimiser.step()
    optimiser.step()


def test_gradient_of_another_shape() -> None:
    p = Tensor([1.0, 2.0], True)
    p.grad = Tensor([1.0])
    with pytest.raises(ShapeError, match=r"SGD: the gradient of parameter 0 has shape \(1,\), expected \(2,\)"):
        optim.SGD([p], lr=0.1).step()


@given(rng=generators(), limit=st.floats(0.01, 10))
def test_clipping(rng: np.random.Generator, limit: float) -> None:
    params = [Tensor(np.zeros(s), True) for s in ((3,), (2, 2), (1,))]
    gradients = [rng.normal(size=p.shape) for p in params]
    total = np.sqrt(sum((g**2).sum() for g in gradients))
    for p, g in zip(params, gradients, strict=True):
        p.grad = Tensor(g)
    assert optim.clip_grad_norm(params, limit) == pytest.approx(total)
    for p, g in zip(params, gradients, strict=True):
        np.testing.assert_allclose(p.grad.data, g * min(1, limit / total), rtol=1e-12)
        p.grad = Tensor(g)
    optim.clip_grad_value(params, limit)
    for p, g in zip(params, gradients, strict=True):
        np.testing.assert_array_equal(p.grad.data, np.clip(g, -limit, limit))


def test_clipping_mistakes() -> None:
    p = Tensor([1.0], True)
    p.grad = Tensor([np.inf])
    with pytest.raises(ValueError, match="clip_grad_norm: the norm of the gradients is inf"):
        optim.clip_grad_norm([p], 1)
    with pytest.raises(ValueError, match="clip_grad_norm: max_norm must be above 0, got 0"):
        optim.clip_grad_norm([p], 0)
    with pytest.raises(ValueError, match="clip_grad_value: limit must be above 0, got -1"):
        optim.clip_grad_value([p], -1)


def test_no_gradient_no_step() -> None:
    p, q = Tensor([1.0], True), Tensor([1.0], True)
    optimiser = optim.SGD([p, q], lr=1, weight_decay=0.5)
    q.grad = Tensor([1.0])
    with pytest.warns(UserWarning, match=r"no gradient reached parameter 0 \(1,\)"):
        optimiser.step()
    assert (p.item(), q.item()) == (1.0, -0.5)
    optimiser.zero_grad()
    assert q.grad is None


def test_a_dying_velocity_does_not_become_subnormal() -> None:
    p = Tensor(np.zeros(3, np.float32), True)
    optimiser = optim.SGD([p], lr=1e-3, momentum=0.9)
    p.grad = Tensor(np.ones(3, np.float32))
    optimiser.step()
    p.grad = Tensor(np.zeros(3, np.float32))
    tiny = np.finfo(np.float32).tiny
    for _ in range(2000):
        optimiser.step()
        v = optimiser.state[0]["velocity"]
        assert ((v == 0) | (v > tiny)).all()
    np.testing.assert_allclose(p.data, -1e-3 / (1 - 0.9), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_dying_weight_does_not_become_subnormal(dtype: type, compiled: bool) -> None:
    tiny = np.finfo(dtype).tiny
    p = Tensor(np.array([1, tiny * 1e10, -tiny * 1e7], dtype), True)
    optimiser = optim.SGD([p], lr=0.1)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = (0.01 * p * p).sum()
        loss.backward()
        optimiser.step()
        return loss

    run = tensorgrad.compile(step) if compiled else step
    for _ in range(64):
        run()
    assert p.data[2] == 0
    np.testing.assert_allclose(p.data[:2], np.array([1, tiny * 1e10], dtype) * (1 - 0.002) ** 64, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:SGD. no gradient reached")
def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    p, q = Tensor([1.0], True), Tensor([0.0, 0.25], True)
    optimiser = optim.SGD([p, q], lr=0.1)
    loss = (q * q).sum()
    p.grad = Tensor([1.0])
    for _ in range(64):
        optimiser.step()
    loss.backward()  # would raise, had q been written to
    np.testing.assert_array_equal(q.grad.numpy(), [0, 0.5])


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: optim.SGD([], lr=0.1), ValueError, "SGD: params is empty"),
        (lambda: optim.SGD([Tensor([1.0], True)], lr=-1), ValueError, "SGD: lr must be at least 0, got -1"),
        (lambda: optim.SGD([Tensor([1.0], True)], lr=1, momentum=float("nan")), ValueError, "SGD: momentum must be"),
        (lambda: optim.SGD([Tensor([1.0], True)], 1, nesterov=True), ValueError, "SGD: nesterov needs momentum > 0"),
        (
            lambda: optim.Adam([Tensor([1.0], True)], betas=(0.9, 1)),
            ValueError,
            r"Adam: betas\[1\] must be at least 0 and below 1, got 1",
        ),
        (lambda: optim.SGD([Tensor([1.0])], lr=1), GraphError, "SGD: parameter 0 must be a leaf Tensor that requires"),
        (lambda: optim.SGD([Tensor([1.0], True) * 2], lr=1), GraphError, "SGD: parameter 0 must be a leaf Tensor"),
    ],
)
def test_mistakes(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_clipping_without_an_error() -> None:
    """With error_if_nonfinite=False what is not finite stays so, for what checks the loss; the norm says it."""
    for values, expected in (([1.0, np.inf], [0, np.nan]), ([1.0, np.nan], [1, np.nan])):
        p = Tensor(np.ones(2), requires_grad=True)
        p.grad = Tensor(np.array(values))
        assert not np.isfinite(optim.clip_grad_norm([p], 2.0, error_if_nonfinite=False))
        np.testing.assert_array_equal(p.grad.numpy(), expected)


@pytest.mark.parametrize("case", sorted(CASES))
@given(
    rng=generators(),
    shapes=st.lists(st.sampled_from([(), (1,), (3,), (2, 5), (0,), (4, 3), (17,)]), min_size=1, max_size=5),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    steps=st.integers(1, 4),
    at=st.sampled_from([0, 3, thresholds.TOGETHER]),
)
def test_together_as_one_by_one(
    case: str, rng: np.random.Generator, shapes: list[tuple[int, ...]], dtype: str, steps: int, at: int
) -> None:
    """A single update of all parameters is bit for bit the update of each, whether some have no gradient now and then, or one
    of another dtype."""
    kind, options = CASES[case]
    values = [rng.normal(size=shape).astype(dtype) for shape in shapes]

    def gradient(shape: tuple[int, ...]) -> np.ndarray | None:
        g = rng.normal(size=shape).astype(dtype if rng.random() < 0.9 else "float64")
        if shape and rng.random() < 0.3:
            g[rng.random(shape[0]) < 0.5] = 0  # rows that `lazy` leaves out
        return None if rng.random() < 0.1 else g

    gradients = [[gradient(shape) for shape in shapes] for _ in range(steps)]

    def trained(threshold: int) -> list[np.ndarray]:
        params = [Tensor(value, requires_grad=True) for value in values]
        optimiser = getattr(optim, kind)(params, **options)
        optimiser._warned = True  # that some parameters have no gradient
        with lowered(TOGETHER=threshold):
            for step in gradients:
                for p, g in zip(params, step, strict=True):
                    p.grad = None if g is None else Tensor(g)
                optimiser.step()
        return [*(p._data.copy() for p in params), *(a.copy() for arrays in optimiser.state for a in arrays.values())]

    for found, expected in zip(trained(at), trained(-1), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_together_is_a_single_update_for_small_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = Block.run
    monkeypatch.setattr(Block, "run", lambda block, arrays, g, numbers: (runs.append(g.size), run(block, arrays, g, numbers)))
    n = thresholds.TOGETHER
    for sizes, expected in (((3, 4), [7]), ((3,), [3]), ((n, n), [2 * n]), ((n, n + 1), [n, n + 1])):
        params = [Tensor(np.ones(size), requires_grad=True) for size in sizes]
        for p in params:
            p.grad = Tensor(np.ones(p.shape))
        runs.clear()
        optim.SGD(params, lr=0.1).step()
        assert runs == expected
