"""Compiled: the function that traces at first, and replays from then on."""

from __future__ import annotations

import copy
import functools
import sys
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler import verify
from tensorgrad.compiler.containers import arguments, with_leaves
from tensorgrad.compiler.guards import Guards
from tensorgrad.compiler.history import connected
from tensorgrad.compiler.plan import Plan
from tensorgrad.compiler.trace import Line, Trace, compare, trace
from tensorgrad.compiler.world import Snapshot, World, shift, shifted
from tensorgrad.core.backend import Array, may_overlap
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.state import state
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError

PATIENCE = 8  # runs of a step's Python one after the other, without a replay, before a word is said
KINDS = 256  # of arguments for which plans are kept, the latest


class Compiled:
    """A compiled step. Call it as the step itself.

    step      the function that was compiled
    plan      the Plan of the last call; None before there is one
    why_not   why the last call was no replay, in words; "" if it was one
    """

    def __init__(self, step: Callable[..., Any], keep_grads: bool = False, ahead: bool = False) -> None:
        functools.update_wrapper(self, step, updated=())
        self.step, self.keep_grads, self.ahead = step, keep_grads, ahead
        self.entries: dict[Any, Entry] = {}
        self.plan: Plan | None = None
        self.why_not = ""
        self.lock = threading.RLock()
        self.runs = 0  # of the step's Python since the last replay
        self.has_warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None or state.checking:
            return self.step(*args, **kwargs)
        key, arrays = arguments(args, kwargs)
        with self.lock:
            entry = self.entries.get((state.recording, key))
            if entry is not None:
                for variant in entry.variants:
                    if variant.guards.hold():
                        return self.replay(variant, args, kwargs, arrays)
            return self.make(entry or self.entry(key), args, kwargs, arrays)

    def replay(self, variant: Variant, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        plan = self.plan = variant.plan
        if plan.fault:
            self.why_not = f"its plan was found to be wrong: {plan.fault}"
            found = self.traced(args, kwargs, arrays)
            found.settle()
            return self.results_of(found, args, kwargs)
        self.runs, self.why_not = 0, ""
        if state.profile is None:
            results = plan.run(arrays)
        else:
            function, seconds = plan.timed
            seconds.clear()
            results = plan.run(arrays, function)
            for kernel, module, cost in plan.spent(seconds):
                state.profile.note(kernel, module, cost)
        if variant.connected and state.recording:
            results = self.with_history(variant, results, args, kwargs)
        return plan.rebuild(results)

    # Without a plan

    def entry(self, key: Any) -> Entry:
        """What is to be known of arguments of a new kind; the oldest is forgotten where there are too many."""
        if len(self.entries) >= KINDS:
            del self.entries[next(iter(self.entries))]
        found = self.entries[state.recording, key] = Entry()
        return found

    def make(self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        """A call for which there is no plan: the step itself runs, recorded; the second time a plan is made, and is run."""
        self.ran(entry)
        # of lists that grow from call to call only the program can say whether it depends on them
        pending = next((p for p in entry.pending if all(g.is_length for g in p.guards.failing())), None)
        if pending is None and self.ahead:
            pending = self.first(entry, args, kwargs, arrays, counts=False)[1]
        if pending is None:
            found, _ = self.first(entry, args, kwargs, arrays, counts=True)
            return self.results_of(found, args, kwargs)
        entry.pending.remove(pending)
        variant = self.second(pending, args, kwargs, arrays)
        entry.variants = [variant, *(v for v in entry.variants if v.guards.failed())][:PATIENCE]
        return self.replay(variant, args, kwargs, arrays)

    def results_of(self, found: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the step itself has returned, as a replay returns it."""
        results = [wrap(copied(t._data), None) for t in found.results]
        connected = self.history_of(found)
        if connected and state.recording:
            results = self.with_history(Variant(None, None, *connected), results, args, kwargs)
        return found.rebuild(results)

    def first(
        self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array], counts: bool
    ) -> tuple[Trace, Pending]:
        """A first run of the step. If it does not count, all that it changes is put back."""
        world = self.world()
        before = None if counts else Snapshot(world.data([], []), world, [])
        try:
            found = self.traced(args, kwargs, arrays)
            if counts:
                found.settle()
            else:
                found.undo()
        finally:
            if before is not None:
                before.put_back()
        pending = Pending(found.lines(), found.plain, found, Guards(found, self.world(found), world))
        entry.pending = [pending, *entry.pending][:PATIENCE]
        return found, pending

    def second(self, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Variant:
        """A plan, made of a second run of the step - on other samples, other parameters, other arrays from outside - and
        verified by running it on the same. All that both change is put back.

        What would be the same array in all runs, though computed of those without being recorded, could not be told from a
        constant.
        """
        first = pending.trace
        world = self.world(first)
        read = [leaf for leaf in first.program().leaves if not first.is_argument(leaf)]
        near = [(leaf._data, leaf.name or "a Tensor") for leaf in read if leaf.requires_grad]
        near += [(a.target, "an array from outside") for a in first.assignments]
        near += [(g._data, f"{t.name or 'a Tensor'}.grad") for t in first.grads if (g := t._grad) is not None]
        before = Snapshot(world.data(near, [leaf._data for leaf in read]), world, [*first.grads, *first.regraded])

        try:
            others = [shifted(a) for a in arrays]
            before.disturb()
            try:
                with np.errstate(all="ignore"):
                    found = self.traced(args, kwargs, others)
            except CompileError:
                raise
            except Exception:  # what was made up is nothing that the step takes
                others, before.shifts = [copied(a) for a in arrays], False
                before.disturb()
                found = self.traced(args, kwargs, others)
            compare(pending.lines, found.lines())
            if repr(pending.plain) != repr(found.plain):
                raise CompileError(
                    f"compile: the step returned {shown(found.plain)} the second time, and {shown(pending.plain)} at first; a "
                    f"replay would return one of the two for ever. Return a Tensor, or leave it out"
                )
            for optimiser in found.optimisers:
                optimiser.flush()
            self.written_by_others(found, before)
            expected = verify.outcomes(found, assigned(found))
            before.disturb()
            plan = Plan(found)
            if plan.fault:
                self.faulty(plan)
            else:
                self.verified(plan, found, expected, others, before)
            guards = Guards(found, self.world(found), world)
        finally:
            before.put_back()
        plan.guards = guards.all()
        variant = Variant(plan, guards, *(self.history_of(found) or ((), "", ())))
        let_go(found)
        return variant

    def verified(
        self, plan: Plan, found: Trace, expected: list[verify.Outcome], arguments: list[Array], before: Snapshot
    ) -> None:
        """Raise CompileError unless the plan gives what the traced run gave, from the same state."""
        with np.errstate(all="ignore"):
            results, gradients = plan.compute(arguments)
        values = [*results, *gradients, *(copied(array) for array, _ in assigned(found))]
        stand_ins = dict(zip(found.inputs(), arguments, strict=False))

        def known() -> dict[Any, Array]:
            before.disturb()
            return {leaf: copied(stand_ins.get(leaf, leaf._data)) for leaf in found.program().leaves}

        verify.compare(found, expected, values, known)

    def written_by_others(self, found: Trace, before: Snapshot) -> None:
        """Raise CompileError if the run has changed an array that it is not known to have assigned."""
        targets = [a.target for a in found.assignments]
        for array, text, value in before.arrays:
            if any(may_overlap(array, target) for target in targets):
                continue
            then = copied(value)
            if before.shifts:
                shift(then)
            if not verify.same(array, then):
                raise CompileError(
                    f"compile: the step writes to {text} {array.shape}, an array from outside, by code that is not recorded; a "
                    f"replay would not. Use operations of Tensors (t -= ..., t[...] = ...), or do it outside of the step"
                )

    def faulty(self, plan: Plan) -> None:
        warnings.warn(
            f"compile: {self.__name__} is run as it is written, for its plan was found to be wrong: {plan.fault}. This is a "
            f"fault of tensorgrad; please report it",
            RuntimeWarning,
            stacklevel=5,
        )

    def traced(self, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Trace:
        """One run of the step's Python, recorded."""
        leaves = [wrap(a, None) for a in arrays]
        args, kwargs = with_leaves((args, kwargs), iter(leaves))
        return trace(leaves, lambda: self.step(*args, **kwargs), self.keep_grads)

    def world(self, found: Trace | None = None) -> World:
        """What the step can reach: by name, and what a run of it has met."""
        roots: dict[str, Any] = {getattr(self.step, "__name__", "step"): self.step}
        if found is not None:
            roots |= {type(o).__name__: o for o in found.optimisers} | {m._name or type(m).__name__: m for m in found.modules}
        return World(roots)

    def ran(self, entry: Entry) -> None:
        """Say once that the step's Python runs in every call, and why."""
        reasons = [v.guards.failed() for v in entry.variants] + [p.guards.failed() for p in entry.pending]
        why = next((f"{r} no longer" for r in reasons if r), "")
        if not why:
            why = (
                "arguments of this kind come for the first time"
                if len(self.entries) == 1
                else "the arguments are of a new kind"
            )
            if not entry.variants and not entry.pending and len(self.entries) > PATIENCE:
                why += "; a number that differs from call to call makes a plan for each: pass it as an array"
        self.why_not = why
        self.runs += 1
        if self.runs > PATIENCE and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"compile: {self.__name__} has run {self.runs} times without a replay: {why}", RuntimeWarning, stacklevel=4
            )

    # What results are to the graph around them

    def history_of(self, found: Trace) -> tuple[tuple[int, ...], str, tuple[Tensor, ...]] | None:
        """Which results require a gradient that can still be asked for; what stands against asking; what they depend on."""
        which = tuple(i for i, t in enumerate(found.results) if t.requires_grad and not is_used_up(t))
        if not which:
            return None
        why_not = ""
        if found.assignments or found.regraded:
            why_not = "changes what is outside of it"
        elif any(node.op.name == "keep_mask" for node in found.program().nodes):
            why_not = "draws random numbers"
        leaves = [t for t in found.program().leaves if t.requires_grad and not found.is_argument(t)]
        leaves += [t for t in found.results if t.node is None and t.requires_grad and not found.is_argument(t)]
        return which, why_not, tuple(dict.fromkeys(leaves))

    def with_history(
        self, variant: Variant, results: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        """The results, those of them connected to what they depend on that require a gradient."""
        given = tuple(t for t in tensors_in((args, kwargs)) if t.requires_grad)
        kept = copy_arrays((args, kwargs))  # the caller may write to them meanwhile

        def again(i: int) -> Tensor:
            from tensorgrad.compiler.containers import taken_apart

            return taken_apart(self.step(*kept[0], **kept[1]))[0][i]

        found = list(results)
        for i in variant.connected:
            tensors = (*given, *variant.leaves)
            found[i] = connected(results[i]._data, tensors, functools.partial(again, i), variant.why_not)
        return found

    # As an attribute, a copy, in a file

    def __get__(self, owner: Any, kind: type | None = None) -> Compiled:
        """A step that is defined in a class: one of its own for each object, kept by it."""
        if owner is None:
            return self
        key = f"_compiled_{self.__name__}_{id(self)}"
        space = getattr(owner, "__dict__", None)
        found = None if space is None else space.get(key)
        if found is None:
            found = Compiled(types.MethodType(self.step, owner), self.keep_grads, self.ahead)
            if space is not None:
                space[key] = found
        return found  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.step, memo), self.keep_grads, self.ahead)

    def __reduce__(self) -> Any:
        """Without plans; one that decorates a function of a module by the name of that."""
        name = getattr(self, "__qualname__", "")
        module = sys.modules.get(getattr(self, "__module__", ""))
        if (
            "<locals>" not in name
            and module is not None
            and functools.reduce(lambda value, part: getattr(value, part, None), name.split("."), module) is self
        ):
            return name
        return Compiled, (self.step, self.keep_grads, self.ahead)

    def __repr__(self) -> str:
        return f"<compiled {getattr(self, '__qualname__', self.step)}>"


class Pending(NamedTuple):
    """A first run that waits for a second: its program, what it returned besides Tensors, and what it took for given."""

    lines: list[Line]
    plain: Any
    trace: Trace
    guards: Guards


class Variant(NamedTuple):
    """A plan and its guards. connected: the results that require a gradient;  why_not: what stands against asking for it;
    leaves: the Tensors from outside that they depend on."""

    plan: Any
    guards: Any
    connected: tuple[int, ...] = ()
    why_not: str = ""
    leaves: tuple[Tensor, ...] = ()


class Entry:
    """What is known for arguments of one kind: plans, the latest first, and first runs that wait for a second."""

    def __init__(self) -> None:
        self.variants: list[Variant] = []
        self.pending: list[Pending] = []


def assigned(found: Trace) -> list[tuple[Array, str]]:
    """The arrays from outside that a run has written to, each once, with names."""
    names = found.names()
    targets = {id(a.target): a.target for a in found.assignments}
    return [(array, names.get((0, 0), "") or "what is written to an array from outside") for array in targets.values()]


def is_used_up(t: Tensor) -> bool:
    """Whether backward() has let go of what a Tensor was computed from."""
    return t.node is not None and type(t.node.saved) is not tuple


def let_go(found: Trace) -> None:
    """Drop the arrays of a run; its nodes stay, as names."""
    for node in found.program().nodes:
        node.saved, node.out = (), None
    for t in found.arguments:
        t._data = np.broadcast_to(np.zeros((), t.dtype), t.shape)
    found.saved.clear()


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for part in value for t in tensors_in(part)] if isinstance(value, (list, tuple)) else []


def copy_arrays(value: Any) -> Any:
    """Arguments with their arrays copied; Tensors are themselves."""
    if isinstance(value, np.ndarray):
        return wrap(value.copy(), None)
    if isinstance(value, (list, tuple)):
        parts = [copy_arrays(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: copy_arrays(part) for key, part in value.items()}
    return value


def shown(plain: Any) -> str:
    text = repr(plain).replace("<class 'tensorgrad.core.tensor.Tensor'>", "Tensor")
    return text if len(text) < 80 else f"{text[:77]}..."
