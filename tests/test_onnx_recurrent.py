"""Recurrent networks and Resize in files of ONNX's: read, they give what onnxruntime gives, to 1e-6, and are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tensorgrad import Tensor, nn, testing
from tensorgrad.errors import DataError
from tensorgrad.onnx import export, limits, load
from tests import test_onnx
from tests.test_onnx_load import FLOAT, write

KINDS = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, N, K, H = 5, 3, 4, 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


def recurrent(path: Path, kind: str, rng: np.random.Generator, **attrs: Any) -> np.ndarray:
    """A file of one operator with all of its results; returns an input."""
    directions, wide = 2 if attrs.get("direction") == "bidirectional" else 1, KINDS[kind] * H
    layout, has_bias, has_state = attrs.get("layout", 0), attrs.pop("bias", True), attrs.pop("state", True)
    state = (N, directions, H) if layout else (directions, N, H)
    arrays = {
        "w": rng.normal(size=(directions, wide, K)), "r": rng.normal(size=(directions, wide, H)),
        "b": rng.normal(size=(directions, 2 * wide)), "h0": rng.normal(size=state), "c0": rng.normal(size=state),
    }  # fmt: skip
    inputs = ["x", "w", "r", "b" if has_bias else "", "", *(["h0", *(["c0"] if kind == "LSTM" else [])] if has_state else [])]
    results = ["y", "yh", *(["yc"] if kind == "LSTM" else [])]
    node = helper.make_node(kind, inputs, results, "cell", hidden_size=H, **attrs)
    kept = {name: a.astype("f") for name, a in arrays.items() if name in inputs}
    shape = [N, T, K] if layout else [T, N, K]
    write(path, [node], kept, {"x": (FLOAT, shape)}, {name: (FLOAT, [None] * (4 if name == "y" else 3)) for name in results})
    return rng.normal(size=shape).astype("f")


FORMS: dict[str, dict[str, Any]] = {
    "plain": {}, "reverse": {"direction": "reverse"}, "bidirectional": {"direction": "bidirectional"},
    "without biases": {"bias": False}, "without a state": {"state": False, "direction": "bidirectional"},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_networks(kind: str, form: str, path: Path) -> None:
    more: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    x = recurrent(path, kind, np.random.default_rng(0), **FORMS[form], **more)
    model = load(path)
    for y, expected in zip(model(x), test_onnx.run(path, [x]), strict=True):
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=0, atol=1e-6)
    sum((y * y).sum() for y in model(x)).backward()
    assert all(p.grad is not None for p in model.parameters())
    names = {"w", "r", "b", "h0", "c0"} - ({"b"} if form == "without biases" else set())
    names -= {"h0", "c0"} if form == "without a state" else set() if kind == "LSTM" else {"c0"}
    assert {name for name, _ in model.named_parameters()} == names


@pytest.mark.parametrize("kind", KINDS)
def test_samples_first(kind: str, path: Path) -> None:
    """layout=1, which onnxruntime does not compute: against layout=0 with the same weights."""
    more: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    x = recurrent(path, kind, np.random.default_rng(0), layout=1, state=False, **more)
    y, *states = load(path)(x)
    recurrent(path, kind, np.random.default_rng(0), state=False, **more)
    expected, *last = load(path)(x.swapaxes(0, 1))
    np.testing.assert_array_equal(y.numpy(), expected.numpy().transpose(2, 0, 1, 3))
    for a, b in zip(states, last, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy().swapaxes(0, 1))


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("LSTM", {"clip": 1.0}),
    "input_forget=1": ("LSTM", {"input_forget": 1}),
    "activations sigmoid, relu, tanh": ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}),
    "linear_before_reset=0": ("GRU", {}),
    "activations affine": ("RNN", {"activations": ["Affine"], "activation_alpha": [1.0]}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, path: Path) -> None:
    kind, attrs = REFUSED[name]
    x = recurrent(path, kind, np.random.default_rng(0), **attrs)
    with pytest.raises(DataError, match=rf"onnx\.load: {kind} cell: {name}"):
        load(path)(x)


def test_a_state_of_zeros_is_no_parameter(path: Path) -> None:
    """PyTorch's exporter writes one for a fixed number of samples."""
    zeros = np.zeros((1, N, H), "f")
    arrays = {"w": np.ones((1, H, K), "f"), "r": np.ones((1, H, H), "f"), "zeros": zeros}
    node = helper.make_node("RNN", ["x", "w", "r", "", "", "zeros"], ["y"], hidden_size=H)
    write(path, [node], arrays, {"x": (FLOAT, [T, N, K])}, {"y": (FLOAT, [None] * 4)})
    assert {name for name, _ in load(path).named_parameters()} == {"w", "r"}


OURS = {
    "LSTM": lambda: nn.LSTM(K, H, 2, batch_first=True),
    "GRU": lambda: nn.GRU(K, H, bidirectional=True),
    "RNN": lambda: nn.RNN(K, H, nonlinearity="relu"),
}


@pytest.mark.parametrize("name", OURS)
def test_what_export_has_written(name: str, path: Path) -> None:
    """As Scan: the same results, and the same gradients of the parameters, for any number of samples."""
    layer = OURS[name]()
    x = np.random.default_rng(0).normal(size=(N, T, K) if name == "LSTM" else (T, N, K)).astype("f")
    export(layer, x, path, batch_axis=0 if name == "LSTM" else 1)
    model = load(path)
    for given in (x, np.concatenate([x, x], 0 if name == "LSTM" else 1)):
        expected, _ = layer(Tensor(given))
        found = model(given)[0]
        np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=0, atol=1e-6)
    for y in (found, expected):
        (y * y).sum().backward()
    ours = dict(layer.named_parameters())
    for key, p in model.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), ours[key].grad.numpy(), rtol=1e-4, atol=1e-5)
    assert len(list(model.parameters())) == len(ours)


def scanned(path: Path, n: int, **attrs: Any) -> None:
    """Running sums of x, in a Scan of n sequences as it says."""
    nodes = [helper.make_node("Add", ["s", "v"], ["t"]), helper.make_node("Identity", ["t"], ["u"])]
    info = helper.make_tensor_value_info
    s, v, t, u = (info(name, FLOAT, [2]) for name in "svtu")
    body = helper.make_graph(nodes, "b", [s, v], [t, u])
    node = helper.make_node("Scan", ["zero", "x"], ["last", "y"], "sums", body=body, num_scan_inputs=n, **attrs)
    results = {"last": (FLOAT, [2]), "y": (FLOAT, ["t", 2])}
    write(path, [node], {"zero": np.zeros(2, "f")}, {"x": (FLOAT, ["a", "b"])}, results)


@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("axes", [(0, 0), (1, 1), (1, 0), (-1, -1)])
def test_scan(axes: tuple[int, int], turned: tuple[int, int], path: Path) -> None:
    scanned(
        path, 1, scan_input_axes=axes[:1], scan_output_axes=axes[1:], scan_input_directions=turned[:1],
        scan_output_directions=turned[1:],
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(5, 2) if axes[0] == 0 else (2, 5)).astype("f")
    for found, expected in zip(load(path)(x), test_onnx.run(path, [x]), strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-6)


def test_scans_that_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned(path, 5)
    with pytest.raises(DataError, match=r"onnx\.load: Scan sums: 5 sequences, 2 inputs, and 2 of each step"):
        load(path)(np.zeros((3, 2), "f"))
    scanned(path, 1)
    with pytest.raises(DataError, match=r"onnx\.load: Scan sums: no steps"):
        load(path)(np.zeros((0, 2), "f"))
    monkeypatch.setattr(limits, "STEPS", 9)
    load(path)(np.zeros((2, 2), "f"))
    with pytest.raises(DataError, match="would run more operators than the limit for this file"):
        load(path)(np.zeros((3, 2), "f"))


# Resize

COORDINATES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
WAYS = [
    *[("nearest", how, rounding) for how in COORDINATES for rounding in ROUNDINGS],
    # of half_pixel_symmetric what lies in the middle is rounded by the last bit of float32, and PyTorch does not write it
    *[("linear", how, "floor") for how in (*COORDINATES, "half_pixel_symmetric")],
]


@pytest.mark.parametrize(("mode", "how", "rounding"), WAYS)
@pytest.mark.parametrize("by", ["sizes", "scales"])
def test_resize(mode: str, how: str, rounding: str, by: str, path: Path) -> None:
    """Up and down, of many sizes."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        old, new = rng.integers(1, 9, 2), rng.integers(1, 14, 2)
        x = rng.normal(size=(2, 3, *old)).astype("f")
        given = np.array([2, 3, *new]) if by == "sizes" else np.array([1, 1, *(new / old)], "f")
        inputs = ["x", "", "", "sizes"] if by == "sizes" else ["x", "", "scales"]
        attrs = {"mode": mode, "coordinate_transformation_mode": how, "nearest_mode": rounding}
        node = helper.make_node("Resize", inputs, ["y"], "resized", **attrs)
        write(path, [node], {by: given}, {"x": (FLOAT, x.shape)}, {"y": (FLOAT, [None] * 4)}, opset=19)
        model = load(path)
        assert not list(model.parameters())
        (expected,) = test_onnx.run(path, [x])
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=0, atol=1e-6, err_msg=f"{old} {given}")


def test_gradients_of_resize(path: Path) -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", axes=[-1])
    write(path, [node], {"scales": np.array([1.6], "f")}, {"x": (FLOAT, [2, 5])}, {"y": (FLOAT, [2, 8])}, opset=18)
    x = Tensor(np.random.default_rng(0).normal(size=(2, 5)), requires_grad=True)
    testing.gradcheck(load(path), x)


def test_modes_of_resize_that_are_refused(path: Path) -> None:
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], "resized", mode="cubic")
    write(path, [node], {"scales": np.array([2.0, 2.0], "f")}, {"x": (FLOAT, [2, 2])}, {"y": (FLOAT, [4, 4])})
    with pytest.raises(DataError, match=r"onnx\.load: Resize resized: mode=cubic"):
        load(path)(np.ones((2, 2), "f"))
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], "resized")
    write(path, [node], {"scales": np.array([1e6, 1e6], "f")}, {"x": (FLOAT, [2, 2])}, {"y": (FLOAT, [4, 4])})
    with pytest.raises(DataError, match="would create an array of"):
        load(path)(np.ones((2, 2), "f"))
