"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorgrad import writes
from tensorgrad.backend import Array
from tensorgrad.errors import GraphError
from tensorgrad.tensor import Tensor

# The velocity of a weight that gets no more gradients (a pixel that is always 0, a dead unit) shrinks to subnormal numbers,
# on which a processor is several times slower: a digits epoch took twice as long after 16 epochs. So every FLUSH steps what
# is that small becomes 0.
FLUSH = 32
SLICE = 65_536  # elements updated at a time: the slices of all arrays stay in the cache (1.3 M parameters: 720 to 380 µs)


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
        self._scratch: dict[Any, Array] = {}

    def step(self) -> None:
        """Change every parameter that has a gradient, in place."""
        self._steps += 1
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            writes.wrote(p.data)
            if self.momentum and self._velocity[i] is None:
                self._velocity[i] = np.zeros_like(p.data)
            data, d, v = p.data, p.grad.data, self._velocity[i]
            if p.data.size <= SLICE or not (data.flags.c_contiguous and d.flags.c_contiguous):
                self._update(data, d, v)
                continue
            data, d, v = data.reshape(-1), d.reshape(-1), None if v is None else v.reshape(-1)
            for start in range(0, data.size, SLICE):
                part = slice(start, start + SLICE)
                self._update(data[part], d[part], None if v is None else v[part])

    def _update(self, data: Array, d: Array, v: Array | None) -> None:
        scratch = self._scratch.get((data.shape, data.dtype))
        if scratch is None:
            scratch = self._scratch[data.shape, data.dtype] = np.empty_like(data)
        if self.weight_decay:
            np.multiply(data, self.weight_decay, out=scratch)
            d = np.add(scratch, d, out=scratch)
        if v is not None:
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
