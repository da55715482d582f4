"""fit: the loop over epochs and batches, with compiled steps."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tensorgrad.autograd.walk import no_grad
from tensorgrad.core.backend import Array
from tensorgrad.core.tensor import Tensor
from tensorgrad.data.loader import DataLoader
from tensorgrad.errors import DataError, ShapeError, TrainingError
from tensorgrad.nn.module import Module
from tensorgrad.optim import Optimiser, Schedule
from tensorgrad.train.callbacks import Checkpoint, Function
from tensorgrad.train.history import History
from tensorgrad.train.metrics import Metric
from tensorgrad.train.progress import Progress
from tensorgrad.train.run import Callback, Record, Run, StopTraining, joined
from tensorgrad.train.steps import Steps, evaluation_step, training_step

EVALUATED = 1024  # samples at a time, where no loader says otherwise

Metrics: TypeAlias = Mapping[str, Metric] | Iterable[Metric] | None


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
                 gives for each sample, weighted, is what is minimised: a weight of 2 counts as the sample twice
    optimiser    over the parameters that are to be trained
    data         a DataLoader of X and y, or of X, y and weights (m,); or a tuple of these, which is shuffled, in batches of 32,
                 copied to where the model is; its order is another each time, but after `tensorgrad.manual_seed`.
                 Anything else with a length that gives such batches in a loop will do, but cannot be resumed
    epochs       how many in all, those of a training that is resumed among them
    validation   data of the same form, not trained on: "val_loss" and "val_<metric>" after each epoch
    metrics      functions of (predictions, targets), arrays of all samples, by name or in a list: tensorgrad.train.metrics.
                 Those of the training data are of the predictions that the steps made on the way, as the loss is
    callbacks    Callbacks, or functions of the Run, called after each epoch
    schedule     its `step` is called after each epoch with the column `schedule_monitor` of the history
    clip_norm    the largest norm that the gradients of a step together may have (optim.clip_grad_norm)
    l2           adds (l2 / m) sum of w² to the cost of a batch, w being the elements of parameters with two or more axes
                 (weights, not biases), m the number of its samples or the sum of their weights. "loss" has it, "val_loss" not
    compile      replay compiled steps; False runs each as it is written, with the same result to rounding. A number of Python's
                 that the model or the loss takes from elsewhere stays what it was at first (see `tensorgrad.compile`); those
                 that are attributes of modules may be changed between epochs, as may `requires_grad`
    progress     True for a progress bar, if there is a terminal or a notebook; None for one if tqdm is installed
    checkpoint   a file for everything, .npz or .safetensors, written after each epoch: the callback Checkpoint(path)
    resume       a checkpoint to go on from; True for the file `checkpoint`, if it is there. The learning rate and the other
                 settings of the optimiser and the schedule are then those of the file

    Returns the History. Training that was resumed, whenever it was interrupted, gives the parameters, bit for bit, of training
    that was not, given the same arguments, versions, machine and number of threads, where random numbers are drawn from the
    loaders' generators, those that modules have as attributes, and tensorgrad's own. Callbacks are told apart by class and
    order. Ctrl-C ends the training after the step, saves, and returns (`history.interrupted`); a second one raises
    KeyboardInterrupt at once. A training that a callback has stopped is stopped when it is resumed, too.

    Raises TrainingError if the loss of an epoch is not finite, with everything put back to the start of that epoch, or to where
    it was resumed in it;
    CheckpointError for a file that is damaged or does not fit; CompileError for a step that cannot be compiled.
    """
    if not isinstance(epochs, (int, np.integer)) or epochs < 0:
        raise ValueError(f"train.fit: epochs must be a whole number from 0, got {epochs!r}")
    if not l2 >= 0:
        raise ValueError(f"train.fit: l2 must be at least 0, got {l2}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"train.fit: clip_norm must be above 0, got {clip_norm}")
    if schedule is not None and schedule.optimiser is not optimiser:
        raise ValueError(f"train.fit: the {type(schedule).__name__} is of another optimiser than the one given")
    if resume is True and checkpoint is None:
        raise ValueError("train.fit: resume=True needs checkpoint=, the file to go on from")
    device = device_of_model(model)
    loader = as_loader("data", data, shuffle=True, device=device)
    callbacks = listed(callbacks)
    last = [c for c in callbacks if isinstance(c, Checkpoint)] + ([] if checkpoint is None else [Checkpoint(checkpoint)])
    if (last or resume) and not hasattr(loader, "load_state_dict"):
        raise TypeError(f"train.fit: checkpoints need a DataLoader, whose place can be saved; got {type(loader).__name__}")
    held_out = None if validation is None else as_loader("validation", validation, batch_size=EVALUATED, device=device)
    named = named_metrics(metrics)
    others = [c if isinstance(c, Callback) else Function(c) for c in callbacks if not isinstance(c, Checkpoint)]
    every = [*others, *last]  # the last to save what the others have made of the epoch
    run = Run(model, loss, optimiser, schedule, loader, held_out, by_name(every), int(epochs))
    measured = ["loss", *named]
    run.columns = ["epoch", *measured, *(f"val_{name}" for name in measured if held_out is not None), "lr", "seconds"]
    if schedule is not None and schedule_monitor not in run.columns:
        raise ValueError(
            f"train.fit: schedule_monitor={schedule_monitor!r} is no column of the history; there are {', '.join(run.columns)}"
        )
    if resume is True and Path(str(checkpoint)).exists():
        run.load(str(checkpoint))
    elif not isinstance(resume, bool):
        run.load(resume)

    keep = bool(named)
    step = Steps(training_step(model, loss, optimiser, l2, clip_norm, keep), keep, run if compile else None, loader)
    evaluation = Steps(evaluation_step(model, loss, keep), keep, run if compile else None, held_out)
    modes = [(module, module.training) for module in run.modules()]
    done = run.epoch * len(loader) + (run.record.done if run.record else 0)
    try:
        with CtrlC() as pressed, Progress(progress, run.epochs, len(loader), done) as shown:
            model.zero_grad()
            optimiser.zero_grad()
            for callback in every:
                callback.on_start(run)
            while run.epoch < run.epochs and not run.stop:
                if not one_epoch(run, step, evaluation, pressed, shown):
                    break
                end_epoch(run, evaluation, named, schedule_monitor)
                shown.epoch(run.row)
                for callback in every:
                    try:
                        callback.on_epoch_end(run)
                    except StopTraining as reason:
                        run.stop = str(reason) or "stopped"
                if pressed:
                    break
            run.history.interrupted, run.history.stopped = bool(pressed), run.stop
            for callback in (*last, *others):
                callback.on_end(run)
        if pressed:
            files = ", ".join(str(callback.path) for callback in last)
            saved = f"; resume={files!r} goes on" if files else ""
            print(f"train.fit: interrupted after {run.epoch} of {run.epochs} epochs{saved}", file=sys.stderr)
    finally:
        for module, training in modes:
            module.training = training
    return run.history


def one_epoch(run: Run, step: Steps, evaluation: Steps, pressed: CtrlC, shown: Progress) -> bool:
    """The steps of an epoch, or what is left of it; whether it has come to its end."""
    modules = list(run.modules())
    before = run.mark(modules)
    for module in modules:
        module.training = True
    settings = run.settings(modules)
    step.follow(settings)
    evaluation.follow(settings)
    record = run.record = run.record or Record(len(run.loader))
    start, rate = time.perf_counter() - record.seconds, run.optimiser.lr
    bar, keep = shown.bar, step.keep
    run.batches = iter(run.loader)  # kept: while it lives, the loader knows where it is
    for batch in run.batches:
        try:
            value, count, prediction = step(*batch)
        except Exception as raised:
            raised.add_note(f"train.fit: in epoch {run.epoch + 1}, batch {record.done + 1} of {record.batches}")
            raise
        record.add(value, count, prediction, batch[1] if keep else None)
        if bar is not None:
            bar.update()
        if pressed:
            break
    record.seconds = time.perf_counter() - start
    bad = record.first_not_finite()
    if bad is not None:
        run.back(before)
        error = TrainingError(
            f"train.fit: the loss is {record.losses[bad]} in epoch {run.epoch + 1}, batch {bad + 1} of {record.batches}, at "
            f"learning rate {rate:g}; the parameters are put back to what they were before the epoch. Find where it "
            f"comes from with tensorgrad.detect_anomaly() and compile=False, or try a lower rate or clip_norm"
        )
        error.history = run.history
        raise error
    return not pressed


def end_epoch(run: Run, evaluation: Steps, metrics: Mapping[str, Metric], monitor: str) -> None:
    """What is measured at the end of an epoch goes into the history, and the schedule makes its step."""
    record = run.record
    assert record is not None
    start = time.perf_counter()
    row: dict[str, Any] = {"epoch": run.epoch + 1, **record.row(metrics)}
    if run.validation is not None:
        measured = measure(list(run.modules()), evaluation, run.validation).row(metrics)
        row |= {f"val_{name}": value for name, value in measured.items()}
    row["lr"] = float(run.optimiser.lr)
    row["seconds"] = record.seconds + time.perf_counter() - start
    if run.schedule is not None:
        run.schedule.step(row[monitor])
    run.history.append(row)
    run.row, run.record, run.batches = row, None, None
    run.epoch += 1


def evaluate(model: Module, loss: Callable[..., Any], data: Any, metrics: Metrics = None) -> dict[str, float]:
    """The mean loss of a model over data, and metrics: {"loss": ..., ...}, in evaluation mode; arguments as in `fit`."""
    named = named_metrics(metrics)
    loader = as_loader("data", data, batch_size=EVALUATED, device=device_of_model(model))
    step = Steps(evaluation_step(model, loss, bool(named)), bool(named), None, loader)
    whole = [part for part in (model, loss) if isinstance(part, Module)]
    return measure([module for part in whole for _, module in part.named_modules()], step, loader).row(named)


def predict(model: Module, x: Any, batch_size: int = EVALUATED) -> Array:
    """What a model makes of x (m, ...), in evaluation mode, so many samples at a time: an array with the same first axis."""
    step = Steps(lambda x: (model(x), 0, None), False, None, None)
    batches = DataLoader(x, batch_size=batch_size, device=device_of_model(model))
    with evaluating([module for _, module in model.named_modules()]):
        return joined([step(*batch)[0].data for batch in batches])[0]


def measure(modules: list[Module], step: Steps, loader: Any) -> Record:
    """The steps of an evaluation."""
    record = Record(len(loader))
    with evaluating(modules):
        for batch in loader:
            value, count, prediction = step(*batch)
            record.add(value, count, prediction, batch[1] if step.keep else None)
    return record


@contextmanager
def evaluating(modules: list[Module]) -> Iterator[None]:
    """Inside the block modules are in evaluation mode, and nothing is recorded."""
    modes = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        with no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


class CtrlC:
    """Inside the block the first Ctrl-C is only noted: then this is true. The second raises KeyboardInterrupt.

    An exception in the middle of a step would leave parameters half updated, with threads still at work on them.
    """

    def __init__(self) -> None:
        self.pressed = False
        self.installed = False

    def __bool__(self) -> bool:
        return self.pressed

    def __enter__(self) -> CtrlC:
        at_home = threading.current_thread() is threading.main_thread()
        if at_home and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self.note)
            self.installed = True
        return self

    def __exit__(self, *error: object) -> None:
        if self.installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def note(self, number: int, frame: Any) -> None:
        if self.pressed:
            signal.default_int_handler(number, frame)
        self.pressed = True


def as_loader(name: str, data: Any, **options: Any) -> Any:
    """`data` as something that gives batches in a loop."""
    if isinstance(data, (tuple, list)):
        data = DataLoader(*data, **options)
    if isinstance(data, DataLoader):
        count = len(data.arrays)
        if count not in (2, 3):
            raise ShapeError(f"train.fit: {name} has {count} arrays, expected X and y, or X, y and weights")
        if count == 3 and data.arrays[2].ndim != 1:
            raise ShapeError(f"train.fit: weights of {name} have shape {data.arrays[2].shape}, expected (samples,)")
    elif not (hasattr(data, "__len__") and hasattr(data, "__iter__")) or isinstance(data, (np.ndarray, Tensor)):
        raise TypeError(f"train.fit: {name} must be a DataLoader or a tuple (X, y), got {type(data).__name__}")
    if not len(data):
        raise DataError(f"train.fit: {name} has no batches")
    return data


def device_of_model(model: Module) -> str:
    """Where its first parameter is."""
    return next((p.device for p in model.parameters()), "cpu")


def named_metrics(metrics: Metrics) -> dict[str, Metric]:
    """Metrics by name."""
    if callable(metrics) or isinstance(metrics, str):
        raise TypeError("train.fit: metrics must be a list of functions, or a dict of them by name")
    if isinstance(metrics, Mapping):
        pairs = list(metrics.items())
    else:
        pairs = [(getattr(metric, "__name__", type(metric).__name__), metric) for metric in metrics or ()]
    for i, (name, metric) in enumerate(pairs):
        if not callable(metric):
            raise TypeError(f"train.fit: metrics: expected functions, got {metric!r}")
        if name in ("epoch", "loss", "lr", "seconds") or name.startswith("val_"):
            raise ValueError(f"train.fit: a metric cannot be called {name!r}: the history has a column of that name")
        if name in dict(pairs[:i]):
            raise ValueError(f"train.fit: two metrics are called {name!r}; give a dict of them by name")
    return dict(pairs)


def listed(callbacks: Any) -> list[Callback | Callable[[Run], Any]]:
    """Callbacks as a list."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"train.fit: callbacks must be a list of callbacks, got {type(callbacks).__name__}")
    found = list(callbacks)
    for callback in found:
        if isinstance(callback, type) or not (isinstance(callback, Callback) or callable(callback)):
            kind = f"the class {callback.__name__}" if isinstance(callback, type) else repr(callback)
            raise TypeError(f"train.fit: callbacks: expected Callbacks and functions of the Run, got {kind}")
    return found


def by_name(callbacks: list[Callback]) -> dict[str, Callback]:
    """Callbacks by their class and their number among those of it."""
    found: dict[str, Callback] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        found[f"{kind}.{sum(name.rpartition('.')[0] == kind for name in found)}"] = callback
    return found
