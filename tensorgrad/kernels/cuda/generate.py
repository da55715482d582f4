"""CUDA C of chains, and programs from the files in sources/.

A chain without a sum is a loop over its elements, in which every thread loads BATCH of them at once: a GPU hides the latency of
memory behind other loads, and one load per thread is not enough. A chain with sums is a loop over rows, in blocks of some
columns; the last block to finish adds the partial sums of all blocks in a fixed order, so a sum has the same bits each time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad.kernels.chain import Chain, Ref, Step
from tensorgrad.kernels.generate import names

SOURCES = Path(__file__).parent / "sources"
# Bytes in flight must be bandwidth times latency: on an H200, by its data sheet, 4.8 TB/s times about 0.6 µs, some 3 MB. With
# one number of 4 bytes for each of its 132 x 2048 threads it would be 1 MB. (Computed, not measured.)
BATCH = 4
THREADS, SUM_THREADS = 256, 512  # of a block: of a chain without and with sums

TYPES = {
    "bool": "bool",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned int",
    "uint64": "unsigned long long",
    "float32": "float",
    "float64": "double",
}

# Function to the kinds of dtypes in which it is computed, and its expression with values {0}, {1}, ... of these dtypes. Other
# functions and kinds (a power of integers, which may raise an error) are left to CuPy.
EXPRESSIONS = {
    "add": ("biuf", "{0} + {1}"),
    "subtract": ("iuf", "{0} - {1}"),
    "multiply": ("biuf", "{0} * {1}"),
    "divide": ("f", "{0} / {1}"),
    "floor_divide": ("iuf", "floor_divide({0}, {1})"),
    "remainder": ("iuf", "remainder_down({0}, {1})"),
    "power": ("f", "pow({0}, {1})"),
    "negative": ("iuf", "-{0}"),
    "positive": ("iuf", "{0}"),
    "absolute": ("biuf", "{0} > 0 ? {0} : 0 - {0}"),  # of -0 it is 0
    "square": ("iuf", "{0} * {0}"),
    "reciprocal": ("f", "1 / {0}"),
    "sign": ("iuf", "{0} > 0 ? 1 : {0} < 0 ? -1 : {0} == 0 ? 0 : {0}"),
    "copysign": ("f", "copysign({0}, {1})"),
    "maximum": ("biuf", "{0} >= {1} || {0} != {0} ? {0} : {1}"),  # a NaN stays one, whichever it is
    "minimum": ("biuf", "{0} <= {1} || {0} != {0} ? {0} : {1}"),
    "greater": ("biuf", "{0} > {1}"),
    "greater_equal": ("biuf", "{0} >= {1}"),
    "less": ("biuf", "{0} < {1}"),
    "less_equal": ("biuf", "{0} <= {1}"),
    "equal": ("biuf", "{0} == {1}"),
    "not_equal": ("biuf", "{0} != {1}"),
    "logical_not": ("biuf", "{0} == 0"),
    "logical_and": ("biuf", "{0} != 0 && {1} != 0"),
    "logical_or": ("biuf", "{0} != 0 || {1} != 0"),
    "logical_xor": ("biuf", "({0} != 0) != ({1} != 0)"),
    # a shift by the number of bits or more is undefined in C; NumPy shifts all bits out
    "left_shift": ("iu", "(unsigned long long){1} < 8 * sizeof({0}) ? {0} << {1} : 0"),
    "right_shift": ("iu", "(unsigned long long){1} < 8 * sizeof({0}) ? {0} >> {1} : {0} < 0 ? -1 : 0"),
    **{f"bitwise_{name}": ("biu", f"{{0}} {sign} {{1}}") for name, sign in (("and", "&"), ("or", "|"), ("xor", "^"))},
    "isnan": ("biuf", "{0} != {0}"),
    "isfinite": ("biuf", "{0} - {0} == 0"),
    "where": ("biuf", "{0} != 0 ? {1} : {2}"),
    "relu_grad": ("f", "{1} > 0 ? {0} : 0"),
    "mul_grad": ("f", "{0} != 0 ? {0} * {1} : 0"),
    "div_grad": ("f", "{0} != 0 ? {0} / {1} : 0"),
    "hypot": ("f", "hypot({0}, {1})"),
    "logaddexp": ("f", "logaddexp({0}, {1})"),
    "arctan2": ("f", "atan2({0}, {1})"),
    **{name: ("f", f"{name}({{0}})") for name in ("erf", "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt")},
    **{name: ("f", f"{name}({{0}})") for name in ("floor", "ceil", "trunc")},
    **{name: ("f", f"{name}({{0}})") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": ("f", f"a{name}({{0}})") for name in ("sin", "cos", "tan")},
}
POWERS = {0: "1", 1: "{0}", 2: "{0} * {0}", 3: "{0} * {0} * {0}", -1: "1 / {0}"}  # for `pow` a GPU needs a hundred instructions


@functools.cache
def source(file: str) -> str:
    """The text of a file in sources/."""
    return (SOURCES / f"{file}.cu").read_text()


def program(*parts: str, **types: str) -> str:
    """A complete program: the common code, type names (for example Real="float32"), and the parts."""
    typedefs = "".join(f"typedef {TYPES[dtype]} {name};\n" for name, dtype in types.items())
    return "\n".join([source("common"), *([typedefs] if typedefs else []), *parts])


def chain_source(chain: Chain, shared: Mapping[int, int], name: str = "chain", wide: bool = False) -> str | None:
    """The source of a chain's kernel; None if CUDA C lacks one of its functions or dtypes.

    shared   result to the operand in the same memory
    name     the name of the kernel
    wide     whether indices have 64 bits, for 2^31 elements and more

    Its parameters are those of names(chain), rows and columns; for each sum also memory for (rows of blocks in the grid) x
    columns values, and a counter for each column of blocks, initially 0.
    """
    steps = formula(chain)
    if steps is None or any(chain.dtype(r) not in TYPES for r in range(len(chain.operands) + len(chain.steps))):
        return None
    return Writer(chain, shared, name, "unsigned long long" if wide else "unsigned int", steps).kernel()


def formula(chain: Chain) -> list[str] | None:
    """A statement for each step, x3 = ... of x0, x1, x2; None if CUDA C lacks a step."""
    lines = []
    for register, step in enumerate(chain.steps, len(chain.operands)):
        if step.dtype not in TYPES or (value := expression(chain, step)) is None:
            return None
        lines.append(f"const {TYPES[step.dtype]} x{register} = {value};")
    return lines


def expression(chain: Chain, step: Step) -> str | None:
    """The expression of a step, in the dtypes that NumPy would use."""
    if step.function not in EXPRESSIONS:
        return None
    kinds, text = EXPRESSIONS[step.function]
    operands = [np.dtype(chain.dtype(a.register)) if isinstance(a, Ref) else a for a in step.inputs]
    loop = loop_dtypes(step.function, operands)
    compute_dtype = loop[-1]  # the condition of a `where` may be of another dtype
    if compute_dtype.kind not in kinds or any(str(d) not in TYPES for d in loop):
        return None
    if len(set(loop)) > 1 and step.function != "where":  # NumPy compares int64 with uint64 by value, C does not
        return None
    if step.function == "power" and not isinstance(operands[1], np.dtype):
        text = POWERS.get(operands[1], text)
    values = []
    for a, dtype in zip(step.inputs, loop, strict=True):
        if not isinstance(a, Ref):
            try:
                values.append(literal(a, dtype))
            except OverflowError:
                return None
        else:
            cast = "" if chain.dtype(a.register) == str(dtype) else f"({TYPES[str(dtype)]})"
            values.append(f"{cast}x{a.register}")
    return text.format(*values)


def loop_dtypes(function: str, operands: list[Any]) -> list[np.dtype[Any]]:
    """The dtypes to which operands, given by dtype or number, are converted by NumPy's promotion rules."""
    operands = [np.dtype(bool) if isinstance(a, (bool, np.bool_)) else a for a in operands]
    if function == "relu_grad":
        return operands
    if function == "where":
        condition = operands[0] if isinstance(operands[0], np.dtype) else np.dtype(type(operands[0]))
        return [condition, *[np.result_type(*operands[1:])] * 2]
    kinds = [a if isinstance(a, np.dtype) else type(a) for a in operands]
    ufunc = getattr(np, {"mul_grad": "multiply", "div_grad": "divide", "erf": "exp"}.get(function, function))
    return list(ufunc.resolve_dtypes((*kinds, None))[:-1])


def literal(value: float, dtype: np.dtype[Any]) -> str:
    """A number as a constant of this dtype. Raises OverflowError for an integer out of its range."""
    if dtype.kind == "b":
        return "true" if value else "false"
    with np.errstate(over="ignore"):
        number = dtype.type(value)
    if dtype.kind in "iu":
        return f"({TYPES[str(dtype)]})({int(number)}{'ull' if dtype.kind == 'u' else 'll'})"
    if np.isnan(number):
        return "not_a_number()"
    if np.isinf(number):
        return "infinity()" if number > 0 else "(-infinity())"
    text = repr(float(number)) if dtype == np.float64 else f"{number!s}f"
    return f"({text})" if text.startswith("-") else text


class Writer:
    """Writes the kernel of one chain. index: the type of indices;  steps: the statements of its formula."""

    def __init__(self, chain: Chain, shared: Mapping[int, int], name: str, index: str, steps: list[str]) -> None:
        self.chain, self.shared, self.name, self.index, self.steps = chain, shared, name, index, steps
        self.operands, self.results = names(chain)
        self.sums = [k for k, (_, layout) in enumerate(chain.results) if layout == "sum"]
        self.lines: list[str] = []

    def kernel(self) -> str:
        threads = SUM_THREADS if self.sums else THREADS
        head = f'extern "C" __global__ __launch_bounds__({threads}) void {self.name}(\n    '
        body = self.sum_body() if self.sums else self.body()
        return head + ",\n    ".join(self.parameters()) + ")\n{\n" + "\n".join(f"    {line}" for line in body) + "\n}\n"

    def parameters(self) -> list[str]:
        declarations = []
        for j, (name, operand) in enumerate(zip(self.operands, self.chain.operands, strict=True)):
            restrict = "" if j in self.shared.values() else " __restrict__"
            declarations.append(f"const {TYPES[operand.dtype]}*{restrict} {name}")
        for k, name in enumerate(self.results):
            restrict = "" if k in self.shared else " __restrict__"
            declarations.append(f"{self.type(k)}*{restrict} {name}")
        declarations += [f"{self.index} rows", f"{self.index} columns"]
        declarations += [f"{self.type(k)}* partial{k}" for k in self.sums]
        return declarations + (["unsigned int* arrived"] if self.sums else [])

    def type(self, k: int) -> str:
        """The C type of a result."""
        return TYPES[self.chain.dtype(self.chain.results[k][0])]

    def layout(self, *layouts: str) -> list[int]:
        """The operands of these layouts."""
        return [j for j, operand in enumerate(self.chain.operands) if operand.layout in layouts]

    def load_once(self, j: int, where: str) -> str:
        """A statement that loads an operand once per thread."""
        return f"const {TYPES[self.chain.operands[j].dtype]} x{j} = {where};"

    def batch(self, position: str, exists: str, at: dict[str, str], advance: Sequence[str], after: Sequence[str]) -> list[str]:
        """BATCH elements: all loads, then formulas and stores.

        position, exists   a statement that computes the index of an element, and the condition that it exists
        at        the index of operands with one value per element, by layout
        advance   statements after the loads of an element, also if it does not exist;  after   those after its formula
        """
        batched = self.layout(*at)
        types = [TYPES[self.chain.operands[j].dtype] for j in batched]
        loads = [f"a{j}[k] = {self.operands[j]}[{at[self.chain.operands[j].layout]}];" for j in batched]
        values = [self.load_once(j, f"a{j}[k]") for j in batched]
        full = [(name, register) for name, (register, x) in zip(self.results, self.chain.results, strict=True) if x == "full"]
        stores = [f"{name}[{at['full']}] = x{register};" for name, register in full]
        header = ["#pragma unroll", f"for (int k = 0; k < {BATCH}; k++) {{", f"    {position}", f"    if ({exists}) {{"]
        return [
            *(f"{kind} a{j}[{BATCH}];" for j, kind in zip(batched, types, strict=True)),
            *[*header, *(f"        {line}" for line in loads), "    }", *(f"    {line}" for line in advance), "}"],
            *[*header, *(f"        {line}" for line in [*values, *self.steps, *stores, *after]), "    }", "}"],
        ]

    def body(self) -> list[str]:
        """A loop over elements. Row and column are updated by additions: a division takes as long as ten other instructions."""
        index, indexed = self.index, self.layout("row", "column")
        setup = [
            f"const {index} more_rows = step / columns, more_columns = step % columns;",
            f"{index} row = first / columns, column = first % columns;  // of the next element to be read",
        ]
        advance = ["row += more_rows, column += more_columns;", "if (column >= columns) column -= columns, row++;"]
        at = {"full": "i", "row": "column", "column": "row"}
        position = f"const {index} i = start + k * step;"
        return [
            *(self.load_once(j, f"*{self.operands[j]}") for j in self.layout("number")),
            f"const {index} count = rows * columns, step = gridDim.x * blockDim.x;",
            f"const {index} first = blockIdx.x * blockDim.x + threadIdx.x;",
            *(setup if indexed else []),
            f"for ({index} start = first; start < count; start += {BATCH} * step) {{",
            *(f"    {line}" for line in self.batch(position, "i < count", at, advance if indexed else [], [])),
            "}",
        ]

    def sum_body(self) -> list[str]:
        """A loop over rows, with w columns per block (w, h), then sums over the threads of a column and over blocks."""
        index = self.index
        at = {"full": "row * columns + column", "column": "row"}
        position = f"const {index} row = start + k * step;"
        added = [f"total{k} += x{self.chain.results[k][0]};" for k in self.sums]
        spaces = {self.type(k): f"space{k}" for k in self.sums}
        totals = [f"total{k} = column_total(total{k}, {spaces[self.type(k)]});" for k in self.sums]
        return [
            *(f"__shared__ {kind} {space}[{SUM_THREADS}];" for kind, space in spaces.items()),
            f"const {index} column = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.y * blockDim.y;",
            "const bool inside = column < columns, first = inside && threadIdx.y == 0;",
            *(self.load_once(j, f"*{self.operands[j]}") for j in self.layout("number")),
            *(self.load_once(j, f"inside ? {self.operands[j]}[column] : 0") for j in self.layout("row")),
            *(f"{self.type(k)} total{k} = 0;" for k in self.sums),
            f"for ({index} start = blockIdx.y * blockDim.y + threadIdx.y; inside && start < rows; start += {BATCH} * step) {{",
            *(f"    {line}" for line in self.batch(position, "row < rows", at, [], added)),
            "}",
            *totals,
            "if (gridDim.y > 1) {",
            *(f"    if (first) partial{k}[blockIdx.y * columns + column] = total{k};" for k in self.sums),
            "    if (!last_block(&arrived[blockIdx.x], gridDim.y)) return;",
            *(f"    total{k} = 0;" for k in self.sums),
            "    for (unsigned int block = threadIdx.y; inside && block < gridDim.y; block += blockDim.y) {",
            *(f"        total{k} += partial{k}[block * columns + column];" for k in self.sums),
            "    }",
            *(f"    {line}" for line in totals),
            "}",
            *(f"if (first) {self.results[k]}[column] = total{k};" for k in self.sums),
        ]
