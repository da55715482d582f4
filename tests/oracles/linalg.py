"""Oracles of tensorgrad/ops/linalg.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special


def layer(activation: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, w, b: activation(np.einsum("...k,kn->...n", x, w) + b)


# Of z = x W + b: what the activation of a layer makes of it, and its slope, by what it has made
LAYERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "linear": (lambda z: z, np.ones_like),
    "linear_relu": (lambda z: np.where(z > 0, z, 0), lambda y: (y > 0).astype(y.dtype)),
    "linear_sigmoid": (special.expit, lambda y: y * (1 - y)),
    "linear_tanh": (np.tanh, lambda y: 1 - y**2),
}


def einsum(*operands: np.ndarray, subscripts: str) -> np.ndarray:
    """Every term of the sum, one after the other."""
    left, _, result = subscripts.partition("->")
    terms = left.split(",")
    sizes = {letter: n for term, x in zip(terms, operands, strict=True) for letter, n in zip(term, x.shape, strict=True)}
    y = np.zeros([sizes[letter] for letter in result])
    for index in np.ndindex(*sizes.values()):
        at = dict(zip(sizes, index, strict=True))
        factors = [x[tuple(at[c] for c in term)] for term, x in zip(terms, operands, strict=True)]
        y[tuple(at[c] for c in result)] += np.prod(factors)
    return y


ORACLES = {
    "einsum": einsum,
    "matmul": lambda a, b: np.einsum("...ij,...jk->...ik", a, b),
    **{name: layer(activation) for name, (activation, _) in LAYERS.items()},
}
