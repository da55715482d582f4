"""The numerical derivative against derivatives that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from tensorgrad.errors import DTypeError
from tensorgrad.testing import numerical_gradient
from tests.strategies import generators

pytestmark = pytest.mark.quick


@given(rng=generators())
def test_known_derivatives(rng: np.random.Generator) -> None:
    x = rng.uniform(-3, 3, (2, 3))
    before = x.copy()
    found = numerical_gradient(lambda: float((np.sin(x) * x).sum()), x)
    np.testing.assert_allclose(found, np.cos(x) * x + np.sin(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(x, before)
    entries = [(0, 1), (1, 2)]
    some = numerical_gradient(lambda: float((np.exp(x) ** 2).sum()), x, entries)
    # sums of up to 2400 are differenced here, so a small entry is known to 1e-13 / 1e-5 at best
    np.testing.assert_allclose(some, [2 * np.exp(2 * x[i]) for i in entries], rtol=1e-8, atol=1e-7)


@pytest.mark.parametrize("at", [3e-4, -3e-4, 2e-5, -2e-5])
def test_near_a_kink(at: float) -> None:
    x = np.array([at])
    assert numerical_gradient(lambda: float(np.maximum(x, 0).sum()), x)[0] == pytest.approx(float(at > 0), abs=1e-9)


def test_float32_is_refused() -> None:
    with pytest.raises(DTypeError, match="numerical_gradient: x must be float64, got float32"):
        numerical_gradient(lambda: 0.0, np.zeros(2, np.float32))
