"""Layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import DEFAULT_FLOAT
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.nn.arguments import as_floating, drawn, flag, generator, one_of, pair, real, sizes, whole
from tensorgrad.nn.module import Module, Parameter
from tensorgrad.ops import activation
from tensorgrad.ops.linalg import as_operand

__all__ = [
    "ELU", "GELU", "AvgPool2d", "Conv2d", "Dropout", "Embedding", "Flatten", "Identity", "LeakyReLU", "Linear", "LogSoftmax",
    "MaxPool2d", "ReLU", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh",
]  # fmt: skip


class Linear(Module):
    """y = x W + b

    x (..., in_features) to y (..., out_features); `weight` W (in_features, out_features), `bias` b (out_features).

    bias          False for y = x W
    weight_init, bias_init   from nn.init; U(-a, a) with a = 1/sqrt(in_features) by default, for both
    rng           the generator to draw from; the one that nn.init.seed starts by default
    """

    transposed_in_torch = ("weight",)
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: init.Init | None = None,
        bias_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        of = type(self).__name__
        shape = (whole(of, "in_features", in_features), whole(of, "out_features", out_features))
        dtype, bias = as_floating(of, dtype), flag(of, "bias", bias)
        rng = generator(of, rng) or init.generator()
        values = drawn(of, "weight_init", init.fan_in_uniform() if weight_init is None else weight_init, shape, rng)
        self.weight = Parameter(values, dtype=dtype)
        if bias and bias_init is None:
            values = init.fan_in_uniform()(shape, rng)[:1].reshape(-1)
        elif bias_init is not None:
            values = drawn(of, "bias_init", bias_init, shape[1:], rng)
        self.register_parameter("bias", Parameter(values, dtype=dtype) if bias else None)

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


class Identity(Module):
    """y = x"""

    def forward(self, x: Any) -> Any:
        return x


class Flatten(Module):
    """The axes from `start_axis` on made one: x (n, ...) to y (n, product of ...) by default."""

    def __init__(self, start_axis: int = 1) -> None:
        super().__init__()
        self.start_axis = whole(type(self).__name__, "start_axis", start_axis, None)

    def forward(self, x: Any) -> Any:
        return ops.flatten(as_operand("Flatten", x), self.start_axis)

    def extra_repr(self) -> str:
        return "" if self.start_axis == 1 else f"start_axis={self.start_axis}"


class LeakyReLU(Module):
    """y = max(x, 0) + slope min(x, 0)"""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = real(type(self).__name__, "slope", slope)

    def forward(self, x: Any) -> Any:
        return F.leaky_relu(x, self.slope)

    def extra_repr(self) -> str:
        return f"{self.slope}"


class ELU(Module):
    """y = x where x > 0, alpha (e^x - 1) elsewhere"""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = real(type(self).__name__, "alpha", alpha)

    def forward(self, x: Any) -> Any:
        return F.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"{self.alpha}"


class GELU(Module):
    """y = x Φ(x), Φ being the distribution function of N(0, 1); approximate="tanh" for the form with tanh"""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = one_of(type(self).__name__, "approximate", approximate, ("none", "tanh"))

    def forward(self, x: Any) -> Any:
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return "" if self.approximate == "none" else f"approximate={self.approximate!r}"


class SiLU(Module):
    """y = x / (1 + exp(-x))"""

    def forward(self, x: Any) -> Any:
        return F.silu(x)


class Softplus(Module):
    """y = ln(1 + exp(x))"""

    def forward(self, x: Any) -> Any:
        return F.softplus(x)


class Softmax(Module):
    """y = exp(x) / sum of exp(x) over `axis`"""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = whole(type(self).__name__, "axis", axis, None)

    def forward(self, x: Any) -> Any:
        return ops.softmax(x, self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class LogSoftmax(Softmax):
    """y = x - ln(sum of exp(x) over `axis`)"""

    def forward(self, x: Any) -> Any:
        return ops.log_softmax(x, self.axis)


class Dropout(Module):
    """In training each element is 0 with probability p, and x / (1 - p) otherwise; in evaluation y = x.

    rng   the generator to draw from; the one that nn.functional.seed starts by default
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        of = type(self).__name__
        self.p, self.rng = real(of, "p", p, 0, 1), generator(of, rng)

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training, self.rng)

    def extra_repr(self) -> str:
        return f"{self.p}"


class Embedding(Module):
    """A row of `weight` (rows, dim) for each index: indices (...), integers, to y (..., dim).

    weight_init   from nn.init; N(0, 1) by default
    rng           the generator to draw from; the one that nn.init.seed starts by default
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        of = type(self).__name__
        shape, dtype = (whole(of, "rows", rows), whole(of, "dim", dim)), as_floating(of, dtype)
        rng = generator(of, rng) or init.generator()
        values = drawn(of, "weight_init", init.normal(1.0) if weight_init is None else weight_init, shape, rng)
        self.weight = Parameter(values, dtype=dtype)

    def forward(self, indices: Any) -> Any:
        return F.embedding(indices, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class Conv2d(Module):
    """A convolution: x (n, in_channels, h, w) to y (n, out_channels, h', w'), h' = (h + 2 padding - kernel) // stride + 1.

    `weight` (out_channels, in_channels, kernel, kernel), `bias` (out_channels).

    kernel, stride, padding   one number, or (for rows, for columns)
    bias          False for none
    weight_init   from nn.init, of a weight (out, in, kernel, kernel); by default U(-a, a) with a = 1/sqrt(in kernel kernel),
                  which is what the bias starts with too
    rng           the generator to draw from; the one that nn.init.seed starts by default
    """

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        *,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        of = type(self).__name__
        channels = whole(of, "out_channels", out_channels), whole(of, "in_channels", in_channels)
        shape = (*channels, *pair(of, "kernel", kernel, 1))
        self.stride, self.padding = sizes(of, "stride", stride, 1), sizes(of, "padding", padding, 0)
        dtype, bias = as_floating(of, dtype), flag(of, "bias", bias)
        rng = generator(of, rng) or init.generator()
        spread = init.uniform(1 / math.sqrt(max(math.prod(shape[1:]), 1)))
        values = drawn(of, "weight_init", spread if weight_init is None else weight_init, shape, rng)
        self.weight = Parameter(values, dtype=dtype)
        self.register_parameter("bias", Parameter(spread(shape[:1], rng), dtype=dtype) if bias else None)

    def forward(self, x: Any) -> Any:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        out, channels, *kernel = self.weight.shape
        return f"{channels}, {out}, kernel={tuple(kernel)}, stride={self.stride}, padding={self.padding}" + (
            "" if self.bias is not None else ", bias=False"
        )


class Pool2d(Module):
    """Windows of `size`, `stride` apart (by default `size`), of x (n,c,h,w), each made one number."""

    def __init__(self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None) -> None:
        super().__init__()
        of = type(self).__name__
        self.size = sizes(of, "size", size, 1)
        self.stride = self.size if stride is None else sizes(of, "stride", stride, 1)

    def extra_repr(self) -> str:
        return f"{self.size}, stride={self.stride}"


class MaxPool2d(Pool2d):
    """The largest element of every window; see nn.functional.max_pool2d."""

    def forward(self, x: Any) -> Any:
        return F.max_pool2d(x, self.size, self.stride)


class AvgPool2d(Pool2d):
    """The mean of every window; see nn.functional.avg_pool2d."""

    def forward(self, x: Any) -> Any:
        return F.avg_pool2d(x, self.size, self.stride)


# The modules of activations by the names of their functions, found by these: LeakyReLU is leaky_relu's
ACTIVATIONS: dict[str, type[Module]] = {
    name: globals()[module] for name in activation.__all__ for module in __all__ if module.lower() == name.replace("_", "")
}
