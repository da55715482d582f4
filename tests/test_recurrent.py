"""Recurrent layers against loops of plain operations over single sequences, and against PyTorch's values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, func, nn, ops
from tensorgrad.errors import ArgumentError, DTypeError, LabelError, ShapeError
from tensorgrad.kernels import recurrent
from tensorgrad.kernels.build import has_numba
from tensorgrad.op import REGISTRY
from tensorgrad.testing import gradcheck
from tests.cuda.gpu import using
from tests.strategies import generators

GOLDEN = Path(__file__).parent / "golden" / "torch_recurrent.npz"  # golden/torch_recurrent.py has written it
LENGTHS = [3, 1, 4]
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: nn.RNN(2, 3, 2, bidirectional=True, dtype="float64"),
    "RNN_relu": lambda: nn.RNN(2, 3, nonlinearity="relu", bias=False, batch_first=True, dtype="float64"),
    "LSTM": lambda: nn.LSTM(2, 3, 2, bidirectional=True, dtype="float64"),
    "LSTM_first": lambda: nn.LSTM(2, 3, bias=False, batch_first=True, dtype="float64"),
    "LSTM_single": lambda: nn.LSTM(2, 3, bidirectional=True, dtype="float64"),
    "GRU": lambda: nn.GRU(2, 3, 2, bidirectional=True, dtype="float64"),
    "GRU_first": lambda: nn.GRU(2, 3, bias=False, batch_first=True, dtype="float64"),
    "GRU_single": lambda: nn.GRU(2, 3, 2, dtype="float64"),
    "RNNCell": lambda: nn.RNNCell(2, 3, nonlinearity="relu", dtype="float64"),
    "LSTMCell": lambda: nn.LSTMCell(2, 3, dtype="float64"),
    "GRUCell": lambda: nn.GRUCell(2, 3, bias=False, dtype="float64"),
    "RNN_ragged": lambda: nn.RNN(2, 3, 2, bidirectional=True, dtype="float64"),
    "LSTM_ragged": lambda: nn.LSTM(2, 3, 2, bidirectional=True, dtype="float64"),
    "GRU_ragged": lambda: nn.GRU(2, 3, 2, bidirectional=True, dtype="float64"),
}
KINDS = (nn.RNN, nn.LSTM, nn.GRU)
FUSED = ("rnn", "lstm", "gru")


def flat(found: Any) -> list[Any]:
    return [t for part in found for t in flat(part)] if isinstance(found, tuple) else [found]


def squares(found: Any) -> Any:
    return sum((y * y).sum() for y in flat(found))


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_of_torch(name: str) -> None:
    with np.load(GOLDEN) as file:
        golden = {key.partition("/")[2]: file[key] for key in file if key.startswith(f"{name}/")}
    layer = LAYERS[name]()
    layer.load_state_dict({k.partition("/")[2]: v for k, v in golden.items() if k.startswith("state/")}, layout="torch")
    x = Tensor(golden["x"], True)
    found = layer(x, None, LENGTHS) if name.endswith("ragged") else layer(x)
    squares(found).backward()
    for i, y in enumerate(flat(found)):
        np.testing.assert_allclose(y.data, golden[f"y{i}"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(x.grad.data, golden["gx"], rtol=1e-11, atol=1e-13)
    for key, p in layer.named_parameters():
        g = golden[f"grad/{key}"]
        np.testing.assert_allclose(p.grad.data, g.T if g.ndim == 2 else g, rtol=1e-11, atol=1e-13, err_msg=key)


# The oracle: one sequence at a time, step by step, in plain operations


def step(layer: Any, suffix: str, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    w, u, b, d = (getattr(layer, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    n = layer.hidden_size
    a, q = x @ w, h @ u
    if b is not None:
        a, q = a + b, q + d
    if isinstance(layer, nn.RNN):
        s = a + q
        return (ops.tanh(s) if layer.nonlinearity == "tanh" else ops.maximum(s, 0)), c
    if isinstance(layer, nn.LSTM):
        s = a + q
        i, f, m, o = (s[k * n : (k + 1) * n] for k in range(4))
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(m)
        return ops.sigmoid(o) * ops.tanh(c), c
    r, w = (ops.sigmoid(a[k * n : (k + 1) * n] + q[k * n : (k + 1) * n]) for k in range(2))
    return (1 - w) * ops.tanh(a[2 * n :] + r * q[2 * n :]) + w * h, c


def sequence(layer: Any, x: list[Any], begin: tuple[Any, Any]) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Outputs of the last layer for the steps of one sequence, and (h, c) at the end of each layer and direction."""
    ends: list[tuple[Any, Any]] = []
    for number in range(layer.num_layers):
        columns = []
        for direction in ("", "_reverse")[: 1 + layer.bidirectional]:
            h, c = (s[len(ends)] for s in begin)
            outputs = []
            for at in x[::-1] if direction else x:
                h, c = step(layer, f"_l{number}{direction}", at, h, c)
                outputs.append(h)
            columns.append(outputs[::-1] if direction else outputs)
            ends.append((h, c))
        x = [ops.concatenate(parts) for parts in zip(*columns, strict=True)]
    return x, ends


@given(data=st.data(), rng=generators())
@settings(max_examples=30)
@pytest.mark.parametrize("kind", KINDS)
def test_against_a_loop_over_steps(kind: Any, data: st.DataObject, rng: np.random.Generator) -> None:
    """Outputs, states and gradients of everything, for every combination of options; of ragged batches as one by one."""
    steps, n, features, hidden = (data.draw(st.integers(low, 3)) for low in (0, 1, 1, 1))
    options = {name: data.draw(st.booleans()) for name in ("bias", "batch_first", "bidirectional")}
    if kind is nn.RNN:
        options["nonlinearity"] = data.draw(st.sampled_from(["tanh", "relu"]))
    layer = kind(features, hidden, data.draw(st.integers(1, 2)), rng=rng, dtype="float64", **options)
    count = layer.num_layers * (1 + layer.bidirectional)
    is_single, is_given = data.draw(st.booleans()), data.draw(st.booleans())
    n = 1 if is_single else n
    lengths = (
        None if is_single or data.draw(st.booleans()) else data.draw(st.lists(st.integers(0, steps), min_size=n, max_size=n))
    )
    x = Tensor(rng.normal(size=(steps, n, features)), True)
    h, c = (Tensor(rng.normal(size=(count, n, hidden)) * is_given, True) for _ in range(2))

    given_x = x[:, 0] if is_single else x.swapaxes(0, 1) if layer.batch_first else x
    begin = tuple(s[:, 0] if is_single else s for s in (h, c))
    hx = None if not is_given else begin if kind is nn.LSTM else begin[0]
    output, last = layer(given_x, hx) if lengths is None else layer(given_x, hx, lengths)
    output = output if is_single or not layer.batch_first else output.swapaxes(0, 1)
    ends = list(last) if kind is nn.LSTM else [last]
    if is_single:
        output, ends = ops.expand_dims(output, 1), [ops.expand_dims(e, 1) for e in ends]

    outputs, states = [], []
    zero = np.zeros(output.shape[-1])
    for i in range(n):
        long = steps if lengths is None else lengths[i]
        found, end = sequence(layer, [x[k, i] for k in range(long)], (h[:, i], c[:, i]))
        outputs.append(ops.stack([*found, *[zero] * (steps - long)]) if steps else np.zeros((0, output.shape[-1])))
        states.append([ops.stack(part) for part in zip(*end, strict=True)])
    expected = [ops.stack(outputs, 1), *[ops.stack([s[k] for s in states], 1) for k in range(len(ends))]]

    leaves = [x, *([h, c][: len(ends)] if is_given else []), *layer.parameters()]
    weights = [rng.normal(size=y.shape) for y in expected]
    grads = []
    for ys in ([output, *ends], expected):
        loss = sum(((y * y + y) * w).sum() for y, w in zip(ys, weights, strict=True))
        grads.append(tensorgrad.grad(loss, leaves, allow_unused=True))
    for y, e in zip([output, *ends], expected, strict=True):
        np.testing.assert_allclose(y.data, e.data if isinstance(e, Tensor) else e, rtol=1e-11, atol=1e-13)
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(0 if a is None else a.data, 0 if b is None else b.data, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_of_layers(kind: Any) -> None:
    rng = np.random.default_rng(0)
    layer = kind(2, 2, bidirectional=True, rng=rng, dtype="float64")
    gradcheck(lambda x: layer(x, None, [1, 2])[0], rng.normal(size=(2, 2, 2)), order=2)
    x = Tensor(rng.normal(size=(3, 2)), True)

    def slope(f: Callable[[Any], Any]) -> np.ndarray:
        (g,) = tensorgrad.grad(f(x), x, create_graph=True)
        (gg,) = tensorgrad.grad((g * g).sum(), x)
        return gg.data

    zeros = np.zeros((2, 2))
    expected = slope(lambda x: squares(ops.stack(sequence(layer, [x[k] for k in range(3)], (zeros, zeros))[0])))
    np.testing.assert_allclose(slope(lambda x: squares(layer(x)[0])), expected, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["lstm", "lstm_grad", "gru", "gru_grad"])
@given(rng=generators())
@settings(max_examples=10)
def test_kernels_give_what_numpy_gives(name: str, dtype: str, rng: np.random.Generator) -> None:
    if not has_numba():
        pytest.skip("needs Numba: pip install numba")
    op = REGISTRY[name]
    args = [a.astype(dtype) for a in op.sample(rng, (1, 2, 5, 17))[0]]
    fast = getattr(recurrent, name)(*args)
    assert fast is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrent, "step_of", lambda *_: None)
        plain = op(*args)
    largest = np.abs(plain).max(initial=1)
    np.testing.assert_allclose(fast, plain, rtol=0, atol=30 * np.finfo(dtype).eps * largest)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_and_tanh_of_kernels(dtype: str) -> None:
    """Within two units in the last place of a wider arithmetic's, in the tails and near 0 too."""
    if not has_numba():
        pytest.skip("needs Numba: pip install numba")
    from numba import njit

    from tensorgrad.kernels import fast

    @njit
    def both(x: Any, s: Any, t: Any) -> None:
        for i in range(x.size):
            s[i], t[i] = fast.sigmoid(x[i]), fast.tanh(x[i])

    rng, far = np.random.default_rng(0), 80 if dtype == "float32" else 700
    parts = [rng.uniform(-far, far, 3000), rng.uniform(-2, 2, 3000), 10 ** rng.uniform(-30, 0, 3000)]
    x = np.concatenate([*parts, [0.0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4]]).astype(dtype)
    found = np.empty_like(x), np.empty_like(x)
    both(x, *found)
    wide = x.astype(np.longdouble)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-wide)), np.tanh(wide)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a[:-7], b[:-7].astype(float), rtol=2 * np.finfo(dtype).eps, atol=0)
        np.testing.assert_array_equal(a[-7:], b[-7:].astype(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_steps(kind: Any) -> None:
    """As eager ones, with lengths that change from call to call; as many operations for 20 steps as for 3."""
    rng = np.random.default_rng(0)
    layer = kind(3, 4, 2, bidirectional=True, rng=rng, dtype="float64")

    def loss(x: Any, lengths: Any) -> Any:
        total = squares(layer(x, None, lengths))
        total.backward()
        return total

    counts = []
    for steps in (3, 20):
        step = tensorgrad.compile(loss, keep_grads=True)
        for _ in range(3):
            x, lengths = rng.normal(size=(steps, 2, 3)), rng.integers(0, steps + 1, 2)
            results = []
            for f in (loss, step):
                layer.zero_grad()
                total = f(x, lengths)
                results.append([total.data, *[p.grad.data for p in layer.parameters()]])
            for a, b in zip(*results, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        counts.append(len(step.plan.calls))
    assert counts[0] == counts[1]


def test_lengths_out_of_range_are_refused_by_compiled_steps() -> None:
    """A negative one would be counted from the end; and under vmap it would be another sequence's."""
    layer = nn.LSTM(2, 3)
    step = tensorgrad.compile(lambda x, lengths: squares(layer(x, None, lengths)))
    x = np.ones((5, 2, 2), "f")
    for lengths in ([1, 2], [5, 0]):
        step(x, np.array(lengths))
    for wrong in ([-1, 2], [1, 6]):
        with pytest.raises(LabelError, match=r"lengths: expected 0 .. 5, got"):
            step(x, np.array(wrong))
        with pytest.raises(LabelError, match=r"lengths: expected 0 .. 5, got"):
            func.vmap(lambda x, n: layer(x, None, n)[0])(np.stack([x, x]), np.array([[1, 2], wrong]))


def test_padding_is_not_looked_at() -> None:
    for kind in KINDS:
        layer = kind(2, 3, 2, bidirectional=True)
        x = np.ones((3, 2, 2), "f")
        x[2, 0] = x[0:, 1] = np.nan
        x = Tensor(x, True)
        output, _ = layer(x, None, np.array([2, 0]))
        squares(output).backward()
        assert np.isfinite(x.grad.data).all()
        assert np.isfinite(layer.weight_ih_l0.grad.data).all()
        np.testing.assert_array_equal(output.data[2, 0], 0)
        np.testing.assert_array_equal(output.data[:, 1], 0)


def test_no_sequences_at_all() -> None:
    for kind in KINDS:
        output, last = kind(2, 3)(np.ones((4, 0, 2), "f"), None, [])
        assert output.shape == (4, 0, 3)
        assert flat(last)[0].shape == (1, 0, 3)


def test_dropout_between_layers_alone() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 2, 3))
    for layers, differs in ((1, False), (2, True)):
        layer = nn.GRU(3, 5, layers, dropout=0.5, dtype="float64", rng=rng)
        output, _ = layer(x)
        assert output.data.all()  # nothing of the last layer's is dropped
        is_other = not np.array_equal(output.data, layer(x)[0].data)
        assert is_other == differs
        layer.eval()
        np.testing.assert_array_equal(layer(x)[0].data, layer(x)[0].data)


@pytest.mark.parametrize("kind", [*KINDS, nn.LSTMCell])
def test_on_a_gpu(kind: Any) -> None:
    """By the stand-in for one: what a layer makes itself (zeros, places) is where its parameters are."""
    rng = np.random.default_rng(0)
    layer = kind(3, 4, bias=kind is not nn.GRU, dtype="float64", rng=rng)
    x = rng.normal(size=(2, 3) if kind is nn.LSTMCell else (5, 2, 3))
    results = []
    with using("stand-in"):
        for device in ("cpu", "cuda"):
            layer.to(device).zero_grad()
            args = (None, [2, 5]) if kind in KINDS else ()
            found = layer(Tensor(x).to(device), *args)
            squares(found).backward()
            results.append([t.to("cpu").data for t in (*flat(found), *[p.grad for p in layer.parameters()])])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FUSED)
def test_half_precision_and_mixed_dtypes(name: str) -> None:
    op = REGISTRY[name]
    args, attrs = op.sample(np.random.default_rng(0))
    half = op(*[a.astype("float16") for a in args], **attrs)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, op(*args, **attrs), atol=5e-3, rtol=5e-3)
    mixed = op(args[0].astype("f"), *args[1:], **attrs)
    assert mixed.dtype == np.float64


lstm, gru, cell = nn.LSTM(2, 3), nn.GRU(2, 3, batch_first=True), nn.LSTMCell(2, 3)
X = np.ones((4, 5, 2), "f")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: lstm(X[..., :1]),
            ShapeError,
            "LSTM: input has shape (4, 5, 1), expected (t, features), or (t, n,",
        ),
        (lambda: lstm(X[0, 0]), ShapeError, "LSTM: input has shape (2,), expected (t, features)"),
        (lambda: lstm("x"), DTypeError, "LSTM: expected numbers"),
        (lambda: lstm(X, np.ones((1, 5, 3))), ArgumentError, "LSTM: hx must be (h, c), got a ndarray of shape (1, 5, 3)"),
        (
            lambda: lstm(X, (np.ones((1, 5, 3)), np.ones((1, 4, 3)))),
            ShapeError,
            "LSTM: the initial state c has shape (1, 4, 3), expected (1, 5, 3)",
        ),
        (lambda: gru(X, np.ones((1, 5, 3))), ShapeError, "GRU: the initial state h has shape (1, 5, 3), expected (1, 4, 3)"),
        (lambda: gru(X, None, [6, 1, 2, 3]), LabelError, "lengths: expected 0 .. 5, got 1 .. 6"),
        (lambda: gru(X, None, [-1, 1, 2, 3]), LabelError, "lengths: expected 0 .. 5, got -1 .. 3"),
        (lambda: gru(X, None, [1.0, 1, 2, 3]), DTypeError, "GRU: lengths must be 4 integers, one per sequence"),
        (lambda: gru(X, None, [1, 2, 3]), ShapeError, "GRU: lengths must be 4 integers, one per sequence"),
        (lambda: gru(X[0], None, [1]), ArgumentError, "GRU: lengths need a batch, got input (5, 2)"),
        (
            lambda: cell(X),
            ShapeError,
            "LSTMCell: input has shape (4, 5, 2), expected (features) or (n, features) with 2 features",
        ),
        (lambda: cell(X[0], (X[0], X[0])), ShapeError, "LSTMCell: the initial state h has shape (5, 2), expected (5, 3)"),
        (
            lambda: ops.lstm(np.ones((2, 1, 8)), np.ones((1, 3)), np.ones((1, 3)), np.ones((3, 8))),
            ShapeError,
            "lstm: z (2, 1, 8) and u (3, 8) must be 12 wide, 4 times h0 (1, 3)",
        ),
        (lambda: ops.rnn(X, X[0], np.ones((2, 2)), "sigmoid"), ArgumentError, "rnn: activation must be 'tanh' or 'relu'"),
        (lambda: ops.rnn(X, X[0], np.ones((2, 3))), ShapeError, "rnn: axis h is 2 in argument 0 (4, 5, 2) but 3 in argument 2"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_what_layers_say_of_themselves() -> None:
    assert repr(nn.LSTM(2, 3)) == "LSTM(2, 3)"
    assert repr(nn.RNN(2, 3, 2, "relu", False)) == "RNN(2, 3, num_layers=2, bias=False, nonlinearity='relu')"
    assert repr(nn.GRUCell(2, 3, bias=False)) == "GRUCell(2, 3, bias=False)"
