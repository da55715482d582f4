"""Time to draw a graph as SVG: `python -m tests.benchmarks.drawings`; beside torchviz on equal models, if that is installed.

Programs of 100, 1,000 and 10,000 operations: a deep MLP, whose blocks fold, and one of random connections.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tensorgrad
from tensorgrad import Tensor, draw, nn
from tensorgrad.nn import functional as F
from tests.test_draw import Block, random_program


def deep(n: int) -> Tensor:
    layers: list[nn.Module] = []
    for _ in range(n // 2):
        layers += [nn.Linear(8, 8), nn.ReLU()]
    return nn.Sequential(*layers)(Tensor(np.ones((2, 8), np.float32), name="x")).sum()


def time_of(make: Callable[[], Tensor], **options: bool) -> tuple[int, int, float, float]:
    """(operations, boxes, seconds for the scene, seconds for the SVG), the best of three for the first."""
    loss = make()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        drawing = draw.graph(loss, **options)
        seconds.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        drawing.save(Path(folder) / "graph.svg")
        return len(drawing.graph), len(drawing.scene.boxes), min(seconds), time.perf_counter() - start


def beside_torchviz() -> None:
    """How much a reader sees in either's drawing of the same models."""
    import torch
    import torchviz

    class TorchBlock(torch.nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.fc1, self.fc2 = torch.nn.Linear(n, n), torch.nn.Linear(n, n)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return x + self.fc2(torch.relu(self.fc1(x)))

    pairs = {
        "one hidden layer": (
            torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)),
            nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)),
        ),
        "two residual blocks": (
            torch.nn.Sequential(torch.nn.Linear(8, 16), TorchBlock(16), TorchBlock(16), torch.nn.Linear(16, 3)),
            nn.Sequential(nn.Linear(8, 16), Block(16), Block(16), nn.Linear(16, 3)),
        ),
        "64-500x6-10": (
            torch.nn.Sequential(*[part for i in range(6) for part in (torch.nn.Linear(500 if i else 8, 500), torch.nn.ReLU())]),
            nn.Sequential(*[part for i in range(6) for part in (nn.Linear(500 if i else 8, 500), nn.ReLU())]),
        ),
    }
    for name, (theirs, ours) in pairs.items():
        labels = [0, 1, 2, 0]
        loss = torch.nn.functional.cross_entropy(theirs(torch.ones(4, 8)), torch.tensor(labels))
        dot = torchviz.make_dot(loss, params=dict(theirs.named_parameters())).source
        boxes = len(re.findall(r"^\s*\d+ \[", dot, re.MULTILINE))
        own = F.cross_entropy(ours(Tensor(np.ones((4, 8), np.float32), name="x")), Tensor(labels, dtype=int, name="labels"))
        for title, drawing in (("as written", draw.graph(own)), ("fused", draw.graph(own, fused=True))):
            lines = [line for box in drawing.scene.boxes.values() for line in box.lines]
            formula = any("softmax(z)" in line for line in lines)
            print(f"{name:20} tensorgrad {title:10} {len(drawing.scene.boxes):3} boxes, loss's formula: {formula}")
        print(f"{name:20} torchviz              {boxes:3} boxes, loss's formula: False")


def main() -> None:
    print(f"tensorgrad {tensorgrad.__version__}: seconds to fold and to lay out and write an SVG")
    for n in (100, 1_000, 10_000):
        for name, make in (("equal blocks", lambda n=n: deep(n)), ("random", lambda n=n: random_program(int(0.95 * n), 0))):
            operations, boxes, folding, writing = time_of(make)
            print(f"{name:14} {operations:6,} operations {boxes:4} boxes   {folding:6.2f} s + {writing:6.2f} s")
    if importlib.util.find_spec("torchviz") and importlib.util.find_spec("torch"):
        beside_torchviz()


if __name__ == "__main__":
    main()
