"""What a drawing shows, before anybody decides how: boxes, groups of boxes, edges. Made by build.py; read by the writers.

graph -> tree of parts (parts.py) with repeats and regions (fold.py, program.py) -> boxes and edges (build.py, content.py,
backward.py) -> the writers
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tensorgrad.draw.heat import Map


@dataclass
class Box:
    """One box.

    kind    parameter, input, constant, op, layer, output, fused, fold, rule, gradients, failed, or elsewhere: a box around
    lines   what stands in it, the first line being its name
    inside  parameters that it reads and that have no box of their own, with their shapes
    maps    pictures of what it reads and gives, small ones for the box and large ones for a page
    group   the groups that it lies in, from the outermost
    facts   what a page shows beside it: shape, dtype, bytes, FLOPs, time, formula, line
    heat    its share of the most expensive box's time or work, 0 to 1
    mark    highlight, added, removed, changed or misfit (an operand that does not fit)
    left    whether its lines start at the left, as formulas do
    inner   makes the scene of what lies inside of it; None for one operation
    leads_to  for what stands for a box around the scene: how many scenes outwards that is, and its id there
    """

    id: str
    kind: str
    lines: list[str]
    group: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    heat: float | None = None
    mark: str = ""
    left: bool = False
    inside: list[str] = field(default_factory=list)
    maps: list[tuple[Map, Map]] = field(default_factory=list)
    inner: Callable[[], Scene] | None = None
    leads_to: tuple[int, str] | None = None

    def has_names(self, line: str) -> bool:
        """Whether a line of it has names of arrays that a paper sets as letters."""
        is_named = line == self.lines[0] and self.kind in ("input", "parameter", "constant")
        return is_named or line in self.inside

    @property
    def text(self) -> list[str]:
        """All lines, with the sign of a mark before the first."""
        sign = {"added": "+ ", "removed": "− ", "changed": "~ "}.get(self.mark, "")
        return [sign + self.lines[0], *self.lines[1:], *self.inside]


@dataclass
class Edge:
    """An arrow. `kind`: forward, gradient (drawn upwards), rule (from an op to its rule), result (to the gradients that it
    makes) or repeat (to the next of equal blocks). `label`: which operand it is, where that matters."""

    source: str
    target: str
    label: str = ""
    kind: str = "forward"


@dataclass
class Scene:
    """Everything in a drawing.

    groups  key to label, of modules, folds and panels
    repeats keys of the groups that are drawn once for several
    notes   what was folded, which dtype all have, in words
    paper   whether it is for print: in colours that are told apart in grey, names set as in formulas
    """

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    repeats: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    title: str = ""
    direction: str = "TB"
    paper: bool = False

    def caption(self) -> list[str]:
        """The lines that stand above the drawing: its title, its notes, what the colours mean."""
        said = [meaning for _, meaning in self.legend()]
        return [self.title] * bool(self.title) + self.notes + [" · ".join(said)] * bool(said)

    def legend(self) -> list[tuple[str, str]]:
        """(kind or mark, what it means) of the colours in the drawing that do not say themselves what they are."""
        there = {box.kind for box in self.boxes.values()} | {box.mark for box in self.boxes.values()}
        return [(key, meaning) for key, meaning in MEANINGS.items() if key in there]


MEANINGS = {
    "fused": "violet: fused",
    "rule": "red: rules of the gradient",
    "gradients": "yellow-green: gradients",
    "added": "+ added",
    "removed": "− removed, dashed",
    "changed": "~ changed",
    "misfit": "orange: does not fit",
    "highlight": "pink: highlighted",
}


def beside(scenes: Iterable[Scene]) -> Scene:
    """Several scenes in one."""
    whole = Scene()
    for scene in scenes:
        whole.boxes |= scene.boxes
        whole.edges += scene.edges
        whole.groups |= scene.groups
        whole.repeats |= scene.repeats
        whole.notes += [note for note in scene.notes if note not in whole.notes]
    return whole
