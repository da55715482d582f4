"""A problem at and near one point: its recording and the derivatives of that.

The recorded program is differentiated forward, op by op (exact.py). This is the derivative of the function if everything that
depends on the inputs is recorded. Values that were taken out of the graph are captured as constants; a constant that changes
when the inputs move gets a tangent from differences of it, so that nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor
from tensorgrad.testing.exact import Agreement, Exact, NoDerivative, is_package_op
from tensorgrad.testing.problem import Problem
from tensorgrad.testing.recording import Recording, equal_values, replay
from tensorgrad.testing.slopes import EPS, units

Moves = Mapping[int, Array]  # directions, by the index of the input

STEPS = (1e-3, 1e-5, 1e-7, 1e-9, 1e-11, 1e-13)  # of all inputs, relative to each
FAR, *APPROACH = 1e-6, 1e-9, 1e-12, 2e-12  # distances of slopes that show a kink; the last two tell it from rounding
# Ops of the package without kinks, jumps or ends of the domain: most ops of networks
SMOOTH = frozenset([
    "add", "broadcast_to", "concatenate", "cos", "div", "einsum", "erf", "exp", "expm1", "fold", "gather", "gelu",
    "getitem", "linear", "linear_sigmoid", "linear_tanh", "log_softmax", "logsigmoid", "logsumexp", "lookup", "matmul",
    "mean", "mul", "mul_grad", "neg", "nll_loss",
    "reshape", "sigmoid", "sigmoid_cross_entropy", "sigmoid_grad", "silu", "sin", "sinh",
    "softmax", "softmax_cross_entropy", "softmax_cross_entropy_grad", "softplus", "square", "sub", "sum", "sum_to", "tanh",
    "tanh_grad", "transpose", "windows",
])  # fmt: skip
H = 1e-3  # step of differences of values
LEAST = 1e-200  # by which a 0 is moved
LEFT_OVER = 1e-6  # relative tolerance for the tangent of a moving constant


def random_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers of both signs that only cancel by chance; none is small, so that each one counts."""
    drawn = rng.uniform(-1.0, 1.0, shape)
    return np.asarray(drawn + np.copysign(0.5, drawn))


def key(moves: Moves, e: float) -> Any:
    """A hashable key for a step."""
    return e, *[(i, direction.tobytes()) for i, direction in moves.items()]


def node_is_at_kink(node: Node, values: Mapping[Any, Array]) -> bool:
    """Whether the derivative of one op changes under rounding errors of its arguments: it is at a kink."""
    jvp = node.op.jvp
    if jvp is None:
        return False  # user-defined ops are tested by values
    rng, arrays = np.random.default_rng(0), [values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
    tangents = [rng.normal(size=np.shape(a)) for a in arrays]

    def slope(shift: float) -> list[Any]:
        moved = [
            a + shift * rng.uniform(0.5, 1.5, a.shape) * rng.choice([-1.0, 1.0], a.shape) * np.where(a != 0, np.abs(a), LEAST)
            if shift and is_floating(getattr(a, "dtype", np.dtype(bool)))
            else a
            for a in arrays
        ]
        y = np.asarray(node.op.forward(np, *moved, **node.attrs))
        rules: Any = jvp(y, *moved, **node.attrs)
        if callable(rules):
            return [rules(*tangents)]
        return [rule(t) for rule, t in zip(rules, tangents, strict=False) if rule is not None]

    try:
        with np.errstate(all="ignore"):
            here = slope(0.0)
            for _ in range(4):
                for a, b in zip(here, slope(64 * EPS), strict=True):
                    size = np.maximum(np.abs(a), np.abs(b))
                    if (np.abs(a - b) > 1e-3 * size).any() or not np.array_equal(np.isfinite(a), np.isfinite(b)):
                        return True
    except Exception:  # a value that cannot be computed decides nothing
        return True
    return False


class Neighbour(NamedTuple):
    """A step away: values, constants, the indices of changed constants (None: another program), and slopes."""

    at: Array
    constants: list[Any]
    changed: list[int] | None
    slope: Array | None


class Point:
    """A problem at its point: its recording, its exact derivative if there is one, and its neighbourhood."""

    def __init__(self, problem: Problem, rng: np.random.Generator, nondet_tol: float = 0.0) -> None:
        self.problem, self.nondet_tol = problem, nondet_tol
        self.base = Recording(problem)
        self.cached_outputs: dict[Any, Array] = {}  # outputs computed as a by-product
        self.discrete_unchanged = False  # whether discrete constants are equal near the point; set by `moving`
        self.weights = random_weights(rng, self.base.at.shape)
        self.units = [units(a) for a in problem.arrays]
        self.directions = [random_weights(rng, u.shape) * u for u in self.units]

    @contextmanager
    def moved(self, moves: Moves, e: float) -> Iterator[None]:
        """Context manager: the inputs are moved by e times their directions."""
        before = {i: self.problem.arrays[i].copy() for i in moves}
        try:
            for i, direction in moves.items():
                self.problem.arrays[i][...] = before[i] + e * direction
            yield
        finally:
            for i, array in before.items():
                self.problem.arrays[i][...] = array

    def values(self, moves: Moves, e: float) -> Array:
        """The outputs a step away; NaN if the function raises an error."""
        if (cached := self.cached_outputs.get(key(moves, e))) is not None:
            return cached
        with self.moved(moves, e):
            try:
                return self.problem.values()
            except (ArithmeticError, ValueError):
                # it can be computed at the point, so the step has left the domain: a singular matrix, for example
                return np.full(self.base.at.size, np.nan)

    def recording(self) -> Recording | None:
        """A recording at the current inputs; None if the function raises an error or is not finite."""
        try:
            result = Recording(self.problem)
        except (ArithmeticError, ValueError):
            return None
        return result if result.at.shape == self.base.at.shape and np.isfinite(result.at).all() else None

    def neighbour(self, moves: Moves, e: float, *, along: Moves | None = None) -> Neighbour | None:
        """Values and slopes e times the directions away, slopes along others if given; None if there are none."""
        with self.moved(moves, e):
            recording = self.recording()
            if recording is None:
                return None
            changed, slope = self.base.changed(recording, self.nondet_tol), None
            if along is not None and changed is not None:
                with suppress(NoDerivative):
                    slope = Exact(recording)(along)
        return Neighbour(recording.at, recording.constants, changed, slope)

    @property
    def everything(self) -> Moves:
        return dict(enumerate(self.directions))

    @cached_property
    def moving(self) -> list[int] | None:
        """The constants that depend on the inputs; None if every step changes the program, or a number depends on the inputs.

        Masks and indices that change for however small a step are at a jump: a kink with two sides.
        """
        floating: set[int] = set()
        before: dict[Any, Any] = {}  # the other constants, by side, at the previous step
        steady = False
        for h in STEPS:
            sides = 0  # number of sides tried: a single one may be flat
            others: dict[Any, Any] = {}
            for n, (moves, e) in enumerate(self.tries(h)):
                step = self.neighbour(moves, e)
                if step is None or step.changed is None or any(self.base.sources[k] is None for k in step.changed):
                    continue
                floating |= {k for k in step.changed if self.can_move(k)}
                others |= {(n, k): step.constants[k] for k in step.changed if not self.can_move(k)}
                sides += 1
                if sides == 2:
                    break
            if not sides:
                continue
            if not others:
                self.discrete_unchanged = True
                return sorted(floating)
            # a jump is the same at every step; disguised numbers, such as large integers, are not
            steady = before.keys() == others.keys() and all(equal_values(a, before[side]) for side, a in others.items())
            before = others
        return sorted(floating) if steady else None

    def tries(self, h: float) -> Iterator[tuple[Moves, float]]:
        """Steps of this size: along the directions, and up, down and to 0 in case the domain ends for some entries."""
        yield self.everything, h
        yield self.everything, -h
        up = {i: np.abs(v) for i, v in self.everything.items()}
        yield up, h
        yield up, -h
        yield dict(enumerate(a.copy() for a in self.problem.arrays)), -h

    def can_move(self, k: int) -> bool:
        value = self.base.constants[k]
        return isinstance(value, np.ndarray) and is_floating(value.dtype)

    @cached_property
    def exact(self) -> Exact | None:
        """The derivative of the recorded program; None if it is not reliable."""
        if not self.base.is_complete or any(node.op.calls for node in self.base.nodes):
            return None  # calls inside a checkpoint are not recorded
        if not self.only_package_ops:
            _ = self.rounding  # before ops that remember their last call are called elsewhere
        if self.moving is None or self.moves_data:
            return None
        derivative = Exact(self.base)
        if self.only_package_ops:
            return derivative
        try:
            slope = self.slope(derivative, self.everything)
        except NoDerivative:
            return None
        return derivative if self.agrees_with_values(slope) else None

    @property
    def moves_data(self) -> bool:
        """Whether a data argument of an op, which has no derivative, depends on the inputs."""
        moving = {("constant", k) for k in self.moving or ()}
        return any(op.is_data(i) and s in moving for op, _, sources in self.base.uses for i, s in enumerate(sources))

    @cached_property
    def only_package_ops(self) -> bool:
        """Whether only ops of the package are recorded."""
        return all(is_package_op(node.op) for node in self.base.nodes)

    @cached_property
    def convention_known(self) -> bool:
        """Whether no user-defined op is at a kink, where its convention is unknown."""
        if self.only_package_ops:
            return True
        if self.exact is None:
            return False
        self.exact(self.everything)
        return not any(self.exact.tried.values())

    @cached_property
    def is_at_kink(self) -> bool:
        """Whether a recorded derivative changes under rounding errors of its arguments, or might."""
        if self.exact is None or self.jumps:
            return True
        if self.is_smooth:
            return False
        values = self.base.node_values
        return not self.convention_known or any(
            node_is_at_kink(node, values) for node in self.base.nodes if node.op.name not in SMOOTH
        )

    @cached_property
    def jumps(self) -> bool:
        """Whether a constant, such as a mask or sign, differs between the sides of the point, at any distance."""
        if self.moving == [] and self.discrete_unchanged:
            return False
        for h in STEPS[1::2]:
            steps_away = [self.neighbour(self.everything, e) for e in (h, h / 2, -h, -h / 2)]
            if any(step is None or step.changed is None for step in steps_away):
                continue
            constants = [step.constants for step in steps_away if step is not None]
            return any(
                not (equal_values(a, c) and equal_values(a, b)) and equal_values(a, a2) and equal_values(b, b2)
                for a, a2, b, b2, c in zip(*constants, self.base.constants, strict=True)
            )
        return True

    @cached_property
    def is_smooth(self) -> bool:
        """Whether no recorded op has kinks in its domain."""
        return self.only_package_ops and all(node.op.name in SMOOTH for node in self.base.nodes)

    def agrees_with_values(self, slope_here: Array) -> bool:
        """Whether values agree with slopes, at one step for each output, or are too inaccurate to tell.

        A function changes by the mean of the slopes at both ends: f(h) - f(-h) = h (f'(h) + f'(-h)) + O(h³), also with kinks at
        0.
        """
        agreement = Agreement(slope_here)
        for h in STEPS:
            up, down = (self.neighbour(self.everything, e, along=None if self.moving else self.everything) for e in (h, -h))
            with np.errstate(all="ignore"):
                for a, b in ((up, down), (up, None), (down, None)):
                    if a is None or (a.slope is None and not self.moving):
                        continue
                    if b is None:
                        e = h if a is up else -h
                        change, slope = a.at - self.base.at, e * (slope_here + (slope_here if a.slope is None else a.slope)) / 2
                    else:
                        change = a.at - b.at
                        slope = 2 * h * slope_here if a.slope is None or b.slope is None else h * (a.slope + b.slope)
                    noise = 64 * EPS * np.maximum(self.rounding, np.abs(self.base.at)) / h
                    agreement.add(change / h, slope / h, noise)
            if agreement.is_complete:
                return True
        return agreement.is_agreed

    def slope(self, exact: Exact, moves: Moves) -> Array:
        """The derivatives of all outputs along directions, including the effect of moving constants."""
        return exact(moves, {k: tangent for k, (tangent, _) in self.tangents(moves).items()})

    def tangents(self, moves: Moves) -> dict[int, tuple[Array, Array]]:
        """The tangents of the constants when the inputs move, and their rounding errors.

        (4 D(h/2) - D(h)) / 3 with D(h) = (c(h) - c(-h)) / 2h, for the first h with a small remainder: with
        B(h) = c(h) + c(-h) - 2 c(0), B(h) is 4 B(h/2) for a smooth c, and not at a kink, or if h is too large.
        """
        if not self.moving:
            return {}
        scale = self.scale(moves)
        result = {
            k: (np.full(np.shape(self.base.constants[k]), np.nan), np.zeros(np.shape(self.base.constants[k])))
            for k in self.moving
        }
        has_changed = {k: np.zeros(tangent.shape, bool) for k, (tangent, _) in result.items()}
        for h in STEPS[:-1]:
            steps = [e * scale for e in (h, -h, h / 2, -h / 2)]
            steps_away = [self.neighbour(moves, e) for e in steps]
            self.cached_outputs = {
                key(moves, e): step.at for e, step in zip(steps, steps_away, strict=True) if step is not None
            }
            if any(step is None or step.changed is None for step in steps_away):
                continue
            for k, (tangent, noise) in result.items():
                here = self.base.constants[k]
                up, down, half_up, half_down = (step.constants[k] for step in steps_away if step is not None)
                wide, narrow = up + down - 2 * here, half_up + half_down - 2 * here
                rounding = 16 * float(np.finfo(here.dtype).eps) * np.max(np.abs([up, down, here]), axis=0)
                magnitude = np.maximum(np.abs(wide), np.abs(up - down))
                smooth = np.isnan(tangent) & (np.abs(wide - 4 * narrow) <= LEFT_OVER * magnitude + 4 * rounding)
                unchanged = (up == here) & (down == here) & (half_up == here)
                smooth &= ~(unchanged & has_changed[k])  # piecewise constant, with jumps wider than this step
                has_changed[k] |= ~unchanged
                np.copyto(tangent, (8 * (half_up - half_down) - (up - down)) / (6 * h * scale), where=smooth)
                np.copyto(noise, np.where(unchanged, 0.0, rounding / (h * scale)), where=smooth)
            if not any(np.isnan(tangent).any() for tangent, _ in result.values()):
                return {k: one for k, one in result.items() if one[0].any() or one[1].any()}
        raise NoDerivative("a constant has a kink, or a step leaves the program")

    def scale(self, moves: Moves) -> float:
        """The factor for a direction that moves its entries by about their own size."""
        largest = max((float(np.max(np.abs(v) / self.units[i], initial=0.0)) for i, v in moves.items()), default=0.0)
        return 1.0 / largest if largest else 1.0

    @cached_property
    def rounding(self) -> float:
        """The magnitude that determines the rounding error of the outputs: larger than theirs if larger numbers cancel on the
        way.

        Measured by perturbing every recorded result by a relative 1e-12 and observing the outputs (the idea of stochastic
        arithmetic: Vignes, A stochastic arithmetic for reliable scientific computation, 1993). A comparison that flips could
        make it arbitrarily large: it is limited to a thousand times the largest number.
        """
        graph = self.base.graph
        if graph is None or not self.base.is_complete:
            return 0.0
        values = self.base.node_values
        rng = np.random.default_rng(0)
        try:
            other = replay(graph, lambda a: a * (1 + 1e-12 * rng.uniform(-1, 1, a.shape)) if is_floating(a.dtype) else a)
        except (ArithmeticError, ValueError):  # close to the end of its domain, such as a nearly singular matrix
            return 0.0
        changes = [float(np.abs(other[node] - values[node]).max(initial=0.0)) for node in graph.outputs]
        largest = max(float(np.abs(a).max(initial=0.0)) for a in values.values() if is_floating(a.dtype))
        return min(max(changes) / 1e-12, 1e3 * largest)

    def precise_values(self, moves: Moves, e: float) -> Array | None:
        """The outputs a step away in long double; None if the function does not support it or raises an error."""
        with self.moved(moves, e):
            try:
                with self.precise() as recording:
                    return recording.at
            except NoDerivative:
                return None

    @contextmanager
    def perturbed(self, rng: np.random.Generator) -> Iterator[Recording]:
        """A recording at inputs perturbed by rounding errors."""
        moves = {i: a * rng.uniform(-1, 1, a.shape) for i, a in enumerate(self.problem.arrays)}
        with self.moved(moves, 8 * EPS):
            if (recording := self.recording()) is None:
                raise NoDerivative("the function ends here")
            yield recording

    @contextmanager
    def precise(self) -> Iterator[Recording]:
        """A recording in long double, at the same inputs. Raises NoDerivative if the function does not support it."""
        if np.finfo(np.longdouble).eps >= EPS:
            raise NoDerivative("long double is double here")
        with self.problem.raised_to(np.longdouble):
            try:
                recording = Recording(self.problem)
            except Exception as error:  # from LAPACK, or from a user-defined op
                raise NoDerivative("the function does not take long double") from error
            if recording.at.dtype != np.longdouble or self.base.changed(recording) is None:
                raise NoDerivative("the function goes back to double")
            yield recording
