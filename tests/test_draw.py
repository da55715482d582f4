"""Drawings: what stands in them, and what is said when there is nothing to draw with."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, draw, nn
from tensorgrad.draw import render
from tensorgrad.errors import MissingDependencyError
from tensorgrad.nn import functional as F


def step() -> draw.Drawing:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    loss = F.cross_entropy(model(Tensor(np.ones((5, 3)), name='x<1>|"&')), Tensor([0, 1, 1, 0, 1], dtype=int, name="labels"))
    names, params = zip(*model.named_parameters(), strict=True)
    gradients = tensorgrad.grad(loss, params, create_graph=True)
    return draw.graph(loss, dict(zip(names, gradients, strict=True)), title="a <b> & c")


def texts(svg: bytes) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_step_shows_names_shapes_fused_groups_and_formulas(tmp_path: Path) -> None:
    path = step().save(tmp_path / "step.svg")
    shown = texts(path.read_bytes())
    for text in [
        "0.weight",
        "3×4",
        "2.bias",
        'x<1>|"&',
        "5×3 float64",
        "labels",
        "5 int64",
        "fused: linear_relu",
        "fused: softmax_cross_entropy",
        "dz = g (softmax(z) - Y) / m",
        "dz = g * [y > 0]",
        "gradients",
        "0.weight  3×4",
        "a <b> & c",
    ]:
        assert text in [s.replace("\xa0", " ") for s in shown], text
    assert sum("fused" in s for s in shown) == 2
    assert sum(s.startswith("gradient of") for s in shown) == 3


def test_every_op_is_drawn_once() -> None:
    x = Tensor([1.0], True)
    for _ in range(12):
        x = x * x
    drawing = draw.graph(x.sum())
    assert len(re.findall(r"^\s*op\d+ \[", drawing.dot, re.MULTILINE)) == 13
    assert len(re.findall(r"->", drawing.dot)) == 25


@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("dot", b"digraph")])
def test_formats(tmp_path: Path, suffix: str, magic: bytes) -> None:
    assert step().save(tmp_path / f"step.{suffix}").read_bytes().startswith(magic)


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Drawing.save: expected a .svg, .png, .pdf or .dot file, got 'step.gif'"):
        step().save(tmp_path / "step.gif")


def test_without_any_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tensorgrad\[draw\]'.*or install the program dot"):
        step().save(tmp_path / "step.svg")
    assert not (tmp_path / "step.svg").exists()
    assert step().save(tmp_path / "step.dot").exists()


def test_program_dot_is_used_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import graphviz

    monkeypatch.setattr(render.shutil, "which", lambda name: "/somewhere/dot")
    monkeypatch.setattr(graphviz.Source, "pipe", lambda self, format: f"{format}: {self.source[:7]}".encode())
    assert render.render("digraph {}", "svg") == b"svg: digraph"


def test_curves() -> None:
    history = {"loss": [1.0, 0.5], "eval_loss": [1.1, 0.7], "accuracy": [0.5, 0.9], "eval_accuracy": [0.4, 0.8]}
    figure = draw.curves(history, best=2, title="t")
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["loss", "eval loss", "kept: epoch 2"]
    np.testing.assert_array_equal(right.lines[1].get_ydata(), history["eval_accuracy"])
    assert (left.get_yscale(), right.get_yscale(), left.get_xlabel()) == ("log", "linear", "epoch")
    assert len(draw.curves({"loss": [1.0, 0.0]}).axes) == 1


def test_curves_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"draw.curves: needs matplotlib.*tensorgrad\[train\]"):
        draw.curves({"loss": [1.0]})
