"""Training: the `fit` loop, history, callbacks, checkpoints and metrics."""

from tensorgrad.train import metrics
from tensorgrad.train.callbacks import Checkpoint, CSVLogger, EarlyStopping, JSONLinesLogger
from tensorgrad.train.checkpoint import load, save
from tensorgrad.train.evaluate import evaluate, predict
from tensorgrad.train.fit import fit
from tensorgrad.train.history import History
from tensorgrad.train.run import Callback, Run, StopTraining
from tensorgrad.train.watch import Watch

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "JSONLinesLogger",
    "Run",
    "StopTraining",
    "Watch",
    "evaluate",
    "fit",
    "load",
    "metrics",
    "predict",
    "save",
]
