"""The examples and the README's code run as they stand."""

from __future__ import annotations

import argparse
import importlib
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorgrad.models import MLP

from tensorgrad import data, train

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What `python examples/<name>.py flags` gives, in this process; digits.py with few numerical derivatives."""
    monkeypatch.syspath_prepend(ROOT / "examples")

    def run(name: str, *flags: object) -> Any:
        module = importlib.import_module(name)
        if name == "digits":
            monkeypatch.setattr(module, "ENTRIES", 2)
        return module.main([str(flag) for flag in flags])

    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with idx files in the form of MNIST: ten kinds of blobs, 600 to train on and 200 to test on."""
    folder = tmp_path_factory.mktemp("blobs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 600), ("t10k", 200)):
        labels = np.arange(count) % 10
        rng.shuffle(labels)
        pixels = rng.integers(0, 60, (count, 28, 28))
        for image, label in zip(pixels, labels, strict=True):
            row, column = 4 + 12 * (label // 5), 2 + 5 * (label % 5)
            image[row : row + 6, column : column + 4] += 190
        for array, kind in ((pixels, "images-idx3"), (labels, "labels-idx1")):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


def figure(result: Any, what: str) -> float:
    """A figure of a result, "97.55 %" as 97.55."""
    (text,) = [ours for name, _, ours in result.rows if name.startswith(what)]
    return float(text.split()[0])


@pytest.mark.thorough
def test_digits(script: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = script("digits", "--epochs", 3, "--out", tmp_path)
    printed = capsys.readouterr().out
    assert "digits: 1439 train, 178 dev, 180 test" in printed
    rows = re.findall(r"^(\d+\.\w+) +([\dx]+) +(\S+) +(\S+) +(\S+)$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == [f"{i}.{kind}" for i in range(0, 14, 2) for kind in ("weight", "bias")]
    for _, _, largest, by_hand, numerical in rows:
        assert float(largest) > 0
        assert float(by_hand) < 1e-12 * float(largest)
        assert float(numerical) < 1e-6 * float(largest)
    assert figure(result, "test accuracy") > 90
    for name in ("digits.npz", "digits-curves.png", "digits-step.svg"):
        assert (tmp_path / name).stat().st_size > 1000
        assert name in printed
    train.load(tmp_path / "digits.npz", model=MLP((64, *[500] * 6, 10)))


@pytest.mark.thorough
def test_digits_without_graphviz(
    script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    script("digits", "--epochs", 100, "--patience", 1, "--recipe", "document", "--out", tmp_path)
    printed = capsys.readouterr().out
    assert len(re.findall(r"^no \.svg: .*pip install pygraphviz.*$", printed, re.MULTILINE)) == 1
    assert (tmp_path / "digits-step.dot").exists()
    assert "'batch_size': None, 'lr': 0.01, 'momentum': 0.0" in printed


@pytest.mark.every(2)
@pytest.mark.parametrize(
    ("name", "epochs", "least", "pictures"),
    [
        ("mnist_logistic", 20, 95, ("neurons", "cost", "predictions")),
        ("mnist_gd", 30, 0, ("samples", "loss")),
        ("mnist_sse", 30, 75, ("curves", "confusion")),
        ("mnist_llayer", 60, 95, ("curves", "mistakes")),
    ],
)
def test_systems(
    script: Callable[..., Any], images: Path, tmp_path: Path, name: str, epochs: int, least: float, pictures: Any
) -> None:
    """Each learns what is easy to learn, and leaves its pictures."""
    flags = ("--batch-size", 8) if name == "mnist_logistic" else ()
    result = script(name, "--epochs", epochs, "--data", images, "--out", tmp_path, *flags)
    assert figure(result, "test accuracy, test pixels scaled" if name == "mnist_gd" else "test accuracy") >= least
    for picture in pictures:
        assert (tmp_path / f"{name}-{picture}.png").stat().st_size > 1000
    assert {tmp_path / f"{name}-{picture}.png" for picture in pictures} <= set(result.written)
    if name == "mnist_gd":
        assert [what for what, _, _ in result.rows if "iteration" in what] == ["loss at iteration 10"]
        assert abs(figure(result, "loss at iteration 10") - np.log(10)) < 0.01  # as at the beginning, on MNIST too


@pytest.mark.thorough
def test_a_system_goes_on_from_its_file_and_reads_csv(script: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    """Trained in two halves, as the script does, or at once: the same to the last bit. CSV has the same images."""
    x, y, x_test, y_test = data.load_mnist(images, verify=False)
    folder = tmp_path / "csv"
    folder.mkdir()
    for part, pixels, labels in (("train", x, y), ("test", x_test, y_test)):
        np.savetxt(folder / f"mnist_{part}.csv", np.column_stack([labels, pixels]), fmt="%d", delimiter=",")
    results = []
    for i, source in enumerate((images, folder)):
        results.append(script("mnist_logistic", "--epochs", 4, "--data", source, "--out", tmp_path / str(i)))
    first, second = (train.load(tmp_path / str(i) / "mnist_logistic.npz")["model"] for i in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
    assert results[0].rows[:2] == results[1].rows[:2]
    module = importlib.import_module("mnist_logistic")
    args = argparse.Namespace(seed=0, init="xavier", batch_size="64", device="cpu", out=tmp_path / "whole")
    args.out.mkdir()
    model, _, _ = module.train_until(4, args, x.astype(np.float32) / 255, y, resume=False)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(first[name], array)


def test_all_systems_in_one_table(
    script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, images: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["all.py", "--quick", "--only", "de", "--data", str(images), "--out", str(tmp_path)])
    importlib.import_module("all").main()
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| system | figure | published | ours | time | machine |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["D mnist-sse", "E mnist-llayer", "", ""]


@pytest.mark.usefixtures("script")  # which lets the examples be imported
def test_systems_that_there_are_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["all.py", "--only", "x"])
    with pytest.raises(SystemExit):
        importlib.import_module("all").main()
    assert "--only x: expected some of A, B, C, D, E" in capsys.readouterr().err


def test_readme_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert 25 <= sum(bool(line) for line in block.splitlines()) <= 35
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "step.svg").stat().st_size > 1000
    formula, loss = capsys.readouterr().out.splitlines()
    assert f"# {formula}" in block
    assert 0 < float(loss.removeprefix("loss ")) < 1


def test_readme_is_one_page() -> None:
    """With three pictures, each small, and links to every page of the site."""
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 130
    pictures = re.findall(r"!\[[^\]]+\]\((.*?)\)", readme)
    assert len(pictures) == 3
    assert all((ROOT / picture).stat().st_size < 100_000 for picture in pictures)
    linked = set(re.findall(r"\]\((examples/guide/[\w-]+\.md)\)", readme))
    assert linked == {str(page.relative_to(ROOT)) for page in (ROOT / "examples" / "guide").glob("*.md")}


def test_rate_finder(script: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The loss at low rates is that at the start; at the rate it finds a network learns; far beyond, it does not."""
    finder = script("rate_finder")
    assert f"to begin with: {finder.best():.2g}" in capsys.readouterr().out
    assert finder.losses[0] == pytest.approx(np.log(10), abs=0.8)
    assert 0.005 < finder.best() < 1
    assert min(finder.losses) < 1.5
    assert not finder.losses[-1] < 2  # higher, or no number
    np.testing.assert_allclose(np.diff(np.log(finder.rates)), np.log(finder.factor), rtol=1e-6)
