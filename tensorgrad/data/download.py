"""Downloads on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tensorgrad.core.files import replacing
from tensorgrad.errors import DataError, DownloadError, MissingDependencyError

TIMEOUT = 30  # seconds without a response or further data

T = TypeVar("T")


def fetch(path: Path, mirrors: Sequence[str], read: Callable[[Path], T], otherwise: str) -> T:
    """Download the file named like `path` from the first mirror with a valid one, and return the result of `read`.

    mirrors    base addresses, each with a trailing slash
    read       reads the file and raises DataError if it is invalid; only valid files are moved to `path`
    otherwise  what to do without network access, for the error

    Raises DownloadError, with the error of every mirror, if all fail; MissingDependencyError without pooch and tqdm.
    """
    try:
        from pooch import HTTPDownloader
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingDependencyError(
            f"{path.name}: downloading needs pooch and tqdm, which are not both installed; pip install pooch tqdm. {otherwise}"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for mirror in mirrors:
        part = path
        # no bar without a terminal; pooch asks for its length before the server says it
        with tqdm(desc=path.name, total=1, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            try:
                with replacing(path) as file:
                    part = Path(file.name)
                    HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=TIMEOUT)(mirror + path.name, file, None)
                    file.flush()
                    content = read(part)
            except (OSError, DataError) as error:  # requests' errors are OSErrors
                reasons.append(f"{mirror}{path.name}: {str(error).removeprefix(f'{part}: ')}")
                continue
        return content
    raise DownloadError("\n  ".join([f"{path.name}: no mirror could provide it.", *reasons, otherwise]))
