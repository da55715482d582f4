"""Patterns of fusion and the operands that they meet, of every dtype, shape and role: equal to the plain ops, or no pattern."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import tensorgrad
from tensorgrad import Tensor, fusion
from tensorgrad.graph import Graph
from tensorgrad.kernels import build, common
from tensorgrad.nn import functional as F
from tests.compiled import kernels
from tests.strategies import batch_axes, generators

DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", ">i4",
    ">f8",
]  # fmt: skip
ROLES: dict[str, Callable[[Any], Any]] = {
    "array": lambda a: a,
    "Tensor": Tensor,
    "computed": lambda a: Tensor(a) if a.dtype.kind == "b" else Tensor(a) * np.ones((), a.dtype),
    "wanted": lambda a: Tensor(a, a.dtype.kind == "f"),
    "list": lambda a: Tensor(a.tolist(), dtype=a.dtype.newbyteorder("=")),
}
# The loss of logits z, targets Y and labels t, spelled by hand
SOFTMAX: dict[str, Callable[..., Tensor]] = {
    "-(Y * log(softmax(z))).sum(-1).mean()": lambda z, Y, t: -(Y * z.softmax().log()).sum(-1).mean(),
    "-(log_softmax(z) * Y).sum()": lambda z, Y, t: -(z.log_softmax() * Y).sum(),
    "(Y * -log_softmax(z)).mean()": lambda z, Y, t: (Y * -z.log_softmax()).mean(),
    "nll_loss(log(softmax(z)), t)": lambda z, Y, t: F.nll_loss(z.softmax().log(), t),
    "cross_entropy(z, t)": lambda z, Y, t: F.cross_entropy(z, t),
}
# The logistic loss of logits z and targets t with weights w, spelled by hand; u is 1 - t
LOGISTIC: dict[str, Callable[..., Tensor]] = {
    "mean of the sum": lambda z, t, u, w: -(t * z.sigmoid().log() + u * (1 - z.sigmoid()).log()).mean(),
    "p once": lambda z, t, u, w: (lambda p: -(t * p.log() + u * (1 - p).log()).mean())(z.sigmoid()),
    "minus both": lambda z, t, u, w: (lambda p: (-t * p.log() - u * (1 - p).log()).mean())(z.sigmoid()),
    "signs inside": lambda z, t, u, w: (lambda p: (-(t * p.log()) - (u * (1 - p).log())).mean())(z.sigmoid()),
    "two means": lambda z, t, u, w: (lambda p: -(t * p.log()).mean() - (u * (1 - p).log()).mean())(z.sigmoid()),
    "log1p": lambda z, t, u, w: (lambda p: -(p.log() * t + np.log1p(-p) * u).mean())(z.sigmoid()),
    "sum over n": lambda z, t, u, w: (lambda p: (t * p.log() + u * (1 - p).log()).sum() / -z.size)(z.sigmoid()),
    "-(p - 1)": lambda z, t, u, w: (lambda p: -(t * p.log() + u * (-(p - 1)).log()).mean())(z.sigmoid()),
    "1 + -p": lambda z, t, u, w: (lambda p: -(t * p.log() + u * (1 + -p).log()).mean())(z.sigmoid()),
    "-p + 1.0": lambda z, t, u, w: (lambda p: -(t * p.log() + u * (-p + 1.0).log()).mean())(z.sigmoid()),
    "other way round": lambda z, t, u, w: (lambda p: -(u * (1 - p).log() + t * p.log()).mean())(z.sigmoid()),
    "sigmoid(-z)": lambda z, t, u, w: -(t * z.sigmoid().log() + u * (-z).sigmoid().log()).mean(),
    "logsigmoid": lambda z, t, u, w: -(t * F.logsigmoid(z) + u * F.logsigmoid(-z)).mean(),
    "with logits": lambda z, t, u, w: F.binary_cross_entropy_with_logits(z, t * 1.0),
    "weights of elements": lambda z, t, u, w: (lambda p: (w * -(t * p.log() + u * (1 - p).log())).mean())(z.sigmoid()),
    "weights of sides": lambda z, t, u, w: (lambda p: -((w * t) * p.log() + (w * u) * (1 - p).log()).mean())(z.sigmoid()),
    "weights, with logits": lambda z, t, u, w: F.binary_cross_entropy_with_logits(z, t * 1.0, w),
}


def gradient(write: Callable[[], Tensor], wanted: list[Tensor], fused: bool) -> tuple[float, list[np.ndarray]]:
    with fusion.on() if fused else fusion.off():
        loss = write()
        return loss.item(), [g.data for g in tensorgrad.grad(loss, wanted)]


def targets(rng: np.random.Generator, axes: tuple[int, ...], k: int, dtype: str, kind: str) -> np.ndarray:
    """One-hot rows, counts beyond the number of classes, or probabilities as the dtype can hold them."""
    if kind == "one-hot":
        return np.eye(k, dtype=dtype)[rng.integers(0, k, axes)]
    high = 2 if dtype == "bool" else 100
    return (rng.integers(0, high, (*axes, k)) if kind == "counts" else rng.uniform(size=(*axes, k))).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spelling", SOFTMAX)
@settings(max_examples=max(settings().max_examples // 5, 5))
@given(
    rng=generators(), axes=batch_axes, k=st.sampled_from([1, 2, 5, 129]), kind=st.sampled_from(["one-hot", "counts", "shares"]),
    logits=st.sampled_from(["float64", "float32"]), role=st.sampled_from(list(ROLES)), numba=st.booleans(),
)  # fmt: skip
def test_targets_of_every_kind(
    spelling: str,
    dtype: str,
    rng: np.random.Generator,
    axes: tuple[int, ...],
    k: int,
    kind: str,
    logits: str,
    role: str,
    numba: bool,
) -> None:
    """The gradient of a cross-entropy is (softmax(z) sum(Y) - Y) c, fused or not, whatever Y is made of."""
    Y, t = targets(rng, axes, k, dtype, kind), rng.integers(0, k, axes)
    z = Tensor((rng.normal(size=(*axes, k)) * 3).astype(logits), True)
    target, write = ROLES[role](Y), SOFTMAX[spelling]
    with kernels(numba):
        value, (fused,) = gradient(lambda: write(z, target, t), [z], True)
        plain, (unfused,) = gradient(lambda: write(z, target, t), [z], False)
    x = z.data.astype(float)
    y = np.eye(k)[t] if "t)" in spelling else Y.astype(float)
    m = {"(Y * -log_softmax(z)).mean()": z.size, "-(log_softmax(z) * Y).sum()": 1}.get(spelling, math.prod(axes))
    # Y of float16 times logits of float32 is float32, and so is Y of float32 in the list role
    tolerance = max(np.abs(y).sum(), 1) * (1e-13 if logits == "float64" else 3e-6)
    exact = (special.softmax(x, -1) * y.sum(-1, keepdims=True) - y) / m
    for found in (fused, unfused):
        np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance)
    cost = -(y * special.log_softmax(x, -1)).sum() / m
    for found in (value, plain):
        assert found == pytest.approx(cost, rel=1e-12 if logits == "float64" else 1e-4, abs=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 1), (4, 3), (1, 1), (), (2, 4, 3)])
def test_targets_of_every_shape(shape: tuple[int, ...], dtype: str) -> None:
    """Targets that broadcast, to the logits or beyond, are no pattern, or one of the same gradient."""
    rng = np.random.default_rng(1)
    Y = rng.integers(0, 3, shape).astype(dtype)
    for write in (
        lambda z: -(Y * z.softmax().log()).sum(),
        lambda z: -(z.log_softmax() * Y).mean(),
        lambda z: -(Y * z.sigmoid().log() + (1 - Y.astype(int)) * (1 - z.sigmoid()).log()).mean(),
        lambda z: (Y * (z @ np.eye(3) + np.ones(3)).relu()).sum(),
    ):
        z = Tensor(rng.normal(size=(4, 3)), True)
        value, (fused,) = gradient(lambda write=write, z=z: write(z), [z], True)
        plain, (unfused,) = gradient(lambda write=write, z=z: write(z), [z], False)
        assert value == pytest.approx(plain, rel=1e-12)
        np.testing.assert_allclose(fused, unfused, rtol=1e-12, atol=1e-13)


def layers() -> Iterator[Any]:
    for operand, dtype in itertools.product("xwb", DTYPES):
        yield pytest.param(operand, dtype, id=f"{operand} {dtype}")


@pytest.mark.every(3)
@pytest.mark.parametrize(("operand", "dtype"), list(layers()))
@given(
    rng=generators(), axes=batch_axes, role=st.sampled_from(list(ROLES)), name=st.sampled_from(["", "relu", "sigmoid", "tanh"])
)
def test_layers_of_every_kind(
    operand: str, dtype: str, rng: np.random.Generator, axes: tuple[int, ...], role: str, name: str
) -> None:
    """x @ W + b with one operand of another dtype or role: fused = unfused."""
    shapes = {"x": (*axes, 2), "w": (2, 3), "b": (3,)}
    arrays = {key: rng.integers(-3, 4, shape) + 0.25 for key, shape in shapes.items()}
    given_values: dict[str, Any] = {key: Tensor(a, True) for key, a in arrays.items()}
    given_values[operand] = ROLES[role](np.abs(arrays[operand]).astype(dtype))
    x, w, b = given_values.values()
    wanted = [t for t in given_values.values() if isinstance(t, Tensor) and t.requires_grad]

    def write() -> Tensor:
        z = (x if isinstance(x, Tensor) or isinstance(w, Tensor) else Tensor(x)) @ w + b
        return (getattr(z, name)() if name else z).sum()

    value, fused = gradient(write, wanted, True)
    plain, unfused = gradient(write, wanted, False)
    assert value == plain
    for f, u, t in zip(fused, unfused, wanted, strict=True):
        assert f.dtype == t.dtype
        tolerance = 2e-3 if t.dtype == np.float16 else 1e-12
        np.testing.assert_allclose(f.astype(float), u.astype(float), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("spelling", LOGISTIC)
@settings(max_examples=max(settings().max_examples // 2, 10))
@given(rng=generators(), shape=batch_axes, dtype=st.sampled_from(DTYPES), logits=st.sampled_from(["float32", "float64"]))
def test_logistic_loss(spelling: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: str, logits: str) -> None:
    """Fused = unfused = (σ(z) - t) w / m, for targets of every dtype."""
    z = Tensor(np.asarray(rng.normal(size=shape) * 3, logits), True)
    t = np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    u, w = np.asarray(1 - t.astype(int)).astype(dtype), np.asarray(rng.uniform(0, 3, shape), logits)
    t = np.asarray(t.astype(logits)) if spelling == "minus both" else t  # whose minus the user's NumPy computes
    value, (fused,) = gradient(lambda: LOGISTIC[spelling](z, t, u, w), [z], True)
    _, (unfused,) = gradient(lambda: LOGISTIC[spelling](z, t, u, w), [z], False)
    c = w / max(z.size, 1) if "weights" in spelling else 1 / max(z.size, 1)
    x, y = z.data.astype(float), t.astype(float)
    tolerance = 1e-13 if logits == "float64" and dtype != "float16" else 3e-6
    np.testing.assert_allclose(fused, (special.expit(x) - y) * c, rtol=0, atol=tolerance)
    np.testing.assert_allclose(unfused, (special.expit(x) - y) * c, rtol=0, atol=max(tolerance, 1e-10))
    expected = -((y * special.log_expit(x) + (1 - y) * special.log_expit(-x)) * c).sum()
    assert value == pytest.approx(expected, rel=1e-11 if tolerance < 1e-10 else 1e-4, abs=tolerance)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spelling", LOGISTIC)
def test_logistic_loss_of_huge_logits(spelling: str, dtype: str, compiled: bool) -> None:
    """Finite and right at ±1000, on the right side and on the wrong one."""
    x, y = np.array([1000, -1000, 1000, -1000, 40, -40, 0], dtype), np.array([1, 0, 0, 1, 0, 1, 1], dtype)
    w = np.array([1, 2, 3, 4, 5, 6, 7], dtype)

    def loss(z: Tensor) -> tuple[Tensor, Tensor]:
        value = LOGISTIC[spelling](z, y, 1 - y, w)
        return value, tensorgrad.grad(value, z)[0]

    step = tensorgrad.compile(loss) if compiled else loss
    c = (w if "weights" in spelling else np.ones(7)) / 7
    for _ in range(3):
        value, g = step(Tensor(x, True))
        exact = -(c * (y * special.log_expit(x.astype(float)) + (1 - y) * special.log_expit(-x.astype(float)))).sum()
        assert value.item() == pytest.approx(exact, rel=1e-6)
        np.testing.assert_allclose(g.data, (special.expit(x.astype(float)) - y) * c, rtol=1e-6, atol=1e-12)


def test_logistic_loss_is_one_op() -> None:
    """Where both sides have the same logits and what they count is given."""
    rng = np.random.default_rng(0)
    z, t = Tensor(rng.normal(size=(4, 3)), True), rng.uniform(size=(4, 3))
    one = ["mean of the sum", "p once", "signs inside", "log1p", "sum over n", "-(p - 1)", "1 + -p", "-p + 1.0"]
    for spelling in (*one, "other way round", "with logits", "weights of sides"):
        found = [node.op.name for node in Graph.of(LOGISTIC[spelling](z, t, 1 - t, t)).fused().nodes]
        assert found == ["sigmoid_cross_entropy"], spelling


@given(rng=generators())
def test_second_order_of_the_logistic_loss(rng: np.random.Generator) -> None:
    """The curvature is σ(z) (1 - σ(z)) (a + b) c."""
    z, t = Tensor(rng.normal(size=(3, 2)), True), rng.integers(0, 2, (3, 2))
    for spelling, write in LOGISTIC.items():
        (g,) = tensorgrad.grad(write(z, t, 1 - t, np.full((3, 2), 2.0)), z, create_graph=True)
        (h,) = tensorgrad.grad(g.sum(), z)
        s = special.expit(z.data)
        np.testing.assert_allclose(h.data, s * (1 - s) * (2 if "weights" in spelling else 1) / 6, rtol=1e-11, err_msg=spelling)


@pytest.mark.parametrize("watch", ["retain_grad", "hook", "asked"])
@pytest.mark.parametrize("held", ["p", "1 - p", "log p"])
def test_what_is_watched_stays(held: str, watch: str) -> None:
    """The gradient of an intermediate of the logistic loss that somebody asks for is that of the plain ops."""
    rng = np.random.default_rng(0)
    data, t = rng.normal(size=5), rng.integers(0, 2, 5)

    def run(fused: bool) -> tuple[np.ndarray, np.ndarray]:
        with fusion.on() if fused else fusion.off():
            z = Tensor(data, True)
            p = z.sigmoid()
            q = 1 - p
            logp = p.log()
            loss = -(t * logp + (1 - t) * q.log()).mean()
            node = {"p": p, "1 - p": q, "log p": logp}[held]
            seen: list[np.ndarray] = []
            if watch == "asked":
                g, gz = tensorgrad.grad(loss, (node, z))
                return g.data, gz.data
            if watch == "hook":
                node.register_hook(lambda g: seen.append(g.data.copy()))
            else:
                node.retain_grad()
            loss.backward()
            return (seen[0] if seen else node.grad.data), z.grad.data

    for found, expected in zip(run(True), run(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


LABELS = [(i.min, i.max, i.dtype.name) for i in map(np.iinfo, ("int8", "uint8", "int32", "int64", "uint64"))]
NO_CLASSES = [(bad, name) for low, high, name in LABELS for bad in (3, 100, -1, high, low) if low <= bad <= high and bad]


@pytest.mark.parametrize(("bad", "dtype"), NO_CLASSES)
def test_no_kernel_writes_outside(bad: int, dtype: str) -> None:
    """Labels that are no classes, and matrices of them: nothing outside of the result is written to, whatever they are."""
    pytest.importorskip("numba", reason="needs Numba: pip install numba")
    memory = np.zeros(64 + 9)
    logp, inside = np.full((3, 3), -math.log(3)), memory[32:41].reshape(3, 3)
    labels = np.array([0, bad, 1], dtype)
    slopes, both = (
        build.cross_entropy_grad_kernel(logp.dtype, labels.dtype),
        build.cross_entropy_kernel(logp.dtype, labels.dtype, 3),
    )
    assert slopes
    assert slopes(logp.reshape(-1), labels, np.ones(()), inside.reshape(-1)) == 1
    loss = memory[:1].reshape(())
    assert isinstance(both, build.CheckedKernel)
    assert both.fast(logp, labels, np.ones(()), 3, loss, inside.reshape(-1)) == 1
    assert not memory[1:32].any()
    assert not memory[41:].any()
    assert common.cross_entropy_grad(logp, labels, 1.0) is None
    assert common.cross_entropy_grad(logp, np.diag(labels), 1.0) is None  # a matrix is no labels
