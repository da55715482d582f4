"""The multi-layer perceptron, as a module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np

from tensorgrad import nn
from tensorgrad.nn import init
from tensorgrad.nn.layers import ACTIVATIONS as ACTIVATIONS_BY_OP

ACTIVATIONS: dict[str, Callable[[], nn.Module] | None] = {
    "relu": nn.ReLU,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": None,
    **{name: module for name, module in ACTIVATIONS_BY_OP.items() if module is not nn.Sigmoid},  # which is "logistic"
}

Activation: TypeAlias = str | Callable[[], nn.Module]
Kind = TypeVar("Kind", bound=type)


def naming_activations(kind: Kind) -> Kind:
    """Insert the names of all activations into the docstring of a class."""
    names = ", ".join(f'"{name}"' for name in ACTIVATIONS)
    kind.__doc__ = (kind.__doc__ or "").replace("{activations}", names)
    return kind


@naming_activations
class MLP(nn.Sequential):
    """Linear layers of the given widths with activations in between; the outputs are logits.

    widths       inputs, hidden layers, outputs: (64, 500, 500, 10)
    activation   {activations};
                 or a function that returns a module, such as nn.GELU; or a list with one for each hidden layer
    dropout      the probability of dropping an output of a hidden layer in training
    weight_init  from nn.init; N(0, 2/in) by default. Biases start at 0.
    rng          NumPy generator for initial weights and dropout; by default those that nn.init.seed and nn.functional.seed
                 seed
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Activation | Sequence[Activation] = "relu",
        *,
        dropout: float = 0.0,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        if len(widths) < 2 or any(not isinstance(n, (int, np.integer)) or n < 1 for n in widths):
            raise ValueError(f"MLP: widths must be two or more positive integers, got {tuple(widths)}")
        factories = activations(activation, len(widths) - 2)
        weight_init = weight_init or init.he_normal()
        modules: list[nn.Module] = []
        for i, (n, m) in enumerate(pairwise(widths)):
            if i and (factory := factories[i - 1]) is not None:
                modules.append(factory())
            if i and dropout:
                modules.append(nn.Dropout(dropout, rng=rng))
            modules.append(nn.Linear(n, m, weight_init=weight_init, bias_init=init.zeros(), rng=rng, dtype=dtype))
        super().__init__(*modules)


def activations(activation: Any, layers: int) -> list[Callable[[], nn.Module] | None]:
    """A function for the activation of each hidden layer; None for a layer without one."""
    is_list = isinstance(activation, (tuple, list))
    entries = list(activation) if is_list else [activation] * layers
    for entry in entries if is_list else [activation]:
        if entry not in ACTIVATIONS if isinstance(entry, str) else isinstance(entry, nn.Module) or not callable(entry):
            expected = f"one of {sorted(ACTIVATIONS)}, or a function that returns a module"
            raise ValueError(f"MLP: activation must be {expected}, got {entry!r}")
    if len(entries) != layers:
        raise ValueError(f"MLP: activation has {len(entries)} entries for {layers} hidden layers, expected one per layer")
    return [ACTIVATIONS[entry] if isinstance(entry, str) else entry for entry in entries]
