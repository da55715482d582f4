"""Hypothesis profiles: dev and thorough come with the package's own plugin; `pytest --hypothesis-profile=thorough`.

Of sweeps of many cases every third one is run, chosen by its name; with CI=1 or TENSORGRAD_THOROUGH=1 all are.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter

import pytest
from hypothesis import settings

pytest_plugins = ["pytester"]

# fewer examples than Hypothesis's own, and no deadline: a first example pays for imports, and machines are shared
settings.register_profile("ci", settings.get_profile("ci"), max_examples=40, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


SWEEP = 20  # cases of one test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thin the sweeps out, unless tests are asked for by name."""
    if os.environ.get("CI") or os.environ.get("TENSORGRAD_THOROUGH") or any("::" in arg for arg in config.args):
        return
    cases = Counter(item.nodeid.partition("[")[0] for item in items)
    skipped = [item for item in items if cases[item.nodeid.partition("[")[0]] > SWEEP and zlib.crc32(item.nodeid.encode()) % 3]
    config.hook.pytest_deselected(items=skipped)
    left_out = set(skipped)
    items[:] = [item for item in items if item not in left_out]
