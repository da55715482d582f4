"""The wheels that a bare machine with a GPU lacks, fetched here to be taken along. `python -m tests.gpu.wheels --python 3.12`

Such a machine has CuPy, NumPy, Numba, PyTorch, JAX, scikit-learn, Hypothesis, pytest and its xdist. It has no network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = ["graphviz", "pygraphviz", "pytest-timeout", "threadpoolctl"]
FOLDER = ".wheels"  # of this checkout, and not of its history
LIMIT = 64 << 20  # bytes that may be taken along


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="version of Python over there (default 3.12)")
    version = parser.parse_args().python
    folder = Path(__file__).parents[2] / FOLDER
    platforms = [f"--platform={name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--implementation=cp"]
    status = subprocess.run([*pip, f"--python-version={version}", *platforms, "-d", str(folder), *NAMES]).returncode
    sizes = {wheel.name: wheel.stat().st_size for wheel in sorted(folder.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size / 2**20:6.1f} MiB  {name}")
    if sum(sizes.values()) > LIMIT:
        print(f"{sum(sizes.values()) / 2**20:.0f} MiB are more than may be taken along, {LIMIT / 2**20:.0f}")
        return 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
