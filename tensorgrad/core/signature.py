"""Signature: the shapes of an operation's arguments and result, in NumPy's gufunc notation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tensorgrad.errors import TensorgradError

Shape: TypeAlias = tuple[int, ...]
Axis: TypeAlias = int | tuple[int, ...] | None  # one axis, several, or all


@dataclass(frozen=True)
class Signature:
    """A parsed signature.

    inputs   the named axes of each argument; a last one that ends in "?" is optional
    leading  for each argument, whether it may have further axes before the named ones
    strict   whether those must be equal wherever "..." occurs; in a signature without "..." they broadcast
    """

    inputs: tuple[tuple[str, ...], ...]
    leading: tuple[bool, ...]
    strict: bool

    @classmethod
    def parse(cls, text: str) -> Signature:
        left, arrow, right = text.partition("->")
        groups = re.findall(r"\(([^()]*)\)", left)
        if not arrow or not groups or not re.fullmatch(r" *\([^()]*\) *", right):
            raise TensorgradError(f"signature {text!r} does not have the form '(a,b),(b)->(a)'")
        split = [[name.strip() for name in g.split(",") if name.strip()] for g in groups]
        strict = "..." in text
        return cls(
            inputs=tuple(tuple(n for n in g if n != "...") for g in split),
            leading=tuple("..." in g if strict else True for g in split),
            strict=strict,
        )

    def shapes(self, rng: np.random.Generator, sizes: Sequence[int]) -> list[Shape]:
        """Random valid shapes with axes of the given sizes; where they may broadcast, some leading axes are omitted or 1."""

        def draw(n: int) -> Shape:
            return tuple(int(size) for size in rng.choice(sizes, n))

        named = {axis.rstrip("?"): draw(1) for axes in self.inputs for axis in axes} | {"*": ()}
        outer = draw(int(rng.integers(0, 3)))
        broadcasts = not self.strict and sum(self.leading) > 1
        shapes = []
        for axes, is_open in zip(self.inputs, self.leading, strict=True):
            lead = outer if is_open else ()
            if is_open and broadcasts:
                lead = tuple(n if rng.random() < 0.75 else 1 for n in outer[rng.integers(0, len(outer) + 1) :])
            shapes.append(sum((named[axis] for axis in axes if not axis.endswith("?")), lead))
        return shapes

    def mismatch(self, shapes: list[Shape]) -> str:
        """The first mismatch of `shapes`, in words; "" if they fit."""
        sizes: dict[str, tuple[int, int]] = {}
        outer: dict[int, Shape] = {}
        for i, (axes, shape, is_open) in enumerate(zip(self.inputs, shapes, self.leading, strict=False)):
            if axes == ("*",):
                continue
            if axes and axes[-1].endswith("?"):
                missing = len(shape) == (len(next(iter(outer.values()), ())) if is_open else len(axes) - 1)
                axes = axes[:-1] if missing else (*axes[:-1], axes[-1][:-1])
            if len(shape) < len(axes) or (len(shape) > len(axes) and not is_open):
                bound = "at least " if is_open else ""
                return f"argument {i} has shape {shape}, expected {bound}{len(axes)} axes ({','.join(axes)})"
            for axis, size in zip(axes, shape[len(shape) - len(axes) :], strict=True):
                expected_size, source = sizes.setdefault(axis, (size, i))
                if expected_size != size:
                    other = f"{expected_size} in argument {source} {shapes[source]}"
                    return f"axis {axis} is {other} but {size} in argument {i} {shape}"
            if is_open:
                outer[i] = shape[: len(shape) - len(axes)]
        if self.strict:
            for i, shape in outer.items():
                first = next(iter(outer))
                if shape != outer[first]:
                    expected = f"{outer[first]} in argument {first} {shapes[first]}"
                    return f"leading axes are {expected} but {shape} in argument {i} {shapes[i]}"
            return ""
        try:
            np.broadcast_shapes(*outer.values())
        except ValueError:
            return f"shapes {' and '.join(str(shapes[i]) for i in outer)} do not broadcast"
        return ""
