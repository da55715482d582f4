"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.errors import GraphError
from tensorgrad.tensor import Tensor

# The velocity of a weight that gets no more gradients (a pixel that is always 0, a dead unit) shrinks to subnormal numbers,
# on which a processor is several times slower: a digits epoch took twice as long after 16 epochs. So every FLUSH steps what
# is that small becomes 0.
FLUSH = 32


class SGD:
    """Gradient descent with momentum and weight decay, by PyTorch's formulas.

    params        leaf Tensors that require a gradient
    lr            learning rate, may be changed between steps
    momentum      0 for none
    weight_decay  0 for none

    d = gradient + weight_decay p;   v = momentum v + d (v = d at the first step);   p = p - lr v
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self.params = list(params)
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"SGD: {name} must be at least 0, got {value}")
        if not self.params:
            raise ValueError("SGD: params is empty")
        for i, p in enumerate(self.params):
            if not isinstance(p, Tensor) or not p.is_leaf or not p.requires_grad:
                raise GraphError(f"SGD: parameter {i} must be a leaf Tensor that requires a gradient, got {p!r}")
        self._steps = 0
        self._velocity: list[Array | None] = [None] * len(self.params)
        self._scratch: list[Array | None] = [None] * len(self.params)

    def step(self) -> None:
        """Change every parameter that has a gradient, in place."""
        self._steps += 1
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            data, d = p.data, p.grad.data
            scratch = self._scratch[i]
            if scratch is None or scratch.shape != data.shape:
                scratch = self._scratch[i] = np.empty_like(data)
            if self.weight_decay:
                np.multiply(data, self.weight_decay, out=scratch)
                d = np.add(scratch, d, out=scratch)
            if self.momentum:
                v = self._velocity[i]
                if v is None:
                    v = self._velocity[i] = d.copy()
                else:
                    v *= self.momentum
                    v += d
                    if self._steps % FLUSH == 0 and v.dtype.itemsize >= 4:
                        v[np.abs(v) < np.finfo(v.dtype).tiny * 2**26] = 0
                d = v
            np.multiply(d, self.lr, out=scratch)
            data -= scratch

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward() starts from nothing."""
        for p in self.params:
            p.grad = None
