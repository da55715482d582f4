"""Files of ONNX's that are written: onnxruntime's results are those of the model, for any number of samples."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx as format_of_onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from tensorgrad.models import MLP, MLPClassifier, handwritten

import tensorgrad
from tensorgrad import Tensor, data, nn, ops
from tensorgrad.errors import ArgumentError, ExportError, MissingDependencyError
from tensorgrad.nn import functional as F
from tensorgrad.onnx import export
from tensorgrad.onnx.table import COUNTERPARTS, UNSUPPORTED
from tensorgrad.op import REGISTRY, Op
from tests import test_weights

TOLERANCE = 1e-6  # of the larger of 1 and the value
GALLERY = Path(__file__).parents[1] / "examples" / "gallery"

# onnxruntime has no kernels of these for float64; ONNX's own evaluator, which is slow, has them
WITHOUT_KERNEL = {"arccos", "arcsin", "arctan", "arctan2", "det", "det_sign", "erf", "gelu"}


def run(path: Path, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})


def close(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found.astype("f8"), expected.astype("f8"), rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(found, expected)


def results(model: nn.Module, args: tuple[Any, ...]) -> list[np.ndarray]:
    """The model's own, in evaluation mode."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    found = model(*[Tensor(a) if isinstance(a, np.ndarray) else a for a in args])
    for m, mode in modes:
        m.training = mode
    parts = found if isinstance(found, tuple) else list(found.values()) if isinstance(found, dict) else (found,)
    return [t.detach().numpy() for t in parts if t is not None]


def compare(model: nn.Module, path: Path, *args: Any, counts: tuple[int, ...] = (1, 4, 7), axis: int = 0) -> None:
    """Write the model, and hold onnxruntime's results against its own, for several numbers of samples."""
    export(model, args if len(args) > 1 else args[0], path, batch_axis=axis)
    for n in counts:
        more = tuple(a.take(np.arange(n) % a.shape[axis], axis) if isinstance(a, np.ndarray) and a.ndim else a for a in args)
        found = run(path, [a for a in more if isinstance(a, np.ndarray)])
        for y, expected in zip(found, results(model, more), strict=True):
            close(y, expected)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.onnx"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Every op


class One(nn.Module):
    """A model that is one op."""

    def __init__(self, op: Op, attrs: dict[str, Any]) -> None:
        super().__init__()
        self.op, self.attrs = op, attrs

    def forward(self, *xs: Any) -> Any:
        return self.op.apply(*xs, **self.attrs)


def test_every_op_has_a_counterpart_or_a_reason() -> None:
    own = {op for op in REGISTRY.values() if type(op).__module__.startswith("tensorgrad.")}
    assert own == {*COUNTERPARTS, *UNSUPPORTED}
    assert not {*COUNTERPARTS} & {*UNSUPPORTED}
    assert sorted(op.name for op in UNSUPPORTED) == REFUSALS


REFUSALS = [
    "all_reduce", "assign", "attention_grad", "checkpoint", "cholesky", "ctc", "ctc_grad", "ctc_states", "eigh_factors",
    "gru_grad", "inv", "last_named", "logabsdet", "lstm_grad", "pinv", "qr_factors", "rnn_grad", "solve", "sparse_matmul",
    "svd_factors",
]  # fmt: skip

DTYPES = ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
# What NumPy computes in float16 of uint8, and what is not defined: a division by 0, a shift by less than 0
LEFT_OUT = {("mod", "bool"), ("floordiv", "bool"), ("left_shift", "int64"), ("left_shift", "int32"), ("right_shift", "int64"),
            ("right_shift", "int32"), ("sigmoid_cross_entropy_grad", "uint8"), ("sigmoid_cross_entropy", "uint8"),
            ("linear_sigmoid", "uint8")}  # fmt: skip
NAMED = {"a boolean index, whose values determine a shape", "an index by Tensors after other axes"}


def converted(x: Any, dtype: str) -> np.ndarray:
    """An argument of an op in another dtype; those that are integers as they are."""
    x = np.asarray(x)
    if x.dtype.kind != "f" or dtype == "float64":
        return x
    if dtype == "bool":
        return np.asarray(x > 0)
    if dtype == "uint8":
        x = np.round(abs(x) * 3) + 1
    return np.asarray(np.round(x * 3) if dtype.startswith("int") else x).astype(dtype)


def check_op(name: str, dtype: str, seed: int, path: Path) -> bool:
    """Whether NumPy has this op for these dtypes, and the file the same."""
    op = REGISTRY[name]
    given, attrs = op.sample(np.random.default_rng(seed), (2, 3))
    xs = [converted(x, dtype) for x in given]
    try:
        expected = op.apply(*map(Tensor, xs), **attrs).numpy()
    except Exception:
        return False
    try:
        export(One(op, attrs), tuple(xs), path, batch_axis=None)
    except ExportError as error:
        if name in ("gather", "scatter") and any(reason in str(error) for reason in NAMED):
            return False
        raise
    try:
        (y,) = run(path, xs)
    except Exception as error:
        if name not in WITHOUT_KERNEL or "NOT_IMPLEMENTED" not in str(error):
            raise
        inputs = [i.name for i in format_of_onnx.load(path).graph.input]
        (y,) = map(np.asarray, ReferenceEvaluator(str(path)).run(None, dict(zip(inputs, xs, strict=True))))
    close(y, expected, 4e-3 if expected.dtype == np.float16 else TOLERANCE)  # four units of float16 beyond 1
    return True


@pytest.mark.parametrize("name", sorted(op.name for op in COUNTERPARTS))
@pytest.mark.every(1)
def test_each_op(name: str, path: Path) -> None:
    assert any(check_op(name, "float32", seed, path) for seed in range(9))


@pytest.mark.parametrize("name", sorted(op.name for op in COUNTERPARTS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.every(18)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what overflows in NumPy does so there
def test_each_op_of_each_dtype(name: str, dtype: str, path: Path) -> None:
    if (name, dtype) not in LEFT_OUT:
        check_op(name, dtype, 1, path)


def test_random_numbers_are_random_in_the_file(path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Any) -> Any:
            return tensorgrad.rand(x.shape) * 2, F.dropout(x, 0.3)

    export(Model(), np.ones((4, 500), "f"), path)
    u, x = run(path, [np.ones((40, 500), "f")])
    assert 0.97 < u.mean() < 1.03
    assert 1.9 < u.max() < 2
    assert 0.28 < (x == 0).mean() < 0.32
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    first, second = (session.run(None, {"x": np.ones((40, 500), "f")})[0] for _ in range(2))
    assert not np.array_equal(first, second)


# The gallery and the five systems


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    monkeypatch.syspath_prepend(GALLERY)
    known = dict(REGISTRY)

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"gallery_{name}", GALLERY / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in REGISTRY.keys() - known.keys():
        REGISTRY.pop(name)


class Function(nn.Module):
    """A function of a page, and the model that it calls, as one model."""

    def __init__(self, fn: Callable[..., Any], *models: nn.Module) -> None:
        super().__init__()
        self.fn, self.models = fn, nn.ModuleList(models)

    def forward(self, *xs: Any) -> Any:
        return self.fn(*self.models, *xs)


def floats(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(dtype)


def whole(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, high, shape)


def derivative(p: Any) -> Callable[..., Any]:
    """The residual that the network of pinn.py is to make 0: a model whose result has derivatives of third order in it."""

    def residual(net: nn.Module, x: Any, t: Any) -> Any:
        x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
        u = net(tensorgrad.concatenate([x, t], axis=1))
        u_x = p.by(u, x)
        return (p.by(u, t) + 6 * u * u_x + p.by(p.by(u_x, x), x)).detach()

    return residual


CASES: dict[str, Callable[[Any], tuple[nn.Module, tuple[np.ndarray, ...]]]] = {
    "cnn": lambda p: (p.model(rng0()), (floats(3, 1, 8, 8),)),
    "gpt": lambda p: (p.model(rng0()), (whole(len(p.LETTERS), 3, p.T),)),
    "gan": lambda p: (p.model((2, 8, 2), rng0()), (floats(3, 2),)),
    "half_precision": lambda p: (p.model(rng0()).to(dtype="float16"), (floats(3, 64, dtype="float16"),)),
    "maml": lambda p: (p.model(rng0()), (floats(3, 1),)),
    "many_at_once": lambda p: (nn.Ensemble(p.model(rng0()) for _ in range(5)), (floats(3, 2),)),
    "matrix_factorisation": lambda p: (p.model(rng0()), (whole(p.USERS, 3), whole(p.FILMS, 3))),
    "mixture_density": lambda p: (p.model(rng0()), (floats(3, 1, dtype="float64"),)),
    "neural_ode": lambda p: (
        Function(lambda net, y: tensorgrad.stack(p.solve(lambda z: net(z**3), y, p.POINTS)), p.model(rng0())),
        (floats(3, 2),),
    ),
    "own_parts": lambda p: (p.model(rng0()), (floats(3, 64),)),
    "pinn": lambda p: (Function(derivative(p), p.model(rng0())), (floats(3, 1, dtype="float64"),) * 2),
    "reinforcement": lambda p: (p.model(rng0()), (floats(3, 2),)),
    "save_and_load": lambda p: (p.model(rng0()), (floats(3, 64),)),
    "triplet": lambda p: (p.model(rng0()), (floats(3, 64),)),
    "vae": lambda p: (p.model(rng0()).encoder, (floats(3, 64),)),
}
ELSEWHERE = {"char_rnn", "gcn", "newton", "estimators", "notebook", "pages"}  # below, but for what is no model


def rng0() -> np.random.Generator:
    return np.random.default_rng(0)


def test_each_page_is_written() -> None:
    assert {path.stem for path in GALLERY.glob("*.py")} == {*CASES, *ELSEWHERE}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.every(1)
def test_the_gallery(name: str, page: Callable[[str], Any], path: Path) -> None:
    model, args = CASES[name](page(name))
    if name == "half_precision":  # what is rounded once for each operation here may be rounded the other way
        export(model, args[0], path)
        close(run(path, list(args))[0], results(model, args)[0], 2e-3)  # two units beyond 1
        return
    compare(model, path, *args)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_the_recurrent_networks_of_the_gallery(kind: str, page: Callable[[str], Any], path: Path) -> None:
    p = page("char_rnn")
    compare(p.model(kind, rng0()), path, whole(len(p.LETTERS), 3, 12))


@pytest.mark.parametrize("way", ["matrix", "edges"])
def test_the_graph_network_of_the_gallery(way: str, page: Callable[[str], Any], path: Path) -> None:
    """Its nodes are no samples: their number is that of the graph."""
    p = page("gcn")
    x, _, (begin, end), weights, _ = p.graph()
    matrix = np.zeros((60, 60), np.float32)
    matrix[end, begin] = weights[:, 0]
    spread = {
        "matrix": lambda x: matrix @ x,
        "edges": lambda x: tensorgrad.put(x[begin] * weights, end, (60, x.shape[1])),
    }[way]
    model = Function(lambda net, x: net(spread, x), p.model(rng0()))
    with pytest.raises(tensorgrad.errors.TensorgradError) as raised:
        export(model, x, path)
    assert "batch_axis=None" in f"{raised.value} {getattr(raised.value, '__notes__', '')}"
    export(model, x, path, batch_axis=None)
    close(run(path, [x])[0], results(model, (x,))[0])


def test_an_estimator(path: Path) -> None:
    X, y = data.load_digits()
    classifier = MLPClassifier((8,), max_iter=3, tol=1.0, n_iter_no_change=1, random_state=0).fit(X[:100], y[:100])
    model = nn.Sequential(classifier.module_, nn.Softmax())
    export(model, X[:4], path)
    np.testing.assert_allclose(run(path, [X[:30]])[0], classifier.predict_proba(X[:30]), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", handwritten.SYSTEMS)
@pytest.mark.every(1)
def test_the_five_systems(name: str, path: Path) -> None:
    """Each at its own size, with the loss's own last step, softmax or sigmoid, behind it."""
    system = handwritten.SYSTEMS[name]
    activation = "relu" if system.hidden == "relu" else "logistic"
    model = nn.Sequential(MLP(system.widths, activation, rng=rng0()), nn.Sigmoid() if name == "D" else nn.Softmax())
    compare(model, path, np.random.default_rng(1).uniform(size=(5, system.widths[0])).astype("f"))


# Layers


@pytest.mark.parametrize("name", test_weights.LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_layer(name: str, dtype: str, path: Path) -> None:
    """With PyTorch's weights: the file gives what PyTorch gives, too."""
    with np.load(test_weights.GOLDEN) as file:
        x, y = file[f"{name}/x"], file[f"{name}/y"]
        state = {key.split("/")[2]: file[key] for key in file if key.startswith(f"{name}/state/")}
    layer = test_weights.LAYERS[name]()
    layer.load_state_dict(state, layout="torch")
    layer.to(dtype=dtype)
    x = x.astype(dtype) if x.dtype.kind == "f" else x
    if name == "Softmin":  # over the samples
        compare(layer, path, x, counts=(3,), axis=1)
        return
    compare(layer, path, x)
    np.testing.assert_allclose(run(path, [x])[0], y, rtol=1e-5, atol=1e-5)  # float32 of another library


class Called(nn.Module):
    """A layer, and how it is called."""

    def __init__(self, layer: nn.Module, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.fn = layer, fn

    def forward(self, *xs: Any) -> Any:
        return self.fn(self.layer, *xs)


def lengths(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 5, n)


SEQUENCES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], tuple[np.ndarray, ...], int]] = {
    "LSTM of two layers": (lambda: nn.LSTM(3, 4, 2, bidirectional=True), lambda m, x: m(x)[0], (floats(5, 3, 3),), 1),
    "GRU, its state": (lambda: nn.GRU(3, 4, batch_first=True), lambda m, x: m(x)[1], (floats(3, 5, 3),), 0),
    "RNN of relu": (lambda: nn.RNN(3, 4, nonlinearity="relu", batch_first=True), lambda m, x: m(x)[0], (floats(3, 5, 3),), 0),
    "LSTM of several lengths": (
        lambda: nn.LSTM(3, 4, batch_first=True), lambda m, x, n: m(x, None, n)[0], (floats(3, 4, 3), lengths(3)), 0,
    ),
    "attention with weights": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True), lambda m, x: m(x, x, x), (floats(3, 5, 4),), 0,
    ),
    "attention with padding": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda m, x, mask: m(x, x, x, mask, need_weights=False)[0],
        (floats(3, 5, 4), np.arange(5) >= lengths(3)[:, None]), 0,
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        lambda m, x: m(x, is_causal=True), (floats(3, 5, 8),), 0,
    ),
    "decoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, activation="gelu", norm_first=True), 1),
        lambda m, x, memory: m(x, memory), (floats(4, 3, 8), floats(5, 3, 8)), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.every(1)
def test_sequences(name: str, path: Path) -> None:
    make, fn, args, axis = SEQUENCES[name]
    nn.init.seed(0)
    compare(Called(make(), fn), path, *args, axis=axis)


# The number of samples


SHAPED: dict[str, Callable[[Any], Any]] = {
    "shape[0]": lambda x: x.reshape((x.shape[0], -1)),
    "all of it": lambda x: x.reshape(-1),
    "twice": lambda x: tensorgrad.concatenate([x, x], axis=0).reshape((2, x.shape[0], 6)),
    "zeros": lambda x: x + np.zeros((x.shape[0], 2, 3), np.float32),
    "arange": lambda x: x * tensorgrad.arange(x.shape[0], dtype="float32").reshape((-1, 1, 1)),
    "number": lambda x: x.sum(0) / x.shape[0],
    "share": lambda x: x * (1 / x.shape[0]),
    "last": lambda x: x[x.shape[0] - 1],
    "but for the last": lambda x: x[: x.shape[0] - 1] + x[1:],
    "arange in NumPy": lambda x: x * np.arange(x.shape[0])[:, None, None],
    "mean": lambda x: x.mean((0, 2)),
    "row by column": lambda x: x.reshape((-1, 6)) @ x.reshape((-1, 6)).T,
    "sorted": lambda x: ops.sort(x, 0),
    "padded": lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 2)), 1.5),
    "written into": lambda x: ops.setitem(x, 7.0, (slice(None), [1, 0, 1], slice(0, 2))),
    "columns": lambda x: x[:, [1, 0, 1]],
    "entries": lambda x: x[:, [1, 0], [2, 2]],
    "a mask": lambda x: x[:, :, np.array([True, False, True])],
    "one": lambda x: x[:, 1, ..., None],
    "backwards": lambda x: x[:, ::-1, -1],
    "picked": lambda x: ops.take_along_axis(x, x.argmax(2, keepdims=True), 2),
    "running": lambda x: ops.cumprod(x, 1) + ops.cumsum(x, 2),
    "one hot": lambda x: ops.one_hot(x.argmax(2), 4),
    "spread": lambda x: x.std(0) + x.norm(axis=(0, 1)),
    "einsum": lambda x: ops.einsum("bij,bkj->bik", x, x),
    "windows": lambda x: F.avg_pool1d(x, 3, 1, 1) + F.max_pool1d(x, 3, 1, 1),
}


@pytest.mark.parametrize("name", SHAPED)
@pytest.mark.every(2)
def test_any_number_of_samples(name: str, path: Path) -> None:
    compare(Function(SHAPED[name]), path, floats(4, 2, 3), counts=(2, 4, 9))


def test_one_number_of_samples(path: Path) -> None:
    export(Function(lambda x: x.sum(0) * 2), np.ones((4, 3), "f"), path, batch_axis=None)
    (x,) = format_of_onnx.load(path).graph.input
    assert [d.dim_value for d in x.type.tensor_type.shape.dim] == [4, 3]


# What it looks like


def test_names(path: Path) -> None:
    """Parameters and operators by the paths of modules, inputs by forward's arguments, results by the keys of a dict."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))

        def forward(self, image: Any, scale: Any) -> Any:
            z = self.body(image) * scale
            return {"logits": z, "labels": z.argmax(1), "image": image}

    export(Model(), (floats(2, 1, 4, 4), floats(2, 1)), path)
    model = format_of_onnx.load(path)
    assert [i.name for i in model.graph.input] == ["image", "scale"]
    assert [o.name for o in model.graph.output] == ["logits", "labels", "image_2"]
    assert [n.name for n in model.graph.node] == [
        "body.0.Conv", "body.1.BatchNormalization", "body.2.Relu", "body.3.Reshape", "body.4.Gemm", "Mul", "ArgMax",
        "image_2.Identity",
    ]  # fmt: skip
    names = {t.name for t in model.graph.initializer}
    assert names >= {"body.0.weight", "body.1.running_var", "body.4.bias"}
    assert model.opset_import[0].version == 20
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 1, 4, 4]


def test_a_weight_with_two_names_is_written_once(path: Path) -> None:
    layer = nn.Linear(3, 3)
    compare(nn.Sequential(layer, nn.Tanh(), layer), path, floats(3, 3))
    assert len(format_of_onnx.load(path).graph.initializer) == 2


def test_the_model_stays_as_it_was(path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before, state = model.state_dict(), np.random.default_rng(0)
    model[2].rng = state
    first = state.bit_generator.state
    export(model, floats(4, 3), path, training=True)
    assert any(n.op_type == "RandomUniformLike" for n in format_of_onnx.load(path).graph.node)
    export(model, floats(4, 3), path)
    assert not any("Random" in n.op_type for n in format_of_onnx.load(path).graph.node)
    assert model.training
    assert model[2].training
    assert state.bit_generator.state == first
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_what_parameters_alone_decide_is_computed(path: Path) -> None:
    """A matrix that has to be inverted, for which there is no operator."""
    compare(Function(lambda layer, x: x @ tensorgrad.inv(layer.weight), nn.Linear(3, 3)), path, floats(4, 3))


# What is refused


def test_all_ops_without_a_counterpart_are_listed_with_their_places(path: Path) -> None:
    def forward(x: Any) -> Any:
        y = tensorgrad.inv(x)
        z = tensorgrad.inv(x + 1)
        return tensorgrad.svd(y @ z)[1]

    path.write_bytes(b"before")
    with pytest.raises(ExportError) as raised:
        export(Function(forward), floats(2, 3, 3), path)
    text = str(raised.value)
    line = forward.__code__.co_firstlineno
    assert re.search(rf"inv \(ONNX has no operator for it\) at test_onnx.py:{line + 1}; at test_onnx.py:{line + 2}", text)
    assert f"svd_factors (ONNX has no operator for it) at test_onnx.py:{line + 3}" in text
    assert path.read_bytes() == b"before"


class Mine(Op):
    """y = 2 x

    forward    y  = 2 x
    backward   gx = 2 g
    """

    name, signature = "mine_of_onnx", "()->()"

    def forward(self, xp: Any, x: Any) -> Any:
        return 2 * x

    def backward(self, g: Any, y: Any, x: Any) -> Any:
        return (lambda: 2 * g,)


def counted(x: Any) -> Any:
    counts[...] += 1
    return x


counts = np.zeros(1)
SAMPLES_DIFFER = "the model does something else for a different number of samples"
REFUSED_MODELS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an operation of one's own": (lambda x: own_op()(x), r"mine_of_onnx \(a custom operation; write it with operations"),
    "a value": (lambda x: x if x.sum().item() > 0 else -x, r"item\(\) needs the value of a Tensor \(\) in the model at"),
    "a branch": (lambda x: x if x.sum() > 0 else -x, "needs the value of a Tensor"),
    "a loop": (lambda x: tensorgrad.stack([x[i].exp() for i in range(x.shape[0])]), SAMPLES_DIFFER),
    "a share": (lambda x: x * (1 / (x.shape[0] + 1)), "number of samples in an unknown way; batch_axis=None"),
    "every other": (lambda x: x[::2], "of getitem at test_onnx.py:.* depends on the number"),
    "square": (lambda x: x.sum(0) * x.shape[0] ** 2, "an argument or an attribute of mul at test_onnx.py:.* depends on"),
    "random array": (lambda x: x + rng0().random(x.shape, np.float32), "creates with NumPy depends on the number"),
    "other values": (
        lambda x: x + np.full(3, x.shape[0] ** 2, np.float32),
        "an array \\(3,\\) that it reads has different values",
    ),
    "no Tensor": (lambda x: 3, "the model returned 3, expected Tensors"),
}


def own_op() -> Op:
    return REGISTRY.get("mine_of_onnx") or Mine()


@pytest.mark.parametrize("name", REFUSED_MODELS)
@pytest.mark.every(1)
def test_models_that_are_refused(name: str, path: Path) -> None:
    forward, message = REFUSED_MODELS[name]
    try:
        with pytest.raises(ExportError, match=message):
            export(Function(forward), floats(4, 3), path)
    finally:
        REGISTRY.pop("mine_of_onnx", None)
    assert not path.exists()


def test_a_model_that_keeps_something_is_refused(path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sum", np.zeros(3, np.float32))

        def forward(self, x: Any) -> Any:
            total = Tensor(self.sum) + x.sum(0)
            with tensorgrad.no_grad():
                self.memory[...] = total
            return x * total

    model = Model()
    model.memory = Tensor(np.zeros(3, np.float32))
    with pytest.raises(ExportError, match=r"changes an array \(3,\) that outlives the call at test_onnx.py:\d+; a file keeps"):
        export(model, floats(4, 3), path)
    assert not model.memory.data.any()


def test_arguments(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Linear(3, 2), floats(4, 3)
    for given, message in (
        ((abs, x, path), "onnx.export: model must be a module, got"),
        ((model, x, path.with_suffix(".pt")), "expected a file name ending in .onnx, got 'm.pt'"),
    ):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            export(*given)
    for nothing in ({"x": x}, None, 2.5, "x", (), [[1.0, 2.0, 3.0]], (x.tolist(),), (x, {"x": x})):
        with pytest.raises(
            ArgumentError, match=r"onnx\.export: x must be an array, or a tuple of the arguments of forward, .* got"
        ):
            export(model, nothing, path)
    for nothing in (np.array(["a"] * 4), np.array([None] * 4), np.datetime64("2020")):
        with pytest.raises(tensorgrad.errors.DTypeError, match=r"onnx\.export: x must be numeric or boolean, got"):
            export(model, nothing, path)
    with pytest.raises(ArgumentError, match=re.escape("onnx.export: training must be True or False, got 'no'")):
        export(model, x, path, training="no")
    for axis, message in ((2, "must be an axis of x, shape (4, 3), or None, got 2"), ((0, 0), "has 2 entries for 1 arrays")):
        with pytest.raises(ExportError, match=re.escape(f"onnx.export: batch_axis {message}")):
            export(model, x, path, batch_axis=axis)
    with pytest.raises(ExportError, match="the inputs have no samples"):
        export(model, x[:0], path)
    with pytest.raises(ExportError, match=r"the inputs have \[3, 4\] samples; batch_axis gives the axis of each"):
        export(Function(lambda a, b: a), (x, x[:3]), path)
    with pytest.raises(tensorgrad.errors.ShapeError) as raised:
        export(model, floats(4, 2), path)
    assert "called the model with 2 samples" in raised.value.__notes__[0]
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=re.escape("needs onnx: pip install onnx")):
        export(model, x, path)


class Clashing(nn.Module):
    """Parameters that are called as the input, the result and one another are, in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Parameter(floats(3)), nn.Parameter(floats(3) + 1)
        setattr(self, "a b", nn.Linear(3, 3))
        self.a_b = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a_b(getattr(self, "a b")(x)) * self.x + self.y


def test_names_that_are_taken(path: Path) -> None:
    model, x = Clashing(), floats(4, 3)
    export(model, x, path)
    np.testing.assert_allclose(run(path, [x])[0], model(x).detach().numpy(), rtol=1e-6, atol=1e-6)
    names = {t.name for t in format_of_onnx.load(str(path)).graph.initializer}
    assert names >= {"x_2", "y", "a_b.weight", "a_b.weight_2"}

    class Nest(nn.Module):
        def forward(self, a: Any, a0: Tensor) -> Tensor:
            return a[0] + a[1] * a0

    export(Nest(), ((x, x), x), path)
    assert [i.name for i in format_of_onnx.load(str(path)).graph.input] == ["a0", "a1", "a0_2"]
    np.testing.assert_allclose(run(path, [x, x + 1, x + 2])[0], x + (x + 1) * (x + 2), rtol=1e-6)


def test_arguments_of_any_number(path: Path) -> None:
    """What takes further keywords has no input of their name; bytes in the other order are numbers."""

    class Any_(nn.Module):
        def forward(self, *xs: Tensor, **more: Any) -> Tensor:
            return xs[0] + 2 * xs[1]

    x = floats(4, 3)
    export(Any_(), (x.astype(">f4"), x), path)
    assert [i.name for i in format_of_onnx.load(str(path)).graph.input] == ["x0", "x1"]
    np.testing.assert_allclose(run(path, [x, x])[0], 3 * x, rtol=1e-6)
