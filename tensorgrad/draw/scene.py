"""The content of a drawing, independent of the output format: boxes, groups of boxes, edges. Created by build.py.

graph -> tree of parts (parts.py) with repeats and regions (fold.py, program.py) -> boxes and edges (build.py, content.py,
backward.py) -> output formats
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tensorgrad.draw.heat import Map


@dataclass
class Box:
    """One box.

    kind    parameter, input, constant, op, layer, output, fused, fold, rule, gradients, failed, or elsewhere: an outer box
    lines   its text, the first line being its name
    inside  parameters shown in it instead of in boxes of their own, with shapes
    maps    pictures of its inputs and results, small for the box and large for a page
    group   the groups that contain it, outermost first
    facts   details for a page: shape, dtype, bytes, FLOPs, time, formula, line
    heat    its time or work relative to the most expensive box, 0 to 1
    mark    highlight, added, removed, changed or misfit (a mismatched operand)
    left    whether its lines are left-aligned, as for formulas
    inner   creates the scene of its inside; None for one operation
    leads_to  for a stub of an outer box: the number of levels outwards, and its id there
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
        """Whether a line has names of arrays to be typeset."""
        is_named = line == self.lines[0] and self.kind in ("input", "parameter", "constant")
        return is_named or line in self.inside

    @property
    def text(self) -> list[str]:
        """All lines, with the sign of a mark before the first."""
        sign = {"added": "+ ", "removed": "− ", "changed": "~ "}.get(self.mark, "")
        return [sign + self.lines[0], *self.lines[1:], *self.inside]


@dataclass
class Edge:
    """An arrow. `kind`: forward, gradient (drawn upwards), rule (from an op to its rule), result (to its gradients) or repeat
    (to the next of equal blocks). `label`: the operand, where it matters.
    """

    source: str
    target: str
    label: str = ""
    kind: str = "forward"


@dataclass
class Scene:
    """A complete drawing.

    groups  key to label, of modules, folds and panels
    repeats keys of the groups that represent several blocks
    notes   remarks: what was folded, the common dtype
    paper   for print: colours that are distinguishable in grey, names typeset as in formulas
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
        """The lines above the drawing: title, notes, legend."""
        meanings = [meaning for _, meaning in self.legend()]
        return [self.title] * bool(self.title) + self.notes + [" · ".join(meanings)] * bool(meanings)

    def legend(self) -> list[tuple[str, str]]:
        """(kind or mark, its meaning) of the colours that need an explanation."""
        present = {box.kind for box in self.boxes.values()} | {box.mark for box in self.boxes.values()}
        return [(key, meaning) for key, meaning in MEANINGS.items() if key in present]


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


def side_by_side(scenes: Iterable[Scene]) -> Scene:
    """Combine several scenes side by side."""
    combined = Scene()
    for scene in scenes:
        combined.boxes |= scene.boxes
        combined.edges += scene.edges
        combined.groups |= scene.groups
        combined.repeats |= scene.repeats
        combined.notes += [note for note in scene.notes if note not in combined.notes]
    return combined
