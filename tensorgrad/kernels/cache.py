"""What Numba compiles: every kernel of its comes through `jit`, which keeps it on disk from one process to the next.

What is kept there is code, and is run. So the folder is made for its user alone; one in which somebody else could have put
something is not used, nor is a file that is not what was written. And it is a convenience: where it cannot be used, for
whatever reason, kernels are compiled anew, and one warning says so. It may be deleted at any time, with what killed processes
have left in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tensorgrad.core.location import warn

MAGIC = b"tensorgrad kernel 1\n"  # each file begins with it; a checksum follows, and what it is of
HOME = "~/.cache"


def folder_name() -> str:
    """$TENSORGRAD_CACHE, or tensorgrad in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(HOME)
    return os.environ.get("TENSORGRAD_CACHE") or os.path.join(base, "tensorgrad")


def cache_folder() -> Path:
    """Where files are kept that can be had again. It is made, for the user alone; raises OSError where it cannot be."""
    folder = Path(folder_name())
    if folder.parts[0] == "~":
        raise FileNotFoundError("the user has no home directory")
    for part in (*reversed(folder.parents), folder):
        if not part.is_dir():
            part.mkdir(mode=0o700, exist_ok=True)  # another process may be doing the same
    return folder


def check_is_private(status: os.stat_result, path: Path) -> None:
    """Raise PermissionError for a folder or a file that somebody else may have written to."""
    if not hasattr(os, "geteuid"):  # Windows has other rules
        return
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if status.st_mode & 0o022:
        raise PermissionError(f"other users can write to {path}")


def kernel_folder() -> Path:
    """The cache folder, which has been found to be the user's alone."""
    folder = cache_folder()
    check_is_private(folder.stat(), folder)
    return folder


def read(path: Path) -> bytes | None:
    """What `write` has put into a file; None if there is none. Raises OSError or ValueError for any other file."""
    only = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nothing but a file: no link, and no pipe to wait for
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | only))  # noqa: SIM115  (closed below)
    except FileNotFoundError:
        return None
    with file:
        check_is_private(os.fstat(file.fileno()), path)
        written = file.read()
    start = len(MAGIC) + 32
    if written[:start] != MAGIC + hashlib.sha256(written[start:]).digest():
        raise ValueError(f"{path.name} is damaged")
    return written[start:]


def write(path: Path, content: bytes) -> None:
    """Put content into a file, at once: nobody ever sees a part of it."""
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # for the user alone
    try:
        with open(descriptor, "wb") as file:
            file.write(MAGIC + hashlib.sha256(content).digest() + content)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


_warned: set[str] = set()


def warn_once(about: str, message: str) -> None:
    """Warn the user, if it has not been done about this in this process."""
    if about not in _warned:
        _warned.add(about)
        warn(message)


@contextlib.contextmanager
def trouble() -> Iterator[None]:
    """Let any error inside of the block be no more than a warning that names the folder and says what to do."""
    try:
        yield
    except Exception as error:
        name, problem = folder_name(), str(error) or type(error).__name__
        warn_once(
            name,
            f"the folder of compiled kernels, {name}, cannot be used ({problem}); kernels are compiled again. "
            "Delete it, or set TENSORGRAD_CACHE to a folder that only you can write to",
        )


def cached(name: str, depends_on: str, make: Callable[[], bytes]) -> bytes:
    """What `make` makes, from the folder if it is there, and put there if not."""

    def path() -> Path:
        return kernel_folder() / f"{name}-{hashlib.sha256(depends_on.encode()).hexdigest()[:24]}.nbc"

    with trouble():
        content = read(path())
        if content is not None:
            return content
    content = make()
    with trouble():
        write(path(), content)
    return content


class Kept:
    """Where Numba looks for what it has compiled of a function, one file for each kind of arguments.

    source   all that the compiled code depends on, besides the machine and the versions
    """

    def __init__(self, name: str, source: Callable[[], str]) -> None:
        self.name, self.source = name, source
        self.cache_path = folder_name()

    def path(self, signature: Any, codegen: Any) -> Path:
        """The file of the code for these types, on this machine, made by these versions."""
        import numba

        parts = (self.source(), signature, codegen.magic_tuple(), numba.__version__, sys.version)
        return kernel_folder() / f"{self.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.nbc"

    def load_overload(self, signature: Any, target: Any) -> Any:
        """What is there, ready to be called; None if it has to be compiled."""
        from numba.core.compiler import CompileResult

        target.refresh()
        with trouble():
            content = read(self.path(signature, target.codegen()))
            if content is not None:
                return CompileResult._rebuild(target, *pickle.loads(content))  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what has been compiled."""
        with trouble():
            write(self.path(signature, compiled.codegen), pickle.dumps(compiled._reduce()))


def jit(source: Callable[[], str]) -> Callable[[Any], Any]:
    """Let Numba compile a function, for each kind of arguments when it is first called with them."""
    from numba import njit

    def compiled(function: Any) -> Any:
        dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
        dispatcher._cache = Kept(function.__name__, source)
        return dispatcher

    return compiled
