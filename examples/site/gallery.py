"""The gallery's pages: for each program its description, its graph, its losses and its code.

    python examples/site/gallery.py folder examples/gallery/cnn.py ...

draws some: each program trains for a few steps as it is written, and the first loss that is differentiated is what is drawn.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

FOLDER = Path(__file__).resolve().parent.parent / "gallery"
STEPS = 30


def scripts() -> list[Path]:
    return sorted(path for path in FOLDER.glob("*.py") if path.stem not in ("pages", "notebook"))


def load(name: str) -> Any:
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def draw(name: str, folder: Path) -> None:
    """Save <name>-graph.svg, the program of the first loss, and <name>-losses.png."""
    import tensorgrad
    from tensorgrad import Tensor
    from tensorgrad import draw as drawing
    from tensorgrad.graph import Graph

    backward, grad = Tensor.backward, tensorgrad.grad
    drawn: list[Tensor] = []

    def graph_of(loss: Any) -> None:
        if not drawn and isinstance(loss, Tensor) and len(Graph.of(loss)) > 2:
            drawn.append(loss)
            drawing.graph(loss, fused=True).save(folder / f"{name}-graph.svg")

    def watched_backward(self: Tensor, *args: Any, **options: Any) -> None:
        graph_of(self)
        backward(self, *args, **options)

    def watched_grad(y: Any, *args: Any, **options: Any) -> Any:
        graph_of(y)
        return grad(y, *args, **options)

    module = load(name)
    with mock.patch.object(Tensor, "backward", watched_backward), mock.patch.object(tensorgrad, "grad", watched_grad):
        columns = module.losses(STEPS, False)
    figure = drawing.curves({key: [float(v) for v in column] for key, column in columns.items()})
    for axes in figure.axes:
        axes.set_xlabel("step")
    figure.savefig(folder / f"{name}-losses.png", dpi=80)


EMPTY_WALL = "\n## Their graphs\n\n```{container} thumbnails\n\n```\n"


def as_text(indented: re.Match[str]) -> str:
    return f"\n```text\n{textwrap.dedent(indented[0]).strip()}\n```\n"


def cells(text: str) -> str:
    """The cells of a notebook that is written as a program: text as it is, its headings one level down; code in blocks."""
    shown = []
    for kind, cell in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", text, re.MULTILINE):
        if "[markdown]" in kind:
            shown.append(re.sub(r"^#", "##", re.sub(r"^# ?", "", cell.strip(), flags=re.MULTILINE), flags=re.MULTILINE))
        else:
            shown.append(f"```python\n{cell.strip()}\n```")
    return "\n\n".join(shown) + "\n"


def pages() -> dict[str, str]:
    """The text of each page, by its file."""
    table = (FOLDER / "README.md").read_text()
    table = re.sub(r"\[`(\w+)\.py`\]\(\1\.py\)", r"[`\1.py`](\1.md)", table)
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "pages")
    toctree = "\n".join(["", "```{toctree}", ":hidden:", "", *names, "```", ""])
    thumbnails = [
        f"[![{path.stem}]({path.stem}-graph.svg)]({path.stem}.md) [{path.stem}]({path.stem}.md)\n" for path in scripts()
    ]
    wall = EMPTY_WALL.removesuffix("```\n") + "\n".join([*thumbnails, "```", ""])
    found = {"index.md": table + wall + toctree}
    for name in names:
        path = FOLDER / f"{name}.py"
        if path.read_text().startswith("# %%"):
            found[f"{name}.md"] = f"# {name}.py\n\n{cells(path.read_text())}"
            continue
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        head, _, rest = inspect.cleandoc(doc).partition("\n")
        code = path.read_text().partition('"""')[2].partition('"""')[2].strip()
        pictures = [
            f"```{{image}} {name}-graph.svg\n:alt: The graph of one loss of {name}.py, after fusion\n"
            f":target: ../_images/{name}-graph.svg\n```",
            f"![Its losses in the first {STEPS} steps]({name}-losses.png)",
        ]
        shown = pictures if path in scripts() else []
        text = re.sub(r"((?:^    .*\n|^\n(?=    ))+)", as_text, rest.strip("\n") + "\n", flags=re.MULTILINE)
        parts = [f"# {name}.py", head, text, *shown, f"```python\n{code}\n```"]
        found[f"{name}.md"] = "\n\n".join(part for part in parts if part.strip()) + "\n"
    return found


def leave_out_missing(folder: Path) -> None:
    """Take pictures out of the pages that were not made: some programs have no graph, and a build may leave the gallery out."""
    for page in folder.glob("*.md"):
        text = page.read_text()
        kept = re.sub(
            r"\[?!\[[^\]]*\]\(([\w.-]+)\)(?:\]\([\w.]+\) \[\w+\]\([\w.]+\))?\n\n|```\{image\} ([\w.-]+)\n(?::.*\n)*```\n\n",
            lambda m: m[0] if (folder / (m[1] or m[2])).exists() else "",
            text,
        )
        kept = kept.replace(EMPTY_WALL, "")
        if kept != text:
            page.write_text(kept)


if __name__ == "__main__":
    for script in sys.argv[2:]:
        draw(Path(script).stem, Path(sys.argv[1]))
