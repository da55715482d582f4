"""More activations, as modules; `nn.functional` has the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad.core.backend import DEFAULT_FLOAT
from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F
from tensorgrad.nn.arguments import as_floating, integer, real
from tensorgrad.nn.module import Module, Parameter

__all__ = [
    "CELU", "GLU", "SELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LogSigmoid", "Mish", "PReLU", "ReLU6",
    "Softmin", "Softshrink", "Softsign", "Tanhshrink", "Threshold",
]  # fmt: skip


class PReLU(Module):
    """y = max(x, 0) + weight min(x, 0), with a learned `weight`.

    num_parameters   1 for one weight, or the number of channels (axis 1 of x (n,c,...)) for one each
    init             initial value
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: np.typing.DTypeLike = DEFAULT_FLOAT) -> None:
        super().__init__()
        caller = type(self).__name__
        count, start = integer(caller, "num_parameters", num_parameters, 1), real(caller, "init", init)
        self.weight = Parameter(np.full(count, start), dtype=as_floating(caller, dtype))

    def forward(self, x: Any) -> Any:
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}"


class ReLU6(Module):
    """y = min(max(x, 0), 6)"""

    def forward(self, x: Any) -> Any:
        return F.relu6(x)


class SELU(Module):
    """y = s (x if x > 0 else a (e^x - 1)); see nn.functional.selu."""

    def forward(self, x: Any) -> Any:
        return F.selu(x)


class CELU(Module):
    """y = x if x > 0 else alpha (e^(x/alpha) - 1)"""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = real(type(self).__name__, "alpha", alpha, 0, above=True)

    def forward(self, x: Any) -> Any:
        return F.celu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"{self.alpha}"


class GLU(Module):
    """y = a σ(b), a and b being the halves of x along `axis`"""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = integer(type(self).__name__, "axis", axis, None)

    def forward(self, x: Any) -> Any:
        return F.glu(x, self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class Softmin(GLU):
    """y = exp(-x) / sum of exp(-x) over `axis`"""

    def forward(self, x: Any) -> Any:
        return F.softmin(x, self.axis)


class Hardsigmoid(Module):
    """y = min(max(x + 3, 0), 6) / 6"""

    def forward(self, x: Any) -> Any:
        return F.hardsigmoid(x)


class Hardswish(Module):
    """y = x min(max(x + 3, 0), 6) / 6"""

    def forward(self, x: Any) -> Any:
        return F.hardswish(x)


class Hardtanh(Module):
    """y = min(max(x, min_val), max_val)"""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__()
        caller = type(self).__name__
        self.min_val, self.max_val = real(caller, "min_val", min_val), real(caller, "max_val", max_val)
        if not self.min_val <= self.max_val:
            raise ArgumentError(f"{caller}: min_val must be at most max_val, got {self.min_val} and {self.max_val}")

    def forward(self, x: Any) -> Any:
        return F.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"{self.min_val}, {self.max_val}"


class LogSigmoid(Module):
    """y = -ln(1 + exp(-x))"""

    def forward(self, x: Any) -> Any:
        return F.logsigmoid(x)


class Mish(Module):
    """y = x tanh(ln(1 + exp(x)))"""

    def forward(self, x: Any) -> Any:
        return F.mish(x)


class Softsign(Module):
    """y = x / (1 + |x|)"""

    def forward(self, x: Any) -> Any:
        return F.softsign(x)


class Tanhshrink(Module):
    """y = x - tanh(x)"""

    def forward(self, x: Any) -> Any:
        return F.tanhshrink(x)


class Softshrink(Module):
    """y = x - min(max(x, -lambd), lambd)"""

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = real(type(self).__name__, "lambd", lambd, 0)

    def forward(self, x: Any) -> Any:
        return F.softshrink(x, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Hardshrink(Softshrink):
    """y = x where |x| > lambd, 0 elsewhere"""

    def forward(self, x: Any) -> Any:
        return F.hardshrink(x, self.lambd)


class Threshold(Module):
    """y = x where x > threshold, value elsewhere"""

    def __init__(self, threshold: float, value: float) -> None:
        super().__init__()
        caller = type(self).__name__
        self.threshold, self.value = real(caller, "threshold", threshold), real(caller, "value", value)

    def forward(self, x: Any) -> Any:
        return F.threshold(x, self.threshold, self.value)

    def extra_repr(self) -> str:
        return f"{self.threshold}, {self.value}"
