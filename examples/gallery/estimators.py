"""MLPClassifier and MLPRegressor among scikit-learn's own: a pipeline, a grid search, partial_fit, weights of classes, pickles.

    python examples/gallery/estimators.py

A step is an epoch here. The losses are those of scikit-learn, the mean of a batch with half the squared weights times α,

    classifier   L = -1/n Σ log softmax(z_i)[y_i] + α/2n Σ |W|²        regressor   L = 1/2n Σ (y_i - z_i)² + α/2n Σ |W|²

Steps are compiled by the estimators themselves; --eager changes nothing.
"""

from __future__ import annotations

import pickle
import warnings

import numpy as np
from pages import Losses, show
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensorgrad.models import MLPClassifier, MLPRegressor

from tensorgrad import data


def losses(steps: int, compiled: bool = True) -> Losses:
    X, y = data.load_digits()
    X, y = data.min_max(X[:600]), y[:600]
    options = {"hidden_layer_sizes": (16,), "max_iter": steps, "random_state": 0}
    columns: Losses = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs are all that is wanted here
        pipeline = make_pipeline(StandardScaler(), MLPClassifier(**options)).fit(X, y)
        columns["classifier"] = pipeline[-1].loss_curve_
        columns["regressor"] = MLPRegressor(**options).fit(X, X.mean(axis=1)).loss_curve_
        weighted = MLPClassifier(**options, class_weight="balanced").fit(X[y < 3], y[y < 3] == 0)
        columns["weighted"] = weighted.loss_curve_
        search = GridSearchCV(pipeline, {"mlpclassifier__alpha": np.logspace(-4, 0, 2)}, cv=2).fit(X, y)
    online = MLPClassifier(**options)
    for _ in range(steps):
        online.partial_fit(X, y, classes=range(10))
    columns["partial_fit"] = online.loss_curve_
    again = pickle.loads(pickle.dumps(pipeline))
    assert np.array_equal(again.predict_proba(X), pipeline.predict_proba(X))
    print(f"grid search: {search.best_params_}, score {search.best_score_:.2f}")
    return columns


if __name__ == "__main__":
    show(__doc__, losses, steps=30)
