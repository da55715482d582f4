"""Compiled steps of arrays that do not lie row after row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.nn import functional as F
from tests.compiled import KERNELS, kernels
from tests.compiled.programs import PROGRAMS


def transposed_logits(rng: np.random.Generator) -> Any:
    w = Tensor(rng.normal(size=(5, 4)), True)

    def step(x: Tensor, t: Tensor) -> Any:
        loss = F.cross_entropy(ops.transpose(x @ w, (1, 0, 2)), t)
        return loss, tensorgrad.grad(loss, [w])

    return step, lambda: [rng.normal(size=(3, 2, 5)), rng.integers(0, 4, (2, 3))], w


def logits_from_outside(rng: np.random.Generator) -> Any:
    z = Tensor(rng.normal(size=(2, 3, 4)), True)

    def step(t: Tensor) -> Any:
        loss = F.cross_entropy(ops.transpose(z, (1, 0, 2)), t)
        return loss, tensorgrad.grad(loss, [z])

    return step, lambda: [rng.integers(0, 4, (3, 2))], z


def labels_from_outside(rng: np.random.Generator) -> Any:
    w, labels = Tensor(rng.normal(size=(5, 4)), True), Tensor(rng.integers(0, 4, (3, 2)))

    def step(x: Tensor) -> Any:
        loss = F.cross_entropy(x @ w, labels.T)
        return loss, tensorgrad.grad(loss, [w])

    return step, lambda: [rng.normal(size=(2, 3, 5))], labels


@pytest.mark.parametrize("make", [transposed_logits, logits_from_outside, labels_from_outside])
def test_cross_entropy_reads_what_is_there_now(make: Any) -> None:
    """Of logits and labels with more than one axis of samples, looked at otherwise than they lie."""
    rng = np.random.default_rng(0)
    step, arguments, outside = make(rng)
    compiled = tensorgrad.compile(step)
    for _ in range(4):
        given = [Tensor(a) for a in arguments()]
        for found, expected in zip(compiled(*given), step(*given), strict=True):
            pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
            for a, b in pairs:
                np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-15)
        outside.data[...] = outside.data[::-1].copy()
    assert compiled.plan is not None


@pytest.mark.parametrize("name", ["strided", "in place"])
def test_arrays_that_lie_between_each_other(name: str) -> None:
    """Every second column belongs to one Tensor, those between to another: what the second call does to make a plan is undone
    for both."""
    outcomes = []
    for wrap in (lambda f: f, tensorgrad.compile):
        step, args = PROGRAMS[name].make(np.random.default_rng(0))
        f = wrap(step)
        outcomes.append([t.numpy().copy() for i in range(5) for t in f(*[Tensor(a + i) for a in args])])
    for a, b in zip(*outcomes, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)


@KERNELS
def test_gradients_to_be_added_to_that_lie_otherwise(numba: bool) -> None:
    """`.grad` may be any Tensor of the shape: one turned round, or every second column of another."""
    rng = np.random.default_rng(0)
    w = Tensor(rng.normal(size=(3, 4)), True)

    @tensorgrad.compile
    def step(x: Any) -> Any:
        loss = ops.tanh(x @ w).sum()
        loss.backward()
        return loss

    with kernels(numba):
        for make in (lambda g: g, lambda g: Tensor(g.numpy().T.copy()).T, lambda g: ops.repeat(g, 2, axis=1)[:, ::2]):
            for _ in range(3):
                before, x = rng.normal(size=(3, 4)), rng.normal(size=(5, 3))
                w.grad = make(Tensor(before)).detach()
                step(x)
                slope = x.T @ (1 - np.tanh(x @ w.numpy()) ** 2)
                np.testing.assert_allclose(w.grad.numpy(), before + slope, rtol=1e-12, atol=1e-14)
        assert not step.why_not
