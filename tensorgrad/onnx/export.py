"""export: write the program that a model records as an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad.compiler.trace import place_of
from tensorgrad.core.backend import is_half
from tensorgrad.core.files import as_path, replacing
from tensorgrad.core.graph import Graph
from tensorgrad.core.node import Node
from tensorgrad.core.state import describe
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, ExportError, MissingDependencyError
from tensorgrad.nn.arguments import flag
from tensorgrad.nn.module import Module
from tensorgrad.onnx import elementwise, movement, reductions  # noqa: F401  (they fill the table)
from tensorgrad.onnx.functions import FUNCTIONS, Call, nodes_and_calls
from tensorgrad.onnx.recording import Power, Program, Size, at_line, record
from tensorgrad.onnx.table import COUNTERPARTS, UNSUPPORTED, NoCounterpart
from tensorgrad.onnx.writer import Use, Value, Writer, printable

OPSET = 20  # of 2023: the first with Gelu; supported by onnxruntime from 1.17 on, TensorRT, OpenVINO and CoreML
IR_VERSION = 9  # the file format of that opset
LIMIT = 2**31 - 2**20  # bytes; the format's limit for one file


def export(
    model: Module, x: Any, path: str | Path, *, batch_axis: int | Sequence[int | None] | None = 0, training: bool = False
) -> Path:
    """Write a model as an .onnx file, which onnxruntime and others run, and return the path.

    model       a module; not changed
    x           an example input: an array or a Tensor with any number of samples; for several arguments a tuple of them, in the
                order of forward, and of other arguments. The file's inputs have these dtypes and, except for the number of
                samples, these shapes
    batch_axis  the axis of samples, whose size is variable in the file: one for all arrays, or a tuple with one per array, None
                for those without; None fixes the number of samples to that of x
    training    whether to export in training mode; by default dropout is off, and batch norm uses its running statistics

    The file contains the recorded operations, in opset 20, named after the modules that recorded them; parameters and buffers
    have their names from state_dict. Inputs are named like forward's arguments; results are y, or y0, y1, ..., or the keys of a
    dict. A name that is already used gets a number, as in x_2. Convolutions, pools and norms of float32 are one operator each;
    in float64, for which onnxruntime has few of them, they are decomposed. Half precision is computed in float32 and rounded
    once per operation, as in tensorgrad.

    Python code runs three times, for two, three and five samples: loops are unrolled, and one branch of an `if` is recorded.

    Raises ExportError, which lists every operation without a counterpart and where it was recorded; also for a model that reads
    values, changes outside arrays, or records different operations for different numbers of samples. Raises
    MissingDependencyError without the package onnx.
    """
    path = as_path("onnx.export", path)
    if not isinstance(model, Module):
        raise ArgumentError(f"onnx.export: model must be a module, got {describe(model)}")
    if path.suffix != ".onnx":
        raise ArgumentError(f"onnx.export: expected a file name ending in .onnx, got {path.name!r}")
    training = flag("onnx.export", "training", training)
    onnx = package("onnx.export")
    proto = model_proto(record(model, x if isinstance(x, tuple) else (x,), batch_axis, training), model)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(path) as file:
        file.write(proto.SerializeToString())
    return path


def package(where: str) -> Any:
    """The package onnx, which defines the file format."""
    try:
        import onnx
    except ImportError:
        raise MissingDependencyError(f"{where} needs onnx: pip install onnx") from None
    return onnx


def model_proto(program: Program, model: Module) -> Any:
    """The contents of the file."""
    names: dict[Any, str] = {}
    w = Writer(program, names)
    input_names = [w.name(printable(name)) for name in program.arguments.values()]
    arrays = [(path, p._data) for path, p in model.named_parameters()] + list(model.named_buffers())
    for path, array in arrays:
        place = (*place_of(array), array.shape, array.strides)
        if place not in names:
            names[place] = w.name(printable(path))
    helper, kind = w.helper, w.helper.np_dtype_to_tensor_dtype
    check_dtypes(program)
    total = sum(c.array.nbytes for c in program.constants.values())
    if total > LIMIT:
        raise ExportError(f"onnx.export: the model has {total:,} bytes of arrays, but an ONNX file must be smaller than 2 GiB")
    result_names = [w.name(printable(name)) for name in program.names]
    inputs = []
    for leaf, name in zip(program.arguments, input_names, strict=True):
        value = Value(name, leaf.dtype, program.shapes[leaf])
        w.values[leaf] = value
        inputs.append(helper.make_tensor_value_info(value.name, kind(leaf.dtype), dims(value.shape)))
    if program.batch is not None:
        i, axis = program.batch
        source = list(w.values.values())[i]
        shape = w("Shape", source, dtype=np.int64, start=axis, end=axis + 1, shape=(1,))
        w.sample_count = shape
    problems: dict[str, list[str]] = {}
    independent_nodes = independent(program)
    for part in nodes_and_calls(program):
        node = part.node if isinstance(part, Call) else part
        w.scope = printable(str(node.scope)) if node.scope else ""
        try:
            if isinstance(part, Call):
                output = FUNCTIONS[part.called.fn](w, part)
            elif node.op in COUNTERPARTS:
                output = COUNTERPARTS[node.op](w, Use(w, node, program))
            else:
                raise NoCounterpart(UNSUPPORTED.get(node.op, "a custom operation; write it with operations of tensorgrad"))
        except NoCounterpart as error:
            if node in independent_nodes:  # such as a weight computed from a parameter
                w.values[node] = w.constant(Graph([node], check=False).run()[0])
                continue
            problems.setdefault(f"{node.op.name} ({error})", []).append(at_line(node).strip())
            w.values[node] = Value("?", node.dtype, program.shapes[node])
            continue
        w.values[node] = w.cast(output, node.dtype)._replace(shape=program.shapes[node])
    if problems:
        raise ExportError(f"onnx.export: no counterpart in ONNX: {problem_list(problems)}")
    outputs: list[Any] = []
    results: list[tuple[str, Value]] = []
    w.scope = ""
    for name, result in zip(result_names, program.results, strict=True):
        found = w.value(result)
        results.append((name, found))
        outputs.append(helper.make_tensor_value_info(name, kind(found.dtype), dims(found.shape)))
    rename_results(w, results)
    contiguous = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in w.initialisers.items()}
    tensors = [w.onnx.numpy_helper.from_array(a, name) for name, a in contiguous.items()]
    graph = helper.make_graph(w.nodes, type(model).__name__, inputs, outputs, tensors)
    return helper.make_model(
        graph, producer_name="tensorgrad", producer_version=tensorgrad.__version__, ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )  # fmt: skip


def independent(program: Program) -> set[Node]:
    """The nodes that do not depend on the input: computed from parameters and constants, without random numbers."""
    independent_nodes: set[Node] = set()
    for node in program.nodes:
        arrays = [s for s in program.sources[node] if isinstance(s, (Node, Tensor))]
        is_independent = all(s in independent_nodes if isinstance(s, Node) else s in program.constants for s in arrays)
        has_sizes = any(isinstance(n, Size) for s in (node, *arrays) for n in program.shapes[s])
        if is_independent and not has_sizes and not node.op.draws and not any(key[0] is node for key in program.numbers if
                                                                  isinstance(program.numbers[key], (Size, Power))):  # fmt: skip
            independent_nodes.add(node)
    return independent_nodes


def check_dtypes(program: Program) -> None:
    """Raise ExportError for dtypes that ONNX does not support."""
    sources: list[Any] = [*program.nodes, *program.arguments, *program.constants]
    for source in sources:
        dtype = np.dtype(source.dtype)
        if dtype.kind == "c" or dtype.itemsize > 8 or (dtype.kind not in "biuf" and not is_half(dtype)):
            where = at_line(source) if isinstance(source, Node) else ""
            raise ExportError(f"onnx.export: ONNX does not support dtype {dtype}{where}")


def dims(shape: Sequence[Any]) -> list[Any]:
    """A shape for the file: numbers, and names for sizes that depend on the number of samples."""
    return [n if not isinstance(n, Size) else "batch" if n == Size(1, 0) else f"{n.slope}*batch{n.offset:+d}" if n.offset else
            f"{n.slope}*batch" for n in shape]  # fmt: skip


def problem_list(problems: dict[str, list[str]]) -> str:
    """Each problem once, with the places where it occurs."""
    texts = []
    for problem, all_lines in problems.items():
        lines = [p for p in dict.fromkeys(all_lines) if p]
        rest = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        texts.append(problem + (f" {'; '.join(lines[:5])}{rest}" if lines else ""))
    return "; ".join(texts)


def rename_results(w: Writer, results: Sequence[tuple[str, Value]]) -> None:
    """Give the final nodes the names of the results, and drop nodes that nothing reads."""
    produced = {out for node in w.nodes for out in node.output}
    renamed: dict[str, str] = {}
    for name, value in results:
        if value.name in produced and value.name not in renamed:
            renamed[value.name] = name
        else:
            w.nodes.append(w.helper.make_node("Identity", [value.name], [name], w.name(f"{name}.Identity")))
    for node in nodes_in(w.nodes):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    used = {name for name, _ in results}
    needed = []
    for node in reversed(w.nodes):
        if not used.isdisjoint(node.output):
            needed.append(node)
            used |= {name for inner in nodes_in([node]) for name in inner.input}
    w.nodes = needed[::-1]
    w.initialisers = {name: array for name, array in w.initialisers.items() if name in used}


def nodes_in(nodes: Iterable[Any]) -> Iterator[Any]:
    """These nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_in(attribute.g.node)
