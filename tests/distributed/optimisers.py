"""Trains with each optimiser, compiled and as it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor, data, nn, optim
from tensorgrad.nn import functional as F

OPTIMISERS: dict[str, Callable[[Any], Any]] = {
    name: lambda model, kind=kind: kind(model, lr=0.01)
    for name, kind in vars(optim).items()
    if isinstance(kind, type) and issubclass(kind, optim.Optimiser) and kind not in (optim.Optimiser, optim.LBFGS)
}
OPTIMISERS["momentum and decay, in groups"] = lambda model: optim.SGD(
    [{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(model.parameters())], lr=0.1, momentum=0.9, weight_decay=0.01
)
SAMPLES, BATCH = 22, 10  # the last batch has 2: of 3 ranks one has none


def trained(make: Callable[[Any], Any], compiled: bool, clip: bool = False) -> list[np.ndarray]:
    """The parameters after two epochs, in float64, where rounding does not hide what is wrong."""
    tensorgrad.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SAMPLES, 6)), rng.integers(0, 3, SAMPLES)
    model = nn.Sequential(nn.Linear(6, 5, dtype="float64"), nn.Tanh(), nn.Linear(5, 3, dtype="float64"))
    optimiser = make(model)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        if clip:
            optim.clip_grad_norm(model, 0.1)
        optimiser.step()
        return loss

    run = tensorgrad.compile(step) if compiled else lambda x, y: step(Tensor(x), y)
    for _ in range(2):
        for xb, yb in data.DataLoader(x, y, batch_size=BATCH, shuffle=True, rng=1):
            run(xb, yb)
    return [p.numpy().copy() for p in model.parameters()]


def lbfgs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SAMPLES, 6)), rng.normal(size=SAMPLES)
    tensorgrad.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 1, dtype="float64"))
    optimiser = optim.LBFGS(model, max_iter=5)
    for xb, yb in data.DataLoader(x, y, batch_size=None):

        def closure(xb: Any = xb, yb: Any = yb) -> Any:
            optimiser.zero_grad()
            loss = F.mse_loss(model(Tensor(xb)).reshape(len(xb)), Tensor(yb))
            loss.backward()
            return loss

        optimiser.step(closure)
    return [p.numpy().copy() for p in model.parameters()]


def everything() -> dict[str, np.ndarray]:
    found = {"LBFGS": lbfgs()}
    for compiled in (False, True):
        for name, make in OPTIMISERS.items():
            found[f"{name}, compiled={compiled}"] = trained(make, compiled)
        found[f"clipped, compiled={compiled}"] = trained(OPTIMISERS["SGD"], compiled, clip=True)
    return {name: np.concatenate([p.ravel() for p in params]) for name, params in found.items()}
