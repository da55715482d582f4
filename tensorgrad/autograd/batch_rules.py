"""Batching rules for vmap: how each op is computed for a whole batch, with one rule for each family of ops.

A rule gets the op, its arguments, which of them are batched (have the samples along a first axis), the attributes, and the
number of samples; it returns the results with the samples along a first axis. Rules are written in ops, so they are recorded,
differentiated, batched again and compiled like anything else. The op's signature says which axes of an argument belong
together; all others broadcast.

An op without a rule, such as a user's, is evaluated for one sample after the other: slow, but correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.arguments import axes_in, axis_in
from tensorgrad.core.backend import is_array, namespace
from tensorgrad.core.batched import Batched
from tensorgrad.core.op import REGISTRY, Op
from tensorgrad.core.state import state, switched
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import BatchError
from tensorgrad.ops.ctc import ctc_grad
from tensorgrad.ops.index import AT
from tensorgrad.ops.loss import scale_of

Rule = Callable[[Op, list[Any], list[bool], dict[str, Any], int], Any]


def batched_result(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """The results of one op for n samples, along a first axis."""
    rule: Rule = RULES.get(op.name, one_by_one)
    return rule(op, args, batched, attrs, n)


def one_by_one(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """The fallback: evaluate each sample on its own and stack the results."""
    if not n:
        raise BatchError(f"vmap: {op.public or op.name} runs sample by sample, and the batch is empty")
    samples = [
        op.apply(*[a[i] if is_batched else a for a, is_batched in zip(args, batched, strict=True)], **attrs) for i in range(n)
    ]
    return ops.stack(samples)


def ndim(x: Any, is_batched: bool) -> int:
    """The number of axes of an argument per sample."""
    return np.ndim(raw(x)) - is_batched


def shape(x: Any, is_batched: bool) -> tuple[int, ...]:
    """The shape of an argument per sample."""
    return tuple(np.shape(raw(x))[is_batched:])


def repeated(x: Any, n: int) -> Any:
    """Repeat an argument for each sample, as a view."""
    return ops.broadcast_to(x, (n, *np.shape(raw(x))))


def with_axes(x: Any, ndim: int) -> Any:
    """Insert axes of size 1 after the batch axis, so that each sample has `ndim` axes."""
    size = x.shape
    return x if len(size) - 1 >= ndim else ops.reshape(x, (size[0], *(1,) * (ndim + 1 - len(size)), *size[1:]))


def broadcasting(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """For ops with core axes at the end of each argument, by the signature; the other axes, and the batch axis, broadcast."""
    core_axes = [len(axes) for axes in op.parsed.inputs]
    core_axes += core_axes[-1:] * (len(args) - len(core_axes))
    outer = max(ndim(a, is_batched) - k for a, is_batched, k in zip(args, batched, core_axes, strict=False))
    aligned = [with_axes(a, outer + k) if is_batched else a for a, is_batched, k in zip(args, batched, core_axes, strict=False)]
    return op.apply(*aligned, **attrs)


def logarithm(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Calls the op normally, because log checks for a softmax, which it evaluates from the logits."""
    return op(args[0])


def reduction(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Reduce over `axis`; None for all axes of a sample."""
    rank, axis = ndim(args[0], True), attrs["axis"]
    axes = axes_in(op.name, axis, rank) if rank or axis not in (None, 0, -1) else ()
    return op.apply(args[0], **{**attrs, "axis": tuple(a + 1 for a in axes)})


def along_axis(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Along one axis of a sample."""
    return op.apply(args[0], **{**attrs, "axis": axis_in(op.name, attrs["axis"], ndim(args[0], True)) + 1})


def rowwise(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Softmax and log_softmax: along the last axis, stack the rows of all samples into one matrix, for which there is a
    kernel.
    """
    (x,) = args
    if axis_in(op.name, attrs["axis"], x.ndim - 1) != x.ndim - 2 or x.ndim == 2:
        return along_axis(op, args, batched, attrs, n)
    flat = ops.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    return ops.reshape(op.apply(flat, axis=-1), x.shape)


def arg_extreme(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """argmax and argmin: along one axis, or over the flattened sample."""
    (x,), rank = args, ndim(args[0], True)
    if attrs["axis"] is not None and rank:
        return along_axis(op, args, batched, attrs, n)
    y = op.apply(ops.reshape(x, (n, math.prod(x.shape[1:]))), axis=1, keepdims=False)
    return ops.reshape(y, (n, *(1,) * rank)) if attrs["keepdims"] else y


def concatenate(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Concatenate along an axis of the samples."""
    xs = [a if is_batched else repeated(a, n) for a, is_batched in zip(args, batched, strict=True)]
    return op.apply(*xs, axis=axis_in(op.name, attrs["axis"], ndim(xs[0], True)) + 1)


def transpose(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    return op.apply(args[0], axes=(0, *(a + 1 for a in attrs["axes"])))


def reshape(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    (x,), target = args, attrs["shape"]
    target = target if isinstance(target, tuple) else (target,)
    target = np.broadcast_to(False, x.shape[1:]).reshape(target).shape  # resolves -1; refuses a shape that does not fit
    return op.apply(x, shape=(n, *target))


def broadcast_to(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    target = attrs["shape"]
    target = target if isinstance(target, tuple) else (target,)
    np.broadcast_to(False, args[0].shape[1:]), np.broadcast_shapes(args[0].shape[1:], target)
    return op.apply(with_axes(args[0], len(target)), shape=(n, *target))


def sum_to(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    (x,), target = args, attrs["shape"]
    added = x.ndim - 1 - len(target)
    return ops.reshape(op.apply(x, shape=(n, *(1,) * added, *target)), (n, *target))


def is_mask(part: Any) -> bool:
    """Whether a part of an index is boolean."""
    return isinstance(part, (bool, np.bool_)) or (is_array(part) and part.dtype == bool)


def parts_of(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def result_axis(index: tuple[Any, ...], arrays: Sequence[Any] = ()) -> int:
    """The position of the batch axis in x[:, *index]: 0, or after the axes of index arrays that a slice separates.

    arrays   the arrays in place of each AT
    """
    remaining = iter(arrays)
    parts = [next(remaining) if isinstance(part, str) else part for part in index]
    positions = [
        i for i, part in enumerate(parts) if isinstance(part, (int, np.integer)) or np.ndim(raw(part)) or is_mask(part)
    ]
    has_arrays = any(not isinstance(parts[i], (int, np.integer)) for i in positions)
    if not has_arrays or positions[-1] - positions[0] + 1 == len(positions):
        return 0
    shapes = [(1,) if is_mask(parts[i]) else np.shape(raw(parts[i])) for i in positions]
    return len(np.broadcast_shapes(*shapes))


def getitem(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    index = parts_of(attrs["index"])
    if any(is_mask(part) and not np.ndim(part) for part in index):
        return one_by_one(op, args, batched, attrs, n)
    return ops.moveaxis(op.apply(args[0], index=(slice(None), *index)), result_axis(index), 0)


def put(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    index = parts_of(attrs["index"])
    if any(is_mask(part) and not np.ndim(part) for part in index):
        return one_by_one(op, args, batched, attrs, n)
    x = ops.moveaxis(args[0], 0, result_axis(index))
    return op.apply(x, index=(slice(None), *index), shape=(n, *attrs["shape"]))


def setitem(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    (x, v), index = args, parts_of(attrs["index"])
    if any(is_mask(part) and not np.ndim(part) for part in index):
        return one_by_one(op, args, batched, attrs, n)
    x, axis = x if batched[0] else repeated(x, n), result_axis(index)
    rank = np.broadcast_to(np.int8(0), x.shape[1:])[attrs["index"]].ndim
    if batched[1]:
        v = ops.moveaxis(with_axes(v, rank), 0, axis)
    elif axis:
        v = ops.expand_dims(ops.broadcast_to(v, (*(1,) * (rank - np.ndim(raw(v))), *np.shape(raw(v)))), axis)
    return op.apply(x, v, index=(slice(None), *index))


def gather(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """x[index] with index arrays as arguments: shared by all samples, or one for each."""
    (x, *arrays), (is_batched, *are_batched), index = args, batched, parts_of(attrs["index"])
    if not any(are_batched):
        y = op.apply(x, *arrays, index=(slice(None), *index))
        return ops.moveaxis(y, result_axis(index, arrays), 0)
    for array, index_is_batched in zip(arrays, are_batched, strict=True):
        if raw(array).dtype == bool:
            if index_is_batched:
                raise BatchError(
                    "vmap: a boolean index that differs between samples selects a different number of elements from each; "
                    "use where()"
                )
            return one_by_one(op, args, batched, attrs, n)
    if any(part is not AT for part in index):
        return one_by_one(op, args, batched, attrs, n)
    rank = max(ndim(a, index_is_batched) for a, index_is_batched in zip(arrays, are_batched, strict=True))
    arrays = [with_axes(a, rank) if index_is_batched else a for a, index_is_batched in zip(arrays, are_batched, strict=True)]
    if not is_batched:
        return op.apply(x, *arrays, index=index)
    return op.apply(x, samples(arrays[0], n, rank), *arrays, index=(AT, *index))


def samples(like: Any, n: int, rank: int) -> Tensor:
    """The index of each sample, along the first of 1 + rank axes."""
    return wrap(namespace([raw(like)]).arange(n).reshape((n, *(1,) * rank)), None)


def lookup(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Rows of a shared table, or of one table per sample: all tables are concatenated into one."""
    w, t = args
    if not batched[0]:
        return op.apply(w, t)
    _, rows, width = w.shape
    t = t if batched[1] else repeated(t, n)
    indices = ops.where(out_of_range(t, rows), n * rows, t + samples(t, n, t.ndim - 1) * rows)
    return op.apply(ops.reshape(w, (n * rows, width)), indices)


def sparse_matmul(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """One sparse matrix times the columns of all samples, side by side."""
    x, *matrix = args
    if any(batched[1:]):
        return one_by_one(op, args, batched, attrs, n)
    _, k, columns = x.shape
    y = op.apply(ops.reshape(ops.transpose(x, (1, 0, 2)), (k, n * columns)), *matrix, **attrs)
    return ops.transpose(ops.reshape(y, (y.shape[0], n, columns)), (1, 0, 2))


def out_of_range(t: Any, rows: int) -> Any:
    """Whether an index is out of range; it must stay so in the concatenated tables, to be refused."""
    return ops.add(ops.less(t, 0), ops.greater_equal(t, rows))


def one_hot(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    return op.apply(args[0], **attrs)


def negative_mean(x: Any, n: int) -> Any:
    """-1 times the mean over all axes but the first."""
    flat = ops.reshape(x, (n, math.prod(x.shape[1:])))
    return ops.sum(flat, 1) * (-1 / max(flat.shape[1], 1))


def at_labels(logp: Any, t: Any, batched: list[bool], n: int) -> Any:
    """logp[..., t[...]] of each sample: (n, m) for m rows per sample."""
    k = np.shape(raw(logp))[-1]
    t = ops.where(out_of_range(t, k), k, t)  # a negative index would count from the end; index k is refused
    logp, t = (a if is_batched else repeated(a, n) for a, is_batched in zip((logp, t), batched, strict=True))
    if logp.shape[:-1] != t.shape:
        raise ValueError(f"labels have shape {t.shape[1:]}, expected {logp.shape[1:-1]}: one per row of the scores")
    count = math.prod(t.shape)
    rows = REGISTRY["gather"].apply(
        ops.reshape(logp, (count, k)), samples(t, count, 0), ops.reshape(t, (count,)), index=(AT, AT)
    )
    return ops.reshape(rows, (n, count // max(n, 1)))


def nll_loss(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    logp, t = args
    return negative_mean(at_labels(logp, t, batched, n), n)


def softmax_cross_entropy(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    z, t, *extra = args
    if extra:
        return one_by_one(op, args, batched, attrs, n)
    logp = ops.log_softmax(z, -1)
    is_probabilities = ndim(z, batched[0]) == ndim(t, batched[1])
    scale = scale_of(np.broadcast_to(0, shape(z, batched[0])), attrs["scale"])
    terms = ops.mul_grad(t, logp) if is_probabilities else at_labels(logp, t, batched, n)
    return ops.sum(ops.reshape(terms, (n, math.prod(terms.shape[1:]))), 1) * -scale


def sigmoid_cross_entropy(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    z, a, b = (x if is_batched else repeated(x, n) for x, is_batched in zip(args, batched, strict=True))
    terms = ops.mul_grad(a, ops.logsigmoid(z)) + ops.mul_grad(b, REGISTRY["log_complement_sigmoid"].apply(z))
    return ops.sum(ops.reshape(terms, (n, math.prod(terms.shape[1:]))), 1) * -attrs["scale"]


def einsum(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Add a letter for the batch axis."""
    left, _, result = attrs["subscripts"].partition("->")
    letter = next(c for c in map(chr, range(ord("A"), ord("z") + 1)) if c.isalpha() and c not in attrs["subscripts"])
    terms = ",".join(letter * is_batched + term for term, is_batched in zip(left.split(","), batched, strict=True))
    return op.apply(*args, subscripts=f"{terms}->{letter}{result}")


def linear(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """With shared weights the samples are stacked as more rows; otherwise the op is replaced by its expansion."""
    x, w, b = args
    if not any(batched[1:]):
        return op.apply(x, w, b)
    batching = state.batching.within(n)  # a vmap inside
    x, w, b = (Batched.of(a, batching.calls[-1]) if is_batched else a for a, is_batched in zip(args, batched, strict=True))
    with switched(batching=batching):
        y = ops.matmul(x, w) + b
        for activation in op.expands[1:]:
            y = activation(y)
    return y.value


def windows(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Stack the images of all samples along the axis of images."""
    (x,) = args
    y = op.apply(ops.reshape(x, (n * x.shape[1], *x.shape[2:])), **attrs)  # (c, *kernel, n m, *places)
    axis = 1 + len(attrs["kernel"])
    y = ops.reshape(y, (*y.shape[:axis], n, x.shape[1], *y.shape[axis + 1 :]))
    return ops.moveaxis(y, axis, 0)


def fold(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    (x,) = args  # (n, c, *kernel, m, *places)
    axis = 1 + len(attrs["size"])
    x = ops.moveaxis(x, 0, axis)
    y = op.apply(ops.reshape(x, (*x.shape[:axis], n * x.shape[axis + 1], *x.shape[axis + 2 :])), **attrs)
    return ops.reshape(y, (n, x.shape[axis + 1], *y.shape[1:]))


def padded(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Pad nothing along the batch axis."""
    new_attrs = {**attrs, "width": ((0, 0), *attrs["width"])}
    return op.apply(args[0], **(new_attrs | {"shape": (n, *attrs["shape"])} if "shape" in attrs else new_attrs))


def ctc(op: Op, args: list[Any], batched: list[bool], attrs: dict[str, Any], n: int) -> Any:
    """Stack the sequences of all samples."""
    full = [a if is_batched else repeated(a, n) for a, is_batched in zip(args, batched, strict=True)]
    scores = int(op is ctc_grad)  # the argument with the scores, whose first axis is the steps
    full[scores] = ops.moveaxis(full[scores], 0, 1)
    m = full[scores].shape[2]
    flat = [ops.reshape(a, (*a.shape[: i == scores], n * m, *a.shape[2 + (i == scores) :])) for i, a in enumerate(full)]
    y = op.apply(*flat)
    return ops.moveaxis(ops.reshape(y, full[scores].shape), 1, 0) if scores else ops.reshape(y, (n, m))


RULES: dict[str, Rule] = {
    "argmax": arg_extreme, "argmin": arg_extreme, "broadcast_to": broadcast_to, "concatenate": concatenate,
    "cumprod": along_axis, "ctc": ctc, "ctc_grad": ctc, "cumsum": along_axis, "einsum": einsum, "extend": padded,
    "first_of": reduction, "first_so_far": along_axis, "fold": fold, "fold_back": padded, "gather": gather,
    "getitem": getitem, "inside": one_hot, "log": logarithm, "log1p": logarithm, "logcumsumexp": along_axis,
    "log_softmax": rowwise, "lookup": lookup, "nll_loss": nll_loss, "one_hot": one_hot, "put": put,
    "reshape": reshape, "setitem": setitem, "sigmoid_cross_entropy": sigmoid_cross_entropy, "softmax": rowwise,
    "softmax_cross_entropy": softmax_cross_entropy, "sparse_matmul": sparse_matmul,
    "sum_to": sum_to, "transpose": transpose, "windows": windows,
}  # fmt: skip
REDUCTIONS = "all any logsumexp max mean min norm sum"
LAYERS = "linear linear_relu linear_sigmoid linear_tanh"
BROADCASTING = """
    abs add all_reduce arccos arcsin arctan arctan2 astype bitwise_and bitwise_or bitwise_xor cast ceil cholesky clip cos cosh
    ctc_states det det_sign div div_grad eigh_factors elu equal erf exp expm1 floor floordiv gelu greater greater_equal
    hypot inv isfinite isnan keep_mask leaky_relu left_shift less less_equal log10 log2 log_complement_sigmoid logabsdet
    logaddexp logical_and logical_not logical_or logical_xor logsigmoid matmul maximum minimum mod mul mul_grad neg
    not_equal pinv power qr_factors reciprocal relu relu_grad right_shift round sigmoid sigmoid_cross_entropy_grad
    sigmoid_grad sign silu sin sinh softplus solve sqrt square sub svd_factors tan tanh tanh_grad to_device trunc where"""
for _names, _rule in ((REDUCTIONS, reduction), (LAYERS, linear), (BROADCASTING, broadcasting)):
    RULES |= dict.fromkeys(_names.split(), _rule)
