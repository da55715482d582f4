"""Hypothesis profiles: dev and thorough come with the package's own plugin; `pytest --hypothesis-profile=thorough`."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["pytester"]

# fewer examples than Hypothesis's own, and no deadline: a first example pays for imports, and machines are shared
settings.register_profile("ci", settings.get_profile("ci"), max_examples=40, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
