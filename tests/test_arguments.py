"""What functions are handed wrongly, or rightly but rarely: axes, sizes, numbers, and what is none of them.

The table CALLS has one right call of every function of `ops` and `nn.functional`; the sweeps put something else in the place of
each of its arguments.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import tensorgrad
from tensorgrad import Tensor, nn, ops
from tensorgrad.core import backend
from tensorgrad.errors import ArgumentError, DeviceMemoryError, DTypeError, GraphError, ShapeError, TensorgradError
from tensorgrad.nn import functional as F
from tensorgrad.op import Op

THOROUGH = bool(os.environ.get("TENSORGRAD_THOROUGH"))

X = np.arange(6.0).reshape(2, 3) / 10
SQUARE = np.array([[2.0, 0.3], [0.3, 1.5]])
IMAGES = np.random.default_rng(0).normal(size=(2, 3, 4, 5))


def of_axes(n: int) -> np.ndarray:
    """Images with n axes."""
    return np.ones((2, 3, 4, 4, 4)[: n + 2])


LABELS = np.array([0, 2])
REDUCED = {"axis": 1, "keepdims": True}

CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "reshape": ((X, (3, 2)), {}),
    "transpose": ((X, (1, 0)), {}),
    "broadcast_to": ((X, (4, 2, 3)), {}),
    "swapaxes": ((X, 0, 1), {}),
    "concatenate": (([X, X], 1), {}),
    "stack": (([X, X], 1), {}),
    "split": ((X, 3, 1), {}),
    "flip": ((X, 1), {}),
    "roll": ((X, 1, 1), {}),
    "repeat": ((X, 2, 1), {}),
    "tile": ((X, (2, 1)), {}),
    "pad": ((X, 1, 2.0, "constant"), {}),
    "take": ((X, np.array([0, 1]), 1), {}),
    "take_along_axis": ((X, np.array([[0], [1]]), 1), {}),
    "diagonal": ((X, 0, 0, 1), {}),
    "trace": ((X, 0, 0, 1), {}),
    "tril": ((X, 0), {}),
    "triu": ((X, 0), {}),
    "flatten": ((X, 0, 1), {}),
    "squeeze": ((X[:, :1], 1), {}),
    "expand_dims": ((X, 1), {}),
    "moveaxis": ((X, 0, 1), {}),
    "getitem": ((X, (0, 1)), {}),
    "setitem": ((X, 1.0, (0, 1)), {}),
    "put": ((X, (slice(0, 2), slice(0, 3)), (3, 4)), {}),
    "sum_to": ((X, (1, 3)), {}),
    **{
        name: ((X,), REDUCED)
        for name in ("sum", "mean", "max", "min", "prod", "norm", "logsumexp", "any", "all", "argmax", "argmin")
    },
    "cumsum": ((X, 1), {}),
    "cumprod": ((X, 1), {}),
    "cummax": ((X, 1), {}),
    "cummin": ((X, 1), {}),
    "logcumsumexp": ((X, 1), {}),
    "diff": ((X, 1, 1), {}),
    "argsort": ((X, 1), {}),
    "sort": ((X, 1), {}),
    "topk": ((X, 1, 1, False), {}),
    "quantile": ((X, 0.25), REDUCED),
    "median": ((X,), REDUCED),
    "ptp": ((X,), REDUCED),
    "average": ((X, 1, np.ones(3)), {"keepdims": True}),
    "nan_to_num": ((X,), {"nan": 0.0, "posinf": 1.0, "neginf": -1.0}),
    "kron": ((X, X), {}),
    "cross": ((X, X), {"axis": 1}),
    "diag": ((X, 0), {}),
    "vstack": (([X, X],), {}),
    "hstack": (([X, X],), {}),
    "column_stack": (([X, X],), {}),
    "zeros": (((2, 3), "float64"), {"requires_grad": True, "device": "cpu"}),
    "ones": (((2, 3), "float64"), {"requires_grad": True, "device": "cpu"}),
    "full": (((2, 3), 1.5, "float64"), {"requires_grad": True, "device": "cpu"}),
    "zeros_like": ((X, "float32"), {"requires_grad": True}),
    "ones_like": ((X, "float32"), {"requires_grad": True}),
    "full_like": ((X, 1.5, "float32"), {"requires_grad": True}),
    "eye": ((2, 3, 1, "float64"), {"requires_grad": True, "device": "cpu"}),
    "arange": ((0, 6, 2, "float64"), {"requires_grad": True, "device": "cpu"}),
    "linspace": ((0.0, 1.0, 5, "float64"), {"requires_grad": True, "device": "cpu"}),
    "meshgrid": ((X[0], X[1]), {"indexing": "ij"}),
    "rand": (((2, 3), "float64"), {"rng": None, "requires_grad": True, "device": "cpu"}),
    "randn": (((2, 3), "float64"), {"rng": None, "requires_grad": True, "device": "cpu"}),
    "std": ((X, 1, 0, True), {}),
    "var": ((X, 1, 0, True), {}),
    "softmax": ((X, 1), {}),
    "log_softmax": ((X, 1), {}),
    "one_hot": ((LABELS, 3, np.float32), {}),
    "nll_loss": ((X, LABELS), {}),
    "softmax_cross_entropy": ((X, LABELS), {"scale": 0.5}),
    "softmax_cross_entropy_grad": ((1.0, X, LABELS), {"scale": 0.5}),
    "sigmoid_cross_entropy": ((X, X, X), {"scale": 0.5}),
    "sigmoid_cross_entropy_grad": ((1.0, X, X, X), {"scale": 0.5}),
    "leaky_relu": ((X, 0.1), {}),
    "elu": ((X, 1.0), {}),
    "gelu": ((X, "none"), {}),
    "hardtanh": ((X, -1.0, 1.0), {}),
    "clip": ((X, -1.0, 1.0), {}),
    "logsigmoid": ((X,), {}),
    "round": ((X, 1), {}),
    "astype": ((X, np.float32), {}),
    "cast": ((X, np.int64), {}),
    "to_device": ((X, "cpu"), {}),
    "einsum": (("ij,jk->ik", X, X.T), {}),
    "tensordot": ((X, X.T, 1), {}),
    "dot": ((X, X.T), {}),
    "outer": ((X, X), {}),
    "matmul": ((X, X.T), {}),
    "qr": ((SQUARE, "reduced"), {}),
    "svd": ((SQUARE, False), {}),
    "eigh": ((SQUARE,), {}),
    "solve": ((SQUARE, SQUARE), {}),
    "slogdet": ((SQUARE,), {}),
    "where": ((X > 0.2, X, X), {}),
    "windows": ((IMAGES, (2, 2), (1, 1), (0, 0), (1, 1)), {}),
    "fold": ((np.ones((3, 2, 2, 2, 3, 4)), (4, 5), (1, 1), (0, 0), (1, 1)), {}),
    **{f"conv{n}d": ((of_axes(n), np.ones((2, 3) + (2,) * n), np.ones(2), 1, 1, 1, 1), {}) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": ((of_axes(n), np.ones((3, 2) + (2,) * n), np.ones(2), 2, 0, 1, 1, 1), {}) for n in (1, 2, 3)},
    **{f"max_pool{n}d": ((of_axes(n), 2, 2, 1, 1, True), {}) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": ((of_axes(n), 2, 2, 1, True, True), {}) for n in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{n}d": ((of_axes(n), 2), {}) for n in (1, 2, 3) for kind in ("max", "avg")},
    "dropout": ((X, 0.5, True, None), {}),
    "layer_norm": ((X, 3, np.ones(3), np.ones(3), 1e-5), {}),
    "batch_norm": ((X, np.zeros(3), np.ones(3), np.ones(3), np.ones(3), True, 0.1, 1e-5), {}),
    "embedding": ((np.array([0, 1]), X), {}),
    "cross_entropy": ((X, LABELS, np.ones(3)), {"ignore_index": -1, "label_smoothing": 0.1, "reduction": "sum"}),
    "mse_loss": ((X, X), {"reduction": "sum"}),
    "l1_loss": ((X, X), {"reduction": "sum"}),
    "huber_loss": ((X, X), {"delta": 1.0, "reduction": "sum"}),
    "kl_div": ((X, X), {"reduction": "sum"}),
    "binary_cross_entropy_with_logits": ((X, X, np.ones(3)), {"pos_weight": np.ones(3), "reduction": "sum"}),
    "alpha_dropout": ((X, 0.5, True, None), {}),
    "dropout1d": ((of_axes(1), 0.5, True, None), {}),
    "dropout2d": ((of_axes(2), 0.5, True, None), {}),
    "rms_norm": ((X, 3, np.ones(3), 1e-5), {}),
    "group_norm": ((of_axes(1), 3, np.ones(3), np.ones(3), 1e-5), {}),
    "instance_norm": ((of_axes(1), np.ones(3), np.ones(3), 1e-5), {}),
    "embedding_bag": ((np.array([[0, 1]]), X, "mean", 1), {}),
    **{name: ((X,), {}) for name in ("hardsigmoid", "hardswish", "mish", "relu6", "selu", "softsign", "tanhshrink")},
    **{name: ((X, 0.5), {}) for name in ("celu", "hardshrink", "softshrink")},
    "glu": ((X, 0), {}),
    "softmin": ((X, 0), {}),
    "prelu": ((X, np.ones(3)), {}),
    "threshold": ((X, 0.2, 1.0), {}),
    "binary_cross_entropy": ((X, X, np.ones(3)), {"reduction": "sum"}),
    "smooth_l1_loss": ((X, X), {"beta": 1.0, "reduction": "sum"}),
    "gaussian_nll_loss": ((X, X, X), {"full": True, "eps": 0.1, "reduction": "sum"}),
    "poisson_nll_loss": ((X, X), {"log_input": True, "full": True, "eps": 0.1, "reduction": "sum"}),
    "soft_margin_loss": ((X, X), {"reduction": "sum"}),
    "hinge_embedding_loss": ((X, X), {"margin": 1.0, "reduction": "sum"}),
    "multi_margin_loss": ((X, LABELS, np.ones(3)), {"p": 2, "margin": 1.0, "reduction": "sum"}),
    "cosine_embedding_loss": ((X, X, np.ones(2)), {"margin": 0.1, "reduction": "sum"}),
    "margin_ranking_loss": ((X, X, X), {"margin": 0.1, "reduction": "sum"}),
    "triplet_margin_loss": ((X, X, X), {"margin": 0.1, "p": 2.0, "eps": 0.1, "swap": True, "reduction": "sum"}),
    "normalize": ((X, 2.0, 1, 0.1), {}),
    "interpolate": ((IMAGES, None, 2.0, "bilinear", True), {}),
    "pixel_shuffle": ((np.ones((1, 4, 2, 2)), 2), {}),
    "pixel_unshuffle": ((np.ones((1, 1, 4, 4)), 2), {}),
    "ctc_loss": ((np.zeros((4, 2, 3)), [[1], [2]], [4, 4], [1, 1], 0), {"reduction": "sum", "zero_infinity": True}),
    "cosine_similarity": ((X, X, 1, 0.1), {}),
    "pairwise_distance": ((X, X, 2.0, 0.1, True), {}),
    "seed": ((0,), {}),
    "rnn": ((np.ones((2, 1, 3)), np.ones((1, 3)), np.eye(3), "tanh"), {}),
    "attention": ((X, X, X, np.eye(2, dtype=bool), np.eye(2) > 0), {"causal": False, "scale": 0.5, "dropout": 0.1}),
    "scaled_dot_product_attention": ((X, X, X, None, 0.5, True, 0.5, None), {}),
}  # fmt: skip
ALIASES = {"amax": "max", "amin": "min"}
PUBLIC = {
    **{name: getattr(F, name) for name in F.__all__},
    **{name: getattr(ops, name) for name in ops.__all__ if not isinstance(getattr(ops, name), type)},
}


class Foreign:
    """An array of another library, with a dtype that is not NumPy's, as PyTorch's are."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = np.asarray(numbers)
        self.shape, self.ndim, self.size = self.numbers.shape, self.numbers.ndim, self.numbers.size
        self.dtype, self.device, self.requires_grad = "foreign.float32", "foreign", False

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numbers, dtype)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Any:
        return iter(self.numbers)


WRONG: dict[str, Any] = {
    "foreign": Foreign(np.ones((2, 3))), "a foreign line": Foreign(np.arange(3)), "sparse": sp.csr_matrix(np.eye(2, 3)),
    "a column": pd.Series([0.5, 1.5]), "a table": pd.DataFrame(np.ones((2, 3)), columns=list("abc")),
    "None": None, "text": "no", "minus one": -1, "a fraction": 1.5, "large": 10**9, "larger": 2**40, "beyond": 2**70,
    "empty": (), "nested": ((1, 2), (3,)), "object": object(), "boolean": True, "NaN": float("nan"), "twice": (0, 0),
    "matrix": np.ones((2, 2)), "dict": {}, "list of None": [None], "ellipsis": ..., "slice": slice(None), "complex": 1j,
    "objects": np.array([1, None]), "texts": np.array(["no"]), "a tracked Tensor": Tensor([[1.0]], True),
    "infinite": float("inf"), "set": {1}, "function": len, "bytes": b"no", "many axes": np.ones((1, 2, 1, 2, 1, 2)),
}  # fmt: skip
SOME = (
    "None", "text", "minus one", "a fraction", "large", "larger", "empty", "nested", "object", "boolean", "twice", "matrix",
    "foreign", "a foreign line", "sparse", "a column", "a table",
)  # fmt: skip


def call_of(name: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    function = PUBLIC[name]
    if name in CALLS:
        return (function, *CALLS[name])
    args, attrs = function.sample(np.random.default_rng(0))
    return function, args, attrs


def test_every_function_has_a_call() -> None:
    """An op without attributes is called as it is tried out."""
    without = {name for name, f in PUBLIC.items() if name not in CALLS and name not in ALIASES}
    assert all(isinstance(PUBLIC[name], Op) and not PUBLIC[name].sample(np.random.default_rng(0))[1] for name in without)


@pytest.mark.filterwarnings("error", "ignore:divide by zero", "ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in ALIASES])
def test_what_is_no_argument_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result, or an error of the package with the name of the function, or Python's own of the signature; whatever the
    argument, and before gigabytes are taken."""
    monkeypatch.setattr(backend, "memory_left", lambda: 2**30)
    function, args, attrs = call_of(name)
    function(*args, **attrs)
    wrong = WRONG if THOROUGH else {key: WRONG[key] for key in SOME}

    def attempt(key: str, args: tuple[Any, ...], attrs: dict[str, Any]) -> None:
        try:
            y = function(*args, **attrs)
            if isinstance(y, Tensor) and y.requires_grad:
                y.sum().backward()
        except TensorgradError as error:
            if not str(error).startswith(name if name != "cast" else ("cast", "astype")) or "out of memory" in str(error):
                pytest.fail(f"{key}: {error}")

    for key, value in wrong.items():
        for i in range(len(args)):
            attempt(f"{i}: {key}", (*args[:i], value, *args[i + 1 :]), attrs)
        for attr in attrs:
            attempt(f"{attr}: {key}", args, {**attrs, attr: value})


# Axes


def of_axis(name: str, **others: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda module, x, axis: getattr(module, name)(x, axis=axis, **others)


AXES: dict[str, Callable[[Any, Any, Any], Any]] = {
    **{
        name: of_axis(name)
        for name in ("sum", "mean", "max", "min", "prod", "std", "var", "any", "all", "argmax", "argmin", "cumsum", "flip")
    },
    "take": lambda m, x, axis: m.take(x, [0, 0], axis),
    "take_along_axis": lambda m, x, axis: m.take_along_axis(x, np.zeros((1,) * x.ndim, int), axis),
    "roll": lambda m, x, axis: m.roll(x, 1, axis),
    "repeat": lambda m, x, axis: m.repeat(x, 2, axis),
    "split": lambda m, x, axis: m.stack(m.split(x, 1, axis)),
    "moveaxis": lambda m, x, axis: m.moveaxis(x, axis, 0),
    "moveaxis to": lambda m, x, axis: m.moveaxis(x, 0, axis),
    "swapaxes": lambda m, x, axis: m.swapaxes(x, axis, 0),
    "diagonal": lambda m, x, axis: m.diagonal(x, 0, axis, -1),
    "trace": lambda m, x, axis: m.trace(x, 0, axis, -1),
    "expand_dims": lambda m, x, axis: m.expand_dims(x, axis),
    "squeeze": lambda m, x, axis: m.squeeze(x[..., :1], axis),
    "concatenate": lambda m, x, axis: m.concatenate([x, x], axis),
    "stack": lambda m, x, axis: m.stack([x, x], axis),
    "tensordot": lambda m, x, axis: m.tensordot(x, x, ([axis], [axis])),
    "norm": lambda m, x, axis: (m.linalg if m is np else m).norm(x, axis=axis),
    "logsumexp": lambda m, x, axis: np.log(np.exp(x).sum(axis)) if m is np else m.logsumexp(x, axis),
    "softmax": lambda m, x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True) if m is np else m.softmax(x, axis),
    "log_softmax": lambda m, x, axis: (
        np.log(np.exp(x) / np.exp(x).sum(axis, keepdims=True)) if m is np else m.log_softmax(x, axis)
    ),
}


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3)])
@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_that_of_numpy_or_refused(name: str, shape: tuple[int, ...]) -> None:
    ndim, function = len(shape), AXES[name]
    x = np.random.default_rng(3).normal(size=shape)
    for axis in (1, -1, 0, -ndim, ndim, -ndim - 1, ndim + 5, (0, 0), (0, -ndim), (1, 0)):
        try:
            expected = function(np, x, axis)
        except (ValueError, TypeError, IndexError):
            expected = None
        t = Tensor(x, True)
        try:
            y = function(tensorgrad, t, axis)
        except TensorgradError as error:
            refused = expected is None or isinstance(axis, tuple)
            if not refused or not str(error).startswith(name.partition(" ")[0]):
                pytest.fail(f"{axis}: {error}")
            continue
        assert expected is not None, axis
        np.testing.assert_allclose(y.detach(), expected, rtol=1e-12, atol=1e-15, err_msg=str(axis))


@pytest.mark.parametrize("name", AXES)
def test_what_counts_as_a_whole_number_is_an_axis(name: str) -> None:
    """NumPy's integers, 0-d arrays and Tensors of them, value and gradient; neither fractions nor booleans nor text."""
    function = AXES[name]
    x = np.random.default_rng(3).normal(size=(2, 1, 3))

    def both(axis: Any) -> tuple[np.ndarray, np.ndarray | None]:
        t = Tensor(x, True)
        y = function(tensorgrad, t, axis)
        if not y.requires_grad:
            return y.numpy(), None
        return y.detach().numpy(), tensorgrad.grad(y, t, np.arange(1.0, y.size + 1).reshape(y.shape))[0].numpy()

    value, gradient = both(1)
    for axis in (np.int64(1), np.uint8(1), np.array(1), Tensor(np.array(1))):
        found, slope = both(axis)
        np.testing.assert_array_equal(found, value)
        np.testing.assert_array_equal(slope, gradient)
    for axis in (1.0, True, np.True_, "1", np.float64(1), Tensor(np.array(1.0)), b"", {}):
        with pytest.raises(DTypeError, match=rf"^{name.partition(' ')[0]}: .*integer"):
            function(tensorgrad, Tensor(x), axis)


def test_axes_that_other_arguments_name() -> None:
    x = Tensor(X)
    for call, message in (
        (lambda: x.take([0], 7), "take: axis 7 is out of bounds for 2 axes"),
        (lambda: x.flatten(7), "flatten: start_axis 7 is out of bounds for 2 axes"),
        (lambda: nn.Flatten(5)(x), "flatten: start_axis 5 is out of bounds for 2 axes"),
        (lambda: x.transpose(0, 0), "transpose: axis (0, 0) names an axis twice, for 2 axes"),
        (lambda: x.transpose(0), "transpose: 1 axes for the 2 of shape (2, 3); expected each once"),
        (lambda: x.diagonal(0, 1, -1), "diagonal: axis1 and axis2 are both axis 1, of (2, 3)"),
        (lambda: x.expand_dims((0, 0)), "expand_dims: axis (0, 0) names an axis twice, for 4 axes"),
        (lambda: x.moveaxis((0, 0), (0, 1)), "moveaxis: source (0, 0) names an axis twice, for 2 axes"),
        (lambda: x.squeeze(0), "squeeze: axis 0 of shape (2, 3) does not have size 1"),
        (lambda: x.norm(2), "norm: axis 2 is out of bounds for array of dimension 2"),
    ):
        with pytest.raises((ShapeError, TypeError), match=f"^{re.escape(message)}"):
            call()


# Sizes and numbers

SIZES: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda n: ops.reshape(X, (n, 3)),
    "reshape to one": lambda n: Tensor(np.ones(2)).reshape(n),
    "broadcast_to": lambda n: ops.broadcast_to(np.ones(1), (n, 1)),
    "repeat": lambda n: ops.repeat(X, n, 0),
    "tile": lambda n: ops.tile(X, (n, 1)),
    "pad": lambda n: ops.pad(X, ((n, 0), (0, n))),
    "roll": lambda n: ops.roll(X, n, 0),
    "split": lambda n: ops.split(X, n, 0)[0],
    "one_hot": lambda n: ops.one_hot([0, 1], n),
    "diagonal": lambda n: ops.diagonal(X, n),
    "tril": lambda n: ops.tril(X, n),
    "triu": lambda n: ops.triu(X, n),
    "round": lambda n: ops.round(X, n),
    "tensordot": lambda n: ops.tensordot(X, X, n),
    "conv2d": lambda n: F.conv2d(IMAGES, np.ones((1, 3, 2, 2)), None, (n, 1), n),
    "max_pool2d": lambda n: F.max_pool2d(IMAGES, n),
    "avg_pool2d": lambda n: F.avg_pool2d(IMAGES, (1, n), n),
    "layer_norm": lambda n: F.layer_norm(X[:, :2], n),
    "cross_entropy": lambda n: F.cross_entropy(X, LABELS, ignore_index=n),
}


@pytest.mark.parametrize("name", SIZES)
def test_what_counts_as_a_whole_number_is_a_size(name: str) -> None:
    call = SIZES[name]
    for n in (np.int64(2), np.uint8(2), np.array(2), Tensor(np.array(2))):
        np.testing.assert_array_equal(call(n), call(2))
    for n in (2.0, 2.5, True, np.True_, "2", np.float64(2), None, Tensor(np.array(2.0)), (2,) * 5):
        if (name == "cross_entropy" and n is None) or (name == "split" and isinstance(n, tuple)):
            continue
        with pytest.raises(TensorgradError, match=rf"^{name.partition(' ')[0]}: "):
            call(n)


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "leaky_relu": lambda v: ops.leaky_relu(Tensor(X - 0.2), v),
    "elu": lambda v: ops.elu(Tensor(X - 0.2), v),
    "pad": lambda v: ops.pad(Tensor(X), 1, v),
    "clip": lambda v: ops.clip(Tensor(X), None, v),
    "hardtanh": lambda v: ops.hardtanh(Tensor(X), -1.0, v),
    "huber_loss": lambda v: F.huber_loss(Tensor(X), 0 * X, delta=v),
    "cross_entropy": lambda v: F.cross_entropy(Tensor(X), LABELS, label_smoothing=v),
    "dropout": lambda v: F.dropout(Tensor(X), v, rng=np.random.default_rng(0)),
    "layer_norm": lambda v: F.layer_norm(Tensor(X), 3, eps=v),
    "batch_norm": lambda v: F.batch_norm(Tensor(X), np.zeros(3), np.ones(3), eps=v),
    "softmax_cross_entropy": lambda v: ops.softmax_cross_entropy(Tensor(X), LABELS, scale=v),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_one_in_whatever_it_comes(name: str) -> None:
    call = NUMBERS[name]
    expected = call(0.25)
    for value in (np.float64(0.25), np.float32(0.25), np.array(0.25), Tensor(np.array(0.25)), Tensor(0.25)):
        found = call(value)
        np.testing.assert_array_equal(found.numpy(), expected.numpy())
        assert found.dtype == expected.dtype
    for value in ("0.25", 1j, np.ones((2, 2, 2)), {}):
        with pytest.raises((DTypeError, ShapeError), match=f"^{name}: "):
            call(value)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_requires_a_gradient_gets_one_or_is_refused(name: str) -> None:
    s = Tensor(np.array(0.25), True)
    if name in ("clip", "hardtanh"):
        NUMBERS[name](s).sum().backward()
        assert s.grad.item() == (X > 0.25).sum()
        return
    with pytest.raises(DTypeError, match=f"^{name}: .* is a number and has no gradient, but the Tensor requires one"):
        NUMBERS[name](s)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.repeat(X, 10**9, 0),
        lambda: ops.tile(X, 10**9),
        lambda: ops.pad(X, 10**9),
        lambda: ops.one_hot([0], 10**9),
        lambda: ops.put(X[0, 0], 0, (10**10,)),
        lambda: F.conv2d(IMAGES, np.ones((1, 3, 2, 2)), padding=10**5),
    ],
)
def test_what_there_is_no_memory_for_is_not_begun(call: Callable[[], Any]) -> None:
    with pytest.raises(DeviceMemoryError, match=r"^\w+: a result of shape \(.*\) takes [\d,]+ GiB, [\d,]+ are left"):
        call()


# Errors by the name of what was called


def test_mistakes_have_the_name_of_what_was_called() -> None:
    x = Tensor(X)
    for call, kind, message in (
        (lambda: x.roll(1, 9), ShapeError, "roll: axis 9 is out of bounds for 2 axes"),
        (lambda: Tensor([1.0, 2.0]).tril(), ShapeError, "tril: expected at least two axes, got shape (2,)"),
        (lambda: x @ 2.0, ShapeError, "matmul: argument 1 has shape (), expected at least 2 axes (k,n)"),
        (lambda: 2.0 @ x, ShapeError, "matmul: argument 0 has shape (), expected at least 2 axes (m,k)"),
        (lambda: x.broadcast_to(4), ShapeError, "broadcast_to: "),
        (lambda: x.pad(((1, 1),) * 3), ShapeError, "pad: width is ((1, 1), (1, 1), (1, 1)), expected n, (before, after)"),
        (lambda: x.repeat(-1, 0), ArgumentError, "repeat: repeats must be at least 0, got -1"),
        (lambda: tensorgrad.einsum(), ArgumentError, "einsum: expected subscripts such as 'ij,jk->ik' and operands"),
        (lambda: x.item(), ShapeError, "item: the Tensor has shape (2, 3), only a Tensor with one element has a value"),
        (lambda: f"{x:.2f}", ShapeError, "format '.2f': the Tensor has shape (2, 3)"),
        (
            lambda: x[Tensor([1])],
            IndexError,
            "getitem: an index must be integers or booleans, got Tensor (1,) float32; lists become",
        ),
        (lambda: x.take([True], 0), DTypeError, "take: indices must be integers, got [True]"),
        (lambda: x.take(None, 0), DTypeError, "take: indices must be integers, got None"),
        (lambda: F.cross_entropy(x, [0, 9]), IndexError, "cross_entropy: label 9 is out of range, expected 0 to 2"),
        (lambda: F.mse_loss(x, "no"), DTypeError, "mse_loss: expected numbers or booleans, got dtype <U2 (from str)"),
        (
            lambda: tensorgrad.roll(x),
            TypeError,
            "roll: missing 1 required positional argument: 'shift'; expected roll(x, ",
        ),
        (lambda: tensorgrad.grad(x.sum(), X), DTypeError, "grad: the inputs must be a Tensor or several, got ndarray (2, 3)"),
        (lambda: tensorgrad.grad("y", x), DTypeError, "grad: the outputs must be a Tensor or several, got 'y'"),
        (lambda: tensorgrad.jacobian(None, X), DTypeError, "jacobian: fn must be a function of Tensors, got None"),
        (lambda: tensorgrad.from_dlpack([1.0]), DTypeError, "from_dlpack: expected an array that supports DLPack, got list"),
        (lambda: tensorgrad.set_num_threads(1.5), ArgumentError, "set_num_threads: expected a positive integer"),
        (lambda: tensorgrad.manual_seed(-1), ArgumentError, "manual_seed: the seed must be None or a non-negative integer"),
    ):
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            call()


def test_an_unused_input_says_how_to_allow_it() -> None:
    x, unused = Tensor(X, True), Tensor([1.0], True)
    with pytest.raises(GraphError, match="allow_unused=True gives None for it"):
        tensorgrad.grad((x * 2).sum(), [x, unused])


def test_the_module_stands_before_the_function() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Flatten(3)

        def forward(self, x: Any) -> Any:
            return self.flat(x)

    with pytest.raises(ShapeError, match=r"^flat\.flatten: start_axis 3 is out of bounds"):
        Net()(X)


def test_one_element_is_formatted_as_a_number() -> None:
    assert f"{Tensor([[2.0]]):.2f}" == "2.00"


def test_numpys_functions_of_tensors_take_numpys_arguments() -> None:
    x = Tensor(X, True)
    np.testing.assert_array_equal(np.concatenate([x, x], 1).detach(), np.concatenate([X, X], 1))
    np.testing.assert_array_equal(np.sum(x, np.int64(1)).detach(), X.sum(1))


def test_out_is_written_and_counts_as_a_write() -> None:
    c = Tensor(np.ones(2))
    w = Tensor(np.ones(2), True)
    y = w * c
    assert np.multiply(c, 2, out=c) is c
    np.testing.assert_array_equal(c.numpy(), [2, 2])
    with pytest.raises(GraphError, match="was changed in place later"):
        y.sum().backward()
    y = w * c
    np.add.at(c, [0, 0], 1.0)
    np.testing.assert_array_equal(c.numpy(), [4, 2])
    with pytest.raises(GraphError, match="was changed in place later"):
        y.sum().backward()
    with pytest.raises(DTypeError, match=r"np\.multiply with out cannot be recorded"):
        np.multiply(c, 2, out=w)


def test_warnings_that_are_errors_stay_what_they_are() -> None:
    """What a user has asked NumPy to raise is not said to be a wrong argument."""
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        F.mse_loss(np.array([1e300]), np.array([-1e300]))


def test_a_call_is_described_where_nothing_else_is_known() -> None:
    with pytest.raises(DTypeError, match=r"^stack: 'int' object is not iterable; called as stack\(3, axis=1\)$"):
        ops.stack(3, axis=1)  # type: ignore[call-overload]


def test_signatures_are_those_of_the_functions() -> None:
    assert list(inspect.signature(ops.roll).parameters) == ["x", "shift", "axis"]
    assert list(inspect.signature(Tensor.roll).parameters) == ["x", "shift", "axis"]


def test_what_is_no_array_is_not_put_into_a_tensor() -> None:
    t = Tensor([1.0], True)
    with pytest.raises(DTypeError, match=r"^\.data: expected an array, got \[1\.0\]$"):
        t.data = [1.0]
    with pytest.raises(DTypeError, match=r"^\.grad: expected a Tensor or None, got ndarray \(1,\) float64$"):
        t.grad = np.ones(1)
    assert t.grad is None
    with pytest.raises(DTypeError, match=r"^exp: expected numbers or booleans, got dtype object"):
        ops.exp(np.array([1, None]))
