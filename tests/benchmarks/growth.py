"""How the time of a training step grows with batch, width and depth: `python -m tests.benchmarks.growth`.

As `python -m tests.benchmarks` measures: a process for each library, turns, equal losses first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.benchmarks.__main__ import Report, in_words, machine, versions
from tests.benchmarks.measure import Net, measure
from tests.benchmarks.steps import PEERS

SERIES: dict[str, dict[int, Net]] = {
    "batch (784-100-10)": {4**k: ((784, 100, 10), 4**k) for k in range(9)},
    "width w (64-w-w-10, batch 64)": {4**k: ((64, 4**k, 4**k, 10), 64) for k in range(2, 7)},
    "depth (20-32-...-32-10, batch 32)": {4**k: ((20, *[32] * 4**k, 10), 32) for k in range(5)},
}
COMPARED = ["tensorgrad", "tensorgrad eager", "PyTorch eager", "JAX jit"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", choices=PEERS, nargs="+", default=COMPARED)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    report = Report()
    report.text(f"{machine()}; {versions()}")
    for series, nets in SERIES.items():
        rows = [[series, *args.peers, "fastest other / tensorgrad"]]
        for size, net in nets.items():
            found = measure(net, args.peers, args.rounds, 0.05)
            others = [m.median for peer, m in found.items() if not peer.startswith("tensorgrad") and m.seconds]
            ratio = f"{min(others) / found['tensorgrad'].median:.2f}" if others else ""
            rows.append([f"{size:,}", *(in_words(m.median) if m.seconds else "-" for m in found.values()), ratio])
        report.rows(rows)
    report.write(args.markdown)


if __name__ == "__main__":
    main()
