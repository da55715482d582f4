"""A grid search whose fits are trained side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, indexable
from tensorgrad.models.estimator import Estimator
from tensorgrad.models.together import fit_jobs

from tensorgrad.core.location import warn
from tensorgrad.errors import ArgumentError


class SweepSearchCV(GridSearchCV):  # type: ignore[misc]
    """scikit-learn's GridSearchCV for MLPClassifier and MLPRegressor, with all candidates and folds trained side by side.

    estimator     an MLPClassifier or MLPRegressor of tensorgrad.models, or a Pipeline that ends in one. Earlier steps are
                  fitted once for each fold and each of their own settings
    param_grid    a dict of parameter to values, or a list of such dicts; for a Pipeline "<step>__<parameter>"
    scoring, refit, cv, error_score, return_train_score, verbose   as in GridSearchCV

    After `fit`: cv_results_, best_params_, best_score_, best_index_, best_estimator_ (trained on all samples, alone), scorer_,
    n_splits_, refit_time_ are those of GridSearchCV, up to rounding. See `fit_many` for the effects of rounding, and for what
    is trained side by side. "mean_fit_time" is the time of all fits divided by their number.

    cv_estimators_   for each candidate, in the order of cv_results_["params"], the estimators fitted on the folds
    """

    cv_estimators_: list[list[Any]]

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        error_score: Any = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
        )

    def fit(self, X: Any, y: Any, *, sample_weight: Any = None, groups: Any = None) -> Self:
        """Train all candidates on all folds, and the best one on all samples; returns the search.

        sample_weight   (m,): weights of the samples in training, not in the scores
        groups          passed to the splitter `cv`

        Raises ArgumentError for another estimator; with error_score="raise" the error of a candidate's `fit` or of the scorer,
        otherwise that score is `error_score`, with a FitFailedWarning; ValueError if no candidate can be fitted.
        """
        name = type(self).__name__
        last = self.estimator.steps[-1][1] if isinstance(self.estimator, Pipeline) else self.estimator
        if not isinstance(last, Estimator):
            raise ArgumentError(
                f"{name}.fit: estimator must be an MLPClassifier or MLPRegressor from tensorgrad.models, or a Pipeline that "
                f"ends in one, got {self.estimator!r}; GridSearchCV supports any estimator"
            )
        scorers, refit_metric = self._get_scorers()
        X, y, sample_weight = indexable(X, y, sample_weight)
        splits = list(check_cv(self.cv, y, classifier=is_classifier(self.estimator)).split(X, y, groups))
        candidates = list(ParameterGrid(self.param_grid))
        self.n_splits_ = len(splits)
        if self.verbose:
            folds, count = len(splits), len(candidates)
            print(f"Fitting {folds} folds for each of {count} candidates, totalling {folds * count} fits")
        models = [[self._candidate(params) for _ in splits] for params in candidates]
        start = time.perf_counter()
        errors = fit_folds(models, candidates, splits, X, y, sample_weight)
        seconds = (time.perf_counter() - start) / max(len(splits) * len(candidates), 1)
        self._report(errors)
        results = []
        for i, row in enumerate(models):
            for j, (train, test) in enumerate(splits):
                parts = {"test_scores": test, **({"train_scores": train} if self.return_train_score else {})}
                results.append({"fit_time": seconds, **self._scored(scorers, row[j], X, y, parts, errors[i][j])})
        fill_missing_scores(results, self.error_score)
        self.cv_results_ = self._format_results(candidates, len(splits), results)
        self.cv_estimators_ = models
        self.multimetric_ = isinstance(results[0]["test_scores"], dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(results[0]["test_scores"])
            refit_metric = self.refit
        self.scorer_ = getattr(scorers, "_scorers", scorers) if self.multimetric_ else scorers
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, self.cv_results_)
            if not callable(self.refit):
                self.best_score_ = self.cv_results_[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = candidates[self.best_index_]
        if self.refit:
            self.best_estimator_ = self._candidate(self.best_params_)
            start = time.perf_counter()
            prefix = f"{self.estimator.steps[-1][0]}__" if isinstance(self.estimator, Pipeline) else ""
            weights = {} if sample_weight is None else {f"{prefix}sample_weight": sample_weight}
            self.best_estimator_.fit(X, y, **weights)
            self.refit_time_ = time.perf_counter() - start
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        return self

    def _candidate(self, params: Mapping[str, Any]) -> Any:
        """An unfitted estimator with these parameters."""
        return clone(self.estimator).set_params(**clone(dict(params), safe=False))

    def _scored(
        self, scorers: Any, model: Any, X: Any, y: Any, parts: Mapping[str, Any], error: Exception | None
    ) -> dict[str, Any]:
        """The scores of a fitted estimator on named parts of the samples; None if it could not be fitted."""
        start = time.perf_counter()
        scores: dict[str, Any] = dict.fromkeys(parts)
        for part, samples in parts.items() if error is None else ():
            try:
                scores[part] = scorers(model, _safe_indexing(X, samples), _safe_indexing(y, samples))
            except Exception as raised:
                if self.error_score == "raise":
                    raise
                warn(f"Scoring failed: {raised!r}; the score is {self.error_score}")
        return {**scores, "score_time": time.perf_counter() - start}

    def _report(self, errors: list[list[Exception | None]]) -> None:
        """Raise the errors of failed candidates, or warn of them."""
        failures = [error for row in errors for error in row if error is not None]
        count = sum(map(len, errors))
        if not count:
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        if not failures:
            return
        if self.error_score == "raise":
            raise failures[0]
        if len(failures) == count:
            raise ValueError(f"All the {count} fits failed. The first said: {failures[0]!r}") from failures[0]
        summary = f"their scores are {self.error_score}. The first said: {failures[0]!r}"
        warn(f"{len(failures)} fits failed out of a total of {count}; {summary}", FitFailedWarning)


def fit_folds(
    models: list[list[Any]], candidates: list[Any], splits: list[Any], X: Any, y: Any, sample_weight: Any
) -> list[list[Exception | None]]:
    """Fit the estimators of each candidate on the training parts of all folds; returns the error of each, or None."""
    jobs = []
    positions = []
    errors: list[list[Exception | None]] = [[None] * len(splits) for _ in models]
    for j, (train, _) in enumerate(splits):
        train_data = [None if values is None else _safe_indexing(values, train) for values in (X, y, sample_weight)]
        fitted_steps: dict[Any, Any] = {}
        for i, row in enumerate(models):
            try:
                final, inputs = row[j], train_data[0]
                if isinstance(final, Pipeline):
                    key = tuple((k, id(v)) for k, v in sorted(candidates[i].items()) if not belongs_to_last_step(row[j], k))
                    if key not in fitted_steps:  # values are objects of the grid: equal settings share them
                        fitted_steps[key] = transformed(row[j], train_data[0], train_data[1])
                    steps, inputs = fitted_steps[key]
                    final = row[j].steps[-1][1]
                    row[j].steps = [*steps, row[j].steps[-1]]
                jobs.append((final, inputs, train_data[1], train_data[2]))
                positions.append((i, j))
            except Exception as raised:
                errors[i][j] = raised
    for (i, j), error in zip(positions, fit_jobs(jobs), strict=True):
        errors[i][j] = error
    return errors


def belongs_to_last_step(pipeline: Pipeline, parameter: str) -> bool:
    """Whether a parameter belongs to the last step, or is that step."""
    return bool(parameter.partition("__")[0] == pipeline.steps[-1][0])


def transformed(pipeline: Pipeline, X: Any, y: Any) -> tuple[list[Any], Any]:
    """The fitted steps before the last one, and X transformed by them."""
    if len(pipeline.steps) == 1:
        return [], X
    head = pipeline[:-1]
    return head.steps, head.fit_transform(X, y)


def fill_missing_scores(results: list[dict[str, Any]], error_score: Any) -> None:
    """Fill in `error_score` for missing scores, for each metric if there are several."""
    for part in ("test_scores", "train_scores"):
        example = next((row[part] for row in results if row.get(part) is not None), None)
        for row in results:
            if part in row and row[part] is None:
                row[part] = dict.fromkeys(example, error_score) if isinstance(example, dict) else error_score
