"""Optimisers and schedules written out from their papers, for one parameter in NumPy's float64; and what is tried of them.

Used beside tensorgrad's by test_optim_formulas.py, and by golden/peers.py, which runs PyTorch's on the same gradients; so
nothing of tensorgrad's is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

# name: the class, and its options, in tensorgrad's words. All of them at once as far as they go together.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd decay": ("SGD", {"lr": 0.1, "weight_decay": 0.3}),
    "sgd momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "sgd dampening": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.4, "weight_decay": 0.1, "maximize": True}),
    "sgd nesterov": ("SGD", {"lr": 0.1, "momentum": 0.7, "nesterov": True, "weight_decay": 0.1}),
    "adam": ("Adam", {"lr": 0.1}),
    "adam decay": ("Adam", {"lr": 0.1, "betas": (0.7, 0.8), "weight_decay": 0.3, "eps": 1e-3, "maximize": True}),
    "amsgrad": ("Adam", {"lr": 0.1, "betas": (0.5, 0.6), "amsgrad": True}),
    "adam lazy": ("Adam", {"lr": 0.1, "betas": (0.7, 0.8), "eps": 1e-14, "lazy": True}),
    "adamw": ("AdamW", {"lr": 0.1, "weight_decay": 0.2}),
    "adamw amsgrad": ("AdamW", {"lr": 0.1, "betas": (0.0, 0.5), "amsgrad": True, "maximize": True}),
    "adamw lazy": ("AdamW", {"lr": 0.1, "weight_decay": 0.2, "amsgrad": True, "maximize": True, "lazy": True}),
    "rmsprop": ("RMSprop", {"lr": 0.1}),
    "rmsprop momentum": ("RMSprop", {"lr": 0.01, "alpha": 0.8, "momentum": 0.6, "weight_decay": 0.1, "maximize": True}),
    "rmsprop centered": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "centered": True, "eps": 1e-2}),
    "rmsprop all": ("RMSprop", {"lr": 0.01, "alpha": 0.7, "momentum": 0.9, "centered": True, "eps": 1e-2}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adagrad decay": ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "eps": 1e-4, "maximize": True}),
}


def ratio(a: Any, b: Any) -> Any:
    """a / b, 0 / 0 being 0: a gradient that has always been 0 makes no step, whatever eps is."""
    with np.errstate(all="ignore"):
        return np.where(a == 0, 0.0, a / b)


def stepped(kind: str, p: Any, g: Any, t: int, s: dict[str, Any], o: dict[str, Any]) -> Any:
    """The parameter after step number t of its own, given its gradient; s is its state, o the options."""
    if o.get("lazy"):
        o = {**o, "lazy": False}
        for i in range(len(p)):
            own = s.setdefault(i, {})
            p = np.concatenate([p[:i], [stepped(kind, p[i], g[i], t, own, o) if np.any(g[i]) else p[i]], p[i + 1 :]])
        return p
    lr, decay = o["lr"], o.get("weight_decay", 0.01 if kind == "AdamW" else 0.0)
    g = -g if o.get("maximize") else g
    d = g if kind == "AdamW" else g + decay * p
    if kind == "SGD":
        momentum = o.get("momentum", 0.0)
        s["v"] = d if t == 1 else momentum * s["v"] + (1 - o.get("dampening", 0.0)) * d
        return p - lr * (d + momentum * s["v"] if o.get("nesterov") else s["v"])
    if kind in ("Adam", "AdamW"):
        b1, b2 = o.get("betas", (0.9, 0.999))
        p = p * (1 - lr * decay) if kind == "AdamW" else p
        s["m"] = b1 * s.get("m", 0) + (1 - b1) * d
        s["v"] = b2 * s.get("v", 0) + (1 - b2) * d**2
        s["w"] = np.maximum(s.get("w", 0), s["v"]) if o.get("amsgrad") else s["v"]
        return p - lr * ratio(s["m"] / (1 - b1**t), np.sqrt(s["w"] / (1 - b2**t)) + o.get("eps", 1e-8))
    if kind == "RMSprop":
        alpha = o.get("alpha", 0.99)
        s["v"] = alpha * s.get("v", 0) + (1 - alpha) * d**2
        s["a"] = alpha * s.get("a", 0) + (1 - alpha) * d
        v = s["v"] - s["a"] ** 2 if o.get("centered") else s["v"]
        s["w"] = o.get("momentum", 0.0) * s.get("w", 0) + ratio(d, np.sqrt(np.maximum(v, 0)) + o.get("eps", 1e-8))
        return p - lr * s["w"]
    s["v"] = s.get("v", 0) + d**2
    return p - lr / (1 + (t - 1) * o.get("lr_decay", 0.0)) * ratio(d, np.sqrt(s["v"]) + o.get("eps", 1e-10))


SHAPES = ((3,), (2, 2))
SECOND = {"lr": 0.03, "weight_decay": 0.05}  # what the second group has of its own


def starts() -> list[Any]:
    rng = np.random.RandomState(0)
    return [rng.normal(size=shape) for shape in SHAPES]


def gradients(steps: int = 14, scale: float = 1.0) -> Iterator[list[Any]]:
    """Of two parameters: the second one begins late, and misses one later; in one step all are 0, in two one row of each is,
    in one a part of a row. None for none."""
    rng = np.random.RandomState(1)
    for k in range(steps):
        found = [scale * rng.normal(size=shape) * (k != 5) for shape in SHAPES]
        if k in (7, 10):
            found[0][k % 3] = found[1][k % 2] = 0
        if k == 9:
            found[1][0, 1] = 0
        yield [found[0], None if k < 4 or k == 8 else found[1]]


def trained(case: str, *, grouped: bool = False, dtype: str = "float64", **of_gradients: Any) -> list[Any]:
    """Where the two parameters are at the end, each by itself. dtype: what they are rounded to after each step."""
    kind, options = CASES[case]
    each = [dict(options), {**options, **SECOND} if grouped else dict(options)]
    params: list[Any] = [p.astype(dtype).astype(np.float64) for p in starts()]
    states: list[dict[str, Any]] = [{}, {}]
    counts = [0, 0]
    for step in gradients(**of_gradients):
        for i, g in enumerate(step):
            if g is not None:
                counts[i] += 1
                g = g.astype(dtype).astype(np.float64)
                params[i] = stepped(kind, params[i], g, counts[i], states[i], each[i])
                params[i] = params[i].astype(dtype).astype(np.float64)
    return params


# Schedules: the rates of groups that begin with 0.4 and 0.1, after 0, 1, ... steps. In tensorgrad's words.
RATES = (0.4, 0.1)
COSTS = [5.0, 4, 4, 4, 4, 3, 3.5, 3, 3, 3, 3, 3, 3, 2, 2]
SCHEDULES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "lambda": ("LambdaLR", {"fn": lambda t: 1 / (1 + t)}, lambda r, t: r / (1 + t)),
    "step": ("StepLR", {"every": 3, "gamma": 0.5}, lambda r, t: r * 0.5 ** (t // 3)),
    "multistep": ("MultiStepLR", {"milestones": [2, 5], "gamma": 0.3}, lambda r, t: r * 0.3 ** ((t >= 2) + (t >= 5))),
    "exponential": ("ExponentialLR", {"gamma": 0.9}, lambda r, t: r * 0.9**t),
    "cosine": ("CosineLR", {"epochs": 14, "end": 0.05}, lambda r, t: 0.05 + (r - 0.05) * (1 + math.cos(math.pi * t / 14)) / 2),
    "restarts": (
        "CosineAnnealingWarmRestarts",
        {"first": 3, "factor": 2, "end": 0.01},
        lambda r, t: (
            0.01 + (r - 0.01) * (1 + math.cos(math.pi * (t / 3 if t < 3 else (t - 3) / 6 if t < 9 else (t - 9) / 12))) / 2
        ),
    ),
    "one cycle": ("OneCycleLR", {"top": [0.4, 0.1], "steps": 15}, lambda r, t: one_cycle(r, t, half_cosine)),
    "one cycle, straight": (
        "OneCycleLR",
        {"top": [0.4, 0.1], "steps": 15, "shape": "linear"},
        lambda r, t: one_cycle(r, t, lambda a, b, x: a + (b - a) * x),
    ),
}


def half_cosine(a: float, b: float, x: float) -> float:
    return b + (a - b) / 2 * (1 + math.cos(math.pi * x))


def one_cycle(top: float, t: int, between: Any, steps: int = 15) -> Any:
    peak, low = 0.3 * steps - 1, top / 25
    return between(low, top, t / peak) if t <= peak else between(top, low / 1e4, (t - peak) / (steps - 1 - peak))


def rosenbrock(w: Any) -> Any:
    """The banana valley, of arrays and of Tensors of any library."""
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
