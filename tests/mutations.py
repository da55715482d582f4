"""Rules broken on purpose: `python -m tests.mutations` prints how many of them the default audit catches, by kind.

Two sorts of mutants are made of every registered op's `backward`. Some change its text: a term or a factor left out, a sign, a
coefficient, a comparison, a transposition. Others wrap it, whatever it says: the gradient of one input negated, scaled,
transposed; the wrong axis; inputs swapped; values hidden from the second order. A mutant that gives the same gradients as the
rule on all samples, ties included, is no mutant and does not count.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, fusion
from tensorgrad.autograd import walk
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing.check import check_op
from tensorgrad.testing.samples import sampled
from tests import test_kinks

CASES = 20  # as many as `audit` draws by default
Rule = Callable[..., Any]


@dataclass(frozen=True)
class Mutant:
    """A broken `backward` of an op; `kind` is what was done to it, `detail` where."""

    op: Op
    kind: str
    detail: str
    backward: Rule

    def __str__(self) -> str:
        return f"{self.op.name}: {self.kind}, {self.detail}"

    @contextmanager
    def applied(self) -> Iterator[None]:
        self.op.__dict__["backward"] = types.MethodType(self.backward, self.op)
        try:
            yield
        finally:
            del self.op.__dict__["backward"]


# Mutants of the text


class Edit(ast.NodeTransformer):
    """Does one edit: the n-th place at which `change` has something to say."""

    def __init__(self, change: Callable[[ast.AST], list[ast.AST]], n: int) -> None:
        self.change, self.n, self.detail = change, n, ""

    def visit(self, node: ast.AST) -> Any:
        for new in self.change(node):
            if self.n == 0 and not self.detail:
                self.detail = f"{ast.unparse(node)} -> {ast.unparse(new)}"
                return ast.copy_location(new, node)
            self.n -= 1
        return self.generic_visit(node)


def dropped_term(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        return [node.left, node.right]
    return []


def dropped_factor(node: ast.AST) -> list[ast.AST]:
    return [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) else []


def flipped_sign(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        return [ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)]
    return [node.operand] if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else []


def coefficient(node: ast.AST) -> list[ast.AST]:
    numbers = [n for n in (node.left, node.right) if isinstance(n, ast.Constant)] if isinstance(node, ast.BinOp) else []
    changed = []
    for number in numbers:
        if isinstance(number.value, (int, float)) and number.value and not isinstance(node.op, ast.FloorDiv):
            new = copy.deepcopy(node)
            side = "left" if number is node.left else "right"
            setattr(new, side, ast.Constant(number.value * 1.001))
            changed.append(new)
    return changed


def tie(node: ast.AST) -> list[ast.AST]:
    other = {ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Lt: ast.LtE, ast.LtE: ast.Lt}
    if isinstance(node, ast.Compare) and type(node.ops[0]) in other:
        return [ast.Compare(node.left, [other[type(node.ops[0])]()], node.comparators)]
    return []


def shifted_mask(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Gt, ast.GtE, ast.Lt, ast.LtE)):
        return [ast.Compare(ast.BinOp(node.left, ast.Sub(), ast.Constant(0.3)), node.ops, node.comparators)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "relu_grad":
        return [ast.Call(node.func, [node.args[0], ast.BinOp(node.args[1], ast.Sub(), ast.Constant(0.3))], [])]
    return []


def not_transposed(node: ast.AST) -> list[ast.AST]:
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return [node.func.value] if called and node.func.attr in ("swapaxes", "transpose") else []


def wrong_axis(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Call):
        for i, keyword in enumerate(node.keywords):
            if keyword.arg == "axis" and not (isinstance(keyword.value, ast.Name)):
                new = copy.deepcopy(node)
                new.keywords[i].value = ast.Constant(0)
                return [new]
    return []


TIES = ">= for > at ties"
EDITS: dict[str, Callable[[ast.AST], list[ast.AST]]] = {
    "dropped term": dropped_term,
    "dropped factor": dropped_factor,
    "flipped sign": flipped_sign,
    "coefficient × 1.001": coefficient,
    TIES: tie,
    "shifted mask": shifted_mask,
    "not transposed": not_transposed,
    "wrong axis": wrong_axis,
}


def edited(op: Op) -> Iterator[Mutant]:
    """Every single edit of the text of an op's rule."""
    function = type(op).backward
    assert function is not None
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for kind, change in EDITS.items():
        for n in range(100):
            edit = Edit(change, n)
            new = ast.fix_missing_locations(edit.visit(copy.deepcopy(tree)))
            if not edit.detail:
                break
            names: dict[str, Any] = dict(function.__globals__)
            exec(compile(new, f"<mutant of {op.name}>", "exec"), names)
            yield Mutant(op, kind, edit.detail, names["backward"])


# Mutants around the rule


def transposed(g: Any) -> Any:
    turned = g.swapaxes(-1, -2) if g.ndim > 1 else g[::-1] if g.ndim else g
    return turned.reshape(g.shape)


def shifted(g: Any) -> Any:
    """The first element's gradient lost, the others moved up by one place."""
    flat = g.reshape(-1)
    return (flat * 0 + tensorgrad.concatenate([flat[1:], flat[:1]]) if g.size > 1 else flat * 0).reshape(g.shape)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "wrong sign": lambda g: -g,
    "× 1.001": lambda g: g * 1.001,
    "+ 0.01": lambda g: g + 0.01,
    "transposed": transposed,
    "shifted by one": shifted,
}


def wrapped(op: Op) -> Iterator[Mutant]:
    """The mutants that do not depend on what the rule says."""
    original = type(op).backward
    assert original is not None
    args, attrs = op.sample(np.random.default_rng(0))
    inputs = [i for i, a in enumerate(args) if a.dtype.kind == "f" and not op.is_data(i)]
    for kind, change in CHANGES.items():
        for i in inputs:

            def changed(self: Op, g: Any, y: Any, *xs: Any, i: int = i, change: Any = change, **attrs: Any) -> Any:
                rules = list(original(self, g, y, *xs, **attrs))
                rule = rules[i]
                rules[i] = None if rule is None else lambda: change(rule())
                return tuple(rules)

            yield Mutant(op, kind, f"input {i}", changed)
    if len(inputs) > 1:

        def swapped(self: Op, g: Any, y: Any, *xs: Any, **attrs: Any) -> Any:
            rules = list(original(self, g, y, *xs, **attrs))
            i, j = inputs[:2]
            rules[i], rules[j] = rules[j], rules[i]
            return tuple(rules)

        def confused(self: Op, g: Any, y: Any, *xs: Any, **attrs: Any) -> Any:
            xs_ = list(xs)
            i, j = inputs[:2]
            xs_[i], xs_[j] = xs_[j], xs_[i]
            return original(self, g, y, *xs_, **attrs)

        yield Mutant(op, "swapped inputs", "their gradients", swapped)
        yield Mutant(op, "swapped inputs", "their values", confused)
    if "axis" in attrs:

        def other_axis(self: Op, g: Any, y: Any, *xs: Any, axis: Any, **attrs: Any) -> Any:
            n = max(xs[0].ndim, 1)
            other = 0 if axis is None else (axis + 1) % n if isinstance(axis, int) else tuple((a + 1) % n for a in axis)
            return original(self, g, y, *xs, axis=other, **attrs)

        yield Mutant(op, "wrong axis", "the attribute", other_axis)

    def blind(self: Op, g: Any, y: Any, *xs: Any, **attrs: Any) -> Any:
        return original(self, g, hidden(y), *map(hidden, xs), **attrs)

    def deaf(self: Op, g: Any, y: Any, *xs: Any, **attrs: Any) -> Any:
        return original(self, hidden(g), y, *xs, **attrs)

    yield Mutant(op, "hidden from order 2", "the values", blind)
    yield Mutant(op, "hidden from order 2", "the gradient", deaf)


def hidden(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


def mutants(op: Op) -> Iterator[Mutant]:
    """Every mutant of an op's rule, those that change nothing included."""
    yield from edited(op)
    yield from wrapped(op)


# Whether a mutant is one, and whether it is caught


def tied(op: Op, rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """`a` with about half of its elements on a kink of the op, or equal to its first element."""
    at = rng.choice(op.kinks) if op.kinks else 0.5 if op.name == "clip" else a.flat[0]
    return np.where(rng.random(a.shape) < 0.5, at, a)


def results(op: Op, order: int) -> list[Any]:
    """Gradients of the op on samples, with ties and without; "raises" where they cannot be computed."""
    found: list[Any] = []
    for case in range(2 * CASES):
        rng = np.random.default_rng([0, case % CASES])
        args, attrs = op.sample(rng)
        inputs = [i for i, a in enumerate(args) if a.dtype.kind == "f" and not op.is_data(i)]
        if case >= CASES:
            if "inv" in op.signature or not all(a.size for a in args):
                continue
            args = tuple(tied(op, rng, a) if i in inputs else a for i, a in enumerate(args))
        xs = [Tensor(a, i in inputs) for i, a in enumerate(args)]
        try:
            with fusion.off(), np.errstate(all="ignore"):
                y = op(*xs, **attrs)
                g = Tensor(rng.normal(size=y.shape), True)
                grads = tensorgrad.grad(y, [xs[i] for i in inputs], g, create_graph=order == 2)
                if order == 2:
                    s: Any = sum((gx * rng.normal(size=gx.shape)).sum() for gx in grads)
                    wrt = [*[xs[i] for i in inputs], g]
                    grads = tensorgrad.grad(s, wrt, allow_unused=True) if s.requires_grad else ()
            found.append([None if gx is None else gx.data for gx in grads])
        except Exception:
            found.append("raises")
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str) or len(a) != len(b):
        return bool(isinstance(a, str) and isinstance(b, str))
    zero = [np.zeros(()) if x is None else x for x in (*a, *b)]
    return all(
        np.allclose(x, y, rtol=1e-10, atol=1e-12, equal_nan=True) for x, y in zip(zero[: len(a)], zero[len(a) :], strict=True)
    )


ORIGINAL: dict[tuple[str, int], list[Any]] = {}


def changes_something(mutant: Mutant) -> bool:
    """Whether its gradients, of either order, are not those of the rule."""
    for order in (1, 2):
        key = mutant.op.name, order
        if key not in ORIGINAL:
            ORIGINAL[key] = results(mutant.op, order)
        with mutant.applied():
            if not all(map(same, results(mutant.op, order), ORIGINAL[key])):
                return True
    return False


def caught_by(mutant: Mutant) -> str:
    """ "audit", "error" (the rule cannot even be computed), "kinks" (the table of what is chosen at ties), or ""."""
    with mutant.applied():
        try:
            for case in range(CASES):  # as `audit` does, but only up to the first failure
                args, attrs = sampled(mutant.op, 0, case)
                if not check_op(mutant.op, args, attrs, order=2):
                    return "audit"
        except Exception:
            return "error"
        if mutant.kind == TIES:
            for row in test_kinks.ROWS:
                try:
                    test_kinks.test_row(row)
                except AssertionError:
                    return "kinks"
    return ""


def verdict_on(mutant: Mutant) -> str:
    """What it was caught by; "missed", or "same" if it is no mutant."""
    return caught_by(mutant) or ("missed" if changes_something(mutant) else "same")


def without_unbroadcasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's one place of un-broadcasting, broken: the first of the repeated elements instead of their sum."""

    right = walk.sum_to

    def first(g: Any, shape: tuple[int, ...]) -> Any:
        if not g.size:
            return right(g, shape)
        index = (0,) * (g.ndim - len(shape)) + tuple(slice(0, 1) if n == 1 else slice(None) for n in shape)
        return g[index]

    monkeypatch.setattr(walk, "sum_to", first)


def main() -> None:
    found: dict[str, Counter[str]] = {}
    missed = []
    ops = [op for op in REGISTRY.values() if op.backward is not None and not op.calls]  # that one is the engine
    for mutant in (mutant for op in ops for mutant in mutants(op)):
        verdict = verdict_on(mutant)
        if verdict != "same":
            found.setdefault(mutant.kind, Counter())[verdict] += 1
        if verdict == "missed":
            missed.append(mutant)
    print(f"{'mutation':22} {'mutants':>8} {'audit':>7} {'error':>7} {'kinks':>7} {'missed':>7}")
    for kind, counts in [*found.items(), ("all", sum(found.values(), Counter()))]:
        print(f"{kind:22} {counts.total():8}", *[f"{counts[by]:7}" for by in ("audit", "error", "kinks", "missed")])
    for mutant in missed:
        print("missed:", mutant)


if __name__ == "__main__":
    main()
