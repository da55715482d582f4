"""`fit` in several ways."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import data, nn, optim, train
from tensorgrad.nn import functional as F

SAMPLES, BATCH = 42, 20  # the last batch has 2: of 3 ranks one has none
RNG = np.random.default_rng(0)
X = RNG.normal(size=(SAMPLES, 6))
Y = RNG.integers(0, 3, SAMPLES)
IMAGES = RNG.normal(size=(SAMPLES, 2, 4, 4))
WEIGHTS = RNG.uniform(0.0, 2.0, SAMPLES) * RNG.integers(0, 2, SAMPLES)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8, dtype="float64"), nn.BatchNorm1d(8, dtype="float64"), nn.ReLU(), nn.Dropout(0.2),
                         nn.Linear(8, 3, dtype="float64"))  # fmt: skip


def images() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3, dtype="float64"), nn.BatchNorm2d(3, dtype="float64"), nn.ReLU(), nn.Flatten(),
                         nn.Linear(12, 3, dtype="float64"))  # fmt: skip


CASES: dict[str, dict[str, Any]] = {
    "batch norm, clipped": {"clip_norm": 0.5, "metrics": [train.metrics.accuracy, train.metrics.log_loss]},
    "images": {"model": images, "arrays": (IMAGES, Y)},
    "l2 and plateau": {"l2": 0.1, "schedule": lambda o: optim.ReduceOnPlateau(o, patience=1), "epochs": 5},
    "sample weights": {"arrays": (X, Y, WEIGHTS), "l2": 0.1},
    "class weights": {"loss": functools.partial(F.cross_entropy, weight=np.array([1.0, 2.0, 0.5]), ignore_index=2)},
    "a sum": {"loss": functools.partial(F.cross_entropy, reduction="sum"), "lr": 0.002},
    "a loss of one's own": {"loss": lambda p, t: ((p.softmax() - tensorgrad.one_hot(t, 3)) ** 2).mean()},
    "early stopping": {"callbacks": lambda: [train.EarlyStopping("val_loss", patience=1)], "lr": 0.5, "epochs": 8},
}


COMPILED = ("batch norm, clipped", "class weights")


def fitted(case: dict[str, Any], compiled: bool, **more: Any) -> dict[str, Any]:
    tensorgrad.manual_seed(0)
    model = case.get("model", network)()
    optimiser = optim.SGD(model, lr=case.get("lr", 0.05), momentum=0.9)
    schedule = case.get("schedule")
    arrays = case.get("arrays", (X, Y))
    history = train.fit(
        model,
        case.get("loss", F.cross_entropy),
        optimiser,
        data.DataLoader(*arrays, batch_size=BATCH, shuffle=True, rng=1),
        **{
            "epochs": case.get("epochs", 3),
            "validation": data.DataLoader(*[a[:11] for a in arrays], batch_size=4),
            "metrics": case.get("metrics", [train.metrics.accuracy]),
            "callbacks": case.get("callbacks", list)(),
            "schedule": schedule and schedule(optimiser),
            "clip_norm": case.get("clip_norm"),
            "l2": case.get("l2", 0.0),
            "compile": compiled,
            **more,
        },
    )
    found: dict[str, Any] = {f"model {name}": value for name, value in model.state_dict().items()}
    found |= {f"history {name}": np.array(column, float) for name, column in history.columns.items()}
    found["stopped"] = history.stopped
    return found


def everything() -> dict[tuple[str, bool], dict[str, Any]]:
    return {
        (name, compiled): fitted(case, compiled)
        for name, case in CASES.items()
        for compiled in ((True, False) if name in COMPILED else (False,))
    }
