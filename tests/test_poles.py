"""What is left out of a result has no influence on it: its gradient is 0, at poles, at infinities and at NaN, too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, nn, ops
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tests.compiled import kernels

HOSTILE = (0.0, -0.0, 5e-324, -1e-300, 1e-300, 1.0, -1.0, -3.0, 1e30, 1e300, -1e300, np.inf, -np.inf, np.nan)
GUARDS: dict[str, Callable[[Any, Any], Any]] = {  # from a result and where it is kept to what is kept of it
    "where": lambda y, keep: ops.where(keep, y, 0.0),
    "where, the other way": lambda y, keep: ops.where(~keep, -1.0, y),
    "mask": lambda y, keep: y[keep],
    "indices": lambda y, keep: y[np.flatnonzero(keep)],
    "take": lambda y, keep: ops.take(y, np.flatnonzero(keep), 0),
    "assigned over": lambda y, keep: ops.setitem(y, np.float64(0), ~keep),
    "bound from above": lambda y, keep: ops.minimum(np.where(keep, np.inf, -1e308), ops.where(keep, y, 1.0)),
    "clip": lambda y, keep: ops.clip(ops.where(keep, y, np.inf), None, 1e306),
    "relu": lambda y, keep: ops.relu(ops.where(keep, y, -np.inf)) + ops.where(keep, ops.minimum(y, 0), 0),
}


def samples(op: Op, seed: int) -> tuple[list[np.ndarray], dict[str, Any]] | None:
    """Arguments of one axis with two elements, if the op works on each element alone."""
    if op.backward is None or op.variadic or any(op.parsed.inputs) or op.moves:
        return None
    args, attrs = op.sample(np.random.default_rng(seed), (2,))
    if not all(isinstance(a, np.ndarray) and a.dtype.kind in "fb" for a in args):
        return None
    args = [np.resize(a, 2) for a in args]
    try:
        y = op.apply(*args, **attrs)
        changed = op.apply(*[np.where([True, False], np.asarray(0.5, a.dtype), a) for a in args], **attrs)
    except (ValueError, TypeError, IndexError):
        return None
    return (args, attrs) if y.shape == (2,) and y[1] == changed[1] else None


def cases() -> Iterator[Any]:
    for op in REGISTRY.values():
        seen = set()
        for seed in range(3 if type(op).__module__.startswith("tensorgrad.ops.") else 0):
            found = samples(op, seed)
            if found is not None and str(found[1]) not in seen:
                seen.add(str(found[1]))
                yield pytest.param(op, *found, id=f"{op.name}-{seed}")


CASES = list(cases())


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        yield


@pytest.mark.parametrize(("op", "args", "attrs"), CASES)
def test_an_element_that_is_left_out(op: Op, args: list[np.ndarray], attrs: dict[str, Any]) -> None:
    """Every op that works on each element alone, every argument, every guard: 0 there, and elsewhere as without it."""
    keep = np.array([False, True])
    for i, a in enumerate(args):
        if op.is_data(i):
            continue
        for value in HOSTILE:
            given = [Tensor(a, True) if not op.is_data(j) else a for j, a in enumerate(args)]
            given[i] = Tensor(np.array([value, a[1]]), True)
            wanted = [t for t in given if isinstance(t, Tensor)]
            alone = [Tensor(t.data[1:], True) if isinstance(t, Tensor) else t[1:] for t in given]
            found = tensorgrad.grad(
                ops.sum(op.apply(*alone, **attrs)), [t for t in alone if isinstance(t, Tensor)], allow_unused=True
            )
            for name, guard in GUARDS.items():
                gs = tensorgrad.grad(ops.sum(guard(op.apply(*given, **attrs), keep)), wanted, allow_unused=True)
                for g, h in zip(gs, found, strict=True):
                    if g is None:
                        assert h is None
                        continue
                    assert g.data[0] == 0, f"{name} at {value}: {g}"
                    np.testing.assert_allclose(g.data[1], h.data[0], rtol=1e-14, err_msg=f"{name} at {value}")


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize(("op", "args", "attrs"), CASES)
def test_compiled(op: Op, args: list[np.ndarray], attrs: dict[str, Any], numba: bool) -> None:
    """In a compiled step as outside of it: what is left out gets 0, the rest the same bits or nearly so."""
    n = 2 * len(HOSTILE)
    keep = np.arange(n) >= len(HOSTILE)

    def step(*given: Any) -> tuple[Tensor, ...]:
        loss = ops.where(keep, op.apply(*given, **attrs), 0.0).sum()
        wanted = [t for t in given if isinstance(t, Tensor) and t.requires_grad]
        return (loss, *(g for g in tensorgrad.grad(loss, wanted, allow_unused=True) if g is not None))

    with kernels(numba):
        compiled = tensorgrad.compile(step)
        for hostile in (False, False, True):
            given = [a[np.arange(n) % 2] for a in args]
            if hostile:
                given = [np.where(keep, a, [*HOSTILE, *HOSTILE]) if a.dtype.kind == "f" else a for a in given]
            tensors = [a if op.is_data(i) else Tensor(a, True) for i, a in enumerate(given)]
            for found, expected in zip(compiled(*tensors), step(*tensors), strict=True):
                np.testing.assert_allclose(found.data, expected.data, rtol=1e-13)
                assert not (hostile and found.ndim and found.data[~keep].any())


@pytest.mark.parametrize(("op", "args", "attrs"), CASES)
def test_second_order(op: Op, args: list[np.ndarray], attrs: dict[str, Any]) -> None:
    """The gradient of the gradient of what is kept leaves it out, too."""
    keep = np.array([False, True])
    for value in HOSTILE:
        given: list[Any] = [a if op.is_data(j) else Tensor(np.where([True, False], value, a), True) for j, a in enumerate(args)]
        wanted = [t for t in given if isinstance(t, Tensor)]
        loss = ops.sum(ops.where(keep, op.apply(*given, **attrs), 0.0))
        first = [g for g in tensorgrad.grad(loss, wanted, create_graph=True, allow_unused=True) if g is not None]
        total = sum((g * g).sum() for g in first if g.requires_grad)
        if not isinstance(total, Tensor):
            continue
        for g in tensorgrad.grad(total, wanted, allow_unused=True):
            assert g is None or g.data[0] == 0, f"{value}: {g}"


ROWS: dict[str, Callable[[Any], Any]] = {  # functions of rows, each of which depends on its own alone
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "log of softmax": lambda z: z.softmax().log(),
    "logsumexp": lambda z: ops.logsumexp(z, -1, True),
    "norm": lambda z: ops.norm(z, -1, True),
    "std": lambda z: ops.std(z, -1, keepdims=True),
    "var": lambda z: ops.var(z, -1, keepdims=True),
    "mean": lambda z: ops.mean(z, -1, True),
    "prod": lambda z: ops.prod(z, -1, True),
    "max": lambda z: ops.max(z, -1, True),
    "layer_norm": lambda z: F.layer_norm(z, 3),
    "layer_norm with weights": lambda z: F.layer_norm(z, 3, np.array([1.0, 2, 3]), np.ones(3)),
    "cumsum": lambda z: ops.cumsum(z, -1),
    "cross_entropy": lambda z: F.cross_entropy(z, np.array([1, 0]), reduction="none"),
    "soft cross_entropy": lambda z: F.cross_entropy(z, np.array([[1.0, 0, 0], [0, 0.5, 0.5]]), reduction="none"),
    "mse_loss": lambda z: F.mse_loss(z, np.ones((2, 3)), reduction="none"),
    "huber_loss": lambda z: F.huber_loss(z, np.ones((2, 3)), reduction="none"),
    "l1_loss": lambda z: F.l1_loss(z, np.ones((2, 3)), reduction="none"),
    "kl_div": lambda z: F.kl_div(z, np.full((2, 3), 0.3), reduction="none"),
    "bce": lambda z: F.binary_cross_entropy_with_logits(z, np.full((2, 3), 0.3), reduction="none"),
    "logistic loss": lambda z: -(0.3 * z.sigmoid().log() + 0.7 * (1 - z.sigmoid()).log()),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_is_left_out(name: str) -> None:
    f, keep = ROWS[name], np.array([[False], [True]])
    for row in ([np.inf, 1.0, 2.0], [-np.inf] * 3, [np.inf, -np.inf, 0.0], [np.nan, 1, 2], [0.0] * 3, [1e300, -1e300, 1e300]):
        x = Tensor(np.array([row, [0.5, -1.0, 2.0]]), True)
        plain = Tensor(np.array([[0.1, 0.2, 0.4], [0.5, -1.0, 2.0]]), True)
        for guard in (
            lambda y, k: ops.where(k if y.ndim == 2 else k[:, 0], y, 0.0),
            lambda y, k: y[1:],
            lambda y, k: y[k[:, 0]],
        ):
            (g,) = tensorgrad.grad(guard(f(x), keep).sum(), x)
            (h,) = tensorgrad.grad(guard(f(plain), keep).sum(), plain)
            np.testing.assert_array_equal(g.data[0], 0.0, err_msg=f"{row}")
            np.testing.assert_allclose(g.data[1], h.data[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, np.array([1.0, 2.0, 0.0])])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_count_nothing(reduction: str, weight: Any, smoothing: float) -> None:
    """Whatever is in them: value and gradient are those of the other rows alone."""
    rows = np.array([[1.0, 2, 3], [0.5, 0, 1]])
    for row in ([np.inf, 4, 0], [-np.inf] * 3, [np.nan, 1, 2], [np.inf] * 3):
        z, alone = Tensor(np.array([rows[0], row, rows[1]]), True), Tensor(rows, True)
        options: dict[str, Any] = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        loss = F.cross_entropy(z, np.array([0, -100, 1]), ignore_index=-100, **options)
        expected = F.cross_entropy(alone, np.array([0, 1]), **options)
        np.testing.assert_allclose(loss.sum().item(), expected.sum().item(), rtol=1e-14)
        loss.sum().backward()
        expected.sum().backward()
        np.testing.assert_array_equal(z.grad.data[1], 0)
        np.testing.assert_allclose(z.grad.data[[0, 2]], alone.grad.data, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("spelling", ["indices", "probabilities", "by hand"])
@pytest.mark.parametrize("compiled", [False, True])
def test_masked_classes(spelling: str, compiled: bool) -> None:
    """A class whose logit is -inf has probability 0: it counts nothing, and gets no gradient."""

    def loss(z: Tensor) -> tuple[Tensor, Tensor]:
        labels, soft = np.array([0, 2]), np.array([[1.0, 0, 0], [0.25, 0, 0.75]])
        if spelling == "indices":
            value = F.cross_entropy(z, labels, reduction="sum")
        elif spelling == "probabilities":
            value = F.cross_entropy(z, soft, reduction="sum")
        else:
            value = -ops.where(soft > 0, soft * z.softmax().log(), 0.0).sum()
        return value, tensorgrad.grad(value, z)[0]

    z = Tensor(np.array([[1.0, -np.inf, 2.0], [0.0, -np.inf, 0.5]]), True)
    kept = z.data[:, [0, 2]]
    p = np.exp(kept) / np.exp(kept).sum(1, keepdims=True)
    target = np.array([[1.0, 0], [0, 1]]) if spelling == "indices" else np.array([[1.0, 0], [0.25, 0.75]])
    step = tensorgrad.compile(loss) if compiled else loss
    for _ in range(3):
        value, g = step(z)
        np.testing.assert_allclose(value.item(), -(target * np.log(p)).sum(), rtol=1e-14)
        np.testing.assert_allclose(g.data[:, [0, 2]], p - target, rtol=1e-13, atol=1e-16)
        np.testing.assert_array_equal(g.data[:, 1], 0)


def test_logistic_loss_at_infinite_logits() -> None:
    """Right where the answer is definite: the wrong side costs infinity at slope 1, the right side nothing."""
    z, t = np.array([np.inf, -np.inf, np.inf, -np.inf]), np.array([1.0, 0.0, 0.0, 1.0])
    x = Tensor(z, True)
    losses = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    np.testing.assert_array_equal(losses.data, [0, 0, np.inf, np.inf])
    losses.backward(np.ones(4))
    np.testing.assert_array_equal(x.grad.data, [0, 0, 1, -1])
    y = Tensor(z, True)
    weighted = F.binary_cross_entropy_with_logits(y, t, weight=np.array([1.0, 1, 0, 0]))
    assert weighted.item() == 0
    weighted.backward()
    np.testing.assert_array_equal(y.grad.data, 0)


def test_logsumexp_of_infinities() -> None:
    for row, expected in (([np.inf, 1.0], [1, 0]), ([-np.inf, 1.0], [0, 1]), ([-np.inf, -np.inf], [0, 0])):
        x = Tensor(np.array(row), True)
        y = x.logsumexp()
        assert y.item() == np.logaddexp.reduce(row)
        (g,) = tensorgrad.grad(y, x)
        np.testing.assert_array_equal(g.data, expected)


@pytest.mark.parametrize("name", sorted(nn.layers.ACTIVATIONS))
def test_activations_at_infinity(name: str) -> None:
    """Their slopes there are those far out."""
    f = getattr(ops, name)
    x, far = Tensor(np.array([np.inf, -np.inf]), True), Tensor(np.array([1e3, -1e3]), True)
    (g,) = tensorgrad.grad(f(x).sum(), x)
    (h,) = tensorgrad.grad(f(far).sum(), far)
    np.testing.assert_allclose(g.data, h.data, rtol=1e-12, atol=1e-300)
