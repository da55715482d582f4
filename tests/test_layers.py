"""Modules: each computes what its function does, has the parameters it says, and knows training from evaluation."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, nn
from tensorgrad.errors import ShapeError
from tensorgrad.nn import functional as F
from tests import kinds

pytestmark = pytest.mark.quick

rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


PLAIN: list[tuple[nn.Module, Any, tuple[int, ...], str]] = [
    (nn.Identity(), lambda x: x, (2, 3), "Identity()"),
    (nn.Flatten(), lambda x: x.reshape(2, 12), (2, 3, 4), "Flatten()"),
    (nn.Flatten(0), lambda x: x.reshape(24), (2, 3, 4), "Flatten(start_axis=0)"),
    (nn.Flatten(2), lambda x: x.reshape(0, 3, 20), (0, 3, 4, 5), "Flatten(start_axis=2)"),
    (nn.Flatten(-2), lambda x: x.reshape(2, 12), (2, 3, 4), "Flatten(start_axis=-2)"),
    (nn.ReLU(), F.relu, (2, 3), "ReLU()"),
    (nn.Sigmoid(), F.sigmoid, (2, 3), "Sigmoid()"),
    (nn.Tanh(), F.tanh, (2, 3), "Tanh()"),
    (nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2), (2, 3), "LeakyReLU(0.2)"),
    (nn.ELU(0.5), lambda x: F.elu(x, 0.5), (2, 3), "ELU(0.5)"),
    (nn.GELU(), F.gelu, (2, 3), "GELU()"),
    (nn.GELU("tanh"), lambda x: F.gelu(x, "tanh"), (2, 3), "GELU(approximate='tanh')"),
    (nn.SiLU(), F.silu, (2, 3), "SiLU()"),
    (nn.Softplus(), F.softplus, (2, 3), "Softplus()"),
    (nn.Softmax(0), lambda x: F.softmax(x, 0), (2, 3), "Softmax(axis=0)"),
    (nn.LogSoftmax(), F.log_softmax, (2, 3), "LogSoftmax(axis=-1)"),
    (nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2), (1, 2, 4, 4), "MaxPool2d(2, stride=2)"),
    (nn.AvgPool2d((2, 1), 1), lambda x: F.avg_pool2d(x, (2, 1), 1), (1, 2, 4, 4), "AvgPool2d((2, 1), stride=1)"),
]
PLAIN += [  # activations without settings
    (make(), getattr(F, name), (2, 3), f"{make.__name__}()")
    for name, make in kinds.ACTIVATIONS.items()
    if make not in {type(layer) for layer, *_ in PLAIN}
]


@pytest.mark.parametrize(("layer", "function", "shape", "text"), PLAIN, ids=[text for *_, text in PLAIN])
def test_layers_without_parameters(layer: nn.Module, function: Any, shape: tuple[int, ...], text: str) -> None:
    x = Tensor(draw(*shape), True)
    y, expected = layer(x), function(x)
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.data, expected.data)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert repr(layer) == text
    assert not list(layer.parameters())


def test_conv2d() -> None:
    layer = nn.Conv2d(3, 5, (3, 2), stride=2, padding=1, rng=np.random.default_rng(1))
    assert {name: p.shape for name, p in layer.named_parameters()} == {"weight": (5, 3, 3, 2), "bias": (5,)}
    assert all(np.abs(p.data).max() <= 1 / np.sqrt(18) and p.dtype == np.float32 for p in layer.parameters())
    x = draw(2, 3, 5, 6)
    np.testing.assert_array_equal(layer(x).data, F.conv2d(x, layer.weight.data, layer.bias.data, 2, 1))
    assert repr(layer).startswith("Conv2d(3, 5, kernel_size=(3, 2), stride=2, padding=1")
    again = nn.Conv2d(3, 5, (3, 2), rng=np.random.default_rng(1))
    np.testing.assert_array_equal(again.weight.data, layer.weight.data)
    plain = nn.Conv2d(1, 1, 2, bias=False, weight_init=nn.init.normal(0.1), dtype=np.float64)
    assert plain.bias is None
    assert plain(np.ones((1, 1, 3, 3))).shape == (1, 1, 2, 2)
    assert "bias=False" in repr(plain)
    net = nn.Sequential(nn.Identity(), layer)
    with pytest.raises(ShapeError, match=re.escape("1.conv2d: input (2, 4, 5, 6) and weight (5, 3, 3, 2) are incompatible")):
        net(draw(2, 4, 5, 6))


def test_a_small_convolutional_net_learns() -> None:
    """Which half of an image is bright."""
    nn.init.seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(16, 2),
    )
    F.seed(0)
    r = np.random.default_rng(0)
    labels = r.integers(0, 2, 64)
    x = r.normal(size=(64, 1, 4, 4)).astype(np.float32)
    x[labels == 1, :, 2:] += 2
    x[labels == 0, :, :2] += 2
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(net(x), labels)
        losses.append(loss.item())
        net.zero_grad()
        loss.backward()
        for p in net.parameters():
            p.data -= 0.2 * p.grad.data
    assert losses[-1] < 0.2 * losses[0]
    net.eval()
    assert (net(x).data.argmax(1) == labels).mean() > 0.95


def test_embedding() -> None:
    layer = nn.Embedding(5, 3, rng=np.random.default_rng(0))
    assert layer.weight.shape == (5, 3)
    np.testing.assert_array_equal(layer(np.array([[1, 4]])).data, layer.weight.data[[[1, 4]]])
    assert repr(layer).startswith("Embedding(5, 3")
    np.testing.assert_array_equal(nn.Embedding(2, 2, weight_init=nn.init.zeros()).weight.data, np.zeros((2, 2)))


def test_dropout_works_in_training_only() -> None:
    layer = nn.Dropout(0.5, rng=np.random.default_rng(0))
    x = Tensor(np.ones(1000, np.float32), True)
    assert set(np.unique(layer(x).data)) == {0, 2}
    layer.eval()
    assert layer(x) is x
    layer.train()
    assert layer(x) is not x
    assert repr(layer) == "Dropout(0.5)"
    with pytest.raises(ValueError, match=r"Dropout: p must be a number in 0 .. 1, got -0.1"):
        nn.Dropout(-0.1)


def test_layer_norm() -> None:
    layer = nn.LayerNorm((2, 3))
    x = draw(4, 2, 3)
    y = layer(x)
    np.testing.assert_allclose(y.data.mean((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.data.var((1, 2)), 1, rtol=1e-3)  # eps takes a little off
    layer.weight.data[...], layer.bias.data[...] = 2, 1
    np.testing.assert_allclose(layer(x).data, 2 * y.data + 1, rtol=1e-6)
    assert repr(nn.LayerNorm(3, elementwise_affine=False)) == "LayerNorm((3,), elementwise_affine=False)"
    assert not list(nn.LayerNorm(3, elementwise_affine=False).parameters())


def test_batch_norm_trains_and_evaluates() -> None:
    layer = nn.BatchNorm1d(3, momentum=1.0)
    assert {name: p.shape for name, p in layer.named_parameters()} == {"weight": (3,), "bias": (3,)}
    x = draw(50, 3) * 4 + 2
    y = layer(Tensor(x, True))
    np.testing.assert_allclose(y.data.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, x.var(0, ddof=1), rtol=1e-5)
    assert layer.running_mean.dtype == np.float32
    layer.eval()
    before = layer.running_mean.copy()
    z = layer(x[:1])  # a single sample, which training would refuse
    np.testing.assert_allclose(z.data, (x[:1] - before) / np.sqrt(x.var(0, ddof=1) + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.running_mean, before)
    assert {"running_mean", "running_var"} <= layer.state_dict().keys()
    other = nn.BatchNorm1d(3)
    other.load_state_dict(layer.state_dict())
    other.eval()
    np.testing.assert_array_equal(other(x).data, layer(x).data)
    assert nn.BatchNorm1d(3)(draw(4, 3, 5)).shape == (4, 3, 5)
    assert nn.BatchNorm2d(3)(draw(4, 3, 5, 2)).shape == (4, 3, 5, 2)
    message = r"BatchNorm1d: input has shape \(4, 3, 5, 2\), expected \(n, features\) or \(n, features, length\)"
    with pytest.raises(ShapeError, match=message):
        nn.BatchNorm1d(3)(draw(4, 3, 5, 2))
    with pytest.raises(ShapeError, match=r"BatchNorm2d: input has shape \(4, 3\), expected \(n, features, h, w\)"):
        nn.BatchNorm2d(3)(draw(4, 3))


LOSSES: list[tuple[Any, Any, np.ndarray, dict[str, Any]]] = [
    (
        nn.CrossEntropyLoss,
        F.cross_entropy,
        np.array([0, 2]),
        {"weight": [1.0, 2.0, 3.0], "ignore_index": 0, "label_smoothing": 0.1},
    ),
    (nn.NLLLoss, F.nll_loss, np.array([0, 2]), {"weight": [1.0, 2.0, 3.0], "ignore_index": 0}),
    (nn.HuberLoss, F.huber_loss, draw(2, 3), {"delta": 0.3}),
    (nn.KLDivLoss, F.kl_div, np.abs(draw(2, 3)), {}),
    (
        nn.BCEWithLogitsLoss,
        F.binary_cross_entropy_with_logits,
        np.abs(draw(2, 3)),
        {"weight": draw(3), "pos_weight": draw(3)},
    ),
    (nn.SmoothL1Loss, F.smooth_l1_loss, draw(2, 3), {"beta": 0.3}),
    (nn.PoissonNLLLoss, F.poisson_nll_loss, np.abs(draw(2, 3)), {"full": True, "eps": 0.1}),
    (nn.HingeEmbeddingLoss, F.hinge_embedding_loss, np.sign(draw(2, 3)), {"margin": 0.3}),
    (nn.MultiMarginLoss, F.multi_margin_loss, np.array([0, 2]), {"weight": [1.0, 2.0, 3.0], "p": 2, "margin": 0.3}),
]
LOSSES += [  # those without settings, called as their functions
    (make, next(getattr(F, name) for name in F.__all__ if name.replace("_", "") == make.__name__.lower()), draw(2, 3), {})
    for make in kinds.PAIRED
    if make not in {made for made, *_ in LOSSES} and make is not nn.BCELoss  # see test_torch_values
]


@pytest.mark.parametrize(("make", "function", "target", "options"), LOSSES, ids=[make.__name__ for make, *_ in LOSSES])
def test_losses(make: Any, function: Any, target: np.ndarray, options: dict[str, Any]) -> None:
    x = draw(2, 3)
    for given in ({}, options):
        for reduction in ("mean", "sum", "none"):
            loss = make(**given, reduction=reduction)
            np.testing.assert_array_equal(loss(x, target), function(x, target, **given, reduction=reduction))
            assert repr(loss) == f"{make.__name__}(reduction={reduction!r})"
    with pytest.raises(ValueError, match=f"{make.__name__}: reduction must be one of"):
        make(reduction="average")


def test_kl_div_knows_batchmean() -> None:
    x, t = draw(2, 3), np.abs(draw(2, 3))
    assert nn.KLDivLoss(reduction="batchmean")(x, t) == F.kl_div(x, t, reduction="sum") / 2
