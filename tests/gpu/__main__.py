"""The first minutes on a machine with a GPU, the most informative first: `python -m tests.gpu --minutes 8 --out FOLDER`

What there is; every kernel, product and captured step against float64; steps against PyTorch's and JAX's, one workload after
the other; the tests that are meant for a GPU. Each is a process with a limit of its own, which ends what hangs, and none stops
the others. What they print is in FOLDER as it is printed, the tables in FOLDER/tables.md.

It needs no network, and no installation of this checkout: wheels that `python -m tests.gpu.wheels` has fetched are used.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.gpu.wheels import FOLDER

ROOT = Path(__file__).parents[2]
STAGES = {  # seconds at the most, and what is run
    "facts": (60, ["-m", "tests.gpu.facts"]),
    "kernels": (150, ["-m", "tests.gpu.kernels"]),
    **{f"bench-{name}": (75, ["-m", "tests.gpu.measure", name]) for name in ("W2", "wide", "W1", "W4")},
    "tests": (240, ["-m", "pytest", "-q", "-rf", "--tb=short", "-p", "no:cacheprovider", "--maxfail=25", "--timeout=60"]),
    **{f"bench-{name}": (75, ["-m", "tests.gpu.measure", name]) for name in ("W3", "W3b")},
}
TESTS = ["test_cuda.py", "test_cuda_silent.py", "test_cuda_vmap.py"]
SHOWN = 40  # lines of each


def installed_at(site: Path) -> dict[str, str]:
    """The environment in which this checkout, and the wheels that were fetched, are found; what it takes is put into `site`."""
    wheels = sorted(map(str, (ROOT / FOLDER).glob("*.whl")))
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site)]
        subprocess.run([*pip, *wheels], check=False)
    if importlib.util.find_spec("tensorgrad.models") is None:  # it lies beside the package until that is installed
        (site / "tensorgrad").mkdir()
        for part in [*(ROOT / "tensorgrad").iterdir(), ROOT / "models"]:
            (site / "tensorgrad" / part.name).symlink_to(part)
    path = os.pathsep.join([str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TENSORGRAD_CACHE": str(site / "kernels")}


def plugin() -> list[str]:
    """The option for pytest to find the package's own plugin, where its entry point is not installed."""
    names = {point.name for point in importlib.metadata.entry_points(group="pytest11")}
    return [] if "tensorgrad" in names else ["-p", "tensorgrad.testing.plugin"]


def run(name: str, seconds: float, command: list[str], out: Path, site: Path, env: dict[str, str]) -> int | None:
    """The exit status of a stage; None if its time was up. What it prints goes to a file as it is printed."""
    log = out / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=site, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, 9)
            process.wait()
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(line[:240] for line in lines[-SHOWN:]), flush=True)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything (default 8)")
    parser.add_argument("--out", type=Path, default=Path("gpu-run"), help="a folder for what is found (default gpu-run)")
    parser.add_argument("--only", choices=STAGES, nargs="+", default=list(STAGES))
    args = parser.parse_args()
    begin, out = time.monotonic(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tables = out / "tables.md"
    tables.write_text(f"{datetime.date.today()}\n\n")
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        env = installed_at(Path(folder))
        for name in (name for name in STAGES if name in args.only):
            most, command = STAGES[name]
            left = 60 * args.minutes - (time.monotonic() - begin)
            if left < 8:
                print(f"== {name}: no time left", flush=True)
                failed.append(name)
                continue
            markdown = Path(folder) / f"{name}.md"
            extra = ["--markdown", str(markdown)] if "bench" in name else []
            if name == "tests":
                where = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), *[str(ROOT / "tests" / t) for t in TESTS]]
                extra = [*plugin(), "-k", "cuda and not stand", *where]
            print(f"== {name} (at most {min(most, left):.0f} s, {left:.0f} s left)", flush=True)
            status = run(name, min(most, left), [*command, *extra], out, Path(folder), env)
            print(f"== {name}: {'its time was up' if status is None else f'exit status {status}'}", flush=True)
            if status != 0:
                failed.append(name)
            if name == "facts" and status == 2:  # there is no GPU
                return 2
            with tables.open("a") as file:
                if name == "facts":
                    file.write((out / "facts.log").read_text(errors="replace") + "\n")
                elif markdown.exists():
                    file.write(markdown.read_text() + "\n")
    print(f"== {time.monotonic() - begin:.0f} s; {', '.join(failed) or 'nothing'} failed; tables in {tables}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
