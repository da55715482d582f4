"""What is called how: signatures, names and docstrings as people and type checkers see them, and what each `__all__` lists."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, data, draw, nn, ops, optim, testing, train
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = [
    module for _, name, _ in iter_modules(ops.__path__) if hasattr(module := import_module(f"tensorgrad.ops.{name}"), "__all__")
]
PARTS = [
    import_module(f"tensorgrad.nn.{name}")
    for name in (
        *("activations", "attention", "containers", "convolution", "ensemble", "layers", "losses", "module", "normalisation"),
        *("images", "recurrent"),
    )
]

ALIASES = {"amax": "max", "amin": "min"}
# arguments of which there may be any number: the function, or method, and what they are called
VARIADIC = {
    "Tensor.reshape": "shape", "Tensor.transpose": "axes", "Tensor.permute": "axes", "Tensor.graph": "more",
    "tensorgrad.checkpoint": "xs", "tensorgrad.concatenate": "xs", "tensorgrad.einsum": "operands", "tensorgrad.meshgrid": "xs",
    "nn.Sequential": "modules", "nn.Module.forward": "args kwargs",
    "nn.Ensemble.forward": "args kwargs", "draw.graph": "more", "draw.architecture": "inputs", "data.DataLoader": "arrays",
    "testing.check_compiled": "args", "data.split": "fractions", "optim.Optimiser": "settings", "train.History.plot": "options",
}  # fmt: skip


def names_of(where: str, module: ModuleType) -> Iterator[Any]:
    """Every function and class of a module, and the public methods that the classes define themselves."""
    for name in module.__all__:
        found = getattr(module, name)
        if isinstance(found, ModuleType):
            continue
        yield pytest.param(f"{where}.{name}", found, id=f"{where}.{name}")
        if isinstance(found, type) and not issubclass(found, (Tensor, BaseException)):
            for method, member in vars(found).items():
                if not method.startswith("_") and inspect.isfunction(member):
                    yield pytest.param(f"{where}.{name}.{method}", member, id=f"{where}.{name}.{method}")


MODULES = {
    "tensorgrad": tensorgrad,
    "F": F,
    "nn": nn,
    "optim": optim,
    "train": train,
    "data": data,
    "draw": draw,
    "testing": testing,
}
METHODS = {
    name: member
    for name in dir(Tensor)
    if not name.startswith("_")
    and (inspect.isfunction(member := inspect.getattr_static(Tensor, name)) or isinstance(member, property))
}


@pytest.mark.parametrize(
    ("name", "function"),
    [
        *(p for where, module in MODULES.items() for p in names_of(where, module)),
        *((f"Tensor.{n}", m) for n, m in METHODS.items() if not isinstance(m, property)),
    ],
)
def test_what_is_public_says_how_it_is_called(name: str, function: Callable[..., Any]) -> None:
    own = name.rpartition(".")[2]
    assert function.__name__ == ALIASES.get(own, own)
    assert (inspect.getdoc(function) or "").strip()
    if isinstance(function, type) and issubclass(function, BaseException):
        return
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    many = {p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    assert many == set(VARIADIC.get(name, "").split()) or own == "update"  # an optimiser's rule takes its state and its numbers
    assert not [p.name for p in parameters if p.annotation is p.empty]
    assert isinstance(function, type) or signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", [name for name, member in METHODS.items() if isinstance(member, property)])
def test_properties_of_a_tensor(name: str) -> None:
    assert METHODS[name].__doc__


@pytest.mark.parametrize("name", [name for name in METHODS if name in ops.__all__])
def test_a_method_is_the_function(name: str) -> None:
    """Name, docstring, and signature but for the first argument; where a method is called in another way it says so itself."""
    method, function = getattr(Tensor, name), getattr(ops, name)
    assert method.__name__ == name
    if name in ("reshape", "transpose"):
        assert method.__doc__ != function.__doc__
        return
    assert inspect.getdoc(method) == inspect.getdoc(function)
    assert inspect.signature(method) == inspect.signature(function)
    first, *others = inspect.signature(function).parameters.values()
    assert first.annotation == "Operand[T]"
    assert list(inspect.signature(getattr(Tensor([1.0]), name)).parameters.values()) == others


def test_the_method_that_draws_is_the_function() -> None:
    _, *ours = inspect.signature(Tensor.graph).parameters.values()
    _, *theirs = inspect.signature(draw.graph).parameters.values()
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


@pytest.mark.parametrize("op", REGISTRY.values(), ids=REGISTRY)
def test_an_op_can_be_called_as_it_says(op: Op) -> None:
    """With what it is tried out with: its arguments by place, its attributes by keyword."""
    args, attrs = op.sample(np.random.default_rng(0))
    bound = inspect.signature(op).bind(*args, **attrs)
    np.testing.assert_array_equal(op(*bound.args, **bound.kwargs), op(*args, **attrs))


def test_ops_without_attributes() -> None:
    assert str(inspect.signature(tensorgrad.exp)) == "(x: 'Operand[T]', /) -> 'T | Array'"
    assert (
        str(inspect.signature(tensorgrad.where)) == "(cond: 'Operand[T]', a: 'Operand[T]', b: 'Operand[T]', /) -> 'T | Array'"
    )
    with pytest.raises(AttributeError):
        _ = Op.__signature__
    assert not inspect.signature(type(tensorgrad.exp)).parameters  # to make one


def test_help_shows_a_function() -> None:
    text = pydoc.render_doc(tensorgrad.exp, renderer=pydoc.plaintext)
    assert re.search(r"^exp\(x: 'Operand\[T\]', /\) -> .*\n    y = exp\(x\)\n.*\n    forward    y  = e\^x$", text, re.MULTILINE)
    assert "class Exp" not in text
    assert re.search(r"^ +exp\(x: .*\n +y = exp\(x\)$", pydoc.render_doc(tensorgrad, renderer=pydoc.plaintext), re.MULTILINE)
    assert re.search(
        r"^ \|  relu\(x: .*\n \|      y = max\(x, 0\)", pydoc.render_doc(Tensor, renderer=pydoc.plaintext), re.MULTILINE
    )


def test_an_op_of_ones_own() -> None:
    class Scaled(Op):
        """y = k a + b"""

        name, signature = "scaled", "(),()->()"

        def forward(self, xp: Any, a: Any, b: Any, *, k: float = 2.0) -> Any:
            return k * a + b

    class Model:
        rule = Scaled()

    try:
        assert str(inspect.signature(Model.rule)) == "(a: 'Operand[T]', b: 'Operand[T]', /, *, k: 'float' = 2.0) -> 'T | Array'"
        assert Model().rule(1.0, 2.0, k=3.0) == 5  # it does not bind to the object that it is an attribute of
        assert Model.rule.__name__ == "scaled"
        assert "y = k a + b" in pydoc.render_doc(Model.rule)
    finally:
        del REGISTRY["scaled"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.relu(3), "relu: too many positional arguments; expected relu(x)"),
        (lambda t: tensorgrad.add(t), "add: missing a required argument: 'b'; expected add(a, b)"),
        (lambda t: tensorgrad.exp(t, base=2), "exp: got an unexpected keyword argument 'base'; expected exp(x)"),
        (lambda t: tensorgrad.where(t, t), "where: missing a required argument: 'b'; expected where(cond, a, b)"),
    ],
)
def test_wrong_calls(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call(Tensor([1.0]))


# Names


def test_every_family_is_gathered() -> None:
    listed = [name for family in FAMILIES for name in family.__all__]
    assert sorted(listed) == sorted(set(listed)) == sorted(ops.__all__)
    assert set(ops.__all__) < set(tensorgrad.__all__)
    assert all(getattr(tensorgrad, name) is getattr(family, name) for family in FAMILIES for name in family.__all__)
    activation, loss = import_module("tensorgrad.ops.activation"), import_module("tensorgrad.nn.loss")
    assert all(getattr(F, name) is getattr(module, name) for module in (activation, loss) for name in module.__all__)
    assert {*activation.__all__, *loss.__all__} < set(F.__all__)
    assert {*(name for part in PARTS for name in part.__all__), "functional", "init"} == set(nn.__all__)
    assert all(len(set(module.__all__)) == len(module.__all__) for module in MODULES.values())


def test_what_is_defined_is_listed() -> None:
    """Every op of a family, but for those that only rules and other functions use; every activation, layer and loss."""
    inner = {
        "all_reduce", "assign", "attention_grad", "ctc", "ctc_grad", "ctc_states", "det_sign", "eigh_factors", "first_of",
        "gather", "gru_grad", "keep_mask", "last_named", "inside", "log_complement_sigmoid", "lookup", "lstm_grad",
        "qr_factors", "rnn_grad", "scatter", "sparse_matmul", "sum_named", "svd_factors", "uniform", "extend", "fold_back",
        "first_so_far",
    }  # fmt: skip
    public = {op.name for op in map(vars(ops).get, ops.__all__) if isinstance(op, Op)}
    assert {name for name, op in REGISTRY.items() if type(op).__module__.startswith("tensorgrad.ops.")} - public == inner
    bases = {"Container", "Listed", "Loss", "Named", "Conv", "ConvTranspose", "Convolution", "Pool", "MaxPool", "AvgPool"}
    bases |= {"AdaptivePool", "Stack", "TransformerLayer", "Padding", "ConstantPad"}
    bases |= {"Cell", "GruSteps", "Layers", "LstmSteps", "Ragged", "Recurrent"}
    for part in PARTS:
        own = {name for name, it in vars(part).items() if isinstance(it, type) and it.__module__ == part.__name__}
        assert own - set(part.__all__) <= bases, part


def test_functions_that_are_no_methods() -> None:
    """Each name in methods.FUNCTIONS is a function, and a Tensor does not have it."""
    from tensorgrad.methods import FUNCTIONS

    assert set(FUNCTIONS) <= set(ops.__all__)
    assert not [name for name in FUNCTIONS if hasattr(Tensor, name)]


# What type checkers make of it

CALLS = """
from typing import Any

import numpy as np
import tensorgrad
from tensorgrad import Tensor, nn, optim
from tensorgrad.nn import functional as F
from tensorgrad.op import Op, Unary

t, array, rows = Tensor([1.0, 2.0]), np.ones((2, 3)), [[1.0, 2.0], [3.0, 4.0]]
anything: Any = t


class Doubled(Unary):
    name, signature = "doubled", "()->()"


class Scaled(Op):
    name, signature = "scaled", "()->()"


# functions
y: Tensor = tensorgrad.exp(t)
a: np.ndarray = tensorgrad.exp(array)
tensorgrad.exp(2.0).real
tensorgrad.exp(rows) + 1
tensorgrad.add(array, t).backward()
tensorgrad.where(t > 0, t, 0.0).sum(axis=0)
tensorgrad.sum(t, axis=(0, 1), keepdims=True).backward()
tensorgrad.clip(t, low=0.0, high=array)
tensorgrad.astype(t, "float64")
tensorgrad.concatenate([t, array], axis=0)
tensorgrad.concatenate(t, array, axis=0)
tensorgrad.einsum("ij,jk->ik", t, array)
tensorgrad.stack([t, t]).backward()
tensorgrad.stack([t, array], axis=1).backward()
tensorgrad.stack([array, array]).tofile("x")
tensorgrad.concatenate([array, array]).tofile("x")
tensorgrad.reshape(t, (-1, 1))
tensorgrad.pad(t, ((1, 1), (0, 0)), value=1.0)
tensorgrad.split(t, 2)[0].relu()
tensorgrad.one_hot([0, 2], 3, dtype=np.float64)
tensorgrad.exp(anything).whatever
F.cross_entropy(t, [1, 0], label_smoothing=0.1).backward()
F.relu(t).sum()
F.dropout(t, 0.1, training=False)
Doubled()(t).sum()
Scaled()(t, k=3)
tensorgrad.exp("a")  # wrong
tensorgrad.exp(t, t)  # wrong
tensorgrad.exp()  # wrong
tensorgrad.exp(["a"])  # wrong
tensorgrad.exp(None)  # wrong
tensorgrad.exp(t).backwards()  # wrong
tensorgrad.add(t)  # wrong
tensorgrad.add(t, "b")  # wrong
tensorgrad.where(t > 0, t)  # wrong
tensorgrad.sum(t, "rows")  # wrong
tensorgrad.sum(t, axes=1)  # wrong
tensorgrad.sum(t, 0).item("a")  # wrong
tensorgrad.softmax(t, axis=None)  # wrong
tensorgrad.leaky_relu(t, "steep")  # wrong
tensorgrad.reshape(t)  # wrong
tensorgrad.take(t, "first")  # wrong
tensorgrad.matmul(t, t, t)  # wrong
tensorgrad.prod(t, keepdim=True)  # wrong
tensorgrad.relus(t)  # wrong
tensorgrad.einsum(t, t)  # wrong
tensorgrad.concatenate([t], 0, axes=1)  # wrong
tensorgrad.stack(["a"])  # wrong
F.cross_entropy(t)  # wrong
F.cross_entropy(t, t, smoothing=0.1)  # wrong
F.mse_loss(t, "a")  # wrong
F.relu(t, True)  # wrong
Doubled()(t, t)  # wrong

# methods
z: Tensor = t.exp().relu().sum(0, keepdims=True)
t.reshape(2, 1).reshape((2, 1)).transpose(1, 0).permute((0, 1)).T
t.maximum(array).clip(0, high=1)
t.to("cuda").to(np.float64).to(t).cpu()
t.take([0, 1], axis=0).split(2)[0].mean()
(2 * t + array - rows) / np.float32(2) @ t
t[0] = 1.0
t.backward(array, retain_graph=True)
t.exp(1)  # wrong
t.sum("rows")  # wrong
t.sum(axes=1)  # wrong
t.softmax(axis="rows")  # wrong
t.maximum()  # wrong
t.reshape("a")  # wrong
t.clip(low="a")  # wrong
t.relu().softmx()  # wrong
t.backward(retain=True)  # wrong
t + "a"  # wrong
t.graph(back=True)  # wrong
t.item(0)  # wrong
Tensor("abc")  # wrong
Tensor([1.0], grad=True)  # wrong

# modules and optimisers
model = nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(0.1), nn.Dropout(p=0.2))
optim.SGD(model.parameters(), lr=0.1)
nn.Linear(2)  # wrong
nn.Linear(2, "3")  # wrong
nn.Linear(2, 3, biases=False)  # wrong
nn.Sequential("relu")  # wrong
optim.SGD(model.parameters())  # wrong
optim.SGD(model.parameters(), lr="fast")  # wrong
optim.Adam(model.parameters(), lr=0.1, momentum=0.9)  # wrong
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, str]]]:
    """File to (line, message) of what mypy finds wrong with CALLS and the examples, the package being there as installed."""
    pytest.importorskip("mypy", reason="needs mypy: pip install mypy")
    folder = tmp_path_factory.mktemp("installed")
    (folder / "tensorgrad").mkdir()
    for path in (ROOT / "tensorgrad").iterdir():
        (folder / "tensorgrad" / path.name).symlink_to(path)
    (folder / "tensorgrad" / "models").symlink_to(ROOT / "models")
    for path in (ROOT / "examples").glob("*.py"):
        (folder / path.name).symlink_to(path)
    (folder / "calls.py").write_text(CALLS)
    files = sorted(path.name for path in folder.glob("*.py"))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file=",
        "--cache-dir=.cache",
        "--follow-imports=silent",
        "--ignore-missing-imports",
    ]
    ran = subprocess.run(
        [*command, "--no-error-summary", "--hide-error-context", *files], cwd=folder, capture_output=True, text=True
    )
    assert not ran.stderr, ran.stderr
    found: dict[str, list[tuple[int, str]]] = {file: [] for file in files}
    for file, line, text in re.findall(r"^([^:\n]+):(\d+): error: (.*)$", ran.stdout, re.MULTILINE):
        found[file].append((int(line), text))
    return found


def test_type_checkers_find_wrong_calls(reported: dict[str, list[tuple[int, str]]]) -> None:
    lines = CALLS.splitlines()
    wrong = [i for i, line in enumerate(lines, 1) if line.endswith("# wrong")]
    found = dict(reported.pop("calls.py"))
    missed = [lines[i - 1] for i in wrong if i not in found]
    false = [f"{lines[i - 1]}: {text}" for i, text in found.items() if i not in wrong]
    assert not missed + false, "\n".join(["not found:", *missed, "found, but right:", *false])
    assert len(wrong) > 40


def test_type_checkers_find_nothing_wrong_with_the_examples(reported: dict[str, list[tuple[int, str]]]) -> None:
    assert len(reported) > 5
    assert {file: errors for file, errors in reported.items() if file != "calls.py" and errors} == {}
