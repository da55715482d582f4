"""Compiled: the function that traces at first, and replays from then on."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler.plan import Plan
from tensorgrad.compiler.trace import Line, compare, trace
from tensorgrad.core.backend import Array, device_of, is_array, namespace
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError
from tensorgrad.kernels.threads import get_num_threads


class Compiled:
    """A compiled step. Call it as the step itself.

    plan   the Plan of the last call; None before there is one
    """

    def __init__(self, step: Callable[..., Any], keep_grads: bool = False) -> None:
        functools.update_wrapper(self, step, updated=())
        self.step, self.keep_grads = step, keep_grads
        self.entries: dict[Any, Entry] = {}
        self.plan: Plan | None = None
        self.lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None or state.checking:
            return self.step(*args, **kwargs)
        key, arrays = arguments(args, kwargs)
        with self.lock:
            entry = self.entries.get((state.recording, key))
            if entry is None:
                entry = self.entries[state.recording, key] = Entry()
            for variant in entry.variants:
                if variant.holds():
                    self.plan = variant.plan
                    if state.profile is None:
                        return self.plan.run(arrays)
                    function, seconds = self.plan.timed
                    seconds.clear()
                    result = self.plan.run(arrays, function)
                    for kernel, module, cost in self.plan.spent(seconds):
                        state.profile.note(kernel, module, cost)
                    return result
            return self.trace(entry, args, kwargs, arrays)

    def trace(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        """Run the step itself, recorded; the second time the plan is made, if it was the same program."""
        leaves = [wrap(a, None) for a in arrays]
        args, kwargs = with_leaves((args, kwargs), iter(leaves))
        found = trace(leaves, lambda: self.step(*args, **kwargs), self.keep_grads)
        situation = Situation(found.modules, {t: before is None for t, before in found.grads.items()})
        lines = found.lines()
        if entry.before is None or entry.before[0] != situation:
            entry.before = situation, lines
        else:
            compare(entry.before[1], lines)
            entry.before = None
            near = [t for t in found.program().leaves if t.requires_grad or type(t) is not Tensor]
            variant = Variant(Plan(found), situation, [(t, t.data, t.requires_grad) for t in near])
            entry.variants = [variant, *(v for v in entry.variants if v.situation != situation)]
            self.plan = variant.plan
        return found.rebuild([wrap(t.data, None) for t in found.results])


class Situation(NamedTuple):
    """What the program depends on besides the arguments: which modules are in training, and which `.grad` are None."""

    modules: dict[Any, bool]
    grads: dict[Tensor, bool]


class Variant(NamedTuple):
    """A plan, the situation that it is for, and the parameters that it is for: their arrays, and whether they are trained."""

    plan: Plan
    situation: Situation
    data: list[tuple[Tensor, Array, bool]]

    def holds(self) -> bool:
        """Whether all that the plan was made for is as it was."""
        for tensor, array, trained in self.data:
            if tensor.data is not array or tensor.requires_grad is not trained:
                return False
        for module, training in self.situation.modules.items():
            if module.training is not training:
                return False
        for tensor, was_none in self.situation.grads.items():
            if (tensor.grad is None) is not was_none:
                return False
        return self.plan.threads == get_num_threads()


class Entry:
    """What is known for arguments of one kind: the plans, and the program of a first call that waits for a second."""

    def __init__(self) -> None:
        self.variants: list[Variant] = []
        self.before: tuple[Situation, list[Line]] | None = None


def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Array]]:
    """What plans are told apart by, and the arrays among the arguments."""
    arrays: list[Array] = []
    in_order = tuple([described(a, arrays) for a in args])
    key = (in_order, tuple([(name, described(a, arrays)) for name, a in kwargs.items()]) if kwargs else ())
    try:
        hash(key)
    except TypeError as error:
        raise CompileError(
            f"compile: an argument cannot tell plans apart: {error}; pass arrays, Tensors, numbers or text"
        ) from None
    return key, arrays


def described(value: Any, arrays: list[Array]) -> Any:
    """What tells an argument from those of other kinds; arrays in it are added to `arrays`.

    Not a function inside of `arguments`: one that calls itself is a cycle, which keeps the arrays until Python looks for those.
    """
    if isinstance(value, Tensor):
        data = value.data
        arrays.append(data)
        return (data.shape, data.dtype.char, value.requires_grad, type(data) is np.ndarray or device_of(data))
    if is_array(value):
        arrays.append(value if value.flags.c_contiguous else namespace([value]).ascontiguousarray(value))
        return (value.shape, value.dtype.char, False, type(value) is np.ndarray or device_of(value))
    if isinstance(value, (tuple, list)):
        return (type(value), *[described(v, arrays) for v in value])
    if isinstance(value, dict):
        return (dict, *[(key, described(v, arrays)) for key, v in value.items()])
    return (type(value), value)


def with_leaves(value: Any, leaves: Any) -> Any:
    """The arguments with leaves in place of their arrays."""
    if isinstance(value, Tensor):
        return next(leaves).requires_grad_(value.requires_grad)
    if is_array(value):
        return next(leaves)
    if isinstance(value, (tuple, list)):
        return type(value)(with_leaves(v, leaves) for v in value)
    if isinstance(value, dict):
        return {key: with_leaves(v, leaves) for key, v in value.items()}
    return value
