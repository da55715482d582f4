"""What several ranks make of a training is what one process makes of it. One job for each number of ranks."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed import ranks

# with 3 the last batch, of 2 samples, leaves one of them without
SIZES = [pytest.param(2, marks=pytest.mark.thorough), 3, pytest.param(4, marks=pytest.mark.thorough)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("ranks")

    def result(name: str, size: int) -> dict[Any, Any]:
        file = folder / f"{name}-{size}.pickle"
        if not file.exists():
            status, text = ranks.run(size, "-m", "tests.distributed.everything", str(folder))
            assert not status, text
        found: dict[Any, Any] = pickle.loads(file.read_bytes())
        return found

    return result


@pytest.mark.parametrize("size", SIZES)
def test_every_optimiser(results: Callable[[str, int], dict[Any, Any]], size: int) -> None:
    """Compiled and not, with a last batch of which one rank gets nothing; in float64, to the last digits."""
    one, several = results("optimisers", 1), results("optimisers", size)
    assert len(one) > 12
    for name, values in one.items():
        np.testing.assert_allclose(several[name], values, rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("size", SIZES)
def test_fit(results: Callable[[str, int], dict[Any, Any]], size: int) -> None:
    """Histories, parameters, running statistics of batch norm, with masks of dropout, weights, penalties, schedules.

    Sums in another order differ in the last digit, which a few steps multiply: 1e-11 is far from any mistake of counting, the
    least of which is one sample of 42.
    """
    one, several = results("fits", 1), results("fits", size)
    for case, values in one.items():
        assert several[case]["stopped"] == values["stopped"], case
        for name, value in values.items():
            if name not in ("history seconds", "stopped"):
                np.testing.assert_allclose(several[case][name], value, rtol=1e-11, atol=1e-11, err_msg=f"{case}: {name}")
    assert one["early stopping", False]["stopped"]


def test_importing_tensorgrad_imports_no_mpi() -> None:
    code = "import sys, tensorgrad.train, tensorgrad.distributed; assert not any('mpi4py' in name for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(ranks.ROOT))
