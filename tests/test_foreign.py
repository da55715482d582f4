"""What other libraries hand over: their arrays count as arrays, what is none is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import tensorgrad
from tensorgrad import Tensor, nn, ops
from tensorgrad.errors import DTypeError
from tensorgrad.nn import functional as F
from tests.test_arguments import Foreign

LABELS = np.array([0, 1, 2, 0, 1])
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
GRID = np.random.default_rng(1).uniform(0.1, 0.9, (5, 3)).astype(np.float32)
SPARSE = sp.csr_matrix(np.eye(5, dtype=np.float32))


def frames(array: np.ndarray) -> list[Any]:
    """An array as other libraries have it."""
    return [Foreign(array), pd.Series(array) if array.ndim == 1 else pd.DataFrame(array), Tensor(array)]


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss, nn.CrossEntropyLoss()])
def test_labels_of_others(loss: Any) -> None:
    expected = loss(Tensor(X), LABELS).item()
    for labels in frames(LABELS):
        assert loss(Tensor(X), labels).item() == expected


@pytest.mark.parametrize(
    "name", ["mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits", "cross_entropy", "kl_div"]
)
def test_targets_of_others(name: str) -> None:
    loss = getattr(F, name)
    expected = loss(Tensor(X), GRID).item()
    for target in frames(GRID):
        assert loss(Tensor(X), target).item() == expected


@pytest.mark.parametrize(
    "name", ["exp", "sort", "median", "cumprod", "svd", "diff", "nan_to_num", "tril", "std", "prod", "zeros_like"]
)
def test_arrays_of_others(name: str) -> None:
    function = getattr(ops, name)
    for x in frames(GRID)[:2]:
        y, expected = function(x), function(GRID)
        for a, b in zip(y, expected, strict=True) if isinstance(y, tuple) else [(y, expected)]:
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    ("call", "who"),
    [
        (lambda: Tensor(SPARSE), "Tensor"),
        (lambda: ops.exp(SPARSE), "exp"),
        (lambda: ops.sort(SPARSE), "sort"),
        (lambda: Tensor(X.T) * SPARSE, "mul"),
        (lambda: SPARSE * Tensor(X), "mul"),
        (lambda: F.mse_loss(Tensor(X), SPARSE), "mse_loss"),
        (lambda: F.cross_entropy(Tensor(X), SPARSE), "cross_entropy"),
    ],
)
def test_sparse_matrices_are_refused(call: Callable[[], Any], who: str) -> None:
    with pytest.raises(
        DTypeError, match=rf"^{who}: sparse matrices are not supported here, got csr_matrix; \.toarray\(\) makes a dense one"
    ):
        call()


def test_a_sparse_matrix_on_the_left() -> None:
    """But for @, of which test_ops_sparse.py is."""
    with pytest.raises(DTypeError, match=r"^scipy\.sparse: .* only @ of a sparse matrix is recorded"):
        SPARSE.multiply(Tensor(X, requires_grad=True))
    with pytest.raises(DTypeError, match=r"^np\.asarray: this Tensor requires a gradient"):
        np.asarray(Tensor(X, requires_grad=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda t: F.nll_loss(Tensor(X), Tensor([0, 1, 2, 0, 1])),
            "lists become float32 without a dtype: Tensor([0, 2], dtype=int)",
        ),
        (
            lambda t: np.add.at(Tensor(X), [0], t),
            "write x + tensorgrad.put(values, index, x.shape), which adds, or leave the graph",
        ),
        (lambda t: np.where(t > 0), "where takes a condition and two values; for the places where it holds write np.nonzero"),
        (lambda t: np.arctanh(t), "; write tensorgrad.log((1 + x) / (1 - x)) / 2, or leave the graph with .detach().numpy()"),
        (lambda t: np.linalg.lstsq(t, t), "np.linalg.lstsq cannot be recorded on a Tensor; write tensorgrad.pinv(x) @ y, or"),
        (lambda t: np.nancumsum(t), "; write tensorgrad.where(x.isnan(), 0, x)"),
    ],
)
def test_functions_of_numpy_are_answered(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(DTypeError, match=re.escape(message)):
        call(Tensor(GRID, requires_grad=True))


def test_a_tensor_is_not_none() -> None:
    t = Tensor([1.0])
    assert (t == None) is False  # noqa: E711
    assert (t != None) is True  # noqa: E711
    assert (None == t) is False  # noqa: E711, SIM300
    assert None not in [t]
    with pytest.raises(DTypeError, match=r"^equal: expected numbers or booleans"):
        t == "a"  # noqa: B015
    assert (t == tensorgrad.ones(1)).tolist() == [True]
