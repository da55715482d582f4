"""Op: an operation is one class, which says what it computes and what its gradient is; `help(tensorgrad.op)` has an example."""

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

Value: TypeAlias = Any  # what a rule is written in: an array or a Tensor
Rules: TypeAlias = tuple[Callable[[], Value] | None, ...]
Tangents: TypeAlias = tuple[Callable[[Value], Value] | None, ...] | Callable[..., Value]
Sample: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # arguments and attributes

REGISTRY: dict[str, Op] = {}


class CallSignature:
    """What `inspect.signature` and `help` show of an op, found when they ask."""

    def __get__(self, op: Op | None, kind: type[Op]) -> inspect.Signature:
        if op is None:
            raise AttributeError("__signature__")  # to call the class is something else
        if kind.__call__ is not Op.__call__:
            return inspect.signature(op.__call__)
        _, *taken = inspect.signature(op.forward).parameters.values()  # the first is xp
        for i, p in enumerate(taken):
            if p.kind is not p.KEYWORD_ONLY:
                by_place = p.kind if p.kind is p.VAR_POSITIONAL else p.POSITIONAL_ONLY
                taken[i] = p.replace(kind=by_place, annotation="Operand[T]")
        return inspect.Signature(taken, return_annotation="T | Array")


class Op:
    """An operation: a name, a signature, a formula, `forward`, `backward`, `jvp`. See the module's text for how to write one.

    signature   NumPy's gufunc notation. "()" is an elementwise argument; arguments broadcast over leading axes. Where the
                notation has "...", only the arguments that carry it have leading axes, the same ones: "(...,k),(k,n)->(...,n)".
                "k?" is an axis that may be missing, "(*)" an argument of any shape
    reads       names of the parameters of `backward` whose values it reads; what is not named is not kept in memory, and
                the rule gets a stand-in that has a shape and a dtype only: using its value is an error, which says what to name
    data        names of the parameters that are data and have no gradient (labels, masks); Tensors that require one are refused
    linear      names of the parameters of `forward` in which, one at a time, the result is linear: for those `jvp` is `forward`
                itself, with the tangent in place of the argument, and need not be written
    domain      where tests draw its inputs from: smooth and finite there
    kinks       values in the domain at which the derivative jumps; tests of the gradient keep away from them
    log         the op that gives, of its argument and attributes, the logarithm of its result, or None. `log` of a result
                is evaluated by it: a softmax underflows to 0, a log_softmax does not
    log_complement   the same for the logarithm of 1 minus its result
    keeps_origin     whether results that are not recorded remember what they were computed from, for such a logarithm
    expands     for a fused op, the ops that it stands for: the first of its arguments, each further one of the result before it
    rowwise     whether each row of the result depends on the same rows of the arguments alone
    symbol      how drawings write it; the name where it is empty
    moves       whether it only moves data: there is no arithmetic in it
    layer       whether it multiplies by weights, and so begins a layer: derivations call what it gives z1, z2, ...
    activation  whether what it gives is what the units of a layer pass on: derivations call that h1, h2, ...
    calls       whether it calls a function of the user's, which a check of the op would check
    draws       whether each use draws random numbers, which a replay of what was recorded has to keep, or draw anew
    meets       whether all ranks (core.ranks) have to come to each use, in the same order
    public      what people call, if that is not the op itself: errors have that name
    real        whether its result is real whatever the arguments: integers and booleans are made floating before `forward`
    exact       whether half precision goes into `forward` as it is, because nothing is rounded there
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
        self.__doc__ = f"{self.__doc__ or ''}\n"  # not that of the class, which `help` would describe instead
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
        taken = list(inspect.signature(self.forward).parameters.values())[1:] if hasattr(self, "forward") else []  # after xp
        plain = type(self).__call__ is Op.__call__  # others sort their arguments themselves
        if self.linear:
            places = [p for p in taken if p.kind is not p.KEYWORD_ONLY]
            if unknown := set(self.linear.split()) - {p.name for p in places}:
                raise TensorgradError(f"{self.name}: linear names {sorted(unknown)}, which forward does not take")
            self.linear_in = [p.name in self.linear.split() for p in places]
            if self.jvp is None:
                self.jvp = self.itself
        self.by_place = frozenset(p.name for p in taken if plain and p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty)
        self.reads_some = any(self.reads_input)
        self.reads_all = self.reads_some and all(self.reads_input)
        known = type(REGISTRY.get(self.name, self))
        # the same class once more is a cell of a notebook that was run again: the new one counts
        if (known.__module__, known.__qualname__) != (type(self).__module__, type(self).__qualname__):
            raise TensorgradError(
                f"op {self.name!r} is registered twice, by {known.__qualname__} and {type(self).__qualname__}"
            )
        REGISTRY[self.name] = self

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        """Itself, as an attribute of a class too: it does not bind. What has this is a function to `inspect` and `help`."""
        return self

    def __repr__(self) -> str:
        return f"<op {self.name} {self.signature}>"

    def itself(self, y: Value, *xs: Value, **attrs: Any) -> Tangents:
        """The `jvp` of an op that is linear in what `linear` names: its own result, of the tangent in place of the argument."""

        def along(i: int) -> Callable[[Value], Value] | None:
            if not self.linear_in[min(i, len(self.linear_in) - 1)]:
                return None

            def tangent(t: Value) -> Value:
                if type(t) is np.ndarray and others:  # the shortest way: a Jacobian may ask for thousands
                    return self.forward(np, *xs[:i], t, *xs[i + 1 :], **attrs)
                return self.apply(*xs[:i], t, *xs[i + 1 :], **attrs)

            others = all(type(x) is np.ndarray for j, x in enumerate(xs) if j != i)
            return tangent

        return tuple(along(i) for i in range(len(xs)))

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
        """Whether argument i is made floating where it is integers or booleans."""
        return self.real and not self.is_data(i)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        """Arguments and attributes to test the op with: float64 arrays of shapes by its signature, values in its domain.

        An op that takes attributes, or arguments of another kind, overrides this.
        """
        return tuple(self.values(rng, shape) for shape in self.parsed.shapes(rng, sizes)), {}

    def values(self, rng: np.random.Generator, shape: Shape) -> Array:
        """float64 in the domain, at least 0.05 away from every kink."""
        x = np.asarray(rng.uniform(*self.domain, shape))
        for kink in self.kinks:
            x = np.where(np.abs(x - kink) < 0.05, kink + np.where(x < kink, -0.05, 0.05), x)
        return np.asarray(x)

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        """How many floating-point operations one use takes, from the shapes of arguments and result; for costs in drawings.

        One for each element of the largest of them, unless an op knows better; none for an op that only moves data.
        """
        return 0 if self.moves else max(math.prod(shape) for shape in (*shapes, out))

    def formula(self, direction: str) -> str:
        """The lines of the docstring that stand behind `direction` ("forward", "backward" or "tangent")."""
        text = inspect.cleandoc(self.__doc__ or "")
        found = re.search(rf"^{direction} +(.*(?:\n +.*)*)", text, re.MULTILINE)
        return "\n".join(line.strip() for line in found[1].splitlines()) if found else ""

    def apply(self, *args: Any, **attrs: Any) -> Any:
        """The result: an array, or a Tensor when any argument is one, recorded if one of them requires a gradient.

        An op whose arguments have defaults, or are attributes, defines its own `__call__` and calls this; what type checkers
        know of the others stands in operand.py. What it does stands in record.py, which puts it here: an Op stands below
        what it makes, Nodes and Tensors.
        """
        raise NotImplementedError

    __call__ = apply


class Label(Op):
    """A name where a graph has an op: a kernel of a plan, a function that has failed (`problem` says how). Nobody calls it."""

    def __init__(self, name: str, problem: str = "") -> None:
        self.name, self.problem = name, problem  # type: ignore[misc]

    def formula(self, direction: str) -> str:
        return ""
