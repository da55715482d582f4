"""Optimisers that scale the step of each element by the size of its gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.op import Value
from tensorgrad.errors import ArgumentError
from tensorgrad.optim.arguments import BELOW_ONE, SHARE, Limits, number
from tensorgrad.optim.block import Block
from tensorgrad.optim.group import ParamGroup
from tensorgrad.optim.optimiser import Optimiser


class Adaptive(Optimiser):
    """Base of the optimisers that divide by the root of a mean or a sum of squared gradients, plus eps.

    The state holds the root r = sqrt(v), not v: in float32 the squares of gradients above 1.8e19 or below 1e-19 would overflow
    or underflow, but their root never does.

    An eps of 0 is replaced by the smallest number of the dtype (1.4e-45, float64: 4.9e-324): a gradient that has always been 0
    then makes a step of 0.

    Subnormal numbers are only flushed from a divisor where it is negligible beside eps; see `bounds`.
    """

    def numbers_at(self, block: Block, late: int) -> dict[str, float]:
        numbers = super().numbers_at(block, late)
        numbers["eps"] = max(numbers["eps"], block.least)
        numbers["tiny"] = block.tiny
        return numbers

    def decayed(self, group: ParamGroup, p: Value, g: Value, numbers: Mapping[str, Value]) -> Value:
        """d = g + weight_decay p"""
        return g + numbers["weight_decay"] * p if "weight_decay" in numbers else g

    def bounds(self, group: ParamGroup, tiny: float) -> dict[str, float]:
        """A root below 2^-30 eps does not change its sum with eps. A mean of gradients is divided by at least eps: its bound is
        that of parameters (2^26 tiny) divided by the largest possible factor. Only slots that can shrink have bounds; a sum of
        squares and the largest root so far cannot.
        """
        eps, default = group["eps"], tiny * 2**26
        roots = min(default, eps * 2**-30)
        return {"r": roots, "mean": roots, "m": default * min(1.0, eps / max(group["lr"], tiny)), "velocity": default}


def root_of(a: Value, b: Value, tiny: Value) -> Value:
    """sqrt(a² + b²) for a, b >= 0, as top sqrt(1 + q²) with top = max(a, b) and q = min(a, b) / top."""
    top = np.maximum(a, b)
    q = np.minimum(a, b) / np.maximum(top, tiny)
    return top * np.sqrt(1 + q * q)


class Adam(Adaptive):
    """Adam (Kingma and Ba 2015, algorithm 1), with weight decay added to the gradient.

    params        a list of Tensors, one Tensor, a Module, or a list of groups (see Optimiser)
    betas         (b1, b2), each at least 0 and below 1
    amsgrad       divide by the largest v so far (Reddi, Kale and Kumar 2018)
    maximize      ascend instead of descend
    lazy          skip rows (along the first axis) whose gradient is all 0, such as rows of an embedding table that a batch did
                  not read: parameter and state stay unchanged, without weight decay. t still counts the steps of the whole
                  parameter (like PyTorch's SparseAdam)

    d = g + weight_decay p;   m = b1 m + (1 - b1) d;   v = b2 v + (1 - b2) d²   (amsgrad: w = max(w, v) for v below)
    p = p - lr m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + eps)          at step t = 1, 2, ... of each parameter

    The state is m and r = sqrt(v), and r_max = sqrt(w).
    """

    decoupled = False
    limits = {"betas": BELOW_ONE, "amsgrad": bool, "lazy": bool}  # noqa: RUF012
    later = {"lazy": False}  # noqa: RUF012
    reread_settings = ("betas",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        lazy: bool = False,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "lazy": lazy}
        super().__init__(params, lr, maximize, **settings)

    @classmethod
    def checked_one(cls, name: str, value: Any, like: Any) -> Any:
        if name != "betas":
            return super().checked_one(name, value, like)
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
            raise ArgumentError(f"{cls.__name__}: betas must be two numbers, {BELOW_ONE}, got {value!r}")
        return tuple([number(cls.__name__, f"betas[{i}]", b, BELOW_ONE) for i, b in enumerate(value)])

    def slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("m", "r", "r_max") if group["amsgrad"] else ("m", "r")

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        (b1, b2), lr = group["betas"], group["lr"]
        values = {
            "b1": b1,
            "b2": math.sqrt(b2),
            "c1": 1 - b1,
            "c2": math.sqrt(1 - b2),
            "rate": lr / (1 - b1**t),
            "root": 1 / math.sqrt(1 - b2**t),
            "eps": group["eps"],
        }
        if group["weight_decay"]:
            values["weight_decay"] = lr * group["weight_decay"] if self.decoupled else group["weight_decay"]
        return values

    def is_lazy(self, group: ParamGroup) -> bool:
        return bool(group["lazy"])

    def update(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        m, r, *top = state
        n = numbers
        d = g if self.decoupled else self.decayed(group, p, g, n)
        if self.decoupled and "weight_decay" in n:
            p = p - n["weight_decay"] * p
        m = n["b1"] * m + n["c1"] * d
        r = root_of(n["b2"] * r, n["c2"] * np.absolute(d), n["tiny"])
        top = [np.maximum(top[0], r)] if top else []
        return p - n["rate"] * (m / ((top[0] if top else r) * n["root"] + n["eps"])), m, r, *top


class AdamW(Adam):
    """Adam with decoupled weight decay: p = p - lr weight_decay p before each step (Loshchilov and Hutter 2019)."""

    decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        maximize: bool = False,
        lazy: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize, lazy)


class RMSprop(Adaptive):
    """RMSprop (Hinton, lecture 6e of "Neural Networks for Machine Learning", 2012).

    params    a list of Tensors, one Tensor, a Module, or a list of groups (see Optimiser)
    alpha     at least 0 and below 1
    momentum  from 0 (none) to 1
    centered  divide by the standard deviation instead, the root of v - a² (Graves 2013)
    maximize  ascend instead of descend

    d = g + weight_decay p;   v = alpha v + (1 - alpha) d²   (centered: a = alpha a + (1 - alpha) d)
    u = d / (sqrt(v) + eps)   (centered: d / (sqrt(v - a²) + eps));   p = p - lr u  (momentum: w = momentum w + u, p = p - lr w)

    The state is r = sqrt(v), mean = a, velocity = w. If rounding makes v less than a², the difference is taken as 0.
    """

    limits = {"alpha": BELOW_ONE, "momentum": SHARE, "centered": bool}  # noqa: RUF012

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        maximize: bool = False,
    ) -> None:
        settings = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "centered": centered}
        super().__init__(params, lr, maximize, **settings)

    def slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("r", *(["mean"] if group["centered"] else []), *(["velocity"] if group["momentum"] else []))

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        alpha = group["alpha"]
        values = {"lr": group["lr"], "b": math.sqrt(alpha), "c": math.sqrt(1 - alpha), "eps": group["eps"]}
        if group["centered"]:
            values |= {"alpha": alpha, "beta": 1 - alpha}
        if group["momentum"]:
            values["momentum"] = group["momentum"]
        if group["weight_decay"]:
            values["weight_decay"] = group["weight_decay"]
        return values

    reread_settings = ("alpha",)

    def update(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        r, *slots = state
        n = numbers
        d = self.decayed(group, p, g, n)
        r = root_of(n["b"] * r, n["c"] * np.absolute(d), n["tiny"])
        new_state, divisor = [], r
        if group["centered"]:
            a = n["alpha"] * slots[0] + n["beta"] * d
            divisor = np.sqrt(np.maximum(r - np.absolute(a), 0)) * np.sqrt(r + np.absolute(a))
            new_state.append(a)
        u = d / (divisor + n["eps"])
        if "momentum" in n:
            u = n["momentum"] * slots[-1] + u
            new_state.append(u)
        return p - n["lr"] * u, r, *new_state


class Adagrad(Adaptive):
    """Adagrad (Duchi, Hazan and Singer 2011).

    params    a list of Tensors, one Tensor, a Module, or a list of groups (see Optimiser)
    lr_decay  decay of the learning rate
    maximize  ascend instead of descend

    d = g + weight_decay p;   v = v + d²;   p = p - lr/(1 + (t - 1) lr_decay) d / (sqrt(v) + eps)
    at step t = 1, 2, ... of each parameter

    The state is r = sqrt(v).
    """

    slots = ("r",)
    limits = {"lr_decay": Limits()}  # noqa: RUF012
    reread_settings = ("lr_decay",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        lr_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, maximize, eps=eps, weight_decay=weight_decay, lr_decay=lr_decay)

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        values = {"lr": group["lr"] / (1 + (t - 1) * group["lr_decay"]), "eps": group["eps"]}
        return {**values, "weight_decay": group["weight_decay"]} if group["weight_decay"] else values

    def update(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        d = self.decayed(group, p, g, numbers)
        r = root_of(state[0], np.absolute(d), numbers["tiny"])
        return p - numbers["lr"] * (d / (r + numbers["eps"])), r

    def bounds(self, group: ParamGroup, tiny: float) -> dict[str, float]:
        return {}  # a sum of squares cannot shrink
