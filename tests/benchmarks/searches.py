"""CPU time of many fits, and of fits on sparse X: `python -m tests.benchmarks.searches`.

Forty MLPClassifiers on digits (four rates, five penalties, two seeds; 25 epochs, float32) are fitted by `fit_many`, and one by
one by tensorgrad and by scikit-learn; a search over the same with three folds is SweepSearchCV's, and GridSearchCV's
over both. A bag of words (20,000 x 50,000, five words in a row) is fitted as it is. All in one process, on one thread, the
libraries taking turns; medians of the rounds after a first one, in which kernels are loaded, and ratios of them. Losses and
scores are found to agree.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
import sklearn.neural_network
from sklearn.model_selection import GridSearchCV, ParameterGrid
from tensorgrad.models import MLPClassifier, SweepSearchCV, fit_many
from threadpoolctl import threadpool_limits

import tensorgrad
from tensorgrad import data

GRID = {
    "learning_rate_init": [1e-3, 2e-3, 5e-3, 1e-2],
    "alpha": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "random_state": [0, 1],
}


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = data.load_digits()
    return (x / 16).astype(np.float32), y


def fits(hidden: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """Forty fits on all of digits; each gives the last losses."""
    x, y = digits()

    def made(kind: Any) -> list[Any]:
        return [kind(hidden, max_iter=25, **params) for params in ParameterGrid(GRID)]

    def one_by_one(kind: Any) -> list[float]:
        return [model.fit(x, y).loss_ for model in made(kind)]

    return {
        "fit_many": lambda: [model.loss_ for model in fit_many(made(MLPClassifier), x, y)],
        "one by one": lambda: one_by_one(MLPClassifier),
        "scikit-learn": lambda: one_by_one(sklearn.neural_network.MLPClassifier),
    }


def searches(hidden: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """A search over the forty with three folds; each gives the mean scores."""
    x, y = digits()

    def search(kind: Any, model: Any) -> Any:
        return kind(model(hidden, max_iter=25), GRID, cv=3, refit=False).fit(x, y).cv_results_["mean_test_score"]

    return {
        "SweepSearchCV": lambda: search(SweepSearchCV, MLPClassifier),
        "GridSearchCV": lambda: search(GridSearchCV, MLPClassifier),
        "scikit-learn": lambda: search(GridSearchCV, sklearn.neural_network.MLPClassifier),
    }


def words(width: int) -> dict[str, Callable[[], Any]]:
    """Three epochs on a bag of words; each gives the losses."""
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 20_000, 100_000), rng.integers(0, 50_000, 100_000)
    x = sp.csr_matrix((np.ones(100_000, np.float32), (rows, columns)), shape=(20_000, 50_000))
    y = rng.integers(0, 2, 20_000)

    def fit(kind: Any) -> list[float]:
        return kind((width,), max_iter=3, random_state=0).fit(x, y).loss_curve_

    return {"sparse": lambda: fit(MLPClassifier), "scikit-learn": lambda: fit(sklearn.neural_network.MLPClassifier)}


WORKLOADS: dict[str, Callable[[], dict[str, Callable[[], Any]]]] = {
    "fits-32": lambda: fits((32,)),
    "fits-64-32": lambda: fits((64, 32)),
    "searches-32": lambda: searches((32,)),
    "searches-64-32": lambda: searches((64, 32)),
    "words-16": lambda: words(16),
    "words-64": lambda: words(64),
}


def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of CPU of each way, after a first round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for k in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            found[name] = np.asarray(way())
            if k:
                seconds[name].append(time.process_time() - start)
    first, *others = found.values()
    for other in others:
        # of float32 steps rounding grows
        assert np.median(np.abs(first - other) / np.maximum(np.abs(first), 0.1)) < 0.02, found
    return {name: float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns (default 3)")
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # that max_iter was too few
    tensorgrad.set_num_threads(1)
    with threadpool_limits(1):
        for name in args.only:
            seconds = measure(WORKLOADS[name](), args.rounds)
            first = next(iter(seconds.values()))
            print(
                name, *(f"{way}: {value:.2f} s ({value / first:.2f})" for way, value in seconds.items()), sep="   ", flush=True
            )


if __name__ == "__main__":
    main()
