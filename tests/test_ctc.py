"""CTC: PyTorch's values, samples without a path, probabilities of 0, compiled steps, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, nn
from tensorgrad.errors import ArgumentError, CompileError, DTypeError, LabelError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.testing import gradcheck

GOLDEN = Path(__file__).parent / "golden" / "torch_ctc.npz"  # golden/torch_ctc.py has written it
BLANKS = {"equal": 0, "lengths": 2, "row": 5, "short": 0, "no_labels": 1}


def recorded(name: str) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    with np.load(GOLDEN) as file:
        found = {key.split("/")[1]: file[key] for key in file if key.startswith(f"{name}/")}
    return found, [found[key] for key in ("targets", "input_lengths", "target_lengths")]


def test_values_and_gradients_are_those_of_torch() -> None:
    for name, blank in BLANKS.items():
        found, given = recorded(name)
        for reduction in ("none", "sum", "mean"):
            z = Tensor(found["logits"], True)
            loss = nn.CTCLoss(blank, reduction=reduction, zero_infinity=True)(z.log_softmax(), *given)
            np.testing.assert_allclose(loss.data, found[reduction], rtol=1e-11, atol=1e-13)
        loss.backward()
        np.testing.assert_allclose(z.grad.data, found["grad"], rtol=1e-9, atol=1e-13)
        has_none = np.isinf(F.ctc_loss(z.log_softmax(), *given, blank, reduction="none").data).any()
        assert has_none == (name == "short")


def test_without_a_path_the_loss_is_infinite_and_nothing_has_a_gradient() -> None:
    """[1, 1] takes three steps; with the sample that has them it changes nothing."""
    x = np.log(np.full((3, 2, 3), 1 / 3))
    leaf = Tensor(x, True)
    losses = F.ctc_loss(leaf, [[1, 1], [1, 1]], [2, 3], [2, 2], reduction="none")
    np.testing.assert_allclose(losses.data, [np.inf, 3 * np.log(3)])
    losses.backward(np.ones(2))
    np.testing.assert_array_equal(leaf.grad.data[:, 0], 0)
    np.testing.assert_allclose(leaf.grad.data[:, 1], [[0, -1, 0], [-1, 0, 0], [0, -1, 0]])
    assert F.ctc_loss(x, [[1, 1], [1, 1]], [2, 3], [2, 2], reduction="sum", zero_infinity=True) == pytest.approx(3 * np.log(3))


def test_probabilities_of_0() -> None:
    """A class that cannot be leaves the paths without it; where all need it there is none."""
    with np.errstate(divide="ignore"):
        x = np.log(np.array([[[0.5, 0.5, 0.0]], [[0.5, 0.5, 0.0]]]))
    leaf = Tensor(x, True)
    loss = F.ctc_loss(leaf, [[1]], [2], [1], reduction="sum")
    np.testing.assert_allclose(loss.data, -np.log(3 / 4))
    loss.backward()
    np.testing.assert_allclose(leaf.grad.data[:, 0], [[-1 / 3, -2 / 3, 0]] * 2)
    assert F.ctc_loss(x, [[2]], [2], [1], reduction="sum") == np.inf


def test_second_derivatives() -> None:
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    gradcheck(lambda x: F.ctc_loss(x.log_softmax(), [[1, 1], [2, 0]], [5, 3], [2, 1]), x, order=2)


def test_one_sample_and_half_precision() -> None:
    x = np.random.default_rng(0).normal(size=(6, 1, 4))
    whole = F.ctc_loss(x, [[1, 2]], [6], [2], reduction="none")
    for targets, reduction in (([1, 2], "sum"), ([1, 2], "none"), ([[1, 2]], "none")):
        single = F.ctc_loss(x[:, 0], targets, 6, 2, reduction=reduction)
        assert np.shape(single) == ()
        np.testing.assert_allclose(single, whole[0])
    half = F.ctc_loss(Tensor(x.astype("f2"), True), [[1, 2]], [6], [2])
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.data, whole[0] / 2, rtol=2e-3)
    half.backward()


def test_compiled_steps_read_targets_and_lengths_anew() -> None:
    rng = np.random.default_rng(0)
    w = Tensor(rng.normal(size=(7, 3, 4)), True)

    def step(targets: Any, steps: Any, sizes: Any) -> Any:
        return tensorgrad.grad(F.ctc_loss(w.log_softmax(), targets, steps, sizes), w)[0]

    compiled = tensorgrad.compile(step)
    for _ in range(3):
        given = rng.integers(1, 4, (3, 2)), rng.integers(5, 8, 3), rng.integers(0, 3, 3)
        np.testing.assert_allclose(compiled(*given).data, step(*map(Tensor, given)).data, rtol=1e-12, atol=1e-14)
    assert not compiled.why_not
    with pytest.raises(
        CompileError, match="ctc_loss with flat targets, which are split by the values of target_lengths, needs"
    ):
        tensorgrad.compile(step)(np.array([1, 2, 3]), np.array([5, 5, 5]), np.array([1, 1, 1]))


X = np.zeros((4, 2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.ctc_loss(X[0, 0], [[1]], [4], [1]), ShapeError, "ctc_loss: log_probs has shape (3,), expected (t,n,"),
        (lambda: F.ctc_loss(X, [[1], [1]], [4, 4], [1, 1], 3), ArgumentError, "ctc_loss: blank is out of range for 3 classes"),
        (lambda: F.ctc_loss(X, [[1], [1]], [4], [1, 1]), ShapeError, "ctc_loss: input_lengths has shape (1,), expected (2,)"),
        (lambda: F.ctc_loss(X, [[1]], [4, 4], [1, 1]), ShapeError, "ctc_loss: targets has shape (1, 1), expected (2,m)"),
        (lambda: F.ctc_loss(X, [1, 2, 1], [4, 4], [1, 1]), ShapeError, "3 targets in a flat array, but target_lengths"),
        (lambda: F.ctc_loss(X, [[1.5], [1]], [4, 4], [1, 1]), DTypeError, "ctc_loss: targets must be integers, got float32"),
        (lambda: F.ctc_loss(X, [[1], [1]], [4, 5], [1, 1]), LabelError, "ctc_loss: an input length is out of range"),
        (lambda: F.ctc_loss(X, [[1], [1]], [4, 4], [1, 2]), LabelError, "ctc_loss: a target length is out of range"),
        (lambda: F.ctc_loss(X, [[1], [0]], [4, 4], [1, 1]), LabelError, "expected 0 to 2 without the blank, 0"),
        (lambda: F.ctc_loss(X, [[1], [3]], [4, 4], [1, 1]), LabelError, "ctc_loss: a target is out of range"),
        (lambda: F.ctc_loss(X, [[1], [1]], [4, 4], [1, 1], reduction="all"), ArgumentError, "ctc_loss: reduction"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_labels_that_are_no_samples_own_may_be_anything() -> None:
    given = F.ctc_loss(X, [[1, -1], [2, 99]], [4, 4], [1, 1])
    np.testing.assert_allclose(given, F.ctc_loss(X, [[1], [2]], [4, 4], [1, 1]))
