"""Forward mode: tangents pushed through a recorded graph, from leaves to results, by the `jvp` of every op.

If the leaves move by v, the results move by J v, where J is the Jacobian at the recorded values. Nothing is recomputed and
there is no step size: it is a second way to compute derivatives, by rules that are independent of the reverse walk's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.autograd.saved import check_freed, described, is_wide, recorded_nodes, rule_values
from tensorgrad.autograd.sums import Source
from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import (
    asarray,
    copy,
    current_gpu,
    device_of,
    is_array,
    is_floating,
    is_half,
    is_number,
    namespace,
    on,
    on_gpu,
)
from tensorgrad.core.node import Node, Unread
from tensorgrad.core.op import Op, Tangents
from tensorgrad.core.state import describe, state, switched
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import DeviceError, DTypeError, ShapeError, TensorgradError
from tensorgrad.ops import astype, broadcast_to, sum_to

NO_JVP_REASON = "it has no jvp, and its backward can replace one only if it computes with Tensors"
Derive: TypeAlias = Callable[[Node, Any, Sequence[Any], Sequence[Any]], Any]


class Step(NamedTuple):
    """How to compute the tangent of one node.

    target, shape, dtype   its index in the list of tangents, and its shape and dtype
    parts      (index of an input's tangent, the function that maps it to its summand)
    combined   instead of parts, one function of the tangents of all inputs, None for constant inputs; else None
    """

    node: Node
    target: int
    shape: tuple[int, ...]
    dtype: Any
    parts: list[tuple[int, Any]]
    combined: Callable[..., Any] | None


class Linearised:
    """The linear map v -> J v of a recorded computation, at the recorded values.

    Call it, any number of times, with a dict of leaf to tangent (of the leaf's shape); it returns the list of tangents of the
    outputs. With arrays nothing is recorded; if a tangent is a Tensor, the results are Tensors that can be differentiated by
    the tangents and by the leaves. Everything that is not in the dict is constant. A leaf may be any Tensor, including
    constants, and computed ones: their tangent is then added to that from their inputs, as `grad` gives gradients of computed
    Tensors. Derivatives by data arguments of an op, such as labels, are 0. Gradient hooks are not called.

    outputs   recorded Tensors (a leaf is its own output)
    uses_jvp  the ops whose `jvp` is used: by default those that have one
    derive    for the others, a function (node, y, xs, tangents) that returns the tangent of the node's result (None: 0): y and
              xs as for `jvp`, tangents one for each input, None for constant ones. By default `transposed`
    caller    the function to name in errors

    Raises GraphError if recorded values have been freed or changed since, ShapeError for a tangent of another shape.
    Results may share memory with arguments.
    """

    def __init__(
        self,
        outputs: Sequence[Tensor],
        *,
        uses_jvp: Callable[[Op], bool] | None = None,
        derive: Derive | None = None,
        caller: str = "jvp",
    ) -> None:
        self.outputs, self.caller = list(outputs), caller
        self.uses_jvp = uses_jvp or (lambda op: True)
        self.derive = derive or transposed
        self.nodes = [node for node in recorded_nodes(caller, self.outputs) if node.requires_grad]  # latest first
        self.rules: dict[tuple[Node, bool], Tangents] = {}
        self.programs: dict[tuple[frozenset[Source], bool], tuple[dict[Source, int], list[Step]]] = {}

    def __call__(self, tangents: Mapping[Tensor, Any]) -> list[Any]:
        recorded = any([isinstance(t, Tensor) for t in tangents.values()])
        key = frozenset([leaf.node or leaf for leaf in tangents]), recorded
        index, steps = self.programs.get(key) or self.program(*key)
        values: list[Any] = [None] * len(index)
        for leaf, t in tangents.items():
            i, t = index[leaf.node or leaf], self.user_tangent(leaf, t)
            values[i] = t if values[i] is None else values[i] + t
        self.run(steps, values, recorded)
        return [self.result(y, values[index[y.node or y]], recorded) for y in self.outputs]

    def run(self, steps: list[Step], values: list[Any], recorded: bool) -> None:
        """Run the steps, storing each tangent at its index."""
        gpu, scope = current_gpu(), state.scope
        try:
            for node, target, shape, dtype, parts, combined in steps:
                total = values[target]
                if recorded:
                    state.scope = node.scope
                if gpu is not None:
                    use_gpu_of([values[i] for i, _ in parts])
                if combined is not None:
                    ts = [values[i] if i >= 0 else None for i, _ in parts]
                    if any(t is not None for t in ts) and (part := combined(*ts)) is not None:
                        total = part if total is None else total + part
                else:
                    for source, function in parts:
                        t = values[source]
                        if t is not None:
                            part = function(t)
                            total = part if total is None else total + part
                if total is not None:
                    if type(total) is Unread:
                        total.refuse()
                    if total.shape != shape:
                        total = broadcast_to(total, shape)
                    values[target] = total if total.dtype == dtype else astype(total, dtype)
        except Exception as error:
            error.add_note(f"in the tangent of {described(node)}")
            raise
        finally:
            state.scope = scope
            if gpu is not None:
                gpu.use()

    def user_tangent(self, leaf: Tensor, t: Any) -> Any:
        """A tangent passed by the user, in the dtype of the rules."""
        t = t if isinstance(t, Tensor) else asarray(t, where=f"{self.caller}: the tangent")
        if t.shape != leaf.shape:
            raise ShapeError(f"{self.caller}: the tangent has shape {t.shape}, expected {leaf.shape}, the shape of the input")
        if device_of(raw(t)) != device_of(leaf._data):
            raise DeviceError(f"{self.caller}: the tangent is on {device_of(raw(t))}, the input on {leaf.device}")
        if not is_floating(leaf.dtype):
            raise DTypeError(f"{self.caller}: the input must have a floating dtype, got {leaf.dtype}")
        dtype = dtype_of(leaf)
        return t if t.dtype == dtype else astype(t, dtype)

    def result(self, y: Tensor, t: Any, recorded: bool) -> Any:
        """The tangent of an output, to return."""
        if t is None:
            with on(y._data):
                t = namespace([y._data]).zeros(y.shape, y.dtype)
        elif t.dtype != y.dtype:
            t = astype(t, y.dtype)
        t = np.asarray(t) if isinstance(t, np.generic) else t
        return wrap(t, None) if recorded and not isinstance(t, Tensor) else t

    def program(self, moving_leaves: frozenset[Source], recorded: bool) -> tuple[dict[Source, int], list[Step]]:
        """The index of each tangent, and the steps for these moving leaves: only nodes between them and the outputs."""
        fused = fusion.match(self.nodes, moving_leaves) if state.fusing and not state.checking else {}
        # not fused if a data argument of the pattern moves
        fused = {
            n: f for n, f in fused.items() if not any(s in moving_leaves and f.op.is_data(i) for i, s in enumerate(f.inputs))
        }
        moving: set[Source] = set(moving_leaves)
        for node in reversed(self.nodes):
            if any(isinstance(s, (Node, Tensor)) and s in moving for s in node.inputs):
                moving.add(node)
        needed: set[Source] = {y.node or y for y in self.outputs}
        index: dict[Source, int] = {s: i for i, s in enumerate(dict.fromkeys([*moving_leaves, *needed]))}
        steps: list[Step] = []
        for node in self.nodes:
            if node not in needed or node not in moving:
                continue
            replacement = fused.get(node, node)
            rule = self.rule(replacement, node, recorded)
            functions = [rule] * len(replacement.inputs) if callable(rule) else rule
            parts: list[tuple[int, Any]] = []
            for source, function in zip(replacement.inputs, functions, strict=True):
                if isinstance(source, (Node, Tensor)) and source in moving and function is not None:
                    needed.add(source)
                    parts.append((index.setdefault(source, len(index)), function))
                elif callable(rule):
                    parts.append((-1, None))
            if parts:
                combined = rule if callable(rule) else None
                steps.append(Step(node, index.setdefault(node, len(index)), node.shape, dtype_of(node), parts, combined))
        steps.reverse()
        self.programs[moving_leaves, recorded] = index, steps
        return index, steps

    def rule(self, replacement: Node, node: Node, recorded: bool) -> Tangents:
        """The functions from the `jvp` of `replacement`, which replaces `node`, or from `derive`."""
        if (function := self.rules.get((replacement, recorded))) is None:
            check_freed(self.caller, node)
            y, xs = rule_values(replacement, node, recorded, "jvp")
            if replacement.op.jvp is not None and self.uses_jvp(replacement.op):
                try:
                    function = replacement.op.jvp(y, *xs, **replacement.attrs)
                except Exception as error:
                    error.add_note(f"in the jvp of {described(node)}")
                    raise
                function = functions_of(replacement, function, recorded)
            else:
                derive = self.derive

                def function(*tangents: Any) -> Any:
                    return derive(replacement, y, xs, tangents)

            self.rules[replacement, recorded] = function
        return function


def functions_of(node: Node, functions: Any, recorded: bool) -> Tangents:
    """The result of a node's `jvp`: one function, or a function or None per argument. Those of user-defined ops get copies of
    the tangents, which they may modify, and their results are checked.
    """
    op, count = node.op, len(node.inputs)
    is_ours = type(op).__module__.startswith("tensorgrad.")
    if callable(functions):
        return functions if is_ours else checked(node, functions, recorded, may_be_none=True)
    if not isinstance(functions, (tuple, list)):
        raise TensorgradError(
            f"{op.name}: jvp returned {describe(functions)}, expected a tuple of {count}, a function or None for each argument"
        )
    if len(functions) != count:
        raise TensorgradError(f"{op.name}: jvp returned {len(functions)} functions for {count} arguments")
    for i, function in enumerate(functions):
        if function is not None and not callable(function):
            raise TensorgradError(
                f"{op.name}: jvp returned {describe(function)} for argument {i}, expected a function of its tangent"
            )
    if is_ours:
        return tuple(functions)
    return tuple([None if function is None else checked(node, function, recorded) for function in functions])


def checked(node: Node, function: Callable[..., Any], recorded: bool, may_be_none: bool = False) -> Callable[..., Any]:
    """A function from the `jvp` of a user-defined op, with copied tangents and an error for an invalid result."""

    def checked_function(*ts: Any) -> Any:
        tangent = function(*[copy(t) if is_array(t) else t if t is None else t * 1 for t in ts])
        if type(tangent) is Unread or (tangent is None and may_be_none):
            return tangent
        expected = f"expected {'a Tensor' if recorded else 'an array'} of shape {node.shape}"
        if isinstance(tangent, Tensor) and not recorded:
            raise DTypeError(f"{node.op.name}: jvp returned a Tensor for tangents that are arrays, {expected}")
        if not (isinstance(tangent, (Tensor, np.generic)) or is_array(tangent)):
            raise DTypeError(f"{node.op.name}: jvp returned {describe(tangent)} for a tangent, {expected}")
        if not is_number(tangent.dtype) and tangent.dtype != bool:
            raise DTypeError(f"{node.op.name}: jvp returned a tangent of dtype {tangent.dtype}, expected {node.dtype}")
        try:
            broadcasts = np.broadcast_shapes(tangent.shape, node.shape) == node.shape
        except ValueError:
            broadcasts = False
        if not broadcasts:
            raise ShapeError(
                f"{node.op.name}: jvp returned a tangent of shape {tangent.shape}, expected {node.shape}, the "
                f"shape of the result"
            )
        return tangent

    return checked_function


def transposed(node: Node, y: Any, xs: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The tangent of a node from its `backward` only: u -> Jᵀ u is linear, so the gradient of <t, Jᵀ u> by u is J t.

    None if it is 0.
    """
    op = node.op
    assert op.backward is not None
    backward = op.backward
    recorded = any(isinstance(a, Tensor) for a in (y, *xs, *tangents))
    like = next(raw(t) for t in tangents if t is not None)
    with switched(recording=True), on(like):
        # not zeros, because a rule may test for a zero gradient
        u = Tensor(namespace([like]).ones(node.shape, np.float32 if is_wide(node) else node.dtype), True)
        rules = in_tensors(op, lambda: backward(u, tensor(y), *map(tensor, xs), **node.attrs))
        outputs, weights = [], []
        for i, (source, rule, t) in enumerate(zip(node.inputs, rules, tangents, strict=True)):
            if rule is None or t is None:
                continue
            g = in_tensors(op, rule)
            if type(g) is not Unread and not isinstance(g, Tensor):
                raise DTypeError(
                    f"{op.name}: {NO_JVP_REASON}; for argument {i} it returned {describe(g)}. "
                    f"Write a jvp, or a backward without np"
                )
            if type(g) is Unread:
                g.refuse()
            g = g if g.shape == source.shape else sum_to(g, source.shape)
            if g.requires_grad:
                outputs.append(g)
                weights.append(tensor(t))
    if not outputs:
        return None
    (tangent,) = grad(outputs, u, weights, create_graph=recorded, allow_unused=True)
    return tangent if recorded or tangent is None else tangent._data


def in_tensors(op: Op, rule: Callable[[], Any]) -> Any:
    """Evaluate a rule on Tensors, if it supports them."""
    try:
        return rule()
    except (TypeError, AttributeError, DTypeError) as error:
        raise DTypeError(f"{op.name}: {NO_JVP_REASON}; with them it raised {type(error).__name__}: {error}") from error


def tensor(value: Any) -> Any:
    """An array as a Tensor; other values unchanged."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    return wrap(value, None) if is_array(value) else value


def dtype_of(source: Source) -> Any:
    """The dtype of a tangent during the computation: float32 for half precision."""
    return np.dtype(np.float32) if is_half(source.dtype) else source.dtype


def use_gpu_of(tangents: list[Any]) -> None:
    """Make the GPU of the tangents the current one."""
    for t in tangents:
        if t is not None and on_gpu(array := raw(t)):
            array.device.use()
            return
