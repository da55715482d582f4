"""D: reductions of every dtype and of many numbers are as exact as the step's own. Oracle: NumPy in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor
from tensorgrad.nn import functional as F
from tests.compiled import KERNELS, kernels

REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda x, axis: x.sum(axis),
    "mean": lambda x, axis: x.mean(axis),
    "max": lambda x, axis: x.max(axis),
    "min": lambda x, axis: x.min(axis),
    "prod": lambda x, axis: x.prod(axis),
    "var": lambda x, axis: x.var(axis),
    "std": lambda x, axis: x.std(axis),
    "any": lambda x, axis: x.any(axis),
    "all": lambda x, axis: x.all(axis),
    "mean of a product": lambda x, axis: (x * x).mean(axis),
    "sum of a product": lambda x, axis: (x * x).sum(axis),
    "mean of twice": lambda x, axis: (x * 2).mean(axis),
    "max of twice": lambda x, axis: (x * 2).max(axis),
}
OTHER: dict[str, Callable[[Any, Any], Any]] = {
    "argmax": lambda x, axis: x.argmax(axis),
    "argmin": lambda x, axis: x.argmin(axis),
    "cumsum": lambda x, axis: x.cumsum(axis),
}
DTYPES = ["bool", "int8", "uint8", "int64", "float16", "float32", "float64"]


def drawn(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    return (rng.uniform(0, 3, shape) if dtype[0] != "f" else rng.normal(size=shape)).astype(dtype)


def applies(name: str, axis: Any, dtype: str) -> bool:
    """Some take one axis, and a product of integers wraps around."""
    return not (name in OTHER and isinstance(axis, tuple)) and (name != "prod" or dtype in ("float32", "float64"))


@pytest.mark.parametrize(
    ("name", "axis", "dtype"),
    [case for case in itertools.product([*REDUCTIONS, *OTHER], [None, 0, -1, (0, 2)], DTYPES) if applies(*case)],
    ids=str,
)
def test_reductions(name: str, axis: Any, dtype: str) -> None:
    """Values are NumPy's in float64, to the dtype's rounding; dtypes are the step's; NaN and infinities, too."""
    reduce = (REDUCTIONS | OTHER)[name]
    with np.errstate(all="ignore"):
        compiled = tg.compile(lambda x: reduce(x, axis))
        for change in (1, 1, 1, 1, *((np.nan, np.inf, -np.inf, -0.0) if dtype[0] == "f" else ())):
            x = drawn(dtype, (4, 3, 5))
            x[1, 2, 3] = change
            found, own = compiled(x), reduce(Tensor(x), axis)
            assert found.dtype == own.dtype
            expected = reduce(x.astype("float64") if own.dtype.kind == "f" else x, axis)
            unit = float(np.finfo(own.dtype).eps) if own.dtype.kind == "f" else 0
            np.testing.assert_allclose(found.numpy(), expected, 8 * unit, 30 * unit)


@pytest.mark.parametrize("axis", [None, 0], ids=["of all", "of columns"])
@pytest.mark.parametrize("name", ["mean", "mean of twice", "var", "max"])
def test_half_precision_is_added_up_in_single(name: str, axis: Any) -> None:
    """The sum of these is beyond float16, their mean is not."""
    x = np.tile(np.array([[100, 60]], "float16"), (1500, 1))
    compiled = tg.compile(lambda x: REDUCTIONS[name](x, axis))
    for _ in range(4):
        found = compiled(x)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found.numpy(), REDUCTIONS[name](x.astype("float64"), axis), 1e-3)


@pytest.mark.parametrize("loss", ["mse_loss", "l1_loss", "huber_loss", "cross_entropy", "binary_cross_entropy_with_logits"])
def test_losses_of_half_precision(loss: str) -> None:
    """The losses add up to more than float16 has, their mean is small."""
    rng = np.random.default_rng(0)
    n = 1000 if loss == "cross_entropy" else 4000
    z = (rng.normal(size=(n, 4)) * 20).astype("float16")
    target: Any = rng.integers(0, 4, n) if loss == "cross_entropy" else (rng.random((n, 4)) < 0.5).astype("float16")
    compiled = tg.compile(lambda z, t: getattr(F, loss)(z, t))
    expected = getattr(F, loss)(Tensor(z.astype("float64")), target.astype("float64") if target.ndim > 1 else target).item()
    eager = getattr(F, loss)(Tensor(z), Tensor(target)).item()
    for _ in range(4):
        found = compiled(z, target).item()
        assert abs(found - expected) <= max(2 * abs(eager - expected), 2e-3 * expected)


MANY: dict[str, Callable[[Any, Any], Any]] = {
    "mean of squares": lambda x, y: (x * x).mean(),
    "sum of squares": lambda x, y: (x**2).sum(),
    "square": lambda x, y: x.square().sum(),
    "sum of products": lambda x, y: (x * y).sum(),
    "sum": lambda x, y: x.sum(),
    "mean": lambda x, y: (x * 2).mean(),
    "norm": lambda x, y: x.norm(),
    "variance": lambda x, y: x.var(),
    "mse": F.mse_loss,
    "huber": F.huber_loss,
    "l1": F.l1_loss,
    "exp": lambda x, y: x.exp().sum(),
}


@pytest.mark.parametrize(("name", "n"), [("mean of squares", 10_000_000), *[(name, 3_000_000) for name in MANY]])
def test_sums_of_many_numbers(name: str, n: int) -> None:
    """NumPy adds up in pairs: some units in the last place, of however many numbers."""
    rng = np.random.default_rng(0)
    compiled = tg.compile(MANY[name])
    x, y = (rng.random(n, dtype="float32") for _ in range(2))
    expected = MANY[name](Tensor(x.astype("float64")), Tensor(y.astype("float64"))).item()
    for _ in range(3):
        assert abs(compiled(x, y).item() / expected - 1) < 5e-7


COLUMNS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: x.sum(0),
    "mean": lambda x: (x * 2).mean(0),
    "sum of squares": lambda x: (x * x).sum(0),
    "sum of exp": lambda x: np.exp(x).sum(0),
    "sum, kept": lambda x: (x * 2).sum(0, keepdims=True),
    "of rows": lambda x: (x * x).sum(1),
}


@KERNELS
@pytest.mark.parametrize("shape", [(3_000_000, 1), (1_000_000, 3), (300_000, 10), (10, 300_000), (2, 1_500_000)], ids=str)
@pytest.mark.parametrize("name", COLUMNS)
def test_sums_of_long_columns(name: str, shape: tuple[int, int], numba: bool) -> None:
    """As exact as the step, whose own columns are added up one after the other."""
    x = np.random.default_rng(0).random(shape, dtype="float32")
    expected = COLUMNS[name](x.astype("float64"))
    own = np.abs(COLUMNS[name](Tensor(x)).numpy() / expected - 1).max()
    with kernels(numba):
        compiled = tg.compile(COLUMNS[name])
        for _ in range(3):
            assert np.abs(compiled(x).numpy() / expected - 1).max() <= 2 * own + 1e-5
