"""Convolution and pooling against sums written out, and PyTorch's rules for what is left over."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

import tensorgrad
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
            "conv2d: input (2, 3, 4, 4) and weight (5, 2, 3, 3) are incompatible; expected (n,c,h,w),(o,c,kh,kw)",
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
            "avg_pool2d: kernel_size must be an integer or two, got 2.0",
        ),
        (
            lambda: ops.avg_pool2d(draw(1, 1, 4, 4), (1, 2, 3)),
            DTypeError,
            "avg_pool2d: kernel_size must be an integer or two",
        ),
        (
            lambda: ops.windows(draw(4, 4), (2, 2)),
            ShapeError,
            "windows: x has shape (4, 4), expected 4 axes for a kernel (2, 2)",
        ),
        (lambda: ops.fold(draw(4, 4), (2, 2)), ShapeError, "fold: x has shape (4, 4), expected 6 axes for a size (2, 2)"),
        (
            lambda: ops.fold(draw(1, 2, 2, 1, 2, 2), (4, 4)),
            ShapeError,
            "fold: (2, 2) windows of (2, 2) do not match size (4, 4) with stride (1, 1), padding (0, 0), dilation (1, 1)",
        ),
        (
            lambda: ops.conv2d(draw(1, 1, 4, 4), draw(1, 1, 3, 3), dilation=2),
            ShapeError,
            "conv2d: a window of (3, 3) with dilation (2, 2) does not fit into (4, 4)",
        ),
        (
            lambda: ops.conv1d(draw(1, 3, 4), draw(4, 2, 2), groups=2),
            ShapeError,
            "conv1d: input (1, 3, 4) and weight (4, 2, 2) are incompatible; expected (n,c,l),(o,c/2,k)",
        ),
        (lambda: ops.conv1d(draw(1, 4, 4), draw(3, 2, 2), groups=2), ShapeError, "conv1d: 3 outputs are not divisible into 2"),
        (lambda: ops.conv_transpose1d(draw(1, 3, 4), draw(3, 2, 2), groups=2), ShapeError, "3 channels are not divisible"),
        (
            lambda: ops.conv2d(draw(1, 1, 4, 4), draw(1, 1, 2, 2), padding="full"),
            ValueError,
            'conv2d: padding must be integers, "same" or "valid", got \'full\'',
        ),
        (
            lambda: ops.conv2d(draw(1, 1, 4, 4), draw(1, 1, 2, 2), None, (1, 2), "same"),
            ValueError,
            'conv2d: padding "same" needs stride 1, got stride (1, 2)',
        ),
        (
            lambda: ops.conv_transpose2d(draw(1, 2, 4, 4), draw(3, 1, 2, 2)),
            ShapeError,
            "conv_transpose2d: input (1, 2, 4, 4) and weight (3, 1, 2, 2) are incompatible; expected (n,c,h,w),(c,o,kh,kw)",
        ),
        (
            lambda: ops.conv_transpose1d(draw(1, 1, 4), draw(1, 1, 2), stride=2, output_padding=2),
            ValueError,
            "conv_transpose1d: output_padding must be less than the stride (2,), got (2,)",
        ),
        (
            lambda: ops.conv_transpose1d(draw(1, 1, 2), draw(1, 1, 2), padding=2),
            ShapeError,
            "conv_transpose1d: the result of input (1, 1, 2) with weight (1, 1, 2) would have size (-1,)",
        ),
        (
            lambda: ops.max_pool1d(draw(1, 1, 4), 2, padding=2),
            ValueError,
            "max_pool1d: padding must be at most half of a window (2,), got (2,)",
        ),
        (
            lambda: ops.adaptive_avg_pool2d(draw(1, 1, 4, 4), (2, 2, 2)),
            DTypeError,
            "adaptive_avg_pool2d: output_size must be an integer or two, got (2, 2, 2)",
        ),
        (lambda: ops.adaptive_max_pool1d(draw(1, 1, 0), 1), ShapeError, "input has shape (1, 1, 0), which is empty"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


# Over one, two or three axes


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[int, dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    """How many axes, the settings, the shape of x, that of the weight."""
    axes, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    numbers = st.tuples(*[st.integers(1, 4 - axes // 2)] * axes)
    kernel, stride, dilation, extra = (draw(numbers) for _ in range(4))
    padding = draw(st.tuples(*[st.integers(0, 2)] * axes))
    grid = zip(kernel, dilation, padding, extra, strict=True)
    size = tuple(max(d * (k - 1) + e - 2 * p, 1) for k, d, p, e in grid)
    if any(n + 2 * p < d * (k - 1) + 1 for n, k, d, p in zip(size, kernel, dilation, padding, strict=True)):
        size = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    channels, out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return axes, options, (draw(st.integers(1, 2)), channels, *size), (out, channels // groups, *kernel)


def written_out(x: np.ndarray, w: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    """By SciPy's correlation with kernels that have zeros between their elements."""
    axes = x.ndim - 2
    wide = np.zeros((*w.shape[:2], *[d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]))
    wide[(slice(None), slice(None), *[slice(None, None, d) for d in dilation])] = w
    x = np.pad(x, ((0, 0), (0, 0), *[(p, p) for p in padding]))
    own, per = x.shape[1] // groups, len(w) // groups
    rows = []
    for image in x:
        parts = [(image[o // per * own : (o // per + 1) * own], wide[o]) for o in range(len(w))]
        rows.append([sum(signal.correlate(c, k, "valid") for c, k in zip(cs, ks, strict=True)) for cs, ks in parts])
    return np.array(rows)[(slice(None), slice(None), *[slice(None, None, s) for s in stride])] if axes else np.array(rows)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolutions_over_some_axes(case: Any) -> None:
    axes, options, shape, kernel = case
    x, w, b = draw(*shape), draw(*kernel), draw(kernel[0])
    found = getattr(ops, f"conv{axes}d")(x, w, b, **options)
    expected = written_out(x, w, **options) + b.reshape(-1, *(1,) * axes)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_the_transpose_is_the_transpose(case: Any) -> None:
    """sum(conv(x) * y) = sum(x * transpose(y)) for every x and y, with what the stride leaves over as output_padding."""
    axes, options, shape, kernel = case
    x, w = draw(*shape), draw(*kernel)
    y = getattr(ops, f"conv{axes}d")(x, w, **options)
    names = ("stride", "padding", "dilation")
    spans = zip(shape[2:], kernel[2:], *[options[n] for n in names], strict=True)
    left = tuple((n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in spans)
    g = draw(*y.shape)
    back = getattr(ops, f"conv_transpose{axes}d")(g, w, output_padding=left, **options)
    assert back.shape == x.shape
    np.testing.assert_allclose((y * g).sum(), (x * back).sum(), rtol=1e-9, atol=1e-9)
    (gx,) = tensorgrad.grad(getattr(ops, f"conv{axes}d")(leaf := Tensor(x, True), w, **options), leaf, Tensor(g))
    np.testing.assert_allclose(gx.data, back, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"])
def test_their_gradients(name: str) -> None:
    axes = int(name[-2])
    x, w, b = draw(1, 4, *(3,) * axes), draw(4, 1, *(2,) * axes), draw(2 if "transpose" in name else 4)
    options: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 4}
    if "transpose" in name:
        options |= {"output_padding": 1, "groups": 2}
    gradcheck(lambda x, w, b: getattr(ops, name)(x, w, b, **options), (x, w, b), order=2 if axes < 3 else 1)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [(1, 2), (3, 4)])
def test_padding_by_its_name(kernel: Any, dilation: int) -> None:
    x, w = draw(2, 2, 6, 7), draw(3, 2, *kernel)
    same = ops.conv2d(x, w, padding="same", dilation=dilation)
    assert same.shape == (2, 3, 6, 7)
    around = [dilation * (k - 1) for k in kernel]
    wide = np.pad(x, ((0, 0), (0, 0), *[(n // 2, n - n // 2) for n in around]))
    np.testing.assert_allclose(same, ops.conv2d(wide, w, dilation=dilation), rtol=1e-12)
    np.testing.assert_array_equal(ops.conv2d(x, w, padding="valid"), ops.conv2d(x, w))
    gradcheck(lambda x, w: ops.conv2d(x, w, padding="same", dilation=dilation), (x, w))


def regions(n: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> list[list[int]]:
    """Which elements each window of a pool has, in x with what is around it; written as PyTorch describes it."""
    found, at = [], -p
    while at + d * (k - 1) < n + p or (ceil_mode and at < n and at + d * (k - 1) < n + p + s - 1):
        found.append([at + d * i for i in range(k)])
        at += s
    return found


@settings(max_examples=80, deadline=None)
@given(convolutions(), st.booleans(), st.booleans(), st.booleans())
def test_pools_over_some_axes(case: Any, is_max: bool, ceil_mode: bool, whole: bool) -> None:
    axes, options, shape, weight = case
    kernel, stride, dilation = weight[2:], options["stride"], options["dilation"] if is_max else (1,) * axes
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(min(p, n // 2) for p, n in zip(options["padding"], spans, strict=True))
    x = different(*shape)
    grid = list(zip(shape[2:], kernel, stride, padding, dilation, strict=True))
    if any(n + 2 * p < d * (k - 1) + 1 for n, k, s, p, d in grid):
        return
    areas = [regions(*settings, ceil_mode) for settings in grid]
    if is_max:
        found = getattr(ops, f"max_pool{axes}d")(x, kernel, stride, padding, dilation, ceil_mode)
    else:
        found = getattr(ops, f"avg_pool{axes}d")(x, kernel, stride, padding, ceil_mode, whole)
    assert found.shape == (*shape[:2], *map(len, areas))
    for at in np.ndindex(found.shape[2:]):
        places = [area[i] for area, i in zip(areas, at, strict=True)]
        inside = [[i for i in part if 0 <= i < n] for part, n in zip(places, shape[2:], strict=True)]
        values = x[(slice(None), slice(None), *np.ix_(*inside))].reshape(*shape[:2], -1)
        if is_max:
            expected = values.max(-1, initial=-np.inf)  # between elements that are apart there may be none
        else:
            counted = [[i for i in part if i < n + p] for part, n, p in zip(places, shape[2:], padding, strict=True)]
            expected = values.sum(-1) / np.prod([len(part) for part in (counted if whole else inside)])
        np.testing.assert_allclose(found[(slice(None), slice(None), *at)], expected, rtol=1e-12, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3), st.booleans())
def test_adaptive_pools(sizes: list[tuple[int, int]], is_max: bool) -> None:
    axes, kind = len(sizes), "max" if is_max else "avg"
    x = different(2, 1, *[n for n, _ in sizes])
    found = getattr(ops, f"adaptive_{kind}_pool{axes}d")(x, tuple(m for _, m in sizes))
    assert found.shape == (2, 1, *[m for _, m in sizes])
    for at in np.ndindex(found.shape[2:]):
        area = [slice(i * n // m, -((i + 1) * n // -m)) for i, (n, m) in zip(at, sizes, strict=True)]
        values = x[(slice(None), slice(None), *area)].reshape(2, 1, -1)
        expected = values.max(-1) if is_max else values.mean(-1)
        np.testing.assert_allclose(found[(slice(None), slice(None), *at)], expected, rtol=1e-12)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: ops.max_pool2d(x, 2, 2, 1, 1, True),
        lambda x: ops.avg_pool2d(x, 3, 2, 1, True),
        lambda x: ops.avg_pool2d(x, 3, 2, 1, False, False),
        lambda x: ops.adaptive_avg_pool2d(x, (3, 2)),
        lambda x: ops.adaptive_max_pool2d(x, (3, None)),
    ],
)
def test_pools_have_gradients_and_are_compiled(pool: Any) -> None:
    x = different(1, 2, 5, 4)
    gradcheck(pool, x, order=2)
    w = Tensor(np.ones(x.shape), True)
    step = tensorgrad.compile(lambda x: tensorgrad.grad((pool(x * w) ** 2).sum(), w)[0])
    expected = (pool(x) ** 2).sum()
    for _ in range(3):
        np.testing.assert_allclose((step(x).data).sum(), 2 * expected, rtol=1e-12)
    assert not step.why_not
    for dtype in (np.float32, np.float16):
        assert pool(x.astype(dtype)).dtype == dtype
    np.testing.assert_allclose(pool((x * 10).astype(np.int64)), pool(x) * 10, rtol=1e-12)


def test_the_first_of_equals_in_areas_that_overlap() -> None:
    x = Tensor(np.zeros((1, 1, 3, 3)), True)
    ops.adaptive_max_pool2d(x, 2).backward(np.array([[[[1.0, 2.0], [4.0, 8.0]]]]))
    np.testing.assert_array_equal(x.grad.data, [[[[1, 2, 0], [4, 8, 0], [0, 0, 0]]]])
    x = Tensor(np.array([[[[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]]]), True)  # row by row, not column by column
    ops.adaptive_max_pool2d(x, 2).backward(np.array([[[[1.0, 2.0], [4.0, 8.0]]]]))
    np.testing.assert_array_equal(x.grad.data, [[[[0, 3, 0], [4, 8, 0], [0, 0, 0]]]])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"padding": 1}, [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        ({"padding": 1, "dilation": 2}, [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
        ({"padding": 1, "ceil_mode": True}, [[1, 2, 0, 3], [4, 5, 0, 6], [0, 0, 0, 0], [7, 8, 0, 9]]),
    ],
)
def test_windows_of_minus_infinity(settings: Any, expected: Any) -> None:
    """The first element that is in x has the gradient, not one of the padding; PyTorch 2.13 gives these."""
    x = Tensor(np.full((1, 1, 4, 4), -np.inf), True)
    y = ops.max_pool2d(x, 3, 2, **settings)
    np.testing.assert_array_equal(y.data, -np.inf)
    y.backward(np.arange(1.0, 1 + y.size).reshape(y.shape))
    np.testing.assert_array_equal(x.grad.data[0, 0], expected)


def test_a_window_beyond_an_edge_is_less_than_any_number() -> None:
    """With gaps it may have no element in x at all."""
    x = Tensor(np.ones((1, 1, 1)), True)
    y = ops.max_pool1d(x, 2, 1, 1, 2)
    np.testing.assert_array_equal(y.data, [[[-np.inf]]])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, 0)
    np.testing.assert_array_equal(ops.max_pool1d(np.ones((1, 1, 1), int), 2, 1, 1, 2), [[[np.iinfo(int).min]]])
