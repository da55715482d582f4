"""Gradients found in every other way in which people get them: what is wrong in one of them only is found, and named."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st

from tensorgrad import Tensor, checkpoint, clip, compile, grad, nn, ops
from tensorgrad.autograd import fusion
from tensorgrad.core.backend import is_floating
from tensorgrad.core.op import REGISTRY, Op
from tensorgrad.core.state import state, switched
from tensorgrad.errors import CompileError
from tensorgrad.nn import functional as F
from tensorgrad.ops import random
from tensorgrad.testing import GradientError, check_model, gradcheck, ways
from tensorgrad.testing.alone import by_op
from tensorgrad.testing.batched import batched
from tensorgrad.testing.checks import Check
from tensorgrad.testing.expressions import Expression, expressions
from tensorgrad.testing.problem import Problem
from tensorgrad.testing.report import Finding
from tensorgrad.testing.rounding import Rounding

CHECKED = [op.name for op in REGISTRY.values() if op.backward is not None]


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def check_of(fn: Callable[..., Any], inputs: Any, order: int = 1, seed: int = 0) -> Check:
    rng = np.random.default_rng(seed)
    problem = Problem.of("test", fn, inputs, None)
    return Check(problem if order == 1 else problem.second(rng), order, 1e-6, rng)


def other(fn: Callable[..., Any], inputs: Any, order: int = 1, seed: int = 0, **how: Any) -> list[Finding]:
    return ways.other_ways(check_of(fn, inputs, order, seed), **how)


@contextlib.contextmanager
def registered(
    backward: Callable[..., Any], name: str = "planted", forward: Callable[..., Any] = lambda self, xp, x: xp.multiply(x, x)
) -> Iterator[Op]:
    """x² with a rule of one's own."""
    body = {"name": name, "signature": "()->()", "reads": "x", "forward": forward, "backward": backward}
    try:
        yield type(name, (Op,), body)()
    finally:
        del REGISTRY[name]


def lies(a: Any, how: Callable[[Any], bool]) -> bool:
    return isinstance(a, np.ndarray) and a.size > 1 and how(a.flags)


FAULTS: dict[str, Callable[[Any], Any]] = {
    "another factor": lambda g: g * 1.5,
    "another sign": lambda g: -g,
    "a further term": lambda g: g + 0.1 * g * g,
}
WHERE: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "recorded": ("create_graph=True", lambda g, x: isinstance(g, Tensor)),
    "unfused": ("fusion off", lambda g, x: not state.fusing),
    "strided": ("non-contiguous inputs", lambda g, x: lies(x, lambda f: not f.c_contiguous and not f.f_contiguous)),
    "columns": ("inputs in Fortran order", lambda g, x: lies(x, lambda f: f.f_contiguous and not f.c_contiguous)),
    "float32": ("float32", lambda g, x: x.dtype == np.float32),
}


def wrong_where(applies: Callable[[Any, Any], bool], fault: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda self, g, y, x: (lambda: 2 * (fault(g) if applies(g, x) else g) * x,)


@pytest.mark.every(3)
@given(expression=expressions(max_ops=3), fault=st.sampled_from(list(FAULTS)), seed=st.integers(0, 2**16))
@example(
    expression=Expression.of(
        "b = np.zeros((3, 1, 3)); y0 = ops['ctc'](b, np.array([[0, 0, 0]]), np.array([2]), np.array([0]))"
    ),
    fault="another factor",
    seed=0,
)
@example(
    expression=Expression.of("a = np.array([0.0, 0.0]); y0 = ops['logcumsumexp'](a, axis=0)"), fault="another factor", seed=0
)
@pytest.mark.parametrize("where", WHERE)
def test_a_rule_that_is_wrong_in_one_way_only_is_found_and_named(
    where: str, fault: str, expression: Expression, seed: int
) -> None:
    label, applies = WHERE[where]
    first, *rest = expression.inputs
    first = np.stack([first, first + 0.01])  # arrays lie in different ways only where there are two axes
    first = np.stack([first, first - 0.01], axis=1)

    def fn(op: Callable[[Any], Any], x: Any, *rest: Any) -> Any:
        y = op(x)
        return expression((y / (1 + y))[0, 0], *rest), y * 0.5

    try:
        right = check_of(partial(fn, lambda x: x * x), (first, *rest), seed=seed)
    except np.linalg.LinAlgError:  # of other numbers than were drawn, a matrix may be singular
        reject()
    assume(all(np.isfinite(g).all() for g in right.recorded) and np.isfinite(right.at).all())
    assert not ways.other_ways(right)
    assume(np.abs(right.recorded[0]).max(initial=0.0) > 1e-3)
    with registered(wrong_where(applies, FAULTS[fault])) as planted:
        check = check_of(partial(fn, planted), (first, *rest), seed=seed)
        assert all(np.allclose(a, b, rtol=1e-9) for a, b in zip(check.recorded, right.recorded, strict=True))
        notes: list[str] = []
        names = {f.name for f in ways.other_ways(check, notes=notes) if f.verdict == "wrong"}
    assume(not any("not decided in float32" in note for note in notes))  # it has too few digits, or no room for the numbers
    assert f"input 0 ({label})" in names


# Each of these gives the right gradient once, plainly


def seen_before(self: Op, g: Any, y: Any, x: Any) -> Any:
    """Right for values that are seen for the first time."""
    known = self.__dict__.setdefault("known", [])
    again = any(x is a for a in known)
    known.append(x)
    return (lambda: (3 if again else 2) * g * x,)


def writes(array: str) -> Callable[..., Any]:
    def backward(self: Op, g: Any, y: Any, x: Any) -> Any:
        if isinstance(g, Tensor):
            return (lambda: 2 * g * x,)

        def rule() -> Any:
            gx = 2 * g * x
            (g if array == "g" else x)[...] = 0
            return gx

        return (rule,)

    return backward


def test_the_second_backward_of_a_graph_is_the_first() -> None:
    with registered(seen_before) as planted:
        (found,) = other(lambda x: planted(x), normal(0, 3, 4))
    assert (found.name, found.verdict) == ("input 0 (the second backward())", "nondeterministic")


@pytest.mark.parametrize(("array", "what"), [("g", "the incoming gradient"), ("x", "argument 0")])
def test_a_rule_that_writes_to_what_it_is_given(array: str, what: str) -> None:
    with registered(writes(array)) as planted:
        (found,) = other(lambda x: planted(x * 1.0) * 3.0, normal(0, 3, 4))
    assert (found.name, found.verdict) == (f"planted (writes to {what})", "wrong")


def test_each_output_alone_adds_up_to_all() -> None:
    nonlinear = lambda self, g, y, x: (lambda: 2 * g * x + (0 if isinstance(g, Tensor) else 1e-3 * g * g),)  # noqa: E731
    right = lambda self, g, y, x: (lambda: 2 * g * x,)  # noqa: E731
    for backward in (right, nonlinear):
        with registered(backward) as planted:

            def fn(x: Any, op: Op = planted) -> Any:
                y = op(x)
                return y.sin(), y.cos()

            names = {f.name for f in other(fn, normal(0, 3, 4))}
        assert ("input 0 (backward() of each output alone)" in names) == (backward is nonlinear)


def test_upstream_gradients_that_are_not_contiguous() -> None:
    for label, how in [
        ("non-contiguous upstream gradients", lambda f: not f.c_contiguous and not f.f_contiguous),
        ("upstream gradients in Fortran order", lambda f: f.f_contiguous and not f.c_contiguous),
    ]:
        with registered(wrong_where(lambda g, x, how=how: lies(g, how), FAULTS["another factor"])) as planted:
            assert f"input 0 ({label})" in {f.name for f in other(lambda x, op=planted: op(x), normal(0, 3, 4))}


def test_upstream_gradients_of_zero_give_zero() -> None:
    with registered(lambda self, g, y, x: (lambda: 2 * g * x + (1.0 if not np.any(values_of(g)) else 0.0),)) as planted:
        for fn in (
            lambda x: planted(x),
            lambda x: (planted(x), x.sin()),
            lambda x: (*[(x * k).cos() for k in range(9)], planted(x)),
        ):
            (found,) = other(fn, normal(0, 3))
            assert found.name == "input 0 (upstream gradients of 0)"


def values_of(g: Any) -> Any:
    return g.data if isinstance(g, Tensor) else g


def test_a_gradient_that_is_another_each_time_is_not_put_down_to_a_way() -> None:
    calls = iter(range(1000))
    with registered(lambda self, g, y, x: (lambda: (2 + 1e-6 * next(calls)) * g * x,)) as planted:
        (found,) = other(lambda x: planted(x), normal(0, 3, 4))
        assert (found.name, found.verdict) == ("input 0 (computed again)", "nondeterministic")
        check = check_of(lambda x: planted(x), normal(0, 3, 4))
        check.nondet_tol = 1e-2  # type: ignore[attr-defined]
        assert not ways.other_ways(check)


def network(seed: int, *sizes: int, samples: int = 20, norm: bool = False) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function of samples and weights, with a place for an op after the first layer."""
    rng = np.random.default_rng(seed)
    weights = []
    for n, m in pairwise(sizes):
        weights += [rng.normal(size=(n, m)) / np.sqrt(n), 0.1 * rng.normal(size=m)]

    def fn(op: Callable[[Any], Any], x: Any, *ws: Any) -> Any:
        z = op(x @ ws[0] + ws[1])
        for i in range(2, len(ws), 2):
            if norm:
                z = (z - z.mean(axis=0)) / (z.var(axis=0) + 1e-5).sqrt()
            z = z.tanh() @ ws[i] + ws[i + 1]
        return F.cross_entropy(z, np.arange(samples) % sizes[-1])

    return fn, (rng.normal(size=(samples, sizes[0])), *weights)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(5, 7, 3), (64, 100, 10)])
@pytest.mark.parametrize(("where", "factor"), [("recorded", 1 + 1e-8), ("unfused", 1 - 1e-8), ("float32", 1.001)])
def test_small_faults_in_networks(where: str, factor: float, sizes: tuple[int, ...], seed: int, norm: bool) -> None:
    """Also where biases before a normalisation have a gradient that is nothing but rounding."""
    fn, inputs = network(seed, *sizes, norm=norm)
    assert not other(partial(fn, lambda x: x * x), inputs)
    label, applies = WHERE[where]
    with registered(wrong_where(applies, lambda g: g * factor)) as planted:
        found = other(partial(fn, planted), inputs)
    assert any(label in f.name for f in found)


# No false alarms


@pytest.mark.parametrize("name", CHECKED)
def test_no_op_differs_in_any_way(name: str) -> None:
    op = REGISTRY[name]
    for case in range(5):
        args, attrs = op.sample(np.random.default_rng([11, case]))
        wrt = [i for i, a in enumerate(args) if is_floating(a.dtype) and not op.is_data(i)]
        problem = Problem.of(name, lambda *xs, op=op, attrs=attrs: op(*xs, **attrs), tuple(args), wrt)
        rng = np.random.default_rng(case)
        for order in (1, 2):
            check = Check(problem if order == 1 else problem.second(rng), order, 1e-6, rng)
            assert [f.name for f in ways.other_ways(check)] == []
        assert [f.name for f in batched(op, args, attrs)] == []


def ill(condition: float, seed: int = 1) -> Any:
    q = np.linalg.qr(normal(seed, 4, 4))[0]
    return q @ np.diag(np.logspace(0, -np.log10(condition), 4)) @ q.T


HOSTILE: dict[str, tuple[Callable[..., Any], Callable[[int], Any]]] = {
    "small numbers": (lambda x: x.log(), lambda s: np.array([1e-12, 1.0, 1e-40]) * (1 + s)),
    "high frequency": (lambda x: (x * 1e8).sin(), lambda s: normal(s, 4)),
    "beyond float32": (lambda x: (x * 1e100).sin(), lambda s: 1e-100 * normal(s, 3, 4)),
    "nearly equal": (lambda x: x.std(), lambda s: 1e3 + 1e-6 * normal(s, 3, 4)),
    "columns nearly equal": (lambda x: x.std(0), lambda s: 1e2 + 1e-2 * normal(s, 50, 4)),
    "inverse": (ops.inv, lambda s: ill(10.0 ** (s % 10))),
    "solve": (ops.solve, lambda s: (ill(10.0 ** (s % 10)), normal(s, 4, 2))),
    "nothing left": (lambda x: (1 / (x - 1e3)).sin(), lambda s: 1e3 + 1e-6 * (1 + normal(s, 3) ** 2)),
    "spike": (lambda x: (-(((x - 1) * 1e6) ** 2)).exp(), lambda s: np.array([1.0000003, 2.0])),
    "norm at 0": (ops.norm, lambda s: np.zeros(3)),
    "lengths": (lambda x: ops.norm(x, axis=1), lambda s: normal(s, 3, 4) * 10.0 ** (10 * s - 40)),
    "kinks": (lambda x, w: ((x @ w).relu() * normal(3, 3, 5)).sum(), lambda s: (np.zeros((3, 4)), normal(s, 4, 5))),
    "bounds": (lambda x: clip(x, -1.0, 1.0), lambda s: np.array([1.0, -1.0, 0.3])),
    "ties": (lambda x: x.max(), lambda s: np.array([1.0, 1.0, 0.3])),
    "near ties": (lambda x: x.max(0).sin(), lambda s: 1 + 1e-9 * normal(s, 5, 3)),
    "near kinks": (lambda x: (x * 3.3 - 3.3).relu().sum(), lambda s: 1 + 1e-8 * normal(s, 50)),
    "pooling of ties": (lambda x: F.max_pool2d(x, 2), lambda s: np.round(normal(s, 2, 3, 6, 6))),
    "log(softmax(z))": (lambda z: z.softmax(-1).log(), lambda s: normal(s, 3, 5) * 10.0 ** (s % 5)),
    "log(1 - sigmoid(z))": (lambda z: (1 - z.sigmoid()).log(), lambda s: normal(s, 3, 5) * 10.0 ** (s % 4)),
    "entropy": (lambda z: -(z.softmax(-1) * z.log_softmax(-1)).sum(), lambda s: normal(s, 3, 5) * 10.0 ** (s % 4)),
    "an offset": (lambda x: (x + 1e6 - 1e6) ** 2, lambda s: normal(s, 3, 4)),
    "a difference of equals": (lambda x: x.exp() - x.exp() * (1 - 1e-10), lambda s: normal(s, 3, 4)),
    "sizes side by side": (lambda x: x.tanh() * np.logspace(-14, 0, 8), lambda s: normal(s, 8)),
    "a sum of many": (lambda x: (x * x).sum() ** 2, lambda s: np.full((5000, 3), 0.1 + s / 100)),
    "a mean taken away": (lambda x: ((x - x.mean(0)) ** 2).mean(), lambda s: 100 + normal(s, 300, 3)),
    "many outputs": (lambda x: tuple((x * k).sin() for k in range(12)), lambda s: normal(s, 3)),
    "a constant beside": (lambda x: (x.sum(), Tensor(np.ones(3))), lambda s: normal(s, 3)),
    "an input as it is": (lambda x: x, lambda s: normal(s, 3)),
    "an input that is not used": (lambda a, b: a * 2, lambda s: (normal(s, 3), normal(s, 2))),
    "double on purpose": (lambda x: x.astype(np.float64).sin(), lambda s: normal(s, 3)),
    "eps of the dtype": (lambda x: x / (ops.norm(x) + np.finfo(x.dtype).eps), lambda s: normal(s, 3)),
    "constants in double": (lambda w: (normal(0, 30, 4) @ w).tanh(), lambda s: normal(s, 4, 2)),
    "nothing": (lambda x: x.sin(), lambda s: np.zeros((0, 3))),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_right_functions_at_hostile_points(case: str) -> None:
    fn, inputs = HOSTILE[case]
    for seed in range(5):
        for order in (1, 2):
            assert [f.name for f in other(fn, inputs(seed), order, seed)] == [], (seed, order)


@given(expression=expressions(), order=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_right_expressions(expression: Expression, order: int, seed: int) -> None:
    assert [f.name for f in other(expression, expression.inputs, order, seed)] == []


# What is said, and left as it was


def test_what_cannot_be_decided_is_noted() -> None:
    cases: list[tuple[Callable[..., Any], Any, str]] = [
        (lambda x: x * 1e100, normal(0, 3) * 1e-100, "not checked in float32: it cannot hold the inputs"),
        (lambda x: x.exp(), np.array([1.0, 300.0]), "not decided in float32"),
        (lambda z: z.softmax(-1).log(), np.array([[0.0, 2000.0]]), "not decided with fusion off"),
        (lambda x: refusing(x), normal(0, 3), "not checked in float32: ValueError: only in double"),
        (lambda x: x.astype(np.float64) * 2.0, np.ones(3), ""),
    ]
    for fn, x, expected in cases:
        notes: list[str] = []
        assert not other(fn, x, notes=notes)
        assert (not notes and not expected) or any(note.startswith(expected) for note in notes if expected), (expected, notes)


def refusing(x: Tensor) -> Tensor:
    if x.dtype != np.float64:
        raise ValueError("only in double")
    return x * 2.0


def test_a_rule_that_refuses_to_be_recorded_is_noted_and_checked_in_all_other_ways() -> None:
    def backward(self: Op, g: Any, y: Any, x: Any) -> Any:
        def rule() -> Any:
            if isinstance(g, Tensor):
                raise TypeError("arrays only")
            return 2 * g * x * (1.5 if lies(x, lambda f: not f.c_contiguous and not f.f_contiguous) else 1)

        return (rule,)

    notes: list[str] = []
    with registered(backward) as planted:
        (found,) = other(lambda x: planted(x), normal(0, 3, 4), notes=notes)
    assert found.name == "input 0 (non-contiguous inputs)"
    assert notes == ["not checked with create_graph=True: TypeError: arrays only"]


def test_everything_is_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    beside = Tensor(np.ones(3), requires_grad=True)
    beside.grad = kept = Tensor(np.full(3, 7.0))
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p._replace(p._data.astype(np.float64))
    arrays = [p._data for p in parameters]
    values = [a.copy() for a in arrays]
    x = normal(0, 5, 4)
    problem = Problem(
        [str(i) for i in range(len(arrays))], arrays, lambda: parameters, lambda _: [(model(Tensor(x)) * beside).tanh()]
    )
    check = Check(problem, 1, 1e-6, np.random.default_rng(0))
    before, weights = problem.evaluations, check.weights.copy()
    assert not ways.other_ways(check)
    # one or two of them to find out what rounding makes of a bias before a normalisation
    assert 4 <= problem.evaluations - before <= 5
    assert all(p._data is a and np.array_equal(a, v) for p, a, v in zip(parameters, arrays, values, strict=True))
    assert beside.grad is kept
    assert np.array_equal(kept.data, np.full(3, 7.0))
    assert parameters[0].grad is None
    assert np.array_equal(check.weights, weights)


# Compiled


def test_a_rule_that_is_wrong_in_a_compiled_step_only() -> None:
    def fn(op: Callable[[Any], Any], x: Any, w: Any) -> Any:
        return op(x @ w).tanh()

    inputs = normal(0, 3, 4), normal(1, 4, 2)
    assert not other(partial(fn, lambda x: x * x), inputs, compiled=True)
    with registered(wrong_where(lambda g, x: state.trace is not None, lambda g: g * (1 + 1e-6))) as planted:
        assert not other(partial(fn, planted), inputs)
        found = other(partial(fn, planted), inputs, compiled=True)
    assert {f.name for f in found} == {"input 0 (in a compiled step)", "input 1 (in a compiled step)"}


def test_a_rule_that_is_wrong_in_a_compiled_step_in_float32_only() -> None:
    def fn(op: Callable[[Any], Any], x: Any, w: Any) -> Any:
        return op(x @ w).tanh()

    inputs = normal(0, 3, 4), normal(1, 4, 2)
    wrong = wrong_where(lambda g, x: state.trace is not None and x.dtype == np.float32, lambda g: g * 1.001)
    notes: list[str] = []
    assert not other(partial(fn, lambda x: x * x), inputs, compiled=True, notes=notes)
    with registered(wrong) as planted:
        assert not other(partial(fn, planted), inputs)
        found = other(partial(fn, planted), inputs, compiled=True, notes=notes)
    assert {f.name for f in found} == {f"input {i} (float32 in a compiled step)" for i in (0, 1)}
    assert not notes
    assert not other(lambda x: x * 1e100, 1e-100 * normal(0, 3), compiled=True)
    assert not other(lambda w: (normal(0, 30, 4) @ w).tanh(), normal(0, 4, 2), compiled=True)


def test_functions_that_are_compiled_already() -> None:
    """Their graph is one node, of which nothing is known but what it gives."""
    for fn in (lambda x: x.sin(), lambda x: (x * x).sum()):
        compiled = compile(fn)
        for order in (1, 2):
            assert other(lambda x, f=compiled: f(x) * 2.0, normal(0, 3, 4), order) == []
        notes: list[str] = []
        assert by_op(ways.Ways(check_of(compiled, normal(0, 3)), notes), "nothing") == []
        assert notes[0].startswith("nothing; nor each op on its own: ")
    with registered(wrong_where(WHERE["float32"][1], lambda g: g * 1.5)) as planted:
        compiled = compile(lambda x: planted(x).sin())
        assert {f.name for f in other(lambda x: compiled(x) * 2.0, normal(0, 3, 4))} == {"input 0 (float32)"}


def test_a_function_that_cannot_be_compiled_is_refused() -> None:
    def fn(x: Any) -> Any:
        return x * 2.0 if x.sum().item() > 0 else x

    assert not other(fn, np.ones(3))
    with pytest.raises(CompileError, match=re.escape("check: compiled=True: the function in a compiled step: ") + ".*item"):
        other(fn, np.ones(3), compiled=True, caller="check")


@pytest.mark.thorough
def test_compiled_steps_of_right_functions() -> None:
    for case in (
        "constants in double",
        "entropy",
        "solve",
        "columns nearly equal",
        "an input that is not used",
        "many outputs",
    ):
        fn, inputs = HOSTILE[case]
        for order in (1, 2):
            assert [f.name for f in other(fn, inputs(1), order, compiled=True)] == []


# Batched


@pytest.mark.parametrize(
    "backward",
    [
        lambda self, g, y, x: (lambda: (2 if x.ndim < 2 else 2 + 1e-6) * g * x,),
        lambda self, g, y, x: (lambda: 2 * g * (x if x.ndim < 2 else x[:1]),),
        lambda self, g, y, x: (lambda: 2 * x * (g if g.ndim < 2 else g.sum(axis=0)),),
    ],
)
def test_a_rule_that_is_wrong_on_several_samples_only(backward: Callable[..., Any]) -> None:
    with registered(backward) as planted:
        assert {f.name for f in batched(planted, (normal(0, 3),), {})} == {"input 0 (batched)"}
    with registered(lambda self, g, y, x: (lambda: 2 * g * x,)) as planted:
        assert batched(planted, (normal(0, 3),), {}) == []


def test_ops_can_be_called_on_several_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those whose signature says that there is no further axis, and those whose attributes speak of all axes."""
    from tensorgrad.testing import batched as module

    asked: set[str] = set()
    inner = module.compare_gradients
    monkeypatch.setattr(module, "compare_gradients", lambda *args: asked.add(name) or inner(*args))
    for name in CHECKED:
        for seed in range(2):
            args, attrs = REGISTRY[name].sample(np.random.default_rng(seed))
            batched(REGISTRY[name], args, attrs)
    signatures = {name: REGISTRY[name].parsed for name in CHECKED}
    alone = {name for name, of in signatures.items() if not any(of.leading) or any("*" in one for one in of.inputs)}
    assert set(CHECKED) - asked == alone | {"broadcast_to", "einsum", "nll_loss", "setitem"}


# How far rounding goes


def test_rounding_follows_the_condition_of_a_matrix() -> None:
    """|d inv(A)| is about cond² |dA|: what rounding does grows with it."""
    rooms = []
    for condition in (1e1, 1e3, 1e5, 1e7):
        a = Tensor(ill(condition), requires_grad=True)
        y = ops.inv(a)
        rounding = Rounding([y])
        rounding.run_until(4)
        rooms.append(float(rounding.tolerance(0).max() / np.abs(y.data).max()))
    growth = np.array(rooms[1:]) / np.array(rooms[:-1])
    assert ((growth > 20) & (growth < 500)).all()


def test_a_rule_that_asks_what_was_selected_is_disturbed_as_it_is() -> None:
    """clip finds by equality where it did nothing: a disturbed result would not be equal to anything."""
    backward = wrong_where(lambda g, x: isinstance(g, Tensor), lambda g: -g)
    for fn in (lambda y: clip(y, -1.0, 0.5), lambda y: y.max(0), lambda y: y.relu() + 0.5 * y):
        with registered(backward) as planted:
            found = other(lambda x, op=planted, fn=fn: fn(op(x)), np.array([0.3, 0.01, 0.2]))
        assert {f.name for f in found} == {"input 0 (create_graph=True)"}


def test_numbers_that_an_op_cannot_square_in_float32_decide_nothing() -> None:
    one = lambda self, xp, x: xp.divide(xp.multiply(x, x), xp.multiply(x, x))  # noqa: E731
    notes: list[str] = []
    with (
        registered(lambda self, g, y, x: (None,), "hidden", one) as hidden,
        registered(lambda self, g, y, x: (lambda: g * hidden(x),), forward=lambda self, xp, x: xp.positive(x)) as planted,
    ):
        assert not other(lambda x: planted(x) * 1.0, 1e-25 * normal(0, 3), notes=notes)
    assert len(notes) == 1
    assert notes[0].startswith("not decided in float32: numbers from ")


def test_rounding_is_known_only_of_what_is_recorded() -> None:
    x = Tensor(normal(0, 5), requires_grad=True)
    y = x * x
    y._data = y._data + 1.0
    assert Rounding([x * x]).is_complete
    assert not Rounding([y]).is_complete


def test_unfused_and_fused_gradients_of_a_loss_agree() -> None:
    """Two ways by hand, so that what is compared here is what people call."""
    z = Tensor(normal(0, 4, 3), requires_grad=True)
    loss = lambda: F.nll_loss(z.softmax(1).log(), np.array([0, 1, 2, 0]))  # noqa: E731
    with fusion.off():
        (unfused,) = grad(loss(), z)
    (fused,) = grad(loss(), z)
    np.testing.assert_allclose(unfused.data, fused.data, rtol=1e-12)
    assert not other(lambda z: F.nll_loss(z.softmax(1).log(), np.array([0, 1, 2, 0])), normal(0, 4, 3))


# Where float32 as a whole decides nothing


def guarded(self: Op, g: Any, y: Any, x: Any) -> Any:
    """Of arrays only, and wrong in float32."""

    def rule() -> Any:
        if isinstance(g, Tensor):
            raise TypeError("arrays only")
        return 2 * g * x * (1.001 if x.dtype == np.float32 else 1)

    return (rule,)


def written(y: Tensor) -> Tensor:
    y._data[...] = y._data * 1.0000001
    return y * 1.0


LABELS, MASK = np.arange(4), np.triu(np.ones((4, 4), bool), 1)
BEYOND: dict[str, Callable[..., Any]] = {
    "a mask of -inf": lambda op, x: (op(x) + np.where(MASK, -np.inf, 0.0)).softmax(-1),
    "a mask of -1e30": lambda op, x: (op(x) + np.where(MASK, -1e30, 0.0)).softmax(-1),
    "a sharp loss": lambda op, x: F.cross_entropy(40 * op(x), LABELS),
    "a sharp softmax": lambda op, x: (60 * op(x)).softmax(-1),
    "small numbers beside": lambda op, x: op(x).sum() + (x - 50.0).exp().sum(),
    "an input that float32 does not hold": lambda op, x: op(x * np.where(MASK, 1e-60, 1.0)) + x * np.where(MASK, 1e-60, 1.0),
    "written to": lambda op, x: written(op(x)),
}


@pytest.mark.parametrize("backward", [wrong_where(WHERE["float32"][1], lambda g: g * 1.001), guarded])
@pytest.mark.parametrize("case", BEYOND)
def test_rules_are_looked_at_on_their_own_where_float32_decides_nothing(case: str, backward: Callable[..., Any]) -> None:
    fn, x = partial(BEYOND[case]), normal(0, 4, 4)
    assert not other(partial(fn, lambda x: x * x), x)
    with registered(backward) as planted:
        assert "float32" in " ".join(f.name for f in other(partial(fn, planted), x))


def test_inputs_that_float32_does_not_hold_keep_no_rule_from_being_looked_at() -> None:
    x = normal(0, 3)
    x[1] = 1e-60
    with registered(wrong_where(WHERE["float32"][1], lambda g: g * 1.001)) as planted:
        (found,) = other(planted, x)
        assert (found.name, found.verdict) == ("planted (its rule for argument 0 in float32)", "wrong")
        with pytest.raises(GradientError, match=r"planted \(its rule for argument 0 in float32\)"):
            gradcheck(planted, x)


@pytest.mark.parametrize("name", CHECKED)
def test_each_rule_on_its_own_is_right_in_float32_and_is_seen_where_it_is_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at numbers far beyond float32: at those, rules are looked at with others."""
    op = REGISTRY[name]
    if op.calls:
        return
    backward, seen = op.backward, 0

    def wrong(g: Any, *rest: Any, **attrs: Any) -> Any:
        assert backward is not None
        return backward(g * 1.01 if g.dtype == np.float32 else g, *rest, **attrs)

    for case, scale in enumerate((1.0, 1e-12, 1e9, 1e-60)):
        args, attrs = op.sample(np.random.default_rng([11, case]))
        wrt = [i for i, a in enumerate(args) if is_floating(a.dtype) and not op.is_data(i)]
        scaled = tuple(a * scale if i in wrt else a for i, a in enumerate(args))
        with contextlib.suppress(ArithmeticError, ValueError):  # a domain that ends before
            problem = Problem.of(name, lambda *xs, attrs=attrs: op(*xs, **attrs), scaled, wrt)
            check = Check(problem, 1, 1e-6, np.random.default_rng(case))
            notes: list[str] = []
            assert by_op(ways.Ways(check, notes), "") == []
            with monkeypatch.context() as patched:
                patched.setattr(type(op), "backward", staticmethod(wrong))
                seen += bool(by_op(ways.Ways(check, notes), "")) or not any(np.any(g) for g in check.recorded)
    assert seen


def test_a_checkpoint_reads_parameters_in_float32() -> None:
    class Segment(nn.Module):
        def __init__(self, op: Any) -> None:
            super().__init__()
            self.a, self.op = nn.Linear(4, 3), op

        def forward(self, x: Any) -> Any:
            return checkpoint(lambda t: self.op(self.a(t)).tanh(), x)

    x = normal(0, 5, 4)
    report = check_model(Segment(lambda x: x * x), F.cross_entropy, x, np.arange(5) % 3)
    assert not report.notes
    with registered(wrong_where(WHERE["float32"][1], lambda g: g * 1.001)) as planted:
        report = check_model(Segment(planted), F.cross_entropy, x, np.arange(5) % 3, raises=False)
    assert {f.name for f in report.failed} == {"a.weight (float32)", "a.bias (float32)"}


def test_masks_stay_as_they_were_drawn() -> None:
    x = Tensor(normal(0, 40), requires_grad=True)
    with switched(tracing=True):
        (g,) = grad((F.dropout(x, 0.5, True) ** 2).sum(), x, create_graph=True)
    before = repr(random.state_of(random.default()))
    assert Rounding([g]).is_complete
    assert repr(random.state_of(random.default())) == before
