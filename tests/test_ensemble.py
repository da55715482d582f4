"""nn.Ensemble: members are what they would be alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, func, nn, optim, train
from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F


def network(seed: int, dtype: Any = float) -> nn.Module:
    rng = np.random.default_rng(seed)
    first, last = nn.Linear(6, 5, rng=rng, dtype=dtype), nn.Linear(5, 3, rng=rng, dtype=dtype)
    return nn.Sequential(first, nn.Tanh(), nn.LayerNorm(5, dtype=dtype), last)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(9)
    return rng.normal(size=(32, 6)), rng.integers(0, 3, 32)


def losses(z: Tensor, y: Any) -> Tensor:
    return func.vmap(F.cross_entropy, (0, None))(z, y).sum()


def test_forward_and_members() -> None:
    modules = [network(seed) for seed in range(4)]
    ensemble = nn.Ensemble(modules)
    x, _ = data()
    z = ensemble(x)
    assert z.shape == (4, 32, 3)
    assert len(ensemble) == 4
    for i, module in enumerate(modules):
        np.testing.assert_allclose(z.numpy()[i], module(x).numpy(), rtol=1e-12, atol=1e-13)
        member = ensemble.member(i)
        for name, values in module.state_dict().items():
            np.testing.assert_array_equal(member.state_dict()[name], values)
        np.testing.assert_array_equal(member(x).numpy(), module(x).numpy())
    each = nn.Ensemble(modules, each=True)
    xs = np.stack([x * s for s in (1, 2, 3, 4)])
    np.testing.assert_allclose(each(xs).numpy()[2], modules[2](xs[2]).numpy(), rtol=1e-12, atol=1e-13)
    next(ensemble.member(0).parameters()).data[...] = 7  # a copy
    np.testing.assert_array_equal(ensemble.member(0)(x).numpy(), modules[0](x).numpy())


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.Adam(p, lr=0.01)])
@pytest.mark.parametrize("compile", [False, True])
def test_members_are_trained_as_alone(make: Any, compile: bool) -> None:
    """Up to the rounding of sums in another order."""
    x, y = data()
    ensemble = nn.Ensemble(network(seed) for seed in range(3))
    optimiser = make(ensemble.parameters())

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = losses(ensemble(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    run = tensorgrad.compile(step) if compile else step
    for _ in range(20):
        run(Tensor(x), Tensor(y))
    for seed in range(3):
        alone = network(seed)
        other = make(alone.parameters())
        for _ in range(20):
            other.zero_grad()
            F.cross_entropy(alone(x), y).backward()
            other.step()
        for name, values in ensemble.member(seed).state_dict().items():
            np.testing.assert_allclose(values, alone.state_dict()[name], rtol=1e-9, atol=1e-11)


def test_fit_trains_it() -> None:
    x, y = data()
    ensemble = nn.Ensemble(network(seed) for seed in range(3))
    history = train.fit(ensemble, losses, optim.Adam(ensemble.parameters(), lr=0.01), (x, y), epochs=30, progress=False)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert len({ensemble.member(i)(x).numpy().tobytes() for i in range(3)}) == 3
    copied = nn.Ensemble(network(seed) for seed in range(5, 8))
    copied.load_state_dict(ensemble.state_dict())
    np.testing.assert_array_equal(copied(x).numpy(), ensemble(x).numpy())


def test_it_is_a_function_of_its_parameters() -> None:
    """Those given are Tensors, not Parameters, and an ensemble puts others in their places once more."""
    x, y = data()
    ensemble = nn.Ensemble(network(seed) for seed in range(3))

    def loss(values: Any) -> Any:
        return losses(func.functional_call(ensemble, values, x), y)

    found = func.grad(loss)({name: p.detach() for name, p in ensemble.named_parameters()})
    losses(ensemble(x), y).backward()
    for name, parameter in ensemble.named_parameters():
        np.testing.assert_array_equal(found[name].data, parameter.grad.data)


def test_it_says_how_many_there_are_of_what() -> None:
    text = repr(nn.Ensemble(nn.Linear(4, 2) for _ in range(3)))
    assert "Ensemble(3 members)" in text
    assert "Linear(4, 2)" in text


def test_refusals() -> None:
    cases: list[tuple[Any, str]] = [
        (network(0), "expected several modules"),
        ([], "at least one module"),
        ([network(0), 3], "1 must be a Module"),
        ([network(0), nn.Linear(6, 3)], "module 1 has a different structure"),
        ([nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2))], "different structure"),
        ([nn.BatchNorm1d(3), nn.BatchNorm1d(3)], "buffers running_mean"),
        ([nn.ReLU()], "no parameters"),
    ]
    for modules, text in cases:
        with pytest.raises(ArgumentError, match=text):
            nn.Ensemble(modules)
    with pytest.raises(ArgumentError, match="member 2 is out of range for 2 members"):
        nn.Ensemble([network(0), network(1)]).member(2)
