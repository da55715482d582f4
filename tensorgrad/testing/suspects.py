"""Finds the op at fault: checks every recorded op alone, at its recorded inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, copy, is_floating
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.state import state
from tensorgrad.testing.check import check_op
from tensorgrad.testing.problem import Problem, arguments, graph_of
from tensorgrad.testing.report import JVP, Explanation, GradientError, Report
from tensorgrad.testing.scripts import script

SMALL = 64  # larger cases are not printed, by number of elements
TRIES = 25
RULES = ("forward", "backward", "jvp")
ABSENT = object()


def explain(report: Report, stage: Problem, first: Problem) -> GradientError:
    """The error for a failed check: its table and, for a wrong gradient, the op whose rule is wrong on its own, with a script.

    `stage` is the problem that failed: `first` itself, or its gradient. Only the graph and the current values of its leaves are
    stored; the search for the op runs when the error is printed or asked for it. Hypothesis raises hundreds of errors while it
    shrinks a failure, and shows the last.
    """
    wrong = next((f for f in report.failed if f.verdict == "wrong"), None)
    try:
        graph = graph_of(first.evaluate()[0])
        if graph is not None and wrong is not None and state.fusing:
            graph = graph.fused()
    except Exception:  # a non-deterministic function may fail
        graph = None
    if graph is None or wrong is None:
        return GradientError(str(report), report, graph)
    # copies of current values: parameters return to float32, and the caller's arrays change
    evidence = Evidence(
        graph, {leaf: copy(leaf._data) for leaf in graph.leaves}, rules_of(graph), wrong.order, wrong.name.endswith(JVP)
    )
    return GradientError(str(report), report, graph, explain=evidence.explanation)


class Evidence:
    """The data that a failure's explanation is computed from.

    graph   the recorded graph
    leaves  the arrays of its leaves
    rules   the functions of its ops at that time, by class and name, because tests patch rules and users fix them
    order   of the wrong gradient
    of_jvp  whether the gradient is right, but an op's `jvp` wrong
    """

    def __init__(
        self, graph: Graph, leaves: dict[Any, Array], rules: dict[tuple[type[Op], str], Any], order: int, of_jvp: bool
    ) -> None:
        self.graph, self.leaves, self.rules, self.order, self.of_jvp = graph, leaves, rules, order, of_jvp

    def explanation(self) -> Explanation:
        """The ops whose rules are wrong on their own, and the smallest failing case of the first."""
        with restored(self.rules), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            values = self.graph.values(self.leaves)
            nodes = suspects(self.graph, self.order, values)
            case = smallest(nodes[0], values, self.order) if nodes else ""
        return Explanation(in_words(nodes, case, self.of_jvp), tuple(nodes), case)


def in_words(nodes: list[Node], case: str, of_jvp: bool = False) -> str:
    if not nodes:
        return (
            "Every recorded op is right on its own. Either part of the function is not in the graph: look for .detach(), "
            ".data,\n.numpy(), no_grad() or arithmetic on plain arrays. Or it sits on several kinks at once, where the chain "
            "rule need\nnot hold: move the inputs a little."
        )
    ops = dict.fromkeys(node.op for node in nodes)
    places = [f"{path(node)} {node.shape}" + (f", recorded at {node.line}" if node.line else "") for node in nodes[:3]]
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    rule_name = "jvp" if of_jvp else "rule"
    text = f"The {rule_name} of {' and of '.join(op.name for op in ops)} is wrong on its own: {'; '.join(places)}{more}."
    for op in ops:
        text += f"\n{op.name}: backward   {op.formula('backward')}"
        text += f"\n{op.name}: tangent    {op.formula('tangent')}" if of_jvp else ""
    return f"{text}\n\nThe smallest case found, as a script:\n\n{case}" if case else text


def rules_of(graph: Graph) -> dict[tuple[type[Op], str], Any]:
    """The functions of the ops of a graph, by class and name."""
    classes = {type(node.op) for node in graph.nodes}
    return {(cls, name): rule(cls, name) for cls in classes for name in RULES}


def rule(cls: type[Op], name: str) -> Any:
    """An attribute of a class or its bases, without binding; `getattr` would unwrap a static method."""
    return next((vars(c)[name] for c in cls.__mro__ if name in vars(c)), None)


@contextmanager
def restored(rules: dict[tuple[type[Op], str], Any]) -> Iterator[None]:
    """Context manager: classes have their recorded functions, and afterwards their current ones."""
    changed = {key: before for key, before in rules.items() if rule(*key) is not before}
    current = {(cls, name): vars(cls).get(name, ABSENT) for cls, name in changed}
    try:
        for (cls, name), before in changed.items():
            setattr(cls, name, before)
        yield
    finally:
        for (cls, name), present in current.items():
            if present is ABSENT:
                delattr(cls, name)
            else:
                setattr(cls, name, present)


def suspects(graph: Graph, order: int, values: Mapping[Any, Array]) -> list[Node]:
    """The nodes whose gradients are wrong at their recorded inputs."""
    wrong = []
    for node in graph.nodes:
        if not node.requires_grad or node.op.backward is None or node.op.calls:
            continue
        if is_wrong(node.op, arguments(node, values), node.attrs, order):
            wrong.append(node)
    return wrong


def is_wrong(op: Op, args: tuple[Any, ...], attrs: Mapping[str, Any], order: int) -> bool:
    try:
        report = check_op(op, args, attrs, order=order)
    except Exception:  # a case that cannot be computed decides nothing
        return False
    return any(f.verdict == "wrong" for f in report.findings)


def smallest(node: Node, values: Mapping[Any, Array], order: int) -> str:
    """A script for the smallest failing case of the node's op: sampled, or the node's own inputs."""
    op = node.op
    for sizes in ((1,), (1, 2), (2, 3)):
        for seed in range(TRIES):
            rng = np.random.default_rng(seed)
            try:
                args, attrs = op.sample(rng, sizes)
            except Exception:  # an op without a working sample, such as one under development
                break
            if is_wrong(op, args, attrs, order):
                rounded = tuple(np.round(a, 1) if is_floating(a.dtype) else a for a in args)
                return script(op, rounded if is_wrong(op, rounded, attrs, order) else args, attrs, order)
    args = arguments(node, values)
    if sum(np.size(a) for a in args) <= SMALL:
        return script(op, args, node.attrs, order)
    return ""


def path(node: Node) -> str:
    return f"{node.scope}.{node.op.name}" if node.scope else node.op.name
