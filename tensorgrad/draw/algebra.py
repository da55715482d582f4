"""Simplification of formulas: collects factors, moves signs and numbers to the front, resolves transposes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.core.signature import Shape
from tensorgrad.draw.expression import Expr, Head, Term, call, first, interned

# Numbers


def ratio(num: float, den: float = 1) -> tuple[float, float]:
    """num / den in lowest terms if both are integers; other numbers unchanged."""
    num, den = (int(x) if math.isfinite(x) and x == int(x) and abs(x) < 2**53 else x for x in (num, den))
    if den < 0:
        num, den = -num, -den
    if isinstance(num, int) and isinstance(den, int) and den:
        common = math.gcd(num, den)
        return num // common, den // common
    return (1, 1) if num == den else (-1, 1) if num == -den else (num, den)


def number(num: float, den: float = 1) -> Expr:
    num, den = ratio(num, den)
    return call(Term.PRODUCT, shape=(), num=num, den=den, powers=())


def is_number(e: Expr, value: float | None = None) -> bool:
    return e.head is Term.PRODUCT and not e.args and (value is None or value_of(e) == value)


def value_of(e: Expr) -> float:
    """The value of a number."""
    return float(e["num"] / e["den"]) if e["den"] else math.nan


def uniform(e: Expr) -> float | None:
    """The common value of all elements of an expression, if it is written as one."""
    inner = first(e) if e.head is Term.EVERYWHERE else e
    return value_of(inner) if is_number(inner) else None


def everywhere(e: Expr, shape: Shape) -> Expr:
    """`e` repeated to `shape`."""
    if e.head is Term.EVERYWHERE:
        e = first(e)
    return e if e.shape == shape else call(Term.EVERYWHERE, e, shape=shape)


# Elementwise products and sums


def factors(e: Expr) -> tuple[float, float, list[tuple[Expr, float]]]:
    """Factorise `e`: num, den, and factors with their powers."""
    e = first(e) if e.head is Term.EVERYWHERE else e
    if e.head is Term.PRODUCT:
        return e["num"], e["den"], list(zip(e.args, e["powers"], strict=True))
    return 1, 1, [(e, 1)]


def product(shape: Shape, *terms: Expr | float) -> Expr:
    """The elementwise product of `terms`, broadcast to `shape`."""
    num: float = 1
    den: float = 1
    powers: dict[Expr, float] = {}
    for term in terms:
        n, d, pairs = factors(term) if isinstance(term, Expr) else (term, 1, [])
        num, den = num * n, den * d
        for base, power in pairs:
            powers[base] = powers.get(base, 0) + power
    return of_powers(shape, num, den, powers)


def quotient(shape: Shape, a: Expr, b: Expr) -> Expr:
    return product(shape, a, powered(b, -1))


def powered(e: Expr, k: float) -> Expr:
    """e^k for a number k; distributed over the factors of a product if k is an integer."""
    num, den, pairs = factors(e)
    if k == 0:
        return everywhere(number(1), e.shape)
    if k == 1:
        return e
    if not pairs:
        if k == int(k):
            return everywhere(number(num**k, den**k) if k > 0 else number(den**-k, num**-k), e.shape)
        return call(ops.power, e, number(k), shape=e.shape)
    if k != int(k) and (len(pairs) > 1 or (num, den) != (1, 1) or pairs[0][1] != 1):
        return call(ops.power, e, number(k), shape=e.shape)
    if k < 0:
        num, den, k, sign = den, num, -k, -1
    else:
        sign = 1
    return of_powers(e.shape, num**k, den**k, {base: sign * k * power for base, power in pairs})


def of_powers(shape: Shape, num: float, den: float, powers: dict[Expr, float]) -> Expr:
    """num/den times bases, each to its power, simplified."""
    num, den = ratio(num, den)
    if num == 0:
        return everywhere(number(0), shape)
    for base, power in list(powers.items()):
        if base.head is ops.sqrt and abs(power) >= 2 and power == int(power):  # square of a root
            del powers[base]
            inner, rest = first(base), int(abs(power)) % 2
            n, d, inside = factors(powered(inner, math.copysign(abs(power) // 2, power)))
            num, den = ratio(num * n, den * d)
            for b, p in inside:
                powers[b] = powers.get(b, 0) + p
            if rest:
                powers[base] = math.copysign(1, power)
    sigmoids(powers)
    averages(powers)
    powers.update({b: 1 for b, p in powers.items() if b.head is Term.BRACKET and p > 1})  # their elements are 0 or 1
    if any(b.head is Term.BRACKET and b["sign"] == "==" and difference(*b.args) in powers for b in powers):
        return everywhere(number(0), shape)  # a - a
    powers = {base: int(p) if p == int(p) else p for base, p in powers.items() if p}
    bases = sorted(powers, key=lambda base: base.shape != ())  # numbers first
    real = np.broadcast_shapes(*[base.shape for base in bases]) if bases else ()
    if len(bases) == 1 and powers[bases[0]] == 1 and (num, den) == (1, 1):
        return everywhere(bases[0], shape)
    result = call(Term.PRODUCT, *bases, shape=real, num=num, den=den, powers=tuple(powers[base] for base in bases))
    return everywhere(result, shape)


def sigmoids(powers: dict[Expr, float]) -> None:
    """Write 1 / (1 + e^a) as sigmoid(-a), and e^a sigmoid(-a) as sigmoid(a), which is 1 - sigmoid(-a)."""
    for base, power in list(powers.items()):
        if power < 0 and power == int(power) and (a := exponent_beside_one(base)) is not None:
            del powers[base]
            s = call(ops.sigmoid, scaled(a, -1), shape=a.shape)
            powers[s] = powers.get(s, 0) - power
    for base, power in list(powers.items()):
        if base.head is ops.sigmoid and power > 0:
            a = scaled(first(base), -1)
            e = call(ops.exp, a, shape=a.shape)
            if (k := min(power, powers.get(e, 0))) > 0:
                powers[base], powers[e] = power - k, powers[e] - k
                other = call(ops.sigmoid, a, shape=a.shape)
                if is_negative(a):
                    other = total(a.shape, number(1), scaled(base, -1))
                powers[other] = powers.get(other, 0) + k


def averages(powers: dict[Expr, float]) -> None:
    """Write a sum divided by the number of its terms as a mean."""
    for base, power in list(powers.items()):
        if base.head is Term.NAME and base.args[0].averages and power < 0:
            for other in list(powers):
                if other.head is not Term.REDUCED or other["op"] is not ops.sum or powers[other] != 1:
                    continue
                if (other["axes"], first(other).shape) == base.args[0].over:
                    del powers[other]
                    powers[base] += 1
                    mean = reduced(ops.mean, first(other), other["axes"], other["keep"])
                    powers[mean] = powers.get(mean, 0) + 1
                    break


def difference(a: Expr, b: Expr) -> Expr:
    return total(np.broadcast_shapes(a.shape, b.shape), a, scaled(b, -1))


def exponent_beside_one(e: Expr) -> Expr | None:
    """a, for 1 + e^a."""
    if e.head is not Term.TOTAL or len(e.args) != 2:
        return None
    a, b = e.args
    if is_number(b, 1):
        a, b = b, a
    return first(b) if is_number(a, 1) and b.head is ops.exp else None


def scaled(e: Expr, num: float, den: float = 1) -> Expr:
    return product(e.shape, number(num, den), e)


def is_negative(e: Expr) -> bool:
    return factors(e)[0] < 0


def without_number(e: Expr) -> tuple[float, float, Expr]:
    """num, den and the rest of a product."""
    num, den, pairs = factors(e)
    inner = first(e) if e.head is Term.EVERYWHERE else e
    return num, den, of_powers(inner.shape, 1, 1, dict(pairs))


def total(shape: Shape, *terms: Expr) -> Expr:
    """The elementwise sum of `terms`, broadcast to `shape`, with like terms collected and common factors in front."""
    flat: list[Expr] = []
    for term in terms:
        inner = first(term) if term.head is Term.EVERYWHERE else term
        flat += inner.args if inner.head is Term.TOTAL else [inner]
    counts: dict[Expr, tuple[float, float]] = {}
    for term in flat:
        num, den, rest = without_number(term)
        if rest not in counts:
            counts[rest] = (num, den)
        else:
            n, d = counts[rest]
            counts[rest] = ratio(n + num, d) if d == den else ratio(n * den + num * d, d * den)
    collected = [scaled(rest, num, den) for rest, (num, den) in counts.items() if num]
    collected = products_joined(collected)
    if not collected:
        return everywhere(number(0), shape)
    if len(collected) == 1:
        return everywhere(collected[0], shape)
    common = common_factor(collected)
    if common is not None:
        inverse = powered(common, -1)
        return product(shape, common, total(shape, *[product(t.shape, inverse, t) for t in collected]))
    collected.sort(key=lambda t: (is_negative(t), t.head is Term.TRANSPOSED))  # "a - b" instead of "-b + a"
    real = np.broadcast_shapes(*[t.shape for t in collected])
    return everywhere(call(Term.TOTAL, *collected, shape=real), shape)


def common_factor(terms: Sequence[Expr]) -> Expr | None:
    """The common factor of all terms of a sum, if there is one; a number other than 1 and -1 only if it is the same in all."""
    parts = [factors(t) for t in terms]
    shared = dict(parts[0][2])
    for _, _, pairs in parts[1:]:
        powers = dict(pairs)
        shared = {b: p for b, p in shared.items() if powers.get(b) == p}
    if any(not pairs for _, _, pairs in parts):
        return None
    num, den = abs(parts[0][0]), parts[0][1]
    if any((abs(n), d) != (num, den) for n, d, _ in parts):
        num, den = 1, 1
    if all(n < 0 for n, _, _ in parts):
        num = -num
    if not shared and (num, den) == (1, 1):
        return None
    shape = np.broadcast_shapes(*[base.shape for base in shared]) if shared else ()
    return of_powers(shape, num, den, shared)


def products_joined(terms: list[Expr]) -> list[Expr]:
    """Write A x + B x as (A + B) x, and A B + A C as A (B + C)."""
    for i in range(len(terms)):
        for j in range(i + 1, len(terms)):
            m, d, p = without_number(terms[i])
            n, e, q = without_number(terms[j])
            if not (p.head is q.head is Term.MATMUL) or p.shape != q.shape or len(p.shape) != 2:
                continue
            for right in (True, False):
                x, y = (t.args[-1] if right else t.args[0] for t in (p, q))
                a, b = (chained(t.args[:-1] if right else t.args[1:]) for t in (p, q))
                if x is not y or a.shape != b.shape:
                    continue
                inner = total(a.shape, scaled(a, m, d), scaled(b, n, e))
                joined = matmul(inner, x, p.shape) if right else matmul(x, inner, p.shape)
                return products_joined([*terms[:i], joined, *terms[i + 1 : j], *terms[j + 1 :]])
    return terms


# Matrix products


def chained(matrices: Sequence[Expr]) -> Expr:
    if len(matrices) == 1:
        return matrices[0]
    return call(Term.MATMUL, *matrices, shape=(matrices[0].shape[0], matrices[-1].shape[1]))


def scalars_out(e: Expr) -> tuple[Expr, Expr]:
    """The scalar factors of `e`, and the rest."""
    num, den, pairs = factors(e)
    inner = first(e) if e.head is Term.EVERYWHERE else e
    rest = {base: p for base, p in pairs if base.shape != ()}
    scalar = of_powers((), num, den, {base: p for base, p in pairs if base.shape == ()})
    return scalar, everywhere(of_powers(inner.shape if rest else (), 1, 1, rest), e.shape)


def matmul(a: Expr, b: Expr, shape: Shape) -> Expr:
    """a b, with scalars in front; a matrix of one element is a scalar."""
    m, a = scalars_out(a)
    n, b = scalars_out(b)
    if uniform(a) == 0 or uniform(b) == 0:
        return everywhere(number(0), shape)
    for one, other in ((a, b), (b, a)):
        if one.shape == (1, 1) and uniform(one) is not None and len(other.shape) == 2:
            return product(shape, m, n, number(uniform(one) or 0), other)
    if len(a.shape) == len(b.shape) == 2:
        matrices = [part for e in (a, b) for part in (e.args if e.head is Term.MATMUL else (e,))]
        return product(shape, m, n, chained(matrices))
    return product(shape, m, n, call(Term.MATMUL, a, b, shape=shape))


def transposed(e: Expr, shape: Shape) -> Expr:
    """Swap the last two axes."""
    scalar, e = scalars_out(e)
    return product(shape, scalar, transposed_matrix(e, shape))


def transposed_matrix(e: Expr, shape: Shape) -> Expr:
    if e.head is Term.TRANSPOSED:
        return first(e)
    if shape == (1, 1) and (e.head is not Term.MATMUL or len(e.args) == 1):
        return e
    if e.head is Term.EVERYWHERE and first(e).shape == ():
        return everywhere(first(e), shape)
    if e.head is Term.MATMUL and len(e.shape) == 2:
        return chained([transposed(a, a.shape[::-1]) for a in e.args[::-1]])
    resolves = e.head is Term.TOTAL and any(without_number(t)[2].head in (Term.MATMUL, Term.TRANSPOSED) for t in e.args)
    if resolves and all(t.shape in ((), e.shape) for t in e.args):
        return total(shape, *[t if t.shape == () else transposed(t, shape) for t in e.args])
    return call(Term.TRANSPOSED, e, shape=shape)


# Shapes and reductions


def reshaped(e: Expr, shape: Shape) -> Expr:
    """Reshape `e`; not written if only axes of length 1 are inserted."""
    if e.shape == shape:
        return e
    if e.head is Term.EVERYWHERE and first(e).shape == ():
        return everywhere(first(e), shape)
    if e.shape == ():
        return everywhere(e, shape)
    scalar, rest = scalars_out(e)
    if not is_number(scalar, 1):
        return product(shape, scalar, reshaped(rest, shape))
    num, den, pairs = factors(e)
    if len(pairs) > 1 and all(base.shape in ((), e.shape) for base, _ in pairs):
        parts = [(base if base.shape == () else reshaped(base, shape), p) for base, p in pairs]
        if all(base.head is not ops.reshape for base, _ in parts):
            return product(shape, number(num, den), *[powered(base, p) for base, p in parts])
    if e.head is Term.REDUCED and not e["keep"] and keepdims_shape(first(e).shape, e["axes"]) == shape:
        return reduced(e["op"], first(e), e["axes"], True)
    if e.head is ops.reshape:
        return reshaped(first(e), shape)
    if len(shape) > len(e.shape) and shape[len(shape) - len(e.shape) :] == e.shape and set(shape[: -len(e.shape)]) == {1}:
        return everywhere(e, shape)
    return interned(ops.reshape, (e,), {"shape": shape}, shape)


def keepdims_shape(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def reduced(op: Head, e: Expr, axes: Iterable[int], keep: bool) -> Expr:
    """Reduce `e` over `axes` by `op`, such as the sum or the mean; reduced axes stay with size 1 if `keep`."""
    axes = tuple(sorted(axes))
    shape = keepdims_shape(e.shape, axes) if keep else tuple(n for i, n in enumerate(e.shape) if i not in axes)
    if op is ops.norm and not axes:
        return call(ops.abs, e, shape=shape)
    if not axes or (keep and shape == e.shape and op is not ops.norm):
        return e
    if keep and len(axes) == len(e.shape):
        return everywhere(reduced(op, e, axes, False), shape)
    if op in (ops.sum, ops.mean):
        scalar, rest = scalars_out(e)
        if is_deviation(rest, axes):
            return everywhere(number(0), shape)
        if not is_number(scalar, 1):
            return product(shape, scalar, reduced(op, rest, axes, keep))
        num, den, pairs = factors(e)
        inner = e if e.head is not Term.EVERYWHERE else first(e)
        if keep and len(inner.shape) == len(e.shape):
            out = [(b, p) for b, p in pairs if len(b.shape) == len(e.shape) and all(b.shape[i] == 1 for i in axes)]
            out = [(b, p) for b, p in out if any(e.shape[i] > 1 for i in axes)]
            if out and len(out) < len(pairs):
                rest = of_powers(e.shape, num, den, {b: p for b, p in pairs if (b, p) not in out})
                return product(shape, *[powered(b, p) for b, p in out], reduced(op, rest, axes, keep))
        if e.head is Term.REDUCED and e["op"] is op and len(axes) == len(e.shape) and not keep:
            return reduced(op, first(e), range(len(first(e).shape)), False)
    return call(Term.REDUCED, e, shape=shape, op=op, axes=axes, keep=keep)


def is_deviation(e: Expr, axes: tuple[int, ...]) -> bool:
    """Whether `e` is an expression minus its mean over `axes`, so that its own mean is 0."""
    if e.head is Term.NAME and e.args[0].definition is not None:
        definition: Expr = e.args[0].definition
        e = definition
    if e.head is not Term.TOTAL:
        return False
    for term in e.args:
        rest = total(e.shape, *[t for t in e.args if t is not term])
        mean = call(Term.REDUCED, rest, shape=keepdims_shape(rest.shape, axes), op=ops.mean, axes=axes, keep=True)
        overall_mean = call(Term.REDUCED, rest, shape=(), op=ops.mean, axes=axes, keep=False)
        if scaled(term, -1) in (mean, overall_mean):
            return rest.shape == e.shape
    return False


# Conditions

OPPOSITE = {">": "<=", "<=": ">", "<": ">=", ">=": "<", "==": "!=", "!=": "=="}


def bracket(sign: str, a: Expr, b: Expr, shape: Shape) -> Expr:
    a, b = (first(x) if x.head is Term.EVERYWHERE else x for x in (a, b))
    if a.head is ops.maximum and sign == ">" and is_number(b, 0) and is_number(a.args[1], 0):
        a = a.args[0]  # max(z, 0) > 0 is z > 0
    return call(Term.BRACKET, a, b, shape=shape, sign=sign)


def negated(condition: Expr) -> Expr | None:
    """1 where the condition is false."""
    if condition.head is Term.BRACKET:
        a, b = condition.args
        return bracket(OPPOSITE[condition["sign"]], a, b, condition.shape)
    return None


def rebuilt(e: Expr, args: Sequence[Any]) -> Expr:
    """`e` with other arguments, simplified."""
    if e.head is Term.PRODUCT:
        terms = [powered(a, p) for a, p in zip(args, e["powers"], strict=True)]
        return product(e.shape, number(e["num"], e["den"]), *terms)
    if e.head is Term.TOTAL:
        return total(e.shape, *args)
    if e.head is Term.MATMUL:
        result: Expr = args[0]
        for a in args[1:]:
            result = matmul(result, a, (result.shape[0], a.shape[1]) if len(result.shape) == len(a.shape) == 2 else e.shape)
        return result
    if e.head is Term.TRANSPOSED:
        return transposed(args[0], e.shape)
    if e.head is Term.EVERYWHERE:
        return everywhere(args[0], e.shape)
    if e.head is Term.REDUCED:
        return reduced(e["op"], args[0], e["axes"], e["keep"])
    return interned(e.head, tuple(args), dict(e.attrs), e.shape)


def replaced(e: Expr, by: dict[Any, Expr], memo: dict[Expr, Expr] | None = None) -> Expr:
    """Substitute expressions for symbols."""
    memo = {} if memo is None else memo
    if e.head is Term.NAME:
        return by.get(e.args[0], e)
    if e not in memo:
        args = tuple(replaced(a, by, memo) if isinstance(a, Expr) else a for a in e.args)
        same = all(a is b for a, b in zip(args, e.args, strict=True))
        memo[e] = e if same else rebuilt(e, args)
    return memo[e]


def abbreviated(e: Expr, by: dict[Expr, Expr], memo: dict[Expr, Expr], symbol: Any = None) -> Expr:
    """Replace formulas by their names; `symbol` is that of `e` itself."""
    name = by.get(e)
    if name is not None and name.args[0] is not symbol:
        return name
    if name is None and (cached := memo.get(e)) is not None:
        return cached
    args = tuple(abbreviated(a, by, memo) if isinstance(a, Expr) else a for a in e.args)
    same = all(a is b for a, b in zip(args, e.args, strict=True))
    result = e if same else rebuilt(e, args)
    if name is None:
        memo[e] = result
    return result
