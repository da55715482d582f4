"""The pages of examples/gallery: each one's losses are those of its twin in PyTorch, from equal weights on equal batches."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from tensorgrad import data
from tensorgrad.op import REGISTRY

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"
TWINS = Path(__file__).parent / "golden" / "gallery.npz"
# How far a loss may be from PyTorch's, as a share of max(1, |loss|)
EXACT = 1e-12  # of float64
CLOSE = 1e-5  # of float32
FAR = {
    "own_parts": 1e-3,  # a sign, which rounding turns where what it is of is nearly 0, and with it a whole step of Lion's
    "half_precision": 4e-3,  # the two libraries round at other places; 4e-3 is four units of float16 beyond 1
}
TOLERANCES = {
    **dict.fromkeys(("cnn", "char_rnn", "gpt", "vae", "gan", "matrix_factorisation", "triplet", "neural_ode"), CLOSE),
    **dict.fromkeys(("gcn", "reinforcement", "maml", "many_at_once"), CLOSE),
    **dict.fromkeys(("pinn", "mixture_density", "newton"), EXACT),
    **FAR,
}
WITHOUT_TWIN = {"estimators", "save_and_load", "notebook"}  # tested below
SLOW = {"maml", "neural_ode", "pinn"}  # to compile, where no kernels are kept yet
Page = Callable[[str], Any]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page of the gallery as a module; ops that it defines are forgotten after the test."""
    monkeypatch.syspath_prepend(GALLERY)
    ops = dict(REGISTRY)

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"gallery_{name}", GALLERY / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in REGISTRY.keys() - ops.keys():
        REGISTRY.pop(name)


def recorded(name: str) -> tuple[dict[str, np.ndarray], dict[int, dict[str, np.ndarray]]]:
    """The columns of losses, and the weights of each model, by number."""
    columns: dict[str, np.ndarray] = {}
    weights: dict[int, dict[str, np.ndarray]] = {}
    with np.load(TWINS) as file:
        for key in file:
            of, kind, what, *path = key.split("/")
            if of == name and kind == "loss":
                columns[what] = file[key]
            elif of == name:
                for i, array in enumerate(file[key], int(what)):
                    weights.setdefault(i, {})[path[0]] = array
    return columns, weights


def run(module: Any, compiled: bool, steps: int, weights: dict[int, dict[str, np.ndarray]]) -> dict[str, list[float]]:
    """The page's losses, its models beginning with PyTorch's weights in the order in which they are made."""
    make, numbers = module.model, itertools.count()

    def model(*args: Any) -> Any:
        net = make(*args)
        net.load_state_dict(weights[next(numbers)], layout="torch")
        return net

    module.model = model
    columns = module.losses(steps, compiled)
    assert next(numbers) == len(weights)  # each of them has been made, and no other
    return columns


def test_each_page_is_tested() -> None:
    assert {path.stem for path in GALLERY.glob("*.py")} == {*TOLERANCES, *WITHOUT_TWIN, "pages"}


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        pytest.param(name, compiled, marks=[pytest.mark.thorough] if compiled and name in SLOW else [], id=f"{name}-{way}")
        for name in TOLERANCES
        for compiled, way in ((False, "eager"), (True, "compiled"))
    ],
)
@pytest.mark.every(1)
def test_losses_are_those_of_torch(page: Page, name: str, compiled: bool) -> None:
    expected, weights = recorded(name)
    steps = len(next(iter(expected.values())))
    found = run(page(name), compiled, steps, weights) if weights else page(name).losses(steps, compiled)
    assert expected.keys() <= found.keys()
    for column, values in expected.items():
        difference = abs(found[column] - values) / np.maximum(1, abs(values))
        assert difference.max() <= TOLERANCES[name], f"{column}: {difference}"
    if name == "newton":  # the other way to the same minimum
        assert abs(found["L-BFGS"][-1] - found["Newton"][-1]) < 1e-9


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_are_those_of_scikit_learn(page: Page) -> None:
    found = page("estimators").losses(3)
    X, y = data.load_digits()
    X, y = data.min_max(X[:600]), y[:600]
    options = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0}
    classifier, regressor = (getattr(sklearn.neural_network, f"MLP{kind}") for kind in ("Classifier", "Regressor"))
    online = classifier(**options)
    for _ in range(3):
        online.partial_fit(X, y, classes=range(10))
    expected = {
        "classifier": classifier(**options).fit(StandardScaler().fit_transform(X), y),
        "regressor": regressor(**options).fit(X, X.mean(axis=1)),
        "partial_fit": online,
    }
    if "sample_weight" in inspect.signature(classifier.fit).parameters:  # since scikit-learn 1.7
        X, y = X[y < 3], y[y < 3] == 0
        expected["weighted"] = classifier(**options).fit(X, y, sample_weight=compute_sample_weight("balanced", y))
    for name, estimator in expected.items():
        np.testing.assert_allclose(found[name], estimator.loss_curve_, rtol=CLOSE, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_loaded_goes_on_as_if_nothing_had_been(page: Page, compiled: bool) -> None:
    whole, *halves = page("save_and_load").losses(8, compiled).values()
    assert halves == [whole, whole]
    assert whole[-1] < whole[0]


@pytest.mark.thorough
def test_another_process_reads_what_was_saved() -> None:
    command = [sys.executable, str(GALLERY / "save_and_load.py"), "--steps", "2"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    labels, seen = (re.search(f"{what} +([0-9 ]+)$", printed, re.MULTILINE)[1].split() for what in ("are", "sees"))
    assert len(labels) == len(seen) == 12
    assert sum(a == b for a, b in zip(labels, seen, strict=True)) >= 9  # after a hundred steps


def test_a_notebook_shows_what_its_cells_end_with(capsys: pytest.CaptureFixture[str]) -> None:
    """The cells are run as Jupyter runs them: an expression at the end of one is shown."""
    _, *cells = re.split(r"^# %%(.*)\n", (GALLERY / "notebook.py").read_text(), flags=re.MULTILINE)
    names: dict[str, Any] = {}
    shown: list[str] = []
    for kind, text in zip(cells[::2], cells[1::2], strict=True):
        if "markdown" in kind:
            assert all(line.startswith("#") for line in text.split("\n") if line)
            continue
        code = ast.parse(text)
        last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
        exec(compile(code, "notebook.py", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "notebook.py", "eval"), names) if last else None
        printed = capsys.readouterr().out
        shown.append(printed if value is None else str(value))
    model, listing, derivation, history, plan, profile = shown
    assert "Linear(64, 24)" in model
    assert "nll_loss" in listing
    assert "dL/dW2 = h1^T (softmax(z2) - Y) / m" in derivation
    assert "val_accuracy" in history
    assert names["history"]["val_accuracy"][-1] > 0.9
    assert "softmax_cross_entropy" in plan
    assert "linear" in profile
    assert names["losses"][-1] < names["losses"][0]


def test_a_page_says_what_it_is_and_prints_a_table(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    for path in GALLERY.glob("*.py"):
        text = path.read_text()
        if path.stem not in ("pages", "notebook"):
            assert re.search(
                rf"^    python examples/gallery/{path.stem}\.py$", ast.get_docstring(ast.parse(text)), re.MULTILINE
            )
        if path.stem != "pages":
            assert re.search(r"\bL\w*(\(.*\))? += ", text), f"{path.stem}: no formula of the loss"
    module = page("matrix_factorisation")
    columns = module.show(module.__doc__, module.losses, 100, ["--steps", "12", "--eager"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "loss"]
    assert [int(row.split()[0]) for row in rows] == list(range(1, 13))
    np.testing.assert_allclose([float(row.split()[1]) for row in rows], columns["loss"], rtol=1e-4)


def test_each_page_stands_in_the_list() -> None:
    listed = re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\) \|", (GALLERY / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*TOLERANCES, *WITHOUT_TWIN])
