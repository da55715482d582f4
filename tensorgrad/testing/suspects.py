"""Which op is to blame: every recorded op checked on its own, with the inputs that it really had."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.graph import Graph, literal
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.state import state
from tensorgrad.testing.check import check_op
from tensorgrad.testing.problem import Problem, arguments, graph_of
from tensorgrad.testing.report import GradientError, Report

SMALL = 64  # numbers; a case with more of them is not printed
TRIES = 25


def explain(report: Report, stage: Problem, first: Problem) -> GradientError:
    """The error for a check that has failed: its table, and the op whose rule is wrong on its own, with a script.

    `stage` is the problem that failed: `first` itself, or its gradient.
    """
    order = report.failed[0].order
    outputs, _ = first.evaluate()
    graph = graph_of(outputs)
    if graph is None or report.failed[0].verdict != "wrong":
        return GradientError(str(report), report, graph)
    if state.fusing:
        graph = graph.fused()
    nodes = suspects(graph, order)
    text, script = str(report), ""
    if nodes:
        ops = dict.fromkeys(node.op for node in nodes)
        places = [f"{path(node)} {node.shape}" + (f", recorded at {node.line}" if node.line else "") for node in nodes[:3]]
        more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
        text += f"\n\nThe rule of {' and of '.join(op.name for op in ops)} is wrong on its own: {'; '.join(places)}{more}."
        for op in ops:
            text += f"\n{op.name}: backward   {op.formula('backward')}"
        script = smallest(nodes[0], graph.values(), order)
        if script:
            text += f"\n\nThe smallest case found, as a script:\n\n{script}"
    else:
        text += (
            "\n\nEvery recorded op is right on its own. Either part of the function is not in the graph: look for .detach(), "
            ".data,\n.numpy(), no_grad() or arithmetic on plain arrays. Or it sits on several kinks at once, where the chain "
            "rule need\nnot hold: move the inputs a little."
        )
    return GradientError(text, report, graph, nodes, script)


def suspects(graph: Graph, order: int) -> list[Node]:
    """The nodes whose gradients are wrong at the inputs that they had."""
    known = graph.values()
    found = []
    for node in graph.nodes:
        if not node.requires_grad or node.op.backward is None or node.op.calls:
            continue
        if is_wrong(node.op, arguments(node, known), node.attrs, order):
            found.append(node)
    return found


def is_wrong(op: Op, args: tuple[Any, ...], attrs: Mapping[str, Any], order: int) -> bool:
    try:
        report = check_op(op, args, attrs, order=order)
    except Exception:  # a case that cannot be computed says nothing
        return False
    return any(f.verdict == "wrong" for f in report.findings)


def smallest(node: Node, known: Mapping[Any, Array], order: int) -> str:
    """A script for the smallest case at which the node's op is wrong: drawn, or the node's own inputs."""
    op = node.op
    for sizes in ((1,), (1, 2), (2, 3)):
        for seed in range(TRIES):
            rng = np.random.default_rng(seed)
            try:
                args, attrs = op.sample(rng, sizes)
            except Exception:  # an op without a sample that works, such as one that is being written
                break
            if is_wrong(op, args, attrs, order):
                rounded = tuple(np.round(a, 1) if is_floating(a.dtype) else a for a in args)
                return script(op, rounded if is_wrong(op, rounded, attrs, order) else args, attrs, order)
    args = arguments(node, known)
    if sum(np.size(a) for a in args) <= SMALL:
        return script(op, args, node.attrs, order)
    return ""


def script(op: Op, args: tuple[Any, ...], attrs: Mapping[str, Any], order: int) -> str:
    """A few lines that check one use of an op."""
    finding = check_op(op, args, attrs, order=order).failed[0]
    names = [p.name for p in inspect.signature(op.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    names = [*names, *[f"x{i}" for i in range(len(names), len(args))]]
    named = list(zip(names, args, strict=False))
    checked = [name for i, (name, a) in enumerate(named) if is_floating(np.asarray(a).dtype) and not op.is_data(i)]
    home = type(op).__module__
    own = [] if home.startswith("tensorgrad.") else [f"import {home}  # where {op.name} is defined"]
    own = [f"# here the class of {op.name}"] if home == "__main__" else own
    call = ", ".join([*names[: len(args)], *[f"{key}={literal(value)}" for key, value in attrs.items()]])
    given = checked[0] if len(checked) == 1 else f"({', '.join(checked)})"
    lines = [
        "import numpy as np",
        *own,
        "from tensorgrad.op import REGISTRY",
        "from tensorgrad.testing import gradcheck",
        "",
        *[f"{name} = {literal(a)}" for name, a in named],
        f"fn = lambda {', '.join(checked)}: REGISTRY[{op.name!r}]({call})",
        f"gradcheck(fn, {given}{', order=2' if order == 2 else ''})",
        f"# {finding.name} at {finding.where}: recorded {finding.recorded:.9g}, numerical {finding.numerical:.9g}",
    ]
    return "\n".join(lines)


def path(node: Node) -> str:
    return f"{node.scope}.{node.op.name}" if node.scope else node.op.name
