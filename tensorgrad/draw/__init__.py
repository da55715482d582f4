"""Pictures: computation graphs with Graphviz, training curves with matplotlib."""

from tensorgrad.draw.curves import curves
from tensorgrad.draw.graph import Drawing, graph

__all__ = ["Drawing", "curves", "graph"]
