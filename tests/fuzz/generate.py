"""The program of a seed."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import between, inside  # noqa: F401  (their habits register themselves)
from tests.fuzz.draw import Draw, Writer
from tests.fuzz.formulas import formula
from tests.fuzz.habits import add_habits
from tests.fuzz.operations import arrays, operations, own
from tests.fuzz.program import Program
from tests.fuzz.scene import Scene
from tests.fuzz.training import training

FORMS = 400  # with Numba programs are made of so many different formulas and models, for the sake of its cache


def generate(seed: int, numba: bool) -> Program:
    """The program of this seed; with Numba another one than without."""
    return Draw(f"family {seed}").weighted(FAMILIES)(seed, FORMS if numba else None).program()


def trained(seed: int, forms: int | None) -> Scene:
    """A training program, with habits."""
    scene = Scene(seed, forms)
    training(scene)
    add_habits(scene)
    scene.assemble()
    return scene


FAMILIES: dict[Callable[[int, int | None], Writer], float] = {trained: 5, formula: 4, operations: 1.5, arrays: 0.1, own: 0.1}
