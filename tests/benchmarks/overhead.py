"""What one recorded operation costs where the arithmetic costs nothing: arrays of (4, 4)."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.steps import NEEDS

OPS = ("mul", "add", "tanh", "relu", "matmul")
ROUNDS, RUNS = 7, 400


def tensorgrad_ops() -> dict[str, Callable[[], Any]]:
    import tensorgrad as tg

    a, b = (tg.Tensor(np.full((4, 4), 0.5, np.float32), requires_grad=True) for _ in range(2))
    return {
        "mul": lambda: a * b,
        "add": lambda: a + b,
        "tanh": lambda: tg.tanh(a),
        "relu": lambda: tg.relu(a),
        "matmul": lambda: a @ b,
        "seed": lambda: np.ones((4, 4), np.float32),
    }


def torch_ops() -> dict[str, Callable[[], Any]]:
    import torch

    a, b = (torch.full((4, 4), 0.5, requires_grad=True) for _ in range(2))
    return {
        "mul": lambda: a * b,
        "add": lambda: a + b,
        "tanh": lambda: torch.tanh(a),
        "relu": lambda: torch.relu(a),
        "matmul": lambda: a @ b,
        "seed": lambda: torch.ones((4, 4)),
    }


def mygrad_ops() -> dict[str, Callable[[], Any]]:
    import mygrad as mg
    from mygrad.nnet.activations import relu

    a, b = (mg.tensor(np.full((4, 4), 0.5, np.float32)) for _ in range(2))
    return {
        "mul": lambda: a * b,
        "add": lambda: a + b,
        "tanh": lambda: mg.tanh(a),
        "relu": lambda: relu(a),
        "matmul": lambda: a @ b,
        "seed": lambda: np.ones((4, 4), np.float32),
    }


LIBRARIES: dict[str, Callable[[], dict[str, Callable[[], Any]]]] = {
    "tensorgrad eager": tensorgrad_ops,
    "PyTorch eager": torch_ops,
    "MyGrad": mygrad_ops,
}


def overhead(peers: list[str]) -> list[list[str]]:
    """A row for each operation: forward, and forward with backward, in each library."""
    libraries = {"tensorgrad eager": LIBRARIES["tensorgrad eager"]()}
    for peer in peers:
        if peer in LIBRARIES and importlib.util.find_spec(NEEDS[peer]):
            libraries[peer] = LIBRARIES[peer]()
    times: dict[tuple[str, str, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for name, functions in libraries.items():
            seed = functions["seed"]()
            for op in OPS:
                f = functions[op]
                for both in (False, True):
                    run: Callable[[], Any] = (lambda f=f, seed=seed: f().backward(seed)) if both else f
                    run()
                    start = time.perf_counter()
                    for _ in range(RUNS):
                        run()
                    times.setdefault((op, name, both), []).append((time.perf_counter() - start) / RUNS * 1e6)
    rows = [["", *libraries]]
    for op in OPS:
        rows.append(
            [op, *(" / ".join(f"{statistics.median(times[op, n, both]):.1f}" for both in (False, True)) for n in libraries)]
        )
    return rows
