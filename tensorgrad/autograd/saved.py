"""The recorded nodes behind some results, in order, and the values that their rules read."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import HALVES, as_bytes, is_half
from tensorgrad.core.location import line_of
from tensorgrad.core.node import Freed, Node, Unread
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import GraphError
from tensorgrad.ops import astype


def recorded_nodes(caller: str, roots: list[Tensor]) -> list[Node]:
    """The nodes that computed `roots`, latest first. Raises GraphError if values that their rules read have been changed in
    place or freed since.
    """
    nodes = _reachable(caller, [r.node for r in roots if r.node is not None])
    if writes.loans:
        writes.check_loans()
    if nodes and writes.latest > nodes[-1].index:
        _check_writes(caller, nodes)
        for root in roots:
            if root.node is not None and writes.since(root.node.index, (root._data,)):
                raise GraphError(
                    f"{caller}: {described(root.node)}, shares memory with a Tensor that was changed in place later; "
                    f"compute it again"
                )
    return nodes


def _reachable(caller: str, roots: list[Node]) -> list[Node]:
    """`roots` and all nodes that they depend on, latest first."""
    seen = set(roots)
    stack = list(seen)
    while stack:
        node = stack.pop()
        if type(node.saved) is Freed:
            check_freed(caller, node)
        for source in node.inputs:
            if type(source) is Node and source.requires_grad and source not in seen:
                seen.add(source)
                stack.append(source)
    return sorted(seen, key=attrgetter("index"), reverse=True)


def check_freed(caller: str, node: Node) -> None:
    """Raise GraphError if a backward pass has freed the values of `node`."""
    if isinstance(node.saved, Freed):
        place = f" at {line_of(node.saved.made)}" if node.saved.made else ""
        raise GraphError(
            f"{caller}: the graph has been freed: an earlier backward(){place} freed the values saved for "
            f"{described(node)}. Pass retain_graph=True to the first backward(), or compute the loss again"
        )


def _check_writes(caller: str, nodes: list[Node]) -> None:
    """Raise GraphError if an array that a rule will read was changed in place after it was recorded."""
    for node in nodes:
        if writes.latest > node.index and writes.since(node.index, (*(node.saved or ()), node.out), unseen=True):
            changed = [i for i, a in enumerate(node.saved or ()) if writes.since(node.index, (a,), unseen=True)]
            which = f"argument {changed[0]} {np.shape(node.saved[changed[0]])}" if changed else "its result"
            raise GraphError(
                f"{caller}: {described(node)}, needs a value that was changed in place later: {which}. "
                f"Change it after backward(), or compute with a copy"
            )


def rule_values(replacement: Node, node: Node, record: bool, rule: str = "backward") -> tuple[Any, Sequence[Any]]:
    """The result and the arguments of `replacement` for its rules: arrays, or Tensors if the rules are to be recorded.

    Values that a rule does not read, as its op declares, are replaced by an Unread, which has shape and dtype. Half precision
    is converted to float32. `node` is the node that `replacement` replaces, `rule` the name of the rule that will read them.
    """
    op, saved, out = replacement.op, replacement.saved, replacement.out
    needs_float32 = is_wide(replacement)
    values: Any
    if not saved:
        values = [
            Unread(replacement, i, rule) if isinstance(s, (Node, Tensor)) else s for i, s in enumerate(replacement.inputs)
        ]
    elif not record and not needs_float32 and op.reads_all:
        values = saved
    else:
        values = []
        for i, (source, a) in enumerate(zip(replacement.inputs, saved, strict=True)):
            if a is not None:
                value = _as_recorded(source, a, replacement) if record else a
                values.append(as_float32(value) if needs_float32 else value)
            else:
                values.append(Unread(replacement, i, rule) if isinstance(source, (Node, Tensor)) else source)
    if out is None:
        return Unread(replacement, -1, rule), values
    out = wrap(out, node) if record else out
    return as_float32(out) if needs_float32 else out, values


def is_wide(replacement: Node) -> bool:
    """Whether the rules of `replacement` get half precision as float32."""
    return replacement.dtype.char in HALVES and not replacement.op.calls


def _as_recorded(source: Any, array: Any, replacement: Node) -> Any:
    """An input of `replacement`, as a Tensor with its saved value, for a rule that is recorded."""
    if array is None or not isinstance(source, (Node, Tensor)):
        return source
    if isinstance(source, Node):
        return wrap(array, source)
    if array is not source._data and (array.shape != source.shape or as_bytes(array) != as_bytes(source._data)):
        raise GraphError(
            f"{described(replacement)}, read a Tensor {source.shape} that was changed later: a derivative of the gradient "
            f"would use its new values. Change it after the last backward(), or compute with a copy"
        )
    return source


def as_float32(value: Any) -> Any:
    """Half precision as float32, in which rules compute; other values unchanged."""
    return astype(value, np.float32) if is_half(getattr(value, "dtype", np.dtype(bool))) else value


def described(node: Node) -> str:
    """ "fc1.linear (64, 100), recorded at model.py:14"."""
    name = f"{node.scope}.{node.op.name}" if node.scope else node.op.name
    return f"{name} {node.shape}" + (f", recorded at {node.line}" if node.line else "")
