"""A program that differs, made small: without whatever it differs without, too."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import tensorgrad as tg
from tests.fuzz.compare import Verdict, check
from tests.fuzz.program import Line, Program, Step

SECONDS = 30.0  # after which it is small enough


def shrink(program: Program, verdict: Verdict, compile: Any = tg.compile, seconds: float = SECONDS) -> tuple[Program, Verdict]:
    """The smallest program found that differs in the same way."""
    ends = time.monotonic() + seconds
    outer = from_the_loop(program)
    smaller = True
    while smaller:
        smaller = False
        for candidate in candidates(program):
            if time.monotonic() > ends:
                return program, verdict
            if not from_the_loop(candidate) <= outer:
                continue
            try:
                found = check(candidate, compile)
            except SyntaxError:  # something has gone that has to be there
                continue
            if (found.kind, kind_of(found)) == (verdict.kind, kind_of(verdict)):
                program, verdict, smaller = candidate, found, True
                break
    return program, verdict


def from_the_loop(program: Program) -> set[str]:
    """What steps read that is made in the loop and is no argument of theirs."""
    found: set[str] = set()
    made = assigned(program.loop)
    for step in program.steps:
        used = set(re.findall(r"(?<![.\w])\w+", "\n".join(map(str, step.lines))))
        found |= (used & made) - assigned(step.lines) - set(step.args.split(", "))
    return found


def assigned(lines: tuple[Line, ...]) -> set[str]:
    """The names that lines give values to."""
    targets = [target for line in lines for target in re.findall(r"^\s*([\w, ()]+) = ", str(line), re.MULTILINE)]
    return {name for target in targets for name in re.findall(r"\w+", target)}


def kind_of(verdict: Verdict) -> str:
    """What two differences have to have in common to be one."""
    return verdict.what.split(":")[0] + (verdict.what.split(":")[1] if verdict.what.startswith("error") else "")


def candidates(program: Program) -> Iterator[Program]:
    """Smaller programs, the much smaller ones first."""
    if len(program.batches) > 3:
        yield replace(program, batches=program.batches[:3])
        yield replace(program, batches=program.batches[:-1])
    if len(program.steps) > 1:
        for j in range(len(program.steps)):
            yield replace(program, steps=program.steps[:j] + program.steps[j + 1 :])
    yield from (replace(program, loop=lines) for lines in fewer(program.loop))
    yield from (replace(program, setup=lines) for lines in fewer(program.setup))
    for j, step in enumerate(program.steps):
        for lines in fewer(step.lines):
            yield replace(program, steps=(*program.steps[:j], replace(step, lines=lines), *program.steps[j + 1 :]))
        for lines in with_names_instead(step.lines):
            yield replace(program, steps=(*program.steps[:j], replace(step, lines=lines), *program.steps[j + 1 :]))
    yield from with_plain_arguments(program)
    yield from without_arguments(program)
    yield from program.without_settings()
    yield from numbers(program)


def fewer(lines: tuple[Line, ...]) -> Iterator[tuple[Line, ...]]:
    """The lines without some of them, or with a simpler one."""
    if len(lines) > 3:
        half = len(lines) // 2
        yield lines[half:]
        yield lines[:half]
    for j in reversed(range(len(lines))):
        yield lines[:j] + lines[j + 1 :]
    for j, line in enumerate(lines):
        for other in simpler(line):
            yield (*lines[:j], other, *lines[j + 1 :])


def with_names_instead(lines: tuple[Line, ...]) -> Iterator[tuple[Line, ...]]:
    """The lines without one that only gives another name to a value."""
    for j, line in enumerate(lines):
        if match := re.fullmatch(r"(\w+) = ([a-z]\w*)", str(line)):
            name = re.compile(rf"(?<![.\w]){match[1]}\b(?!=)")
            rest = [
                replace(
                    other, text=name.sub(match[2], other.text), parts=tuple([name.sub(match[2], part) for part in other.parts])
                )
                for other in lines[j + 1 :]
            ]
            yield (*lines[:j], *rest)


def simpler(line: Line) -> Iterator[Line]:
    for text in line.simpler:
        if " = " in text or text.startswith("return"):
            yield Line(text, tag=line.tag)
        elif text != str(line).split(" = ")[-1]:
            yield Line(f"{line.text.split(' = ')[0]} = {text}", tag=line.tag)
    if len(line.parts) > 1:
        for j in range(len(line.parts)):
            yield replace(line, parts=line.parts[:j] + line.parts[j + 1 :])


def with_plain_arguments(program: Program) -> Iterator[Program]:
    """Two arrays as two arguments, instead of in a container or by keyword."""
    for j, step in enumerate(program.steps):
        lines = step.lines[1:] if step.args == "given" else step.lines
        call = rf"\b{step.name}\((Pair\(x, y\)|Batch\(x, y\)|\(x, \[y\]\)|{{\"x\": x, \"y\": y}}|x, y=y)\)"
        loop = tuple(replace(line, text=re.sub(call, f"{step.name}(x, y)", line.text)) for line in program.loop)
        if loop != program.loop:
            steps = (*program.steps[:j], Step(step.name, "x, y", lines), *program.steps[j + 1 :])
            yield replace(program, steps=steps, loop=loop)


def without_arguments(program: Program) -> Iterator[Program]:
    """A function without one of the arguments that it does not use, where it is called in the plain way."""
    for j, step in enumerate(program.steps):
        names = [name for name in step.args.split(", ") if name]
        used = set(re.findall(r"\w+", "\n".join(map(str, step.lines))))
        for name in names:
            rest = ", ".join(n for n in names if n != name)
            old, new = f"{step.name}({step.args})", f"{step.name}({rest})"
            if name not in used:
                loop = tuple(replace(line, text=line.text.replace(old, new)) for line in program.loop)
                steps = (*program.steps[:j], Step(step.name, rest, step.lines), *program.steps[j + 1 :])
                yield replace(program, steps=steps, loop=loop)


def numbers(program: Program) -> Iterator[Program]:
    """Smaller sizes, equal batches, the usual dtype."""
    for name, n in program.sizes.items():
        for smaller in sorted({1, 2, 3, n // 2, n - 1} - {0}):
            if smaller < n:
                yield replace(program, sizes=program.sizes | {name: smaller})
    if len(set(program.batches)) > 1:
        yield replace(program, batches=(0,) * len(program.batches))
    if program.dtype != "float32":
        yield replace(program, dtype="float32")
