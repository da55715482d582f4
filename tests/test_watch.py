"""Watch: statistics of a training that it does not change, and what they point to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, nn, optim, train
from tensorgrad.errors import ArgumentError, TrainingError
from tensorgrad.nn import functional as F
from tensorgrad.train import watch as module
from tensorgrad.train.findings import Finding, grouped
from tensorgrad.train.watch import Spread, Watch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class Called(nn.Module):
    """Activations that are called as functions, and random numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)
        self.rng = np.random.default_rng(3)
        self.noise = nn.Dropout(0.25)

    def forward(self, x: Any) -> Any:
        return self.b(self.noise(self.a(x).tanh().relu()))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)),
    "normalised": lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(8, 2)),
    "called": Called,
}


def trained(make: Callable[[], nn.Module], callbacks: list[Any], epochs: int = 3, lr: float = 0.01, **options: Any) -> Any:
    tensorgrad.manual_seed(0)
    model = make()
    adam = optim.Adam(model.parameters(), lr=lr)
    history = train.fit(model, F.cross_entropy, adam, (X, Y), epochs=epochs, callbacks=callbacks, progress=False, **options)
    state = [*model.state_dict().values(), *[np.asarray(a) for a in adam.state_dict()["state"] for a in a.values()]]
    return [a.tobytes() for a in state], history.columns["loss"], tensorgrad.rand(3).numpy().tobytes()


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_trained_is_bit_for_bit_what_would_be_without(name: str, compile: bool) -> None:
    """Parameters, buffers, the optimiser's state, losses, and the random numbers that come after."""
    watch = Watch(every=2, share=1.0)
    assert trained(MODELS[name], [watch], compile=compile) == trained(MODELS[name], [], compile=compile)
    assert [s.step for s in watch.samples] == [0, 2, 4, 6, 8]
    assert [s.epoch for s in watch.samples] == [1, 1, 2, 2, 3]


def test_statistics_are_those_of_the_arrays() -> None:
    """By hand, in NumPy: the layers' values, gradients and updates of a network without randomness."""
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    seen: list[dict[str, np.ndarray]] = []
    probe = (X[:7], Y[:7])
    watch = Watch(probe, every=1, share=1.0)

    class Keep(train.Callback):
        def on_start(self, run: train.Run) -> None:
            self.on_batch_end(run)

        def on_batch_end(self, run: train.Run) -> None:
            seen.append({name: p.numpy().astype(np.float64) for name, p in run.model.named_parameters()})

    train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.5), (X, Y), epochs=1, callbacks=[Keep(), watch],
              progress=False)  # fmt: skip
    assert len(watch.samples) == len(seen) == 4
    for k, (sample, w) in enumerate(zip(watch.samples, seen, strict=True)):
        z = X[:7] @ w["0.weight"] + w["0.bias"]
        h = np.maximum(z, 0)
        out = h @ w["2.weight"] + w["2.bias"]
        p = np.exp(out - out.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        d_out = (p - np.eye(2)[Y[:7]]) / 7
        d_h = d_out @ w["2.weight"].T
        d_z = d_h * (z > 0)
        assert sample.loss == pytest.approx(-np.log(p[np.arange(7), Y[:7]]).mean(), rel=1e-6)
        assert list(sample.layers) == ["0 linear", "1 relu", "2 linear"]
        for layer, value, gradient in zip(sample.layers.values(), (z, h, out), (d_z, d_h, d_out), strict=True):
            for found, expected in ((layer.value, value), (layer.gradient, gradient)):
                assert found is not None
                assert found.mean == pytest.approx(expected.mean(), rel=1e-5, abs=1e-7)
                assert found.std == pytest.approx(expected.std(), rel=1e-5)
                assert found.rms == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-5)
                assert found.largest == pytest.approx(np.abs(expected).max(), rel=1e-5)
        assert sample.layers["1 relu"].value.zeros == pytest.approx((h == 0).mean())
        assert sample.layers["1 relu"].dead == pytest.approx((h == 0).all(axis=0).mean())
        expected = X[:7].T @ d_z
        assert sample.weights["0.weight"].gradient.rms == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-5)  # type: ignore[union-attr]
        if k + 1 < len(seen):
            change = seen[k + 1]["0.weight"] - w["0.weight"]
            size = np.sqrt((w["0.weight"] ** 2).mean())
            assert sample.weights["0.weight"].ratio == pytest.approx(np.sqrt((change**2).mean()) / size, rel=1e-4)
        else:
            assert math.isnan(sample.weights["0.weight"].ratio)


@given(st.lists(st.floats(width=32) | st.sampled_from([0.0, np.nan, np.inf, 1e30, 1e-40]), min_size=1, max_size=30))
@example([-np.inf, np.inf])
def test_spread_of_any_numbers(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    found, finite = Spread.of(array), array[np.isfinite(array)].astype(np.float64)
    assert found.bad == array.size - finite.size
    if finite.size:
        assert found.largest == np.abs(finite).max()
        assert found.zeros == pytest.approx((finite == 0).mean())
        assert found.rms == pytest.approx(np.sqrt((finite**2).mean()), rel=1e-9)


def test_a_healthy_network_gives_no_findings() -> None:
    watch = Watch(every=2, share=1.0)
    trained(lambda: nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 2)), [watch])
    assert watch.findings() == []
    assert str(watch).endswith("nothing stands out")
    assert "0 linear" in str(watch)


class Batches:
    """What is no DataLoader, but gives batches."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([(X[:8], Y[:8])] * 3)


class Broken(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.last = nn.Linear(5, 10), nn.Linear(10, 2)
        if kind == "dead":
            self.first.bias.data[:4] = -100
        if kind == "saturated":
            self.first.weight.data[...] *= 1000

    def forward(self, x: Any) -> Any:
        h = self.first(x)
        if self.kind == "dead":
            h = h.relu()
        if self.kind == "saturated":
            h = h.tanh()
        if self.kind == "vanishing":
            h = h * 1e-6 + h.detach()
        if self.kind == "exploding":
            h = h * 1e6 - h.detach() * 1e6
        if self.kind == "infinite":
            h = (h * 100).exp()
        return self.last(h)


@pytest.mark.parametrize(
    ("kind", "lr", "expected"),
    [
        ("dead", 0.01, r"relu \(test_watch.py:\d+\): 40% of its units are 0 for every sample of the probe: dead"),
        ("saturated", 1e-4, r"tanh \(test_watch.py:\d+\): \d+% of its units are saturated"),
        ("vanishing", 0.01, r"first.weight: its gradient is .* times smaller than the last ones: it vanishes on the way"),
        ("exploding", 1e-9, r"first.weight: its gradient is .* times larger than the last ones: it explodes on the way"),
        ("infinite", 0.01, r"values are not finite at step 0 \(epoch 1\), the first in the model"),
        ("fast", 3.0, r"weight: a step changes it by \d+% of its size: the learning rate is high for it"),
        ("slow", 1e-12, r"weight: a step changes it by .* of its size: it hardly moves"),
    ],
)
def test_what_is_wrong_is_said_in_words(kind: str, lr: float, expected: str) -> None:
    watch = Watch(every=1, share=1.0)
    with np.errstate(all="ignore"):
        try:
            trained(lambda: Broken(kind), [watch], epochs=1, lr=lr, compile=False)
        except TrainingError:  # the loss is no number; what was seen until then is there
            assert kind == "infinite"
        watch.samples = watch.samples[:2]
    assert re.search(expected, "\n".join(watch.findings())), watch.findings()
    assert re.search(expected.rpartition(": ")[2], str(watch))  # there one line for neighbours


@pytest.mark.parametrize("share", [0.02, 0.05, 0.5])
def test_no_more_than_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """By a clock that a sample takes 10 s of, and a step 1 s."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    watch = Watch(every=1, share=share)
    take = watch.sample

    def slow(run: train.Run) -> Any:
        now[0] += 10
        return take(run)

    monkeypatch.setattr(watch, "sample", slow)

    class Tick(train.Callback):
        def on_batch_end(self, run: train.Run) -> None:
            now[0] += 1

    trained(MODELS["plain"], [Tick(), watch], epochs=200)
    assert len(watch.samples) > 1
    assert 10 * (len(watch.samples) - 1) <= share * now[0]


def test_more_trainings_and_more_kinds_of_data() -> None:
    watch = Watch(every=1, share=1.0)
    trained(MODELS["plain"], [watch], epochs=1)
    first = len(watch.samples)
    trained(MODELS["plain"], [watch], epochs=1)
    assert len(watch.samples) == first  # a new training, not the old one gone on
    scipy = pytest.importorskip("scipy.sparse", reason="needs SciPy: pip install scipy")
    model = MODELS["plain"]()
    sparse = Watch(share=1.0)
    train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), (scipy.csr_matrix(X), Y), epochs=1,
              callbacks=[sparse], progress=False)  # fmt: skip
    assert len(sparse.samples) == 1
    probed = Watch((Tensor(X[:3]), Y[:3]), share=1.0)
    batches = Batches()
    train.fit(
        model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), batches, epochs=1, callbacks=[probed], progress=False
    )
    assert len(probed.samples) == 1
    assert str(Watch()) == "Watch: no sample yet"
    assert Watch().findings() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probe": X}, "Watch: probe must be a pair (x, y), got ndarray"),
        ({"every": 0}, "Watch: every must be a positive integer, got 0"),
        ({"every": True}, "Watch: every must be a positive integer, got True"),
        ({"every": 1.5}, "Watch: every must be a positive integer, got 1.5"),
        ({"share": 0}, "Watch: share must be in (0, 1], got 0"),
        ({"share": 2}, "Watch: share must be in (0, 1], got 2"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        Watch(**arguments)


def test_data_that_are_no_loader() -> None:
    model = MODELS["plain"]()
    sgd = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ArgumentError, match=re.escape("Watch: the data are not a DataLoader; pass probe=(x, y)")):
        train.fit(model, F.cross_entropy, sgd, Batches(), epochs=1, callbacks=[Watch()], progress=False)


def test_a_training_that_is_resumed_counts_its_steps_on(tmp_path: Path) -> None:
    x, y = np.ones((40, 3), np.float32), np.arange(40) % 2
    loader = tensorgrad.data.DataLoader(x, y, batch_size=10)

    def trained(epochs: int, watch: Watch, resume: bool) -> list[int]:
        model = nn.Sequential(nn.Linear(3, 2))
        train.fit(
            model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), loader, epochs, callbacks=[watch],
            checkpoint=tmp_path / "c.npz", resume=resume, compile=False,
        )  # fmt: skip
        return [sample.step for sample in watch.samples]

    first = Watch(every=2, share=1.0)
    assert trained(2, first, False)[-1] <= 8
    assert trained(3, Watch(every=2, share=1.0), True)[0] == 8
    again = trained(4, first, True)
    assert again == sorted(set(again))
    assert 12 in again


@pytest.mark.parametrize("depth", [3, 30])
def test_what_is_to_be_said_of_neighbours_is_one_line(depth: int) -> None:
    found = [Finding(f"{i}.weight", f"its gradient is {10.0**-i:.0e} times smaller") for i in range(depth)]
    other = Finding("last.weight", "a step changes it by 12% of its size")
    lines = grouped([*found, other, found[0]])
    assert lines[0][0] == f"0.weight … {depth - 1}.weight ({depth}): its gradient is 1e-{depth - 1:02d} … 1e+00 times smaller"
    assert lines[0][1] == [str(one) for one in found]
    assert lines[1:] == [(str(other), []), (str(found[0]), [])]
    assert grouped(found[:2]) == [(str(one), []) for one in found[:2]]
