"""Where in your code: every warning and every error that names a line names the user's, whatever it was asked for through."""

from __future__ import annotations

import _thread
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensorgrad.models import MLP, MLPClassifier, MLPRegressor

import tensorgrad
from tensorgrad import Tensor, nn, optim, testing, train
from tensorgrad.core import record
from tensorgrad.core.location import line_of, user_location, warn
from tensorgrad.core.op import REGISTRY, Op
from tensorgrad.errors import AnomalyError, CompileError, GraphError, ShapeError, TensorgradError
from tensorgrad.nn import functional as F
from tests.test_house import modules

HERE = Path(__file__).name
X = np.random.default_rng(0).normal(size=(32, 4))
Y = np.arange(32) % 3
HOT = np.eye(3)[Y]


def line(function: Callable[..., Any], further: int = 0) -> str:
    """ "test_location.py:12": the line at which a function begins, or one that is further down."""
    return f"{HERE}:{function.__code__.co_firstlineno + further}"


def lines_in(text: str) -> list[str]:
    """The lines that a message names."""
    return re.findall(r"[\w<>.-]+:\d+", text)


def warned(call: Callable[[], Any], category: type[Warning] = UserWarning) -> list[tuple[str, str]]:
    """Line and text of the warnings of a call."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    assert found
    assert {w.filename for w in found} == {__file__}
    assert {w.category for w in found} == {category}
    return [(f"{HERE}:{w.lineno}", str(w.message)) for w in found]


# What counts as the user's code


def passed_on(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def through(*names: str | None) -> Callable[[Callable[[], Any]], Any]:
    """A function that calls another one through code of modules of these names, which stands in a file of its own."""
    code = passed_on.__code__.replace(co_filename="module.py")
    first, *rest = [FunctionType(code, {} if name is None else {"__name__": name}) for name in names]
    return lambda function: first(*rest, function)


def warn_once() -> None:
    warn("once")


LIBRARIES = ["sklearn.pipeline", "scipy.optimize._minimize", "numpy", "numpy.testing._private.utils", "joblib.parallel"]


@pytest.mark.parametrize("package", sorted({name.rpartition(".")[0] or name for name in modules()}))
def test_every_module_of_every_package_is_inside(package: str) -> None:
    own = [name for name in modules() if name == package or name.rpartition(".")[0] == package]
    for names in [*([name] for name in own), own, *(["tensorgrad.train.fit", library, *own] for library in LIBRARIES)]:
        call = through(*names)
        assert line_of(call(user_location)) == line(through, 4), names
        assert warned(lambda call=call: call(partial(warn, "this"))) == [(line(through, 4), "this")], names


@pytest.mark.parametrize(
    "name", ["tensorgradient", "tensorgradient.core", "tensorgrad_models", "models", "nump", "__main__", "", None]
)
def test_what_is_called_like_it_is_the_users(name: str | None) -> None:
    for names in ([name], ["tensorgrad.train.fit", name], [name, "tensorgrad.nn.loss", "tensorgrad.core.state"]):
        assert line_of(through(*names)(user_location)) == f"module.py:{passed_on.__code__.co_firstlineno + 1}"


def test_a_thread_in_which_nothing_is_the_users() -> None:
    with ThreadPoolExecutor() as pool:
        assert pool.submit(user_location).result() is None
        assert line_of(pool.submit(lambda: user_location()).result()) == line(test_a_thread_in_which_nothing_is_the_users, 3)
        with pytest.warns(UserWarning, match="this"):
            pool.submit(warn, "this").result()


def test_a_thread_that_begins_with_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[Any] = []
    nodes: list[Any] = []
    done = threading.Event()
    x = leaf()
    monkeypatch.setattr(sys, "unraisablehook", lambda found: (failed.append(found.exc_value), done.set()))
    monkeypatch.setattr(record, "wrap", lambda _, node: (nodes.append(node), done.set()))
    _thread.start_new_thread(tensorgrad.mul, (x, x))
    assert done.wait(10)
    assert not failed
    assert [node.line for node in nodes] == [""]


def test_a_warning_comes_once_for_each_line() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            warn("here")
            tensorgrad.core.location.warn("here")
    assert [w.lineno for w in found] == [test_a_warning_comes_once_for_each_line.__code__.co_firstlineno + n for n in (4, 5)]


# Ways in which a model and a loss are run, each on one line


def leaf(x: Any = X) -> Tensor:
    return Tensor(x, requires_grad=True)


def sgd(model: nn.Module) -> optim.Optimiser:
    return optim.SGD(model.parameters(), lr=0.1)


def twice(function: Callable[..., Any], *arguments: Any) -> None:
    """The second call of a compiled function makes the plan."""
    function(*arguments)
    function(*arguments)


Way = Callable[[nn.Module, Callable[..., Any], np.ndarray], Any]

FITS: dict[str, Way] = {
    "fit": lambda m, f, x: train.fit(m, f, sgd(m), (x, Y), 2, compile=False, progress=False),
    "fit, compiled": lambda m, f, x: train.fit(m, f, sgd(m), (x, Y), 2, compile=True, progress=False),
    "fit with validation": lambda m, f, x: train.fit(m, f, sgd(m), (x, Y), 1, validation=(x, Y), progress=False),
    "fit with weights": lambda m, f, x: train.fit(m, f, sgd(m), (x, Y, np.ones(32)), 1, progress=False),
}
ESTIMATORS: dict[str, Way] = {  # with a loss of their own
    "MLPClassifier": lambda m, f, x: MLPClassifier(module=lambda n, k: m, tol=9).fit(x, Y),
    "MLPClassifier, as written": lambda m, f, x: MLPClassifier(module=lambda n, k: m, tol=9, compile=False).fit(x, Y),
    "L-BFGS": lambda m, f, x: MLPClassifier(module=lambda n, k: m, solver="lbfgs", tol=9).fit(x, Y),
    "partial_fit": lambda m, f, x: MLPClassifier(module=lambda n, k: m).partial_fit(x, Y, classes=[0, 1, 2]),
    "a pipeline": lambda m, f, x: make_pipeline(StandardScaler(), MLPClassifier(module=lambda n, k: m, tol=9)).fit(x, Y),
}
OTHERS: dict[str, Way] = {
    "a call": lambda m, f, x: f(m(leaf(x)), Y),
    "a step": lambda m, f, x: f(m(leaf(x)), Y).backward(),
    "compile": lambda m, f, x: twice(tensorgrad.compile(lambda x, y: f(m(x), y)), x, Y),
    "evaluate": lambda m, f, x: train.evaluate(m, f, (x, Y)),
    "gradcheck": lambda m, f, x: testing.gradcheck(lambda x: f(m(x), Y), x, mode="directional"),
    "check_model": lambda m, f, x: testing.check_model(m, f, x, Y, mode="directional"),
    "jacobian": lambda m, f, x: tensorgrad.jacobian(lambda x: f(m(x), Y), x),
    "hvp": lambda m, f, x: tensorgrad.hvp(lambda x: f(m(x), Y), x, x),
    "checkpoint": lambda m, f, x: tensorgrad.checkpoint(lambda x: f(m(x), Y), leaf(x)).backward(),
    "NumPy": lambda m, f, x: np.vectorize(lambda _: f(m(leaf(x)), Y).item())(0),
}
WAYS = FITS | ESTIMATORS | OTHERS


def layers(*more: nn.Module, inputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 3, dtype=np.float64), *more)


class Own(nn.Module):
    """A module of the user's, and its loss."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__()
        self.inner = layers(inputs=inputs)

    def forward(self, x: Any) -> Any:
        z = self.inner(x)
        return z.softmax()

    @staticmethod
    def loss(z: Any, y: Any, reduction: str = "mean") -> Any:
        return F.cross_entropy(z, y, reduction=reduction)


def each(ways: dict[str, Way]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("way", ways.values(), ids=ways)


# Warnings


@each({name: way for name, way in WAYS.items() if name != "evaluate"})  # where nothing is recorded
def test_a_softmax_too_many(way: Way) -> None:
    for loss in (F.cross_entropy, nn.CrossEntropyLoss()):
        for where, text in warned(lambda loss=loss: way(layers(nn.Softmax()), loss, X)):
            assert "logits are the result of softmax" in text
            assert [where, *lines_in(text)] == [line(way)] * 3
    for where, text in warned(lambda: way(Own(), F.cross_entropy, X)):
        assert [where, *lines_in(text)] == [line(way), line(way), line(Own.forward, 2)]
    if way not in ESTIMATORS.values():
        for where, text in warned(lambda: way(layers(nn.Softmax()), Own.loss, X)):
            assert [where, *lines_in(text)] == [line(Own.loss, 2), line(Own.loss, 2), line(way)]


class Unused(nn.Sequential):
    def forward(self, x: Any) -> Any:
        return self[0](x)


@each({name: way for name, way in (FITS | ESTIMATORS).items() if name != "L-BFGS"})
def test_a_parameter_that_no_gradient_reaches(way: Way) -> None:
    found = warned(lambda: way(Unused(*[nn.Linear(4, 3, dtype=np.float64) for _ in range(2)]), F.cross_entropy, X))
    assert {where for where, _ in found} == {line(way)}
    assert all("no gradient reached" in text for _, text in found)


def test_a_step_without_gradients() -> None:
    step = lambda: sgd(layers()).step()  # noqa: E731
    assert [where for where, _ in warned(step)] == [line(step)]


def test_a_compiled_step_that_is_never_replayed() -> None:
    fast = tensorgrad.compile(lambda x, n: x * n)
    call = lambda: [fast(X, n) for n in range(99)]  # noqa: E731
    assert [where for where, _ in warned(call, RuntimeWarning)] == [line(call)]


def press(run: train.Run) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MLPClassifier(max_iter=1).fit(X, Y), "training has not converged"),
        (lambda: MLPRegressor(max_iter=1).fit(X, HOT), "training has not converged"),
        (lambda: MLPRegressor(max_iter=1, solver="lbfgs").fit(X, HOT), "L-BFGS did not converge"),
        (lambda: make_pipeline(StandardScaler(), MLPClassifier(max_iter=1)).fit(X, Y), "training has not converged"),
        (lambda: cross_val_score(MLPClassifier(max_iter=1), X, Y, cv=2), "training has not converged"),
    ],
)
def test_training_that_has_not_converged(call: Callable[[], Any], text: str) -> None:
    for where, message in warned(call, ConvergenceWarning):
        assert where == line(call)
        assert text in message


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MLPClassifier(batch_size=99, tol=9).fit(X, Y), "batch_size is 99, but there are only 32 samples"),
        (lambda: MLPRegressor(batch_size=99, tol=9).partial_fit(X, HOT), "batch_size is 99, but there are only 32 samples"),
        (lambda: MLPClassifier().fit(X, Y, callbacks=[press]), "Training interrupted by user."),
        (lambda: make_pipeline(MLPClassifier()).fit(X, Y, mlpclassifier__callbacks=[press]), "Training interrupted by user."),
    ],
)
def test_what_estimators_warn_of(call: Callable[[], Any], text: str) -> None:
    for where, message in warned(call):
        assert where == line(call)
        assert text in message


# Nodes and errors


@pytest.mark.parametrize(
    "op",
    [op for op in REGISTRY.values() if op.backward and type(op).__module__.startswith("tensorgrad.")],
    ids=lambda op: op.name,
)
def test_every_op_is_recorded_with_its_line(op: Op) -> None:
    args, attrs = op.sample(np.random.default_rng(0))
    floating = [getattr(a, "dtype", np.dtype(bool)).kind == "f" and not op.is_data(i) for i, a in enumerate(args)]
    use = lambda: op(*[leaf(a) if f else a for a, f in zip(args, floating, strict=True)], **attrs)  # noqa: E731
    assert use().node.line == line(use)


def test_a_logarithm_of_probabilities_is_recorded_with_its_line() -> None:
    """Which has another value than that of its argument."""
    use = lambda: leaf().softmax().log()  # noqa: E731
    assert [node.line for node in tensorgrad.graph.Graph.of(use()).nodes] == [line(use)] * 2


def made(error: TensorgradError) -> list[str]:
    """The lines of the nodes that an error has with it."""
    assert error.graph is not None
    return [node.line for node in error.graph.nodes]


@each(WAYS)
def test_shapes_that_do_not_fit(way: Way) -> None:
    with pytest.raises(ShapeError, match="axis k is 4") as raised:
        way(layers(inputs=7), F.cross_entropy, X)
    assert made(raised.value) == [line(way)]
    with pytest.raises(ShapeError, match=r"axis k is 3 .* but 5") as raised:
        way(layers(nn.Linear(5, 3, dtype=np.float64)), F.cross_entropy, X)
    assert {*made(raised.value), *lines_in(str(raised.value))} == {line(way)}
    if way in {**FITS, **OTHERS}.values() and way is not OTHERS["evaluate"]:  # the others have not recorded it
        assert re.search(r"; 0\.linear produced argument 0 \(\d+, 3\) at test_location", str(raised.value))
    with pytest.raises(ShapeError, match="axis k is 4") as raised:
        way(Own(inputs=7), F.cross_entropy, X)
    assert made(raised.value) == [line(Own.forward, 1)]


@pytest.mark.parametrize(
    "call",
    [
        lambda m: train.predict(m.module_, X[:, :3]),
        lambda m: setattr(m, "module_", MLP((9, 3, 3))) or m.predict(X),
        lambda m: setattr(m, "module_", MLP((9, 3, 3))) or m.predict_proba(X),
        lambda m: setattr(m, "module_", MLP((9, 3, 3))) or m.transform(X),  # which scikit-learn wraps
        lambda m: setattr(m, "module_", MLP((9, 3, 3))) or m.score(X, Y),
        lambda m: setattr(m, "module_", MLP((9, 3, 3))) or m.input_gradient(X, 0),
    ],
)
def test_predictions_of_shapes_that_do_not_fit(call: Callable[[Any], Any]) -> None:
    with pytest.raises(ShapeError, match="axis k is") as raised:
        call(MLPClassifier((3,), tol=9).fit(X, Y))
    assert made(raised.value) == [line(call)]


@each(FITS | OTHERS)  # estimators refuse NaN before
def test_what_is_not_finite(way: Way) -> None:
    nan = np.full(X.shape, np.nan)
    for model, where in ((layers(), line(way)), (Own(), line(Own.forward, 1))):
        with tensorgrad.detect_anomaly(), pytest.raises(AnomalyError, match="passed on from argument 0; at ") as raised:
            way(model, F.cross_entropy, nan)
        assert lines_in(str(raised.value)) == [where]


class Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


COMPILED = [FITS["fit, compiled"], FITS["fit with validation"], OTHERS["compile"], ESTIMATORS["MLPClassifier"]]


@pytest.mark.parametrize("way", COMPILED)
def test_what_a_replay_could_not_do(way: Way) -> None:
    asks = lambda x: x / x.max().item()  # noqa: E731
    with pytest.raises(CompileError, match=r"item\(\) needs the value") as raised:
        way(layers(Function(asks)), F.cross_entropy, X)
    assert lines_in(str(raised.value)) == [line(asks)]
    count = iter(range(1, 99))
    other = lambda x: x * next(count)  # noqa: E731
    with pytest.raises(CompileError, match="did something else the second time") as raised:
        way(layers(Function(other)), F.cross_entropy, X)
    assert lines_in(str(raised.value)) == [line(other)]
    array = lambda x: x * np.full(3, next(count))  # noqa: E731
    with pytest.raises(CompileError, match="reads an array that was a different one in the first call") as raised:
        way(layers(Function(array)), F.cross_entropy, X)
    assert lines_in(str(raised.value)) == [line(array)]


@pytest.mark.parametrize("way", COMPILED)
def test_what_a_step_changes_itself(way: Way) -> None:
    """It is run as it is written, with a warning at the line that calls it."""
    count, relu = iter(range(1, 99)), nn.LeakyReLU()
    steeper = lambda x: setattr(relu, "slope", next(count)) or x  # noqa: E731
    found = warned(lambda: [way(layers(Function(steeper), relu), F.cross_entropy, X) for _ in range(3)], RuntimeWarning)
    assert found
    assert all("runs uncompiled, because it changes closure relu.slope each time" in text for _, text in found)


def test_graphs_that_are_no_longer_whole() -> None:
    def compute() -> Tensor:
        return leaf().exp()

    def test(y: Tensor, use: Callable[[Tensor], Any]) -> list[str]:
        with pytest.raises(GraphError) as raised:
            use(y)
        return lines_in(str(raised.value))

    y = compute()
    backward = lambda t: t.sum().backward()  # noqa: E731
    backward(y)
    assert test(y, backward) == [line(backward), line(compute, 1)]
    for use in (backward, lambda t: tensorgrad.grad(t.sum(), t), lambda t: t * 2):
        y = compute()
        y.data[...] = 0
        tensorgrad.core.writes.wrote(y.data)
        assert test(y, use) == [line(compute, 1)]
    nan = lambda: (leaf(np.zeros(2)) ** -1).sum().backward()  # noqa: E731
    with tensorgrad.detect_anomaly(), np.errstate(all="ignore"), pytest.raises(AnomalyError) as raised:
        nan()
    assert lines_in(str(raised.value)) == [line(nan)]
