"""The pool of memory: arrays that are there at the same time never have memory in common, on any Python."""

from __future__ import annotations

import gc
import importlib
import re
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorgrad.core import memory
from tensorgrad.core.memory import POOLED, Pool, new

FLOAT = np.dtype(np.float32)
SIZES = [(POOLED // 4,), (2, POOLED // 8), (POOLED // 4 + 1,), (3, POOLED // 4)]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Pool:
    pool = Pool()
    monkeypatch.setattr(memory, "_pool", pool)
    return pool


def hold(array: np.ndarray, how: int) -> Any:
    """Something that refers to the memory of an array, though not to the array."""
    if how == 0:
        return array
    if how == 1:
        return array[..., 1:]
    if how == 2:
        return array.reshape(-1)[::-2][:5]
    if how == 3:
        return memoryview(array)
    if how == 4:
        return memoryview(array.reshape(-1).base)  # of what lends the memory
    if how == 5:
        return np.frombuffer(array, np.uint8)
    if how == 6:
        return np.from_dlpack(array)
    if how == 7:
        return iter(array)
    return array.view(np.int32).T


def bytes_of(held: Any) -> np.ndarray | None:
    if isinstance(held, np.ndarray):
        return held
    return np.asarray(held) if isinstance(held, memoryview) else None


def lies_in(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@settings(max_examples=max(settings().max_examples // 2, 10))
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.booleans(), st.integers(0, 5)), max_size=30))
def test_no_two_arrays_share_memory(steps: list[tuple[int, int, bool, int]]) -> None:
    """Allocations, views of all kinds, deaths, and cycles that the garbage collector finds some time."""
    held: list[Any] = []
    marks: list[tuple[Any, float]] = []
    for number, (size, how, cycle, dies) in enumerate(steps):
        array = new(SIZES[size], FLOAT)
        assert array.shape == SIZES[size]
        assert array.dtype == FLOAT
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert lies_in(array) % 64 == 0
        for other in held:
            if (seen := bytes_of(other[0])) is not None:
                assert not np.may_share_memory(array, seen)
        array[...] = number
        entry = [hold(array, how)]
        if cycle:
            entry.append(entry)  # type: ignore[arg-type]
        held.append(entry)
        marks.append((entry, number))
        del array, entry
        if dies < len(held):
            gone = held.pop(dies)
            marks = [m for m in marks if m[0] is not gone]
            del gone
        if number % 7 == 6:
            gc.collect()
        for entry, value in marks:
            seen = entry[0]
            if isinstance(seen, np.ndarray) and seen.dtype == FLOAT:
                assert (seen == value).all()


def test_a_piece_is_used_again(fresh: Pool) -> None:
    """Memory that is warm: what the pool is for."""
    first = new((POOLED,), FLOAT)
    view, place = first[3:], lies_in(first)
    del first
    assert lies_in(new((POOLED,), FLOAT)) != place
    del view
    assert lies_in(new((POOLED,), FLOAT)) == place
    assert not fresh.lent
    fresh.drop()
    assert not fresh.free


def test_what_is_small_is_no_matter_of_the_pool(fresh: Pool) -> None:
    assert new((POOLED // 4 - 1,), FLOAT).base is None
    assert new((0, 5), FLOAT).shape == (0, 5)
    assert fresh.requests == 0


def test_no_more_than_a_number_of_pieces_is_kept(fresh: Pool) -> None:
    arrays = [new((POOLED // 4,), FLOAT) for _ in range(70)]
    del arrays
    assert sum(map(len, fresh.free.values())) == 64


@pytest.mark.parametrize("count", [0, 2, 3, 1000])
def test_a_python_that_counts_references_otherwise(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Some borrow references, some have threads of their own count: what is said by sys.getrefcount does not matter."""
    monkeypatch.setattr(sys, "getrefcount", lambda _: count)
    arrays = [new((POOLED // 4,), FLOAT) for _ in range(5)]
    assert len({lies_in(a) for a in arrays}) == 5
    for i, a in enumerate(arrays):
        a[...] = i
    assert [a[0] for a in arrays] == [0, 1, 2, 3, 4]


def test_nothing_decides_by_a_count_of_references() -> None:
    """What is counted differs from one Python to another, without a word."""
    package = Path(memory.__file__).parent.parent
    models = Path(importlib.import_module("tensorgrad.models").__file__ or "").parent
    assert len(sources := [*package.rglob("*.py"), *models.rglob("*.py")]) > 100
    assert not [str(path) for path in sources if re.search(r"getrefcount|ob_refcnt|get_referrers", path.read_text())]


def test_arrays_that_die_in_another_thread() -> None:
    """What is handed over and dies elsewhere comes back, and nobody ever sees another one's numbers."""
    wrong: list[str] = []
    passed: list[np.ndarray] = []

    def work(me: int) -> None:
        mine: list[np.ndarray] = []
        for i in range(60):
            array = new(SIZES[(me + i) % 2], FLOAT)
            array[...] = me * 1000 + i
            mine.append(array)
            passed.append(array[..., ::2])
            del array
            if len(mine) > 3:
                old = mine.pop(0)
                if not (old == old.flat[0]).all() or int(old.flat[0]) // 1000 != me:
                    wrong.append(f"{me} {i}")
            if len(passed) > 5:
                passed.pop(0)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_goes_with_the_last_reference() -> None:
    array = new((POOLED,), FLOAT)
    lender = weakref.ref(array.base)
    keep = [array]
    keep.append(keep)  # type: ignore[arg-type]
    del array
    del keep
    gc.collect()
    assert lender() is None
