"""draw.architecture and .tex files: figures that print."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, draw, nn
from tensorgrad.draw.colours import PAPER
from tensorgrad.draw.maths import pieces
from tensorgrad.draw.tikz import in_latex
from tensorgrad.errors import ArgumentError, GraphError
from tests.test_draw import EVIL, mlp, residual
from tests.test_seeing import lab

X = np.ones((2, 1, 12, 12), np.float32)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 16), nn.Tanh(),
        nn.Linear(16, 10),
    )  # fmt: skip


def lines(drawing: draw.Drawing) -> list[str]:
    return [line for box in drawing.scene.boxes.values() for line in box.text]


def test_parameters_have_letters_in_the_order_of_their_use() -> None:
    found = lines(draw.architecture(lenet(), X))
    assert [line for line in found if "weight" in line] == []
    assert {"W1 4×1×3×3, b1 4", "gamma 4, beta 4", "W2 100×16, b2 16", "W3 16×10, b3 10"} <= set(found)


def test_in_blocks_that_are_drawn_once_letters_have_no_number() -> None:
    model = nn.Sequential(nn.Linear(4, 4), *(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(5)))
    found = lines(draw.architecture(model, np.ones((2, 4), np.float32)))
    assert "W1 4×4, b1 4" in found
    assert "W 4×4, b 4" in found


def test_names_of_the_user_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(np.ones((3, 2)))

        def forward(self, u: Any) -> Any:
            return (u @ self.theta).tanh()

    drawing = draw.architecture(Tied(), Tensor(np.ones((5, 3)), name="u_in"))
    assert '<I>u</I><SUB><FONT POINT-SIZE="8">in</FONT></SUB>' in drawing.dot
    assert "<I>θ</I> 3×2" in drawing.dot


def test_kinds_are_told_apart_in_grey() -> None:
    """By the lightness of their fills, or by the corners or the dashes of their borders."""
    for (a, one), (b, other) in itertools.combinations(PAPER.items(), 2):
        borders = [(look.round, look.dashed) for look in (one, other)]
        apart = abs(lab(one.fill)[0] - lab(other.fill)[0])
        assert apart > 7 or borders[0] != borders[1], (a, b, apart)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("W1 3×4", [("", "W", "1"), (" 3×4", "", "")]),
        ("W_in", [("", "W", "in")]),
        ("gamma 4, beta 4", [("", "gamma", ""), (" 4, ", "beta", ""), (" 4", "", "")]),
        ("theta2", [("", "theta", "2")]),
        ("weight 3", [("weight 3", "", "")]),
        ("logits", [("logits", "", "")]),
        ("x", [("", "x", "")]),
        ("max(x, 0)", [("max(", "x", ""), (", 0)", "", "")]),
        ("f(x)", [("f(", "x", ""), (")", "", "")]),
        ("0.weight", [("0.weight", "", "")]),
    ],
)
def test_what_is_a_letter(text: str, found: list[tuple[str, str, str]]) -> None:
    assert list(pieces(text)) == found


@given(st.text(max_size=20))
def test_nothing_is_lost_between_letters(text: str) -> None:
    back = "".join(upright + letter + index for upright, letter, index in pieces(text))
    assert back.replace("_", "") == text.replace("_", "")  # which stands before an index
    assert list(pieces(text, False)) == [(text, "", "")]


@given(st.text(max_size=30))
def test_any_text_is_latex_with_balanced_braces(text: str) -> None:
    for names in (False, True):
        found = in_latex(text, names)
        plain = found.replace(r"\{", "").replace(r"\}", "").replace(r"\$", "")
        depth = list(itertools.accumulate((c == "{") - (c == "}") for c in plain))
        assert min(depth, default=0) == 0 == (depth or [0])[-1]
        assert plain.count("$") % 2 == 0
        assert not re.search(r"(?<!\\)[#%&]", found)


def test_signs_and_names_in_latex() -> None:
    assert in_latex("a_b ~^\\ 50%", False) == r"a\_b \textasciitilde{}\textasciicircum{}\textbackslash{} 50\%"
    assert in_latex("W_1 x", False) == r"W\_1 x"
    assert in_latex("W_1 x, theta_in", True) == r"$W_{1}$ $x$, $\theta_{\mathrm{in}}$"
    assert in_latex("λ × 重", False) == r"$\lambda$ $\times$ [U+91CD]"


DRAWINGS = {
    "architecture": lambda: draw.architecture(lenet(), X, title="LeNet"),
    "left to right": lambda: draw.architecture(lenet(), X, direction="LR", depth=0),
    "backward": lambda: residual().graph(backward=True),
    "heat": lambda: residual().graph(cost=True, fused=True),
    "diff": lambda: mlp("x").graph().diff(residual()),
    "odd names": lambda: mlp(EVIL).graph(title=EVIL),
    "other scripts": lambda: mlp("λ вес 重み 😀").graph(),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_tex_has_all_that_is_drawn(name: str, tmp_path: Path) -> None:
    drawing = DRAWINGS[name]()
    text = drawing.save(tmp_path / "figure.tex").read_text()
    scene = drawing.scene
    assert text.count(") rectangle (") == len(scene.boxes) + len(scene.groups) + 1  # and the whole
    assert len(re.findall(r"^\\draw\[.*edge", text, re.MULTILINE)) == len(scene.edges)
    for box in scene.boxes.values():
        for line in box.text:
            assert f"{{\\strut {in_latex(line, scene.paper and box.has_names(line))}}};" in text
    defined = set(re.findall(r"\\definecolor\{(\w+)\}", text))
    assert set(re.findall(r"(?:draw|fill|text)=(\w+)", text)) <= defined
    if not shutil.which("pdflatex"):
        pytest.skip("needs pdflatex: apt-get install texlive-latex-recommended texlive-pictures texlive-fonts-recommended")
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "figure.tex"], cwd=tmp_path, capture_output=True, check=False
    )
    assert made.returncode == 0, made.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "figure.pdf").stat().st_size > 3000


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png", "html", "dot"])
def test_each_format(suffix: str, tmp_path: Path) -> None:
    assert draw.architecture(lenet(), X).save(tmp_path / f"figure.{suffix}").stat().st_size > 1000


def test_what_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^draw\.architecture: model must be a Module, got Tensor"):
        draw.architecture(Tensor([1.0]))
    with pytest.raises(ArgumentError, match=r'^draw\.architecture: direction must be "TB" or "LR", got \'up\''):
        draw.architecture(lenet(), X, direction="up")
    with pytest.raises(ArgumentError, match=r"^draw\.architecture: depth must be a non-negative integer, or None, got -1"):
        draw.architecture(lenet(), X, depth=-1)


class Answers(nn.Module):
    """Returns what its `how` makes of two results, of an input that may be missing."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.fc, self.norm, self.noise, self.how = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), how

    def forward(self, x: Any, mask: Any = None) -> Any:
        y = self.noise(self.norm(self.fc(x)))
        return self.how(x, y if mask is None else y * mask)


ANSWERS = {
    "nested": lambda x, y: (y, (y * 2, y.sum())),
    "a dict": lambda x, y: {"y": y, "more": [y * 2]},
    "None beside it": lambda x, y: (y, None),
    "what came in beside it": lambda x, y: (y, x),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_a_model_returns(name: str) -> None:
    x = np.ones((2, 3), np.float32)
    for inputs in ((x,), (x, None), (x, x)):
        model = Answers(ANSWERS[name])
        for drawing in (draw.architecture(model, *inputs), draw.graph(model, *inputs, values="maps")):
            assert any("Linear" in line for line in lines(drawing))


def test_a_model_that_computes_nothing() -> None:
    for how, kind in ((lambda x, y: None, "a NoneType"), (lambda x, y: x, "a Tensor that was given")):
        with pytest.raises(GraphError, match=f"^draw.graph: the model returned {kind}, expected Tensors that it computed"):
            draw.architecture(Answers(how), np.ones((2, 3), np.float32))


@pytest.mark.parametrize("options", [{}, {"values": "maps"}, {"cost": True}, {"backward": True, "values": True}])
def test_a_drawing_leaves_the_model_and_random_numbers_as_they_were(options: Any, tmp_path: Path) -> None:
    x, model = np.ones((4, 3), np.float32), Answers(lambda x, y: y)
    tensorgrad.manual_seed(3)
    expected = tensorgrad.rand(3).numpy()
    before = {name: a.copy() for name, a in model.state_dict().items()}
    tensorgrad.manual_seed(3)
    draw.graph(model, x, **options).save(tmp_path / "page.html")
    draw.architecture(model, x)
    np.testing.assert_array_equal(tensorgrad.rand(3).numpy(), expected)
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


@pytest.mark.parametrize("options", [{"values": "maps"}, {"cost": True}, {"backward": True, "values": True}])
def test_attention_with_dropout(options: Any, tmp_path: Path) -> None:
    x = np.ones((2, 5, 8), np.float32)
    drawing = draw.graph(nn.TransformerEncoderLayer(8, 2), x, **options)
    assert drawing.save(tmp_path / "page.html").stat().st_size > 1000


def test_half_precision_backward() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(dtype="float16")
    drawing = draw.graph(model, np.ones((5, 4), "float16"), backward=True)
    assert sum(box.kind == "rule" for box in drawing.scene.boxes.values()) == 2


def test_pages_have_the_colours_and_letters_of_paper(tmp_path: Path) -> None:
    page = draw.architecture(lenet(), X).save(tmp_path / "page.html").read_text()
    for kind in ("input", "layer", "output"):
        assert f".box.{kind} rect {{ fill: {PAPER[kind].fill}; stroke: {PAPER[kind].line}" in page
    assert "W₁ 4×1×3×3, b₁ 4" in page
    assert "γ 4, β 4" in page
    assert re.search(
        r"@media \(prefers-color-scheme: dark\) \{\s*\.box", draw.graph(lenet(), X).save(tmp_path / "b.html").read_text()
    )
    assert not re.search(r"@media \(prefers-color-scheme: dark\) \{\s*\.box", page)


def test_what_stands_below_the_line_is_small() -> None:
    assert '<I>W</I><SUB><FONT POINT-SIZE="8">1</FONT></SUB>' in draw.architecture(lenet(), X).dot
