"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tensorgrad.core.op import Value
from tensorgrad.core.tensor import Tensor
from tensorgrad.optim.optimiser import Optimiser


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
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs a momentum above 0")
        self.slots = ("velocity",) if momentum else ()
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def numbers(self) -> dict[str, float]:
        used = {"momentum": bool(self.slots), "weight_decay": bool(self.settings["weight_decay"])}
        return {"lr": self.lr, **{name: self.settings[name] for name, is_used in used.items() if is_used}}

    def update(self, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        lr = numbers["lr"]
        d = g + numbers["weight_decay"] * p if self.settings["weight_decay"] else g
        if not self.slots:
            return (p - lr * d,)
        v = numbers["momentum"] * state[0] + d
        return p - lr * (d + numbers["momentum"] * v if self.settings["nesterov"] else v), v
