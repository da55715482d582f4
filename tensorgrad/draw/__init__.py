"""Pictures: computation graphs with Graphviz, their derivations as text, training curves with matplotlib."""

from tensorgrad.draw.curves import curves
from tensorgrad.draw.derive import Derivation, derive
from tensorgrad.draw.graph import Drawing, graph

__all__ = ["Derivation", "Drawing", "curves", "derive", "graph"]
