"""CUDA sources as functions on the CPU, by g++ and on_cpu.h."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HEADER = Path(__file__).with_name("on_cpu.h")
KERNEL = re.compile(r'extern "C" __global__ (?:__launch_bounds__\([\d, ]+\) )?void (\w+)\(([^)]*)\)')
OPTIONS = ["-std=c++17", "-shared", "-fPIC", "-O1", "-fwrapv", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-w"]
SANITIZED = ["-g", "-fsanitize=address", "-fsanitize-sections=on_cpu_shared"]

Function = Callable[[Sequence[int], Sequence[int], Sequence[Any]], None]


@functools.cache
def compiler() -> str:
    """g++, or the test is skipped."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("needs g++, to run CUDA sources on the CPU: apt-get install g++")
    return found


@functools.cache
def asan_library() -> str:
    """The library of AddressSanitizer that has to be loaded before everything else (LD_PRELOAD), or the test is skipped."""
    path = subprocess.run([compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip("needs libasan, which comes with GCC: apt-get install g++")
    return path


class Module:
    """A CUDA program compiled for the CPU, once for each text: what is compiled stays in the system's temporary folder.

    sanitize   with AddressSanitizer; the process has to be started with `asan_library()` in LD_PRELOAD
    among      programs, this one too, that are compiled together, which takes less time than one by one

    Raises RuntimeError with the compiler's messages.
    """

    def __init__(self, source: str, sanitize: bool = False, among: tuple[str, ...] = ()) -> None:
        sources = among or (source,)
        self.number = sources.index(source)
        self.kernels = kernels(source)
        self.library = library(sources, sanitize)

    def function(self, name: str) -> Function:
        """The kernel of this name, to be called with grid, block (of 1 to 3 axes each) and its arguments.

        Arguments are NumPy arrays, whose memory is passed, and NumPy scalars, of exactly the types of the parameters; TypeError
        if they are others, ValueError if a GPU could not launch such a grid.
        """
        kinds = [self.kind(name, i) for i in range(len(self.kernels[name]))]
        run = getattr(self.library, f"run_{self.number}_{name}")

        def call(grid: Sequence[int], block: Sequence[int], args: Sequence[Any]) -> None:
            given = [kind_of(a) for a in args]
            if given != kinds:
                raise TypeError(f"{name}: expected arguments {' '.join(kinds)}, got {' '.join(given)}")
            shape = [*grid, 1, 1][:3] + [*block, 1, 1][:3]
            if min(shape) < 1 or np.prod(shape[3:]) > 1024 or max(shape[1:3]) > 65535:
                raise ValueError(f"{name}: no grid {tuple(grid)} of blocks {tuple(block)} can be launched")
            values = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in args]
            addresses = (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values])
            run((ctypes.c_uint * 6)(*shape), addresses)

        return call

    def kind(self, name: str, i: int) -> str:
        text = ctypes.create_string_buffer(8)
        getattr(self.library, f"describe_{self.number}_{name}")(i, text)
        return text.value.decode()

    def backwards(self, on: bool) -> None:
        """Run blocks, and threads, from the last to the first, or from the first to the last as at the beginning."""
        ctypes.c_int.in_dll(self.library, "on_cpu_backwards").value = on


def kernels(source: str) -> dict[str, list[str]]:
    """The kernels of a program, with the types of their parameters: in the text each is followed by a name."""
    return {name: [re.sub(r"\w+$", "", p.strip()).strip() for p in text.split(",")] for name, text in KERNEL.findall(source)}


def kind_of(argument: Any) -> str:
    """What on_cpu.h calls the type of an argument."""
    dtype = f"{argument.dtype.kind}{argument.dtype.itemsize}"
    return f"p{dtype}" if isinstance(argument, np.ndarray) else dtype


@functools.cache
def library(sources: tuple[str, ...], sanitize: bool) -> ctypes.CDLL:
    """The programs, each in a namespace of its own, as a shared library."""
    parts = []
    for i, source in enumerate(sources):
        hidden = source.replace('extern "C" __global__', "static __global__")
        launchers = "\n".join(launcher(f"{i}_{name}", name, types) for name, types in kernels(source).items())
        parts.append(f"namespace program_{i} {{\n{hidden}\n{launchers}\n}}\n")
    text = "\n".join([f'#include "{HEADER}"', *parts])
    options = [*OPTIONS, *(SANITIZED if sanitize else [])]
    key = hashlib.sha256("\n".join([HEADER.read_text(), text, *options]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"tensorgrad-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{key}.so"
    if not path.exists():
        part = folder / f"{key}.{os.getpid()}"
        command = [compiler(), *options, "-x", "c++", "-", "-o", str(part)]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"g++ refuses the source:\n{done.stderr}")
        part.replace(path)  # another process may be doing the same
    return ctypes.CDLL(str(path))


def launcher(label: str, name: str, types: list[str]) -> str:
    """What a library has for a kernel: a function that launches it, given its arguments by their addresses, and one that says
    of what type they are."""
    given = ", ".join(f"*({t}*)args[{i}]" for i, t in enumerate(types))
    kinds = " ".join(f"case {i}: on_cpu::Kind<{t}>::describe(text, false); break;" for i, t in enumerate(types))
    return (
        f"struct Call_{name} : on_cpu::Work {{\n    void** args;\n"
        f"    void operator()() const override {{ {name}({given}); }}\n}};\n"
        f'extern "C" void run_{label}(const unsigned int* shape, void** args)\n'
        f"{{\n    Call_{name} call;\n    call.args = args;\n    on_cpu::launch(shape, call);\n}}\n"
        f'extern "C" void describe_{label}(int i, char* text)\n{{\n    switch (i) {{ {kinds} }}\n}}\n'
    )
