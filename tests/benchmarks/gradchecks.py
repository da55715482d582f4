"""Time of a gradient check of a 64-32-10 MLP against torch.autograd.gradcheck: `python -m tests.benchmarks.gradchecks`.

The loss is the cross-entropy of a batch, the gradients those by all 2,410 parameters. Each peer runs in a process of its own;
they take turns, and have to agree on the gradients before anything is timed. PyTorch's check is called in two ways: on a
function of the parameters, as its documentation has it (`torch.func.functional_call`), and on the module itself, whose
parameters it changes in place.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

WIDTHS = (64, 32, 10)
Check = Callable[[], Any]


def problem(batch: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(0, 0.2, (n, m)), rng.normal(0, 0.2, m)) for n, m in pairwise(WIDTHS)]
    return [a for layer in layers for a in layer], rng.random((batch, WIDTHS[0])), rng.integers(0, WIDTHS[-1], batch)


def tensorgrad_check(mode: str) -> Callable[[int], tuple[Check, list[np.ndarray]]]:
    def make(batch: int) -> tuple[Check, list[np.ndarray]]:
        from tensorgrad import nn
        from tensorgrad.nn import functional as F
        from tensorgrad.testing import check_model

        parameters, x, y = problem(batch)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        for p, a in zip(model.parameters(), parameters, strict=True):
            p.data = a
        F.cross_entropy(model(x), y).backward()
        return lambda: check_model(model, F.cross_entropy, x, y, mode=mode), [p.grad.data for p in model.parameters()]

    return make


def torch_check(functional: bool) -> Callable[[int], tuple[Check, list[np.ndarray]]]:
    def make(batch: int) -> tuple[Check, list[np.ndarray]]:
        import torch

        parameters, x_, y_ = problem(batch)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)).double()
        with torch.no_grad():
            for p, a in zip(model.parameters(), parameters, strict=True):
                p.copy_(torch.from_numpy(a.T.copy()))
        x, y = torch.from_numpy(x_), torch.from_numpy(y_)
        cross_entropy = torch.nn.functional.cross_entropy
        names = [name for name, _ in model.named_parameters()]

        def loss(*given: Any) -> Any:
            if functional:
                return cross_entropy(torch.func.functional_call(model, dict(zip(names, given, strict=True)), (x,)), y)
            return cross_entropy(model(x), y)

        cross_entropy(model(x), y).backward()
        grads = [p.grad.numpy().T for p in model.parameters()]
        inputs = [p.detach().clone().requires_grad_() for p in model.parameters()] if functional else list(model.parameters())
        return lambda: torch.autograd.gradcheck(loss, inputs), grads

    return make


PEERS: dict[str, Callable[[int], tuple[Check, list[np.ndarray]]]] = {
    "tensorgrad, full": tensorgrad_check("full"),
    "tensorgrad, directional": tensorgrad_check("directional"),
    "PyTorch, functional_call": torch_check(True),
    "PyTorch, in place": torch_check(False),
}


def serve(peer: str, batch: int, pipe: Connection) -> None:
    """Send the gradients, then seconds a check for each number of checks that is asked for."""
    check, gradients = PEERS[peer](batch)
    pipe.send(gradients)
    while (n := pipe.recv()) is not None:
        time.sleep(0.05)  # until the threads of the process before have gone to sleep
        check()
        start = time.perf_counter()
        for _ in range(n):
            assert check()
        pipe.send((time.perf_counter() - start) / n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often the peers take turns (default 9)")
    parser.add_argument("--batch", type=int, default=[4, 16], nargs="+", help="rows of the batch (default 4 and 16)")
    args = parser.parse_args()
    peers = [peer for peer in PEERS if "PyTorch" not in peer or importlib.util.find_spec("torch")]
    context = multiprocessing.get_context("spawn")
    for batch in args.batch:
        pipes: dict[str, Connection] = {}
        for peer in peers:
            pipes[peer], far = context.Pipe()
            context.Process(target=serve, args=(peer, batch, far), daemon=True).start()
        gradients = {peer: pipe.recv() for peer, pipe in pipes.items()}
        for peer in peers[1:]:
            for a, b in zip(gradients[peer], gradients[peers[0]], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"{peer} and {peers[0]} differ")
        times: dict[str, list[float]] = {peer: [] for peer in peers}
        for _ in range(args.rounds):
            for peer, pipe in pipes.items():
                pipe.send(20 if "directional" in peer else 1)
                times[peer].append(pipe.recv())
        print(f"64-32-10, batch {batch}: milliseconds a check, medians, and ratios to the full check (min to max)")
        for peer, values in times.items():
            ratios = sorted(t / own for t, own in zip(values, times[peers[0]], strict=True))
            spread = f"{statistics.median(ratios):7.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})" if peer != peers[0] else ""
            print(f"    {peer:26} {statistics.median(values) * 1e3:8.2f}  {spread}")
        for pipe in pipes.values():
            pipe.send(None)


if __name__ == "__main__":
    main()
