"""The formulas of ops with a program's names instead of letters."""

from __future__ import annotations

import re

from tensorgrad.core.graph import literal
from tensorgrad.core.node import Node

LETTER = r"[A-Za-z]\w*"


def forward_formula(node: Node, names: list[str], result: str) -> str:
    """ "v2 = x · W1 + b1" for "y  = x W + b"; the original formula if its letters cannot be matched to inputs."""
    formula = first_part(node.op.formula("forward"))
    match = re.match(rf"({LETTER})\s+=", formula)
    if match is None:
        return f"{result} = {node.op.name}({', '.join(names)})" + attributes(node)
    by = {**dict(zip(letters_of(node), names, strict=False)), match[1]: result}
    return re.sub(r"  +=", " =", substituted(formula, by)) + attributes(node)


def backward_formulas(node: Node, names: list[str], result: str) -> list[str]:
    """For each input with a gradient, "∂L/∂W1 gets xᵀ · ∂L/∂v2" for "gW = xᵀ g"; "" if there is none."""
    letters = letters_of(node)
    by = {letter: name for letter, name in zip(letters, names, strict=False)}
    result_match = re.match(rf"({LETTER})\s+=", node.op.formula("forward"))
    if result_match is not None:
        by.setdefault(result_match[1], result)
    by["g"] = f"∂L/∂{result}"
    formulas = []
    for letter in letters:
        match = re.search(rf"[gd]{re.escape(letter)} =\s*(.*?)(?:,\s+[gd]{LETTER} =|\s{{3,}}|$)", node.op.formula("backward"))
        formulas.append(substituted(match[1].strip(), by) if match else "")
    return formulas


def letters_of(node: Node) -> list[str]:
    """The letters of an op's inputs in its formulas, in order: from the gradients, "" for data."""
    letters = re.findall(rf"(?:^|[\s,])[gd]({LETTER}) =", node.op.formula("backward"), re.MULTILINE)
    takes_data = list(node.op.takes_data) or [False] * len(node.inputs)
    remaining = iter(letters)
    return ["" if data else next(remaining, "") for data in takes_data]


def substituted(formula: str, by: dict[str, str]) -> str:
    """Replace letters by names, with a dot between adjacent factors."""
    names = {letter: name for letter, name in by.items() if letter}
    token = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    pattern = rf"(?<![A-Za-z0-9_∂])(?:{token})(?![A-Za-z0-9_])"
    dotted = re.sub(rf"({pattern}[ᵀ²]?) (?={pattern})", r"\1 · ", formula)
    return re.sub(pattern, lambda match: names[match[0]], dotted)


def first_part(formula: str) -> str:
    """The formula without trailing remarks about shapes."""
    return "\n".join(re.split(r"\s{4,}", line)[0].rstrip() for line in formula.splitlines())


def attributes(node: Node) -> str:
    """Axis, shape and the like, in brackets."""
    shown = [f"{key}={literal(value)}" for key, value in node.attrs.items() if value is not None and value is not False]
    return f"    ({', '.join(shown)})" if shown else ""
