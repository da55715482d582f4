"""Derivations: every printed formula, read back and evaluated in NumPy, is the recorded gradient."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st
from scipy import special
from tensorgrad.models import handwritten

import tensorgrad
from tensorgrad import Tensor, draw, nn, ops
from tensorgrad.errors import GraphError
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing.expressions import Expression, expressions
from tests.strategies import generators
from tests.test_models import recorded_cost


def reducing(name: str) -> Any:
    """sum, mean, max, ... as NumPy has them; max and min of two arguments are the larger and the smaller one."""
    whole, of_two = getattr(np, name), {"max": np.maximum, "min": np.minimum}.get(name)
    return lambda *args, **kwargs: of_two(*args) if of_two is not None and len(args) == 2 else whole(*args, **kwargs)


FUNCTIONS: dict[str, Any] = {
    **{name: reducing(name) for name in ("sum", "mean", "max", "min")},
    "norm": lambda x, axis=None, keepdims=False: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
    "logsumexp": special.logsumexp,
    "ones": lambda *shape: np.ones(shape),
    "softmax": lambda z, axis=-1: special.softmax(z, axis=axis),
    "one_hot": lambda t, classes: np.eye(classes)[t],
    "sigmoid": special.expit,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "Phi": special.ndtr,
    "phi": lambda x: np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
}
TOKEN = re.compile(
    r"(?P<string>(?<==)'[^']*'|'at')|(?P<words>is the first (maximum|minimum)( over [ijklpqrs]+)?)"
    r"|(?P<number>\d+\.?\d*(e[+-]?\d+)?(?![\w.]))|(?P<sign>\^T|>=|<=|==|!=|\.\.\.|[-+*/^(),\[\]><=:])"
    r"|(?P<name>[^\W\d][\w'./]*(?<!/))|(?P<space>\s+)"
)
AXES = "ijklpqrs"


def first_of(x: Any, which: str, over: str) -> Any:
    """1 at the first largest or smallest element over some axes, in the order of rows."""
    axes = [AXES.index(c) for c in over] or list(range(np.ndim(x)))
    rest = [i for i in range(np.ndim(x)) if i not in axes]
    moved = np.transpose(x, rest + axes)
    flat = moved.reshape(*moved.shape[: len(rest)], -1)
    at = (flat.argmax if which == "maximum" else flat.argmin)(-1)
    hot = np.arange(flat.shape[-1]) == at[..., None]
    return hot.reshape(moved.shape).transpose(np.argsort(rest + axes)) * 1.0


def evaluate(formula: str, values: dict[str, Any]) -> Any:
    """The printed notation as NumPy: two factors side by side are a product of matrices, or by a number if the first is one,
    [a > b] is 0 or 1, ^ a power, sum_j the sum over the second axis, which stays as 1, u[1] an element.

    Names are replaced by placeholders first, so that a name such as 0.weight or dL/dh1 is one token. The reader is written for
    the notation as the documentation states it, not for the code that writes it.
    """
    names = sorted(values, key=len, reverse=True)
    held = {f"_{i}_": values[name] for i, name in enumerate(names)}
    for i, name in enumerate(names):
        one = re.compile(rf"(=\'[^\']*\'|\'at\')|(?<![\w.'/]){re.escape(name)}(?![\w.'/]|\()")  # not inside of a string
        formula = one.sub(lambda match, i=i: match[1] or f"_{i}_", formula)
    out: list[str] = []
    depth: list[tuple[str, int]] = []
    previous = before = ""
    position = 0
    spaced = False
    while position < len(formula):
        token = TOKEN.match(formula, position)
        assert token, formula[position:]
        position = token.end()
        text = token[0]
        if token["space"]:
            spaced = True
            continue
        inside = depth[-1][0] if depth else ""
        if token["words"]:
            start = depth[-1][1]
            depth[-1] = ("first", start)
            _, _, _, which, *over = text.split(" ")
            out[start] = "first_of("
            out.append(f", {which!r}, {over[-1] if over else ''!r})")
            previous, spaced = text, False
            continue
        operand_before = bool(previous) and (previous in (")", "]", "^T") or previous[-1].isalnum() or previous[-1] in "_'.")
        starts_operand = token["name"] or token["number"] or text == "(" or text == "["
        if operand_before and starts_operand and spaced and not (previous == "=" or inside == "literal"):
            out.append("*" if re.fullmatch(r"\d+\.?\d*(e[+-]?\d+)?", previous) else "@")
        if text == "^T":
            out.append(".swapaxes(-1, -2)")
        elif text == "^":
            out.append("**")
        elif text == "[" and (previous == "=" or before == "np.array" or inside == "literal"):
            depth.append(("literal", len(out)))
            out.append("[")
        elif text == "[" and operand_before and not spaced:
            depth.append(("index", len(out)))
            out.append("[")
        elif text == "[":
            depth.append(("relation", len(out)))
            out.append("((")
        elif text == "]":
            kind, _ = depth.pop()
            out.append({"literal": "]", "index": "]", "first": ""}.get(kind, ") * 1.0)"))
        elif token["name"] and formula[position : position + 1] == "(" and (kept := re.fullmatch(rf"(\w+)_([{AXES}]+)", text)):
            axes = tuple(AXES.index(c) for c in kept[2])
            out.append(f"(lambda x: {kept[1]}(x, axis={axes}, keepdims=True))")
        else:
            out.append(text)
        before = out[-2] if text == "(" and len(out) > 1 else ""
        previous, spaced = text, False
    functions = {name: op for name, op in REGISTRY.items()} | FUNCTIONS | {"first_of": first_of}
    return eval("".join(out), {"np": np, "inf": np.inf, **functions}, held)


def values_of(loss: Tensor, derivation: draw.Derivation) -> dict[str, Any]:
    """What the letters of a derivation stand for, at the values that the loss was computed of."""
    own = {name: leaf.data for leaf, name in Graph.of(loss).leaf_names().items()}
    return own | derivation.constants | {letter: own[path] for letter, path in derivation.names.items()}


def shaped(value: Any, shape: tuple[int, ...]) -> Any:
    """What is the same everywhere is written once, and a matrix of one element stands for that."""
    return np.reshape(value, ()) if not shape and np.size(value) == 1 else np.broadcast_to(value, shape)


class UndefinedError(Exception):
    """0 / 0: the formula is not defined at this point, where the gradient is taken as something."""


def check(loss: Tensor, wrt: Tensor, leaves: dict[str, np.ndarray], tolerance: float = 1e-10) -> draw.Derivation:
    """Evaluate every step, and the formula in one piece, and compare the last with the recorded gradient."""
    derivation = draw.derive(loss, wrt)
    values = values_of(loss, derivation)
    assert leaves.keys() <= values.keys() | set(derivation.names.values())
    for step in (*derivation.forward, *derivation.backward):
        with np.errstate(divide="ignore", invalid="ignore"):
            values[step.name] = shaped(evaluate(step.formula, values), step.shape)
    (recorded,) = tensorgrad.grad(loss, wrt, retain_graph=True)
    assert values["L"] == pytest.approx(loss.item(), rel=1e-9, abs=1e-12)
    scale = tolerance * max(np.abs(recorded.data).max(initial=0.0), 1e-6)
    last = derivation.backward[-1]
    if np.isnan(values[last.name]).any() and not np.isnan(recorded.data).any():
        raise UndefinedError(last.formula)
    np.testing.assert_allclose(values[last.name], recorded.data, rtol=1e-9, atol=scale)
    whole = shaped(evaluate(derivation.formula, values), recorded.shape)
    np.testing.assert_allclose(whole, recorded.data, rtol=1e-9, atol=scale)
    for step in (*derivation.forward, *derivation.backward):
        assert step.latex_name in derivation.latex
        assert step.latex.count("{") == step.latex.count("}")
        assert step.latex.count("\\left") == step.latex.count("\\right")
    return derivation


@pytest.mark.parametrize("name", handwritten.SYSTEMS)
@given(rng=generators(), widths=st.lists(st.integers(1, 5), min_size=2, max_size=5), m=st.integers(1, 4))
def test_reference_systems(name: str, rng: np.random.Generator, widths: list[int], m: int) -> None:
    system = handwritten.SYSTEMS[name]
    x, y = rng.normal(size=(m, widths[0])), handwritten.one_hot(rng.integers(0, widths[-1], m), widths[-1])
    arrays = {}
    layers = []
    for i, (n, k) in enumerate(pairwise(widths), 1):
        w, b = Tensor(rng.normal(size=(n, k)), True, name=f"W{i}"), Tensor(rng.normal(size=k), True, name=f"b{i}")
        arrays |= {f"W{i}": w.data, f"b{i}": b.data}
        layers.append((w, b))
    cost = recorded_cost(Tensor(x, name="x"), Tensor(y, name="Y"), layers, system)  # type: ignore[arg-type]
    for layer in layers:
        for wrt in layer:
            check(cost, wrt, arrays | {"x": x, "Y": y})


@pytest.mark.parametrize("name", handwritten.SYSTEMS)
def test_reference_systems_of_their_own_depth(name: str) -> None:
    """As many layers as they were published with, narrower, by their models' own names."""
    system = handwritten.SYSTEMS[name]
    rng = np.random.default_rng(0)
    layers: list[nn.Module] = []
    for n, k in pairwise((4, *[3] * (len(system.widths) - 2), 3)):
        layers += [nn.Linear(n, k, rng=rng, dtype=np.float64), nn.ReLU() if system.hidden == "relu" else nn.Sigmoid()]
    model = nn.Sequential(*layers[:-1])
    x, labels = rng.normal(size=(5, 4)), rng.integers(0, 3, 5)
    loss = F.cross_entropy(model(Tensor(x, name="x")), Tensor(labels, name="labels"))
    arrays = {name: p.data for name, p in model.named_parameters()} | {"x": x, "labels": labels}
    for _, p in model.named_parameters():
        derivation = check(loss, p, arrays)
        assert derivation.backward[0].formula == f"(softmax({derivation.forward[-2].name}) - Y) / m"


def test_what_is_derived_on_paper() -> None:
    rng = np.random.default_rng(0)
    x, Y = Tensor(rng.normal(size=(32, 8)), name="x"), Tensor(np.eye(3)[rng.integers(0, 3, 32)], name="Y")
    W1, b1 = Tensor(rng.normal(size=(8, 20)), True, name="W1"), Tensor(np.zeros(20), True, name="b1")
    W2, b2 = Tensor(rng.normal(size=(20, 3)), True, name="W2"), Tensor(np.zeros(3), True, name="b2")
    loss = -(Y * ((x @ W1 + b1).relu() @ W2 + b2).softmax().log()).sum(axis=1).mean()
    derivation = draw.derive(loss, wrt=W1)
    assert str(derivation).splitlines() == [
        "forward",
        "    m = 32",
        "    h1 = max(x W1 + b1, 0)                32×20",
        "    z2 = h1 W2 + b2                       32×3",
        "    L = -sum(Y * log(softmax(z2))) / m    scalar",
        "backward",
        "    dL/dz2 = (softmax(z2) - Y) / m        32×3",
        "    dL/dh1 = dL/dz2 W2^T                  32×20",
        "    dL/dW1 = x^T (dL/dh1 * [h1 > 0])      8×20",
        "dL/dW1 = x^T ((softmax(z2) - Y) W2^T * [h1 > 0]) / m",
    ]
    assert derivation.latex.splitlines()[-2] == (
        r"\frac{\partial L}{\partial W_{1}} &= \frac{1}{m} \, x^{\top} \, "
        r"\left(\left(\operatorname{softmax}\left(z_{2}\right) - Y\right) \, W_{2}^{\top} \odot \left[h_{1} > 0\right]\right)"
    )
    assert derivation._repr_latex_() == derivation.latex


@given(expression=expressions(max_ops=4))
@example(expression=Expression.of("e = np.array(-0.01); y0 = ops['norm'](e, axis=None, keepdims=False)"))
def test_random_graphs(expression: Expression) -> None:
    inputs = [Tensor(a, True, name=name) for name, a in expression.leaves.items()]
    y = expression(*inputs)
    assume(y.requires_grad and y.size)
    loss = (y * y).sum() + y.mean()
    for t in inputs:
        (recorded,) = tensorgrad.grad(loss, t, retain_graph=True, allow_unused=True)
        if recorded is not None and np.abs(recorded.data).max(initial=0.0) < 1e6:
            try:
                check(loss, t, dict(expression.leaves), 1e-8)
            except UndefinedError:
                reject()


BESIDE: dict[str, Any] = {
    "dropout": (lambda x: F.dropout(x * 2, 0.5), "v1 = keep_mask(2 x, p=0.5, rng=None)"),
    "a comparison": (lambda x: ops.where(x > 0, x, 0), "dL/dx = [x > 0]"),
    "an order": (lambda x: ops.sort(x * 2), "argsort(2 x, axis=1)"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_computed_on_the_way_and_has_no_gradient(name: str) -> None:
    fn, line = BESIDE[name]
    x = Tensor(np.ones((2, 3)), requires_grad=True, name="x")
    text = str(draw.derive(fn(x).sum(), x))
    assert line in text
    assert "dL/dx = " in text


def test_what_was_done_to_data_stands_in_the_formula() -> None:
    x, y = Tensor(np.arange(15.0).reshape(5, 3), name="x"), Tensor(np.ones((5, 2)), name="y")
    W = Tensor(np.ones((3, 2)), True, name="W")
    derivation = draw.derive(F.mse_loss((2 * x + 1) @ W, y), W)
    assert derivation.formula == "2 (2 x + 1)^T ((2 x + 1) W - y) / m"
    assert r"\frac{2}{m} \, \left(2 x + 1\right)^{\top}" in derivation.latex
    found = draw.derive((x[1:3] @ W).sum() + ((1 - x) @ W).sum(), W).formula
    assert "x[1:3]^T" in found
    assert "(1 - x)^T" in found


def test_an_intermediate_value_and_a_shared_layer() -> None:
    rng = np.random.default_rng(1)
    W = Tensor(rng.normal(size=(3, 3)), True, name="W")
    x = Tensor(rng.normal(size=(2, 3)), True, name="x")
    h = (x @ W).tanh()
    loss = ((h @ W).tanh() + h).sum()
    arrays = {"W": W.data, "x": x.data}
    check(loss, W, arrays)
    check(loss, x, arrays)
    derivation = draw.derive(loss, h)
    assert derivation.backward[-1].name.startswith("dL/dh1")


def test_an_activation_and_a_layer_of_the_users() -> None:
    """Known by what their classes say, not by their names."""

    class Cube(Op):
        """y = x³

        forward    y  = x³
        backward   gx = 3 g x²
        """

        name, signature, reads, activation = "cube", "()->()", "x", True

        def forward(self, xp: Any, x: Any) -> Any:
            return x * x * x

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: 3 * g * x * x,)

    class Weigh(Op):
        """y = x W

        forward    y  = x W
        backward   gx = g Wᵀ,   gw = xᵀ g
        """

        name, signature, reads, layer = "weigh", "(m,k),(k,n)->(m,n)", "x w", True

        def forward(self, xp: Any, x: Any, w: Any) -> Any:
            return x @ w

        def backward(self, g: Any, y: Any, x: Any, w: Any) -> Any:
            return lambda: g @ w.T, lambda: x.T @ g

    cube, weigh = Cube(), Weigh()
    try:
        v, w = Tensor(np.ones((3, 3)), True, name="V"), Tensor(np.ones((3, 3)), True, name="W")
        derivation = draw.derive(cube(weigh(cube(weigh(Tensor(np.ones((2, 3)), name="x"), v)), w)).sum(), v)
        assert [step.name for step in derivation.forward] == ["z1", "h1", "z2", "h2", "L"]
        assert derivation.forward[3].formula == "cube(z2)"
    finally:
        del REGISTRY["cube"], REGISTRY["weigh"]


def test_a_long_chain_is_not_written_out_again_and_again() -> None:
    x = Tensor(np.linspace(0.1, 0.4, 4), True, name="x")
    y = x
    for _ in range(60):
        y = y * y.sigmoid() + y
    derivation = draw.derive(y.sum(), x)
    assert max(len(step.formula) for step in derivation.backward) < 500
    assert len(derivation.formula) <= 500


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: (x * 2, x), "derive: the loss has shape (2,), expected a 0-d Tensor"),
        (lambda x: (x.sum(), Tensor([1.0], True)), "derive: the loss was not computed from the second argument (shape (1,))"),
        (lambda x: (x.sum(), Tensor([1.0])), "derive: the second argument does not require a gradient"),
        (lambda x: (Tensor(1.0, True), x), "derive: the loss is a leaf, it was not computed"),
        (lambda x: ((y := x.sum()), y), "derive: loss and wrt are the same Tensor"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(GraphError, match=re.escape(message)):
        draw.derive(*make(Tensor([1.0, 2.0], True)))


def test_numbers_in_latex() -> None:
    """Powers of ten are written as such, and what is infinite by its sign."""
    x = Tensor(np.ones(3), True, name="x")
    for factor, written in ((0.5, "0.5"), (3e-7, r"3 \cdot 10^{-7}"), (1e20, "10^{20}")):
        assert f" {written} " in f"{draw.derive((x * factor).tanh().sum(), x).latex} "
    assert r"\infty" in draw.derive(ops.clip(x, low=0.0, high=np.inf).tanh().sum(), x).latex


@pytest.mark.parametrize(("low", "high", "ends"), [(None, 0.5, "-inf, 0.5"), (-1.0, None, "-1, inf"), (-1.0, 0.5, "-1, 0.5")])
def test_clip_without_an_end(low: float | None, high: float | None, ends: str) -> None:
    x = Tensor(np.array([1.0, -2.0]), requires_grad=True, name="x")
    found = draw.derive((ops.clip(x, low=low, high=high) ** 2).sum(), x)
    assert f"clip(x, {ends})" in str(found)
    assert ("infty" in found.latex) == ("inf" in ends)
