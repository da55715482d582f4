"""Whether the folder is this package's own: `tensorgrad` is to pip another project, which installs into a folder of that name.

In one environment each writes over files of the other, and uninstalling one takes files of the other along.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType
from typing import NoReturn

from tensorgrad.errors import InstallationError

OURS, THEIRS = "tensorgrad-numpy", "tensorgrad"  # as pip calls them
HOME = os.path.dirname(os.path.dirname(__file__))
REMEDY = f"pip uninstall {THEIRS} {OURS}; then install the one that is wanted, and the other in an environment of its own"


def check(package: ModuleType) -> None:
    """Raise InstallationError if `package`, imported as tensorgrad, is not this one, or if both projects' files lie in HOME.

    It costs the listing of one folder; importlib.metadata would take as long to import as everything here together.
    """
    site, start, end = os.path.dirname(HOME), f"{THEIRS}-", ".dist-info"
    try:
        versions = [name[len(start) : -len(end)] for name in os.listdir(site) if name.startswith(start) and name.endswith(end)]
    except OSError:  # inside of a zip file
        versions = []
    other = f"{' '.join([repr(THEIRS), *versions])}, another project that installs into a folder of the same name"
    if getattr(package, "__file__", None) is None:
        problem = f"its __init__.py is gone, as after uninstalling {other}"
    elif getattr(package, "__distribution__", None) != OURS:
        problem = f"imported was {package.__file__}, which is of {other}"
    elif versions:
        problem = f"there are also files of {other}"
    else:
        return
    raise InstallationError(f"{HOME} holds {OURS}, but {problem}. {REMEDY}")


def missing(name: str) -> NoReturn:
    """What tensorgrad does when asked for a name that it does not have: the error says which package this is.

    An AttributeError; from `from tensorgrad import name` an ImportError, since Python replaces the former by one of its own.
    """
    package = sys.modules["tensorgrad"]
    text = f"module 'tensorgrad' has no attribute {name!r}"
    if not name.startswith("_") and not is_module(name):
        text += f"; this is {OURS} {package.__version__} in {HOME}. {others()}"
        if sys._getframe(2).f_globals.get("__name__") == "importlib._bootstrap":
            raise ImportError(text, name="tensorgrad", path=package.__file__)
    raise AttributeError(text, name=name, obj=package)


def is_module(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(f"tensorgrad.{name}") is not None


@cache
def others() -> str:
    """On the other project, which may be installed in a folder that this one hides."""
    from importlib.metadata import distributions

    for found in distributions(name=THEIRS):
        path = str(found.locate_file("tensorgrad"))
        if os.path.isdir(path) and not os.path.samefile(path, HOME):
            return f"{THEIRS!r} {found.version} in {path} is another project, which this one hides. {REMEDY}"
    return f"To pip {THEIRS!r} is another project"


check(sys.modules["tensorgrad"])
