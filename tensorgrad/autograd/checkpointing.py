"""Gradient checkpointing: recompute a segment in the backward pass instead of keeping its intermediates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from tensorgrad.autograd.batching import rewrapped, unwrapped
from tensorgrad.autograd.forward import Linearised
from tensorgrad.autograd.walk import between
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, Xp, address, digest, is_array, is_floating, namespace
from tensorgrad.core.batched import Batched
from tensorgrad.core.graph import Graph
from tensorgrad.core.location import user_location
from tensorgrad.core.memory import private
from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY, Op, Rules, Sample, Tangents, Value
from tensorgrad.core.state import describe, state, switched
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import DTypeError, GraphError
from tensorgrad.ops.shape import reshape


class Recomputed:
    """A function to recompute in backward(), with a record of what it read in the first call.

    requires_grad   which of its arguments required a gradient
    leaves          the arrays of other leaves that require one
    operations      its graph in the first call: ops, attributes, and the values of constant leaves
    draws           the random numbers drawn in the first call, to be reused
    """

    def __init__(
        self, fn: Callable[..., Any], args: Sequence[Any], leaves: list[Array], operations: list[str], draws: list[Any]
    ) -> None:
        self.requires_grad = [isinstance(x, Tensor) and x.requires_grad for x in args]
        self.fn, self.__name__ = fn, getattr(fn, "__name__", type(fn).__name__)
        self.time, self.leaves, self.operations, self.draws = writes.tick(), leaves, operations, draws
        self.shared = [(a, contents(a)) for a in leaves if writes.is_lent(a)]

    def __call__(self, *xs: Any) -> Any:
        remaining = iter(self.draws)

        def replayed(draw: Callable[[], Any]) -> Any:
            for y in remaining:
                return y
            return draw()  # a draw too many; `compare` detects it

        with switched(draws=replayed, tracing=False):  # without tracing, constants are not recorded, as in the first call
            return self.fn(*xs)

    def compare(self, result: Any, args: Sequence[Any], since: int) -> None:
        """Raise GraphError if the second call differs from the first."""
        if writes.since(self.time, self.leaves, unseen=True) or any(contents(a) != first for a, first in self.shared):
            raise GraphError("checkpoint: a parameter that the function reads was changed in place after the call")
        operations = operations_of(result, args, since)
        if operations != self.operations:
            first = next((a for a, b in zip_longest(self.operations, operations) if a != b), "") or "less"
            first = first.partition(" [")[0]  # without addresses
            raise GraphError(
                f"checkpoint: the function computed something different when backward() called it again (first: {first}): "
                f"an array that it reads was changed, or it draws random numbers without tensorgrad. "
                f"Pass arrays as arguments, and seed generators inside the function"
            )


def operations_of(result: Any, args: Sequence[Any], since: int) -> list[str]:
    """The operations since then that computed a result, and the values of its constants except those in `args`."""
    if not isinstance(result, Tensor) or result.node is None:
        return []
    nodes = [node for node in Graph.of(result).nodes if node.index >= since]
    leaves = dict.fromkeys(x for node in nodes for x in node.inputs if isinstance(x, Tensor))
    values = [t._data for t in leaves if not t.requires_grad and not any(t is x for x in args)]
    labels: dict[Any, str] = {node: f"of {i}" for i, node in enumerate(nodes)}
    labels |= {t.node or t: f"given {i}" for i, t in enumerate(args) if isinstance(t, Tensor)}
    labels |= {t: f"leaf {address(t._data)}" for t in leaves if t.requires_grad and t not in labels}

    def label(x: Any) -> Any:
        return x if isinstance(x, (int, float)) else labels.get(x, f"before {x.index}" if isinstance(x, Node) else "")

    uses = [f"{node.op.name} {contents(node.attrs)} {[label(x) for x in node.inputs]}" for node in nodes]
    return [*uses, *[f"a value {contents(a)}" for a in values]]


def contents(value: Any) -> str:
    """A digest of a value, equal for equal values."""
    if isinstance(value, Tensor) or is_array(value):
        return digest(raw(value))
    if isinstance(value, dict):
        return str({key: contents(part) for key, part in value.items()})
    if isinstance(value, (tuple, list)):
        return str([contents(part) for part in value])
    return repr(value) if isinstance(value, (int, float, str, slice, np.dtype, type(None))) else type(value).__name__


class Checkpoint(Op):
    """y = fn(x, ...), keeping only the inputs; other leaves that fn reads become inputs too.

    forward    y  = fn(x, ...)
    backward   gx = the gradient of fn, computed again, for g
    tangent    ty = the tangent of fn, computed again, along those of the inputs
    """

    name, signature = "checkpoint", "()->()"  # the inputs are kept in `saved`
    calls = True

    def __call__(self, *xs: Any, fn: Callable[..., Any], count: int | None = None) -> Any:
        if not any(isinstance(x, Tensor) for x in xs):
            return self.forward(namespace(xs), *xs, fn=fn, count=len(xs) if count is None else count)
        return self.recorded(*xs[:count], fn=fn)

    def recorded(self, *xs: Any, fn: Callable[..., Any]) -> Tensor:
        """Record a trial call, to find the other leaves (parameters) that fn reads; `trial` and its intermediates are freed
        afterwards.
        """
        if any(type(x) is Batched for x in xs):
            args = [unwrapped(x) if isinstance(x, Tensor) else x for x in xs]
            return rewrapped(self.recorded(*args, fn=on_all_samples(fn)))
        trace = state.trace
        write_count, node_count = (0, 0) if trace is None else (trace.write_count(), trace.node_count())
        detached = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in xs]
        writes.check_loans()  # includes earlier writes
        draws: list[Any] = []
        start = writes.tick()
        with switched(recording=True, draws=recording_draws(draws) if trace is None else None):
            trial = fn(*detached)
        if not isinstance(trial, Tensor):
            raise GraphError(f"checkpoint: the function returned {type(trial).__name__}, expected a Tensor")
        if trace is not None:
            if trace.write_count() != write_count:
                trace.forbid("checkpoint() of a function with side effects")
            trace.captures(trial, node_count, start, [x for x in detached if isinstance(x, Tensor)])
        leaves: list[Tensor] = []
        if trial.node is not None:
            graph = Graph([trial.node], check=False)
            new_ops = [node.op for node in graph.nodes if node.index >= start]
            if any(REGISTRY.get(op.name) is not op for op in new_ops):  # a compiled function's result has an unregistered op
                raise GraphError(
                    "checkpoint: the function calls a compiled function, which cannot be recomputed in parts; call the "
                    "original function there (its attribute `step`), or compile the function that calls checkpoint()"
                )
            leaves = [t for t in graph.leaves if t.requires_grad and not any(t is x for x in detached)]
        out = trial._data
        if not trial.requires_grad:
            return trial if state.tracing else wrap(out, None)
        inputs = tuple((x.node or x) if isinstance(x, Tensor) else x for x in (*xs, *leaves))
        saved = (*[x._data if isinstance(x, Tensor) else x for x in xs], *[None] * len(leaves))
        attrs = {"fn": fn, "count": len(xs)}
        if trace is None:
            saved = tuple([writes.unshared(a) for a in saved])
            attrs["fn"] = Recomputed(fn, detached, [t._data for t in leaves], operations_of(trial, detached, start), draws)
        return wrap(out, Node(self, inputs, attrs, saved, None, out.shape, out.dtype, made=user_location()))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"fn": lambda x: x * x * x}

    def forward(self, xp: Xp, *xs: Array, fn: Callable[..., Any], count: int) -> Array:
        return fn(*[wrap(x, None) if isinstance(x, xp.ndarray) else x for x in xs[:count]])._data

    def backward(self, g: Value, y: Value, *xs: Value, fn: Callable[..., Any], count: int) -> Rules:
        all_gradients: list[Any] = []

        def gradient(i: int) -> Value:
            if not all_gradients:
                recorded = isinstance(g, Tensor)
                with switched(recording=True, tracing=recorded):
                    result, leaves = rerun(fn, xs, count)
                    inputs = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
                    gradients = between(result, inputs, g, recorded)
                by_id = dict(zip(map(id, inputs), gradients, strict=True))
                all_gradients.extend(by_id.get(id(t)) for t in leaves)
            x_gradient = all_gradients[i]
            if x_gradient is None:
                return np.zeros(xs[i].shape, xs[i].dtype)
            return x_gradient if isinstance(g, Tensor) else x_gradient._data

        return tuple((lambda i=i: gradient(i)) for i in range(len(xs)))

    def jvp(self, y: Value, *xs: Value, fn: Callable[..., Any], count: int) -> Tangents:
        linearised: list[Any] = []

        def tangent(*ts: Value) -> Value:
            recorded = any(isinstance(t, Tensor) for t in ts)
            with switched(recording=True, tracing=recorded):
                if not linearised:
                    result, leaves = rerun(fn, xs, count)
                    linearised.extend((Linearised([result], caller="checkpoint"), leaves))
                linear, leaves = linearised
                (ty,) = linear({x: t for x, t in zip(leaves, ts, strict=True) if t is not None})
            return ty

        return tangent


def rerun(fn: Callable[..., Any], xs: Sequence[Value], count: int) -> tuple[Tensor, list[Any]]:
    """Call fn again on the first `count` of xs. Returns the result and what it depends on: these inputs as fresh leaves, and
    the other leaves that fn reads.
    """
    requires_grad = (
        fn.requires_grad if isinstance(fn, Recomputed) else [is_array(x) and is_floating(x.dtype) for x in xs[:count]]
    )
    leaves = [
        (Tensor(x, True) if is_required else wrap(x, None)) if is_array(x) else separate_leaf(x)
        for x, is_required in zip(xs[:count], requires_grad, strict=True)
    ]
    start = writes.tick()
    result = fn(*leaves)
    if isinstance(fn, Recomputed):
        fn.compare(result, leaves, start)
    return result, [*leaves, *[x.source for x in xs[count:]]]


def separate_leaf(x: Any) -> Any:
    """A separate leaf for an argument: two arguments may be the same Tensor, or depend on each other."""
    return reshape(x, x.shape) if isinstance(x, Tensor) and x.requires_grad else x


def recording_draws(draws: list[Any]) -> Callable[[Callable[[], Any]], Any]:
    """A function that appends random draws to a list. Checkpoints may be nested, also within a second call."""
    outer = state.draws

    def recorded_draw(draw: Callable[[], Any]) -> Any:
        y = draw() if outer is None else outer(draw)
        draws.append(wrap(y._data, None) if isinstance(y, Tensor) else y)
        return draws[-1]

    return recorded_draw


def on_all_samples(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn inside the vmaps that are active now, also when it is called again after they have ended."""
    batching = state.batching

    @functools.wraps(fn)
    def called(*xs: Any) -> Any:
        with switched(batching=batching):
            return unwrapped(fn(*[rewrapped(x) if isinstance(x, Tensor) else x for x in xs]))

    return called


_checkpoint = Checkpoint()


def checkpoint(fn: Callable[..., Tensor], *xs: Any) -> Tensor:
    """Call fn(*xs), keeping only the inputs for the backward pass, where the intermediates are recomputed.

    fn   a function of Tensors that returns one Tensor, and the same result each time for the same inputs. Random numbers of
         dropout, rand and randn are kept and reused; it must seed other generators itself. Parameters that it reads get
         gradients as usual. In a compiled step it may not draw random numbers
    xs   the arguments of fn: Tensors, arrays (passed as Tensors), or anything else
    """
    if not callable(fn):
        raise DTypeError(f"checkpoint: fn must be a function of Tensors, got {describe(fn)}")
    return _checkpoint.recorded(*[wrap(input_array(x), None) if is_array(x) else x for x in xs], fn=fn)


def input_array(array: Array) -> Array:
    """A user's array for the graph: copied, except in a traced step, whose replays read the original."""
    array = np.asarray(array) if isinstance(array, np.generic) else array
    return array if state.trace is not None or not state.recording else private(array)
