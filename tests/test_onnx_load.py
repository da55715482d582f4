"""Files of ONNX's that are read: as modules that compute the same and learn on, built as PyTorch and skl2onnx write them, and
as PyTorch has written them, with arrays in a file beside (`python -m tests.golden.torch_exported`).

`python -m tests.golden.onnx_files` compares files that these have written themselves, with PyTorch and skl2onnx installed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tensorgrad.models import MLP, handwritten

from tensorgrad import Tensor, nn, optim
from tensorgrad.errors import DataError, TensorgradError
from tensorgrad.nn import functional as F
from tensorgrad.onnx import export, load
from tests import test_onnx, test_weights


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype("f")


def write(
    path: Path, nodes: list[Any], arrays: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any], opset: int = 17
) -> None:
    """A file; inputs and outputs by name, with (type, shape)."""

    def info(given: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, *value) for name, value in given.items()]

    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "main_graph", info(inputs), info(outputs), tensors)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=domains, ir_version=8).SerializeToString())


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


@pytest.mark.parametrize("name", test_weights.LAYERS)
def test_layers_that_export_has_written(name: str, path: Path) -> None:
    layer = test_weights.LAYERS[name]().eval()
    with np.load(test_weights.GOLDEN) as file:
        x = file[f"{name}/x"]
    if name == "Softmin":
        x = x.T
    export(layer, x, path, batch_axis=None)
    try:
        found = load(path)
    except DataError as error:
        assert re.search("unsupported operators: (ScatterElements|ScatterND|GatherND|IsInf|TopK)", str(error))  # noqa: PT017
        return
    np.testing.assert_allclose(found(x).numpy(), layer(Tensor(x)).numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", handwritten.SYSTEMS)
def test_gradients_are_those_of_the_model(name: str, path: Path) -> None:
    system = handwritten.SYSTEMS[name]
    widths = (8, *[6] * (len(system.widths) - 2), 4)
    model = MLP(widths, "relu" if system.hidden == "relu" else "logistic", rng=np.random.default_rng(0))
    x, y = floats(5, 8), np.arange(5) % 4
    export(model, x, path)
    found = load(path)
    assert found.state_dict().keys() == model.state_dict().keys()
    for one in (model, found):
        F.cross_entropy(one(x), y).backward()
    for (_, p), (_, q) in zip(sorted(model.named_parameters()), sorted(found.named_parameters()), strict=True):
        np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), rtol=1e-5, atol=1e-7)
    optimiser = optim.SGD(found.parameters(), lr=0.1)
    before = F.cross_entropy(found(x), y).item()
    optimiser.step()
    assert F.cross_entropy(found(x), y).item() < before


def test_a_transformer(path: Path) -> None:
    nn.init.seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), 2).eval()
    x = floats(3, 5, 8)
    export(model, x, path)
    found = load(path)
    for n in (1, 4):
        more = np.resize(x, (n, 5, 8))
        np.testing.assert_allclose(found(more).detach().numpy(), model(Tensor(more)).detach().numpy(), rtol=1e-6, atol=1e-6)
    assert len(list(found.parameters())) == len(list(model.parameters()))


def test_a_network_as_torch_writes_it(path: Path) -> None:
    """Convolution, batch norm, pool, Flatten, Gemm with the weight (out, in), and a shape that is computed."""
    arrays = {
        "0.weight": floats(2, 1, 3, 3), "0.bias": floats(2), "1.weight": floats(2), "1.bias": floats(2),
        "1.running_mean": floats(2), "1.running_var": floats(2) ** 2 + 1, "5.weight": floats(3, 8), "5.bias": floats(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["input.1", "0.weight", "0.bias"], ["/0/Conv_output_0"], "/0/Conv", dilations=[1, 1], group=1,
                         kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("BatchNormalization", ["/0/Conv_output_0", "1.weight", "1.bias", "1.running_mean", "1.running_var"],
                         ["bn"], "/1/BatchNormalization", epsilon=1e-5, momentum=0.9, training_mode=0),
        helper.make_node("Relu", ["bn"], ["relu"], "/2/Relu"),
        helper.make_node("MaxPool", ["relu"], ["pool"], "/3/MaxPool", ceil_mode=0, kernel_shape=[2, 2], pads=[0] * 4,
                         strides=[2, 2]),
        helper.make_node("Shape", ["pool"], ["shape"], "/4/Shape"),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0))),
        helper.make_node("Gather", ["shape", "zero"], ["n"], "/4/Gather", axis=0),
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([0]))),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1]))),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["pool", "target"], ["flat"], "/4/Reshape"),
        helper.make_node("Gemm", ["flat", "5.weight", "5.bias"], ["7"], "/5/Gemm", alpha=1.0, beta=1.0, transB=1),
    ]  # fmt: skip
    write(path, nodes, arrays, {"input.1": (FLOAT, ["batch", 1, 4, 4])}, {"7": (FLOAT, ["batch", 3])})
    model = load(path)
    assert {name for name, _ in model.named_parameters()} == arrays.keys() - {"1.running_mean", "1.running_var"}
    ours = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    ours.load_state_dict(arrays, layout="torch")
    for n in (1, 3):
        x = floats(n, 1, 4, 4)
        np.testing.assert_allclose(model(x).detach().numpy(), ours.eval()(x).detach().numpy(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(test_onnx.run(path, [x])[0], model(x).detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [np.array([0, 1, 2]), np.array(["a", "b", "c"], object)])
def test_a_classifier_as_skl2onnx_writes_it(classes: np.ndarray, path: Path) -> None:
    """Labels and probabilities."""
    arrays = {"coefficient": floats(4, 5), "intercepts": floats(5), "coefficient1": floats(5, 3), "intercepts1": floats(3)}
    kind = INT if classes.dtype.kind == "i" else TensorProto.STRING
    nodes = [
        helper.make_node("Cast", ["X"], ["cast_input"], "Cast", to=FLOAT),
        helper.make_node("MatMul", ["cast_input", "coefficient"], ["mul_result"], "MatMul"),
        helper.make_node("Add", ["mul_result", "intercepts"], ["add_result"], "Add"),
        helper.make_node("Relu", ["add_result"], ["next_activations"], "Relu"),
        helper.make_node("MatMul", ["next_activations", "coefficient1"], ["mul_result1"], "MatMul1"),
        helper.make_node("Add", ["mul_result1", "intercepts1"], ["add_result1"], "Add1"),
        helper.make_node("Softmax", ["add_result1"], ["out_activations_result"], "Softmax", axis=1),
        helper.make_node("ArgMax", ["out_activations_result"], ["argmax_output"], "ArgMax", axis=1, keepdims=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "argmax_output"], ["extracted"], "AFE", domain="ai.onnx.ml"),
        helper.make_node("Reshape", ["extracted", "shape_tensor"], ["label"], "Reshape"),
        helper.make_node("Identity", ["out_activations_result"], ["probabilities"], "Identity"),
    ]
    write(path, nodes, {**arrays, "classes": classes, "shape_tensor": np.array([-1])}, {"X": (FLOAT, ["n", 4])},
          {"label": (kind, ["n"]), "probabilities": (FLOAT, ["n", 3])})  # fmt: skip
    x = floats(6, 4)
    labels, p = load(path)(x)
    z = np.maximum(x @ arrays["coefficient"] + arrays["intercepts"], 0) @ arrays["coefficient1"] + arrays["intercepts1"]
    expected = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-6)
    assert list(np.asarray(labels)) == list(classes[expected.argmax(1)])


NAMES_OF_ARRAYS = {
    "inputs.w": "inputs_.w", "forward.weight": "forward_.weight", "a.forward": "a.forward_", ".": "array",
    "training": "training_", "_parameters.w": "_parameters_.w", "a." * 2000 + "w": "_".join(["a"] * 2000 + ["w"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES_OF_ARRAYS)
def test_odd_names(name: str, path: Path) -> None:
    """What a module has already, or more dots than modules can be deep."""
    write(path, [helper.make_node("Add", ["x", name], ["y"])], {name: floats(2)}, {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])})
    model = load(path)
    assert [key for key, _ in model.named_parameters()] == [NAMES_OF_ARRAYS[name]]
    np.testing.assert_array_equal(model(np.zeros(2, "f")).detach().numpy(), floats(2))


# What is refused


def damaged(path: Path, name: str) -> None:
    """A file with a fault."""
    x, y = {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}
    relu = helper.make_node("Relu", ["x"], ["y"])
    add = [helper.make_node("Add", ["x", "w"], ["y"])]
    if name == "pickle":
        path.write_bytes(b"\x80\x04K\x01.")
    elif name == "unknown":
        write(path, [helper.make_node("NonZero", ["x"], ["z"], "find"), relu], {}, x, y)
    elif name == "of its own":
        write(path, [helper.make_node("Evil", ["x"], ["y"], domain="ai.onnx.ml")], {}, x, y)
    elif name == "old":
        write(path, [relu], {}, x, y, opset=9)
    else:
        write(path, add, {"w": np.ones(2, np.float32)}, x, y)
        proto = onnx.load_model_from_string(path.read_bytes())
        tensor = proto.graph.initializer[0]
        if name == "huge":
            tensor.dims[:] = [1 << 40]
        elif name == "external":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "../../../etc/passwd"
        elif name == "cut off":
            path.write_bytes(proto.SerializeToString()[:-7])
            return
        elif name == "order":
            proto.graph.node[0].input[0] = "nowhere"
        elif name == "kind":
            tensor.data_type = 77
        path.write_bytes(proto.SerializeToString())


HOSTILE = {
    "pickle": "not a valid .onnx file", "unknown": "has unsupported operators: NonZero find",
    "of its own": "", "old": "has opset 9, expected 13 or later", "huge": "", "external": "",
    "cut off": "not a valid .onnx file",
    "order": "not a valid .onnx file", "kind": "",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_refused(name: str, path: Path) -> None:
    damaged(path, name)
    with pytest.raises(DataError, match=f"m.onnx.*{HOSTILE[name]}"):
        load(path)


# As PyTorch's exporter has written them

EXPORTED = Path(__file__).parent / "golden" / "torch_exported.npz"
NAMES = ("mlp", "cnn", "encoder", "encoder, normed first", "gpt", "decoder", "lstm", "gru", "upsampled")
RATE = 0.1


def exported(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The files of a model, written, and all that is recorded of it."""
    with np.load(EXPORTED) as file:
        found = {key.rpartition("/")[2]: file[key] for key in file.files if key.rpartition("/")[0] == name}
    for part in ("m.onnx", "m.onnx.data"):
        if part in found:
            (folder / part).write_bytes(found[part].tobytes())
    return folder / "m.onnx", found


@pytest.mark.parametrize("name", [*NAMES, *[f"{name}, any number" for name in NAMES]])
def test_files_of_pytorch(name: str, tmp_path: Path) -> None:
    """The results are PyTorch's, and so are those after a step: what is learned there is learned here, and nothing else."""
    path, found = exported(tmp_path, name)
    model = load(path)
    xs = [found[f"x{i}"] for i in range(2) if f"x{i}" in found]

    def assert_close(y: Tensor, expected: Any) -> None:
        assert (abs(y.detach().numpy() - expected) / np.maximum(1, abs(expected))).max() <= 1e-6

    y = model(*xs)
    assert_close(y, found["y"])
    if found["any"]:
        assert_close(model(*[np.concatenate([x, x, x[:1]]) for x in xs]), np.concatenate([found["y"]] * 2 + [found["y"][:1]]))
        assert_close(model(*[x[:1] for x in xs]), found["y"][:1])
    (y * y).mean().backward()
    optim.SGD(model.parameters(), lr=RATE).step()
    assert abs(found["after"] - found["y"]).max() > 1e-4
    if not name.startswith("cnn"):  # whose norm the exporter has put into the convolution, so that steps are others
        assert_close(model(*xs), found["after"])


@pytest.fixture
def beside(tmp_path: Path) -> tuple[Path, Any]:
    """A file with arrays in one beside it, and what it is made of."""
    path, _ = exported(tmp_path, "cnn")
    proto = onnx.load_model_from_string(path.read_bytes())
    return path, proto


def change(proto: Any, **entries: str | None) -> None:
    """Say something else of where the first array that lies in another file is; None: nothing of that."""
    tensor = next(t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    kept = {e.key: e.value for e in tensor.external_data} | entries
    tensor.ClearField("external_data")
    for key, value in kept.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)


OUTSIDE = {
    "location": ["../m.onnx.data", "/etc/passwd", "sub/m.onnx.data", "..", ".", "", "sub\\m.onnx.data", "m\0.data", None],
    "offset": ["-1", "1e3", "1" * 30, "4294967296", "\u0663", ""],
    "length": ["4", "-4", "1" * 19, "0"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in OUTSIDE.items() for value in values])
def test_what_a_file_says_of_another_is_not_believed(key: str, value: str | None, beside: tuple[Path, Any]) -> None:
    path, proto = beside
    change(proto, **{key: value})
    path.write_bytes(proto.SerializeToString())
    expected = {
        "location": "expected a file name in the same folder", "offset": "integer|truncated, or of another model",
        "length": "integer|declares shape .* bytes",
    }  # fmt: skip
    with pytest.raises(DataError, match=rf"m\.onnx: \d\.weight: .*({expected[key]})"):
        load(path)


def test_length_and_offset_may_be_left_out(beside: tuple[Path, Any]) -> None:
    path, proto = beside
    expected = load(path).state_dict()
    change(proto, length=None)
    path.write_bytes(proto.SerializeToString())
    assert all(np.array_equal(a, expected[name]) for name, a in load(path).state_dict().items())


def test_the_file_beside_is_looked_at(beside: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = beside
    data = path.with_name("m.onnx.data")
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"weight: declares bytes \d+ to 864 of m.onnx.data, which has 863: truncated"):
        load(path)
    data.unlink()
    with pytest.raises(DataError, match=r"weight: its arrays are in m.onnx.data, which is not in the same folder; both files"):
        load(path)
    data.mkdir()
    with pytest.raises(DataError, match="which is not in the same folder"):
        load(path)
    data.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").write_bytes(content)
    data.symlink_to(elsewhere / "secret")
    with pytest.raises(DataError, match=r"m\.onnx\.data is a link to another folder"):
        load(path)
    path.rename(elsewhere / "model")  # as downloads are kept: both are links to one folder
    path.symlink_to(elsewhere / "model")
    load(path)


def test_arrays_that_share_bytes_are_refused(beside: tuple[Path, Any]) -> None:
    """A small file that asks for much memory."""
    path, proto = beside
    tensor = next(t for t in proto.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    for i in range(9):
        more = proto.graph.initializer.add()
        more.CopyFrom(tensor)
        more.name = f"more{i}"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(DataError, match=r"more.: the arrays declare more bytes than m.onnx.data has, 864"):
        load(path)


def test_only_initialisers_may_be_elsewhere(path: Path) -> None:
    """A checker that lets others pass is not what keeps them out."""

    from tensorgrad.onnx.load import array_of

    tensor = TensorProto(name="w", data_location=TensorProto.EXTERNAL, data_type=FLOAT, dims=[2])
    with pytest.raises(DataError, match="w is stored in another file, which is only supported for initialisers"):
        array_of(path, onnx, tensor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_learned(dtype: str, path: Path) -> None:
    """The package onnx brings the dtype along."""
    import ml_dtypes  # which onnx needs

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    masked = np.array([0, ml_dtypes.finfo(kind).min]).astype(kind)
    given = (getattr(TensorProto, dtype.upper()), ["n", 2])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "mask"], ["y"])]
    write(path, nodes, {"w": np.eye(2).astype(kind), "mask": masked}, {"x": given}, {"y": given})
    model = load(path)
    assert [(name, p.dtype) for name, p in model.named_parameters()] == [("w", kind)]
    assert model(np.ones((3, 2), kind)).dtype == kind


def turned_and_joined(axis: int, perm: list[int]) -> list[Any]:
    return [
        helper.make_node("Transpose", ["x"], ["z"], "turned", perm=perm),
        helper.make_node("Concat", ["z", "z"], ["y"], "joined", axis=axis),
    ]


MISFITS = {
    "turned": turned_and_joined(0, [0, 1, 2]),
    "joined": turned_and_joined(7, [1, 0]),
    "split": [helper.make_node("Split", ["x"], ["y", "z"], "split", axis=9, num_outputs=2)],
    "squeezed": [helper.make_node("Unsqueeze", ["x", "axes"], ["y"], "squeezed")],
    "pooled": [helper.make_node("MaxPool", ["x"], ["y"], "pooled", kernel_shape=[2, 2], pads=[0, 0, 0])],
}


@pytest.mark.parametrize("name", MISFITS)
def test_operators_that_do_not_fit_are_named(name: str, path: Path) -> None:
    """Whatever goes wrong is an error of the package's, which names the operator."""
    shape = ["n", 2]
    write(path, MISFITS[name], {"axes": np.array([0, 0])}, {"x": (FLOAT, shape)}, {"y": (FLOAT, shape)}, opset=18)
    with pytest.raises(TensorgradError) as raised:
        load(path)(floats(3, 2))
    assert re.search(f"onnx.load: .*{name}", f"{raised.value} {getattr(raised.value, '__notes__', '')}")


def test_how_it_is_called(path: Path) -> None:
    export(nn.Linear(2, 2), floats(3, 2), path)
    model = load(path)
    with pytest.raises(DataError, match=r"onnx\.load: the file has the inputs x, got 2"):
        model(floats(3, 2), floats(3, 2))
    with pytest.raises(FileNotFoundError):
        load(path.with_name("none.onnx"))
