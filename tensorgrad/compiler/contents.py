"""Tracking the contents of memory, byte by byte."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array, address

Content: TypeAlias = tuple[Any, int]  # a value, and the address where its first byte would be
INITIAL: Content = ("initial", 0)  # the content before the run
GARBAGE: Content = ("garbage", 0)  # from an earlier run, or uninitialised


class Place(NamedTuple):
    """The place of an array: the address of its first byte, the end, whether it fills all bytes between them, the address of
    its first element, and the strides of axes with more than one element."""

    start: int
    stop: int
    dense: bool
    first: int
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> Place:
        first = address(array)
        if not array.size:
            return cls(first, first, True, first, ())
        strides = strides_of(array)
        if array.flags.c_contiguous:
            return cls(first, first + int(array.nbytes), True, first, strides)
        steps = [stride * (n - 1) for n, stride in zip(array.shape, array.strides, strict=True)]
        start = first + sum(step for step in steps if step < 0)
        stop = first + sum(step for step in steps if step > 0) + int(array.itemsize)
        return cls(start, stop, stop - start == array.nbytes, first, strides)

    def meets(self, other: Place) -> bool:
        """Whether the byte ranges overlap, gaps between elements included."""
        return self.start < other.stop and other.start < self.stop and self.start < self.stop and other.start < other.stop

    def within(self, other: Place) -> bool:
        return other.start <= self.start and self.stop <= other.stop


def strides_of(array: Array) -> tuple[int, ...]:
    """The strides of axes with more than one element."""
    return tuple([stride for n, stride in zip(array.shape, array.strides, strict=True) if n > 1])


@dataclass(eq=False)
class Mosaic:
    """Alternating contents from an address on: the number of a content per unit of bytes."""

    start: int
    unit: int
    numbers: Array

    def cut(self, start: int, stop: int, unit: int) -> Array:
        """The part between two addresses, in units that divide its unit."""
        finer = np.repeat(self.numbers, self.unit // unit)
        return finer[(start - self.start) // unit : (stop - self.start) // unit]


class Memory:
    """Sorted, disjoint intervals of addresses, each with its content. Anything else has not been written.

    numbers   numbers for contents, shared by memories that are compared
    """

    def __init__(self, numbers: dict[Content, int]) -> None:
        self.numbers = numbers
        self.starts: list[int] = []
        self.pieces: list[tuple[int, int, Content | Mosaic]] = []

    def copy(self) -> Memory:
        copy = Memory(self.numbers)
        copy.starts, copy.pieces = list(self.starts), list(self.pieces)
        return copy

    def put(self, array: Array, place: Place, content: Content) -> None:
        """Set the content of the elements of an array at a place; gaps between them are unchanged."""
        start, stop = place.start, place.stop
        if not place.dense:
            unit = self.unit(array, start, stop)
            numbers = self.cut(start, stop, unit)
            elements(numbers, array, place, unit)[...] = self.number(content)
            self.fill(start, stop, Mosaic(start, unit, numbers))
        else:
            self.fill(start, stop, content)

    def fill(self, start: int, stop: int, content: Content | Mosaic) -> None:
        if start == stop:
            return
        i = j = self.first(start)
        remaining = []
        while j < len(self.pieces) and self.pieces[j][0] < stop:
            a, b, before = self.pieces[j]
            remaining += [(a, start, before)] if a < start else []
            remaining += [(stop, b, before)] if b > stop else []
            j += 1
        new = sorted([*remaining, (start, stop, content)], key=lambda piece: piece[0])
        self.pieces[i:j] = new
        self.starts[i:j] = [piece[0] for piece in new]

    def first(self, start: int) -> int:
        """The first piece that ends after an address."""
        i = max(bisect_right(self.starts, start) - 1, 0)
        return i + (i < len(self.pieces) and self.pieces[i][1] <= start)

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int, Content | Mosaic]]:
        """The contents between two addresses."""
        i = self.first(start)
        while start < stop:
            a, b, content = self.pieces[i] if i < len(self.pieces) else (stop, stop, INITIAL)
            if a > start:
                yield start, min(a, stop), INITIAL
            if a < stop:
                yield max(a, start), min(b, stop), content
            start, i = b if a < stop else stop, i + 1

    def holds(self, place: Place, content: Content | Memory) -> bool:
        """Whether a place is inside one piece with this content, or unwritten if the initial content is expected."""
        i = bisect_right(self.starts, place.start) - 1
        if content is INITIAL:
            before = i < 0 or self.pieces[i][1] <= place.start
            return before and (i + 1 == len(self.starts) or self.starts[i + 1] >= place.stop)
        return i >= 0 and place.stop <= self.pieces[i][1] and self.pieces[i][2] == content

    def differs(self, array: Array, place: Place, expected: Content | Memory) -> tuple[Content, Content] | None:
        """The actual and the expected content of an array's elements, if they differ, else None. Expected is a content or
        another memory."""
        start, stop = place.start, place.stop
        if start == stop:
            return None
        if not isinstance(expected, Memory):
            actual: Any = next((content for _, _, content in self.between(start, stop) if content != expected), expected)
            if actual is expected or (place.dense and not isinstance(actual, Mosaic)):
                return None if actual is expected else (actual, expected)
        elif expected.agrees(self, start, stop):
            return None
        unit = math.gcd(self.unit(array, start, stop), expected.unit(array, start, stop) if isinstance(expected, Memory) else 0)
        actual_numbers = elements(self.cut(start, stop, unit), array, place, unit)
        if isinstance(expected, Memory):
            expected_numbers = elements(expected.cut(start, stop, unit), array, place, unit)
        else:
            expected_numbers = np.broadcast_to(np.int32(self.number(expected)), actual_numbers.shape)
        is_wrong = actual_numbers != expected_numbers
        if not is_wrong.any():
            return None
        names = list(self.numbers)
        return names[actual_numbers[is_wrong][0]], names[expected_numbers[is_wrong][0]]

    def agrees(self, other: Memory, start: int, stop: int) -> bool:
        """Whether two memories have the same, not alternating, contents between two addresses."""
        for a, b, content in self.between(start, stop):
            if isinstance(content, Mosaic) or any(other_content != content for _, _, other_content in other.between(a, b)):
                return False
        return True

    # Contents as numbers

    def number(self, content: Content) -> int:
        return self.numbers.setdefault(content, len(self.numbers))

    def unit(self, array: Array, start: int, stop: int) -> int:
        """The largest unit of bytes with a single content: for the array's elements and the existing contents."""
        sizes = [int(array.itemsize), *array.strides]
        for a, b, content in self.between(start, stop):
            sizes += [a - start, b - start]
            if isinstance(content, Mosaic):
                sizes += [content.unit, content.start - start]
        return math.gcd(*sizes)

    def cut(self, start: int, stop: int, unit: int) -> Array:
        """The numbers of the contents between two addresses."""
        numbers = np.empty((stop - start) // unit, np.int32)
        for a, b, content in self.between(start, stop):
            part = content.cut(a, b, unit) if isinstance(content, Mosaic) else self.number(content)
            numbers[(a - start) // unit : (b - start) // unit] = part
        return numbers


def elements(numbers: Array, array: Array, place: Place, unit: int) -> Array:
    """From numbers per unit of a place, select those of the array's elements, with an additional axis."""
    shape = (*array.shape, array.itemsize // unit)
    strides = (*(stride // unit * numbers.itemsize for stride in array.strides), numbers.itemsize)
    return np.lib.stride_tricks.as_strided(numbers[(place.first - place.start) // unit :], shape, strides)
