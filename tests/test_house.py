"""The house: which rooms stand on which floor, and that imports point downwards only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import face

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A module belongs to the longest of these names that it begins with.
FLOORS = [
    {"tensorgrad.errors"},
    {"tensorgrad.core"},
    {"tensorgrad.kernels"},
    {"tensorgrad.ops", "tensorgrad.data"},
    {"tensorgrad.nn", "tensorgrad.optim", "tensorgrad.autograd", "tensorgrad.protocols"},
    {"tensorgrad.compiler", "tensorgrad.seeding"},
    {
        "tensorgrad.draw",
        "tensorgrad.onnx",
        "tensorgrad.func",
        "tensorgrad.methods",
        "tensorgrad.op",
        "tensorgrad.graph",
        "tensorgrad.interop",
        "tensorgrad.fusion",
        "tensorgrad",
    },
    {"tensorgrad.train", "tensorgrad.testing", "tensorgrad.distributed"},
    {"tensorgrad.models"},
]  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module that is installed, by name."""
    found = {}
    for folder, prefix in (("tensorgrad", ""), ("models", "tensorgrad.")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = prefix + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports anywhere: at the top, in functions, for type checkers."""
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: relative imports are not used"
            for alias in statement.names:
                inner = f"{statement.module}.{alias.name}"
                yield inner if inner in known else str(statement.module)
        elif isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)


def arrows(known: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules each of them imports."""
    return {name: {m for m in imported(path, known) if m in known and m != name} for name, path in known.items()}


def room(name: str) -> str:
    return max((r for floor in FLOORS for r in floor if name == r or name.startswith(f"{r}.")), key=len)


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_every_module_has_a_room() -> None:
    known = modules()
    assert {room(name) for name in known} == set().union(*FLOORS)
    alone = {name for name in known if room(name) == "tensorgrad" and name != "tensorgrad"}
    assert not alone, f"say in FLOORS where these belong: {sorted(alone)}"


def test_imports_point_downwards() -> None:
    up = [(a, b) for a, targets in arrows(modules()).items() for b in targets if floor(b) > floor(a)]
    assert not up, "\n".join(f"{a} (floor {floor(a)}) imports {b} (floor {floor(b)})" for a, b in up)


def test_there_are_no_circles() -> None:
    graph = arrows(modules())
    try:
        list(TopologicalSorter(graph).static_order())
        rooms: dict[str, set[str]] = {}
        for name, targets in graph.items():
            rooms.setdefault(room(name), set()).update({room(t) for t in targets} - {room(name)})
        list(TopologicalSorter(rooms).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_what_type_checkers_are_told_of_a_tensor() -> None:
    told, now = ast.dump(ast.parse(face.STUB.read_text())), ast.dump(ast.parse(face.stub()))
    assert told == now, "python -m tests.face writes it anew"


def test_skipped_tests_say_what_they_need() -> None:
    """In words that somebody can act on: what is missing, and how to get it. What does not apply is no case."""
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr not in ("skip", "skipif", "importorskip"):
                continue
            named = {word.arg: word.value for word in call.keywords}
            said = named.get("reason") or (call.args[0] if call.func.attr == "skip" and call.args else None)
            text = ast.unparse(said).strip("f'\"") if said is not None else ""
            found.append((f"{path.relative_to(ROOT)}:{call.lineno}", text))
    assert len(found) > 20
    assert not [where for where, text in found if not (text == "reason" or re.match(r"needs .*: ", text))]


def test_what_a_class_documents_is_in_it() -> None:
    """Each name that begins a line of a table in a docstring occurs in the code of the class or of its bases."""
    classes: dict[str, list[tuple[ast.ClassDef, Path]]] = {}  # several may have the same name
    for path in modules().values():
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.ClassDef):
                classes.setdefault(statement.name, []).append((statement, path))
    missing = []
    count = 0
    for name, statement, path in [(name, *one) for name, same in classes.items() for one in same]:
        words = {"tangent", *(("output", "h") if path.parts[-2] == "nn" else ())}  # a formula of an op; what a layer returns
        family = [name]
        for one in family:
            for of, _ in classes.get(one, ()):
                family += [base.id for base in of.bases if isinstance(base, ast.Name) and base.id not in family]
                body = of.body[1:] if ast.get_docstring(of) else of.body
                words |= set(re.findall(r"\w+", " ".join(map(ast.unparse, body))))
        for line in (ast.get_docstring(statement) or "").splitlines()[1:]:
            if row := re.match(r"((?:[A-Za-z_]\w*(?:\(\))?)(?:, [A-Za-z_]\w*(?:\(\))?)*) {2,}\S", line):
                names = [documented.removesuffix("()") for documented in row[1].split(", ")]
                count += len(names)
                missing += [f"{path.name}: {name}: {one}" for one in names if one not in words]
    assert count > 500
    assert not missing
