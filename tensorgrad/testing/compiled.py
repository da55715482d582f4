"""Is a compiled step the step? Every call of one, compared with the step itself from the same state; and its gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.compiler import verify
from tensorgrad.compiler.compiled import Compiled
from tensorgrad.compiler.containers import arguments, taken_apart, with_leaves
from tensorgrad.compiler.trace import Trace
from tensorgrad.compiler.world import Snapshot, World, shifted
from tensorgrad.core.backend import Array, copy
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError, GraphError
from tensorgrad.ops import random
from tensorgrad.testing.check import RTOL, examine
from tensorgrad.testing.problem import Problem, outputs_of, raised
from tensorgrad.testing.report import Report
from tensorgrad.testing.suspects import explain

CALLS = 5
PROBES, MARGIN = 4, 32  # disturbed runs of the step, and how many times what they change is rounding

Values = dict[str, Any]  # what there is after a call, by what it is called


@dataclass
class CompiledReport:
    """What check_compiled has found; it prints as a few lines.

    calls      how many calls were compared, and how many of them were replays
    compared   what was compared after each: results, parameters, buffers, gradients, other arrays, settings
    rounded    what differed by more than its last digits, but by no more than rounding makes of it
    guards     what the plan takes for given
    gradients  the Report on the gradients of the loss; None if the step returns none that requires a gradient
    """

    calls: int = 0
    replays: int = 0
    compared: list[str] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)
    guards: list[Any] = field(default_factory=list)
    gradients: Report | None = None

    def __str__(self) -> str:
        lines = [
            f"check_compiled: passed ({self.calls} calls, {self.replays} of them replays; {len(self.compared)} values compared "
            f"after each, {len(self.rounded)} of them ill-conditioned)"
        ]
        lines.append("no gradient to check" if self.gradients is None else str(self.gradients))
        return "\n".join(lines)


def check_compiled(
    step: Callable[..., Any], *args: Any, calls: int = CALLS, gradients: bool = True, rtol: float = RTOL, seed: int = 0
) -> CompiledReport:
    """Prove that a step, compiled, does what it does as it is written, and that its gradients are right.

    step       a function as `tensorgrad.compile` takes it, or a compiled one; for keyword arguments, a functools.partial
    args       what to call it with. The calls get other numbers of the same shapes and dtypes: samples in another order,
               floating ones a little larger
    calls      how many are compared, at least 3: the first is recorded, the second makes the plan, and those after it replay it
    gradients  also compare the gradients of the loss with slopes, as gradcheck does, in float64: of the first floating 0-d
               Tensor in the result that requires a gradient, for every Tensor that requires one
    rtol       of that comparison
    seed       of its directions, and of the disturbances that tell how large rounding is

    The step runs as it is written, and compiled from the same state; after each call its results, and all parameters, buffers,
    gradients, optimisers and arrays that it can reach, have to be the same but for rounding: a few units in the last place of
    the largest number, or as much as disturbing the last places of all inputs changes. Python objects that the step itself
    changes (a counter, a list) change in both. Afterwards all arrays are as they were.

    Returns a CompiledReport. Raises CompileError where the two differ, where the step cannot be compiled, or if it is never
    replayed; GradientError for a wrong gradient; GraphError if the step leaves gradients but returns no loss.
    """
    if calls < 3:
        raise ValueError(f"check_compiled: calls must be at least 3, since plans are replayed from the second on; got {calls}")
    compiled = Compiled(step.step if isinstance(step, Compiled) else step, keep_grads=True)
    _, arrays = arguments(args, {})
    found, world, start = recorded(compiled, args, arrays)
    report = CompiledReport()
    try:
        if gradients:
            report.gradients = check_gradients(found, named(world), rtol, seed)
        for k in range(calls):
            compare_call(Call(compiled, args, arrays, found, world, k, seed), report)
            arrays = [shifted(a) for a in arrays]
    finally:
        start.put_back()
    if not report.replays:
        raise CompileError(f"check_compiled: {compiled.name} was not replayed in {calls} calls: {compiled.why_not}")
    report.calls, report.guards = calls, compiled.plan.guards if compiled.plan else []
    return report


def recorded(compiled: Compiled, args: Any, arrays: list[Array]) -> tuple[Trace, World, Snapshot]:
    """One run of the step, undone; what it can reach, and how that is."""
    world = compiled.world(None, (args, {}))
    before = Snapshot(world.data([], []), world, [])
    try:
        found = compiled.traced(args, {}, [copy(a) for a in arrays])
        found.undo()
    finally:
        before.put_back()
    return (found, *compiled.around(found, (args, {})))


class Call:
    """One call of a step, to be done in several ways from the same state."""

    def __init__(
        self, compiled: Compiled, args: Any, arrays: list[Array], found: Trace, world: World, number: int, seed: int
    ) -> None:
        self.compiled, self.args, self.arrays, self.number = compiled, args, arrays, number
        _, self.before = compiled.around(found, (args, {}))
        self.tensors = {**dict.fromkeys(found.grads), **dict.fromkeys(found.regraded), **world.tensors}
        names = named(world)
        self.names = {t: names.get(t, t.name or "a Tensor") for t in self.tensors}
        self.rng = np.random.default_rng([seed, number])

    def done(self, call: Callable[..., Any]) -> Values:
        """All that there is after a call, from the state before it."""
        self.before.put_back()
        leaves = [wrap(copy(a), None) for a in self.arrays]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that nobody has chosen
            result = call(*with_leaves(self.args, iter(leaves)))
        return self.values(result)

    def disturbed(self) -> Values:
        """The step as it is written, the last places of all that it reads being others."""
        self.before.put_back()
        for array, _, _ in self.before.arrays:
            self.disturb(array)
        for t in self.tensors:
            if t._grad is not None:
                self.disturb(t._grad._data)
        leaves = [wrap(copy(a), None) for a in self.arrays]
        for leaf in leaves:
            self.disturb(leaf._data)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            return self.values(self.compiled.step(*with_leaves(self.args, iter(leaves))))

    def disturb(self, array: Array) -> None:
        if array.dtype.kind == "f" and array.flags.writeable:
            noise = self.rng.uniform(-1, 1, array.shape).astype(array.dtype) * np.finfo(array.dtype).eps
            with np.errstate(all="ignore"):
                array += array * noise

    def values(self, result: Any) -> Values:
        """What there is now, copied."""
        tensors, _, plain = taken_apart(result)
        found: Values = {f"result {i}": copy(t._data) for i, t in enumerate(tensors)}
        found["what is returned besides Tensors"] = plain
        texts: dict[str, int] = {}
        gradients = {id(g._data) for _, g, _ in self.before.grads if g is not None}
        for array, text, _ in self.before.arrays:
            if id(array) in gradients:  # of which more below; a step may add to them or put others in their place
                continue
            texts[text] = texts.get(text, 0) + 1
            found[text if texts[text] == 1 else f"{text} ({texts[text]})"] = copy(array)
        for t, name in self.names.items():
            found[f"{name}.grad"] = None if t._grad is None else copy(t._grad._data)
        for i, (optimiser, _, _) in enumerate(self.before.optimisers):
            found[f"optimiser {i}"] = {"steps": optimiser.steps, "lr": optimiser.lr}
        for i, (rng, _) in enumerate(self.before.generators):
            found[f"generator {i}"] = repr(random.state_of(rng))
        return found


def named(world: World) -> dict[Tensor, str]:
    """What Tensors are called: parameters by their path from the name of the model on."""
    paths: dict[Tensor, str] = {
        p: f"{text}.{name}" for module, text in world.modules.items() for name, p in module._parameters.items()
    }
    names = {t: paths.get(t, text) for t, text in world.tensors.items()}
    return {t: text.removeprefix("global ").removeprefix("closure ") for t, text in names.items()}


def compare_call(call: Call, report: CompiledReport) -> None:
    """Add to the report what comes of one call; CompileError if it is not what the step does."""
    expected = call.done(call.compiled.step)
    got = call.done(call.compiled)
    plan = call.compiled.plan
    if plan is not None and plan.fault:
        raise CompileError(f"check_compiled: the plan of {call.compiled.name} was found to be wrong: {plan.fault}")
    report.replays += not call.compiled.why_not
    report.compared = list(expected)
    suspects = [name for name, value in expected.items() if not alike(value, got[name])]
    if not suspects:
        return
    probes = [call.disturbed() for _ in range(PROBES)]
    for name in suspects:
        if not is_rounding(expected[name], got[name], [probe[name] for probe in probes]):
            raise CompileError(
                f"check_compiled: call {call.number + 1} of {call.compiled.name}, {differing(name, expected[name], got[name])}"
            )
        report.rounded += [name] if name not in report.rounded else []
    call.done(call.compiled.step)  # and on from there


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return verify.close(a, b)
    return type(a) is type(b) and bool(np.all(a == b))


def is_rounding(a: Any, b: Any, probes: list[Any]) -> bool:
    """Whether two values differ by no more than what comes of disturbed inputs."""
    arrays = all(isinstance(x, np.ndarray) and (x.shape, x.dtype) == (a.shape, a.dtype) for x in (a, b, *probes))
    if not arrays:
        return False
    wide, other, *runs = (x.astype(np.float64) for x in (a, b, *probes))
    with np.errstate(all="ignore"):
        same = (wide == other) | (np.isnan(wide) & np.isnan(other))
        spread = np.max([np.abs(run - wide) for run in runs], axis=0)
        spread = np.where(np.isnan(spread), np.inf, spread)  # of which the step itself cannot say what it is
        room = np.maximum(spread, spread[np.isfinite(spread)].max(initial=0.0)) * MARGIN
        return bool((same | (np.abs(other - wide) <= room)).all())


def differing(name: str, a: Any, b: Any) -> str:
    """In words, where two values differ."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return f"{name}: {b!r} compiled, and {a!r} as it is written"
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return f"{name}: {b.shape} {b.dtype} compiled, and {a.shape} {a.dtype} as it is written"
    with np.errstate(all="ignore"):
        apart = np.asarray(np.abs(b.astype(np.float64) - a.astype(np.float64)))
    apart[np.isnan(apart) & ~(np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64)))] = np.inf
    at = tuple(int(n) for n in np.unravel_index(int(np.argmax(np.nan_to_num(apart, nan=0.0, posinf=np.inf))), apart.shape))
    return f"{name}{list(at) if at else ''}: {b[at]!r} compiled, and {a[at]!r} as it is written"


# Gradients


def check_gradients(found: Trace, names: dict[Tensor, str], rtol: float, seed: int) -> Report | None:
    """The gradients of what the step has computed, against slopes; GradientError if they are wrong."""
    losses = [t for t in found.results if t.ndim == 0 and t.dtype.kind == "f" and t.requires_grad]
    if not losses:
        if found.regraded:
            raise GraphError(
                "check_compiled: the step leaves gradients, but returns no loss to check them by; return it, or say "
                "gradients=False"
            )
        return None
    root = found.source(losses[0])
    nodes = needed(found, root)
    leaves = list(dict.fromkeys(s for node in nodes for s in map(found.source, tensors_of(node)) if isinstance(s, Tensor)))
    floating = [t for t in leaves if t.dtype.kind == "f"]
    checked = [t for t in floating if t.requires_grad]
    drawn = draws(found, nodes)
    with in_float64(floating):

        def compute(_: list[Tensor]) -> list[Tensor]:
            values: dict[Any, Any] = {leaf: leaf for leaf in leaves} | drawn
            for node in nodes:
                if node not in drawn:
                    inputs = [values[found.source(s)] if isinstance(s, (Node, Tensor)) else raised(s) for s in node.inputs]
                    values[node] = node.op(*inputs, **widened(node.attrs))
            return outputs_of("check_compiled", values[root])

        texts = [names.get(t, t.name or f"a Tensor {t.shape}") for t in checked]
        problem = Problem(texts, [t.data for t in checked], lambda: checked, compute)
        report, stage = examine("gradients of the loss", problem, 1, None, rtol, seed)
        if not report:
            raise explain(report, stage, problem)
    return report


def tensors_of(node: Node) -> list[Any]:
    return [s for s in node.inputs if isinstance(s, (Node, Tensor))]


def needed(found: Trace, root: Any) -> list[Node]:
    """The nodes that a result is computed by, in order."""
    wanted, kept = {root}, []
    for node in reversed(found.program().nodes):
        if node in wanted:
            kept.append(node)
            wanted.update(map(found.source, tensors_of(node)))
    return kept[::-1]


def draws(found: Trace, nodes: list[Node]) -> dict[Any, Any]:
    """Random numbers, drawn once."""
    masks = [node for node in nodes if node.op is random.keep_mask]
    generators = {id(rng): rng for rng in (node.attrs["rng"] or random.default() for node in masks)}
    states = [(rng, random.state_of(rng)) for rng in generators.values()]
    drawn = {node: wrap(np.asarray(node.op(np.zeros(node.shape), **node.attrs)), None) for node in masks}
    for rng, before in states:
        random.set_state(rng, before)
    return drawn


def widened(attrs: dict[str, Any]) -> dict[str, Any]:
    """Attributes of an operation, with float64 for lesser floating types."""
    dtype = attrs.get("dtype")
    is_floating = dtype is not None and np.dtype(dtype).kind == "f"
    return attrs | {"dtype": np.dtype(np.float64)} if is_floating else attrs


@contextmanager
def in_float64(tensors: list[Tensor]) -> Iterator[None]:
    """Inside of the block, the data of the Tensors in float64."""
    before = [t._data for t in tensors]
    for t in tensors:
        t._data = t._data.astype(np.float64)
    try:
        yield
    finally:
        for t, data in zip(tensors, before, strict=True):
            t._data = data
