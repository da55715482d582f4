"""Programs: kernels and matrix products that run in sequence, without Python in between.

In a small step, Python takes as long between two kernels as the kernels themselves. So consecutive ones become a program: a
table of 64-bit words with the instructions, each of which has the address of machine code and its arguments. An interpreter
in machine code (made with llvmlite, a dependency of Numba) executes them: it calls Numba's kernels by the addresses of their
code, and for products the BLAS that NumPy has loaded, with the arguments that NumPy would pass.

    header        number and address of the patches; address of the first instruction; number of repetitions; number of
                  repetitions that remain; number and address of the shifts
    patch         address of an array object (or -1 - i for parameter i), address of the word for the address of its data, the
                  operand's offset in bytes
    shift         address of a word, and its increment after each repetition
    instruction   address of its handler (0: the end), of the next instruction, of its code; its arguments ...

Each run reads the addresses of the data from the array objects: data may have moved, and parameters differ from run to run.
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
from tensorgrad.kernels.instructions import Addresses, Form, Instruction, Operand, kernel_instruction, product_instruction
from tensorgrad.kernels.llvm import (
    ARITIES,
    COUNT,
    DATA,
    FIRST,
    HEADER,
    MAX_PARAMETERS,
    PATCH,
    PATCH_COUNT,
    REMAINING,
    SCALAR_OPS,
    SHIFT,
    SHIFT_COUNT,
    Writer,
)

# Code and its constants may be anywhere in memory, more than 32 bits apart
CODE_MODEL = {"codemodel": "large", "reloc": "static"}
DESTRUCTOR = "NRT_MemInfo_call_dtor"  # called by Numba for arrays that own their memory, which none does here
MAX_CALLS = 256  # cached calls of a loop, one for each combination of shapes

_engines: list[Any] = []  # never freed: addresses of their code may be in use anywhere


class Machine(Addresses):
    """The machine code that runs programs, and the addresses that it calls."""

    def __init__(self, library: Any, suffix: str) -> None:
        self.is_ilp64 = suffix.endswith("64_")  # whether BLAS takes 64-bit integers
        names = ["gemm", "gemv", "dot"]
        prefix = "scipy_cblas_" if suffix.startswith("scipy_") else "cblas_"
        ending = suffix.removeprefix("scipy_")
        self.blas = {
            char + name: ctypes.cast(getattr(library, f"{prefix}{letter}{name}{ending}"), ctypes.c_void_p).value or 0
            for char, letter in (("f", "s"), ("d", "d"))
            for name in names
        }
        self.engine = load_engine(self.is_ilp64)
        _engines.append(self.engine)
        self.description = description()
        at = self.engine.get_function_address
        self.handlers = {n: at(f"call{n}") for n in ARITIES}
        self.checked_handlers = {n: at(f"checked{n}") for n in ARITIES[:2]}
        self.copy, self.take, self.clear, self.fork = at("copy"), at("take"), at("clear"), at("fork")
        self.totals = {char: at(f"{char}total") for char in "fd"}
        self.scalar_ops = {char + name: at(char + name) for char in "fd" for name in SCALAR_OPS}
        self.products = {name: at(name) for name in self.blas}
        word = ctypes.c_int64
        self.enter = [ctypes.CFUNCTYPE(*[word] * (k + 2))(at(f"enter{k}")) for k in range(MAX_PARAMETERS + 1)]
        self.run = ctypes.CFUNCTYPE(word, word)(at("run"))
        self.repeat = ctypes.CFUNCTYPE(word, word)(at("repeat"))
        self.once = ctypes.CFUNCTYPE(word, word, ctypes.c_void_p)(at("once"))
        self.serve = ctypes.CFUNCTYPE(None, word)(at("serve"))

    def load(self, symbol: str, code: bytes) -> int:
        """Load object code; returns the address of a function in it."""
        from llvmlite import binding

        self.engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
        self.engine.finalize_object()
        return int(self.engine.get_function_address(symbol))


def numpy_blas() -> Iterator[tuple[Any, str]]:
    """The BLAS library of NumPy and the suffix of its functions' names; nothing if that is uncertain."""
    libraries = [library for library in threads.blas_libraries() if library.filepath]
    folder = os.path.realpath(os.path.dirname(np.__file__))
    inside = (f"{folder}{os.sep}", f"{folder}.libs{os.sep}")  # its place in wheels
    bundled = [library for library in libraries if os.path.realpath(library.filepath).startswith(inside)]
    for library in bundled or (libraries if len(libraries) == 1 else []):
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
    """The machine code; None where it cannot be compiled, or its products differ from NumPy's."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or platform.python_implementation() != "CPython":
        return None  # not tested elsewhere
    with loading:  # imports llvmlite, which has a lock
        for library, suffix in numpy_blas():
            try:
                result = Machine(library, suffix)
            except Exception:
                return None
            return result if is_exact(result) else None
    return None


def is_exact(machine: Machine) -> bool:
    """Whether products of each kind equal NumPy's."""
    for dtype in "fd":
        a = np.arange(6, dtype=dtype).reshape(2, 3) + 0.5
        b, v = np.sqrt(a.T + 1).copy(), np.arange(3, dtype=dtype).reshape(3, 1) - 0.3
        for x in (b, v):
            out = np.zeros((2, x.shape[1]), dtype)
            words = product_instruction(machine, *(Operand(Form.of(one), array=one) for one in (a, x, out)))
            program = Program(machine, [words] if words else [], [])
            if program.enter(program.start) or not np.array_equal(out, np.matmul(a, x)):
                return False
    return True


def load_engine(is_ilp64: bool) -> Any:
    """An engine with the machine code, which is cached on disk. is_ilp64: whether BLAS takes 64-bit integers."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple().create_target_machine(opt=1, **CODE_MODEL)
    depends_on = (is_ilp64, DATA, description())
    code = cache.cached("native", repr(depends_on), lambda: native_code(target, is_ilp64))
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target)
    for name in ("fetestexcept", "feclearexcept", "memmove", "memset", "syscall", "sched_getcpu"):
        binding.add_symbol(name, ctypes.cast(getattr(runtime(), name), ctypes.c_void_p).value)
    binding.add_symbol(DESTRUCTOR, ctypes.cast(runtime().abort, ctypes.c_void_p).value)
    engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def runtime() -> Any:
    """The C library."""
    return ctypes.CDLL(None)


def description() -> str:
    """The processor that code is compiled for, the compiler's version and the sources: keys of the cache."""
    from llvmlite import __version__, binding

    cpu = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    sources = [Path(__file__).with_name(name).read_text() for name in ("native.py", "llvm.py", "instructions.py")]
    return repr((binding.get_default_triple(), cpu, __version__, *sources))


def native_code(target: Any, is_ilp64: bool) -> bytes:
    """The machine code of llvm.py, as an object file."""
    from llvmlite import binding, ir

    return bytes(target.emit_object(binding.parse_assembly(str(Writer(ir, is_ilp64).module))))


class Program:
    """A sequence of instructions.

    parameters  names of the arrays that are passed to each run, in order
    start       address of the table, the first argument of a run
    """

    def __init__(self, machine: Machine, calls: Sequence[Instruction], parameters: Sequence[str]) -> None:
        self.machine, self.calls = machine, calls
        chains: list[Sequence[Instruction]] = [calls]
        for call in calls:
            chains += call.parts
        operands = [operand for chain in chains for call in chain for _, operand in call.operands]
        shifts = sum(operand.step != 0 for operand in operands)
        self.patched, self.shifted = HEADER, HEADER + PATCH * len(operands)
        place, starts = self.shifted + SHIFT * shifts, []
        for chain in chains:
            starts.append(place)
            place += 2 + sum(3 + max(call.arity, len(call.arguments)) for call in chain) + 1
        self.table = np.zeros(place, np.int64)
        self.start, self.parameters = address(self.table), parameters
        self.table[SHIFT_COUNT : SHIFT_COUNT + 2] = shifts, self.start + 8 * self.shifted
        parts = iter(starts[1:])
        self.addresses = self.write(calls, starts[0], parts)
        for chain, addresses in zip(chains[1:], starts[1:], strict=True):
            self.write(chain, addresses, iter(()))
        self.table[PATCH_COUNT : PATCH_COUNT + 2] = len(operands), self.start + 8 * HEADER
        self.table[FIRST], self.table[COUNT] = self.addresses[0], 1
        self.enter = machine.enter[len(parameters)]

    def write(self, calls: Sequence[Instruction], place: int, parts: Iterator[int]) -> list[int]:
        """Write instructions from a place in the table on, after two words for results and exceptions of kernels. Returns the
        addresses of the instructions, and of the end. parts: the places of the parts of forks."""
        table, results = self.table, place
        place, addresses = place + 2, []
        for call in calls:
            addresses.append(self.start + 8 * place)
            arguments = list(call.arguments)
            if call.is_kernel:
                arguments[:2] = self.start + 8 * results, self.start + 8 * results + 8
            arguments += [self.start + 8 * (next(parts) + 2) for _ in call.parts]
            after = place + 3 + max(call.arity, len(arguments))
            table[place : place + 3 + len(arguments)] = call.handler, self.start + 8 * after, call.code, *arguments
            for argument, operand in call.operands:
                array = id(operand.array) if operand.array is not None else -1 - self.parameters.index(operand.parameter)
                table[self.patched : self.patched + PATCH] = array, addresses[-1] + 8 * (3 + argument), operand.offset
                self.patched += PATCH
                if operand.step:
                    table[self.shifted : self.shifted + SHIFT] = addresses[-1] + 8 * (3 + argument), operand.step
                    self.shifted += SHIFT
            place = after
        return [*addresses, self.start + 8 * place]

    @property
    def remaining(self) -> int:
        """The number of repetitions that remain, including one that has stopped."""
        return int(self.table[REMAINING])

    def repeat(self, remaining: int) -> int:
        """Run `remaining` times; like `enter`, but with unchanged addresses of data."""
        self.table[REMAINING] = remaining
        return int(self.machine.repeat(self.start))

    def shift(self) -> None:
        """Apply the shifts at the end of a repetition."""
        words = self.table[self.shifted - SHIFT * int(self.table[SHIFT_COUNT]) : self.shifted].reshape(-1, SHIFT)
        for word, step in words:
            self.table[(word - self.start) // 8] += step

    def run_from(self, call: int) -> int:
        """Run from the instruction at this address on; returns 0, or the address of the instruction that stopped."""
        return int(self.machine.run(call))


def once_table(machine: Machine, code: int, arguments: Sequence[Any]) -> Array | None:
    """The table for `Machine.once`: the number of words of the instruction; the number of arguments, for each its place among
    the words and whether it is an array; then the words. None if there are too many arguments."""
    operands = [a if isinstance(a, int) else Operand(Form.of(a)) for a in arguments]
    call = kernel_instruction(machine, code, operands)
    if call is None:
        return None
    positions, at = [], 5
    for a in operands:
        positions.append((at, 0) if isinstance(a, int) else (at + 4, 1))
        at += 1 if isinstance(a, int) else 5 + 2 * len(a.form.shape)
    words = [call.handler, 0, call.code, *call.arguments]
    words += [0] * (3 + call.arity - len(words))
    return np.array([len(words), len(positions), *[n for position in positions for n in position], *words], np.int64)


def object_code(result: Any, symbol: str) -> bytes:
    """The object code of a loop that Numba has compiled, with the functions that it calls, under this name.

    Empty if it takes other arguments than addresses and 64-bit integers, or needs Numba or Python to run.
    """
    from llvmlite import binding

    kind = result.target_context.call_conv.get_function_type(result.fndesc.restype, result.fndesc.argtypes)
    if str(kind.return_type) != "i32" or not all(str(a).endswith("*") or str(a) in ("i64", "ptr") for a in kind.args):
        return b""
    module = binding.parse_assembly(result.library.get_llvm_str())
    function = module.get_function(result.fndesc.llvm_func_name)
    needed = dependencies(module, function)
    if needed is None:
        return b""
    for other in module.functions:
        if not other.is_declaration and other.name != function.name:
            other.linkage = "internal" if other.name in needed else "available_externally"  # the latter is not emitted
    function.name = symbol
    processor = {"cpu": binding.get_host_cpu_name(), "features": binding.get_host_cpu_features().flatten()}
    target = binding.Target.from_default_triple().create_target_machine(opt=3, **processor, **CODE_MODEL)
    return bytes(target.emit_object(module))


def dependencies(module: Any, function: Any) -> set[str] | None:
    """The names of the functions and variables that a function of a module uses, directly or not; None if one is external."""
    defined = {one.name: one for one in (*module.functions, *module.global_variables)}
    needed, pending = set[str](), [function]
    while pending:
        for quoted, plain in re.findall(r'@(?:"([^"]+)"|([-\w.$]+))', str(pending.pop())):
            name = quoted or plain
            if name in needed or name.startswith("llvm.") or name == DESTRUCTOR:
                continue
            definition = defined.get(name)
            if definition is None or definition.is_declaration:
                return None
            needed.add(name)
            pending.append(definition)
    return needed
