"""Derivatives of a recorded program without finite differences: tangents are pushed forward through it, op by op.

For the package's ops it uses `jvp`, which is written independently of the rule under test. For user-defined ops it uses the
complex step of `forward`, f(x + i h t) = f(x) + i h f'(x) t + O(h²): with a tiny h the imaginary part is the derivative to the
last digit, because nothing is subtracted (Squire and Trapp, Using complex variables to estimate derivatives of real functions,
SIAM Review 40, 1998). This holds for analytic functions; whether a forward is one is tested with differences of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad.autograd.forward import Linearised
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.tensor import Tensor
from tensorgrad.testing.recording import Recording

STEP = 1e-20  # of the complex step, relative to the argument
STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9)  # difference steps; the complex step must agree with at least one of them
TINY = 1e-24  # a derivative this small is recomputed with a smaller step
SHARES = (1e-6, 1e-4, 1e-2)  # relative tolerances of the differences
EPS = float(np.finfo(np.float64).eps)


class NoDerivative(Exception):
    """A user-defined op whose forward does not support complex numbers, or is not analytic."""


class Exact:
    """The derivative of a recording, as a function of tangents. Raises NoDerivative if there is none."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.tried: dict[Node, bool] = {}  # user-defined ops, and whether they are at a kink
        self.linear = Linearised(recording.outputs, derive=self.derive, uses_jvp=is_package_op)

    def __call__(self, leaves: Mapping[int, Array], constants: Mapping[int, Array] | None = None) -> Array:
        """The tangents of all outputs, flattened, for tangents of leaves (and constants) by index."""
        moves: dict[Tensor, Array] = {self.recording.leaves[i]: t for i, t in leaves.items()}
        for k, t in (constants or {}).items():
            source = self.recording.sources[k]
            if source is None:
                raise NoDerivative("a number that is made of the inputs")
            moves[source] = t
        with np.errstate(all="ignore"):
            parts = self.linear(moves)
        if len(parts) == 1:
            return np.ravel(parts[0])
        return np.concatenate([np.ravel(t) for t in parts]) if parts else np.zeros(0)

    def derive(self, node: Node, y: Any, xs: Any, tangents: Any) -> Any:
        values = self.recording.node_values
        arrays = [values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
        if node not in self.tried:
            self.tried[node] = try_out(node, arrays)
        return complex_step(node, arrays, tangents)


def is_package_op(op: Op) -> bool:
    """Whether an op's jvp belongs to the package, whose tests prove it; user-defined ones are under test."""
    return type(op).__module__.startswith("tensorgrad.")


def complex_step(node: Node, arrays: list[Any], tangents: Any) -> Array:
    """The tangent of a node by the complex step of its forward."""
    ratio = largest = 0.0
    for x, t in zip(arrays, tangents, strict=True):
        if t is not None and np.size(t):
            size = np.abs(t)
            largest = max(largest, float(size.max()))
            ratio = max(ratio, float((size / np.where(np.abs(x) > 0, np.abs(x), 1.0)).max()))
    if not ratio or not math.isfinite(ratio) or not math.isfinite(largest):
        return np.zeros(node.shape) if not largest else np.full(node.shape, np.nan)
    h = 2.0 ** math.floor(math.log2(max(STEP / ratio, 1e-280 / largest)))
    result = imaginary(node, arrays, tangents, h)
    if (np.abs(result[result != 0]) < TINY).any():  # may be the O(h²) term of a derivative that is 0
        result = np.where(np.abs(imaginary(node, arrays, tangents, h / 1024)) > np.abs(result) / 2, result, 0.0)
    return result


def imaginary(node: Node, arrays: list[Any], tangents: Any, h: float) -> Array:
    """The imaginary part of a node's value, divided by h, for arguments with imaginary part h times the tangents."""
    moved = [x if t is None else x + 1j * (h * t) for x, t in zip(arrays, tangents, strict=True)]
    try:
        with strictly_complex():
            return np.imag(np.asarray(node.op.forward(np, *moved, **node.attrs))) / h
    except Exception as error:  # an op may do anything with complex numbers
        raise NoDerivative(f"{node.op.name}: forward does not support complex numbers ({error})") from error


class Agreement:
    """Collects whether slopes agree with differences at several steps, each of which suits some numbers only.

    Slopes must agree at one of the steps, to the tightest of the tolerances that rounding errors permit.
    """

    def __init__(self, slope: Array) -> None:
        self.largest_slope = np.abs(slope)
        self.decided = np.zeros((len(SHARES), *slope.shape), bool)  # tolerances to which differences were known
        self.agreed = np.zeros((len(SHARES), *slope.shape), bool)  # and agreed

    def add(self, difference: Array, slope: Array, noise: Array, low: Array | None = None, high: Array | None = None) -> None:
        """Add differences at one step, with the expected slope, their rounding error, and the one-sided slopes."""
        self.largest_slope = np.fmax(
            self.largest_slope, np.abs(difference)
        )  # also of larger steps: smaller ones tend to a slope of 0
        for n, share in enumerate(SHARES):
            slack = share * self.largest_slope + noise
            decided = np.isfinite(difference) & (noise <= share * self.largest_slope)
            agrees = np.abs(difference - slope) <= slack
            if low is not None and high is not None:
                agrees |= (low - slack <= slope) & (slope <= high + slack)
            self.decided[n] |= decided
            self.agreed[n] |= decided & agrees

    @property
    def is_complete(self) -> bool:
        """Whether all agree to the tightest tolerance."""
        return bool(self.agreed[0].all())

    @property
    def is_agreed(self) -> bool:
        """Whether each agrees to the tightest tolerance that could be tested; untestable ones count as agreeing."""
        first = np.argmax(self.decided, axis=0)
        return bool((np.take_along_axis(self.agreed, first[None], 0)[0] | ~self.decided.any(0)).all())


def try_out(node: Node, arrays: list[Any]) -> bool:
    """Raise NoDerivative unless differences of the node's forward agree with its complex step, for each argument.

    At a kink the slope must lie between the one-sided slopes. Returns whether there is a kink.
    """
    rng, kinks = np.random.default_rng(0), False
    for i, a in enumerate(arrays):
        if is_floating(getattr(a, "dtype", np.dtype(bool))):
            moves: list[Any] = [None] * len(arrays)
            moves[i] = rng.uniform(0.5, 1.5, a.shape) * rng.choice([-1.0, 1.0], a.shape) * np.where(a != 0, np.abs(a), 1.0)
            kinks |= try_one(node, arrays, moves)
    return kinks


def try_one(node: Node, arrays: list[Any], moves: list[Any]) -> bool:
    slope = complex_step(node, arrays, moves)

    def value(e: float) -> Array:
        moved = [a if t is None else a + e * t for a, t in zip(arrays, moves, strict=True)]
        try:
            return np.asarray(node.op.forward(np, *moved, **node.attrs))
        except Exception:  # outside of its domain
            return np.full(node.shape, np.nan)

    with np.errstate(all="ignore"):
        here, smooth, either = value(0.0), Agreement(slope), Agreement(slope)
        for e in STEPS:
            up, down = value(e), value(-e)
            noise = 64 * EPS * np.maximum(np.abs(here), np.maximum(np.abs(up), np.abs(down))) / e
            right, left, central = (up - here) / e, (here - down) / e, (up - down) / (2 * e)
            right, left = np.where(np.isnan(right), left, right), np.where(np.isnan(left), right, left)
            central = np.where(np.isnan(central), right, central)
            smooth.add(central, slope, noise)
            either.add(central, slope, noise, np.minimum(left, right), np.maximum(left, right))
    if not either.is_agreed:
        raise NoDerivative(f"{node.op.name}: the complex step of forward is not its slope")
    return not smooth.is_agreed


@contextmanager
def strictly_complex() -> Iterator[None]:
    """Discarding an imaginary part is an error, infinities are not."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        yield
