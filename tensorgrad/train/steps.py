"""Steps: what is done with a batch, in training and in evaluation, compiled or as it is written."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tensorgrad import ops
from tensorgrad.compiler import compile
from tensorgrad.core.backend import Array, is_array, like, on
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.data.loader import rows_of
from tensorgrad.errors import CompileError, ShapeError
from tensorgrad.nn.losses import Loss
from tensorgrad.nn.module import Module
from tensorgrad.optim import Optimiser, clip_grad_norm
from tensorgrad.train.run import Run

Step: TypeAlias = Callable[..., tuple[Tensor, Any, Tensor | None]]  # of a batch: its loss, of how many samples, its prediction


class Steps:
    """What is done with each batch: a function of its arrays, which calls `function` with Tensors of them.

    keep     whether the predictions are asked for
    run      if given, the function is compiled. Before the first batch of each length counts, the function is run until it is
             compiled, and what that has changed is put back: so every call that counts is a replay. Otherwise the first two,
             which are not, would round differently, and training that is resumed would not be that which was not interrupted
    loader   where the batches come from
    """

    def __init__(self, function: Step, keep: bool, run: Run | None, loader: Any) -> None:
        self.function, self.keep, self.run, self.loader = function, keep, run, loader
        self.compiled = compile(function)
        self.ready: set[int] = set()
        self.settings: list[Any] | None = None

    def follow(self, settings: list[Any]) -> None:
        """Forget the plans if the settings of the run are not what they were when it was last asked."""
        if settings != self.settings and self.settings is not None:
            self.compiled = compile(self.function)
            self.ready.clear()
        self.settings = settings

    def __call__(self, *batch: Array) -> tuple[Tensor, Any, Tensor | None]:
        if self.run is None:
            return self.function(*[wrap(array, None) for array in batch])
        if len(batch[0]) not in self.ready:
            self.prepare(self.run, batch)
        result: tuple[Tensor, Any, Tensor | None] = self.compiled(*batch)
        return result

    def prepare(self, run: Run, batch: tuple[Array, ...]) -> None:
        """Compile the function for batches as long as this one.

        Its calls are given other samples and other parameters each, for what would be the same array in all of them, though
        computed of those without being recorded, the compiler could not tell from a constant.
        """
        if not all(is_array(a) for a in batch):
            kinds = ", ".join(type(a).__name__ for a in batch)
            raise TypeError(f"train.fit: the loader gives batches of {kinds}, expected arrays of NumPy or CuPy")
        before = run.capture()
        samples = getattr(self.loader, "arrays", batch)
        if [(a.shape[1:], a.dtype) for a in samples] != [(a.shape[1:], a.dtype) for a in batch]:
            samples = batch  # a loader that makes other batches of its arrays
        with on(samples[1]):
            other = int((samples[1] != like(batch[1][:1], samples[1])).reshape(len(samples[1]), -1).any(axis=1).argmax())
        rows = (np.arange(len(batch[0])) + (other or 1)) % len(samples[1])
        try:
            for arguments in (
                batch,
                others := tuple([like(rows_of(a, rows), batch[0]) for a in samples]),
                batch,
                others,
            ):
                plan = self.compiled.plan  # the second call makes it; the third, where the first has left a .grad
                self.compiled(*arguments)
                if self.compiled.plan is not plan:
                    break
                for array in run.arrays():
                    with on(array):
                        array += 0.01
        except CompileError as error:
            error.add_note("train.fit: with compile=False every step is run as it is written")
            raise
        finally:
            run.restore(before)
        self.ready.add(len(batch[0]))


def training_step(
    model: Module, loss: Callable[..., Any], optimiser: Optimiser, l2: float, clip_norm: float | None, keep: bool
) -> Step:
    """One step: forward, backward, update."""
    weights = [p for p in optimiser.params if p.ndim > 1] if l2 else []

    def step(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Any, Tensor | None]:
        prediction = model(x)
        cost, count = cost_of(loss, prediction, y, w)
        if weights:
            squares = [(p * p).sum() for p in weights]
            cost = cost + l2 / nonzero(count) * sum(squares[1:], squares[0])
        optimiser.zero_grad()
        cost.backward()
        if clip_norm is not None:
            clip_grad_norm(optimiser.params, clip_norm, error_if_nonfinite=False)
        optimiser.step()
        return cost, count, prediction if keep else None

    return step


def evaluation_step(model: Module, loss: Callable[..., Any], keep: bool) -> Step:
    """The loss of a batch, and the prediction."""

    def step(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Any, Tensor | None]:
        prediction = model(x)
        return *cost_of(loss, prediction, y, w), prediction if keep else None

    return step


def cost_of(loss: Callable[..., Any], prediction: Any, y: Tensor, w: Tensor | None) -> tuple[Tensor, Any]:
    """The mean loss of a batch, and of how many samples it is, or of what sum of weights."""
    if w is None:
        cost = loss(prediction, y)
        if not isinstance(cost, Tensor) or cost.ndim:
            got = f"a Tensor of shape {cost.shape}" if isinstance(cost, Tensor) else type(cost).__name__
            raise ShapeError(f"train.fit: loss must return a 0-d Tensor, the mean over the batch, but it returned {got}")
        return cost, len(y)
    losses = each(loss)(prediction, y)
    if not isinstance(losses, Tensor) or losses.shape[:1] != w.shape:
        got = f"a Tensor of shape {losses.shape}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ShapeError(f"train.fit: with weights {w.shape}, loss must give one for each sample, but it returned {got}")
    if losses.ndim > 1:
        over = tuple(range(1, losses.ndim))
        losses = losses.sum(over) if getattr(loss, "reduction", "mean") in ("sum", "batchmean") else losses.mean(over)
    w = ops.astype(w, losses.dtype)
    count = w.sum()
    return (losses * w).sum() / nonzero(count), count


def nonzero(count: Any) -> Any:
    """A number to divide by: a batch in which all weights are 0 has the loss 0."""
    return ops.where(count == 0, 1, count) if isinstance(count, Tensor) else count


def each(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss as one that gives the loss of each sample."""
    if isinstance(loss, Loss):
        loss = copy.copy(loss)
        loss.reduction = "none"
        return loss
    named = getattr(loss, "__name__", type(loss).__name__)
    call: Callable[..., Any] = loss.forward if isinstance(loss, Module) else loss  # a module's call passes no keywords on
    try:
        inspect.signature(call).bind(None, None, reduction="none")
    except TypeError:
        raise TypeError(
            f"train.fit: for sample weights the loss is called with reduction='none', which {named} does not take"
        ) from None
    return partial(call, reduction="none")
