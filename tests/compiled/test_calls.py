"""Every kind of call: what it is written as gives what it computes, and that is what NumPy gives; cut into parts, too."""

from __future__ import annotations

import contextlib
import math
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from tensorgrad import ops
from tensorgrad.compiler import calls
from tensorgrad.compiler.calls import (
    Accumulate,
    AddRows,
    Apply,
    Assign,
    Call,
    ChainCall,
    Copy,
    CrossEntropy,
    Dot,
    Elementwise,
    Matmul,
    Meeting,
    Network,
    Pad,
    Put,
    Reduction,
    TakeRows,
)  # fmt: skip
from tensorgrad.compiler.emit import Emitter
from tensorgrad.compiler.group import grouped, layout
from tensorgrad.compiler.memory import Layout
from tensorgrad.compiler.rows import Loop, Split, Tile
from tensorgrad.compiler.values import Value
from tensorgrad.core.backend import Array
from tensorgrad.errors import LabelError
from tensorgrad.kernels import build, erf, generate, thresholds
from tensorgrad.kernels.chain import Chain, Operand, Ref, Step
from tensorgrad.op import REGISTRY
from tensorgrad.ops import random
from tensorgrad.ops.assign import assign
from tensorgrad.ops.index import AT, lookup, put, scatter
from tests.compiled import NEEDS_NUMBA, kernels, lowered, num_threads

THOROUGH = int(os.environ.get("TENSORGRAD_THOROUGH", "1"))  # so many times as many examples
SPECIAL = np.array([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 1e30, -1e-30])
FLOATS, INTS = "efd", "bBhHiIqQ"
LOWERED = {"SLICE": 6, "CHAIN_THREADS": 25, "ONES_PRODUCT": 12, "DOT": 7, "CLASSES": 3, "PRODUCT": 0}


@contextmanager
def built(numba: bool, low: bool) -> Iterator[None]:
    """With or without Numba; thresholds as shipped, or so low that small arrays cross them, in three threads."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(kernels(numba))
        if low:
            stack.enter_context(lowered(**LOWERED))
            stack.enter_context(num_threads(3))
        build.cross_entropy_kernel.cache_clear()  # it keeps what CLASSES said
        yield
    build.cross_entropy_kernel.cache_clear()


WAYS = list(product((True, False), (True, False)))


def value(array: Array, kind: str = "buffer") -> Value:
    return Value(array.shape, array.dtype, kind, contiguous=bool(array.flags.c_contiguous))


def out(shape: Any, dtype: Any) -> Value:
    return Value(tuple(shape), np.dtype(dtype), "buffer")


def drawn(rng: np.random.Generator, shape: Any, dtype: Any, special: bool = True) -> Array:
    """Numbers of every kind that a dtype has."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        some = rng.choice(np.array([0, 1, 2, 3, info.min, info.max], dtype), shape)
        return np.where(rng.random(shape) < 0.3, some, rng.integers(0, 9, shape).astype(dtype)).astype(dtype)
    with np.errstate(over="ignore"):
        x = np.asarray(rng.normal(size=shape))
        return np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), x).astype(dtype) if special else x.astype(dtype)


def turned(a: Array) -> Array:
    """The same numbers, lying otherwise: every second column of a wider array, from the last row to the first."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]) if a.ndim else (), a.dtype)
    if a.ndim:
        wide[..., ::2] = a[::-1]
        return wide[..., ::2][::-1]
    wide[()] = a
    return wide


def written(call: Call, arrays: dict[Value, Array], shared: dict[int, int], known: bool) -> list[Array]:
    """The results of a call that has been written as Python and run, of arrays that are known when it is written, or given when
    it is run. shared: result to operand in whose memory it lies."""
    arrays = dict(arrays)
    for k, v in enumerate(call.outputs):
        lying = arrays[call.inputs[shared[k]]] if k in shared else np.full(v.shape, 77).astype(v.dtype)
        arrays[v] = lying
    made = [v for v in call.outputs if v.kind == "fresh"]
    for v in made:
        del arrays[v]
    names = {} if known else {v: f"x{i}" for i, v in enumerate(arrays)}
    emitter = Emitter(names, arrays if known else {}, Layout(shared={call: shared} if shared else {}))
    emitter.call(call)
    _, run = emitter.finish(made)
    fresh = run(*([] if known else arrays.values()))
    return [arrays[v] if v in arrays else fresh[made.index(v)] for v in call.outputs]


def assert_same(found: Array, expected: Array, tolerance: float = 0.0) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if found.dtype.kind == "f" and tolerance:
        with np.errstate(all="ignore"):
            sizes = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
        units = tolerance * float(np.finfo(found.dtype).eps)
        np.testing.assert_allclose(found, expected, rtol=units, atol=units * max(sizes.max(initial=0.0), 1.0))
    else:
        np.testing.assert_array_equal(found, expected)


def check(
    call: Call, arrays: dict[Value, Array], expected: list[Array], tolerance: float = 0.0, shared: dict[int, int] | None = None
) -> None:
    """What a call computes is what is expected, and what it is written as gives that, in every way."""
    with np.errstate(all="ignore"):
        operands = [arrays[v] if isinstance(v, Value) else v for v in call.inputs]
        found = call.compute(*operands)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b, tolerance)
        for known in (True, False):
            given = {v: a.copy() if shared and not known else a for v, a in arrays.items()}
            given = {v: np.array(a) for v, a in arrays.items()} if shared else given
            for a, b in zip(written(call, given, shared or {}, known), found, strict=True):
                assert_same(a, b, tolerance)


# Every kind

X, T = np.random.default_rng(0).normal(size=(2, 5, 3)), np.array([0, 2, 1, 1, 0])
LAYERS = [np.random.default_rng(1).normal(size=shape) for shape in ((3, 4), 4, (4, 3), 3)]  # weights and biases
FULL = Operand("full", "float64")
DIFFERENCE = Chain((FULL, FULL), (Step("subtract", (Ref(0), Ref(1)), "float64"),), ((2, "full"),))
Made = tuple[list[Any], list[Value], list[Any]]  # a call's operands, its results, and its nodes
# kind of call: a call of operands with these arrays, and what its result is to be
EXAMPLES: dict[type[Call], tuple[list[Array], Callable[..., Any], Callable[..., Call]]] = {
    Accumulate: ([*X], np.add, lambda *made: Accumulate("add", *made)),
    Apply: ([X[0]], lambda x: x.cumsum(1), lambda *made: Apply(ops.cumsum, {"axis": 1}, *made, 0)),
    Assign: ([X[0]], np.array, lambda *made: Assign("assign", *made)),
    ChainCall: ([*X], np.subtract, lambda *made: ChainCall(DIFFERENCE, X[0].shape, "difference", *made, 0)),
    Copy: ([X[0]], np.array, lambda *made: Copy("copy", *made)),
    CrossEntropy: (
        [X[0], T],
        lambda z, t: np.log(np.exp(z).sum(1) / np.exp(z)[np.arange(5), t]).mean(),
        lambda *made: CrossEntropy(5, *made, 0),
    ),
    Dot: ([*X], lambda a, b: (a * b).sum(), lambda *made: Dot("dot", *made)),
    Elementwise: ([*X], np.subtract, lambda *made: Elementwise("subtract", *made, 0)),
    Meeting: ([X[0]], np.array, lambda *made: Meeting("all_reduce", *made)),  # of one process
    Matmul: ([X[0], X[1].T.copy()], np.matmul, lambda *made: Matmul("matmul", *made)),
    Network: (
        [X[0], T, np.ones(()), *LAYERS],
        lambda x, t, g, w, b, v, c: (lambda z: (np.log(np.exp(z).sum(1)) - z[np.arange(5), t]).mean())(
            np.maximum(x @ w + b, 0) @ v + c
        ),
        lambda *made: Network(*made, 0),
    ),
    Put: (
        [X[0], X[1], T],  # of a row that is named twice the last one stays
        lambda x, v, t: np.array([v[np.flatnonzero(t == i)[-1]] if i in t else x[i] for i in range(5)]),
        lambda *made: Put(assign, {"index": AT}, *made),
    ),
    Reduction: ([X[0]], lambda x: x.sum(0), lambda *made: Reduction("add", (0,), "sum", *made, 0)),
    TakeRows: ([X[0], T], lambda w, t: np.stack([w[i] for i in t]), lambda *made: TakeRows(lookup, {}, *made, 0)),
    Pad: (
        [X[0]],
        lambda x: np.pad(x, ((1, 2), (0, 0)))[:, ::-1],
        lambda *made: Pad(put, {"index": (slice(1, 6), slice(None, None, -1)), "shape": (8, X[0].shape[1])}, *made, 0),
    ),
    AddRows: (
        [X[0], T],
        lambda x, t: np.stack([x[t == i].sum(0) for i in range(7)]),
        lambda *made: AddRows(scatter, {"index": AT, "shape": (7, X[0].shape[1])}, *made, 0),
    ),
}


def test_every_kind_of_call_is_listed_and_has_an_example() -> None:
    modules = [import_module(f"{calls.__name__}.{m.name}") for m in pkgutil.iter_modules(calls.__path__)]
    found = {kind for m in modules for kind in vars(m).values() if isinstance(kind, type) and issubclass(kind, Call)}
    assert {getattr(calls, name) for name in calls.__all__} == found
    assert len(found - {Call}) > 9
    assert EXAMPLES.keys() == found - {Call}


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_every_kind_of_call(kind: type[Call]) -> None:
    """What it computes and what it is written as, whole, in place where it may be, and for some of the samples at a time."""
    arrays, formula, make = EXAMPLES[kind]
    expected = np.asarray(formula(*arrays))
    operands = [argument(a) for a in arrays]
    call = make(operands, [out(expected.shape, expected.dtype)], [])
    assert type(call) is kind
    assert kind.__doc__
    given = dict(zip(operands, arrays, strict=True))
    check(call, given, [expected], 8)
    for j in call.overlays(0):
        check(call, given, [expected], 8, {0: j})
    for a in in_parts(call, given, 5, [0, 2, 5]) or []:
        assert_same(a, expected, 8)


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1, 5), (5, 2, 2), (2, 3, 1), (1, 3, 4), (2, 0, 3), (2, 3, 513)])
@pytest.mark.parametrize("turned", [False, True])
@NEEDS_NUMBA
def test_sums_with_one_row_for_each_of_several_matrices(shape: tuple[int, ...], dtype: str, turned: bool) -> None:
    """The biases of an ensemble, on both sides of where NumPy is left to it; also over the matrices themselves."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape).astype(dtype), rng.normal(size=(shape[0], 1, shape[2])).astype(dtype)
    arrays = [y, x] if turned else [x, y]
    operands = [argument(a) for a in arrays]
    call = Elementwise("add", operands, [out(shape, dtype)], [], x.size)
    given = dict(zip(operands, arrays, strict=True))
    with kernels(numba=True):
        check(call, given, [x + y], 0)
        for j in call.overlays(0):
            check(call, given, [x + y], 0, {0: j})


# Elementwise functions


def functions() -> dict[str, list[tuple[str, str]]]:
    """The functions of NAMESPACE of arrays, with the dtypes that they take and give."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, function in build.NAMESPACE.items():
        if isinstance(function, np.ufunc) and function.nout == 1 and function.signature is None and function.__name__ == name:
            kinds = [tuple(t.split("->")) for t in function.types]
            known = {*FLOATS, *INTS, "?"}
            found[name] = [(a, b) for a, b in kinds if {*a, *b} <= known]  # type: ignore[misc]
    found["where"] = [(f"?{c}{c}", c) for c in "?" + INTS + FLOATS]
    found["relu_grad"] = [(c + c, c) for c in "fd"]
    found["mul_grad"] = found["div_grad"] = [("ff", "f"), ("dd", "d"), ("fd", "d"), ("df", "d"), ("ee", "e"), ("di", "d")]
    found["erf"] = [("f", "f"), ("d", "d")]
    return found


FUNCTIONS = functions()
ORACLES: dict[str, Callable[..., Any]] = {
    "where": lambda c, a, b: np.where(c, a, b),
    "relu_grad": lambda g, unit: np.where(unit > 0, g, np.zeros((), g.dtype)),
    "mul_grad": lambda g, d: np.where(np.equal(g, 0), 0, np.multiply(g, d)),
    "div_grad": lambda g, d: np.where(np.equal(g, 0), 0, np.divide(g, d)),
    "erf": erf.erf,
}
SHAPES = [((3, 4),) * 3, ((),) * 3, ((0, 4),) * 3, ((3, 4), (4,), (3, 1)), ((3, 1), (1, 4), ()), ((2, 3, 5), (3, 5), (5,))]


def test_all_functions_are_there() -> None:
    assert {*generate.EXPRESSIONS} <= {*FUNCTIONS}
    assert len(FUNCTIONS) > 70


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function(function: str) -> None:
    """Of every dtype that it takes, of shapes that are broadcast, of arrays that do not lie row after row, of numbers."""
    rng = np.random.default_rng(0)
    oracle = ORACLES.get(function) or getattr(np, function)
    for i, (takes, gives) in enumerate(FUNCTIONS[function]):
        shifts = "shift" in function or (function in ("power", "float_power") and takes[0] in INTS)
        for shapes in SHAPES if function != "relu_grad" else [SHAPES[0], SHAPES[1], SHAPES[2]]:
            arrays = [drawn(rng, shape, c) for shape, c in zip(shapes, takes, strict=False)]
            if shifts:
                arrays = [a % np.asarray(5, a.dtype) if a.dtype.kind in "iu" else a for a in arrays]
            if (i + len(shapes[0])) % 2:
                arrays = [turned(a) for a in arrays]
            with np.errstate(all="ignore"):
                expected = np.asarray(oracle(*arrays))
            assert expected.dtype.char == np.dtype(gives).char
            values = [value(a) for a in arrays]
            call = Elementwise(function, list(values), [out(expected.shape, gives)], [], 0)
            check(call, dict(zip(values, arrays, strict=True)), [expected])
        if len(takes) == 2 and takes[0] in FLOATS and function != "relu_grad" and takes[1] in FLOATS:
            x = drawn(rng, (3, 4), takes[0])
            for number in (2, 0.5, -0.0, True):
                with np.errstate(all="ignore"):
                    expected = np.asarray(oracle(number, x))
                v = value(x)
                call = Elementwise(function, [number, v], [out(x.shape, expected.dtype)], [], 0)
                check(call, {v: x}, [expected])


def test_errors_that_are_meant_are_quiet_and_others_are_not() -> None:
    x, v = np.zeros(3), Value((3,), np.dtype(float), "buffer")
    with np.errstate(all="raise"):
        quiet = Elementwise("reciprocal", [v], [out((3,), float)], [], 0, ("divide",))
        np.testing.assert_array_equal(written(quiet, {v: x}, {}, True)[0], np.full(3, np.inf))
        np.testing.assert_array_equal(quiet.compute(x)[0], np.full(3, np.inf))
        loud = Elementwise("reciprocal", [v], [out((3,), float)], [], 0)
        with pytest.raises(FloatingPointError):
            written(loud, {v: x}, {}, True)


# Chains


UNARY = ["negative", "absolute", "square", "sqrt", "reciprocal", "exp", "tanh"]
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "relu_grad", "mul_grad", "div_grad"]
COMPARED = ["greater", "less_equal", "equal", "not_equal"]


def random_chain(
    rng: np.random.Generator, shape: tuple[int, ...], dtypes: str, simple: bool
) -> tuple[ChainCall, dict[Value, Array]]:
    """Some functions of arrays that are full, rows, columns and numbers; of what they make some are results, of some the sum.
    simple: those that Numba is for alone."""
    layouts = ["full", "number", *(["row", "column"] if len(shape) > 1 else [])]
    kinds = ["full", *rng.choice(layouts, rng.integers(0, 4))]
    shapes = {"full": shape, "row": shape[-1:], "column": (*shape[:-1], 1), "number": ()}
    arrays = [drawn(rng, shapes[kind], rng.choice([*dtypes]), special=bool(rng.random() < 0.5)) for kind in kinds]
    values = [value(a) for a in arrays]
    samples: list[Array] = [np.ones(1, a.dtype) for a in arrays]
    wide = [kind == "full" for kind in kinds]
    steps: list[Step] = []
    for _ in range(rng.integers(1, 7)):
        i, j = rng.integers(0, len(samples), 2)
        i = int(i) if rng.random() < 0.5 else len(samples) - 1
        operands: list[Any] = [Ref(i)]
        function = str(
            rng.choice([f for f in UNARY if not simple or f in generate.EXPRESSIONS] if rng.random() < 0.4 else BINARY)
        )
        if rng.random() < 0.2:
            function = str(rng.choice(COMPARED))
        if function not in UNARY:
            operands += [Ref(int(j)) if rng.random() < 0.7 else float(rng.choice([0.0, -0.5, 2.0]))]
        taken = [samples[a.register] if isinstance(a, Ref) else a for a in operands]
        alike = all(isinstance(a, np.ndarray) and a.dtype == taken[0].dtype for a in taken) and taken[0].dtype.char in "fd"
        if function == "relu_grad" and not alike:
            continue
        try:
            with np.errstate(all="ignore"):
                made = np.asarray(ORACLES.get(function, getattr(np, function, None))(*taken))
        except TypeError:  # bools have no difference
            continue
        steps.append(Step(function, tuple(operands), str(made.dtype), ("over", "divide", "invalid")))
        samples.append(made)
        wide.append(any(wide[a.register] for a in operands if isinstance(a, Ref)))
    n = len(arrays)
    which = [r for r in range(n, len(samples)) if rng.random() < 0.4 or r == len(samples) - 1]
    results = [(r, "full") for r in which]
    sums = [r for r in range(len(samples)) if wide[r] and samples[r].dtype.char in "fd" and rng.random() < 0.2]
    results += [(r, "sum") for r in sums if len(shape) > 1]
    if not results:
        results = [(0, "sum")] if len(shape) > 1 and samples[0].dtype.char in "fd" else []
    if not results:
        return random_chain(rng, shape, dtypes, simple)
    chain = Chain(tuple(Operand(k, str(a.dtype)) for k, a in zip(kinds, arrays, strict=True)), tuple(steps), tuple(results))
    outputs = [out(shape if x == "full" else shape[-1:], samples[r].dtype) for r, x in results]
    return ChainCall(chain, shape, "chain", list(values), outputs, [], 0), dict(zip(values, arrays, strict=True))


def by_numpy(call: ChainCall, arrays: dict[Value, Array]) -> list[Array]:
    """What a chain is to give, function by function; sums in the highest precision there is."""
    registers: list[Any] = [arrays[v] for v in call.inputs]
    for step in call.chain.steps:
        operands = [registers[a.register] if isinstance(a, Ref) else a for a in step.inputs]
        registers.append(ORACLES.get(step.function, getattr(np, step.function, None))(*operands))
    found = []
    for (register, kind), v in zip(call.chain.results, call.outputs, strict=True):
        whole = np.broadcast_to(registers[register], call.shape)
        total = whole.astype(np.longdouble).sum(tuple(range(whole.ndim - 1)))
        found.append(np.array(whole) if kind == "full" else total.astype(v.dtype))
    return found


def in_place(rng: np.random.Generator, call: ChainCall) -> dict[int, int]:
    """Some results over operands that they may be written over."""
    shared: dict[int, int] = {}
    for k, v in enumerate(call.outputs):
        fitting = [j for j in call.overlays(k) if call.inputs[j].dtype == v.dtype and j not in shared.values()]
        if fitting and rng.random() < 0.7:
            shared[k] = int(rng.choice(fitting))
    return shared


CHAIN_SHAPES = [(1,), (7,), (40,), (1, 1), (5, 1), (1, 7), (6, 7), (13, 3), (2, 3, 4), (3, 1, 5), (0, 3), (0,)]


def compare(call: ChainCall, arrays: dict[Value, Array], shared: dict[int, int]) -> None:
    """Sums are to be right where all is finite: inf - inf may come out in any order."""
    with np.errstate(all="ignore"):
        expected = by_numpy(call, arrays)
    check(call, arrays, expected, 8 + 4 * math.prod(call.shape), shared)


@pytest.mark.parametrize("lowered", [True, False])
@pytest.mark.parametrize("dtypes", ["d", "f", "e", "fd", "?d", "?f", "efq", "q", "bB?"])
def test_chains_by_numpy(dtypes: str, lowered: bool) -> None:
    """Random ones of every shape, with results in the memory of operands; whole, in slices and in threads."""
    rng = np.random.default_rng([*dtypes.encode(), lowered])
    with built(False, lowered):
        for i in range(36 * THOROUGH):
            call, arrays = random_chain(rng, CHAIN_SHAPES[i % len(CHAIN_SHAPES)], dtypes, False)
            compare(call, arrays, in_place(rng, call))


@pytest.mark.parametrize("dtypes", ["d", "f", "?d", "?f"])
def test_chains_by_numba(dtypes: str) -> None:
    """The same by loops that Numba compiles, which takes its time; each for several shapes and both sets of thresholds."""
    pytest.importorskip("numba", reason="needs Numba: pip install numba")
    rng = np.random.default_rng([*dtypes.encode()])
    done = 0
    with kernels(numba=True):
        for _ in range(200 * THOROUGH):
            if done == 3 * THOROUGH:
                return
            shape = [(6, 7), (40,), (2, 3, 4)][done % 3]
            call, arrays = random_chain(rng, shape, dtypes, True)
            if len(call.chain.steps) < 2:
                continue
            kinds = generate.layouts_of(call.chain)
            if build.numba_kernel(call.chain, (), all(x in ("full", "number") for x in kinds)) is None:
                continue
            done += 1
            shared = in_place(rng, call)
            for lowered, other in product((True, False), (shape, (1,) * len(shape), (0, *shape[1:]), (31, *shape[1:]))):
                with built(True, lowered):
                    resized(call, arrays, other, rng)
                    compare(call, arrays, shared)
    pytest.fail(f"only {done} chains that Numba compiles were drawn")


def resized(call: ChainCall, arrays: dict[Value, Array], shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """The same chain of arrays of another shape, in place."""
    shapes = {"full": shape, "row": shape[-1:], "column": (*shape[:-1], 1), "number": (), "sum": shape[-1:]}
    call.shape = shape
    for v, operand in zip(call.inputs, call.chain.operands, strict=True):
        v.shape = shapes[operand.layout]
        arrays[v] = drawn(rng, v.shape, v.dtype, special=bool(rng.random() < 0.5))
    for v, (_, kind) in zip(call.outputs, call.chain.results, strict=True):
        v.shape = shapes[kind]


@pytest.mark.parametrize("longest", [1, 2, 5, 32])
def test_chains_are_what_they_are_made_of(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elementwise calls and column sums, grouped, give what they give one by one."""
    monkeypatch.setattr(thresholds, "CHAIN", longest)
    rng = np.random.default_rng(longest)
    with built(False, True):
        for _ in range(20 * THOROUGH):
            shapes = [(4, 3), (4, 3), (3,), (4, 1), ()]
            arrays = {value(a): a for a in (drawn(rng, shape, float, special=False) for shape in shapes)}
            inputs, calls = list(arrays), []
            for _ in range(rng.integers(3, 14)):
                known = [*inputs, *(c.outputs[0] for c in calls if isinstance(c, Elementwise))]
                operands = [known[-1 - int(i)] for i in rng.integers(0, min(len(known), 6), 2)]
                shape = np.broadcast_shapes(*(v.shape for v in operands))
                calls.append(Elementwise(str(rng.choice(["add", "subtract", "maximum"])), operands, [out(shape, float)], [], 1))
                if shape == (4, 3) and rng.random() < 0.4:
                    calls.append(Reduction("add", (0,), "sum", [calls[-1].outputs[0]], [out((3,), float)], [], 1))
            keep = {c.outputs[0] for c in calls if rng.random() < 0.4} | {calls[-1].outputs[0]}
            plain, chained = dict(arrays), dict(arrays)
            for c in calls:
                plain.update(zip(c.outputs, c.compute(*[plain[v] for v in c.inputs]), strict=True))
            for c in grouped(calls, keep):
                assert len(getattr(getattr(c, "chain", None), "steps", ())) <= longest
                chained.update(zip(c.outputs, written(c, {v: chained[v] for v in c.reads}, {}, True), strict=True))
            for v in keep:
                assert_same(chained[v], plain[v], 100)


def test_sums_of_what_is_written_over_and_of_nothing() -> None:
    """A sum of an operand that a result lies over is that of the operand; over no rows it is 0, in slices too."""
    full = Operand("full", "float64")
    chain = Chain((full,), (Step("negative", (Ref(0),), "float64"),), ((1, "full"), (0, "sum"), (1, "sum")))
    for rows in (0, 3):
        x, first, second = np.arange(2.0 * rows).reshape(rows, 2), np.full(2, np.nan), np.full(2, np.nan)
        expected = x.sum(0)
        build.numpy_kernel(chain, ((0, 0),))(x, x, first, second, rows=4)
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, -expected)


def test_how_a_value_lies_against_a_chain() -> None:
    for shape, whole, expected in [
        ((), (3, 4), "number"), ((3, 4), (3, 4), "full"), ((4,), (3, 4), "row"), ((3, 1), (3, 4), "column"),
        ((1, 1), (3, 4), "number"), ((1, 4), (3, 4), ""), ((3,), (3, 4), ""), ((1, 1, 1), (3, 4), ""), ((4, 4), (4,), ""),
        ((2, 3, 1), (2, 3, 4), "column"), ((4,), (4,), "full"), ((1,), (4,), "number"),
    ]:  # fmt: skip
        assert layout(out(shape, float), whole) == expected, (shape, whole)


# Products


@pytest.mark.parametrize("dtype", ["d", "f", "e", "q", "i", "B", "?"])
def test_products(dtype: str) -> None:
    """Of matrices and rows of matrices, with axes of 0 and 1, turned round, with what is not finite."""
    rng = np.random.default_rng(0)
    sizes = [0, 1, 2, 7]
    shapes = [((m, k), (k, n)) for m, k, n in product(sizes, sizes, sizes)]
    shapes += [
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 1)),
        ((2, 1, 1), (1, 3)),
        ((4,), (4, 2)),
        ((3, 4), (4,)),
        ((4,), (4,)),
        ((1, 1), (1,)),
    ]
    for special, (one, two) in product((False, True), shapes):
        a, b = drawn(rng, one, dtype, special), drawn(rng, two, dtype, special)
        if special:
            a, b = turned(a), turned(b.T).T
        with np.errstate(all="ignore"):
            expected = np.asarray(np.matmul(a, b))
        x, y = value(a), value(b)
        check(Matmul("matmul", [x, y], [out(expected.shape, dtype)], [], 0), {x: a, y: b}, [expected], 8)


@pytest.mark.parametrize("lowered", [True, False])
@pytest.mark.parametrize("dtype", ["d", "f"])
def test_sums_of_products(dtype: str, lowered: bool) -> None:
    rng = np.random.default_rng(0)
    at = LOWERED["DOT"] if lowered else thresholds.DOT
    with built(True, lowered):
        for shape in [(0,), (1,), (), (3, 4), *[(at + i,) for i in (-1, 0, 1)], (2 * at,), (2 * at + 1,)]:
            a, b = drawn(rng, shape, dtype, False), drawn(rng, shape, dtype, False)
            exact = np.asarray(math.fsum((a.astype(float) * b.astype(float)).reshape(-1).tolist()), dtype)
            x, y = value(a), value(b)
            check(Dot("dot", [x, y], [out((), dtype)], [], 0), {x: a, y: b}, [exact], 4 * max(a.size, 1) ** 0.5)
            check(Dot("dot", [x, x], [out((), dtype)], [], 0), {x: a}, [np.asarray((a.astype(float) ** 2).sum(), dtype)], 1e3)


# Reductions


@pytest.mark.parametrize("function", ["add", "maximum", "minimum"])
def test_reductions(function: str) -> None:
    """Over every choice of axes, of every dtype, of arrays that do not lie row after row."""
    rng = np.random.default_rng(0)
    oracle = {"add": np.sum, "maximum": np.max, "minimum": np.min}[function]
    for dtype, shape in product("fdqQ" if function == "add" else "fd?" + INTS, [(5,), (3, 4), (2, 1, 5), (1, 1), (40, 3)]):
        for axes in [(0,), (len(shape) - 1,), tuple(range(len(shape))), tuple(range(len(shape) - 1))]:
            for lay in (np.array, turned):
                x = lay(drawn(rng, shape, dtype))
                with np.errstate(all="ignore"):
                    expected = np.asarray(oracle(x, axis=axes))
                v = value(x)
                call = Reduction(function, axes, function, [v], [out(expected.shape, dtype)], [], 0)
                assert call.is_column_sum == (
                    function == "add" and axes == tuple(range(len(shape) - 1)) and x.flags.c_contiguous
                )
                check(call, {v: x}, [expected])


@pytest.mark.parametrize("char", "fd")
def test_sums_over_short_rows(char: str) -> None:
    """Below, at and above the width up to which a kernel does it, and of rows with gaps, for which NumPy does."""
    rng, at = np.random.default_rng(0), thresholds.ROW_SUM
    shapes = [(1, 1), (3, 2), (5, 3), (2, 4), (7, 5), (3, at - 1), (3, at), (3, at + 1), (2, 3, 9), (1, 2, 3, 4)]
    for shape in [*shapes, (4, 0), (0, 4), (6,)]:
        whole = rng.normal(size=(*shape[:-1], 2 * shape[-1])).astype(char)
        for x in (whole[..., : shape[-1]].copy(), whole[..., ::2]):
            value = argument(x)
            value.contiguous = bool(x.flags.c_contiguous)
            call = Reduction("add", (x.ndim - 1,), "sum", [value], [out(shape[:-1], x.dtype)], [], 0)
            assert call.is_row_sum == (value.contiguous and 0 < shape[-1] <= at and x.size > 0)
            check(call, {value: x}, [np.asarray(x.astype("d").sum(-1), char)], 64)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 2), (5, 0), (5, 1)], ids=str)
@pytest.mark.parametrize("numba", [True, False])
def test_rows_of_tables_of_any_axes(shape: tuple[int, ...], numba: bool) -> None:
    rng = np.random.default_rng(0)
    w, t = rng.normal(size=shape), rng.integers(0, 5, (2, 4))
    x = rng.normal(size=(*t.shape, *shape[1:]))
    total = np.zeros(shape)
    np.add.at(total, t, x)
    take = TakeRows(lookup, {}, [argument(w), argument(t)], [out((*t.shape, *shape[1:]), w.dtype)], [], 0)
    add = AddRows(scatter, {"index": AT, "shape": shape}, [argument(x), argument(t)], [out(shape, w.dtype)], [], 0)
    with kernels(numba):
        check(take, dict(zip(take.inputs, (w, t), strict=True)), [w[t]], 0)
        check(add, dict(zip(add.inputs, (x, t), strict=True)), [total], 8)


@pytest.mark.parametrize("char", "fd")
@pytest.mark.parametrize("wrong", [-1, 5, -6, 2**40])
def test_rows_outside_of_tables(char: str, wrong: int) -> None:
    """Rows are taken from the front alone, and added from both ends."""
    w, t = np.ones((5, 3), char), np.array([0, 4, wrong])
    x, attrs = np.ones((3, 3), char), {"index": AT, "shape": (5, 3)}
    take = TakeRows(lookup, {}, [argument(w), argument(t)], [out((3, 3), w.dtype)], [], 0)
    add = AddRows(scatter, attrs, [argument(x), argument(t)], [out((5, 3), w.dtype)], [], 0)
    for call, arrays, error in ((take, (w, t), LabelError), (add, (x, t), IndexError)):
        given = dict(zip(call.inputs, arrays, strict=True))
        if wrong == -1 and call is add:
            check(call, given, [np.array([[1] * 3, [0] * 3, [0] * 3, [0] * 3, [2] * 3], char)], 1)
            continue
        for numba in (False, True):
            with kernels(numba), pytest.raises(error, match=f"{wrong} is out of"):
                check(call, given, [np.empty(0)], 1)


# Cross-entropy


@pytest.mark.parametrize(("numba", "lowered"), WAYS)
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_cross_entropy(dtype: str, numba: bool, lowered: bool) -> None:
    """Loss and gradient against the formula in float64; one class, one sample, none; labels of every dtype, with more axes."""
    rng = np.random.default_rng(0)
    at = LOWERED["CLASSES"] if lowered else thresholds.CLASSES
    shapes = [(5, 1), (1, 4), (0, 3), (4, at), (4, at + 1), (2, 3, 4), (2, 1, 3)]
    for i, shape in enumerate(shapes):
        for seeded in (False, True):
            z, t = (5 * rng.normal(size=shape)).astype(dtype), rng.integers(0, shape[-1], shape[:-1]).astype("bBhiqQ"[i % 6])
            samples = math.prod(shape[:-1]) + 2
            wide = z.astype(float)
            top = wide - wide.max(-1, keepdims=True)
            logp = top - np.log(np.exp(top).sum(-1, keepdims=True))
            hot = np.eye(shape[-1])[t.astype(int)]
            loss = np.asarray(-(logp * hot).sum() / samples, dtype)
            dz = (np.float64(1.5) * (np.exp(logp) - hot) / samples).astype(dtype)
            vz, vt, vg = value(z), value(t), out((), dtype)
            outputs = [out((), dtype), out(shape, dtype)][: 1 + seeded]
            call = CrossEntropy(samples, [vz, vt, vg][: 2 + seeded], outputs, [], 0)
            arrays = {vz: z, vt: t} | ({vg: np.asarray(1.5, dtype)} if seeded else {})
            with built(numba, lowered):
                check(call, arrays, [loss, dz][: 1 + seeded], 60)
                if shape[0]:
                    wrong = {**arrays, vt: np.full(t.shape, shape[-1], t.dtype)}
                    with pytest.raises(LabelError, match=f"label {shape[-1]} is out of range"):
                        written(call, wrong, {}, True)
                    with pytest.raises(LabelError, match=f"label {shape[-1]} is out of range"):
                        call.compute(*[wrong[v] for v in call.inputs])


@pytest.mark.parametrize("numba", [True, False])
def test_cross_entropy_of_what_is_not_finite(numba: bool) -> None:
    z = np.array([[0, 1, -np.inf], [np.nan, 0, 0], [2, 2, 2], [np.inf, 0, 0], [-np.inf] * 3, [-0.0, 1e30, 0], [700, -700, 0]])
    t = np.array([0, 1, 2, 0, 1, 1, 0])
    with np.errstate(all="ignore"):
        top = z - z.max(1, keepdims=True)
        dz = (np.exp(top) / np.exp(top).sum(1, keepdims=True) - np.eye(3)[t]) / 7
    vz, vt, vg = value(z), value(t), out((), float)
    call = CrossEntropy(7, [vz, vt, vg], [out((), float), out(z.shape, float)], [], 0)
    with built(numba, False):
        check(call, {vz: z, vt: t, vg: np.ones(())}, [np.asarray(np.nan), dz], 8)


# Moves


def test_moves() -> None:
    """Of every dtype, however it lies; to memory that does not lie row after row; added up where it is."""
    rng = np.random.default_rng(0)
    for dtype, shape in product("?" + INTS + FLOATS, [(), (0,), (5,), (3, 4)]):
        x = drawn(rng, shape, dtype)
        for lying in (x, turned(x), np.broadcast_to(x, (2, *shape))):
            v = value(lying)
            check(Copy("copy", [v], [out(lying.shape, dtype)], []), {v: lying}, [np.array(lying)])
            target = turned(np.zeros(lying.shape, dtype))
            to = Value(lying.shape, np.dtype(dtype), "outside", target)
            emitter = Emitter({}, {v: lying}, Layout())
            emitter.call(Assign("assign", [v], [to], []))
            emitter.finish([])[1]()
            np.testing.assert_array_equal(target, lying)
        if dtype in "fd":
            total, part = drawn(rng, shape, dtype), drawn(rng, shape, dtype)
            a, b = value(total), value(part)
            with np.errstate(all="ignore"):
                check(
                    Accumulate("add", [a, b], [out(shape, dtype)], []),
                    {a: total, b: part},
                    [np.asarray(total + part)],
                    0,
                    {0: 0},
                )


# Operations as they are


APPLIED = {
    "softmax": {"axis": -1}, "log_softmax": {"axis": 0}, "cumsum": {"axis": 1}, "inv": {}, "cholesky": {},
    "one_hot": {"classes": 4, "dtype": np.dtype(np.float64)},
}  # fmt: skip


@pytest.mark.parametrize("name", APPLIED)
@pytest.mark.parametrize("held", [True, False])
def test_operations_as_they_are(name: str, held: bool) -> None:
    """Into an array that they make, and into one that is there."""
    rng = np.random.default_rng(0)
    op, attrs = REGISTRY[name], APPLIED[name]
    x = rng.normal(size=(4, 4)) @ np.diag([1, 2, 3, 4.0])
    x = x @ x.T if name == "cholesky" else rng.integers(0, 4, 4) if name == "one_hot" else x
    for lying in (x, turned(x)):
        v = value(lying)
        expected = np.asarray(op.forward(np, lying, **attrs))
        made = Value(expected.shape, expected.dtype, "buffer" if held else "fresh")
        check(Apply(op, attrs, [v], [made], [], 0), {v: lying}, [expected])


def test_what_is_drawn() -> None:
    """The numbers that the generator gives, the next ones each time."""
    x, rng, again = np.ones((4, 5)), np.random.default_rng(3), np.random.default_rng(3)
    v = value(x)
    call = Apply(random.keep_mask, {"p": 0.5, "rng": rng}, [v], [out(x.shape, bool)], [], 0)
    assert call.draws
    assert not Apply(ops.softmax, {"axis": -1}, [v], [v], [], 0).draws
    for made in (written(call, {v: x}, {}, True), call.compute(x), written(call, {v: x}, {}, False)):
        np.testing.assert_array_equal(made[0], again.random((4, 5), np.float32) >= 0.5)


# Parts of the samples


def in_parts(call: Call, arrays: dict[Value, Array], samples: int, ends: list[int]) -> list[Array] | None:
    """The results of a call done for some of the samples at a time, sums being added up; None where it cannot be cut."""
    split = Split([call], samples)
    if not split.loop:
        return None
    loop = Loop(split, {*call.outputs})
    found = [np.full(v.shape, 77).astype(v.dtype) if v in split.has_rows else np.zeros(v.shape, v.dtype) for v in call.outputs]
    assert {*loop.totals} | {*loop.spread} == {*call.outputs}
    for start, stop in pairwise(ends):
        narrow = Tile(loop, stop - start)
        (part,) = narrow.calls
        given = {narrow.value(v): a[start:stop] if split.rows(v) else a for v, a in arrays.items()}
        made = {}
        for v, whole in zip(call.outputs, found, strict=True):
            there = whole[start:stop] if v in split.has_rows else np.full(v.shape, 77).astype(v.dtype)
            made[narrow.value(v)] = there
        emitter = Emitter({v: f"x{i}" for i, v in enumerate(given)}, made, Layout())
        emitter.call(part)
        emitter.finish([])[1](*given.values())
        for v, whole in zip(call.outputs, found, strict=True):
            if v not in split.has_rows:
                whole += made[narrow.value(v)]
    return found


def argument(a: Array) -> Value:
    return Value(a.shape, a.dtype, "argument")


def transposed(v: Value) -> Value:
    return Value(v.shape[::-1], v.dtype, "view", None, v, lambda a, shape: a.transpose(1, 0), "transpose", False)


def calls_to_cut(rng: np.random.Generator) -> Iterator[tuple[Call, dict[Value, Array], int]]:
    """Calls of arguments and of arrays from outside, whose sizes meet by chance: calls, arrays, and how many samples."""
    n = int(rng.integers(2, 5))

    def given(*shape: int) -> tuple[Value, Array]:
        a = rng.normal(size=shape)
        return (argument(a) if rng.random() < 0.6 else value(a, "outside")), a

    sizes = lambda count: tuple(int(k) for k in rng.choice([n, n, 1, 2, 3], count))  # noqa: E731
    # products
    k = int(rng.choice([n, 3]))
    for one, two in [
        ((n, k), (k, 2)),
        ((n,), (n, k)),
        ((n, k), (k,)),
        ((n, 2, k), (k, 3)),
        ((n, k), (n, k, 2)),
        ((n, 2, n), (n, n, 3)),
    ]:
        (a, x), (b, y) = given(*one), given(*two)
        yield Matmul("matmul", [a, b], [out(np.matmul(x, y).shape, float)], [], 1), {a: x, b: y}, n
    for two in [(n, 2), (n,), (n, n, 2)]:
        (a, x), (b, y) = given(n, k), given(*two)
        if two[-2:-1] != (n,) and len(two) > 1:
            continue
        yield Matmul("matmul", [transposed(a), b], [out(np.matmul(x.T, y).shape, float)], [], 1), {a: x, b: y}, n
    shape = (n, *sizes(int(rng.integers(0, 3))))
    (a, x), (b, y) = given(*shape), given(*shape)
    yield Dot("dot", [a, b], [out((), float)], [], 1), {a: x, b: y}, n
    # elementwise
    one, two = sizes(int(rng.integers(1, 4))), sizes(int(rng.integers(0, 4)))
    try:
        shape = np.broadcast_shapes(one, two)
        (a, x), (b, y) = given(*one), given(*two)
        yield Elementwise("subtract", [a, b], [out(shape, float)], [], 1), {a: x, b: y}, n
    except ValueError:
        pass
    # reductions, moves, operations, losses
    shape = (n, *sizes(int(rng.integers(0, 3))))
    (a, x), function = given(*shape), str(rng.choice(["add", "maximum"]))
    axes = tuple(sorted({int(i) for i in rng.integers(0, len(shape), 2)}))
    made = out(np.add.reduce(x, axes).shape, float)
    yield Reduction(function, axes, function, [a], [made], [], 1), {a: x}, n
    yield Copy("copy", [a], [out(shape, float)], []), {a: x}, n
    axis = int(rng.integers(-len(shape), len(shape)))
    yield Apply(ops.softmax, {"axis": axis}, [a], [out(shape, float)], [], 1), {a: x}, n
    yield Apply(ops.cumsum, {"axis": 0}, [a], [out(shape, float)], [], 1), {a: x}, n
    t = rng.integers(0, 3, (n, *sizes(1)))
    labels = argument(t)
    attrs = {"classes": 3, "dtype": np.dtype(float)}
    yield Apply(REGISTRY["one_hot"], attrs, [labels], [out((*t.shape, 3), float)], [], 1), {labels: t}, n
    z = rng.normal(size=(*t.shape, 3))
    vz, seed = argument(z), out((), float)
    loss = CrossEntropy(t.size, [vz, labels, seed], [out((), float), out(z.shape, float)], [], 1)
    yield loss, {vz: z, labels: t, seed: np.asarray(1.5)}, n
    # chains
    call, arrays = random_chain(rng, (n, *sizes(int(rng.integers(1, 3)))), "d", False)
    renamed = {v: argument(arrays[v]) if v.shape[:1] == (n,) and rng.random() < 0.8 else v for v in call.inputs}
    call.inputs = [renamed[v] for v in call.inputs]
    yield call, {renamed[v]: a for v, a in arrays.items()}, n


def test_parts_of_the_samples() -> None:
    """Where a call says that it can be done for some of the samples at a time, that gives the whole, however they are cut: of
    every kind, with arrays whose first axes are as long as that of the samples by chance."""
    cut: dict[str, int] = {}
    whole: dict[str, int] = {}
    with built(False, True), np.errstate(all="ignore"):
        for seed in range(60 * THOROUGH):
            rng = np.random.default_rng(seed)
            for call, arrays, n in calls_to_cut(rng):
                resolved = {v: arrays[v] if v in arrays else v.make_view(arrays[v.base], v.shape) for v in call.reads}
                expected = call.compute(*[resolved[v] if isinstance(v, Value) else v for v in call.inputs])
                kind = type(call).__name__
                for ends in ([0, n], [0, 1, n], [*range(n + 1)]):
                    found = in_parts(call, arrays, n, ends)
                    whole[kind] = whole.get(kind, 0) + (found is None)
                    cut[kind] = cut.get(kind, 0) + (found is not None)
                    for a, b in zip(found or [], expected, strict=False):
                        assert_same(a, b, 1e3)
    assert {"Matmul", "Dot", "Elementwise", "Reduction", "Copy", "Apply", "CrossEntropy", "ChainCall"} == {
        k for k in cut if cut[k]
    }
    assert {"Matmul", "Elementwise", "Reduction", "Apply", "ChainCall"} <= {k for k in whole if whole[k]}
