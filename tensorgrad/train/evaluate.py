"""evaluate and predict: apply a model to data without training it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tensorgrad.autograd.walk import no_grad
from tensorgrad.core.backend import Array
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import state, switched
from tensorgrad.data.loader import DataLoader
from tensorgrad.nn.module import Module
from tensorgrad.train.arguments import (
    EVALUATION_BATCH_SIZE,
    Metrics,
    as_loader,
    check_model_and_loss,
    device_of_model,
    named_metrics,
)
from tensorgrad.train.record import Record, concatenated
from tensorgrad.train.state import modules_of
from tensorgrad.train.steps import Steps, evaluation_step


def evaluate(model: Module, loss: Callable[..., Any], data: Any, metrics: Metrics = None) -> dict[str, float]:
    """The loss of a model over data, and metrics: {"loss": ..., ...}, in evaluation mode; arguments as in `fit`.

    The mode is set for this call only: other threads may evaluate, predict or train with the model at the same time. For the
    losses of this package the batch size does not matter; see `fit` for others.
    """
    check_model_and_loss(model, loss)
    metrics_by_name = named_metrics(metrics)
    loader = as_loader("data", data, batch_size=EVALUATION_BATCH_SIZE, device=device_of_model(model))
    return measure(modules_of(model, loss), Steps(evaluation_step(model, loss, bool(metrics_by_name))), loader).row(
        metrics_by_name
    )


def predict(model: Module, x: Any, batch_size: int = EVALUATION_BATCH_SIZE) -> Array:
    """The predictions of a model for x (m, ...), in evaluation mode, batch_size samples at a time: an array with the same first
    axis.

    With several ranks (`tensorgrad.distributed`) each computes all predictions; one may call it alone.
    """
    step = Steps(lambda x: (model(x), 0, None))
    batches = DataLoader(x, batch_size=batch_size, device=device_of_model(model))
    with evaluating(modules_of(model)), ranks.alone():
        return concatenated([step(*batch)[0]._data for batch in batches])[0]


def measure(modules: list[Module], step: Steps, loader: Any) -> Record:
    """Run the steps of an evaluation."""
    record = Record(len(loader))
    with evaluating(modules):
        for batch in loader:
            record.add(*step(*batch), batch[1])
    return record


@contextmanager
def evaluating(modules: list[Module]) -> Iterator[None]:
    """Context manager: modules are in evaluation mode, and nothing is recorded."""
    with local_modes(modules), no_grad():
        for module in modules:
            module.training = False
        yield


def local_modes(modules: list[Module]) -> switched:
    """Context manager: changes of the training mode of modules are local to this block and thread, and end with it."""
    return switched(modes={**state.modes, **{id(module): (module, module.training) for module in modules}})
