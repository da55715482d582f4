"""Fitted estimators: outputs, hidden layers, gradients, scikit-learn's attributes, and conversion to its estimators."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import sklearn.neural_network
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from tensorgrad.models.parameters import Parameters

import tensorgrad
from tensorgrad import Tensor, nn, train
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, put
from tensorgrad.core.tensor import wrap
from tensorgrad.errors import DTypeError, OutOfRangeError, ShapeError
from tensorgrad.train.evaluate import evaluating
from tensorgrad.train.state import modules_of

PREDICTION_BATCH_SIZE = 4096  # batch size for predictions

FIT_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "n_outputs_", "out_activation_", "classes_")
TRAINING_ATTRIBUTES = (
    *("n_iter_", "t_", "loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_"),
    "_no_improvement_count",
)


def has_hidden_layers(model: Fitted) -> bool:
    """Whether the estimator has a `transform`."""
    if model.module is None and not np.size(model.hidden_layer_sizes):
        raise AttributeError(f"{type(model).__name__}: transform needs a hidden layer, but hidden_layer_sizes is ()")
    return True


class ParameterArrays(list[Array]):
    """The arrays of parameters: setting an item writes to the parameter."""

    def __init__(self, name: str, parameters: list[Array]) -> None:
        super().__init__([wrap(array, None).numpy() for array in parameters])
        self.name, self.parameters = name, parameters

    def __setitem__(self, index: Any, value: Any) -> None:
        targets, values = (self.parameters[index], value) if isinstance(index, slice) else ([self.parameters[index]], [value])
        set_arrays(f"{self.name}[{index}]", targets, values)
        super().__init__([wrap(array, None).numpy() for array in self.parameters])

    def __reduce__(self) -> Any:
        """Copies and pickles are plain lists of independent arrays."""
        return list, (list(self),)


class Fitted(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Parameters):
    """Base of the estimators, without training.

    module_   the network
    """

    hidden_layer_sizes: Any
    activation: Any
    module_: nn.Module
    n_outputs_: int

    def _validate(self, X: Any, first: bool, **options: Any) -> Any:
        """X (and y) validated by scikit-learn: an array, or a CSR matrix, of the right dtype."""
        dtypes = [np.float64, np.float32] if self.dtype is None else np.dtype(self.dtype)
        return validate_data(self, X, accept_sparse="csr", dtype=dtypes if first else self._dtype, reset=first, **options)

    @property
    def _dtype(self) -> Any:
        return next(self.module_.parameters()).dtype

    def _predicted(self, X: Any) -> Array:
        """The outputs of the network for X, (m, n_outputs_)."""
        check_is_fitted(self)
        return self._outputs(self._validate(X, first=False))

    def _outputs(self, X: Any, module: nn.Module | None = None) -> Array:
        module = module or self.module_
        if not self._keeps_sparse(X):
            return train.predict(module, X, PREDICTION_BATCH_SIZE)
        with evaluating(modules_of(module)):
            return np.concatenate(
                [module(X[i : i + PREDICTION_BATCH_SIZE]).numpy() for i in range(0, X.shape[0], PREDICTION_BATCH_SIZE)]
            )

    def _keeps_sparse(self, X: Any) -> bool:
        """Whether X stays sparse: the first layer accepts sparse matrices, and is in main memory."""
        return hasattr(X, "tocsr") and self.module is None and self.device == "cpu"

    @available_if(has_hidden_layers)
    def transform(self, X: Any, layer: int = -1) -> Array:
        """The outputs of a hidden layer for X, after its activation, (m, width): 0 is the first layer, -1 the last."""
        check_is_fitted(self)
        parts = self._layers(layer)
        return self._outputs(self._validate(X, first=False), nn.Sequential(*parts))

    def _layers(self, layer: int) -> list[nn.Module]:
        """The modules of the network up to a hidden layer."""
        where = f"{type(self).__name__}.transform"
        if not isinstance(self.module_, nn.Sequential):
            raise TypeError(f"{where}: the module is a {type(self.module_).__name__}, expected an nn.Sequential; use module_")
        parts = [self.module_[i] for i in range(len(self.module_))]
        ends = [i for i, part in enumerate(parts) if isinstance(part, nn.Linear)][1:]
        if not -len(ends) <= layer < len(ends):
            raise OutOfRangeError(f"{where}: layer {layer} is out of range for {len(ends)} hidden layers")
        return parts[: ends[layer]]

    @property
    def _n_features_out(self) -> int:
        """The number of features that `transform` returns; scikit-learn names them."""
        return next(part for part in reversed(self._layers(-1)) if isinstance(part, nn.Linear)).weight.shape[1]

    def _gradient(self, X: Any, score: Callable[[Tensor, slice], Tensor]) -> Array:
        """The gradient of `of(outputs, samples)`, a number per sample, with respect to X: (m, features)."""
        check_is_fitted(self)
        X = self._validate(X, first=False)
        gradients = []
        for start in range(0, X.shape[0], PREDICTION_BATCH_SIZE):
            samples = slice(start, start + PREDICTION_BATCH_SIZE)
            x = X[samples] if isinstance(X, np.ndarray) else X[samples].toarray()
            leaf = Tensor(x, requires_grad=True, device=next(self.module_.parameters()).device)
            (g,) = tensorgrad.grad(score(self.module_(leaf), samples).sum(), [leaf])
            gradients.append(g.numpy())
        return np.concatenate(gradients)

    # scikit-learn's attributes

    def _linear(self) -> list[nn.Linear]:
        return [part for _, part in self.module_.named_modules() if isinstance(part, nn.Linear)]

    @property
    def coefs_(self) -> list[Array]:
        """The weights W (in, out) of the linear layers, sharing memory with the parameters (on a GPU: copies). The list and its
        items can be set.
        """
        return ParameterArrays(f"{type(self).__name__}.coefs_", [layer.weight.data for layer in self._linear()])

    @coefs_.setter
    def coefs_(self, values: Any) -> None:
        set_arrays(f"{type(self).__name__}.coefs_", [layer.weight.data for layer in self._linear()], values)

    @property
    def intercepts_(self) -> list[Array]:
        """The biases b (out,) of the linear layers that have one, likewise."""
        return ParameterArrays(f"{type(self).__name__}.intercepts_", self._biases())

    @intercepts_.setter
    def intercepts_(self, values: Any) -> None:
        set_arrays(f"{type(self).__name__}.intercepts_", self._biases(), values)

    def _biases(self) -> list[Array]:
        return [layer.bias.data for layer in self._linear() if layer.bias is not None]

    @property
    def n_layers_(self) -> int:
        """The number of layers, including input and output."""
        return len(self._linear()) + 1

    # Conversion to and from scikit-learn

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Convert a fitted scikit-learn estimator: the same parameters, weights, curves and predictions.

        Raises TypeError for anything but scikit-learn's estimator of the same name.
        """
        if type(model).__name__ != cls.__name__ or not type(model).__module__.startswith("sklearn."):
            raise TypeError(f"{cls.__name__}.from_sklearn: expected scikit-learn's {cls.__name__}, got {type(model).__name__}")
        check_is_fitted(model)
        estimator = cls(**model.get_params(deep=False))
        copy_attributes(model, estimator, FIT_ATTRIBUTES)
        hidden_layer_sizes, estimator.hidden_layer_sizes = (
            estimator.hidden_layer_sizes,
            [len(b) for b in model.intercepts_[:-1]],
        )
        estimator._create_network(model.n_features_in_, model.coefs_[0].dtype, np.random.RandomState(0))
        estimator.hidden_layer_sizes = hidden_layer_sizes  # may have been changed since
        estimator.coefs_, estimator.intercepts_ = model.coefs_, model.intercepts_
        estimator.module_.eval()
        copy_attributes(model, estimator, TRAINING_ATTRIBUTES)
        estimator.best_iter_ = estimator.n_iter_
        return estimator

    def to_sklearn(self) -> Any:
        """Convert to scikit-learn's estimator of the same name, with the same parameters, weights, curves and predictions.

        Raises ValueError for a network that scikit-learn does not support: from `module`, or with other activations.
        """
        check_is_fitted(self)
        name = type(self).__name__
        activation = self._trained_activation
        names = set(activation) if isinstance(activation, (list, tuple)) else {activation}
        if self.module is not None or len(names) > 1 or not names <= {"relu", "logistic", "tanh", "identity"}:
            unsupported = "a custom module" if self.module is not None else f"activation={activation!r}"
            raise ValueError(f"{name}.to_sklearn: scikit-learn's networks do not support {unsupported}")
        kind = getattr(sklearn.neural_network, name)
        params = {parameter: getattr(self, parameter) for parameter in kind().get_params()}
        params["activation"] = next(iter(names), "identity")
        params["batch_size"] = "auto" if self.batch_size == "full" else self.batch_size
        if isinstance(self.random_state, np.random.Generator):
            params["random_state"] = None
        if self.verbose == "bar":
            params["verbose"] = False
        model = kind(**params)
        copy_attributes(self, model, (*FIT_ATTRIBUTES, *TRAINING_ATTRIBUTES, "n_layers_", "coefs_", "intercepts_"))
        if self.early_stopping:  # for comparison if training continues
            model._best_coefs, model._best_intercepts = copy.deepcopy((model.coefs_, model.intercepts_))
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def set_arrays(name: str, targets: list[Array], values: Any) -> None:
    """Write arrays into others of the same shapes. Raises, before anything is written, ShapeError for other shapes, DTypeError
    for non-numeric values.
    """
    arrays = [np.asarray(value) for value in values]
    if any(a.dtype.kind not in "biuf" for a in arrays):
        raise DTypeError(f"{name}: arrays have dtypes {[str(a.dtype) for a in arrays]}, expected numeric dtypes")
    if [a.shape for a in arrays] != [a.shape for a in targets]:
        raise ShapeError(f"{name}: arrays have shapes {[a.shape for a in arrays]}, expected {[a.shape for a in targets]}")
    for target, array in zip(targets, arrays, strict=True):
        put(target, array.astype(target.dtype, copy=False))
        writes.wrote(target)


def copy_attributes(source: Any, target: Any, names: tuple[str, ...]) -> None:
    """Copy those of the attributes that the source has."""
    for name in names:
        if hasattr(source, name):
            setattr(target, name, copy.deepcopy(getattr(source, name)))
