"""What the models are like: their weights, by name and shape, and their batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LR = 1e-3
LAYERS, WIDTH, HEADS, CONTEXT, LETTERS = 4, 128, 4, 64, 64
CODE, MEMBERS = 4, 50
USERS, FILMS, FACTORS, PENALTY = 943, 1682, 16, 0.01
DIFFUSION = 0.1  # u_t = DIFFUSION u_xx, with u(x, 0) = sin(pi x)

Shapes = dict[str, tuple[int, ...]]
Batch = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Model:
    """title;  shapes: of the weights, in PyTorch's layout;  batch: draws one."""

    title: str
    shapes: Shapes
    draw: Callable[[np.random.Generator], Batch]

    def weights(self) -> dict[str, np.ndarray]:
        """Uniform within 1/sqrt(inputs), as PyTorch has it; those of norms 1, tables small."""
        rng, found = np.random.default_rng(0), {}
        for name, shape in self.shapes.items():
            if "norm" in name:
                found[name] = np.full(shape, float(name.endswith("weight")), np.float32)
                continue
            inputs = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
            found[name] = rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(max(inputs, 4) ** -0.5)
        return found

    def batch(self) -> Batch:
        return self.draw(np.random.default_rng(1))


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str) -> Shapes:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def block(i: int) -> Shapes:
    parts = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH), "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    found = norm(f"blocks.{i}.norm1") | norm(f"blocks.{i}.norm2")
    for part, sizes in parts.items():
        found |= linear(f"blocks.{i}.{part}", *sizes)
    return found


def images(rng: np.random.Generator) -> Batch:
    return rng.random((64, 1, 28, 28), np.float32), rng.integers(10, size=64)


def letters(rows: int) -> Callable[[np.random.Generator], Batch]:
    """Letters, and those after each of them."""

    def draw(rng: np.random.Generator) -> Batch:
        text = rng.integers(LETTERS, size=(rows, CONTEXT + 1))
        return text[:, :-1].copy(), text[:, 1:].copy()

    return draw


def pixels(rng: np.random.Generator) -> Batch:
    """Images, and the noise of their codes."""
    return rng.random((64, 64), np.float32), rng.normal(size=(64, CODE)).astype("f")


def points(rng: np.random.Generator) -> Batch:
    """x and t inside, x at the beginning."""
    return tuple(rng.random((n, 1), np.float32) for n in (256, 256, 64))


def features(rng: np.random.Generator) -> Batch:
    return rng.normal(size=(64, 64)).astype("f"), rng.integers(10, size=64)


def ratings(rng: np.random.Generator) -> Batch:
    return rng.integers(USERS, size=256), rng.integers(FILMS, size=256), rng.uniform(1, 5, 256).astype("f")


MODELS = {
    "V1": Model(
        "LeNet, 28x28, batch 64",
        {"0.weight": (6, 1, 5, 5), "0.bias": (6,), "3.weight": (16, 6, 5, 5), "3.bias": (16,)}
        | linear("7", 400, 120)
        | linear("9", 120, 84)
        | linear("11", 84, 10),
        images,
    ),
    "V2": Model(
        f"LSTM, {WIDTH} wide, {CONTEXT} steps, batch 32",
        {"embed.weight": (LETTERS, WIDTH)}
        | {f"rnn.weight_{of}_l0": (4 * WIDTH, WIDTH) for of in ("ih", "hh")}
        | {f"rnn.bias_{of}_l0": (4 * WIDTH,) for of in ("ih", "hh")}
        | linear("head", WIDTH, LETTERS),
        letters(32),
    ),
    "V3": Model(
        f"GPT, {LAYERS} layers, {WIDTH} wide, {HEADS} heads, context {CONTEXT}, batch 16",
        {"letters.weight": (LETTERS, WIDTH), "places.weight": (CONTEXT, WIDTH)}
        | {name: shape for i in range(LAYERS) for name, shape in block(i).items()}
        | norm("norm"),
        letters(16),
    ),
    "V4": Model(
        "VAE, 64-24-4-24-64, batch 64",
        linear("encoder.0", 64, 24)
        | linear("encoder.2", 24, 2 * CODE)
        | linear("decoder.0", CODE, 24)
        | linear("decoder.2", 24, 64),
        pixels,
    ),
    "V5": Model(
        "physics-informed, 2-32-32-1, second derivatives, 256 points",
        linear("0", 2, 32) | linear("2", 32, 32) | linear("4", 32, 1),
        points,
    ),
    "V6": Model(
        f"{MEMBERS} networks 64-32-10 as one, batch 64",
        {name: (MEMBERS, *shape) for part in (linear("0", 64, 32), linear("2", 32, 10)) for name, shape in part.items()},
        features,
    ),
    "V7": Model(
        f"matrix factorisation, {USERS} x {FILMS}, {FACTORS} factors, batch 256",
        {
            "user.weight": (USERS, FACTORS),
            "film.weight": (FILMS, FACTORS),
            "user_bias.weight": (USERS, 1),
            "film_bias.weight": (FILMS, 1),
        },
        ratings,
    ),
}
