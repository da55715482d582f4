"""Chains as steps of training have them, to be run as CUDA kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.tensor import Tensor
from tensorgrad.kernels.chain import Chain, Operand, Ref, Step
from tensorgrad.kernels.cuda import launch
from tensorgrad.optim import SGD, Adam
from tests import kinds

Shared = tuple[tuple[int, int], ...]


def chain(layouts: str, formula: Callable[..., Sequence[Any]], dtypes: str = "float32") -> Chain:
    """The chain of a formula of operands of these layouts, all of one dtype or each of its own."""
    found = layouts.split()
    each = dtypes.split() * len(found) if " " not in dtypes else dtypes.split()
    return Chain.of(formula, [Operand(layout, dtype) for layout, dtype in zip(found, each, strict=True)])


def with_sums(of: Chain, *registers: int) -> Chain:
    """The chain with the sums over rows of these registers as further results."""
    return Chain(of.operands, of.steps, (*of.results, *((r, "sum") for r in registers)))


def optimiser(kind: Any, **settings: Any) -> tuple[Chain, Shared]:
    """What an optimiser does to parameters and its state."""
    made = kind([Tensor(np.ones(3, np.float32), True)], **settings)
    kernel = made.kernel(made.blocks[0])
    return kernel.chain, kernel.shared


def mask_and_bias_gradient(dtype: str) -> Chain:
    """dz = g where y > 0, and its sum over rows."""
    full = Operand("full", dtype)
    return Chain((full, full), (Step("relu_grad", (Ref(0), Ref(1)), dtype),), ((2, "full"), (2, "sum")))


NORMALISED = chain("full column column row row", lambda x, m, r, w, b: ((x - m) * r, (x - m) * r * w + b))
NORMALISED_GRAD = chain("full full column column", lambda g, x, m, r: (g * ((x - m) * r),))

CHAINS: dict[str, tuple[Chain, Shared]] = {
    "bias": (chain("full row", lambda x, b: (x + b,)), ((0, 0),)),
    "bias relu": (chain("full row", lambda x, b: (np.maximum(x + b, 0),)), ()),
    "bias relu, float64": (chain("full row", lambda x, b: (np.maximum(x + b, 0),), "float64"), ((0, 0),)),
    "bias gelu": (chain("full row", lambda x, b: (x + b, ops.gelu.forward(np, x + b, approximate="tanh"))), ((0, 0),)),
    "bias sigmoid": (chain("full row", lambda x, b: (ops.sigmoid.forward(np, x + b),)), ()),
    "softplus": (chain("full", lambda x: (ops.softplus.forward(np, x),)), ()),
    "mask and bias gradient": (mask_and_bias_gradient("float32"), ((0, 0),)),
    "mask and bias gradient, float64": (mask_and_bias_gradient("float64"), ((0, 1),)),
    "column sum": (Chain((Operand("full", "float32"),), (), ((0, "sum"),)), ()),
    "layer norm": (NORMALISED, ((0, 0),)),
    "layer norm gradients": (with_sums(NORMALISED_GRAD, NORMALISED_GRAD.results[0][0], 0), ()),
    "dropout": (chain("full full", lambda keep, x: (np.where(keep, x * 1.25, 0),), "bool float32"), ((0, 1),)),
    "booleans": (
        chain(
            "full row column",
            lambda x, a, b: (x > a, np.logical_not((x <= b) * (x != a)), np.where(np.isnan(x) + (x == a), np.inf, -x)),
        ),
        (),
    ),
    "labels": (
        chain("full row number", lambda t, w, n: (np.where(t != -100, t % n, 0), t * w), "int64 float32 int64"),
        (),
    ),
    "clip": (chain("full number", lambda x, top: (np.clip(np.clip(x, None, top), -0.5, np.inf),)), ((0, 0),)),
    "powers": (chain("full column", lambda x, p: (x**2 + x**-1 * x**1 - x**3, abs(x) ** p, x**0)), ()),
    **{kind.__name__: optimiser(kind, lr=0.1) for kind in kinds.OPTIMISERS},
    "SGD with momentum": optimiser(SGD, lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "Adam": optimiser(Adam, lr=0.1, weight_decay=1e-2),
}


def layered() -> Chain:
    """Products with rows and columns, a mask, the sums of three registers, one of them with integers."""
    steps = (
        Step("multiply", (Ref(0), Ref(1)), "float32"),
        Step("add", (Ref(5), Ref(2)), "float32"),
        Step("relu_grad", (Ref(6), Ref(0)), "float32"),
        Step("multiply", (Ref(7), Ref(3)), "float32"),
        Step("negative", (Ref(4),), "int64"),
    )
    layouts = {"full": "float32", "row": "float32", "column": "float32", "number": "float32"}
    operands = (*(Operand(layout, dtype) for layout, dtype in layouts.items()), Operand("full", "int64"))
    return Chain(operands, steps, ((8, "full"), (8, "sum"), (0, "sum"), (9, "sum")))


KERNELS = {name: launch.CudaChain(chain, dict(shared)) for name, (chain, shared) in CHAINS.items()}


def draw(rng: np.random.Generator, name: str, shape: tuple[int, int], special: bool = False) -> list[np.ndarray[Any, Any]]:
    """Operands for a chain of this shape. special: some are NaN, infinite or zero."""
    found: list[np.ndarray[Any, Any]] = []
    shapes = {"full": shape, "row": shape[1:], "column": (shape[0], 1), "number": ()}
    for operand in CHAINS[name][0].operands:
        size = shapes[operand.layout]
        if operand.dtype == "bool":
            found.append(np.asarray(rng.random(size) < 0.5))
        elif operand.dtype == "int64":
            found.append(np.asarray(rng.choice([-100, -7, -1, 0, 1, 2, 3, 10], size)))
        elif operand.layout == "number":
            found.append(np.asarray(rng.uniform(0.1, 0.9), operand.dtype))
        else:
            values = np.asarray(rng.normal(size=size))
            if special:
                values = np.where(rng.random(size) < 0.1, rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan], size), values)
            found.append(values.astype(operand.dtype))
    if name in {kind.__name__ for kind in kinds.OPTIMISERS if kind.slots}:
        found[len(CHAINS[name][1])] = abs(found[len(CHAINS[name][1])])  # the last of its state, such as the mean of squares
    return found


def results_of(name: str, shape: tuple[int, int]) -> list[np.ndarray[Any, Any]]:
    """Arrays for the results of a chain of this shape, with nothing in them yet that could be right."""
    chain = CHAINS[name][0]
    return [
        np.full(shape if layout == "full" else shape[1:], -77 if "float" not in chain.dtype(r) else np.nan).astype(
            chain.dtype(r)
        )
        for r, layout in chain.results
    ]
