"""Drawings: what stands in them, how they fold, what they say when there is nothing to draw with."""

from __future__ import annotations

import re
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tensorgrad.models import MLP, handwritten

import tensorgrad
from tensorgrad import Tensor, draw, nn
from tensorgrad.draw import render
from tensorgrad.draw.fold import MOST
from tensorgrad.errors import GraphError, MissingDependencyError
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tensorgrad.testing import assert_same_graph
from tensorgrad.testing.expressions import Expression, expressions

pytestmark = pytest.mark.quick

GOLDEN = Path(__file__).parent / "golden"
EVIL = 'a<b>|"&{}\\N</script>'


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        return x + self.fc2(self.act(self.fc1(x)))


class Convolutional(nn.Module):
    """A small convolutional net for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(36, 10)

    def forward(self, x: Any) -> Any:
        return self.head(F.max_pool2d(self.conv(x).relu(), 2).flatten(1))


def residual() -> Tensor:
    model = nn.Sequential(nn.Linear(8, 16), Block(16), Block(16), nn.Linear(16, 3))
    x = Tensor(np.ones((5, 8), np.float32), name="x")
    return F.cross_entropy(model(x), Tensor([0, 1, 2, 0, 1], dtype=int, name="labels"))


def mlp(x_name: str = "x") -> Tensor:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return F.cross_entropy(model(Tensor(np.ones((5, 3)), name=x_name)), Tensor([0, 1, 1, 0, 1], dtype=int, name="labels"))


def system(name: str) -> Tensor:
    """A step's loss of a reference system, at its own size."""
    one = handwritten.SYSTEMS[name]
    model = MLP(one.widths, {"sigmoid": "logistic"}.get(one.hidden, one.hidden))
    z = model(Tensor(np.zeros((4, one.widths[0]), np.float32), name="x"))
    if one.loss == "cross_entropy":
        loss = F.cross_entropy(z, Tensor(np.zeros(4, int), name="labels"))
    else:
        loss = ((z.sigmoid() - Tensor(np.zeros((4, 10), np.float32), name="Y")) ** 2).sum() / 8
    if one.l2:
        loss = loss + one.l2 / 4 * sum((p * p).sum() for p in model.parameters() if p.ndim == 2)
    return loss


def convolutional() -> Tensor:
    x = Tensor(np.ones((2, 1, 8, 8), np.float32), name="images")
    return F.cross_entropy(Convolutional()(x), Tensor([3, 1], dtype=int, name="labels"))


PROGRAMS = {"mlp": mlp, "residual": residual, "convolutional": convolutional} | {
    f"system-{name}": lambda name=name: system(name) for name in handwritten.SYSTEMS
}


def texts(svg: bytes) -> list[str]:
    found = ["".join(t.itertext()) for t in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    return [text.replace("\xa0", " ") for text in found]


def structure(svg: bytes) -> str:
    """The boxes with their texts, and the arrows by the first lines of their ends; nothing about where they are."""
    space = "{http://www.w3.org/2000/svg}"
    names: dict[str, str] = {}
    boxes, arrows, groups = [], [], []
    for g in ET.fromstring(svg).iter(f"{space}g"):
        title = g.find(f"{space}title")
        own = ["".join(t.itertext()).replace("\xa0", " ") for t in g.findall(f"{space}text")]
        if title is None or not title.text:
            continue
        if g.get("class") == "node":
            names[title.text] = own[0]
            boxes.append(" | ".join(own))
        elif g.get("class") == "cluster":
            groups.append("group " + " ".join(own))
        elif g.get("class") == "edge":
            arrows.append((title.text, " ".join(own)))
    lines = [f"{names[a]} -> {names[b]} {label}".rstrip() for title, label in arrows for a, b in [title.split("->")]]
    return "\n".join([*sorted(groups), *sorted(boxes), *sorted(lines)]) + "\n"


# What is shown


@pytest.mark.parametrize("name", PROGRAMS)
def test_golden_structure(name: str, tmp_path: Path) -> None:
    """Delete a file in tests/golden to have it written anew, and look at the picture before it is committed."""
    drawing = draw.graph(PROGRAMS[name](), backward=True, fused=True)
    found = structure(drawing.save(tmp_path / "step.svg").read_bytes())
    path = GOLDEN / f"{name}.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
        pytest.fail(f"{path} was not there and has been written; look at it and run again")
    assert found == path.read_text()


def test_what_people_wrote_and_named() -> None:
    drawing = draw.graph(mlp())
    assert [(box.kind, *box.text) for box in drawing.scene.boxes.values()] == [
        ("layer", "0 · Linear 3→4", "5×4", "weight 3×4 float32, bias 4 float32"),
        ("op", "1 · ReLU", "5×4"),
        ("layer", "2 · Linear 4→2", "5×2", "weight 4×2 float32, bias 2 float32"),
        ("output", "cross_entropy", "loss", "scalar"),
        ("input", "x", "5×3"),
        ("input", "labels", "5 int64"),
    ]
    assert drawing.scene.notes == ["float64 unless shown otherwise"]
    scale = Tensor(np.float32(2.0))
    assert [box.text[0] for box in draw.graph(Tensor([1.0], True) * scale).scene.boxes.values()] == ["× 2", "input0"]


def test_nested_modules_are_nested_boxes() -> None:
    def frames(scene: Any) -> dict[str, list[str]]:
        return {box.lines[0]: [scene.groups[key] for key in box.group] for box in scene.boxes.values()}

    scene = draw.graph(residual()).scene
    assert frames(scene)["1.fc1 · Linear 16→16"] == ["1 · Block"]
    assert frames(scene)["+"] in [["1 · Block"], ["2 · Block"]]
    assert list(scene.groups.values()) == ["1 · Block", "2 · Block"]
    assert frames(draw.graph(mlp(), depth=3).scene)["linear"] == []  # a frame around one box says nothing
    fused = draw.graph(residual(), fused=True).scene
    assert Counter(box.kind for box in fused.boxes.values())["fused"] == 2
    inside = [[fused.groups[key] for key in box.group] for box in fused.boxes.values() if box.kind == "fused"]
    assert inside == [["1 · Block"], ["2 · Block"]]


def test_every_op_is_drawn_once() -> None:
    x = Tensor([1.0], True)
    for _ in range(12):
        x = x * x
    scene = draw.graph(x.sum(), fold=False).scene
    assert len(scene.boxes) == 14
    assert len(scene.edges) == 25


@given(expression=expressions())
@settings(max_examples=25)
def test_all_of_a_program_is_there(expression: Expression) -> None:
    """Every operation and every leaf has one box, every argument one arrow; whatever the program."""
    y = expression(*[Tensor(a, True, name=name) for name, a in expression.leaves.items()])
    if y.node is None:
        return
    graph = Graph.of(y)
    scene = draw.graph(graph, fold=False).scene
    assert len(scene.boxes) == len(graph.nodes) + len(graph.leaves)
    arguments = [s for node in graph.nodes for s in node.inputs if not isinstance(s, (int, float))]
    assert len(scene.edges) == len(arguments)
    assert {e.source for e in scene.edges} | {e.target for e in scene.edges} == set(scene.boxes)
    mermaid = draw.graph(graph, fold=False).to_mermaid()
    assert len(re.findall(r"-->", mermaid)) == len(arguments)


def test_backward_has_a_box_for_every_rule_and_every_gradient() -> None:
    scene = draw.graph(mlp(), backward=True, fused=True).scene
    rules = [box.lines[0] for box in scene.boxes.values() if box.kind == "rule"]
    assert sorted(rules) == ["gradient of Linear", "gradient of linear_relu", "gradient of softmax_cross_entropy"]
    made = [line for box in scene.boxes.values() if box.kind == "gradients" for line in box.lines[1:]]
    assert sorted(made) == ["0.bias  4 float32", "0.weight  3×4 float32", "2.bias  2 float32", "2.weight  4×2 float32"]
    assert sum("dz = g (softmax(z) - Y) / m" in box.lines for box in scene.boxes.values()) == 1
    assert Counter(edge.kind for edge in scene.edges)["gradient"] == 2
    with pytest.raises(GraphError, match="backward=True needs the Tensor itself"):
        draw.graph(Graph.of(mlp()), backward=True)
    used = mlp()
    used.backward()
    with pytest.raises(GraphError, match="the graph has been freed"):
        draw.graph(used, backward=True)
    assert draw.graph(used).scene.boxes  # the forward part is still there
    assert "softmax_cross_entropy" in str(Graph.of(used).fused())


def test_fused_shows_closed_formulas_and_both_shows_both() -> None:
    fused = draw.graph(mlp(), fused=True).scene
    lines = [line for box in fused.boxes.values() for line in box.lines]
    assert "dz = g (softmax(z) - Y) / m" in lines
    assert "dz = g * [y > 0]" in lines
    assert Counter(box.kind for box in fused.boxes.values()) == {"fused": 1, "layer": 1, "output": 1, "input": 2}
    both = draw.graph(mlp(), fused="both").scene
    assert [label for label in both.groups.values() if label.startswith("as ")] == ["as written", "as fused"]
    assert len(both.boxes) == len(draw.graph(mlp()).scene.boxes) + len(fused.boxes)


def test_values_and_costs() -> None:
    x = Tensor(np.array([1.0, np.nan, np.inf, 4.0, 5.0, 6.0, 7.0]), True, name="x")
    scene = draw.graph((x * 2.0).sum(), values=True, cost=True).scene
    lines = {box.lines[0]: box.lines for box in scene.boxes.values()}
    assert lines["x"][-1] == "1 … 7, mean 4.6 ±2.1, 1 NaN, 1 infinite"
    assert lines["× 2"][2] == "2 … 14, mean 9.2 ±4.1, 1 NaN, 1 infinite"
    assert re.fullmatch(r"56 B, 7 FLOP, [\d.]+ [µm]s", lines["× 2"][3])
    assert re.fullmatch(r"in all 64 B, 14 FLOP, [\d.]+ [µm]s", scene.notes[-1])
    assert max(box.heat or 0 for box in scene.boxes.values()) == 1
    costs = {
        box.lines[0]: box.facts["FLOPs"] for box in draw.graph(mlp(), cost=True).scene.boxes.values() if "FLOPs" in box.facts
    }
    assert costs["2 · Linear 4→2"] == f"{5 * 2 * (2 * 4 + 1):,}"  # the last one: (5, 4) x (4, 2) and a bias
    assert draw.graph(Tensor(np.ones((2, 3)), True).reshape(3, 2), cost=True).scene.notes[-1].startswith("in all 48 B, 0 FLOP")
    small = draw.graph(Tensor([1.5, -2.0], True) * 1.0, values=True).scene
    assert [box.lines[-1] for box in small.boxes.values()] == ["[ 1.5, -2. ]", "[ 1.5, -2. ]"]


def test_highlight_and_direction() -> None:
    x = Tensor([1.0], True, name="x")
    y = x.exp()
    scene = draw.graph(y.sum(), highlight=[x, y], direction="LR").scene
    assert [box.lines[0] for box in scene.boxes.values() if box.mark == "highlight"] == ["exp", "x"]
    assert "rankdir=LR" in draw.graph(y.sum(), direction="LR").dot
    assert draw.graph(y.sum(), direction="LR").to_mermaid().startswith("flowchart LR")


def test_several_outputs_and_a_module() -> None:
    x = Tensor([1.0], True)
    kinds = Counter(box.kind for box in draw.graph(x.exp(), x.sin()).scene.boxes.values())
    assert kinds == {"output": 2, "parameter": 1}
    frozen = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    for p in frozen.parameters():
        p.requires_grad = False
    scene = draw.graph(frozen, np.ones((2, 3), np.float32)).scene
    assert [(box.kind, box.lines[0]) for box in scene.boxes.values()] == [
        ("layer", "0 · Linear 3→4"),
        ("output", "1 · Tanh"),
        ("input", "x"),
    ]
    every = draw.graph(frozen, np.ones((2, 3), np.float32), fold=False).scene
    assert [box.lines[0] for box in every.boxes.values()] == ["linear", "tanh", "x", "0.weight", "0.bias"]
    assert [box.kind for box in every.boxes.values()][2:] == ["input", "parameter", "parameter"]


# Folding


def test_a_function_of_several_operations_is_the_one_box_that_was_written() -> None:
    scene = draw.graph(convolutional()).scene
    names = [box.lines[0] for box in scene.boxes.values()]
    conv, head = "conv · Conv2d 1→4, kernel 3, stride 1", "head · Linear 36→10"
    assert names == [conv, "relu", "max_pool2d", "reshape", head, "cross_entropy", "images", "labels"]
    opened = [box.lines[0] for box in draw.graph(convolutional(), depth=1).scene.boxes.values()]
    assert opened == ["conv2d", "relu", "max_pool2d", "reshape", "linear", "cross_entropy", "images", "labels"]
    assert len(draw.graph(convolutional(), fold=False).scene.boxes) > 20
    rules = [box.lines[0] for box in draw.graph(convolutional(), backward=True).scene.boxes.values() if box.kind == "rule"]
    assert "gradient of Conv2d" in rules
    assert not any("transpose" in rule for rule in rules)
    x = Tensor(np.ones((2, 4), np.float32), True, name="x")
    twice = draw.graph((x.var(1) + x.var(1)).sum()).scene
    assert [box.lines[0] for box in twice.boxes.values() if box.kind == "op"] == ["var", "var", "+"]  # a box for each call


def test_fifty_equal_blocks() -> None:
    layers: list[nn.Module] = [nn.Linear(8, 32)]
    for _ in range(50):
        layers += [nn.ReLU(), nn.Linear(32, 32)]
    loss = nn.Sequential(*layers)(Tensor(np.ones((4, 8), np.float32), name="x")).sum()
    drawing = draw.graph(loss)
    assert len(drawing.scene.boxes) <= 12
    assert "× 50" in drawing.scene.groups.values() or "× 49" in drawing.scene.groups.values()
    assert any(re.fullmatch(r"(49|50) × \(.*\) drawn once", note) for note in drawing.scene.notes)
    names = [box.lines[0] for box in drawing.scene.boxes.values()]
    assert "2 … 100 · Linear 32→32" in names
    assert len(draw.graph(loss, fold=False).scene.boxes) == 1 + 102 + 102
    assert not [edge for edge in drawing.scene.edges if edge.source == edge.target and edge.kind != "repeat"]


def test_blocks_that_are_not_equal_are_not_folded() -> None:
    x = Tensor(np.ones((2, 8), np.float32), True)
    y = x
    for n in (8, 7, 6, 5, 4):
        y = (y @ Tensor(np.ones((y.shape[-1], n), np.float32), True)).relu()
    assert not draw.graph(y.sum()).scene.notes
    z = x
    for _ in range(5):
        z = z + x  # reads the same x each time: equal blocks
    assert draw.graph(z.sum()).scene.notes == ["4 × (add) drawn once"]


def test_depth_folds_modules() -> None:
    top = draw.graph(residual(), depth=0).scene
    assert [box.text for box in top.boxes.values()][:4] == [
        ["0 · Linear 8→16", "5×16", "weight 8×16, bias 16"],
        ["1 · Block", "5×16", "544 parameters"],
        ["2 · Block", "5×16", "544 parameters"],
        ["3 · Linear 16→3", "5×3", "weight 16×3, bias 3"],
    ]
    names = [box.lines[0] for box in draw.graph(residual(), depth=1).scene.boxes.values()]
    assert names[:5] == ["linear", "1.fc1 · Linear 16→16", "1.act · ReLU", "1.fc2 · Linear 16→16", "+"]
    assert Counter(box.lines[0] for box in draw.graph(residual(), depth=2).scene.boxes.values())["linear"] == 6


def test_a_module_that_is_called_twice_is_two_boxes() -> None:
    block = Block(3)
    model = nn.Sequential(block, nn.Tanh())
    x = Tensor(np.ones((2, 3), np.float32), name="x")
    scene = draw.graph((model(model(x))).sum(), depth=0).scene
    assert [box.lines[0] for box in scene.boxes.values() if box.kind == "fold"] == ["0 · Block", "0 · Block"]
    frames = [scene.groups[key] for box in scene.boxes.values() for key in box.group]
    assert set(frames) == {"Sequential, call 1", "Sequential, call 2"}
    assert not has_cycle([(e.source, e.target) for e in scene.edges])


def has_cycle(edges: list[tuple[str, str]]) -> bool:
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)
    state: dict[str, int] = {}

    def visit(node: str) -> bool:
        if state.get(node) == 1:
            return True
        if state.get(node) == 2:
            return False
        state[node] = 1
        found = any(visit(other) for other in after.get(node, ()))
        state[node] = 2
        return found

    return any(visit(node) for node in list(after))


def random_program(n: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    known = [Tensor(rng.normal(size=3), True, name=f"p{i}") for i in range(10)]
    ops = [tensorgrad.tanh, tensorgrad.sin, tensorgrad.sigmoid, tensorgrad.cos]
    while len(known) < n:
        a, b = (known[int(i)] for i in rng.integers(max(0, len(known) - 50), len(known), 2))
        known.append(ops[rng.integers(4)](a) if rng.random() < 0.5 else (a * b - b).sin())
    return sum(known[-20:], Tensor(np.zeros(3))).sum()  # type: ignore[return-value]


def test_ten_thousand_operations_are_folded_and_laid_out(tmp_path: Path) -> None:
    start = time.perf_counter()
    drawing = draw.graph(random_program(9_000, 0))
    assert len(drawing.graph) >= 10_000
    assert 20 <= len(drawing.scene.boxes) <= MOST + 10
    assert re.fullmatch(r"[\d,]+ operations drawn as \d+ regions, cut where the fewest values pass", drawing.scene.notes[-2])
    assert not has_cycle([(e.source, e.target) for e in drawing.scene.edges if e.source != e.target])
    drawing.save(tmp_path / "large.svg")
    assert time.perf_counter() - start < 60  # a guard against minutes; the benchmark has the figure


def test_a_long_chain_is_some_regions() -> None:
    x = Tensor([0.5], True)
    y = x
    for i in range(300):
        y = [tensorgrad.sin, tensorgrad.cos, tensorgrad.tanh][(i * i) % 3](y) if i % 7 else y * float(i)
    drawing = draw.graph(y.sum())
    assert len(drawing.scene.boxes) <= MOST
    assert any("regions" in note for note in drawing.scene.notes)


# Files, texts and what is missing


@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("dot", b"digraph")])
def test_formats(tmp_path: Path, suffix: str, magic: bytes) -> None:
    assert mlp().graph().save(tmp_path / f"step.{suffix}").read_bytes().startswith(magic)


def test_names_are_not_interpreted(tmp_path: Path) -> None:
    drawing = draw.graph(mlp(EVIL), backward=True, title=EVIL)
    shown = texts(drawing.save(tmp_path / "step.svg").read_bytes())
    assert shown.count(EVIL) == 2
    page = drawing.save(tmp_path / "step.html").read_text()
    assert page.count("</script") == page.count("<script") == 2  # the layouts', and its own
    assert EVIL not in page
    (line,) = (line for line in drawing.to_mermaid().splitlines() if line.endswith(":::input") and "#60;" in line)
    assert re.fullmatch(r'\s*b\d+\(\["a#60;b#62;#124;#34;#38;#123;#125;#92;N#60;/script#62;<br>5×3"\]\):::input', line)


def test_without_any_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    drawing = mlp().graph()
    for suffix in ("svg", "png", "pdf", "html"):
        with pytest.raises(
            MissingDependencyError, match=r"pip install pygraphviz \(.*or install the program dot.*Wrote .*p.dot"
        ):
            drawing.save(tmp_path / f"step.{suffix}")
        assert (tmp_path / "step.dot").read_text().startswith("digraph")
        assert not (tmp_path / f"step.{suffix}").exists()
        (tmp_path / "step.dot").unlink()
    assert drawing._repr_svg_() is None  # a notebook's repr never raises
    assert "linear" in repr(drawing)
    assert "flowchart TB" in drawing.to_mermaid()


def test_program_dot_is_used_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import graphviz

    monkeypatch.setattr(render.shutil, "which", lambda name: "/somewhere/dot")
    monkeypatch.setattr(graphviz.Source, "pipe", lambda self, format: f"{format}: {self.source[:7]}".encode())
    assert render.render("digraph {}", "svg") == b"svg: digraph"


def test_the_program_as_a_table() -> None:
    lines = str(mlp().graph()).splitlines()
    assert lines[0].split() == ["x", "leaf", "(5,", "3)", "float64"]
    assert re.fullmatch(r"%1 +relu\(%0\) +\(5, 4\) +float64  y  = max\(x, 0\)", lines[7])
    assert lines[-1] == "return %4"
    assert len(lines) == 6 + 5 + 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: mlp().graph().save("step.gif"),
            ValueError,
            "Drawing.save: expected a .svg, .png, .pdf, .tex, .dot or .html file, got 's",
        ),
        (lambda: mlp().graph(direction="up"), ValueError, 'draw.graph: direction must be "TB" or "LR", got \'up\''),
        (lambda: mlp().graph(fused="yes"), ValueError, "draw.graph: fused must be True, False or \"both\", got 'yes'"),
        (lambda: mlp().graph(depth=-1), ValueError, "draw.graph: depth must be a non-negative integer, or None, got -1"),
        (lambda: draw.graph(np.ones(3)), GraphError, "draw.graph: argument 0 has type ndarray, expected a Tensor"),  # type: ignore[arg-type]
        (
            lambda: draw.graph(Tensor([1.0])),
            GraphError,
            "draw.graph: output 0 (shape (1,)) is a leaf, it has no recorded graph",
        ),
    ],
)
def test_mistakes(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


# A graph as a value


def test_hash() -> None:
    assert mlp().graph().hash() == mlp().graph().hash()  # other weights, the same program
    assert re.fullmatch("[0-9a-f]{16}", mlp().graph().hash())
    others = [mlp("z"), residual(), system("A"), mlp() * 2.0, mlp() * 3.0]
    assert len({t.graph().hash() for t in [*others, mlp()]}) == 6


def test_diff() -> None:
    def program(wide: bool, squared: bool) -> Tensor:
        x = Tensor(np.ones((2, 3)), True, name="x")
        W = Tensor(np.ones((3, 5 if wide else 4)), True, name="W")
        h = (x @ W).relu()
        return (h * h).sum() if squared else h.exp().sum()

    def marks(a: Tensor, b: Tensor) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for box in a.graph().diff(b).scene.boxes.values():
            if box.mark:
                found.setdefault(box.mark, []).append(box.lines[0])
        return found

    assert marks(program(False, False), program(False, False)) == {}
    assert marks(program(False, False), program(False, True)) == {"added": ["×"], "removed": ["exp"]}
    assert marks(program(False, True), program(True, True)) == {"changed": ["a @ b", "relu", "×"]}
    drawing = program(False, False).graph().diff(program(False, True).graph())
    texts = [box.text[0] for box in drawing.scene.boxes.values()]
    assert ("+ ×" in texts, "− exp" in texts) == (True, True)
    assert "+ added · − removed, dashed" in drawing.dot


def test_assert_same_graph(tmp_path: Path) -> None:
    path = tmp_path / "graphs" / "mlp.txt"
    assert_same_graph(mlp(), path)  # writes it
    assert path.read_text() == str(mlp().graph()) + "\n"
    assert_same_graph(mlp(), path)
    assert_same_graph(mlp(), Graph.of(mlp()))
    with pytest.raises(
        AssertionError, match=r"(?sm)assert_same_graph: the graph has changed\n--- .*mlp.txt\n.*^\+%5 +mul"
    ) as caught:
        assert_same_graph(mlp() * 2.0, path)
    assert "-return %4" in str(caught.value)
    with pytest.raises(AssertionError, match="the graph has changed"):
        assert_same_graph(mlp(), path, fused=True)
    assert_same_graph(mlp(), mlp(), fused=True)
