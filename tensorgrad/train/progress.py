"""A progress bar, if one can be shown."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tensorgrad.errors import MissingDependencyError


class Progress:
    """A bar of tqdm's over the batches of a training, in a terminal or a notebook; elsewhere nothing is shown.

    wanted   True, False, or None for a bar if tqdm is installed
    """

    def __init__(self, wanted: bool | None, epochs: int, batches: int, done: int) -> None:
        self.epochs = epochs
        self.bar: Any = None
        if wanted is False:
            return
        try:
            from tqdm.auto import tqdm
        except ImportError:
            if wanted is None:
                return
            raise MissingDependencyError(
                "train.fit: progress=True shows a bar with tqdm, which is not installed; pip install tqdm"
            ) from None
        if sys.stderr.isatty() or "ipykernel" in sys.modules:  # a notebook's stderr is no terminal, but has a place for it
            self.bar = tqdm(
                total=epochs * batches, initial=done, unit="batch", desc=f"epoch {min(done // batches + 1, epochs)}/{epochs}"
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def epoch(self, row: dict[str, Any]) -> None:
        """Show what was measured in an epoch that has ended."""
        if self.bar is not None:
            shown = {name: f"{value:.4g}" for name, value in row.items() if name not in ("epoch", "lr", "seconds")}
            self.bar.set_postfix(shown, refresh=False)
            self.bar.set_description(f"epoch {min(row['epoch'] + 1, self.epochs)}/{self.epochs}", refresh=False)
