"""vmap: every op done for a batch equals the loop over its samples; what is composed with it; what it refuses."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, func, nn, ops
from tensorgrad.autograd.batch_rules import RULES
from tensorgrad.errors import ArgumentError, BatchError, DTypeError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tests.compiled import lowered
from tests.strategies import generators

vmap = func.vmap
N = 3
OURS = [name for name, op in REGISTRY.items() if type(op).__module__.startswith("tensorgrad.")]
INNER = {"assign", "last_named", "scatter", "softmax_cross_entropy_grad", "sum_named"}  # what only rules are made of
LOOPED = INNER | {
    "argsort",
    "attention",
    "attention_grad",
    "gru",
    "gru_grad",
    "lstm",
    "lstm_grad",
    "rnn",
    "rnn_grad",
    "uniform",
}


def several(a: Any, rng: np.random.Generator) -> np.ndarray:
    """The argument for N samples, different but still what the op takes: other scales, or other places."""
    if a.dtype.kind == "f":
        return np.stack([a * s for s in (1.0, 0.93, 0.86)]).astype(a.dtype)
    return np.stack([rng.permutation(a.reshape(-1)).reshape(a.shape) for _ in range(N)])


def loop(fn: Callable[..., Any], axes: tuple[int | None, ...], args: list[Any]) -> np.ndarray:
    found = [fn(*[a if axis is None else a[i] for a, axis in zip(args, axes, strict=True)]) for i in range(N)]
    return np.stack([y.numpy() for y in found])


def test_every_op_of_ours_has_a_rule_or_is_known_to_need_none() -> None:
    assert set(OURS) - {"checkpoint"} == RULES.keys() | LOOPED


@pytest.mark.parametrize("name", [name for name in OURS if name != "keep_mask"])
@given(rng=generators())
def test_every_op_equals_the_loop(name: str, rng: np.random.Generator) -> None:
    op = REGISTRY[name]
    args, attrs = op.sample(rng)
    dtype = (np.float64, np.float32)[rng.integers(2)]
    args = [a.astype(dtype) if a.dtype.kind == "f" else a for a in args]
    masks = [i for i, a in enumerate(args) if a.dtype == bool and name in ("gather", "scatter", "assign", "last_named")]
    masks += [2, 3] if name == "sparse_matmul" else []  # which elements are stored
    own = [i not in masks and bool(rng.random() < 0.7) for i in range(len(args))]
    if not any(own):
        own[0] = 0 not in masks
    if not any(own):
        return
    axes = tuple(0 if is_own else None for is_own in own)
    given = [Tensor(several(a, rng) if is_own else a) for a, is_own in zip(args, own, strict=True)]
    got = vmap(lambda *xs: op(*xs, **attrs), axes)(*given)
    expected = loop(lambda *xs: op(*xs, **attrs), axes, given)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    close = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 3e-5}
    tolerance = close.get(got.dtype, 0)
    np.testing.assert_allclose(got.numpy(), expected, rtol=tolerance, atol=tolerance)


INDICES: list[Any] = [
    (0, slice(None), [1, 0]),  # the axes of arrays that a slice parts come first
    ([1, 0], slice(None), [[0], [1]]),
    (slice(None), [1, 0], [0, 1]),
    (slice(None), [1, 0], None, [0, 1]),
    (..., np.array([True, False, True])),
    (np.array([[True, False, True], [False, True, True]]), slice(None, None, -1)),
    (True, slice(1, None)),
    -1,
    (slice(None), 1, ..., None),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indices(index: Any) -> None:
    """Reading, adding at and setting elements, wherever NumPy puts the axes of the arrays."""
    rng = np.random.default_rng(3)
    x = Tensor(rng.normal(size=(N, 2, 3, 3)))
    part = x.numpy()[0][index].shape
    g, v, one = Tensor(rng.normal(size=(N, *part))), Tensor(rng.normal(size=(N, *part[1:]))), Tensor(rng.normal(size=part))
    cases: list[tuple[Callable[..., Any], tuple[int | None, ...], list[Any]]] = [
        (lambda x: x[index], (0,), [x]),
        (lambda g: ops.put(g, index, (2, 3, 3)), (0,), [g]),
        (lambda x, v: ops.setitem(x, v, index), (0, 0), [x, v]),
        (lambda x, v: ops.setitem(x, v, index), (0, None), [x, one]),
        (lambda x, v: ops.setitem(x, v, index), (None, 0), [x[0], g]),
    ]
    for fn, axes, args in cases:
        np.testing.assert_array_equal(vmap(fn, axes)(*args).numpy(), loop(fn, axes, args))


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_labels_out_of_range_are_refused_as_in_one_sample(axes: tuple[int | None, ...]) -> None:
    z, w = np.zeros((N, 2, 4)), np.zeros((N, 4, 5))
    for bad in (-1, 4):
        t = np.zeros((N, 2), int)
        t[0, 1] = bad
        for fn, x in ((F.nll_loss, z), (F.cross_entropy, z), (lambda w, t: F.embedding(t, w), w)):
            args = [Tensor(a if axis == 0 else a[0]) for a, axis in zip((x, t), axes, strict=True)]
            with pytest.raises((ValueError, IndexError)):
                vmap(fn, axes)(*args)


def mlp() -> tuple[nn.Module, dict[str, Tensor], np.ndarray, np.ndarray]:
    tensorgrad.manual_seed(0)
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(5, 7, dtype=float), nn.Tanh(), nn.Linear(7, 3, dtype=float))
    params = {name: p.detach() for name, p in model.named_parameters()}
    return model, params, rng.normal(size=(6, 5)), rng.integers(0, 3, 6)


def test_the_gradient_of_each_sample() -> None:
    model, params, x, y = mlp()

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(func.functional_call(model, params, x), y)

    each = vmap(func.grad(loss), (None, 0, 0))(params, x, y)
    compiled = tensorgrad.compile(vmap(func.grad(loss), (None, 0, 0)))
    for _ in range(3):
        again = compiled(params, x, y)
    for name, g in each.items():
        assert g.shape == (6, *params[name].shape)
        np.testing.assert_allclose(again[name].numpy(), g.numpy(), rtol=1e-12, atol=1e-14)
    for i in range(6):
        model.zero_grad()
        F.cross_entropy(model(x[i]), y[i]).backward()
        for name, p in model.named_parameters():
            np.testing.assert_allclose(each[name].numpy()[i], p.grad.numpy(), rtol=1e-11, atol=1e-14)


def quartic(w: Tensor, x: Tensor) -> Tensor:
    return ((w * x).sum() ** 4 + (w**2 * x.sin()).sum()).exp() * 0.01


@pytest.mark.parametrize("transform", [func.grad, func.hessian, func.jacrev, func.jacfwd])
@given(rng=generators(), axes=st.sampled_from([(0, 0), (None, 0), (0, None)]))
def test_derivatives_inside(transform: Any, rng: np.random.Generator, axes: tuple[int | None, ...]) -> None:
    """Each sample's own derivative, also by what is the same for all samples, also of the second order."""
    fn = quartic if transform in (func.grad, func.hessian) else lambda w, x: (w * x).cumsum(0).sin() * w.sum()
    args = [rng.uniform(-1, 1, (N, 4) if axis == 0 else 4) for axis in axes]
    got = vmap(transform(fn), axes)(*args).numpy()
    expected = loop(transform(fn), axes, [Tensor(a) for a in args])
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@given(rng=generators())
def test_derivatives_outside_and_nests(rng: np.random.Generator) -> None:
    w, x = rng.uniform(-1, 1, (2, 4)), rng.uniform(-1, 1, (N, 4))

    def total(w: Tensor) -> Tensor:  # a gradient in vmap in vmap in a gradient
        table = vmap(lambda w: vmap(lambda x: func.grad(quartic)(w, x))(x))(w)
        return (table * table).sum()

    def by_loops(w: Tensor) -> Tensor:
        parts = [
            tensorgrad.vjp(lambda w, x=x[j]: quartic(w, Tensor(x)), w[i], 1.0, create_graph=True)[1]
            for i in range(2)
            for j in range(N)
        ]
        return sum((p * p).sum() for p in parts)

    got, expected = func.grad(total)(w), func.grad(by_loops)(w)
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-9, atol=1e-10)
    assert np.abs(expected.numpy()).max() > 0


def test_axes_and_forms() -> None:
    x, y = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(4, 3)

    def fn(pair: dict[str, Any], y: Tensor, *, scale: float = 1.0) -> tuple[Tensor, dict[str, Any]]:
        return pair["x"] * scale, {"sum": pair["x"].sum() + y.sum(), "same": y, "none": None}

    first, rest = vmap(fn, ({"x": 1, "k": None}, None), (1, 0))({"x": x, "k": 2.0}, Tensor(y), scale=2.0)
    np.testing.assert_array_equal(first.numpy(), 2 * x)
    np.testing.assert_array_equal(rest["sum"].numpy(), x.sum(0) + y.sum())
    np.testing.assert_array_equal(rest["same"].numpy(), np.stack([y] * 3))
    assert rest["none"] is None
    assert vmap(lambda x: x, in_axes=-1, out_axes=-1)(x).shape == (2, 3)
    assert vmap(lambda x, y: y, (0, None), None)(x, Tensor(y)).shape == (4, 3)
    assert vmap(lambda x: (x @ x, x))(np.zeros((0, 3)))[0].shape == (0,)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "branch": (lambda: vmap(lambda x: x if x.sum() > 0 else -x)(X), BatchError, "bool"),
    "item": (lambda: vmap(lambda x: x.sum().item())(X), BatchError, "item"),
    "numpy": (lambda: vmap(lambda x: x.numpy())(X), BatchError, "numpy"),
    "data": (lambda: vmap(lambda x: x.data)(X), BatchError, "data"),
    "asarray": (lambda: vmap(lambda x: np.asarray(x))(X), BatchError, "asarray"),
    "copy": (lambda: vmap(lambda x: Tensor(x))(X), BatchError, "Tensor"),
    "raw": (lambda: vmap(lambda x: np.sum(x._data))(X), BatchError, "values"),
    "in place": (lambda: vmap(lambda x: x.__iadd__(1))(X), BatchError, "in place"),
    "set": (lambda: vmap(lambda x: x.__setitem__(0, 1))(X), BatchError, "in place"),
    "set outside": (lambda: vmap(lambda x: Y.__setitem__(0, x[0]))(X), BatchError, "in place"),
    "add outside": (lambda: vmap(lambda x: Y.__iadd__(x))(X), BatchError, "in place"),
    "backward": (lambda: vmap(lambda x: x.sum().backward())(Tensor(X, True)), BatchError, "func.grad"),
    "grad": (lambda: vmap(lambda x: tensorgrad.grad((x * W).sum(), W))(X), BatchError, "func.grad"),
    "batch norm": (lambda: vmap(nn.BatchNorm1d(3))(np.ones((2, 4, 3), "f")), BatchError, "batched"),
    "masks": (lambda: vmap(lambda x: x[x > 0])(X), BatchError, "where"),
    "no axis": (lambda: vmap(lambda x: x, 2)(X), ShapeError, r"argument 0 .*\(2, 3\).*axis 2"),
    "number": (lambda: vmap(lambda x, y: x * y)(X, 2.0), DTypeError, "argument 1 .* None"),
    "sizes": (lambda: vmap(lambda x, y: x)(X, np.ones(5)), ShapeError, "2 in argument 0, 5 in argument 1"),
    "none": (lambda: vmap(lambda x: x, None)(X), ShapeError, "no argument"),
    "axes": (lambda: vmap(lambda x: x, (0, 0))(X), ArgumentError, "2 entries for 1"),
    "out": (lambda: vmap(lambda x: x, 0, None)(X), ArgumentError, "out_axes"),
    "function": (lambda: vmap(3), DTypeError, "vmap: fn"),  # type: ignore[arg-type]
}
X, Y, W = np.ones((2, 3)), Tensor(np.ones(3)), Tensor(np.ones(3), True)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    attempt, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        attempt()


def test_what_has_left_is_refused() -> None:
    kept: list[Tensor] = []
    vmap(lambda x: (kept.append(x), x)[1])(X)
    for attempt in (lambda: kept[0] + 1, lambda: kept[0].sum(), lambda: ops.stack(kept), lambda: float(kept[0].sum())):
        with pytest.raises(BatchError):
            attempt()
        with pytest.raises(BatchError):  # in another call, of as many samples
            vmap(lambda x, attempt=attempt: x + attempt())(X)
    with pytest.raises(BatchError):
        vmap(lambda x: x + kept[0])(X)
    assert "Batched" in repr(kept[0])


def test_random_masks_are_those_of_the_loop() -> None:
    """Each sample its own, drawn in the order of the samples; one for all where the argument is the same for all."""
    x = np.ones((4, 50), "f")
    tensorgrad.manual_seed(1)
    got = vmap(lambda x: F.dropout(x, 0.5, True))(x).numpy()
    tensorgrad.manual_seed(1)
    np.testing.assert_array_equal(got, np.stack([F.dropout(Tensor(row), 0.5, True).numpy() for row in x]))
    assert len(np.unique(got, axis=0)) == 4
    same = vmap(lambda x: x + F.dropout(Tensor(np.ones(50)), 0.5, True))(x).numpy()
    assert len(np.unique(same, axis=0)) == 1


class Halve(Op):
    """Of a user, with a sum over everything in it, which nobody can see from outside.

    forward    y  = x / sum x
    """

    name, signature = "test_vmap_halve", "()->()"

    def forward(self, xp: Any, x: Any) -> Any:
        return x / x.sum()


def test_an_op_of_a_user_is_a_loop() -> None:
    halve = Halve()
    try:
        x = Tensor(np.arange(1.0, 7).reshape(2, 3))
        np.testing.assert_array_equal(vmap(halve)(x).numpy(), x.numpy() / x.numpy().sum(1, keepdims=True))
        with pytest.raises(BatchError, match="sample by sample"):
            vmap(halve)(np.zeros((0, 3)))
    finally:
        del REGISTRY[Halve.name]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_logarithm_of_a_softmax_is_of_the_logits(requires_grad: bool) -> None:
    z = Tensor([[0.0, 2000.0], [3.0, 1.0]], requires_grad)
    got = vmap(lambda z: ops.log(ops.softmax(z)))(z)
    np.testing.assert_array_equal(got.numpy(), ops.log(ops.softmax(z, -1)).numpy())
    assert np.isfinite(got.numpy()).all()


def test_checkpoint_inside() -> None:
    x, w = np.random.default_rng(0).normal(size=(2, N, 4))

    def fn(w: Tensor, x: Tensor) -> Tensor:
        return tensorgrad.checkpoint(lambda w, x: (w * x).sin().sum() ** 2, w, x)

    got = vmap(func.grad(fn))(w, x)
    np.testing.assert_allclose(got.numpy(), loop(func.grad(fn), (0, 0), [Tensor(w), Tensor(x)]), rtol=1e-12)


def test_layers_and_images() -> None:
    """Convolution, pooling, normalisation, attention by hand, embeddings; weights the same for all, or each its own."""
    rng = np.random.default_rng(0)
    images, k = Tensor(rng.normal(size=(N, 2, 3, 6, 6))), Tensor(rng.normal(size=(N, 4, 3, 3, 3)))
    tokens, table = rng.integers(0, 5, (N, 4)), Tensor(rng.normal(size=(N, 5, 6)))
    norm = nn.LayerNorm(6, dtype=float)

    def attend(q: Tensor) -> Tensor:
        return ops.softmax(q @ q.T / 2, -1) @ q

    cases: list[tuple[Callable[..., Any], list[Any]]] = [
        (lambda x, k: F.relu(F.conv2d(x, k, padding=1)), [images, k]),
        (lambda x: F.max_pool2d(x, 2), [images]),
        (lambda x: x.var(axis=(0, 1)) + x.std(), [images]),
        (lambda w, t: attend(norm(F.embedding(t, w))), [table, Tensor(tokens)]),
        (lambda w: ops.einsum("ij,kj->ik", w, w).prod(axis=0), [table]),
    ]
    for fn, args in cases:
        for axes in itertools.product((0, None), repeat=len(args)):
            if any(axis == 0 for axis in axes):
                given = [a if axis == 0 else a[0] for a, axis in zip(args, axes, strict=True)]
                got = vmap(fn, axes)(*given).numpy()
                np.testing.assert_allclose(got, loop(fn, axes, given), rtol=1e-11, atol=1e-12)


def test_other_threads_see_nothing() -> None:
    inside, done, found = threading.Event(), threading.Event(), []

    def fn(x: Tensor) -> Tensor:
        inside.set()
        done.wait(10)
        return x * 2

    thread = threading.Thread(target=lambda: found.append(vmap(fn)(X)))
    thread.start()
    inside.wait(10)
    y = Tensor(X, True)
    (y * y).sum().backward()
    done.set()
    thread.join()
    np.testing.assert_array_equal(y.grad.numpy(), 2 * X)
    np.testing.assert_array_equal(found[0].numpy(), 2 * X)


def test_compiled_steps_look_into_mapped_functions() -> None:
    """What the function of a vmap reads is read anew, or guarded."""
    settings = {"scale": 2.0}
    mapped = vmap(lambda x: (x * settings["scale"]).sum())
    step = tensorgrad.compile(lambda x: mapped(x))
    x = np.ones((4, 3))
    assert step(x).tolist() == [6.0] * 4
    settings["scale"] = 3.0
    assert step(x).tolist() == [9.0] * 4


@given(rng=generators())
def test_products_with_what_is_the_same_for_all(rng: np.random.Generator) -> None:
    """A matrix repeated without a copy, one column times one row: by other ways than NumPy's, with the same result."""
    n, m, k, j = (int(i) for i in rng.integers(1, 5, 4))
    a, w = rng.normal(size=(n, m, k)), np.broadcast_to(rng.normal(size=(k, j)), (n, k, j))
    for b in (w, w.copy(), np.broadcast_to(w[:1], (1, k, j))):
        for left in (a, np.asfortranarray(a), a[:1], np.stack([a, a])):
            np.testing.assert_allclose(ops.matmul(left, b), np.matmul(left, b.copy()), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("column", [2, 8192])
@given(rng=generators())
def test_sums_over_the_middle_axis(column: int, rng: np.random.Generator) -> None:
    """Of as many rows as are added up as a product, of more, of rows apart in memory, of what is not finite."""
    x = rng.normal(size=tuple(rng.integers(0, 5, 3)))
    if x.size and rng.random() < 0.3:
        x.reshape(-1)[0] = rng.choice([np.inf, -np.inf, np.nan])
    with lowered(COLUMN=column):
        for array in (x, x.astype("f"), np.asfortranarray(x)):
            for keepdims in (False, True):
                expected = array.sum(axis=1, keepdims=keepdims)
                got = ops.sum(array, 1, keepdims)
                assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
                np.testing.assert_allclose(got, expected, rtol=1e-5 if array.dtype == np.float32 else 1e-13, atol=1e-6)
