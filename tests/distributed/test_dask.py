"""Searches over joblib with Dask's backend, as with scikit-learn's own estimators: two workers, processes of this machine."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("dask.distributed", reason="needs Dask: pip install 'dask[distributed]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Dask has to say of its own sockets and folders
        cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
        with cluster, distributed.Client(cluster) as found:
            yield found


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X[:300].astype(np.float32), y[:300]


@pytest.mark.thorough  # Dask takes its time to begin and to end
@pytest.mark.filterwarnings("ignore")  # Dask's
@pytest.mark.usefixtures("client")
def test_searches_over_dask() -> None:
    """The scores of each fold are those of one process; the work is done in others."""
    import joblib
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from tensorgrad.models import MLPClassifier

    X, y = digits()
    grid = {"learning_rate_init": [1e-3, 1e-2], "alpha": [1e-4, 1e-1]}
    estimator = MLPClassifier((16,), max_iter=4, tol=0.0, random_state=0)
    expected = GridSearchCV(estimator, grid, cv=3).fit(X, y)
    scores = cross_val_score(estimator, X, y, cv=3)
    with joblib.parallel_config("dask"):
        found = GridSearchCV(estimator, grid, cv=3).fit(X, y)
        again = cross_val_score(estimator, X, y, cv=3)
        pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(20))
    assert os.getpid() not in pids
    for fold in range(3):
        name = f"split{fold}_test_score"
        # a score is a number of samples of 100: one that rounding takes to the other side of an edge counts 0.01
        np.testing.assert_allclose(found.cv_results_[name], expected.cv_results_[name], atol=0.0101)
    np.testing.assert_allclose(again, scores, atol=0.0101)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_what_is_sent_is_small(solver: str) -> None:
    """Of a fitted estimator the parameters, the optimiser's arrays, from which partial_fit goes on, and 4 kB."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install scikit-learn")
    from tensorgrad.models import MLPClassifier

    estimator = MLPClassifier((100, 100), max_iter=20, tol=1.0, n_iter_no_change=2, random_state=0, solver=solver)
    assert len(pickle.dumps(estimator)) < 2_000
    X, y = digits()
    estimator.fit(X, y)
    arrays = {"adam": 3, "sgd": 2}[solver]  # the parameters, m and v; the parameters and the velocity
    weights = sum(w.nbytes for w in (*estimator.coefs_, *estimator.intercepts_))
    assert len(pickle.dumps(estimator)) < arrays * weights + 4_000
