"""fit: the training loop over epochs and batches, with compiled steps."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorgrad.core.ranks import ranks
from tensorgrad.errors import RankError, TrainingError
from tensorgrad.nn.module import Module
from tensorgrad.optim import LBFGS, Optimiser, Schedule
from tensorgrad.train.ahead import Ahead
from tensorgrad.train.arguments import (
    EVALUATION_BATCH_SIZE,
    Metrics,
    as_callbacks,
    as_loader,
    check_model_and_loss,
    check_numbers,
    columns_of,
    device_of_model,
    named_metrics,
)
from tensorgrad.train.callbacks import Checkpoint
from tensorgrad.train.evaluate import local_modes, measure
from tensorgrad.train.history import History
from tensorgrad.train.interrupt import CtrlC
from tensorgrad.train.metrics import Metric
from tensorgrad.train.progress import Progress
from tensorgrad.train.record import Record
from tensorgrad.train.run import Callback, Run, StopTraining
from tensorgrad.train.state import EPOCH
from tensorgrad.train.steps import Steps, evaluation_step, training_step


def fit(
    model: Module,
    loss: Callable[..., Any],
    optimiser: Optimiser,
    data: Any,
    epochs: int,
    *,
    validation: Any = None,
    metrics: Metrics = None,
    callbacks: Iterable[Callback | Callable[[Run], Any]] = (),
    schedule: Schedule | None = None,
    schedule_monitor: str = "loss",
    clip_norm: float | None = None,
    l2: float = 0.0,
    compile: bool = True,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    resume: str | Path | bool = False,
) -> History:
    """Train a model for a number of epochs.

    model        called with the batch x; in training mode during the steps, in evaluation mode for the validation
    loss         a function of (prediction, target) that returns a 0-d Tensor, the mean over the samples, such as
                 nn.functional.cross_entropy. With sample weights it is called with reduction="none", and the weighted mean of
                 the samples' losses is minimised: a weight of 2 has the effect of repeating the sample. The history has the
                 loss of all samples as if computed at once with lr = 0. For the losses of this package (functions, partials of
                 them, modules) this is exact also with `ignore_index`, class weights and reduction="sum"; for other losses each
                 batch is weighted by its number of samples
    optimiser    an optimiser of the parameters to train
    data         a DataLoader of X and y, or of X, y and weights (m,); or a tuple of these arrays, which is shuffled differently
                 in each epoch (and each run, except after `tensorgrad.manual_seed`), split into batches of 32, and copied to
                 the model's device. Any other sized iterable of such batches works, but cannot be resumed
    epochs       total number of epochs, including those before a resume
    validation   data of the same form, not trained on: gives "val_loss" and "val_<metric>" after each epoch
    metrics      functions of (predictions, targets), arrays of all samples, by name or in a list: tensorgrad.train.metrics.
                 Like the loss, those of the training data use the predictions made during the epoch
    callbacks    Callbacks, whose on_batch_end is called after each batch and on_epoch_end after each epoch; or functions of the
                 Run, called after each epoch
    schedule     its `step` is called after each epoch with the history column `schedule_monitor`, or after each batch without
                 an argument, depending on its `per`: Warmup(..., per="batch"). For a rule of your own set the rate in a
                 callback: `run.optimiser.lr = ...` in on_batch_end
    clip_norm    the largest allowed norm of all gradients of a step together (optim.clip_grad_norm)
    l2           adds (l2 / m) sum of w² to the cost of a batch, w being the elements of parameters with two or more axes
                 (weights, not biases), m the number of samples or the sum of their weights. Included in "loss", not in
                 "val_loss"
    compile      True to compile the steps; False runs them eagerly, with the same result up to rounding. Values that model and
                 loss read from outside may change between steps: the plan follows, or a new one is made (see
                 `tensorgrad.compile`). Where nothing needs Python between batches, several run in one call of up to some
                 0.03 s, which other threads' changes wait for
    progress     True for a progress bar in a terminal or notebook; None for one if tqdm is installed
    checkpoint   a file, .npz or .safetensors, for the whole state after each epoch: the callback Checkpoint(path)
    resume       a checkpoint to resume from; True for the file `checkpoint` if it exists. Learning rate and other settings of
                 optimiser and schedule are then read from the file

    The history column "lr" is the rate of the first parameter group after the last batch of the epoch; with a schedule per
    epoch, the rate of that epoch.

    Returns the History. A resumed training, wherever it was interrupted, gives bit for bit the parameters of an uninterrupted
    one, given the same arguments, versions, machine and number of threads, and provided that random numbers come from the
    loaders' generators, from generators that are attributes of modules, and from tensorgrad's own. Callbacks are matched by
    class and order; those with a state must be the same as in the file. Ctrl-C ends the training after the current step, saves,
    and returns (`history.interrupted`); a second Ctrl-C raises KeyboardInterrupt at once. A training stopped by a callback
    stays stopped when resumed.

    Raises TrainingError if the loss of an epoch is not finite, with everything restored to the start of that epoch, or to where
    it was resumed in it; CheckpointError for a file that is damaged or does not fit; CompileError for a step that cannot be
    compiled.
    """
    check_model_and_loss(model, loss)
    check_numbers(epochs, l2, clip_norm)
    if schedule is not None and schedule.optimiser is not optimiser:
        raise ValueError(f"train.fit: the {type(schedule).__name__} has a different optimiser than the one passed")
    if isinstance(optimiser, LBFGS):
        raise TypeError(
            "train.fit: LBFGS needs the loss several times per step: call optimiser.step(closure) in a loop instead"
        )
    if resume is True and checkpoint is None:
        raise ValueError("train.fit: resume=True needs checkpoint=, the file to resume from")
    device = device_of_model(model)
    loader = as_loader("data", data, shuffle=True, device=device)
    validation_loader = (
        None if validation is None else as_loader("validation", validation, batch_size=EVALUATION_BATCH_SIZE, device=device)
    )
    metrics_by_name = named_metrics(metrics)
    columns = columns_of(metrics_by_name, validation_loader is not None)
    if schedule is not None and schedule_monitor not in columns:
        raise ValueError(
            f"train.fit: schedule_monitor={schedule_monitor!r} is not a column of the history, which has {', '.join(columns)}"
        )
    callbacks_by_name = as_callbacks(callbacks, checkpoint)
    all_callbacks = list(callbacks_by_name.values())
    checkpoints = [callback for callback in all_callbacks if isinstance(callback, Checkpoint)]
    if (checkpoints or resume) and not hasattr(loader, "load_state_dict"):
        raise TypeError(f"train.fit: checkpoints need a DataLoader, whose position can be saved; got {type(loader).__name__}")
    run = Run(model, loss, optimiser, schedule, loader, validation_loader, callbacks_by_name, int(epochs), columns)
    if not isinstance(resume, bool):
        run.load(resume)
    elif resume and ranks.broadcast(Path(str(checkpoint)).exists()):
        run.load(str(checkpoint))
    steps = Steps(training_step(model, loss, optimiser, l2, clip_norm, bool(metrics_by_name)), compile)
    evaluation = Steps(evaluation_step(model, loss, bool(metrics_by_name)), compile)

    with local_modes(run.modules()), CtrlC() as interrupted, Progress(progress, run) as bar:
        model.zero_grad()
        optimiser.zero_grad()
        for callback in all_callbacks:
            callback.on_start(run)
        while run.epoch < run.epochs and not run.stop and not interrupted:
            snapshot = epoch_snapshot(run)
            try:
                train_epoch(run, steps, evaluation, interrupted, bar)
                if interrupted:
                    break
                end_epoch(run, evaluation, metrics_by_name, schedule_monitor)
                bar.epoch(run.row)
                for callback in all_callbacks:
                    call_hook(run, callback.on_epoch_end)
                if ranks.group is not None:
                    run.stop = next(filter(None, ranks.all_gather(run.stop)), "")
            except RankError as error:
                if snapshot is None or not error.gone:
                    raise
                restart_epoch(run, snapshot, error)
        run.history.interrupted, run.history.stopped = bool(interrupted), run.stop
        for callback in sorted(all_callbacks, key=lambda c: not isinstance(c, Checkpoint)):  # before best values are restored
            callback.on_end(run)
    if interrupted and ranks.is_first:
        files = ", ".join(str(callback.path) for callback in checkpoints)
        saved = f"; continue with resume={files!r}" if files else ""
        print(f"train.fit: interrupted after {run.epoch} of {run.epochs} epochs{saved}", file=sys.stderr)
    return run.history


def epoch_snapshot(run: Run) -> dict[str, Any] | None:
    """A snapshot at the start of an epoch, if ranks may be lost while others continue."""
    if ranks.group is None or not ranks.group.fault_tolerant:
        return None
    return copy.deepcopy(run.contents())


def restart_epoch(run: Run, snapshot: dict[str, Any], error: RankError) -> None:
    """Continue without lost ranks, from the start of the latest epoch that a remaining rank has started."""
    latest = max(ranks.all_gather(snapshot), key=lambda contents: contents["epoch"])
    run.batches, ranks.part = None, None
    run.resume("the state in memory", latest)
    if ranks.is_first:
        print(f"train.fit: {error}; continues from the start of epoch {run.epoch + 1}", file=sys.stderr)


def call_hook(run: Run, hook: Callable[[Run], Any]) -> None:
    """Call a callback's hook, which may end the training."""
    try:
        hook(run)
    except StopTraining as reason:
        run.stop = str(reason) or "stopped"


def train_epoch(run: Run, steps: Steps, evaluation: Steps, interrupted: CtrlC, bar: Progress) -> None:
    """Run the (remaining) steps of an epoch, until it is done or interrupted."""
    state = run.state()
    batch_schedule = run.schedule if run.schedule is not None and run.schedule.per == "batch" else None
    old_values = state.take(*EPOCH, *(["schedule"] if batch_schedule else []))
    for module in state.modules:
        module.training = True
    record = run.record = run.record or Record(len(run.loader))
    start = time.perf_counter() - record.seconds
    batch_callbacks = [c for c in run.callbacks.values() if type(c).on_batch_end is not Callback.on_batch_end]
    run.batches = iter(run.loader)  # kept, because the loader knows its position only while the iterator exists
    ahead = None
    try:
        for batch in run.batches:
            if ahead is None and batch_schedule is None and not batch_callbacks:
                ahead = Ahead.of(run, steps, record)
            ran_together = 0
            for done in () if ahead is None else ahead.run(batch):
                ran_together += done
                bar.update(done)
                if interrupted:
                    break
            if not ran_together:
                record.add(*steps(*batch), batch[1])
                if batch_schedule is not None:
                    batch_schedule.step()
                for callback in batch_callbacks:
                    call_hook(run, callback.on_batch_end)
                bar.update()
                interrupted.agree()
            if interrupted:
                break
    except Exception as error:
        error.add_note(f"train.fit: in epoch {run.epoch + 1}, batch {record.done + 1} of {record.batches}")
        raise
    record.seconds = time.perf_counter() - start
    first_bad = record.first_not_finite()
    if first_bad is not None:
        run.batches = None
        state.put(old_values)
        raise not_finite(run, record, first_bad)


def not_finite(run: Run, record: Record, batch: int) -> TrainingError:
    """The error for a loss that is not finite."""
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(run.optimiser.rates))
    error = TrainingError(
        f"train.fit: the loss is {record.losses[batch]} in epoch {run.epoch + 1}, batch {batch + 1} of {record.batches}, at "
        f"learning rate {rates}; the parameters are reset to those before the epoch. Find where it "
        f"comes from with tensorgrad.detect_anomaly() and compile=False, or try a lower rate or clip_norm"
    )
    error.history = run.history
    return error


def end_epoch(run: Run, evaluation: Steps, metrics: Mapping[str, Metric], monitor: str) -> None:
    """Measure at the end of an epoch, add a row to the history, and step the schedule."""
    record = run.record
    assert record is not None
    start = time.perf_counter()
    row: dict[str, Any] = {"epoch": run.epoch + 1, **record.row(metrics)}
    if run.validation is not None:
        measured = measure(run.modules(), evaluation, run.validation).row(metrics)
        row |= {f"val_{name}": value for name, value in measured.items()}
    row["lr"] = run.optimiser.rates[0]
    row["seconds"] = record.seconds + time.perf_counter() - start
    row = ranks.broadcast(row)
    if run.schedule is not None and run.schedule.per == "epoch":
        run.schedule.step(row[monitor])
    run.history.append(row)
    run.row, run.record, run.batches = row, None, None
    run.epoch += 1
