"""Texts in boxes: names, ordered operands, attributes, arguments of modules and functions, shapes."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from tensorgrad.core.backend import dtype_name
from tensorgrad.core.naming import index_text
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.scope import ArgumentInfo, Called
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor

# Infix operators
BETWEEN = {
    "add": "+", "sub": "−", "mul": "×", "div": "÷", "matmul": "@", "sparse_matmul": "@", "power": "^", "floordiv": "//",
    "mod": "mod", "greater": ">", "greater_equal": "≥", "less": "<", "less_equal": "≤", "equal": "=", "not_equal": "≠",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^",
}  # fmt: skip
TITLES = {"sum": "Σ", "sum_to": "Σ", "neg": "negate −", "getitem": "", "transpose": "transpose", "square": "square ²"}
COMMUTE = frozenset(
    [
        "add",
        "mul",
        "equal",
        "not_equal",
        "logical_and",
        "logical_or",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "logaddexp",
        "hypot",
        "maximum",
        "minimum",
    ]
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LONGEST = 46  # maximum characters of a line
WIDTH = 36  # and of a line of a formula, if it can be broken


def commutes(op: Op) -> bool:
    """Whether the order of its operands does not matter."""
    return op.name in COMMUTE


def number(x: Any) -> str:
    """A number in its shortest distinctive form."""
    if isinstance(x, (bool, np.bool_)):
        return str(bool(x))
    if isinstance(x, (int, np.integer)):
        return str(x).replace("-", "−")
    return f"{float(x):.6g}".replace("-", "−")


def title_of(node: Node, operand: Callable[[int, Any], str]) -> str:
    """An operation with the operands that have no arrow, in their order.

    operand   returns the text for an argument that is not a number: its name if it has no arrow, its letter if the order
              matters, else ""
    """
    texts = [operand(i, s) if isinstance(s, (Node, Tensor)) else number(s) for i, s in enumerate(node.inputs)]
    name = node.op.name
    if name in BETWEEN and len(texts) == 2:
        sign = BETWEEN[name]
        left, right = texts
        joined = f"{left}{sign}{right}" if sign == "^" and not (left and right) else f"{left} {sign} {right}"
        return joined.strip()
    words = [TITLES.get(name, node.op.name) or ""]
    operands = [t for t in texts if t]
    if operands:
        words.append(", ".join(operands))
    words += attributes(node)
    return " ".join(word for word in words if word)


def attributes(node: Node) -> list[str]:
    """The attributes of an operation."""
    attrs, name = node.attrs, node.op.name
    if name in ("getitem", "put", "setitem", "assign") and "index" in attrs:
        rest = {key: value for key, value in attrs.items() if key != "index"}
        return [f"[{index(attrs['index'])}]" + ("=" if name != "getitem" else ""), *pairs(rest)]
    if name == "clip" and set(attrs) == {"low", "high"}:
        low, high = (number(attrs[key]) if attrs[key] is not None else "" for key in ("low", "high"))
        return [f"{low} … {high}" if low and high else f"≥ {low}" if low else f"≤ {high}"]
    if name == "transpose":
        axes = attrs.get("axes")
        if axes is None or tuple(axes) == tuple(range(len(axes)))[::-1]:
            return ["ᵀ"]
    if name in ("reshape", "broadcast_to", "sum_to") and len(attrs) == 1:
        return []  # visible in the result
    return pairs(attrs)


def pairs(attrs: Mapping[str, Any]) -> list[str]:
    """Names and values; False is left out, True is shown as the name."""
    texts = []
    for key, value in attrs.items():
        if value is None or value is False:
            continue
        if key in ("shape", "axes", "dtype", "subscripts"):
            texts.append(short(value))
            continue
        texts.append(key if value is True else f"{key} {short(value)}")
    return texts


def index(value: Any) -> str:
    """An index as in code; a large index array as its shape, with a digest."""
    parts = value if isinstance(value, tuple) else (value,)
    texts = []
    for part in parts:
        text = index_text(part)
        if isinstance(part, (np.ndarray, list)) and np.size(part) > 8:
            text += f" #{digest(part)}"
        texts.append(text)
    return ", ".join(texts)


def short(value: Any) -> str:
    """A short distinctive text for a value."""
    if isinstance(value, (bool, int, float, np.bool_, np.number)):
        return number(value)
    if isinstance(value, np.dtype):
        return str(value)
    if isinstance(value, type) and issubclass(value, np.generic):
        return value.__name__
    if isinstance(value, (tuple, list)) and len(value) == 1 and not isinstance(value[0], (tuple, list)):
        return short(value[0])
    if isinstance(value, (tuple, list)) and all(isinstance(v, (int, np.integer)) for v in value) and len(value) <= 8:
        return " ".join(map(number, value)) if value else "()"
    if isinstance(value, Tensor):
        value = value._data
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        if value.size <= 6:
            return np.array2string(np.asarray(value), separator=", ", precision=4).replace("\n", "")
        return f"{'×'.join(map(str, value.shape))} {value.dtype} #{digest(value)}"
    if callable(value) and not isinstance(value, (str, bytes)):
        return str(getattr(value, "__name__", type(value).__name__))
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", visible(str(value)))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 6]}… #{digest(text)}"


def digest(value: Any) -> str:
    """A short digest of a long value."""
    content = np.ascontiguousarray(value).tobytes() if not isinstance(value, str) else value.encode()
    return hashlib.sha256(content).hexdigest()[:4]


def arguments_of(call: Called) -> str:
    """The arguments of a function other than arrays: "kernel 3×3, stride 2"; defaults are left out."""
    words = []
    for name, value, default in call.arguments():
        if isinstance(value, ArgumentInfo):
            if name in ("weight", "kernel") and call.name.startswith("conv") and len(value.shape) > 2:
                words.append("kernel " + "×".join(map(str, value.shape[2:])))
            continue
        if value is None or (default is not inspect.Parameter.empty and value == default):
            continue
        name = name.removesuffix("_size")
        words.append(name if value is True else f"{name} {short(value)}")
    return ", ".join(words)


def class_of(module: Any) -> str:
    """A module's class and arguments: "Linear 64→500", "Conv2d 3→4, kernel 3, stride 2"."""
    name = visible(type(module).__name__)
    try:
        detail = visible(module.extra_repr())
    except Exception:  # a user's class, or a module that has lost a parameter
        detail = ""
    detail = re.sub(r"^(\d+), (\d+)(?=,|$)", r"\1→\2", detail) if hasattr(module, "weight") else detail
    detail = re.sub(r"(\w+?)(?:_size|_shape)?=", r"\1 ", detail).replace("'", "")
    detail = re.sub(r"\((\d+), \1\)", r"\1", detail)
    detail = re.sub(r"\((\d+),\)", r"\1", detail)
    detail = detail if len(detail) <= LONGEST else f"{detail[: LONGEST - 1]}…"
    return f"{name} {detail}".strip()


def formula_lines(op: Op, direction: str) -> list[str]:
    """The formula of an op without remarks about shapes, one equation per line."""
    return equations(formula(op, direction))


def equations(formula: str) -> list[str]:
    """The equations of a formula, combining short ones in a line and breaking long ones."""
    lines: list[str] = []
    for line in (line.split("    ")[0].rstrip() for line in formula.splitlines()):
        lines += packed([part.strip().rstrip(",") for part in line.split(",   ")], ",   ")
    return lines


def packed(parts: list[str], comma: str = ", ") -> list[str]:
    """Combine short parts into lines, and break long ones."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + len(comma) <= WIDTH:
            lines[-1] += comma + part
        else:
            lines += textwrap.wrap(part, WIDTH, subsequent_indent="  ", break_long_words=False) if len(part) > WIDTH else [part]
    return lines


def shape_of(value: Any) -> str:
    return "×".join(map(str, value.shape)) or "scalar"


@lru_cache(1024)
def formula(op: Op, direction: str) -> str:
    return op.formula(direction)


def facts_of(value: Node | Tensor) -> dict[str, str]:
    """Facts about a node or a leaf."""
    size = math.prod(value.shape) * np.dtype(value.dtype).itemsize
    facts = {"shape": shape_of(value), "dtype": dtype_name(value.dtype), "bytes": f"{size:,}"}
    if isinstance(value, Node):
        facts["op"] = value.op.name
        facts["module"] = str(value.scope)
        facts["formula"] = formula(value.op, "forward")
        facts["gradient"] = formula(value.op, "backward")
        facts["line"] = value.line
        facts["attributes"] = ", ".join(f"{key}={short(item)}" for key, item in value.attrs.items())
    return {key: text for key, text in facts.items() if text}


def formula_of(fn: Any, direction: str) -> str:
    """The lines of a function's docstring after `direction`, as for an op."""
    text = inspect.cleandoc(fn.__doc__ or "")
    match = re.search(rf"^{direction} +(.*(?:\n +.*)*)", text, re.MULTILINE)
    return "\n".join(line.strip() for line in match[1].splitlines()) if match else ""


def from_to(first: str, last: str) -> str:
    """ "blocks.0…5.weight" for "blocks.0.weight" and "blocks.5.weight"."""
    a, b = first.split("."), last.split(".")
    if len(a) != len(b):
        return f"{first} … {last}"
    return ".".join(x if x == y else f"{x}…{y}" for x, y in zip(a, b, strict=True))


def contents_of(part: Any, limit: int = 4) -> str:
    """The ops in a part, the most frequent first: "50 linear, 50 relu"."""
    count = Counter(node.op.name for node in part.nodes).most_common()
    text = ", ".join(f"{n} {name}" for name, n in count[:limit])
    return text + (f" and {sum(n for _, n in count[limit:])} more" if len(count) > limit else "")


def is_between(node: Node) -> bool:
    """Whether an op is written as an infix operator."""
    return node.op.name in BETWEEN


def operands_of(node: Node) -> list[str]:
    """The letter of each argument of an op: a, b, ..., or as in its formula."""
    n = len(node.inputs)
    letters = [LETTERS[i] if i < len(LETTERS) else str(i) for i in range(n)]
    if is_between(node) or not hasattr(node.op, "forward"):
        return letters
    parameters = list(inspect.signature(node.op.forward).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return (names + letters[len(names) :])[:n] if not any(p.kind is p.VAR_POSITIONAL for p in parameters) else letters
