"""Hypothesis profiles: dev and thorough come with the package's own plugin; `pytest --hypothesis-profile=thorough`.

Of sweeps of many cases every third one is run, chosen by its name, of a test marked `every(n)` every n-th, of one marked
`thorough` none; with CI=1 or TENSORGRAD_THOROUGH=1 all are, and of what is asked for by name.
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

    def share(item: pytest.Item) -> int:
        """1 for all cases of the test, n for every n-th."""
        marked = item.get_closest_marker("every")
        return int(marked.args[0]) if marked else 3 if cases[item.nodeid.partition("[")[0]] > SWEEP else 1

    skipped = [i for i in items if i.get_closest_marker("thorough") or zlib.crc32(i.nodeid.encode()) % share(i)]
    config.hook.pytest_deselected(items=skipped)
    left_out = set(skipped)
    items[:] = [item for item in items if item not in left_out]
