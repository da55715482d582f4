"""Module: a part of a model, with the parameters and parts that it owns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, HasArray, Numbers, as_device, copy, is_array, move, on, put
from tensorgrad.core.state import changes, state
from tensorgrad.core.table import columns
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ShapeError

__all__ = ["Module", "Parameter"]


class Parameter(Tensor):
    """A leaf Tensor that a module owns and an optimiser changes; it requires a gradient."""

    __slots__ = ()

    def __init__(self, data: Tensor | Numbers | HasArray, *, dtype: np.typing.DTypeLike | None = None, name: str = "") -> None:
        super().__init__(data, True, dtype=dtype, name=name)


class Module:
    """A part of a model. A subclass sets parameters and modules as attributes in `__init__` and defines `forward`.

    What is an attribute has a path: `model.encoder.weight` is the parameter "encoder.weight".
    """

    def __init__(self) -> None:
        self._parameters: dict[str, Parameter] = {}
        self._buffers: dict[str, Array] = {}
        self._modules: dict[str, Module] = {}
        self._name = ""
        self.training = True

    def __setattr__(self, name: str, value: Any) -> None:
        changes.count += 1
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        if not name.startswith("_") and any(isinstance(part, (Parameter, Module)) for part in parts):
            raise TypeError(
                f"{type(self).__name__}: {name} is a {type(value).__name__} that holds modules or parameters, which would not "
                f"be found in it; use nn.Sequential, or setattr(self, name, part) for each"
            )
        if isinstance(value, (Parameter, Module)):
            if "_modules" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
            if isinstance(value, Parameter):
                value.name = value.name or name
                self._parameters[name] = value
            else:
                value._name = name
                self._modules[name] = value
        elif name in self.__dict__.get("_buffers", {}):
            self._buffers[name] = value if is_array(value) else np.asarray(value)
            return
        elif not name.startswith("_"):
            self._parameters.pop(name, None)
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    def forward(self, *args: Any) -> Any:
        """What it computes of its arguments. A subclass defines this; to call the module is to call this."""
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any) -> Any:
        outer = state.scope
        if state.trace is not None:
            state.trace.enters(self)
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

    def register_buffer(self, name: str, array: Any) -> None:
        """Make an array an attribute that belongs to the state (`state_dict`) but is not trained, such as a running mean."""
        if hasattr(self, name):
            raise AttributeError(f"{type(self).__name__}: register_buffer: there is a {name!r} already")
        self._buffers[name] = copy(array) if is_array(array) else np.array(array)

    def __delattr__(self, name: str) -> None:
        changes.count += 1
        for owner in (self._parameters, self._buffers, self._modules):
            owner.pop(name, None)
        self.__dict__.pop(name, None)

    def __getattr__(self, name: str) -> Array:
        buffers = self.__dict__.get("_buffers", {})
        if name in buffers:
            return buffers[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """(path, array) for every buffer."""
        for path, module in self.named_modules(prefix):
            for name, array in module._buffers.items():
                yield f"{path}.{name}" if path else name, array

    def train(self, mode: bool = True) -> Module:
        """Say that it is being trained, with all its parts, and return it: dropout drops, batch norm takes the batch's own."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Say that it is being used, not trained."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: np.typing.DTypeLike | None = None) -> Module:
        """Move every parameter and buffer to a device ("cpu", "cuda", "cuda:1"), or to another floating dtype; returns itself.

        An optimiser follows at its next step, with its state.
        """
        place = None if device is None else as_device(device)

        def there(array: Array) -> Array:
            moved = array if place is None else move(array, place)
            with on(moved):
                return moved if dtype is None or array.dtype.kind != "f" else moved.astype(dtype, copy=False)

        for parameter in self.parameters():
            parameter._replace(there(parameter._data))
            if parameter.grad is not None:
                parameter.grad = wrap(there(parameter.grad._data), None)
        for _, module in self.named_modules():
            module._buffers.update({name: there(array) for name, array in module._buffers.items()})
        changes.count += 1
        return self

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
        """Path to a copy of the values, on their device, for every parameter and every buffer."""
        if state.trace is not None:
            state.trace.forbid("state_dict()")
        arrays = [(path, parameter._data) for path, parameter in self.named_parameters()]
        return {path: copy(array) for path, array in (*arrays, *self.named_buffers())}

    def load_state_dict(self, values: Mapping[str, Any], strict: bool = True) -> None:
        """Set every parameter and buffer from `values`, which may be on another device, in their own memory.

        Raises ShapeError, before anything is changed, for shapes that differ, and, if `strict`, for names that do.
        """
        own = {**{path: p._data for path, p in self.named_parameters()}, **dict(self.named_buffers())}
        if not strict:
            values = {name: value for name, value in values.items() if name in own}
            own = {name: array for name, array in own.items() if name in values}
        problems = [f"missing {sorted(own.keys() - values.keys())}"] if own.keys() - values.keys() else []
        problems += [f"unexpected {sorted(values.keys() - own.keys())}"] if values.keys() - own.keys() else []
        problems += [
            f"{name} has shape {np.shape(values[name])}, expected {p.shape}"
            for name, p in own.items()
            if name in values and np.shape(values[name]) != p.shape
        ]
        if state.trace is not None:
            state.trace.forbid("load_state_dict()")
        if problems:
            raise ShapeError(f"load_state_dict: {type(self).__name__}: {'; '.join(problems)}")
        for name, array in own.items():
            put(array, values[name])
            writes.wrote(array)

    def __repr__(self) -> str:
        """The tree of parts, each with the shapes of its own parameters, and how many numbers they are in all."""
        rows = []
        for path, module in self.named_modules():
            depth = path.count(".") + 1 if path else 0
            label = f"({path.rpartition('.')[2]}) " if path else ""
            own = ", ".join(f"{name} {p.shape}" for name, p in module._parameters.items())
            count = sum(p.size for p in module.parameters())
            inside = "" if module._modules else module.extra_repr()
            rows.append((f"{'  ' * depth}{label}{type(module).__name__}({inside})", own, f"{count:,}" if count else ""))
        lines = columns(rows, "<<>")
        return "\n".join(lines) if len(lines) > 1 else rows[0][0]

    def extra_repr(self) -> str:
        """What stands between the brackets of a module without parts."""
        return ""
