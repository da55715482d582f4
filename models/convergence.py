"""scikit-learn's rules for the end of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorgrad import train


class Convergence(train.Callback):
    """scikit-learn's work after each epoch: record the curves, print, adapt the rate, and decide whether to stop.

    model        the estimator whose attributes are set
    samples      number of samples per epoch
    adjusts      whether it may change the learning rate
    score        the validation score, with `early_stopping`; else None
    """

    def __init__(self, model: Any, samples: int, adjusts: bool, score: Callable[[train.Run], float] | None) -> None:
        self.model, self.samples, self.score = model, samples, score
        self.schedule = model.learning_rate if adjusts else "constant"
        self.prints = model.verbose and model.verbose != "bar"

    def on_epoch_end(self, run: train.Run) -> None:
        model, loss = self.model, run.row["loss"]
        model.n_iter_ = run.epoch
        model.t_ += self.samples
        model.loss_ = loss
        model.loss_curve_.append(loss)
        if self.prints:
            print(f"Iteration {run.epoch}, loss = {loss:.8f}")
        if self.score is None:
            is_improved, is_best = loss <= model.best_loss_ - model.tol, loss < model.best_loss_
            model.best_loss_ = min(loss, model.best_loss_)
        else:
            score = self.score(run)
            model.validation_scores_.append(score)
            if self.prints:
                print(f"Validation score: {score:f}")
            is_improved, is_best = score >= model.best_validation_score_ + model.tol, score > model.best_validation_score_
            if is_best:
                model.best_validation_score_, model.best_iter_ = score, run.epoch
                model._best_values = model.module_.state_dict()
        model._no_improvement_count = 0 if is_improved else model._no_improvement_count + 1
        if self.schedule == "invscaling":
            run.optimiser.lr = model.learning_rate_init / (model.t_ + 1) ** model.power_t
        if model._no_improvement_count > model.n_iter_no_change:
            self.handle_stagnation(run)

    def handle_stagnation(self, run: train.Run) -> None:
        """No improvement for too long: lower the rate, or stop."""
        model = self.model
        monitored = "Training loss" if self.score is None else "Validation score"
        reason = f"{monitored} did not improve more than tol={model.tol:f} for {model.n_iter_no_change} consecutive epochs."
        if self.schedule == "adaptive" and run.optimiser.lr > 1e-6:
            run.optimiser.lr /= 5
            model._no_improvement_count = 0
            action = f"Setting learning rate to {run.optimiser.lr:f}"
        else:
            run.stop = reason
            action = "Stopping." if self.schedule != "adaptive" else "Learning rate too small. Stopping."
        if self.prints:
            print(f"{reason} {action}")

    def on_end(self, run: train.Run) -> None:
        if self.score is not None and self.model._best_values is not None:
            run.model.load_state_dict(self.model._best_values)
