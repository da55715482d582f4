"""Op and Node: an operation is one class, a use of it one node of the graph.

To add an operation, write one class with its formula, `forward` and `backward`, and make one instance of it::

    class Square(Op):
        \"\"\"y = x²

        forward    y  = x²
        backward   gx = 2 g x
        \"\"\"

        name, signature, reads = "square", "()->()", "x"

        def forward(self, xp, x):
            return xp.square(x)

        def backward(self, g, y, x):
            return (lambda: 2 * g * x,)

    square = Square()

`forward` always gets arrays. `backward` gets arrays, or Tensors when the gradient is itself to be differentiated: write it
with operators, methods and ops, and it serves both. It returns one function per input (None where there is no gradient), so
that only the gradients somebody wants are computed. Un-broadcasting, summing over several uses, dtypes and shape checks are
the engine's work: a rule is its formula alone.
"""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

import tensorgrad.tensor as tensor
from tensorgrad import backend, writes
from tensorgrad.backend import Array
from tensorgrad.errors import AnomalyError, DeviceError, DTypeError, GraphError, OutOfRangeError, ShapeError, TensorgradError
from tensorgrad.location import Location, line_of, user_location
from tensorgrad.state import state

if TYPE_CHECKING:
    from tensorgrad.tensor import Tensor

Value: TypeAlias = Any  # what a rule is written in: an array or a Tensor
Rules: TypeAlias = tuple[Callable[[], Value] | None, ...]
Shape: TypeAlias = tuple[int, ...]
Sample: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # arguments and attributes

REGISTRY: dict[str, Op] = {}


class Node:
    """One use of an op: what drawing, fusing, differentiating and replaying look at.

    op      the operation
    inputs  per argument a Node, a leaf Tensor (given arrays are wrapped in one), or a number
    attrs   keyword arguments of the op
    saved   per argument the array if the rule reads it, else None; once `backward` has let go of it, Freed
    out     the result's array if the rule reads it, else None
    shape, dtype   of the result
    scope   path of the module that was running, "" outside of any
    index   grows in the order of execution, so sorting by it is a topological sort
    retain  a weak reference to the Tensor whose `.grad` was asked for by `retain_grad`
    hooks   functions of the gradient, to be called when it is known; None if there are none
    made    where in the user's code it was recorded; `line` says it in words
    members for a fused node, the nodes that it stands for
    requires_grad  False for what was recorded only because a whole program was captured
    function  the call of a function of several ops, such as conv2d, that it belongs to: (name, number), or None
    gradient_of  for a node made by a recorded backward pass, the node (fused or not) whose rule made it

    Apart from letting go of arrays and from `retain`, a node never changes.
    """

    __slots__ = (
        "op", "inputs", "attrs", "saved", "out", "shape", "dtype", "scope", "index", "retain", "hooks", "made",
        "members", "requires_grad",
        "function", "gradient_of", "__weakref__",
    )  # fmt: skip

    def __init__(
        self,
        op: Op,
        inputs: tuple[Any, ...],
        attrs: dict[str, Any],
        saved: tuple[Any, ...],
        out: Array | None,
        shape: Shape,
        dtype: Any,
        members: tuple[Node, ...] = (),
        requires_grad: bool = True,
        made: Location | None = None,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.saved = saved
        self.out = out
        self.shape = shape
        self.dtype = dtype
        self.scope = state.scope
        self.function: tuple[str, int] | None = state.function
        self.index = writes.tick()
        self.retain: Any = None
        self.hooks: list[Callable[[Tensor], Any]] | None = None
        self.made = made
        self.members = members
        self.requires_grad = requires_grad
        self.gradient_of: Node | None = state.gradient_of

    def replaced(
        self,
        op: Op | None = None,
        inputs: tuple[Any, ...] | None = None,
        saved: tuple[Any, ...] | None = None,
        members: tuple[Node, ...] | None = None,
        attrs: dict[str, Any] | None = None,
    ) -> Node:
        """A node with the same result at the same place in the order, by another op, of other inputs, ..."""
        node = Node(
            self.op if op is None else op,
            self.inputs if inputs is None else inputs,
            self.attrs if attrs is None else attrs,
            self.saved if saved is None else saved,
            self.out,
            self.shape,
            self.dtype,
            self.members if members is None else members,
            self.requires_grad,
            self.made,
        )
        node.scope, node.index, node.gradient_of = self.scope, self.index, self.gradient_of
        node.function = self.function
        return node

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def line(self) -> str:
        """ "model.py:14", where the user's code recorded it; "" if that is not known."""
        return line_of(self.made)

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.shape} {self.dtype}>"


class Freed(tuple[Any, ...]):
    """No arrays, in place of those that a backward pass has let go of; `made` says where that pass was asked for."""

    made: Location | None = None

    @classmethod
    def by(cls, made: Location | None) -> Freed:
        freed = cls()
        freed.made = made
        return freed


class Op:
    """An operation: a name, a signature, a formula, `forward` and `backward`. See the module's text for how to write one.

    signature   NumPy's gufunc notation. "()" is an elementwise argument; arguments broadcast over leading axes. Where the
                notation has "...", only the arguments that carry it have leading axes, the same ones: "(...,k),(k,n)->(...,n)".
                "k?" is an axis that may be missing, "(*)" an argument of any shape
    reads       names of the parameters of `backward` whose values it reads; what is not named is not kept in memory, and
                the rule gets a stand-in that has a shape and a dtype only
    data        names of the parameters that are data and have no gradient (labels, masks); Tensors that require one are refused
    domain      where tests draw its inputs from: smooth and finite there
    kinks       values in the domain at which the derivative jumps; tests of the gradient keep away from them
    symbol      how drawings write it; the name where it is empty
    moves       whether it only moves data: there is no arithmetic in it
    """

    name: ClassVar[str]
    signature: ClassVar[str]
    reads: ClassVar[str] = ""
    data: ClassVar[str] = ""
    domain: ClassVar[tuple[float, float]] = (-2.0, 2.0)
    kinks: ClassVar[tuple[float, ...]] = ()
    symbol: ClassVar[str] = ""
    moves: ClassVar[bool] = False

    forward: Callable[..., Array]
    backward: Callable[..., Rules] | None = None

    def __init__(self) -> None:
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
        self.reads_some = any(self.reads_input)
        self.reads_all = self.reads_some and all(self.reads_input)
        known = type(REGISTRY.get(self.name, self))
        # the same class once more is a cell of a notebook that was run again: the new one counts
        if (known.__module__, known.__qualname__) != (type(self).__module__, type(self).__qualname__):
            raise TensorgradError(
                f"op {self.name!r} is registered twice, by {known.__qualname__} and {type(self).__qualname__}"
            )
        REGISTRY[self.name] = self

    def __repr__(self) -> str:
        return f"<op {self.name} {self.signature}>"

    def is_data(self, i: int) -> bool:
        """Whether argument i is data, without a gradient."""
        if self.variadic:
            i = min(i, len(self.takes_data) - 1)
        return i < len(self.takes_data) and self.takes_data[i]

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
        """The lines of the docstring that stand behind `direction` ("forward" or "backward")."""
        text = inspect.cleandoc(self.__doc__ or "")
        found = re.search(rf"^{direction} +(.*(?:\n +.*)*)", text, re.MULTILINE)
        return "\n".join(line.strip() for line in found[1].splitlines()) if found else ""

    def apply(self, *args: Any, **attrs: Any) -> Any:
        """The result: an array, or a Tensor when any argument is one, recorded if one of them requires a gradient."""
        Tensor = tensor.Tensor
        is_tensor = wanted = False
        arrays: list[Any] = []
        inputs: list[Any] = []
        for a in args:
            if isinstance(a, Tensor):
                is_tensor = True
                if a.requires_grad:
                    wanted = True
                arrays.append(a.data)
                inputs.append(a.node or a)
            else:
                if not isinstance(a, (np.ndarray, float, int)):
                    a = self.operand(a, args)
                arrays.append(a)
                inputs.append(a)
        profile = state.profile
        since = 0.0 if profile is None else time.perf_counter()
        try:
            xp = backend.namespace(arrays)
            out = self.forward(xp, *arrays, **attrs) if xp is np else self.on_gpu(xp, arrays, attrs)
        except MemoryError as error:
            raise backend.memory_error(f"{self.name} of {described(arrays)}", error) from error
        except (ValueError, TypeError, IndexError) as error:
            explained = self.explain(error, args, attrs, arrays)
            if explained is error:
                raise
            raise explained from error
        seconds = 0.0 if profile is None else backend.wait_for(out) - since
        if not is_tensor:
            return out
        if isinstance(out, np.generic):
            out = np.asarray(out)
        if state.checking:
            check_finite(self, args, arrays, out)
        recording = state.recording
        node = None
        if (wanted and recording) or state.tracing:
            node = self.record(args, inputs, attrs, arrays, out, wanted and recording and self.backward is not None)
        if profile is not None:
            profile.ran(self, arrays, attrs, out, seconds, node)
        return tensor.wrap(out, node)

    def operand(self, a: Any, args: Sequence[Any]) -> Array:
        """An argument that is no Tensor as an array; a list, or a scalar of NumPy's, goes to the GPU that another one is on."""
        array = backend.asarray(a, where=self.name)
        if backend.is_array(a) and not isinstance(a, np.generic):
            return array
        return backend.beside(array, [x.data if isinstance(x, tensor.Tensor) else x for x in args])

    def on_gpu(self, xp: Any, arrays: Sequence[Any], attrs: Mapping[str, Any]) -> Array:
        """The result of `forward`, computed where the arrays are."""
        with backend.on(next(a for a in arrays if backend.on_gpu(a))):
            return self.forward(xp, *arrays, **attrs)

    __call__ = apply  # an op whose arguments have defaults, or are attributes, defines its own and calls apply

    def explain(self, error: Exception, args: tuple[Any, ...], attrs: dict[str, Any], arrays: list[Any]) -> Exception:
        """NumPy's error as one that names the module, the op, the argument, what was expected, what came and from where."""
        where = f"{state.scope}.{self.name}" if state.scope else self.name
        if isinstance(error, TensorgradError):
            explained: TensorgradError = error
            if isinstance(error, DeviceError) and not error.args[0].startswith(self.name):
                explained.args = (f"{self.name}: {error}; got {described(arrays)}", *error.args[1:])
            if state.scope:
                explained.args = (f"{state.scope}.{explained}", *error.args[1:])
        elif problem := self.parsed.mismatch([np.shape(a) for a in arrays]):
            explained = ShapeError(f"{where}: {problem}; expected {self.signature}{made_by(args)}")
        else:
            kind: type[TensorgradError] = ShapeError
            if isinstance(error, TypeError):
                kind = DTypeError
            elif isinstance(error, IndexError) and not isinstance(error, ValueError):  # NumPy's error for an axis is both
                kind = OutOfRangeError
            explained = kind(f"{where}: {error}; got {described(arrays)}{made_by(args)}")
        if explained.graph is None and any(isinstance(a, tensor.Tensor) for a in args):
            from tensorgrad.graph import Graph

            inputs = tuple((a.node or a) if isinstance(a, tensor.Tensor) else a for a in args)
            explained.graph = Graph([Node(self, inputs, attrs, (), None, (), None, made=user_location())], check=False)
        return explained

    def record(
        self,
        args: tuple[Any, ...],
        inputs: list[Any],
        attrs: dict[str, Any],
        arrays: list[Any],
        out: Array,
        requires_grad: bool,
    ) -> Node:
        """The node of one use, keeping only the arrays that the rule reads."""
        for i, source in enumerate(inputs):
            if isinstance(source, Node):
                if writes.latest > source.index and writes.since(source.index, (arrays[i],)):
                    raise GraphError(
                        f"{self.name}: argument {i} {source.shape}, made by {source.op.name} at {source.line}, shares memory "
                        f"with a Tensor that has been changed in place since; compute it again"
                    )
            elif not isinstance(source, (tensor.Tensor, float, int)):
                inputs[i] = tensor.wrap(source, None)
        if self.data and requires_grad:
            for i, a in enumerate(args):
                if self.is_data(i) and isinstance(a, tensor.Tensor) and a.requires_grad:
                    raise GraphError(
                        f"{self.name}: argument {i} is data and has no gradient, but it requires one; .detach() it"
                    )
        if not requires_grad:
            return Node(self, tuple(inputs), attrs, (), None, out.shape, out.dtype, (), False, user_location())
        saved: tuple[Any, ...] = ()
        if self.reads_all:
            saved = tuple(arrays)
        elif self.reads_some:
            reads = self.reads_input
            if self.variadic:  # what holds for the last named argument holds for all that follow
                reads += reads[-1:] * (len(arrays) - len(reads))
            saved = tuple([a if read else None for a, read in zip(arrays, reads, strict=False)])
        kept = out if self.reads_output else None
        return Node(self, tuple(inputs), attrs, saved, kept, out.shape, out.dtype, (), True, user_location())


def raw(x: Any) -> Any:
    """The values of a Tensor, an array as it is: what a rule may look at without differentiating it."""
    if isinstance(x, tensor.Tensor):
        return x.data
    return np.asarray(x) if isinstance(x, (float, int, np.generic)) else x


def described(arrays: Sequence[Any]) -> str:
    """Shapes, dtypes and devices other than the CPU: "(2, 3) float32 on cuda:0, () float"."""
    return ", ".join(
        f"{np.shape(a)} {getattr(a, 'dtype', type(a).__name__)}" + (f" on {backend.device_of(a)}" if backend.on_gpu(a) else "")
        for a in arrays
    )


def made_by(args: tuple[Any, ...]) -> str:
    """Who computed the arguments of a failing op: "; fc2.linear produced argument 0 (2, 8) at model.py:14"."""
    text = ""
    for i, a in enumerate(args):
        node = a.node if isinstance(a, tensor.Tensor) else None
        if node is not None:
            name = f"{node.scope}.{node.op.name}" if node.scope else node.op.name
            text += f"; {name} produced argument {i} {node.shape}" + (f" at {node.line}" if node.line else "")
    return text


def check_finite(op: Op, args: tuple[Any, ...], arrays: list[Any], out: Any) -> None:
    """Raise AnomalyError if `out` has a NaN or an infinity, saying whether `op` produced it or passed it on."""
    if out.dtype.kind != "f" or bool(np.isfinite(out).all()):
        return
    where = f"{state.scope}.{op.name}" if state.scope else op.name
    bad = [
        i for i, a in enumerate(arrays) if np.dtype(getattr(a, "dtype", type(a))).kind == "f" and not bool(np.isfinite(a).all())
    ]
    what = f"passed on from argument {', '.join(map(str, bad))}" if bad else "produced here, all arguments being finite"
    kind = "NaN" if bool(np.isnan(out).any()) else "infinity"
    line = line_of(user_location())
    raise AnomalyError(f"{where}: {kind} in its result {out.shape}, {what}{f'; at {line}' if line else ''}{made_by(args)}")


@dataclass(frozen=True)
class Signature:
    """A parsed signature.

    inputs   the named axes of each argument; one that ends in "?" may be missing, if it is the last of its argument
    leading  for each argument, whether it may have further axes before the named ones
    strict   whether those have to be the same wherever "..." stands; they broadcast in a signature without "..."
    """

    inputs: tuple[tuple[str, ...], ...]
    leading: tuple[bool, ...]
    strict: bool

    @classmethod
    def parse(cls, text: str) -> Signature:
        left, arrow, right = text.partition("->")
        groups = re.findall(r"\(([^()]*)\)", left)
        if not arrow or not groups or not re.fullmatch(r" *\([^()]*\) *", right):
            raise TensorgradError(f"signature {text!r} is not of the form '(a,b),(b)->(a)'")
        split = [[name.strip() for name in g.split(",") if name.strip()] for g in groups]
        strict = "..." in text
        return cls(
            inputs=tuple(tuple(n for n in g if n != "...") for g in split),
            leading=tuple("..." in g if strict else True for g in split),
            strict=strict,
        )

    def shapes(self, rng: np.random.Generator, sizes: Sequence[int]) -> list[Shape]:
        """Shapes that fit, of axes of the sizes given; some leading axes are left out or 1 where they may broadcast."""

        def draw(n: int) -> Shape:
            return tuple(int(size) for size in rng.choice(sizes, n))

        named = {axis.rstrip("?"): draw(1) for axes in self.inputs for axis in axes} | {"*": ()}
        outer = draw(int(rng.integers(0, 3)))
        shapes = []
        for axes, is_open in zip(self.inputs, self.leading, strict=True):
            lead = outer if is_open else ()
            if is_open and not self.strict:
                lead = tuple(n if rng.random() < 0.75 else 1 for n in outer[rng.integers(0, len(outer) + 1) :])
            shapes.append(sum((named[axis] for axis in axes if not axis.endswith("?")), lead))
        return shapes

    def mismatch(self, shapes: list[Shape]) -> str:
        """The first way in which `shapes` do not fit, in words; "" if they fit."""
        sizes: dict[str, tuple[int, int]] = {}
        outer: dict[int, Shape] = {}
        for i, (axes, shape, is_open) in enumerate(zip(self.inputs, shapes, self.leading, strict=False)):
            if axes == ("*",):
                continue
            if axes and axes[-1].endswith("?"):
                missing = len(shape) == (len(next(iter(outer.values()), ())) if is_open else len(axes) - 1)
                axes = axes[:-1] if missing else (*axes[:-1], axes[-1][:-1])
            if len(shape) < len(axes) or (len(shape) > len(axes) and not is_open):
                bound = "at least " if is_open else ""
                return f"argument {i} has shape {shape}, expected {bound}{len(axes)} axes ({','.join(axes)})"
            for axis, size in zip(axes, shape[len(shape) - len(axes) :], strict=True):
                known, at = sizes.setdefault(axis, (size, i))
                if known != size:
                    return f"axis {axis} is {known} in argument {at} {shapes[at]} but {size} in argument {i} {shape}"
            if is_open:
                outer[i] = shape[: len(shape) - len(axes)]
        if self.strict:
            for i, shape in outer.items():
                first = next(iter(outer))
                if shape != outer[first]:
                    expected = f"{outer[first]} in argument {first} {shapes[first]}"
                    return f"leading axes are {expected} but {shape} in argument {i} {shapes[i]}"
            return ""
        try:
            np.broadcast_shapes(*outer.values())
        except ValueError:
            return f"shapes {' and '.join(str(shapes[i]) for i in outer)} do not broadcast"
        return ""
