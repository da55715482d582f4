"""The examples and the README's code run as they stand."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import MLP
from tensorgrad.op import REGISTRY

ROOT = Path(__file__).parents[1]


def run_digits(monkeypatch: pytest.MonkeyPatch, output: Path, *flags: str) -> dict[str, Any]:
    """`python examples/digits.py` with few numerical derivatives, in this process."""
    monkeypatch.setattr(sys, "argv", ["digits.py", "--output", str(output), *flags])
    script = runpy.run_path(str(ROOT / "examples" / "digits.py"))
    script["main"].__globals__["ENTRIES"] = 2
    script["main"]()
    return script


def test_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_digits(monkeypatch, tmp_path, "--epochs", "3")
    printed = capsys.readouterr().out
    assert "digits: 1439 train, 178 dev, 180 test" in printed
    rows = re.findall(r"^(\d+\.\w+) +([\dx]+) +(\S+) +(\S+) +(\S+)$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == [f"{i}.{kind}" for i in range(0, 14, 2) for kind in ("weight", "bias")]
    for _, _, largest, by_hand, numerical in rows:
        assert float(largest) > 0
        assert float(by_hand) < 1e-12 * float(largest)
        assert float(numerical) < 1e-6 * float(largest)
    assert float(re.search(r"test (\d+\.\d+)%", printed)[1]) > 90
    for name in ("digits-model.npz", "digits-curves.png", "digits-step.svg"):
        assert (tmp_path / name).stat().st_size > 1000
        assert name in printed
    model = MLP((64, *[500] * 6, 10))
    with np.load(tmp_path / "digits-model.npz") as values:
        model.load_state_dict(values)


def test_digits_without_graphviz(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    run_digits(monkeypatch, tmp_path, "--epochs", "1", "--recipe", "document")
    printed = capsys.readouterr().out
    assert len(re.findall(r"^no \.svg: .*pip install 'tensorgrad\[draw\]'.*$", printed, re.MULTILINE)) == 1
    assert (tmp_path / "digits-step.dot").exists()
    assert "'batch_size': 'full', 'learning_rate_init': 0.01, 'momentum': 0.0" in printed


def test_readme_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [block for block in readme_blocks() if not block.startswith("# test_")]
    assert len(blocks) == 14
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    try:
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    finally:
        REGISTRY.pop("my_square", None)
    for picture in ("step.svg", "error.svg", "wrong.svg"):
        assert (tmp_path / picture).exists()
    assert "dL/dW1 = x^T (dL/dh1 * [h1 > 0])" in (printed := capsys.readouterr().out)
    assert b"failed" in (tmp_path / "error.svg").read_bytes()
    red = re.findall(r'<polygon fill="#ffd9d9".*?</g>', (tmp_path / "wrong.svg").read_text(), re.DOTALL)
    assert len(red) == 1
    assert ">my_square<" in red[0]
    assert "2.linear: axis k is 8 in argument 0 (2, 8) but 7 in argument 1 (7, 3)" in printed
    assert "The rule of my_square is wrong on its own" in printed
    assert len(names["Graph"].of(names["loss"])) == 11
    assert [n.op.name for n in names["Graph"].of(names["loss"]).fused().nodes] == [
        *("linear_relu", "linear", "softmax_cross_entropy"),
    ]


def readme_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_test_file(pytester: pytest.Pytester) -> None:
    (block,) = (block for block in readme_blocks() if block.startswith("# test_"))
    name = re.match(r"# (test_\w+)\.py", block)[1]
    pytester.makepyfile(**{name: block})
    pytester.runpytest_subprocess("--hypothesis-profile=dev").assert_outcomes(passed=1)


def test_readme_names_what_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:tensorgrad|models|tests|examples)/[\w/.]*)", readme):
        assert (ROOT / path).exists(), path
    test = re.search(r"`(tests/\w+\.py)::(\w+)`", readme)
    assert f"def {test[2]}(" in (ROOT / test[1]).read_text()
