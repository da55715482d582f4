"""Forks: products and loops of a program, shared among the threads of the team (team.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tensorgrad.kernels import generate, thresholds
from tensorgrad.kernels.build import ChainKernel
from tensorgrad.kernels.chain import Chain
from tensorgrad.kernels.instructions import (
    Form,
    Instruction,
    Operand,
    fork_instruction,
    kernel_instruction,
    kind_of,
    product_instruction,
    total_instruction,
)
from tensorgrad.kernels.loops import Loop
from tensorgrad.kernels.native import Machine
from tensorgrad.kernels.products import way_to_share
from tensorgrad.kernels.team import team
from tensorgrad.kernels.threads import split

MAX_MATRICES = 64  # of a stack; each is a separate instruction


def product_calls(machine: Machine, a: Operand, b: Operand, out: Operand, count: int) -> list[Instruction]:
    """Instructions for out = a @ b, of matrices or stacks of matrices, in `count` threads; none if it needs Python."""
    if not 2 <= len(a.form.shape) <= 3 or not 2 <= len(b.form.shape) <= 3:
        return []
    way = way_to_share(a.form.shape, b.form.shape, count)
    if len(out.form.shape) == 3:
        return stack_product_calls(machine, a, b, out, count if way else 1)
    (m, k), n = a.form.shape, b.form.shape[1]
    # for a part of a single row or column NumPy would call another function of BLAS
    count = min(count, {"rows": m, "columns": n, "terms": k}.get(way, 0) // 2)
    if count < 2:
        return as_list(product_instruction(machine, a, b, out))
    if way == "rows":
        instructions = [product_instruction(machine, a.part(0, *part), b, out.part(0, *part)) for part in split(m, count)]
    elif way == "columns":
        instructions = [product_instruction(machine, a, b.part(1, *part), out.part(1, *part)) for part in split(n, count)]
    else:
        sums = np.empty((count, m, n), out.form.dtype)
        totals = Operand(Form.of(sums), array=sums)
        instructions = [
            product_instruction(machine, a.part(1, *part), b.part(0, *part), totals.item(i))
            for i, part in enumerate(split(k, count))
        ]
    complete = [instruction for instruction in instructions if instruction is not None]
    if len(complete) < len(instructions):
        return []
    (fork,) = make_fork(machine, [[instruction] for instruction in complete])
    return [fork, total_instruction(machine, totals, out)] if way == "terms" else [fork]


def stack_product_calls(machine: Machine, a: Operand, b: Operand, out: Operand, count: int) -> list[Instruction]:
    """Instructions for the products of two stacks, one of which may be a single matrix."""
    size = out.form.shape[0]
    if not 0 < size <= MAX_MATRICES or any(len(x.form.shape) == 3 and x.form.shape[0] != size for x in (a, b)):
        return []
    instructions = [
        product_instruction(machine, *(x.item(i) if len(x.form.shape) == 3 else x for x in (a, b, out))) for i in range(size)
    ]
    complete = [instruction for instruction in instructions if instruction is not None]
    if len(complete) < size:
        return []
    return make_fork(machine, [complete[i:j] for i, j in split(size, count)])


def chain_calls(machine: Machine, kernel: ChainKernel, operands: Sequence[Operand], count: int) -> list[Instruction]:
    """Instructions for an elementwise chain, in `count` threads; none if it needs Python."""
    loop = kernel.numba
    shape = operands[kernel.full_index].form.shape
    if not isinstance(loop, Loop) or not kernel.splits or len(shape) != (1 if kernel.flat else 2):
        return []
    parts = []
    for start, stop in split(shape[0], count if is_worth_sharing(kernel.chain, math.prod(shape)) else 1):
        sliced = [x.part(0, start, stop) if y in generate.SLICED else x for x, y in zip(operands, kernel.layouts, strict=True)]
        code = loop.code(tuple([kind_of(operand) for operand in sliced]))
        instruction = kernel_instruction(machine, code, sliced) if code else None
        if instruction is None:
            return []
        parts.append([instruction])
    return make_fork(machine, parts)


def make_fork(machine: Machine, parts: list[list[Instruction]]) -> list[Instruction]:
    """Instructions that run each part in a separate thread."""
    return parts[0] if len(parts) == 1 else [fork_instruction(machine, team.start, parts)]


def is_worth_sharing(chain: Chain, size: int) -> bool:
    """Whether several threads compute a chain over `size` elements faster than one."""
    return size * len(chain.steps) >= thresholds.SHARED_CHAIN


def as_list(instruction: Instruction | None) -> list[Instruction]:
    return [] if instruction is None else [instruction]
