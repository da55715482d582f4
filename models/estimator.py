"""scikit-learn's estimator interface around `train.fit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from tensorgrad.models import solvers
from tensorgrad.models.convergence import Convergence
from tensorgrad.models.fitted import PREDICTION_BATCH_SIZE, Fitted
from tensorgrad.models.mlp import MLP, activations
from tensorgrad.models.parameters import Rule

from tensorgrad import data, nn, optim, train
from tensorgrad.core.backend import Array
from tensorgrad.core.location import warn
from tensorgrad.errors import ShapeError, TrainingError
from tensorgrad.nn import init
from tensorgrad.train.arguments import callback_list
from tensorgrad.train.evaluate import local_modes
from tensorgrad.train.state import modules_of

MIN_COMPILED_STEPS = 50  # number of steps from which compilation pays


@dataclass
class Training:
    """The state that partial_fit continues from."""

    optimiser: optim.Optimiser
    schedule: optim.Schedule | None

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state_dict(), "schedule": self.schedule and self.schedule.state_dict()}


class Estimator(Fitted):
    """Base of the estimators; a subclass defines targets, loss and prediction."""

    # Subclass interface

    rules: ClassVar[Mapping[str, Rule]]
    score_name: ClassVar[str]

    def _check_input(
        self, X: Any, y: Any, first: bool, classes: Any = None, needs_all_classes: bool = False
    ) -> tuple[Any, Array]:
        """X and the targets, a row per sample, as the loss takes them. If `first`, set n_outputs_, out_activation_ (and
        classes_) from them; if `needs_all_classes`, all earlier classes must be present.
        """
        raise NotImplementedError

    def _loss(self) -> Callable[..., Any]:
        """The loss of (outputs, targets) to minimise."""
        raise NotImplementedError

    def _reported_loss(self) -> Callable[..., Any]:
        """The loss to report; it has the gradient of `_loss`."""
        return self._loss()

    def _score(self, outputs: Array, targets: Array, weights: Array | None = None) -> float:
        """The score, named `score_name`, that `early_stopping` monitors."""
        raise NotImplementedError

    # Training

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, eval_set: tuple[Any, ...] | None = None, callbacks: Any = None
    ) -> Self:
        """Train on X (m, features), an array or a sparse matrix, and y; returns the estimator.

        sample_weight   (m,): a weight of 2 has the effect of repeating the sample
        eval_set        (X, y) or (X, y, weights), not trained on, but evaluated after each epoch into `history_`. The
                        parameters of the epoch with the lowest loss on it are kept; with `early_stopping` it replaces the
                        held-out part of X, and those with the best score are kept. In a Pipeline, transform it first
        callbacks       called after each epoch: tensorgrad.train.Callback, or functions of the Run
        """
        return self._fit(X, y, sample_weight, eval_set=eval_set, callbacks=callbacks)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        eval_set: Any = None,
        callbacks: Any = None,
        classes: Any = None,
        incremental: bool = False,
    ) -> Self:
        self._check_parameters()
        callbacks = callback_list(callbacks or ())
        if (eval_set is not None or callbacks) and not self._is_stochastic():
            raise ValueError(f"{type(self).__name__}.fit: eval_set and callbacks need solver 'adam' or 'sgd', got 'lbfgs'")
        first = not hasattr(self, "module_") or not (self.warm_start or incremental)
        old_attributes = dict(vars(self))
        try:
            X, y, weights, rng = self._prepare(
                X, y, sample_weight, first, classes, needs_all_classes=not first and not incremental
            )
            if self._is_stochastic():
                self._fit_epochs(X, y, weights, rng, eval_set, callbacks, incremental)
            else:
                self._fit_lbfgs(X, y, weights)
            self._check_finite()
        except BaseException:
            if first:  # restore the state before `fit`
                self.__dict__.clear()
                self.__dict__.update(old_attributes)
            raise
        finally:
            if hasattr(self, "module_"):
                self.module_.eval()
        return self

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any, first: bool, classes: Any = None, needs_all_classes: bool = False
    ) -> tuple[Any, Array, Array | None, np.random.RandomState]:
        """X, targets and weights for training, and its random generator; if `first`, create a network with initial weights."""
        X, y = self._check_input(X, y, first, classes, needs_all_classes)
        weights = self._check_weights(sample_weight, X, y)
        rng = solvers.random_state(self.random_state)
        if first:
            self._create_network(X.shape[1], X.dtype, rng)
        return X, y, weights, rng

    def _check_finite(self) -> None:
        """Raise TrainingError unless all parameters are finite."""
        if not all(np.isfinite(p.numpy()).all() for p in self.module_.parameters()):
            raise TrainingError(
                f"{type(self).__name__}.fit: training led to parameters that are not finite; scale the features, or try a "
                f"lower learning_rate_init"
            )

    def _check_parameters(self) -> None:
        """Raise ValueError for an invalid parameter."""
        name = type(self).__name__
        for parameter, (holds, expected) in self.rules.items():
            value = getattr(self, parameter)
            if not holds(value):
                raise ValueError(f"{name}: {parameter} must be {expected}, got {value!r}")
        if self.module is None:
            activations(self.activation, len(self._hidden()))
        if self.dropout and not self._is_stochastic():
            raise ValueError(f"{name}: dropout needs solver 'adam' or 'sgd', got 'lbfgs'")

    def _hidden(self) -> list[int]:
        """The widths of the hidden layers."""
        sizes = self.hidden_layer_sizes
        hidden = list(sizes) if isinstance(sizes, Iterable) else [sizes]
        if any(not isinstance(n, (int, np.integer)) or n < 1 for n in hidden):
            raise ValueError(f"{type(self).__name__}: hidden_layer_sizes must be positive integers, got {sizes!r}")
        return [int(n) for n in hidden]

    def _check_weights(self, sample_weight: Any, X: Any, y: Array) -> Array | None:
        """The weight of each sample."""
        if sample_weight is None:
            return None
        where = f"{type(self).__name__}: sample_weight"
        w = np.asarray(sample_weight, dtype=X.dtype)
        w = np.full(X.shape[0], w) if not w.ndim else w
        if w.shape != X.shape[:1]:
            raise ShapeError(f"{where} has shape {w.shape}, expected {X.shape[:1]}, one weight per sample")
        if not (w >= 0).all() or not np.isfinite(w).all():
            raise ValueError(f"{where} has weights that are negative or not finite")
        if not w.any():
            raise ValueError(f"{where}: the weights are all zero")
        return w

    def _create_network(self, inputs: int, dtype: Any, rng: np.random.RandomState) -> None:
        """Create a network with initial weights, and reset the training state."""
        outputs = self.n_outputs_
        generator: np.random.Generator | None = None
        if self.module is not None:
            generator = np.random.default_rng(rng.randint(2**31))
            with init.seeded(generator):
                self.module_ = self.module(inputs, outputs)
            if not isinstance(self.module_, nn.Module):
                raise TypeError(
                    f"{type(self).__name__}: module returned a {type(self.module_).__name__}, expected an nn.Module"
                )
            converted(self.module_, dtype)
            shape = train.predict(self.module_, np.zeros((2, inputs), dtype)).shape
            if shape != (2, outputs):
                raise ShapeError(
                    f"{type(self).__name__}: the module returns shape {shape} for 2 samples, expected (2, {outputs})"
                )
            for _, part in self.module_.named_modules():
                if isinstance(part, nn.Dropout):
                    part.rng = part.rng or generator
        else:
            hidden, activation = self._hidden(), self.activation
            if self.dropout or self.weight_init is not None:
                generator = np.random.default_rng(rng.randint(2**31))
            self.module_ = MLP(
                (inputs, *hidden, outputs),
                activation,
                dropout=self.dropout,
                weight_init=self.weight_init or init.zeros(),
                rng=generator,
                dtype=dtype,
            )
            if self.weight_init is None:
                all_activations = list(activation) if isinstance(activation, (list, tuple)) else [activation] * len(hidden)
                solvers.glorot(self._linear(), [*all_activations, all_activations[-1] if all_activations else activation], rng)
        self.module_.to(self.device)
        self.n_iter_ = self.t_ = self.best_iter_ = 0
        self.loss_ = math.nan
        self.loss_curve_: list[float] = []
        self.history_ = train.History()
        self._trained_activation = self.activation  # the parameter may be changed later
        self._training: Training | dict[str, Any] | None = None
        self._reset_monitoring()

    def _reset_monitoring(self) -> None:
        """Reset the monitored loss, or with `early_stopping` the score."""
        self.validation_scores_: Any = [] if self.early_stopping else None
        self.best_validation_score_: Any = -math.inf if self.early_stopping else None  # None in scikit-learn, too
        self.best_loss_: Any = None if self.early_stopping else math.inf
        self._no_improvement_count = 0
        self._best_values: dict[str, Array] | None = None

    def _fit_epochs(
        self,
        X: Any,
        y: Array,
        weights: Array | None,
        rng: np.random.RandomState,
        eval_set: Any,
        callbacks: list[Any],
        incremental: bool,
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError(f"{type(self).__name__}: partial_fit does not support early_stopping=True")
        if any(isinstance(callback, train.Checkpoint) for callback in callbacks):
            raise TypeError(
                f"{type(self).__name__}.fit: training cannot be resumed from a Checkpoint here; pickle the estimator, "
                f"and continue with warm_start=True or partial_fit"
            )
        if self.early_stopping != (self.validation_scores_ is not None):  # a warm start with other parameters
            self._reset_monitoring()
        held_out: list[Any] | None = None
        if eval_set is not None:
            held_out = self._check_eval_set(eval_set)
        elif self.early_stopping:
            (X, y, weights), held_out = self._hold_out(X, y, weights, rng)
        optimiser, schedule = self._optimiser(incremental)
        adjusts_rate = self._uses_learning_rate() and schedule is None
        score = partial(self._validation_score, *held_out) if held_out is not None and self.early_stopping else None
        best_keeper = train.EarlyStopping("val_loss", patience=None) if held_out is not None and score is None else None
        samples = X.shape[0]
        loader = self._batches(X, y, weights, self._batch_size(samples), rng if self.shuffle else None)
        epochs = 1 if incremental else self.max_iter
        history = train.fit(
            self.module_,
            self._reported_loss(),
            optimiser,
            loader,
            epochs,
            validation=None
            if held_out is None
            else self._batches(held_out[0], held_out[1], held_out[2], PREDICTION_BATCH_SIZE),
            metrics=None if held_out is None else {self.score_name: self._score},
            callbacks=[Convergence(self, samples, adjusts_rate, score), *([best_keeper] if best_keeper else []), *callbacks],
            schedule=schedule,
            l2=self.alpha / 2,
            compile=self.compile and epochs * len(loader) >= MIN_COMPILED_STEPS,
            progress=self.verbose == "bar",
        )
        if best_keeper is not None:
            self.best_iter_ = best_keeper.best_epoch
        elif score is None:
            self.best_iter_ = self.n_iter_
        if incremental and self.history_.keys() == history.keys():
            for row in history.rows():
                self.history_.append({**row, "epoch": len(self.history_["epoch"]) + 1})
        else:
            self.history_ = history
        if history.interrupted:
            warn("Training interrupted by user.")
        elif not incremental:
            self._warn_unless_converged(history.stopped)

    def _uses_learning_rate(self) -> bool:
        """Whether `learning_rate` determines the rate."""
        return self.solver == "sgd" and self.optimizer is None

    def _warn_unless_converged(self, stopped: str) -> None:
        """A ConvergenceWarning, if training was not stopped before its last epoch. stopped: the reason, or empty."""
        if self.n_iter_ == self.max_iter and not stopped:
            warn(
                f"{type(self).__name__}: training has not converged after {self.max_iter} epochs (max_iter)",
                ConvergenceWarning,
            )

    def _batches(
        self, X: Any, y: Array, weights: Array | None, size: int, rng: np.random.RandomState | None = None
    ) -> data.DataLoader:
        """Batches of samples, with weights if there are any; shuffled if `rng` is given."""
        arrays = [X, y] if weights is None else [X, y, weights]
        options: dict[str, Any] = {"batch_size": size, "device": self.device, "keep_sparse": self._keeps_sparse(X)}
        return data.DataLoader(*arrays, **options) if rng is None else solvers.Batches(*arrays, random_state=rng, **options)

    def _optimiser(self, resume: bool) -> tuple[optim.Optimiser, optim.Schedule | None]:
        """The optimiser and the schedule: those of the last training to continue, or new ones."""
        training = getattr(self, "_training", None) if resume else None
        if isinstance(training, Training):
            return training.optimiser, training.schedule
        params = list(self.module_.parameters())
        if self.optimizer is not None:
            optimiser = self.optimizer(params, lr=self.learning_rate_init)
        elif self.solver == "sgd":
            optimiser = solvers.SGD(params, self.learning_rate_init, self.momentum, self.nesterovs_momentum)
        else:
            optimiser = solvers.Adam(params, self.learning_rate_init, (self.beta_1, self.beta_2), self.epsilon)
        schedule = None if self.schedule is None else self.schedule(optimiser)
        if training is not None:
            optimiser.load_state_dict(training.get("optimiser"))
            if schedule is not None:
                schedule.load_state_dict(training.get("schedule"))
        self._training = Training(optimiser, schedule)
        return optimiser, schedule

    def _batch_size(self, samples: int) -> int:
        if self.batch_size == "auto":
            return min(200, samples)
        if self.batch_size == "full":
            return samples
        size = int(self.batch_size)
        if size > samples:
            warn(f"{type(self).__name__}: batch_size is {size}, but there are only {samples} samples, which make one batch")
        return min(size, samples)

    def _check_eval_set(self, eval_set: Any) -> list[Any]:
        """X, targets and weights, each or None, of the evaluation set."""
        if not isinstance(eval_set, (tuple, list)) or len(eval_set) not in (2, 3):
            raise ValueError(f"{type(self).__name__}.fit: eval_set must be (X, y) or (X, y, weights)")
        X, y = self._check_input(eval_set[0], eval_set[1], False)
        return [X, y, Estimator._check_weights(self, eval_set[2] if len(eval_set) == 3 else None, X, y)]

    def _hold_out(self, X: Any, y: Array, weights: Array | None, rng: np.random.RandomState) -> tuple[list[Any], list[Any]]:
        """Split (X, y, weights) like scikit-learn into training and validation, stratified if there are two classes."""
        arrays = [X, y] if weights is None else [X, y, weights]
        stratify = y if self.out_activation_ == "logistic" and self.n_outputs_ == 1 else None
        parts = train_test_split(*arrays, random_state=rng, test_size=self.validation_fraction, stratify=stratify)
        training, held_out = [*parts[::2], None][:3], [*parts[1::2], None][:3]
        if held_out[0].shape[0] < 2:
            raise ValueError(
                f"{type(self).__name__}: validation_fraction={self.validation_fraction} holds out "
                f"{held_out[0].shape[0]} of {X.shape[0]} samples, expected at least 2"
            )
        return training, held_out

    def _validation_score(self, X: Any, y: Array, weights: Array | None, run: train.Run) -> float:
        """The score of the held-out samples after an epoch."""
        if weights is None:
            return float(run.row[f"val_{self.score_name}"])
        return self._score(self._outputs(X), y, weights)

    def _fit_lbfgs(self, X: Any, y: Array, weights: Array | None) -> None:
        (batch,) = self._batches(X, y, weights, X.shape[0])
        history = train.History()

        def on_iteration(loss: float) -> None:
            history.append({"epoch": len(history.get("epoch", ())) + 1, "loss": loss})
            self.loss_curve_.append(loss)
            if self.verbose and self.verbose != "bar":
                print(f"Iteration {len(history['loss'])}, loss = {loss:.8f}")

        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        with local_modes(modules_of(self.module_)):
            self.module_.train()
            result = solvers.lbfgs(self.module_, self._loss(), batch, self.alpha / 2, self.compile, on_iteration, **options)
        self.history_ = history
        self.loss_ = self.best_loss_ = float(result.fun)
        self.n_iter_ = self.best_iter_ = min(int(result.nit), self.max_iter)
        if result.status:
            warn(
                f"{type(self).__name__}: L-BFGS did not converge in {self.n_iter_} iterations (at most {self.max_iter}) and "
                f"{result.nfev} evaluations (at most {self.max_fun}): {result.message}",
                ConvergenceWarning,
            )

    def __getstate__(self) -> dict[str, Any]:
        """State for pickles: optimiser and schedule as their state, from which partial_fit continues."""
        state = dict(super().__getstate__())
        if isinstance(training := state.get("_training"), Training):
            state["_training"] = training.state_dict()
        return state


def converted(module: nn.Module, dtype: Any) -> None:
    """Convert parameters and floating buffers of a module to another dtype."""
    for _, part in module.named_modules():
        for parameter in part._parameters.values():
            parameter.data = parameter.data.astype(dtype, copy=False)
        for name, array in part._buffers.items():
            if array.dtype.kind == "f":
                setattr(part, name, array.astype(dtype, copy=False))
