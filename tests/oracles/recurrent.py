"""Oracles of tensorgrad/ops/recurrent.py: loops over steps, and gradients as sums over what a Jacobian is of."""

from __future__ import annotations

from typing import Any

import numpy as np


def expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def rnn(z: np.ndarray, h0: np.ndarray, u: np.ndarray, *, activation: str) -> np.ndarray:
    y = [h0]
    for zk in z:
        a = zk + y[-1] @ u
        y.append(np.tanh(a) if activation == "tanh" else a * (a.real > 0))
    return np.array(y)


def lstm(z: np.ndarray, h0: np.ndarray, c0: np.ndarray, u: np.ndarray) -> np.ndarray:
    h, c = [h0], [c0]
    for zk in z:
        i, f, m, o = np.split(zk + h[-1] @ u, 4, axis=-1)
        c.append(expit(f) * c[-1] + expit(i) * np.tanh(m))
        h.append(expit(o) * np.tanh(c[-1]))
    return np.array([h, c])


def gru(z: np.ndarray, h0: np.ndarray, u: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = [h0]
    for zk in z:
        (zr, zw, zm), (ar, aw, am) = np.split(zk, 3, -1), np.split(y[-1] @ u, 3, -1)
        w = expit(zw + aw)
        y.append((1 - w) * np.tanh(zm + expit(zr + ar) * (am + b)) + w * y[-1])
    return np.array(y)


def gradient(f: Any, g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """That of sum(g f(x)) by complex steps, which have no rounding errors to speak of."""
    found = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[at] += 1e-30j
        found[at] = (g * f(moved)).sum().imag / 1e-30
    return found


def rnn_grad(g: np.ndarray, y: np.ndarray, u: np.ndarray, *, activation: str) -> np.ndarray:
    slope = 1 - y[1:] ** 2 if activation == "tanh" else 1.0 * (y[1:] > 0)
    d = [g[-1]]
    for k in reversed(range(len(slope))):
        d[:1] = [g[k] + (d[0] * slope[k]) @ u.T, d[0] * slope[k]]
    return np.array([*d[1:], d[0]])


def lstm_grad(g: np.ndarray, y: np.ndarray, z: np.ndarray, u: np.ndarray) -> np.ndarray:
    h0, c0 = y[:, 0]
    d = gradient(lambda z: lstm(z, h0, c0, u), g, z)
    last = [gradient(lambda h: lstm(z, h, c0, u), g, h0), gradient(lambda c: lstm(z, h0, c, u), g, c0)]
    return np.concatenate([d, np.concatenate([*last, np.zeros((len(h0), 2 * len(u)))], -1)[None]])


def gru_grad(g: np.ndarray, y: np.ndarray, z: np.ndarray, u: np.ndarray, b: np.ndarray) -> np.ndarray:
    n, steps = len(u), len(z)
    dz = gradient(lambda z: gru(z, y[0], u, b), g, z)

    def of_q(shift: np.ndarray) -> np.ndarray:  # the same b at each step has the gradient of all; one of its own is that of q
        h = [y[0]]
        for k in range(steps):
            h.append(gru(z[k : k + 1], h[-1], u, b + shift[k])[1])
        return np.array(h)

    dq = gradient(of_q, g, np.zeros((steps, *y.shape[1:])))
    last = np.concatenate([gradient(lambda h: gru(z, h, u, b), g, y[0]), np.zeros((y.shape[1], 3 * n))], -1)
    return np.concatenate([np.concatenate([dz[..., : 2 * n], dq, dz[..., 2 * n :]], -1), last[None]])


def inside(lengths: np.ndarray, *, steps: int) -> np.ndarray:
    return np.array([[k < n for k in range(steps)] for n in lengths.ravel()], bool).reshape(*lengths.shape, steps)


ORACLES = {f.__name__: f for f in (rnn, rnn_grad, lstm, lstm_grad, gru, gru_grad, inside)}
