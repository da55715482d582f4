"""Files that are downloaded once, on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tensorgrad.core.files import replacing
from tensorgrad.errors import DataError, DownloadError, MissingDependencyError

TIMEOUT = 30  # seconds without an answer, or without another byte

T = TypeVar("T")


def fetch(path: Path, mirrors: Sequence[str], read: Callable[[Path], T], otherwise: str) -> T:
    """Download the file of this name from the first mirror that has a good one to `path`, and return what `read` makes of it.

    mirrors    addresses of folders, each with its slash
    read       reads the file and raises DataError if it is not what it should be; only what it accepts gets to `path`
    otherwise  what to do without the network, for the error

    Raises DownloadError, with the reason of every mirror, if none has it; MissingDependencyError without pooch and tqdm.
    """
    try:
        from pooch import HTTPDownloader
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingDependencyError(
            f"{path.name}: downloading takes pooch and tqdm, which are not both installed; pip install pooch tqdm. {otherwise}"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for mirror in mirrors:
        part = path
        # without a terminal there is no bar; pooch asks for its length, so it has one before the server says it
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
    raise DownloadError("\n  ".join([f"{path.name}: no mirror gave it.", *reasons, otherwise]))
