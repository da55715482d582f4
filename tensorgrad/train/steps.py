"""Steps: the function applied to each batch, in training and evaluation, compiled or eager."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tensorgrad import ops
from tensorgrad.compiler import compile
from tensorgrad.core.backend import Array, is_array, like
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError, ShapeError
from tensorgrad.kernels.threads import with_steady_blas
from tensorgrad.nn.losses import Loss
from tensorgrad.nn.module import Module
from tensorgrad.ops.meeting import all_reduce, divided, share_of
from tensorgrad.ops.sparse import Rows, is_sparse
from tensorgrad.optim import Optimiser, clip_grad_norm
from tensorgrad.train.means import count_dtype, counts_of, divisor, reduction_of

# The loss of a batch, the divisor of its mean (None for a sum), and its prediction
Step: TypeAlias = Callable[..., tuple[Tensor, Any, Tensor | None]]


class Steps:
    """Applies `step` to each batch of arrays, converted to Tensors.

    compiled   whether to compile the step ahead of the first batch of each kind, so that every call is a replay. An eager first
               call would round differently, and a resumed training would differ from an uninterrupted one
    """

    def __init__(self, step: Step, compiled: bool = False) -> None:
        self.step = step
        self.has_run = False
        self.compiled = compile(step, ahead=True) if compiled else None
        self.batches_per_call = 0  # if batches can run in one call, how many; 0 while unknown
        self.capacity = 0  # capacity for the elements of sparse batches, so that one plan serves all

    def __call__(self, *batch: Array) -> tuple[Tensor, Any, Tensor | None]:
        if self.compiled is None:
            tensors = [array if is_sparse(array) else wrap(array, None) for array in batch]
            return with_steady_blas(self.step, *tensors)  # whatever other threads compute, products are the same
        if is_sparse(batch[0]):
            batch = (self.parts(batch[0]), *batch[1:])
        elif not self.has_run and not all(is_array(a) for a in batch):
            kinds = ", ".join(type(a).__name__ for a in batch)
            raise TypeError(f"train.fit: the loader yields batches of {kinds}, expected NumPy or CuPy arrays")
        self.has_run = True
        try:
            result: tuple[Tensor, Any, Tensor | None] = self.compiled(*batch)
        except CompileError as error:
            error.add_note("train.fit: compile=False runs every step uncompiled")
            raise
        return result

    def parts(self, x: Any) -> tuple[Any, ...]:
        """The three arrays of a sparse batch, padded to the capacity, and its number of columns."""
        if x.nnz > self.capacity:
            self.capacity = 1 << (x.nnz + x.nnz // 4).bit_length()
        values, indices = np.zeros(self.capacity, x.dtype), np.zeros(self.capacity, x.indices.dtype)
        values[: x.nnz], indices[: x.nnz] = x.data, x.indices
        return values, indices, x.indptr, x.shape[1]


def model_input(x: Any) -> Any:
    """The input of a model: a sparse batch is reassembled from its `parts`.

    Steps call this themselves, so that the compiled function is the one that reads the model.
    """
    return Rows(*x) if isinstance(x, tuple) else x


def training_step(
    model: Module, loss: Callable[..., Any], optimiser: Optimiser, l2: float, clip_norm: float | None, return_prediction: bool
) -> Step:
    """A function for one step: forward, backward, update."""
    weights = [p for p in optimiser.params if p.ndim > 1] if l2 else []

    def step(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Any, Tensor | None]:
        prediction = model(model_input(x))
        cost, count, samples = cost_of(loss, prediction, y, w)
        rank_cost = cost
        if ranks.group is not None:
            rank_cost, cost, count, samples = over_ranks(cost, count, samples)
        if weights:
            squares = [(p * p).sum() for p in weights]
            penalty = l2 / nonzero(samples) * sum(squares[1:], squares[0])
            rank_cost = rank_cost + penalty
            cost = rank_cost if ranks.group is None else cost + penalty
        optimiser.zero_grad()
        rank_cost.backward()
        if clip_norm is not None:
            clip_grad_norm(optimiser.params, clip_norm, error_if_nonfinite=False)
        optimiser.step()
        return cost, count, prediction if return_prediction else None

    return step


def evaluation_step(model: Module, loss: Callable[..., Any], return_prediction: bool) -> Step:
    """A function that returns the loss of a batch, and the prediction if `return_prediction`."""

    def step(x: Tensor, y: Tensor, w: Tensor | None = None) -> tuple[Tensor, Any, Tensor | None]:
        prediction = model(model_input(x))
        cost, count, samples = cost_of(loss, prediction, y, w)
        if ranks.group is not None:
            _, cost, count, _ = over_ranks(cost, count, samples)
        return cost, count, prediction if return_prediction else None

    return step


def cost_of(loss: Callable[..., Any], prediction: Any, y: Tensor, w: Tensor | None) -> tuple[Tensor, Any, Any]:
    """The loss of a batch; the divisor of its mean, None for a sum; and its number of samples, or the sum of their weights."""
    if w is None:
        cost = loss(prediction, y)
        if not isinstance(cost, Tensor) or cost.ndim:
            got = f"a Tensor of shape {cost.shape}" if isinstance(cost, Tensor) else type(cost).__name__
            raise ShapeError(f"train.fit: loss must return a 0-d Tensor, the mean over the batch, but it returned {got}")
        return cost, divisor(loss, prediction, y), len(y)
    losses = per_sample(loss)(prediction, y)
    if not isinstance(losses, Tensor) or losses.shape[:1] != w.shape:
        got = f"a Tensor of shape {losses.shape}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ShapeError(f"train.fit: with weights {w.shape}, loss must return one value per sample, but it returned {got}")
    w = ops.astype(w, count_dtype(losses.dtype))
    samples = w.sum()
    counts = counts_of(loss, prediction, y)
    if losses.ndim > 1:
        axes = tuple(range(1, losses.ndim))
        is_sum = counts is not None or reduction_of(loss) in ("sum", "batchmean")
        losses = losses.sum(axes) if is_sum else losses.mean(axes)
        counts = None if counts is None else counts.sum(axes)
    if reduction_of(loss) == "sum":
        return (losses * w).sum(), None, samples
    count = samples if counts is None else (counts * w).sum()
    return (losses * w).sum() / nonzero(count), count, samples


def over_ranks(cost: Tensor, count: Any, samples: Any) -> tuple[Tensor, Tensor, Any, Any]:
    """Combine the results of `cost_of` over the ranks' parts of a batch. Returns first the cost that this rank differentiates:
    its mean over the ranks, weighted by their shares of samples, is the loss of the whole batch. Then loss, divisor, and
    samples of the whole.
    """
    share = share_of(cost)
    with switched(recording=False):
        local, local_count, local_samples = cost.detach(), number(0 if count is None else count, cost), number(samples, cost)
        loss = ops.astype(local, np.float64)
        loss = (
            loss if count is None else ops.where(local_count > 0, loss * local_count, 0)
        )  # the mean over no samples may be NaN
        total = all_reduce(ops.stack([loss, local_count, local_samples]))
        mean = total[0] if count is None else total[0] / nonzero(total[1])
        weight = divided(number(1, cost) if count is None else local_count / nonzero(total[1]), share)
    is_plain = ranks.part is not None and isinstance(count, int) and count == ranks.part.stop - ranks.part.start
    rank_cost = cost if is_plain else cost * ops.astype(weight, cost.dtype)
    return rank_cost, ops.astype(mean, cost.dtype), None if count is None else total[1], total[2]


def number(value: Any, reference: Tensor) -> Tensor:
    """A number or 0-d Tensor in float64, on the device of `reference`."""
    return (
        ops.astype(value, np.float64)
        if isinstance(value, Tensor)
        else wrap(like(np.asarray(value, np.float64), reference._data), None)
    )


def nonzero(count: Any) -> Any:
    """A safe divisor: a batch whose weights are all 0 has the loss 0."""
    return ops.where(count == 0, 1, count) if isinstance(count, Tensor) else count


def per_sample(loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss that returns the loss of each sample."""
    if isinstance(loss, Loss):
        loss = copy.copy(loss)
        loss.reduction = "none"
        return loss
    name = getattr(loss, "__name__", type(loss).__name__)
    try:
        inspect.signature(loss.forward if isinstance(loss, Module) else loss).bind(None, None, reduction="none")
    except TypeError:
        raise TypeError(
            f"train.fit: for sample weights the loss is called with reduction='none', which {name} does not accept"
        ) from None
    return partial(loss, reduction="none")
