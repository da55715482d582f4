"""Kernels and matrix products one after the other, without Python in between.

Between two kernels of a small step Python takes as long as the kernels. So consecutive ones become a program: a table of
64-bit words that holds, for each call, the address of the machine code and its arguments. A loop in machine code (made with
llvmlite, which Numba brings along) goes through the table: Numba's kernels are called by the addresses of their own code,
products go to the BLAS that NumPy itself has loaded, with the arguments that NumPy would pass.

    header   how many patches there are, and their address; the address of the first call; how often all calls are done
    patch    address of an array object (or -1 - i: the i-th of those given), address of the word for its data, how many bytes
             after them the operand begins
    shift    address of a word, and what is added to it after each time that all calls are done
    call     what calls it (0: the end), address of the next call, address of its code, its arguments ...

The data of an array are looked up in the array object at each run: they may have moved, and arguments are others each time.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, address
from tensorgrad.core.forks import loading
from tensorgrad.kernels import cache, threads
from tensorgrad.kernels.llvm import (
    ARITIES,
    COUNT,
    DATA,
    FIRST,
    HEADER,
    LEFT,
    MOST_GIVEN,
    NUMBERS,
    PATCH,
    PATCHES,
    SHIFT,
    SHIFTS,
    Writer,
)
from tensorgrad.kernels.words import Addresses, Form, Operand, Words, kernel_words, product_words

# Code and its constants may come to lie anywhere in memory, further from each other than 32 bits can say
FOR_ANYWHERE = {"codemodel": "large", "reloc": "static"}
DESTRUCTOR = "NRT_MemInfo_call_dtor"  # Numba's, of the memory of arrays that own theirs, as none does here
SHAPES = 256  # so many calls of a loop at most are kept, each for arrays of its shapes

_engines: list[Any] = []  # never let go: nobody knows who has addresses of what is in them


class Machine(Addresses):
    """The machine code that goes through programs, and the addresses that it calls."""

    def __init__(self, library: Any, suffix: str) -> None:
        self.wide = suffix.endswith("64_")  # whether BLAS's integers have 64 bits
        names = ["gemm", "gemv", "dot"]
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
        self.copy, self.take, self.clear, self.fork = at("copy"), at("take"), at("clear"), at("fork")
        self.totals = {char: at(f"{char}total") for char in "fd"}
        self.numbers = {char + name: at(char + name) for char in "fd" for name in NUMBERS}
        self.products = {name: at(name) for name in self.blas}
        word = ctypes.c_int64
        self.enter = [ctypes.CFUNCTYPE(*[word] * (k + 2))(at(f"enter{k}")) for k in range(MOST_GIVEN + 1)]
        self.go_on = ctypes.CFUNCTYPE(word, word)(at("run"))
        self.repeat = ctypes.CFUNCTYPE(word, word)(at("repeat"))
        self.once = ctypes.CFUNCTYPE(word, word, ctypes.c_void_p)(at("once"))
        self.serve = ctypes.CFUNCTYPE(None, word)(at("serve"))

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
    code = cache.cached("native", repr(depends_on), lambda: own_code(target, wide))
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    for name in ("fetestexcept", "feclearexcept", "memmove", "memset", "syscall", "sched_getcpu"):
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
    sources = [Path(__file__).with_name(name).read_text() for name in ("native.py", "llvm.py", "words.py")]
    return repr((binding.get_default_triple(), processor, __version__, *sources))


def own_code(target: Any, wide: bool) -> bytes:
    """The code, as a compiler of C would leave it."""
    from llvmlite import binding, ir

    return bytes(target.emit_object(binding.parse_assembly(str(Writer(ir, wide).module))))


class Program:
    """Calls to be run one after the other.

    given   names of the arrays that a run is given, in order
    start   its address, which a run is given first
    """

    def __init__(self, machine: Machine, calls: Sequence[Words], given: Sequence[str]) -> None:
        self.machine, self.calls = machine, calls
        chains: list[Sequence[Words]] = [calls]
        for call in calls:
            chains += call.parts
        operands = [operand for chain in chains for call in chain for _, operand in call.data]
        shifts = sum(operand.step != 0 for operand in operands)
        self.patched, self.shifted = HEADER, HEADER + PATCH * len(operands)
        place, starts = self.shifted + SHIFT * shifts, []
        for chain in chains:
            starts.append(place)
            place += 2 + sum(3 + max(call.reads, len(call.arguments)) for call in chain) + 1
        self.table = np.zeros(place, np.int64)
        self.start, self.given = address(self.table), given
        self.table[SHIFTS : SHIFTS + 2] = shifts, self.start + 8 * self.shifted
        parts = iter(starts[1:])
        self.at = self.write(calls, starts[0], parts)
        for chain, at in zip(chains[1:], starts[1:], strict=True):
            self.write(chain, at, iter(()))
        self.table[PATCHES : PATCHES + 2] = len(operands), self.start + 8 * HEADER
        self.table[FIRST], self.table[COUNT] = self.at[0], 1
        self.enter = machine.enter[len(given)]

    def write(self, calls: Sequence[Words], place: int, parts: Iterator[int]) -> list[int]:
        """Write calls, one after the other, from a place on: first two words for what kernels return and raise. Returns the
        addresses of the calls, and of the end. parts: the places of those of forks."""
        table, results = self.table, place
        place, at = place + 2, []
        for call in calls:
            at.append(self.start + 8 * place)
            arguments = list(call.arguments)
            if call.is_kernel:
                arguments[:2] = self.start + 8 * results, self.start + 8 * results + 8
            arguments += [self.start + 8 * (next(parts) + 2) for _ in call.parts]
            after = place + 3 + max(call.reads, len(arguments))
            table[place : place + 3 + len(arguments)] = call.caller, self.start + 8 * after, call.code, *arguments
            for argument, operand in call.data:
                array = id(operand.array) if operand.array is not None else -1 - self.given.index(operand.given)
                table[self.patched : self.patched + PATCH] = array, at[-1] + 8 * (3 + argument), operand.offset
                self.patched += PATCH
                if operand.step:
                    table[self.shifted : self.shifted + SHIFT] = at[-1] + 8 * (3 + argument), operand.step
                    self.shifted += SHIFT
            place = after
        return [*at, self.start + 8 * place]

    @property
    def left(self) -> int:
        """How often all calls still have to be done, the time in which it has stopped included."""
        return int(self.table[LEFT])

    def repeat(self, left: int) -> int:
        """Do all calls so often; as `enter`, but for arrays that are where they were."""
        self.table[LEFT] = left
        return int(self.machine.repeat(self.start))

    def shift(self) -> None:
        """Make the shifts that come after all calls."""
        words = self.table[self.shifted - SHIFT * int(self.table[SHIFTS]) : self.shifted].reshape(-1, SHIFT)
        for word, step in words:
            self.table[(word - self.start) // 8] += step

    def go_on(self, call: int) -> int:
        """Run from the call at this address on; returns 0, or the address of one at which it stops."""
        return int(self.machine.go_on(call))


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
