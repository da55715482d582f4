"""check_compiled: it passes for steps that are compiled rightly, and finds what is planted in kernels, rules and steps."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorgrad.models import MLPClassifier, MLPRegressor, estimator

import tensorgrad
from tensorgrad import Tensor, nn, no_grad, ops, optim
from tensorgrad.compiler.compiled import Compiled
from tensorgrad.errors import CompileError, DTypeError
from tensorgrad.kernels import build
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.ops import random
from tensorgrad.testing import CompiledError, CompiledReport, GradientError, check_compiled, strategies
from tensorgrad.train import ahead, steps
from tensorgrad.train.steps import evaluation_step, training_step


def mlp(dtype: Any = np.float32) -> nn.Sequential:
    init.seed(0)
    return nn.Sequential(
        nn.Linear(6, 8, dtype=dtype), nn.ReLU(), nn.BatchNorm1d(8, dtype=dtype), nn.Dropout(0.3), nn.Linear(8, 4, dtype=dtype)
    )


class Sine(nn.Module):
    def forward(self, x: Any) -> Any:
        return ops.sin(x)


def training(net: nn.Module, opt: Any, zero: bool = True) -> Any:
    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(net(x), y)
        if zero:
            opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    return step


def batch(n: int = 7, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 6)).astype(dtype), rng.integers(0, 4, n)


def test_a_training_step_passes_and_everything_is_put_back() -> None:
    """Parameters, running means, state, counts, gradients, generators, and the caller's arrays."""
    net = mlp()
    opt = optim.Adam(list(net.parameters()), lr=0.01)
    step = training(net, opt)
    net[0].weight.grad = Tensor(np.ones((6, 8), np.float32))
    x, y = batch()
    arrays = [*opt.arrays(), *(a for _, a in net.named_buffers()), x, y, net[0].weight.grad.data]
    before, generator = [a.copy() for a in arrays], repr(random.state_of(random.default()))
    report = check_compiled(step, x, y)
    assert report
    assert report.ok
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert repr(random.state_of(random.default())) == generator
    assert opt.steps == 0
    assert net[0].weight.grad.data is arrays[-1]
    assert net[4].bias.grad is None
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float32)}
    assert net[0].weight._data.base is opt.blocks[0].flat.base
    names = [f.name for f in report.compared]
    for name in ("result 0", "net.0.weight", "m of net.4.bias", "net.2.running_mean", "argument 0"):
        assert name in names
    assert [f.name for f in report.findings] == [f"net.{i}.{name}" for i in (0, 2, 4) for name in ("weight", "bias")]
    assert all(f.verdict in ("ok", "kink") and "along a direction" in f.where for f in report.findings)
    text = str(report)
    assert text.startswith("check_compiled: 6 calls, compiled and as the step is written: the same\nvalue ")
    assert "\n\ncheck_compiled, gradients: passed (directional; " in text


@pytest.mark.parametrize("keep", [True, False])
def test_one_that_is_compiled_already(keep: bool) -> None:
    """It is checked with its own setting, and keeps its plans; gradients that it keeps are compared."""
    net = mlp(np.float64)
    compiled = tensorgrad.compile(training(net, optim.SGD(list(net.parameters()), lr=0.1, momentum=0.9)), keep_grads=keep)
    report = check_compiled(compiled, *batch(dtype=np.float64), calls=3)
    assert compiled.plan is None
    assert ("net.0.weight.grad" in [f.name for f in report.compared]) == keep
    assert report.calls == 3


@given(
    widths=st.lists(st.integers(1, 6), max_size=3),
    activation=st.sampled_from(["relu", "tanh", "logistic", "identity"]),
    options=st.fixed_dictionaries({
        "solver": st.sampled_from(["adam", "sgd"]), "alpha": st.sampled_from([0.0, 0.1]), "dropout": st.sampled_from([0, 0.4]),
    }),
    classes=st.integers(2, 4),
)  # fmt: skip
@settings(max_examples=12)
def test_the_steps_of_estimators(widths: list[int], activation: str, options: dict[str, Any], classes: int) -> None:
    """The networks, losses and optimisers that they train with, of drawn architectures."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(9, 3)).astype(np.float32)
    for make, y in ((MLPClassifier, np.arange(9) % classes), (MLPRegressor, rng.normal(size=(9, classes)))):
        est = make(hidden_layer_sizes=tuple(widths), activation=activation, random_state=0, **options)
        step, *arguments = step_of(est, X, y, est.__class__._loss)
        assert check_compiled(step, *arguments, calls=4)


def step_of(est: Any, X: Any, y: Any, loss: Any) -> tuple[Any, Any, Any]:
    """What an estimator does with a batch in training, and the batch."""
    X, y = est._check_input(X, y, True)
    est._create_network(X.shape[1], X.dtype, np.random.RandomState(0))
    est.module_.train()
    return training_step(est.module_, loss(est), est._optimiser(False)[0], est.alpha / 2, None, True), X, y


def test_a_loss_that_is_not_what_its_gradient_is_of() -> None:
    """MLPRegressor reports the mean over the outputs, and minimises the sum: by .detach(), which a slope sees through."""
    rng = np.random.default_rng(0)
    step, *arguments = step_of(
        MLPRegressor((4,)), rng.normal(size=(9, 3)), rng.normal(size=(9, 2)), MLPRegressor._reported_loss
    )
    assert check_compiled(step, *arguments, gradients=False)
    with pytest.raises(GradientError, match=r"Every recorded op is right on its own. .* look for .detach\(\)"):
        check_compiled(step, *arguments)


OPTIMISERS: dict[str, Any] = {
    "SGD": lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda m: optim.Adam(m.parameters(), lr=0.01),
    "AdamW": lambda m: optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.1),
    "RMSprop": lambda m: optim.RMSprop(m.parameters(), lr=0.01),
    "Adagrad": lambda m: optim.Adagrad(m.parameters(), lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@settings(max_examples=settings().max_examples // 5)  # each makes two plans
@given(
    net=strategies.mlps(features=6, classes=4),
    rows=st.sampled_from([1, 2, 7]),
    dtype=st.sampled_from(["float32", "float64"]),
    l2=st.sampled_from([0.0, 0.1]),
    clip_norm=st.sampled_from([None, 0.5]),
)
def test_the_steps_of_fit_of_drawn_networks(
    name: str, net: nn.Sequential, rows: int, dtype: str, l2: float, clip_norm: float | None
) -> None:
    net = net.to(dtype=dtype)
    step = training_step(net, F.cross_entropy, OPTIMISERS[name](net), l2, clip_norm, True)
    assert check_compiled(step, *batch(rows, dtype), calls=4).replays == 3
    assert check_compiled(evaluation_step(net, F.cross_entropy, True), *batch(rows, dtype), calls=4).replays == 3


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
@pytest.mark.filterwarnings("ignore:.*training has not converged after 2 epochs")
def test_what_estimators_compile(make: Any, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step that their `fit` compiles, with its first batch."""
    proved = []
    compile = tensorgrad.compile

    def proving(step: Any, **options: Any) -> Any:
        compiled = compile(step, **options)

        def called(*args: Any) -> Any:
            if step not in proved:
                proved.append(step)
                check_compiled(step, *args, calls=4, gradients=solver == "lbfgs" or make is MLPClassifier)
            return compiled(*args)

        return called

    monkeypatch.setattr(ahead, "FIRST", 1)  # every batch by a call
    monkeypatch.setattr(estimator, "MIN_COMPILED_STEPS", 0)  # however few steps there are
    monkeypatch.setattr(steps, "compile", proving)
    monkeypatch.setattr(tensorgrad, "compile", proving)
    x, y = batch(40)
    make(hidden_layer_sizes=(5, 3), solver=solver, max_iter=2, tol=9, early_stopping=solver != "lbfgs").fit(x, y)
    assert len(proved) == (1 if solver == "lbfgs" else 2)


def test_the_steps_of_fit() -> None:
    """With a penalty, clipped gradients and weights of samples; of evaluation, which takes no gradient."""
    net = mlp()
    opt = optim.AdamW(list(net.parameters()), lr=0.01)
    x, y = batch()
    w = np.array([0, 1, 2, 0.5, 1, 1, 1], np.float32)
    for step in (
        training_step(net, F.cross_entropy, opt, 0.1, None, True),
        training_step(net, F.cross_entropy, opt, 0.0, 0.01, False),
        evaluation_step(net.eval(), F.cross_entropy, True),
    ):
        for args in ((x, y), (x, y, w)):
            report = check_compiled(step, *args, calls=4)
            assert len(report.findings) in (6, 0)
    assert not report.findings


def test_gradients_that_are_returned_of_several_walks_and_of_arguments() -> None:
    """A penalty of the gradient: two walks, the second through the first; what grad() is asked for is an argument too."""
    w = Tensor(np.random.default_rng(0).normal(size=(3, 2)), True, name="w")

    def step(x: Tensor) -> Any:
        y = (ops.tanh(x @ w) ** 2).sum()
        g, gx = tensorgrad.grad(y, [w, x], create_graph=True)
        penalty = (g * g).sum() + (gx**2).sum()
        return tensorgrad.grad(penalty, [w, x])

    x = Tensor(np.random.default_rng(1).normal(size=(5, 3)), requires_grad=True)
    report = check_compiled(step, x)
    assert [f.name for f in report.findings] == [
        "w (walk 1 of 2)", "argument 0 (walk 1 of 2)", "w (walk 2 of 2)", "argument 0 (walk 2 of 2)",
    ]  # fmt: skip
    assert x.grad is None
    assert x.dtype == np.float64


def test_only_walks_before_the_first_update_have_slopes() -> None:
    """After it, the parameters are no longer those that the step began with."""
    w = Tensor(np.ones(3), True, name="w")

    def step(x: Tensor) -> Any:
        (g,) = tensorgrad.grad((w * x).exp().sum(), [w])
        with no_grad():
            w.__isub__(0.1 * g)
        (h,) = tensorgrad.grad((w * x).sin().sum(), [w])
        return h

    report = check_compiled(step, np.arange(3.0))
    assert [f.name for f in report.findings] == ["w"]


def test_gradients_that_cancel_are_right() -> None:
    """Those of a bias before a batch norm are 0 but for rounding, in float32 too."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    step = training(net, optim.Adam(list(net.parameters()), lr=0.01))
    assert check_compiled(step, rng.normal(size=(6, 4)).astype("f4"), rng.integers(0, 3, 6))


def test_samples_that_cannot_be_made_up() -> None:
    """A step that takes only what it is given is called with that alone."""
    labels = np.array([3, 1, 2])

    def step(x: Any, y: Any) -> Any:
        if y.shape[0] != 3 or not np.array_equal(labels, np.sort(labels)[::-1] if labels[0] < 3 else labels):
            raise ValueError
        return ops.log(x).sum() + ops.cholesky(ops.outer(x, x) + np.eye(3)).sum()

    assert check_compiled(step, np.array([0.5, 1e-3, 0.1]), labels)

    def picky(x: Any) -> Any:
        if float(np.max(x.data if tensorgrad.core.state.state.trace is None else 0)) > 0.5:
            raise ValueError
        return x * 2

    assert check_compiled(picky, np.array([0.5, 0.25]))


def test_keywords_by_partial() -> None:
    assert check_compiled(functools.partial(lambda x, scale: (x * scale).sum(), scale=2.0), np.ones(3))


def test_leaves_that_a_step_makes_are_no_parameters() -> None:
    """It differentiates by them: a penalty of the gradient by the inputs, and derivatives of other kinds."""
    net = nn.Sequential(nn.Linear(6, 4))
    fn = lambda z: net(z).tanh()  # noqa: E731

    def by(leaf: Any) -> Any:
        def squared(x: Any) -> Any:
            z = leaf(x)
            (g,) = tensorgrad.grad(fn(z).sum(), [z], create_graph=True)
            return (g * g).sum()

        return squared

    kinds: list[Any] = [
        by(lambda x: Tensor(x, True)),
        by(lambda x: (2.0 * x).detach().requires_grad_(True)),
        lambda x: (tensorgrad.jvp(fn, (x,), (2.0 * x,), create_graph=True)[1] ** 2).sum(),
        lambda x: (tensorgrad.hessian(lambda z: (fn(z) ** 2).sum(), x[0], create_graph=True) ** 2).sum(),
        lambda x: (tensorgrad.jacobian(fn, x[0], create_graph=True) ** 2).sum(),
    ]
    for kind in kinds:

        def step(x: Any, kind: Any = kind) -> Any:
            loss = kind(x)
            loss.backward()
            return loss

        report = check_compiled(step, batch()[0], calls=3)
        assert {f.name.partition(" ")[0] for f in report.findings} == {"net.0.weight", "net.0.bias"}


# What is planted


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is right while its plan is verified, and wrong from some run on."""
    w = Tensor(np.ones((2, 3)), True, name="w")
    opt = optim.SGD([w], lr=0.1)
    runs = []

    def tan(x: Any, out: Any) -> Any:
        runs.append(1)
        np.tan(x, out=out)
        out *= 1 + 1e-3 * (len(runs) > 3)
        return out

    monkeypatch.setitem(build.NAMESPACE, "tan", tan)

    def step(x: Any) -> Any:
        loss = ops.tan(x @ w).sum()  # the planted one
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    x = np.random.default_rng(0).normal(size=(4, 2))
    with pytest.raises(CompiledError) as caught:
        check_compiled(step, x)
    lines = inspect.getsource(inspect.getmodule(batch)).splitlines()  # type: ignore[arg-type]
    line = next(i for i, text in enumerate(lines, 1) if text.endswith("# the planted one"))
    message = str(caught.value)
    assert message.startswith("check_compiled: call 4: result 0, made by sum at test_check_compiled.py:")
    assert f":{line}, is np.float64(" in message
    assert " compiled, and np.float64(" in message
    assert "as it is written" in message
    report = caught.value.report
    assert isinstance(report, CompiledReport)
    wrong = {f.name: f for f in report.compared if f.verdict == "differs"}
    assert {"result 0", "w"} <= set(wrong)
    assert wrong["result 0"].where.startswith("call ")
    np.testing.assert_array_equal(w.data, np.ones((2, 3)))
    runs.clear()
    assert not check_compiled(step, x, raises=False)
    runs[:] = [1] * 9
    with pytest.raises(CompileError, match="the plan and the step disagree"):
        check_compiled(step, x)


def test_what_a_step_depends_on_unwatched_is_found() -> None:
    """A list too long to be looked into, whose numbers the step's own Python changes now and then."""
    table = [0] * 101

    def step(x: Any) -> Any:
        table[0] += 1
        return x * (2.0 if table[0] < 7 else 3.0)

    with pytest.raises(
        CompiledError, match=r"check_compiled: call \d: result 0\[\d\].*, is .* compiled, and .* as it is written"
    ):
        check_compiled(step, np.ones(3))


@pytest.mark.parametrize("keep", [True, False])
def test_gradients_that_are_never_forgotten(keep: bool) -> None:
    """The step adds to what is in `.grad`, compiled or not."""
    net = mlp(np.float64)
    step = training(net, optim.SGD(list(net.parameters()), lr=0.1), zero=False)
    assert check_compiled(tensorgrad.compile(step, keep_grads=keep), *batch(dtype=np.float64))


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, compiled and as it is written; the error is that of gradcheck, with the rule to blame."""
    monkeypatch.setattr(type(ops.sin), "backward", lambda self, g, y, x: (lambda: g * ops.cos(1.1 * x),))
    net = nn.Sequential(nn.Linear(6, 5), Sine(), nn.Linear(5, 4))
    step = training(net, optim.SGD(list(net.parameters()), lr=0.1))
    with pytest.raises(GradientError, match="The rule of sin is wrong on its own") as caught:
        check_compiled(step, *batch())
    report = caught.value.report
    assert isinstance(report, CompiledReport)
    assert not report.differences
    assert {f.name for f in report.failed} == {"net.0.weight", "net.0.bias"}
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float32)}
    assert check_compiled(step, *batch(), gradients=False)
    assert not check_compiled(step, *batch(), raises=False)


def factor(g: Any, n: float) -> Any:
    return g * n


def lost(g: Any, n: int) -> Any:
    """Without one of its entries."""
    kept = np.ones(g.shape)
    kept.flat[n % g.size] = 0
    return g * kept.astype(g.dtype)


@pytest.mark.parametrize(("fault", "n"), [(factor, 1.1), (factor, 1.0005), (lost, 17)])
@pytest.mark.parametrize("scale", [1.0, 1e-20])
def test_a_rule_that_is_wrong_in_single_precision_alone_is_found(
    fault: Any, n: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By as little as rounding does not explain, and in one entry; on its own where float32 is at the end of its range."""

    def backward(self: Any, g: Any, y: Any, x: Any) -> Any:
        return (lambda: (fault(g, n) if x.dtype == np.float32 else g) * ops.cos(x),)

    net = nn.Sequential(nn.Linear(6, 5), Sine(), nn.Linear(5, 4))
    opt = optim.SGD(list(net.parameters()), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(net(x), y) + (x * scale).sum() * 1.0
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    x, y = batch(40)
    assert check_compiled(step, x, y, calls=3)
    monkeypatch.setattr(type(ops.sin), "backward", backward)
    with pytest.raises(GradientError, match="a kernel of lower precision is wrong") as caught:
        check_compiled(step, x, y, calls=3)
    report = caught.value.report
    assert report is not None
    assert {f.name for f in report.failed} <= {"net.0.weight", "net.0.bias", "sin (its rule for argument 0 in float32)"}
    assert all(f.name.startswith("sin") or f.where.endswith(" in float32") for f in report.failed)


def test_what_is_never_replayed_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compiled, "second_run", lambda *args: None)
    with pytest.raises(
        CompileError, match="nothing was checked: in 6 calls <lambda> was never replayed: arguments of this kind"
    ):
        check_compiled(lambda x: x * 2, np.ones(3))


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(CompileError, match="needs the value of a Tensor"):
        check_compiled(lambda x: x * x.sum().item(), np.ones(3))
    w = Tensor(np.ones(3, np.float32), True)

    def half(x: Any) -> Any:
        return tensorgrad.grad((ops.astype(w * x, np.float16) ** 2).sum(), [w])

    with pytest.raises(DTypeError, match="check_compiled: the function returned float16 from float64 inputs"):
        check_compiled(half, np.ones(3, np.float32))
    assert check_compiled(half, np.ones(3, np.float32), gradients=False)
