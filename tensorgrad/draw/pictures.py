"""What a classifier sees and says: predictions, mistakes, the confusion matrix, and the network as columns of neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.state import named
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.curves import COLOURS, plain
from tensorgrad.errors import LabelError, MissingDependencyError, ShapeError
from tensorgrad.nn.layers import Dropout, Identity, Linear
from tensorgrad.nn.module import Module
from tensorgrad.nn.normalisation import BatchNorm1d, LayerNorm

UNSAID = (BatchNorm1d, Dropout, Identity, LayerNorm)  # beside an activation they are not what names a column of neurons
INK, GREY, RED = "#1c2024", "#8a939c", "#c0392b"


def new_figure(caller: str, width: float, height: float) -> Any:
    """A matplotlib Figure of its own, without pyplot's state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            f"draw.{caller}: needs matplotlib, which is not installed; pip install matplotlib"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


@named
def predictions(
    images: Any,
    labels: Any,
    predicted: Any = None,
    *,
    names: Sequence[str] | None = None,
    columns: int = 8,
    limit: int = 32,
    shape: tuple[int, int] | None = None,
) -> Any:
    """A grid of images with their labels; where `predicted` differs the title says both, in red. Above it how many are right.

    images     (n, h, w), or flat (n, h * w): square unless `shape` gives (h, w)
    labels     (n) class indices
    predicted  (n) class indices, if there are any
    names      of the classes; their indices by default
    columns    of the grid; at most `limit` images are shown

    Returns the matplotlib figure. Raises ShapeError where the numbers of rows differ, or flat images are not square, and
    LabelError for a class below 0 or without a name.
    """
    at_least_one("predictions", "limit", limit)
    pixels = as_images("predictions", images, shape)
    truth = as_labels("predictions", "labels", labels, len(pixels), names)
    said = truth if predicted is None else as_labels("predictions", "predicted", predicted, len(pixels), names)
    titles = []
    for label, answer in zip(truth[:limit], said[:limit], strict=True):
        wrong = f"{name_of(answer, names)}, not {name_of(label, names)}"
        titles.append((name_of(label, names), INK) if label == answer else (wrong, RED))
    right = int((truth == said)[:limit].sum())
    header = None if predicted is None or not titles else f"{right} of {len(titles)} right"
    return grid("predictions", pixels[:limit], titles, columns, "no images", header)


@named
def mistakes(
    images: Any,
    labels: Any,
    predicted: Any,
    *,
    probabilities: Any = None,
    names: Sequence[str] | None = None,
    columns: int = 8,
    limit: int = 24,
    shape: tuple[int, int] | None = None,
) -> Any:
    """The images that were classified wrongly, with both labels; with `probabilities` (n, classes) the surest ones first.

    The other arguments, what is returned and what is raised are as for `predictions`. Without a mistake the figure says so.
    """
    at_least_one("mistakes", "limit", limit)
    pixels = as_images("mistakes", images, shape)
    truth = as_labels("mistakes", "labels", labels, len(pixels), names)
    said = as_labels("mistakes", "predicted", predicted, len(pixels), names)
    wrong = np.flatnonzero(truth != said)
    sure: Any = None
    if probabilities is not None:
        p = as_array(probabilities)
        if p.ndim != 2 or len(p) != len(pixels):
            raise ShapeError(f"mistakes: probabilities has shape {p.shape}, expected ({len(pixels)}, classes)")
        if said.max(initial=-1) >= p.shape[1]:
            raise LabelError(f"mistakes: predicted has class {said.max()}, but probabilities has {p.shape[1]} columns")
        sure = p[np.arange(len(p)), said]
        wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    titles = []
    for i in wrong[:limit]:
        share = "" if sure is None else f" ({sure[i]:.0%})"
        titles.append((f"{name_of(said[i], names)}, not {name_of(truth[i], names)}{share}", RED))
    header = f"{len(wrong):,} of {len(pixels):,} wrong" + (f", {limit} of them shown" if len(wrong) > limit else "")
    if len(wrong):
        header += ": what was predicted, not what is true" + ("" if sure is None else " (its probability)")
    return grid("mistakes", pixels[wrong[:limit]], titles, columns, "no mistakes", header)


def grid(
    caller: str, pixels: Array, titles: list[tuple[str, str]], columns: int, nothing: str, header: str | None = None
) -> Any:
    """Images in rows and columns, each under its title, all under the header; wide enough for it."""
    at_least_one(caller, "columns", columns)
    if not len(pixels):
        figure = new_figure(caller, 4, 1.4)
        figure.add_subplot().set_axis_off()
        figure.axes[0].text(0.5, 0.5, nothing, ha="center", va="center", fontsize=13, color=GREY)
        if header:
            figure.suptitle(header, fontsize=11)
        return figure
    columns = min(columns, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    longest = max(len(title) for title, _ in titles)
    width = max(columns * max(1.15, 0.085 * longest), 0.1 * len(header or ""))
    figure = new_figure(caller, width, 0.4 + rows * 1.4)
    if header:
        figure.suptitle(header, fontsize=11)
    for i, (image, (title, colour)) in enumerate(zip(pixels, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray_r", interpolation="nearest")
        axes.set_title(title, fontsize=10, color=colour, pad=3)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(RED if colour == RED else "#cfd5db")
    return figure


@named
def confusion(labels: Any, predicted: Any, *, names: Sequence[str] | None = None, normalise: bool = False) -> Any:
    """The confusion matrix: a row for each true class, a column for each predicted one, counts in the cells.

    labels, predicted  (n) class indices
    names              of the classes; their indices by default
    normalise          shares of each row in place of counts

    Returns the matplotlib figure. Raises ShapeError where the numbers of labels differ, and LabelError for a class below 0 or
    without a name.
    """
    truth = as_labels("confusion", "labels", labels, None, names)
    said = as_labels("confusion", "predicted", predicted, len(truth), names)
    classes = max(int(max(truth.max(initial=0), said.max(initial=0))) + 1, len(names or ()))
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (truth, said), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.2 + 0.5 * classes
    figure = new_figure("confusion", size + 0.4, size)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(classes):
        for j in range(classes):
            if counts[i, j] or i == j:
                text = f"{share[i, j]:.0%}" if normalise else f"{counts[i, j]:,}"
                axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if share[i, j] > 0.55 else INK)
    ticks = [name_of(k, names) for k in range(classes)]
    turned = max(map(len, ticks)) > 4
    axes.set_xticks(range(classes), ticks, rotation=45 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks(range(classes), ticks)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"accuracy {np.mean(truth == said):.2%}" if len(truth) else "no samples", fontsize=11)
    axes.spines[:].set_visible(False)
    return figure


@named
def network(model: Module, *, limit: int = 12, weights: bool = False) -> Any:
    """A multi-layer perceptron as columns of neurons, the inputs at the left, a line for every weight.

    model    a module whose Linear layers stand one after another, such as nn.Sequential or tensorgrad.models.MLP
    limit    neurons drawn in a column; of a wider layer the first and the last ones, with dots between
    weights  colour the lines by their weights, blue below 0 and orange above

    Returns the matplotlib figure. Raises ValueError for a model without linear layers, or whose widths do not follow.
    """
    if not isinstance(model, Module):
        raise TypeError(f"network: model is of type {type(model).__name__}, expected a tensorgrad.nn.Module")
    layers: list[tuple[str, Any]] = []
    after: dict[int, str] = {}
    for path, module in model._walk(every="path"):  # one that is used twice stands there twice
        if isinstance(module, Linear):
            layers.append((path, module.weight))
        elif layers and path and not module._modules and not isinstance(module, UNSAID):
            after[len(layers) - 1] = type(module).__name__
    if not layers:
        found = sorted({type(module).__name__ for _, module in model.named_modules()})
        raise ValueError(f"network: the model has no Linear layers to draw, only {', '.join(found)}")
    sizes = [layers[0][1].shape[0], *[w.shape[1] for _, w in layers]]
    for (path, w), width in zip(layers, sizes[:-1], strict=True):
        if w.shape[0] != width:
            raise ValueError(f"network: layer {path} takes {w.shape[0]} inputs, but the layer before it gives {width}")
    if limit < 3:
        raise ValueError(f"network: limit must be 3 or more, got {limit}")
    shown = [list(range(n)) if n <= limit else [*range(limit // 2), *range(n - (limit - 1 - limit // 2), n)] for n in sizes]
    places = [heights(n, len(s)) for n, s in zip(sizes, shown, strict=True)]
    top, bottom = max(ys[0] for ys in places), min(ys[-1] for ys in places)
    figure = new_figure("network", 1.5 + 1.9 * (len(sizes) - 1), 1.76 + 0.36 * (top - bottom))
    axes = figure.add_subplot()
    axes.set_axis_off()
    draw_weights(figure, axes, [w for _, w in layers], shown, places, weights)
    for i, (n, where) in enumerate(zip(sizes, places, strict=True)):
        colour = COLOURS[0] if i == 0 else COLOURS[2] if i == len(sizes) - 1 else COLOURS[1]
        axes.scatter([i] * len(where), where, s=150, color="white", edgecolors=colour, linewidths=1.8, zorder=3)
        if n > len(where):
            axes.text(i, 0, "⋮", ha="center", va="center", fontsize=17, color=GREY, zorder=3)
        axes.text(i, bottom - 0.5, f"{n:,}", ha="center", va="top", fontsize=10, color=INK)
        kind = "input" if i == 0 else after.get(i - 1, "output" if i == len(sizes) - 1 else "linear")
        axes.text(i, top + 0.5, kind, ha="center", va="bottom", fontsize=10, color=colour)
    axes.set_xlim(-0.4, len(sizes) - 0.6)
    axes.set_ylim(bottom - 1.4, top + 1.4)
    return figure


def heights(n: int, shown: int) -> list[float]:
    """Where the neurons of a column stand, from the top; with room for dots in the middle where some are left out."""
    slots = shown + (n > shown)
    ys = [(slots - 1) / 2 - k for k in range(slots)]
    if n > shown:
        del ys[(shown + 1) // 2]
        half = (shown + 1) // 2
        middle = (slots - 1) / 2 - half  # the dots stand at 0
        ys = [y - middle for y in ys]
    return ys


def draw_weights(
    figure: Any, axes: Any, tensors: list[Tensor], shown: list[list[int]], places: list[list[float]], coloured: bool
) -> None:
    """The lines between neighbouring columns."""
    from matplotlib.collections import LineCollection

    parts = [w.numpy()[np.ix_(shown[i], shown[i + 1])] for i, w in enumerate(tensors)]
    largest = max((float(np.abs(p).max(initial=0.0)) for p in parts), default=0.0) or 1.0
    for i, part in enumerate(parts):
        lines = [[(i, a), (i + 1, b)] for a in places[i] for b in places[i + 1]]
        if coloured:
            order = np.argsort(np.abs(part.ravel()), kind="stable")  # or pale lines would cut strong ones into dashes
            values = part.ravel()[order]
            widths = 0.3 + 1.6 * np.abs(values) / largest
            collection = LineCollection([lines[k] for k in order], cmap="PuOr_r", linewidths=widths, alpha=0.85, zorder=1)
            collection.set_array(values)
            collection.set_clim(-largest, largest)
        else:
            collection = LineCollection(lines, colors="#b9c2cb", linewidths=0.5, zorder=1)
        axes.add_collection(collection)
    if coloured:
        bar = figure.colorbar(axes.collections[0], ax=axes, shrink=0.6, pad=0.02)
        bar.set_label("weight")
        bar.outline.set_visible(False)


def as_array(value: Any) -> Array:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def as_images(caller: str, images: Any, shape: tuple[int, int] | None) -> Array:
    """(n, h, w)."""
    pixels = as_array(images)
    if pixels.ndim == 3:
        return pixels
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        return pixels[:, 0]
    if pixels.ndim != 2:
        raise ShapeError(f"{caller}: images has shape {pixels.shape}, expected (n, h, w) or (n, h * w)")
    side = math.isqrt(pixels.shape[1])
    h, w = shape or (side, side)
    if h * w != pixels.shape[1]:
        how = f"shape is {shape}" if shape else "they are not square; give shape=(h, w)"
        raise ShapeError(f"{caller}: images has {pixels.shape[1]} pixels in a row, but {how}")
    return pixels.reshape(-1, h, w)


def at_least_one(caller: str, argument: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{caller}: {argument} must be 1 or more, got {value}")


def as_labels(caller: str, argument: str, labels: Any, count: int | None, names: Sequence[str] | None) -> Array:
    """(n) integers from 0 on, each with a name if there are names."""
    array = as_array(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ShapeError(f"{caller}: {argument} has shape {array.shape} and dtype {array.dtype}, expected class indices (n)")
    if count is not None and len(array) != count:
        raise ShapeError(f"{caller}: {argument} has {len(array)} rows, expected {count}")
    if array.min(initial=0) < 0:
        raise LabelError(f"{caller}: {argument} has class {array.min()}, expected classes from 0 on")
    if names is not None and array.max(initial=-1) >= len(names):
        raise LabelError(f"{caller}: {argument} has class {array.max()}, but names has only {len(names)} names")
    return array


def name_of(label: Any, names: Sequence[str] | None) -> str:
    return str(int(label)) if names is None else plain(str(names[int(label)]))
