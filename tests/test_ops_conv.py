"""Convolution and pooling against sums written out, and PyTorch's rules for what is left over."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy import signal

from tensorgrad import Tensor, ops
from tensorgrad.errors import DTypeError, ShapeError
from tensorgrad.testing import gradcheck

rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape)


def different(*shape: int) -> np.ndarray:
    """Numbers at least 0.1 apart, in any order: no ties within reach of a finite difference."""
    return rng.permutation(np.arange(float(np.prod(shape)))).reshape(shape) / 10


def convolved(x: np.ndarray, w: np.ndarray, stride: tuple[int, int], padding: tuple[int, int]) -> np.ndarray:
    """By SciPy's correlation of each image with each kernel."""
    wide = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    full = [
        [sum(signal.correlate2d(c, k, "valid") for c, k in zip(image, kernel, strict=True)) for kernel in w] for image in wide
    ]
    return np.array(full)[:, :, :: stride[0], :: stride[1]]


@pytest.mark.parametrize(
    ("x", "w", "stride", "padding"),
    [
        ((2, 3, 5, 6), (4, 3, 3, 2), 1, 0),
        ((1, 1, 4, 4), (1, 1, 4, 4), 1, 0),
        ((2, 2, 5, 4), (3, 2, 1, 1), 1, 0),
        ((2, 2, 6, 7), (3, 2, 3, 3), 2, 1),
        ((1, 2, 6, 7), (2, 2, 2, 3), (3, 2), (0, 2)),
        ((1, 1, 2, 2), (1, 1, 3, 3), 1, 1),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_conv2d(x: Any, w: Any, stride: Any, padding: Any, bias: bool) -> None:
    arrays = (draw(*x), draw(*w)) + ((draw(w[0]),) if bias else ())

    def conv(x: Any, w: Any, b: Any = None) -> Any:
        return ops.conv2d(x, w, b, stride, padding)

    expected = convolved(*arrays[:2], *(p if isinstance(p, tuple) else (p, p) for p in (stride, padding)))
    expected = expected + (arrays[2].reshape(-1, 1, 1) if bias else 0)
    found = conv(*[Tensor(a, True) for a in arrays])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.data, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(conv(*arrays), found.data)
    gradcheck(conv, (*arrays,), order=2)


def test_conv2d_is_one_matrix_product_and_keeps_float32() -> None:
    x, w, b = (Tensor(draw(*shape).astype(np.float32), True) for shape in [(2, 3, 5, 5), (4, 3, 3, 3), (4,)])
    y = ops.conv2d(x, w, b, padding=1)
    seen, stack = set(), [y.node]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(i for i in node.inputs if not isinstance(i, Tensor | float | int))
    assert sum(node.op.name == "matmul" for node in seen) == 1
    y.sum().backward()
    assert {y.dtype, x.grad.dtype, w.grad.dtype, b.grad.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("n", "c", "o"), [(0, 2, 3), (2, 0, 3), (2, 2, 0)])
def test_conv2d_without_elements(n: int, c: int, o: int) -> None:
    x, w = Tensor(draw(n, c, 4, 4), True), Tensor(draw(o, c, 3, 3), True)
    y = ops.conv2d(x, w)
    assert y.shape == (n, o, 2, 2)
    np.testing.assert_array_equal(y.data, np.zeros(y.shape))
    y.sum().backward()
    assert (x.grad.shape, w.grad.shape) == (x.shape, w.shape)


POOLS = [
    ((2, 3, 4, 6), 2, None),
    ((1, 2, 5, 5), 2, None),  # a row and a column are left over
    ((1, 2, 5, 6), (2, 3), (1, 2)),  # windows overlap
    ((1, 1, 7, 7), 2, 3),  # gaps between them
    ((2, 1, 3, 3), 3, None),
    ((0, 1, 3, 3), 2, None),
]


@pytest.mark.parametrize(("shape", "size", "stride"), POOLS)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pools(shape: Any, size: Any, stride: Any, kind: str) -> None:
    x = different(*shape)
    (kh, kw), (sh, sw) = (p if isinstance(p, tuple) else (p, p) for p in (size, size if stride is None else stride))
    pool, reduce = (ops.max_pool2d, np.max) if kind == "max" else (ops.avg_pool2d, np.mean)
    rows, columns = range(0, shape[2] - kh + 1, sh), range(0, shape[3] - kw + 1, sw)
    expected = np.zeros((*shape[:2], len(rows), len(columns)))
    for n, c, p, q in np.ndindex(expected.shape):
        expected[n, c, p, q] = reduce(x[n, c, rows[p] : rows[p] + kh, columns[q] : columns[q] + kw])
    found = pool(x, size, stride)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    gradcheck(lambda x: pool(x, size, stride), x, order=2)


def test_first_of_equals_gets_the_gradient() -> None:
    x = Tensor(np.zeros((1, 1, 2, 4)), True)
    ops.max_pool2d(x, 2).backward(np.array([[[[3.0, 5.0]]]]))
    np.testing.assert_array_equal(x.grad.data, [[[[3, 0, 5, 0], [0, 0, 0, 0]]]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.conv2d(draw(2, 3, 4, 4), draw(5, 2, 3, 3)),
            ShapeError,
            "conv2d: input (2, 3, 4, 4) and weight (5, 2, 3, 3) do not fit; expected (n,c,h,w),(o,c,kh,kw)",
        ),
        (lambda: ops.conv2d(draw(3, 4, 4), draw(5, 3, 3, 3)), ShapeError, "conv2d: input (3, 4, 4) and weight"),
        (
            lambda: ops.conv2d(draw(1, 1, 4, 4), draw(2, 1, 3, 3), draw(1)),
            ShapeError,
            "conv2d: bias has shape (1,), expected (2,) for weight (2, 1, 3, 3)",
        ),
        (
            lambda: ops.conv2d(draw(1, 1, 2, 4), draw(2, 1, 5, 3), padding=1),
            ShapeError,
            "conv2d: a window of (5, 3) does not fit into (2, 4) with padding (1, 1)",
        ),
        (lambda: ops.max_pool2d(draw(1, 1, 2, 4), 3), ShapeError, "max_pool2d: a window of (3, 3) does not fit into (2, 4)"),
        (lambda: ops.avg_pool2d(draw(2, 4), 2), ShapeError, "avg_pool2d: input has shape (2, 4), expected (n,c,h,w)"),
        (lambda: ops.max_pool2d(draw(1, 1, 4, 4), 2, 0), ValueError, "max_pool2d: stride must be at least 1, got 0"),
        (
            lambda: ops.conv2d(draw(1, 1, 4, 4), draw(1, 1, 2, 2), padding=-1),
            ValueError,
            "conv2d: padding must be at least 0, got -1",
        ),
        (
            lambda: ops.avg_pool2d(draw(1, 1, 4, 4), 2.0),
            DTypeError,
            "avg_pool2d: size must be one whole number or two, got 2.0",
        ),
        (lambda: ops.avg_pool2d(draw(1, 1, 4, 4), (1, 2, 3)), DTypeError, "avg_pool2d: size must be one whole number or two"),
        (lambda: ops.windows2d(draw(4, 4), (2, 2)), ShapeError, "windows2d: argument 0 has shape (4, 4), expected"),
        (
            lambda: ops.fold2d(draw(1, 2, 2, 1, 2, 2), (4, 4)),
            ShapeError,
            "fold2d: 2 by 2 windows of 2 by 2 are not those of (4, 4) with stride (1, 1), padding (0, 0)",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
