"""The instructions of programs (native.py), as the 64-bit words that their machine code reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, address
from tensorgrad.core.signature import Shape
from tensorgrad.kernels.llvm import SCALAR_OPS

ROW_MAJOR, COLUMN_MAJOR, PLAIN, TRANSPOSED = 101, 102, 111, 112  # constants of CBLAS
MAX_BLAS_INT = 2**31 - 1


class Form(NamedTuple):
    """The part of an array that is known before a run: dtype, shape and strides in bytes."""

    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def transposed(self) -> Form:
        return Form(self.dtype, self.shape[::-1], self.strides[::-1])

    def is_contiguous(self) -> bool:
        """Whether it is C-contiguous by NumPy's definition: strides of axes of size 1 do not matter."""
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
    """An operand of an instruction: an array, or a view of one.

    form       dtype, shape and strides
    parameter  the program's parameter whose memory it is in
    array      the array whose memory it is in, if that is fixed
    offset     its distance in bytes from the first element of that array
    step       bytes that it advances with each repetition of the program
    """

    form: Form
    parameter: str = ""
    array: Array | None = None
    offset: int = 0
    step: int = 0

    def transposed(self) -> Operand:
        return self.viewed(self.form.shape[::-1], self.form.strides[::-1])

    def part(self, axis: int, start: int, stop: int) -> Operand:
        """A slice along one axis."""
        shape, strides = list(self.form.shape), self.form.strides
        shape[axis] = stop - start
        return self.viewed(tuple(shape), strides, self.offset + start * strides[axis])

    def item(self, i: int) -> Operand:
        """Element i along the first axis, without that axis."""
        return self.viewed(self.form.shape[1:], self.form.strides[1:], self.offset + i * self.form.strides[0])

    def viewed(self, shape: Shape, strides: Shape, offset: int | None = None) -> Operand:
        form = Form(self.form.dtype, shape, strides)
        return replace(self, form=form, offset=self.offset if offset is None else offset)

    def may_overlap(self, other: Operand) -> bool:
        """Whether both may share memory, as far as that is known before a run."""
        if self.array is None or other.array is None:
            return False
        return bool(np.may_share_memory(self.array, other.array))


Argument = Operand | int


class Addresses:
    """Addresses of the machine code of instructions (llvm.py) and of functions of BLAS."""

    handlers: dict[int, int]
    checked_handlers: dict[int, int]
    products: dict[str, int]
    scalar_ops: dict[str, int]
    totals: dict[str, int]
    blas: dict[str, int]
    copy: int
    take: int
    clear: int
    fork: int


class Instruction(NamedTuple):
    """An instruction of a program.

    handler     address of the machine code that executes it;  code: address of the function that the handler calls, or 0
    arguments   its arguments, as integers
    operands    the arguments that hold the address of an operand's data: (index of the argument, operand)
    arity       number of arguments that the handler reads
    is_kernel   whether the first two arguments are the addresses for a kernel's result and exception
    parts       of a fork: the instructions of each part; their addresses are the last arguments
    """

    handler: int
    code: int
    arguments: list[int]
    operands: list[tuple[int, Operand]]
    arity: int
    is_kernel: bool = False
    parts: tuple[list[Instruction], ...] = ()

    def with_operands(self, change: Callable[[Operand], Operand]) -> Instruction:
        """The same instruction with other operands of the same layout."""
        parts = tuple([[call.with_operands(change) for call in part] for part in self.parts])
        return self._replace(operands=[(place, change(operand)) for place, operand in self.operands], parts=parts)

    def all_operands(self) -> list[Operand]:
        """The operands that it reads or writes, including those of its parts."""
        inside = [operand for part in self.parts for call in part for operand in call.all_operands()]
        return [operand for _, operand in self.operands] + inside


def kernel_instruction(
    machine: Addresses, code: int, arguments: Sequence[Argument], checked: bool = False
) -> Instruction | None:
    """A call of a loop that Numba compiled to this address; None if it has too many arguments.

    checked   it returns an integer, and stops the program if that is not negative

    The code takes the addresses for its result and its exception, then for each array: its owner (none), its parent (none),
    the number of elements, their size, the address of the first, shape and strides.
    """
    words, data = [0, 0], []
    for a in arguments:
        if isinstance(a, int):
            words.append(a)
            continue
        data.append((len(words) + 4, a))
        words += [0, 0, math.prod(a.form.shape), a.form.dtype.itemsize, 0, *a.form.shape, *a.form.strides]
    handlers = machine.checked_handlers if checked else machine.handlers
    arity = next((n for n in handlers if n >= len(words)), None)
    return None if arity is None else Instruction(handlers[arity], code, words, data, arity, is_kernel=True)


def product_instruction(machine: Addresses, a: Operand, b: Operand, out: Operand) -> Instruction | None:
    """out = a @ b of two matrices, with the arguments that NumPy would pass to BLAS; None where NumPy would not call it."""
    forms, dtype = (a.form, b.form, out.form), out.form.dtype
    if dtype.char not in "fd" or any(f.dtype != dtype or len(f.shape) != 2 for f in forms):
        return None
    (m, n), p, size = a.form.shape, b.form.shape[1], dtype.itemsize
    out_layout = blas_layout(out.form)
    if (
        n < 2
        or m * p < 2
        or is_times_own_transpose(a, b)
        or max(m, n, p) > MAX_BLAS_INT
        or out_layout is None
        or not out_layout[0]
    ):
        return None
    left, right = blas_layout(a.form), blas_layout(b.form)
    if m > 1 and p > 1:
        if left is None or right is None:
            return None
        transposes = [PLAIN if by_rows else TRANSPOSED for by_rows, _ in (left, right)]
        arguments, name = [ROW_MAJOR, *transposes, m, p, n, 0, left[1], 0, right[1], 0, out_layout[1]], "gemm"
        data = [(6, a), (8, b), (10, out)]
    else:  # NumPy passes the transpose of a matrix in the other order
        matrix, vector, layout = (a, b, left) if p == 1 else (b, a, right)
        step, remainder = divmod(vector.form.strides[0 if p == 1 else 1], size)
        if layout is None or remainder or not 0 < step <= MAX_BLAS_INT or out.form.strides != (p * size, size):
            return None
        order = COLUMN_MAJOR if layout[0] is (p == 1) else ROW_MAJOR
        arguments, data, name = (
            [order, TRANSPOSED, n, m * p, 0, layout[1], 0, step, 0, 1],
            [(4, matrix), (6, vector), (8, out)],
            "gemv",
        )
    return Instruction(machine.products[dtype.char + name], machine.blas[dtype.char + name], arguments, data, len(arguments))


def dot_instruction(machine: Addresses, a: Operand, b: Operand, out: Operand, chunk: int) -> Instruction | None:
    """out = sum of a b, of two contiguous arrays, at most `chunk` numbers per BLAS call; None where NumPy would not call it."""
    dtype = out.form.dtype
    contiguous = Form.contiguous(dtype, a.form.shape)
    if dtype.char not in "fd" or out.form != Form.contiguous(dtype, ()) or len(a.form.shape) != 1:
        return None
    if a.form != contiguous or b.form != contiguous or not 0 < chunk <= MAX_BLAS_INT:
        return None
    name = f"{dtype.char}dot"
    return Instruction(
        machine.products[name], machine.blas[name], [0, 0, 0, a.form.shape[0], chunk], [(0, a), (1, b), (2, out)], 5
    )


def fork_instruction(machine: Addresses, team: int, parts: Sequence[list[Instruction]]) -> Instruction:
    """Runs parts in the threads of a team."""
    return Instruction(machine.fork, 0, [team, len(parts)], [], 2 + len(parts), parts=tuple(parts))


def total_instruction(machine: Addresses, arrays: Operand, out: Operand) -> Instruction:
    """out = arrays[0] + arrays[1] + ..., all contiguous."""
    count, size, char = arrays.form.shape[0], math.prod(out.form.shape), out.form.dtype.char
    return Instruction(machine.totals[char], 0, [0, 0, count, size], [(0, out), (1, arrays)], 4)


def copy_instruction(machine: Addresses, out: Operand, x: Operand) -> Instruction | None:
    """out = x, of the same shape and dtype, with contiguous rows at a constant distance; None for others."""
    if out.form.dtype != x.form.dtype or out.form.shape != x.form.shape:
        return None
    target, source = row_layout(out.form), row_layout(x.form)
    if target is None or source is None:
        return None
    (rows, width, target_step), (_, _, source_step) = target, source
    if target_step == source_step == width:
        rows, width = 1, rows * width
    if rows > 1 and out.may_overlap(x):
        return None  # a row could be overwritten before it is read
    return Instruction(machine.copy, 0, [0, 0, rows, width, target_step, source_step], [(0, out), (1, x)], 6)


def take_instruction(machine: Addresses, source: Operand, indices: Operand, out: Operand) -> Instruction | None:
    """out = source[indices], a gather of contiguous rows; None for others. The indices must be valid."""
    (count,), row = indices.form.shape, source.item(0).form
    if out.form != Form.contiguous(out.form.dtype, (count, *row.shape)) or row != Form.contiguous(out.form.dtype, row.shape):
        return None
    size = math.prod(row.shape) * row.dtype.itemsize
    arguments = [0, 0, 0, count, size, source.form.strides[0]]
    return Instruction(machine.take, 0, arguments, [(0, out), (1, source), (2, indices)], 6)


def clear_instruction(machine: Addresses, out: Operand) -> Instruction | None:
    """out = 0; None if it is not contiguous, or has objects as elements."""
    form = out.form
    if form.dtype.kind not in "biufc" or form != Form.contiguous(form.dtype, form.shape):
        return None
    return Instruction(machine.clear, 0, [0, math.prod(form.shape) * form.dtype.itemsize], [(0, out)], 2)


def row_layout(form: Form) -> tuple[int, int, int] | None:
    """The number of rows of an array, the bytes of a row, and the bytes from one row to the next; None if that distance varies,
    or if a row is not contiguous."""
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


def scalar_instruction(machine: Addresses, name: str, operands: Sequence[Operand]) -> Instruction | None:
    """A function of 0-d arrays, the last of which is its result; None for functions and dtypes that NumPy has to compute."""
    dtype, count = operands[-1].form.dtype, 1 if name == "negative" else 2
    if name not in SCALAR_OPS or dtype.char not in "fd" or len(operands) != count + 1:
        return None
    if any(operand.form.dtype != dtype or operand.form.shape for operand in operands):
        return None
    words = [0] * len(operands)
    return Instruction(machine.scalar_ops[dtype.char + name], 0, words, list(enumerate(operands)), len(words))


def blas_layout(form: Form) -> tuple[bool, int] | None:
    """Whether a matrix is row-major (else column-major), and its leading dimension; None if BLAS cannot read it."""
    (m, n), (by_row, by_column), size = form.shape, form.strides, form.dtype.itemsize
    if by_column == size and by_row % size == 0 and n * size <= by_row <= MAX_BLAS_INT:
        return True, by_row // size
    if by_row == size and by_column % size == 0 and m * size <= by_column <= MAX_BLAS_INT:
        return False, by_column // size
    return None


def is_times_own_transpose(a: Operand, b: Operand) -> bool:
    """Whether a @ b is a matrix times its own transpose: NumPy then computes half of the result by syrk."""
    if a.form.shape != b.form.shape[::-1] or a.form.strides != b.form.strides[::-1]:
        return False
    if a.array is None or b.array is None:
        return a.array is b.array and a.parameter == b.parameter and a.offset == b.offset
    return address(a.array) + a.offset == address(b.array) + b.offset


def kind_of(a: Argument) -> str:
    """The properties of an argument that the machine code of a loop depends on: dtype, number of axes and layout of an array,
    as in Numba's array types; "" for unsupported arrays. Parameters of a program are aligned, like new arrays of NumPy."""
    if isinstance(a, int):
        return "word"
    is_aligned = a.array is None or (a.array.flags.aligned and a.offset % a.form.dtype.itemsize == 0)
    if not a.form.dtype.isnative or not is_aligned:
        return ""
    layout = "C" if a.form.is_contiguous() else "F" if a.form.transposed().is_contiguous() else "A"
    return f"{a.form.dtype.char}{len(a.form.shape)}{layout}"
