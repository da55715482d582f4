"""The estimators beside scikit-learn's at the edges of what they are given: equal, refused by both, or listed as different."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn.neural_network
from tensorgrad.models import MLPClassifier, MLPRegressor

from tensorgrad.errors import DTypeError, LabelError, TrainingError

RNG = np.random.default_rng(0)
M = 24
X = RNG.normal(size=(M, 3))
LABELS, NUMBERS = np.digitize(X[:, 0], [-0.5, 0.5]), X[:, 0] * 2
SEVERAL = np.eye(3, dtype=int)[LABELS]
THIRD = np.arange(M) == 3
KINDS = {"classifier": MLPClassifier, "regressor": MLPRegressor}

TARGETS: dict[str, Any] = {
    "one class": np.ones(M, int),
    "one text": np.full(M, "a"),
    "one bool": np.ones(M, bool),
    "two": (LABELS > 0).astype(int),
    "bool": LABELS > 0,
    "text": np.array(list("abc"))[LABELS],
    "objects": np.array(list("abc"), object)[LABELS],
    "column": LABELS[:, None],
    "whole floats": LABELS.astype(float),
    "floats": NUMBERS,
    "NaN": np.where(THIRD, np.nan, LABELS.astype(float)),
    "inf": np.where(THIRD, np.inf, LABELS.astype(float)),
    "short": LABELS[:20],
    "long": np.r_[LABELS, LABELS],
    "empty": LABELS[:0],
    "0-d": np.array(1),
    "3-d": LABELS[:, None, None],
    "list": LABELS.tolist(),
    "nothing": None,
    "Nones": np.array([None] * M, object),
    "mixed": np.array(["a", 1] * (M // 2), object),
    "negative": LABELS - 5,
    "several": SEVERAL,
    "several, one column": SEVERAL[:, :1],
    "several, all 0": SEVERAL * 0,
    "sparse": sp.csr_matrix(SEVERAL),
    "complex": LABELS + 1j,
    "dates": LABELS.astype("datetime64[D]"),
    "uint8": LABELS.astype(np.uint8),
    "constant": np.full(M, 0.5),
}
SAMPLES: dict[str, Any] = {
    "1-d": X[:, 0],
    "empty": X[:0],
    "no features": X[:, :0],
    "NaN": np.where(X > 2, np.nan, X),
    "inf": np.where(X > 1.5, np.inf, X),
    "constant": np.ones_like(X),
    "one": X[:1],
    "two": X[:2],
    "sparse": sp.csr_matrix(X),
    "coo": sp.coo_matrix(X),
    "integers": (X * 10).astype(int),
    "bool": X > 0,
    "text": np.full((M, 3), "a"),
    "objects": X.astype(object),
    "list": X.tolist(),
    "3-d": X[:, :, None],
    "float16": X.astype(np.float16),
    "nothing": None,
    "complex": X + 0j,
    "big-endian": X.astype(">f8"),
    "two features": X[:, :2],
}
WEIGHTS: dict[str, Any] = {
    "zeros": np.zeros(M),
    "ones": np.ones(M),
    "NaN": np.full(M, np.nan),
    "negative": -np.ones(M),
    "short": np.ones(5),
    "text": np.full(M, "a"),
    "number": 2.0,
    "2-d": np.ones((M, 1)),
    "half of them": (np.arange(M) % 2).astype(float),
    "list": [1] * M,
}
SECOND: dict[str, tuple[Any, Any]] = {  # the targets of two fits
    "fewer": (LABELS, np.minimum(LABELS, 1)),
    "more": (np.minimum(LABELS, 1), LABELS),
    "others": (LABELS, LABELS + 10),
    "the same": (LABELS, LABELS[::-1].copy()),
    "one class": (LABELS, LABELS * 0),
    "one class first": (LABELS * 0, LABELS),
    "text": (LABELS, np.array(list("abc"))[LABELS]),
    "several": (LABELS, SEVERAL),
    "columns": (SEVERAL, SEVERAL[:, :2]),
    "more columns": (NUMBERS, np.c_[NUMBERS, NUMBERS]),
    "a column less": (np.c_[NUMBERS, NUMBERS], NUMBERS),
    "floats": (LABELS, LABELS.astype(float)),
}

# Where scikit-learn does something else, what is done here: an error, or None for a result; also in the guide, differences.md
DIFFERENT: dict[str, Any] = {
    "regressor targets sparse": None,  # scikit-learn fails inside
    "regressor targets Nones": (ValueError, TrainingError),  # scikit-learn's L-BFGS trains on NaN
    "regressor targets dates": DTypeError,  # with an error of NumPy's
    "regressor warm a column less": ValueError,  # scikit-learn broadcasts the column
    "regressor partial a column less": ValueError,
    "classifier weights negative": ValueError,  # scikit-learn climbs
    "regressor weights negative": ValueError,
}


def outcome(act: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return act()
        except Exception as error:
            return error


def predictions(model: Any, x: Any = X) -> list[np.ndarray]:
    """What a fitted model says, as arrays; of one class, whose probability scikit-learn has something else for, without it."""
    found = [model.predict(x)]
    found = [found[0].toarray(), np.array("sparse")] if hasattr(found[0], "toarray") else found
    if hasattr(model, "classes_"):
        found.append(model.classes_)
        if len(model.classes_) > 1:
            found += [model.predict_proba(x), model.predict_log_proba(x)]
        elif type(model) is MLPClassifier:
            np.testing.assert_array_equal(model.predict_proba(x), np.ones((len(found[0]), 1)))
            np.testing.assert_array_equal(model.predict_log_proba(x), np.zeros((len(found[0]), 1)))
    return found


def same(case: str, kind: str, act: Callable[[Any], Any]) -> None:
    """That an act on an estimator of ours ends as it does with scikit-learn's."""
    options = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
    ours, theirs = KINDS[kind], getattr(sklearn.neural_network, KINDS[kind].__name__)
    found, expected = (outcome(lambda make=make: act(lambda **more: make(**options, **more))) for make in (ours, theirs))
    if case in DIFFERENT:
        error = DIFFERENT[case]
        assert isinstance(found, error) if error else not isinstance(found, Exception), found
        return
    if isinstance(expected, Exception) or isinstance(found, Exception):
        assert isinstance(expected, Exception), f"refused here: {found!r}"
        assert isinstance(found, Exception), f"taken here: {expected!r}"
        assert isinstance(found, (ValueError, TypeError)), found
        return
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", TARGETS)
def test_targets(kind: str, solver: str, name: str) -> None:
    same(f"{kind} targets {name}", kind, lambda make: predictions(make(solver=solver).fit(X, TARGETS[name])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAMPLES)
def test_samples(kind: str, name: str) -> None:
    x, y = SAMPLES[name], {"classifier": LABELS, "regressor": NUMBERS}[kind]
    there = y[: x.shape[0]] if hasattr(x, "shape") else y
    same(f"{kind} samples {name}", kind, lambda make: predictions(make().fit(x, there), x))
    same(f"{kind} predict {name}", kind, lambda make: predictions(make().fit(X, y), x))
    same(f"{kind} second {name}", kind, lambda make: predictions(make(warm_start=True).fit(X, y).fit(x, there)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(kind: str, name: str) -> None:
    y = {"classifier": LABELS, "regressor": NUMBERS}[kind]
    same(f"{kind} weights {name}", kind, lambda make: predictions(make().fit(X, y, sample_weight=WEIGHTS[name])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SECOND)
def test_second_fits(kind: str, name: str) -> None:
    first, second = SECOND[name]
    if kind == "classifier" and first.dtype.kind == "f":
        return

    def partial(make: Any) -> Any:
        classes = {"classes": np.unique(first)} if kind == "classifier" and first.ndim == 1 else {}
        return predictions(make().partial_fit(X, first, **classes).partial_fit(X, second))

    same(f"{kind} warm {name}", kind, lambda make: predictions(make(warm_start=True).fit(X, first).fit(X, second)))
    same(f"{kind} cold {name}", kind, lambda make: predictions(make().fit(X, first).fit(X, second)))
    same(f"{kind} partial {name}", kind, partial)


def test_what_is_said_of_other_classes() -> None:
    model = MLPClassifier(max_iter=2, warm_start=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, LABELS)
        before = [w.copy() for w in model.coefs_]
        with pytest.raises(
            LabelError, match=r"warm_start needs the same classes as in the previous fit, but y has none of \[2\]"
        ):
            model.fit(X, np.minimum(LABELS, 1))
        with pytest.raises(LabelError, match=r"y has labels \[3\], which are not in classes_"):
            model.fit(X, LABELS + 1)
        for a, b in zip(before, model.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        model.partial_fit(X, np.minimum(LABELS, 1))  # a batch need not have all
        model.fit(X, LABELS, eval_set=(X, np.minimum(LABELS, 1)))  # nor what is measured
    one = MLPClassifier(max_iter=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.fit(X, LABELS * 0)
    np.testing.assert_array_equal(one.input_gradient(X, of="probability"), 0)
