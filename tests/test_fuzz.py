"""Random programs, compiled and as they are: no difference. And the fuzzer itself: it finds what is planted."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

import tensorgrad as tg
from tensorgrad.core.tensor import wrap
from tensorgrad.errors import CompileError
from tests.fuzz import hunt
from tests.fuzz.compare import Comparison, Verdict, check
from tests.fuzz.generate import generate
from tests.fuzz.habits import HABITS
from tests.fuzz.operations import LEFT_OUT
from tests.fuzz.program import Line, Program, Step
from tests.fuzz.shrink import shrink
from tests.fuzz.training import FORMS
from tests.fuzz.world import OPS, AsItIs, run

SECONDS = 8.0 if os.environ.get("CI") else 2.5  # of each of four hunts, which two workers share
NEEDS_NUMBA = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs Numba: pip install numba")
NUMBA = pytest.param(True, marks=NEEDS_NUMBA)


@pytest.mark.parametrize("first", [0, pytest.param(1_000_000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("numba", [NUMBA, False])
def test_compiled_steps_do_what_the_steps_do(numba: bool, first: int) -> None:
    """As many programs as there is time for, always the same ones; `python -m tests.fuzz` looks at more of them."""
    for times in (1, 1, 2, 4, 16):  # again with the kernels that are there now, longer on a machine that is busy
        found = hunt.hunt(times * SECONDS, first, numba, shrinks=2)
        assert not found.differences, "\n\n".join([str(found), *hunt.scripts(found)])
        if found.counts["same"] > 10 and found.replays > 20:
            return
    pytest.fail(f"too few programs are replayed: {found}")


# The fuzzer itself


def program(*body: str, loop: tuple[str, ...] = (), setup: tuple[str, ...] = (), **options: Any) -> Program:
    """A step of x, with a parameter w and an optimiser o."""
    made = ("w = Tensor(draw(7, 3), requires_grad=True)", "o = optim.SGD([w], lr=0.1)", *setup)
    lines = ("x = draw(i, 2, 3)", *(loop or ("r = step(x)",)))
    steps = (Step("step", "x", tuple(map(Line, body))),)
    return Program(0, tuple(map(Line, made)), steps, tuple(map(Line, lines)), **options)


TRAINING = ("l = (x * w).tanh().sum()", "o.zero_grad()", "l.backward()", "o.step()", "return l")


class Planted:
    """A step that is run as it is, but for what a fault does after the second call."""

    def __init__(self, fault: Callable[[Planted, Any], Any], step: Any) -> None:
        self.fault, self.step, self.calls, self.results = fault, step, 0, []

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        args = tuple(wrap(a, None) if isinstance(a, np.ndarray) else a for a in args)
        if self.calls > 2:
            return self.fault(self, args)
        self.results.append(copied(self.step(*args)))
        return self.results[-1]


def copied(result: Any) -> Any:
    return wrap(np.array(result.data), None) if isinstance(result, tg.Tensor) else result


def as_it_is(planted: Planted, args: Any) -> Any:
    return copied(planted.step(*args))


def planted(fault: Callable[[Planted, Any], Any]) -> Callable[..., Any]:
    """In the place of `tensorgrad.compile`; keep_grads is on, so that gradients are left as the step leaves them."""
    return lambda step, keep_grads: Planted(fault, step)


def verdict(fault: Callable[[Planted, Any], Any], *body: str, **options: Any) -> Verdict:
    return check(program(*(body or TRAINING), keep_grads=True, **options), planted(fault))


def refusing(planted: Planted, args: Any) -> Any:
    raise CompileError("compile: no, at program_0.py:3")


def refusing_halfway(planted: Planted, args: Any) -> Any:
    planted.step(*args)
    planted.step.__closure__[1].cell_contents.data[0] += 1  # w
    raise CompileError("compile: no, at program_0.py:3")


def of_another_type(planted: Planted, args: Any) -> Any:
    raise KeyError("v3")


def a_little_wrong(planted: Planted, args: Any) -> Any:
    return wrap(planted.step(*args).data * np.float32(1.00002), None)


def shared(planted: Planted, args: Any) -> Any:
    planted.results.append(wrap(planted.results[-1].data, None))
    planted.results[-1].data[...] = planted.step(*args).data
    return planted.results[-1]


def read_only(planted: Planted, args: Any) -> Any:
    result = as_it_is(planted, args)
    result._data.flags.writeable = False
    return result


def without_the_step(planted: Planted, args: Any) -> Any:
    return copied(planted.results[-1])


def with_its_argument(planted: Planted, args: Any) -> Any:
    args[0].data[...] = 0
    return as_it_is(planted, args)


def twice(planted: Planted, args: Any) -> Any:
    planted.step(*args)
    return as_it_is(planted, args)


def of_float64(planted: Planted, args: Any) -> Any:
    return wrap(np.array(planted.step(*args).data, np.float64), None)


def faulty(planted: Planted, args: Any) -> Any:
    warnings.warn("compile: the plan is a bug in tensorgrad", stacklevel=1)
    return as_it_is(planted, args)


@pytest.mark.parametrize(
    ("fault", "kind", "what", "call"),
    [
        (as_it_is, "same", "", 0),
        (refusing, "refused", "compile: no, at program_0.py:3", 2),
        (refusing_halfway, "different", "parameter left half changed by a refusal", 2),
        (of_another_type, "different", "error: KeyError: 'v3'", 2),
        (a_little_wrong, "different", "result differs", 2),
        (shared, "different", "result shares memory", 2),
        (read_only, "different", "result cannot be written to", 2),
        (without_the_step, "different", "optimiser differs", 2),
        (with_its_argument, "different", "outside differs", 2),
        (twice, "different", "optimiser differs", 2),
        (of_float64, "different", "result has another dtype", 2),
        (faulty, "different", "fault: compile: the plan is a bug in tensorgrad", 0),
    ],
)
def test_what_is_planted_is_found(fault: Callable[[Planted, Any], Any], kind: str, what: str, call: int) -> None:
    found = verdict(fault)
    assert (found.kind, found.what, found.call) == (kind, what, call)


def test_what_is_frozen_is_found() -> None:
    """By a batch that is another one than those of the first calls."""
    found = verdict(without_the_step, "return (x * w).sum()")
    assert (found.kind, found.what, found.path, found.call) == ("different", "result differs", "r", 3)


def test_errors_of_the_step_are_expected() -> None:
    """A compiled step may raise the same, or CompileError; not another one, and not none."""
    failing = program("[][k // 4:][0] if k == 4 else 0", "return x * 1")
    assert check(failing, planted(as_it_is)).kind == "same"
    assert check(failing, planted(lambda p, a: as_it_is(p, a) if p.calls < 5 else refusing(p, a))).kind == "refused"
    found = check(failing, planted(lambda p, a: as_it_is(p, a) if p.calls < 5 else of_another_type(p, a)))
    assert (found.what, found.call) == ("error: KeyError: 'v3' for IndexError", 4)
    found = check(failing, planted(lambda p, a: as_it_is(p, a) if p.calls < 5 else copied(p.results[0])))
    assert (found.what, found.call) == ("no error: IndexError: list index out of range", 4)
    assert check(program("return x + [][0]"), planted(as_it_is)).kind == "invalid"


def test_results_are_compared_with_later_calls() -> None:
    """A step may return the memory of a parameter; a compiled one has to do so always or never."""
    step = program(*TRAINING[:-1], "return w", keep_grads=True)
    assert check(step, planted(as_it_is)).kind == "same"
    later = program(*TRAINING[:-1], "return w", keep_grads=True, loop=("r = step(x)", "w.data += 1"))
    assert check(later, planted(as_it_is)).kind == "same"

    class Own(Planted):
        def __call__(self, *args: Any) -> Any:
            result = super().__call__(*args)
            return self.step.__closure__[1].cell_contents if self.calls <= 2 else result

    found = check(step, lambda f, keep_grads: Own(as_it_is, f))
    assert (found.what, found.call) == ("result is changed by later calls", 0)


@pytest.mark.parametrize("seed", range(15))
def test_rounding_is_no_difference(seed: int) -> None:
    """What comes of operations that err by a unit or two each."""
    one = Comparison(generate(seed, False), tg.compile)
    one.compiled = lambda **options: run(one.program, AsItIs(one.program), noise=1000)  # type: ignore[assignment]
    assert one.verdict().kind in ("same", "invalid")


@pytest.mark.thorough
def test_programs_are_drawn_from_their_seeds() -> None:
    assert generate(3, False) == generate(3, False)
    assert generate(3, False) != generate(4, False)
    made = [generate(seed, False) for seed in range(5000)]
    text = "\n".join(p.source() for p in made)
    assert {name for name, _ in HABITS} - {"fork"} <= {tag for p in made for tag in p.tags}
    assert {name for name in OPS if f'op["{name}"]' in text} == set(OPS) - set(LEFT_OUT)
    assert len(FORMS) > 15
    forms = {p.run("", watched=False) for p in (generate(seed, True) for seed in range(1000)) if not p.tags}
    assert len(forms) < len({p.run("", watched=False) for p in made[:1000] if not p.tags})  # fewer kernels for Numba


def test_a_difference_is_made_small() -> None:
    """To a few lines that show it by themselves."""

    def wrong(planted: Planted, args: Any) -> Any:
        sign = -1 if "tanh" in planted.step.__code__.co_names else 1
        return wrap(sign * planted.step(*args).data, None)

    large = program("y = x.exp()", "z = y * 2", "v = z.tanh()", "u = v + y", "return u", threads=3, thresholds={"SLICE": 8})
    lines = [replace(line, simpler=tuple(re.findall(r"\b[xyzv]\b", str(line)[4:]))) for line in large.steps[0].lines[:-1]]
    large = replace(large, steps=(replace(large.steps[0], lines=(*lines, large.steps[0].lines[-1])),))
    small, found = shrink(large, check(large, planted(wrong)), planted(wrong))
    body = [str(line) for line in small.steps[0].lines]
    assert [line for line in body if "tanh" in line]
    assert len(body) <= 3
    assert (small.threads, small.thresholds, len(small.batches)) == (1, {}, 3)
    text = hunt.script(small, found, True)
    assert len(text.splitlines()) < 40
    assert "result differs" in text.splitlines()[0]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(text, {"__name__": "program"})
    one, other = map(eval, said.getvalue().splitlines())
    assert one == other  # the fault was planted
    assert len(one) == 3


@pytest.mark.parametrize(
    ("code", "what"), [("os.abort()", "crash: exit status -6"), ("time.sleep(60)", "hang: no end after 0.5 s")]
)
def test_crashes_and_hangs_are_found(code: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process does one program, and comes to its end, or to none, with the second in hand."""
    word = {**asdict(Verdict("same", calls=6, ran=2)), "seed": 5, "tags": []}
    lines = ("import json, os, time", f"print(json.dumps({word!r}))", "print(json.dumps({'seed': 6}), flush=True)", code)
    started: list[int] = []

    def command(seed: int, *rest: Any) -> list[str]:
        started.append(seed)
        return [sys.executable, "-c", "\n".join(lines) if len(started) == 1 else ""]

    monkeypatch.setattr(hunt, "command", command)
    found = hunt.hunt(1.5, first=5, numba=False, patience=0.5)
    assert [word["what"] for word in found.differences] == [what]
    assert found.differences[0]["seed"] == 6
    assert found.counts["same"] == 1
    assert started[1] == 7


def test_the_summary_counts() -> None:
    summary = hunt.Summary(True)
    verdicts = (
        Verdict("same", calls=6, ran=2),
        Verdict("same", calls=6, ran=6),
        Verdict("refused", "compile: no, at a.py:3", calls=1, ran=1),
        Verdict("refused", "compile: no", calls=1, ran=1),
        Verdict("different", "result differs", "r", 0, 3, calls=6, ran=2),
    )
    for seed, found in enumerate(verdicts):
        summary.add(asdict(found) | {"seed": seed, "tags": []})
    assert (summary.counts["programs"], summary.replays, summary.calls, summary.never) == (5, 8, 20, [1])
    text = str(summary)
    assert summary.plain == [2, 3]
    assert "refused 2 (40%; 1 without a line), different 1" in text
    assert "result differs | not made small | seeds 4" in text
    assert "compile: no, at LINE" in text
