"""The derivatives to compare: weighted sums of the outputs (rows) along directions of one input (columns)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.testing.recording import Recording

DECADES = 1e-3  # entries that differ by a larger factor do not move together
LAST = 255  # the level of zeros and NaN


@dataclass(frozen=True)
class View:
    """Derivatives of a problem by one input.

    i           the index of the input;  shape: of it
    weights     (rows, outputs); None: each output separately
    directions  one for each column, of the input's shape; None: each entry separately
    entries     the entries, if there are no directions
    """

    i: int
    shape: tuple[int, ...]
    outputs: int
    weights: Array | None = None
    directions: Sequence[Array] | None = None
    entries: Sequence[int] = ()

    @property
    def columns(self) -> int:
        return len(self.entries if self.directions is None else self.directions)

    def direction(self, k: int) -> Array:
        """The direction of column k."""
        if self.directions is not None:
            return self.directions[k]
        result = np.zeros(self.shape)
        result.reshape(-1)[self.entries[k]] = 1
        return result

    def rows(self) -> Iterator[Array]:
        """The weights of the outputs, row by row."""
        if self.weights is not None:
            yield from self.weights
            return
        for k in range(self.outputs):
            weights = np.zeros(self.outputs)
            weights[k] = 1
            yield weights

    def of(self, values: Array) -> Array:
        """Apply the row weights to the outputs or their derivatives."""
        if self.weights is None:
            return values
        with np.errstate(all="ignore"):
            return np.asarray(self.weights @ values)

    def sizes(self, at: Array) -> Array:
        """The magnitude of the numbers that each row sums."""
        return np.abs(at) if self.weights is None else np.asarray(np.abs(self.weights) @ np.abs(at))

    def recorded(self, recording: Recording) -> Array:
        """The recorded derivatives, (rows, columns)."""
        return self.columns_of([recording.gradients(w, [self.i])[0] for w in self.rows()])

    def columns_of(self, gradients: Sequence[Array]) -> Array:
        """The columns of the gradients of all rows."""
        result = np.zeros((len(gradients), self.columns), gradients[0].dtype if gradients else np.float64)
        for row, g in zip(result, gradients, strict=True):
            if self.directions is None:
                row[:] = g.reshape(-1)[np.asarray(self.entries, int)]
            else:
                with np.errstate(all="ignore"):
                    for k, v in enumerate(self.directions):
                        terms = g * v
                        total = terms.sum()
                        row[k] = total if np.isfinite(total) else terms[v != 0].sum()  # infinite for fixed entries
        return result

    def only(self, columns: Sequence[int]) -> View:
        """A view with some of the columns."""
        if self.directions is None:
            return replace(self, entries=[self.entries[k] for k in columns])
        return replace(self, directions=[self.directions[k] for k in columns])

    def each_of(self, entries: Sequence[int]) -> View:
        """The same rows by single entries."""
        return replace(self, directions=None, entries=entries)


def groups(size: Array) -> list[Array]:
    """Masks of entries of similar size: three orders of magnitude each, zeros separately."""
    if not size.size:
        return []
    with np.errstate(all="ignore"):
        level = np.array(np.floor(np.log10(size / size.max()) / np.log10(DECADES)) if size.max() > 0 else np.zeros(size.shape))
    if not level.any():
        return [np.ones(size.shape, bool)]
    level[~np.isfinite(level)] = LAST
    levels = level.astype(np.uint8)  # float64 spans 632 decades
    return [levels == k for k in np.flatnonzero(np.bincount(levels.ravel()))]
