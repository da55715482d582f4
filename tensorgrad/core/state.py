"""The switches: what is recorded, what is fused, which module is running, and who watches.

What `with` blocks of the user switch belongs to the context (contextvars): each thread has its own, and each asyncio task,
which begins with that of who made it. What is under way, such as the module whose forward runs, belongs to the thread: no task
gives way to another in the midst of it.
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

TensorT = TypeVar("TensorT")  # the Tensor, the Node, the Op, which stand above this
TensorIn = TypeVar("TensorIn", contravariant=True)
NodeIn = TypeVar("NodeIn", contravariant=True)
OpIn = TypeVar("OpIn", contravariant=True)


class Tracer(Protocol[TensorT]):
    """What is told of everything that a step does besides recording nodes, so that the whole of it can be replayed.

    The compiler's Trace is one; `state.trace` is the one that listens. An array is NumPy's or CuPy's. Each call comes before
    what it tells of is done; those that cannot be replayed raise CompileError.
    """

    def recorded(self, node: Any, /) -> None:
        """A node has been recorded."""

    def made(self, tensor: TensorT, /) -> None:
        """A Tensor without a history has been made, of numbers."""

    def copied(self, tensor: TensorT, source: Any, /) -> None:
        """A Tensor without a history has been made, with a copy of the values of `source`: a Tensor, or an array."""

    def shared(self, tensor: TensorT, source: TensorT, /) -> None:
        """A Tensor without a history has been made, on the memory of `source`."""

    def refuse(self, tensor: TensorT, asked: str, /) -> None:
        """Python code asks for the values of a Tensor by `asked`; an error if they differ from call to call."""

    def forbid(self, what: str, /) -> None:
        """Something is called that a replay would not do again; always an error."""

    def freezes(self, array: Any, /) -> None:
        """The values of an array from outside are taken as they are: they are no part of what is recorded."""

    def reads_grad(self, tensor: TensorT, /) -> None:
        """The `.grad` of a Tensor is read."""

    def writes_grad(self, tensor: TensorT, /) -> None:
        """The `.grad` of a Tensor is set."""

    def accumulates(self, tensor: TensorT, /) -> None:
        """backward() adds to the `.grad` of a Tensor."""

    def writes(self, tensor: TensorT, after: TensorT, /) -> bool:
        """A Tensor without a history is given, in its own memory, the values of `after`.

        Returns whether it stays without one, being of outside of the step.
        """

    def writes_view(self, tensor: TensorT, /) -> None:
        """A Tensor with a history is given other values in its own memory; an error if that is memory of one without."""

    def assigns(self, target: Any, value: TensorT, /) -> None:
        """The array `target`, of outside of the step, is given, in place, the values of a Tensor."""

    def scattered(self, y: TensorT, x: TensorT, t: TensorT, /) -> None:
        """y has been made of zeros by adding each row of x to the row that t, integers, names."""

    def named(self, tensor: TensorT, /) -> tuple[TensorT, TensorT] | None:
        """The rows that a Tensor was made of by `scattered`, and their numbers; None for one that was not."""
        return None

    def reads_changed(self, array: Any, /) -> None:
        """The array of a Tensor is read, whose memory has been written to since it was computed; an error but for memory from
        outside."""

    def written(self) -> int:
        """How often memory from outside has been written to so far."""
        return 0

    def length(self) -> int:
        """How many nodes have been recorded so far."""
        return 0

    def captures(self, result: TensorT, first: int, since: int, given: Sequence[TensorT], /) -> None:
        """A function that each replay calls again has recorded all nodes from number `first` on, of the Tensors `given`, and
        has returned `result`; an error if it reads others that the step has computed."""

    def enters(self, module: Any, /) -> None:
        """The forward of a module runs."""

    def steps(self, optimiser: Any, /) -> None:
        """An optimiser makes a step."""

    def asks(self, compute: Callable[[], Mapping[str, float]], near: Any, /) -> dict[str, TensorT]:
        """Numbers, such as a learning rate, that are to be computed anew at each call.

        Returns a Tensor without axes for each, by name, of the dtype and on the device of the array `near`.
        """


class Profiler(Protocol[NodeIn, OpIn]):
    """What is told how long everything takes; core.profiling.Profile is one."""

    def ran(self, op: OpIn, args: Any, attrs: dict[str, Any], out: Any, seconds: float, node: NodeIn | None, /) -> None:
        """An op has made the array `out` of arrays and numbers; `node` is what was recorded, if anything was."""

    def differentiated(self, node: NodeIn, rules: str, seconds: float, nbytes: int, /) -> None:
        """One rule of a node, by the op of that name, has given a gradient of so many bytes."""

    def note(self, name: str, module: str, cost: Any, /) -> None:
        """What is called `name`, of the module with this path, has cost that (a Cost)."""


V = TypeVar("V")


class Switch(Generic[V]):
    """An attribute of `state` whose value is that of a context variable."""

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
# what every op and every compiled step asks: a third of the time that `state.recording` takes
is_recording, is_checking, who_measures = recording.get, checking.get, profile.get


class State(threading.local):
    # of the context
    recording = Switch(recording)  # False inside no_grad()
    checking = Switch(checking)  # True inside detect_anomaly()
    profile = Switch(profile)  # who measures inside profile()
    fusing = Switch(ContextVar("fusing", default=True))  # False inside fusion.off()
    modes = Switch(modes)  # of modules inside evaluate(), predict() and fit(), by id, each with its module
    initial: Switch[Any] = Switch(ContextVar("initial", default=None))  # the generator of initial values inside seeded()
    # of the thread
    rehearsing: bool = False  # True while a plan is tried out: what other processes have is not asked for
    tracing: bool = False  # True while a whole program is captured: what needs no gradient is recorded too
    trace: Tracer[Any] | None = None  # who listens while a step is traced
    walked: Callable[[list[Any]], None] | None = None  # who is told of the Tensors that a reverse walk begins at
    batching: Any = None  # the calls of vmap that run (a core.batched.Batching), which take over what is batched
    draws: Callable[[Callable[[], Any]], Any] | None = None  # who keeps what is drawn at random, and gives it once more
    scope: str = ""  # path of the module whose forward is running, e.g. "encoder.0": a core.scope.Scope
    function: Called | None = None  # the call of a function of several ops that runs, so that a drawing can show it as one
    caller: str = ""  # the function of several ops that runs, and that errors are told of, not the op inside that refuses
    gradient_of: Any = None  # the node whose rule is running in a recorded backward pass
    failing: Callable[..., None]  # gives an error of a function of several ops the graph up to there; record.py puts it here


state = State()


_F = TypeVar("_F", bound=Callable[..., Any])


def one_box(fn: _F) -> _F:
    """Say that a function of several ops is what people call: its nodes know it, and drawings show it as one operation.

    Errors have its name, as by `named`.
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
            explained = in_words(fn, error, args, kwargs)
            state.failing(explained, call, args, kwargs)
            if explained is error:
                raise
            raise explained from error
        finally:
            state.function = None
            state.caller = outer
        if getattr(result, "made_of", ""):  # of named data, and not recorded: until here it had the name of those
            result.made_of = f"{fn.__name__}({result.made_of})"
        return result

    return called  # type: ignore[return-value]


def named(fn: _F) -> _F:
    """Say that a function of several ops is what people call: errors have its name, not that of an op that it is made of."""

    @functools.wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        if state.caller:
            return fn(*args, **kwargs)
        state.caller = args[0].name if fn.__name__ == "__call__" else fn.__name__  # the call of an op that is made of others
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            if (explained := in_words(fn, error, args, kwargs)) is error:
                raise
            raise explained from error
        finally:
            state.caller = ""

    return called  # type: ignore[return-value]


def answering(fn: _F) -> _F:
    """Let a method say of keywords that it does not take how they are written here. It costs what a call costs."""

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
    """What Python says of the number or the names of arguments, with the name of the function, and what it takes."""
    taken = [p.replace(annotation=p.empty) for p in inspect.signature(fn).parameters.values() if p.name != "self"]
    text = f"{scoped(name)}: {str(error).partition('() ')[2]}; expected {name}{inspect.Signature(taken)}"
    return TypeError(text + spellings.keyword(fn, error))


def scoped(op: str) -> str:
    """What an error begins with: the path of the module that runs, and the name of what was called, of `op` by default."""
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


def in_words(fn: Callable[..., Any], error: Exception, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception:
    """What Python or NumPy raised inside of a function, as an error with the function's name and what it was called with.

    The package's own errors get the name where they have none. Warnings that have been made errors stay as they are. What
    Python says of the number or the names of arguments stays a TypeError.
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
    given = [*map(shown, args), *(f"{name}={shown(value)}" for name, value in kwargs.items())]
    return kind(f"{where}: {text}; called as {name}({', '.join(given)})")


def shown(value: Any) -> str:
    """A value in an error: arrays by shape and dtype, anything else as it prints, shortened."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is not None and isinstance(shape, tuple) and (shape or hasattr(value, "requires_grad")):
        return f"{type(value).__name__} {shape} {dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Changes:
    """How often something was put in another's place that compiled steps take for given: an attribute of a module or an
    optimiser, the array of a Tensor, a hook. They look again when the number is another one."""

    count: int = 0


changes = Changes()


class switched:
    """Set some of the switches inside a `with` block and put them back after it; or in each call of a decorated function."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.before: dict[str, Any] | None = None

    def __enter__(self) -> None:
        if self.before is not None:
            raise ArgumentError(
                "a `with` block is entered that has been entered already, here or in another thread; make another"
            )
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
                f"{fn.__name__} is a generator: what decorates it would have ended before its first step; write `with` blocks "
                f"inside of it, with no yield in them"
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
