"""The models in tensorgrad, as its documentation writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor, nn, optim
from tensorgrad.nn import functional as F
from tests.benchmarks.models.shapes import (
    CODE,
    CONTEXT,
    DIFFUSION,
    FACTORS,
    FILMS,
    HEADS,
    LAYERS,
    LETTERS,
    LR,
    MEMBERS,
    MODELS,
    PENALTY,
    USERS,
    WIDTH,
    Batch,
)


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(LETTERS, WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, LETTERS)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(self.embed(x))[0])


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        n, t, _ = x.shape
        q, k, v = (part.reshape(n, t, HEADS, -1).swapaxes(1, 2) for part in self.qkv(self.norm1(x)).split(3, axis=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.swapaxes(1, 2).reshape(n, t, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Any) -> Any:
        h = self.letters(x) + self.places(np.arange(x.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.norm(h) @ self.letters.weight.T


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 2 * CODE))
        self.decoder = nn.Sequential(nn.Linear(CODE, 24), nn.ReLU(), nn.Linear(24, 64))

    def forward(self, x: Any, e: Any) -> Any:
        m, s = self.encoder(x).split(2, axis=1)
        return self.decoder(m + e * (s / 2).exp()), m, s


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.film = nn.Embedding(USERS, FACTORS), nn.Embedding(FILMS, FACTORS)
        self.user_bias, self.film_bias = nn.Embedding(USERS, 1), nn.Embedding(FILMS, 1)

    def forward(self, i: Any, j: Any) -> Any:
        u, f = self.user(i), self.film(j)
        p = (u * f).sum(axis=1) + (self.user_bias(i) + self.film_bias(j)).squeeze(1)
        return p, (u**2 + f**2).sum(axis=1).mean()


def tanh_network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def ensemble() -> nn.Module:
    return nn.Ensemble(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)) for _ in range(MEMBERS))


def of_labels(net: Any, x: Any, y: Any) -> Any:
    return F.cross_entropy(net(x), y)


def of_letters(net: Any, x: Any, y: Any) -> Any:
    return F.cross_entropy(net(x).reshape((-1, LETTERS)), y.reshape(-1))


def of_codes(net: Any, x: Any, e: Any) -> Any:
    z, m, s = net(x, e)
    code = 0.5 * (s.exp() + m**2 - 1 - s).sum()
    return (F.binary_cross_entropy_with_logits(z, x, reduction="sum") + code) / len(x)


def by(y: Tensor, x: Tensor) -> Tensor:
    return tensorgrad.grad(y.sum(), [x], create_graph=True)[0]


def of_points(net: Any, x: Any, t: Any, x0: Any) -> Any:
    x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
    u = net(tensorgrad.concatenate([x, t], axis=1))
    r = by(u, t) - DIFFUSION * by(by(u, x), x)
    begin = net(tensorgrad.concatenate([x0, 0 * x0], axis=1))
    return (r**2).mean() + ((begin - (np.pi * x0).sin()) ** 2).mean()


def of_members(net: Any, x: Any, y: Any) -> Any:
    return F.cross_entropy(net(x).reshape((-1, 10)), tensorgrad.tile(y, MEMBERS)) * MEMBERS


def of_ratings(net: Any, i: Any, j: Any, r: Any) -> Any:
    p, size = net(i, j)
    return F.mse_loss(p, r) + PENALTY * size


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any]]] = {
    "V1": (lenet, of_labels),
    "V2": (LSTM, of_letters),
    "V3": (GPT, of_letters),
    "V4": (VAE, of_codes),
    "V5": (tanh_network, of_points),
    "V6": (ensemble, of_members),
    "V7": (Factors, of_ratings),
}


def make(name: str, compiled: bool = True) -> Callable[[], float]:
    weights, batch = MODELS[name].weights(), MODELS[name].batch()
    model, loss_of = NETS[name]
    net = model()
    if name == "V6":  # the members' weights have one axis more, which is not to be transposed
        weights = {f"members.{k}": w.swapaxes(1, 2) if w.ndim == 3 else w for k, w in weights.items()}
        net.load_state_dict(weights)
    else:
        net.load_state_dict(weights, layout="torch")
    optimiser = optim.Adam(net.parameters(), lr=LR)

    def train(*batch: Any) -> Any:
        loss = loss_of(net, *batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(train) if compiled else train
    given: Batch = tuple(Tensor(x) for x in batch)  # type: ignore[misc]
    return lambda: step(*given).item()
