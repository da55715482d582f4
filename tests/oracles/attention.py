"""Oracles of tensorgrad/ops/attention.py: one query at a time."""

from __future__ import annotations

from typing import Any

import numpy as np


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    keep: np.ndarray | None = None,
    *,
    causal: bool,
    scale: float,
    dropout: float,
) -> np.ndarray:
    if dropout and keep is None:
        mask, keep = None, mask
    lead = np.broadcast_shapes(*[x.shape[:-2] for x in (q, k, v)])
    q, k, v = (np.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (q, k, v))
    if mask is not None:
        mask = np.broadcast_to(mask, (*lead, q.shape[-2], k.shape[-2]))
    if keep is not None:
        keep = np.broadcast_to(keep, (*lead, q.shape[-2], k.shape[-2]))
    y = np.zeros((*q.shape[:-1], v.shape[-1]), np.result_type(q, k, v, *[mask] * (mask is not None)))
    for at in np.ndindex(q.shape[:-1]):
        mass, total = 0, 0
        for j in range(k.shape[-2]):
            z = scale * (q[at] @ k[*at[:-1], j])
            if mask is not None:
                z = z + mask[*at, j] if mask.dtype != bool else z
            if not (causal and j > at[-1]) and (mask is None or mask.dtype != bool or mask[*at, j]):
                m = 1 if keep is None else keep[*at, j] / (1 - dropout)
                mass, total = mass + np.exp(z), total + np.exp(z) * m * v[*at[:-1], j]
        y[at] = total / mass if mass != 0 else 0
    return y


def attention_grad(g: np.ndarray, *args: np.ndarray, **attrs: Any) -> np.ndarray:
    """By complex steps, of arrays that have all the leading axes."""
    lead = np.broadcast_shapes(*[x.shape[:-2] for x in args[:3]])
    whole = [np.broadcast_to(x, (*lead, *x.shape[-2:])).copy() for x in args[:3]]
    found = []
    for i, x in enumerate(whole):
        for at in np.ndindex(x.shape):
            moved = [y.astype(complex) if j == i else y for j, y in enumerate(whole)]
            moved[i][at] += 1e-30j
            found.append((g * attention(*moved, *args[3:], **attrs)).sum().imag / 1e-30)
    return np.array(found)


ORACLES = {"attention": attention, "attention_grad": attention_grad}
