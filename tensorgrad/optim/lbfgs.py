"""L-BFGS: a quasi-Newton method for full-batch losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, namespace, on
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.form import FLOAT_ARRAY, Maybe
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError
from tensorgrad.optim.arguments import COUNT, Limits
from tensorgrad.optim.group import ParamGroup
from tensorgrad.optim.optimiser import Optimiser

DECREASE, CURVATURE = 1e-4, 0.9  # c1 and c2 of the Wolfe conditions for quasi-Newton methods (Nocedal and Wright)


class Point(NamedTuple):
    """A point of a line search: the distance t, the loss, its slope, the gradient, the parameters."""

    t: float
    f: float
    slope: float
    g: Any
    x: Any


class LBFGS(Optimiser):
    """Limited-memory BFGS (Nocedal and Wright, Numerical Optimization, 2nd edition 2006, algorithms 7.4 and 7.5), with a line
    search for the strong Wolfe conditions (3.5 and 3.6) or steps of fixed length. `optimiser.step(closure)`::

        def closure():
            optimiser.zero_grad()
            loss = F.cross_entropy(model(X), y)
            loss.backward()
            return loss

    params             a list of Tensors, one Tensor, or a Module; one group
    lr                 the length of a step; with a line search, its first trial
    max_iter           maximum number of iterations per step()
    max_eval           maximum number of closure calls per step(); None for 1.25 max_iter
    tolerance_grad     stop when no element of the gradient is larger than this
    tolerance_change   stop when neither the loss nor an element of the parameters changes by more than this
    history_size       number of past iterations that approximate the curvature
    line_search        "strong_wolfe", or None for steps of length lr (the first: lr times min(1, 1 / sum |g|))
    maximize           ascend instead of descend

    d = -H g, H approximating the inverse Hessian from the last pairs s = x - x', y = g - g';   p = p + t d

    It computes in float64 and rounds the result. Its step() branches on values, so it cannot be compiled, but the closure may
    call a compiled step that returns the loss and computes gradients. A non-finite loss counts as a step that is too long.
    """

    limits = {  # noqa: RUF012
        "max_iter": COUNT,
        "max_eval": COUNT,
        "history_size": COUNT,
        "tolerance_grad": Limits(),
        "tolerance_change": Limits(),
    }

    state_form: ClassVar[Mapping[str, Any]] = {
        **Optimiser.state_form,
        "memory": {"s": [FLOAT_ARRAY], "y": [FLOAT_ARRAY], "x": Maybe(FLOAT_ARRAY), "g": Maybe(FLOAT_ARRAY)},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search: str | None = "strong_wolfe",
        maximize: bool = False,
    ) -> None:
        self.memory: dict[str, Any] = {"s": [], "y": [], "x": None, "g": None}
        super().__init__(
            params,
            lr,
            maximize,
            max_iter=max_iter,
            max_eval=max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search=line_search,
        )

    @classmethod
    def checked_one(cls, name: str, value: Any, like: Any) -> Any:
        if name == "line_search":
            if value is not None and not (isinstance(value, str) and value == "strong_wolfe"):
                raise ArgumentError(f"{cls.__name__}: line_search must be 'strong_wolfe' or None, got {value!r}")
            return value
        if name == "max_eval" and value is None:
            return value
        return super().checked_one(name, value, like)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Set the parameters, once: L-BFGS has one group."""
        if self.param_groups:
            raise ArgumentError(
                f"{type(self).__name__}: supports only one parameter group, all parameters share the search direction"
            )
        super().add_param_group(group)

    # Iterations

    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """Run up to max_iter iterations. The closure clears the gradients, computes the loss, calls backward() and returns the
        loss.

        Returns the initial loss.
        """
        name = type(self).__name__
        if state.trace is not None:
            state.trace.forbid(f"{name}.step()")
        if not callable(closure):
            raise TypeError(f"{name}: step needs a closure: optimiser.step(closure), which computes the loss and its gradients")
        self.evaluations = 0
        group = self.param_groups[0]
        point = first = self.evaluated(closure, 0.0, None, None)
        limit = group["max_eval"] or group["max_iter"] * 5 // 4
        self.count(())
        for _ in range(group["max_iter"]):
            if not math.isfinite(point.f) or max_abs(point.g) <= group["tolerance_grad"]:
                break
            d = self.direction(point)
            slope = float(point.g @ d)
            if slope > -group["tolerance_change"]:
                break
            start = group["lr"] * (1.0 if self.memory["s"] else min(1.0, 1.0 / float(abs(point.g).sum())))
            self.memory.update(x=point.x, g=point.g)
            before, point = point, self.searched(closure, point._replace(t=0.0, slope=slope), d, start, limit)
            if self.evaluations >= limit or max_abs(point.x - before.x) <= group["tolerance_change"]:
                break
            if abs(point.f - before.f) < group["tolerance_change"]:
                break
        self.write(point.x)
        return first.f if not group["maximize"] else -first.f

    def direction(self, point: Point) -> Array:
        """-H g by the two loops of algorithm 7.4; the last move is added to the history if the curvature along it is
        positive.
        """
        memory, size = self.memory, self.param_groups[0]["history_size"]
        if memory["x"] is not None:
            s, y = point.x - memory["x"], point.g - memory["g"]
            if float(y @ s) > 1e-10:
                memory["s"], memory["y"] = [*memory["s"], s][-size:], [*memory["y"], y][-size:]
        pairs = list(zip(memory["s"], memory["y"], strict=True))
        q = -point.g
        coefficients = []
        for s, y in reversed(pairs):
            coefficients.append(float(s @ q) / float(y @ s))
            q = q - coefficients[-1] * y
        if pairs:
            s, y = pairs[-1]
            q = q * (float(s @ y) / float(y @ y))
        for s, y in pairs:
            q = q + (coefficients.pop() - float(y @ q) / float(y @ s)) * s
        return q

    def searched(self, closure: Callable[[], Any], start: Point, d: Array, t: float, limit: int) -> Point:
        """The point at the end of an iteration."""
        if self.param_groups[0]["line_search"] is None:
            return self.evaluated(closure, t, start, d)

        def phi(t: float) -> Point:
            return self.evaluated(closure, t, start, d)

        change = self.param_groups[0]["tolerance_change"] / max(max_abs(d), 1e-300)
        return strong_wolfe(phi, start, t, max(limit - self.evaluations, 1), change)

    def evaluated(self, closure: Callable[[], Any], t: float, start: Point | None, d: Array | None) -> Point:
        """The point at x + t d; without start and d, the current parameters."""
        if start is not None and d is not None:
            self.write(start.x + t * d)
        loss = closure()
        self.evaluations += 1
        f = loss.item() if isinstance(loss, Tensor) else loss
        if isinstance(f, bool) or not isinstance(f, (int, float)):
            raise TypeError(f"{type(self).__name__}: the closure must return the loss, a 0-d Tensor, got {type(loss).__name__}")
        self.missing()
        if self.scattered():
            self.gather()
        sign = -1.0 if self.param_groups[0]["maximize"] else 1.0
        flat_params, gradients = [], []
        for block in self.blocks:
            with on(block.flat):
                xp = namespace([block.flat])
                flat_params.append(block.flat.astype(np.float64))
                for i, (begin, end) in zip(block.indices, block.parts, strict=True):
                    g = self.params[i]._grad
                    gradients.append(xp.zeros(end - begin) if g is None else g._data.reshape(-1).astype(np.float64))
        xp = namespace(flat_params)
        x, g = xp.concatenate(flat_params), sign * xp.concatenate(gradients)
        if ranks.group is not None:
            combined = xp.concatenate([g, xp.asarray([f], g.dtype)])
            combined = combined * ranks.share if ranks.share else xp.zeros_like(combined)
            ranks.all_reduce(combined)
            g, f = combined[:-1], float(combined[-1])
        return Point(t, sign * float(f), 0.0 if d is None else float(g @ d), g, x)

    def write(self, x: Array) -> None:
        """Set the parameters."""
        start = 0
        for block in self.blocks:
            with on(block.flat):
                block.flat[...] = x[start : start + block.flat.size].astype(block.flat.dtype)
            writes.wrote(block.flat)
            start += block.flat.size

    # State

    def __copy__(self) -> Any:
        clone = super().__copy__()
        clone.memory = dict(self.memory)  # the arrays in it are never changed
        return clone

    def state_dict(self) -> dict[str, Any]:
        """The base class's dict, and `memory`: the last s and y, and the start of the last iteration."""
        memory = {
            k: [copied(a) for a in v] if isinstance(v, list) else v if v is None else copied(v) for k, v in self.memory.items()
        }
        return {**super().state_dict(), "memory": memory}

    def array_misfits(self, values: Mapping[str, Any]) -> list[str]:
        n, memory = sum(p.size for p in self.params), values["memory"]
        arrays = [*memory["s"], *memory["y"], *[v for v in (memory["x"], memory["g"]) if v is not None]]
        reasons = [f"its memory has shape {a.shape}, expected ({n},)" for a in arrays if a.shape != (n,)]
        if len(memory["s"]) != len(memory["y"]) or (memory["x"] is None) != (memory["g"] is None):
            reasons.append("its memory has different numbers of s and y, or only one of x and g")
        return super().array_misfits(values) + reasons

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Load a dict of `state_dict`, as the base class does."""
        super().load_state_dict(values)
        memory = values["memory"]
        self.memory = {
            k: [copied(a) for a in v] if isinstance(v, list) else v if v is None else copied(v) for k, v in memory.items()
        }

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        """Empty: its step is not an elementwise formula."""
        return {}


def max_abs(a: Array) -> float:
    return float(abs(a).max(initial=0.0))


def strong_wolfe(phi: Callable[[float], Point], start: Point, t: float, evaluations: int, change: float) -> Point:
    """A point that satisfies the strong Wolfe conditions (Nocedal and Wright, algorithm 3.5), or the best after `evaluations`
    calls or when the interval is shorter than `change`.
    """

    def falls(point: Point) -> bool:
        return point.f <= start.f + DECREASE * point.t * start.slope  # False for NaN

    def is_flat(point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * start.slope

    before = start
    for k in range(evaluations):
        point = phi(t)
        if not falls(point) or (k and point.f >= before.f):
            return zoom(phi, before, point, falls, is_flat, evaluations - k - 1, change)
        if is_flat(point):
            return point
        if point.slope >= 0:
            return zoom(phi, point, before, falls, is_flat, evaluations - k - 1, change)
        before, t = point, 2 * t
    return before


def zoom(
    phi: Callable[[float], Point],
    low: Point,
    high: Point,
    falls: Callable[[Point], bool],
    is_flat: Callable[[Point], bool],
    evaluations: int,
    change: float,
) -> Point:
    """Algorithm 3.6: search between two points, the first of which is the best so far."""
    for _ in range(evaluations):
        if abs(high.t - low.t) <= change:
            break
        point = phi(between(low, high))
        if not falls(point) or point.f >= low.f:
            high = point
            continue
        if is_flat(point):
            return point
        if point.slope * (high.t - low.t) >= 0:
            high = low
        low = point
    return low


def between(a: Point, b: Point) -> float:
    """The minimiser of the cubic through two points (equation 3.59); the midpoint if there is none, or if it is near an end."""
    middle = (a.t + b.t) / 2
    if not (math.isfinite(b.f) and math.isfinite(b.slope)):
        return middle
    d1 = a.slope + b.slope - 3 * (a.f - b.f) / (a.t - b.t)
    root = d1 * d1 - a.slope * b.slope
    if not 0 <= root < math.inf:
        return middle
    d2 = math.copysign(math.sqrt(root), b.t - a.t)
    denominator = b.slope - a.slope + 2 * d2
    minimum = b.t - (b.t - a.t) * (b.slope + d2 - d1) / denominator if denominator else middle
    edge = 0.1 * abs(b.t - a.t)
    return minimum if min(a.t, b.t) + edge <= minimum <= max(a.t, b.t) - edge else middle
