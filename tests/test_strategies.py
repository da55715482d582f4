"""What the strategies draw: the right kind of thing, and small ones when it comes to showing a failure."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, fusion, nn
from tensorgrad.core.signature import Signature
from tensorgrad.errors import DataError
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


@pytest.mark.every(3)
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


@pytest.mark.thorough
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
    leaves = lambda step: [s for s in step.sources if isinstance(s, str)]  # noqa: E731  others are arrays
    find(expressions(), lambda e: any(len(leaves(step)) > len(set(leaves(step))) for step in e.steps), settings=FOUND)
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


# Strategies of the user's, with these in them


@pytest.mark.thorough
def test_they_shrink_inside_of_others() -> None:
    def smallest(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool] = lambda found: True) -> Any:
        return find(strategy, condition, settings=QUICK)

    model, arrays = smallest(
        st.tuples(strategies.mlps(features=2), st.lists(strategies.values((2,)))),
        lambda found: len(found[1]) >= 2 and any(a[1] > 0.5 for a in found[1]),
    )
    assert [p.shape for p in model.parameters()] == [(2, 1), (1,)]
    assert sorted(a.tolist() for a in arrays) == [[0.0, 0.0], [0.0, 0.51]]

    @st.composite
    def nets_and_data(draw: st.DrawFn) -> tuple[nn.Sequential, np.ndarray, np.ndarray, float]:
        classes = draw(st.integers(2, 4))
        x, y = draw(strategies.batches(3, classes))
        return draw(strategies.mlps(features=3, classes=classes)), x, y, draw(st.floats(0, 1))

    model, x, y, rate = smallest(nets_and_data(), lambda found: len(found[2]) > 1 and 1 in found[2] and found[0](found[1]).size)
    assert [p.shape for p in model.parameters()] == [(3, 2), (2,)]
    assert (x.tolist(), sorted(y.tolist()), rate) == ([[0.0] * 3] * 2, [0, 1], 0.0)

    rows = strategies.values((2, 2)).map(lambda a: a @ a.T).filter(lambda a: np.trace(a) >= 1)
    assert np.trace(smallest(rows)) == pytest.approx(1, abs=0.02)
    longer = st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), strategies.values((n,)), strategies.labels(n, 3)))
    n, a, labels = smallest(longer, lambda found: found[2].sum() >= 3)
    assert (n, a.tolist(), sorted(labels.tolist())) == (2, [0.0, 0.0], [1, 2])
    either = st.one_of(strategies.values((2,)), strategies.mlps(), strategies.ops(["tanh", "exp"]))
    assert smallest(either, lambda found: isinstance(found, np.ndarray)).tolist() == [0.0, 0.0]
    assert len(list(smallest(either, lambda found: isinstance(found, nn.Module)).parameters())) == 2
    op, (args, _) = smallest(
        strategies.ops(["tanh", "matmul"]).flatmap(lambda op: st.tuples(st.just(op), strategies.arguments(op))),
        lambda found: len(found[1][0]) == 2,
    )
    assert (op.name, [a.tolist() for a in args]) == ("matmul", [[[0.0]], [[0.0]]])


# What is printed


NAMES = {"np": np, "nn": nn, "REGISTRY": REGISTRY, "Expression": Expression, "array": np.array}


def shown(strategy: st.SearchStrategy[Any], condition: Callable[[Any], bool] = lambda value: True) -> tuple[Any, Any, str]:
    """A value, what the code makes that Hypothesis prints for it, and that code."""
    drawn: list[Any] = []

    @settings(FOUND, max_examples=300, report_multiple_bugs=False)
    @given(value=strategy)
    def test(value: Any) -> None:
        drawn.append(value)
        assert not condition(value)

    with pytest.raises(AssertionError) as caught:
        test()
    text = "\n".join(caught.value.__notes__)
    code = re.search(r"test(\(\n.*?^\))", text, re.MULTILINE | re.DOTALL)
    assert code, text
    return drawn[-1], eval(f"dict{code[1]}", dict(NAMES))["value"], code[1]


def same(a: Any, b: Any) -> bool:
    """Whether two values that were drawn are equal, dtypes and weights included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and same(list(a.values()), list(b.values()))
    if isinstance(a, nn.Module):
        kinds = [[type(part) for _, part in model.named_modules()] for model in (a, b)]
        return kinds[0] == kinds[1] and same(dict_of(a), dict_of(b))
    if isinstance(a, Expression):
        return repr(a) == repr(b) and same(a.leaves, b.leaves) and same(a(*a.inputs), b(*b.inputs))
    return bool(a == b)


def dict_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.data for name, p in model.named_parameters()}


DRAWN: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], bool]]] = {
    "mlps": (strategies.mlps(), lambda model: len(list(model.parameters())) == 6),
    "narrow": (strategies.mlps(features=4, classes=3), lambda model: True),
    "batches": (strategies.batches(2, 3), lambda batch: batch[1].sum() > 1),
    "values": (strategies.values((2, 3)), lambda x: len(set(x.flat)) > 3),
    "no values": (strategies.values((0, 3)), lambda x: True),
    "a value": (strategies.values(()), lambda x: x > 0.5),
    "no labels": (strategies.labels(0, 3), lambda x: True),
    "dtypes": (strategies.dtypes(), lambda dtype: dtype == np.float64),
    "ops": (strategies.ops(), lambda op: op.name > "m"),
    "indices": (strategies.arguments(REGISTRY["getitem"]), lambda s: any(isinstance(i, np.ndarray) for i in s[1]["index"])),
    "masks": (strategies.arguments(REGISTRY["where"]), lambda s: any(a.dtype == bool and a.any() for a in s[0])),
    "dtype": (strategies.arguments(REGISTRY["astype"]), lambda s: True),
    "on kinks": (strategies.arguments(REGISTRY["relu"], on_kinks=True), lambda s: (s[0][0] == 0).any()),
    "expressions": (expressions(), lambda e: len(e.steps) >= 3),
    "indexing": (expressions(["getitem", "gather", "mul"]), lambda e: len(e.steps) >= 2),
    "in others": (st.tuples(strategies.mlps(), st.lists(strategies.values((2,)), min_size=1)), lambda found: True),
    "mapped": (strategies.values((2,)).map(lambda x: (x, 2)), lambda found: found[0].any()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_it_is_printed_as_the_code_that_makes_it(name: str) -> None:
    drawn, made, code = shown(*DRAWN[name])
    assert same(drawn, made), code


def test_what_a_person_would_write() -> None:
    assert "nn.Sequential(nn.Linear(4, 3, rng=np.random.default_rng(0)))" in shown(strategies.mlps(features=4, classes=3))[2]
    deep = shown(strategies.mlps(activations=["tanh"]), lambda model: len(list(model.parameters())) == 4)[2]
    assert re.search(
        r"nn\.Sequential\(nn\.Linear\((\d), (\d), rng=np\.random\.default_rng\((\d+)\)\), nn\.Tanh\(\), "
        r"nn\.Linear\(\2, \d, rng=np\.random\.default_rng\((\d+)\)\)\)",
        deep,
    ), deep
    assert re.search(r"\(np\.array\(\[\[.*\]\]\), np\.array\(\[.*\]\)\)", shown(strategies.batches(2, 3))[2])
    assert "REGISTRY['tanh']" in shown(strategies.ops(["tanh"]))[2]


@given(expression=expressions(max_ops=3))
def test_expressions_are_read_from_what_they_print(expression: Expression) -> None:
    assert same(expression, eval(repr(expression), dict(NAMES)))


@pytest.mark.parametrize("line", ["a", "a = ", "y0 = ops['tanh'](a)[0]", "f(a)", "y0 = a = np.ones(2)"])
def test_what_is_no_expression(line: str) -> None:
    with pytest.raises((DataError, SyntaxError, NameError)):
        Expression.of(f"a = np.array([1.0]); {line}")


# Time, and what is not installed


def test_the_first_check_imports_nothing() -> None:
    """Hypothesis gives every example 200 ms: Numba takes longer. numpy.ma, which np.unique imports, takes some milliseconds."""
    code = """
import sys
import numpy as np
from tensorgrad import nn
from tensorgrad.nn import functional as F
from tensorgrad.testing import check_model
from tensorgrad.testing.strategies import ACTIVATIONS

before = set(sys.modules)
for activation in ACTIVATIONS.values():
    model = nn.Sequential(nn.Linear(2, 3), activation(), nn.Linear(3, 2))
    check_model(model, F.cross_entropy, np.ones((2, 2)), np.array([0, 1]), raises=False)
print(*sorted(name for name in set(sys.modules) - before if not name.startswith("numpy.ma")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "needs"), [("strategies", "hypothesis"), ("expressions", "hypothesis"), ("plugin", "pytest")]
)
def test_what_is_not_installed_is_named(module: str, needs: str) -> None:
    """The core needs NumPy alone; what needs more says so."""
    code = (
        f"import sys; sys.modules[{needs!r}] = None\n"
        "from tensorgrad.testing import gradcheck; import numpy as np\n"
        "assert gradcheck(lambda x: x.tanh(), np.ones(3))\n"
        f"import tensorgrad.testing.{module}"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == (
        f"tensorgrad.errors.MissingDependencyError: tensorgrad.testing.{module}: needs {needs}, which is not installed; "
        f"pip install {needs}"
    )
