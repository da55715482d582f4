"""Renders DOT text with the installed Graphviz."""

from __future__ import annotations

import shutil

from tensorgrad.errors import MissingDependencyError

MISSING = (
    "drawing a graph needs Graphviz: pip install pygraphviz (it brings the engine), "
    "or install the program dot (https://graphviz.org/download)"
)


def render(dot: str, suffix: str) -> bytes:
    """Render `dot` as the content of a .svg, .png or .pdf file.

    Uses the program `dot` if it is on the PATH, else pygraphviz, whose wheel includes the engine. Raises
    MissingDependencyError, saying what to install, if there is neither.
    """
    if shutil.which("dot"):
        import graphviz

        return bytes(graphviz.Source(dot).pipe(format=suffix))
    try:
        import pygraphviz
    except ImportError:
        raise MissingDependencyError(MISSING) from None
    return bytes(pygraphviz.AGraph(string=dot).draw(format=suffix, prog="dot"))
