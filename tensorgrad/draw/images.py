"""Grids of images, optionally with a classifier's predictions or mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.state import named
from tensorgrad.draw.labels import as_array, as_labels, name_of
from tensorgrad.draw.style import GREY, INK, RED, new_figure, plain
from tensorgrad.errors import ArgumentError, DTypeError, LabelError, ShapeError

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with alpha


@named
def images(
    images: Any,
    titles: Sequence[Any] | None = None,
    *,
    columns: int = 8,
    limit: int = 32,
    shape: tuple[int, ...] | None = None,
    channels: str | None = None,
) -> Any:
    """Show images, grey or in colour, in a grid with titles.

    images    (n, h, w); (n, c, h, w) or (n, h, w, c) with c = 1 (grey), 3 (RGB) or 4 (RGB and alpha); or flat,
              (n, h * w): square unless `shape` is given
    titles    one for each image, converted to text
    columns   of the grid; at most `limit` images are shown
    shape     of a flat image: (h, w), (c, h, w) or (h, w, c)
    channels  "first" or "last": the axis of the channels, for ambiguous shapes

    In grey images the minimum is white and the maximum black. Colours are integers from 0 to 255 (uint8), or numbers from 0 to
    1; if any shown image has other values (normalised data), the values of all are scaled to 0 .. 1.

    Returns the matplotlib figure. Raises ShapeError for other shapes and numbers of titles, ArgumentError if the axis of the
    channels is ambiguous.
    """
    at_least_one("images", "limit", limit)
    pixels = as_images("images", images, shape, channels)
    if titles is not None and len(titles) != len(pixels):
        raise ShapeError(f"images: titles has {len(titles)} entries, expected {len(pixels)}")
    captions = [("" if titles is None else plain(str(titles[i])), INK) for i in range(min(limit, len(pixels)))]
    header = f"{limit} of {len(pixels):,} images" if len(pixels) > limit else None
    return grid("images", pixels[:limit], captions, columns, "no images", header)


@named
def predictions(
    images: Any,
    labels: Any,
    predicted: Any = None,
    *,
    names: Sequence[str] | None = None,
    columns: int = 8,
    limit: int = 32,
    shape: tuple[int, ...] | None = None,
    channels: str | None = None,
) -> Any:
    """Show images with their labels in a grid; if `predicted` differs, the title has both, in red. The header counts the right
    ones.

    images     as for `images`, with `shape` and `channels`
    labels     (n) class indices
    predicted  (n) class indices, optional
    names      of the classes; by default their indices
    columns    of the grid; at most `limit` images are shown

    Returns the matplotlib figure. Raises ShapeError for different numbers of rows and for flat images that are not square, and
    LabelError for a class below 0 or without a name.
    """
    at_least_one("predictions", "limit", limit)
    pixels = as_images("predictions", images, shape, channels)
    truth = as_labels("predictions", "labels", labels, len(pixels), names)
    predicted_labels = truth if predicted is None else as_labels("predictions", "predicted", predicted, len(pixels), names)
    titles = []
    for label, predicted_label in zip(truth[:limit], predicted_labels[:limit], strict=True):
        wrong = f"{name_of(predicted_label, names)}, not {name_of(label, names)}"
        titles.append((name_of(label, names), INK) if label == predicted_label else (wrong, RED))
    right = int((truth == predicted_labels)[:limit].sum())
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
    shape: tuple[int, ...] | None = None,
    channels: str | None = None,
) -> Any:
    """Show the misclassified images with both labels; with `probabilities` (n, classes) the most confident ones first.

    Other arguments, result and errors are those of `predictions`. If there are no mistakes, the figure says so.
    """
    at_least_one("mistakes", "limit", limit)
    pixels = as_images("mistakes", images, shape, channels)
    truth = as_labels("mistakes", "labels", labels, len(pixels), names)
    predicted_labels = as_labels("mistakes", "predicted", predicted, len(pixels), names)
    wrong = np.flatnonzero(truth != predicted_labels)
    confidence: Any = None
    if probabilities is not None:
        p = as_array(probabilities)
        if p.ndim != 2 or len(p) != len(pixels):
            raise ShapeError(f"mistakes: probabilities has shape {p.shape}, expected ({len(pixels)}, classes)")
        if predicted_labels.max(initial=-1) >= p.shape[1]:
            raise LabelError(
                f"mistakes: predicted has class {predicted_labels.max()}, but probabilities has {p.shape[1]} columns"
            )
        confidence = p[np.arange(len(p)), predicted_labels]
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    titles = []
    for i in wrong[:limit]:
        share = "" if confidence is None else f" ({confidence[i]:.0%})"
        titles.append((f"{name_of(predicted_labels[i], names)}, not {name_of(truth[i], names)}{share}", RED))
    header = f"{len(wrong):,} of {len(pixels):,} wrong" + (f", {limit} of them shown" if len(wrong) > limit else "")
    if len(wrong):
        header += ": what was predicted, not what is true" + ("" if confidence is None else " (its probability)")
    return grid("mistakes", pixels[wrong[:limit]], titles, columns, "no mistakes", header)


def grid(
    caller: str, pixels: Array, titles: list[tuple[str, str]], columns: int, nothing: str, header: str | None = None
) -> Any:
    """Images in rows and columns with titles, below a header that determines the minimum width."""
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
    if pixels.ndim == 4:
        pixels = as_colours(pixels)
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


def as_images(caller: str, images: Any, shape: tuple[int, ...] | None, channels: str | None) -> Array:
    """(n, h, w) in grey, or (n, h, w, c) in colour."""
    if channels not in (None, "first", "last"):
        raise ArgumentError(f"{caller}: channels must be 'first' or 'last', got {channels!r}")
    pixels = as_array(images)
    if pixels.dtype.kind not in "buif":
        raise DTypeError(f"{caller}: images must be numeric, got dtype {pixels.dtype}")
    if pixels.ndim == 2:
        side = math.isqrt(pixels.shape[1])
        image_shape = (side, side) if shape is None else shape
        if math.prod(image_shape) != pixels.shape[1]:
            reason = "they are not square; give shape=(h, w)" if shape is None else f"shape is {shape}"
            raise ShapeError(f"{caller}: images has {pixels.shape[1]} pixels in a row, but {reason}")
        pixels = pixels.reshape(-1, *image_shape)
    if pixels.ndim == 3:
        return pixels
    if pixels.ndim != 4:
        raise ShapeError(
            f"{caller}: images has shape {pixels.shape}, expected (n, h, w), (n, h * w), or (n, c, h, w) or (n, h, w, c)"
        )
    axis_names = {"first": 1, "last": 3}
    possible = [place for place, axis in axis_names.items() if pixels.shape[axis] in CHANNELS and channels in (None, place)]
    if not possible:
        raise ShapeError(f"{caller}: images has shape {pixels.shape}, expected 1, 3 or 4 channels at axis 1 or 3")
    if len(possible) > 1:
        raise ArgumentError(f"{caller}: images of shape {pixels.shape} is ambiguous; pass channels='first' or channels='last'")
    if possible == ["first"]:
        pixels = np.moveaxis(pixels, 1, -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def as_colours(pixels: Array) -> Array:
    """Colour images as numbers from 0 to 1, or bytes; other values are scaled, all by the same factor."""
    if pixels.dtype == np.uint8:
        return pixels
    pixels = pixels.astype(np.float64)
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if low < 0 or high > 1:
        pixels = (pixels - low) / ((high - low) or 1.0)
    return np.where(np.isfinite(pixels), pixels, 0.0)


def at_least_one(caller: str, argument: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{caller}: {argument} must be at least 1, got {value}")
