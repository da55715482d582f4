"""Training curves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tensorgrad.core.state import named
from tensorgrad.core.table import visible
from tensorgrad.errors import MissingDependencyError

COLOURS = ("#2f6fb5", "#c98a00", "#2e8540", "#c04f4f")


@named
def curves(
    history: Mapping[str, Sequence[float]],
    *,
    best: int | None = None,
    title: str = "",
    log_loss: bool = True,
    every: int = 1,
) -> Any:
    """A matplotlib figure of a training history: the losses at the left, then a panel for each metric.

    history   name to one value per epoch; "val_accuracy" goes to "accuracy", and all that ends in "loss" to the losses
    best      an epoch (counted from 1) to mark
    log_loss  a logarithmic axis for the losses
    every     draw one epoch in so many, the last of them; all, if there are not as many
    """
    if every < 1:
        raise ValueError(f"curves: every must be 1 or more, got {every}")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
    except ImportError:
        raise MissingDependencyError("draw.curves: needs matplotlib, which is not installed; pip install matplotlib") from None
    panels: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in sorted(history.items(), key=lambda item: not item[0].endswith("loss")):
        panels.setdefault("loss" if name.endswith("loss") else name.removeprefix("val_"), {})[name] = values
    figure = Figure(figsize=(5.2 * max(len(panels), 1), 3.8), layout="constrained")
    for i, (quantity, series) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for colour, (name, values) in zip(itertools.cycle(COLOURS), series.items(), strict=False):
            step = every if len(values) >= every else 1
            at = range(step, len(values) + 1, step)
            marker = "o" if len(at) == 1 else None  # a line of one point would not be seen
            label = plain(name.replace("_", " "))
            axes.plot(at, values[step - 1 :: step], marker=marker, label=label, color=colour, linewidth=1.6)
        if best is not None:
            axes.axvline(best, color="#999999", linestyle="--", linewidth=1, label=f"kept: epoch {best}")
        if quantity == "loss" and log_loss and all(v > 0 for values in series.values() for v in values):
            axes.set_yscale("log")
            seen = [v for values in series.values() for v in values]
            narrow = max(seen) < 30 * min(seen)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7) if narrow else (1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10), min_n_ticks=1))
        axes.set_ylabel(plain(quantity.replace("_", " ")) + " (logarithmic)" * (axes.get_yscale() == "log"))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    if title:
        figure.suptitle(plain(title))
    return figure


def plain(text: str) -> str:
    """Text in which matplotlib finds no formula, and nothing that it has no picture of."""
    return visible(text).replace("$", r"\$")
