"""A slice of the rates, and whether the corpus is what it says; `python -m tests.rates` for all of it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import numpy as np
import pytest

from tensorgrad import fusion
from tests import rates
from tests.rates import oracle
from tests.rates.case import CORPUS, Case, outcome_of
from tests.rates.closed import CLOSED
from tests.rates.count import table
from tests.rates.faults import mended

rates.load()
WRONG = {name: case for name, case in CORPUS.items() if case.wrong}
RIGHT = {name: case for name, case in CORPUS.items() if not case.wrong}
SEEDS = 40


def kinds(cases: dict[str, Case]) -> list[str]:
    return list(dict.fromkeys(case.kind for case in cases.values()))


def drawn(cases: dict[str, Case], kind: str) -> tuple[Case, int]:
    """One case of a kind and a seed, chosen by the kind's name."""
    of_kind = [case for case in cases.values() if case.kind == kind]
    n = sum(kind.encode())
    return of_kind[n % len(of_kind)], n % SEEDS


def test_the_corpus_is_large() -> None:
    assert len(WRONG) >= 400
    assert len(kinds(WRONG)) >= 50
    assert len(RIGHT) >= 400
    assert len(kinds(RIGHT)) >= 20


# What the check says of it


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", kinds(WRONG))
def test_a_wrong_one_of_each_kind_fails(kind: str) -> None:
    case, seed = drawn(WRONG, kind)
    assert [outcome_of(case, seed, mode) for mode in case.modes] == [""] * len(case.modes), str(case)


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", kinds(RIGHT))
def test_a_right_one_of_each_kind_is_not_refused(kind: str) -> None:
    case, seed = drawn(RIGHT, kind)
    assert [outcome_of(case, seed, mode) for mode in case.modes] == [""] * len(case.modes), str(case)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CORPUS)
def test_every_case(name: str) -> None:
    """At one seed, another one for each; `python -m tests.rates` goes through forty."""
    case, seed = CORPUS[name], sum(name.encode()) % SEEDS
    found = {mode: outcome_of(case, seed, mode) for mode in case.modes}
    assert {mode: outcome for mode, outcome in found.items() if outcome} == {}


# Whether it is what it says


def recorded(case: Case, seed: int, rows: int = oracle.MOST) -> oracle.Point:
    """What is recorded for a case, where its fault shows."""
    dtype = np.float32 if case.shows == "float32" else np.float64
    with case.around(), fusion.off() if case.shows == "unfused" else nullcontext():
        return oracle.point(case.make(seed), case.order, seed, rows, dtype, silent=case.shows == "silent")


@pytest.mark.every(100)
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", [0])
def test_a_wrong_one_is_wrong(name: str, seed: int) -> None:
    """Its gradient differs from that of its mended twin by more than rtol, at the same values; and the twin's is right."""
    case = WRONG[name]
    rows = 0 if case.shows == "silent" or case.kind == "not linear in g" else oracle.MOST
    found = recorded(case, seed, rows)
    with mended():
        expected = recorded(case, seed, rows)
        assert oracle.difference(found, expected) > 1.5 * case.options.get("rtol", 1e-6)
        if case.shows != "float32":
            if case.order == 1 and "state" not in case.kind:
                np.testing.assert_allclose(found.at, expected.at, rtol=1e-12, atol=1e-12 * np.abs(expected.at).max())
            if case.kind == "small beside large: an offset":
                return  # long doubles lose in it what they would have to tell
            with case.around(), np.errstate(all="ignore"):
                assert oracle.judge(expected, seed).error < 1e-6


@pytest.mark.every(100)
@pytest.mark.parametrize("name", [name for name in RIGHT if name not in CLOSED])
@pytest.mark.parametrize("seed", [0])
def test_a_right_one_is_right(name: str, seed: int) -> None:
    """Its recorded gradient lies between the slopes of both sides; what these leave uncertain has a closed form."""
    case = RIGHT[name]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = oracle.judge(oracle.point(case.make(seed), case.order, seed), seed)
    if name in oracle.OUT_OF_BRACKET:
        return
    assert found.error < (1e-4 if "precision" in case.allowed else 1e-7)
    assert found.unsure < 0.01 or "precision" in case.allowed or "kink" in case.allowed


@pytest.mark.every(4)
@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_right_one_is_its_closed_form(name: str, seed: int) -> None:
    closed, rtol = CLOSED[name]
    p = oracle.point(RIGHT[name].make(seed), 1, seed)
    np.testing.assert_allclose(p.jacobians[0], np.asarray(closed(*p.arrays), np.float64), rtol=rtol, atol=1e-15)


# Counting


def test_what_is_passed_and_refused_is_counted() -> None:
    wrong, right = next(iter(WRONG)), next(iter(RIGHT))
    rows = [(wrong, "full", 0, "passed", 0.1), (wrong, "full", 1, "", 0.1), (right, "full", 0, "precision", 0.1)]
    text = "\n".join(table(rows, twins=False))
    assert "1 of 2 passed, full" in text
    assert "1 of 1 precision, full" in text
    assert "1 cases of 1 kinds, wrong, passed: 1 of 2 runs, 1 cases at some seed" in text
    assert "1 cases of 1 kinds, right, refused: 1 of 1 runs, 1 cases at some seed" in text


def test_outcomes() -> None:
    wrong, right = WRONG["sign in a rule: exp times -1"], RIGHT["on kinks: relu, 3 entries"]
    assert outcome_of(wrong, 0, "full") == ""
    assert outcome_of(wrong, 0, "full", twin=True) == ""
    with mended():
        assert outcome_of(wrong, 0, "full") == "passed"
    assert outcome_of(right, 0, "full") == ""
    strict = Case(right.name, right.kind, right.make, wrong=False)
    assert outcome_of(strict, 0, "full") == "kink"
