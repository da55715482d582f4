"""One training step of each workload in each library: forward, backward, update of plain SGD, in float32."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tensorgrad import nn, optim
from tensorgrad.nn import functional as F

WORKLOADS: dict[str, tuple[tuple[int, ...], int]] = {
    "W0": ((20, 32, 3), 32),
    "W1": ((784, 100, 10), 10),
    "W2": ((784, 200, 100, 50, 10), 64),
    "W3": ((784, *[500] * 6, 10), 1439),
    "W3b": ((64, *[500] * 6, 10), 1439),
    "W4": ((784, 500, 150, 10), 60_000),
}
LR = 0.1
Step = Callable[[], float]


def weights(widths: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(0, np.sqrt(2 / n), (n, m)).astype(np.float32), np.zeros(m, np.float32)) for n, m in pairwise(widths)]


def tensorgrad_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    layers: list[nn.Module] = []
    for w, b in weights(widths):
        layer = nn.Linear(*w.shape)
        layer.load_state_dict({"weight": w, "bias": b})
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = optim.SGD(model.parameters(), lr=LR)

    def step() -> float:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()  # type: ignore[return-value]

    return step


def torch_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    import torch

    layers: list[Any] = []
    for w, b in weights(widths):
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T.copy()))
            layer.bias.copy_(torch.from_numpy(b))
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    loss_of = torch.nn.functional.cross_entropy

    def step() -> float:
        loss = loss_of(model(tx), ty)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def by_hand_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    """The step as one writes it out in NumPy for this network alone, with every buffer made once."""
    layers = weights(widths)
    m, depth = len(x), len(layers)
    rows = np.arange(m)
    a = [x] + [np.empty((m, n), np.float32) for n in widths[1:]]
    dz = [np.empty((m, n), np.float32) for n in widths[1:]]
    dw = [np.empty_like(w) for w, _ in layers]
    db = [np.empty_like(b) for _, b in layers]
    ones = np.ones(m, np.float32)

    def step() -> float:
        for i, (w, b) in enumerate(layers):
            np.matmul(a[i], w, out=a[i + 1])
            np.add(a[i + 1], b, out=a[i + 1])
            if i < depth - 1:
                np.maximum(a[i + 1], 0, out=a[i + 1])
        z, d = a[depth], dz[depth - 1]
        np.subtract(z, np.maximum.reduce(z, axis=1, keepdims=True), out=z)
        np.exp(z, out=d)
        total = np.add.reduce(d, axis=1, keepdims=True)
        loss = (np.log(total).sum() - z[rows, y].sum()) / m
        np.divide(d, total * m, out=d)
        d[rows, y] -= 1 / m
        for i in reversed(range(depth)):
            np.matmul(a[i].T, dz[i], out=dw[i])
            np.matmul(ones, dz[i], out=db[i])
            if i:
                np.matmul(dz[i], layers[i][0].T, out=dz[i - 1])
                np.multiply(dz[i - 1], a[i] > 0, out=dz[i - 1])
        for (w, b), gw, gb in zip(layers, dw, db, strict=True):
            np.multiply(gw, LR, out=gw)
            np.subtract(w, gw, out=w)
            np.multiply(gb, LR, out=gb)
            np.subtract(b, gb, out=b)
        return float(loss)

    return step


def jax_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    import jax
    import jax.numpy as jnp

    def loss_of(layers: Any, x: Any, y: Any) -> Any:
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = layers[-1]
        logp = jax.nn.log_softmax(x @ w + b)
        return -jnp.take_along_axis(logp, y[:, None], axis=1).mean()

    @jax.jit
    def update(layers: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(layers, x, y)
        return jax.tree_util.tree_map(lambda p, g: p - LR * g, layers, grads), loss

    state = [[(jnp.asarray(w), jnp.asarray(b)) for w, b in weights(widths)]]
    jx, jy = jnp.asarray(x), jnp.asarray(y)

    def step() -> float:
        state[0], loss = update(state[0], jx, jy)
        return float(loss)

    return step


def products_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    """The matrix products of a step alone, into buffers that are there: what a step takes at the very least on this BLAS."""
    layers = weights(widths)
    m = len(x)
    a = [x] + [np.ones((m, n), np.float32) for n in widths[1:]]
    dw = [np.empty_like(w) for w, _ in layers]
    spare = [np.empty((m, n), np.float32) for n in widths]

    def step() -> float:
        for i, (w, _) in enumerate(layers):
            np.matmul(a[i], w, out=spare[i + 1])
        for i in reversed(range(len(layers))):
            np.matmul(a[i].T, a[i + 1], out=dw[i])
            if i:
                np.matmul(a[i + 1], layers[i][0].T, out=spare[i])
        return float("nan")

    return step


PEERS: dict[str, Callable[[tuple[int, ...], np.ndarray, np.ndarray], Step]] = {
    "tensorgrad": tensorgrad_step,
    "by hand": by_hand_step,
    "PyTorch eager": torch_step,
    "JAX jit": jax_step,
    "products alone": products_step,
}
NEEDS = {"PyTorch eager": "torch", "JAX jit": "jax"}  # package that has to be there


def seconds(step: Step, n: int) -> float:
    """Seconds a step, over n of them."""
    start = time.perf_counter()
    for _ in range(n):
        step()
    return (time.perf_counter() - start) / n


def serve(peer: str, workload: str, pipe: Connection) -> None:
    """Answer "losses n", "time n" and "memory 0" (MiB at the peak, beyond the library and the data) until told to stop.

    BLAS threads of the process that had its turn before go on spinning for some 25 ms, so every turn begins with a pause.
    """
    widths, batch = WORKLOADS[workload]
    rng = np.random.default_rng(1)
    x, y = rng.random((batch, widths[0]), np.float32), rng.integers(0, widths[-1], batch)
    if peer in NEEDS:
        __import__(NEEDS[peer])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = PEERS[peer](widths, x, y)
    while (message := pipe.recv()) is not None:
        what, n = message
        if what == "memory":
            pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
            continue
        if what == "time":
            time.sleep(0.05)
            seconds(step, max(n // 10, 1))
        pipe.send([step() for _ in range(n)] if what == "losses" else seconds(step, n))
