"""Training: against loops written out in NumPy, compiled against as it is written, and all that goes on around the steps."""

from __future__ import annotations

import csv
import io
import itertools
import json
import signal
import sys
import threading
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorgrad.models import handwritten

import tensorgrad
from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.errors import (
    CheckpointError,
    CompileError,
    DataError,
    DTypeError,
    LabelError,
    MissingDependencyError,
    ShapeError,
    TrainingError,
)
from tensorgrad.nn import functional as F
from tensorgrad.train import metrics
from tests.strategies import generators
from tests.training import Training

WIDTHS = (5, 8, 3)


def problem(n: int = 90, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, n)
    return (rng.normal(size=(n, 5)) + 2 * np.eye(5)[y]).astype(dtype), y


def network(hidden: Callable[[], nn.Module] = nn.ReLU, dtype: Any = np.float64, dropout: float = 0.0) -> nn.Sequential:
    rng = np.random.default_rng(7)
    parts: list[nn.Module] = []
    for n, m in pairwise(WIDTHS):
        parts += [nn.Linear(n, m, weight_init=nn.init.normal(0.5), rng=rng, dtype=dtype), hidden(), nn.Dropout(dropout)]
    return nn.Sequential(*parts[:-2])


def layers_of(model: nn.Module) -> handwritten.Layers:
    values = list(model.state_dict().values())
    return list(zip(values[::2], values[1::2], strict=True))


# Against loops by hand


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize(("hidden", "start_rate"), [("relu", 0.3), ("sigmoid", 3.0)])
def test_equals_a_loop_by_hand(compile: bool, hidden: str, start_rate: float) -> None:
    """Momentum, L2, a schedule that goes by the cost, shuffled batches of which the last is smaller."""
    x, y = problem()
    hot, l2, size, epochs = handwritten.one_hot(y, 3), 0.05, 32, 6
    model = network({"relu": nn.ReLU, "sigmoid": nn.Sigmoid}[hidden])
    layers, rng, before, curve, rates = layers_of(model), np.random.default_rng(3), np.inf, [], []
    rate = start_rate
    velocity = [(np.zeros_like(w), np.zeros_like(b)) for w, b in layers]
    for _ in range(epochs):
        order, total = rng.permutation(len(x)), 0.0
        for start in range(0, len(x), size):
            part = order[start : start + size]
            total += handwritten.cost(x[part], hot[part], layers, hidden, "cross_entropy", l2) * len(part)
            slopes = handwritten.gradients(x[part], hot[part], layers, hidden, "cross_entropy", l2)
            velocity = [
                tuple(0.9 * v + g for v, g in zip(vs, gs, strict=True)) for vs, gs in zip(velocity, slopes, strict=True)
            ]
            layers = [tuple(p - rate * v for p, v in zip(ps, vs, strict=True)) for ps, vs in zip(layers, velocity, strict=True)]
        curve.append(total / len(x))
        rates.append(rate)
        rate, before = rate * 0.9 if curve[-1] > before else rate, curve[-1]

    optimiser = optim.SGD(model.parameters(), lr=start_rate, momentum=0.9)
    loader = data.DataLoader(x, y, batch_size=size, shuffle=True, rng=3)
    schedule = optim.CostRise(optimiser, 0.9)
    history = train.fit(model, F.cross_entropy, optimiser, loader, epochs, schedule=schedule, l2=l2, compile=compile)
    assert len(set(rates)) > 1
    np.testing.assert_allclose(history["loss"], curve, rtol=1e-12)
    np.testing.assert_allclose(history["lr"], rates, rtol=1e-12)
    for own, expected in zip(layers_of(model), layers, strict=True):
        for p, by_hand in zip(own, expected, strict=True):
            np.testing.assert_allclose(p, by_hand, rtol=0, atol=1e-12)


def test_clips_gradients() -> None:
    """One step of gradient descent moves the parameters by the rate times the bound."""
    for compile in (True, False):
        model = network()
        before = np.concatenate([v.ravel() for v in model.state_dict().values()])
        train.fit(
            model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.5), one_batch(), 1, clip_norm=1e-3, compile=compile
        )
        after = np.concatenate([v.ravel() for v in model.state_dict().values()])
        assert np.linalg.norm(after - before) == pytest.approx(5e-4, rel=1e-9)


def one_batch() -> data.DataLoader:
    return data.DataLoader(*problem(), batch_size=None)


MAKERS: dict[str, Callable[[nn.Module], optim.Optimiser]] = {
    "SGD": lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "Adam": lambda m: optim.Adam(m.parameters(), lr=0.01),
}


@pytest.mark.parametrize("name", MAKERS)
def test_compiled_equals_as_written(name: str) -> None:
    """With dropout and batch norm, whose masks and running means a step that does not count must not touch.

    No batch norm for Adam: a bias before it has gradients of rounding alone, which Adam makes steps of any size of.
    """
    norm = nn.BatchNorm1d if name == "SGD" else nn.LayerNorm
    x, y = problem()
    ends, histories = [], []
    for compile in (True, False):
        model = network(lambda: nn.Sequential(norm(8, dtype=np.float64), nn.Tanh()), dropout=0.3)
        F.seed(5)
        loader = data.DataLoader(x, y, batch_size=40, shuffle=True, rng=1)
        histories.append(
            train.fit(
                model,
                nn.CrossEntropyLoss(),
                MAKERS[name](model),
                loader,
                4,
                validation=(x[:20], y[:20]),
                metrics=[metrics.accuracy],
                clip_norm=0.5,
                compile=compile,
            )
        )
        ends.append(model.state_dict())
    for path, values in ends[0].items():
        np.testing.assert_allclose(values, ends[1][path], rtol=0, atol=1e-11)
    for column in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr"):
        np.testing.assert_allclose(histories[0][column], histories[1][column], rtol=1e-10)


# What is measured


def test_history() -> None:
    x, y = problem()
    model = network()
    seen: list[tuple[int, float]] = []
    history = train.fit(
        model,
        F.cross_entropy,
        optim.SGD(model.parameters(), lr=0.1),
        data.DataLoader(x, y, batch_size=32),
        3,
        validation=(x[:10], y[:10]),
        metrics={"right": metrics.accuracy, "top 2": metrics.top_k(2)},
        callbacks=[lambda run: seen.append((run.epoch, run.row["val_loss"]))],
    )
    columns = ["epoch", "loss", "right", "top 2", "val_loss", "val_right", "val_top 2", "lr", "seconds"]
    assert list(history) == columns
    assert seen == list(zip([1, 2, 3], history["val_loss"], strict=True))
    assert (history.interrupted, history.stopped) == (False, "")
    with tensorgrad.no_grad():
        logits = model(Tensor(x[:10]))
    assert history["val_loss"][-1] == pytest.approx(F.cross_entropy(logits, y[:10]).item(), rel=1e-12)
    assert history["val_right"][-1] == np.mean(logits.numpy().argmax(1) == y[:10])
    lines = str(history).splitlines()
    assert lines[0].split() == " ".join(columns).split()
    assert len(lines) == 4
    with pytest.raises(KeyError, match="History: no column 'acc', only epoch, loss, right"):
        history["acc"]
    assert [axes.get_ylabel() for axes in history.plot().axes] == ["loss (logarithmic)", "right", "top 2"]


def test_history_in_a_file(tmp_path: Path) -> None:
    history = train.History()
    assert repr(history) == "History()"
    rows = [{"epoch": i + 1, "loss": 1 / (i + 3), "a,b": float("nan")} for i in range(60)]
    for row in rows:
        history.append(row)
    history.to_csv(tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in read] == history["loss"]
    assert read[0].keys() == rows[0].keys()
    assert "... 20 more ..." in str(history)
    with pytest.raises(ValueError, match="History: an epoch has epoch, loss, but earlier ones have epoch, loss, a,b"):
        history.append({"epoch": 61, "loss": 1.0})


def test_modes_are_put_back() -> None:
    model = network(dropout=0.5)
    model.eval()
    inner = model[2]
    assert isinstance(inner, nn.Dropout)
    inner.train()
    modes: list[bool] = []

    def loss(z: Any, y: Any) -> Any:
        modes.append(model.training)
        return F.cross_entropy(z, y)

    train.fit(model, loss, optim.SGD(model.parameters(), lr=0.1), problem(), 1, validation=problem(20), compile=False)
    assert modes == [True, True, True, False]
    assert (model.training, inner.training) == (False, True)


def test_evaluate_and_predict() -> None:
    x, y = problem(50)
    model = network(dropout=0.9)
    with tensorgrad.no_grad():
        logits = model.eval()(Tensor(x)).numpy()
    model.train()
    np.testing.assert_allclose(train.predict(model, x, batch_size=7), logits, rtol=1e-12)
    found = train.evaluate(model, F.cross_entropy, data.DataLoader(x, y, batch_size=7), [metrics.accuracy])
    assert found == {
        "loss": pytest.approx(F.cross_entropy(Tensor(logits), y).item(), rel=1e-12),
        "accuracy": np.mean(logits.argmax(1) == y),
    }
    assert model.training


# Weights


LOSSES = {
    "cross_entropy": F.cross_entropy,
    "CrossEntropyLoss": nn.CrossEntropyLoss(),
    "mse_loss": F.mse_loss,
    "MSELoss": nn.MSELoss(),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@settings(max_examples=max(settings().max_examples // 3, 10))
@given(rng=generators(), n=st.integers(1, 8))
def test_a_weight_of_two_is_a_sample_twice(loss: Any, compile: bool, rng: np.random.Generator, n: int) -> None:
    """In full batches, with the L2 penalty, which goes by the sum of the weights."""
    x, labels = problem(n)
    y = labels if "ross" in str(loss) else handwritten.one_hot(labels, 3)
    w = rng.integers(0, 4, n)
    w[0] += not w.any()
    ends = []
    for arrays in ((x, y, w), (np.repeat(x, w, axis=0), np.repeat(y, w, axis=0))):
        model = network(nn.Tanh)
        optimiser = optim.SGD(model.parameters(), lr=0.1)
        loader = data.DataLoader(*arrays, batch_size=None)
        history = train.fit(model, loss, optimiser, loader, 2, validation=arrays, l2=0.1, compile=compile)
        ends.append((history, model.state_dict()))
    (first, weighted), (second, repeated) = ends
    for column in ("loss", "val_loss"):
        np.testing.assert_allclose(first[column], second[column], rtol=1e-12)
    for path, values in weighted.items():
        np.testing.assert_allclose(values, repeated[path], rtol=0, atol=1e-12)


def test_a_batch_without_weight_changes_nothing() -> None:
    x, y = problem(6)
    model = network()
    before = model.state_dict()
    optimiser = optim.SGD(model.parameters(), lr=0.1)
    train.fit(model, F.cross_entropy, optimiser, data.DataLoader(x, y, np.zeros(6), batch_size=3), 1)
    for path, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[path])


# Ends


def test_early_stopping() -> None:
    """By values that are given: the best is at epoch 3, and NaN is never better."""
    values = iter([3.0, 2.0, 1.0, 1.05, np.nan, 0.95, 0.0])
    states: list[dict[str, np.ndarray]] = []

    def watch(run: train.Run) -> None:
        run.row["val_loss"] = next(values)
        states.append(run.model.state_dict())

    model = network()
    stopping = train.EarlyStopping("val_loss", patience=3, min_delta=0.1)
    history = train.fit(model, F.cross_entropy, MAKERS["SGD"](model), problem(), 20, callbacks=[watch, stopping])
    assert history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert history.stopped == "val_loss has not improved for 3 epochs"
    assert (stopping.best, stopping.best_epoch) == (1.0, 3)
    for path, values_now in model.state_dict().items():
        np.testing.assert_array_equal(values_now, states[2][path])
    assert not np.array_equal(states[2]["0.weight"], states[5]["0.weight"])


@pytest.mark.parametrize(("monitor", "patience", "restore", "epochs"), [("accuracy", 2, False, 3), ("accuracy", None, True, 9)])
def test_early_stopping_otherwise(monitor: str, patience: int | None, restore: bool, epochs: int) -> None:
    """The higher the better; without an end; without the best parameters."""
    states: list[dict[str, np.ndarray]] = []

    def watch(run: train.Run) -> None:
        run.row[monitor] = 1 / run.epoch
        states.append(run.model.state_dict())

    model = network()
    stopping = train.EarlyStopping(monitor, patience, restore_best=restore)
    history = train.fit(model, F.cross_entropy, MAKERS["SGD"](model), problem(), 9, callbacks=[watch, stopping])
    assert (len(history["loss"]), stopping.best_epoch) == (epochs, 1)
    np.testing.assert_array_equal(model.state_dict()["0.weight"], states[0 if restore else -1]["0.weight"])
    first = stopping.best
    train.fit(model, F.cross_entropy, MAKERS["SGD"](model), problem(), 1, callbacks=[watch, stopping])
    assert (stopping.best_epoch, stopping.best) == (1, first)  # a new training begins anew


def test_a_callback_ends_it() -> None:
    calls: list[str] = []

    class Ends(train.Callback):
        def on_start(self, run: train.Run) -> None:
            calls.append("start")

        def on_epoch_end(self, run: train.Run) -> None:
            if run.epoch == 2:
                raise train.StopTraining("enough")

        def on_end(self, run: train.Run) -> None:
            calls.append(f"end {run.history.stopped}")

    model = network()
    history = train.fit(
        model,
        F.cross_entropy,
        MAKERS["SGD"](model),
        problem(),
        9,
        callbacks=[Ends(), lambda run: calls.append(f"epoch {run.epoch}")],
    )
    assert calls == ["start", "epoch 1", "epoch 2", "end enough"]
    assert history.stopped == "enough"


@pytest.mark.parametrize("compile", [True, False])
def test_a_loss_that_is_not_finite(compile: bool) -> None:
    """The batch is named, and everything is as it was before the epoch, the state of the optimiser too."""
    x, y = problem()
    model = network()
    optimiser = MAKERS["Adam"](model)
    good: list[dict[str, Any]] = []

    def spoil(run: train.Run) -> None:
        good.append({**run.model.state_dict(), "m": optimiser.state[0]["m"].copy(), "steps": optimiser.steps})
        if run.epoch == 2:
            x[70, 0] = np.inf

    message = r"the loss is nan in epoch 3, batch 3 of 3, at learning rate 0\.01; the parameters are reset"
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match=message) as raised:
        train.fit(model, F.cross_entropy, optimiser, data.DataLoader(x, y), 9, callbacks=[spoil], compile=compile)
    for name, values in {**model.state_dict(), "m": optimiser.state[0]["m"], "steps": optimiser.steps}.items():
        np.testing.assert_array_equal(values, good[1][name])
    assert raised.value.history["epoch"] == [1, 2]
    assert model.training


def press(run: train.Run) -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_noted_at_the_next_batch(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = problem(60)
    calls: list[int] = []

    def loss(z: Any, t: Any) -> Any:
        calls.append(len(calls))
        if len(calls) in (3, 4):
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(z, t)

    model = network()
    history = train.fit(model, loss, MAKERS["SGD"](model), data.DataLoader(x, y, batch_size=20), 9, compile=False)
    assert (history.interrupted, len(calls), dict(history)) == (True, 3, {})
    assert capsys.readouterr().err == "train.fit: interrupted after 0 of 9 epochs\n"
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        train.fit(model, F.cross_entropy, MAKERS["SGD"](model), problem(), 9, callbacks=[press, press])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_are_left_alone() -> None:
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        model = network()
        history = train.fit(model, F.cross_entropy, MAKERS["SGD"](model), problem(), 2, callbacks=[press])
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (len(pressed), history.interrupted) == (2, False)


def test_trains_in_another_thread() -> None:
    model = network()
    found: list[train.History] = []

    def work() -> None:
        found.append(train.fit(model, F.cross_entropy, MAKERS["SGD"](model), problem(), 2))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0]["epoch"] == [1, 2]


# Logs and the bar


def test_loggers(tmp_path: Path) -> None:
    x, y = problem()
    model = network()
    for name in ("log.csv", "log.jsonl"):
        (tmp_path / name).write_text("of an earlier training")
    logs = [train.CSVLogger(tmp_path / "log.csv"), train.JSONLinesLogger(tmp_path / "log.jsonl")]

    def spoil(run: train.Run) -> None:
        run.row["lr"] = float("nan")

    history = train.fit(model, F.cross_entropy, MAKERS["SGD"](model), (x, y), 3, validation=(x, y), callbacks=[spoil, *logs])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{**row, "lr": None} for row in history.rows()]
    with (tmp_path / "log.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == list(history)
    assert [float(row["val_loss"]) for row in read] == history["val_loss"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def go(progress: bool | None) -> str:
        model = network()
        train.fit(model, F.cross_entropy, MAKERS["SGD"](model), problem(), 2, progress=progress)
        return sys.stderr.getvalue() if isinstance(sys.stderr, Terminal) else capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))  # imported, but nothing runs in a notebook
    assert go(True) == go(None) == ""  # no terminal
    for progress, shown in ((None, True), (True, True), (False, False)):
        monkeypatch.setattr(sys, "stderr", Terminal())
        text = go(progress)
        assert ("epoch 2/2: 100%" in text and "6/6" in text and "loss=" in text) is shown
        assert bool(text) is shown
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    go(None)
    with pytest.raises(MissingDependencyError, match=r"progress=True .* pip install tqdm"):
        go(True)


# Metrics, against scikit-learn


@given(rng=generators(), n=st.integers(1, 30), classes=st.integers(2, 6))
def test_metrics_of_classes(rng: np.random.Generator, n: int, classes: int) -> None:
    logits, y = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    hot, guess = handwritten.one_hot(y, classes), logits.argmax(axis=1)
    every = list(range(classes))
    for target in (y, hot, Tensor(y), y[:, None], y.astype(float)):
        assert metrics.accuracy(Tensor(logits), target) == pytest.approx(sklearn.metrics.accuracy_score(y, guess), rel=1e-12)
        np.testing.assert_array_equal(
            metrics.confusion_matrix(logits, target), sklearn.metrics.confusion_matrix(y, guess, labels=every)
        )
        expected = sklearn.metrics.log_loss(y, handwritten.softmax(logits), labels=every)
        assert metrics.log_loss(logits, target) == pytest.approx(expected, rel=1e-9)
    for k in range(1, classes if classes > 2 else 1):  # scikit-learn takes two classes to be one score
        expected = sklearn.metrics.top_k_accuracy_score(y, logits, k=k, labels=every)
        assert metrics.top_k(k)(logits, y) == pytest.approx(expected, rel=1e-12)
    assert metrics.top_k(1)(logits.round(), y) == metrics.accuracy(logits.round(), y)  # ties: the first counts
    assert metrics.top_k(classes)(logits, y) == 1
    assert metrics.accuracy(guess, y) == metrics.accuracy(logits, y)
    bits = (rng.random(n) < 0.5).astype(int)
    for column in (logits[:, 0], logits[:, :1]):
        assert metrics.accuracy(column, bits) == sklearn.metrics.accuracy_score(bits, logits[:, 0] > 0)


@given(
    arrays=st.tuples(st.integers(2, 9), st.integers(1, 3)).flatmap(
        lambda shape: st.tuples(*[hnp.arrays(np.float64, shape, elements=st.floats(-9, 9).map(lambda v: round(v, 2)))] * 2)
    )
)
def test_metrics_of_numbers(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, target = arrays
    assert metrics.mse(prediction, Tensor(target)) == pytest.approx(sklearn.metrics.mean_squared_error(target, prediction))
    # numbers of two digits: where a column is constant its mean is, too, or both spreads are rounding
    if np.all((target == target[0]).all(axis=0) | (target.std(axis=0) > 1e-3)):
        assert metrics.r2(prediction, target) == pytest.approx(sklearn.metrics.r2_score(target, prediction), rel=1e-6, abs=1e-9)
    assert metrics.r2(target[:, 0], target[:, 0]) == 1


def test_a_nan_is_never_right() -> None:
    logits = np.array([[np.nan, np.nan, 1.0], [np.nan, 0.0, 1.0]])
    assert metrics.top_k(2)(logits, [1, 2]) == 0.5
    assert metrics.top_k(1)(logits, [2, 2]) == 0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: metrics.accuracy(np.ones((3, 2)), [0, 1]), ShapeError, "accuracy: 3 predictions for 2 targets"),
        (lambda: metrics.accuracy(np.ones((0, 2)), []), DataError, "accuracy: no samples"),
        (lambda: metrics.accuracy(np.ones((1, 1, 1)), [0]), ShapeError, r"accuracy: prediction has shape \(1, 1, 1\)"),
        (lambda: metrics.accuracy(np.ones((1, 2)), np.ones((1, 1, 1))), ShapeError, r"accuracy: target has shape \(1, 1, 1\)"),
        (lambda: metrics.accuracy(np.ones((1, 2)), [0.5]), DTypeError, "accuracy: target must be class indices"),
        (lambda: metrics.top_k(0), ValueError, "top_k: k must be at least 1, got 0"),
        (lambda: metrics.top_k(3)(np.ones((1, 2)), [0]), ShapeError, "top_3: prediction has 2 classes, expected at least 3"),
        (lambda: metrics.top_k(2)(np.ones(3), [0]), ShapeError, r"top_2: prediction has shape \(3,\), expected \(samples, cl"),
        (lambda: metrics.log_loss(np.ones((2, 2)), [0, 2]), LabelError, "log_loss: class 2 of sample 1, expected 0 to 1"),
        (
            lambda: metrics.confusion_matrix([0, 3], [0, 1], 3),
            LabelError,
            "confusion_matrix: class 3 of sample 1, expected 0 to 2",
        ),
        (lambda: metrics.mse(np.ones(3), np.ones((3, 1))), ShapeError, r"mse: prediction \(3,\) and target \(3, 1\)"),
        (lambda: metrics.r2(np.ones(0), np.ones(0)), DataError, "r2: no samples"),
    ],
)
def test_mistakes_with_metrics(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()


# Mistakes


def fitted(loss: Any = F.cross_entropy, arrays: Any = None, epochs: Any = 2, **options: Any) -> train.History:
    model = network()
    return train.fit(model, loss, MAKERS["SGD"](model), problem() if arrays is None else arrays, epochs, **options)


def other_schedule() -> optim.Schedule:
    return optim.StepLR(MAKERS["SGD"](network()), 1)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: fitted(epochs=-1), ValueError, "epochs must be a non-negative integer, got -1"),
        (lambda: fitted(epochs=1.5), ValueError, r"epochs must be a non-negative integer, got 1\.5"),
        (lambda: fitted(l2=-1), ValueError, "l2 must be at least 0, got -1"),
        (lambda: fitted(clip_norm=0), ValueError, "clip_norm must be positive, got 0"),
        (lambda: fitted(resume=True), ValueError, "resume=True needs checkpoint="),
        (lambda: fitted(schedule=other_schedule()), ValueError, "the StepLR has a different optimiser than the one passed"),
        (lambda: fitted(arrays=np.ones((3, 2))), TypeError, r"data must be a DataLoader or a tuple \(X, y\), got ndarray"),
        (lambda: fitted(arrays=data.DataLoader(np.ones(3))), ShapeError, "data has 1 arrays, expected X and y, or X, y and w"),
        (
            lambda: fitted(arrays=(*problem(4), np.ones((4, 1)))),
            ShapeError,
            r"weights of data have shape \(4, 1\), expected \(samples,\)",
        ),
        (lambda: fitted(validation=iter(())), TypeError, "validation must be a DataLoader or a tuple"),
        (
            lambda: fitted(lambda z, y: F.cross_entropy(z, y, reduction="none")),
            ShapeError,
            r"loss must return a 0-d Tensor, the mean over the batch, but it returned a Tensor of shape \(32,\)",
        ),
        (
            lambda: fitted(lambda z, y: F.cross_entropy(z, y), (*problem(), np.ones(90))),
            TypeError,
            "for sample weights the loss is called with reduction='none', which <lambda> does not accept",
        ),
        (
            lambda: fitted(lambda z, y, reduction: F.cross_entropy(z, y), (*problem(), np.ones(90))),
            ShapeError,
            r"with weights \(32,\), loss must return one value per sample, but it returned a Tensor of shape \(\)",
        ),
        (
            lambda: fitted(metrics=metrics.accuracy),
            TypeError,
            "metrics must be a list of functions, or a dict from name to function",
        ),
        (lambda: fitted(metrics="accuracy"), TypeError, "metrics must be a list of functions, or a dict from name to function"),
        (lambda: fitted(metrics={"right": 3}), TypeError, "metrics: expected functions, got 3"),
        (lambda: fitted(metrics={"loss": metrics.accuracy}), ValueError, "a metric cannot be named 'loss': the history has"),
        (
            lambda: fitted(metrics=[lambda z, y: 1, lambda z, y: 2]),
            ValueError,
            "two metrics are named '<lambda>'; pass a dict",
        ),
        (
            lambda: fitted(callbacks=train.EarlyStopping()),
            TypeError,
            "callbacks must be a list of callbacks, got EarlyStopping",
        ),
        (lambda: fitted(callbacks=[train.EarlyStopping]), TypeError, "functions of the Run, got the class EarlyStopping"),
        (lambda: fitted(callbacks=["stop"]), TypeError, "expected Callbacks and functions of the Run, got 'stop'"),
        (lambda: fitted(checkpoint="none/a.npz"), CheckpointError, r"none/a\.npz: cannot be written: no folder none"),
        (lambda: fitted(validation=Batches([])), DataError, "validation has no batches"),
        (lambda: train.EarlyStopping(mode="up"), ValueError, "mode must be 'min', 'max' or None, got 'up'"),
        (lambda: fitted(metrics=[metrics.confusion_matrix]), TypeError, "metric confusion_matrix returned an array of shape"),
        (
            lambda: fitted(callbacks=[train.EarlyStopping()]),
            ValueError,
            "monitor='val_loss' is not a column of the history, which",
        ),
        (lambda: train.EarlyStopping(patience=0), ValueError, "EarlyStopping: patience must be at least 1, got 0"),
        (lambda: train.EarlyStopping(min_delta=-1), ValueError, "EarlyStopping: min_delta must be at least 0, got -1"),
        (lambda: train.Checkpoint("a.npz", every=0), ValueError, "Checkpoint: every must be at least 1, got 0"),
        (lambda: train.Checkpoint("a.pt"), DataError, r"a\.pt: expected a file name ending in \.npz or \.safetensors"),
    ],
)
def test_mistakes(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_a_schedule_by_a_column_that_is_not_there() -> None:
    model = network()
    optimiser = MAKERS["SGD"](model)
    schedule = optim.ReduceOnPlateau(optimiser)
    with pytest.raises(
        ValueError, match="schedule_monitor='val_loss' is not a column of the history, which has epoch, loss, lr"
    ):
        train.fit(model, F.cross_entropy, optimiser, problem(), 2, schedule=schedule, schedule_monitor="val_loss")


def test_errors_say_where() -> None:
    """Of a batch in the middle, of a loader, of a step that cannot be compiled."""
    x, y = problem()
    y[64] = 3
    with pytest.raises(LabelError) as raised:
        fitted(arrays=data.DataLoader(x, y, batch_size=32))
    assert raised.value.__notes__ == ["train.fit: in epoch 1, batch 3 of 3"]

    class Short(Batches):
        def __iter__(self) -> Any:
            yield from self.batches[:1]
            raise OSError("gone")

    with pytest.raises(OSError, match="gone") as gone:
        fitted(arrays=Short([problem(32)] * 2))
    assert gone.value.__notes__ == ["train.fit: in epoch 1, batch 2 of 2"]
    with pytest.raises(CompileError) as refused:
        fitted(lambda z, y: F.cross_entropy(z, y) if z.max().item() < 1e9 else z.sum())
    assert "train.fit: compile=False runs every step uncompiled" in refused.value.__notes__
    assert fitted(lambda z, y: F.cross_entropy(z, y) if z.max().item() < 1e9 else z.sum(), compile=False)["epoch"] == [1, 2]


def test_other_data_than_a_loader() -> None:
    """Anything with a length that gives batches; parameters that are not trained keep still."""
    x, y = problem(64)
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    ends = []
    for given_data in (batches and Batches(batches), data.DataLoader(x, y, batch_size=32)):
        model = network()
        first = model.state_dict()["0.weight"]
        optimiser = optim.SGD([*model.parameters()][1:], lr=0.1)
        train.fit(model, F.cross_entropy, optimiser, given_data, 2)
        ends.append(model.state_dict())
        np.testing.assert_array_equal(ends[-1]["0.weight"], first)
    np.testing.assert_array_equal(ends[0]["3.weight"], ends[1]["3.weight"])
    with pytest.raises(TypeError, match="checkpoints need a DataLoader, whose position can be saved; got Batches"):
        fitted(arrays=Batches(batches), checkpoint="never.npz")


def test_a_sparse_matrix() -> None:
    x, y = problem()
    x[x < 0.5] = 0
    sparse = scipy.sparse.csr_matrix(x)
    assert fitted(arrays=data.DataLoader(sparse, y))["loss"] == fitted(arrays=data.DataLoader(x, y))["loss"]
    model = network()
    np.testing.assert_array_equal(train.predict(model, sparse, 32), train.predict(model, x, 32))
    assert train.evaluate(model, F.cross_entropy, (sparse, y)) == train.evaluate(model, F.cross_entropy, (x, y))
    with pytest.raises(CompileError, match=REFUSED):
        fitted(lambda z, t: ((z - np.eye(3)[t.data]) ** 2).mean(), data.DataLoader(sparse, y))


def test_a_loader_that_makes_something_else_of_its_arrays() -> None:
    class Scaling(data.DataLoader):
        def __iter__(self) -> Any:
            return ((x.reshape(len(x), 5) / np.float64(255), y) for x, y in super().__iter__())

    x = np.random.default_rng(0).integers(0, 256, (70, 5, 1)).astype(np.uint8)
    y = problem(70)[1]
    first = fitted(arrays=Scaling(x, y))
    second = fitted(arrays=data.DataLoader(x[:, :, 0] / 255, y))
    assert first["loss"] == second["loss"]


class Batches:
    def __init__(self, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


class OfInputs(nn.Module):
    """Multiplies by what is computed of the inputs where nothing is recorded."""

    def forward(self, x: Any) -> Any:
        return x * np.abs(x.data).mean(keepdims=True)


class OfBuffer(nn.Module):
    """Multiplies, when it is not in training, by what is computed of a buffer where nothing is recorded."""

    scale: np.ndarray

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", np.ones(1))

    def forward(self, x: Any) -> Any:
        return x if self.training else x * np.sqrt(self.scale)


REFUSED = "needs the value of a Tensor|reads an array that was a different one in the first call"


@pytest.mark.parametrize("size", [1, 30, 90])
def test_what_is_not_recorded_is_refused(size: int) -> None:
    """Compiled it would be what it was at first, for ever: of the targets, of the inputs."""
    loader = data.DataLoader(*problem(), batch_size=size)
    with pytest.raises(CompileError, match=REFUSED):
        fitted(lambda z, y: ((z - np.eye(3)[y.data]) ** 2).mean(), loader)
    model = nn.Sequential(network(), OfInputs())
    with pytest.raises(CompileError, match=REFUSED):
        train.fit(model, F.cross_entropy, MAKERS["SGD"](model), loader, 1, validation=loader)


@pytest.mark.parametrize("size", [30, 90])
def test_what_is_computed_of_a_buffer_follows_it(size: int) -> None:
    losses = []
    for compiled in (True, False):
        model = nn.Sequential(network(), OfBuffer())
        double = lambda run, scale=model[1].scale: np.multiply(scale, 2, out=scale)  # noqa: E731
        loader = data.DataLoader(*problem(), batch_size=size)
        found = train.fit(
            model, F.cross_entropy, MAKERS["SGD"](model), loader, 3, validation=loader, callbacks=[double], compile=compiled
        )
        losses.append(found["val_loss"])
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert losses[0][0] != losses[0][2]


# What a callback changes, and what is outside of the model


class Scaled(nn.Module):
    """A loss with a number that a callback changes."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, z: Any, y: Any) -> Any:
        return self.factor * F.cross_entropy(z, y)


def freeze(run: train.Run) -> None:
    next(iter(run.model.parameters())).requires_grad = run.epoch % 2 == 0


def scale(run: train.Run) -> None:
    run.loss.factor = run.epoch + 1.0


def drop(run: train.Run) -> None:
    for module in run.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1.0


@pytest.mark.filterwarnings("ignore:SGD. no gradient reached")
@pytest.mark.parametrize("change", [freeze, scale, drop])
def test_what_a_callback_changes_holds_for_compiled_steps(change: Callable[[train.Run], None]) -> None:
    ends = []
    for compile, callbacks in ((True, [change]), (False, [change]), (False, [])):
        model, rng = network(), np.random.default_rng(0)
        optimiser = optim.SGD(model.parameters(), lr=0.1)
        loader = data.DataLoader(*problem(), batch_size=30, shuffle=True, rng=rng)
        train.fit(model, Scaled(), optimiser, loader, 4, callbacks=callbacks, compile=compile)
        ends.append(np.concatenate([v.ravel() for v in model.state_dict().values()]))
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
    assert not np.allclose(ends[1], ends[2])


def test_a_parameter_outside_of_model_and_loss(tmp_path: Path) -> None:
    """It is trained as one in the model is, put back with the best, and goes on from a checkpoint."""

    def run(epochs: int, **options: Any) -> tuple[float, np.ndarray]:
        model, t = network(), Tensor(np.ones(1), requires_grad=True)
        optimiser = optim.SGD([*model.parameters(), t], lr=0.1)
        loader = data.DataLoader(*problem(), batch_size=30, shuffle=True, rng=0)
        train.fit(model, lambda z, y: F.cross_entropy(z * t, y), optimiser, loader, epochs, **options)
        return t.item(), model.state_dict()["0.weight"]

    t, weight = run(4)
    eager, _ = run(4, compile=False)
    assert t == pytest.approx(eager, rel=1e-12)
    assert t != 1
    run(2, checkpoint=tmp_path / "a.npz")
    resumed, same = run(4, checkpoint=tmp_path / "a.npz", resume=True)
    assert resumed == t
    np.testing.assert_array_equal(same, weight)
    stopping = train.EarlyStopping("down", 1, mode="max")
    best, _ = run(4, callbacks=[lambda run: run.row.update(down=-run.epoch), stopping])
    assert best == run(1)[0]


@pytest.mark.parametrize("compile", [True, False])
def test_a_loss_that_is_not_finite_with_clipping(compile: bool) -> None:
    """The same error compiled and not; buffers and generators are put back, too, that of the loader among them."""
    x, y = problem()
    x[5] = np.nan
    rng = np.random.default_rng(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2, rng=rng), nn.Dropout(0.2), nn.Linear(8, 3))
    before = model.state_dict()
    F.seed(3)
    loader = data.DataLoader(x, y, batch_size=10, shuffle=True, rng=0)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1, batch"):
        train.fit(model, F.cross_entropy, MAKERS["SGD"](model), loader, 2, clip_norm=1.0, compile=compile)
    for path, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[path])
    assert rng.random() == np.random.default_rng(1).random()
    drawn = F.dropout(np.ones(50))
    F.seed(3)
    np.testing.assert_array_equal(drawn, F.dropout(np.ones(50)))
    first, other = next(iter(loader)), next(iter(data.DataLoader(x, y, batch_size=10, shuffle=True, rng=0)))
    np.testing.assert_array_equal(first[1], other[1])


def test_ctrl_c_after_a_nan_saves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    training = Training("SGD")
    training.fit(epochs=1, checkpoint=path)
    good = path.read_bytes()
    training.x[:] = np.nan  # the loader's memory, too
    training.loader.given, training.loader.press = 0, 2
    with pytest.raises(TrainingError, match="epoch 2, batch 1 of"):
        training.fit(checkpoint=path, resume=True)
    assert path.read_bytes() == good


def test_rates_of_numpy(tmp_path: Path) -> None:
    """As np.logspace gives them: in the history and in files they are numbers of Python's."""
    for kind in (np.float64, np.float32):
        model = network()
        optimiser = optim.SGD(model.parameters(), lr=kind(0.01))
        options: dict[str, Any] = {"checkpoint": tmp_path / f"{kind.__name__}.npz", "resume": True}
        for epochs in (1, 2):
            logger = train.JSONLinesLogger(tmp_path / "a.jsonl")
            history = train.fit(model, F.cross_entropy, optimiser, problem(), epochs, callbacks=[logger], **options)
        assert history["lr"] == [float(kind(0.01))] * 2
        assert [json.loads(line)["lr"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == history["lr"]


def test_callbacks_in_any_form(tmp_path: Path) -> None:
    fitted(callbacks=filter(None, [train.CSVLogger(tmp_path / "a.csv"), None]))
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("monitor", "mode", "best"),
    [("val_mae", None, 2), ("error", None, 2), ("val_loss", "max", 1), ("gain", "min", 2), ("gain", None, 1)],
)
def test_modes_of_early_stopping(monitor: str, mode: str | None, best: int) -> None:
    stopping = train.EarlyStopping(monitor, patience=None, mode=mode)
    fitted(callbacks=[lambda run: run.row.update({monitor: 1 / run.epoch}), stopping])
    assert stopping.best_epoch == best


def test_batches_of_something_else() -> None:
    x, y = problem(64)
    with pytest.raises(TypeError, match="the loader yields batches of Tensor, ndarray, expected NumPy or CuPy arrays"):
        fitted(arrays=Batches([(Tensor(x), y)]))
    many = Batches([(x, y)] * 3)
    many.__class__ = type("More", (Batches,), {"__len__": lambda self: 2})
    with pytest.raises(ValueError, match="the loader yields more than 2 batches, its length"):
        fitted(arrays=many)


def test_a_loss_of_ones_own_with_weights() -> None:
    """A module whose forward takes `reduction`."""

    class Own(nn.Module):
        def forward(self, z: Any, y: Any, reduction: str = "mean") -> Any:
            return F.cross_entropy(z, y, reduction=reduction)

    arrays = data.DataLoader(*problem(), np.arange(90) / 45)
    assert fitted(Own(), arrays)["loss"] == fitted(F.cross_entropy, arrays)["loss"]


def test_a_column_that_is_not_measured_is_named_before_the_first_epoch() -> None:
    steps = itertools.count()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        next(steps)
        return F.cross_entropy(z, y)

    for callback in (train.EarlyStopping(), train.Checkpoint("a.npz", best_only="val_loss")):
        with pytest.raises(
            ValueError, match="monitor='val_loss' is not a column of the history, which has epoch, loss, lr, sec"
        ):
            fitted(loss, callbacks=[train.EarlyStopping("loss"), callback])
    assert next(steps) == 0
    with pytest.raises(ValueError, match="monitor='val_loss' is not a column"):  # a function might have added it
        fitted(loss, callbacks=[lambda run: None, train.EarlyStopping()])
    assert next(steps) > 1


def test_one_seed_for_all() -> None:
    """Initial values, masks and the order of the samples, where no generator is given."""

    def run(seed: int) -> list[float]:
        tensorgrad.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        return train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), problem(), 2)["loss"]

    assert run(3) == run(3) != run(4)
    orders = []
    for seed in (3, 3, 4):
        tensorgrad.manual_seed(seed)
        loaders = [data.DataLoader(np.arange(20), batch_size=None, shuffle=True) for _ in range(2)]
        orders.append([next(iter(loader))[0].tolist() for loader in loaders])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]  # one loader is not as the other
    tensorgrad.manual_seed(None)
