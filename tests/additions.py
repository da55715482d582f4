"""What finds an addition by itself: run by test_additions.py in a copy of the project that has one of each.

None of this knows more of an addition than its name; nothing here is collected where it is not asked for.
"""

from __future__ import annotations

import pydoc
import re
from pathlib import Path
from typing import Any

import numpy as np
from tensorgrad.models import MLP, mlp

import tensorgrad
from tensorgrad import Tensor, data, draw, fusion, models, nn, ops, optim, testing, train
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tests import face
from tests.compiled import lowered

for package in (tensorgrad, models):
    assert Path(package.__file__).is_relative_to(Path.cwd()), f"{package.__file__} is not that of the copy"

RNG = np.random.default_rng(0)
X, Y, LABELS = RNG.normal(size=(12, 3)), RNG.uniform(0.1, 0.9, (12, 2)), RNG.integers(0, 2, 12)


def helped(thing: Any) -> str:
    return pydoc.render_doc(thing, renderer=pydoc.plaintext)


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    w, b = Tensor(np.linspace(-1, 1, 6).reshape(3, 2), True, name="W1"), Tensor(np.array([0.1, -0.2]), True, name="b1")
    return Tensor(X, name="x"), w, b


def network(activation: Any = nn.Tanh) -> nn.Module:
    rng = np.random.default_rng(1)
    return nn.Sequential(nn.Linear(3, 4, rng=rng, dtype=np.float64), activation(), nn.Linear(4, 2, rng=rng, dtype=np.float64))


def training(model: nn.Module, loss: Any, optimiser: optim.Optimiser) -> Any:
    def step(x: Tensor, y: Tensor) -> Tensor:
        cost = loss(model(x), y)
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
        return cost

    return step


def is_replayed(model: nn.Module, loss: Any, optimiser: optim.Optimiser, *batch: Any) -> None:
    """Compiled, the step does what it does as it is written, and is replayed."""
    assert testing.check_compiled(training(model, loss, optimiser), *batch)


def test_an_activation() -> None:
    name = "shrunk"
    face.STUB.write_text(face.stub())  # as `python -m tests.face` does
    op, module = REGISTRY[name], next(m for m in nn.__all__ if m.lower() == name.replace("_", ""))
    assert op is getattr(tensorgrad, name) is getattr(F, name)
    for where, line in ((tensorgrad, rf"{name}(x"), (F, rf"{name}(x"), (Tensor, rf"{name}(x"), (nn, rf"class {module}(")):
        assert line in helped(where), where
    assert op.__doc__.splitlines()[0] in helped(Tensor)
    assert f"def {name}(self) -> Tensor" in face.STUB.read_text()
    from tensorgrad.testing import strategies  # it needs Hypothesis

    assert strategies.ACTIVATIONS[name] is mlp.ACTIVATIONS[name] is getattr(nn, module)
    assert f'"{name}"' in helped(MLP)
    assert f'"{name}"' in helped(models.MLPClassifier)
    assert any(isinstance(part, getattr(nn, module)) for part in MLP((3, 4, 2), name))
    assert testing.audit([name], cases=5)
    x, w, b = parameters()
    loss = (op(x @ w + b) ** 2).sum()
    assert f"h = {name}(z)" in str(draw.derive(loss, w))
    assert name in loss.graph(backward=True).dot
    model = network(getattr(nn, module))
    is_replayed(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), X, LABELS)


def test_a_loss() -> None:
    name = "count_loss"
    loss = getattr(F, name)
    module = next(getattr(nn, m) for m in nn.__all__ if m.lower() == name.replace("_", ""))
    assert re.search(rf"\b{name}\(\s*input", helped(F))  # from Python 3.13 on one parameter to a line
    assert f"class {module.__name__}(" in helped(nn)
    model = network()
    assert testing.check_model(model, loss, X, Y)
    is_replayed(model, module(), optim.SGD(model.parameters(), lr=0.1), X, Y)
    histories = []
    for compiled in (True, False):
        model = network()
        optimiser = optim.SGD(model.parameters(), lr=0.1)
        histories.append(train.fit(model, loss, optimiser, data.DataLoader(X, Y, batch_size=4), 5, compile=compiled)["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-12)
    assert histories[0][-1] < histories[0][0]
    x, w, b = parameters()
    assert "dL/dW1 = " in str(draw.derive(loss(x @ w + b, Y), w))


def test_a_fused_pattern() -> None:
    name = "linear_exp"
    fused = REGISTRY[name]
    assert name in helped(tensorgrad)
    assert not hasattr(Tensor, name)
    x, w, b = parameters()
    activation = fused.expands[-1]
    y = activation(x @ w + b)
    assert [node.op for node in Graph.of(y).fused().nodes] == [fused]
    np.testing.assert_array_equal(Graph.of(y).fused().run()[0], y.data)
    np.testing.assert_allclose(fused(x, w, b).data, y.data, rtol=1e-14)
    found = tensorgrad.grad((y * y).sum(), (w, b))
    with fusion.off():
        y = activation(x @ w + b)
        expected = tensorgrad.grad((y * y).sum(), (w, b))
    for g, h in zip(found, expected, strict=True):
        np.testing.assert_allclose(g.data, h.data, rtol=1e-12)
    loss = activation(x @ w + b).mean()
    assert name in loss.graph(fused=True).dot
    assert name not in loss.graph().dot
    assert f"h = {activation.name}(x W1 + b1)" in str(draw.derive(loss, w))
    assert testing.audit([name], cases=5)
    model = network(lambda: Activation(activation))
    is_replayed(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), X, LABELS)


class Activation(nn.Module):
    def __init__(self, op: Any) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Any) -> Any:
        return self.op(x)


def test_a_kind_of_kernel() -> None:
    from tensorgrad.compiler import calls

    name = "Scan"
    kind = getattr(calls, name)
    assert f"class {name}(" in helped(calls)
    _, w, _ = parameters()

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        y = ops.cumsum((x @ w).tanh(), 1)
        loss = (y * ops.cumsum(x.exp(), 0)[:, :2]).sum()
        return loss, *tensorgrad.grad(loss, w)

    for in_parts in (False, True):  # the samples, where its axis allows it
        compiled = tensorgrad.compile(step)
        with lowered(**({"ROWS_FLOPS": 0, "ROWS_BYTES": 64} if in_parts else {})):
            for k in range(4):
                for found, expected in zip(compiled(X + k), step(Tensor(X + k)), strict=True):
                    np.testing.assert_allclose(found.data, expected.data, rtol=1e-12)
        assert not compiled.why_not
        used = [(call, part) for call in compiled.plan.calls for part in call.parts if isinstance(part, kind)]
        assert len(used) > 2
        assert {part is not call for call, part in used} == {False, in_parts}
        assert used[0][1].name in str(compiled.plan)
        assert used[0][1].name in draw.graph(compiled.plan).dot


def test_an_optimiser(tmp_path: Path) -> None:
    name = "Lion"
    make = getattr(optim, name)
    assert f"class {name}(" in helped(optim)
    assert helped(make).count("lr") > 1
    model = network()
    is_replayed(model, F.cross_entropy, make(model.parameters(), lr=0.01), X, LABELS)

    def trained(epochs: int, **options: Any) -> tuple[nn.Module, optim.Optimiser]:
        model = network()
        optimiser = make(model.parameters(), lr=0.01)
        train.fit(model, F.cross_entropy, optimiser, data.DataLoader(X, LABELS, batch_size=4), epochs, **options)
        return model, optimiser

    file = tmp_path / "run.npz"
    trained(2, checkpoint=file)
    with np.load(file) as saved:
        assert {f"optimiser/state/0/{slot}" for slot in make.slots} <= set(saved)
    (model, optimiser), (other, resumed) = trained(4), trained(4, checkpoint=file, resume=True)
    assert optimiser.steps == resumed.steps == 12
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    for a, b in zip(optimiser.state, resumed.state, strict=True):
        assert a.keys() == set(make.slots)
        for slot in a:
            np.testing.assert_array_equal(a[slot], b[slot])


def test_everything_is_there() -> None:
    from tensorgrad.compiler import calls

    for where, name in ((ops, "shrunk"), (F, "count_loss"), (ops, "linear_exp"), (calls, "Scan"), (optim, "Lion")):
        assert name in where.__all__
        assert hasattr(where, name)
