"""Convolutions, transposed convolutions and pooling layers over one, two or three axes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from tensorgrad.core.backend import DEFAULT_FLOAT
from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.nn.arguments import as_floating, flag, generator, initial_values, integer, one_of, several, sizes
from tensorgrad.nn.module import Module, Parameter

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d",
    "ConvTranspose2d", "ConvTranspose3d", "MaxPool1d", "MaxPool2d", "MaxPool3d",
]  # fmt: skip

Sizes = int | tuple[int, ...]


class Convolution(Module):
    """Base of all convolutions: a weight, a bias, and the geometry of the windows."""

    axes: ClassVar[int]
    is_transposed: ClassVar[bool] = False  # True if the weight is (in, out), as for the transpose
    stride: Sizes
    padding: Any
    dilation: Sizes
    bias: Parameter | None

    def _make(
        self,
        in_channels: Any,
        out_channels: Any,
        kernel_size: Any,
        groups: Any,
        bias: Any,
        weight_init: init.Init | None,
        rng: np.random.Generator | None,
        dtype: np.typing.DTypeLike,
    ) -> None:
        """Check and set the arguments that all convolutions share."""
        caller = type(self).__name__
        self.in_channels, self.out_channels = (
            integer(caller, "in_channels", in_channels),
            integer(caller, "out_channels", out_channels),
        )
        self.groups = integer(caller, "groups", groups, 1)
        for name, n in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if n % self.groups:
                raise ArgumentError(f"{caller}: groups must divide {name}, got {self.groups} groups of {n}")
        kernel = several(caller, "kernel_size", kernel_size, self.axes, 1)
        first, second = (in_channels, out_channels) if self.is_transposed else (out_channels, in_channels)
        shape = (int(first), int(second) // self.groups, *kernel)
        dtype, bias = as_floating(caller, dtype), flag(caller, "bias", bias)
        rng = generator(caller, rng) or init.generator()
        spread = init.uniform(1 / math.sqrt(max(math.prod(shape[1:]), 1)))
        values = initial_values(caller, "weight_init", spread if weight_init is None else weight_init, shape, rng)
        self.weight = Parameter(values, dtype=dtype)
        self.register_parameter("bias", Parameter(spread((self.out_channels,), rng), dtype=dtype) if bias else None)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.weight.shape[2:]}", f"stride={self.stride}"]
        parts += [f"padding={self.padding!r}"] if np.any(np.asarray(self.padding) != 0) else []
        parts += [f"dilation={self.dilation}"] if np.any(np.asarray(self.dilation) != 1) else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        return ", ".join(parts + (["bias=False"] if self.bias is None else []))


class Conv(Convolution):
    """A convolution; see Conv2d."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        self.stride, self.dilation = (
            sizes(caller, "stride", stride, self.axes, 1),
            sizes(caller, "dilation", dilation, self.axes, 1),
        )
        if isinstance(padding, str):
            self.padding = one_of(caller, "padding", padding, ("same", "valid"))
            if padding == "same" and np.max(self.stride) > 1:
                raise ArgumentError(f"{caller}: padding 'same' needs stride 1, got stride {self.stride}")
        else:
            self.padding = sizes(caller, "padding", padding, self.axes, 0)
        self._make(in_channels, out_channels, kernel_size, groups, bias, weight_init, rng, dtype)

    def forward(self, x: Any) -> Any:
        conv = (F.conv1d, F.conv2d, F.conv3d)[self.axes - 1]
        return conv(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1d(Conv):
    """Conv2d with one axis: x (n, in_channels, l) to y (n, out_channels, l')."""

    axes = 1


class Conv2d(Conv):
    """A convolution: x (n, in_channels, h, w) to y (n, out_channels, h', w'),
    h' = (h + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1.

    `weight` (out_channels, in_channels / groups, *kernel_size), `bias` (out_channels).

    kernel_size, stride, padding, dilation   one number, or (rows, columns); padding may be "same" or "valid"
    groups        input and output channels are divided into groups; each output sees the input channels of its group
    bias          False for no bias
    weight_init   from nn.init, for a weight (out, in, kernel, kernel); by default U(-a, a) with a = 1/sqrt(in kernel kernel),
                  as for the bias
    rng           NumPy generator for the initial values; by default the one that nn.init.seed seeds

    See nn.functional.conv2d for the formula.
    """

    axes = 2


class Conv3d(Conv):
    """Conv2d with one more axis: x (n, in_channels, d, h, w) to y (n, out_channels, d', h', w')."""

    axes = 3


class ConvTranspose(Convolution):
    """A transposed convolution; see ConvTranspose2d."""

    is_transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        *,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller, axes = type(self).__name__, self.axes
        self.stride, self.dilation = sizes(caller, "stride", stride, axes, 1), sizes(caller, "dilation", dilation, axes, 1)
        self.padding = sizes(caller, "padding", padding, axes, 0)
        self.output_padding = sizes(caller, "output_padding", output_padding, axes, 0)
        if np.any(np.asarray(self.output_padding) >= np.asarray(self.stride)):
            raise ArgumentError(
                f"{caller}: output_padding must be less than the stride, got {self.output_padding} for stride {self.stride}"
            )
        self._make(in_channels, out_channels, kernel_size, groups, bias, weight_init, rng, dtype)

    def forward(self, x: Any) -> Any:
        conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.axes - 1]
        return conv(x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    def extra_repr(self) -> str:
        more = f", output_padding={self.output_padding}" if np.any(self.output_padding) else ""
        return super().extra_repr() + more


class ConvTranspose1d(ConvTranspose):
    """ConvTranspose2d with one axis: x (n, in_channels, l) to y (n, out_channels, l')."""

    axes = 1


class ConvTranspose2d(ConvTranspose):
    """A transposed convolution: x (n, in_channels, h, w) to y (n, out_channels, h', w'),
    h' = (h - 1) stride - 2 padding + dilation (kernel_size - 1) + 1 + output_padding.

    `weight` (in_channels, out_channels / groups, *kernel_size), `bias` (out_channels); the arguments are those of Conv2d.

    output_padding   additional rows and columns, fewer than the stride

    See nn.functional.conv_transpose2d for the formula.
    """

    axes = 2


class ConvTranspose3d(ConvTranspose):
    """ConvTranspose2d with one more axis: x (n, in_channels, d, h, w) to y (n, out_channels, d', h', w')."""

    axes = 3


class Pool(Module):
    """Base of pooling layers: reduce each window of x to one number."""

    axes: ClassVar[int]

    def _make(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> None:
        caller = type(self).__name__
        self.kernel_size = sizes(caller, "kernel_size", kernel_size, self.axes, 1)
        self.stride = self.kernel_size if stride is None else sizes(caller, "stride", stride, self.axes, 1)
        self.padding = sizes(caller, "padding", padding, self.axes, 0)
        span = np.asarray(dilation) * (np.asarray(self.kernel_size) - 1) + 1
        if np.any(2 * np.asarray(self.padding) > span):
            raise ArgumentError(f"{caller}: padding must be at most half of a window {self.kernel_size}, got {self.padding}")
        self.ceil_mode = flag(caller, "ceil_mode", ceil_mode)

    def extra_repr(self) -> str:
        more = f", padding={self.padding}" if np.any(self.padding) else ""
        return f"{self.kernel_size}, stride={self.stride}{more}"


class MaxPool(Pool):
    """The largest element of every window; see nn.functional.max_pool2d."""

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.dilation = sizes(type(self).__name__, "dilation", dilation, self.axes, 1)
        self._make(kernel_size, stride, padding, self.dilation, ceil_mode)

    def forward(self, x: Any) -> Any:
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self.axes - 1]
        return pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPool1d(MaxPool):
    """The largest element of every window of x (n,c,l); see nn.functional.max_pool1d."""

    axes = 1


class MaxPool2d(MaxPool):
    """The largest element of every window of x (n,c,h,w); see nn.functional.max_pool2d."""

    axes = 2


class MaxPool3d(MaxPool):
    """The largest element of every window of x (n,c,d,h,w); see nn.functional.max_pool3d."""

    axes = 3


class AvgPool(Pool):
    """The mean of every window; see nn.functional.avg_pool2d."""

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self._make(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = flag(type(self).__name__, "count_include_pad", count_include_pad)

    def forward(self, x: Any) -> Any:
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[self.axes - 1]
        return pool(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AvgPool1d(AvgPool):
    """The mean of every window of x (n,c,l); see nn.functional.avg_pool1d."""

    axes = 1


class AvgPool2d(AvgPool):
    """The mean of every window of x (n,c,h,w); see nn.functional.avg_pool2d."""

    axes = 2


class AvgPool3d(AvgPool):
    """The mean of every window of x (n,c,d,h,w); see nn.functional.avg_pool3d."""

    axes = 3


class AdaptivePool(Module):
    """Base of pooling layers with a fixed `output_size`; None in it keeps the size of that axis of x."""

    axes: ClassVar[int]

    def __init__(self, output_size: int | tuple[int | None, ...] | None) -> None:
        super().__init__()
        caller = type(self).__name__
        if output_size is None or (isinstance(output_size, (tuple, list)) and None in output_size):
            requested = (None,) * self.axes if output_size is None else tuple(output_size)
            several(caller, "output_size", [1 if n is None else n for n in requested], self.axes, 1)
            self.output_size: Any = tuple([None if n is None else integer(caller, "output_size", n, 1) for n in requested])
        else:
            self.output_size = sizes(caller, "output_size", output_size, self.axes, 1)

    def extra_repr(self) -> str:
        return f"{self.output_size}"


class AdaptiveAvgPool1d(AdaptivePool):
    """The means of areas of x (n,c,l); see nn.functional.adaptive_avg_pool1d."""

    axes = 1

    def forward(self, x: Any) -> Any:
        return F.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveAvgPool2d(AdaptivePool):
    """The means of areas that cover x (n,c,h,w); see nn.functional.adaptive_avg_pool2d."""

    axes = 2

    def forward(self, x: Any) -> Any:
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveAvgPool3d(AdaptivePool):
    """The means of areas that cover x (n,c,d,h,w); see nn.functional.adaptive_avg_pool3d."""

    axes = 3

    def forward(self, x: Any) -> Any:
        return F.adaptive_avg_pool3d(x, self.output_size)


class AdaptiveMaxPool1d(AdaptivePool):
    """The largest elements of areas of x (n,c,l); see nn.functional.adaptive_max_pool1d."""

    axes = 1

    def forward(self, x: Any) -> Any:
        return F.adaptive_max_pool1d(x, self.output_size)


class AdaptiveMaxPool2d(AdaptivePool):
    """The largest elements of areas that cover x (n,c,h,w); see nn.functional.adaptive_max_pool2d."""

    axes = 2

    def forward(self, x: Any) -> Any:
        return F.adaptive_max_pool2d(x, self.output_size)


class AdaptiveMaxPool3d(AdaptivePool):
    """The largest elements of areas that cover x (n,c,d,h,w); see nn.functional.adaptive_max_pool3d."""

    axes = 3

    def forward(self, x: Any) -> Any:
        return F.adaptive_max_pool3d(x, self.output_size)
