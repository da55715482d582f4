"""A matplotlib figure that is a picture in a notebook. Imported only where matplotlib is there."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A Figure that a notebook shows as the last line of a cell, whether or not a backend of pyplot was chosen there."""

    def _repr_png_(self) -> bytes | None:
        content = io.BytesIO()
        try:
            self.savefig(content, format="png")
        except Exception:  # a notebook's repr never raises
            return None
        return content.getvalue()
