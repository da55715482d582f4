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
from tensorgrad.core.state import answering, changes, state
from tensorgrad.core.table import columns
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, DTypeError
from tensorgrad.nn.arguments import as_floating
from tensorgrad.nn.hidden import KINDS, described, hidden, hiding, is_spent, parts_in
from tensorgrad.nn.weights import check_layout, owned, pairs_of, turned

__all__ = ["Module", "Parameter"]


class Parameter(Tensor):
    """A leaf Tensor that a module owns and an optimiser changes; it requires a gradient."""

    __slots__ = ()

    def __init__(self, data: Tensor | Numbers | HasArray, *, dtype: np.typing.DTypeLike | None = None, name: str = "") -> None:
        super().__init__(data, True, dtype=dtype, name=name)


class Module:
    """A part of a model. A subclass sets parameters and modules as attributes in `__init__` and defines `forward`.

    What is an attribute has a path: `model.encoder.weight` is the parameter "encoder.weight". Several of them belong in
    nn.ModuleList, ModuleDict, ParameterList or ParameterDict. One in a plain container (lists, tuples, sets, deques, dicts, at
    any depth, arrays of objects, fields of dataclasses, SimpleNamespace, functools.partial), in a class, or made by a
    cached_property, would be found by nothing, so it is an error: when it is set, or where the parts are next asked for
    (parameters(), state_dict(), to(), train(), an optimiser, the first call). It is none where it is a part by another name as
    well. Not looked into are other objects, what functions refer to, and of one attribute more than 1,000 elements.
    `self.__dict__["teacher"] = module` holds a module that is to be no part.

    A parameter gives its place to another Parameter or to None, a part to another Module, a Parameter or None; `del` removes
    either. One that has several names (tied weights) is trained, counted and saved once, by its first name.

    Copies (copy.copy, copy.deepcopy, pickle) have lists of parts of their own; those of copy.copy have the same parts. Hooks
    and gradients are not copied.
    """

    transposed_in_torch: tuple[str, ...] = ()  # parameters that PyTorch's module of the same name has as .T
    only_in_torch: ClassVar[tuple[str, ...]] = ()  # what its state has besides

    def __init__(self) -> None:
        own = self.__dict__  # where there is something already, another class has called this before
        own.setdefault("_parameters", {})
        own.setdefault("_buffers", {})
        own.setdefault("_modules", {})
        own.setdefault("_absent", set())  # parameters that are None
        own.setdefault("_hooks", ())
        own.setdefault("_name", "")
        own.setdefault("_is_looked_into", False)  # for parts that hide, since an attribute was set
        changes.count += 1
        self.training = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and is_own(cls.__module__):
            cls.__init__ = answering(cls.__init__)  # type: ignore[method-assign]
        if cls.training is not Module.training:
            raise ArgumentError(
                f"{cls.__name__}: a class cannot define `training`, which train(), eval() and tensorgrad.train set for each "
                f"module; set self.training in __init__"
            )

    @property
    def training(self) -> bool:
        """Whether it is being trained, not used. Inside fit(), evaluate() and predict() that is so for the call alone."""
        own = state.modes.get(id(self))
        if own is not None:
            return own[1]
        if "training" not in self.__dict__:
            raise AttributeError  # __getattr__ says why
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
        own = self.__dict__
        if isinstance(value, (Parameter, Module)):
            self._register(name, value)
        elif "_modules" not in own:
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
        """Make a parameter or a module a part."""
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
        self._check_name(name)
        if isinstance(value, Module) and (name in self._parameters or name in self._absent):
            self._check_place(name, value, "the parameter", "a Parameter or None")
        super().__setattr__(name, value)  # it may be a property's, and be refused
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
        """Raise ArgumentError for what cannot be the name of a part."""
        at = f"{type(self).__name__}: {name!r}"
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"{at} cannot be the name of a part: expected text without a dot, which paths are made with")
        if name in RESERVED or any(name in vars(kind) and is_method(vars(kind)[name]) for kind in own_classes(type(self))):
            raise ArgumentError(
                f"{at} cannot be the name of a part: {name} is what every {type(self).__name__} has; take another"
            )

    def _check_place(self, name: str, value: Any, what: str, expected: str) -> None:
        """Raise ArgumentError if something that is no part takes the place of one."""
        if value is None:
            return
        how = f"with no_grad(): {name}.data[...] = values writes other numbers into it"
        if what == "the part":
            how = f"del {name} removes it"
        elif not isinstance(value, Module):
            how += ", nn.Parameter(values) is another one"
        raise ArgumentError(
            f"{type(self).__name__}: only {expected} takes the place of {what} {name!r}, got {described(value)}, which would "
            f"not be trained, moved or saved; {how}"
        )

    def _check_container(self, name: str, value: Any) -> Any:
        """Raise ArgumentError for a plain container of parts that are none of this module's; else return the value."""
        if is_spent(value):
            given, first = value, list(itertools.islice(value, 1))
            for place, part in parts_in(first, (Parameter, Module)):
                raise hiding(self, name, given, place, part)
            return itertools.chain(first, given)
        if KINDS[type(value)]:
            self.__dict__["_is_looked_into"] = False
            if found := list(parts_in(value, (Parameter, Module))):
                registered = self._all_parts() if "_modules" in self.__dict__ else set()
                for place, part in found:
                    if id(part) not in registered:
                        raise hiding(self, name, value, place, part)
        return value

    def _as_buffer(self, name: str, value: Any) -> Array:
        """A value as an array of numbers."""
        if isinstance(value, Tensor) and value.requires_grad:
            raise ArgumentError(
                f"{type(self).__name__}: the buffer {name!r} is an array without a gradient, got a Tensor that requires one; "
                f".detach() it"
            )
        try:
            array = value if is_array(value) else np.asarray(value)
        except ValueError:  # a ragged list
            array = np.empty(0, object)
        if not is_number(array.dtype):
            raise ArgumentError(
                f"{type(self).__name__}: the buffer {name!r} must be an array of numbers, got {described(value)}"
            )
        return array

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What it computes of its arguments. A subclass defines this; to call the module is to call this and its hooks."""
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outer = state.scope
        if not self._is_looked_into and not outer:
            self._refuse_hidden()
            self.__dict__["_is_looked_into"] = True
        own = vars(self).get("_original", self)  # a copy of functional_call's is gone after the call
        if state.trace is not None:
            state.trace.enters(own)
        path = f"{outer}.{self._name}" if outer and self._name else outer or self._name
        state.scope = Scope(path, own, outer)
        try:
            result = self.forward(*args, **kwargs)
            for hook in self._hooks:
                changed = hook(self, args, result)
                result = result if changed is None else changed
            return result
        finally:
            state.scope = outer

    def register_forward_hook(self, hook: Callable[[Any, tuple[Any, ...], Any], Any]) -> Callable[[], None]:
        """Call `hook(module, args, result)` after each forward(*args); what it returns, if not None, takes the result's place.

        Hooks run in the order in which they were registered. In a compiled step what they compute is recorded with the rest,
        as if it stood in forward: what else they do is refused, as ever. Returns a function that removes the hook again.
        """
        if not callable(hook):
            raise DTypeError(
                f"{type(self).__name__}.register_forward_hook: expected a function of (module, args, result), "
                f"got {described(hook)}"
            )
        if state.trace is not None:
            state.trace.forbid("register_forward_hook")
        own = functools.partial(hook)  # the same function may be registered twice, and be removed once
        self.__dict__["_hooks"] = (*self._hooks, own)
        changes.count += 1

        def remove() -> None:
            self.__dict__["_hooks"] = tuple(h for h in self._hooks if h is not own)
            changes.count += 1

        return remove

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) for every parameter, its own first; one that is shared appears once."""
        self._refuse_hidden()
        for path, parameter, _ in owned(self, prefix):
            yield path, parameter

    def register_buffer(self, name: str, array: Any) -> None:
        """Make an array an attribute that belongs to the state (`state_dict`) but is not trained, such as a running mean."""
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before setting {name!r}")
        self._check_name(name)
        if hasattr(self, name):
            raise AttributeError(f"{type(self).__name__}: register_buffer: there is a {name!r} already")
        values = self._as_buffer(name, array)
        self._buffers[name] = copy(values) if is_array(array) else np.array(values)
        changes.count += 1

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """The same as setting the attribute, but that None is known to be a parameter which this module does without: no array
        takes its place unnoticed."""
        if parameter is not None and not isinstance(parameter, Parameter):
            raise ArgumentError(
                f"{type(self).__name__}: register_parameter: {name!r} must be a Parameter or None, got {described(parameter)}"
            )
        setattr(self, name, parameter)
        if parameter is None:
            self._absent.add(name)

    def __delattr__(self, name: str) -> None:
        changes.count += 1
        own = self.__dict__
        found = [owner for owner in (self._parameters, self._buffers, self._modules) if name in owner]
        for owner in found:
            del owner[name]
        self._absent.discard(name)
        if name in own:
            del own[name]
        elif not found:
            super().__delattr__(name)

    def __getattr__(self, name: str) -> Array:
        buffers = self.__dict__.get("_buffers", {})
        if name in buffers:
            return buffers[name]
        if name in RESERVED and name not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() first in __init__")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        """What copies are made of: a copy that is not deep has the same parts, but lists of them of its own."""
        own = ("_parameters", "_buffers", "_modules", "_absent")
        copied = {name: value.copy() if name in own else value for name, value in vars(self).items()}
        return copied | {"training": self.training, "_hooks": ()}

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """(path, array) for every buffer; one of a module that has several names appears once."""
        self._refuse_hidden()
        for path, array, _ in owned(self, prefix, buffers=True):
            yield path, array

    def train(self, mode: bool = True) -> Module:
        """Say that it is being trained, with all its parts, and return it: dropout drops, batch norm takes the batch's own."""
        if not isinstance(mode, (bool, np.bool_)):
            raise ArgumentError(f"{type(self).__name__}.train: expected True or False, got {mode!r}")
        for _, module in self.named_modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Module:
        """Say that it is being used, not trained."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: np.typing.DTypeLike | None = None) -> Module:
        """Move every parameter and buffer to a device ("cpu", "cuda", "cuda:1"), or to another floating dtype; returns itself.

        An optimiser follows at its next step, with its state. Raises DeviceError, DTypeError for what is none.
        """
        if dtype is not None:
            dtype = as_floating(f"{type(self).__name__}.to", dtype)
        place = None if device is None else as_device(device)

        def there(array: Array) -> Array:
            moved = array if place is None else move(array, place)
            with on(moved):
                return moved if dtype is None or not is_floating(array.dtype) else moved.astype(dtype, copy=False)

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
        """(path, module) for itself and every part, depth first; one that is shared appears once."""
        self._refuse_hidden()
        yield from self._walk(prefix)

    def modules(self) -> Iterator[Module]:
        """Itself and every part, depth first; one that is shared appears once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for the parts that are its own attributes; one that is shared appears once."""
        self._refuse_hidden()
        first = {id(part): name for name, part in reversed(self._modules.items())}
        yield from ((name, part) for name, part in self._modules.items() if first[id(part)] == name)

    def children(self) -> Iterator[Module]:
        """The modules that are its own attributes."""
        return (module for _, module in self.named_children())

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` with every part, the inner ones first, and with itself last; returns itself."""
        self._refuse_hidden()
        found: dict[Module, None] = {}
        stack: list[Module] = [self]
        while stack:
            module = stack.pop()
            if module not in found:
                found[module] = None
                stack.extend(module._modules.values())
        for module in reversed(found):
            fn(module)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say whether its parameters are to be trained, False to freeze them; returns itself."""
        if not isinstance(requires_grad, (bool, np.bool_)):
            raise ArgumentError(f"{type(self).__name__}.requires_grad_: expected True or False, got {requires_grad!r}")
        for parameter in self.parameters():
            parameter.requires_grad_(bool(requires_grad))
        return self

    def _walk(self, prefix: str = "", every: str = "") -> Iterator[tuple[str, Module]]:
        """The same without a look for parts that hide. every="path" for shared modules by each path that they have, and
        every="place" for those in each place where they stand, but what is in them once."""
        seen: set[int] = set()
        stack: list[tuple[str, Module, tuple[int, ...]]] = [(prefix, self, ())]
        while stack:
            path, module, above = stack.pop()
            is_known = id(module) in (above if every == "path" else seen)
            if is_known and every != "place":
                continue
            seen.add(id(module))
            yield path, module
            inside = (*above, id(module)) if every == "path" else above
            parts = [] if is_known else [(f"{path}.{n}" if path else n, part, inside) for n, part in module._modules.items()]
            stack.extend(reversed(parts))

    def _all_parts(self) -> set[int]:
        """The ids of all modules and parameters in it."""
        modules = [module for _, module in self._walk()]
        return {id(part) for module in modules for part in (module, *module._parameters.values())}

    def _refuse_hidden(self) -> None:
        """Raise ArgumentError for a module or a parameter that is in a plain container or a class, and no part of it."""
        registered: set[int] | None = None
        for _, module in self._walk():
            for name, value, place, part in hidden(module, (Parameter, Module), RESERVED):
                registered = self._all_parts() if registered is None else registered
                if id(part) not in registered:
                    raise hiding(module, name, value, place, part)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for _, module in self._walk():
            for parameter in module._parameters.values():
                parameter.grad = None

    def state_dict(self, *, layout: str | None = None) -> dict[str, Array]:
        """Path to a copy of the values, on their device, for every parameter and every buffer.

        layout   "torch" for what PyTorch's module of the same form loads: the weights of its Linear are (out, in)

        Raises ArgumentError for another layout.
        """
        if state.trace is not None:
            state.trace.forbid("state_dict()")
        check_layout(f"state_dict: {type(self).__name__}", layout)
        if layout == "torch":
            places = (*owned(self), *owned(self, buffers=True))
            values = {path: (value if is_array(value) else value._data, *place) for path, value, place in places}
            return {path: copy(array.T if turned(array, *place) else array) for path, (array, *place) in values.items()}
        arrays = [(path, parameter._data) for path, parameter in self.named_parameters()]
        return {path: copy(array) for path, array in (*arrays, *self.named_buffers())}

    def load_state_dict(self, values: Mapping[str, Any], strict: bool = True, *, layout: str | None = None) -> None:
        """Set every parameter and buffer from `values`, which may be on another device, in their own memory.

        values   path to array, as `state_dict` gives it; floats may be of another precision
        strict   False for names that are missing, or not known, to be left out
        layout   "torch" for what PyTorch's module of the same form has given, as its Tensors or as arrays: the weights of its
                 Linear (out, in) are transposed, its num_batches_tracked is left out. Parameters of classes of your own are
                 taken as they are. Tensors of PyTorch are refused without this word; of an array nobody can know where it
                 comes from, and a square weight of PyTorch's that is loaded without it is the wrong way round

        Raises, before anything is changed, ShapeError for shapes that differ, and, if `strict`, for names that do; DTypeError
        for values of another kind, or out of range; ArgumentError for what is no such dict.
        """
        self._refuse_hidden()
        pairs = pairs_of(self, values, strict, layout)
        if state.trace is not None:
            state.trace.forbid("load_state_dict()")
        for array, loaded in pairs:
            put(array, loaded)
            writes.wrote(array)

    def __repr__(self) -> str:
        """The tree of parts, each with the shapes of its own parameters, and how many numbers they are in all."""
        rows: list[tuple[str, str, str]] = []
        first: dict[int, str] = {}
        for path, module in self._walk(every="place"):
            depth = path.count(".") + 1 if path else 0
            label = f"({path.rpartition('.')[2]}) " if path else ""
            if first.setdefault(id(module), path) != path:
                rows.append((f"{'  ' * depth}{label}the same as {first[id(module)] or 'the whole'}", "", ""))
                continue
            own = ", ".join(f"{name} {p.shape}" for name, p in module._parameters.items())
            count = sum(p.size for _, p, _ in owned(module))
            try:
                inside = module.extra_repr()
            except AttributeError:  # a parameter that it tells of has been taken away
                inside = "..."
            rows.append((f"{'  ' * depth}{label}{type(module).__name__}({inside})", own, f"{count:,}" if count else ""))
        lines = columns(rows, "<<>")
        return "\n".join(lines) if len(lines) > 1 else rows[0][0]

    def extra_repr(self) -> str:
        """What stands between the brackets of a module."""
        return ""


RESERVED = frozenset(vars(Module()))  # what every Module has


def is_method(value: Any) -> bool:
    """Whether what a class has is a method or a property."""
    return isinstance(value, (FunctionType, property, classmethod, staticmethod))


def _own_classes(kind: type) -> tuple[type, ...]:
    """The classes of this package that a class of modules is made of."""
    return tuple(base for base in kind.__mro__ if is_own(base.__module__))


own_classes: Callable[[Any], tuple[type, ...]] = functools.cache(_own_classes)
