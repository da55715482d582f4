"""What all optimisers share: the parameters in one flat array, the state that goes with them, the walk over them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, address, device_of, empty_bytes, namespace, on, put
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.location import warn
from tensorgrad.core.op import Value
from tensorgrad.core.state import Tracer, changes, state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import GraphError, ShapeError
from tensorgrad.kernels.build import ChainKernel, Kernel
from tensorgrad.kernels.chain import Chain, Operand
from tensorgrad.kernels.cuda.launch import CudaChain

# The state of a weight that gets no more gradients (a pixel that is always 0, a dead unit) shrinks to subnormal numbers, on
# which a processor is several times slower, and so does the weight itself under an L2 penalty: with momentum an epoch of digits
# took twice as long after 16 epochs, with Adam and a penalty one of MNIST 1.3 times as long after 10. So after every FLUSH-th
# step what is that small becomes 0.
FLUSH = 32


class Optimiser:
    """Base of the optimisers. A subclass names its per-parameter arrays in `slots` and defines `numbers` and `update`.

    params     leaf Tensors that require a gradient
    lr         learning rate, may be changed between steps
    settings   the other numbers, at least 0, that the update reads; part of the state

    The parameters of one dtype and device are put into one flat array when the optimiser is made, `data` being a part of it
    from then on, so that one kernel can go over them all; they are changed in place. One without a gradient is left alone.
    When a model is moved to another device, the state follows at the next step. Once in a while numbers closer to 0 than 8e-31
    (float32; float64: 2e-300) become 0, in the parameters, too: smaller ones are slow to compute with.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float, **settings: float) -> None:
        self.params = list(params)
        self.lr = lr
        self.steps = 0
        self.settings = Settings(settings)
        name = type(self).__name__
        for key, value in {"lr": lr, **settings}.items():
            if not value >= 0:
                raise ValueError(f"{name}: {key} must be at least 0, got {value}")
        if not self.params:
            raise ValueError(f"{name}: params is empty")
        for i, p in enumerate(self.params):
            if not isinstance(p, Tensor) or not p.is_leaf or not p.requires_grad:
                raise GraphError(f"{name}: parameter {i} must be a leaf Tensor that requires a gradient, got {p!r}")
        if len(set(self.params)) < len(self.params):
            raise ValueError(f"{name}: params has a parameter twice")
        self.groups = [Group(self.params, indices, self.slots) for indices in alike(self.params)]
        self._kernels: dict[Any, Kernel] = {}
        self._warned = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("lr", "steps"):
            changes.count += 1
        object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle is made of: not the flat arrays, for their parts would be copied apart from them."""
        kept = {name: value for name, value in vars(self).items() if name not in ("groups", "_kernels")}
        return {**kept, "arrays": [{slot: copied(array) for slot, array in arrays.items()} for arrays in self.state]}

    def __setstate__(self, values: dict[str, Any]) -> None:
        arrays = values.pop("arrays")
        vars(self).update(values)
        self.groups = [Group(self.params, indices, self.slots) for indices in alike(self.params)]
        self._kernels = {}
        self.restore(arrays)

    @property
    def state(self) -> list[dict[str, Array]]:
        """For each parameter slot to array, parts of the flat arrays."""
        found: list[dict[str, Array]] = [{} for _ in self.params]
        for group in self.groups:
            for i, (start, stop) in zip(group.indices, group.parts, strict=True):
                shape = self.params[i].shape
                found[i] = {slot: array[start:stop].reshape(shape) for slot, array in group.state.items()}
        return found

    # What a subclass says

    def numbers(self) -> dict[str, float]:
        """The numbers that `update` takes by name, as they are at this step."""
        raise TypeError(f"{type(self).__name__} does not define numbers()")

    def update(self, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        """The new values of the parameter and of its state, by operators and NumPy's functions, element by element."""
        raise TypeError(f"{type(self).__name__} does not define update()")

    # What users call

    def step(self) -> None:
        """Change every parameter that has a gradient. Warns once, naming them, of parameters that the loss does not reach."""
        if state.trace is not None:
            for p in self.params:
                state.trace.reads_grad(p)
        missing = [i for i, p in enumerate(self.params) if p._grad is None]
        if missing and not self._warned:
            self._warned = True
            names = ", ".join(f"{self.params[i].name or f'parameter {i}'} {self.params[i].shape}" for i in missing)
            warn(f"{type(self).__name__}: no gradient reached {names}: the loss does not depend on it")
        for i, p in enumerate(self.params):
            if p._grad is not None and p._grad.shape != p.shape:
                raise ShapeError(
                    f"{type(self).__name__}: the gradient of parameter {i} has shape {p._grad.shape}, expected {p.shape}"
                )
        if state.trace is not None:
            self._trace(state.trace)
            return
        self.steps += 1
        if self.scattered():
            self.gather()
        for group in self.groups:
            kernel = self.kernel(group)
            with on(group.flat):
                numbers = group.numbers(self.numbers())
                for i, arrays in zip(group.indices, group.views, strict=True):
                    p = self.params[i]
                    if p._grad is not None:
                        namespace((arrays[0], p._grad._data))  # an error where they are on different devices
                        kernel(arrays[0], p._grad._data.reshape(-1), *arrays[1:], *numbers, *arrays)
                        if missing:
                            writes.wrote(p._data)
            if not missing:
                writes.wrote(group.flat)
        self.flush()

    def arrays(self) -> list[Array]:
        """What a step changes: the flat arrays of the parameters and of their state."""
        if self.scattered():
            self.gather()
        return [array for group in self.groups for array in (group.flat, *group.state.values())]

    def scattered(self) -> bool:
        """Whether parameters have been given other memory than the flat arrays."""
        return any([self.params[i]._data.base is not group.flat.base for group in self.groups for i in group.indices])

    def gather(self) -> None:
        """Let the parameters lie in the flat arrays again; on another device or of another dtype now, in new ones, to which the
        state is taken."""
        if all(
            (p.dtype, p.device) == (g.flat.dtype, g.device) for g in self.groups for p in [self.params[i] for i in g.indices]
        ):
            for group in self.groups:
                group.gather(self.params)
            return
        before = self.state
        self.groups = [Group(self.params, indices, self.slots) for indices in alike(self.params)]
        self.restore(before)

    def flush(self) -> None:
        """After a step: clear from parameters and state, once in FLUSH steps, what has become too small to matter."""
        if self.steps % FLUSH:
            return
        for group in self.groups:
            if group.flat.dtype.itemsize >= 4 and group.device == "cpu":
                for array in (group.flat, *group.state.values()):
                    small = (np.abs(array) < np.finfo(array.dtype).tiny * 2**26) & (array != 0)
                    if small.any():
                        array[small] = 0
                        writes.wrote(array)

    def kernel(self, group: Group) -> Kernel:
        """`update` as one kernel, which writes over the parameter and its state."""
        key = (group.device, group.flat.dtype, *map(bool, self.settings.values()))
        if key not in self._kernels:
            names, dtype = list(self.numbers()), str(group.flat.dtype)
            count = 2 + len(self.slots)

            def formula(*symbols: Any) -> Sequence[Any]:
                return self.update(*symbols[:count], **dict(zip(names, symbols[count:], strict=True)))

            operands = [Operand("full", dtype)] * count + [Operand("number", dtype)] * len(names)
            chain = Chain.of(formula, operands)
            shared = {k: k + (k > 0) for k in range(1 + len(self.slots))}
            self._kernels[key] = (ChainKernel if group.device == "cpu" else CudaChain)(chain, shared)
        return self._kernels[key]

    def _trace(self, trace: Tracer[Tensor]) -> None:
        """A step, recorded on the flat arrays: all parameters with a gradient that lie one after the other at once."""
        trace.steps(self)
        self.steps += 1
        if self.scattered():
            self.gather()
        for group in self.groups:
            numbers = trace.asks(self.numbers, group.flat)
            parts_of = list(zip(group.indices, group.parts, strict=True))
            for reached, run in groupby(parts_of, lambda part: self.params[part[0]]._grad is not None):
                if not reached:
                    continue
                parts = list(run)
                start, stop = parts[0][1][0], parts[-1][1][1]
                gradients = [ops.reshape(self.params[i]._grad, (-1,)) for i, _ in parts]
                g = gradients[0] if len(gradients) == 1 else ops.concatenate(gradients)
                targets = [array[start:stop] for array in (group.flat, *group.state.values())]
                leaves = [wrap(array, None) for array in targets]
                with switched(recording=False):
                    values = self.update(leaves[0], g, *leaves[1:], **numbers)
                for target, value in zip(targets, values, strict=True):
                    trace.assigns(target, value)
                for target, value in zip(targets, values, strict=True):
                    with on(target):
                        target[...] = value._data
                writes.wrote(targets[0])

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward() starts from nothing."""
        trace = state.trace
        for p in self.params:
            if trace is not None:
                trace.writes_grad(p)
            p._grad = None

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides the parameters, copied."""
        self.gather()
        arrays = [{slot: copied(array) for slot, array in arrays.items()} for arrays in self.state]
        return {"lr": self.lr, "steps": self.steps, "settings": dict(self.settings), "state": arrays}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on as the optimiser that `state_dict` was taken from. Raises ShapeError if its parameters had other shapes."""
        if state.trace is not None:
            state.trace.forbid("load_state_dict()")
        for i, (p, arrays) in enumerate(zip(self.params, values["state"], strict=False)):
            for slot, array in arrays.items():
                if slot not in self.slots or array.shape != p.shape:
                    raise ShapeError(
                        f"{type(self).__name__}.load_state_dict: {slot} of parameter {i} has shape {array.shape}, expected "
                        f"one of {self.slots} of shape {p.shape}"
                    )
        if len(values["state"]) != len(self.params):
            raise ShapeError(
                f"{type(self).__name__}.load_state_dict: state of {len(values['state'])} parameters for {len(self.params)}"
            )
        self.lr, self.steps, self.settings = values["lr"], values["steps"], Settings(values["settings"])
        self.restore(values["state"])

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Put these arrays, slot to array for each parameter, in the places of its own; a slot that is missing becomes 0."""
        for own, arrays in zip(self.state, state, strict=True):
            for slot, array in own.items():
                put(array, arrays.get(slot, 0))


class Settings(dict[str, Any]):
    """The settings of an optimiser: a dict that lets compiled steps know that it has changed."""


def counting(name: str) -> Any:
    method = getattr(dict, name)

    @functools.wraps(method)
    def call(self: Settings, *args: Any, **kwargs: Any) -> Any:
        changes.count += 1
        return method(self, *args, **kwargs)

    return call


for _name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(Settings, _name, counting(_name))


class Group:
    """The parameters of one dtype on one device, and their state, in flat arrays.

    indices   which of the optimiser's parameters
    flat      all of them, one after the other; parts[k] is where the k-th begins and ends
    state     slot to an array like it
    views     for each parameter its part of the flat array and of the state
    """

    def __init__(self, params: list[Tensor], indices: list[int], slots: tuple[str, ...]) -> None:
        self.indices = indices
        ends = np.cumsum([0, *(params[i].size for i in indices)]).tolist()
        self.parts: list[tuple[int, int]] = list(pairwise(ends))
        first: Array = params[indices[0]]._data
        self.device = device_of(first)
        with on(first):
            self.flat: Array = empty_bytes(ends[-1] * first.itemsize, first).view(first.dtype)
            self.state = {slot: namespace([first]).zeros_like(self.flat) for slot in slots}
        if first.base is not None and first.base.flags.c_contiguous:  # perhaps another optimiser has put them together
            memory = first.base.reshape(-1).view(np.uint8)
            start = address(first) - address(memory)
            together = memory[start : start + self.flat.nbytes]
            if together.size == self.flat.nbytes and self.holds(params, together.view(first.dtype)):
                self.flat = together.view(first.dtype)
        self.gather(params)
        self.views = [[a[start:stop] for a in (self.flat, *self.state.values())] for start, stop in self.parts]
        self._numbers: dict[str, tuple[float, Array]] = {}

    def numbers(self, values: Mapping[str, float]) -> list[Array]:
        """Numbers as 0-d arrays where the parameters are; on a GPU only those that have changed are written anew."""
        if self.device == "cpu":
            return [np.asarray(value, self.flat.dtype) for value in values.values()]
        for name, value in values.items():
            before, array = self._numbers.get(name, (None, None))
            if array is None:
                array = namespace([self.flat]).empty((), self.flat.dtype)
            if value != before:
                array.fill(value)
            self._numbers[name] = value, array
        return [self._numbers[name][1] for name in values]

    def gather(self, params: list[Tensor]) -> None:
        """Let the data of the parameters lie in the flat array, where they do not."""
        if self.holds(params, self.flat):
            return
        for i, (start, stop) in zip(self.indices, self.parts, strict=True):
            part = self.flat[start:stop].reshape(params[i].shape)
            put(part, params[i]._data)
            params[i]._data = part
            changes.count += 1

    def holds(self, params: list[Tensor], flat: Array) -> bool:
        """Whether the parameters lie in `flat` one after the other, as those do that another optimiser has too."""
        begin = address(flat)
        return flat.shape == (self.parts[-1][1],) and all(
            address(params[i]._data) == begin + start * flat.itemsize and params[i]._data.flags.c_contiguous
            for i, (start, _) in zip(self.indices, self.parts, strict=True)
        )


def alike(params: list[Tensor]) -> list[list[int]]:
    """The indices of the parameters of each dtype and device, in the order in which those come."""
    found: dict[Any, list[int]] = {}
    for i, p in enumerate(params):
        found.setdefault((p.dtype, p.device), []).append(i)
    return list(found.values())
