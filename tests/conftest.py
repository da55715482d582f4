"""Hypothesis profiles: `pytest --hypothesis-profile=thorough` for a long search."""

from __future__ import annotations

import os

from hypothesis import settings

# no deadline: a first example pays for imports, and machines are shared
settings.register_profile("dev", max_examples=40, deadline=None)
settings.register_profile("ci", max_examples=40, deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
