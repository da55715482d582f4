"""The MLP: gradients equal to the hand-derived formulas, three definitions with equal results."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from tensorgrad.models import MLP, MLPClassifier, handwritten

import tensorgrad
from tensorgrad import Tensor, nn, optim
from tensorgrad.nn import functional as F
from tensorgrad.testing import gradcheck, matches_formula, numerical_gradient, strategies
from tests.strategies import generators

HIDDEN = {"relu": Tensor.relu, "sigmoid": Tensor.sigmoid}


def recorded_cost(x: np.ndarray, y: np.ndarray, layers: list[tuple[Tensor, Tensor]], system: handwritten.System) -> Tensor:
    """The system's cost as a user would write it."""
    h = Tensor(x)
    for w, b in layers[:-1]:
        h = HIDDEN[system.hidden](h @ w + b)
    z = h @ layers[-1][0] + layers[-1][1]
    loss = F.cross_entropy(z, y) if system.loss == "cross_entropy" else ((z.sigmoid() - y) ** 2).sum() / (2 * len(y))
    if system.l2:
        loss = loss + system.l2 / len(y) * sum((w * w).sum() for w, _ in layers)
    return loss


@pytest.mark.parametrize("name", handwritten.SYSTEMS)
@given(
    rng=generators(),
    widths=strategies.widths(7, 4),
    m=st.integers(1, 6),
    hidden=st.sampled_from(sorted(HIDDEN)),
    loss=st.sampled_from(["cross_entropy", "squared_error"]),
    l2=st.sampled_from([0.0, 0.3]),
)
def test_recorded_equals_fused_equals_derived_equals_numerical(
    name: str, rng: np.random.Generator, widths: tuple[int, ...], m: int, hidden: str, loss: str, l2: float
) -> None:
    """Of each system, and of its architecture with another activation, loss and penalty."""
    published = handwritten.SYSTEMS[name]
    x, y = rng.normal(size=(m, widths[0])), handwritten.one_hot(rng.integers(0, widths[-1], m), widths[-1])
    arrays = [(rng.normal(size=(n, k)), rng.normal(size=k)) for n, k in pairwise(widths)]
    parameters = tuple(a for layer in arrays for a in layer)
    for system in (published, replace(published, hidden=hidden, loss=loss, l2=l2)):

        def cost(*leaves: Tensor, system: handwritten.System = system) -> Tensor:
            return recorded_cost(x, y, list(zip(leaves[::2], leaves[1::2], strict=True)), system)

        def derived(*arrays: np.ndarray, system: handwritten.System = system) -> list[np.ndarray]:
            layers = list(zip(arrays[::2], arrays[1::2], strict=True))
            return [g for layer in handwritten.gradients(x, y, layers, system.hidden, system.loss, system.l2) for g in layer]

        # softmax - Y is exact to 1e-16 only: where every sample is known for sure, that is more than 1e-12 of what is left;
        # and where terms cancel, rounding is 1e-16 of those, not of what is left
        largest = [np.abs(g).max() for g in derived(*parameters)]
        assume(largest[-1] > 1e-3)
        assume(min(largest) > 1e-3 * max(largest))
        by_hand = handwritten.cost(x, y, arrays, system.hidden, system.loss, system.l2)
        assert cost(*map(Tensor, parameters)).item() == pytest.approx(by_hand, rel=1e-12)
        matches_formula(cost, derived, parameters)  # to 1e-12 of each gradient's largest entry, fused and unfused
        report = gradcheck(cost, parameters, raises=False)
        # a sigmoid far out leaves gradients that differences cannot see; the formula has settled those
        assert set(report.verdicts) <= {"ok", "kink", "precision"}, report


@pytest.mark.parametrize("name", handwritten.SYSTEMS)
def test_the_whole_reference_network(name: str) -> None:
    """Each system at its own size: recorded = fused = derived."""
    system = handwritten.SYSTEMS[name]
    rng = np.random.default_rng(1)
    x, y = rng.uniform(size=(6, system.widths[0])), handwritten.one_hot(rng.integers(0, 10, 6), 10)
    arrays = [(rng.normal(0, 1 / np.sqrt(n), (n, k)), rng.normal(0, 0.1, k)) for n, k in pairwise(system.widths)]
    layers = [(Tensor(w, True), Tensor(b, True)) for w, b in arrays]
    leaves = [t for layer in layers for t in layer]
    grads = tensorgrad.grad(recorded_cost(x, y, layers, system), leaves)
    derived = [g for layer in handwritten.gradients(x, y, arrays, system.hidden, system.loss, system.l2) for g in layer]
    for g, d in zip(grads, derived, strict=True):
        np.testing.assert_allclose(g.data, d, rtol=0, atol=1e-12 * np.abs(d).max())


def test_handwritten_gradients_are_the_slopes_of_its_cost() -> None:
    """The oracle itself, against numbers."""
    rng = np.random.default_rng(2)
    for system in handwritten.SYSTEMS.values():
        x, y = rng.normal(size=(5, 4)), handwritten.one_hot(rng.integers(0, 3, 5), 3)
        layers = [(rng.normal(size=s), rng.normal(size=s[1])) for s in ((4, 5), (5, 3))]
        derived = handwritten.gradients(x, y, layers, system.hidden, system.loss, system.l2)
        for layer, expected in zip(layers, derived, strict=True):
            for array, d in zip(layer, expected, strict=True):
                cost = lambda: handwritten.cost(x, y, layers, system.hidden, system.loss, system.l2)  # noqa: B023, E731
                np.testing.assert_allclose(d, numerical_gradient(cost, array), rtol=1e-8, atol=1e-9)


def test_handwritten_does_not_import_tensorgrad() -> None:
    import ast
    import inspect

    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(inspect.getsource(handwritten)))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert imported == {"__future__", "dataclasses", "numpy", "typing"}


def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, 90)
    return (rng.normal(size=(90, 5)) + 3 * np.eye(5)[y]).astype(np.float32), y


def test_the_same_network_three_ways() -> None:
    """Bare Tensors, nn and optim, and the classifier: the same steps from the same weights give the same parameters."""
    x, y = problem()
    epochs, lr = 12, 0.1
    start = MLP((5, 8, 6, 3), "relu", rng=np.random.default_rng(7)).state_dict()

    def network(n_in: int, n_out: int) -> MLP:
        return MLP((n_in, 8, 6, n_out), "relu", rng=np.random.default_rng(7))

    settings = {"solver": "sgd", "batch_size": 32, "learning_rate_init": lr, "momentum": 0.0, "alpha": 0.0, "max_iter": epochs}
    classifier = MLPClassifier(module=network, shuffle=False, compile=False, **settings)
    with pytest.warns(ConvergenceWarning):
        classifier.fit(x, y)

    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    model.load_state_dict(start)
    optimiser = optim.SGD(model.parameters(), lr=lr)
    bare = [Tensor(v, requires_grad=True) for v in start.values()]
    w1, b1, w2, b2, w3, b3 = bare
    for _ in range(epochs):
        for i in range(0, 90, 32):
            xb, yb = x[i : i + 32], y[i : i + 32]
            loss = F.cross_entropy(model(xb), yb)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

            z = ((xb @ w1 + b1).relu() @ w2 + b2).relu() @ w3 + b3
            bare_loss = F.cross_entropy(z, yb)
            naive = -(np.eye(3, dtype=np.float32)[yb] * z.softmax().log()).sum() / len(yb)
            assert naive.item() == pytest.approx(bare_loss.item(), rel=1e-5)  # float32, summed in another order
            bare_loss.backward()
            for p in bare:
                p.data -= lr * p.grad.data
                p.grad = None
            assert bare_loss.item() == loss.item()
    for p, q, r in zip(classifier.module_.parameters(), model.parameters(), bare, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
        np.testing.assert_array_equal(q.data, r.data)
    assert classifier.score(x, y) > 0.9


def test_mlp_has_an_activation_for_each_layer_and_dropout() -> None:
    x = np.linspace(-2, 2, 8).reshape(2, 4).astype(np.float32)
    model = MLP((4, 5, 5, 3), ["tanh", nn.Softplus], dropout=0.5, rng=np.random.default_rng(0))
    kinds = [type(model[i]).__name__ for i in range(len(model))]
    assert kinds == ["Linear", "Tanh", "Dropout", "Linear", "Softplus", "Dropout", "Linear"]
    w1, b1, w2, b2, w3, b3 = (p.numpy() for p in model.parameters())
    expected = np.log1p(np.exp(np.tanh(x @ w1 + b1) @ w2 + b2)) @ w3 + b3
    np.testing.assert_allclose(model.eval()(x).numpy(), expected, rtol=1e-5)
    assert not np.allclose(model.train()(x).numpy(), expected)
    assert len(MLP((4, 3), [])) == len(MLP((4, 3), "identity")) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((4, 3), "swish"), "MLP: activation must be one of ['elu', 'gelu', "),
        (lambda: MLP((4, 3, 2), nn.GELU()), "or a function that returns a module, got GELU()"),
        (lambda: MLP((4, 3, 2), ["relu", "tanh"]), "MLP: activation has 2 entries for 1 hidden layers, expected one per layer"),
        (lambda: MLP((4, 3, 2), ["relu", 7][1:]), "or a function that returns a module, got 7"),
        (lambda: MLP((0, 3)), "MLP: widths must be two or more positive integers, got (0, 3)"),
        (lambda: MLP((4,)), "MLP: widths must be two or more positive integers, got (4,)"),
    ],
)
def test_mistakes(make, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
