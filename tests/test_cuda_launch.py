"""CUDA kernels as they are launched: grids, memory, sums, softmax and cross-entropy, random numbers; on the CPU."""

from __future__ import annotations

from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorgrad.errors import LabelError
from tensorgrad.kernels import reference
from tensorgrad.kernels.cuda import generate, launch
from tests.cuda.chains import KERNELS
from tests.cuda.occupancy import MULTIPROCESSORS, Driver, resident_blocks
from tests.cuda.on_cpu import Module
from tests.cuda.stand_in import FLOATS, LABELS, cuda_on_cpu, cupy, on_device
from tests.strategies import generators


def on_a_device(threads: int) -> int:
    """What an H200 runs at a time of a kernel of 32 registers."""
    return MULTIPROCESSORS * resident_blocks(threads, 32)


def test_grids_of_sums() -> None:
    """Few rows keep to one block for each column of blocks, many are spread; a block always fits."""
    assert launch.sum_grid(64, 200, on_a_device) == ((7, 1), (29, 17))
    assert launch.sum_grid(60_000, 10, on_a_device) == ((1, 295), (10, 51))
    assert launch.sum_grid(1439, 500, on_a_device) == ((16, 23), (32, 16))
    assert launch.sum_grid(8192, 4096, on_a_device) == ((128, 4), (32, 16))  # 528 blocks of 512 run at a time
    for rows, columns in product([0, 1, 3, 100, 10**6], [1, 5, 31, 33, 500, 10**5]):
        (wide, high), (width, height) = launch.sum_grid(rows, columns, on_a_device)
        assert width * height <= generate.SUM_THREADS
        assert wide * width >= columns > (wide - 1) * width
        assert 1 <= high <= 65_535
        assert high == 1 or wide * high <= on_a_device(width * height)


def test_grids_of_rows() -> None:
    """Rows that are long and few have more threads than a warp, as long as each has BATCH classes and the device has room."""

    def grid(rows: int, classes: int, resident: Any = on_a_device) -> Any:
        return launch.row_grid(rows, classes, resident)

    assert grid(64, 10) == ((1,), (16, 64))
    assert grid(60_000, 10) == ((1056,), (16, 16))
    assert grid(32, 255) == ((1,), (32, 32))
    assert grid(32, 256) == ((8,), (64, 4))
    assert grid(16, 4095) == ((16,), (512, 1))
    assert grid(16, 4096) == grid(16, 100_000) == ((16,), (1024, 1))
    assert grid(264, 100_000) == ((264,), (1024, 1))  # 1056 blocks of 256 threads are 264 of 1024
    assert grid(265, 100_000) == ((265,), (512, 1))
    assert grid(100_000, 100_000) == ((1056,), (32, 8))
    for rows, classes in product([0, 1, 64, 60_000], [1, 2, 10, 33, 255, 256, 5000]):
        (count,), (width, height) = grid(rows, classes)
        assert width in [2**n for n in range(11)]
        assert (width * height) % 32 == 0
        assert width * height <= 1024
        assert count >= 1
        assert width <= 32 or (width * generate.BATCH <= classes and rows * width <= 256 * on_a_device(256))


@pytest.mark.parametrize(("registers", "on_one"), [(32, 8), (40, 6), (42, 5), (48, 5), (64, 4)])
@cuda_on_cpu()
def test_no_more_blocks_than_run_at_a_time(monkeypatch: pytest.MonkeyPatch, registers: int, on_one: int) -> None:
    """A grid over much data fills the device once, whatever a thread of its kernel takes."""
    monkeypatch.setattr(launch, "_functions", {})
    monkeypatch.setattr(Driver, "registers", registers)
    p, rate = on_device(np.zeros(10**6, np.float32)), on_device(np.ones((), np.float32))
    x, total = on_device(np.zeros((100_000, 70), np.float32)), on_device(np.zeros(70, np.float32))
    t, keep = on_device(np.zeros(100_000, int)), on_device(np.zeros(4 * 10**6, bool))

    def grid(kernel: launch.Kernel, *args: Any) -> tuple[int, ...]:
        found = kernel.prepare(launch.new_scratch, *args)
        assert found is not None
        return found.grid

    full = (MULTIPROCESSORS * on_one,)
    assert grid(KERNELS["SGD"], p, p, rate, p) == full
    assert grid(launch.log_softmax, x, x) == full
    assert grid(launch.softmax_cross_entropy, x, t, rate, 1, rate, x) == full
    assert grid(launch.keep_mask, launch.random_state(0), 0.5, keep) == full
    wide, high = grid(KERNELS["mask and bias gradient"], x, x, x, total)
    at_a_time = MULTIPROCESSORS * resident_blocks(24 * 21, registers)
    assert (wide, high) == (3, at_a_time // 3)


@cuda_on_cpu()
def test_sums_have_the_same_bits_each_time() -> None:
    """Whichever block comes last; and what the blocks count is 0 again afterwards."""
    name = "mask and bias gradient"
    kernel = KERNELS[name]
    rng = np.random.default_rng(0)
    g, unit = (on_device(rng.normal(size=(3000, 70)).astype(np.float32)) for _ in range(2))
    sums = [on_device(np.zeros(70, np.float32)) for _ in range(4)]
    z = on_device(rng.normal(size=(3000, 10)).astype(np.float32))
    t, one = on_device(rng.integers(0, 10, 3000)), on_device(np.ones((), np.float32))
    losses = [on_device(np.zeros((), np.float32)) for _ in sums]
    again = on_device(sums[0])
    library = Module(kernel.source, among=cupy(False).programs)
    for i, (out, loss) in enumerate(zip(sums, losses, strict=True)):
        library.backwards(i % 2 == 1)
        kernel.bind(on_device(g), unit, on_device(g), out)()  # with memory in which no other launch has left its sums
        launch.softmax_cross_entropy.bind(z, t, one, 3000, loss, on_device(z))()
        kernel(on_device(g), unit, on_device(g), again)
        assert again.tobytes() == out.tobytes()
    library.backwards(False)
    assert len({s.tobytes() for s in sums}) == len({x.tobytes() for x in losses}) == 1
    np.testing.assert_allclose(sums[0], np.where(unit > 0, g, 0).sum(0), rtol=1e-5, atol=1e-4)
    counters = [a for key, a in launch._scratch.items() if key[0] is cupy(False) and key[3] == "arrived"]
    assert counters
    assert not any(c.any() for c in counters)


@cuda_on_cpu()
def test_bound_kernels() -> None:
    """What is bound allocates nothing when it is called, and reads numbers and arrays as they are then."""
    rng = np.random.default_rng(0)
    p, g = (on_device(rng.normal(size=700).astype(np.float32)) for _ in range(2))
    rate = on_device(np.asarray(0.5, np.float32))
    kernel, masked = KERNELS["SGD"], KERNELS["mask and bias gradient"]
    x, y, total = (on_device(rng.normal(size=s).astype(np.float32)) for s in ((500, 7), (500, 7), 7))
    z, t, loss = on_device(x), on_device(rng.integers(0, 7, 500)), on_device(np.zeros((), np.float32))
    state, keep = launch.random_state(3), on_device(np.zeros(99, bool))
    steps = [
        kernel.bind(p, g, rate, p),
        masked.bind(x, y, x, total),
        launch.softmax_cross_entropy.bind(z, t, rate, 500, loss, z),
        launch.log_softmax.bind(y, y),
        launch.keep_mask.bind(state, 0.5, keep),
        KERNELS["bias"].bind(*[on_device(np.zeros(s, np.float32)) for s in ((0, 3), 3, (0, 3))]),
    ]
    allocations = cupy(False).allocations
    drawn = set()
    for number in (0.5, 0.25):
        before = p.copy()
        rate[...] = number
        for step in steps:
            step()
        np.testing.assert_array_equal(p, before - np.float32(number) * g)
        drawn.add(keep.tobytes())
    assert len(drawn) == 2
    assert cupy(False).allocations == allocations


@cuda_on_cpu()
def test_chains_of_nothing() -> None:
    """No rows: results of no elements, and sums that are 0. No columns: nothing."""
    kernel = KERNELS["mask and bias gradient"]
    empty, total = on_device(np.zeros((0, 5), np.float32)), on_device(np.ones(5, np.float32))
    kernel(empty, empty, empty, total)
    assert not total.any()
    none = on_device(np.zeros((5, 0), np.float32))
    kernel(none, none, none, on_device(np.zeros(0, np.float32)))


@given(rng=generators(), shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), dtype=st.sampled_from(["f", "d", "q"]))
@settings(max_examples=20)
@cuda_on_cpu()
def test_column_sum(rng: np.random.Generator, shape: list[int], dtype: str) -> None:
    """Sums over all axes but the last."""
    x = on_device((9 * rng.normal(size=shape)).astype(dtype))
    out, want = on_device(np.ones(shape[-1], dtype)), np.ones(shape[-1], dtype)
    launch.column_sum(x, out)
    reference.column_sum(np.asarray(x), want)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-3 * (dtype == "f"))


# Softmax and cross-entropy


@pytest.mark.parametrize("real", FLOATS)
@given(
    rng=generators(),
    rows=st.sampled_from([0, 1, 2, 31, 32, 33, 64, 65, 1000]),
    classes=st.sampled_from([1, 2, 3, 10, 31, 32, 33, 100, 255, 256, 257, 1023, 1024, 3000, 4096, 4097]),
    label=st.sampled_from(LABELS),
    in_place=st.booleans(),
    resident=st.sampled_from([1, 3, 17, 1056]),
)
@settings(max_examples=40)
@cuda_on_cpu()
def test_softmax_cross_entropy(
    real: str, rng: np.random.Generator, rows: int, classes: int, label: str, in_place: bool, resident: int
) -> None:
    """Loss, gradient and log softmax against the formulas in float64, by a part of a warp for a row up to a large block."""
    rows = min(rows, 65) if classes > 100 else rows
    z = on_device((8 * rng.normal(size=(rows, classes))).astype(real))
    t = on_device(rng.integers(0, min(classes, 256), rows).astype(label))
    g, loss = on_device(np.asarray(1.7, real)), on_device(np.asarray(np.nan, real))
    wide = np.asarray(z, np.float64)
    shifted = wide - wide.max(1, keepdims=True)
    mass = np.exp(shifted).sum(1, keepdims=True)
    logp = shifted - np.log(mass)
    one_hot = np.arange(classes) == np.asarray(t)[:, None]
    dz = z if in_place else on_device(np.full((rows, classes), np.nan, real))
    y = on_device(np.full((rows, classes), np.nan, real))
    with patch.object(launch.Function, "resident", lambda self, threads: resident):
        launch.log_softmax(z, y)
        launch.softmax_cross_entropy(z, t, g, rows + 1, loss, dz)
    launch.check_labels(0)
    eps = np.finfo(real).eps
    np.testing.assert_allclose(loss, -logp[one_hot].sum() / (rows + 1), rtol=50 * eps, atol=50 * eps)
    # the error of z - top is that of numbers up to about 60
    np.testing.assert_allclose(y, logp, rtol=4 * eps, atol=128 * eps)
    np.testing.assert_allclose(dz * (rows + 1), 1.7 * (np.exp(logp) - one_hot), rtol=150 * eps, atol=20 * eps)


@pytest.mark.parametrize("impossible", [0, 300])
@cuda_on_cpu()
def test_cross_entropy_of_what_is_not_finite(impossible: int) -> None:
    """A NaN makes its own row NaN, and the loss; other rows keep their gradient. -inf is a class that cannot be."""
    z = np.array([[0.0, 1.0, -np.inf], [np.nan, 0.0, 0.0], [2.0, 2.0, 2.0], [np.inf, 0, 0], [-np.inf, -np.inf, -np.inf]])
    z = np.hstack([z, np.full((5, impossible), -np.inf)])  # of 303 classes two warps do a row
    t, one = np.array([1, 0, 2, 0, 0]), np.ones(())
    expected, loss, dz, y = np.empty_like(z), on_device(np.ones(())), on_device(np.empty_like(z)), on_device(np.empty_like(z))
    with np.errstate(invalid="ignore"):
        reference.softmax_cross_entropy(z, t, one, 5, np.empty(()), expected)
    launch.softmax_cross_entropy(on_device(z), on_device(t), on_device(one), 5, loss, dz)
    assert np.isnan(loss)
    np.testing.assert_allclose(dz, expected, rtol=1e-14)
    assert np.isnan(expected[[1, 3, 4]]).all()
    launch.log_softmax(on_device(z), y)
    assert np.isnan(y[[1, 3, 4]]).all()
    with np.errstate(divide="ignore"):
        logp = np.log(np.exp(z[[0, 2]]) / np.exp(z[[0, 2]]).sum(1, keepdims=True))
    np.testing.assert_allclose(y[[0, 2]], logp, rtol=1e-14)


@pytest.mark.parametrize("wrong", [-1, 10, 2**40, -(2**62)])
@cuda_on_cpu()
def test_a_label_that_is_no_class(wrong: int) -> None:
    """Its row and the loss become NaN, the others are as they should be, and the error comes when it is asked for, once."""
    rng = np.random.default_rng(0)
    z = on_device(rng.normal(size=(40, 10)).astype(np.float32))
    t, one = on_device(rng.integers(0, 10, 40)), on_device(np.ones((), np.float32))
    loss, right, dz = on_device(one), on_device(z), on_device(z)
    launch.softmax_cross_entropy(z, t, one, 40, loss, right)
    launch.check_labels(0)
    t[[3, 17]] = wrong
    launch.softmax_cross_entropy(z, t, one, 40, loss, dz)
    assert np.isnan(loss)
    assert np.isnan(dz[[3, 17]]).all()
    others = np.delete(np.arange(40), [3, 17])
    np.testing.assert_array_equal(dz[others], right[others])
    with pytest.raises(
        LabelError, match="softmax_cross_entropy: the label of row 17 is out of range, expected 0 to classes - 1"
    ):
        launch.check_labels(0)
    launch.check_labels(0)


# Random numbers

# counter, key and words: "philox 4x32 10" in the known answers of Random123 (Salmon et al., file kat_vectors)
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
PROBE = """
extern "C" __global__ void probe(const unsigned int* counters, const unsigned int* key, unsigned int* words)
{
    philox(counters + 4 * threadIdx.x, key, words + 4 * threadIdx.x);
}
"""


@pytest.fixture(scope="module")
def philox() -> Any:
    return Module(generate.program(generate.source("keep_mask"), PROBE)).function("probe")


def words_of(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox(philox: Any, counter: str, key: str, words: str) -> None:
    out = np.zeros(4, np.uint32)
    philox((1,), (1,), [words_of(counter), words_of(key), out])
    np.testing.assert_array_equal(out, words_of(words))


@given(seed=st.integers(0, 2**64 - 1), begin=st.integers(0, 2**64 - 2000), counts=st.lists(st.integers(0, 5000), max_size=3))
@settings(max_examples=15)
@cuda_on_cpu()
def test_keep_mask(philox: Any, seed: int, begin: int, counts: list[int]) -> None:
    """Launch after launch the words of one counter after another, each compared with p as NumPy's generators would do it."""
    key = np.array([seed % 2**32, seed >> 32], np.uint32)
    state = launch.random_state(seed)
    state[1] = begin
    for count in counts:
        fours = -(-count // 4)
        at = [begin + i for i in range(fours)]
        counters = np.array([[a % 2**32, a >> 32, 0, 0] for a in at], np.uint32).reshape(-1)
        words = np.zeros(4 * fours, np.uint32)
        for start in range(0, fours, 1024):
            part = slice(4 * start, 4 * min(start + 1024, fours))
            out = np.zeros(part.stop - part.start, np.uint32)
            philox((1,), (out.size // 4,), [counters[part], key, out])
            words[part] = out
        uniform = (words[:count] >> 8).astype(np.float32) / np.float32(2**24)
        p = np.median(uniform) if count % 2 else np.float32(0.3)  # one of the numbers, too
        whole = on_device(np.zeros(count + 1, bool))
        keep = whole[1:] if count % 2 else on_device(np.zeros(count, bool))  # not at a multiple of 4 bytes, too
        launch.keep_mask(state, float(p), keep)
        np.testing.assert_array_equal(keep, uniform >= p)
        assert not whole[0]
        begin += fours
        assert state.tolist() == [seed, begin, 0]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@cuda_on_cpu()
def test_how_much_is_kept(p: float) -> None:
    """All with p = 0, nothing with p = 1, and otherwise 1 - p of them within 5 standard deviations; twice it differs."""
    state = launch.random_state(7)
    first, second = (on_device(np.zeros(100_000, bool)) for _ in range(2))
    for keep in (first, second):
        launch.keep_mask(state, p, keep)
        assert abs(keep.mean() - (1 - p)) <= 5 * np.sqrt(p * (1 - p) / keep.size)
    agree = (first == second).mean()
    assert abs(agree - (p * p + (1 - p) ** 2)) <= 5 * np.sqrt(0.25 / first.size)
