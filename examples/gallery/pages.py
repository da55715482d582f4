"""What every page of the gallery does when it is run: read its flags, and print its losses as a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

Losses = dict[str, list[float]]  # a column of the table each, by what it is of


def show(doc: str | None, losses: Callable[..., Losses], steps: int, argv: Sequence[str] | None = None) -> Losses:
    """Compute losses(steps, compiled) and print about ten rows of them. `steps` is how many there are without --steps."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps, help=f"how many steps (default: {steps})")
    parser.add_argument("--eager", action="store_true", help="run each step as it is written, not compiled")
    args = parser.parse_args(argv)
    columns = losses(args.steps, not args.eager)
    print(f"{'step':>5}", *(f"{name:>14}" for name in columns))
    count = max(map(len, columns.values()))
    for i in sorted({*range(0, count, max(count // 10, 1)), count - 1}):
        print(f"{i + 1:5}", *(f"{column[i]:14.5g}" if i < len(column) else f"{'':14}" for column in columns.values()))
    return columns
