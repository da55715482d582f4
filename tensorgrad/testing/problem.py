"""A function of arrays that a gradient check evaluates and differentiates repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import Array, asarray, is_floating
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.state import describe, switched
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, DTypeError, GraphError


class Problem:
    """A function of arrays that are changed in place between evaluations.

    names, arrays  of the differentiated inputs; float64
    leaves         returns the leaf Tensors for the arrays
    compute        computes the outputs from the leaves
    buffers        arrays that the function modifies, such as running means; `compute` restores them, except in a compiled step,
                   where only recorded writes are allowed
    """

    def __init__(
        self,
        names: list[str],
        arrays: list[Array],
        leaves: Callable[[], list[Tensor]],
        compute: Callable[[list[Tensor]], list[Tensor]],
    ) -> None:
        self.names, self.arrays, self.leaves, self.compute = names, arrays, leaves, compute
        self.arguments: Callable[[list[Any]], Any] = tuple
        self.buffers: Callable[[], list[Array]] = list
        self.evaluations = 0

    @classmethod
    def of(cls, caller: str, fn: Callable[..., Any], inputs: Any, wrt: Sequence[int | str] | None) -> Problem:
        """A problem from a function and its arguments."""
        if not callable(fn):
            raise DTypeError(f"{caller}: fn must be a function of Tensors, got {describe(fn)}")
        if wrt is not None and not isinstance(wrt, (list, tuple, range, set)):
            raise DTypeError(f"{caller}: wrt must be a list of positions or names, got {describe(wrt)}")
        if isinstance(inputs, list) and any(isinstance(a, (Tensor, np.ndarray)) for a in inputs):
            raise DTypeError(f"{caller}: inputs is a list of arrays, expected a tuple of them (a list of numbers is one array)")
        arguments_by_key: dict[int | str, Any] = dict(
            inputs if isinstance(inputs, dict) else enumerate(inputs if isinstance(inputs, tuple) else (inputs,))
        )
        arguments_by_key = {
            key: asarray(a, np.float64, where=f"{caller}: input {key}") if isinstance(a, (float, list)) else a
            for key, a in arguments_by_key.items()
        }
        floating = [key for key, a in arguments_by_key.items() if is_floating(getattr(a, "dtype", np.dtype(bool)))]
        chosen = floating if wrt is None else list(wrt)
        for key in chosen:
            if isinstance(key, (bool, list, dict, set)) or key not in floating:
                raise GraphError(f"{caller}: wrt has {key!r}, which is not a floating input; those are {floating}")
        repeated = [key for i, key in enumerate(chosen) if key in chosen[:i]]
        if repeated:
            raise ArgumentError(f"{caller}: wrt names {repeated[0]!r} twice")
        if not chosen:
            raise GraphError(f"{caller}: none of the {len(arguments_by_key)} inputs has a floating dtype")
        arguments_by_key = {key: raised(a) if key in floating else a for key, a in arguments_by_key.items()}
        arrays = [arguments_by_key[key] for key in chosen]

        def arguments(values: list[Any]) -> Any:
            merged = arguments_by_key | dict(zip(chosen, values, strict=True))
            return merged if isinstance(inputs, dict) else tuple(merged.values())

        def compute(leaves: list[Tensor]) -> list[Tensor]:
            args = arguments(leaves)
            return outputs_of(caller, fn(**args) if isinstance(args, dict) else fn(*args), leaves)

        names = [key if isinstance(key, str) else f"input {key}" for key in chosen]
        problem = cls(names, arrays, lambda: [Tensor(a, True, name=n) for a, n in zip(arrays, names, strict=True)], compute)
        problem.arguments = arguments
        return problem

    def evaluate(self) -> tuple[list[Tensor], list[Tensor]]:
        """The recorded outputs and the leaves they were computed from."""
        self.evaluations += 1
        with switched(recording=True), np.errstate(all="ignore"):
            leaves = self.leaves()
            return self.compute(leaves), leaves

    @contextmanager
    def raised_to(self, dtype: Any) -> Iterator[None]:
        """Context manager: the leaves have another dtype, with the same values."""
        original, saved = self.leaves, list[tuple[Tensor, Array]]()

        def leaves() -> list[Tensor]:
            tensors = original()
            for leaf in tensors:
                saved.append((leaf, leaf._data))
                leaf._data = leaf._data.astype(dtype)
            return tensors

        self.leaves = leaves
        try:
            yield
        finally:
            self.leaves = original
            for leaf, data in reversed(saved):
                leaf._data = data

    def values(self) -> Array:
        """The outputs, flattened into one array."""
        return flat(self.evaluate()[0])

    def second(self, rng: np.random.Generator) -> Problem:
        """The gradient as a function of the same arrays and of the weights of the outputs."""
        outputs, _ = self.evaluate()
        weights = [np.asarray(rng.normal(size=t.shape)) for t in outputs]
        names = ["g" if len(weights) == 1 else f"g {i}" for i in range(len(weights))]
        n = len(self.arrays)

        def leaves() -> list[Tensor]:
            return [*self.leaves(), *[Tensor(w, True, name=name) for w, name in zip(weights, names, strict=True)]]

        def compute(tensors: list[Tensor]) -> list[Tensor]:
            xs, gs = tensors[:n], tensors[n:]
            pairs = [(t, g) for t, g in zip(self.compute(xs), gs, strict=True) if t.requires_grad]
            gradients: Any = [None] * n
            if pairs:
                ts, gs = zip(*pairs, strict=True)  # type: ignore[assignment]
                gradients = grad(ts, xs, gs, create_graph=True, allow_unused=True)
            return [Tensor(np.zeros(x.shape)) if g is None else g for g, x in zip(gradients, xs, strict=True)]

        problem = Problem([*self.names, *names], [*self.arrays, *weights], leaves, compute)
        problem.buffers = self.buffers
        return problem


def gradients(outputs: list[Tensor], leaves: list[Tensor], weights: Sequence[Array]) -> list[Array]:
    """The gradients of the weighted sum of the outputs, zeros for a leaf that no output depends on."""
    pairs = [(t, w) for t, w in zip(outputs, weights, strict=True) if t.requires_grad]
    grads: Any = [None] * len(leaves)
    with np.errstate(all="ignore"):
        if pairs:
            ts, ws = zip(*pairs, strict=True)
            grads = grad(ts, leaves, ws, retain_graph=True, allow_unused=True)
    return [np.zeros(x.shape) if g is None else g._data for g, x in zip(grads, leaves, strict=True)]


def outputs_of(caller: str, result: Any, leaves: Sequence[Tensor] = ()) -> list[Tensor]:
    """The result of the function as a list of floating Tensors. Raises an error for anything else, or lower precision."""
    lowered = any(x.dtype != np.float64 for x in leaves)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    if not outputs:
        raise GraphError(f"{caller}: the function returned {describe(result)}, expected a Tensor or a tuple of them")
    for t in outputs:
        if not isinstance(t, Tensor):
            raise GraphError(f"{caller}: the function returned {type(t).__name__}, expected a Tensor or a tuple of them")
        if not is_floating(t.dtype):
            raise DTypeError(f"{caller}: the function returned {t.dtype}, which has no gradient; expected float64")
        if t.dtype.itemsize < 8 and not lowered:
            raise DTypeError(
                f"{caller}: the function returned {t.dtype} from float64 inputs; part of it uses lower "
                f"precision (.astype, out=), and differences would be mostly rounding"
            )
    return outputs


def raised(a: Any) -> Any:
    """A float64 copy of a floating array or Tensor, as an array; other values unchanged."""
    array = a._data if isinstance(a, Tensor) else a
    return np.array(array, np.float64) if is_floating(getattr(array, "dtype", np.dtype(bool))) else a


def flat(outputs: list[Tensor]) -> Array:
    return np.concatenate([t._data.ravel() for t in outputs]) if outputs else np.zeros(0)


def same(a: Array, b: Array) -> bool:
    """Equal up to the last digits, which may depend on the order in which threads add."""
    if a.shape != b.shape:
        return False
    return np.array_equal(a, b) or bool(np.allclose(a, b, rtol=1e-13, atol=1e-300, equal_nan=True))


def graph_of(outputs: list[Tensor]) -> Graph | None:
    """The graph of the computed outputs."""
    nodes = [t.node for t in outputs if isinstance(t.node, Node)]
    return Graph(nodes, check=False) if nodes else None


def arguments(node: Node, values: Mapping[Any, Array]) -> tuple[Any, ...]:
    """The arrays and numbers that a node was computed from."""
    return tuple(values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs)
