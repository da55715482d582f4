"""Models and files of others: what needs PyTorch is compared by `python -m tests.golden.torch_modules`, the rest here."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from tensorgrad import Tensor, data, interop, nn
from tensorgrad.errors import ArgumentError, DataError, MissingDependencyError
from tensorgrad.nn.tied import TiedLinear
from tests import kinds, test_weights


def test_each_layer_stands_in_the_table() -> None:
    """What is left out has no counterpart, or is a container."""
    containers = {"ModuleDict", "ModuleList", "Sequential", "TransformerDecoder", "TransformerEncoder"}
    alone = {"Ensemble", "ParameterDict", "ParameterList"}
    layers = {kind.__name__ for kind in kinds.LAYERS if kind not in kinds.LOSSES}
    assert interop.table().keys() == layers - containers - alone
    for name, pairs in interop.table().items():
        assert {ours for ours, _ in pairs} <= inspect.signature(getattr(nn, name)).parameters.keys(), name


@pytest.mark.parametrize("name", test_weights.LAYERS)
def test_arguments_are_read_from_a_layer(name: str) -> None:
    """A layer that is made of what is read from another one has the same form."""
    layer = test_weights.LAYERS[name]()
    kind = type(layer).__name__
    if kind not in interop.table():
        return
    conversion = interop.Conversion(SimpleNamespace(nn=None), interop.Problems(), {})
    kwargs = {ours: conversion.argument(layer, ours, interop.FROM_TENSORGRAD) for ours, _ in interop.table()[kind]}
    again = getattr(nn, kind)(**kwargs)
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())
    with np.load(test_weights.GOLDEN) as file:
        x = file[f"{name}/x"]
    np.testing.assert_array_equal(again.eval()(Tensor(x)).numpy(), layer.eval()(Tensor(x)).numpy())


class Doubling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def with_part(name: str, part: nn.Module) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    setattr(layer, name, part)
    return layer


def hooked() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    layer.linear1.register_forward_hook(lambda *_: None)
    return layer


def with_more(model: nn.Module) -> nn.Module:
    model.more = nn.Parameter(np.ones(2, "f"))
    return model


UNLIKE = {
    "its own forward": (lambda: nn.Sequential(nn.ReLU(), Doubling(nn.ReLU())), "1", "Doubling, a class that is not"),
    "a hook inside": (hooked, "", "TransformerEncoderLayer with hooks"),
    "another norm": (lambda: with_part("norm1", nn.Identity()), "", "TransformerEncoderLayer with norm1: Identity"),
    "another eps": (lambda: with_part("norm2", nn.LayerNorm(8, eps=0.5)), "", "TransformerEncoderLayer with different eps"),
    "another rate": (lambda: with_part("dropout", nn.Dropout(0.7)), "", "TransformerEncoderLayer with different dropout rates"),
    "parameters": (lambda: with_more(nn.Sequential(nn.Tanh())), "", "Sequential with parameters or buffers of its own, more"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_what_would_compute_something_else_is_refused(name: str) -> None:
    """The reason alone stands there, not each container around it."""
    make, path, expected = UNLIKE[name]
    layers = SimpleNamespace(ReLU=nn.ReLU, Sequential=nn.Sequential)
    problems = interop.Problems()
    assert interop.Conversion(SimpleNamespace(nn=layers), problems, {}).to_torch(make(), "") is None
    assert list(problems) == [path]
    assert problems[path].startswith(expected)


@pytest.mark.parametrize("name", test_weights.LAYERS)
def test_state_as_torch_has_it(name: str) -> None:
    """What load_state_dict(layout="torch") has taken comes out again, a square Linear too."""
    with np.load(test_weights.GOLDEN) as file:
        given = {key.split("/")[2]: file[key] for key in file if key.startswith(f"{name}/state/")}
    layer = test_weights.LAYERS[name]()
    layer.load_state_dict(given, layout="torch")
    found = layer.state_dict(layout="torch")
    assert found.keys() == {key for key in given if "num_batches" not in key}
    for key, value in found.items():
        np.testing.assert_array_equal(value, given[key])
        value[...] = 7  # a copy
    assert not any((value == 7).any() for value in layer.state_dict(layout="torch").values())


def test_a_square_linear() -> None:
    layer = nn.Linear(3, 3, dtype=np.float64)
    state = layer.state_dict(layout="torch")
    np.testing.assert_array_equal(state["weight"], layer.weight.numpy().T)
    x = np.array([[1.0, 2.0, 3.0]])
    expected = x @ state["weight"].T + state["bias"]  # PyTorch's formula
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-12, atol=1e-14)  # terms may cancel
    with pytest.raises(ArgumentError, match=re.escape("state_dict: Linear: layout must be None or 'torch', got 'keras'")):
        layer.state_dict(layout="keras")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (interop.from_torch, interop.to_torch):
        with pytest.raises(MissingDependencyError, match=f"interop.{call.__name__} needs PyTorch: pip install torch"):
            call(nn.Linear(1, 1))


def test_what_is_called_otherwise() -> None:
    with pytest.raises(AttributeError, match=re.escape('write model.load_state_dict(values, layout="torch")')):
        interop.load_torch_state_dict  # noqa: B018


# Files


def test_files_of_others(tmp_path: Path, rng: np.random.Generator) -> None:
    """As the safetensors library writes them, without a checksum; and ours, read by it."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Embedding(4, 3))
    state = {name: rng.random(a.shape).astype(a.dtype) for name, a in model.state_dict(layout="torch").items()}
    theirs = {**state, "1.num_batches_tracked": np.array(3)}
    safetensors.numpy.save_file(theirs, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    model.load_state_dict(data.read_safetensors(tmp_path / "theirs.safetensors"), layout="torch")
    np.testing.assert_array_equal(model[0].weight.numpy(), state["0.weight"].T)
    data.write_safetensors(tmp_path / "ours.safetensors", model.state_dict(layout="torch"))
    found = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    assert found.keys() == state.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name])
    with pytest.raises(DataError, match=r"ours\.npz: expected a file name ending in \.safetensors"):
        data.write_safetensors(tmp_path / "ours.npz", state)
    for nothing in (None, [1], {1: np.ones(2)}):
        with pytest.raises(ArgumentError, match="write_safetensors: arrays must be a dict from name to array, got"):
            data.write_safetensors(tmp_path / "ours.safetensors", nothing)


def test_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    numbers = np.array([[1.0, -2.5, 3e38], [0.0, np.inf, np.nan]], np.float32)
    upper = (numbers.view("<u4") >> 16).astype("<u2")
    header = b'{"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}'
    path = tmp_path / "half.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + upper.tobytes())
    (found,) = data.read_safetensors(path).values()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, numbers, rtol=2**-8)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_that_is_tied_to_a_table(bias: bool) -> None:
    """What from_torch makes of it: one Parameter, which learns from both places. (`python -m tests.golden.torch_modules`)"""
    table = nn.Embedding(6, 4, dtype="float64")
    head = TiedLinear(table.weight, nn.Parameter(np.arange(6.0)) if bias else None)
    model = nn.Sequential(table, nn.Tanh(), head)
    assert len(list(model.parameters())) == 1 + bias
    assert repr(head) == ("TiedLinear(4, 6)" if bias else "TiedLinear(4, 6, bias=False)")
    tokens = np.array([[0, 5, 2], [1, 1, 3]])
    w = table.weight.numpy().copy()
    y = model(tokens)
    np.testing.assert_allclose(y.detach().numpy(), np.tanh(w[tokens]) @ w.T + (np.arange(6.0) if bias else 0), rtol=1e-13)
    (y * y).sum().backward()
    g, h = 2 * y.detach().numpy(), np.tanh(w[tokens])
    expected = np.einsum("nto,nth->oh", g, h)
    np.add.at(expected, tokens, (g @ w) * (1 - h * h))
    np.testing.assert_allclose(table.weight.grad.numpy(), expected, rtol=1e-12)
    again = pickle.loads(pickle.dumps(model))
    assert again[0].weight is again[2].weight
    assert model.state_dict(layout="torch")["0.weight"].shape == (6, 4)
