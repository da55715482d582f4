"""Writes the files of the format that this version writes: python -m tests.checkpoints, when there is a new one.

A folder that is there already stays as it is: its files are those of the versions that wrote them.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad import data, nn, optim, train
from tensorgrad.nn import functional as F
from tensorgrad.train import checkpoint

HERE = Path(__file__).parent
KINDS = ("save", "fit", "interrupted")
EXTRA = {"text": "ß", "numbers": [1, 2.5, None, True], "nest": {"inner": []}}


class Loader(data.DataLoader):
    """Presses Ctrl-C before the batch of a given number."""

    press: int | None = None

    def __iter__(self) -> Iterator[Any]:
        for i, batch in enumerate(super().__iter__()):
            if self.press is not None and i == self.press and self.epochs == 1:
                signal.raise_signal(signal.SIGINT)
            yield batch
        self.epochs += 1

    epochs = 0


class Small:
    """A training with something of each kind in its checkpoints."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        x = np.round(rng.normal(size=(8, 2)), 1).astype(np.float32)
        self.model = nn.Sequential(
            nn.Linear(2, 2, rng=rng), nn.BatchNorm1d(2), nn.Dropout(0.2, rng=np.random.Generator(np.random.SFC64(5)))
        )
        self.optimiser = optim.Adam(
            [{"params": self.model[0].parameters(), "weight_decay": 0.01}, {"params": self.model[1].parameters()}], lr=0.1
        )
        self.schedule = optim.Warmup(self.optimiser, 1, optim.StepLR(self.optimiser, 2))
        self.loader = Loader(x, np.arange(8) % 2, batch_size=3, shuffle=True, rng=3)
        self.stopping = train.EarlyStopping("loss", 9)

    def parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("model", "optimiser", "schedule", "loader")}

    def fit(self, epochs: int, **options: Any) -> train.History:
        return train.fit(
            self.model, F.cross_entropy, self.optimiser, self.loader, epochs, schedule=self.schedule, progress=False,
            metrics=[train.metrics.accuracy], callbacks=[self.stopping], compile=False, **options,
        )  # fmt: skip


def listed(nest: Any) -> Any:
    """A nest as JSON has it: arrays as lists, every number in full."""
    return json.loads(json.dumps(nest, default=lambda array: array.tolist()))


def main() -> None:
    folder = HERE / f"format-{checkpoint.FORMAT.rpartition(' ')[2]}"
    folder.mkdir()
    for kind in KINDS:
        path, training = folder / f"{kind}.npz", Small()
        F.seed(7)
        training.loader.press = 2 if kind == "interrupted" else None
        if kind == "save":
            train.save(path, **training.parts(), history=training.fit(2), extra=EXTRA)
        else:
            training.fit(2, checkpoint=path)
        contents = checkpoint.read(path)
        checkpoint.write(path.with_suffix(".safetensors"), contents)
        path.with_suffix(".json").write_text(json.dumps(listed(contents), indent=1) + "\n")


if __name__ == "__main__":
    main()
