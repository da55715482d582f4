"""Training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.state import named
from tensorgrad.draw.style import COLOURS, GREY, LINES, new_figure, plain

COLUMNS = 3  # panels per row


@named
def curves(
    history: Mapping[str, Sequence[float]],
    *,
    best: int | None = None,
    title: str = "",
    log_loss: bool = True,
    every: int = 1,
) -> Any:
    """Plot a training history: losses in the first panel, then a panel for each metric.

    history   name to one value per epoch; "val_accuracy" is drawn with "accuracy", names ending in "loss" are losses. What else
              a History has, "epoch", "lr" and "seconds", is not drawn
    best      an epoch to mark, counted from 1
    log_loss  logarithmic axis for the losses, if all finite ones are above 0
    every     draw every so many epochs; all if there are fewer

    NaN and infinite values are named in the legend, and a dotted line marks the first such epoch.

    Returns the matplotlib figure.
    """
    if every < 1:
        raise ValueError(f"curves: every must be at least 1, got {every}")
    panels: dict[str, dict[str, Array]] = {}
    measured = [(name, series) for name, series in history.items() if name not in ("epoch", "lr", "seconds")]
    for name, series in sorted(measured, key=lambda item: not item[0].endswith("loss")):
        values = np.asarray(series, float)
        panels.setdefault("loss" if name.endswith("loss") else name.removeprefix("val_"), {})[name] = values
    columns = min(max(len(panels), 1), COLUMNS)
    rows = math.ceil(max(len(panels), 1) / columns)
    figure = new_figure("curves", 5.2 * columns, 3.8 * rows)
    for i, (quantity, panel) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        for k, (name, values) in enumerate(panel.items()):
            style = {"color": COLOURS[k % len(COLOURS)], "linestyle": LINES[k // len(COLOURS) % len(LINES)]}
            draw_series(axes, plain(name.replace("_", " ")), values, every if len(values) >= every else 1, style)
        if best is not None:
            axes.axvline(best, color=GREY, linestyle="--", linewidth=1, label=f"kept: epoch {best}")
        if quantity == "loss" and log_loss:
            make_logarithmic(axes, np.concatenate(list(panel.values())))
        finish(axes, quantity)
    if title:
        figure.suptitle(plain(title))
    return figure


def draw_series(axes: Any, label: str, values: Array, step: int, style: Mapping[str, str]) -> None:
    """A line through every `step` epochs, with dots for isolated and non-finite values."""
    epochs, shown = np.arange(step, len(values) + 1, step), values[step - 1 :: step].copy()
    finite = np.isfinite(shown)
    shown[~finite] = np.nan
    axes.plot(epochs, shown, marker="o" if len(shown) == 1 else None, label=label, linewidth=1.6, **style)
    before, after = np.r_[False, finite[:-1]], np.r_[finite[1:], False]
    alone = finite & ~before & ~after
    if alone.any() and len(shown) > 1:  # an isolated point has no visible line
        axes.plot(epochs[alone], shown[alone], marker="o", linestyle="none", color=style["color"])
    bad_epochs = np.flatnonzero(~np.isfinite(values)) + 1
    if len(bad_epochs):
        axes.axvline(
            bad_epochs[0], color=style["color"], linestyle=":", linewidth=1, label=f"{label}: {span(values, bad_epochs)}"
        )


def span(values: Array, bad_epochs: Array) -> str:
    """ "NaN from epoch 4", "infinite at epoch 2", "not finite at 3 of epochs 2 to 9"."""
    kinds = values[bad_epochs - 1]
    kind = "NaN" if np.isnan(kinds).all() else "infinite" if np.isinf(kinds).all() else "not finite"
    first, last = int(bad_epochs[0]), int(bad_epochs[-1])
    if last - first + 1 > len(bad_epochs):
        return f"{kind} at {len(bad_epochs)} of epochs {first} to {last}"
    if first == last:
        return f"{kind} at epoch {first}"
    return f"{kind} from epoch {first}" if last == len(values) else f"{kind} at epochs {first} to {last}"


def make_logarithmic(axes: Any, values: Array) -> None:
    """Use a logarithmic axis with labels over any range, if all finite values are positive."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    finite = values[np.isfinite(values)]
    if not len(finite) or finite.min() <= 0:
        return
    axes.set_yscale("log")
    factor = finite.max() / finite.min()
    subs = (1, 1.5, 2, 3, 4, 5, 7) if factor < 30 else (1, 2, 5) if factor < 1e4 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=10))  # the locator draws none if it finds too many
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    if factor >= 1e4:
        axes.yaxis.set_minor_locator(NullLocator())


def finish(axes: Any, quantity: str) -> None:
    """Labels, grid and legend of a panel."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10), min_n_ticks=1))
    axes.set_ylabel(plain(quantity.replace("_", " ")) + " (logarithmic)" * (axes.get_yscale() == "log"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
