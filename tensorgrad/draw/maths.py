"""Typesets names: letters in italics, numbers and the part after an underscore as subscripts."""

from __future__ import annotations

import re
from collections.abc import Iterator

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "upsilon": "υ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ",
    "Theta": "Θ", "Lambda": "Λ", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
}  # fmt: skip
LETTER = "|".join([*sorted(GREEK, key=len, reverse=True), "[A-Za-z]"])
NAME = re.compile(rf"(?<![\w.])({LETTER})(?:_?(\d+)|_([A-Za-z]\w*))?(?![\w.(])")


def pieces(text: str, names: bool = True) -> Iterator[tuple[str, str, str]]:
    """(upright, letter, subscript) for text with names: "W_in 3×4" is ("", "W", "in"), (" 3×4", "", "").

    names  whether it has names
    """
    at = 0
    for match in NAME.finditer(text) if names else ():
        letter, number, word = match.groups()
        yield text[at : match.start()], letter, number or word or ""
        at = match.end()
    if at < len(text) or not text:
        yield text[at:], "", ""
