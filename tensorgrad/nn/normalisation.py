"""Normalisation layers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tensorgrad.core.backend import DEFAULT_FLOAT, Array
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.nn.arguments import as_floating, flag, integer, integers, real
from tensorgrad.nn.module import Module, Parameter
from tensorgrad.ops.linalg import as_operand

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "LayerNorm", "RMSNorm",
]  # fmt: skip


INPUTS = ("(n, features)", "(n, features, length)", "(n, features, h, w)", "(n, features, d, h, w)")


class LayerNorm(Module):
    """y = weight * (x - m) / sqrt(v + eps) + bias, with the mean m and the variance v of each sample.

    normalized_shape     shape of a sample: x (..., *normalized_shape) to y of the same shape
    elementwise_affine   False for no weight (initially 1) and no bias (initially 0)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        *,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        shape = self.normalized_shape = integers(caller, "normalized_shape", normalized_shape)
        if not shape:
            raise ArgumentError(f"{caller}: normalized_shape must be an integer or several, got ()")
        self.eps, dtype = real(caller, "eps", eps, 0), as_floating(caller, dtype)
        affine = flag(caller, "elementwise_affine", elementwise_affine)
        self.register_parameter("weight", Parameter(np.ones(shape), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(shape), dtype=dtype) if affine else None)

    def forward(self, x: Any) -> Any:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}" + ("" if self.weight is not None else ", elementwise_affine=False")


class BatchNorm1d(Module):
    """y = weight * (x - m) / sqrt(v + eps) + bias, with the mean m and the variance v of each feature over the samples.

    x (n, features) or (n, features, length). In training m and v are those of x, and the buffers `running_mean` and
    `running_var` move towards them by `momentum`; in evaluation m and v are the buffers.

    affine   False for no weight (initially 1) and no bias (initially 0)
    """

    axes: ClassVar[tuple[int, ...]] = (2, 3)  # allowed numbers of input axes
    only_in_torch = ("num_batches_tracked",)
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Array
    running_var: Array

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        features = integer(caller, "num_features", num_features)
        self.eps, self.momentum = real(caller, "eps", eps, 0), real(caller, "momentum", momentum, 0, 1)
        affine, dtype = flag(caller, "affine", affine), as_floating(caller, dtype)
        self.register_parameter("weight", Parameter(np.ones(features), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(features), dtype=dtype) if affine else None)
        self.register_buffer("running_mean", np.zeros(features, dtype))
        self.register_buffer("running_var", np.ones(features, dtype))

    def forward(self, x: Any) -> Any:
        x = as_operand(type(self).__name__, x)
        if x.ndim not in self.axes:
            kinds = " or ".join(INPUTS[n - 2] for n in self.axes)
            raise ShapeError(f"{type(self).__name__}: input has shape {x.shape}, expected {kinds}")
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.running_mean.shape[0]}" + ("" if self.weight is not None else ", affine=False")


class BatchNorm2d(BatchNorm1d):
    """BatchNorm1d for x (n, features, h, w): m and v of each feature over samples and positions."""

    axes = (4,)


class BatchNorm3d(BatchNorm1d):
    """BatchNorm1d for x (n, features, d, h, w): m and v of each feature over samples and positions."""

    axes = (5,)


class RMSNorm(Module):
    """y = weight * x / sqrt(mean of x² + eps), with the mean of each sample.

    normalized_shape     shape of a sample: x (..., *normalized_shape) to y of the same shape
    eps                  by default the machine epsilon of the dtype of x
    elementwise_affine   False for no weight (initially 1)
    """

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        shape = self.normalized_shape = integers(caller, "normalized_shape", normalized_shape)
        if not shape:
            raise ArgumentError(f"{caller}: normalized_shape must be an integer or several, got ()")
        self.eps, dtype = None if eps is None else real(caller, "eps", eps, 0), as_floating(caller, dtype)
        affine = flag(caller, "elementwise_affine", elementwise_affine)
        self.register_parameter("weight", Parameter(np.ones(shape), dtype=dtype) if affine else None)

    def forward(self, x: Any) -> Any:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}" + ("" if self.weight is not None else ", elementwise_affine=False")


class GroupNorm(Module):
    """y = weight * (x - m) / sqrt(v + eps) + bias, with m and v of each of num_groups groups of channels of each sample.

    x (n, num_channels, ...) to y of the same shape; num_groups divides num_channels.

    affine   False for no weight (initially 1) and no bias (initially 0)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        self.num_groups, self.num_channels = (
            integer(caller, "num_groups", num_groups, 1),
            integer(caller, "num_channels", num_channels),
        )
        if self.num_channels % self.num_groups:
            raise ArgumentError(f"{caller}: num_groups must divide num_channels, got {self.num_groups} and {self.num_channels}")
        self.eps, affine, dtype = real(caller, "eps", eps, 0), flag(caller, "affine", affine), as_floating(caller, dtype)
        self.register_parameter("weight", Parameter(np.ones(self.num_channels), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(self.num_channels), dtype=dtype) if affine else None)

    def forward(self, x: Any) -> Any:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}" + ("" if self.weight is not None else ", affine=False")


class InstanceNorm1d(Module):
    """y = weight * (x - m) / sqrt(v + eps) + bias, with the mean m and the variance v of each feature of each sample.

    x (n, num_features, length). There are no running statistics: training and evaluation are the same.

    affine   True for a weight (initially 1) and a bias (initially 0)
    """

    axes: ClassVar[int] = 3  # number of input axes
    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = False,
        *,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        self.num_features = integer(caller, "num_features", num_features)
        self.eps, affine, dtype = real(caller, "eps", eps, 0), flag(caller, "affine", affine), as_floating(caller, dtype)
        self.register_parameter("weight", Parameter(np.ones(self.num_features), dtype=dtype) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(self.num_features), dtype=dtype) if affine else None)

    def forward(self, x: Any) -> Any:
        x = as_operand(type(self).__name__, x)
        if x.ndim != self.axes or x.shape[1] != self.num_features:
            expected = INPUTS[self.axes - 2].replace("features", str(self.num_features))
            raise ShapeError(f"{type(self).__name__}: input has shape {x.shape}, expected {expected}")
        return F.instance_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}" + (", affine=True" if self.weight is not None else "")


class InstanceNorm2d(InstanceNorm1d):
    """InstanceNorm1d for x (n, num_features, h, w)."""

    axes = 4


class InstanceNorm3d(InstanceNorm1d):
    """InstanceNorm1d for x (n, num_features, d, h, w)."""

    axes = 5
