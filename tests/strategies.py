"""What the tests draw."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def floats(low: float = -4, high: float = 4) -> st.SearchStrategy[float]:
    """Moderate numbers without subnormal ones: finite differences have nothing to say about those."""
    return st.floats(low, high, allow_subnormal=False)


def arrays(shape: tuple[int, ...], low: float = -4, high: float = 4) -> st.SearchStrategy[np.ndarray]:
    """float64 arrays, most elements different from each other."""
    return hnp.arrays(np.float64, shape, elements=floats(low, high), fill=st.nothing())


def generators() -> st.SearchStrategy[np.random.Generator]:
    """Generators for values that need not shrink."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


sizes = st.integers(1, 5)
batch_axes = st.lists(sizes, min_size=1, max_size=3).map(tuple)
