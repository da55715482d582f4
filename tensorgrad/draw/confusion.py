"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.state import named
from tensorgrad.draw.labels import as_labels, name_of
from tensorgrad.draw.style import INK, new_figure

SMALLEST = 4.5  # in points; smaller numbers are omitted


@named
def confusion(labels: Any, predicted: Any, *, names: Sequence[str] | None = None, normalise: bool = False) -> Any:
    """Plot the confusion matrix: a row for each true class, a column for each predicted one, with counts.

    labels, predicted  (n) class indices
    names              of the classes; by default their indices
    normalise          fractions of each row instead of counts

    Cells shrink with the number of classes; above some sixty classes only colours are shown, with a scale.

    Returns the matplotlib figure. Raises ShapeError for different numbers of labels, and LabelError for a class below 0 or
    without a name.
    """
    truth = as_labels("confusion", "labels", labels, None, names)
    predicted_labels = as_labels("confusion", "predicted", predicted, len(truth), names)
    classes = max(int(max(truth.max(initial=0), predicted_labels.max(initial=0))) + 1, len(names or ()))
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (truth, predicted_labels), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = min(0.5, 11 / max(classes, 1))  # inches
    figure = new_figure("confusion", 2.6 + cell * classes, 2.2 + cell * classes)
    axes = figure.add_subplot()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    texts = {
        (i, j): f"{share[i, j]:.0%}" if normalise else f"{counts[i, j]:,}"
        for i in range(classes)
        for j in range(classes)
        if counts[i, j] or i == j
    }
    size = min(9.0, 72 * cell * 0.9 / (0.6 * max(map(len, texts.values()), default=1)))  # a digit's width is 0.6 of its height
    if size >= SMALLEST:
        for (i, j), text in texts.items():
            colour = "white" if share[i, j] > 0.55 else INK
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)
    else:
        figure.colorbar(picture, ax=axes, shrink=0.6, pad=0.02).set_label("share of the true class")
    every = max(1, round(0.14 / cell))  # skip names that would overlap
    shown = range(0, classes, every)
    ticks = [name_of(k, names) for k in shown]
    is_rotated = max(map(len, ticks), default=0) * 0.09 > cell * every
    size = min(10, 72 * cell * every * 0.8)
    angle = 0 if not is_rotated else 45 if cell > 0.3 else 90
    axes.set_xticks(shown, ticks, rotation=angle, ha="right" if angle == 45 else "center", fontsize=size)
    axes.set_yticks(shown, ticks, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"accuracy {np.mean(truth == predicted_labels):.2%}" if len(truth) else "no samples", fontsize=11)
    axes.spines[:].set_visible(False)
    return figure
