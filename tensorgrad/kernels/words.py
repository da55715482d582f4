"""Words: the calls of a program (native.py), as the 64-bit words that its machine code reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, address
from tensorgrad.core.signature import Shape
from tensorgrad.kernels.llvm import NUMBERS

ROW_MAJOR, COLUMN_MAJOR, PLAIN, TRANSPOSED = 101, 102, 111, 112  # BLAS's words
WIDEST = 2**31 - 1


class Form(NamedTuple):
    """What is known of an array before a run: dtype, shape and strides in bytes."""

    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def transposed(self) -> Form:
        return Form(self.dtype, self.shape[::-1], self.strides[::-1])

    def is_contiguous(self) -> bool:
        """Whether it lies row after row, as NumPy says: it does not matter how far apart the elements of a single one are."""
        size = self.dtype.itemsize
        if 0 in self.shape:
            return True
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != size:
                return False
            size *= n
        return True

    @classmethod
    def of(cls, array: Array) -> Form:
        return cls(array.dtype, array.shape, array.strides)

    @classmethod
    def contiguous(cls, dtype: Any, shape: tuple[int, ...]) -> Form:
        sizes = [np.dtype(dtype).itemsize]
        for n in reversed(shape[1:]):
            sizes.append(sizes[-1] * max(n, 1))
        return cls(np.dtype(dtype), shape, tuple(reversed(sizes)) if shape else ())


@dataclass(frozen=True)
class Operand:
    """An array as a call sees it.

    form     dtype, shape and strides
    given    which of the arrays given at each run it lies in
    array    the array that it lies in, where that is always the same one
    offset   how many bytes after the first element of that it begins
    step     how many bytes it moves on after each time that a program repeats its calls
    """

    form: Form
    given: str = ""
    array: Array | None = None
    offset: int = 0
    step: int = 0

    def transposed(self) -> Operand:
        return self.seen_as(self.form.shape[::-1], self.form.strides[::-1])

    def part(self, axis: int, start: int, stop: int) -> Operand:
        """Some of what lies along an axis."""
        shape, strides = list(self.form.shape), self.form.strides
        shape[axis] = stop - start
        return self.seen_as(tuple(shape), strides, self.offset + start * strides[axis])

    def one(self, i: int) -> Operand:
        """Element i along the first axis, without that axis."""
        return self.seen_as(self.form.shape[1:], self.form.strides[1:], self.offset + i * self.form.strides[0])

    def seen_as(self, shape: Shape, strides: Shape, offset: int | None = None) -> Operand:
        form = Form(self.form.dtype, shape, strides)
        return replace(self, form=form, offset=self.offset if offset is None else offset)

    def may_overlap(self, other: Operand) -> bool:
        """Whether both may have memory in common, as far as that is known before a run."""
        if self.array is None or other.array is None:
            return False
        return bool(np.may_share_memory(self.array, other.array))


Argument = Operand | int


class Addresses:
    """Of the machine code that calls things (llvm.py), and of BLAS."""

    callers: dict[int, int]
    checkers: dict[int, int]
    products: dict[str, int]
    numbers: dict[str, int]
    totals: dict[str, int]
    blas: dict[str, int]
    copy: int
    take: int
    clear: int
    fork: int


class Words(NamedTuple):
    """A call in the making.

    caller      the address of what calls it;  code: of its own code, if what calls it asks for that
    arguments   its arguments;  data: which of those are addresses of data, and whose
    reads       how many arguments what calls it reads
    is_kernel   whether the first two arguments are the addresses for what a kernel returns and raises
    parts       of a fork: the calls of each part, which the arguments name in the end
    """

    caller: int
    code: int
    arguments: list[int]
    data: list[tuple[int, Operand]]
    reads: int
    is_kernel: bool = False
    parts: tuple[list[Words], ...] = ()

    def with_operands(self, change: Callable[[Operand], Operand]) -> Words:
        """The same call of other operands, which lie as these do."""
        parts = tuple([[call.with_operands(change) for call in part] for part in self.parts])
        return self._replace(data=[(place, change(operand)) for place, operand in self.data], parts=parts)

    def operands(self) -> list[Operand]:
        """All that it reads and writes."""
        inside = [operand for part in self.parts for call in part for operand in call.operands()]
        return [operand for _, operand in self.data] + inside


def kernel_words(machine: Addresses, code: int, arguments: Sequence[Argument], checked: bool = False) -> Words | None:
    """A call of a loop of Numba's, whose code is at this address; None if it takes more than there is room for.

    checked   it returns an integer, and stops the program if that is 0 or more

    The code takes the addresses for its result and for what it raises, then for each array: who owns it (nobody), how many
    elements, their size, the address of the first, shape and strides.
    """
    words, data = [0, 0], []
    for a in arguments:
        if isinstance(a, int):
            words.append(a)
            continue
        data.append((len(words) + 4, a))
        words += [0, 0, math.prod(a.form.shape), a.form.dtype.itemsize, 0, *a.form.shape, *a.form.strides]
    callers = machine.checkers if checked else machine.callers
    reads = next((n for n in callers if n >= len(words)), None)
    return None if reads is None else Words(callers[reads], code, words, data, reads, is_kernel=True)


def product_words(machine: Addresses, a: Operand, b: Operand, out: Operand) -> Words | None:
    """out = a @ b of two matrices, with the arguments that NumPy would give BLAS; None where it would do something else."""
    forms, dtype = (a.form, b.form, out.form), out.form.dtype
    if dtype.char not in "fd" or any(f.dtype != dtype or len(f.shape) != 2 for f in forms):
        return None
    (m, n), p, size = a.form.shape, b.form.shape[1], dtype.itemsize
    lies = storage(out.form)
    if n < 2 or m * p < 2 or is_square_of(a, b) or max(m, n, p) > WIDEST or lies is None or not lies[0]:
        return None
    left, right = storage(a.form), storage(b.form)
    if m > 1 and p > 1:
        if left is None or right is None:
            return None
        turned = [PLAIN if by_rows else TRANSPOSED for by_rows, _ in (left, right)]
        words, name = [ROW_MAJOR, *turned, m, p, n, 0, left[1], 0, right[1], 0, lies[1]], "gemm"
        data = [(6, a), (8, b), (10, out)]
    else:  # NumPy asks for the transposed of a matrix in the other order
        matrix, vector, stored = (a, b, left) if p == 1 else (b, a, right)
        step, rest = divmod(vector.form.strides[0 if p == 1 else 1], size)
        if stored is None or rest or not 0 < step <= WIDEST or out.form.strides != (p * size, size):
            return None
        order = COLUMN_MAJOR if stored[0] is (p == 1) else ROW_MAJOR
        words, data, name = (
            [order, TRANSPOSED, n, m * p, 0, stored[1], 0, step, 0, 1],
            [(4, matrix), (6, vector), (8, out)],
            "gemv",
        )
    return Words(machine.products[dtype.char + name], machine.blas[dtype.char + name], words, data, len(words))


def dot_words(machine: Addresses, a: Operand, b: Operand, out: Operand, most: int) -> Words | None:
    """out = sum of a b, of two arrays without gaps, so many numbers at a time; None where NumPy would do something else."""
    dtype = out.form.dtype
    plain = Form.contiguous(dtype, a.form.shape)
    if dtype.char not in "fd" or out.form != Form.contiguous(dtype, ()) or len(a.form.shape) != 1:
        return None
    if a.form != plain or b.form != plain or not 0 < most <= WIDEST:
        return None
    name = f"{dtype.char}dot"
    return Words(machine.products[name], machine.blas[name], [0, 0, 0, a.form.shape[0], most], [(0, a), (1, b), (2, out)], 5)


def fork_words(machine: Addresses, team: int, parts: Sequence[list[Words]]) -> Words:
    """A call that runs parts in the threads of a team."""
    return Words(machine.fork, 0, [team, len(parts)], [], 2 + len(parts), parts=tuple(parts))


def total_words(machine: Addresses, arrays: Operand, out: Operand) -> Words:
    """out = arrays[0] + arrays[1] + ..., all of them row after row."""
    count, size, char = arrays.form.shape[0], math.prod(out.form.shape), out.form.dtype.char
    return Words(machine.totals[char], 0, [0, 0, count, size], [(0, out), (1, arrays)], 4)


def copy_words(machine: Addresses, out: Operand, x: Operand) -> Words | None:
    """out = x, of one shape and dtype, whose rows lie one after the other, with gaps in between or without; None for others."""
    if out.form.dtype != x.form.dtype or out.form.shape != x.form.shape:
        return None
    to, of = rows_of(out.form), rows_of(x.form)
    if to is None or of is None:
        return None
    (rows, width, step_to), (_, _, step_of) = to, of
    if step_to == step_of == width:
        rows, width = 1, rows * width
    if rows > 1 and out.may_overlap(x):
        return None  # a row could be written over before it is read
    return Words(machine.copy, 0, [0, 0, rows, width, step_to, step_of], [(0, out), (1, x)], 6)


def take_words(machine: Addresses, source: Operand, indices: Operand, out: Operand) -> Words | None:
    """out = source[indices], rows whose elements lie one after the other; None for others. The indices must be valid."""
    (count,), row = indices.form.shape, source.one(0).form
    if out.form != Form.contiguous(out.form.dtype, (count, *row.shape)) or row != Form.contiguous(out.form.dtype, row.shape):
        return None
    size = math.prod(row.shape) * row.dtype.itemsize
    words = [0, 0, 0, count, size, source.form.strides[0]]
    return Words(machine.take, 0, words, [(0, out), (1, source), (2, indices)], 6)


def clear_words(machine: Addresses, out: Operand) -> Words | None:
    """out = 0, row after row; None of an array with gaps, or of objects."""
    form = out.form
    if form.dtype.kind not in "biufc" or form != Form.contiguous(form.dtype, form.shape):
        return None
    return Words(machine.clear, 0, [0, math.prod(form.shape) * form.dtype.itemsize], [(0, out)], 2)


def rows_of(form: Form) -> tuple[int, int, int] | None:
    """How many rows an array has, how many bytes each, and how many from one to the next; None if that differs, or a row is not
    one piece."""
    size, shape = form.dtype.itemsize, form.shape
    if 0 in shape:
        return None
    width = (shape[-1] if shape else 1) * size
    if shape and shape[-1] > 1 and form.strides[-1] != size:
        return None
    axes = [(n, step) for n, step in zip(shape[:-1], form.strides[:-1], strict=True) if n > 1]
    for (_, outer), (n, inner) in itertools.pairwise(axes):
        if outer != n * inner:
            return None
    step = axes[-1][1] if axes else width
    return (math.prod(shape[:-1]), width, step) if step > 0 else None


def number_words(machine: Addresses, name: str, operands: Sequence[Operand]) -> Words | None:
    """A function of 0-d arrays, the last of which is its result; None of what is left to NumPy."""
    dtype, count = operands[-1].form.dtype, 1 if name == "negative" else 2
    if name not in NUMBERS or dtype.char not in "fd" or len(operands) != count + 1:
        return None
    if any(operand.form.dtype != dtype or operand.form.shape for operand in operands):
        return None
    words = [0] * len(operands)
    return Words(machine.numbers[dtype.char + name], 0, words, list(enumerate(operands)), len(words))


def storage(form: Form) -> tuple[bool, int] | None:
    """Whether a matrix lies row after row, and how many numbers it is from one row (or column) to the next; None if BLAS cannot
    read it."""
    (m, n), (by_row, by_column), size = form.shape, form.strides, form.dtype.itemsize
    if by_column == size and by_row % size == 0 and n * size <= by_row <= WIDEST:
        return True, by_row // size
    if by_row == size and by_column % size == 0 and m * size <= by_column <= WIDEST:
        return False, by_column // size
    return None


def is_square_of(a: Operand, b: Operand) -> bool:
    """Whether it is a matrix times itself transposed, for which NumPy asks BLAS for half of the result."""
    if a.form.shape != b.form.shape[::-1] or a.form.strides != b.form.strides[::-1]:
        return False
    if a.array is None or b.array is None:
        return a.array is b.array and a.given == b.given and a.offset == b.offset
    return address(a.array) + a.offset == address(b.array) + b.offset


def kind_of(a: Argument) -> str:
    """What the code of a loop depends on, of an argument: dtype, number of axes and layout of an array, as Numba tells them
    apart; "" of an array that it does not take. Arrays that are given at a run lie in memory as NumPy makes them."""
    if isinstance(a, int):
        return "word"
    is_aligned = a.array is None or (a.array.flags.aligned and a.offset % a.form.dtype.itemsize == 0)
    if not a.form.dtype.isnative or not is_aligned:
        return ""
    layout = "C" if a.form.is_contiguous() else "F" if a.form.transposed().is_contiguous() else "A"
    return f"{a.form.dtype.char}{len(a.form.shape)}{layout}"
