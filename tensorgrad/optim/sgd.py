"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorgrad.core.op import Value
from tensorgrad.errors import ArgumentError
from tensorgrad.optim.arguments import SHARE
from tensorgrad.optim.group import ParamGroup
from tensorgrad.optim.optimiser import Optimiser


class SGD(Optimiser):
    """Gradient descent with momentum and weight decay, by PyTorch's formulas.

    params        a list of Tensors, one Tensor, a Module, or a list of groups (see Optimiser)
    momentum      from 0 (none) to 1
    weight_decay  0 for none
    nesterov      Nesterov momentum (Sutskever et al. 2013); needs momentum and no dampening
    dampening     fraction, from 0 to 1, by which gradients are reduced in the velocity, except the first of each parameter
    maximize      ascend instead of descend

    d = g + weight_decay p;   v = momentum v + (1 - dampening) d, at first v = d
    p = p - lr v   (nesterov: p = p - lr (d + momentum v))

    Like parameters, velocities closer to 0 than 8e-31 (float64: 2e-300) are set to 0 every 32 steps.
    """

    limits = {"momentum": SHARE, "dampening": SHARE, "nesterov": bool}  # noqa: RUF012
    reread_settings = ("dampening",)

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        dampening: float = 0.0,
        maximize: bool = False,
    ) -> None:
        settings = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "dampening": dampening}
        super().__init__(params, lr, maximize, **settings)

    @classmethod
    def checked(cls, values: dict[str, Any], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
        settings = super().checked(values, like)
        if settings["nesterov"] and (not settings["momentum"] or settings["dampening"]):
            raise ArgumentError(f"{cls.__name__}: nesterov needs momentum > 0 and dampening = 0")
        return settings

    def slots_of(self, group: ParamGroup) -> tuple[str, ...]:
        return ("velocity",) if group["momentum"] else ()

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        values = {"lr": group["lr"]}
        if group["momentum"]:
            values["momentum"] = group["momentum"]
        if group["momentum"] and group["dampening"]:
            values["share"] = 1.0 if t == 1 else 1.0 - group["dampening"]
        if group["weight_decay"]:
            values["weight_decay"] = group["weight_decay"]
        return values

    def update(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        n = numbers
        d = g + n["weight_decay"] * p if "weight_decay" in n else g
        if not state:
            return (p - n["lr"] * d,)
        v = n["momentum"] * state[0] + (n["share"] * d if "share" in n else d)
        return p - n["lr"] * (d + n["momentum"] * v if group["nesterov"] else v), v

    def leaves_rows(self, group: ParamGroup) -> bool:
        # a subclass may override update
        return type(self).update is SGD.update and not (group["momentum"] or group["weight_decay"])

    def bounds(self, group: ParamGroup, tiny: float) -> dict[str, float]:
        return {"velocity": tiny * 2**26}
