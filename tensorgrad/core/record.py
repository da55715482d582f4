"""Computes an operation, records it if a gradient may be needed, and explains errors."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core import backend, memory, writes
from tensorgrad.core.arithmetic import computed, narrowest
from tensorgrad.core.backend import Array, is_half
from tensorgrad.core.graph import Graph
from tensorgrad.core.location import line_of, user_location
from tensorgrad.core.naming import made_of
from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY, Label, Op
from tensorgrad.core.scope import Called
from tensorgrad.core.spellings import keyword
from tensorgrad.core.state import State, is_checking, is_recording, scoped, state, who_measures
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import (
    AnomalyError,
    ArgumentError,
    DeviceError,
    DTypeError,
    GraphError,
    OutOfRangeError,
    ShapeError,
    TensorgradError,
)

INTEGERS = 2**63  # number of negative integers; unsigned ones have twice as many values

# Dtypes that `forward` takes directly. NumPy has one object for each; others for the same dtype only take the slow path
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

LEAVES = (Tensor, float, int)  # inputs of a node that are not nodes


def apply(op: Op, *args: Any, **attrs: Any) -> Any:
    """The result: an array, or a Tensor if any argument is one, recorded if one of them requires a gradient."""
    if attrs and not op.positional_only.isdisjoint(attrs):
        names = ", ".join(op.positional_only & attrs.keys())
        raise ArgumentError(f"{scoped(op.public or op.name)}: its arrays must be positional, got {names} by keyword")
    switches = state.__dict__  # the switches of this thread, looked up once
    if switches["batching"] is not None and (batched := switches["batching"](op, args, attrs)) is not None:
        return batched
    is_tensor = requires_grad = needs_conversion = False
    arrays: list[Any] = []
    inputs: list[Any] = []
    for a in args:
        if isinstance(a, Tensor):
            is_tensor = True
            if a.requires_grad:
                requires_grad = True
            array = a._data
            dtype = array.dtype
            if dtype is not FLOAT32 and dtype is not FLOAT64 and (dtype.kind not in "biu" or op.widens(len(arrays))):
                needs_conversion = True
            arrays.append(array)
            inputs.append(a.node or a)
        else:
            kind = type(a)
            if kind is np.ndarray:
                dtype = a.dtype
                if dtype is not FLOAT32 and dtype is not FLOAT64:
                    needs_conversion = needs_conversion or dtype.kind not in "biu" or op.widens(len(arrays))
                    if not dtype.isnative:
                        a = backend.native(a)
                    if not backend.is_number(dtype):
                        a = operand(op, a, args)
            elif kind is int:
                if not -INTEGERS <= a < 2 * INTEGERS:
                    a = operand(op, a, args)
            elif kind is not float:
                a = operand(op, a, args)
                needs_conversion = True
            arrays.append(a)
            inputs.append(a)
    profiler = who_measures()
    since = 0.0 if profiler is None else time.perf_counter()
    result_dtype = None
    try:
        xp = backend.namespace(arrays)
        if not needs_conversion:
            if xp is not np:
                out, _ = on_gpu(op, xp, arrays, attrs, needs_conversion)
            elif attrs:
                out = op.forward(xp, *arrays, **attrs)
            else:  # a call without ** takes less time
                out = op.forward(xp, *arrays)
        elif switches["tracing"] and op.reads_output and any(is_half(a.dtype) for a in arrays if hasattr(a, "dtype")):
            return in_float32(op, args, attrs)
        else:
            unrounded, result_dtype = (computed if xp is np else on_gpu)(op, xp, arrays, attrs)
            out = unrounded if result_dtype is None else unrounded.astype(result_dtype)
    except MemoryError as error:
        if isinstance(error, TensorgradError):
            raise
        raise backend.memory_error(f"{scoped(op.public or op.name)} of {described(arrays)}", error) from error
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        explained = explain(op, error, args, attrs, arrays)
        if explained is error:
            raise
        raise explained from error
    seconds = 0.0 if profiler is None else backend.wait_for(out) - since
    if not is_tensor:
        return out
    if isinstance(out, np.generic):
        out = np.asarray(out)
    if is_checking():
        check_finite(op, args, arrays, out)
    from_trainable = requires_grad  # depends on a Tensor that requires a gradient, recorded or not
    requires_grad = requires_grad and is_recording()
    node = None
    if requires_grad or switches["tracing"]:
        node = record(op, args, inputs, attrs, arrays, out, requires_grad and op.backward is not None)
        if result_dtype is not None and node.out is not None:
            node.out = np.asarray(unrounded) if isinstance(unrounded, np.generic) else unrounded  # rules read unrounded results
        if switches["trace"] is not None:
            switches["trace"].recorded(node)
    if profiler is not None:
        profiler.ran(op, arrays, attrs, out, seconds, node)
    t = wrap(out, node)
    if node is None:
        if op.keeps_origin:
            remember_origin(t, op, args, arrays, attrs)
        if not from_trainable:
            for a in args:
                if isinstance(a, Tensor) and (a.name or a.made_of):
                    # inside a function of several ops it still counts as its argument
                    t.made_of = (a.name or a.made_of) if state.function is not None else made_of(op, args, attrs)
                    break
    return t


def remember_origin(t: Tensor, op: Op, args: Sequence[Any], arrays: Sequence[Any], attrs: dict[str, Any]) -> None:
    """Let an unrecorded result remember what its logarithm can be evaluated from, such as the logits of a softmax."""
    if op.log is not None:
        t.origin = Node(op, tuple(arrays), attrs, tuple(arrays), None, t.shape, t.dtype, (), False)
        return
    sources = tuple([getattr(a, "origin", None) if isinstance(a, Tensor) else a for a in args])
    if any(isinstance(source, Node) for source in sources):
        t.origin = Node(op, sources, attrs, (), None, t.shape, t.dtype, (), False)


def operand(op: Op, a: Any, args: Sequence[Any]) -> Array:
    """An argument that is not a Tensor, as an array; lists and NumPy scalars are moved to the GPU of another argument.

    Beside a Tensor a NumPy scalar counts as a Python number, which does not decide the dtype: x * np.sqrt(2) is float32.
    """
    if isinstance(a, np.generic):
        if (
            any(isinstance(x, Tensor) for x in args)
            and not (op.variadic or any(op.parsed.inputs))
            and backend.is_number(a.dtype)
        ):
            return bool(a) if a.dtype.kind == "b" else float(a) if backend.is_floating(a.dtype) else int(a)
    elif isinstance(a, (float, backend.Placeholder)) or (isinstance(a, int) and -INTEGERS <= a < 2 * INTEGERS):
        return a
    where = scoped(op.public or op.name)
    near_dtype = next((x.dtype for x in args if isinstance(x, (Tensor, np.ndarray)) and backend.is_number(x.dtype)), None)
    if isinstance(a, int):  # exceeds NumPy's integers
        if near_dtype is not None and backend.is_floating(near_dtype):
            return float(a)
    elif (
        isinstance(a, (list, tuple))
        and near_dtype is not None
        and not op.is_data(next(i for i, x in enumerate(args) if x is a))
    ):
        return backend.on_gpu_of(as_near(a, near_dtype, where), [x._data if isinstance(x, Tensor) else x for x in args])
    array = backend.asarray(a, where=where)
    if backend.is_array(a) and not isinstance(a, np.generic):
        return array
    return backend.on_gpu_of(array, [x._data if isinstance(x, Tensor) else x for x in args])


def in_float32(op: Op, args: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
    """Record an op in half precision as three ops, so that rules read the unrounded result, also in a replay."""
    astype = REGISTRY["astype"]
    widened = [astype.apply(a, dtype=np.dtype(np.float32)) if is_half(getattr(a, "dtype", FLOAT32)) else a for a in args]
    y = op.apply(*widened, **attrs)
    result_dtype = narrowest([a.dtype for i, a in enumerate(args) if hasattr(a, "dtype") and not op.is_data(i)])
    return y if result_dtype is None or y.dtype != FLOAT32 else astype.apply(y, dtype=result_dtype)


def as_near(numbers: Any, dtype: Any, where: str) -> Array:
    """A list of numbers as an array beside an operand of this dtype: floating numbers get a floating dtype."""
    try:
        array = np.asarray(numbers)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf":
        return backend.asarray(numbers, where=where)
    if backend.is_floating(dtype):
        return array.astype(dtype)
    return array if array.dtype.kind in "iu" else array.astype(backend.DEFAULT_FLOAT)


def on_gpu(
    op: Op, xp: Any, arrays: Sequence[Any], attrs: Mapping[str, Any], needs_conversion: bool = True
) -> tuple[Array, Any]:
    """`computed` on the device of the arrays."""
    with backend.on(next(a for a in arrays if backend.on_gpu(a))):
        return computed(op, xp, arrays, attrs) if needs_conversion else (op.forward(xp, *arrays, **attrs), None)


def explain(op: Op, error: Exception, args: tuple[Any, ...], attrs: dict[str, Any], arrays: list[Any]) -> Exception:
    """Turn NumPy's error into one that names the module, the op, the argument, the expected and the actual value, and its
    origin.

    Inside a function of several ops, that function is named, because the user called it.
    """
    where = scoped(op.public or op.name)
    if isinstance(error, TensorgradError):
        explained: TensorgradError = error
        text = str(error).removeprefix(f"{op.name}: ")
        if isinstance(error, DeviceError):
            text = f"{text}; got {described(arrays)}"
        explained.args = (text if text.startswith(where) else f"{where}: {text}", *error.args[1:])
    elif isinstance(error, TypeError) and (problem := call_problem(op, arrays, attrs)):
        return TypeError(f"{where}: {problem}")
    elif problem := op.parsed.mismatch([np.shape(a) for a in arrays]):
        explained = ShapeError(f"{where}: {problem}; expected {op.signature}{origins_of(args)}")
    elif isinstance(error, AttributeError):
        number = next((i for i, a in enumerate(arrays) if isinstance(a, (int, float))), None)
        if number is None:  # an error in the op's own code, not explained by arguments
            return error
        explained = DTypeError(f"{where}: argument {number} is the number {arrays[number]!r}, expected an array")
    else:
        kind: type[TensorgradError] = ShapeError
        if isinstance(error, (TypeError, OverflowError)):
            kind = DTypeError
        elif isinstance(error, OverflowError):
            kind = ArgumentError
        elif isinstance(error, IndexError) and not isinstance(error, ValueError):  # NumPy's AxisError is both
            kind = OutOfRangeError
        explained = kind(f"{where}: {error}; got {described(arrays)}{origins_of(args)}")
    if explained.graph is None and any(isinstance(a, Tensor) for a in args):
        inputs = tuple((a.node or a) if isinstance(a, Tensor) else a for a in args)
        explained.graph = Graph([Node(op, inputs, attrs, (), None, (), None, made=user_location())], check=False)
    return explained


def attach_graph(error: Exception, call: Called, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Attach the graph, ending in a failing node for the call, to the error of a function of several ops."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if isinstance(error, TensorgradError) and tensors:
        inputs = tuple(t.node or t for t in tensors)
        node = Node(Label(call.name, str(error)), inputs, {}, (), None, (), None, made=user_location())
        error.graph = Graph([node], check=False)


def call_problem(op: Op, arrays: list[Any], attrs: dict[str, Any]) -> str:
    """The error in the number of arguments or the names of attributes, in words; "" if there is none."""
    try:
        inspect.signature(op.forward).bind(np, *arrays, **attrs)
    except TypeError as error:
        return f"{error}; expected {op.name}({', '.join(inspect.signature(op).parameters)}){keyword(op, error)}"
    return ""


def record(
    op: Op,
    args: tuple[Any, ...],
    inputs: list[Any],
    attrs: dict[str, Any],
    arrays: list[Any],
    out: Array,
    requires_grad: bool,
) -> Node:
    """The node of one use, keeping only the arrays that the rule reads."""
    trace, latest = state.trace, writes.latest
    others_may_write = requires_grad and trace is None  # during a traced call nobody else can
    for i, source in enumerate(inputs):
        if type(source) is Node:
            if latest > source.index and writes.since(source.index, (arrays[i],)):
                if not source.requires_grad and trace is not None:
                    trace.reads_changed(arrays[i])
                    continue
                raise GraphError(
                    f"{op.name}: argument {i} {source.shape}, made by {source.op.name} at {source.line}, shares memory "
                    f"with a Tensor that was changed in place later; compute it again"
                )
        elif not isinstance(source, LEAVES):
            if others_may_write and op.reads_argument(i):
                source = arrays[i] = memory.private(source)
            inputs[i] = wrap(source, None)
    if op.data and requires_grad:
        for i, a in enumerate(args):
            if op.is_data(i) and isinstance(a, Tensor) and a.requires_grad:
                raise GraphError(f"{op.name}: argument {i} is data and has no gradient, but it requires one; .detach() it")
    if not requires_grad:
        logits = tuple(arrays) if op.log is not None else ()
        saved_out = out if op.draws else None  # recomputation needs the same numbers
        return Node(op, tuple(inputs), attrs, logits, saved_out, out.shape, out.dtype, (), False, user_location(2))
    saved: tuple[Any, ...] = ()
    if op.reads_all:
        saved = tuple(arrays)
    elif op.reads_some:
        reads = op.reads_input
        if op.variadic:  # the last named argument represents all further ones
            reads += reads[-1:] * (len(arrays) - len(reads))
        saved = tuple([a if read else None for a, read in zip(arrays, reads, strict=False)])
    if others_may_write and (writes.loans or writes.shared):
        saved = tuple([writes.unshared(a) for a in saved])
    saved_out = out if op.reads_output or op.draws else None
    return Node(op, tuple(inputs), attrs, saved, saved_out, out.shape, out.dtype, (), True, user_location(2))


def described(arrays: Sequence[Any]) -> str:
    """Shapes, dtypes and devices other than the CPU: "(2, 3) float32 on cuda:0, () float"."""
    return ", ".join(
        f"{np.shape(a)} {getattr(a, 'dtype', type(a).__name__)}" + (f" on {backend.device_of(a)}" if backend.on_gpu(a) else "")
        for a in arrays
    )


def origins_of(args: tuple[Any, ...]) -> str:
    """The origin of a failing op's arguments: "; fc2.linear produced argument 0 (2, 8) at model.py:14"."""
    text = ""
    for i, a in enumerate(args):
        node = a.node if isinstance(a, Tensor) else None
        if node is not None:
            name = f"{node.scope}.{node.op.name}" if node.scope else node.op.name
            text += f"; {name} produced argument {i} {node.shape}" + (f" at {node.line}" if node.line else "")
    return text


def check_finite(op: Op, args: tuple[Any, ...], arrays: list[Any], out: Any) -> None:
    """Raise AnomalyError if `out` has a NaN or an infinity, saying whether `op` produced it or passed it on."""
    if not backend.is_floating(out.dtype) or bool(np.isfinite(out).all()):
        return
    where = f"{state.scope}.{op.name}" if state.scope else op.name
    nonfinite = [
        i
        for i, a in enumerate(arrays)
        if backend.is_floating(np.dtype(getattr(a, "dtype", type(a)))) and not bool(np.isfinite(a).all())
    ]
    origin = (
        f"passed on from argument {', '.join(map(str, nonfinite))}"
        if nonfinite
        else "produced here, all arguments being finite"
    )
    kind = "NaN" if bool(np.isnan(out).any()) else "infinity"
    line = line_of(user_location())
    raise AnomalyError(f"{where}: {kind} in its result {out.shape}, {origin}{f'; at {line}' if line else ''}{origins_of(args)}")


Op.apply = Op.__call__ = apply  # type: ignore[assignment, method-assign]
State.attach_graph = staticmethod(attach_graph)
