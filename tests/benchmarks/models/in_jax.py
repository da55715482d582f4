"""The models in JAX: the whole step as one jitted function, whose parameters are given up to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from tests.benchmarks.models.shapes import CONTEXT, DIFFUSION, HEADS, LAYERS, LR, MODELS, PENALTY, WIDTH

jax.config.update("jax_cpu_enable_async_dispatch", False)  # a step waits for its loss anyway


def dense(p: Any, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def cross_entropy(z: Any, y: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[..., None], axis=-1).mean()


def convolved(p: Any, name: str, x: Any, padding: int) -> Any:
    y = jax.lax.conv_general_dilated(x, p[f"{name}.weight"], (1, 1), [(padding, padding)] * 2)
    y = jax.nn.relu(y + p[f"{name}.bias"][:, None, None])
    return jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def lenet(p: Any, x: Any, y: Any) -> Any:
    h = convolved(p, "3", convolved(p, "0", x, 2), 0).reshape(len(x), -1)
    h = jax.nn.relu(dense(p, "9", jax.nn.relu(dense(p, "7", h))))
    return cross_entropy(dense(p, "11", h), y)


def lstm(p: Any, x: Any, y: Any) -> Any:
    given = jnp.swapaxes(p["embed.weight"][x], 0, 1) @ p["rnn.weight_ih_l0"].T + (p["rnn.bias_ih_l0"] + p["rnn.bias_hh_l0"])

    def one(state: Any, z: Any) -> Any:
        h, c = state
        i, f, m, o = jnp.split(z + h @ p["rnn.weight_hh_l0"].T, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(m)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((len(x), WIDTH), jnp.float32)
    states = jax.lax.scan(one, (zero, zero), given)[1]
    return cross_entropy(dense(p, "head", states), y.T)


def norm(p: Any, name: str, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def gpt(p: Any, x: Any, y: Any) -> Any:
    n, t = x.shape
    h = p["letters.weight"][x] + p["places.weight"]
    mask = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
    for i in range(LAYERS):
        at = f"blocks.{i}"
        parts = jnp.split(dense(p, f"{at}.qkv", norm(p, f"{at}.norm1", h)), 3, axis=-1)
        q, k, v = (part.reshape(n, t, HEADS, -1).swapaxes(1, 2) for part in parts)
        scores = jnp.where(mask, q @ k.swapaxes(2, 3) * (WIDTH // HEADS) ** -0.5, -jnp.inf)
        seen = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(n, t, WIDTH)
        h = h + dense(p, f"{at}.out", seen)
        up = jax.nn.gelu(dense(p, f"{at}.up", norm(p, f"{at}.norm2", h)), approximate=False)
        h = h + dense(p, f"{at}.down", up)
    return cross_entropy(norm(p, "norm", h) @ p["letters.weight"].T, y)


def vae(p: Any, x: Any, e: Any) -> Any:
    m, s = jnp.split(dense(p, "encoder.2", jax.nn.relu(dense(p, "encoder.0", x))), 2, axis=1)
    code = m + e * jnp.exp(s / 2)
    z = dense(p, "decoder.2", jax.nn.relu(dense(p, "decoder.0", code)))
    return ((jax.nn.softplus(z) - x * z).sum() + 0.5 * (jnp.exp(s) + m**2 - 1 - s).sum()) / len(x)


def field(p: Any, x: Any, t: Any) -> Any:
    h = jnp.tanh(dense(p, "0", jnp.concatenate([x, t], axis=1)))
    return dense(p, "4", jnp.tanh(dense(p, "2", h)))


def physics(p: Any, x: Any, t: Any, x0: Any) -> Any:
    """Derivatives of a sum over points, backwards, as the others have it: faster here than forwards."""
    of_x = jax.grad(lambda x: field(p, x, t).sum())
    u_t = jax.grad(lambda t: field(p, x, t).sum())(t)
    u_xx = jax.grad(lambda x: of_x(x).sum())(x)
    begin = field(p, x0, 0 * x0)
    return ((u_t - DIFFUSION * u_xx) ** 2).mean() + ((begin - jnp.sin(jnp.pi * x0)) ** 2).mean()


def members(p: Any, x: Any, y: Any) -> Any:
    def one(p: Any) -> Any:
        return cross_entropy(dense(p, "2", jax.nn.relu(dense(p, "0", x))), y)

    return jax.vmap(one)(p).sum()


def factors(p: Any, i: Any, j: Any, r: Any) -> Any:
    u, f = p["user.weight"][i], p["film.weight"][j]
    foretold = (u * f).sum(1) + (p["user_bias.weight"][i] + p["film_bias.weight"][j])[:, 0]
    return ((foretold - r) ** 2).mean() + PENALTY * (u**2 + f**2).sum(1).mean()


LOSSES: dict[str, Callable[..., Any]] = {
    "V1": lenet,
    "V2": lstm,
    "V3": gpt,
    "V4": vae,
    "V5": physics,
    "V6": members,
    "V7": factors,
}


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def update(loss_of: Any, state: Any, *batch: Any) -> Any:
    """Adam: m and v are means of gradients and of their squares, of which what they begin with is taken out."""
    p, m, v, t = state
    loss, g = jax.value_and_grad(loss_of)(p, *batch)
    t = t + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
    rate, scale = LR / (1 - 0.9**t), 1 / (1 - 0.999**t)
    p = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v * scale) + 1e-8), p, m, v)
    return (p, m, v, t), loss


def make(name: str) -> Callable[[], float]:
    p = {key: jnp.asarray(w) for key, w in MODELS[name].weights().items()}
    batch = [jnp.asarray(x) for x in MODELS[name].batch()]
    state = [(p, jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p), jnp.zeros((), jnp.float32))]

    def step() -> float:
        state[0], loss = update(LOSSES[name], state[0], *batch)
        return float(loss)

    return step
