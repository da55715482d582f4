"""Tests without an optional library: skipped, with what to install, where the tests themselves need it."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from pathlib import Path
from types import TracebackType

import pytest

from tensorgrad.errors import MissingDependencyError

NAMES = {  # what is imported: what is installed
    "dask": "dask[distributed]",
    "joblib": "scikit-learn",
    "matplotlib": "matplotlib",
    "ml_dtypes": "ml_dtypes",
    "mpi4py": "mpi4py",
    "numba": "numba",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pandas": "pandas",
    "pooch": "pooch",
    "pygraphviz": "pygraphviz",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "threadpoolctl": "threadpoolctl",
    "tqdm": "tqdm",
}
HERE = Path(__file__).parent


def needed(error: BaseException | None) -> str:
    """The reason for skipping a test that ended like this; "" if it was no library that is not installed.

    It counts where a test imports it, or where the package says that it has to be installed. That the package imports it
    without a word is a fault.
    """
    if isinstance(error, MissingDependencyError):
        names = [name for name, what in NAMES.items() if what in str(error)]
    elif isinstance(error, ModuleNotFoundError) and is_of_tests(error.__traceback__):
        names = [(error.name or "").partition(".")[0]]
    else:
        return ""
    absent = [name for name in names if name in NAMES and importlib.util.find_spec(name) is None]
    return f"needs {absent[0]}: pip install {NAMES[absent[0]]}" if absent else ""


def is_of_tests(traceback: TracebackType | None) -> bool:
    """Whether an import failed in a file of tests or examples, not in one of the package."""
    files = []
    while traceback is not None:
        files.append(Path(traceback.tb_frame.f_code.co_filename))
        traceback = traceback.tb_next
    own = [file for file in files if file.is_relative_to(HERE.parent)]
    return bool(own) and own[-1].relative_to(HERE.parent).parts[0] in ("tests", "examples")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    call = report.__dict__.get("call")
    if report.failed and call is not None and call.excinfo and (reason := needed(call.excinfo.value.__cause__)):
        report.outcome, report.longrepr = "skipped", (str(collector.path), 1, f"Skipped: {reason}")
        del report.call
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo and (reason := needed(call.excinfo.value)):
        report.outcome, report.longrepr = "skipped", (str(item.path), 1, f"Skipped: {reason}")
    return report
