"""What type checkers are told of a Tensor's methods: `python -m tests.face` writes tensorgrad/core/face.pyi.

The methods that are functions of ops get the signatures of those, the others stand in methods.py.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorgrad import methods, ops

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tensorgrad" / "methods.py"
STUB = ROOT / "tensorgrad" / "core" / "face.pyi"

HEAD = """# Written by `python -m tests.face` from methods.py and the ops; do not edit.
# mypy: disable-error-code="override"
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.node import Node
from tensorgrad.core.operand import Operand, TopK
from tensorgrad.core.profiling import Profile
from tensorgrad.core.signature import Axis
from tensorgrad.core.tensor import Tensor

class Face:
    __slots__ = ()
"""


def written() -> list[ast.FunctionDef]:
    """The methods that stand in methods.Methods."""
    tree = ast.parse(SOURCE.read_text())
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Methods")
    return [node for node in body if isinstance(node, ast.FunctionDef)]


def of_op(name: str, function: Callable[..., Any]) -> ast.FunctionDef:
    """A function of ops as a method: its first argument is the Tensor, and so is the result."""
    (node,) = ast.parse(f"def {name}{inspect.signature(function)}: ...").body
    assert isinstance(node, ast.FunctionDef)
    arguments = node.args
    first, *others = arguments.posonlyargs + arguments.args
    if not arguments.posonlyargs[1:]:
        arguments.posonlyargs, arguments.args = [], [first, *others]
    for argument in others + arguments.kwonlyargs:
        argument.annotation = of_tensor(argument.annotation)
    first.arg, first.annotation, node.returns = "self", None, of_tensor(node.returns)
    return node


def of_tensor(annotation: ast.expr | None) -> ast.expr:
    """An annotation, which `inspect` has as a string, where T is the Tensor."""
    assert isinstance(annotation, ast.Constant), "an argument of an op has no annotation"
    text = annotation.value.replace("T | Array", "Tensor").replace("[T]", "[Tensor]")
    return ast.parse(text, mode="eval").body


def stub() -> str:
    """The text of face.pyi: every method, without its body."""
    nodes = written() + [of_op(name, getattr(ops, name)) for name in methods.OP_METHODS]
    for node in nodes:
        node.body = [ast.Expr(ast.Constant(...))]
        node.decorator_list = [d for d in node.decorator_list if ast.unparse(d) != "named"]  # it changes no signature
    lines = [line for node in nodes for line in ast.unparse(node).replace(":\n    ...", ": ...").splitlines()]
    return HEAD + "".join(f"    {line}\n" for line in lines)


if __name__ == "__main__":
    STUB.write_text(stub())
