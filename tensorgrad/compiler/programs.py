"""Which lines of a plan's function become one: consecutive kernels and products that need no Python in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.kernels import build, forks, native, products, thresholds, words
from tensorgrad.kernels.llvm import MOST_GIVEN, NUMBERS
from tensorgrad.kernels.loops import Loop
from tensorgrad.kernels.native import Machine
from tensorgrad.kernels.team import team
from tensorgrad.kernels.words import Argument, Form, Operand, Words


def has_machine_code() -> bool:
    """Whether lines can be joined."""
    return build.has_numba() and native.machine() is not None


def have_team(count: int) -> None:
    """Have threads that share the work of programs."""
    if (machine := native.machine()) is not None:
        team.grow(machine, count)


class Call(NamedTuple):
    """What a line calls, and the names of the arrays (or the digits of the integers) that it passes."""

    function: str
    arguments: list[str]


class Line(NamedTuple):
    """A line of the source.

    origin       the place of the line that it stands for, or of the first of them
    is_comment   it says what a program does
    """

    text: str
    origin: int
    is_comment: bool = False


@dataclass
class Lines:
    """The lines of a function in the making.

    texts      the lines
    calls      those that call a function, by their places
    looks      those that name a view of an array, by their places: the name
    operands   what is known of arrays before a run, by their names
    threads    how many of them share products and loops
    runs       the programs that lines have been joined to
    """

    texts: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    looks: dict[int, str] = field(default_factory=dict)
    operands: dict[str, Operand] = field(default_factory=dict)
    threads: int = 1
    runs: list[Run] = field(default_factory=list)

    def argument(self, name: str) -> Argument | None:
        return int(name) if name.isdecimal() else self.operands.get(name)

    def numbers(self, names: list[str], bound: Mapping[str, Any]) -> list[Operand]:
        """What is known of 0-d arrays and numbers; the latter as arrays of the dtype of the last one, as NumPy takes them.
        Nothing if one of them is something else."""
        operands = [self.operands.get(name) for name in names]
        last = operands[-1]
        for i, name in enumerate(names):
            if operands[i] is None and last is not None and type(bound.get(name)) in (int, float):
                array = np.asarray(bound[name], last.form.dtype)
                operands[i] = Operand(Form.of(array), array=array)
        known = [operand for operand in operands if operand is not None]
        return known if len(known) == len(names) else []

    def words(self, machine: Machine, place: int, bound: Mapping[str, Any]) -> list[Words]:
        """A line as calls of a program; none if it needs Python."""
        call = self.calls.get(place)
        if call is None:
            return []
        if call.function in NUMBERS:
            operands = self.numbers(call.arguments, bound)
            return forks.listed(words.number_words(machine, call.function, operands)) if operands else []
        arguments = [self.argument(name) for name in call.arguments]
        if None in arguments:
            return []
        function, given = bound.get(call.function), [a for a in arguments if a is not None]
        operands = [a for a in given if isinstance(a, Operand)]
        if call.function == "matmul" or function is products.matmul:
            a, b, out = operands
            return forks.product_calls(machine, a, b, out, self.threads if function is products.matmul else 1)
        if call.function == "copyto":
            return forks.listed(words.copy_words(machine, *operands))
        if call.function == "dot":
            a, b, out = operands
            return forks.listed(words.dot_words(machine, a, b, out, int(thresholds.DOT)))
        if call.function == "clear":
            return forks.listed(words.clear_words(machine, *operands))
        if isinstance(function, build.ChainKernel):
            return forks.chain_calls(machine, function, operands, self.threads)
        is_checked = isinstance(function, build.CheckedKernel)
        loop = function.fast if isinstance(function, build.CheckedKernel) else function
        code = loop.code(tuple([words.kind_of(a) for a in given])) if isinstance(loop, Loop) else 0
        return forks.listed(words.kernel_words(machine, code, given, is_checked) if code else None)

    def joined(self, bind: Callable[[str, Any], str], bound: dict[str, Any], last: str) -> list[Line]:
        """The lines, with programs in place of those that need no Python.

        bind   gives a thing a name in the function, of those in `bound`;  last: the line that comes after them
        """
        machine = native.machine() if self.calls and has_machine_code() else None
        found: list[Line] = []
        block: list[int] = []
        calls: dict[int, list[Words]] = {}
        given: dict[str, None] = {}

        def end() -> None:
            found.extend(self.program(machine, block, calls, list(given), bind, bound))
            block.clear()
            calls.clear()
            given.clear()

        for place in range(len(self.texts)):
            own = self.words(machine, place, bound) if machine else []
            wanted = dict.fromkeys(operand.given for one in own for operand in one.operands() if operand.array is None)
            if own and len(wanted) <= MOST_GIVEN:
                if len(given | wanted) > MOST_GIVEN:
                    end()
                given |= wanted
                calls[place] = own
            elif place not in self.looks:
                end()
                found.append(Line(self.texts[place], place))
                continue
            block.append(place)
        end()
        return list(without_unread(found, self.looks, last))

    def program(
        self,
        machine: Machine | None,
        block: list[int],
        calls: dict[int, list[Words]],
        given: list[str],
        bind: Callable[[str, Any], str],
        bound: dict[str, Any],
    ) -> Iterator[Line]:
        """The lines at some places, with one for those that have words."""
        if machine is None or not calls or len(calls) < thresholds.NATIVE:
            yield from (Line(self.texts[place], place) for place in block)
            return
        yield from (Line(self.texts[place], place) for place in block if place not in calls)
        run = Run(machine, dict(calls), given, [self.texts[place] for place in block], list(block), bound)
        self.runs.append(run)
        enter, start, resume = bind("program", run.program.enter), bind("start", run.program.start), bind("resume", run.resume)
        ids, names = "".join(f", id({name})" for name in given), "".join(f", {name}" for name in given)
        yield Line(f"(stopped := {enter}({start}{ids})) and {resume}(stopped{names})", next(iter(calls)))
        yield from (Line(f"# {self.texts[place]}", place, is_comment=True) for place in calls)


def without_unread(lines: list[Line], looks: Mapping[int, str], last: str) -> Iterator[Line]:
    """Leave out the names of views that no other line reads any more, nor the last one."""
    read = "\n".join([*(line.text for line in lines if not line.is_comment), last])
    for line in lines:
        name = looks.get(line.origin, "")
        if not name or line.is_comment or len(re.findall(rf"\b{name}\b", read)) > 1:
            yield line


class Run:
    """A program, and what to do where it stops.

    given    names of the arrays that are other ones at each run
    texts    the lines that it stands for, and what they read;  places: of those in the function
    before   calls that no line stands for, and that do not stop, before those of the lines;  behind: and after them
    """

    def __init__(
        self,
        machine: Machine,
        calls: dict[int, list[Words]],
        given: list[str],
        texts: list[str],
        places: list[int],
        space: dict[str, Any],
        before: Sequence[Words] = (),
        behind: Sequence[Words] = (),
    ) -> None:
        inside = [one for own in calls.values() for one in own]
        self.machine, self.calls = machine, calls
        self.program = native.Program(machine, [*before, *inside, *behind], given)
        self.given, self.texts, self.places, self.space = given, texts, places, space
        owners = [place for place, own in calls.items() for _ in own]
        at = self.program.at[len(before) :]
        self.stops = dict(zip(at, owners, strict=False))  # address of a call: the place of its line
        self.after = dict(zip(owners, at[1:], strict=False))  # place of a line: the address of what comes after it

    def resume(self, stopped: int, *arrays: Array) -> None:
        """Go on after a call that has stopped, once Python has run its line: that raises what is wrong, and NumPy says of
        floating-point errors what the user has told it to say. It can be run once more: calls that stop do not write over what
        they read."""
        space = {**build.NAMESPACE, **self.space, **dict(zip(self.given, arrays, strict=True))}
        looks = [text for text, at in zip(self.texts, self.places, strict=True) if at not in self.after]
        for text in looks:
            exec(text, space)
        while stopped:
            place = self.stops[stopped]
            exec(self.texts[self.places.index(place)], space)
            stopped = self.program.go_on(self.after[place])


def place_of(error: BaseException) -> int | None:
    """The line at which a program has stopped when it raised this; None if no program did."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code is Run.resume.__code__:
            return int(frame.tb_frame.f_locals["place"])
        frame = frame.tb_next
    return None
