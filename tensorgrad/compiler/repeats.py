"""Repeats: a plan that is one program, run for many batches of arrays in memory without Python in between.

What Python does before and after each run, a longer program does: it gathers the samples of the next batch (shuffled ones into
memory of its own; others are read where they lie), puts the numbers of the next step in their places, and keeps the results.
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
from tensorgrad.kernels import forks, thresholds
from tensorgrad.kernels.llvm import COUNT, LEFT, MOST_GIVEN
from tensorgrad.kernels.words import Form, Operand, Words, copy_words, take_words
from tensorgrad.optim.optimiser import Optimiser

ORDER = "order"
MOST = 256  # batches at a time


class Repeats:
    """A plan, for batches of some arrays.

    arrays       all samples, along the first axis
    is_shuffled  whether the samples of a batch are told by their indices; they are gathered in memory of its own then
    size         samples per batch
    most         how many batches it can run at a time

    Raises NotRepeatable if something needs Python between two runs.
    """

    def __init__(self, plan: Plan, arrays: tuple[Array, ...], is_shuffled: bool, size: int, most: int = MOST) -> None:
        whole = plan.whole
        if whole is None or not can_repeat(plan):
            raise NotRepeatable
        self.plan, self.arrays, self.is_shuffled, self.size, self.most = plan, arrays, is_shuffled, size, most
        self.forms = [Form.of(array) for array in arrays]
        names = [f"x{i}" for i in range(len(arrays))]
        self.given = [*names, *([ORDER] if is_shuffled else [])]
        if len(self.given) > MOST_GIVEN or not all(is_repeatable(array, is_shuffled) for array in arrays):
            raise NotRepeatable
        self.machine = whole.machine
        self.batch = [aligned_like(array, size) for array in arrays] if is_shuffled else []
        places: list[Any] = plan.places
        self.results = [np.empty((most, *place.shape), place.dtype) for place in places]
        self.numbers = [(compute, [(name, a, np.empty(most, a.dtype)) for name, a in of]) for compute, of in plan.numbers]
        before = [call for i in range(len(self.batch)) for call in self.gathers(i)]
        before += [self.moved(to, from_) for _, of in self.numbers for _, to, from_ in of]
        behind = [self.moved(to, place) for to, place in zip(self.results, places, strict=True)]
        calls = {place: [call.with_operands(self.placed) for call in own] for place, own in whole.calls.items()}
        self.run = programs.Run(whole.machine, calls, self.given, whole.texts, whole.places, whole.space, before, behind)

    def gathers(self, i: int) -> list[Words]:
        """The calls that gather the samples of a batch of one array."""
        array, out = self.arrays[i], self.batch[i]
        source = Operand(Form.of(array), f"x{i}")
        indices = Operand(Form.contiguous(np.dtype(np.int64), (self.size,)), ORDER, step=8 * self.size)
        to = Operand(Form.of(out), array=out)
        count = self.plan.team if out.nbytes >= thresholds.SHARED_GATHER else 1
        parts = []
        for start, stop in forks.shares(self.size, count):
            words = take_words(self.machine, source, indices.part(0, start, stop), to.part(0, start, stop))
            if words is None:
                raise NotRepeatable
            parts.append([words])
        return forks.forked(self.machine, parts)

    def placed(self, operand: Operand) -> Operand:
        """An operand of the plan's program, in this one: an argument is what has been gathered, or moves through its array."""
        if operand.array is not None:
            return operand
        i = int(operand.given.removeprefix("x"))
        if self.is_shuffled:
            return replace(operand, given="", array=self.batch[i])
        return replace(operand, step=self.size * self.arrays[i].strides[0])

    def moved(self, to: Array, of: Array) -> Words:
        """The call that copies a number or a result, one of which is of all repeats."""
        ends = [
            Operand(Form.of(a), array=a).one(0) if a.ndim > other.ndim else Operand(Form.of(a), array=a)
            for a, other in ((to, of), (of, to))
        ]
        steps = [a.strides[0] if a.ndim > other.ndim else 0 for a, other in ((to, of), (of, to))]
        words = copy_words(self.machine, *(replace(end, step=step) for end, step in zip(ends, steps, strict=True)))
        if words is None:
            raise NotRepeatable
        return words

    def fits(self, arrays: tuple[Array, ...], is_shuffled: bool, size: int) -> bool:
        """Whether these are the arrays that it was made for, as they were then."""
        if is_shuffled is not self.is_shuffled or size != self.size or len(arrays) != len(self.arrays):
            return False
        alike = all(a is b for a, b in zip(arrays, self.arrays, strict=True))
        return alike and all(Form.of(a) == form for a, form in zip(arrays, self.forms, strict=True))

    def __call__(self, first: int, order: Array | None, count: int) -> tuple[int, Any, BaseException | None]:
        """Run the plan for batches from sample `first` on, or for those of `order`, `count` of them, at most `most`.

        Returns how many have been run, what they return - every Tensor with a new first axis of batches -, and what has stopped
        them, if something has.
        """
        plan = self.plan
        count = min(count, self.most, *(optimiser.until_flush for optimiser in plan.optimisers))
        self.compute_numbers(count)
        arrays = list(self.arrays) if order is not None else [array[first:] for array in self.arrays]
        table, stopped_by = self.run.program.table, None
        table[COUNT] = table[LEFT] = count  # all are left if something is raised before the program is entered
        done = count
        try:
            plan.replayed(self.start, [*arrays, *([] if order is None else [order])])
        except BaseException as error:
            done = count - self.run.program.left
            stopped_by = plan.explained(error, is_timed=False)
            if stopped_by is not error:
                stopped_by.__cause__ = error
        for optimiser in plan.in_time:
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
            self.run.resume(stopped, *self.as_read(arrays))
            program.shift()
            stopped = program.repeat(program.left - 1)
        return ()

    def as_read(self, arrays: tuple[Array, ...]) -> list[Array]:
        """What the lines of the plan call its arguments, in the repeat that has stopped."""
        if self.is_shuffled:
            return [*self.batch, arrays[-1]]
        done = int(self.run.program.table[COUNT]) - self.run.program.left
        return [array[done * self.size : (done + 1) * self.size] for array in arrays]

    def compute_numbers(self, count: int) -> None:
        """The numbers of the next steps, such as learning rates."""
        steps = [(optimiser, optimiser.steps) for optimiser in self.plan.in_time]
        try:
            for i in range(count):
                for optimiser, before in steps:
                    optimiser.__dict__["steps"] = before + i + 1
                for compute, of in self.numbers:
                    values = compute()
                    for name, _, row in of:
                        row[i] = values[name]
        finally:
            for optimiser, before in steps:
                optimiser.__dict__["steps"] = before


class NotRepeatable(Exception):
    """Something needs Python between two runs of a plan."""


def can_repeat(plan: Plan) -> bool:
    """Whether nothing but its program has to be done in a run of a plan, and nothing that only the user's code knows."""
    is_plain = not (plan.fault or plan.late or plan.grads or plan.added_to or plan.launches)
    known = all(isinstance(place, np.ndarray) for place in plan.places)
    return is_plain and known and all(is_predictable(optimiser) for optimiser in plan.optimisers)


def is_predictable(optimiser: Optimiser) -> bool:
    """Whether the numbers of its next steps depend on nothing that these steps change."""
    kind = type(optimiser)
    return is_own(kind.numbers.__module__) and is_own(kind.numbers_at.__module__) and is_own(kind.flush.__module__)


def is_repeatable(array: Array, is_shuffled: bool) -> bool:
    """Whether the samples of an array lie row after row; those that are gathered may have others in between."""
    if not is_plain(array) or not array.ndim:
        return False
    return bool(array[:1].flags.c_contiguous and array.strides[0] > 0 if is_shuffled else array.flags.c_contiguous)


def aligned_like(array: Array, size: int) -> Array:
    """Memory for so many samples."""
    shape = (size, *array.shape[1:])
    return aligned(math.prod(shape) * array.dtype.itemsize).view(array.dtype).reshape(shape)
