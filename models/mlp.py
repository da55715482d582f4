"""The multi-layer perceptron, as a module and as a classifier with scikit-learn's habits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tensorgrad import Tensor, data, nn, no_grad, optim
from tensorgrad.backend import Array
from tensorgrad.errors import DataError, GraphError, MissingDependencyError
from tensorgrad.nn import functional as F
from tensorgrad.nn import init

ACTIVATIONS: dict[str, Callable[[], nn.Module] | None] = {
    "relu": nn.ReLU,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": None,
}


class MLP(nn.Sequential):
    """Linear layers of the widths given, with an activation between them; logits come out.

    widths       inputs, hidden layers, outputs: (64, 500, 500, 10)
    activation   "relu", "logistic", "tanh" or "identity"
    weight_init  from nn.init; N(0, 2/in) by default. Biases start at 0.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: str = "relu",
        *,
        weight_init: init.Init | None = None,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: activation must be one of {sorted(ACTIVATIONS)}, got {activation!r}")
        if len(widths) < 2 or any(not isinstance(n, (int, np.integer)) or n < 1 for n in widths):
            raise ValueError(f"MLP: widths must be two or more whole numbers above 0, got {tuple(widths)}")
        make = ACTIVATIONS[activation]
        modules: list[nn.Module] = []
        for n, m in pairwise(widths):
            if modules and make is not None:
                modules.append(make())
            modules.append(
                nn.Linear(n, m, weight_init=weight_init or init.he_normal(), bias_init=init.zeros(), rng=rng, dtype=dtype)
            )
        super().__init__(*modules)


class MLPClassifier:
    """A multi-layer perceptron trained by mini-batch gradient descent on the mean cross-entropy of its softmax.

    The names are scikit-learn's where it has the thing.

    hidden_layer_sizes   widths of the hidden layers
    activation           "relu", "logistic", "tanh" or "identity"
    batch_size           samples a step; "auto" is 64, or all of fewer; "full" is all of them
    learning_rate_init   the learning rate of SGD
    momentum             of SGD, 0 for none
    weight_decay         of SGD, 0 for none
    max_iter             epochs
    n_iter_no_change     with an `eval_set`: stop when its accuracy has not risen for so many epochs (None: never)
    weight_init          from nn.init; N(0, 2/in) by default
    shuffle              whether every epoch takes the samples in another order
    random_state         seed of initial weights and order
    dtype                of parameters and arithmetic
    verbose              show a progress bar (needs tqdm)

    After `fit`: classes_, module_ (the network), n_features_in_, n_iter_ (epochs trained), loss_ (the last epoch's),
    loss_curve_ (each epoch's mean loss), history_ (name to list: "loss", "accuracy", "eval_loss", "eval_accuracy", each
    measured at the end of an epoch but "loss", which is the mean over its steps), best_iter_ (the epoch whose parameters were
    kept; the last one without an `eval_set`).
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        activation: str = "relu",
        *,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        max_iter: int = 100,
        n_iter_no_change: int | None = None,
        weight_init: init.Init | None = None,
        shuffle: bool = True,
        random_state: int | None = None,
        dtype: Any = np.float32,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.max_iter = max_iter
        self.n_iter_no_change = n_iter_no_change
        self.weight_init = weight_init
        self.shuffle = shuffle
        self.random_state = random_state
        self.dtype = dtype
        self.verbose = verbose

    def fit(self, X: Any, y: Any, *, eval_set: tuple[Any, Any] | None = None) -> MLPClassifier:
        """Train on X (m, features) and labels y (m,) of any kind; returns itself.

        eval_set  (X, y) to watch: the parameters of the epoch with the best accuracy on it are the ones kept
        """
        X, y = self._samples(X, "X"), np.asarray(y)
        if y.shape != (len(X),):
            raise DataError(f"MLPClassifier.fit: y has shape {y.shape}, expected ({len(X)},), one label for each row of X")
        if not len(X):
            raise DataError("MLPClassifier.fit: X has no rows")
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.n_features_in_ = X.shape[1]
        rng = np.random.default_rng(self.random_state)
        self.module_ = MLP(
            (X.shape[1], *self.hidden_layer_sizes, len(self.classes_)),
            self.activation,
            weight_init=self.weight_init,
            rng=rng,
            dtype=self.dtype,
        )
        evaluation = None if eval_set is None else (self._samples(eval_set[0], "eval_set X"), self._encode(eval_set[1]))
        self._train(X, labels, evaluation, rng)
        return self

    def _train(self, X: Array, labels: Array, evaluation: tuple[Array, Array] | None, rng: np.random.Generator) -> None:
        optimiser = optim.SGD(
            self.module_.parameters(), self.learning_rate_init, momentum=self.momentum, weight_decay=self.weight_decay
        )
        size = self._batch_size(len(X))
        names = ("loss", "accuracy") + (("eval_loss", "eval_accuracy") if evaluation else ())
        self.history_: dict[str, list[float]] = {name: [] for name in names}
        self.n_iter_ = self.best_iter_ = 0
        best, best_state = -np.inf, self.module_.state_dict()
        with progress(self.max_iter, self.verbose) as report:
            for epoch in range(1, self.max_iter + 1):
                total = 0.0
                for xb, yb in data.batches(X, labels, size, rng if self.shuffle else None):
                    loss = F.cross_entropy(self.module_(Tensor(xb)), yb)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    total += loss.item() * len(xb)
                measured = {"loss": total / len(X), "accuracy": self._measure(X, labels)[1]}
                if evaluation:
                    measured["eval_loss"], measured["eval_accuracy"] = self._measure(*evaluation)
                for name, value in measured.items():
                    self.history_[name].append(value)
                report(measured)
                self.n_iter_ = epoch
                if not evaluation:
                    self.best_iter_ = epoch
                elif measured["eval_accuracy"] > best:
                    best, best_state, self.best_iter_ = measured["eval_accuracy"], self.module_.state_dict(), epoch
                elif self.n_iter_no_change is not None and epoch - self.best_iter_ >= self.n_iter_no_change:
                    break
        if evaluation:
            self.module_.load_state_dict(best_state)
        self.loss_curve_ = self.history_["loss"]
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else float("nan")

    def decision_function(self, X: Any) -> Array:
        """The logits, (m, classes)."""
        if not hasattr(self, "module_"):
            raise GraphError("MLPClassifier: not fitted yet; call fit(X, y) first")
        X = self._samples(X, "X")
        if X.shape[1] != self.n_features_in_:
            raise DataError(f"MLPClassifier: X has {X.shape[1]} features, expected {self.n_features_in_} as in fit")
        with no_grad():
            return self.module_(Tensor(X)).numpy()

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class in `classes_`, (m, classes)."""
        return F.softmax(self.decision_function(X))

    def predict(self, X: Any) -> Array:
        """The likeliest class of each row, (m,)."""
        best = self.decision_function(X).argmax(axis=1)
        return self.classes_[best]

    def score(self, X: Any, y: Any) -> float:
        """The share of rows whose class is predicted right."""
        return float((self.predict(X) == np.asarray(y)).mean())

    def _samples(self, X: Any, name: str) -> Array:
        X = np.asarray(X, dtype=self.dtype)
        if X.ndim != 2:
            raise DataError(f"MLPClassifier: {name} has shape {X.shape}, expected (samples, features)")
        return X

    def _encode(self, y: Any) -> Array:
        """Labels as indices into classes_."""
        y = np.asarray(y)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise DataError(f"MLPClassifier: eval_set has labels that y has not: {unknown[:5].tolist()}")
        return np.searchsorted(self.classes_, y)

    def _measure(self, X: Array, labels: Array) -> tuple[float, float]:
        """(mean cross-entropy, accuracy)."""
        logits = self.decision_function(X)
        return float(F.cross_entropy(Tensor(logits), labels).item()), float((logits.argmax(axis=1) == labels).mean())

    def _batch_size(self, n: int) -> int:
        if self.batch_size == "full":
            return n
        if self.batch_size == "auto":
            return min(64, n)
        if isinstance(self.batch_size, str) or self.batch_size < 1:
            raise ValueError(f"MLPClassifier: batch_size must be 'auto', 'full' or above 0, got {self.batch_size!r}")
        return min(self.batch_size, n)


class progress:
    """A bar over `total` epochs: `with progress(n, shown) as report:`, then `report({"loss": 0.1})` after each."""

    def __init__(self, total: int, shown: bool) -> None:
        self.bar: Any = None
        if shown:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                raise MissingDependencyError(
                    "verbose=True shows a progress bar with tqdm, which is not installed; pip install 'tensorgrad[train]'"
                ) from None
            self.bar = tqdm(total=total, unit="epoch")

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        return self.report

    def report(self, measured: dict[str, float]) -> None:
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.4f}" for name, value in measured.items()}, refresh=False)
            self.bar.update()

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()
