"""The rules of a recorded program in float32, each on its own: for what float32 cannot hold, or decide, as a whole."""

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
from tensorgrad.testing.rounding import Called, Rounding, close, in_single, lowered

if TYPE_CHECKING:
    from tensorgrad.testing.paths import Ways

FLOAT32 = np.dtype(np.float32)
EPS32 = float(np.finfo(np.float32).eps)
SQUARED32 = 1e-18, 1e18  # numbers whose squares float32 can hold, which an op may compute inside
MODEST = 1e-4, 1e4  # to these, numbers beyond are moved where nothing can be said of them: a rule is right for any


def by_op(ways: Ways, note: str, otherwise: Callable[[], list[Finding]] = list) -> list[Finding]:
    """Findings for the rules that are wrong in float32, each at the numbers that it had; and a note of what is not known.

    otherwise  gives findings where there are ops of which nothing is known
    """
    try:
        uses = used(ways)
    except Exception as error:  # such as a node that cannot be computed again
        if others := otherwise():
            return others
        ways.notes.append(f"{note}; nor each op on its own: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return []
    findings: dict[str, Finding] = {}
    unknown: list[str] = []
    numbers: tuple[Callable[[Array], Array], ...] = same, modest
    for node, g, args in uses:
        found = None
        for change in numbers:
            with contextlib.suppress(Exception), np.errstate(all="ignore"):  # at other numbers, an op may refuse them
                if (
                    found := differing(node, change(g), [change(a) if is_array(a) else a for a in args], ways.atol)
                ) is not None:
                    break
        if found is None:
            unknown.append(node.op.name)
        for i, verdicts, f, e in found or ():
            name = f"{node.op.name} (its rule for argument {i} in float32)"
            findings.setdefault(name, finding(name, e.shape, ways.check.order, verdicts, f, e))
    if not findings and unknown and (others := otherwise()):
        return others
    if not findings:
        names = ", ".join(dict.fromkeys(unknown))
        ways.notes.append(f"{note}; each op on its own is right there" + (f", but for {names}" if names else ""))
    return list(findings.values())


def used(ways: Ways) -> list[tuple[Node, Array, list[Any]]]:
    """Each use of a rule: its node, the gradient that came in, and the arguments, in float64."""
    outputs = ways.check.outputs
    pairs, graph = ways.upstream(outputs), graph_of(outputs)
    if not pairs or graph is None:
        return []
    known = replay(graph)
    nodes = [n for n in graph.nodes if n.requires_grad and n.op.backward is not None]
    ends, upstream = zip(*pairs, strict=True)
    with np.errstate(all="ignore"):
        found = grad(ends, [wrap(known[n], n) for n in nodes], upstream, retain_graph=True, allow_unused=True)
    return [(n, g._data, list(arguments(n, known))) for n, g in zip(nodes, found, strict=True) if g is not None]


def differing(node: Node, g: Array, args: list[Any], atol: float) -> list[tuple[int, Array, Array, Array]] | None:
    """The arguments whose gradients are others in float32: number, verdicts, found and expected; None if nobody can tell."""
    if node.op.calls:  # a function of the user's, which need not be the same in float32
        return None
    wanted = [
        i for i, s in enumerate(node.inputs) if isinstance(s, (Node, Tensor)) and s.requires_grad and not node.op.is_data(i)
    ]
    g32, args32 = lowered(g), [lowered(a) if is_array(a) else a for a in args]
    g, args = double(g32), [double(a) if is_array(a) else a for a in args32]
    expected = rules(node, wanted, g, args, node.attrs, same)
    found = [double(a) for a in rules(node, wanted, g32, args32, in_single(node.attrs), same)]
    if all(close(e, f, EPS32, atol).all() for e, f in zip(expected[:-1], found[:-1], strict=True)):
        return []
    rounding = measured(node, wanted, g, args)
    goods = [
        close(e, f, EPS32, atol) | rounding.explains(k, e, f, atol)
        for k, (e, f) in enumerate(zip(expected, found, strict=True))
    ]
    if all(good.all() for good in goods[:-1]):
        return []
    # beyond its range, and where it has other values, nothing is known; nor of what has become no number on the way
    finite = all(np.isfinite(f[~good]).all() for f, good in zip(found, goods, strict=True))
    if not rounding.is_within(*SQUARED32) or not goods[-1].all() or not finite:
        return None
    return [
        (i, np.where(good, "ok", "wrong"), f, e)
        for i, good, f, e in zip(wanted, goods, found, expected, strict=False)
        if not good.all()
    ]


def rules(
    node: Node, wanted: list[int], g: Array, args: list[Any], attrs: Mapping[str, Any], change: Callable[[Array], Array]
) -> list[Array]:
    """What the rules of a node make of arrays, and after that its result; `change` is made of each array before."""
    assert node.op.backward is not None
    with switched(recording=False, tracing=False):
        g, args = change(g), [change(a) if is_array(a) else a for a in args]
        y = asarray(node.op(*args, **attrs))
        found = node.op.backward(g, y, *args, **attrs)
        gradients = [np.zeros(args[i].shape, y.dtype) if (rule := found[i]) is None else asarray(rule()) for i in wanted]
        return [
            *(a if a.shape == args[i].shape else sum_to(a, args[i].shape) for i, a in zip(wanted, gradients, strict=True)),
            y,
        ]


def measured(node: Node, wanted: list[int], g: Array, args: list[Any]) -> Rounding:
    """What rounding in float32 makes of the gradients of one op, and after them of its result."""
    try:
        with switched(recording=True, tracing=True, fusing=False):
            leaves = [Tensor(a, True) if i in wanted else a for i, a in enumerate(args)]
            y = node.op(*[wrap(a, None) if is_array(a) else a for a in leaves], **node.attrs)
            found = grad(y, [leaves[i] for i in wanted], wrap(g, None), create_graph=True, allow_unused=True)
            zeros = [wrap(np.zeros(args[i].shape), None) for i in wanted]
        rounding = Rounding([*(z if t is None else t for t, z in zip(found, zeros, strict=True)), y], EPS32)
        if rounding.is_whole:
            return rounding
    except Exception:  # a rule that takes arrays only
        pass
    longest = max(a.size for a in (g, *args) if is_array(a))
    return Called(lambda change: rules(node, wanted, g, args, node.attrs, change), longest, EPS32)


def is_array(a: Any) -> bool:
    return isinstance(a, np.ndarray)


def same(a: Array) -> Array:
    return a


def double(a: Array) -> Array:
    return a.astype(np.float64) if is_floating(a.dtype) else a


def modest(a: Array) -> Array:
    """The same signs, and no sizes but 0 beyond MODEST."""
    if not is_floating(a.dtype):
        return a
    return np.asarray(np.where((a == 0) | np.isnan(a), a, np.copysign(np.clip(np.abs(a), *MODEST), a)))
