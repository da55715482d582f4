"""The soak of the gradient checks: that it runs, that it finds what is wrong, that it goes on where it stopped."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from tensorgrad.op import REGISTRY
from tests.soak import cases, run
from tests.soak.__main__ import main, parser


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(parser.parse_args(["--cases", "10", "--processes", "1", "--seed", "3"])) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("10 cases, 0 alarms, ")
    assert told[1].startswith("10 cases in ")
    assert "0 false alarms" in told


@pytest.mark.parametrize("kind", ["op", "model", "expression", "compiled"])
def test_a_case_of_each_kind(kind: str) -> None:
    for number in range(3 if kind != "compiled" else 1):
        first, again = cases.outcome(kind, 5, number), cases.outcome(kind, 5, number)
        assert first == again  # drawn from the kind, the seed and the number alone
        assert not first.alarm, first.text


def test_hostile_cases_are_drawn() -> None:
    found = [cases.outcome("hostile", 5, number) for number in range(10)]
    assert not any("error" in f.verdicts for f in found), [f.text for f in found]
    assert len({f.name for f in found}) > 5


@pytest.mark.parametrize("kind", ["op", "hostile", "model", "expression"])
def test_a_wrong_rule_is_reported(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every rule that is drawn is made wrong by half: the case is named, again gives the same, and the summary has it."""

    def wrong(self: Any, g: Any, y: Any, *xs: Any, **attrs: Any) -> Any:
        rules = type(self).backward(self, g, y, *xs, **attrs)
        return tuple(None if rule is None else lambda rule=rule: 1.5 * rule() for rule in rules)

    names = ["tanh"] if kind in ("op", "hostile") else [op.name for op in cases.ops()]
    monkeypatch.setattr(cases, "ops", lambda: [REGISTRY["tanh"]])
    cases.chunk(1, 0)  # which looks at the rules themselves
    for name in names:
        monkeypatch.setitem(REGISTRY[name].__dict__, "backward", types.MethodType(wrong, REGISTRY[name]))
    found = run.Block(0, 1)
    number = next(n for n in range(20) if "wrong" in cases.outcome(kind, 1, n).verdicts)
    found.add(kind, number, cases.outcome(kind, 1, number))
    assert f"--only {kind}/1/{number}" in run.summary([found])
    assert main(parser.parse_args(["--only", f"{kind}/1/{number}"])) == 1
    assert "wrong" in capsys.readouterr().out


def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BLOCK", 5)
    monkeypatch.setattr(run, "sizes", lambda count: {"op": count})
    out = tmp_path / "soak.jsonl"
    (first,) = run.soak(5, 2, 1, 1.0, out)
    with out.open("a") as stream:
        stream.write('{"which": 1, "se')  # a run that was killed
    ran = []
    block = run.block
    monkeypatch.setattr(run, "block", lambda which, *rest: ran.append(which) or block(which, *rest))
    found = run.soak(15, 2, 1, 1.0, out)
    assert ran == [1, 2]
    assert [b.which for b in found] == [0, 1, 2]
    assert found[0] == first
    assert [b.cases for b in run.soak(15, 2, 1, 1.0, out)] == [{"op": 5}] * 3
    assert ran == [1, 2]
    assert run.soak(5, 2, 1, 0.0, None) == []  # no time
