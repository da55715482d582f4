"""For pytest, found by its entry point: drawings of gradient checks that fail, and Hypothesis profiles.

A test that fails with a GradientError leaves the drawing of the graph, wrong ops in red, in the folder that
--gradient-drawings names: by default beside the --junitxml report, else gradient-drawings/ under pytest's root.

Profiles, for `pytest --hypothesis-profile=...`: dev (40 examples a test), thorough (2,000), and Hypothesis's own ci. All of
them print the @reproduce_failure line of a failure, and so does the default one.
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
    """Before any conftest.py, so that it can load a profile."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import errors, settings

    for name, values in PROFILES.items():
        try:
            settings.get_profile(name)
        except errors.InvalidArgument:  # nobody else has one of this name
            settings.register_profile(name, **values)
    if settings.default == settings.get_profile("default"):  # nobody has loaded another one
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
    """The failed gradient checks in an exception: itself, or those that Hypothesis has grouped."""
    if isinstance(error, GradientError):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from gradient_errors(part)


def folder(config: pytest.Config) -> Path:
    """Where drawings go."""
    if given := config.getoption("--gradient-drawings"):
        return Path(given)
    if report := config.getoption("xmlpath", None):
        return Path(report).parent
    return config.rootpath / "gradient-drawings"


def save(error: GradientError, path: Path) -> Path:
    """Draw the error's graph to path.svg, or write path.dot where Graphviz is missing."""
    from tensorgrad import draw

    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = draw.graph(error.graph, highlight=error.suspects)
    picture = path.with_name(path.name + ".svg")
    try:
        return drawing.save(picture)
    except MissingDependencyError:
        return picture.with_suffix(".dot")  # which was written instead
