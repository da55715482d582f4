"""Every kind of graph, with every option, in every format: a drawing, or an error of draw.graph's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, draw, nn, optim
from tensorgrad.errors import GraphError, ShapeError, TensorgradError
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tests.test_seeing import ResNet, loss_of, ones, weight

pytestmark = pytest.mark.quick


def step_plan() -> Any:
    m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    opt = optim.SGD(m.parameters(), lr=0.1)

    @tensorgrad.compile
    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(m(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    for _ in range(3):
        step(np.ones((8, 4), np.float32), np.arange(8) % 3)
    return step.plan


def inference_plan() -> Any:
    m = nn.Sequential(nn.Linear(4, 8), nn.ReLU())

    @tensorgrad.compile
    def forward(x: Any) -> Any:
        with tensorgrad.no_grad():
            return m(x)

    for _ in range(3):
        forward(np.ones((8, 4), np.float32))
    return forward.plan


def failure(call: Callable[[], Any]) -> Any:
    with pytest.raises(ShapeError) as caught:
        call()
    assert caught.value.graph is not None
    return caught.value.graph


def derivative(order: int) -> Tensor:
    x = weight("x", 3)
    y = (x**4).sum()
    for _ in range(order):
        (g,) = tensorgrad.grad(y, x, create_graph=True)
        y = g.sum()
    return y


WHAT: dict[str, Callable[[], tuple[Any, ...]]] = {
    "loss": lambda: (loss_of(),),
    "vector": lambda: (weight("w", 3).exp(),),
    "two": lambda: (weight("w", 3).exp(), weight("v", 2).sin()),
    "module": lambda: (ResNet(2), np.ones((2, 3), np.float32)),
    "graph": lambda: (Graph.of(loss_of()),),
    "fused graph": lambda: (Graph.of(loss_of()).fused(),),
    "training plan": lambda: (step_plan(),),
    "inference plan": lambda: (inference_plan(),),
    "failed": lambda: (failure(lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(7, 3))(ones(2, 4, name="x"))),),
    "first order": lambda: (derivative(1),),
    "second order": lambda: (derivative(2),),
    "third order": lambda: (derivative(3),),
    "empty": lambda: ((weight("w", 2, 0) * 2).sum(),),
    "NaN": lambda: ((weight("w", 3) * np.nan).sum(),),
}
HOW: list[dict[str, Any]] = [
    *({}, {"backward": True}, {"fused": True}, {"backward": True, "fused": True}, {"fused": "both"}, {"values": True}),
    *({"cost": True}, {"depth": 0}, {"depth": 2}, {"fold": False}, {"direction": "LR"}, {"title": "a title"}),
    *({"backward": True, "values": True, "cost": True, "depth": 1}, {"fused": True, "values": True, "fold": False}),
]


@pytest.mark.every(14)
@pytest.mark.parametrize("how", range(len(HOW)))
@pytest.mark.parametrize("what", WHAT)
def test_a_drawing_or_an_error_of_its_own(what: str, how: int, tmp_path: Path) -> None:
    refused = {"backward": ("graph", "fused graph", "training plan", "inference plan", "failed")}
    refused["values"] = ("training plan", "inference plan")
    if any(HOW[how].get(key) and what in where for key, where in refused.items()):
        with pytest.raises(TensorgradError, match=r"^draw\.graph"):
            draw.graph(*WHAT[what](), **HOW[how])
        return
    drawing = draw.graph(*WHAT[what](), **HOW[how])
    for suffix in ("svg", "html", "dot"):
        assert drawing.save(tmp_path / f"a.{suffix}").stat().st_size > 100
    assert "flowchart" in drawing.to_mermaid()
    assert str(drawing)


FAILURES: dict[str, tuple[Callable[[], Any], str]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(7, 3))(ones(2, 4, name="x")), "k: 8 ≠ 7"),
    "add": (lambda: weight("w", 3, 4) + ones(3, name="x"), "axis −1: 4 ≠ 3"),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(3, 2, 3))(ones(2, 1, 8, 8, name="x")),
        "input (2, 2, 6, 6) and weight (2, 3, 3, 3) are incompatible",
    ),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4))(ones(4, 3, name="x")),
        "running_mean has shape (4,)",
    ),
    "mse_loss": (
        lambda: F.mse_loss(nn.Linear(3, 3)(ones(4, 3, name="x")), np.ones(4, np.float32)),
        "input (4, 3) and target (4,) must have the same shape",
    ),
    "layer_norm": (lambda: F.layer_norm(weight("w", 2, 3).exp(), 4), "input has shape (2, 3)"),
    "cross_entropy": (lambda: F.cross_entropy(weight("w", 4, 3).exp(), np.zeros(5, int)), ""),
}


@pytest.mark.parametrize("name", FAILURES)
def test_shape_errors_carry_the_graph(name: str) -> None:
    call, said = FAILURES[name]
    scene = draw.graph(failure(call), values=True, cost=True).scene
    (failed,) = [box for box in scene.boxes.values() if box.kind == "failed"]
    assert said in "\n".join(failed.lines)
    marked = [box for box in scene.boxes.values() if box.mark == "misfit"]
    assert marked or failed.inside


def test_a_profile_of_another_run(tmp_path: Path) -> None:
    with tensorgrad.profile() as other:
        (weight("a", 3) * 2).sum().backward()
    notes = draw.graph(loss_of(), cost=other).scene.notes
    assert "the profile has no times of these operations" in notes


def test_what_needs_the_tensor_says_so() -> None:
    for call, text in (
        (lambda: draw.graph(step_plan(), values=True), "a plan has no values"),
        (lambda: draw.graph(ones(3), backward=True), "output 0 (shape (3,)) is a leaf"),
        (lambda: draw.graph(Graph([], check=False)), "this Graph is empty"),
    ):
        with pytest.raises(GraphError, match="^" + re.escape(f"draw.graph: {text}")):
            call()
