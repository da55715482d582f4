"""An assertion that a model's graph has not changed."""

from __future__ import annotations

import difflib
from pathlib import Path

from tensorgrad.core.graph import Graph
from tensorgrad.core.tensor import Tensor


def assert_same_graph(what: Tensor | Graph, expected: Tensor | Graph | str | Path, *, fused: bool = False) -> None:
    """Raise AssertionError, which shows the lines that differ, unless two graphs are the same program.

    what      a computed Tensor, or a Graph
    expected  the same, or the path of a text file that holds a graph's listing; where there is no such file yet, it is written
    fused     compare what fusion makes of them

    Ops, attributes, shapes, dtypes and names count; values do not. Delete the file to have it written anew.
    """
    text = listing(what, fused)
    if isinstance(expected, (str, Path)):
        path = Path(expected)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", "utf-8")
            return
        wanted, source = path.read_text("utf-8").rstrip("\n"), str(path)
    else:
        wanted, source = listing(expected, fused), "expected"
    if text != wanted:
        diff = difflib.unified_diff(wanted.splitlines(), text.splitlines(), source, "recorded", lineterm="")
        raise AssertionError("\n".join(["assert_same_graph: the graph has changed", *diff]))


def listing(what: Tensor | Graph, fused: bool) -> str:
    graph = what if isinstance(what, Graph) else Graph.of(what)
    return str(graph.fused() if fused else graph)
