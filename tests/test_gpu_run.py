"""What runs first on a machine with a GPU, as far as it can be tried without: nothing that fails or hangs stops the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from tensorgrad.core import backend
from tensorgrad.errors import TensorgradError
from tests.benchmarks.measure import Worker
from tests.cuda.gpu import using
from tests.gpu import __main__ as first_minutes
from tests.gpu import facts, measure, steps, wheels
from tests.gpu.kernels import Checks
from tests.gpu.steps import ON_GPU


def has_gpu() -> bool:
    try:
        backend.cupy()
    except TensorgradError:
        return False
    finally:
        backend.use(None)
    return True


WITHOUT = pytest.mark.skipif(has_gpu(), reason="needs a machine without a GPU: run it on one")


@WITHOUT
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tests.gpu", "--out", str(tmp_path / "found")])
    assert first_minutes.main() == 2
    assert "nothing can be run here" in capsys.readouterr().out
    assert "nothing can be run here" in (tmp_path / "found" / "facts.log").read_text()
    assert facts.main() == 2


@WITHOUT
def test_a_process_that_measures_answers() -> None:
    """It is found by the name of its module, which is not __main__."""
    worker = Worker(measure.serve, "tensorgrad", ON_GPU["W1"])
    with pytest.raises(RuntimeError, match=r"'cuda' needs CuPy|finds no GPU"):
        worker.ask("losses", 2, 60)
    worker.process.kill()
    worker.process.join()
    with pytest.raises(RuntimeError, match="its process has died"):
        worker.ask("losses", 2, 60)


def test_what_fails_or_hangs_does_not_stop_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = "import sys; from pathlib import Path; Path(sys.argv[2]).write_text('| a table |')"
    stages = {
        "facts": (60, ["-c", "print('a card')"]),
        "kernels": (60, ["-c", "print('half'); raise SystemExit(3)"]),
        "bench-W1": (60, ["-c", write]),
        "bench-W2": (1, ["-c", "import time; print('begun', flush=True); time.sleep(60)"]),
        "bench-W3": (60, ["-c", write]),
    }
    monkeypatch.setattr(first_minutes, "STAGES", stages)
    monkeypatch.setattr(sys, "argv", ["tests.gpu", "--out", str(tmp_path), "--minutes", "5"])
    assert first_minutes.main() == 1
    printed = capsys.readouterr().out
    assert "kernels: exit status 3" in printed
    assert "bench-W2: its time was up" in printed
    assert "kernels, bench-W2 failed" in printed
    assert (tmp_path / "kernels.log").read_text() == "half\n"
    assert (tmp_path / "bench-W2.log").read_text() == "begun\n"
    tables = (tmp_path / "tables.md").read_text()
    assert "a card" in tables
    assert tables.count("| a table |") == 2
    monkeypatch.setattr(sys, "argv", ["tests.gpu", "--out", str(tmp_path), "--minutes", "0.1"])
    assert first_minutes.main() == 1
    assert "bench-W3: no time left" in capsys.readouterr().out


def test_a_checkout_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be found beside the package is put there, and pytest told of its plugin."""
    monkeypatch.setattr(first_minutes.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(first_minutes.importlib.metadata, "entry_points", lambda group: [])
    env = first_minutes.installed_at(tmp_path)
    assert first_minutes.plugin() == ["-p", "tensorgrad.testing.plugin"]
    monkeypatch.undo()
    command = ["-c", "import tensorgrad.models as m, tensorgrad as t, tests.gpu; print(m.__file__, t.__file__)"]
    out = tmp_path / "out"
    out.mkdir()
    assert first_minutes.run("probe", 60, command, out, tmp_path, env) == 0
    assert (out / "probe.log").read_text().split() == [
        str(tmp_path / "tensorgrad" / p) for p in ("models/__init__.py", "__init__.py")
    ]


def test_checks_run_on_the_stand_in() -> None:
    with using("stand-in"):
        checks = Checks(small=True)
        checks.captured()
        checks.products()
        checks.networks()


class TorchArray:
    """As much of a torch.Tensor as a step that is captured needs."""

    def __init__(self, values: Any) -> None:
        self.values = np.array(values)

    def clone(self) -> TorchArray:
        return TorchArray(self.values)

    cuda = clone

    def copy_(self, other: TorchArray) -> None:
        self.values[...] = other.values


def test_a_graph_of_pytorch_copies_what_it_is_called_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a compiled step does, whose arguments may be others each time and whose results may be kept."""
    read: list[TorchArray] = []
    captured = TorchArray(1.0)

    def torch_step(*args: Any, inputs: list[TorchArray], **options: Any) -> Any:
        read[:] = inputs
        return lambda: captured

    monkeypatch.setattr(steps, "torch_step", torch_step)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_numpy=TorchArray, cuda=MagicMock()))
    x, y = np.ones((4, 3), np.float32), np.arange(4)
    step = steps.torch_graph_step((3, 5), x, y)
    for _ in range(3):
        step()
    for array in read:
        array.values[...] = 7
    assert step() is not captured
    np.testing.assert_array_equal(read[0].values, x)
    np.testing.assert_array_equal(read[1].values, y)


def test_wheels_are_named_once() -> None:
    assert (first_minutes.ROOT / ".gitignore").read_text().split().count(f"{wheels.FOLDER}/") == 1
    assert "graphviz" in wheels.NAMES
