"""Neural networks: modules with parameters, layers, initialisers, and losses as functions (`nn.functional`)."""

from typing import TYPE_CHECKING

from tensorgrad.core.installation import missing
from tensorgrad.nn import (
    activations,
    attention,
    containers,
    convolution,
    ensemble,
    functional,
    images,
    init,
    layers,
    losses,
    module,
    normalisation,
    recurrent,
)
from tensorgrad.nn.activations import *
from tensorgrad.nn.attention import *
from tensorgrad.nn.containers import *
from tensorgrad.nn.convolution import *
from tensorgrad.nn.ensemble import *
from tensorgrad.nn.images import *
from tensorgrad.nn.layers import *
from tensorgrad.nn.losses import *
from tensorgrad.nn.module import *
from tensorgrad.nn.normalisation import *
from tensorgrad.nn.recurrent import *

__all__ = ["functional", "init"]
__all__ += activations.__all__
__all__ += attention.__all__
__all__ += containers.__all__
__all__ += convolution.__all__
__all__ += ensemble.__all__
__all__ += images.__all__
__all__ += layers.__all__
__all__ += losses.__all__
__all__ += module.__all__
__all__ += normalisation.__all__
__all__ += recurrent.__all__

if not TYPE_CHECKING:  # a type checker would otherwise accept any name

    def __getattr__(name: str) -> None:
        missing(__name__, name)
