"""One training step of each workload in each library: forward, backward, update of plain SGD, in float32.

Every library is used as its documentation recommends for speed. A function makes the step for layers (weight, bias), samples
and labels; the step returns the loss as a number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import tensorgrad
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
LR = 0.01
Step = Callable[[], float]


def weights(widths: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(0, np.sqrt(2 / n), (n, m)).astype(np.float32), np.zeros(m, np.float32)) for n, m in pairwise(widths)]


def tensorgrad_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray, compiled: bool = True) -> Step:
    layers: list[nn.Module] = []
    for w, b in weights(widths):
        layer = nn.Linear(*w.shape)
        layer.load_state_dict({"weight": w, "bias": b})
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = optim.SGD(model.parameters(), lr=LR)

    def train(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(train) if compiled else train
    return lambda: step(x, y).item()


def eager_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    return tensorgrad_step(widths, x, y, compiled=False)


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

    def forward(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(x), y)

    def step() -> float:
        loss = forward(tx, ty)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def torch_compiled_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    """The whole step as one compiled function: gradients by torch.func, the update in place. It is twice as fast as compiling
    the loss and the optimiser's step, each for itself."""
    import torch
    from torch._inductor import config

    config.cpp_wrapper = True  # another fifth faster on the small ones
    layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in weights(widths)]
    parameters = [p for layer in layers for p in layer]
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        for i in range(0, len(parameters), 2):
            x = torch.addmm(parameters[i + 1], x, parameters[i])
            if i < len(parameters) - 2:
                x = torch.relu(x)
        return torch.nn.functional.cross_entropy(x, y)

    @torch.compile(fullgraph=True)
    def train(parameters: Any, x: Any, y: Any) -> Any:
        grads, loss = torch.func.grad_and_value(loss_of)(parameters, x, y)
        for p, g in zip(parameters, grads, strict=True):
            p.sub_(g, alpha=LR)
        return loss

    def step() -> float:
        with torch.no_grad():
            return train(parameters, tx, ty).item()

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

    jax.config.update("jax_cpu_enable_async_dispatch", False)  # a step waits for its loss anyway: half the time on small ones

    def loss_of(layers: Any, x: Any, y: Any) -> Any:
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = layers[-1]
        logp = jax.nn.log_softmax(x @ w + b)
        return -jnp.take_along_axis(logp, y[:, None], axis=1).mean()

    @partial(jax.jit, donate_argnums=0)
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


def sklearn_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    """partial_fit with the whole batch as its mini-batch; what a user of MLPClassifier can reach."""
    from sklearn import set_config
    from sklearn.neural_network import MLPClassifier

    set_config(assume_finite=True, skip_parameter_validation=True)
    settings = {"solver": "sgd", "momentum": 0.0, "alpha": 0.0, "learning_rate_init": LR, "shuffle": False}
    model = MLPClassifier(widths[1:-1], batch_size=len(x), **settings)
    classes = np.arange(widths[-1])
    model.partial_fit(x, y, classes=classes)  # makes the weights, which ours then take the place of
    for (w, b), coefs, intercepts in zip(weights(widths), model.coefs_, model.intercepts_, strict=True):
        coefs[...], intercepts[...] = w, b

    def step() -> float:
        model.partial_fit(x, y, classes=classes)
        return float(model.loss_)

    return step


def autograd_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    import autograd.numpy as anp
    from autograd import value_and_grad

    at = np.arange(len(x))

    def loss_of(layers: Any) -> Any:
        h = x
        for i, (w, b) in enumerate(layers):
            h = anp.dot(h, w) + b
            if i < len(layers) - 1:
                h = h * (h > 0)  # twice as fast as its maximum
        h = h - anp.max(h, axis=1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(h), axis=1)) - h[at, y])

    layers, slopes = weights(widths), value_and_grad(loss_of)

    def step() -> float:
        loss, grads = slopes(layers)
        for (w, b), (gw, gb) in zip(layers, grads, strict=True):
            w -= LR * gw
            b -= LR * gb
        return float(loss)

    return step


def mygrad_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    import mygrad
    from mygrad.nnet.activations import relu
    from mygrad.nnet.losses import softmax_crossentropy

    layers = [(mygrad.tensor(w), mygrad.tensor(b)) for w, b in weights(widths)]
    mygrad.turn_memory_guarding_off()  # what its documentation recommends for speed

    def step() -> float:
        h: Any = x
        for i, (w, b) in enumerate(layers):
            h = h @ w + b
            if i < len(layers) - 1:
                h = relu(h)
        loss = softmax_crossentropy(h, y)
        loss.backward()
        for layer in layers:
            for p in layer:
                p.data -= LR * p.grad
        return float(loss.data)

    return step


def tinygrad_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    from tinygrad import Context, Tensor, TinyJit
    from tinygrad.nn.optim import SGD

    layers = [(Tensor(w), Tensor(b)) for w, b in weights(widths)]
    optimiser = SGD([p for layer in layers for p in layer], lr=LR)
    tx, ty = Tensor(x).realize(), Tensor(y.astype(np.int32)).realize()

    @TinyJit
    def train() -> Any:
        optimiser.zero_grad()
        h = tx
        for i, (w, b) in enumerate(layers):
            h = h @ w + b
            if i < len(layers) - 1:
                h = h.relu()
        loss = h.sparse_categorical_crossentropy(ty).backward()
        return loss.realize(*optimiser.schedule_step())

    def step() -> float:
        with Context(TRAINING=1):
            return train().item()

    return step


PEERS: dict[str, Callable[[tuple[int, ...], np.ndarray, np.ndarray], Step]] = {
    "tensorgrad": tensorgrad_step,
    "tensorgrad eager": eager_step,
    "by hand": by_hand_step,
    "products alone": products_step,
    "PyTorch eager": torch_step,
    "PyTorch compile": torch_compiled_step,
    "JAX jit": jax_step,
    "scikit-learn": sklearn_step,
    "tinygrad": tinygrad_step,
    "autograd": autograd_step,
    "MyGrad": mygrad_step,
}
OURS = ("tensorgrad", "tensorgrad eager", "by hand", "products alone")
NEEDS = {  # package that has to be there
    "PyTorch eager": "torch",
    "PyTorch compile": "torch",
    "JAX jit": "jax",
    "scikit-learn": "sklearn",
    "tinygrad": "tinygrad",
    "autograd": "autograd",
    "MyGrad": "mygrad",
}
QUICK = (*OURS, "PyTorch eager", "JAX jit", "scikit-learn", "autograd", "MyGrad")  # that start fast
