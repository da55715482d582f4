"""Loops that Numba compiles, called by the address of their machine code.

The code is kept on disk from one process to the next. So Numba, whose import takes a third of a second, is needed only where
there is something new to compile, or where a loop takes more than arrays and integers.
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
from tensorgrad.kernels import cache, llvm, native, words
from tensorgrad.kernels.words import Form, Operand

Kinds = tuple[str, ...]


class Once(NamedTuple):
    """A call with arrays of given shapes. call: what makes it;  start: where its words are;  packed: makes 64-bit words of
    what is given, in a third of the time that an array of ctypes takes."""

    call: Any
    start: int
    packed: Any
    table: Any


class Loop:
    """A function of arrays and integers that Numba makes a loop of.

    name    of the function
    source  all that its code depends on, besides the machine and the versions
    python  makes the function that Numba compiles
    """

    def __init__(self, name: str, source: Callable[[], str], python: Callable[[], Any]) -> None:
        self.name, self.source, self.python = name, source, python
        self.codes: dict[Kinds, int] = {}
        self.calls: dict[Any, Once | None] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What it returns, if that is an integer."""
        key = tuple([(a.shape, a.strides, a.dtype) if isinstance(a, np.ndarray) else type(a) for a in arguments])
        try:
            once = self.calls[key]
        except KeyError:
            once = self.prepared(key, arguments)
        if once is None:
            return self.dispatcher(*arguments)
        found = once.call(once.start, once.packed(*[a if type(a) is int else id(a) for a in arguments]))
        return self.dispatcher(*arguments) if found == llvm.RAISED else found

    def prepared(self, key: Any, arguments: tuple[Any, ...]) -> Once | None:
        """A call with such arguments; None if it needs Numba."""
        machine = native.machine()
        code = self.code(tuple([kind_of(a) for a in arguments])) if machine else 0
        once = None
        if machine is not None and code:
            table = native.once(machine, code, arguments)
            if table is not None:
                once = Once(machine.once, address(table), struct.Struct(f"{len(arguments)}q").pack, table)
        if len(self.calls) >= native.SHAPES:
            self.calls.clear()
        self.calls[key] = once
        return once

    def code(self, kinds: Kinds) -> int:
        """The address of the machine code for such arguments; 0 if Numba has to call it."""
        if kinds not in self.codes:
            with loading:
                self.codes[kinds] = self.loaded(kinds)
        return self.codes[kinds]

    def loaded(self, kinds: Kinds) -> int:
        machine = native.machine()
        if machine is None or "" in kinds:
            return 0
        versions = (numba_version(), np.__version__)  # Numba refuses a NumPy that is too new, when it is imported
        depends_on = repr((self.source(), kinds, machine.description, versions, numba_settings()))
        symbol = f"{self.name}_{hashlib.sha256(depends_on.encode()).hexdigest()[:24]}"
        code = cache.cached(self.name, depends_on, lambda: self.compiled(kinds, symbol))
        return machine.load(symbol, code) if code else 0

    def compiled(self, kinds: Kinds, symbol: str) -> bytes:
        """The code for such arguments, as a compiler of C would leave it; nothing if it is not complete without Numba."""
        import_numba()
        from numba import njit, types

        dispatcher: Any = njit(nogil=True, error_model="numpy")(self.python())
        dispatcher.compile(tuple([numba_type(kind) if kind != "word" else types.int64 for kind in kinds]))
        (result,) = dispatcher.overloads.values()
        return native.object_code(result, symbol)

    @cached_property
    def dispatcher(self) -> Any:
        """What Numba itself calls."""
        import_numba()
        return cache.jit(self.source)(self.python())


def kind_of(argument: Any) -> str:
    """What the code for an argument depends on; "" of what is neither an array nor an integer."""
    if isinstance(argument, np.ndarray):
        return words.kind_of(Operand(Form.of(argument), array=argument))
    return "word" if type(argument) is int else ""


def numba_type(kind: str) -> Any:
    from numba import from_dtype, types

    layout: Any = kind[-1]
    return types.Array(from_dtype(np.dtype(kind[0])), int(kind[1:-1]), layout)


def import_numba() -> None:
    """Import it, and never fork while another thread compiles with it."""
    with loading:
        from numba.core.compiler_lock import global_compiler_lock

    await_at_fork(global_compiler_lock)  # which the user's own functions take, too


def numba_settings() -> list[tuple[str, str]]:
    """What the user has told Numba: to look for indices out of bounds, to optimise less."""
    return sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))


@functools.cache
def numba_version() -> str:
    """As the package says, without importing it."""
    spec = importlib.util.find_spec("numba")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    files = [folder / "_version.py", folder / "__init__.py"]
    return f"{[file.read_text() for file in files if file.is_file()]} {sys.version}"
