"""Layers that normalise."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tensorgrad.core.backend import DEFAULT_FLOAT, Array
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.nn.arguments import as_floating, flag, real, whole, wholes
from tensorgrad.nn.module import Module, Parameter
from tensorgrad.ops.linalg import as_operand

__all__ = ["BatchNorm1d", "BatchNorm2d", "LayerNorm"]


class LayerNorm(Module):
    """y = weight * (x - m) / sqrt(v + eps) + bias, with the mean m and the variance v of each sample.

    shape    of a sample: x (..., *shape) to y (..., *shape)
    affine   False for no weight (which starts at 1) and no bias (which starts at 0)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        shape: int | tuple[int, ...],
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        of = type(self).__name__
        self.shape = wholes(of, "shape", shape)
        if not self.shape:
            raise ArgumentError(f"{of}: shape must be one whole number or several, got ()")
        self.eps, affine, dtype = real(of, "eps", eps, 0), flag(of, "affine", affine), as_floating(of, dtype)
        self.register_parameter("weight", Parameter(np.ones(self.shape), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(self.shape), dtype=dtype) if affine else None)

    def forward(self, x: Any) -> Any:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.shape}" + ("" if self.weight is not None else ", affine=False")


class BatchNorm1d(Module):
    """y = weight * (x - m) / sqrt(v + eps) + bias, with the mean m and the variance v of each feature over the samples.

    x (n, features) or (n, features, length). In training m and v are those of x, and the buffers `running_mean` and
    `running_var` move by `momentum` towards them; in evaluation m and v are the buffers.

    affine   False for no weight (which starts at 1) and no bias (which starts at 0)
    """

    axes: ClassVar[tuple[int, ...]] = (2, 3)  # how many axes the input may have
    only_in_torch = ("num_batches_tracked",)
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Array
    running_var: Array

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        of = type(self).__name__
        features = whole(of, "features", features)
        self.eps, self.momentum = real(of, "eps", eps, 0), real(of, "momentum", momentum, 0, 1)
        affine, dtype = flag(of, "affine", affine), as_floating(of, dtype)
        self.register_parameter("weight", Parameter(np.ones(features), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(features), dtype=dtype) if affine else None)
        self.register_buffer("running_mean", np.zeros(features, dtype))
        self.register_buffer("running_var", np.ones(features, dtype))

    def forward(self, x: Any) -> Any:
        x = as_operand(type(self).__name__, x)
        if x.ndim not in self.axes:
            kinds = " or ".join(("(n, features)", "(n, features, length)", "(n, features, h, w)")[n - 2] for n in self.axes)
            raise ShapeError(f"{type(self).__name__}: input has shape {x.shape}, expected {kinds}")
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.running_mean.shape[0]}" + ("" if self.weight is not None else ", affine=False")


class BatchNorm2d(BatchNorm1d):
    """BatchNorm1d for x (n, features, h, w): m and v of each feature are over samples and positions."""

    axes = (4,)
