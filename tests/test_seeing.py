"""Pictures say what is so: different programs look different, nothing is missing, nothing is at two places, all can be read."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, draw, nn
from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY
from tensorgrad.draw.build import Builder
from tensorgrad.draw.colours import KINDS, MARKS, heat_colour
from tensorgrad.draw.parts import tree
from tensorgrad.draw.program import Options, Program
from tensorgrad.draw.words import COMMUTE
from tensorgrad.errors import ArgumentError, TensorgradError
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tests.test_draw import has_cycle

pytestmark = pytest.mark.quick


def ones(*shape: int, name: str = "", grad: bool = False) -> Tensor:
    return Tensor(np.linspace(0.1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape), grad, name=name)


def weight(name: str, *shape: int) -> Tensor:
    return ones(*shape, name=name, grad=True)


def first_lines(scene: Any, *kinds: str) -> list[str]:
    return [box.lines[0] for box in scene.boxes.values() if not kinds or box.kind in kinds]


def gradient_lines(scene: Any) -> list[str]:
    return [line for box in scene.boxes.values() if box.kind == "gradients" for line in box.lines[1:]]


def named(dot: str) -> str:
    """DOT text with the texts of boxes in the place of their ids."""
    texts = dict(re.findall(r'^\s*(\w*b\d+) \[label=("(?:[^"\\]|\\.)*"|\S+)', dot, re.M))
    return "\n".join(sorted(re.sub(r"\b\w*b\d+\b", lambda m: texts.get(m[0], m[0]), line) for line in dot.splitlines()))


# Names


@given(n=st.integers(2, 4), layers=st.integers(1, 3))
@settings(max_examples=6)
def test_equal_models_are_different_boxes(n: int, layers: int) -> None:
    models = [nn.Sequential(*[nn.Linear(3, 3) for _ in range(layers)]) for _ in range(n)]
    x = ones(2, 3, name="x")
    loss = sum((m(x) ** 2).sum() for m in models)
    scene = draw.graph(loss, backward=True).scene
    lines = gradient_lines(scene)
    assert len(lines) == len(set(lines)) == 2 * n * layers
    builder = Builder(Program(Graph.of(loss), Options()))
    owners: dict[str, set[int]] = {}
    for box in builder.scene.boxes.values():
        part = builder.parts.get(box.id)
        if part is not None and part.is_module:
            for key in box.group:
                owners.setdefault(key, set()).update(id(m) for m in models if part.key.module in list(m.modules()))
    assert all(len(found) == 1 for found in owners.values())
    if layers > 1:
        assert len(owners) == n


def test_names_that_collide_are_written_apart() -> None:
    w, v = weight("W", 3, 4), weight("W", 4, 5)
    scene = draw.graph(((ones(2, 3, name="x") @ w) @ v).sum(), backward=True).scene
    assert sorted(gradient_lines(scene)) == ["W  3×4", "W (2)  4×5"]


def test_names_that_are_given_for_models() -> None:
    g, d = nn.Sequential(nn.Linear(2, 3), nn.Tanh()), nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
    fake = g(ones(4, 2, name="z"))
    scene = draw.graph(d(fake).sum() + d(ones(4, 3, name="real")).sum(), backward=True, names={"G": g, "D": d}).scene
    assert list(scene.groups.values()) == ["G · Sequential", "D · Sequential, call 1", "D · Sequential, call 2"]
    assert sorted(gradient_lines(scene)) == ["D.0.bias  1", "D.0.weight  3×1", "G.0.bias  3", "G.0.weight  2×3"]
    assert first_lines(scene, "gradients").count("+ sum of gradients") == 1
    with pytest.raises(ArgumentError, match=r"draw\.graph: names must be a dict of name to Module"):
        draw.graph(fake, names={g: "G"})  # type: ignore[dict-item]


# Different programs, different pictures


def test_operands_stand_in_their_order() -> None:
    x = weight("x", 3)
    written = {"1 −": 1 - x, "− 1": x - 1, "2 ÷": 2 / x, "÷ 2": x / 2, "2^": 2**x, "^2": x**2}
    assert [first_lines(draw.graph(t.sum()).scene)[0] for t in written.values()] == list(written)
    data = ones(3, name="x")
    assert first_lines(draw.graph(data - x * 2).scene)[1] == "a − b"


BINARY = sorted(name for name, op in REGISTRY.items() if len(op.parsed.inputs) == 2 and not op.variadic and op.backward)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", BINARY)
def test_swapped_operands_look_different(name: str) -> None:
    """Of every op that has two arguments and takes them either way round."""
    op = REGISTRY[name]
    a, b = ones(3, 3, name="a", grad=True) * 0.5, ones(3, 3, name="b", grad=True).exp()
    try:
        one, other = op(a, b), op(b, a)
    except (TensorgradError, TypeError):
        pytest.skip("needs other arguments: it is not elementwise or a product")
    if one.node is None:
        return
    pictures = [named(draw.graph(t).dot) for t in (one, other)]
    assert (pictures[0] == pictures[1]) == (name in COMMUTE)


def attribute_cases() -> list[Any]:
    x = weight("x", 4, 4)
    i, j = np.array([0, 1, 2] * 5), np.array([0, 1, 3] * 5)
    image, kernel = weight("i", 1, 2, 8, 8), weight("k", 2, 2, 3, 3)
    pairs: list[tuple[Callable[[], Tensor], Callable[[], Tensor]]] = [
        (lambda: x.sum(axis=0), lambda: x.sum(axis=1)),
        (lambda: x.mean(axis=0), lambda: x.mean(axis=1)),
        (lambda: x.max(axis=0), lambda: x.max(axis=1)),
        (lambda: x.sum(axis=0, keepdims=True).sum(), lambda: x.sum(axis=1, keepdims=True).sum()),
        (lambda: x[0], lambda: x[3]),
        (lambda: x[:, 1:3], lambda: x[:, 0:2]),
        (lambda: x[i], lambda: x[j]),
        (lambda: x.clip(-1, 1), lambda: x.clip(-1, 2)),
        (lambda: x.clip(None, 1), lambda: x.clip(1, None)),
        (lambda: x.softmax(axis=0), lambda: x.softmax(axis=1)),
        (lambda: x.cumsum(axis=0), lambda: x.cumsum(axis=1)),
        (lambda: F.leaky_relu(x, 0.1), lambda: F.leaky_relu(x, 0.2)),
        (lambda: tensorgrad.concatenate([x, x.exp()]), lambda: tensorgrad.concatenate([x.exp(), x])),
        (lambda: F.max_pool2d(image, 2), lambda: F.max_pool2d(image, 2, padding=1).sum()),
        (lambda: F.conv2d(image, kernel, stride=2).sum(), lambda: F.conv2d(image, kernel, dilation=2).sum()),
        (lambda: x.var(axis=0), lambda: x.var(axis=0, ddof=1)),
        (lambda: x.transpose(0, 1), lambda: x.transpose(1, 0)),
        (lambda: F.mse_loss(x, x.detach().exp()), lambda: F.mse_loss(x, x.detach().exp(), reduction="sum")),
        (lambda: x * 2, lambda: x * 3),
        (lambda: tensorgrad.einsum("ij,jk->ik", x, x), lambda: tensorgrad.einsum("ij,kj->ik", x, x)),
    ]
    return pairs


@pytest.mark.parametrize("case", range(len(attribute_cases())))
def test_attributes_stand_in_the_box(case: int) -> None:
    one, other = (make() for make in attribute_cases()[case])
    assert named(draw.graph(one).dot) != named(draw.graph(other).dot)


def test_every_attribute_of_every_op_is_in_its_box() -> None:
    """Two uses that differ in one attribute alone have different titles, whatever the op."""
    from tensorgrad.draw.words import title_of

    rng = np.random.default_rng(0)
    missing = []
    for name, op in REGISTRY.items():
        _, attrs = op.sample(rng)
        for key, value in attrs.items():
            other: Any = value + 1 if type(value) in (int, float) else (not value if isinstance(value, bool) else None)
            if type(value) is tuple and value and all(type(v) is int for v in value):
                other = tuple(v + 1 for v in value)
            if other is None or (name in ("reshape", "broadcast_to", "sum_to", "put", "scatter") and key == "shape"):
                continue  # the shape of the result says it
            uses = [Node(op, (), attrs | {key: v}, (), None, (), np.float32) for v in (value, other)]
            if title_of(uses[0], lambda i, s: "") == title_of(uses[1], lambda i, s: ""):
                missing.append(f"{name}.{key}")
    assert not missing


def test_the_layers_arguments_stand_in_its_box() -> None:
    scene = draw.graph(nn.Conv2d(3, 4, 3, stride=2, padding=1), np.ones((1, 3, 8, 8), np.float32)).scene
    assert scene.boxes["b0"].text == ["Conv2d 3→4, kernel 3, stride 2, padding 1", "1×4×4×4", "weight 4×3×3×3, bias 4"]


def test_diff_sees_the_order() -> None:
    x, y = weight("x", 3), weight("y", 3)
    a, b = draw.graph((x * y - y).sum()), draw.graph((y - x * y).sum())
    assert [(box.mark, box.text[0]) for box in a.diff(b).scene.boxes.values() if box.mark] == [("changed", "~ a − b")]
    assert not any(box.mark for box in a.diff(a).scene.boxes.values())
    assert [b.text[0] for b in draw.graph((1 - x).sum()).diff((x - 1).sum()).scene.boxes.values() if b.mark] == ["~ − 1"]


def lab(colour: str) -> Any:
    """CIELAB of an sRGB colour, for D65."""
    c = np.array(list(bytes.fromhex(colour[1:]))) / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ c / np.array([0.95047, 1, 1.08883])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_can_be_told_apart() -> None:
    fills = {key: lab(look.fill) for key, look in {**KINDS, **MARKS}.items()}
    for (a, x), (b, y) in itertools.combinations(fills.items(), 2):
        assert np.linalg.norm(x - y) >= 20, (a, b)


# Data without a gradient


@given(
    steps=st.lists(st.sampled_from(["t[1:]", "2 * t", "t + 1", "1 - t", "t.T", "-t", "t / 3", "t**2", "t.tanh()"]), max_size=6)
)
@settings(max_examples=20)
def test_data_keep_their_name(steps: list[str]) -> None:
    t = ones(9, 9, name="pixels")
    for step in steps:
        t = eval(step, {"t": t})
    for fold in (True, False):
        scene = draw.graph((t * weight("w", *t.shape)).sum(), fold=fold).scene
        assert any("pixels" in name for name in first_lines(scene, "input")), first_lines(scene)


def test_what_was_done_to_data() -> None:
    x, w = ones(5, 3, name="x"), weight("w", 3, 2)

    def inputs(t: Tensor) -> list[str]:
        return [" ".join(b.lines) for b in draw.graph(t).scene.boxes.values() if b.kind in ("input", "constant")]

    assert inputs((2 * x + 1) @ w) == ["2 x + 1 5×3"]
    assert inputs(x[3:] @ w) == ["x[3:] 2×3"]
    assert inputs(x[3] @ w) == ["x[3] 1×3"]
    assert inputs((1 - x) @ w) == ["1 - x 5×3"]
    assert inputs(F.conv2d(ones(2, 1, 8, 8, name="images"), weight("k", 4, 1, 3, 3))) == ["images 2×1×8×8"]
    assert inputs(F.max_pool2d(ones(2, 1, 8, 8, name="i"), 2) * weight("k", 2, 1, 4, 4)) == ["max_pool2d(i) 2×1×4×4"]
    assert inputs(F.cross_entropy(x @ w, np.array([0, 1, 0, 1, 1]))) == ["x 5×3", "target 5 int64"]
    assert inputs(F.mse_loss(x @ w, np.ones((5, 2), np.float32))) == ["x 5×3", "target 5×2"]
    for number in (np.float32(2.5), 2.5, np.array(2.5, np.float32)):
        assert [b.lines[0] for b in draw.graph(w * number).scene.boxes.values()] == ["× 2.5", "w"]
    assert x.made_of == ""
    assert "name" not in repr(x * 2)  # it has none: that is a drawing's word for it


# Folds


class Residual(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm = nn.Linear(d, d), nn.Linear(d, d), nn.LayerNorm(d)

    def forward(self, x: Any) -> Any:
        return x + self.fc2(self.fc1(self.norm(x)).relu())


class ResNet(nn.Module):
    def __init__(self, n: int, d: int = 4) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(3, d), nn.Sequential(*[Residual(d) for _ in range(n)]), nn.Linear(d, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(self.stem(x)))


@st.composite
def nests(draw_: Any, depth: int = 2) -> nn.Module:
    """Modules in modules, some of them repeated."""
    kinds = ["linear", "relu", "norm", "residual"] + ["nest", "many"] * (depth > 0)
    made: list[nn.Module] = []
    for kind in draw_(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        if kind == "nest":
            made.append(draw_(nests(depth=depth - 1)))
        elif kind == "many":
            count, inner = draw_(st.integers(2, 6)), draw_(st.sampled_from(["linear", "residual", "pair"]))
            one = {"linear": lambda: nn.Linear(4, 4), "residual": lambda: Residual(4), "pair": lambda: pair()}[inner]
            made.append(nn.Sequential(*[one() for _ in range(count)]))
        else:
            made.append({"linear": nn.Linear(4, 4), "relu": nn.ReLU(), "norm": nn.LayerNorm(4), "residual": Residual(4)}[kind])
    return nn.Sequential(*made)


def pair() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh())


@given(model=nests(), fused=st.booleans(), depth=st.sampled_from([None, 0, 1, 2, 9]), backward=st.booleans())
@settings(max_examples=10)
def test_folds_follow_modules(model: nn.Module, fused: bool, depth: int | None, backward: bool) -> None:
    loss = (model(ones(2, 4, name="x")) * weight("v", 4)).sum()
    scene = draw.graph(loss, fused=fused, depth=depth, backward=backward).scene
    for kind in ("forward", "gradient"):
        arrows = [(e.source, e.target) for e in scene.edges if e.kind == kind]
        assert not [1 for a, b in arrows if a == b]
        assert not has_cycle(arrows)
    above: dict[str, tuple[str, ...]] = {}
    for box in scene.boxes.values():
        for i, key in enumerate(box.group):
            assert above.setdefault(key, box.group[:i]) == box.group[:i]  # no group at two places
    builder = Builder(Program(Graph.of(loss), Options(depth=depth)))
    for part in builder.parts.values():
        if part.is_module:
            path = str(part.key)
            assert {n.scope == path or n.scope.startswith(f"{path}.") or path == "" for n in part.nodes} == {True}
    if depth == 0:
        top = {str(name) for name, _ in model.named_children()}
        for box in scene.boxes.values():
            if box.kind in ("layer", "fold") and "·" in box.lines[0]:
                assert set(box.lines[0].split(" · ")[0].split(" … ")) <= top


def test_numbers_in_a_fold_are_one_blocks() -> None:
    loss = F.cross_entropy(ResNet(6)(ones(8, 3, name="x")), np.arange(8) % 2)
    (fold,) = [b for b in draw.graph(loss, depth=1, cost=True).scene.boxes.values() if b.kind == "fold"]
    assert fold.lines[:3] == ["blocks.0 … blocks.5 · Residual", "× 6", "8×4"]
    assert fold.inside == ["48 parameters each"]
    assert re.fullmatch(r".* each, .* in all", fold.lines[-1])
    five = draw.graph(nn.Sequential(*[nn.LayerNorm(4) for _ in range(5)]), np.ones((2, 4), np.float32)).scene
    assert five.boxes["b0"].text == ["0 … 4 · LayerNorm 4", "× 5", "2×4", "weight 4, bias 4"]


def test_all_parameters_of_a_folded_module_are_counted() -> None:
    scene = draw.graph(loss_of(ResNet(6)), depth=0).scene
    (fold,) = [box for box in scene.boxes.values() if box.kind == "fold"]
    assert fold.text == ["blocks · Sequential", "4×4", "288 parameters"]


def test_what_is_fused_across_a_border_does_not_tear_a_module_apart() -> None:
    """Its parts are in an order in which each reads what stands before it."""

    class Late(nn.Module):
        def forward(self, x: Any, c: Any) -> Any:
            s = c.sin()
            return x.relu() * s  # the relu is fused with what is outside

    loss = Late()(ones(2, 3, name="x") @ weight("W", 3, 4) + weight("b", 4), weight("c", 2, 4)).sum()
    graph = Graph.of(loss).fused()
    assert any(node.members for node in graph.nodes)
    place = {node: i for i, part in enumerate(tree(list(graph.nodes)).parts) for node in part.nodes}
    assert all(place[s] <= place[n] for n in graph.nodes for s in n.inputs if isinstance(s, Node))


def test_gradients_of_several_uses_end_in_one_box() -> None:
    x, h = ones(3, 5, 8, name="x"), ones(5, 16, name="h0")
    wx, wh = weight("Wx", 8, 16), weight("Wh", 16, 16)
    for t in range(3):
        h = (x[t] @ wx + h @ wh).tanh()
    scene = draw.graph((h * h).sum(), backward=True).scene
    sums = [box for box in scene.boxes.values() if box.kind == "gradients"]
    assert sorted(box.lines[0] for box in sums) == ["+ sum of gradients", "+ sum of gradients"]
    for box in sums:
        assert sum(e.target == box.id and e.kind == "result" for e in scene.edges) == 3
    assert not has_cycle([(e.source, e.target) for e in scene.edges if e.kind == "gradient"])


def test_no_formula_or_the_closed_one() -> None:
    """Of a function of several operations: never the operations that it is made of. The formulas hold."""
    rng = np.random.default_rng(0)
    x, w, b = (Tensor(rng.normal(size=s), True, name=n) for n, s in (("x", (4, 3)), ("w", (3,)), ("b", (3,))))
    g = rng.normal(size=(4, 3))
    for fn in (F.layer_norm, F.batch_norm):
        y = fn(x, (3,), w, b) if fn is F.layer_norm else fn(x, None, None, w, b, True)
        scene = draw.graph((y * Tensor(g)).sum(), backward=True).scene
        (rule,) = [r for r in scene.boxes.values() if r.lines[0] == f"gradient of {fn.__name__}"]
        assert not any("mul" in line for line in rule.lines)
        axis = 1 if fn is F.layer_norm else 0
        n = (x.data - x.data.mean(axis, keepdims=True)) / np.sqrt(x.data.var(axis, keepdims=True) + 1e-5)
        s = np.sqrt(x.data.var(axis, keepdims=True) + 1e-5)
        d = g * w.data
        gx = (d - d.mean(axis, keepdims=True) - n * (d * n).mean(axis, keepdims=True)) / s  # weight moves out for batch_norm
        found = tensorgrad.grad((y * Tensor(g)).sum(), (x, w, b))
        np.testing.assert_allclose(found[0].data, gx, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found[1].data, (g * n).sum(0), rtol=1e-10)
        np.testing.assert_allclose(found[2].data, g.sum(0), rtol=1e-10)
    p, t = Tensor(rng.uniform(0.1, 0.9, 5), True), rng.uniform(0, 1, 5)
    (gp,) = tensorgrad.grad(F.binary_cross_entropy(p, t, reduction="sum"), (p,))
    np.testing.assert_allclose(gp.data, (p.data - t) / (p.data * (1 - p.data)), rtol=1e-10)
    (gi,) = tensorgrad.grad(F.mse_loss(p, t), (p,))
    np.testing.assert_allclose(gi.data, 2 * (p.data - t) / 5, rtol=1e-10)


# Derivatives of derivatives


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "cube": lambda x: x**3,
    "exp": lambda x: x.exp(),
    "sin": lambda x: x.sin(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "quotient": lambda x: 1 / (1 + x * x),
    "log": lambda x: (x * x + 1).log(),
    "product": lambda x: x * x.exp(),
    "softplus": lambda x: F.softplus(x),
    "norm": lambda x: F.layer_norm(x * np.arange(1.0, 4.0), 3),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_every_order(name: str) -> None:
    x = Tensor(np.array([0.3, -0.7, 1.5]), True, name="x")
    y = FUNCTIONS[name](x).sum()
    for order in (1, 2, 3):
        (d,) = tensorgrad.grad(y, x, create_graph=True)
        if d.node is None:
            break
        for options in ({}, {"fold": False}, {"fused": True}, {"values": True}, {"depth": 0}, {"backward": True}):
            scene = draw.graph(d, **options).scene
            ahead: dict[str, set[str]] = {}
            for e in scene.edges:
                ahead.setdefault(e.source, set()).add(e.target)
            ends = {box.id for box in scene.boxes.values() if box.kind == "output"}
            if options != {"backward": True}:
                for box in scene.boxes.values():
                    assert reaches(box.id, ends, ahead), (order, options, box.lines)
        frames = set(draw.graph(d).scene.groups.values())
        assert all(frame.startswith("∂") for frame in frames)
        y = d.sum()


def reaches(start: str, ends: set[str], ahead: dict[str, set[str]]) -> bool:
    seen, stack = {start}, [start]
    while stack:
        here = stack.pop()
        if here in ends:
            return True
        stack += [b for b in ahead.get(here, ()) if b not in seen]
        seen |= ahead.get(here, set())
    return False


# In every writer


def loss_of(model: nn.Module | None = None) -> Tensor:
    return F.cross_entropy((model or ResNet(2))(ones(4, 3, name="x")), np.arange(4) % 2)


def test_heat_is_a_share_of_the_most_expensive_box() -> None:
    scene = draw.graph(loss_of(ResNet(6)), cost=True).scene
    assert max(box.heat for box in scene.boxes.values() if box.heat is not None) == 1


def test_writers_have_all_of_a_scene(tmp_path: Path) -> None:
    """Marks, highlight, heat, title, notes and legend: DOT, Mermaid and page. The text is the program alone; str says so."""
    w = weight("w", 3, 3)
    drawing = draw.graph((w.astype("float64") * 2).sum(), highlight=[w], title="my title", cost=True)
    page = drawing.save(tmp_path / "a.html").read_text()
    for text in (drawing.dot, drawing.to_mermaid(), page):
        for word in ("my title", "float64 unless shown otherwise", "pink: highlighted", MARKS["highlight"].fill, "in all"):
            assert word in text, word
    heat = next(b.heat for b in drawing.scene.boxes.values() if b.heat == 1)
    assert all(heat_colour(heat) in text for text in (drawing.dot, drawing.to_mermaid(), page))
    changed = draw.graph(w.relu().sum()).diff(w.tanh().sum())
    assert re.search(r'"\+ tanh[^\n]*:::added', changed.to_mermaid())
    assert re.search(r'"#8722; relu[^\n]*:::removed', changed.to_mermaid())


def test_values_of_everything() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    scene = draw.graph(F.cross_entropy(model(ones(2, 4, name="x")), np.array([0, 1])), values=True, backward=True).scene
    for box in scene.boxes.values():
        if box.kind != "rule":
            assert re.search(r"mean|\[|\d\.\d", "\n".join(box.lines)), box.lines
    assert all(re.search(r"mean|\[", line) for line in gradient_lines(scene))
    many = draw.graph(loss_of(ResNet(6)), values=True, depth=1).scene
    assert any("over all 6" in line for box in many.boxes.values() for line in box.lines)


# To be read


def lstm(steps: int) -> Tensor:
    w, u, b, out = weight("W", 8, 64), weight("U", 16, 64), weight("b", 64), weight("Wo", 16, 4)
    x, h, c = ones(steps, 5, 8, name="x"), ones(5, 16, name="h0"), ones(5, 16, name="c0")
    for t in range(steps):
        g = x[t] @ w + h @ u + b
        i, f, o, n = g[:, :16].sigmoid(), g[:, 16:32].sigmoid(), g[:, 32:48].sigmoid(), g[:, 48:].tanh()
        c = f * c + i * n
        h = o * c.tanh()
    return F.cross_entropy(h @ out, np.arange(5) % 4)


def chaos(n: int) -> Tensor:
    """A program without any structure."""
    r = np.random.default_rng(1)
    made = [weight(f"a{i}", 4, 4) for i in range(4)]
    for _ in range(n):
        a = made[int(r.integers(max(0, len(made) - 12), len(made)))]
        b = made[int(r.integers(max(0, len(made) - 20), len(made)))]
        made.append(a.sin() if r.random() < 0.5 else ((a + b, a * b, a - b)[r.integers(3)] * 0.5).tanh())
    return made[-1].sum()


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 4, 10)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        return self.fc(F.max_pool2d(self.bn2(self.conv2(x)).relu(), 2).flatten(1))


READ: dict[str, Callable[[], Tensor]] = {
    "lstm": lambda: lstm(30),
    "resnet": lambda: loss_of(ResNet(20)),
    "cnn": lambda: F.cross_entropy(CNN()(ones(4, 1, 8, 8, name="x")), np.arange(4)),
    "chaos": lambda: chaos(500),
}


def text_size(path: Path) -> float:
    """The middle size of all texts, in px, when the drawing is fitted into a window of 1400 x 900."""
    svg = path.read_text()
    found = re.search(r'<svg width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert found is not None
    sizes = [float(s) for s in re.findall(r'font-size="([\d.]+)', svg)]
    return float(np.median(sizes)) * min(1400 / float(found[1]), 900 / float(found[2]))


@pytest.mark.parametrize("name", READ)
def test_texts_are_large_enough_to_be_read(name: str, tmp_path: Path) -> None:
    loss = READ[name]()
    assert text_size(draw.graph(loss).save(tmp_path / "a.svg")) >= 11
    if name != "chaos":
        assert text_size(draw.graph(loss, backward=True, fused=True).save(tmp_path / "b.svg")) >= 11


def test_regions_are_some_thirty() -> None:
    scene = draw.graph(chaos(500)).scene
    assert 20 <= len(scene.boxes) <= 45
    assert not has_cycle([(e.source, e.target) for e in scene.edges])
    kinds = Counter(box.kind for box in scene.boxes.values())
    assert kinds["fold"] >= 20


def test_shapes_are_said_once() -> None:
    scene = draw.graph(loss_of()).scene
    assert {e.label for e in scene.edges} <= {"", "logits", "target"}


# Recurrent and shared layers


@pytest.mark.parametrize(("kind", "states"), [(nn.RNN, 1), (nn.GRU, 1), (nn.LSTM, 2)])
def test_recurrent_layers_say_what_comes_out_and_nothing_that_nobody_gave(kind: Any, states: int) -> None:
    layer = kind(8, 16, num_layers=2)
    x = np.ones((5, 3, 8), np.float32)
    scene = draw.graph(layer, x).scene
    assert first_lines(scene, "input", "constant") == ["x"]
    (box,) = (b for b in scene.boxes.values() if b.kind == "output")
    state = "2×3×16" if states == 1 else "2 of 2×3×16"
    assert box.lines[-1] == f"5×3×16, {state}"
    y, _ = layer(Tensor(x, name="x"))
    lone = draw.graph((y**2).sum()).scene
    assert [b.lines[-1] for b in lone.boxes.values() if b.kind == "layer"] == ["5×3×16"]  # the states are read by nothing
    given = np.full((2, 3, 16), 0.5, np.float32)
    hx = Tensor(given, name="before") if states == 1 else (Tensor(given, name="before"), Tensor(given, name="cell"))
    shown = first_lines(draw.graph(layer, x, hx).scene, "input", "constant")
    assert any(name.startswith("before") for name in shown)


class Shares(nn.Module):
    """A layer under two names, another one used twice under one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.act = nn.Tanh()
        self.last = self.first
        self.pair = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Any) -> Any:
        return self.pair(self.last(self.act(self.pair(self.first(x)))))


def test_shared_layers_go_by_their_first_name() -> None:
    scene = draw.graph(Shares(), np.ones((2, 4), np.float32), backward=True).scene
    titles = [line for line in first_lines(scene) if " · " in line]
    assert titles == [
        "first · Linear 4→4 (also last, call 1 of 2)",
        "pair.0 · Linear 4→4",
        "pair.1 · ReLU",
        "act · Tanh",
        "first · Linear 4→4 (also last, call 2 of 2)",
        "pair.0 · Linear 4→4",
        "pair.1 · ReLU",
    ]
    frames = [label for label in scene.groups.values() if "pair" in label]
    assert frames == ["pair · Sequential (call 1 of 2)", "pair · Sequential (call 2 of 2)"]
    assert sorted(line.split("  ")[0] for line in gradient_lines(scene)) == [
        "first.bias", "first.weight", "pair.0.bias", "pair.0.weight",
    ]  # fmt: skip
