"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorgrad.errors import MissingDependencyError

COLOURS = ("#2f6fb5", "#c98a00", "#2e8540", "#c04f4f")


def curves(
    history: Mapping[str, Sequence[float]],
    *,
    best: int | None = None,
    title: str = "",
    log_loss: bool = True,
    every: int = 1,
) -> Any:
    """A matplotlib figure of a training history: losses at the left, everything else at the right.

    history   name to one value per epoch; a name that ends in "loss" goes to the left
    best      an epoch (counted from 1) to mark
    log_loss  a logarithmic axis for the losses
    every     draw one epoch in so many, the last of them; all, if there are not as many
    """
    if every < 1:
        raise ValueError(f"curves: every must be 1 or more, got {every}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "draw.curves: needs matplotlib, which is not installed; pip install 'tensorgrad[train]'"
        ) from None
    losses = {name: values for name, values in history.items() if name.endswith("loss")}
    others = {name: values for name, values in history.items() if name not in losses}
    panels = [("loss", losses)] * bool(losses) + [("accuracy", others)] * bool(others)
    figure = Figure(figsize=(5.2 * max(len(panels), 1), 3.8), layout="constrained")
    for i, (quantity, series) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
            step = every if len(values) >= every else 1
            at = range(step, len(values) + 1, step)
            axes.plot(at, values[step - 1 :: step], label=name.replace("_", " "), color=colour, linewidth=1.6)
        if best is not None:
            axes.axvline(best, color="#999999", linestyle="--", linewidth=1, label=f"kept: epoch {best}")
        if quantity == "loss" and log_loss and all(v > 0 for values in series.values() for v in values):
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    if title:
        figure.suptitle(title)
    return figure
