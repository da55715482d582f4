"""A reverse-mode engine that is too simple to be wrong: float64, no fusion, no freeing, one dictionary of gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Naive:
    """An array, and for each array it was computed from a function from its gradient to that one's."""

    def __init__(self, data: np.ndarray, parents: list[tuple[Naive, Callable[[np.ndarray], np.ndarray]]] | None = None) -> None:
        self.data = np.asarray(data, np.float64)
        self.parents = parents or []

    def gradients(self, seed: np.ndarray) -> dict[Naive, np.ndarray]:
        """The gradient of <seed, self> with respect to every array that self was computed from."""
        order: list[Naive] = []

        def visit(node: Naive) -> None:
            if node not in order:
                for parent, _ in node.parents:
                    visit(parent)
                order.append(node)

        visit(self)
        found = {self: seed}
        for node in reversed(order):
            for parent, pull in node.parents:
                found[parent] = found.get(parent, np.zeros(parent.data.shape)) + pull(found[node])
        return found


def narrowed(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """g summed to the shape that was broadcast."""
    while g.ndim > len(shape):
        g = g.sum(0)
    for axis, n in enumerate(shape):
        if n == 1:
            g = g.sum(axis, keepdims=True)
    return g


def binary(
    a: Naive,
    b: Naive,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    da: Callable[[np.ndarray, np.ndarray], np.ndarray],
    db: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Naive:
    x, y = a.data, b.data
    return Naive(
        value(x, y),
        [(a, lambda g: narrowed(g * da(x, y), x.shape)), (b, lambda g: narrowed(g * db(x, y), y.shape))],
    )


def unary(a: Naive, value: Callable[[np.ndarray], np.ndarray], slope: Callable[[np.ndarray], np.ndarray]) -> Naive:
    x = a.data
    return Naive(value(x), [(a, lambda g: g * slope(x))])


def matmul(a: Naive, b: Naive) -> Naive:
    x, y = a.data, b.data
    return Naive(x @ y, [(a, lambda g: g @ y.T), (b, lambda g: x.T @ g)])


def total(a: Naive, axis: int | None) -> Naive:
    shape = a.data.shape

    def pull(g: np.ndarray) -> np.ndarray:
        return np.broadcast_to(g if axis is None else np.expand_dims(g, axis), shape)

    return Naive(a.data.sum(axis), [(a, pull)])


def reshaped(a: Naive, shape: tuple[int, ...]) -> Naive:
    return Naive(a.data.reshape(shape), [(a, lambda g: g.reshape(a.data.shape))])
