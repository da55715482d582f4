"""CUDA sources compiled by NVRTC, which needs neither a GPU nor a driver."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
OPTIONS = (b"--std=c++17", b"-ftz=true", b"--ptxas-options=-v")  # CuPy adds the second; the third says what is used


class CompileError(Exception):
    """What NVRTC says of a source that it cannot compile."""


@functools.cache
def library() -> Any:
    """NVRTC, or the test is skipped."""
    reason = "needs NVRTC, to compile CUDA sources: pip install cuda-bindings nvidia-cuda-nvrtc"
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=reason)
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError:  # the bindings are there, but not what they are bound to
        pytest.skip(reason)
    return nvrtc


def compiled(source: str, architecture: str, options: Sequence[bytes] = OPTIONS) -> tuple[bytes, str, str]:
    """The binary of a program for an architecture (sm_90), what the compiler says of registers and memory that it uses, and
    its instructions as PTX.

    Raises CompileError with its messages if it cannot.
    """
    nvrtc = library()

    def done(result: Sequence[Any]) -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(nvrtc.nvrtcGetErrorString(result[0])[1].decode())
        return result[1] if len(result) > 1 else None

    program = done(nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, None, None))
    try:
        told = [b"--gpu-architecture=" + architecture.encode(), *options]
        failed = nvrtc.nvrtcCompileProgram(program, len(told), told)[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS
        log = b" " * done(nvrtc.nvrtcGetProgramLogSize(program))
        done(nvrtc.nvrtcGetProgramLog(program, log))
        if failed:
            raise CompileError(log.decode().rstrip("\0 \n"))
        binary = b" " * done(nvrtc.nvrtcGetCUBINSize(program))
        done(nvrtc.nvrtcGetCUBIN(program, binary))
        ptx = b" " * done(nvrtc.nvrtcGetPTXSize(program))
        done(nvrtc.nvrtcGetPTX(program, ptx))
        return binary, log.decode(), ptx.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(program)
