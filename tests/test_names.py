"""What users call their own: what has a name that the package uses for something else is drawn and derived like any other."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, draw, nn, ops
from tensorgrad.draw.page import to_html
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import gradcheck

ROOT = Path(__file__).resolve().parent.parent
NEUTRAL = "mysquare"


def words(*folders: str) -> set[str]:
    """Every string that could be a name, anywhere in the code of some folders."""
    trees = (ast.parse(path.read_text()) for folder in folders for path in (ROOT / "tensorgrad" / folder).rglob("*.py"))
    constants = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and value.isidentifier()}


KNOWN = {"cross_entropy", "amax", "full", "number", "T", "name"}
VOCABULARY = sorted((words("draw", "core", "autograd", "testing") | KNOWN | {*ops.__all__, *F.__all__}) - REGISTRY.keys())


@contextmanager
def user_op(title: str) -> Iterator[Op]:
    class Mine(Op):
        """y = x²

        forward    y = x²
        backward   gx = 2 g x
        """

        name, signature, reads = title, "()->()", "x"

        def forward(self, xp: Any, x: Any) -> Any:
            return x * x

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: 2 * g * x,)

    op = Mine()
    try:
        yield op
    finally:
        del REGISTRY[title]


def everything_shown(title: str) -> list[str]:
    """What is printed and drawn of a program with the user's op in it: read by the rules of others and by its own."""
    with user_op(title) as op:
        x, w = Tensor(np.arange(12.0).reshape(4, 3), name="x"), Tensor(np.ones((4, 3)), True, name="w")
        loss = (op(x * w) * (-op(w)).relu()).sum() / 4
        assert op(x * w).data.tolist() == (x.data**2).tolist()
        (g,) = tensorgrad.grad((op(x * w) * 3).sum(), w)
        np.testing.assert_array_equal(g.data, 6 * x.data**2)
        assert gradcheck(op, np.ones(1))
        found = draw.derive(loss, w)
        recorded = tensorgrad.grad(loss, w, create_graph=True)[0]
        program = Graph.of(loss)
        whole = draw.graph(loss, fused="both", backward=True)
        drawings = [whole, whole.diff(recorded), draw.graph(op(op(op(op(op(w))))))]
        return [
            *[str(step) for step in (*found.forward, *found.backward)],
            found.formula,
            found.latex.replace("\\_", "_"),
            *program.words(),
            *re.sub(r"  +", "  ", str(program)).splitlines(),
            *[text for drawing in drawings for text in (drawing.dot, drawing.to_mermaid(), *drawing.scene.notes)],
        ]


@pytest.mark.thorough
def test_an_op_of_the_users_under_any_name() -> None:
    """Registered, called, differentiated, printed, drawn, derived: as under a name that nobody knows, up to the name."""
    assert set(VOCABULARY) >= KNOWN
    assert len(VOCABULARY) > 200
    neutral = everything_shown(NEUTRAL)
    assert sum(NEUTRAL in text for text in neutral) > 10
    for title in VOCABULARY:
        assert everything_shown(title) == [text.replace(NEUTRAL, title) for text in neutral], title


def named_op(node: ast.expr) -> bool:
    """`op.name`, `node.op.name`, `self.op.name`, ..."""
    return isinstance(node, ast.Attribute) and node.attr == "name" and ast.unparse(node.value).split(".")[-1] == "op"


def test_nothing_goes_by_the_name_of_an_op() -> None:
    """Outside of the compiler: neither comparisons with a text nor tables by name. What an op is stands on its class."""
    for path in (ROOT / "tensorgrad").rglob("*.py"):
        if "compiler" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            texts = [part for side in sides for part in ast.walk(side) if isinstance(part, ast.Constant)]
            assert not (any(map(named_op, sides)) and texts), f"{path}:{node.lineno}"
            looked_up = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and named_op(node.slice)
            assert not looked_up, f"{path}:{node.lineno}"


@pytest.mark.parametrize("title", [NEUTRAL, *sorted(KNOWN)])
def test_a_page_of_it(title: str) -> None:
    with user_op(title) as op:
        x = Tensor(np.ones((2, 2)), True, name="x")
        views = draw.graph(op(x).sum())._views()
        page = to_html(views)
    data = json.loads(re.search(r"const DATA = (\{.*\}), VIEWS", page)[1])
    for view in data["views"].values():
        assert [(box["lines"][0], box["facts"]["op"]) for box in view["boxes"] if "op" in box["facts"]][:1] == [(title, title)]


class Named(nn.Module):
    """Two layers under a name, and five equal ones."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        self.rest = nn.Sequential(*[nn.Linear(2, 2) for _ in range(5)])

    def forward(self, x: Any) -> Any:
        return self.rest(self._modules[self.name](x))


def shown(name: str) -> list[str]:
    drawing = draw.graph(Named(name), np.ones((1, 2), "float32"), fused="both", backward=True)
    dot = re.sub(r'subgraph ("cluster_[^"]*"|cluster_\w+)', "subgraph", drawing.dot)  # but for what nobody sees
    broken = re.compile(r"(\\l|<br>|,)? +|\\l|<br>")  # lines are as long as names let them be
    return [broken.sub(" ", text) for text in (dot, drawing.to_mermaid(), *drawing.scene.groups.values())]


def test_a_module_under_any_name() -> None:
    neutral = shown(NEUTRAL)
    assert sum(text == f"{NEUTRAL} · Sequential" for text in neutral) == 1  # in one of the two; fusion makes one box of it
    for name in sorted({*words("draw"), "panel", "repeat1", "T"} - {*dir(Named(NEUTRAL))}):
        assert shown(name) == [text.replace(NEUTRAL, name) for text in neutral], name


@pytest.mark.parametrize("name", ["t1", "C1", "m", "L", "h1"])
def test_a_tensor_under_a_name_that_derivations_give(name: str) -> None:
    """What a derivation names itself gets another name, so that no formula says two things by one."""

    def names(x: str) -> list[str]:
        rng = np.random.default_rng(0)
        a, w = Tensor(rng.normal(size=(4, 3)), True, name=x), Tensor(rng.normal(size=(4, 3)), True, name="w")
        y = F.gelu((a * w).tanh(), "tanh")
        loss = (y * w).mean() + tensorgrad.einsum("ii->i", y[:3]).sum()
        found = draw.derive(loss, a)
        return [step.name for step in (*found.forward, *found.backward)] + list(found.constants)

    own = names("x")
    assert name in own
    found = names(name)
    assert len(set(found)) == len(found)
    assert name not in found
    assert f"{name}'" in found
