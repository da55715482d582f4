"""What there is of a kind, by what modules list: tests that go over all of it find what is added."""

from __future__ import annotations

from inspect import signature
from typing import Any

from tensorgrad import nn, optim
from tensorgrad.nn import losses
from tensorgrad.testing import strategies


def public(module: Any, kind: type) -> list[Any]:
    """The classes of a kind that a module lists, in its order, without the kind itself."""
    found = (getattr(module, name) for name in module.__all__)
    return [c for c in found if isinstance(c, type) and issubclass(c, kind) and c is not kind]


ACTIVATIONS = strategies.ACTIVATIONS  # modules by the names of their ops
LAYERS = public(nn, nn.Module)
LOSSES = public(nn, losses.Loss)
PAIRED = [loss for loss in LOSSES if len(signature(loss.forward).parameters) == 3]  # itself, a prediction and a target
OPTIMISERS = [c for c in public(optim, optim.Optimiser) if c.update is not optim.Optimiser.update]  # not LBFGS
SCHEDULES = public(optim, optim.Schedule)
