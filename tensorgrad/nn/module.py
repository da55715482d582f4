"""Module: a part of a model, with the parameters and parts that it owns."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, ClassVar, Self

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, HasArray, Numbers, as_device, copy, is_array, is_floating, is_number, move, on, put
from tensorgrad.core.location import is_own
from tensorgrad.core.scope import Scope
from tensorgrad.core.state import changes, state, suggesting_keywords
from tensorgrad.core.table import columns
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, DTypeError
from tensorgrad.nn.arguments import as_floating
from tensorgrad.nn.hidden import KINDS, described, hidden, hidden_part_error, is_iterator, parts_in
from tensorgrad.nn.weights import check_layout, is_transposed, owned, pairs_of

__all__ = ["Module", "Parameter"]


class Parameter(Tensor):
    """A trainable leaf Tensor of a module; `requires_grad` is True."""

    __slots__ = ()

    def __init__(self, data: Tensor | Numbers | HasArray, *, dtype: np.typing.DTypeLike | None = None, name: str = "") -> None:
        super().__init__(data, True, dtype=dtype, name=name)


class Module:
    """Base class of all models and layers. A subclass sets parameters and modules as attributes in `__init__` and defines
    `forward`.

    Every parameter has a path: `model.encoder.weight` is the parameter "encoder.weight". Collect several submodules or
    parameters in nn.ModuleList, ModuleDict, ParameterList or ParameterDict. A module or parameter that sits only in a plain
    container would be missed by parameters() and state_dict(), so it is an error. That covers lists, tuples, sets, deques and
    dicts at any depth, object arrays, fields of dataclasses, SimpleNamespace, functools.partial, class attributes and
    cached_property. The error comes when the attribute is set, or at the next parameters(), state_dict(), to(), train(), call,
    or use by an optimiser. Other objects, closures, and elements beyond the first 1,000 of an attribute are not searched.
    `self.__dict__["teacher"] = module` holds a module without registering it.

    A parameter can be replaced by another Parameter or None, a submodule by another Module, a Parameter or None; `del` removes
    either. A parameter with several names (tied weights) is trained, counted and saved once, under its first name.

    copy.copy shares the submodules and parameters with the original, copy.deepcopy and pickle copy them. Hooks and gradients
    are not copied.
    """

    transposed_in_torch: tuple[str, ...] = ()  # names of parameters that PyTorch's module of the same name stores transposed
    only_in_torch: ClassVar[tuple[str, ...]] = ()  # names that only PyTorch's state_dict has

    def __init__(self) -> None:
        attributes = self.__dict__  # not empty if __init__ of another base class has run
        attributes.setdefault("_parameters", {})
        attributes.setdefault("_buffers", {})
        attributes.setdefault("_modules", {})
        attributes.setdefault("_absent", set())  # parameters that are None
        attributes.setdefault("_hooks", ())
        attributes.setdefault("_name", "")
        attributes.setdefault("_is_looked_into", False)  # whether attributes were searched for hidden parts since one was set
        changes.count += 1
        self.training = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and is_own(cls.__module__):
            cls.__init__ = suggesting_keywords(cls.__init__)  # type: ignore[method-assign]
        if cls.training is not Module.training:
            raise ArgumentError(
                f"{cls.__name__}: a class cannot define `training`, which train(), eval() and tensorgrad.train set on each "
                f"module; set self.training in __init__"
            )

    @property
    def training(self) -> bool:
        """Whether the module is in training mode. fit(), evaluate() and predict() change it only during the call."""
        entry = state.modes.get(id(self))
        if entry is not None:
            return entry[1]
        if "training" not in self.__dict__:
            raise AttributeError  # __getattr__ raises the error
        return self.__dict__["training"]  # type: ignore[no-any-return]

    @training.setter
    def training(self, mode: bool) -> None:
        modes = state.modes
        if id(self) in modes:
            modes[id(self)] = (self, mode)
        else:
            self.__dict__["training"] = mode

    _parameters: dict[str, Parameter]
    _buffers: dict[str, Array]
    _modules: dict[str, Module]
    _absent: set[str]
    _hooks: tuple[Callable[[Any, tuple[Any, ...], Any], Any], ...]
    _name: str
    _is_looked_into: bool

    def __setattr__(self, name: str, value: Any) -> None:
        changes.count += 1
        attributes = self.__dict__
        if isinstance(value, (Parameter, Module)):
            self._register(name, value)
        elif "_modules" not in attributes:
            self._check_container(name, value)
            super().__setattr__(name, value)
        elif name in self._buffers and value is not None:
            self._buffers[name] = self._as_buffer(name, value)
        else:
            if name in self._parameters or name in self._absent:
                self._check_place(name, value, "the parameter", "a Parameter or None")
                self._parameters.pop(name, None)
                self._absent.add(name)
            elif name in self._modules:
                self._check_place(name, value, "the part", "a Module, a Parameter or None")
                del self._modules[name]
            elif name in self._buffers:
                del self._buffers[name]
            value = self._check_container(name, value)
            super().__setattr__(name, value)

    def _register(self, name: str, value: Parameter | Module) -> None:
        """Register a parameter or a submodule."""
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
        self._check_name(name)
        if isinstance(value, Module) and (name in self._parameters or name in self._absent):
            self._check_place(name, value, "the parameter", "a Parameter or None")
        super().__setattr__(name, value)  # may be a property that refuses the value
        for owner in (self._parameters, self._modules, self._buffers):
            if owner is not (self._parameters if isinstance(value, Parameter) else self._modules):
                owner.pop(name, None)
        self._absent.discard(name)
        if isinstance(value, Parameter):
            value.name = value.name or name
            self._parameters[name] = value
        else:
            value._name = name
            self._modules[name] = value

    def _check_name(self, name: str) -> None:
        """Raise ArgumentError for an invalid name of a parameter or submodule."""
        prefix = f"{type(self).__name__}: {name!r}"
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(
                f"{prefix} cannot name a part: expected a string without dots, which separate the parts of a path"
            )
        if name in RESERVED or any(name in vars(kind) and is_method(vars(kind)[name]) for kind in library_classes(type(self))):
            raise ArgumentError(
                f"{prefix} cannot name a part: every {type(self).__name__} has an attribute {name}; use another name"
            )

    def _check_place(self, name: str, value: Any, role: str, expected: str) -> None:
        """Raise ArgumentError if a plain value would replace a parameter or submodule."""
        if value is None:
            return
        remedy = f"with no_grad(): {name}.data[...] = values writes new values into it"
        if role == "the part":
            remedy = f"del {name} removes it"
        elif not isinstance(value, Module):
            remedy += ", nn.Parameter(values) is a new one"
        raise ArgumentError(
            f"{type(self).__name__}: only {expected} can replace {role} {name!r}, got {described(value)}, which would "
            f"not be trained, moved or saved; {remedy}"
        )

    def _check_container(self, name: str, value: Any) -> Any:
        """Raise ArgumentError for a plain container with unregistered modules or parameters; else return the value."""
        if is_iterator(value):
            iterator, head = value, list(itertools.islice(value, 1))
            for place, part in parts_in(head, (Parameter, Module)):
                raise hidden_part_error(self, name, iterator, place, part)
            return itertools.chain(head, iterator)
        if KINDS[type(value)]:
            self.__dict__["_is_looked_into"] = False
            if parts := list(parts_in(value, (Parameter, Module))):
                registered = self._all_parts() if "_modules" in self.__dict__ else set()
                for place, part in parts:
                    if id(part) not in registered:
                        raise hidden_part_error(self, name, value, place, part)
        return value

    def _as_buffer(self, name: str, value: Any) -> Array:
        """Convert a value to a numeric array."""
        if isinstance(value, Tensor) and value.requires_grad:
            raise ArgumentError(
                f"{type(self).__name__}: the buffer {name!r} must be an array without a gradient, got a Tensor that requires "
                f"one; .detach() it"
            )
        try:
            array = value if is_array(value) else np.asarray(value)
        except ValueError:  # ragged list
            array = np.empty(0, object)
        if not is_number(array.dtype):
            raise ArgumentError(f"{type(self).__name__}: the buffer {name!r} must be a numeric array, got {described(value)}")
        return array

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the result of the arguments. Subclasses define this; calling the module runs it and the hooks."""
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outer = state.scope
        if not self._is_looked_into and not outer:
            self._refuse_hidden()
            self.__dict__["_is_looked_into"] = True
        module = vars(self).get("_original", self)  # the copy that functional_call makes does not outlive the call
        if state.trace is not None:
            state.trace.enters(module)
        path = f"{outer}.{self._name}" if outer and self._name else outer or self._name
        state.scope = Scope(path, module, outer)
        try:
            result = self.forward(*args, **kwargs)
            for hook in self._hooks:
                changed = hook(self, args, result)
                result = result if changed is None else changed
            return result
        finally:
            state.scope = outer

    def register_forward_hook(self, hook: Callable[[Any, tuple[Any, ...], Any], Any]) -> Callable[[], None]:
        """Call `hook(module, args, result)` after each forward(*args); a return value other than None replaces the result.

        Hooks run in the order of registration. A compiled step records what they compute as if it were part of forward, and
        refuses their other side effects. Returns a function that removes the hook.
        """
        if not callable(hook):
            raise DTypeError(
                f"{type(self).__name__}.register_forward_hook: expected a function of (module, args, result), "
                f"got {described(hook)}"
            )
        if state.trace is not None:
            state.trace.forbid("register_forward_hook")
        registration = functools.partial(hook)  # a new object, because the same function may be registered twice
        self.__dict__["_hooks"] = (*self._hooks, registration)
        changes.count += 1

        def remove() -> None:
            self.__dict__["_hooks"] = tuple(h for h in self._hooks if h is not registration)
            changes.count += 1

        return remove

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Iterate over (path, parameter), the module's own first; a shared parameter appears once."""
        self._refuse_hidden()
        for path, parameter, _ in owned(self, prefix):
            yield path, parameter

    def register_buffer(self, name: str, array: Any) -> None:
        """Register an array that belongs to the state (`state_dict`) but is not trained, such as a running mean."""
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
        self._check_name(name)
        if hasattr(self, name):
            raise AttributeError(f"{type(self).__name__}: register_buffer: the name {name!r} is already used")
        values = self._as_buffer(name, array)
        self._buffers[name] = copy(values) if is_array(array) else np.array(values)
        changes.count += 1

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Register a parameter, like setting the attribute. None registers an absent parameter: assigning an array to it later
        is an error.
        """
        if parameter is not None and not isinstance(parameter, Parameter):
            raise ArgumentError(
                f"{type(self).__name__}: register_parameter: {name!r} must be a Parameter or None, got {described(parameter)}"
            )
        setattr(self, name, parameter)
        if parameter is None:
            self._absent.add(name)

    def __delattr__(self, name: str) -> None:
        changes.count += 1
        attributes = self.__dict__
        owners = [owner for owner in (self._parameters, self._buffers, self._modules) if name in owner]
        for owner in owners:
            del owner[name]
        self._absent.discard(name)
        if name in attributes:
            del attributes[name]
        elif not owners:
            super().__delattr__(name)

    def __getattr__(self, name: str) -> Array:
        buffers = self.__dict__.get("_buffers", {})
        if name in buffers:
            return buffers[name]
        if name in RESERVED and name not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() first in __init__")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        """State for copies: a shallow copy has the same parts, in registries of its own."""
        registries = ("_parameters", "_buffers", "_modules", "_absent")
        copied = {name: value.copy() if name in registries else value for name, value in vars(self).items()}
        return copied | {"training": self.training, "_hooks": ()}

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """Iterate over (path, array) for every buffer; the buffers of a shared module appear once."""
        self._refuse_hidden()
        for path, array, _ in owned(self, prefix, buffers=True):
            yield path, array

    def train(self, mode: bool = True) -> Module:
        """Set training mode for the module and all submodules and return it: dropout is active, batch norm uses the batch's
        statistics.
        """
        if not isinstance(mode, (bool, np.bool_)):
            raise ArgumentError(f"{type(self).__name__}.train: expected True or False, got {mode!r}")
        for _, module in self.named_modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Module:
        """Set evaluation mode for the module and all submodules and return it."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: np.typing.DTypeLike | None = None) -> Module:
        """Move all parameters and buffers to a device ("cpu", "cuda", "cuda:1") or to a floating dtype; returns the module.

        An optimiser moves its state at its next step. Raises DeviceError or DTypeError for an invalid one.
        """
        if dtype is not None:
            dtype = as_floating(f"{type(self).__name__}.to", dtype)
        target = None if device is None else as_device(device)

        def converted(array: Array) -> Array:
            moved = array if target is None else move(array, target)
            with on(moved):
                return moved if dtype is None or not is_floating(array.dtype) else moved.astype(dtype, copy=False)

        for parameter in self.parameters():
            parameter._replace(converted(parameter._data))
            if parameter.grad is not None:
                parameter.grad = wrap(converted(parameter.grad._data), None)
        for _, module in self.named_modules():
            module._buffers.update({name: converted(array) for name, array in module._buffers.items()})
        changes.count += 1
        return self

    def parameters(self) -> Iterator[Parameter]:
        """Iterate over all parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Iterate over (path, module) for the module itself and all submodules, depth first; a shared one appears once."""
        self._refuse_hidden()
        yield from self._walk(prefix)

    def modules(self) -> Iterator[Module]:
        """Iterate over the module itself and all submodules, depth first; a shared one appears once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Iterate over (name, module) for the direct submodules; a shared one appears once."""
        self._refuse_hidden()
        first = {id(part): name for name, part in reversed(self._modules.items())}
        yield from ((name, part) for name, part in self._modules.items() if first[id(part)] == name)

    def children(self) -> Iterator[Module]:
        """Iterate over the direct submodules."""
        return (module for _, module in self.named_children())

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every submodule, innermost first, and on the module itself last; returns the module."""
        self._refuse_hidden()
        modules: dict[Module, None] = {}
        stack: list[Module] = [self]
        while stack:
            module = stack.pop()
            if module not in modules:
                modules[module] = None
                stack.extend(module._modules.values())
        for module in reversed(modules):
            fn(module)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of all parameters; False freezes them. Returns the module."""
        if not isinstance(requires_grad, (bool, np.bool_)):
            raise ArgumentError(f"{type(self).__name__}.requires_grad_: expected True or False, got {requires_grad!r}")
        for parameter in self.parameters():
            parameter.requires_grad_(bool(requires_grad))
        return self

    def _walk(self, prefix: str = "", every: str = "") -> Iterator[tuple[str, Module]]:
        """named_modules without the search for hidden parts. every="path" repeats shared modules for each of their paths,
        every="place" for each attribute that holds them, but descends into them once.
        """
        seen: set[int] = set()
        stack: list[tuple[str, Module, tuple[int, ...]]] = [(prefix, self, ())]
        while stack:
            path, module, ancestors = stack.pop()
            is_known = id(module) in (ancestors if every == "path" else seen)
            if is_known and every != "place":
                continue
            seen.add(id(module))
            yield path, module
            path_ids = (*ancestors, id(module)) if every == "path" else ancestors
            parts = [] if is_known else [(f"{path}.{n}" if path else n, part, path_ids) for n, part in module._modules.items()]
            stack.extend(reversed(parts))

    def _all_parts(self) -> set[int]:
        """The ids of all its modules and parameters."""
        modules = [module for _, module in self._walk()]
        return {id(part) for module in modules for part in (module, *module._parameters.values())}

    def _refuse_hidden(self) -> None:
        """Raise ArgumentError for an unregistered module or parameter in a plain container or a class attribute."""
        registered: set[int] | None = None
        for _, module in self._walk():
            for name, value, place, part in hidden(module, (Parameter, Module), RESERVED):
                registered = self._all_parts() if registered is None else registered
                if id(part) not in registered:
                    raise hidden_part_error(module, name, value, place, part)

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for _, module in self._walk():
            for parameter in module._parameters.values():
                parameter.grad = None

    def state_dict(self, *, layout: str | None = None) -> dict[str, Array]:
        """Return a dict of path to array: copies of all parameters and buffers, on their device.

        layout   "torch" for the layout of PyTorch's module of the same form: the weights of its Linear are (out, in)

        Raises ArgumentError for another layout.
        """
        if state.trace is not None:
            state.trace.forbid("state_dict()")
        check_layout(f"state_dict: {type(self).__name__}", layout)
        if layout == "torch":
            places = (*owned(self), *owned(self, buffers=True))
            values = {path: (value if is_array(value) else value._data, *place) for path, value, place in places}
            return {path: copy(array.T if is_transposed(array, *place) else array) for path, (array, *place) in values.items()}
        arrays = [(path, parameter._data) for path, parameter in self.named_parameters()]
        return {path: copy(array) for path, array in (*arrays, *self.named_buffers())}

    def load_state_dict(self, values: Mapping[str, Any], strict: bool = True, *, layout: str | None = None) -> None:
        """Load all parameters and buffers from `values`, in place. Devices may differ.

        values   dict of path to array, as `state_dict` returns it; floats may have another precision
        strict   False to ignore missing and unknown names
        layout   "torch" for values from PyTorch's module of the same form, as Tensors or arrays: Linear weights (out, in) are
                 transposed, num_batches_tracked is skipped. Parameters of your own classes are loaded unchanged. PyTorch
                 Tensors without layout="torch" are refused. Arrays do not show where they come from: a square PyTorch weight
                 loaded without it stays transposed

        Checks everything before the first change. Raises ShapeError for other shapes and, if `strict`, for other names;
        DTypeError for values of another kind or out of range; ArgumentError if `values` is not such a dict.
        """
        self._refuse_hidden()
        pairs = pairs_of(self, values, strict, layout)
        if state.trace is not None:
            state.trace.forbid("load_state_dict()")
        for array, loaded in pairs:
            put(array, loaded)
            writes.wrote(array)

    def __repr__(self) -> str:
        """The tree of submodules with the shapes of their parameters, and the number of parameters."""
        rows: list[tuple[str, str, str]] = []
        first: dict[int, str] = {}
        for path, module in self._walk(every="place"):
            depth = path.count(".") + 1 if path else 0
            label = f"({path.rpartition('.')[2]}) " if path else ""
            if first.setdefault(id(module), path) != path:
                rows.append((f"{'  ' * depth}{label}the same as {first[id(module)] or 'the whole'}", "", ""))
                continue
            shapes = ", ".join(f"{name} {p.shape}" for name, p in module._parameters.items())
            count = sum(p.size for _, p, _ in owned(module))
            try:
                extra = module.extra_repr()
            except AttributeError:  # a parameter that extra_repr shows has been deleted
                extra = "..."
            rows.append((f"{'  ' * depth}{label}{type(module).__name__}({extra})", shapes, f"{count:,}" if count else ""))
        lines = columns(rows, "<<>")
        return "\n".join(lines) if len(lines) > 1 else rows[0][0]

    def extra_repr(self) -> str:
        """The text between the parentheses of the repr. Subclasses define it."""
        return ""


RESERVED = frozenset(vars(Module()))  # attributes of every Module


def is_method(value: Any) -> bool:
    """Whether a class attribute is a method or a property."""
    return isinstance(value, (FunctionType, property, classmethod, staticmethod))


def _library_classes(kind: type) -> tuple[type, ...]:
    """The base classes that belong to this package."""
    return tuple(base for base in kind.__mro__ if is_own(base.__module__))


library_classes: Callable[[Any], tuple[type, ...]] = functools.cache(_library_classes)
