"""A program run with its step as it is, or compiled, and what is seen of it after each call."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import linecache
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.autograd import walk
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import wrap
from tensorgrad.kernels import build, thresholds
from tensorgrad.op import REGISTRY
from tests.fuzz.program import Program

OPS = dict(REGISTRY)  # before a program adds its own
RESULTS = ("r", "q")  # the names that results have in a program
STATE = ("parameter", "optimiser")  # roles of what a call that is refused has to leave as it was, or as the step leaves it


class Leaf(NamedTuple):
    """A value that is seen: its role, and an array or an object."""

    role: str
    value: Any


Leaves = dict[str, Leaf]  # by an expression of it


@dataclass
class Run:
    """What is seen of a run.

    rounds    what is there at the end of each round, copied; results are as they were when they came
    kept      the results of each call, as they are at the end
    shared    (call, path, path) of arrays with memory in common that should have none
    frozen    (call, path) of results and gradients that cannot be written to
    error     what ended the run early; `inside` says whether it came out of a step
    ready     how many calls of compiled functions were begun
    captured  the parameters and optimisers at the one moment that was asked for
    ran       how often the Python code of a step was run
    warned    whether a warning spoke of compiling
    faults    what the compiler says of itself
    """

    rounds: list[Leaves] = field(default_factory=list)
    kept: list[Leaves] = field(default_factory=list)
    shared: set[tuple[int, str, str]] = field(default_factory=set)
    frozen: set[tuple[int, str]] = field(default_factory=set)
    error: Exception | None = None
    inside: bool = False
    at_error: Leaves = field(default_factory=dict)
    ready: int = 0
    captured: Leaves = field(default_factory=dict)
    ran: int = 0
    warned: bool = False
    faults: list[str] = field(default_factory=list)


def run(
    program: Program,
    how: Callable[[Any], Any],
    moment: tuple[str, int] | None = None,
    noise: int | None = None,
    exactly: bool = False,
) -> Run:
    """The program from beginning to end. `how` is what is done with its steps.

    moment    ("ready", j) or ("done", j): capture parameters and optimisers just before, or after, the j-th call of a step
    noise     disturb every input and the result of every operation by a unit in the last place or two, drawn with this seed
    exactly   compute every operation in float64, and round its result
    """
    found, came = Run(), Leaves()
    done = 0

    def ready(scope: dict[str, Any]) -> None:
        found.ready += 1
        if moment == ("ready", found.ready):
            found.captured = copied(leaves(scope, STATE))

    def after(scope: dict[str, Any], given: str) -> None:
        nonlocal done
        done += 1
        came.update(copied(leaves({name: scope[name] for name in given.split() if name in RESULTS}, ("result",))))
        if moment == ("done", done):
            found.captured = copied(leaves(scope, STATE))

    ran = itertools.count().__next__  # of C: the compiler looks into what a step reaches
    source, name = program.source(), f"program_{program.seed}.py"
    module = sys.modules["program"] = types.ModuleType("program")  # so that what it defines can be pickled
    space = vars(module)
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), space)
    space.update(ready=ready, done=after, ran=ran)
    with settings_of(program), warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        if noise is not None:
            disturbance = Disturbance(noise)
            for helper in ("draw", "chances"):
                if helper in space:
                    space[helper] = disturbance.of_result(space[helper])
            how = disturbance.of_parameters(how)
        results: list[Leaves] = []
        change = disturbance.operation if noise is not None else rounded if exactly else None
        # rules, too, are to be made of operations then, as they are when they are recorded
        with instead(change), switched(tracing=True) if change else contextlib.nullcontext():
            try:
                for scope in space["run"](how):
                    watch(scope, found, came, results)
            except Exception as error:
                found.error, found.inside = error, found.ready > done
                found.at_error = copied(leaves(scope_of(error), STATE))
        found.kept = [copied(result) for result in results]
        found.ran = ran()
        found.warned = any("compile" in str(w.message) for w in caught)
        found.faults = [str(w.message) for w in caught if "bug in tensorgrad" in str(w.message)]
    return found


@contextlib.contextmanager
def settings_of(program: Program) -> Iterator[None]:
    """The thresholds and the threads of a program, inside of the block."""
    before = {name: getattr(thresholds, name) for name in program.thresholds}
    threads = tg.get_num_threads()
    try:
        for name, value in program.thresholds.items():
            setattr(thresholds, name, value)
        forget_kernels(program.thresholds)
        tg.set_num_threads(program.threads)
        yield
    finally:
        for name, value in before.items():
            setattr(thresholds, name, value)
        forget_kernels(program.thresholds)
        tg.set_num_threads(threads)


def forget_kernels(changed: dict[str, float]) -> None:
    """Kernels are chosen once for each kind of chain; by other thresholds other ones may be chosen."""
    for kernel in vars(build).values() if changed else ():
        if hasattr(kernel, "cache_clear") and kernel is not build.has_numba:
            kernel.cache_clear()


class AsItIs:
    """What is done with a step that is not compiled: only the documented rule is applied to it, by which the `.grad` of a
    parameter that an optimiser has used up in the step is None after it. Arrays come as Tensors, as they do when compiled."""

    def __init__(self, program: Program) -> None:
        self.keep_grads, self.arrays_only, self.depth = program.keep_grads, program.arrays_only, 0

    def __call__(self, step: Any) -> Any:
        @wraps(step)
        def called(*args: Any, **kwargs: Any) -> Any:
            stepped: list[optim.Optimiser] = []
            first: dict[Tensor, str] = {}
            self.depth += 1
            try:
                with told_of_steps(stepped), told_of_gradients(first):
                    given, named = (args, kwargs) if self.arrays_only else as_tensors((args, kwargs))
                    result = step(*given, **named)
            finally:
                self.depth -= 1
            for p in [p for o in stepped for p in o.params] if not self.keep_grads and not self.depth else ():
                if first.get(p) == "set":  # what is added to first is needed by the next call
                    p.grad = None
            return result

        return called


@contextlib.contextmanager
def told_of_steps(stepped: list[optim.Optimiser]) -> Iterator[None]:
    """Which optimisers make a step inside of the block."""
    original = optim.Optimiser.step

    def step(self: optim.Optimiser) -> None:
        stepped.append(self)
        original(self)

    optim.Optimiser.step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        optim.Optimiser.step = original  # type: ignore[method-assign]


@contextlib.contextmanager
def told_of_gradients(first: dict[Tensor, str]) -> Iterator[None]:
    """What happens first to a `.grad` inside of the block: it is "set", None being something too, or "added" to."""
    walked, cleared, grad = walk._walk, optim.Optimiser.zero_grad, Tensor.__dict__["grad"]

    def walk_(caller: str, *args: Any) -> Any:
        found = list(walked(caller, *args))
        for t, _ in found if caller == "backward" else ():
            first.setdefault(t, "added")
        return found

    def zero_grad(self: optim.Optimiser) -> None:
        for p in self.params:
            first.setdefault(p, "set")
        cleared(self)

    def put(self: Tensor, gradient: Any) -> None:
        first.setdefault(self, "set")
        grad.fset(self, gradient)

    walk._walk, optim.Optimiser.zero_grad = walk_, zero_grad  # type: ignore[method-assign]
    Tensor.grad = property(grad.fget, put)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        walk._walk, optim.Optimiser.zero_grad = walked, cleared  # type: ignore[method-assign]
        Tensor.grad = grad  # type: ignore[method-assign]


def as_tensors(value: Any) -> Any:
    """Arrays in arguments as Tensors of the same memory."""
    if isinstance(value, np.ndarray):
        return wrap(value, None)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(as_tensors, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(as_tensors, value))
    if isinstance(value, dict):
        return {key: as_tensors(v) for key, v in value.items()}
    return value


# What is seen


def watch(scope: dict[str, Any], found: Run, came: Leaves, results: list[Leaves]) -> None:
    """Note what is there at the end of a round."""
    now = leaves(scope)
    call = len(found.rounds)
    found.rounds.append(copied(now) | came)
    fresh = {path: leaf for path, leaf in now.items() if leaf.role == "result"}
    grads = {path: leaf for path, leaf in now.items() if leaf.role == "gradient"}
    others = {path: leaf for path, leaf in now.items() if leaf.role not in ("result", "gradient")}
    earlier = {f"{path} of call {j + 1}": leaf for j, result in enumerate(results) for path, leaf in result.items()}
    pairs = [(a, b) for a in fresh.items() for b in (*grads.items(), *others.items(), *earlier.items())]
    pairs += [(a, b) for a in grads.items() for b in others.items()] + list(itertools.combinations(grads.items(), 2))
    for (a, one), (b, other) in pairs:
        if isinstance(one.value, np.ndarray) and isinstance(other.value, np.ndarray) and overlap(one.value, other.value):
            found.shared.add((call, a, b))
    for path, leaf in (*fresh.items(), *grads.items()):
        if isinstance(leaf.value, np.ndarray) and not leaf.value.flags.writeable:
            found.frozen.add((call, path))
    results.append(fresh)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=10_000))
    except np.exceptions.TooHardError:
        return False


def copied(found: Leaves) -> Leaves:
    return {path: Leaf(role, np.array(v) if isinstance(v, np.ndarray) else v) for path, (role, v) in found.items()}


def leaves(scope: dict[str, Any], roles: tuple[str, ...] = ()) -> Leaves:
    """Every value in a scope of a program, by an expression of it; if `roles` are given, only those."""
    found: Leaves = {}
    known: dict[int, Any] = {}
    for name, value in sorted(scope.items(), key=lambda item: item[0] in RESULTS):  # of any version, the causes come first
        if name in RESULTS:
            look_at_result(name, value, found)
        elif name not in ("k", "i", "how"):
            look_at(name, value, "outside", found, known)
    return {path: leaf for path, leaf in found.items() if leaf.role in roles} if roles else found


def look_at(path: str, value: Any, role: str, found: Leaves, known: dict[int, Any]) -> None:
    """Add the values in `value`; things that have been seen under another name (known, by their id) are left out."""
    if isinstance(value, (Tensor, nn.Module, optim.Optimiser, list, dict)):
        if id(value) in known:
            return
        known[id(value)] = value
    if isinstance(value, Tensor):
        role = "parameter" if value.requires_grad and value.node is None else role
        found[f"{path}.data"] = Leaf(role, value.data)
        if value.grad is not None:
            found[f"{path}.grad.data"] = Leaf("gradient", value.grad.data)
        elif role == "parameter":
            found[f"{path}.grad"] = Leaf("gradient", None)
    elif isinstance(value, nn.Module):
        found[f"{path}.training"] = Leaf("outside", value.training)
        for name, parameter in value._parameters.items():
            look_at(f"{path}.{name}", parameter, "parameter", found, known)
        for name, buffer in value._buffers.items():
            found[f"{path}.{name}"] = Leaf("buffer", buffer)
        for name, part in value._modules.items():
            look_at(f"{path}[{name}]" if name.isdigit() else f"{path}.{name}", part, role, found, known)
    elif isinstance(value, optim.Optimiser):
        found[f"{path}.steps"] = Leaf("optimiser", value.steps)
        found[f"{path}.lr"] = Leaf("optimiser", value.lr)
        look_at(f"{path}.settings", dict(value.settings), "optimiser", found, known)
        look_at(f"{path}.params", value.params, "parameter", found, known)
        look_at(f"{path}.state", value.state, "optimiser", found, known)
    else:
        for inner, part in parts_of(path, value):
            look_at(inner, part, role, found, known)
        if isinstance(value, (np.ndarray, np.generic, float, int, str, bytes)) or value is None:
            found[path] = Leaf(role, value)


def look_at_result(path: str, value: Any, found: Leaves) -> None:
    """Add the values in a result: whether they come as Tensors or as arrays makes no difference."""
    if isinstance(value, Tensor):
        found[path] = Leaf("result", value.data)
        return
    inner = list(parts_of(path, value))
    for name, part in inner:
        look_at_result(name, part, found)
    if not inner:
        found[path] = Leaf(
            "result", value if isinstance(value, (np.ndarray, np.generic, float, int, str)) else type(value).__name__
        )


def parts_of(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a container holds."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f"{path}.{name}", part) for name, part in zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list, collections.deque)):
        yield from ((f"{path}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f"{path}[{key!r}]", part) for key, part in value.items())
    elif dataclasses.is_dataclass(value) or isinstance(value, types.SimpleNamespace):
        yield from ((f"{path}.{name}", part) for name, part in vars(value).items())


def scope_of(error: Exception) -> dict[str, Any]:
    """The names of the program in which an error came up."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "program":
            return dict(frame.f_locals)
        trace = trace.tb_next
    return {}


# Rounding


# operations whose results nothing rounds, whoever computes them; neither do those that only move data
EXACT = (
    *("abs", "ceil", "clip", "det_sign", "first_of", "floor", "gather", "lookup", "max", "maximum", "min", "minimum", "neg"),
    *("relu", "round", "setitem", "sign", "to_device", "trunc", "where", "windows"),
)


class Disturbance:
    """Changes of a unit in the last place or two, as another order of the same operations might make them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, x: Any) -> Any:
        if x.dtype.kind != "f":
            return x
        units = self.rng.choice([-2, -1, 1, 2], np.shape(x))
        return np.asarray(x * (1 + np.finfo(x.dtype).eps * units).astype(x.dtype))

    def of_result(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose result is disturbed, the same each time for the same arguments."""
        given: dict[str, Any] = {}

        def called(*args: Any, **kwargs: Any) -> Any:
            key = repr((args, kwargs))
            if key not in given:
                given[key] = self(np.asarray(function(*args, **kwargs)))
            return given[key].copy()

        return called

    def of_parameters(self, how: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`how` for steps whose parameters are disturbed first."""

        def made(step: Any) -> Any:
            scope = sys._getframe(1).f_locals
            for leaf in leaves(scope, ("parameter",)).values():
                leaf.value[...] = self(leaf.value)
            return how(step)

        return made

    def operation(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """An operation whose operands and result are disturbed: a sum whose result is 0 errs by as much as its terms."""

        def called(*args: Any, **attrs: Any) -> Any:
            y = forward(*args, **attrs)
            if not is_new(y, args):
                return y
            terms = [self(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
            with contextlib.suppress(Exception):  # as from an index that is no longer one
                y = forward(*terms, **attrs)
            return self(y)

        return called


def rounded(forward: Callable[..., Any]) -> Callable[..., Any]:
    """An operation computed in float64."""

    def called(xp: Any, *args: Any, **attrs: Any) -> Any:
        y = forward(xp, *args, **attrs)
        if not is_new(y, args) or y.dtype == np.float64:
            return y
        wider = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
        exact = np.asarray(forward(xp, *wider, **attrs))
        return exact.astype(y.dtype) if exact.shape == y.shape else y

    return called


def is_new(y: Any, args: tuple[Any, ...]) -> bool:
    """Whether a result is of floating numbers, and no view of an argument."""
    floating = isinstance(y, (np.ndarray, np.generic)) and y.dtype.kind == "f"
    return floating and not any(isinstance(a, np.ndarray) and np.may_share_memory(a, y) for a in args)


@contextlib.contextmanager
def instead(change: Callable[[Callable[..., Any]], Callable[..., Any]] | None) -> Iterator[None]:
    """Inside of the block operations compute in another way, but for those that nothing rounds."""
    inexact = [op for op in OPS.values() if change is not None and not op.moves and op.name not in EXACT]
    for op in inexact:
        op.forward = change(op.forward)
    try:
        yield
    finally:
        for op in inexact:
            del op.forward
