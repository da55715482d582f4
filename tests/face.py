"""What type checkers are told of a Tensor's methods: `python -m tests.face` writes tensorgrad/core/face.pyi from methods.py."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tensorgrad" / "methods.py"
STUB = ROOT / "tensorgrad" / "core" / "face.pyi"

HEAD = """# Written by `python -m tests.face` from methods.py; do not edit.
# mypy: disable-error-code="override"
from collections.abc import Callable
from typing import Any

from tensorgrad.core.tensor import Tensor

Axis = int | tuple[int, ...] | None

class Face:
    __slots__ = ()
"""


def stub() -> str:
    """The text of face.pyi: every method of methods.Methods without its body."""
    tree = ast.parse(SOURCE.read_text())
    (methods,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Methods")
    lines = []
    for node in methods.body:
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Expr(ast.Constant(...))]
            lines.append(ast.unparse(node).replace(":\n    ...", ": ..."))
    return HEAD + "".join(f"    {line}\n" for text in lines for line in text.splitlines())


if __name__ == "__main__":
    STUB.write_text(stub())
