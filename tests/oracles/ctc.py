"""Oracles of tensorgrad/ops/ctc.py: every path there is, one by one."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np


def ctc_states(targets: np.ndarray, sizes: np.ndarray, *, blank: int, classes: int) -> np.ndarray:
    y = np.full((len(targets), 2 * targets.shape[1] + 1), blank)
    for row, labels, n in zip(y, targets, sizes, strict=True):
        for i in range(n):
            row[2 * i + 1] = labels[i]
    return y


def of_paths(x: np.ndarray, states: np.ndarray, steps: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability of the labels of each sample, and how much of it has a class at a step, (t,n,c)."""
    total, share = np.zeros(len(sizes)), np.zeros(x.shape)
    for i, (t, m) in enumerate(zip(steps, sizes, strict=True)):
        blank, labels = states[i, 0], [*states[i, 1 : 2 * m : 2]]
        for path in product(range(x.shape[2]), repeat=int(t)):
            if [c for c, _ in groupby(path) if c != blank] == labels:
                p = np.exp(sum(x[j, i, c] for j, c in enumerate(path)))
                total[i] += p
                for j, c in enumerate(path):
                    share[j, i, c] += p
    return total, share


def ctc(x: np.ndarray, states: np.ndarray, steps: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -np.log(of_paths(x, states, steps, sizes)[0])


def ctc_grad(g: np.ndarray, x: np.ndarray, states: np.ndarray, steps: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    total, share = of_paths(x, states, steps, sizes)
    return -g[:, None] * share / np.where(total > 0, total, 1)[:, None]


ORACLES = {"ctc_states": ctc_states, "ctc": ctc, "ctc_grad": ctc_grad}
