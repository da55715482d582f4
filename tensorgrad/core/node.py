"""Node: one use of an operation. Nodes and their inputs form the graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array
from tensorgrad.core.location import Location, line_of
from tensorgrad.core.op import Op
from tensorgrad.core.scope import Called
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import state
from tensorgrad.errors import GraphError


class Node:
    """One use of an op: the unit of drawing, fusion, differentiation and replay.

    op      the operation
    inputs  per argument a Node, a leaf Tensor (given arrays are wrapped in one), or a number
    attrs   keyword arguments of the op
    saved   per argument the array if the rule reads it, else None; Freed once `backward` has released it
    out     the result's array if the rule reads it, else None
    shape, dtype   of the result
    scope   path of the running module, a Scope that identifies the call; "" outside of any
    index   increases in the order of execution, so sorting by it is a topological sort
    retain  a weak reference to the Tensor whose `.grad` was requested by `retain_grad`
    hooks   functions to call with the gradient; None if there are none
    made    where in the user's code it was recorded; `line` is its text
    members for a fused node, the nodes that it replaces
    requires_grad  False if it was recorded only because a whole program is captured
    function  the call of a function of several ops, such as conv2d, that it belongs to, or None
    alive   exists while arrays may be kept; None once `backward` has released them
    gradient_of  for a node of a recorded backward pass, the node (fused or not) whose rule created it

    Apart from releasing arrays and from `retain`, nodes are immutable.
    """

    __slots__ = (
        "op", "inputs", "attrs", "saved", "out", "shape", "dtype", "scope", "index", "retain", "hooks", "made",
        "members", "requires_grad",
        "function", "gradient_of", "alive", "__weakref__",
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
        switches = state.__dict__  # the switches of this thread, looked up once
        self.scope: str = switches["scope"]
        self.function: Called | None = switches["function"]
        self.index = writes.tick()
        self.retain: Any = None
        self.hooks: list[Callable[[Any], Any]] | None = None
        self.made = made
        self.members = members
        self.requires_grad = requires_grad
        self.gradient_of: Node | None = switches["gradient_of"]
        self.alive: writes.Alive | None = writes.alive

    def replaced(
        self,
        op: Op | None = None,
        inputs: tuple[Any, ...] | None = None,
        saved: tuple[Any, ...] | None = None,
        members: tuple[Node, ...] | None = None,
        attrs: dict[str, Any] | None = None,
    ) -> Node:
        """A node with the same result and the same place in the order, but another op, other inputs, ..."""
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
        """ "model.py:14", the line of the user's code that recorded it; "" if unknown."""
        return line_of(self.made)

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.shape} {self.dtype}>"


class Unread:
    """Placeholder in a rule for an argument (the result: -1) that the op's `reads` does not name: only shape and dtype.

    The value is not kept. Any other use raises GraphError, which says what to declare.
    """

    __slots__ = ("argument", "node", "rule")

    def __init__(self, node: Node, argument: int, rule: str = "backward") -> None:
        self.node = node
        self.argument = argument
        self.rule = rule

    @property
    def source(self) -> Any:
        """The origin of the value: a node, or a leaf."""
        return self.node if self.argument < 0 else self.node.inputs[self.argument]

    @property
    def shape(self) -> Shape:
        return tuple(self.source.shape)

    @property
    def dtype(self) -> Any:
        return self.source.dtype

    @property
    def ndim(self) -> int:
        return len(self.source.shape)

    @property
    def size(self) -> int:
        return int(self.source.size)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # Python and NumPy probe attributes
        self.refuse()

    def refuse(self, *_: Any, **__: Any) -> Any:
        op = self.node.op
        names = list(inspect.signature(op.backward).parameters)[1:] if op.backward is not None else []  # after g
        name = names[min(self.argument + 1, len(names) - 1)]
        raise GraphError(
            f"{op.name}: {self.rule} uses the value of {name}, which is not in `reads`, so it was not saved; "
            f'write reads = "{" ".join([*op.reads.split(), name])}" in {type(op).__name__}'
        )

    __hash__ = object.__hash__


OPERATORS = """abs add and array array_function array_ufunc bool call contains divmod eq float floordiv ge getitem gt index int
invert iter le len lt matmul mod mul ne neg or pos pow radd rand rdivmod rfloordiv rmatmul rmod rmul ror rpow rsub rtruediv rxor
sub truediv xor"""
for _name in OPERATORS.split():
    setattr(Unread, f"__{_name}__", Unread.refuse)


class Freed(tuple[Any, ...]):
    """Replaces arrays released by a backward pass; `made` is where that pass was called."""

    made: Location | None = None

    @classmethod
    def by(cls, made: Location | None) -> Freed:
        freed = cls()
        freed.made = made
        return freed
