"""Optimisers that scale each element's step by the size of its gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from tensorgrad.core.op import Value
from tensorgrad.core.tensor import Tensor
from tensorgrad.optim.optimiser import Optimiser


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

    def numbers(self) -> dict[str, float]:
        s, b1, b2 = self.settings, self.settings["b1"], self.settings["b2"]
        rest = {"weight_decay": self.lr * s["weight_decay"] if self.decoupled else s["weight_decay"]}
        return {
            "b1": b1,
            "b2": b2,
            "c1": 1 - b1,
            "c2": 1 - b2,
            "rate": self.lr / (1 - b1**self.steps),
            "root": 1 / math.sqrt(1 - b2**self.steps),
            "eps": s["eps"],
            **(rest if s["weight_decay"] else {}),
        }

    def update(self, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        m, v = state
        n = numbers
        d = g
        if self.settings["weight_decay"] and self.decoupled:
            p = p - n["weight_decay"] * p
        elif self.settings["weight_decay"]:
            d = g + n["weight_decay"] * p
        m = n["b1"] * m + n["c1"] * d
        v = n["b2"] * v + n["c2"] * (d * d)
        return p - n["rate"] * m / (np.sqrt(v) * n["root"] + n["eps"]), m, v


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

    def numbers(self) -> dict[str, float]:
        s = self.settings
        rest = {"weight_decay": s["weight_decay"]} if s["weight_decay"] else {}
        return {"lr": self.lr, "alpha": s["alpha"], "beta": 1 - s["alpha"], "eps": s["eps"], **rest}

    def update(self, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        d = g + numbers["weight_decay"] * p if self.settings["weight_decay"] else g
        v = numbers["alpha"] * state[0] + numbers["beta"] * (d * d)
        return p - numbers["lr"] * d / (np.sqrt(v) + numbers["eps"]), v


class Adagrad(Optimiser):
    """Adagrad (Duchi, Hazan and Singer 2011).

    d = g + weight_decay p;   v = v + d²;   p = p - lr d / (sqrt(v) + eps)
    """

    slots = ("v",)

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, eps=eps, weight_decay=weight_decay)

    def numbers(self) -> dict[str, float]:
        s = self.settings
        return {"lr": self.lr, "eps": s["eps"], **({"weight_decay": s["weight_decay"]} if s["weight_decay"] else {})}

    def update(self, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        d = g + numbers["weight_decay"] * p if self.settings["weight_decay"] else g
        v = state[0] + d * d
        return p - numbers["lr"] * d / (np.sqrt(v) + numbers["eps"]), v
