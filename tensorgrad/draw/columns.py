"""Breaks a long drawing into columns that fit a screen."""

from __future__ import annotations

from tensorgrad.draw.scene import Box, Scene

SCREEN = 1400, 900
LINE, PADDING, GAP = 13.2, 8.0, 15.0  # in points: height of a line, padding of a box, distance between boxes
LETTER = 5.6
BESIDE = ("rule", "gradients")


def breaks(scene: Scene) -> dict[str, int]:
    """Box to column number; all 0 for drawings not much higher than a screen."""
    main = [box for box in scene.boxes.values() if box.kind not in BESIDE]
    op_of = {e.target: e.source for e in scene.edges if e.kind in ("rule", "result")}
    if scene.direction != "TB" or len(main) < 8 or any(key.endswith("panel") for key in scene.groups):
        return {}
    level = levels(scene, {box.id for box in main})
    heights = [0.0] * (max(level.values()) + 1)
    widths = [0.0] * len(heights)
    lanes = [0.0] * len(heights)
    for box in main:
        heights[level[box.id]] = max(heights[level[box.id]], height_of(box) + 12 * len(box.group) * 0)
        widths[level[box.id]] += width_of(box)
    for box in scene.boxes.values():
        if box.kind in BESIDE:
            at = box.id
            while at in op_of:
                at = op_of[at]
            if at in level:
                heights[level[at]] = max(heights[level[at]], height_of(box))
                lanes[level[at]] += width_of(box)
    total = sum(heights) + GAP * len(heights)
    allowed = borders(main, level, scene)
    best, cuts = scale(max(widths) + max(lanes), total), [len(heights)]
    for n in range(2, 9):
        ends = split(heights, n, allowed)
        columns = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        width = sum(max(widths[c], default=0) + max(lanes[c], default=0) + 40 for c in columns)
        height = max(sum(heights[c]) + GAP * len(heights[c]) for c in columns)
        if scale(width, height) > best * 1.1:
            best, cuts = scale(width, height), ends
    if len(cuts) == 1:
        return {}
    column_of = {box: next(i for i, end in enumerate(cuts) if at < end) for box, at in level.items()}
    for box in scene.boxes.values():
        at = box.id
        while at not in column_of and at in op_of:
            at = op_of[at]
        column_of.setdefault(box.id, column_of.get(at, 0))
    return column_of


def scale(width: float, height: float) -> float:
    """The scale at which a drawing of this size fits a screen, at most 2."""
    return min(SCREEN[0] / width, SCREEN[1] / height, 1.4)


def split(heights: list[float], n: int, allowed: list[int]) -> list[int]:
    """The end of each of n columns, of about equal heights."""
    sofar = [sum(heights[:i]) + GAP * i for i in range(len(heights) + 1)]
    ends: list[int] = []
    for k in range(1, n):
        free = [i for i in allowed if i > (ends[-1] if ends else 0)]
        if free:
            ends.append(min(free, key=lambda i: abs(sofar[i] - sofar[-1] * k / n)))
    return [*ends, len(heights)]


def borders(main: list[Box], level: dict[str, int], scene: Scene) -> list[int]:
    """The levels before which a column may end: not inside a frame; if there is no such level, not inside a repeat."""
    for keys in (set(scene.groups), scene.repeats):
        spans: dict[str, list[int]] = {}
        for box in main:
            for key in keys.intersection(box.group):
                spans.setdefault(key, []).append(level[box.id])
        free = [i for i in range(1, max(level.values()) + 1) if not any(min(s) < i <= max(s) for s in spans.values())]
        if free:
            return free
    return []


def levels(scene: Scene, main: set[str]) -> dict[str, int]:
    """The number of boxes before each one on the longest path; a leaf is just above its first reader."""
    after: dict[str, list[str]] = {key: [] for key in main}
    before = dict.fromkeys(main, 0)
    for e in scene.edges:
        if e.kind == "forward" and e.source in main and e.target in main and e.source != e.target:
            after[e.source].append(e.target)
            before[e.target] += 1
    fed = dict(before)
    level = dict.fromkeys(main, 0)
    ready = [key for key in scene.boxes if key in main and before[key] == 0]
    while ready:
        key = ready.pop()
        for target in after[key]:
            level[target] = max(level[target], level[key] + 1)
            before[target] -= 1
            if before[target] == 0:
                ready.append(target)
    for key in main:
        if fed[key] == 0 and after[key]:
            level[key] = max(0, min(level[t] for t in after[key]) - 1)
    return level


def height_of(box: Box) -> float:
    return LINE * len(box.text) + PADDING


def width_of(box: Box) -> float:
    return LETTER * max(map(len, box.text)) + 24
