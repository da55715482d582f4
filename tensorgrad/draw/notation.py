"""Writes formulas as one line of text; latex.py writes them as LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from tensorgrad import ops
from tensorgrad.core.graph import literal
from tensorgrad.draw.algebra import powered, uniform
from tensorgrad.draw.expression import Expr, Head, Term, first

SUM, UNARY, PRODUCT, MATMUL, POWER, ATOM = range(6)  # precedence

NAMES: dict[Head, str] = {ops.maximum: "max", ops.minimum: "min"}  # other ops by their names
LETTERS = "ijklpqrs"  # indices of the axes of an array


def split(e: Expr) -> tuple[float, float, list[Expr], list[Expr]]:
    """num, den, and the factors of numerator and denominator with their powers; matrix products first."""
    powers = list(zip(e.args, e["powers"], strict=True))
    above = [powered(base, p) for base, p in powers if p > 0]
    above.sort(key=lambda base: (base.head is not Term.MATMUL, base.shape != (), base.head is not Term.NAME))
    return e["num"], e["den"], above, [powered(base, -p) for base, p in powers if p < 0]


def level_of(e: Expr) -> int:
    if e.head is Term.PRODUCT:
        num, den, above, below = split(e)
        if num < 0:
            return UNARY
        if den == 1 and not below and (not above or (num == 1 and len(above) == 1)):
            return POWER if above else ATOM
        return PRODUCT
    if e.head is Term.EVERYWHERE:
        return ATOM if uniform(e) == 1 else PRODUCT
    if e.head is Term.NAME:
        return ATOM if re.fullmatch(r"\S+", e.args[0].title) else SUM  # an expression used as a name, such as "1 - t"
    return {Term.TOTAL: SUM, Term.MATMUL: MATMUL, Term.TRANSPOSED: POWER, ops.power: POWER}.get(e.head, ATOM)


def text(e: Expr) -> str:
    """The formula in one line; a constant array is written as a number."""
    return text_of(top_level(e))


def top_level(e: Expr) -> Expr:
    """A top-level formula: constant arrays as numbers, and the sum of a single element without a sum sign."""
    return first(e) if e.head is Term.EVERYWHERE or is_trivial(e) else e


def text_of(e: Expr) -> str:
    if e.head is Term.NAME:
        return str(e.args[0].title)
    if e.head is Term.PRODUCT:
        return product_text(e)
    if e.head is Term.TOTAL:
        parts = [text_of(e.args[0]) if level_of(e.args[0]) > SUM else bracketed_text(e.args[0], UNARY)]
        for term in e.args[1:]:
            term_text = bracketed_text(term, UNARY)
            parts.append(f" - {term_text[1:]}" if term_text.startswith("-") else f" + {term_text}")
        return "".join(parts)
    if e.head is Term.MATMUL:
        return " ".join(bracketed_text(a, POWER) for a in e.args)
    if e.head is Term.TRANSPOSED:
        return f"{bracketed_text(first(e), ATOM)}^T"
    if e.head is ops.power:
        return f"{bracketed_text(e.args[0], ATOM)}^{bracketed_text(e.args[1], ATOM)}"
    if e.head is Term.EVERYWHERE:
        ones = f"ones({', '.join(map(str, e.shape))})"
        return ones if uniform(e) == 1 else f"{bracketed_text(first(e), PRODUCT)} * {ones}"
    if e.head is Term.BRACKET:
        return f"[{text_of(e.args[0])} {e['sign']} {text_of(e.args[1])}]"
    if e.head is Term.FIRST:
        return f"[{text_of(first(e))} is the first {e['which']}{over(e['axes'], first(e))}]"
    if e.head is Term.NORMAL:
        return f"{e['which']}({text_of(first(e))})"
    if e.head is Term.REDUCED:
        name = e["op"].name
        inner = text_of(first(e))
        if e["keep"]:
            return f"{name}_{letters(e['axes'])}({inner})"
        if len(e["axes"]) == len(first(e).shape):
            return f"{name}({inner})"
        return f"{name}({inner}, axis={literal(e['axes'] if len(e['axes']) > 1 else e['axes'][0])})"
    if e.head is ops.clip:
        low, high = ends_of_clip(e)
        return f"clip({text_of(first(e))}, {plain(low)}, {plain(high)})"
    if e.head is ops.getitem and (index := plain_index(e["index"])):
        return f"{bracketed_text(first(e), ATOM)}[{index}]"
    attrs = [f"{key}={literal(value)}" for key, value in e.attrs]
    return f"{NAMES.get(e.head) or e.head.name}({', '.join([*map(text_of, e.args), *attrs])})"


def product_text(e: Expr) -> str:
    num, den, above, below = split(e)
    if len(e.args) == 1 and (num, den) == (1, 1) and e["powers"][0] > 0:
        return f"{bracketed_text(e.args[0], ATOM)}^{plain(e['powers'][0])}"
    sign, num = ("-", -num) if num < 0 else ("", num)
    parts = [bracketed_text(base, MATMUL if i == 0 else POWER) for i, base in enumerate(above)]
    top = " * ".join(parts)
    if num != 1 or not parts:
        top = f"{plain(num)} {top}" if parts else plain(num)
    under = " * ".join(bracketed_text(base, POWER) for base in below)
    if den != 1:
        under = f"{plain(den)} {under}" if below else plain(den)
    if not under:
        return sign + top
    return f"{sign}{top} / {under if len(below) + (den != 1) == 1 else f'({under})'}"


def bracketed_text(e: Expr, level: int) -> str:
    """Add brackets if the precedence requires it."""
    return text_of(e) if level_of(e) >= level else f"({text_of(e)})"


def ends_of_clip(e: Expr) -> tuple[float, float]:
    """The bounds of clip; infinity for a missing one."""
    return (-math.inf if e["low"] is None else e["low"]), (math.inf if e["high"] is None else e["high"])


def plain(x: float) -> str:
    return f"{x:.12g}"


def letters(axes: Sequence[int]) -> str:
    return "".join(LETTERS[a] if a < len(LETTERS) else f"a{a}" for a in axes)


def over(axes: Sequence[int], e: Expr) -> str:
    return "" if len(axes) == len(e.shape) else f" over {letters(axes)}"


def plain_index(index: Any) -> str:
    """An index of numbers and slices as in code; "" for others."""
    parts = []
    for i in index if isinstance(index, tuple) else (index,):
        if isinstance(i, slice) and all(isinstance(x, (int, type(None))) for x in (i.start, i.stop, i.step)):
            ends = [x for x in (i.start, i.stop)]
            parts.append(":".join("" if x is None else str(x) for x in ends) + ("" if i.step is None else f":{i.step}"))
        elif type(i) is int or i is None or i is ...:
            parts.append("..." if i is ... else str(i))
        else:
            return ""
    return ", ".join(parts)


def is_trivial(e: Expr) -> bool:
    """Whether a reduction is over a single element, and need not be written."""
    return e.head is Term.REDUCED and set(first(e).shape) == {1} and not e.shape and e["op"] is not ops.norm
