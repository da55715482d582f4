"""Pictures: computation graphs with Graphviz, their derivations as text, and with matplotlib what a model learns and says."""

from tensorgrad.draw.curves import curves
from tensorgrad.draw.derive import Derivation, derive
from tensorgrad.draw.graph import Drawing, graph
from tensorgrad.draw.pictures import confusion, mistakes, network, predictions

__all__ = ["Derivation", "Drawing", "confusion", "curves", "derive", "graph", "mistakes", "network", "predictions"]
