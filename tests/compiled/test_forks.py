"""Products and chains that threads in machine code share: what one thread computes, whoever does it.

Of integers, whose sums are exact in any order, so that every difference is a fault. Seen to fail when a part is left out,
done twice or begins one row late, and when the status of other threads is not looked at.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.kernels import build, forks, llvm, native, threads
from tensorgrad.kernels.instructions import Form, Instruction, Operand
from tensorgrad.kernels.team import Team, other_cpu_sets, team
from tensorgrad.nn import functional as F
from tests.compiled import NEEDS_NUMBA, kernels, lowered, num_threads

pytestmark = [
    NEEDS_NUMBA,
    pytest.mark.skipif(not threads.controls_blas(), reason="needs threadpoolctl: pip install threadpoolctl"),
    pytest.mark.skipif(native.machine() is None, reason="needs machine code: Linux on x86-64"),
]
SHARED = {"SHARED_FLOPS": 0, "SHARED_PRODUCT": 0, "SHARED_CHAIN": 0}
COUNTS = st.sampled_from([1, 2, 3, 7])


@pytest.fixture(autouse=True, scope="module")
def with_numba() -> Iterator[None]:
    with kernels(numba=True):
        yield


def machine() -> native.Machine:
    found = native.machine()
    assert found is not None
    return found


def operand(array: np.ndarray) -> Operand:
    return Operand(Form.of(array), array=array)


def run(calls: list[Instruction], count: int = 2) -> int:
    """What a program of these calls returns, with a team of so many threads."""
    team.grow(machine(), count)
    program = native.Program(machine(), calls, [])
    with threads.single_threaded_blas():
        return int(program.enter(program.start))


@st.composite
def matrices(draw: st.DrawFn, rows: int, columns: int, dtype: str, stack: tuple[int, ...] = ()) -> np.ndarray:
    """Of integers, row after row or column after column, with gaps or without."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    gap = draw(st.integers(0, 2))
    if draw(st.booleans()):
        return rng.integers(-3, 4, (*stack, rows, columns + gap)).astype(dtype)[..., :columns]
    return rng.integers(-3, 4, (*stack, columns, rows + gap)).astype(dtype).swapaxes(-1, -2)[..., :rows, :]


@settings(deadline=None)
@given(st.data(), *[st.integers(1, 40)] * 2, st.integers(1, 300), st.sampled_from("fd"), COUNTS)
def test_products(data: st.DataObject, m: int, n: int, k: int, dtype: str, count: int) -> None:
    """By rows, by columns, by what is summed over."""
    a, b = data.draw(matrices(m, k, dtype)), data.draw(matrices(k, n, dtype))
    out = np.full((m, n), np.nan, dtype)
    calls = forks.product_calls(machine(), operand(a), operand(b), operand(out), count)
    if calls:
        assert run(calls, count) == 0
        np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))


@settings(deadline=None)
@given(st.data(), *[st.integers(2, 12)] * 3, st.integers(1, 9), st.sampled_from(["left", "right", "both"]), COUNTS)
def test_stacks(data: st.DataObject, m: int, n: int, k: int, size: int, which: str, count: int) -> None:
    a = data.draw(matrices(m, k, "f", (size,) if which != "right" else ()))
    b = data.draw(matrices(k, n, "f", (size,) if which != "left" else ()))
    out = np.full((size, m, n), np.nan, "f")
    calls = forks.product_calls(machine(), operand(a), operand(b), operand(out), count)
    if calls:
        assert run(calls, count) == 0
        np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))


def test_which_products_are_shared() -> None:
    """Otherwise the tests above might test nothing."""

    def kinds(a: tuple[int, ...], b: tuple[int, ...], count: int = 3) -> list[int]:
        arrays = [np.ones(a, "f"), np.ones(b, "f")]
        calls = forks.product_calls(machine(), *map(operand, (*arrays, np.matmul(*arrays))), count)
        return [len(call.parts) for call in calls]

    assert kinds((30, 4), (4, 5)) == [3]
    assert kinds((5, 4), (4, 30)) == [3]
    assert kinds((3, 4), (4, 3)) == [0]
    assert kinds((5, 4), (4, 5)) == [2]
    assert kinds((3, 160), (160, 4)) == [3, 0]
    assert kinds((5, 4, 4), (5, 4, 4)) == [3]
    assert kinds((5, 4, 4), (4, 4)) == [0] * 5
    assert kinds((forks.MAX_MATRICES + 1, 4, 4), (4, 4)) == []
    assert kinds((2, 3, 4, 4), (4, 4)) == []
    assert kinds((30, 4), (4, 5), 1) == [0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 70), COUNTS)
def test_chains(n: int, count: int) -> None:
    """Also where there are more threads than elements, or none of these."""
    steps = optim.SGD(nn.Linear(2, 2).parameters(), lr=0.5)
    kernel = steps.kernel(steps.blocks[0])
    assert isinstance(kernel, build.ChainKernel)
    p, g = np.arange(float(n), dtype="f"), np.ones(n, "f")
    numbers = [np.array(value, "f") for value in steps.numbers_at(steps.blocks[0], -1).values()]
    expected = p.copy()
    kernel(expected, g, *numbers, expected)
    with lowered(SHARED_CHAIN=0):
        calls = forks.chain_calls(machine(), kernel, [operand(a) for a in (p, g, *numbers, p)], count)
    assert [len(call.parts) for call in calls] == [min(count, n) if min(count, n) > 1 else 0]
    assert run(calls, count) == 0
    np.testing.assert_array_equal(p, expected)


def steps_of(optimiser: str = "Adam") -> tuple[nn.Module, Callable[..., Any]]:
    rng = np.random.default_rng(0)
    hidden = nn.Linear(20, 40, rng=rng), nn.ReLU(), nn.Linear(40, 30, rng=rng), nn.Tanh()
    model = nn.Sequential(*hidden, nn.Linear(30, 5, rng=rng))
    steps = getattr(optim, optimiser)(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        steps.zero_grad()
        loss.backward()
        steps.step()
        return loss

    return model, tg.compile(step)


def batch(seed: int, rows: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 20)).astype("f"), rng.integers(0, 5, rows)


def trained(seeds: range, step: Callable[..., Any], model: nn.Module) -> list[np.ndarray]:
    for seed in seeds:
        step(*batch(seed))
    return [p.numpy().copy() for p in model.parameters()]


@contextmanager
def shared(count: int) -> Iterator[None]:
    with lowered(**SHARED), num_threads(count):
        yield


@pytest.mark.parametrize("count", [2, 3, 60])
@pytest.mark.parametrize("rows", [1, 7, 50])
def test_a_whole_step(count: int, rows: int) -> None:
    """In one program, also with more threads than rows; by rounding what one thread gives."""
    found = []
    for n in (1, count):
        model, step = steps_of()
        with shared(n):
            losses = [step(*batch(seed, rows)).item() for seed in range(6)]
        found.append((losses, [p.numpy().copy() for p in model.parameters()]))
        assert step.plan.team == n
        lines = [line.strip() for line in step.plan.source.splitlines()[1:]]
        assert rows == 1 or [line for line in lines if not line.startswith(("#", "(stopped", "return"))] == []
    (alone, one), (together, several) = found
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    for a, b in zip(one, several, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)  # Adam's first steps divide tiny gradients by tiny ones


def test_a_whole_step_with_the_thresholds_as_they_are() -> None:
    """784-128-10 with 64 samples: one thread and two agree to rounding, of float32 after six steps."""
    found = []
    for count in (1, 2):
        layers = nn.Linear(784, 128, rng=np.random.default_rng(1)), nn.ReLU(), nn.Linear(128, 10, rng=np.random.default_rng(2))
        model = nn.Sequential(*layers)
        steps = optim.SGD(model.parameters(), lr=0.1)

        def step(x: Any, y: Any, model: Any = model, steps: Any = steps) -> Any:
            loss = F.cross_entropy(model(x), y)
            steps.zero_grad()
            loss.backward()
            steps.step()
            return loss

        with num_threads(count):
            run = tg.compile(step)
            x, y = np.random.default_rng(3).normal(size=(64, 784)).astype("f"), np.arange(64) % 10
            losses = [run(x, y).item() for _ in range(6)]
        assert run.plan.team == count
        found.append((losses, [p.numpy().copy() for p in model.parameters()]))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def test_it_is_the_same_each_time() -> None:
    """Whoever does a part: ten runs to the last bit, while other processes and threads want the processors, too."""
    end = threading.Event()

    def sort() -> None:
        while not end.is_set():
            np.sort(np.random.default_rng(0).random(99_999))

    other = threading.Thread(target=sort)
    found = []
    with shared(3):
        for busy in (False, True):
            for _ in range(5):
                model, step = steps_of()
                found.append(trained(range(8), step, model))
            if not busy:
                other.start()
    end.set()
    other.join()
    for one in found[1:]:
        for a, b in zip(found[0], one, strict=True):
            np.testing.assert_array_equal(a, b)


def test_several_threads_at_once() -> None:
    """While the team is at work for one of them, the others do all of theirs themselves: the bits of each alone."""
    with shared(3):
        model, step = steps_of()
        expected = trained(range(20), step, model)
        found: dict[int, Any] = {}

        def work(i: int) -> None:
            try:
                own, mine = steps_of()
                found[i] = trained(range(20), mine, own)
            except Exception as error:
                found[i] = error

        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
    assert len(found) == 4
    for one in found.values():
        assert not isinstance(one, Exception), one
        for a, b in zip(expected, one, strict=True):
            np.testing.assert_array_equal(a, b)


def test_while_the_team_is_at_work() -> None:
    a, b = np.ones((9, 3), "f"), np.ones((3, 8), "f")
    out = np.zeros((9, 8), "f")
    calls = forks.product_calls(machine(), operand(a), operand(b), operand(out), 4)
    team.words[llvm.BUSY] = 1
    try:
        run(calls, 4)
    finally:
        team.words[llvm.BUSY] = 0
    np.testing.assert_array_equal(out, np.full((9, 8), 3))


def test_a_part_of_a_part() -> None:
    """Begins where that of the array does."""
    x = np.arange(60.0).reshape(3, 4, 5)
    part = operand(x).item(1).part(0, 1, 4).part(1, 2, 3).transposed()
    expected = x[1, 1:4, 2:3].T
    assert part.form == Form.of(expected)
    assert part.offset == expected.__array_interface__["data"][0] - x.__array_interface__["data"][0]


@pytest.mark.parametrize("row", [0, 25, 49])
def test_a_floating_point_error_in_any_part(row: int) -> None:
    """Is NumPy's, once: a warning where the user has not asked for anything else; the step is done none the less."""
    weights = Tensor(np.ones((20, 30), "f"), requires_grad=True)

    def step(x: Any) -> Any:
        y = x @ weights
        weights.grad = None
        y.sum().backward()
        return y

    with shared(3):
        step = tg.compile(step)
        for seed in range(3):
            step(batch(seed)[0])
        assert "# product" in step.plan.source
        x = batch(3)[0]
        x[row, :2] = 3e38
        with warnings.catch_warnings(record=True) as caught, np.errstate(over="warn"):
            warnings.simplefilter("always")
            y = step(x)
        assert {str(w.message) for w in caught} == {"overflow encountered in matmul"}
        assert np.isinf(y.numpy()[row]).all()
        assert np.isfinite(np.delete(y.numpy(), row, 0)).all()
        with np.errstate(over="raise"), pytest.raises(FloatingPointError):
            step(x)
        with np.errstate(over="ignore"):
            step(x)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: Linux or macOS")
def test_a_process_that_was_forked() -> None:
    """Has no thread of the team, and starts its own."""
    with shared(3):
        model, step = steps_of()
        trained(range(4), step, model)
        state = [p.numpy().copy() for p in model.parameters()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that threads of this process are not there afterwards
            child = os.fork()
        if child == 0:
            code = 1
            try:
                started = team.started
                after = trained(range(4, 8), step, model)
                if started == 0 and team.started == 2 and not np.array_equal(after[0], state[0]):
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        after = trained(range(4, 8), step, model)
        assert not np.array_equal(after[0], state[0])


def test_without_any_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no more threads, the one that asks does every part."""
    lonely = Team()

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    monkeypatch.setattr(forks, "team", lonely)
    lonely.grow(machine(), 4)
    assert lonely.started == 0
    a, b = np.ones((8, 3), "f"), np.ones((3, 9), "f")
    out = np.zeros((8, 9), "f")
    program = native.Program(machine(), forks.product_calls(machine(), operand(a), operand(b), operand(out), 4), [])
    assert program.enter(program.start) == 0
    np.testing.assert_array_equal(out, np.full((8, 9), 3))


def test_sets_of_processors() -> None:
    """For each all others of those that the process may use."""
    sets = np.unpackbits(other_cpu_sets({0, 2, 70}), axis=1, bitorder="little").astype(bool)
    assert sets.shape == (max(71, os.cpu_count() or 1), 128)
    for processor in range(71):
        assert set(np.flatnonzero(sets[processor])) == {0, 2, 70} - {processor}


PROCESSORS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
NEEDS_TWO = pytest.mark.skipif(len(PROCESSORS) < 2, reason="needs two processors: taskset")


def a_shared_product() -> tuple[list[Instruction], np.ndarray]:
    a, b = np.ones((400, 300), "f"), np.ones((300, 200), "f")
    out = np.zeros((400, 200), "f")
    return forks.product_calls(machine(), operand(a), operand(b), operand(out), 2), out


@NEEDS_TWO
def test_processors_that_are_taken_away_are_not_used() -> None:
    """A process that is told to keep to one processor while it runs: so do its threads."""
    processors = PROCESSORS
    calls, out = a_shared_product()
    run(calls)
    mine, others = (
        threading.get_native_id(),
        [int(w) for w in team.words[llvm.TEAM_WORDS + llvm.THREAD_ID :: llvm.SLOT_WORDS] if w],
    )
    assert others
    try:
        for one in processors:
            for thread in (mine, *others):
                os.sched_setaffinity(thread, {one})
            run(calls)
            assert [os.sched_getaffinity(thread) for thread in others] == [{one}] * len(others)
            np.testing.assert_array_equal(out, np.full((400, 200), 300))
    finally:
        for thread in (mine, *others):
            os.sched_setaffinity(thread, processors)
    run(calls)


@NEEDS_TWO
def test_the_team_keeps_away_from_the_processor_that_asks() -> None:
    processors = PROCESSORS
    calls, _ = a_shared_product()
    run(calls)
    slot = team.words[llvm.TEAM_WORDS :]
    avoided = int(slot[llvm.AVOIDED_CPU]) - 1
    assert avoided in processors
    assert os.sched_getaffinity(int(slot[llvm.THREAD_ID])) == processors - {avoided}


def test_shares() -> None:
    assert threads.split(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert threads.split(2, 5) == [(0, 1), (1, 2)]
    assert threads.split(0, 5) == [(0, 0)]
