"""The world of a step: the outside objects that its Python code can reach - Tensors, arrays, modules, optimisers, generators,
numbers.

It is collected when a plan is made. What the step reaches by name (its closure, defaults, the globals and attributes that its
code names, elements of lists and dicts) becomes bindings, for guards; the arrays can be set to other values temporarily.
"""

from __future__ import annotations

import array as array_module
import contextlib
import ctypes
import functools
import operator
import random as python_random
import sys
import sysconfig
from collections import ChainMap, Counter, UserDict, UserList, UserString, deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FunctionType, MappingProxyType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler.bytecode import names_in
from tensorgrad.compiler.contents import Place
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, copy, is_array, is_floating, may_overlap, on, on_gpu
from tensorgrad.core.location import is_own
from tensorgrad.core.state import changes
from tensorgrad.core.tensor import Tensor
from tensorgrad.nn.module import Module
from tensorgrad.ops import random
from tensorgrad.optim.group import Settings
from tensorgrad.optim.optimiser import Optimiser

LONG = 100  # lists and dicts with more elements are not inspected
BUFFERED = 4096  # nor are larger buffers, in bytes: a bytearray, an array.array, ...
LARGE = 1 << 20  # larger arrays, in bytes, are left alone unless the program reads them
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
INSTALLED = {"site-packages", "dist-packages"}  # also of another prefix: the user's, or that of the base environment
IGNORED_METHODS = ("__init__", "__new__", "__repr__", "__str__", "__del__", "__reduce__", "__getstate__", "__setstate__")
OF_MODULES = frozenset(vars(Module()))  # attributes of every Module
SEQUENCES = (list, deque)
MAPPINGS = (dict, MappingProxyType)
WRAPPERS = {UserList: "data", UserDict: "data", UserString: "data", ChainMap: "maps"}  # the attribute with what they contain
BUFFERS = (bytearray, memoryview, array_module.array, ctypes.Array)
SIMPLE = (type(None), bool, int, float, complex, str, bytes, np.generic)


class Binding(NamedTuple):
    """An object that a step reaches by name.

    text     its description: "global scale", "closure model", "0.p"
    holder   where it is stored: a cell, a dict, a list, an object with attributes
    key      its name or index there;  kind: "cell", "item", "attribute", "slot", "defaults", "context" (of a ContextVar), or
             one of those below
    value    the value when it was found

    "length", "order" and "contents" are of a container: the number of its elements, the keys of a mapping in order, and an
    immutable copy of a set or of a buffer (`contents_of`).

    "absent" is of names, a frozenset, that Python looks for in `holder` and finds elsewhere, if at all: in the class, a
    base class, the built-in names. The value is then the names that are there, none; `text` is what precedes them.
    """

    text: str
    holder: Any
    key: Any
    kind: str
    value: Any

    def now(self) -> Any:
        """The current value, or MISSING."""
        try:
            if self.kind == "cell":
                return self.holder.cell_contents
            if self.kind == "length":
                return len(self.holder)
            if self.kind == "order":
                return tuple(self.holder)
            if self.kind == "contents":
                return contents_of(self.holder)
            if self.kind == "context":
                return self.holder.get(None)
            if self.kind == "defaults":
                return self.holder.__defaults__
            if self.kind == "slot":
                return getattr(self.holder, self.key)
            if self.kind == "absent":
                return present(self.holder, self.key)
            return self.holder[self.key] if self.kind == "item" else self.holder.__dict__[self.key]
        except (KeyError, IndexError, ValueError, AttributeError):
            return MISSING


MISSING: Any = object()
COPIES = ("order", "contents", "absent")  # kinds of bindings whose values are made anew, and so are compared by ==


class World:
    """Everything that is reached from `roots`, a dict of names to objects.

    bindings    in order of discovery
    tensors, modules, optimisers   each with a name
    arrays      by id: arrays that a step might read or write unrecorded, with names
    buffers     ids of those that belong to tensorgrad's modules, whose Python code does not depend on their values
    generators  of random numbers
    """

    def __init__(self, roots: dict[str, Any]) -> None:
        self.bindings: list[Binding] = []
        self.tensors: dict[Tensor, str] = {}
        self.modules: dict[Module, str] = {}
        self.optimisers: dict[Optimiser, str] = {}
        self.arrays: dict[int, tuple[Array, str]] = {}
        self.buffers: set[int] = set()
        self.generators: dict[int, np.random.Generator] = {id(random.default()): random.default()}
        self.roots = [getattr(root, "__func__", root) for root in roots.values()]
        self.attributes: set[str] = set()  # that the code names
        self.reflects = False  # whether the code looks for attributes that need not exist
        self.reads_unnamed = False  # or for some that it does not name
        self.missing: dict[int, tuple[dict[str, Any], set[str]]] = {}  # global names that are not there, by namespace
        self.elements: dict[int, list[set[Any] | None]] = {}  # of lists and dicts, by id: which are used where; None for all
        self.visit_counts: Counter[int] = Counter()  # number of visits, by id
        self.containers: list[tuple[Any, str]] = []
        self.seen: set[int] = set()
        self.keepalive: list[Any] = []  # keeps objects alive, so that ids are unique
        self.inspected: set[tuple[int, str]] = set()  # inspected attributes, by the id of their owner
        stack = [(value, text) for text, value in reversed(roots.items())]
        objects: list[tuple[Any, str]] = []
        while stack:
            value, text = stack.pop()
            self.visit_counts[id(value)] += 1
            if not isinstance(value, SIMPLE) and id(value) not in self.seen:
                self.seen.add(id(value))
                self.keepalive.append(value)
                stack += reversed(list(self.children(value, text)))
                if is_object(value):
                    objects.append((value, text))
            if not stack:  # named attributes are known after all functions, including those of objects, were read
                stack += reversed([part for value, text in objects for part in self.of_object(value, text)])
        for value, text in self.containers:
            self.of_container(value, text)
        for value, text in objects:
            self.of_lookups(value, text)
        for space, names in self.missing.values():
            self.bind_absent("global ", space, names)

    def children(self, value: Any, text: str) -> Iterator[tuple[Any, str]]:
        """The objects that a value consists of or refers to, with names; adds bindings for those that can be replaced."""
        if isinstance(value, Tensor):
            self.tensors.setdefault(value, value.name or text)
            yield from ((hook, f"a hook of {value.name or text}") for hook in value.hooks or ())
        elif isinstance(value, Module):
            yield from self.of_module(value, text)
        elif isinstance(value, Optimiser):
            self.optimisers[value] = text
            for i, p in enumerate(value.params):
                yield p, p.name or f"{text}.params[{i}]"
        elif isinstance(value, Settings):
            yield from ((group, f"{text} of group {i}") for i, group in enumerate(value.groups))
        elif isinstance(value, np.random.Generator):
            self.generators[id(value)] = value
        elif is_array(value):
            self.arrays.setdefault(id(value), (value, text))
        elif isinstance(value, MethodType):
            yield value.__self__, "self"
            yield value.__func__, text
        elif isinstance(value, functools.partial):
            yield from ((part, f"{text} argument") for part in (value.func, *value.args, value.keywords))
        elif isinstance(value, (operator.attrgetter, operator.methodcaller)):
            names = value.__reduce__()[1]
            self.attributes.update(part for name in names if isinstance(name, str) for part in name.split("."))
        elif isinstance(value, FunctionType):
            if any(value is root for root in self.roots) or is_user_function(
                value.__code__, value.__globals__.get("__package__")
            ):
                yield from self.of_function(value, text)
            elif "__wrapped__" in vars(value):  # a user function wrapped by tensorgrad: vmap, func.grad, no_grad
                yield vars(value)["__wrapped__"], text
        elif callable(value) and "__wrapped__" in getattr(value, "__dict__", ()):  # a compiled step, functools.cache, ...
            yield value.__wrapped__, text
        elif isinstance(value, tuple):
            yield from ((part, f"{text}[{i}]") for i, part in enumerate(value[:LONG]))
        elif isinstance(value, tuple(WRAPPERS)):
            attribute = next(name for kind, name in WRAPPERS.items() if isinstance(value, kind))
            yield self.bind(f"{text}.{attribute}", value, attribute, "attribute", getattr(value, attribute), True)
        elif isinstance(value, (*SEQUENCES, *MAPPINGS)):
            if len(value) <= LONG:
                self.containers.append((value, text))
                parts = value.items() if isinstance(value, MAPPINGS) else enumerate(value)
                yield from ((part, f"{text}[{key!r}]") for key, part in parts)
            else:
                self.bind(f"the length of {text}", value, None, "length", len(value), True)
        elif isinstance(value, (set, frozenset)) and len(value) <= LONG:
            self.bind(f"the set {text}", value, None, "contents", frozenset(value), isinstance(value, set))
            yield from ((part, f"an element of {text}") for part in value)
        elif isinstance(value, BUFFERS):
            contents = contents_of(value)
            self.bind(f"the buffer {text}", value, None, "contents", contents, contents is not None)
        elif isinstance(value, ContextVar):
            yield self.bind(f"{text}.get()", value, None, "context", value.get(None), True)

    def bind(self, text: str, holder: Any, key: Any, kind: str, value: Any, is_mutable: bool) -> tuple[Any, str]:
        if is_mutable:
            self.bindings.append(Binding(text, holder, key, kind, value))
        return value, text

    def of_function(self, function: FunctionType, text: str) -> Iterator[tuple[Any, str]]:
        code = function.__code__
        self.attributes |= names_in(code).attributes
        self.reflects |= names_in(code).reflects
        self.reads_unnamed |= names_in(code).reads_unnamed
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # unset cell
                continue
            self.uses(value, names_in(code).elements.get(name))
            yield self.bind(f"closure {name}", cell, None, "cell", value, True)
        self.bind(f"the defaults of {function.__name__}", function, None, "defaults", function.__defaults__, True)
        for i, value in enumerate(function.__defaults__ or ()):
            yield value, f"default {i} of {function.__name__}"
        for name, value in (function.__kwdefaults__ or {}).items():
            yield self.bind(f"default {name}", function.__kwdefaults__, name, "item", value, True)
        space = function.__globals__
        for name in names_in(code).names:
            if name not in space:
                self.missing.setdefault(id(space), (space, set()))[1].add(name)
            elif name in space and (not isinstance(space[name], ModuleType) or is_user_module(space[name])):
                self.uses(space[name], names_in(code).elements.get(name))
                yield self.bind(f"global {name}", space, name, "item", space[name], True)

    def uses(self, container: Any, keys: set[Any] | None) -> None:
        """Record the elements of a list or dict that a function uses; None for all."""
        self.elements.setdefault(id(container), []).append(keys)

    def of_container(self, value: Any, text: str) -> None:
        """Bind the used elements of a sequence or mapping, and its length and order if they may matter."""
        parts = dict(value.items() if isinstance(value, MAPPINGS) else enumerate(value))
        uses = self.elements.get(id(value), [])
        keys = {key for used_keys in uses for key in used_keys or ()}
        if None in uses or len(uses) < self.visit_counts[id(value)] or not keys <= parts.keys():
            keys = set(parts)  # used as a whole, not by name, or by a negative index
            self.bind(f"the length of {text}", value, None, "length", len(value), True)
            self.bind(f"the order of {text}", value, None, "order", tuple(parts), isinstance(value, MAPPINGS))
        for key, part in parts.items():
            if key in keys:
                self.bind(f"{text}[{key!r}]", value, key, "item", part, True)

    def of_module(self, module: Module, text: str) -> Iterator[tuple[Any, str]]:
        self.modules[module] = text
        for name, parameter in module._parameters.items():
            yield parameter, f"{text}.{name}"
        for name, array in module._buffers.items():
            self.arrays.setdefault(id(array), (array, f"{text}.{name}"))
            if is_own(type(module).__module__):
                self.buffers.add(id(array))
        for name, part in module._modules.items():
            yield part, f"{text}.{name}"
        yield from ((hook, f"a hook of {text}") for hook in module._hooks)
        for name, value in vars(module).items():
            if not name.startswith("_"):
                yield value, f"{text}.{name}"
        for kind in classes_of(module):
            yield from ((f, f"{kind.__name__}.{name}") for name, part in vars(kind).items() for f in functions_of(part))

    def of_object(self, value: Any, text: str) -> Iterator[tuple[Any, str]]:
        """The attributes of a user's object, class or module that the code names and that were not inspected before."""
        kinds = classes_of(value) + (metaclasses_of(value) if isinstance(value, type) else ())
        slots = [name for kind in kinds for name in vars(kind)] if self.reads_unnamed else []
        for name in {*self.attributes, *slots}:
            slot = next((kind for kind in kinds if isinstance(vars(kind).get(name), MemberDescriptorType)), None)
            if slot is not None and hasattr(value, name) and self.is_new(value, name):
                yield self.bind(f"{text}.{name}", value, name, "slot", getattr(value, name), True)
        for owner in kinds if isinstance(value, type) or not hasattr(value, "__dict__") else (value, *kinds):
            for name, part in list(vars(owner).items()):
                if name.startswith("__"):  # called implicitly by Python
                    is_inspected = isinstance(part, FunctionType) and name not in IGNORED_METHODS
                else:  # a Module lists its parts, except private attributes
                    is_listed = (
                        owner is value and isinstance(value, Module) and (not name.startswith("_") or name in OF_MODULES)
                    )
                    is_inspected = (name in self.attributes or self.is_read_unnamed(owner, part)) and not is_listed
                if not is_inspected or not self.is_new(owner, name):
                    continue
                if not name.startswith("__"):
                    kind = "item" if isinstance(owner, ModuleType) else "attribute"
                    self.bind(f"{text}.{name}", vars(owner) if kind == "item" else owner, name, kind, part, True)
                yield from ((f, f"{text}.{name}") for f in (functions_of(part) or (part,)))

    def is_read_unnamed(self, owner: Any, part: Any) -> bool:
        """Whether the code may read an attribute without naming it."""
        return self.reads_unnamed and len(vars(owner)) <= LONG and not functions_of(part) and not isinstance(part, type)

    def of_lookups(self, value: Any, text: str) -> None:
        """Bind the absence of attributes that the code names wherever Python looks for them before it finds them; if the code
        copes with attributes that do not exist, also of those that are found nowhere.
        """
        kind = value if isinstance(value, type) else type(value)
        if kind is not value and not isinstance(value, Module):  # a Module counts its changes
            names = {name for name in self.attributes if not name.startswith("__") and self.is_looked_up(kind, name)}
            if hasattr(value, "__dict__"):
                names = {name for name in names if not is_data_descriptor(defined(kind, name))}
            else:
                names = {name for name in names if isinstance(defined(kind, name), MemberDescriptorType)}
            self.bind_absent(f"{text}.", value, names)
            if self.reads_unnamed and hasattr(value, "__dict__") and len(vars(value)) <= LONG:
                self.bind(f"the attributes of {text}, in order,", vars(value), None, "order", tuple(vars(value)), True)
        for i, owner in enumerate(kind.__mro__):
            if owner in classes_of(kind) and self.is_new(owner, ""):
                names = {name for name in self.attributes if self.is_looked_up(kind, name, i)}
                names.update(name for base in kind.__mro__[i + 1 :] for name in implicit_methods(base))
                self.bind_absent(f"{owner.__name__}.", owner, names)

    def is_looked_up(self, kind: type, name: str, first: int = 0) -> bool:
        """Whether the code may look for an attribute in the classes from the given place in the order of `kind` on: it is found
        there, or the code copes with its absence."""
        return self.reflects or defined(kind, name, first) is not MISSING

    def bind_absent(self, text: str, holder: Any, names: set[str]) -> None:
        """Bind the absence of those names that are not in a namespace."""
        if names := names.difference(present(holder, names)):
            self.bindings.append(Binding(text, holder, frozenset(names), "absent", ()))

    def is_new(self, owner: Any, name: str) -> bool:
        """Whether an attribute was not inspected before."""
        key = (id(owner), name)
        if key in self.inspected:
            return False
        self.inspected.add(key)
        return True

    # Arrays that can be set to other values temporarily

    def data(self, more: list[tuple[Array, str]], read: list[Array]) -> list[tuple[Array, str]]:
        """All arrays, each memory once: of Tensors, modules, optimisers, others; and `more`.

        read   arrays that the step is known to read; other large ones are omitted
        """
        arrays: list[tuple[Array, str]] = []
        for optimiser in self.optimisers:
            arrays += [(a, f"an array of {type(optimiser).__name__}") for a in optimiser.arrays()]
        arrays += more + [(t._data, text) for t, text in self.tensors.items()]
        for a, text in self.arrays.values():
            if a.nbytes <= LARGE or any(may_overlap(a, other) for other in read):
                arrays.append((a, text))
        arrays.sort(key=lambda pair: -pair[0].nbytes)
        arrays_by_owner: dict[int, list[tuple[Array, str]]] = {}  # by the owner of the memory
        for array, text in arrays:
            owner, place = owner_of(array), Place.of(array)
            others = arrays_by_owner.setdefault(id(owner), [])
            if any(Place.of(other).dense and place.within(Place.of(other)) for other, _ in others):
                continue
            if any(may_overlap(array, other) for other, _ in others):  # each has elements that the other lacks
                others[:] = [(owner, text)]
            else:
                others.append((array, text))
        return [pair for others in arrays_by_owner.values() for pair in others]


class Objects:
    """A snapshot of what a step's Python code may change: bindings, attributes, elements of lists and dicts."""

    def __init__(self, world: World) -> None:
        self.bindings = [(b, b.now()) for b in world.bindings]
        self.spaces = [  # namespaces, and whether all of their entries count
            (text, space, dict(space), True)
            for m, text in world.modules.items()
            for space in (vars(m), m._buffers, m._parameters, m._modules)
        ]
        for optimiser, text in world.optimisers.items():  # Snapshot covers the rest
            counts = {k: v for k, v in vars(optimiser).items() if isinstance(v, SIMPLE) and k != "steps"}
            self.spaces.append((text, vars(optimiser), counts, False))
            for i, group in enumerate(optimiser.param_groups):
                settings = {k: v for k, v in group.items() if isinstance(v, SIMPLE) and k != "lr"}
                self.spaces.append((f"{text}.param_groups[{i}]", group, settings, False))
        self.tensors = [(t, t._data) for t in world.tensors]
        self.modes = [(m, text, m.training) for m, text in world.modules.items()]  # modes may differ per call

    def changed(self) -> str:
        """The first change, in words, or ""."""
        for binding, value in self.bindings:
            now = binding.now()
            if value is not MISSING and not (now == value if binding.kind in COPIES else same(now, value)):
                return f"{binding.text}{now[0]}" if binding.kind == "absent" else binding.text
        for text, space, before, is_complete in self.spaces:
            for name in {**before, **space} if is_complete else before:
                # private names are bindings if the code names them
                if not name.startswith("_") and not same(space.get(name, MISSING), before.get(name, MISSING)):
                    return f"{text}.{name}"
        return next((f"{text}.training" for m, text, mode in self.modes if not same(m.training, mode)), "")

    def put_back(self) -> None:
        """Restore everything."""
        for binding, value in self.bindings:
            now = binding.now()
            if value is MISSING or (now == value if binding.kind in COPIES else now is value):
                continue
            holder = binding.holder
            if binding.kind == "cell":
                holder.cell_contents = value
            elif binding.kind == "length" and isinstance(holder, SEQUENCES):
                while len(holder) > value:
                    holder.pop()
            elif binding.kind == "length" and isinstance(holder, dict):
                for key in list(holder)[value:]:
                    del holder[key]
            elif binding.kind == "order" and isinstance(holder, dict):
                elements = {key: holder[key] for key in value if key in holder}
                holder.clear()
                holder.update(elements)
            elif binding.kind == "contents":
                set_contents(holder, value)
            elif binding.kind == "context":
                holder.set(value)
            elif binding.kind == "item" and hasattr(holder, "__setitem__"):
                holder[binding.key] = value
            elif binding.kind in ("item", "length", "order"):
                continue  # a view that cannot be written to
            elif binding.kind == "defaults":
                holder.__defaults__ = value
            elif binding.kind == "absent":
                for name in now:
                    if isinstance(holder, dict):
                        del holder[name]
                    else:
                        delattr(holder, name)
            else:
                setattr(holder, binding.key, value)
        for _, space, before, is_complete in self.spaces:
            more = [name for name in space if name not in before and is_complete]
            if more or any(space.get(name, MISSING) is not value for name, value in before.items()):
                changes.count += 1
                space.update(before)
                for name in more:
                    del space[name]
        for module, _, mode in self.modes:
            if module.training is not mode:
                module.training = mode
        for tensor, array in self.tensors:
            if tensor._data is not array:
                tensor._data = array
                changes.count += 1


def same(a: Any, b: Any) -> bool:
    """Whether two simple values are identical: 0.0 and -0.0, 1 and True differ, NaN equals itself."""
    return a is b or (type(a) is type(b) and isinstance(a, SIMPLE) and repr(a) == repr(b))


class Snapshot:
    """A copy of what a run of a step may change: arrays, gradients, optimisers' counts, generators."""

    def __init__(self, arrays: list[tuple[Array, str]], world: World, tensors: list[Tensor]) -> None:
        self.arrays = [(array, text, copy(array)) for array, text in arrays if on_gpu(array) or array.flags.writeable]
        self.grads = [(t, t._grad, None if t._grad is None else copy(t._grad._data)) for t in {*world.tensors, *tensors}]
        self.optimisers = [(o, (o.steps, o.late), o.rates) for o in world.optimisers]
        self.generators = [(rng, random.state_of(rng)) for rng in world.generators.values()]
        self.shifts = True  # whether `disturb` does
        self.spared: list[Array] = []  # but for these
        self.python, self.numpy = python_random.getstate(), np.random.get_state()  # noqa: NPY002

    def put_back(self) -> None:
        """Restore everything."""
        for array, _, before in self.arrays:
            with on(array):
                array[...] = before
            writes.wrote(array)
        for tensor, gradient, before in self.grads:
            tensor._grad = gradient
            if gradient is not None and (on_gpu(before) or gradient._data.flags.writeable):
                with on(before):
                    gradient._data[...] = before
        for optimiser, (steps, late), rates in self.optimisers:
            optimiser.steps, optimiser.late = steps, late
            if optimiser.rates != rates:
                optimiser.rates = rates
        for rng, state in self.generators:
            random.set_state(rng, state)
        python_random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002

    def disturb(self) -> None:
        """Restore everything, but with other numbers in the arrays, and generators advanced by one draw."""
        self.put_back()
        for rng, _ in self.generators:
            rng.random()
        python_random.random()
        np.random.random()  # noqa: NPY002
        for array, _, _ in self.arrays:
            if self.is_shifted(array):
                shift(array)

    def generator_states(self) -> dict[str, Any]:
        """The states of all generators, by name."""
        name, keys, *rest = tuple(np.random.get_state())  # noqa: NPY002
        states: dict[str, Any] = {"random": python_random.getstate(), "np.random": (name, np.asarray(keys).tobytes(), *rest)}
        return states | {f"{rng!r}": repr(rng.bit_generator.state) for rng, _ in self.generators}

    def is_shifted(self, array: Array) -> bool:
        return self.shifts and not any(array is spared for spared in self.spared)

    def disturbed_values(self, array: Array, before: Array) -> Array:
        """The values that `disturb` writes to an array."""
        values = copy(before)
        if self.is_shifted(array):
            shift(values)
        return values


def shift(array: Array) -> None:
    """Replace values by similar ones, in place: results computed from them differ, but remain plausible.

    Numbers become a little larger; integers, which may be indices, and booleans are taken from the next row. The smallest
    number becomes the largest.
    """
    with on(array), np.errstate(all="ignore"):
        if is_floating(array.dtype):
            array *= array.dtype.type(1 + 2**-6)
            array += array.dtype.type(2**-7)
        elif array.ndim and len(array) > 1:
            array[...] = next_rows(array)
        # counts, orders and sums change, too; but masks keep their number of True, which may be a shape
        if isinstance(array, np.ndarray) and array.size > 1 and array.dtype != bool:
            with contextlib.suppress(TypeError):  # of structured arrays and objects, which may have no order
                low, high = (np.unravel_index(find(array), array.shape) for find in (np.argmin, np.argmax))
                array[low] = array[high]


def shifted(array: Array) -> Array:
    """Different but similar samples: the rows are rotated, and numbers changed."""
    result = next_rows(array) if array.ndim and len(array) > 1 else copy(array)
    if is_floating(result.dtype):
        shift(result)
    return result


def next_rows(array: Array) -> Array:
    """A copy with the rows rotated by one."""
    result = copy(array)
    with on(array):
        result[:-1], result[-1:] = array[1:], array[:1]
    return result


def owner_of(array: Array) -> Any:
    """The array that owns the memory."""
    while isinstance(getattr(array, "base", None), type(array)):
        array = array.base
    return array


@functools.cache
def is_installed(file: str) -> bool:
    """Whether a file belongs to Python or an installed library."""
    return file.startswith(LIBRARIES) or not INSTALLED.isdisjoint(Path(file).parts)


@functools.cache
def is_user_function(code: CodeType, package: str | None) -> bool:
    """Whether a function is the user's: from neither tensorgrad nor an installed library."""
    return not is_own(package) and not is_installed(code.co_filename)


def is_object(value: Any) -> bool:
    """Whether a value is an object with attributes, or a class or module of the user, that the step's code might read."""
    if isinstance(value, type):
        return bool(classes_of(value))
    if isinstance(value, ModuleType):
        return is_user_module(value)
    if isinstance(value, Module):
        return bool(classes_of(value))
    if isinstance(value, FunctionType):
        return is_user_function(value.__code__, value.__globals__.get("__package__"))
    has_attributes = hasattr(value, "__dict__") or bool(classes_of(value))
    kinds = (Tensor, Optimiser, MethodType)
    return has_attributes and not isinstance(value, kinds) and not is_own(type(value).__module__)


def is_user_module(value: ModuleType) -> bool:
    """Whether a module is the user's: neither tensorgrad nor an installed library."""
    file = getattr(value, "__file__", None) or ""
    return bool(file) and not is_own(value.__name__) and not is_installed(file)


def functions_of(part: Any) -> list[FunctionType]:
    """The functions in a class member: a method, a property, ..."""
    if isinstance(part, property):
        part = part.fget
    elif isinstance(part, (staticmethod, classmethod)):
        part = part.__func__
    elif isinstance(part, functools.cached_property):
        part = part.func
    return [part] if isinstance(part, FunctionType) else []


def present(holder: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Those names that are defined in a namespace: global names, given as a dict, or those of an object, a class, a module."""
    if not isinstance(holder, dict) and not hasattr(holder, "__dict__"):  # it has slots
        return tuple(sorted(name for name in names if hasattr(holder, name)))
    space = holder if isinstance(holder, dict) else holder.__dict__
    return tuple(sorted(name for name in names if name in space))


def defined(kind: type, name: str, first: int = 0) -> Any:
    """What a class, or the base classes from the given place in its order on, defines under a name; MISSING if nothing."""
    return next((vars(base)[name] for base in kind.__mro__[first:] if name in vars(base)), MISSING)


def metaclasses_of(kind: type) -> tuple[type, ...]:
    """The user's classes that the class of a class is built from."""
    return user_classes(type(kind))


def contents_of(holder: Any) -> frozenset[Any] | bytes | None:
    """A copy of a set, or of the bytes of a buffer; None if that is large."""
    if isinstance(holder, set):
        return frozenset(holder)
    try:
        with memoryview(holder) as view:
            return view.tobytes() if view.nbytes <= BUFFERED else None
    except ValueError:  # a memoryview that has been released
        return None


def set_contents(holder: Any, contents: Any) -> None:
    """Restore what `contents_of` has copied; a read-only buffer is restored where it can be written to."""
    if isinstance(holder, set):
        holder.clear()
        holder.update(contents)
    elif isinstance(holder, bytearray):
        holder[:] = contents
    elif isinstance(holder, array_module.array):
        del holder[:]
        holder.frombytes(contents)
    elif (target := np.asarray(holder)).flags.writeable:
        target[...] = np.frombuffer(contents, target.dtype).reshape(target.shape)


def is_data_descriptor(member: Any) -> bool:
    """Whether a member of a class, such as a property or a slot, comes before attributes of the object."""
    return hasattr(type(member), "__set__") or hasattr(type(member), "__delete__")


def implicit_methods(kind: type) -> list[str]:
    """The methods of a user's class that Python calls implicitly."""
    members = vars(kind).items() if kind in classes_of(kind) else ()
    return [n for n, part in members if n.startswith("__") and n not in IGNORED_METHODS and isinstance(part, FunctionType)]


def classes_of(value: Any) -> tuple[type, ...]:
    """The user's classes that a value, or a class, is built from."""
    return user_classes(value if isinstance(value, type) else type(value))


@functools.cache
def user_classes(kind: Any) -> tuple[type, ...]:
    """The user's classes that a class is built from."""
    files = {base: getattr(sys.modules.get(base.__module__), "__file__", "") or "" for base in kind.__mro__}
    bases = [base for base, file in files.items() if not is_own(base.__module__) and not is_installed(file)]
    return tuple(base for base in bases if base.__module__ != "builtins")
