"""What all optimisers share: the parameters, the state that goes with each, the walk over them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tensorgrad import writes
from tensorgrad.backend import Array
from tensorgrad.errors import GraphError, ShapeError
from tensorgrad.tensor import Tensor

SLICE = 65_536  # elements updated at a time: the slices of all arrays stay in the cache (SGD of 1.3 M: 720 to 380 µs)


class Optimiser:
    """Base of the optimisers. A subclass names its per-parameter arrays in `slots` and defines `update`.

    params     leaf Tensors that require a gradient
    lr         learning rate, may be changed between steps
    settings   the other numbers, at least 0, that the update reads; they are attributes and part of the state

    Parameters are changed in place, in their own memory; one without a gradient is left alone.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float, **settings: float) -> None:
        self.params = list(params)
        self.lr = lr
        self.steps = 0
        self.settings = settings
        name = type(self).__name__
        for key, value in {"lr": lr, **settings}.items():
            if not value >= 0:
                raise ValueError(f"{name}: {key} must be at least 0, got {value}")
        if not self.params:
            raise ValueError(f"{name}: params is empty")
        for i, p in enumerate(self.params):
            if not isinstance(p, Tensor) or not p.is_leaf or not p.requires_grad:
                raise GraphError(f"{name}: parameter {i} must be a leaf Tensor that requires a gradient, got {p!r}")
        self.state: list[dict[str, Array]] = [{} for _ in self.params]
        self._scratch: dict[Any, Array] = {}
        self._warned = False

    def step(self) -> None:
        """Change every parameter that has a gradient. Warns once, naming them, of parameters that the loss does not reach."""
        self.steps += 1
        missing = [i for i, p in enumerate(self.params) if p.grad is None]
        if missing and not self._warned:
            self._warned = True
            names = ", ".join(f"{self.params[i].name or f'parameter {i}'} {self.params[i].shape}" for i in missing)
            warnings.warn(f"{type(self).__name__}: no gradient reached {names}: the loss does not depend on it", stacklevel=2)
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            data, g = p.data, p.grad.data
            if g.shape != data.shape:
                raise ShapeError(
                    f"{type(self).__name__}: the gradient of parameter {i} has shape {g.shape}, expected {data.shape}"
                )
            state = self.state[i]
            for slot in self.slots:
                if slot not in state:
                    state[slot] = np.zeros_like(data)
            writes.wrote(data)
            if data.size <= SLICE or not (data.flags.c_contiguous and g.flags.c_contiguous):
                self.update(data, g, *state.values())
                continue
            flat = [a.reshape(-1) for a in (data, g, *state.values())]
            for start in range(0, data.size, SLICE):
                self.update(*[a[start : start + SLICE] for a in flat])

    def update(self, data: Array, g: Array, *state: Array) -> None:
        """Change `data` and its state in place by the gradient g, which stays as it is."""
        raise TypeError(f"{type(self).__name__} does not define update()")

    def scratch(self, like: Array, name: str = "") -> Array:
        """An array of the same shape and dtype to compute in, the same one each time."""
        key = (like.shape, like.dtype, name)
        if key not in self._scratch:
            self._scratch[key] = np.empty_like(like)
        return self._scratch[key]

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward() starts from nothing."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides the parameters, copied."""
        return {"lr": self.lr, "steps": self.steps, "settings": dict(self.settings), "state": copy.deepcopy(self.state)}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on as the optimiser that `state_dict` was taken from. Raises ShapeError if its parameters had other shapes."""
        for i, (p, arrays) in enumerate(zip(self.params, values["state"], strict=False)):
            for slot, array in arrays.items():
                if slot not in self.slots or array.shape != p.shape:
                    raise ShapeError(
                        f"{type(self).__name__}.load_state_dict: {slot} of parameter {i} has shape {array.shape}, expected "
                        f"one of {self.slots} of shape {p.shape}"
                    )
        if len(values["state"]) != len(self.params):
            raise ShapeError(
                f"{type(self).__name__}.load_state_dict: state of {len(values['state'])} parameters for {len(self.params)}"
            )
        self.lr, self.steps, self.settings = values["lr"], values["steps"], dict(values["settings"])
        self.state = copy.deepcopy(values["state"])
