"""Compiled: the function that traces a step first, and replays it from then on."""

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
from tensorgrad.compiler.containers import arguments, as_tensors, flattened, inventory, with_leaves
from tensorgrad.compiler.guards import Guards
from tensorgrad.compiler.history import connected
from tensorgrad.compiler.plan import Plan
from tensorgrad.compiler.repeats import NotRepeatable, Repeats
from tensorgrad.compiler.trace import Line, Trace, compare, describe_rates, equal, place_of, trace
from tensorgrad.compiler.world import Objects, Snapshot, World, shifted
from tensorgrad.core import memory
from tensorgrad.core.backend import Array, digest, may_overlap
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.forks import after_fork
from tensorgrad.core.location import warn
from tensorgrad.core.state import is_checking, is_recording, state, switched, who_measures
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError, GraphError

PATIENCE = 8  # consecutive runs of a step's Python without a replay before a warning
SMALL_BYTES = 65_536  # largest array, in bytes, that is compared before each replay if Python reads it
MAX_ENTRIES = 256  # of the cache of a step, one for each kind of arguments; the oldest is dropped
MAX_ATTEMPTS = 4  # attempts at a plan while other threads may draw from shared generators


class UnrecordedDraw(CompileError):
    """Random numbers were drawn by code that is not recorded, or by another thread, while a plan was verified."""


# One plan is made at a time: global random generators are changed for it, compared, and restored
_planning = threading.RLock()
_steps: weakref.WeakSet[Compiled] = weakref.WeakSet()


def reset_after_fork() -> None:
    """Replace the locks in a forked process: threads that held them do not exist there."""
    global _planning
    _planning = threading.RLock()
    for step in _steps:
        step.lock = threading.RLock()


def forget_plans() -> None:
    """Drop all plans, after a change that no guard watches."""
    for step in list(_steps):
        step.entries.clear()


@contextmanager
def one_plan_at_a_time() -> Iterator[None]:
    """No other thread makes a plan in the block. The timeout avoids deadlocks with steps that wait for such a thread."""
    lock = _planning
    has_lock = lock.acquire(timeout=30)
    try:
        yield
    finally:
        if has_lock:
            lock.release()


after_fork(reset_after_fork)


class Compiled:
    """A compiled step. Call it like the step itself.

    step      the function that was compiled
    plan      the Plan of the last replay; None before the first one
    why_not   why the last call was not a replay; "" if it was one
    """

    def __init__(self, step: Callable[..., Any], keep_grads: bool = False, ahead: bool = False) -> None:
        functools.update_wrapper(self, step, updated=())
        self.step, self.keep_grads, self.ahead = step, keep_grads, ahead
        self.name = getattr(step, "__name__", type(step).__name__)
        self.entries: dict[Any, CacheEntry] = {}
        self.plan: Plan | None = None
        self.why_not = ""
        self.lock = threading.RLock()
        _steps.add(self)
        self.runs = 0  # of the step's Python since the last replay
        self.has_warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None or is_checking():
            return self.call_step(args, kwargs)
        key, arrays = arguments(args, kwargs)
        with self.lock:
            entry = self.entries.get((is_recording(), key))
            if entry is not None:
                for specialisation in entry.specialisations:
                    if specialisation.hold():
                        if specialisation.is_plain and who_measures() is None:
                            plan = self.plan = specialisation.plan
                            if self.runs:
                                self.runs, self.why_not = 0, ""
                            return plan.rebuild(plan.run(arrays))
                        return self.replay(specialisation, args, kwargs, arrays)
            return self.call_without_plan(entry or self.entry(key), args, kwargs, arrays)

    def repeat(
        self, batch: tuple[Array, ...], arrays: tuple[Array, ...], order: Array | None, size: int, first: int, count: int
    ) -> tuple[int, Any, BaseException | None]:
        """Calls with consecutive batches of some arrays, without Python in between; no calls if they need Python.

        batch    arguments of an earlier call
        arrays   all samples, along the first axis;  order: valid indices of the samples, batch after batch; None for their
                 order in the arrays
        size     samples per batch, the same as in `batch`
        first    the first batch, from 0;  count: the maximum number of calls

        Returns the number of calls, their results (each Tensor with a new first axis of calls), and the exception that ended
        them, or None.
        """
        no_calls: tuple[int, Any, None] = (0, None, None)
        if state.trace is not None or is_checking() or who_measures() is not None:
            return no_calls
        key, _ = arguments(batch, {})
        with self.lock:
            entry = self.entries.get((is_recording(), key))
            specialisation = next((v for v in entry.specialisations if v.hold()), None) if entry is not None else None
            repeats = None if specialisation is None else specialisation.repeats(arrays, order is not None, size)
            if repeats is None:
                return no_calls
            for array in arrays:
                repeats.plan.check_no_overlap(array)
            self.plan, self.runs, self.why_not = repeats.plan, 0, ""
            return repeats(first * size, None if order is None else order[first * size :], count)

    def replay(self, specialisation: Specialisation, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        plan = self.plan = specialisation.plan
        if plan.fault:
            self.why_not = f"its plan is wrong: {plan.fault}"
            return self.run_uncompiled(args, kwargs, arrays)
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
        if specialisation.connected.results and state.recording:
            results = self.with_history(specialisation.connected, results, args, kwargs)
        return plan.rebuild(results)

    def call_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the step itself, with arrays as Tensors."""
        args, kwargs = as_tensors((args, kwargs))
        return self.step(*args, **kwargs)

    # Without a plan

    def entry(self, key: Any) -> CacheEntry:
        """A new cache entry for a kind of arguments; the oldest is dropped if there are too many."""
        if len(self.entries) >= MAX_ENTRIES:
            del self.entries[next(iter(self.entries))]
        entry = self.entries[state.recording, key] = CacheEntry()
        return entry

    def call_without_plan(self, entry: CacheEntry, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        """A call without a plan: the first time the step itself runs, recorded; the second time a plan is made and run."""
        self.count_run(entry)
        if entry.changes:
            return self.run_uncompiled(args, kwargs, arrays)
        with one_plan_at_a_time():
            # whether the program depends on lists that grow from call to call is only known from the program itself
            pending = next((p for p in entry.pending if all(g.is_length for g in p.guards.failing())), None)
            if pending is None and self.ahead:
                pending = self.first_run(entry, args, kwargs, arrays, counts=False)[1]
            specialisation = None if pending is None else self.second_run(entry, pending, args, kwargs, arrays)
        if specialisation is not None:
            memory.release()  # that of the plan's verification
            return self.replay(specialisation, args, kwargs, arrays)
        if entry.changes:
            return self.run_uncompiled(args, kwargs, arrays)
        trace, _ = self.first_run(entry, args, kwargs, arrays, counts=True)
        return self.results_of(trace, args, kwargs)

    def run_uncompiled(self, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Any:
        """A call of a step that cannot be replayed."""
        trace = self.traced_run(args, kwargs, arrays)
        trace.settle()
        return self.results_of(trace, args, kwargs)

    def second_run(
        self, entry: CacheEntry, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]
    ) -> Specialisation | None:
        """The plan from a second run. None if the two runs differ because a guard of the first one has failed since, or if the
        step itself fails: this is then a first run again."""
        entry.pending = [p for p in entry.pending if p is not pending]
        failing = [guard.text for guard in pending.guards.failing()]
        failing += [f"an array {array.shape} has its elements" for array, values in pending.small if not equal(array, values)]
        try:
            specialisation = self.make_plan(entry, pending, args, kwargs, arrays)
        except CompileError:
            if not failing:
                raise
            self.why_not = entry.reason = f"{failing[0]} no longer"
            return None
        entry.reason = ""
        if entry.changes:
            if pending.objects is not None:
                pending.objects.put_back()
            self.warn_about_changes(entry.changes)
        if specialisation is not None:
            entry.specialisations = [specialisation, *(v for v in entry.specialisations if v.guards.failed())][:PATIENCE]
        return specialisation

    def results_of(self, trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The results of a run of the step itself, in the form of a replay's."""
        results = [wrap(copied(t._data), None) for t in trace.results]
        connected = self.history_of(trace)
        if connected.results and state.recording:
            results = self.with_history(connected, results, args, kwargs)
        free_values(trace)
        return trace.rebuild(results)

    def first_run(
        self, entry: CacheEntry, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array], counts: bool
    ) -> tuple[Trace, Pending]:
        """A first run of the step. Unless it counts, all of its changes are undone."""
        world = self.world(None, (args, kwargs))
        before = None if counts else Snapshot(world.data([], []), world, [])
        objects = None if counts else Objects(world)
        try:
            with switched(rehearsing=not counts):
                trace = self.traced_run(args, kwargs, arrays)
            if counts:
                trace.settle()
            else:
                trace.undo()
        finally:
            if before is not None:
                before.put_back()
        targets = [a.target for a in trace.assignments]
        small = [(a, copied(a)) for a in small_arrays(world) if not any(may_overlap(a, target) for target in targets)]
        guards = Guards(trace, self.world(trace, (args, kwargs)), trace.optimisers if counts else ())
        pending = Pending(trace.lines(), trace.plain, trace, guards, small, objects)
        entry.pending = [pending, *entry.pending][:PATIENCE]
        return trace, pending

    def make_plan(
        self, entry: CacheEntry, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]
    ) -> Specialisation | None:
        """A verified plan. A few attempts if random numbers seem to be drawn, since that may be another thread."""
        attempts = 0
        while True:
            try:
                with switched(rehearsing=True):
                    return self.try_plan(entry, pending, args, kwargs, arrays)
            except UnrecordedDraw as error:
                attempts += 1
                if attempts == MAX_ATTEMPTS or threading.active_count() == 1:
                    raise CompileError(str(error)) from None

    def try_plan(
        self, entry: CacheEntry, pending: Pending, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]
    ) -> Specialisation | None:
        """A plan from a second run of the step - on other samples, other parameters, other outside arrays - verified by running
        it on the same values. All changes of both runs are undone. None if the step fails, or if it changes Python objects in
        each run, which is noted in `entry`.

        Values differ from the first run, so that an array computed outside the graph cannot be mistaken for a constant.
        """
        first = pending.trace
        world, before = self.snapshot(first, (args, kwargs))
        objects = Objects(world)
        ready = announce_if_slow(self.name, len(first.program().nodes))
        try:
            trace, shifted_arrays = self.disturbed_run(args, kwargs, arrays, before)
            if changed := objects.changed():
                entry.changes = changed
                return None
            try:
                self.check_same_program(pending, trace)
            except CompileError:
                small = small_arrays(world)
                if not small or not before.shifts:
                    raise
                # perhaps Python reads these; they may be the same in the next call, too
                before.spared += small
                trace, shifted_arrays = self.disturbed_run(args, kwargs, arrays, before)
                self.check_same_program(pending, trace)
                trace.frozen += [(array, copied(array)) for array in small]
            for optimiser in trace.optimisers:
                optimiser.flush()
            self.check_learning_rates(trace, before)
            self.check_unrecorded_writes(trace, before)
            states_after = before.generator_states()
            expected = verify.outcomes(trace, assigned_arrays(trace))
            before.disturb()
            memory.release()  # that of the run; the plan has its own
            plan = Plan(trace)
            if plan.fault:
                self.warn_about_fault(plan)
            else:
                self.verify_plan(plan, trace, expected, shifted_arrays, before, states_after)
        except StepFailed:
            return None
        finally:
            ready.set()
            objects.put_back()
            before.put_back()
        read_arrays = [leaf._data for leaf in trace.program().leaves] + [a.target for a in trace.assignments]
        frozen = {id(array) for array, _ in trace.frozen} | world.buffers
        unread = [a for a in small_arrays(world) if id(a) not in frozen and not any(may_overlap(a, b) for b in read_arrays)]
        trace.frozen += [(a, copied(a)) for a in unread]  # the step's Python code may depend on them
        guards = Guards(trace, self.world(trace, (args, kwargs)))
        plan.guards = guards.all()
        specialisation = Specialisation(plan, guards, self.history_of(trace))
        free_values(trace)
        return specialisation

    def snapshot(self, first: Trace, arguments: Any) -> tuple[World, Snapshot]:
        """The world of the step, and a snapshot of all that a run may change. first: the trace of the first run."""
        world = self.world(first, arguments)
        read_leaves = [leaf for leaf in first.program().leaves if not first.is_argument(leaf)]
        outside = [
            leaf for leaf in read_leaves if leaf not in first.created_tensors
        ]  # a newer one was made from the same numbers
        named_arrays = [(leaf._data, leaf.name or "a Tensor") for leaf in outside if leaf.requires_grad]
        named_arrays += [(a.target, "an array from outside") for a in first.assignments]
        named_arrays += [(g._data, f"{t.name or 'a Tensor'}.grad") for t in first.read_grads if (g := t._grad) is not None]
        before = Snapshot(
            world.data(named_arrays, [leaf._data for leaf in read_leaves]), world, [*first.read_grads, *first.written_grads]
        )
        before.spared = [array for array, _ in first.frozen]
        return world, before

    def disturbed_run(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array], before: Snapshot
    ) -> tuple[Trace, list[Array]]:
        """A run with other samples and other outside values; returns also those samples. Raises StepFailed."""
        shifted_arrays = [shifted(a) for a in arrays]
        before.disturb()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # from values that are made up
                return self.traced_run(args, kwargs, shifted_arrays), shifted_arrays
        except CompileError:
            raise
        except Exception:  # the step does not accept the values that are made up
            shifted_arrays, before.shifts = [copied(a) for a in arrays], False
            before.disturb()
        try:
            return self.traced_run(args, kwargs, shifted_arrays), shifted_arrays
        except CompileError:
            raise
        except Exception as error:
            raise StepFailed from error

    def check_same_program(self, pending: Pending, trace: Trace) -> None:
        """Raise CompileError unless two runs of the step have the same program and plain results."""
        compare(pending.lines, trace.lines())
        if repr(pending.plain) != repr(trace.plain):
            raise CompileError(
                f"compile: the step{self.where} returned {shortened(trace.plain)} the second time, and "
                f"{shortened(pending.plain)} the first time; a replay would always return one of the two. Return a Tensor, or "
                f"leave it out"
            )

    def verify_plan(
        self,
        plan: Plan,
        trace: Trace,
        expected: list[verify.Outcome],
        arguments: list[Array],
        before: Snapshot,
        expected_states: dict[str, Any],
    ) -> None:
        """Raise CompileError unless the plan, from the same state, has the results and draws of the traced run."""
        with np.errstate(all="ignore"):
            values = [*plan.compute(arguments), *(copied(array) for array, _ in assigned_arrays(trace))]
        self.check_unrecorded_draws(expected_states, before.generator_states())
        arguments_by_leaf = dict(zip(trace.inputs(), arguments, strict=False))

        def initial_arrays() -> dict[Any, Array]:
            before.disturb()
            sources = [trace.source(leaf) for leaf in (*trace.program().leaves, *trace.returned())]
            return {leaf: copied(arguments_by_leaf.get(leaf, leaf._data)) for leaf in sources if isinstance(leaf, Tensor)}

        verify.compare(trace, expected, values, initial_arrays)

    def check_learning_rates(self, trace: Trace, before: Snapshot) -> None:
        """Raise CompileError if the step changes a learning rate before an optimiser uses it."""
        rates = dict(zip(trace.optimisers, trace.rates, strict=True))
        for optimiser, _, rate in before.optimisers:
            if rates.get(optimiser, rate) != rate:
                raise CompileError(
                    f"compile: the learning rate went from {describe_rates(rate)} to {describe_rates(rates[optimiser])} before "
                    f"{type(optimiser).__name__}.step() inside the step{self.where}; a replay would not change it again. "
                    f"Do that outside the compiled step"
                )

    def check_unrecorded_writes(self, trace: Trace, before: Snapshot) -> None:
        """Raise CompileError if the run has changed an array by code that is not recorded."""
        targets = [a.target for a in trace.assignments]
        for array, text, value in before.arrays:
            if any(may_overlap(array, target) for target in targets):
                continue
            if not verify.same(array, before.disturbed_values(array, value)):
                raise CompileError(
                    f"compile: the step writes to {text} {array.shape}, an outside array, by code that is not recorded; a "
                    f"replay would not. Use operations of Tensors (t -= ..., t[...] = ...), or do it outside the step"
                )

    def check_unrecorded_draws(self, expected: dict[str, Any], now: dict[str, Any]) -> None:
        """Raise UnrecordedDraw if the run has drawn random numbers that the plan does not draw."""
        for name, before in expected.items():
            if now[name] != before:
                raise UnrecordedDraw(
                    f"compile: the step{self.where} draws random numbers from {name} by code that is not recorded; a replay "
                    f"would not draw new ones. Draw them outside the step and pass them, or use dropout"
                )

    def warn_about_changes(self, changed: str) -> None:
        """Warn that the step runs uncompiled from now on."""
        self.why_not = f"the step itself changes {changed}, which a replay would not do"
        if not self.has_warned:
            self.has_warned = True
            warn(
                f"compile: {self.name} runs uncompiled, because it changes {changed} each time, which a replay would not "
                f"do. Do that outside the step, return it, or keep a number in a Tensor (t += 1)",
                RuntimeWarning,
            )

    def warn_about_fault(self, plan: Plan) -> None:
        warn(
            f"compile: {self.name} runs uncompiled, because its plan is wrong: {plan.fault}. This is a "
            f"bug in tensorgrad; please report it",
            RuntimeWarning,
        )

    def traced_run(self, args: tuple[Any, ...], kwargs: dict[str, Any], arrays: list[Array]) -> Trace:
        """The trace of one run of the step's Python."""
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

    def world(self, trace: Trace | None, arguments: Any) -> World:
        """What the step can reach: by name, objects that a run of it has used, and generators among the arguments."""
        roots: dict[str, Any] = {getattr(self.step, "__name__", "step"): self.step}
        roots |= {f"argument {i}": v for i, v in enumerate(leaves_of(arguments)) if isinstance(v, np.random.Generator)}
        if trace is not None:
            roots |= {type(o).__name__: o for o in trace.optimisers} | {m._name or type(m).__name__: m for m in trace.modules}
            generators = [
                v for node in trace.program().nodes for v in node.attrs.values() if isinstance(v, np.random.Generator)
            ]
            roots |= {f"generator {i}": rng for i, rng in enumerate(generators)}
        return World(roots)

    def count_run(self, entry: CacheEntry) -> None:
        """Count a run of the step's Python and record its reason; warn once if there are many without a replay."""
        reasons = [v.guards.failed() for v in entry.specialisations] + [p.guards.failed() for p in entry.pending]
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
            if not entry.specialisations and not entry.pending and len(self.entries) > PATIENCE:
                why += "; a number that differs from call to call needs a plan for each value: pass it as an array"
        self.why_not = why
        self.runs += 1
        if self.runs > PATIENCE and not self.has_warned:
            self.has_warned = True
            warn(f"compile: {self.name} has run {self.runs} times without a replay: {why}", RuntimeWarning)

    # Results in the graph of the caller

    def history_of(self, trace: Trace) -> Connected:
        """The results that require a gradient and whose graph is not freed; what prevents a gradient; their dependencies."""
        indices = tuple(i for i, t in enumerate(trace.results) if t.requires_grad and not is_freed(t))
        if not indices:
            return Connected()
        why_not = ""
        if trace.assignments or trace.written_grads:
            why_not = "changes what is outside of it"
        elif any(node.op.draws for node in trace.program().nodes):
            why_not = "draws random numbers"
        leaves = [t for t in trace.program().leaves if t.requires_grad and not trace.is_argument(t)]
        leaves += [t for t in trace.results if t.node is None and t.requires_grad and not trace.is_argument(t)]
        data = [t for t in trace.program().leaves if not t.requires_grad and not trace.is_argument(t)]
        data += [wrap(array, None) for array, _ in trace.frozen]
        return Connected(indices, why_not, tuple(dict.fromkeys(leaves)), tuple(data))

    def with_history(
        self, dependencies: Connected, results: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        """The results; those that require a gradient are connected to the Tensors that they depend on."""
        argument_tensors = tuple(t for t in leaves_of((args, kwargs)) if isinstance(t, Tensor) and t.requires_grad)
        copies = as_tensors((args, kwargs), copied)  # the caller may write to them before backward()
        digests = [digest(t._data) for t in dependencies.data]

        def recompute(i: int) -> Tensor:
            changed = next(
                (t for t, digest_before in zip(dependencies.data, digests, strict=True) if digest(t._data) != digest_before),
                None,
            )
            if changed is not None:
                raise GraphError(
                    f"compiled: {self.name} reads {changed.name or 'an outside array'} {changed.shape}, which was "
                    f"changed later; a gradient would use its new values. Change it after backward(), or make it an argument"
                )
            return flattened(self.call_step(*copies))[0][i]

        linked = list(results)
        for i in dependencies.results:
            tensors = (*argument_tensors, *dependencies.leaves)
            linked[i] = connected(results[i]._data, tensors, functools.partial(recompute, i), dependencies.why_not)
        return linked

    # As a method, as a copy, in a file

    def __get__(self, owner: Any, kind: type | None = None) -> Compiled:
        """A step that is defined in a class: each object has a separate one, stored in its attributes."""
        if owner is None:
            return self
        key = f"_compiled_{self.name}_{id(self)}"
        attributes = getattr(owner, "__dict__", None)
        step = None if attributes is None else attributes.get(key)
        if step is None:
            step = Compiled(types.MethodType(self.step, owner), self.keep_grads, self.ahead)
            if attributes is not None:
                attributes[key] = step
        return step

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.step, memo), self.keep_grads, self.ahead)

    def __reduce__(self) -> Any:
        """Pickled without plans; a decorated function of a module is pickled by its name."""
        name = getattr(self, "__qualname__", "")
        named: Any = sys.modules.get(getattr(self, "__module__", ""))
        for part in name.split("."):
            named = getattr(named, part, None)
        return name if named is self else (Compiled, (self.step, self.keep_grads, self.ahead))

    def __repr__(self) -> str:
        plans = sum(len(entry.specialisations) for entry in self.entries.values())
        description = "no plan yet"
        if self.plan is not None:
            description = f"{plans} plan{'s' * (plans != 1)}, the last used has {len(self.plan.calls)} kernels"
        why_not = f"; the last call was no replay: {self.why_not}" if self.why_not else ""
        return f"<compiled {getattr(self, '__qualname__', self.step)}: {description}{why_not}>"


class StepFailed(Exception):
    """The step itself failed in the run for its plan."""


class Pending(NamedTuple):
    """A first run that waits for a second.

    lines, plain, trace, guards   its program, the results besides Tensors, its trace and guards
    small     the small outside arrays that it does not assign, with their values
    objects   the Python objects before it, if it does not count
    """

    lines: list[Line]
    plain: Any
    trace: Trace
    guards: Guards
    small: list[tuple[Array, Array]]
    objects: Objects | None


class Connected(NamedTuple):
    """The results that require a gradient, by index.

    why_not        what prevents a gradient; "" if nothing does
    leaves, data   the outside Tensors that they depend on: with and without requires_grad
    """

    results: tuple[int, ...] = ()
    why_not: str = ""
    leaves: tuple[Tensor, ...] = ()
    data: tuple[Tensor, ...] = ()


class Specialisation:
    """A plan and its guards. hold: tests the guards;  is_plain: a replay is just a run of the plan."""

    def __init__(self, plan: Plan, guards: Guards, connected: Connected) -> None:
        self.plan, self.guards, self.connected = plan, guards, connected
        self.hold = guards.hold
        self.is_plain = not plan.fault and not connected.results
        self.cached_repeats: Repeats | None = None
        self.refused: tuple[Any, ...] = ()  # arrays, order and size for which that raised NotRepeatable

    def repeats(self, arrays: tuple[Array, ...], is_shuffled: bool, size: int) -> Repeats | None:
        """The Repeats of the plan for batches of these arrays (cached); None if it needs Python in between."""
        if self.cached_repeats is not None and self.cached_repeats.matches(arrays, is_shuffled, size):
            return self.cached_repeats
        if self.refused and self.refused[0] is arrays and self.refused[1:] == (is_shuffled, size):
            return None
        try:
            self.cached_repeats = Repeats(self.plan, arrays, is_shuffled, size) if self.is_plain else None
        except NotRepeatable:
            self.cached_repeats, self.refused = None, (arrays, is_shuffled, size)
        return self.cached_repeats


class CacheEntry:
    """The cache entry for one kind of arguments: plans, latest first, and first runs that wait for a second.

    changes   the Python object that the step changes in each run, so that it has no plans; "" if none
    reason    why the last second run became a first run again; "" if it did not
    """

    def __init__(self) -> None:
        self.specialisations: list[Specialisation] = []
        self.pending: list[Pending] = []
        self.changes = ""
        self.reason = ""


def small_arrays(world: World) -> list[Array]:
    """The arrays of the world that are cheap to compare, without the data of Tensors."""
    return [array for array, _ in world.arrays.values() if array.nbytes <= SMALL_BYTES]


def announce_if_slow(name: str, operations: int) -> threading.Event:
    """Print a line for the waiting user, unless the event that is returned is set within a second."""
    ready = threading.Event()

    def wait() -> None:  # without a reference to the step
        if not ready.wait(1.0):
            print(f"compile: {name}: {operations:,} operations; kernels are compiled", file=sys.stderr)

    _thread.start_new_thread(wait, ())  # unlike threading.Thread, does not wait for the thread to start
    return ready


def assigned_arrays(trace: Trace) -> list[tuple[Array, str]]:
    """The outside arrays that a run has written to, each once, with names."""
    names = trace.names()
    targets = {id(a.target): a.target for a in trace.assignments}
    return [(array, names.get(place_of(array), "what is written to an array from outside")) for array in targets.values()]


def is_freed(t: Tensor) -> bool:
    """Whether backward() has freed the graph of a Tensor."""
    return t.node is not None and type(t.node.saved) is not tuple


def free_values(trace: Trace) -> None:
    """Drop the arrays of a run; its nodes remain, for names."""
    for node in trace.program().nodes:
        node.saved, node.out, node.alive = (), None, None
    for t in trace.arguments:
        t._data = np.broadcast_to(np.zeros((), t.dtype), t.shape)
    trace.saved.clear()
    trace.kept_grads.clear()
    trace.results.clear()


def leaves_of(value: Any) -> list[Any]:
    """The leaves of nested tuples, lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in leaves_of(part)] if isinstance(value, (list, tuple)) else [value]


def shortened(plain: Any) -> str:
    text = repr(plain).replace("<class 'tensorgrad.core.tensor.Tensor'>", "Tensor")
    return text if len(text) < 80 else f"{text[:77]}..."
