"""Op: each operation is a class with its computation and its gradient; see `help(tensorgrad.op)` for an example."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.core.signature import Shape, Signature
from tensorgrad.errors import TensorgradError

Value: TypeAlias = Any  # operand of a rule: an array or a Tensor
Rules: TypeAlias = tuple[Callable[[], Value] | None, ...]
Tangents: TypeAlias = tuple[Callable[[Value], Value] | None, ...] | Callable[..., Value]
Sample: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # arguments and attributes

REGISTRY: dict[str, Op] = {}


class CallSignature:
    """The signature of an op for `inspect.signature` and `help`, computed on demand."""

    def __get__(self, op: Op | None, kind: type[Op]) -> inspect.Signature:
        if op is None:
            raise AttributeError("__signature__")  # calling the class is different
        if kind.__call__ is not Op.__call__:
            return inspect.signature(op.__call__)
        _, *parameters = inspect.signature(op.forward).parameters.values()  # the first is xp
        for i, p in enumerate(parameters):
            if p.kind is not p.KEYWORD_ONLY:
                kind_by_place = p.kind if p.kind is p.VAR_POSITIONAL else p.POSITIONAL_ONLY
                parameters[i] = p.replace(kind=kind_by_place, annotation="Operand[T]")
        return inspect.Signature(parameters, return_annotation="T | Array")


class Op:
    """An operation: a name, a signature, a formula, `forward`, `backward`, `jvp`. See the module's documentation for how to
    write one.

    signature   NumPy's gufunc notation. "()" is an elementwise argument; arguments broadcast over leading axes. If the notation
                has "...", only the arguments with it have leading axes, which must be equal: "(...,k),(k,n)->(...,n)". "k?" is
                an optional axis, "(*)" an argument of any shape
    reads       names of the parameters of `backward` whose values it reads; others are not kept in memory, and the rule gets a
                placeholder with shape and dtype only: using its value is an error that says what to declare
    data        names of the parameters without a gradient (labels, masks); Tensors that require one are refused
    linear      names of the parameters of `forward` in which, one at a time, the result is linear: for those `jvp` is `forward`
                with the tangent in place of the argument, and need not be written
    domain      interval for test inputs, where the op is smooth and finite
    kinks       values in the domain at which the derivative jumps; gradient tests avoid them
    log         the op that computes the logarithm of the result from its argument and attributes, or None. `log` of a result
                uses it: a softmax underflows to 0, a log_softmax does not
    log_complement   the same for the logarithm of 1 minus the result
    keeps_origin     whether unrecorded results remember how they were computed, for such a logarithm
    expands     for a fused op, the ops that it replaces: the first of its arguments, each further one of the result before it
    rowwise     whether each row of the result depends only on the same rows of the arguments
    symbol      notation in drawings; the name if empty
    moves       whether it only moves data, without arithmetic
    layer       whether it multiplies by weights, and so begins a layer: derivations name its results z1, z2, ...
    activation  whether it is an activation: derivations name its results h1, h2, ...
    calls       whether it calls a user's function, which a check of the op would check
    draws       whether each use draws random numbers, which replays must keep or draw again
    meets       whether all ranks (core.ranks) must execute each use, in the same order
    public      the public function, if not the op itself: the name in errors
    real        whether its result is always real: integers and booleans become floating before `forward`
    exact       whether `forward` takes half precision directly, because it does not round
    """

    name: ClassVar[str]
    signature: ClassVar[str]
    reads: ClassVar[str] = ""
    data: ClassVar[str] = ""
    linear: ClassVar[str] = ""
    domain: ClassVar[tuple[float, float]] = (-2.0, 2.0)
    kinks: ClassVar[tuple[float, ...]] = ()
    symbol: ClassVar[str] = ""
    moves: ClassVar[bool] = False
    layer: ClassVar[bool] = False
    activation: ClassVar[bool] = False
    calls: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    meets: ClassVar[bool] = False
    public: ClassVar[str] = ""
    real: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    log: Op | None = None
    log_complement: Op | None = None
    keeps_origin: ClassVar[bool] = False
    expands: tuple[Op, ...] = ()
    rowwise: ClassVar[bool] = False

    __signature__ = CallSignature()

    forward: Callable[..., Array]
    backward: Callable[..., Rules] | None = None
    jvp: Callable[..., Tangents] | None = None

    def __init__(self) -> None:
        self.__name__ = self.__qualname__ = self.name
        self.__doc__ = f"{self.__doc__ or ''}\n"  # not the class's, which `help` would show instead
        self.parsed = Signature.parse(self.signature)
        reads = set(self.reads.split())
        self.reads_output = "y" in reads
        if self.backward is not None:
            positional = [p for p in inspect.signature(self.backward).parameters.values() if p.kind is not p.KEYWORD_ONLY]
            self.variadic = bool(positional) and positional[-1].kind is inspect.Parameter.VAR_POSITIONAL
            self.reads_input = tuple(p.name in reads for p in positional[2:])
            self.takes_data = tuple(p.name in self.data.split() for p in positional[2:])
            unknown = (reads | set(self.data.split())) - {p.name for p in positional[1:]}
            if unknown:
                raise TensorgradError(f"{self.name}: reads or data names {sorted(unknown)}, which backward does not take")
        else:
            self.reads_input = self.takes_data = ()
            self.variadic = False
        parameters = (
            list(inspect.signature(self.forward).parameters.values())[1:] if hasattr(self, "forward") else []
        )  # after xp
        is_usual_call = type(self).__call__ is Op.__call__  # others arrange their arguments themselves
        if self.linear:
            positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
            if unknown := set(self.linear.split()) - {p.name for p in positional}:
                raise TensorgradError(f"{self.name}: linear names {sorted(unknown)}, which forward does not take")
            self.linear_in = [p.name in self.linear.split() for p in positional]
            if self.jvp is None:
                self.jvp = self.itself
        required = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
        self.positional_only = frozenset(required if is_usual_call else [])
        self.reads_some = any(self.reads_input)
        self.reads_all = self.reads_some and all(self.reads_input)
        registered = type(REGISTRY.get(self.name, self))
        # a redefined class, as when a notebook cell is run again, replaces the old one
        if (registered.__module__, registered.__qualname__) != (type(self).__module__, type(self).__qualname__):
            raise TensorgradError(
                f"op {self.name!r} is registered twice, by {registered.__qualname__} and {type(self).__qualname__}"
            )
        REGISTRY[self.name] = self

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        """The op itself: as a class attribute it does not bind. This makes it a function for `inspect` and `help`."""
        return self

    def __repr__(self) -> str:
        return f"<op {self.name} {self.signature}>"

    def itself(self, y: Value, *xs: Value, **attrs: Any) -> Tangents:
        """The `jvp` of an op that is linear in the arguments named by `linear`: its own result, with the tangent as
        argument.
        """

        def tangent_rule(i: int) -> Callable[[Value], Value] | None:
            if not self.linear_in[min(i, len(self.linear_in) - 1)]:
                return None

            def tangent(t: Value) -> Value:
                if type(t) is np.ndarray and are_arrays:  # fast path: a Jacobian may need thousands
                    return self.forward(np, *xs[:i], t, *xs[i + 1 :], **attrs)
                return self.apply(*xs[:i], t, *xs[i + 1 :], **attrs)

            are_arrays = all(type(x) is np.ndarray for j, x in enumerate(xs) if j != i)
            return tangent

        return tuple(tangent_rule(i) for i in range(len(xs)))

    def reads_argument(self, i: int) -> bool:
        """Whether the rule reads the value of argument i."""
        if self.variadic:
            i = min(i, len(self.reads_input) - 1)
        return i < len(self.reads_input) and self.reads_input[i]

    def is_data(self, i: int) -> bool:
        """Whether argument i is data, without a gradient."""
        if self.variadic:
            i = min(i, len(self.takes_data) - 1)
        return i < len(self.takes_data) and self.takes_data[i]

    def widens(self, i: int) -> bool:
        """Whether argument i is converted from integers or booleans to floating."""
        return self.real and not self.is_data(i)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        """Arguments and attributes for tests: float64 arrays with shapes by the signature and values in the domain.

        Ops with attributes, or with other kinds of arguments, override this.
        """
        return tuple(self.values(rng, shape) for shape in self.parsed.shapes(rng, sizes)), {}

    def values(self, rng: np.random.Generator, shape: Shape) -> Array:
        """float64 in the domain, at least 0.05 away from every kink."""
        x = np.asarray(rng.uniform(*self.domain, shape))
        for kink in self.kinks:
            x = np.where(np.abs(x - kink) < 0.05, kink + np.where(x < kink, -0.05, 0.05), x)
        return np.asarray(x)

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        """The number of floating-point operations of one use, from the shapes of arguments and result, for costs in drawings.

        By default one for each element of the largest of them; none for an op that only moves data.
        """
        return 0 if self.moves else max(math.prod(shape) for shape in (*shapes, out))

    def formula(self, direction: str) -> str:
        """The lines of the docstring after `direction` ("forward", "backward" or "tangent")."""
        text = inspect.cleandoc(self.__doc__ or "")
        match = re.search(rf"^{direction} +(.*(?:\n +.*)*)", text, re.MULTILINE)
        return "\n".join(line.strip() for line in match[1].splitlines()) if match else ""

    def apply(self, *args: Any, **attrs: Any) -> Any:
        """The result: an array, or a Tensor if any argument is one, recorded if one of them requires a gradient.

        Ops whose arguments have defaults, or are attributes, define `__call__` and call this; the types of the others are in
        operand.py. It is implemented in record.py, which attaches it here, because ops are below Nodes and Tensors.
        """
        raise NotImplementedError

    __call__ = apply


class Label(Op):
    """A name in place of an op: for a kernel of a plan, or a function that has failed (`problem` says how). Not callable."""

    def __init__(self, name: str, problem: str = "") -> None:
        self.name, self.problem = name, problem  # type: ignore[misc]

    def formula(self, direction: str) -> str:
        return ""
