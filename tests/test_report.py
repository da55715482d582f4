"""What reports say: findings from matrices of verdicts, put together of pieces, and in words."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorgrad import Tensor
from tensorgrad.testing import Finding, Report, gradcheck, report
from tensorgrad.testing.report import MEANING, PASSED
from tensorgrad.testing.strategies import values
from tensorgrad.testing.verdicts import VERDICTS, coded, worst

NUMBERS = st.sampled_from([0.0, 1.0, -2.0, 1e-9, 3e8, math.nan, math.inf]) | st.floats(-5, 5)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of verdicts, recorded and numerical derivatives."""
    shape = draw(SHAPES)
    floats = hnp.arrays(np.float64, shape, elements=NUMBERS)
    return draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, len(VERDICTS) - 1))), draw(floats), draw(floats)


def found(codes: np.ndarray, a: np.ndarray, b: np.ndarray, first_row: int = 0, **how: float) -> Finding:
    return Finding.of("w", (3,), 1, codes, a, b, lambda at: f"{at[0] + first_row},{at[1]}", **how)


@given(given=matrices())
def test_findings_of_words_and_of_codes(given: tuple[np.ndarray, ...]) -> None:
    codes, a, b = given
    words = np.array(VERDICTS)[codes].reshape(codes.shape)
    assert repr(found(codes, a, b)) == repr(found(words, a, b))
    np.testing.assert_array_equal(coded(words), codes)
    assert worst(words) == worst(codes) == worst(words.ravel().tolist()) == VERDICTS[codes.max(initial=0)]
    assert found(codes, a, b).verdicts == Counter(words.ravel().tolist())


@given(given=matrices(), block=st.integers(1, 7))
def test_the_row_shows_the_worst_place(given: tuple[np.ndarray, ...], block: int) -> None:
    """Whatever the pieces are that it looks at: with the worst verdict, and of those with the largest error."""
    codes, a, b = given
    assume(codes.size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "BLOCK", block)
        f = found(codes, a, b)
    at = tuple(map(int, f.where.split(",")))
    assert VERDICTS[codes[at]] == f.verdict == VERDICTS[codes.max()]
    np.testing.assert_array_equal([f.recorded, f.numerical], [a[at], b[at]])

    def error(x: float, y: float) -> float:
        largest = max((abs(z) for z in [*a.flat, *b.flat] if math.isfinite(z)), default=0.0)
        away = abs(x - y) / max(abs(x), abs(y), 1e-3 * largest, 1e-12) if x != y else 0.0
        return math.inf if math.isnan(away) else away

    errors = [error(float(x), float(y)) for x, y in zip(a[codes == codes.max()], b[codes == codes.max()], strict=True)]
    assert error(f.recorded, f.numerical) == max(errors)


@given(given=matrices(), cuts=st.lists(st.integers(0, 5), max_size=3))
def test_pieces_joined_are_the_whole(given: tuple[np.ndarray, ...], cuts: list[int]) -> None:
    codes, a, b = given
    ends = [0, *sorted(min(cut, len(codes)) for cut in cuts), len(codes)]
    top = max((abs(z) for z in [*a.flat, *b.flat] if math.isfinite(z)), default=0.0)
    stripes = [slice(*pair) for pair in pairwise(ends)]
    parts = [found(codes[s], a[s], b[s], s.start, largest=top) for s in stripes]
    joined, whole = Finding.joined(parts), found(codes, a, b)
    assert joined.verdicts == whole.verdicts
    assert joined.verdict == whole.verdict
    if whole.verdict not in ("wrong", "differs"):  # of those the relative error is that beside the numbers themselves
        np.testing.assert_equal(joined.relative, whole.relative)


def test_a_finding_takes_no_further_matrices() -> None:
    """Beside a byte for each verdict and the two matrices of numbers, which are there."""
    shape = (1500, 1500)
    codes, a = np.zeros(shape, np.uint8), np.ones(shape)
    codes[7, 8] = VERDICTS.index("wrong")
    b = a.copy()
    b[7, 8] = 2
    tracemalloc.start()
    f = found(codes, a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (f.where, f.recorded, f.numerical) == ("7,8", 1.0, 2.0)
    assert f.verdicts == {"ok": a.size - 1, "wrong": 1}
    assert peak < a.nbytes / 4


# What is printed


FAULTS = st.sampled_from([0.0, 0.5, -1.0, 1.001, 1 + 1e-4, 2.0, 1e6])
FUNCTIONS = {
    "tanh": lambda x: x.tanh(),
    "relu": lambda x: x.relu() * 3,
    "sum of squares": lambda x: (x * x).sum(),
    "exp of abs": lambda x: x.abs().exp() * 1e-3,
}


@given(x=values((2, 3)), fault=FAULTS, f=st.sampled_from(list(FUNCTIONS)), entries=st.integers(1, 63), scale=st.integers(-8, 8))
def test_wrong_rows_show_numbers_that_differ(x: np.ndarray, fault: float, f: str, entries: int, scale: int) -> None:
    """A row that says "wrong" beside two equal numbers would contradict itself."""
    factor = np.where(np.reshape([bool(entries >> i & 1) for i in range(6)], x.shape), fault, 1.0)

    def faulty(x: Tensor) -> Tensor:
        return FUNCTIONS[f](x * factor - x.detach() * (factor - 1)) * 10.0**scale

    for mode in ("full", "directional"):
        result = gradcheck(faulty, x, mode=mode, raises=False)
        for found, row in zip(result.findings, str(result).splitlines()[2:], strict=False):
            assert found.absolute == abs(found.recorded - found.numerical)
            if found.verdict == "wrong":
                assert found.absolute > 1e-6 * max(abs(found.recorded), abs(found.numerical))
                assert found.relative > 1e-6
                *_, recorded, numerical = row.split()
                assert recorded != numerical


def test_numbers_that_differ_are_printed_apart() -> None:
    f = Finding.single("w", (), 1, "wrong", "y by x", 0.1, 0.1 * (1 + 1e-14))
    recorded, numerical = str(Report([f])).splitlines()[-2].split()[-2:]
    assert (float(recorded), float(numerical)) == (f.recorded, f.numerical)


def test_non_finite_says_what_and_where() -> None:
    def meaning(where: str, recorded: float = math.nan, numerical: float = math.nan) -> str:
        return Finding.single("w", (2,), 1, "non-finite", where, recorded, numerical).meaning()

    assert meaning("value y[0, 1] = inf") == "non-finite: the function's own value is not finite: y[0, 1] = inf"
    assert meaning("y[0] by [1]", math.inf, 1.0) == "non-finite: the recorded gradient of w is inf: y[0] by [1]"
    assert meaning("y[0] by [1]", math.nan, 1.0) == "non-finite: the recorded gradient of w is nan: y[0] by [1]"
    assert meaning("y[0] by [1]", 1e12) == (
        "non-finite: the values a small step away from the point are not finite: w, y[0] by [1]; at the point itself they are, "
        "and so is the recorded gradient, 1e+12"
    )
    assert meaning("") == "non-finite: a value or a gradient is NaN or infinite"


def test_what_is_allowed_passes() -> None:
    findings = [Finding.single(f"x{i}", (), 1, verdict) for i, verdict in enumerate(PASSED)]
    assert Report(findings)
    findings.append(Finding.single("w", (), 1, "precision"))
    strict = Report(findings)
    assert not strict
    assert [f.name for f in strict.failed] == ["w"]
    assert "FAILED" in str(strict)
    assert "allow_precision=True" in str(strict)
    lenient = Report(findings, allowed=frozenset({*PASSED, "precision"}))
    assert lenient
    assert lenient.failed == []
    assert "passed" in str(lenient)
    lenient.findings.append(Finding.single("v", (), 1, "wrong"))
    assert [f.name for f in lenient.failed] == ["v"]


def test_notes_stand_below_the_table() -> None:
    result = Report([Finding.single("w", (), 1, "kink")], notes=["float32: left out, the model has integers only"])
    assert str(result).splitlines()[-2:] == [f"kink: {MEANING['kink']}", result.notes[0]]
    assert Report().notes is not Report().notes


def test_every_verdict_has_a_meaning() -> None:
    assert list(MEANING) == list(VERDICTS)
