"""Where in the user's code something was called from."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType
from typing import TypeAlias

Location: TypeAlias = tuple[CodeType, int]  # a function, and how far it had come; the line is worked out when it is asked for

OWN = "tensorgrad"  # the package whose code is no user's


def is_own(package: str | None) -> bool:
    """Whether code of this package is tensorgrad's."""
    return package is not None and (package == OWN or package.startswith(f"{OWN}."))


def user_location() -> Location | None:
    """The innermost caller that is not tensorgrad itself."""
    frame = sys._getframe(1)
    while is_own(frame.f_globals.get("__package__")):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def line_of(location: Location | None) -> str:
    """ "model.py:14", or "" when it is not known."""
    if location is None:
        return ""
    code, instruction = location
    line = next((n for start, end, n in code.co_lines() if start <= instruction < end and n is not None), code.co_firstlineno)
    return f"{Path(code.co_filename).name}:{line}"
