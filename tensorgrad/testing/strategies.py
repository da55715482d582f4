"""Hypothesis strategies for models, losses and ops. Needs Hypothesis: pip install hypothesis.

Everything shrinks: shapes to few and short axes, values to 0 and round numbers, networks to few narrow layers. Examples are
printed as code that recreates them, including weights; paste it below these lines::

    import numpy as np
    from tensorgrad import nn
    from tensorgrad.op import REGISTRY
    from tensorgrad.testing.expressions import Expression
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from tensorgrad import nn
from tensorgrad.core.arguments import integer
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.graph import literal
from tensorgrad.core.op import REGISTRY, Op, Sample
from tensorgrad.core.signature import Shape, Signature
from tensorgrad.core.state import describe
from tensorgrad.errors import ArgumentError, DTypeError, MissingDependencyError
from tensorgrad.kernels import common

try:
    from hypothesis import strategies as st
    from hypothesis.control import current_build_context
    from hypothesis.extra import numpy as hnp
    from hypothesis.vendor.pretty import IDKey
except ModuleNotFoundError as error:
    if error.name != "hypothesis":
        raise
    raise MissingDependencyError(
        "tensorgrad.testing.strategies: needs hypothesis, which is not installed; pip install hypothesis"
    ) from None

with contextlib.suppress(Exception):  # an error in importing Numba is reported where it is used
    # Hypothesis gives an example 200 ms: here the kernels for small models are built, which imports Numba, and not in the first
    for logits in (np.zeros((1, 2), np.float32), np.zeros((1, 2))):
        common.relu_grad(logits, logits)
        if common.log_softmax(logits) is not None:
            common.cross_entropy_grad(logits, np.zeros(1, np.int64), 1.0)

T = TypeVar("T")

KINK_MARGIN = 0.05
DIGITS = 100  # values are multiples of 1/DIGITS: readable, and never nearly equal


def values(
    shape: Shape | st.SearchStrategy[Shape],
    domain: tuple[float, float] = (-2.0, 2.0),
    kinks: Sequence[float] = (),
    on_kinks: bool = False,
) -> st.SearchStrategy[Array]:
    """float64 arrays with two decimals in `domain`, at least 0.05 away from every kink.

    on_kinks  instead put about every second element exactly on a kink
    """
    return in_code(arrays(shape, domain, kinks, on_kinks))


def arrays(
    shape: Shape | st.SearchStrategy[Shape], domain: tuple[float, float], kinks: Sequence[float] = (), on_kinks: bool = False
) -> st.SearchStrategy[Array]:
    """`values` for use in other strategies, without printing as code."""
    shape = tuple(shape) if isinstance(shape, list) else shape
    try:
        low, high = map(float, domain)
        is_range = math.isfinite(low) and math.isfinite(high) and math.ceil(low * DIGITS) <= math.floor(high * DIGITS)
    except (TypeError, ValueError, OverflowError):
        is_range = False
    if not is_range:
        raise ArgumentError(f"values: domain must be two finite numbers with hundredths between them, got {describe(domain)}")
    if not isinstance(kinks, (tuple, list)) or not all(isinstance(k, (int, float)) and math.isfinite(k) for k in kinks):
        raise ArgumentError(f"values: kinks must be a list of finite numbers, got {describe(kinks)}")
    return hundredths(shape, (float(domain[0]), float(domain[1])), tuple(map(float, kinks)), on_kinks)


@functools.lru_cache(1024)  # creating and validating a strategy takes longer than drawing from it
def hundredths(
    shape: Shape | st.SearchStrategy[Shape], domain: tuple[float, float], kinks: tuple[float, ...], on_kinks: bool
) -> st.SearchStrategy[Array]:
    elements = st.integers(math.ceil(domain[0] * DIGITS), math.floor(domain[1] * DIGITS))
    if kinks and on_kinks:
        either = st.sampled_from(kinks) | elements.map(lambda k: k / DIGITS)
        return hnp.arrays(np.float64, shape, elements=either, fill=st.nothing())
    if kinks:
        elements = elements.filter(lambda k: all(abs(k / DIGITS - kink) >= KINK_MARGIN for kink in kinks))
    return divided(hnp.arrays(np.int64, shape, elements=elements, fill=st.nothing()))


@st.composite
def divided(draw: st.DrawFn, numbers: st.SearchStrategy[Array]) -> Array:
    return np.asarray(draw(numbers) / DIGITS)


@functools.lru_cache(1024)
def integers(low: int, high: int, shape: Shape | None = None) -> st.SearchStrategy[Any]:
    """An integer from low to high, or an array of integers."""
    element = st.integers(low, high)
    return element if shape is None else hnp.arrays(np.int64, shape, elements=element, fill=st.nothing())


def shapes(signature: str | Op, sizes: Sequence[int] = (1, 2, 3)) -> st.SearchStrategy[list[Shape]]:
    """Argument shapes that fit an op's signature, such as "(m,k),(k,n)->(m,n)"; leading axes broadcast."""
    if not isinstance(signature, (str, Op)):
        raise DTypeError(f'shapes: signature must be an op or a string such as "(m,k),(k,n)->(m,n)", got {describe(signature)}')
    return fitting(signature.parsed if isinstance(signature, Op) else Signature.parse(signature), sizes)


@st.composite
def fitting(draw: st.DrawFn, signature: Signature, sizes: Sequence[int]) -> list[Shape]:
    return signature.shapes(Draws(draw), sizes)  # type: ignore[arg-type]


def broadcastable(count: int = 2, sizes: Sequence[int] = (1, 2, 3)) -> st.SearchStrategy[list[Shape]]:
    """Shapes that broadcast against each other."""
    count = integer("broadcastable", "count", count, 1)
    return shapes(",".join(["()"] * count) + "->()", sizes)


def matmul_shapes(sizes: Sequence[int] = (1, 2, 3)) -> st.SearchStrategy[list[Shape]]:
    """Two shapes for a matrix product, with or without leading axes."""
    return shapes("(m,k),(k,n)->(m,n)", sizes)


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """The floating dtypes of Tensors: float32 and float64."""
    return in_code(st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)]))


def arguments(op: Op, sizes: Sequence[int] = (1, 2, 3), on_kinks: bool = False) -> st.SearchStrategy[Sample]:
    """(arguments, attributes) for a registered op, from its signature, domain and `sample`.

    on_kinks  put elements on the op's kinks, or make elements equal for ops that compare them
    """
    if not isinstance(op, Op):
        raise DTypeError(f"arguments: op must be an op, such as REGISTRY['exp'], got {describe(op)}")
    return in_code(samples(op, sizes, on_kinks))


@st.composite
def samples(draw: st.DrawFn, op: Op, sizes: Sequence[int], on_kinks: bool) -> Sample:
    args, attrs = op.sample(Draws(draw), sizes)  # type: ignore[arg-type]
    if on_kinks:
        args = tuple(draw(kinky(op, a)) if is_floating(a.dtype) and not op.is_data(i) else a for i, a in enumerate(args))
    return args, attrs


def kinky(op: Op, x: Array) -> st.SearchStrategy[Array]:
    """x with about half of its elements on a kink of the op, or equal to each other if the op has no kinks."""
    targets = list(op.kinks) or [float(x.flat[0]) if x.size else 0.0]
    masks = hnp.arrays(np.bool_, x.shape, elements=st.booleans(), fill=st.nothing())
    return st.builds(lambda mask, at: np.where(mask, at, x), masks, st.sampled_from(targets))


def labels(count: int | st.SearchStrategy[int], classes: int) -> st.SearchStrategy[Array]:
    """Class indices (count): integers in 0 .. classes-1."""
    return in_code(hnp.arrays(np.int64, count, elements=st.integers(0, classes - 1), fill=st.nothing()))


def batches(features: int, classes: int, max_rows: int = 5) -> st.SearchStrategy[tuple[Array, Array]]:
    """(x, labels): inputs (m, features), float64, and class indices (m), for 1 to max_rows rows."""
    return st.integers(1, max_rows).flatmap(lambda m: st.tuples(values((m, features)), labels(m, classes)))


def widths(max_width: int = 6, max_layers: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """Layer widths of an MLP from inputs to outputs, one more than there are layers."""
    return st.lists(st.integers(1, max_width), min_size=2, max_size=max_layers + 1).map(tuple)


# Activation modules by op name; those without kinks come first, so that failures shrink to them
ACTIVATIONS: dict[str, type[nn.Module]] = {
    op.name: getattr(nn, module)
    for op in sorted(REGISTRY.values(), key=lambda op: bool(op.kinks))
    for module in nn.__all__
    if op.activation and module.lower() == op.name.replace("_", "")
}


def mlps(
    max_width: int = 6,
    max_layers: int = 3,
    activations: Sequence[str] = tuple(ACTIVATIONS),
    *,
    features: int | None = None,
    classes: int | None = None,
) -> st.SearchStrategy[nn.Sequential]:
    """Networks of linear layers with activations in between; parameters from a drawn seed, incremented for each layer.

    features, classes  the first and the last width, if given
    """
    unknown = [activations] if isinstance(activations, str) else [a for a in activations if a not in ACTIVATIONS]
    if unknown or not activations:
        valid = ", ".join(ACTIVATIONS)
        raise ArgumentError(f"mlps: activations must be a list of names from {valid}; got {describe(activations)}")
    features = features if features is None else integer("mlps", "features", features, 1)
    classes = classes if classes is None else integer("mlps", "classes", classes, 1)
    width, layers = integer("mlps", "max_width", max_width, 1), integer("mlps", "max_layers", max_layers, 1)
    return networks(width, layers, tuple(activations), features, classes)


@st.composite
def networks(
    draw: st.DrawFn,
    max_width: int,
    max_layers: int,
    activations: Sequence[str],
    features: int | None,
    classes: int | None,
) -> nn.Sequential:
    sizes, activation = draw(widths(max_width, max_layers)), ACTIVATIONS[draw(st.sampled_from(list(activations)))]
    seed = draw(st.integers(0, 2**16))
    sizes = (features or sizes[0], *sizes[1:-1], classes or sizes[-1])
    parts: list[nn.Module] = []
    lines: list[str] = []
    for i, (n, m) in enumerate(pairwise(sizes)):
        parts += [nn.Linear(n, m, rng=np.random.default_rng(seed + i)), activation()]
        lines += [f"nn.Linear({n}, {m}, rng=np.random.default_rng({seed + i}))", f"nn.{activation.__name__}()"]
    code = f"nn.Sequential({', '.join(lines[:-1])})"
    return printed(nn.Sequential(*parts[:-1]), lambda model: code)


def ops(names: Sequence[str] | None = None) -> st.SearchStrategy[Op]:
    """Registered ops that have a gradient and can be used alone; optionally only those in `names`."""
    if names is not None:
        if isinstance(names, str) or not all(isinstance(n, str) for n in (names if isinstance(names, Iterable) else [names])):
            raise DTypeError(f"ops: names must be a list of op names, got {describe(names)}")
        if unknown := [name for name in names if name not in REGISTRY]:
            raise ArgumentError(f"ops: unknown op {unknown[0]!r}; all ops are in tensorgrad.op.REGISTRY")
        if not names:
            raise ArgumentError("ops: names is empty")
    chosen = [op for op in REGISTRY.values() if op.backward is not None and not op.calls]
    return in_code(st.sampled_from([op for op in chosen if names is None or op.name in names]))


@st.composite
def in_code(draw: st.DrawFn, strategy: st.SearchStrategy[T]) -> T:
    """Draw from a strategy such that Hypothesis prints arrays, dtypes and ops as code."""
    value = draw(strategy)
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, Op):
            printed(part, lambda op: f"REGISTRY[{op.name!r}]")
        elif isinstance(part, np.dtype):
            printed(part, lambda dtype: f"np.dtype({dtype.name!r})")
        elif isinstance(part, (np.ndarray, type)):
            printed(part, literal)
        elif isinstance(part, (tuple, list)):
            stack += part
        elif isinstance(part, dict):
            stack += part.values()
    return value


def printed(value: T, code: Callable[[T], str]) -> T:
    """Make Hypothesis print `code(value)` instead of the `repr`.

    It stores such texts for `st.builds`, but prefers the `repr` if that is shorter: "Linear(2, 1)", whatever its weights are.
    """
    try:
        printers = current_build_context().known_object_printers[IDKey(value)]
    except (AttributeError, LookupError, TypeError):  # other versions of Hypothesis print the `repr`
        return value
    printers.append(lambda value, printer, cycle: printer.text(code(value)))
    return value


class Draws:
    """The interface of a NumPy generator for `Op.sample`, backed by Hypothesis, so that samples shrink."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def integers(self, low: int, high: int | None = None, size: Any = None) -> Any:
        low, high = (0, low) if high is None else (low, high)
        return self.draw(integers(int(low), int(high) - 1, tuple(size) if isinstance(size, list) else size))

    def random(self, size: Any = None) -> Any:
        return self.uniform(0.0, 0.99, size)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        values = self.draw(arrays(() if size is None else size, (low, high)))
        return float(values) if size is None else values

    def choice(self, options: Any, size: Any = None) -> Any:
        options = np.arange(options) if isinstance(options, int) else np.asarray(options)
        return options[self.integers(0, len(options), size)]

    def permutation(self, n: int) -> Array:
        return np.array(self.draw(st.permutations(range(n))), int)
