"""F: what a step reads is read at each call, wherever it comes from: an argument, an array from outside, a Tensor from outside.

Equal in three calls, so that nothing shows before the first replay, and changed in the fourth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, nn, ops, optim
from tensorgrad.errors import CompileError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tests.compiled import KERNELS, World, agree, assert_close, kernels, training, vec

ORIGINS = ["argument", "Tensor argument", "array", "Tensor", "parameter"]
OTHERS = ("checkpoint", "sparse_matmul")  # the latter's arrays are a matrix together: see test_ops_sparse
OPS = {name: op for name, op in REGISTRY.items() if type(op).__module__.startswith("tensorgrad.") and name not in OTHERS}


def changed(v: np.ndarray) -> np.ndarray:
    """Other values of the same kind, in the same domain."""
    if v.dtype.kind == "b":
        return ~v
    if v.dtype.kind == "f":
        return (v * 0.97).astype(v.dtype)
    return np.where(v > 0, v - 1, v + (v.max(initial=0) > 0)).astype(v.dtype)


def reading(f: Callable[..., Any], values: list[np.ndarray], i: int, origin: str) -> tuple[Callable[[], World], Any, Any]:
    """A step that calls f with values of which the i-th comes from there, the calls to make, and what to do before each."""
    places: list[Any] = []

    def make() -> World:
        place = values[i].copy()
        trained = values[i].dtype.kind == "f" and origin == "parameter"
        kept = Tensor(place, requires_grad=trained) if origin in ("Tensor", "parameter") else place
        places[:] = [kept]
        others = [Tensor(v, requires_grad=v.dtype.kind == "f") for v in values]

        def step(*given: Any) -> Any:
            args = [*others]
            args[i] = given[0] if given else kept
            y = f(*args)
            if not (isinstance(y, Tensor) and y.requires_grad):
                return y
            weights = np.cos(np.arange(float(y.size))).reshape(y.shape).astype(y.dtype)
            wanted = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
            return y, tg.grad((y * weights).sum(), wanted, allow_unused=True)

        return World(step)

    def before_call(call: int) -> None:
        target = places[0].data if isinstance(places[0], Tensor) else places[0]
        if "argument" not in origin:
            target[...] = values[i] if call < 3 else changed(values[i])

    given = [values[i] if call < 3 else np.asarray(changed(values[i])) for call in range(5)]
    if origin == "Tensor argument":
        given = [Tensor(v, requires_grad=v.dtype.kind == "f") for v in given]  # type: ignore[misc]
    return make, [(v,) if "argument" in origin else () for v in given], before_call


def written(x: Any, index: Any) -> Any:
    y = x * 1
    y[index] = 0.5
    return y * x


def check(f: Callable[..., Any], values: list[np.ndarray], i: int, origin: str) -> None:
    """An argument is an argument, a Tensor a Tensor; what is done with an array by NumPy may be refused."""
    make, calls, before_call = reading(f, values, i, origin)
    with np.errstate(all="ignore"):
        may_refuse = origin == "array" or f is written
        agree(make, calls, rtol=1e-9, may_refuse=may_refuse, before_call=before_call)


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("name", OPS)
def test_every_argument_of_every_op(name: str, origin: str) -> None:
    op = OPS[name]
    args, attrs = op.sample(np.random.default_rng(1))
    values = [np.asarray(a) for a in args]
    data = [op.is_data(i) for i in range(len(values))]
    for i, v in enumerate(values):
        if not v.size or (data[i] and origin in ("Tensor argument", "parameter")) or (origin == "array" and len(values) == 1):
            continue  # data that require a gradient are refused; of arrays alone nothing is recorded

        def f(*xs: Any, i: int = i) -> Any:
            xs = tuple(x.detach() if data[j] and isinstance(x, Tensor) and j != i else x for j, x in enumerate(xs))
            return op(*xs, **attrs)

        check(f, values, i, origin)


# Functions of several ops, losses, layers

rng = np.random.default_rng(0)
Z, T, Y = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1]), np.eye(3)[[0, 2, 1, 0]]
W, B = rng.normal(size=(3, 3)), rng.normal(size=3)
POSITIVE = np.array([1.0, 2.0, 0.5])

FUNCTIONS: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
    "cross_entropy": (F.cross_entropy, [Z, T]),
    "cross_entropy of probabilities": (F.cross_entropy, [Z, Y]),
    "cross_entropy, weighted": (F.cross_entropy, [Z, T, POSITIVE]),
    "cross_entropy, weighted and smoothed": (lambda z, t, w: F.cross_entropy(z, t, w, label_smoothing=0.1), [Z, T, POSITIVE]),
    "cross_entropy, weighted, of probabilities": (F.cross_entropy, [Z, Y, POSITIVE]),
    "cross_entropy, each": (lambda z, t, w: F.cross_entropy(z, t, w, reduction="none"), [Z, T, POSITIVE]),
    "cross_entropy, some ignored": (lambda z, t: F.cross_entropy(z, t, ignore_index=1), [Z, T]),
    "nll_loss": (lambda z, t, w: F.nll_loss(ops.log_softmax(z), t, w), [Z, T, POSITIVE]),
    "logits": (F.binary_cross_entropy_with_logits, [Z, Y]),
    "logits, weighted": (F.binary_cross_entropy_with_logits, [Z, Y, POSITIVE]),
    "logits, pos_weight": (lambda z, y, w: F.binary_cross_entropy_with_logits(z, y, pos_weight=w), [Z, Y, POSITIVE]),
    "kl_div": (lambda z, y: F.kl_div(ops.log_softmax(z), y), [Z, (Y + 0.1) / 1.3]),
    "mse": (F.mse_loss, [Z, Y]),
    "huber": (F.huber_loss, [Z, Y]),
    "l1": (F.l1_loss, [Z, Y]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, 3, w, b), [Z, POSITIVE, B]),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [Z, POSITIVE, B]),
    "embedding": (lambda w, i: F.embedding(i, w), [W, T]),
    "linear": (F.linear, [Z, W, B]),
    "relu of linear": (lambda x, w, b: (x @ w + b).relu(), [Z, W, B]),
    "sigmoid of linear": (lambda x, w, b: (x @ w + b).sigmoid(), [Z, W, B]),
    "tanh of linear": (lambda x, w, b: (x @ w + b).tanh(), [Z, W, B]),
    "log of softmax": (lambda x: x.softmax().log(), [Z]),
    "where": (lambda c, a, b: ops.where(c, a, b), [Z > 0, Z, Y]),
    "clip": (lambda x, low, high: ops.clip(x, low, high), [Z, B - 3, B]),
    "index": (lambda x, i: x[i] * 2, [Z, T]),
    "two indices": (lambda x, i: x[np.arange(4), i] * 2, [Z, T]),
    "written at an index": (written, [Z, np.array([0, 1])]),
    "take": (lambda x, i: ops.take(x, i, 0) * 1, [Z, T]),
    "take_along_axis": (lambda x, i: ops.take_along_axis(x, i, 1) * 1, [Z, T[:, None]]),
    "one_hot": (lambda i, x: ops.one_hot(i, 3, "float64") * x, [T, Z]),
    "factor": (lambda x, k: (x * k).tanh() * k, [Z, np.array(2.0)]),
    "vector": (lambda x, k: (x / k - k) ** 2, [Z, POSITIVE]),
    "power": (lambda x, k: (x * x + 1) ** k, [Z, np.array(1.5)]),
    "joined": (lambda x, y: ops.concatenate([x, y, x]).sum(0), [Z, Y]),
    "einsum": (lambda x, y: ops.einsum("ij,kj->ik", x, y), [Z, Y]),
    "solve": (lambda a, b: ops.solve(a, b), [W + 4 * np.eye(3), B]),
}


LOSSES = ("cross_entropy", "nll", "kl", "logits", "mse", "huber", "l1")  # all but what they are first of is data


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_of_functions(name: str, origin: str) -> None:
    f, values = FUNCTIONS[name]

    def of_data(*xs: Any) -> Any:
        return f(xs[0], *[x.detach() if isinstance(x, Tensor) else x for x in xs[1:]])

    for i in range(len(values)):
        if origin != "array" or i:  # what NumPy computes of an array alone nobody sees
            check(of_data if name.startswith(LOSSES) else f, values, i, origin)


FOLLOWED: dict[str, tuple[Callable[[Any, Any], Any], list[Any], list[Any]]] = {  # with an array from outside, and another
    "take": (lambda x, a: x.take(a) * 1, [0, 1, 2], [2, 1, 0]),
    "index": (lambda x, a: x[a] * 1, [0, 1, 2], [2, 1, 0]),
    "index of rows": (lambda x, a: (x.reshape(3, 1) * x)[a], [0, 1], [2, 2]),
    "mask": (lambda x, a: ops.where(a, x, 0.0), [True, False, True], [False, True, True]),
    "Tensor": (lambda x, a: x * Tensor(a), [1.0, 1, 1], [5.0, 5, 5]),
    "Tensor with a gradient": (lambda x, a: tg.grad((x * (t := Tensor(a, True)) * t).sum(), t), [1.0, 1, 1], [5.0, 5, 5]),
    "Tensor of a part": (lambda x, a: x * Tensor(a[:1]), [1.0, 1, 1], [5.0, 5, 5]),
    "factor": (lambda x, a: x * a, [1.0, 1, 1], [5.0, 5, 5]),
    "factor of no axes": (lambda x, a: x * a, 1.0, 5.0),
    "product": (lambda x, a: x @ a, [1.0, 1, 1], [5.0, 5, 5]),
    "bounds": (lambda x, a: x.clip(0.0, a), [1.0, 1, 1], [5.0, 5, 5]),
    "joined": (lambda x, a: ops.concatenate([x, a]), [1.0, 1, 1], [5.0, 5, 5]),
    "labels": (lambda x, a: F.cross_entropy(x.reshape(1, 3), a), [0], [2]),
    "one_hot": (lambda x, a: ops.one_hot(a, 3, "float64") * x, [0, 1, 2], [2, 1, 0]),
    "embedding": (lambda x, a: F.embedding(a, x.reshape(3, 1)), [0, 1, 2], [2, 1, 0]),
    "class weights": (
        lambda x, a: F.cross_entropy(x.reshape(1, 3) * [[1], [2]], np.array([0, 1]), a),
        [1.0, 1, 1],
        [1.0, 9, 1],
    ),
    "probabilities": (lambda x, a: F.cross_entropy(x, a), [1.0, 0, 0], [0.0, 0, 1]),
    "targets": (lambda x, a: F.mse_loss(x, a), [1.0, 0, 0], [0.0, 0, 1]),
    "targets of logits": (lambda x, a: F.binary_cross_entropy_with_logits(x, a), [1.0, 0, 0], [0.0, 0, 1]),
    "added in place": (lambda x, a: (x * 1).__iadd__(a), [1.0, 0, 0], [0.0, 0, 1]),
    "set in place": (lambda x, a: set_all(x * 1, a), [1.0, 0, 0], [0.0, 0, 1]),
}


def set_all(x: Any, value: Any) -> Any:
    x[...] = value
    return x


@pytest.mark.parametrize("name", FOLLOWED)
def test_arrays_from_outside_are_read_at_each_call(name: str) -> None:
    """Written to after three calls; a replay follows."""
    f, first, later = FOLLOWED[name]
    kept: list[Any] = []

    def make() -> World:
        kept[:] = [array := np.array(first)]
        return World(lambda x: f(x, array))

    def before_call(i: int) -> None:
        kept[0][...] = first if i < 3 else later

    agree(make, [(np.arange(1.0, 4) * k,) for k in (1, 2, 3, 1, 2)], may_refuse=False, before_call=before_call)


# Factors of a cross-entropy, which fusion puts into the gradient's kernel

SPELLINGS: dict[str, Callable[[Any, Any, Any], Any]] = {  # of logits z, probabilities y, a number k
    "L k": lambda z, y, k: F.cross_entropy(z, y) * k,
    "k L": lambda z, y, k: k * F.cross_entropy(z, y),
    "L / k": lambda z, y, k: F.cross_entropy(z, y) / k,
    "-(k sum)": lambda z, y, k: -(k * (y * z.log_softmax()).sum()),
    "k (-sum)": lambda z, y, k: k * -(y * z.log_softmax()).sum(),
    "-sum / k": lambda z, y, k: -(y * z.log_softmax()).sum() / k,
    "mean": lambda z, y, k: -(y * z.log_softmax()).mean() * k,
    "mean of sums": lambda z, y, k: -((y * z.log_softmax()).sum(1).mean() * k),
    "inside of the sum": lambda z, y, k: -(k * (y * z.log_softmax())).sum(),
    "inside, each": lambda z, y, k: -(k * y * z.log_softmax()).sum(),
    "log of softmax": lambda z, y, k: -(y * z.softmax().log()).sum() * k,
    "twice": lambda z, y, k: F.cross_entropy(z, y) * k * k,
    "of classes": lambda z, y, k: F.cross_entropy(z, np.array([0, 2, 1, 0])) * k,
    "of classes, / k": lambda z, y, k: F.cross_entropy(z, np.array([0, 2, 1, 0])) / k,
    "and more": lambda z, y, k: F.cross_entropy(z, y) * k + (z * z).sum() * k,
}


@pytest.mark.parametrize("origin", ["argument", "array", "Tensor", "number"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_factors_of_losses(name: str, origin: str) -> None:
    """The losses and the weights after gradient descent. A number from outside stays what it was: it is not changed."""
    later = [2.0, 2.0, 2.0, 5.0, 0.5] if origin != "number" else [2.0] * 5
    kept: list[Any] = []

    def make() -> World:
        w = Tensor(W, requires_grad=True)
        outside: Any = {"array": np.array(2.0), "Tensor": Tensor(np.array(2.0)), "number": 2.0}.get(origin)
        kept[:] = [outside]

        def loss(x: Any, *k: Any) -> Any:
            return SPELLINGS[name](x @ w, Y, k[0] if k else outside)

        return World(training(loss, optim.SGD([w], lr=0.1)), lambda: w)

    def before_call(i: int) -> None:
        if origin in ("array", "Tensor"):
            (kept[0].data if origin == "Tensor" else kept[0])[...] = later[i]

    calls = [(Z, np.array(k)) if origin == "argument" else (Z,) for k in later]
    agree(make, calls, may_refuse=False, before_call=before_call, replays=origin in ("argument", "number"))


def test_a_factor_that_differs_in_the_first_two_calls() -> None:
    w = Tensor(np.zeros((3, 3)), requires_grad=True)
    step = tg.compile(training(lambda x, k: F.cross_entropy(x @ w, np.eye(3)[[0, 2, 1]]) * k, optim.SGD([w], lr=1.0)))
    for k in (1.0, 2.0, 3.0, 0.0, 1.0):
        w.data[...] = 0
        assert step(np.eye(3), np.array(k)).item() == pytest.approx(k * np.log(3))
        assert_close(w.numpy()[0], k * (np.eye(3)[0] - 1 / 3) / 3, 1e-12)


def test_class_weights_by_the_formula() -> None:
    z = np.array([[1.0, 2], [1, 2]])
    nll = np.log(np.exp([1, 2]).sum()) - np.array([1, 2])
    for first in ([1.0, 1.0], [3.0, 1.0]):
        f = tg.compile(lambda z, w: F.cross_entropy(z, np.array([0, 1]), w))
        for w in (first, [1.0, 1.0], [1.0, 9.0], [2.0, 1.0], [0.0, 1.0]):
            assert f(z, np.array(w)).item() == pytest.approx((w @ nll) / np.sum(w))


# Parts that are computed again

SEGMENTS: dict[str, Callable[[Any, Any, Any], Any]] = {  # of an argument, an array and a Tensor from outside
    "argument": lambda t, a, w: t * 2,
    "array": lambda t, a, w: t * a,
    "Tensor": lambda t, a, w: (t * w).tanh(),
    "parts": lambda t, a, w: ops.concatenate([t, t * a])[:3] + a,
}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", SEGMENTS)
def test_checkpoints(name: str, trained: bool) -> None:
    """Whether or not something in the segment requires a gradient."""
    kept: list[Any] = []

    def make() -> World:
        a, w = vec(1, "float64"), Tensor(vec(1, "float64"), requires_grad=trained)
        kept[:] = [a, w.data]

        def step(x: Any) -> Any:
            y = tg.checkpoint(lambda t: SEGMENTS[name](t, a, w), x).sum()
            return y, tg.grad(y, w) if y.requires_grad else None

        return World(step)

    def before_call(i: int) -> None:
        for array in kept:
            array[...] = max(i - 2, 1)

    agree(make, [(vec(v, "float64"),) for v in (1, 1, 2, 3, 4)], may_refuse=False, before_call=before_call)


CAPTURED: dict[str, Callable[[Any, Any], Any]] = {  # what a segment reads without being given it
    "a result": lambda x, w: (y := x * 2 * w, tg.checkpoint(lambda t: t * y, x))[1],
    "a detached result": lambda x, w: (y := (x * 2).detach(), tg.checkpoint(lambda t: t * y * w, x))[1],
    "an argument": lambda x, w: tg.checkpoint(lambda t: t * x * w, x * 2),
    "the argument itself": lambda x, w: tg.checkpoint(lambda t: t * x * w, x),
    "what it returns": lambda x, w: (y := x * w, tg.checkpoint(lambda t: y, x))[1],
    "by its default": lambda x, w: tg.checkpoint(lambda t, y=x * 2: t * y * w, x),
    "in one in another": lambda x, w: tg.checkpoint(lambda t: tg.checkpoint(lambda u: u * x * w, t), x * 1),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_what_checkpoints_capture(name: str) -> None:
    """It would be that of the traced run for ever: it is refused, and right where it is run as it is."""
    w = Tensor(vec(2, "float64"), requires_grad=True)

    def step(x: Any) -> Any:
        loss = CAPTURED[name](x, w).sum()
        return loss, tg.grad(loss, [w])

    with pytest.raises(CompileError, match=r"checkpoint\(\) at .* reads a Tensor \(3,\) that was computed in the step"):
        tg.compile(step)(vec(1, "float64"))
    step(Tensor(vec(1, "float64")))


def test_buffers_are_read_anew() -> None:
    kept: list[Any] = []

    def make() -> World:
        norm = nn.BatchNorm1d(3, dtype="float64").eval()
        kept[:] = [norm.running_mean, norm.running_var]
        return World(lambda x: norm(x))

    def before_call(i: int) -> None:
        for array in kept:
            array[...] = max(i - 2, 1)

    agree(make, [(Z,)] * 5, may_refuse=False, before_call=before_call)


@pytest.mark.filterwarnings("ignore:Setting the (shape|strides):DeprecationWarning")
@KERNELS
@pytest.mark.parametrize(("name", "after"), [("shape", (2, 2, 4)), ("shape", (2, 8)), ("strides", (8, 32))])
def test_arrays_from_outside_that_are_made_to_lie_otherwise(name: str, after: Any, numba: bool) -> None:
    """By their owner, in place; kernels of a plan would read them as they lay."""
    rng = np.random.default_rng(0)
    kept, x = rng.normal(size=(4, 4)), rng.normal(size=(2, 4, 4))
    step = tg.compile(lambda x: (x @ kept).tanh())
    with kernels(numba):
        for _ in range(4):
            assert_close(step(x[0]), np.tanh(x[0] @ kept), 1e-12)
        setattr(kept, name, after)
        if after == (2, 8):
            with pytest.raises(ShapeError, match=r"matmul: axis k is 4 in argument 0 .* but 2 in argument 1"):
                step(x[0])
            return
        x = x[:, :, :2] if np.ndim(kept) > 2 else x[0]
        for _ in range(4):
            assert_close(step(x), np.tanh(x @ kept), 1e-12)
            x = x + 1
    assert not step.why_not
