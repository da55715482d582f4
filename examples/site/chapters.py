"""The code on the site's pages: the blocks of a page, run one after the other in one namespace.

A block of ```python is run; a block of ```text right after it is what it prints, "..." standing for anything. In a block of
```text varies, numbers may be others: times, rounding errors. A block that begins with `# test_<name>.py` is a file for pytest,
and is not run here.

    python examples/site/chapters.py folder examples/guide/start.md

runs a page in a folder, where the pictures that it saves remain.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n+```text(?P<varies> varies)?\n(?P<output>.*?)^```$)?", re.DOTALL | re.MULTILINE
)
PICTURE = re.compile(r'!\[[^\]]*\]\(([\w.-]+)\)|<iframe src="([\w.-]+)"')


class Block(NamedTuple):
    line: int  # of its first line of code, from 1
    code: str
    output: str | None  # what it prints, where the page shows it
    varies: bool  # its numbers are not compared

    @property
    def is_test_file(self) -> bool:
        return self.code.startswith("# test_")


def guide() -> list[Path]:
    """Every page that is written by hand."""
    return [EXAMPLES / "site" / "index.md", *sorted((EXAMPLES / "guide").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(text.count("\n", 0, m.start()) + 2, m["code"], m["output"], bool(m["varies"])) for m in BLOCK.finditer(text)]


def pictures(page: Path) -> list[str]:
    """The files, beside the page, that it shows."""
    return [a or b for a, b in PICTURE.findall(page.read_text())]


def compared(text: str, varies: bool) -> str:
    """What is compared of a text: no spaces at the ends of lines; no numbers and no widths of columns, if they vary."""
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    if not varies:
        return text
    text = re.sub(r" +", " ", re.sub(r"[-+~]?\d[\d.,]*(e[-+]\d+)?", "#", text))
    return text.replace("# threads", "# thread")  # one on a machine with one core


def run(page: Path) -> dict[str, Any]:
    """Run the blocks of a page in the current folder; AssertionError where one prints something else than the page shows.

    Returns the names that they leave.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.is_test_file:
            continue
        printed = io.StringIO()
        # blank lines before it: errors then name the line of the page
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("error")
            exec(code, names)
        if block.output is not None:
            expected, found = (compared(text, block.varies) for text in (block.output, printed.getvalue()))
            same = doctest.OutputChecker().check_output(expected, found, doctest.ELLIPSIS)
            assert same, f"{page.name}, line {block.line}: the page shows\n{expected}\nbut it prints\n{found}"
    return names


if __name__ == "__main__":
    folder, page = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    os.environ["MPLBACKEND"] = "Agg"
    os.chdir(folder)
    run(page)
    missing = [picture for picture in pictures(page) if not Path(picture).exists()]
    if missing:
        sys.exit(f"{page.name} shows {', '.join(missing)}, which its code does not save")
