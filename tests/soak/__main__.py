"""The command line: `python -m tests.soak --help`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

parser = argparse.ArgumentParser(
    "python -m tests.soak", description="Check very many right programs; none may be called wrong."
)  # fmt: skip
parser.add_argument("--cases", type=int, default=1000, help="how many (default 1000)")
parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default 0)")
parser.add_argument("--processes", type=int, default=2, help="how many run at once (default 2)")
parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further block of cases after that")
parser.add_argument("--out", type=Path, help="a file for what comes of each block; those in it are not run again")
parser.add_argument("--only", help="one case, as a summary names it: kind/seed/number")


def main(options: argparse.Namespace) -> int:
    from tests.soak import run

    if options.only:
        from tests.soak.cases import outcome

        kind, seed, number = options.only.split("/")
        found = outcome(kind, int(seed), int(number))
        print(f"{found.name}: {' '.join(found.verdicts)}\n{found.text}".rstrip())
        return int(found.alarm)
    found = run.soak(options.cases, options.seed, options.processes, options.minutes, options.out)
    print(run.summary(found))
    return int(any(b.alarms for b in found))


if __name__ == "__main__":
    sys.exit(main(parser.parse_args()))
