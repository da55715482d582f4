"""Tests without an optional library: what is skipped, and what fails all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import extras

PROGRAM = {
    "tests/__init__.py": "",
    "tests/test_file.py": "import pooch\n\ndef test_a(): ...\n",
    "tests/test_tests.py": """
import package
import pytest
from tensorgrad.errors import MissingDependencyError

def test_imports(): import pooch
def test_says(): raise MissingDependencyError("x: needs pooch; pip install pooch")
@pytest.fixture
def needs(): import pooch
def test_sets_up(needs): ...
def test_package_imports(): package.f()
def test_other(): import nowhere_at_all
def test_there(): raise ModuleNotFoundError("numpy", name="numpy")
def test_wrong(): assert False
""",
}


def test_what_is_skipped(pytester: pytest.Pytester) -> None:
    """What tests import, or the package names; not what the package imports by itself, nor what is no extra."""
    code = Path(extras.__file__).read_text()
    for name, content in {**PROGRAM, "tests/extras.py": code}.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (pytester.path / "package.py").write_text("def f(): import pooch\n")
    hidden = "import importlib.util, sys\nfind = importlib.util.find_spec\nsys.modules['pooch'] = None\n"
    hidden += "importlib.util.find_spec = lambda name, *more: None if name == 'pooch' else find(name, *more)\n"
    (pytester.path / "conftest.py").write_text(hidden + "pytest_plugins = ['tests.extras']\n")
    result = pytester.runpytest_subprocess("-rfs", "-p", "no:cacheprovider", "-p", "no:tensorgrad")
    result.assert_outcomes(skipped=4, failed=4)
    result.stdout.fnmatch_lines(["SKIPPED * needs pooch: pip install pooch"])
    for name in ("package_imports", "other", "there", "wrong"):
        result.stdout.fnmatch_lines([f"FAILED *test_tests.py::test_{name} *"])
