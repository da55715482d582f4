"""Losses, normalisation, dropout and embedding against formulas in NumPy and SciPy, with PyTorch's reductions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy import special

from tensorgrad import Tensor, fusion, nn, ops
from tensorgrad.errors import DTypeError, GraphError, LabelError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.testing import gradcheck

rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape)


def probabilities(*shape: int) -> np.ndarray:
    return special.softmax(rng.normal(size=shape), axis=-1)


def reduce(losses: np.ndarray, reduction: str, count: Any = None) -> Any:
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / (losses.size if count is None else count)}[reduction]


reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


# Cross-entropy


@reductions
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 1, -100])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4)])
def test_cross_entropy_of_indices(
    shape: tuple[int, ...], smoothing: float, ignore_index: int | None, weighted: bool, reduction: str
) -> None:
    z = draw(*shape)
    t = rng.integers(0, 4, shape[:-1])
    t.flat[0] = 1  # in every case there is something to ignore
    if ignore_index == -100:
        t.flat[1] = -100
    w = rng.uniform(0.5, 2, 4) if weighted else None
    logp, ones = special.log_softmax(z, -1), np.ones(4) if w is None else w
    losses, counts = np.zeros(t.shape), np.zeros(t.shape)
    for i in np.ndindex(t.shape):  # PyTorch's definition, a sample at a time
        if t[i] != ignore_index:
            counts[i] = ones[t[i]]
            losses[i] = -(1 - smoothing) * ones[t[i]] * logp[i][t[i]] - smoothing / 4 * (ones * logp[i]).sum()

    def loss(z: Any) -> Any:
        return F.cross_entropy(z, t, w, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction)

    found = loss(Tensor(z, True))
    np.testing.assert_allclose(found.data, reduce(losses, reduction, counts.sum()), rtol=1e-12)
    assert found.shape == (t.shape if reduction == "none" else ())
    gradcheck(loss, z, order=2)
    if not smoothing:
        nll = F.nll_loss(logp, t, w, ignore_index=ignore_index, reduction=reduction)
        np.testing.assert_allclose(nll, found.data, rtol=1e-12)
    with fusion.off():
        gradcheck(loss, z, order=2)


@reductions
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_probabilities(smoothing: float, weighted: bool, reduction: str) -> None:
    z, y = draw(2, 3, 4), probabilities(2, 3, 4)
    w = rng.uniform(0.5, 2, 4) if weighted else None
    smooth = (1 - smoothing) * y + smoothing / 4
    losses = -((1 if w is None else w) * smooth * special.log_softmax(z, -1)).sum(-1)

    def loss(z: Any) -> Any:
        return F.cross_entropy(z, y, w, label_smoothing=smoothing, reduction=reduction)

    np.testing.assert_allclose(loss(Tensor(z, True)).data, reduce(losses, reduction), rtol=1e-12)
    gradcheck(loss, z, order=2)


def ops_of(loss: Tensor) -> list[str]:
    found, stack = [], [loss.node]
    while stack:
        node = stack.pop()
        found.append(node.op.name)
        stack.extend(i for i in node.inputs if not isinstance(i, Tensor | float | int))
    return found


def test_the_plain_call_records_what_fusion_finds() -> None:
    z = Tensor(draw(3, 4), True)
    assert ops_of(F.cross_entropy(z, [0, 1, 2])) == ["nll_loss", "log_softmax"]
    for loss in (
        F.cross_entropy(z, [0, 1, 2]),
        F.cross_entropy(z, probabilities(3, 4)),
        F.cross_entropy(z, [0, 1, 2], label_smoothing=0.1),
        F.cross_entropy(z, [0, 1, 2], [1.0, 2.0, 3.0, 4.0], label_smoothing=0.1),
        F.cross_entropy(z, probabilities(3, 4), np.arange(4.0), label_smoothing=0.1),
    ):
        nodes, stack = set(), [loss.node]
        while stack:
            node = stack.pop()
            nodes.add(node)
            stack.extend(i for i in node.inputs if not isinstance(i, Tensor | float | int))
        fused = fusion.match(sorted(nodes, key=lambda n: -n.index))
        assert fused[loss.node].op.name == "softmax_cross_entropy"


def test_losses_of_impossible_classes() -> None:
    """A logit of -inf is a class ruled out: no NaN unless it is the right one, and none from samples that are ignored."""
    z = Tensor(np.array([[0.0, -np.inf, 0.0], [-np.inf, 1.0, 0.0]]), True)
    for options in ({"reduction": "none"}, {"weight": [1.0, 1.0, 1.0]}, {"ignore_index": 1}, {"reduction": "sum"}):
        z.grad = None
        loss = F.cross_entropy(z, [0, 1], **options)
        assert np.isfinite(loss.data).all()
        loss.sum().backward()
        assert np.isfinite(z.grad.data).all()
    smoothed = F.cross_entropy(z, [0, 1], ignore_index=0, label_smoothing=0.0, reduction="none")
    np.testing.assert_allclose(smoothed.data, [0, np.log1p(np.exp(-1))])
    bad = Tensor(np.array([[np.nan, 0.0], [1.0, 0.0]]), True)
    for smoothing in (0.0, 0.2):
        assert np.isfinite(F.cross_entropy(bad, [0, 1], ignore_index=0, label_smoothing=smoothing).data)


def test_the_mean_of_nothing_is_0() -> None:
    z = Tensor(draw(2, 3), True)
    for loss in (
        F.cross_entropy(z, [1, 1], ignore_index=1),
        F.cross_entropy(z, [1, 1], ignore_index=1, label_smoothing=0.1),
        F.cross_entropy(z, [1, 1], [1.0, 0.0, 1.0]),
        F.cross_entropy(Tensor(np.zeros((0, 3)), True), np.zeros(0, int), reduction="sum"),
        F.cross_entropy(Tensor(np.zeros((0, 3)), True), np.zeros(0, int), [1.0, 2.0, 3.0]),
    ):
        assert loss.item() == 0
    F.cross_entropy(z, [1, 1], ignore_index=1).backward()
    np.testing.assert_array_equal(z.grad.data, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z: F.cross_entropy(z, [0, -100]), LabelError, "cross_entropy: label -100 is out of range, expected 0 to 2"),
        (
            lambda z: F.cross_entropy(z, [0, 5], label_smoothing=0.1),
            LabelError,
            "cross_entropy: label 5 is out of range, expected 0 to 2 for 3 classes",
        ),
        (lambda z: F.cross_entropy(z, [0, 3], ignore_index=0), LabelError, "cross_entropy: label 3 is out of range"),
        (
            lambda z: F.cross_entropy(z, [[0, 1]], reduction="none"),
            ShapeError,
            "cross_entropy: labels have shape (1, 2), expected (2,)",
        ),
        (
            lambda z: F.cross_entropy(z, draw(2, 4)),
            ShapeError,
            "cross_entropy: probabilities of shape (2, 4) for logits of shape (2, 3)",
        ),
        (
            lambda z: F.cross_entropy(z, draw(2, 3), ignore_index=1),
            ValueError,
            "cross_entropy: ignore_index needs class indices, but the target is probabilities",
        ),
        (
            lambda z: F.cross_entropy(z, [0, 1], [1.0, 2.0]),
            ShapeError,
            "cross_entropy: weight has shape (2,), expected (3,): one per class",
        ),
        (
            lambda z: F.cross_entropy(z, [0, 1], Tensor([1.0, 2.0, 3.0], True)),
            GraphError,
            "cross_entropy: weight is data and has no gradient, but it requires one; .detach() it",
        ),
        (
            lambda z: F.cross_entropy(z, [0, 1], reduction="avg"),
            ValueError,
            "cross_entropy: reduction must be one of mean, sum, none",
        ),
        (
            lambda z: F.cross_entropy(z, [0, 1], label_smoothing=2),
            ValueError,
            "cross_entropy: label_smoothing must be between 0 and 1, got 2",
        ),
        (lambda z: F.nll_loss(z, draw(2), reduction="sum"), DTypeError, "nll_loss: labels must be integers"),
    ],
)
def test_cross_entropy_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(Tensor(draw(2, 3), True))


def test_softmax_before_cross_entropy_is_warned_of() -> None:
    z = Tensor(draw(2, 3), True)
    p = z.softmax()
    expected = r"cross_entropy at test_functional\.py:\d+: the logits are the result of softmax at test_functional\.py:\d+"
    with pytest.warns(UserWarning, match=expected):
        F.cross_entropy(p, [0, 1])


# Losses between two of the same shape

PAIRS: dict[str, tuple[Any, Any]] = {
    "mse_loss": (F.mse_loss, lambda x, t: (x - t) ** 2),
    "l1_loss": (F.l1_loss, lambda x, t: np.abs(x - t)),
    "huber_loss": (F.huber_loss, lambda x, t: special.huber(1.0, x - t)),
    "smooth_l1_loss": (F.smooth_l1_loss, lambda x, t: special.huber(1.0, x - t)),
    "poisson_nll_loss": (F.poisson_nll_loss, lambda x, t: np.exp(x) - t * x),
    "soft_margin_loss": (F.soft_margin_loss, lambda x, t: np.log1p(np.exp(-t * x))),
    "kl_div": (F.kl_div, lambda x, t: special.xlogy(t, t) - t * x),
    "binary_cross_entropy_with_logits": (
        F.binary_cross_entropy_with_logits,
        lambda z, t: -special.xlogy(t, special.expit(z)) - special.xlogy(1 - t, special.expit(-z)),
    ),
}
pairs = pytest.mark.parametrize("name", PAIRS)


@pairs
@reductions
@pytest.mark.parametrize("shape", [(3, 4), (5,), ()])
def test_loss_of_a_pair(name: str, reduction: str, shape: tuple[int, ...]) -> None:
    loss, formula = PAIRS[name]
    x, t = rng.uniform(0.1, 3, shape), rng.uniform(0.1, 0.9, shape)
    expected = reduce(formula(x, t), reduction)
    found = loss(Tensor(x, True), t, reduction=reduction)
    np.testing.assert_allclose(found.data, expected, rtol=1e-12)
    np.testing.assert_array_equal(loss(x, t, reduction=reduction), found.data)
    gradcheck(lambda x, t: loss(x, t, reduction=reduction), (x, t), order=2)


@pairs
def test_losses_never_broadcast(name: str) -> None:
    loss, _ = PAIRS[name]
    how = "reshape one of them, for example target.reshape((4, 1))"
    message = f"{name}: input (4, 1) and target (4,) must have the same shape; {how}"
    with pytest.raises(ShapeError, match=re.escape(message)):
        loss(Tensor(draw(4, 1), True), draw(4))
    for a, b in [((4,), (4, 1)), ((4, 1), (1, 4)), ((4,), ()), ((2, 3), (3,)), ((2, 3), (2, 1))]:
        with pytest.raises(ShapeError, match=re.escape(f"{name}: input {a} and target {b} must have the same shape")):
            loss(Tensor(draw(*a), True), draw(*b))
    with pytest.raises(ValueError, match=f"{name}: reduction must be one of mean, sum, none.* got 'average'"):
        loss(draw(2), draw(2), reduction="average")


@pairs
def test_losses_keep_float32(name: str) -> None:
    x = Tensor(rng.uniform(0.1, 1, 3).astype(np.float32), True)
    loss = PAIRS[name][0](x, np.full(3, 0.5, np.float32))
    loss.backward()
    assert (loss.dtype, x.grad.dtype) == (np.float32, np.float32)


def test_l1_and_huber_at_their_kinks() -> None:
    x = Tensor(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), True)
    F.l1_loss(x, np.zeros(5), reduction="sum").backward()
    np.testing.assert_array_equal(x.grad.data, [-1, -1, 0, 1, 1])
    x.grad = None
    F.huber_loss(x, np.zeros(5), delta=1.0, reduction="sum").backward()
    np.testing.assert_array_equal(x.grad.data, [-1, -1, 0, 1, 1])
    gradcheck(lambda x: F.huber_loss(x, np.zeros(3), delta=0.5), np.array([-2.0, 0.0, 0.2]), order=2)
    np.testing.assert_allclose(F.huber_loss(x, np.zeros(5), delta=0.5, reduction="none").data, special.huber(0.5, x.data))
    assert F.huber_loss(np.array([1e200]), np.zeros(1)) == 1e200  # no square that overflows
    with pytest.raises(ValueError, match="huber_loss: delta must be positive, got 0"):
        F.huber_loss(x, np.zeros(5), delta=0)


def test_kl_div_where_the_target_is_0() -> None:
    logp = Tensor(np.log([0.5, 0.25, 0.25]), True)
    loss = F.kl_div(logp, np.array([0.0, 0.5, 0.5]), reduction="sum")
    assert loss.item() == pytest.approx(np.log(2), rel=1e-14)
    loss.backward()
    np.testing.assert_array_equal(logp.grad.data, [0, -0.5, -0.5])
    impossible = F.kl_div(np.array([-np.inf, 0.0]), np.array([0.0, 1.0]), reduction="none")
    np.testing.assert_array_equal(impossible, [0, 0])
    p, q = probabilities(3, 4), probabilities(3, 4)
    assert F.kl_div(np.log(q), p, reduction="batchmean") == pytest.approx(special.rel_entr(p, q).sum() / 3, rel=1e-12)


def test_binary_cross_entropy_far_out() -> None:
    z = Tensor(np.array([-1000.0, -40.0, 0.0, 40.0, 1000.0]), True)
    for target, signed in ((1.0, -z.data), (0.0, z.data)):
        z.grad = None
        losses = F.binary_cross_entropy_with_logits(z, np.full(5, target), reduction="none")
        np.testing.assert_allclose(losses.data, np.logaddexp(0, signed), rtol=1e-15)
        losses.sum().backward()
        expected = special.expit(z.data) if target == 0 else -special.expit(-z.data)
        np.testing.assert_allclose(z.grad.data, expected, rtol=1e-15)


def test_binary_cross_entropy_weights() -> None:
    z, t, w, p = draw(3, 2), rng.uniform(0, 1, (3, 2)), rng.uniform(0.5, 2, (3, 1)), rng.uniform(0.5, 2, 2)
    s = special.expit(z)
    expected = (-w * (p * t * np.log(s) + (1 - t) * np.log1p(-s))).mean()
    assert F.binary_cross_entropy_with_logits(z, t, w, pos_weight=p) == pytest.approx(expected, rel=1e-12)
    for options in ({"pos_weight": draw(5, 3, 2)}, {"weight": draw(5, 3, 2)}):
        with pytest.raises(
            ShapeError, match=r"binary_cross_entropy_with_logits: (pos_)?weight of shape \(5, 3, 2\) does not broadcast"
        ):
            F.binary_cross_entropy_with_logits(z, t, **options)


# Normalisation


LABELLED: dict[str, Any] = {
    "cross_entropy": lambda z, t: F.cross_entropy(z, t),
    "smoothed": lambda z, t: F.cross_entropy(z, t, label_smoothing=0.1),
    "ignored": lambda z, t: F.cross_entropy(z, t, ignore_index=1),
    "weighted": lambda z, t: F.cross_entropy(z, t, [1.0, 2.0, 3.0]),
    "nll_loss": lambda z, t: F.nll_loss(ops.log_softmax(z), t),
    "softmax_cross_entropy": lambda z, t: ops.softmax_cross_entropy(z, t),
    "one_hot": lambda z, t: (ops.one_hot(t, 3) * z).sum(),
    "embedding": lambda z, t: F.embedding(t, z).sum(),
    "taken": lambda z, t: z[np.arange(4), t].sum(),
    "take": lambda z, t: ops.take(z, t, 1).sum(),
    "take_along_axis": lambda z, t: ops.take_along_axis(z, t[:, None]).sum(),
}


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">i8", ">u4", "<i4", "i1"])
@pytest.mark.parametrize("kind", [np.asarray, Tensor])
@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_any_integers(name: str, kind: Any, dtype: str) -> None:
    """Those of another byte order too, as files of other machines have them: value and gradient are those of int64."""
    z, labels = draw(4, 3), np.array([0, 1, 2, 1])
    found = []
    for t in (labels, kind(labels.astype(dtype))):
        leaf = Tensor(z, True)
        loss = LABELLED[name](leaf, t)
        loss.backward()
        found.append((loss.numpy(), leaf.grad.numpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(b, a)
    if "take" not in name:
        with pytest.raises(LabelError, match=" 9 is out of range"):
            LABELLED[name](Tensor(z, True), kind(np.array([0, 1, 2, 9]).astype(dtype)))


@pytest.mark.parametrize(("x", "shape"), [((5, 4), 4), ((2, 3, 4), (3, 4)), ((2, 3, 4), (4,)), ((3,), 3), ((2, 1), 1)])
@pytest.mark.parametrize("affine", [False, True])
def test_layer_norm(x: tuple[int, ...], shape: Any, affine: bool) -> None:
    values, inner = draw(*x), (shape,) if isinstance(shape, int) else shape
    axes = tuple(range(-len(inner), 0))
    expected = (values - values.mean(axes, keepdims=True)) / np.sqrt(values.var(axes, keepdims=True) + 1e-3)
    parameters = (draw(*inner), draw(*inner)) if affine else ()
    if affine:
        expected = expected * parameters[0] + parameters[1]

    def norm(x: Any, w: Any = None, b: Any = None) -> Any:
        return F.layer_norm(x, shape, w, b, 1e-3)

    np.testing.assert_allclose(norm(Tensor(values, True), *parameters).data, expected, rtol=1e-11, atol=1e-13)
    gradcheck(norm, (values, *parameters), order=2)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (2, 3, 2, 2)])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(shape: tuple[int, ...], affine: bool, training: bool) -> None:
    x, over, wide = draw(*shape), (0, *range(2, len(shape))), (1, 3) + (1,) * (len(shape) - 2)
    mean, var = draw(3), rng.uniform(0.5, 2, 3)
    w, b = (draw(3), draw(3)) if affine else (None, None)
    m, v = (x.mean(over), x.var(over)) if training else (mean, var)
    expected = (x - m.reshape(wide)) / np.sqrt(v.reshape(wide) + 1e-5)
    if affine:
        expected = expected * w.reshape(wide) + b.reshape(wide)
    moved = mean.copy(), var.copy()
    y = F.batch_norm(Tensor(x, True), *moved, w, b, training=training, momentum=0.2)
    np.testing.assert_allclose(y.data, expected, rtol=1e-10, atol=1e-12)
    if training:
        mean, var = 0.8 * mean + 0.2 * m, 0.8 * var + 0.2 * x.var(over, ddof=1)
    np.testing.assert_allclose(moved[0], mean, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(moved[1], var, rtol=1e-12)

    def norm(x: Any, w: Any = None, b: Any = None) -> Any:
        return F.batch_norm(x, mean.copy(), var.copy(), w, b, training=training)

    gradcheck(norm, (x, *((w, b) if affine else ())), order=2)


def test_normalisation_keeps_float32_and_takes_no_samples() -> None:
    x = Tensor(draw(4, 3).astype(np.float32), True)
    w = np.ones(3, np.float32)
    for y in (F.layer_norm(x, 3, w, w), F.batch_norm(x, None, None, w, w, True), F.batch_norm(x, w, w)):
        assert y.dtype == np.float32
    assert F.layer_norm(np.zeros((0, 3)), 3).shape == (0, 3)
    mean, var = np.zeros(3), np.ones(3)
    assert F.batch_norm(Tensor(np.zeros((0, 3)), True), mean, var, training=True).shape == (0, 3)
    np.testing.assert_array_equal([mean, var], [[0] * 3, [1] * 3])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.layer_norm(draw(2, 3), 4), ShapeError, "layer_norm: input has shape (2, 3), expected (..., 4)"),
        (lambda: F.layer_norm(draw(2, 3), ()), ShapeError, "layer_norm: input has shape (2, 3), expected (..., )"),
        (lambda: F.layer_norm(draw(2, 3), 3, draw(1)), ShapeError, "layer_norm: weight has shape (1,), expected (3,)"),
        (
            lambda: F.batch_norm(draw(3), draw(3), draw(3)),
            ShapeError,
            "batch_norm: input has shape (3,), expected (n, features)",
        ),
        (
            lambda: F.batch_norm(draw(2, 3), draw(2), draw(2)),
            ShapeError,
            "batch_norm: running_mean has shape (2,), expected (3,) for input (2, 3)",
        ),
        (
            lambda: F.batch_norm(draw(2, 3), bias=draw(2), training=True),
            ShapeError,
            "batch_norm: bias has shape (2,), expected (3,)",
        ),
        (
            lambda: F.batch_norm(draw(2, 3)),
            ValueError,
            "batch_norm: running_mean and running_var are required outside training",
        ),
        (
            lambda: F.batch_norm(draw(1, 3), training=True),
            ShapeError,
            "batch_norm: training needs more than one value per feature, got input (1, 3)",
        ),
        (lambda: F.dropout(draw(2), 1.5), ValueError, "dropout: p must be between 0 and 1, got 1.5"),
        (lambda: F.embedding([0, 3], draw(3, 2)), LabelError, "embedding: index 3 is out of range, expected 0 to 2"),
        (lambda: F.embedding([0, -1], draw(3, 2)), LabelError, "embedding: index -1 is out of range, expected 0 to 2"),
        (lambda: F.embedding([0.5], draw(3, 2)), DTypeError, "embedding: indices must be integers, got float32 of shape (1,)"),
        (lambda: F.embedding([0], draw(3)), ShapeError, "embedding: weight has shape (3,), expected (rows, dim)"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


# Dropout and embedding


def test_dropout_is_reproducible_and_keeps_the_expectation() -> None:
    x = Tensor(np.ones(100_000, np.float32), True)
    y = F.dropout(x, 0.2, True, np.random.default_rng(3))
    assert y.dtype == np.float32
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1.25)}
    assert (y.data == 0).mean() == pytest.approx(0.2, abs=0.006)  # five standard errors
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)
    np.testing.assert_array_equal(F.dropout(x, 0.2, rng=np.random.default_rng(3)).data, y.data)
    nn.init.seed(7)
    F.seed(5)
    first, second = F.dropout(x).data, F.dropout(x).data
    assert (first != second).any()
    F.seed(5)
    nn.init.generator().random(3)  # the masks have a generator of their own
    np.testing.assert_array_equal(F.dropout(x).data, first)


def test_dropout_at_its_ends() -> None:
    x = Tensor(np.array([1.0, np.inf, np.nan]), True)
    assert F.dropout(x, 0.7, training=False) is x
    assert F.dropout(x, 0.0) is x
    y = F.dropout(x, 1.0)
    np.testing.assert_array_equal(y.data, [0, 0, 0])  # not inf * 0
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, [0, 0, 0])
    assert F.dropout(np.zeros((0, 2))).shape == (0, 2)


def test_embedding_adds_the_gradients_of_repeated_indices() -> None:
    weight = draw(4, 2)
    at = np.array([[0, 2, 2], [3, 2, 0]])
    np.testing.assert_array_equal(F.embedding(at, weight), weight[at])
    np.testing.assert_array_equal(F.embedding(Tensor(at), Tensor(weight, True)).data, weight[at])
    gradcheck(lambda w: F.embedding(at, w), weight, order=2)
    t = Tensor(weight, True)
    F.embedding([2, 2, 1, 2], t).sum().backward()
    np.testing.assert_array_equal(t.grad.data, [[0, 0], [1, 1], [3, 3], [0, 0]])
    assert F.embedding(np.zeros((0, 2), int), t).shape == (0, 2, 2)
