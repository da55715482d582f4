"""Drawings of graphs with Graphviz, derivations as text, and figures of training, data and predictions with matplotlib."""

from tensorgrad.draw.architecture import architecture
from tensorgrad.draw.confusion import confusion
from tensorgrad.draw.curves import curves
from tensorgrad.draw.derive import Derivation, derive
from tensorgrad.draw.graph import Drawing, graph
from tensorgrad.draw.images import images, mistakes, predictions
from tensorgrad.draw.network import network
from tensorgrad.draw.play import Playback, play

__all__ = [
    "Derivation",
    "Drawing",
    "Playback",
    "architecture",
    "confusion",
    "curves",
    "derive",
    "graph",
    "images",
    "mistakes",
    "network",
    "play",
    "predictions",
]
