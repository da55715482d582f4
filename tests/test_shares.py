"""Work shared between threads of our own: products, sequences, attention and windows, by themselves and in plans.

What each thread does is part of the same sums, so that only products, whose parts BLAS may add up in another order, may differ
in the last digits. Seen to fail when a part is left out, done twice, or added to the wrong place.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad as tg
from tensorgrad import Tensor, nn, ops, optim
from tensorgrad.kernels import native, products, threads, thresholds
from tensorgrad.kernels.build import has_numba
from tensorgrad.kernels.threads import controls_blas
from tensorgrad.nn import functional as F
from tests.compiled import kernels, lowered, num_threads, training

CONTROLLED = pytest.mark.skipif(
    not controls_blas(), reason="needs threadpoolctl, without which work is not shared: pip install threadpoolctl"
)
SHARED = {"SHARES": 0, "PRODUCT": 0, "PLAN_FLOPS": 0}


@CONTROLLED
@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    stack=st.sampled_from([(), (1,), (2,), (5,)]),
    turned=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from(["float32", "float64"]),
    n=st.sampled_from([1, 2, 3, 7]),
)
def test_products(shape: tuple[int, ...], stack: tuple[int, ...], turned: tuple[bool, bool], dtype: str, n: int) -> None:
    """Of integers, which are exact in any order: by rows, by columns, by what is summed over, one by one."""
    m, k, w = shape
    rng = np.random.default_rng(m + 50 * k + 2500 * w)
    k *= 16 if rng.random() < 0.3 else 1

    def drawn(rows: int, columns: int, turn: bool) -> Any:
        x = rng.integers(-3, 4, (*stack, columns, rows) if turn else (*stack, rows, columns)).astype(dtype)
        return x.swapaxes(-1, -2) if turn else x

    a, b = drawn(m, k, turned[0]), drawn(k, w, turned[1])
    out = np.full((*stack, m, w), np.nan, dtype)
    with num_threads(n), lowered(PRODUCT=0), threads.single_threaded_blas():
        products.matmul(a, b, out)
    np.testing.assert_array_equal(out, np.einsum("...mk,...kw->...mw", a, b))


def test_products_of_other_kinds() -> None:
    """Vectors, a matrix for all of a stack, stacks that broadcast, and no elements at all."""
    rng = np.random.default_rng(0)
    for first, second in [
        ((3, 4, 5), (5, 6)),
        ((1, 4, 5), (3, 5, 2)),
        ((2, 3, 4, 5), (3, 5, 2)),
        ((0, 5), (5, 3)),
        ((4, 0), (0, 3)),
        ((5,), (5, 3)),
        ((4, 5), (5,)),
        ((5,), (2, 5, 3)),
        ((2, 4, 5), (5,)),
    ]:
        a, b = (rng.integers(-3, 4, s).astype("float32") for s in (first, second))
        expected = np.matmul(a, b)
        out = np.full_like(expected, np.nan)
        with num_threads(3), lowered(PRODUCT=0), threads.single_threaded_blas():
            products.matmul(a, b, out)
        np.testing.assert_array_equal(out, expected)


def attended(rng: np.random.Generator, n: int, **options: Any) -> Callable[[], Any]:
    """Attention of n sequences in two heads, of which the keys are the same for all; with its gradients."""
    q, k, v = rng.normal(size=(n, 2, 5, 4)), rng.normal(size=(2, 6, 4)), rng.normal(size=(n, 1, 6, 3))
    masks: dict[str, Any] = {"mask": rng.random((n, 1, 5, 6)) < 0.6, "numbers": rng.normal(size=(1, 2, 5, 6))}
    kind = options.pop("kind", None)
    kept = {"keep": rng.random((n, 2, 5, 6)) < 0.6, "dropout": 0.4} if options.pop("dropout", False) else {}

    def run() -> Any:
        given = [Tensor(x, True) for x in (q, k, v)]
        y = ops.attention(*given, masks.get(kind), **kept, **options)
        return y.data, *[g.data for g in tg.grad((y * y).sum(), given)]

    return run


def sequence(rng: np.random.Generator, n: int, kind: str, width: int = 4) -> Callable[[], Any]:
    wide = width * {"lstm": 4, "gru": 3}[kind]
    z, h, u = rng.normal(size=(3, n, wide)), rng.normal(size=(n, width)), rng.normal(size=(width, wide)) / width
    last = rng.normal(size=(n, width)) if kind == "lstm" else rng.normal(size=width)

    def run() -> Any:
        given = [Tensor(x, True) for x in ((z, h, last, u) if kind == "lstm" else (z, h, u, last))]
        y = getattr(ops, kind)(*given)
        return y.data, *[g.data for g in tg.grad((y * y).sum(), given)]

    return run


def images(rng: np.random.Generator, n: int, **options: Any) -> Callable[[], Any]:
    x, w = rng.normal(size=(n, 2, 6, 7)), rng.normal(size=(3, 2, 2, 3))

    def run() -> Any:
        given = [Tensor(a, True) for a in (x, w)]
        y = ops.conv2d(*given, None, **options)
        return y.data, *[g.data for g in tg.grad((y * y).sum(), given)]

    return run


CASES: dict[str, Callable[[np.random.Generator, int], Callable[[], Any]]] = {
    "attention": attended,
    "causal": lambda rng, n: attended(rng, n, causal=True),
    "masked": lambda rng, n: attended(rng, n, kind="mask", causal=True),
    "numbers added": lambda rng, n: attended(rng, n, kind="numbers"),
    "dropout": lambda rng, n: attended(rng, n, kind="mask", dropout=True),
    "lstm": lambda rng, n: sequence(rng, n, "lstm"),
    "gru": lambda rng, n: sequence(rng, n, "gru"),
    "conv2d": images,
    "conv2d, strided": lambda rng, n: images(rng, n, stride=2, padding=1, dilation=(1, 2)),
}


@CONTROLLED
@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_ops(name: str, numba: bool) -> None:
    """Of fewer samples than threads, as many and more; some queries at a time, too. Warnings are errors in each thread."""
    if numba and not has_numba():
        pytest.skip("needs Numba: pip install numba")
    for n in (1, 2, 7):
        run = CASES[name](np.random.default_rng(n), n)
        for scores in (1, thresholds.ATTENTION):
            with kernels(numba), lowered(KERNEL=0, ATTENTION=scores), num_threads(1):
                expected = run()
            for count in (2, 3, 12):
                with kernels(numba), lowered(KERNEL=0, SHARES=0, ATTENTION=scores), num_threads(count):
                    found = run()
                for a, b in zip(found, expected, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14 * np.abs(b).max(initial=0))


@CONTROLLED
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_threads_do_not_share_what_they_write(kind: str) -> None:
    """So wide, and so often, that they meet."""
    run = sequence(np.random.default_rng(0), 64, kind, 60)
    with num_threads(2), lowered(SHARES=0):
        first = run()
        for _ in range(10):
            for a, b in zip(run(), first, strict=True):
                np.testing.assert_array_equal(a, b)


@CONTROLLED
def test_settings_of_numpy_hold_in_every_thread() -> None:
    """What the caller has allowed is not warned of, and what it has forbidden is an error."""

    at_once = threading.Barrier(3)  # each part in a thread of its own

    def divided(start: int, stop: int) -> None:
        at_once.wait(20)
        np.ones(stop - start) / np.zeros(stop - start)

    with num_threads(3), lowered(SHARES=0):
        with np.errstate(divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")
            threads.in_shares(divided, 9, 9)
        with np.errstate(divide="raise"), pytest.raises(FloatingPointError, match="divide by zero"):
            threads.in_shares(divided, 9, 9)


@CONTROLLED
def test_asking_for_one_thread_of_blas_again_does_not_wait() -> None:
    """Not even behind another thread that waits for this one to end."""
    begun, ended = threading.Event(), threading.Event()

    def other() -> None:
        begun.set()
        threads.with_steady_blas(ended.set)

    with threads.single_threaded_blas():
        waiting = threading.Thread(target=other, daemon=True)
        waiting.start()
        assert begun.wait(20)
        while not threads._turns.queue:
            pass
        with threads.single_threaded_blas():
            assert not ended.is_set()
    waiting.join(20)
    assert ended.is_set()


class Letters(nn.Module):
    """A sequence through an LSTM, attention and a convolution, so that a step has all that is shared."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True, dtype="float64")
        self.heads = nn.MultiheadAttention(6, 2, batch_first=True, dtype="float64")
        self.conv, self.head = nn.Conv2d(1, 3, 3, padding=1, dtype="float64"), nn.Linear(3, 4, dtype="float64")

    def forward(self, x: Any) -> Any:
        h = self.rnn(x)[0]
        h = h + self.heads(h, h, h, need_weights=False)[0]
        return self.head(F.relu(self.conv(h.expand_dims(1))).max(axis=(2, 3)))


@CONTROLLED
@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 12])
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_plans(samples: int, count: int, numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that has BLAS to itself trains as the step does in one thread, and a race would show: the replays of one batch
    with a learning rate of 0 are the same, bit for bit."""
    if numba and not has_numba():
        pytest.skip("needs Numba: pip install numba")
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(samples, 5, 4)), rng.integers(0, 4, samples)) for _ in range(4)]

    def losses(compiled: bool, lr: float) -> list[float]:
        tg.manual_seed(0)
        net = Letters()
        step = training(lambda x, t: F.cross_entropy(net(x), t), optim.SGD(net.parameters(), lr=lr))
        run = tg.compile(step) if compiled else step
        found = [run(Tensor(x), Tensor(t)).item() for x, t in (batches if lr else batches[:1] * 12)]
        if compiled:
            assert run.plan is not None
            assert run.plan.shares == (count > 1)
            assert run.plan.team == (count if numba and native.machine() else 1)
        return found

    with kernels(numba), num_threads(1):
        expected = losses(False, 0.1)
    shared: list[int] = []
    in_threads = threads.in_threads
    monkeypatch.setattr(threads, "in_threads", lambda work, n, count: (shared.append(count), in_threads(work, n, count)))
    native_too = {"SHARED_FLOPS": 0, "SHARED_PRODUCT": 0, "SHARED_CHAIN": 0}
    with kernels(numba), num_threads(count), lowered(**SHARED, **native_too, ROWS_FLOPS=1e99, KERNEL=0, CHAIN_THREADS=1e99):
        np.testing.assert_allclose(losses(True, 0.1), expected, rtol=1e-9)
        assert len(set(losses(True, 0.0)[2:])) == 1
    by_python = 20 if numba and native.machine() else 100  # products, too, where machine code does not share them
    assert shared.count(count) > by_python or count == 1
