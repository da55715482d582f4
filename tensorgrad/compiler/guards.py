"""Guards: the assumptions of a plan besides its arguments, checked before each run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from types import CodeType
from typing import Any, NamedTuple

from tensorgrad.compiler.trace import Trace, describe_rates, equal, place_of
from tensorgrad.compiler.world import MISSING, SIMPLE, World, contents_of, present, same
from tensorgrad.core.backend import Array
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.location import is_own
from tensorgrad.core.state import changes, modes
from tensorgrad.core.tensor import Tensor
from tensorgrad.kernels import threads
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser


class Guard(NamedTuple):
    """text: the assumption in words;  test: a Python expression in `names` that checks it."""

    text: str
    test: str
    names: dict[str, Any]

    @property
    def is_length(self) -> bool:
        """Whether it is about the length of a container, which is also part of an order."""
        return "len({h})" in self.test or "tuple({h})" in self.test

    def holds(self) -> bool:
        try:
            return bool(eval(code_of(self.test, tuple(self.names)), GLOBALS, self.names))
        except CHANGED:
            return False

    def __repr__(self) -> str:
        return self.text


class Guards:
    """The guards of a plan. Some are only checked after `changes` has counted a change.

    stepped   optimisers that made a step since the run began, whose number of steps was one lower at its start
    hold()    whether all guards hold
    always    guards checked before each run
    counted   guards checked after an attribute of a module or an optimiser, an array of a Tensor or a hook has changed
              somewhere, and in threads where modules have other modes
    """

    def __init__(self, trace: Trace, world: World, stepped: Collection[Optimiser] = ()) -> None:
        updated = [p for optimiser in trace.optimisers for p in optimiser.params]
        leaves = [t for t in trace.program().leaves if t.requires_grad or type(t) is not Tensor]
        tensors = {t: t.name for t in (*leaves, *updated, *trace.read_grads, *trace.written_grads)} | world.tensors
        tensors = {t: name for t, name in tensors.items() if not trace.is_argument(t)}
        modules = {m: "" for m in trace.modules} | world.modules
        always = [of_binding(b.text, b.holder, b.key, b.kind, v) for b in world.bindings if (v := b.now()) is not MISSING]
        always += [of_trained(t, name) for t, name in tensors.items()]
        always += [of_forward(kind) for kind in dict.fromkeys(type(m) for m in modules)]
        always += [of_gradient(t, tensors.get(t, ""), g) for t, g in trace.read_grads.items()]
        always += [g for o, name in world.optimisers.items() for g in of_rate(o, name, world, o in stepped)]
        always += [g for o, runs in zip(trace.optimisers, trace.runs, strict=True) for g in of_counts(o, runs)]
        always += [of_values(array, values) for array, values in trace.frozen]
        optimiser_places = {place_of(a) for o in trace.optimisers for b in o.blocks for a in (b.flat, *b.state.values())}
        outside = [
            t for t in trace.program().leaves if not (t.requires_grad or t in trace.created_tensors or trace.is_argument(t))
        ]
        outside = [
            t for t in outside if t.shape and id(t._data) not in world.buffers and place_of(t._data) not in optimiser_places
        ]
        always += [of_form(t, t.name or "an array from outside") for t in outside]
        n = threads.get_num_threads()
        always.append(Guard(f"the number of threads is {n}", "{m}._count == {n}", {"m": threads, "n": n}))
        counted = [g for t, name in tensors.items() for g in of_tensor(t, name)]
        counted += [g for m, name in modules.items() for g in of_module(m, name, world)]
        counted += [g for o in trace.optimisers for g in of_optimiser(o, world.optimisers.get(o, ""))]
        self.always, self.counted = always, counted
        self.count, self.modes = changes.count, modes.get()

    @cached_property
    def hold(self) -> Callable[[], bool]:
        test = "({c}.count == {g}.count and {m}() is {g}.modes) or {g}.look_again()"
        unchanged = Guard("", test, {"c": changes, "m": modes.get, "g": self})
        return holds([*self.always, unchanged])

    @cached_property
    def counted_hold(self) -> Callable[[], bool]:
        return holds(self.counted)

    def look_again(self) -> bool:
        """Whether the counted guards hold, although something has changed somewhere."""
        count = changes.count
        if not self.counted_hold():
            return False
        self.count, self.modes = count, modes.get()
        return True

    def failed(self) -> str:
        """The first guard that fails, in words, or ""."""
        return next((guard.text for guard in self.all() if not guard.holds()), "")

    def failing(self) -> list[Guard]:
        """The guards that fail."""
        return [guard for guard in self.all() if not guard.holds()]

    def all(self) -> list[Guard]:
        return [*self.always, *self.counted]


def holds(guards: list[Guard]) -> Callable[[], bool]:
    """A function without arguments that checks all of them."""
    space: dict[str, Any] = dict(GLOBALS)
    tests = ["True"]
    for i, guard in enumerate(guards):
        space |= {f"{name}{i}": value for name, value in guard.names.items()}
        tests.append(f"({guard.test.format(**{name: f'{name}{i}' for name in guard.names})})")
    # parts of 64 limit the nesting of expressions for Python's parser
    *before, last = [" and ".join(tests[k : k + 64]) for k in range(0, len(tests), 64)]
    lines = [*(f"if not ({line}): return False" for line in before), f"return {last}"]
    body = "".join(f"  {line}\n" for line in lines)
    source = f"def hold():\n try:\n{body} except CHANGED:\n  return False\n"
    exec(compile(source, "<tensorgrad guards>", "exec"), space)
    return space["hold"]  # type: ignore[no-any-return]


@cache
def code_of(test: str, names: tuple[str, ...]) -> CodeType:
    """The compiled test of a single guard."""
    return compile(test.format(**dict(zip(names, names, strict=True))), "<tensorgrad guard>", "eval")


CHANGED = (LookupError, ValueError, AttributeError)  # raised when something no longer exists
GLOBALS: dict[str, Any] = {"same": same, "equal": equal, "present": present, "contents": contents_of, "CHANGED": CHANGED}


def of_binding(text: str, holder: Any, key: Any, kind: str, value: Any) -> Guard:
    """A name is bound to the same value; names that are not there are still not there."""
    if kind in ("order", "contents"):
        now = "tuple({h})" if kind == "order" else "{h}" if isinstance(holder, set) else "contents({h})"
        return Guard(f"{text} is the same", f"{now} == {{v}}", {"h": holder, "v": value})
    if kind == "absent":
        names = ", ".join(sorted(key)[:3]) + (", ..." if len(key) > 3 else "")
        text = f"{text}{names} {'is' if len(key) == 1 else 'are'} {'undefined' if isinstance(holder, dict) else 'unset'}"
        if isinstance(holder, dict):
            return Guard(text, "{h}.keys().isdisjoint({k})", {"h": holder, "k": key})
        test = "{h}.__dict__.keys().isdisjoint({k})" if hasattr(holder, "__dict__") else "not present({h}, {k})"
        if getattr(holder, "__dict__", None) == {}:
            test = "not {h}.__dict__"  # in a third of the time; most functions have none
        return Guard(text, test, {"h": holder, "k": key})
    place = {
        "cell": "{h}.cell_contents",
        "item": "{h}[{k}]",
        "attribute": "{h}.__dict__[{k}]",
        "slot": "getattr({h}, {k})",
        "length": "len({h})",
        "defaults": "{h}.__defaults__",
        "context": "{h}.get({k})",
    }[kind]
    value_text = repr(value) if isinstance(value, SIMPLE) else f"this {type(value).__name__}"
    return value_guard(f"{text} is {value_text}", place, {"h": holder, "k": key}, value)


def value_guard(text: str, place: str, names: dict[str, Any], value: Any) -> Guard:
    test = f"{place} is {{v}}"
    if isinstance(value, SIMPLE) and value is not None and not isinstance(value, bool):
        test = f"({test} or same({place}, {{v}}))"
    return Guard(text, test, {**{name: v for name, v in names.items() if f"{{{name}}}" in place}, "v": value})


def of_values(array: Array, values: Array) -> Guard:
    """An array has the same elements."""
    return Guard(f"an array {array.shape} has the same elements", "equal({a}, {v})", {"a": array, "v": values})


def of_form(t: Tensor, name: str) -> Guard:
    """An array has the same layout, which its owner can change: `array.shape = ...`, `array.resize(...)`."""
    names = {"a": t._data, "s": t._data.shape, "t": t._data.strides}
    return Guard(f"{name} is {t.shape}, with the same strides", "{a}.shape == {s} and {a}.strides == {t}", names)


def of_trained(t: Tensor, name: str) -> Guard:
    """A Tensor has the same `requires_grad` and the same hooks."""
    name = t.name or name or "a Tensor"
    text = f"{name}.requires_grad is {t.requires_grad}"
    if t.hooks is None:  # the presence of hooks is counted
        return Guard(text, "{t}.requires_grad is {v}", {"t": t, "v": t.requires_grad})
    test = "{t}.requires_grad is {v} and {t}.hooks is {h}"
    return Guard(f"{text}, with {len(t.hooks)} hooks", test, {"t": t, "v": t.requires_grad, "h": t.hooks})


def of_forward(kind: type) -> Guard:
    """A module class has the same forward."""
    forward = getattr(kind, "forward", None)
    return Guard(f"{kind.__name__}.forward is this function", "{c}.forward is {f}", {"c": kind, "f": forward})


def of_rate(optimiser: Optimiser, name: str, world: World, has_stepped: bool) -> list[Guard]:
    """Numbers of an optimiser that the step's code names are unchanged; those that its formula reads are read in each run."""
    guards = []
    if "steps" in world.attributes:
        steps = optimiser.steps - has_stepped
        place = "{h}.__dict__['steps']"
        guards.append(value_guard(f"{name}.steps is {steps!r}", place, {"h": optimiser}, steps))
    if "late" in world.attributes:
        guards.append(Guard(f"{name}.late is the same", "{h}.late == {v}", {"h": optimiser, "v": optimiser.late}))
    if world.attributes & {"lr", "rates"}:
        text = f"{name}.lr is {describe_rates(optimiser.rates)}"
        guards.append(Guard(text, "{h}.rates == {v}", {"h": optimiser, "v": optimiser.rates}))
    if world.attributes & {"param_groups", "settings", "defaults", "hyperparameters", "state_dict"}:
        text = f"{name} has its rates and settings"
        guards.append(Guard(text, "{h}.hyperparameters() == {v}", {"h": optimiser, "v": optimiser.hyperparameters()}))
    return guards


def of_counts(optimiser: Optimiser, runs: list[list[int]]) -> list[Guard]:
    """Parameters that are updated by one kernel, whose numbers depend on the step count, have equal step counts."""
    shared_runs = [run for run in runs if len(run) > 1]
    if not shared_runs:
        return []
    names = {"o": optimiser, "v": optimiser.late, "r": shared_runs, "f": have_equal_counts}
    text = f"parameters of {type(optimiser).__name__} have made as many steps as one another"
    return [Guard(text, "({o}.late is {v} or {f}({o}.late, {r}))", names)]


def have_equal_counts(late: tuple[int, ...], runs: list[list[int]]) -> bool:
    """Whether the numbers within each group are equal."""
    return all(late[i] == late[run[0]] for run in runs for i in run)


def of_gradient(t: Tensor, name: str, gradient: Tensor | None) -> Guard:
    """A `.grad` that the step reads exists, or is None, as before."""
    name = t.name or name or "a Tensor"
    if gradient is None:
        return Guard(f"{name}.grad is None", "{t}._grad is None", {"t": t})
    names = {"t": t, "s": gradient.shape, "d": gradient.dtype}
    test = "{t}._grad is not None and {t}._grad._data.shape == {s} and {t}._grad._data.dtype == {d} and {t}._grad.node is None"
    return Guard(f"{name}.grad is {gradient.shape} {gradient.dtype}", test, names)


def of_tensor(t: Tensor, name: str) -> list[Guard]:
    """A Tensor has the same array and hooks."""
    name = t.name or name or "a Tensor"
    return [
        Guard(f"{name}.data is this array of {t.shape}", "{t}._data is {a}", {"t": t, "a": t._data}),
        Guard(f"{name} has {len(t.hooks or ())} hooks", "{t}.hooks is {h}", {"t": t, "h": t.hooks}),
    ]


def of_module(module: Module, name: str, world: World) -> list[Guard]:
    """A module has the same attributes, parameters, buffers and submodules."""
    name = name or module._name or type(module).__name__
    guards = []
    for holder, kind in ((module._parameters, "parameter"), (module._buffers, "buffer"), (module._modules, "module")):
        keys = tuple(holder)
        guards.append(Guard(f"{name} has the {kind}s {', '.join(keys)}", "tuple({h}) == {k}", {"h": holder, "k": keys}))
        for key, value in holder.items():
            guards.append(Guard(f"{name}.{key} is this {kind}", "{h}[{k}] is {v}", {"h": holder, "k": key, "v": value}))
    is_library = is_own(type(module).__module__)
    keys = tuple(key for key in vars(module) if not key.startswith("_"))
    test = "tuple([k for k in {h}.__dict__ if k[:1] != '_']) == {k}"
    guards.append(Guard(f"{name} has the attributes {', '.join(keys)}", test, {"h": module, "k": keys}))
    for key, value in vars(module).items():
        if key.startswith("_") or key == "training" or key in module._parameters or key in module._modules:
            continue
        if is_library or key in world.attributes:
            value_text = repr(value) if isinstance(value, SIMPLE) else f"this {type(value).__name__}"
            guards.append(value_guard(f"{name}.{key} is {value_text}", "{h}.__dict__[{k}]", {"h": module, "k": key}, value))
    hooks = {"h": module, "v": module._hooks}
    guards.append(Guard(f"{name} has {len(module._hooks)} hooks", "{h}._hooks is {v}", hooks))
    guards.append(value_guard(f"{name}.training is {module.training}", "{h}.training", {"h": module}, module.training))
    return guards


def of_optimiser(optimiser: Optimiser, name: str) -> list[Guard]:
    """An optimiser has the same parameters, in the same memory, and the same formula. Settings that are numbers are read in
    each run; they are only checked for being 0, because the formula may differ then."""
    name = name or type(optimiser).__name__
    params = tuple(optimiser.params)
    test = "len({o}.params) == {n} and all(a is b for a, b in zip({o}.params, {p}))"
    guards = [Guard(f"{name} has these {len(params)} parameters", test, {"o": optimiser, "n": len(params), "p": params})]
    names = {"o": optimiser, "b": optimiser.blocks}
    guards.append(Guard(f"{name} has its parameters and its state in these arrays", "{o}.blocks is {b}", names))
    for i, group in enumerate(optimiser.param_groups):
        suffix = "" if len(optimiser.param_groups) == 1 else f" of group {i}"
        reread = (*optimiser.numbers(group, 1), *optimiser.reread_settings)
        for key, value in group.items():
            names = {"g": group, "k": key}
            if key in reread and not isinstance(value, bool):
                text = f"{name}: {key}{suffix} is {'not ' if value else ''}0"
                guards.append(Guard(text, "bool({g}[{k}]) is {v}", {**names, "v": bool(value)}))
            elif key not in ("lr", "params"):
                guards.append(value_guard(f"{name}: {key}{suffix} is {value!r}", "{g}[{k}]", names, value))
    for key, value in vars(optimiser).items():
        if isinstance(value, SIMPLE) and key != "steps" and not key.startswith("_"):
            guards.append(value_guard(f"{name}.{key} is {value!r}", "{o}.__dict__[{k}]", {"o": optimiser, "k": key}, value))
    return guards
