"""What the scripts of the five systems share: their flags, the images, the clock, the figures beside the published ones."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    from tensorgrad import data, nn
except ImportError as error:
    if error.name and error.name.startswith("tensorgrad"):  # there is none, or it is another project's
        here = Path(__file__).resolve().parent.parent
        raise SystemExit(
            f"{error}\nIt takes tensorgrad-numpy, not tensorgrad: pip uninstall tensorgrad; pip install -e '{here}[train,draw]'"
        ) from None
    raise

DATASETS = {"mnist": data.load_mnist, "fashion_mnist": data.load_fashion_mnist, "kmnist": data.load_kmnist}
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NAMES = {"fashion_mnist": CLOTHES, "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")}


def flags(doc: str | None, epochs: str, seed: int = 0) -> argparse.ArgumentParser:
    """The flags that every script has; `epochs` says how many there are by default."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help=f"times through the training images (default: {epochs})")
    parser.add_argument("--device", default="cpu", help="where to train: cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--data", type=Path, help="folder of the data (default: $TENSORGRAD_DATA, or a download)")
    parser.add_argument(
        "--seed", type=int, default=seed, help=f"of initial weights and of the order of the images (default: {seed})"
    )
    parser.add_argument("--out", type=Path, default=Path("output"), help="folder for what is written (default: output)")
    return parser


def mnist_flags(doc: str | None, epochs: int, seed: int = 0) -> argparse.ArgumentParser:
    """Those and one for data sets in the form of MNIST."""
    parser = flags(doc, str(epochs), seed)
    parser.set_defaults(epochs=epochs)
    parser.add_argument("--dataset", choices=DATASETS, default="mnist", help="default: mnist")
    return parser


def images(args: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """Training images, their labels, test images, their labels: pixels 0 .. 255 as uint8 (m, 784), labels as int64 (m,).

    A folder may hold them as CSV, the label before the 784 pixels in each line, in files such as mnist_train.csv and
    mnist_test.csv; otherwise it holds the four idx files. Only what the user has not named is held to published checksums.
    """
    csv = [next(iter(sorted(args.data.glob(f"*{part}.csv"))), None) for part in ("train", "test")] if args.data else []
    if any(csv):
        train, test = csv
        if train is None or test is None:
            raise FileNotFoundError(
                f"{args.data}: there is {train or test} alone; expected two files, *train.csv and *test.csv"
            )
        return *data.read_csv(train, dtype="uint8"), *data.read_csv(test, dtype="uint8")
    return DATASETS[args.dataset](args.data, verify=args.data is None)


@dataclass
class Clock:
    """How long a training took: seconds by the clock on the wall, and of the processor's cores together."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def training(model: nn.Module, device: str) -> Iterator[Clock]:
    """Inside the block the model is on the device; after it, in main memory, and the clock says how long that was."""
    clock = Clock()
    if device != "cpu":
        model.to(device)
    wall, cpu = time.perf_counter(), time.process_time()
    yield clock
    clock.wall, clock.cpu = time.perf_counter() - wall, time.process_time() - cpu
    if device != "cpu":
        model.to("cpu")


@dataclass
class Result:
    """A system as its script has trained it: rows of (figure, as published, ours), what it wrote, how long it took.

    dataset   where it is not the one that the figures were published for, they are left out
    """

    system: str
    dataset: str
    seconds: float
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def add(self, what: str, published: str, ours: str) -> None:
        """A figure."""
        self.rows.append((what, published if self.dataset in ("digits", "mnist") else "-", ours))

    def save(self, figure: Any, path: Path) -> None:
        """Write a figure of matplotlib's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        self.written.append(path)

    def __str__(self) -> str:
        cells = [(f"{self.system} on {self.dataset}", "published", "ours"), *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(3)]
        lines = [f"{what:{widths[0]}}  {published:>{widths[1]}}  {ours:>{widths[2]}}" for what, published, ours in cells]
        return "\n".join([*lines, f"wrote {', '.join(map(str, self.written))}"])


def percent(share: float) -> str:
    """0.9611 as 96.11 %."""
    return f"{share:.2%}".replace("%", " %")
