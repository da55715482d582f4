"""What load_state_dict takes and refuses: PyTorch's layout, names, shapes, dtypes; what is refused changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, nn
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError, TensorgradError
from tests import kinds, test_attention, test_recurrent
from tests.cuda.gpu import using

GOLDEN = Path(__file__).parent / "golden" / "torch_layers.npz"  # golden/torch_layers.py has written it


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4)) for _ in range(2))
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)})

    def forward(self, x: Any) -> Any:
        h = self.embed(x)
        for part in self.body:
            h = h + part(h)
        return self.heads["a"](h)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(4, 4),
    "Linear_wide": lambda: nn.Linear(4, 3),
    "Conv2d": lambda: nn.Conv2d(3, 3, 3, padding=1),
    "Conv2d_strided": lambda: nn.Conv2d(2, 3, (3, 2), stride=2, bias=False),
    "Conv2d_same": lambda: nn.Conv2d(2, 4, (2, 3), padding="same", dilation=2, groups=2),
    "Conv1d": lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
    "Conv3d": lambda: nn.Conv3d(2, 2, (1, 2, 2), stride=(1, 2, 1)),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(4, 6, 3, 3, 1, 2, 2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 3, (3, 2), 2, 1, (1, 0), dilation=(1, 2)),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(2, 2, 2, 2, bias=False),
    "MaxPool1d": lambda: nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True),
    "MaxPool2d": lambda: nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True),
    "MaxPool3d": lambda: nn.MaxPool3d(2, 1),
    "AvgPool1d": lambda: nn.AvgPool1d(3, 2, 1, True, False),
    "AvgPool2d": lambda: nn.AvgPool2d(3, 2, 1, True),
    "AvgPool3d": lambda: nn.AvgPool3d(2, 2, 1, False, False),
    "AdaptiveAvgPool1d": lambda: nn.AdaptiveAvgPool1d(3),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((3, None)),
    "AdaptiveAvgPool3d": lambda: nn.AdaptiveAvgPool3d(2),
    "AdaptiveMaxPool1d": lambda: nn.AdaptiveMaxPool1d(5),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d((3, 2)),
    "AdaptiveMaxPool3d": lambda: nn.AdaptiveMaxPool3d((None, 2, 4)),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm2d": lambda: nn.BatchNorm2d(3),
    "LayerNorm": lambda: nn.LayerNorm((4, 4)),
    "Embedding": lambda: nn.Embedding(4, 4),
    "Embedding_padded": lambda: nn.Embedding(4, 4, padding_idx=1),
    "EmbeddingBag": lambda: nn.EmbeddingBag(5, 3),
    "EmbeddingBag_sum": lambda: nn.EmbeddingBag(5, 3, mode="sum", padding_idx=3),
    "EmbeddingBag_mean": lambda: nn.EmbeddingBag(5, 3, padding_idx=3),
    "EmbeddingBag_max": lambda: nn.EmbeddingBag(5, 3, mode="max", padding_idx=-2),
    "BatchNorm3d": lambda: nn.BatchNorm3d(2),
    "GroupNorm": lambda: nn.GroupNorm(2, 6),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(3, affine=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(3),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(2, affine=True),
    "RMSNorm": lambda: nn.RMSNorm((3, 4)),
    "RMSNorm_eps": lambda: nn.RMSNorm(4, 0.1, elementwise_affine=False),
    "PReLU": nn.PReLU,
    "PReLU_channels": lambda: nn.PReLU(3),
    "ReLU6": nn.ReLU6,
    "SELU": nn.SELU,
    "CELU": lambda: nn.CELU(0.7),
    "GLU": lambda: nn.GLU(1),
    "Softmin": lambda: nn.Softmin(0),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardtanh": lambda: nn.Hardtanh(-0.5, 1.5),
    "LogSigmoid": nn.LogSigmoid,
    "Mish": nn.Mish,
    "Softsign": nn.Softsign,
    "Tanhshrink": nn.Tanhshrink,
    "Softshrink": lambda: nn.Softshrink(0.3),
    "Hardshrink": lambda: nn.Hardshrink(0.3),
    "Threshold": lambda: nn.Threshold(0.2, -3.0),
    "ZeroPad1d": lambda: nn.ZeroPad1d((1, 2)),
    "ZeroPad2d": lambda: nn.ZeroPad2d((1, 0, 2, 1)),
    "ZeroPad3d": lambda: nn.ZeroPad3d(1),
    "ConstantPad1d": lambda: nn.ConstantPad1d(2, 0.5),
    "ConstantPad2d": lambda: nn.ConstantPad2d((1, 2, 0, 3), -1.5),
    "ConstantPad3d": lambda: nn.ConstantPad3d((0, 1, 1, 0, 2, 0), 2.0),
    "ReflectionPad1d": lambda: nn.ReflectionPad1d((2, 1)),
    "ReflectionPad2d": lambda: nn.ReflectionPad2d((1, 2, 3, 0)),
    "ReflectionPad3d": lambda: nn.ReflectionPad3d((1, 0, 2, 1, 0, 1)),
    "ReplicationPad1d": lambda: nn.ReplicationPad1d((3, 1)),
    "ReplicationPad2d": lambda: nn.ReplicationPad2d((1, 2, 3, 0)),
    "ReplicationPad3d": lambda: nn.ReplicationPad3d((1, 0, 2, 1, 0, 1)),
    "CircularPad1d": lambda: nn.CircularPad1d((2, 1)),
    "CircularPad2d": lambda: nn.CircularPad2d((1, 2, 3, 0)),
    "CircularPad3d": lambda: nn.CircularPad3d((1, 0, 2, 1, 0, 1)),
    "Unflatten": lambda: nn.Unflatten(1, (2, -1)),
    "Flatten": lambda: nn.Flatten(1, 2),
    "PixelShuffle": lambda: nn.PixelShuffle(2),
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(3),
    "Upsample": lambda: nn.Upsample(scale_factor=2),
    "Upsample_down": lambda: nn.Upsample((3, 5)),
    "Upsample_exact": lambda: nn.Upsample(scale_factor=(1.7, 0.6), mode="nearest-exact"),
    "Upsample_linear": lambda: nn.Upsample(7, mode="linear"),
    "Upsample_bilinear": lambda: nn.Upsample(scale_factor=(2, 1.5), mode="bilinear"),
    "Upsample_bilinear_down": lambda: nn.Upsample((2, 3), mode="bilinear"),
    "Upsample_corners": lambda: nn.Upsample((5, 1), mode="bilinear", align_corners=True),
    "Upsample_trilinear": lambda: nn.Upsample((3, 2, 5), mode="trilinear", align_corners=True),
    "Upsample_bicubic": lambda: nn.Upsample(scale_factor=(2.3, 0.7), mode="bicubic"),
    "Upsample_bicubic_corners": lambda: nn.Upsample((7, 3), mode="bicubic", align_corners=True),
    "Upsample_area": lambda: nn.Upsample((3, 4), mode="area"),
    "Nested": Nested,
}


class TorchTensor:
    """What a Tensor of PyTorch is taken for one by, without PyTorch."""

    def __init__(self, array: np.ndarray, dtype: str = "torch.float32") -> None:
        self.array, self.dtype, self.shape = array, dtype, array.shape

    def detach(self) -> TorchTensor:
        return self

    def cpu(self) -> TorchTensor:
        return self

    def float(self) -> TorchTensor:
        return TorchTensor(self.array)

    def numpy(self) -> np.ndarray:
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


TorchTensor.__module__ = "torch"


def recorded(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    with np.load(GOLDEN) as file:
        state = {key.split("/")[2]: file[key] for key in file if key.startswith(f"{name}/state/")}
        return state, file[f"{name}/x"], file[f"{name}/y"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("form", [lambda a: a, TorchTensor, lambda a: TorchTensor(a, "torch.bfloat16")])
def test_weights_of_torch_give_what_torch_gives(name: str, form: Callable[[np.ndarray], Any]) -> None:
    state, x, y = recorded(name)
    layer = LAYERS[name]()
    layer.load_state_dict({key: form(array) for key, array in state.items()}, layout="torch")
    layer.eval()
    np.testing.assert_allclose(layer(x).data, y, rtol=1e-5, atol=1e-6)  # both float32, summed in other orders


def test_every_layer_with_parameters_is_compared() -> None:
    """A new layer with a weight needs a line in golden/torch_layers.py, or has no brother in PyTorch."""
    makes = [*LAYERS.values(), *test_recurrent.LAYERS.values(), *test_attention.LAYERS.values()]
    compared = {type(part) for make in makes for _, part in make().named_modules()}
    made = {
        layer: layer(*(4,) * needed(layer))
        for layer in kinds.LAYERS
        if layer not in (*kinds.LOSSES, nn.Module, nn.Ensemble, *test_attention.STACKS)
    }
    assert {layer for layer, one in made.items() if list(one.parameters())} <= compared


def needed(layer: Any) -> int:
    """How many arguments a layer has that cannot be left out."""
    import inspect

    if layer is nn.Upsample:
        return 1  # either of two

    parameters = inspect.signature(layer).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


@pytest.mark.parametrize("name", [name for name in LAYERS if recorded(name)[0]])
def test_tensors_of_torch_are_refused_without_the_word(name: str) -> None:
    state, _, _ = recorded(name)
    layer = LAYERS[name]()
    before = layer.state_dict()
    message = r"load_state_dict: \w+: [\w.]+ is a PyTorch Tensor, .* load_state_dict\(values, layout='torch'\) transposes it"
    for strict in (True, False):
        with pytest.raises(ArgumentError, match=message):
            layer.load_state_dict({key: TorchTensor(array) for key, array in state.items()}, strict)
    unchanged(layer, before)


def test_the_layout_is_guessed_where_shapes_say_it() -> None:
    state, _, _ = recorded("Linear_wide")
    message = "weight has shape (3, 4), expected (4, 3) (PyTorch weights are (out, in): layout='torch' transposes them)"
    with pytest.raises(ShapeError, match=re.escape(message)):
        nn.Linear(4, 3).load_state_dict(state)
    with pytest.raises(ShapeError, match=r"weight has shape \(4, 3\), expected \(4, 3\)|weight has shape"):
        nn.Linear(4, 3).load_state_dict({**state, "weight": state["weight"].T}, layout="torch")
    with pytest.raises(ArgumentError, match="layout must be None or 'torch', got 'pytorch'"):
        nn.Linear(4, 3).load_state_dict(state, layout="pytorch")
    with pytest.raises(ShapeError, match=r"unexpected \['num_batches_tracked'\]"):
        nn.BatchNorm1d(4).load_state_dict(recorded("BatchNorm1d")[0])
    with pytest.raises(ShapeError, match=r"unexpected \['num_batches_tracked'\]"):  # it is no layer's of these
        nn.Linear(4, 4).load_state_dict({**recorded("Linear")[0], "num_batches_tracked": np.array(1)}, layout="torch")


def test_parameters_of_ones_own_are_taken_as_they_are() -> None:
    class Own(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.scale = nn.Parameter(np.ones((4, 4), "f"))

    state = {**recorded("Linear")[0], "scale": np.arange(16.0, dtype="f").reshape(4, 4)}
    own = Own()
    own.load_state_dict(state, layout="torch")
    np.testing.assert_array_equal(own.weight.data, state["weight"].T)
    np.testing.assert_array_equal(own.scale.data, state["scale"])


def test_on_a_gpu() -> None:
    """On the stand-in for CuPy: values of main memory, in another precision and layout, and values that do not fit."""
    state, _, _ = recorded("Linear")
    with using("stand-in"):
        layer = nn.Linear(4, 4).to("cuda")
        layer.load_state_dict({key: array.astype("f8") for key, array in state.items()}, layout="torch")
        np.testing.assert_array_equal(layer.weight.numpy(), state["weight"].T)
        there = {key: Tensor(array, device="cuda").data for key, array in state.items()}
        layer.load_state_dict({**there, "bias": there["bias"].astype("f8")})
        np.testing.assert_array_equal(layer.weight.numpy(), state["weight"])
        layer.load_state_dict({"weight": layer.weight.data.T, "bias": layer.bias.data})  # its own memory
        np.testing.assert_array_equal(layer.weight.numpy(), state["weight"].T)
        with pytest.raises(DTypeError, match="with values that float32 cannot represent"):
            layer.load_state_dict({**there, "bias": Tensor(np.full(4, 1e300), device="cuda").data})
        np.testing.assert_array_equal(layer.weight.numpy(), state["weight"].T)


# What does not fit


class Mixed(nn.Module):
    """A parameter, and a buffer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        for name, dtype in (("count", "i4"), ("byte", "u1"), ("mask", "?"), ("mean", "f8"), ("half", "f2")):
            self.register_buffer(name, np.ones(2, dtype))


def unchanged(module: nn.Module, before: dict[str, np.ndarray]) -> None:
    for name, array in module.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
        assert array.dtype == before[name].dtype


WRONG: list[tuple[str, Any, type[TensorgradError], str]] = [
    ("inner.weight", None, DTypeError, "inner.weight is a NoneType"),
    ("inner.weight", "text", DTypeError, "inner.weight is a str of dtype <U4, expected numbers"),
    ("inner.weight", [["a", "b"], ["c", "d"]], DTypeError, "inner.weight is a list of dtype <U1, expected numbers"),
    ("inner.weight", [[1.0], [2.0, 3.0]], DTypeError, "inner.weight is a list, expected an array"),
    ("inner.weight", np.ones((2, 2), complex), DTypeError, "inner.weight has dtype complex128|of dtype complex128, expected"),
    ("inner.weight", np.ones((2, 2), object), DTypeError, "of dtype object, expected numbers"),
    ("inner.weight", {"a": 1}, DTypeError, "inner.weight is a dict"),
    (
        "inner.weight",
        np.full((2, 2), 1e300),
        DTypeError,
        "inner.weight has dtype float64, with values that float32 cannot represent",
    ),
    ("inner.weight", np.ones((1, 2)), ShapeError, r"inner.weight has shape \(1, 2\), expected \(2, 2\)"),
    ("inner.weight", 1.0, ShapeError, r"inner.weight has shape \(\), expected \(2, 2\)"),
    ("inner.bias", np.ones((2, 1)), ShapeError, r"inner.bias has shape \(2, 1\), expected \(2,\)"),
    ("count", [0.5, 1.0], DTypeError, "count has dtype float64, expected int32: values would be truncated"),
    ("count", [1.0, 2.0], DTypeError, "count has dtype float64, expected int32"),
    ("count", np.array([np.nan, 1.0]), DTypeError, "count has dtype float64, expected int32"),
    ("count", [1, 2**40], DTypeError, "count has dtype int64, with values that int32 cannot represent"),
    (
        "byte",
        np.array([1, 256]),
        DTypeError,
        "byte has dtype int64, with values that uint8 cannot represent",
    ),
    ("byte", np.array([1, -1], "i1"), DTypeError, "byte has dtype int8"),
    ("mask", [1, 0], DTypeError, "mask has dtype int64, expected bool"),
    ("mask", [0.5, 1.0], DTypeError, "mask has dtype float64, expected bool"),
    ("half", np.array([1e5, 1.0]), DTypeError, "half has dtype float64, with values that float16 cannot represent"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG)
def test_what_does_not_fit_changes_nothing(name: str, value: Any, error: type[Exception], message: str) -> None:
    module = Mixed()
    before = module.state_dict()
    given = {key: array * 0 for key, array in before.items()}
    for strict in (True, False):
        with pytest.raises(error, match=f"load_state_dict: Mixed: .*{message}"):
            module.load_state_dict({**given, name: value}, strict)
        unchanged(module, before)
    with pytest.raises(ShapeError, match=rf"missing .*unexpected .*{message}|missing .*unexpected"):
        module.load_state_dict({name: value, "other": 1})
    unchanged(module, before)


@pytest.mark.parametrize("values", [None, 3, "model.npz", [("inner.weight", 1)], np.ones(3), nn.Linear(2, 2)])
def test_what_is_no_state(values: Any) -> None:
    for strict in (True, False):
        with pytest.raises(ArgumentError, match="load_state_dict: Mixed: expected a dict from path to array"):
            Mixed().load_state_dict(values, strict)


def test_what_fits() -> None:
    module = Mixed()
    module.load_state_dict(
        {
            "inner.weight": Tensor([[1.0, 2.0], [np.inf, np.nan]], requires_grad=True),
            "inner.bias": np.array([1, 2], ">f8"),
            "count": np.array([7, -8], ">i8"),
            "byte": [1, 255],
            "mask": [True, False],
            "mean": np.array([1, 2]),
            "half": np.array([0.5, -np.inf]),
        }
    )
    np.testing.assert_array_equal(module.inner.weight.data, np.array([[1, 2], [np.inf, np.nan]], "f"))
    np.testing.assert_array_equal(module.inner.bias.data, [1, 2])
    np.testing.assert_array_equal(module.count, [7, -8])
    np.testing.assert_array_equal(module.byte, [1, 255])
    np.testing.assert_array_equal(module.mask, [True, False])
    np.testing.assert_array_equal(module.mean, [1, 2])
    np.testing.assert_array_equal(module.half, [0.5, -np.inf])
    assert [a.dtype.str[1:] for a in module._buffers.values()] == ["i4", "u1", "b1", "f8", "f2"]


def test_arrays_of_the_module_itself_in_other_places() -> None:
    """Swapping two weights: what is read is what was there before anything was written."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    a, b = (layer.weight.data.copy() for layer in net)
    live = {f"{i}.{name}": p.data for i, layer in enumerate(reversed(net)) for name, p in layer.named_parameters()}
    net.load_state_dict(live)
    np.testing.assert_array_equal(net[0].weight.data, b)
    np.testing.assert_array_equal(net[1].weight.data, a)
    net.load_state_dict({"0.weight": net[0].weight.data.T}, strict=False)  # its own, the other way round
    np.testing.assert_array_equal(net[0].weight.data, b.T)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "nonsense", object])
def test_modules_have_floating_dtypes(dtype: Any) -> None:
    layer = nn.Linear(2, 2)
    before = layer.state_dict()
    with pytest.raises(DTypeError, match=r"Linear\.to: dtype must be a floating dtype such as 'float32'"):
        layer.to(dtype=dtype)
    unchanged(layer, before)
    with pytest.raises(ArgumentError, match=r"Linear\.train: expected True or False, got 'no'"):
        layer.train("no")
