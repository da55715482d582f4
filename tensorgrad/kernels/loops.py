"""Loops that Numba compiles, called by the address of their machine code.

The code is cached on disk. So Numba, whose import takes a third of a second, is only imported to compile new loops, or for
loops that take other arguments than arrays and integers.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import address
from tensorgrad.core.forks import await_at_fork, loading
from tensorgrad.core.lazy import cached_property
from tensorgrad.kernels import cache, instructions, llvm, native
from tensorgrad.kernels.instructions import Form, Operand

Kinds = tuple[str, ...]


class PreparedCall(NamedTuple):
    """A call for arrays of fixed shapes. call: the machine code that makes it;  start: address of its table;  pack: converts
    arguments to 64-bit words, in a third of the time that an array of ctypes takes;  table: kept alive."""

    call: Any
    start: int
    pack: Any
    table: Any


class Loop:
    """A function of arrays and integers that Numba compiles to a loop.

    name    of the function
    source  returns the text that its code depends on, besides the machine and the versions
    python  returns the Python function for Numba
    """

    def __init__(self, name: str, source: Callable[[], str], python: Callable[[], Any]) -> None:
        self.name, self.source, self.python = name, source, python
        self.codes: dict[Kinds, int] = {}
        self.calls: dict[Any, PreparedCall | None] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run the loop; returns its result if that is an integer."""
        key = tuple([(a.shape, a.strides, a.dtype) if isinstance(a, np.ndarray) else type(a) for a in arguments])
        try:
            call = self.calls[key]
        except KeyError:
            call = self.prepare(key, arguments)
        if call is None:
            return self.dispatcher(*arguments)
        result = call.call(call.start, call.pack(*[a if type(a) is int else id(a) for a in arguments]))
        return self.dispatcher(*arguments) if result == llvm.RAISED else result

    def prepare(self, key: Any, arguments: tuple[Any, ...]) -> PreparedCall | None:
        """A call for arguments like these, which is cached; None if it needs Numba."""
        machine = native.machine()
        code = self.code(tuple([kind_of(a) for a in arguments])) if machine else 0
        call = None
        if machine is not None and code:
            table = native.once_table(machine, code, arguments)
            if table is not None:
                call = PreparedCall(machine.once, address(table), struct.Struct(f"{len(arguments)}q").pack, table)
        if len(self.calls) >= native.MAX_CALLS:
            self.calls.clear()
        self.calls[key] = call
        return call

    def code(self, kinds: Kinds) -> int:
        """The address of the machine code for arguments of these kinds; 0 if Numba has to call it."""
        if kinds not in self.codes:
            with loading:
                self.codes[kinds] = self.load(kinds)
        return self.codes[kinds]

    def load(self, kinds: Kinds) -> int:
        machine = native.machine()
        if machine is None or "" in kinds:
            return 0
        versions = (numba_version(), np.__version__)  # the import of Numba fails if NumPy is too new for it
        depends_on = repr((self.source(), kinds, machine.description, versions, numba_settings()))
        symbol = f"{self.name}_{hashlib.sha256(depends_on.encode()).hexdigest()[:24]}"
        code = cache.cached(self.name, depends_on, lambda: self.compile(kinds, symbol))
        return machine.load(symbol, code) if code else 0

    def compile(self, kinds: Kinds, symbol: str) -> bytes:
        """The object code for arguments of these kinds; empty if it needs Numba to run."""
        import_numba()
        from numba import njit, types

        dispatcher: Any = njit(nogil=True, error_model="numpy")(self.python())
        dispatcher.compile(tuple([numba_type(kind) if kind != "word" else types.int64 for kind in kinds]))
        (result,) = dispatcher.overloads.values()
        return native.object_code(result, symbol)

    @cached_property
    def dispatcher(self) -> Any:
        """The function as Numba compiles and calls it."""
        import_numba()
        return cache.jit(self.source)(self.python())


def kind_of(argument: Any) -> str:
    """The properties of an argument that the code depends on; "" if it is neither an array nor an integer."""
    if isinstance(argument, np.ndarray):
        return instructions.kind_of(Operand(Form.of(argument), array=argument))
    return "word" if type(argument) is int else ""


def numba_type(kind: str) -> Any:
    from numba import from_dtype, types

    layout: Any = kind[-1]
    return types.Array(from_dtype(np.dtype(kind[0])), int(kind[1:-1]), layout)


def import_numba() -> None:
    """Import Numba, and make forks wait while another thread compiles with it."""
    with loading:
        from numba.core.compiler_lock import global_compiler_lock

    await_at_fork(global_compiler_lock)  # the user's functions take it, too


def numba_settings() -> list[tuple[str, str]]:
    """The user's settings of Numba, such as bounds checks and the optimisation level."""
    return sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))


@functools.cache
def numba_version() -> str:
    """The text of Numba's version files, and Python's version, without importing Numba."""
    spec = importlib.util.find_spec("numba")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    files = [folder / "_version.py", folder / "__init__.py"]
    return f"{[file.read_text() for file in files if file.is_file()]} {sys.version}"
