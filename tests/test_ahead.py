"""Batches that are run together in one call of machine code: bit for bit what they give one by one, whatever is asked for.

Seen to fail when a batch is left out, gathered one sample late or with the numbers of another step, when a result is that of
the batch before, and when negligible numbers are set to 0 a step too late.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.compiler import repeats
from tensorgrad.compiler.plan import Plan
from tensorgrad.compiler.repeats import Repeats
from tensorgrad.errors import LabelError, TrainingError
from tensorgrad.kernels import native, threads
from tensorgrad.nn import functional as F
from tensorgrad.train import ahead
from tests.compiled import NEEDS_NUMBA, kernels, lowered, num_threads

pytestmark = [
    NEEDS_NUMBA,
    pytest.mark.skipif(not threads.controls_blas(), reason="needs threadpoolctl: pip install threadpoolctl"),
    pytest.mark.skipif(native.machine() is None, reason="needs machine code: Linux on x86-64"),
]
OPTIMISERS: dict[str, Callable[[Any], optim.Optimiser]] = {
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01),
}


@pytest.fixture(autouse=True, scope="module")
def with_numba() -> Iterator[None]:
    with kernels(numba=True):
        yield


@contextmanager
def counted(together: bool = True) -> Iterator[list[int]]:
    """How many batches have been run together, call by call; none if they are not to be."""
    found: list[int] = []
    usual = Repeats.__call__

    def call(self: Repeats, *args: Any) -> Any:
        result = usual(self, *args)
        found.append(result[0])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repeats, "__call__", call)
        patch.setattr(ahead, "FIRST", 3 if together else 1)
        patch.setattr(ahead, "SECONDS", 10.0)
        yield found


def network(dtype: str = "float32", inputs: int = 6) -> nn.Module:
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Linear(inputs, 9, rng=rng, dtype=dtype), nn.ReLU(), nn.Linear(9, 4, rng=rng, dtype=dtype))


def samples(m: int, inputs: int = 6, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(m, inputs)).astype(dtype), rng.integers(0, 4, m)


def state_of(model: nn.Module, optimiser: optim.Optimiser) -> list[np.ndarray]:
    arrays = [p.numpy().copy() for p in model.parameters()]
    return arrays + [array.copy() for of in optimiser.state_dict()["state"] for array in of.values()]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def without_seconds(history: train.History) -> dict[str, list[Any]]:
    return {name: column for name, column in history.columns.items() if name != "seconds"}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@settings(max_examples=8, deadline=None)
@given(
    m=st.integers(1, 200),
    batch_size=st.integers(1, 20),
    drop_last=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    optimiser=st.sampled_from(list(OPTIMISERS)),
    options=st.fixed_dictionaries(
        {
            "weights": st.booleans(),
            "metrics": st.booleans(),
            "l2": st.sampled_from([0.0, 0.1]),
            "clip_norm": st.sampled_from([None, 0.5]),
            "validation": st.booleans(),
        }
    ),
    seed=st.integers(0, 5),
)
def test_to_the_last_bit(
    m: int,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
    dtype: str,
    optimiser: str,
    options: Mapping[str, Any],
    count: int,
    seed: int,
) -> None:
    x, y = samples(m, dtype=dtype)
    weights = [np.random.default_rng(2).random(m)] if options["weights"] else []
    found = []
    for together in (False, True):
        model = network(dtype)
        steps = OPTIMISERS[optimiser](model.parameters())
        size = min(batch_size, m)
        loader = data.DataLoader(x, y, *weights, batch_size=size, shuffle=shuffle, drop_last=drop_last, rng=seed)
        with counted(together), num_threads(count), lowered(SHARED_FLOPS=0, SHARED_PRODUCT=0, SHARED_GATHER=0):
            history = train.fit(
                model,
                F.cross_entropy,
                steps,
                loader,
                3,
                metrics=[train.metrics.accuracy] if options["metrics"] else None,
                validation=(x[:5], y[:5]) if options["validation"] else None,
                l2=options["l2"],
                clip_norm=options["clip_norm"],
            )
        found.append((without_seconds(history), state_of(model, steps), steps.steps, loader.state_dict()))
    (one_by_one, state, steps_made, place), (joined, other_state, other_steps, other_place) = found
    assert one_by_one == joined
    same(state, other_state)
    assert steps_made == other_steps
    np.testing.assert_equal(place, other_place)


@pytest.mark.parametrize("shuffle", [True, False])
def test_most_batches_are_run_together(shuffle: bool) -> None:
    """Otherwise the test above might test nothing: the first of all, and a smaller last one, are not."""
    x, y = samples(1003)
    model = network()
    with counted() as calls:
        train.fit(
            model, F.cross_entropy, optim.Adam(model.parameters()), data.DataLoader(x, y, batch_size=10, shuffle=shuffle), 2
        )
    assert sum(calls) == 100 + 99
    assert max(calls) == optim.optimiser.FLUSH


@pytest.mark.parametrize("shuffle", [True, False])
def test_with_the_thresholds_as_they_are(shuffle: bool) -> None:
    """Samples, products and the update large enough for threads to share them."""
    x, y = samples(1000, 100)
    found = []
    for together in (False, True):
        model = nn.Sequential(
            nn.Linear(100, 90, rng=np.random.default_rng(0)), nn.ReLU(), nn.Linear(90, 4, rng=np.random.default_rng(1))
        )
        steps = optim.Adam(model.parameters(), lr=0.01)
        loader = data.DataLoader(x, y, batch_size=200, shuffle=shuffle, rng=0)
        usual, teams = Repeats.__init__, list[int]()

        def made(self: Repeats, plan: Plan, *args: Any, usual: Any = usual, teams: list[int] = teams) -> None:
            teams.append(plan.team)
            usual(self, plan, *args)

        with counted(together) as calls, num_threads(2), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Repeats, "__init__", made)
            train.fit(model, F.cross_entropy, steps, loader, 3)
        found.append(state_of(model, steps))
    assert teams == [2]
    assert sum(calls) == 14
    same(*found)


def test_large_results_are_kept_for_few_batches_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With metrics every prediction is a result."""
    x, y = samples(400)
    found = []
    for room in (repeats.RESULT_BYTES, 500):  # three predictions of 10 by 4, with their losses
        monkeypatch.setattr(repeats, "RESULT_BYTES", room)
        model = network()
        steps = optim.SGD(model.parameters(), 0.1)
        loader = data.DataLoader(x, y, batch_size=10)
        with counted() as calls:
            history = train.fit(model, F.cross_entropy, steps, loader, 1, metrics=[train.metrics.accuracy])
        found.append((state_of(model, steps), without_seconds(history)))
        assert sum(calls) == 39
    assert max(calls) == 3
    same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_arrays_that_can_be_read_after_some_that_cannot() -> None:
    """Another epoch, other arrays: what machine code could not do once it is asked again."""
    x, y = samples(100)
    model = network()
    loader = data.DataLoader(np.asfortranarray(x), y, batch_size=10)

    def change(run: train.Run) -> None:
        loader.arrays = (x, y)

    with counted() as calls:
        train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), 0.1), loader, 2, callbacks=[change])
    assert sum(calls) == 10


ODD: dict[str, Callable[[np.ndarray], Any]] = {
    "columns": np.asfortranarray,
    "reversed": lambda x: x[::-1],
    "every other": lambda x: np.repeat(x, 2, 0)[::2],
    "some columns": lambda x: np.repeat(x, 2, 1)[:, :6],
    "integers": lambda x: (x * 10).astype(int),
    "booleans": lambda x: x > 0,
    "Tensor": lambda x: Tensor(x),
    "list": lambda x: x.tolist(),
    "float16": lambda x: x.astype("float16"),
    "another byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ODD)
def test_odd_arrays(kind: str, shuffle: bool) -> None:
    x, y = samples(61)
    found = []
    for together in (False, True):
        model = network()
        steps = optim.SGD(model.parameters(), 0.1)
        loader = data.DataLoader(ODD[kind](x), y, batch_size=4, shuffle=shuffle, rng=0)
        loss = lambda z, t: F.cross_entropy(z, t)  # noqa: E731
        with counted(together) as calls:
            train.fit(Rounded(model), loss, steps, loader, 2)
        found.append(state_of(model, steps))
    same(*found)
    rows = ("every other", "some columns") if shuffle else ()  # each in one piece, with others in between
    assert bool(calls) == (kind in ("Tensor", "list", *rows))


class Rounded(nn.Module):
    """Takes numbers of any kind."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.astype(np.float32))


def test_a_label_that_is_no_class_in_a_later_batch() -> None:
    """The batches before it count, its own does not; the error says where it was."""
    x, y = samples(100)
    y[57] = 4
    found = []
    for together in (False, True):
        model = network()
        steps = optim.Adam(model.parameters(), lr=0.01)
        with counted(together), pytest.raises(LabelError, match="label 4 is out of range") as caught:
            train.fit(model, F.cross_entropy, steps, loader := data.DataLoader(x, y, batch_size=10), 1)
        assert "train.fit: in epoch 1, batch 6 of 10" in caught.value.__notes__
        assert loader.state_dict()["position"] == 6
        assert steps.steps == 5
        found.append(state_of(model, steps))
    same(*found)


@pytest.mark.parametrize("at", [3, 95])
def test_floating_point_errors(at: int) -> None:
    """As NumPy's settings say: the batches before count, and with warnings all of them do."""
    x, y = samples(100)
    x[at] = np.inf
    found = []
    for together in (False, True):
        model = network()
        steps = optim.SGD(model.parameters(), 1e-3)
        loader = data.DataLoader(x, y, batch_size=10)
        with counted(together), np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
            train.fit(model, F.cross_entropy, steps, loader, 1)
        assert steps.steps == at // 10
        with counted(together), np.errstate(all="ignore"), pytest.raises(TrainingError) as caught:
            train.fit(model, F.cross_entropy, steps, loader, 1)
        found.append((state_of(model, steps), str(caught.value)))
    same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_after_a_warning_the_others_follow(shuffle: bool) -> None:
    """An overflow in one sample, which the ReLU makes a 0 of."""
    x, y = samples(200)
    x[95] = -3e38
    found = []
    for together in (False, True):
        model = network()
        model[0].weight.data[...] = abs(model[0].weight.data) + 1
        steps = optim.SGD(model.parameters(), 1e-3)
        loader = data.DataLoader(x, y, batch_size=10, shuffle=shuffle, rng=0)
        with counted(together) as calls, pytest.warns(RuntimeWarning, match="overflow encountered in matmul"):
            train.fit(model, F.cross_entropy, steps, loader, 2)
        assert sum(calls) == (39 if together else 0)
        found.append(state_of(model, steps))
    same(*found)


def test_negligible_numbers_are_set_to_0_when_they_are_due() -> None:
    x, y = samples(400)
    x[:, 0] = 0
    found = []
    for together in (False, True):
        model = network()
        model[0].weight.data[0] = 1e-33
        steps = optim.Adam(model.parameters(), 1e-3)
        with counted(together):
            train.fit(model, F.cross_entropy, steps, data.DataLoader(x, y, batch_size=10), 1)
        assert not model[0].weight.data[0].any()
        found.append(state_of(model, steps))
    same(*found)


def test_ctrl_c_between_two_calls(tmp_path: Path) -> None:
    """Ends after the batches that are run together; resumed, it is as if nothing had been."""
    x, y = samples(2000)

    def trained(epochs: int, **options: Any) -> tuple[list[np.ndarray], train.History]:
        model = network()
        steps = optim.Adam(model.parameters(), lr=0.01)
        loader = data.DataLoader(x, y, batch_size=10, shuffle=True, rng=0)
        history = train.fit(model, F.cross_entropy, steps, loader, epochs, **options)
        return state_of(model, steps), history

    usual, times = Repeats.__call__, []

    def call(self: Repeats, *args: Any) -> Any:
        times.append(0)
        if len(times) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(self, *args)

    path = tmp_path / "a.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repeats, "__call__", call)
        _, history = trained(2, checkpoint=path)
    assert history.interrupted
    assert len(times) == 4
    resumed, history = trained(2, checkpoint=path, resume=True)
    uninterrupted, expected = trained(2)
    same(resumed, uninterrupted)
    assert without_seconds(history) == without_seconds(expected)


class Watcher(train.Callback):
    def __init__(self) -> None:
        self.batches: list[int] = []

    def on_batch_end(self, run: train.Run) -> None:
        self.batches.append(run.batch)


def test_whatever_comes_after_each_batch_does() -> None:
    """Callbacks and schedules per batch are called as ever."""
    x, y = samples(100)
    for per_batch in ("callback", "schedule"):
        model = network()
        steps = optim.SGD(model.parameters(), 0.1)
        watcher = Watcher()
        schedule = optim.Warmup(steps, 10, per="batch") if per_batch == "schedule" else None
        callbacks = [watcher] if per_batch == "callback" else []
        with counted() as calls:
            train.fit(model, F.cross_entropy, steps, (x, y), 2, callbacks=callbacks, schedule=schedule)
        assert calls == []
        assert watcher.batches == ([*range(1, 5)] * 2 if per_batch == "callback" else [])


class Own(optim.SGD):
    """A rate of its own, which might depend on anything."""

    def numbers(self, group: Any, t: int) -> dict[str, float]:
        return {**super().numbers(group, t), "lr": 0.1 / t}


class Backwards(data.DataLoader):
    """Batches in another order than DataLoader's."""

    def _batches(self, epoch: Any) -> Iterator[Any]:
        yield from reversed(list(super()._batches(epoch)))


def test_what_others_have_defined_is_asked_for_each_batch() -> None:
    x, y = samples(100)
    for kind, of in (("optimiser", Own), ("loader", optim.SGD)):
        found = []
        for together in (False, True):
            model = network()
            steps = of(model.parameters(), 0.1)
            loader = (data.DataLoader if kind == "optimiser" else Backwards)(x, y, batch_size=5)
            with counted(together) as calls:
                train.fit(model, F.cross_entropy, steps, loader, 2)
            assert not any(calls)
            found.append(state_of(model, steps))
        same(*found)


class Order(data.DataLoader):
    """Another order of the samples, as it may be."""

    def __init__(self, *arrays: Any, order: Any, **options: Any) -> None:
        super().__init__(*arrays, shuffle=True, rng=0, **options)
        self.order = order

    def next_order(self) -> Any:
        return self.order


@pytest.mark.parametrize("last", [99, 100, -1])
def test_indices_that_are_no_samples_are_not_read_by_machine_code(last: int) -> None:
    x, y = samples(100)
    order = np.arange(100)
    order[60] = last
    found = []
    for together in (False, True):
        model = network()
        steps = optim.SGD(model.parameters(), 0.1)
        with counted(together) as calls:
            train.fit(model, F.cross_entropy, steps, Order(x, y, order=order, batch_size=10), 1)
        assert bool(calls) == (together and last == 99)
        found.append(state_of(model, steps))
    same(*found)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kind", ["length", "order", "arrays", "one array"])
def test_no_sample_is_read_that_is_not_there(kind: str, shuffle: bool) -> None:
    """Subclasses give fewer batches than the arrays have, or fewer indices; the arrays are replaced by shorter ones."""
    x, y = samples(5000)

    class Fewer(data.DataLoader):
        def __len__(self) -> int:
            return min(super().__len__(), 7) if kind == "length" else super().__len__()

        def next_order(self) -> Any:
            order = super().next_order()
            return order[:73] if kind == "order" and order is not None else order

    found = []
    for together in (False, True):
        model = network()
        steps = optim.SGD(model.parameters(), 0.1)
        loader = Fewer(x, y, batch_size=10, shuffle=shuffle, rng=0)

        def shorten(run: train.Run, loader: Any = loader) -> None:
            if kind in ("arrays", "one array"):
                loader.arrays = (x[:83].copy(), y[:83].copy() if kind == "arrays" else y)

        with counted(together) as calls, np.errstate(all="ignore"):
            try:
                history = without_seconds(train.fit(model, F.cross_entropy, steps, loader, 2, callbacks=[shorten]))
            except ValueError as error:  # samples without labels
                assert (kind, shuffle) == ("one array", False)
                history = {"error": [str(error)]}
        assert bool(calls) is together
        found.append((history, state_of(model, steps), steps.steps))
    assert found[0][0] == found[1][0]
    same(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_what_is_raised_before_the_first_batch_counts_none() -> None:
    """As a second Ctrl-C may be, or a signal's handler."""
    x, y = samples(100)
    found = []
    for together in (False, True):
        model = network()
        steps = optim.Adam(model.parameters(), 0.1)
        loader = data.DataLoader(x, y, batch_size=10)
        usual, times = Plan.with_steady_threads, []

        def replayed(self: Plan, *args: Any, usual: Any = usual, times: list[int] = times) -> Any:
            times.append(0)
            if len(times) == 3:  # the first was for verification
                raise KeyboardInterrupt
            return usual(self, *args)

        with counted(together), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Plan, "with_steady_threads", replayed)
            with pytest.raises(KeyboardInterrupt):
                train.fit(model, F.cross_entropy, steps, loader, 1)
        assert steps.steps == 1
        assert loader.state_dict()["position"] == 2
        found.append(state_of(model, steps))
    same(*found)


class Clock:
    """Moves on by a little each time that somebody looks."""

    now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-4
        return self.now


@pytest.mark.parametrize("slow", [1, 2, 4])
def test_a_busy_moment_does_not_end_it(slow: int) -> None:
    x, y = samples(2000)
    model = network()
    clock, usual, calls = Clock(), Repeats.__call__, list[int]()

    def call(self: Repeats, *args: Any) -> Any:
        result = usual(self, *args)
        calls.append(result[0])
        clock.now += 1.0 if len(calls) == slow else 1e-5 * result[0]
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repeats, "__call__", call)
        patch.setattr(ahead, "time", clock)
        train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), 0.1), data.DataLoader(x, y, batch_size=10), 2)
    assert max(calls) == optim.optimiser.FLUSH
    assert sum(calls) > 390


def test_slow_batches_are_run_one_by_one() -> None:
    x, y = samples(100)
    model = network()
    clock, usual, calls = Clock(), Repeats.__call__, list[int]()

    def call(self: Repeats, *args: Any) -> Any:
        result = usual(self, *args)
        calls.append(result[0])
        clock.now += 0.02 * result[0]
        return result

    def replayed(self: Plan, *args: Any, usual: Any = Plan.with_steady_threads) -> Any:
        clock.now += 0.02
        return usual(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repeats, "__call__", call)
        patch.setattr(Plan, "with_steady_threads", replayed)
        patch.setattr(ahead, "time", clock)
        patch.setattr(ahead, "SECONDS", 0.015)
        train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), 0.1), data.DataLoader(x, y, batch_size=2), 2)
    assert calls[:1] == [ahead.FIRST]
    assert len(calls) == 1


def test_arrays_that_change_between_epochs() -> None:
    """Written to, and replaced."""
    x, y = samples(100)
    found = []
    for together in (False, True):
        model = network()
        steps = optim.SGD(model.parameters(), 0.1)
        loader = data.DataLoader(x.copy(), y.copy(), batch_size=10, shuffle=True, rng=0)

        def change(run: train.Run, loader: Any = loader) -> None:
            if run.epoch % 2:
                loader.arrays[0][:] *= 0.9
            else:
                loader.arrays = (loader.arrays[0] + 1, loader.arrays[1])

        with counted(together):
            train.fit(model, F.cross_entropy, steps, loader, 5, callbacks=[change])
        found.append(state_of(model, steps))
    same(*found)


def test_settings_that_change_between_epochs() -> None:
    x, y = samples(100)
    found = []
    for together in (False, True):
        model = network()
        steps = optim.AdamW(model.parameters(), 0.1)

        def change(run: train.Run, steps: Any = steps, model: Any = model) -> None:
            steps.lr *= 0.5
            steps.settings["weight_decay"] = 0.1 * run.epoch
            if run.epoch == 3:
                model[2].bias.data = np.ones(4, "f")

        with counted(together):
            train.fit(model, F.cross_entropy, steps, data.DataLoader(x, y, batch_size=10), 5, callbacks=[change])
        found.append(state_of(model, steps))
    same(*found)
