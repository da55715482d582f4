"""Q: compiling takes time in proportion to the step: chains are bounded, equal ones are one kernel, the work is linear.

Nothing here is timed: chains and kernels are counted in the plan, work in calls of functions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, ops, optim
from tensorgrad.nn import functional as F
from tests.compiled import training

LONGEST = 40  # operations of one chain
GROWTH = 8  # kernels more for four times as many equal steps: beginnings and ends


def trained(loss: Callable[[Any], Any], *parameters: Any) -> Callable[[Any], Any]:
    return training(loss, optim.SGD(list(parameters), lr=0.01))


def rnn(steps: int) -> Callable[[Any], Any]:
    cell, inner = nn.Linear(8, 8), nn.Linear(4, 8)

    def loss(x: Any) -> Any:
        h = inner(x).tanh()
        for _ in range(1, steps):
            h = (inner(x) + cell(h)).tanh()
        return (h * h).mean()

    return trained(loss, *cell.parameters(), *inner.parameters())


def relu_rnn(steps: int) -> Callable[[Any], Any]:
    cell = nn.Linear(4, 4)

    def loss(x: Any) -> Any:
        h = x
        for _ in range(steps):
            h = (cell(h) + x).relu() * 0.9
        return (h * h).mean()

    return trained(loss, *cell.parameters())


def one_layer_many_times(steps: int) -> Callable[[Any], Any]:
    layer = nn.Linear(4, 4)
    net = nn.Sequential(*[part for _ in range(steps) for part in (layer, nn.GELU())])
    return trained(lambda x: (net(x) ** 2).mean(), *layer.parameters())


def many_layers(steps: int) -> Callable[[Any], Any]:
    net = nn.Sequential(*[part for _ in range(steps) for part in (nn.Linear(4, 4), nn.ReLU())])
    return trained(lambda x: (net(x) ** 2).mean(), *net.parameters())


def elementwise(steps: int) -> Callable[[Any], Any]:
    w = Tensor(np.full(4, 0.9, "float32"), requires_grad=True)

    def loss(x: Any) -> Any:
        for _ in range(steps):
            x = x * w + 0.1
        return x.mean()

    return trained(loss, w)


def no_gradient(steps: int) -> Callable[[Any], Any]:
    def step(x: Any) -> Any:
        y = x
        for _ in range(steps):
            y = (y * x + 1).maximum(0) * 0.5
        return y

    return step


def many_losses(steps: int) -> Callable[[Any], Any]:
    layer = nn.Linear(4, 3)
    t = np.zeros(6, int)
    return trained(lambda x: sum(F.cross_entropy(layer(x) * (i + 1), t) for i in range(steps)), *layer.parameters())


def many_penalties(steps: int) -> Callable[[Any], Any]:
    ws = [Tensor(np.full((3, 2), 0.1 * i, "float32"), requires_grad=True) for i in range(steps)]
    return trained(lambda x: sum(((w * w).sum() + (w * w).sum() * x.mean() for w in ws), x.sum()), *ws)


def microbatches(steps: int) -> Callable[[Any], Any]:
    layer = nn.Linear(4, 3)
    optimiser = optim.SGD(layer.parameters(), lr=0.01)

    def step(x: Any) -> None:
        optimiser.zero_grad()
        for _ in range(steps):
            (layer(x).relu() ** 2).mean().backward()
        optimiser.step()

    return step


def running_sum(steps: int) -> Callable[[Any], Any]:
    """One value that many read."""
    w = Tensor(np.ones(4, "float32"), requires_grad=True)

    def loss(x: Any) -> Any:
        y = x * w
        return ops.stack([y * (i + 1) for i in range(steps)]).sum() + sum(y.tanh() * i for i in range(steps)).sum()

    return trained(loss, w)


def in_place(steps: int) -> Callable[[Any], Any]:
    t = Tensor(np.ones(4, "float32"))

    def step(x: Any) -> Any:
        for _ in range(steps):
            t.__iadd__(x[0])
            t.__imul__(0.9)
        return t * 1

    return step


PROGRAMS = [
    rnn, relu_rnn, one_layer_many_times, many_layers, elementwise, no_gradient, many_losses, many_penalties, microbatches,
    running_sum, in_place,
]  # fmt: skip
X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


def plan_of(program: Callable[[int], Any], steps: int) -> Any:
    step = tg.compile(program(steps))
    for _ in range(4):
        step(X)
    assert step.plan is not None
    return step.plan


@pytest.mark.parametrize("program", PROGRAMS)
def test_chains_and_kernels_do_not_grow(program: Callable[[int], Any]) -> None:
    """The longest chain has a bound; four times as many equal steps have four times as many calls of the same kernels."""
    rows = {steps: plan_of(program, steps).rows() for steps in (16, 64)}
    for steps, found in rows.items():
        longest = max(row.kernel.count("·") + 1 for row in found)
        assert longest <= LONGEST, f"{steps} steps: a chain of {longest}"
    few, many = ({row.kernel for row in rows[steps]} for steps in (16, 64))
    assert len(many) <= len(few) + GROWTH
    assert len(rows[64]) <= 4.5 * len(rows[16]) + 20


@pytest.mark.parametrize("program", [rnn, many_penalties, microbatches, running_sum])
def test_the_work_is_linear(program: Callable[[int], Any]) -> None:
    """Calls of functions while the plan is made: four times as many for four times the steps, not sixteen."""
    counted = []
    for steps in (4, 16, 64):  # the first one for what is done once
        step, calls = tg.compile(program(steps)), [0]
        step(X)

        def count(frame: Any, event: str, argument: Any, calls: list[int] = calls) -> None:
            calls[0] += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            step(X)
        finally:
            sys.setprofile(None)
        counted.append(calls[0])
    assert counted[2] <= 6 * counted[1]


COUNTING = """
import os, sys
from pathlib import Path
from tests.compiled.test_compile_time import plan_of, relu_rnn

for steps in map(int, sys.argv[1:]):
    plan_of(relu_rnn, steps)
    print(len({path.name.partition("-")[0] for path in Path(os.environ["TENSORGRAD_CACHE"]).glob("chain_*")}))
"""


def test_kernels_of_numba_do_not_grow(tmp_path: Path) -> None:
    """Each source that is compiled has its name in the cache; a longer loop has none, or few, of its own."""
    pytest.importorskip("numba", reason="needs Numba: pip install numba")
    environment = {**os.environ, "TENSORGRAD_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", COUNTING, "4", "8", "24"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    found = [int(n) for n in ended.stdout.split()]
    assert found[2] - found[1] <= GROWTH
    assert 0 < found[2] <= 40
