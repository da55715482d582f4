"""Checks each rule of a recorded program alone in float32, where float32 cannot decide about the whole program."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorgrad.autograd.walk import grad
from tensorgrad.core.backend import Array, asarray, is_floating
from tensorgrad.core.node import Node
from tensorgrad.core.state import switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.ops import sum_to
from tensorgrad.testing.paths import finding
from tensorgrad.testing.problem import arguments, graph_of
from tensorgrad.testing.recording import replay
from tensorgrad.testing.report import Finding
from tensorgrad.testing.rounding import FunctionRounding, Rounding, close, in_single, lowered

if TYPE_CHECKING:
    from tensorgrad.testing.paths import Ways

FLOAT32 = np.dtype(np.float32)
EPS32 = float(np.finfo(np.float32).eps)
SQUARED32 = 1e-18, 1e18  # the squares of these fit float32; an op may compute squares
MODEST = 1e-4, 1e4  # numbers outside are moved in here if nothing can be decided: a rule must be right for all numbers


def by_op(ways: Ways, note: str, otherwise: Callable[[], list[Finding]] = list) -> list[Finding]:
    """Findings for rules that are wrong in float32 at their recorded arguments; adds a note about undecided ops.

    otherwise  called for findings if some ops are undecided
    """
    try:
        uses = rule_calls(ways)
    except Exception as error:  # such as a node that cannot be recomputed
        if others := otherwise():
            return others
        ways.notes.append(f"{note}; nor each op on its own: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return []
    findings: dict[str, Finding] = {}
    unknown: list[str] = []
    changes: tuple[Callable[[Array], Array], ...] = identity, modest
    for node, g, args in uses:
        results = None
        for change in changes:
            with contextlib.suppress(Exception), np.errstate(all="ignore"):  # an op may refuse other numbers
                if (
                    results := differing(node, change(g), [change(a) if is_array(a) else a for a in args], ways.atol)
                ) is not None:
                    break
        if results is None:
            unknown.append(node.op.name)
        for i, verdicts, f, e in results or ():
            name = f"{node.op.name} (its rule for argument {i} in float32)"
            findings.setdefault(name, finding(name, e.shape, ways.check.order, verdicts, f, e))
    if not findings and unknown and (others := otherwise()):
        return others
    if not findings:
        names = ", ".join(dict.fromkeys(unknown))
        ways.notes.append(f"{note}; each op on its own is right there" + (f", but for {names}" if names else ""))
    return list(findings.values())


def rule_calls(ways: Ways) -> list[tuple[Node, Array, list[Any]]]:
    """Each application of a rule: its node, the incoming gradient, and the arguments, in float64."""
    outputs = ways.check.outputs
    pairs, graph = ways.upstream(outputs), graph_of(outputs)
    if not pairs or graph is None:
        return []
    values = replay(graph)
    nodes = [n for n in graph.nodes if n.requires_grad and n.op.backward is not None]
    ends, upstream = zip(*pairs, strict=True)
    with np.errstate(all="ignore"):
        gradients = grad(ends, [wrap(values[n], n) for n in nodes], upstream, retain_graph=True, allow_unused=True)
    return [(n, g._data, list(arguments(n, values))) for n, g in zip(nodes, gradients, strict=True) if g is not None]


def differing(node: Node, g: Array, args: list[Any], atol: float) -> list[tuple[int, Array, Array, Array]] | None:
    """Arguments whose gradients differ in float32: index, verdicts, found and expected gradients; None if undecided."""
    if node.op.calls:  # a user's function may differ in float32
        return None
    wrt = [i for i, s in enumerate(node.inputs) if isinstance(s, (Node, Tensor)) and s.requires_grad and not node.op.is_data(i)]
    g32, args32 = lowered(g), [lowered(a) if is_array(a) else a for a in args]
    g, args = double(g32), [double(a) if is_array(a) else a for a in args32]
    expected = rules(node, wrt, g, args, node.attrs, identity)
    actual = [double(a) for a in rules(node, wrt, g32, args32, in_single(node.attrs), identity)]
    if all(close(e, f, EPS32, atol).all() for e, f in zip(expected[:-1], actual[:-1], strict=True)):
        return []
    rounding = measured(node, wrt, g, args)
    goods = [
        close(e, f, EPS32, atol) | rounding.explains(k, e, f, atol)
        for k, (e, f) in enumerate(zip(expected, actual, strict=True))
    ]
    if all(good.all() for good in goods[:-1]):
        return []
    # undecided where values overflow or differ, and where NaN has appeared on the way
    finite = all(np.isfinite(f[~good]).all() for f, good in zip(actual, goods, strict=True))
    if not rounding.is_within(*SQUARED32) or not goods[-1].all() or not finite:
        return None
    return [
        (i, np.where(good, "ok", "wrong"), f, e)
        for i, good, f, e in zip(wrt, goods, actual, expected, strict=False)
        if not good.all()
    ]


def rules(
    node: Node, wrt: list[int], g: Array, args: list[Any], attrs: Mapping[str, Any], change: Callable[[Array], Array]
) -> list[Array]:
    """The gradients from the rules of a node, and its result; `change` is applied to each array first."""
    assert node.op.backward is not None
    with switched(recording=False, tracing=False):
        g, args = change(g), [change(a) if is_array(a) else a for a in args]
        y = asarray(node.op(*args, **attrs))
        gradient_rules = node.op.backward(g, y, *args, **attrs)
        gradients = [np.zeros(args[i].shape, y.dtype) if (rule := gradient_rules[i]) is None else asarray(rule()) for i in wrt]
        return [
            *(a if a.shape == args[i].shape else sum_to(a, args[i].shape) for i, a in zip(wrt, gradients, strict=True)),
            y,
        ]


def measured(node: Node, wrt: list[int], g: Array, args: list[Any]) -> Rounding:
    """The float32 rounding errors of an op's gradients and result."""
    try:
        with switched(recording=True, tracing=True, fusing=False):
            leaves = [Tensor(a, True) if i in wrt else a for i, a in enumerate(args)]
            y = node.op(*[wrap(a, None) if is_array(a) else a for a in leaves], **node.attrs)
            gradients = grad(y, [leaves[i] for i in wrt], wrap(g, None), create_graph=True, allow_unused=True)
            zeros = [wrap(np.zeros(args[i].shape), None) for i in wrt]
        rounding = Rounding([*(z if t is None else t for t, z in zip(gradients, zeros, strict=True)), y], EPS32)
        if rounding.is_complete:
            return rounding
    except Exception:  # a rule that only takes arrays
        pass
    longest = max(a.size for a in (g, *args) if is_array(a))
    return FunctionRounding(lambda change: rules(node, wrt, g, args, node.attrs, change), longest, EPS32)


def is_array(a: Any) -> bool:
    return isinstance(a, np.ndarray)


def identity(a: Array) -> Array:
    return a


def double(a: Array) -> Array:
    return a.astype(np.float64) if is_floating(a.dtype) else a


def modest(a: Array) -> Array:
    """Clip the magnitudes of non-zero numbers to MODEST."""
    if not is_floating(a.dtype):
        return a
    return np.asarray(np.where((a == 0) | np.isnan(a), a, np.copysign(np.clip(np.abs(a), *MODEST), a)))
