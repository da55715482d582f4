"""An assertion that a model's graph has not changed."""

from __future__ import annotations

import difflib
from pathlib import Path

from tensorgrad.core.arguments import truth
from tensorgrad.core.files import replacing
from tensorgrad.core.graph import Graph
from tensorgrad.core.state import describe
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import DataError, DTypeError


def assert_same_graph(what: Tensor | Graph, expected: Tensor | Graph | str | Path, *, fused: bool = False) -> None:
    """Raise AssertionError, showing the differing lines, unless two graphs are the same program.

    what      a computed Tensor, or a Graph
    expected  the same, or the path of a text file with a graph's listing; if the file does not exist, it is created
    fused     compare the fused graphs

    Ops, attributes, shapes, dtypes and names are compared; values are not. Delete the file to recreate it.
    """
    fused = truth("assert_same_graph", "fused", fused)
    for name, argument, kinds in (("what", what, (Tensor, Graph)), ("expected", expected, (Tensor, Graph, str, Path))):
        if not isinstance(argument, kinds):
            or_path = ", or the path of a listing" if name == "expected" else ""
            raise DTypeError(
                f"assert_same_graph: {name} must be a computed Tensor or a Graph{or_path}, got {describe(argument)}"
            )
    text = listing(what, fused)
    if isinstance(expected, (str, Path)):
        path = Path(expected)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(f"{text}\n".encode())
            return
        try:
            expected_text, source = path.read_text("utf-8").rstrip("\n"), str(path)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not the listing of a graph: {error}") from None
    else:
        expected_text, source = listing(expected, fused), "expected"
    if text != expected_text:
        diff = difflib.unified_diff(expected_text.splitlines(), text.splitlines(), source, "recorded", lineterm="")
        raise AssertionError("\n".join(["assert_same_graph: the graph has changed", *diff]))


def listing(what: Tensor | Graph, fused: bool) -> str:
    graph = what if isinstance(what, Graph) else Graph.of(what)
    return str(graph.fused() if fused else graph)
