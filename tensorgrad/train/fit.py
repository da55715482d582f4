"""fit: the loop over epochs and batches, with compiled steps."""

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
from tensorgrad.train.arguments import (
    EVALUATED,
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
from tensorgrad.train.evaluate import measure, own_modes
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
    """Train a model for so many epochs.

    model        called with the batch x; in training mode during the steps, in evaluation mode for the validation
    loss         a function of (prediction, target) that returns a 0-d Tensor, the mean over the samples, such as
                 nn.functional.cross_entropy. With sample weights it is called with reduction="none", and the mean of what it
                 gives for each sample, weighted, is what is minimised: a weight of 2 counts as the sample twice. What the
                 history has is the loss of all samples at once, for lr = 0: the losses of this package (as functions, partials
                 of them, and modules) say what the mean of a batch divides by (`ignore_index`, class weights), or that it is
                 a sum; of any other a batch counts as many samples as it has
    optimiser    over the parameters that are to be trained
    data         a DataLoader of X and y, or of X, y and weights (m,); or a tuple of these, which is shuffled, in batches of 32,
                 copied to where the model is; its order is another each time, but after `tensorgrad.manual_seed`.
                 Anything else with a length that gives such batches in a loop will do, but cannot be resumed
    epochs       how many in all, those of a training that is resumed among them
    validation   data of the same form, not trained on: "val_loss" and "val_<metric>" after each epoch
    metrics      functions of (predictions, targets), arrays of all samples, by name or in a list: tensorgrad.train.metrics.
                 Those of the training data are of the predictions that the steps made on the way, as the loss is
    callbacks    Callbacks, whose on_batch_end is called after each batch, on_epoch_end after each epoch; or functions of the
                 Run, called after each epoch
    schedule     its `step` is called after each epoch with the column `schedule_monitor` of the history, or after each batch
                 without one, as its `per` says: Warmup(..., per="batch"); a rate by a rule of one's own, for each batch, is
                 set in a callback: `run.optimiser.lr = ...` in on_batch_end
    clip_norm    the largest norm that the gradients of a step together may have (optim.clip_grad_norm)
    l2           adds (l2 / m) sum of w² to the cost of a batch, w being the elements of parameters with two or more axes
                 (weights, not biases), m the number of its samples or the sum of their weights. "loss" has it, "val_loss" not
    compile      replay compiled steps; False runs each as it is written, with the same result to rounding. What the model
                 and the loss read from outside may change between steps: it is followed, or another plan is made
                 (see `tensorgrad.compile`)
    progress     True for a progress bar, if there is a terminal or a notebook; None for one if tqdm is installed
    checkpoint   a file for everything, .npz or .safetensors, written after each epoch: the callback Checkpoint(path)
    resume       a checkpoint to go on from; True for the file `checkpoint`, if it is there. The learning rate and the other
                 settings of the optimiser and the schedule are then those of the file

    The column "lr" of the history is the rate of the first group of parameters after the last batch of the epoch: with a
    schedule that goes by epochs, the one that the epoch was trained with.

    Returns the History. Training that was resumed, whenever it was interrupted, gives the parameters, bit for bit, of training
    that was not, given the same arguments, versions, machine and number of threads, where random numbers are drawn from the
    loaders' generators, those that modules have as attributes, and tensorgrad's own. Callbacks are told apart by class and
    order; those with a state have to be the ones that the file has, and no others. Ctrl-C ends the training after the step,
    saves, and returns (`history.interrupted`); a second one raises KeyboardInterrupt at once. A training that a callback has
    stopped is stopped when it is resumed, too.

    Raises TrainingError if the loss of an epoch is not finite, with everything put back to the start of that epoch, or to where
    it was resumed in it;
    CheckpointError for a file that is damaged or does not fit; CompileError for a step that cannot be compiled.
    """
    check_model_and_loss(model, loss)
    check_numbers(epochs, l2, clip_norm)
    if schedule is not None and schedule.optimiser is not optimiser:
        raise ValueError(f"train.fit: the {type(schedule).__name__} is of another optimiser than the one given")
    if isinstance(optimiser, LBFGS):
        raise TypeError(
            "train.fit: LBFGS needs the loss several times in a step: call optimiser.step(closure) in a loop instead"
        )
    if resume is True and checkpoint is None:
        raise ValueError("train.fit: resume=True needs checkpoint=, the file to go on from")
    device = device_of_model(model)
    loader = as_loader("data", data, shuffle=True, device=device)
    held_out = None if validation is None else as_loader("validation", validation, batch_size=EVALUATED, device=device)
    named = named_metrics(metrics)
    columns = columns_of(named, held_out is not None)
    if schedule is not None and schedule_monitor not in columns:
        raise ValueError(
            f"train.fit: schedule_monitor={schedule_monitor!r} is no column of the history; there are {', '.join(columns)}"
        )
    by_name = as_callbacks(callbacks, checkpoint)
    every = list(by_name.values())
    checkpoints = [callback for callback in every if isinstance(callback, Checkpoint)]
    if (checkpoints or resume) and not hasattr(loader, "load_state_dict"):
        raise TypeError(f"train.fit: checkpoints need a DataLoader, whose place can be saved; got {type(loader).__name__}")
    run = Run(model, loss, optimiser, schedule, loader, held_out, by_name, int(epochs), columns)
    if not isinstance(resume, bool):
        run.load(resume)
    elif resume and ranks.shared(Path(str(checkpoint)).exists()):
        run.load(str(checkpoint))
    steps = Steps(training_step(model, loss, optimiser, l2, clip_norm, bool(named)), compile)
    evaluation = Steps(evaluation_step(model, loss, bool(named)), compile)

    with own_modes(run.modules()), CtrlC() as interrupted, Progress(progress, run) as bar:
        model.zero_grad()
        optimiser.zero_grad()
        for callback in every:
            callback.on_start(run)
        while run.epoch < run.epochs and not run.stop and not interrupted:
            begin = begun(run)
            try:
                train_epoch(run, steps, evaluation, interrupted, bar)
                if interrupted:
                    break
                end_epoch(run, evaluation, named, schedule_monitor)
                bar.epoch(run.row)
                for callback in every:
                    told(run, callback.on_epoch_end)
                if ranks.group is not None:
                    run.stop = next(filter(None, ranks.gathered(run.stop)), "")
            except RankError as lost:
                if begin is None or not lost.gone:
                    raise
                begin_again(run, begin, lost)
        run.history.interrupted, run.history.stopped = bool(interrupted), run.stop
        for callback in sorted(every, key=lambda c: not isinstance(c, Checkpoint)):  # before the best values are put back
            callback.on_end(run)
    if interrupted and ranks.is_first:
        files = ", ".join(str(callback.path) for callback in checkpoints)
        saved = f"; resume={files!r} goes on" if files else ""
        print(f"train.fit: interrupted after {run.epoch} of {run.epochs} epochs{saved}", file=sys.stderr)
    return run.history


def begun(run: Run) -> dict[str, Any] | None:
    """The state in which an epoch begins, if there are ranks that can be lost and leave others behind."""
    if ranks.group is None or not ranks.group.outlives:
        return None
    return copy.deepcopy(run.contents())


def begin_again(run: Run, begin: dict[str, Any], lost: RankError) -> None:
    """Go on without ranks that are lost, from the beginning of the latest epoch that one of the others has begun."""
    latest = max(ranks.gathered(begin), key=lambda contents: contents["epoch"])
    run.batches, ranks.part = None, None
    run.go_on("what was kept in memory", latest)
    if ranks.is_first:
        print(f"train.fit: {lost}; goes on from the start of epoch {run.epoch + 1}", file=sys.stderr)


def told(run: Run, hook: Callable[[Run], Any]) -> None:
    """Call what a callback has defined; it may end the training."""
    try:
        hook(run)
    except StopTraining as reason:
        run.stop = str(reason) or "stopped"


def train_epoch(run: Run, steps: Steps, evaluation: Steps, interrupted: CtrlC, bar: Progress) -> None:
    """The steps of an epoch, or what is left of it; or some of them, if they are interrupted."""
    state = run.state()
    by_batch = run.schedule if run.schedule is not None and run.schedule.per == "batch" else None
    before = state.take(*EPOCH, *(["schedule"] if by_batch else []))
    for module in state.modules:
        module.training = True
    record = run.record = run.record or Record(len(run.loader))
    start = time.perf_counter() - record.seconds
    watching = [c for c in run.callbacks.values() if type(c).on_batch_end is not Callback.on_batch_end]
    run.batches = iter(run.loader)  # kept: while it lives, the loader knows where it is
    try:
        for batch in run.batches:
            record.add(*steps(*batch), batch[1])
            if by_batch is not None:
                by_batch.step()
            for callback in watching:
                told(run, callback.on_batch_end)
            bar.update()
            interrupted.agree()
            if interrupted:
                break
    except Exception as raised:
        raised.add_note(f"train.fit: in epoch {run.epoch + 1}, batch {record.done + 1} of {record.batches}")
        raise
    record.seconds = time.perf_counter() - start
    bad = record.first_not_finite()
    if bad is not None:
        run.batches = None
        state.put(before)
        raise not_finite(run, record, bad)


def not_finite(run: Run, record: Record, batch: int) -> TrainingError:
    """The error for a loss that is not finite."""
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(run.optimiser.rates))
    error = TrainingError(
        f"train.fit: the loss is {record.losses[batch]} in epoch {run.epoch + 1}, batch {batch + 1} of {record.batches}, at "
        f"learning rate {rates}; the parameters are put back to what they were before the epoch. Find where it "
        f"comes from with tensorgrad.detect_anomaly() and compile=False, or try a lower rate or clip_norm"
    )
    error.history = run.history
    return error


def end_epoch(run: Run, evaluation: Steps, metrics: Mapping[str, Metric], monitor: str) -> None:
    """What is measured at the end of an epoch goes into the history, and the schedule makes its step."""
    record = run.record
    assert record is not None
    start = time.perf_counter()
    row: dict[str, Any] = {"epoch": run.epoch + 1, **record.row(metrics)}
    if run.validation is not None:
        measured = measure(run.modules(), evaluation, run.validation).row(metrics)
        row |= {f"val_{name}": value for name, value in measured.items()}
    row["lr"] = run.optimiser.rates[0]
    row["seconds"] = record.seconds + time.perf_counter() - start
    row = ranks.shared(row)
    if run.schedule is not None and run.schedule.per == "epoch":
        run.schedule.step(row[monitor])
    run.history.append(row)
    run.row, run.record, run.batches = row, None, None
    run.epoch += 1
