"""The multi-layer perceptron as a regressor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, column_or_1d
from tensorgrad.models.estimator import Estimator
from tensorgrad.models.parameters import RULES, can_partial_fit, one_of

from tensorgrad import Tensor, ops
from tensorgrad.core.backend import Array
from tensorgrad.errors import DTypeError, OutOfRangeError


@dataclass(eq=False, repr=False)
class MLPRegressor(RegressorMixin, Estimator):
    """A multi-layer perceptron regressor: scikit-learn's MLPRegressor, trained by tensorgrad.

    loss   "squared_error", half of it; or "poisson", half of the Poisson deviance, for targets of at least 0: the prediction
           is e to the power of the network's output

    Other parameters, attributes and methods are those of MLPClassifier that do not involve classes. y is (m,) or (m, outputs);
    the score is R², in the history as "r2" and "val_r2". For several outputs the sum of their losses is minimised and, as in
    scikit-learn, the mean of their squared errors is reported.
    """

    loss: str = "squared_error"
    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"

    score_name: ClassVar[str] = "r2"
    rules: ClassVar[Any] = {**RULES, "loss": one_of("squared_error", "poisson")}

    def _check_input(
        self, X: Any, y: Any, first: bool, classes: Any = None, needs_all_classes: bool = False
    ) -> tuple[Any, Array]:
        X, y = self._validate(X, first, y=y, multi_output=True, y_numeric=True)
        y = y.toarray() if hasattr(y, "toarray") else y
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.dtype.kind not in "biuf":
            raise DTypeError(f"MLPRegressor: y must be numbers, got dtype {y.dtype}")
        if not np.isfinite(y).all():  # None in an object array, which scikit-learn accepts
            raise ValueError("MLPRegressor: y has values that are not finite")
        y = y.reshape(len(y), -1).astype(X.dtype)
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError("MLPRegressor: loss='poisson' needs non-negative targets")
        if first:
            self.n_outputs_ = y.shape[1]
            self.out_activation_ = "exp" if self.loss == "poisson" else "identity"
        elif y.shape[1] != self.n_outputs_:
            raise ValueError(f"MLPRegressor: y has {y.shape[1]} columns, expected {self.n_outputs_} as in the previous fit")
        return X, y

    def _loss(self) -> Any:
        return poisson_loss if self.loss == "poisson" else squared_error

    def _reported_loss(self) -> Any:
        if self.loss == "poisson" or self.n_outputs_ == 1:
            return self._loss()
        weight = 1 / self.n_outputs_

        def mean_over_outputs(z: Any, target: Any, *, reduction: str = "mean") -> Any:
            losses = squared_error(z, target, reduction=reduction)
            return losses - losses.detach() * (1 - weight)

        return mean_over_outputs

    def _predictions(self, outputs: Array) -> Array:
        y = np.exp(outputs) if self.out_activation_ == "exp" else outputs
        return y.reshape(len(y)) if self.n_outputs_ == 1 else y

    def _score(self, outputs: Array, targets: Array, weights: Array | None = None) -> float:
        predictions = self._predictions(outputs).reshape(targets.shape)
        return float(r2_score(targets, predictions, sample_weight=weights)) if len(targets) > 1 else float("nan")

    @available_if(can_partial_fit)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train one more epoch on these samples, continuing the previous training; returns the estimator."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """The prediction for each row, (m,) or (m, outputs)."""
        return self._predictions(self._predicted(X))

    def input_gradient(self, X: Any, output: int = 0) -> Array:
        """The sensitivity of the prediction to each feature: the gradient of one output with respect to X, (m, features)."""
        check_is_fitted(self)
        if not -self.n_outputs_ <= output < self.n_outputs_:
            raise OutOfRangeError(f"MLPRegressor.input_gradient: output {output} is out of range for {self.n_outputs_} outputs")

        def selected_output(z: Tensor, samples: slice) -> Tensor:
            return z[:, output].exp() if self.out_activation_ == "exp" else z[:, output]

        return self._gradient(X, selected_output)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def squared_error(z: Any, target: Any, *, reduction: str = "mean") -> Any:
    """L_i = sum over the outputs of (z - target)² / 2."""
    d = z - target
    losses = (d * d).sum(-1) / 2
    return losses.mean() if reduction == "mean" else losses


def poisson_loss(z: Any, target: Any, *, reduction: str = "mean") -> Any:
    """L_i = sum over the outputs of t ln(t / p) - t + p, half the Poisson deviance of p = e^z; t ln t is 0 at 0."""
    is_positive = target > 0
    constant = ops.where(is_positive, target * ops.log(ops.where(is_positive, target, 1)), 0) - target
    losses = (constant - target * z + ops.exp(z)).sum(-1)
    return losses.mean() if reduction == "mean" else losses
