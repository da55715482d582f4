"""Layers and losses that are made of other operations: PyTorch's values, gradients, and compiled as they are written."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, nn
from tensorgrad.errors import ArgumentError, ShapeError, TensorgradError
from tensorgrad.nn import functional as F
from tensorgrad.testing import gradcheck
from tests import test_weights

# by the names of golden/torch_layers.py; how many of the inputs have a gradient
LOSSES: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "BCELoss": (lambda **o: nn.BCELoss([1.0, 0.5, 2.0], **o), 2),
    "BCELoss_ends": (nn.BCELoss, 0),
    "SmoothL1Loss": (lambda **o: nn.SmoothL1Loss(beta=0.7, **o), 2),
    "GaussianNLLLoss": (nn.GaussianNLLLoss, 3),
    "GaussianNLLLoss_rows": (lambda **o: nn.GaussianNLLLoss(full=True, **o), 3),
    "PoissonNLLLoss": (nn.PoissonNLLLoss, 2),
    "PoissonNLLLoss_full": (lambda **o: nn.PoissonNLLLoss(log_input=False, full=True, **o), 2),
    "SoftMarginLoss": (nn.SoftMarginLoss, 1),
    "HingeEmbeddingLoss": (lambda **o: nn.HingeEmbeddingLoss(margin=0.8, **o), 1),
    "MultiMarginLoss": (lambda **o: nn.MultiMarginLoss(margin=0.5, **o), 1),
    "MultiMarginLoss_weight": (lambda **o: nn.MultiMarginLoss([1.0, 0.5, 2.0], p=2, **o), 1),
    "CosineEmbeddingLoss": (lambda **o: nn.CosineEmbeddingLoss(margin=0.1, **o), 2),
    "MarginRankingLoss": (lambda **o: nn.MarginRankingLoss(margin=0.3, **o), 2),
    "TripletMarginLoss": (nn.TripletMarginLoss, 3),
    "TripletMarginLoss_swap": (lambda **o: nn.TripletMarginLoss(margin=0.5, p=3, swap=True, **o), 3),
    "CosineSimilarity": (nn.CosineSimilarity, 2),
    "PairwiseDistance": (lambda: nn.PairwiseDistance(1.0, keepdims=True), 2),
    "PairwiseDistance_max": (lambda: nn.PairwiseDistance(np.inf), 2),
}
LAYERS = ["Embedding_padded", "GroupNorm", "InstanceNorm1d", "RMSNorm", "PReLU_channels", "ReLU6", "SELU", "CELU", "GLU"]
LAYERS += ["Softmin", "Hardsigmoid", "Hardswish", "Mish", "Softsign", "Tanhshrink", "Softshrink", "Hardshrink", "Threshold"]
LAYERS += [
    "ConstantPad2d",
    "ReflectionPad1d",
    "ReplicationPad2d",
    "CircularPad3d",
    "Unflatten",
    "PixelShuffle",
    "PixelUnshuffle",
]
LAYERS += ["Upsample", "Upsample_down", "Upsample_bilinear", "Upsample_trilinear", "Upsample_bicubic"]
LAYERS += ["Upsample_area"]
LAYERS += ["EmbeddingBag_sum", "EmbeddingBag_mean", "EmbeddingBag_max", "Conv2d_same", "ConvTranspose2d"]


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(test_weights.GOLDEN) as file:
        return {key.split("/")[1]: file[key] for key in file if key.startswith(f"{name}/")}


def inputs(name: str, dtype: Any) -> list[np.ndarray]:
    found = recorded(name)
    arrays = [found[f"x{i}"] for i in range(3) if f"x{i}" in found]
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_torch(name: str) -> None:
    make, _ = LOSSES[name]
    found = recorded(name)
    for reduction in found.keys() & {"mean", "sum", "none", "y"}:
        loss = make() if reduction == "y" else make(reduction=reduction)
        np.testing.assert_allclose(loss(*inputs(name, "f4")), found[reduction], rtol=2e-5, atol=1e-6)
        assert loss(*inputs(name, "f2")).dtype == np.float16
        assert loss(*inputs(name, "f8")).dtype == np.float64


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses(name: str) -> None:
    make, graded = LOSSES[name]
    arrays = inputs(name, "f8")
    loss = make()
    if graded:
        gradcheck(lambda *xs: loss(*xs, *arrays[graded:]).sum(), tuple(arrays[:graded]), order=2)
    else:
        x = Tensor(arrays[0], True)
        loss(x, *arrays[1:]).backward()
        assert np.isfinite(x.grad.data).all()


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_losses(name: str) -> None:
    make, _ = LOSSES[name]
    first, *rest = inputs(name, "f8")
    w, loss = Tensor(np.ones(first.shape), True), make()

    def step(x: Any, *others: Any) -> Any:
        return tensorgrad.grad(loss(x * w, *others).sum(), w)[0]

    check(step, first, *rest)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_layers_and_compiled_ones(name: str) -> None:
    _, x, _ = test_weights.recorded(name)
    layer = test_weights.LAYERS[name]().to(dtype="float64")
    x = x.astype("f8") if x.dtype.kind == "f" else x
    parameters = list(layer.parameters())
    if x.dtype.kind == "f":
        gradcheck(lambda x: layer(x), x, order=2)
    leaf = parameters or [Tensor(np.ones(x.shape), True)]

    def step(x: Any) -> Any:
        return tensorgrad.grad((layer(x if parameters else x * leaf[0]) ** 2).sum(), leaf)[0]

    check(step, x)


def check(step: Any, *arrays: Any) -> None:
    """Compiled a step does what it does as it is written."""
    compiled, expected = tensorgrad.compile(step), step(*map(Tensor, arrays)).data
    for _ in range(3):
        np.testing.assert_allclose(compiled(*arrays).data, expected, rtol=1e-12, atol=1e-14)
    assert not compiled.why_not


def test_normalize() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    for p in (1, 2, 3.0, np.inf):
        np.testing.assert_allclose(np.linalg.norm(F.normalize(x, p), p, axis=1), 1)
        gradcheck(lambda x, p=p: F.normalize(x, p), x, order=2)
    np.testing.assert_array_equal(F.normalize(np.zeros((2, 3))), 0)
    assert F.normalize(np.full((2, 3), 1e30, "f4"), axis=0).max() < 1
    with pytest.raises(ArgumentError, match="normalize: p must be positive, got 0"):
        F.normalize(x, 0)


def test_padding_gets_no_gradient() -> None:
    for make in (nn.Embedding, nn.EmbeddingBag):
        layer = make(4, 3, padding_idx=-1)
        np.testing.assert_array_equal(layer.weight.data[3], 0)
        layer.weight.data[3] = 7
        layer([[0, 3], [1, 3]]).sum().backward()
        np.testing.assert_array_equal(layer.weight.grad.data != 0, np.arange(12).reshape(4, 3) < 6)
    np.testing.assert_array_equal(nn.Embedding(4, 3, 2)(np.array([2])).data, 0)
    for padding in (4, -5):
        with pytest.raises(ArgumentError, match=f"Embedding: padding_idx is out of range for 4 rows, got {padding}"):
            nn.Embedding(4, 3, padding)


def test_dropout_of_channels() -> None:
    for make, shape in ((nn.Dropout1d, (40, 5, 6)), (nn.Dropout2d, (40, 5, 2, 3))):
        layer = make(0.25, rng=np.random.default_rng(0))
        y = layer(np.ones(shape, "f4")).reshape(200, 6)
        assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
        assert (y == y[:, :1]).all()
        assert 20 < (y[:, 0] == 0).sum() < 80
        x = np.ones(shape, "f4")
        assert layer.eval()(x) is x
        with pytest.raises(ShapeError, match=f"{make.__name__.lower()}: input has shape"):
            layer(np.ones((2, 3)))


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    """Of what has mean 0 and variance 1; the elements that are dropped are all the same number."""
    x = np.random.default_rng(0).normal(size=40_000)
    for p in (0.1, 0.5):
        y = nn.AlphaDropout(p, rng=np.random.default_rng(1))(x)
        assert abs(y.mean()) < 0.03
        assert abs(y.var() - 1) < 0.03
        values, counts = np.unique(y, return_counts=True)
        s = 1.7580993408473766
        a = ((1 - p) * (1 + p * s * s)) ** -0.5
        np.testing.assert_allclose(values[counts.argmax()], -s * a + a * s * p)
        assert abs(counts.max() / x.size - p) < 0.02
    layer = nn.AlphaDropout(1.0)
    np.testing.assert_array_equal(layer(x), 0)
    assert layer.eval()(x) is x
    gradcheck(lambda x: F.alpha_dropout(x, 0.4, rng=np.random.default_rng(0)), x[:6], order=2)
    with pytest.raises(ArgumentError, match=r"alpha_dropout: p must be between 0 and 1, got 1.5"):
        F.alpha_dropout(x, 1.5)


def test_errors_of_images() -> None:
    x = np.ones((1, 2, 3, 4))
    for call, message in (
        (lambda: F.interpolate(x, 2, mode="linear"), "interpolate: mode 'linear' does not support the 2 axes of (3, 4)"),
        (lambda: F.interpolate(x), "interpolate: expected size or scale_factor, got neither"),
        (lambda: F.interpolate(x, 2, 2.0), "interpolate: expected size or scale_factor, got both"),
        (lambda: F.interpolate(x, scale_factor=0.2), "interpolate: scale_factor 0.2 gives an invalid size for the axes (3, 4)"),
        (lambda: F.interpolate(x, 2, align_corners=True), "interpolate: align_corners needs a linear or cubic mode"),
        (lambda: F.interpolate(x[0, 0], 2), "interpolate: input has shape (3, 4), expected (n,c,l), (n,c,h,w)"),
        (
            lambda: F.pixel_shuffle(x, 2),
            "pixel_shuffle: input has shape (1, 2, 3, 4), expected (..., c, h, w) with c divisible",
        ),
        (
            lambda: F.pixel_unshuffle(x, 2),
            "pixel_unshuffle: input has shape (1, 2, 3, 4), expected (..., c, h, w) with h and w divisible",
        ),
        (lambda: nn.Upsample(), "Upsample: expected either size or scale_factor, got neither"),
        (lambda: nn.Unflatten(1, (2, 2))(x), "Unflatten: axis 1 of (1, 2, 3, 4) is not the product of (2, 2)"),
        (lambda: nn.Unflatten(7, (2, 2))(x), "Unflatten: input has shape (1, 2, 3, 4), axis 7 is out of bounds"),
        (lambda: nn.ZeroPad3d(1)(x[0, 0]), "ZeroPad3d: input has shape (3, 4), expected at least 3 axes"),
    ):
        with pytest.raises(TensorgradError, match=f"^{re.escape(message)}"):
            call()


def test_instance_norm_and_group_norm_agree() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 3))
    np.testing.assert_allclose(F.instance_norm(x), F.group_norm(x, 4), rtol=1e-12)
    np.testing.assert_allclose(F.group_norm(x, 1), F.layer_norm(x, (4, 3, 3)), rtol=1e-12)
    np.testing.assert_allclose(
        F.instance_norm(x), (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.prelu(np.ones((2, 3)), np.ones(2)), r"prelu: weight has shape \(2,\), expected \(1,\) or \(3,\)"),
        (lambda: F.glu(np.ones((2, 3))), r"glu: axis 1 of shape \(2, 3\) has odd size"),
        (lambda: F.celu(np.ones(2), 0), "celu: alpha must be positive, got 0"),
        (lambda: F.softshrink(np.ones(2), -1), "softshrink: lambd must be at least 0, got -1"),
        (
            lambda: F.group_norm(np.ones((2, 3)), 2),
            r"group_norm: input has shape \(2, 3\), expected \(n, c, ...\) with c divisible",
        ),
        (lambda: F.instance_norm(np.ones((2, 3, 1))), r"instance_norm: input has shape \(2, 3, 1\), expected"),
        (lambda: F.rms_norm(np.ones((2, 3)), 2), r"rms_norm: input has shape \(2, 3\), expected \(..., 2\)"),
        (lambda: F.embedding_bag(np.array(1), np.ones((2, 2))), r"embedding_bag: indices have shape \(\), expected bags"),
        (lambda: F.embedding(np.array(1), np.ones((2, 2)), 2), "embedding: padding_idx 2 is out of range for 2 rows"),
        (lambda: F.smooth_l1_loss(np.ones(2), np.ones(2), beta=0), "smooth_l1_loss: beta must be positive, got 0"),
        (lambda: F.gaussian_nll_loss(np.ones((2, 3)), np.ones((2, 3)), np.ones(4)), r"var has shape \(4,\), expected \(2, 3\)"),
        (lambda: F.multi_margin_loss(np.ones((2, 3)), [0, 1], p=3), "multi_margin_loss: p must be 1 or 2, got 3"),
        (lambda: F.triplet_margin_loss(*np.ones((2, 2, 3)), np.ones(3)), "must have the same shape"),
        (lambda: F.cosine_embedding_loss(*np.ones((2, 2, 3)), np.ones(3)), "must have the same shape"),
        (lambda: nn.GroupNorm(3, 4), "GroupNorm: num_groups must divide num_channels, got 3 and 4"),
        (lambda: nn.Hardtanh(2, 1), "Hardtanh: min_val must be at most max_val, got 2.0 and 1.0"),
        (lambda: nn.MultiMarginLoss(p=3), "MultiMarginLoss: p must be 1 or 2, got 3"),
        (lambda: nn.InstanceNorm2d(3)(np.ones((2, 4, 5, 5))), r"InstanceNorm2d: input has shape .*, expected \(n, 3, h, w\)"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(TensorgradError, match=message):
        call()
