"""Layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.backend import DEFAULT_FLOAT
from tensorgrad.nn import init
from tensorgrad.nn.module import Module, Parameter


class Linear(Module):
    """y = x W + b

    x (..., in_features) to y (..., out_features); `weight` W (in_features, out_features), `bias` b (out_features).

    bias          False for y = x W
    weight_init, bias_init   from nn.init; U(-a, a) with a = 1/sqrt(in_features) by default, for both
    rng           the generator to draw from; the one that nn.init.seed starts by default
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: init.Init | None = None,
        bias_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: Any = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        rng = rng or init.generator()
        shape = (in_features, out_features)
        self.weight = Parameter((weight_init or init.fan_in_uniform())(shape, rng), dtype=dtype)
        self.bias: Parameter | None = None
        if bias:
            values = bias_init((out_features,), rng) if bias_init else init.fan_in_uniform()(shape, rng)[:1].reshape(-1)
            self.bias = Parameter(values, dtype=dtype)

    def forward(self, x: Any) -> Any:
        return ops.matmul(x, self.weight) if self.bias is None else ops.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}" + ("" if self.bias is not None else ", bias=False")


class ReLU(Module):
    """y = max(x, 0)"""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class Sigmoid(Module):
    """y = 1 / (1 + exp(-x))"""

    def forward(self, x: Any) -> Any:
        return ops.sigmoid(x)


class Tanh(Module):
    """y = tanh(x)"""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)


class Sequential(Module):
    """Modules applied one after the other; they are named "0", "1", ..."""

    def __init__(self, *modules: Module) -> None:
        super().__init__()
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def forward(self, x: Any) -> Any:
        for module in self._modules.values():
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int) -> Module:
        return list(self._modules.values())[index]
