"""Expressions for unrecorded results, for drawings: "x[3]", "1 - t", "2 x + 1"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorgrad.core.op import Op

MAX_LENGTH = 40  # maximum characters; longer ones are reduced to the first name
SIGNS = {"+": "+", "-": "-", "×": "*", "÷": "/", "**": "**", "@": "@"}  # symbol of an op to its Python operator


class Expression(str):
    """An expression, and the name it begins with."""

    __slots__ = ("base",)
    base: str

    def __new__(cls, text: str, base: str) -> Expression:
        expression = super().__new__(cls, text if len(text) <= MAX_LENGTH else f"…({base[:MAX_LENGTH]})")
        expression.base = base
        return expression


def made_of(op: Op, args: Sequence[Any], attrs: Mapping[str, Any]) -> str:
    """The expression for a result of `op`; "" if no argument has a name."""
    texts = [text_of(a) for a in args]
    first = next((t for a, t in zip(args, texts, strict=True) if hasattr(a, "made_of") and t != "…"), "")
    if not first:
        return ""
    symbol = op.symbol
    if symbol in SIGNS and len(texts) == 2 and not attrs:  # einsum needs more than its symbol
        text = f" {SIGNS[symbol]} ".join(bracketed(t) if symbol != "+" else t for t in texts)
        if symbol == "×" and isinstance(args[0], (int, float)):
            text = " ".join(bracketed(t) for t in texts)
        elif symbol == "-":
            text = f"{texts[0]} - {bracketed(texts[1])}"
    elif op.moves and "shape" in attrs:  # the shape is shown anyway
        text = first
    elif symbol == "-":
        text = f"-{bracketed(first)}"
    elif op.moves and "index" in attrs:
        text = f"{bracketed(first)}[{index_text(attrs['index'])}]"
    else:
        options = [f"{key}={value}" for key, value in attrs.items() if type(value) in (int, float, bool, str, tuple)]
        text = f"{op.name}({', '.join([*texts, *options])})"
    return Expression(text, getattr(first, "base", first))


def text_of(a: Any) -> str:
    if isinstance(a, (int, float)):
        return f"{a:g}"
    return getattr(a, "name", "") or getattr(a, "made_of", "") or "…"


def bracketed(text: str) -> str:
    return f"({text})" if " " in text and not text.endswith(")") else text


def index_text(index: Any) -> str:
    """The text between the brackets: "3", ":, 2:4"; a large index array as its shape."""
    parts = index if isinstance(index, tuple) else (index,)
    return ", ".join(map(index_part, parts))


def index_part(part: Any) -> str:
    if isinstance(part, slice):
        ends = ["" if end is None else str(end) for end in (part.start, part.stop)]
        return ":".join(ends if part.step is None else [*ends, str(part.step)])
    if part is Ellipsis:
        return "..."
    if hasattr(part, "shape") and part.shape:
        text = "[" + ", ".join(map(str, part.ravel()[:8].tolist())) + "]" if part.ndim == 1 and part.size <= 8 else ""
        return text or f"{part.dtype} {'×'.join(map(str, part.shape))}"
    return str(part)
