"""Estimators on sparse X, which stays sparse up to the first product, beside the same on dense X."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from tensorgrad.models import MLPClassifier, MLPRegressor, SweepSearchCV

import tensorgrad
from tensorgrad import Tensor, data, nn, train
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.ops.sparse import Rows, sparse_matmul

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def matrix(rng: np.random.Generator, shape: tuple[int, int], density: float, dtype: Any) -> np.ndarray:
    """A dense array with empty rows and columns that are all 0."""
    x = np.where(rng.random(shape) < density, rng.normal(size=shape), 0)
    x[rng.random(shape[0]) < 0.1] = 0
    x[:, rng.random(shape[1]) < 0.2] = 0
    return x.astype(dtype)


def written(rng: np.random.Generator, x: np.ndarray, form: str, odd: str) -> Any:
    """x as a sparse matrix: of a format, with what is allowed but seldom in it."""
    i, j = x.nonzero()
    values = x[i, j]
    if odd == "explicit zeros":
        more = rng.integers(0, x.shape, (7, 2))
        i, j, values = np.r_[i, more[:, 0]], np.r_[j, more[:, 1]], np.r_[values, np.zeros(7, x.dtype)]
    if odd == "duplicates":  # which count as their sum
        i, j, values = np.r_[i, i], np.r_[j, j], np.r_[values / 2, values / 2]
    if form == "coo":
        order = rng.permutation(len(i))
        return sp.coo_array((values[order], (i[order], j[order])), shape=x.shape)
    kind = sp.csr_matrix if form == "csr" else sp.csc_array
    if odd in ("unsorted", "duplicates"):
        order = np.lexsort((-(j if form == "csr" else i), i if form == "csr" else j))  # backwards in each row or column
        rows = np.r_[0, np.cumsum(np.bincount((i if form == "csr" else j), minlength=x.shape[form == "csc"]))]
        a = kind((values[order], (j if form == "csr" else i)[order], rows), shape=x.shape)
        assert not len(values) or not a.has_sorted_indices or odd == "duplicates" or (np.diff(a.indptr) < 2).all()
    else:
        a = kind(sp.coo_array((values, (i, j)), shape=x.shape))
    if odd == "int64":
        a.indices, a.indptr = a.indices.astype(np.int64), a.indptr.astype(np.int64)
    return a


@given(
    seed=st.integers(0, 99),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    dtype=st.sampled_from(["float32", "float64", "int64"]),
    form=st.sampled_from(["csr", "csc", "coo"]),
    odd=st.sampled_from(["", "explicit zeros", "duplicates", "unsorted", "int64"]),
    own=st.sampled_from(
        [
            {},
            {"solver": "sgd", "learning_rate_init": 0.1},
            {"solver": "lbfgs"},
            {"early_stopping": True},
            {"hidden_layer_sizes": ()},
            {"hidden_layer_sizes": (4, 3), "activation": ["tanh", "logistic"], "batch_size": 7},
            {"dropout": 0.2},
        ]
    ),
    outputs=st.sampled_from(["binary", "classes", "number", "numbers"]),
    weighted=st.booleans(),
)
def test_sparse_is_dense(
    seed: int, density: float, dtype: str, form: str, odd: str, own: Any, outputs: str, weighted: bool
) -> None:
    """To rounding, whatever the matrix is written like; and it is left as it was."""
    rng = np.random.default_rng(seed)
    x = matrix(rng, (30, 9), density, dtype)
    x = x * (1 if dtype != "int64" else 4)
    if odd == "duplicates":
        x = x * 2
    z = x @ rng.normal(size=(9, 3)) + rng.normal(size=(30, 3))
    y = {"binary": z[:, 0] > 0, "classes": z.argmax(axis=1), "number": z[:, 0], "numbers": z}[outputs]
    kind = MLPClassifier if outputs in ("binary", "classes") else MLPRegressor
    options = {"hidden_layer_sizes": (5,), "random_state": seed, "max_iter": 4, "compile": False, **own}
    weights = rng.integers(0, 3, 30) + 0.5 if weighted else None
    a = written(rng, x, form, odd)
    before = a.copy()
    sparse, dense = (kind(**options).fit(each, y, sample_weight=weights) for each in (a, x))
    rtol = 1e-3 if dtype == "float32" else 1e-7
    assert sparse.n_iter_ == dense.n_iter_
    for p, q in zip([*sparse.coefs_, *sparse.intercepts_], [*dense.coefs_, *dense.intercepts_], strict=True):
        assert p.dtype == q.dtype
        np.testing.assert_allclose(p, q, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(sparse.loss_curve_, dense.loss_curve_, rtol=rtol, atol=rtol)
    names = ["predict", *(["predict_proba"] if kind is MLPClassifier else []), *(["transform"] if sparse.n_layers_ > 2 else [])]
    for name in names:
        found, expected = getattr(sparse, name)(a), getattr(sparse, name)(x)
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(sparse.score(a, y), sparse.score(x, y), rtol=rtol)
    if own.get("solver") != "lbfgs" and not own.get("early_stopping"):
        sparse, dense = clone(sparse), clone(dense)
        for part in (slice(0, 16), slice(16, 30)):
            extra = {"classes": np.unique(y)} if kind is MLPClassifier else {}
            sparse.partial_fit(a.tocsr()[part], y[part], **extra)
            dense.partial_fit(x[part], y[part], **extra)
        np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], rtol=rtol, atol=rtol)
    for name in ("data", "indices", "indptr", "row", "col"):
        if hasattr(a, name):
            np.testing.assert_array_equal(getattr(a, name), getattr(before, name))


def test_lbfgs_compiled() -> None:
    """It reads the one batch from outside."""
    rng = np.random.default_rng(0)
    x, y = matrix(rng, (40, 8), 0.3, "float64"), rng.normal(size=40)
    options: dict[str, Any] = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "max_iter": 12, "random_state": 0}
    weights = rng.random(40)
    sparse, dense = (MLPRegressor(**options).fit(each, y, weights) for each in (sp.csr_array(x), x))
    np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], rtol=1e-7, atol=1e-9)


def test_a_plan_does_for_batches_of_any_number_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for full batches and one for the last of an epoch, and another only where there is not room enough."""
    rng = np.random.default_rng(0)
    x = sp.csr_matrix(matrix(rng, (70, 30), 0.2, "float64"))
    y = rng.integers(0, 3, 70)
    made: list[train.steps.Steps] = []
    plain = train.steps.Steps.__init__

    def noted(self: Any, *args: Any) -> None:
        plain(self, *args)
        made.append(self)

    monkeypatch.setattr(train.steps.Steps, "__init__", noted)
    options: dict[str, Any] = {"random_state": 0, "batch_size": 20, "max_iter": 25, "hidden_layer_sizes": (4,)}
    sparse = MLPClassifier(**options).fit(x, y)
    assert made[0].compiled is not None
    assert not made[0].compiled.why_not
    assert len(made[0].compiled.entries) <= 3
    dense = MLPClassifier(**options).fit(x.toarray(), y)
    np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], rtol=1e-8, atol=1e-10)


def bag_of_words(rng: np.random.Generator, m: int = 20_000, n: int = 50_000, count: int = 100_000) -> tuple[Any, np.ndarray]:
    rows, columns = rng.integers(0, m, count), rng.integers(0, n, count)
    x = sp.csr_matrix((np.ones(count, np.float32), (rows, columns)), shape=(m, n))
    return x, rng.integers(0, 2, m)


def test_memory_does_not_grow_with_samples_times_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """X would be 4 GB; 4,096 rows of it, as many as are predicted at a time, 819 MB; the 200 of a batch 40 MB."""
    x, y = bag_of_words(np.random.default_rng(0))

    def refused(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("made dense")

    for matrices in (sp.csr_matrix, sp.csr_array):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(matrices, name, refused)
    model = MLPClassifier((2,), max_iter=1, random_state=0, early_stopping=True, compile=False)
    tracemalloc.start()
    try:
        model.fit(x, y)
        model.predict(x)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
    assert model.predict_proba(x[:3]).shape == (3, 2)


TEXTS = ["the cat sat on the mat", "a dog barked at the cat", "stocks fell on friday", "the market rose again"] * 6
TOPICS = ["animals", "animals", "money", "money"] * 6


def test_text() -> None:
    pipeline = make_pipeline(TfidfVectorizer(), MLPClassifier((8,), max_iter=15, learning_rate_init=0.05, random_state=0))
    assert pipeline.fit(TEXTS, TOPICS).score(TEXTS, TOPICS) == 1
    assert pipeline.predict(["the dog sat", "stocks rose"]).tolist() == ["animals", "money"]
    grid = {"mlpclassifier__alpha": [1e-4, 1e-2], "tfidfvectorizer__ngram_range": [(1, 1), (1, 2)]}
    searches = [kind(pipeline, grid, cv=3).fit(TEXTS, TOPICS) for kind in (GridSearchCV, SweepSearchCV)]
    assert searches[0].best_score_ == 1
    for name, values in searches[0].cv_results_.items():
        if "score" in name and "time" not in name:
            np.testing.assert_array_equal(values, searches[1].cv_results_[name])
    rng = np.random.default_rng(0)
    x = sp.csr_matrix(matrix(rng, (20, 5), 0.5, "float64"))
    search = GridSearchCV(MLPClassifier((3,), max_iter=3), {"alpha": [1e-4, 1]}, cv=2).fit(x, rng.integers(0, 2, 20))
    assert search.predict(x).shape == (20,)


# What it stands on


def test_batches_that_stay_sparse() -> None:
    rng = np.random.default_rng(0)
    dense = matrix(rng, (11, 4), 0.5, "float32")
    loaders = [
        data.DataLoader(sp.coo_array(dense), np.arange(11), batch_size=4, shuffle=True, rng=0, keep_sparse=k)
        for k in (False, True)
    ]
    for (x, i), (a, j) in zip(*loaders, strict=True):
        assert sp.issparse(a)
        assert a.format == "csr"
        np.testing.assert_array_equal(i, j)
        np.testing.assert_array_equal(x, a.toarray())
    with pytest.raises(ArgumentError, match="DataLoader: keep_sparse must be True or False, got 2"):
        data.DataLoader(dense, keep_sparse=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("compile", [False, True])
def test_fit_takes_such_a_loader(compile: bool) -> None:
    """Training and validation, of a model that begins with a Linear."""
    rng = np.random.default_rng(0)
    x, y = matrix(rng, (50, 6), 0.4, "float32"), rng.integers(0, 3, 50)
    found = []
    for samples in (x, sp.csc_matrix(x)):
        own = np.random.default_rng(0)
        model = nn.Sequential(nn.Linear(6, 5, rng=own), nn.Tanh(), nn.Linear(5, 3, bias=False, rng=own))
        optimiser = tensorgrad.optim.SGD(model.parameters(), lr=0.1)
        loaders = [data.DataLoader(samples, y, batch_size=size, keep_sparse=True) for size in (8, 20)]
        history = train.fit(
            model, F.cross_entropy, optimiser, loaders[0], 5, validation=loaders[1], compile=compile, progress=False
        )
        found.append([*history["loss"], *history["val_loss"]])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_rows_with_room_behind_them() -> None:
    rng = np.random.default_rng(0)
    dense = matrix(rng, (5, 4), 0.5, "float64")
    a = sp.csr_matrix(dense)
    room = [np.r_[part, np.full(7, fill, part.dtype)] for part, fill in ((a.data, np.nan), (a.indices, 0))]
    rows = Rows(Tensor(room[0]), Tensor(room[1]), Tensor(a.indptr), 4)
    w = Tensor(rng.normal(size=(4, 3)), requires_grad=True)
    y = tensorgrad.linear(rows, w, np.ones(3))
    np.testing.assert_allclose(y.numpy(), dense @ w.numpy() + 1)
    y.sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), dense.T @ np.ones((5, 3)))
    assert len(rows) == 5
    assert rows.tocsr() is rows


def test_rows_that_are_no_rows() -> None:
    """What a plan is tried out on are other integers, too: SciPy would read beyond the arrays."""
    values, indices = np.ones(3), np.zeros(3, np.int32)
    for indptr in ([0, 2, 1, 3], [1, 2, 3, 3], [0, 0, 3, 0]):
        with pytest.raises(ShapeError, match="matmul: indptr must begin at 0 and not decrease"):
            sparse_matmul(Tensor(np.ones((2, 2))), values, indices, np.array(indptr), shape=(3, 2))
    empty_first = sp.csr_matrix(np.r_[np.zeros((2, 50)), np.ones((30, 50))])
    step = tensorgrad.compile(lambda w: empty_first @ w)
    for _ in range(4):
        np.testing.assert_allclose(step(np.ones((50, 2))).numpy(), empty_first @ np.ones((50, 2)))
    assert not step.why_not
