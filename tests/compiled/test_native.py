"""Kernels and products that run without Python in between: they do what their lines do, and stop where those would."""

from __future__ import annotations

import gc
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.compiler import calls
from tensorgrad.compiler import plan as planning
from tensorgrad.core.forks import loading
from tensorgrad.errors import LabelError
from tensorgrad.kernels import build, instructions, llvm, native, reference, threads
from tensorgrad.nn import functional as F
from tests.compiled import NEEDS_NUMBA, kernels, lowered, num_threads
from tests.compiled.test_random_steps import KEPT, Program

pytestmark = [
    NEEDS_NUMBA,
    pytest.mark.skipif(not threads.controls_blas(), reason="needs threadpoolctl: pip install threadpoolctl"),
]


@pytest.fixture(autouse=True, scope="module")
def with_numba() -> Iterator[None]:
    with kernels(numba=True):
        yield


def machine() -> native.Machine:
    found = native.machine()
    assert found is not None
    return found


def operand(array: np.ndarray) -> instructions.Operand:
    return instructions.Operand(instructions.Form.of(array), array=array)


def run(call: instructions.Instruction) -> int:
    program = native.Program(machine(), [call], [])
    return int(program.enter(program.start))


@st.composite
def matrices(draw: st.DrawFn, rows: int, columns: int, dtype: str) -> np.ndarray:
    """Row after row or column after column, with gaps or without, by steps, backwards."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    gap, step, sign = draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([1, 1, 1, -1]))
    if draw(st.booleans()):
        return rng.normal(size=(rows, (columns + gap) * step)).astype(dtype)[::sign, : columns * step : step]
    return rng.normal(size=((columns + gap) * step, rows)).astype(dtype).T[::sign, : columns * step : step]


SIZES = st.one_of(st.integers(1, 5), st.integers(1, 70))


@given(st.data(), SIZES, SIZES, SIZES, st.sampled_from("fd"))
def test_products_are_those_of_numpy(data: st.DataObject, m: int, n: int, p: int, dtype: str) -> None:
    """To the last bit, whatever way the matrices lie."""
    a, b = data.draw(matrices(m, n, dtype)), data.draw(matrices(n, p, dtype))
    out = np.full((m, p), 7, dtype)
    call = instructions.product_instruction(machine(), operand(a), operand(b), operand(out))
    simple = a.flags.c_contiguous and b.flags.c_contiguous
    assert call is not None or not (simple and n > 1 and m * p > 1)
    if call is not None:
        assert run(call) == 0
        np.testing.assert_array_equal(out, np.matmul(a, b))


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_what_numpy_does_otherwise_is_left_to_it(dtype: str) -> None:
    a = np.ones((3, 3), dtype)
    out = np.zeros((3, 3), dtype)
    others = {
        "a square": (a, a.T, out),
        "several dtypes": (a, a.astype("fd"["df".index(dtype)]), out),
        "one sample": (a[:, :1], a[:1], out),
        "a number": (a[:1], a[:, :1], out[:1, :1]),
        "stacks": (a[None], a, out[None]),
        "a result with gaps": (a, a + 1, np.zeros((3, 6), dtype)[:, ::2]),
        "nothing": (a[:0], a, out[:0]),
        "windows": (np.lib.stride_tricks.sliding_window_view(np.ones(5, dtype), 3), a, out),
        "windows on the right": (a, np.lib.stride_tricks.sliding_window_view(np.ones(5, dtype), 3), out),
        "integers": (a.astype(int), a.astype(int), out.astype(int)),
    }
    for name, (left, right, to) in others.items():
        assert instructions.product_instruction(machine(), operand(left), operand(right), operand(to)) is None, name


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 300), st.sampled_from("fd"), st.sampled_from([1, 2, 7, 100, 1000]))
def test_sums_of_products_are_those_of_numpy(seed: int, n: int, dtype: str, most: int) -> None:
    """To the last bit, in as many parts."""
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=n).astype(dtype) for _ in range(2))
    out, expected = np.full((), 7, dtype), np.zeros((), dtype)
    with lowered(DOT=most):
        reference.dot(a, b, expected)
        call = instructions.dot_instruction(machine(), operand(a), operand(b), operand(out), most)
    assert call is not None
    assert run(call) == 0
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(out, np.dot(a.astype(float), b.astype(float)), rtol=1e-5, atol=1e-4)


def test_sums_of_products_that_are_left_to_numpy() -> None:
    a, out = np.ones(6, "f"), np.zeros((), "f")
    for x, y, to in ((a[::2], a[:3], out), (a, a.astype(float), out), (a, a, np.zeros((), "d")), (a, a, np.zeros(1, "f"))):
        assert instructions.dot_instruction(machine(), operand(x), operand(y), operand(to), 100) is None
    a[:] = 1e30
    call = instructions.dot_instruction(machine(), operand(a), operand(a), operand(out), 100)
    assert call is not None
    assert run(call)  # an overflow, of which NumPy is to say what the user has told it to


@pytest.mark.parametrize("array", [np.arange(12.0), np.arange(12, dtype="i1").reshape(3, 4), np.array(True)], ids=str)
def test_copies(array: np.ndarray) -> None:
    out = np.zeros_like(array)
    call = instructions.copy_instruction(machine(), operand(out), operand(array))
    assert call is not None
    assert run(call) == 0
    np.testing.assert_array_equal(out, array)
    turned = np.zeros((4, 4))
    for to, of in ((turned, turned.T), (turned, turned.astype("f")), (turned, turned[:1]), (turned[:, ::2], turned[:, ::2])):
        assert instructions.copy_instruction(machine(), operand(to), operand(of)) is None


def network(width: int = 6) -> tuple[nn.Module, Callable[..., Any]]:
    tg.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    optimiser = optim.Adam(model.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    return model, tg.compile(step)


def batch(seed: int, rows: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 5)).astype("f"), rng.integers(0, 3, rows)


def parameters(model: nn.Module) -> list[np.ndarray]:
    return [p.numpy().copy() for p in model.parameters()]


def test_a_small_step_is_one_program() -> None:
    _, step = network()
    for seed in range(3):
        step(*batch(seed))
    lines = [line.strip() for line in step.plan.source.splitlines()[1:]]
    assert sum("program" in line for line in lines) == 1
    assert [line for line in lines if not line.startswith(("#", "(stopped", "return"))] == []
    assert sum(line.startswith("# matmul") for line in lines) == 5


@settings(max_examples=12)  # Numba takes a third of a second for each kernel that it has not met
@given(
    program=st.builds(
        Program,
        widths=st.sampled_from([(4, 6, 3), (8, 8)]),
        activation=st.sampled_from(["ReLU", "Tanh"]),
        norm=st.just(""),
        shared=st.booleans(),
        loss=st.sampled_from(["mse", "classes"]),
        optimiser=st.sampled_from(["momentum", "Adam"]),
        l2=st.booleans(),
        clip=st.just(False),
        gradients=st.sampled_from(KEPT),
        dtype=st.sampled_from(["float32", "float64"]),
        batch=st.sampled_from([1, 7, 33]),
    ),
    count=st.sampled_from([1, 2, 9]),
    in_rows=st.booleans(),
)
def test_random_steps_to_the_last_bit(program: Program, count: int, in_rows: bool) -> None:
    """The same kernels and products, called by Python or not, also in the parts of a loop."""
    rng = np.random.default_rng(0)
    shapes = (program.batch, program.widths[0]), (program.batch, program.widths[-1])
    calls = [tuple(rng.normal(size=shape).astype(program.dtype) for shape in shapes) for _ in range(4)]
    found = []
    for least in (1, 3, 10**9):
        with lowered(NATIVE=least, **({"ROWS_FLOPS": 0, "ROWS_BYTES": 64} if in_rows else {})), num_threads(count):
            world = program.make()
            step = tg.compile(world.step, keep_grads=program.gradients == "kept")
            results = [step(*arrays) for arrays in calls]
            found.append([np.array(leaf) for result in (*results, world.look()) for leaf in leaves(result)])
            assert in_rows or ("program" in step.plan.source) == (least < 10**9)
    for a, b in zip(found[0], found[1], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(found[0], found[2], strict=True):
        np.testing.assert_array_equal(a, b)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        for v in value:
            yield from leaves(v)
    elif value is not None:
        yield value.numpy() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_stops_it(label: int) -> None:
    """No parameter has changed, and the next batch goes on as if it had not been."""
    model, step = network()
    other, as_ever = network()
    for seed in range(3):
        step(*batch(seed))
        as_ever(*batch(seed))
    x, y = batch(3)
    before = parameters(model)
    with pytest.raises(LabelError, match=re.escape(f"label {label} is out of range, expected 0 to 2")) as caught:
        step(x, np.where(np.arange(7) == 4, label, y))
    assert "softmax_cross_entropy_grad at " in caught.value.__notes__[0]
    np.testing.assert_equal(parameters(model), before)
    step(x, y)
    as_ever(x, y)
    np.testing.assert_equal(parameters(model), parameters(other))


def warnings_of(compute: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("always")
        compute()
    return [str(w.message) for w in caught]


def test_an_index_of_no_row_stops_it() -> None:
    """What has been computed until then is forgotten, and the next batch goes on as if it had not been."""

    def make() -> tuple[nn.Module, Callable[..., Any]]:
        tg.manual_seed(0)
        model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 2))
        optimiser = optim.SGD(model.parameters(), lr=0.1)

        @tg.compile
        def step(t: Any) -> Any:
            loss = model(t).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        return model, step

    (model, step), (other, as_ever) = make(), make()
    rng = np.random.default_rng(0)
    for _ in range(4):
        t = rng.integers(0, 6, 20)
        assert step(t).item() == as_ever(t).item()
    assert "# take_rows" in step.plan.source
    assert "# sum_rows" in step.plan.source
    before = parameters(model)
    with pytest.raises(LabelError, match="embedding: index 6 is out of range, expected 0 to 5"):
        step(np.where(np.arange(20) == 17, 6, t))
    np.testing.assert_equal(parameters(model), before)
    step(t)
    as_ever(t)
    np.testing.assert_equal(parameters(model), parameters(other))


@pytest.mark.parametrize(("value", "sign", "error"), [(np.inf, -1, "invalid value"), (3e38, 1, "overflow")])
def test_floating_point_errors_of_products_are_numpys(value: float, sign: int, error: str) -> None:
    """A warning where it is one, an error where the user asks for that, nothing where they ask for nothing."""
    w = Tensor(np.array([[3.0, 1.0], [2.0 * sign, 1.0]], "f"), requires_grad=True)
    kept = np.array([[5.0, 1.0], [1.0, 2.0]], "f")

    @tg.compile
    def step(x: Any) -> Any:
        return (x @ w) @ kept

    x = np.ones((3, 2), "f")
    for _ in range(3):
        step(x)
    assert "program" in step.plan.source
    x[1] = value
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(step(x).numpy(), (x @ w.numpy()) @ kept)
    expected = warnings_of(lambda: (x @ w.numpy()) @ kept)
    assert f"{error} encountered in matmul" in expected
    assert warnings_of(lambda: step(x)) == expected
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match=f"{error} encountered in matmul"):
        step(x)
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        np.testing.assert_array_equal(step(np.ones((3, 2), "f")).numpy(), (np.ones((3, 2), "f") @ w.numpy()) @ kept)


def test_what_stops_a_program_does_not_write_over_what_it_reads() -> None:
    """For then its line is run once more."""
    for kind in (calls.AddRows, calls.CrossEntropy, calls.Elementwise, calls.Matmul, calls.TakeRows):
        assert kind.overlays(object.__new__(kind), 0) == [], kind


def test_nobody_is_blamed_for_errors_from_before() -> None:
    """Flags that somebody else has left set are no errors of a product."""
    _, step = network()
    for seed in range(3):
        step(*batch(seed))
    with np.errstate(all="ignore"):
        assert np.isnan(np.array([np.inf]) - np.inf).all()
        assert np.isinf(np.exp(np.array([1e3], "f"))).all()
    with np.errstate(all="raise"):
        step(*batch(3))


def test_more_arguments_than_a_program_is_given() -> None:
    weights = np.random.default_rng(0).normal(size=(20, 3, 3)).astype("f")

    @tg.compile
    def step(*xs: Any) -> Any:
        return sum((xs[i] @ xs[i + 1] for i in range(19)), xs[0])

    for k in range(4):
        found = step(*(weights + k))
    xs = weights + 3
    np.testing.assert_allclose(found.numpy(), sum((xs[i] @ xs[i + 1] for i in range(19)), xs[0]), rtol=1e-5)
    assert step.plan.source.count("program") >= 2


def test_arguments_of_every_kind_of_memory() -> None:
    """Views, arrays backwards, read-only ones, the same array twice, and memory that is gone after the call."""

    @tg.compile
    def step(a: Any, b: Any) -> Any:
        return (a @ b).tanh() @ a

    rng = np.random.default_rng(0)
    large = rng.normal(size=(12, 12))
    frozen = large[:4, :4].copy()
    frozen.flags.writeable = False
    pairs: list[Any] = [
        (large[:4, :4], large[4:8, 4:8]),
        (large[3::-1, :4], large[:4, 3::-1]),
        (frozen, frozen),
        (frozen, frozen.T),
    ]
    for _ in range(2):
        for a, b in pairs:
            np.testing.assert_allclose(step(a, b).numpy(), np.tanh(a @ b) @ a, rtol=1e-12)
    for k in range(50):
        a, b = np.full((4, 4), k / 50), np.eye(4)
        found, expected = step(a, b), np.tanh(a @ b) @ a
        del a, b
        gc.collect()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_without_a_blas_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    for found in (machine(), None):
        monkeypatch.setattr(native, "machine", lambda found=found: found)
        model, step = network()
        expected.append([step(*batch(seed)).item() for seed in range(4)] + parameters(model))
        assert ("program" in step.plan.source) is (found is not None)
    np.testing.assert_equal(expected[0], expected[1])


def test_a_library_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = build.row_sum_kernel(np.dtype("f"))
    assert rows is not None
    native.machine.cache_clear()
    try:
        monkeypatch.setattr(native, "numpy_blas", lambda: iter([]))
        assert native.machine() is None
        native.machine.cache_clear()
        monkeypatch.undo()
        monkeypatch.setattr(native, "is_exact", lambda found: False)
        assert native.machine() is None
        monkeypatch.undo()
        monkeypatch.setattr(np, "matmul", lambda a, b: a @ b + 1)
        native.machine.cache_clear()
        assert native.machine() is None
    finally:
        monkeypatch.undo()
        native.machine.cache_clear()
    gc.collect()
    total = np.empty(2, "f")
    rows(np.ones((2, 3), "f"), total)  # what was there before can be called as ever
    assert total.tolist() == [3, 3]


def test_the_blas_is_numpys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have brought theirs, which lie anywhere."""
    own = [library for library in threads.blas_libraries() if f"{os.sep}numpy.libs{os.sep}" in library.filepath]
    if not own:
        pytest.skip("needs a NumPy that brings its BLAS: pip install numpy")
    opened = []
    monkeypatch.setattr(native.ctypes, "CDLL", lambda path: opened.append(path) or SimpleNamespace(cblas_sgemm=1))
    others = [SimpleNamespace(filepath=f"/home/numpy/{name}.libs/libopenblas.so") for name in ("scipy", "numpy")]
    monkeypatch.setattr(threads, "blas_libraries", lambda: [*others, own[0]])
    assert len(list(native.numpy_blas())) == 1
    assert opened == [own[0].filepath]
    monkeypatch.setattr(threads, "blas_libraries", lambda: others)  # of two nobody knows which it is
    assert list(native.numpy_blas()) == []
    monkeypatch.setattr(threads, "blas_libraries", lambda: others[:1])
    assert len(list(native.numpy_blas())) == 1


def test_nobody_is_forked_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child would wait for llvmlite's lock, or for its import, for ever."""
    free: list[bool] = []

    def numpy_blas() -> Iterator[Any]:
        thread = threading.Thread(target=lambda: free.append(loading.acquire(blocking=False)))  # as who forks takes it
        thread.start()
        thread.join()
        return iter([])

    monkeypatch.setattr(native, "numpy_blas", numpy_blas)
    native.machine.cache_clear()
    try:
        assert native.machine() is None
    finally:
        native.machine.cache_clear()
    assert free == [False]


def test_measured_plans_run_the_same_calls() -> None:
    """A clock stands between the calls then."""
    _, step = network()
    for seed in range(3):
        step(*batch(seed))
    rows = step.plan.rows()
    assert len(rows) == len(step.plan.calls)
    assert all(row.seconds > 0 for row in rows)
    source = planning.Plan.emit(step.plan, planning.Clock({})).finish(step.plan.results)[0]
    assert source.count("program") >= 5


FINITE = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.sampled_from(list(llvm.SCALAR_OPS)), FINITE, FINITE, st.sampled_from("fd"))
def test_functions_of_numbers_are_those_of_numpy(name: str, a: float, b: float, dtype: str) -> None:
    """To the last bit, NaN and infinities too; and it stops where NumPy would warn."""
    function, count = getattr(np, name), 1 if name == "negative" else 2
    arrays = [np.asarray(v, dtype) for v in (a, b)[:count]]
    out = np.zeros((), dtype)
    call = instructions.scalar_instruction(machine(), name, [operand(v) for v in (*arrays, out)])
    assert call is not None
    stopped = run(call)
    with np.errstate(all="ignore"):
        expected = function(*arrays)
    np.testing.assert_array_equal(out, expected)
    assert np.signbit(out) == np.signbit(expected) or np.isnan(out)
    assert bool(stopped) == bool(warnings_of(lambda: function(*arrays)))
    assert instructions.scalar_instruction(machine(), name, [operand(v[None]) for v in (*arrays, out)]) is None
    assert (
        instructions.scalar_instruction(machine(), name, [operand(v) for v in (*arrays, np.zeros((), "df"["fd".index(dtype)]))])
        is None
    )


@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.sampled_from("fdl?"))
def test_copies_of_rows(data: st.DataObject, rows: int, columns: int, dtype: str) -> None:
    """With gaps between rows or without, backwards, turned, broadcast: as NumPy does it, or not at all."""
    x, out = (data.draw(matrices(rows, columns, dtype)) for _ in range(2))
    x = data.draw(st.sampled_from([x, np.broadcast_to(x[:1], x.shape), x[:, None], x[None], x[:, :1] + x]))
    out = out.reshape(x.shape) if out.flags.c_contiguous else out
    if x.shape != out.shape:
        assert instructions.copy_instruction(machine(), operand(out), operand(x)) is None
        return
    call = instructions.copy_instruction(machine(), operand(out), operand(x))
    if call is not None:
        assert run(call) == 0
        np.testing.assert_array_equal(out, x)
    else:
        assert not (x.flags.c_contiguous and out.flags.c_contiguous)


def test_a_row_that_would_be_written_over_before_it_is_read() -> None:
    memory = np.arange(24.0).reshape(6, 4)
    assert instructions.copy_instruction(machine(), operand(memory[1:, :3]), operand(memory[:-1, :3])) is None
    call = instructions.copy_instruction(machine(), operand(memory[1:]), operand(memory[:-1]))  # one piece
    assert call is not None
    expected = memory[:-1].copy()
    run(call)
    np.testing.assert_array_equal(memory[1:], expected)


def test_slices_of_what_a_step_computes() -> None:
    """Parts of a layer's results, each read several times, and their gradients: means and variances of an encoder, say."""
    tg.manual_seed(0)
    layer, x = nn.Linear(5, 8), np.random.default_rng(0).normal(size=(7, 5)).astype("f")

    def loss_of(x: Any) -> Any:
        h = layer(x)
        m, s = h[:, :4], h[:, 4:]
        return (m * s.exp() + m**2 - s).sum() / 7 - 0.5 * (s.exp() + s).mean() * 3

    def step(x: Any) -> Any:
        loss = loss_of(x)
        return loss, tg.grad(loss, [layer.weight, layer.bias])

    compiled = tg.compile(step)
    for k in range(4):
        (loss, grads), (expected, slopes) = compiled(x + k), step(Tensor(x + k))
        np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-5)
        for a, b in zip(grads, slopes, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4)
    assert "# clear" in compiled.plan.source
    assert "# divide" in compiled.plan.source
    assert "put" not in compiled.plan.source
