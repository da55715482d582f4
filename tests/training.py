"""A training with something random in every place, for the tests that interrupt it; run as a script it trains."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from tensorgrad import data, nn, optim, train
from tensorgrad.nn import functional as F

EPOCHS = 6


class Interrupting(data.DataLoader):
    """Presses Ctrl-C before the batch of a given number."""

    press: int | None = None
    given = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            if self.given == self.press:
                signal.raise_signal(signal.SIGINT)
            self.given += 1
            yield batch


class Training:
    """A training with something random in every place: order, dropout with a generator of its own and without, batch norm."""

    def __init__(self, name: str, seed: int = 0, patience: int | None = 3) -> None:
        rng = np.random.default_rng(4)
        labels = rng.integers(0, 3, 70)
        self.x, self.y = (rng.normal(size=(70, 5)) + np.eye(5)[labels]).astype(np.float32), labels
        init = np.random.default_rng(seed)
        self.model = nn.Sequential(
            nn.Linear(5, 6, rng=init), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3, rng=init),
            nn.Dropout(0.1, rng=np.random.default_rng(seed + 1)),
        )  # fmt: skip
        F.seed(seed + 2)
        parameters = self.model.parameters()
        self.optimiser = optim.SGD(parameters, 0.5, momentum=0.9) if name == "SGD" else optim.Adam(parameters, 0.1)
        self.schedule = optim.CostRise(self.optimiser) if name == "SGD" else optim.Warmup(self.optimiser, 3)
        kind = np.random.PCG64 if name == "SGD" else np.random.MT19937
        self.loader = Interrupting(self.x, self.y, batch_size=16, shuffle=True, rng=np.random.Generator(kind(seed + 3)))
        self.stopping = train.EarlyStopping("val_loss", patience)

    def fit(self, *callbacks: Any, epochs: int = EPOCHS, **options: Any) -> train.History:
        options = {"validation": (self.x[:20], self.y[:20]), "metrics": [train.metrics.accuracy], "l2": 0.01, **options}
        callbacks = (*callbacks, self.stopping)
        schedule = self.schedule
        return train.fit(
            self.model, F.cross_entropy, self.optimiser, self.loader, epochs, schedule=schedule, callbacks=callbacks, **options
        )

    def state(self) -> dict[str, Any]:
        """All that it has come to, as text or bytes."""
        loader = self.loader.state_dict()
        return {
            **{name: values.tobytes() for name, values in self.model.state_dict().items()},
            **{f"{i}.{slot}": a.tobytes() for i, arrays in enumerate(self.optimiser.state) for slot, a in arrays.items()},
            "numbers": (self.optimiser.rates, self.optimiser.steps, self.optimiser.late, self.schedule.state_dict()),
            "generators": (str(loader), str(F.dropout(np.ones(50, np.float32)))),
            "stopping": (self.stopping.best, self.stopping.best_epoch),
        }


def measured(history: train.History) -> dict[str, list[Any]]:
    """The columns that do not depend on the clock."""
    return {name: values for name, values in history.items() if name != "seconds"}


def main(path: str, epochs: int, kill_in_sync: int) -> None:
    """Train, resuming; print each epoch, and at the end what it has come to. Killed in the middle of a file if so asked."""
    fsync, calls = os.fsync, []

    def counted(file: int) -> None:
        calls.append(file)
        if len(calls) == kill_in_sync:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    os.fsync = counted
    training = Training("SGD", patience=None)
    history = training.fit(lambda run: print(run.epoch, flush=True), epochs=epochs, checkpoint=path, resume=True)
    print("interrupted" if history.interrupted else "ended", hash(str(training.state())), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
