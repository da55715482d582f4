"""Time to fit, and accuracy, against scikit-learn's with equal parameters: `python -m tests.benchmarks.estimators`.

Each fit runs in a process of its own, the libraries taking turns. "first" is the first fit of a process, in which tensorgrad
loads its kernels, which lie on disk; "again" is the second one. "products alone" are the matrix products of the same steps by
NumPy and nothing else, with all of BLAS's threads: what would be left if all else cost nothing. Equal `random_state` means
equal weights, batches and, to rounding, losses: that is asserted. MNIST is read from the folder that TENSORGRAD_DATA names.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import multiprocessing
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad import data
from tests.benchmarks.__main__ import Report, machine, versions

AIM = 3.0  # times as fast as scikit-learn

# data set, dtype of X, parameters; scikit-learn's example "Visualization of MLP weights on MNIST" is the last one
WORKLOADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "digits": ("digits", "float32", {}),
    "digits64": ("digits", "float64", {}),
    "mnist": ("mnist", "float32", {"max_iter": 10}),
    "mnist64": ("mnist", "float64", {"max_iter": 10}),
    "mnist-3": ("mnist", "float32", {"hidden_layer_sizes": (200, 100, 50), "batch_size": 64, "max_iter": 5}),
    "filters": (
        "mnist",
        "float64",
        {"hidden_layer_sizes": (40,), "max_iter": 8, "solver": "sgd", "learning_rate_init": 0.2},
    ),
}
LIBRARIES = ("tensorgrad", "scikit-learn", "products alone", "tensorgrad, dtype='float32'")


@dataclass
class Fits:
    """What was measured in each round."""

    first: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    accuracy: float = float("nan")
    losses: list[float] = field(default_factory=list)


def load(name: str, dtype: str) -> tuple[np.ndarray, ...]:
    """X and y to train on, X and y to test with."""
    if name == "mnist":
        x, y, x_test, y_test = data.load_mnist()
        return (x / 255).astype(dtype), y, (x_test / 255).astype(dtype), y_test
    x, y = data.load_digits()
    x_train, y_train, x_test, y_test = data.split((x / 16).astype(dtype), y, 0.2, seed=0)
    return x_train, y_train, x_test, y_test


def serve(library: str, workload: str, pipe: Connection) -> None:
    """Fit twice; send seconds of both, the accuracy and the losses of each epoch."""
    name, dtype, parameters = WORKLOADS[workload]
    x, y, x_test, y_test = load(name, dtype)
    if library == "products alone":
        pipe.send(([products_alone(x, y, parameters) for _ in range(2)], float("nan"), []))
        return
    warnings.simplefilter("ignore")  # that max_iter was too few
    if library == "scikit-learn":
        from sklearn.neural_network import MLPClassifier as kind
    else:
        from tensorgrad.models import MLPClassifier as kind
    if library.endswith("'float32'"):
        parameters = {**parameters, "dtype": "float32"}
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        model = kind(random_state=0, **parameters).fit(x, y)
        seconds.append(time.perf_counter() - start)
    pipe.send((seconds, model.score(x_test, y_test), model.loss_curve_))


def products_alone(x: np.ndarray, y: np.ndarray, parameters: dict[str, Any]) -> float:
    """Seconds of the matrix products of all steps: of each layer forward, its weights' gradient and, but for the first layer,
    its input's."""
    widths = [x.shape[1], *parameters.get("hidden_layer_sizes", (100,)), len(np.unique(y))]
    size = parameters.get("batch_size", 200)
    full, rest = divmod(len(x), size)
    rng = np.random.default_rng(0)
    products: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for rows in {size, rest} - {0}:
        products[rows] = []
        for i, (m, n) in enumerate(itertools.pairwise(widths)):
            h, w, g = (rng.normal(size=shape).astype(x.dtype) for shape in ((rows, m), (m, n), (rows, n)))
            products[rows] += [(h, w, g.copy()), (h.T, g, w.copy()), *([(g, w.T, h.copy())] if i else [])]
    start = time.perf_counter()
    for _ in range(parameters.get("max_iter", 200)):
        for rows, times in ((size, full), (rest, 1 if rest else 0)):
            for _ in range(times):
                for a, b, out in products[rows]:
                    np.matmul(a, b, out)
    return time.perf_counter() - start


def measure(workload: str, rounds: int) -> dict[str, Fits]:
    """Every library, taking turns for so many rounds."""
    context = multiprocessing.get_context("spawn")
    found = {library: Fits() for library in LIBRARIES if WORKLOADS[workload][1] == "float64" or "dtype" not in library}
    for _ in range(rounds):
        for library, fits in found.items():
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(library, workload, there))
            process.start()
            there.close()
            (first, again), fits.accuracy, fits.losses = here.recv()
            process.join()
            fits.first.append(first)
            fits.again.append(again)
    # with 24 bits, what rounding began has grown to percents after thousands of steps
    rtol, epochs = (1e-6, 5) if WORKLOADS[workload][1] == "float64" else (0.02, 2)
    np.testing.assert_allclose(found["tensorgrad"].losses[:epochs], found["scikit-learn"].losses[:epochs], rtol=rtol)
    return found


def table(found: dict[str, Fits]) -> list[list[str]]:
    """A row for each library."""
    first, again = (float(np.median(getattr(found["scikit-learn"], name))) for name in ("first", "again"))
    limit = float(np.median(found["products alone"].again))
    names = [
        "",
        "first fit",
        "times as fast",
        "again",
        "min to max",
        "times as fast",
        "share of the limit",
        "accuracy",
        "epochs",
    ]
    rows = [[*names, "aim"]]
    for library, fits in found.items():
        a, b = float(np.median(fits.first)), float(np.median(fits.again))
        spread = f"{min(fits.again):.2f} to {max(fits.again):.2f} s"
        aim = "" if not library.startswith("tensorgrad") else "met" if again / b >= AIM else "missed"
        seconds = [f"{a:.2f} s", f"{first / a:.2f}", f"{b:.2f} s", spread, f"{again / b:.2f}"]
        share = "" if "dtype" in library else f"{limit / b:.2f}"
        rows.append([library, *seconds, share, f"{fits.accuracy:.2%}", str(len(fits.losses)), aim])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often the libraries take turns (default 5)")
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    parser.add_argument("--markdown", type=Path, help="write the tables to this file too")
    args = parser.parse_args()
    report = Report()
    report.text(f"{datetime.date.today()}: {machine()}; {versions()}")
    for workload in args.only:
        name, dtype, parameters = WORKLOADS[workload]
        report.text(
            f"{workload}: {name}, X of {dtype}, MLPClassifier({', '.join(f'{k}={v!r}' for k, v in parameters.items())})"
        )
        report.rows(table(measure(workload, args.rounds)))
    if args.markdown:
        args.markdown.write_text("\n".join(report.markdown))


if __name__ == "__main__":
    main()
