"""Writes formulas as LaTeX."""

from __future__ import annotations

import re

from tensorgrad import ops
from tensorgrad.core.graph import literal
from tensorgrad.core.signature import Shape
from tensorgrad.draw.algebra import uniform
from tensorgrad.draw.expression import Expr, Head, Term, first
from tensorgrad.draw.notation import (
    ATOM,
    MATMUL,
    POWER,
    PRODUCT,
    UNARY,
    ends_of_clip,
    letters,
    level_of,
    plain_index,
    split,
    top_level,
)

GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Xi",
    "Pi",
    "Sigma",
    "Upsilon",
    "Phi",
    "Psi",
    "Omega",
]
SIGNS = {">=": r"\ge", "<=": r"\le", "==": "=", "!=": r"\ne"}
OPERATORS: dict[Head, str] = {
    **{op: f"\\{op.name}" for op in (ops.exp, ops.log, ops.sin, ops.cos, ops.tan, ops.tanh, ops.sinh, ops.cosh)},
    ops.maximum: r"\max",
    ops.minimum: r"\min",
    ops.sigmoid: r"\sigma",
}
NORMAL = {"Phi": r"\Phi", "phi": r"\varphi"}
REDUCTIONS = {"sum": r"\sum", "max": r"\max", "min": r"\min"}


def latex(e: Expr) -> str:
    """The formula as LaTeX; a constant array is written as a number."""
    return latex_of(top_level(e))


def latex_of(e: Expr) -> str:
    if e.head is Term.NAME:
        return latex_name(str(e.args[0].title))
    if e.head is Term.PRODUCT:
        return product_latex(e)
    if e.head is Term.TOTAL:
        parts = [bracketed_latex(e.args[0], UNARY)]
        for term in e.args[1:]:
            term_latex = bracketed_latex(term, UNARY)
            parts.append(f" - {term_latex[1:]}" if term_latex.startswith("-") else f" + {term_latex}")
        return "".join(parts)
    if e.head is Term.MATMUL:
        return r" \, ".join(bracketed_latex(a, POWER) for a in e.args)
    if e.head is Term.TRANSPOSED:
        return f"{bracketed_latex(first(e), ATOM)}^{{\\top}}"
    if e.head is ops.power:
        return f"{bracketed_latex(e.args[0], ATOM)}^{{{latex_of(e.args[1])}}}"
    if e.head is Term.EVERYWHERE:
        ones = rf"\mathbf{{1}}_{{{times(e.shape)}}}"
        return ones if uniform(e) == 1 else f"{bracketed_latex(first(e), PRODUCT)} \\, {ones}"
    if e.head is Term.BRACKET:
        sign = SIGNS.get(e["sign"], e["sign"])
        return rf"\left[{latex_of(e.args[0])} {sign} {latex_of(e.args[1])}\right]"
    if e.head is Term.FIRST:
        over = "" if len(e["axes"]) == len(first(e).shape) else rf"\ \mathrm{{over}}\ {letters(e['axes'])}"
        words = rf"\ \mathrm{{is\ the\ first\ {e['which']}}}"
        return rf"\left[{latex_of(first(e))}{words}{over}\right]"
    if e.head is Term.NORMAL:
        return rf"{NORMAL[e['which']]}\left({latex_of(first(e))}\right)"
    if e.head is Term.REDUCED:
        return reduced_latex(e)
    if e.head is ops.sqrt:
        return rf"\sqrt{{{latex_of(first(e))}}}"
    if e.head is ops.abs:
        return rf"\left|{latex_of(first(e))}\right|"
    if e.head is ops.exp and level_of(first(e)) >= UNARY and first(e).size <= 6 and r"\frac" not in latex_of(first(e)):
        return f"e^{{{latex_of(first(e))}}}"
    if e.head is ops.one_hot:
        return rf"\operatorname{{onehot}}\left({latex_of(first(e))}\right)"
    if e.head is ops.clip:
        ends = ", ".join(map(latex_number, ends_of_clip(e)))
        return rf"\operatorname{{clip}}\left({latex_of(first(e))}, {ends}\right)"
    if e.head is ops.getitem and (index := plain_index(e["index"])):
        return f"{bracketed_latex(first(e), ATOM)}_{{[{index}]}}"
    if e.head is ops.einsum and (summed := einsum_latex(e)):
        return summed
    attrs = "; ".join(f"{upright(key)} = {attribute(value)}" for key, value in e.attrs)
    called = OPERATORS.get(e.head) or rf"\operatorname{{{escaped(e.head.name)}}}"
    return rf"{called}\left({', '.join(map(latex_of, e.args))}{'; ' if attrs else ''}{attrs}\right)"


def product_latex(e: Expr) -> str:
    num, den, above, below = split(e)
    if len(e.args) == 1 and (num, den) == (1, 1) and e["powers"][0] > 0:
        return f"{bracketed_latex(e.args[0], ATOM)}^{{{latex_number(e['powers'][0])}}}"
    sign, num = ("-", -num) if num < 0 else ("", num)
    line = below or den != 1
    # matrix products and long factors are written beside the fraction
    beside = bool(line) and any(base.head is Term.MATMUL or base.head is Term.REDUCED or base.size > 12 for base in above)
    top = joined(above, alone=bool(line) and not beside and num == 1)
    front = "" if num == 1 else latex_number(num)
    if not line:
        return sign + (f"{front} {dot(front, top)}{top}".strip() if top else front or "1")
    under = joined(below, alone=den == 1)
    under = f"{latex_number(den)} {under}".strip() if den != 1 else under
    if beside:
        return rf"{sign}\frac{{{front or '1'}}}{{{under}}} \, {joined(above, alone=above[0].head is Term.REDUCED)}"
    top = f"{front} {dot(front, top)}{top}".strip() or "1"
    return rf"{sign}\frac{{{top}}}{{{under}}}"


def dot(front: str, rest: str) -> str:
    """A dot between two numbers."""
    return r"\cdot " if front and rest[:1].isdigit() else ""


def joined(bases: list[Expr], alone: bool) -> str:
    """Adjacent factors; a single one on a fraction needs no brackets."""
    if alone and len(bases) == 1:
        return latex_of(bases[0])
    out = ""
    if len(bases) == 1 and bases[0].head is Term.REDUCED:
        return bracketed_latex(bases[0], PRODUCT)
    for i, base in enumerate(bases):
        if i:
            out += r" \odot " if base.shape and bases[i - 1].shape else r" \, "
        out += bracketed_latex(base, MATMUL if i == 0 else POWER)
    return out


def reduced_latex(e: Expr) -> str:
    name = e["op"].name
    inner = first(e)
    index = "" if len(e["axes"]) == len(inner.shape) and not e["keep"] else f"_{{{letters(e['axes'])}}}"
    if name == "norm":
        return rf"\left\Vert {latex_of(inner)} \right\Vert{index}"
    if name == "sum":
        return rf"\sum{index} {bracketed_latex(inner, PRODUCT)}"
    called = REDUCTIONS.get(name) or rf"\operatorname{{{escaped(name)}}}"
    return rf"{called}{index}\left({latex_of(inner)}\right)"


def einsum_latex(e: Expr) -> str:
    """sum_j A_ij B_jk, for a product of names."""
    left, _, right = e["subscripts"].partition("->")
    terms = left.split(",")
    if len(terms) != len(e.args) or any("..." in t for t in (*terms, right)):
        return ""
    inner = r" \, ".join(
        f"{bracketed_latex(a, ATOM)}_{{{t}}}" if a.shape else bracketed_latex(a, ATOM)
        for a, t in zip(e.args, terms, strict=True)
    )
    over = "".join(dict.fromkeys(c for c in left if c not in right and c != ","))
    front = rf"\sum_{{{over}}} " if over else ""
    return rf"\left[{front}{inner}\right]_{{{right}}}"


def bracketed_latex(e: Expr, level: int) -> str:
    inner = latex_of(e)
    own_level = level_of(e)
    if own_level == PRODUCT and inner.startswith(r"\frac") and r"} \, " not in inner and level <= MATMUL:
        return inner  # a fraction needs no brackets
    if own_level == ATOM and inner.startswith(r"\sum") and level > PRODUCT:
        own_level = PRODUCT
    return inner if own_level >= level else rf"\left({inner}\right)"


def times(shape: Shape) -> str:
    return r" \times ".join(map(str, shape))


def latex_number(value: float) -> str:
    """1.5, 2 \\cdot 10^{-7}, -\\infty."""
    digits, e, exponent = f"{value:.12g}".replace("inf", r"\infty").replace("nan", r"\mathrm{nan}").partition("e")
    power = f"10^{{{int(exponent)}}}" if e else ""
    return {"1": power, "-1": f"-{power}"}.get(digits, rf"{digits} \cdot {power}") if e else digits


def attribute(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return latex_number(value)
    return upright(literal(value))


# braces, so that a name cannot end the script of a page
MARKS = {"\\": r"{\backslash}", "^": r"{\wedge}", "~": r"{\sim}", "<": "{<}", ">": "{>}"}


def escaped(name: str) -> str:
    return "".join(f"\\{c}" if c in "#$%&_{}" else MARKS.get(c, c) for c in name)


def upright(name: str) -> str:
    return f"\\mathrm{{{escaped(name)}}}"


def latex_name(name: str) -> str:
    """W1 as W_{1}, theta as \\theta, W_in as W_{in}, fc1.weight upright, dL/dW1 as a fraction of partial derivatives."""
    if match := re.fullmatch(r"d(.+?)/d(.+)", name):
        return rf"\frac{{\partial {latex_name(match[1])}}}{{\partial {latex_name(match[2])}}}"
    if match := re.fullmatch(r"([A-Za-z]+?)(hat)?(?:_?(\d+)|_([A-Za-z]+))?('*)", name):
        letter, hat, digits, word, primes = match.groups()
        if len(letter) == 1 or letter in GREEK:
            sign = f"\\{letter}" if letter in GREEK else letter
            sign = rf"\hat{{{sign}}}" if hat else sign
            below = digits or (word if word and len(word) == 1 else word and upright(word))
            return sign + (f"_{{{below}}}" if below else "") + primes
    if re.search(r"[-+*/\[(]", name) and re.fullmatch(r"[\w\s.,:*/()\[\]+-]+", name) and not re.match(r"\d+\.", name):
        parts = re.split(r"([A-Za-z_][\w.]*)", name)  # a name that is an expression
        return "".join(latex_name(p) if i % 2 else escaped(p.replace("*", r"")) for i, p in enumerate(parts))
    return upright(name)
