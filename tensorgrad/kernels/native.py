"""Kernels and matrix products one after the other, without Python in between.

Between two kernels of a small step Python takes as long as the kernels. So consecutive ones become a program: a table of
64-bit words that holds, for each call, the address of the machine code and its arguments. A loop in machine code (made with
llvmlite, which Numba brings along) goes through the table: Numba's kernels are called by the addresses of their own code,
products go to the BLAS that NumPy itself has loaded, with the arguments that NumPy would pass.

    header   how many patches, address of the patches, address of the first call, two words for what kernels return and raise
    patch    address of an array object (or -1 - i: the i-th of those given), address of the word for its data
    call     what calls it (0: the end), address of the next call, address of its code, its arguments ...

The data of an array are looked up in the array object at each run: they may have moved, and arguments are others each time.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, address
from tensorgrad.kernels import cache, threads

MOST_GIVEN = 8  # arrays at most that are other ones at each run
DATA = object.__basicsize__  # where an array object has the address of its data: right after what every object has
ARITIES = (24, 48, 96, 192, 384)  # a call with more words than the code takes does no harm, so a few forms are enough
ERRORS = {"x86_64": 13, "AMD64": 13, "aarch64": 7, "arm64": 7}  # C's FE_INVALID, FE_DIVBYZERO and FE_OVERFLOW
ROW_MAJOR, COLUMN_MAJOR, PLAIN, TRANSPOSED = 101, 102, 111, 112  # BLAS's words
WIDEST = 2**31 - 1


HEADER, RESULT = 5, 3  # words before the patches; of those, two for what a kernel returns and raises


class Form(NamedTuple):
    """What is known of an array before a run: dtype, shape and strides in bytes."""

    dtype: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]

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
    """An array as a call sees it. given: which of the arrays given at each run it lies in;  array: it, where it is always the
    same one."""

    form: Form
    given: str = ""
    array: Array | None = None

    def transposed(self) -> Operand:
        form = Form(self.form.dtype, self.form.shape[::-1], self.form.strides[::-1])
        return Operand(form, self.given, None if self.array is None else self.array.T)


Argument = Operand | int


class Machine:
    """The machine code that goes through programs, and the addresses that it calls."""

    def __init__(self, library: Any, suffix: str) -> None:
        self.wide = suffix.endswith("64_")  # whether BLAS's integers have 64 bits
        names = ["gemm", "gemv"]
        prefix = "scipy_cblas_" if suffix.startswith("scipy_") else "cblas_"
        ending = suffix.removeprefix("scipy_")
        self.blas = {
            char + name: ctypes.cast(getattr(library, f"{prefix}{letter}{name}{ending}"), ctypes.c_void_p).value or 0
            for char, letter in (("f", "s"), ("d", "d"))
            for name in names
        }
        self.engine = compiled(self.wide)
        at = self.engine.get_function_address
        self.callers = {n: at(f"call{n}") for n in ARITIES}
        self.checkers = {n: at(f"checked{n}") for n in ARITIES[:2]}
        self.copy = at("copy")
        self.products = {name: at(name) for name in self.blas}
        word = ctypes.c_int64
        self.enter = [ctypes.CFUNCTYPE(*[word] * (k + 2))(at(f"enter{k}")) for k in range(MOST_GIVEN + 1)]
        self.go_on = ctypes.CFUNCTYPE(word, word)(at("run"))


def symbols() -> Iterator[tuple[Any, str]]:
    """The library of NumPy's BLAS, and how its functions are called, where that is sure."""
    libraries = [library for library in threads.blas_libraries() if library.filepath]
    own = [library for library in libraries if "numpy" in os.path.dirname(library.filepath).rpartition("site-packages")[2]]
    for library in own or (libraries if len(libraries) == 1 else []):
        loaded = ctypes.CDLL(library.filepath)
        for suffix, name in (
            *(("scipy_64_", "scipy_cblas_sgemm64_"), ("64_", "cblas_sgemm64_")),
            *(("scipy_", "scipy_cblas_sgemm"), ("", "cblas_sgemm")),
        ):
            if hasattr(loaded, name):
                yield loaded, suffix
                return


@functools.cache
def machine() -> Machine | None:
    """The machine code; None where it cannot be made, or does not give what NumPy gives."""
    if platform.machine() not in ERRORS or platform.python_implementation() != "CPython":
        return None
    for library, suffix in symbols():
        try:
            found = Machine(library, suffix)
        except Exception:
            return None
        return found if works(found) else None
    return None


def works(found: Machine) -> bool:
    """Whether a product of each kind is NumPy's."""
    for dtype in "fd":
        a = np.arange(6, dtype=dtype).reshape(2, 3) + 0.5
        b, v = np.sqrt(a.T + 1).copy(), np.arange(3, dtype=dtype).reshape(3, 1) - 0.3
        for x in (b, v):
            out = np.zeros((2, x.shape[1]), dtype)
            words = product_words(found, *(Operand(Form.of(one), array=one) for one in (a, x, out)))
            program = Program(found, [words] if words else [], [])
            if program.enter(program.start) or not np.array_equal(out, np.matmul(a, x)):
                return False
    return True


def compiled(wide: bool) -> Any:
    """The engine that holds the machine code, which is kept on disk. wide: whether BLAS's integers have 64 bits."""
    from llvmlite import __version__, binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple().create_target_machine(opt=1)
    depends_on = (Path(__file__).read_text(), wide, DATA, target.triple, __version__, sys.version)
    code = cache.kept("native", repr(depends_on), lambda: object_code(target, wide))
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    for name in ("fetestexcept", "feclearexcept", "memmove"):
        binding.add_symbol(name, ctypes.cast(getattr(runtime(), name), ctypes.c_void_p).value)
    engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def runtime() -> Any:
    """C's own library."""
    return ctypes.CDLL("ucrtbase" if os.name == "nt" else None)


def object_code(target: Any, wide: bool) -> bytes:
    """The code, as a compiler of C would leave it."""
    from llvmlite import binding, ir

    return bytes(target.emit_object(binding.parse_assembly(str(Writer(ir, wide).module))))


class Writer:
    """Writes the code in LLVM's language."""

    def __init__(self, ir: Any, wide: bool) -> None:
        self.ir, self.module = ir, ir.Module("tensorgrad_native")
        self.word, self.int32 = ir.IntType(64), ir.IntType(32)
        self.blas_int = self.word if wide else self.int32
        self.errors = ERRORS[platform.machine()]
        of_flags = ir.FunctionType(self.int32, [self.int32])
        self.test = ir.Function(self.module, of_flags, "fetestexcept")
        self.clear = ir.Function(self.module, of_flags, "feclearexcept")
        for n in ARITIES:
            self.caller(n)
        for n in ARITIES[:2]:
            self.caller(n, checked=True)
        for char, real in (("f", ir.FloatType()), ("d", ir.DoubleType())):
            self.product(f"{char}gemm", real, "eeeiiiraiairai")
            self.product(f"{char}gemv", real, "eeiiraiairai")
        self.copy()
        self.loop()
        for k in range(MOST_GIVEN + 1):
            self.enter(k)

    def function(self, name: str, count: int, result: Any = None) -> tuple[Any, Any]:
        function = self.ir.Function(self.module, self.ir.FunctionType(result or self.word, [self.word] * count), name)
        return function, self.ir.IRBuilder(function.append_basic_block("entry"))

    def constant(self, value: int) -> Any:
        return self.ir.Constant(self.word, value)

    def load(self, builder: Any, at: Any, offset: int = 0, kind: Any = None) -> Any:
        kind = kind or self.word
        return builder.load(builder.inttoptr(builder.add(at, self.constant(offset)), kind.as_pointer()))

    def store(self, builder: Any, value: Any, at: Any, offset: int = 0) -> None:
        builder.store(value, builder.inttoptr(builder.add(at, self.constant(offset)), self.word.as_pointer()))

    def caller(self, n: int, checked: bool = False) -> None:
        """Calls Numba's code with n words. Its status is not 0 if it has raised; checked: 1 if its result is 0 or more."""
        function, b = self.function(f"{'checked' if checked else 'call'}{n}", 1)
        record = function.args[0]
        words = [self.load(b, record, 24 + 8 * i) for i in range(n)]
        kind = self.ir.FunctionType(self.int32, [self.word] * n)
        status = b.call(b.inttoptr(self.load(b, record, 16), kind.as_pointer()), words)
        wrong = b.icmp_signed("!=", status, self.ir.Constant(self.int32, 0))
        if checked:
            wrong = b.or_(wrong, b.icmp_signed(">=", self.load(b, words[0]), self.constant(0)))
        b.ret(b.zext(wrong, self.word))

    def product(self, name: str, real: Any, kinds: str) -> None:
        """Calls BLAS; the status is what floating-point errors it has made.

        kinds   "e" of its enumerations, "i" of its integers, "a" addresses; "r" 1, then 0
        """
        function, b = self.function(name, 1)
        record, kept = function.args[0], self.ir.Constant(self.int32, self.errors)
        before = b.call(self.test, [kept])
        with b.if_then(b.icmp_signed("!=", before, self.ir.Constant(self.int32, 0))):
            b.call(self.clear, [kept])
        types = {"e": self.int32, "i": self.blas_int, "a": self.word, "r": real}
        reals, place, given = iter((1.0, 0.0)), 24, []
        for kind in kinds:
            if kind == "r":
                given.append(self.ir.Constant(real, next(reals)))
                continue
            word = self.load(b, record, place)
            given.append(word if types[kind] is self.word else b.trunc(word, types[kind]))
            place += 8
        signature = self.ir.FunctionType(self.ir.VoidType(), [types[kind] for kind in kinds])
        b.call(b.inttoptr(self.load(b, record, 16), signature.as_pointer()), given)
        raised = b.zext(b.call(self.test, [kept]), self.word)
        b.ret(raised)

    def copy(self) -> None:
        """Copies bytes from the second of two addresses to the first."""
        function, b = self.function("copy", 1)
        move = self.ir.Function(self.module, self.ir.FunctionType(self.word, [self.word] * 3), "memmove")
        b.call(move, [self.load(b, function.args[0], 24 + 8 * i) for i in range(3)])
        b.ret(self.constant(0))

    def loop(self) -> None:
        """run(call): from this call on; returns the call after which it has stopped, 0 at the end."""
        function, b = self.function("run", 1)
        (first,) = function.args
        entry = b.block
        look, call, stop, after = (function.append_basic_block(name) for name in ("look", "call", "stop", "after"))
        end = function.append_basic_block("end")
        b.branch(look)
        b.position_at_end(look)
        record = b.phi(self.word)
        record.add_incoming(first, entry)
        caller = self.load(b, record)
        b.cbranch(b.icmp_signed("==", caller, self.constant(0)), end, call)
        b.position_at_end(call)
        kind = self.ir.FunctionType(self.word, [self.word])
        status = b.call(b.inttoptr(caller, kind.as_pointer()), [record])
        b.cbranch(b.icmp_signed("!=", status, self.constant(0)), stop, after)
        b.position_at_end(after)
        following = self.load(b, record, 8)
        record.add_incoming(following, after)
        b.branch(look)
        b.position_at_end(stop)
        b.ret(record)
        b.position_at_end(end)
        b.ret(self.constant(0))

    def enter(self, k: int) -> None:
        """enter(header, array objects ...): put the addresses of all data in their words, then run."""
        function, b = self.function(f"enter{k}", 1 + k)
        header, objects = function.args[0], function.args[1:]
        table = b.alloca(self.ir.ArrayType(self.word, max(k, 1)))
        zero = self.constant(0)
        for i, one in enumerate(objects):
            b.store(one, b.gep(table, [zero, self.constant(i)]))
        count, first = self.load(b, header), self.load(b, header, 8)
        entry = b.block
        look, known, given, put, done = (function.append_basic_block(x) for x in ("look", "known", "given", "put", "done"))
        b.branch(look)
        b.position_at_end(look)
        i = b.phi(self.word)
        i.add_incoming(zero, entry)
        patch = b.add(first, b.mul(i, self.constant(16)))
        b.cbranch(b.icmp_signed("==", i, count), done, known)
        b.position_at_end(known)
        which = self.load(b, patch)
        b.cbranch(b.icmp_signed("<", which, zero), given, put)
        b.position_at_end(given)
        one = b.load(b.gep(table, [zero, b.sub(self.constant(-1), which)]))
        b.branch(put)
        b.position_at_end(put)
        thing = b.phi(self.word)
        thing.add_incoming(which, known)
        thing.add_incoming(one, given)
        self.store(b, self.load(b, thing, DATA), self.load(b, patch, 8))
        i.add_incoming(b.add(i, self.constant(1)), put)
        b.branch(look)
        b.position_at_end(done)
        b.ret(b.call(self.module.get_global("run"), [self.load(b, header, 16)]))


class Words(NamedTuple):
    """A call in the making: the address of what calls it, of its code, and its arguments; data: which of those are addresses of
    data, and whose. reads: how many arguments what calls it reads."""

    caller: int
    code: int
    arguments: list[int]
    data: list[tuple[int, Operand]]
    reads: int
    is_kernel: bool = False


class Program:
    """Calls to be run one after the other.

    given   names of the arrays that a run is given, in order
    start   its address, which a run is given first
    """

    def __init__(self, machine: Machine, calls: Sequence[Words], given: Sequence[str]) -> None:
        self.machine, self.calls = machine, calls
        patches = [(i, place, operand) for i, call in enumerate(calls) for place, operand in call.data]
        places = [HEADER + 2 * len(patches)]
        for call in calls:
            places.append(places[-1] + 3 + max(call.reads, len(call.arguments)))
        self.table = table = np.zeros(places[-1] + 1, np.int64)
        self.start = address(table)
        self.at = [self.start + 8 * place for place in places]
        table[:3] = len(patches), self.start + 8 * HEADER, self.at[0]
        for place, after, call in zip(places, self.at[1:], calls, strict=False):
            told = (
                [self.start + 8 * RESULT, self.start + 8 * RESULT + 8, *call.arguments[2:]]
                if call.is_kernel
                else call.arguments
            )
            table[place : place + 3 + len(told)] = call.caller, after, call.code, *told
        for k, (i, place, operand) in enumerate(patches):
            array = id(operand.array) if operand.array is not None else -1 - given.index(operand.given)
            table[HEADER + 2 * k : HEADER + 2 * k + 2] = array, self.at[i] + 8 * (3 + place)
        self.enter = machine.enter[len(given)]

    def go_on(self, stopped: int) -> int:
        """Run what comes after the call at which it has stopped; returns 0, or the address of one at which it stops again."""
        return int(self.machine.go_on(self.at[self.at.index(stopped) + 1]))


def kernel_words(machine: Machine, kernel: Any, arguments: Sequence[Argument], checked: bool = False) -> Words | None:
    """A call of a kernel that Numba has compiled for such arguments; None if it has not.

    checked   it returns a whole number, and stops the program if that is 0 or more

    Numba's code takes the addresses for its result and for what it raises, then for each array: who owns it (nobody), how many
    elements, their size, the address of the first, shape and strides.
    """
    from numba import from_dtype, typeof, types

    def kind_of(a: Argument) -> Any:
        if isinstance(a, int):
            return types.int64
        if a.array is not None:
            return typeof(a.array)  # type: ignore[no-untyped-call]
        return types.Array(from_dtype(a.form.dtype), len(a.form.shape), "C")

    compiled = kernel.overloads.get(tuple([kind_of(a) for a in arguments]))
    if compiled is None or not takes_words(compiled):
        return None
    words, data = [0, 0], []
    for a in arguments:
        if isinstance(a, int):
            words.append(a)
            continue
        data.append((len(words) + 4, a))
        words += [0, 0, math.prod(a.form.shape), a.form.dtype.itemsize, 0, *a.form.shape, *a.form.strides]
    callers = machine.checkers if checked else machine.callers
    reads = next((n for n in callers if n >= len(words)), None)
    if reads is None:
        return None
    code = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return Words(callers[reads], code, words, data, reads, is_kernel=True)


def takes_words(compiled: Any) -> bool:
    """Whether all that a kernel takes are addresses and 64-bit integers, and what it returns is its status."""
    kind = compiled.target_context.call_conv.get_function_type(compiled.fndesc.restype, compiled.fndesc.argtypes)
    return str(kind.return_type) == "i32" and all(str(a).endswith("*") or str(a) in ("i64", "ptr") for a in kind.args)


def product_words(machine: Machine, a: Operand, b: Operand, out: Operand) -> Words | None:
    """out = a @ b of two matrices, with the arguments that NumPy would give BLAS; None where it would do something else."""
    forms, dtype = (a.form, b.form, out.form), out.form.dtype
    if dtype.char not in "fd" or any(f.dtype != dtype or len(f.shape) != 2 for f in forms):
        return None
    (m, n), p, size = a.form.shape, b.form.shape[1], dtype.itemsize
    if n < 2 or m * p < 2 or is_square_of(a, b) or max(m, n, p) > WIDEST or out.form.strides != (p * size, size):
        return None
    left, right = storage(a.form), storage(b.form)
    if m > 1 and p > 1:
        if left is None or right is None:
            return None
        turned = [PLAIN if by_rows else TRANSPOSED for by_rows, _ in (left, right)]
        words, name = [ROW_MAJOR, *turned, m, p, n, 0, left[1], 0, right[1], 0, p], "gemm"
        data = [(6, a), (8, b), (10, out)]
    else:  # NumPy asks for the transposed of a matrix in the other order
        matrix, vector, lies = (a, b, left) if p == 1 else (b, a, right)
        step, rest = divmod(vector.form.strides[0 if p == 1 else 1], size)
        if lies is None or rest or not 0 < step <= WIDEST:
            return None
        order = COLUMN_MAJOR if lies[0] is (p == 1) else ROW_MAJOR
        words, data, name = (
            [order, TRANSPOSED, n, m * p, 0, lies[1], 0, step, 0, 1],
            [(4, matrix), (6, vector), (8, out)],
            "gemv",
        )
    return Words(machine.products[dtype.char + name], machine.blas[dtype.char + name], words, data, len(words))


def copy_words(machine: Machine, out: Operand, x: Operand) -> Words | None:
    """out = x, of one shape and dtype, both row after row; None for others."""
    form = out.form
    if x.form != form or form != Form.contiguous(form.dtype, form.shape):
        return None
    return Words(machine.copy, 0, [0, 0, math.prod(form.shape) * form.dtype.itemsize], [(0, out), (1, x)], 3)


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
        return a.array is b.array and a.given == b.given
    return address(a.array) == address(b.array)
