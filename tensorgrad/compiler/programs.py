"""Programs in place of lines of a plan's function: consecutive kernels and products that need no Python in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.kernels import build, forks, instructions, native, products, thresholds
from tensorgrad.kernels.instructions import Argument, Form, Instruction, Operand
from tensorgrad.kernels.llvm import MAX_PARAMETERS, SCALAR_OPS
from tensorgrad.kernels.loops import Loop
from tensorgrad.kernels.native import Machine
from tensorgrad.kernels.team import team


def has_machine_code() -> bool:
    """Whether lines can be joined to programs."""
    return build.has_numba() and native.machine() is not None


def start_team(count: int) -> None:
    """Start the threads that share the work of programs."""
    if (machine := native.machine()) is not None:
        team.grow(machine, count)


class Call(NamedTuple):
    """A call in a line: the function, and the names of its arrays or the digits of its integers."""

    function: str
    arguments: list[str]


class Line(NamedTuple):
    """A line of the source.

    origin       the number of the original line, or of the first one that a program replaces
    is_comment   an original line, quoted below its program
    """

    text: str
    origin: int
    is_comment: bool = False


@dataclass
class Lines:
    """The lines of a function that is being written.

    texts      the lines
    calls      the calls of functions, by line number
    views      names of the views that lines define, by line number
    operands   the arrays as operands of instructions, by name
    threads    the number of threads that share products and loops
    programs   the programs that replace lines
    """

    texts: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    views: dict[int, str] = field(default_factory=dict)
    operands: dict[str, Operand] = field(default_factory=dict)
    threads: int = 1
    programs: list[ProgramRun] = field(default_factory=list)

    def argument(self, name: str) -> Argument | None:
        return int(name) if name.isdecimal() else self.operands.get(name)

    def scalar_operands(self, names: list[str], bound: Mapping[str, Any]) -> list[Operand]:
        """The operands of a scalar function: 0-d arrays, and numbers, which are converted to the dtype of the last array, as
        in NumPy. Empty if one of them is anything else."""
        operands = [self.operands.get(name) for name in names]
        last = operands[-1]
        for i, name in enumerate(names):
            if operands[i] is None and last is not None and type(bound.get(name)) in (int, float):
                array = np.asarray(bound[name], last.form.dtype)
                operands[i] = Operand(Form.of(array), array=array)
        complete = [operand for operand in operands if operand is not None]
        return complete if len(complete) == len(names) else []

    def instructions(self, machine: Machine, place: int, bound: Mapping[str, Any]) -> list[Instruction]:
        """The instructions of a line; none if it needs Python."""
        call = self.calls.get(place)
        if call is None:
            return []
        if call.function in SCALAR_OPS:
            operands = self.scalar_operands(call.arguments, bound)
            return forks.as_list(instructions.scalar_instruction(machine, call.function, operands)) if operands else []
        arguments = [self.argument(name) for name in call.arguments]
        if None in arguments:
            return []
        function, arguments_found = bound.get(call.function), [a for a in arguments if a is not None]
        operands = [a for a in arguments_found if isinstance(a, Operand)]
        if call.function == "matmul" or function is products.matmul:
            a, b, out = operands
            return forks.product_calls(machine, a, b, out, self.threads if function is products.matmul else 1)
        if call.function == "copyto":
            return forks.as_list(instructions.copy_instruction(machine, *operands))
        if call.function == "dot":
            a, b, out = operands
            return forks.as_list(instructions.dot_instruction(machine, a, b, out, int(thresholds.DOT)))
        if call.function == "clear":
            return forks.as_list(instructions.clear_instruction(machine, *operands))
        if isinstance(function, build.ChainKernel):
            return forks.chain_calls(machine, function, operands, self.threads)
        is_checked = isinstance(function, build.CheckedKernel)
        loop = function.fast if isinstance(function, build.CheckedKernel) else function
        code = loop.code(tuple([instructions.kind_of(a) for a in arguments_found])) if isinstance(loop, Loop) else 0
        return forks.as_list(instructions.kernel_instruction(machine, code, arguments_found, is_checked) if code else None)

    def join(self, bind: Callable[[str, Any], str], bound: dict[str, Any], last: str) -> list[Line]:
        """The lines, with programs in place of those that need no Python.

        bind   binds an object to a name of the function; `bound` has all of them
        last   the line after these
        """
        machine = native.machine() if self.calls and has_machine_code() else None
        lines: list[Line] = []
        block: list[int] = []
        calls: dict[int, list[Instruction]] = {}
        parameters: dict[str, None] = {}

        def end_block() -> None:
            lines.extend(self.join_block(machine, block, calls, list(parameters), bind, bound))
            block.clear()
            calls.clear()
            parameters.clear()

        for place in range(len(self.texts)):
            compiled = self.instructions(machine, place, bound) if machine else []
            operands = [operand for instruction in compiled for operand in instruction.all_operands()]
            used = dict.fromkeys(operand.parameter for operand in operands if operand.array is None)
            if compiled and len(used) <= MAX_PARAMETERS:
                if len(parameters | used) > MAX_PARAMETERS:
                    end_block()
                parameters |= used
                calls[place] = compiled
            elif place not in self.views:
                end_block()
                lines.append(Line(self.texts[place], place))
                continue
            block.append(place)
        end_block()
        return list(without_unused_views(lines, self.views, last))

    def join_block(
        self,
        machine: Machine | None,
        block: list[int],
        calls: dict[int, list[Instruction]],
        parameters: list[str],
        bind: Callable[[str, Any], str],
        bound: dict[str, Any],
    ) -> Iterator[Line]:
        """The lines of a block, those with instructions replaced by a single line, if they are enough."""
        if machine is None or not calls or len(calls) < thresholds.NATIVE:
            yield from (Line(self.texts[place], place) for place in block)
            return
        yield from (Line(self.texts[place], place) for place in block if place not in calls)
        run = ProgramRun(machine, dict(calls), parameters, [self.texts[place] for place in block], list(block), bound)
        self.programs.append(run)
        enter, start, resume = bind("program", run.program.enter), bind("start", run.program.start), bind("resume", run.resume)
        ids, names = "".join(f", id({name})" for name in parameters), "".join(f", {name}" for name in parameters)
        yield Line(f"(stopped := {enter}({start}{ids})) and {resume}(stopped{names})", next(iter(calls)))
        yield from (Line(f"# {self.texts[place]}", place, is_comment=True) for place in calls)


def without_unused_views(lines: list[Line], views: Mapping[int, str], last: str) -> Iterator[Line]:
    """Omit lines that define views that no other line, nor the last one, reads any more."""
    texts = "\n".join([*(line.text for line in lines if not line.is_comment), last])
    for line in lines:
        name = views.get(line.origin, "")
        if not name or line.is_comment or len(re.findall(rf"\b{name}\b", texts)) > 1:
            yield line


class ProgramRun:
    """A program, and the lines that it replaces, one of which Python runs where it stops.

    calls        instructions by line number
    parameters   names of the arrays that are passed to each run
    texts        the lines that it replaces, and the views that they read;  places: their numbers
    space        the names of the function, for Python
    prologue     instructions before those of the lines, which never stop;  epilogue: and after them
    """

    def __init__(
        self,
        machine: Machine,
        calls: dict[int, list[Instruction]],
        parameters: list[str],
        texts: list[str],
        places: list[int],
        space: dict[str, Any],
        prologue: Sequence[Instruction] = (),
        epilogue: Sequence[Instruction] = (),
    ) -> None:
        body = [instruction for line in calls.values() for instruction in line]
        self.machine, self.calls = machine, calls
        self.program = native.Program(machine, [*prologue, *body, *epilogue], parameters)
        self.parameters, self.texts, self.places, self.space = parameters, texts, places, space
        owners = [place for place, line in calls.items() for _ in line]
        addresses = self.program.addresses[len(prologue) :]
        self.stops = dict(zip(addresses, owners, strict=False))  # address of an instruction: number of its line
        self.following = dict(zip(owners, addresses[1:], strict=False))  # number of a line: address of the next instruction

    def resume(self, stopped: int, *arrays: Array) -> None:
        """Run the line of the instruction that stopped in Python, then continue after it. So the usual errors are raised, and
        NumPy reports floating-point errors according to the user's settings. The line can run again, because instructions that
        stop do not overwrite their operands."""
        space = {**build.NAMESPACE, **self.space, **dict(zip(self.parameters, arrays, strict=True))}
        views = [text for text, place in zip(self.texts, self.places, strict=True) if place not in self.following]
        for text in views:
            exec(text, space)
        while stopped:
            place = self.stops[stopped]
            exec(self.texts[self.places.index(place)], space)
            stopped = self.program.run_from(self.following[place])


def place_of(error: BaseException) -> int | None:
    """The number of the line at which a program raised this error; None if no program did."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code is ProgramRun.resume.__code__:
            return int(frame.tb_frame.f_locals["place"])
        frame = frame.tb_next
    return None
