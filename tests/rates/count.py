"""Runs of the corpus, and their table."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable

from tests.rates.case import CORPUS, Case, outcome_of

Row = tuple[str, str, int, str, float]  # case, mode, seed, outcome, seconds


def run(job: tuple[str, int, bool]) -> list[Row]:
    name, seed, twin = job
    case, rows = CORPUS[name], []
    for mode in case.modes:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # as in the tests: a check does not warn
            outcome = outcome_of(case, seed, mode, twin)
        rows.append((name, mode, seed, outcome, time.perf_counter() - start))
    return rows


def chosen(words: Iterable[str] | None, wrong: bool | None, twins: bool = False) -> list[Case]:
    cases = [c for c in CORPUS.values() if wrong is None or c.wrong == wrong]
    if twins:
        cases = [c for c in cases if c.wrong and c.twin]
    return [c for c in cases if not words or any(word.lower() in str(c).lower() for word in words)]


def table(rows: list[Row], twins: bool) -> list[str]:
    """One line for each kind, wrong ones first, and under it the cases that came out otherwise than they should."""
    lines = [f"{'kind':52} {'cases':>5} {'runs':>6} {'bad':>5}  how"]
    total: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    kinds = dict.fromkeys((CORPUS[name].wrong, CORPUS[name].kind) for name, *_ in rows)
    for wrong, kind in sorted(kinds, key=lambda k: not k[0]):
        of_kind = [row for row in rows if (CORPUS[row[0]].wrong, CORPUS[row[0]].kind) == (wrong, kind)]
        bad = Counter(outcome for *_, outcome, _ in of_kind if outcome)
        how = ", ".join(f"{n} {outcome}" for outcome, n in bad.most_common())
        lines.append(f"{kind:52} {len({row[0] for row in of_kind}):5} {len(of_kind):6} {bad.total():5}  {how}")
        total[wrong] += Counter({"runs": len(of_kind), "bad": bad.total()})
        offenders = Counter((name, mode, outcome) for name, mode, _, outcome, _ in of_kind if outcome)
        runs = Counter((name, mode) for name, mode, *_ in of_kind)
        for (name, mode, outcome), n in offenders.items():
            lines.append(f"    {n} of {runs[name, mode]} {outcome}, {mode}: {name.removeprefix(kind + ': ')}")
    for wrong in (True, False):
        names = {row[0] for row in rows if CORPUS[row[0]].wrong == wrong}
        if names:
            said = (
                "right with their faults mended, refused" if wrong and twins else "wrong, passed" if wrong else "right, refused"
            )
            ever = {row[0] for row in rows if row[3] and row[0] in names}
            kinds_ = len({CORPUS[name].kind for name in names})
            lines.append(
                f"{len(names)} cases of {kinds_} kinds, {said}: {total[wrong]['bad']} of {total[wrong]['runs']} runs, "
                f"{len(ever)} cases at some seed"
            )
    return lines
