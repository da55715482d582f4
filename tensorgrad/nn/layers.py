"""Layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import DEFAULT_FLOAT
from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.nn.arguments import as_floating, flag, generator, initial_values, integer, one_of, real
from tensorgrad.nn.module import Module, Parameter
from tensorgrad.ops import activation
from tensorgrad.ops.linalg import as_operand

__all__ = [
    "ELU", "GELU", "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Embedding", "EmbeddingBag", "Flatten", "Identity",
    "LeakyReLU", "Linear", "LogSoftmax", "ReLU", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh",
]  # fmt: skip


class Linear(Module):
    """y = x W + b

    x (..., in_features) to y (..., out_features); `weight` W (in_features, out_features), `bias` b (out_features).

    bias          False for y = x W
    weight_init, bias_init   from nn.init; by default U(-a, a) with a = 1/sqrt(in_features), for both
    rng           NumPy generator for the initial values; by default the one that nn.init.seed seeds
    """

    transposed_in_torch: tuple[str, ...] = ("weight",)
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
        caller = type(self).__name__
        shape = (integer(caller, "in_features", in_features), integer(caller, "out_features", out_features))
        dtype, bias = as_floating(caller, dtype), flag(caller, "bias", bias)
        rng = generator(caller, rng) or init.generator()
        values = initial_values(
            caller, "weight_init", init.fan_in_uniform() if weight_init is None else weight_init, shape, rng
        )
        self.weight = Parameter(values, dtype=dtype)
        if bias and bias_init is None:
            values = init.fan_in_uniform()(shape, rng)[:1].reshape(-1)
        elif bias_init is not None:
            values = initial_values(caller, "bias_init", bias_init, shape[1:], rng)
        self.register_parameter("bias", Parameter(values, dtype=dtype) if bias else None)

    def forward(self, x: Any) -> Any:
        return ops.matmul(x, self.weight) if self.bias is None else ops.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[-2]}, {self.weight.shape[-1]}" + ("" if self.bias is not None else ", bias=False")


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
    """Merge the axes from `start_axis` to `end_axis` into one: by default x (n, ...) to y (n, product of ...)."""

    def __init__(self, start_axis: int = 1, end_axis: int = -1) -> None:
        super().__init__()
        caller = type(self).__name__
        self.start_axis, self.end_axis = (
            integer(caller, "start_axis", start_axis, None),
            integer(caller, "end_axis", end_axis, None),
        )

    def forward(self, x: Any) -> Any:
        return ops.flatten(as_operand("Flatten", x), self.start_axis, self.end_axis)

    def extra_repr(self) -> str:
        axes = {"start_axis": (self.start_axis, 1), "end_axis": (self.end_axis, -1)}
        return ", ".join(f"{name}={axis}" for name, (axis, default) in axes.items() if axis != default)


class LeakyReLU(Module):
    """y = max(x, 0) + negative_slope min(x, 0)"""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = real(type(self).__name__, "negative_slope", negative_slope)

    def forward(self, x: Any) -> Any:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"{self.negative_slope}"


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
    """y = x Φ(x), Φ being the distribution function of N(0, 1); approximate="tanh" for the tanh approximation"""

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
        self.axis = integer(type(self).__name__, "axis", axis, None)

    def forward(self, x: Any) -> Any:
        return ops.softmax(x, self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class LogSoftmax(Softmax):
    """y = x - ln(sum of exp(x) over `axis`)"""

    def forward(self, x: Any) -> Any:
        return ops.log_softmax(x, self.axis)


class Dropout(Module):
    """In training each element is 0 with probability p and x / (1 - p) otherwise; in evaluation y = x.

    rng   NumPy generator; by default the one that nn.functional.seed seeds
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        caller = type(self).__name__
        self.p, self.rng = real(caller, "p", p, 0, 1), generator(caller, rng)

    def forward(self, x: Any) -> Any:
        return F.dropout(x, self.p, self.training, self.rng)

    def extra_repr(self) -> str:
        return f"{self.p}"


class Dropout1d(Dropout):
    """Dropout of whole channels of x (n,c,l)."""

    def forward(self, x: Any) -> Any:
        return F.dropout1d(x, self.p, self.training, self.rng)


class Dropout2d(Dropout):
    """Dropout of whole channels of x (n,c,h,w)."""

    def forward(self, x: Any) -> Any:
        return F.dropout2d(x, self.p, self.training, self.rng)


class AlphaDropout(Dropout):
    """Dropout that keeps mean 0 and variance 1 of the output of SELU; see nn.functional.alpha_dropout."""

    def forward(self, x: Any) -> Any:
        return F.alpha_dropout(x, self.p, self.training, self.rng)


class Embedding(Module):
    """Look up a row of `weight` (num_embeddings, embedding_dim) for each index: integers (...) to y (..., embedding_dim).

    padding_idx   a row that starts with zeros and gets no gradient; a negative one counts from the end

    `weight.grad` is as large as the table, and an eager optimiser step updates all of it; a compiled step updates only the rows
    that were looked up.

    weight_init   from nn.init; N(0, 1) by default
    rng           NumPy generator for the initial values; by default the one that nn.init.seed seeds
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        self._make(num_embeddings, embedding_dim, padding_idx, weight_init, rng, dtype)

    def _make(self, rows: Any, dim: Any, padding: Any, weight_init: Any, rng: Any, dtype: Any) -> None:
        caller = type(self).__name__
        shape = (integer(caller, "num_embeddings", rows), integer(caller, "embedding_dim", dim))
        dtype = as_floating(caller, dtype)
        self.padding_idx = None if padding is None else integer(caller, "padding_idx", padding, None)
        if self.padding_idx is not None and not -shape[0] <= self.padding_idx < shape[0]:
            raise ArgumentError(f"{caller}: padding_idx is out of range for {shape[0]} rows, got {self.padding_idx}")
        rng = generator(caller, rng) or init.generator()
        values = initial_values(caller, "weight_init", init.normal(1.0) if weight_init is None else weight_init, shape, rng)
        self.weight = Parameter(values, dtype=dtype)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def forward(self, indices: Any) -> Any:
        return F.embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.weight.shape[-2]}, {self.weight.shape[-1]}{padding}"


class EmbeddingBag(Embedding):
    """The sum, mean or maximum of the rows of `weight` for each bag of indices: integers (..., n) to y (..., embedding_dim).

    mode          "sum", "mean" or "max"
    padding_idx   an index that is ignored, for bags of different sizes; its row starts with zeros
    weight_init, rng   as for Embedding
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        padding_idx: int | None = None,
        *,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        Module.__init__(self)
        self.mode = one_of(type(self).__name__, "mode", mode, ("sum", "mean", "max"))
        self._make(num_embeddings, embedding_dim, padding_idx, weight_init, rng, dtype)

    def forward(self, indices: Any) -> Any:
        return F.embedding_bag(indices, self.weight, self.mode, self.padding_idx)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"


# Name of an activation function to its module: "leaky_relu" to LeakyReLU
ACTIVATIONS: dict[str, type[Module]] = {
    name: globals()[module] for name in activation.__all__ for module in __all__ if module.lower() == name.replace("_", "")
}
