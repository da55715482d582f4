"""Hypothesis strategies: what to try models, losses and ops with. Needs Hypothesis: pip install hypothesis.

Everything shrinks: shapes to few and short axes, values to 0 and round numbers, networks to few narrow layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tensorgrad import nn
from tensorgrad.core.backend import Array, is_floating
from tensorgrad.core.op import REGISTRY, Op, Sample
from tensorgrad.core.signature import Shape, Signature
from tensorgrad.errors import MissingDependencyError

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise MissingDependencyError(
        "tensorgrad.testing.strategies needs hypothesis, which is not installed; pip install hypothesis"
    ) from error

KINK_MARGIN = 0.05
DIGITS = 100  # values are whole multiples of 1/DIGITS: they read well, and none are nearly equal


def values(
    shape: Shape | st.SearchStrategy[Shape],
    domain: tuple[float, float] = (-2.0, 2.0),
    kinks: Sequence[float] = (),
    on_kinks: bool = False,
) -> st.SearchStrategy[Array]:
    """float64 arrays with two decimals in `domain`, at least 0.05 away from every kink.

    on_kinks  instead put about every second element exactly on a kink
    """
    low, high = math.ceil(domain[0] * DIGITS), math.floor(domain[1] * DIGITS)
    elements = st.integers(low, high).map(lambda k: k / DIGITS)
    if kinks and on_kinks:
        elements = st.sampled_from(list(kinks)) | elements
    elif kinks:
        elements = elements.filter(lambda x: all(abs(x - kink) >= KINK_MARGIN for kink in kinks))
    return hnp.arrays(np.float64, shape, elements=elements, fill=st.nothing())


def shapes(signature: str | Op, sizes: Sequence[int] = (1, 2, 3)) -> st.SearchStrategy[list[Shape]]:
    """Shapes of arguments that fit an op's signature, such as "(m,k),(k,n)->(m,n)"; leading axes broadcast."""
    parsed = signature.parsed if isinstance(signature, Op) else Signature.parse(signature)
    return st.composite(lambda draw: parsed.shapes(Draws(draw), sizes))()  # type: ignore[arg-type]


def broadcastable(count: int = 2, sizes: Sequence[int] = (1, 2, 3)) -> st.SearchStrategy[list[Shape]]:
    """Shapes that broadcast against each other."""
    return shapes(",".join(["()"] * count) + "->()", sizes)


def matmul_shapes(sizes: Sequence[int] = (1, 2, 3)) -> st.SearchStrategy[list[Shape]]:
    """Two shapes that can be multiplied as matrices, with or without leading axes."""
    return shapes("(m,k),(k,n)->(m,n)", sizes)


def dtypes() -> st.SearchStrategy[np.dtype[Any]]:
    """The floating dtypes of Tensors: float32 and float64."""
    return st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])


def arguments(op: Op, sizes: Sequence[int] = (1, 2, 3), on_kinks: bool = False) -> st.SearchStrategy[Sample]:
    """(arguments, attributes) to call a registered op with, from its signature, domain and `sample`.

    on_kinks  put elements on the op's kinks, and make elements equal, for those that compare them
    """

    def draw_them(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Sample:
        args, attrs = op.sample(Draws(draw), sizes)  # type: ignore[arg-type]
        if on_kinks:
            args = tuple(draw(kinky(op, a)) if is_floating(a.dtype) and not op.is_data(i) else a for i, a in enumerate(args))
        return args, attrs

    return st.composite(draw_them)()


def kinky(op: Op, x: Array) -> st.SearchStrategy[Array]:
    """x with about half of its elements on a kink of the op, or equal to one another if it has none of its own."""
    targets = list(op.kinks) or [float(x.flat[0]) if x.size else 0.0]
    masks = hnp.arrays(np.bool_, x.shape, elements=st.booleans(), fill=st.nothing())
    return st.builds(lambda mask, at: np.where(mask, at, x), masks, st.sampled_from(targets))


def labels(count: int | st.SearchStrategy[int], classes: int) -> st.SearchStrategy[Array]:
    """Class indices (count): integers in 0 .. classes-1."""
    return hnp.arrays(np.int64, count, elements=st.integers(0, classes - 1), fill=st.nothing())


def batches(features: int, classes: int, max_rows: int = 5) -> st.SearchStrategy[tuple[Array, Array]]:
    """(x, labels): inputs (m, features), float64, and class indices (m), for 1 to max_rows rows."""
    return st.integers(1, max_rows).flatmap(lambda m: st.tuples(values((m, features)), labels(m, classes)))


def widths(max_width: int = 6, max_layers: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    """Widths of an MLP from its inputs to its outputs, one more than it has layers."""
    return st.lists(st.integers(1, max_width), min_size=2, max_size=max_layers + 1).map(tuple)


# The modules of all activations by the names of their ops; those without kinks come first, and so failures shrink to them
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
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
    """Networks of linear layers with an activation between each two; parameters from a drawn seed.

    features, classes  the first and the last width, where they are given
    """

    def build(sizes: tuple[int, ...], activation: str, seed: int) -> nn.Sequential:
        rng = np.random.default_rng(seed)
        sizes = (features or sizes[0], *sizes[1:-1], classes or sizes[-1])
        layers: list[nn.Module] = []
        for n, m in pairwise(sizes):
            layers += [nn.Linear(n, m, rng=rng), ACTIVATIONS[activation]()]
        return nn.Sequential(*layers[:-1])

    return st.builds(build, widths(max_width, max_layers), st.sampled_from(list(activations)), st.integers(0, 2**16))


def ops(names: Sequence[str] | None = None) -> st.SearchStrategy[Op]:
    """Registered ops that have a gradient and can stand alone; of those named, if any are."""
    chosen = [op for op in REGISTRY.values() if op.backward is not None and not op.calls]
    return st.sampled_from([op for op in chosen if names is None or op.name in names])


class Draws:
    """What `Op.sample` asks of a NumPy generator, answered by Hypothesis, so that the sample shrinks."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw

    def integers(self, low: int, high: int | None = None, size: Any = None) -> Any:
        low, high = (0, low) if high is None else (low, high)
        one = st.integers(int(low), int(high) - 1)
        return self.draw(one if size is None else hnp.arrays(np.int64, size, elements=one, fill=st.nothing()))

    def random(self, size: Any = None) -> Any:
        return self.uniform(0.0, 0.99, size)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None) -> Any:
        found = self.draw(values(() if size is None else size, (low, high)))
        return float(found) if size is None else found

    def choice(self, options: Any, size: Any = None) -> Any:
        options = np.arange(options) if isinstance(options, int) else np.asarray(options)
        return options[self.integers(0, len(options), size)]

    def permutation(self, n: int) -> Array:
        return np.array(self.draw(st.permutations(range(n))), int)
