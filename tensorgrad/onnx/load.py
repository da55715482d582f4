"""load: an ONNX file as a module whose parameters can be trained."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.core.backend import finfo, is_floating
from tensorgrad.core.tensor import Tensor
from tensorgrad.data.npz import file_at
from tensorgrad.errors import DataError, TensorgradError
from tensorgrad.nn.module import RESERVED, Module, Parameter
from tensorgrad.onnx import recurrent, resize  # noqa: F401  they fill OPERATORS
from tensorgrad.onnx.export import package
from tensorgrad.onnx.external import ExternalFiles
from tensorgrad.onnx.limits import Budget
from tensorgrad.onnx.operators import OPERATORS
from tensorgrad.onnx.program import Body, Step, compute
from tensorgrad.onnx.writer import printable

OLDEST = 13  # before it, axes were attributes of more operators
NO_PARAMETERS = {"BatchNormalization": (3, 4), "Resize": (1, 2)}  # inputs: statistics, scales
STATES = {"GRU": (5,), "LSTM": (5, 6), "RNN": (5,)}  # inputs: initial states, which are not parameters if they are 0
MAX_DEPTH = 30  # nested modules, from the dots of a name; a name with more dots is not split
# how PyTorch's exporter names numbers that it has computed, such as the scale of attention; also weights that it has
# transposed, but these have two axes
COMPUTED_NAME = re.compile(r"val_\d+")
EXPORTED_CONSTANT = re.compile(r"constant_\d+(\.\d+)?")  # how `export` names an array that is not a parameter


class Loaded(Module):
    """The module that `load` returns. Called with the file's inputs, in order, it returns the result, or a tuple of several.

    Parameters and buffers have the names and the layout of the file.
    """

    def __init__(self, graph: Any, nodes: list[Step]) -> None:
        super().__init__()
        self.inputs = tuple(i.name for i in graph.input if i.name not in {t.name for t in graph.initializer})
        self.outputs = tuple(o.name for o in graph.output)
        self.nodes = nodes
        self.constants: dict[str, Any] = {}
        self.places: dict[str, str] = {}

    def forward(self, *xs: Any) -> Any:
        if len(xs) != len(self.inputs):
            raise DataError(f"onnx.load: the file has the inputs {', '.join(self.inputs)}, got {len(xs)}")
        values: dict[str, Any] = {"": None, **self.constants}
        for name, path in self.places.items():
            module: Any = self
            for key in path.split("."):
                module = getattr(module, key)
            values[name] = module
        values |= {name: x if isinstance(x, Tensor) else Tensor(x) for name, x in zip(self.inputs, xs, strict=True)}
        arrays = [value for value in values.values() if value is not None]
        budget = Budget(sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays))
        results = compute(self.nodes, self.outputs, values, budget)
        return results[0] if len(results) == 1 else tuple(results)


def load(path: str | Path) -> Loaded:
    """Load an .onnx file as a module: MLPs, CNNs, recurrent networks and transformers, written by PyTorch's exporter, skl2onnx
    or `export`.

    Floating initialisers with at least one axis are parameters, except for the statistics of batch norm, which are buffers as
    in evaluation, zero initial states of recurrent networks, masks (with infinities or the lowest number) and numbers computed
    by exporters; all others are constants. Dropout is ignored. A scikit-learn classifier returns labels and probabilities, the
    latter as one Tensor.

    Initialisers may be stored in a file of the same folder, such as the .onnx.data that PyTorch writes. PyTorch writes equal
    arrays once: two layers with the same initial values become one parameter.

    No code in a file is run: it names operators that are implemented here. Raises FileNotFoundError if the file does not exist;
    DataError, with the file and the reason, for an invalid file, one with arrays in another folder, or one with unsupported
    operators, all of which are listed; MissingDependencyError without the package onnx.
    """
    path = file_at("onnx.load", path)
    onnx = package("onnx.load")
    content = path.read_bytes()
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # raised by protobuf
        raise DataError(f"{path}: not a valid .onnx file: {first_line(error)}") from None
    external = external_arrays(path, onnx, proto.graph)
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise DataError(f"{path}: not a valid .onnx file: {first_line(error)}") from None
    try:
        return loaded(path, onnx, proto, external)
    except TensorgradError:
        raise
    except Exception as error:  # an invalid file that the checker accepts
        raise DataError(f"{path}: not a valid .onnx file: {first_line(error)}") from error


def loaded(path: Path, onnx: Any, proto: Any, external: dict[str, Any]) -> Loaded:
    """The module of a file that the checker accepts."""
    graph = proto.graph
    versions = {o.domain: o.version for o in proto.opset_import}
    if versions.get("", OLDEST) < OLDEST:
        raise DataError(f"{path}: has opset {versions['']}, expected {OLDEST} or later")
    if graph.sparse_initializer or proto.functions:
        raise DataError(f"{path}: has sparse arrays or local functions, which are not supported")
    nodes = list(nodes_in(onnx, graph))
    unknown: dict[str, list[str]] = {}
    for node in nodes:
        if node.op_type not in OPERATORS and node.op_type not in ("Constant", "Scan"):
            unknown.setdefault(node.op_type, []).append(node.name)
    if unknown:
        listed = "; ".join(f"{kind} {', '.join(filter(None, names[:3]))}".strip() for kind, names in unknown.items())
        raise DataError(f"{path}: has unsupported operators: {listed}")
    steps, constants = steps_of(path, onnx, graph)
    model = Loaded(graph, steps)
    fixed, states = (
        {node.input[i] for node in nodes for i in inputs_by_kind.get(node.op_type, ()) if i < len(node.input)}
        for inputs_by_kind in (NO_PARAMETERS, STATES)
    )
    for tensor in graph.initializer:
        array = external[tensor.name] if tensor.name in external else array_of(path, onnx, tensor)
        if is_floating(array.dtype) and array.ndim:
            is_exported = proto.producer_name == "tensorgrad" and EXPORTED_CONSTANT.fullmatch(tensor.name) is not None
            is_fixed = is_exported or tensor.name in fixed or (tensor.name in states and not array.any())
            is_parameter = not is_fixed and may_be_parameter(tensor.name, array)
            model.places[tensor.name] = put(model, tensor.name, array, is_parameter)
        else:
            constants[tensor.name] = array
    model.constants = constants
    return model


def nodes_in(onnx: Any, graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                yield from nodes_in(onnx, a.g)


def steps_of(path: Path, onnx: Any, graph: Any) -> tuple[list[Step], dict[str, Any]]:
    """The steps of a graph, and the constants among its nodes."""
    steps: list[Step] = []
    constants: dict[str, Any] = {}
    for node in graph.node:
        attrs = {a.name: attribute(path, onnx, a) for a in node.attribute}
        if node.op_type == "Constant":
            ((name, value),) = attrs.items()
            kind = np.float32 if name.startswith("value_float") else np.int64 if name.startswith("value_int") else None
            constants[node.output[0]] = np.asarray(value, kind)
        else:
            if node.op_type == "Cast":
                attrs["to"] = onnx.helper.tensor_dtype_to_np_dtype(attrs["to"])
            if node.op_type == "Split":  # before opset 18 only the number of results gives the number of parts
                attrs.setdefault("num_outputs", len(node.output))
            steps.append((node.name, node.op_type, list(node.input), list(node.output), attrs))
    return steps, constants


def body_of(path: Path, onnx: Any, graph: Any) -> Body:
    """A subgraph, whose arrays are constants."""
    steps, constants = steps_of(path, onnx, graph)
    arrays = {tensor.name: array_of(path, onnx, tensor) for tensor in graph.initializer}
    return Body([i.name for i in graph.input], [o.name for o in graph.output], steps, constants | arrays)


def may_be_parameter(name: str, array: Any) -> bool:
    """Whether it may be a parameter, rather than a mask, which has infinities or the lowest number, or a computed number."""
    is_number = array.shape == (1,) and COMPUTED_NAME.fullmatch(name)
    return not is_number and bool((abs(array) < finfo(array.dtype).max).all())


def first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def external_arrays(path: Path, onnx: Any, graph: Any) -> dict[str, Any]:
    """The initialisers stored in other files. Empty ones take their place for the checker."""
    files, arrays = ExternalFiles(path), dict[str, Any]()
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"{path}: {tensor.name}"
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        except KeyError:
            raise DataError(f"{where} has an unknown type, {tensor.data_type}") from None
        arrays[tensor.name] = files.array(where, tensor, dtype)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.dims[:], tensor.raw_data = [0], b""
    return arrays


def put(model: Module, name: str, array: Any, is_parameter: bool) -> str:
    """Register an array as a parameter or a buffer, in nested modules as its name has dots; return its path."""
    *keys, last = [key if key not in RESERVED else f"{key}_" for key in printable(name).split(".") if key] or ["array"]
    if len(keys) > MAX_DEPTH:
        keys, last = [], "_".join([*keys, last])
    module: Any = model
    for i, key in enumerate(keys):
        while key not in module._modules and hasattr(module, key):
            key = keys[i] = f"{key}_"
        if key not in module._modules:
            setattr(module, key, Module())
        module = module._modules[key]
    while hasattr(module, last) or last in RESERVED:
        last = f"{last}_"
    if is_parameter:
        setattr(module, last, Parameter(array))
    else:
        module.register_buffer(last, array)
    return ".".join([*keys, last])


def attribute(path: Path, onnx: Any, a: Any) -> Any:
    """An attribute as a Python value."""
    value = onnx.helper.get_attribute_value(a)
    if isinstance(value, onnx.TensorProto):
        return array_of(path, onnx, value)
    if isinstance(value, onnx.GraphProto):
        return body_of(path, onnx, value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (int, float, str)) or not hasattr(value, "__iter__"):
        return value
    return [part.decode(errors="replace") if isinstance(part, bytes) else part for part in value]


def array_of(path: Path, onnx: Any, tensor: Any) -> Any:
    """An initialiser as an array. Raises DataError if the file's data do not match its declaration."""
    where = f"{path}: {tensor.name or 'a constant'}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise DataError(f"{where} is stored in another file, which is only supported for initialisers")
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tensor.HasField("raw_data") and math.prod(tensor.dims) * dtype.itemsize != len(tensor.raw_data):
            raise DataError(f"{where} declares shape {tuple(tensor.dims)} of {dtype}, but has {len(tensor.raw_data):,} bytes")
        array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} does not match its declaration: {error}") from None
    return np.array(array)  # writable
