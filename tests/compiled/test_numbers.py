"""E: a number is a number, whatever its type and wherever it stands: a table of constants times a table of places."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad import Tensor, data, nn, ops, optim, train
from tensorgrad.nn import functional as F
from tests.compiled import KERNELS, NEEDS_NUMBA, World, agree, as_tensors, assert_close, either, kernels, training

CONSTANTS: dict[str, Any] = {
    **{f"np.{t}": getattr(np, t)(0.5) for t in ["float16", "float32", "float64"]},
    **{f"np.{t}": getattr(np, t)(2) for t in ["int8", "int32", "int64", "uint8"]},
    "np.bool": np.bool_(True),
    "0-d float32": np.array(0.5, "float32"),
    "0-d float64": np.array(0.5),
    "0-d int64": np.array(2),
    "-0.0": -0.0,
    "np.float64(-0.0)": np.float64(-0.0),
    "nan": float("nan"),
    "np.float32(nan)": np.float32("nan"),
    "inf": float("inf"),
    "np.float64(-inf)": np.float64("-inf"),
    "int": 2,
    "bool": True,
}
ODD: dict[str, Any] = {  # what may be refused, too
    "np.longdouble": np.longdouble(0.5),
    "20 digits": 12_345_678_901_234_567_890,
    "Fraction": Fraction(1, 3),
}
X = np.array([[-2.0, -0.5, 0.0], [0.5, 1.0, 3.0]], "float32")

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "x + c": lambda x, c: x + c,
    "c + x": lambda x, c: c + x,
    "x - c": lambda x, c: x - c,
    "c - x": lambda x, c: c - x,
    "x * c": lambda x, c: x * c,
    "c * x": lambda x, c: c * x,
    "x / c": lambda x, c: x / c,
    "c / x": lambda x, c: c / x,
    "x ** c": lambda x, c: x**c,
    "c ** x": lambda x, c: c**x,
    "x // c": lambda x, c: x // c,
    "c // x": lambda x, c: c // x,
    "x % c": lambda x, c: x % c,
    "c % x": lambda x, c: c % x,
    "x > c": lambda x, c: x > c,
    "c >= x": lambda x, c: c >= x,
    "x == c": lambda x, c: x == c,
    "x != c": lambda x, c: x != c,
    "where": lambda x, c: tg.where(x > 0, x, c),
    "where c": lambda x, c: tg.where(x > c, c, x),
    "maximum": lambda x, c: tg.maximum(x, c),
    "minimum": lambda x, c: tg.minimum(c, x),
    "in a chain": lambda x, c: (x * 2 - c).tanh() * c + 1,
    "of a product": lambda x, c: (x @ x.T - c).tanh(),
    "of a sum": lambda x, c: x.sum(0) * c + (x * c).sum(0),
    "of int64": lambda x, c: x.astype("int64") * c,
    "of float64": lambda x, c: x.astype("float64") * c + x,
    "Tensor": lambda x, c: x * Tensor(c),
    "full": lambda x, c: x * np.full(3, c),
    "in place": lambda x, c: (x * 1).__iadd__(c),
    "set": lambda x, c: put(x * 1, c),
}
ATTRIBUTES: dict[str, Callable[[Any, Any], Any]] = {
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "clip": lambda x, c: tg.clip(x, -1.0, c),
    "clip below": lambda x, c: tg.clip(x, c, None),
    "hardtanh": lambda x, c: F.hardtanh(x, -1.0, c),
    "layer_norm": lambda x, c: F.layer_norm(x, 3, eps=c),
    "batch_norm": lambda x, c: F.batch_norm(x, eps=c, training=True),
    "huber": lambda x, c: F.huber_loss(x, x.detach() * 0, delta=c),
    "smoothing": lambda x, c: F.cross_entropy(x, np.array([0, 2]), label_smoothing=c),
    "weights": lambda x, c: F.cross_entropy(x, np.array([0, 2]), np.array([1, c, 2])),
    "pos_weight": lambda x, c: F.binary_cross_entropy_with_logits(x, x.detach() > 0, pos_weight=c),
    "pad": lambda x, c: tg.pad(x, 1, c),
    "gradient": lambda x, c: (x * x).backward(Tensor(np.ones((2, 3), "float32") * c)),
}
WHOLE: dict[str, Callable[[Any, Any], Any]] = {  # where only integers fit
    "sum": lambda x, i: x.sum(i),
    "max": lambda x, i: x.max(i),
    "mean": lambda x, i: x.mean((i,)),
    "softmax": lambda x, i: x.softmax(i),
    "log_softmax": lambda x, i: x.log_softmax(i) * 2,
    "cumsum": lambda x, i: x.cumsum(i),
    "argmax": lambda x, i: x.argmax(i),
    "var": lambda x, i: x.var(0, ddof=i),
    "index": lambda x, i: x[i] * 2,
    "slice": lambda x, i: x[:i] * 2,
    "two indices": lambda x, i: x[0, i] * 2,
    "take": lambda x, i: x.take(i, 1),
    "roll": lambda x, i: x.roll(i, 1),
    "repeat": lambda x, i: x.repeat(i, 1),
    "tile": lambda x, i: x.tile(i),
    "tril": lambda x, i: x.tril(i),
    "round": lambda x, i: (x / 3).round(i),
    "reshape": lambda x, i: (x * 2).reshape(i, 6),
    "broadcast_to": lambda x, i: (x * 2).broadcast_to((i, 2, 3)),
    "swapaxes": lambda x, i: (x * 2).swapaxes(0, i),
    "expand_dims": lambda x, i: (x * 2).expand_dims(i),
    "one_hot": lambda x, i: tg.one_hot(np.array([0, 0]), i) * x[:, :1],
    "ignore_index": lambda x, i: F.cross_entropy(x, np.array([0, 1]), ignore_index=i),
    "power": lambda x, i: x**i,
}


def put(x: Any, c: Any) -> Any:
    x[0] = c
    return x


def same_outcome(make: Callable[[], World], calls: list[tuple[Any, ...]], may_refuse: bool) -> None:
    """What the step gives, or its kind of error."""
    with np.errstate(all="ignore"):
        try:
            world = make()
        except (TypeError, ValueError):
            return  # an optimiser that refuses the option
        try:
            for args in calls:
                world.step(*as_tensors(args))
        except Exception as error:
            expected = type(error)
        else:
            agree(make, calls, rtol=1e-5, may_refuse=may_refuse)
            return
        compiled = tg.compile(make().step)

        def run() -> None:
            if any(either(compiled, *args)[1] for args in calls):
                raise expected  # or refused with a line

        with pytest.raises(expected):
            run()


PLACES = OPERATORS | ATTRIBUTES
EVERYWHERE = ("np.float64", "np.float32(nan)", "np.bool", "np.int64")  # the others in every fourth place
TABLE = [
    (c, p) for i, c in enumerate(CONSTANTS | ODD) for j, p in enumerate(PLACES) if c in EVERYWHERE or (i + j) % 4 == 0
]  # fmt: skip


@pytest.mark.parametrize(("constant", "place"), TABLE)
def test_constants(constant: str, place: str) -> None:
    """Value and gradient, three replays' worth of calls."""
    formula, c = PLACES[place], (CONSTANTS | ODD)[constant]

    def step(x: Any) -> Any:
        x = x.detach().requires_grad_()
        y = formula(x, c)
        if y is None:
            return x.grad
        return y, tg.grad(y.sum(), x, allow_unused=True) if y.requires_grad else None

    same_outcome(lambda: World(step), [(X * k,) for k in (1, 1, 2, 3)], constant in ODD)


@pytest.mark.parametrize("constant", [*CONSTANTS, *ODD])
def test_constants_in_loops_of_numba(constant: str) -> None:
    c = (CONSTANTS | ODD)[constant]

    def step(x: Any) -> Any:
        return tg.maximum(x * c + 1, c) / 3 - c, tg.where(x > c, x, c), (x * c).sum(0)

    with kernels(numba=True):
        same_outcome(lambda: World(step), [(X * k,) for k in (1, 1, 2, 3)], constant in ODD)


@pytest.mark.parametrize("place", WHOLE)
@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint8", "bool", "0-d", "Tensor"])
def test_whole_numbers(kind: str, place: str) -> None:
    kinds: dict[str, Callable[[int], Any]] = {"0-d": np.array, "Tensor": lambda i: Tensor(np.array(i)), "bool": np.bool_}
    i = kinds.get(kind, getattr(np, kind, None))(1)  # type: ignore[misc]
    same_outcome(lambda: World(lambda x: WHOLE[place](x, i)), [(X * k,) for k in (1, 1, 2, 3)], True)


OPTIONS: dict[str, Callable[[Any], Any]] = {
    "LeakyReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
    "Dropout": lambda c: nn.Dropout(c, rng=np.random.default_rng(0)),
    "LayerNorm": lambda c: nn.LayerNorm(3, eps=c),
    "BatchNorm1d": lambda c: nn.BatchNorm1d(3, eps=c),
    "momentum": lambda c: nn.BatchNorm1d(3, momentum=c),
    "Linear": lambda c: nn.Linear(3, 3, weight_init=nn.init.uniform(c)),
    "HuberLoss": lambda c: Against(nn.HuberLoss(delta=c)),
    "CrossEntropyLoss": lambda c: Against(nn.CrossEntropyLoss(label_smoothing=c), np.array([0, 2])),
}
OPTIMISERS: dict[str, Callable[[Any, Any], Any]] = {
    "SGD lr": lambda p, c: optim.SGD(p, lr=c),
    "SGD momentum": lambda p, c: optim.SGD(p, 0.1, momentum=c),
    "SGD decay": lambda p, c: optim.SGD(p, 0.1, weight_decay=c),
    "SGD nesterov": lambda p, c: optim.SGD(p, 0.1, momentum=0.9, nesterov=bool(c)),
    "Adam lr": lambda p, c: optim.Adam(p, lr=c),
    "Adam betas": lambda p, c: optim.Adam(p, betas=(c, c)),
    "Adam eps": lambda p, c: optim.Adam(p, eps=c),
    "AdamW decay": lambda p, c: optim.AdamW(p, weight_decay=c),
    "RMSprop alpha": lambda p, c: optim.RMSprop(p, alpha=c),
    "Adagrad eps": lambda p, c: optim.Adagrad(p, eps=c),
}
FINITE = {name: c for name, c in CONSTANTS.items() if np.isfinite(c)}


class Against(nn.Module):
    """A loss as a module of one argument."""

    def __init__(self, loss: nn.Module, target: Any = None) -> None:
        super().__init__()
        self.loss, self.target = loss, target

    def forward(self, x: Any) -> Any:
        return self.loss(x, x.detach() * 0 if self.target is None else self.target)


@pytest.mark.parametrize("module", OPTIONS)
@pytest.mark.parametrize("constant", FINITE)
def test_options_of_modules(constant: str, module: str) -> None:
    def make() -> World:
        tg.manual_seed(0)
        first, net = nn.Linear(3, 3), OPTIONS[module](FINITE[constant])
        optimiser = optim.SGD([*first.parameters(), *net.parameters()], lr=0.1)
        return World(training(lambda x: (net(first(x)) ** 2).sum(), optimiser), lambda: (first.state_dict(), net.state_dict()))

    same_outcome(make, [(X * k,) for k in (1, 2, 1, 2, 3)], False)


@KERNELS
@pytest.mark.parametrize("option", OPTIMISERS)
@pytest.mark.parametrize("constant", ["np.float16", "np.float32", "np.float64", "np.int64", "np.bool", "0-d float64"])
def test_options_of_optimisers(constant: str, option: str, numba: bool) -> None:
    def make() -> World:
        w = Tensor(np.array([1.0, 2.0, 3.0], "float32"), requires_grad=True)
        optimiser = OPTIMISERS[option]([w], FINITE[constant])
        return World(training(lambda x: (x * w).sum(), optimiser), lambda: (w, optimiser.state, optimiser.steps))

    with kernels(numba):
        same_outcome(make, [(X * k,) for k in (1, 2, 1, 2, 3)], False)


HOW = ("rate", "clip_grad_norm", "clip_grad_value", "seed of backward")


@pytest.mark.parametrize(
    ("how", "constant"),
    [(how, c) for how in HOW for c in FINITE if (how, c) != ("clip_grad_value", "np.uint8")],  # which has no negative
)
def test_numbers_of_a_step(how: str, constant: str) -> None:
    c = FINITE[constant]

    def make() -> World:
        w = Tensor(np.array([1.0, 2.0, 3.0], "float32"), requires_grad=True)
        optimiser = optim.SGD([w], lr=0.1)
        if how == "rate":
            optimiser.lr = c

        def step(x: Any) -> Any:
            loss = (x * w * w).sum()
            optimiser.zero_grad()
            loss.backward(c if how == "seed of backward" else None)
            if "clip" in how:
                getattr(optim, how)([w], c)
            optimiser.step()
            return loss

        return World(step, lambda: w)

    same_outcome(make, [(X * k,) for k in (1, 2, 1, 2, 3)], False)


@pytest.mark.parametrize("value", [0.5, np.float64(0.5), [0.5, 2.0, 1.0]], ids=repr)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_made_of_numbers_in_the_step(value: Any, requires_grad: bool) -> None:
    """They are constants, as long as the numbers are the same ones, whether a gradient of them is asked for or not."""
    by: dict[str, Any] = {"value": value}

    @tg.compile
    def step(x: Any) -> Any:
        c = Tensor(by["value"], requires_grad=requires_grad)
        y = (x * c * c).sum()
        return y.detach(), tg.grad(y, [c])[0] if requires_grad else c

    for k in range(1, 9):
        x = X * k
        if k == 5:
            by["value"] = [1.0, 3.0, 0.25]
        c = np.asarray(by["value"])
        total, other = step(x)
        np.testing.assert_allclose(total.numpy(), (x * c * c).sum(), rtol=1e-6)
        slope = (2 * x * c).sum(tuple(range(2 - c.ndim)))
        np.testing.assert_allclose(other.numpy(), slope if requires_grad else c, rtol=1e-6)
        assert (not step.why_not) == (k in (2, 3, 4, 6, 7, 8))


@pytest.mark.parametrize("option", ["l2", "clip_norm"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.array, np.int64])
def test_fit(kind: Any, option: str) -> None:
    x, y = np.tile(X, (8, 1)), np.arange(16) % 2
    losses = []
    for compile in (False, True):
        net = nn.Sequential(nn.Linear(3, 2, rng=np.random.default_rng(0)))
        loader, optimiser = data.DataLoader(x, y, batch_size=4, shuffle=False), optim.SGD(net.parameters(), lr=0.1)
        options = {option: kind(1), "progress": False, "compile": compile}
        losses.append(train.fit(net, F.cross_entropy, optimiser, loader, 3, **options)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3 if kind is np.float16 else 1e-5)


@pytest.mark.filterwarnings("ignore:.*training has not converged")
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_estimators(name: str) -> None:
    """Hyperparameters as np.logspace gives them."""
    from tensorgrad import models

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    y = (x[:, 0] > 0).astype(int) if name == "MLPClassifier" else x[:, 0]
    options = {"hidden_layer_sizes": (5,), "random_state": 0, "max_iter": 25}
    for alpha in np.logspace(-3, -1, 2):
        scores = []
        for a, rate in ((alpha, np.float64(0.01)), (float(alpha), 0.01)):
            scores.append(getattr(models, name)(alpha=a, learning_rate_init=rate, **options).fit(x, y).loss_curve_)
        assert scores[0] == pytest.approx(scores[1], rel=1e-6)


# Numbers as arguments

ARGUMENTS: dict[str, Callable[[Any, Any], Any]] = {
    "where": lambda x, a: tg.where(x < a, x, 2 * x) * a,
    "in a chain": lambda x, a: (x * a + 1) / 2 - a,
    "in a function": lambda x, a: (x + a).tanh() * a,
    "of a product": lambda x, a: x @ x.T * a,
    "of a sum": lambda x, a: (x * a).sum(0) * a,
    "alone": lambda x, a: (x, a * 2),
    "compared": lambda x, a: x > a,
}


@pytest.mark.parametrize(
    ("place", "numba"),
    [*((p, False) for p in ARGUMENTS), *(pytest.param(p, True, marks=NEEDS_NUMBA) for p in ("where", "in a chain"))],
)
@pytest.mark.parametrize("constant", [*CONSTANTS, *ODD])
def test_arguments(constant: str, place: str, numba: bool) -> None:
    c = (CONSTANTS | ODD)[constant]
    with kernels(numba):
        same_outcome(lambda: World(ARGUMENTS[place]), [(X * k, c) for k in (1, 1, 2, 3)], constant in ODD)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64, float])
def test_arguments_of_other_values(kind: Any) -> None:
    """Each value is the one that is used, in however many calls; NaN and both zeros, too."""
    values = [1, 1, 1, 2, 0, 0, 0, 1, 2]
    values += [0.0, -0.0, -0.0, -0.0, 0.0, float("nan"), float("nan"), float("nan"), 1] if kind is not np.int64 else []
    x = np.array([1.0, 2.0, 4.0], "float32")
    for call in (lambda f, a: f(x, a), lambda f, a: f(x, a=a), lambda f, a: f([x, (a, {"a": a})])):
        compiled = tg.compile(lambda x, a=None: 1 / (x[0] * x[1][1]["a"]) if a is None else 1 / (x * a))
        with np.errstate(all="ignore"):
            for v in values:
                found = call(compiled, kind(v)).numpy()
                assert_close(found, (1 / (x * np.float32(v))).astype(found.dtype), 1e-6, f"{v}")


@pytest.mark.parametrize(
    ("a", "b"), [(1, True), (1, 1.0), (0, False), (1, np.float64(1)), (1.0, np.float32(1)), (2, np.int8(2)), (True, np.True_)]
)
def test_equal_arguments_of_different_types(a: Any, b: Any) -> None:
    """1, 1.0 and True are equal, and give other dtypes."""
    x = np.arange(3)

    def formula(x: Any, a: Any) -> Any:
        return x * a, x + a, ops.maximum(x, a)

    compiled = tg.compile(formula)
    for v in (a, a, a, b, b, b, a, b):
        assert_close(compiled(x, v), formula(Tensor(x), v), 1e-12, repr(v))
