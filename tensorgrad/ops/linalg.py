"""Matrix products, alone and as layers."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, overload

import numpy as np

from tensorgrad.core.arguments import integer, integers, is_sequence
from tensorgrad.core.backend import Array, Xp, asarray, is_array, namespace
from tensorgrad.core.memory import new
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T, Ternary
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import describe, named, state
from tensorgrad.core.state import scoped as scoped
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.kernels import cublas
from tensorgrad.kernels.common import add_row
from tensorgrad.ops.activation import relu, sigmoid, tanh
from tensorgrad.ops.activation_grad import relu_grad, sigmoid_grad, tanh_grad
from tensorgrad.ops.elementwise import mul
from tensorgrad.ops.shape import broadcast_to, reshape, rows, transpose
from tensorgrad.ops.sparse import is_sparse, sparse_product

__all__ = ["dot", "einsum", "linear", "linear_relu", "linear_sigmoid", "linear_tanh", "matmul", "outer", "tensordot"]


class Matmul(Op):
    """y = a @ b, the matrix product over the last two axes; leading axes broadcast. Vectors as in NumPy.

    One of the two may be a SciPy sparse matrix, which is constant: it has no gradient. The result is a dense Tensor.

    forward    y  = a b
    backward   ga = g bᵀ,   gb = aᵀ g
    """

    name, signature, symbol, reads = "matmul", "(m,k),(k,n)->(m,n)", "@", "a b"
    linear = "a b"
    layer = True

    def __call__(self, a: Operand[T], b: Operand[T]) -> T | Array:
        if is_sparse(a) or is_sparse(b):
            return sparse_product(a, b)
        vectors = getattr(a, "ndim", 2) == 1, getattr(b, "ndim", 2) == 1
        if not any(vectors):
            return self.apply(a, b)
        a, b = as_operand(self.name, a), as_operand(self.name, b)
        if not (a.ndim and b.ndim):
            raise ShapeError(
                f"{scoped('matmul')}: shapes {a.shape} and {b.shape} are incompatible; expected (m,k),(k,n)->(m,n)"
            )
        if vectors[0] and a.shape[0] != b.shape[0 if vectors[1] else -2]:
            raise ShapeError(f"{scoped('matmul')}: shapes {a.shape} and {b.shape} are incompatible; expected (k),(k,n)->(n)")
        if vectors[1] and a.shape[-1] != b.shape[0]:
            raise ShapeError(f"{scoped('matmul')}: shapes {a.shape} and {b.shape} are incompatible; expected (m,k),(k)->(m)")
        y = self.apply(a.reshape((1, -1)) if vectors[0] else a, b.reshape((-1, 1)) if vectors[1] else b)
        shape = y.shape
        return y.reshape(shape[:-2] + (() if vectors[0] else shape[-2:-1]) + (() if vectors[1] else shape[-1:]))

    def forward(self, xp: Xp, a: Array, b: Array) -> Array:
        return product(xp, a, b)

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        return 2 * math.prod(out) * shapes[0][-1]

    def backward(self, g: Value, y: Value, a: Value, b: Value) -> Rules:
        if b.ndim == 2:  # one product for all leading axes of a, instead of one each and a sum
            return lambda: matmul(g, b.T), lambda: rows(a).T @ rows(g)
        return lambda: matmul(g, b.swapaxes(-1, -2)), lambda: matmul(a.swapaxes(-1, -2), g)


class Linear(Ternary):
    """y = x W + b, a layer: rows of x are samples, W is (in, out).

    forward    y  = x W + b                                       x (...,k), W (k,n), b (n)
    backward   gx = g Wᵀ,   gW = xᵀ g,   gb = sum of g over samples
    tangent    ty = tx W + x tW + tb
    """

    name, signature, reads = "linear", "(...,k),(k,n),(n)->(...,n)", "x w"
    layer = True

    def __call__(self, a: Operand[T], b: Operand[T], c: Operand[T]) -> T | Array:
        if is_sparse(a):
            return sparse_product(a, b, self.name) + c
        return super().__call__(a, b, c)

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        if w.ndim != 2 or b.shape != w.shape[1:]:
            raise ValueError("weight and bias are incompatible")  # addition would broadcast; the signature has a better message
        y = product(xp, x, w)
        if y.dtype != b.dtype:
            return y + b
        return add_row(y, b) if xp is np else xp.add(y, b, out=y)

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        return (2 * shapes[1][0] + 1) * math.prod(out)

    def backward(self, g: Value, y: Value, x: Value, w: Value, b: Value) -> Rules:
        return lambda: matmul(g, w.T), lambda: rows(x).T @ rows(g), lambda: rows(g).sum(0)

    def jvp(self, y: Value, x: Value, w: Value, b: Value) -> Tangents:
        return lambda t: t @ w, lambda t: x @ t, lambda t: t


class LinearActivation(Ternary):
    """A layer with its activation: the gradient passes the activation once, for all three inputs."""

    signature, reads = "(...,k),(k,n),(n)->(...,n)", "y x w"
    layer = activation = True
    gradient: ClassVar[Op]

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (x, w, b), _ = super().sample(rng, sizes)
        if self.gradient is relu_grad:  # keep every unit away from 0
            b = rng.choice([-1.0, 1.0], b.shape) * (0.3 + np.abs(rows(x) @ w).max(initial=0))
        return (x, w, b), {}

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        return linear.flops(shapes, out, attrs) + math.prod(out)

    def backward(self, g: Value, y: Value, x: Value, w: Value, b: Value) -> Rules:
        return linear.backward(self.gradient(g, y), y, x, w, b)

    def jvp(self, y: Value, x: Value, w: Value, b: Value) -> Tangents:
        return lambda t: self.gradient(t @ w, y), lambda t: self.gradient(x @ t, y), lambda t: self.gradient(t, y)


class LinearRelu(LinearActivation):
    """y = relu(x W + b)

    forward    y  = max(x W + b, 0)                               x (...,k), W (k,n), b (n)
    backward   dz = g * [y > 0]
               gx = dz Wᵀ,   gW = xᵀ dz,   gb = sum of dz over samples
    tangent    ty = tz * [y > 0],   tz = tx W + x tW + tb
    """

    name, gradient = "linear_relu", relu_grad

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        z = linear.forward(xp, x, w, b)
        return xp.maximum(z, 0, out=z)


class LinearSigmoid(LinearActivation):
    """y = sigmoid(x W + b)

    forward    y  = 1 / (1 + e^-(x W + b))                        x (...,k), W (k,n), b (n)
    backward   dz = g y (1 - y)
               gx = dz Wᵀ,   gW = xᵀ dz,   gb = sum of dz over samples
    tangent    ty = tz y (1 - y),   tz = tx W + x tW + tb
    """

    name, gradient = "linear_sigmoid", sigmoid_grad

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        return sigmoid.forward(xp, linear.forward(xp, x, w, b))


class LinearTanh(LinearActivation):
    """y = tanh(x W + b)

    forward    y  = tanh(x W + b)                                 x (...,k), W (k,n), b (n)
    backward   dz = g (1 - y²)
               gx = dz Wᵀ,   gW = xᵀ dz,   gb = sum of dz over samples
    tangent    ty = tz (1 - y²),   tz = tx W + x tW + tb
    """

    name, gradient = "linear_tanh", tanh_grad

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        z = linear.forward(xp, x, w, b)
        return xp.tanh(z, out=z)


class Einsum(Op):
    """Products of the operands, summed over the subscripts that the result leaves out, by np.einsum's notation:
    einsum("ij,jk->ik", a, b).

    "->..." may be omitted (the result then has the subscripts that occur once, in alphabetical order), "..." stands for
    broadcast axes, a repeated subscript of one operand takes its diagonal. Axes of size 1 broadcast only inside "...".

    forward    y   = sum of x1 x2 ... over every subscript that the result leaves out
    backward   gxi = einsum of g and the other operands, to the subscripts of xi; repeated over those that only xi has,
                     and 0 off the diagonal of a subscript that xi has twice
    """

    name, signature, symbol, reads = "einsum", "(...)->(...)", "Σ×", "xs"
    linear = "xs"

    @overload
    def __call__(self, subscripts: str, /, *operands: Operand[T]) -> T | Array: ...
    @overload
    def __call__(self, *operands: Operand[T], subscripts: str) -> T | Array: ...
    def __call__(self, *operands: str | Operand[Tensor], subscripts: str | None = None) -> Tensor | Array:
        if subscripts is None:
            if not operands:
                raise ArgumentError(f"{scoped(self.name)}: expected subscripts such as 'ij,jk->ik' and operands, got nothing")
            subscripts, *operands = operands  # type: ignore[assignment]
        if not isinstance(subscripts, str):
            raise DTypeError(
                f"{scoped(self.name)}: subscripts must be a string such as 'ij,jk->ik', got {type(subscripts).__name__}"
            )
        xs = [as_operand(self.name, x) for x in operands]
        subscripts, shapes = explicit_subscripts(subscripts, [tuple(x.shape) for x in xs])
        xs = [x if x.shape == shape else x.reshape(shape) for x, shape in zip(xs, shapes, strict=True)]
        return self.apply(*xs, subscripts=subscripts)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        patterns = (
            "ij,jk->ik", "bij,jk->bik", "i,i->", "i,j->ij", "ij,ij->ij", "ij,kl->jl", "ij->ji", "ij->i", "ij->", "ii->i",
            "ii->", "iij,jk->ki", "iii->i", "ij,jk,kl->il", "i,ij,j->", "ab,cb,c->a", ",i->i", "ij,j,ij->",
        )  # fmt: skip
        subscripts = str(rng.choice(patterns))
        size = {letter: int(rng.choice(sizes)) for letter in sorted(set(subscripts) - set(",->"))}
        terms = subscripts.partition("->")[0].split(",")
        return tuple(self.values(rng, tuple(size[i] for i in term)) for term in terms), {"subscripts": subscripts}

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        terms = attrs["subscripts"].partition("->")[0].split(",")
        sizes = {letter: n for term, shape in zip(terms, shapes, strict=True) for letter, n in zip(term, shape, strict=True)}
        return len(terms) * math.prod(sizes.values())

    def forward(self, xp: Xp, *xs: Array, subscripts: str) -> Array:
        if len({x.dtype for x in xs}) > 1:  # depending on the order, a partial sum might have a dtype that is too narrow
            xs = tuple(x.astype(xp.result_type(*xs)) for x in xs)
        y = xp.einsum(subscripts, *xs, optimize=len(xs) > 1)  # optimisation also finds matrix products
        return y if y.base is None else y.copy()  # "ij->ji" is a view, but ops that compute must allocate

    def backward(self, g: Value, y: Value, *xs: Value, subscripts: str) -> Rules:
        left, _, result = subscripts.partition("->")
        terms = left.split(",")
        unused = [c for c in string.ascii_letters if c not in subscripts]

        def gradient(i: int) -> Value:
            parts = [(result, g)] + [(t, x) for j, (t, x) in enumerate(zip(terms, xs, strict=True)) if j != i]
            letters = ""  # the distinct subscripts of operand i: a repeated one gets a new name, tied to the first
            for axis, letter in enumerate(terms[i]):
                if letter in letters:
                    letter, first = unused[len(letters)], letter
                    parts.append((first + letter, identity(g, xs[i].shape[axis])))
                letters += letter
            available = set("".join(t for t, _ in parts))
            remaining = "".join(c for c in letters if c in available)
            gx = self.apply(*[x for _, x in parts], subscripts=",".join(t for t, _ in parts) + "->" + remaining)
            if remaining == letters:
                return gx
            shape = tuple(n if c in available else 1 for c, n in zip(letters, xs[i].shape, strict=True))
            return broadcast_to(gx.reshape(shape), xs[i].shape)

        return tuple((lambda i=i: gradient(i)) for i in range(len(xs)))


def explicit_subscripts(subscripts: str, shapes: list[Shape]) -> tuple[str, list[Shape]]:
    """`subscripts` with explicit result and letters for "...", and the shapes without axes that are broadcast."""
    text = subscripts.replace(" ", "")
    left, arrow, result = text.partition("->")
    terms = left.split(",")

    def wrong(what: str) -> ShapeError:
        shown_shapes = ", ".join(map(str, shapes))
        return ShapeError(f"{scoped('einsum')}: {what}; got {subscripts!r} for shapes {shown_shapes}")

    if len(terms) != len(shapes):
        raise wrong(f"{len(terms)} comma-separated subscripts for {len(shapes)} operands")
    for term in (*terms, result):
        rest = term.replace("...", "", 1)
        if not (rest == "" or (rest.isascii() and rest.isalpha())):
            raise wrong(f"subscripts must be letters and at most one '...', not {term!r}")
    unused = [c for c in string.ascii_letters if c not in text]
    lengths = [len(shape) - len(term) + 3 if "..." in term else 0 for term, shape in zip(terms, shapes, strict=True)]
    widest = max((0, *lengths))
    broadcast_letters = "".join(unused[:widest])
    sizes: dict[str, int] = {}
    full_terms = []
    for i, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        full = term.replace("...", broadcast_letters[widest - lengths[i] :]) if lengths[i] >= 0 else term
        if lengths[i] < 0 or len(full) != len(shape):
            raise wrong(f"operand {i} has {len(shape)} axes, {term!r} names {len(term.replace('...', ''))}")
        for letter, n in zip(full, shape, strict=True):
            size = sizes.setdefault(letter, n)
            if size == 1 and letter in broadcast_letters:
                sizes[letter] = n
            elif size != n and not (n == 1 and letter in broadcast_letters):
                axis = "an axis of '...'" if letter in broadcast_letters else f"axis {letter}"
                raise wrong(f"{axis} is {size} and {n}")
        full_terms.append(full)
    if not arrow:
        names = left.replace(",", "").replace("...", "")
        result = ("..." if "..." in left else "") + "".join(sorted(c for c in set(names) if names.count(c) == 1))
    if widest and "..." not in result:
        raise wrong("the result lacks '...'")
    result = result.replace("...", broadcast_letters)
    if missing := [c for c in result if c not in sizes]:
        raise wrong(f"the result has {missing[0]!r}, which no operand has")
    if len(set(result)) != len(result):
        raise wrong("the result has an axis twice")
    pairs = [zip(full, shape, strict=True) for full, shape in zip(full_terms, shapes, strict=True)]
    kept_axes = [[(c, n) for c, n in axes if n == sizes[c]] for axes in pairs]
    return ",".join("".join(c for c, _ in k) for k in kept_axes) + "->" + result, [tuple(n for _, n in k) for k in kept_axes]


def product(xp: Xp, a: Array, b: Array) -> Array:
    """a b; for two large matrices of one dtype in pooled memory, on a GPU by cuBLAS in the selected precision."""
    if xp is np and a.ndim == b.ndim == 2 and a.dtype is b.dtype and a.shape[1] == b.shape[0]:
        if a.shape[1] == 1:  # BLAS would be several times slower
            return np.multiply(a, b)
        return np.matmul(a, b, out=new((a.shape[0], b.shape[1]), a.dtype))
    if xp is not np and a.ndim >= b.ndim >= 2 and a.shape[-1] == b.shape[-2]:
        out = xp.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
        if cublas.is_supported(a, b, out):
            cublas.product(a, b, out)
            return out
    if xp is np and a.ndim > b.ndim == 2 and a.dtype is b.dtype and a.shape[-1] == b.shape[0] and a.flags.c_contiguous:
        out = new((*a.shape[:-1], b.shape[1]), a.dtype)
        np.matmul(rows(a), b, out=rows(out))  # NumPy would call BLAS for each matrix of a
        return out
    if xp is np and a.ndim >= b.ndim > 2 and a.dtype is b.dtype and a.shape[-1] == b.shape[-2]:
        if a.shape[-1] == 1:  # as above, for the per-sample gradient of a weight
            return np.multiply(a, b)  # not from the pool, whose memory would be copied on return
        if not any(b.strides[:-2]) and b.size and a.flags.c_contiguous:  # a broadcast matrix: one product of all rows
            out = new((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
            if out.shape[:-2] == a.shape[:-2]:
                np.matmul(rows(a), b[(0,) * (b.ndim - 2)], out=rows(out))
                return out
    return xp.matmul(a, b)


def as_operand(op: str, x: Operand[T]) -> T | Array:
    """Arrays and Tensors unchanged, lists and numbers as arrays; in a traced step arrays as Tensors, so that operations on them
    are recorded and replays read them.
    """
    if state.trace is not None and not isinstance(x, Tensor) and is_array(x):
        return wrap(asarray(x), None)
    return x if isinstance(x, Tensor) or is_array(x) else asarray(x, where=scoped(op))


def identity(like: Value, n: int) -> Array:
    """The (n,n) identity matrix with the dtype and array type of `like`."""
    data = like._data if isinstance(like, Tensor) else like
    return namespace([data]).eye(n, dtype=like.dtype)


@named
def dot(a: Operand[T], b: Operand[T]) -> T | Array:
    """np.dot: the sum of products over the last axis of `a` and the second last (for a vector: the only one) of `b`.

    y[i, ..., j, ..., n] = sum over k of a[i, ..., k] b[j, ..., k, n]; a plain product if one of them is 0-d. Unlike `matmul`
    it does not pair leading axes: the result has those of both. Computed by `tensordot`, and raises ShapeError like it.
    """
    a, b = as_operand("dot", a), as_operand("dot", b)
    if not a.ndim or not b.ndim:
        return mul(a, b)
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ShapeError(
            f"{scoped('dot')}: shapes {a.shape} and {b.shape} are incompatible; expected (...,k),(...,k,n) or (...,k),(k)"
        )
    return tensordot(a, b, ([-1], [-2 if b.ndim > 1 else 0]))


@named
def outer(a: Operand[T], b: Operand[T]) -> T | Array:
    """y[i, j] = a[i] b[j], the outer product; as in np.outer, arrays are flattened first."""
    a, b = as_operand("outer", a), as_operand("outer", b)
    return mul(reshape(a, (-1, 1)) if a.size else reshape(a, (0, 1)), reshape(b, (1, -1)) if b.size else reshape(b, (1, 0)))


@named
def tensordot(a: Operand[T], b: Operand[T], axes: int | tuple[int | Sequence[int], int | Sequence[int]] = 2) -> T | Array:
    """The sum of products over pairs of axes: one matrix product.

    axes   (axes of a, axes of b), each an int or several, paired in order; or n, for the last n of a with the first n of b

    The result has the other axes of a, then those of b. Raises ShapeError for axes that do not exist or differ in size.
    """
    a, b = as_operand("tensordot", a), as_operand("tensordot", b)
    problem = ""
    sides: Any = axes
    if not is_sequence(sides):
        n = integer("tensordot", "axes", sides)
        problem = "a negative number of axes" if n < 0 else ""
        n = min(n, max(a.ndim, b.ndim) + 1)  # any larger n raises the same error
        left, right = list(range(-n, 0)), list(range(n))
    elif len(sides) != 2:
        raise ShapeError(f"{scoped('tensordot')}: axes must be an integer, two integers or two lists, got {describe(sides)}")
    else:
        left, right = (list(integers("tensordot", "axes", side)) for side in sides)
        if len(left) != len(right):
            problem = f"{len(left)} axes of the first for {len(right)} of the second"
    for i, j in zip(left, right, strict=False):
        if not (-a.ndim <= i < a.ndim and -b.ndim <= j < b.ndim):
            problem = problem or f"axes {i} and {j} do not both exist"
        elif a.shape[i] != b.shape[j]:
            problem = problem or f"axis {i} of the first is {a.shape[i]} but axis {j} of the second is {b.shape[j]}"
    left, right = [i % max(a.ndim, 1) for i in left], [j % max(b.ndim, 1) for j in right]
    if not problem and (len(set(left)) < len(left) or len(set(right)) < len(right)):
        problem = "an axis is given twice"
    if problem:
        raise ShapeError(f"{scoped('tensordot')}: {problem}; got shapes {a.shape} and {b.shape}, axes={axes}")
    free_axes_a, free_axes_b = [i for i in range(a.ndim) if i not in left], [j for j in range(b.ndim) if j not in right]
    k = math.prod(a.shape[i] for i in left)
    free_a, free_b = tuple(a.shape[i] for i in free_axes_a), tuple(b.shape[j] for j in free_axes_b)
    x = reshape(in_order(a, free_axes_a + left), (math.prod(free_a), k))
    w = reshape(in_order(b, right + free_axes_b), (k, math.prod(free_b)))
    return reshape(matmul(x, w), free_a + free_b)


def in_order(x: Any, axes: list[int]) -> Any:
    """x with its axes permuted."""
    return x if axes == sorted(axes) else transpose(x, tuple(axes))


matmul, linear, einsum = Matmul(), Linear(), Einsum()
linear_relu, linear_sigmoid, linear_tanh = LinearRelu(), LinearSigmoid(), LinearTanh()
linear_relu.expands, linear_sigmoid.expands, linear_tanh.expands = (linear, relu), (linear, sigmoid), (linear, tanh)
