"""An ONNX graph under construction: nodes, initialisers, and numbers that depend on the number of samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import Array, is_half
from tensorgrad.core.node import Node
from tensorgrad.onnx.recording import Power, Program, Size


class Value(NamedTuple):
    """An array in the file: its name, dtype and shape, with a Size for axes that depend on the number of samples."""

    name: str
    dtype: Any
    shape: tuple[Any, ...] = ()


class Use:
    """One use of an op, as passed to its exporter.

    attrs, shape, dtype   of the node
    shapes, dtypes        of its arguments
    raw                   its arguments, unconverted: a Value or a number
    """

    def __init__(self, writer: Writer, node: Node, program: Program) -> None:
        self.writer, self.node = writer, node
        self.attrs, self.shape, self.dtype = program.attrs[node], program.shapes[node], np.dtype(node.dtype)
        sources = program.sources[node]
        self.raw = [program.numbers.get((node, i)) if (node, i) in program.numbers else writer.value(s)
                    for i, s in enumerate(sources)]  # fmt: skip
        self.shapes = [v.shape if isinstance(v, Value) else () for v in self.raw]
        self.dtypes = [v.dtype if isinstance(v, Value) else None for v in self.raw]

    def operands(self) -> list[Value]:
        """The arguments in the dtype of the computation."""
        return [self.writer.as_value(v, wide(self.dtype)) for v in self.raw]

    def promoted(self) -> list[Value]:
        """The arguments in the dtype in which NumPy compares them."""
        kinds = [0 if isinstance(v, Size) else 0.0 if isinstance(v, Power) else v for v in self.raw]
        parts = [v.dtype if isinstance(v, Value) else kind for v, kind in zip(self.raw, kinds, strict=True)]
        return [self.writer.as_value(v, wide(np.result_type(*parts))) for v in self.raw]

    def arguments(self) -> list[Value]:
        """The arguments; numbers in the dtype of the result."""
        return [v if isinstance(v, Value) else self.writer.as_value(v, self.dtype) for v in self.raw]


def wide(dtype: Any) -> np.dtype[Any]:
    """The dtype of a computation: float32 for half precision, int64 for small integers, which wrap around afterwards."""
    dtype = np.dtype(dtype)
    if is_half(dtype):
        return np.dtype(np.float32)
    return np.dtype(np.int64) if dtype.kind in "iu" and dtype != np.uint64 else dtype


class Writer:
    """Collects the nodes and initialisers of a graph.

    w("Gemm", x, weight, bias, transB=1) adds a node and returns its result.
    """

    def __init__(self, program: Program, names: Mapping[tuple[int, int], str]) -> None:
        import onnx  # export has checked that it is installed

        self.onnx, self.helper = onnx, onnx.helper
        self.program, self.array_names = program, names
        self.nodes: list[Any] = []
        self.initialisers: dict[str, Array] = {}
        self.values: dict[Any, Value] = {}
        self.constants: dict[Any, Value] = {}
        self.used_names: set[str] = set()
        self.scope = ""
        self.sample_count: Value | None = None

    # Names

    def name(self, base: str) -> str:
        """A unique name."""
        name, n = base, 1
        while name in self.used_names:
            n += 1
            name = f"{base}_{n}"
        self.used_names.add(name)
        return name

    # Nodes

    def __call__(self, kind: str, *inputs: Value | None, dtype: Any = None, shape: Any = None, **attrs: Any) -> Value:
        """Add a node with one result, by default with the dtype of the first input."""
        dtype = next(v.dtype for v in inputs if v is not None) if dtype is None else dtype
        return self.several(kind, *inputs, dtypes=[dtype], shape=shape, **attrs)[0]

    def several(self, kind: str, *inputs: Value | None, dtypes: Sequence[Any], shape: Any = None, **attrs: Any) -> list[Value]:
        """Add a node with several results."""
        label = self.name(f"{self.scope}.{kind}" if self.scope else kind)
        outs = [label if i == 0 else self.name(f"{label}.{i}") for i in range(len(dtypes))]
        names = [v.name if v is not None else "" for v in inputs]
        self.nodes.append(self.helper.make_node(kind, names, outs, label, **attrs))
        like = next((v.shape for v in inputs if v is not None), ())
        return [Value(out, np.dtype(d), like if shape is None else tuple(shape)) for out, d in zip(outs, dtypes, strict=True)]

    def cast(self, v: Value, dtype: Any) -> Value:
        dtype = np.dtype(dtype)
        if v.dtype == dtype:
            return v
        return self("Cast", v, dtype=dtype, to=self.helper.np_dtype_to_tensor_dtype(dtype))

    # Constants and arguments

    def constant(self, array: Any, dtype: Any = None) -> Value:
        """An array as an initialiser, shared by equal arrays."""
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.dtype.name, array.shape, array.tobytes())
        if key not in self.constants:
            name = self.name(f"constant_{len(self.constants)}")
            self.initialisers[name] = array
            self.constants[key] = Value(name, array.dtype, array.shape)
        return self.constants[key]

    def value(self, source: Any) -> Value:
        """The Value of a node or a leaf."""
        if source not in self.values:
            constant = self.program.constants[source]
            if constant.kind == "range":
                (n,) = [n for n in constant.shape if n != 1]
                ends = [self.constant(np.int64(0)), self.as_value(n, np.int64), self.constant(np.int64(1))]
                line = self.cast(self("Range", *ends, shape=(n,)), constant.array.dtype)
                self.values[source] = self.reshape(line, constant.shape)
                return self.values[source]
            name = self.array_names.get(self.place(source))
            if name is None or name in self.initialisers:
                entry = self.constant(constant.array)
            else:
                self.initialisers[name] = constant.array
                entry = Value(name, constant.array.dtype, constant.array.shape)
            if any(isinstance(n, Size) for n in constant.shape):
                entry = self("Expand", entry, self.sizes(constant.shape), shape=constant.shape)
            self.values[source] = entry
        return self.values[source]

    def place(self, leaf: Any) -> tuple[Any, ...]:
        from tensorgrad.compiler.trace import place_of

        return (*place_of(leaf._data), leaf._data.shape, leaf._data.strides)

    def as_value(self, v: Any, dtype: Any) -> Value:
        """An argument, converted to a dtype."""
        if isinstance(v, Power):
            n = self.cast(self("Squeeze", self.sizes((Size(1, 0),)), shape=()), np.float64)
            power = self("Pow", n, self.constant(np.float64(v.power)))
            return self.cast(self("Mul", power, self.constant(np.float64(v.factor))), dtype)
        if isinstance(v, Size):
            return self.cast(self("Squeeze", self.sizes((v,)), shape=()), dtype)
        return self.cast(v, dtype) if isinstance(v, Value) else self.constant(np.asarray(v).astype(dtype))

    # Shapes

    def sizes(self, shape: Sequence[Any]) -> Value:
        """Integers, some of them a Size, as an int64 array."""
        if not any(isinstance(n, Size) for n in shape):
            return self.constant(np.array(shape, np.int64).reshape(len(shape)))
        parts: list[Value] = []
        fixed: list[int] = []
        for n in [*shape, None]:
            if isinstance(n, int | np.integer):
                fixed.append(int(n))
                continue
            if fixed:
                parts.append(self.constant(np.array(fixed, np.int64)))
                fixed = []
            if isinstance(n, Size):
                parts.append(self.size(n))
        return parts[0] if len(parts) == 1 else self("Concat", *parts, axis=0)

    def size(self, n: Size) -> Value:
        """A Size as an array with one element."""
        if self.sample_count is None:
            raise AssertionError("there are no samples")
        key = ("size", n)
        if key not in self.constants:
            v = self.sample_count
            if n.slope != 1:
                v = self("Mul", v, self.constant([n.slope], np.int64))
            if n.offset:
                v = self("Add", v, self.constant([n.offset], np.int64))
            self.constants[key] = v
        return self.constants[key]

    def reshape(self, v: Value, shape: Sequence[Any]) -> Value:
        """v reshaped."""
        if tuple(v.shape) == tuple(shape):
            return v
        unknown = [n for n in shape if isinstance(n, Size)]
        is_plain = len(unknown) == 1 and 0 not in shape
        target = self.constant([-1 if isinstance(n, Size) else n for n in shape], np.int64) if is_plain else self.sizes(shape)
        return self("Reshape", v, target, shape=shape, **({} if is_plain or 0 not in shape else {"allowzero": 1}))

    def expand(self, v: Value, shape: Sequence[Any]) -> Value:
        return self("Expand", v, self.sizes(shape), shape=shape)

    def transpose(self, v: Value, axes: Sequence[int]) -> Value:
        if list(axes) == list(range(len(axes))):
            return v
        return self("Transpose", v, perm=list(axes), shape=[v.shape[a] for a in axes])

    def scan(
        self,
        states: Sequence[Value],
        xs: Sequence[Value],
        axis: int,
        body: Callable[[list[Value], list[Value]], tuple[list[Value], list[Value]]],
        steps: Any,
    ) -> list[Value]:
        """Call body(states, entries of xs along an axis) for successive entries: returns the final states, and the other
        outputs stacked along the axis."""
        outer_nodes, self.nodes = self.nodes, []
        inner_states = [Value(self.name("state"), s.dtype, s.shape) for s in states]
        entries = [Value(self.name("step"), x.dtype, tuple(n for i, n in enumerate(x.shape) if i != axis)) for x in xs]
        new_states, outputs = body(inner_states, entries)
        # a result of a subgraph must not be a value of the outer graph
        results = [self("Identity", v) for v in (*new_states, *outputs)]
        info = self.helper.make_tensor_value_info
        kind = self.helper.np_dtype_to_tensor_dtype
        graph = self.helper.make_graph(
            self.nodes, self.name("steps"),
            [info(v.name, kind(v.dtype), None) for v in (*inner_states, *entries)],
            [info(v.name, kind(v.dtype), None) for v in results],
        )  # fmt: skip
        self.nodes = outer_nodes
        axes_attrs = {"scan_input_axes": [axis] * len(xs), "scan_output_axes": [axis] * len(outputs)} if axis else {}
        dtypes = [v.dtype for v in results]
        values = self.several("Scan", *states, *xs, dtypes=dtypes, body=graph, num_scan_inputs=len(xs), **axes_attrs)
        shapes = [s.shape for s in states] + [(*v.shape[:axis], steps, *v.shape[axis:]) for v in outputs]
        return [v._replace(shape=shape) for v, shape in zip(values, shapes, strict=True)]


def printable(name: str) -> str:
    """A name with only characters that a file may have."""
    return re.sub(r"[^\w.\-]", "_", name) or "_"
