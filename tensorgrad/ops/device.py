"""Moving between devices as an operation, so that gradients flow through it."""

from __future__ import annotations

from typing import Any

from tensorgrad.core import backend
from tensorgrad.core.backend import Array, Xp
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.state import named
from tensorgrad.core.tensor import Tensor, raw

__all__ = ["to_device"]


class ToDevice(Op):
    """x on a device, "cpu" or "cuda:1"; `origin` is its device before. x itself if it is there already.

    forward    y  = x
    backward   gx = g, on the device of x
    """

    name, signature = "to_device", "()->()"
    linear = "x"
    moves = True

    @named
    def __call__(self, x: Operand[T], device: str, origin: str | None = None) -> T | Array:
        x = x if isinstance(x, Tensor) else backend.asarray(x, where=self.name)
        device, current = backend.as_device(device), backend.device_of(raw(x))
        return x if device == current and origin is None else self.apply(x, device=device, origin=current)

    def sample(self, rng: Any, sizes: Any = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"device": "cpu", "origin": "cpu"}

    def forward(self, xp: Xp, x: Array, *, device: str, origin: str) -> Array:
        return backend.move(x, device)

    def backward(self, g: Value, y: Value, x: Value, *, device: str, origin: str) -> Rules:
        return (lambda: self.apply(g, device=origin, origin=device),)


to_device = ToDevice()
