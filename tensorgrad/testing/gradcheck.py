"""Is a gradient right? Recorded gradients against slopes taken from values, and against formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad import fusion
from tensorgrad.autograd import grad
from tensorgrad.backend import Array, asarray
from tensorgrad.errors import DTypeError, GraphError, ShapeError
from tensorgrad.graph import Graph
from tensorgrad.nn import Module
from tensorgrad.op import Node, Op
from tensorgrad.state import switched
from tensorgrad.tensor import Tensor
from tensorgrad.testing.replay import Replay
from tensorgrad.testing.report import PASSED, Finding, GradientError, Report
from tensorgrad.testing.slopes import judge, units

RTOL = 1e-6
FULL_ENTRIES = 5_000  # up to here every entry is checked by default: some tenths of a second
SOME_ENTRIES = 32
JOINT = 1e-3  # how much nearer the slope of all inputs together has to be
VERDICT = "U16"


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    order: int = 1,
    mode: str | None = None,
    wrt: Sequence[int | str] | None = None,
    rtol: float = RTOL,
    seed: int = 0,
    raises: bool = True,
) -> Report:
    """Compare the gradients that tensorgrad records for `fn` with slopes taken from its values.

    fn      a function of Tensors that returns a floating Tensor, or several in a tuple
    inputs  what to call it with: an array, a Tensor or a number, a tuple of them, or a dict by the names of fn's parameters.
            Floating ones are raised to float64 and checked; integers, booleans and other objects are passed on as they are
    order   1: the gradient. 2: also the gradient of the gradient, by differences of the recorded gradient
    mode    "full": every entry of the Jacobian. "directional": the slope along one random direction, of one random weighting
            of the outputs, for all inputs together and, if that is not right, for each; a few calls of fn, whatever the
            sizes. By default full up to 5,000 entries
    wrt     positions (or names) of the inputs to check, if not all
    rtol    an error beyond it, relative to the larger of the two gradients, is wrong
    seed    of the random directions and weights
    raises  False: return the Report also when it has failed

    Slopes are central differences with Richardson extrapolation, of steps relative to each input; where they do not settle it,
    over a ladder of steps. In full mode entries are first confirmed by the complex step, replaying the recorded graph, which
    has no rounding error to speak of; it counts only where differences of fn itself agree along a random direction. At a kink
    (slopes that differ at the two sides at two step sizes) every gradient between the two slopes passes.

    Returns the Report. Raises GradientError, which shows it and the op whose rule is wrong; DTypeError where fn goes back to
    less than float64; GraphError where there is nothing to check.
    """
    if order not in (1, 2):
        raise ValueError(f"gradcheck: order must be 1 or 2, got {order!r}")
    problem = Problem.of("gradcheck", fn, inputs, wrt)
    return run("gradcheck", problem, order, mode, rtol, seed, raises)


def check_model(
    model: Module,
    loss: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    order: int = 1,
    mode: str | None = None,
    rtol: float = RTOL,
    seed: int = 0,
    raises: bool = True,
) -> Report:
    """Compare the gradients of loss(model(x), y) with slopes, for every named parameter of `model`; as gradcheck does.

    Parameters, buffers and floating x and y are raised to float64 for the check; afterwards the model is as it was.
    """
    parameters = {path: p for path, p in model.named_parameters() if p.requires_grad}
    x, y = (raised(a) if isinstance(a, Tensor) or hasattr(a, "dtype") else a for a in (x, y))
    with in_float64(model):
        arrays = [p.data for p in parameters.values()]

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            buffers = [(array, array.copy()) for _, array in model.named_buffers()]
            try:
                return outputs_of("check_model", loss(model(x), y))
            finally:
                for array, before in buffers:
                    array[...] = before

        problem = Problem(list(parameters), arrays, lambda: list(parameters.values()), compute)
        return run("check_model", problem, order, mode, rtol, seed, raises)


def matches_formula(
    fn: Callable[..., Any],
    formula: Callable[..., Any],
    inputs: Any,
    *,
    wrt: Sequence[int | str] | None = None,
    rtol: float = 1e-12,
    raises: bool = True,
) -> Report:
    """Compare the gradients that tensorgrad records for a scalar `fn`, fused and unfused, with a closed form.

    fn       a function of Tensors that returns a 0-d Tensor; for an output of another shape write (g * fn(x)).sum()
    formula  the same arguments as arrays to the gradient: an array for one checked input, a sequence of them for several
    rtol     the largest error, relative to the largest entry of each gradient: sums that cancel are not known better

    The other arguments, what is returned and what is raised are as for gradcheck.
    """
    problem = Problem.of("matches_formula", fn, inputs, wrt)
    outputs, _ = problem.evaluate()
    if len(outputs) != 1 or outputs[0].ndim:
        shapes = ", ".join(str(t.shape) for t in outputs)
        raise ShapeError(f"matches_formula: fn returned {shapes}, expected a 0-d Tensor; write (g * fn(x)).sum()")
    given = problem.arguments([a.copy() for a in problem.arrays])
    closed = formula(**given) if isinstance(given, dict) else formula(*given)
    expected = [np.asarray(e) for e in (closed if isinstance(closed, (tuple, list)) else (closed,))]
    if len(expected) != len(problem.arrays):
        raise ShapeError(f"matches_formula: the formula gave {len(expected)} gradients, expected {len(problem.arrays)}")
    report = Report(mode="fused and unfused", caller="matches_formula")
    for how, switch in (("fused", fusion.on), ("unfused", fusion.off)):
        with switch():
            outputs, leaves = problem.evaluate()
            found = gradients(outputs, leaves, [np.ones(())])
        for name, e, g in zip(problem.names, expected, found, strict=True):
            if e.shape != g.shape:
                raise ShapeError(f"matches_formula: the formula's gradient of {name} has shape {e.shape}, expected {g.shape}")
            with np.errstate(all="ignore"):
                close = np.abs(g - e) <= rtol * np.abs(e).max(initial=0.0)
            verdicts = np.where(close, "ok", np.where(np.isfinite(g) & np.isfinite(e), "wrong", "non-finite"))
            place = lambda at: f"[{', '.join(map(str, at))}]"  # noqa: E731
            report.findings.append(Finding.of(f"{name} ({how})", e.shape, 1, verdicts, g, e, place))
    report.evaluations = problem.evaluations
    if raises and not report:
        raise GradientError(f"{report}\n(numerical: by the formula)", report, graph_of(outputs))
    return report


def check_op(
    op: Op, args: Sequence[Any], attrs: Mapping[str, Any], *, order: int = 1, seed: int = 0, raises: bool = False
) -> Report:
    """gradcheck of one use of an op, by itself: for every argument that is a floating array and not data."""
    wrt = [i for i, a in enumerate(args) if getattr(a, "dtype", np.dtype(bool)).kind == "f" and not op.is_data(i)]
    with fusion.off():
        problem = Problem.of(op.name, lambda *xs: op(*xs, **attrs), tuple(args), wrt)
        return run(op.name, problem, order, None, RTOL, seed, raises)


class Problem:
    """A function of arrays that can be changed in place, to be evaluated again and again.

    names, arrays  of what is differentiated; float64
    leaves         makes, or has, the leaf Tensors for the arrays
    compute        the outputs from the leaves
    """

    def __init__(
        self,
        names: list[str],
        arrays: list[Array],
        leaves: Callable[[], list[Tensor]],
        compute: Callable[[list[Tensor]], list[Tensor]],
    ) -> None:
        self.names, self.arrays, self.leaves, self.compute = names, arrays, leaves, compute
        self.arguments: Callable[[list[Any]], Any] = tuple
        self.evaluations = 0

    @classmethod
    def of(cls, caller: str, fn: Callable[..., Any], inputs: Any, wrt: Sequence[int | str] | None) -> Problem:
        """From a function and what it is to be called with."""
        if isinstance(inputs, list) and any(isinstance(a, (Tensor, np.ndarray)) for a in inputs):
            raise DTypeError(f"{caller}: inputs is a list of arrays, expected a tuple of them (a list of numbers is one array)")
        given: dict[int | str, Any] = dict(
            inputs if isinstance(inputs, dict) else enumerate(inputs if isinstance(inputs, tuple) else (inputs,))
        )
        given = {key: asarray(a, np.float64) if isinstance(a, (float, list)) else a for key, a in given.items()}
        floating = [key for key, a in given.items() if getattr(a, "dtype", np.dtype(bool)).kind == "f"]
        chosen = floating if wrt is None else list(wrt)
        for key in chosen:
            if key not in floating:
                raise GraphError(f"{caller}: wrt has {key!r}, which is no floating input; those are {floating}")
        if not chosen:
            raise GraphError(f"{caller}: there is no floating input to check, among {len(given)}")
        given = {key: raised(a) if key in floating else a for key, a in given.items()}
        arrays = [given[key] for key in chosen]

        def arguments(values: list[Any]) -> Any:
            merged = given | dict(zip(chosen, values, strict=True))
            return merged if isinstance(inputs, dict) else tuple(merged.values())

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            args = arguments(leaves)
            return outputs_of(caller, fn(**args) if isinstance(args, dict) else fn(*args))

        names = [key if isinstance(key, str) else f"input {key}" for key in chosen]
        problem = cls(names, arrays, lambda: [Tensor(a, True, name=n) for a, n in zip(arrays, names, strict=True)], compute)
        problem.arguments = arguments
        return problem

    def evaluate(self) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs, recorded, and the leaves that they were computed from."""
        self.evaluations += 1
        with switched(recording=True), np.errstate(all="ignore"):
            leaves = self.leaves()
            return self.compute(leaves), leaves

    def values(self) -> Array:
        """The outputs in one row."""
        return flat(self.evaluate()[0])

    def second(self, rng: np.random.Generator) -> Problem:
        """The gradient as a function of the same arrays and of the weights of the outputs."""
        outputs, _ = self.evaluate()
        weights = [np.asarray(rng.normal(size=t.shape)) for t in outputs]
        names = ["g" if len(weights) == 1 else f"g {i}" for i in range(len(weights))]
        n = len(self.arrays)

        def leaves() -> list[Tensor]:
            return [*self.leaves(), *[Tensor(w, True, name=name) for w, name in zip(weights, names, strict=True)]]

        def compute(given: list[Tensor]) -> list[Tensor]:
            xs, gs = given[:n], given[n:]
            pairs = [(t, g) for t, g in zip(self.compute(xs), gs, strict=True) if t.requires_grad]
            found: Any = [None] * n
            if pairs:
                ts, gs = zip(*pairs, strict=True)  # type: ignore[assignment]
                found = grad(ts, xs, gs, create_graph=True, allow_unused=True)
            return [Tensor(np.zeros(x.shape)) if g is None else g for g, x in zip(found, xs, strict=True)]

        return Problem([*self.names, *names], [*self.arrays, *weights], leaves, compute)


def run(caller: str, problem: Problem, order: int, mode: str | None, rtol: float, seed: int, raises: bool) -> Report:
    """Check `problem`, and if that passes and is asked for, its gradient."""
    if mode not in (None, "full", "directional"):
        raise ValueError(f'{caller}: mode must be "full" or "directional", got {mode!r}')
    if mode is None:
        mode = "full" if sum(a.size for a in problem.arrays) <= FULL_ENTRIES else "directional"
    rng = np.random.default_rng(seed)
    report = Report(mode=mode, caller=caller)
    stage, orders = problem, range(1, order + 1)
    for at in orders:
        if at == 2:
            stage = problem.second(rng)
        check = Check(stage, at, rtol, rng)
        report.findings += check.full() if mode == "full" else check.directional()
        report.evaluations += stage.evaluations
        if not report:
            break
    if raises and not report:
        from tensorgrad.testing.suspects import explain

        raise explain(report, stage, problem)
    return report


class Check:
    """One problem at one point: what is recorded there, and its comparison with slopes."""

    def __init__(self, problem: Problem, order: int, rtol: float, rng: np.random.Generator) -> None:
        self.problem, self.order, self.rtol = problem, order, rtol
        self.outputs, self.leaves = problem.evaluate()
        self.at = flat(self.outputs)
        self.weights = rng.normal(size=self.at.size)
        self.recorded = self.weighted(self.outputs, self.leaves)
        self.units = [units(a) for a in problem.arrays]
        self.directions = [np.asarray(rng.normal(size=u.shape) * u) for u in self.units]

    def weighted(self, outputs: list[Tensor], leaves: list[Tensor]) -> list[Array]:
        """The gradients of the weighted sum of the outputs."""
        ends = np.cumsum([t.size for t in outputs])
        parts = [w.reshape(t.shape) for t, w in zip(outputs, np.split(self.weights, ends[:-1]), strict=True)]
        return gradients(outputs, leaves, parts)

    def unfit(self) -> list[Finding]:
        """Findings for a function that cannot be compared with anything: it is not finite, or not always the same."""
        again, leaves = self.problem.evaluate()
        verdict = ""
        if not np.isfinite(self.at).all():
            verdict = "non-finite"
        elif not same(self.at, flat(again)) or not all(map(same, self.recorded, self.weighted(again, leaves))):
            verdict = "nondeterministic"
        if not verdict:
            return []
        one = np.array([verdict])
        nan = np.array([np.nan])
        return [
            Finding.of(name, a.shape, self.order, one, nan, nan, lambda at: "")
            for name, a in zip(self.problem.names, self.problem.arrays, strict=True)
        ]

    def along(self, moves: Sequence[tuple[int, Array]], weights: Array | None) -> Callable[[float], Array]:
        """e -> the outputs, or weighted sums of them, with input i moved by e times its direction, for each (i, direction)."""
        arrays = [(self.problem.arrays[i], self.problem.arrays[i].copy(), direction) for i, direction in moves]

        def line(e: float) -> Array:
            try:
                for array, before, direction in arrays:
                    array[...] = before + e * direction
                values = self.problem.values()
            finally:
                for array, before, _ in arrays:
                    array[...] = before
            return values if weights is None else weights @ values

        return line

    def directional(self) -> list[Finding]:
        """The slope of the weighted sum of the outputs along one direction of all inputs; if that is not right, of each."""
        if findings := self.unfit():
            return findings
        slopes = [float((g * v).sum()) for g, v in zip(self.recorded, self.directions, strict=True)]
        inputs = range(len(slopes))
        if len(slopes) > 1:
            # an input whose share of the slope is small should not hide among the others
            least = min((abs(s) for s in slopes if s), default=0.0)
            shares = [min(1.0, max(least / abs(s), 0.01)) if s else 1.0 for s in slopes]
            together = self.direction(inputs, shares, f"all {len(slopes)} inputs", (), JOINT * self.rtol)
            if together.verdict == "ok":
                return [together]
        names, arrays = self.problem.names, self.problem.arrays
        alone = [self.direction([i], [1.0], names[i], arrays[i].shape, self.rtol) for i in inputs]
        return [found if found.verdict in PASSED else self.some_entries(i, found) for i, found in enumerate(alone)]

    def direction(
        self, inputs: Sequence[int], shares: Sequence[float], name: str, shape: tuple[int, ...], rtol: float
    ) -> Finding:
        """The slope along the directions of some inputs, each times its share."""
        moves = [(i, share * self.directions[i]) for i, share in zip(inputs, shares, strict=True)]
        parts = [self.recorded[i] * v for i, v in moves]
        slope = np.array([sum(float(p.sum()) for p in parts)])
        scale = np.array([math.sqrt(sum(float((p * p).sum()) for p in parts))])
        size = np.array([np.abs(self.weights * self.at).sum()])
        unit = max(float(self.units[i].max(initial=0.0)) for i in inputs) or 1.0
        verdicts, numerical = judge(self.along(moves, self.weights[None]), slope, scale, size, rtol, unit)
        return Finding.of(name, shape, self.order, verdicts, slope, numerical, lambda at: "along a direction")

    def some_entries(self, i: int, along: Finding) -> Finding:
        """A second look at an input whose slope along a direction is not right: some of its entries, one at a time.

        Where several kinks meet, the slopes along a direction do not bound what is right; along one entry they do.
        """
        array, weights = self.problem.arrays[i], self.weights[None]
        columns = np.random.default_rng(0).permutation(array.size)[:SOME_ENTRIES]
        recorded = self.recorded[i].reshape(1, -1)
        verdicts, numerical = self.entries(i, recorded, columns, weights)
        if not set(verdicts[0, columns]) - {"ok"}:
            return along  # the fault is in other entries
        index = [tuple(int(n) for n in np.unravel_index(j, array.shape)) for j in columns]
        return Finding.of(
            along.name, array.shape, self.order, verdicts[:, columns], recorded[:, columns], numerical[:, columns],
            lambda at: f"weighted sum by {list(index[at[1]]) or 'x'}",
        )  # fmt: skip

    def full(self) -> list[Finding]:
        """Every entry of the Jacobian: by the complex step where that holds along a direction, else by differences."""
        if findings := self.unfit():
            return findings
        along = self.directional()
        agreed = all(line.verdict == "ok" for line in along)
        jacobians = self.jacobians()
        replay = Replay.of(self.outputs, self.leaves, self.at)
        results: list[tuple[Array, Array]] = []
        for i, jacobian in enumerate(jacobians):
            exact = replay.jacobian(i) if replay is not None and agreed else None
            if exact is None:
                results.append(self.entries(i, jacobian, range(jacobian.shape[1])))
                continue
            with np.errstate(all="ignore"):
                scale = np.abs(jacobian).max(axis=1, initial=0.0, keepdims=True)
                agree = np.abs(jacobian - exact) <= self.rtol * np.maximum(np.abs(jacobian), np.abs(exact)) + 1e-9 * scale
            verdicts = np.full(jacobian.shape, "ok", VERDICT)
            if columns := np.flatnonzero(~agree.all(axis=0)).tolist():
                closer, numerical = self.entries(i, jacobian, columns)
                verdicts[:, columns], exact[:, columns] = closer[:, columns], numerical[:, columns]
            results.append((verdicts, exact))
        self.together(jacobians, results)
        findings = [
            Finding.of(name, array.shape, self.order, verdicts, jacobian, numerical, self.place(array.shape))
            for name, array, jacobian, (verdicts, numerical) in zip(
                self.problem.names, self.problem.arrays, jacobians, results, strict=True
            )
        ]
        if not agreed and all(f.verdict == "ok" for f in findings):
            return along  # the rows are all right, but their sum, as one pass computes it, is not: a rule not linear in g
        return findings

    def entries(self, i: int, recorded: Array, columns: Iterable[int], weights: Array | None = None) -> tuple[Array, Array]:
        """Verdicts and numerical derivatives of the outputs, or of weighted sums of them, by some entries of input i."""
        array = self.problem.arrays[i]
        step = self.units[i].ravel()
        values = np.abs(self.at) if weights is None else np.abs(weights) @ np.abs(self.at)
        scale = np.abs(recorded * step).max(axis=1, initial=0.0)
        verdicts, numerical = np.full(recorded.shape, "ok", VERDICT), np.full(recorded.shape, np.nan)
        for j in columns:
            direction = np.zeros(array.size)
            direction[j] = step[j]
            line = self.along([(i, direction.reshape(array.shape))], weights)
            verdicts[:, j], slopes = judge(line, recorded[:, j] * step[j], scale, values + scale, self.rtol, step[j])
            numerical[:, j] = slopes / step[j]
        return verdicts, numerical

    def together(self, jacobians: list[Array], results: list[tuple[Array, Array]]) -> None:
        """Move all entries that sit at a kink at once: of tied entries a rule may prefer any, but their sum is given."""
        kinks = [(verdicts == "kink").any(axis=0) for verdicts, _ in results]
        if sum(int(k.sum()) for k in kinks) < 2:
            return
        moves = [(i, k.reshape(a.shape)) for i, (k, a) in enumerate(zip(kinks, self.problem.arrays, strict=True))]
        slope = sum((j[:, k].sum(axis=1) for j, k in zip(jacobians, kinks, strict=True)), np.zeros(self.at.size))
        verdicts, _ = judge(self.along(moves, None), slope, np.abs(slope), np.abs(self.at) + np.abs(slope), self.rtol)
        for kink, (found, _) in zip(kinks, results, strict=True):
            found[(found == "kink") & kink & (verdicts == "wrong")[:, None]] = "wrong"

    def jacobians(self) -> list[Array]:
        """For each input the recorded derivatives of every output element (rows) by every entry (columns)."""
        found = [np.zeros((self.at.size, a.size)) for a in self.problem.arrays]
        row = 0
        for t in self.outputs:
            for k in range(t.size):
                one = np.zeros(t.size)
                one[k] = 1
                for jacobian, g in zip(found, gradients([t], self.leaves, [one.reshape(t.shape)]), strict=True):
                    jacobian[row] = g.ravel()
                row += 1
        return found

    def place(self, shape: tuple[int, ...]) -> Callable[[Any], str]:
        """Words for the place of one derivative: "y[0, 1] by [2]"."""
        owners = [(i, k) for i, t in enumerate(self.outputs) for k in range(t.size)]

        def words(at: Any) -> str:
            which, k = owners[at[0]]
            output = self.outputs[which]
            index = [int(n) for n in np.unravel_index(k, output.shape)]
            entry = [int(n) for n in np.unravel_index(at[1], shape)]
            y = "y" if len(self.outputs) == 1 else f"y{which}"
            return f"{y}{index or ''} by {entry or 'x'}"

        return words


def gradients(outputs: list[Tensor], leaves: list[Tensor], weights: Sequence[Array]) -> list[Array]:
    """The gradients of the weighted sum of the outputs, zeros for a leaf that none of them was computed from."""
    pairs = [(t, w) for t, w in zip(outputs, weights, strict=True) if t.requires_grad]
    found: Any = [None] * len(leaves)
    with np.errstate(all="ignore"):
        if pairs:
            ts, ws = zip(*pairs, strict=True)
            found = grad(ts, leaves, ws, retain_graph=True, allow_unused=True)
    return [np.zeros(x.shape) if g is None else g.data for g, x in zip(found, leaves, strict=True)]


def outputs_of(caller: str, result: Any) -> list[Tensor]:
    """What the function returned, as a list of floating Tensors. Raises if it is anything else."""
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    for t in outputs:
        if not isinstance(t, Tensor):
            raise GraphError(f"{caller}: the function returned {type(t).__name__}, expected a Tensor or a tuple of them")
        if t.dtype != np.float64:
            raise DTypeError(
                f"{caller}: the function returned {t.dtype} from float64 inputs; something in it goes back to less "
                f"precision (.astype, out=), and differences of that would be mostly rounding"
            )
    return outputs


def raised(a: Any) -> Any:
    """A copy in float64 of a floating array or Tensor, as an array; anything else as it is."""
    array = a.data if isinstance(a, Tensor) else a
    return np.array(array, np.float64) if getattr(array, "dtype", np.dtype(bool)).kind == "f" else a


@contextmanager
def in_float64(model: Module) -> Iterator[None]:
    """Parameters and buffers as float64 copies, and afterwards as they were."""
    parameters = [(p, p.data, p.grad) for _, p in model.named_parameters()]
    buffers = [(m, dict(m._buffers)) for _, m in model.named_modules()]
    try:
        for p, data, _ in parameters:
            p.data = raised(data)
        for module, held in buffers:
            module._buffers.update({name: np.array(raised(array)) for name, array in held.items()})
        yield
    finally:
        for p, data, g in parameters:
            p.data, p.grad = data, g
        for module, held in buffers:
            module._buffers.update(held)


def flat(outputs: list[Tensor]) -> Array:
    return np.concatenate([t.data.ravel() for t in outputs]) if outputs else np.zeros(0)


def same(a: Array, b: Array) -> bool:
    """Equal but for the last digits, which threads that add in another order may change."""
    if a.shape != b.shape:
        return False
    return np.array_equal(a, b) or bool(np.allclose(a, b, rtol=1e-13, atol=1e-300, equal_nan=True))


def graph_of(outputs: list[Tensor]) -> Graph | None:
    """The graph of those outputs that were computed."""
    nodes = [t.node for t in outputs if isinstance(t.node, Node)]
    return Graph(nodes, check=False) if nodes else None
