"""Sparse matrices of SciPy's times Tensors, on either side of @: beside the dense product, NumPy's, and gradients by hand."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, func, nn, optim
from tensorgrad.errors import CompileError, DeviceError, DTypeError, MissingDependencyError, ShapeError
from tensorgrad.ops.sparse import sparse_matmul
from tensorgrad.testing import gradcheck
from tests.cuda.gpu import using
from tests.strategies import generators

FORMATS = ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"]


def matrix(
    rng: np.random.Generator, shape: tuple[int, int], dtype: str = "float64", kind: str = "csr", array: bool = True
) -> Any:
    """With about half of its elements; some rows have none."""
    dense = (rng.normal(size=shape) * (rng.random(shape) < 0.5) * 3).astype(dtype)
    return (sp.csr_array if array else sp.csr_matrix)(dense).asformat(kind)


@given(
    rng=generators(),
    m=st.integers(1, 5),
    k=st.integers(1, 5),
    columns=st.sampled_from([(), (1,), (3,), (0,)]),
    kind=st.sampled_from(FORMATS),
    array=st.booleans(),
    dtypes=st.tuples(
        st.sampled_from(["float32", "float64", "int64", "bool"]), st.sampled_from(["float16", "float32", "float64"])
    ),
)
def test_as_the_dense_product(
    rng: np.random.Generator, m: int, k: int, columns: tuple[int, ...], kind: str, array: bool, dtypes: tuple[str, str]
) -> None:
    """Result, gradient and dtypes, from the left and from the right; the Tensor in rows or in columns of memory."""
    a = matrix(rng, (m, k), dtypes[0], kind, array)
    wide = np.result_type(dtypes[0], dtypes[1])
    close = {"rtol": 2e-3, "atol": 1e-2} if dtypes[1] == "float16" else {"rtol": 1e-5, "atol": 1e-5}
    for left in (True, False):
        data = rng.normal(size=(k, *columns) if left else (*columns, m)).astype(dtypes[1])
        x = Tensor(np.asfortranarray(data) if m % 2 else data, requires_grad=True)
        g = rng.normal(size=(m, *columns) if left else (*columns, k))
        y = a @ x if left else x @ a
        assert isinstance(y, Tensor)
        np.testing.assert_allclose(y.numpy(), a.toarray() @ data if left else data @ a.toarray(), **close)
        assert dtypes[1] == "float16" or y.dtype == wide
        (y * g.astype(y.dtype)).sum().backward()
        expected = a.toarray().T.astype(float) @ g if left else g @ a.toarray().T.astype(float)
        np.testing.assert_allclose(x.grad.numpy(), expected, **close)
        assert x.grad.dtype == x.dtype


def test_second_derivatives_tangents_and_samples() -> None:
    rng = np.random.default_rng(3)
    a = matrix(rng, (4, 3))
    gradcheck(lambda x: ((a @ x).tanh() @ matrix(np.random.default_rng(4), (2, 5))).sin(), rng.normal(size=(3, 2)), order=2)
    x = rng.normal(size=(6, 3, 2))
    np.testing.assert_allclose(func.vmap(lambda x: a @ x)(Tensor(x)).numpy(), a.toarray() @ x)
    np.testing.assert_allclose(func.vmap(lambda x: x @ a.T)(Tensor(x[..., 0])).numpy(), x[..., 0] @ a.toarray().T)
    tangent = tensorgrad.jvp(lambda x: a @ x, (Tensor(x[0]),), (Tensor(x[1]),))[1]
    np.testing.assert_allclose(tangent.numpy(), a.toarray() @ x[1])


def graph(rng: np.random.Generator, nodes: int) -> Any:
    """The adjacency of a graph with loops, D^-1/2 (A + 1) D^-1/2, in compressed rows; nodes n, edges between few of them."""
    a = np.triu(rng.random((nodes, nodes)) < 0.3, 1)
    a = (a | a.T | np.eye(nodes, dtype=bool)).astype(float)
    d = 1 / np.sqrt(a.sum(axis=1))
    return sp.csr_array(d[:, None] * a * d)


@settings(max_examples=4)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("how", ["sparse", "edges", "dense"])
@given(rng=generators(), nodes=st.integers(2, 6))
def test_a_graph_convolution_by_hand(how: str, compiled: bool, rng: np.random.Generator, nodes: int) -> None:
    """H = relu(A X W1), Z = A H W2, L = sum Z^2 / 2 (Kipf and Welling 2017), the neighbours added up in three ways:

    dZ = Z;   dW2 = (A H)^T dZ;   dH = A^T dZ W2^T;   dU = dH [U > 0] with U = A X W1;   dW1 = (A X)^T dU;   dX = A^T dU W1^T
    """
    a, x = graph(rng, nodes), rng.normal(size=(nodes, 3))
    weights = rng.normal(size=(3, 4)), rng.normal(size=(4, 2))
    w1, w2, features = (Tensor(w, True) for w in (*weights, x))
    edges, dense = a.tocoo(), a.toarray()
    source, target, strength = edges.col.astype(int), edges.row.astype(int), edges.data[:, None]

    def around(h: Any) -> Any:
        if how == "edges":
            return tensorgrad.put(h[source] * strength, target, h.shape)
        return (a if how == "sparse" else dense) @ h

    def gradients() -> Any:
        loss = (around(around(features @ w1).relu() @ w2) ** 2).sum() / 2
        return tensorgrad.grad(loss, [w1, w2, features])

    if compiled:
        gradients = tensorgrad.compile(gradients)
    u = dense @ x @ weights[0]
    h = np.maximum(u, 0)
    dz = dense @ h @ weights[1]
    du = dense.T @ dz @ weights[1].T * (u > 0)
    expected = (dense @ x).T @ du, (dense @ h).T @ dz, dense.T @ du @ weights[0].T
    for _ in range(2 + compiled):
        for found, right in zip(gradients(), expected, strict=True):
            np.testing.assert_allclose(found.numpy(), right, rtol=1e-10, atol=1e-12)


def test_what_is_written_into_a_matrix() -> None:
    """A gradient is that of the matrix that was multiplied; a replay reads what is stored by then, and another structure is
    refused."""
    a = matrix(np.random.default_rng(0), (4, 3))
    before, x = a.toarray(), Tensor(np.ones((3, 1)), True)
    y = (a @ x).sum()
    a.data[...] = 0
    y.backward()
    np.testing.assert_allclose(x.grad.numpy()[:, 0], before.sum(axis=0))
    a = sp.csr_array(before)
    step = tensorgrad.compile(lambda x: a @ x)
    for factor in (1, 1, 2, 3):
        a.data *= factor
        np.testing.assert_allclose(step(np.ones((3, 2))).numpy(), a.toarray() @ np.ones((3, 2)))
    a.data = a.data * 2
    with pytest.raises(CompileError, match=r"a sparse matrix \(4, 3\) has different arrays than when the step was traced"):
        step(np.ones((3, 2)))
    with pytest.raises(CompileError, match=r"convert it to CSR outside the step: \.tocsr\(\)"):
        tensorgrad.compile(lambda x: a.tocoo() @ x)(np.ones((3, 2)))


def test_training_with_a_sparse_batch() -> None:
    """A linear model on sparse samples, eager and compiled, is that on dense ones."""
    rng = np.random.default_rng(1)
    a, y = matrix(rng, (20, 6), "float32"), rng.normal(size=(20, 1)).astype("f")
    found = []
    for x, compiled in ((a, False), (a, True), (a.toarray(), False)):
        w = nn.Parameter(np.zeros((6, 1), "f"))
        optimiser = optim.Adam([w], lr=0.1)

        def step(x: Any = x, w: Any = w, optimiser: Any = optimiser) -> Any:
            optimiser.zero_grad()
            loss = ((x @ w - y) ** 2).mean()
            loss.backward()
            optimiser.step()

        run = tensorgrad.compile(lambda step=step: step()) if compiled else step
        for _ in range(5):
            run()
        found.append(w.numpy().copy())
    np.testing.assert_allclose(found[:2], [found[2]] * 2, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit() -> None:
    a = matrix(np.random.default_rng(0), (4, 3))
    for call, kind, message in (
        (
            lambda: a @ Tensor(np.ones(4)),
            ShapeError,
            r"matmul: shapes \(4, 3\) and \(4,\) are incompatible; expected \(m,k\),\(k,n\)",
        ),
        (lambda: Tensor(np.ones((2, 3))) @ a, ShapeError, r"matmul: shapes \(2, 3\) and \(4, 3\) are incompatible"),
        (lambda: a @ Tensor(np.ones((2, 3, 4))), ShapeError, r"matmul: shapes \(4, 3\) and \(2, 3, 4\) are incompatible"),
        (lambda: a @ Tensor(1.0), ShapeError, r"matmul: shapes \(4, 3\) and \(\) are incompatible"),
        (lambda: tensorgrad.matmul(a, a), DTypeError, "matmul: two sparse matrices"),
        (lambda: (a * 1j) @ Tensor(np.ones(3)), DTypeError, "matmul: expected a sparse matrix of real numbers or booleans"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_on_a_gpu() -> None:
    a = matrix(np.random.default_rng(0), (4, 3))
    with using("stand-in"):
        x = Tensor(np.ones((3, 2)), device="cuda")
        for call in (lambda: a @ x, lambda: x.T @ a.T):
            with pytest.raises(DeviceError, match=r"^matmul: sparse matrices are only supported on the CPU; move the Tensor"):
                call()


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, *parts), attrs = sparse_matmul.sample(np.random.default_rng(0))
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(MissingDependencyError, match=r"matmul: sparse matrices need SciPy: pip install scipy"):
        sparse_matmul(Tensor(x), *parts, **attrs)
