"""Run by every rank: a training with a checkpoint, in which something may go wrong.

`mpiexec -n 3 python -m mpi4py -m tests.distributed.job folder epochs [rank fault batch]`

fault   what that rank does after so many batches: "raise", "kill", "stop" (it is stopped, as by SIGSTOP), "away" (it does
        something else for ever), "interrupt" (Ctrl-C, there alone)
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import data, distributed, nn, optim, train
from tensorgrad.nn import functional as F

SAMPLES, BATCH = 43, 10


class Fault(train.Callback):
    def __init__(self, kind: str, batch: int) -> None:
        self.kind, self.left = kind, batch

    def on_batch_end(self, run: train.Run) -> None:
        time.sleep(float(os.environ.get("SLOW", 0)))
        self.left -= 1
        if self.left == 0:
            self.happens()

    def happens(self) -> None:
        if self.kind == "raise":
            raise ZeroDivisionError("on purpose")
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.kind == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        while self.kind == "away":
            time.sleep(0.1)


def main(folder: Path, epochs: int, rank: int = -1, fault: str = "", batch: int = 0) -> None:
    distributed.init(timeout=6)
    tensorgrad.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SAMPLES, 6)), rng.integers(0, 3, SAMPLES)
    model = nn.Sequential(
        nn.Linear(6, 8, dtype="float64"),
        nn.BatchNorm1d(8, dtype="float64"),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Linear(8, 3, dtype="float64"),
    )
    here: list[Any] = [Fault(fault if distributed.rank() == rank else "", batch)]
    history = train.fit(
        model,
        F.cross_entropy,
        optim.SGD(model, lr=0.05, momentum=0.9),
        data.DataLoader(x, y, batch_size=BATCH, shuffle=True, rng=1),
        epochs,
        validation=data.DataLoader(x[:7], y[:7]),
        metrics=[train.metrics.accuracy],
        callbacks=[*here, train.EarlyStopping(patience=None, restore_best=False), train.JSONLinesLogger(folder / "log.jsonl")],
        checkpoint=folder / "job.npz",
        resume=True,
        compile=False,
    )
    if distributed.rank() == 0:
        print(f"done: {len(history['loss'])} epochs on {distributed.size()} ranks, interrupted: {history.interrupted}")
        if not history.interrupted:
            columns = {name: np.array(history[name], float) for name in ("loss", "accuracy", "val_loss")}
            np.savez(folder / "end.npz", **model.state_dict(), **columns)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *[kind(v) for kind, v in zip((int, str, int), sys.argv[3:], strict=False)])
