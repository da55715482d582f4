"""The user's line of code that called tensorgrad, for errors, warnings and drawings."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import CodeType, FrameType
from typing import TypeAlias

Location: TypeAlias = tuple[CodeType, int]  # code object and instruction offset; the line is computed on demand

# Packages that call tensorgrad on behalf of the user: scikit-learn and joblib call estimators, SciPy the loss to minimise,
# NumPy a function for each element, Numba its cache, thread pools their tasks, decorators the wrapped function. Their code is
# not the user's either.
LIBRARIES = frozenset({"concurrent", "contextlib", "functools", "joblib", "numba", "numpy", "scipy", "sklearn", "threading"})


def is_own(module: str | None) -> bool:
    """Whether a module or package of this name belongs to tensorgrad."""
    return module is not None and module.partition(".")[0] == "tensorgrad"


class _IsLibrary(dict[str | None, bool]):
    """Cache of whether the code of a module is not the user's; every recorded operation looks it up."""

    def __missing__(self, name: str | None) -> bool:
        self[name] = is_library = is_own(name) or (name or "").partition(".")[0] in LIBRARIES
        return is_library


_is_library = _IsLibrary()


def user_location(skip: int = 0) -> Location | None:
    """The innermost caller in the user's code; None if there is none, as in some threads. The first `skip` callers are known
    to be the package's.
    """
    try:
        frame: FrameType | None = sys._getframe(skip + 1)
    except ValueError:  # a thread that began with the package's function
        return None
    while frame is not None:
        if not _is_library[frame.f_globals.get("__name__")]:
            return frame.f_code, frame.f_lasti
        frame = frame.f_back
    return None


def line_of(location: Location | None) -> str:
    """ "model.py:14", or "" when it is not known."""
    if location is None:
        return ""
    code, instruction = location
    line = next((n for start, end, n in code.co_lines() if start <= instruction < end and n is not None), code.co_firstlineno)
    return f"{Path(code.co_filename).name}:{line}"


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that called tensorgrad."""
    frame = sys._getframe(1)
    while _is_library[frame.f_globals.get("__name__")] and frame.f_back is not None:
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(
        message, category, frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__"), registry
    )
