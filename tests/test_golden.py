"""The golden values of reference system E, to all printed digits; NumPy's legacy generator draws the numbers."""

from __future__ import annotations

import hashlib
import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tensorgrad.models import handwritten

import tensorgrad
from tensorgrad import Tensor, data
from tensorgrad.nn import functional as F

pytestmark = pytest.mark.quick

# The document has samples in columns; here they are rows.
W = np.array([[10, 5], [2, 0], [1, 0]], float).T
B = np.array([10, 5, 0], float)
H = np.array([[1, 0, 5, 10, 2], [2, 5, 3, 10, 2]], float).T


def printed(values: np.ndarray, digits: int = 8) -> np.ndarray:
    return np.round(values, digits)


@pytest.fixture(params=["recorded", "by hand"])
def recorded(request: pytest.FixtureRequest) -> bool:
    return request.param == "recorded"


def test_one_layer_forward(recorded: bool) -> None:
    a = F.sigmoid(F.linear(Tensor(H), W, B)).data if recorded else handwritten.sigmoid(H @ W + B)
    np.testing.assert_array_equal(printed(a[:, 2]), [0.73105858, 0.5, 0.99330715, 0.9999546, 0.88079708])
    np.testing.assert_array_equal(printed(a[:, 1]), [0.99908895, 0.99330715, 0.99999969, 1.0, 0.99987661])
    np.testing.assert_allclose(a[:, 0], 1, rtol=1e-8)


def test_mean_cross_entropy(recorded: bool) -> None:
    probabilities = np.random.RandomState(2).rand(10, 5).T
    labels = np.array([3, 5, 3, 6, 1])
    if recorded:
        loss = F.nll_loss(Tensor(probabilities, True).log(), labels).item()
    else:
        loss = handwritten.mean_cross_entropy(probabilities, handwritten.one_hot(labels, 10))
    assert loss == pytest.approx(0.8964600261334037, abs=1e-15)


def test_one_layer_backward(recorded: bool) -> None:
    dh = np.random.RandomState(2).rand(3, 5).T
    if recorded:
        h, w, b = (Tensor(a, True) for a in (H, W, B))
        tensorgrad.nn.functional.relu(h @ w + b).backward(dh)
        dh_prev, dw, db = h.grad.data, w.grad.data / 5, b.grad.data / 5
    else:
        dh_prev, dw, db = handwritten.layer_backward(dh, H, W, B, "relu")
    golden_dh = [
        [5.6417525, 0.66855959, 6.86974666, 5.46611139, 4.92177244],
        [2.17997451, 0.12963116, 2.74831239, 2.17661196, 2.10183901],
    ]
    golden_dw = [[1.67565336, 1.56891359], [1.39137819, 1.4143854], [1.3597389, 1.43013369]]
    np.testing.assert_array_equal(printed(dh_prev.T), golden_dh)
    np.testing.assert_array_equal(printed(dw.T), golden_dw)
    np.testing.assert_array_equal(printed(db), [0.37345476, 0.34414727, 0.29074635])


def mnist_folder() -> Path:
    root = os.environ.get("TENSORGRAD_DATA")
    if not root:
        pytest.skip("needs MNIST: set TENSORGRAD_DATA to the folder that holds mnist/")
    return Path(root) / "mnist"


def test_whole_network_forward(recorded: bool) -> None:
    images = data.load_mnist(mnist_folder())[0]
    rng = np.random.RandomState(2)
    widths = [784, 3, 7, 10]
    weights = [rng.randn(n, m).T * 0.1 for m, n in pairwise(widths)]
    layers = [(w, np.zeros(w.shape[1])) for w in weights]
    x = images[10:20] / 256
    if recorded:
        h = Tensor(x)
        for w, b in layers[:-1]:
            h = F.relu(F.linear(h, w, b))
        p = F.softmax(F.linear(h, *layers[-1])).data
    else:
        p = handwritten.forward(x, layers, "relu", "cross_entropy")[-1]
    golden = [
        [0.10106734, 0.10045152, 0.09927757, 0.10216656, 0.1],
        [0.10567625, 0.10230873, 0.10170271, 0.11250099, 0.1],
        [0.09824287, 0.0992886, 0.09967128, 0.09609693, 0.1],
    ]
    np.testing.assert_array_equal(printed(p.T[:3, :5]), golden)
    assert p.sum() == pytest.approx(10, abs=1e-12)


def test_mnist_is_whole() -> None:
    """The four arrays, written as idx files again, have the well-known checksums of the originals."""
    x, y, x_test, y_test = data.load_mnist(mnist_folder())
    checksums = []
    for images, labels in ((x, y), (x_test, y_test)):
        header = struct.pack(">4I", 0x803, len(images), 28, 28)
        checksums.append(hashlib.md5(header + images.tobytes()).hexdigest())
        checksums.append(hashlib.md5(struct.pack(">2I", 0x801, len(labels)) + labels.astype(np.uint8).tobytes()).hexdigest())
    assert checksums == [
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ]
