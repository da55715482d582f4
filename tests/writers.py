"""Everything that writes a file, called so that what it has written says by whom; run as a script it writes again and again."""

from __future__ import annotations

import csv
import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.data import download
from tensorgrad.data.npz import read_npz
from tensorgrad.nn import functional as F

ROWS = 300  # of a history: more than one call of the system's write


def history(i: int) -> train.History:
    return train.History({"epoch": [i] * ROWS, "loss": [float(i)] * ROWS})


def run(i: int) -> Any:
    """As much of a Run as loggers look at."""
    return SimpleNamespace(history=history(i), row={"epoch": i, "loss": float(i)})


def save(path: Path, i: int) -> None:
    train.save(path, extra={"a": np.full(20_000, i, float), "i": i})


def saved(path: Path) -> set[int]:
    found = train.load(path)["extra"]
    return {int(found["i"]), *map(int, np.unique(found["a"]))}


def fit(path: Path, i: int) -> None:
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": np.full((2, 2), i), "bias": np.full(2, i)})
    loader = data.DataLoader(np.zeros((4, 2), np.float32), np.zeros(4, int))
    optimiser = optim.SGD(model.parameters(), lr=0.0)
    train.fit(model, F.cross_entropy, optimiser, loader, 1, checkpoint=path, progress=False, compile=False)


def fitted(path: Path) -> set[int]:
    return {int(v) for array in train.load(path)["model"].values() for v in array.flat}


def log(kind: type[train.Callback]) -> Callable[[Path, int], None]:
    def write(path: Path, i: int) -> None:
        logger = kind(path)  # type: ignore[call-arg]
        logger.on_start(run(i))
        logger.on_epoch_end(run(i))

    return write


def logged(path: Path) -> set[int]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) in (ROWS, ROWS + 1), len(rows)
    return {int(row["epoch"]) for row in rows} | {int(float(row["loss"])) for row in rows}


def json_logged(path: Path) -> set[int]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) in (ROWS, ROWS + 1), len(rows)
    return {int(row["epoch"]) for row in rows} | {int(row["loss"]) for row in rows}


def drawing(path: Path, i: int) -> None:
    x = Tensor(np.ones(2), requires_grad=True, name=f"n{i}n")
    y = x
    for _ in range(30):
        y = y * Tensor(np.ones(2), name=f"n{i}n")
    with mock.patch("tensorgrad.draw.graph.render", lambda dot, suffix: dot.encode()):  # Graphviz is not what is looked at
        draw.graph(y.sum(), fold=False).save(path)


def drawn(path: Path) -> set[int]:
    text = path.read_text()
    assert text.rstrip().endswith("}"), text[-20:]
    return {int(n) for n in re.findall(r"n(\d+)n", text)}


class Downloader:
    """In the place of pooch's: a file comes in pieces."""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, url: str, file: Any, _: Any) -> None:
        number = url.split("/")[0]
        for _ in range(100):
            file.write(f"{number}\n".encode() * 100)


def fetch(path: Path, i: int) -> None:
    with mock.patch("pooch.HTTPDownloader", Downloader):
        download.fetch(path, [f"{i}/"], Path.read_bytes, "")


def fetched(path: Path) -> set[int]:
    lines = path.read_text().splitlines()
    assert len(lines) == 10_000
    return {int(line) for line in set(lines)}


# By the name of the file: what writes it with a number, and what reads the numbers that stand in it.
WRITERS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], set[int]]]] = {
    "save.npz": (save, saved),
    "save.safetensors": (save, saved),
    "read.npz": (save, lambda path: {int(read_npz(path)["extra/a"][0])}),
    "fit.npz": (fit, fitted),
    "history.csv": (lambda path, i: history(i).to_csv(path), logged),
    "log.csv": (log(train.CSVLogger), logged),
    "log.jsonl": (log(train.JSONLinesLogger), json_logged),
    "drawing.dot": (drawing, drawn),
    "drawing.svg": (drawing, drawn),
    "download": (fetch, fetched),
}
IN_THREADS = [name for name in WRITERS if not name.startswith(("fit", "download"))]  # mock and compiled steps are the process's


def write_all(folder: Path, number: int, rounds: int) -> None:
    """Every writer, and beside it a thread that writes the same files."""

    def again(names: list[str], i: int) -> None:
        for _ in range(rounds):
            for name in names:
                WRITERS[name][0](folder / name, i)

    beside = threading.Thread(target=again, args=([n for n in IN_THREADS if "drawing" not in n], number + 1))
    beside.start()
    again(list(WRITERS), number)
    beside.join()


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
