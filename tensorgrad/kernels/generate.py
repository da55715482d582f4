"""Source code for chains: NumPy calls, or one loop for Numba."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tensorgrad.kernels.chain import Chain, Ref, Register, Step, constant_name

# Expressions in Numba's loop for functions that take a few cycles, bit for bit as NumPy's. Functions that are neither here nor
# below (log, sin, ...) are left to NumPy, which vectorises them, while Numba would call the C library for each element.
EXPRESSIONS = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "negative": "-{0}",
    "positive": "{0}",
    "absolute": "abs({0})",
    "square": "{0} * {0}",
    "sqrt": "sqrt({0})",
    "reciprocal": "{one} / {0}",
    "maximum": "({0} if {0} >= {1} or {0} != {0} else {1})",
    "minimum": "({0} if {0} <= {1} or {0} != {0} else {1})",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "where": "({1} if {0} else {2})",
    "relu_grad": "({0} if {1} > {zero} else {zero})",
    "mul_grad": "({0} * {1} if {0} != {zero} else {zero})",
    "div_grad": "({0} / {1} if {0} != {zero} else {zero})",
}
# Functions of fast.py, within a few units in the last place of NumPy's
APPROXIMATED = {"exp": "exp_of_any({0})", "tanh": "tanh({0})", "erf": "erf({0})"}
DECAY = "exp_of_negative({0})"  # exp of a non-positive value
WITH_NUMBER = {  # functions with a constant
    ("power", 1.0): "{0}",
    ("power", 2.0): "{0} * {0}",
    ("logaddexp", 0.0): "softplus({0})",
}
IN_ARITHMETIC = ("erf", "exp_of_any", "exp_of_negative", "softplus", "tanh")  # of fast.py
COMPARISONS = {"greater", "greater_equal", "less", "less_equal", "equal", "not_equal"}
ARITHMETIC = EXPRESSIONS.keys() - COMPARISONS - {"where"}
SLICED = ("full", "column")  # layouts that are sliced along with the rows


def names(chain: Chain) -> tuple[list[str], list[str]]:
    """The names of operands and results in a generated function."""
    return [f"{o.layout}{i}" for i, o in enumerate(chain.operands)], [f"result{k}" for k in range(len(chain.results))]


def numpy_lines(
    chain: Chain,
    operands: Sequence[str],
    results: Sequence[str],
    shared: Mapping[int, int],
    scratch: Callable[[int, str], str],
    constant: Callable[[str, Any], str] = lambda name, value: name,
    total: Callable[[str, str], list[str]] = lambda x, result: [f"column_sum({x}, out={result})"],
) -> list[str]:
    """The chain as NumPy calls that write into the results and into scratch arrays.

    operands, results   names of the arrays
    shared    result to the operand in the same memory
    scratch   the name of scratch array number i, of this dtype
    constant  the name of a constant, from its name in `chain.constants()`
    total     the line that writes the column sums of an array to a result
    """
    first = len(chain.operands)
    last = chain.last_use()
    target = {register: k for k, (register, layout) in enumerate(chain.results) if layout == "full"}
    result_registers = {register for register, _ in chain.results}
    array_names: dict[Register, str] = dict(enumerate(operands))
    scratch_dtype: dict[Register, str] = {}  # the dtype of a register's scratch array
    free: dict[str, list[str]] = {}
    scratch_count = 0
    lines = []
    for i, step in enumerate(chain.steps):
        register = first + i
        inputs = [
            array_names[a.register] if isinstance(a, Ref) else constant(constant_name(i, n), a)
            for n, a in enumerate(step.inputs)
        ]
        for a in {a.register for a in step.inputs if isinstance(a, Ref)}:
            if last[a] == i and a in scratch_dtype and a not in result_registers:
                free.setdefault(scratch_dtype.pop(a), []).append(array_names[a])  # this step may already write to it
        k = target.get(register)
        if k is not None and (k not in shared or (last.get(shared[k], -1) <= i and shared[k] not in result_registers)):
            array_names[register] = results[k]
        else:
            if not free.get(step.dtype):
                free[step.dtype] = [scratch(scratch_count, step.dtype)]
                scratch_count += 1
            array_names[register], scratch_dtype[register] = free[step.dtype].pop(), step.dtype
        line = f"{step.function}({', '.join(inputs)}, out={array_names[register]})"
        if step.quiet:
            ignored = ", ".join(f"{kind}='ignore'" for kind in step.quiet)
            line = f"with errstate({ignored}): {line}"
        lines.append(line)
    copies = []
    for k, (register, layout) in enumerate(chain.results):
        if layout == "sum":
            lines += total(array_names[register], results[k])
        elif array_names[register] != results[k]:
            copies.append(f"copyto({results[k]}, {array_names[register]})")
    return [*lines, *copies]


def numpy_source(chain: Chain, shared: Mapping[int, int]) -> str:
    """A function that runs the chain in NumPy, `rows` rows at a time, so that intermediate results stay in the cache."""
    operands, results = names(chain)
    layouts = dict(zip([*operands, *results], [o.layout for o in chain.operands] + [x for _, x in chain.results], strict=True))
    temporary: list[str] = []

    def scratch(i: int, dtype: str) -> str:
        temporary.append(dtype)
        return f"part_of_t{i}"

    def part(name: str) -> str:
        return f"part_of_{name}" if layouts[name] in SLICED else name

    def total(x: str, result: str) -> list[str]:
        return [f"column_sum({x}, out={result}) if start == 0 else add({result}, column_sum({x}), out={result})"]

    inner = numpy_lines(chain, [part(a) for a in operands], [part(a) for a in results], shared, scratch, total=total)
    full = next(a for a, layout in layouts.items() if layout == "full")
    lines = [f"def kernel({', '.join(layouts)}, rows):", f"    n = len({full})"]
    lines += [f"    t{i} = empty((min(rows, n), *{full}.shape[1:]), {dtype!r})" for i, dtype in enumerate(temporary)]
    lines += ["    for start in range(0, max(n, 1), rows):", "        stop = min(start + rows, n)"]
    lines += [f"        part_of_{a} = {a}[start:stop]" for a, layout in layouts.items() if layout in SLICED]
    lines += [f"        part_of_t{i} = t{i}[: stop - start]" for i in range(len(temporary))]
    return "\n".join([*lines, *(f"        {line}" for line in inner)]) + "\n"


def numba_source(chain: Chain, shared: Mapping[int, int], flat: bool) -> str | None:
    """A function that runs the chain in one loop, for Numba; None if Numba would not be faster.

    shared result to the operand in the same memory
    flat   "full" arrays have one axis, and there are no "row" or "column" operands
    """
    dtypes = {chain.dtype(r) for r in range(len(chain.operands) + len(chain.steps))} - {"bool"}
    decays = decaying(chain)
    texts = [DECAY if i in decays else expression(step) for i, step in enumerate(chain.steps)]
    imported = [name for name in IN_ARITHMETIC if any(text and text.startswith(f"{name}(") for text in texts)]
    if len(dtypes) != 1 or not dtypes <= {"float32", "float64"} or None in texts:
        return None
    if any(s.dtype == "bool" and s.function not in COMPARISONS for s in chain.steps):  # NumPy's True + True is True
        return None
    kind = dtypes.pop()
    operands, results = names(chain)
    subscripts = {"full": "[i]" if flat else "[i, j]", "row": "[j]", "column": "[i, 0]", "number": "[()]"}
    full = next(a for a, layout in zip([*operands, *results], layouts_of(chain), strict=True) if layout == "full")
    constants = {"zero": f"{kind}(0)", "one": f"{kind}(1)"}
    # All operands are read first: a read inside a conditional would prevent vectorisation
    reads = {i: f"x{i} = {a}{subscripts[o.layout]}" for i, (a, o) in enumerate(zip(operands, chain.operands, strict=True))}
    numbers = [line for i, line in reads.items() if chain.operands[i].layout == "number"]
    body = [line for i, line in reads.items() if chain.operands[i].layout != "number"]
    for i, (step, text) in enumerate(zip(chain.steps, texts, strict=True), len(operands)):
        values = []
        for a in step.inputs:
            if isinstance(a, Ref):
                is_number = chain.dtype(a.register) == "bool" and step.function in ARITHMETIC
                values.append(f"{kind}(x{a.register})" if is_number else f"x{a.register}")
            else:
                values.append(f"c{len(constants)}")
                constants[values[-1]] = f"{kind}(float.fromhex({float(a).hex()!r}))"
        assert text is not None
        body.append(f"x{i} = {text.format(*values, zero='zero', one='one')}")
    # arrays in the same memory share a name: the compiler has to consider fewer possible overlaps
    stored = {
        register: operands[shared[k]] if k in shared else results[k]
        for k, (register, layout) in enumerate(chain.results)
        if layout == "full"
    }
    body += [f"{name}{subscripts['full']} = x{register}" for register, name in stored.items()]
    # a separate loop for a sum, over a row in the cache: the same loop would not be vectorised
    sums = [(results[k], register) for k, (register, layout) in enumerate(chain.results) if layout == "sum"]
    sum_loop = [f"{name}[j] += {stored[register]}[i, j]" for name, register in sums if register in stored]
    body += [f"{name}[j] += x{register}" for name, register in sums if register not in stored]
    lines = ["from math import sqrt", "", "from numpy import float32, float64", ""]
    lines += [f"from tensorgrad.kernels.fast import {', '.join(imported)}", ""] if imported else []
    lines += [f"{name} = {value}" for name, value in constants.items()]
    lines += ["", "", f"def kernel({', '.join([*operands, *results])}):"]
    lines += [f"    {line}" for line in numbers] + [f"    {name}[:] = zero" for name, _ in sums]
    lines += [f"    for i in range({full}.shape[0]):"]
    if flat:
        lines += [f"        {line}" for line in body]
    else:
        lines += [f"        for j in range({full}.shape[1]):", *(f"            {line}" for line in body)]
        lines += (
            [f"        for j in range({full}.shape[1]):", *(f"            {line}" for line in sum_loop)] if sum_loop else []
        )
    return "\n".join(lines) + "\n"


def expression(step: Step) -> str | None:
    """The expression of a step in Numba's loop; None if NumPy would be faster."""
    number = step.inputs[-1]
    special = None if isinstance(number, Ref) else WITH_NUMBER.get((step.function, float(number)))
    return special or EXPRESSIONS.get(step.function) or APPROXIMATED.get(step.function)


def decaying(chain: Chain) -> set[int]:
    """The steps that are exp of a non-positive value (or NaN) according to the formula, such as e^(-x²)."""
    signs: dict[Register, int] = {}  # 1: never negative, -1: never positive

    def sign(a: Any) -> int:
        return signs.get(a.register, 0) if isinstance(a, Ref) else int(a > 0) - int(a < 0)

    decays = set()
    for i, step in enumerate(chain.steps):
        input_signs = [sign(a) for a in step.inputs]
        match step.function:
            case "exp" if input_signs == [-1]:
                decays.add(i)
                result_sign = 1
            case "square" | "absolute" | "sqrt" | "exp":
                result_sign = 1
            case "multiply" if step.inputs[0] == step.inputs[1]:
                result_sign = 1
            case "multiply":
                result_sign = input_signs[0] * input_signs[1]
            case "divide" if not isinstance(step.inputs[1], Ref):  # division by -0.0 flips the sign
                result_sign = input_signs[0] * input_signs[1]
            case "negative":
                result_sign = -input_signs[0]
            case "add":
                result_sign = input_signs[0] if input_signs[0] == input_signs[1] else 0
            case "minimum" if not isinstance(step.inputs[1], Ref) and step.inputs[1] <= 0:
                result_sign = -1
            case _:
                result_sign = 0
        signs[len(chain.operands) + i] = result_sign
    return decays


def layouts_of(chain: Chain) -> list[str]:
    return [o.layout for o in chain.operands] + [layout for _, layout in chain.results]
