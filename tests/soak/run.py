"""Many cases in processes of their own: blocks of them, each a line of the output, and the summary of all."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

BLOCK = 1000
SHOWN = 3  # alarms of one kind that a summary has in full
LONGEST = 4000  # characters of a report that are kept


@dataclass
class Block:
    """What came of some cases.

    which     the number of the block;  cases: of each kind;  seconds: CPU time for them
    verdicts  in how many reports each verdict stands, by kind
    alarms, undecided  (case, name, verdicts, report) of each, the reports of the latter left out
    """

    which: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    alarms: list[tuple[str, str, str, str]] = field(default_factory=list)
    undecided: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, kind: str, number: int, found: Any) -> None:
        self.cases[kind] = self.cases.get(kind, 0) + 1
        counts = self.verdicts.setdefault(kind, {})
        for verdict in found.verdicts:
            counts[verdict] = counts.get(verdict, 0) + 1
        row = f"{kind}/{self.seed}/{number}", found.name, " ".join(found.verdicts)
        if found.alarm:
            self.alarms.append((*row, found.text[:LONGEST]))
        elif found.undecided:
            self.undecided.append((*row, ""))


def sizes(cases: int) -> dict[str, int]:
    """How many of each kind there are in a block of `cases`."""
    from tests.soak.cases import KINDS

    counts = {kind: cases * share // 1000 for kind, (share, _) in KINDS.items()}
    counts["op"] += cases - sum(counts.values())
    return counts


def block(which: int, seed: int, cases: int = BLOCK) -> Block:
    """Run the cases of one block."""
    from tests.soak.cases import outcome

    found = Block(which, seed)
    for kind, count in sizes(cases).items():
        first, start = which * sizes(BLOCK)[kind], time.process_time()
        for number in range(first, first + count):
            found.add(kind, number, outcome(kind, seed, number))
        found.seconds[kind] = time.process_time() - start
    return found


def blocks(cases: int, seed: int, processes: int, minutes: float, done: set[int]) -> Iterator[Block]:
    """The blocks that are not done yet, as they end; none are begun after so many minutes."""
    end = time.monotonic() + 60 * minutes
    tasks = [(which, min(BLOCK, cases - which * BLOCK)) for which in range(-(-cases // BLOCK)) if which not in done]
    if processes < 2:
        for which, count in tasks:
            if time.monotonic() >= end:
                return
            yield block(which, seed, count)
        return
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before the children import NumPy
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        waiting = {pool.submit(block, which, seed, count) for which, count in tasks[: 2 * processes]}
        rest = tasks[2 * processes :]
        while waiting:
            ended = next(as_completed(waiting))
            waiting.remove(ended)
            if rest and time.monotonic() < end:
                which, count = rest.pop(0)
                waiting.add(pool.submit(block, which, seed, count))
            elif time.monotonic() >= end:
                waiting -= {f for f in waiting if f.cancel()}
            yield ended.result()


def soak(cases: int, seed: int, processes: int, minutes: float, out: Path | None) -> list[Block]:
    """Run them, each block a line of `out` as soon as it ends; those that stand there already are not run again."""
    known: list[Block] = []
    if out is not None and out.exists():
        lines = [line for line in out.read_text().splitlines() if line.endswith("}")]  # the last one may be cut off
        known = [b for b in (Block(**json.loads(line)) for line in lines) if b.seed == seed]
        out.write_text("".join(f"{line}\n" for line in lines))
    start, count = time.monotonic(), 0
    for found in blocks(cases, seed, processes, minutes, {b.which for b in known}):
        known.append(found)
        count += sum(found.cases.values())
        if out is not None:
            with out.open("a") as stream:
                stream.write(json.dumps(asdict(found)) + "\n")
        alarms = sum(len(b.alarms) for b in known)
        rate = count / (time.monotonic() - start)
        print(f"{sum(sum(b.cases.values()) for b in known):,} cases, {alarms} alarms, {rate:.0f} a second", flush=True)
    return known


def summary(found: list[Block]) -> str:
    """What came of all, as text."""
    cases = sum((Counter(b.cases) for b in found), Counter())
    seconds = sum(sum(b.seconds.values()) for b in found)
    alarms = sorted(tuple(a) for b in found for a in b.alarms)
    undecided = sorted(tuple(a) for b in found for a in b.undecided)
    total = sum(cases.values())
    lines = [f"{total:,} cases in {seconds:,.0f} s of CPU time, {1e3 * seconds / max(total, 1):.1f} ms each"]
    for kind, n in cases.items():
        verdicts = sum((Counter(b.verdicts.get(kind, {})) for b in found), Counter())
        wrong, open_ = (sum(a[0].startswith(f"{kind}/") for a in rows) for rows in (alarms, undecided))
        counts = ", ".join(f"{v} {k}" for k, v in verdicts.most_common())
        ms = 1e3 * sum(b.seconds.get(kind, 0.0) for b in found) / n
        lines.append(f"{kind:12} {n:8,} cases, {ms:6.1f} ms each   {wrong:5} false alarms   {open_:5} undecided   ({counts})")
    for words, rows in (("false alarms", alarms), ("undecided", undecided)):
        groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for row in rows:
            groups.setdefault((row[0].partition("/")[0], row[1], row[2]), []).append(row)
        lines.append(f"\n{len(rows)} {words}" + (" of these kinds:" if rows else ""))
        for (kind, name, verdicts), members in sorted(groups.items(), key=lambda item: -len(item[1])):
            again = "  ".join(f"--only {row[0]}" for row in members[:SHOWN])
            lines.append(f"{len(members):5}  {kind}: {name}: {verdicts}   {again}")
    if alarms:
        lines.append(f"\nthe first, {alarms[0][0]}:\n{alarms[0][3]}")
    return "\n".join(lines)
