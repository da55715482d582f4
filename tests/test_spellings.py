"""Names of NumPy and PyTorch: each is there, or the error says what to write; and what it says can be written."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, nn, ops, optim
from tensorgrad.core import spellings
from tensorgrad.nn import functional as F
from tensorgrad.optim import SGD

pytestmark = pytest.mark.quick
GOLDEN = Path(__file__).parent / "golden" / "names.txt"
PYTORCH = {place: names.split() for place, _, names in (line.partition(": ") for line in GOLDEN.read_text().splitlines())}
NUMPY = {
    "np": [n for n in np.__all__ if callable(f := getattr(np, n)) and not isinstance(f, type) and n != "test"],
    "ndarray": [n for n in dir(np.ndarray) if n[0] != "_"],
    "np.linalg": [n for n in np.linalg.__all__ if n != "test"],
}
WHERE: dict[str, Any] = {  # place of others to ours
    "torch": tensorgrad, "Tensor": Tensor([1.0]), "nn": nn, "functional": F, "optim": optim, "lr_scheduler": optim,
    "linalg": tensorgrad, "np": tensorgrad, "ndarray": Tensor([1.0]), "np.linalg": tensorgrad,
}  # fmt: skip
KNOWN = {"tensorgrad": tensorgrad, "nn": nn, "F": F, "optim": optim, "np": np, "scipy": importlib.import_module("scipy")}
OBJECTS = {**dict.fromkeys("xyz", Tensor([1.0])), "m": nn.Linear(1, 1), "o": SGD([Tensor([1.0], True)], lr=0.1)}
TABLES = {
    name: getattr(spellings, name) for name in ("ARRAYS", "PLACES", "MODULES", "FUNCTIONAL", "OPTIM")
}  # what each line begins with is looked up there


@pytest.mark.parametrize("place", [*PYTORCH, *NUMPY])
def test_every_name_is_there_or_answered(place: str) -> None:
    owner, silent = WHERE[place], []
    for name in (PYTORCH | NUMPY)[place]:
        try:
            getattr(owner, name)
        except AttributeError as error:
            text = str(error)
            if "'; " not in text or "; this is tensorgrad-numpy" in text:
                silent.append(f"{name}: {text}")
    assert not silent, "\n".join(silent)


def lookups(code: str) -> list[str]:
    """What is looked up in a piece of Python, and does not exist; keywords that what is called does not take."""
    wrong = []
    for node in ast.walk(ast.parse(code, mode="eval")):
        if isinstance(node, ast.Attribute) and (owner := value_of(node.value)) is not None and not there(owner, node.attr):
            wrong.append(ast.unparse(node))
        if isinstance(node, ast.Call) and (called := value_of(node.func)) is not None and node.keywords:
            taken = inspect.signature(called).parameters
            several = any(p.kind is p.VAR_KEYWORD for p in taken.values())
            wrong += [
                f"{ast.unparse(node.func)}({k.arg}=)" for k in node.keywords if k.arg and k.arg not in taken and not several
            ]
    return wrong


def there(owner: Any, name: str) -> bool:
    return hasattr(type(owner) if isinstance(owner, Tensor) else owner, name) or (
        isinstance(owner, Tensor) and hasattr(owner, name)
    )


def value_of(node: ast.expr) -> Any:
    """What a dotted name stands for; None for what is only known when it is computed, such as the result of a call."""
    if isinstance(node, ast.Name):
        return KNOWN.get(node.id, OBJECTS.get(node.id))
    if isinstance(node, ast.Attribute) and (owner := value_of(node.value)) is not None:
        return getattr(owner, node.attr, None)
    return OBJECTS["x"] if is_tensor(node) else None


def is_tensor(node: ast.expr) -> bool:
    """Whether an expression is arithmetic of Tensors, or one of their methods that give Tensors."""
    if isinstance(node, ast.Name):
        return node.id in "xyz"
    if isinstance(node, ast.BinOp):
        return is_tensor(node.left) or is_tensor(node.right)
    if isinstance(node, ast.UnaryOp):
        return is_tensor(node.operand)
    if isinstance(node, ast.Subscript):
        return is_tensor(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return is_tensor(node.func.value) and node.func.attr not in ("numpy", "detach", "state_dict")
    return False


@pytest.mark.parametrize("table", TABLES)
def test_what_is_to_be_written_exists(table: str) -> None:
    wrong = {}
    for name, answer in spellings.table(TABLES[table]).items():
        arrow, code = answer.split(" ", 1)
        assert arrow in ("->", "~>")
        if found := lookups(code):
            wrong[name] = found
    assert not wrong


def test_what_reasons_name_exists() -> None:
    for patterns, why in spellings.families():
        assert why
        for code in re.findall(r"`([^`]+)`", why):
            if "=" not in code:
                assert not lookups(code), (patterns, code)


def test_no_line_is_out_of_date() -> None:
    """A name that has come to exist needs no answer any more: take it out of its line in core/spellings.py."""
    places = {"ARRAYS": (tensorgrad, Tensor), "PLACES": (tensorgrad,), "MODULES": (nn,), "FUNCTIONAL": (F,), "OPTIM": (optim,)}
    for table, owners in places.items():
        known = [name for name in spellings.table(TABLES[table]) if all(hasattr(owner, name) for owner in owners)]
        assert not known, f"{table}: {', '.join(known)} exist: take them out of the table"


OF_ONE = """fabs negative positive acos asin atan arcsinh arctanh exp2 cbrt fix rint around degrees radians sinc signbit isinf
isneginf isposinf matrix_transpose fliplr flipud rot90 ravel diagflat atleast_1d atleast_2d atleast_3d count_nonzero ediff1d cov
corrcoef copy conj real modf vander"""
OF_TWO = (
    """fmod remainder divide floor_divide multiply subtract pow fmax fmin logaddexp2 copysign heaviside inner ldexp divmod"""
)


def test_what_arrays_are_told_to_write_computes_the_same() -> None:
    """The rewritings of NumPy's functions of one array, on numbers at which all of them are defined."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.1, 0.9, (3, 3)), rng.uniform(1.1, 1.9, (3, 3))
    scope = {"tensorgrad": tensorgrad, "np": np, "shape": (9,), "axis": None, "n": 3}
    for name in f"{OF_ONE} {OF_TWO}".split():
        if not hasattr(np, name) or hasattr(tensorgrad, name):
            continue
        second = np.rint(9 * b).astype(int) if name == "ldexp" else b
        args = [a, second] if name in OF_TWO.split() else [a[0] if name == "vander" else a]
        extra = {"increasing": True} if name == "vander" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # NumPy 2.5 deprecates fix; who knows it still gets the answer
            expected = getattr(np, name)(*args, **extra)
        code = spellings.table(spellings.ARRAYS)[name].split(" ", 1)[1]
        found = eval(code, {**scope, "x": Tensor(args[0]), "y": Tensor(args[-1])})
        for p, q in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
            np.testing.assert_allclose(np.asarray(p), q, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.view(1), "'Tensor' object has no attribute 'view'; write x.reshape(shape)"),
        (lambda t: tensorgrad.cat, "module 'tensorgrad' has no attribute 'cat'; write tensorgrad.concatenate(xs, axis)"),
        (lambda t: t.add_(1), "no method changes a Tensor in place"),
        (lambda t: t.kron(t), "write tensorgrad.kron(x, ...)"),
        (lambda t: tensorgrad.detach(t), "write x.detach(...)"),
        (lambda t: tensorgrad.Linear, "write nn.Linear"),
        (lambda t: F.one_hot, "write tensorgrad.one_hot(x, ...)"),
        (lambda t: tensorgrad.float32, "a dtype is NumPy's"),
        (lambda t: tensorgrad.linalg.inv(t), "its functions are in the package itself: `tensorgrad.inv(x)`"),
        (lambda t: tensorgrad.ShapeError, "write tensorgrad.errors.ShapeError"),
        (lambda t: t.nonsense, "'Tensor' object has no attribute 'nonsense'"),
    ],
)
def test_what_is_said_of_names(call: Any, message: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(message)):
        call(Tensor([1.0]))


def test_imports_are_told_too() -> None:
    with pytest.raises(ImportError, match=r"write tensorgrad\.concatenate\(xs, axis\)"):
        exec("from tensorgrad import cat")
    assert not hasattr(nn, "nonsense")
    assert not hasattr(Tensor([1.0]), "__array_interface__")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.sum(dim=1), "sum: got an unexpected keyword argument 'dim'; expected sum(x, axis=None, keepdims=False); "),
        (lambda t: ops.sum(t, keepdim=True), "write keepdims="),
        (lambda t: ops.concatenate([t], dim=0), "write axis="),
        (lambda t: ops.stack([t], dim=0), "write axis="),
        (lambda t: t.softmax(dim=1), "write axis="),
        (lambda t: t.cumsum(dim=1), "write axis="),
        (lambda t: t.argmax(dim=1), "write axis="),
        (lambda t: t.std(unbiased=True), "write ddof="),
        (lambda t: t.clip(min=0), "write low="),
        (lambda t: t.flatten(start_dim=0), "write start_axis="),
        (lambda t: ops.exp(t, out=t), "results are not written into an existing array"),
        (lambda t: nn.Softmax(dim=1), "Softmax: got an unexpected keyword argument 'dim'; expected Softmax(axis=-1); write"),
        (lambda t: optim.SGD([t], learning_rate=1), "write lr="),
        (lambda t: optim.StepLR(None, step_size=1), "write every="),
        (lambda t: nn.Linear(1, 2, nonsense=3), "Linear: got an unexpected keyword argument 'nonsense'; expected Linear("),
    ],
)  # fmt: skip
def test_what_is_said_of_keywords(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call(Tensor([[1.0]]))


def test_keywords_are_ours() -> None:
    """Each is the name of a parameter of something."""
    functions = [getattr(module, name) for module in (ops, nn, F, optim) for name in module.__all__]
    taken = {
        p
        for f in functions
        if callable(f) and not (isinstance(f, type) and issubclass(f, BaseException))
        for p in inspect.signature(f).parameters
    }
    assert {ours for names in spellings.keywords().values() for ours in names} <= taken
