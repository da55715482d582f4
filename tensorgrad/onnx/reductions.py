"""ONNX counterparts of reductions, softmax, losses, running sums, products, attention and recurrent networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorgrad.onnx.elementwise import as_numbers, number, rectified, select, softplus
from tensorgrad.onnx.recording import Size
from tensorgrad.onnx.table import NoCounterpart, counterpart, unsupported
from tensorgrad.onnx.writer import Use, Value, Writer


def axes_of(axis: Any, ndim: int) -> tuple[int, ...]:
    """The reduced axes, as non-negative numbers."""
    if axis is None or not ndim:
        return tuple(range(ndim))
    return tuple(sorted(a % ndim for a in ((axis,) if isinstance(axis, int) else axis)))


def reduce(w: Writer, kind: str, x: Value, axes: Any, keepdims: bool, shape: Any = ()) -> Value:
    """A reduction over some axes; x itself if there are none."""
    if not axes:
        return x
    return w(kind, x, w.constant(axes, np.int64), keepdims=int(keepdims), shape=shape)


def reduced(w: Writer, u: Use, kind: str, x: Value) -> Value:
    return reduce(w, kind, x, axes_of(u.attrs["axis"], len(u.shapes[0])), u.attrs["keepdims"], u.shape)


@counterpart("sum")
def add_up(w: Writer, u: Use) -> Value:
    return reduced(w, u, "ReduceSum", signed(w, *u.operands()))


def signed(w: Writer, x: Value) -> Value:
    """uint64 as int64, which wraps around in the same way: onnxruntime only sums int64."""
    return w.cast(x, np.int64) if x.dtype == np.uint64 else x


@counterpart("mean")
def mean(w: Writer, u: Use) -> Value:
    return reduced(w, u, "ReduceMean", *u.operands())


@counterpart("norm")
def norm(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return reduced(w, u, "ReduceL2", x) if axes_of(u.attrs["axis"], len(x.shape)) else w("Abs", x)


def extreme(name: str, kind: str) -> None:
    @counterpart(name)
    def export_op(w: Writer, u: Use) -> Value:
        (x,) = u.operands()
        if x.dtype == bool:
            return w.cast(reduced(w, u, kind, w.cast(x, np.int32)), bool)
        return reduced(w, u, kind, x)


extreme("max", "ReduceMax")
extreme("min", "ReduceMin")


@counterpart("any", "all")
def any_or_all(w: Writer, u: Use) -> Value:
    kind = "ReduceMax" if u.node.op.forward(np, np.array([True, False]), axis=None, keepdims=False) else "ReduceMin"
    return w.cast(reduced(w, u, kind, w.cast(w.as_value(u.raw[0], bool), np.int32)), bool)


@counterpart("argmax", "argmin")
def arg_extreme(w: Writer, u: Use) -> Value:
    largest = u.node.op.forward(np, np.array([0, 1]), axis=0, keepdims=False) == 1
    (x,) = u.promoted()
    x = w.cast(x, np.int32) if x.dtype == bool else x
    axis = u.attrs["axis"]
    if axis is None or not x.shape:
        x, axis = w("Reshape", x, w.constant([-1], np.int64), shape=(-1,)), 0
    y = w("ArgMax" if largest else "ArgMin", x, axis=axis, keepdims=int(u.attrs["keepdims"]), dtype=np.int64)
    return w.reshape(y._replace(shape=()), u.shape) if u.attrs["axis"] is None or not u.shapes[0] else y


@counterpart("first_of")
def first_of(w: Writer, u: Use) -> Value:
    (x,) = u.promoted()
    x = w.cast(x, np.int32) if x.dtype == bool else x
    shape = u.shapes[0]
    axes = axes_of(u.attrs["axis"], len(shape))
    order = [*[i for i in range(len(shape)) if i not in axes], *axes]
    if any(isinstance(shape[a], Size) for a in axes):
        raise NoCounterpart("over the axis of samples, whose size is unknown")
    n = math.prod(shape[a] for a in axes)
    transposed = w.transpose(x, order)
    flat = w.reshape(transposed, [*[shape[i] for i in order[: len(shape) - len(axes)]], n])
    index = w("ArgMax" if u.attrs["which"] == "argmax" else "ArgMin", flat, axis=-1, keepdims=1, dtype=np.int64)
    mask = w("Equal", w.constant(np.arange(n)), index, dtype=bool, shape=flat.shape)
    return w.transpose(w.reshape(mask, transposed.shape), [int(i) for i in np.argsort(order)])


@counterpart("logsumexp")
def logsumexp(w: Writer, u: Use) -> Value:
    """The maximum is subtracted first, unless it is infinite."""
    (x,) = u.operands()
    axes = axes_of(u.attrs["axis"], len(x.shape))
    reduced_shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
    top = reduce(w, "ReduceMax", x, axes, True, reduced_shape)
    is_infinite = w("Equal", w("Abs", top), number(w, x, math.inf), dtype=bool)
    top = select(w, is_infinite, number(w, x, 0), top)
    total = reduce(w, "ReduceSum", w("Exp", w("Sub", x, top, shape=x.shape)), axes, True, reduced_shape)
    return w.reshape(w("Add", w("Log", total), top, shape=reduced_shape), u.shape)


@counterpart("sum_to")
def sum_to(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    extra_axes = len(x.shape) - len(u.shape)
    axes = [*range(extra_axes), *[i + extra_axes for i, n in enumerate(u.shape) if n == 1 and x.shape[i + extra_axes] != 1]]
    reduced_shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
    return w.reshape(reduce(w, "ReduceSum", x, axes, True, reduced_shape), u.shape)


@counterpart("cumsum")
def cumsum(w: Writer, u: Use) -> Value:
    x = signed(w, *u.operands())
    return w("CumSum", x, w.constant(np.int64(u.attrs["axis"])))


def running(w: Writer, x: Value, axis: int, start: float, step: Any) -> Value:
    """y_i = step(y_{i-1}, x_i) along an axis."""
    axis %= len(x.shape)
    rest = tuple(n for i, n in enumerate(x.shape) if i != axis)
    first = w.expand(number(w, x, start), rest)

    def body(states: list[Value], entries: list[Value]) -> tuple[list[Value], list[Value]]:
        y = step(states[0], entries[0])
        return [y], [y]

    return w.scan([first], [x], axis, body, x.shape[axis])[1]


@counterpart("cumprod")
def cumprod(w: Writer, u: Use) -> Value:
    (x,) = u.operands()
    return running(w, x, u.attrs["axis"], 1, lambda a, b: w("Mul", a, b))


@counterpart("logcumsumexp")
def logcumsumexp(w: Writer, u: Use) -> Value:
    (x,) = u.operands()

    def step(a: Value, b: Value) -> Value:
        top = w("Max", a, b)
        is_infinite = w("Equal", w("Abs", top), number(w, x, math.inf), dtype=bool)
        return select(w, is_infinite, top, w("Add", top, softplus(w, w("Neg", w("Abs", w("Sub", a, b))))))

    return running(w, x, u.attrs["axis"], -math.inf, step)


@counterpart("first_so_far")
def first_so_far(w: Writer, u: Use) -> Value:
    (x,) = u.promoted()
    axis = u.attrs["axis"] % len(x.shape)
    rest = tuple(n for i, n in enumerate(x.shape) if i != axis)
    zero = w.constant(np.int64(0))
    worst = -np.inf if u.attrs["which"] == "argmax" else np.inf
    if x.dtype.kind in "iub":
        x = w.cast(x, np.float64)
    best, position = w.expand(number(w, x, worst), rest), w.expand(zero, rest)
    count = w.constant(np.int64(-1))

    def body(states: list[Value], entries: list[Value]) -> tuple[list[Value], list[Value]]:
        (top, index, i), (v,) = states, entries
        i = w("Add", i, w.constant(np.int64(1)))
        better = w("Greater" if u.attrs["which"] == "argmax" else "Less", v, top, dtype=bool)
        is_number = w("Equal", top, top, dtype=bool)  # NaN propagates
        new = w("And", w("Or", better, w("Not", w("Equal", v, v, dtype=bool))), is_number)
        new = w("Or", new, w("Equal", i, zero, dtype=bool))
        top = select(w, new, v, top, shape=rest)
        index = select(w, new, i, index, shape=rest)
        return [top, index, i], [index]

    return w.scan([best, position, count], [x], axis, body, x.shape[axis])[3]._replace(shape=u.shape)


@counterpart("argsort")
def argsort(w: Writer, u: Use) -> Value:
    (x,) = u.promoted()
    x = w.cast(x, np.int32) if x.dtype == bool else x
    n = x.shape[u.attrs["axis"]]
    return w.several(
        "TopK", x, w.sizes((n,)), dtypes=[x.dtype, np.int64], axis=int(u.attrs["axis"]), largest=0, sorted=1
    )[1]  # fmt: skip


# Products


@counterpart("matmul")
def matmul(w: Writer, u: Use) -> Value:
    return w("MatMul", *as_numbers(w, u), shape=u.shape)


def affine(w: Writer, u: Use) -> Value:
    x, weight, b = as_numbers(w, u)
    if len(x.shape) == 2 and x.dtype.kind == "f":
        return w("Gemm", x, weight, b, shape=u.shape)
    return w("Add", w("MatMul", x, weight, shape=u.shape), b)


def linear(name: str, kind: str) -> None:
    @counterpart(name)
    def export_op(w: Writer, u: Use) -> Value:
        y = affine(w, u)
        if kind == "Relu":
            return rectified(w, y)
        return w(kind, y) if kind else y


for _name, _kind in (("linear", ""), ("linear_relu", "Relu"), ("linear_sigmoid", "Sigmoid"), ("linear_tanh", "Tanh")):
    linear(_name, _kind)


@counterpart("einsum")
def einsum(w: Writer, u: Use) -> Value:
    return w("Einsum", *as_numbers(w, u), equation=u.attrs["subscripts"].replace(" ", ""), shape=u.shape)


@counterpart("det", "det_sign")
def det(w: Writer, u: Use) -> Value:
    y = w("Det", *u.operands(), shape=u.shape)
    is_sign = u.node.op.forward(np, 2 * np.eye(1)) == 1
    return w("Sign", y) if is_sign else y


# Softmax and losses


@counterpart("softmax")
def softmax(w: Writer, u: Use) -> Value:
    return w("Softmax", *u.operands(), axis=int(u.attrs["axis"]))


@counterpart("log_softmax")
def log_softmax(w: Writer, u: Use) -> Value:
    return w("LogSoftmax", *u.operands(), axis=int(u.attrs["axis"]))


@counterpart("one_hot")
def one_hot(w: Writer, u: Use) -> Value:
    return w.cast(one_hot_mask(w, w.as_value(u.raw[0], np.int64), int(u.attrs["classes"])), u.dtype)


def one_hot_mask(w: Writer, labels: Value, classes: int) -> Value:
    """One-hot booleans of the labels."""
    column = w("Unsqueeze", labels, w.constant([-1], np.int64), shape=(*labels.shape, 1))
    return w("Equal", column, w.constant(np.arange(classes)), dtype=bool, shape=(*labels.shape, classes))


def at_labels(w: Writer, logp: Value, t: Value) -> Value:
    """The entry of logp at the class of each sample."""
    at = w("Unsqueeze", w.cast(t, np.int64), w.constant([-1], np.int64), shape=(*t.shape, 1))
    return w("GatherElements", logp, at, axis=-1, shape=at.shape)


def all_axes(w: Writer, kind: str, x: Value) -> Value:
    return reduce(w, kind, x, tuple(range(len(x.shape))), False, ())


@counterpart("nll_loss")
def nll_loss(w: Writer, u: Use) -> Value:
    logp = w.as_value(u.raw[0], u.dtype)
    return w("Neg", all_axes(w, "ReduceMean", at_labels(w, logp, u.arguments()[1])))


@counterpart("softmax_cross_entropy")
def softmax_cross_entropy(w: Writer, u: Use) -> Value:
    z, t = w.as_value(u.raw[0], u.dtype), u.arguments()[1]
    logp = u.arguments()[2] if len(u.raw) > 2 else w("LogSoftmax", z, axis=-1)
    if len(t.shape) == len(z.shape):
        products = w("Mul", w.cast(t, logp.dtype), logp)
        losses = reduce(w, "ReduceSum", products, (len(z.shape) - 1,), False, z.shape[:-1])
    else:
        losses = at_labels(w, logp, t)
    if u.attrs["scale"] is None:
        return w("Neg", all_axes(w, "ReduceMean", losses))
    return w("Mul", all_axes(w, "ReduceSum", losses), number(w, logp, -u.attrs["scale"]))


@counterpart("softmax_cross_entropy_grad")
def softmax_cross_entropy_grad(w: Writer, u: Use) -> Value:
    g, logp, t = (w.as_value(v, u.dtype) if i < 2 else u.arguments()[2] for i, v in enumerate(u.raw))
    p = w("Exp", logp)
    if len(t.shape) == len(logp.shape):
        t = w.cast(t, u.dtype)
        p = w("Mul", p, reduce(w, "ReduceSum", t, (len(t.shape) - 1,), True), shape=p.shape)
    else:
        t = w.cast(one_hot_mask(w, w.cast(t, np.int64), logp.shape[-1]), u.dtype)
    return w("Mul", w("Sub", p, t), w("Mul", g, number(w, p, u.attrs["scale"])), shape=u.shape)


@counterpart("sigmoid_cross_entropy")
def sigmoid_cross_entropy(w: Writer, u: Use) -> Value:
    z, a, b = u.operands()
    term_a = w("Mul", a, w("Neg", softplus(w, w("Neg", z))))
    term_b = w("Mul", b, w("Neg", softplus(w, z)))
    total = all_axes(w, "ReduceSum", w("Add", term_a, term_b))
    return w("Mul", total, number(w, z, -u.attrs["scale"]))


@counterpart("sigmoid_cross_entropy_grad")
def sigmoid_cross_entropy_grad(w: Writer, u: Use) -> Value:
    g, z, a, b = u.operands()
    d = w("Sub", w("Mul", b, w("Sigmoid", z)), w("Mul", a, w("Sigmoid", w("Neg", z))))
    return w("Mul", w("Mul", g, number(w, g, u.attrs["scale"])), d)


# Attention


@counterpart("attention")
def attention(w: Writer, u: Use) -> Value:
    q, k, v = (w.as_value(x, u.operands()[0].dtype) for x in u.raw[:3])
    masks = u.arguments()[3:]
    keep = masks.pop() if u.attrs["dropout"] else None
    transposed = w.transpose(k, [*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2])
    rows, columns = q.shape[-2], k.shape[-2]
    z = w("MatMul", w("Mul", q, number(w, q, u.attrs["scale"])), transposed, shape=(rows, columns))
    masked_score = number(w, q, -math.inf)
    for mask in masks:
        z = select(w, mask, z, masked_score) if mask.dtype == bool else w("Add", z, w.cast(mask, z.dtype))
    if u.attrs["causal"]:
        if isinstance(rows, Size) or isinstance(columns, Size):
            raise NoCounterpart("causal attention over the axis of samples, whose size is unknown")
        z = select(w, w.constant(np.tri(rows, columns, dtype=bool)), z, masked_score)
    if masks:  # if a query may attend to no key, all of its scores are -inf
        top = w("ReduceMax", z, w.constant([-1], np.int64), keepdims=1)
        is_masked = w("Equal", top, masked_score, dtype=bool)
        zero = number(w, q, 0)
        p = select(w, is_masked, zero, w("Softmax", select(w, is_masked, zero, z), axis=-1))
    else:
        p = w("Softmax", z, axis=-1)
    if keep is not None:
        rate = u.attrs["dropout"]
        p = select(w, keep, p, number(w, q, 0))
        p = w("Mul", p, number(w, q, 1 / (1 - rate) if rate < 1 else 1))
    return w("MatMul", p, v, shape=u.shape)


# Recurrent networks: a Scan over the steps that returns all states


def steps(w: Writer, u: Use, body: Any, states: list[Value], z: Value) -> list[Value]:
    """The states after each step, (t, n, h) each, preceded by the initial ones."""
    outputs = w.scan(states, [z], 0, body, z.shape[0])[len(states) :]
    all_states = []
    for first, rest in zip(states, outputs, strict=True):
        start = w("Unsqueeze", first, w.constant([0], np.int64), shape=(1, *first.shape))
        shape = (plus_one(z.shape[0]), *first.shape)
        all_states.append(w("Concat", start, rest, axis=0, shape=shape))
    return all_states


def plus_one(n: Any) -> Any:
    return Size(n.slope, n.offset + 1) if isinstance(n, Size) else n + 1


def gates(w: Writer, a: Value, count: int) -> list[Value]:
    return w.several("Split", a, dtypes=[a.dtype] * count, axis=-1, num_outputs=count, shape=())


@counterpart("rnn")
def rnn(w: Writer, u: Use) -> Value:
    z, h0, weight = u.operands()
    kind = "Tanh" if u.attrs["activation"] == "tanh" else "Relu"

    def body(states: list[Value], entries: list[Value]) -> tuple[list[Value], list[Value]]:
        h = w(kind, w("Add", entries[0], w("MatMul", states[0], weight, shape=h0.shape)), shape=h0.shape)
        return [h], [h]

    return steps(w, u, body, [h0], z)[0]


@counterpart("lstm")
def lstm(w: Writer, u: Use) -> Value:
    z, h0, c0, weight = u.operands()

    def body(states: list[Value], entries: list[Value]) -> tuple[list[Value], list[Value]]:
        h, c = states
        i, f, m, o = gates(w, w("Add", entries[0], w("MatMul", h, weight)), 4)
        kept, new = w("Mul", w("Sigmoid", f), c, shape=c0.shape), w("Mul", w("Sigmoid", i), w("Tanh", m))
        c = w("Add", kept, new, shape=c0.shape)
        h = w("Mul", w("Sigmoid", o), w("Tanh", c), shape=h0.shape)
        return [h, c], [h, c]

    stacked = [w("Unsqueeze", v, w.constant([0], np.int64)) for v in steps(w, u, body, [h0, c0], z)]
    return w("Concat", *stacked, axis=0, shape=u.shape)


@counterpart("gru")
def gru(w: Writer, u: Use) -> Value:
    z, h0, weight, b = u.operands()

    def body(states: list[Value], entries: list[Value]) -> tuple[list[Value], list[Value]]:
        (h,) = states
        zr, zw, zm = gates(w, entries[0], 3)
        ar, aw, am = gates(w, w("MatMul", h, weight), 3)
        r, kept = w("Sigmoid", w("Add", zr, ar)), w("Sigmoid", w("Add", zw, aw))
        m = w("Tanh", w("Add", zm, w("Mul", r, w("Add", am, b))))
        h = w("Add", m, w("Mul", kept, w("Sub", h, m)), shape=h0.shape)
        return [h], [h]

    return steps(w, u, body, [h0], z)[0]


@counterpart("inside")
def inside(w: Writer, u: Use) -> Value:
    lengths = w.as_value(u.raw[0], np.int64)
    column = w("Unsqueeze", lengths, w.constant([-1], np.int64))
    return w("Less", w.constant(np.arange(u.attrs["steps"])), column, dtype=bool, shape=u.shape)


GRADIENT = "it computes a gradient, but a file is for inference"
unsupported(GRADIENT, "attention_grad", "gru_grad", "lstm_grad", "rnn_grad", "ctc_grad")
unsupported("it is a training loss, but a file is for inference", "ctc", "ctc_states")
unsupported("it sums over several processes, but a file is for one", "all_reduce")
unsupported("ONNX has no operator for it", "eigh_factors", "svd_factors", "qr_factors", "pinv", "inv", "solve", "cholesky")
unsupported("ONNX only has the determinant, which may overflow where its logarithm does not", "logabsdet")
unsupported("ONNX has no sparse products; multiply by the dense matrix", "sparse_matmul")
