"""Many fits as few: estimators whose networks are of one form are trained side by side."""

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
    """Fit each of many MLPClassifiers and MLPRegressors on X and y, in a fraction of the time of one after the other.

    estimators      such as [MLPClassifier(random_state=s) for s in range(20)]; they are fitted in place, and returned in a list
    X, y            as `fit` takes them
    sample_weight   as `fit` takes it

    Those whose networks have one form (layers, activation, dtype, outputs), one solver with its momentum or betas and epsilon,
    one batch size, and early_stopping alike, are trained side by side, up to 16 at a time, in one batched graph (nn.Ensemble)
    with one compiled step; when one has ended, its place is the next one's. They may differ in all else: random_state,
    learning_rate_init, learning_rate, power_t, alpha, tol, max_iter, n_iter_no_change, shuffle, validation_fraction,
    class_weight. Others form groups of their own.

    Each estimator ends with what `fit` alone gives it: the same shuffles and samples held out, n_iter_, loss_curve_, weights.
    That is to rounding: gradients of biases, penalties and losses are added up in another order. Where a loss comes as close to
    a bound as rounding is large, training may end an epoch earlier or later. With random_state=None the global generator of
    NumPy's is drawn from in another order.

    Fitted by themselves, one after the other, are estimators with what cannot be shared: solver="lbfgs", dropout, a module,
    optimizer or schedule of your own, activations with buffers, a random_state that is a generator, warm_start of what is
    fitted, a device other than the CPU, verbose="bar", and all where X is sparse.

    Raises ArgumentError for what is no such estimator or is there twice. If one cannot be fitted it is left as it was; when all
    others are fitted, the first such error is raised.
    """
    models = list(estimators)
    check_estimators(models)
    errors = fit_jobs([(model, X, y, sample_weight) for model in models])
    for i, error in enumerate(errors):
        if error is not None:
            error.add_note(f"fit_many: this was estimator {i}; those without such an error are fitted")
            raise error
    return models


def check_estimators(models: Sequence[Any]) -> None:
    """Raise ArgumentError for what cannot be fitted."""
    for i, model in enumerate(models):
        if not isinstance(model, Estimator):
            raise ArgumentError(f"fit_many: estimator {i} must be an MLPClassifier or MLPRegressor, got {model!r}")
        if any(model is other for other in models[:i]):
            raise ArgumentError(f"fit_many: estimator {i} is there twice; clone it")


def fit_jobs(jobs: Sequence[tuple[Any, Any, Any, Any]]) -> list[Exception | None]:
    """Fit estimators, each on its (X, y, sample_weight); what stopped each, or None."""
    errors: list[Exception | None] = [None] * len(jobs)
    before = [dict(vars(model)) for model, *_ in jobs]
    groups: dict[Any, list[tuple[int, Member]]] = {}
    shared: dict[Any, Any] = {}  # converted once, not for each
    for i, (model, X, y, sample_weight) in enumerate(jobs):
        try:
            if not can_share(model, X):
                model.fit(X, y, sample_weight)
                continue
            model._check_parameters()
            given, targets, weights, rng = model._begin(X, y, sample_weight, True)
            member = Member(model, shared.setdefault((id(X), str(model.dtype)), given), targets, weights, rng)
            if any(True for _ in model.module_.named_buffers()):
                restore(model, before[i])
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
            restore(jobs[i][0], before[i])
    return errors


def restore(model: Any, attributes: dict[str, Any]) -> None:
    """Let an estimator be what it was."""
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
    """What members have in common that are trained side by side."""
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
        tuple(one if isinstance(one, str) else id(one) for one in activation),
        (model.out_activation_, member.y.shape[1:], member.weights is None),
        (model.solver, settings, bool(model.early_stopping), bool(model.compile)),
        (steps, size if steps > 1 else None),
    )


def samples_of(member: Member) -> int:
    """How many samples it will be trained on: `train_test_split` rounds up what it holds out."""
    count = int(member.X.shape[0])
    return count - math.ceil(member.model_.validation_fraction * count) if member.model_.early_stopping else count


def batches_of(member: Member) -> tuple[int, int]:
    """The samples in a batch, and how many batches an epoch has."""
    samples, given = samples_of(member), member.model_.batch_size
    most = 200 if given == "auto" else samples if given == "full" else int(given)
    size = max(min(most, samples), 1)
    return size, -(-samples // size)


def train(members: list[Member]) -> None:
    """Train members of one group; where that fails, they have an `error`."""
    sizes = [batches_of(member)[0] for member in members]
    steps, size = batches_of(members[0])[1], max(sizes)
    last = max(samples_of(member) - (steps - 1) * size for member in members)
    waiting = [member for member in reversed(members) if did_begin(member)]
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


def did_begin(member: Member) -> bool:
    """Let it begin; whether it could."""
    try:
        member.begin()
    except Exception as error:
        member.error = error
    return member.error is None
