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
import itertools
import math
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, address
from tensorgrad.core.forks import loading
from tensorgrad.kernels import cache, threads

MOST_GIVEN = 8  # arrays at most that are other ones at each run
DATA = object.__basicsize__  # where an array object has the address of its data: right after what every object has
ARITIES = (24, 48, 96, 192, 384)  # a call with more words than the code takes does no harm, so a few forms are enough
ERRORS = 13  # C's FE_INVALID, FE_DIVBYZERO and FE_OVERFLOW, on x86
ROW_MAJOR, COLUMN_MAJOR, PLAIN, TRANSPOSED = 101, 102, 111, 112  # BLAS's words
WIDEST = 2**31 - 1
# Functions of 0-d arrays, and LLVM's words for them
NUMBERS = {"add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv", "negative": "fneg"}
RAISED = -(2**62)  # the result of a kernel that has raised
# Code and its constants may come to lie anywhere in memory, further from each other than 32 bits can say
FOR_ANYWHERE = {"codemodel": "large", "reloc": "static"}
DESTRUCTOR = "NRT_MemInfo_call_dtor"  # Numba's, of the memory of arrays that own theirs, as none does here
SHAPES = 256  # so many calls of a loop at most are kept, each for arrays of its shapes
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

_engines: list[Any] = []  # never let go: nobody knows who has addresses of what is in them


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
        _engines.append(self.engine)
        self.description = description()
        at = self.engine.get_function_address
        self.callers = {n: at(f"call{n}") for n in ARITIES}
        self.checkers = {n: at(f"checked{n}") for n in ARITIES[:2]}
        self.copy, self.clear = at("copy"), at("clear")
        self.numbers = {char + name: at(char + name) for char in "fd" for name in NUMBERS}
        self.products = {name: at(name) for name in self.blas}
        word = ctypes.c_int64
        self.enter = [ctypes.CFUNCTYPE(*[word] * (k + 2))(at(f"enter{k}")) for k in range(MOST_GIVEN + 1)]
        self.go_on = ctypes.CFUNCTYPE(word, word)(at("run"))
        self.once = ctypes.CFUNCTYPE(word, word, ctypes.c_void_p)(at("once"))

    def load(self, symbol: str, code: bytes) -> int:
        """The address of a function, of whose code this is all."""
        from llvmlite import binding

        self.engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
        self.engine.finalize_object()
        return int(self.engine.get_function_address(symbol))


def symbols() -> Iterator[tuple[Any, str]]:
    """The library of NumPy's BLAS, and how its functions are called, where that is sure."""
    libraries = [library for library in threads.blas_libraries() if library.filepath]
    folder = os.path.realpath(os.path.dirname(np.__file__))
    inside = (f"{folder}{os.sep}", f"{folder}.libs{os.sep}")  # where wheels have it
    own = [library for library in libraries if os.path.realpath(library.filepath).startswith(inside)]
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
    if sys.platform != "linux" or platform.machine() != "x86_64" or platform.python_implementation() != "CPython":
        return None  # elsewhere it has not been run
    with loading:  # llvmlite is imported, and has a lock of its own
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
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple().create_target_machine(opt=1, **FOR_ANYWHERE)
    depends_on = (wide, DATA, description())
    code = cache.kept("native", repr(depends_on), lambda: own_code(target, wide))
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    for name in ("fetestexcept", "feclearexcept", "memmove", "memset"):
        binding.add_symbol(name, ctypes.cast(getattr(runtime(), name), ctypes.c_void_p).value)
    binding.add_symbol(DESTRUCTOR, ctypes.cast(runtime().abort, ctypes.c_void_p).value)
    engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def runtime() -> Any:
    """C's own library."""
    return ctypes.CDLL(None)


def description() -> str:
    """The machine that code is for, and what makes it."""
    from llvmlite import __version__, binding

    processor = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    return repr((binding.get_default_triple(), processor, __version__, Path(__file__).read_text()))


def own_code(target: Any, wide: bool) -> bytes:
    """The code, as a compiler of C would leave it."""
    from llvmlite import binding, ir

    return bytes(target.emit_object(binding.parse_assembly(str(Writer(ir, wide).module))))


class Writer:
    """Writes the code in LLVM's language."""

    def __init__(self, ir: Any, wide: bool) -> None:
        self.ir, self.module = ir, ir.Module("tensorgrad_native")
        self.word, self.int32 = ir.IntType(64), ir.IntType(32)
        self.blas_int = self.word if wide else self.int32
        of_flags = ir.FunctionType(self.int32, [self.int32])
        self.test = ir.Function(self.module, of_flags, "fetestexcept")
        self.clear = ir.Function(self.module, of_flags, "feclearexcept")
        self.move = ir.Function(self.module, ir.FunctionType(self.word, [self.word] * 3), "memmove")
        for n in ARITIES:
            self.caller(n)
        for n in ARITIES[:2]:
            self.caller(n, checked=True)
        for char, real in (("f", ir.FloatType()), ("d", ir.DoubleType())):
            self.product(f"{char}gemm", real, "eeeiiiraiairai")
            self.product(f"{char}gemv", real, "eeiiraiairai")
            for name, instruction in NUMBERS.items():
                self.number(char, real, name, instruction)
        self.copy()
        self.clear_bytes()
        self.loop()
        self.once()
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
        record, kept = function.args[0], self.begin_errors(b)
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
        """Copies rows. Arguments: address of the first, and of the first to be copied; how many; bytes of each; bytes from one
        to the next, of both."""
        function, b = self.function("copy", 1)
        to, of, rows, size, step_to, step_of = (self.load(b, function.args[0], 24 + 8 * i) for i in range(6))
        entry = b.block
        look, put, done = (function.append_basic_block(x) for x in ("look", "put", "done"))
        b.branch(look)
        b.position_at_end(look)
        i = b.phi(self.word)
        i.add_incoming(self.constant(0), entry)
        b.cbranch(b.icmp_signed("==", i, rows), done, put)
        b.position_at_end(put)
        b.call(self.move, [b.add(to, b.mul(i, step_to)), b.add(of, b.mul(i, step_of)), size])
        i.add_incoming(b.add(i, self.constant(1)), put)
        b.branch(look)
        b.position_at_end(done)
        b.ret(self.constant(0))

    def clear_bytes(self) -> None:
        """Makes bytes 0. Arguments: address, how many."""
        function, b = self.function("clear", 1)
        fill = self.ir.Function(self.module, self.ir.FunctionType(self.word, [self.word, self.int32, self.word]), "memset")
        at, size = (self.load(b, function.args[0], 24 + 8 * i) for i in range(2))
        b.call(fill, [at, self.ir.Constant(self.int32, 0), size])
        b.ret(self.constant(0))

    def number(self, char: str, real: Any, name: str, instruction: str) -> None:
        """A function of one or two numbers. Arguments: their addresses, then that of the result."""
        function, b = self.function(char + name, 1)
        kept = self.begin_errors(b)
        count = 1 if name == "negative" else 2
        *given, to = (self.load(b, function.args[0], 24 + 8 * i) for i in range(count + 1))
        result = getattr(b, instruction)(*[self.load(b, at, kind=real) for at in given])
        b.store(result, b.inttoptr(to, real.as_pointer()))
        b.ret(b.zext(b.call(self.test, [kept]), self.word))

    def begin_errors(self, b: Any) -> Any:
        """Forget the floating-point errors from before; returns which are looked at."""
        kept = self.ir.Constant(self.int32, ERRORS)
        before = b.call(self.test, [kept])
        with b.if_then(b.icmp_signed("!=", before, self.ir.Constant(self.int32, 0))):
            b.call(self.clear, [kept])
        return kept

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

    def once(self) -> None:
        """once(table, arguments): a call of a kernel with these arguments, in memory of its own, so that several threads can
        make it at once. Returns its result, RAISED if it has raised."""
        function, b = self.function("once", 2)
        table, given = function.args
        room = b.ptrtoint(b.alloca(self.ir.ArrayType(self.word, ARITIES[-1] + 5)), self.word)
        record, zero = b.add(room, self.constant(16)), self.constant(0)
        size, count = self.load(b, table), self.load(b, table, 8)
        places, end = b.add(table, self.constant(16)), b.mul(count, self.constant(16))
        b.call(self.move, [record, b.add(places, end), b.mul(size, self.constant(8))])
        entry = b.block
        look, put, done = (function.append_basic_block(x) for x in ("look", "put", "done"))
        b.branch(look)
        b.position_at_end(look)
        i = b.phi(self.word)
        i.add_incoming(zero, entry)
        b.cbranch(b.icmp_signed("==", i, count), done, put)
        b.position_at_end(put)
        place = b.add(places, b.mul(i, self.constant(16)))
        one = self.load(b, b.add(given, b.mul(i, self.constant(8))))
        is_array = b.icmp_signed("!=", self.load(b, place, 8), zero)
        at = b.select(is_array, b.add(one, self.constant(DATA)), b.add(given, b.mul(i, self.constant(8))))
        self.store(b, self.load(b, at), b.add(record, b.mul(self.load(b, place), self.constant(8))))
        i.add_incoming(b.add(i, self.constant(1)), put)
        b.branch(look)
        b.position_at_end(done)
        self.store(b, zero, room)
        self.store(b, room, record, 24)
        self.store(b, b.add(room, self.constant(8)), record, 32)
        kind = self.ir.FunctionType(self.word, [self.word])
        status = b.call(b.inttoptr(self.load(b, record), kind.as_pointer()), [record])
        is_well = b.icmp_signed("==", status, zero)
        b.ret(b.select(is_well, self.load(b, room), self.constant(RAISED)))

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


def kernel_words(machine: Machine, code: int, arguments: Sequence[Argument], checked: bool = False) -> Words | None:
    """A call of a loop of Numba's, whose code is at this address; None if it takes more than there is room for.

    checked   it returns a whole number, and stops the program if that is 0 or more

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


def once(machine: Machine, code: int, arguments: Sequence[Any]) -> Array | None:
    """The table for `Machine.once`: how many words the call has, how many of them are the arguments', for each of those its
    place and whether it is an array's; then the words."""
    operands = [a if isinstance(a, int) else Operand(Form.of(a)) for a in arguments]
    call = kernel_words(machine, code, operands)
    if call is None:
        return None
    places, at = [], 5
    for a in operands:
        places.append((at, 0) if isinstance(a, int) else (at + 4, 1))
        at += 1 if isinstance(a, int) else 5 + 2 * len(a.form.shape)
    words = [call.caller, 0, call.code, *call.arguments]
    words += [0] * (3 + call.reads - len(words))
    return np.array([len(words), len(places), *[n for place in places for n in place], *words], np.int64)


def object_code(result: Any, symbol: str) -> bytes:
    """What Numba has compiled, under this name, as a compiler of C would leave it: the loop and what it calls.

    Nothing at all if it takes more than addresses and 64-bit integers, or needs Numba or Python to run.
    """
    from llvmlite import binding

    kind = result.target_context.call_conv.get_function_type(result.fndesc.restype, result.fndesc.argtypes)
    if str(kind.return_type) != "i32" or not all(str(a).endswith("*") or str(a) in ("i64", "ptr") for a in kind.args):
        return b""
    module = binding.parse_assembly(result.library.get_llvm_str())
    function = module.get_function(result.fndesc.llvm_func_name)
    needed = needed_by(module, function)
    if needed is None:
        return b""
    for other in module.functions:
        if not other.is_declaration and other.name != function.name:
            other.linkage = "internal" if other.name in needed else "available_externally"  # the latter is not written
    function.name = symbol
    processor = {"cpu": binding.get_host_cpu_name(), "features": binding.get_host_cpu_features().flatten()}
    target = binding.Target.from_default_triple().create_target_machine(opt=3, **processor, **FOR_ANYWHERE)
    return bytes(target.emit_object(module))


def needed_by(module: Any, function: Any) -> set[str] | None:
    """The names of all that a function of a module calls and reads, and what that does; None if some of it is elsewhere."""
    known = {one.name: one for one in (*module.functions, *module.global_variables)}
    needed, new = set[str](), [function]
    while new:
        for quoted, plain in re.findall(r'@(?:"([^"]+)"|([-\w.$]+))', str(new.pop())):
            name = quoted or plain
            if name in needed or name.startswith("llvm.") or name == DESTRUCTOR:
                continue
            found = known.get(name)
            if found is None or found.is_declaration:
                return None
            needed.add(name)
            new.append(found)
    return needed


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
    """out = x, of one shape and dtype, whose rows lie one after the other, with gaps in between or without; None for others."""
    if out.form.dtype != x.form.dtype or out.form.shape != x.form.shape:
        return None
    to, of = rows_of(out.form), rows_of(x.form)
    if to is None or of is None:
        return None
    (rows, width, step_to), (_, _, step_of) = to, of
    if step_to == step_of == width:
        rows, width = 1, rows * width
    if rows > 1 and out.array is not None and x.array is not None and np.may_share_memory(out.array, x.array):
        return None  # a row could be written over before it is read
    return Words(machine.copy, 0, [0, 0, rows, width, step_to, step_of], [(0, out), (1, x)], 6)


def clear_words(machine: Machine, out: Operand) -> Words | None:
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


def number_words(machine: Machine, name: str, operands: Sequence[Operand]) -> Words | None:
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
        return a.array is b.array and a.given == b.given
    return address(a.array) == address(b.array)
