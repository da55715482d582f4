"""Lowering: the nodes of a traced step as calls of kernels on values that have a place in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorgrad.compiler.trace import Source, Trace
from tensorgrad.core.backend import Array, address, copy, is_array
from tensorgrad.core.node import Node
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import CompileError
from tensorgrad.kernels.chain import NotElementwise, Ref, Sketch, Symbol
from tensorgrad.kernels.chain import Step as ChainStep
from tensorgrad.ops.reduce import kept

Shape = tuple[int, ...]
Look = Callable[[Array, Shape], Array]
Numbers = tuple[Callable[[], Mapping[str, float]], "dict[str, Value]"]  # what is asked for them, and where they go


@dataclass(eq=False)
class Value:
    """An array of the plan.

    kind    "argument": given at each call;  "outside": memory that lives outside of the plan (parameters, constants);
            "number": a 0-d array that is set before each run;  "buffer": memory of the plan;  "fresh": an array that an
            operation without `out` makes;  "view": another value, seen otherwise
    array   the array, where it is known before a run
    base, look, how   of a view: the value, what makes an array of this shape of an array of it, and what that is called:
            "reshape", "broadcast_to", "transpose" (of a matrix), "permute" or "getitem"
    node    what it is the result of, for names
    """

    shape: Shape
    dtype: Any
    kind: str
    array: Array | None = None
    base: Value | None = None
    look: Look | None = None
    how: str = ""
    contiguous: bool = True
    node: Node | None = None

    @property
    def root(self) -> Value:
        """The value whose memory it is."""
        value = self
        while value.base is not None:
            value = value.base
        return value

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


@dataclass(eq=False)
class Call:
    """One kernel: what it is called in tables, values and numbers that it reads, values that it writes.

    kind    "elementwise", "matmul", "dot", "reduce", "cross_entropy", "copy", "assign" or "op"
    detail  what else the kind needs
    """

    kind: str
    name: str
    inputs: list[Any]
    outputs: list[Value]
    nodes: list[Node]
    flops: int = 0
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def reads(self) -> list[Value]:
        return [v for v in self.inputs if isinstance(v, Value)]


@dataclass
class Lowered:
    """calls in order; arguments (with the gradients that are added to), numbers, results and kept gradients as values."""

    calls: list[Call]
    arguments: list[Value]
    numbers: list[Numbers]
    results: list[Value]
    grads: list[tuple[Tensor, Value]]


VIEWS = {"reshape", "transpose", "broadcast_to", "getitem"}
REDUCTIONS = {
    "sum": "add",
    "mean": "add",
    "max": "maximum",
    "min": "minimum",
    "amax": "maximum",
    "amin": "minimum",
    "sum_to": "add",
}


class Lowering:
    """The state of one lowering."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.graph = trace.program()
        self.calls: list[Call] = []
        self.values: dict[Source, Value] = {}
        self.outside: dict[tuple[int, Shape, tuple[int, ...], str], Value] = {}
        given = [*trace.arguments, *(g for g in trace.grads.values() if g is not None)]
        self.arguments = [Value(t.shape, t.dtype, "argument") for t in given]
        self.values.update(zip(given, self.arguments, strict=True))
        self.numbers: list[Numbers] = []
        for compute, leaves in trace.numbers:
            found = {name: Value((), leaf.dtype, "number", copy(leaf.data)) for name, leaf in leaves.items()}
            self.values.update((leaves[name], value) for name, value in found.items())
            self.numbers.append((compute, found))
        self.readers: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            for s in node.inputs:
                if isinstance(s, (Node, Tensor)) and isinstance(source := trace.source(s), Node):
                    self.readers.setdefault(source, []).append(node)

    def run(self) -> Lowered:
        steps: list[tuple[int, Any]] = [(node.index, node) for node in self.graph.nodes]
        steps += [(a.index, a) for a in self.trace.assignments]
        self.losses = self.cross_entropies()
        for _, step in sorted(steps, key=lambda s: s[0]):
            if isinstance(step, Node):
                self.lower(step)
            else:
                value = self.value(step.value)
                target = self.of_array(step.target)
                self.calls.append(Call("assign", "assign", [value], [target], list((value.node and [value.node]) or [])))
        results = [self.value(t) for t in self.trace.results]
        grads = [(t, self.value(g)) for t, g in self.trace.kept.items()]
        return Lowered(self.calls, self.arguments, self.numbers, results, grads)

    # Values

    def value(self, source: Source) -> Value:
        """The value of a node or a leaf."""
        source = self.trace.source(source)
        if source not in self.values:
            assert isinstance(source, Tensor), f"{source!r} has not been lowered"
            self.values[source] = self.of_array(source.data)
        return self.values[source]

    def of_array(self, array: Array) -> Value:
        """The value of memory outside of the plan, the same one for the same memory."""
        key = (address(array), array.shape, array.strides, str(array.dtype))
        if key not in self.outside:
            self.outside[key] = Value(array.shape, array.dtype, "outside", array, contiguous=array.flags.c_contiguous)
        return self.outside[key]

    def buffer(self, shape: Shape, dtype: Any, node: Node) -> Value:
        return Value(tuple(shape), np.dtype(dtype), "buffer", node=node)

    def view(self, of: Value, shape: Shape, how: str, look: Look, contiguous: bool, node: Node) -> Value:
        array = None if of.array is None else look(of.array, shape)
        return Value(tuple(shape), of.dtype, "view", array, of, look, how, contiguous, node)

    def reshaped(self, of: Value, shape: Shape, node: Node) -> Value:
        """`of` in another shape: a view where that can be, else a copy."""
        if tuple(shape) == of.shape:
            return of
        if not of.contiguous:
            out = self.buffer(of.shape, of.dtype, node)
            self.calls.append(Call("copy", "copy", [of], [out], [node]))
            of = out
        return self.view(of, shape, "reshape", np.reshape, True, node)

    # Nodes

    def lower(self, node: Node) -> None:
        """Append the calls that compute `node`, and say what its value is."""
        if node in self.values:
            return
        if node in self.losses:
            self.losses[node](node)
            return
        inputs = [self.value(s) if isinstance(s, (Node, Tensor)) else s for s in node.inputs]
        special = getattr(self, f"lower_{node.op.name}", None)
        if node.op.name in VIEWS:
            value = self.as_view(node, inputs)
        elif node.op.name in REDUCTIONS:
            value = self.reduced(node, inputs)
        elif special is not None:
            value = special(node, inputs)
        else:
            value = self.elementwise(node, inputs)
        self.values[node] = self.generic(node, inputs) if value is None else value

    def flops(self, node: Node) -> int:
        return node.op.flops([getattr(s, "shape", ()) for s in node.inputs], node.shape, node.attrs)

    def generic(self, node: Node, inputs: list[Any]) -> Value:
        """The op's own `forward`."""
        value = Value(node.shape, node.dtype, "fresh", node=node)
        self.calls.append(
            Call("op", node.op.name, inputs, [value], [node], self.flops(node), {"op": node.op, "attrs": node.attrs})
        )
        return value

    def as_view(self, node: Node, inputs: list[Any]) -> Value | None:
        of, attrs = inputs[0], node.attrs
        if not isinstance(of, Value):
            return None
        if node.op.name == "reshape":
            return self.reshaped(of, node.shape, node)
        if node.op.name == "getitem" and not basic(attrs["index"]):
            return None
        if node.op.name == "broadcast_to" and node.shape == of.shape:
            return of
        looks: dict[str, Look] = {
            "transpose": lambda a, shape: a.transpose(attrs["axes"]),
            "broadcast_to": np.broadcast_to,
            "getitem": taking(attrs.get("index")),
        }
        how = node.op.name
        if how == "transpose" and attrs["axes"] != (1, 0):
            how = "permute"
        return self.view(of, node.shape, how, looks[node.op.name], False, node)

    def elementwise(self, node: Node, inputs: list[Any]) -> Value | None:
        """The steps that `forward` takes for symbols; None if it is not elementwise."""
        if any(axes for axes in node.op.parsed.inputs) or not all(isinstance(i, (Value, int, float, bool)) for i in inputs):
            return None
        sketch = Sketch(len(inputs))
        symbols = [Symbol(sketch, i, np.ones(1, v.dtype)) if isinstance(v, Value) else v for i, v in enumerate(inputs)]
        try:
            result = node.op.forward(np, *symbols, **node.attrs)
        except (NotElementwise, AttributeError, TypeError):
            return None
        if not isinstance(result, Symbol) or result.dtype != node.dtype or not sketch.steps:
            return None
        value = self.steps(node, inputs, sketch.steps)
        if value.shape != node.shape:  # an operand that the formula does not use made the shape
            return self.view(value, node.shape, "broadcast_to", np.broadcast_to, False, node)
        return value

    def steps(self, node: Node, inputs: list[Any], steps: Sequence[ChainStep]) -> Value:
        """Elementwise functions one after the other, the last of which gives the value of the node."""
        registers: list[Any] = list(inputs)
        for step in steps:
            operands = [registers[a.register] if isinstance(a, Ref) else a for a in step.inputs]
            shape = np.broadcast_shapes(*[v.shape for v in operands if isinstance(v, Value)])
            narrow = [before_broadcast(v) if isinstance(v, Value) else v for v in operands]
            if np.broadcast_shapes(*[v.shape for v in narrow if isinstance(v, Value)]) == shape:
                operands = narrow  # a kernel broadcasts by itself, and knows which numbers are the same
            out = self.buffer(shape, step.dtype, node)
            detail = {"function": step.function, "quiet": step.quiet}
            self.calls.append(Call("elementwise", step.function, operands, [out], [node], math.prod(shape), detail))
            registers.append(out)
        value = registers[-1]
        assert isinstance(value, Value)
        return value

    def step(self, node: Node, function: str, *operands: Any, dtype: Any = None) -> Value:
        refs = tuple(Ref(i) for i in range(len(operands)))
        return self.steps(node, list(operands), [ChainStep(function, refs, str(np.dtype(dtype or node.dtype)))])

    def lower_relu_grad(self, node: Node, inputs: list[Any]) -> Value | None:
        g, unit = inputs
        if not (g.shape == unit.shape == node.shape and g.dtype == unit.dtype == node.dtype):
            return None
        return self.step(node, "relu_grad", g, unit)

    def lower_to_device(self, node: Node, inputs: list[Any]) -> Value:
        (x,) = inputs
        if node.attrs["device"] != node.attrs["origin"]:
            raise CompileError(
                f"compile: a Tensor is moved from {node.attrs['origin']} to {node.attrs['device']} inside the step at "
                f"{node.line}; a plan runs on one device. Move it outside of the step"
            )
        return x  # type: ignore[no-any-return]

    def lower_matmul(self, node: Node, inputs: list[Any]) -> Value | None:
        a, b = inputs
        if not (isinstance(a, Value) and isinstance(b, Value) and a.dtype == b.dtype == node.dtype):
            return None
        out = self.buffer(node.shape, node.dtype, node)
        self.calls.append(Call("matmul", "matmul", [a, b], [out], [node], self.flops(node)))
        return out

    def lower_linear(self, node: Node, inputs: list[Any]) -> Value | None:
        x, w, b = inputs
        if not (isinstance(x, Value) and x.dtype == w.dtype == b.dtype == node.dtype):
            return None
        product = self.buffer(node.shape, node.dtype, node)
        flops = 2 * math.prod(node.shape) * w.shape[0]
        self.calls.append(Call("matmul", "matmul", [x, w], [product], [node], flops))
        return self.step(node, "add", product, b)

    def lower_log(self, node: Node, inputs: list[Any]) -> Value | None:
        """log(softmax(z)) from the logits, as it is recorded."""
        (p,) = node.inputs
        p = self.trace.source(p) if isinstance(p, (Node, Tensor)) else p
        if isinstance(p, Node) and p.op.name == "softmax":
            from tensorgrad.ops.loss import log_softmax

            value = Value(node.shape, node.dtype, "fresh", node=node)
            z = self.value(p.inputs[0])
            detail = {"op": log_softmax, "attrs": p.attrs}
            self.calls.append(Call("op", "log_softmax", [z], [value], [node], self.flops(node), detail))
            return value
        return self.elementwise(node, inputs)

    def reduced(self, node: Node, inputs: list[Any]) -> Value | None:
        """A reduction into a buffer; a mean is a sum and a quotient."""
        (x,) = inputs
        if not isinstance(x, Value) or x.dtype != node.dtype or not math.prod(x.shape):
            return None
        if node.op.name == "sum_to":
            lead = len(x.shape) - len(node.shape)
            axes = (*range(lead), *(i + lead for i, n in enumerate(node.shape) if n == 1 and x.shape[i + lead] != 1))
        else:
            axis = node.attrs["axis"]
            axes = tuple(range(len(x.shape))) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
            axes = tuple(sorted(a % len(x.shape) for a in axes))
        narrow = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        value = x
        factors = self.factors(x, node) if axes and not narrow and REDUCTIONS[node.op.name] == "add" else None
        if factors is not None:
            value = self.buffer((), x.dtype, node)
            self.calls.append(Call("dot", "dot", factors, [value], [node], 2 * math.prod(x.shape)))
        elif axes:
            value = self.buffer(narrow, x.dtype, node)
            detail = {"function": REDUCTIONS[node.op.name], "axes": axes}
            self.calls.append(Call("reduce", node.op.name, [x], [value], [node], math.prod(x.shape), detail))
        if node.op.name == "mean":
            n = math.prod(x.shape) // max(math.prod(kept(x.shape, axes)), 1)
            value = self.step(node, "divide", value, float(n))
        return self.reshaped(value, node.shape, node)

    def factors(self, x: Value, node: Node) -> list[Any] | None:
        """The two arrays whose product `x` is, if it was made just before and only `node` reads it: the product is not made,
        for the sum of it is their dot product."""
        call = self.calls[-1] if self.calls else None
        source = self.trace.source(node.inputs[0])
        if call is None or call.outputs[0] is not x or call.kind != "elementwise" or call.name not in ("multiply", "square"):
            return None
        values = [v for v in (call.inputs * 2)[:2] if isinstance(v, Value)]
        if not isinstance(source, Node) or source in self.results():
            return None
        alike = len(values) == 2 and all(v.shape == x.shape and v.contiguous and v.dtype == x.dtype for v in values)
        if not alike or x.dtype.char not in "fd" or self.readers.get(source, []) != [node]:
            return None
        self.calls.pop()
        return list(values)

    def lower_concatenate(self, node: Node, inputs: list[Any]) -> Value | None:
        """Parts that only the whole reads are computed in their places in it, the others copied there."""
        axis = node.attrs["axis"] % len(node.shape)
        if not all(isinstance(v, Value) and v.dtype == node.dtype for v in inputs):
            return None
        whole = self.buffer(node.shape, node.dtype, node)
        start = 0
        for part in inputs:
            stop = start + part.shape[axis]
            place = (*[slice(None)] * axis, slice(start, stop))
            there = self.view(whole, part.shape, "getitem", taking(place), axis == 0, node)
            start = stop
            if not self.put_there(part, there, axis):
                self.calls.append(Call("copy", "copy", [part], [there], [node]))
        return whole

    def put_there(self, part: Value, there: Value, axis: int) -> bool:
        """Whether `part` is a buffer that could be made to lie in the place `there`."""
        root = part.root
        alone = root.kind == "buffer" and root.nbytes == part.nbytes and part.contiguous and root.contiguous
        if axis or not alone:
            return False
        root.kind, root.base = "view", there
        root.look, root.how = np.reshape, "reshape"
        return True

    # Softmax and cross-entropy, forward and backward in one

    def cross_entropies(self) -> dict[Node, Callable[[Node], None]]:
        """The nodes of every log_softmax, its mean negative log-likelihood and the gradient of that, where nothing else reads
        the log-probabilities and the gradient that comes in is known beforehand."""
        found: dict[Node, Callable[[Node], None]] = {}
        for logp in self.graph.nodes:
            readers = self.readers.get(logp, [])
            losses = [n for n in readers if n.op.name == "nll_loss"]
            slopes = [n for n in readers if n.op.name == "softmax_cross_entropy_grad"]
            last = logp.op.name == "log_softmax" and logp.attrs["axis"] in (-1, logp.ndim - 1)
            if not last or len(losses) != 1 or len(slopes) > 1 or len(readers) != 1 + len(slopes) or logp in self.results():
                continue
            (loss,) = losses
            target = self.trace.source(loss.inputs[1])
            scale = 1 / max(math.prod(logp.shape[:-1]), 1)
            seed: Any = None
            if slopes:
                seed = self.trace.source(slopes[0].inputs[0])
                if isinstance(seed, Node) or self.trace.source(slopes[0].inputs[2]) is not target:
                    continue
                if slopes[0].attrs["scale"] != scale:
                    continue
            if logp.dtype.kind != "f" or (isinstance(target, Node) and target.index > logp.index):
                continue

            def lower(node: Node, logp: Node = logp, loss: Node = loss, slopes: list[Node] = slopes, seed: Any = seed) -> None:
                self.lower_cross_entropy(logp, loss, slopes[0] if slopes else None, seed)

            found.update(dict.fromkeys([logp, loss, *slopes], lower))
        return found

    def results(self) -> set[Any]:
        wanted = [*self.trace.results, *(a.value for a in self.trace.assignments), *self.trace.kept.values()]
        return {self.trace.source(v) for v in wanted}

    def lower_cross_entropy(self, logp: Node, loss: Node, slope: Node | None, seed: Any) -> None:
        z, t = self.value(logp.inputs[0]), self.value(loss.inputs[1])
        total = self.buffer((), loss.dtype, loss)
        outputs, inputs = [total], [z, t]
        if slope is not None:
            dz = self.buffer(logp.shape, logp.dtype, slope)
            outputs.append(dz)
            inputs.append(self.value(seed))
            self.values[slope] = dz
        flops = self.flops(logp) + self.flops(loss) + (self.flops(slope) if slope is not None else 0)
        nodes = [logp, loss] + ([slope] if slope is not None else [])
        detail = {"samples": math.prod(logp.shape[:-1])}
        self.calls.append(Call("cross_entropy", "softmax_cross_entropy", inputs, outputs, nodes, flops, detail))
        self.values[loss] = total
        self.values[logp] = total  # nobody reads it


def before_broadcast(value: Value) -> Value:
    """What a value is that has been repeated along its first axes, or all of them; a number without axes of length 1."""
    while value.base is not None and (value.how == "broadcast_to" or (value.how == "reshape" and not value.base.shape)):
        value = value.base
    return value


def taking(index: Any) -> Look:
    """What takes a part of an array, as a view: of one element too, which without "..." would be a number."""
    parts = index if isinstance(index, tuple) else (index,)
    whole = parts if any(i is ... for i in parts) else (*parts, ...)
    return lambda a, shape: a[whole]


def basic(index: Any) -> bool:
    """Whether an index takes a view: no arrays, lists or booleans in it."""
    parts = index if isinstance(index, tuple) else (index,)
    return not any(is_array(i) or isinstance(i, (list, bool)) for i in parts)
