"""All five systems, one after the other, and a table of their figures beside the published ones, in Markdown.

    python examples/all.py                          everything: about ten minutes on two cores
    python examples/all.py --quick                  a few epochs of each: seconds, and far from the figures
    python examples/all.py --dataset fashion_mnist  B to E on other images of the same form

The table and the pictures are written to the folder `output`.
"""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import common
import digits
import mnist_gd
import mnist_llayer
import mnist_logistic
import mnist_sse

SCRIPTS = {"A": digits, "B": mnist_logistic, "C": mnist_gd, "D": mnist_sse, "E": mnist_llayer}
QUICK = {"A": 3, "B": 4, "C": 10, "D": 2, "E": 100}  # epochs


def machine() -> str:
    """The processor and the libraries that do the work."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), name
        )
    found = []
    for package in ("numpy", "numba"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(found)}"


def table(results: list[common.Result], where: str) -> str:
    """Markdown: a row for each figure; time and machine in the first row of each system."""
    lines = ["| system | figure | published | ours | time | machine |", "| --- | --- | --- | --- | --- | --- |"]
    for result in results:
        head = [result.system, f"{result.seconds:,.1f} s", where]
        for what, published, ours in result.rows:
            if what != "time":
                lines.append(f"| {head[0]} | {what} | {published} | {ours} | {head[1]} | {head[2]} |")
                head = ["", "", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few epochs of each")
    parser.add_argument("--only", default="ABCDE", help="which systems, such as BDE (default: ABCDE)")
    parser.add_argument("--dataset", choices=common.DATASETS, default="mnist", help="for B to E (default: mnist)")
    parser.add_argument("--data", help="the folder of that (default: $TENSORGRAD_DATA, or a download)")
    parser.add_argument("--device", default="cpu", help="where to train: cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--seed", help="of all (default: that of each script)")
    parser.add_argument("--out", default="output", help="folder for what is written (default: output)")
    args = parser.parse_args()
    if not set(args.only.upper()) & SCRIPTS.keys():
        parser.error(f"--only {args.only}: expected some of {', '.join(SCRIPTS)}")
    results = []
    for letter, script in SCRIPTS.items():
        if letter not in args.only.upper():
            continue
        flags = ["--device", args.device, "--out", args.out, *(["--seed", args.seed] if args.seed else [])]
        if letter != "A":
            flags += ["--dataset", args.dataset, *(["--data", args.data] if args.data else [])]
        flags += ["--epochs", str(QUICK[letter])] if args.quick else []
        print(f"\n{letter}: {script.__name__}.py {' '.join(flags)}", flush=True)
        results.append(script.main(flags))
    written = Path(args.out) / "table.md"
    written.write_text(table(results, machine() if args.device == "cpu" else f"{machine()}; {args.device}") + "\n")
    print(f"\n{written.read_text()}\nwrote {written}")


if __name__ == "__main__":
    main()
