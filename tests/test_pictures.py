"""Pictures of what a classifier says, and of its neurons: what stands in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from tensorgrad.models import MLP

import tensorgrad
from tensorgrad import Tensor, draw, nn, train
from tensorgrad.errors import ArgumentError, DTypeError, LabelError, MissingDependencyError, ShapeError
from tensorgrad.nn import functional as F
from tests.strategies import generators

IMAGES = np.arange(6 * 9, dtype=np.float32).reshape(6, 9)
LABELS = np.array([0, 1, 2, 0, 1, 2])
SAID = np.array([0, 2, 2, 1, 1, 0])
RED = "#c0392b"


def titles(figure: Any) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_predictions() -> None:
    figure = draw.predictions(IMAGES, LABELS, SAID, names=["cat", "dog", "owl"], columns=4)
    assert titles(figure) == ["cat", "owl, not dog", "owl", "dog, not cat", "dog", "cat, not owl"]
    assert [axes.title.get_color() == RED for axes in figure.axes] == [False, True, False, True, False, True]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), IMAGES[1].reshape(3, 3))
    assert titles(draw.predictions(Tensor(IMAGES.reshape(6, 3, 3)), Tensor(LABELS), limit=2)) == ["0", "1"]
    assert draw.predictions(IMAGES[:, :6], LABELS, shape=(2, 3)).axes[0].images[0].get_array().shape == (2, 3)
    assert draw.predictions(IMAGES[:0], LABELS[:0]).axes[0].texts[0].get_text() == "no images"


@given(rng=generators())
def test_mistakes_are_those_that_differ_the_surest_first(rng: np.random.Generator) -> None:
    n = 12
    labels, said = rng.integers(0, 3, (2, n))
    p = rng.uniform(size=(n, 3))
    figure = draw.mistakes(rng.uniform(size=(n, 4)), labels, said, probabilities=p)
    wrong = [i for i in range(n) if labels[i] != said[i]]
    if not wrong:
        assert figure.axes[0].texts[0].get_text() == "no mistakes"
        return
    order = sorted(wrong, key=lambda i: -p[i, said[i]])
    assert titles(figure) == [f"{said[i]}, not {labels[i]} ({p[i, said[i]]:.0%})" for i in order]
    assert figure.get_suptitle() == f"{len(wrong)} of {n} wrong: what was predicted, not what is true (its probability)"
    plain = draw.mistakes(rng.uniform(size=(n, 4)), labels, said, limit=1)
    assert titles(plain) == [f"{said[wrong[0]]}, not {labels[wrong[0]]}"]


@given(rng=generators(), classes=st.integers(2, 12))
def test_confusion_has_the_counts(rng: np.random.Generator, classes: int) -> None:
    labels, said = rng.integers(0, classes, (2, 40))
    labels[:2] = said[:2] = [0, classes - 1]
    figure = draw.confusion(labels, said)
    expected = confusion_matrix(labels, said, labels=range(classes))
    found = np.zeros((classes, classes), int)
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        found[int(y), int(x)] = int(text.get_text())
    np.testing.assert_array_equal(found, expected)
    assert figure.axes[0].get_title() == f"accuracy {np.mean(labels == said):.2%}"
    shares = draw.confusion(labels, said, normalise=True).axes[0].texts
    row = [t.get_text() for t in shares if t.get_position()[1] == 0]
    assert row == [f"{k / expected[0].sum():.0%}" for j, k in enumerate(expected[0]) if k or j == 0]


def columns_of(figure: Any) -> list[int]:
    return [len(c.get_offsets()) for c in figure.axes[0].collections if type(c).__name__ == "PathCollection"]


def texts(figure: Any) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def test_network() -> None:
    figure = draw.network(MLP((784, 200, 100, 50, 10)))
    assert columns_of(figure) == [11, 11, 11, 11, 10]
    assert [t for t in texts(figure) if t[0].isdigit()] == ["784", "200", "100", "50", "10"]
    assert texts(figure).count("⋮") == 4
    assert [t for t in texts(figure) if t.isalpha()] == ["input", "ReLU", "ReLU", "ReLU", "output"]
    small = draw.network(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    assert columns_of(small) == [2, 3, 1]
    assert "Tanh" in texts(small)
    act = nn.Tanh()
    twice = draw.network(nn.Sequential(nn.Linear(2, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 1)))
    assert texts(twice).count("Tanh") == 2


def test_network_with_its_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    figure = draw.network(model, weights=True)
    lines = [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]
    weights = [p.numpy() for p in model.parameters() if p.ndim == 2]
    circles = [c.get_offsets() for c in figure.axes[0].collections if type(c).__name__ == "PathCollection"]
    for collection, w, left, right in zip(lines, weights, circles, circles[1:], strict=False):
        assert len(collection.get_segments()) == w.size
        for segment, value in zip(collection.get_segments(), collection.get_array(), strict=True):
            (i,) = np.flatnonzero((left == segment[0]).all(1))
            (j,) = np.flatnonzero((right == segment[1]).all(1))
            assert value == w[i, j]
        assert (np.diff(np.abs(collection.get_array())) >= 0).all()  # the strong ones are drawn over the weak ones
    assert lines[0].get_clim()[1] == pytest.approx(max(np.abs(w).max() for w in weights))
    assert len(figure.axes) == 2  # the second is the colour bar


def test_neurons_of_a_wide_layer_are_the_first_and_the_last() -> None:
    model = nn.Sequential(nn.Linear(20, 1))
    figure = draw.network(model, limit=5, weights=True)
    (lines,) = [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]
    expected = next(model.parameters()).numpy()[[0, 1, 18, 19], 0]
    from_the_top = np.argsort([-segment[0][1] for segment in lines.get_segments()])
    np.testing.assert_array_equal(lines.get_array()[from_the_top], expected)


def test_the_activation_names_a_column_whatever_stands_beside_it() -> None:
    layers = (nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5))
    assert "ReLU" in texts(draw.network(nn.Sequential(nn.Linear(2, 3), *layers, nn.Linear(3, 2), nn.Dropout(0.5))))
    plain = draw.network(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 2), nn.Identity()))
    assert [t for t in texts(plain) if t.isalpha()] == ["input", "linear", "output"]


@pytest.mark.parametrize("widths", [(784, 200, 10), (3, 4, 2), (2, 1)])
def test_counts_and_captions_of_neurons_are_as_far_from_them(widths: tuple[int, ...]) -> None:
    figure = draw.network(MLP(widths))
    ys = np.concatenate([c.get_offsets()[:, 1] for c in figure.axes[0].collections if type(c).__name__ == "PathCollection"])
    counts = {t.get_position()[1] for t in figure.axes[0].texts if t.get_text().isdigit()}
    captions = {t.get_position()[1] for t in figure.axes[0].texts if t.get_text().isalpha()}
    assert (counts, captions) == ({ys.min() - 0.5}, {ys.max() + 0.5})


@pytest.mark.parametrize("columns", [1, 2, 8])
def test_the_header_of_mistakes_fits(columns: int) -> None:
    figure = draw.mistakes(np.ones((12_000, 4)), np.zeros(12_000, int), np.ones(12_000, int), columns=columns, limit=2)
    figure.canvas.draw()
    (header,) = (text for text in figure.texts if "wrong" in text.get_text())
    box = header.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: draw.predictions(IMAGES, LABELS[:4]), ShapeError, "predictions: labels has 4 rows, expected 6"),
        (lambda: draw.predictions(IMAGES, LABELS, SAID[:5]), ShapeError, "predictions: predicted has 5 rows, expected 6"),
        (
            lambda: draw.predictions(IMAGES[:, :8], LABELS),
            ShapeError,
            "predictions: images has 8 pixels in a row, but they are not",
        ),
        (
            lambda: draw.mistakes(IMAGES, LABELS, SAID, shape=(2, 2)),
            ShapeError,
            "mistakes: images has 9 pixels in a row, but shape is",
        ),
        (
            lambda: draw.mistakes(IMAGES[0], LABELS, SAID),
            ShapeError,
            "mistakes: images has shape (9,), expected (n, h, w), (n, ",
        ),
        (
            lambda: draw.mistakes(IMAGES, LABELS, SAID, probabilities=np.ones((5, 3))),
            ShapeError,
            "mistakes: probabilities has shape (5, 3), expected (6, classes)",
        ),
        (lambda: draw.predictions(IMAGES, LABELS, columns=0), ValueError, "predictions: columns must be at least 1, got 0"),
        (lambda: draw.predictions(IMAGES, LABELS, limit=-1), ValueError, "predictions: limit must be at least 1, got -1"),
        (lambda: draw.mistakes(IMAGES, LABELS, SAID, limit=0), ValueError, "mistakes: limit must be at least 1, got 0"),
        (
            lambda: draw.predictions(IMAGES, LABELS, names=["a", "b"]),
            LabelError,
            "predictions: labels has class 2, but names has only 2",
        ),
        (
            lambda: draw.mistakes(IMAGES, LABELS, SAID, probabilities=np.ones((6, 2))),
            LabelError,
            "mistakes: predicted has class 2, but probabilities has 2 columns",
        ),
        (
            lambda: draw.confusion(LABELS, SAID - 1),
            LabelError,
            "confusion: predicted has class -1, expected non-negative classes",
        ),
        (lambda: draw.network(3), TypeError, "network: model has type int, expected a tensorgrad.nn.Module"),  # type: ignore[arg-type]
        (
            lambda: draw.confusion(LABELS, SAID * 1.0),
            ShapeError,
            "confusion: predicted has shape (6,) and dtype float64, expected",
        ),
        (
            lambda: draw.network(nn.Sequential(nn.ReLU())),
            ValueError,
            "network: the model has no Linear layers to draw, only ReLU, S",
        ),
        (
            lambda: draw.network(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1))),
            ValueError,
            "network: layer 1 takes 4 inputs, but the previous layer has 3 outputs",
        ),
        (lambda: draw.network(MLP((2, 3)), limit=2), ValueError, "network: limit must be at least 3, got 2"),
    ],
)
def test_mistakes_in_arguments(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


@pytest.mark.parametrize("name", ["images", "predictions", "mistakes", "confusion", "network"])
def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = {"confusion": (LABELS, SAID), "network": (MLP((2, 3)),), "images": (IMAGES,)}.get(name, (IMAGES, LABELS, SAID))
    with pytest.raises(MissingDependencyError, match=rf"draw.{name}: needs matplotlib.*pip install matplotlib"):
        getattr(draw, name)(*arguments)


def test_figures_can_be_drawn(tmp_path: Any) -> None:
    for i, figure in enumerate(
        [draw.predictions(IMAGES, LABELS, SAID), draw.confusion(LABELS, SAID), draw.network(MLP((30, 4, 3)))]
    ):
        figure.savefig(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").stat().st_size > 1000


def test_curves_have_a_panel_for_the_losses_and_one_for_each_metric() -> None:
    history = {
        "accuracy": [0.5, 0.9],
        "loss": [1.0, 0.5],
        "val_top_2": [0.8, 0.9],
        "val_loss": [1.1, 0.7],
        "val_accuracy": [0.4, 0.8],
    }
    figure = draw.curves(history, best=2, title="t")
    losses, accuracies, top = figure.axes
    assert figure.get_suptitle() == "t"
    assert [line.get_label() for line in losses.lines] == ["loss", "val loss", "kept: epoch 2"]
    assert [line.get_label() for line in accuracies.lines] == ["accuracy", "val accuracy", "kept: epoch 2"]
    assert [line.get_label() for line in top.lines] == ["val top 2", "kept: epoch 2"]
    np.testing.assert_array_equal(losses.lines[1].get_ydata(), history["val_loss"])
    np.testing.assert_array_equal(accuracies.lines[1].get_ydata(), history["val_accuracy"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (logarithmic)", "accuracy", "top 2"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}


@given(count=st.integers(1, 9), epochs=st.integers(1, 40))
def test_curves_leave_no_series_out_and_count_whole_epochs(count: int, epochs: int) -> None:
    history = {f"{i}_loss": [1 / (i + t + 1) for t in range(epochs)] for i in range(count)}
    (axes,) = draw.curves(history).axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        name.replace("_", " "): values for name, values in history.items()
    }
    assert {line.get_marker() for line in axes.lines} == {"o" if epochs == 1 else "None"}
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_curves_of_a_history_are_its_losses_and_metrics() -> None:
    """Not the number of the epoch, which is the axis, the learning rate, and the time."""
    columns: dict[str, list[float]] = {
        "epoch": [1, 2],
        "loss": [0.9, 0.5],
        "accuracy": [0.5, 0.6],
        "lr": [0.1, 0.1],
        "seconds": [1, 1],
    }
    for figure in (draw.curves(columns), draw.curves(train.History(columns)), train.History(columns).plot()):
        assert [[line.get_label() for line in axes.lines] for axes in figure.axes] == [["loss"], ["accuracy"]]


def test_curves_write_a_logarithmic_axis_in_plain_numbers() -> None:
    figure = draw.curves({"loss": [0.9, 0.5, 0.31]})
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    ticks = [tick.get_text() for tick in axis.get_ticklabels() if low <= tick.get_position()[1] <= high]
    assert "0.5" in ticks
    assert not any("10" in text for text in ticks)
    assert draw.curves({"loss": [1.0, 0.0]}).axes[0].get_yscale() == "linear"  # 0 has no logarithm
    assert draw.curves({"loss": [1.0, 0.5]}, log_loss=False).axes[0].get_yscale() == "linear"


def test_curves_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"draw.curves: needs matplotlib.*pip install matplotlib"):
        draw.curves({"loss": [1.0]})


def test_curves_of_one_epoch_in_so_many() -> None:
    losses = [1 / (i + 1) for i in range(250)]
    for every, epochs in ((100, [100, 200]), (1, list(range(1, 251))), (300, list(range(1, 251)))):
        (line,) = draw.curves({"loss": losses}, every=every).axes[0].lines
        assert line.get_xdata().tolist() == epochs
        assert line.get_ydata().tolist() == [losses[i - 1] for i in epochs]
    with pytest.raises(ValueError, match="curves: every must be at least 1, got 0"):
        draw.curves({"loss": losses}, every=0)


def test_predictions_say_how_many_are_right() -> None:
    pixels = np.zeros((3, 4))
    assert draw.predictions(pixels, [0, 1, 2], [0, 2, 2])._suptitle.get_text() == "2 of 3 right"
    assert draw.predictions(pixels, [0, 1, 2])._suptitle is None


def test_curves_say_where_they_are_not_finite() -> None:
    nan, inf = float("nan"), float("inf")
    (axes,) = draw.curves({"loss": [2, 1, 0.5, nan, nan, 0.25], "b_loss": [2, 1, inf, inf, inf, inf]}).axes
    assert axes.get_yscale() == "log"  # what is not finite does not take it away
    assert [line.get_label() for line in axes.lines if not line.get_label().startswith("_")] == [
        "loss", "loss: NaN at epochs 4 to 5", "b loss", "b loss: infinite from epoch 3",
    ]  # fmt: skip
    (dot,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (dot.get_xdata().tolist(), dot.get_ydata().tolist()) == ([6], [0.25])
    starts = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert starts == [4, 3]
    (axes,) = draw.curves({"loss": [nan, 1, -inf, 2]}).axes
    assert "loss: not finite at 2 of epochs 1 to 3" in [line.get_label() for line in axes.lines]
    assert draw.curves({"loss": [nan, nan]}).axes[0].lines[1].get_label() == "loss: NaN from epoch 1"


@given(decades=st.floats(0, 30))
def test_curves_have_numbers_at_a_logarithmic_axis_of_any_range(decades: float) -> None:
    figure = draw.curves({"loss": list(np.geomspace(1, 10**-decades, 12))})
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    seen = [tick.get_text() for tick in axis.get_ticklabels() if low <= tick.get_position()[1] <= high and tick.get_text()]
    assert 1 <= len(seen) <= 16
    assert decades < 1 or len(seen) > 1


def test_each_curve_has_a_look_of_its_own_and_many_panels_go_into_rows() -> None:
    lines = draw.curves({f"run{i}_loss": [1, 0.5] for i in range(20)}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20
    figure = draw.curves({f"metric{i}": [1, 0.5] for i in range(8)})
    assert len(figure.axes) == 8
    assert figure.get_size_inches().tolist() == pytest.approx([15.6, 11.4])


COLOUR = np.random.default_rng(0).uniform(size=(2, 5, 6, 3))


@pytest.mark.parametrize("kind", ["last", "first", "bytes", "flat", "scaled", "opaque"])
def test_images_in_colour(kind: str) -> None:
    pixels, options, expected = COLOUR, {}, COLOUR
    if kind == "first":
        pixels = np.moveaxis(COLOUR, -1, 1)
    elif kind == "bytes":
        pixels = expected = (255 * COLOUR).astype(np.uint8)
    elif kind == "flat":
        pixels, options = COLOUR.reshape(2, -1), {"shape": (5, 6, 3)}
    elif kind == "scaled":
        pixels = 4 * COLOUR - 1
        expected = (COLOUR - COLOUR.min()) / np.ptp(COLOUR)
    elif kind == "opaque":
        pixels = expected = np.concatenate([COLOUR, np.ones((2, 5, 6, 1))], -1)
    figure = draw.images(pixels, ["a", 2], **options)
    assert titles(figure) == ["a", "2"]
    for axes, image in zip(figure.axes, expected, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), image, atol=1e-15)
    said = draw.predictions(pixels, [0, 1], **options)
    np.testing.assert_allclose(said.axes[1].images[0].get_array(), expected[1], atol=1e-15)
    wrong = draw.mistakes(pixels, [0, 1], [1, 1], **options)
    np.testing.assert_allclose(wrong.axes[0].images[0].get_array(), expected[0], atol=1e-15)


def test_images_in_grey_and_those_that_can_be_read_in_two_ways() -> None:
    for pixels in (COLOUR[..., 0], COLOUR[..., :1], np.moveaxis(COLOUR[..., :1], -1, 1), Tensor(COLOUR[..., 0])):
        np.testing.assert_array_equal(draw.images(pixels).axes[0].images[0].get_array(), COLOUR[0, :, :, 0])
    assert draw.images(np.zeros((40, 4))).get_suptitle() == "32 of 40 images"
    both = np.zeros((2, 3, 5, 4))
    assert draw.images(both, channels="first").axes[0].images[0].get_array().shape == (5, 4, 3)
    assert draw.images(both, channels="last").axes[0].images[0].get_array().shape == (3, 5, 4)
    with pytest.raises(ArgumentError, match=r"images: images of shape \(2, 3, 5, 4\) is ambiguous"):
        draw.images(both)
    with pytest.raises(
        ShapeError, match=r"images: images has shape \(2, 5, 5, 5\), expected 1, 3 or 4 channels at axis 1 or 3"
    ):
        draw.images(np.zeros((2, 5, 5, 5)))
    with pytest.raises(ShapeError, match="images: titles has 1 entries, expected 2"):
        draw.images(COLOUR, ["a"])
    with pytest.raises(DTypeError, match="images: images must be numeric, got dtype"):
        draw.images(np.array([["a"]]))
    with pytest.raises(ArgumentError, match="images: channels must be 'first' or 'last', got 'middle'"):
        draw.images(COLOUR, channels="middle")


@pytest.mark.parametrize("classes", [1, 3, 21, 22, 50, 59, 120])
def test_confusion_of_many_classes_fits_and_what_is_written_fits_into_its_cell(classes: int) -> None:
    labels = np.repeat(np.arange(classes), 12)
    figure = draw.confusion(labels, np.roll(labels, 1), names=[f"class {i}" for i in range(classes)])
    assert max(figure.get_size_inches()) < 14
    figure.draw_without_rendering()
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / classes
    widths = [text.get_window_extent().width for text in axes.texts]
    assert max(widths, default=0) <= cell
    assert bool(widths) == (len(figure.axes) == 1)  # without numbers there is a scale of colours
    for axis in (axes.xaxis, axes.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        heights = [box.height if axis is axes.yaxis else box.width for box in boxes]
        assert len(boxes) * min(heights) <= classes * cell * 1.02 or axis is axes.xaxis


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        h = self.a(x).relu()
        return self.b(h) + h


class Backwards(Skip):
    def forward(self, x: Any) -> Any:
        return self.a(self.b(x).tanh())


class Plain(Skip):
    def forward(self, x: Any) -> Any:
        return self.b(F.gelu(self.a(x) * 2)).softmax(axis=-1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Skip(), "the layers are not a sequence: 2 results meet in add; draw.graph(model, x) draws every model"),
        (nn.Sequential(Plain(), Skip()), "the layers are not a sequence: 2 results meet in add in 1"),
        (Backwards(), "the model calls its layers in a different order than it stores them"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)),
            "0 of type Conv2d has parameters and is not a Linear",
        ),
        (nn.Sequential(nn.MaxPool2d(2), nn.Linear(4, 2)), "the model does not take a row of 4 numbers"),
    ],
)
def test_network_refuses_what_is_none(model: nn.Module, message: str) -> None:
    model.train()
    with pytest.raises(ValueError, match=re.escape(f"network: {message}")):
        draw.network(model)
    assert all(module.training for module in model.modules())


def test_network_of_modules_of_ones_own() -> None:
    with tensorgrad.no_grad():
        assert columns_of(draw.network(Plain())) == [4, 4, 4]
    deep = draw.network(nn.Sequential(*[nn.Linear(3, 3) for _ in range(25)]))
    assert deep.get_size_inches()[0] < 16
