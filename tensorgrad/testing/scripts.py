"""Python code that reproduces a fault of an op, including its import."""

from __future__ import annotations

import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np

from tensorgrad.core.backend import is_floating
from tensorgrad.core.graph import literal
from tensorgrad.core.op import Op
from tensorgrad.testing.check import check_op


def script(op: Op, args: tuple[Any, ...], attrs: Mapping[str, Any], order: int) -> str:
    """A script that checks one failing call of an op; it runs in any folder."""
    finding = check_op(op, args, attrs, order=order).failed[0]
    names = [p.name for p in inspect.signature(op.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    names = [*names, *[f"x{i}" for i in range(len(names), len(args))]]
    named = list(zip(names, args, strict=False))
    checked = [name for i, (name, a) in enumerate(named) if is_floating(np.asarray(a).dtype) and not op.is_data(i)]
    call = ", ".join([*names[: len(args)], *[f"{key}={literal(value)}" for key, value in attrs.items()]])
    arguments = checked[0] if len(checked) == 1 else f"({', '.join(checked)})"
    lines = [
        "import numpy as np",
        *definition_of(op),
        "from tensorgrad.op import REGISTRY",
        "from tensorgrad.testing import gradcheck",
        "",
        *[f"{name} = {literal(a)}" for name, a in named],
        f"fn = lambda {', '.join(checked)}: REGISTRY[{op.name!r}]({call})",
        f"gradcheck(fn, {arguments}{', order=2' if order == 2 else ''})",
        f"# {finding.name} at {finding.where}: recorded {finding.recorded:.9g}, numerical {finding.numerical:.9g}",
    ]
    return "\n".join(lines)


def definition_of(op: Op) -> list[str]:
    """The lines that register an op: none for tensorgrad's own, an import of its module from its folder, or the source of a
    class that is defined in a script. If it was created in another way, a comment that names the file.
    """
    cls = type(op)
    module_name = cls.__module__
    if module_name.startswith("tensorgrad."):
        return []
    module = sys.modules.get(module_name)
    file, line = place_of(cls)
    place = f"{file.name}, line {line}" if file else ""
    is_module_attribute = any(value is op for value in list(vars(module).values())) if module else True
    if module_name != "__main__" and is_module_attribute:
        imported = f"import {module_name}  # where {op.name} is defined" + (f": {place}" if place else "")
        return [*folder_of(module), imported]
    source = source_of(cls) if is_module_attribute else ""
    if source:
        return [
            "from tensorgrad.op import Op",
            *imports_of(cls),
            "",
            f"# from {place}",
            *source.splitlines(),
            "",
            f"{cls.__name__}()",
        ]
    return [f"# here the class of {op.name}" + (f", from {place}" if place else "")]


def place_of(cls: type[Op]) -> tuple[Path | None, int]:
    """The file and the line of an op's class, or of its `forward` if it was created in another way."""
    try:
        file = inspect.getsourcefile(cls)
        return (Path(file) if file else None), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        code = getattr(cls.forward, "__code__", None)
        return (Path(code.co_filename), code.co_firstlineno) if code else (None, 0)


def folder_of(module: ModuleType | None) -> list[str]:
    """The lines that make a module importable from any folder; none if it is installed."""
    file = getattr(module, "__file__", None)
    if module is None or not file:
        return []
    path = Path(file).resolve()
    folder = path.parents[module.__name__.count(".") + (path.stem == "__init__")]
    installed = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "purelib", "platlib")]
    if any(folder.is_relative_to(site) for site in installed):
        return []
    return [
        "import sys",
        f"sys.path.insert(0, {str(folder)!r})  # where {path.name if path.stem != '__init__' else module.__name__} is",
    ]


def source_of(cls: type[Op]) -> str:
    """The source of a top-level class; "" if it is not available."""
    try:
        return textwrap.dedent(inspect.getsource(cls)) if "." not in cls.__qualname__ else ""
    except (OSError, TypeError):
        return ""


def imports_of(cls: type[Op]) -> Iterator[str]:
    """Lines for names of its module that the functions of a class use: imports and numbers."""
    functions = [f for f in vars(cls).values() if inspect.isfunction(f)]
    names = dict.fromkeys(name for f in functions for name in names_in(f.__code__))
    global_values = functions[0].__globals__ if functions else {}
    for name in names:
        value = global_values.get(name)
        if name in ("np", "Op") or value is None:
            continue
        if inspect.ismodule(value):
            yield f"import {value.__name__} as {name}"
        elif isinstance(value, Op):
            yield f"from tensorgrad.op import REGISTRY; {name} = REGISTRY[{value.name!r}]"
        elif isinstance(value, (bool, int, float, np.ndarray)):
            yield f"{name} = {literal(value)}"
        elif getattr(value, "__module__", "__main__") != "__main__" and hasattr(value, "__name__"):
            yield f"from {value.__module__} import {value.__name__} as {name}"
        elif inspect.isfunction(value) and value.__name__ == name:
            yield textwrap.dedent(inspect.getsource(value)).rstrip()


def names_in(code: CodeType) -> Iterator[str]:
    """Every global name that a function, or one inside of it, refers to."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from names_in(part)
