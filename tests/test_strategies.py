"""What the strategies draw: the right kind of thing, and small ones when it comes to showing a failure."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, fusion, nn
from tensorgrad.core.signature import Signature
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import GradientError, gradcheck, strategies
from tensorgrad.testing.expressions import Expression, expressions

QUICK = settings(max_examples=2000, deadline=None, database=None, derandomize=True)
FOUND = settings(QUICK, phases=[Phase.generate])  # and not made smaller


@given(data=st.data())
def test_values_keep_away_from_kinks_or_sit_on_them(data: st.DataObject) -> None:
    kinks = (0.0, 1.0)
    away = data.draw(strategies.values((2, 3), (-2, 3), kinks))
    assert away.dtype == np.float64
    assert away.shape == (2, 3)
    assert away.min() >= -2
    assert away.max() <= 3
    for kink in kinks:
        assert (np.abs(away - kink) >= 0.05).all()


def test_values_on_kinks() -> None:
    found = find(strategies.values((4,), kinks=(0.5,), on_kinks=True), lambda x: (x == 0.5).sum() >= 2, settings=QUICK)
    assert found.shape == (4,)
    assert find(strategies.values((2,)), lambda x: True, settings=QUICK).tolist() == [0.0, 0.0]


SIGNATURES = ["(m,k),(k,n)->(m,n)", "(),()->()", "(...,k),(k,n),(n)->(...,n)", "(...,k),(...)->()"]


@given(data=st.data(), signature=st.sampled_from(SIGNATURES))
def test_shapes_fit_their_signature(data: st.DataObject, signature: str) -> None:
    assert Signature.parse(signature).mismatch(data.draw(strategies.shapes(signature))) == ""


@given(some=strategies.broadcastable(3), pair=strategies.matmul_shapes(), dtype=strategies.dtypes())
def test_shapes_that_go_together(some: list[tuple[int, ...]], pair: list[tuple[int, ...]], dtype: np.dtype) -> None:
    np.broadcast_shapes(*some)
    assert np.matmul(*(np.ones(shape, dtype) for shape in pair)).dtype == dtype


@given(data=st.data(), op=strategies.ops())
def test_arguments_of_every_op(data: st.DataObject, op: Op) -> None:
    args, attrs = data.draw(strategies.arguments(op))
    y = op(*args, **attrs)
    assert np.isfinite(y).all()
    assert op.parsed.mismatch([a.shape for a in args]) == "" or op.name in ("einsum", "concatenate")


COMPARING = [REGISTRY[name] for name in ("max", "min", "maximum", "minimum")]  # they have kinks where elements are equal


@pytest.mark.parametrize("op", [op for op in REGISTRY.values() if op.kinks] + COMPARING, ids=lambda op: op.name)
@given(data=st.data())
def test_gradients_on_kinks(op: Op, data: st.DataObject) -> None:
    args, attrs = data.draw(strategies.arguments(op, on_kinks=True))
    gradcheck(lambda *xs: op(*xs, **attrs), args)


def test_arguments_on_kinks_do_sit_there() -> None:
    (x,), _ = find(strategies.arguments(REGISTRY["relu"], on_kinks=True), lambda s: (s[0][0] == 0).sum() > 1, settings=QUICK)
    assert not x[x != 0].size


@given(batch=strategies.batches(3, 4), count=strategies.labels(5, 2))
def test_batches_and_labels(batch: tuple[np.ndarray, np.ndarray], count: np.ndarray) -> None:
    x, labels = batch
    assert x.shape == (len(labels), 3)
    assert labels.dtype == count.dtype == np.int64
    assert set(labels.tolist()) <= {0, 1, 2, 3}
    assert set(count.tolist()) <= {0, 1}
    assert len(count) == 5


def test_networks_shrink_to_one_narrow_layer() -> None:
    smallest = find(strategies.mlps(), lambda m: isinstance(m, nn.Sequential), settings=QUICK)
    assert [p.shape for p in smallest.parameters()] == [(1, 1), (1,)]
    deep = find(strategies.mlps(), lambda m: len(list(m.parameters())) == 6, settings=QUICK)
    assert [type(part).__name__ for _, part in deep.named_modules()][1:] == ["Linear", "Sigmoid", "Linear", "Sigmoid", "Linear"]


@given(model=strategies.mlps(features=3, classes=2))
def test_networks_for_given_data(model: nn.Sequential) -> None:
    assert model(np.ones((4, 3), np.float32)).shape == (4, 2)


# Random expressions


@given(expression=expressions())
def test_gradients_of_expressions(expression: Expression) -> None:
    """Fused and unfused, against numerical ones; what rounding hides (a tanh far out) is no fault."""
    grads = []
    for switch in (fusion.on, fusion.off):
        with switch():
            report = gradcheck(expression, expression.inputs, raises=False)
            assert set(report.verdicts) <= {"ok", "kink", "precision"}, f"{report}\n{expression.script()}"
            xs = [Tensor(a, True) for a in expression.inputs]
            y = expression(*xs)
            g = np.random.default_rng(0).normal(size=y.shape)
            grads.append(tensorgrad.grad(y, xs, g, allow_unused=True))
    for fused, unfused in zip(*grads, strict=True):
        if fused is not None:
            np.testing.assert_allclose(fused.data, unfused.data, rtol=1e-9, atol=1e-9 * (1 + np.abs(fused.data).max(initial=0)))


@given(expression=expressions(max_ops=3))
def test_an_expression_computes_what_it_prints(expression: Expression) -> None:
    script = expression.script()
    names: dict[str, object] = {}
    exec(script.rpartition("\n")[0], names)  # all but the check
    values = [names[name] for name in expression.leaves]
    np.testing.assert_array_equal(names["fn"](*values), expression(*expression.inputs))
    assert len(repr(expression).splitlines()) == 1


def test_expressions_grow_and_share() -> None:
    grown = find(expressions(), lambda e: len(e.steps) >= 4, settings=FOUND)
    assert len({s for step in grown.steps for s in step.sources if isinstance(s, str)}) >= 4
    find(expressions(), lambda e: any(step.sources[:1] == step.sources[1:] for step in e.steps), settings=FOUND)
    find(expressions(["matmul", "tanh"]), lambda e: {s.op.name for s in e.steps} == {"matmul", "tanh"}, settings=FOUND)


@pytest.mark.every(3)
@pytest.mark.parametrize("name", ["max", "cumsum", "softmax", "transpose"])
def test_a_wrong_rule_shrinks_to_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op = REGISTRY[name]
    original = type(op).backward

    def wrong(self: Op, *args: object, **attrs: object) -> object:
        return tuple((lambda rule=rule: rule() * 1.001) for rule in original(self, *args, **attrs))

    monkeypatch.setattr(type(op), "backward", wrong)
    among = expressions(
        ["neg", "add", "mul", "tanh", "exp", "sum", "matmul", "sin", name]
    )  # among all of them it takes a minute
    found = find(among, lambda e: not gradcheck(e, e.inputs, raises=False), settings=QUICK)
    assert name in [step.op.name for step in found.steps]
    assert len(found.steps) <= 3, found.script()
    assert sum(a.size for a in found.inputs) <= 9
    with pytest.raises(GradientError, match=f"The rule of {name} is wrong on its own"):
        exec(found.script(), {})


def test_without_hypothesis() -> None:
    """The core needs NumPy alone; what needs more says so."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from tensorgrad.testing import gradcheck; import numpy as np\n"
        "assert gradcheck(lambda x: x.tanh(), np.ones(3))\n"
        "import tensorgrad.testing.strategies"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(
        r"MissingDependencyError: tensorgrad.testing.strategies needs hypothesis, .* pip install hypothesis",
        run.stderr,
    ), run.stderr
