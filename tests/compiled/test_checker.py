"""The check of finished plans: it catches whatever a broken planner makes of a program, and has nothing to say of others."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, ops
from tensorgrad.compiler import check, memory
from tensorgrad.compiler.compiled import Compiled
from tensorgrad.compiler.contents import GARBAGE, INITIAL, Memory, Place
from tensorgrad.compiler.plan import Plan
from tensorgrad.kernels import thresholds
from tensorgrad.testing.expressions import Expression, expressions
from tests.compiled import planners
from tests.compiled.planners import DECISIONS, EDITED, OF_THE_PROGRAM, case, edits
from tests.compiled.programs import PROGRAMS
from tests.strategies import generators

THOROUGH = "TENSORGRAD_THOROUGH" in os.environ  # all places of all programs; `python -m tests.compiled.planners` counts them


@pytest.mark.parametrize("name", PROGRAMS)
def test_right_plans_have_no_fault(name: str) -> None:
    assert case(name).plan.fault == ""


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda d: d.kind)
def test_wrong_decisions_are_caught(decision: planners.Decision) -> None:
    """Taken wrongly once, at one of the places where they come up; in some programs, from one at which it does come up on."""
    verdicts: list[tuple[str, str, int]] = []
    for i, name in enumerate(PROGRAMS):
        for at in range(10_000) if THOROUGH else (3 * i % 7, 0):
            verdict = case(name).mutated(decision.mutant(at))
            if verdict:
                verdicts.append((verdict, name, at))
            if bool(verdict) != THOROUGH:
                break
        if len(verdicts) > 5 and not THOROUGH:
            break
    assert verdicts, "it does not come up"
    assert [v for v in verdicts if v[0] == "missed"] == []


@pytest.mark.every(3)
@pytest.mark.parametrize("function", EDITED, ids=lambda f: f.__qualname__)
def test_wrong_planners_are_caught(function: Any) -> None:
    """Functions of the planner with a condition left out or turned round, a statement left out, a number one larger."""
    names = list(PROGRAMS)
    for i, mutant in enumerate(edits(function)):
        for name in names if THOROUGH else [names[-1 - i // 2 % 7] if i % 2 else names[i // 2 % 14]]:
            assert case(name).mutated(mutant) != "missed", (mutant.kind, name)


@pytest.mark.parametrize("decision", OF_THE_PROGRAM, ids=lambda d: d.kind)
def test_wrong_programs_are_found_out(decision: planners.Decision) -> None:
    """What is wrong with the program itself a check of the plan cannot know; the run that verifies the plan shows it."""
    seen = []
    for name in ("concatenated, axis 0", "concatenated, axis 1", "in place"):
        for at in range(20):
            if case(name).mutated(decision.mutant(at)) in ("missed", "caught", "error"):
                seen.append(case(name).refused(decision.mutant(at)))
    assert seen
    assert "taken" not in seen


@given(expression=expressions(), loop=st.booleans())
def test_random_programs_have_no_fault(expression: Expression, loop: bool) -> None:
    """Value and gradients of random programs over all ops, with a part that is written in place."""
    total = Tensor(np.zeros(()))

    def f(*inputs: Any) -> Any:
        leaves = [Tensor(x, requires_grad=True) for x in inputs]
        y = expression(*leaves)
        g = tensorgrad.grad((y * y).sum(), leaves, allow_unused=True)
        with tensorgrad.no_grad():
            total.__iadd__(y.sum().astype(float))
        return y, g, total * 1

    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(thresholds, "ROWS_FLOPS", 0 if loop else 1e99)
        patch.setattr(thresholds, "ROWS_BYTES", 8)
        compiled = Compiled(f)
        arrays = [np.array(x) for x in expression.inputs]
        trace = compiled.traced_run(tuple(arrays), {}, arrays)
        trace.undo()
        assert Plan(trace).fault == ""


# A plan with a fault


def training(rows: int = 7) -> Any:
    rng = np.random.default_rng(0)
    w = Tensor(rng.normal(size=(3, 4)), True, name="w")
    opt = tensorgrad.optim.SGD([w], lr=0.1, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        loss = ((ops.tanh(x @ w) - y) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return {"loss": loss, "x": x}, 3

    batches = [(rng.normal(size=(rows, 3)), rng.normal(size=(rows, 4))) for _ in range(6)]
    return step, batches, w, opt


def test_a_plan_with_a_fault_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step runs as it is written; a warning says so once, with the call and the line. Results are those of the step."""
    step, batches, w, opt = training()
    expected = [step(*map(Tensor, batch))[0]["loss"].item() for batch in batches]
    after = w.data.copy()
    step, batches, w, opt = training()
    compiled = tensorgrad.compile(step)
    found = [compiled(*batches[0])]
    right = memory.lay_out

    def lay_out(calls: Any, *args: Any, **kwargs: Any) -> Any:
        layout = right(calls, *args, **kwargs)
        layout.place |= dict.fromkeys(layout.place, max(layout.place.values(), key=lambda b: layout.blocks[b]))
        return layout

    monkeypatch.setattr("tensorgrad.compiler.plan.lay_out", lay_out)
    monkeypatch.setattr(Plan, "compute", lambda *args: pytest.fail("it is run"))
    with pytest.warns(RuntimeWarning) as warned:
        found += [compiled(*batch) for batch in batches[1:]]
    assert len(warned) == 1, [str(w.message) for w in warned]
    warning = warned[0]
    assert warning.filename == __file__
    assert "compile: step runs uncompiled, because its plan is wrong: call " in str(warning.message)
    assert "test_checker.py:" in str(warning.message)
    assert [r[0]["loss"].item() for r in found] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(w.data, after, rtol=1e-12)
    for (results, _), (x, _) in zip(found, batches, strict=True):
        assert isinstance(results["x"], Tensor)
        np.testing.assert_array_equal(results["x"].numpy(), x)
    assert opt.steps == 6
    assert w.grad is None
    assert compiled.plan is not None
    assert compiled.why_not == f"its plan is wrong: {compiled.plan.fault}"
    assert f"it is not run: {compiled.plan.fault}" in str(compiled.plan)  # to print it does not run it


def test_what_is_said_of_a_fault() -> None:
    """Which call, what of, and what lies there instead."""
    said = set()
    for kind, name in [
        ("calls swapped", "MLP, SGD"),
        ("a shorter life", "MLP, Adam, L2"),
        ("a part dropped", "rows, 2 threads"),
    ]:
        decision = next(d for d in DECISIONS if d.kind == kind)
        with case(name).settings():
            for at in range(20):
                with decision.mutant(at).applied():
                    said.add(Plan(case(name).trace).fault)
    text = "\n".join(said)
    for words in (
        r"call \d+ of 17 \(\d\.linear at programs.py:\d+\), [a-z·]+ reads \(\d, \d\) float64 where nothing has been",
        r"where another value \(\w+\) of \(\d, \d\) is by then",
        r"the parts \[.*\] do not cover 11 samples exactly once",
    ):
        assert re.search(words, text), f"{words}\n{text}"


# Memory


def by_bytes(model: dict[int, Any], array: np.ndarray, start: int) -> list[int]:
    """The addresses of all bytes of the elements of an array, from `start` on."""
    first = array.__array_interface__["data"][0] - start
    at = [first + sum(i * s for i, s in zip(index, array.strides, strict=True)) for index in np.ndindex(array.shape)]
    return [a + k for a in at for k in range(array.itemsize)]


@given(rng=generators(), count=st.integers(1, 12))
def test_memory_is_what_it_is_byte_by_byte(rng: np.random.Generator, count: int) -> None:
    """Arrays of any strides and itemsize put into memory one over the other: the same as a content for every byte."""
    whole = np.zeros(96, np.uint8)
    start = whole.__array_interface__["data"][0]
    memory, model = Memory({}), dict.fromkeys(range(96), INITIAL)

    def some() -> np.ndarray:
        size = int(rng.choice([1, 2, 4, 8]))
        n = 96 // size
        flat = (
            whole[: n * size].view(f"u{size}")
            if rng.random() < 0.8
            else whole[size // 2 : size // 2 + (n - 1) * size].view(f"u{size}")
        )
        a, b = sorted(rng.integers(0, len(flat) + 1, 2))
        seen = flat[a : b : int(rng.integers(1, 4))]
        if rng.random() < 0.5 and len(seen) >= 4:
            seen = seen[: len(seen) // 2 * 2].reshape(-1, 2)[:, :: int(rng.choice([1, 2, -1]))]
        return seen[::-1] if rng.random() < 0.3 else seen

    for i in range(count):
        array, content = some(), (f"content {i % 5}", i % 5) if rng.random() < 0.9 else GARBAGE
        memory.put(array, Place.of(array), content)
        model.update(dict.fromkeys(by_bytes(model, array, start), content))
    other = memory.copy()
    for _ in range(8):
        array = some()
        there = {model[b] for b in by_bytes(model, array, start)}
        for wanted in [*there, INITIAL, ("another", 0)]:
            bad = memory.differs(array, Place.of(array), wanted)
            assert (bad is None) == (there <= {wanted})
            assert bad is None or (bad[0] in there and bad[0] != wanted and bad[1] == wanted)
        assert not memory.holds(Place.of(array), next(iter(there), INITIAL)) or len(there) < 2
        assert memory.differs(array, Place.of(array), other) is None
    changed = some()
    other.put(changed, Place.of(changed), ("changed", 0))
    for _ in range(8):
        array = some()
        meets = set(by_bytes(model, array, start)) & set(by_bytes(model, changed, start))
        assert (memory.differs(array, Place.of(array), other) is not None) == bool(meets)


def test_the_check_knows_nothing_of_the_planner() -> None:
    """It takes from there what a plan consists of, and nothing that makes one."""
    names = {name for name, thing in vars(check).items() if getattr(thing, "__module__", "").startswith("tensorgrad.compiler")}
    modules = {vars(check)[name].__module__.removeprefix("tensorgrad.compiler.") for name in names}
    assert modules - {"check", "contents", "meaning", "values"} == {"emit"} | {m for m in modules if m.startswith("calls.")}
    assert {name for name in names if vars(check)[name].__module__.endswith("emit")} == {"Issued", "Part", "Parts"}
