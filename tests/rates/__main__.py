"""How often a check passes what is wrong and refuses what is right: `python -m tests.rates`.

python -m tests.rates                        both corpora at 40 seeds
python -m tests.rates --seeds 5 --processes 1
python -m tests.rates --kinds kink second    only kinds (or names) that have one of these words
python -m tests.rates --wrong | --right      one corpus only
python -m tests.rates --twins                the wrong ones with their faults mended: none may be refused
python -m tests.rates --peers                the part that others can express, beside their checks (see peers.py)
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from tests import rates
from tests.rates.count import chosen, run, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="how many (default 40)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    parser.add_argument("--kinds", nargs="+", metavar="WORD", help="only kinds or names with one of these words")
    parser.add_argument("--wrong", action="store_true", help="only the wrong ones")
    parser.add_argument("--right", action="store_true", help="only the right ones")
    parser.add_argument("--twins", action="store_true", help="the wrong ones with their faults mended")
    parser.add_argument("--slow", type=int, default=0, metavar="N", help="also the N cases that took longest")
    parser.add_argument("--peers", action="store_true", help="beside the checks of others")
    args = parser.parse_args()
    if args.peers:
        from tests.rates import peers

        return peers.main(args.seeds)
    rates.load()
    cases = chosen(args.kinds, None if args.wrong == args.right else args.wrong, args.twins)
    jobs = [(str(c), seed, args.twins) for c in cases for seed in range(args.first, args.first + args.seeds)]
    start = time.perf_counter()
    if args.processes > 1:
        with multiprocessing.get_context("spawn").Pool(args.processes, rates.load) as pool:
            rows = [row for found in pool.imap(run, jobs, chunksize=4) for row in found]
    else:
        rows = [row for job in jobs for row in run(job)]
    print("\n".join(table(rows, args.twins)))
    print(f"{time.perf_counter() - start:.0f} s, {sum(row[4] for row in rows):.0f} s in checks")
    if args.slow:
        spent: Counter[str] = Counter()
        for name, *_, seconds in rows:
            spent[name] += seconds  # type: ignore[assignment]
        print(*[f"    {seconds:7.1f} s  {name}" for name, seconds in spent.most_common(args.slow)], sep="\n")
    sys.exit(any(row[3] for row in rows))


if __name__ == "__main__":
    main()
