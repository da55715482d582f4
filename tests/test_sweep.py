"""fit_many and SweepSearchCV: estimators trained side by side are what each is alone, and the search is scikit-learn's."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from tensorgrad.models import MLPClassifier, MLPRegressor, SweepSearchCV, fit_many, slots, together
from tensorgrad.models.fitted import TRAINING_ATTRIBUTES

from tensorgrad import nn, optim
from tensorgrad.errors import ArgumentError, TrainingError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = ("binary", "multiclass", "multilabel", "regression", "outputs", "poisson")


def problem(kind: str, m: int, seed: int, dtype: Any) -> tuple[np.ndarray, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, 4)).astype(dtype)
    z = np.tanh(x @ rng.normal(size=(4, 3))) + rng.normal(0, 0.3, (m, 3))
    targets = {
        "binary": np.array(["no", "yes"])[(z[:, 0] > 0).astype(int)],
        "multiclass": z.argmax(axis=1),
        "multilabel": (z > 0).astype(int),
        "regression": z[:, 0],
        "outputs": z,
        "poisson": rng.poisson(np.exp(z[:, 0])),
    }
    return x, targets[kind]


def assert_same(found: Any, alone: Any, x: Any, rtol: float, decided: bool = True) -> None:
    """All that `fit` leaves is the same, to rounding. decided: whether what hangs on comparisons of losses is compared."""
    assert vars(found).keys() == vars(alone).keys()
    for name in ("n_iter_", "t_", "best_iter_", "_no_improvement_count") if decided else ("n_iter_", "t_"):
        assert getattr(found, name) == getattr(alone, name), name
    for a, b in zip([*found.coefs_, *found.intercepts_], [*alone.coefs_, *alone.intercepts_], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    for name in TRAINING_ATTRIBUTES:
        a, b = getattr(found, name), getattr(alone, name)
        assert (a is None) == (b is None), name
        if a is not None and name != "_no_improvement_count":
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=name)
    assert found.history_.keys() == alone.history_.keys()
    assert found.history_.stopped == alone.history_.stopped
    for name in found.history_.keys() - {"seconds"}:
        np.testing.assert_allclose(found.history_[name], alone.history_[name], rtol=rtol, atol=rtol, err_msg=name)
    np.testing.assert_allclose(found._predicted(x), alone._predicted(x), rtol=rtol, atol=rtol)
    assert found.module_.training == alone.module_.training


COMMON = st.fixed_dictionaries(
    {
        "hidden_layer_sizes": st.sampled_from([(), (5,), (4, 3)]),
        "activation": st.sampled_from(["relu", "tanh", "logistic", "identity"]),
        "solver": st.sampled_from(["adam", "sgd"]),
        "early_stopping": st.booleans(),
        "batch_size": st.sampled_from(["auto", 7, 16, "full"]),
        "momentum": st.sampled_from([0.0, 0.9]),
        "nesterovs_momentum": st.booleans(),
        "beta_1": st.sampled_from([0.9, 0.5]),
    }
)
OWN = st.fixed_dictionaries(
    {
        "random_state": st.integers(0, 3),
        "learning_rate_init": st.sampled_from([0.01, 0.1, 0.5]),
        "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive"]),
        "power_t": st.sampled_from([0.5, 0.25]),
        "alpha": st.sampled_from([0.0, 1e-3, 1.0]),
        "max_iter": st.integers(1, 9),
        "tol": st.sampled_from([0.0, 0.03, 0.3]),
        "n_iter_no_change": st.integers(1, 3),
        "shuffle": st.booleans(),
        "validation_fraction": st.sampled_from([0.1, 0.2]),
    }
)


@given(
    kind=st.sampled_from(KINDS),
    m=st.integers(24, 45),
    seed=st.integers(0, 9),
    dtype=st.sampled_from(["float32", "float64"]),
    common=COMMON,
    own=st.lists(OWN, min_size=1, max_size=5),
    weighted=st.booleans(),
)
def test_each_is_what_it_is_alone(kind: str, m: int, seed: int, dtype: str, common: Any, own: Any, weighted: bool) -> None:
    """In float64 to 1e-9. float32 has no comparison of losses decide, for these come within rounding of one another."""
    x, y = problem(kind, m, seed, dtype)
    exact = dtype == "float64"
    settings = [{**common, **each, **({} if exact else {"n_iter_no_change": np.inf})} for each in own]
    if kind in ("regression", "outputs", "poisson"):
        rates = {"learning_rate_init": 0.01}  # with more it diverges
        loss = "poisson" if kind == "poisson" else "squared_error"
        models: list[Any] = [MLPRegressor(loss=loss, **{**each, **rates}) for each in settings]
    else:
        models = [MLPClassifier(**each) for each in settings]
    weights = np.random.default_rng(seed).integers(0, 3, m) + 0.5 if weighted else None
    alone = [clone(model).fit(x, y, sample_weight=weights) for model in models]
    assert fit_many(models, x, y, sample_weight=weights) == models
    for found, one in zip(models, alone, strict=True):
        assert_same(found, one, x, 1e-9 if exact else 2e-3, decided=exact and not common["early_stopping"])


@pytest.mark.every(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("common", [{}, {"solver": "sgd", "learning_rate_init": 0.1}, {"early_stopping": True}])
def test_compiled_with_places_taken_again(common: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven candidates in places for four, of which two end early: a compiled step goes on for those that come after."""
    monkeypatch.setattr(together, "WIDTH", 4)
    x, y = problem("multiclass", 150, 0, dtype)
    ends = {1: 2, 2: 9}
    models = [
        MLPClassifier((8,), random_state=s, batch_size=32, max_iter=ends.get(s, 20), alpha=10.0**-s, **common) for s in range(7)
    ]
    alone = [clone(model).fit(x, y) for model in models]
    steps = []
    plain = slots.Slots.epoch
    monkeypatch.setattr(slots.Slots, "epoch", lambda self: (plain(self), steps.append(self.step))[0])
    fit_many(models, x, y)
    assert len({id(step) for step in steps}) == 1
    assert not steps[-1].why_not
    for found, one in zip(models, alone, strict=True):
        assert_same(found, one, x, 1e-10 if dtype == "float64" else 1e-4)


def test_what_has_ended_is_moved_no_more_and_is_its_own() -> None:
    x, y = problem("multiclass", 60, 0, "float64")
    short, long = MLPClassifier((5,), random_state=0, max_iter=1), MLPClassifier((5,), random_state=0, max_iter=12)
    fit_many([short, long], x, y)
    first = clone(short).fit(x, y)
    np.testing.assert_allclose(short.coefs_[0], first.coefs_[0], rtol=1e-12)
    assert not np.allclose(short.coefs_[0], long.coefs_[0])
    parameters = [p._data for model in (short, long) for p in model.module_.parameters()]
    assert all(array.base is None or not np.shares_memory(array, other) for array, other in itertools.pairwise(parameters))
    assert len(pickle.dumps(short)) < 1.5 * len(pickle.dumps(first))
    with pytest.warns(ConvergenceWarning, match="training has not converged after 12 epochs"):
        fit_many([clone(long)], x, y)


def test_several_groups_at_once() -> None:
    """Other layers, dtypes, solvers, batch sizes, kinds of estimators; class weights, which may differ within a group."""
    x, y = problem("binary", 50, 1, "float64")
    models: list[Any] = [
        MLPClassifier((5,), random_state=0),
        MLPClassifier((4, 3), random_state=0),
        MLPClassifier((5,), random_state=1, dtype="float32", n_iter_no_change=np.inf),
        MLPClassifier((5,), random_state=1, solver="sgd"),
        MLPClassifier((5,), random_state=1, batch_size=9),
        MLPClassifier((5,), random_state=1, class_weight="balanced"),
        MLPClassifier((5,), random_state=2, class_weight={"no": 1, "yes": 3}),
        MLPClassifier((5,), random_state=3, activation=nn.GELU),
        MLPClassifier((5,), random_state=4, activation=[nn.GELU]),
        MLPClassifier((5,), random_state=5, weight_init=nn.init.he_normal()),
    ]
    for model in models:
        model.max_iter = 4
    alone = [clone(model).fit(x, y) for model in models]
    fit_many(models, x, y)
    for found, one in zip(models, alone, strict=True):
        assert_same(found, one, x, 1e-4 if found.dtype else 1e-10)


def test_what_is_fitted_alone() -> None:
    """To the last bit: it is its own fit."""
    x, y = problem("multiclass", 40, 0, "float64")
    before = MLPClassifier((4,), random_state=0, warm_start=True, max_iter=2).fit(x, y)
    models: list[Any] = [
        MLPClassifier((4,), random_state=0, solver="lbfgs", max_iter=3),
        MLPClassifier((4,), random_state=0, dropout=0.3, max_iter=3),
        MLPClassifier((4,), random_state=np.random.RandomState(0), max_iter=3),
        MLPClassifier((4,), random_state=np.random.default_rng(0), max_iter=3),
        MLPClassifier((4,), random_state=0, optimizer=optim.AdamW, max_iter=3),
        MLPClassifier((4,), random_state=0, module=nn.Linear, max_iter=3),
        before,
    ]
    again = pickle.loads(pickle.dumps(models))
    fit_many(models, x, y)
    for found, one in zip(models, again, strict=True):
        one.fit(x, y)
        for a, b in zip(found.module_.parameters(), one.module_.parameters(), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    sparse, dense = (MLPClassifier((4,), random_state=0, max_iter=3) for _ in range(2))
    fit_many([sparse], sp.csr_matrix(x), y)
    fit_many([dense], x, y)
    np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_one_that_fails_leaves_the_others_fitted() -> None:
    x, y = problem("regression", 40, 0, "float64")
    models = [
        MLPRegressor(hidden_layer_sizes=(4,), solver="sgd", learning_rate_init=rate, random_state=0, max_iter=8)
        for rate in (0.01, 1e200, 0.02)
    ]
    with pytest.raises(TrainingError, match="is not finite") as raised:
        fit_many(models, x, y)
    assert "estimator 1 failed" in str(raised.value.__notes__)
    assert not hasattr(models[1], "module_")
    assert not hasattr(models[1], "n_features_in_")
    for model in (models[0], models[2]):
        assert_same(model, clone(model).fit(x, y), x, 1e-10)
    with pytest.raises(ValueError, match="alpha must be"):
        fit_many([MLPRegressor(alpha=-1)], x, y)


def test_what_is_no_estimator_is_refused() -> None:
    x, y = problem("binary", 30, 0, "float64")
    model = MLPClassifier()
    for models, message in (
        ([LogisticRegression()], "estimator 0 must be an MLPClassifier or MLPRegressor, got LogisticRegression"),
        ([model, model], "estimator 1 occurs twice"),
    ):
        with pytest.raises(ArgumentError, match=f"^fit_many: {message}"):
            fit_many(models, x, y)
    assert fit_many([], x, y) == []
    with pytest.raises(ArgumentError, match=r"SweepSearchCV\.fit: estimator must be an MLPClassifier or MLPRegressor"):
        SweepSearchCV(LogisticRegression(), {"C": [1]}).fit(x, y)


# The search


def assert_same_search(found: Any, expected: Any) -> None:
    assert found.cv_results_.keys() == expected.cv_results_.keys()
    for name, values in expected.cv_results_.items():
        if "time" in name:
            assert found.cv_results_[name].shape == values.shape
        elif "param" not in name:
            np.testing.assert_allclose(found.cv_results_[name], values, rtol=1e-9, err_msg=name)
    assert str(found.cv_results_["params"]) == str(expected.cv_results_["params"])
    assert found.best_index_ == expected.best_index_
    assert str(found.best_params_) == str(expected.best_params_)
    assert found.n_splits_ == expected.n_splits_


GRID = {"alpha": [1e-4, 1.0], "learning_rate_init": [0.01, 0.1], "random_state": [0]}


@pytest.mark.every(2)
@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"cv": 4, "return_train_score": True}, {}),  # folds of 13 and 12
        ({"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"}, {"early_stopping": True}),
        ({"refit": False, "scoring": "neg_log_loss"}, {"solver": "sgd", "batch_size": 10}),
        ({"cv": GroupKFold(3), "refit": lambda results: 1}, {"batch_size": 11}),
    ],
)
def test_the_search_is_scikit_learns(options: Any, own: Any) -> None:
    x, y = problem("multiclass", 51, 3, "float64")
    model = MLPClassifier((5,), max_iter=6, **own)
    extra: dict[str, Any] = {"groups": np.arange(51) % 5} if "cv" in options and not isinstance(options["cv"], int) else {}
    found = SweepSearchCV(model, GRID, **options).fit(x, y, **extra)
    expected = GridSearchCV(model, GRID, **options).fit(x, y, **extra)
    assert_same_search(found, expected)
    assert len(found.cv_estimators_) == 4
    for params, row in zip(found.cv_results_["params"], found.cv_estimators_, strict=True):
        assert len(row) == found.n_splits_
        assert all(each.alpha == params["alpha"] and each.n_iter_ == 6 for each in row)
    if found.refit:
        np.testing.assert_array_equal(found.predict(x), expected.predict(x))
        np.testing.assert_array_equal(found.best_estimator_.coefs_[0], expected.best_estimator_.coefs_[0])
        assert found.score(x, y) == expected.score(x, y)
        np.testing.assert_array_equal(found.classes_, expected.classes_)
    else:
        assert not hasattr(found, "best_estimator_")
    assert clone(found).get_params().keys() == found.get_params().keys()
    assert len(pickle.loads(pickle.dumps(found.set_params(refit=True))).cv_estimators_) == 4


def test_of_a_pipeline_steps_are_fitted_once_for_each_fold() -> None:
    x, y = problem("binary", 60, 0, "float64")
    made = []

    class Counted(StandardScaler):
        def fit(self, *args: Any, **kwargs: Any) -> Any:
            made.append(1)
            return super().fit(*args, **kwargs)

    pipeline = make_pipeline(Counted(), MLPClassifier((4,), max_iter=4, random_state=0))
    grid = {"mlpclassifier__alpha": [1e-4, 1.0, 3.0], "counted": [Counted(), MinMaxScaler()]}
    found = SweepSearchCV(pipeline, grid, cv=3).fit(x, y, sample_weight=np.arange(60) % 3)
    assert len(made) == 3 + (found.best_index_ % 2 == 0)  # and for the best one
    expected = GridSearchCV(pipeline, grid, cv=3).fit(x, y, mlpclassifier__sample_weight=np.arange(60) % 3)
    assert_same_search(found, expected)
    np.testing.assert_array_equal(found.predict(x), expected.predict(x))
    assert found.cv_estimators_[0][0].predict(x).shape == (60,)
    one = SweepSearchCV(make_pipeline(MLPClassifier((4,), max_iter=4)), {"mlpclassifier__random_state": [0, 1]}).fit(x, y)
    assert set(one.best_params_) == {"mlpclassifier__random_state"}


def test_candidates_that_fail() -> None:
    x, y = problem("binary", 40, 0, "float64")
    model = MLPClassifier((4,), max_iter=3, random_state=0)
    grid = {"alpha": [-1.0, 0.1]}
    search = SweepSearchCV(model, grid, error_score=-1)
    with pytest.warns(FitFailedWarning, match=r"5 fits failed out of a total of 10; their scores are -1.*alpha must be"):
        found = search.fit(x, y)
    assert found.best_params_ == {"alpha": 0.1}
    assert found.cv_results_["mean_test_score"][0] == -1
    with pytest.raises(ValueError, match="alpha must be"):
        SweepSearchCV(model, grid, error_score="raise").fit(x, y)
    with pytest.raises(ValueError, match="All the 5 fits failed"):
        SweepSearchCV(model, {"alpha": [-1.0]}).fit(x, y)
    with pytest.raises(ValueError, match="Invalid parameter 'width'"):
        SweepSearchCV(model, {"width": [1]}).fit(x, y)


@pytest.mark.thorough
def test_a_larger_search_has_the_scores_of_grid_search() -> None:
    x, y = make_classification(200, 10, n_informative=6, n_classes=3, random_state=0)
    grid = {"random_state": range(6), "alpha": [1e-4, 0.1]}
    model = MLPClassifier((8,), batch_size=32, max_iter=10, learning_rate_init=0.01)
    assert_same_search(SweepSearchCV(model, grid, cv=2).fit(x, y), GridSearchCV(model, grid, cv=2).fit(x, y))
