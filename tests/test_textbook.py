"""The derivations of textbook losses and layers: as a lecturer writes them, and true at two sets of shapes and values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, draw, nn
from tensorgrad.nn import functional as F
from tests.test_derive import check
from tests.textbook import CASES, SIZES, Setting, board, written

MACHINERY = r"broadcast_to|reshape|sum_to|ones\(|getitem|put\(|first_of|where\(|_grad|scatter|transpose\("


@pytest.mark.parametrize("title", CASES)
def test_the_gradient_on_the_board(title: str) -> None:
    """As it stands in the file; and the formula is the same at another set of shapes and values, and is the recorded gradient
    at both, so that no number is there by coincidence."""
    assert written(title) == board()[title].rstrip("\n") + "\n"
    formulas = set()
    for seed, sizes in enumerate(SIZES):
        loss, wrt = CASES[title](Setting(seed, sizes))
        found = check(loss, wrt, {})
        assert not re.search(MACHINERY, str(found))
        formulas.add((found.formula, found.latex_formula, *(step.formula for step in found.backward)))
    assert len(formulas) == 1


@pytest.mark.parametrize("title", CASES)
def test_every_line_is_set_by_a_typesetter(title: str) -> None:
    """By matplotlib's, which knows what LaTeX's mathematics knows and refuses what is no LaTeX."""
    mathtext = pytest.importorskip("matplotlib.mathtext", reason="needs matplotlib: pip install matplotlib")
    parser = mathtext.MathTextParser("path")
    lines = draw.derive(*CASES[title](Setting(0, SIZES[0]))).latex.splitlines()
    assert (lines[0], lines[-1]) == (r"\begin{align*}", r"\end{align*}")
    for line in lines[1:-1]:
        formula = line.removesuffix(r" \\").replace("&", "")
        parser.parse(f"${formula.replace(chr(92) + 'text{', chr(92) + 'mathrm{')}$")


# Constants

FACTORS = st.sampled_from([0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01, 1 / 3, 1 / 6, 1 / 64, 2.0, 3.0, 4.0, 0.125])


@given(rows=st.integers(2, 8), columns=st.integers(1, 8), kind=st.sampled_from(["mean", "rows", "classes", "none"]), c=FACTORS)
def test_numbers_stay_numbers_and_counts_letters(rows: int, columns: int, kind: str, c: float) -> None:
    """m is there if and only if the program takes a mean, and is what that is over; c and 2 c stand as numbers, whatever sizes
    their reciprocals meet."""
    rng = np.random.default_rng(rows)
    x, w, y = (
        Tensor(rng.normal(size=s), n == "w", name=n) for n, s in (("x", (rows, 3)), ("w", (3, columns)), ("y", (rows, columns)))
    )
    z = x @ w
    losses: dict[str, Any] = {
        "mean": lambda: (((z - y) ** 2).mean(), rows * columns),
        "rows": lambda: (((z - y) ** 2).sum(axis=1).mean(), rows),
        "classes": lambda: (F.cross_entropy(z, rng.integers(0, columns, rows)), rows),
        "none": lambda: (((z - y) ** 2).sum(), None),
    }
    loss, count = losses[kind]()
    loss = loss + c * (w**2).sum()
    found = check(loss, w, {})
    assert {name: value for name, value in found.constants.items() if isinstance(value, int)} == (
        {} if count is None else {"m": count}
    )
    front = {1.0: ""}
    for formula, factor, squared in ((found.forward[-1].formula, c, "sum(w^2)"), (found.formula, 2 * c, "w")):
        number = front.get(factor, f"{factor:.12g} ")
        assert re.search(rf"(^|[(+-] ?){re.escape(number + squared)}($|[ )])", formula), formula
    if count is not None:
        assert "/ m" in found.formula


def test_a_count_is_told_by_what_it_counts() -> None:
    """Two means over as many elements have two letters if they are over different axes, and one if they are over the same."""
    x = Tensor(np.random.default_rng(0).normal(size=(4, 4)), True, name="x")
    found = draw.derive((x.mean(axis=0).exp().sum() + x.mean(axis=1).sin().sum()), x)
    assert [value for value in found.constants.values()] == [4, 4]
    found = draw.derive((x**2).mean(axis=0).exp().sum() + x.mean(axis=0).sin().sum(), x)
    assert found.constants == {"m": 4}


def test_the_weight_decay_of_a_network_is_no_count() -> None:
    """0.01 with 100 units, 0.02 with 50, at a batch of 64: all three meet a size."""
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(64, 7)), name="X")
    W = [Tensor(rng.normal(size=s), True, name=f"W{i}") for i, s in enumerate(((7, 9), (9, 100), (100, 50), (50, 10)), 1)]
    z = (((x @ W[0]).sigmoid() @ W[1]).sigmoid() @ W[2]).sigmoid() @ W[3]
    loss = F.cross_entropy(z, np.arange(64) % 10) + 0.01 * sum((w**2).sum() for w in W)
    found = draw.derive(loss, W[2])
    assert found.constants["m"] == 64
    assert "m2" not in found.constants
    assert found.formula == "0.02 W3 + h2^T ((softmax(z4) - Y) W4^T * h3 * (1 - h3)) / m"


def test_the_legend_stands_before_what_it_explains() -> None:
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(4, 3, rng=rng), nn.Tanh(), nn.Linear(3, 2, rng=rng))
    found = draw.derive(F.cross_entropy(model(Tensor(rng.normal(size=(5, 4)), name="x")), np.arange(5) % 2), model[0].weight)
    assert found.names == {"W1": "0.weight", "b1": "0.bias", "W2": "2.weight", "b2": "2.bias"}
    for lines in (str(found).splitlines(), found.latex.replace("_{", "").replace("}", "").splitlines()):
        for letter in ("m", "W1", "b1", "W2", "b2"):
            uses = [i for i, line in enumerate(lines) if re.search(rf"(?<![\w.]){letter}(?![\w.])", line)]
            assert re.match(rf" *{letter} &?=", lines[uses[0]]), letter
    assert [step.name for step in found.forward] == ["Y", "h1", "z2", "L"]


def test_names_have_no_gaps() -> None:
    """Of a recurrent net, in which every step has two products."""
    rng = np.random.default_rng(0)
    U, V, b = (Tensor(rng.normal(size=s), True, name=n) for n, s in (("U", (2, 3)), ("V", (3, 3)), ("b", (3,))))
    h = Tensor(np.zeros((4, 3)), name="h0")
    for t in range(3):
        h = (Tensor(rng.normal(size=(4, 2)), name=f"x{t}") @ U + h @ V + b).tanh()
    found = draw.derive((h**2).mean(), V)
    assert [step.name for step in found.forward] == ["h1", "h2", "h3", "L"]


# LaTeX

SQUARE = np.random.default_rng(0).normal(size=(3, 3))
APART: dict[str, tuple[Any, ...]] = {
    "sum": (lambda x: x.sum(axis=0).exp(), lambda x: x.sum(axis=1).exp()),
    "mean": (lambda x: x.mean(axis=0).exp(), lambda x: x.mean(axis=1).exp()),
    "max": (lambda x: x.max(axis=0), lambda x: x.max(axis=1)),
    "softmax": (lambda x: x.softmax(axis=0) ** 2, lambda x: x.softmax(axis=1) ** 2),
    "getitem": (lambda x: x[0], lambda x: x[2], lambda x: x[:, 0], lambda x: x[:2]),
    "clip": (lambda x: x.clip(-1, 1), lambda x: x.clip(-1, 2), lambda x: x.clip(0, 1)),
    "power": (lambda x: x**2, lambda x: x**3, lambda x: 2**x),
    "einsum": tuple(
        lambda x, s=s: tensorgrad.einsum(s, x, x) for s in ("ij,jk->ik", "ij,kj->ik", "ij,ij->ij", "ij,ij->i", "ij,ij->j")
    ),
    "leaky": (lambda x: tensorgrad.leaky_relu(x, 0.1), lambda x: tensorgrad.leaky_relu(x, 0.2)),
    "elu": (lambda x: tensorgrad.elu(x, 1.0), lambda x: tensorgrad.elu(x, 0.5)),
    "gelu": (lambda x: tensorgrad.gelu(x), lambda x: tensorgrad.gelu(x, "tanh")),
    "cumsum": (lambda x: tensorgrad.cumsum(x, 0).exp(), lambda x: tensorgrad.cumsum(x, 1).exp()),
    "transpose": (lambda x: x @ x, lambda x: x @ x.T, lambda x: x.T @ x),
    "where": (
        lambda x: tensorgrad.where(x > 0, x, 0),
        lambda x: tensorgrad.where(x > 1, x, 0),
        lambda x: tensorgrad.where(x >= 0, x, 0),
    ),
    "numbers": (lambda x: x - 1e-5, lambda x: x - 1e-6, lambda x: 1e-5 * x),
}


@pytest.mark.parametrize("name", APART)
def test_what_differs_in_one_attribute_differs_in_latex(name: str) -> None:
    texts = []
    for fn in APART[name]:
        x = Tensor(SQUARE, True, name="x")
        found = draw.derive((fn(x).tanh()).sum(), x)
        texts.append(tuple(step.latex for step in found.forward))  # already there: backward says it again, in another way
    assert len(set(texts)) == len(texts), texts


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("theta", r"\theta"),
        ("alpha_1", r"\alpha_{1}"),
        ("W_in", r"W_{\mathrm{in}}"),
        ("x_i", "x_{i}"),
        ("beta2", r"\beta_{2}"),
        ("W1", "W_{1}"),
        ("hello", r"\mathrm{hello}"),
    ],
)
def test_names_in_latex(name: str, written: str) -> None:
    x, w = Tensor(np.ones((2, 3)), name="x"), Tensor(np.ones((3, 1)), True, name=name)
    assert rf"x \, {written} " in draw.derive((x @ w).tanh().sum(), w).latex + " "


def test_a_small_number_is_a_power_of_ten() -> None:
    u = Tensor(np.arange(4.0), True, name="u")
    found = draw.derive(((u - u.mean()) ** 2 + 1e-5).sqrt().sum(), u)
    assert "10^{-5}" in found.latex
    assert "1e" not in found.latex
