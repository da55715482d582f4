"""Hypothesis profiles, and which cases of long sweeps are run.

dev and thorough come with the package's own plugin: `pytest --hypothesis-profile=thorough`.

Of tests of many cases every second to ninth one is run, chosen by its name, of a test marked `every(n)` every n-th, of one
marked `thorough` none. With CI=1 about three times as many are, and all that is marked `thorough`; which ones they are goes by
TENSORGRAD_SHARE too, any text, so that each commit can have others. With TENSORGRAD_THOROUGH=1 all are run, and so is what is
asked for by name.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis.strategies import none

from tensorgrad import manual_seed

pytest_plugins = ["pytester", "tests.extras"]

# fewer examples than Hypothesis's own, and no deadline: a first example pays for imports, and machines are shared
settings.register_profile("ci", settings.get_profile("ci"), max_examples=40, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


# A job in the background of a shell's script ignores Ctrl-C; tests that press it do not
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Of a test of at least so many cases every n-th is run, by default and in CI
SWEEPS = ((21, 9, 3), (9, 4, 1), (5, 2, 1))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick` files that are not marked are not even imported."""
    is_test = collection_path.match("test_*.py")
    if is_test and config.option.markexpr == "quick" and "pytestmark = pytest.mark.quick" not in collection_path.read_text():
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thin the sweeps out, unless tests are asked for by name."""
    if os.environ.get("TENSORGRAD_THOROUGH") or any("::" in arg for arg in config.args):
        return
    cases = Counter(item.nodeid.partition("[")[0] for item in items)
    is_ci, salt = bool(os.environ.get("CI")), os.environ.get("TENSORGRAD_SHARE", "")

    def share(item: pytest.Item) -> int:
        """1 for all cases of the test, n for every n-th."""
        if marked := item.get_closest_marker("every"):
            return -(-int(marked.args[0]) // 3) if is_ci else int(marked.args[0])
        count = cases[item.nodeid.partition("[")[0]]
        return next((in_ci if is_ci else by_default for least, by_default, in_ci in SWEEPS if count >= least), 1)

    def is_left_out(item: pytest.Item) -> bool:
        thorough = item.get_closest_marker("thorough") is not None and not is_ci
        return thorough or zlib.crc32(f"{salt}{item.nodeid}".encode()) % share(item) != 0

    skipped = [item for item in items if is_left_out(item)]
    config.hook.pytest_deselected(items=skipped)
    left_out = set(skipped)
    items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Layers that are made without a generator have the same parameters in each run of a test."""
    manual_seed(zlib.crc32(item.nodeid.encode()))


def pytest_collection_finish() -> None:
    """What is imported lives as long as the tests do: to go through it again and again is a fifth of their time."""
    given(none())(lambda _: None)()  # older versions of Hypothesis look for who has their generator, which is not seen then
    gc.freeze()
