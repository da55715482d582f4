"""Gradients of any function of Tensors against numerical ones, to second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.testing import numerical_gradient


def check_gradients(fn: Callable[..., Any], *arrays: np.ndarray) -> None:
    """<v, gradient> = d/de <g, fn(x + e v)> for random g and v; then the same for the gradient as a function itself.

    fn takes Tensors, or arrays, from whose values the differences for the first order are taken.
    """
    rng = np.random.default_rng(0)
    g = rng.uniform(-1, 1, np.shape(fn(*arrays)))
    v, w = ([rng.uniform(-1, 1, np.shape(a)) for a in arrays] for _ in range(2))
    eps = np.zeros(())

    def moved() -> list[np.ndarray]:
        return [a + float(eps) * vi for a, vi in zip(arrays, v, strict=True)]

    def along(grads: tuple[Any, ...], directions: list[np.ndarray]) -> Any:
        return sum((gx * d).sum() for gx, d in zip(grads, directions, strict=True) if gx is not None)

    def gradients(values: Any, record: bool) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        xs = [Tensor(a, True) for a in values]
        return xs, tensorgrad.grad(fn(*xs), xs, g, create_graph=record)

    found = gradients(arrays, False)[1]
    assert [gx.shape for gx in found] == [np.shape(a) for a in arrays]
    slope = numerical_gradient(lambda: float((g * fn(*moved())).sum()), eps)
    scale = sum(float(np.abs(gx.data * vi).sum()) for gx, vi in zip(found, v, strict=True))
    assert float(along(found, v)) == pytest.approx(float(slope), rel=1e-8, abs=1e-9 + 1e-8 * scale)

    xs, recorded = gradients(arrays, True)
    s = along(recorded, w)
    second = along(tensorgrad.grad(s, xs, allow_unused=True), v) if s.requires_grad else 0.0
    numerical = numerical_gradient(lambda: float(along(gradients(moved(), False)[1], w)), eps)
    assert float(second) == pytest.approx(float(numerical), rel=1e-7, abs=1e-7 * (1 + scale))
