"""What there is: the card, its driver, the versions of everything that is compared. `python -m tests.gpu.facts`"""

from __future__ import annotations

import importlib
import subprocess
import time

from tensorgrad.core import backend
from tensorgrad.errors import TensorgradError

PACKAGES = ("numpy", "cupy", "torch", "jax", "numba", "sklearn", "hypothesis", "pytest", "xdist", "graphviz", "pygraphviz")


def main() -> int:
    """2 where there is no GPU."""
    try:
        cupy = backend.cupy()
    except TensorgradError as error:
        print(f"nothing can be run here: {error}")
        return 2
    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(0)["name"].decode()
    free, total = runtime.memGetInfo()
    print(f"{name}, {total / 2**30:.0f} GiB of which {free / 2**30:.0f} are free, {runtime.getDeviceCount()} devices")
    print(f"CUDA {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}")
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.max.sm", "--format=csv,noheader"]
        print(subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip())
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"nvidia-smi: {error}")
    for package in PACKAGES:
        since = time.perf_counter()
        try:
            version = getattr(importlib.import_module(package), "__version__", "?")
            print(f"{package} {version}, imported in {time.perf_counter() - since:.1f} s", flush=True)
        except Exception as error:  # whatever a broken installation raises is a fact, too
            print(f"{package}: {type(error).__name__}: {error}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
