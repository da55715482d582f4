"""Checkpointing: compute a segment again in the backward pass instead of keeping what it computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import Array, Xp, is_array, namespace
from tensorgrad.core.graph import Graph
from tensorgrad.core.location import user_location
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op, Rules, Sample, Value
from tensorgrad.core.state import shown, state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import DTypeError, GraphError


class Checkpoint(Op):
    """y = fn(x, ...), of which only the inputs are kept; the leaves that fn reads besides them are inputs too.

    forward    y  = fn(x, ...)
    backward   gx = the gradient of fn, computed again, for g
    """

    name, signature = "checkpoint", "()->()"  # it keeps its inputs itself, in `saved`
    calls = True

    def __call__(self, *xs: Any, fn: Callable[..., Any], count: int | None = None) -> Any:
        if not any(isinstance(x, Tensor) for x in xs):
            return self.forward(namespace(xs), *xs, fn=fn, count=len(xs) if count is None else count)
        return self.recorded(*xs[:count], fn=fn)

    def recorded(self, *xs: Any, fn: Callable[..., Any]) -> Tensor:
        """Recorded once, only to learn which other leaves (parameters) it reads; what it kept goes with `trial`."""
        trace = state.trace
        written, length = (0, 0) if trace is None else (trace.written(), trace.length())
        own = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in xs]
        with switched(recording=True):
            trial = fn(*own)
        if not isinstance(trial, Tensor):
            raise GraphError(f"checkpoint: the function returned {type(trial).__name__}, expected a Tensor")
        if trace is not None:
            if trace.written() != written:
                trace.forbid("checkpoint() of a function that changes what is outside of it")
            trace.captures(trial, length, [x for x in own if isinstance(x, Tensor)])
        given = [x._data for x in xs if isinstance(x, Tensor)]
        leaves: list[Tensor] = []
        if trial.node is not None:
            leaves = [t for t in Graph.of(trial).leaves if t.requires_grad and not any(t._data is a for a in given)]
        out = trial._data
        if not trial.requires_grad:
            return trial if state.tracing else wrap(out, None)
        inputs = tuple((x.node or x) if isinstance(x, Tensor) else x for x in (*xs, *leaves))
        saved = (*[x._data if isinstance(x, Tensor) else x for x in xs], *[None] * len(leaves))
        attrs = {"fn": fn, "count": len(xs)}
        return wrap(out, Node(self, inputs, attrs, saved, None, out.shape, out.dtype, made=user_location()))

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"fn": lambda x: x * x * x}

    def forward(self, xp: Xp, *xs: Array, fn: Callable[..., Any], count: int) -> Array:
        return fn(*[wrap(x, None) if isinstance(x, xp.ndarray) else x for x in xs[:count]])._data

    def backward(self, g: Value, y: Value, *xs: Value, fn: Callable[..., Any], count: int) -> Rules:
        found: list[Any] = []
        leaves = [x.source for x in xs[count:]]  # the Tensors that fn reads by itself, of which nothing is kept here

        def gradient(i: int) -> Value:
            if not found:
                recorded = isinstance(g, Tensor)
                with switched(recording=True, tracing=recorded):
                    fresh = [Tensor(x, True) if is_array(x) and x.dtype.kind == "f" else x for x in xs[:count]]
                    inputs = [t for t in (*fresh, *leaves) if isinstance(t, Tensor) and t.requires_grad]
                    gradients = grad(fn(*fresh), inputs, g, create_graph=recorded, allow_unused=True)
                by_id = dict(zip(map(id, inputs), gradients, strict=True))
                found.extend(by_id.get(id(t)) for t in (*fresh, *leaves))
            one = found[i]
            if one is None:
                return np.zeros(xs[i].shape, xs[i].dtype)
            return one if isinstance(g, Tensor) else one._data

        return tuple((lambda i=i: gradient(i)) for i in range(len(xs)))


_checkpoint = Checkpoint()


def checkpoint(fn: Callable[..., Tensor], *xs: Any) -> Tensor:
    """fn(*xs), keeping for the backward pass only the inputs; what fn computed on the way is computed again there.

    fn   a function of Tensors that returns one Tensor, the same each time it is called with the same inputs: one that draws
         random numbers has to set its generator itself. Parameters that it reads get their gradients as usual.
    xs   what it is called with: Tensors, arrays, which come as Tensors, or anything else
    """
    if not callable(fn):
        raise DTypeError(f"checkpoint: fn must be a function of Tensors, got {shown(fn)}")
    return _checkpoint.recorded(*[wrap(x, None) if is_array(x) else x for x in xs], fn=fn)
