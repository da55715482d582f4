"""On a GPU, or on the stand-in for one: what CuPy does without a word is an error here, or another number.

Each of these failed on CuPy 14.2 itself before: it takes an index out of range round, does not look whether a matrix was
singular, computes remainders by quotients, keeps the memory of a pool that is gone.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.core import backend
from tensorgrad.errors import OutOfRangeError, TensorgradError
from tensorgrad.kernels import cublas
from tests.cuda.fake_cupy import MemoryPool
from tests.cuda.gpu import Gpu, using

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(params=["stand-in", "cuda"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    with using(request.param) as found:
        MemoryPool.kept.clear()
        yield found


def on(device: str, *arrays: Any) -> list[Tensor]:
    return [Tensor(np.asarray(a), device=device) for a in arrays]


# Indices

READS: dict[str, Callable[[Tensor, Any], Any]] = {
    "rows": lambda x, i: x[i],
    "columns": lambda x, i: x[:, i],
    "of the last axis": lambda x, i: x[..., i],
    "behind a new axis": lambda x, i: x[None, i],
    "behind a mask": lambda x, i: x[np.array([True, False, True]), i],
    "take": lambda x, i: tensorgrad.take(x, i, axis=0),
    "take_along_axis": lambda x, i: tensorgrad.take_along_axis(x, i.reshape(1, 2), axis=1),
    "put": lambda x, i: ops.put(x[:2], i._data if isinstance(i, Tensor) else i, (3, 2)),
}


SIZES = {"rows": (0, 3), "behind a new axis": (0, 3), "take": (0, 3), "put": (0, 3)}  # axis and size; else (1, 2)


@pytest.mark.parametrize("beyond", [0, 4, -1, 2**40])
@pytest.mark.parametrize("name", READS)
def test_an_index_of_the_host_that_is_out_of_range(name: str, beyond: int) -> None:
    """At the call, as on the CPU."""
    axis, size = SIZES.get(name, (1, 2))
    wrong = -size - 1 if beyond < 0 else size + beyond
    for device in ("cpu", "cuda"):
        (x,) = on(device, np.arange(6.0).reshape(3, 2))
        with pytest.raises(IndexError, match=rf"index {wrong} is out of bounds for (axis {axis} with )?size {size}"):
            READS[name](x, np.array([0, wrong]))
        np.testing.assert_array_equal(x.numpy(), np.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", sorted(READS.keys() - {"put"}))
def test_an_index_on_the_gpu_that_is_out_of_range(name: str, compiled: bool) -> None:
    """When a value is asked for: to look before would be to wait."""
    (x,) = on("cuda", np.arange(6.0).reshape(3, 2))
    run = tensorgrad.compile(lambda x, i: READS[name](x, i)) if compiled else READS[name]
    axis, size = SIZES.get(name, (1, 2))
    for _ in range(3):
        run(x, on("cuda", np.array([0, -size]))[0]).numpy()
    for wrong in (size, -size - 1):
        run(x, on("cuda", np.array([0, wrong]))[0])
        with pytest.raises(
            OutOfRangeError, match=rf"an index is out of bounds for axis {axis} with size {size} \(found on cuda:0"
        ):
            backend.settle()
    run(x, on("cuda", np.array([0, 1]))[0]).numpy()  # it is forgotten when it has been said


def test_nothing_is_written_outside() -> None:
    for device in ("cpu", "cuda"):
        (t,) = on(device, np.zeros(3))
        with pytest.raises(IndexError, match="index 5 is out of bounds for axis 0 with size 3"):
            t[np.array([5])] = 1.0
        np.testing.assert_array_equal(t.numpy(), 0)
    (t, i) = on("cuda", np.zeros(3), np.array([5]))
    t[i] = 1.0
    with pytest.raises(OutOfRangeError, match="setitem: an index is out of bounds for axis 0 with size 3"):
        backend.settle()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "uint16"])
def test_small_integers_are_added_at_an_index(dtype: str) -> None:
    """Which CuPy refuses; they are cut off as NumPy's."""
    x, i = np.array([200, 100, 1, 7]).astype(dtype), np.array([0, 0, 2, -1])
    found = [ops.put(t, i, (4,)).numpy() for d in ("cpu", "cuda") for t in on(d, x)]
    assert found[1].dtype == dtype
    np.testing.assert_array_equal(found[1], found[0])


# Matrices

SINGULAR = np.array([[1.0, 2], [2, 4]])


@pytest.mark.parametrize("stack", [(), (3,)])
@pytest.mark.parametrize("name", ["inv", "solve", "cholesky"])
def test_matrices_that_are_singular(name: str, stack: tuple[int, ...]) -> None:
    """Or not positive definite: the same error as on the CPU."""
    x = np.broadcast_to(-np.eye(2) if name == "cholesky" else SINGULAR, (*stack, 2, 2)).copy()
    for device in ("cpu", "cuda"):
        args = on(device, x, np.ones((*stack, 2, 1)))[: 2 if name == "solve" else 1]
        with pytest.raises(
            tensorgrad.LinAlgError, match=f"{name}: (the matrix|one of the matrices) is (singular|not positive)"
        ):
            getattr(tensorgrad, name)(*args)


# Numbers


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_remainders_are_those_of_numpy(dtype: str) -> None:
    """On the CPU, step by step and compiled; exact, but for quotients that no two ways round alike."""
    values = np.array([0.0, -0.0, 3, -3, 5.5, -5.5, 0.1, 1, 1e4, 6e4, np.inf, -np.inf, np.nan], dtype)
    a, b = (x.reshape(-1) for x in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        for op in (ops.mod, ops.floordiv):
            expected = op(*on("cpu", a, b)).numpy()
            here, there = op(*on("cuda", a, b)).numpy(), tensorgrad.compile(lambda a, b, op=op: op(a, b))
            for found in (here, *[there(*on("cuda", a, b)).numpy() for _ in range(3)]):
                assert found.dtype == dtype
                np.testing.assert_array_equal(found, expected)
                zeros = expected == 0
                np.testing.assert_array_equal(np.signbit(found[zeros]), np.signbit(expected[zeros]))


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.1), (1e17, 3.0), (-7, 2), (7, -2)])
def test_remainders_of_numbers(a: float, b: float) -> None:
    """Beside a Tensor on either side."""
    dtype = np.asarray(a + b).dtype
    for device in ("cpu", "cuda"):
        x, y = on(device, np.asarray(a, dtype), np.asarray(b, dtype))
        for first, second in ((x, b), (a, y), (x, y)):
            assert (first % second).item() == a % b
            assert (first // second).item() == a // b


def test_minus_zero_is_moved() -> None:
    for x in (np.array(-0.0), np.array(-0.0, "float32"), np.zeros((2, 2)) * -1.0):
        assert np.signbit(Tensor(x, device="cuda").numpy()).all()
    assert not np.signbit(Tensor(np.array(0.0), device="cuda").numpy())


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
@pytest.mark.parametrize("compiled", [False, True])
def test_integers_to_negative_powers(dtype: str, compiled: bool) -> None:
    """Are an error as on the CPU: an exponent that is a number at the call, that of an array when a value is asked for."""
    values, exponents = np.array([1, 2, -3]).astype(dtype), np.array([2, 0, 3]).astype(dtype)
    x, n = on("cuda", values, exponents)
    for run in (lambda x, n: x**-1, lambda x, n: x**n, lambda x, n: 2**n):
        step = tensorgrad.compile(run) if compiled else run
        for device in ("cpu", "cuda"):
            with pytest.raises(ValueError, match="power: Integers to negative integer powers are not allowed"):
                step(*on(device, values, -exponents)).numpy()
    power = tensorgrad.compile(lambda x, n: x**n) if compiled else lambda x, n: x**n
    for _ in range(3):
        np.testing.assert_array_equal(power(x, n).numpy(), values**exponents)
    with pytest.raises(ValueError, match="power: Integers to negative integer powers are not allowed"):
        power(x, -n).numpy()
    np.testing.assert_array_equal(power(x, n).numpy(), values**exponents)
    np.testing.assert_array_equal((x**3).numpy(), values**3)
    np.testing.assert_allclose((x.astype("float32") ** -1).numpy(), 1 / values.astype("float32"), rtol=1e-6)
    assert (x[:0] ** n[:1]).shape == (x[:0] ** -1).shape == (0,)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, None), (None, 0), (-1.5, None), (None, 0.5)])
@pytest.mark.parametrize("compiled", [False, True])
def test_booleans_are_clipped(low: Any, high: Any, compiled: bool) -> None:
    """CuPy refuses them without one of the bounds."""
    found = []
    for device in ("cpu", "cuda"):
        (x,) = on(device, np.array([True, False]))
        run = tensorgrad.compile(lambda x: x.clip(low, high)) if compiled else lambda x: x.clip(low, high)
        found += [run(x).numpy() for _ in range(3)]
    for y in found:
        assert y.dtype == found[0].dtype
        np.testing.assert_array_equal(y, found[0])


def test_an_element_that_is_written_twice_has_the_last_value(gpu: Gpu) -> None:
    """Though a GPU writes in any order."""
    rng = np.random.default_rng(0)
    at, values = rng.integers(0, 50, 20_000), rng.normal(size=20_000).astype(np.float32)
    found = []
    for device in ("cpu", "cuda"):
        t, i, v = on(device, np.zeros(50, np.float32), at, values)
        t[i] = v
        found.append(t.numpy())
    np.testing.assert_array_equal(found[1], found[0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_plan_has_the_subnormal_numbers_of_its_step(dtype: str) -> None:
    """Whether they are 0 or not is the same, whoever computes."""
    least = np.finfo(dtype).tiny
    (x,) = on("cuda", np.array([least, -least, least / 4, 3 * least, 1]).astype(dtype))

    def step(x: Tensor) -> Tensor:
        return x * 0.5 + x * 0.25

    planned, expected = tensorgrad.compile(step), step(x).numpy()
    for _ in range(3):
        np.testing.assert_array_equal(planned(x).numpy(), expected)


# Memory


def plan(n: int, f: Callable[..., Any] | None = None) -> Any:
    step = tensorgrad.compile(f or (lambda a, b: (a @ b).tanh().sum()))
    (x,) = on("cuda", np.ones((n, n), "float32"))
    for _ in range(3):
        step(x, x)
    return step


def test_what_a_plan_had_is_given_back(gpu: Gpu) -> None:
    """A pool keeps its memory, cuBLAS's workspace with it, unless it is told before it goes."""
    pool = backend.cupy().get_default_memory_pool()
    used = []
    for n in range(2, 6):
        step = plan(n)
        assert step.plan.launches.captured
        assert len(cublas._handles.keys() - {(0, 0)}) == 1  # beside the one of steps that are not compiled
        assert gpu.real or MemoryPool.kept
        del step
        gc.collect()
        assert not cublas._handles.keys() - {(0, 0)}
        assert not MemoryPool.kept
        used.append(pool.used_bytes())
    assert max(used) - used[0] < 1 << 20


# Captures


def test_a_plan_that_is_freed_while_another_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the collector, which runs at any moment, but not then; whether it was on is as it was afterwards."""
    from tensorgrad.compiler.launches import Launches

    old, attempts = [plan(3), plan(4)], []
    enqueue, recorded = Launches.enqueue, Launches.recorded

    def beginning(self: Launches) -> Any:
        attempts.append(self)
        garbage: list[Any] = [old.pop()] if old else []
        garbage.append(garbage)  # a cycle, which the collector alone frees
        del garbage
        return recorded(self)

    def collecting(self: Launches) -> None:
        if gc.isenabled() and self.stream.is_capturing():  # as it might in the middle
            gc.collect()
        enqueue(self)

    monkeypatch.setattr(Launches, "recorded", beginning)
    monkeypatch.setattr(Launches, "enqueue", collecting)
    new = plan(5)
    assert gc.isenabled()
    gc.disable()
    try:
        other = plan(6)
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert [one.plan.launches.why_not for one in (new, other)] == ["", ""]
    assert len(attempts) == 2  # one each


def test_a_plan_that_another_thread_frees_while_one_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second attempt is made."""
    from tensorgrad.compiler.launches import Launches

    old = [plan(3)]
    recorded, attempts = Launches.recorded, []

    def spoiled(self: Launches) -> Any:
        attempts.append(self)
        if len(attempts) == 1:
            stream = self.stream
            begin = type(stream).begin_capture

            def begun(one: Any, mode: Any = None) -> None:
                begin(one, mode)
                monkeypatch.setattr(type(stream), "begin_capture", begin)
                freed = threading.Thread(target=old.clear)
                freed.start()
                freed.join()

            monkeypatch.setattr(type(stream), "begin_capture", begun)
        return recorded(self)

    monkeypatch.setattr(Launches, "recorded", spoiled)
    new = plan(4)
    assert len(attempts) == 2
    assert new.plan.launches.captured
    assert new.plan.launches.why_not == ""


def test_a_capture_that_cannot_be_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorgrad.compiler.launches import Launches

    def refused(self: Launches) -> Any:
        raise TensorgradError("not today")

    monkeypatch.setattr(Launches, "recorded", refused)
    launches = plan(4).plan.launches
    assert (launches.captured, launches.why_not) == (False, "TensorgradError: not today")
