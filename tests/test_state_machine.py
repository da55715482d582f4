"""Random graphs, grown step by step in tensorgrad and in the naive engine: values, gradients, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from scipy import special

import tensorgrad
from tensorgrad import Tensor, fusion
from tensorgrad.errors import GraphError
from tests import naive
from tests.naive import Naive
from tests.strategies import arrays

Pair = tuple[Tensor, Naive]
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (2, 1), (3, 3), (1, 3)])
UNARY: dict[str, tuple[Any, Any]] = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "relu": (lambda x: np.where(x > 0, x, 0), lambda x: (x > 0).astype(float)),
    "__neg__": (lambda x: -x, lambda x: -np.ones_like(x)),
}
BINARY: dict[str, tuple[Any, Any, Any]] = {
    "__add__": (lambda a, b: a + b, lambda a, b: 1.0, lambda a, b: 1.0),
    "__sub__": (lambda a, b: a - b, lambda a, b: 1.0, lambda a, b: -1.0),
    "__mul__": (lambda a, b: a * b, lambda a, b: b, lambda a, b: a),
}


class Engines(RuleBasedStateMachine):
    pairs = Bundle("pairs")

    def __init__(self) -> None:
        super().__init__()
        self.leaves: list[Pair] = []
        self.made: list[Pair] = []

    @initialize(target=pairs, data=st.data())
    def first(self, data: st.DataObject) -> Pair:
        return self.leaf(data)

    def leaf(self, data: st.DataObject) -> Pair:
        values = data.draw(SHAPES.flatmap(lambda shape: arrays(shape, -2, 2)))
        pair = Tensor(values, True), Naive(values.copy())
        self.leaves.append(pair)
        return pair

    @rule(target=pairs, data=st.data())
    def new_leaf(self, data: st.DataObject) -> Pair:
        return self.leaf(data)

    def keep(self, t: Tensor, n: Naive) -> Pair:
        assume(np.abs(n.data).max(initial=0) < 1e6)
        self.made.append((t, n))
        return t, n

    @rule(target=pairs, a=pairs, name=st.sampled_from(sorted(UNARY)))
    def unary(self, a: Pair, name: str) -> Pair:
        return self.keep(getattr(a[0], name)(), naive.unary(a[1], *UNARY[name]))

    @rule(target=pairs, a=pairs, b=pairs, name=st.sampled_from(sorted(BINARY)))
    def binary(self, a: Pair, b: Pair, name: str) -> Pair:
        try:
            np.broadcast_shapes(a[0].shape, b[0].shape)
        except ValueError:
            assume(False)
        return self.keep(getattr(a[0], name)(b[0]), naive.binary(a[1], b[1], *BINARY[name]))

    @rule(target=pairs, a=pairs, b=pairs, bias=pairs, name=st.sampled_from(["tanh", "sigmoid", "relu"]))
    def layer(self, a: Pair, b: Pair, bias: Pair, name: str) -> Any:
        """The pattern that fusion looks for, now and then with something it must not take for a bias; all parts are kept."""
        assume(a[0].ndim == b[0].ndim == 2 and a[0].shape[1] == b[0].shape[0])
        shape = (a[0].shape[0], b[0].shape[1])
        assume(bias[0].shape in [(), (1,), shape[1:], shape])
        product = self.keep(a[0] @ b[0], naive.matmul(a[1], b[1]))
        z = self.binary(product, bias, "__add__")
        h = self.unary(z, name)
        return multiple(product, z, h, self.binary(h, z, "__mul__"), self.binary(h, product, "__add__"))

    @rule(target=pairs, a=pairs, axis=st.sampled_from([None, 0, -1]))
    def total(self, a: Pair, axis: int | None) -> Pair:
        assume(axis is None or a[0].ndim)
        return self.keep(a[0].sum(axis), naive.total(a[1], axis))

    @rule(target=pairs, a=pairs)
    def reshape(self, a: Pair) -> Pair:
        return self.keep(a[0].reshape(-1, 1), naive.reshaped(a[1], (-1, 1)))

    @rule(a=pairs)
    def changing_a_leaf_is_refused(self, a: Pair) -> None:
        if a[0].is_leaf:
            with pytest.raises(GraphError, match="in-place change: this is a leaf"):
                a[0].__iadd__(1.0)

    @rule(a=pairs, data=st.data(), fuse=st.booleans())
    def compare_gradients(self, a: Pair, data: st.DataObject, fuse: bool) -> None:
        seed = data.draw(arrays(a[0].shape, -2, 2))
        expected = a[1].gradients(seed)
        wanted = [pair for pair in (*self.leaves, *self.made) if pair[1] in expected]
        with fusion.on() if fuse else fusion.off():
            got = tensorgrad.grad(a[0], [t for t, _ in wanted], seed, retain_graph=True)
        for (_, n), g in zip(wanted, got, strict=True):
            np.testing.assert_allclose(g.data, expected[n], rtol=1e-9, atol=1e-9 * (1 + np.abs(expected[n]).max(initial=0)))
        with fusion.on() if fuse else fusion.off():
            a[0].backward(seed, retain_graph=True)
        for t, n in self.leaves:
            assert (t.grad is not None) == (n in expected)
            if n in expected:
                np.testing.assert_allclose(
                    t.grad.data, expected[n], rtol=1e-9, atol=1e-9 * (1 + np.abs(expected[n]).max(initial=0))
                )
            t.grad = None

    @invariant()
    def values_agree(self) -> None:
        for t, n in self.made[-1:]:
            np.testing.assert_allclose(t.data, n.data, rtol=1e-12, atol=1e-12)


Engines.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestEngines = Engines.TestCase
