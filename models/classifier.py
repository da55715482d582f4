"""The multi-layer perceptron as a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels
from sklearn.utils.validation import check_is_fitted, column_or_1d
from tensorgrad.models.estimator import Estimator
from tensorgrad.models.mlp import naming_activations
from tensorgrad.models.parameters import RULES, can_partial_fit

from tensorgrad import Tensor, ops
from tensorgrad.core.backend import Array
from tensorgrad.errors import LabelError
from tensorgrad.nn import functional as F


@naming_activations
@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, Estimator):
    """A multi-layer perceptron classifier: scikit-learn's MLPClassifier, trained by tensorgrad.

    scikit-learn's parameters have the same names, meaning and defaults, and with equal `random_state` training is the same up
    to rounding. (Except for the reported loss of an epoch of several batches with sample weights, which is the weighted mean.)

    hidden_layer_sizes   widths of the hidden layers
    activation           {activations};
                         or a function that returns a module (nn.GELU), or a list with one for each hidden layer.
                         scikit-learn has the first four
    solver               "adam", "sgd", or "lbfgs", which uses all samples in each step and needs SciPy
    alpha                L2 penalty: (alpha / 2m) sum of w² is added to the loss of a batch of m samples, w being the weights
    batch_size           samples per step; "auto" is 200, or all if there are fewer; "full" is all
    learning_rate        of "sgd": "constant"; "invscaling", learning_rate_init / t^power_t after t samples; "adaptive", divided
                         by 5 whenever training would otherwise end
    learning_rate_init   the initial learning rate
    power_t              see learning_rate
    max_iter             maximum number of epochs (for "lbfgs": iterations); a ConvergenceWarning says if it was reached
    shuffle              shuffle the samples in every epoch
    random_state         for initial weights, shuffling and the validation split: a seed, a RandomState, a Generator, or None
                         for NumPy's global one
    tol                  minimum improvement of the loss or score (for "lbfgs": tolerance of the gradient)
    verbose              print the loss after each epoch; "bar" for a progress bar (needs tqdm)
    warm_start           `fit` continues from the current weights
    momentum             of "sgd"
    nesterovs_momentum   of "sgd": use Nesterov momentum
    early_stopping       hold out `validation_fraction` of the samples, monitor their score instead of the training loss, and
                         keep the parameters of the best epoch
    validation_fraction  see early_stopping
    beta_1, beta_2       of "adam", and epsilon
    n_iter_no_change     end training after more than so many epochs without improvement; may be infinite
    max_fun              of "lbfgs": maximum number of evaluations of the loss

    Beyond scikit-learn's:

    class_weight   weights of the classes, a dict from label to number; "balanced" for equal total weight of all classes
    dropout        the probability of dropping an output of a hidden layer in training
    weight_init    from nn.init, for weights, with biases of 0; by default both as in scikit-learn (Glorot and Bengio 2010)
    module         a function of (n_inputs, n_outputs) that returns a network with logits, instead of hidden_layer_sizes.
                   n_outputs is the number of classes, but 1 for two classes
    optimizer      a function of (parameters, lr=learning_rate_init) that returns an optimiser, such as optim.AdamW, instead of
                   solver
    schedule       a function of the optimiser that returns a schedule, such as partial(optim.CosineLR, epochs=20); it gets the
                   training loss
    device         where to train: "cpu", "cuda", "cuda:1", ...
    dtype          of parameters and computation; None for that of X if it is float32, else float64
    compile        replay compiled steps; False runs each step eagerly

    After `fit`: classes_ (m labels of any kind, or an indicator matrix of several labels for each sample), module_ (the
    network, nn.Module), history_ (train.History: loss, and with `early_stopping` or an `eval_set` accuracy, val_loss and
    val_accuracy of each epoch), best_iter_ (the epoch whose parameters were kept), and scikit-learn's coefs_, intercepts_,
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, n_iter_, t_, n_layers_, n_outputs_,
    out_activation_, n_features_in_ and feature_names_in_. The training accuracy is that of the predictions during the epoch.
    """

    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"
    class_weight: dict[Any, float] | str | None = field(default=None, kw_only=True)

    score_name: ClassVar[str] = "accuracy"
    rules: ClassVar[Any] = {
        **RULES,
        "class_weight": (lambda v: v is None or v == "balanced" or isinstance(v, dict), "None, 'balanced' or a dict"),
    }

    # Targets

    def _check_input(
        self, X: Any, y: Any, first: bool, classes: Any = None, needs_all_classes: bool = False
    ) -> tuple[Any, Array]:
        X, y = self._validate(X, first, y=y, multi_output=True)
        is_sparse = hasattr(y, "toarray")
        y = y.toarray() if is_sparse else y
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        kind = type_of_target(y, input_name="y")
        if kind not in ("binary", "multiclass", "multilabel-indicator"):
            raise ValueError(
                f"MLPClassifier: Unknown label type: {kind}; y must be one class per sample, or columns of 0 and 1"
            )
        is_multilabel = kind == "multilabel-indicator"
        if first:
            labels = np.arange(y.shape[1]) if is_multilabel else unique_labels(y if classes is None else classes)
            self.classes_ = labels
            self._has_sparse_labels = is_sparse
            self.out_activation_ = "logistic" if is_multilabel or len(labels) < 3 else "softmax"
            self.n_outputs_ = len(labels) if is_multilabel or len(labels) > 2 else 1
        elif is_multilabel != self._is_multilabel():
            raise ValueError(f"MLPClassifier: y is {kind}, unlike in the previous fit")
        if is_multilabel:
            if y.shape[1] != len(self.classes_):
                raise ValueError(
                    f"MLPClassifier: y has {y.shape[1]} columns, expected {len(self.classes_)} as in the previous fit"
                )
            return X, y.astype(X.dtype)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise LabelError(f"MLPClassifier: y has labels {unknown[:5].tolist()}, which are not in classes_")
        missing = np.setdiff1d(self.classes_, y)
        if needs_all_classes and len(missing):
            raise LabelError(
                f"MLPClassifier: warm_start needs the same classes as in the previous fit, but y has none of "
                f"{missing[:5].tolist()}; partial_fit accepts a subset"
            )
        codes = np.searchsorted(self.classes_, y)
        return X, codes if self.out_activation_ == "softmax" else codes[:, None].astype(X.dtype)

    def _is_multilabel(self) -> bool:
        """Whether a sample may have several labels."""
        return self.out_activation_ == "logistic" and self.n_outputs_ > 1

    def _check_weights(self, sample_weight: Any, X: Any, y: Array) -> Array | None:
        weights = super()._check_weights(sample_weight, X, y)
        if self.class_weight is None:
            return weights
        if self._is_multilabel():
            raise ValueError("MLPClassifier: class_weight needs one class per sample; use sample_weight")
        codes = y.reshape(len(y)).astype(np.intp)
        count = len(self.classes_)
        if isinstance(self.class_weight, dict):
            labels = self.classes_.tolist()
            unknown = [label for label in self.class_weight if label not in labels]
            missing = [label for label in labels if label not in self.class_weight]
            if unknown and missing:  # if some of `missing` are missing, it may be a fold without a class
                raise ValueError(
                    f"MLPClassifier: class_weight has labels {unknown}, which are not in classes_, and lacks {missing}"
                )
            class_weights = np.array([self.class_weight.get(label, 1) for label in labels], X.dtype)
        else:
            total = np.bincount(codes, weights, count)
            class_weights = total.sum() / (count * np.where(total == 0, 1, total))
        class_weights = class_weights.astype(X.dtype)[codes]
        return super()._check_weights(class_weights if weights is None else weights * class_weights, X, y)

    def _loss(self) -> Any:
        return F.cross_entropy if self.out_activation_ == "softmax" else logistic_loss

    def _score(self, outputs: Array, targets: Array, weights: Array | None = None) -> float:
        """The fraction of samples that are predicted correctly, with all labels if there are several per sample."""
        if self.out_activation_ == "softmax":
            right = outputs.argmax(axis=1) == targets
        else:
            right = ((outputs > 0) == (targets > 0.5)).all(axis=1)
        return float(np.average(right, weights=weights))

    @available_if(can_partial_fit)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train one more epoch on these samples, continuing the previous training; returns the estimator.

        classes   all labels that will occur; required in the first call, unless samples have several labels each
        """
        if self.class_weight == "balanced":
            raise ValueError("MLPClassifier.partial_fit: class_weight='balanced' needs all samples; pass a dict")
        if classes is None and not hasattr(self, "classes_") and not type_of_target(y).startswith("multilabel"):
            raise ValueError("MLPClassifier.partial_fit: classes must be passed on the first call")
        if classes is not None and hasattr(self, "classes_") and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"MLPClassifier.partial_fit: classes is {classes}, but was {self.classes_} on the first call")
        return self._fit(X, y, sample_weight, classes=classes, incremental=True)

    # Prediction

    def decision_function(self, X: Any) -> Array:
        """The logits, (m, classes); for two classes that of the second, (m,)."""
        z = self._predicted(X)
        return z.reshape(len(z)) if self.n_outputs_ == 1 else z

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class in `classes_`, (m, classes); 1 for a single class."""
        z = self._predicted(X)
        if len(self.classes_) == 1 and not self._is_multilabel():
            return np.ones_like(z)
        if self.out_activation_ == "softmax":
            return F.softmax(z)
        if self.n_outputs_ > 1:
            return ops.sigmoid(z)
        return np.hstack([ops.sigmoid(-z), ops.sigmoid(z)])

    def predict_log_proba(self, X: Any) -> Array:
        """The log-probability of each class, (m, classes), finite even if the probability rounds to 0."""
        z = self._predicted(X)
        if len(self.classes_) == 1 and not self._is_multilabel():
            return np.zeros_like(z)
        if self.out_activation_ == "softmax":
            return F.log_softmax(z)
        if self.n_outputs_ > 1:
            return -F.softplus(-z)
        return np.hstack([-F.softplus(z), -F.softplus(-z)])

    def predict(self, X: Any) -> Array:
        """The most likely class of each row, (m,); with several labels for each sample an indicator matrix (m, labels), sparse
        if the targets were.
        """
        z = self._predicted(X)
        if self._is_multilabel():
            indicator = (z > 0).astype(int)
            return csr_matrix(indicator) if self._has_sparse_labels else indicator
        codes = z.argmax(axis=1) if self.n_outputs_ > 1 else (z[:, 0] > 0) & (len(self.classes_) > 1)
        return self.classes_[codes.astype(np.intp)]

    def input_gradient(self, X: Any, label: Any = None, of: str = "score") -> Array:
        """The sensitivity of a class to each feature: the gradient of its score or probability with respect to X, (m,
        features).

        label   one of `classes_`; by default the predicted class of each row. Required if samples have several labels
        of      "score": the logit; for two classes that of the second, and its negative for the first. Or "probability"

        Raises LabelError for another label.
        """
        check_is_fitted(self)
        if of not in ("score", "probability"):
            raise ValueError(f"MLPClassifier.input_gradient: of must be 'score' or 'probability', got {of!r}")
        labels = self.classes_.tolist()
        if label is None and self._is_multilabel():
            raise ValueError("MLPClassifier.input_gradient: samples have several labels: pass label")
        if label is not None and label not in labels:
            raise LabelError(f"MLPClassifier.input_gradient: label {label!r} is not in classes_")
        predicted: Array = None if label is not None else np.searchsorted(self.classes_, self.predict(X))

        def class_scores(z: Tensor, samples: slice) -> Tensor:
            codes = np.full(len(z), labels.index(label)) if predicted is None else predicted[samples]
            if self.n_outputs_ == 1:
                signed = z.reshape(-1) * Tensor(np.where(codes, 1, -1), dtype=z.dtype, device=z.device)
                if of == "probability" and len(labels) == 1:  # its probability is 1
                    return signed * 0
                return signed if of == "score" else signed.sigmoid()
            if of == "probability":
                z = z.softmax() if self.out_activation_ == "softmax" else z.sigmoid()
            return z[np.arange(len(codes)), codes]

        return self._gradient(X, class_scores)

    # scikit-learn's protocol

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        estimator = super().from_sklearn(model)
        estimator._has_sparse_labels = model._label_binarizer.sparse_input_
        return estimator

    def to_sklearn(self) -> Any:
        model = super().to_sklearn()
        indicator = np.array([[0], [1]]) * np.ones(len(self.classes_), int)
        indicator = csr_matrix(indicator) if self._has_sparse_labels else indicator
        model._label_binarizer = LabelBinarizer().fit(indicator if self._is_multilabel() else self.classes_)
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def logistic_loss(z: Any, target: Any, *, reduction: str = "mean") -> Any:
    """The cross-entropy between the logistic function of z (m, k) and targets in 0 .. 1, summed over the k of a sample."""
    losses = F.binary_cross_entropy_with_logits(z, target, reduction="none").sum(-1)
    return losses.mean() if reduction == "mean" else losses
