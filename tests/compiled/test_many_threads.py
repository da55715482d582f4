"""Steps of several threads at once: the generators of the process are shared, and a trial of a plan sets them."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import nn, optim
from tensorgrad.errors import CompileError
from tensorgrad.nn import functional as F


def training(seed: int) -> tuple[nn.Module, Callable[[Any, Any], Any]]:
    rng = np.random.default_rng(seed)
    net = nn.Sequential(nn.Linear(5, 7, rng=rng), nn.Dropout(0.3, rng=rng), nn.Tanh(), nn.Linear(7, 3, rng=rng))
    optimiser = optim.Adam(net.parameters(), 0.01)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return net, tg.compile(step)


def trained(seed: int) -> list[bytes]:
    net, step = training(seed)
    rng = np.random.default_rng(seed)
    for _ in range(6):
        step(rng.normal(size=(9, 5)).astype("f4"), rng.integers(0, 3, 9))
    return [a.tobytes() for a in net.state_dict().values()]


def test_each_compiles_its_own_at_once() -> None:
    """All begin together: the bits of each alone."""
    alone = [trained(seed) for seed in range(8)]
    found: dict[int, Any] = {}
    gate = threading.Barrier(8)

    def work(seed: int) -> None:
        try:
            gate.wait(60)
            found[seed] = [trained(seed) for _ in range(3)]
        except Exception as error:
            found[seed] = error

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert found == {seed: [one] * 3 for seed, one in enumerate(alone)}


@pytest.fixture
def idle() -> Iterator[None]:
    """Another thread, which does nothing."""
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    yield
    end.set()
    other.join()


@pytest.mark.parametrize("draw", [random.random, np.random.random], ids=["random", "np.random"])
def test_another_thread_draws_during_a_trial(draw: Callable[[], float], idle: None) -> None:
    """Once is chance; each time is the step's own doing."""

    def drawing(times: int) -> Any:
        runs = itertools.count(1)

        def step(x: Any) -> Any:
            if 1 < next(runs) <= times:
                draw()
            return x * 2

        return step

    step = tg.compile(drawing(2))
    x = np.ones((3, 4))
    for _ in range(4):
        np.testing.assert_array_equal(step(x).data, 2.0)
    assert step.why_not == ""
    step = tg.compile(drawing(100))
    step(x)
    with pytest.raises(CompileError, match=r"draws random numbers from (np\.)?random by code that is not recorded"):
        step(x)
