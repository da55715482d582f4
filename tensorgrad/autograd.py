"""The reverse walk: from a Tensor back to the leaves it was computed from."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tensorgrad import fusion
from tensorgrad.backend import Array, asarray, namespace
from tensorgrad.errors import GraphError, ShapeError
from tensorgrad.op import Node, Rules
from tensorgrad.ops import astype, sum_to
from tensorgrad.state import state, switched
from tensorgrad.tensor import Tensor, wrap

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Source: TypeAlias = Node | Tensor  # what a gradient belongs to: a node's result, or a leaf


def no_grad() -> AbstractContextManager[None]:
    """Inside `with no_grad():`, and in a function decorated with `@no_grad()`, nothing is recorded in this thread."""
    return switched(recording=False)


def backward(root: Tensor, gradient: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False) -> None:
    """Add the gradient of `root` to the `.grad` of every leaf it was computed from; see Tensor.backward."""
    seed = _seed("backward", root, gradient)
    for tensor, g in _walk("backward", [root], [seed], None, create_graph, retain_graph):
        if tensor.grad is None:
            tensor.grad = g
        elif create_graph or tensor.grad.requires_grad:
            tensor.grad = tensor.grad + g
        else:
            tensor.grad.data += g.data


def grad(
    outputs: Tensor,
    inputs: Tensor | Iterable[Tensor],
    grad_outputs: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """The gradients of `outputs` with respect to each of `inputs`, leaves or computed; no `.grad` is touched.

    grad_outputs   the gradient of the loss with respect to `outputs`, of its shape; only a 0-d Tensor can go without
    retain_graph, create_graph   as in Tensor.backward

    Raises GraphError for an input that `outputs` was not computed from.
    """
    wanted = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    for i, t in enumerate(wanted):
        if not t.requires_grad:
            raise GraphError(f"grad: input {i} (shape {t.shape}) does not require a gradient")
    seed = _seed("grad", outputs, grad_outputs)
    found = {id(t.node or t): g for t, g in _walk("grad", [outputs], [seed], wanted, create_graph, retain_graph)}
    for i, t in enumerate(wanted):
        if id(t.node or t) not in found:
            raise GraphError(f"grad: the output was not computed from input {i} (shape {t.shape})")
    return tuple(found[id(t.node or t)] for t in wanted)


def _seed(caller: str, root: Tensor, gradient: Any) -> Tensor:
    """The gradient that the walk starts with."""
    if not root.requires_grad:
        raise GraphError(f"{caller}: this Tensor (shape {root.shape}) was not computed from anything that requires a gradient")
    if gradient is None:
        if root.ndim:
            raise GraphError(
                f"{caller}: the Tensor has shape {root.shape}; only a 0-d Tensor can go without a gradient. "
                f"Reduce it with .sum() or .mean(), or pass a gradient of shape {root.shape}"
            )
        return wrap(namespace([root.data]).ones((), root.dtype), None)
    seed = gradient if isinstance(gradient, Tensor) else wrap(asarray(gradient, where=f"{caller}: gradient"), None)
    if seed.shape != root.shape:
        raise ShapeError(f"{caller}: the gradient has shape {seed.shape}, expected {root.shape}, that of the Tensor")
    return seed if seed.dtype == root.dtype else astype(seed, root.dtype)


def _walk(
    caller: str,
    roots: list[Tensor],
    seeds: list[Tensor],
    wanted: tuple[Tensor, ...] | None,
    record: bool,
    retain: bool | None,
) -> list[tuple[Tensor, Tensor]]:
    """The gradients of `wanted`, or of all leaves when it is None, each paired with its Tensor.

    Rules are pure and their results may share memory with each other; what is handed out shares memory with nothing.
    """
    retain = record if retain is None else retain
    targets: dict[Source, Tensor] = {t.node or t: t for t in wanted or ()}
    nodes = _reachable(caller, [r.node for r in roots if r.node is not None])
    needed = _on_path(nodes, targets) if wanted is not None else None
    fused = fusion.match(nodes, targets) if state.fusing else {}

    grads: dict[Source, Any] = {}
    own: set[Source] = set()  # whose gradient is a sum made here, so that more can be added in place
    for root, seed in zip(roots, seeds, strict=True):
        grads[root.node or root] = seed if record else seed.data
    leaves: dict[Tensor, None] = {r: None for r in roots if r.node is None}
    kept: list[tuple[Source, Tensor]] = []

    before = (state.recording, state.tracing, state.scope, state.gradient_of)
    state.recording = state.tracing = record
    try:
        for node in nodes:
            g = grads.get(node)
            if g is None or (needed is not None and node not in needed):
                continue
            if node.retain is not None and wanted is None and (held := node.retain()) is not None:
                kept.append((node, held))
            elif node not in targets:
                del grads[node]
            use = fused.get(node, node)
            for source, rule in zip(use.inputs, _rules(use, node, g, record), strict=True):
                if rule is None or not isinstance(source, (Node, Tensor)) or not source.requires_grad:
                    continue
                if needed is not None and source not in needed:
                    continue
                gx = rule()
                if gx.shape != source.shape:
                    gx = sum_to(gx, source.shape)
                if gx.dtype != source.dtype:
                    gx = astype(gx, source.dtype)
                if isinstance(source, Tensor):
                    leaves[source] = None
                if source not in grads:
                    grads[source] = gx
                elif source in own:
                    grads[source] += gx
                else:
                    grads[source] = grads[source] + gx
                    if not record and source.shape:
                        own.add(source)
            if not retain:
                node.saved = node.out = None
                for member in use.members:
                    member.saved = member.out = None
    finally:
        state.recording, state.tracing, state.scope, state.gradient_of = before

    if wanted is not None:
        for source, t in targets.items():
            # read by the graph, but no rule has a gradient for it (ReLU's mask): the derivative is 0
            if source not in grads and any(source is s for node in nodes for s in (node, *node.inputs)):
                zeros = namespace([t.data]).zeros(t.shape, t.dtype)
                grads[source] = wrap(zeros, None) if record else zeros
        handed = [(source, t) for source, t in targets.items() if source in grads]
    else:
        handed = [(leaf, leaf) for leaf in leaves] + kept
    return _hand_out(handed, grads, own, seeds, record)


def _rules(use: Node, node: Node, g: Any, record: bool) -> Rules:
    """The rules of `use` for arrays, or for Tensors if they are to be recorded; `node` is the node that it stands for.

    What a rule does not read is passed as the Node or the Tensor itself, which has a shape and a dtype.
    """
    op, values, out = use.op, use.inputs, use.out
    assert op.backward is not None
    if use.saved:
        values = use.saved
        if record:
            values = tuple(
                wrap(a, i) if isinstance(i, Node) and a is not None else i for i, a in zip(use.inputs, values, strict=True)
            )
        elif not op.reads_all:
            values = tuple([i if a is None else a for i, a in zip(use.inputs, values, strict=True)])
    if record:
        state.scope, state.gradient_of = node.scope, use
        out = out if out is None else wrap(out, node)
    return op.backward(g, node if out is None else out, *values, **use.attrs)


def _reachable(caller: str, roots: list[Node]) -> list[Node]:
    """The nodes that `roots` were computed from and `roots` themselves, the latest first."""
    seen = set(roots)
    stack = list(seen)
    while stack:
        node = stack.pop()
        if node.saved is None:
            raise GraphError(
                f"{caller}: the graph has been let go of: an earlier backward() freed what {node.op.name} "
                f"{node.shape} had kept. Pass retain_graph=True to the first backward(), or compute the loss again"
            )
        for source in node.inputs:
            if isinstance(source, Node) and source.requires_grad and source not in seen:
                seen.add(source)
                stack.append(source)
    return sorted(seen, key=attrgetter("index"), reverse=True)


def _on_path(nodes: list[Node], targets: dict[Source, Tensor]) -> set[Source]:
    """The targets and every node that was computed from one."""
    needed: set[Source] = set(targets)
    for node in reversed(nodes):
        if node not in needed and any(isinstance(s, (Node, Tensor)) and s in needed for s in node.inputs):
            needed.add(node)
    return needed


def _hand_out(
    handed: list[tuple[Source, Tensor]], grads: dict[Source, Any], own: set[Source], seeds: list[Tensor], record: bool
) -> list[tuple[Tensor, Tensor]]:
    """Pair each Tensor with its gradient, copied where the array might be somebody else's too."""
    if record:
        return [(tensor, grads[source]) for source, tensor in handed]
    taken = {id(seed.data) for seed in seeds}
    result = []
    for source, tensor in handed:
        g: Array = grads[source]
        if not isinstance(g, np.generic) and source not in own and (id(g) in taken or g.base is not None):
            g = g.copy()
        taken.add(id(g))
        result.append((tensor, wrap(np.asarray(g) if isinstance(g, np.generic) else g, None)))
    return result
