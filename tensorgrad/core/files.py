"""Files that are written whole or not at all, whoever else writes them at the same time.

Everything in the package that writes a file does so through `replacing`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tensorgrad.core.state import shown
from tensorgrad.errors import ArgumentError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

BEGIN, END = ".tensorgrad-", ".tmp"  # of the names of files that are being written


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A new file to be written in a `with` block, which takes the place of `path` in one step when the block has ended.

    Until then, and if anything goes wrong, what was at `path` stays as it was. Of several writers the last one to end wins;
    who reads `path` finds the whole of one of them. Permissions are those of the file that is replaced, else by the umask.

    durable   whether it has to outlive a loss of power, which may take some milliseconds

    The new file is .tensorgrad-*.tmp in the same folder. What a killed process has left there is removed when the next file is
    written to that folder, but on Windows and file systems without locks, where it stays until somebody deletes it.

    What is no file, such as a pipe or /dev/stdout, is written to as it is.
    """
    path = Path(os.path.realpath(path))  # the file that a link points to is what is replaced
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    file = _opened(path.parent)
    temporary = Path(file.name)
    try:
        with file:
            with suppress(FileNotFoundError):
                temporary.chmod(path.stat().st_mode & 0o777)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if os.name != "nt":  # while it is locked
                os.replace(temporary, path)
        if os.name == "nt":  # which moves no open file
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable and hasattr(os, "O_DIRECTORY"):
        # so that the new name, too, outlives a loss of power; the file is in its place by now, so nothing has failed
        with suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    clear(path.parent)


def as_path(where: str, path: str | Path) -> Path:
    """A path as a Path. Raises ArgumentError, beginning with `where`, for what is none, or a name that no file can have."""
    try:
        found = Path(path)
        if b"\0" not in os.fsencode(found):
            return found
    except TypeError:
        raise ArgumentError(f"{where}: path must be the path of a file, a str or a Path, got {shown(path)}") from None
    except UnicodeEncodeError:
        pass
    raise ArgumentError(f"{where}: {str(path)!a}: no file can have this name")


def _opened(folder: Path) -> IO[bytes]:
    """A file of a new name, locked as long as it is open."""
    while True:
        try:
            file = (folder / f"{BEGIN}{secrets.token_hex(8)}{END}").open("xb")
        except OSError as error:
            error.filename = str(folder)  # which is not there, or not to be written to; the name is nobody's concern
            raise
        try:
            if _locked(file, wait=True) and not _is_at(file, file.name):  # cleared away before it was locked
                file.close()
                continue
        except BaseException:
            file.close()
            raise
        return file


def clear(folder: Path) -> None:
    """Remove what killed processes have left: their locks have gone with them."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(BEGIN) and entry.name.endswith(END)]
        for name in left:
            with suppress(OSError), open(name, "r+b") as file:
                if _locked(file):
                    if _is_at(file, name):
                        os.unlink(name)
                    fcntl.flock(file, fcntl.LOCK_UN)  # a child forked meanwhile has the file open, too


def _locked(file: IO[bytes], *, wait: bool = False) -> bool:
    """Lock an open file, if nobody else has; whether that has been done."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(file: IO[bytes], name: str) -> bool:
    """Whether the name is that of an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(name))
    except FileNotFoundError:
        return False
