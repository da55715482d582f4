"""pytest plugin, registered as an entry point: drawings of failed gradient checks, and Hypothesis profiles.

A test that fails with a GradientError saves a drawing of the graph, wrong ops in red, to the folder given by
--gradient-drawings: by default next to the --junitxml report, else gradient-drawings/ in pytest's root directory.

Profiles for `pytest --hypothesis-profile=...`: dev (40 examples per test), thorough (2,000), and Hypothesis's own ci. Each of
them, and the default one, prints the @reproduce_failure line of a failure.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from tensorgrad.errors import MissingDependencyError

try:
    import pytest
except ModuleNotFoundError as error:
    if error.name != "pytest":
        raise
    raise MissingDependencyError(
        "tensorgrad.testing.plugin: needs pytest, which is not installed; pip install pytest"
    ) from None

from tensorgrad.testing.report import GradientError

PROFILES: dict[str, dict[str, Any]] = {
    "dev": {"max_examples": 40, "deadline": None, "print_blob": True},
    "thorough": {"max_examples": 2000, "deadline": None, "print_blob": True},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tensorgrad")
    group.addoption("--gradient-drawings", metavar="DIR", help="folder for the drawings of gradient checks that fail")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Run before any conftest.py, which can then load a profile."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import errors, settings

    for name, values in PROFILES.items():
        try:
            settings.get_profile(name)
        except errors.InvalidArgument:  # no other plugin has registered this name
            settings.register_profile(name, **values)
    if settings.default == settings.get_profile("default"):  # unless another profile has been loaded
        settings.register_profile("default", settings(settings.get_profile("default"), print_blob=True))
        settings.load_profile("default")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None:
        for i, error in enumerate(gradient_errors(call.excinfo.value)):
            if error.graph is not None:
                name = re.sub(r"[^\w.-]+", "-", item.nodeid).strip("-") + (f"-{i}" if i else "")
                report.sections.append(("gradient check", f"drawing of the graph: {save(error, folder(item.config) / name)}"))
    return report


def gradient_errors(error: BaseException) -> Iterator[GradientError]:
    """The failed gradient checks in an exception: itself, or a group from Hypothesis."""
    if isinstance(error, GradientError):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from gradient_errors(part)


def folder(config: pytest.Config) -> Path:
    """The folder for drawings."""
    if option := config.getoption("--gradient-drawings"):
        return Path(option)
    if report := config.getoption("xmlpath", None):
        return Path(report).parent
    return config.rootpath / "gradient-drawings"


def save(error: GradientError, path: Path) -> Path:
    """Draw the error's graph to path.svg, or write path.dot without Graphviz."""
    from tensorgrad import draw

    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = draw.graph(error.graph, highlight=error.suspects)
    picture = path.with_name(path.name + ".svg")
    try:
        return drawing.save(picture)
    except MissingDependencyError:
        return picture.with_suffix(".dot")  # written instead
