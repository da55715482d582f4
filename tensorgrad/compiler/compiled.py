"""Compiled: the function that traces at first, and replays from then on."""

from __future__ import annotations

import _thread
import copy
import functools
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.compiler import verify
from tensorgrad.compiler.containers import arguments, as_tensors, inventory, taken_apart, with_leaves
from tensorgrad.compiler.guards import Guards
from tensorgrad.compiler.history import connected
from tensorgrad.compiler.plan import Plan
from tensorgrad.compiler.repeats import NotRepeatable, Repeats
from tensorgrad.compiler.trace import Line, Trace, compare, equal, place_of, trace
from tensorgrad.compiler.trace import shown as rates_shown
from tensorgrad.compiler.world import Objects, Snapshot, World, shifted
from tensorgrad.core import memory
from tensorgrad.core.backend import Array, digest, may_overlap
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.forks import after_fork
from tensorgrad.core.location import warn
from tensorgrad.core.state import is_checking, is_recording, state, switched, who_measures
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError, GraphError

PATIENCE = 8  # runs of a step's Python one after the other, without a replay, before a word is said
SMALL = 65_536  # bytes up to which an array that Python reads is compared before each replay
KINDS = 256  # of arguments for which plans are kept, the latest
TRIALS = 4  # of a plan, where other threads may draw from the generators that all of them share


class Drew(CompileError):
    """Random numbers were drawn while a plan was tried out."""


# One plan is made at a time: generators that the whole process has are changed for it, looked at, and put back
_planning = threading.RLock()
_steps: weakref.WeakSet[Compiled] = weakref.WeakSet()


def reset_after_fork() -> None:
    """In a process that was forked: whoever else had a lock is not there to let it go."""
    global _planning
    _planning = threading.RLock()
    for step in _steps:
        step.lock = threading.RLock()


def forget_plans() -> None:
    """Something that no guard looks at has changed for all steps."""
    for step in list(_steps):
        step.entries.clear()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """No other thread makes a plan in the block; but a step that waits for one that wants to is not held up for ever."""
    lock = _planning
    has_lock = lock.acquire(timeout=30)
    try:
        yield
    finally:
        if has_lock:
            lock.release()


after_fork(reset_after_fork)


class Compiled:
    """A compiled step. Call it as the step itself.

    step      the function that was compiled
    plan      the Plan of the last call; None before there is one
    why_not   why the last call was no replay, in words; "" if it was one
    """

    def __init__(self, step: Callable[..., Any], keep_grads: bool = False, ahead: bool = False) -> None:
        functools.update_wrapper(self, step, updated=())
        self.step, self.keep_grads, self.ahead = step, keep_grads, ahead
        self.name = getattr(step, "__name__", type(step).__name__)
        self.entries: dict[Any, Entry] = {}
        self.plan: Plan | None = None
        self.why_not = ""
        self.lock = threading.RLock()
        _steps.add(self)
        self.runs = 0  # of the step's Python since the last replay
        self.has_warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None or is_checking():
            return self.as_written(args, kwargs)
        key, arrays = arguments(args, kwargs)
        with self.lock:
            entry = self.entries.get((is_recording(), key))
            if entry is not None:
                for variant in entry.variants:
                    if variant.hold():
                        if variant.is_plain and who_measures() is None:
                            plan = self.plan = variant.plan
                            if self.runs:
                                self.runs, self.why_not = 0, ""
                            return plan.rebuild(plan.run(arrays))
                        return self.replay(variant, args, kwargs, arrays)
            return self.make(entry or self.entry(key), args, kwargs, arrays)

    def repeat(
        self, batch: tuple[Array, ...], arrays: tuple[Array, ...], order: Array | None, size: int, first: int, count: int
    ) -> tuple[int, Any, BaseException | None]:
        """Calls with the batches that follow one another in some arrays, without Python in between; none where that is needed.

        batch    arguments of a call that has been made
        arrays   all samples, along the first axis;  order: their valid indices, the samples of one batch after those of the
                 other; None if they lie so
        size     samples per batch, as many as `batch` has
        first    the first batch, from 0;  count: how many at most

        Returns how many calls have been made, what they return, each Tensor with a new first axis of calls, and the exception
        that has ended them, if one has.
        """
        none: tuple[int, Any, None] = (0, None, None)
        if state.trace is not None or is_checking() or who_measures() is not None:
            return none
        key, _ = arguments(batch, {})
        with self.lock:
            entry = self.entries.get((is_recording(), key))
            variant = next((v for v in entry.variants if v.hold()), None) if entry is not None else None
            repeats = None if variant is None else variant.repeats(arrays, order is not None, size)
            if repeats is None:
                return none
            for array in arrays:
                repeats.plan.check_apart(array)
            self.plan, self.runs, self.why_not = repeats.plan, 0, ""
            return repeats(first * size, None if order is None else order[first * size :], count)

    def replay(self, variant: Variant, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        plan = self.plan = variant.plan
        if plan.fault:
            self.why_not = f"its plan is wrong: {plan.fault}"
            return self.as_it_is(args, kwargs, arrays)
        self.runs, self.why_not = 0, ""
        profiler = who_measures()
        if profiler is None:
            results = plan.run(arrays)
        else:
            function, seconds = plan.timed
            seconds.clear()
            results = plan.run(arrays, function)
            for kernel, module, cost in plan.spent(seconds):
                profiler.note(kernel, module, cost)
        if variant.connected.results and state.recording:
            results = self.with_history(variant.connected, results, args, kwargs)
        return plan.rebuild(results)

    def as_written(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The step itself, arrays being Tensors to it as ever."""
        args, kwargs = as_tensors((args, kwargs))
        return self.step(*args, **kwargs)

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
        if entry.changes:
            return self.as_it_is(args, kwargs, arrays)
        with one_at_a_time():
            # of lists that grow from call to call only the program can say whether it depends on them
            pending = next((p for p in entry.pending if all(g.is_length for g in p.guards.failing())), None)
            if pending is None and self.ahead:
                pending = self.first(entry, args, kwargs, arrays, counts=False)[1]
            variant = None if pending is None else self.second(entry, pending, args, kwargs, arrays)
        if variant is not None:
            memory.release()  # a replay has memory of its own, which is less than that of the runs that were recorded
            return self.replay(variant, args, kwargs, arrays)
        if entry.changes:
            return self.as_it_is(args, kwargs, arrays)
        found, _ = self.first(entry, args, kwargs, arrays, counts=True)
        return self.results_of(found, args, kwargs)

    def as_it_is(self, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        """A call of a step that is not replayed."""
        found = self.traced(args, kwargs, arrays)
        found.settle()
        return self.results_of(found, args, kwargs)

    def second(
        self, entry: Entry, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]
    ) -> Variant | None:
        """The plan that a second run makes possible. None if the two differ, and something that the first one took for given
        has changed between them, or if the step fails by itself: this one is a first run then."""
        entry.pending = [p for p in entry.pending if p is not pending]
        failing = [guard.text for guard in pending.guards.failing()]
        failing += [f"an array {array.shape} has its elements" for array, values in pending.small if not equal(array, values)]
        try:
            variant = self.planned(entry, pending, args, kwargs, arrays)
        except CompileError:
            if not failing:
                raise
            self.why_not = entry.reason = f"{failing[0]} no longer"
            return None
        entry.reason = ""
        if entry.changes:
            if pending.objects is not None:
                pending.objects.put_back()
            self.changes_objects(entry.changes)
        if variant is not None:
            entry.variants = [variant, *(v for v in entry.variants if v.guards.failed())][:PATIENCE]
        return variant

    def results_of(self, found: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the step itself has returned, as a replay returns it."""
        results = [wrap(copied(t._data), None) for t in found.results]
        connected = self.history_of(found)
        if connected.results and state.recording:
            results = self.with_history(connected, results, args, kwargs)
        let_go(found)
        return found.rebuild(results)

    def first(
        self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array], counts: bool
    ) -> tuple[Trace, Pending]:
        """A first run of the step. If it does not count, all that it changes is put back."""
        world = self.world(None, (args, kwargs))
        before = None if counts else Snapshot(world.data([], []), world, [])
        objects = None if counts else Objects(world)
        try:
            with switched(rehearsing=not counts):
                found = self.traced(args, kwargs, arrays)
            if counts:
                found.settle()
            else:
                found.undo()
        finally:
            if before is not None:
                before.put_back()
        targets = [a.target for a in found.assignments]
        small = [(a, copied(a)) for a in small_arrays(world) if not any(may_overlap(a, target) for target in targets)]
        guards = Guards(found, self.world(found, (args, kwargs)), found.optimisers if counts else ())
        pending = Pending(found.lines(), found.plain, found, guards, small, objects)
        entry.pending = [pending, *entry.pending][:PATIENCE]
        return found, pending

    def planned(
        self, entry: Entry, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]
    ) -> Variant | None:
        """A plan, tried out; where random numbers seem to be drawn, but by another thread perhaps, a few times."""
        trials = 0
        while True:
            try:
                with switched(rehearsing=True):
                    return self.tried(entry, pending, args, kwargs, arrays)
            except Drew as drew:
                trials += 1
                if trials == TRIALS or threading.active_count() == 1:
                    raise CompileError(str(drew)) from None

    def tried(
        self, entry: Entry, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]
    ) -> Variant | None:
        """A plan, made of a second run of the step - on other samples, other parameters, other arrays from outside - and
        verified by running it on the same. All that both change is put back. None if the step fails, or if it changes Python
        objects each time that it runs, as `entry` says from then on.

        What would be the same array in all runs, though computed of those without being recorded, could not be told from a
        constant.
        """
        first = pending.trace
        world, before = self.reached(first, (args, kwargs))
        objects = Objects(world)
        ready = say_if_slow(self.name, len(first.program().nodes))
        try:
            found, others = self.disturbed(args, kwargs, arrays, before)
            if changed := objects.changed():
                entry.changes = changed
                return None
            try:
                self.agree(pending, found)
            except CompileError:
                small = small_arrays(world)
                if not small or not before.shifts:
                    raise
                # perhaps Python reads these, and they are the same in the next call, too
                before.spared += small
                found, others = self.disturbed(args, kwargs, arrays, before)
                self.agree(pending, found)
                found.frozen += [(array, copied(array)) for array in small]
            for optimiser in found.optimisers:
                optimiser.flush()
            self.rates_hold(found, before)
            self.written_by_others(found, before)
            drawn = before.generator_states()
            expected = verify.outcomes(found, assigned(found))
            before.disturb()
            plan = Plan(found)
            if plan.fault:
                self.faulty(plan)
            else:
                self.verified(plan, found, expected, others, before, drawn)
        except StepFailed:
            return None
        finally:
            ready.set()
            objects.put_back()
            before.put_back()
        read = [leaf._data for leaf in found.program().leaves] + [a.target for a in found.assignments]
        frozen = {id(array) for array, _ in found.frozen} | world.buffers
        unread = [a for a in small_arrays(world) if id(a) not in frozen and not any(may_overlap(a, b) for b in read)]
        found.frozen += [(a, copied(a)) for a in unread]  # perhaps the step's Python acts on them
        guards = Guards(found, self.world(found, (args, kwargs)))
        plan.guards = guards.all()
        variant = Variant(plan, guards, self.history_of(found))
        let_go(found)
        return variant

    def reached(self, first: Trace, given: Any) -> tuple[World, Snapshot]:
        """What the step can reach, and all of it that a run may change, as it is now. first: what a run has recorded."""
        world = self.world(first, given)
        read = [leaf for leaf in first.program().leaves if not first.is_argument(leaf)]
        outside = [leaf for leaf in read if leaf not in first.inside]  # another one has been made of the same numbers since
        near = [(leaf._data, leaf.name or "a Tensor") for leaf in outside if leaf.requires_grad]
        near += [(a.target, "an array from outside") for a in first.assignments]
        near += [(g._data, f"{t.name or 'a Tensor'}.grad") for t in first.grads if (g := t._grad) is not None]
        before = Snapshot(world.data(near, [leaf._data for leaf in read]), world, [*first.grads, *first.regraded])
        before.spared = [array for array, _ in first.frozen]
        return world, before

    def disturbed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array], before: Snapshot
    ) -> tuple[Trace, list[Array]]:
        """A run on other samples and with other values of what is outside; and those samples. Raises StepFailed."""
        others = [shifted(a) for a in arrays]
        before.disturb()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that nobody has chosen
                return self.traced(args, kwargs, others), others
        except CompileError:
            raise
        except Exception:  # what was made up is nothing that the step takes
            others, before.shifts = [copied(a) for a in arrays], False
            before.disturb()
        try:
            return self.traced(args, kwargs, others), others
        except CompileError:
            raise
        except Exception as error:
            raise StepFailed from error

    def agree(self, pending: Pending, found: Trace) -> None:
        """Raise CompileError unless two runs of the step have done the same."""
        compare(pending.lines, found.lines())
        if repr(pending.plain) != repr(found.plain):
            raise CompileError(
                f"compile: the step{self.where} returned {shown(found.plain)} the second time, and {shown(pending.plain)} the "
                f"first time; a replay would always return one of the two. Return a Tensor, or leave it out"
            )

    def verified(
        self,
        plan: Plan,
        found: Trace,
        expected: list[verify.Outcome],
        arguments: list[Array],
        before: Snapshot,
        drawn: dict[str, Any],
    ) -> None:
        """Raise CompileError unless the plan gives what the traced run gave, from the same state, and draws what that drew."""
        with np.errstate(all="ignore"):
            values = [*plan.compute(arguments), *(copied(array) for array, _ in assigned(found))]
        self.drawn_by_others(drawn, before.generator_states())
        stand_ins = dict(zip(found.inputs(), arguments, strict=False))

        def known() -> dict[Any, Array]:
            before.disturb()
            sources = [found.source(leaf) for leaf in (*found.program().leaves, *found.returned())]
            return {leaf: copied(stand_ins.get(leaf, leaf._data)) for leaf in sources if isinstance(leaf, Tensor)}

        verify.compare(found, expected, values, known)

    def rates_hold(self, found: Trace, before: Snapshot) -> None:
        """Raise CompileError if the step has changed a learning rate before it used it."""
        rates = dict(zip(found.optimisers, found.rates, strict=True))
        for optimiser, _, then in before.optimisers:
            if rates.get(optimiser, then) != then:
                raise CompileError(
                    f"compile: the learning rate went from {rates_shown(then)} to {rates_shown(rates[optimiser])} before "
                    f"{type(optimiser).__name__}.step() inside the step{self.where}; a replay would not change it again. "
                    f"Do that outside the compiled step"
                )

    def written_by_others(self, found: Trace, before: Snapshot) -> None:
        """Raise CompileError if the run has changed an array that it is not known to have assigned."""
        targets = [a.target for a in found.assignments]
        for array, text, value in before.arrays:
            if any(may_overlap(array, target) for target in targets):
                continue
            if not verify.same(array, before.disturbed_values(array, value)):
                raise CompileError(
                    f"compile: the step writes to {text} {array.shape}, an outside array, by code that is not recorded; a "
                    f"replay would not. Use operations of Tensors (t -= ..., t[...] = ...), or do it outside the step"
                )

    def drawn_by_others(self, expected: dict[str, Any], found: dict[str, Any]) -> None:
        """Raise Drew if the run has drawn random numbers that the plan does not draw."""
        for name, then in expected.items():
            if found[name] != then:
                raise Drew(
                    f"compile: the step{self.where} draws random numbers from {name} by code that is not recorded; a replay "
                    f"would not draw new ones. Draw them outside the step and pass them, or use dropout"
                )

    def changes_objects(self, changed: str) -> None:
        """The step is run as it is written from now on."""
        self.why_not = f"the step itself changes {changed}, which a replay would not do"
        if not self.has_warned:
            self.has_warned = True
            warn(
                f"compile: {self.name} runs uncompiled, because it changes {changed} each time, which a replay would not "
                f"do. Do that outside the step, return it, or keep a number in a Tensor (t += 1)",
                RuntimeWarning,
            )

    def faulty(self, plan: Plan) -> None:
        warn(
            f"compile: {self.name} runs uncompiled, because its plan is wrong: {plan.fault}. This is a "
            f"bug in tensorgrad; please report it",
            RuntimeWarning,
        )

    def traced(self, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Trace:
        """One run of the step's Python, recorded."""
        leaves = [wrap(a, None) for a in arrays]
        args, kwargs = with_leaves((args, kwargs), iter(leaves))
        before = inventory((args, kwargs))

        def call() -> Any:
            result = self.step(*args, **kwargs)
            if inventory((args, kwargs)) != before:
                raise CompileError(
                    f"compile: the step{self.where} changes a list, dict or object that is an argument; the caller's one stays "
                    f"unchanged. Return the new value"
                )
            return result

        return trace(leaves, call, self.keep_grads, self.where)

    @property
    def where(self) -> str:
        """ " step (model.py:12)": where it is defined, for errors that have no line."""
        code = getattr(getattr(self.step, "__func__", self.step), "__code__", None)
        return "" if code is None else f" {self.name} ({Path(code.co_filename).name}:{code.co_firstlineno})"

    def world(self, found: Trace | None, given: Any) -> World:
        """What the step can reach: by name, what a run of it has met, and generators among the arguments."""
        roots: dict[str, Any] = {getattr(self.step, "__name__", "step"): self.step}
        roots |= {f"argument {i}": v for i, v in enumerate(leaves_of(given)) if isinstance(v, np.random.Generator)}
        if found is not None:
            roots |= {type(o).__name__: o for o in found.optimisers} | {m._name or type(m).__name__: m for m in found.modules}
            drawn = [v for node in found.program().nodes for v in node.attrs.values() if isinstance(v, np.random.Generator)]
            roots |= {f"generator {i}": rng for i, rng in enumerate(drawn)}
        return World(roots)

    def ran(self, entry: Entry) -> None:
        """Say once that the step's Python runs in every call, and why."""
        reasons = [v.guards.failed() for v in entry.variants] + [p.guards.failed() for p in entry.pending]
        why = next((f"{r} no longer" for r in reasons if r), "")
        if entry.changes:
            why = f"the step itself changes {entry.changes}, which a replay would not do"
        elif entry.reason:
            why = entry.reason
        elif not why:
            why = (
                "arguments of this kind are passed for the first time"
                if len(self.entries) == 1
                else "the arguments have a new kind"
            )
            if not entry.variants and not entry.pending and len(self.entries) > PATIENCE:
                why += "; a number that differs from call to call needs a plan for each value: pass it as an array"
        self.why_not = why
        self.runs += 1
        if self.runs > PATIENCE and not self.has_warned:
            self.has_warned = True
            warn(f"compile: {self.name} has run {self.runs} times without a replay: {why}", RuntimeWarning)

    # What results are to the graph around them

    def history_of(self, found: Trace) -> Connected:
        """Which results require a gradient that can still be asked for; what stands against asking; what they depend on."""
        which = tuple(i for i, t in enumerate(found.results) if t.requires_grad and not is_used_up(t))
        if not which:
            return Connected()
        why_not = ""
        if found.assignments or found.regraded:
            why_not = "changes what is outside of it"
        elif any(node.op.draws for node in found.program().nodes):
            why_not = "draws random numbers"
        leaves = [t for t in found.program().leaves if t.requires_grad and not found.is_argument(t)]
        leaves += [t for t in found.results if t.node is None and t.requires_grad and not found.is_argument(t)]
        data = [t for t in found.program().leaves if not t.requires_grad and not found.is_argument(t)]
        data += [wrap(array, None) for array, _ in found.frozen]
        return Connected(which, why_not, tuple(dict.fromkeys(leaves)), tuple(data))

    def with_history(
        self, connected_to: Connected, results: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        """The results, those of them connected to what they depend on that require a gradient."""
        given = tuple(t for t in leaves_of((args, kwargs)) if isinstance(t, Tensor) and t.requires_grad)
        kept = as_tensors((args, kwargs), copied)  # the caller may write to them meanwhile
        before = [digest(t._data) for t in connected_to.data]

        def again(i: int) -> Tensor:
            changed = next((t for t, was in zip(connected_to.data, before, strict=True) if digest(t._data) != was), None)
            if changed is not None:
                raise GraphError(
                    f"compiled: {self.name} reads {changed.name or 'an outside array'} {changed.shape}, which was "
                    f"changed later; a gradient would use its new values. Change it after backward(), or make it an argument"
                )
            return taken_apart(self.as_written(*kept))[0][i]

        found = list(results)
        for i in connected_to.results:
            tensors = (*given, *connected_to.leaves)
            found[i] = connected(results[i]._data, tensors, functools.partial(again, i), connected_to.why_not)
        return found

    # As an attribute, a copy, in a file

    def __get__(self, owner: Any, kind: type | None = None) -> Compiled:
        """A step that is defined in a class: one of its own for each object, kept by it."""
        if owner is None:
            return self
        key = f"_compiled_{self.name}_{id(self)}"
        space = getattr(owner, "__dict__", None)
        found = None if space is None else space.get(key)
        if found is None:
            found = Compiled(types.MethodType(self.step, owner), self.keep_grads, self.ahead)
            if space is not None:
                space[key] = found
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.step, memo), self.keep_grads, self.ahead)

    def __reduce__(self) -> Any:
        """Without plans; one that decorates a function of a module by the name of that."""
        name = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(getattr(self, "__module__", ""))
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is self else (Compiled, (self.step, self.keep_grads, self.ahead))

    def __repr__(self) -> str:
        plans = sum(len(entry.variants) for entry in self.entries.values())
        made = "no plan yet"
        if self.plan is not None:
            made = f"{plans} plan{'s' * (plans != 1)}, the last used has {len(self.plan.calls)} kernels"
        why_not = f"; the last call was no replay: {self.why_not}" if self.why_not else ""
        return f"<compiled {getattr(self, '__qualname__', self.step)}: {made}{why_not}>"


class StepFailed(Exception):
    """The step has failed by itself in the run for its plan."""


class Pending(NamedTuple):
    """A first run that waits for a second: its program, what it returned besides Tensors, what it took for given; the small
    arrays around it that it does not assign, with their values then; the Python objects before it, if it does not count."""

    lines: list[Line]
    plain: Any
    trace: Trace
    guards: Guards
    small: list[tuple[Array, Array]]
    objects: Objects | None


class Connected(NamedTuple):
    """The results that require a gradient;  why_not: what stands against asking for it, "" if nothing does;  leaves, data:
    the Tensors from outside that they depend on, those that require one and those that do not."""

    results: tuple[int, ...] = ()
    why_not: str = ""
    leaves: tuple[Tensor, ...] = ()
    data: tuple[Tensor, ...] = ()


class Variant:
    """A plan and its guards. hold: says whether they do;  is_plain: nothing has to be seen to besides running it."""

    def __init__(self, plan: Plan, guards: Guards, connected: Connected) -> None:
        self.plan, self.guards, self.connected = plan, guards, connected
        self.hold = guards.hold
        self.is_plain = not plan.fault and not connected.results
        self.repeated: Repeats | None = None
        self.can_repeat = self.is_plain and plan.program is not None

    def repeats(self, arrays: tuple[Array, ...], is_shuffled: bool, size: int) -> Repeats | None:
        """The plan for batches of these arrays; None if it cannot be repeated without Python."""
        if self.can_repeat and (self.repeated is None or not self.repeated.fits(arrays, is_shuffled, size)):
            try:
                self.repeated = Repeats(self.plan, arrays, is_shuffled, size)
            except NotRepeatable:
                self.repeated, self.can_repeat = None, False
        return self.repeated


class Entry:
    """What is known for arguments of one kind: plans, the latest first, and first runs that wait for a second.

    changes   what the step itself changes each time, which is why there are none; "" if it does not
    reason    why the last second run was another first one; "" if it was not
    """

    def __init__(self) -> None:
        self.variants: list[Variant] = []
        self.pending: list[Pending] = []
        self.changes = ""
        self.reason = ""


def small_arrays(world: World) -> list[Array]:
    """Arrays of the world, no data of Tensors, that it costs nothing to compare."""
    return [array for array, _ in world.arrays.values() if array.nbytes <= SMALL]


def say_if_slow(name: str, operations: int) -> threading.Event:
    """A line for whoever waits, unless the event that is returned is set within a second."""
    ready = threading.Event()

    def wait() -> None:  # keeps no step alive
        if not ready.wait(1.0):
            print(f"compile: {name}: {operations:,} operations; kernels are compiled", file=sys.stderr)

    _thread.start_new_thread(wait, ())  # without waiting for it to begin, as threading.Thread does
    return ready


def assigned(found: Trace) -> list[tuple[Array, str]]:
    """The arrays from outside that a run has written to, each once, with names."""
    names = found.names()
    targets = {id(a.target): a.target for a in found.assignments}
    return [(array, names.get(place_of(array), "what is written to an array from outside")) for array in targets.values()]


def is_used_up(t: Tensor) -> bool:
    """Whether backward() has let go of what a Tensor was computed from."""
    return t.node is not None and type(t.node.saved) is not tuple


def let_go(found: Trace) -> None:
    """Drop the arrays of a run; its nodes stay, as names."""
    for node in found.program().nodes:
        node.saved, node.out, node.alive = (), None, None
    for t in found.arguments:
        t._data = np.broadcast_to(np.zeros((), t.dtype), t.shape)
    found.saved.clear()
    found.kept.clear()
    found.results.clear()


def leaves_of(value: Any) -> list[Any]:
    """What a nest of tuples, lists and dicts holds."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in leaves_of(part)] if isinstance(value, (list, tuple)) else [value]


def shown(plain: Any) -> str:
    text = repr(plain).replace("<class 'tensorgrad.core.tensor.Tensor'>", "Tensor")
    return text if len(text) < 80 else f"{text[:77]}..."
