"""The reverse walk: sums over uses, what is kept and let go of, what is refused."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.errors import GraphError, ShapeError

pytestmark = pytest.mark.quick


def leaf(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(len(shape)).normal(size=shape), True)


def test_uses_add_up() -> None:
    x = Tensor([3.0], True)
    y = x * x
    (y * y + y + x).sum().backward()  # x^4 + x^2 + x
    np.testing.assert_allclose(x.grad.data, [4 * 27 + 6 + 1])


def test_backward_adds_to_grad() -> None:
    x = Tensor([2.0], True)
    for expected in (4.0, 8.0, 12.0):
        (x * x).sum().backward()
        assert x.grad.item() == expected


def test_gradients_handed_out_share_no_memory() -> None:
    a, b = leaf(2, 3), leaf(2, 3)
    seed = np.ones((2, 3))
    (a + b).backward(seed)
    c = leaf(2, 3)
    c.T.backward(seed.T)
    arrays = [a.grad.data, b.grad.data, c.grad.data, seed]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])


def test_second_backward_is_refused_and_named() -> None:
    x = leaf(2)
    y = (x.exp() * x).sum()
    y.backward()
    with pytest.raises(GraphError, match=r"backward: the graph has been freed: .*sum \(\).*retain_graph=True"):
        y.backward()
    np.testing.assert_allclose(x.grad.data, np.exp(x.data) * (1 + x.data))


def test_shared_part_of_two_losses_is_refused_the_second_time() -> None:
    x = leaf(2)
    h = x.exp()
    first, second = h.sum(), (h * h).sum()
    first.backward()
    with pytest.raises(GraphError, match="exp"):
        second.backward()


def test_retain_graph() -> None:
    x = leaf(3)
    y = (x.exp() * x).sum()
    y.backward(retain_graph=True)
    once = x.grad.data.copy()
    y.backward()
    np.testing.assert_allclose(x.grad.data, 2 * once)


def test_backward_lets_go_of_intermediates() -> None:
    x = leaf(4, 4)
    h = x.exp()
    array = weakref.ref(h._data)
    y = (h * h).sum()
    del h
    assert array() is not None
    y.backward()
    gc.collect()
    assert array() is None


def test_no_reference_cycles() -> None:
    """Graphs die by reference counting alone."""
    gc.collect()
    gc.disable()
    try:
        x = leaf(3)
        y = (x.exp() * x).sum()
        (g,) = tensorgrad.grad(y, x, create_graph=True)
        (g * g).sum().backward()
        node = weakref.ref(y.node)
        del x, y, g
        assert node() is None
    finally:
        gc.enable()


def test_non_scalar_needs_a_gradient() -> None:
    with pytest.raises(GraphError, match=r"backward: the Tensor has shape \(3,\).*\.sum\(\) or \.mean\(\)"):
        leaf(3).exp().backward()


def test_gradient_of_the_wrong_shape() -> None:
    with pytest.raises(ShapeError, match=r"backward: the gradient has shape \(2,\), expected \(3,\)"):
        leaf(3).exp().backward(np.ones(2))


def test_nothing_to_differentiate() -> None:
    with pytest.raises(GraphError, match=r"backward: this Tensor \(shape \(2,\)\) was not computed from anything"):
        (Tensor([1.0, 2.0]) * 2).backward()
    x = leaf(2)
    with tensorgrad.no_grad():
        y = x * 2
    with pytest.raises(GraphError, match="was not computed from anything"):
        y.backward()
    with pytest.raises(GraphError, match="was not computed from anything"):
        (x.detach() * 2).sum().backward()


def test_no_grad_as_decorator() -> None:
    @tensorgrad.no_grad()
    def double(x: Tensor) -> Tensor:
        return x * 2

    assert double(leaf(2)).is_leaf
    assert not (leaf(2) * 2).is_leaf


def test_grad_of_leaves_and_intermediates() -> None:
    x = leaf(3)
    h = x.exp()
    y = (h * h).sum()
    gh, gx = tensorgrad.grad(y, (h, x))
    np.testing.assert_allclose(gh.data, 2 * h.data)
    np.testing.assert_allclose(gx.data, 2 * h.data**2)
    assert x.grad is None


def test_grad_of_what_was_not_used() -> None:
    x, other = leaf(2), leaf(2)
    with pytest.raises(GraphError, match=r"grad: the output was not computed from input 1 \(shape \(2,\)\)"):
        tensorgrad.grad(x.sum(), (x, other))
    with pytest.raises(GraphError, match=r"grad: input 0 .* does not require a gradient"):
        tensorgrad.grad(x.sum(), Tensor([1.0]))


def test_third_order() -> None:
    x = Tensor(np.array([0.3, -1.2]), True)
    y = x.sigmoid()
    for _ in range(2):
        (y,) = tensorgrad.grad(y.sum(), x, create_graph=True)
    (third,) = tensorgrad.grad(y.sum(), x)
    s = 1 / (1 + np.exp(-x.data))
    np.testing.assert_allclose(third.data, s * (1 - s) * (1 - 6 * s + 6 * s * s), rtol=1e-12)


def test_create_graph_keeps_the_graph_and_records_grad() -> None:
    x = leaf(2)
    y = (x * x * x).sum()
    y.backward(create_graph=True)
    np.testing.assert_allclose(x.grad.data, 3 * x.data**2)
    g, x.grad = x.grad, None
    g.sum().backward()
    np.testing.assert_allclose(x.grad.data, 6 * x.data)


def test_float32_leaf_in_a_float64_expression() -> None:
    x = Tensor([1.0, 2.0], True)
    (x * np.array([3.0, 4.0])).sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.data, [3, 4])


def test_deep_chain_and_wide_sharing() -> None:
    """Neither recursion nor a walk over every path."""
    x = Tensor(np.array(1.0), True)
    y = x
    for _ in range(20_000):
        y = y + 1
    for _ in range(60):
        y = y * 0.5 + y * 0.5  # 2^60 paths
    y.backward()
    assert x.grad.item() == pytest.approx(1.0)
    del y


def test_retain_grad() -> None:
    x = leaf(2)
    h = x * 2
    h.retain_grad()
    (h * h).sum().backward()
    np.testing.assert_allclose(h.grad.data, 2 * h.data)
    with pytest.raises(GraphError, match="retain_grad: this Tensor does not require a gradient"):
        Tensor([1.0]).retain_grad()


def test_switches_belong_to_their_thread() -> None:
    import threading

    recorded = []
    with tensorgrad.no_grad():
        thread = threading.Thread(target=lambda: recorded.append(not (leaf(2) * 2).is_leaf))
        thread.start()
        thread.join()
    assert recorded == [True]
