"""Trains networks of the same form side by side, each as if alone; when one ends, the next takes its slot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tensorgrad.models import solvers
from tensorgrad.models.convergence import Convergence
from tensorgrad.models.estimator import MIN_COMPILED_STEPS, Estimator
from tensorgrad.models.fitted import PREDICTION_BATCH_SIZE

import tensorgrad
from tensorgrad import Tensor, nn
from tensorgrad.core import writes
from tensorgrad.core.backend import Array
from tensorgrad.errors import TrainingError
from tensorgrad.nn import functional as F
from tensorgrad.train.evaluate import evaluating
from tensorgrad.train.state import modules_of

WIDTH = 16  # networks at a time: more exceed the cache, fewer are dominated by call overhead


@dataclass(eq=False)
class Member:
    """One network: its estimator, its data, and the state of its training. Convergence uses it like a Run.

    lr      the learning rate;  t: number of steps
    order   of the samples in the current epoch;  outputs: predictions of its batches, if scored
    """

    model_: Estimator
    X: Array
    y: Array
    weights: Array | None
    rng: np.random.RandomState
    held_out: list[Any] | None = None
    error: Exception | None = None
    epoch: int = 0
    t: int = 0
    stop: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    order: Array | None = None
    outputs: list[Array] = field(default_factory=list)

    def begin(self) -> None:
        """Draw the weights and hold out samples: everything the estimator does before its first epoch, in the same order."""
        model = self.model_
        if model.early_stopping:
            (self.X, self.y, self.weights), self.held_out = model._hold_out(self.X, self.y, self.weights, self.rng)
        self.samples = self.X.shape[0]
        size = model._batch_size(self.samples)
        self.loader = model._batches(self.X, self.y, self.weights, size, self.rng if model.shuffle else None)
        self.lr = float(model.learning_rate_init)
        score = None if self.held_out is None else partial(model._validation_score, *self.held_out)
        self.convergence = Convergence(model, self.samples, model._uses_learning_rate(), score)

    @property
    def optimiser(self) -> Member:
        return self

    @property
    def model(self) -> nn.Module:
        return self.model_.module_

    def rows(self, start: int, size: int) -> Any:
        """The indices of the samples of a batch."""
        return range(self.samples)[start : start + size] if self.order is None else self.order[start : start + size]

    def end_epoch(self, losses: Array, counts: Array, outputs: Array | None, seconds: float) -> None:
        """Measure as `train.fit` and its callback do after an epoch, given the losses of the batches and the divisors of their
        means. outputs: for the held-out samples.
        """
        model = self.model_
        if not np.isfinite(losses).all():
            raise TrainingError(
                f"{type(model).__name__}.fit: the loss is not finite in epoch {self.epoch + 1}, at learning rate {self.lr:g}; "
                f"scale the features, or try a lower learning_rate_init"
            )
        total = counts.sum()
        row: dict[str, Any] = {"epoch": self.epoch + 1}
        row["loss"] = float((losses.astype(np.float64) * counts).sum() / total) if total else 0.0
        if outputs is not None and self.held_out is not None:
            targets = self.y if self.order is None else self.y[self.order]
            row[model.score_name] = model._score(np.concatenate(self.outputs), targets)
            row["val_loss"] = self.held_out_loss(outputs)
            row[f"val_{model.score_name}"] = model._score(outputs, self.held_out[1])
        self.row = {**row, "lr": self.lr, "seconds": seconds}
        self.epoch += 1
        model.history_.append(self.row)
        self.convergence.on_epoch_end(self)  # type: ignore[arg-type]

    def held_out_loss(self, outputs: Array) -> float:
        """The weighted loss of the held-out samples."""
        assert self.held_out is not None
        _, y, weights = self.held_out
        losses = self.model_._reported_loss()(Tensor(outputs), Tensor(y), reduction="none").numpy()
        return float(losses.mean()) if weights is None else float((losses * weights).sum() / (weights.sum() or 1))

    def end(self) -> None:
        """Finish after the last epoch."""
        model = self.model_
        self.convergence.on_end(self)  # type: ignore[arg-type]
        if self.held_out is None:
            model.best_iter_ = model.n_iter_
        model.history_.stopped = self.stop
        model._check_finite()
        model._warn_unless_converged(self.stop)


class Slots:
    """Several networks of the same form with the same number of steps per epoch, trained together.

    size    samples per step;  last: maximum in the last step of an epoch
    steps   number per epoch
    """

    def __init__(self, members: Sequence[Member], size: int, last: int, steps: int, weighted: bool) -> None:
        first = members[0].model_
        self.members: list[Member | None] = list(members)
        self.size, self.last, self.steps, self.weighted = size, last, steps, weighted
        self.ensemble = nn.Ensemble([member.model for member in members], each=True)
        self.ensemble.members.train()
        params = list(self.ensemble.parameters())
        settings: dict[str, Any] = (
            {"betas": (first.beta_1, first.beta_2), "eps": first.epsilon}
            if first.solver == "adam"
            else {"momentum": first.momentum, "nesterov": first.nesterovs_momentum}
        )
        kind = solvers.EachAdam if first.solver == "adam" else solvers.EachSGD
        self.optimiser: Any = kind(params, first.learning_rate_init, **settings)
        (self.block,) = self.optimiser.blocks
        self.return_outputs = first.early_stopping
        count = len(members)
        self.alphas = np.zeros(count)
        self.l2 = np.zeros(count, self.block.dtype)  # alpha / 2 per sample of the batch
        self.last_values: dict[str, Array] = {}
        self.x = np.zeros((count, size, *members[0].X.shape[1:]), self.block.dtype)
        self.y = np.zeros((count, size, *members[0].y.shape[1:]), members[0].y.dtype)
        self.w = np.zeros((count, size), self.block.dtype)
        total = steps * max(member.model_.max_iter for member in members)
        step = ensemble_step(self.ensemble, first._reported_loss(), self.optimiser, self.l2, self.return_outputs)
        self.step = tensorgrad.compile(step, ahead=True) if first.compile and total >= MIN_COMPILED_STEPS else step
        for i in range(count):
            self.attach(i)

    # Parameters and state of one network

    def slices(self, i: int) -> list[list[Array]]:
        """For each parameter the parts of it and of each slot that belong to network i, in the optimiser's order."""
        count = len(self.members)
        return [[array.reshape(count, -1)[i] for array in arrays] for arrays in self.block.views]

    def attach(self, i: int) -> None:
        """Start network i: its parameters become views of the shared ones."""
        member = self.members[i]
        assert member is not None
        for parameter, shared, (values, *slots) in zip(
            member.model.parameters(), self.optimiser.params, self.slices(i), strict=True
        ):
            values[...] = parameter._data.reshape(-1)
            for array in slots:
                array[...] = 0
            parameter._replace(shared._data[i])
        self.alphas[i] = member.model_.alpha
        self.report_write()

    def detach(self, i: int) -> None:
        """Remove network i: its parameters become independent, and its slot no longer changes."""
        member = self.members[i]
        assert member is not None
        for parameter in member.model.parameters():
            parameter._replace(parameter._data.copy())
        for arrays in self.slices(i):
            for array in arrays:
                array[...] = 0
        self.x[i], self.y[i], self.w[i], self.alphas[i] = 0, 0, 0, 0
        self.members[i] = None
        self.report_write()

    def report_write(self) -> None:
        self.last_values.clear()
        writes.wrote(self.block.flat)

    # Epochs

    def epoch(self) -> list[int]:
        """Train each network for an epoch; returns the ended ones, whose members have an `error` if training failed."""
        start = time.perf_counter()
        active = [(i, member) for i, member in enumerate(self.members) if member is not None]
        for _, member in active:
            member.order = member.loader.next_order() if member.model_.shuffle else None
            member.outputs = []
        costs = np.zeros((self.steps, len(self.members)), self.block.dtype)
        counts = np.zeros(costs.shape)
        for batch in range(self.steps):
            costs[batch] = self.batch(active, batch, counts[batch])
        held_out = self.held_out_outputs(active) if self.return_outputs else {}
        seconds = (time.perf_counter() - start) / len(active)
        ended = []
        for i, member in active:
            try:
                member.end_epoch(costs[:, i], counts[:, i], held_out.get(i), seconds)
                if is_done := bool(member.stop) or member.epoch == member.model_.max_iter:
                    member.end()
            except Exception as error:
                member.error, is_done = error, True
            if is_done:
                self.detach(i)
                ended.append(i)
        return ended

    def batch(self, active: list[tuple[int, Member]], batch: int, counts: Array) -> Array:
        """Run a step of each network on its own batch; returns the costs. counts: receives the divisors of the means."""
        size = self.size if batch < self.steps - 1 else self.last
        x, y, w = (array if size == self.size else array[:, :size] for array in (self.x, self.y, self.w))
        rates = np.zeros(len(self.members), self.block.dtype)
        has_equal_weights = not self.weighted
        for i, member in active:
            rows = member.rows(batch * self.size, size)
            count = copy_rows(member.X, rows, x[i])
            copy_rows(member.y, rows, y[i])
            if member.weights is None:
                counts[i] = count
            else:
                copy_rows(member.weights, rows, w[i])
                counts[i] = w[i, :count].sum()
            if count < size:
                x[i, count:], y[i, count:], w[i, count:] = 0, 0, 0
                has_equal_weights = False
            member.t += 1
            rates[i] = self.optimiser.rate(member.lr, member.t)
        divisors = np.where(counts, counts, 1)
        if not has_equal_weights:
            if not self.weighted:
                w[...] = np.arange(size) < counts[:, None]
            np.divide(w, divisors[:, None], out=w)
            w[counts == 0] = 0
        self.l2[...] = self.alphas / 2 / divisors
        self.write(rates)
        costs, z = self.step(*map(Tensor, (x, y) if has_equal_weights else (x, y, w)))
        if z is not None:
            for i, member in active:
                member.outputs.append(z.numpy()[i, : len(member.rows(batch * self.size, size))].copy())
        return costs.numpy()

    def write(self, rates: Array) -> None:
        """Set the rate and the decay of each network in the optimiser, for the next step."""
        for k, (name, values) in enumerate((("decay", 2 * self.l2), ("rate", rates))):
            if self.last_values.get(name) is not None and np.array_equal(self.last_values[name], values):
                continue
            self.last_values[name] = values
            for p, views in zip(self.optimiser.params, self.block.views, strict=True):
                if name == "rate" or p.ndim > 2:
                    views[-1 - (k == 1)].reshape(len(values), -1)[...] = values[:, None]

    def held_out_outputs(self, active: list[tuple[int, Member]]) -> dict[int, Array]:
        """The outputs of each network for its held-out samples."""
        samples = max(member.held_out[0].shape[0] for _, member in active if member.held_out is not None)
        outputs: dict[int, list[Array]] = {i: [] for i, _ in active}
        batch_size = max(PREDICTION_BATCH_SIZE // len(self.members), 1)
        with evaluating(modules_of(self.ensemble)):
            for start in range(0, samples, batch_size):
                x = np.zeros((len(self.members), min(batch_size, samples - start), *self.x.shape[2:]), self.x.dtype)
                for i, member in active:
                    assert member.held_out is not None
                    rows = member.held_out[0][start : start + batch_size]
                    x[i, : len(rows)] = rows
                z = self.ensemble(x).numpy()
                for i, member in active:
                    assert member.held_out is not None
                    outputs[i].append(z[i, : max(0, member.held_out[0].shape[0] - start)].copy())
        return {i: np.concatenate(parts) for i, parts in outputs.items()}


def ensemble_step(
    ensemble: nn.Module, losses: Callable[..., Any], optimiser: Any, l2: Array, return_outputs: bool
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """One step of all networks: the cost of each on its batch, and its outputs, before the update.

    losses   the loss of the estimators
    l2       the factor of each network's squared weights in its cost; the optimiser has their gradient
    """
    weights = [p for p in optimiser.params if p.ndim > 2]

    def step(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        z = ensemble(x)
        costs, total = costs_of(losses, z, y, w)
        squares = [(p.detach() * p.detach()).sum(axis=(1, 2)) for p in weights]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        return costs.detach() + l2 * sum(squares[1:], squares[0]), z.detach() if return_outputs else None

    return step


def costs_of(losses: Callable[..., Any], z: Tensor, y: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean loss of each network, and their sum. w: weights of the samples, if they differ."""
    if y.ndim == 2 and w is None:  # classification: written as a sum that is fused with the softmax
        logp = F.log_softmax(z.reshape((-1, z.shape[2])))
        labels = y.reshape((-1,))
        label_logp = logp.detach()[np.arange(y.size), labels].reshape(y.shape)
        return -label_logp.mean(axis=1), F.nll_loss(logp, labels) * float(len(y))
    if y.ndim == 2:
        sample_losses = losses(z.reshape((-1, z.shape[2])), y.reshape((-1,)), reduction="none").reshape(y.shape)
    else:
        sample_losses = losses(z, y, reduction="none")
    costs = sample_losses.mean(axis=1) if w is None else (sample_losses * w).sum(axis=1)
    return costs, costs.sum()


def copy_rows(array: Array, rows: Any, out: Array) -> int:
    """Copy the rows with these indices into the first rows of another array; returns their number."""
    count = len(rows)
    if isinstance(rows, range):
        out[:count] = array[rows.start : rows.stop]
    else:
        array.take(rows, axis=0, out=out[:count], mode="clip")  # "raise" would make a copy
    return count
