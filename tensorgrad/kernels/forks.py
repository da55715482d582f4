"""Forks: products and loops of a program, shared among the threads of the team (team.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tensorgrad.kernels import generate, thresholds
from tensorgrad.kernels.build import ChainKernel
from tensorgrad.kernels.chain import Chain
from tensorgrad.kernels.loops import Loop
from tensorgrad.kernels.native import Machine
from tensorgrad.kernels.products import way_to_share
from tensorgrad.kernels.team import team
from tensorgrad.kernels.words import Form, Operand, Words, fork_words, kernel_words, kind_of, product_words, total_words

MOST_MATRICES = 64  # of a stack, each of which is a call of its own


def product_calls(machine: Machine, a: Operand, b: Operand, out: Operand, count: int) -> list[Words]:
    """out = a @ b, of two matrices or of stacks of them, in so many threads; nothing where Python has to do it."""
    if not 2 <= len(a.form.shape) <= 3 or not 2 <= len(b.form.shape) <= 3:
        return []
    way = way_to_share(a.form.shape, b.form.shape, count)
    if len(out.form.shape) == 3:
        return stack_calls(machine, a, b, out, count if way else 1)
    (m, k), n = a.form.shape, b.form.shape[1]
    # with a single row or column in a part, NumPy would ask BLAS for another function
    count = min(count, {"rows": m, "columns": n, "terms": k}.get(way, 0) // 2)
    if count < 2:
        return listed(product_words(machine, a, b, out))
    if way == "rows":
        each = [product_words(machine, a.part(0, *part), b, out.part(0, *part)) for part in shares(m, count)]
    elif way == "columns":
        each = [product_words(machine, a, b.part(1, *part), out.part(1, *part)) for part in shares(n, count)]
    else:
        sums = np.empty((count, m, n), out.form.dtype)
        totals = Operand(Form.of(sums), array=sums)
        each = [
            product_words(machine, a.part(1, *part), b.part(0, *part), totals.one(i)) for i, part in enumerate(shares(k, count))
        ]
    known = [words for words in each if words is not None]
    if len(known) < len(each):
        return []
    (fork,) = forked(machine, [[words] for words in known])
    return [fork, total_words(machine, totals, out)] if way == "terms" else [fork]


def stack_calls(machine: Machine, a: Operand, b: Operand, out: Operand, count: int) -> list[Words]:
    """The products of the matrices of stacks, one of which may be a single matrix."""
    size = out.form.shape[0]
    if not 0 < size <= MOST_MATRICES or any(len(x.form.shape) == 3 and x.form.shape[0] != size for x in (a, b)):
        return []
    each = [product_words(machine, *(x.one(i) if len(x.form.shape) == 3 else x for x in (a, b, out))) for i in range(size)]
    known = [words for words in each if words is not None]
    if len(known) < size:
        return []
    return forked(machine, [known[i:j] for i, j in shares(size, count)])


def chain_calls(machine: Machine, kernel: ChainKernel, operands: Sequence[Operand], count: int) -> list[Words]:
    """A chain over arrays, in so many threads; nothing where Python has to do it."""
    loop = kernel.numba
    whole = operands[kernel.whole].form.shape
    if not isinstance(loop, Loop) or not kernel.splits or len(whole) != (1 if kernel.flat else 2):
        return []
    parts = []
    for start, stop in shares(whole[0], count if is_worth_sharing(kernel.chain, math.prod(whole)) else 1):
        own = [x.part(0, start, stop) if y in generate.SLICED else x for x, y in zip(operands, kernel.layouts, strict=True)]
        code = loop.code(tuple([kind_of(operand) for operand in own]))
        words = kernel_words(machine, code, own) if code else None
        if words is None:
            return []
        parts.append([words])
    return forked(machine, parts)


def forked(machine: Machine, parts: list[list[Words]]) -> list[Words]:
    """The parts of some work, each in a thread."""
    return parts[0] if len(parts) == 1 else [fork_words(machine, team.start, parts)]


def is_worth_sharing(chain: Chain, size: int) -> bool:
    """Whether threads compute a chain over so many elements faster than one."""
    return size * len(chain.steps) >= thresholds.SHARED_CHAIN


def shares(n: int, count: int) -> list[tuple[int, int]]:
    """range(n), cut into at most `count` equal parts, none of them empty."""
    count = max(min(n, count), 1)
    return list(pairwise(n * i // count for i in range(count + 1)))


def listed(words: Words | None) -> list[Words]:
    return [] if words is None else [words]
