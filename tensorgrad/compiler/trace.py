"""Tracing: one run of a step, recorded as a program: what it computes, what it changes, where its numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from tensorgrad import ops
from tensorgrad.compiler.containers import flattened
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, address, copy, dtype_name, is_array, is_floating, like, may_overlap, on
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
    """A write to an outside array."""

    target: Array
    value: Source
    index: int  # the time, on the counter that numbers nodes
    location: Location | None  # the line in the user's code


@dataclass
class Trace:
    """The record of a run of the step, besides its nodes.

    arguments       the leaves for the arrays that the step was called with
    aliases         leaves with the value of another Tensor: detached ones, and copies, which are separate nodes
    assignments     in order
    numbers         functions that each replay calls for numbers by name (learning rates), and the leaves for these
    optimisers      those that made a step
    rates           their learning rates at that time
    missing_grads   which of their parameters had no gradient;  runs: which ones are updated together
    modules         whose forward ran
    read_grads      Tensors whose `.grad` was read before the step set it, with its value: a Tensor, or None
    written_grads   Tensors whose `.grad` the step has set, with its previous value
    used_grads      Tensors whose `.grad` an optimiser has used since it was last set
    kept_grads      Tensors whose gradient outlives the step, with it: no optimiser has used it, or the step adds to it
    frozen          outside arrays whose values are part of the program, with copies
    results         the Tensors in the step's result;  rebuild: a function that rebuilds the result from others
    saved           the arrays that were assigned to, with copies of their previous values
    """

    arguments: list[Tensor]
    aliases: dict[Tensor, Source] = field(default_factory=dict)
    assignments: list[Assignment] = field(default_factory=list)
    numbers: list[tuple[Callable[[], Mapping[str, float]], dict[str, Tensor]]] = field(default_factory=list)
    optimisers: list[Optimiser] = field(default_factory=list)
    rates: list[tuple[float, ...]] = field(default_factory=list)
    missing_grads: list[list[int]] = field(default_factory=list)
    runs: list[list[list[int]]] = field(default_factory=list)
    modules: dict[Module, None] = field(default_factory=dict)
    read_grads: dict[Tensor, Tensor | None] = field(default_factory=dict)
    written_grads: dict[Tensor, Tensor | None] = field(default_factory=dict)
    used_grads: set[Tensor] = field(default_factory=set)
    kept_grads: dict[Tensor, Tensor] = field(default_factory=dict)
    frozen: list[tuple[Array, Array]] = field(default_factory=list)
    created_tensors: set[Tensor] = field(default_factory=set)  # by the step
    results: list[Tensor] = field(default_factory=list)
    rebuild: Callable[[list[Any]], Any] = lambda values: None
    plain: Any = None  # what else was returned, for comparison
    errors: Any = field(default_factory=np.geterr)  # NumPy's settings outside the step
    nodes: list[Node] = field(default_factory=list)  # in recording order
    rerun_nodes: set[Node] = field(default_factory=set)  # of functions that each replay calls again
    error_settings: dict[Node, Any] = field(default_factory=dict)  # settings that differ for some nodes
    saved: list[tuple[Array, Array]] = field(default_factory=list)
    scatters: dict[Node, tuple[Tensor, Tensor]] = field(default_factory=dict)  # rows, and their indices in a table
    start: int = field(default_factory=writes.tick)

    # Events during the step, called by the rest of the package

    def recorded(self, node: Node) -> None:
        """A node was recorded. NumPy's current settings for floating-point errors also apply to it in replays."""
        self.nodes.append(node)
        errors = np.geterr()
        if errors != self.errors:
            self.error_settings[node] = errors

    def created(self, tensor: Tensor) -> None:
        """A Tensor without history was created from numbers."""
        self.created_tensors.add(tensor)

    def copied(self, tensor: Tensor, source: Any) -> None:
        """A Tensor without history was created as a copy of `source`: a Tensor, or an array."""
        self.created_tensors.add(tensor)
        if not isinstance(source, Tensor):
            source = next((t for t in self.arguments if t._data is source), None) or wrap(source, None)
        with switched(recording=False):
            self.aliases[tensor] = ops.astype.apply(source, dtype=tensor.dtype).node

    def shared(self, tensor: Tensor, source: Tensor) -> None:
        """A Tensor without history was created on the memory of `source`."""
        self.created_tensors.add(tensor)
        self.aliases[tensor] = source.node or source

    def needs_value(self, tensor: Tensor, reader: str) -> None:
        """Raise CompileError if the value of `tensor` varies between calls: Python code cannot depend on it in a replay."""
        if tensor.node is not None or tensor.requires_grad or tensor in self.aliases or self.is_argument(tensor):
            raise CompileError(
                f"compile: {reader} needs the value of a Tensor {tensor.shape} inside the step{here()}; a replay does not "
                f"run Python code that depends on values. Return the Tensor, use where(), or do it outside the step"
            )

    def forbid(self, what: str) -> NoReturn:
        """Raise CompileError: a replay would not repeat this."""
        raise CompileError(f"compile: {what} inside the step{here()}; a replay would not do it again. Do it outside the step")

    def uses_constant(self, array: Array) -> None:
        """The values of an outside array are used as constants."""
        self.frozen.append((array, copy(array)))

    def reads_grad(self, tensor: Tensor) -> None:
        """The `.grad` of a Tensor is read."""
        if tensor not in self.written_grads and tensor not in self.read_grads and not self.is_inside(tensor):
            self.read_grads[tensor] = tensor._grad

    def writes_grad(self, tensor: Tensor) -> None:
        """The `.grad` of a Tensor is set."""
        self.used_grads.discard(tensor)
        if not self.is_inside(tensor):
            self.written_grads.setdefault(tensor, tensor._grad)

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
        """The value of `after` is written to the memory of a leaf. Returns whether it is from outside, and remains a leaf."""
        if self.is_argument(tensor):
            raise CompileError(
                f"compile: an argument {tensor.shape} is changed in place{here()}; a replay would not change the caller's. "
                f"Compute a new Tensor, and return it"
            )
        if tensor in self.created_tensors:
            if isinstance(source := self.aliases.get(tensor), Tensor):  # a detached Tensor, on outside memory
                return self.writes(source, after)
            self.refuse_views(tensor, source)
            self.keep_old_value(tensor, source)
            return False
        if after.requires_grad:
            raise CompileError(
                f"compile: a Tensor {tensor.shape} from outside the step is assigned, in place{here()}, a value that requires "
                f"a gradient; its history would go on from call to call. Use .detach(), or no_grad()"
            )
        self.assigns(tensor._data, after)
        return True

    def writes_view(self, tensor: Tensor) -> None:
        """A new value is written to the memory of a computed Tensor."""
        self.refuse_views(tensor, tensor.node)

    def refuse_views(self, tensor: Tensor, source: Source | None) -> None:
        """Raise CompileError if a Tensor that is changed in place, with the value of `source`, is a view of a leaf."""
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

    def keep_old_value(self, tensor: Tensor, source: Source | None) -> None:
        """A Tensor of the step is changed in place: earlier readers used its old value."""
        before = wrap(copy(tensor._data), None) if source is None else source
        for node in self.nodes:
            if any(s is tensor for s in node.inputs):
                node.inputs = tuple([before if s is tensor else s for s in node.inputs])
        for a in self.assignments:
            a.value = before if a.value is tensor else a.value

    def assigns(self, target: Array, value: Tensor) -> None:
        """The value of a Tensor is assigned to `target`."""
        if not any(array is target for array, _ in self.saved):
            self.saved.append((target, copy(target)))
        self.assignments.append(Assignment(target, value.node or value, writes.tick(), user_location()))

    def scattered(self, y: Tensor, x: Tensor, t: Tensor) -> None:
        """y was computed from zeros by adding each row of x to the row given by t."""
        if y.node is not None:
            self.scatters[y.node] = x, t

    def scatter_source(self, tensor: Tensor) -> tuple[Tensor, Tensor] | None:
        """The rows (n, ...) and indices (n) from which `scattered` computed a Tensor; also for a sum of such Tensors."""
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
        """Raise CompileError: the memory was written through another Tensor. Outside memory is read as it is."""
        if not any(may_overlap(array, a.target) for a in self.assignments):
            raise CompileError(
                f"compile: a Tensor {array.shape} shares memory with another one that has been changed in place, and is read"
                f"{here()}; compute a new Tensor instead of changing one"
            )

    def write_count(self) -> int:
        """The number of writes to outside memory so far."""
        return len(self.assignments)

    def node_count(self) -> int:
        """The number of nodes recorded so far."""
        return len(self.nodes)

    def captures(self, result: Tensor, first: int, since: int, arguments: Sequence[Tensor]) -> None:
        """Raise CompileError if a function that each replay calls again draws random numbers, or reads values of the step other
        than its arguments: it would read those of this run."""
        inner_nodes, passed_in = set(self.nodes[first:]), {*arguments}
        if result.node is not None:  # nested checkpoints are not among the nodes of the step
            inner_nodes |= {node for node in Graph([result.node], check=False).nodes if node.index >= since}
        if result.requires_grad and any(node.op.draws for node in inner_nodes):
            raise CompileError(
                f"compile: the function of checkpoint(){here()} draws random numbers, and a replay would draw different ones "
                f"for its gradient than for its value; draw them outside it and pass them: checkpoint(fn, x, noise)"
            )
        self.rerun_nodes |= inner_nodes
        for read in (result, *(s for node in inner_nodes for s in node.inputs)):
            source = read.node or read if isinstance(read, Tensor) else read
            while isinstance(source, Tensor) and source in self.aliases and source not in passed_in:
                source = self.aliases[source]
            is_known = source in inner_nodes if isinstance(source, Node) else source in passed_in
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
        self.missing_grads.append([i for i, p in enumerate(optimiser.params) if p._grad is None])
        self.runs.append(optimiser.runs())
        self.used_grads.update(optimiser.params)

    def recomputed(self, compute: Callable[[], Mapping[str, float]], near: Array) -> dict[str, Tensor]:
        """0-d leaves, with the dtype and device of `near`, for numbers that each replay computes again."""
        leaves = {name: wrap(like(np.asarray(value, near.dtype), near), None) for name, value in compute().items()}
        self.numbers.append((compute, leaves))
        return leaves

    def is_argument(self, tensor: Tensor) -> bool:
        return any(tensor is t for t in self.arguments)

    def is_inside(self, tensor: Tensor) -> bool:
        """Whether the step created it."""
        return tensor in self.created_tensors or (tensor.node is not None and tensor.node.index >= self.start)

    # The end of the step

    def ended(self, value: Any, keep_grads: bool, where: str) -> None:
        """Record what it returned and left in `.grad`. keep_grads: also gradients that an optimiser has used."""
        self.results, self.rebuild, self.plain = flattened(value, where)
        for t in self.results:
            if t.node is not None and writes.latest > t.node.index and writes.since(t.node.index, (t._data,)):
                self.reads_changed(t._data)
        for t in self.written_grads:
            # gradients that accumulate are needed by the next call
            if t._grad is not None and (keep_grads or t not in self.used_grads or t in self.read_grads):
                self.kept_grads[t] = t._grad
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            if optimiser.rates != rate:
                raise CompileError(
                    f"compile: the learning rate went from {describe_rates(rate)} to {describe_rates(optimiser.rates)} after "
                    f"{type(optimiser).__name__}.step() inside the step; a replay would not change it again. "
                    f"Call the schedule outside the compiled step"
                )

    def settle(self) -> None:
        """Leave what a replay leaves: gradients in separate memory, without history; None if used."""
        for optimiser in self.optimisers:
            optimiser.flush()
        for t in self.written_grads:
            t._grad = wrap(copy(self.kept_grads[t]._data), None) if t in self.kept_grads else None

    def failed(self) -> None:
        """The step has failed: leave what it has done so far, with gradients without history."""
        for t in self.written_grads:
            t._grad = None if t._grad is None else wrap(copy(t._grad._data), None)

    def undo(self) -> None:
        """Undo the known changes of the step: arrays, gradients, the optimisers' counts."""
        for array, before in reversed(self.saved):  # arrays may overlap
            with on(array):
                array[...] = before
            writes.wrote(array)
        for t, gradient in self.written_grads.items():
            t._grad = gradient
        for optimiser, missing in zip(self.optimisers, self.missing_grads, strict=True):
            optimiser.count(missing, -1)

    # Results for the compiler

    def inputs(self) -> list[Tensor]:
        """The inputs of the program in each call: the arguments, and the gradients found in `.grad`."""
        return [*self.arguments, *(g for g in self.read_grads.values() if g is not None)]

    def returned(self) -> list[Tensor]:
        """The values that outlive the step: results, and gradients left in `.grad`."""
        return [*self.results, *self.kept_grads.values()]

    def program(self) -> Graph:
        """The graph of everything that the step returned, assigned or drew at random."""
        return self._program

    @cached_property
    def _program(self) -> Graph:
        roots = [self.source(t) for t in self.returned()] + [self.source(a.value) for a in self.assignments]
        # unused draws are included, so that generators advance as in the step; so are meetings of ranks
        roots += [node for node in self.nodes if (node.op.draws or node.op.meets) and node not in self.rerun_nodes]
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
        """The source of a value: a node, an argument, or an outside array."""
        if isinstance(value, Tensor) and value.node is not None:
            value = value.node
        while isinstance(value, Tensor) and value in self.aliases:
            value = self.aliases[value]
        return value

    def names(self) -> dict[tuple[int, int], str]:
        """The names of outside arrays, by address and size; those of an optimiser are named by their role."""
        names = {place_of(leaf._data): name for leaf, name in self.program().leaf_names().items() if leaf.name}
        for optimiser in self.optimisers:
            for block in optimiser.blocks:
                names[place_of(block.flat)] = "parameters"
                names.update((place_of(array), slot) for slot, array in block.state.items())
        return names

    def lines(self) -> list[Line]:
        """The program as lines that a second run must reproduce."""
        graph = self.program()
        labels: dict[Any, str] = {t: f"argument {i}" for i, t in enumerate(self.arguments)}
        labels |= {g: f"gradient {i}" for i, g in enumerate(self.read_grads.values()) if g is not None}
        labels |= {t: f"number {name} {i}" for i, (_, leaves) in enumerate(self.numbers) for name, t in leaves.items()}
        lines: list[Line] = []

        def label(value: Any, arrays: list[Any]) -> str:
            if isinstance(value, (Node, Tensor)):
                value = self.source(value)
            if isinstance(value, (Node, Tensor)) and value in labels:
                return labels[value]
            array = value._data if isinstance(value, Tensor) else value
            if isinstance(value, Tensor) or (is_array(array) and not isinstance(array, np.generic)):
                arrays.append(array)
                return f"array {array.shape} {dtype_name(array.dtype)}"
            if isinstance(value, (tuple, list)):
                return str([label(v, arrays) for v in value])
            if isinstance(value, (int, float, complex, str, bytes, slice, np.generic, np.dtype, type(None))):
                return repr(value)
            arrays.append(value)  # such as a generator: the same one, or an equal one
            return type(value).__name__

        for i, node in enumerate(graph.nodes):
            labels[node] = f"%{i}"
            arrays: list[Any] = []
            parts = [label(s, arrays) for s in node.inputs]
            parts += [f"{key}={label(value, arrays)}" for key, value in node.attrs.items()]
            text = f"{node.scope} {node.op.name}({', '.join(parts)}) {node.shape} {dtype_name(node.dtype)}"
            lines.append(Line(text, arrays, node.made))
        for a in self.assignments:
            arrays = [a.target]
            lines.append(Line(f"assign {a.target.shape} {label(a.value, arrays)}", arrays, a.location))
        arrays = []
        grads = [label(g, arrays) for g in self.kept_grads.values()]
        lines.append(Line(f"return {[label(t, arrays) for t in self.results]}, gradients {grads}", arrays, None))
        return lines


class Line(NamedTuple):
    """One operation of a program: its text, its outside arrays and other objects, the line in the user's code."""

    text: str
    objects: list[Any]
    location: Location | None

    def differing(self, other: Line) -> list[Any]:
        """Its objects that differ from those of another line with the same text."""
        return [a for a, b in zip(self.objects, other.objects, strict=True) if not same_object(a, b)]


def place_of(array: Array) -> tuple[int, int]:
    """The address and the size of an array in bytes."""
    return address(array), int(array.nbytes)


def one_memory(a: Array, b: Array) -> bool:
    """Whether two arrays are the same memory with the same layout; both are alive, so addresses are unique."""
    return address(a) == address(b) and bool(a.strides == b.strides)


def same_object(a: Any, b: Any) -> bool:
    """Whether two arrays are the same or equal, two functions have the same code and data, or two objects are equal."""
    if a is b:
        return True
    if is_array(a) and is_array(b):
        return one_memory(a, b) or equal(a, b)
    if isinstance(a, FunctionType) and isinstance(b, FunctionType):  # each run creates a new lambda
        data = [[c.cell_contents for c in f.__closure__ or ()] + [*(f.__defaults__ or ())] for f in (a, b)]
        return a.__code__ is b.__code__ and all(same_object(x, y) for x, y in zip(*data, strict=True))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_object(a._data, b._data)
    return type(a) is type(b) and bool(a == b)


def equal(a: Array, b: Array) -> bool:
    """Whether two arrays have the same elements."""
    with on(a):
        return bool(np.array_equal(a, like(b, a), equal_nan=is_floating(a.dtype)))


def compare(before: list[Line], after: list[Line]) -> None:
    """Raise CompileError unless two runs of a step gave the same program, so that a third one would, too."""
    for first, second in zip(before, after, strict=False):
        differing = first.differing(second) if first.text == second.text else []
        if first.text == second.text and not differing:
            continue
        where = f" at {line}" if (line := line_of(second.location or first.location)) else ""
        if differing:
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


def describe_rates(rates: tuple[float, ...]) -> str:
    """The learning rates of an optimiser's groups, as text."""
    return f"{rates[0]}" if len({*rates}) == 1 else f"{rates}"


def here() -> str:
    line = line_of(user_location())
    return f" at {line}" if line else ""


def trace(arguments: list[Tensor], call: Callable[[], Any], keep_grads: bool, where: str = "") -> Trace:
    """The trace of `call`, which calls the step with the leaves `arguments`. Changes by the step remain, also if it fails; if
    it is refused, known changes are undone.

    where   the step, for errors without a line
    """
    result = Trace(arguments)
    tracer: Tracer[Tensor] = result
    try:
        with switched(tracing=True, trace=tracer, fusing=True):
            value = call()
        result.ended(value, keep_grads, where)
    except CompileError:
        result.undo()
        raise
    except BaseException as error:
        result.failed()
        is_misuse = isinstance(error, (AttributeError, TypeError, ValueError, IndexError))
        if arguments and is_misuse and not isinstance(error, TensorgradError):
            error.add_note("compile: inside the step, arguments that are arrays are Tensors")
        raise
    return result
