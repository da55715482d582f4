"""NumPy's kernels, unless a test is about Numba's: each that Numba has not met yet costs it a third of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compiled import kernels


@pytest.fixture(autouse=True, scope="module")
def without_numba() -> Iterator[None]:
    with kernels(numba=False):
        yield
