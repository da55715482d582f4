"""The losses of the gallery's programs in PyTorch: `python tests/golden/gallery_torch.py gallery.npz`, with PyTorch 2.13.

For each page of examples/gallery that has a twin: `<page>/loss/<column>` the losses of the first STEPS steps, on the batches
of the page, which are taken from it, and what the state_dicts of its models begin with, made with torch.manual_seed(i) for the
i-th: `<page>/weights/<i>/<key>` of the i-th and those after it that are of its form, stacked. It runs with scikit-learn on the
path.
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import func, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
STEPS = 20
Columns = dict[str, list[float]]
TWINS: dict[str, Callable[[Any], Columns]] = {}
weights: list[dict[str, np.ndarray]] = []  # of the models of a page, in the order in which it makes them


def twin(fn: Callable[[Any], Columns]) -> Callable[[Any], Columns]:
    TWINS[fn.__name__] = fn
    return fn


def new(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(len(weights))
    net = make().to(dtype)
    weights.append({key: value.detach().numpy().copy() for key, value in net.state_dict().items()})
    return net


def tensors(arrays: Any) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in (arrays if isinstance(arrays, tuple) else (arrays,))]


def trained(
    params: Iterable[torch.Tensor],
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Any],
    loss_of: Callable[..., torch.Tensor],
    clip: float | None = None,
    after: Callable[[], None] = lambda: None,
) -> list[float]:
    params, column = list(params), []
    for batch in batches:
        loss = loss_of(*tensors(batch))
        optimiser.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(params, clip)
        optimiser.step()
        after()
        column.append(loss.item())
    return column


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


@twin
def cnn(page: Any) -> Columns:
    def parts(a, b):
        return (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))

    net = new(lambda: nn.Sequential(*parts(1, 6), *parts(6, 12), nn.Flatten(), nn.Linear(48, 10)))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    return {"cross-entropy": trained(net.parameters(), optimiser, page.batches(STEPS), lambda x, y: F.cross_entropy(net(x), y))}


@twin
def char_rnn(page: Any) -> Columns:
    count, columns = len(page.LETTERS), {}
    for kind in page.KINDS:

        def parts(kind=kind):
            return {
                "embed": nn.Embedding(count, 8),
                "rnn": getattr(nn, kind)(8, 16, batch_first=True),
                "head": nn.Linear(16, count),
            }

        net = new(lambda parts=parts: nn.ModuleDict(parts()))
        optimiser = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)

        def loss(x, y, net=net):
            return F.cross_entropy(net["head"](net["rnn"](net["embed"](x))[0]).reshape(-1, count), y.reshape(-1))

        columns[kind] = trained(net.parameters(), optimiser, page.batches(STEPS), loss, clip=0.25)
    return columns


@twin
def gpt(page: Any) -> Columns:
    count, t, d = len(page.LETTERS), page.T, page.D

    def make() -> nn.Module:
        def block():
            return nn.TransformerEncoderLayer(d, 2, 2 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)

        parts = {"letters": nn.Embedding(count, d), "places": nn.Embedding(t, d)}
        parts["letters"].weight.data *= 0.2
        return nn.ModuleDict({**parts, "blocks": nn.ModuleList(block() for _ in range(2)), "norm": nn.LayerNorm(d)})

    net = new(make)
    mask = nn.Transformer.generate_square_subsequent_mask(t)
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.01)

    def rate(i):
        return (i + 1) / 11 if i < 10 else (1 + math.cos(math.pi * (i - 10) / 400)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = net["letters"](x) + net["places"](torch.arange(t))
        for block in net["blocks"]:
            h = block(h, mask, is_causal=True)
        return F.cross_entropy((net["norm"](h) @ net["letters"].weight.T).reshape(-1, count), y.reshape(-1))

    return {"cross-entropy": trained(net.parameters(), optimiser, page.batches(STEPS), loss, 1.0, schedule.step)}


@twin
def vae(page: Any) -> Columns:
    import tensorgrad

    net = new(lambda: nn.ModuleDict({"encoder": mlp(64, 24, 2 * page.CODE), "decoder": mlp(page.CODE, 24, 64)}))
    optimiser, noise = torch.optim.Adam(net.parameters(), lr=3e-3), np.random.default_rng(2)
    columns: Columns = {"pixels": [], "code": []}

    def loss(x: torch.Tensor) -> torch.Tensor:
        m, s = net["encoder"](x).chunk(2, dim=1)
        e = torch.from_numpy(tensorgrad.randn(tuple(m.shape), rng=noise).numpy())
        z = net["decoder"](m + e * (s / 2).exp())
        pixels = F.binary_cross_entropy_with_logits(z, x, reduction="sum") / len(x)
        code = 0.5 * (s.exp() + m**2 - 1 - s).sum() / len(x)
        columns["pixels"].append(pixels.item())
        columns["code"].append(code.item())
        return pixels + code

    return {"loss": trained(net.parameters(), optimiser, page.batches(STEPS), loss), **columns}


@twin
def gan(page: Any) -> Columns:
    def act():
        return nn.LeakyReLU(0.2)

    g, d = new(lambda: mlp(2, 24, 24, 2, act=act)), new(lambda: mlp(2, 24, 24, 1, act=act))
    of_g, of_d = (torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.999)) for net in (g, d))
    columns: Columns = {"discriminator": [], "generator": []}
    for x, e in page.batches(STEPS):

        def of_real(x, e):
            return (F.softplus(-d(x)) + F.softplus(d(g(e).detach()))).mean()

        columns["discriminator"] += trained(d.parameters(), of_d, [(x, e)], of_real)
        columns["generator"] += trained(g.parameters(), of_g, [e], lambda e: F.softplus(-d(g(e))).mean())
    return columns


@twin
def pinn(page: Any) -> Columns:
    net = new(lambda: mlp(2, 16, 16, 1, act=nn.Tanh), torch.float64)

    def by(y, x):
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    def loss(x: torch.Tensor, t: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        x, t = x.requires_grad_(), t.requires_grad_()
        u = net(torch.cat([x, t], 1))
        u_x = by(u, x)
        r = by(u, t) + 6 * u * u_x + by(by(u_x, x), x)
        return (r**2).mean() + ((net(torch.cat([x0, 0 * x0], 1)) - 0.5 / torch.cosh(x0 / 2) ** 2) ** 2).mean()

    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    return {"loss": trained(net.parameters(), optimiser, page.batches(STEPS), loss)}


@twin
def mixture_density(page: Any) -> Columns:
    net = new(lambda: mlp(1, 20, 3 * page.K, act=nn.Tanh), torch.float64)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, m, s = net(x).chunk(3, dim=1)
        mixture = torch.distributions.Categorical(logits=a)
        parts = torch.distributions.Normal(m, s.exp())
        return -torch.distributions.MixtureSameFamily(mixture, parts).log_prob(y.squeeze(1)).mean()

    optimiser = torch.optim.RMSprop(net.parameters(), lr=0.003)
    return {"-log density": trained(net.parameters(), optimiser, page.batches(STEPS), loss)}


@twin
def matrix_factorisation(page: Any) -> Columns:
    sizes = {"user": (page.USERS, page.D), "film": (page.FILMS, page.D), "user_bias": (page.USERS, 1)}
    net = new(lambda: nn.ModuleDict({k: nn.Embedding(*v) for k, v in {**sizes, "film_bias": (page.FILMS, 1)}.items()}))

    def loss(i: torch.Tensor, j: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        u, f = net["user"](i), net["film"](j)
        p = (u * f).sum(1) + net["user_bias"](i)[:, 0] + net["film_bias"](j)[:, 0]
        return F.mse_loss(p, r) + 0.01 * (u**2 + f**2).sum(1).mean()

    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    return {"loss": trained(net.parameters(), optimiser, page.batches(STEPS), loss)}


@twin
def triplet(page: Any) -> Columns:
    net = new(lambda: mlp(64, 24, 8))

    def loss(*images):
        return F.triplet_margin_loss(*(F.normalize(net(x)) for x in images), margin=0.5)

    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return {"triplet": trained(net.parameters(), optimiser, page.batches(STEPS), loss)}


@twin
def neural_ode(page: Any) -> Columns:
    net = new(lambda: mlp(2, 16, 2, act=nn.Tanh))

    def loss(y, true):
        return F.l1_loss(torch.stack(page.solve(lambda y: net(y**3), y, page.POINTS)), true)

    optimiser = torch.optim.RMSprop(net.parameters(), lr=3e-3)
    return {"distance": trained(net.parameters(), optimiser, page.batches(STEPS), loss)}


@twin
def gcn(page: Any) -> Columns:
    x, y, edges, values, known = (torch.from_numpy(a) for a in page.graph())
    spread = torch.sparse_coo_tensor(edges.flip(0), values[:, 0], (60, 60), check_invariants=True)
    columns = {}
    for name in ("by matrix", "by edges"):  # the same of two beginnings
        net = new(lambda: nn.ModuleDict({"first": nn.Linear(8, 16), "second": nn.Linear(16, 3)}))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02, weight_decay=5e-4)

        def loss(x: torch.Tensor, net: nn.Module = net) -> torch.Tensor:
            z = net["second"](spread @ net["first"](spread @ x).relu())
            return F.cross_entropy(z[known], y[known])

        columns[name] = trained(net.parameters(), optimiser, [x.numpy()] * STEPS, loss)
    return columns


@twin
def reinforcement(page: Any) -> Columns:
    policy, q, target = (new(lambda: mlp(2, 16, 2, act=nn.Tanh)) for _ in range(3))
    of_policy, of_q = (torch.optim.Adam(net.parameters(), lr=0.01) for net in (policy, q))
    rng = np.random.default_rng(2)
    columns: Columns = {"policy": [], "reward": [], "Q": []}

    def of_chosen(s: torch.Tensor, a: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
        return -(torch.distributions.Categorical(logits=policy(s)).log_prob(a) * returns).sum() / page.EPISODES

    def of_values(s: torch.Tensor, a: torch.Tensor, r: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        goal = r + page.GAMMA * target(after).max(1).values.detach()
        return F.huber_loss(q(s).gather(1, a[:, None])[:, 0], goal)

    for i in range(STEPS):
        states, actions, rewards = page.play(lambda s: policy(torch.from_numpy(s)).softmax(1)[:, 1].detach().numpy(), rng)
        returns = rewards[::-1].cumsum(axis=0)[::-1]
        returns = (returns - returns.mean(axis=1, keepdims=True)).ravel()
        batch = (states[:-1].reshape(-1, 2), actions.ravel(), returns)
        columns["policy"] += trained(policy.parameters(), of_policy, [batch], of_chosen)
        columns["reward"].append(float(rewards.mean()))
        if i % 10 == 0:
            target.load_state_dict(q.state_dict())
        columns["Q"] += trained(q.parameters(), of_q, [page.transitions(rng)], of_values)
    return columns


@twin
def maml(page: Any) -> Columns:
    net = new(lambda: mlp(1, 20, 20, 1, act=nn.Tanh))

    def error(theta, x, y):
        return F.mse_loss(func.functional_call(net, theta, x), y)

    def loss(*tasks: torch.Tensor) -> torch.Tensor:
        found = []
        for x, y, x_new, y_new in zip(*tasks, strict=True):
            theta = dict(net.named_parameters())
            for _ in range(2):
                gradients = torch.autograd.grad(error(theta, x, y), list(theta.values()), create_graph=True)
                theta = {name: p - page.ALPHA * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
            found.append(error(theta, x_new, y_new))
        return torch.stack(found).mean()

    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    return {"after two steps": trained(net.parameters(), optimiser, page.batches(STEPS), loss)}


@twin
def many_at_once(page: Any) -> Columns:
    *nets, single = (new(lambda: mlp(2, 8, 2, act=nn.Tanh)) for _ in range(page.MEMBERS + 1))
    of_nets = [torch.optim.Adam(net.parameters(), lr=0.01) for net in nets]
    of_single = torch.optim.SGD(single.parameters(), lr=0.5)

    def error(params, x, y):
        return F.cross_entropy(func.functional_call(single, params, x[None]), y[None])

    columns: Columns = {"best of 50": [], "mean of 50": [], "worst of 50": [], "each clipped": []}
    for batch in page.batches(STEPS):
        x, y = tensors(batch)
        members = [
            trained(net.parameters(), of, [batch], lambda x, y, net=net: F.cross_entropy(net(x), y))[0]
            for net, of in zip(nets, of_nets, strict=True)
        ]
        params = {name: p.detach() for name, p in single.named_parameters()}
        gradients, errors = func.vmap(func.grad_and_value(error), (None, 0, 0))(params, x, y)
        norm = sum((g.flatten(1) ** 2).sum(1) for g in gradients.values()).sqrt()
        for name, p in single.named_parameters():
            p.grad = torch.tensordot((page.LARGEST / norm).clamp(max=1), gradients[name], 1) / len(x)
        of_single.step()
        figures = (min(members), sum(members) / len(members), max(members), errors.mean().item())
        for column, value in zip(columns.values(), figures, strict=True):
            column.append(value)
    return columns


@twin
def newton(page: Any) -> Columns:
    X, t = (torch.from_numpy(a) for a in page.points())

    def loss(p):
        return F.softplus(-t * (X @ p[:-1] + p[-1])).sum() + 0.5 * (p[:-1] ** 2).sum()

    p, column = torch.zeros(6, dtype=torch.float64), []
    for _ in range(STEPS):
        column.append(loss(p).item())
        p = p - torch.linalg.solve(func.hessian(loss)(p), func.grad(loss)(p))
    return {"Newton": column}


@twin
def own_parts(page: Any) -> Columns:
    class Sign(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.sign())
        backward = staticmethod(lambda ctx, g: g)

    class SignLinear(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(0.1 * torch.randn(inputs, outputs))  # as the page has it, not as nn.Linear
            self.scale, self.bias = nn.Parameter(torch.full((outputs,), inputs**-0.5)), nn.Parameter(torch.zeros(outputs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ Sign.apply(self.weight) * self.scale + self.bias

    net = new(lambda: nn.Sequential(SignLinear(64, 24), nn.ReLU(), SignLinear(24, 10)))
    means, column = [torch.zeros_like(p) for p in net.parameters()], []
    for batch in page.batches(STEPS):
        x, y = tensors(batch)
        net.zero_grad()
        parts = [F.cross_entropy(net(x[i]), y[i]) / 4 for i in range(4)]
        for part in parts:
            part.backward()
        with torch.no_grad():
            for p, m in zip(net.parameters(), means, strict=True):
                p -= 1e-3 * ((0.9 * m + (1 - 0.9) * p.grad).sign() + 0.01 * p)
                m.mul_(0.99).add_(p.grad, alpha=1 - 0.99)
        column.append(sum(parts).item())
    return {"cross-entropy": column}


@twin
def half_precision(page: Any) -> Columns:
    columns: Columns = {}
    for dtype in (torch.float32, torch.float16):
        net = new(lambda: nn.Sequential(nn.Linear(64, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 10)))
        net = net.to(dtype)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

        def loss(x, y, net=net, dtype=dtype):
            return F.cross_entropy(net(x.to(dtype)), y)

        columns[str(dtype).split(".")[1]] = trained(net.parameters(), optimiser, page.batches(STEPS), loss)
    return columns


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "gallery")]
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    for name, fn in TWINS.items():
        weights.clear()
        columns = fn(importlib.import_module(name))
        for column, values in columns.items():
            arrays[f"{name}/loss/{column}"] = np.array(values)

        def form(i):
            return [(key, value.shape) for key, value in weights[i].items()]

        first = [i for i in range(len(weights)) if not i or form(i) != form(i - 1)]
        for i, end in zip(first, [*first, len(weights)][1:], strict=True):
            for key in weights[i]:
                arrays[f"{name}/weights/{i}/{key}"] = np.stack([state[key] for state in weights[i:end]])
        print(f"{name:22}", {column: round(values[-1], 4) for column, values in columns.items()})
    np.savez_compressed(sys.argv[1], **arrays)
