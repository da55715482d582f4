"""What callbacks hear of batches, and methods that would never be called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorgrad import nn, no_grad, optim, train
from tensorgrad.data import DataLoader
from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F


def setting() -> tuple[nn.Module, optim.SGD, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    model = nn.Linear(3, 2, rng=rng, dtype=float)
    return model, optim.SGD(model.parameters(), lr=0.1), (rng.normal(size=(80, 3)), rng.normal(size=(80, 2)))


class Watch(train.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.losses: list[float] = []
        self.weights: list[np.ndarray] = []

    def on_batch_end(self, run: train.Run) -> None:
        self.seen.append((run.epoch, run.batch))
        self.losses.append(run.batch_loss)
        self.weights.append(next(run.model.parameters()).numpy().copy())

    def on_epoch_end(self, run: train.Run) -> None:
        assert run.batch == 0
        assert np.isnan(run.batch_loss)


@pytest.mark.parametrize("compile", [False, True])
def test_after_each_batch(compile: bool) -> None:
    """By then the step is made; the losses are those whose mean is the epoch's."""
    model, optimiser, data = setting()
    watch = Watch()
    history = train.fit(model, F.mse_loss, optimiser, data, 2, callbacks=[watch], compile=compile, progress=False)
    assert watch.seen == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]  # 32, 32 and 16
    means = [np.average(watch.losses[i : i + 3], weights=[32, 32, 16]) for i in (0, 3)]
    np.testing.assert_allclose(means, history["loss"], rtol=1e-6)
    assert len({w.tobytes() for w in watch.weights}) == 6
    np.testing.assert_array_equal(watch.weights[-1], next(model.parameters()).numpy())


@pytest.mark.parametrize("compile", [False, True])
def test_a_rate_and_an_average_for_each_batch(compile: bool) -> None:
    """A rule of one's own for the rate is a schedule by batches; a running mean of the weights."""

    class Rule(train.Callback):
        def on_start(self, run: train.Run) -> None:
            self.mean = [p.numpy().copy() for p in run.model.parameters()]

        def on_batch_end(self, run: train.Run) -> None:
            run.optimiser.lr *= 0.9
            with no_grad():
                self.mean = [0.5 * m + 0.5 * p.numpy() for m, p in zip(self.mean, run.model.parameters(), strict=True)]

    found = []
    for by_rule in (True, False):
        model, optimiser, data = setting()
        schedule = None if by_rule else optim.ExponentialLR(optimiser, 0.9, per="batch")
        callbacks: list[Any] = [Rule()] if by_rule else []
        order = DataLoader(*data, batch_size=16)
        train.fit(
            model, F.mse_loss, optimiser, order, 3, callbacks=callbacks, schedule=schedule, compile=compile, progress=False
        )
        found.append((optimiser.lr, model.state_dict()))
        if by_rule:
            assert not np.array_equal(callbacks[0].mean[0], next(model.parameters()).numpy())
    assert found[0][0] == pytest.approx(0.1 * 0.9**15)
    for name, values in found[0][1].items():
        np.testing.assert_allclose(values, found[1][1][name], rtol=1e-12)


def test_stopping_in_a_batch_ends_the_epoch_first() -> None:
    class Stop(Watch):
        def on_batch_end(self, run: train.Run) -> None:
            super().on_batch_end(run)
            if run.batch == 2:
                raise train.StopTraining("enough")

    model, optimiser, data = setting()
    stop = Stop()
    history = train.fit(model, F.mse_loss, optimiser, data, 5, callbacks=[stop], compile=False, progress=False)
    assert len(stop.seen) == 3
    assert history.stopped == "enough"


def test_a_resumed_training_calls_on(tmp_path: Path) -> None:
    first, second = Watch(), Watch()
    model, optimiser, data = setting()
    file = tmp_path / "run.npz"
    train.fit(model, F.mse_loss, optimiser, data, 1, callbacks=[first], checkpoint=file, compile=False, progress=False)
    train.fit(model, F.mse_loss, optimiser, data, 2, callbacks=[second], resume=file, compile=False, progress=False)
    assert second.seen == [(1, 1), (1, 2), (1, 3)]


def test_methods_that_would_never_be_called() -> None:
    with pytest.raises(ArgumentError, match=r"Wrong.on_batch_start would never be called: the hooks are .*on_batch_end"):

        class Wrong(train.Callback):
            def on_batch_start(self, run: train.Run) -> None: ...

    class Mixin:
        def on_train_end(self) -> None: ...

    with pytest.raises(ArgumentError, match="on_train_end"):
        type("Mixed", (Mixin, train.Callback), {})
    type("Fine", (train.Callback,), {"on_disk": 3, "only": lambda self: None})
