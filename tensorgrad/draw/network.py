"""Draws a multi-layer perceptron as columns of neurons."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad.core.node import Node
from tensorgrad.core.state import named, switched
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.style import COLOURS, GREY, INK, new_figure
from tensorgrad.errors import TensorgradError
from tensorgrad.nn.layers import Dropout, Identity, Linear
from tensorgrad.nn.module import Module
from tensorgrad.nn.normalisation import BatchNorm1d, LayerNorm

UNLABELLED = (BatchNorm1d, Dropout, Identity, LayerNorm)  # when next to an activation, they do not label a column
WIDEST = 14.0  # inches


@named
def network(model: Module, *, limit: int = 12, weights: bool = False) -> Any:
    """Draw a multi-layer perceptron as columns of neurons, from inputs on the left, with a line for each weight.

    model    a module with consecutive Linear layers, such as nn.Sequential or tensorgrad.models.MLP
    limit    neurons per column; of a wider layer the first and last ones, with dots in between
    weights  colour the lines by weight, blue below 0 and orange above

    Returns the matplotlib figure. Raises ValueError for other networks: without linear layers, with other layers that have
    parameters, with widths that do not match, with skips or branches. Use `draw.graph(model, x)` for those.
    """
    if not isinstance(model, Module):
        raise TypeError(f"network: model has type {type(model).__name__}, expected a tensorgrad.nn.Module")
    if limit < 3:
        raise ValueError(f"network: limit must be at least 3, got {limit}")
    layers: list[tuple[str, Any]] = []
    after: dict[int, str] = {}
    for path, module in model._walk(every="path"):  # once for each use
        if isinstance(module, Linear):
            layers.append((path, module.weight))
        elif layers and path and not module._modules and not isinstance(module, UNLABELLED):
            after[len(layers) - 1] = type(module).__name__
    refuse_other_layers(model, layers)
    sizes = [layers[0][1].shape[0], *[w.shape[1] for _, w in layers]]
    for (path, w), width in zip(layers, sizes[:-1], strict=True):
        if w.shape[0] != width:
            raise ValueError(f"network: layer {path} takes {w.shape[0]} inputs, but the previous layer has {width} outputs")
    refuse_branches(model, layers)
    drawn_units = [
        list(range(n)) if n <= limit else [*range(limit // 2), *range(n - (limit - 1 - limit // 2), n)] for n in sizes
    ]
    unit_heights = [heights(n, len(s)) for n, s in zip(sizes, drawn_units, strict=True)]
    top, bottom = max(ys[0] for ys in unit_heights), min(ys[-1] for ys in unit_heights)
    between = min(1.9, WIDEST / max(len(sizes) - 1, 1))
    figure = new_figure("network", 1.5 + between * (len(sizes) - 1), 1.76 + 0.36 * (top - bottom))
    axes = figure.add_subplot()
    axes.set_axis_off()
    draw_weights(figure, axes, [w for _, w in layers], drawn_units, unit_heights, weights)
    for i, (n, neuron_ys) in enumerate(zip(sizes, unit_heights, strict=True)):
        colour = COLOURS[0] if i == 0 else COLOURS[2] if i == len(sizes) - 1 else COLOURS[1]
        axes.scatter([i] * len(neuron_ys), neuron_ys, s=150, color="white", edgecolors=colour, linewidths=1.8, zorder=3)
        if n > len(neuron_ys):
            axes.text(i, 0, "⋮", ha="center", va="center", fontsize=17, color=GREY, zorder=3)
        axes.text(i, bottom - 0.5, f"{n:,}", ha="center", va="top", fontsize=10, color=INK)
        kind = "input" if i == 0 else after.get(i - 1, "output" if i == len(sizes) - 1 else "linear")
        axes.text(i, top + 0.5, kind, ha="center", va="bottom", fontsize=10, color=colour)
    axes.set_xlim(-0.4, len(sizes) - 0.6)
    axes.set_ylim(bottom - 1.4, top + 1.4)
    return figure


def refuse_other_layers(model: Module, layers: list[tuple[str, Any]]) -> None:
    """Refuse, for example, convolutions: without them the picture would be of another network."""
    if not layers:
        kinds = sorted({type(module).__name__ for _, module in model.named_modules()})
        raise ValueError(f"network: the model has no Linear layers to draw, only {', '.join(kinds)}")
    for path, module in model.named_modules():
        if module._parameters and not isinstance(module, (Linear, *UNLABELLED)):
            described = f"{path} of type {type(module).__name__}" if path else f"the model itself, a {type(module).__name__},"
            raise ValueError(
                f"network: {described} has parameters and is not a Linear layer; draw.graph(model, x) draws every kind of layer"
            )


def refuse_branches(model: Module, layers: list[tuple[str, Any]]) -> None:
    """Check, in a run with one row, that each layer's input is the output of the one before."""
    width, weight = layers[0][1].shape[0], layers[0][1]
    row = Tensor(np.zeros((1, width), weight.dtype), device=weight.device, requires_grad=True)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with switched(recording=True):
            end = model(row)
    except TensorgradError as error:
        message = f"network: the model does not take a row of {width} numbers; draw.graph(model, x) draws every model"
        raise ValueError(message) from error
    finally:
        for module in training:
            module.training = True
    leaves = {path for path, module in model.named_modules() if not module._modules}
    chain: list[Tensor] = []  # weights, last first
    at = end.node if isinstance(end, Tensor) else None
    while at is not None:
        part = [at] if at.function is None and at.scope not in leaves else same_part(at)
        chain += [leaf for node in part for leaf in node.inputs if any(leaf is w for _, w in layers)]
        inside = {id(node) for node in part}
        before = [i for node in part for i in node.inputs if id(i) not in inside and depends(i, row)]
        different = {id(i) for i in before}
        if len(different) != 1:
            where = f" in {at.scope}" if at.scope else ""
            meeting = f"{len(different)} results meet in {at.op.name}{where}"
            reason = meeting if different else "the result does not depend on the input"
            raise ValueError(f"network: the layers are not a sequence: {reason}; draw.graph(model, x) draws every model")
        at = before[0] if isinstance(before[0], Node) else None
    if [id(w) for w in reversed(chain)] != [id(w) for _, w in layers]:
        raise ValueError(
            "network: the model calls its layers in a different order than it stores them, or not each of them once; "
            "draw.graph(model, x) draws every model"
        )


def same_part(end: Node) -> list[Node]:
    """The nodes of the call that ends in a node: of a module without submodules, or a function of several ops."""
    part, seen = [end], {id(end)}
    for node in part:
        for i in node.inputs:
            if isinstance(i, Node) and (i.scope, i.function) == (end.scope, end.function) and id(i) not in seen:
                seen.add(id(i))
                part.append(i)
    return part


def depends(value: Any, row: Tensor) -> bool:
    """Whether a node or a leaf depends on a Tensor."""
    stack, seen = [value], set()
    while stack:
        at = stack.pop()
        if at is row:
            return True
        if isinstance(at, Node) and id(at) not in seen:
            seen.add(id(at))
            stack += at.inputs
    return False


def heights(n: int, drawn_units: int) -> list[float]:
    """The positions of a column's neurons, from the top, with a gap for dots if some are omitted."""
    slots = drawn_units + (n > drawn_units)
    ys = [(slots - 1) / 2 - k for k in range(slots)]
    if n > drawn_units:
        del ys[(drawn_units + 1) // 2]
        half = (drawn_units + 1) // 2
        middle = (slots - 1) / 2 - half  # the dots are at 0
        ys = [y - middle for y in ys]
    return ys


def draw_weights(
    figure: Any, axes: Any, tensors: list[Tensor], drawn_units: list[list[int]], unit_heights: list[list[float]], coloured: bool
) -> None:
    """The lines between neighbouring columns."""
    from matplotlib.collections import LineCollection

    parts = [w.numpy()[np.ix_(drawn_units[i], drawn_units[i + 1])] for i, w in enumerate(tensors)]
    largest = max((float(np.abs(p).max(initial=0.0)) for p in parts), default=0.0) or 1.0
    for i, part in enumerate(parts):
        lines = [[(i, a), (i + 1, b)] for a in unit_heights[i] for b in unit_heights[i + 1]]
        if coloured:
            order = np.argsort(np.abs(part.ravel()), kind="stable")  # strong lines last, on top of pale ones
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
