"""MLPClassifier and MLPRegressor: scikit-learn's checks, its own training as an oracle, and what they have beyond it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.fixes import parse_version
from tensorgrad.models import MLP, MLPClassifier, MLPRegressor
from tensorgrad.models.mlp import ACTIVATIONS

from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.errors import DTypeError, LabelError, MissingDependencyError, OutOfRangeError, ShapeError, TrainingError
from tensorgrad.nn import functional as F
from tensorgrad.testing import numerical_gradient
from tests.strategies import generators

# most trainings here are cut short, and say so
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = ("binary", "multiclass", "multilabel", "regression", "outputs", "poisson")


def problem(kind: str, m: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Something to learn, with some noise: X (m, 5) and y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, 5))
    z = np.tanh(x @ rng.normal(size=(5, 3))) + rng.normal(0, 0.3, (m, 3))
    targets = {
        "binary": z[:, 0] > 0,
        "multiclass": z.argmax(axis=1),
        "multilabel": (z > 0).astype(int),
        "regression": z[:, 0],
        "outputs": z,
        "poisson": rng.poisson(np.exp(z[:, 0])),
    }
    return x, np.array(["no", "yes"])[targets[kind].astype(int)] if kind == "binary" else targets[kind]


def pair(kind: str, **parameters: Any) -> tuple[Any, Any]:
    """Ours and scikit-learn's estimator with the same parameters."""
    if kind == "poisson":
        parameters["loss"] = "poisson"
    name = "MLPClassifier" if kind in ("binary", "multiclass", "multilabel") else "MLPRegressor"
    return {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}[name](**parameters), getattr(
        sklearn.neural_network, name
    )(**parameters)


def make(kind: str, **parameters: Any) -> Any:
    return pair(kind, hidden_layer_sizes=(6,), random_state=0, max_iter=5)[0].set_params(**parameters)


def same_training(ours: Any, theirs: Any, x: np.ndarray, rtol: float = 1e-9) -> None:
    close = partial(np.testing.assert_allclose, rtol=rtol, atol=rtol)
    assert (ours.n_iter_, ours.t_, ours.n_outputs_, ours.out_activation_, ours.n_layers_) == (
        *(theirs.n_iter_, theirs.t_, theirs.n_outputs_, theirs.out_activation_, theirs.n_layers_),
    )
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert a.dtype == b.dtype
        close(a, b)
    close(ours.loss_, theirs.loss_)
    for name in ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
        if getattr(theirs, name, None) is not None:
            close(getattr(ours, name), getattr(theirs, name), err_msg=name)
    if hasattr(theirs, "classes_"):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        close(ours.predict_proba(x), theirs.predict_proba(x))
        close(np.exp(ours.predict_log_proba(x)), theirs.predict_proba(x))  # its own logarithms are of 1 - p, near 1 of nothing
        np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    else:
        close(ours.predict(x), theirs.predict(x))


# scikit-learn's contract


@parametrize_with_checks([MLPClassifier(), MLPRegressor()])
def test_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_parameters_are_scikit_learns() -> None:
    """The same names in the same order with the same defaults; what is new can be given by name only."""
    for ours, theirs in (
        (MLPClassifier, sklearn.neural_network.MLPClassifier),
        (MLPRegressor, sklearn.neural_network.MLPRegressor),
    ):
        own, other = (inspect.signature(kind).parameters for kind in (ours, theirs))
        assert [(p.name, p.default, p.kind) for p in own.values() if p.name in other] == [
            (p.name, p.default, p.kind) for p in other.values()
        ]
        assert {p.kind for p in own.values() if p.name not in other} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.thorough
def test_search_over_a_pipeline_in_two_processes() -> None:
    x, y = problem("multiclass", 90)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=20, random_state=0, optimizer=optim.AdamW))
    grid = {"mlpclassifier__learning_rate_init": [1e-6, 0.05], "mlpclassifier__class_weight": [None, "balanced"]}
    search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2, error_score="raise").fit(x, y)
    assert search.best_params_["mlpclassifier__learning_rate_init"] == 0.05
    assert search.best_score_ > 0.6
    again = [np.mean(cross_val_score(clone(search.best_estimator_), x, y, cv=2)) for _ in range(2)]
    assert again == [search.best_score_] * 2


def test_a_hidden_layer_feeds_a_pipeline() -> None:
    x, y = problem("multiclass", 200)
    features = MLPClassifier((8, 4), max_iter=10, random_state=0)
    pipeline = make_pipeline(features, LogisticRegression()).fit(x, y)
    h = clone(features).fit(x, y).transform(x)
    np.testing.assert_array_equal(pipeline.predict_proba(x), LogisticRegression().fit(h, y).predict_proba(h))
    assert list(pipeline[0].get_feature_names_out()) == [f"mlpclassifier{i}" for i in range(4)]


@pytest.mark.parametrize("kind", ["multiclass", "outputs"])
@pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
def test_copies_predict_and_go_on(kind: str, how: str, tmp_path: Path) -> None:
    """A copy has the optimiser's state, too: one more epoch gives the same parameters, bit for bit, as without copying."""
    x, y = problem(kind)
    original = make(kind, schedule=partial(optim.ExponentialLR, gamma=0.5), dropout=0.2)
    original.fit(x, y)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(original))
    elif how == "joblib":
        joblib.dump(original, tmp_path / "model")
        other = joblib.load(tmp_path / "model", mmap_mode="r")  # arrays that cannot be written to
    else:
        other = copy.deepcopy(original)
    np.testing.assert_array_equal(other.predict(x), original.predict(x))
    assert other.history_.columns == original.history_.columns
    for _ in range(2):
        original.partial_fit(x, y)
        other.partial_fit(x, y)
        for a, b in zip(original.coefs_, other.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
    assert other.history_["lr"] == original.history_["lr"] == [0.001 / 2**i for i in range(7)]


def test_without_scikit_learn() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
from tensorgrad import models
models.MLP((2, 2))
try:
    models.MLPClassifier
except ImportError as error:
    print(type(error).__name__, error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.startswith(
        f"{MissingDependencyError.__name__} tensorgrad.models.MLPClassifier needs scikit-learn 1.7 or newer"
    )
    assert printed.endswith("pip install 'scikit-learn>=1.7'\n")


# The same training as scikit-learn's


@given(
    kind=st.sampled_from(KINDS),
    solver=st.sampled_from(
        [
            {"solver": "adam"},
            {"solver": "adam", "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
            {"solver": "sgd", "learning_rate_init": 0.01},
            {"solver": "sgd", "learning_rate_init": 0.01, "nesterovs_momentum": False, "momentum": 0.5},
            {"solver": "sgd", "learning_rate_init": 0.02, "learning_rate": "invscaling", "power_t": 0.3},
            {"solver": "sgd", "learning_rate_init": 0.01, "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 1},
        ]
    ),
    hidden=st.sampled_from([(), 7, (7,), (6, 5), (5, 4, 3)]),
    activation=st.sampled_from(["relu", "logistic", "tanh", "identity"]),
    alpha=st.sampled_from([0.0, 1e-4, 1.0]),
    batch_size=st.sampled_from(["auto", 7, 20]),
    early_stopping=st.booleans(),
    weighted=st.booleans(),
    compile=st.booleans(),
    seed=st.integers(0, 1000),
    rng=generators(),
)
def test_same_training(
    kind: str,
    solver: dict[str, Any],
    hidden: Any,
    activation: str,
    alpha: float,
    batch_size: Any,
    early_stopping: bool,
    weighted: bool,
    compile: bool,
    seed: int,
    rng: np.random.Generator,
) -> None:
    """Equal `random_state`, equal weights, order, held-out samples, losses and parameters, to rounding.

    Rates are such that training does not diverge, where rounding would grow with it; the slope of exp needs smaller ones.
    """
    x, y = problem(kind, 45, seed)
    if kind == "poisson" and solver["solver"] == "sgd":
        solver = {**solver, "learning_rate_init": solver["learning_rate_init"] / 50}
    ours, theirs = pair(
        kind,
        **{"max_iter": 8, "n_iter_no_change": 3, **solver},
        hidden_layer_sizes=hidden,
        activation=activation,
        alpha=alpha,
        batch_size=batch_size,
        early_stopping=early_stopping,
        validation_fraction=0.2,
        random_state=seed,
        shuffle=seed % 3 > 0,
    )
    if kind == "poisson":  # e to the power of something runs away sooner
        for model in (ours, theirs):
            model.set_params(learning_rate_init=1e-3)
    weights = rng.uniform(0.5, 2, len(x)) if weighted else None
    if weighted and batch_size != "auto":
        # scikit-learn's mean loss of an epoch counts the samples of a batch, ours their weights: so it may end at another time
        for model in (ours, theirs):
            model.set_params(n_iter_no_change=np.inf, early_stopping=False)
    # scikit-learn before 1.9 asks whether the labels that it predicts for what it holds out are finite, which texts cannot be
    assume(not (early_stopping and y.dtype.kind in "UO" and parse_version(sklearn.__version__) < parse_version("1.9")))
    ours.set_params(compile=compile).fit(x, y, weights)
    theirs.fit(x, y, weights)
    if weighted and batch_size != "auto":
        theirs.loss_, theirs.loss_curve_, theirs.best_loss_ = ours.loss_, ours.loss_curve_, ours.best_loss_
    same_training(ours, theirs, x)


@pytest.mark.parametrize("kind", KINDS)
def test_same_training_by_lbfgs(kind: str) -> None:
    """But for several outputs, where scikit-learn gives SciPy the gradient of another function than the one it evaluates."""
    x, y = problem(kind)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(x))
    ours, theirs = pair(kind, solver="lbfgs", hidden_layer_sizes=(6,), max_iter=12, random_state=0, alpha=0.1)
    with pytest.warns(ConvergenceWarning, match="L-BFGS did not converge in 12 iterations"):
        ours.fit(x, y, weights)
    theirs.fit(x, y, weights)
    assert ours.loss_curve_ == ours.history_["loss"] == sorted(ours.loss_curve_, reverse=True)
    assert ours.loss_ == ours.loss_curve_[-1]
    if kind == "outputs":
        mean = np.average(((theirs.predict(x) - y) ** 2).sum(1) / 2, weights=weights)
        found = mean + 0.05 / weights.sum() * sum((w**2).sum() for w in theirs.coefs_)
        assert ours.loss_ < found * (1 + 1e-7)  # equal where scikit-learn, before that, gave the right gradient
    else:
        same_training(ours, theirs, x, 1e-5)  # each line search makes more of what rounding began


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_same_training_piece_by_piece(kind: str, solver: str) -> None:
    """partial_fit, and fit with a warm start."""
    x, y = problem(kind)
    options = (
        {} if isinstance(make(kind), MLPRegressor) else {"classes": np.arange(3) if kind == "multilabel" else np.unique(y)}
    )
    for method in ("partial_fit", "fit"):
        ours, theirs = pair(
            kind,
            solver=solver,
            hidden_layer_sizes=(6,),
            random_state=0,
            max_iter=3,
            warm_start=method == "fit",
            learning_rate="invscaling",
            learning_rate_init=0.01,
            batch_size=16,
        )
        for part in ([slice(0, 40), slice(20, 60), slice(0, 60)]) if method == "partial_fit" else [slice(None)] * 3:
            for model in (ours, theirs):
                getattr(model, method)(x[part], y[part], **(options if method == "partial_fit" else {}))
        same_training(ours, theirs, x)
        assert ours.history_["loss"] == ours.loss_curve_[-3:]
        assert ours.history_["epoch"] == [1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_same_training_in_float32(kind: str) -> None:
    """float32 stays float32: 24 bits, so that the trainings drift apart sooner."""
    x, y = problem(kind)
    ours, theirs = pair(kind, hidden_layer_sizes=(6,), random_state=0, max_iter=5)
    same_training(ours.fit(x.astype(np.float32), y), theirs.fit(x.astype(np.float32), y), x.astype(np.float32), 2e-5)
    assert ours.coefs_[0].dtype == np.float32
    assert clone(ours).set_params(dtype="float64").fit(x.astype(np.float32), y).coefs_[0].dtype == np.float64
    assert clone(ours).set_params(dtype="float32").fit(x, y).predict(x[:1]).dtype in (np.float32, ours.predict(x[:1]).dtype)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("learning_rate", ["constant", "adaptive"])
def test_prints_what_scikit_learn_prints(early_stopping: bool, learning_rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = problem("multiclass")
    lines = []
    for model in pair(
        "multiclass",
        solver="sgd",
        learning_rate=learning_rate,
        tol=0.1,
        n_iter_no_change=2,
        verbose=True,
        random_state=0,
        early_stopping=early_stopping,
        learning_rate_init=0.01,
    ):
        model.fit(x, y)
        lines.append(capsys.readouterr().out.splitlines())
    assert lines[0] == lines[1]
    assert "Stopping." in lines[0][-1]


def test_sparse_is_dense() -> None:
    """To rounding, for the first product has other sums; compressed columns, too (tests/test_sparse_estimators.py has more)."""
    x, y = problem("multiclass")
    x[x < 0.5] = 0
    dense = make("multiclass", batch_size=16, early_stopping=True).fit(x, y)
    for format in (scipy.sparse.csr_matrix, scipy.sparse.csc_array):
        sparse = clone(dense).fit(format(x), y)
        np.testing.assert_allclose(sparse.loss_curve_, dense.loss_curve_, rtol=1e-10)
        for method in ("predict_proba", "transform", "input_gradient"):
            np.testing.assert_allclose(getattr(sparse, method)(format(x)), getattr(dense, method)(x), rtol=1e-8, atol=1e-10)


# Weights


@given(kind=st.sampled_from(KINDS), solver=st.sampled_from(["adam", "sgd", "lbfgs"]), rng=generators(), seed=st.integers(0, 99))
def test_a_weight_of_two_is_the_row_twice(kind: str, solver: str, rng: np.random.Generator, seed: int) -> None:
    """In full batches, whatever the weights; to rounding. "balanced" counts weights, too."""
    x, y = problem(kind, 30, seed)
    weights = rng.integers(0, 4, len(x))
    if kind in ("binary", "multiclass"):
        weights[np.unique(y, return_index=True)[1]] = 2  # no class is gone
    parameters = {"class_weight": "balanced"} if kind in ("binary", "multiclass") and seed % 2 else {}
    model = make(kind, solver=solver, batch_size="full", max_iter=4, **parameters)
    weighted = clone(model).fit(x, y, weights)
    repeated = model.fit(x.repeat(weights, axis=0), y.repeat(weights, axis=0))
    for a, b in zip(weighted.coefs_, repeated.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)


def test_class_weights_are_sample_weights() -> None:
    x, y = problem("multiclass")
    y[y == 2] = np.where(np.arange(np.sum(y == 2)) % 3, 1, 2)  # unbalanced
    model, more = make("multiclass", batch_size=16), np.linspace(0.5, 2, len(x))
    counts = np.bincount(y)
    for class_weight, each in (
        ({0: 2.0, 2: 5}, np.array([2, 1, 5])[y]),
        ("balanced", (len(y) / (3 * counts))[y]),
    ):
        by_class = clone(model).set_params(class_weight=class_weight).fit(x, y)
        assert by_class.loss_curve_ == clone(model).fit(x, y, each).loss_curve_
    both = clone(model).set_params(class_weight={0: 2.0, 2: 5}).fit(x, y, more)
    assert both.loss_curve_ == clone(model).fit(x, y, more * np.array([2, 1, 5])[y]).loss_curve_
    named = make("binary", class_weight={"yes": 9.0}).fit(*problem("binary"))
    plain = make("binary").fit(*problem("binary"))
    assert np.mean(named.predict_proba(x)[:, 1]) > np.mean(plain.predict_proba(x)[:, 1])


# What is watched


def test_eval_set_is_measured_and_the_best_epoch_kept() -> None:
    x, y = problem("multiclass", 40)
    held_out = problem("multiclass", 80, seed=1)
    weights = np.linspace(0, 1, 80)
    model = make("multiclass", max_iter=60, learning_rate_init=0.05, hidden_layer_sizes=(30,))
    seen: list[float] = []
    model.fit(x, y, eval_set=(*held_out, weights), callbacks=[lambda run: seen.append(run.row["val_loss"])])
    losses = model.history_["val_loss"]
    assert list(model.history_) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"]
    assert seen == losses
    assert model.best_iter_ == np.argmin(losses) + 1 < model.n_iter_ == 60
    kept = -np.average(model.predict_log_proba(held_out[0])[np.arange(80), held_out[1]], weights=weights)
    assert kept == pytest.approx(min(losses), rel=1e-12)
    assert losses[-1] > min(losses)
    assert "val_accuracy" in {line.get_label().replace(" ", "_") for a in model.history_.plot().axes for line in a.lines}


@pytest.mark.parametrize("kind", ["multilabel", "outputs"])
def test_eval_set_takes_the_place_of_what_is_held_out(kind: str) -> None:
    x, y = problem(kind, 40)
    model = make(kind, early_stopping=True, max_iter=200, n_iter_no_change=4, learning_rate_init=0.05)
    model.fit(x, y, eval_set=(held_out := problem(kind, 80, seed=1)))
    assert model.t_ == 40 * model.n_iter_  # nothing is held out of X
    assert model.n_iter_ < 200
    assert model.validation_scores_ == model.history_[f"val_{model.score_name}"]
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.score(*held_out) == pytest.approx(max(model.validation_scores_), rel=1e-12)
    assert model.validation_scores_[model.best_iter_ - 1] == max(model.validation_scores_)


def test_callbacks_may_end_training() -> None:
    x, y = problem("regression")

    def end(run: train.Run) -> None:
        if run.epoch == 3:
            raise train.StopTraining("enough")

    model = make("regression", max_iter=50).fit(x, y, callbacks=[end])
    assert (model.n_iter_, model.history_.stopped) == (3, "enough")


def test_interrupted_by_ctrl_c() -> None:
    x, y = problem("regression")
    interrupt = lambda run: os.kill(os.getpid(), signal.SIGINT) if run.epoch == 2 else None  # noqa: E731
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told us to ignore it
    try:
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            model = make("regression", max_iter=50).fit(x, y, callbacks=[interrupt])
    finally:
        signal.signal(signal.SIGINT, before)
    assert model.n_iter_ == 2
    assert model.predict(x).shape == (60,)


# Networks, optimisers and schedules of one's own


def test_an_activation_for_each_layer_and_dropout() -> None:
    """Predictions are what NumPy makes of the weights; nothing is left out of them."""
    x, y = problem("multiclass")
    softplus = lambda z: np.log1p(np.exp(z))  # noqa: E731
    model = make("multiclass", hidden_layer_sizes=(6, 5, 4), activation=["tanh", nn.Softplus, "identity"], dropout=0.3)
    model.fit(x, y)
    (w1, w2, w3, w4), (b1, b2, b3, b4) = model.coefs_, model.intercepts_
    h3 = softplus(np.tanh(x @ w1 + b1) @ w2 + b2) @ w3 + b3
    np.testing.assert_allclose(model.decision_function(x), h3 @ w4 + b4, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(model.transform(x), h3, rtol=1e-10, atol=1e-12)
    again = clone(model).fit(x, y)
    assert again.loss_curve_ == model.loss_curve_
    assert clone(model).set_params(dropout=0.0).fit(x, y).loss_curve_ != model.loss_curve_
    assert clone(model).set_params(random_state=1).fit(x, y).loss_curve_ != model.loss_curve_


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_learns(activation: str) -> None:
    x, y = problem("regression", 100)
    model = make("regression", activation=activation, solver="lbfgs", max_iter=100, hidden_layer_sizes=(8,)).fit(x, y)
    assert model.score(x, y) > 0.6


def make_module(n_in: int, n_out: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(n_in, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, n_out))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_of_ones_own(kind: str) -> None:
    x, y = problem(kind, 100)
    model = make(kind, module=make_module, learning_rate_init=0.01, max_iter=40).fit(x, y)
    assert model.score(x, y) > (0.7 if kind == "multiclass" else 0.2)
    assert {p.dtype for p in model.module_.parameters()} == {np.dtype(np.float64)}
    assert model.transform(x).shape == (100, 8)
    assert model.transform(x, layer=0).shape == (100, 16)
    again = clone(model).fit(x, y)  # weights and dropout are drawn by random_state
    assert again.loss_curve_ == model.loss_curve_
    assert clone(model).set_params(random_state=1).fit(x, y).loss_curve_ != model.loss_curve_


def test_optimiser_and_schedule_are_those_of_train_fit() -> None:
    """The same training by hand."""
    x, y = problem("multiclass")
    start = lambda n_in, n_out: MLP((n_in, 7, n_out), "tanh", rng=np.random.default_rng(1), dtype=np.float64)  # noqa: E731
    model = make("multiclass", module=start, batch_size="full", alpha=0.2, learning_rate_init=0.01)
    model.set_params(optimizer=partial(optim.RMSprop, alpha=0.9), schedule=partial(optim.StepLR, every=2, gamma=0.5))
    model.fit(x, y)
    module = start(5, 3)
    optimiser = optim.RMSprop(module.parameters(), lr=0.01, alpha=0.9)
    loader = data.DataLoader(x, y, batch_size=None)
    history = train.fit(module, F.cross_entropy, optimiser, loader, 5, schedule=optim.StepLR(optimiser, 2, 0.5), l2=0.1)
    assert model.history_["lr"] == history["lr"] == [0.01, 0.01, 0.005, 0.005, 0.0025]
    np.testing.assert_allclose(model.loss_curve_, history["loss"], rtol=1e-12)


# Looking inside


def test_transform_is_each_hidden_layer() -> None:
    x, y = problem("regression")
    model = make("regression", hidden_layer_sizes=(6, 5)).fit(x, y)
    (w1, w2, w3), (b1, b2, b3) = model.coefs_, model.intercepts_
    first = np.maximum(x @ w1 + b1, 0)
    second = np.maximum(first @ w2 + b2, 0)
    for layer, expected in ((0, first), (-2, first), (1, second), (-1, second)):
        np.testing.assert_allclose(model.transform(x, layer=layer), expected, rtol=1e-12)
    np.testing.assert_allclose(model.predict(x), (second @ w3 + b3)[:, 0], rtol=1e-12)


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", KINDS)
def test_input_gradient_is_the_slope(kind: str) -> None:
    x, y = problem(kind)
    model = make(kind, activation="tanh", max_iter=30).fit(x, y)
    x = x[:7].copy()

    def compare(found: np.ndarray, value: Any) -> None:
        """`value` of X is a number for each row, of which each depends on its row alone."""
        np.testing.assert_allclose(found, numerical_gradient(lambda: float(value(x).sum()), x), rtol=1e-6, atol=1e-8)

    if kind in ("regression", "poisson"):
        compare(model.input_gradient(x), model.predict)
    elif kind == "outputs":
        compare(model.input_gradient(x, output=2), lambda x: model.predict(x)[:, 2])
    else:
        labels = [1] if kind == "multilabel" else [None, *model.classes_]
        for label in labels:
            at = np.searchsorted(model.classes_, model.predict(x) if label is None else [label] * 7)
            pick = lambda values, at=at: values[np.arange(7), at]  # noqa: E731
            scores = lambda x: np.stack([-(z := model.decision_function(x)), z], axis=1)  # noqa: E731
            compare(
                model.input_gradient(x, label),
                lambda x, pick=pick, scores=scores: pick(scores(x) if kind == "binary" else model.decision_function(x)),
            )
            compare(model.input_gradient(x, label, of="probability"), lambda x, pick=pick: pick(model.predict_proba(x)))


# To scikit-learn and back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_scikit_learn_and_back(kind: str, dtype: Any) -> None:
    x, y = problem(kind)
    x = x.astype(dtype)
    options = {"hidden_layer_sizes": (6, 4), "activation": "logistic", "random_state": 3, "max_iter": 6, "batch_size": 16}
    ours, theirs = pair(kind, **options)
    ours.fit(x, y)
    theirs.fit(x, y)
    method = "predict" if kind in ("regression", "outputs", "poisson") else "predict_proba"
    tolerance = 1e-6 if dtype == np.float32 else 1e-13
    for given_model, converted in (
        (ours, ours.to_sklearn()),
        (theirs, type(ours).from_sklearn(theirs)),
        (theirs, type(ours).from_sklearn(theirs).to_sklearn()),
    ):
        expected, found = (getattr(model, method)(x) for model in (given_model, converted))
        assert found.dtype == expected.dtype == (np.float64 if kind == "poisson" else dtype) or method == "predict"
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(converted.predict(x[:5]).shape, given_model.predict(x[:5]).shape)
        assert converted.loss_curve_ == given_model.loss_curve_
        assert converted.t_ == given_model.t_
        before = converted.coefs_[0].copy()
        converted.partial_fit(x, y)  # it can be trained on, and shares no memory
        assert (converted.coefs_[0] != before).any()
        np.testing.assert_array_equal(getattr(given_model, method)(x), expected)


def test_coefs_may_be_set() -> None:
    x, y = problem("multiclass")
    one, other = make("multiclass").fit(x, y), make("multiclass", random_state=1).fit(x, y)
    other.coefs_, other.intercepts_ = one.coefs_, one.intercepts_
    np.testing.assert_array_equal(other.predict_proba(x), one.predict_proba(x))
    with pytest.raises(
        ShapeError, match=re.escape("MLPClassifier.coefs_: arrays have shapes [(5, 6)], expected [(5, 6), (6, 3)]")
    ):
        other.coefs_ = one.coefs_[:1]
    before = other.coefs_[0].copy()
    with pytest.raises(
        DTypeError, match=r"MLPClassifier.coefs_: arrays have dtypes \['float64', '<U1'\], expected numeric dtypes"
    ):
        other.coefs_ = [before * 0, np.full((6, 3), "a")]
    np.testing.assert_array_equal(other.coefs_[0], before)


# What is random, and what is asked for


@pytest.mark.parametrize("batch_size", [16, "full"])
def test_a_generator_goes_on_where_that_of_scikit_learn_does(batch_size: int | str) -> None:
    """Though the order that it has drawn does not matter where one batch is all samples."""
    x, y = problem("multiclass")
    ours, theirs = pair("multiclass", hidden_layer_sizes=(6,), max_iter=3)
    ours.set_params(batch_size=batch_size)
    theirs.set_params(batch_size=len(x) if batch_size == "full" else batch_size)
    states = [np.random.RandomState(0) for _ in range(2)]
    for model, state in zip((ours, theirs), states, strict=True):
        with pytest.warns(ConvergenceWarning):
            model.set_params(random_state=state).fit(x, y)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    assert states[0].random_sample() == states[1].random_sample()


def test_random_state() -> None:
    x, y = problem("multiclass")
    model = make("multiclass", early_stopping=True, dropout=0.1)
    fit = lambda state: clone(model).set_params(random_state=state).fit(x, y)  # noqa: E731
    assert fit(0).loss_curve_ == fit(0).loss_curve_ == fit(np.random.RandomState(0)).loss_curve_ != fit(1).loss_curve_
    assert fit(np.random.default_rng(5)).loss_curve_ == fit(np.random.default_rng(5)).loss_curve_
    rng = np.random.default_rng(5)
    shared = model.set_params(random_state=rng)
    assert shared.fit(x, y).loss_curve_ != shared.fit(x, y).loss_curve_  # the generator goes on
    assert fit(None).loss_curve_ != fit(None).loss_curve_


def test_one_class_is_always_predicted() -> None:
    x, _ = problem("binary")
    model = make("binary").fit(x, ["only"] * 60)
    assert set(model.predict(x)) == {"only"}
    np.testing.assert_array_equal(model.predict_proba(x).shape, (60, 1))


def test_log_probabilities_stay_finite() -> None:
    for kind in ("binary", "multiclass", "multilabel"):
        x, y = problem(kind)
        model = make(kind).fit(x, y)
        model.coefs_ = [w * 1e4 for w in model.coefs_]
        assert (model.predict_proba(x) == 0).any()
        assert np.isfinite(model.predict_log_proba(x)).all()


class Wrong(nn.Module):
    """No nn.Sequential, so no hidden layers by number."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


def diverge(model: Any, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    with np.errstate(all="ignore"):
        model.set_params(learning_rate_init=1e305, solver="sgd", alpha=1.0, max_iter=epochs).fit(x, y)


FITTED = partial(lambda **parameters: make("multiclass", **parameters).fit(*problem("multiclass")))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        ({"alpha": -1}, ValueError, "MLPClassifier: alpha must be a number of at least 0, got -1"),
        ({"momentum": 1.5}, ValueError, "momentum must be a number of at least 0 and at most 1, got 1.5"),
        ({"epsilon": 0}, ValueError, "epsilon must be a number above 0, got 0"),
        ({"beta_1": 1.0}, ValueError, "beta_1 must be a number of at least 0 and below 1, got 1.0"),
        ({"tol": True}, ValueError, "tol must be a number of at least 0, got True"),
        ({"max_iter": 0}, ValueError, "max_iter must be a positive integer, got 0"),
        ({"batch_size": "all"}, ValueError, "batch_size must be 'auto' or 'full' or a positive integer, got 'all'"),
        ({"n_iter_no_change": 2.5}, ValueError, "n_iter_no_change must be inf or a positive integer, got 2.5"),
        ({"solver": "newton"}, ValueError, "solver must be one of 'adam', 'sgd', 'lbfgs', got 'newton'"),
        ({"shuffle": 1}, ValueError, "shuffle must be True or False, got 1"),
        ({"verbose": "loud"}, ValueError, "verbose must be 'bar', True, False or an integer, got 'loud'"),
        ({"optimizer": "adam"}, ValueError, "optimizer must be None or callable, got 'adam'"),
        ({"dtype": "int8"}, ValueError, "dtype must be None, float32 or float64, got 'int8'"),
        ({"dtype": "float"[:3]}, ValueError, "dtype must be None, float32 or float64, got 'flo'"),
        ({"device": "tpu"}, ValueError, "device must be 'cpu', 'cuda' or 'cuda:1', got 'tpu'"),
        ({"class_weight": "equal"}, ValueError, "class_weight must be None, 'balanced' or a dict, got 'equal'"),
        ({"class_weight": {7: 2}}, ValueError, "class_weight has labels [7], which are not in classes_, and lacks [0, 1, 2]"),
        ({"hidden_layer_sizes": (5, 0)}, ValueError, "hidden_layer_sizes must be positive integers, got (5, 0)"),
        ({"activation": "swish"}, ValueError, "MLP: activation must be one of"),
        ({"activation": ["relu", "tanh"]}, ValueError, "MLP: activation has 2 entries for 1 hidden layers"),
        ({"dropout": 0.5, "solver": "lbfgs"}, ValueError, "dropout needs solver 'adam' or 'sgd', got 'lbfgs'"),
        ({"early_stopping": True, "validation_fraction": 0.01}, ValueError, "holds out 1 of 60 samples, expected at least 2"),
        ({"random_state": "seed"}, ValueError, "'seed' cannot be used to seed"),
    ],
)
def test_mistakes_in_parameters(act: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        FITTED(**act)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda m, x, y: m.fit(x, y, np.ones(3)), ShapeError, "MLPClassifier: sample_weight has shape (3,), expected (60,)"),
        (lambda m, x, y: m.fit(x, y, -np.ones(60)), ValueError, "sample_weight has weights that are negative or not finite"),
        (lambda m, x, y: m.fit(x, y, np.zeros(60)), ValueError, "sample_weight: the weights are all zero"),
        (
            lambda m, x, y: m.fit(x, y, callbacks=[train.Checkpoint("a.npz")]),
            TypeError,
            "training cannot be resumed from a Checkpoint",
        ),
        (lambda m, x, y: m.fit(x, y, eval_set=x), ValueError, "eval_set must be (X, y) or (X, y, weights)"),
        (lambda m, x, y: m.fit(x, y, eval_set=(x, y + 1)), LabelError, "y has labels [3], which are not in classes_"),
        (lambda m, x, y: m.set_params(solver="lbfgs").fit(x, y, eval_set=(x, y)), ValueError, "eval_set and callbacks need"),
        (lambda m, x, y: m.set_params(solver="lbfgs").partial_fit(x, y), AttributeError, "partial_fit"),
        (lambda m, x, y: m.partial_fit(x, y), ValueError, "classes must be passed on the first call"),
        (lambda m, x, y: m.fit(x, y).partial_fit(x, y + 1), LabelError, "y has labels [3], which are not in classes_"),
        (
            lambda m, x, y: m.fit(x, y).partial_fit(x, y, classes=[0, 1]),
            ValueError,
            "classes is [0, 1], but was [0 1 2] on the first call",
        ),
        (lambda m, x, y: m.fit(x, y).partial_fit(x, np.eye(3, dtype=int)[y]), ValueError, "y is multilabel-indicator, unlike"),
        (
            lambda m, x, y: m.set_params(early_stopping=True).partial_fit(x, y, classes=[0, 1, 2]),
            ValueError,
            "does not support",
        ),
        (lambda m, x, y: m.set_params(class_weight="balanced").partial_fit(x, y), ValueError, "needs all samples; pass a dict"),
        (
            lambda m, x, y: m.set_params(class_weight={0: 1}).fit(x, np.eye(3, dtype=int)[y]),
            ValueError,
            "needs one class per",
        ),
        (lambda m, x, y: m.fit(x, x[:, :2]), ValueError, "Unknown label type: continuous-multioutput"),
        (lambda m, x, y: m.predict(x), NotFittedError, "not fitted yet"),
        (lambda m, x, y: m.transform(x), NotFittedError, "not fitted yet"),
        (lambda m, x, y: m.input_gradient(x), NotFittedError, "not fitted yet"),
        (lambda m, x, y: m.to_sklearn(), NotFittedError, "not fitted yet"),
        (lambda m, x, y: m.fit(x, y).predict(x[:, :2]), ValueError, "X has 2 features, but MLPClassifier is expecting 5"),
        (lambda m, x, y: m.fit(x, y).transform(x, layer=1), OutOfRangeError, "layer 1 is out of range for 1 hidden layers"),
        (
            lambda m, x, y: m.set_params(module=Wrong).fit(x, y).transform(x),
            TypeError,
            "the module is a Wrong, expected an nn.Seq",
        ),
        (lambda m, x, y: m.fit(x, y).input_gradient(x, label=5), LabelError, "label 5 is not in classes_"),
        (
            lambda m, x, y: m.fit(x, y).input_gradient(x, of="odds"),
            ValueError,
            "of must be 'score' or 'probability', got 'odds'",
        ),
        (lambda m, x, y: m.fit(x, np.eye(3, dtype=int)[y]).input_gradient(x), ValueError, "pass label"),
        (
            lambda m, x, y: m.set_params(module=make_module).fit(x, y).to_sklearn(),
            ValueError,
            "do not support a custom module",
        ),
        (
            lambda m, x, y: m.set_params(activation="gelu").fit(x, y).to_sklearn(),
            ValueError,
            "do not support activation='gelu'",
        ),
        (
            lambda m, x, y: type(m).from_sklearn(StandardScaler()),
            TypeError,
            "expected scikit-learn's MLPClassifier, got Standard",
        ),
        (lambda m, x, y: type(m).from_sklearn(m), TypeError, "expected scikit-learn's MLPClassifier, got MLPClassifier"),
        (lambda m, x, y: diverge(m, x, y, 50), TrainingError, "train.fit: the loss is"),
        (
            lambda m, x, y: diverge(m, 1e9 * x, y, 1),
            TrainingError,
            "training led to parameters that are not finite",
        ),
        (
            lambda m, x, y: MLPRegressor(loss="poisson").fit(x, y - 1.0),
            ValueError,
            "loss='poisson' needs non-negative targets",
        ),
        (
            lambda m, x, y: MLPRegressor(max_iter=2).fit(x, y).input_gradient(x, 1),
            OutOfRangeError,
            "output 1 is out of range for 1 outputs",
        ),
        (
            lambda m, x, y: MLPRegressor(max_iter=2, warm_start=True).fit(x, y).fit(x, x),
            ValueError,
            "MLPRegressor: y has 5 columns, expected 1 as in the previous fit",
        ),
    ],
)
def test_mistakes_in_use(act: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        act(make("multiclass"), *problem("multiclass"))


def test_no_warning_where_training_has_ended_by_itself(recwarn: pytest.WarningsRecorder) -> None:
    """Not even in the last epoch that there may be."""
    x, y = problem("multiclass")
    parameters = {"tol": 10.0, "n_iter_no_change": 3}
    epochs = make("multiclass", max_iter=50, **parameters).fit(x, y).n_iter_
    ours, theirs = pair("multiclass", hidden_layer_sizes=(6,), random_state=0, max_iter=epochs, **parameters)
    for model in (ours, theirs):
        model.fit(x, y)
        assert model.n_iter_ == epochs < 50
    assert not [w for w in recwarn if issubclass(w.category, ConvergenceWarning)]


def test_weights_count_in_the_score_that_is_watched() -> None:
    x, y = problem("multiclass", 90)
    weights = np.where(y == 0, 10.0, 0.1)
    ours, theirs = pair("multiclass", early_stopping=True, random_state=0, max_iter=15, validation_fraction=0.3)
    ours.fit(x, y, weights)
    theirs.fit(x, y, weights)
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-12)
    assert ours.validation_scores_ != ours.history_["val_accuracy"]  # which counts samples


def test_a_warm_start_may_begin_to_watch_something_else() -> None:
    x, y = problem("multiclass")
    model = make("multiclass", warm_start=True).fit(x, y)
    model.set_params(early_stopping=True).fit(x, y)
    assert (len(model.validation_scores_), model.best_loss_) == (5, None)
    model.set_params(early_stopping=False).fit(x, y)
    assert (model.validation_scores_, model.best_loss_) == (None, min(model.loss_curve_[10:]))


def test_the_network_is_left_in_evaluation_mode() -> None:
    """So that `module_` can be called as it is."""
    x, y = problem("multiclass")
    model = make("multiclass", dropout=0.5).fit(x, y)
    assert not any(part.training for _, part in model.module_.named_modules())
    np.testing.assert_array_equal(model.module_(Tensor(x)).numpy(), model.decision_function(x))


def test_warnings() -> None:
    x, y = problem("multiclass")
    with pytest.warns(ConvergenceWarning, match="MLPClassifier: training has not converged after 5 epochs"):
        make("multiclass").fit(x, y)
    with pytest.warns(UserWarning, match="batch_size is 100, but there are only 60 samples, which make one batch"):
        make("multiclass", batch_size=100).fit(x, y)


def test_a_bar_instead_of_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make("multiclass", verbose="bar").fit(*problem("multiclass"))
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(MissingDependencyError, match=r"tqdm, which is not installed; pip install tqdm"):
        make("multiclass", verbose="bar").fit(*problem("multiclass"))


# What goes wrong, and what comes after


SMALL: dict[str, Any] = {"hidden_layer_sizes": (6,), "random_state": 0, "max_iter": 60}


def test_partial_fit_after_another_solver() -> None:
    x, y = problem("multiclass")
    model = MLPClassifier(**SMALL).fit(x, y)
    model.set_params(solver="lbfgs").fit(x, y)
    before = [w.copy() for w in model.coefs_]
    model.set_params(solver="adam", learning_rate_init=0.01).partial_fit(x, y)
    assert all(0 < np.abs(a - b).max() < 0.02 for a, b in zip(model.coefs_, before, strict=True))  # one step of Adam


@pytest.mark.parametrize(
    ("refit", "kind"),
    [
        (lambda m, x, y: m.fit(x[y < 2], y[y < 2], sample_weight=[1.0]), ShapeError),
        (lambda m, x, y: m.fit(x, y, eval_set=(x, y + 5)), LabelError),
        (lambda m, x, y: m.fit(x[:, :2], y, callbacks=[lambda run: 1 / 0]), ZeroDivisionError),
        (lambda m, x, y: m.set_params(module=lambda i, o: 3).fit(x, y), TypeError),
    ],
)
def test_a_fit_that_fails_leaves_what_was_fitted(refit: Any, kind: type[Exception]) -> None:
    x, y = problem("multiclass")
    model = MLPClassifier(**SMALL, dropout=0.3).fit(x, y)
    said, attributes, gradient = model.predict_proba(x), sorted(vars(model)), model.input_gradient(x)
    with pytest.raises(kind):
        refit(model, x, y)
    np.testing.assert_array_equal(model.predict_proba(x), said)
    np.testing.assert_array_equal(model.input_gradient(x), gradient)
    assert sorted(vars(model)) == attributes
    fresh = MLPClassifier(**SMALL)
    with pytest.raises(kind):
        refit(fresh, x, y)
    with pytest.raises(NotFittedError):
        fresh.predict(x)


def test_a_callback_that_raises_in_a_warm_start_leaves_dropout_off() -> None:
    x, y = problem("multiclass")
    model = MLPClassifier(**SMALL, dropout=0.5, warm_start=True).fit(x, y)
    with pytest.raises(ZeroDivisionError):
        model.fit(x, y, callbacks=[lambda run: 1 / 0])
    np.testing.assert_array_equal(model.input_gradient(x), model.input_gradient(x))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda i, o: nn.Linear(i, 5), ShapeError, r"the module returns shape \(2, 5\) for 2 samples, expected \(2, 3\)"),
        (
            lambda i, o: nn.Sequential(nn.Linear(i, o), nn.Flatten(0)),
            ShapeError,
            r"returns shape \(6,\) for 2 samples, expected \(2, 3\)",
        ),
        (lambda i, o: np.tanh, TypeError, "module returned a ufunc, expected an nn.Module"),
    ],
)
def test_modules_that_do_not_fit(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MLPClassifier(module=make).fit(*problem("multiclass"))


def test_modules_made_in_threads() -> None:
    """Each thread's layers draw from its own generator, however long the others take."""
    x, y = problem("multiclass")
    gate = threading.Barrier(4)

    def make(inputs: int, outputs: int) -> nn.Module:
        first = nn.Linear(inputs, 4)
        with contextlib.suppress(threading.BrokenBarrierError):
            gate.wait(timeout=1)
        return nn.Sequential(first, nn.Linear(4, outputs))

    def curve(seed: int) -> list[float]:
        return MLPClassifier(module=make, random_state=seed, max_iter=2).fit(x, y).loss_curve_

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(curve, range(4)))
    gate.abort()
    assert together == [curve(seed) for seed in range(4)]
    assert nn.init.generator() is nn.init._default


@pytest.mark.parametrize(
    "name", ["zeros", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "orthogonal", "fan_in_uniform"]
)
def test_estimators_with_initial_values_can_be_pickled(name: str) -> None:
    x, y = problem("multiclass")
    model = MLPClassifier(**SMALL, weight_init=getattr(nn.init, name)()).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert clone(again).fit(x, y).loss_curve_ == model.loss_curve_


def test_strings_and_numbers_of_numpy() -> None:
    x, y = problem("multiclass")
    given = {"solver": np.array(["sgd"])[0], "batch_size": np.str_("auto"), "n_iter_no_change": np.float64("inf")}
    plain = {"solver": "sgd", "batch_size": "auto", "n_iter_no_change": np.inf}
    assert MLPClassifier(**SMALL, **given).fit(x, y).loss_curve_ == MLPClassifier(**SMALL, **plain).fit(x, y).loss_curve_


def test_one_of_coefs_may_be_set() -> None:
    """As in scikit-learn, where a mean of two networks, say, is made so."""
    x, y = problem("multiclass")
    ours, theirs = (kind(**SMALL).fit(x, y) for kind in (MLPClassifier, sklearn.neural_network.MLPClassifier))
    for model in (ours, theirs):
        model.coefs_[0] = model.coefs_[0] / 2
        model.intercepts_[-1:] = [np.array([3.0, 0.0, 0.0])]
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), rtol=1e-9)
    with pytest.raises(ShapeError, match=r"MLPClassifier.coefs_\[0\]: arrays have shapes \[\(2,\)\], expected \[\(5, 6\)\]"):
        ours.coefs_[0] = np.ones(2)
    assert type(copy.deepcopy(ours.coefs_)) is list
    assert type(ours.to_sklearn().coefs_) is list


def test_conversions_after_parameters_were_changed() -> None:
    x, y = problem("multiclass")
    model = MLPClassifier(**SMALL, early_stopping=True, warm_start=True, verbose="bar").fit(x, y)
    theirs = model.set_params(activation="tanh", hidden_layer_sizes=(9,)).to_sklearn()
    np.testing.assert_allclose(theirs.predict_proba(x), model.predict_proba(x), rtol=1e-9)
    theirs.set_params(hidden_layer_sizes=(6,), max_iter=12).fit(x, y)  # goes on
    back = MLPClassifier.from_sklearn(theirs.set_params(hidden_layer_sizes=(7,)))
    np.testing.assert_allclose(back.predict_proba(x), theirs.predict_proba(x), rtol=1e-9)
    assert back.hidden_layer_sizes == (7,)


def test_class_weight_of_a_class_that_a_fold_lacks() -> None:
    x, y = problem("multiclass")
    some = y < 2
    with_more, without = ({0: 1, 1: 2, 2: 3}, {0: 1, 1: 2})
    curves = [MLPClassifier(**SMALL, class_weight=w).fit(x[some], y[some]).loss_curve_ for w in (with_more, without)]
    assert curves[0] == curves[1]


def test_no_transform_without_hidden_layers() -> None:
    assert hasattr(MLPClassifier(), "transform")
    assert hasattr(MLPClassifier(hidden_layer_sizes=6), "transform")
    with pytest.raises(AttributeError, match="transform"):
        MLPClassifier(hidden_layer_sizes=()).transform(np.ones((2, 2)))


def test_divergence_is_a_value_error() -> None:
    """As scikit-learn's is."""
    x = problem("multiclass")[0]
    with pytest.raises(ValueError, match="the loss is"):
        MLPRegressor(**SMALL, solver="sgd", learning_rate_init=1e3).fit(1e8 * x, 1e8 * x[:, 0])
