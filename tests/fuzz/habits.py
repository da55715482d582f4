"""What users do besides. A habit changes a scene; the lines that it adds have its name as their tag."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.scene import Scene

Change = Callable[[Scene], None]
HABITS: dict[tuple[str, Change], float] = {}


class Unfit(Exception):
    """A habit that a scene has no room for."""


def habit(name: str, weight: float) -> Callable[[Change], Change]:
    """Register a habit, which is drawn as often as its weight says."""

    def register(change: Change) -> Change:
        HABITS[name, change] = weight
        return change

    return register


def add_habits(scene: Scene) -> None:
    """One or two habits, or none."""
    for _ in range(scene.free.weighted({0: 3.5, 1: 5, 2: 1.5})):
        scene.tag, change = scene.free.weighted(HABITS)
        try:
            change(scene)
        except Unfit:
            continue


def needs(condition: object) -> None:
    """Leave the scene as it is unless a condition holds."""
    if not condition:
        raise Unfit


def parameter(scene: Scene) -> str:
    """One of the parameters."""
    needs(scene.parameters)
    return scene.free.one(*scene.parameters)


def layer_of(scene: Scene, kind: str) -> str:
    """A layer of this kind."""
    found = [name for name, k in scene.layers.items() if k == kind]
    needs(found)
    return scene.free.one(*found)
