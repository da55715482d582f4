"""What layers and losses are made with: each argument wrong in turn is an error that names both; NumPy's numbers will do."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, nn
from tensorgrad.errors import TensorgradError
from tensorgrad.nn import images
from tests import kinds

NAN, INF = float("nan"), float("inf")
NO_NUMBER = ["3", None, [], {}, object(), np.ones(2), nn.ReLU, 1j]
NO_WHOLE = [*NO_NUMBER, 2.5, 3.0, True, np.bool_(True), NAN, np.float64(3), np.array(3.0), Tensor([3.0])]
# arguments by name: what is wrong for each, and what is right
WHOLE_FROM_0: list[Any] = [*NO_WHOLE, -1, np.int64(-1)]
WHOLE_FROM_1: list[Any] = [*WHOLE_FROM_0, 0]
PAIR_FROM_0: list[Any] = [*NO_WHOLE, -1, (1,), (1, 2, 3), (1.5, 2), (-1, 1), (1, "2"), [1, None]]
SIDES: list[Any] = [*NO_WHOLE, -1, (1,), (1, 2, 3), (1.5, 2), (-1, 1), (1, "2"), [1, None], (1,) * 5]
PAIR_FROM_1: list[Any] = [*PAIR_FROM_0, 0, (0, 1)]
REAL: list[Any] = [*NO_NUMBER, True, NAN, INF, np.array([1.0, 2.0]), Tensor([1.0, 2.0]), nn.Parameter(1.0)]
FLAG: list[Any] = [None, "False", 2, 0.0, [], np.ones(2)]
WEIGHTS: list[Any] = ["heavy", [1.0, NAN], [INF, 1.0], [[1.0], [1.0, 2.0]], ["a", "b"], object(), {}, 1j]
MAKES: list[Any] = [
    3,
    "zeros",
    np.ones((2, 2)),
    nn.init.zeros,
    nn.init.normal,
    lambda shape, rng: np.ones(7),
    nn.init.normal(NAN),
    True,
]
SIZES = (
    "in_features", "out_features", "in_channels", "out_channels", "num_embeddings", "embedding_dim", "num_features",
    "num_channels", "input_size", "hidden_size", "dim_feedforward",
)  # fmt: skip
COUNTS = ("num_layers", "embed_dim", "num_heads", "d_model", "nhead")
WRONG: dict[str, list[Any]] = {
    **dict.fromkeys(SIZES, WHOLE_FROM_0),
    **dict.fromkeys(COUNTS, WHOLE_FROM_1),
    "layer_norm_eps": [*REAL, -1e-5],
    "activation": ["sigmoid", None, 1, True, ["relu"]],
    "nonlinearity": ["sigmoid", None, 1, True, ["tanh"]],
    **dict.fromkeys(["batch_first", "bidirectional", "norm_first"], FLAG),
    **dict.fromkeys(["kernel_size", "stride", "dilation"], PAIR_FROM_1),
    "output_size": [v for v in PAIR_FROM_1 if v is not None and not (isinstance(v, list) and None in v)]
    + [(0, None), (None, "2")],
    **dict.fromkeys(["padding", "output_padding"], PAIR_FROM_0),
    "groups": [*WHOLE_FROM_0, 0, 3],
    "normalized_shape": [v for v in WHOLE_FROM_0 if not isinstance(v, np.ndarray)] + [(), (2, -1), (2, 1.5), np.ones(2)],
    **dict.fromkeys(["start_axis", "end_axis", "axis"], NO_WHOLE),
    "unflattened_size": [*NO_WHOLE, (), (2, -2), (-1, -1), (2, 1.5)],
    "size": [*NO_WHOLE, -1, 0, (), (1.5, 2), (0, 1), (1,) * 4],
    "scale_factor": [*REAL, 0, -2.0, (), (2.0, 0), (1.0, "2"), (1.0,) * 4],
    **dict.fromkeys(["upscale_factor", "downscale_factor"], WHOLE_FROM_1),
    **dict.fromkeys(["negative_slope", "init", "margin", "min_val", "max_val", "threshold", "value"], REAL),
    "alpha": [*REAL],
    "lambd": [*REAL, -0.1],
    "beta": [*REAL, 0, -1.0],
    "num_parameters": [*WHOLE_FROM_0, 0],
    "num_groups": [*WHOLE_FROM_0, 0, 3],
    "mode": ["median", None, 1, ["sum"]],
    "blank": WHOLE_FROM_0,
    "padding_idx": [v for v in NO_WHOLE if v is not None] + [4, -5],
    "p": [*REAL, -0.1, 1.1],
    "dropout": [*REAL, -0.1, 1.1],
    "momentum": [*REAL, -0.1, 1.1],
    "label_smoothing": [*REAL, -0.1, 1.1],
    "eps": [*REAL, -1e-5],
    "delta": [*REAL, 0, -1.0],
    **dict.fromkeys(
        (
            *("bias", "affine", "elementwise_affine", "ceil_mode", "count_include_pad", "full", "log_input", "swap"),
            *("keepdims", "align_corners", "zero_infinity"),
        ),
        FLAG,
    ),
    "approximate": ["erf", None, 1, True, ["tanh"]],
    "reduction": ["average", None, 1, True, ["mean"], "Mean"],
    "dtype": ["int32", int, bool, "nonsense", 3, complex, object(), "float33"],
    "rng": [0, 1, "seed", np.random, [], np.random.SeedSequence(0)],
    **dict.fromkeys(["weight_init", "bias_init"], MAKES),
    "weight": WEIGHTS,
    "pos_weight": WEIGHTS,
    "ignore_index": [v for v in NO_WHOLE if v is not None],
}
RIGHT: dict[str, Any] = {
    **dict.fromkeys([*SIZES, *COUNTS, "normalized_shape"], 4),
    **dict.fromkeys(["kernel_size", "output_size", "upscale_factor", "downscale_factor"], 2),
    **dict.fromkeys(["padding", "axis"], 1),
    "unflattened_size": (2, -1),
    **dict.fromkeys(["num_groups", "threshold", "value", "scale_factor"], 1),
}
# other spellings of what is right
WHOLES: list[Any] = [np.int64(4), np.uint8(4), np.array(4), Tensor(np.array(4))]
PAIRS: list[Any] = [np.int64(2), (2, 1), [2, np.int32(1)], np.array([2, 1]), np.array(2)]
REALS: list[Any] = [np.float64(0.5), np.float32(0.5), np.array(0.5), Tensor(0.5), 1, np.int64(1)]
ALSO: dict[str, list[Any]] = {
    **{name: WHOLES for name in (*SIZES, *COUNTS)},
    **{name: PAIRS for name in ("kernel_size", "stride", "output_size")},
    "dilation": [1, np.int64(2), (2, 1)],
    "padding": [0, np.int64(1), (0, 1)],
    "output_padding": [0, (0, 0), np.int64(0)],
    "groups": [np.int64(2), np.array(4)],
    "normalized_shape": [np.int64(4), (np.int64(4), 2), [4, 2], np.array([4, 2])],
    **{name: [np.int64(1), -1] for name in ("start_axis", "end_axis", "axis")},
    "size": [np.int64(2), (2, 1), [2, np.int32(1)], np.array([2, 1])],
    "scale_factor": [np.float32(2), 3, (2, 0.5), [np.float64(1.5)]],
    **{
        name: REALS
        for name in (
            *("negative_slope", "alpha", "momentum", "label_smoothing", "eps", "delta", "init", "margin", "min_val", "max_val"),
            *("threshold", "value", "lambd", "beta", "dropout"),
        )
    },
    **{
        name: [np.bool_(True), False]
        for name in (
            *("bias", "affine", "elementwise_affine", "ceil_mode", "count_include_pad", "full", "log_input", "swap"),
            *("batch_first", "bidirectional"),
        )
    },
    "dtype": [np.float64, "float16", None, np.dtype("f8"), float],
    "rng": [None, np.random.default_rng(0), np.random.RandomState(0)],
    "weight": [None, [1.0, 2.0], np.array([1, 2]), Tensor([1.0, 2.0])],
    "pos_weight": [None, 2.0, [1.0, 2.0], Tensor([1.0, 2.0])],
    "ignore_index": [None, -100, np.int64(0)],
}
CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,  # see test_parts
    nn.TransformerEncoder, nn.TransformerDecoder, nn.Ensemble,  # see test_attention, test_ensemble
)  # fmt: skip
MADE = [layer for layer in kinds.LAYERS if layer not in CONTAINERS]
CASES = [
    pytest.param(layer, name, id=f"{layer.__name__}-{name}")
    for layer in MADE
    for name, parameter in inspect.signature(layer).parameters.items()
    if parameter.kind is not parameter.VAR_POSITIONAL
]


def made(layer: Any, **given: Any) -> Any:
    needed = [n for n, p in inspect.signature(layer).parameters.items() if p.default is p.empty]
    if layer is nn.Upsample and not {"size", "scale_factor"} & given.keys():
        needed.append("scale_factor")
    if "align_corners" in given:
        given["mode"] = "bilinear"
    return layer(**{**{name: RIGHT[name] for name in needed}, **given})


def is_right(layer: Any, name: str, value: Any) -> bool:
    """Whether what is wrong elsewhere is right here: None, where it is the default; as many numbers as there are axes."""
    default = inspect.signature(layer).parameters[name].default
    if (
        name == "p" and layer in (nn.PairwiseDistance, nn.TripletMarginLoss) and type(value) is float and value in (1.1, INF)
    ):  # not a probability
        return True
    if issubclass(layer, images.Padding) or layer is nn.Upsample:
        return value is None and default is None
    is_one_each = isinstance(value, tuple) and len(value) == getattr(layer, "axes", 0) and value in ((1,), (1, 2, 3))
    return (value is None and default is None) or is_one_each


def for_axes(layer: Any, value: Any) -> Any:
    """Of two numbers as many as the layer has axes."""
    axes = getattr(layer, "axes", 2) * (2 if issubclass(layer, images.Padding) else 1)
    if not isinstance(axes, int) or not isinstance(value, (tuple, list, np.ndarray)) or np.ndim(value) != 1 or len(value) != 2:
        return value
    return type(value)((*value, *value, *value)[:axes]) if not isinstance(value, np.ndarray) else np.resize(value, axes)


@pytest.mark.parametrize(("layer", "name"), CASES)
def test_each_argument_wrong_in_turn(layer: Any, name: str) -> None:
    for value in SIDES if name == "padding" and issubclass(layer, images.Padding) else WRONG[name]:
        if is_right(layer, name, value):
            continue
        with pytest.raises(TensorgradError, match=rf"^{layer.__name__}: {name}\b"):
            print(made(layer, **{name: value}), "takes", repr(value))


@pytest.mark.parametrize(("layer", "name"), CASES)
def test_other_spellings_of_what_is_right(layer: Any, name: str) -> None:
    for value in [for_axes(layer, value) for value in ALSO.get(name, [])]:
        layer_ = made(layer, **{name: value})
        assert repr(layer_)
        held = getattr(layer_, name, None)
        if name not in ("dtype", "rng", "weight", "pos_weight", "bias"):
            assert held is None or type(held) in (int, float, bool, tuple, nn.Dropout), name


def test_messages() -> None:
    for act, message in (
        (lambda: nn.Linear(2.5, 3), "Linear: in_features must be a non-negative integer, got 2.5"),
        (lambda: nn.Linear(2, -1), "Linear: out_features must be a non-negative integer, got -1"),
        (lambda: nn.Linear(2, "3"), "Linear: out_features must be a non-negative integer, got '3'"),
        (lambda: nn.Linear(2, 3, "no"), "Linear: bias must be True or False, got 'no'"),
        (lambda: nn.BatchNorm1d(2.5), "BatchNorm1d: num_features must be a non-negative integer, got 2.5"),
        (lambda: nn.LayerNorm((2, 0.5)), "LayerNorm: normalized_shape[1] must be a non-negative integer, got 0.5"),
        (lambda: nn.Conv2d(1, 1, 2.5), "Conv2d: kernel_size must be a positive integer, got 2.5"),
        (
            lambda: nn.Conv2d(1, 1, (1, 2, 3)),
            "Conv2d: kernel_size must be an integer or two, for rows and for columns, got (1, 2, 3)",
        ),
        (lambda: nn.Dropout(NAN), "Dropout: p must be a number in 0 .. 1, got nan"),
        (lambda: nn.HuberLoss(delta=0), "HuberLoss: delta must be a number above 0, got 0"),
        (
            lambda: nn.Linear(2, 3, rng=0),
            "Linear: rng must be a generator, such as numpy.random.default_rng(0), or None, got 0",
        ),
        (
            lambda: nn.Linear(2, 3, weight_init=nn.init.zeros),
            "Linear: weight_init must be an initialiser; call nn.init.zeros(...)",
        ),
        (lambda: nn.Linear(2, 3, dtype=int), "Linear: dtype must be a floating dtype such as 'float32', got int64"),
        (
            lambda: nn.Linear(2, 3, weight_init=lambda shape, rng: np.ones(shape[::-1])),
            "Linear: weight_init returned values of shape (3, 2), expected (2, 3)",
        ),
    ):
        with pytest.raises(TensorgradError, match=f"^{re.escape(message)}$"):
            act()


def test_axes_of_flatten() -> None:
    x = np.ones((2, 3), "f")
    for axis in (2, 5, -3):
        with pytest.raises(TensorgradError, match=f"flatten: start_axis {axis} is out of bounds for 2 axes"):
            nn.Flatten(axis)(x)
    assert nn.Flatten(-1)(x).shape == (2, 3)
    assert nn.Flatten(0)(np.float32(3)).shape == (1,)


def test_inputs_are_made_arrays() -> None:
    assert nn.Flatten()([[1.0, 2.0]]).shape == (1, 2)
    assert nn.BatchNorm1d(2)([[1.0, 2.0], [3.0, 4.0]]).shape == (2, 2)
    for layer in (nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.LayerNorm(2), nn.Dropout(), nn.Conv2d(1, 1, 1)):
        for wrong in (None, "text", object()):
            with pytest.raises(TensorgradError, match="expected numbers"):
                layer(wrong)
