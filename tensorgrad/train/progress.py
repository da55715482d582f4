"""A progress bar."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tensorgrad.core.forks import await_at_fork, loading
from tensorgrad.core.ranks import ranks
from tensorgrad.errors import MissingDependencyError
from tensorgrad.train.run import Run


class Progress:
    """A tqdm bar over the batches of a training, in a terminal or a notebook; otherwise nothing is shown.

    enabled   True, False, or None for a bar if tqdm is installed
    """

    def __init__(self, enabled: bool | None, run: Run) -> None:
        self.epochs = run.epochs
        self.bar: Any = None
        if enabled is False or not ranks.is_first:
            return
        try:
            with loading:
                from tqdm.auto import tqdm
                from tqdm.std import TqdmDefaultWriteLock
        except ImportError:
            if enabled is None:
                return
            raise MissingDependencyError(
                "train.fit: progress=True shows a bar with tqdm, which is not installed; pip install tqdm"
            ) from None
        await_at_fork(TqdmDefaultWriteLock.th_lock)
        if sys.stderr.isatty() or in_notebook():
            done = run.epoch * len(run.loader) + (run.record.done if run.record else 0)
            self.bar = tqdm(total=run.epochs * len(run.loader), initial=done, unit="batch", desc=self.title(run.epoch + 1))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def title(self, epoch: int) -> str:
        return f"epoch {min(epoch, self.epochs)}/{self.epochs}"

    def update(self, batches: int = 1) -> None:
        """Advance by some batches."""
        if self.bar is not None:
            self.bar.update(batches)

    def epoch(self, row: dict[str, Any]) -> None:
        """Show the measurements of the last epoch."""
        if self.bar is not None:
            values = {name: f"{value:.4g}" for name, value in row.items() if name not in ("epoch", "lr", "seconds")}
            self.bar.set_postfix(values, refresh=False)
            self.bar.set_description(self.title(row["epoch"] + 1), refresh=False)


def in_notebook() -> bool:
    """Whether this runs in a notebook, which can show a bar although its stderr is not a terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")
