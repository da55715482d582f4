"""Graph: listing, checking, running, fusing a captured program."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, nn
from tensorgrad.errors import GraphError
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tests.strategies import generators

pytestmark = pytest.mark.quick


def mlp_loss() -> tuple[Tensor, nn.Sequential, Tensor]:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = Tensor(np.ones((5, 3), np.float32), name="x")
    return F.cross_entropy(model(x), [0, 1, 1, 0, 1]), model, x


def test_listing() -> None:
    loss, _, _ = mlp_loss()
    assert str(Graph.of(loss)).splitlines() == [
        "x         leaf                          (5, 3)  float32",
        "0.weight  leaf                          (3, 4)  float32",
        "0.bias    leaf                          (4,)    float32",
        "2.weight  leaf                          (4, 2)  float32",
        "2.bias    leaf                          (2,)    float32",
        "input0    leaf                          (5,)    int64",
        "%0        linear(x, 0.weight, 0.bias)   (5, 4)  float32  y  = x W + b",
        "%1        relu(%0)                      (5, 4)  float32  y  = max(x, 0)",
        "%2        linear(%1, 2.weight, 2.bias)  (5, 2)  float32  y  = x W + b",
        "%3        log_softmax(%2, axis=-1)      (5, 2)  float32  y  = z - log sum e^z",
        "%4        nll_loss(%3, input0)          ()      float32  L  = -1/m sum_i logp[i, t_i]",
        "return %4",
    ]


def test_golden_listing_of_a_fused_step() -> None:
    """The training step of an MLP as one program; a change of engine or fusion that alters it has to say so here."""
    loss, model, _ = mlp_loss()
    names, params = zip(*model.named_parameters(), strict=True)
    gradients = tensorgrad.grad(loss, params, create_graph=True)
    program = [
        line.split("  ")[0] + " = " + line.split("  ", 1)[1].strip() for line in str(Graph.of(*gradients)).splitlines()[:-1]
    ]
    ops = [re.sub(r"\(.*", "", line.split(" = ")[1]) for line in program if line.startswith("%")]
    assert names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert ops == [
        *("linear", "relu", "linear", "log_softmax", "softmax_cross_entropy_grad"),
        *("transpose", "matmul", "transpose", "matmul", "sum"),
        *("relu_grad", "transpose", "matmul", "sum"),
    ]


def test_gradients_of_other_inputs_by_running_the_recorded_program() -> None:
    """Nothing that the backward pass computes from an input is frozen into the program."""
    loss, model, x = mlp_loss()
    params = list(model.parameters())
    graph = Graph.of(*tensorgrad.grad(loss, params, create_graph=True))
    other = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    expected = tensorgrad.grad(F.cross_entropy(model(other), [0, 1, 1, 0, 1]), params)
    for got, g in zip(graph.run({x: other}), expected, strict=True):
        np.testing.assert_allclose(got, g.data, rtol=1e-5, atol=1e-7)  # float32


def test_run_with_other_values() -> None:
    loss, model, x = mlp_loss()
    graph = Graph.of(loss)
    np.testing.assert_array_equal(graph.run()[0], loss.data)
    other = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = F.cross_entropy(model(other), [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(graph.run({x: other})[0], expected.data)
    np.testing.assert_allclose(graph.fused().run({x: other})[0], expected.data, rtol=1e-6)
    assert [n.op.name for n in graph.fused().nodes] == ["linear_relu", "linear", "softmax_cross_entropy"]


def test_outputs_stay_outputs_when_fused() -> None:
    loss, model, x = mlp_loss()
    hidden = model[1](model[0](x))
    z = model[2](hidden)
    loss = F.cross_entropy(z, [0, 1, 1, 0, 1])
    fused = Graph.of(loss, z, hidden).fused()
    for got, expected in zip(fused.run(), (loss, z, hidden), strict=True):
        np.testing.assert_allclose(got, expected.data, rtol=1e-6)


def test_leaf_has_no_graph() -> None:
    x = Tensor([1.0, 2.0], True)
    with pytest.raises(GraphError, match=r"Graph: output 1 \(shape \(2,\)\) is a leaf"):
        Graph.of(x * 2, x)


def test_illegal_nodes_are_found() -> None:
    x, w = Tensor(np.ones((2, 3)), True), Tensor(np.ones((4, 5)), True)
    y = x.exp() * 2
    late = y.node.inputs[0].replaced()
    late.index = y.node.index + 1
    with pytest.raises(GraphError, match=r"Graph: node 0 \(mul\) reads node 1, which comes later"):
        Graph([y.node.replaced(inputs=(late, 2))])
    product = (x @ w.data[:3, :].reshape(3, -1)[:, :5]).node
    with pytest.raises(GraphError, match=r"Graph: node 0 \(matmul\): axis k is 3 in argument 0 \(2, 3\) but 4 in argument 1"):
        Graph([product.replaced(inputs=(x, w))])


@given(rng=generators(), widths=st.lists(st.integers(1, 6), min_size=2, max_size=4), data=st.data())
def test_fused_program_of_drawn_networks(rng: np.random.Generator, widths: list[int], data: st.DataObject) -> None:
    h = Tensor(rng.normal(size=(3, widths[0])))
    for n, m in pairwise(widths):
        w, b = Tensor(rng.normal(size=(n, m)), True), Tensor(rng.normal(size=m), True)
        h = data.draw(st.sampled_from([Tensor.relu, Tensor.sigmoid, Tensor.tanh, lambda z: z]))(h @ w + b)
    loss = F.cross_entropy(h, rng.integers(0, widths[-1], 3))
    fused = Graph.of(loss).fused()
    assert len(fused) == len(widths)
    assert fused.run()[0] == pytest.approx(loss.item(), rel=1e-12, abs=1e-15)
