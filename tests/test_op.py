"""Writing an op outside the package: the text of op.py, followed to the letter."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, jvp, op
from tensorgrad.core.signature import Signature
from tensorgrad.errors import GraphError, TensorgradError
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import gradcheck

pytestmark = pytest.mark.quick


def test_the_worked_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class in op.py's own text, under another name: values, gradients to second order, formula."""
    text = inspect.getdoc(op) or ""
    code = textwrap.dedent(re.search(r"::\n\n(    class .*?)\n\n\S", text, re.DOTALL)[1]).replace('"square"', '"my_square"')
    names: dict[str, Any] = {"Op": Op}
    monkeypatch.setitem(REGISTRY, "my_square", None)
    monkeypatch.delitem(REGISTRY, "my_square")
    exec(code.replace('\\"', '"'), names)
    square = names["square"]
    x = np.array([1.0, -2.0])
    np.testing.assert_array_equal(square(x), [1, 4])
    gradcheck(square, x, order=2)
    np.testing.assert_array_equal(jvp(square, x, np.array([3.0, 5.0]))[1].data, 2 * x * [3, 5])
    assert square.formula("backward") == "gx = 2 g x"
    assert square.formula("tangent") == "ty = 2 x tx"
    del REGISTRY["my_square"]


def test_a_wrong_rule_is_found() -> None:
    class Wrong(Op):
        """y = x^3, with a rule that is off by one thousandth"""

        name, signature, reads = "wrong_cube", "()->()", "x"

        def forward(self, xp: Any, x: Any) -> Any:
            return x**3

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: 3.003 * g * x**2,)

    try:
        with pytest.raises(AssertionError):
            gradcheck(Wrong(), np.array([1.0, -2.0]), order=2)
    finally:
        del REGISTRY["wrong_cube"]


def test_a_rule_with_too_few_gradients() -> None:
    class Short(Op):
        """y = a b, with a rule for a alone"""

        name, signature, reads = "short", "(),()->()", "b"

        def forward(self, xp: Any, a: Any, b: Any) -> Any:
            return a * b

        def backward(self, g: Any, y: Any, a: Any, b: Any) -> Any:
            return (lambda: g * b,)

    try:
        x = Tensor([1.0], True)
        with pytest.raises(ValueError, match="shorter"):
            tensorgrad.grad(Short()(x, x * 1).sum(), x)
    finally:
        del REGISTRY["short"]


def test_registration_mistakes() -> None:
    def make(**fields: Any) -> type[Op]:
        def backward(self: Any, g: Any, y: Any, x: Any) -> Any:
            return (lambda: g,)

        return type("Made", (Op,), {"name": "made", "signature": "()->()", "backward": backward, **fields})

    with pytest.raises(TensorgradError, match="op 'exp' is registered twice, by Exp and Made"):
        make(name="exp")()
    with pytest.raises(TensorgradError, match=r"made: reads or data names \['z'\], which backward does not take"):
        make(reads="z")()
    with pytest.raises(TensorgradError, match="signature 'x -> y' does not have the form"):
        make(signature="x -> y")()
    assert "made" not in REGISTRY
    first, second = make()(), make()()  # a class defined again, as in a notebook
    assert REGISTRY.pop("made") is second
    assert first is not second


@pytest.mark.parametrize(
    ("signature", "shapes", "problem"),
    [
        ("(m,k),(k,n)->(m,n)", [(2, 3), (3, 4)], ""),
        ("(m,k),(k,n)->(m,n)", [(5, 1, 2, 3), (6, 3, 4)], ""),
        ("(m,k),(k,n)->(m,n)", [(5, 2, 3), (6, 3, 4)], "shapes (5, 2, 3) and (6, 3, 4) do not broadcast"),
        ("(m,k),(k,n)->(m,n)", [(3,), (3, 4)], "argument 0 has shape (3,), expected at least 2 axes (m,k)"),
        ("(...,k),(...)->()", [(2, 5, 3), (2, 5)], ""),
        ("(...,k),(...)->()", [(2, 3), (3,)], "leading axes are (2,) in argument 0 (2, 3) but (3,) in argument 1 (3,)"),
        ("(...,k),(...,k?)->()", [(2, 3), (2,)], ""),
        ("(...,k),(...,k?)->()", [(2, 3), (2, 3)], ""),
        ("(),(*)->()", [(2, 3), (7,)], ""),
        ("(...,k),(...,k?)->()", [(2, 3), (2, 4)], "axis k is 3 in argument 0 (2, 3) but 4 in argument 1 (2, 4)"),
    ],
)
def test_signature(signature: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    assert Signature.parse(signature).mismatch(shapes) == problem


USES: dict[str, Any] = {
    "arithmetic": lambda g, y, x: 2 * g * x,
    "the result": lambda g, y, x: g * y,
    "from the left": lambda g, y, x: x * g,
    "a comparison": lambda g, y, x: (x == 0) * g,
    "an op": lambda g, y, x: tensorgrad.exp(x) * g,
    "a function of NumPy": lambda g, y, x: np.exp(x) * g,
    "as an array": lambda g, y, x: np.asarray(x) * g,
    "a method": lambda g, y, x: x.sum() * g,
    "an index": lambda g, y, x: x[0] * g,
    "its values": lambda g, y, x: x.data * g,
    "as a number": lambda g, y, x: float(x) * g,
    "itself": lambda g, y, x: x,
    "a condition": lambda g, y, x: tensorgrad.where(x, g, 0),
}


@pytest.mark.parametrize("how", ["leaf", "computed", "create_graph", "compiled"])
@pytest.mark.parametrize("use", USES)
def test_a_rule_that_uses_what_it_did_not_declare(use: str, how: str) -> None:
    """An error at the first use, whatever it is, that says what to write."""

    class Undeclared(Op):
        """y = x^2"""

        name, signature = "undeclared", "()->()"

        def forward(self, xp: Any, x: Any) -> Any:
            return xp.square(x)

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: USES[use](g, y, x),)

    try:
        square, w = Undeclared(), Tensor(np.ones(3), True)

        def gradient() -> Any:
            return tensorgrad.grad(square(w * 1 if how == "computed" else w).sum(), w, create_graph=how == "create_graph")

        name = "y" if use == "the result" else "x"
        message = rf'^undeclared: backward uses the value of {name}, .*write reads = "{name}" in Undeclared'
        with pytest.raises(GraphError, match=message):
            (tensorgrad.compile(gradient) if how == "compiled" else gradient)()
    finally:
        del REGISTRY["undeclared"]


def test_shapes_and_dtypes_need_no_declaration() -> None:
    class Total(Op):
        """y = sum of the xs, which broadcast"""

        name, signature, reads = "total", "()->()", "y"

        def forward(self, xp: Any, *xs: Any) -> Any:
            return sum(xs)

        def backward(self, g: Any, y: Any, *xs: Any) -> Any:
            assert [(x.shape, x.ndim, x.size, x.dtype) for x in xs] == [((3,), 1, 3, np.float64), ((), 0, 1, np.float64)]
            return lambda: g + 0 * y, lambda: g * xs[1]

    try:
        total, a, b = Total(), Tensor(np.ones(3), True), Tensor(np.float64(2), True)
        np.testing.assert_array_equal(tensorgrad.grad(total(a, b).sum(), a)[0], np.ones(3))
        with pytest.raises(GraphError, match=r'total: backward uses the value of xs, .*write reads = "y xs" in Total'):
            total(a, b).sum().backward()
    finally:
        del REGISTRY["total"]
