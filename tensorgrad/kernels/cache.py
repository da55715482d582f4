"""The disk cache of compiled kernels. All Numba kernels are compiled through `jit`, which caches them between processes.

The cache contains code that is run. So the folder is private to its user; a folder that others can write to is not used, nor
is a file with a wrong checksum. The cache is only a convenience: if it cannot be used, for whatever reason, kernels are
compiled again, with one warning. It may be deleted at any time, including files left by killed processes.
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

MAGIC = b"tensorgrad kernel 1\n"  # each file begins with it, followed by a checksum and the content
HOME = "~/.cache"


def folder_name() -> str:
    """$TENSORGRAD_CACHE, or tensorgrad in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(HOME)
    return os.environ.get("TENSORGRAD_CACHE") or os.path.join(base, "tensorgrad")


def cache_folder() -> Path:
    """The folder for files that can be created again. Created private to the user; raises OSError if that fails."""
    folder = Path(folder_name())
    if folder.parts[0] == "~":
        raise FileNotFoundError("the user has no home directory")
    for part in (*reversed(folder.parents), folder):
        if not part.is_dir():
            part.mkdir(mode=0o700, exist_ok=True)  # another process may be doing the same
    return folder


def check_is_private(status: os.stat_result, path: Path) -> None:
    """Raise PermissionError for a folder or a file that another user may have written to."""
    if not hasattr(os, "geteuid"):  # Windows has other rules
        return
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if status.st_mode & 0o022:
        raise PermissionError(f"other users can write to {path}")


def kernel_folder() -> Path:
    """The cache folder, checked to be private."""
    folder = cache_folder()
    check_is_private(folder.stat(), folder)
    return folder


def read(path: Path) -> bytes | None:
    """The content that `write` put into a file; None if it does not exist. Raises OSError or ValueError for any other file."""
    # only regular files: no links, and no pipes that block
    regular_only = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | regular_only))  # noqa: SIM115  (closed below)
    except FileNotFoundError:
        return None
    with file:
        check_is_private(os.fstat(file.fileno()), path)
        data = file.read()
    start = len(MAGIC) + 32
    if data[:start] != MAGIC + hashlib.sha256(data[start:]).digest():
        raise ValueError(f"{path.name} is damaged")
    return data[start:]


def write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # private to the user
    try:
        with open(descriptor, "wb") as file:
            file.write(MAGIC + hashlib.sha256(content).digest() + content)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


_warned: set[str] = set()


def warn_once(subject: str, message: str) -> None:
    """Warn once per subject and process."""
    if subject not in _warned:
        _warned.add(subject)
        warn(message)


@contextlib.contextmanager
def errors_as_warnings() -> Iterator[None]:
    """Turn any error inside the block into a warning that names the folder and the remedy."""
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
    """The result of `make`, from the cache if it is there, else added to it."""

    def path() -> Path:
        return kernel_folder() / f"{name}-{hashlib.sha256(depends_on.encode()).hexdigest()[:24]}.nbc"

    with errors_as_warnings():
        content = read(path())
        if content is not None:
            return content
    content = make()
    with errors_as_warnings():
        write(path(), content)
    return content


class FunctionCache:
    """Numba's cache for one function: a file for each combination of argument types.

    source   the text that the compiled code depends on, besides the machine and the versions
    """

    def __init__(self, name: str, source: Callable[[], str]) -> None:
        self.name, self.source = name, source
        self.cache_path = folder_name()

    def path(self, signature: Any, codegen: Any) -> Path:
        """The file for these types, this machine and the current versions."""
        import numba

        parts = (self.source(), signature, codegen.magic_tuple(), numba.__version__, sys.version)
        return kernel_folder() / f"{self.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.nbc"

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The cached code, ready to be called; None if it has to be compiled."""
        from numba.core.compiler import CompileResult

        target.refresh()
        with errors_as_warnings():
            content = read(self.path(signature, target.codegen()))
            if content is not None:
                return CompileResult._rebuild(target, *pickle.loads(content))  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Store compiled code."""
        with errors_as_warnings():
            write(self.path(signature, compiled.codegen), pickle.dumps(compiled._reduce()))


def jit(source: Callable[[], str]) -> Callable[[Any], Any]:
    """Compile a function with Numba, on the first call with each combination of argument types."""
    from numba import njit

    def compiled(function: Any) -> Any:
        dispatcher: Any = njit(nogil=True, error_model="numpy")(function)
        dispatcher._cache = FunctionCache(function.__name__, source)
        return dispatcher

    return compiled
