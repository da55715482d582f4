"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.tensor import Tensor

# The velocity of a weight that gets no more gradients (a pixel that is always 0, a dead unit) shrinks to subnormal numbers,
# on which a processor is several times slower: a digits epoch took twice as long after 16 epochs. So every FLUSH steps what
# is that small becomes 0.
FLUSH = 32


class SGD(Optimiser):
    """Gradient descent with momentum and weight decay, by PyTorch's formulas.

    momentum      0 for none
    weight_decay  0 for none
    nesterov      look ahead along the velocity (Sutskever et al. 2013); needs momentum

    d = g + weight_decay p;   v = momentum v + d;   p = p - lr v   (nesterov: p = p - lr (d + momentum v))
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")
        self.slots = ("velocity",) if momentum else ()

    def update(self, data: Array, g: Array, *state: Array) -> None:
        momentum, weight_decay = self.settings["momentum"], self.settings["weight_decay"]
        change = self.scratch(data)
        d = g
        if weight_decay:
            d = np.multiply(data, weight_decay, out=self.scratch(data, "d"))
            d += g
        if state:
            (v,) = state
            v *= momentum
            v += d
            if self.steps % FLUSH == 0 and v.dtype.itemsize >= 4:
                v[np.abs(v) < np.finfo(v.dtype).tiny * 2**26] = 0
            ahead = self.settings["nesterov"]
            d = np.add(np.multiply(v, momentum, out=change), d, out=change) if ahead else v
        np.multiply(d, self.lr, out=change)
        data -= change
