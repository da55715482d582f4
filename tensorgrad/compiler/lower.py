"""Lowering: converts the nodes of a traced step to kernel calls on values in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, TypeAlias

import numpy as np

from tensorgrad import ops
from tensorgrad.compiler.calls import (
    AddRows,
    Apply,
    Assign,
    Call,
    Copy,
    CrossEntropy,
    Dot,
    Elementwise,
    Matmul,
    Meeting,
    Pad,
    Put,
    Reduction,
    TakeRows,
)
from tensorgrad.compiler.calls.reduction import narrow_shape
from tensorgrad.compiler.trace import Source, Trace
from tensorgrad.compiler.values import Value, ViewFunction, before_broadcast, lineage
from tensorgrad.core.arithmetic import needs_conversion
from tensorgrad.core.backend import Array, address, copy, dtype_name, is_array, may_overlap
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.signature import Shape
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import CompileError
from tensorgrad.kernels import build
from tensorgrad.kernels.chain import NotElementwise, Ref, Sketch, Step, Symbol
from tensorgrad.ops.assign import assign
from tensorgrad.ops.elementwise import div_grad, mul_grad
from tensorgrad.ops.exponential import closed_form
from tensorgrad.ops.index import AT, lookup, put, scatter
from tensorgrad.ops.loss import softmax_cross_entropy_grad
from tensorgrad.ops.meeting import all_reduce
from tensorgrad.ops.reduce import keepdims_shape, sum_to

Numbers: TypeAlias = tuple[
    Callable[[], Mapping[str, float]], dict[str, Value]
]  # the function that computes them, and their destination


@dataclass
class Lowered:
    """A program as a sequence of calls.

    arguments   including gradients that are added to; numbers, results and kept gradients: as values
    assigned    in order, the outside memory and the value assigned to it
    """

    calls: list[Call]
    arguments: list[Value]
    numbers: list[Numbers]
    results: list[Value]
    grads: list[tuple[Tensor, Value]]
    assigned: list[tuple[Value, Value]]

    @property
    def returned(self) -> list[Value]:
        """The values that outlive a run: the results, and the gradients left in `.grad`."""
        return [*self.results, *(v for _, v in self.grads)]


class Lowering:
    """The state of one lowering."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.graph = trace.program()
        self.calls: list[Call] = []
        self.values: dict[Source, Value] = {}
        self.outside: dict[tuple[Any, ...], Value] = {}
        self.assigned: list[tuple[Value, Value]] = []
        inputs = trace.inputs()
        self.arguments = [Value(t.shape, t.dtype, "argument") for t in inputs]
        self.values.update(zip(inputs, self.arguments, strict=True))
        self.numbers: list[Numbers] = []
        for compute, leaves in trace.numbers:
            values = {name: Value((), leaf.dtype, "number", copy(leaf._data)) for name, leaf in leaves.items()}
            self.values.update((leaves[name], value) for name, value in values.items())
            self.numbers.append((compute, values))
        self.outputs = {trace.source(t) for t in trace.returned()}  # read at the end, or by an assignment
        self.outputs |= {trace.source(a.value) for a in trace.assignments}
        self.readers: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            for s in node.inputs:
                if isinstance(s, (Node, Tensor)) and isinstance(source := trace.source(s), Node):
                    self.readers.setdefault(source, []).append(node)
        self.losses = self.cross_entropies()

    def run(self) -> Lowered:
        steps: list[tuple[int, Any]] = [(node.index, node) for node in self.graph.nodes]
        steps += [(a.index, a) for a in self.trace.assignments]
        for _, step in sorted(steps, key=lambda s: s[0]):
            if isinstance(step, Node):
                self.lower(step)
            else:
                value = self.value(step.value)
                self.assigned.append((Value(step.target.shape, step.target.dtype, "outside", step.target), value))
                target = self.of_array(step.target)
                self.calls.append(Assign("assign", [value], [target], [value.node] if value.node else []))
        results = [self.value(t) for t in self.trace.results]
        grads = [(t, self.value(g)) for t, g in self.trace.kept_grads.items()]
        return Lowered(self.calls, self.arguments, self.numbers, results, grads, self.assigned)

    # Values

    def value(self, source: Source) -> Value:
        """The value of a node, or the current value of a leaf."""
        source = self.trace.source(source)
        if source in self.values:
            return self.current(self.values[source])
        assert isinstance(source, Tensor), f"{source!r} has not been lowered"
        return self.of_array(source._data)

    def of_array(self, array: Array) -> Value:
        """The value of outside memory: the same one for the same memory until something is assigned to it."""
        after = 0
        for i, (target, _) in enumerate(self.assigned, 1):
            if may_overlap(target.array, array):
                after = i
        key = (address(array), array.shape, array.strides, dtype_name(array.dtype), after)
        if key not in self.outside:
            contiguous = bool(array.flags.c_contiguous)
            self.outside[key] = Value(array.shape, array.dtype, "outside", array, contiguous=contiguous, after=after)
        return self.outside[key]

    def current(self, v: Value) -> Value:
        """A view of outside memory, updated to later assignments."""
        if v.root.kind != "outside" or (value := self.of_array(v.root.array)) is v.root:
            return v
        for view in lineage(v)[-2::-1]:
            assert view.make_view is not None
            assert view.node is not None
            value = self.view(value, view.shape, view.view_kind, view.make_view, view.contiguous, view.node)
        return value

    def buffer(self, shape: Shape, dtype: Any, node: Node) -> Value:
        return Value(tuple(shape), np.dtype(dtype), "buffer", node=node)

    def view(self, base: Value, shape: Shape, view_kind: str, make_view: ViewFunction, contiguous: bool, node: Node) -> Value:
        array = None if base.array is None else make_view(base.array, shape)
        return Value(tuple(shape), base.dtype, "view", array, base, make_view, view_kind, contiguous, node)

    def reshaped(self, base: Value, shape: Shape, node: Node) -> Value:
        """`base` reshaped: a view if possible, else a copy."""
        if tuple(shape) == base.shape:
            return base
        if not base.contiguous:
            base = self.copied(base, node)
        return self.view(base, shape, "reshape", np.reshape, True, node)

    def copied(self, source: Value, node: Node) -> Value:
        out = self.buffer(source.shape, source.dtype, node)
        self.calls.append(Copy("copy", [source], [out], [node]))
        return out

    # Nodes

    def lower(self, node: Node) -> None:
        """Append the calls that compute `node`, and record its value."""
        if node in self.values:
            return
        if node in self.losses:
            self.losses[node]()
            return
        inputs = [self.value(s) if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
        rule = RULES.get(node.op, Lowering.elementwise)
        # kernels compute in the dtype of their operands
        narrow = needs_conversion(node.op, [v.dtype if isinstance(v, Value) else np.dtype(type(v)) for v in inputs])
        value = None if narrow and node.op is not ops.log else rule(self, node, inputs)
        self.values[node] = self.by_forward(node, inputs) if value is None else value

    def flops(self, node: Node) -> int:
        return node.op.flops([getattr(s, "shape", ()) for s in node.inputs], node.shape, node.attrs)

    def by_forward(self, node: Node, inputs: list[Any]) -> Value:
        """The op's own `forward`."""
        value = Value(node.shape, node.dtype, "fresh", node=node)
        self.calls.append(Apply(node.op, node.attrs, inputs, [value], [node], self.flops(node), self.error_settings(node)))
        return value

    def error_settings(self, node: Node) -> dict[str, Any]:
        """NumPy's settings for floating-point errors in a node, if they differ from those outside the step."""
        settings: dict[str, Any] = self.trace.error_settings.get(node, {})
        return settings

    def elementwise(self, node: Node, inputs: list[Any]) -> Value | None:
        """The steps of `forward`, traced with symbols; None if it is not elementwise."""
        if node.op.expands:
            return self.expanded(node, inputs)
        if any(axes for axes in node.op.parsed.inputs) or not all(isinstance(i, (Value, int, float, bool)) for i in inputs):
            return None
        sketch = Sketch(len(inputs))
        symbols = [Symbol(sketch, i, np.ones(1, v.dtype)) if isinstance(v, Value) else v for i, v in enumerate(inputs)]
        try:
            with np.errstate(**self.error_settings(node)):
                result = node.op.forward(np, *symbols, **node.attrs)
        except (NotElementwise, AttributeError, TypeError):
            return None
        if not isinstance(result, Symbol) or result.dtype != node.dtype or not sketch.steps:
            return None
        value = self.steps(node, inputs, sketch.steps, result.register)
        if value.shape != node.shape:  # an operand that the formula does not use determines the shape
            return self.view(value, node.shape, "broadcast_to", np.broadcast_to, False, node)
        return value

    def expanded(self, node: Node, inputs: list[Any]) -> Value | None:
        """Lower a fused op as the ops that it consists of."""
        first, *others = node.op.expands
        value = RULES.get(first, Lowering.elementwise)(self, node.replaced(first), inputs)
        for op in others:
            if value is None:
                return None
            value = self.elementwise(node.replaced(op, (node,)), [value])
        return value

    def steps(self, node: Node, inputs: list[Any], steps: Sequence[Step], result: int) -> Value:
        """Lower elementwise steps; the value in register `result` is that of the node."""
        registers: list[Any] = list(inputs)
        for step in steps:
            operands = [registers[a.register] if isinstance(a, Ref) else a for a in step.inputs]
            shape = np.broadcast_shapes(*[v.shape for v in operands if isinstance(v, Value)])
            narrow = [before_broadcast(v) if isinstance(v, Value) else v for v in operands]
            if np.broadcast_shapes(*[v.shape for v in narrow if isinstance(v, Value)]) == shape:
                operands = narrow  # kernels broadcast, and deduplicate numbers
            out = self.buffer(shape, step.dtype, node)
            self.calls.append(Elementwise(step.function, operands, [out], [node], math.prod(shape), step.quiet))
            registers.append(out)
        value = registers[result]
        assert isinstance(value, Value)
        return value

    def step(self, node: Node, function: str, *operands: Any) -> Value:
        refs = tuple(Ref(i) for i in range(len(operands)))
        return self.steps(node, list(operands), [Step(function, refs, dtype_name(np.dtype(node.dtype)))], len(operands))

    def relu_grad(self, node: Node, inputs: list[Any]) -> Value | None:
        g, unit = inputs
        same_form = all(isinstance(v, Value) and v.shape == node.shape and v.dtype == node.dtype for v in inputs)
        return self.step(node, "relu_grad", g, unit) if same_form and node.dtype.char in "fd" else None

    def cast(self, node: Node, inputs: list[Any]) -> Value | None:
        """A cast to the same dtype needs no copy if nothing writes to its source."""
        (x,) = inputs
        if not isinstance(x, Value) or x.dtype != node.dtype:
            return None
        written = [target for target, _ in self.assigned] + [
            Value(a.target.shape, a.target.dtype, "outside", a.target) for a in self.trace.assignments[len(self.assigned) :]
        ]
        is_written = x.root.kind == "outside" and any(may_overlap(x.root.array, target.array) for target in written)
        return self.copied(x, node) if is_written else x

    def to_device(self, node: Node, inputs: list[Any]) -> Value:
        (x,) = inputs
        if node.attrs["device"] != node.attrs["origin"]:
            raise CompileError(
                f"compile: a Tensor is moved from {node.attrs['origin']} to {node.attrs['device']} inside the step at "
                f"{node.line}; a plan runs on one device. Move it outside of the step"
            )
        return x  # type: ignore[no-any-return]

    # Views

    def reshape(self, node: Node, inputs: list[Any]) -> Value | None:
        (base,) = inputs
        return self.reshaped(base, node.shape, node) if isinstance(base, Value) else None

    def transpose(self, node: Node, inputs: list[Any]) -> Value | None:
        (base,), axes = inputs, node.attrs["axes"]
        if not isinstance(base, Value):
            return None
        if axes == (1, 0):
            return self.transposed(base, node)
        return self.view(base, node.shape, "permute", lambda a, shape: a.transpose(axes), False, node)

    def transposed(self, base: Value, node: Node) -> Value:
        """A transposed matrix; transposing twice gives the original value."""
        if base.view_kind == "transpose" and base.base is not None:
            return base.base
        return self.view(base, base.shape[::-1], "transpose", lambda a, shape: a.T, False, node)

    def broadcast_to(self, node: Node, inputs: list[Any]) -> Value | None:
        (base,) = inputs
        if not isinstance(base, Value):
            return None
        return base if node.shape == base.shape else self.view(base, node.shape, "broadcast_to", np.broadcast_to, False, node)

    def getitem(self, node: Node, inputs: list[Any]) -> Value | None:
        (base,), key = inputs, node.attrs["index"]
        if not isinstance(base, Value) or not takes_a_view(key):
            return None
        make_view = slicer(key)
        contiguous = base.contiguous and make_view(outline(base.shape), node.shape).flags.c_contiguous
        view = self.view(base, node.shape, "getitem", make_view, bool(contiguous), node)
        readers = [reader for reader in self.readers.get(node, []) if is_elementwise(reader)]
        # values that are not C-contiguous cannot be part of chains
        return self.copied(view, node) if not contiguous and len(readers) > 1 and base.root.kind != "outside" else view

    def assign(self, node: Node, inputs: list[Any]) -> Value | None:
        """An array with new elements, possibly in place."""
        x, *rest = inputs
        if not all(isinstance(v, Value) for v in inputs) or not x.dtype == rest[0].dtype == node.dtype:
            return None
        out = self.buffer(node.shape, node.dtype, node)
        self.calls.append(Put(node.op, node.attrs, inputs, [out], [node]))
        return out

    def all_reduce(self, node: Node, inputs: list[Any]) -> Value | None:
        """A sum over ranks."""
        out = self.buffer(node.shape, node.dtype, node)
        self.calls.append(Meeting("all_reduce", inputs, [out], [node], self.flops(node)))
        return out

    # Products

    def matmul(self, node: Node, inputs: list[Any]) -> Value | None:
        a, b = inputs
        if not (isinstance(a, Value) and isinstance(b, Value) and a.dtype == b.dtype == node.dtype):
            return None
        if self.is_read_transposed(node):  # (a b)ᵀ = bᵀ aᵀ is then C-contiguous
            out = self.buffer(node.shape[::-1], node.dtype, node)
            operands = [self.transposed(b, node), self.transposed(a, node)]
            self.calls.append(Matmul("matmul", operands, [out], [node], self.flops(node)))
            return self.transposed(out, node)
        out = self.buffer(node.shape, node.dtype, node)
        self.calls.append(Matmul("matmul", [a, b], [out], [node], self.flops(node)))
        return out

    def is_read_transposed(self, node: Node) -> bool:
        """Whether only the transpose of a matrix product is read."""
        readers = self.readers.get(node, [])
        is_transposed = len(readers) == 1 and readers[0].op is ops.transpose and readers[0].attrs["axes"] == (1, 0)
        return is_transposed and node not in self.outputs and all(len(i.shape) == 2 for i in node.inputs)

    def linear(self, node: Node, inputs: list[Any]) -> Value | None:
        x, w, b = inputs
        if not all(isinstance(v, Value) and v.dtype == node.dtype for v in inputs):
            return None
        product = self.buffer(node.shape, node.dtype, node)
        flops = 2 * math.prod(node.shape) * w.shape[0]
        self.calls.append(Matmul("matmul", [x, w], [product], [node], flops))
        return self.step(node, "add", product, b)

    # Reductions

    def log(self, node: Node, inputs: list[Any]) -> Value | None:
        """log(softmax(z)) and similar from the logits, as recorded."""
        (p,) = node.inputs
        p = self.trace.source(p) if isinstance(p, (Node, Tensor)) else p
        closed = closed_form(node.op, p) if isinstance(p, Node) else None
        if closed is None:
            return self.elementwise(node, inputs)
        op, last, _ = closed
        value = Value(node.shape, node.dtype, "fresh", node=node)
        self.calls.append(Apply(op, last.attrs, [self.value(last.inputs[0])], [value], [node], self.flops(node)))
        return value

    def sum(self, node: Node, inputs: list[Any]) -> Value | None:
        return self.reduced(node, inputs, "add", axes_of(node))

    def max(self, node: Node, inputs: list[Any]) -> Value | None:
        return self.reduced(node, inputs, "maximum", axes_of(node))

    def min(self, node: Node, inputs: list[Any]) -> Value | None:
        return self.reduced(node, inputs, "minimum", axes_of(node))

    def mean(self, node: Node, inputs: list[Any]) -> Value | None:
        """A sum and a division."""
        return self.reduced(node, inputs, "add", axes_of(node), mean=True)

    def sum_to(self, node: Node, inputs: list[Any]) -> Value | None:
        shape = getattr(inputs[0], "shape", ())
        lead = len(shape) - len(node.shape)
        widened = (i + lead for i, n in enumerate(node.shape) if n == 1 and shape[i + lead] != 1)
        return self.reduced(node, inputs, "add", (*range(lead), *widened))

    def reduced(self, node: Node, inputs: list[Any], function: str, axes: tuple[int, ...], mean: bool = False) -> Value | None:
        """A reduction into a buffer."""
        (x,) = inputs
        if not isinstance(x, Value) or x.dtype != node.dtype or not math.prod(x.shape):
            return None
        value, narrow = x, narrow_shape(x.shape, axes)
        factors = self.factors(x, node) if axes and not narrow and function == "add" else None
        if factors is not None:
            value = self.buffer((), x.dtype, node)
            self.calls.append(Dot("dot", factors, [value], [node], 2 * math.prod(x.shape)))
        elif axes:
            value = self.buffer(narrow, x.dtype, node)
            self.calls.append(Reduction(function, axes, node.op.name, [x], [value], [node], math.prod(x.shape)))
        if mean:
            n = math.prod(x.shape) // max(math.prod(keepdims_shape(x.shape, axes)), 1)
            value = self.step(node, "divide", value, float(n))
        return self.reshaped(value, node.shape, node)

    def factors(self, x: Value, node: Node) -> list[Any] | None:
        """The two factors of the product `x`, if it was just computed and only `node` reads it: its sum is their dot product,
        and `x` itself is not computed."""
        call = self.calls[-1] if self.calls else None
        source = self.trace.source(node.inputs[0])
        if not isinstance(call, Elementwise) or call.outputs[0] is not x or call.name not in ("multiply", "square"):
            return None
        values = [v for v in (call.inputs * 2)[:2] if isinstance(v, Value)]
        if not isinstance(source, Node) or source in self.outputs or source not in call.nodes:  # another node shares the value
            return None
        is_supported = len(values) == 2 and all(v.shape == x.shape and v.contiguous and v.dtype == x.dtype for v in values)
        if not is_supported or x.dtype.char not in "fd" or self.readers.get(source, []) != [node]:
            return None
        self.calls.pop()
        return list(values)

    def concatenate(self, node: Node, inputs: list[Any]) -> Value | None:
        """Parts that nothing else reads are computed directly in the result, others are copied to it."""
        axis = node.attrs["axis"] % len(node.shape)
        if not all(isinstance(v, Value) and v.dtype == node.dtype for v in inputs):
            return None
        result = self.buffer(node.shape, node.dtype, node)
        start = 0
        for part in inputs:
            stop = start + part.shape[axis]
            key = (*[slice(None)] * axis, slice(start, stop))
            target = self.view(result, part.shape, "getitem", slicer(key), axis == 0, node)
            start = stop
            if not self.place_in(part, target, axis):
                self.calls.append(Copy("copy", [part], [target], [node]))
        return result

    def lookup(self, node: Node, inputs: list[Any]) -> Value | None:
        w, t = inputs
        if not all(isinstance(v, Value) and v.contiguous for v in inputs) or build.take_rows_kernel(w.dtype, t.dtype) is None:
            return None
        value = self.buffer(node.shape, node.dtype, node)
        self.calls.append(TakeRows(node.op, node.attrs, inputs, [value], [node], self.flops(node)))
        return value

    def put(self, node: Node, inputs: list[Any]) -> Value | None:
        """Zeros with a value in a part of them, if the part is a view with axes."""
        (x,), key = inputs, node.attrs["index"]
        if not isinstance(x, Value) or x.dtype != node.dtype or not takes_a_view(key) or not x.shape or 0 in node.shape:
            return None
        value = self.buffer(node.shape, node.dtype, node)
        self.calls.append(Pad(node.op, node.attrs, inputs, [value], [node], self.flops(node)))
        return value

    def scatter(self, node: Node, inputs: list[Any]) -> Value | None:
        """Rows added to zeros by index."""
        x, t, *more = inputs
        if more or node.attrs["index"] != AT or not all(isinstance(v, Value) and v.contiguous for v in inputs):
            return None
        are_rows = node.shape and x.dtype == node.dtype and x.shape == (*t.shape, *node.shape[1:])
        if not are_rows or build.sum_rows_kernel(x.dtype, t.dtype) is None:
            return None
        value = self.buffer(node.shape, node.dtype, node)
        self.calls.append(AddRows(node.op, node.attrs, inputs, [value], [node], self.flops(node)))
        return value

    def place_in(self, part: Value, target: Value, axis: int) -> bool:
        """Move the buffer `part` to the place of `target`, if possible; returns whether it was."""
        root = part.root
        owns_memory = root.kind == "buffer" and root.nbytes == part.nbytes and part.contiguous and root.contiguous
        if axis or not owns_memory or root is target.root:  # it was already placed elsewhere
            return False
        root.kind, root.base = "view", target
        root.make_view, root.view_kind = np.reshape, "reshape"
        return True

    # Softmax and cross-entropy, forward and backward in one

    def cross_entropies(self) -> dict[Node, Callable[[], None]]:
        """The nodes of each log_softmax, its mean negative log-likelihood and the gradient of that, if nothing else reads the
        log-probabilities and the incoming gradient is known beforehand."""
        lowerings: dict[Node, Callable[[], None]] = {}
        for logp in self.graph.nodes:
            if logp.op is not ops.log_softmax or logp.attrs["axis"] not in (-1, logp.ndim - 1) or logp in self.outputs:
                continue
            readers = self.readers.get(logp, [])
            losses = [n for n in readers if n.op is ops.nll_loss]
            slopes = [n for n in readers if n.op is softmax_cross_entropy_grad]
            if len(losses) != 1 or len(slopes) > 1 or len(readers) != 1 + len(slopes):
                continue
            (loss,) = losses
            target = self.trace.source(loss.inputs[1])
            scale = 1 / max(math.prod(logp.shape[:-1]), 1)
            seed: Any = None
            if slopes:
                seed = self.trace.source(slopes[0].inputs[0])
                if not self.is_known_by(seed, logp.index) or self.trace.source(slopes[0].inputs[2]) is not target:
                    continue
                if slopes[0].attrs["scale"] != scale:
                    continue
            if logp.dtype.char not in "fd" or not math.prod(logp.shape):  # the op sums half precision in float32
                continue
            if isinstance(target, Node) and target.index > logp.index:
                continue

            def lower(logp: Node = logp, loss: Node = loss, slopes: list[Node] = slopes, seed: Any = seed) -> None:
                self.cross_entropy(logp, loss, slopes[0] if slopes else None, seed)

            lowerings.update(dict.fromkeys([logp, loss, *slopes], lower))
        return lowerings

    def is_known_by(self, source: Any, index: int) -> bool:
        """Whether a value is known before node `index`, or can be computed before: the scale of a loss is computed after the
        loss, but does not depend on it. It must not read memory that is assigned in between."""
        if not isinstance(source, Node) or source.index < index:
            return True
        if source.op not in SCALING or source.ndim or any(index < a.index <= source.index for a in self.trace.assignments):
            return False
        inputs = [self.trace.source(s) for s in source.inputs if isinstance(s, (Node, Tensor))]
        return all(not getattr(s, "shape", ()) and self.is_known_by(s, index) for s in inputs)

    def lower_early(self, source: Any) -> None:
        """Lower a known value early."""
        if isinstance(source, Node) and source not in self.values:
            for s in source.inputs:
                if isinstance(s, (Node, Tensor)):
                    self.lower_early(self.trace.source(s))
            self.lower(source)

    def cross_entropy(self, logp: Node, loss: Node, slope: Node | None, seed: Any) -> None:
        operands = self.value(logp.inputs[0]), self.value(loss.inputs[1])
        z, t = (v if v.contiguous else self.copied(v, logp) for v in operands)
        total = self.buffer((), loss.dtype, loss)
        outputs, inputs = [total], [z, t]
        if slope is not None:
            dz = self.buffer(logp.shape, logp.dtype, slope)
            outputs.append(dz)
            self.lower_early(seed)
            inputs.append(self.value(seed))
            self.values[slope] = dz
        flops = self.flops(logp) + self.flops(loss) + (self.flops(slope) if slope is not None else 0)
        nodes = [logp, loss] + ([slope] if slope is not None else [])
        self.calls.append(CrossEntropy(math.prod(logp.shape[:-1]), inputs, outputs, nodes, flops))
        self.values[loss] = total
        self.values[logp] = total  # nothing reads it


# Ops that scale a loss and its gradients
SCALING = (ops.mul, ops.div, ops.neg, ops.add, ops.sub, mul_grad, div_grad)

# The rules for lowering ops; all others are elementwise, or run by their `forward`.
Rule: TypeAlias = Callable[[Lowering, Node, list[Any]], Value | None]
RULES: dict[Op, Rule] = {
    ops.reshape: Lowering.reshape,
    ops.transpose: Lowering.transpose,
    ops.broadcast_to: Lowering.broadcast_to,
    ops.getitem: Lowering.getitem,
    ops.concatenate: Lowering.concatenate,
    lookup: Lowering.lookup,
    put: Lowering.put,
    scatter: Lowering.scatter,
    assign: Lowering.assign,
    ops.matmul: Lowering.matmul,
    ops.linear: Lowering.linear,
    ops.sum: Lowering.sum,
    ops.mean: Lowering.mean,
    ops.amax: Lowering.max,
    ops.amin: Lowering.min,
    sum_to: Lowering.sum_to,
    ops.log: Lowering.log,
    ops.log1p: Lowering.log,
    ops.relu_grad: Lowering.relu_grad,
    ops.astype: Lowering.cast,
    ops.cast: Lowering.cast,
    ops.to_device: Lowering.to_device,
    all_reduce: Lowering.all_reduce,
}


def axes_of(node: Node) -> tuple[int, ...]:
    """The reduced axes, as non-negative numbers."""
    axis, ndim = node.attrs["axis"], len(node.inputs[0].shape)
    axes = range(ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    return tuple(sorted(index(a) % ndim for a in axes)) if ndim else ()


def is_elementwise(node: Node) -> bool:
    """Whether its op can be part of chains."""
    return node.op not in RULES and not node.op.moves and not any(axes for axes in node.op.parsed.inputs)


def slicer(key: Any) -> ViewFunction:
    """A function that slices an array as a view; the "..." makes a single element a 0-d array instead of a number."""
    parts = key if isinstance(key, tuple) else (key,)
    full_index = parts if any(i is ... for i in parts) else (*parts, ...)
    return lambda a, shape: a[full_index]


def outline(shape: Shape) -> Array:
    """A C-contiguous array of this shape without memory for its elements, which must not be read."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), shape, strides, writeable=False)


def takes_a_view(key: Any) -> bool:
    """Whether an index gives a view: it has no arrays, lists or booleans."""
    parts = key if isinstance(key, tuple) else (key,)
    return not any(is_array(i) or isinstance(i, (list, bool)) for i in parts)
