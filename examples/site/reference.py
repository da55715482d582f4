"""The API reference: a page for each public module, with every public name, made of signatures and docstrings.

Docstrings of the package are plain text: paragraphs, columns of arguments, formulas. `to_rst` turns them into reStructuredText
that looks the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import tensorgrad
from tensorgrad.op import Op

# Every public module, with the title of its page. tests/test_site.py holds the list against the package
MODULES = {
    "tensorgrad": "Tensors, gradients, compiling",
    "tensorgrad.ops": "Operations",
    "tensorgrad.nn": "Layers and losses",
    "tensorgrad.nn.functional": "Functions of networks",
    "tensorgrad.nn.init": "Initial values",
    "tensorgrad.optim": "Optimisers and schedules",
    "tensorgrad.train": "Training",
    "tensorgrad.train.metrics": "Metrics",
    "tensorgrad.models": "Models and estimators",
    "tensorgrad.data": "Data",
    "tensorgrad.draw": "Drawing",
    "tensorgrad.testing": "Checking gradients",
    "tensorgrad.testing.strategies": "Hypothesis strategies",
    "tensorgrad.func": "Transforms of functions",
    "tensorgrad.distributed": "Several processes",
    "tensorgrad.onnx": "ONNX",
    "tensorgrad.interop": "PyTorch",
    "tensorgrad.op": "Defining operations",
    "tensorgrad.graph": "Graphs",
    "tensorgrad.fusion": "Fusion",
    "tensorgrad.errors": "Errors",
}
RULES = ("forward", "backward", "tangent")
COLUMNS = re.compile(r"^(\S(?:.*?\S)??) {2,}(\S.*)$")
SHORT = 84  # characters: a line that ends before was ended on purpose


def public(module: ModuleType) -> list[str]:
    """The names a module offers: its `__all__`, or without one what it defines itself."""
    if hasattr(module, "__all__"):
        names = list(module.__all__)
    else:
        names = [
            n for n, it in vars(module).items() if not n.startswith("_") and getattr(it, "__module__", "") == module.__name__
        ]
    if module is tensorgrad:  # operations have a page of their own
        names = [name for name in names if name not in tensorgrad.ops.__all__]
    return sorted((n for n in names if not isinstance(getattr(module, n), ModuleType)), key=str.lower)


def escaped(text: str) -> str:
    """Text without markup of reStructuredText; `code` becomes a literal."""
    parts = re.split(r"`([^`\n]+)`", text)
    plain = [re.sub(r"([\\*_|`])", r"\\\1", part) for part in parts[::2]]
    literals = [f"\\ ``{part.strip()}``\\ " for part in parts[1::2]]
    return "".join(a + b for a, b in zip(plain, [*literals, ""], strict=True))


def literal(lines: list[str]) -> list[str]:
    return ["::", "", *("    " + line for line in lines), ""]


def table(lines: list[str]) -> list[str]:
    """A table with bars between its columns and a line of dashes below its head."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in (lines[0], *lines[2:])]
    found = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        found += [f"   {'-' if i else '* -'} {escaped(cell)}".replace("   - ", "     - ") for i, cell in enumerate(row)]
    return [*found, ""]


def arguments(lines: list[str]) -> list[str] | None:
    """Columns, names left and what they are right, as a list of definitions; None for other lines."""
    entries: list[tuple[str, list[str]]] = []
    for line in lines:
        match = COLUMNS.match(line)
        if match and not match[1].startswith("- ") and len(match[1]) < 40:
            entries.append((match[1], [match[2]]))
        elif entries and line.startswith("  "):
            entries[-1][1].append(line.strip())
        else:
            return None
    if not entries or entries[0][0] in RULES or any(" = " in name for name, _ in entries):
        return None
    found = [".. rst-class:: arguments", ""]
    for name, text in entries:
        found += [escaped(name), *("    " + line for line in paragraph(text)), ""]
    return found


def paragraph(lines: list[str]) -> list[str]:
    """Lines that flow; where one was ended early, each stays a line."""
    if any(len(line) < SHORT for line in lines[:-1]) and len(lines) > 1 and any("=" in line for line in lines):
        return ["| " + escaped(line) for line in lines]
    return escaped("\n".join(lines)).split("\n")


def to_rst(doc: str) -> list[str]:
    """A docstring as lines of reStructuredText."""
    if re.search(r"^ *-{4,}$", doc, re.MULTILINE):  # scikit-learn's, in another form
        doc = doc.strip().split("\n\n")[0]
    found: list[str] = []
    is_code = False  # of the block before: it ended in "::"
    for text in re.split(r"\n\s*\n", doc.strip("\n")):
        lines = text.split("\n")
        if is_code and all(line.startswith("    ") for line in lines):
            found += [*lines, ""]
            continue
        if is_code:
            found.append("")
        is_code = False
        if text.rstrip().endswith("::"):
            is_code = True
            head = escaped(text.rstrip()[:-2].rstrip())
            found += [*(head + ":" if head else "").split("\n"), "", ".. code-block:: python", ""]
        elif lines[0].startswith("- "):
            items = re.split(r"\n(?=- )", text)
            found += [line for item in items for line in "- {}".format(escaped(re.sub(r"\s*\n\s*", " ", item[2:]))).split("\n")]
            found.append("")
        elif all(line.startswith("|") for line in lines) and len(lines) > 2:
            found += table(lines)
        elif columns := arguments(lines):
            found += columns
        elif any(line.startswith((" ", "|", *(rule + " " for rule in RULES))) or "   " in line for line in lines):
            found += literal(lines)
        else:
            found += [*paragraph(lines), ""]
    return found


class Plain:
    """An annotation as it is written, without the quotes of a string."""

    def __new__(cls, annotation: Any) -> Any:
        return super().__new__(cls) if isinstance(annotation, str) else annotation

    def __init__(self, annotation: str) -> None:
        self.text = annotation

    def __repr__(self) -> str:
        return self.text


def signature(thing: Any) -> str:
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    if isinstance(thing, type) and issubclass(thing, BaseException):
        return ""
    parameters = [p.replace(annotation=Plain(p.annotation)) for p in found.parameters.values() if p.name != "self"]
    result = inspect.Signature.empty if isinstance(thing, type) else Plain(found.return_annotation)
    text = str(inspect.Signature(parameters, return_annotation=result))
    return re.sub(r"<(?:function|class|op|object|built-in function) '?([\w.]+).*?>", r"\1", text)


def entry(kind: str, name: str, call: str, doc: str | None, indent: str, options: tuple[str, ...] = ()) -> list[str]:
    body = to_rst(inspect.cleandoc(doc)) if doc else []
    inner = [f":{option}:" for option in options] + [""] + body
    return [f"{indent}.. py:{kind}:: {name}{call}", *((f"{indent}   {line}" if line else "") for line in inner), ""]


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines; of a Tensor also those that it is given."""
    for name, member in sorted(vars(cls).items()):
        if not name.startswith("_") and (
            inspect.isroutine(member) or isinstance(member, (property, classmethod, staticmethod))
        ):
            yield name, member


def documented(full: str, thing: Any) -> list[str]:
    """The entry of one public name."""
    if type(thing).__module__ in ("typing", "types") and (thing is Any or not isinstance(thing, type)):
        written = re.sub(r"~|\b(?:\w+\.)+(?=\w)", "", str(thing))
        return entry("data", full, "", f"A type for annotations: `{written}`", "")
    if isinstance(thing, Op):
        return entry("function", full, signature(thing), type(thing).__doc__, "")
    if isinstance(thing, type):
        kind = "exception" if issubclass(thing, BaseException) else "class"
        own = thing.__doc__ if "__doc__" in vars(thing) else None
        lines = entry(kind, full, signature(thing), own, "")
        for name, member in members(thing):
            target = getattr(member, "__func__", member)
            if thing is tensorgrad.Tensor and name in tensorgrad.ops.__all__ and name not in ("reshape", "transpose"):
                lines += [f"   .. py:method:: {name}{signature(member)}", "", f"      As :py:func:`tensorgrad.{name}`.", ""]
            elif isinstance(member, property):
                lines += entry("property", name, "", member.__doc__, "   ")
            elif target.__doc__:  # what says nothing of its own does what its base says
                option = ("classmethod",) if isinstance(member, classmethod) else ()
                option = ("staticmethod",) if isinstance(member, staticmethod) else option
                lines += entry("method", name, signature(target), inspect.getdoc(target), "   ", option)
        return lines
    if callable(thing):
        return entry("function", full, signature(thing), inspect.getdoc(thing), "")
    own = type(thing).__module__ != "builtins" and not type(thing).__module__.startswith("typing")
    return entry("data", full, "", type(thing).__doc__ if own else None, "")


def titled(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


def page(name: str) -> str:
    """The page of a module, in reStructuredText."""
    module = import_module(name)
    lines = titled(f"{MODULES[name]}: {name}", "=")
    # the entries have their full names
    lines += [f".. py:module:: {name}", ".. py:currentmodule:: None", "", *to_rst(inspect.cleandoc(module.__doc__ or ""))]
    if name == "tensorgrad.ops":
        lines += ["Each is a function of ``tensorgrad``; most are methods of a Tensor, too.", ""]
        for family, names in families().items():
            links = " ".join(f":py:obj:`{own} <tensorgrad.{own}>`" for own in names)
            lines += [*titled(family, "-"), ".. rst-class:: names", "", links, ""]
            for own in names:
                lines += documented(f"tensorgrad.{own}", getattr(tensorgrad, own))
        return "\n".join(lines)
    names = [f":py:obj:`{own} <{name}.{own}>`" for own in public(module)]
    lines += [".. rst-class:: names", "", " ".join(names), ""]
    for own in public(module):
        thing = getattr(module, own)
        if isinstance(thing, Op) and own in tensorgrad.ops.__all__:
            same = f"   The same operation as :py:func:`tensorgrad.{own}`."
            lines += [f".. py:function:: {name}.{own}{signature(thing)}", "", same, ""]
        else:
            lines += documented(f"{name}.{own}", thing)
    return "\n".join(lines)


def families() -> dict[str, list[str]]:
    """The operations, by the first sentence of the file that defines them."""
    found: dict[str, list[str]] = {}
    for name in sorted(tensorgrad.ops.__all__, key=str.lower):
        thing = getattr(tensorgrad.ops, name)
        module = import_module(type(thing).__module__ if isinstance(thing, Op) else thing.__module__)
        title = re.split(r"[:.;(]| of \(", (module.__doc__ or module.__name__).strip())[0]
        found.setdefault(title, []).append(name)
    return dict(sorted(found.items()))


def pages() -> dict[str, str]:
    """The text of each page, by its file."""
    index = [*titled("API reference", "="), "Every public name, by the module to import it from.", ""]
    index += [".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in MODULES), ""]
    return {"index.rst": "\n".join(index), **{f"{name}.rst": page(name) for name in MODULES}}


def listed(text: str) -> list[str]:
    """The names that a page has an entry for, but for methods."""
    return re.findall(r"^\.\. py:(?:function|class|exception|data):: ([\w.]+)", text, re.MULTILINE)
