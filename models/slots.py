"""Networks of one form trained side by side, each as its estimator alone would be; where one ends, the next one takes its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tensorgrad.models import solvers
from tensorgrad.models.convergence import Convergence
from tensorgrad.models.estimator import COMPILED, Estimator, batches
from tensorgrad.models.fitted import EVALUATED

import tensorgrad
from tensorgrad import Tensor, nn
from tensorgrad.core import writes
from tensorgrad.core.backend import Array
from tensorgrad.errors import TrainingError
from tensorgrad.train.evaluate import evaluating
from tensorgrad.train.state import modules_of
from tensorgrad.train.steps import each

WIDTH = 16  # networks at a time: with more, what a step works on leaves the cache; with fewer, calls cost more than they do


@dataclass(eq=False)
class Member:
    """One network: its estimator, what it is trained on, and where its training is. To Convergence it is the Run.

    lr      the learning rate;  t: steps made
    losses  of the batches of the epoch under way;  outputs: predictions of them, if they are scored
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
    losses: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)

    def begin(self) -> None:
        """Draw the weights, hold samples out: all that the estimator does before its first epoch, in its order."""
        model = self.model_
        if model.early_stopping:
            (self.X, self.y, self.weights), self.held_out = model._hold_out(self.X, self.y, self.weights, self.rng)
        self.samples = self.X.shape[0]
        size = model._batch_size(self.samples)
        self.loader = batches(self.X, self.y, self.weights, size, self.rng if model.shuffle else None)
        self.lr = float(model.learning_rate_init)
        score = None if self.held_out is None else partial(model._validation_score, *self.held_out)
        self.convergence = Convergence(model, self.samples, model._follows_rate(), score)

    @property
    def optimiser(self) -> Member:
        return self

    @property
    def model(self) -> nn.Module:
        return self.model_.module_

    def rows(self, order: Array | None, start: int, size: int) -> Any:
        """Which samples are in a batch."""
        return slice(start, start + size) if order is None else order[start : start + size]

    def end_epoch(self, outputs: Array | None, seconds: float) -> None:
        """What `train.fit` measures and its callback does after an epoch. outputs: of what is held out."""
        model, losses = self.model_, np.asarray(self.losses, self.X.dtype)
        if not np.isfinite(losses).all():
            raise TrainingError(
                f"{type(model).__name__}.fit: the loss is not finite in epoch {self.epoch + 1}, at learning rate {self.lr:g}; "
                f"scale the features, or try a lower learning_rate_init"
            )
        counts = np.asarray(self.counts)
        total = counts.sum()
        row: dict[str, Any] = {"epoch": self.epoch + 1}
        row["loss"] = float((losses.astype(np.float64) * counts).sum() / total) if total else 0.0
        if outputs is not None and self.held_out is not None:
            row[model.score_name] = model._score(np.concatenate(self.outputs), self.y[self.seen])
            row["val_loss"] = self.held_out_loss(outputs)
            row[f"val_{model.score_name}"] = model._score(outputs, self.held_out[1])
        self.row = {**row, "lr": self.lr, "seconds": seconds}
        self.epoch += 1
        model.history_.append(self.row)
        self.convergence.on_epoch_end(self)  # type: ignore[arg-type]

    def held_out_loss(self, outputs: Array) -> float:
        """The loss over what is held out, by weight."""
        assert self.held_out is not None
        _, y, weights = self.held_out
        losses = each(self.model_._reported_loss())(Tensor(outputs), Tensor(y)).numpy()
        return float(losses.mean()) if weights is None else float((losses * weights).sum() / (weights.sum() or 1))

    def end(self) -> None:
        """What is done after the last epoch."""
        model = self.model_
        self.convergence.on_end(self)  # type: ignore[arg-type]
        if self.held_out is None:
            model.best_iter_ = model.n_iter_
        model.history_.stopped = self.stop
        model._check_finite()
        model._warn_unless_converged(self.stop)


class Slots:
    """So many networks at once, of members that are of one form and make as many steps in an epoch.

    size    samples in a step;  last: in the last of an epoch, at most
    steps   in an epoch
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
        self.keeps = first.early_stopping
        count = len(members)
        self.l2 = np.zeros(count, self.block.dtype)  # of each network: alpha / 2 for each sample of the batch
        self.x = np.zeros((count, size, *members[0].X.shape[1:]), self.block.dtype)
        self.y = np.zeros((count, size, *members[0].y.shape[1:]), members[0].y.dtype)
        self.w = np.zeros((count, size), self.block.dtype)
        total = steps * max(member.model_.max_iter for member in members)
        step = step_of_all(self.ensemble, each(first._reported_loss()), self.optimiser, self.l2, self.keeps)
        self.step = tensorgrad.compile(step, ahead=True) if first.compile and total >= COMPILED else step
        for i in range(count):
            self.attach(i)

    # The parts of the parameters and the state that belong to one network

    def slices(self, i: int) -> list[list[Array]]:
        """For each parameter what network i has of it and of each slot, in the order of the optimiser's."""
        count = len(self.members)
        return [[array.reshape(count, -1)[i] for array in arrays] for arrays in self.block.views]

    def attach(self, i: int) -> None:
        """Let network i begin: its parameters are parts of those of all from now on."""
        member = self.members[i]
        assert member is not None
        for parameter, whole, (own, *state) in zip(member.model.parameters(), self.optimiser.params, self.slices(i), strict=True):
            own[...] = parameter._data.reshape(-1)
            for array in state:
                array[...] = 0
            parameter._replace(whole._data[i])
        self.wrote()

    def detach(self, i: int) -> None:
        """Network i has ended: its parameters are its own again, and nothing moves where they were."""
        member = self.members[i]
        assert member is not None
        for parameter in member.model.parameters():
            parameter._replace(parameter._data.copy())
        for arrays in self.slices(i):
            for array in arrays:
                array[...] = 0
        self.x[i], self.y[i], self.w[i], self.l2[i] = 0, 0, 0, 0
        self.members[i] = None
        self.wrote()

    def wrote(self) -> None:
        writes.wrote(self.block.flat)

    # Epochs

    def epoch(self) -> list[int]:
        """One epoch of each network; which of them have ended, their members with an `error` where training has failed."""
        start = time.perf_counter()
        active = [(i, member) for i, member in enumerate(self.members) if member is not None]
        orders = {i: member.loader.next_order() if member.model_.shuffle else None for i, member in active}
        for i, member in active:
            member.losses, member.counts, member.outputs = [], [], []
            member.seen = slice(None) if orders[i] is None else orders[i]
        for batch in range(self.steps):
            self.batch(active, orders, batch)
        held_out = self.held_out_outputs(active) if self.keeps else {}
        seconds = (time.perf_counter() - start) / max(len(active), 1)
        ended = []
        for i, member in active:
            try:
                member.end_epoch(held_out.get(i), seconds)
                if member.stop or member.epoch == member.model_.max_iter:
                    member.end()
            except Exception as error:
                member.error = error
            if member.error is not None or member.stop or member.epoch == member.model_.max_iter:
                self.detach(i)
                ended.append(i)
        return ended

    def batch(self, active: list[tuple[int, Member]], orders: dict[int, Array | None], batch: int) -> None:
        """A step of each network, on a batch of its own."""
        size = self.size if batch < self.steps - 1 else self.last
        x, y, w = (array if size == self.size else array[:, :size] for array in (self.x, self.y, self.w))
        rates, decays = np.zeros((2, len(self.members), 1), self.block.dtype)
        even = not self.weighted
        for i, member in active:
            rows = member.rows(orders[i], batch * self.size, self.size)
            found = member.X[rows]
            count = len(found)
            x[i, :count], y[i, :count] = found, member.y[rows]
            own = None if member.weights is None else member.weights[rows]
            total = float(count if own is None else own.sum())
            divisor = total or 1.0
            w[i, :count] = 1 / divisor if own is None else own / divisor
            if count < size:
                x[i, count:], y[i, count:], w[i, count:] = 0, 0, 0
                even = False
            member.counts.append(total)
            member.t += 1
            rates[i] = self.optimiser.rate(member.lr, member.t)
            self.l2[i] = member.model_.alpha / 2 / divisor
            decays[i] = 2 * self.l2[i]
        for p, views in zip(self.optimiser.params, self.block.views, strict=True):
            *_, rate, decay = views
            rate.reshape(len(rates), -1)[...] = rates
            decay.reshape(len(rates), -1)[...] = decays if p.ndim > 2 else 0
        costs, z = self.step(*map(Tensor, (x, y) if even else (x, y, w)))
        found = costs.numpy()
        for i, member in active:
            member.losses.append(float(found[i]))
            if z is not None:
                count = min(self.size, member.samples - batch * self.size)
                member.outputs.append(z.numpy()[i, :count].copy())

    def held_out_outputs(self, active: list[tuple[int, Member]]) -> dict[int, Array]:
        """What each network gives for the samples that it holds out."""
        samples = max(member.held_out[0].shape[0] for _, member in active if member.held_out is not None)
        found: dict[int, list[Array]] = {i: [] for i, _ in active}
        part = max(EVALUATED // len(self.members), 1)
        with evaluating(modules_of(self.ensemble)):
            for start in range(0, samples, part):
                x = np.zeros((len(self.members), min(part, samples - start), *self.x.shape[2:]), self.x.dtype)
                for i, member in active:
                    assert member.held_out is not None
                    own = member.held_out[0][start : start + part]
                    x[i, : len(own)] = own
                z = self.ensemble(x).numpy()
                for i, member in active:
                    assert member.held_out is not None
                    found[i].append(z[i, : max(0, member.held_out[0].shape[0] - start)].copy())
        return {i: np.concatenate(parts) for i, parts in found.items()}


def step_of_all(
    ensemble: nn.Module, losses: Callable[..., Any], optimiser: Any, l2: Array, keep: bool
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """One step of all networks: the cost of each on its batch, and what it gives, before the update.

    losses   of each sample;  l2: of each network, what the squares of its weights are multiplied by in its cost (the optimiser
             has what that adds to the gradient)
    """
    weights = [p for p in optimiser.params if p.ndim > 2]

    def step(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        z = ensemble(x)
        if y.ndim == 2:  # classes
            found = losses(z.reshape((-1, z.shape[2])), y.reshape((-1,))).reshape(y.shape)
        else:
            found = losses(z, y)
        costs = found.mean(axis=1) if w is None else (found * w).sum(axis=1)
        squares = [(p.detach() * p.detach()).sum(axis=(1, 2)) for p in weights]
        optimiser.zero_grad()
        costs.sum().backward()
        optimiser.step()
        return costs.detach() + l2 * sum(squares[1:], squares[0]), z.detach() if keep else None

    return step
