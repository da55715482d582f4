"""Fits many estimators at once: networks of the same form are trained side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tensorgrad.models.estimator import Estimator
from tensorgrad.models.slots import WIDTH, Member, Slots

from tensorgrad.errors import ArgumentError
from tensorgrad.nn.ensemble import form_of


def fit_many(estimators: Iterable[Any], X: Any, y: Any, sample_weight: Any = None) -> list[Any]:
    """Fit many MLPClassifiers and MLPRegressors on X and y, much faster than one after the other.

    estimators      such as [MLPClassifier(random_state=s) for s in range(20)]; fitted in place, and returned as a list
    X, y            as for `fit`
    sample_weight   as for `fit`

    Estimators with networks of the same form (layers, activation, dtype, outputs), the same solver with its momentum or betas
    and epsilon, the same batch size and early_stopping are trained side by side, up to 16 at a time, in one batched graph
    (nn.Ensemble) with one compiled step; when one ends, the next takes its slot. Everything else may differ: random_state,
    learning_rate_init, learning_rate, power_t, alpha, tol, max_iter, n_iter_no_change, shuffle, validation_fraction,
    class_weight. Other estimators form further groups.

    Each estimator gets the result of its own `fit`: the same shuffling and validation split, n_iter_, loss_curve_, weights.
    They are equal up to rounding: gradients of biases, penalties and losses are summed in another order. If a loss is as close
    to a threshold as the rounding error, training may end an epoch earlier or later. With random_state=None the draws from
    NumPy's global generator come in another order.

    Some estimators are fitted alone, one after the other: those with solver="lbfgs", dropout, your own module, optimizer or
    schedule, activations with buffers, a generator as random_state, warm_start of a fitted estimator, a device other than the
    CPU, or verbose="bar", and all of them if X is sparse.

    Raises ArgumentError for anything but such estimators, and for repeated ones. If one cannot be fitted it is left unchanged;
    when all others are fitted, the first such error is raised.
    """
    models = list(estimators)
    check_estimators(models)
    errors = fit_jobs([(model, X, y, sample_weight) for model in models])
    for i, error in enumerate(errors):
        if error is not None:
            error.add_note(f"fit_many: estimator {i} failed; those without an error are fitted")
            raise error
    return models


def check_estimators(models: Sequence[Any]) -> None:
    """Raise ArgumentError for invalid or repeated estimators."""
    for i, model in enumerate(models):
        if not isinstance(model, Estimator):
            raise ArgumentError(f"fit_many: estimator {i} must be an MLPClassifier or MLPRegressor, got {model!r}")
        if any(model is other for other in models[:i]):
            raise ArgumentError(f"fit_many: estimator {i} occurs twice; clone it")


def fit_jobs(jobs: Sequence[tuple[Any, Any, Any, Any]]) -> list[Exception | None]:
    """Fit estimators, each on its (X, y, sample_weight); returns the error of each, or None."""
    errors: list[Exception | None] = [None] * len(jobs)
    old_attributes = [dict(vars(model)) for model, *_ in jobs]
    groups: dict[Any, list[tuple[int, Member]]] = {}
    shared: dict[Any, Any] = {}  # converted once for all
    for i, (model, X, y, sample_weight) in enumerate(jobs):
        try:
            if not can_share(model, X):
                model.fit(X, y, sample_weight)
                continue
            model._check_parameters()
            data, targets, weights, rng = model._prepare(X, y, sample_weight, True)
            member = Member(model, shared.setdefault((id(X), str(model.dtype)), data), targets, weights, rng)
            if any(True for _ in model.module_.named_buffers()):
                restore(model, old_attributes[i])
                model.fit(X, y, sample_weight)
                continue
            groups.setdefault(group_of(member), []).append((i, member))
        except Exception as raised:
            errors[i] = raised
    for members in groups.values():
        train([member for _, member in members])
        for i, member in members:
            errors[i] = member.error
            member.model_.module_.eval()
    for i, error in enumerate(errors):
        if error is not None:
            restore(jobs[i][0], old_attributes[i])
    return errors


def restore(model: Any, attributes: dict[str, Any]) -> None:
    """Restore the attributes of an estimator."""
    model.__dict__.clear()
    model.__dict__.update(attributes)


def can_share(model: Estimator, X: Any) -> bool:
    """Whether it can be trained beside others."""
    return (
        model.solver in ("adam", "sgd")
        and all(part is None for part in (model.module, model.optimizer, model.schedule))
        and not model.dropout
        and model.device == "cpu"
        and model.verbose != "bar"
        and (model.random_state is None or isinstance(model.random_state, (int, np.integer)))
        and not (model.warm_start and hasattr(model, "module_"))
        and not hasattr(X, "tocsr")
    )


def group_of(member: Member) -> Any:
    """A key that is equal for members that can be trained side by side."""
    model = member.model_
    size, steps = batches_of(member)
    if model.solver == "adam":
        settings: tuple[Any, ...] = (float(model.beta_1), float(model.beta_2), float(model.epsilon))
    else:
        settings = (float(model.momentum), bool(model.nesterovs_momentum))
    activation = model.activation if isinstance(model.activation, (tuple, list)) else [model.activation]
    return (
        type(model),
        tuple(form_of(model.module_)),
        tuple(entry if isinstance(entry, str) else id(entry) for entry in activation),
        (model.out_activation_, member.y.shape[1:], member.weights is None),
        (model.solver, settings, bool(model.early_stopping), bool(model.compile)),
        (steps, size if steps > 1 else None),
    )


def samples_of(member: Member) -> int:
    """The number of training samples: `train_test_split` rounds the held-out part up."""
    count = int(member.X.shape[0])
    return count - math.ceil(member.model_.validation_fraction * count) if member.model_.early_stopping else count


def batches_of(member: Member) -> tuple[int, int]:
    """The batch size, and the number of batches per epoch."""
    samples, batch_size = samples_of(member), member.model_.batch_size
    limit = 200 if batch_size == "auto" else samples if batch_size == "full" else int(batch_size)
    size = max(min(limit, samples), 1)
    return size, -(-samples // size)


def train(members: list[Member]) -> None:
    """Train members of one group; failed ones get an `error`."""
    sizes = [batches_of(member)[0] for member in members]
    steps, size = batches_of(members[0])[1], max(sizes)
    last = max(samples_of(member) - (steps - 1) * size for member in members)
    waiting = [member for member in reversed(members) if start_member(member)]
    rounds = -(-len(waiting) // WIDTH)
    if not rounds:
        return
    width = -(-len(waiting) // rounds)
    slots = Slots([waiting.pop() for _ in range(width)], size, last, steps, members[0].weights is not None)
    active = width
    while active:
        for i in slots.epoch():
            active -= 1
            if waiting:
                slots.members[i] = waiting.pop()
                slots.attach(i)
                active += 1


def start_member(member: Member) -> bool:
    """Start a member; returns whether that worked."""
    try:
        member.begin()
    except Exception as error:
        member.error = error
    return member.error is None
