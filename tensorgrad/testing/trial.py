"""Runs a step compiled and eagerly, from the same state with the same arguments, repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler import verify
from tensorgrad.compiler.compiled import Compiled
from tensorgrad.compiler.containers import arguments, flattened, with_leaves
from tensorgrad.compiler.trace import Trace
from tensorgrad.compiler.verify import Difference, Outcome
from tensorgrad.compiler.world import Objects, Snapshot, shifted
from tensorgrad.core.backend import Array, address, copy, is_floating, may_overlap
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.ops import random
from tensorgrad.testing.report import CompiledReport, Finding


class Trial:
    """Runs a step compiled and eagerly from the same state.

    grads    `.grad` after the compiled calls, with which the next one starts
    replays  number of compiled calls that replayed a verified plan
    """

    def __init__(self, step: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.step = step.step if isinstance(step, Compiled) else step
        self.compiled = Compiled(self.step, step.keep_grads if isinstance(step, Compiled) else False)
        self.args, self.arrays, self.replays = args, arguments(args, {})[1], 0
        world = self.compiled.world(None, (args, {}))
        before, python = Snapshot(world.data([], []), world, []), Objects(world)
        try:
            self.trace = self.traced(self.arrays)
            self.trace.undo()
        finally:
            before.put_back()
            python.put_back()
        self.world, self.start = self.compiled.snapshot(self.trace, (args, {}))
        self.tensors = list(dict.fromkeys([*self.world.tensors, *self.trace.read_grads, *self.trace.written_grads]))
        self.grads = {t: t._grad for t in self.tensors}
        self.names = self.named()
        self.samples = [self.arrays]
        for _ in range(2):
            self.samples.append([shifted(a) for a in self.samples[-1]])

    def traced(self, arrays: list[Array]) -> Trace:
        return Compiled(self.step, keep_grads=True).traced_run(self.args, {}, arrays)

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Context manager: undoes changes made in the block."""
        state = self.state()
        try:
            yield
        finally:
            for part in state:
                part.put_back()

    def state(self) -> tuple[Snapshot, Objects]:
        """Everything that a call may change, as it is now."""
        arrays = [(array, text) for array, text, _ in self.start.arrays]
        return Snapshot(arrays, self.world, self.tensors), Objects(self.world)

    # Comparison of calls

    def call(self, k: int) -> CompiledReport:
        """Run call number k both ways. The state afterwards is that of the eager step."""
        arrays = self.samples[k % 3]
        before, python = self.state()
        try:
            eager = self.outcome(self.step, arrays)
        except Exception:
            if not k % 3:
                raise
            before.put_back()  # the step does not support the modified arguments
            python.put_back()
            self.samples = [self.arrays] * 3
            return self.call(k)
        after = self.state()
        before.put_back()
        python.put_back()
        for t, g in self.grads.items():
            t._grad = g
        compiled = self.outcome(self.compiled, arrays)
        self.replays += not self.compiled.why_not
        self.grads = {t: t._grad for t in self.tensors}
        used = [] if self.compiled.keep_grads else [p for optimiser in self.trace.optimisers for p in optimiser.params]
        for t in used:
            if t in self.trace.written_grads and t not in self.trace.read_grads:
                eager[f"{self.names[t]}.grad"] = None
        report = self.compare(k, arrays, eager, compiled, before)
        for part in after:
            part.put_back()
        return report

    def outcome(self, step: Callable[..., Any], arrays: list[Array]) -> dict[str, Any]:
        """The results and effects of a call, by name: copies of arrays; None for a missing `.grad`; other values are
        compared for equality.
        """
        leaves = [wrap(copy(a), None) for a in arrays]
        results, _, others = flattened(step(*with_leaves(self.args, iter(leaves))))
        values: dict[str, Any] = {f"result {i}": copy(t._data) for i, t in enumerate(results)}
        values["what it returns besides Tensors"] = repr(others)
        values |= {text: copy(array) for text, array in self.values().items()}
        values |= {f"{self.names[t]}.grad": None if (g := t._grad) is None else copy(g._data) for t in self.tensors}
        for optimiser, text in self.world.optimisers.items():
            values |= {f"{text}.steps": optimiser.steps, f"{text}.late": optimiser.late, f"{text}.rates": optimiser.rates}
        values |= {f"generator {i}": repr(random.state_of(rng)) for i, rng in enumerate(self.world.generators.values())}
        values |= {f"argument {i}": copy(leaf._data) for i, leaf in enumerate(leaves)}
        return values

    def named(self) -> dict[Tensor, str]:
        """Names of Tensors: paths of parameters, and names in the enclosing code for others; unique."""
        paths: dict[Tensor, str] = {}
        for module, text in self.world.modules.items():
            paths |= {p: f"{text}.{name}" for name, p in module._parameters.items()}
        names: dict[Tensor, str] = {}
        for t in self.tensors:
            text = paths.get(t) or t.name or self.world.tensors.get(t) or f"a Tensor {t.shape}"
            text = plain(text)
            names[t] = text if text not in names.values() else f"{text} ({len(names)})"
        return names

    def values(self) -> dict[str, Array]:
        """All arrays that the step can reach, by name."""
        values_by_name: dict[str, Array] = {}
        for optimiser in self.world.optimisers:
            for p, slots in zip(optimiser.params, optimiser.state, strict=True):
                values_by_name |= {f"{slot} of {self.names[p]}": array for slot, array in slots.items()}
        values_by_name |= {self.names[t]: t._data for t in self.world.tensors}
        for module, text in self.world.modules.items():
            values_by_name |= {f"{plain(text)}.{name}": array for name, array in module._buffers.items()}
        known_arrays = list(values_by_name.values())
        for array, text, _ in self.start.arrays:
            if not any(may_overlap(array, other) for other in known_arrays):
                values_by_name[text if text not in values_by_name else f"{text} ({len(values_by_name)})"] = array
        return values_by_name

    def compare(
        self, k: int, arrays: list[Array], eager: dict[str, Any], compiled: dict[str, Any], before: Snapshot
    ) -> CompiledReport:
        report = CompiledReport()
        differences: dict[str, Difference] = {}
        unclear = []
        for text, expected in eager.items():
            actual = compiled[text]
            if not (has_floats(expected) and has_floats(actual)):
                arrays_too = hasattr(expected, "dtype") and hasattr(actual, "dtype")
                if not (verify.same(expected, actual) if arrays_too else expected == actual):
                    differences[text] = Difference(
                        Outcome(text, self.source(text), np.zeros(0)), (), describe(actual), describe(expected)
                    )
            elif actual.shape != expected.shape or actual.dtype != expected.dtype:
                kinds = [f"{a.shape} {a.dtype}" for a in (actual, expected)]
                differences[text] = Difference(Outcome(text, self.source(text), expected), (), *kinds)
            elif not verify.close(expected, actual):
                unclear.append(text)
        differences |= {d.outcome.text: d for d in self.second_look(unclear, arrays, eager, compiled, before)}
        for text, expected in eager.items():
            actual = compiled[text]
            if has_floats(expected) and has_floats(actual) and actual.shape == expected.shape:
                report.compared.append(finding(k, text, expected, actual, text in differences))
        report.differences = [f"call {k + 1}: {d} compiled, and {d.expected!r} as it is written" for d in differences.values()]
        return report

    def second_look(
        self, unclear: list[str], arrays: list[Array], eager: dict[str, Any], compiled: dict[str, Any], before: Snapshot
    ) -> list[Difference]:
        """The values that differ by more than rounding explains, estimated with a recorded run from the same state."""
        if not unclear:
            return []
        before.put_back()
        trace = self.traced(arrays)
        stand_ins = dict(zip(trace.inputs(), arrays, strict=False))

        def leaf_values() -> dict[Any, Array]:
            before.put_back()
            return {leaf: copy(stand_ins.get(leaf, leaf._data)) for leaf in trace.program().leaves}

        before.put_back()
        parts = {text: self.part(text, trace, eager[text].shape) for text in unclear}
        outcomes = {text: Outcome(text, self.source(text, trace), parts[text].embedded(eager[text])) for text in unclear}
        actual = {text: parts[text].embedded(compiled[text]) for text in unclear}
        recorded = [text for text in unclear if outcomes[text].source is not None]
        differences = [first_difference(outcomes[text], actual[text]) for text in unclear if text not in recorded]
        differences += verify.differences(
            trace, [outcomes[text] for text in recorded], [actual[text] for text in recorded], leaf_values
        )
        return [d._replace(position=parts[d.outcome.text].place(d.position)) for d in differences]

    def part(self, text: str, trace: Trace, shape: tuple[int, ...]) -> Part:
        """The part of an assigned array that is a value: an optimiser's parameters may be assigned as one array."""
        array = self.values().get(text)
        targets = [a.target for a in trace.assignments if array is not None and may_overlap(a.target, array)]
        if array is None or not targets or targets[-1].shape == shape:
            return Part(shape, shape, 0)
        start = (address(array) - address(targets[-1])) // array.itemsize
        is_inside = start >= 0 and start + array.size <= targets[-1].size
        return Part(shape, targets[-1].shape, start) if is_inside else Part(shape, shape, 0)

    def source(self, text: str, trace: Trace | None = None) -> Any:
        """The source of a value in a recorded run: a node or a leaf; None if it is not recorded."""
        trace = trace or self.trace
        for i, t in enumerate(trace.results):
            if text == f"result {i}":
                return trace.source(t)
        for t, g in trace.kept_grads.items():
            if text == f"{self.names[t]}.grad":
                return trace.source(g)
        array = self.values().get(text)
        assigned = [a.value for a in trace.assignments if array is not None and may_overlap(a.target, array)]
        return trace.source(assigned[-1]) if assigned else None


class Part(NamedTuple):
    """The position of a value in a larger array, in row-major order."""

    shape: tuple[int, ...]
    outer_shape: tuple[int, ...]
    start: int

    def embedded(self, values: Array) -> Array:
        """The larger array, with zeros elsewhere."""
        if self.shape == self.outer_shape:
            return values
        result = np.zeros(self.outer_shape, values.dtype)
        result.reshape(-1)[self.start : self.start + values.size] = verify.on_cpu(values).reshape(-1)
        return result

    def place(self, at: tuple[int, ...]) -> tuple[int, ...]:
        """The index of an element, given its index in the larger array."""
        if self.shape == self.outer_shape:
            return at
        number = int(np.ravel_multi_index(at, self.outer_shape)) - self.start
        return tuple(int(n) for n in np.unravel_index(number, self.shape))


def first_difference(outcome: Outcome, actual: Array) -> Difference:
    """The first differing element, ignoring rounding."""
    at = tuple(int(n) for n in np.argwhere(verify.on_cpu(outcome.value) != verify.on_cpu(actual))[0])
    return Difference(outcome, at, actual[at], outcome.value[at])


def finding(k: int, text: str, expected: Array, actual: Array, is_wrong: bool) -> Finding:
    """The finding for a value of a call."""
    verdicts = np.full(expected.shape, "differs" if is_wrong else "ok", "U16")
    a, b = (verify.on_cpu(x).astype(np.float64) for x in (actual, expected))
    return Finding.of(text, expected.shape, 0, verdicts, a, b, lambda at: f"call {k + 1} {[int(n) for n in at] or ''}")


def merged(before: list[Finding], findings: list[Finding]) -> list[Finding]:
    """For each value the worst finding of any call."""
    worst = {f.name: f for f in before}
    for f in findings:
        previous = worst.get(f.name)
        worse = previous is None or (f.verdict != "ok", f.relative) > (previous.verdict != "ok", previous.relative)
        worst[f.name] = f if worse or previous is None else previous
    return list(worst.values())


def has_floats(value: Any) -> bool:
    return hasattr(value, "dtype") and is_floating(value.dtype)


def plain(text: str) -> str:
    """A path without its root."""
    return text.removeprefix("closure ").removeprefix("global ")


def describe(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
