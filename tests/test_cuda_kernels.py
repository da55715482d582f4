"""CUDA C without a GPU: every source compiled by NVRTC, and chains run on the CPU against formulas in float64."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorgrad import op
from tensorgrad.errors import DTypeError
from tensorgrad.kernels import build
from tensorgrad.kernels.chain import Chain, NotElementwise, Operand, Ref, Sketch, Step, Symbol
from tensorgrad.kernels.cuda import generate, launch
from tests.cuda import nvrtc
from tests.cuda.chains import CHAINS, KERNELS, chain, draw, layered, mask_and_bias_gradient, results_of
from tests.cuda.on_cpu import Module, compiler
from tests.cuda.stand_in import FLOATS, KEEP_MASK, LOG_SOFTMAX, SOFTMAX, cuda_on_cpu, on_device
from tests.strategies import generators

ROWS = st.sampled_from([0, 1, 2, 31, 32, 33, 257, 1000])
COLUMNS = st.sampled_from([1, 2, 9, 10, 31, 32, 33, 65, 130])


# Compiled for GPUs


@pytest.mark.every(3)
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_sources_compile_for(architecture: str) -> None:
    """All that is written by hand and all chains. None of it needs more registers than there are, and memory in their place."""
    chains = [generate.chain_source(of, dict(shared), f"chain_{i}") for i, (of, shared) in enumerate(CHAINS.values())]
    programs = [*SOFTMAX[:2], *LOG_SOFTMAX, KEEP_MASK, generate.program(*[source or "" for source in chains])]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda source: nvrtc.compiled(source, architecture), programs))
    spills = [int(count) for _, log, _ in results for count in re.findall(r"(\d+) bytes spill stores", log)]
    assert spills == [0] * (len(programs) - 1 + len(CHAINS))
    assert all(binary.startswith(b"\x7fELF") for binary, *_ in results)


def test_functions_compile() -> None:
    """Every function in every dtype. Those of a float are the float's own: on most GPUs double ones take 30 times as long."""
    checks = [
        f'static_assert(sizeof({text.format("1.0f", "1.0f")}) == 4, "{name}");'
        for name, (kinds, text) in generate.EXPRESSIONS.items()
        if kinds == "f" and "(" in text
    ]
    assert len(checks) > 20
    wide = generate.chain_source(mask_and_bias_gradient("float32"), {}, wide=True)
    assert wide is not None
    sources = [source for (_, dtype), (source, *_) in TABLE.items() if dtype in (*FLOATS, "int64")]
    nvrtc.compiled(generate.program(*sources, wide, *checks), "sm_90")


@pytest.mark.parametrize("asked", [(), (b"-ftz=false",)])
def test_subnormal_numbers_of_float32_alone_are_flushed(asked: tuple[bytes, ...]) -> None:
    """As in CuPy's own kernels, so that a step and its plan agree: CuPy appends its option to those of a source, and of two the
    compiler takes the last."""
    for real, ending in (("float", ".ftz.f32"), ("double", ".f64")):
        body = "{ x[threadIdx.x] = x[threadIdx.x] * 0.3f + 1; }"
        source = generate.program(f'extern "C" __global__ void f({real}* x) {body}')
        ptx = nvrtc.compiled(source, "sm_90", (*asked, *nvrtc.OPTIONS))[2]
        rounded = [
            line.split()[0] for line in ptx.splitlines() if line.strip().startswith(("fma", "mul.f", "add.f", "mul.ftz"))
        ]
        assert rounded, ptx
        assert all(name.endswith(ending) for name in rounded), rounded


def test_a_broken_source_is_reported() -> None:
    with pytest.raises(nvrtc.CompileError, match=r'kernel.cu\(\d+\): error: identifier "undefined_thing" is undefined'):
        nvrtc.compiled(generate.program('extern "C" __global__ void f(float* x) { x[0] = undefined_thing; }'), "sm_90")
    compiler()
    with pytest.raises(RuntimeError, match=r"g\+\+ refuses the source:(.|\n)*undefined_thing"):
        Module('extern "C" __global__ void f(float* x) { x[0] = undefined_thing; }')


# Functions of chains


def table() -> dict[tuple[str, str], tuple[str, Chain, str]]:
    """For each function and dtype: the source of a chain of it alone, the chain, and what the kernel is called."""
    found = {}
    for function, (kinds, text) in generate.EXPRESSIONS.items():
        count = 1 + max(int(c) for c in text if c.isdigit() and f"{{{c}}}" in text)
        for dtype in (*FLOATS, "int8", "int32", "int64", "uint8", "bool"):
            kind = np.dtype(dtype).kind
            if kind not in kinds:
                continue
            sample = oracle(function)(*[np.ones(1, dtype)] * count)
            step = Step(function, tuple(Ref(i) for i in range(count)), str(sample.dtype))
            alone = Chain((Operand("full", dtype),) * count, (step,), ((count, "full"),))
            source = generate.chain_source(alone, {}, name=f"{function}_of_{dtype}")
            if source is not None:  # a small integer may be computed in float16
                found[function, dtype] = (source, alone, f"{function}_of_{dtype}")
    return found


def oracle(function: str) -> Any:
    own: dict[str, Any] = {
        "where": lambda c, a, b: np.where(c != 0, a, b),
        "relu_grad": lambda g, unit: np.where(unit > 0, g, g.dtype.type(0)),
        "mul_grad": lambda g, d: np.where(g == 0, g.dtype.type(0), g * d),
        "div_grad": lambda g, d: np.where(g == 0, g.dtype.type(0), g / d),
        "erf": lambda x: np.vectorize(math.erf, otypes=[x.dtype])(x),
    }
    return own.get(function) or getattr(np, function)


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 0.5, np.inf, -np.inf, np.nan, 1e30, -1e-30, 100.0])
TABLE = table()


@pytest.fixture(scope="module")
def functions() -> Module:
    return Module(generate.program(*[source for source, *_ in TABLE.values()]))


@pytest.mark.parametrize("function", generate.EXPRESSIONS)
@given(rng=generators())
@settings(max_examples=5)
def test_every_function(functions: Module, function: str, rng: np.random.Generator) -> None:
    """Each function of each dtype against NumPy's, of all pairs of special values too. In float32 what is no arithmetic is
    compared with its value in float64: 4 units in the last place are what NumPy's own float32 functions are allowed."""
    dtypes = [dtype for name, dtype in TABLE if name == function]
    assert dtypes
    for dtype in dtypes:
        _, alone, name = TABLE[function, dtype]
        count = len(alone.operands)
        arrays = special(rng, dtype, count)
        got = np.empty(arrays[0].shape, alone.steps[0].dtype)
        sizes = np.uint32(1), np.uint32(got.size)
        functions.function(name)((2,), (generate.THREADS,), [*arrays, got, *sizes])
        with np.errstate(all="ignore"):
            if dtype == "float32" and function not in ("floor_divide", "remainder"):
                wide = oracle(function)(*[a.astype(np.float64) for a in arrays]).astype(got.dtype)
            else:
                wide = oracle(function)(*arrays)
        assert got.dtype == wide.dtype
        if got.dtype.kind == "f":
            eps = np.finfo(got.dtype).eps
            # where log(e^a + e^b) is near 0 it is the difference of numbers that have been rounded
            absolute = 2 * eps if function == "logaddexp" else np.finfo(got.dtype).tiny
            np.testing.assert_allclose(got, wide, rtol=4 * eps, atol=absolute, err_msg=name)
            if function not in ("maximum", "minimum", "logaddexp"):  # of 0 and -0 NumPy has either
                np.testing.assert_array_equal(np.signbit(got[wide == 0]), np.signbit(wide[wide == 0]), err_msg=name)
        else:
            np.testing.assert_array_equal(got, wide, err_msg=name)


def special(rng: np.random.Generator, dtype: str, count: int) -> list[np.ndarray]:
    """As many arrays, with all combinations of special values and some drawn ones."""
    kind = np.dtype(dtype).kind
    if kind == "f":
        some, drawn = SPECIAL, rng.normal(size=(count, 500)) * rng.choice([0.1, 1, 30], (count, 500))
    elif kind == "b":
        some, drawn = np.array([False, True]), rng.random((count, 100)) < 0.5
    else:
        info = np.iinfo(dtype)
        some = np.array([0, 1, 2, 7, info.min, info.max, *([-1, -3] if kind == "i" else [])], dtype)
        drawn = rng.integers(info.min, info.max, (count, 500), dtype, endpoint=True)
    pairs = np.array(list(product(some, repeat=count)), some.dtype).T
    return [np.concatenate([p, d]).astype(dtype) for p, d in zip(pairs, drawn, strict=True)]


def test_every_op_that_is_a_chain_has_cuda_c() -> None:
    """Whatever the rule of an op writes down for symbols, in float32, is CUDA C."""
    covered = set()
    for (name, known), seed in product(op.REGISTRY.items(), range(4)):  # attributes differ from seed to seed
        args, attrs = known.sample(np.random.default_rng(seed))
        dtypes = ["float32" if np.asarray(a).dtype.kind == "f" else str(np.asarray(a).dtype) for a in args]
        sketch = Sketch(len(args))
        symbols = [Symbol(sketch, i, np.ones(1, dtype)) for i, dtype in enumerate(dtypes)]
        try:
            with np.errstate(all="ignore"):
                result = known.forward(np, *symbols, **attrs)
        except (NotElementwise, AttributeError, TypeError, ValueError, IndexError):
            continue
        if isinstance(result, Symbol) and sketch.steps:
            operands = tuple(Operand("full", dtype) for dtype in dtypes)
            found = Chain(operands, tuple(sketch.steps), ((result.register, "full"),))
            assert generate.chain_source(found, {}) is not None, f"{name}: {[s.function for s in sketch.steps]}"
            covered.add(name)
    assert len(covered) > 45
    assert {"gelu", "elu", "softplus", "mod", "floordiv", "power", "where", "isnan", "logical_not"} <= covered


@pytest.mark.parametrize(
    ("layouts", "formula", "dtypes"),
    [
        ("full", lambda x: (np.exp(x),), "float16"),
        ("full", lambda x: (np.heaviside(x, x),), "float32"),
        ("full full", lambda x, y: (x**y,), "int64"),
        ("full", lambda x: (np.exp(x),), "int8"),  # NumPy computes it in float16
        ("full full", lambda x, y: (x > y,), "int64 uint64"),
        ("full", lambda x: (x < 2**40,), "int32"),
    ],
)
def test_chains_without_cuda_c(layouts: str, formula: Any, dtypes: str) -> None:
    without = chain(layouts, formula, dtypes)
    assert launch.chain_kernel(without) is None
    with pytest.raises(DTypeError, match=r"CudaChain: there is no CUDA C for all of [a-z]+ of [a-z0-9, ]+"):
        launch.CudaChain(without, {})


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "int64", "uint64", "bool"])
def test_numbers_in_sources(dtype: str) -> None:
    """A constant in a source is the number itself, to the last bit; an integer that the dtype does not have is refused."""
    kind = np.dtype(dtype).kind
    info = np.iinfo(dtype) if kind in "iu" else None
    numbers: list[Any] = (
        [0.1, 1e-8, -2.5, 1e30, 1e-45, 16777217.0, np.inf, -np.inf, np.nan, 3] if kind == "f" else [True, False]
    )
    numbers = [0, 1, info.min, info.max] if info else numbers
    typename = generate.TYPES[dtype]
    lines = [f"out[{i}] = {generate.literal(n, np.dtype(dtype))};" for i, n in enumerate(numbers)]
    source = generate.program(f'extern "C" __global__ void numbers({typename}* out)\n{{\n' + "\n".join(lines) + "\n}\n")
    out = np.empty(len(numbers), dtype)
    Module(source).function("numbers")((1,), (1,), [out])
    np.testing.assert_array_equal(out, np.array(numbers, dtype))
    if info:
        with pytest.raises(OverflowError):
            generate.literal(info.max + 1, np.dtype(dtype))


# Chains


def in_float64(of: Chain) -> Chain:
    """The chain with float64 in the place of float32."""
    wide = {"float32": "float64"}
    operands = tuple(Operand(o.layout, wide.get(o.dtype, o.dtype)) for o in of.operands)
    steps = tuple(Step(s.function, s.inputs, wide.get(s.dtype, s.dtype), ("over", "divide", "invalid")) for s in of.steps)
    return Chain(operands, steps, of.results)


def expected_of(of: Chain, operands: list[np.ndarray], shape: tuple[int, int]) -> list[np.ndarray]:
    """The results by NumPy in float64. What is summed comes as the whole, not yet summed."""
    wide = in_float64(of)
    whole = Chain(wide.operands, wide.steps, tuple((r, "full") for r, _ in wide.results))
    results = [np.empty(shape, wide.dtype(r)) for r, _ in wide.results]
    given_as = [a.astype(o.dtype) for a, o in zip(operands, wide.operands, strict=True)]
    with np.errstate(all="ignore"):
        build.numpy_kernel(whole, ())(*given_as, *results, rows=10**6)
    return results


def check(of: Chain, got: list[np.ndarray], expected: list[np.ndarray], columns: int) -> None:
    """64 roundings: the longest of the formulas has about 20 steps, on numbers of which some are near 4. A sum over rows adds
    each number at most 24 times to another before it is in the total."""
    for (_, layout), have, want in zip(of.results, got, expected, strict=True):
        if have.dtype.kind != "f":
            np.testing.assert_array_equal(have, want)
            continue
        eps = np.finfo(have.dtype).eps
        tolerance = 64 * eps * (1 + abs(want))
        if layout == "sum":
            with np.errstate(invalid="ignore"):
                tolerance = (24 * eps * abs(want) + tolerance).sum(0)
                want = want.sum(0)
        with np.errstate(invalid="ignore"):
            wrong = ~((have == want) | (np.isnan(have) & np.isnan(want)) | (abs(have - want) <= tolerance))
        wrong |= np.isinf(want) & (have != want)
        assert not wrong.any(), (have[wrong], want[wrong])


@pytest.mark.parametrize("name", CHAINS)
@given(rng=generators(), rows=ROWS, columns=COLUMNS, special=st.booleans())
@settings(max_examples=15)
@cuda_on_cpu()
def test_chains(name: str, rng: np.random.Generator, rows: int, columns: int, special: bool) -> None:
    """Formulas over rows, columns and numbers, in place where a result is written over an operand, with sums over rows."""
    of, shared = CHAINS[name]
    kernel, shape = KERNELS[name], (rows, columns)
    operands = [on_device(a) for a in draw(rng, name, shape, special)]
    results = [on_device(a) for a in results_of(name, shape)]
    expected = expected_of(of, operands, shape)
    before = [a.copy() for a in operands]
    for k, j in shared:
        results[k] = operands[j]
    kernel(*operands, *results)
    check(of, results, expected, columns)
    for j, (a, b) in enumerate(zip(operands, before, strict=True)):
        assert j in dict(shared).values() or np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


EXACT = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "floor_divide",
    "remainder",
    "negative",
    "absolute",
    "square",
    "sqrt",
    "sign",
    "maximum",
    "minimum",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "equal",
    "not_equal",
    "logical_not",
    "logical_and",
    "logical_or",
    "logical_xor",
    "isnan",
    "isfinite",
    "where",
    "floor",
]


def random_chain(rng: np.random.Generator) -> Chain | None:
    """Five functions of operands of any dtypes and layouts and of numbers, for which NumPy and C round alike; None if NumPy
    does not have them for these dtypes, or CUDA C does not."""
    operands = [Operand("full", str(rng.choice(list(generate.TYPES))))]
    layouts = rng.choice(["full", "row", "column", "number"], 3)
    operands += [Operand(str(layout), str(rng.choice(list(generate.TYPES)))) for layout in layouts]

    def formula(*symbols: Any) -> list[Any]:
        registers = [*symbols]
        for function in rng.choice(EXACT, 5):
            count = 3 if function == "where" else len(getattr(np, function).types[0].partition("->")[0])
            given = [registers[i] for i in rng.integers(0, len(registers), count)]
            if count > 1 and rng.random() < 0.4:
                given[-1] = [2, -3, 1.5, True][rng.integers(4)]
            registers.append(getattr(np, function)(*given))
        return registers[4:]

    try:
        found = Chain.of(formula, operands)
    except (TypeError, OverflowError):
        return None
    return found if launch.chain_kernel(found) else None


def test_random_chains() -> None:
    """Dtypes are promoted, rounded and cast as NumPy does it, to the last bit."""
    rng = np.random.default_rng(5)
    chains = [of for of in (random_chain(rng) for _ in range(150)) if of]
    assert len(chains) > 50
    module = Module(generate.program(*[generate.chain_source(of, {}, f"chain_{i}") or "" for i, of in enumerate(chains)]))
    shapes = {"full": (30, 7), "row": (7,), "column": (30, 1), "number": ()}
    for i, of in enumerate(chains):
        operands = []
        for o in of.operands:
            values = rng.integers(0 if o.dtype[0] in "bu" else -5, 6, shapes[o.layout])
            operands.append(np.asarray(values + 0.25 * (o.dtype[0] == "f")).astype(o.dtype))
        results = [[np.empty((30, 7), of.dtype(r)) for r, _ in of.results] for _ in range(2)]
        with np.errstate(all="ignore"):
            build.numpy_kernel(of, ())(*operands, *results[0], rows=100)
        module.function(f"chain_{i}")((1,), (256,), [*operands, *results[1], np.uint32(30), np.uint32(7)])
        for k, (want, have) in enumerate(zip(*results, strict=True)):
            np.testing.assert_array_equal(have, want, err_msg=f"{of}, result {k}")


@pytest.mark.parametrize("few", [False, True], ids=["blocks", "two blocks"])
@pytest.mark.parametrize("wide", [False, True], ids=["", "64 bits"])
@pytest.mark.parametrize("of", [layered(), CHAINS["layer norm"][0]], ids=["sums", "elements"])
@cuda_on_cpu()
def test_grids_and_positions(monkeypatch: pytest.MonkeyPatch, of: Chain, wide: bool, few: bool) -> None:
    """Threads go round as often as it takes, and positions may have 64 bits."""
    if few:
        monkeypatch.setattr(launch.Function, "resident", lambda self, threads: 2)
    if wide:
        monkeypatch.setattr(launch, "WIDE", 0)
    kernel = launch.chain_kernel(of)
    assert kernel is not None
    rng = np.random.default_rng(1)
    for rows, columns in ((1, 1), (150, 70), (3000, 3)):
        shapes = {"full": (rows, columns), "row": (columns,), "column": (rows, 1), "number": ()}
        operands = [on_device((9 * rng.normal(size=shapes[o.layout])).astype(o.dtype)) for o in of.operands]
        results = [on_device(np.zeros(shapes["full" if x == "full" else "row"], of.dtype(r))) for r, x in of.results]
        kernel(*operands, *results)
        wanted = expected_of(of, operands, (rows, columns))
        for (_, layout), have, want in zip(of.results, results, wanted, strict=True):
            if have.dtype.kind != "f":
                np.testing.assert_array_equal(have, want.sum(0))
                continue
            scale = 64 * np.finfo(np.float32).eps * (81 + abs(want))  # products of numbers of about 9
            total = layout == "sum"
            np.testing.assert_array_less(abs(have - (want.sum(0) if total else want)), scale.sum(0) if total else scale)
