"""Files of ONNX's that are changed at random, for a moment: `python -m tests.fuzz_onnx` goes on for as long as it is told."""

from __future__ import annotations

import os
import re
import string
import sys
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tensorgrad.errors import DataError
from tensorgrad.onnx import limits, load
from tensorgrad.onnx.operators import OPERATORS
from tests.fuzz_onnx import Trial
from tests.test_onnx_load import FLOAT, floats, write

COUNT = 3000 if os.environ.get("TENSORGRAD_THOROUGH") else 500 if os.environ.get("CI") else 100  # 50 a second


@pytest.mark.filterwarnings("ignore")  # of NumPy's, about numbers that are extreme
def test_files_that_are_changed(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    for seed in trial.seeds:
        trial.file(seed.proto.SerializeToString(), seed, "as it is")
    assert trial.counts["called"] == len(trial.seeds)
    for number in range(COUNT):
        trial.one(number)
    assert not trial.failures
    assert trial.counts["loaded"] > COUNT / 4
    assert trial.counts["called"] > COUNT / 20
    assert trial.counts["refused"] > COUNT / 4


@pytest.mark.filterwarnings("ignore")
def test_a_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw error, and one that takes its time."""
    trial = Trial(tmp_path)
    monkeypatch.setattr(sys.modules["tensorgrad.onnx.load"], "first_line", lambda error: [][0])
    monkeypatch.setattr("tests.fuzz_onnx.SLOWEST", 0.0)
    for number in range(10):
        trial.one(number)
    assert any("IndexError" in failure for failure in trial.failures)
    assert any(failure.endswith(" s") for failure in trial.failures)


HUGE = 10**12
LETTERS = string.ascii_letters
make = helper.make_node
BOMBS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Expand": ([make("Expand", ["x", "n"], ["y"])], {"n": [HUGE, 3, 2]}),
    "Tile": ([make("Tile", ["x", "n"], ["y"])], {"n": [HUGE, 1]}),
    "Pad": ([make("Pad", ["x", "n"], ["y"])], {"n": [HUGE, 0, 0, 0]}),
    "ConstantOfShape": ([make("ConstantOfShape", ["n"], ["y"])], {"n": [HUGE]}),
    "Range": ([make("Range", ["a", "n", "b"], ["z"]), make("Cast", ["z"], ["y"], to=FLOAT)], {"a": 0, "n": HUGE, "b": 1}),
    "Gather": (
        [make("Expand", ["i", "n"], ["z"]), make("Tile", ["x", "t"], ["w"]), make("Gather", ["w", "z"], ["y"])],
        {"i": [0], "n": [10**6], "t": [1, 10**6]},
    ),
    "Concat": (
        [make("Concat", [f"c{i}" if i else "x"] * 2, [f"c{i + 1}"], axis=0) for i in range(39)]
        + [make("Identity", ["c39"], ["y"])],
        {},
    ),
    "MatMul": (
        [
            make("Expand", ["x", "n"], ["a"]), make("Reshape", ["x", "r"], ["z"]), make("Expand", ["z", "m"], ["b"]),
            make("MatMul", ["a", "b"], ["y"]),
        ],
        {"n": [60_000, 1, 3, 2], "r": [2, 3], "m": [1, 60_000, 2, 3]},
    ),
    "Einsum": (
        [make("Einsum", ["x"] * 20, ["y"], equation=",".join(LETTERS[2 * i : 2 * i + 2] for i in range(20)) + "->a")],
        {},
    ),
    "Conv": (
        [make("Unsqueeze", ["x", "z"], ["a"]), make("Conv", ["a", "w"], ["y"], pads=[HUGE, HUGE])],
        {"z": [0], "w": floats(2, 3, 1)},
    ),
    "ConvTranspose": (
        [make("Unsqueeze", ["x", "z"], ["a"]), make("ConvTranspose", ["a", "w"], ["y"], strides=[HUGE])],
        {"z": [0], "w": floats(3, 2, 1)},
    ),
    "MaxPool": (
        [make("Unsqueeze", ["x", "z"], ["a"]), make("MaxPool", ["a"], ["y"], kernel_shape=[10**6], pads=[10**6, 10**6])],
        {"z": [0]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_what_would_take_too_much_is_refused(kind: str, tmp_path: Path) -> None:
    """Before anything of it is made."""
    nodes, arrays = BOMBS[kind]
    write(tmp_path / "m.onnx", nodes, arrays, {"x": (FLOAT, [3, 2])}, {"y": (FLOAT, ["m"])}, opset=18)
    with pytest.raises(
        DataError, match=r"would (create an array of|do) [\d,]+ (bytes|multiplications), more than the [\d,]+ left"
    ) as raised:
        load(tmp_path / "m.onnx")(floats(3, 2))
    assert re.fullmatch(rf"onnx\.load: {kind} ", raised.value.__notes__[0])


def test_what_is_allowed_grows_with_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path / "m.onnx", [make("Tile", ["x", "n"], ["y"])], {"n": [40, 1]}, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["m"])}
    )
    monkeypatch.setattr(limits, "BYTES", 1000)
    monkeypatch.setattr(limits, "TIMES", 20)
    model = load(tmp_path / "m.onnx")
    assert model(floats(2, 2)).shape == (80, 2)  # 640 bytes
    with pytest.raises(DataError, match=r"an array of 1,280 bytes, more than the 1,000 left"):
        model(floats(4, 2))
    monkeypatch.setattr(limits, "TIMES", 40)
    assert model(floats(4, 2)).shape == (160, 2)  # of 40 times 48
    monkeypatch.setattr(limits, "BYTES", 1279)
    monkeypatch.setattr(limits, "memory_left", lambda: 1279)
    with pytest.raises(DataError, match="would create an array of 1,280 bytes"):
        model(floats(4, 2))


def test_every_estimate_is_of_an_operator() -> None:
    """And of one that makes more than it is given there is one."""
    growing = """Expand Tile Pad ConstantOfShape Range Gather GatherElements Concat MatMul Gemm Einsum Conv ConvTranspose
    MaxPool AveragePool ArrayFeatureExtractor"""
    assert set(growing.split()) <= limits.ESTIMATES.keys() <= OPERATORS.keys()
