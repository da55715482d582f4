"""The loss in the history is that of all samples at once, however they come in batches, for every loss and option."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F
from tests import kinds
from tests.cuda.gpu import using

M, CLASSES = 10, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(M, 4)).astype("f")
LABELS = RNG.integers(0, CLASSES, M)
LABELS[:4] = LABELS[5] = 1  # with batches of 3 and 4 one has these alone
SHARES = RNG.dirichlet(np.ones(CLASSES), M).astype("f")
NUMBERS = RNG.normal(size=(M, CLASSES)).astype("f")
W = np.array([1, 5, 0.5], "f")

# for each loss: its targets, and the options that go with them
OF_CLASSES: list[tuple[Any, dict[str, Any]]] = [
    (LABELS, {}),
    (LABELS, {"ignore_index": 1}),
    (LABELS, {"ignore_index": -100}),
    (LABELS, {"weight": W}),
    (LABELS, {"weight": W.tolist(), "ignore_index": 0}),
]
CASES: dict[Any, list[tuple[Any, dict[str, Any]]]] = {
    nn.CrossEntropyLoss: [
        *OF_CLASSES,
        (LABELS, {"label_smoothing": 0.2}),
        (LABELS, {"label_smoothing": 0.2, "weight": W, "ignore_index": 1}),
        (SHARES, {}),
        (SHARES, {"weight": W, "label_smoothing": 0.1}),
    ],
    nn.NLLLoss: OF_CLASSES,
    nn.MultiMarginLoss: [(LABELS, {}), (LABELS, {"weight": W, "p": 2})],
    nn.HuberLoss: [(NUMBERS, {}), (NUMBERS, {"delta": 0.3})],
    nn.KLDivLoss: [(SHARES, {}), (SHARES, {"reduction": "batchmean"})],
    nn.BCEWithLogitsLoss: [(SHARES, {}), (SHARES, {"weight": W, "pos_weight": 2.0})],
}
ALL = [
    (make, target, {"reduction": reduction} | options)
    for make in kinds.PAIRED
    if make is not nn.BCELoss  # of probabilities; BCEWithLogitsLoss is reduced as it is
    for target, options in CASES.get(make, [(NUMBERS, {})])
    for reduction in ("mean", "sum")
    if "reduction" not in options or reduction == "mean"
]


class Outputs(nn.Module):
    """Log-probabilities, which every loss can take."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, CLASSES, rng=np.random.default_rng(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).log_softmax()


def measured(loss: Any, arrays: tuple[Any, ...], size: int, compiled: bool, **options: Any) -> list[float]:
    model = Outputs()
    loader = data.DataLoader(*arrays, batch_size=size)
    optimiser = optim.SGD(model.parameters(), lr=0.0)
    history = train.fit(model, loss, optimiser, loader, 1, validation=loader, compile=compiled, progress=False, **options)
    return [history["loss"][0], history["val_loss"][0], train.evaluate(model, loss, loader)["loss"]]


def is_compiled(size: int, options: dict[str, Any]) -> bool:
    """Whether steps are compiled: by default only where there is something to count, for it takes time."""
    counts = {"weight", "ignore_index"} <= options.keys() and options["reduction"] == "mean"
    return bool(os.environ.get("TENSORGRAD_THOROUGH")) or (size == 4 and counts)


def named(case: Any) -> str:
    make, target, options = case
    words = (f"{name}={np.shape(value) if np.ndim(value) else value}" for name, value in options.items())
    return "-".join([make.__name__, target.dtype.kind, *words])


@pytest.mark.parametrize("case", ALL, ids=map(named, ALL))
def test_loss_of_all_samples(case: Any) -> None:
    make, target, options = case
    loss = make(**options)
    expected = loss(Outputs()(X), target).item()
    for size in (1, 3, 4, M):
        np.testing.assert_allclose(measured(loss, (X, target), size, is_compiled(size, options)), expected, rtol=2e-6)


@pytest.mark.parametrize("case", ALL, ids=map(named, ALL))
def test_weights_count_as_samples(case: Any) -> None:
    """A weight of 2 counts as the sample twice, one of 0 as none; that is so for the labels' own weights, too."""
    make, target, options = case
    loss = make(**options)
    times = np.array([1, 0, 2, 1, 3, 1, 1, 0, 1, 2])
    expected = loss(Outputs()(np.repeat(X, times, axis=0)), np.repeat(target, times, axis=0)).item()
    for size in (1, 3, 4, M):
        found = measured(loss, (X, target, times.astype("f")), size, is_compiled(size, options))
        np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_functions_and_partials_are_known() -> None:
    for loss in (
        partial(F.cross_entropy, ignore_index=1),
        partial(partial(F.cross_entropy, weight=W), reduction="sum"),
        partial(F.kl_div, reduction="batchmean"),
        F.mse_loss,
    ):
        target = SHARES if getattr(loss, "func", loss) in (F.kl_div, F.mse_loss) else LABELS
        expected = loss(Outputs()(X), target).item()
        for compiled in (True, False):
            np.testing.assert_allclose(measured(loss, (X, target), 4, compiled), expected, rtol=2e-6)


def test_labels_at_several_places() -> None:
    """(m, places) labels: the mean is over all places, ignored ones apart."""

    class Places(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(-1, 2, 2)

    labels = RNG.integers(0, 2, (M, 2))
    labels[:6, 0] = -1
    for options in ({"ignore_index": -1}, {"weight": W[:2], "ignore_index": -1}):
        loss = nn.CrossEntropyLoss(**options)
        expected = loss(Places()(Tensor(X)), labels).item()
        for size in (1, 3, M):
            assert train.evaluate(Places(), loss, data.DataLoader(X, labels, batch_size=size))["loss"] == pytest.approx(
                expected, rel=2e-6
            )
            weighted = data.DataLoader(X, labels, np.full(M, 0.5, "f"), batch_size=size)
            assert train.evaluate(Places(), loss, weighted)["loss"] == pytest.approx(expected, rel=2e-6)


def test_a_loss_of_ones_own_is_weighted_by_samples() -> None:
    def own(z: Any, y: Any) -> Any:
        return ((z - y) ** 2).sum(-1).mean()

    expected = own(Outputs()(X), NUMBERS).item()
    np.testing.assert_allclose(measured(own, (X, NUMBERS), 3, True), expected, rtol=2e-6)

    class Half(nn.MSELoss):
        def forward(self, input: Any, target: Any) -> Any:
            return super().forward(input, target) / 2

    np.testing.assert_allclose(measured(Half(), (X, NUMBERS), 3, True), Half()(Outputs()(X), NUMBERS).item(), rtol=2e-6)


def test_nothing_that_counts_is_a_loss_of_0() -> None:
    loss = nn.CrossEntropyLoss(ignore_index=1)
    np.testing.assert_array_equal(measured(loss, (X, np.ones(M, int)), 4, True), 0)


def test_half_precision_counts_beyond_its_range() -> None:
    class Zeros(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0

    x, y = np.zeros((70_000, 2), np.float16), np.zeros(70_000, int)
    y[60_000:] = -1
    found = train.evaluate(Zeros(), nn.CrossEntropyLoss(ignore_index=-1), data.DataLoader(x, y, batch_size=10_000))["loss"]
    assert found == pytest.approx(np.log(2), rel=1e-3)


def test_what_is_no_loss_and_no_model() -> None:
    for loss, text in (
        (nn.MSELoss, r"the class MSELoss; write MSELoss\(\), with parentheses"),
        (None, "None"),
        ("mse", "'mse'"),
        (3.0, "3.0"),
    ):
        with pytest.raises(ArgumentError, match=rf"train.fit: loss must be a function of \(prediction, target\), got {text}"):
            measured(loss, (X, NUMBERS), 4, False)
        with pytest.raises(ArgumentError, match=r"train\.fit: loss must be a function"):
            train.evaluate(Outputs(), loss, (X, NUMBERS))
    for model in (Outputs, F.relu, None):
        with pytest.raises(ArgumentError, match=r"train.fit: model must be a Module, got"):
            train.evaluate(model, F.mse_loss, (X, NUMBERS))


def test_where_the_model_is() -> None:
    """On a GPU what a label counts is counted there: here on the stand-in for CuPy, which refuses what is in main memory."""
    with using("stand-in"):
        x, y = (Tensor(a, device="cuda").data for a in (X, LABELS))
        model = Outputs().to("cuda")
        for options in ({"ignore_index": 1}, {"weight": Tensor(W, device="cuda"), "ignore_index": 1}):
            loss = nn.CrossEntropyLoss(**options)
            expected = loss(model(x), y).item()
            for size in (3, M):
                loader = data.DataLoader(x, y, batch_size=size)
                assert train.evaluate(model, loss, loader)["loss"] == pytest.approx(expected, rel=2e-6)
