"""Formulas as text and as LaTeX."""

from __future__ import annotations

import re

from tensorgrad import ops
from tensorgrad.core.graph import literal
from tensorgrad.draw.expression import Expr, Head, Term

SUM, PRODUCT, UNARY, MATMUL, POWER, ATOM = range(6)  # how tightly an expression holds together

INFIX: dict[Head, tuple[str, int]] = {
    ops.add: (" + ", SUM),
    ops.sub: (" - ", SUM),
    ops.mul: (" * ", PRODUCT),
    ops.div: (" / ", PRODUCT),
}
RELATIONS: dict[Head, str] = {
    ops.greater: ">",
    ops.greater_equal: ">=",
    ops.less: "<",
    ops.less_equal: "<=",
    ops.equal: "==",
    ops.not_equal: "!=",
}
LEVELS: dict[Head, int] = {
    **{op: level for op, (_, level) in INFIX.items()},
    ops.neg: UNARY,
    ops.matmul: MATMUL,
    ops.power: POWER,
    Term.TRANSPOSED: POWER,
}
CALLED: dict[Head, str] = {ops.maximum: "max", ops.minimum: "min", ops.max: "amax", ops.min: "amin"}  # others by their names
LATEX: dict[Head, str] = {
    **{op: f"\\{op.name}" for op in (ops.exp, ops.log, ops.sin, ops.cos, ops.tan, ops.tanh, ops.max, ops.min)},
    ops.maximum: "\\max",
    ops.minimum: "\\min",
}


def level_of(e: Expr) -> int:
    if e.head is Term.NUMBER:
        return ATOM if e.args[0] >= 0 else UNARY
    return LEVELS.get(e.head, ATOM)


def text(e: Expr) -> str:
    """The formula in one line."""
    if e.head is Term.NAME:
        return str(e.args[0])
    if e.head is Term.NUMBER:
        return f"{e.args[0]:.12g}"
    if e.head in INFIX:
        sign, level = INFIX[e.head]
        left = held(e.args[0], level)
        return left + sign + held(e.args[1], level + 1)
    if e.head is ops.neg:
        return "-" + held(e.args[0], MATMUL)
    if e.head is ops.matmul:
        return f"{held(e.args[0], POWER)} {held(e.args[1], POWER)}"
    if e.head is Term.TRANSPOSED:
        return f"{held(e.args[0], ATOM)}^T"
    if e.head is ops.power:
        return f"{held(e.args[0], ATOM)}^{held(e.args[1], ATOM)}"
    if e.head in RELATIONS:
        return f"[{text(e.args[0])} {RELATIONS[e.head]} {text(e.args[1])}]"
    if e.head is Term.FULL:
        value = e.args[0]
        ones = f"ones{e.shape if len(e.shape) != 1 else f'({e.shape[0]})'}"
        return ones if value == 1 else f"({value:.12g} * {ones})"
    attrs = [f"{key}={literal(value)}" for key, value in e.attrs if not (e.head is ops.softmax and value == -1)]
    return f"{CALLED.get(e.head) or e.head.name}({', '.join([*map(text, e.args), *attrs])})"


def held(e: Expr, level: int) -> str:
    """In brackets where it would fall apart."""
    return text(e) if level_of(e) >= level else f"({text(e)})"


def latex(e: Expr) -> str:
    """The formula as LaTeX."""
    if e.head is Term.NAME:
        return latex_name(str(e.args[0]))
    if e.head is Term.NUMBER:
        return latex_number(e.args[0])
    if e.head is ops.div:
        return f"\\frac{{{latex(e.args[0])}}}{{{latex(e.args[1])}}}"
    if e.head in INFIX:
        sign, level = INFIX[e.head]
        if e.head is ops.mul:
            sign = " \\odot " if e.args[0].shape and e.args[1].shape else " \\, "
        return latex_held(e.args[0], level) + sign + latex_held(e.args[1], level + 1)
    if e.head is ops.neg:
        return "-" + latex_held(e.args[0], MATMUL)
    if e.head is ops.matmul:
        return f"{latex_held(e.args[0], POWER)} \\, {latex_held(e.args[1], POWER)}"
    if e.head is Term.TRANSPOSED:
        return f"{latex_held(e.args[0], ATOM)}^{{\\top}}"
    if e.head is ops.power:
        return f"{latex_held(e.args[0], ATOM)}^{{{latex(e.args[1])}}}"
    if e.head in RELATIONS:
        sign = {">=": "\\ge", "<=": "\\le", "==": "=", "!=": "\\ne"}.get(RELATIONS[e.head], RELATIONS[e.head])
        return f"\\left[{latex(e.args[0])} {sign} {latex(e.args[1])}\\right]"
    if e.head is Term.FULL:
        value = e.args[0]
        return "\\mathbf{1}" if value == 1 else f"{latex_number(value)} \\cdot \\mathbf{{1}}"
    if e.head is ops.sum:
        axis = dict(e.attrs).get("axis")
        return f"\\sum{'' if axis is None else f'_{{{axis}}}'} {latex_held(e.args[0], MATMUL)}"
    if e.head is ops.sqrt:
        return f"\\sqrt{{{latex(e.args[0])}}}"
    called = LATEX.get(e.head) or f"\\operatorname{{{e.head.name.replace('_', chr(92) + '_')}}}"
    return f"{called}\\left({', '.join(map(latex, e.args))}\\right)"


def latex_held(e: Expr, level: int) -> str:
    inner = latex(e)
    return inner if level_of(e) >= level or e.head is ops.div else f"\\left({inner}\\right)"


def latex_number(value: float) -> str:
    """1.5, 2 \\cdot 10^{-7}, -\\infty."""
    digits, e, exponent = f"{value:.12g}".replace("inf", r"\infty").partition("e")
    power = f"10^{{{int(exponent)}}}" if e else ""
    return {"1": power, "-1": f"-{power}"}.get(digits, rf"{digits} \cdot {power}") if e else digits


# in braces, so that a name ends no script of the page that it stands in
SIGNS = {"\\": r"{\backslash}", "^": r"{\wedge}", "~": r"{\sim}", "<": "{<}", ">": "{>}"}


def latex_name(name: str) -> str:
    """W1 as W_{1}, fc1.weight upright, dL/dW1 as a fraction of partial derivatives."""
    if match := re.fullmatch(r"d(.+?)/d(.+)", name):
        return f"\\frac{{\\partial {latex_name(match[1])}}}{{\\partial {latex_name(match[2])}}}"
    if match := re.fullmatch(r"([A-Za-z])(\d*)('*)", name):
        return match[1] + (f"_{{{match[2]}}}" if match[2] else "") + match[3]
    escaped = "".join(f"\\{c}" if c in "#$%&_{}" else SIGNS.get(c, c) for c in name)
    return f"\\mathrm{{{escaped}}}"
