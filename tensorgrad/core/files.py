"""Atomic writing of files, safe for concurrent writers.

Everything in the package that writes a file uses `replacing`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tensorgrad.core.state import describe
from tensorgrad.errors import ArgumentError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

BEGIN, END = ".tensorgrad-", ".tmp"  # of the names of temporary files


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Context manager: a new file to write, which atomically replaces `path` at the end of the block.

    Until then, and on any error, `path` is unchanged. Of several writers the last one to finish wins; readers always see a
    complete file. Permissions are those of the replaced file, else by the umask.

    durable   sync to disk to survive power loss, which takes some milliseconds

    The new file is .tensorgrad-*.tmp in the same folder. Files left by killed processes are removed when the next file is
    written to that folder, except on Windows and on file systems without locks.

    Anything but a regular file, such as a pipe or /dev/stdout, is written directly.
    """
    path = Path(os.path.realpath(path))  # replaces the target of a link
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
        if os.name == "nt":  # cannot rename open files
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable and hasattr(os, "O_DIRECTORY"):
        # sync the rename, too; the file is complete, so errors are ignored
        with suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    clear(path.parent)


def as_path(where: str, path: str | Path) -> Path:
    """A Path. Raises ArgumentError, prefixed with `where`, for anything but a path, and for invalid names."""
    try:
        checked = Path(path)
        if b"\0" not in os.fsencode(checked):
            return checked
    except TypeError:
        raise ArgumentError(f"{where}: path must be a file path, a str or a Path, got {describe(path)}") from None
    except UnicodeEncodeError:
        pass
    raise ArgumentError(f"{where}: {str(path)!a} is not a valid file name")


def _opened(folder: Path) -> IO[bytes]:
    """A file with a new name, locked while open."""
    while True:
        try:
            file = (folder / f"{BEGIN}{secrets.token_hex(8)}{END}").open("xb")
        except OSError as error:
            error.filename = str(folder)  # the folder is missing or read-only; the temporary name does not matter
            raise
        try:
            if _locked(file, wait=True) and not _is_at(file, file.name):  # removed before it was locked
                file.close()
                continue
        except BaseException:
            file.close()
            raise
        return file


def clear(folder: Path) -> None:
    """Remove files of killed processes, whose locks are gone."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        leftover = [entry.path for entry in entries if entry.name.startswith(BEGIN) and entry.name.endswith(END)]
        for name in leftover:
            with suppress(OSError), open(name, "r+b") as file:
                if _locked(file):
                    if _is_at(file, name):
                        os.unlink(name)
                    fcntl.flock(file, fcntl.LOCK_UN)  # a child forked meanwhile has it open, too


def _locked(file: IO[bytes], *, wait: bool = False) -> bool:
    """Try to lock an open file; returns whether that worked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(file: IO[bytes], name: str) -> bool:
    """Whether the name still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(name))
    except FileNotFoundError:
        return False
