"""Module: a part of a model, with the parameters and parts that it owns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tensorgrad.backend import Array
from tensorgrad.errors import ShapeError
from tensorgrad.state import state
from tensorgrad.tensor import Tensor


class Parameter(Tensor):
    """A leaf Tensor that a module owns and an optimiser changes; it requires a gradient."""

    __slots__ = ()

    def __init__(self, data: Any, *, dtype: Any = None, name: str = "") -> None:
        super().__init__(data, True, dtype=dtype, name=name)


class Module:
    """A part of a model. A subclass sets parameters and modules as attributes in `__init__` and defines `forward`.

    What is an attribute has a path: `model.encoder.weight` is the parameter "encoder.weight".
    """

    def __init__(self) -> None:
        self._parameters: dict[str, Parameter] = {}
        self._modules: dict[str, Module] = {}
        self._name = ""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Parameter, Module)):
            if "_modules" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
            if isinstance(value, Parameter):
                value.name = value.name or name
                self._parameters[name] = value
            else:
                value._name = name
                self._modules[name] = value
        elif not name.startswith("_"):
            self._parameters.pop(name, None)
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    def forward(self, *args: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any) -> Any:
        outer = state.scope
        if self._name:
            state.scope = f"{outer}.{self._name}" if outer else self._name
        try:
            return self.forward(*args)
        finally:
            state.scope = outer

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) for every parameter, its own first; one that is shared appears once."""
        seen: set[Parameter] = set()
        for path, module in self.named_modules(prefix):
            for name, parameter in module._parameters.items():
                if parameter not in seen:
                    seen.add(parameter)
                    yield f"{path}.{name}" if path else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, as an optimiser takes them."""
        return (parameter for _, parameter in self.named_parameters())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) for itself and every part, depth first."""
        stack = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            yield path, module
            parts = [(f"{path}.{name}" if path else name, part) for name, part in module._modules.items()]
            stack.extend(reversed(parts))

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Array]:
        """Path to a copy of the values, for every parameter."""
        return {path: parameter.data.copy() for path, parameter in self.named_parameters()}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Set every parameter from `values`. Raises ShapeError, before anything is changed, for names or shapes that differ."""
        own = dict(self.named_parameters())
        problems = [f"missing {sorted(own.keys() - values.keys())}"] if own.keys() - values.keys() else []
        problems += [f"unexpected {sorted(values.keys() - own.keys())}"] if values.keys() - own.keys() else []
        problems += [
            f"{name} has shape {np.shape(values[name])}, expected {p.shape}"
            for name, p in own.items()
            if name in values and np.shape(values[name]) != p.shape
        ]
        if problems:
            raise ShapeError(f"load_state_dict: {type(self).__name__}: {'; '.join(problems)}")
        for name, parameter in own.items():
            parameter.data[...] = values[name]

    def __repr__(self) -> str:
        parts = [f"  ({name}): " + repr(part).replace("\n", "\n  ") for name, part in self._modules.items()]
        inside = f"\n{chr(10).join(parts)}\n" if parts else self.extra_repr()
        return f"{type(self).__name__}({inside})"

    def extra_repr(self) -> str:
        """What stands between the brackets of a module without parts."""
        return ""
