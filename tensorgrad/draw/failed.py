"""Describes the mismatch of a failed operation."""

from __future__ import annotations

import re

from tensorgrad.core.node import Node
from tensorgrad.core.op import Label
from tensorgrad.core.tensor import Tensor


def misfits(node: Node) -> tuple[str, list[int]]:
    """The mismatch in words ("k: 8 ≠ 7"), and the mismatched arguments; no words if the shapes do not show it."""
    shapes = [getattr(s, "shape", ()) for s in node.inputs]
    tensors = [i for i, s in enumerate(node.inputs) if isinstance(s, (Node, Tensor))]
    if isinstance(node.op, Label):
        problem = node.op.problem
        named = [i for i in tensors if str(shapes[i]) in problem]
        return short(problem), named or tensors
    problem = node.op.parsed.mismatch(shapes)
    if match := re.search(r"axis (\w+) is (\d+) in argument (\d+) .*? but (\d+) in argument (\d+)", problem):
        axis, size, first, other, second = match.groups()
        return f"{axis}: {size} ≠ {other}", [int(first), int(second)]
    if match := re.search(r"argument (\d+) has shape", problem):
        return short(problem), [int(match[1])]
    for i in tensors:
        for j in tensors:
            pairs = zip(shapes[i][::-1], shapes[j][::-1], strict=False)
            for k, (a, b) in enumerate(pairs, 1):
                if i < j and a != b and 1 not in (a, b) and problem:
                    return f"axis −{k}: {a} ≠ {b}", [i, j]
    return short(problem), tensors


def short(problem: str) -> str:
    """The first part of an error message."""
    text = re.split(r"; |, expected", problem.rpartition(": ")[2] if problem.count(": ") == 1 else problem.partition(": ")[2])[
        0
    ]
    return text if len(text) <= 60 else f"{text[:59]}…"
