"""Neural networks: modules with parameters, layers, initialisers, and losses as functions (`nn.functional`)."""

from tensorgrad.nn import containers, functional, init, layers, losses, module, normalisation
from tensorgrad.nn.containers import *
from tensorgrad.nn.layers import *
from tensorgrad.nn.losses import *
from tensorgrad.nn.module import *
from tensorgrad.nn.normalisation import *

__all__ = ["functional", "init"]
__all__ += containers.__all__
__all__ += layers.__all__
__all__ += losses.__all__
__all__ += module.__all__
__all__ += normalisation.__all__
