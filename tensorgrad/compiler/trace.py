"""Tracing: one run of a step, written down as a program: what it computes, what it changes, what its numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, address, is_array, like, on
from tensorgrad.core.graph import Graph
from tensorgrad.core.location import Location, line_of, user_location
from tensorgrad.core.node import Node
from tensorgrad.core.state import Tracer, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import CompileError
from tensorgrad.nn.module import Module
from tensorgrad.optim.optimiser import Optimiser

Source = Node | Tensor


@dataclass
class Assignment:
    """An array from outside the step that the step writes to."""

    target: Array
    value: Source
    index: int  # when, on the clock that numbers nodes


@dataclass
class Trace:
    """What a run of the step left besides the nodes that it recorded.

    arguments    the arrays that the step was called with, as the leaves that stand for them
    same         leaves that have the value of another Tensor: copies, detached ones
    assignments  in the order in which they were made
    numbers      functions that each replay asks for numbers by name (learning rates), and the leaves that stand for them
    optimisers   those that made a step, and their learning rates at that time
    modules      whose forward ran, and whether they were in training
    grads        Tensors that backward() gave a gradient, with the Tensor that their `.grad` was at the start, or None
    kept         those of them whose gradient outlives the step, with it: no optimiser has used it up
    results      the Tensors in what the step returned, and a function that puts others in their place
    """

    arguments: list[Tensor]
    same: dict[Tensor, Source] = field(default_factory=dict)
    assignments: list[Assignment] = field(default_factory=list)
    numbers: list[tuple[Callable[[], Mapping[str, float]], dict[str, Tensor]]] = field(default_factory=list)
    optimisers: list[Optimiser] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    modules: dict[Module, bool] = field(default_factory=dict)
    grads: dict[Tensor, Tensor | None] = field(default_factory=dict)
    kept: dict[Tensor, Tensor] = field(default_factory=dict)
    made: set[Tensor] = field(default_factory=set)
    results: list[Tensor] = field(default_factory=list)
    rebuild: Callable[[list[Any]], Any] = lambda values: None

    # What the rest of the package says while the step runs

    def accumulates(self, tensor: Tensor) -> None:
        """backward() is about to add to `tensor.grad`."""
        if self.is_argument(tensor):
            raise CompileError(
                f"compile: backward() leaves a .grad on an argument{here()}, which the caller would not see; "
                f"take it with tensorgrad.grad(loss, x) and return it"
            )
        if tensor not in self.made:
            self.grads.setdefault(tensor, tensor.grad)

    def makes(self, tensor: Tensor, source: Tensor | None) -> None:
        """A Tensor is made inside the step: of numbers, or a copy of another one."""
        self.made.add(tensor)
        if source is not None:
            self.same[tensor] = source.node or source

    def writes(self, tensor: Tensor, after: Tensor) -> bool:
        """A leaf has been given the value of `after` in its own memory; whether it is one from outside, and stays a leaf."""
        if tensor in self.made or self.is_argument(tensor):
            return False
        if after.requires_grad:
            raise CompileError(
                f"compile: a Tensor {tensor.shape} from outside of the step is given, in place{here()}, what requires a "
                f"gradient; its history would go on from call to call. Use .detach(), or no_grad()"
            )
        self.assigns(tensor.data, after)
        return True

    def assigns(self, target: Array, value: Tensor) -> None:
        """`target` has been given the value of a Tensor."""
        self.assignments.append(Assignment(target, value.node or value, writes.tick()))

    def enters(self, module: Module) -> None:
        """The forward of a module is about to run."""
        self.modules[module] = module.training

    def steps(self, optimiser: Optimiser) -> None:
        """An optimiser makes a step."""
        if optimiser in self.optimisers:
            raise CompileError(
                f"compile: {type(optimiser).__name__}.step() is called twice in one step{here()}; compile one of them"
            )
        self.optimisers.append(optimiser)
        self.rates.append(optimiser.lr)

    def asks(self, compute: Callable[[], Mapping[str, float]], near: Array) -> dict[str, Tensor]:
        """0-d leaves, of the dtype and on the device of `near`, for numbers that each replay asks for again."""
        leaves = {name: wrap(like(np.asarray(value, near.dtype), near), None) for name, value in compute().items()}
        self.numbers.append((compute, leaves))
        return leaves

    def refuse(self, tensor: Tensor, asked: str) -> None:
        """Raise CompileError if `tensor` has a value that differs from call to call: Python cannot act on it in a replay."""
        if tensor.node is not None or tensor.requires_grad or self.is_argument(tensor) or tensor in self.same:
            raise CompileError(
                f"compile: {asked} asks for the value of a Tensor {tensor.shape} inside the step{here()}; a replay does not "
                f"run Python code that depends on values. Return the Tensor, choose with where(), or do it outside of the step"
            )

    def is_argument(self, tensor: Tensor) -> bool:
        return any(tensor is t for t in self.arguments)

    # What the compiler reads

    def program(self) -> Graph:
        """The graph of everything that the step returned or assigned."""
        roots = [self.source(t) for t in self.results]
        roots += [self.source(a.value) for a in self.assignments] + [self.source(g) for g in self.kept.values()]
        outputs = list(dict.fromkeys(r for r in roots if isinstance(r, Node)))
        while True:
            graph = Graph(outputs, check=False)
            hidden = [s for leaf in graph.leaves if isinstance(s := self.source(leaf), Node) and s not in outputs]
            known = set(graph.nodes)
            hidden = [s for s in dict.fromkeys(hidden) if s not in known]
            if not hidden:
                return graph
            outputs += hidden

    def source(self, value: Source) -> Source:
        """What a value comes from: a node, an argument, or an array from outside."""
        if isinstance(value, Tensor) and value.node is not None:
            value = value.node
        while isinstance(value, Tensor) and value in self.same:
            value = self.same[value]
        return value

    def names(self) -> dict[tuple[int, int], str]:
        """What arrays from outside are called, by where they begin and their size; an optimiser's are named by their role."""
        found = {place_of(leaf.data): name for leaf, name in self.program().leaf_names().items() if leaf.name}
        for optimiser in self.optimisers:
            for group in optimiser.groups:
                found[place_of(group.flat)] = "parameters"
                found.update((place_of(array), slot) for slot, array in group.state.items())
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
            array = value.data if isinstance(value, Tensor) else value
            if is_array(array):
                arrays.append(array)
                return f"array {array.shape} {array.dtype}"
            if isinstance(value, (tuple, list)):
                return str([named(v, arrays) for v in value])
            return repr(value) if isinstance(value, (int, float, str, bool, slice)) or value is None else type(value).__name__

        for i, node in enumerate(graph.nodes):
            place[node] = f"%{i}"
            arrays: list[Any] = []
            parts = [named(s, arrays) for s in node.inputs]
            parts += [f"{key}={named(value, arrays)}" for key, value in node.attrs.items()]
            text = f"{node.scope} {node.op.name}({', '.join(parts)}) {node.shape} {node.dtype}"
            lines.append(Line(text, arrays, node.made))
        for a in self.assignments:
            arrays = [a.target]
            lines.append(Line(f"assign {a.target.shape} {named(a.value, arrays)}", arrays, None))
        arrays = []
        lines.append(Line(f"return {[named(t, arrays) for t in self.results]}", arrays, None))
        return lines


class Line(NamedTuple):
    """One operation of a program: what it is, the arrays from outside in it, where in the user's code it was recorded."""

    text: str
    arrays: list[Array]
    made: Location | None

    def same_as(self, other: Line) -> bool:
        pairs = zip(self.arrays, other.arrays, strict=False)
        return self.text == other.text and all(a is b or one_memory(a, b) or equal(a, b) for a, b in pairs)


def place_of(array: Array) -> tuple[int, int]:
    """Where an array begins, and how many bytes it has."""
    return address(array), int(array.nbytes)


def one_memory(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements in the same places; both are alive, so that no address was given twice."""
    return address(a) == address(b) and bool(a.strides == b.strides)


def equal(a: Array, b: Array) -> bool:
    """Whether two arrays have the same elements."""
    with on(a):
        return bool(np.array_equal(a, like(b, a)))


def compare(before: list[Line], after: list[Line]) -> None:
    """Raise CompileError unless two runs of a step gave the same program: then a third one would too."""
    for first, second in zip(before, after, strict=False):
        if first.same_as(second):
            continue
        where = f" at {line}" if (line := line_of(second.made or first.made)) else ""
        if first.text == second.text:
            raise CompileError(
                f"compile: {second.text.strip()}{where} reads an array that was another one in the first call, so it "
                f"depends on what a replay does not run. Compute it with tensorgrad's operations, or pass it as an argument"
            )
        raise CompileError(
            f"compile: the step did something else the second time{where}: {second.text.strip()} where it had done "
            f"{first.text.strip()}. A replay would do one of the two for ever; pass what differs as an argument"
        )
    if len(before) != len(after):
        raise CompileError(
            f"compile: the step recorded {len(before)} operations at first and {len(after)} the second time; "
            f"a replay would do one of the two for ever"
        )


def here() -> str:
    line = line_of(user_location())
    return f" at {line}" if line else ""


def trace(arguments: list[Tensor], call: Callable[[], Any], keep_grads: bool) -> Trace:
    """What is recorded when `call` calls the step with the leaves `arguments`.

    keep_grads   whether gradients that an optimiser has used up are left in `.grad`, instead of None
    """
    found = Trace(arguments)
    tracer: Tracer[Tensor] = found
    with switched(tracing=True, trace=tracer, fusing=True):
        found.results, found.rebuild = taken_apart(call())
    used = {p for optimiser in found.optimisers for p in optimiser.params}
    for t in found.grads:
        if t.grad is not None and (keep_grads or t not in used):
            found.kept[t] = t.grad
            t.grad = wrap(t.grad.data, None)
        else:
            t.grad = None
    for optimiser, rate in zip(found.optimisers, found.rates, strict=True):
        if optimiser.lr != rate:
            raise CompileError(
                f"compile: the learning rate went from {rate} to {optimiser.lr} after {type(optimiser).__name__}.step() inside "
                f"the step; a replay would not change it again. Call the schedule outside of the compiled step"
            )
    return found


def taken_apart(value: Any) -> tuple[list[Tensor], Callable[[list[Any]], Any]]:
    """The Tensors in a nest of tuples, lists and dicts, and a function that puts values in their places."""
    tensors: list[Tensor] = []

    def visit(v: Any) -> Callable[[list[Any]], Any]:
        if isinstance(v, Tensor):
            i = len(tensors)
            tensors.append(v)
            return lambda values: values[i]
        if isinstance(v, dict):
            parts = {key: visit(part) for key, part in v.items()}
            return lambda values: {key: part(values) for key, part in parts.items()}
        if isinstance(v, tuple) and hasattr(v, "_fields"):
            made, kind = [visit(part) for part in v], type(v)
            return lambda values: kind(*[part(values) for part in made])
        if isinstance(v, (tuple, list)):
            listed, sequence = [visit(part) for part in v], type(v)
            return lambda values: sequence(part(values) for part in listed)
        return lambda values: v

    return tensors, visit(value)
