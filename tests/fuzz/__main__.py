"""The command line: `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import os
import sys

parser = argparse.ArgumentParser(
    "python -m tests.fuzz", description="Hunt for compiled steps that differ from the step itself."
)
parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
parser.add_argument("--seed", type=int, default=0, help="the first program (default 0)")
parser.add_argument("--only", type=int, help="one program: print it and what comes of it")
parser.add_argument("--no-numba", action="store_true", help="as if Numba were not installed; otherwise with it")
parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one for each core)")
parser.add_argument("--shrinks", type=int, default=12, help="how many differences of one kind are made small (default 12)")
parser.add_argument("--scripts", help="a folder for a script of each kind of difference")
parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
parser.add_argument("--stride", type=int, default=1, help=argparse.SUPPRESS)


def main(options: argparse.Namespace) -> int:
    if options.no_numba:
        os.environ["TENSORGRAD_NO_NUMBA"] = "1"
    from tests.fuzz import hunt

    numba = not options.no_numba
    if options.work is not None:
        hunt.work(options.work, options.stride, numba, options.seconds, options.shrinks)
        return 0
    if options.only is not None:
        return hunt.show(options.only, numba)
    summary = hunt.hunt(options.seconds, options.seed, numba, options.jobs, options.shrinks)
    hunt.report(summary, options.scripts)
    return int(bool(summary.differences))


if __name__ == "__main__":
    sys.exit(main(parser.parse_args()))
