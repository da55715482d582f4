"""Tracing: one run of a step, written down as a program: what it computes, what it changes, what its numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from tensorgrad import ops
from tensorgrad.compiler.containers import taken_apart
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, address, copy, is_array, is_floating, like, may_overlap, on
from tensorgrad.core.graph import Graph
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.location import Location, line_of, user_location
from tensorgrad.core.node import Node
from tensorgrad.core.state import Tracer, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError, TensorgradError
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser

Source: TypeAlias = Node | Tensor


@dataclass
class Assignment:
    """An array from outside the step that the step writes to."""

    target: Array
    value: Source
    index: int  # when, on the clock that numbers nodes
    made: Location | None  # where in the user's code


@dataclass
class Trace:
    """What a run of the step left besides the nodes that it recorded.

    arguments    the arrays that the step was called with, as the leaves that stand for them
    same         leaves that have the value of another Tensor: detached ones, and copies, which are nodes of their own
    assignments  in the order in which they were made
    numbers      functions that each replay asks for numbers by name (learning rates), and the leaves that stand for them
    optimisers   those that made a step
    rates        their learning rates at that time
    missed       which of their parameters had no gradient;  runs: which ones are changed at once
    modules      whose forward ran
    grads        Tensors whose `.grad` was read before the step had set it, with what it was: a Tensor, or None
    regraded     Tensors whose `.grad` the step has set, with what it had been
    used_up      whose `.grad` an optimiser has used after it was set last
    kept         those of them whose gradient outlives the step, with it: no optimiser has used it up, or the step adds to it
    frozen       arrays from outside whose values are part of the program, with copies
    results      the Tensors in what the step returned, and a function that puts others in their place
    saved        what was assigned to, as it was before: the array and a copy
    """

    arguments: list[Tensor]
    same: dict[Tensor, Source] = field(default_factory=dict)
    assignments: list[Assignment] = field(default_factory=list)
    numbers: list[tuple[Callable[[], Mapping[str, float]], dict[str, Tensor]]] = field(default_factory=list)
    optimisers: list[Optimiser] = field(default_factory=list)
    rates: list[tuple[float, ...]] = field(default_factory=list)
    missed: list[list[int]] = field(default_factory=list)
    runs: list[list[list[int]]] = field(default_factory=list)
    modules: dict[Module, None] = field(default_factory=dict)
    grads: dict[Tensor, Tensor | None] = field(default_factory=dict)
    regraded: dict[Tensor, Tensor | None] = field(default_factory=dict)
    used_up: set[Tensor] = field(default_factory=set)
    kept: dict[Tensor, Tensor] = field(default_factory=dict)
    frozen: list[tuple[Array, Array]] = field(default_factory=list)
    inside: set[Tensor] = field(default_factory=set)  # made by the step
    results: list[Tensor] = field(default_factory=list)
    rebuild: Callable[[list[Any]], Any] = lambda values: None
    plain: Any = None  # what was returned besides Tensors, to be compared
    errors: Any = field(default_factory=np.geterr)  # what NumPy is told of them outside of the step
    nodes: list[Node] = field(default_factory=list)  # in the order in which they were recorded
    again: set[Node] = field(default_factory=set)  # those of functions that are called again in each replay
    error_settings: dict[Node, Any] = field(default_factory=dict)  # what it is told of them for some of the nodes
    saved: list[tuple[Array, Array]] = field(default_factory=list)
    scatters: dict[Node, tuple[Tensor, Tensor]] = field(default_factory=dict)  # rows, and which rows of a table they are
    start: int = field(default_factory=writes.tick)

    # What the rest of the package says while the step runs

    def recorded(self, node: Node) -> None:
        """A node has been recorded. What NumPy is told of floating-point errors at that time holds for it in replays, too."""
        self.nodes.append(node)
        errors = np.geterr()
        if errors != self.errors:
            self.error_settings[node] = errors

    def created(self, tensor: Tensor) -> None:
        """A Tensor without a history has been made, of numbers."""
        self.inside.add(tensor)

    def copied(self, tensor: Tensor, source: Any) -> None:
        """A Tensor without a history has been made, with a copy of the values of `source`: a Tensor, or an array."""
        self.inside.add(tensor)
        if not isinstance(source, Tensor):
            source = next((t for t in self.arguments if t._data is source), None) or wrap(source, None)
        with switched(recording=False):
            self.same[tensor] = ops.astype.apply(source, dtype=tensor.dtype).node

    def shared(self, tensor: Tensor, source: Tensor) -> None:
        """A Tensor without a history has been made, on the memory of `source`."""
        self.inside.add(tensor)
        self.same[tensor] = source.node or source

    def needs_value(self, tensor: Tensor, reader: str) -> None:
        """Raise CompileError if `tensor` has a value that differs from call to call: Python cannot act on it in a replay."""
        if tensor.node is not None or tensor.requires_grad or tensor in self.same or self.is_argument(tensor):
            raise CompileError(
                f"compile: {reader} needs the value of a Tensor {tensor.shape} inside the step{here()}; a replay does not "
                f"run Python code that depends on values. Return the Tensor, use where(), or do it outside the step"
            )

    def forbid(self, what: str) -> NoReturn:
        """Raise CompileError: a replay would not do this again."""
        raise CompileError(f"compile: {what} inside the step{here()}; a replay would not do it again. Do it outside the step")

    def uses_constant(self, array: Array) -> None:
        """The values of an array from outside are taken as they are."""
        self.frozen.append((array, copy(array)))

    def reads_grad(self, tensor: Tensor) -> None:
        """The `.grad` of a Tensor is read."""
        if tensor not in self.regraded and tensor not in self.grads and not self.is_inside(tensor):
            self.grads[tensor] = tensor._grad

    def writes_grad(self, tensor: Tensor) -> None:
        """The `.grad` of a Tensor is set."""
        self.used_up.discard(tensor)
        if not self.is_inside(tensor):
            self.regraded.setdefault(tensor, tensor._grad)

    def accumulates(self, tensor: Tensor) -> None:
        """backward() adds to the `.grad` of a Tensor."""
        if self.is_argument(tensor):
            raise CompileError(
                f"compile: backward() leaves a .grad on an argument{here()}, which the caller would not see; "
                f"take it with tensorgrad.grad(loss, x) and return it"
            )
        self.reads_grad(tensor)
        self.writes_grad(tensor)

    def writes(self, tensor: Tensor, after: Tensor) -> bool:
        """A leaf is given the value of `after` in its own memory; whether it is one from outside, and stays a leaf."""
        if self.is_argument(tensor):
            raise CompileError(
                f"compile: an argument {tensor.shape} is changed in place{here()}; a replay would not change the caller's. "
                f"Compute a new Tensor, and return it"
            )
        if tensor in self.inside:
            if isinstance(source := self.same.get(tensor), Tensor):  # a detached Tensor, on memory from outside
                return self.writes(source, after)
            self.refuse_views(tensor, source)
            self.becomes_another(tensor, source)
            return False
        if after.requires_grad:
            raise CompileError(
                f"compile: a Tensor {tensor.shape} from outside the step is assigned, in place{here()}, a value that requires "
                f"a gradient; its history would go on from call to call. Use .detach(), or no_grad()"
            )
        self.assigns(tensor._data, after)
        return True

    def writes_view(self, tensor: Tensor) -> None:
        """A Tensor that has been computed is given another value in its own memory."""
        self.refuse_views(tensor, tensor.node)

    def refuse_views(self, tensor: Tensor, source: Source | None) -> None:
        """Raise CompileError if a Tensor that is changed in place, of the value of `source`, is a view of a leaf."""
        nodes = [source if isinstance(source, Node) else None]
        while nodes:
            node = nodes.pop()
            for s in node.inputs if node is not None and node.op.moves else ():
                if isinstance(s, Node):
                    nodes.append(s)
                elif isinstance(s, Tensor) and may_overlap(s._data, tensor._data):
                    what = "an argument" if self.is_argument(s) else "a Tensor"
                    raise CompileError(
                        f"compile: {what} {s.shape} is changed in place through a view of it{here()}; a replay would not "
                        f"change it. Compute a new Tensor, or write to the Tensor itself: t[...] = ..."
                    )

    def becomes_another(self, tensor: Tensor, source: Source | None) -> None:
        """A Tensor of the step's is changed in place: what has read it so far has read what it was."""
        before = wrap(copy(tensor._data), None) if source is None else source
        for node in self.nodes:
            if any(s is tensor for s in node.inputs):
                node.inputs = tuple([before if s is tensor else s for s in node.inputs])
        for a in self.assignments:
            a.value = before if a.value is tensor else a.value

    def assigns(self, target: Array, value: Tensor) -> None:
        """`target` is given the value of a Tensor."""
        if not any(array is target for array, _ in self.saved):
            self.saved.append((target, copy(target)))
        self.assignments.append(Assignment(target, value.node or value, writes.tick(), user_location()))

    def scattered(self, y: Tensor, x: Tensor, t: Tensor) -> None:
        """y has been made of zeros by adding each row of x to the row that t names."""
        if y.node is not None:
            self.scatters[y.node] = x, t

    def scatter_source(self, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
        """The rows that a Tensor was made of by `scattered`, (n, ...), and their numbers, (n); also of a sum of such ones."""
        parts, stack = [], [tensor.node]
        while stack:
            node = stack.pop()
            if node in self.scatters:
                parts.append(self.scatters[node])
            elif node is not None and node.op is ops.add and all(isinstance(s, Node) for s in node.inputs):
                stack += reversed(node.inputs)
            else:
                return None
        if any(x.dtype != tensor.dtype for x, _ in parts):
            return None
        with switched(recording=False):
            rows = [ops.reshape(x, (t.size, *tensor.shape[1:])) for x, t in parts]
            numbers = [ops.reshape(t, (t.size,)) for _, t in parts]
            if len(parts) == 1:
                return rows[0], numbers[0]
            return ops.concatenate(rows), ops.concatenate(numbers)

    def reads_changed(self, array: Array) -> None:
        """Raise CompileError: what lies there was made under another name. Memory from outside may show what is there."""
        if not any(may_overlap(array, a.target) for a in self.assignments):
            raise CompileError(
                f"compile: a Tensor {array.shape} shares memory with another one that has been changed in place, and is read"
                f"{here()}; compute a new Tensor instead of changing one"
            )

    def write_count(self) -> int:
        """How often memory from outside has been written to so far."""
        return len(self.assignments)

    def node_count(self) -> int:
        """How many nodes have been recorded so far."""
        return len(self.nodes)

    def captures(self, result: Tensor, first: int, since: int, given: Sequence[Tensor]) -> None:
        """Raise CompileError if a function, called again in each replay, draws random numbers, or reads what the step has
        computed and has not given it: it would read that of this run."""
        own, passed = set(self.nodes[first:]), {*given}
        if result.node is not None:  # checkpoints in it are not among the nodes of the step
            own |= {node for node in Graph([result.node], check=False).nodes if node.index >= since}
        if result.requires_grad and any(node.op.draws for node in own):
            raise CompileError(
                f"compile: the function of checkpoint(){here()} draws random numbers, and a replay would draw different ones "
                f"for its gradient than for its value; draw them outside it and pass them: checkpoint(fn, x, noise)"
            )
        self.again |= own
        for read in (result, *(s for node in own for s in node.inputs)):
            source = read.node or read if isinstance(read, Tensor) else read
            while isinstance(source, Tensor) and source in self.same and source not in passed:
                source = self.same[source]
            is_known = source in own if isinstance(source, Node) else source in passed
            if not is_known and (isinstance(source, Node) or (isinstance(source, Tensor) and self.is_argument(source))):
                raise CompileError(
                    f"compile: the function of checkpoint(){here()} reads a Tensor {read.shape} that was computed in the step, "
                    f"or is an argument of it, but is not an argument of the function; pass it: checkpoint(fn, x, y)"
                )

    def enters(self, module: Module) -> None:
        """The forward of a module runs."""
        self.modules[module] = None

    def steps(self, optimiser: Optimiser) -> None:
        """An optimiser makes a step."""
        if optimiser in self.optimisers:
            raise CompileError(
                f"compile: {type(optimiser).__name__}.step() is called twice in one step{here()}; compile one of them"
            )
        self.optimisers.append(optimiser)
        self.rates.append(optimiser.rates)
        self.missed.append([i for i, p in enumerate(optimiser.params) if p._grad is None])
        self.runs.append(optimiser.runs())
        self.used_up.update(optimiser.params)

    def recomputed(self, compute: Callable[[], Mapping[str, float]], near: Array) -> dict[str, Tensor]:
        """0-d leaves, of the dtype and on the device of `near`, for numbers that each replay asks for again."""
        leaves = {name: wrap(like(np.asarray(value, near.dtype), near), None) for name, value in compute().items()}
        self.numbers.append((compute, leaves))
        return leaves

    def is_argument(self, tensor: Tensor) -> bool:
        return any(tensor is t for t in self.arguments)

    def is_inside(self, tensor: Tensor) -> bool:
        """Whether the step has made it."""
        return tensor in self.inside or (tensor.node is not None and tensor.node.index >= self.start)

    # When the step has ended

    def ended(self, value: Any, keep_grads: bool, where: str) -> None:
        """Note what it returned and what it left in `.grad`. keep_grads: also what an optimiser has used up."""
        self.results, self.rebuild, self.plain = taken_apart(value, where)
        for t in self.results:
            if t.node is not None and writes.latest > t.node.index and writes.since(t.node.index, (t._data,)):
                self.reads_changed(t._data)
        for t in self.regraded:
            # what is added to without being cleared first is needed by the next call
            if t._grad is not None and (keep_grads or t not in self.used_up or t in self.grads):
                self.kept[t] = t._grad
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            if optimiser.rates != rate:
                raise CompileError(
                    f"compile: the learning rate went from {shown(rate)} to {shown(optimiser.rates)} after "
                    f"{type(optimiser).__name__}.step() inside the step; a replay would not change it again. "
                    f"Call the schedule outside the compiled step"
                )

    def settle(self) -> None:
        """Leave behind what a replay leaves: gradients in memory of their own, without a history; None where used up."""
        for optimiser in self.optimisers:
            optimiser.flush()
        for t in self.regraded:
            t._grad = wrap(copy(self.kept[t]._data), None) if t in self.kept else None

    def failed(self) -> None:
        """The step has failed by itself: leave behind what it has done so far, gradients without a history."""
        for t in self.regraded:
            t._grad = None if t._grad is None else wrap(copy(t._grad._data), None)

    def undo(self) -> None:
        """Put back what the step is known to have changed: arrays, gradients, the optimisers' counts."""
        for array, before in reversed(self.saved):  # one may lie in another
            with on(array):
                array[...] = before
            writes.wrote(array)
        for t, gradient in self.regraded.items():
            t._grad = gradient
        for optimiser, missed in zip(self.optimisers, self.missed, strict=True):
            optimiser.count(missed, -1)

    # What the compiler reads

    def inputs(self) -> list[Tensor]:
        """What each call gives to the program: the arguments, and the gradients that it finds in `.grad`."""
        return [*self.arguments, *(g for g in self.grads.values() if g is not None)]

    def returned(self) -> list[Tensor]:
        """What outlives the step: results, and gradients that are left in `.grad`."""
        return [*self.results, *self.kept.values()]

    def program(self) -> Graph:
        """The graph of everything that the step returned, assigned or drew."""
        return self._program

    @cached_property
    def _program(self) -> Graph:
        roots = [self.source(t) for t in self.returned()] + [self.source(a.value) for a in self.assignments]
        # drawn even where nothing comes of it, so that the generators go on as they do in the step; nor may a rank stay away
        roots += [node for node in self.nodes if (node.op.draws or node.op.meets) and node not in self.again]
        seen = {r for r in roots if isinstance(r, Node)}
        outputs, stack = dict.fromkeys(seen), list(seen)
        while stack:
            node = stack.pop()
            if node.index < self.start:
                raise CompileError(
                    f"compile: the step reads a Tensor {node.shape} that was computed outside of it by {node.op.name}"
                    f"{f' at {node.line}' if node.line else ''}, and has a history; .detach() it, or compute it inside"
                )
            for s in node.inputs:
                source = self.source(s) if isinstance(s, (Node, Tensor)) else None
                if isinstance(source, Node) and source not in seen:
                    seen.add(source)
                    stack.append(source)
                    if source is not s:
                        outputs[source] = None
        return Graph(list(outputs), check=False)

    def source(self, value: Source) -> Source:
        """What a value comes from: a node, an argument, or an array from outside."""
        if isinstance(value, Tensor) and value.node is not None:
            value = value.node
        while isinstance(value, Tensor) and value in self.same:
            value = self.same[value]
        return value

    def names(self) -> dict[tuple[int, int], str]:
        """What arrays from outside are called, by where they begin and their size; an optimiser's are named by their role."""
        found = {place_of(leaf._data): name for leaf, name in self.program().leaf_names().items() if leaf.name}
        for optimiser in self.optimisers:
            for block in optimiser.blocks:
                found[place_of(block.flat)] = "parameters"
                found.update((place_of(array), slot) for slot, array in block.state.items())
        return found

    def lines(self) -> list[Line]:
        """The program in lines that a second run has to give again."""
        graph = self.program()
        place: dict[Any, str] = {t: f"argument {i}" for i, t in enumerate(self.arguments)}
        place |= {g: f"gradient {i}" for i, g in enumerate(self.grads.values()) if g is not None}
        place |= {t: f"number {name} {i}" for i, (_, leaves) in enumerate(self.numbers) for name, t in leaves.items()}
        lines: list[Line] = []

        def named(value: Any, arrays: list[Any]) -> str:
            if isinstance(value, (Node, Tensor)):
                value = self.source(value)
            if isinstance(value, (Node, Tensor)) and value in place:
                return place[value]
            array = value._data if isinstance(value, Tensor) else value
            if isinstance(value, Tensor) or (is_array(array) and not isinstance(array, np.generic)):
                arrays.append(array)
                return f"array {array.shape} {array.dtype}"
            if isinstance(value, (tuple, list)):
                return str([named(v, arrays) for v in value])
            if isinstance(value, (int, float, complex, str, bytes, slice, np.generic, np.dtype, type(None))):
                return repr(value)
            arrays.append(value)  # a generator, say: the same one, or one that is equal
            return type(value).__name__

        for i, node in enumerate(graph.nodes):
            place[node] = f"%{i}"
            arrays: list[Any] = []
            parts = [named(s, arrays) for s in node.inputs]
            parts += [f"{key}={named(value, arrays)}" for key, value in node.attrs.items()]
            text = f"{node.scope} {node.op.name}({', '.join(parts)}) {node.shape} {node.dtype}"
            lines.append(Line(text, arrays, node.made))
        for a in self.assignments:
            arrays = [a.target]
            lines.append(Line(f"assign {a.target.shape} {named(a.value, arrays)}", arrays, a.made))
        arrays = []
        grads = [named(g, arrays) for g in self.kept.values()]
        lines.append(Line(f"return {[named(t, arrays) for t in self.results]}, gradients {grads}", arrays, None))
        return lines


class Line(NamedTuple):
    """One operation of a program: what it is, the arrays and other objects from outside in it, where in the user's code it was
    recorded."""

    text: str
    objects: list[Any]
    made: Location | None

    def differing(self, other: Line) -> list[Any]:
        """Those of its objects that are not the same in another line of the same text."""
        return [a for a, b in zip(self.objects, other.objects, strict=True) if not same_object(a, b)]


def place_of(array: Array) -> tuple[int, int]:
    """Where an array begins, and how many bytes it has."""
    return address(array), int(array.nbytes)


def one_memory(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements in the same places; both are alive, so that no address was given twice."""
    return address(a) == address(b) and bool(a.strides == b.strides)


def same_object(a: Any, b: Any) -> bool:
    """Whether two arrays are, or hold, the same; whether two functions do the same with the same; whether objects are equal."""
    if a is b:
        return True
    if is_array(a) and is_array(b):
        return one_memory(a, b) or equal(a, b)
    if isinstance(a, FunctionType) and isinstance(b, FunctionType):  # a lambda is another one in each run
        found = [[c.cell_contents for c in f.__closure__ or ()] + [*(f.__defaults__ or ())] for f in (a, b)]
        return a.__code__ is b.__code__ and all(same_object(x, y) for x, y in zip(*found, strict=True))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_object(a._data, b._data)
    return type(a) is type(b) and bool(a == b)


def equal(a: Array, b: Array) -> bool:
    """Whether two arrays have the same elements."""
    with on(a):
        return bool(np.array_equal(a, like(b, a), equal_nan=is_floating(a.dtype)))


def compare(before: list[Line], after: list[Line]) -> None:
    """Raise CompileError unless two runs of a step gave the same program: then a third one would too."""
    for first, second in zip(before, after, strict=False):
        where = f" at {line}" if (line := line_of(second.made or first.made)) else ""
        if first.text == second.text:
            differing = first.differing(second)
            if not differing:
                continue
            kind = "an array" if is_array(differing[0]) else f"a {type(differing[0]).__name__}"
            raise CompileError(
                f"compile: {second.text.strip()}{where} reads {kind} that was a different one in the first call, so it "
                f"depends on what a replay does not run. Compute it with tensorgrad's operations, or pass it as an argument"
            )
        raise CompileError(
            f"compile: the step did something else the second time{where}: {second.text.strip()} instead of "
            f"{first.text.strip()}. A replay would always do one of the two; pass what differs as an argument"
        )
    if len(before) != len(after):
        raise CompileError(
            f"compile: the step recorded {len(before)} operations at first and {len(after)} the second time; "
            f"a replay would always do one of the two"
        )


def shown(rates: tuple[float, ...]) -> str:
    """The learning rates of the groups of an optimiser, as text."""
    return f"{rates[0]}" if len({*rates}) == 1 else f"{rates}"


def here() -> str:
    line = line_of(user_location())
    return f" at {line}" if line else ""


def trace(arguments: list[Tensor], call: Callable[[], Any], keep_grads: bool, where: str = "") -> Trace:
    """What is recorded when `call` calls the step with the leaves `arguments`; what it changed stays as the step left it, also
    when the step fails. If it is refused, what it is known to have changed is put back.

    where   which step it is, for errors that have no line
    """
    found = Trace(arguments)
    tracer: Tracer[Tensor] = found
    try:
        with switched(tracing=True, trace=tracer, fusing=True):
            value = call()
        found.ended(value, keep_grads, where)
    except CompileError:
        found.undo()
        raise
    except BaseException as error:
        found.failed()
        misused = isinstance(error, (AttributeError, TypeError, ValueError, IndexError))
        if arguments and misused and not isinstance(error, TensorgradError):
            error.add_note("compile: inside the step, arguments that are arrays are Tensors")
        raise
    return found
