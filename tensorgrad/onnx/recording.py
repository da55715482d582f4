"""Recording the program of a model for export, with several numbers of samples, to find what depends on it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn

import numpy as np

from tensorgrad.compiler.trace import Trace, here, place_of
from tensorgrad.core.backend import Array, is_array, is_half, move
from tensorgrad.core.location import line_of
from tensorgrad.core.node import Node
from tensorgrad.core.state import describe, state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, CompileError, DTypeError, ExportError, TensorgradError
from tensorgrad.nn.module import Module
from tensorgrad.nn.trial import preserve_state

SAMPLES = (2, 3, 5)  # one sample would broadcast; two numbers define a line, the third tests it


class Size(NamedTuple):
    """An integer that depends on the number of samples n: slope n + offset."""

    slope: int
    offset: int


class Power(NamedTuple):
    """A number that depends on the number of samples n: factor n^power."""

    factor: float
    power: float


class Constant(NamedTuple):
    """An array that the program reads and does not compute, along whose axes `shape` has a Size.

    kind    "one": `array` is one entry, repeated; "range": 0, 1, 2, ... along the one axis, of the dtype of `array`
    """

    kind: str
    array: Array
    shape: tuple[Any, ...]


class Recorder(Trace):
    """A trace whose errors are about a file instead of replays."""

    def needs_value(self, tensor: Tensor, reader: str) -> None:
        try:
            super().needs_value(tensor, reader)
        except CompileError:
            raise ExportError(
                f"onnx.export: {reader} needs the value of a Tensor {tensor.shape} in the model{here()}; a file holds the "
                f"computation, not the Python code that depends on values. Use where()"
            ) from None

    def forbid(self, what: str) -> NoReturn:
        raise ExportError(f"onnx.export: {what} in the model{here()}; a file only computes results")


class Run:
    """The recording of one run of the model; entries at the same positions in two runs correspond.

    nodes     those that computed the results, in order;  sources: where the arguments of each come from
    leaves    the arrays that they read, in order of first use
    results   where the results come from;  names: their names
    """

    def __init__(self, trace: Trace, is_training: bool) -> None:
        self.trace = trace
        if trace.assignments and not is_training:
            where = f" at {line}" if (line := line_of(trace.assignments[0].location)) else ""
            raise ExportError(
                f"onnx.export: the model changes an array {trace.assignments[0].target.shape} that outlives the call{where}; a "
                f"file keeps no state between calls. Return the new values"
            )
        self.results = [trace.source(t) for t in trace.results]
        self.sources: dict[Node, tuple[Any, ...]] = {}
        stack = [r for r in self.results if isinstance(r, Node)]
        while stack:
            node = stack.pop()
            if node in self.sources:
                continue
            if node.index < trace.start:
                raise ExportError(
                    f"onnx.export: the model reads a Tensor {node.shape} that was computed outside of it by {node.op.name}; "
                    f".detach() it"
                )
            self.sources[node] = tuple(trace.source(s) if isinstance(s, (Node, Tensor)) else s for s in node.inputs)
            stack += [s for s in self.sources[node] if isinstance(s, Node)]
        self.nodes = sorted(self.sources, key=attrgetter("index"))
        sources = [s for node in self.nodes for s in self.sources[node]] + self.results
        self.leaves = list(dict.fromkeys(s for s in sources if isinstance(s, Tensor)))
        self.names = list(names_of(trace.rebuild(list(range(len(trace.results)))), "y"))

    def positions(self) -> dict[Any, int]:
        """The position of each node and leaf in this run."""
        return {value: i for i, value in enumerate([*self.nodes, *self.leaves])}


class Program:
    """The program for any number of samples, or for one.

    nodes, sources, results, names   from the first run
    attrs, shapes     of its nodes, with a Size if they depend on the number of samples; shapes also of leaves
    numbers           arguments that are numbers, by node and position, as a Size or a Share if they depend on it
    arguments         the leaves that are inputs, with their names and shapes
    constants         all other leaves
    batch             the argument and the axis that give the number of samples; None if it is fixed
    """

    def __init__(self, runs: Sequence[Run], arguments: Sequence[str], batch: tuple[int, int] | None) -> None:
        first = runs[0]
        self.nodes, self.sources, self.results, self.names = first.nodes, first.sources, first.results, first.names
        self.trace, self.batch = first.trace, batch
        self.attrs: dict[Node, dict[str, Any]] = {}
        self.shapes: dict[Any, tuple[Any, ...]] = {}
        self.numbers: dict[tuple[Node, int], Any] = {}
        self.arguments = dict(zip(first.trace.arguments, arguments, strict=True))
        self.constants: dict[Tensor, Constant] = {}
        positions = [run.positions() for run in runs]
        for nodes in zip(*[run.nodes for run in runs], strict=False):
            self.merge(nodes, runs, positions)
        lengths = [(len(run.nodes), len(run.results), run.names) for run in runs]
        if any(length != lengths[0] for length in lengths):
            raise ExportError(
                f"{OTHER}: {lengths[0][0]} operations for {SAMPLES[0]} samples, but a different number for others"
            )
        for leaves in zip(*[run.leaves for run in runs], strict=True):
            if not any(run.trace.is_argument(t) for run, t in zip(runs, leaves, strict=True)):
                self.constants[leaves[0]] = constant([move(t._data, "cpu") for t in leaves])
                self.shapes[leaves[0]] = self.constants[leaves[0]].shape
        for i, t in enumerate(first.trace.arguments):
            self.shapes[t] = merged([run.trace.arguments[i].shape for run in runs])

    def merge(self, nodes: Sequence[Node], runs: Sequence[Run], positions: Sequence[Mapping[Any, int]]) -> None:
        first = nodes[0]
        if len({node.op.name for node in nodes}) > 1 or len({len(node.inputs) for node in nodes}) > 1:
            raise ExportError(f"{OTHER}: {' and '.join(dict.fromkeys(n.op.name for n in nodes))}{at_line(first)}")
        try:
            self.attrs[first] = merged([node.attrs for node in nodes])
            self.shapes[first] = merged([node.shape for node in nodes])
            for i, arguments in enumerate(zip(*[run.sources[n] for run, n in zip(runs, nodes, strict=True)], strict=True)):
                if isinstance(arguments[0], (Node, Tensor)):
                    if len({position.get(s) for position, s in zip(positions, arguments, strict=True)}) > 1:
                        raise ExportError(f"{OTHER}: {first.op.name}{at_line(first)} has different inputs")
                else:
                    self.numbers[first, i] = merged(arguments)
        except Differs as error:
            raise ExportError(
                f"onnx.export: {error} of {first.op.name}{at_line(first)} depends on the number of samples in an unknown "
                f"way; batch_axis=None writes a file for the number of samples in x"
            ) from None


OTHER = "onnx.export: the model does something else for a different number of samples, but a file is fixed"


class Differs(Exception):
    """What differs between runs in a way that no Size describes."""


def record(model: Module, args: Sequence[Any], batch_axis: Any, training: bool) -> Program:
    """The program of model(*args).

    batch_axis   the axis of samples: one for all arrays among the arguments, or one per array, None for arrays without
    """
    names = argument_names(model, args)
    flat: list[Array] = []
    templates = [template_of(a, flat) for a in args]
    if not flat:
        raise ArgumentError(f"onnx.export: {EXPECTED}, got {', '.join(map(describe, args)) or 'an empty tuple'}")
    labels = [name for name, a in zip(names, args, strict=True) for name in names_of(template_of(a, []), name)]
    axes = axes_of(batch_axis, flat)
    counts = {flat[i].shape[axis] for i, axis in enumerate(axes) if axis is not None}
    if len(counts) > 1:
        raise ExportError(f"onnx.export: the inputs have {sorted(counts)} samples; batch_axis gives the axis of each")
    batch = next(((i, axis) for i, axis in enumerate(axes) if axis is not None), None)
    if batch is not None and 0 in counts:
        raise ExportError("onnx.export: the inputs have no samples")
    runs = []
    for n in SAMPLES if batch is not None else (0,):
        arrays = [a if axis is None else rows(a, axis, n) for a, axis in zip(flat, axes, strict=True)]
        try:
            runs.append(run(model, templates, arrays, training))
        except ExportError:
            raise
        except TensorgradError as error:
            if batch is not None:
                error.add_note(f"onnx.export called the model with {n} samples; batch_axis=None calls it with x unchanged")
            raise
    return Program(runs, labels, batch)


def run(model: Module, templates: Sequence[Any], arrays: Sequence[Array], training: bool) -> Run:
    """Run the model once, preserving its state."""
    modules = [module for _, module in model.named_modules()]
    leaves = [wrap(a, None) for a in arrays]
    leaf_iterator = iter(leaves)
    args = [filled(template, leaf_iterator) for template in templates]
    recorder = Recorder(leaves)
    modes = {id(module): (module, training) for module in modules}
    try:
        with preserve_state(modules), switched(modes={**state.modes, **modes}):
            with switched(tracing=True, trace=recorder, recording=True, fusing=False):
                value = model(*args)
            recorder.ended(value, False, "onnx.export")
    except CompileError as error:
        raise ExportError(f"onnx.export: {str(error).removeprefix('compile: ')}") from None
    finally:
        recorder.undo()
    if not recorder.results:
        raise ExportError(f"onnx.export: the model returned {describe(value)}, expected Tensors")
    return Run(recorder, training)


def argument_names(model: Module, args: Sequence[Any]) -> list[str]:
    """The names of the arguments of `forward`."""
    positional = [
        p for p in inspect.signature(model.forward).parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)
    ]
    names = [p.name for p in positional if p.kind is not p.VAR_POSITIONAL][: len(args)]
    return [*names, *[f"x{i}" for i in range(len(names), len(args))]]


def template_of(a: Any, arrays: list[Array]) -> Any:
    """An argument with arrays replaced by their numbers; the arrays are appended to `arrays`."""
    if isinstance(a, (tuple, list)):
        return tuple(template_of(part, arrays) for part in a)
    if isinstance(a, Mapping):
        raise ArgumentError(f"onnx.export: {EXPECTED}, got {describe(a)}")
    if isinstance(a, Tensor):
        a = a._data
    if not is_array(a):
        return NotArray(a)
    if a.dtype.kind not in "biufc" and not is_half(a.dtype):
        raise DTypeError(f"onnx.export: x must be numeric or boolean, got {describe(a)}")
    arrays.append(np.array(move(a, "cpu"), a.dtype if a.dtype.isnative else a.dtype.newbyteorder("=")))
    return len(arrays) - 1


class NotArray(NamedTuple):
    """An argument that is not an array: None, a number, a name."""

    value: Any


def filled(template: Any, leaves: Iterator[Tensor]) -> Any:
    """The inverse of `template_of`: the argument, with Tensors for its arrays."""
    if isinstance(template, NotArray):
        return template.value
    return tuple(filled(part, leaves) for part in template) if isinstance(template, tuple) else next(leaves)


def names_of(template: Any, name: str) -> Iterator[str]:
    """Names for the numbers in a nested value: y, or y0, y1, ..., or the keys of a dict."""
    if isinstance(template, NotArray) or template is None:
        return
    if isinstance(template, Mapping):
        for key, part in template.items():
            yield from names_of(part, str(key))
    elif isinstance(template, (tuple, list)):
        for i, part in enumerate(template):
            yield from names_of(part, f"{name}{i}")
    else:
        yield name


EXPECTED = "x must be an array, or a tuple of the arguments of forward, at least one, in its order"


def axes_of(batch_axis: Any, arrays: Sequence[Array]) -> list[int | None]:
    """The axis of samples of each array."""
    entries = batch_axis if isinstance(batch_axis, (tuple, list)) else [batch_axis if a.ndim else None for a in arrays]
    if len(entries) != len(arrays):
        raise ExportError(f"onnx.export: batch_axis has {len(entries)} entries for {len(arrays)} arrays")
    axes: list[int | None] = []
    for axis, a in zip(entries, arrays, strict=True):
        is_axis = isinstance(axis, (int, np.integer)) and not isinstance(axis, bool)
        if axis is not None and not (is_axis and -a.ndim <= axis < a.ndim):
            raise ExportError(f"onnx.export: batch_axis must be an axis of x, shape {a.shape}, or None, got {describe(axis)}")
        axes.append(None if axis is None else int(axis) % a.ndim)
    return axes


def rows(array: Array, axis: int, n: int) -> Array:
    """n samples: those of the array, repeated cyclically."""
    return array.take(np.arange(n) % array.shape[axis], axis)


def merged(values: Sequence[Any]) -> Any:
    """One value for all numbers of samples: a Size if integers differ. Raises Differs for other differences."""
    first = values[0]
    if all(v is first for v in values):
        return first
    if isinstance(first, dict):
        return {key: merged([v[key] for v in values]) for key in first}
    if isinstance(first, (tuple, list)) and len({len(v) for v in values}) == 1:
        return tuple(merged(part) for part in zip(*values, strict=True))
    if isinstance(first, slice):
        return slice(*[merged([getattr(v, part) for v in values]) for part in ("start", "stop", "step")])
    if is_array(first):
        if all(np.array_equal(first, v) for v in values):
            return first
        raise Differs("an index")
    if isinstance(first, (int, np.integer)) and not isinstance(first, bool):
        a, b, c = (int(v) for v in values)
        slope, remainder = divmod(b - a, SAMPLES[1] - SAMPLES[0])
        size = Size(slope, a - slope * SAMPLES[0])
        if not remainder and size.slope * SAMPLES[2] + size.offset == c:
            return size if slope else a
    if isinstance(first, Callable) or all(type(v) is type(first) and v == first for v in values):  # type: ignore[arg-type]
        return first
    if isinstance(first, float):
        if all(math.isnan(v) for v in values):
            return first
        for power in (-1.0, -0.5, 0.5, 1.0):  # of means and norms
            factors = [v / n**power for v, n in zip(values, SAMPLES, strict=True)]
            if np.allclose(factors, factors[0], rtol=1e-12, atol=0):
                return Power(factors[0], power)
    raise Differs("an argument or an attribute")


def constant(arrays: Sequence[Array]) -> Constant:
    """A constant for any number of samples."""
    first = arrays[0]
    if len({a.shape for a in arrays}) == 1:
        if any(place_of(a) != place_of(first) and not np.array_equal(a, first, equal_nan=a.dtype.kind == "f") for a in arrays):
            raise ExportError(f"{OTHER}: an array {first.shape} that it reads has different values")
        return Constant("one", first, first.shape)
    try:
        shape = merged([a.shape for a in arrays])
    except Differs:
        shape = ()
    entry = first[tuple(slice(0, 1) if isinstance(n, Size) else slice(None) for n in shape)]
    if shape and all(np.array_equal(a, np.broadcast_to(entry, a.shape), equal_nan=a.dtype.kind == "f") for a in arrays):
        return Constant("one", entry, shape)
    is_row = sum(n != 1 for n in shape) == 1 and first.dtype.kind in "iuf"
    if is_row and all(a.size > 1 and np.array_equal(a.reshape(-1), np.arange(a.size)) for a in arrays):
        return Constant("range", entry, shape)
    raise ExportError(
        f"onnx.export: an array {first.shape} that the model creates with NumPy depends on the number of samples; compute it "
        f"with operations of tensorgrad, or pass it as an input"
    )


def at_line(node: Node) -> str:
    """Where a node was recorded: " in 0.body at model.py:14"."""
    return (f" in {node.scope}" if node.scope else "") + (f" at {node.line}" if node.line else "")
