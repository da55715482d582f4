"""A linear layer that shares its weight, transposed, with another layer."""

from __future__ import annotations

from typing import Any

from tensorgrad import ops
from tensorgrad.nn.layers import Linear
from tensorgrad.nn.module import Parameter

__all__: list[str] = []


class TiedLinear(Linear):
    """y = x Wᵀ + b

    x (..., in_features) to y (..., out_features); `weight` W (out_features, in_features) is the same Parameter as the table of
    an Embedding; `bias` b (out_features), or None. interop.from_torch makes it for tied layers.
    """

    transposed_in_torch = ()

    def __init__(self, weight: Parameter, bias: Parameter | None) -> None:
        super(Linear, self).__init__()
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Any) -> Any:
        transposed = ops.swapaxes(self.weight, -1, -2)
        return ops.matmul(x, transposed) if self.bias is None else ops.linear(x, transposed, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[-1]}, {self.weight.shape[-2]}" + ("" if self.bias is not None else ", bias=False")
