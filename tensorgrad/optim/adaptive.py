"""Optimisers that scale each element's step by the size of its gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.tensor import Tensor


class Adam(Optimiser):
    """Adam (Kingma and Ba 2015, algorithm 1), with weight decay added to the gradient.

    d = g + weight_decay p;   m = b1 m + (1 - b1) d;   v = b2 v + (1 - b2) d²
    p = p - lr m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + eps)          at step t = 1, 2, ...
    """

    slots = ("m", "v")
    decoupled = False

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        b1, b2 = betas
        super().__init__(params, lr, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
        if b1 >= 1 or b2 >= 1:
            raise ValueError(f"{type(self).__name__}: betas must be below 1, got {betas}")

    def update(self, data: Array, g: Array, *state: Array) -> None:
        m, v = state
        s = self.settings
        d, work = g, self.scratch(data)
        if s["weight_decay"] and self.decoupled:
            data *= 1 - self.lr * s["weight_decay"]
        elif s["weight_decay"]:
            d = np.multiply(data, s["weight_decay"], out=self.scratch(data, "d"))
            d += g
        m *= s["b1"]
        m += np.multiply(d, 1 - s["b1"], out=work)
        v *= s["b2"]
        np.multiply(d, d, out=work)
        work *= 1 - s["b2"]
        v += work
        np.sqrt(v, out=work)
        work /= math.sqrt(1 - s["b2"] ** self.steps)
        work += s["eps"]
        np.divide(m, work, out=work)
        work *= self.lr / (1 - s["b1"] ** self.steps)
        data -= work


class AdamW(Adam):
    """Adam after p = p - lr weight_decay p: weight decay apart from the gradient (Loshchilov and Hutter 2019)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimiser):
    """RMSprop (Hinton, lecture 6e of "Neural Networks for Machine Learning", 2012).

    d = g + weight_decay p;   v = alpha v + (1 - alpha) d²;   p = p - lr d / (sqrt(v) + eps)
    """

    slots = ("v",)

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, alpha=alpha, eps=eps, weight_decay=weight_decay)

    def update(self, data: Array, g: Array, *state: Array) -> None:
        (v,) = state
        s = self.settings
        d, work = g, self.scratch(data)
        if s["weight_decay"]:
            d = np.multiply(data, s["weight_decay"], out=self.scratch(data, "d"))
            d += g
        v *= s["alpha"]
        np.multiply(d, d, out=work)
        work *= 1 - s["alpha"]
        v += work
        np.sqrt(v, out=work)
        work += s["eps"]
        np.divide(d, work, out=work)
        work *= self.lr
        data -= work


class Adagrad(Optimiser):
    """Adagrad (Duchi, Hazan and Singer 2011).

    d = g + weight_decay p;   v = v + d²;   p = p - lr d / (sqrt(v) + eps)
    """

    slots = ("v",)

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, eps=eps, weight_decay=weight_decay)

    def update(self, data: Array, g: Array, *state: Array) -> None:
        (v,) = state
        s = self.settings
        d, work = g, self.scratch(data)
        if s["weight_decay"]:
            d = np.multiply(data, s["weight_decay"], out=self.scratch(data, "d"))
            d += g
        v += np.multiply(d, d, out=work)
        np.sqrt(v, out=work)
        work += s["eps"]
        np.divide(d, work, out=work)
        work *= self.lr
        data -= work
