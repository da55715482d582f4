"""Global switches: recording, fusion, the running module, and observers.

Switches set by the user's `with` blocks are context variables: each thread and each asyncio task has its own, and a task
inherits those of its creator. Transient state, such as the module whose forward runs, is per thread, because tasks do not
switch in the middle of it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar

from tensorgrad.core import spellings
from tensorgrad.core.scope import Called
from tensorgrad.errors import ArgumentError, CompileError, DeviceMemoryError, DTypeError, OutOfRangeError, TensorgradError

TensorT = TypeVar("TensorT")  # Tensor, Node and Op are defined above this module
TensorIn = TypeVar("TensorIn", contravariant=True)
NodeIn = TypeVar("NodeIn", contravariant=True)
OpIn = TypeVar("OpIn", contravariant=True)


class Tracer(Protocol[TensorT]):
    """Observes everything that a step does besides recording nodes, so that it can be replayed.

    The compiler's Trace is one; `state.trace` is the active one. Arrays are NumPy's or CuPy's. Each method is called before the
    event; for those that cannot be replayed it raises CompileError.
    """

    def recorded(self, node: Any, /) -> None:
        """A node was recorded."""

    def created(self, tensor: TensorT, /) -> None:
        """A Tensor without history was created from numbers."""

    def copied(self, tensor: TensorT, source: Any, /) -> None:
        """A Tensor without history was created as a copy of `source`: a Tensor, or an array."""

    def shared(self, tensor: TensorT, source: TensorT, /) -> None:
        """A Tensor without history was created on the memory of `source`."""

    def needs_value(self, tensor: TensorT, reader: str, /) -> None:
        """Python code reads the values of a Tensor by `reader`; an error if they vary between calls."""

    def forbid(self, what: str, /) -> None:
        """A call that a replay would not repeat; always an error."""

    def uses_constant(self, array: Any, /) -> None:
        """The values of an outside array are used as constants, without being recorded."""

    def reads_grad(self, tensor: TensorT, /) -> None:
        """The `.grad` of a Tensor is read."""

    def writes_grad(self, tensor: TensorT, /) -> None:
        """The `.grad` of a Tensor is set."""

    def accumulates(self, tensor: TensorT, /) -> None:
        """backward() adds to the `.grad` of a Tensor."""

    def writes(self, tensor: TensorT, after: TensorT, /) -> bool:
        """The values of `after` are written to a Tensor without history, in its own memory.

        Returns whether it stays without history, because it is from outside of the step.
        """

    def writes_view(self, tensor: TensorT, /) -> None:
        """Values are written to a Tensor with a history, in its own memory; an error if the memory belongs to one without."""

    def assigns(self, target: Any, value: TensorT, /) -> None:
        """The values of a Tensor are written to the outside array `target`."""

    def scattered(self, y: TensorT, x: TensorT, t: TensorT, /) -> None:
        """y was computed from zeros by adding each row of x to the row given by the integers t."""

    def scatter_source(self, tensor: TensorT, /) -> tuple[TensorT, TensorT] | None:
        """The rows and indices from which `scattered` computed a Tensor; None for others."""
        return None

    def reads_changed(self, array: Any, /) -> None:
        """The array of a Tensor is read after its memory was overwritten; an error unless the memory is from outside."""

    def write_count(self) -> int:
        """The number of writes to outside memory so far."""
        return 0

    def node_count(self) -> int:
        """The number of nodes recorded so far."""
        return 0

    def captures(self, result: TensorT, first: int, since: int, arguments: Sequence[TensorT], /) -> None:
        """A function that each replay calls again has recorded all nodes from number `first` on and returned `result`; an error
        if it reads Tensors computed by the step other than its `arguments`.
        """

    def enters(self, module: Any, /) -> None:
        """The forward of a module runs."""

    def steps(self, optimiser: Any, /) -> None:
        """An optimiser makes a step."""

    def recomputed(self, compute: Callable[[], Mapping[str, float]], near: Any, /) -> dict[str, TensorT]:
        """Numbers, such as a learning rate, to be recomputed at each call.

        Returns a 0-d Tensor for each, by name, with the dtype and device of the array `near`.
        """


class Profiler(Protocol[NodeIn, OpIn]):
    """Receives time measurements; core.profiling.Profile is one."""

    def ran(self, op: OpIn, args: Any, attrs: dict[str, Any], out: Any, seconds: float, node: NodeIn | None, /) -> None:
        """An op has computed the array `out` from arrays and numbers; `node` is the recorded node, if any."""

    def differentiated(self, node: NodeIn, rules: str, seconds: float, nbytes: int, /) -> None:
        """A rule of a node, named after its op, has computed a gradient of so many bytes."""

    def note(self, name: str, module: str, cost: Any, /) -> None:
        """Add a named cost (a Cost) of the module with this path."""


V = TypeVar("V")


class Switch(Generic[V]):
    """An attribute of `state` that reads and sets a context variable."""

    def __init__(self, variable: ContextVar[V]) -> None:
        self.variable = variable

    def __get__(self, instance: State, owner: type[State]) -> V:
        return self.variable.get()

    def __set__(self, instance: State, value: V) -> None:
        self.variable.set(value)


recording = ContextVar("recording", default=True)
checking = ContextVar("checking", default=False)
profile: ContextVar[Profiler[Any, Any] | None] = ContextVar("profile", default=None)
modes: ContextVar[dict[int, tuple[Any, bool]]] = ContextVar("modes", default={})  # noqa: B039  it is never written to
# read directly by every op and compiled step, in a third of the time of `state.recording`
is_recording, is_checking, who_measures = recording.get, checking.get, profile.get


class State(threading.local):
    # per context
    recording = Switch(recording)  # False inside no_grad()
    checking = Switch(checking)  # True inside detect_anomaly()
    profile = Switch(profile)  # the active Profiler inside profile()
    fusing = Switch(ContextVar("fusing", default=True))  # False inside fusion.off()
    modes = Switch(modes)  # training modes inside evaluate(), predict() and fit(), by id, each with its module
    initial: Switch[Any] = Switch(ContextVar("initial", default=None))  # the generator of initial values inside seeded()
    # per thread; `state.__dict__` has all of them, for code that reads several
    rehearsing: bool  # True while a plan is tried out: no exchange with other processes
    tracing: bool  # True while a whole program is captured: operations without gradients are recorded too
    trace: Tracer[Any] | None  # the observer while a step is traced
    walked: Callable[[list[Any]], None] | None  # called with the Tensors that a reverse walk starts from
    batching: Any  # the active vmap calls (a core.batched.Batching), which process batched operations
    draws: Callable[[Callable[[], Any]], Any] | None  # stores random draws, and returns them again
    scope: str  # path of the module whose forward is running, e.g. "encoder.0": a core.scope.Scope
    function: Called | None  # the running call of a function of several ops, which a drawing can show as one
    caller: str  # the running function of several ops, named in errors instead of the op inside
    gradient_of: Any  # the node whose rule is running in a recorded backward pass
    # for all threads
    attach_graph: Callable[..., None]  # attaches the graph to the error of a function of several ops; set by record.py

    def __init__(self) -> None:  # called in each thread
        self.rehearsing = self.tracing = False
        self.trace = self.walked = self.batching = self.draws = self.function = self.gradient_of = None
        self.scope = self.caller = ""


state = State()


_F = TypeVar("_F", bound=Callable[..., Any])


def one_box(fn: _F) -> _F:
    """Decorator for a public function of several ops: its nodes refer to it, and drawings show it as one operation.

    Errors have its name, as with `named`.
    """

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        if state.function is not None:
            return fn(*args, **kwargs)
        state.function = call = Called(fn, args, kwargs)
        outer, state.caller = state.caller, state.caller or fn.__name__
        try:
            result = fn(*args, **kwargs)
        except Exception as error:
            explained = explained_error(fn, error, args, kwargs)
            state.attach_graph(explained, call, args, kwargs)
            if explained is error:
                raise
            raise explained from error
        finally:
            state.function = None
            state.caller = outer
        if getattr(result, "made_of", ""):  # an unrecorded result of named data: until here it had their expression
            result.made_of = f"{fn.__name__}({result.made_of})"
        return result

    return called  # type: ignore[return-value]


def named(fn: _F) -> _F:
    """Decorator for a public function of several ops: errors have its name instead of an op's."""

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        if state.caller:
            return fn(*args, **kwargs)
        state.caller = args[0].name if fn.__name__ == "__call__" else fn.__name__  # __call__ of a composite op
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            if (explained := explained_error(fn, error, args, kwargs)) is error:
                raise
            raise explained from error
        finally:
            state.caller = ""

    return called  # type: ignore[return-value]


def suggesting_keywords(fn: _F) -> _F:
    """Decorator: errors about unknown keywords suggest the name used here. It costs an additional call."""

    @functools.wraps(fn)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return fn(self, *args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise
            raise wrong_call(fn, type(self).__name__ if fn.__name__ == "__init__" else self.name, error) from None

    called.answers = fn  # type: ignore[attr-defined]
    return called  # type: ignore[return-value]


def wrong_call(fn: Callable[..., Any], name: str, error: TypeError) -> TypeError:
    """Python's error about the number or names of arguments, with the name of the function and its parameters."""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(fn).parameters.values() if p.name != "self"]
    text = f"{scoped(name)}: {str(error).partition('() ')[2]}; expected {name}{inspect.Signature(parameters)}"
    return TypeError(text + spellings.keyword(fn, error))


def scoped(op: str) -> str:
    """The prefix of an error: the path of the running module and the name of the called function, by default `op`."""
    name = state.caller or op
    return f"{state.scope}.{name}" if state.scope else name


KINDS: dict[type[Exception], type[TensorgradError]] = {
    TypeError: DTypeError,
    AttributeError: DTypeError,
    IndexError: OutOfRangeError,
    MemoryError: DeviceMemoryError,
    ValueError: ArgumentError,
    ArithmeticError: ArgumentError,
    RuntimeError: ArgumentError,
}


def explained_error(fn: Callable[..., Any], error: Exception, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception:
    """An error of Python or NumPy inside a function, with the function's name and arguments.

    The package's own errors get the name if they have none. Warnings turned into errors are unchanged. Errors about the number
    or names of arguments stay TypeErrors.
    """
    name = args[0].name if fn.__name__ == "__call__" else fn.__name__
    if isinstance(error, TypeError) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
        return wrong_call(fn, name, error)
    kind = next((kind for base, kind in KINDS.items() if isinstance(error, base)), None)
    if isinstance(error, (CompileError, Warning, FloatingPointError)) or kind is None:
        return error
    where, text = scoped(name), str(error)
    if isinstance(error, TensorgradError):
        if where not in text:
            error.args = (f"{where}: {text}", *error.args[1:])
        return error
    if text.startswith(f"{where}:"):
        return kind(text)
    arguments = [*map(describe, args), *(f"{name}={describe(value)}" for name, value in kwargs.items())]
    return kind(f"{where}: {text}; called as {name}({', '.join(arguments)})")


def describe(value: Any) -> str:
    """A value for an error message: arrays by shape and dtype, others by their shortened repr."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is not None and isinstance(shape, tuple) and (shape or hasattr(value, "requires_grad")):
        return f"{type(value).__name__} {shape} {dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Changes:
    """Counts replacements of objects that compiled steps depend on: attributes of modules and optimisers, arrays of Tensors,
    hooks. They check again when the count has changed.
    """

    count: int = 0


changes = Changes()


class switched:
    """Context manager and decorator that sets some switches, and restores them afterwards."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.before: dict[str, Any] | None = None

    def __enter__(self) -> None:
        if self.before is not None:
            raise ArgumentError("this `with` block is already entered, here or in another thread; create another one")
        self.before = {name: getattr(state, name) for name in self.values}
        for name, value in self.values.items():
            setattr(state, name, value)

    def __exit__(self, *raised: object) -> None:
        before, self.before = self.before or {}, None
        for name, value in before.items():
            setattr(state, name, value)

    def __call__(self, fn: _F) -> _F:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ArgumentError(
                f"{fn.__name__} is a generator: the decorator would end before its first step; write `with` blocks "
                f"inside it, without a yield in them"
            )
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with switched(**self.values):
                    return await fn(*args, **kwargs)

            return awaited  # type: ignore[return-value]

        @functools.wraps(fn)
        def called(*args: Any, **kwargs: Any) -> Any:
            with switched(**self.values):
                return fn(*args, **kwargs)

        return called  # type: ignore[return-value]
