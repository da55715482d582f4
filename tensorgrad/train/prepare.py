"""Compiling a step before a call of it counts, and what a compiled step takes for constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, is_array, like, on
from tensorgrad.core.tensor import Tensor
from tensorgrad.data.loader import rows_of
from tensorgrad.errors import CompileError
from tensorgrad.nn.module import Module
from tensorgrad.train.run import Run
from tensorgrad.train.state import STEP, State


def prepare(compiled: Any, run: Run, loader: Any, batch: tuple[Array, ...]) -> None:
    """Call a compiled step until there is a plan for batches as long as this one, and undo what the calls have changed.

    Two different batches are used, and other parameters in each call, so that an array computed outside of the graph cannot be
    mistaken for a constant.
    """
    if not all(is_array(a) for a in batch):
        kinds = ", ".join(type(a).__name__ for a in batch)
        raise TypeError(f"train.fit: the loader gives batches of {kinds}, expected NumPy or CuPy arrays")
    state = run.state()
    before = state.take(*STEP)
    other = another(batch, loader)
    try:
        for arguments in (batch, other, batch, other):
            plan = compiled.plan  # the second call makes it; the third, where the first has left a .grad
            compiled(*arguments)
            if compiled.plan is not plan:
                break
            for array in floating(state):
                with on(array):
                    array += 0.01
    except CompileError as error:
        error.add_note("train.fit: with compile=False every step is run as it is written")
        raise
    finally:
        state.put(before)


def another(batch: tuple[Array, ...], loader: Any) -> tuple[Array, ...]:
    """Other samples than those of a batch, as many: the loader's, from the first whose target is another one."""
    samples = getattr(loader, "arrays", batch)
    if not is_array(samples[1]) or [(a.shape[1:], a.dtype) for a in samples] != [(a.shape[1:], a.dtype) for a in batch]:
        samples = batch  # a loader that makes other batches of its arrays
    with on(samples[1]):
        first = int((samples[1] != like(batch[1][:1], samples[1])).reshape(len(samples[1]), -1).any(axis=1).argmax())
    rows = (np.arange(len(batch[0])) + (first or 1)) % len(samples[1])
    return tuple([like(rows_of(a, rows), batch[0]) for a in samples])


def floating(state: State) -> list[Array]:
    """The parameters and buffers that are not integers."""
    parameters: Iterable[Tensor] = state.parts["others"].parameters().values()
    found = [p.data for module in state.modules for p in module._parameters.values()] + [p.data for p in parameters]
    found += [array for module in state.modules for array in module._buffers.values()]
    return [array for array in found if array.dtype.kind == "f"]


def constants(modules: list[Module], parameters: list[Tensor]) -> list[Any]:
    """What a compiled step takes for constants: which parameters are trained, and the numbers that modules have."""
    found: list[Any] = [(id(p), p.requires_grad) for p in parameters]
    for module in modules:
        found.append((id(module), [item for item in vars(module).items() if isinstance(item[1], (int, float, str))]))
    return found
