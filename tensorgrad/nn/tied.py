"""A linear layer whose weight is that of another layer, which has it the other way round."""

from __future__ import annotations

from typing import Any

from tensorgrad import ops
from tensorgrad.nn.layers import Linear
from tensorgrad.nn.module import Parameter

__all__: list[str] = []


class TiedLinear(Linear):
    """y = x Wᵀ + b

    x (..., in_features) to y (..., out_features); `weight` W (out_features, in_features), as the table of an Embedding has it,
    with which it is one Parameter; `bias` b (out_features), or None. What interop.from_torch makes of tied layers.
    """

    transposed_in_torch = ()

    def __init__(self, weight: Parameter, bias: Parameter | None) -> None:
        super(Linear, self).__init__()
        self.weight = weight
        self.register_parameter("bias", bias)

    def forward(self, x: Any) -> Any:
        turned = ops.swapaxes(self.weight, -1, -2)
        return ops.matmul(x, turned) if self.bias is None else ops.linear(x, turned, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[-1]}, {self.weight.shape[-2]}" + ("" if self.bias is not None else ", bias=False")
