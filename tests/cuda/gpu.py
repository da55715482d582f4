"""The GPU of the tests: the stand-in, or a real one."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator

import pytest

from tensorgrad.core import backend
from tensorgrad.errors import TensorgradError
from tensorgrad.kernels import cublas
from tensorgrad.ops import random
from tests.cuda.fake_cublas import CuBLAS
from tests.cuda.fake_cupy import Counts, either, fake_cupy, fake_cupyx


class Gpu:
    """What a test may ask for. real: whether it is one;  blas: the stand-in's cuBLAS."""

    def __init__(self, real: bool, blas: CuBLAS | None = None) -> None:
        self.real, self.blas = real, blas

    def needs_two(self) -> None:
        """Skip the test where there is no second GPU."""
        if backend.cupy().cuda.runtime.getDeviceCount() < 2:
            pytest.skip("needs a second GPU: run it on a machine that has two")

    @contextlib.contextmanager
    def unattended(self) -> Iterator[None]:
        """Fail if the block waits for the GPU, or copies from or to main memory."""
        if self.real:
            import cupyx

            with contextlib.ExitStack() as stack:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # CuPy warns that it does not find every wait; that for a value it does
                    stack.enter_context(cupyx.allow_synchronize(False))
                yield
            return
        Counts.clear()
        yield
        assert (Counts.asked, Counts.to_host, Counts.to_device) == (0, 0, 0), "the block has waited for the GPU"


@contextlib.contextmanager
def using(kind: str) -> Iterator[Gpu]:
    """Make "stand-in" or "cuda" what device="cuda" means; skips the test where there is no such thing."""
    blas = None
    with pytest.MonkeyPatch.context() as patch:
        backend.use(None)
        if kind == "cuda":
            try:
                backend.cupy()
            except TensorgradError as error:
                pytest.skip(f"needs a GPU: {error}")
        else:
            blas = CuBLAS(either)
            patch.setattr(cublas, "library", lambda: blas)
            patch.setitem(sys.modules, "cupyx", fake_cupyx)
            backend.use(fake_cupy)
            Counts.clear()
        try:
            yield Gpu(kind == "cuda", blas)
        finally:
            for key in list(cublas._handles):
                cublas.release(*key)
            random._on_gpus.clear()
            backend.forget()
            backend.use(None)
