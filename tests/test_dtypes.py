"""What dtypes do to numbers: every op, loss and normalisation in every dtype beside the same numbers in float64.

How far a result may be away follows from the dtype: 2e-3 is four roundings of float16 (eps 9.8e-4, half of it each), 1.6e-2
four of bfloat16 (eps 7.8e-3), relative to the number itself where it is a result, and to the largest of its array where
numbers of either sign are added up on the way. Below the smallest normal float16 its numbers are 6e-8 apart.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import special

import tensorgrad as tg
from tensorgrad import Tensor, fusion, nn, ops, optim, testing
from tensorgrad.core import backend
from tensorgrad.errors import DTypeError, MissingDependencyError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import gradcheck
from tests.kinds import LOSSES

try:
    import ml_dtypes

    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
except ImportError:
    BFLOAT16 = np.dtype(bool)
needs_bfloat16 = pytest.mark.skipif(BFLOAT16.kind == "b", reason="needs ml_dtypes: pip install ml_dtypes")

TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 4e-6, ">f4": 4e-6, ">f8": 1e-12}
HALVES = ["float16", pytest.param("bfloat16", marks=needs_bfloat16)]
FLOATS = [*HALVES, "float32", ">f4", ">f8"]
WHOLE = {
    "bool": [1, 0, 1, 1],
    "int8": [-128, 127, 3, -2],
    "uint8": [0, 200, 3, 255],
    "int16": [-32768, 300, 400, 5],
    "uint16": [65535, 1, 300, 7],
    "int32": [-(2**31), 5, 70000, -3],
    "uint32": [2**32 - 1, 2, 3, 4],
    "int64": [-(2**62), 3, 2, 1],
    "uint64": [2**63, 1, 2, 3],
    ">i2": [1, -2, 300, -4],
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is infinite in a dtype, or no number, is told by NumPy, too."""
    with np.errstate(all="ignore"):
        yield


def as_numpy(dtype: str) -> np.dtype[Any]:
    return BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)


def differentiated(f: Callable[..., Any], args: list[Any], wrt: list[int], cotangent: np.ndarray | None = None) -> Any:
    """The value and the gradients of the sum of its elements, each times a number that every dtype has."""
    ts = [Tensor(a, i in wrt) for i, a in enumerate(args)]
    y = f(*ts)
    if not y.requires_grad:
        return y, []
    if cotangent is None:
        cotangent = np.resize([1.0, -0.5, 0.25, -2.0, 1.5], y.shape)
    gradients = tg.grad(y, [ts[i] for i in wrt], Tensor(cotangent, dtype=y.dtype), allow_unused=True)
    return y, [np.zeros(ts[i].shape) if g is None else g.data for i, g in zip(wrt, gradients, strict=True)]


def assert_near(found: Any, expected: Any, tolerance: float, room: float = 0.0) -> None:
    """Wherever the expected number is one of the dtype's, the found one is near."""
    found, expected = np.asarray(found).astype(np.float64), np.asarray(expected).astype(np.float64)
    assert found.shape == expected.shape
    largest = {2e-3: 65504.0, 1.6e-2: 1e37, 4e-6: 3.4e38}.get(tolerance, np.inf)
    fits = np.abs(expected) < largest
    apart = np.abs(found - expected)[fits]
    room += 6e-8 * (tolerance == 2e-3)
    np.testing.assert_array_less(apart, tolerance * np.abs(expected)[fits] + room + 1e-300)
    assert np.isnan(found[np.isnan(expected)]).all()


# Every op


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [name for name, op in REGISTRY.items() if not op.calls and not op.draws])
def test_every_op(name: str, dtype: str) -> None:
    op, rng, tolerance, wanted = REGISTRY[name], np.random.default_rng(0), TOLERANCE[dtype], as_numpy(dtype)
    for _ in range(4):
        args, attrs = op.sample(rng)
        floating = [i for i, a in enumerate(args) if a.dtype.kind == "f"]
        wrt = [i for i in floating if not op.is_data(i)]
        given = [a.astype(wanted) if i in floating else a for i, a in enumerate(args)]
        wide = [a.astype(np.float64) if i in floating else a for i, a in enumerate(given)]
        use = functools.partial(op, **attrs)
        expected, slopes = differentiated(use, wide, wrt)
        found, gradients = differentiated(use, given, wrt)
        if expected.dtype == np.float64 and "dtype" not in attrs:
            assert found.dtype == wanted.newbyteorder("=")
        else:
            assert found.dtype == expected.dtype
        largest = np.abs(expected.data.astype(np.float64)).max(initial=0)
        assert_near(found.data, expected.data, tolerance, tolerance * largest / 8)
        for g, slope in zip(gradients, slopes, strict=True):
            assert g.dtype in (wanted.newbyteorder("="), np.float64)
            assert_near(g, slope, tolerance, tolerance * np.abs(slope).max(initial=0))


# Functions of one array and of two, of integers and in half precision

REAL = """arccos arcsin arctan cos cosh elu erf exp expm1 gelu leaky_relu log log1p log2 log_softmax logsigmoid logsumexp mean
norm reciprocal sigmoid silu sin sinh softmax softplus sqrt std tan tanh var"""
ONE: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(ops, name) for name in REAL.split()},
    "gelu tanh": lambda x: ops.gelu(x, "tanh"),
    "norm of rows": lambda x: ops.norm(ops.reshape(x, (2, -1)), axis=1),
    "std, ddof": lambda x: ops.std(x, ddof=1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1]),
    "batch_norm": lambda x: F.batch_norm(x.reshape(-1, 1), training=True),
    "evaluated": lambda x: F.batch_norm(x.reshape(-1, 1), np.array([1.0], "f"), np.array([2.0], "f")) * 1.0,
    "avg_pool2d": lambda x: ops.avg_pool2d(x.reshape(1, 1, 1, -1), (1, 2)),
    "** 0.5": lambda x: x**0.5,
    "/ 3": lambda x: x / 3,
}
PAIRED: dict[str, Callable[[Any, Any], Any]] = {
    **{
        f"{f.__name__} {reduction}": functools.partial(f, reduction=reduction)
        for f in (F.mse_loss, F.l1_loss, F.huber_loss, F.kl_div, F.binary_cross_entropy_with_logits)
        for reduction in ("mean", "sum", "none")
    },
    "hypot": ops.hypot,
    "cross_entropy": lambda a, b: F.cross_entropy(a.reshape(-1, 2), labels(a)),
    "weights": lambda a, b: F.cross_entropy(a.reshape(-1, 2), labels(a), np.array([1.0, 2.0]), label_smoothing=0.1),
    "nll_loss": lambda a, b: F.nll_loss(a.reshape(-1, 2), labels(a), np.array([1.0, 2.0])),
}
HALF_ONE: dict[str, Callable[[Any], Any]] = {
    **{name: f for name, f in ONE.items() if name != "evaluated"},
    **{name: getattr(ops, name) for name in ("sum", "cumsum", "prod", "square", "amax", "trace")},
    "mean of rows": lambda x: x.reshape((2, -1)).mean(0),
    "trace": lambda x: ops.trace(x.reshape((2, -1))),
    "square, mean": lambda x: ops.mean(ops.square(x * 0.01)),
}
HALF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    **PAIRED,
    "matmul": lambda a, b: a.reshape((1, -1)) @ b.reshape((-1, 1)),
    "linear": lambda a, b: F.linear(a.reshape((1, -1)), b.reshape((-1, 1)), Tensor(np.zeros(1), dtype=a.dtype)),
    "einsum": lambda a, b: ops.einsum("i,i->", a, b),
    "probabilities": lambda a, b: F.cross_entropy(a.reshape(-1, 2), np.eye(2)[labels(a)].astype(a.dtype)),
    "by hand": lambda a, b: -(np.eye(2)[labels(a)].astype(a.dtype) * a.reshape((-1, 2)).softmax().log()).sum(-1).mean(),
}
POSITIVE = {"log", "log1p", "log2", "sqrt", "** 0.5", "reciprocal"}


def labels(a: Any) -> np.ndarray:
    return np.arange(a.size // 2) % 2


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_are_made_floating_where_the_result_is_real(dtype: str) -> None:
    """The same as of these numbers in float64, but for rounding where the result is float32: those of up to 16 bits."""
    x = np.array(WHOLE[dtype], dtype)
    real = np.float32 if x.dtype.itemsize <= 2 else np.float64
    for name, f in {**ONE, **PAIRED}.items():
        args = (x,) if name in ONE else (x, x[::-1])
        for wrapped in (Tensor, np.array):
            found, expected = f(*map(wrapped, args)), f(*[wrapped(a.astype(np.float64)) for a in args])
            found, expected = (np.asarray(y.data if isinstance(y, Tensor) else y) for y in (found, expected))
            fits = np.abs(expected) < 3e38
            tolerance = 4e-6 if found.dtype == np.float32 else 1e-12
            np.testing.assert_allclose(found[fits], expected[fits], tolerance, tolerance / 10, err_msg=f"{name} {found.dtype}")
            assert found.dtype in (real, np.float64), name
            assert (np.isnan(found) == np.isnan(expected)).all(), name


def test_products_and_sums_of_whole_numbers_are_wide_as_numpys() -> None:
    for dtype, values in WHOLE.items():
        x = np.array(values, dtype)
        for name in ("sum", "prod", "cumsum"):
            found, expected = getattr(ops, name)(Tensor(x)), getattr(np, name)(x)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found.data, expected)


@pytest.mark.every(3)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("size", "scale"), [(2, 1.0), (1000, 1000.0), (100_000, 1.0), (100_000, 1000.0), (1000, 1e-3)])
def test_half_precision_holds_every_step_on_the_way(size: int, scale: float, dtype: str) -> None:
    """Sums of 100,000, squares of 1,000: value and gradient, fused and not."""
    rng, tolerance = np.random.default_rng(0), TOLERANCE[dtype]
    x = (rng.uniform(-1, 1, size) * scale).astype(as_numpy(dtype))
    positive = (rng.uniform(0.1, 1, size) * scale).astype(x.dtype)
    for name, f in {**HALF_ONE, **HALF_TWO}.items():
        args = [x] if name in HALF_ONE else [x, positive]
        if name in POSITIVE or "kl_div" in name:
            args = [positive, x][: len(args)]
        wide = [a.astype(np.float64) for a in args]
        wrt = list(range(len(args)))
        expected, slopes = differentiated(f, wide, wrt)
        for fused in (True, False):
            if not fused and (name in HALF_ONE or (name == "by hand" and scale > 1)):
                continue  # nothing to be fused; or the logarithm of a softmax of 0, which fusion.off() asks for
            with fusion.on() if fused else fusion.off():
                found, gradients = differentiated(f, args, wrt)
            assert found.dtype == x.dtype, name
            largest = np.abs(expected.data[np.isfinite(expected.data)]).max(initial=0)
            assert_near(found.data, expected.data, tolerance, tolerance * min(largest, 1e9) / 8)
            for g, slope in zip(gradients, slopes, strict=True):
                largest = np.abs(slope[np.abs(slope) < 65504]).max(initial=0)
                assert_near(g, slope, tolerance, tolerance * largest)


COMPILED = "softmax logsumexp norm std var layer_norm batch_norm cumsum prod sigmoid gelu sum"


@pytest.mark.parametrize("dtype", HALVES)
def test_compiled_half_precision_is_that_of_the_step(dtype: str) -> None:
    """To two roundings: the sums are the same, in another order."""
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.1, 1, (2, 300)) * 300).astype(as_numpy(dtype))
    chosen = COMPILED.split()
    formulas = {n: HALF_ONE[n] for n in chosen} | {n: HALF_TWO[n] for n in ("mse_loss mean", "by hand", "matmul", "weights")}

    def step(a: Any, b: Any) -> Any:
        found = {}
        for name, f in formulas.items():
            args = [a, b][: 1 if name in HALF_ONE else 2]
            y = f(*args)
            found[name] = (y, *tg.grad((y * (1 / y.size)).sum(), args, allow_unused=True))
        return found

    compiled = tg.compile(step)
    expected = step(Tensor(a, True), Tensor(b, True))
    for _ in range(3):
        found = compiled(Tensor(a, True), Tensor(b, True))
    assert compiled.plan is not None, compiled.why_not
    for name, values in expected.items():
        for v, w in zip(values, found[name], strict=True):
            assert v is w is None or v.dtype == w.dtype
            if v is not None:
                v, w = (t.data.astype(np.float64) for t in (v, w))
                assert (np.isfinite(v) == np.isfinite(w)).all(), name
                finite = np.isfinite(v)
                eps = float(backend.finfo(as_numpy(dtype)).eps)
                np.testing.assert_allclose(
                    w[finite], v[finite], eps, eps * np.abs(v[finite]).max(initial=0) / 8 + 1e-7, err_msg=name
                )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (1, 1)])
def test_half_precision_of_few_elements(shape: tuple[int, ...], dtype: str) -> None:
    for name in ("sum", "mean", "norm", "logsumexp", "prod", "exp", "sigmoid", "std", "var", "cumsum", "softplus"):
        f = getattr(ops, name)
        x = np.full(shape, 0.5)
        expected, slopes = differentiated(f, [x], [0])
        found, gradients = differentiated(f, [x.astype(as_numpy(dtype))], [0])
        assert (found.dtype, found.shape) == (as_numpy(dtype), expected.shape), name
        assert_near(found.data, expected.data, TOLERANCE[dtype])
        assert_near(gradients[0], slopes[0], TOLERANCE[dtype])


def test_gradients_of_half_precision_are_float32_on_the_way() -> None:
    """A gradient that no float16 can hold, though those of the leaves are ordinary ones: 1e-8 in the middle, then 1e-3."""
    x = Tensor(np.array([2.0, 3.0], np.float16), requires_grad=True)
    y = x * 1.0
    seen: list[Tensor] = []
    y.register_hook(lambda g: seen.append(g))
    ((y * 1e-8).sum() * 1e-4).backward()
    assert x.grad.dtype == np.float16
    assert [g.dtype for g in seen] == [np.float16]  # as the Tensor is
    z = Tensor(np.array([2.0], np.float16), requires_grad=True)
    (z * 1000 * 1e-3 * 1e-8 * 1e4).sum().backward()
    assert z.grad.item() == pytest.approx(1e-4, rel=1e-2)
    w = Tensor(np.ones(100_000, np.float16), requires_grad=True)
    (w * 30000).mean().backward()
    np.testing.assert_allclose(w.grad.data, 0.3, 1e-3)
    (g,) = tg.grad((w * w).mean(), w, create_graph=True)
    assert g.dtype == np.float16
    np.testing.assert_allclose(tg.grad(g.sum(), w)[0].data, 2e-5, 2e-3)


# The root of a sum of squares, at every scale

SCALED: dict[str, tuple[Callable[[Any], Any], int]] = {  # with the power of s in f(s x)
    "norm": (lambda x: x.norm(), 1),
    "norm of rows": (lambda x: x.norm(axis=-1), 1),
    "norm of columns": (lambda x: x.norm(axis=0, keepdims=True), 1),
    "std": (lambda x: x.std(), 1),
    "std of columns": (lambda x: x.std(0, ddof=1), 1),
    "mean": (lambda x: x.mean(), 1),
    "layer_norm": (lambda x: F.layer_norm(x, 6, eps=0.0), 0),
    "batch_norm": (lambda x: F.batch_norm(x, training=True, eps=0.0), 0),
}


@pytest.mark.parametrize("char", ["e", "f", "d"])
@pytest.mark.parametrize("name", SCALED)
def test_scales(name: str, char: str) -> None:
    """f(2^k x) is 2^k f(x), or f(x), to the last digit wherever these are normal numbers, and so the gradient."""
    f, power = SCALED[name]
    info, rng = np.finfo(char), np.random.default_rng(0)
    x = rng.normal(size=(4, 6)).astype(char)
    once, slope = differentiated(f, [x], [0])
    top = info.maxexp - int(np.ceil(np.log2(np.abs(x).max())))
    for k in sorted({*range(info.minexp + 8, top, 1 if char == "e" else 37), top - 1}):
        s = np.ldexp(np.ones((), char), k)
        found, gradient = differentiated(f, [x * s], [0])
        scale = np.longdouble(s)
        expected = once.data.astype(np.longdouble) * (scale if power else 1)
        assert np.array_equal(found.data.astype(np.longdouble), expected) or char == "e" or np.abs(expected).max() > info.max, k
        assert_near(found.data, expected, 4 * float(info.eps))
        expected = slope[0].astype(np.longdouble) * (1 if power else 1 / scale)
        fits = (np.abs(expected) < info.max) & (np.abs(expected) > info.tiny)
        room = 16 * info.eps * (np.abs(expected) + np.abs(expected).max())  # 24 numbers are added up, of either sign
        assert (np.abs(gradient[0] - expected) <= room)[fits].all(), k


def test_scales_compiled_and_recorded() -> None:
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    for k in (-90, 0, 90):
        s = np.float32(2.0**k)
        t = Tensor(x * s, requires_grad=True)

        def step(t: Tensor) -> Any:
            y = t.norm(axis=1)
            return y, t.std(), F.layer_norm(t, 6, eps=0.0), *tg.grad(y.sum() + t.std(), t, create_graph=True)

        compiled = tg.compile(step)
        for found in (step(t), [compiled(t) for _ in range(3)][-1]):
            for v, w, power in zip(found, step(Tensor(x, requires_grad=True)), (1, 1, 0, 0), strict=True):
                np.testing.assert_allclose(v.data / (s if power else 1), w.data, 4e-6, 1e-7)
        (g,) = tg.grad(t.norm(), t, create_graph=True)
        (h,) = tg.grad(g[0, 0], t)
        unit = x.astype(np.float64) / np.linalg.norm(x)
        expected = -unit[0, 0] * unit / np.linalg.norm(x)
        expected[0, 0] += 1 / np.linalg.norm(x)
        np.testing.assert_allclose(h.data.astype(np.float64) * float(s), expected, 1e-5, 1e-7)


def test_norm_at_0_and_beyond_the_numbers() -> None:
    t = Tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    assert [v.tolist() for v in (t.norm(1), *tg.grad(t.norm(1).sum(), t))] == [[0, 0], [[0] * 3] * 2]
    rows = np.array([[3e38, 3e38], [np.inf, 1], [np.nan, 1], [1e-45, 0], [3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(Tensor(rows).norm(1).data, np.array([np.inf, np.inf, np.nan, 1e-45, 5], np.float32))


# Scalars of NumPy's


SCALARS: dict[str, Callable[[Any, Any], Any]] = {
    "c * x": lambda x, c: c * x,
    "x / c": lambda x, c: x / c,
    "c - x": lambda x, c: c - x,
    "x ** c": lambda x, c: x**c,
    "c ** x": lambda x, c: c**x,
    "c // x": lambda x, c: c // x,
    "maximum": ops.maximum,
    "where": lambda x, c: ops.where(x > c, x, c),
    "clip": lambda x, c: ops.clip(x, None, c),
    "leaky_relu": ops.leaky_relu,
    "elu": ops.elu,
    "layer_norm": lambda x, c: F.layer_norm(x, 3, eps=c),
    "huber_loss": lambda x, c: F.huber_loss(x, x * 0, delta=c),
    "np.multiply": np.multiply,
    "in place": lambda x, c: (x * 1).__imul__(c),
}


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.longdouble, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("name", SCALARS)
def test_a_scalar_of_numpys_is_a_number(name: str, kind: Any) -> None:
    """The result is that of Python's number, of the dtype of the Tensor, eager and compiled."""
    f, c = SCALARS[name], kind(0.5) if issubclass(kind, np.floating) else kind(1)
    for dtype in ("float16", "float32", "float64"):
        x = Tensor(np.array([0.25, 0.5, 2.0]), dtype=dtype, requires_grad=True)
        if kind is np.bool_ and name in ("clip", "leaky_relu", "elu", "layer_norm", "huber_loss"):
            with pytest.raises(DTypeError, match=r"must be a number, got np\.True_"):
                f(x, c)
            continue
        found, expected = f(x, c), f(x, c.item() if kind is not np.longdouble else float(c))
        assert found.dtype == expected.dtype == x.dtype
        np.testing.assert_array_equal(found.data, expected.data)
    if name == "c * x":
        compiled = tg.compile(lambda x, c: f(x, c) + f(x, kind(1)))
        for _ in range(3):
            assert compiled(x, c).dtype == x.dtype


def test_arrays_and_tensors_without_axes_count() -> None:
    x = Tensor([1.0, 2.0])
    assert (
        (x * np.array(2.0)).dtype == (x * Tensor(np.array(2.0))).dtype == (x * x.astype("float64").mean()).dtype == np.float64
    )
    assert ops.mul(np.ones(2, np.float32), np.float64(2)).dtype == np.float64  # no Tensor: NumPy's rule
    with pytest.raises(DTypeError, match="mul: Python integer 300 out of bounds for int8"):
        Tensor(np.ones(2, np.int8)) * np.int64(300)


# Byte order


def test_arrays_of_the_other_byte_order() -> None:
    """As Tensors, operands, labels and of kernels: what native ones give."""
    x = np.linspace(-1, 1, 9000).astype(np.float32).reshape(90, 100)
    b = np.random.default_rng(0).normal(size=(100, 90)).astype(np.float32)  # not a's own transpose, of which BLAS adds up half
    for f in (ops.relu, ops.sum, ops.log_softmax, lambda a: ops.sum(a, 0), lambda a: a @ b, ops.norm, ops.tanh):
        for wrapped in (Tensor, lambda a: a):
            found, expected = f(wrapped(x.astype(">f4"))), f(wrapped(x))
            found, expected = (np.asarray(y.data if isinstance(y, Tensor) else y) for y in (found, expected))
            np.testing.assert_array_equal(found, expected)
            assert found.dtype.isnative or wrapped is not Tensor
    one, other = (np.asarray(a @ ops.transpose(a)) for a in (x.astype(">f4"), x))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)  # BLAS adds up otherwise where it knows of the symmetry
    z, t = Tensor(x, requires_grad=True), np.arange(90) % 7
    for loss in (F.cross_entropy, lambda z, t: F.cross_entropy(z, t, ignore_index=3), lambda z, t: z[t].sum(), ops.nll_loss):
        for dtype in (">i8", ">i4", ">u2"):
            np.testing.assert_array_equal(loss(z, t.astype(dtype)).data, loss(z, t).data)
            np.testing.assert_array_equal(tg.grad(loss(z, t.astype(dtype)), z)[0].data, tg.grad(loss(z, t), z)[0].data)
    y = z * x.astype(">f8")
    assert y.dtype == np.float64
    assert y.dtype.isnative
    assert Tensor([1.0], dtype=">f4").dtype.isnative
    assert Tensor([1.0]).astype(">f8").dtype.isnative


# bfloat16


@needs_bfloat16
def test_bfloat16_by_name() -> None:
    x = Tensor([1.5, -2.0], dtype="bfloat16", requires_grad=True)
    assert repr(x) == "Tensor([1.5, -2], dtype=bfloat16, requires_grad=True)"
    assert x.dtype == Tensor([1.0]).astype("bfloat16").dtype == Tensor([1.0]).to("bfloat16").dtype == BFLOAT16
    assert ops.one_hot([0, 1], 2, "bfloat16").dtype == BFLOAT16
    module = nn.Sequential(nn.Linear(2, 3, dtype="bfloat16"), nn.BatchNorm1d(3, dtype="bfloat16"))
    assert {v.dtype for v in module.state_dict().values()} == {BFLOAT16}
    assert {v.dtype for v in nn.Linear(2, 3).to(dtype="bfloat16").state_dict().values()} == {BFLOAT16}
    assert {v.dtype for v in module.to(dtype="float32").state_dict().values()} == {np.dtype(np.float32)}
    assert (x * Tensor([1.0, 2.0])).dtype == (x * Tensor([1.0, 2.0], dtype="float16")).dtype == np.float32
    assert (x * 2.0).dtype == (np.float64(2) * x).dtype == (x * np.ones(2, np.int8)).dtype == BFLOAT16
    (x * x).sum().backward()
    assert x.grad.tolist() == [3, -4]
    assert gradcheck(lambda x: (x * x).sum(), (x,))  # in float64


@needs_bfloat16
def test_bfloat16_is_not_saved(tmp_path: Any) -> None:
    from tensorgrad.data import storage

    for name in ("a.npz", "a.safetensors"):
        with pytest.raises(DTypeError, match=r"has dtype bfloat16, expected real numbers .*; convert it to float32"):
            storage.write(tmp_path / name, {"w": Tensor([1.0], dtype="bfloat16").data}, {})


def test_bfloat16_needs_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    for use in (lambda: Tensor([1.0], dtype="bfloat16"), lambda: nn.Linear(2, 2).to(dtype="bfloat16")):
        with pytest.raises(
            MissingDependencyError, match="bfloat16 needs ml_dtypes, which is not installed; pip install ml_dtypes"
        ):
            use()
    with pytest.raises(DTypeError, match="bfloat17"):
        Tensor([1.0], dtype="bfloat17")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_training_in_half_precision(dtype: str, compiled: bool) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4))
    y = (x[:, 0] > 0).astype(int)
    tg.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2)).to(dtype=dtype)
    sgd = optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        return loss

    run = tg.compile(step) if compiled else step
    losses = [run(Tensor(x, dtype=dtype), y).item() for _ in range(30)]
    assert losses[-1] < 0.2 < 0.5 < losses[0]
    assert {v.dtype for v in model.state_dict().values()} == {as_numpy(dtype)}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", [k for k in LOSSES if k is not nn.CTCLoss], ids=lambda kind: kind.__name__)  # see test_ctc
def test_losses_of_many_samples(kind: Any, dtype: str) -> None:
    """The mean over more than float16 can count, of each kind of loss: value, dtype and gradient."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(70_000, 2)).astype(as_numpy(dtype))
    t: Any = special.softmax(rng.normal(size=z.shape), axis=-1)
    if kind in (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss):
        t = rng.integers(0, 2, len(z))
    if kind is nn.BCELoss:
        z = special.expit(z.astype("f4")).astype(z.dtype)
    signs = rng.integers(0, 2, z.shape) * 2.0 - 1
    third = {
        nn.GaussianNLLLoss: [t + 0.5],
        nn.CosineEmbeddingLoss: [signs[:, 0]],
        nn.MarginRankingLoss: [signs],
        nn.TripletMarginLoss: [t[::-1]],
    }
    arrays = [z, *(a.astype(z.dtype) if a.dtype.kind == "f" else a for a in (t, *third.get(kind, [])))]
    in_float64 = [a if a.dtype.kind == "i" else a.astype(np.float64) for a in arrays]
    expected, slopes = differentiated(kind(), in_float64, [0])
    found, gradients = differentiated(kind(), arrays, [0])
    assert found.dtype == z.dtype
    assert_near(found.data, expected.data, TOLERANCE[dtype])
    assert_near(gradients[0], slopes[0], TOLERANCE[dtype], TOLERANCE[dtype] * np.abs(slopes[0]).max())


# Values far out, or none


FAR = [0.0, -0.0, 1e-310, 1e-30, -1e-30, 1e-8, 0.3, -0.3, 1.0, -1.0, 2.5, 9.0, -9.0, 40.0, -40.0, 100.0, -100.0, 745.0, -745.0,
       1e30, -1e30, 1e154, 1e300, -1e300, np.inf, -np.inf, np.nan]  # fmt: skip
NUMPYS = "abs arccos arcsin arctan cosh exp expm1 log log1p log2 sinh sqrt square tanh"
FAR_OUT: dict[str, Callable[[np.ndarray], Any]] = {
    **{n: getattr(np, n) for n in NUMPYS.split()},
    "reciprocal": lambda x: 1 / x,
    "erf": special.erf,
    "sigmoid": special.expit,
    "softplus": lambda x: -special.log_expit(-x),
    "logsigmoid": special.log_expit,
    "silu": lambda x: np.where(x == -np.inf, 0, x * special.expit(x)),
    "elu": lambda x: np.where(x > 0, x, special.expm1(x)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu": lambda x: np.where(x < 0, 0, x),
    "gelu": lambda x: np.where(x < -38, 0, x * special.ndtr(x)),
    "round": lambda x: np.where(np.abs(x) < 2**52, np.round(x), x),
}


@pytest.mark.parametrize("dtype", [*HALVES, "float32", "float64"])
@pytest.mark.parametrize("name", FAR_OUT)
def test_values_far_out(name: str, dtype: str) -> None:
    """SciPy's in float64, eager and compiled: to a few roundings, and to as many of 1 where the result is a difference."""
    x = np.array(FAR).astype(as_numpy(dtype))
    expected = np.asarray(FAR_OUT[name](x.astype(np.float64))).astype(as_numpy(dtype)).astype(np.float64)
    f, info = getattr(ops, name), backend.finfo(as_numpy(dtype))
    compiled = tg.compile(f)
    for found in (f(Tensor(x)), compiled(Tensor(x)), compiled(Tensor(x))):
        assert found.dtype == x.dtype
        # gelu: x (1 + erf) / 2, a difference; others of subnormal size are rounded to those, or to 0
        room = 4 * float(info.eps) if name == "gelu" else 4 * float(info.smallest_normal)
        np.testing.assert_allclose(found.data.astype(np.float64), expected, 8 * float(info.eps), room)


ROWS = [[1e30, 1, -1e30], [-np.inf, 1, 2], [-np.inf] * 3, [np.nan, 1, 2], [1e300, -1e300, 0], [0, 0, 0], [1e-30] * 3,
        [700, 710, -5], [1.7e308, 1.6e308, 1.5e308], [np.inf, 1, 2]]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "norm", "mean", "max", "min", "sum"])
def test_rows_far_out(name: str, dtype: str) -> None:
    rows = np.array(ROWS if name not in ("softmax", "log_softmax") else ROWS[:-1]).astype(dtype)
    if name in ("softmax", "log_softmax"):  # of an infinite logit it is no number
        rows = rows[~(rows == np.inf).any(1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "softmax": lambda: special.softmax(rows.astype(np.float64), -1),
            "log_softmax": lambda: special.log_softmax(rows.astype(np.float64), -1),
            "logsumexp": lambda: special.logsumexp(rows.astype(np.float64), -1),
            "norm": lambda: np.sqrt((rows.astype(np.longdouble) ** 2).sum(-1)),
        }.get(name, lambda: getattr(np, name)(rows.astype(np.longdouble), axis=-1))()
    found = getattr(ops, name)(Tensor(rows), -1).data
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected.astype(dtype), 4 * eps, eps)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_means_and_rounding_whose_steps_do_not_fit(dtype: str) -> None:
    large = float(np.finfo(dtype).max) * 0.9
    x = np.full((3, 4), large, dtype)
    for axis in (None, 0, 1):
        found = ops.mean(Tensor(x), axis).data.astype(np.float64)
        np.testing.assert_allclose(found, float(x[0, 0]), 4 * float(np.finfo(dtype).eps))
    np.testing.assert_array_equal(ops.round(Tensor(x), 3).data, x)
    assert not np.isfinite(ops.mean(Tensor(np.array([large, np.inf], dtype))).item())


def test_ops_say_what_they_are() -> None:
    """`real` and `exact` of an op, as the sweeps above found them: what is exact gives half precision back unchanged."""
    x = np.array([-1.5, 0.25, 3.0])
    for name, op in REGISTRY.items():
        assert isinstance(op, Op)
        if op.exact:
            assert name in ("astype", "cast")
    assert ops.astype(Tensor(x, dtype="float16"), "float16").tolist() == x.tolist()


@needs_bfloat16
def test_what_checks_say_of_bfloat16() -> None:
    model, x, t = (
        nn.Linear(4, 2, dtype="bfloat16"),
        Tensor(np.linspace(-1, 1, 20).reshape(5, 4), dtype="bfloat16"),
        labels(np.ones(10)),
    )

    def step(x: Any) -> Any:
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        return loss

    assert testing.check_compiled(step, x)
    assert testing.check_model(model, F.cross_entropy, x.numpy(), t)
    assert "bfloat16" in F.cross_entropy(model(x), t).graph(backward=True, values=True).dot


def test_scalars_of_numpys_come_to_a_compiled_step_as_numbers() -> None:
    """Each value is used, and may be made a Tensor, which then has its dtype; another one makes another plan."""

    def step(x: Any, c: Any) -> Any:
        return x * c, Tensor(c) * x, ops.greater(x, Tensor(c))

    compiled = tg.compile(step)
    x = Tensor(np.array([0.5, 2.0], np.float32))
    for c in (np.float64(1.5), np.float64(1.5), np.float32(1.5), np.float64(0.1), np.int64(1), np.True_, np.float64(1.5)):
        for found, expected in zip(compiled(x, c), step(x, c), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found.data, expected.data)
