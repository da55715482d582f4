"""Repeats: a plan that is one program, run for many batches of arrays in memory without Python in between.

A longer program replaces what Python does before and after each run: it gathers the samples of the next batch (shuffled ones to
a buffer; others are read in place), copies the numbers of the next step to their arrays, and collects the results.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tensorgrad.compiler import programs
from tensorgrad.compiler.containers import is_plain
from tensorgrad.compiler.plan import Plan
from tensorgrad.core import writes
from tensorgrad.core.backend import Array
from tensorgrad.core.location import is_own
from tensorgrad.core.memory import aligned
from tensorgrad.core.tensor import wrap
from tensorgrad.kernels import forks, threads, thresholds
from tensorgrad.kernels.instructions import Form, Instruction, Operand, copy_instruction, take_instruction
from tensorgrad.kernels.llvm import COUNT, MAX_PARAMETERS, REMAINING
from tensorgrad.optim.optimiser import FLUSH, Optimiser

ORDER = "order"
RESULT_BYTES = 64 << 20  # of the results of a call


class Repeats:
    """A plan for batches of some arrays.

    arrays       all samples, along the first axis
    is_shuffled  whether a batch is given by the indices of its samples, which are then gathered into a buffer
    size         samples per batch

    Raises NotRepeatable if two runs need Python in between.
    """

    def __init__(self, plan: Plan, arrays: tuple[Array, ...], is_shuffled: bool, size: int) -> None:
        program = plan.program
        if program is None or not can_repeat(plan):
            raise NotRepeatable
        self.plan, self.arrays, self.is_shuffled, self.size = plan, arrays, is_shuffled, size
        self.forms = [Form.of(array) for array in arrays]
        names = [f"x{i}" for i in range(len(arrays))]
        self.parameters = [*names, *([ORDER] if is_shuffled else [])]
        if len(self.parameters) > MAX_PARAMETERS or not all(is_repeatable(array, is_shuffled) for array in arrays):
            raise NotRepeatable
        self.machine = program.machine
        self.batch = [aligned_like(array, size) for array in arrays] if is_shuffled else []
        places: list[Any] = plan.places
        self.most = most = max(min(FLUSH, RESULT_BYTES // max(sum(place.nbytes for place in places), 1)), 1)
        self.results = [np.empty((most, *place.shape), place.dtype) for place in places]
        self.numbers = [(compute, [(name, a, np.empty(most, a.dtype)) for name, a in pairs]) for compute, pairs in plan.numbers]
        prologue = [call for i in range(len(self.batch)) for call in self.gather_instructions(i)]
        prologue += [self.copy_operation(target, source) for _, pairs in self.numbers for _, target, source in pairs]
        epilogue = [self.copy_operation(target, place) for target, place in zip(self.results, places, strict=True)]
        calls = {place: [call.with_operands(self.for_repeats) for call in line] for place, line in program.calls.items()}
        lines = program.texts, program.places, program.space
        self.run = programs.ProgramRun(self.machine, calls, self.parameters, *lines, prologue, epilogue)

    def gather_instructions(self, i: int) -> list[Instruction]:
        """Instructions that gather the samples of a batch of one array."""
        array, out = self.arrays[i], self.batch[i]
        source = Operand(Form.of(array), f"x{i}")
        indices = Operand(Form.contiguous(np.dtype(np.int64), (self.size,)), ORDER, step=8 * self.size)
        target = Operand(Form.of(out), array=out)
        count = self.plan.team if out.nbytes >= thresholds.SHARED_GATHER else 1
        parts = []
        for start, stop in threads.split(self.size, count):
            instruction = take_instruction(self.machine, source, indices.part(0, start, stop), target.part(0, start, stop))
            if instruction is None:
                raise NotRepeatable
            parts.append([instruction])
        return forks.make_fork(self.machine, parts)

    def for_repeats(self, operand: Operand) -> Operand:
        """An operand of the plan's program in this one: an argument becomes the gathered batch, or moves through its array."""
        if operand.array is not None:
            return operand
        i = int(operand.parameter.removeprefix("x"))
        if self.is_shuffled:
            return replace(operand, parameter="", array=self.batch[i])
        return replace(operand, step=self.size * self.arrays[i].strides[0])

    def copy_operation(self, target: Array, source: Array) -> Instruction:
        """The instruction that copies a number or a result. One of both arrays has a first axis of all repetitions."""
        operands = [
            Operand(Form.of(a), array=a).item(0) if a.ndim > other.ndim else Operand(Form.of(a), array=a)
            for a, other in ((target, source), (source, target))
        ]
        steps = [a.strides[0] if a.ndim > other.ndim else 0 for a, other in ((target, source), (source, target))]
        stepped = [replace(operand, step=step) for operand, step in zip(operands, steps, strict=True)]
        instruction = copy_instruction(self.machine, *stepped)
        if instruction is None:
            raise NotRepeatable
        return instruction

    def matches(self, arrays: tuple[Array, ...], is_shuffled: bool, size: int) -> bool:
        """Whether this is for the same arrays, with unchanged shapes and dtypes."""
        if is_shuffled is not self.is_shuffled or size != self.size or len(arrays) != len(self.arrays):
            return False
        same_arrays = all(a is b for a, b in zip(arrays, self.arrays, strict=True))
        return same_arrays and all(Form.of(a) == form for a, form in zip(arrays, self.forms, strict=True))

    def __call__(self, first: int, order: Array | None, count: int) -> tuple[int, Any, BaseException | None]:
        """Run the plan for `count` batches, or fewer, from sample `first` on, or with the indices in `order`.

        Returns the number of batches that ran, their results (every Tensor with a new first axis of batches), and the exception
        that stopped them, or None.
        """
        plan = self.plan
        count = min(count, self.most, *(optimiser.until_flush for optimiser in plan.optimisers))
        self.compute_numbers(count)
        arrays = list(self.arrays) if order is not None else [array[first:] for array in self.arrays]
        table, stopped_by = self.run.program.table, None
        table[COUNT] = table[REMAINING] = count  # all are left if something is raised before the program is entered
        done = count
        try:
            plan.with_steady_threads(self.start, [*arrays, *([] if order is None else [order])])
        except BaseException as error:
            done = count - self.run.program.remaining
            stopped_by = plan.explain(error, is_timed=False)
            if stopped_by is not error:
                stopped_by.__cause__ = error
        for optimiser in plan.fully_stepped:
            optimiser.__dict__["steps"] += done
        for array in plan.written:
            writes.wrote(array)
        for optimiser in plan.optimisers:
            optimiser.flush()
        for tensor in plan.cleared:
            tensor._grad = None
        return done, plan.rebuild([wrap(a[:done].copy(), None) for a in self.results]), stopped_by

    def start(self, *arrays: Array) -> tuple[Array, ...]:
        program = self.run.program
        stopped = program.enter(program.start, *map(id, arrays))
        while stopped:
            self.run.resume(stopped, *self.current_arguments(arrays))
            program.shift()
            stopped = program.repeat(program.remaining - 1)
        return ()

    def current_arguments(self, arrays: tuple[Array, ...]) -> list[Array]:
        """The arguments of the plan in the repetition that stopped."""
        if self.is_shuffled:
            return [*self.batch, arrays[-1]]
        done = int(self.run.program.table[COUNT]) - self.run.program.remaining
        return [array[done * self.size : (done + 1) * self.size] for array in arrays]

    def compute_numbers(self, count: int) -> None:
        """The numbers of the next steps, such as learning rates."""
        steps = [(optimiser, optimiser.steps) for optimiser in self.plan.fully_stepped]
        try:
            for i in range(count):
                for optimiser, before in steps:
                    optimiser.__dict__["steps"] = before + i + 1
                for compute, pairs in self.numbers:
                    values = compute()
                    for name, _, row in pairs:
                        row[i] = values[name]
        finally:
            for optimiser, before in steps:
                optimiser.__dict__["steps"] = before


class NotRepeatable(Exception):
    """Two runs of a plan need Python in between."""


def can_repeat(plan: Plan) -> bool:
    """Whether a run of a plan is nothing but its program, and needs no code of the user."""
    is_plain = not (plan.fault or plan.partly_stepped or plan.grads or plan.accumulated or plan.launches)
    are_numpy = all(isinstance(place, np.ndarray) for place in plan.places)
    return is_plain and are_numpy and all(is_predictable(optimiser) for optimiser in plan.optimisers)


def is_predictable(optimiser: Optimiser) -> bool:
    """Whether the numbers of its next steps can be computed before these steps."""
    kind = type(optimiser)
    return is_own(kind.numbers.__module__) and is_own(kind.numbers_at.__module__) and is_own(kind.flush.__module__)


def is_repeatable(array: Array, is_shuffled: bool) -> bool:
    """Whether an array is C-contiguous; if it is gathered, each sample has to be."""
    if not is_plain(array) or not array.ndim:
        return False
    return bool(array[:1].flags.c_contiguous and array.strides[0] > 0 if is_shuffled else array.flags.c_contiguous)


def aligned_like(array: Array, size: int) -> Array:
    """Aligned memory for `size` samples like those of `array`."""
    shape = (size, *array.shape[1:])
    return aligned(math.prod(shape) * array.dtype.itemsize).view(array.dtype).reshape(shape)
