"""scikit-learn's training of multi-layer perceptrons: optimisers, batches, L-BFGS.

Equal `random_state` gives equal training, up to rounding. The formulas are from the user guide and the sources it names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor, data, nn, optim
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, put
from tensorgrad.core.op import Value
from tensorgrad.errors import MissingDependencyError
from tensorgrad.ops.sparse import is_sparse


class Adam(optim.Adam):
    """Adam in the form that ends section 2 of Kingma and Ba 2015: eps is added to sqrt(v), and not to sqrt(v/(1 - b2^t)).

    p = p - lr sqrt(1 - b2^t)/(1 - b1^t) m / (sqrt(v) + eps)          at step t = 1, 2, ...
    """

    def numbers(self, group: optim.ParamGroup, t: int) -> dict[str, float]:
        numbers = super().numbers(group, t)
        return {**numbers, "rate": numbers["rate"] / numbers["root"], "root": 1.0}


class SGD(optim.Optimiser):
    """Gradient descent whose velocity includes the learning rate of each step (that of optim.SGD is scaled by the current
    rate).

    v = momentum v - lr g;   p = p + v   (nesterov: p = p + momentum v - lr g)
    """

    slots = ("velocity",)

    def __init__(self, params: Any, lr: float, momentum: float = 0.9, nesterov: bool = True) -> None:
        super().__init__(params, lr, momentum=momentum, nesterov=nesterov)

    def numbers(self, group: optim.ParamGroup, t: int) -> dict[str, float]:
        return {"lr": group["lr"], "momentum": group["momentum"]}

    def bounds(self, group: optim.ParamGroup, tiny: float) -> dict[str, float]:
        return {"velocity": tiny * 2**26}

    def update(self, group: optim.ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        step = numbers["lr"] * g
        v = numbers["momentum"] * state[0] - step
        return p + (numbers["momentum"] * v - step if group["nesterov"] else v), v


class EachAdam(Adam):
    """Adam with a rate and a weight decay for each element, in arrays beside its state, because parameters of several networks
    are concatenated. Set by the caller: rate is lr sqrt(1 - b2^t)/(1 - b1^t), decay adds decay p to the gradient.
    """

    def slots_of(self, group: optim.ParamGroup) -> tuple[str, ...]:
        return (*super().slots_of(group), "rate", "decay")

    def rate(self, lr: float, t: int) -> float:
        """The rate of one network at step t = 1, 2, ..."""
        group: Any = {**self.param_groups[0], "lr": lr}  # numbers that have been checked
        return self.numbers(group, t)["rate"]

    def update(self, group: optim.ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        *slots, rate, decay = state
        return *super().update(group, p, g + decay * p, *slots, **{**numbers, "rate": rate}), rate, decay


class EachSGD(SGD):
    """SGD with a rate and a weight decay for each element, like EachAdam."""

    def slots_of(self, group: optim.ParamGroup) -> tuple[str, ...]:
        return (*super().slots_of(group), "rate", "decay")

    def rate(self, lr: float, t: int) -> float:
        """The rate, which is constant."""
        return lr

    def update(self, group: optim.ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        velocity, rate, decay = state
        return *super().update(group, p, g + decay * p, velocity, **{**numbers, "lr": rate}), rate, decay


class Batches(data.DataLoader):
    """Samples in scikit-learn's order: each epoch shuffles the order of the one before, with `random_state`."""

    def __init__(self, *arrays: Any, random_state: np.random.RandomState, **options: Any) -> None:
        super().__init__(*arrays, shuffle=True, rng=0, **options)
        self.random_state, self.order = random_state, np.arange(self.samples)

    def next_order(self) -> Array | None:
        self.order = self.order[self.random_state.permutation(self.samples)]
        return self.order if self.batch_size < self.samples else None  # irrelevant in a batch of all samples


def lbfgs(
    module: nn.Module,
    loss: Callable[..., Any],
    batch: tuple[Array, ...],
    l2: float,
    compile: bool,
    on_iteration: Callable[[float], None],
    **options: Any,
) -> Any:
    """Minimise the loss over all samples at once by L-BFGS-B (scipy.optimize.minimize); sets the module's parameters.

    batch          X, y, and optionally weights
    l2             adds (l2 / m) sum of w², w being the elements of parameters with two axes, m the sum of the weights
    on_iteration   called with the cost after each iteration
    options        for SciPy's L-BFGS-B

    Returns SciPy's OptimizeResult. Raises MissingDependencyError without SciPy.
    """
    try:
        from scipy.optimize import OptimizeResult, minimize  # scikit-learn depends on it
    except ImportError:
        raise MissingDependencyError("lbfgs: needs SciPy, which comes with scikit-learn: pip install scikit-learn") from None

    params = list(module.parameters())
    ends = np.cumsum([p.size for p in params])[:-1]

    sparse = batch[:1] if is_sparse(batch[0]) else ()  # constant, so steps read it from outside

    def step(*args: Any) -> tuple[Tensor, Any]:
        x, y, w = (*sparse, *args, None)[:3]
        count: Any = len(y) if w is None else w.sum()
        cost = loss(module(x), y) if w is None else (loss(module(x), y, reduction="none") * w).sum() / count
        cost = cost + l2 / count * sum((p * p).sum() for p in params if p.ndim > 1)
        return cost, tensorgrad.grad(cost, params)

    run = tensorgrad.compile(step) if compile else step

    def evaluate(values: Array) -> tuple[float, Array]:
        set_parameters(values)
        cost, gradients = run(*map(Tensor, batch[len(sparse) :]))
        return cost.item(), np.concatenate([g.numpy().ravel() for g in gradients]).astype(np.float64)

    def set_parameters(values: Array) -> None:
        for p, part in zip(params, np.split(values, ends), strict=True):
            put(p.data, part.reshape(p.shape).astype(p.dtype))
            writes.wrote(p.data)

    def report(intermediate_result: OptimizeResult) -> None:
        on_iteration(float(intermediate_result.fun))

    start = np.concatenate([p.numpy().ravel() for p in params]).astype(np.float64)
    result = minimize(evaluate, start, jac=True, method="L-BFGS-B", callback=report, options=options)
    set_parameters(result.x)
    return result


def random_state(value: Any) -> np.random.RandomState:
    """scikit-learn's generator for `random_state`; for a Generator, one that shares its bit generator."""
    from sklearn.utils import check_random_state

    if isinstance(value, np.random.Generator):
        return np.random.RandomState(value.bit_generator)
    state: np.random.RandomState = check_random_state(value)
    return state


def glorot(layers: list[nn.Linear], activations: list[Any], rng: np.random.RandomState) -> None:
    """Draw the weights and biases of linear layers as scikit-learn does, in its order, given the activations after them.

    U(-a, a) with a = sqrt(6 / (in + out)), or sqrt(2 / (in + out)) for logistic activations (Glorot and Bengio 2010).
    """
    for layer, activation in zip(layers, activations, strict=True):
        bound = math.sqrt((2.0 if activation == "logistic" else 6.0) / sum(layer.weight.shape))
        for parameter in (layer.weight, layer.bias):
            assert parameter is not None
            parameter.data[...] = rng.uniform(-bound, bound, parameter.shape)
