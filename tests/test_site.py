"""The site: the code on its pages runs and prints what they show; pictures are made; the reference has every public name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import pytest

import tensorgrad
from tensorgrad.draw.colours import MARKS
from tensorgrad.op import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
GUIDE = sorted((ROOT / "examples" / "guide").glob("*.md"))
PAGES = [ROOT / "examples" / "site" / "index.md", *GUIDE]
# Modules whose names are imported from others, which are in the reference
INTERNAL = {"autograd", "compiler", "core", "kernels", "methods", "protocols", "seeding"}


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    """The modules of examples/site, by name."""
    sys.path.insert(0, str(ROOT / "examples" / "site"))
    yield import_module
    sys.path.remove(str(ROOT / "examples" / "site"))


@pytest.mark.every(1)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(site: Any, page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(REGISTRY)
    try:
        site("chapters").run(page)
    finally:
        for name in REGISTRY.keys() - before:
            del REGISTRY[name]
    for picture in site("chapters").pictures(page):
        assert (tmp_path / picture).stat().st_size > 500, f"{page.name} shows {picture}"


def test_the_wrong_rule_is_marked(site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the picture that the page makes, and in the README's, which was made by it."""
    monkeypatch.chdir(tmp_path)
    before = set(REGISTRY)
    try:
        site("chapters").run(ROOT / "examples" / "guide" / "own-operation.md")
    finally:
        for name in REGISTRY.keys() - before:
            del REGISTRY[name]
    for picture in (tmp_path / "wrong.svg", ROOT / "examples" / "wrong-rule.svg"):
        marked = re.findall(rf'<polygon fill="{MARKS["highlight"].fill}".*?</g>', picture.read_text(), re.DOTALL)
        assert len(marked) == 1
        assert ">my_square<" in marked[0]


def test_a_page_that_shows_something_else_fails(site: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# Page\n\n```python\nprint(1 + 1)\nprint('a')\n```\n\n```text\n{}\n...\n```\n"
    page.write_text(text.format(2))
    site("chapters").run(page)
    page.write_text(text.format(3))
    with pytest.raises(AssertionError, match=r"page.md, line 4: the page shows\n3\n"):
        site("chapters").run(page)
    table = "```python\nprint('loss   0.25 at 3')\n```\n\n```text varies\n{}\n```\n"
    page.write_text(table.format("loss 1e-17 at 12"))
    site("chapters").run(page)
    page.write_text(table.format("cost 0.25 at 3"))
    with pytest.raises(AssertionError, match="cost # at #"):
        site("chapters").run(page)
    page.write_text("```python\n\nprint(1 / 0)\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        site("chapters").run(page)
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno) == (page, 2)  # the line in the page


@pytest.mark.thorough
def test_the_test_files_of_pages_pass(site: Any, pytester: pytest.Pytester) -> None:
    files = [block.code for page in PAGES for block in site("chapters").blocks(page) if block.is_test_file]
    assert files
    pytester.makepyfile(**{re.match(r"# (test_\w+)\.py", code)[1]: code for code in files})
    count = sum(len(re.findall(r"^def test_", code, re.MULTILINE)) for code in files)
    pytester.runpytest_subprocess("--hypothesis-profile=dev").assert_outcomes(passed=count)


def test_what_pages_name_is_there() -> None:
    """Files, tests and modules that a command runs."""
    for page in (*PAGES, ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"):
        text = page.read_text()
        for path in re.findall(r"[`\s(]((?:tensorgrad|models|tests|examples)/[\w/.-]*\w)", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        for path, name in re.findall(r"`(?:pytest )?(tests/\w+\.py)::(\w+)", text):
            assert f"def {name}(" in (ROOT / path).read_text(), f"{page.name}: {path}::{name}"
        for name in re.findall(r"python -m (tests[\w.]*\w)", text):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {name}"
        for link in re.findall(r"\]\(([\w./-]+\.(?:md|rst|py|svg|png|toml))(?:#[\w-]+)?\)", text):
            is_made = not (page.parent / link).exists() and f'"{link}"' in text  # a picture that the page's code saves
            assert is_made or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_contents() -> None:
    index = PAGES[0].read_text()
    listed = re.findall(r"^guide/([\w-]+)$|^[^\n]*<guide/([\w-]+)>$|^\.\./guide/([\w-]+)$", index, re.MULTILINE)
    assert sorted(a or b or c for a, b, c in listed) == [page.stem for page in GUIDE]


def test_pages_that_save_files_of_one_name_have_their_own_pictures(site: Any) -> None:
    folders = [site("build").pictures_folder(page) for page in PAGES]
    assert len(set(folders)) == len(PAGES)
    for page in GUIDE:
        text = site("build").with_pictures(page)
        for picture in site("chapters").pictures(page):
            assert f"({page.stem}/{picture})" in text or f'"{page.stem}/{picture}"' in text
            assert f"({picture})" not in text


def test_pages_of_the_gallery_show_their_programs(site: Any) -> None:
    pages = site("gallery").pages()
    for path in (ROOT / "examples" / "gallery").glob("*.py"):
        if path.stem != "pages":
            code = path.read_text().rpartition('"""\n\nfrom __future__')[2]
            lines = [line for line in code.splitlines() if line and not line.startswith("#")]
            assert len(lines) > 10
            assert not [line for line in lines if line not in pages[f"{path.stem}.md"]], path.name


def test_the_reference_has_every_public_name(site: Any) -> None:
    """By the modules' own `__all__`, which the reference reads, too, but not through it."""
    found = [name for text in site("reference").pages().values() for name in site("reference").listed(text)]
    assert len(found) == len(set(found))
    for where in site("reference").MODULES:
        module = import_module(where)
        names = getattr(module, "__all__", None) or [
            name for name, it in vars(module).items() if name[0] != "_" and getattr(it, "__module__", None) == where
        ]
        assert names
        prefix = "tensorgrad" if where == "tensorgrad.ops" else where
        public = {f"{prefix}.{name}" for name in names if not isinstance(getattr(module, name), ModuleType)}
        assert not public - set(found), where
    modules = {f"tensorgrad.{info.name}" for info in iter_modules(tensorgrad.__path__) if info.name not in INTERNAL}
    assert {".".join(name.split(".")[:2]) for name in site("reference").MODULES} == modules | {
        "tensorgrad",
        "tensorgrad.models",
    }


DOC = """\
y = x * W, by `np.dot`.

x         the input (n, k),
          in rows
ratio_    how *many*

forward   y  = x W
backward  gx = g W^T

- one,
  two
- three

| a | b |
|---|---|
| 1 | 2 |

Write::

    y = f(x)
"""
RST = r"""
y = x \* W, by \ ``np.dot``\ .

.. rst-class:: arguments

x
    the input (n, k),
    in rows

ratio\_
    how \*many\*

::

    forward   y  = x W
    backward  gx = g W^T

- one, two
- three

.. list-table::
   :header-rows: 1

   * - a
     - b
   * - 1
     - 2

Write:

.. code-block:: python

    y = f(x)
"""


def test_docstrings_as_they_are_shown(site: Any) -> None:
    assert "\n".join(site("reference").to_rst(DOC)).strip() == RST.strip()


def test_signatures_as_they_are_shown(site: Any) -> None:
    def call(x: Tensor, *, axis: int | None = None, of: Any = "a", by: Any = len) -> list[str]: ...  # noqa: F821

    assert (
        site("reference").signature(call)
        == "(x: Tensor, *, axis: int | None = None, of: Any = 'a', by: Any = len) -> list[str]"
    )
