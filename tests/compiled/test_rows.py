"""What of a step is done for some of the samples at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.kernels import thresholds
from tensorgrad.nn import functional as F
from tensorgrad.ops import random
from tests.compiled import KERNELS, kernels, lowered, num_threads

rng = np.random.default_rng(0)
W = Tensor(rng.normal(size=(3, 4)))


def hidden_then_samples(x: Tensor) -> Any:
    return F.dropout(ops.tanh(x @ W), 0.5).sum(), F.dropout(x, 0.5) * 2


STEPS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "as many matrices as samples": (lambda x, b: (x.T @ b, (x * 2).sum(0)), [(3, 2), (3, 3, 2)]),
    "one sample, as long as there are rows": (lambda x: (ops.tanh(x) @ W, ops.tanh(x)), [(3,)]),
    "random numbers for the samples after those for what is made of them": (hidden_then_samples, [(5, 3)]),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_cannot_be_cut_is_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "ROWS_FLOPS", 0)
    step, shapes = STEPS[name]
    compiled = tensorgrad.compile(step)
    for i in range(4):
        given = [Tensor(rng.normal(size=shape)) for shape in shapes]
        random.seed(i)
        found = compiled(*given)
        random.seed(i)
        for a, b in zip(found, step(*given), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)
    assert "kernels on rows" in str(compiled.plan)


def test_labels_as_rows_of_zeros_and_ones_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a loss that is spelled out with them is done sample by sample, too."""
    monkeypatch.setattr(thresholds, "ROWS_FLOPS", 0)
    compiled = tensorgrad.compile(lambda z, y: ((ops.softmax(z) - ops.one_hot(y, 4, z.dtype)) ** 2).mean())
    for _ in range(3):
        compiled(rng.normal(size=(6, 4)), rng.integers(0, 4, 6))
    loop = next(call for call in compiled.plan.calls if len(call.parts) > 1)
    assert [call.name for call in loop.parts][:2] == ["softmax", "one_hot"]


@pytest.mark.parametrize(("totals", "samples"), [(0, 200), (0, 2), (1 << 20, 2)])
def test_few_samples_of_a_wide_layer_are_not_cut(totals: int, samples: int) -> None:
    """Each thread would have a gradient of its own, of which there is more than of the samples."""
    weight = Tensor(rng.normal(size=(30, 30)), requires_grad=True)

    @tensorgrad.compile
    def step(x: Tensor) -> Any:
        weight.grad = None
        loss = ops.tanh(x @ weight).sum()
        loss.backward()
        return loss, weight.grad

    with lowered(ROWS_FLOPS=0, ROWS_TOTALS=totals), num_threads(2):
        for _ in range(3):
            x = rng.normal(size=(samples, 30))
            loss, gradient = step(x)
        np.testing.assert_allclose(gradient.numpy(), x.T @ (1 - np.tanh(x @ weight.numpy()) ** 2), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(loss.numpy(), np.tanh(x @ weight.numpy()).sum(), rtol=1e-9)
        assert any(len(call.parts) > 1 for call in step.plan.calls) == (totals > 0 or samples == 200)


VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "transposed": lambda w: w.T,
    "axes": lambda w: ops.transpose(w, (1, 0)),
    "backwards": lambda w: w[::-1],
    "every second": lambda w: ops.concatenate([w, w])[::2],
    "as it is": lambda w: w,
}


@KERNELS
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", VIEWS)
def test_weights_that_an_operation_makes_before_the_loop(name: str, count: int, numba: bool) -> None:
    """Whatever way the loop looks at them: products without Python in between have to know how they lie."""
    w = Tensor(rng.normal(size=(4, 4)))

    def step(x: Any) -> Any:
        return ops.tanh(x @ VIEWS[name](ops.cumsum(w, 0)))

    with kernels(numba), lowered(ROWS_FLOPS=0, ROWS_BYTES=64), num_threads(count):
        compiled = tensorgrad.compile(step)
        for _ in range(4):
            x = rng.normal(size=(20, 4))
            np.testing.assert_allclose(compiled(x).numpy(), step(Tensor(x)).numpy(), rtol=1e-12)
        assert "loop" in compiled.plan.source
        assert "own" in compiled.plan.source
