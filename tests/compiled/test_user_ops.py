"""O: an op of the user's is an op of the user's, whatever it is called: no name in the compiler or the kernels means it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, optim
from tensorgrad.errors import CompileError
from tensorgrad.op import REGISTRY, Op
from tests.compiled import assert_close, lowered, num_threads, training

PACKAGE = Path(tg.__file__).parent
FILES = sorted(p for folder in ("compiler", "kernels") for p in (PACKAGE / folder).rglob("*.py"))


def texts(path: Path) -> Iterator[str]:
    """The names that stand as texts in a file, or in lists of names, or that a text and a name may make: "lower_" and "sum"."""
    tree = ast.parse(path.read_text())
    spoken = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    spoken |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
            words = node.value.split()
            yield from words if all(word.isidentifier() for word in words) else ()
        elif isinstance(node, ast.FunctionDef):
            yield from (node.name[i + 1 :] for i, c in enumerate(node.name) if c == "_")


@cache
def names() -> dict[Path, list[str]]:
    """Those that an op of the user's can have, no op having them yet, by the first file that they stand in."""
    found: dict[Path, list[str]] = {}
    known = set(REGISTRY)
    for path in FILES:
        found[path] = sorted({t for t in texts(path) if t.isidentifier()} - known)
        known.update(found[path])
    return found


def make(title: str, kind: str) -> Op:
    """A square, or a cube, or what else nobody else has under this name."""

    class Elementwise(Op):
        """y = k x²

        forward    y  = k x²
        backward   gx = 2 k g x
        """

        name, signature, reads = title, "()->()", "x"

        def __call__(self, x: Any, k: float = 1.0) -> Any:
            return self.apply(x, k=k)

        def forward(self, xp: Any, x: Any, *, k: float) -> Any:
            return x * x * k

        def backward(self, g: Any, y: Any, x: Any, *, k: float) -> Any:
            return (lambda: g * x * (2 * k),)

    class OfRows(Op):
        """Each row turned round, times k.

        forward    y  = k x[..., ::-1]
        backward   gx = k g[..., ::-1]
        """

        name, signature = title, "(n)->(n)"

        def __call__(self, x: Any, k: float = 1.0) -> Any:
            return self.apply(x, k=k)

        def forward(self, xp: Any, x: Any, *, k: float) -> Any:
            return x[..., ::-1] * k

        def backward(self, g: Any, y: Any, x: Any, *, k: float) -> Any:
            return (lambda: self(g, k),)

    class OfTwo(Op):
        """y = a b² k

        forward    y  = a b² k
        backward   ga = g b² k,   gb = 2 g a b k
        """

        name, signature, reads = title, "(),()->()", "a b"

        def __call__(self, a: Any, b: Any = 2.0, k: float = 1.0) -> Any:
            return self.apply(a, b, k=k)

        def forward(self, xp: Any, a: Any, b: Any, *, k: float) -> Any:
            return a * b * b * k

        def backward(self, g: Any, y: Any, a: Any, b: Any, *, k: float) -> Any:
            return lambda: g * b * b * k, lambda: g * a * b * (2 * k)

    return {"elementwise": Elementwise, "of rows": OfRows, "of two": OfTwo}[kind]()


KINDS = ("elementwise", "of rows", "of two")
X = np.arange(12.0).reshape(4, 3) / 5


def check(title: str, kind: str) -> None:
    """Gradient descent by the formula."""
    if title in REGISTRY:  # by another test
        return
    op = make(title, kind)
    try:
        w = Tensor(np.full((4, 3), 0.5), requires_grad=True)
        step = tg.compile(training(lambda x: (op(x * w, k=3.0) * x).sum(), optim.SGD([w], lr=0.01)))
        expected = np.full((4, 3), 0.5)
        for i in range(4):
            x = X * (1 + i / 10)
            y, slope = {
                "elementwise": (3 * (x * expected) ** 2, 6 * x**3 * expected),
                "of rows": (3 * (x * expected)[:, ::-1], 3 * x[:, ::-1] * x),
                "of two": (12 * x * expected, 12 * x * x),
            }[kind]
            loss = step(x)
            assert_close(loss, np.asarray((y * x).sum()), 1e-9)
            expected -= 0.01 * slope
            assert_close(w, expected, 1e-9)
    finally:
        REGISTRY.pop(title, None)


class Sorted(Op):
    """What is above 0, or all, in another dtype, by what comes first.

    forward    y  = x, or less of it
    backward   gx = g
    """

    name, signature = "sorted_out", "(n)->(k)"

    def forward(self, xp: Any, x: Any) -> Any:
        return {1: x, 2: x[:, :2], 3: x[0], 4: x.astype(np.float64), 5: x.sum(), 6: x.tolist()}[int(x[0, 0])]

    def backward(self, g: Any, y: Any, x: Any) -> Any:
        return (lambda: g,)


@pytest.mark.parametrize(
    ("first", "made"),
    [
        (2, "(3, 2) of float32"),
        (3, "(4,) of float32"),
        (4, "(3, 4) of float64"),
        (5, "() of float32"),
        (6, "(3, 4) of float64"),
    ],
)
@pytest.mark.parametrize("is_held", [False, True])
def test_another_shape_or_dtype_than_when_the_plan_was_made(first: int, made: str, is_held: bool) -> None:
    """Kernels would read memory that is none of the array's."""
    op = Sorted()
    try:
        w = np.ones((4, 2), "f")
        total = Tensor(np.zeros((3, 4), "f"))

        @tg.compile
        def step(x: Any) -> Any:
            if is_held:
                total[...] = op(x)
                return total * 2
            return (op(x) @ w).tanh()

        x = np.arange(12, dtype="f").reshape(3, 4) / 12
        x[0, 0] = 1
        for k in range(3):
            expected = (x * 2 if is_held else np.tanh(x @ w)) if k else step(x).numpy()
            assert_close(step(x), expected, 1e-6)
        assert step.plan is not None
        x[0, 0] = first
        text = f"compile: sorted_out has made an array {made}, and one (3, 4) of float32 when the step was compiled"
        with pytest.raises(CompileError, match=re.escape(text)):
            step(x)
    finally:
        REGISTRY.pop("sorted_out", None)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_ops_of_any_name(path: Path) -> None:
    """Elementwise, or another kind, in turns; samples in one piece, or split between threads."""
    wrong = {}
    for i, title in enumerate(names()[path]):
        split = {"ROWS_FLOPS": 0, "ROWS_BYTES": 64} if i % 4 == 3 else {}
        for kind in ("elementwise", KINDS[1 + i % 2]):
            with num_threads(2), lowered(**split):
                try:
                    check(title, kind)
                except Exception as error:
                    wrong[title, kind] = f"{type(error).__name__}: {error}".splitlines()[0]
    assert not wrong


@pytest.mark.parametrize("title", ["my_square", "cross_entropy", "amax", "full", "T", "assign", "dot", "copy", "sum_columns"])
def test_ops_of_some_names(title: str) -> None:
    for kind in KINDS:
        check(title, kind)


def test_the_names_are_found() -> None:
    found = set().union(*names().values())
    assert {"full", "chain", "reshape"} - set(REGISTRY) <= found
    assert "mul" not in found
