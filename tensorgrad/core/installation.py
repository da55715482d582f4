"""Checks that the folder is this package's own: to pip `tensorgrad` is another project, which installs a folder of that name.

In one environment each overwrites files of the other, and uninstalling one removes files of the other.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType
from typing import NoReturn

from tensorgrad.core.spellings import answer
from tensorgrad.errors import InstallationError

DISTRIBUTION, OTHER_DISTRIBUTION = "tensorgrad-numpy", "tensorgrad"  # names of the distributions
HOME = os.path.dirname(os.path.dirname(__file__))
REMEDY = (
    f"pip uninstall {OTHER_DISTRIBUTION} {DISTRIBUTION}; then install the one you want, and the other in an "
    f"environment of its own"
)


def check(package: ModuleType) -> None:
    """Raise InstallationError if `package`, imported as tensorgrad, is not this one, or if HOME has files of both projects.

    Lists one folder; importing importlib.metadata would take as long as all other imports here.
    """
    site, start, end = os.path.dirname(HOME), f"{OTHER_DISTRIBUTION}-", ".dist-info"
    try:
        versions = [name[len(start) : -len(end)] for name in os.listdir(site) if name.startswith(start) and name.endswith(end)]
    except OSError:  # inside a zip file
        versions = []
    other = f"{' '.join([repr(OTHER_DISTRIBUTION), *versions])}, another project that installs into a folder of the same name"
    if getattr(package, "__file__", None) is None:
        problem = f"its __init__.py is gone, as after uninstalling {other}"
    elif getattr(package, "__distribution__", None) != DISTRIBUTION:
        problem = f"the imported file is {package.__file__}, of {other}"
    elif versions:
        problem = f"there are also files of {other}"
    else:
        return
    raise InstallationError(f"{HOME} holds {DISTRIBUTION}, but {problem}. {REMEDY}")


def missing(where: str, name: str) -> NoReturn:
    """Raise an error for a missing name of a module: it says how to write this name here, or which module to import, or, for an
    unknown name, which package this is.

    An AttributeError; for `from tensorgrad import name` an ImportError, because Python would replace the former.
    """
    module = sys.modules[where]
    text = f"module {where!r} has no attribute {name!r}"
    if not name.startswith("_") and is_module(where, name):
        text += f"; write from {where} import {name}"
    elif not name.startswith("_"):
        if hint := answer(where, name):
            text += f"; {hint}"
        elif where == "tensorgrad":
            text += f"; this is {DISTRIBUTION} {module.__version__} in {HOME}. {other_project()}"
        if sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap":
            raise ImportError(text, name=where, path=module.__file__)
    raise AttributeError(text, name=name, obj=module)


def is_module(where: str, name: str) -> bool:
    from importlib.util import find_spec

    return hasattr(sys.modules[where], "__path__") and find_spec(f"{where}.{name}") is not None


@cache
def other_project() -> str:
    """A remark about the other project, which may be installed in a folder hidden by this one."""
    from importlib.metadata import distributions

    for distribution in distributions(name=OTHER_DISTRIBUTION):
        path = str(distribution.locate_file("tensorgrad"))
        if os.path.isdir(path) and not os.path.samefile(path, HOME):
            return f"{OTHER_DISTRIBUTION!r} {distribution.version} in {path} is another project, which this one hides. {REMEDY}"
    return f"To pip {OTHER_DISTRIBUTION!r} is another project"


check(sys.modules["tensorgrad"])
