"""Costs of operations, and summaries of arrays."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arithmetic import evaluate
from tensorgrad.core.backend import Array, is_floating, move, namespace, wait_for
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.profiling import Cost
from tensorgrad.core.tensor import Tensor
from tensorgrad.ops import random

ENOUGH = 2e-3  # seconds to time one operation
ALTOGETHER = 1.0  # and all of them
MOST_RUNS = 50


def costs_of(graph: Graph) -> dict[Node, Cost]:
    """The cost of every node; `forward` is timed on its recorded arrays, as the median of several runs."""
    with random.preserve_generators(generators_of(graph)):
        return measured(graph)


def generators_of(graph: Graph) -> list[np.random.Generator]:
    """The random generators of a program, whose state must not change when it is recomputed."""
    generators = [v for node in graph.nodes for v in node.attrs.values() if isinstance(v, np.random.Generator)]
    return [random.default(), *generators]


def measured(graph: Graph) -> dict[Node, Cost]:
    values = values_of(graph)
    costs = {}
    for node in graph.nodes:
        if node not in values:  # it failed
            costs[node] = Cost()
            continue
        arrays = [values[s] if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
        costs[node] = Cost(
            node.size * np.dtype(node.dtype).itemsize,
            flops_of(node),
            seconds_of(node, arrays, min(ENOUGH, ALTOGETHER / len(graph.nodes))),
        )
    return costs


def flops_of(node: Node) -> int:
    """The floating-point operations of a node; 0 for a failed one."""
    shapes = [s.shape if isinstance(s, (Node, Tensor)) else np.shape(s) for s in node.inputs]
    return 0 if node.dtype is None else node.op.flops(shapes, node.shape, node.attrs)


def known_costs(graph: Graph, costs: Mapping[Node, Cost]) -> dict[Node, Cost]:
    """The known cost of every node, or of the nodes that it replaces; unknown ones are left out."""
    return {n: costs[n] if n in costs else sum((costs.get(m, Cost()) for m in n.members), Cost()) for n in graph.nodes}


def seconds_of(node: Node, arrays: list[Any], enough: float) -> float:
    xp = namespace(arrays)
    runs: list[float] = []
    while len(runs) < 3 or (sum(runs) < enough and len(runs) < MOST_RUNS):
        start = time.perf_counter()
        runs.append(wait_for(evaluate(node.op, xp, arrays, node.attrs)) - start)
    return sorted(runs)[len(runs) // 2]


def values_of(graph: Graph) -> dict[Any, Any]:
    """The arrays of all leaves and nodes, except of a failed one."""
    computed = [n for n in graph.nodes if n.dtype is not None]
    inner = {s for n in computed for s in n.inputs}
    complete = Graph([n for n in computed if n not in inner], check=False) if len(computed) < len(graph.nodes) else graph
    values = {leaf: leaf._data for leaf in graph.leaves}
    with np.errstate(all="ignore"), random.preserve_generators(generators_of(graph)):
        return values | (complete.values() if complete.nodes else {})


def in_words(arrays: Sequence[Array]) -> str:
    """A small array as text; otherwise extremes, mean, deviation, and the numbers of zeros and NaN."""
    several = f" over all {len(arrays)}" if len(arrays) > 1 else ""
    array = np.asarray(move(arrays[0], "cpu"))
    if several:
        array = np.concatenate([np.ravel(np.asarray(move(a, "cpu"))) for a in arrays])
        return summary(array) + several if array.size else "no elements"
    if not array.size:
        return "no elements"
    if array.size <= 6:
        return np.array2string(array, precision=3, separator=", ").replace("\n", "")
    return summary(array)


def summary(array: Any) -> str:
    """Extremes, mean, standard deviation, fraction of zeros, number of non-finite values."""
    if not is_floating(array.dtype):
        return f"{array.min()} … {array.max()}"
    finite = array[np.isfinite(array)].astype(np.float64)
    bad = array.size - finite.size
    text = "nothing finite"
    if finite.size:
        text = f"{finite.min():.3g} … {finite.max():.3g}, mean {finite.mean():.3g} ±{finite.std():.2g}"
        zeros = int((finite == 0).sum())
        text += f", {zeros / array.size:.0%} zeros" if zeros else ""
    nans = int(np.isnan(array).sum())
    return text + (f", {nans:,} NaN" if nans else "") + (f", {bad - nans:,} infinite" if bad > nans else "")
