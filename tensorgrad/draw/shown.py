"""A matplotlib figure with a notebook representation. Imported only if matplotlib is installed."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A Figure that a notebook displays as the last line of a cell, with or without a pyplot backend."""

    def _repr_png_(self) -> bytes | None:
        content = io.BytesIO()
        try:
            self.savefig(content, format="png")
        except Exception:  # must not raise an error in a notebook
            return None
        return content.getvalue()
