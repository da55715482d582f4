"""Metrics: measures of predictions that are not differentiated.

Each is a function of (prediction, target), arrays or Tensors. For classifiers `prediction` is (m, classes), logits or
probabilities; the largest is the predicted class. `target` is class indices (m,), or one-hot or probabilities (m, classes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import DataError, DTypeError, LabelError, ShapeError

Metric: TypeAlias = Callable[[Any, Any], float]


def accuracy(prediction: Any, target: Any) -> float:
    """The fraction of samples that are classified correctly.

    prediction   (m, classes); or (m,) or (m, 1), the logits of class 1 against class 0; or class indices (m,), integers
    """
    classes, labels = _classes("accuracy", prediction), _labels("accuracy", target)
    _check_samples("accuracy", classes, labels)
    return float(np.mean(classes == labels))


def top_k(k: int) -> Metric:
    """Return a metric: the fraction of samples whose class is among the k with the largest predictions. Ties go to lower
    indices.

    Raises ValueError for k below 1; the metric raises ShapeError unless there are at least k classes.
    """
    if k < 1:
        raise ValueError(f"top_k: k must be at least 1, got {k}")

    def metric(prediction: Any, target: Any) -> float:
        scores, labels = _scores(metric.__name__, prediction), _labels(metric.__name__, target)
        _check_samples(metric.__name__, scores, labels)
        if scores.shape[1] < k:
            raise ShapeError(f"{metric.__name__}: prediction has {scores.shape[1]} classes, expected at least {k}")
        _check_labels(metric.__name__, labels, scores.shape[1])
        right = scores[np.arange(len(labels)), labels][:, None]
        earlier = np.arange(scores.shape[1]) < labels[:, None]
        before = ~(scores <= right) | ((scores == right) & earlier)  # as in argmax, NaN counts as largest; it is never right
        return float(np.mean(before.sum(axis=1) < k))

    metric.__name__ = f"top_{k}"
    return metric


def confusion_matrix(prediction: Any, target: Any, classes: int | None = None) -> Array:
    """The confusion matrix (classes, classes), int64: counts by true class (rows) and predicted class (columns).

    classes   number of classes; by default the number of columns of prediction, or the largest index + 1
    """
    predicted, labels = _classes("confusion_matrix", prediction), _labels("confusion_matrix", target)
    _check_samples("confusion_matrix", predicted, labels)
    shape = np.shape(_array(prediction))
    default = shape[1] if len(shape) == 2 and shape[1] > 1 else int(max(predicted.max(initial=0), labels.max(initial=0))) + 1
    n = default if classes is None else classes
    for indices in (predicted, labels):
        _check_labels("confusion_matrix", indices, n)
    return np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)


def log_loss(prediction: Any, target: Any) -> float:
    """The mean cross-entropy of logits (m, classes), L_i = log(sum of e^z) - z of the class, in float64."""
    z, labels = _scores("log_loss", prediction).astype(np.float64), _labels("log_loss", target)
    _check_samples("log_loss", z, labels)
    _check_labels("log_loss", labels, z.shape[1])
    top = z.max(axis=1, keepdims=True)
    total = np.log(np.exp(z - top).sum(axis=1)) + top[:, 0]
    return float(np.mean(total - z[np.arange(len(labels)), labels]))


def mse(prediction: Any, target: Any) -> float:
    """The mean of (prediction - target)², in float64; both of the same shape."""
    p, t = _values("mse", prediction, target)
    return float(np.mean((p - t) ** 2))


def r2(prediction: Any, target: Any) -> float:
    """The coefficient of determination, 1 - sum (prediction - target)² / sum (target - its mean)², in float64.

    prediction, target   (m,) or (m, outputs), of the same shape; the mean over several outputs. For a constant target it is
                         1 if the prediction is exact, else 0, as in scikit-learn
    """
    p, t = (a.reshape(len(a), -1) for a in _values("r2", prediction, target))
    residual = ((p - t) ** 2).sum(axis=0)
    spread = ((t - t.mean(axis=0)) ** 2).sum(axis=0)
    flat = spread == 0
    return float(np.mean(np.where(flat, residual == 0, 1 - residual / np.where(flat, 1, spread))))


def _array(value: Any) -> Array:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def _scores(name: str, prediction: Any) -> Array:
    scores = _array(prediction)
    if scores.ndim != 2:
        raise ShapeError(f"{name}: prediction has shape {scores.shape}, expected (samples, classes)")
    return scores


def _classes(name: str, prediction: Any) -> Array:
    """The predicted class of each sample."""
    p = _array(prediction)
    if p.ndim == 2 and p.shape[1] > 1:
        return p.argmax(axis=1)
    if p.ndim not in (1, 2):
        raise ShapeError(f"{name}: prediction has shape {p.shape}, expected (samples, classes) or (samples,)")
    column = p.reshape(len(p))
    return (column > 0).astype(np.int64) if is_floating(p.dtype) else column.astype(np.int64)


def _labels(name: str, target: Any) -> Array:
    """The true class of each sample."""
    t = _array(target)
    if t.ndim == 2 and t.shape[1] > 1:
        return t.argmax(axis=1)
    if t.ndim not in (1, 2):
        raise ShapeError(f"{name}: target has shape {t.shape}, expected (samples,) or (samples, classes)")
    if is_floating(t.dtype) and not np.array_equal(t, np.floor(t)):
        raise DTypeError(f"{name}: target must be class indices, got dtype {t.dtype}")
    return t.reshape(len(t)).astype(np.int64)


def _values(name: str, prediction: Any, target: Any) -> tuple[Array, Array]:
    p, t = (_array(a).astype(np.float64) for a in (prediction, target))
    if p.shape != t.shape or not p.ndim:
        raise ShapeError(
            f"{name}: prediction {p.shape} and target {t.shape}, expected the same shape, with the samples as first axis"
        )
    if not len(p):
        raise DataError(f"{name}: no samples")
    return p, t


def _check_samples(name: str, prediction: Array, labels: Array) -> None:
    if len(prediction) != len(labels):
        raise ShapeError(f"{name}: {len(prediction)} predictions for {len(labels)} targets")
    if not len(labels):
        raise DataError(f"{name}: no samples")


def _check_labels(name: str, labels: Array, classes: int) -> None:
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        i = int(wrong.argmax())
        raise LabelError(f"{name}: class {labels[i]} of sample {i}, expected 0 to {classes - 1}")
